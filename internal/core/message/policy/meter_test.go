package policy

import (
	"testing"
	"time"
)

func at(s float64) time.Time {
	return time.Unix(1_800_000_000, 0).Add(time.Duration(s * float64(time.Second)))
}

func TestBucket(t *testing.T) {
	t.Parallel()
	ten := Rate{Count: 10, Per: time.Second, Burst: 5}
	type take struct {
		at   float64
		n    int64
		wait time.Duration
	}
	for _, row := range []struct {
		name  string
		rate  Rate
		takes []take
	}{
		{"no limit", Rate{}, []take{{0, 1 << 40, 0}, {0, 1 << 40, 0}}},
		{"the burst, and then evenly", ten, []take{{0, 5, 0}, {0, 1, 100 * time.Millisecond}, {0.05, 1, 50 * time.Millisecond}, {0.1, 1, 0}, {0.1, 1, 100 * time.Millisecond}}},
		{"one by one", ten, []take{{0, 1, 0}, {0, 1, 0}, {0, 1, 0}, {0, 1, 0}, {0, 1, 0}, {0, 1, 100 * time.Millisecond}}},
		{"what was refused is not counted", ten, []take{{0, 5, 0}, {0, 5, 500 * time.Millisecond}, {0.1, 1, 0}}},
		{"no more than the burst is saved up", ten, []take{{0, 1, 0}, {3600, 5, 0}, {3600, 1, 100 * time.Millisecond}}},
		{"more than the burst is late, not stuck", ten, []take{{0, 100, 0}, {0, 1, 100 * time.Millisecond}, {0.4, 100, 100 * time.Millisecond}, {0.5, 100, 0}}},
		{"a clock that was set back", ten, []take{{1000, 5, 0}, {0, 1, 100 * time.Millisecond}, {0.1, 1, 0}}},
		{"a rate an hour", Rate{Count: 1, Per: time.Hour, Burst: 1}, []take{{0, 1, 0}, {1800, 1, 30 * time.Minute}, {3600, 1, 0}}},
		{"a period that does not divide", Rate{Count: 3, Per: time.Second, Burst: 3}, []take{{0, 3, 0}, {0, 1, 333_333_333}, {0.34, 1, 0}}},
		{"octets", Rate{Count: 256 << 10, Per: time.Second, Burst: 128 << 10}, []take{{0, 128 << 10, 0}, {0.25, 128 << 10, 250 * time.Millisecond}, {0.5, 128 << 10, 0}}},
		{"the largest rate and burst", Rate{Count: 1 << 30, Per: time.Hour, Burst: 1 << 62}, []take{{0, 1 << 62, 0}}},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			var b Bucket
			for i, take := range row.takes {
				if got := b.Take(row.rate, at(take.at), take.n); got != take.wait {
					t.Fatalf("take %d, %+v: waits %v, want %v", i, take, got, take.wait)
				}
			}
		})
	}
}

func TestMeter(t *testing.T) {
	t.Parallel()
	const text = `group a {
    match any
    rate 100/s burst 10
    byte_rate 1KiB/s packet_size 2KiB
    allow publish plain
    allow publish rare rate 1/s burst 2
}`
	s, err := Parse("f", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	r, err := s.Compile(Subject{Thing: "x", Kind: Device})
	if err != nil {
		t.Fatal(err)
	}
	plain, rare := r.Publish("plain", 0, false, 1), r.Publish("rare", 0, false, 1)
	for _, row := range []struct {
		name  string
		takes []Verdict
		size  int
		wait  time.Duration // of the last one; those before pass
	}{
		{"the connection's burst", []Verdict{plain, plain, plain, plain, plain, plain, plain, plain, plain, plain, plain}, 1, 10 * time.Millisecond},
		{"the rule's burst", []Verdict{rare, rare, rare}, 1, time.Second},
		{"the rule's rate is its own", []Verdict{rare, rare, plain}, 1, 0},
		{"a rule's messages count for the connection", []Verdict{rare, rare, plain, plain, plain, plain, plain, plain, plain, plain, plain}, 1, 10 * time.Millisecond},
		{"octets, of which a whole packet may come at once", []Verdict{plain, plain}, 2 << 10, 2 * time.Second},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			var m Meter
			for i, v := range row.takes {
				want := time.Duration(0)
				if i == len(row.takes)-1 {
					want = row.wait
				}
				if got := m.Take(r, v, row.size, at(0)); got != want {
					t.Fatalf("message %d waits %v, want %v", i, got, want)
				}
			}
		})
	}
}

// TestMeterUnderOtherRights: after a change of the policy the numbers of rules mean others.
func TestMeterUnderOtherRights(t *testing.T) {
	t.Parallel()
	one := compiled(t, "group a { match any; allow publish x rate 1/s }", Subject{Thing: "x", Kind: Device})
	two := compiled(t, "group a { match any; allow publish y; allow publish x rate 1/s }", Subject{Thing: "x", Kind: Device})
	var m Meter
	for i, r := range []*Rights{one, two, two} {
		want := time.Duration(0)
		if i == 2 {
			want = time.Second
		}
		if got := m.Take(r, r.Publish("x", 0, false, 1), 1, at(0)); got != want {
			t.Fatalf("message %d waits %v, want %v", i, got, want)
		}
	}
}
