package v2x

import (
	"testing"
	"time"

	"mooring/wire/its"
)

// Where authorities refuse tickets that began before they are asked for, those for the rest of the period begin with the present hour, or with the present minute, and end no later.
func TestLate(t *testing.T) {
	t.Parallel()
	hour := its.Time32(720_000_000)
	const days = 2 * 24 * 3600
	minutes := func(n uint16) its.Duration { return its.Duration{Choice: its.Minutes, Value: n} }
	for _, row := range []struct {
		name  string
		after its.Time32 // the hour
		have  its.ValidityPeriod
		want  its.ValidityPeriod // zero: it cannot begin later
	}{
		{"with the period", 620, its.ValidityPeriod{Start: hour - days, Duration: its.Duration{Choice: its.Hours, Value: 168}}, its.ValidityPeriod{Start: hour, Duration: minutes(5 * 24 * 60)}},
		{"in the hour", 620, its.ValidityPeriod{Start: hour, Duration: minutes(120)}, its.ValidityPeriod{Start: hour + 600, Duration: minutes(110)}},
		{"from no full minute on", 620, its.ValidityPeriod{Start: hour + 10, Duration: minutes(120)}, its.ValidityPeriod{Start: hour + 600, Duration: minutes(110)}},
		{"from this minute on", 620, its.ValidityPeriod{Start: hour + 600, Duration: minutes(110)}, its.ValidityPeriod{}},
		{"later", 620, its.ValidityPeriod{Start: hour + 7200, Duration: minutes(110)}, its.ValidityPeriod{}},
		{"over", 620, its.ValidityPeriod{Start: hour - days, Duration: its.Duration{Choice: its.Hours, Value: 40}}, its.ValidityPeriod{}},
		{"at the end", 620, its.ValidityPeriod{Start: hour, Duration: minutes(10)}, its.ValidityPeriod{}},
	} {
		s := &Station{Client: &Client{Config: Config{Leap: its.LeapSeconds, Now: func() time.Time { return (hour + row.after).Time(its.LeapSeconds) }}}}
		got := row.have
		if later := s.late(&got); later != (row.want != its.ValidityPeriod{}) || later && got != row.want || !later && got != row.have {
			t.Errorf("%s: %v, %+v, want %+v", row.name, later, got, row.want)
		}
	}
}
