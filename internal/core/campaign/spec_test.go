package campaign

import (
	"strings"
	"testing"
	"time"

	"mooring/internal/base/errs"
	"mooring/internal/core/device"
)

const monday = 1_800_230_400 // 2027-01-18 00:00 UTC

func at(text string) int64 {
	t, err := time.Parse("2006-01-02 15:04", text)
	if err != nil {
		panic(err)
	}
	return t.Unix()
}

func TestWindows(t *testing.T) {
	for _, c := range []struct {
		window   string
		from, to string
		active   time.Duration
	}{
		{"", "2027-01-18 00:00", "2027-01-20 12:00", 60 * time.Hour},
		{"08:00-18:00", "2027-01-18 00:00", "2027-01-19 00:00", 10 * time.Hour},
		{"08:00-18:00", "2027-01-18 09:30", "2027-01-19 09:00", 8*time.Hour + 30*time.Minute + time.Hour},
		{"08:00-18:00", "2027-01-18 19:00", "2027-01-19 07:00", 0},
		{"22:00-02:00", "2027-01-18 21:00", "2027-01-19 21:00", 4 * time.Hour},
		{"22:00-02:00", "2027-01-18 23:00", "2027-01-19 01:00", 2 * time.Hour},
		{"22:00-24:00", "2027-01-18 00:00", "2027-01-20 00:00", 4 * time.Hour},
	} {
		var s Spec
		var err error
		if s.From, s.Until, err = ParseWindow(c.window); err != nil {
			t.Fatal(err)
		}
		if got := s.active(at(c.from), at(c.to)); got != int64(c.active/time.Second) {
			t.Errorf("%q from %s to %s: got %d s, want %v", c.window, c.from, c.to, got, c.active)
		}
		if c.active == 0 {
			continue
		}
		// clockAt is the other way round: never earlier, and not by more than a closed stretch later.
		if got := s.clockAt(at(c.from), int64(c.active/time.Second)); got > at(c.to) || s.active(at(c.from), got) != int64(c.active/time.Second) {
			t.Errorf("%q: clockAt(%s, %v): got %s", c.window, c.from, c.active, clock(got))
		}
		if s.WindowText() != c.window {
			t.Errorf("window: got %q, want %q", s.WindowText(), c.window)
		}
	}
}

func TestParse(t *testing.T) {
	for text, want := range map[string]int64{"1%": 100, "0.25%": 25, "100 %": 10000, "5.5%": 550} {
		if got, err := ParsePercent(text); err != nil || got != want {
			t.Errorf("%q: got %d, %v, want %d", text, got, err, want)
		}
	}
	for _, text := range []string{"", "%", "1", "101%", "-1%", "1.234%", ".5%", "1e1%"} {
		if _, err := ParsePercent(text); !errs.Is(err, errs.Invalid) {
			t.Errorf("%q: got %v, want Invalid", text, err)
		}
	}
	for _, text := range []string{"101%", "100.01%", "99999999999999999999%"} {
		if _, err := ParsePercent(text); err == nil || !strings.Contains(err.Error(), "100% is the most") {
			t.Errorf("%q: got %v, want what the most is", text, err)
		}
	}
	if _, _, err := ParseRate("6000%/hour"); err == nil || !strings.Contains(err.Error(), "100% is the most") {
		t.Errorf("6000%%/hour: got %v, want what the most is", err)
	}
	s := Spec{}
	for _, text := range []string{"5%/day", "0.5%/hour"} {
		var err error
		if s.Rate, s.Every, err = ParseRate(text); err != nil || s.RateText() != text {
			t.Errorf("%q: got %q, %v", text, s.RateText(), err)
		}
	}
	for _, text := range []string{"5%", "5/day", "5%/week", ""} {
		if _, _, err := ParseRate(text); !errs.Is(err, errs.Invalid) {
			t.Errorf("%q: got %v, want Invalid", text, err)
		}
	}
	for _, text := range []string{"8-18", "08:00", "08:00-08:00", "25:00-26:00", "24:30-02:00"} {
		if _, _, err := ParseWindow(text); !errs.Is(err, errs.Invalid) {
			t.Errorf("%q: got %v, want Invalid", text, err)
		}
	}
}

func TestPlansThatCannotBeDone(t *testing.T) {
	good := Spec{Name: "a", Action: Rekey, Algorithm: "ec-p384", Rate: 5_00, Every: day, MaxFailed: 1_00, Deadline: monday + 30*day}
	ok := good
	if err := ok.check(monday); err != nil || ok.Grace != defaultGrace || ok.Patience != defaultPatience {
		t.Fatalf("a good plan: got %v, %+v", err, ok)
	}
	for want, change := range map[string]func(*Spec){
		"name:":      func(s *Spec) { s.Name = "a b" },
		"action:":    func(s *Spec) { s.Action = "burn" },
		"algorithm:": func(s *Spec) { s.Action = Renew },
		"to:":        func(s *Spec) { s.To = "devices" },
		"rate:":      func(s *Spec) { s.Rate = 0 },
		"max_failed": func(s *Spec) { s.MaxFailed = 100_01 },
		"select:":    func(s *Spec) { s.Filter = device.Filter{ExpiresBefore: 1} },
		"window:":    func(s *Spec) { s.From, s.Until = 5, 5 },
		"grace":      func(s *Spec) { s.Grace = -1 },
		"in the fut": func(s *Spec) { s.Deadline = monday },
		"raise the":  func(s *Spec) { s.Deadline = monday + 19*day },
		"the last d": func(s *Spec) { s.From, s.Until, s.Every = 0, 3600, 3600 }, // twenty hours of one hour a day are twenty days
	} {
		s := good
		change(&s)
		if want == "the last d" {
			s.Deadline = monday + 10*day
		}
		if err := s.check(monday); !errs.Is(err, errs.Invalid) || !strings.Contains(errs.Public(err), want) {
			t.Errorf("%q: got %v", want, err)
		}
	}
}

// TestTurns lets a campaign run, pause and go on, and holds what is released against when each place has its turn.
func TestTurns(t *testing.T) {
	for _, window := range []string{"", "08:00-18:00", "22:00-04:00"} {
		c := Campaign{State: Running, Spec: Spec{Rate: 20_00, Every: day}, Started: monday, Resumed: monday}
		c.From, c.Until, _ = ParseWindow(window)
		_, waves := c.Waves(0)
		if waves != 5 {
			t.Errorf("%q: got %d waves, want 5", window, waves)
		}
		for now := int64(monday); now < monday+12*day; now += 1800 {
			if now == monday+2*day { // two days of rest
				c.stop(now)
				c.State = Paused
			}
			if now == monday+4*day {
				c.State, c.Resumed = Running, now
			}
			for place := int64(0); place < placeMost; place += placeMost/37 + 1 {
				turn, released := c.Turn(place, now), place < c.released(now)
				if c.State == Running && released != (turn <= now) && turn-now > 2 && now-turn > 2 {
					t.Fatalf("%q at %s: place %d has its turn at %s, released: %v", window, clock(now), place, clock(turn), released)
				}
				if wave, of := c.Waves(place); wave < 1 || wave > of || wave != place*5/placeMost+1 {
					t.Fatalf("place %d: wave %d of %d", place, wave, of)
				}
			}
		}
		if got := c.ReleasedText(monday + 12*day); got != "100%" {
			t.Errorf("%q: released at the end: %s, want all", window, got)
		}
	}
}

func TestPlacesAreSpread(t *testing.T) {
	var tenths [10]int
	for i := range 10_000 {
		p := place(ID{1}, device.ID{byte(i), byte(i >> 8)})
		tenths[p*10/placeMost]++
	}
	for i, n := range tenths {
		if n < 850 || n > 1150 {
			t.Errorf("tenth %d: %d of 10,000 places", i, n)
		}
	}
}

func TestStatesAreATable(t *testing.T) {
	allowed := map[State][]move{Draft: {moveApprove, moveRefuse, moveStart, moveAbort}, Approved: {moveStart, moveAbort}, Running: {movePause, moveFinish, moveAbort},
		Paused: {moveResume, moveFinish, moveAbort}, Done: nil, Aborted: nil}
	for s, may := range allowed {
		for _, m := range []move{moveApprove, moveRefuse, moveStart, movePause, moveResume, moveFinish, moveAbort} {
			_, err := s.after(m)
			want := false
			for _, a := range may {
				want = want || a == m
			}
			if (err == nil) != want || err != nil && !errs.Is(err, errs.Conflict) {
				t.Errorf("%s by %s: got %v", s, m, err)
			}
			if m.action() == "" {
				t.Errorf("%s has no name in the record", m)
			}
		}
	}
}
