package ca

import (
	"bytes"
	"crypto/x509"
	"slices"
	"strings"

	"mooring/internal/base/errs"
	"mooring/wire/der"
)

// RequestRules are what the request for the certificate of a CA is held against.
type RequestRules struct {
	Parent  *x509.Certificate // of the CA that would sign
	PathLen int               // how many tiers the one who signs wants to permit below the new CA
	AnyName bool              // the subject may be of another organisation than the parent's
}

// ReadCARequest reads a certification request (PKCS#10, DER) for the certificate of a CA below a parent, checks everything that it says, and
// proves possession of the key. It is about to sign other certificates, so nothing is passed over in silence: what cannot be granted is
// refused, in words for the people of a ceremony.
func ReadCARequest(csr []byte, rules RequestRules) (*der.Request, error) {
	r, err := readSignedRequest(csr)
	if err != nil {
		return nil, err
	}
	for _, check := range []func(*der.Request) error{rules.checkExtensions, rules.checkTiers, rules.checkSubject} {
		if err := check(r); err != nil {
			return nil, err
		}
	}
	return r, nil
}

// readSignedRequest reads a request for the certificate of somebody who signs, with a key that is good for that and that he holds.
func readSignedRequest(csr []byte) (*der.Request, error) {
	r, err := der.ParseRequest(csr)
	if err != nil {
		return nil, errs.New(errs.Invalid, "the request cannot be read: %v", err)
	}
	if err := der.CheckKey(r.PublicKey); err != nil {
		return nil, errs.New(errs.Invalid, "the key in the request is weak: %v", err)
	}
	if _, err := der.AlgorithmFor(r.PublicKey); err != nil {
		return nil, errs.New(errs.Invalid, "a CA cannot sign with the key in the request: %v", err)
	}
	if err := r.CheckSignature(); err != nil {
		return nil, errs.New(errs.Invalid, "the signature on the request is wrong: whoever sends it does not hold its key, or it was changed on its way")
	}
	return r, nil
}

// foreignExtension returns an extension that a request asks for and that is not among the known ones; "" when there is none.
func foreignExtension(r *der.Request, known ...der.OID) der.OID {
	for _, e := range r.Extensions {
		if !slices.Contains(known, e.OID) {
			return e.OID
		}
	}
	return ""
}

func (rules *RequestRules) checkExtensions(r *der.Request) error {
	if r.Names.Count() > 0 {
		return errs.New(errs.Invalid, "the request asks for alternative names, and a CA has none: it names devices, not itself")
	}
	if other := foreignExtension(r, der.OIDBasicConstraints, der.OIDKeyUsage, der.OIDSubjectKeyID, der.OIDSubjectAltName); other != "" {
		return errs.New(errs.Invalid, "the request asks for the extension %s, which this root does not give to CAs: make a request without it", other)
	}
	switch usage := r.KeyUsage; {
	case !r.CA:
		return errs.New(errs.Invalid, "the request is not for a CA: it must ask for basicConstraints with CA:TRUE, as \"mooring ca request\" does")
	case usage != 0 && usage&der.KeyCertSign == 0:
		return errs.New(errs.Invalid, "the request asks for a key usage without keyCertSign, with which nothing can be issued")
	case usage&^(der.KeyCertSign|der.CRLSign|der.DigitalSignature) != 0:
		return errs.New(errs.Invalid, "the request asks for key usages that a CA has no business with: only keyCertSign, cRLSign and digitalSignature are for CAs")
	}
	return nil
}

// checkTiers compares path lengths (RFC 5280, section 4.2.1.9).
func (rules *RequestRules) checkTiers(r *der.Request) error {
	most := PathLen(rules.Parent)
	switch {
	case most == 0:
		return errs.New(errs.Invalid, "the CA that is to sign permits no CA below it (path length 0)")
	case most > 0 && rules.PathLen >= most:
		return errs.New(errs.Invalid, "the CA that is to sign permits %d tiers of CAs below it, so the new one can permit at most %d, not %d", most, most-1, rules.PathLen)
	case r.PathLimited && r.PathLen > rules.PathLen:
		return errs.New(errs.Invalid, "the request asks for an excessive path length: %d tiers of CAs below the new one, and it would get %d. "+
			"If it is to have them, say so (--path-len %d)", r.PathLen, rules.PathLen, r.PathLen)
	}
	return nil
}

func (rules *RequestRules) checkSubject(r *der.Request) error {
	value := func(attributes []der.Attribute, kind der.OID) (values []string) {
		for _, a := range attributes {
			if a.Type == kind {
				values = append(values, strings.ToLower(a.Value))
			}
		}
		return values
	}
	parent, err := der.ParseName(rules.Parent.RawSubject)
	if err != nil {
		return errs.New(errs.Invalid, "the name of the CA that is to sign cannot be read: %v", err)
	}
	switch own, others := value(parent, der.OIDOrganization), value(r.Subject, der.OIDOrganization); {
	case len(value(r.Subject, der.OIDCommonName)) == 0:
		return errs.New(errs.Invalid, "the request has no common name (CN), by which people know a CA")
	case bytes.Equal(r.RawSubject, rules.Parent.RawSubject):
		return errs.New(errs.Invalid, "the request has the name of the CA that is to sign: a CA needs a name of its own, best with its generation")
	case !rules.AnyName && len(own) > 0 && !slices.Equal(own, others):
		return errs.New(errs.Invalid, "the request names a foreign organisation: %s, and the CA that is to sign is %s. If that is meant, say so (--any-name)",
			der.FormatName(r.Subject), der.FormatName(parent))
	}
	return nil
}

// PathLen returns how many tiers of CAs a CA's certificate permits below it, -1 for any number.
func PathLen(cert *x509.Certificate) int {
	if cert.MaxPathLen > 0 || cert.MaxPathLenZero {
		return cert.MaxPathLen
	}
	return -1
}
