package der

import "fmt"

// Parts are the pieces of a request that came in another form than PKCS#10, such as that of RFC 4211.
type Parts struct {
	Raw    []byte // the request as it came
	Signed []byte // what its signature covers
	// Subject is a DER Name, SPKI a SubjectPublicKeyInfo, Extensions a DER Extensions. Nil is absent: no name, no key, none asked for.
	Subject, SPKI, Extensions []byte
	// Algorithm is the AlgorithmIdentifier of Signature; nil when there is none.
	Algorithm, Signature []byte
}

// Assemble reads the pieces as ParseRequest reads those of a PKCS#10 request, with the same bounds and refusals. PublicKey is nil when there is no
// SPKI, and Algorithm is zero when there is no signature; CheckSignature then fails.
func Assemble(p Parts) (r *Request, err error) {
	if len(p.Raw) > MaxRequest {
		return nil, fmt.Errorf("certification request of %d octets; at most %d are read", len(p.Raw), MaxRequest)
	}
	r = &Request{Raw: p.Raw, RawInfo: p.Signed, RawSubject: p.Subject, RawSPKI: p.SPKI, Signature: p.Signature}
	if r.RawSubject == nil {
		r.RawSubject = []byte(emptyName)
	}
	if r.Subject, err = ParseName(r.RawSubject); err != nil {
		return nil, fmt.Errorf("reading the subject: %w", err)
	}
	if p.SPKI != nil {
		if r.PublicKey, err = ParsePublicKey(p.SPKI); err != nil {
			return nil, err
		}
	}
	if p.Extensions != nil {
		if r.Extensions, err = ParseExtensions(p.Extensions); err != nil {
			return nil, fmt.Errorf("reading the requested extensions: %w", err)
		}
		if r.Asked, err = ParseAsked(r.Extensions); err != nil {
			return nil, fmt.Errorf("reading the requested extensions: %w", err)
		}
	}
	if p.Algorithm != nil {
		if r.Algorithm, err = ParseSignatureAlgorithm(p.Algorithm); err != nil {
			return nil, err
		}
	}
	return r, nil
}
