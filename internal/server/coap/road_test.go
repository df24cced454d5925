package coap_test

import (
	"bytes"
	"net"
	"sync"
	"testing"

	agent "mooring/agent/coap"
	"mooring/internal/core/message"
	wire "mooring/wire/coap"
)

// road stands between a device and the server: it can give the device another address, and send again what the device has sent.
type road struct {
	t      *testing.T // who made it: sockets live for as long
	near   *net.UDPConn
	server *net.UDPAddr

	mu     sync.Mutex
	device *net.UDPAddr // guarded by mu
	far    *net.UDPConn // guarded by mu
	sent   [][]byte     // guarded by mu
}

func listenUDP(t *testing.T) *net.UDPConn {
	t.Helper()
	c, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func newRoad(t *testing.T, server net.Addr) *road {
	t.Helper()
	r := &road{t: t, near: listenUDP(t), server: server.(*net.UDPAddr)}
	r.move()
	go func() {
		b := make([]byte, 4096)
		for {
			n, from, err := r.near.ReadFromUDP(b)
			if err != nil {
				return
			}
			r.mu.Lock()
			r.device, r.sent = from, append(r.sent, bytes.Clone(b[:n]))
			_, _ = r.far.WriteToUDP(b[:n], r.server)
			r.mu.Unlock()
		}
	}()
	return r
}

// move gives the device another source port.
func (r *road) move() {
	r.t.Helper()
	far := listenUDP(r.t)
	r.mu.Lock()
	r.far = far
	r.mu.Unlock()
	go func() {
		b := make([]byte, 4096)
		for {
			n, _, err := far.ReadFromUDP(b)
			if err != nil {
				return
			}
			r.mu.Lock()
			if r.far == far {
				_, _ = r.near.WriteToUDP(b[:n], r.device)
			}
			r.mu.Unlock()
		}
	}()
}

// again sends everything that the device has sent once more, from an address that is not its own.
func (r *road) again(t *testing.T) {
	t.Helper()
	c := listenUDP(t)
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, b := range r.sent {
		if _, err := c.WriteToUDP(b, r.server); err != nil {
			t.Fatal(err)
		}
	}
}

// TestRoads has what networks and strangers do to an association over which somebody observes.
func TestRoads(t *testing.T) {
	s := start(t)
	r := newRoad(t, s.gate.Addr())
	c := s.dialAt(t, r.near.LocalAddr().String())
	if _, _, err := c.Observe(t.Context(), "cmd/dev-1/+"); err != nil {
		t.Fatal(err)
	}
	published := func() (n int) { s.set(func() { n = len(s.published) }); return n }
	say := func(t *testing.T) {
		t.Helper()
		before := published()
		if err := c.Publish(t.Context(), agent.Publication{Topic: "v1/dev-1/telemetry/x", Payload: []byte("x"), Confirmed: true}); err != nil {
			t.Fatal(err)
		}
		if n := published(); n != before+1 {
			t.Errorf("published %d times", n-before)
		}
	}
	tell := func(t *testing.T, text string) {
		t.Helper()
		s.publish(message.Message{Topic: "cmd/dev-1/go", Payload: bytes.Repeat([]byte(text), 30), QoS: 1})
		if n := wait(t, c); !bytes.HasPrefix(n.Body, []byte(text)) || n.Code != wire.Content {
			t.Errorf("got %+v, want %s", n, text)
		}
	}
	say(t)
	tell(t, "at home")
	t.Run("roaming by source-port change", func(t *testing.T) {
		for range 3 {
			r.move()
			say(t) // the server learns the address by the newest record, and believes it once two pings are answered
			tell(t, "on the way")
		}
		s.set(func() {
			if n := len(s.attached); n != 1 {
				t.Errorf("%d connections were made", n)
			}
		})
	})
	t.Run("replayed records, from another address", func(t *testing.T) {
		before := published()
		r.again(t)
		tell(t, "still here")
		say(t)
		if n := published(); n != before+1 {
			t.Errorf("what was replayed is published: %d messages", n-before)
		}
	})
}
