package v2x

import (
	"errors"
	"path/filepath"
	"testing"

	"mooring/wire/coer"
	"mooring/wire/its"
)

// A station uses all tickets as long as it has no lists, then those alone whose authority is on a trust list. When that one is revoked its ticket in use is not used any more, whoever holds it,
// and what is known of it outlasts the process.
func TestTicketsOfTheRevoked(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	octets, err := coer.Marshal(w.root.cert)
	if err != nil {
		t.Fatal(err)
	}
	o := StationOptions{Now: w.clock, Transport: w}
	s, err := MakeStation(filepath.Join(t.TempDir(), "station"), Settings{Root: octets, DC: "http://dc"}, o)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { s.Close() }()
	near, far := w.ticket(t, w.aa, nil), w.ticket(t, w.far, nil)
	for _, ticket := range []*Ticket{near, far} {
		if err := errors.Join(s.f.writeTicket(ticket), s.put(ticket)); err != nil {
			t.Fatal(err)
		}
	}
	idOf := func(a authority) its.HashedId8 {
		t.Helper()
		id, err := a.cert.HashedId8()
		if err != nil {
			t.Fatal(err)
		}
		return id
	}
	// has wants that one ticket can be used, and one not.
	has := func(s *Station, want *Ticket, not authority) {
		t.Helper()
		list, useless := s.Tickets(), s.Useless()
		if len(list) != 1 || list[0].Certificate.Issuer.Digest != want.Certificate.Issuer.Digest || len(useless) != 1 || useless[idOf(not)] != 1 {
			t.Errorf("it has %d tickets that can be used, and those that cannot are %v", len(list), useless)
		}
		for range 4 {
			if got, err := s.Choose(); err != nil || got.Certificate.Issuer.Digest != want.Certificate.Issuer.Digest {
				t.Errorf("it chose another ticket: %v", err)
			}
		}
	}
	if len(s.Tickets()) != 2 || len(s.Useless()) != 0 {
		t.Errorf("without lists it has %d tickets, and %v that cannot be used", len(s.Tickets()), s.Useless())
	}
	if err := s.Update(t.Context()); err != nil {
		t.Fatal(err)
	}
	has(s, near, w.far)
	use := NewChanger(s, Habit{NeverChanges: true}, w.clock, 0)
	defer use.Hold()()
	if got, err := use.Ticket(); err != nil || got != near {
		t.Fatalf("it signs by another ticket: %v", err)
	}

	was := w.aa
	w.revoked = []its.HashedId8{idOf(was)}
	if err := s.Update(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got, err := use.Ticket(); !errors.Is(err, ErrNoTicket) || len(s.Tickets()) != 0 {
		t.Errorf("it goes on by the ticket of the revoked authority: %v, %v", got, err)
	}
	w.aa = w.far // which comes on the list
	for _, lists := range []func() error{func() error { return s.Update(t.Context()) }, func() error { s.Recall(t.Context()); return nil }} {
		s.Close()
		if s, err = OpenStation(s.Dir(), o); err != nil {
			t.Fatal(err)
		}
		if err := lists(); err != nil {
			t.Fatal(err)
		}
		has(s, far, was)
	}
	if err := s.drop(s.ofRevoked); err != nil {
		t.Fatal(err)
	}
	if names, err := s.f.names(ticketFolder); err != nil || len(names) != 1 || len(s.Useless()) != 0 {
		t.Errorf("the folder has %q, %v: %v", names, s.Useless(), err)
	}

	w.revoked = append(w.revoked, idOf(w.root)) // nobody is left
	if err := s.Update(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := NewChanger(s, Habit{}, w.clock, 0).Ticket(); !errors.Is(err, ErrNoTicket) || len(s.Tickets()) != 0 {
		t.Errorf("below a root that revoked itself it has %d tickets: %v", len(s.Tickets()), err)
	}
}
