package app_test

import (
	"testing"

	"mooring/internal/app/apptest"
	"mooring/internal/core/device"
)

// TestRefusedConnectsAreRecorded: a suspended device that asks to be let in again and again stands in the record, once.
func TestRefusedConnectsAreRecorded(t *testing.T) {
	p := apptest.Start(t, apptest.Messaging)
	k := p.Talker(t, "meter-1", "device")
	must(t, move(device.Suspend)(t, p, k))
	for range 5 {
		if _, err := p.TryConnect(t, k); err == nil {
			t.Fatal("a suspended device connects")
		}
	}
	var found int
	for _, e := range p.Record(t) {
		if e.Action == "message.connect" && e.Device == k.ID.String() && e.Refused != "" {
			found++
		}
	}
	if found != 1 {
		t.Errorf("the record tells of it %d times, want once", found)
	}
}
