package enrol

import (
	"encoding/binary"
	"testing"
	"time"

	"mooring/internal/base/errs"
	"mooring/internal/core/device"
)

// take is a certificate asked for and got.
func (p *pace) take(id device.ID, now time.Time) error {
	err := p.check(id, now)
	if err == nil {
		p.count(id, now, paceEvery)
	}
	return err
}

func TestPace(t *testing.T) {
	var p pace
	now := time.Unix(1_800_000_000, 0)
	a, b := device.ID{1}, device.ID{2}
	for n := range paceBurst {
		if err := p.take(a, now); err != nil {
			t.Fatalf("certificate %d: %v", n+1, err)
		}
	}
	err := p.take(a, now)
	if wait, ok := errs.RetryAfter(err); !errs.Is(err, errs.Limited) || !ok || wait != paceEvery {
		t.Errorf("one more at once: got %v, wait %s, want Limited for %s", err, wait, paceEvery)
	}
	if err := p.take(b, now); err != nil {
		t.Errorf("another device: %v", err)
	}
	now = now.Add(paceEvery)
	if err := p.take(a, now); err != nil {
		t.Errorf("after %s: %v", paceEvery, err)
	}
	if err := p.take(a, now); err == nil {
		t.Errorf("two after %s", paceEvery)
	}
	now = now.Add(-24 * time.Hour) // the clock was put back
	if err := p.take(a, now); err == nil {
		t.Error("whoever moves the clock gets one more")
	}
	if err := p.take(a, now.Add(paceEvery)); err != nil {
		t.Errorf("%s after the clock was put back: %v", paceEvery, err)
	}
}

func TestPaceIsBounded(t *testing.T) {
	var p pace
	now := time.Unix(1_800_000_000, 0)
	for n := range 3 * paceMost {
		var id device.ID
		binary.BigEndian.PutUint32(id[:], uint32(n))
		if err := p.take(id, now); err != nil {
			t.Fatal(err)
		}
	}
	if len(p.free) > paceMost {
		t.Errorf("%d devices are remembered, at most %d may be", len(p.free), paceMost)
	}
}
