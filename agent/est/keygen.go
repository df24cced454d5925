package est

import (
	"context"
	"crypto"
	"crypto/x509"
	"errors"

	"mooring/wire/der"
	wire "mooring/wire/est"
)

// Generated is a key pair that the server made, with its certificate.
type Generated struct {
	Certificate *x509.Certificate
	// Key is the private key, or nil if it came sealed.
	Key crypto.Signer
	// Sealed is the CMS message with the key in it, to be opened by wire/cms with the key that the order named; nil if the
	// key came plain, protected by TLS alone.
	Sealed []byte
}

// String keeps the key out of printed text.
func (Generated) String() string { return "est.Generated(key withheld)" }

// GoString keeps the key out of %#v.
func (g Generated) GoString() string { return g.String() }

// MarshalText keeps the key out of JSON and logs.
func (g Generated) MarshalText() ([]byte, error) { return []byte(g.String()), nil }

// ServerKeygen has the server make key and certificate (RFC 7030, section 4.4), for devices without a good source of
// randomness. The key of the order only signs the request and is certified by nobody. Never repeat this after an answer
// was lost: the server makes another key each time.
func (s *Session) ServerKeygen(ctx context.Context, order Order) (*Generated, error) {
	a, err := s.post(ctx, wire.ServerKeygen, order)
	if err != nil {
		return nil, err
	}
	parts, err := wire.ParseKeygen(a.body, a.contentType)
	if err != nil {
		return nil, err
	}
	certs, err := parseCertsOnly(parts.Certificates)
	if err != nil {
		return nil, err
	}
	if parts.KeyType == wire.TypeSealedKey {
		cert, err := leaf(certs)
		return &Generated{Certificate: cert, Sealed: parts.Key}, err
	}
	key, err := der.ParsePrivateKey(parts.Key)
	if err != nil { // its text might tell of the key
		return nil, errors.New("reading the key that the server made: it is not PKCS #8 of a known kind")
	}
	cert, err := pick(certs, key.Public())
	return &Generated{Certificate: cert, Key: key}, err
}

// leaf is the only certificate that is no authority's.
func leaf(certs []*x509.Certificate) (*x509.Certificate, error) {
	var found *x509.Certificate
	for _, cert := range certs {
		if cert.IsCA {
			continue
		}
		if found != nil {
			return nil, errors.New("the server answered with several certificates")
		}
		found = cert
	}
	if found == nil {
		return nil, errors.New("the server answered without a certificate for this device")
	}
	return found, nil
}

// pick is the certificate of the key. Servers must send it alone, and some send its chain with it.
func pick(certs []*x509.Certificate, key crypto.PublicKey) (*x509.Certificate, error) {
	want, err := der.EncodePublicKey(key)
	if err != nil {
		return nil, err
	}
	for _, cert := range certs {
		if string(cert.RawSubjectPublicKeyInfo) == string(want) {
			return cert, nil
		}
	}
	return nil, errors.New("the server answered with a certificate for another key; it was thrown away")
}
