package policy

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// digits reads a whole number without sign or leading zeros.
func digits(s string) (int64, bool) {
	if s == "" || len(s) > 1 && s[0] == '0' || strings.Trim(s, "0123456789") != "" {
		return 0, false
	}
	n, err := strconv.ParseInt(s, 10, 64)
	return n, err == nil
}

func numberIn(v string, least, most int64) (n int64, lack string) {
	n, ok := digits(v)
	if !ok || n < least || n > most {
		return 0, fmt.Sprintf("write a whole number from %d to %d", least, most)
	}
	return n, ""
}

var octetUnits = []struct {
	name string
	size int64
}{{"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}, {"B", 1}, {"", 1}}

func octetsIn(v string, least, most int64) (n int64, lack string) {
	for _, u := range octetUnits {
		number, ok := strings.CutSuffix(v, u.name)
		if n, isNumber := digits(number); ok && isNumber && n <= most/u.size && n*u.size >= least {
			return n * u.size, ""
		}
	}
	return 0, fmt.Sprintf("write a size from %s to %s, such as 512 or 16KiB", formatOctets(least), formatOctets(most))
}

func formatOctets(n int64) string {
	for _, u := range octetUnits {
		if n >= u.size && n%u.size == 0 && u.name != "B" {
			return strconv.FormatInt(n/u.size, 10) + u.name
		}
	}
	return strconv.FormatInt(n, 10)
}

var spanUnits = []struct {
	name string
	size time.Duration
}{{"d", 24 * time.Hour}, {"h", time.Hour}, {"m", time.Minute}, {"s", time.Second}}

func spanIn(v string, least, most time.Duration) (d time.Duration, lack string) {
	for _, u := range spanUnits {
		number, ok := strings.CutSuffix(v, u.name)
		n, isNumber := digits(number)
		if d := time.Duration(n) * u.size; ok && isNumber && n <= int64(most/u.size) && d >= least {
			return d, ""
		}
	}
	if v == "0" && least == 0 {
		return 0, ""
	}
	return 0, fmt.Sprintf("write a time from %s to %s, such as 30s, 20m, 12h or 7d", formatSpan(least), formatSpan(most))
}

func formatSpan(d time.Duration) string {
	for _, u := range spanUnits {
		if d >= u.size && d%u.size == 0 {
			return strconv.FormatInt(int64(d/u.size), 10) + u.name
		}
	}
	return "0"
}

func number64(v string, most int64) (int64, string) { return numberIn(v, 1, most) }
func octets64(v string, most int64) (int64, string) { return octetsIn(v, 1, most) }

var periods = []struct {
	name string
	d    time.Duration
}{{"s", time.Second}, {"m", time.Minute}, {"h", time.Hour}}

// rateIn reads "10/s", or "none". The burst is as much as may come in one period, until something else is said.
func rateIn(v string, unit func(string, int64) (int64, string), most int64) (Rate, string) {
	if v == "none" {
		return Rate{}, ""
	}
	amount, period, _ := strings.Cut(v, "/")
	for _, p := range periods {
		if p.name != period {
			continue
		}
		n, lack := unit(amount, most)
		return Rate{Count: n, Per: p.d, Burst: n}, lack
	}
	return Rate{}, "write an amount for a second, a minute or an hour, such as 10/s, 30/m or 100/h, or none"
}
