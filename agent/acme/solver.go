package acme

import (
	"net/http"
	"strings"
	"sync"
)

const wellKnown = "/.well-known/acme-challenge/"

// HTTPSolver is a Solver and the handler that shows the answers (RFC 8555, section 8.3). The zero value is ready. Serve it on port 80 of the names.
type HTTPSolver struct {
	mu      sync.Mutex
	answers map[string]string // by token; guarded by mu
}

// Present implements Solver.
func (s *HTTPSolver) Present(token, keyAuthorization string) (remove func(), err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.answers == nil {
		s.answers = map[string]string{}
	}
	s.answers[token] = keyAuthorization
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.answers, token)
	}, nil
}

// ServeHTTP implements http.Handler.
func (s *HTTPSolver) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	token, ok := strings.CutPrefix(r.URL.Path, wellKnown)
	s.mu.Lock()
	answer := s.answers[token]
	s.mu.Unlock()
	if !ok || answer == "" || r.Method != http.MethodGet && r.Method != http.MethodHead {
		http.NotFound(w, r)
		return
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	_, _ = w.Write([]byte(answer)) // whoever asks has gone, if this fails
}
