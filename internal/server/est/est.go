// Package est serves Enrolment over Secure Transport: RFC 7030 as updated by RFC 8951 and RFC 9908, over the TLS listener of package gate.
//
// It parses, authenticates by what the handshake or the Basic credentials proved, and renders; every decision is core/enrol's. Labels select
// profiles: /.well-known/est/OPERATION follows the device's own profile, /.well-known/est/PROFILE/OPERATION names it.
//
// It is strict in content and generous in transport. Answers are what the clients in the field can read: base64 in lines of 64 characters
// ended by LF, an exact Content-Length, never chunked, the media types to the letter, and no body with 401. Requests may have any or no
// Content-Transfer-Encoding (RFC 8951, section 3), base64 with any white space or none, and PEM armour.
//
// It deliberately offers no full CMC, no Digest authentication, and never redirects.
package est

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"path"
	"strings"

	"mooring/internal/base/errs"
	"mooring/internal/base/web"
	"mooring/internal/core/ca"
	"mooring/internal/core/campaign"
	"mooring/internal/core/enrol"
	"mooring/internal/server/est/body"
	"mooring/internal/server/gate"
	"mooring/wire/cms"
	"mooring/wire/est"
)

// AnchorsHeader is how a device says which roots it trusts: the SHA-256 of their certificates in hex, parted by commas. It is ours; servers that do
// not know it pass over it.
const AnchorsHeader = "Mooring-Anchors"

// Deps is what the server stands on.
type Deps struct {
	Enrol *enrol.Service
	// Campaigns tells devices when to renew; nil: they are not told.
	Campaigns *campaign.Service
	Identity  body.Identity
	// Body is the largest request body in octets that is read; 0 means est.MaxRequest.
	Body int64
	// Anchor returns the root that a client trusts who completed a handshake under a server name, and false when several would do; nil: not known.
	Anchor func(serverName string) (root ca.IssuerID, only bool)
}

// server answers EST requests.
type server struct {
	Deps
	anchors body.Anchors
	posts   map[est.Operation]enrol.Op
}

// New returns the handler for everything below /.well-known/est/.
func New(d Deps) http.Handler {
	if d.Body == 0 {
		d.Body = est.MaxRequest
	}
	s := &server{Deps: d, anchors: body.Anchors{Enrol: d.Enrol, Shown: d.Anchor}, posts: map[est.Operation]enrol.Op{est.SimpleEnroll: enrol.Enrol, est.SimpleReenroll: enrol.Renew, est.ServerKeygen: enrol.Generate}}
	mux := http.NewServeMux()
	mux.HandleFunc(est.WellKnown+"{operation}", s.route)
	mux.HandleFunc(est.WellKnown+"{label}/{operation}", s.route)
	if d.Campaigns != nil {
		mux.HandleFunc(est.RenewalPath, s.renewal)
	}
	mux.HandleFunc("/", nothing)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if clean := path.Clean(r.URL.Path); clean != r.URL.Path && clean+"/" != r.URL.Path {
			nothing(w, r) // the mux would redirect
			return
		}
		mux.ServeHTTP(w, r)
	})
}

func nothing(w http.ResponseWriter, r *http.Request) {
	web.Text(w, r, errs.New(errs.NotFound, "there is nothing here; EST is served below %s", est.WellKnown))
}

// route finds the operation. Each has one method.
func (s *server) route(w http.ResponseWriter, r *http.Request) {
	label, op := r.PathValue("label"), est.Operation(r.PathValue("operation"))
	s.annotate(r, label, op)
	switch op {
	case est.CACerts:
		s.get(w, r, func() error { return s.caCerts(w, r, label) })
	case est.CSRAttributes:
		s.get(w, r, func() error { return s.attributes(w, r, label) })
	case est.SimpleEnroll, est.SimpleReenroll, est.ServerKeygen:
		if r.Method != http.MethodPost {
			web.MethodNotAllowed(w, http.MethodPost)
			return
		}
		s.enrol(w, r, label, op)
	case est.FullCMC:
		if r.Method != http.MethodPost {
			web.MethodNotAllowed(w, http.MethodPost)
			return
		}
		web.Write(w, http.StatusNotImplemented, est.TypeReason, []byte("full CMC is not offered here; use simpleenroll\n"))
	default:
		web.Text(w, r, errs.New(errs.NotFound, "there is no EST operation of this name"))
	}
}

// annotate names the operation and the profile in the request's log line, as far as they are ours: strangers may invent others.
func (s *server) annotate(r *http.Request, label string, op est.Operation) {
	switch op {
	case est.CACerts, est.CSRAttributes, est.SimpleEnroll, est.SimpleReenroll, est.ServerKeygen, est.FullCMC:
		web.Annotate(r, slog.String("operation", string(op)))
	}
	if label == "" {
		return
	}
	if p, err := s.Enrol.Profile(label); err == nil {
		web.Annotate(r, slog.String("profile", p.Name))
	}
}

// refuse answers with err and has the log say why, as the record does.
func (s *server) refuse(w http.ResponseWriter, r *http.Request, err error) {
	web.Annotate(r, slog.String("reason", enrol.Reason(err)))
	web.Text(w, r, err)
}

func (s *server) get(w http.ResponseWriter, r *http.Request, answer func() error) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		web.MethodNotAllowed(w, http.MethodGet, http.MethodHead)
		return
	}
	if err := answer(); err != nil {
		s.refuse(w, r, err)
	}
}

// caCerts answers RFC 7030, section 4.1. No authentication: the certificates are public, and a device asks before it trusts anybody.
func (s *server) caCerts(w http.ResponseWriter, r *http.Request, label string) error {
	anchors, err := s.Enrol.Anchors(label)
	if err != nil {
		return err
	}
	der, err := cms.CertsOnly(anchors)
	if err != nil {
		return fmt.Errorf("encoding the CA certificates: %w", err)
	}
	if peer, ok := gate.PeerFrom(r); ok {
		s.anchors.Delivered(r.Context(), peer, label, r.Header.Get(AnchorsHeader))
	}
	sum := sha256.Sum256(der)
	tag := `"` + hex.EncodeToString(sum[:8]) + `"`
	w.Header().Set("ETag", tag)
	w.Header().Set("Cache-Control", "public, max-age=3600")
	if r.Header.Get("If-None-Match") == tag {
		w.WriteHeader(http.StatusNotModified)
		return nil
	}
	render(w, est.TypeCACerts, der, s.unwrapped(label))
	return nil
}

func (s *server) unwrapped(label string) bool {
	p, err := s.Enrol.Profile(label)
	return err == nil && p.Unwrapped
}

// attributes answers RFC 7030, section 4.5, with the template of RFC 9908 beside the older list.
func (s *server) attributes(w http.ResponseWriter, _ *http.Request, label string) error {
	p, err := s.Enrol.Profile(label)
	if err != nil {
		return err
	}
	der, err := body.Attributes(p)
	if err != nil {
		return fmt.Errorf("encoding the CSR attributes of %s: %w", p.Name, err)
	}
	render(w, est.TypeCSRAttrs, der, p.Unwrapped)
	return nil
}

// render writes DER as every client can read it. See the package comment.
func render(w http.ResponseWriter, mediaType string, der []byte, unwrapped bool) {
	w.Header().Set("Content-Transfer-Encoding", "base64")
	body := est.EncodeBase64(der)
	if unwrapped {
		body = est.EncodeBase64Line(der)
	}
	web.Write(w, http.StatusOK, mediaType, body)
}

// enrol answers the three operations that lead to a certificate.
func (s *server) enrol(w http.ResponseWriter, r *http.Request, label string, op est.Operation) {
	if label != "" {
		if _, err := s.Enrol.Profile(label); err != nil {
			s.refuse(w, r, err)
			return
		}
	}
	req := enrol.Request{Protocol: "est", Op: s.posts[op], Profile: label}
	peer, ok := gate.PeerFrom(r)
	if !ok {
		web.Text(w, r, errs.New(errs.Internal, "the request did not come through the TLS gate"))
		return
	}
	req.Chain, req.Bound, req.Source = peer.Chain(), body.Bound(peer), peer.Address()
	req.User, req.Secret, req.Basic = r.BasicAuth()
	if status, text := contentType(r); status != 0 {
		s.Enrol.Refuse(r.Context(), req, errs.New(errs.Invalid, "%s", text))
		web.Annotate(r, slog.String("refused", errs.Invalid.String()), slog.String("reason", text))
		web.Write(w, status, est.TypeReason, []byte(text+"\n"))
		return
	}
	var err error
	if req.CSR, err = s.body(w, r); err != nil {
		s.Enrol.Refuse(r.Context(), req, err)
		s.refuse(w, r, err)
		return
	}
	if op == est.ServerKeygen {
		s.keygen(w, r, req, peer)
		return
	}
	body.Vouch(&req, peer.Leaf())
	answer, err := s.submit(r, req, peer)
	if done := s.settled(w, r, answer, err); done {
		return
	}
	// Only the issued certificate; the chain is for cacerts (RFC 7030, section 4.2.3).
	der, err := cms.CertsOnly([][]byte{answer.Certificate.DER})
	if err != nil {
		web.Text(w, r, fmt.Errorf("encoding the certificate: %w", err))
		return
	}
	render(w, est.TypeCertsOnly, der, answer.Profile.Unwrapped)
}

// submit asks core, and notes what the connection shows about the roots that the device trusts. An authority's connection shows nothing about it.
func (s *server) submit(r *http.Request, req enrol.Request, peer *gate.Peer) (enrol.Answer, error) {
	defer s.Enrol.Expect()() // not before: everybody's batch would wait for one whose body does not come
	answer, err := s.Enrol.Submit(r.Context(), req)
	if err == nil && req.Vouch == nil {
		s.anchors.Trusts(peer, answer.Device, r.Header.Get(AnchorsHeader))
	}
	return answer, err
}

// body reads the request's DER.
func (s *server) body(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	text, err := web.ReadBody(w, r, s.Body)
	if err != nil {
		return nil, err
	}
	der, err := est.DecodeBase64(text)
	if err != nil {
		return nil, errs.New(errs.Invalid, "the body is not the base64 of a PKCS#10 request: %v", err)
	}
	return der, nil
}

// contentType requires application/pkcs10; parameters are ignored.
func contentType(r *http.Request) (status int, text string) {
	switch t := r.Header.Get("Content-Type"); {
	case t == "":
		return http.StatusBadRequest, "the Content-Type is missing; it must be " + est.TypeRequest
	case est.MediaType(t) != est.TypeRequest:
		return http.StatusUnsupportedMediaType, "the Content-Type must be " + est.TypeRequest
	}
	return 0, ""
}

// settled answers what did not lead to a certificate and reports whether it did so.
func (s *server) settled(w http.ResponseWriter, r *http.Request, a enrol.Answer, err error) bool {
	if a.Device != "" {
		web.Annotate(r, slog.String("device", a.Device))
	}
	switch {
	case err != nil && errors.Is(err, enrol.ErrUnauthenticated):
		web.Annotate(r, slog.String("refused", "unauthenticated"), slog.String("reason", enrol.Reason(err)))
		// No body: one client of the field fails on it. The reason goes where the others ignore it.
		w.Header().Set("WWW-Authenticate", `Basic realm="est", charset="UTF-8", error_description="`+quotable(errs.Public(err))+`"`)
		web.Write(w, http.StatusUnauthorized, "", nil)
	case err != nil:
		s.refuse(w, r, err)
	case a.Pending > 0:
		// RFC 7030, section 4.2.3: the client repeats the same request. Seconds, since clients read them more reliably than dates.
		w.Header().Set("Retry-After", web.RetryAfter(a.Pending))
		web.Write(w, http.StatusAccepted, "", nil)
	default:
		return false
	}
	return true
}

// quotable makes text fit for a quoted-string (RFC 9110, section 5.6.4).
func quotable(text string) string {
	return strings.Map(func(c rune) rune {
		if c == '"' || c == '\\' {
			return '\''
		}
		if c < ' ' || c > '~' {
			return '?'
		}
		return c
	}, text)
}

// keygen answers RFC 7030, section 4.4. How the key is to be protected is settled before anything is issued.
func (s *server) keygen(w http.ResponseWriter, r *http.Request, req enrol.Request, peer *gate.Peer) {
	to, err := body.Recipient(req.CSR, peer.Leaf())
	if err != nil {
		s.Enrol.Refuse(r.Context(), req, err)
		s.refuse(w, r, err)
		return
	}
	answer, err := s.submit(r, req, peer)
	if done := s.settled(w, r, answer, err); done {
		return
	}
	defer clear(answer.Key)
	parts, mediaType, err := s.keyAnswer(&answer, to)
	if err != nil {
		web.Text(w, r, fmt.Errorf("encoding a generated key: %w", err))
		return
	}
	defer clear(parts)
	w.Header().Set("Cache-Control", "no-store")
	web.Write(w, http.StatusOK, mediaType, parts)
}

func (s *server) keyAnswer(a *enrol.Answer, to *body.Sealing) (parts []byte, mediaType string, err error) {
	k := est.Keygen{KeyType: est.TypePlainKey, Key: a.Key}
	if k.Certificates, err = cms.CertsOnly([][]byte{a.Certificate.DER}); err != nil {
		return nil, "", err
	}
	if to != nil {
		k.KeyType = est.TypeSealedKey
		k.Key, err = to.Seal(a.Key, s.Identity)
		if err != nil {
			return nil, "", err
		}
	}
	return est.BuildKeygen(k, "est-"+rand.Text())
}
