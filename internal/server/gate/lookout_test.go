package gate

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"testing"
	"time"
)

// clients calls do with a connection of each kind on which requests are answered by h.
func clients(t *testing.T, h http.Handler, do func(t *testing.T, c net.Conn)) {
	t.Helper()
	t.Run("TLS", func(t *testing.T) {
		c, err := start(t, h, nil).dial(t, nil)
		if err != nil {
			t.Fatal(err)
		}
		do(t, c)
	})
	t.Run("plain", func(t *testing.T) {
		s := start(t, h, func(o *Options) { o.TLS = nil })
		c, err := net.Dial("tcp", s.gate.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		do(t, c)
	})
}

// A client that goes away is noticed while its request is answered, also when a request before has been answered on the connection.
func TestAClientThatGoesAwayIsNoticed(t *testing.T) {
	noticed := make(chan error, 1)
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/wait" {
			if _, err := io.ReadAll(r.Body); err != nil { // net/http looks for the client's end when it has the whole request
				t.Error(err)
			}
			<-r.Context().Done()
			noticed <- r.Context().Err()
		}
	})
	clients(t, h, func(t *testing.T, c net.Conn) {
		if _, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		if answer, err := http.ReadResponse(bufio.NewReader(c), nil); err != nil || answer.StatusCode != http.StatusOK {
			t.Fatalf("the first request got %v, %v", answer, err)
		}
		if _, err := io.WriteString(c, "POST /wait HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}"); err != nil {
			t.Fatal(err)
		}
		c.Close()
		if err := <-noticed; !errors.Is(err, context.Canceled) {
			t.Errorf("the context ended with %v", err)
		}
	})
}

// Requests that come before the answers to others are answered in turn, whether or not the ones before took so long that somebody looked for the client's end.
func TestRequestsBehindOthers(t *testing.T) {
	looked := make(chan struct{})
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/2" {
			<-looked
		}
		fmt.Fprint(w, r.URL.Path)
	})
	const n = 4
	clients(t, h, func(t *testing.T, c net.Conn) {
		for i := range n {
			if _, err := fmt.Fprintf(c, "GET /%d HTTP/1.1\r\nHost: x\r\n\r\n", i); err != nil {
				t.Fatal(err)
			}
		}
		time.AfterFunc(3*lookEvery, func() { looked <- struct{}{} })
		answers := bufio.NewReader(c)
		for i := range n {
			answer, err := http.ReadResponse(answers, nil)
			if err != nil {
				t.Fatal(err)
			}
			body, err := io.ReadAll(answer.Body)
			if want := fmt.Sprintf("/%d", i); err != nil || string(body) != want {
				t.Errorf("answer %d is %q, %v; want %q", i, body, err, want)
			}
		}
	})
}

// What a handler sees of TLS is what it saw before somebody stood in between.
func TestRequestsKnowTheirTLS(t *testing.T) {
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, ok := PeerFrom(r)
		fmt.Fprint(w, r.TLS != nil && r.TLS.HandshakeComplete, ok)
	})
	clients(t, h, func(t *testing.T, c net.Conn) {
		_, body, err := get(t, c)
		want := "true true"
		if _, isTCP := c.(*net.TCPConn); isTCP {
			want = "false true"
		}
		if err != nil || body != want {
			t.Errorf("got %q, %v; want %q", body, err, want)
		}
	})
}

// The read of one octet begins at the second look, and not when it was cut off before. Others begin at once.
func TestLookout(t *testing.T) {
	l := &lookout{ticking: true} // there is no timer
	ours, theirs := net.Pipe()
	defer theirs.Close()
	w := l.watch(ours).(*watched)
	defer w.Close()
	type result struct {
		n   int
		err error
	}
	read := make(chan result)
	look := func() { // begins to wait
		go func() {
			n, err := w.Read(make([]byte, 1))
			read <- result{n, err}
		}()
		until(t, "the read waits", func() bool {
			l.mu.Lock()
			defer l.mu.Unlock()
			return len(l.young) == 1
		})
	}
	past := time.Unix(1, 0)
	for range 3 {
		look()
		if err := w.SetReadDeadline(past); err != nil {
			t.Fatal(err)
		}
		if r := <-read; r.n != 0 || !errors.Is(r.err, os.ErrDeadlineExceeded) {
			t.Errorf("a read that was cut off: %d, %v", r.n, r.err)
		}
		if _, err := w.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("a read that begins after it was cut off: %v", err)
		}
		if err := w.SetReadDeadline(time.Time{}); err != nil {
			t.Fatal(err)
		}
	}
	look()
	l.tick()
	if len(l.old) != 1 {
		t.Errorf("after the first look %d wait", len(l.old))
	}
	l.tick()
	if _, err := theirs.Write([]byte("a")); err != nil { // returns when it was read
		t.Fatal(err)
	}
	if r := <-read; r.n != 1 || r.err != nil {
		t.Errorf("after the second look: %d, %v", r.n, r.err)
	}
	look()
	l.tick()
	l.tick()
	until(t, "the read goes on", func() bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		return w.reading
	})
	if err := w.SetReadDeadline(past); err != nil {
		t.Fatal(err)
	}
	if r := <-read; r.n != 0 || !errors.Is(r.err, os.ErrDeadlineExceeded) {
		t.Errorf("a read that was cut off while it went on: %d, %v", r.n, r.err)
	}
	if err := w.SetReadDeadline(time.Time{}); err != nil {
		t.Fatal(err)
	}
	go func() { _, _ = theirs.Write([]byte("bc")) }()
	if n, err := io.ReadFull(w, make([]byte, 2)); n != 2 || err != nil {
		t.Errorf("a read with a buffer: %d, %v", n, err)
	}
	look()
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if r := <-read; r.err == nil {
		t.Error("a read of a connection that is closed did not fail")
	}
}
