package app_test

import (
	"testing"
	"time"

	agent "mooring/agent/v2x"
	"mooring/internal/app/apptest"
	"mooring/internal/core/v2x/trust"
)

// The tickets that a station asked for together are of an authority that was revoked, and so are those that were made for later: it asks anew, drives with single ones of the other authority
// until they are there, and keeps none of the revoked one.
func TestV2XStationButterflyRevoked(t *testing.T) {
	t.Parallel()
	p := startButterfly(t, 1, nil)
	s := p.batchStation(t, "car-1", agent.Settings{}, agent.StationOptions{})
	rest := func() {
		t.Helper()
		p.mixed(t)
		p.later(t, time.Hour)
		if _, err := s.Keep(t.Context()); err != nil || len(s.Tickets()) < 6 {
			t.Fatalf("it has %d tickets: %v", len(s.Tickets()), err)
		}
	}
	if _, err := s.Keep(t.Context()); err != nil {
		t.Fatal(err)
	}
	rest()
	first, lost := s.Ordered(), idOf(t, p.aa)
	other := p.follow(t, trust.AA)
	must(t, p.V2X.Trust.Revoke(t.Context(), apptest.Operator(), lost))
	p.later(t, 5*time.Minute)
	if _, err := s.Keep(t.Context()); err != nil {
		t.Fatal(err)
	}
	if again := s.Ordered(); again == nil || again.ID == first.ID {
		t.Errorf("it did not ask anew: %+v", s.Source())
	}
	if len(s.Tickets()) == 0 || len(s.Useless()) != 0 {
		t.Errorf("it has %d tickets, and %v of no use", len(s.Tickets()), s.Useless())
	}
	rest()
	for _, ticket := range s.Tickets() {
		if got := issuer(ticket.Certificate); got != other.ID {
			t.Errorf("it has a ticket of %s, want %s alone", got, other.ID)
		}
	}
}
