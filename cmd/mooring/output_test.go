package main

import (
	"testing"
	"time"
)

func TestDistance(t *testing.T) {
	const day = 24 * time.Hour
	for d, want := range map[time.Duration]string{
		0: "less than a minute", 29 * time.Second: "less than a minute", 59 * time.Second: "1 minute", time.Minute: "1 minute", 61 * time.Second: "1 minute",
		89 * time.Minute: "89 minutes", 90 * time.Minute: "2 hours", 24 * time.Hour: "24 hours", 35*time.Hour + 40*time.Minute: "36 hours",
		7*day - time.Second: "7 days", 7 * day: "7 days", 36 * time.Hour: "2 days", 90*day - 5*time.Minute: "90 days",
	} {
		if got := distance(d); got != want {
			t.Errorf("distance(%v): got %q, want %q", d, got, want)
		}
	}
}

func TestDetailText(t *testing.T) {
	for _, c := range [][3]string{
		{"until", "1800000000", "2027-01-15T08:00:00Z"}, {"token_at", "1800000000", "2027-01-15T08:00:00Z"}, {"not_after", "253402300799", "9999-12-31T23:59:59Z"},
		{"n", "1800000000", "1800000000"}, {"until", "soon", "soon"}, {"at", "7", "7"},
	} {
		if got := detailText(c[0], c[1]); got != c[2] {
			t.Errorf("detailText(%q, %q): got %q, want %q", c[0], c[1], got, c[2])
		}
	}
}
