package app

import (
	"bytes"
	"context"
	"crypto/x509"
	"fmt"
	"log/slog"
	"time"

	"mooring/internal/base/errs"
	"mooring/internal/core/access"
	"mooring/internal/core/ca"
	"mooring/internal/core/key"
	"mooring/internal/server/scep"
)

// authority is an authority of the platform itself, such as the registration authority that answers clients of SCEP. Its key is kept, so that all nodes have the
// same one and what a client encrypted for an earlier certificate can be read; its certificate is issued and renewed like any other.
type authority struct {
	face
	key *key.Own
}

// authorities are the platform's, by the profiles of their certificates.
type authorities map[string]*authority

// openAuthorities gets the keys of the registration authorities that profiles name for SCEP. It makes those that are not there yet.
func (p *Platform) openAuthorities(ctx context.Context) error {
	for _, profile := range p.Profiles.All() {
		if profile.SCEP == nil {
			continue
		}
		if err := p.openAuthority(ctx, profile.SCEP.RA); err != nil {
			return err
		}
	}
	return nil
}

// openAuthority gets the key of the authority whose certificate is of the profile with this name, and makes it when it is not there yet.
func (p *Platform) openAuthority(ctx context.Context, profile string) error {
	if p.authorities[profile] != nil {
		return nil
	}
	ra, err := p.Profiles.Get(profile)
	if err != nil {
		return err
	}
	own, err := p.Keys.Own(ctx, ra.Name, key.Algorithm(ra.Keys[0]))
	if err != nil {
		return err
	}
	if p.authorities == nil {
		p.authorities = authorities{}
	}
	p.authorities[ra.Name] = &authority{face: face{device: selfName + "-" + ra.Name, profile: ra.Name, bare: true}, key: own}
	return nil
}

// identity is the scep.Deps.Identity of the platform.
func (as authorities) identity(ra string) (scep.Identity, error) {
	have, err := as.have(ra)
	if err != nil {
		return scep.Identity{}, err
	}
	return scep.Identity{Key: as[ra].key, Certificate: have.cert, Above: have.above}, nil
}

// have returns the present certificate of the authority with this profile; Unavailable while there is none.
func (as authorities) have(profile string) (*pair, error) {
	if a := as[profile]; a != nil {
		if have := a.current.Load(); have != nil {
			return have, nil
		}
	}
	return nil, errs.New(errs.Unavailable, "the registration authority has no certificate yet: try again in a minute; the server's log says why")
}

// begin gets each authority its certificate, if it can be had now.
func (as authorities) begin(ctx context.Context, p *Platform) { as.look(ctx, p) }

// run gets certificates that could not be had at first, and renews each in the last third of its life, when it was revoked, or when another CA has its turn.
func (as authorities) run(ctx context.Context, p *Platform) error {
	if len(as) == 0 {
		return nil
	}
	tick := time.NewTicker(again)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			as.look(ctx, p)
		}
	}
}

func (as authorities) look(ctx context.Context, p *Platform) {
	for _, a := range as {
		if err := p.lookAfter(ctx, a); err != nil && ctx.Err() == nil {
			p.log.LogAttrs(ctx, slog.LevelError, "the platform has no good certificate for one of its own services", slog.String("profile", a.profile), slog.Any("cause", err))
		}
	}
}

// lookAfter does what is due for an authority.
func (p *Platform) lookAfter(ctx context.Context, a *authority) error {
	have := a.current.Load()
	if have == nil {
		found, err := p.foundAuthority(ctx, a)
		if err != nil {
			return err
		}
		have = found
	}
	good, err := p.authorityGood(ctx, a, have)
	if err != nil {
		return err
	}
	if !good {
		if have, err = p.certifyAuthority(ctx, a); err != nil {
			return err
		}
	}
	a.current.Store(have)
	return nil
}

// foundAuthority returns the certificate that another node, or this one before its last stop, got for the authority's key; nil when there is none.
func (p *Platform) foundAuthority(ctx context.Context, a *authority) (*pair, error) {
	d, err := p.Devices.Get(ctx, access.System("server"), a.device)
	if errs.Is(err, errs.NotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	slot, ok := d.Slot(selfSlot)
	if !ok {
		return nil, nil
	}
	cert, err := p.CA.Get(ctx, slot.Serial)
	if errs.Is(err, errs.NotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	found, err := p.pairOf(a, cert)
	if err != nil {
		return nil, err
	}
	if own, err := x509.MarshalPKIXPublicKey(a.key.Public()); err != nil || !bytes.Equal(own, found.cert.RawSubjectPublicKeyInfo) {
		return nil, err // of an earlier key store
	}
	return found, nil
}

func (p *Platform) pairOf(a *authority, cert *ca.Certificate) (*pair, error) {
	leaf, err := x509.ParseCertificate(cert.DER)
	if err != nil {
		return nil, fmt.Errorf("parsing the certificate of a registration authority: %w", err)
	}
	issuer, err := p.CA.IssuerByID(cert.Issuer)
	if err != nil {
		return nil, err
	}
	chain := issuer.Chain()
	return &pair{signer: a.key, cert: leaf, issuer: issuer, above: chain[:len(chain)-1]}, nil
}

// authorityGood reports whether a certificate serves on.
func (p *Platform) authorityGood(ctx context.Context, a *authority, have *pair) (bool, error) {
	profile, err := p.Profiles.Get(a.profile)
	if err != nil || have == nil {
		return false, err
	}
	now := p.now()
	if have.issuer.Name() != profile.IssuerAt(now.Unix()) || now.After(have.cert.NotAfter.Add(-have.cert.NotAfter.Sub(have.cert.NotBefore)/3)) {
		return false, nil
	}
	_, revoked, err := p.Revoke.Status(ctx, have.cert.SerialNumber.Bytes())
	return !revoked, err
}

func (p *Platform) certifyAuthority(ctx context.Context, a *authority) (*pair, error) {
	actor := access.System("server")
	d, err := p.register(ctx, actor, &a.face)
	if err != nil {
		return nil, fmt.Errorf("registering a registration authority: %w", err)
	}
	answer, err := p.Enrol.Direct(ctx, actor, d.ID, a.key)
	if err != nil {
		return nil, fmt.Errorf("issuing the certificate of a registration authority: %w", err)
	}
	return p.pairOf(a, answer.Certificate)
}
