package gate

import (
	"container/list"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"mooring/internal/base/conf"
)

// guard counts connections and rates, per address and in total. What it remembers is bounded: open connections by their limit, rates by
// limits.tracked_addresses.
type guard struct {
	limits conf.Limits
	total  *rate.Limiter // new TLS connections from everywhere

	mu      sync.Mutex
	open    int                            // guarded by mu
	holding map[netip.Prefix]int           // guarded by mu: open connections of each address that has any
	rates   map[netip.Prefix]*list.Element // guarded by mu: into recent
	recent  *list.List                     // guarded by mu: *rates, the most recently seen first
}

// rates is how often one address comes.
type rates struct {
	from       netip.Prefix
	handshakes *rate.Limiter
	requests   *rate.Limiter
}

// burst is how many seconds' worth of new TLS connections may come at once: a site behind one address comes back together after an outage.
const burst = 4

func newGuard(l conf.Limits) *guard {
	return &guard{limits: l, total: rate.NewLimiter(rate.Limit(l.HandshakeRate), burst*l.HandshakeRate),
		holding: map[netip.Prefix]int{}, rates: map[netip.Prefix]*list.Element{}, recent: list.New()}
}

// network is what counts as one address: an IPv6 host owns its /64. The zero Prefix stands for the Unix socket.
func network(a netip.Addr) netip.Prefix {
	if !a.IsValid() {
		return netip.Prefix{}
	}
	bits := 64
	if a.Is4() {
		bits = 32
	}
	p, err := a.Prefix(bits)
	if err != nil {
		panic("gate: " + err.Error()) // the address is valid and not shorter than bits
	}
	return p
}

// enter takes a place for a connection from a, or says which limit stands against it.
func (g *guard) enter(a netip.Addr, now time.Time, secure bool) reason {
	from := network(a)
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case g.open >= g.limits.Connections:
		return tooManyConnections
	case from.IsValid() && g.holding[from] >= g.limits.AddressConns:
		return tooManyFromAddress
	case secure && !g.of(from).handshakes.AllowN(now, 1):
		return tooFastFromAddress
	case secure && !g.total.AllowN(now, 1):
		return tooFast
	}
	g.open++
	g.holding[from]++
	return admitted
}

// leave gives the place back.
func (g *guard) leave(a netip.Addr) {
	from := network(a)
	g.mu.Lock()
	defer g.mu.Unlock()
	g.open--
	if g.holding[from]--; g.holding[from] == 0 {
		delete(g.holding, from)
	}
}

// request reports whether a may send one more request now.
func (g *guard) request(a netip.Addr, now time.Time) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.of(network(a)).requests.AllowN(now, 1)
}

// of returns the rates of from, forgetting the address that has not been seen for longest if there are too many. The caller holds mu.
func (g *guard) of(from netip.Prefix) *rates {
	if e := g.rates[from]; e != nil {
		g.recent.MoveToFront(e)
		return e.Value.(*rates)
	}
	if g.recent.Len() >= g.limits.TrackedAddresses {
		oldest := g.recent.Back()
		g.recent.Remove(oldest)
		delete(g.rates, oldest.Value.(*rates).from)
	}
	r := &rates{from: from,
		handshakes: rate.NewLimiter(rate.Limit(g.limits.AddressHandshakes), burst*g.limits.AddressHandshakes),
		requests:   rate.NewLimiter(rate.Limit(g.limits.RequestRate), g.limits.RequestBurst)}
	g.rates[from] = g.recent.PushFront(r)
	return r
}

func (g *guard) connections() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.open
}
