package der

import (
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"
)

// Extension is one extension of a certificate, request or revocation list. Value is the content of its OCTET STRING.
type Extension struct {
	OID      OID
	Critical bool
	Value    []byte
}

// maxExtensions bounds the extensions of one list.
const maxExtensions = 64

// size is the number of octets that Append writes.
func (e Extension) size() int { return elementSize(e.contentSize()) }

func (e Extension) contentSize() int {
	n := elementSize(len(e.OID)) + elementSize(len(e.Value))
	if e.Critical {
		n += 3
	}
	return n
}

// Append appends the extension as a whole value. Criticality is left out when false, as DER demands of defaults.
func (e Extension) Append(dst []byte) []byte {
	dst = AppendHeader(dst, tagSequence, e.contentSize())
	dst = e.OID.Append(dst)
	if e.Critical {
		dst = append(dst, byte(asn1.BOOLEAN), 1, 0xff)
	}
	return AppendElement(dst, tagOctetString, e.Value)
}

// ParseExtensions reads Extensions, a SEQUENCE OF Extension. Two of one type are refused. The list may be empty, since
// some clients send that in requests.
func ParseExtensions(der []byte) ([]Extension, error) {
	list, err := whole(der, asn1.SEQUENCE, "extensions")
	if err != nil {
		return nil, err
	}
	var out []Extension
	for !list.Empty() {
		e, err := readExtension(&list)
		if err != nil {
			return nil, err
		}
		if find(out, e.OID) != nil {
			return nil, fmt.Errorf("extension %s occurs twice", e.OID)
		}
		if len(out) == maxExtensions {
			return nil, fmt.Errorf("more than %d extensions", maxExtensions)
		}
		out = append(out, e)
	}
	return out, nil
}

func readExtension(list *cryptobyte.String) (Extension, error) {
	var item, value cryptobyte.String
	if !list.ReadASN1(&item, asn1.SEQUENCE) {
		return Extension{}, malformed("extensions")
	}
	id, ok := readOID(&item)
	if !ok {
		return Extension{}, malformed("extensions")
	}
	critical := false
	if item.PeekASN1Tag(asn1.BOOLEAN) && (!item.ReadASN1Boolean(&critical) || !critical) {
		return Extension{}, fmt.Errorf("extension %s: criticality FALSE must be left out in DER", id)
	}
	if !item.ReadASN1(&value, asn1.OCTET_STRING) || !item.Empty() {
		return Extension{}, malformed("extensions")
	}
	return Extension{id, critical, value}, nil
}

// find returns the extension of the type, or nil.
func find(list []Extension, id OID) *Extension {
	for i := range list {
		if list[i].OID == id {
			return &list[i]
		}
	}
	return nil
}

// KeyUsage is the set of bits of a keyUsage extension. Bit n of the standard is 1<<n, as in crypto/x509.
type KeyUsage uint16

// The bits (RFC 5280, section 4.2.1.3).
const (
	DigitalSignature KeyUsage = 1 << iota
	ContentCommitment
	KeyEncipherment
	DataEncipherment
	KeyAgreement
	KeyCertSign
	CRLSign
	EncipherOnly
	DecipherOnly
)

// Asked is what a list of requested extensions asks for, as far as Mooring understands it. Asking is not getting.
type Asked struct {
	Names       AltNames
	CA          bool // basicConstraints with cA TRUE
	PathLimited bool // … and a path length,
	PathLen     int  // which is this
	KeyUsage    KeyUsage
	ExtKeyUsage []OID
}

// ParseAsked reads the extensions that Asked shows and passes over all others. A malformed one is an error.
func ParseAsked(list []Extension) (Asked, error) {
	var asked Asked
	for _, e := range list {
		var err error
		switch e.OID {
		case OIDSubjectAltName:
			asked.Names, err = ParseAltNames(e.Value)
		case OIDBasicConstraints:
			err = asked.readBasicConstraints(e.Value)
		case OIDKeyUsage:
			asked.KeyUsage, err = readKeyUsage(e.Value)
		case OIDExtKeyUsage:
			asked.ExtKeyUsage, err = readExtKeyUsage(e.Value)
		}
		if err != nil {
			return Asked{}, err
		}
	}
	return asked, nil
}

func (a *Asked) readBasicConstraints(value []byte) error {
	s, err := whole(value, asn1.SEQUENCE, "basicConstraints")
	if err != nil {
		return err
	}
	// Explicit FALSE is not DER, but asks for nothing dangerous and is written by clients in the field.
	if s.PeekASN1Tag(asn1.BOOLEAN) && !s.ReadASN1Boolean(&a.CA) {
		return malformed("basicConstraints")
	}
	if s.Empty() {
		return nil
	}
	var pathLen uint16
	if !s.ReadASN1Integer(&pathLen) || !s.Empty() {
		return malformed("basicConstraints")
	}
	a.PathLimited, a.PathLen = true, int(pathLen)
	return nil
}

func readKeyUsage(value []byte) (KeyUsage, error) {
	bits, err := whole(value, asn1.BIT_STRING, "keyUsage")
	if err != nil {
		return 0, err
	}
	if len(bits) < 1 || len(bits) > 3 || bits[0] > 7 || (len(bits) == 1 && bits[0] != 0) {
		return 0, malformed("keyUsage")
	}
	// Trailing zero bits, which DER drops from named bits, are accepted: they change nothing.
	unused := bits[0]
	if last := bits[len(bits)-1]; len(bits) > 1 && last&(1<<unused-1) != 0 {
		return 0, malformed("keyUsage")
	}
	var usage KeyUsage
	for n := range 8 * (len(bits) - 1) {
		if bits[1+n/8]&(0x80>>(n%8)) != 0 {
			usage |= 1 << n
		}
	}
	return usage, nil
}

func readExtKeyUsage(value []byte) ([]OID, error) {
	s, err := whole(value, asn1.SEQUENCE, "extKeyUsage")
	if err != nil {
		return nil, err
	}
	var usages []OID
	for !s.Empty() {
		id, ok := readOID(&s)
		if !ok || len(usages) == maxExtensions {
			return nil, malformed("extKeyUsage")
		}
		usages = append(usages, id)
	}
	return usages, nil
}

// NewKeyUsage is the keyUsage extension, critical. The bits are written without trailing zeros.
func NewKeyUsage(usage KeyUsage) Extension {
	var octets [2]byte
	last := 0
	for n := range 16 {
		if usage&(1<<n) != 0 {
			octets[n/8] |= 0x80 >> (n % 8)
			last = n + 1
		}
	}
	used := (last + 7) / 8
	content := append([]byte{byte(used*8 - last)}, octets[:used]...)
	return Extension{OIDKeyUsage, true, AppendElement(nil, tagBitString, content)}
}

// NewExtKeyUsage is the extKeyUsage extension, not critical.
func NewExtKeyUsage(usages ...OID) Extension {
	return Extension{OIDExtKeyUsage, false, oidList(usages, nil)}
}

func oidList(ids []OID, wrap func([]byte) []byte) []byte {
	var content []byte
	for _, id := range ids {
		item := id.Append(nil)
		if wrap != nil {
			item = wrap(item)
		}
		content = append(content, item...)
	}
	return AppendElement(nil, tagSequence, content)
}

// NewBasicConstraints is the basicConstraints extension, critical. A negative path length means no limit; more
// than 127 is written as 127, and what is not a CA has none.
func NewBasicConstraints(ca bool, pathLen int) Extension {
	var content []byte
	if ca {
		content = append(content, byte(asn1.BOOLEAN), 1, 0xff)
	}
	if ca && pathLen >= 0 {
		content = append(content, tagInteger, 1, byte(min(pathLen, 127)))
	}
	return Extension{OIDBasicConstraints, true, AppendElement(nil, tagSequence, content)}
}

// NewSubjectKeyID is the subjectKeyIdentifier extension.
func NewSubjectKeyID(id []byte) Extension {
	return Extension{OIDSubjectKeyID, false, AppendElement(nil, tagOctetString, id)}
}

// NewAuthorityKeyID is the authorityKeyIdentifier extension in its keyIdentifier form.
func NewAuthorityKeyID(id []byte) Extension {
	return Extension{OIDAuthorityKeyID, false, AppendElement(nil, tagSequence, AppendElement(nil, tagContext, id))}
}

// NewAuthorityInfo is the authorityInfoAccess extension with the URLs of OCSP responders and of the issuer's
// certificate (DER, by plain http).
func NewAuthorityInfo(ocsp, issuers []string) Extension {
	const method = "\x2b\x06\x01\x05\x05\x07\x30" // id-ad
	var content []byte
	add := func(id OID, url string) {
		content = AppendHeader(content, tagSequence, elementSize(len(id))+elementSize(len(url)))
		content = id.Append(content)
		content = appendText(content, tagContext+nameURI, url)
	}
	for _, url := range ocsp {
		add(method+"\x01", url)
	}
	for _, url := range issuers {
		add(method+"\x02", url)
	}
	return Extension{OIDAuthorityInfo, false, AppendElement(nil, tagSequence, content)}
}

// NewCRLPoints is the cRLDistributionPoints extension, one distribution point for each URL.
func NewCRLPoints(urls ...string) Extension {
	var content []byte
	for _, url := range urls {
		content = AppendElement(content, tagSequence, distributionPoint(url))
	}
	return Extension{OIDCRLPoints, false, AppendElement(nil, tagSequence, content)}
}

// distributionPoint is [0] DistributionPointName { [0] fullName { [6] URL } }.
func distributionPoint(url string) []byte {
	name := AppendElement(nil, tagConstructed, appendText(nil, tagContext+nameURI, url))
	return AppendElement(nil, tagConstructed, name)
}

// NewOCSPNoCheck marks the certificate of a delegated OCSP signer as not to be checked for revocation (RFC 6960,
// section 4.2.2.2.1).
func NewOCSPNoCheck() Extension { return Extension{OIDOCSPNoCheck, false, []byte{0x05, 0x00}} }

// NewNoRevAvail says that no revocation information will ever exist for the certificate (RFC 9608): for certificates
// that live too short to need any.
func NewNoRevAvail() Extension { return Extension{OIDNoRevAvail, false, []byte{0x05, 0x00}} }

// NewMustStaple is the TLS feature extension that demands a stapled OCSP response (RFC 7633).
func NewMustStaple() Extension {
	return Extension{OIDTLSFeature, false, []byte{0x30, 3, tagInteger, 1, 5}}
}

// NewMASAURL names the service of the maker of a device that issues vouchers (RFC 8995, section 2.3.2).
func NewMASAURL(url string) Extension {
	return Extension{OIDMASAURL, false, appendText(nil, byte(asn1.IA5String), url)}
}

// NewPolicies is the certificatePolicies extension without qualifiers.
func NewPolicies(policies ...OID) Extension {
	wrap := func(id []byte) []byte { return AppendElement(nil, tagSequence, id) }
	return Extension{OIDPolicies, false, oidList(policies, wrap)}
}

// NewAltNames is the subjectAltName extension. It must be critical where the subject is empty.
func NewAltNames(names AltNames, critical bool) (Extension, error) {
	value, err := BuildAltNames(names)
	if err == nil && value == nil {
		err = errors.New("subjectAltName without names")
	}
	return Extension{OIDSubjectAltName, critical, value}, err
}

// NameConstraints limits the names below a CA (RFC 5280, section 4.2.1.10). Domains of URIs with a leading dot mean
// all hosts below, without one exactly that host; DNS domains always include what is below.
type NameConstraints struct {
	PermittedDNS, ExcludedDNS []string
	PermittedURI, ExcludedURI []string // host or .domain
	PermittedIP, ExcludedIP   []netip.Prefix
	PermittedDirectory        [][]byte // DER Names
}

// NewNameConstraints is the nameConstraints extension, critical.
func NewNameConstraints(c NameConstraints) (Extension, error) {
	permitted, err := subtrees(c.PermittedDNS, c.PermittedURI, c.PermittedIP, c.PermittedDirectory)
	if err != nil {
		return Extension{}, err
	}
	excluded, err := subtrees(c.ExcludedDNS, c.ExcludedURI, c.ExcludedIP, nil)
	if err != nil {
		return Extension{}, err
	}
	var content []byte
	if len(permitted) > 0 {
		content = AppendElement(content, tagConstructed, permitted)
	}
	if len(excluded) > 0 {
		content = AppendElement(content, tagConstructed+1, excluded)
	}
	if len(content) == 0 {
		return Extension{}, errors.New("name constraints without any constraint")
	}
	return Extension{OIDNameConstraints, true, AppendElement(nil, tagSequence, content)}, nil
}

func subtrees(dns, uris []string, ips []netip.Prefix, directory [][]byte) ([]byte, error) {
	var out []byte
	add := func(tag byte, name []byte) {
		out = AppendElement(out, tagSequence, AppendElement(nil, tag, name))
	}
	for _, domain := range dns {
		add(tagContext+nameDNS, []byte(domain))
	}
	for _, host := range uris {
		add(tagContext+nameURI, []byte(host))
	}
	for _, prefix := range ips {
		if !prefix.IsValid() || prefix.Addr().Is4In6() {
			return nil, fmt.Errorf("name constraint %s: not a prefix of IPv4 or IPv6 addresses", prefix)
		}
		add(tagContext+nameIP, append(prefix.Masked().Addr().AsSlice(), prefixMask(prefix)...))
	}
	for _, name := range directory {
		if !isElement(name, asn1.SEQUENCE) {
			return nil, malformed("name")
		}
		add(tagConstructed+4, name)
	}
	return out, nil
}

func prefixMask(prefix netip.Prefix) []byte {
	mask := make([]byte, prefix.Addr().BitLen()/8)
	for n := range prefix.Bits() {
		mask[n/8] |= 0x80 >> (n % 8)
	}
	return mask
}
