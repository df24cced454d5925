package app

import (
	"context"
	"path/filepath"

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

// CheckProfiles says whether the configuration and the profiles contradict each other: a profile sends the holders of its certificates to a
// responder that is turned off, or a name of tls.anchors has a profile that does not exist. Profiles that cannot be read are another matter.
func CheckProfiles(c *conf.Config) error {
	profiles, err := loadProfiles(c.ProfileDir())
	if err != nil {
		return nil
	}
	if err := checkAnchors(c, profiles); err != nil {
		return err
	}
	return checkResponders(c, profiles)
}

// checkAnchors comes before the first request only: whoever makes an installation, or mends one, may have the profile still to make.
func (p *Platform) checkAnchors(context.Context) error { return checkAnchors(p.Config, p.Profiles) }

func checkAnchors(c *conf.Config, profiles *ca.Profiles) error {
	for _, a := range c.TLS.Anchors {
		if _, err := profiles.Get(a.Profile); err != nil {
			return errs.New(errs.Invalid, "%s: tls.anchors: there is no profile %q for the name %s: make %s, or name another profile",
				c.Place("tls.anchors"), a.Profile, a.Name, filepath.Join(c.ProfileDir(), a.Profile+".yaml"))
		}
	}
	return nil
}

func checkResponders(c *conf.Config, profiles *ca.Profiles) error {
	place, issuer := profiles.FindOCSP(func(issuer string) bool { return c.OCSP.ResponderOf(issuer) == string(revoke.Off) })
	if place == "" {
		return nil
	}
	return errs.New(errs.Invalid, "%s: OCSP is off for the CA %q, but %s puts the address of the responder into its certificates: set ocsp to false there, or choose ca or delegated for the CA",
		c.Place("ocsp.issuers", "ocsp.responder"), issuer, place)
}
