package gate

import (
	"crypto/tls"
	"io"
	"net/http"
	"testing"
	"time"
)

// Connections made with a revoked certificate end, others stay, and what was being answered gets out.
func TestCut(t *testing.T) {
	answering, cut := make(chan struct{}), make(chan struct{})
	s := start(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/slow" {
			close(answering)
			<-cut
		}
		_, _ = io.WriteString(w, "yes")
	}), nil)
	s.gate.grace = 2 * time.Second // also for a machine with much else to do
	other := certificate(t, "other.example", time.Now().Add(time.Hour))
	client := func(c tls.Certificate) *http.Client {
		return &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true, Certificates: []tls.Certificate{c}}}}
	}
	ask := func(c *http.Client, path string) error {
		r, err := c.Get("https://" + s.gate.Addr().String() + path)
		if err != nil {
			return err
		}
		_, err = io.ReadAll(r.Body)
		_ = r.Body.Close()
		return err
	}
	bad, good := client(s.client), client(other)
	for _, c := range []*http.Client{bad, good} {
		if err := ask(c, "/"); err != nil {
			t.Fatal(err)
		}
	}
	slow := make(chan error, 1)
	go func() { slow <- ask(bad, "/slow") }()
	<-answering
	if n := s.gate.Cut(s.client.Leaf.SerialNumber.Bytes()); n != 1 {
		t.Errorf("%d connections are cut, want 1", n)
	}
	close(cut)
	if err := <-slow; err != nil {
		t.Errorf("an answer under way was lost: %v", err)
	}
	wait := time.Now().Add(time.Minute)
	for s.gate.Metrics().Open != 1 {
		if time.Now().After(wait) {
			t.Fatalf("%d connections are open, want that of the other client", s.gate.Metrics().Open)
		}
		time.Sleep(10 * time.Millisecond)
	}
	if n := s.gate.Cut(s.client.Leaf.SerialNumber.Bytes()); n != 0 || s.gate.Metrics().Cut != 1 {
		t.Errorf("the index still holds %d connections; %d were cut", n, s.gate.Metrics().Cut)
	}
	if err := ask(good, "/"); err != nil {
		t.Errorf("the other client: %v", err)
	}
}
