package est

import (
	"encoding/asn1"
	"errors"
	"fmt"
	"math/big"
	"slices"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

const (
	tagKey        = cbasn1.Tag(0xa0) // [0] IMPLICIT SEQUENCE
	tagAttributes = cbasn1.Tag(0xa1) // [1] IMPLICIT SET
)

// maxRSABits bounds the key size that a template can ask for.
const maxRSABits = 16384

// Template is a CertificationRequestInfoTemplate (RFC 9908, section 3.4): a certification request with blanks.
type Template struct {
	// Subject lists the RDNs that the request must have, and no others. Empty: the server does not care.
	Subject []RDN
	// Key is the kind of key demanded, or nil.
	Key *KeySpec
	// Extensions are the extensions demanded. When all have values they are sent as an extension request, otherwise as
	// an extension request template; never as both.
	Extensions []Extension
	// Attributes are the further attributes of the request, such as a bare challengePassword.
	Attributes []Item
}

// RDN is one relative distinguished name: nearly always a single attribute.
type RDN []NameAttr

// NameAttr is one attribute of a name, fixed or blank.
type NameAttr struct {
	Type asn1.ObjectIdentifier
	// Value is the DER encoding of the value, or nil when the device has to fill it in.
	Value []byte
}

// Extension is one extension, fixed or blank.
type Extension struct {
	ID       asn1.ObjectIdentifier
	Critical bool
	// Value is the content of extnValue, or nil when the device has to fill it in.
	Value []byte
}

// KeySpec is the kind of key that a template demands.
type KeySpec struct {
	// Algorithm is the key's algorithm, such as OIDECPublicKey.
	Algorithm asn1.ObjectIdentifier
	// Parameters is the DER encoding of the algorithm's parameters, or nil.
	Parameters []byte
	// RSABits is the length of an RSA modulus; 0 for other algorithms, or when every length will do.
	RSABits int
}

// FixedText returns an RDN of one attribute with a given text, as UTF8String.
func FixedText(oid asn1.ObjectIdentifier, text string) (RDN, error) {
	var b cryptobyte.Builder
	b.AddASN1(cbasn1.UTF8String, func(b *cryptobyte.Builder) { b.AddBytes([]byte(text)) })
	value, err := b.Bytes()
	return RDN{{Type: oid, Value: value}}, err
}

// Blank returns an RDN of one attribute whose value the device has to fill in.
func Blank(oid asn1.ObjectIdentifier) RDN {
	return RDN{{Type: oid}}
}

// ECKey returns the demand for a key on the given named curve.
func ECKey(curve asn1.ObjectIdentifier) (*KeySpec, error) {
	parameters, err := encodeOID(curve)
	return &KeySpec{Algorithm: OIDECPublicKey, Parameters: parameters}, err
}

// RSAKey returns the demand for an RSA key with a modulus of the given number of bits.
func RSAKey(bits int) *KeySpec {
	return &KeySpec{Algorithm: OIDRSAEncryption, Parameters: []byte{5, 0}, RSABits: bits}
}

func encodeTemplate(t *Template) ([]byte, error) {
	attributes, err := templateAttributes(t)
	if err != nil {
		return nil, err
	}
	var b cryptobyte.Builder
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1Int64(0)
		if len(t.Subject) > 0 {
			addSubject(b, t.Subject)
		}
		if t.Key != nil {
			addKeySpec(b, t.Key)
		}
		addSet(b, tagAttributes, attributes)
	})
	der, err := b.Bytes()
	if err != nil {
		return nil, fmt.Errorf("encoding the request template: %w", err)
	}
	return der, nil
}

// templateAttributes returns the encoded attributes of a template, its extensions among them.
func templateAttributes(t *Template) ([][]byte, error) {
	items := slices.Clone(t.Attributes)
	if len(t.Extensions) > 0 {
		value, err := encodeExtensions(t.Extensions)
		if err != nil {
			return nil, err
		}
		oid := OIDExtensionRequest
		if slices.ContainsFunc(t.Extensions, func(e Extension) bool { return e.Value == nil }) {
			oid = OIDExtensionTemplate
		}
		items = append(items, WantAttribute(oid, value))
	}
	if err := checkTemplateItems(items); err != nil {
		return nil, err
	}
	var attributes [][]byte
	for _, item := range items {
		var b cryptobyte.Builder
		addItem(&b, item)
		attribute, err := b.Bytes()
		if err != nil {
			return nil, fmt.Errorf("encoding template attribute %v: %w", item.OID, err)
		}
		attributes = append(attributes, attribute)
	}
	return attributes, nil
}

// checkTemplateItems enforces that a template asks for extensions once, in one of the two ways (RFC 9908, section 3.4).
func checkTemplateItems(items []Item) error {
	var requests int
	for _, item := range items {
		if !item.IsAttribute {
			return fmt.Errorf("template attribute %v is a bare object identifier", item.OID)
		}
		if isExtensionRequest(item.OID) {
			requests++
		}
	}
	if requests > 1 {
		return errors.New("a template may hold one extension request or extension request template, not more")
	}
	if len(items) > maxItems {
		return fmt.Errorf("a template has %d attributes; at most %d are allowed", len(items), maxItems)
	}
	return nil
}

func isExtensionRequest(oid asn1.ObjectIdentifier) bool {
	return oid.Equal(OIDExtensionRequest) || oid.Equal(OIDExtensionTemplate)
}

func addSubject(b *cryptobyte.Builder, subject []RDN) {
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		for _, rdn := range subject {
			if len(rdn) == 0 {
				b.SetError(errors.New("an RDN of the subject is empty"))
				return
			}
			var values [][]byte
			for _, attr := range rdn {
				values = append(values, encodeNameAttr(b, attr))
			}
			addSet(b, cbasn1.SET, values)
		}
	})
}

func encodeNameAttr(outer *cryptobyte.Builder, attr NameAttr) []byte {
	var b cryptobyte.Builder
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1ObjectIdentifier(attr.Type)
		addOptional(b, attr.Value)
	})
	der, err := b.Bytes()
	if err != nil {
		outer.SetError(err)
	}
	return der
}

func addKeySpec(b *cryptobyte.Builder, key *KeySpec) {
	b.AddASN1(tagKey, func(b *cryptobyte.Builder) {
		b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
			b.AddASN1ObjectIdentifier(key.Algorithm)
			addOptional(b, key.Parameters)
		})
		if key.RSABits == 0 {
			return
		}
		if !key.Algorithm.Equal(OIDRSAEncryption) || key.RSABits < 1024 || key.RSABits > maxRSABits {
			b.SetError(fmt.Errorf("RSA key length %d does not fit key algorithm %v", key.RSABits, key.Algorithm))
			return
		}
		b.AddASN1BitString(placeholderKey(key.RSABits))
	})
}

// placeholderKey returns an RSAPublicKey that is none: it only has a modulus of the right length.
func placeholderKey(bits int) []byte {
	var b cryptobyte.Builder
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1BigInt(new(big.Int).Lsh(big.NewInt(1), uint(bits-1)))
		b.AddASN1Int64(65537)
	})
	return b.BytesOrPanic()
}

func addOptional(b *cryptobyte.Builder, element []byte) {
	if element == nil {
		return
	}
	if !isOneElement(element) {
		b.SetError(errors.New("a value is not one DER element"))
		return
	}
	b.AddBytes(element)
}

func encodeExtensions(extensions []Extension) ([]byte, error) {
	if err := checkExtensions(extensions); err != nil {
		return nil, err
	}
	var b cryptobyte.Builder
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		for _, e := range extensions {
			b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
				b.AddASN1ObjectIdentifier(e.ID)
				if e.Critical {
					b.AddASN1Boolean(true)
				}
				if e.Value != nil {
					b.AddASN1OctetString(e.Value)
				}
			})
		}
	})
	return b.Bytes()
}

func checkExtensions(extensions []Extension) error {
	if len(extensions) == 0 || len(extensions) > maxItems {
		return fmt.Errorf("an extension request has %d extensions; 1 to %d are allowed", len(extensions), maxItems)
	}
	for i, e := range extensions {
		if slices.ContainsFunc(extensions[:i], func(f Extension) bool { return f.ID.Equal(e.ID) }) {
			return fmt.Errorf("extension %v is asked for twice", e.ID)
		}
	}
	return nil
}
