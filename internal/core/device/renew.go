package device

import (
	"crypto/sha256"
	"encoding/binary"
	"math/bits"
)

// Spread is where in its window a device renews, as a fraction of 2^64: the first eight octets of SHA-256 over its external name. It is the same
// at every renewal and as good as random among devices, so a fleet that was enrolled in one night does not renew in one. An agent that
// asks nobody computes the same, since a device knows its name.
func Spread(name string) uint64 {
	sum := sha256.Sum256([]byte(name))
	return binary.BigEndian.Uint64(sum[:8])
}

// RenewAt is when the device called name renews a certificate that ends at notAfter (UTC seconds): before seconds earlier, give or take
// spread. The instant lies in [notAfter-before-spread, notAfter-before+spread). It is 0 when the certificate need not be renewed.
func RenewAt(name string, notAfter, before, spread int64) int64 {
	return renewAt(Spread(name), notAfter, before, spread)
}

func renewAt(fraction uint64, notAfter, before, spread int64) int64 {
	if before <= 0 || notAfter <= 0 {
		return 0
	}
	offset, _ := bits.Mul64(fraction, 2*uint64(max(spread, 0)))
	return notAfter - before - max(spread, 0) + int64(offset)
}

// RenewAt is when d is to renew the certificate in s, in UTC seconds; 0 when it never is, or need not any more.
func (r *Registry) RenewAt(d *Device, s *Slot) int64 {
	if s.Revoked > 0 || len(s.Issuer) == 0 || s.NotAfter == noExpiry || !d.State.Active() {
		return 0
	}
	before, spread, _ := r.renewal(d.Profile)
	// A certificate that is shorter than its profile says, as after a rescue, would be renewed at once, and its shortness be for nothing.
	if begun := issuedAt(s.Serial); begun > 0 && before > 0 && before+spread >= s.NotAfter-begun {
		before, spread = (s.NotAfter-begun)/3, (s.NotAfter-begun)/10
	}
	return RenewAt(d.Name, s.NotAfter, before, spread)
}
