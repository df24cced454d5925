package cmp

// Open returns how many exchanges are kept.
func (s *Server) Open() int {
	s.open.mu.Lock()
	defer s.open.mu.Unlock()
	return len(s.open.byID)
}
