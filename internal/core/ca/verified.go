package ca

import (
	"crypto/sha256"
	"sync"
)

// verified remembers which certificates bore a good signature of which CA, since devices show the same one again and again, and checking a signature costs as
// much as half of everything else there is to a connection. That a signature is good never changes; whether its CA and its certificate are still good
// is asked each time elsewhere. It holds two generations, of which the older one goes when the younger is full.
type verified struct {
	mu           sync.Mutex
	young, older map[proof]struct{} // guarded by mu
}

// proof is the SHA-256 of a certificate, and the CA.
type proof struct {
	digest [sha256.Size]byte
	issuer IssuerID
}

// maxVerified bounds one generation.
const maxVerified = 1 << 15

func (v *verified) has(p proof) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	if _, ok := v.young[p]; ok {
		return true
	}
	_, ok := v.older[p]
	if ok {
		v.put(p)
	}
	return ok
}

func (v *verified) add(p proof) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.put(p)
}

// put is add for who holds mu.
func (v *verified) put(p proof) {
	if v.young == nil || len(v.young) >= maxVerified {
		v.older, v.young = v.young, map[proof]struct{}{}
	}
	v.young[p] = struct{}{}
}
