package body

import (
	"context"
	"sync"

	"mooring/internal/core/ca"
	"mooring/internal/core/device"
	"mooring/internal/core/enrol"
	"mooring/internal/server/gate"
)

// Anchors notes what connections show about the roots that devices trust.
type Anchors struct {
	Enrol *enrol.Service
	// Shown returns the root that a client trusts who completed a handshake under a server name, and false when several would do; nil: not known.
	Shown func(serverName string) (root ca.IssuerID, only bool)
}

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

// Delivered notes which roots of a new generation were handed out. Who asks for the CA certificates need not say who it is; most devices do so
// over the connection on which they then enrol, and some present their certificate.
func (a *Anchors) Delivered(ctx context.Context, peer *gate.Peer, label, reported string) {
	roots := a.Enrol.Successors(label)
	if len(roots) == 0 {
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
		who, err := a.Enrol.Authenticate(ctx, peer.Chain())
		if err != nil { // the CA certificates are public: whoever this is may have them
			return ""
		}
		return who.Device.ID.String()
	}).(string)
	a.Trusts(peer, id, reported)
}

// Trusts notes what a connection shows about the roots that a device trusts, once it has proved who it is, and what the device itself has reported.
func (a *Anchors) Trusts(peer *gate.Peer, id, reported string) {
	if id == "" {
		return
	}
	h := handedOver(peer)
	h.mu.Lock()
	roots := h.roots
	h.mu.Unlock()
	a.Enrol.Trusts(id, device.Delivered, roots...)
	a.Enrol.Trusts(id, device.Reported, a.Enrol.Reported(reported)...)
	if a.Shown == nil || peer.Resumed() { // nobody looked at a chain then
		return
	}
	if root, only := a.Shown(peer.ServerName()); only {
		a.Enrol.Trusts(id, device.Proven, root)
	}
}
