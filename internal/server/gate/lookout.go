package gate

import (
	"crypto/tls"
	"net"
	"os"
	"sync"
	"time"
)

// While a request is answered net/http reads one octet from the connection, on a goroutine of its own, to notice that the client goes away, and cuts
// that read off at the end. Nearly all answers take a few milliseconds, and then nobody has looked for the client's end in vain: the read, the
// way down to it through TLS, for which the new goroutine needs a larger stack, and the two moves of the deadline cost a tenth of a lonely request. So
// the read begins only when the request has lasted for a moment.

// lookEvery is how often those are let go on that wait to look for their client's end; each waits for once to twice as long.
const lookEvery = 50 * time.Millisecond

// lookout lets the reads of one listener begin that have waited long enough. One timer does for all: to set one for each would wake a thread.
type lookout struct {
	mu      sync.Mutex
	young   map[*watched]struct{} // guarded by mu; began to wait since the timer was set
	old     map[*watched]struct{} // guarded by mu; before that
	ticking bool                  // guarded by mu; the timer is set
}

// watched is a connection as net/http sees it, with HTTP/1.1.
type watched struct {
	net.Conn // conn, or TLS upon it
	lookout  *lookout
	woken    chan struct{} // capacity 1

	mu      sync.Mutex
	waiting bool // guarded by mu; a read is held back
	reading bool // guarded by mu; one goes on
	cutOff  bool // guarded by mu; the read deadline was moved to long ago, of which Conn was not told
}

// watchedTLS is watched upon TLS.
type watchedTLS struct {
	watched
	secure *tls.Conn
}

// ConnectionState is what net/http asks for.
func (w *watchedTLS) ConnectionState() tls.ConnectionState { return w.secure.ConnectionState() }

// CloseWrite is what net/http calls before it closes a connection on which the client may still be sending.
func (w *watchedTLS) CloseWrite() error { return w.secure.CloseWrite() }

// watch returns the connection for net/http. HTTP/2 has one goroutine that reads always, and wants the *tls.Conn itself.
func (l *lookout) watch(c net.Conn) net.Conn {
	secure, isTLS := c.(*tls.Conn)
	switch {
	case !isTLS:
		return &watched{Conn: c, lookout: l, woken: make(chan struct{}, 1)}
	case secure.ConnectionState().NegotiatedProtocol == "h2":
		return c
	}
	return &watchedTLS{watched{Conn: c, lookout: l, woken: make(chan struct{}, 1)}, secure}
}

// Read is that of net.Conn. A read of one octet is the one that looks for the client's end: all others have room for a buffer.
func (w *watched) Read(b []byte) (int, error) {
	if !w.start(len(b) == 1) {
		return 0, os.ErrDeadlineExceeded
	}
	defer w.end()
	return w.Conn.Read(b)
}

// start waits, if it is to, and reports whether the read may begin.
func (w *watched) start(patient bool) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if patient && !w.cutOff {
		select {
		case <-w.woken: // for the read before
		default:
		}
		w.waiting = true
		w.mu.Unlock()
		w.lookout.add(w)
		<-w.woken
		w.lookout.remove(w)
		w.mu.Lock()
		w.waiting = false
	}
	if w.cutOff {
		return false
	}
	w.reading = true
	return true
}

func (w *watched) end() {
	w.mu.Lock()
	w.reading = false
	w.mu.Unlock()
}

// wake ends the waiting of a read.
func (w *watched) wake() {
	select {
	case w.woken <- struct{}{}:
	default: // it is awake
	}
}

// SetReadDeadline is that of net.Conn. To cut off a read that is held back, or none, takes no look at the connection.
func (w *watched) SetReadDeadline(t time.Time) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.cutOff = cut(t) && !w.reading
	if !w.cutOff {
		return w.Conn.SetReadDeadline(t)
	}
	if w.waiting {
		w.wake()
	}
	return nil
}

// SetDeadline is that of net.Conn.
func (w *watched) SetDeadline(t time.Time) error {
	if err := w.SetReadDeadline(t); err != nil {
		return err
	}
	return w.SetWriteDeadline(t)
}

// Close is that of net.Conn.
func (w *watched) Close() error {
	err := w.Conn.Close()
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.waiting {
		w.wake()
	}
	return err
}

func (l *lookout) add(w *watched) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.young == nil {
		l.young, l.old = map[*watched]struct{}{}, map[*watched]struct{}{}
	}
	l.young[w] = struct{}{}
	if !l.ticking {
		l.ticking = true
		time.AfterFunc(lookEvery, l.tick)
	}
}

func (l *lookout) remove(w *watched) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.young, w)
	delete(l.old, w)
}

// tick lets those read that have waited since the tick before.
func (l *lookout) tick() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for w := range l.old {
		w.wake()
	}
	l.young, l.old = map[*watched]struct{}{}, l.young
	if l.ticking = len(l.old) > 0; l.ticking {
		time.AfterFunc(lookEvery, l.tick)
	}
}
