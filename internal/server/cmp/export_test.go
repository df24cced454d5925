package cmp

// CheapRounds is up to how many rounds nobody needs a turn.
const CheapRounds = cheapRounds

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
