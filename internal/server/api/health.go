package api

import (
	"context"
	"net/http"
	"runtime"
	"time"

	"mooring/internal/base/db"
	"mooring/internal/base/errs"
	"mooring/internal/base/web"
	"mooring/internal/core/access"
	"mooring/internal/core/ca"
	"mooring/internal/server/api/v1"
)

func (s *server) whoami(_ context.Context, actor access.Actor, _ *none) (v1.Who, error) {
	return v1.Who{Actor: actor.String(), Kind: string(actor.Kind), ID: actor.ID, Role: string(actor.Role), Via: actor.Via,
		Permissions: each(access.Permissions(actor.Role), func(p access.Permission) string { return string(p) })}, nil
}

func (s *server) version(context.Context, access.Actor, *none) (v1.Version, error) {
	return s.shownVersion(), nil
}

func (s *server) shownVersion() v1.Version {
	v := s.Version
	if v.Go == "" {
		v.Go = runtime.Version()
	}
	return v
}

func (s *server) status(ctx context.Context, actor access.Actor, _ *none) (v1.Status, error) {
	if err := s.Access.Require(ctx, actor, access.ConfigRead, "status"); err != nil {
		return v1.Status{}, err
	}
	counts, err := s.counts()
	if err != nil {
		return v1.Status{}, err
	}
	return v1.Status{Version: s.shownVersion(), Started: s.started.UTC(), Ready: s.ready(ctx), Issued: s.CA.Issued(), Listeners: each(s.surfaces(), shownSurface),
		Counts: counts}, nil
}

func (s *server) surfaces() []Surface {
	if s.Surfaces == nil {
		return nil
	}
	return s.Surfaces()
}

func shownSurface(f Surface) v1.Listener {
	m := f.Gate.Metrics()
	out := v1.Listener{Name: f.Name, Address: f.Gate.Addr().String(), Open: m.Open, Accepted: m.Accepted, Handshakes: m.Handshakes, Resumed: m.Resumed,
		Refused: map[string]uint64{}}
	for reason, n := range m.Refused {
		if n > 0 {
			out.Refused[reason] = n
		}
	}
	return out
}

// healthz says that the process answers, nothing more: whoever restarts it on failure must not do so because a database is away.
func (s *server) healthz(w http.ResponseWriter, _ *http.Request) {
	writeJSON(w, http.StatusOK, "application/json", struct {
		Alive bool `json:"alive"`
	}{true})
}

// readyz is 503 when the server can not do its work. Strangers may ask, so the texts name no causes.
func (s *server) readyz(w http.ResponseWriter, r *http.Request) {
	ready, status := s.ready(r.Context()), http.StatusOK
	if !ready.Ready {
		status = http.StatusServiceUnavailable
	}
	writeJSON(w, status, "application/json", ready)
}

func (s *server) ready(ctx context.Context) v1.Readiness {
	r := v1.Readiness{Ready: true}
	for _, c := range []struct {
		name, wrong string
		check       func(context.Context) error
	}{
		{"read", "the database cannot be read", s.readable},
		{"write", "the last write could not be stored: is the disk full, or the database read-only?", func(context.Context) error { return s.DB.Fault() }},
		{"ca", "there is no certification authority yet", s.hasCA},
	} {
		check := v1.Check{Name: c.name, OK: c.check(ctx) == nil}
		if !check.OK {
			check.Text, r.Ready = c.wrong, false
		}
		r.Checks = append(r.Checks, check)
	}
	return r
}

// checkTime is how long a check may take: whoever asks has a timeout of his own, and no answer says less than a bad one.
const checkTime = 2 * time.Second

func (s *server) readable(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, checkTime)
	defer cancel()
	return s.DB.View(ctx, func(ctx context.Context, tx *db.Tx) error {
		var one int64
		_, err := tx.Get(ctx, []any{&one}, `SELECT 1`)
		return err
	})
}

func (s *server) hasCA(context.Context) error {
	n := 0
	s.CA.Each(func(*ca.Issuer) { n++ })
	if n == 0 {
		return errs.New(errs.Unavailable, "no CA")
	}
	return nil
}

// serveMetrics answers whoever has a role; every role may read the configuration.
func (s *server) serveMetrics(w http.ResponseWriter, r *http.Request) {
	actor, ok := s.authenticate(w, r, access.ConfigRead)
	if !ok {
		return
	}
	if err := s.Access.Require(r.Context(), actor, access.ConfigRead, "metrics"); err != nil {
		web.Problem(w, r, err)
		return
	}
	s.exposition().ServeHTTP(w, r)
}
