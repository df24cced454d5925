package gate

import (
	"os"
	"sync"
	"time"
)

// deadline is one of a connection's two deadlines, set lazily. net/http moves them half a dozen times for each request, nearly always to a
// later moment than the last, and each move costs as much as a small system call. So a later moment is only remembered; when the earlier
// one passes, whoever waits finds out and goes on waiting. A moment that is earlier than what is set counts at once.
type deadline struct {
	move func(time.Time) error // sets the real one

	mu     sync.Mutex
	want   time.Time // zero: none; guarded by mu
	actual time.Time // never later than want; guarded by mu
	before time.Time // what actual was before a cut; guarded by mu
}

// cut reports whether t is long past: net/http cuts off a read that waits so, after every request without a body, and undoes it at once.
func cut(t time.Time) bool { return !t.IsZero() && t.Unix() < 1e9 }

// set is SetReadDeadline or SetWriteDeadline.
func (d *deadline) set(t time.Time) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.want = t
	switch later := t.IsZero() || !t.Before(d.actual); {
	case t.Equal(d.actual):
		return nil
	case cut(d.actual) && later:
		// Back to what was, if that is not too late: it holds as it did, and the next moments will be later.
		if !d.before.IsZero() && (t.IsZero() || d.before.Before(t)) {
			t = d.before
		}
	case !d.actual.IsZero() && later:
		return nil
	case cut(t):
		d.before = d.actual
	}
	d.actual = t
	return d.move(t)
}

// goOn reports whether what failed with err is to be tried again, because the moment that passed was not the one wanted. Whether that one has
// passed as well shows at the next attempt.
func (d *deadline) goOn(err error) bool {
	if !os.IsTimeout(err) {
		return false
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.want.Equal(d.actual) {
		return false
	}
	d.actual = d.want
	return d.move(d.want) == nil
}

// Read is that of net.Conn.
func (c *conn) Read(b []byte) (int, error) {
	for {
		n, err := c.Conn.Read(b)
		if err == nil || n > 0 || !c.read.goOn(err) {
			return n, err
		}
	}
}

// Write is that of net.Conn.
func (c *conn) Write(b []byte) (int, error) {
	for done := 0; ; {
		n, err := c.Conn.Write(b[done:])
		done += n
		if err == nil || !c.write.goOn(err) {
			return done, err
		}
	}
}

// SetReadDeadline is that of net.Conn.
func (c *conn) SetReadDeadline(t time.Time) error { return c.read.set(t) }

// SetWriteDeadline is that of net.Conn.
func (c *conn) SetWriteDeadline(t time.Time) error { return c.write.set(t) }

// SetDeadline is that of net.Conn.
func (c *conn) SetDeadline(t time.Time) error {
	if err := c.read.set(t); err != nil {
		return err
	}
	return c.write.set(t)
}
