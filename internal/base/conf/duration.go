package conf

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// ParseDuration reads a duration of zero or more, such as "90d", "12h", "1d12h" or "250ms". A day has 24 hours.
func ParseDuration(s string) (time.Duration, error) {
	wrong := fmt.Errorf("%q is not a duration such as 90d, 12h, 30m or 10s", s)
	rest := s
	var days time.Duration
	if number, after, ok := strings.Cut(s, "d"); ok {
		n, err := strconv.ParseUint(number, 10, 31)
		if err != nil || n > math.MaxInt64/uint64(24*time.Hour) {
			return 0, wrong
		}
		days, rest = time.Duration(n)*24*time.Hour, after
		if rest == "" {
			return days, nil
		}
	}
	d, err := time.ParseDuration(rest)
	// A bare "0" is the one number that time.ParseDuration takes without a unit; here everything has one.
	if err != nil || rest[0] < '0' || rest[0] > '9' || rest == "0" || days > math.MaxInt64-d {
		return 0, wrong
	}
	return days + d, nil
}

// FormatDuration writes d, which is not negative, as ParseDuration reads it, with the fewest units.
func FormatDuration(d time.Duration) string {
	const day = 24 * time.Hour
	if d == 0 {
		return "0s"
	}
	var b strings.Builder
	for _, unit := range []struct {
		size time.Duration
		name string
	}{{day, "d"}, {time.Hour, "h"}, {time.Minute, "m"}, {time.Second, "s"}} {
		if n := d / unit.size; n > 0 {
			fmt.Fprintf(&b, "%d%s", n, unit.name)
			d %= unit.size
		}
	}
	if d > 0 {
		b.WriteString(d.String())
	}
	return b.String()
}
