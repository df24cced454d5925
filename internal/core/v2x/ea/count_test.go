package ea

import (
	"math/rand/v2"
	"testing"
)

// How many tickets are valid at once: as many as are at the moment where most are, however many there are.
func TestMost(t *testing.T) {
	t.Parallel()
	for range 2000 {
		from := rand.Int64N(10)
		var list []interval
		for range rand.IntN(8) {
			start := rand.Int64N(20)
			list = append(list, interval{start, max(start, from) + 1 + rand.Int64N(10), 1 + rand.Int64N(3)})
		}
		var want int64
		for at := from; at < 60; at++ {
			var here int64
			for _, i := range list {
				if i.start <= at && at < i.ends {
					here += i.tickets
				}
			}
			want = max(want, here)
		}
		if got := most(list, from); got != want {
			t.Fatalf("of %v from %d on %d are valid at once, want %d", list, from, got, want)
		}
	}
	list := make([]interval, 1<<20) // for each second of twelve days one of two seconds
	for i := range list {
		list[i] = interval{int64(i), int64(i) + 2, 1}
	}
	if got := most(list, 0); got != 2 {
		t.Errorf("of many short ones %d are valid at once, want 2", got)
	}
}
