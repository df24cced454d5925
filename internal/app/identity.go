package app

import (
	"bytes"
	"context"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"mooring/internal/base/conf"
	"mooring/internal/base/errs"
	"mooring/internal/core/access"
	"mooring/internal/core/ca"
	"mooring/internal/core/device"
	"mooring/internal/core/key"
	"mooring/internal/server/gate"
)

// The platform is a service of its own registry: its listeners' certificate is issued, recorded, renewed and, if need be, revoked like any
// other.
const (
	selfName    = "mooring"
	selfProfile = "server"
	selfGroup   = "mooring"
	selfSlot    = "operational"
)

// serverIdentity is what the listeners present: one face for everybody, and one more for each name of tls.anchors. Keys are made anew with every
// certificate and are never stored: a restart costs one certificate, a stolen disk gives nothing.
type serverIdentity struct {
	held  gate.ServerCertificate
	faces []*face // the first is for everybody; fixed once the platform is built
	// registrar is what the EST listener presents in place of held: the same, but for the registrar's certificate where there is one.
	registrar registrarIdentity
}

// face is a certificate that renews itself.
type face struct {
	sni     string // the name that clients ask for; "" for everybody else
	device  string // of the registry
	profile string
	bare    bool // it has no names: nobody connects to it
	current atomic.Pointer[pair]

	// What follows is of run alone.
	failed time.Time // when the last attempt at a new certificate failed; zero: it did not
	told   *pair     // whose revoked issuer was logged already
}

type pair struct {
	signer crypto.Signer
	cert   *x509.Certificate
	above  [][]byte // DER
	issuer *ca.Issuer
}

// prepare lays down the faces that the configuration asks for.
func (s *serverIdentity) prepare(c *conf.Config) {
	s.faces = []*face{{device: selfName, profile: selfProfile}}
	for _, a := range c.TLS.Anchors {
		s.faces = append(s.faces, &face{sni: a.Name, device: selfName + "-" + a.Name, profile: a.Profile})
	}
	s.registrar.prepare()
}

// signer is the est.Identity of the platform.
func (s *serverIdentity) signer() (crypto.Signer, *x509.Certificate, [][]byte) {
	if p := s.faces[0].current.Load(); p != nil {
		return p.signer, p.cert, p.above
	}
	return nil, nil, nil
}

// anchor returns the root that a client must trust who completed a handshake under the name sni, and false when there are several that would do.
func (s *serverIdentity) anchor(sni string) (root ca.IssuerID, only bool) {
	shown := s.faces[0]
	for _, f := range s.faces[1:] {
		if strings.EqualFold(f.sni, sni) {
			shown = f
		}
	}
	return shown.anchor()
}

// anchor is serverIdentity.anchor of one face.
func (f *face) anchor() (root ca.IssuerID, only bool) {
	p := f.current.Load()
	if p == nil {
		return root, false
	}
	tiers := 0
	top := p.issuer
	for ; top.Parent() != nil; top = top.Parent() {
		tiers++
	}
	return top.ID(), len(p.above) == tiers // more is a cross certificate, by which another root would do
}

// begin makes the first certificates. While the key of the CA that issues them is not to be had, TLS clients are turned away and everything else is
// served: revocation lists and status answers by plain HTTP above all, and the Unix socket, by which an administrator looks for the key.
func (s *serverIdentity) begin(ctx context.Context, p *Platform) error {
	for _, f := range s.due(ctx, p, true) {
		err := s.ensure(ctx, p, f)
		switch {
		case err == nil:
		case errs.Is(err, errs.Unavailable) && ctx.Err() == nil:
			p.log.LogAttrs(ctx, slog.LevelError, "the listeners have no certificate yet, so that TLS clients are turned away", slog.String("name", f.sni), slog.Any("cause", err))
		case f.sni != "" && ctx.Err() == nil: // a name for tests only: the others go on
			p.log.LogAttrs(ctx, slog.LevelError, "a name of tls.anchors has no certificate", slog.String("name", f.sni), slog.Any("cause", err))
		case f == s.registrar.face && ctx.Err() == nil:
			p.log.LogAttrs(ctx, slog.LevelError, "the registrar has no certificate yet, so that devices get no vouchers", slog.Any("cause", err))
		default:
			return err
		}
	}
	p.finishInit(ctx)
	return nil
}

// ensure makes a certificate for a face.
func (s *serverIdentity) ensure(ctx context.Context, p *Platform, f *face) error {
	actor := access.System("server")
	d, err := p.register(ctx, actor, f)
	if err != nil {
		return fmt.Errorf("registering the platform itself: %w", err)
	}
	signer, err := key.New(key.P256)
	if err != nil {
		return fmt.Errorf("making the listeners' key: %w", err)
	}
	answer, err := p.Enrol.Direct(ctx, actor, d.ID, signer)
	if err != nil {
		return fmt.Errorf("issuing the listeners' certificate: %w", err)
	}
	leaf, err := x509.ParseCertificate(answer.Certificate.DER)
	if err != nil {
		return fmt.Errorf("parsing the listeners' certificate: %w", err)
	}
	issuer, err := p.CA.IssuerByID(answer.Certificate.Issuer)
	if err != nil {
		return err
	}
	return s.present(p, f, &pair{signer: signer, cert: leaf, issuer: issuer})
}

// present puts a certificate to use with what leads from it to the roots, which are the client's to have. A name that is to show which root a
// client trusts has no other way to one.
func (s *serverIdentity) present(p *Platform, f *face, with *pair) error {
	with.above = p.CA.Ladder(with.issuer)
	if f.sni != "" {
		with.above = with.above[:len(with.issuer.Chain())-1]
	}
	held := &tls.Certificate{Certificate: append([][]byte{with.cert.Raw}, with.above...), PrivateKey: with.signer, Leaf: with.cert}
	if f == s.registrar.face {
		return s.presentRegistrar(p, with, held)
	}
	f.current.Store(with)
	s.held.SetFor(f.sni, held)
	if f.sni != "" || s.registrar.face.current.Load() == nil {
		s.registrar.est.SetFor(f.sni, held)
	}
	return nil
}

// register returns the registry's entry of a face, with the names that are configured now.
func (p *Platform) register(ctx context.Context, actor access.Actor, f *face) (device.Device, error) {
	names := p.faceNames(f)
	d, err := p.Devices.Get(ctx, actor, f.device)
	if errs.Is(err, errs.NotFound) {
		d, err = p.Devices.Add(ctx, actor, device.Spec{Name: f.device, Names: names, Group: selfGroup, Profile: f.profile})
		if !errs.Is(err, errs.Conflict) {
			return d, err
		}
		// Another node was faster.
		d, err = p.Devices.Get(ctx, actor, f.device)
	}
	if err != nil {
		return d, err
	}
	if slices.Equal(d.Names, names) && d.Profile == f.profile {
		return d, nil
	}
	profile := f.profile
	return p.Devices.Change(ctx, actor, d.ID, device.Change{Names: &names, Profile: &profile})
}

const (
	// again is how often a certificate is tried for that could not be had.
	again = 10 * time.Second
	// lookEvery is how often it is looked at whether something is due: a certificate that was revoked is not presented for longer.
	lookEvery = 2 * time.Second
)

// run renews each certificate in the last third of its life, when it was revoked, or when another CA has its turn, makes the first one where begin
// could not, and sends along new cross certificates.
func (s *serverIdentity) run(ctx context.Context, p *Platform) error {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		nudged := false
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		case <-s.registrar.nudge:
			nudged = true
		}
		for _, f := range s.due(ctx, p, nudged) {
			if !f.failed.IsZero() && p.now().Sub(f.failed).Abs() < again {
				continue
			}
			f.failed = time.Time{}
			if err := s.look(ctx, p, f); err != nil && ctx.Err() == nil {
				f.failed = p.now()
				p.log.LogAttrs(ctx, slog.LevelError, "the listeners' certificate could not be renewed", slog.String("name", f.sni), slog.Any("cause", err))
			}
		}
		p.finishInit(ctx)
	}
}

// look does what is due for a face.
func (s *serverIdentity) look(ctx context.Context, p *Platform, f *face) error {
	now, have := p.now(), f.current.Load()
	profile, err := p.Profiles.Get(f.profile)
	if err != nil {
		return err
	}
	next := profile.IssuerAt(now.Unix())
	if have == nil || next != have.issuer.Name() || now.After(have.cert.NotAfter.Add(-have.cert.NotAfter.Sub(have.cert.NotBefore)/3)) {
		return s.ensure(ctx, p, f)
	}
	if barred := p.CA.Barred(have.issuer); barred != nil {
		s.tellBarred(ctx, p, f, barred)
		return nil // the profile names no other CA, so there is nothing better to present
	}
	if revoked, err := s.replaceRevoked(ctx, p, f); revoked || err != nil {
		return err
	}
	if f.sni == "" && !slices.EqualFunc(have.above, p.CA.Ladder(have.issuer), bytes.Equal) {
		return s.present(p, f, &pair{signer: have.signer, cert: have.cert, issuer: have.issuer})
	}
	return nil
}

// replaceRevoked gets a new certificate for a face whose certificate was revoked or put on hold, and reports whether it was.
func (s *serverIdentity) replaceRevoked(ctx context.Context, p *Platform, f *face) (bool, error) {
	serial := f.current.Load().cert.SerialNumber.Bytes()
	_, revoked, err := p.Revoke.Status(ctx, serial)
	if err != nil || !revoked {
		return false, err
	}
	if err := s.ensure(ctx, p, f); err != nil {
		return true, fmt.Errorf("the certificate %x was revoked: %w", serial, err)
	}
	p.log.LogAttrs(ctx, slog.LevelWarn, "the listeners' certificate was revoked, and a new one is presented", slog.String("name", f.sni),
		slog.String("revoked", fmt.Sprintf("%x", serial)), slog.String("new", fmt.Sprintf("%x", f.current.Load().cert.SerialNumber.Bytes())))
	return true, nil
}

// tellBarred says once for a certificate that no new one can be had of its CA, and what to do about it.
func (s *serverIdentity) tellBarred(ctx context.Context, p *Platform, f *face, barred *ca.Issuer) {
	if have := f.current.Load(); f.told != have {
		f.told = have
		p.log.LogAttrs(ctx, slog.LevelError, "the CA of the listeners' certificate is revoked or on hold, so that clients may refuse it: make another CA (mooring ca create), "+
			"name it as the issuer of the profile, and start the server again", slog.String("name", f.sni), slog.String("ca", barred.Name()), slog.String("profile", f.profile))
	}
}

// faceNames are the names in the certificate of a face.
func (p *Platform) faceNames(f *face) []string {
	if f.bare {
		return nil
	}
	if f.sni != "" {
		return []string{"dns:" + f.sni}
	}
	return p.configuredNames()
}

// isItself tells whether a device is one of those by which the platform stands in its registry.
func (p *Platform) isItself(name string) bool {
	own := func(f *face) bool { return f.device == name }
	for _, a := range p.authorities {
		if own(&a.face) {
			return true
		}
	}
	return own(p.identity.registrar.face) || slices.ContainsFunc(p.identity.faces, own)
}

// ownNames are all names of the listeners, which nobody else may have.
func (p *Platform) ownNames() []string {
	names := p.configuredNames()
	for _, a := range p.Config.TLS.Anchors {
		names = append(names, "dns:"+a.Name)
	}
	return names
}

// configuredNames are the names of the listeners, as the registry writes names.
func (p *Platform) configuredNames() []string {
	var names []string
	for _, n := range p.Config.Names {
		kind := "dns:"
		if _, err := netip.ParseAddr(n); err == nil {
			kind = "ip:"
		}
		names = append(names, kind+n)
	}
	return names
}
