package estcoap_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"sync"
	"testing"
	"time"

	piondtls "github.com/pion/dtls/v3"

	"mooring/internal/app/apptest"
	"mooring/internal/base/conf"
	wire "mooring/wire/coap"
)

// start runs a platform with EST over CoAP.
func start(t *testing.T, profiles ...apptest.Profile) *apptest.Platform {
	t.Helper()
	return apptest.Start(t, func(c *conf.Config) { c.Listen.COAPS = "127.0.0.1:0" }, profiles...)
}

// roaming is a socket that can be exchanged for another one, which gives its user another address.
type roaming struct {
	mu     sync.Mutex
	socket *net.UDPConn // guarded by mu
	in     chan []byte
	from   net.Addr
	closed chan struct{}
	ring   chan struct{}
}

func newRoaming(t *testing.T, server net.Addr) *roaming {
	r := &roaming{in: make(chan []byte, 100), from: server, closed: make(chan struct{}), ring: make(chan struct{})}
	r.rebind(t)
	return r
}

func (r *roaming) rebind(t *testing.T) {
	t.Helper()
	socket, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { socket.Close() })
	r.mu.Lock()
	old := r.socket
	r.socket = socket
	r.mu.Unlock()
	if old != nil {
		old.Close()
	}
	go func() {
		b := make([]byte, 65536)
		for {
			n, _, err := socket.ReadFromUDP(b)
			if err != nil {
				return
			}
			r.in <- bytes.Clone(b[:n])
		}
	}()
}

func (r *roaming) ReadFrom(b []byte) (int, net.Addr, error) {
	r.mu.Lock()
	ring := r.ring
	r.mu.Unlock()
	select {
	case d := <-r.in:
		return copy(b, d), r.from, nil
	case <-ring:
		return 0, nil, context.DeadlineExceeded
	case <-r.closed:
		return 0, nil, net.ErrClosed
	}
}

func (r *roaming) WriteTo(b []byte, to net.Addr) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.socket.WriteTo(b, to)
}

func (r *roaming) Close() error                     { close(r.closed); return nil }
func (r *roaming) LocalAddr() net.Addr              { return r.from }
func (r *roaming) SetDeadline(t time.Time) error    { return r.SetReadDeadline(t) }
func (r *roaming) SetWriteDeadline(time.Time) error { return nil }

// SetReadDeadline is called by pion/dtls to end a read, and to take that back.
func (r *roaming) SetReadDeadline(t time.Time) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if t.IsZero() {
		r.ring = make(chan struct{})
	} else {
		close(r.ring)
	}
	return nil
}

// client is a device that says whatever a test wants.
type client struct {
	conn  *piondtls.Conn
	road  *roaming
	id    uint16
	token int
	szx   uint8
}

func address(t *testing.T, p *apptest.Platform) *net.UDPAddr {
	t.Helper()
	at, err := net.ResolveUDPAddr("udp", p.Addresses().CoAPS[len("coaps://"):])
	if err != nil {
		t.Fatal(err)
	}
	return at
}

// tryDial makes an association; without suites it offers CCM_8.
func tryDial(t *testing.T, p *apptest.Platform, options ...piondtls.ClientOption) (*client, error) {
	t.Helper()
	to := address(t, p)
	road := newRoaming(t, to)
	all := append([]piondtls.ClientOption{piondtls.WithRootCAs(p.Pool()), piondtls.WithServerName("127.0.0.1"),
		piondtls.WithExtendedMasterSecret(piondtls.RequireExtendedMasterSecret), piondtls.WithConnectionIDGenerator(piondtls.OnlySendCIDGenerator()),
		piondtls.WithFlightInterval(300 * time.Millisecond)}, options...)
	conn, err := piondtls.ClientWithOptions(road, to, all...)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if err := conn.HandshakeContext(ctx); err != nil {
		_ = conn.Close()
		return nil, err
	}
	t.Cleanup(func() { conn.Close() })
	return &client{conn: conn, road: road, szx: wire.MaxSZX, id: uint16(time.Now().UnixNano())}, nil
}

func dial(t *testing.T, p *apptest.Platform, pair tls.Certificate) *client {
	t.Helper()
	c, err := tryDial(t, p, piondtls.WithCertificates(pair), piondtls.WithCipherSuites(piondtls.TLS_ECDHE_ECDSA_WITH_AES_128_CCM_8))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// ask sends a message with an ID and a token of its own until it is answered, acknowledging what comes by itself.
func (c *client) ask(t *testing.T, m *wire.Message) *wire.Message {
	t.Helper()
	c.id++
	c.token++
	m.ID, m.Token = c.id, fmt.Appendf(nil, "%x", c.token)
	return c.again(t, m)
}

// again sends a message as it is.
func (c *client) again(t *testing.T, m *wire.Message) *wire.Message {
	t.Helper()
	b := make([]byte, 2048)
	for range 30 {
		if _, err := c.conn.Write(m.Append(nil)); err != nil {
			t.Fatal(err)
		}
		for {
			if err := c.conn.SetReadDeadline(time.Now().Add(2 * time.Second)); err != nil {
				t.Fatal(err)
			}
			n, err := c.conn.Read(b)
			if errors.Is(err, context.DeadlineExceeded) {
				break
			}
			if err != nil {
				t.Fatalf("asking: %v", err)
			}
			a, err := wire.Parse(bytes.Clone(b[:n]))
			if err != nil {
				t.Fatal(err)
			}
			switch {
			case a.Type == wire.Confirmable && a.Code == wire.Empty:
				c.say(t, &wire.Message{Type: wire.Reset, ID: a.ID})
			case a.Type == wire.Confirmable:
				c.say(t, &wire.Message{Type: wire.Acknowledgement, ID: a.ID})
			}
			if a.Code != wire.Empty && bytes.Equal(a.Token, m.Token) {
				return a
			}
		}
	}
	t.Fatalf("%s was never answered", m.Code)
	return nil
}

func (c *client) say(t *testing.T, m *wire.Message) {
	t.Helper()
	if _, err := c.conn.Write(m.Append(nil)); err != nil {
		t.Fatal(err)
	}
}

func format(f wire.Format) wire.Option { return wire.UintOption(wire.ContentFormat, uint32(f)) }
func accept(f wire.Format) wire.Option { return wire.UintOption(wire.Accept, uint32(f)) }

// get fetches a resource, in blocks of the client's size.
func (c *client) get(t *testing.T, path string, options ...wire.Option) *wire.Message {
	t.Helper()
	return c.rest(t, wire.GET, path, nil, c.ask(t, &wire.Message{Code: wire.GET, Options: append(append(wire.PathOptions(path), options...), c.block2(0)...)}), options)
}

func (c *client) block2(num uint32) wire.Options {
	if c.szx == wire.MaxSZX && num == 0 {
		return nil
	}
	return wire.Options{{Number: wire.Block2, Value: wire.Block{Num: num, SZX: c.szx}.Value()}}
}

// post sends a body, in blocks of the client's size, and returns the whole answer.
func (c *client) post(t *testing.T, path string, body []byte, options ...wire.Option) *wire.Message {
	t.Helper()
	for num := uint32(0); ; num++ {
		a, more := c.block(t, path, body, num, options...)
		if !more || a.Code != wire.Continue {
			return c.rest(t, wire.POST, path, body, a, options)
		}
	}
}

// block sends one block of a body.
func (c *client) block(t *testing.T, path string, body []byte, num uint32, options ...wire.Option) (a *wire.Message, more bool) {
	t.Helper()
	part, b, ok := wire.Cut(body, wire.Block{Num: num, SZX: c.szx})
	if !ok {
		t.Fatalf("there is no block %d", num)
	}
	m := &wire.Message{Code: wire.POST, Options: append(wire.PathOptions(path), options...), Payload: part}
	if b.More || b.Num > 0 {
		m.Options = append(m.Options, wire.Option{Number: wire.Block1, Value: b.Value()})
	}
	if !b.More {
		m.Options = append(m.Options, c.block2(0)...)
	}
	return c.ask(t, m), b.More
}

// rest fetches what is left of an answer; the message that is returned holds all of it.
func (c *client) rest(t *testing.T, code wire.Code, path string, _ []byte, a *wire.Message, options wire.Options) *wire.Message {
	t.Helper()
	body := a.Payload
	for next := a; ; {
		value, ok := next.Options.Get(wire.Block2)
		if !ok {
			break
		}
		b, err := wire.ParseBlock(value)
		if err != nil {
			t.Fatal(err)
		}
		if !b.More {
			break
		}
		next = c.ask(t, &wire.Message{Code: code, Options: append(append(wire.PathOptions(path), options...), wire.Option{Number: wire.Block2, Value: wire.Block{Num: b.Num + 1, SZX: b.SZX}.Value()})})
		if next.Code != a.Code {
			t.Fatalf("block %d of the answer: %s %q", b.Num+1, next.Code, next.Payload)
		}
		before, _ := a.Options.Get(wire.ETag)
		if now, ok := next.Options.Get(wire.ETag); !ok || !bytes.Equal(now, before) {
			t.Errorf("block %d has the ETag %x, the first %x", b.Num+1, now, before)
		}
		body = append(body[:len(body):len(body)], next.Payload...)
	}
	out := *a
	out.Payload = body
	return &out
}

// withDeadline is a context that ends soon: long enough to see that nobody answers.
func withDeadline(t *testing.T) (context.Context, context.CancelFunc) {
	return context.WithTimeout(t.Context(), 500*time.Millisecond)
}
