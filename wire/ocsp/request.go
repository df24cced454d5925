package ocsp

import (
	"encoding/base64"
	"errors"
	"fmt"
	"net/url"
	"strings"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"

	"mooring/wire/der"
)

// Request is a question for the status of one or more certificates.
type Request struct {
	IDs    []CertID
	Nonce  []byte // value of the nonce extension as received, to be echoed; nil if there is none
	Signed bool   // there is a signature, which nobody verified
}

// ParseRequest reads a DER request of at most MaxRequest octets for at most MaxCertIDs certificates. Every error means
// malformedRequest. The name of the requestor, a signature and unknown extensions are passed over, unless an unknown
// extension is critical.
func ParseRequest(in []byte) (*Request, error) {
	if len(in) > MaxRequest {
		return nil, fmt.Errorf("OCSP request of %d octets; at most %d are read", len(in), MaxRequest)
	}
	s := cryptobyte.String(in)
	var outer, tbs, signature cryptobyte.String
	if !s.ReadASN1(&outer, asn1.SEQUENCE) || !s.Empty() || !outer.ReadASN1(&tbs, asn1.SEQUENCE) {
		return nil, malformed("OCSP request")
	}
	var r Request
	if !outer.ReadOptionalASN1(&signature, &r.Signed, explicit(0)) || !outer.Empty() {
		return nil, malformed("OCSP request")
	}
	if err := r.readTBS(tbs); err != nil {
		return nil, err
	}
	return &r, nil
}

// Plain returns the CertID, as it stands, of a request for one certificate without version, name, signature or extension:
// what nearly all clients send that want an answer from a cache. It allocates nothing and looks no deeper, so that octets
// which are equal to those of a CertID that ParseRequest has read may be answered alike. It reports false for every other
// request, good or bad: give those to ParseRequest.
func Plain(in []byte) (id []byte, ok bool) {
	s := cryptobyte.String(in)
	var outer, tbs, list, single, found cryptobyte.String
	if len(in) > MaxRequest ||
		!s.ReadASN1(&outer, asn1.SEQUENCE) || !s.Empty() || !outer.ReadASN1(&tbs, asn1.SEQUENCE) || !outer.Empty() ||
		!tbs.ReadASN1(&list, asn1.SEQUENCE) || !tbs.Empty() || !list.ReadASN1(&single, asn1.SEQUENCE) || !list.Empty() ||
		!single.ReadASN1Element(&found, asn1.SEQUENCE) || !single.Empty() {
		return nil, false
	}
	return found, true
}

func (r *Request) readTBS(tbs cryptobyte.String) error {
	var version, list, extensions cryptobyte.String
	var hasVersion, hasExtensions bool
	if !tbs.ReadOptionalASN1(&version, &hasVersion, explicit(0)) || (hasVersion && string(version) != "\x02\x01\x00") {
		return errors.New("OCSP request of a version other than 1")
	}
	if !tbs.SkipOptionalASN1(explicit(1)) || !tbs.ReadASN1(&list, asn1.SEQUENCE) ||
		!tbs.ReadOptionalASN1(&extensions, &hasExtensions, explicit(2)) || !tbs.Empty() {
		return malformed("OCSP request")
	}
	if list.Empty() {
		return errors.New("OCSP request for no certificate")
	}
	for !list.Empty() {
		if len(r.IDs) == MaxCertIDs {
			return fmt.Errorf("OCSP request for more than %d certificates", MaxCertIDs)
		}
		id, err := readSingleRequest(&list)
		if err != nil {
			return err
		}
		r.IDs = append(r.IDs, id)
	}
	if !hasExtensions {
		return nil
	}
	var err error
	r.Nonce, err = readRequestExtensions(extensions)
	return err
}

func readSingleRequest(list *cryptobyte.String) (CertID, error) {
	var single, extensions cryptobyte.String
	var has bool
	if !list.ReadASN1(&single, asn1.SEQUENCE) {
		return CertID{}, malformed("OCSP request")
	}
	id, err := readCertID(&single)
	if err != nil {
		return CertID{}, err
	}
	if !single.ReadOptionalASN1(&extensions, &has, explicit(0)) || !single.Empty() {
		return CertID{}, malformed("OCSP request")
	}
	if has {
		_, err = readRequestExtensions(extensions)
	}
	return id, err
}

// readRequestExtensions refuses unknown critical extensions and returns the nonce.
func readRequestExtensions(in []byte) (nonce []byte, err error) {
	list, err := der.ParseExtensions(in)
	if err != nil {
		return nil, err
	}
	for _, e := range list {
		switch e.OID {
		case oidNonce:
			if err := checkNonce(e.Value); err != nil {
				return nil, err
			}
			nonce = e.Value
		case oidAcceptable, oidServiceLocator, oidPreferredSignings:
			// understood, and allowed to be ignored
		default:
			if e.Critical {
				return nil, fmt.Errorf("unknown critical extension %s in an OCSP request", e.OID)
			}
		}
	}
	return nonce, nil
}

// checkNonce wants 1 to MaxNonce octets. The value should be an OCTET STRING inside that of the extension; requests
// from before RFC 6960 have the bare octets, and then their number counts.
func checkNonce(value []byte) error {
	n := len(value)
	var inner cryptobyte.String
	if s := cryptobyte.String(value); s.ReadASN1(&inner, asn1.OCTET_STRING) && s.Empty() {
		n = len(inner)
	}
	if n == 0 || n > MaxNonce {
		return fmt.Errorf("nonce of %d octets; 1 to %d are allowed", n, MaxNonce)
	}
	return nil
}

// AppendRequest appends a request for the certificates. A nonce of 1 to 128 random octets (32 are customary) makes the
// answer fresh and uncacheable; nil asks without one.
func AppendRequest(dst []byte, ids []CertID, nonce []byte) ([]byte, error) {
	if len(ids) == 0 || len(ids) > MaxCertIDs {
		return nil, fmt.Errorf("OCSP request for %d certificates; 1 to %d are allowed", len(ids), MaxCertIDs)
	}
	var list []byte
	for _, id := range ids {
		list = der.AppendElement(list, tagSequence, id.Raw)
	}
	tbs := der.AppendElement(nil, tagSequence, list)
	if nonce != nil {
		if len(nonce) == 0 || len(nonce) > MaxNonce {
			return nil, fmt.Errorf("nonce of %d octets; 1 to %d are allowed", len(nonce), MaxNonce)
		}
		e := der.Extension{OID: oidNonce, Value: der.AppendElement(nil, tagOctetString, nonce)}
		tbs = der.AppendElement(tbs, tagConstructed+2, der.AppendElement(nil, tagSequence, e.Append(nil)))
	}
	return der.AppendElement(dst, tagSequence, der.AppendElement(nil, tagSequence, tbs)), nil
}

// DecodePath takes the DER request out of the path of a GET, the part after the responder's own path: base64, percent-
// encoded as RFC 6960, appendix A.1 wants, or with its "/", "+" and "=" as they are, as many clients send it. Give it
// the path as received (URL.EscapedPath): a router that cleans "//" destroys requests.
func DecodePath(path string) ([]byte, error) {
	if len(path) > 3*MaxRequest {
		return nil, errors.New("OCSP request in a path that is too long")
	}
	text, err := url.PathUnescape(path)
	if err != nil {
		return nil, errors.New("OCSP request with wrong percent-encoding")
	}
	encoding := base64.StdEncoding.Strict()
	if !strings.HasSuffix(text, "=") {
		encoding = base64.RawStdEncoding.Strict() // equal where no padding is needed
	}
	if strings.ContainsAny(text, "\r\n") {
		return nil, errors.New("OCSP request with line breaks in its base64")
	}
	out, err := encoding.DecodeString(text)
	if err != nil {
		return nil, errors.New("OCSP request that is not base64")
	}
	return out, nil
}

// EncodePath is the percent-encoded base64 of a request, for a GET. Use it for requests whose path has at most 255
// characters; longer ones are to be sent by POST.
func EncodePath(request []byte) string {
	return url.QueryEscape(base64.StdEncoding.EncodeToString(request))
}
