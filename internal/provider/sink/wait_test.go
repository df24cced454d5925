package sink

import (
	"testing"
	"time"
)

// TestShortWait: all pauses for one message that is refused are over in two seconds.
func TestShortWait(t *testing.T) {
	var all time.Duration
	for n := 1; n < defaultTries; n++ {
		d := shortWait(n)
		if d <= 0 || d > time.Second {
			t.Errorf("the pause after %d tries is %v, want at most a second", n, d)
		}
		all += d
	}
	if all > 2*time.Second {
		t.Errorf("one message holds up the others for %v", all)
	}
}
