package est

import (
	"bytes"
	"errors"
	"fmt"
	"math/big"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

// parseTemplateItem reads the attribute that holds a template.
func parseTemplateItem(item Item) (*Template, error) {
	if len(item.Values) != 1 {
		return nil, fmt.Errorf("it has %d values, not one", len(item.Values))
	}
	input := cryptobyte.String(item.Values[0])
	var s cryptobyte.String
	var version int64
	if !input.ReadASN1(&s, cbasn1.SEQUENCE) || !input.Empty() || !s.ReadASN1Integer(&version) || version != 0 {
		return nil, errors.New("it is not a SEQUENCE of version 1")
	}
	t := new(Template)
	if s.PeekASN1Tag(cbasn1.SEQUENCE) && !readSubject(&s, t) {
		return nil, errors.New("its subject is broken")
	}
	if s.PeekASN1Tag(tagKey) && !readKeySpec(&s, t) {
		return nil, errors.New("its key is broken")
	}
	if !s.Empty() {
		if err := readTemplateAttributes(&s, t); err != nil {
			return nil, err
		}
	}
	return t, nil
}

func readSubject(s *cryptobyte.String, t *Template) bool {
	var subject cryptobyte.String
	if !s.ReadASN1(&subject, cbasn1.SEQUENCE) {
		return false
	}
	for !subject.Empty() {
		var set cryptobyte.String
		if len(t.Subject) == maxItems || !subject.ReadASN1(&set, cbasn1.SET) || set.Empty() {
			return false
		}
		rdn, ok := readRDN(set)
		if !ok {
			return false
		}
		t.Subject = append(t.Subject, rdn)
	}
	return true
}

func readRDN(set cryptobyte.String) (RDN, bool) {
	var rdn RDN
	var previous []byte
	for !set.Empty() {
		var element cryptobyte.String
		if len(rdn) == maxItems || !set.ReadASN1Element(&element, cbasn1.SEQUENCE) || bytes.Compare(previous, element) > 0 {
			return nil, false
		}
		previous = element
		var attr NameAttr
		var body cryptobyte.String
		if !element.ReadASN1(&body, cbasn1.SEQUENCE) || !body.ReadASN1ObjectIdentifier(&attr.Type) ||
			!readOptional(&body, &attr.Value) {
			return nil, false
		}
		rdn = append(rdn, attr)
	}
	return rdn, true
}

// readOptional reads the one element that s holds, or nothing when s is empty.
func readOptional(s *cryptobyte.String, out *[]byte) bool {
	if s.Empty() {
		return true
	}
	var element cryptobyte.String
	var tag cbasn1.Tag
	if !s.ReadAnyASN1Element(&element, &tag) || !s.Empty() {
		return false
	}
	*out = bytes.Clone(element)
	return true
}

func readKeySpec(s *cryptobyte.String, t *Template) bool {
	var spki, algorithm cryptobyte.String
	key := new(KeySpec)
	if !s.ReadASN1(&spki, tagKey) || !spki.ReadASN1(&algorithm, cbasn1.SEQUENCE) ||
		!algorithm.ReadASN1ObjectIdentifier(&key.Algorithm) || !readOptional(&algorithm, &key.Parameters) {
		return false
	}
	t.Key = key
	if spki.Empty() {
		return true
	}
	var placeholder []byte
	if !spki.ReadASN1BitStringAsBytes(&placeholder) || !spki.Empty() || !key.Algorithm.Equal(OIDRSAEncryption) {
		return false
	}
	pub := cryptobyte.String(placeholder)
	var numbers cryptobyte.String
	modulus, exponent := new(big.Int), new(big.Int)
	if !pub.ReadASN1(&numbers, cbasn1.SEQUENCE) || !pub.Empty() || !numbers.ReadASN1Integer(modulus) ||
		!numbers.ReadASN1Integer(exponent) || !numbers.Empty() {
		return false
	}
	key.RSABits = modulus.BitLen()
	return modulus.Sign() > 0 && 1024 <= key.RSABits && key.RSABits <= maxRSABits
}

func readTemplateAttributes(s *cryptobyte.String, t *Template) error {
	var set cryptobyte.String
	if !s.ReadASN1(&set, tagAttributes) || !s.Empty() {
		return errors.New("its attributes are broken")
	}
	var items []Item
	var previous []byte
	for !set.Empty() {
		var element cryptobyte.String
		var item Item
		if len(items) == maxItems || !set.ReadASN1Element(&element, cbasn1.SEQUENCE) || bytes.Compare(previous, element) > 0 {
			return errors.New("its attributes are too many or not in DER order")
		}
		previous = element
		if !readAttribute(&element, &item) {
			return errors.New("one of its attributes is broken")
		}
		items = append(items, item)
	}
	if err := checkTemplateItems(items); err != nil {
		return err
	}
	for _, item := range items {
		if !isExtensionRequest(item.OID) {
			t.Attributes = append(t.Attributes, item)
			continue
		}
		var err error
		if t.Extensions, err = readExtensions(item); err != nil {
			return err
		}
	}
	return nil
}

func readExtensions(item Item) ([]Extension, error) {
	broken := errors.New("its extension request is broken")
	if len(item.Values) != 1 {
		return nil, broken
	}
	value := cryptobyte.String(item.Values[0])
	var list cryptobyte.String
	if !value.ReadASN1(&list, cbasn1.SEQUENCE) || !value.Empty() {
		return nil, broken
	}
	var extensions []Extension
	for !list.Empty() {
		e, ok := readExtension(&list)
		if !ok || len(extensions) == maxItems || e.Value == nil && item.OID.Equal(OIDExtensionRequest) {
			return nil, broken
		}
		extensions = append(extensions, e)
	}
	return extensions, checkExtensions(extensions)
}

func readExtension(list *cryptobyte.String) (e Extension, ok bool) {
	var s cryptobyte.String
	if !list.ReadASN1(&s, cbasn1.SEQUENCE) || !s.ReadASN1ObjectIdentifier(&e.ID) {
		return e, false
	}
	// DER leaves out a default, so a FALSE is not read.
	if s.PeekASN1Tag(cbasn1.BOOLEAN) && (!s.ReadASN1Boolean(&e.Critical) || !e.Critical) {
		return e, false
	}
	if s.Empty() {
		return e, true
	}
	var value cryptobyte.String
	if !s.ReadASN1(&value, cbasn1.OCTET_STRING) || !s.Empty() {
		return e, false
	}
	e.Value = append([]byte{}, value...)
	return e, true
}
