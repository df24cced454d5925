package acme

import (
	"net/http"
	"testing"
	"time"
)

func TestRetryAfter(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	c := &Client{Now: func() time.Time { return now }}
	for _, row := range []struct {
		name, text string
		want       time.Duration
	}{
		{"Retry-After as seconds", "90", 90 * time.Second},
		{"Retry-After as date", "Sun, 01 Mar 2026 12:01:30 GMT", 90 * time.Second},
		{"a date that has passed", "Sun, 01 Mar 2026 11:00:00 GMT", 0},
		{"nothing", "", 0},
		{"nonsense", "-1", 0},
		{"more than fits", "99999999999999999999", 0},
	} {
		t.Run(row.name, func(t *testing.T) {
			r := &http.Response{Header: http.Header{"Retry-After": {row.text}}}
			if got := c.retryAfter(r); got != row.want {
				t.Errorf("%q: got %s, want %s", row.text, got, row.want)
			}
		})
	}
}
