package campaign

import (
	"bytes"
	"context"
	"crypto/x509"

	"mooring/internal/base/errs"
	"mooring/internal/core/ca"
	"mooring/internal/core/device"
	"mooring/internal/core/revoke"
	"mooring/wire/der"
)

// revokeOld revokes what the certificate in use replaced: the one that the device had when it was taken in, and every one since and before
// that is not what the campaign wants. The device may have renewed between the start and its turn, and then its last certificate is not the one
// that it was taken in with. Doing it again changes nothing; one that has gone from the records needs no revoking.
func (r *runner) revokeOld(ctx context.Context, c *Campaign, m *member, d *device.Device) error {
	slot := r.slotOf(d)
	behind, err := r.Service.Revoke.Behind(ctx, d, slot.Name)
	if err != nil {
		return err
	}
	old := [][]byte{m.base}
	reached := false // the walk has come to the certificate that the device was taken in with
	for _, cert := range behind {
		is := bytes.Equal(cert.Serial[:], m.base)
		reached = reached || is
		if !is && cert.NotAfter >= r.Now().Unix() && (reached || r.outdated(c, cert, &slot, m.at)) {
			old = append(old, cert.Serial[:])
		}
	}
	for _, serial := range old {
		if len(serial) == 0 || bytes.Equal(serial, slot.Serial) {
			continue
		}
		_, err := r.Service.Revoke.Certificate(ctx, actor(), serial, revoke.Superseded)
		if err != nil && !errs.Is(err, errs.NotFound) {
			return err
		}
	}
	return nil
}

// outdated reports whether a certificate that the newest in the slot replaced is not what the campaign wants. The key of one that is kept in
// brief is not known: it is outdated when the newest was there already when the device was seen, at the time seen, to use what it has.
func (s *Service) outdated(c *Campaign, cert *ca.Certificate, slot *device.Slot, seen int64) bool {
	if c.Algorithm == "" && c.To == "" { // whatever came later than what it was taken in with
		return false
	}
	if cert.DER == nil {
		return ca.IssuedAt(slot.Serial) <= seen
	}
	return !s.conforms(c, &device.Slot{Issuer: cert.Issuer[:], Key: string(keyOf(cert.DER))})
}

// keyOf is the kind of the key in a certificate, "" when that cannot be read.
func keyOf(raw []byte) der.KeyKind {
	cert, err := x509.ParseCertificate(raw)
	if err != nil {
		return ""
	}
	pub, err := der.ParsePublicKey(cert.RawSubjectPublicKeyInfo)
	if err != nil {
		return ""
	}
	return der.KindOf(pub)
}
