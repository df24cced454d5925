package ca

import (
	"crypto"
	"crypto/x509"
	"fmt"
	"io"

	"mooring/internal/base/errs"
	"mooring/wire/der"
)

// CACertificate is what the certificate of a CA is to say. Certify makes it out of nothing else, so that a root on a machine without network
// or database makes the same as this package does for its own.
type CACertificate struct {
	Subject             []byte // DER Name
	SPKI                []byte // SubjectPublicKeyInfo, DER
	NotBefore, NotAfter int64  // Unix seconds, inclusive
	PathLen             int
	Issuer              *x509.Certificate // of the CA that signs; nil when it signs itself
	Cross               bool              // for the key of another root, see Cross
	CRL, CAIssuers      string            // where the issuer's list and certificate are; "" = not said
	OCSP                string            // where the issuer's responder is; likewise
}

// Certify builds, signs and checks the certificate of a CA (RFC 5280, section 4.2.1; basicConstraints and keyUsage critical). Whether it may
// be made is decided before. Signer is the key of the issuer.
func Certify(signer crypto.Signer, random io.Reader, now int64, c CACertificate) ([]byte, error) {
	ski, err := der.SubjectKeyID(c.SPKI)
	if err != nil {
		return nil, fmt.Errorf("reading the key: %w", err)
	}
	issuerName, aki := c.Subject, ski[:]
	if c.Issuer != nil {
		issuerName, aki = c.Issuer.RawSubject, c.Issuer.SubjectKeyId
	}
	algorithm, err := der.AlgorithmFor(signer.Public())
	if err != nil {
		return nil, err
	}
	t, err := der.NewTemplate(der.TemplateSpec{Algorithm: algorithm, Issuer: issuerName, Extensions: c.extensions(aki)})
	if err != nil {
		return nil, err
	}
	serial, err := c.serial(now, random)
	if err != nil {
		return nil, err
	}
	tbs, err := t.AppendTBS(nil, der.Variable{Serial: serial, NotBefore: c.NotBefore, NotAfter: c.NotAfter, Subject: c.Subject, SPKI: c.SPKI, SKI: ski[:]})
	if err != nil {
		return nil, err
	}
	raw, err := seal(signer, algorithm, tbs)
	if err != nil {
		return nil, err
	}
	if err := verifySealed(raw, signer.Public(), algorithm); err != nil {
		return nil, err
	}
	if findings, err := zlint(raw, nil); err != nil || len(findings) > 0 {
		return nil, errs.Wrap(errs.Invalid, err, "it would break %v", findings)
	}
	return raw, nil
}

// verifySealed looks at what was signed: with so few signatures each is checked.
func verifySealed(raw []byte, pub crypto.PublicKey, algorithm der.SignatureAlgorithm) error {
	cert, err := x509.ParseCertificate(raw)
	if err != nil {
		return fmt.Errorf("reading what was signed: %w", err)
	}
	if err := algorithm.Verify(pub, cert.RawTBSCertificate, cert.Signature); err != nil {
		return errs.Wrap(errs.Unavailable, err, "the CA's key made a wrong signature")
	}
	return nil
}

// The sizes of serial numbers. A cross certificate must be shorter than the self-signed certificate of the same key, because a SET OF is sorted
// by length first and clients take the first certificate that fits: with NewWithNew before NewWithOld whoever trusts only the old root finds a
// self-signed certificate that he does not know, and gives up. The serial numbers make 12 octets of difference, of which the lengths of two
// ECDSA signatures may take a few. 64 bits, of which 59 are random, are enough for the few cross certificates of a root.
const (
	rootSerial  = 20 // the most that RFC 5280, section 4.1.2.2, permits
	crossSerial = 8
)

func (c *CACertificate) serial(now int64, random io.Reader) ([]byte, error) {
	var n int
	switch {
	case c.Cross:
		n = crossSerial
	case c.Issuer == nil:
		n = rootSerial
	default:
		serial, err := newSerial(classLong, now, 0, random)
		return serial[:], err
	}
	serial := make([]byte, n)
	if _, err := io.ReadFull(random, serial); err != nil {
		return nil, fmt.Errorf("reading random bits: %w", err)
	}
	serial[0] = serial[0]&0x07 | 0x40 // positive, and of this length
	return serial, nil
}

// urls is one address, or none.
func urls(address string) []string {
	if address == "" {
		return nil
	}
	return []string{address}
}

// extensions are those of a CA. A CA that issues to devices also signs OCSP responses with its own key, which takes digitalSignature. A root has
// an authority key identifier, though it need not (RFC 5280, section 4.2.1.1), so that it is not shorter than its cross certificates for the
// lack of one; these say nothing about lists for the same reason.
func (c *CACertificate) extensions(aki []byte) []der.Extension {
	usage := der.KeyCertSign | der.CRLSign
	if c.PathLen == 0 {
		usage |= der.DigitalSignature
	}
	extensions := []der.Extension{der.NewBasicConstraints(true, c.PathLen), der.NewKeyUsage(usage), der.NewAuthorityKeyID(aki)}
	if c.Issuer == nil || c.Cross {
		return extensions
	}
	if c.CRL != "" {
		extensions = append(extensions, der.NewCRLPoints(c.CRL))
	}
	if c.CAIssuers != "" || c.OCSP != "" {
		extensions = append(extensions, der.NewAuthorityInfo(urls(c.OCSP), urls(c.CAIssuers)))
	}
	return extensions
}
