package der

import (
	"errors"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"
)

// Attribute is one part of a distinguished name. Value is UTF-8 whatever the string type on the wire; compare names by
// their DER, not by their attributes.
type Attribute struct {
	Type  OID
	Value string
}

// maxNameParts bounds the attributes of one name.
const maxNameParts = 32

// emptyName is the DER of a name without attributes.
const emptyName = "\x30\x00"

// attributeRule says how values of an attribute type are written and how long they may be, in characters
// (RFC 5280, appendix A.1).
type attributeRule struct {
	key string // short key in text; empty if the type has none
	tag asn1.Tag
	max int
}

func ruleOf(t OID) attributeRule {
	switch t {
	case OIDCommonName:
		return attributeRule{"CN", asn1.UTF8String, 64}
	case OIDOrganization:
		return attributeRule{"O", asn1.UTF8String, 64}
	case OIDOrganizationalUnit:
		return attributeRule{"OU", asn1.UTF8String, 64}
	case OIDCountry:
		return attributeRule{"C", asn1.PrintableString, 2}
	case OIDLocality:
		return attributeRule{"L", asn1.UTF8String, 128}
	case OIDState:
		return attributeRule{"ST", asn1.UTF8String, 128}
	case OIDStreet:
		return attributeRule{"STREET", asn1.UTF8String, 128}
	case OIDSerialNumber:
		return attributeRule{"serialNumber", asn1.PrintableString, 64}
	case OIDTitle:
		return attributeRule{"title", asn1.UTF8String, 64}
	case OIDDNQualifier:
		return attributeRule{"dnQualifier", asn1.PrintableString, 64}
	case OIDDomainComponent:
		return attributeRule{"DC", asn1.IA5String, 63}
	case OIDUserID:
		return attributeRule{"UID", asn1.UTF8String, 256}
	case OIDEmailAddress:
		return attributeRule{"emailAddress", asn1.IA5String, 255}
	}
	return attributeRule{"", asn1.UTF8String, 256}
}

// attributeTypes are the types with a short key.
func attributeTypes() []OID {
	return []OID{OIDCommonName, OIDOrganization, OIDOrganizationalUnit, OIDCountry, OIDLocality, OIDState, OIDStreet,
		OIDSerialNumber, OIDTitle, OIDDNQualifier, OIDDomainComponent, OIDUserID, OIDEmailAddress}
}

// ParseAttributeType reads a short key (CN, O, OU, C, L, ST, STREET, serialNumber, title, dnQualifier, DC, UID,
// emailAddress; in any case) or a dotted object identifier.
func ParseAttributeType(key string) (OID, error) {
	for _, t := range attributeTypes() {
		if strings.EqualFold(key, ruleOf(t).key) {
			return t, nil
		}
	}
	t, err := ParseOID(key)
	if err != nil {
		return "", fmt.Errorf("unknown name attribute %q: use CN, O, OU, C, L, ST, serialNumber, DC or a dotted number", clip(key))
	}
	return t, nil
}

// label is the short key of an attribute type, or its dotted form.
func (o OID) label() string {
	if key := ruleOf(o).key; key != "" {
		return key
	}
	return o.String()
}

// Check refuses values that Mooring neither writes nor accepts: empty, too long for the type, with control characters,
// with blanks at either end, or with characters that the type's string form lacks.
func (a Attribute) Check() error {
	rule := ruleOf(a.Type)
	length, err := checkText(a.Value)
	switch {
	case err != nil:
		return fmt.Errorf("name attribute %s: %w", a.Type.label(), err)
	case length > rule.max:
		return fmt.Errorf("name attribute %s: %d characters, %d are allowed", a.Type.label(), length, rule.max)
	case !inAlphabet(a.Value, rule.tag):
		return fmt.Errorf("name attribute %s: a character that its string type does not have", a.Type.label())
	case a.Type == OIDCountry && !isCountry(a.Value):
		return errors.New("name attribute C: two letters of ISO 3166 are needed")
	}
	return nil
}

// checkText checks what holds for every text in a name, and counts its characters.
func checkText(text string) (int, error) {
	if text == "" {
		return 0, errors.New("empty value")
	}
	if text[0] == ' ' || text[len(text)-1] == ' ' {
		return 0, errors.New("blank at the beginning or end")
	}
	length := 0
	for _, r := range text {
		if r == 0 {
			return 0, errors.New("NUL character")
		}
		if unicode.IsControl(r) {
			return 0, errors.New("control character")
		}
		length++
	}
	if !utf8.ValidString(text) {
		return 0, errors.New("invalid UTF-8")
	}
	return length, nil
}

// inAlphabet reports whether text has only characters of the string type (X.680, section 41).
func inAlphabet(text string, tag asn1.Tag) bool {
	for i := range len(text) {
		switch {
		case tag == asn1.PrintableString && !isPrintable(text[i]):
			return false
		case tag == asn1.IA5String && text[i] >= 0x80:
			return false
		}
	}
	return true
}

func isPrintable(b byte) bool {
	return isAlnum(b) || strings.IndexByte(" '()+,-./:=?", b) >= 0
}

func isAlnum(b byte) bool {
	return 'a' <= b && b <= 'z' || 'A' <= b && b <= 'Z' || '0' <= b && b <= '9'
}

func isCountry(text string) bool {
	letter := func(b byte) bool { return isAlnum(b) && b > '9' }
	return len(text) == 2 && letter(text[0]) && letter(text[1])
}

// BuildName encodes a name, one attribute per RDN in the given order: UTF8String, except PrintableString for country,
// serialNumber and dnQualifier, and IA5String for emailAddress and DC. No attributes give the empty name.
func BuildName(attributes []Attribute) ([]byte, error) {
	if len(attributes) > maxNameParts {
		return nil, fmt.Errorf("name of %d attributes, %d are allowed", len(attributes), maxNameParts)
	}
	var content []byte
	for _, a := range attributes {
		if err := a.Check(); err != nil {
			return nil, err
		}
		n := elementSize(len(a.Type)) + elementSize(len(a.Value))
		content = AppendHeader(content, tagSet, elementSize(n))
		content = AppendHeader(content, tagSequence, n)
		content = a.Type.Append(content)
		content = appendText(content, byte(ruleOf(a.Type).tag), a.Value)
	}
	return AppendElement(nil, tagSequence, content), nil
}

// ParseName reads a DER Name of single-valued RDNs; multi-valued ones are refused, as C509 cannot carry them and their
// order is ambiguous. Values may be PrintableString, UTF8String or IA5String and must pass Attribute.Check. The empty
// name gives no attributes.
func ParseName(der []byte) ([]Attribute, error) {
	rdns, err := whole(der, asn1.SEQUENCE, "name")
	if err != nil {
		return nil, err
	}
	if rdns.Empty() {
		return nil, nil
	}
	attributes := make([]Attribute, 0, 4)
	for !rdns.Empty() {
		if len(attributes) == maxNameParts {
			return nil, fmt.Errorf("name of more than %d attributes", maxNameParts)
		}
		a, err := readRDN(&rdns)
		if err != nil {
			return nil, err
		}
		attributes = append(attributes, a)
	}
	return attributes, nil
}

func readRDN(rdns *cryptobyte.String) (Attribute, error) {
	var rdn, pair, value cryptobyte.String
	var tag asn1.Tag
	if !rdns.ReadASN1(&rdn, asn1.SET) || !rdn.ReadASN1(&pair, asn1.SEQUENCE) {
		return Attribute{}, malformed("name")
	}
	if !rdn.Empty() {
		return Attribute{}, errors.New("name with a multi-valued RDN (several attributes in one SET); use one RDN per attribute")
	}
	t, ok := readOID(&pair)
	if !ok || !pair.ReadAnyASN1(&value, &tag) || !pair.Empty() {
		return Attribute{}, malformed("name")
	}
	text, err := directoryString(tag, value)
	if err != nil {
		return Attribute{}, fmt.Errorf("name attribute %s: %w", t.label(), err)
	}
	a := Attribute{t, text}
	return a, a.Check()
}

// directoryString reads the three string types that are still in use.
func directoryString(tag asn1.Tag, content []byte) (string, error) {
	switch tag {
	case asn1.UTF8String, asn1.PrintableString, asn1.IA5String:
	default:
		return "", fmt.Errorf("string type with tag %#02x; use UTF8String, PrintableString or IA5String", byte(tag))
	}
	text := string(content)
	if !inAlphabet(text, tag) {
		return "", errors.New("a character that its string type does not have")
	}
	if !utf8.ValidString(text) {
		return "", errors.New("invalid UTF-8")
	}
	return text, nil
}

// FormatName writes a name for people, in the order of the DER: "O=Acme, CN=dev1". Characters that ParseDN would take
// for its own (comma, plus, equals, backslash, quotes, angle brackets, semicolon, number sign) are escaped by a backslash.
func FormatName(attributes []Attribute) string {
	var text strings.Builder
	for i, a := range attributes {
		if i > 0 {
			text.WriteString(", ")
		}
		text.WriteString(a.Type.label())
		text.WriteByte('=')
		for _, r := range a.Value {
			if strings.ContainsRune(`,+=\"<>;#`, r) {
				text.WriteByte('\\')
			}
			text.WriteRune(r)
		}
	}
	return text.String()
}

// ParseDN reads what FormatName writes: attributes in the order of the DER, parted by commas, with backslash escapes.
// Blanks around attributes are ignored. It is for configuration and command lines, and is not RFC 4514, whose order is
// the reverse.
func ParseDN(text string) ([]Attribute, error) {
	var attributes []Attribute
	for rest := text; strings.TrimSpace(rest) != "" || len(attributes) == 0; {
		key, after, ok := strings.Cut(rest, "=")
		if !ok {
			return nil, fmt.Errorf("name %q: expected key=value, as in \"O=Acme, CN=dev1\"", clip(text))
		}
		t, err := ParseAttributeType(strings.TrimSpace(key))
		if err != nil {
			return nil, err
		}
		value, remainder, more := cutEscaped(after)
		a := Attribute{t, value}
		if err := a.Check(); err != nil {
			return nil, err
		}
		if attributes = append(attributes, a); len(attributes) > maxNameParts {
			return nil, fmt.Errorf("name of more than %d attributes", maxNameParts)
		}
		if more && strings.TrimSpace(remainder) == "" {
			return nil, fmt.Errorf("name %q: nothing after the last comma", clip(text))
		}
		rest = remainder
	}
	return attributes, nil
}

// cutEscaped splits at the first comma without a backslash before it and undoes the escapes of the part before it.
func cutEscaped(text string) (value, rest string, more bool) {
	var out strings.Builder
	for i := 0; i < len(text); i++ {
		switch {
		case text[i] == '\\' && i+1 < len(text):
			i++
		case text[i] == ',':
			return strings.TrimSpace(out.String()), text[i+1:], true
		}
		out.WriteByte(text[i])
	}
	return strings.TrimSpace(out.String()), "", false
}
