package der

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"
)

// OID is an object identifier, held as its DER content octets: it compares with ==, can be a constant and a map key,
// and is copied into a message as it is. ParseOID and String convert from and to the dotted form. The zero OID is none.
type OID string

// Attribute types of names (X.520, RFC 4519, RFC 2985).
const (
	OIDCommonName         OID = "\x55\x04\x03"
	OIDSerialNumber       OID = "\x55\x04\x05"
	OIDCountry            OID = "\x55\x04\x06"
	OIDLocality           OID = "\x55\x04\x07"
	OIDState              OID = "\x55\x04\x08"
	OIDStreet             OID = "\x55\x04\x09"
	OIDOrganization       OID = "\x55\x04\x0a"
	OIDOrganizationalUnit OID = "\x55\x04\x0b"
	OIDTitle              OID = "\x55\x04\x0c"
	OIDDNQualifier        OID = "\x55\x04\x2e"
	OIDUserID             OID = "\x09\x92\x26\x89\x93\xf2\x2c\x64\x01\x01"
	OIDDomainComponent    OID = "\x09\x92\x26\x89\x93\xf2\x2c\x64\x01\x19"
	OIDEmailAddress       OID = "\x2a\x86\x48\x86\xf7\x0d\x01\x09\x01"
)

// Extensions (RFC 5280, section 4.2; RFC 6960; RFC 7633; RFC 8995; RFC 9608).
const (
	OIDSubjectKeyID      OID = "\x55\x1d\x0e"
	OIDKeyUsage          OID = "\x55\x1d\x0f"
	OIDSubjectAltName    OID = "\x55\x1d\x11"
	OIDBasicConstraints  OID = "\x55\x1d\x13"
	OIDCRLNumber         OID = "\x55\x1d\x14"
	OIDDeltaCRLIndicator OID = "\x55\x1d\x1b"
	OIDIssuingPoint      OID = "\x55\x1d\x1c"
	OIDNameConstraints   OID = "\x55\x1d\x1e"
	OIDCRLPoints         OID = "\x55\x1d\x1f"
	OIDPolicies          OID = "\x55\x1d\x20"
	OIDAuthorityKeyID    OID = "\x55\x1d\x23"
	OIDFreshestCRL       OID = "\x55\x1d\x2e"
	OIDExtKeyUsage       OID = "\x55\x1d\x25"
	OIDNoRevAvail        OID = "\x55\x1d\x38"
	OIDAuthorityInfo     OID = "\x2b\x06\x01\x05\x05\x07\x01\x01"
	OIDTLSFeature        OID = "\x2b\x06\x01\x05\x05\x07\x01\x18"
	OIDMASAURL           OID = "\x2b\x06\x01\x05\x05\x07\x01\x20"
	OIDOCSPNoCheck       OID = "\x2b\x06\x01\x05\x05\x07\x30\x01\x05"
)

// Extended key usages (RFC 5280, section 4.2.1.12; RFC 6402, section 2.10).
const (
	OIDServerAuth      OID = "\x2b\x06\x01\x05\x05\x07\x03\x01"
	OIDClientAuth      OID = "\x2b\x06\x01\x05\x05\x07\x03\x02"
	OIDCodeSigning     OID = "\x2b\x06\x01\x05\x05\x07\x03\x03"
	OIDEmailProtection OID = "\x2b\x06\x01\x05\x05\x07\x03\x04"
	OIDTimeStamping    OID = "\x2b\x06\x01\x05\x05\x07\x03\x08"
	OIDOCSPSigning     OID = "\x2b\x06\x01\x05\x05\x07\x03\x09"
	OIDCMCCA           OID = "\x2b\x06\x01\x05\x05\x07\x03\x1b"
	OIDCMCRA           OID = "\x2b\x06\x01\x05\x05\x07\x03\x1c"
	OIDAnyExtKeyUsage  OID = "\x55\x1d\x25\x00"
)

// Types of otherName (RFC 4108, section 5; RFC 4043, section 2; Microsoft).
const (
	OIDHardwareModuleName  OID = "\x2b\x06\x01\x05\x05\x07\x08\x04"
	OIDPermanentIdentifier OID = "\x2b\x06\x01\x05\x05\x07\x08\x03"
	OIDPrincipalName       OID = "\x2b\x06\x01\x04\x01\x82\x37\x14\x02\x03"
)

// Attributes of certification requests (RFC 2985). Windows clients write the extension request under their own number.
const (
	OIDChallengePassword         OID = "\x2a\x86\x48\x86\xf7\x0d\x01\x09\x07"
	OIDExtensionRequest          OID = "\x2a\x86\x48\x86\xf7\x0d\x01\x09\x0e"
	OIDMicrosoftExtensionRequest OID = "\x2b\x06\x01\x04\x01\x82\x37\x02\x01\x0e"
)

// Public keys and named curves (RFC 3279, RFC 5480, RFC 8410).
const (
	oidRSA       OID = "\x2a\x86\x48\x86\xf7\x0d\x01\x01\x01"
	oidRSAPSS    OID = "\x2a\x86\x48\x86\xf7\x0d\x01\x01\x0a"
	oidEC        OID = "\x2a\x86\x48\xce\x3d\x02\x01"
	oidP192      OID = "\x2a\x86\x48\xce\x3d\x03\x01\x01"
	oidP224      OID = "\x2b\x81\x04\x00\x21"
	oidP256      OID = "\x2a\x86\x48\xce\x3d\x03\x01\x07"
	oidP384      OID = "\x2b\x81\x04\x00\x22"
	oidP521      OID = "\x2b\x81\x04\x00\x23"
	oidSecp256k1 OID = "\x2b\x81\x04\x00\x0a"
	oidEd25519   OID = "\x2b\x65\x70"
)

// maxOID bounds the content octets of an object identifier; the longest in use are half of it.
const maxOID = 64

// ParseOID reads the dotted form ("2.5.4.3").
func ParseOID(dotted string) (OID, error) {
	parts := strings.Split(dotted, ".")
	if len(parts) < 2 || len(parts) > maxOID {
		return "", fmt.Errorf("object identifier %q: needs at least two numbers joined by dots", clip(dotted))
	}
	arcs := make([]uint64, len(parts))
	for i, part := range parts {
		arc, err := strconv.ParseUint(part, 10, 31)
		if err != nil || (len(part) > 1 && part[0] == '0') || part[0] == '+' {
			return "", fmt.Errorf("object identifier %q: %q is not a number it may contain", clip(dotted), clip(part))
		}
		arcs[i] = arc
	}
	if arcs[0] > 2 || (arcs[0] < 2 && arcs[1] > 39) {
		return "", fmt.Errorf("object identifier %q: no such first two numbers", dotted)
	}
	content := appendArc(nil, arcs[0]*40+arcs[1])
	for _, arc := range arcs[2:] {
		content = appendArc(content, arc)
	}
	if len(content) > maxOID {
		return "", errors.New("object identifier too long")
	}
	return OID(content), nil
}

// appendArc appends one number in base 128, most significant group first (X.690, section 8.19).
func appendArc(dst []byte, arc uint64) []byte {
	for shift := 63; shift > 0; shift -= 7 {
		if arc>>shift != 0 {
			dst = append(dst, byte(arc>>shift)|0x80)
		}
	}
	return append(dst, byte(arc)&0x7f)
}

// String is the dotted form. An OID that no function of this package made may read oddly.
func (o OID) String() string {
	var text []byte
	var arc uint64
	for i := range len(o) {
		arc = arc<<7 | uint64(o[i]&0x7f)
		if o[i]&0x80 != 0 {
			continue
		}
		if text == nil {
			first := min(arc/40, 2)
			text = strconv.AppendUint(text, first, 10)
			arc -= first * 40
		}
		text = append(text, '.')
		text = strconv.AppendUint(text, arc, 10)
		arc = 0
	}
	return string(text)
}

// Append appends the OBJECT IDENTIFIER as a whole value.
func (o OID) Append(dst []byte) []byte { return appendText(dst, tagOID, string(o)) }

// readOID reads one OBJECT IDENTIFIER. Numbers must be minimal and fit 32 bits, so that String shows each as it is.
func readOID(s *cryptobyte.String) (OID, bool) {
	var content cryptobyte.String
	if !s.ReadASN1(&content, asn1.OBJECT_IDENTIFIER) || len(content) == 0 || len(content) > maxOID {
		return "", false
	}
	var arc uint64
	start := true
	for _, b := range content {
		if start && b == 0x80 {
			return "", false
		}
		arc = arc<<7 | uint64(b&0x7f)
		if arc > math.MaxUint32 {
			return "", false
		}
		start = b&0x80 == 0
		if start {
			arc = 0
		}
	}
	return known(content), start
}

// known makes an OID of checked content octets, without allocating for those that nearly every request holds.
func known(content []byte) OID {
	switch OID(content) {
	case OIDCommonName:
		return OIDCommonName
	case OIDOrganization:
		return OIDOrganization
	case OIDSerialNumber:
		return OIDSerialNumber
	case OIDSubjectAltName:
		return OIDSubjectAltName
	case OIDKeyUsage:
		return OIDKeyUsage
	case OIDExtensionRequest:
		return OIDExtensionRequest
	case OIDChallengePassword:
		return OIDChallengePassword
	case oidEC:
		return oidEC
	case oidP256:
		return oidP256
	}
	return OID(content)
}

// clip shortens hostile text for an error message.
func clip(text string) string {
	if len(text) > 64 {
		return text[:64] + "..."
	}
	return text
}
