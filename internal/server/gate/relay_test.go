package gate

import (
	"math/rand/v2"
	"net"
	"sync"
	"testing"
)

// relay stands between clients and a server on loopback and does to their datagrams what networks do.
type relay struct {
	near   *net.UDPConn // where clients send to
	server *net.UDPAddr

	mu       sync.Mutex
	client   *net.UDPAddr // guarded by mu
	far      *net.UDPConn // guarded by mu: what the server sees as the client
	old      []*net.UDPConn
	sent     [][]byte // guarded by mu: what the client has sent
	loss     float64  // guarded by mu
	limit    int      // guarded by mu: larger datagrams are lost; 0: none is
	reorder  bool     // guarded by mu: every second datagram comes before the first
	held     map[bool][]byte
	hurry    *rand.Rand
	toClient int // guarded by mu: datagrams that went there
	largest  int // guarded by mu
}

func newRelay(t *testing.T, server net.Addr) *relay {
	t.Helper()
	near, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	r := &relay{near: near, server: server.(*net.UDPAddr), hurry: rand.New(rand.NewPCG(1, 2)), held: map[bool][]byte{}}
	r.rebind(t)
	go func() {
		b := make([]byte, 65536)
		for {
			n, from, err := near.ReadFromUDP(b)
			if err != nil {
				return
			}
			r.mu.Lock()
			r.client = from
			r.sent = append(r.sent, append([]byte(nil), b[:n]...))
			r.mu.Unlock()
			r.pass(b[:n], true)
		}
	}()
	t.Cleanup(func() {
		near.Close()
		r.mu.Lock()
		defer r.mu.Unlock()
		for _, c := range r.old {
			c.Close()
		}
	})
	return r
}

// set changes what the relay does.
func (r *relay) set(change func(*relay)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	change(r)
}

// rebind gives the client another address in the eyes of the server.
func (r *relay) rebind(t *testing.T) {
	t.Helper()
	far, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	r.mu.Lock()
	r.far, r.old = far, append(r.old, far)
	r.mu.Unlock()
	go func() {
		b := make([]byte, 65536)
		for {
			n, _, err := far.ReadFromUDP(b)
			if err != nil {
				return
			}
			r.mu.Lock()
			current := r.far == far
			r.mu.Unlock()
			if current { // what comes to an address that the client has left is lost
				r.pass(b[:n], false)
			}
		}
	}()
}

func (r *relay) pass(b []byte, up bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.hurry.Float64() < r.loss || r.limit > 0 && len(b) > r.limit {
		return
	}
	out := [][]byte{b}
	if r.reorder {
		if held := r.held[up]; held == nil && r.hurry.IntN(2) == 0 {
			r.held[up] = append([]byte(nil), b...)
			return
		} else if held != nil {
			out, r.held[up] = append(out, held), nil
		}
	}
	for _, d := range out {
		if up {
			_, _ = r.far.WriteToUDP(d, r.server)
			continue
		}
		r.toClient++
		r.largest = max(r.largest, len(d))
		_, _ = r.near.WriteToUDP(d, r.client)
	}
}

// replay sends the server something that the client has sent before, from an address that it never had.
func (r *relay) replay(t *testing.T, which func(sent [][]byte) []byte) *net.UDPConn {
	t.Helper()
	c, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	r.mu.Lock()
	b := which(r.sent)
	r.mu.Unlock()
	if _, err := c.WriteToUDP(b, r.server); err != nil {
		t.Fatal(err)
	}
	return c
}
