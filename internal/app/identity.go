package app

import (
	"context"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	"mooring/internal/base/errs"
	"mooring/internal/core/access"
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

// serverIdentity is the key and certificate of the listeners. The key is made anew with every certificate and is never stored: a restart
// costs one certificate, a stolen disk gives nothing.
type serverIdentity struct {
	held    gate.ServerCertificate
	current atomic.Pointer[pair]
}

type pair struct {
	signer crypto.Signer
	cert   *x509.Certificate
	above  [][]byte // DER
}

// signer is the est.Identity of the platform.
func (s *serverIdentity) signer() (crypto.Signer, *x509.Certificate, [][]byte) {
	if p := s.current.Load(); p != nil {
		return p.signer, p.cert, p.above
	}
	return nil, nil, nil
}

// begin makes the first certificate. While the key of the CA that issues it is not to be had, TLS clients are turned away and everything else is
// served: revocation lists and status answers by plain HTTP above all, and the Unix socket, by which an administrator looks for the key.
func (s *serverIdentity) begin(ctx context.Context, p *Platform) error {
	err := s.ensure(ctx, p)
	if errs.Is(err, errs.Unavailable) && ctx.Err() == nil {
		p.log.LogAttrs(ctx, slog.LevelError, "the listeners have no certificate yet, so that TLS clients are turned away", slog.Any("cause", err))
		return nil
	}
	return err
}

// ensure makes a certificate for the configured names.
func (s *serverIdentity) ensure(ctx context.Context, p *Platform) error {
	actor := access.System("server")
	d, err := p.register(ctx, actor)
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
	chain := [][]byte{leaf.Raw}
	// The root is the client's to have.
	for i := issuer; i.Parent() != nil; i = i.Parent() {
		chain = append(chain, i.Certificate().Raw)
	}
	s.current.Store(&pair{signer, leaf, chain[1:]})
	s.held.Set(&tls.Certificate{Certificate: chain, PrivateKey: signer, Leaf: leaf})
	return nil
}

// register returns the registry's entry of the platform, with the names that are configured now.
func (p *Platform) register(ctx context.Context, actor access.Actor) (device.Device, error) {
	names := p.ownNames()
	d, err := p.Devices.Get(ctx, actor, selfName)
	if errs.Is(err, errs.NotFound) {
		d, err = p.Devices.Add(ctx, actor, device.Spec{Name: selfName, Names: names, Group: selfGroup, Profile: selfProfile})
		if !errs.Is(err, errs.Conflict) {
			return d, err
		}
		// Another node was faster.
		d, err = p.Devices.Get(ctx, actor, selfName)
	}
	if err != nil {
		return d, err
	}
	if slices.Equal(d.Names, names) && d.Profile == selfProfile {
		return d, nil
	}
	profile := selfProfile
	return p.Devices.Change(ctx, actor, d.ID, device.Change{Names: &names, Profile: &profile})
}

// again is how often the first certificate is tried for, and the last one looked at.
const again = 10 * time.Second

// run renews the certificate in the last third of its life, and makes the first one where begin could not.
func (s *serverIdentity) run(ctx context.Context, p *Platform) error {
	tick := time.NewTicker(again)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		_, cert, _ := s.signer()
		if cert != nil && p.now().Before(cert.NotAfter.Add(-cert.NotAfter.Sub(cert.NotBefore)/3)) {
			continue
		}
		if err := s.ensure(ctx, p); err != nil && ctx.Err() == nil {
			p.log.LogAttrs(ctx, slog.LevelError, "the listeners' certificate could not be renewed", slog.Any("cause", err))
		}
	}
}

// ownNames are the configured names of the listeners, as the registry writes names.
func (p *Platform) ownNames() []string {
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
