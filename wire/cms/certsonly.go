package cms

import (
	"bytes"
	"errors"
	"fmt"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

// CertsOnly returns the DER of a message that carries certificates and nothing else: SignedData of version 1 without
// signers, content or CRLs (RFC 8951, section 3.2.1). The certificates, each given as DER, are a set: they are sorted
// as DER demands, so their order carries no meaning.
func CertsOnly(certs [][]byte) ([]byte, error) {
	if err := checkCertificates(certs); err != nil {
		return nil, err
	}
	if len(certs) == 0 {
		return nil, errors.New("a certs-only message needs a certificate")
	}
	return unsigned(tag0, certs)
}

// CRLsOnly returns the DER of a message that carries revocation lists, each given as DER, and nothing else (RFC 8894, section 3.3.5).
func CRLsOnly(crls [][]byte) ([]byte, error) {
	if err := checkCertificates(crls); err != nil {
		return nil, err
	}
	if len(crls) == 0 {
		return nil, errors.New("a message of revocation lists needs one")
	}
	return unsigned(tag1, crls)
}

// unsigned returns SignedData of version 1 whose only content is a set.
func unsigned(tag cbasn1.Tag, elements [][]byte) ([]byte, error) {
	return buildContentInfo(OIDSignedData, func(b *cryptobyte.Builder) {
		b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
			b.AddASN1Int64(1)
			addSetOf(b, cbasn1.SET, nil) // digestAlgorithms
			b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) { b.AddASN1ObjectIdentifier(OIDData) })
			addSetOf(b, tag, elements)
			addSetOf(b, cbasn1.SET, nil) // signerInfos
		})
	})
}

// ParseCertsOnly returns the certificates of a certs-only message, each as DER, in the order in which they stand there.
// A message with a signer or content is refused, since nobody would look at either. The certificates themselves are
// not parsed.
func ParseCertsOnly(der []byte) ([][]byte, error) {
	signed, err := ParseSigned(der)
	if err != nil {
		return nil, fmt.Errorf("reading a certs-only message: %w", err)
	}
	switch {
	case len(signed.Signers) > 0 || signed.Content != nil:
		return nil, errors.New("certs-only message holds a signature or content")
	case !signed.ContentType.Equal(OIDData):
		return nil, fmt.Errorf("certs-only message has inner content type %v, want data", signed.ContentType)
	case len(signed.Certificates) == 0:
		return nil, errors.New("certs-only message holds no certificate")
	}
	return signed.Certificates, nil
}

// checkCertificates refuses what is not a SEQUENCE each, so that no message is broken by its parts.
func checkCertificates(certs [][]byte) error {
	if len(certs) > MaxCertificates {
		return fmt.Errorf("%d certificates are too many; at most %d are allowed", len(certs), MaxCertificates)
	}
	for _, cert := range certs {
		s := cryptobyte.String(cert)
		if !s.SkipASN1(cbasn1.SEQUENCE) || !s.Empty() {
			return errors.New("a certificate is not one DER SEQUENCE")
		}
	}
	return nil
}

func readCertificates(set cryptobyte.String) ([][]byte, bool) {
	var certs [][]byte
	for !set.Empty() {
		var cert cryptobyte.String
		if len(certs) == MaxCertificates || !set.ReadASN1Element(&cert, cbasn1.SEQUENCE) {
			return nil, false
		}
		certs = append(certs, bytes.Clone(cert))
	}
	return certs, true
}
