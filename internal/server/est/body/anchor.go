package est

import (
	"net/http"
	"sync"

	"mooring/internal/core/ca"
	"mooring/internal/core/device"
	"mooring/internal/server/gate"
)

// AnchorsHeader is how a device says which roots it trusts: the SHA-256 of their certificates in hex, parted by commas. It is ours; servers that do
// not know it pass over it.
const AnchorsHeader = "Mooring-Anchors"

// handed are the roots that were handed out over a connection, which may turn out to be a device's.
type handed struct {
	mu    sync.Mutex
	roots []ca.IssuerID // guarded by mu; at most maxHanded
}

// maxHanded bounds what is remembered of one connection.
const maxHanded = 64

type (
	handedKey struct{}
	knownKey  struct{}
)

func handedOver(p *gate.Peer) *handed {
	return p.Cache(handedKey{}, func() any { return new(handed) }).(*handed)
}

// delivered notes which roots of a new generation were handed out. Who asks for the CA certificates need not say who it is; most devices do so
// over the connection on which they then enrol, and some present their certificate.
func (s *server) delivered(r *http.Request, label string) {
	roots := s.Enrol.Successors(label)
	peer, ok := gate.PeerFrom(r)
	if len(roots) == 0 || !ok {
		return
	}
	h := handedOver(peer)
	h.mu.Lock()
	if len(h.roots)+len(roots) <= maxHanded {
		h.roots = append(h.roots, roots...)
	}
	h.mu.Unlock()
	if len(peer.Chain()) == 0 {
		return
	}
	id := peer.Cache(knownKey{}, func() any {
		who, err := s.Enrol.Authenticate(r.Context(), peer.Chain())
		if err != nil { // the CA certificates are public: whoever this is may have them
			return ""
		}
		return who.Device.ID.String()
	}).(string)
	s.trusts(r, peer, id)
}

// trusts notes what a connection shows about the roots that a device trusts, once it has proved who it is.
func (s *server) trusts(r *http.Request, peer *gate.Peer, id string) {
	if id == "" {
		return
	}
	h := handedOver(peer)
	h.mu.Lock()
	roots := h.roots
	h.mu.Unlock()
	s.Enrol.Trusts(id, device.Delivered, roots...)
	s.Enrol.Trusts(id, device.Reported, s.Enrol.Reported(r.Header.Get(AnchorsHeader))...)
	if s.Anchor == nil || peer.Resumed() { // nobody looked at a chain then
		return
	}
	if root, only := s.Anchor(peer.ServerName()); only {
		s.Enrol.Trusts(id, device.Proven, root)
	}
}
