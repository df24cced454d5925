package trust

import (
	"bytes"
	"sync"

	"mooring/wire/its"
	"mooring/wire/spdu"
)

// Peer is another authority with which much is exchanged: what its signatures are verified by, and what messages to it are encrypted with.
type Peer struct {
	Signatory *its.Signatory
	Recipient spdu.Recipient
}

// peersMost is how many authorities are prepared for: each takes 780 KiB.
const peersMost = 16

// Peers keeps peers prepared, for who found them on the trust list: it does not say whether they are believed. The zero value is ready, and safe for concurrent use.
type Peers struct {
	mu   sync.Mutex
	kept map[its.HashedId8]*Peer // guarded by mu
}

// Of returns the peer with a certificate that has this digest and a key for encryption.
func (p *Peers) Of(id its.HashedId8, x *its.Certificate) (*Peer, error) {
	p.mu.Lock()
	have, full := p.kept[id], len(p.kept) >= peersMost
	p.mu.Unlock()
	if have != nil && x.Octets != nil && bytes.Equal(have.Signatory.Certificate.Octets, x.Octets) {
		return have, nil
	}
	signatory, err := its.NewSignatory(x)
	if err != nil {
		return nil, err
	}
	recipient, err := spdu.ToCertificate(x)
	if err != nil {
		return nil, err
	}
	if recipient, err = recipient.Prepared(); err != nil {
		return nil, err
	}
	peer := &Peer{signatory, recipient}
	if full && have == nil {
		return peer, nil
	}
	peer.Signatory = signatory.Prepare()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.kept == nil {
		p.kept = map[its.HashedId8]*Peer{}
	}
	p.kept[id] = peer
	return peer, nil
}
