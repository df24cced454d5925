package agent

import (
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"

	"mooring/agent/durable"
	"mooring/wire/der"
)

// Identity is a certificate with its key, as it is in use.
type Identity struct {
	Chain []*x509.Certificate // the certificate of the device, then its intermediates
	Key   crypto.Signer
}

// Certificate is the certificate of the device.
func (i *Identity) Certificate() *x509.Certificate { return i.Chain[0] }

// TLS is the identity in the form that crypto/tls takes.
func (i *Identity) TLS() *tls.Certificate {
	c := &tls.Certificate{PrivateKey: i.Key, Leaf: i.Chain[0]}
	for _, cert := range i.Chain {
		c.Certificate = append(c.Certificate, cert.Raw)
	}
	return c
}

// String keeps the key out of printed text.
func (i *Identity) String() string {
	return fmt.Sprintf("agent.Identity(%v, serial %x, key withheld)", i.Chain[0].Subject, i.Chain[0].SerialNumber)
}

// GoString keeps the key out of %#v.
func (i *Identity) GoString() string { return i.String() }

// MarshalText keeps the key out of JSON and logs.
func (i *Identity) MarshalText() ([]byte, error) { return []byte(i.String()), nil }

// Identity reads the identity in use, or returns ErrNotEnrolled. It changes with each renewal.
func (a *Agent) Identity() (*Identity, error) {
	if !a.folder.enrolled() {
		return nil, ErrNotEnrolled
	}
	// The generation is looked up once, so that a renewal in the meantime does not mix two. The one before is kept.
	return a.load(a.folder.path(genFolder, strconv.Itoa(a.folder.inUse())))
}

// Roots are the certificates by which the device believes its peers: those that its server named at the last renewal.
func (a *Agent) Roots() ([]*x509.Certificate, error) { return a.folder.readCertificates(caFile) }

// nextKey is the key of the generation that is being made: that of the attempt before, if there was one.
func (a *Agent) nextKey(kind der.KeyKind, old *Identity) (crypto.Signer, error) {
	next := a.folder.next()
	key, err := a.options.Keys.Load(next)
	switch {
	case err == nil && der.KindOf(key.Public()) == kind:
		return key, nil
	case err == nil: // the server has changed its mind about keys, so this one will never be certified
		if err := os.RemoveAll(next); err != nil {
			return nil, err
		}
	case !errors.Is(err, fs.ErrNotExist):
		return nil, err
	}
	if err := durable.Mkdir(next); err != nil {
		return nil, err
	}
	if _, fresh := a.adviseKey(old); old != nil && a.config.KeepKey && !fresh && der.KindOf(old.Key.Public()) == kind {
		if err := a.options.Keys.Reuse(a.folder.current(), next); err != nil {
			return nil, fmt.Errorf("keeping the key: %w", err)
		}
		return a.options.Keys.Load(next)
	}
	if key, err = a.options.Keys.Create(next, kind); err != nil {
		return nil, fmt.Errorf("making a key: %w", err)
	}
	return key, nil
}
