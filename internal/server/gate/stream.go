package gate

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"sync"
	"time"

	"mooring/internal/base/errs"
)

// Stream is an admitted connection on which something else than HTTP is spoken. It is safe for one reader, one writer and any number of closers at once.
//
// Its methods hold no lock that a client could keep held: Close works at once against a client that neither reads nor answers.
type Stream struct {
	out  net.Conn // conn, or TLS upon it
	conn *conn
	set  *streams

	mu    sync.Mutex
	drain func() // guarded by mu
}

// streams are the open streams of a listener.
type streams struct {
	mu       sync.Mutex
	open     map[*Stream]struct{} // guarded by mu
	stopping bool                 // guarded by mu: nobody is let in any more
	ended    chan struct{}        // closed when stopping and none is open
}

func newStreams() *streams { return &streams{open: map[*Stream]struct{}{}, ended: make(chan struct{})} }

func (s *streams) add(c *Stream) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopping {
		return false
	}
	s.open[c] = struct{}{}
	return true
}

func (s *streams) remove(c *Stream) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.open[c]; !ok {
		return
	}
	delete(s.open, c)
	if s.stopping && len(s.open) == 0 {
		close(s.ended)
	}
}

func (s *streams) stops() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stopping
}

// stop lets nobody in any more and returns who is there.
func (s *streams) stop() []*Stream {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.stopping && len(s.open) == 0 {
		close(s.ended)
	}
	s.stopping = true
	return s.all()
}

// all returns who is there. The caller holds mu.
func (s *streams) all() []*Stream {
	all := make([]*Stream, 0, len(s.open))
	for c := range s.open {
		all = append(all, c)
	}
	return all
}

// finish asks all streams to end, waits for them for as long as that may take, and then cuts off the rest.
func (s *streams) finish(within time.Duration) {
	for _, c := range s.stop() {
		c.mu.Lock()
		drain := c.drain
		c.mu.Unlock()
		if drain != nil {
			drain()
		}
	}
	overdue := time.NewTimer(within)
	defer overdue.Stop()
	select {
	case <-s.ended:
	case <-overdue.C:
	}
	s.mu.Lock()
	rest := s.all()
	s.mu.Unlock()
	for _, c := range rest {
		_ = c.Close()
	}
}

// OnDrain has f called when the listener is about to stop, at once if that is so already; the stream is then to end within limits.drain_timeout, after
// which it is cut off. f is called by a goroutine that has others to tell, so it must not block, and it may be called twice. The last f counts.
func (s *Stream) OnDrain(f func()) {
	s.mu.Lock()
	s.drain = f
	s.mu.Unlock()
	if s.set.stops() {
		f()
	}
}

// Peer returns who is at the other end.
func (s *Stream) Peer() *Peer { return s.conn.peer }

// Read is that of net.Conn.
func (s *Stream) Read(b []byte) (int, error) { return s.out.Read(b) }

// Write is that of net.Conn.
func (s *Stream) Write(b []byte) (int, error) { return s.out.Write(b) }

// Close ends the stream at once, with a reset: nothing that was not sent yet is sent, and the kernel keeps nothing. It may be called again.
func (s *Stream) Close() error { return s.conn.Close() }

// End ends the stream after what was written: the client is told that nothing more comes and has the time within to take it and to go; what it sends
// meanwhile is not looked at. It is for the one who writes; somebody may be reading.
func (s *Stream) End(within time.Duration) {
	overdue := time.AfterFunc(within, func() { _ = s.Close() })
	defer overdue.Stop()
	defer func() { _ = s.Close() }()
	if secure, ok := s.out.(*tls.Conn); ok && secure.CloseWrite() != nil {
		return
	}
	if half, ok := s.conn.Conn.(interface{ CloseWrite() error }); !ok || half.CloseWrite() != nil {
		return
	}
	var waste [512]byte
	for left := maxWaste; left > 0; {
		n, err := s.conn.Conn.Read(waste[:])
		if err != nil {
			return
		}
		left -= n
	}
}

// maxWaste is how much of what a client sends after the end is read, so that a reset does not overtake what it was told.
const maxWaste = 1 << 16

// ServeStreams is Serve for a listener with Options.Streams: serve is called with each connection of that protocol, h gets the requests of the others. serve has
// a goroutine of its own and may leave the stream to another one when it returns: the stream lives until it is closed. When ctx ends, streams are
// asked to end (Stream.OnDrain), and cut off after limits.drain_timeout; the context of serve ends only then. Requests that took their connection over are
// waited for too: they hear by Draining that it is time, and must end with their context.
func (g *Gate) ServeStreams(ctx context.Context, serve func(context.Context, *Stream), h http.Handler) error {
	if g.o.Streams == "" {
		return errs.New(errs.Internal, "the listener %s has no protocol of streams", g.o.Name)
	}
	return g.serve(ctx, serve, h)
}

// Hangup ends the connection at once, with a reset, for protocols that took it over from HTTP. It may be called by any goroutine, and again.
func (p *Peer) Hangup() {
	if p.conn == nil {
		return
	}
	p.conn.hard.Store(true)
	_ = p.conn.Close()
}
