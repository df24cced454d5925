package app

import (
	"mooring/internal/base/conf"
	"mooring/internal/base/errs"
	"mooring/internal/core/ca"
	"mooring/internal/core/revoke"
)

// ocspOptions are those of the configuration.
func (p *Platform) ocspOptions() revoke.OCSPOptions {
	o := &p.Config.OCSP
	return revoke.OCSPOptions{Validity: o.Validity, Cache: o.Cache, Delegation: o.ResponderValidity, Live: o.LivePerSecond, Strict: o.NeverIssued == "revoked",
		Mode: func(issuer string) revoke.Mode { return revoke.Mode(o.ResponderOf(issuer)) }}
}

// CheckResponders says whether a profile sends the holders of its certificates to a responder that the configuration turns off. Profiles that
// cannot be read are another matter.
func CheckResponders(c *conf.Config) error {
	profiles, err := loadProfiles(c.ProfileDir())
	if err != nil {
		return nil
	}
	return checkResponders(c, profiles)
}

func (p *Platform) checkResponders() error { return checkResponders(p.Config, p.Profiles) }

func checkResponders(c *conf.Config, profiles *ca.Profiles) error {
	place, issuer := profiles.FindOCSP(func(issuer string) bool { return c.OCSP.ResponderOf(issuer) == string(revoke.Off) })
	if place == "" {
		return nil
	}
	return errs.New(errs.Invalid, "%s: OCSP is off for the CA %q, but %s puts the address of the responder into its certificates: set ocsp to false there, or choose ca or delegated for the CA",
		c.Place("ocsp.issuers", "ocsp.responder"), issuer, place)
}
