package gate

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"net/http"
	"net/netip"
	"sync"

	"mooring/internal/core/access"
)

// Peer is who is at the other end of a connection, as far as the connection itself proves it. Only this package makes one. It belongs to the
// connection: all requests on it have the same. Safe for concurrent use.
type Peer struct {
	conn    *conn // nil with DTLS
	address netip.Addr
	port    uint16
	local   access.Actor
	chain   [][]byte
	digest  *[sha256.Size]byte // what is left of chain after Forget
	leaf    *x509.Certificate
	resumed bool
	server  string

	bindings func() [][]byte // nil without TLS

	mu    sync.Mutex
	cache map[any]*slot // guarded by mu; at most maxCached
}

type slot struct {
	once  sync.Once
	value any
}

// maxCached bounds what one connection remembers.
const maxCached = 8

// PeerFrom returns who sent r. It reports false for a request that did not come through a Gate.
func PeerFrom(r *http.Request) (*Peer, bool) {
	p, ok := r.Context().Value(peerKey{}).(*Peer)
	return p, ok
}

// secure adds what the handshake proved.
func (p *Peer) secure(state tls.ConnectionState) {
	for _, c := range state.PeerCertificates {
		p.chain = append(p.chain, c.Raw)
	}
	if len(state.PeerCertificates) > 0 {
		p.leaf = state.PeerCertificates[0]
	}
	p.resumed, p.server = state.DidResume, state.ServerName
	p.bindings = sync.OnceValue(func() [][]byte { return bindings(&state) })
}

// Chain returns the client's certificates as it sent them, in DER, leaf first; nil when it presented none. The handshake proved that the client
// holds the leaf's key. Nothing else has been checked: not signatures, dates, names or revocation, and the rest of the chain may be
// anything. On a resumed connection it is the chain of the first one. The caller must not change it.
func (p *Peer) Chain() [][]byte { return p.chain }

// Leaf returns the first certificate of Chain, parsed; nil when there is none. The caller must not change it.
func (p *Peer) Leaf() *x509.Certificate { return p.leaf }

// Address returns where the connection comes from, IPv4 unmapped; the zero Addr on the Unix socket.
func (p *Peer) Address() netip.Addr { return p.address }

// AddrPort returns Address with the client's port.
func (p *Peer) AddrPort() netip.AddrPort { return netip.AddrPortFrom(p.address, p.port) }

// Resumed reports whether the TLS session was resumed, so that the client's certificates were proven on an earlier connection.
func (p *Peer) Resumed() bool { return p.resumed }

// ServerName returns the name that the client asked for by SNI, which chose the certificate that it was shown; "" when it asked for none.
func (p *Peer) ServerName() string { return p.server }

// Local returns the user at the other end of the Unix socket, and false on every other connection. The server's own user and root are
// administrators, all others have no role.
func (p *Peer) Local() (access.Actor, bool) {
	if p.local.Kind != access.KindLocal {
		return access.Actor{}, false
	}
	return p.local, true
}

// Bindings returns the values that bind a message to this connection; any one of them proves that the message was made for it. TLS 1.3:
// tls-exporter (RFC 9266). TLS 1.2: tls-unique (RFC 5929, section 3) and tls-exporter. Nil without TLS. They are computed once.
func (p *Peer) Bindings() [][]byte {
	if p.bindings == nil {
		return nil
	}
	return p.bindings()
}

const (
	bindingLabel  = "EXPORTER-Channel-Binding" // RFC 9266, section 4.2
	bindingOctets = 32
)

func bindings(state *tls.ConnectionState) [][]byte {
	var all [][]byte
	if len(state.TLSUnique) > 0 { // empty in TLS 1.3
		all = append(all, state.TLSUnique)
	}
	// RFC 9266 wants an empty context. Before TLS 1.3 that differs from no context (RFC 5705, section 4), which libraries mix up, so either is
	// good: both are known to this connection's ends only. In TLS 1.3 they are the same.
	for _, context := range [][]byte{{}, nil} {
		value, err := state.ExportKeyingMaterial(bindingLabel, context, bindingOctets)
		if err == nil { // acceptable made sure that it works
			all = append(all, value)
		}
		if state.Version >= tls.VersionTLS13 {
			break
		}
	}
	return all
}

// Cache returns what compute gave for key the first time on this connection, so that requests on a kept connection do not pay again for
// what cannot change, such as the path of the certificates. Put what can change, such as a version of the trusted issuers, into the key. Only
// a few keys are kept. compute must not panic.
func (p *Peer) Cache(key any, compute func() any) any {
	p.mu.Lock()
	s := p.cache[key]
	if s == nil {
		if p.cache == nil || len(p.cache) >= maxCached {
			p.cache = map[any]*slot{}
		}
		s = &slot{}
		p.cache[key] = s
	}
	p.mu.Unlock()
	s.once.Do(func() { s.value = compute() })
	return s.value
}
