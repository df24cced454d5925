package v2xsim

import (
	"path/filepath"
	"testing"
	"time"
)

// A small fleet gets all its tickets, none twice; the one that is suspended gets none; and neither store links a ticket to a vehicle.
func TestFleet(t *testing.T) {
	t.Parallel()
	s, err := Start(t.Context(), Options{Dir: filepath.Join(t.TempDir(), "data"), Vehicles: 3, Weeks: 2, Tickets: 4, Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}()
	r, err := s.Run(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if r.Enrolled != 3 || r.Tickets != 24 || r.Verified != 24 || r.Doubled != 0 || r.Refused != 1 {
		t.Errorf("the fleet: %+v", r)
	}
	want := []Link{{Store: "ea", Stations: 3}, {Store: "aa", Tickets: 24}}
	if len(r.Links) != 2 || r.Links[0] != want[0] || r.Links[1] != want[1] {
		t.Errorf("the stores: got %+v, want %+v", r.Links, want)
	}
}
