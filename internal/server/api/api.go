// Package api is the REST API: what operators, their scripts and the command line use to run the fleet. It is described by an OpenAPI 3.1
// document that is generated from the routes (/openapi.yaml, /openapi.json) and speaks the messages of package v1.
//
// Who calls is what the connection proves: the user on the Unix socket, or the holder of a certificate that the platform issued, whose profile
// may grant a role. Each request is authenticated anew, so that a revoked certificate is useless at once. One table (routes.go) has every
// route with the permission that it needs; the permission is decided, and a refusal recorded, in core. Refusals are problem details
// (RFC 9457).
//
// Beside /v1 stand /healthz and /readyz, for nobody in particular, and /metrics, for whoever may read the configuration. The package deliberately knows no
// passwords, cookies or sessions, is not meant for browsers and refuses their cross-origin requests, and contains no rule of the platform.
package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"mooring/internal/base/db"
	"mooring/internal/base/errs"
	"mooring/internal/base/web"
	"mooring/internal/core/access"
	"mooring/internal/core/acme"
	"mooring/internal/core/approve"
	"mooring/internal/core/audit"
	"mooring/internal/core/ca"
	"mooring/internal/core/campaign"
	"mooring/internal/core/device"
	"mooring/internal/core/enrol"
	"mooring/internal/core/export"
	"mooring/internal/core/job"
	"mooring/internal/core/key"
	"mooring/internal/core/maker"
	"mooring/internal/core/masa"
	"mooring/internal/core/message"
	"mooring/internal/core/revoke"
	"mooring/internal/server/api/v1"
	"mooring/internal/server/gate"
)

// Deps are what the API stands on.
type Deps struct {
	DB       *db.DB
	Audit    *audit.Log
	Access   *access.Decider
	Devices  *device.Registry
	Makers   *maker.Service
	MASA     *masa.Service
	Profiles *ca.Profiles
	CA       *ca.Authority
	Custody  *key.Meter
	Revoke   *revoke.Service
	Enrol    *enrol.Service
	ACME     *acme.Service
	Approve  *approve.Service
	Message  *message.Service // nil where no messages are carried
	V2X      V2X
	// Campaigns have many devices renew.
	Campaigns *campaign.Service
	Jobs      *job.Service
	Bulk      *revoke.Bulk
	Bundle    *enrol.Bundle
	Importer  *device.Importer
	Export    *export.Service
	Now       func() time.Time
	Log       *slog.Logger
	Version   v1.Version // of the program; API is filled in here
	// Checkers returns what the slices compare with the record; a Checker serves one verification.
	Checkers func() []audit.Checker
	// Surfaces returns the listeners of the process, for status and metrics. It is called after everything is built.
	Surfaces func() []Surface
	// Collectors are registered in /metrics besides those of the parts above.
	Collectors []prometheus.Collector
	// Samples returns what else was counted when /metrics are read; nil: nothing.
	Samples func() []Sample
	// Undo is how long a job of many waits before it begins, when nothing else is said.
	Undo time.Duration
	// MaxImport bounds the file of one import in octets; 0 = 1 GiB.
	MaxImport int64
}

// Surface is one listener of the process.
type Surface struct {
	Name     string // "est", "api", …
	Gate     *gate.Gate
	Counters *web.Counters
}

// defaultMaxImport holds four million rows of 256 octets, which is the most that the registry takes at once.
const defaultMaxImport = 1 << 30

type server struct {
	Deps
	started   time.Time
	mux       *http.ServeMux
	registry  *prometheus.Registry
	imports   turns
	exports   turns
	verifying turns
}

// How many long works are done at once: each takes hundreds of megabytes when the fleet is large.
const (
	maxImports   = 2
	maxExports   = 2
	maxVerifying = 1
)

// turns holds a token for each work under way.
type turns chan struct{}

// take returns how to give the turn back, or a Limited error.
func (t turns) take() (done func(), err error) {
	select {
	case t <- struct{}{}:
		return func() { <-t }, nil
	default:
		return nil, errs.WithRetry(errs.New(errs.Limited, "this is being done already, as often as it may be at once: wait until it has ended"), time.Minute)
	}
}

// New returns the handler of the API. It must stand behind a gate, which says who asks, and sets bounds on bodies itself.
func New(d Deps) http.Handler {
	if d.MaxImport == 0 {
		d.MaxImport = defaultMaxImport
	}
	d.Version.API = "v1"
	s := &server{Deps: d, started: d.Now(), mux: http.NewServeMux(),
		imports: make(turns, maxImports), exports: make(turns, maxExports), verifying: make(turns, maxVerifying)}
	s.registry = s.metrics()
	document := s.register().OpenAPI()
	s.mux.Handle("GET /openapi.json", s.fixed("application/vnd.oai.openapi+json", document.MarshalJSON))
	s.mux.Handle("GET /openapi.yaml", s.fixed("application/vnd.oai.openapi", document.YAML))
	s.mux.HandleFunc("GET /healthz", s.healthz)
	s.mux.HandleFunc("GET /readyz", s.readyz)
	s.mux.HandleFunc("GET /metrics", s.serveMetrics)
	s.mux.HandleFunc("/", s.unknown)
	guard := http.NewCrossOriginProtection()
	guard.SetDenyHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		web.Problem(w, r, errs.New(errs.Denied, "this came from another site's page: the API is not for browsers"))
	}))
	return guard.Handler(s.mux)
}

// fixed answers with what write returns. It is written when somebody first asks: few do, and it takes longer than all else of New.
func (s *server) fixed(contentType string, write func() ([]byte, error)) http.Handler {
	once := sync.OnceValues(write)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := once()
		if err != nil {
			web.Problem(w, r, fmt.Errorf("writing the document of the routes: %w", err))
			return
		}
		web.Write(w, http.StatusOK, contentType, body)
	})
}

// unknown answers for everything that is no route: 405 when another method would be right (RFC 9110, section 15.5.6).
func (s *server) unknown(w http.ResponseWriter, r *http.Request) {
	var allow []string
	for _, method := range []string{http.MethodGet, http.MethodPost, http.MethodPatch} {
		probe := &http.Request{Method: method, URL: r.URL, Host: r.Host}
		if _, pattern := s.mux.Handler(probe); pattern != "" && pattern != "/" {
			allow = append(allow, method)
		}
	}
	if allow != nil && !slices.Contains(allow, r.Method) {
		w.Header().Set("Allow", strings.Join(allow, ", "))
		writeProblem(w, v1.Problem{Title: http.StatusText(http.StatusMethodNotAllowed), Status: http.StatusMethodNotAllowed,
			Detail: "this address answers only " + strings.Join(allow, ", ")})
		return
	}
	web.Problem(w, r, errs.New(errs.NotFound, "there is nothing here: /openapi.yaml lists what there is"))
}

// actor returns who sent r.
func (s *server) actor(r *http.Request) (access.Actor, error) {
	peer, ok := gate.PeerFrom(r)
	if !ok {
		return access.Actor{}, errs.New(errs.Internal, "the request came around the gate")
	}
	if local, ok := peer.Local(); ok {
		return local, nil
	}
	if len(peer.Chain()) == 0 {
		return access.Actor{}, errs.New(errs.Denied, "no client certificate was presented; present an operator's")
	}
	id, err := s.Enrol.Authenticate(r.Context(), peer.Chain())
	if err != nil {
		return access.Actor{}, err
	}
	return id.Actor("api"), nil
}

// authenticate returns who sent r, or answers and returns false. What a stranger wanted, perm, is recorded as refused.
func (s *server) authenticate(w http.ResponseWriter, r *http.Request, perm access.Permission) (access.Actor, bool) {
	actor, err := s.actor(r)
	if err == nil {
		return actor, true
	}
	if !errs.Is(err, errs.Denied) {
		web.Problem(w, r, err)
		return access.Actor{}, false
	}
	if perm != "" {
		// The refusal stands even if it cannot be recorded; then the log must have it.
		if denied := s.Access.Require(r.Context(), access.Stranger(web.Address(r), "api"), perm, "api"); errors.Unwrap(denied) != nil {
			s.Log.LogAttrs(r.Context(), slog.LevelError, "a refusal could not be recorded", slog.String("permission", string(perm)), slog.Any("cause", denied))
		}
	}
	w.Header().Set("WWW-Authenticate", `Certificate realm="mooring"`) // a 401 must name a scheme (RFC 9110, section 15.5.2); TLS has none registered
	writeProblem(w, v1.Problem{Title: http.StatusText(http.StatusUnauthorized), Status: http.StatusUnauthorized, Detail: errs.Public(err)})
	return access.Actor{}, false
}

func writeProblem(w http.ResponseWriter, p v1.Problem) {
	writeJSON(w, p.Status, "application/problem+json", p)
}

func writeJSON(w http.ResponseWriter, status int, contentType string, v any) {
	body, err := json.Marshal(v)
	if err != nil {
		panic("api: encoding an answer: " + err.Error()) // messages hold nothing that cannot be encoded
	}
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	web.Write(w, status, contentType, append(body, '\n'))
}

type actorKey struct{}

// actorOf returns what authenticate put into the context of a request on its way through huma, which hands handlers nothing else of ours.
func actorOf(ctx context.Context) access.Actor {
	actor, _ := ctx.Value(actorKey{}).(access.Actor) // the zero Actor may do nothing
	return actor
}
