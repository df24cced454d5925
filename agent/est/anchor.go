package est

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"slices"
	"strings"
	"time"

	"mooring/wire/der"
)

// anchorsHeader is how a device tells a Mooring server which roots it trusts, so that people know when an old root may go. Other servers pass
// over it.
const anchorsHeader = "Mooring-Anchors"

// maxReport bounds how many roots are told.
const maxReport = 32

// Report has the requests for certificates in this session say that the device trusts these roots.
func (s *Session) Report(roots []*x509.Certificate) {
	var sums []string
	for _, root := range roots[:min(len(roots), maxReport)] {
		sum := sha256.Sum256(root.Raw)
		sums = append(sums, hex.EncodeToString(sum[:]))
	}
	s.report = strings.Join(sums, ",")
}

// Linked parts the roots of the bundle into those that a device may take over which trusts the given ones, and the others. A root may be taken over
// when it is trusted already, or when a trusted root vouches for its key by a cross certificate that is in the bundle (RFC 4210, section 4.4:
// NewWithOld), over as many generations as there are. That the bundle came over a connection to the right server is not enough: that
// proves a server, not an authority.
func (b *Bundle) Linked(trusted []*x509.Certificate, now time.Time) (linked, others []*x509.Certificate) {
	believed := slices.Clone(trusted)
	others = slices.Clone(b.Roots)
	for more := true; more; {
		more = false
		for i, root := range others {
			if !b.vouched(root, believed, now) {
				continue
			}
			linked, believed = append(linked, root), append(believed, root)
			others = slices.Delete(others, i, i+1)
			more = true
			break
		}
	}
	return linked, others
}

// vouched tells whether root is one of the believed ones, or one of them vouches for it.
func (b *Bundle) vouched(root *x509.Certificate, believed []*x509.Certificate, now time.Time) bool {
	if slices.ContainsFunc(believed, func(known *x509.Certificate) bool { return sameKey(known, root) }) {
		return true
	}
	for _, cross := range b.Others {
		if !sameKey(cross, root) || !cross.IsCA || now.After(cross.NotAfter) {
			continue
		}
		for _, known := range believed {
			if signedBy(cross, known) {
				return true
			}
		}
	}
	return false
}

func sameKey(a, b *x509.Certificate) bool {
	return bytes.Equal(a.RawSubject, b.RawSubject) && bytes.Equal(a.RawSubjectPublicKeyInfo, b.RawSubjectPublicKeyInfo)
}

func signedBy(cert, issuer *x509.Certificate) bool {
	if !bytes.Equal(cert.RawIssuer, issuer.RawSubject) || issuer.KeyUsage != 0 && issuer.KeyUsage&x509.KeyUsageCertSign == 0 {
		return false
	}
	pub, err := der.ParsePublicKey(issuer.RawSubjectPublicKeyInfo)
	return err == nil && der.CheckCertificate(cert, pub) == nil
}
