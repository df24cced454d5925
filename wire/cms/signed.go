package cms

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"io"
	"math/big"
	"slices"
	"time"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

// Attributes that every signature has, and the time that it may have (RFC 5652, section 11).
var (
	OIDContentType   = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 3}
	OIDMessageDigest = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 4}
	OIDSigningTime   = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 5}
)

// SignInput is what Sign puts together.
type SignInput struct {
	ContentType asn1.ObjectIdentifier
	Content     []byte
	// Signer holds the private key of Certificate.
	Signer      crypto.Signer
	Certificate *x509.Certificate
	// BySubjectKey names the certificate by its subject key identifier instead of issuer and serial number.
	BySubjectKey bool
	// Chain are further certificates to carry, as DER. Certificate is carried in any case.
	Chain [][]byte
	// Attributes are signed attributes beside content type and message digest.
	Attributes []Attribute
	// SigningTime is sent as a signed attribute unless it is zero. It has a precision of one second.
	SigningTime time.Time
	// Rand is the source of randomness for the signature.
	Rand io.Reader
}

// Signed is a parsed SignedData.
type Signed struct {
	ContentType asn1.ObjectIdentifier
	// Content is the signed content, or nil when the message has none.
	Content []byte
	// Certificates are the carried certificates, as DER and unverified.
	Certificates [][]byte
	Signers      []SignerInfo
}

// SignerInfo is one parsed, unverified signature.
type SignerInfo struct {
	ID                KeyID
	Digest, Signature Algorithm
	// Attributes are the signed attributes, content type and message digest among them.
	Attributes []Attribute
	// signedBytes is what the signature covers: the attributes as a SET.
	signedBytes []byte
	value       []byte
}

// KeyID names a certificate, or rather its key: by issuer and serial number, or by subject key identifier alone.
type KeyID struct {
	// Issuer is the DER of the issuer's name.
	Issuer []byte
	Serial *big.Int
	// SubjectKey is the subject key identifier; when it is set the others are not.
	SubjectKey []byte
}

// IssuerAndSerial returns the identifier that names cert by its issuer and serial number.
func IssuerAndSerial(cert *x509.Certificate) KeyID {
	return KeyID{Issuer: cert.RawIssuer, Serial: cert.SerialNumber}
}

// Matches tells whether id names cert.
func (id KeyID) Matches(cert *x509.Certificate) bool {
	if id.SubjectKey != nil {
		return bytes.Equal(id.SubjectKey, cert.SubjectKeyId)
	}
	return bytes.Equal(id.Issuer, cert.RawIssuer) && id.Serial != nil && id.Serial.Cmp(cert.SerialNumber) == 0
}

func (id KeyID) equal(other KeyID) bool {
	if id.SubjectKey != nil || other.SubjectKey != nil {
		return bytes.Equal(id.SubjectKey, other.SubjectKey)
	}
	return bytes.Equal(id.Issuer, other.Issuer) && id.Serial != nil && other.Serial != nil && id.Serial.Cmp(other.Serial) == 0
}

// Sign returns the DER of a ContentInfo with SignedData by one signer, always with signed attributes. The algorithms
// follow from the key: SHA-256 for RSA and P-256, the hash of the curve's size for larger curves, SHA-512 for Ed25519.
func Sign(in SignInput) ([]byte, error) {
	scheme, err := schemeFor(in.Signer.Public())
	if err != nil {
		return nil, err
	}
	return sign(in, scheme)
}

func sign(in SignInput, scheme scheme) ([]byte, error) {
	if public, ok := in.Certificate.PublicKey.(interface{ Equal(crypto.PublicKey) bool }); !ok || !public.Equal(in.Signer.Public()) {
		return nil, errors.New("the signing key does not belong to the signer's certificate")
	}
	attributes, err := signedAttributes(in, scheme)
	if err != nil {
		return nil, err
	}
	signedBytes, err := encodeAttributes(cbasn1.SET, attributes)
	if err != nil {
		return nil, err
	}
	signature, err := crypto.SignMessage(in.Signer, in.Rand, signedBytes, scheme.options())
	if err != nil {
		return nil, fmt.Errorf("signing CMS attributes: %w", err)
	}
	certs := append([][]byte{in.Certificate.Raw}, in.Chain...)
	if err := checkCertificates(certs); err != nil {
		return nil, err
	}
	id := IssuerAndSerial(in.Certificate)
	if in.BySubjectKey {
		id = KeyID{SubjectKey: in.Certificate.SubjectKeyId}
	}
	return buildContentInfo(OIDSignedData, func(b *cryptobyte.Builder) {
		addSignedData(b, in, scheme, certs, func(b *cryptobyte.Builder) {
			addSignerInfo(b, id, scheme, signedBytes, signature)
		})
	})
}

// signedAttributes returns the attributes to sign (RFC 5652, section 5.3).
func signedAttributes(in SignInput, scheme scheme) ([]Attribute, error) {
	hash := scheme.hash.New()
	hash.Write(in.Content)
	contentType, err := encoded(func(b *cryptobyte.Builder) { b.AddASN1ObjectIdentifier(in.ContentType) })
	if err != nil {
		return nil, err
	}
	digest, err := encoded(func(b *cryptobyte.Builder) { b.AddASN1OctetString(hash.Sum(nil)) })
	if err != nil {
		return nil, err
	}
	attributes := []Attribute{{OIDContentType, [][]byte{contentType}}, {OIDMessageDigest, [][]byte{digest}}}
	if !in.SigningTime.IsZero() {
		at, err := encoded(func(b *cryptobyte.Builder) { addTime(b, in.SigningTime.UTC()) })
		if err != nil {
			return nil, err
		}
		attributes = append(attributes, Attribute{OIDSigningTime, [][]byte{at}})
	}
	for _, a := range in.Attributes {
		if slices.ContainsFunc(attributes, func(b Attribute) bool { return b.Type.Equal(a.Type) }) {
			return nil, fmt.Errorf("signed attribute %v is given twice", a.Type)
		}
		attributes = append(attributes, a)
	}
	return attributes, nil
}

// addTime adds a time as UTCTime through 2049 and as GeneralizedTime after (RFC 5652, section 11.3).
func addTime(b *cryptobyte.Builder, at time.Time) {
	if at.Year() < 2050 {
		b.AddASN1UTCTime(at)
		return
	}
	b.AddASN1GeneralizedTime(at)
}

func addSignedData(b *cryptobyte.Builder, in SignInput, scheme scheme, certs [][]byte, signer cryptobyte.BuilderContinuation) {
	version := int64(1)
	if in.BySubjectKey || !in.ContentType.Equal(OIDData) {
		version = 3
	}
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1Int64(version)
		b.AddASN1(cbasn1.SET, func(b *cryptobyte.Builder) { addAlgorithm(b, scheme.digest()) })
		b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
			b.AddASN1ObjectIdentifier(in.ContentType)
			b.AddASN1(tag0, func(b *cryptobyte.Builder) { b.AddASN1OctetString(in.Content) })
		})
		addSetOf(b, tag0, certs)
		b.AddASN1(cbasn1.SET, signer)
	})
}

func addSignerInfo(b *cryptobyte.Builder, id KeyID, scheme scheme, signedBytes, signature []byte) {
	version := int64(1)
	if id.SubjectKey != nil {
		version = 3
	}
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1Int64(version)
		addKeyID(b, id)
		addAlgorithm(b, scheme.digest())
		// The attributes are signed as a SET and sent as [0]; only the first byte differs.
		b.AddBytes(append([]byte{byte(tag0)}, signedBytes[1:]...))
		addAlgorithm(b, scheme.signature())
		b.AddASN1OctetString(signature)
	})
}

// addKeyID adds a SignerIdentifier or RecipientIdentifier.
func addKeyID(b *cryptobyte.Builder, id KeyID) {
	if id.SubjectKey != nil {
		b.AddASN1(tag0Prim, func(b *cryptobyte.Builder) { b.AddBytes(id.SubjectKey) })
		return
	}
	addIssuerAndSerial(b, id)
}

func addIssuerAndSerial(b *cryptobyte.Builder, id KeyID) {
	if len(id.Issuer) == 0 || id.Serial == nil {
		b.SetError(errors.New("a certificate is named by neither issuer and serial number nor subject key identifier"))
		return
	}
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddBytes(id.Issuer)
		b.AddASN1BigInt(id.Serial)
	})
}

// readKeyID reads a SignerIdentifier or RecipientIdentifier.
func readKeyID(s *cryptobyte.String, id *KeyID) bool {
	if s.PeekASN1Tag(tag0Prim) {
		var ski cryptobyte.String
		return s.ReadASN1(&ski, tag0Prim) && setBytes(&id.SubjectKey, ski)
	}
	return readIssuerAndSerial(s, id)
}

func readIssuerAndSerial(s *cryptobyte.String, id *KeyID) bool {
	var body, issuer cryptobyte.String
	id.Serial = new(big.Int)
	return s.ReadASN1(&body, cbasn1.SEQUENCE) && body.ReadASN1Element(&issuer, cbasn1.SEQUENCE) &&
		body.ReadASN1Integer(id.Serial) && body.Empty() && setBytes(&id.Issuer, issuer)
}

// setBytes sets out to a copy of value, which must not be empty.
func setBytes(out *[]byte, value []byte) bool {
	*out = bytes.Clone(value)
	return len(value) > 0
}
