package gate

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"testing"
	"time"
)

// pollOf runs a poll until the test ends.
func pollOf(t *testing.T) *poll {
	t.Helper()
	p := newPoll(time.Now)
	if p == nil {
		t.Fatal("there is no poll")
	}
	done := make(chan struct{})
	go func() { defer close(done); p.run() }()
	t.Cleanup(func() { p.end(); <-done })
	return p
}

// tcpPair returns both ends of a connection, of which p has the second.
func tcpPair(t *testing.T, p *poll) (*net.TCPConn, *polled) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	client, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	s := p.take(c)
	if s == nil {
		t.Fatal("the poll did not take the connection")
	}
	t.Cleanup(func() { s.Close() })
	return client.(*net.TCPConn), s
}

// An end that comes at any time behind a message is noticed, though nothing is read in vain.
func TestEndBehindAMessage(t *testing.T) {
	p := pollOf(t)
	for i := range 300 {
		client, s := tcpPair(t, p)
		go func() {
			_, _ = client.Write([]byte("one"))
			for range i % 7 * 1000 { // now and then in between
				_ = i
			}
			_, _ = client.Write([]byte("two"))
			_ = client.Close()
		}()
		var got bytes.Buffer
		room := make([]byte, 64)
		var err error
		for n := 0; err == nil; {
			n, err = s.Read(room)
			got.Write(room[:n])
		}
		if got.String() != "onetwo" || err != io.EOF {
			t.Fatalf("got %q and then %v, want onetwo and EOF", got.String(), err)
		}
		_ = s.Close()
	}
}

// What a peer that does not read does not take is kept, up to a bound, and arrives when it reads.
func TestPushToAStalledPeer(t *testing.T) {
	client, s := tcpPair(t, pollOf(t))
	var sent []byte
	for i := 0; !s.kept(); i++ {
		part := bytes.Repeat([]byte{byte(i)}, 8<<10)
		if n, err := s.Write(part); n != len(part) || err != nil {
			t.Fatalf("got %d, %v, want %d", n, err, len(part))
		}
		sent = append(sent, part...)
	}
	flushed := make(chan error, 1)
	go func() { flushed <- s.flush() }()
	got := make([]byte, len(sent))
	if _, err := io.ReadFull(client, got); err != nil || !bytes.Equal(got, sent) {
		t.Fatalf("got other octets than were sent, or %v", err)
	}
	if err := <-flushed; err != nil || s.kept() {
		t.Fatalf("got %v and %v left, want nothing", err, s.kept())
	}
	var err error
	for range 4096 {
		if _, err = s.Write(sent[:8<<10]); err != nil {
			break
		}
	}
	if err == nil || len(s.rest) > maxRest {
		t.Errorf("got %v with %d octets kept, want an error and %d at the most", err, len(s.rest), maxRest)
	}
}

// Close ends who reads and who waits for a peer that does not read.
func TestCloseWakes(t *testing.T) {
	_, s := tcpPair(t, pollOf(t))
	ended := make(chan error, 3)
	for range 2 { // also the one who waits for the other
		go func() {
			_, err := s.Read(make([]byte, 8))
			ended <- err
		}()
	}
	for !s.kept() {
		if _, err := s.Write(make([]byte, 8<<10)); err != nil {
			t.Fatal(err)
		}
	}
	go func() { ended <- s.flush() }()
	_ = s.Close()
	for range 3 {
		if err := <-ended; !errors.Is(err, net.ErrClosed) {
			t.Errorf("got %v, want %v", err, net.ErrClosed)
		}
	}
}

// Streams of a listener are polled; without that nothing would be wrong but the cost.
func TestStreamsArePolled(t *testing.T) {
	streams := make(chan *Stream, 1)
	s := startStreams(t, func(ctx context.Context, s *Stream) { streams <- s; echo(ctx, s) }, nil)
	c, err := s.dial(t, func(c *tls.Config) { c.NextProtos = []string{"mqtt"} })
	if err != nil {
		t.Fatal(err)
	}
	if err := hears(c); err != nil {
		t.Fatal(err)
	}
	if !(<-streams).Pushes() {
		t.Error("the stream is read by Go's poller")
	}
}
