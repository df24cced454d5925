package der

import (
	"errors"
	"fmt"
	"slices"

	"golang.org/x/crypto/cryptobyte/asn1"
)

// TemplateSpec is what all certificates of a template share.
type TemplateSpec struct {
	Algorithm  SignatureAlgorithm
	Issuer     []byte      // DER Name: the RawSubject of the issuer, octet by octet
	Extensions []Extension // written first, in this order
}

// Template holds the shared parts of certificates as finished DER. It is immutable and safe for concurrent use.
type Template struct {
	algorithm  SignatureAlgorithm
	middle     []byte // AlgorithmIdentifier and issuer
	extensions []byte
	types      []OID // of extensions
}

// NewTemplate checks and encodes the shared parts.
func NewTemplate(spec TemplateSpec) (*Template, error) {
	t := &Template{algorithm: spec.Algorithm, middle: spec.Algorithm.Identifier()}
	if len(t.middle) == 0 {
		return nil, errors.New("certificate template without a signature algorithm")
	}
	if !isElement(spec.Issuer, asn1.SEQUENCE) || string(spec.Issuer) == emptyName {
		return nil, errors.New("certificate template without an issuer name")
	}
	t.middle = append(t.middle, spec.Issuer...)
	for _, e := range spec.Extensions {
		if e.OID == "" || slices.Contains(t.types, e.OID) {
			return nil, fmt.Errorf("certificate template with extension %s twice, or one without a type", e.OID)
		}
		t.types = append(t.types, e.OID)
		t.extensions = e.Append(t.extensions)
	}
	return t, nil
}

// Algorithm is the algorithm with which certificates of the template are to be signed.
func (t *Template) Algorithm() SignatureAlgorithm { return t.algorithm }

// Variable is what differs between the certificates of a template. All slices are only read.
type Variable struct {
	Serial    []byte // content octets, see CheckSerial
	NotBefore int64  // Unix seconds, inclusive
	NotAfter  int64  // Unix seconds, inclusive; NoExpiry for no well-defined end
	Subject   []byte // DER Name
	SPKI      []byte // SubjectPublicKeyInfo as checked
	SKI       []byte // subject key identifier, up to 32 octets; nil leaves the extension out
	SAN       []byte // value of subjectAltName from BuildAltNames; nil leaves it out; critical if Subject is empty
	Extra     []Extension
}

// AppendTBS appends the TBSCertificate: version 3, extensions in the order of the template's own, SKI, SAN, Extra. It
// checks serial, times, shapes and that no extension comes twice; what the fields say is the caller's matter.
func (t *Template) AppendTBS(dst []byte, v Variable) ([]byte, error) {
	if err := t.check(&v); err != nil {
		return nil, err
	}
	var id [34]byte
	ski := Extension{OID: OIDSubjectKeyID, Value: AppendElement(id[:0], tagOctetString, v.SKI)}
	san := Extension{OIDSubjectAltName, string(v.Subject) == emptyName, v.SAN}

	extensions := len(t.extensions)
	if v.SKI != nil {
		extensions += ski.size()
	}
	if v.SAN != nil {
		extensions += san.size()
	}
	for _, e := range v.Extra {
		extensions += e.size()
	}
	validity := timeSize(v.NotBefore) + timeSize(v.NotAfter)
	n := len(version3) + elementSize(len(v.Serial)) + len(t.middle) + elementSize(validity) + len(v.Subject) + len(v.SPKI)
	if extensions > 0 {
		n += elementSize(elementSize(extensions))
	}

	dst = AppendHeader(dst, tagSequence, n)
	dst = append(dst, version3...)
	dst = AppendElement(dst, tagInteger, v.Serial)
	dst = append(dst, t.middle...)
	dst = AppendHeader(dst, tagSequence, validity)
	dst, _ = AppendTime(dst, v.NotBefore) // in range, says check
	dst, _ = AppendTime(dst, v.NotAfter)
	dst = append(dst, v.Subject...)
	dst = append(dst, v.SPKI...)
	if extensions == 0 {
		return dst, nil
	}
	dst = AppendHeader(dst, tagConstructed+3, elementSize(extensions))
	dst = AppendHeader(dst, tagSequence, extensions)
	dst = append(dst, t.extensions...)
	if v.SKI != nil {
		dst = ski.Append(dst)
	}
	if v.SAN != nil {
		dst = san.Append(dst)
	}
	for _, e := range v.Extra {
		dst = e.Append(dst)
	}
	return dst, nil
}

// version3 is [0] { INTEGER 2 }.
const version3 = "\xa0\x03\x02\x01\x02"

// check refuses what would make a certificate that does not parse or breaks RFC 5280.
func (t *Template) check(v *Variable) error {
	if err := CheckSerial(v.Serial); err != nil {
		return err
	}
	switch {
	case v.NotBefore < firstUTCTime || v.NotAfter > NoExpiry:
		return errors.New("validity outside the years 1950 to 9999")
	case v.NotAfter < v.NotBefore:
		return errors.New("validity that ends before it begins")
	case !isElement(v.Subject, asn1.SEQUENCE):
		return malformed("subject")
	case !isElement(v.SPKI, asn1.SEQUENCE):
		return malformed("public key")
	case v.SAN != nil && !isElement(v.SAN, asn1.SEQUENCE):
		return malformed("subjectAltName")
	case v.SAN == nil && string(v.Subject) == emptyName && !slices.Contains(t.types, OIDSubjectAltName):
		return errors.New("certificate with neither a subject nor an alternative name")
	case len(v.SKI) > 32 || (v.SKI != nil && len(v.SKI) == 0):
		return errors.New("subject key identifier of no or of more than 32 octets")
	}
	return t.checkTypes(v)
}

func (t *Template) checkTypes(v *Variable) error {
	taken := func(id OID, extra []Extension) bool {
		return id == "" || slices.Contains(t.types, id) || find(extra, id) != nil ||
			(id == OIDSubjectKeyID && v.SKI != nil) || (id == OIDSubjectAltName && v.SAN != nil)
	}
	for i, e := range v.Extra {
		if taken(e.OID, v.Extra[:i]) {
			return fmt.Errorf("certificate with extension %s twice, or one without a type", e.OID)
		}
	}
	if v.SKI != nil && slices.Contains(t.types, OIDSubjectKeyID) || v.SAN != nil && slices.Contains(t.types, OIDSubjectAltName) {
		return errors.New("subject key identifier or alternative name both in the template and beside it")
	}
	return nil
}
