package est

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"time"

	"mooring/wire/der"
)

// Bundle is what a server says about its authorities.
type Bundle struct {
	// Roots are the self-signed certificates. They are worth what the connection was worth that they came over.
	Roots []*x509.Certificate
	// Others are intermediate and cross certificates.
	Others []*x509.Certificate
}

// newBundle sorts certificates. Their order says nothing, as they travel as a set.
func newBundle(certs []*x509.Certificate) *Bundle {
	b := new(Bundle)
	for _, cert := range certs {
		if selfSigned(cert) {
			b.Roots = append(b.Roots, cert)
		} else {
			b.Others = append(b.Others, cert)
		}
	}
	return b
}

func selfSigned(cert *x509.Certificate) bool {
	if !bytes.Equal(cert.RawIssuer, cert.RawSubject) || !cert.IsCA {
		return false
	}
	pub, err := der.ParsePublicKey(cert.RawSubjectPublicKeyInfo)
	return err == nil && der.CheckCertificate(cert, pub) == nil
}

// Chain checks that a certificate leads to one of the roots at the given time, and returns it followed by the
// intermediate certificates that a TLS peer needs. A certificate that becomes valid within a day is accepted: the clocks of
// devices are often behind.
func (b *Bundle) Chain(cert *x509.Certificate, now time.Time) ([]*x509.Certificate, error) {
	const slow = 24 * time.Hour
	if now.Before(cert.NotBefore) && now.Add(slow).After(cert.NotBefore) {
		now = cert.NotBefore
	}
	chains, err := cert.Verify(x509.VerifyOptions{
		Roots:         pool(b.Roots),
		Intermediates: pool(b.Others),
		CurrentTime:   now,
		KeyUsages:     []x509.ExtKeyUsage{x509.ExtKeyUsageAny},
	})
	if err != nil {
		return nil, fmt.Errorf("checking the certificate against the roots that this device trusts: %w", err)
	}
	return chains[0][:len(chains[0])-1], nil
}

// Accepts tells whether the server of the session would still be believed if the bundle were all that is trusted.
func (b *Bundle) Accepts(s *Session) error {
	return s.client.verify(s.Peer(), b.Roots, b.Others)
}

// Pin makes the first contact of a device that knows nothing but the fingerprint of its root: it fetches the bundle over
// a connection that is not believed and that no credential is sent over, finds the certificate with the SHA-256
// fingerprint, and checks that it is the root of this very server (RFC 7030, section 4.1.1, with the fingerprint in the
// place of the person). The rest of the bundle is not authentic and is dropped: fetch it again with the root in
// Config.Roots. config.Roots is not used.
func Pin(ctx context.Context, config Config, fingerprint [sha256.Size]byte) (*x509.Certificate, error) {
	client, err := newClient(config)
	if err != nil {
		return nil, err
	}
	if client.base.Scheme == schemeCoAP {
		return nil, errors.New("EST over CoAP answers nobody without a certificate, so that a fingerprint cannot be looked up by it; give the root certificate itself (--ca)")
	}
	s := &Session{client: client, config: client.tlsConfig(Credential{})}
	s.config.InsecureSkipVerify, s.config.VerifyConnection = true, nil // the chain is checked below, when the root is known
	if err := s.connect(ctx); err != nil {
		return nil, err
	}
	defer s.Close()
	return s.pin(ctx, fingerprint)
}

func (s *Session) pin(ctx context.Context, fingerprint [sha256.Size]byte) (*x509.Certificate, error) {
	bundle, err := s.CACerts(ctx)
	if err != nil {
		return nil, err
	}
	for _, cert := range append(bundle.Roots, bundle.Others...) {
		sum := sha256.Sum256(cert.Raw)
		if subtle.ConstantTimeCompare(sum[:], fingerprint[:]) == 0 {
			continue
		}
		if !cert.IsCA {
			return nil, errors.New("the fingerprint is that of a certificate which is no authority; use the fingerprint of the root")
		}
		pinned := &Bundle{Roots: []*x509.Certificate{cert}, Others: bundle.Others}
		if err := pinned.Accepts(s); err != nil {
			return nil, fmt.Errorf("the root has the right fingerprint, but %s does not prove itself by it: %w", s.client.address, err)
		}
		return cert, nil
	}
	return nil, fmt.Errorf("%s has no root with the fingerprint %s; compare it with what the server's operator shows: "+
		"either it is mistyped or outdated, or this is not the right server", s.client.address, FormatFingerprint(fingerprint))
}

// ParseFingerprint reads a SHA-256 fingerprint as tools write it: 64 hexadecimal digits in either case, with or without
// colons or blanks, with or without "SHA256:" or "sha256 Fingerprint=" in front.
func ParseFingerprint(text string) (sum [sha256.Size]byte, err error) {
	digits := strings.ToLower(strings.TrimSpace(text))
	for _, prefix := range []string{"sha256 fingerprint=", "sha256:", "sha-256:", "sha256="} {
		digits = strings.TrimPrefix(digits, prefix)
	}
	digits = strings.NewReplacer(":", "", " ", "").Replace(digits)
	raw, err := hex.DecodeString(digits)
	if err != nil || len(raw) != len(sum) {
		return sum, fmt.Errorf("fingerprint %q is not a SHA-256 in hexadecimal (64 digits, colons allowed)", Clean(text))
	}
	return [sha256.Size]byte(raw), nil
}

// FormatFingerprint writes a fingerprint as openssl x509 -fingerprint does: upper-case pairs parted by colons.
func FormatFingerprint(sum [sha256.Size]byte) string {
	pairs := make([]string, len(sum))
	for i, octet := range sum {
		pairs[i] = fmt.Sprintf("%02X", octet)
	}
	return strings.Join(pairs, ":")
}
