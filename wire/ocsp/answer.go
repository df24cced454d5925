package ocsp

import (
	"bytes"
	"crypto"
	"errors"
	"fmt"
	"time"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"

	"mooring/wire/der"
)

// Response is an answer as a client reads it. Nothing in it is proven before CheckSignature.
type Response struct {
	Status Status // anything but Successful comes without the rest

	ResponderKey  []byte // SHA-1 of the signer's key bits, or
	ResponderName []byte // DER Name of the signer
	ProducedAt    int64  // Unix seconds
	Singles       []Single
	Nonce         []byte   // value of the nonce extension; compare with NonceValue
	Certs         [][]byte // DER certificates that came along

	RawTBS    []byte // what is signed
	Algorithm der.SignatureAlgorithm
	Signature []byte
}

// CheckSignature verifies with the key of the issuer, or of a signer to whom the issuer delegated: then the caller must
// have checked that this certificate was issued by the same key as the one asked about and has OCSPSigning.
func (r *Response) CheckSignature(pub crypto.PublicKey) error {
	if r.Status != Successful {
		return fmt.Errorf("OCSP response %s is not signed", r.Status)
	}
	return r.Algorithm.Verify(pub, r.RawTBS, r.Signature)
}

// Find returns the answer for the certificate that was asked by id, octet by octet.
func (r *Response) Find(id CertID) (Single, bool) {
	for _, single := range r.Singles {
		if bytes.Equal(single.ID.Raw, id.Raw) {
			return single, true
		}
	}
	return Single{}, false
}

// NonceValue is what the nonce extension holds for the nonce that AppendRequest was given.
func NonceValue(nonce []byte) []byte { return der.AppendElement(nil, tagOctetString, nonce) }

// ParseResponse reads a DER response of at most MaxResponse octets. An unsuccessful one is no error: look at Status.
// Unknown critical extensions are refused.
func ParseResponse(in []byte) (*Response, error) {
	if len(in) > MaxResponse {
		return nil, fmt.Errorf("OCSP response of %d octets; at most %d are read", len(in), MaxResponse)
	}
	s := cryptobyte.String(in)
	var outer, wrapped, content, id, basic cryptobyte.String
	var status int
	var has bool
	if !s.ReadASN1(&outer, asn1.SEQUENCE) || !s.Empty() || !outer.ReadASN1Enum(&status) ||
		!outer.ReadOptionalASN1(&wrapped, &has, explicit(0)) || !outer.Empty() || status < 0 || status > 255 {
		return nil, malformed("OCSP response")
	}
	r := &Response{Status: Status(status)}
	if r.Status != Successful {
		if has {
			return nil, errors.New("OCSP response that is unsuccessful and yet has content")
		}
		return r, nil
	}
	if !wrapped.ReadASN1(&content, asn1.SEQUENCE) || !wrapped.Empty() || !content.ReadASN1(&id, asn1.OBJECT_IDENTIFIER) ||
		!content.ReadASN1(&basic, asn1.OCTET_STRING) || !content.Empty() {
		return nil, malformed("OCSP response")
	}
	if der.OID(id) != oidBasic {
		return nil, errors.New("OCSP response of a type other than basic")
	}
	if err := r.readBasic(basic); err != nil {
		return nil, err
	}
	return r, nil
}

func (r *Response) readBasic(s cryptobyte.String) error {
	var basic, raw, tbs, algorithm, wrapped, certs cryptobyte.String
	var has bool
	if !s.ReadASN1(&basic, asn1.SEQUENCE) || !s.Empty() || !basic.ReadASN1Element(&raw, asn1.SEQUENCE) ||
		!basic.ReadASN1Element(&algorithm, asn1.SEQUENCE) || !basic.ReadASN1BitStringAsBytes(&r.Signature) ||
		!basic.ReadOptionalASN1(&wrapped, &has, explicit(0)) || !basic.Empty() {
		return malformed("OCSP response")
	}
	if has && (!wrapped.ReadASN1(&certs, asn1.SEQUENCE) || !wrapped.Empty()) {
		return malformed("OCSP response")
	}
	for !certs.Empty() {
		var cert cryptobyte.String
		if !certs.ReadASN1Element(&cert, asn1.SEQUENCE) || len(r.Certs) == maxCerts {
			return malformed("certificates of the OCSP response")
		}
		r.Certs = append(r.Certs, cert)
	}
	var err error
	if r.Algorithm, err = der.ParseSignatureAlgorithm(algorithm); err != nil {
		return err
	}
	r.RawTBS = raw
	if !raw.ReadASN1(&tbs, asn1.SEQUENCE) {
		return malformed("OCSP response")
	}
	return r.readData(tbs)
}

func (r *Response) readData(tbs cryptobyte.String) error {
	var version, list, extensions cryptobyte.String
	var hasVersion, hasExtensions bool
	if !tbs.ReadOptionalASN1(&version, &hasVersion, explicit(0)) || (hasVersion && string(version) != "\x02\x01\x00") {
		return errors.New("OCSP response of a version other than 1")
	}
	if !r.readResponder(&tbs) || !readTime(&tbs, &r.ProducedAt) || !tbs.ReadASN1(&list, asn1.SEQUENCE) ||
		!tbs.ReadOptionalASN1(&extensions, &hasExtensions, explicit(1)) || !tbs.Empty() {
		return malformed("OCSP response")
	}
	for !list.Empty() {
		if len(r.Singles) == MaxCertIDs {
			return fmt.Errorf("OCSP response for more than %d certificates", MaxCertIDs)
		}
		single, err := readSingle(&list)
		if err != nil {
			return err
		}
		r.Singles = append(r.Singles, single)
	}
	if !hasExtensions {
		return nil
	}
	return r.readExtensions(extensions)
}

func (r *Response) readExtensions(in []byte) error {
	list, err := der.ParseExtensions(in)
	if err != nil {
		return err
	}
	for _, e := range list {
		switch {
		case e.OID == oidNonce:
			r.Nonce = e.Value
		case e.Critical && e.OID != oidExtendedRevoke:
			return fmt.Errorf("unknown critical extension %s in an OCSP response", e.OID)
		}
	}
	return nil
}

func (r *Response) readResponder(tbs *cryptobyte.String) bool {
	var name, key, hash cryptobyte.String
	if tbs.PeekASN1Tag(explicit(1)) {
		var inner cryptobyte.String
		if !tbs.ReadASN1(&name, explicit(1)) {
			return false
		}
		r.ResponderName = name
		return name.ReadASN1(&inner, asn1.SEQUENCE) && name.Empty()
	}
	if !tbs.ReadASN1(&key, explicit(2)) || !key.ReadASN1(&hash, asn1.OCTET_STRING) || !key.Empty() {
		return false
	}
	r.ResponderKey = hash
	return len(hash) == 20
}

func readSingle(list *cryptobyte.String) (Single, error) {
	var body, status, next, extensions cryptobyte.String
	var tag asn1.Tag
	var hasNext, hasExtensions bool
	if !list.ReadASN1(&body, asn1.SEQUENCE) {
		return Single{}, malformed("OCSP response")
	}
	var s Single
	var err error
	if s.ID, err = readCertID(&body); err != nil {
		return Single{}, err
	}
	if !body.ReadAnyASN1(&status, &tag) || !s.readStatus(tag, status) || !readTime(&body, &s.ThisUpdate) ||
		!body.ReadOptionalASN1(&next, &hasNext, explicit(0)) ||
		!body.ReadOptionalASN1(&extensions, &hasExtensions, explicit(1)) || !body.Empty() {
		return Single{}, malformed("OCSP response")
	}
	if hasNext && (!readTime(&next, &s.NextUpdate) || !next.Empty()) {
		return Single{}, malformed("OCSP response")
	}
	if !hasExtensions {
		return s, nil
	}
	ignored, err := der.ParseExtensions(extensions)
	for _, e := range ignored {
		if e.Critical {
			return Single{}, fmt.Errorf("unknown critical extension %s in an OCSP response", e.OID)
		}
	}
	return s, err
}

func (s *Single) readStatus(tag asn1.Tag, content cryptobyte.String) bool {
	switch tag {
	case tagPrimitive:
		s.Status = Good
		return content.Empty()
	case tagPrimitive + 2:
		s.Status = Unknown
		return content.Empty()
	case tagConstructed + 1:
	default:
		return false
	}
	s.Status = Revoked
	var reason cryptobyte.String
	var has bool
	if !readTime(&content, &s.RevokedAt) || !content.ReadOptionalASN1(&reason, &has, explicit(0)) || !content.Empty() {
		return false
	}
	return !has || reason.ReadASN1Enum(&s.Reason) && reason.Empty() && s.Reason >= 0 && s.Reason <= der.MaxReason
}

// readTime reads a GeneralizedTime of whole seconds and with Z, the only form that RFC 6960 allows.
func readTime(s *cryptobyte.String, out *int64) bool {
	const layout = "20060102150405Z"
	var text cryptobyte.String
	if !s.ReadASN1(&text, asn1.GeneralizedTime) || len(text) != len(layout) {
		return false
	}
	t, err := time.Parse(layout, string(text))
	*out = t.Unix()
	return err == nil
}
