// Package est holds the transfer forms of Enrollment over Secure Transport: what goes into and comes out of the HTTP
// bodies of RFC 7030 as clarified by RFC 8951 and extended by RFC 9908. It has no HTTP in it; a server or an agent
// reads a body, calls a Decode or Parse function, and writes what an Encode or Build function returned.
//
//   - Bodies travel as base64 (EncodeBase64, EncodeBase64Line, DecodeBase64). Whatever a Content-Transfer-Encoding
//     header says is ignored (RFC 8951, section 3).
//
//   - Certificates travel as a CMS certs-only message: package wire/cms.
//
//   - CSR attributes (BuildCSRAttrs, ParseCSRAttrs):
//
//     CsrAttrs  ::= SEQUENCE SIZE (0..MAX) OF AttrOrOID
//     AttrOrOID ::= CHOICE { oid OBJECT IDENTIFIER, attribute SEQUENCE { type OBJECT IDENTIFIER, values SET OF ANY } }
//
//     An empty SEQUENCE means the same as answer 204 or 404. RFC 9908 adds one attribute whose value is a template:
//
//     CertificationRequestInfoTemplate ::= SEQUENCE {
//     version INTEGER { v1(0) }, subject NameTemplate OPTIONAL,
//     subjectPKInfo [0] SubjectPublicKeyInfoTemplate OPTIONAL, attributes [1] SET OF Attribute }
//
//     where attribute values in the subject and extension values may be left out for the device to fill in. We rely on
//     the tags [0] and [1] being IMPLICIT (read off the RFC 9908 module of pyasn1-alt-modules, not off the RFC), and
//     write attributes as an empty set when there are none (as PKCS#10 does), while its absence is accepted.
//
//   - The two-part answer of server-side key generation (BuildKeygen, ParseKeygen), and the attributes by which a
//     request asks for its encryption (ParseDecryptKeyID, ParseAsymmetricDecryptKeyID, ParseSMIMECapabilities).
//
//   - The value that ties a request to its TLS connection (ChannelBinding, ParseChallengePassword).
//
// The package does not parse or verify certification requests, does not decide anything about them, and does not do
// Full CMC. Everything it parses is DER, bounded, and refused when bytes are left over.
package est

import "strings"

// Media types of requests and answers, exactly as they are to be sent; some clients compare the whole string
// (RFC 7030, section 3.2.4).
const (
	// TypeCACerts is the type of the cacerts answer.
	TypeCACerts = "application/pkcs7-mime"
	// TypeCertsOnly is the type of an enrolment answer.
	TypeCertsOnly = "application/pkcs7-mime; smime-type=certs-only"
	// TypeRequest is the type of an enrolment request.
	TypeRequest = "application/pkcs10"
	// TypeCSRAttrs is the type of the csrattrs answer.
	TypeCSRAttrs = "application/csrattrs"
	// TypePlainKey is the type of the key part of a server-side key generation without encryption of its own.
	TypePlainKey = "application/pkcs8"
	// TypeSealedKey is the type of the key part when the key is in CMS EnvelopedData (RFC 7030, section 4.4.2).
	TypeSealedKey = "application/pkcs7-mime; smime-type=server-generated-key"
	// TypeMixed is the type of the whole server-side key generation answer, before its boundary parameter.
	TypeMixed = "multipart/mixed"
	// TypeReason is the type of an error answer (RFC 8951, section 5).
	TypeReason = "text/plain"
)

// WellKnown is the path below which operations and labels are found (RFC 7030, section 3.2.2).
const WellKnown = "/.well-known/est/"

// Operation is the last path segment of an EST request.
type Operation string

// The operations of RFC 7030, section 3.2.2.
const (
	CACerts        Operation = "cacerts"
	SimpleEnroll   Operation = "simpleenroll"
	SimpleReenroll Operation = "simplereenroll"
	FullCMC        Operation = "fullcmc"
	ServerKeygen   Operation = "serverkeygen"
	CSRAttributes  Operation = "csrattrs"
)

// MaxRequest is the size in bytes over which a server refuses a request body unread. The largest sensible request, one
// for an ML-DSA-87 key, takes about 10 kB of base64.
const MaxRequest = 64 << 10

// MaxBody is the size in bytes over which a body is not decoded. It is wider than MaxRequest because cacerts answers
// with post-quantum chains are.
const MaxBody = 512 << 10

// IsOperation tells whether a path segment names an operation.
func IsOperation(segment string) bool {
	switch Operation(segment) {
	case CACerts, SimpleEnroll, SimpleReenroll, FullCMC, ServerKeygen, CSRAttributes:
		return true
	}
	return false
}

// ValidLabel tells whether a path segment may be used as a label: 1 to 64 letters, digits, "-", "_" and ".", not
// beginning with a dot, and not the name of an operation (RFC 7030, section 3.2.2).
func ValidLabel(label string) bool {
	if label == "" || len(label) > 64 || label[0] == '.' || IsOperation(label) {
		return false
	}
	for _, c := range []byte(label) {
		if !isAlphanumeric(c) && !strings.ContainsRune("-_.", rune(c)) {
			return false
		}
	}
	return true
}

// MediaType returns the type and subtype of a Content-Type header value in lower case, without its parameters, which
// EST servers ignore.
func MediaType(contentType string) string {
	name, _, _ := strings.Cut(contentType, ";")
	return strings.ToLower(strings.TrimSpace(name))
}

func isAlphanumeric(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9'
}
