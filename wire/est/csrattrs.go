package est

import (
	"bytes"
	"encoding/asn1"
	"errors"
	"fmt"
	"slices"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

// Bounds of CSR attributes, in both directions.
const (
	maxCSRAttrs = 16 << 10
	maxItems    = 64
)

// Object identifiers that occur in CSR attributes and in requests.
var (
	OIDChallengePassword = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 7}
	OIDExtensionRequest  = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 14}
	// OIDRequestTemplate is id-aa-certificationRequestInfoTemplate (RFC 9908).
	OIDRequestTemplate = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 16, 2, 61}
	// OIDExtensionTemplate is id-aa-extensionReqTemplate (RFC 9908).
	OIDExtensionTemplate = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 16, 2, 62}
	OIDECPublicKey       = asn1.ObjectIdentifier{1, 2, 840, 10045, 2, 1}
	OIDRSAEncryption     = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 1}
)

// CSRAttrs says what a server wants in a certification request. The zero value wants nothing.
type CSRAttrs struct {
	// Items is the list of RFC 7030, section 4.5.2, in its order, without the template.
	Items []Item
	// Template is the newer form. A client that knows it uses it alone (RFC 9908, section 4); servers may give both.
	Template *Template
}

// Item is one entry of the older list: a bare object identifier, or an attribute with values.
type Item struct {
	OID asn1.ObjectIdentifier
	// IsAttribute tells an attribute, whose values may be an empty set, from a bare object identifier.
	IsAttribute bool
	// Values are the DER encodings of the attribute's values.
	Values [][]byte
}

// WantOID returns the entry that names an attribute to be included or an algorithm to be used.
func WantOID(oid asn1.ObjectIdentifier) Item {
	return Item{OID: oid}
}

// WantAttribute returns the entry for an attribute with values, each a DER encoding.
func WantAttribute(oid asn1.ObjectIdentifier, values ...[]byte) Item {
	return Item{OID: oid, IsAttribute: true, Values: values}
}

// WantECKey returns the entry that demands a key on the given named curve.
func WantECKey(curve asn1.ObjectIdentifier) (Item, error) {
	value, err := encodeOID(curve)
	if err != nil {
		return Item{}, err
	}
	return WantAttribute(OIDECPublicKey, value), nil
}

// WantRSAKey returns the entry that demands an RSA key with a modulus of the given number of bits.
func WantRSAKey(bits int) (Item, error) {
	var b cryptobyte.Builder
	b.AddASN1Int64(int64(bits))
	value, err := b.Bytes()
	return WantAttribute(OIDRSAEncryption, value), err
}

// WantExtensions returns the entry that demands the given extensions, which must all have values (RFC 9908, section 3.2).
func WantExtensions(extensions []Extension) (Item, error) {
	if slices.ContainsFunc(extensions, func(e Extension) bool { return e.Value == nil }) {
		return Item{}, errors.New("an extension without value can only be asked for in a template")
	}
	value, err := encodeExtensions(extensions)
	if err != nil {
		return Item{}, err
	}
	return WantAttribute(OIDExtensionRequest, value), nil
}

// Wants tells whether the older list names oid, bare or as an attribute. With OIDChallengePassword it tells whether the
// server demands channel binding (RFC 7030, section 3.5).
func (c *CSRAttrs) Wants(oid asn1.ObjectIdentifier) bool {
	return slices.ContainsFunc(c.Items, func(i Item) bool { return i.OID.Equal(oid) })
}

// BuildCSRAttrs returns the DER of CsrAttrs: the items in their order, then the template. It refuses a second extension
// request (RFC 9908, section 3.2), repeated extensions or entries over the bounds of ParseCSRAttrs.
func BuildCSRAttrs(c CSRAttrs) ([]byte, error) {
	items := slices.Clone(c.Items)
	if c.Template != nil {
		value, err := encodeTemplate(c.Template)
		if err != nil {
			return nil, err
		}
		items = append(items, WantAttribute(OIDRequestTemplate, value))
	}
	if err := checkItems(items); err != nil {
		return nil, err
	}
	var b cryptobyte.Builder
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		for _, item := range items {
			addItem(b, item)
		}
	})
	der, err := b.Bytes()
	if err != nil {
		return nil, fmt.Errorf("encoding CSR attributes: %w", err)
	}
	if len(der) > maxCSRAttrs {
		return nil, fmt.Errorf("CSR attributes have %d bytes; at most %d are allowed", len(der), maxCSRAttrs)
	}
	return der, nil
}

// ParseCSRAttrs reads the DER of CsrAttrs. Entries that it does not know are kept in Items, since a client must ignore
// them (RFC 7030, section 4.5.2). It refuses what BuildCSRAttrs refuses.
func ParseCSRAttrs(der []byte) (*CSRAttrs, error) {
	if len(der) > maxCSRAttrs {
		return nil, fmt.Errorf("CSR attributes have %d bytes; at most %d are read", len(der), maxCSRAttrs)
	}
	input := cryptobyte.String(der)
	var list cryptobyte.String
	if !input.ReadASN1(&list, cbasn1.SEQUENCE) || !input.Empty() {
		return nil, errors.New("CSR attributes are not one DER SEQUENCE")
	}
	items, err := readItems(list)
	if err != nil {
		return nil, err
	}
	if err := checkItems(items); err != nil {
		return nil, err
	}
	c := new(CSRAttrs)
	for _, item := range items {
		if !item.IsAttribute || !item.OID.Equal(OIDRequestTemplate) {
			c.Items = append(c.Items, item)
			continue
		}
		if c.Template, err = parseTemplateItem(item); err != nil {
			return nil, fmt.Errorf("reading the request template: %w", err)
		}
	}
	return c, nil
}

func readItems(list cryptobyte.String) ([]Item, error) {
	var items []Item
	for !list.Empty() {
		if len(items) == maxItems {
			return nil, fmt.Errorf("CSR attributes have more than %d entries", maxItems)
		}
		var item Item
		if list.PeekASN1Tag(cbasn1.OBJECT_IDENTIFIER) {
			if !list.ReadASN1ObjectIdentifier(&item.OID) {
				return nil, errors.New("CSR attributes hold a broken object identifier")
			}
		} else if !readAttribute(&list, &item) {
			return nil, errors.New("CSR attributes hold an entry that is neither object identifier nor attribute")
		}
		items = append(items, item)
	}
	return items, nil
}

// readAttribute reads one Attribute, with at most maxItems values.
func readAttribute(s *cryptobyte.String, item *Item) bool {
	var attribute, values cryptobyte.String
	if !s.ReadASN1(&attribute, cbasn1.SEQUENCE) || !attribute.ReadASN1ObjectIdentifier(&item.OID) ||
		!attribute.ReadASN1(&values, cbasn1.SET) || !attribute.Empty() {
		return false
	}
	item.IsAttribute = true
	for !values.Empty() {
		var value cryptobyte.String
		var tag cbasn1.Tag
		if len(item.Values) == maxItems || !values.ReadAnyASN1Element(&value, &tag) {
			return false
		}
		item.Values = append(item.Values, bytes.Clone(value))
	}
	// DER orders a SET OF; only an ordered one is a DER encoding.
	return slices.IsSortedFunc(item.Values, bytes.Compare)
}

// checkItems enforces what holds for the list as a whole, in both directions.
func checkItems(items []Item) error {
	if len(items) > maxItems {
		return fmt.Errorf("CSR attributes have %d entries; at most %d are allowed", len(items), maxItems)
	}
	var requests, templates int
	for _, item := range items {
		if !item.IsAttribute && item.Values != nil {
			return fmt.Errorf("CSR attributes entry %v has values but is no attribute", item.OID)
		}
		if !item.IsAttribute {
			continue
		}
		if item.OID.Equal(OIDExtensionRequest) {
			requests++
		}
		if item.OID.Equal(OIDRequestTemplate) {
			templates++
		}
	}
	if requests > 1 || templates > 1 {
		return errors.New("CSR attributes hold more than one extension request or template; join them into one")
	}
	return nil
}

func addItem(b *cryptobyte.Builder, item Item) {
	if !item.IsAttribute {
		b.AddASN1ObjectIdentifier(item.OID)
		return
	}
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1ObjectIdentifier(item.OID)
		addSet(b, cbasn1.SET, item.Values)
	})
}

// addSet adds DER values as a SET OF, in the order that DER demands.
func addSet(b *cryptobyte.Builder, tag cbasn1.Tag, values [][]byte) {
	b.AddASN1(tag, func(b *cryptobyte.Builder) {
		for _, value := range slices.SortedFunc(slices.Values(values), bytes.Compare) {
			if !isOneElement(value) {
				b.SetError(errors.New("a value is not one DER element"))
				return
			}
			b.AddBytes(value)
		}
	})
}

func isOneElement(der []byte) bool {
	s := cryptobyte.String(der)
	var element cryptobyte.String
	var tag cbasn1.Tag
	return s.ReadAnyASN1Element(&element, &tag) && s.Empty()
}

func encodeOID(oid asn1.ObjectIdentifier) ([]byte, error) {
	var b cryptobyte.Builder
	b.AddASN1ObjectIdentifier(oid)
	return b.Bytes()
}
