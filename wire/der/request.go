package der

import (
	"bytes"
	"crypto"
	"errors"
	"fmt"
	"slices"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"
)

// Request is a certification request (PKCS#10, RFC 2986) that has been read but not believed: nothing in it is proven
// before CheckSignature, and that proves only possession of the key.
type Request struct {
	Raw        []byte // the whole request
	RawInfo    []byte // the CertificationRequestInfo: what is signed
	RawSubject []byte
	RawSPKI    []byte // SubjectPublicKeyInfo

	Subject    []Attribute
	PublicKey  crypto.PublicKey // as ParsePublicKey returns it
	Attributes []RequestAttribute
	Extensions []Extension // those of the extensionRequest attribute
	Asked                  // what the extensions ask for

	// ChallengePassword is set if HasChallengePassword (RFC 2985, section 5.4.1). It is a secret.
	ChallengePassword    string
	HasChallengePassword bool

	Algorithm SignatureAlgorithm
	Signature []byte
}

// RequestAttribute is one attribute of a request. Each of Values is one whole DER value.
type RequestAttribute struct {
	Type   OID
	Values [][]byte
}

// maxAttributes bounds the attributes of one request and the values of one attribute.
const maxAttributes = 32

// ParseRequest reads a DER certification request of at most MaxRequest octets. It refuses repeated attributes and
// extensions, unsupported keys and algorithms, and names that ParseName or ParseAltNames refuse.
func ParseRequest(der []byte) (*Request, error) {
	if len(der) > MaxRequest {
		return nil, fmt.Errorf("certification request of %d octets; at most %d are read", len(der), MaxRequest)
	}
	r := &Request{Raw: der}
	var err error
	if r.RawInfo, r.Algorithm, r.Signature, err = readSigned(der, "certification request"); err != nil {
		return nil, err
	}
	info, err := whole(r.RawInfo, asn1.SEQUENCE, "certification request")
	if err != nil {
		return nil, err
	}
	var subject, spki, attributes, version cryptobyte.String
	if !info.ReadASN1(&version, asn1.INTEGER) || !bytes.Equal(version, []byte{0}) {
		return nil, errors.New("certification request of a version other than 1")
	}
	if !info.ReadASN1Element(&subject, asn1.SEQUENCE) || !info.ReadASN1Element(&spki, asn1.SEQUENCE) ||
		!info.ReadASN1(&attributes, asn1.Tag(0).ContextSpecific().Constructed()) || !info.Empty() {
		return nil, malformed("certification request")
	}
	r.RawSubject, r.RawSPKI = subject, spki
	if r.Subject, err = ParseName(subject); err != nil {
		return nil, fmt.Errorf("reading the subject: %w", err)
	}
	if r.PublicKey, err = ParsePublicKey(spki); err != nil {
		return nil, err
	}
	if err := r.readAttributes(attributes); err != nil {
		return nil, err
	}
	return r, nil
}

// String tells what a log may: subject and kind of key. It keeps the challengePassword out of formatted messages.
func (r *Request) String() string {
	return fmt.Sprintf("request of %q for an %s key", FormatName(r.Subject), KindOf(r.PublicKey))
}

// CheckSignature proves that the sender holds the private key. Run CheckKey first: verifying with a hostile key may be
// slow.
func (r *Request) CheckSignature() error {
	return r.Algorithm.Verify(r.PublicKey, r.RawInfo, r.Signature)
}

// HashSPKI is the SHA-256 of the public key, see the function of this name.
func (r *Request) HashSPKI() [32]byte { return HashSPKI(r.RawSPKI) }

// Attribute returns the attribute of the type, if there is one.
func (r *Request) Attribute(t OID) (RequestAttribute, bool) {
	for _, a := range r.Attributes {
		if a.Type == t {
			return a, true
		}
	}
	return RequestAttribute{}, false
}

// readAttributes takes the SET apart. Its order is not checked: many clients do not sort, and nothing depends on it.
func (r *Request) readAttributes(set cryptobyte.String) error {
	asked := false
	for !set.Empty() {
		a, err := readAttribute(&set)
		if err != nil {
			return err
		}
		if _, twice := r.Attribute(a.Type); twice {
			return fmt.Errorf("request attribute %s occurs twice", a.Type)
		}
		if len(r.Attributes) == maxAttributes {
			return fmt.Errorf("more than %d request attributes", maxAttributes)
		}
		r.Attributes = append(r.Attributes, a)
		switch a.Type {
		case OIDExtensionRequest, OIDMicrosoftExtensionRequest:
			if asked {
				return errors.New("extensions requested in two attributes")
			}
			asked = true
			err = r.readExtensions(a)
		case OIDChallengePassword:
			err = r.readChallenge(a)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func readAttribute(set *cryptobyte.String) (RequestAttribute, error) {
	var pair, values cryptobyte.String
	if !set.ReadASN1(&pair, asn1.SEQUENCE) {
		return RequestAttribute{}, malformed("request attribute")
	}
	t, ok := readOID(&pair)
	if !ok || !pair.ReadASN1(&values, asn1.SET) || !pair.Empty() || values.Empty() {
		return RequestAttribute{}, malformed("request attribute")
	}
	a := RequestAttribute{Type: t}
	for !values.Empty() {
		var value cryptobyte.String
		var tag asn1.Tag
		if !values.ReadAnyASN1Element(&value, &tag) || len(a.Values) == maxAttributes {
			return RequestAttribute{}, malformed("request attribute")
		}
		a.Values = append(a.Values, value)
	}
	return a, nil
}

func (r *Request) readExtensions(a RequestAttribute) error {
	if len(a.Values) != 1 {
		return errors.New("extension request with several values; one list of extensions is needed")
	}
	var err error
	if r.Extensions, err = ParseExtensions(a.Values[0]); err != nil {
		return fmt.Errorf("reading the requested extensions: %w", err)
	}
	if r.Asked, err = ParseAsked(r.Extensions); err != nil {
		return fmt.Errorf("reading the requested extensions: %w", err)
	}
	return nil
}

func (r *Request) readChallenge(a RequestAttribute) error {
	var value cryptobyte.String
	var tag asn1.Tag
	s := cryptobyte.String(a.Values[0])
	if len(a.Values) != 1 || !s.ReadAnyASN1(&value, &tag) {
		return errors.New("challengePassword with several values")
	}
	text, err := directoryString(tag, value)
	if err == nil {
		_, err = checkText(text)
	}
	if err != nil {
		return fmt.Errorf("challengePassword: %w", err)
	}
	r.ChallengePassword, r.HasChallengePassword = text, true
	return nil
}

// RequestSpec is what AppendRequestInfo makes a request of.
type RequestSpec struct {
	Subject    []Attribute
	RawSubject []byte // DER Name used instead of Subject when set, as renewals repeat their old name octet by octet
	SPKI       []byte // SubjectPublicKeyInfo of the key that will sign
	Names      AltNames
	Extensions []Extension // asked for beside the names

	ChallengePassword string // left out if empty
	Attributes        []RequestAttribute
}

// AppendRequestInfo appends the CertificationRequestInfo that is to be signed; Wrap then completes the request.
// The challengePassword is written as PrintableString where its characters allow, else as UTF8String.
func AppendRequestInfo(dst []byte, spec RequestSpec) ([]byte, error) {
	subject := spec.RawSubject
	if subject == nil {
		var err error
		if subject, err = BuildName(spec.Subject); err != nil {
			return nil, err
		}
	}
	if !isElement(subject, asn1.SEQUENCE) || !isElement(spec.SPKI, asn1.SEQUENCE) {
		return nil, errors.New("building a request: subject or public key is not one DER SEQUENCE")
	}
	attributes, err := spec.attributes()
	if err != nil {
		return nil, err
	}
	content := append([]byte{tagInteger, 1, 0}, subject...)
	content = append(content, spec.SPKI...)
	content = AppendElement(content, tagConstructed, attributes)
	return AppendElement(dst, tagSequence, content), nil
}

// attributes is the content of the attribute SET, sorted as DER wants sets.
func (spec RequestSpec) attributes() ([]byte, error) {
	list := slices.Clone(spec.Attributes)
	extensions := spec.Extensions
	if spec.Names.Count() > 0 {
		san, err := NewAltNames(spec.Names, false)
		if err != nil {
			return nil, err
		}
		extensions = append([]Extension{san}, extensions...)
	}
	if len(extensions) > 0 {
		var content []byte
		for _, e := range extensions {
			content = e.Append(content)
		}
		list = append(list, RequestAttribute{OIDExtensionRequest, [][]byte{AppendElement(nil, tagSequence, content)}})
	}
	if spec.ChallengePassword != "" {
		if _, err := checkText(spec.ChallengePassword); err != nil {
			return nil, fmt.Errorf("challengePassword: %w", err)
		}
		tag := asn1.PrintableString
		if !inAlphabet(spec.ChallengePassword, tag) {
			tag = asn1.UTF8String
		}
		list = append(list, RequestAttribute{OIDChallengePassword, [][]byte{appendText(nil, byte(tag), spec.ChallengePassword)}})
	}
	encoded := make([][]byte, len(list))
	for i, a := range list {
		encoded[i] = a.append(nil)
	}
	slices.SortFunc(encoded, bytes.Compare)
	return bytes.Join(encoded, nil), nil
}

func (a RequestAttribute) append(dst []byte) []byte {
	values := slices.SortedFunc(slices.Values(a.Values), bytes.Compare)
	content := AppendElement(a.Type.Append(nil), tagSet, bytes.Join(values, nil))
	return AppendElement(dst, tagSequence, content)
}
