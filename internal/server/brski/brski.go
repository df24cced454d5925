// Package brski serves a domain's registrar to its new devices: BRSKI (RFC 8995), on the TLS listener of EST, with which the device goes on over the same
// connection when it has its voucher. Three operations, all POST:
//
//	/.well-known/brski/requestvoucher   a signed request for a voucher, answered by the voucher, or by 202 while the manufacturer is asked
//	/.well-known/brski/voucher_status   what the device says of the voucher
//	/.well-known/brski/enrollstatus     what the device says of its enrolment
//
// The device is known by the client certificate of the handshake. It does not believe this server yet, so an answer that is no voucher says little.
//
// Codes: 200; 202 with Retry-After; 400 for what is no request; 401 where the device was shown another certificate than ours, after which the connection
// is closed (RFC 8995, section 5.2); 403 for what an administrator could change, and for wrong signatures; 404 for devices that are not ours; 406 for
// devices or vouchers that are not acceptable, and for clients that take no voucher in this form; 415 for other requests; 429 and 503 with Retry-After.
//
// It deliberately reads no Content-Transfer-Encoding, as section 6 says, and offers no list of operations.
package brski

import (
	"context"
	"errors"
	"log/slog"
	"mime"
	"net/http"
	"path"
	"strings"

	"mooring/internal/base/errs"
	"mooring/internal/base/web"
	"mooring/internal/core/enrol"
	"mooring/internal/core/registrar"
	"mooring/internal/server/gate"
	"mooring/wire/voucher"
)

// Deps is what the server stands on.
type Deps struct {
	Registrar *registrar.Service
	// Shown returns the certificates that a client may have been shown who asked for this name by SNI; none while the registrar has none.
	Shown func(ctx context.Context, serverName string) []registrar.Signer
}

type server struct{ Deps }

// maxRequest is the size of a device's request in octets over which it is not read: the registrar's holds it, in base64, and has to keep within
// voucher.MaxSize.
const maxRequest = voucher.MaxSize / 2

// operation is what one path does: the type of its requests, the size of one in octets, and the answer.
type operation struct {
	mediaType string
	most      int64
	answer    func(*server, http.ResponseWriter, *http.Request, registrar.Peer, []byte)
}

// operations are all there are. The permission of each is in core/registrar: a device that is ours.
func operations() map[string]operation {
	return map[string]operation{
		voucher.RequestVoucher: {voucher.MediaType, maxRequest, (*server).voucher},
		voucher.VoucherStatus:  {voucher.StatusType, voucher.MaxStatus, (*server).status},
		voucher.EnrollStatus:   {voucher.StatusType, voucher.MaxStatus, (*server).enrolled},
	}
}

// New returns the handler for everything below /.well-known/brski/.
func New(d Deps) http.Handler {
	s := &server{d}
	mux := http.NewServeMux()
	for name, op := range operations() {
		mux.HandleFunc(voucher.WellKnown+name, func(w http.ResponseWriter, r *http.Request) { s.serve(w, r, name, op) })
	}
	mux.HandleFunc("/", nothing)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if path.Clean(r.URL.Path) != r.URL.Path {
			nothing(w, r) // the mux would redirect
			return
		}
		mux.ServeHTTP(w, r)
	})
}

func nothing(w http.ResponseWriter, r *http.Request) {
	web.Text(w, r, errs.New(errs.NotFound, "there is no BRSKI operation of this name; there are %s, %s and %s", voucher.RequestVoucher, voucher.VoucherStatus, voucher.EnrollStatus))
}

// serve reads a request and has it answered.
func (s *server) serve(w http.ResponseWriter, r *http.Request, name string, op operation) {
	web.Annotate(r, slog.String("operation", name))
	if r.Method != http.MethodPost {
		web.MethodNotAllowed(w, http.MethodPost)
		return
	}
	peer, ok := gate.PeerFrom(r)
	if !ok {
		web.Text(w, r, errs.New(errs.Internal, "the request did not come through the TLS gate"))
		return
	}
	if got, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || got != op.mediaType {
		tell(w, r, http.StatusUnsupportedMediaType, errs.New(errs.Invalid, "the Content-Type must be %s", op.mediaType))
		return
	}
	body, err := web.ReadBody(w, r, op.most)
	if err != nil {
		web.Text(w, r, err)
		return
	}
	op.answer(s, w, r, registrar.Peer{Chain: peer.Chain(), Source: peer.Address()}, body)
}

// voucher answers RFC 8995, sections 5.2 and 5.6.
func (s *server) voucher(w http.ResponseWriter, r *http.Request, from registrar.Peer, body []byte) {
	if !accepts(r.Header.Values("Accept"), voucher.MediaType) {
		tell(w, r, http.StatusNotAcceptable, errs.New(errs.Invalid, "vouchers are of the type %s here", voucher.MediaType))
		return
	}
	peer, _ := gate.PeerFrom(r)
	answer, err := s.Registrar.Voucher(r.Context(), &registrar.Request{Peer: from, Shown: s.Shown(r.Context(), peer.ServerName()), Body: body})
	named(r, answer.Device)
	w.Header().Set("Cache-Control", "no-store")
	switch {
	case err != nil:
		refuse(w, r, err)
	case answer.Voucher == nil:
		w.Header().Set("Retry-After", web.RetryAfter(answer.Retry))
		web.Write(w, http.StatusAccepted, "", nil)
	default:
		web.Write(w, http.StatusOK, voucher.MediaType, answer.Voucher)
	}
}

// status answers RFC 8995, section 5.7.
func (s *server) status(w http.ResponseWriter, r *http.Request, from registrar.Peer, body []byte) {
	told, err := s.Registrar.Status(r.Context(), from, body)
	heard(w, r, told, err)
}

// enrolled answers RFC 8995, section 5.9.4.
func (s *server) enrolled(w http.ResponseWriter, r *http.Request, from registrar.Peer, body []byte) {
	told, err := s.Registrar.Enrolled(r.Context(), from, body)
	heard(w, r, told, err)
}

func heard(w http.ResponseWriter, r *http.Request, told registrar.Told, err error) {
	named(r, told.Device)
	if err != nil {
		refuse(w, r, err)
		return
	}
	web.Annotate(r, slog.Bool("ok", told.OK))
	if told.Reason != "" {
		web.Annotate(r, slog.String("reason", told.Reason))
	}
	web.Write(w, http.StatusOK, "", nil)
}

// named names the device in the request's log line.
func named(r *http.Request, device string) {
	if device != "" {
		web.Annotate(r, slog.String("device", device))
	}
}

// refuse answers with err in BRSKI's codes.
func refuse(w http.ResponseWriter, r *http.Request, err error) {
	web.Annotate(r, slog.String("reason", enrol.Reason(err)))
	switch {
	case errors.Is(err, registrar.ErrProximity):
		w.Header().Set("Connection", "close")                           // over HTTP/2 it ends the connection as well
		w.Header().Set("WWW-Authenticate", `Certificate realm="brski"`) // a 401 must name a scheme; TLS has none registered
		tell(w, r, http.StatusUnauthorized, err)
	case errs.Is(err, errs.Conflict):
		tell(w, r, http.StatusNotAcceptable, err)
	default:
		web.Text(w, r, err)
	}
}

// tell answers with the public text of err and a code of its own.
func tell(w http.ResponseWriter, r *http.Request, status int, err error) {
	web.Note(r, err)
	h := w.Header()
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	web.Write(w, status, "text/plain; charset=utf-8", []byte(errs.Public(err)+"\n"))
}

// accepts reports whether a client takes answers of a type (RFC 9110, section 12.5.1). One that does not say takes all.
func accepts(fields []string, mediaType string) bool {
	if len(fields) == 0 {
		return true
	}
	kind, _, _ := strings.Cut(mediaType, "/")
	for part := range strings.SplitSeq(strings.Join(fields, ","), ",") {
		got, params, err := mime.ParseMediaType(part)
		if err != nil || strings.Trim(params["q"], "0.") == "" && params["q"] != "" {
			continue // not readable, or weighed with nothing
		}
		if got == mediaType || got == "*/*" || got == kind+"/*" {
			return true
		}
	}
	return false
}
