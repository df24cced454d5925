package campaign

import (
	"fmt"
	"strconv"
	"strings"

	"mooring/internal/base/errs"
)

// ParsePercent reads "1%" or "0.25 %" as hundredths of a percent.
func ParsePercent(text string) (int64, error) {
	number, ok := strings.CutSuffix(strings.TrimSpace(text), "%")
	whole, part, _ := strings.Cut(strings.TrimSpace(number), ".")
	wrong := errs.New(errs.Invalid, "%q is no percentage: write it like 1%% or 0.25%%", text[:min(len(text), 32)])
	if !ok || len(part) > 2 {
		return 0, wrong
	}
	n, err := strconv.ParseUint(whole+(part + "00")[:2], 10, 32)
	if n > 100_00 && whole != "" { // also when it is too big for a number
		return 0, errs.New(errs.Invalid, "%q: 100%% is the most there is", text[:min(len(text), 32)])
	}
	if err != nil || whole == "" {
		return 0, wrong
	}
	return int64(n), nil
}

// ParseRate reads "5%/day" or "0.5%/hour".
func ParseRate(text string) (rate, every int64, err error) {
	number, unit, _ := strings.Cut(text, "/")
	switch strings.TrimSpace(unit) {
	case "day":
		every = day
	case "hour":
		every = 3600
	default:
		return 0, 0, errs.New(errs.Invalid, "%q is no rate: write it like 5%%/day or 0.5%%/hour", text[:min(len(text), 32)])
	}
	rate, err = ParsePercent(number)
	return rate, every, err
}

// RateText writes the rate as ParseRate reads it.
func (s *Spec) RateText() string {
	if s.Every == 3600 {
		return compact(s.Rate) + "/hour"
	}
	return compact(s.Rate) + "/day"
}

// MaxFailedText writes the limit of failures as ParsePercent reads it.
func (s *Spec) MaxFailedText() string { return compact(s.MaxFailed) }

func compact(n int64) string { return strings.ReplaceAll(percent(n), " ", "") }

// ParseWindow reads a daily window, "08:00-18:00" in UTC, as seconds since midnight; "" is the whole day.
func ParseWindow(text string) (from, until int64, err error) {
	if text == "" {
		return 0, 0, nil
	}
	a, b, _ := strings.Cut(text, "-")
	from, ok := clockTime(a)
	until, ok2 := clockTime(b)
	if !ok || !ok2 || from == until {
		return 0, 0, errs.New(errs.Invalid, "%q is no window: write it like 08:00-18:00, times of day in UTC", text[:min(len(text), 32)])
	}
	return from, until, nil
}

func clockTime(text string) (int64, bool) {
	h, m, ok := strings.Cut(strings.TrimSpace(text), ":")
	hours, err := strconv.ParseUint(h, 10, 8)
	minutes, err2 := strconv.ParseUint(m, 10, 8)
	if !ok || err != nil || err2 != nil || len(m) != 2 || hours > 24 || minutes > 59 || hours == 24 && minutes > 0 {
		return 0, false
	}
	return int64(hours*3600 + minutes*60), true
}

// WindowText writes the daily window as ParseWindow reads it; "" for the whole day.
func (s *Spec) WindowText() string {
	if s.From == s.Until {
		return ""
	}
	return fmt.Sprintf("%02d:%02d-%02d:%02d", s.From/3600, s.From%3600/60, s.Until/3600, s.Until%3600/60)
}
