package app

import (
	"context"
	"crypto/x509"
	"fmt"
	"strings"

	"mooring/internal/base/errs"
	"mooring/internal/core/ca"
	"mooring/internal/core/masa"
	"mooring/wire/der"
)

// openMASA gets the key that signs vouchers, if any are to be issued.
func (p *Platform) openMASA(ctx context.Context) error {
	name := p.Config.MASA.Profile
	if name == "" {
		if p.Config.Listen.MASA != "" {
			return errs.New(errs.Invalid, "%s: listen.masa: the service cannot sign vouchers: name the profile of its certificate in masa.profile", p.Config.Place("listen.masa"))
		}
		return nil
	}
	profile, err := p.Profiles.Get(name)
	if err == nil {
		err = checkMASA(profile, p.Profiles.All())
	}
	if err != nil {
		return errs.Wrap(errs.Invalid, err, "%s: masa.profile: %s", p.Config.Place("masa.profile"), errs.Public(err))
	}
	return p.openAuthority(ctx, name)
}

// checkMASA finds what keeps a profile from being that of the signer of vouchers. What devices hold is the certificate of its CA, so that everybody who has
// a certificate of that CA could sign vouchers.
func checkMASA(p *ca.Profile, all []*ca.Profile) error {
	switch kind := string(p.Keys[0]); {
	case strings.HasPrefix(kind, "ml-dsa"):
		return errs.New(errs.Invalid, "vouchers are not signed with keys of the kind %s: put another one first in keys of the profile %s", kind, p.Name)
	case p.KeyUsage&der.DigitalSignature == 0:
		return errs.New(errs.Invalid, "key_usage of the profile %s must hold digitalSignature", p.Name)
	}
	for _, other := range all {
		if other.Name == p.Name {
			continue
		}
		for _, issuer := range issuersOf(other) {
			for _, mine := range issuersOf(p) {
				if issuer == mine {
					return errs.New(errs.Invalid, "the CA %s issues by the profile %s too, so that whoever has such a certificate could sign vouchers: make a CA for the profile %s alone (mooring ca create)", issuer, other.Name, p.Name)
				}
			}
		}
	}
	return nil
}

// issuersOf are all CAs that a profile ever names.
func issuersOf(p *ca.Profile) []string {
	list := []string{p.Issuer}
	for _, turn := range p.Turns {
		list = append(list, turn.Issuer)
	}
	return list
}

// voucherSigner is the masa.Deps.Signer of the platform.
func (p *Platform) voucherSigner() (masa.Signer, error) {
	name := p.Config.MASA.Profile
	if name == "" {
		return masa.Signer{}, errs.New(errs.NotFound, "this platform issues no vouchers: its administrator can name the profile of the certificate that signs them in masa.profile")
	}
	have, err := p.authorities.have(name)
	if err != nil {
		return masa.Signer{}, errs.New(errs.Unavailable, "the certificate that signs vouchers cannot be had at the moment: try again in a minute; the server's log says why")
	}
	s := masa.Signer{Key: have.signer, Certificate: have.cert}
	for _, raw := range have.above {
		c, err := x509.ParseCertificate(raw)
		if err != nil {
			return masa.Signer{}, fmt.Errorf("parsing a certificate above that of vouchers: %w", err)
		}
		s.Above = append(s.Above, c)
	}
	return s, nil
}
