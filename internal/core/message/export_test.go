package message

import "context"

// Waiting returns how many connect to sessions at present: those whose turn it is and those who wait.
func (s *Service) Waiting() (n int) {
	s.keys.mu.Lock()
	defer s.keys.mu.Unlock()
	for _, l := range s.keys.held {
		n += l.n
	}
	return n
}

// WaitForUp and WantUp are what a subscription does that hears what devices publish: it waits until that is followed, and is then one that wants it.
func (s *Service) WaitForUp(ctx context.Context) error { return s.up.wait(ctx, s) }

// WantUp is the second step.
func (s *Service) WantUp(n int) { s.up.want(n) }

// Waits returns how many messages wait in a group until a member has room for them.
func (s *Service) Waits(filter string) int {
	s.groups.mu.Lock()
	defer s.groups.mu.Unlock()
	e := s.groups.all[filter]
	if e == nil {
		return 0
	}
	e.share.mu.Lock()
	defer e.share.mu.Unlock()
	return len(e.share.waiting)
}

// Serving returns how many nodes are known here to serve a group, and whether this one has heard itself say that it has no members any more.
func (s *Service) Serving(filter string) (nodes int, left bool) {
	s.groups.mu.Lock()
	defer s.groups.mu.Unlock()
	e := s.groups.all[filter]
	if e == nil {
		return 0, true
	}
	return 1 + len(e.others), e.leaving != nil && e.leaving.heard
}

// Reads reports whether somebody reads what the session is behind with.
func (c *Conn) Reads() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.reading
}
