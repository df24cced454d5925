package enrol

import (
	"context"
	"crypto/sha256"
	"sync"
	"time"

	"mooring/internal/core/access"
	"mooring/internal/core/ca"
	"mooring/internal/core/device"
)

// presented remembers for a moment who showed a certificate: devices that come back often would otherwise be read from the database as often, which costs
// most of what there is to a connection besides its cryptography. What is remembered counts only as long as the registry says that the device is unchanged
// (device.Registry.Unchanged: within one process, so with SQLite alone), and the CA, its key and the dates are asked each time. It holds two generations,
// of which the older one goes when the younger is full.
type presented struct {
	mu           sync.Mutex
	young, older map[[sha256.Size]byte]*showing // guarded by mu; by the SHA-256 of the certificate
}

// showing is what was found.
type showing struct {
	id                  Identity
	notBefore, notAfter time.Time
	mark                device.Mark // taken before the device was read
	at                  time.Time
}

const (
	// maxShown bounds one generation: some 2 KiB each.
	maxShown = 4096
	// shownFor is for how long what was found is taken for so, whatever else changes that the registry does not know of.
	shownFor = time.Minute
)

// recall returns who showed the certificate with this SHA-256, if that is known and all is as it was, or nil.
func (s *Service) recall(ctx context.Context, digest [sha256.Size]byte, now time.Time) *Identity {
	k := s.shown.get(digest)
	switch {
	case k == nil, now.Before(k.at), now.Sub(k.at) > shownFor, now.Before(k.notBefore), now.After(k.notAfter):
		return nil
	case !s.Devices.Unchanged(k.id.Device.ID, k.mark), !s.CA.Proven(ctx, k.id.Own.Issuer, digest):
		return nil
	}
	id := k.id // the caller may change what it gets
	return &id
}

// retain has id, who showed the certificate with this SHA-256, recalled. People and services, whose certificates grant roles, are looked for each time.
func (s *Service) retain(digest [sha256.Size]byte, id *Identity, mark device.Mark, leaf validity, now time.Time) {
	if id.role != access.RoleNone || id.Evidence != ca.EvidenceOperational || !s.Devices.Unchanged(id.Device.ID, mark) {
		return
	}
	s.shown.put(digest, &showing{id: *id, notBefore: leaf.notBefore, notAfter: leaf.notAfter, mark: mark, at: now})
}

// free reports whether the device's certificate with this digest and serial number is not on hold. A hold stands in no slot, but raises the device's policy number
// in its transaction; so who was free under a number is free as long as it stands, whichever process reads it.
func (s *Service) free(ctx context.Context, digest [sha256.Size]byte, d *device.Device, serial []byte) (bool, error) {
	if s.held.at(digest) == d.Policy {
		return true, nil
	}
	_, gone, err := s.revoked(ctx, serial)
	if err != nil || gone {
		return false, err
	}
	s.held.put(digest, d.Policy)
	return true, nil
}

// unheld remembers under which policy number of its device a certificate was found not to be on hold, in two generations as presented does.
type unheld struct {
	mu           sync.Mutex
	young, older map[[sha256.Size]byte]int64 // guarded by mu
}

// maxUnheld bounds one generation: some 100 octets each.
const maxUnheld = 1 << 15

// at returns the number, 0 if none is known, which no device has.
func (u *unheld) at(digest [sha256.Size]byte) int64 {
	u.mu.Lock()
	defer u.mu.Unlock()
	if policy, ok := u.young[digest]; ok {
		return policy
	}
	policy, ok := u.older[digest]
	if ok {
		u.keep(digest, policy)
	}
	return policy
}

func (u *unheld) put(digest [sha256.Size]byte, policy int64) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.keep(digest, policy)
}

// keep is put for who holds mu.
func (u *unheld) keep(digest [sha256.Size]byte, policy int64) {
	if u.young == nil || len(u.young) >= maxUnheld {
		u.older, u.young = u.young, map[[sha256.Size]byte]int64{}
	}
	u.young[digest] = policy
}

// validity are the dates of a certificate.
type validity struct{ notBefore, notAfter time.Time }

func (p *presented) get(digest [sha256.Size]byte) *showing {
	p.mu.Lock()
	defer p.mu.Unlock()
	if k := p.young[digest]; k != nil {
		return k
	}
	return p.older[digest] // it moves up when it is looked for again, soon
}

func (p *presented) put(digest [sha256.Size]byte, k *showing) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.young == nil || len(p.young) >= maxShown {
		p.older, p.young = p.young, make(map[[sha256.Size]byte]*showing)
	}
	p.young[digest] = k
}
