package ca

import (
	"bytes"
	"crypto/x509"

	"mooring/internal/base/errs"
	"mooring/internal/core/ceremony/minutes"
)

// NewCross decides what the cross certificate says by which the root issuer vouches for the root subject: NewWithOld when issuer is the older
// one, OldWithNew when it is the newer (RFC 4210, section 4.4). It ends when the first of the two ends.
func NewCross(issuer, subject *x509.Certificate, now int64) (CACertificate, error) {
	for _, root := range []*x509.Certificate{issuer, subject} {
		if err := minutes.CheckRoot(root); err != nil {
			return CACertificate{}, err
		}
	}
	c := CACertificate{Subject: subject.RawSubject, SPKI: subject.RawSubjectPublicKeyInfo, PathLen: PathLen(subject), Issuer: issuer, Cross: true,
		NotBefore: max(now-defaultBackdate, issuer.NotBefore.Unix(), subject.NotBefore.Unix()), NotAfter: min(issuer.NotAfter.Unix(), subject.NotAfter.Unix())}
	if bytes.Equal(issuer.RawSubjectPublicKeyInfo, subject.RawSubjectPublicKeyInfo) {
		return c, errs.New(errs.Invalid, "both roots have the same key: there is nothing to vouch for")
	}
	if c.NotAfter <= now {
		return c, errs.New(errs.Invalid, "one of the two roots has ended")
	}
	room := PathLen(issuer)
	if room < 0 {
		return c, nil
	}
	if !bytes.Equal(issuer.RawSubject, subject.RawSubject) { // else it is self-issued and does not count (RFC 5280, section 4.2.1.9)
		room--
	}
	if c.PathLen < 0 || c.PathLen > room {
		c.PathLen = room
	}
	if room < 0 || room == 0 && PathLen(subject) != 0 {
		return c, errs.New(errs.Invalid, "the root %s has no room for the tier that a cross certificate adds: its path length is %d, and there must be CAs below %s",
			issuer.Subject, PathLen(issuer), subject.Subject)
	}
	return c, nil
}

// crossMargin is by how many octets a cross certificate should be shorter than the self-signed one of the same key.
const crossMargin = 4

// ComesFirst reports whether a cross certificate is sorted before the self-signed certificate of the same key in a DER SET OF, with room to
// spare. With NewWithNew first, clients that take the first certificate that fits do not find the way from the new root to the old one.
func ComesFirst(cross, root []byte) bool { return len(cross)+crossMargin <= len(root) }
