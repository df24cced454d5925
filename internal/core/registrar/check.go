package registrar

import (
	"bytes"
	"crypto/x509"
	"errors"
	"slices"
	"time"

	"mooring/internal/base/errs"
	"mooring/internal/core/ca"
	"mooring/internal/core/maker"
	"mooring/wire/der"
	"mooring/wire/voucher"
)

// checkVoucher looks whether the device can do something with the voucher, and whether it is from whom it should be. The device looks as well, with what
// it was made with; what is found here stands in our record, and not in a device that nobody can look into.
func (s *Service) checkVoucher(p *pledge, message []byte) (*voucher.SignedVoucher, error) {
	v, err := voucher.ParseVoucher(message)
	if err != nil {
		return nil, unfit(err, "it cannot be read")
	}
	now := s.Now()
	if p.masa.Where != maker.OwnMASA {
		if err := signedBy(v, p.masa.Trusted, now); err != nil {
			return nil, unfit(err, "its signature does not lead to a certificate that is registered for the manufacturer's service")
		}
	}
	pinned := func(c *x509.Certificate) bool { return bytes.Equal(c.Raw, v.PinnedDomainCert) }
	switch {
	case v.SerialNumber != p.product.Serial:
		return nil, unfit(nil, "it is for the serial number %q", v.SerialNumber)
	case !bytes.Equal(v.Nonce, p.request.Nonce):
		return nil, unfit(nil, "it has another nonce than the device's request")
	case len(v.IDevIDIssuer) > 0 && !voucher.IsIDevIDIssuer(v.IDevIDIssuer, p.leaf):
		return nil, unfit(nil, "it names another issuer than the device's certificate has")
	case !pinned(p.by.Certificate) && !slices.ContainsFunc(p.by.Above, pinned):
		return nil, unfit(nil, "it pins no certificate of this platform")
	case !v.ExpiresOn.IsZero() && !now.Before(v.ExpiresOn):
		return nil, unfit(nil, "it has expired, on %s; check the clocks", v.ExpiresOn.UTC().Format(time.RFC3339))
	}
	return v, nil
}

// unfit is the error for a voucher that is of no use; cause, which may be nil, is for the log.
func unfit(cause error, format string, args ...any) error {
	return errs.Wrap(errs.Conflict, cause, "the voucher that the manufacturer's service gave is not acceptable: "+format, args...)
}

// signedBy reports by an error that no path leads from a trusted certificate to the one that signed the voucher. A trusted one may be that itself. Many
// manufacturers have one CA for everything, so what looks like the certificate of a device counts only when it is trusted itself.
func signedBy(v *voucher.SignedVoucher, trusted []*x509.Certificate, now time.Time) error {
	if len(v.Chain) == 0 { // the certificate is left out where everybody has it
		for _, c := range trusted {
			if v.VerifiedBy(c) == nil && !now.Before(c.NotBefore) && !now.After(c.NotAfter) {
				return nil
			}
		}
		return errors.New("it carries no certificate, and none of the registered ones has signed it")
	}
	o := x509.VerifyOptions{Roots: x509.NewCertPool(), Intermediates: der.Intermediates(slices.Concat(v.Chain[1:], v.Others)), CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}
	for _, c := range trusted {
		o.Roots.AddCert(c)
	}
	signer := v.Chain[0]
	if signer.Subject.SerialNumber != "" && !slices.ContainsFunc(trusted, signer.Equal) {
		return errors.New("its signer has a serialNumber in its subject, as devices have")
	}
	_, err := signer.Verify(o)
	return err
}

// checkHistory refuses a device for which somebody else has a voucher (RFC 8995, section 5.8.3): he may have been there before us or be there now, and a
// voucher of his without a nonce lets him take it at any time.
func (s *Service) checkHistory(p *pledge, log voucher.AuditLog) error {
	const remedy = "to take it all the same, give it the tag " + HistoryTag + "=" + HistoryAccepted
	if log.Truncation.Arbitrary > 0 {
		return errs.New(errs.Conflict, "the manufacturer's log of the device's vouchers is not complete; %s", remedy)
	}
	for _, e := range log.Events {
		if !s.ours(p, e.DomainID) {
			return errs.New(errs.Conflict, "the manufacturer's log says that somebody else got a voucher for the device, on %s; %s", e.Date.UTC().Format(time.RFC3339), remedy)
		}
	}
	return nil
}

// ours reports whether a domain is this platform: a CA of ours, of whatever age, or what was shown to the device.
func (s *Service) ours(p *pledge, domain []byte) bool {
	is := func(c *x509.Certificate) bool { return bytes.Equal(voucher.DomainID(c), domain) }
	if is(p.by.Certificate) || slices.ContainsFunc(p.by.Above, is) {
		return true
	}
	found := false
	s.CA.Each(func(i *ca.Issuer) { found = found || is(i.Certificate()) })
	return found
}
