package ca

import (
	"crypto/x509"
	"slices"

	"mooring/internal/base/errs"
	"mooring/wire/der"
)

// SameIdentity refuses a request whose subject or alternative names differ from those of the certificate old, DER, which it wants to renew
// or rekey: they MUST be identical (RFC 7030, section 4.2.2). Values are compared, not string types; alternative names as a set.
// An empty subject or missing names in the request are a difference: leaving out is not repeating.
func SameIdentity(old []byte, r *der.Request) error {
	subject, names, err := identityOf(old)
	if err != nil {
		return err
	}
	if !slices.Equal(subject, r.Subject) {
		return errs.New(errs.Denied, "a renewal must repeat the subject of its certificate (RFC 7030, section 4.2.2): the certificate has %q, the request %q",
			der.FormatName(subject), der.FormatName(r.Subject))
	}
	if !names.Equal(r.Names) {
		return errs.New(errs.Denied, "a renewal must repeat the subjectAltName of its certificate (RFC 7030, section 4.2.2): same names, no more and no fewer")
	}
	return nil
}

// FillIn puts subject and alternative names of the certificate old, DER, into a request that has none, or whose subject the profile does not look at, for
// protocols in which leaving them out is repeating them.
func (p *Profile) FillIn(old []byte, r *der.Request) error {
	subject, names, err := identityOf(old)
	if err != nil {
		return err
	}
	if len(r.Subject) == 0 || p.ignoreSubject {
		r.Subject = subject
	}
	if r.Names.Equal(der.AltNames{}) {
		r.Names = names
	}
	return nil
}

// Renewable reports whether the profile still gives subject and names of the certificate old, DER, to a device that the registry now knows
// by v. When it does not, no request can repeat them and be granted.
func (p *Profile) Renewable(old []byte, v *Values) (bool, error) {
	subject, names, err := identityOf(old)
	if err != nil {
		return false, err
	}
	_, _, err = p.subjectFor(v, &der.Request{Subject: subject})
	if err == nil {
		_, err = p.namesFor(v, &names)
	}
	if errs.Is(err, errs.Denied) {
		return false, nil
	}
	return err == nil, err
}

// identityOf returns the subject and the alternative names of a certificate, DER.
func identityOf(old []byte) (subject []der.Attribute, names der.AltNames, err error) {
	cert, err := x509.ParseCertificate(old)
	if err != nil {
		return nil, names, errs.Wrap(errs.Invalid, err, "the certificate to be renewed cannot be read")
	}
	if subject, err = der.ParseName(cert.RawSubject); err != nil {
		return nil, names, errs.Wrap(errs.Invalid, err, "the subject of the certificate to be renewed cannot be read")
	}
	for _, e := range cert.Extensions {
		if !e.Id.Equal([]int{2, 5, 29, 17}) {
			continue
		}
		if names, err = der.ParseAltNames(e.Value); err != nil {
			return nil, names, errs.Wrap(errs.Invalid, err, "the names of the certificate to be renewed cannot be read")
		}
	}
	return subject, names, nil
}
