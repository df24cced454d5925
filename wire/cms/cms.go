// Package cms reads and writes the parts of the Cryptographic Message Syntax (RFC 5652) that enrolment protocols carry.
//
//		ContentInfo ::= SEQUENCE { contentType OBJECT IDENTIFIER, content [0] EXPLICIT ANY }
//
//	  - Certificates without a signature: CertsOnly and ParseCertsOnly (RFC 8951, section 3.2.1).
//	  - SignedData with signed attributes: Sign, ParseSigned, Signed.Verify. ECDSA on P-256, P-384 and P-521, RSA PKCS #1
//	    v1.5 with SHA-2, and Ed25519 (RFC 5753, 5754, 8419).
//	  - EnvelopedData with AES-CBC and AuthEnvelopedData with AES-GCM (RFC 5083, 5084): Encrypt, ParseEnveloped,
//	    Enveloped.Open. Recipients are an RSA key by OAEP with SHA-256 (RFC 3560), an elliptic-curve key by ephemeral
//	    ECDH (RFC 5753), or a shared key by AES key wrap (RFC 3394).
//	  - For SCEP alone, and only where it is asked for: BER (FromBER), RSA by PKCS #1 v1.5, and triple DES.
//	  - Private keys made by a server: SealKeys and OpenKeys put an AsymmetricKeyPackage (RFC 5958) into SignedData
//	    into an envelope, as RFC 7030, section 4.4.2 wants it.
//
// All output is DER. All input must be DER, at most MaxSize bytes, without a byte left over; sets of certificates are
// the one exception, as others write them in the order of the chain. Randomness is an argument. ParseX functions
// check form only: whether a certificate may be believed is for the caller to decide.
//
// The package does not do CRLs, detached or nested signatures, countersignatures, RSASSA-PSS, passwords, digested or
// compressed data, or ciphers that are no longer safe; it never builds a chain.
package cms

import (
	"bytes"
	"encoding/asn1"
	"errors"
	"fmt"
	"slices"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

// MaxSize is the size in bytes over which a message is not read. A chain with its root-update certificates fits, with
// post-quantum signatures too.
const MaxSize = 256 << 10

// Bounds of what one message may hold.
const (
	// MaxCertificates is the largest number of certificates in a message.
	MaxCertificates = 32
	maxSigners      = 8
	maxRecipients   = 8
	maxAttributes   = 32
)

// Content types.
var (
	OIDData              = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 7, 1}
	OIDSignedData        = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 7, 2}
	OIDEnvelopedData     = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 7, 3}
	OIDAuthEnvelopedData = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 16, 1, 23}
	// OIDKeyPackage is id-ct-KP-aKeyPackage (RFC 5958, section 2).
	OIDKeyPackage = asn1.ObjectIdentifier{2, 16, 840, 1, 101, 2, 1, 2, 78, 5}
)

// Tags in a context. The constructed ones are [n] EXPLICIT, or IMPLICIT over a SEQUENCE or SET.
const (
	tag0     = cbasn1.Tag(0xa0)
	tag1     = cbasn1.Tag(0xa1)
	tag2     = cbasn1.Tag(0xa2)
	tag0Prim = cbasn1.Tag(0x80) // [0] IMPLICIT OCTET STRING
)

var errForm = errors.New("it is not well-formed DER of its type")

// Attribute is one attribute: its type, and the DER encodings of its values.
type Attribute struct {
	Type   asn1.ObjectIdentifier
	Values [][]byte
}

// Algorithm is an AlgorithmIdentifier.
type Algorithm struct {
	OID asn1.ObjectIdentifier
	// Parameters is the DER encoding of the parameters, or nil.
	Parameters []byte
}

// ParseContentInfo splits a ContentInfo into its type and the DER of its content. The content is a copy.
func ParseContentInfo(der []byte) (contentType asn1.ObjectIdentifier, content []byte, err error) {
	if len(der) > MaxSize {
		return nil, nil, fmt.Errorf("CMS message has %d bytes; at most %d are read", len(der), MaxSize)
	}
	input := cryptobyte.String(der)
	var info, wrapped, element cryptobyte.String
	var tag cbasn1.Tag
	if !input.ReadASN1(&info, cbasn1.SEQUENCE) || !input.Empty() || !info.ReadASN1ObjectIdentifier(&contentType) ||
		!info.ReadASN1(&wrapped, tag0) || !info.Empty() || !wrapped.ReadAnyASN1Element(&element, &tag) || !wrapped.Empty() {
		return nil, nil, errors.New("it is not a CMS message in DER")
	}
	return contentType, bytes.Clone(element), nil
}

// contentOf returns the content of a ContentInfo that must have the wanted type.
func contentOf(der []byte, want asn1.ObjectIdentifier) (cryptobyte.String, error) {
	got, content, err := ParseContentInfo(der)
	if err != nil {
		return nil, err
	}
	if !got.Equal(want) {
		return nil, fmt.Errorf("CMS message has content type %v, want %v", got, want)
	}
	return content, nil
}

// buildContentInfo wraps what f adds. It refuses to write what ParseContentInfo would not read.
func buildContentInfo(contentType asn1.ObjectIdentifier, f cryptobyte.BuilderContinuation) ([]byte, error) {
	der, err := encoded(func(b *cryptobyte.Builder) {
		b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
			b.AddASN1ObjectIdentifier(contentType)
			b.AddASN1(tag0, f)
		})
	})
	if err != nil {
		return nil, fmt.Errorf("encoding a CMS message: %w", err)
	}
	if len(der) > MaxSize {
		return nil, fmt.Errorf("CMS message has %d bytes; at most %d are allowed", len(der), MaxSize)
	}
	return der, nil
}

func encoded(f cryptobyte.BuilderContinuation) ([]byte, error) {
	var b cryptobyte.Builder
	f(&b)
	return b.Bytes()
}

// addSetOf adds DER elements as a SET OF in the order that DER demands.
func addSetOf(b *cryptobyte.Builder, tag cbasn1.Tag, elements [][]byte) {
	b.AddASN1(tag, func(b *cryptobyte.Builder) {
		for _, element := range sortedSet(elements) {
			b.AddBytes(element)
		}
	})
}

// sortedSet returns the elements in the order that DER demands of a SET OF.
func sortedSet(elements [][]byte) [][]byte {
	if len(elements) < 2 {
		return elements
	}
	return slices.SortedFunc(slices.Values(elements), bytes.Compare)
}

func addAlgorithm(b *cryptobyte.Builder, a Algorithm) {
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1ObjectIdentifier(a.OID)
		b.AddBytes(a.Parameters)
	})
}

func readAlgorithm(s *cryptobyte.String, a *Algorithm) bool {
	var body cryptobyte.String
	if !s.ReadASN1(&body, cbasn1.SEQUENCE) || !body.ReadASN1ObjectIdentifier(&a.OID) {
		return false
	}
	if body.Empty() {
		return true
	}
	var parameters cryptobyte.String
	var tag cbasn1.Tag
	if !body.ReadAnyASN1Element(&parameters, &tag) || !body.Empty() {
		return false
	}
	a.Parameters = parameters
	return true
}

// plain tells whether an algorithm has no parameters, or NULL as others write for none.
func (a Algorithm) plain() bool {
	return a.Parameters == nil || bytes.Equal(a.Parameters, []byte{5, 0})
}

func addAttribute(b *cryptobyte.Builder, a Attribute) {
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1ObjectIdentifier(a.Type)
		addSetOf(b, cbasn1.SET, a.Values)
	})
}

// encodeAttributes returns attributes as a SET OF under the given tag.
func encodeAttributes(tag cbasn1.Tag, attributes []Attribute) ([]byte, error) {
	var elements [][]byte
	for _, a := range attributes {
		element, err := encoded(func(b *cryptobyte.Builder) { addAttribute(b, a) })
		if err != nil {
			return nil, fmt.Errorf("encoding attribute %v: %w", a.Type, err)
		}
		elements = append(elements, element)
	}
	return encoded(func(b *cryptobyte.Builder) { addSetOf(b, tag, elements) })
}

// readAttributes reads the content of a SET OF Attribute in DER order, each type once.
func readAttributes(set cryptobyte.String) ([]Attribute, bool) {
	var attributes []Attribute
	var previous []byte
	for !set.Empty() {
		var element cryptobyte.String
		if len(attributes) == maxAttributes || !set.ReadASN1Element(&element, cbasn1.SEQUENCE) || bytes.Compare(previous, element) > 0 {
			return nil, false
		}
		previous = element
		a, ok := readAttribute(element)
		if !ok || slices.ContainsFunc(attributes, func(b Attribute) bool { return b.Type.Equal(a.Type) }) {
			return nil, false
		}
		attributes = append(attributes, a)
	}
	return attributes, true
}

func readAttribute(element cryptobyte.String) (a Attribute, ok bool) {
	var body, values cryptobyte.String
	if !element.ReadASN1(&body, cbasn1.SEQUENCE) || !body.ReadASN1ObjectIdentifier(&a.Type) ||
		!body.ReadASN1(&values, cbasn1.SET) || !body.Empty() {
		return a, false
	}
	for !values.Empty() {
		var value cryptobyte.String
		var tag cbasn1.Tag
		if len(a.Values) == maxAttributes || !values.ReadAnyASN1Element(&value, &tag) {
			return a, false
		}
		a.Values = append(a.Values, value)
	}
	return a, slices.IsSortedFunc(a.Values, bytes.Compare)
}
