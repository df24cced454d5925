package cms

import (
	"bytes"
	"errors"
	"fmt"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"

	"mooring/wire/der"
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

// unsigned returns SignedData of version 1 whose only content is a set with an implicit tag. All else in it is constant, and so it is written from its
// sizes, once, without the buffers of a builder.
func unsigned(tag cbasn1.Tag, elements [][]byte) ([]byte, error) {
	const signedData = "\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x07\x02"
	// version 1, no digestAlgorithms, encapContentInfo of the type data without content
	const head = "\x02\x01\x01" + "\x31\x00" + "\x30\x0b\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x07\x01"
	const signerInfos = "\x31\x00"
	set := 0
	for _, e := range elements {
		set += len(e)
	}
	signed := len(head) + elementSize(set) + len(signerInfos)
	content := len(signedData) + elementSize(elementSize(signed))
	if size := elementSize(content); size > MaxSize {
		return nil, fmt.Errorf("CMS message has %d bytes; at most %d are allowed", size, MaxSize)
	}
	b := der.AppendHeader(make([]byte, 0, elementSize(content)), byte(cbasn1.SEQUENCE), content)
	b = append(b, signedData...)
	b = der.AppendHeader(b, byte(tag0), elementSize(signed))
	b = append(der.AppendHeader(b, byte(cbasn1.SEQUENCE), signed), head...)
	b = der.AppendHeader(b, byte(tag), set)
	for _, e := range sortedSet(elements) {
		b = append(b, e...)
	}
	return append(b, signerInfos...), nil
}

// elementSize is the number of octets of a value with n octets of content, header included.
func elementSize(n int) int {
	var room [8]byte
	return len(der.AppendHeader(room[:0], 0, n)) + n
}

// ParseCertsOnly returns the certificates of a certs-only message, each as DER, in the order in which they stand there.
// A message with a signer or content is refused, since nobody would look at either. The certificates themselves are
// not parsed.
func ParseCertsOnly(message []byte) ([][]byte, error) {
	signed, err := ParseSigned(message)
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
