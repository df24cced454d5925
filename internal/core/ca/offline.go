package ca

import (
	"crypto/x509"

	"mooring/internal/base/errs"
)

// IDOf returns the id that a CA with this certificate has.
func IDOf(cert *x509.Certificate) IssuerID {
	return issuerID(cert.RawSubject, cert.RawSubjectPublicKeyInfo)
}

// Offline reports whether the CA's key is not here: a root on a machine of its own, or a parent that somebody else runs. It has no Key, signs
// nothing here, and its revocation lists are imported.
func (i *Issuer) Offline() bool { return i.key == "" }

// errOffline says how to get something signed by a CA whose key is not here.
func (i *Issuer) errOffline() error {
	return errs.New(errs.Unavailable, "the key of CA %q is not here: whoever keeps it signs (mooring ca root …), and the result is imported", i.name)
}
