package message

// Waiting returns how many connect to sessions at present: those whose turn it is and those who wait.
func (s *Service) Waiting() (n int) {
	s.keys.mu.Lock()
	defer s.keys.mu.Unlock()
	for _, l := range s.keys.held {
		n += l.n
	}
	return n
}
