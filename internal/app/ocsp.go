package app

import (
	"mooring/internal/base/errs"
	"mooring/internal/core/revoke"
)

// ocspOptions are those of the configuration.
func (p *Platform) ocspOptions() revoke.OCSPOptions {
	o := &p.Config.OCSP
	return revoke.OCSPOptions{Validity: o.Validity, Cache: o.Cache, Delegation: o.ResponderValidity, Live: o.LivePerSecond, Strict: o.NeverIssued == "revoked",
		Mode: func(issuer string) revoke.Mode { return revoke.Mode(o.ResponderOf(issuer)) }}
}

// checkResponders refuses a profile that sends the holders of its certificates to a responder that is turned off.
func (p *Platform) checkResponders() error {
	place, issuer := p.Profiles.FindOCSP(func(issuer string) bool { return p.Config.OCSP.ResponderOf(issuer) == string(revoke.Off) })
	if place == "" {
		return nil
	}
	return errs.New(errs.Invalid, "%s: OCSP is off for the CA %q, but %s puts the address of the responder into its certificates: set ocsp to false there, or choose ca or delegated for the CA",
		p.Config.Place("ocsp.issuers", "ocsp.responder"), issuer, place)
}
