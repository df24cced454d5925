package der

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"strings"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"
)

// AltNames are the names of a subjectAltName extension (RFC 5280, section 4.2.1.6), parted by kind. The zero value has
// none.
type AltNames struct {
	DNS   []string     // lower case, LDH labels, possibly "*." in front
	IP    []netip.Addr // no IPv4-mapped IPv6, no zones
	URI   []string     // absolute, ASCII
	Email []string     // rfc822Name: ASCII, domain in lower case
	Other []OtherName
}

// OtherName is a name of a kind that its type identifies, such as OIDHardwareModuleName. Value is one DER value, as it
// stands inside the explicit tag.
type OtherName struct {
	Type  OID
	Value []byte
}

// maxAltNames bounds the names of one extension.
const maxAltNames = 256

// Count is the number of names.
func (n AltNames) Count() int {
	return len(n.DNS) + len(n.IP) + len(n.URI) + len(n.Email) + len(n.Other)
}

// Wildcard reports whether a DNS name begins with "*.".
func (n AltNames) Wildcard() bool {
	return slices.ContainsFunc(n.DNS, func(name string) bool { return strings.HasPrefix(name, "*.") })
}

// Equal compares as sets: order and repetition do not count. Both must be normalised, as ParseAltNames returns them.
func (n AltNames) Equal(m AltNames) bool {
	return slices.Equal(n.keys(), m.keys())
}

// keys are the names as sorted, distinct strings with their kind in front.
func (n AltNames) keys() []string {
	keys := make([]string, 0, n.Count())
	for _, name := range n.DNS {
		keys = append(keys, "d"+name)
	}
	for _, ip := range n.IP {
		keys = append(keys, "i"+ip.String())
	}
	for _, uri := range n.URI {
		keys = append(keys, "u"+uri)
	}
	for _, address := range n.Email {
		keys = append(keys, "e"+address)
	}
	for _, other := range n.Other {
		keys = append(keys, "o"+string(other.Type.Append(nil))+string(other.Value))
	}
	slices.Sort(keys)
	return slices.Compact(keys)
}

// Normalise returns the names in the form in which Mooring compares and writes them, or says which one it refuses.
// Wildcards are let through: whether they are allowed is a matter of the profile (see Wildcard).
func (n AltNames) Normalise() (AltNames, error) {
	if n.Count() > maxAltNames {
		return AltNames{}, fmt.Errorf("%d alternative names, %d are allowed", n.Count(), maxAltNames)
	}
	var out AltNames
	var err error
	if out.DNS, err = mapAll(n.DNS, NormaliseDNS); err != nil {
		return AltNames{}, err
	}
	if out.URI, err = mapAll(n.URI, checkURI); err != nil {
		return AltNames{}, err
	}
	if out.Email, err = mapAll(n.Email, normaliseEmail); err != nil {
		return AltNames{}, err
	}
	for _, ip := range n.IP {
		if !ip.IsValid() || ip.Is4In6() || ip.Zone() != "" {
			return AltNames{}, fmt.Errorf("IP address %s: not plain IPv4 or IPv6 (no IPv4-mapped addresses, no zones)", ip)
		}
	}
	for _, other := range n.Other {
		if other.Type == "" || !isAnyElement(other.Value) {
			return AltNames{}, errors.New("otherName without a type, or whose value is not one DER value")
		}
	}
	out.IP, out.Other = n.IP, n.Other
	return out, nil
}

func mapAll(in []string, f func(string) (string, error)) ([]string, error) {
	if len(in) == 0 {
		return nil, nil
	}
	out := make([]string, len(in))
	for i, text := range in {
		var err error
		if out[i], err = f(text); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func isAnyElement(in []byte) bool {
	s := cryptobyte.String(in)
	var content cryptobyte.String
	var tag asn1.Tag
	return s.ReadAnyASN1(&content, &tag) && s.Empty()
}

// NormaliseDNS lower-cases a DNS name and checks it: LDH labels of 1 to 63 octets, 253 in all, no trailing dot, not an
// IPv4 address, and a wildcard only as whole left-most label with at least two labels after it.
func NormaliseDNS(name string) (string, error) {
	refuse := func(why string) (string, error) { return "", fmt.Errorf("DNS name %q: %s", clip(name), why) }
	if name == "" || len(name) > 253 {
		return refuse("1 to 253 characters are allowed")
	}
	if strings.HasSuffix(name, ".") {
		return refuse("no trailing dot is allowed")
	}
	labels := strings.TrimPrefix(name, "*.")
	if labels != name && !strings.Contains(labels, ".") {
		return refuse("a wildcard needs at least two labels after it")
	}
	last := ""
	for label := range strings.SplitSeq(labels, ".") {
		if !isLDH(label) {
			return refuse("labels are 1 to 63 letters, digits and inner hyphens (international names as A-labels); \"*\" only as whole first label")
		}
		last = label
	}
	if strings.Trim(last, "0123456789") == "" {
		return refuse("the last label is a number; give IP addresses as IP names")
	}
	return strings.ToLower(name), nil
}

func isLDH(label string) bool {
	if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
		return false
	}
	for i := range len(label) {
		if !isAlnum(label[i]) && label[i] != '-' {
			return false
		}
	}
	return true
}

// checkURI wants an absolute URI of visible ASCII, with a host where there is an authority (RFC 5280, section
// 4.2.1.6). It changes nothing: URIs are compared octet by octet.
func checkURI(text string) (string, error) {
	refuse := func(why string) (string, error) { return "", fmt.Errorf("URI %q: %s", clip(text), why) }
	if text == "" || len(text) > 2048 {
		return refuse("1 to 2048 characters are allowed")
	}
	for i := range len(text) {
		if text[i] <= ' ' || text[i] >= 0x7f {
			return refuse("only visible ASCII characters are allowed")
		}
	}
	u, err := url.Parse(text)
	if err != nil || u.Scheme == "" || len(text) == len(u.Scheme)+1 {
		return refuse("not an absolute URI (scheme:...)")
	}
	if strings.HasPrefix(text[len(u.Scheme)+1:], "//") && u.Hostname() == "" {
		return refuse("no host after \"//\"")
	}
	return text, nil
}

func normaliseEmail(address string) (string, error) {
	local, domain, ok := strings.Cut(address, "@")
	if !ok || local == "" || len(local) > 64 || strings.Contains(domain, "@") {
		return "", fmt.Errorf("mail address %q: not of the form local@domain", clip(address))
	}
	for i := range len(local) {
		if !isAlnum(local[i]) && strings.IndexByte("!#$%&'*+-/=?^_`{|}~.", local[i]) < 0 {
			return "", fmt.Errorf("mail address %q: a character that must be quoted; use plain ASCII", clip(address))
		}
	}
	domain, err := NormaliseDNS(domain)
	if err != nil || domain[0] == '*' {
		return "", fmt.Errorf("mail address %q: no valid domain after the @", clip(address))
	}
	return local + "@" + domain, nil
}

// Tags of GeneralName.
const (
	nameOther = 0
	nameEmail = 1
	nameDNS   = 2
	nameURI   = 6
	nameIP    = 7
)

// ParseAltNames reads the value of a subjectAltName extension and normalises it. x400Address, directoryName,
// ediPartyName and registeredID are refused by name, as is an extension without names.
func ParseAltNames(der []byte) (AltNames, error) {
	names, err := whole(der, asn1.SEQUENCE, "subjectAltName")
	if err != nil {
		return AltNames{}, err
	}
	if names.Empty() {
		return AltNames{}, errors.New("subjectAltName without names")
	}
	var out AltNames
	for !names.Empty() {
		if out.Count() == maxAltNames {
			return AltNames{}, fmt.Errorf("more than %d alternative names", maxAltNames)
		}
		if err := out.readName(&names); err != nil {
			return AltNames{}, err
		}
	}
	return out.Normalise()
}

func (n *AltNames) readName(names *cryptobyte.String) error {
	var value cryptobyte.String
	var tag asn1.Tag
	if !names.ReadAnyASN1(&value, &tag) {
		return malformed("subjectAltName")
	}
	switch tag {
	case asn1.Tag(nameDNS).ContextSpecific():
		n.DNS = append(n.DNS, string(value))
	case asn1.Tag(nameURI).ContextSpecific():
		n.URI = append(n.URI, string(value))
	case asn1.Tag(nameEmail).ContextSpecific():
		n.Email = append(n.Email, string(value))
	case asn1.Tag(nameIP).ContextSpecific():
		ip, ok := netip.AddrFromSlice(value)
		if !ok {
			return fmt.Errorf("IP address of %d octets; 4 or 16 are allowed", len(value))
		}
		n.IP = append(n.IP, ip)
	case asn1.Tag(nameOther).ContextSpecific().Constructed():
		var inner cryptobyte.String
		t, ok := readOID(&value)
		if !ok || !value.ReadASN1(&inner, asn1.Tag(0).ContextSpecific().Constructed()) || !value.Empty() || !isAnyElement(inner) {
			return malformed("otherName")
		}
		n.Other = append(n.Other, OtherName{t, inner})
	default:
		return fmt.Errorf("alternative name of kind [%d]; only DNS, IP, URI, mail and otherName are supported", byte(tag)&0x1f)
	}
	return nil
}

// BuildAltNames encodes the value of a subjectAltName extension, kinds in the order DNS, mail, IP, URI, otherName, as
// crypto/x509 does, and names as given. It normalises first. No names give nil.
func BuildAltNames(names AltNames) ([]byte, error) {
	if names.Count() == 0 {
		return nil, nil
	}
	names, err := names.Normalise()
	if err != nil {
		return nil, err
	}
	var content []byte
	for _, name := range names.DNS {
		content = appendText(content, tagContext+nameDNS, name)
	}
	for _, address := range names.Email {
		content = appendText(content, tagContext+nameEmail, address)
	}
	for _, ip := range names.IP {
		content = AppendElement(content, tagContext+nameIP, ip.AsSlice())
	}
	for _, uri := range names.URI {
		content = appendText(content, tagContext+nameURI, uri)
	}
	for _, other := range names.Other {
		n := elementSize(len(other.Type)) + elementSize(len(other.Value))
		content = AppendHeader(content, tagConstructed+nameOther, n)
		content = other.Type.Append(content)
		content = AppendElement(content, tagConstructed, other.Value)
	}
	return AppendElement(nil, tagSequence, content), nil
}

// HardwareModule is the otherName that 802.1AR device certificates carry: the type of the hardware and its serial
// number (RFC 4108, section 5).
func HardwareModule(hardware OID, serial []byte) OtherName {
	content := AppendElement(hardware.Append(nil), tagOctetString, serial)
	return OtherName{OIDHardwareModuleName, AppendElement(nil, tagSequence, content)}
}

// PermanentIdentifier is the otherName by which an attested device is known for its life (RFC 4043, section 2).
// The assigner may be empty.
func PermanentIdentifier(value string, assigner OID) OtherName {
	content := appendText(nil, byte(asn1.UTF8String), value)
	if assigner != "" {
		content = assigner.Append(content)
	}
	return OtherName{OIDPermanentIdentifier, AppendElement(nil, tagSequence, content)}
}

// Same reports whether both are the same name.
func (o OtherName) Same(p OtherName) bool { return o.Type == p.Type && bytes.Equal(o.Value, p.Value) }
