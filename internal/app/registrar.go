package app

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"mooring/internal/base/errs"
	"mooring/internal/core/access"
	"mooring/internal/core/ca"
	"mooring/internal/core/masa"
	"mooring/internal/core/registrar"
	"mooring/internal/server/gate"
	"mooring/wire/voucher"
)

// The registrar is known by a certificate of its own, which the EST listener shows to everybody while there is a manufacturer with a MASA. It stands
// in the registry beside the other listeners' certificate and has the same names. The others go on with theirs, which lets nobody speak for the domain.
const (
	registrarName    = selfName + "-registrar"
	registrarProfile = "registrar"
	// wantedEvery is how often it is looked whether there is such a manufacturer; this node's own changes are heard of at once.
	wantedEvery = 10 * time.Second
)

// registrarIdentity is what the EST listener presents.
type registrarIdentity struct {
	est    gate.ServerCertificate // of the listener
	face   *face
	shown  atomic.Pointer[[]registrar.Signer] // the present one, and the one before for connections that began with it
	nudge  chan struct{}                      // holds something when manufacturers were changed
	wanted bool                               // of run alone, like what follows
	looked time.Time
	told   bool // that there is no such profile
}

func (r *registrarIdentity) prepare() {
	r.face, r.nudge = &face{device: registrarName, profile: registrarProfile}, make(chan struct{}, 1)
}

// changed is called when manufacturers were changed.
func (r *registrarIdentity) changed() {
	select {
	case r.nudge <- struct{}{}:
	default: // it will be looked at anyway
	}
}

// due returns the faces that are to be looked after.
func (s *serverIdentity) due(ctx context.Context, p *Platform, nudged bool) []*face {
	r := &s.registrar
	if now := p.now(); nudged || now.Sub(r.looked).Abs() >= wantedEvery {
		wanted, err := p.Makers.Vouched(ctx)
		switch {
		case err != nil && ctx.Err() == nil:
			p.log.LogAttrs(ctx, slog.LevelError, "it could not be found out whether devices come in by vouchers", slog.Any("cause", err))
		case err == nil:
			r.wanted, r.looked = wanted, now
		}
	}
	if !r.wanted {
		s.withdrawRegistrar()
		return s.faces
	}
	if err := p.mayVouch(); err != nil {
		if !r.told {
			r.told = true
			p.log.LogAttrs(ctx, slog.LevelError, "devices get no vouchers", slog.Any("cause", err))
		}
		return s.faces
	}
	return append(slices.Clone(s.faces), r.face)
}

// mayVouch returns an error when the registrar cannot have a certificate.
func (p *Platform) mayVouch() error {
	if _, err := p.Profiles.Get(registrarProfile); err != nil {
		return errs.Wrap(errs.Conflict, err, "there is no profile %s for the certificate of the registrar, which asks for vouchers: copy profiles/registrar.yaml of a new installation (mooring init --dir ELSEWHERE) into %s, and start the server again",
			registrarProfile, p.Config.ProfileDir())
	}
	return nil
}

// anchorEST is anchor for clients of the EST listener.
func (s *serverIdentity) anchorEST(sni string) (root ca.IssuerID, only bool) {
	other := func(f *face) bool { return strings.EqualFold(f.sni, sni) }
	if f := s.registrar.face; f.current.Load() != nil && !slices.ContainsFunc(s.faces[1:], other) {
		return f.anchor()
	}
	return s.anchor(sni)
}

// withdrawRegistrar has the EST listener show what the others show.
func (s *serverIdentity) withdrawRegistrar() {
	if s.registrar.face.current.Load() == nil {
		return
	}
	s.registrar.face.current.Store(nil)
	s.registrar.shown.Store(nil)
	if held := s.held.Get(""); held != nil {
		s.registrar.est.Set(held)
	}
}

// presentRegistrar has the EST listener show a new certificate of the registrar. The one before is good for connections that began with it, unless it was
// revoked.
func (s *serverIdentity) presentRegistrar(p *Platform, with *pair, held *tls.Certificate) error {
	signer := registrar.Signer{Key: with.signer, Certificate: with.cert}
	for _, raw := range with.issuer.Chain() {
		above, err := x509.ParseCertificate(raw)
		if err != nil {
			return fmt.Errorf("parsing a CA of the registrar's certificate: %w", err)
		}
		signer.Above = append(signer.Above, above)
	}
	list := []registrar.Signer{signer}
	if before := s.registrar.shown.Load(); before != nil && !(*before)[0].Certificate.Equal(with.cert) {
		list = append(list, (*before)[0])
	}
	s.registrar.face.current.Store(with)
	s.registrar.shown.Store(&list)
	s.registrar.est.Set(held)
	return nil
}

// registrars returns the registrar's certificates that a client may have been shown who asked for a name, and which are good now.
func (p *Platform) registrars(ctx context.Context, serverName string) []registrar.Signer {
	list := p.identity.registrar.shown.Load()
	other := func(f *face) bool { return strings.EqualFold(f.sni, serverName) }
	if list == nil || serverName != "" && slices.ContainsFunc(p.identity.faces[1:], other) {
		return nil
	}
	now := p.now()
	return slices.DeleteFunc(slices.Clone(*list), func(s registrar.Signer) bool {
		_, revoked, err := p.Revoke.Status(ctx, s.Certificate.SerialNumber.Bytes())
		return revoked || err != nil || now.After(s.Certificate.NotAfter)
	})
}

// buildRegistrar makes the slice that brings in devices by vouchers.
func (p *Platform) buildRegistrar(remote registrar.Authority) {
	p.Registrar = registrar.New(registrar.Deps{DB: p.DB, Audit: p.Audit, Devices: p.Devices, Makers: p.Makers, Enrol: p.Enrol, CA: p.CA, Own: ownMASA{p.MASA}, Remote: remote, Now: p.now, Log: p.log})
}

// ownMASA is the platform's own service for vouchers as the registrar sees it: without a connection between them.
type ownMASA struct{ masa *masa.Service }

// Voucher implements registrar.Authority.
func (o ownMASA) Voucher(ctx context.Context, a *registrar.Ask) ([]byte, time.Duration, error) {
	r, err := voucher.ParseRequest(a.Request)
	if err != nil {
		return nil, 0, fmt.Errorf("reading our own request: %w", err)
	}
	message, err := o.masa.Issue(ctx, access.System(registrarProfile), nil, r)
	return message, 0, err
}

// Log implements registrar.Authority.
func (o ownMASA) Log(ctx context.Context, a *registrar.Ask) (voucher.AuditLog, error) {
	r, err := voucher.ParseRequest(a.Request)
	if err != nil {
		return voucher.AuditLog{}, fmt.Errorf("reading our own request: %w", err)
	}
	return o.masa.AuditLog(ctx, access.System(registrarProfile), nil, r)
}

// besides serves what lies below a path by one handler and everything else by another.
func besides(path string, below, rest http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, path) {
			below.ServeHTTP(w, r)
			return
		}
		rest.ServeHTTP(w, r)
	})
}
