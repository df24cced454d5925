package cmp

import (
	"context"
	"time"

	"mooring/internal/core/ca"
)

// The bounds that tests look at.
const (
	CheapRounds = cheapRounds
	ListMost    = listMost
)

// Open returns how many exchanges are kept.
func (s *Server) Open() int {
	s.open.mu.Lock()
	defer s.open.mu.Unlock()
	return len(s.open.byID)
}

// Turns returns how many MACs of many iterations are checked at once.
func (s *Server) Turns() int { return cap(s.turns.free) }

// OnExpect has requests announced to f instead.
func (s *Server) OnExpect(f func() (done func())) { s.expect = f }

// ListAfter returns a CA's list for an answer that has so many octets of lists already.
func (s *Server) ListAfter(ctx context.Context, octets int64, i *ca.Issuer) ([]byte, error) {
	x := &exchange{server: s.server, ctx: ctx, listed: octets}
	return x.list(i, ca.Complete, time.Time{})
}
