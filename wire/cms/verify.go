package cms

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/subtle"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"

	// The hashes that Hash.New must find.
	_ "crypto/sha1"
	_ "crypto/sha256"
	_ "crypto/sha512"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

var (
	oidSHA256 = asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 2, 1}
	oidSHA384 = asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 2, 2}
	oidSHA512 = asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 2, 3}

	oidSHA1 = asn1.ObjectIdentifier{1, 3, 14, 3, 2, 26}

	oidSHA1RSA     = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 5}
	oidRSA         = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 1}
	oidSHA256RSA   = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 11}
	oidSHA384RSA   = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 12}
	oidSHA512RSA   = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 13}
	oidECDSASHA256 = asn1.ObjectIdentifier{1, 2, 840, 10045, 4, 3, 2}
	oidECDSASHA384 = asn1.ObjectIdentifier{1, 2, 840, 10045, 4, 3, 3}
	oidECDSASHA512 = asn1.ObjectIdentifier{1, 2, 840, 10045, 4, 3, 4}
	oidEd25519     = asn1.ObjectIdentifier{1, 3, 101, 112}
)

var errNoSignature = errors.New("CMS message has no signature by this certificate")

// family is a kind of signing key.
type family int

const (
	familyRSA family = iota
	familyECDSA
	familyEd25519
)

// scheme is one way to sign: a kind of key, a hash, and the identifiers of both.
type scheme struct {
	family       family
	hash         crypto.Hash
	hashOID, oid asn1.ObjectIdentifier
}

// schemes is the table of what we sign and verify; the first match is what we send. RSA is listed under two identifiers (RFC 5754, section 3.2), first the one that
// names the key only: other implementations send it, and some, such as strongSwan 5.9, read no other.
func schemes() []scheme {
	return []scheme{
		{familyRSA, crypto.SHA256, oidSHA256, oidRSA},
		{familyRSA, crypto.SHA384, oidSHA384, oidRSA},
		{familyRSA, crypto.SHA512, oidSHA512, oidRSA},
		{familyRSA, crypto.SHA256, oidSHA256, oidSHA256RSA},
		{familyRSA, crypto.SHA384, oidSHA384, oidSHA384RSA},
		{familyRSA, crypto.SHA512, oidSHA512, oidSHA512RSA},
		{familyECDSA, crypto.SHA256, oidSHA256, oidECDSASHA256},
		{familyECDSA, crypto.SHA384, oidSHA384, oidECDSASHA384},
		{familyECDSA, crypto.SHA512, oidSHA512, oidECDSASHA512},
		{familyEd25519, crypto.SHA512, oidSHA512, oidEd25519}, // RFC 8419, section 3.1
	}
}

func (s scheme) digest() Algorithm { return Algorithm{OID: s.hashOID} }

func (s scheme) signature() Algorithm {
	if s.family == familyRSA {
		return Algorithm{OID: s.oid, Parameters: []byte{5, 0}} // RFC 5754, section 3.2
	}
	return Algorithm{OID: s.oid}
}

// options says what is signed: a hash of the attributes, or for Ed25519 the attributes themselves.
func (s scheme) options() crypto.SignerOpts {
	if s.family == familyEd25519 {
		return crypto.Hash(0)
	}
	return s.hash
}

// schemeFor returns the scheme that we sign with under a key.
func schemeFor(public crypto.PublicKey) (scheme, error) {
	kind, hash := familyEd25519, crypto.SHA512
	switch key := public.(type) {
	case *rsa.PublicKey:
		kind, hash = familyRSA, crypto.SHA256
	case *ecdsa.PublicKey:
		kind, hash = familyECDSA, hashForCurve(key.Curve)
	case ed25519.PublicKey:
	default:
		return scheme{}, fmt.Errorf("CMS signatures with a key of type %T are not supported", public)
	}
	for _, s := range schemes() {
		if s.family == kind && s.hash == hash {
			return s, nil
		}
	}
	return scheme{}, errors.New("CMS signatures on this curve are not supported")
}

func hashForCurve(curve elliptic.Curve) crypto.Hash {
	switch curve {
	case elliptic.P256():
		return crypto.SHA256
	case elliptic.P384():
		return crypto.SHA384
	case elliptic.P521():
		return crypto.SHA512
	}
	return 0
}

// ParseSigned reads a ContentInfo with SignedData. It verifies nothing; call Signed.Verify with a certificate that you
// trust. Signatures without signed attributes are refused, because they can be turned into each other (RFC 5652,
// section 14, and errata).
func ParseSigned(der []byte) (*Signed, error) {
	content, err := contentOf(der, OIDSignedData)
	if err != nil {
		return nil, err
	}
	return parseSignedData(content)
}

func parseSignedData(content cryptobyte.String) (*Signed, error) {
	var s, digests, encapsulated, certs, signers cryptobyte.String
	var version int64
	if !content.ReadASN1(&s, cbasn1.SEQUENCE) || !content.Empty() || !s.ReadASN1Integer(&version) ||
		(version != 1 && version != 3) || !s.ReadASN1(&digests, cbasn1.SET) || !s.ReadASN1(&encapsulated, cbasn1.SEQUENCE) ||
		!s.ReadOptionalASN1(&certs, nil, tag0) || !s.SkipOptionalASN1(tag1) || !s.ReadASN1(&signers, cbasn1.SET) || !s.Empty() {
		return nil, fmt.Errorf("reading SignedData: %w", errForm)
	}
	signed := new(Signed)
	var ok bool
	if !readEncapsulated(encapsulated, signed) {
		return nil, fmt.Errorf("reading the signed content: %w", errForm)
	}
	if signed.Certificates, ok = readCertificates(certs); !ok {
		return nil, fmt.Errorf("reading the certificates, of which there may be %d: %w", MaxCertificates, errForm)
	}
	for !signers.Empty() {
		info, ok := readSignerInfo(&signers)
		if !ok || len(signed.Signers) == maxSigners {
			return nil, fmt.Errorf("reading the signatures, of which there may be %d: %w", maxSigners, errForm)
		}
		signed.Signers = append(signed.Signers, info)
	}
	return signed, nil
}

func readEncapsulated(s cryptobyte.String, signed *Signed) bool {
	if !s.ReadASN1ObjectIdentifier(&signed.ContentType) {
		return false
	}
	if s.Empty() {
		return true
	}
	var wrapped, octets cryptobyte.String
	if !s.ReadASN1(&wrapped, tag0) || !s.Empty() || !wrapped.ReadASN1(&octets, cbasn1.OCTET_STRING) || !wrapped.Empty() {
		return false
	}
	signed.Content = append([]byte{}, octets...)
	return true
}

func readSignerInfo(signers *cryptobyte.String) (info SignerInfo, ok bool) {
	var s, set cryptobyte.String
	var version int64
	if !signers.ReadASN1(&s, cbasn1.SEQUENCE) || !s.ReadASN1Integer(&version) || !readKeyID(&s, &info.ID) ||
		(version == 3) != (info.ID.SubjectKey != nil) || (version != 1 && version != 3) || !readAlgorithm(&s, &info.Digest) {
		return info, false
	}
	attributes := s
	if !s.ReadASN1(&set, tag0) {
		return info, false
	}
	attributes = attributes[:len(attributes)-len(s)]
	info.signedBytes = append([]byte{byte(cbasn1.SET)}, attributes[1:]...)
	if info.Attributes, ok = readAttributes(set); !ok {
		return info, false
	}
	var value cryptobyte.String
	if !readAlgorithm(&s, &info.Signature) || !s.ReadASN1(&value, cbasn1.OCTET_STRING) || !s.SkipOptionalASN1(tag1) || !s.Empty() {
		return info, false
	}
	info.value = bytes.Clone(value)
	return info, true
}

// Attribute returns the single value of a signed attribute as DER, or nil when it is absent or has several values.
func (i *SignerInfo) Attribute(oid asn1.ObjectIdentifier) []byte {
	for _, a := range i.Attributes {
		if a.Type.Equal(oid) && len(a.Values) == 1 {
			return a.Values[0]
		}
	}
	return nil
}

// Verify checks the signature by cert over the content and returns its signer information. It does not look at the
// validity, usage or issuer of cert. A content type or digest among the attributes that is not that of the content
// makes the signature invalid, and so does a message without content.
func (s *Signed) Verify(cert *x509.Certificate) (*SignerInfo, error) {
	return s.verifyBy(cert, schemes())
}

// VerifySHA1 is Verify, and takes signatures by RSA with SHA-1 too, which clients of SCEP made until 2023. Whoever signs can make two messages with one
// such signature; for anybody else it is still out of reach, so it will do to show that the signer has the key, and for nothing more.
func (s *Signed) VerifySHA1(cert *x509.Certificate) (*SignerInfo, error) {
	return s.verifyBy(cert, append(schemes(), scheme{familyRSA, crypto.SHA1, oidSHA1, oidSHA1RSA}, scheme{familyRSA, crypto.SHA1, oidSHA1, oidRSA}))
}

func (s *Signed) verifyBy(cert *x509.Certificate, accepted []scheme) (*SignerInfo, error) {
	if s.Content == nil {
		return nil, errors.New("CMS message has no content to verify")
	}
	for i := range s.Signers {
		if info := &s.Signers[i]; info.ID.Matches(cert) {
			return info, s.verify(info, cert.PublicKey, accepted)
		}
	}
	return nil, errNoSignature
}

func (s *Signed) verify(info *SignerInfo, public crypto.PublicKey, accepted []scheme) error {
	for _, scheme := range accepted {
		if scheme.hashOID.Equal(info.Digest.OID) && scheme.oid.Equal(info.Signature.OID) &&
			info.Digest.plain() && info.Signature.plain() {
			return s.verifyWith(scheme, info, public)
		}
	}
	return fmt.Errorf("CMS signature algorithm %v with digest %v is not supported", info.Signature.OID, info.Digest.OID)
}

func (s *Signed) verifyWith(scheme scheme, info *SignerInfo, public crypto.PublicKey) error {
	contentType, err := encoded(func(b *cryptobyte.Builder) { b.AddASN1ObjectIdentifier(s.ContentType) })
	if err != nil || !bytes.Equal(info.Attribute(OIDContentType), contentType) {
		return errors.New("CMS signature is for another type of content")
	}
	hash := scheme.hash.New()
	hash.Write(s.Content)
	digest, err := encoded(func(b *cryptobyte.Builder) { b.AddASN1OctetString(hash.Sum(nil)) })
	if err != nil || subtle.ConstantTimeCompare(info.Attribute(OIDMessageDigest), digest) != 1 {
		return errors.New("CMS signature is for another content")
	}
	if !scheme.valid(public, info.signedBytes, info.value) {
		return errors.New("CMS signature is wrong")
	}
	return nil
}

// valid checks a signature over a message by a key, which must be of the scheme's kind.
func (s scheme) valid(public crypto.PublicKey, message, signature []byte) bool {
	hash := s.hash.New()
	hash.Write(message)
	switch key := public.(type) {
	case *rsa.PublicKey:
		return s.family == familyRSA && rsa.VerifyPKCS1v15(key, s.hash, hash.Sum(nil), signature) == nil
	case *ecdsa.PublicKey:
		return s.family == familyECDSA && ecdsa.VerifyASN1(key, hash.Sum(nil), signature)
	case ed25519.PublicKey:
		return s.family == familyEd25519 && ed25519.Verify(key, message, signature)
	}
	return false
}
