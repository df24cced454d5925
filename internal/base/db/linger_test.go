package db

import (
	"testing"
	"time"
)

// A plan that says how long its batches linger has them linger until they are half full; the others keep to what is usual.
func TestLinger(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		plan  Plan[int]
		wait  time.Duration
		small int
	}{{Plan[int]{}, groupLinger, groupSmall}, {Plan[int]{Linger: 5 * time.Millisecond}, 5 * time.Millisecond, groupBatch / 2}} {
		if wait, small := c.plan.linger(); wait != c.wait || small != c.small {
			t.Errorf("%v: batches of less than %d linger for %v, want %d and %v", c.plan.Linger, small, wait, c.small, c.wait)
		}
	}
}
