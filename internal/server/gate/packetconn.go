package gate

import (
	"net"
	"net/netip"
	"os"
	"sync"
	"time"
)

// endpoint is an address that compares by value: pion/dtls asks at each record whether it is the same as before.
type endpoint struct{ netip.AddrPort }

// Network is that of net.Addr.
func (endpoint) Network() string { return "udp" }

// packet is a datagram that came from an address.
type packet struct {
	data []byte
	from endpoint
}

// queued bounds the datagrams that wait for one association.
const queued = 32

// packetConn is the part of a socket that belongs to one association: what it is given by push is read, what is written goes out by send.
type packetConn struct {
	local net.Addr
	send  func(b []byte, to net.Addr) (int, error)
	gone  func()

	in     chan packet
	closed chan struct{}
	once   sync.Once
	read   alarm
}

func newPacketConn(local net.Addr) *packetConn {
	return &packetConn{local: local, in: make(chan packet, queued), closed: make(chan struct{}), read: alarm{ring: make(chan struct{})}}
}

// push hands over a datagram; one that finds no room is lost, as datagrams may be.
func (c *packetConn) push(p packet) bool {
	select {
	case c.in <- p:
		return true
	default:
		return false
	}
}

// ReadFrom is that of net.PacketConn.
func (c *packetConn) ReadFrom(b []byte) (int, net.Addr, error) {
	select {
	case <-c.closed:
		return 0, nil, net.ErrClosed
	case <-c.read.wait():
		return 0, nil, os.ErrDeadlineExceeded
	case p := <-c.in:
		return copy(b, p.data), p.from, nil
	}
}

// WriteTo is that of net.PacketConn.
func (c *packetConn) WriteTo(b []byte, to net.Addr) (int, error) {
	select {
	case <-c.closed:
		return 0, net.ErrClosed
	default:
		return c.send(b, to)
	}
}

// Close is that of net.PacketConn.
func (c *packetConn) Close() error {
	c.once.Do(func() { close(c.closed); c.gone() })
	return nil
}

// LocalAddr is that of net.PacketConn.
func (c *packetConn) LocalAddr() net.Addr { return c.local }

// SetDeadline is that of net.PacketConn.
func (c *packetConn) SetDeadline(t time.Time) error { return c.SetReadDeadline(t) }

// SetReadDeadline is that of net.PacketConn.
func (c *packetConn) SetReadDeadline(t time.Time) error { c.read.set(t); return nil }

// SetWriteDeadline is that of net.PacketConn. A datagram leaves at once or is lost, so there is nothing to wait for.
func (c *packetConn) SetWriteDeadline(time.Time) error { return nil }

// alarm ends a read that waits. pion/dtls minds deadlines itself: it sets one here only to give a read up, a moment long past, and takes it back then.
type alarm struct {
	mu   sync.Mutex
	ring chan struct{} // guarded by mu; closed when reads are to end
}

func (a *alarm) wait() <-chan struct{} {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.ring
}

func (a *alarm) set(t time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	rings := false
	select {
	case <-a.ring:
		rings = true
	default:
	}
	switch {
	case t.IsZero() && rings:
		a.ring = make(chan struct{})
	case !t.IsZero() && !rings:
		close(a.ring)
	}
}
