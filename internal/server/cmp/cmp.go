// Package cmp serves the Certificate Management Protocol: the Lightweight CMP Profile (RFC 9483) of RFC 9810, over HTTP (RFC 9811) and, where the platform
// serves EST over CoAP as well, over CoAP (RFC 9482).
//
// It reads messages, checks their headers and protection, and renders answers; every decision is core/enrol's. Messages protect themselves, so the
// listener is plain HTTP. Who asks shows itself by a signature with a certificate, as in TLS, or by a message authentication code made with the
// device's one-time token; then the senderKID is the device's name. Registration authorities hold a certificate with cmcRA.
//
// /.well-known/cmp follows the device's own profile, /.well-known/cmp/p/PROFILE names it, and so does a certProfile in the header. The name of an
// operation may follow; the message itself says what it is. POST by HTTP/1.0 and 1.1.
//
// Answers are protected as the request was: by a MAC with the same secret, or by the signature of the platform's own server certificate. Errors are
// CMP messages with status 200 wherever the request can be read as HTTP.
//
// What must outlast a process, a certificate that waits for its confirmation, core/enrol keeps in the database, so that a certConf can go to any
// node. The rest of an open exchange (the last nonce, the kind of protection, a request that is polled for) is in the memory of one node, bounded
// and for a time. Another node takes a certConf without it, after checking protection, transaction and hash; it knows no pollReq, which then is
// refused with the advice to send the request again: that leads to the same request, and to the same certificate.
//
// The server deliberately makes no announcements, and encrypts keys that it makes to the certificate that asked and to nothing else.
package cmp

import (
	"context"
	"crypto"
	"crypto/x509"
	"log/slog"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"mooring/internal/base/errs"
	"mooring/internal/base/web"
	"mooring/internal/core/ca"
	"mooring/internal/core/enrol"
	"mooring/internal/core/revoke"
	"mooring/wire/cmp"
)

// Deps is what the server stands on.
type Deps struct {
	Enrol  *enrol.Service
	CA     *ca.Authority
	Revoke *revoke.Service
	// Secret returns the token of a device (device.Registry.TokenSecret).
	Secret func(ctx context.Context, name string) (string, error)
	// Identity returns the key and certificate with which answers are signed, and the certificates above it but for the root; no key while there
	// is none.
	Identity func() (key crypto.Signer, leaf *x509.Certificate, above [][]byte)
	// Body is the largest message in octets that is read; 0 means cmp.MaxSize.
	Body int64
	Now  func() time.Time
}

type server struct {
	Deps
	open   *transactions
	turns  *turns
	expect func() (done func()) // Enrol.Expect
}

// Server answers CMP messages: ServeHTTP over HTTP, CoAP over CoAP. Both share the open exchanges.
type Server struct {
	*server
	mux *http.ServeMux
}

// ServeHTTP answers requests below /.well-known/cmp.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.mux.ServeHTTP(w, r) }

// New returns the server.
func New(d Deps) *Server {
	if d.Body == 0 {
		d.Body = cmp.MaxSize
	}
	s := &server{Deps: d, open: newTransactions(d.Now), turns: newTurns(), expect: d.Enrol.Expect}
	mux := http.NewServeMux()
	for _, path := range []string{"", "/{$}", "/{operation}", "/p/{profile}", "/p/{profile}/{$}", "/p/{profile}/{operation}"} {
		mux.HandleFunc(cmp.WellKnown+path, s.serve)
	}
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		web.Text(w, r, errs.New(errs.NotFound, "there is nothing here; CMP is served at %s and %s/p/PROFILE", cmp.WellKnown, cmp.WellKnown))
	})
	return &Server{s, mux}
}

// serve answers one message (RFC 9811, section 3).
func (s *server) serve(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodPost {
		web.MethodNotAllowed(w, http.MethodPost)
		return
	}
	x := &exchange{server: s, ctx: r.Context(), source: web.Address(r), label: r.PathValue("profile"), note: func(a ...slog.Attr) { web.Annotate(r, a...) }}
	if t, _, _ := strings.Cut(r.Header.Get("Content-Type"), ";"); !strings.EqualFold(strings.TrimSpace(t), cmp.MediaType) {
		const reason = "the Content-Type must be " + cmp.MediaType
		s.Enrol.Refuse(r.Context(), x.request(), errs.New(errs.Invalid, reason))
		web.Write(w, http.StatusUnsupportedMediaType, "text/plain; charset=utf-8", []byte(reason+"\n"))
		return
	}
	in, err := web.ReadBody(w, r, s.Body)
	if err != nil {
		s.Enrol.Refuse(r.Context(), x.request(), err)
		web.Text(w, r, err)
		return
	}
	out, err := x.answer(in)
	if err != nil {
		web.Text(w, r, err)
		return
	}
	w.Header().Set("Cache-Control", "no-store")
	web.Write(w, http.StatusOK, cmp.MediaType, out)
}

// exchange is one message that is being answered.
type exchange struct {
	*server
	ctx    context.Context
	source netip.Addr
	label  string // the profile that path or header name; "" = the device's own
	note   func(...slog.Attr)

	m       *cmp.Message
	by      *sender
	t       *transaction // that the message belongs to, once it is found
	fresh   bool         // the message began it
	inner   bool         // the message came in a nested one
	listed  int64        // octets of the revocation lists in the answer
	refusal error        // with which it was answered
}

// request returns what core is told of whoever sent the message.
func (x *exchange) request() enrol.Request {
	r := enrol.Request{Protocol: "cmp", Op: enrol.Enrol, Profile: x.label, Source: x.source}
	switch {
	case x.by == nil:
	case x.by.mac != nil:
		r.Basic, r.User, r.Secret = true, x.by.name, string(x.by.mac.Secret)
	default:
		r.Chain = x.by.chain
	}
	return r
}

// answer reads and answers a message. Only what keeps every message from being answered is an error.
func (x *exchange) answer(in []byte) ([]byte, error) {
	m, err := cmp.Parse(in)
	if err != nil {
		refusal := refuse(cmp.BadDataFormat, "the message cannot be read: %v", err)
		x.Enrol.Refuse(x.ctx, x.request(), refusal)
		x.m = &cmp.Message{Header: cmp.Header{Version: 2, Sender: []byte(cmp.Empty)}}
		return x.fail(refusal)
	}
	x.m = m
	x.note(slog.String("operation", m.Body.Kind().String()))
	for _, step := range []func() error{x.checkHeader, x.checkProtection, x.checkProfile} {
		if err := step(); err != nil {
			x.Enrol.Refuse(x.ctx, x.request(), err)
			return x.fail(err)
		}
	}
	if !x.inner {
		defer x.expect()() // not before: everybody's batch would wait for forged messages
	}
	t, err := x.begin()
	if err != nil {
		x.Enrol.Refuse(x.ctx, x.request(), err)
		return x.fail(err)
	}
	defer x.open.release(t)
	x.t = t
	out, err := x.handle(t)
	x.keep(t, err)
	return out, err
}

// handle does what the message asks for.
func (x *exchange) handle(t *transaction) ([]byte, error) {
	switch body := x.m.Body.(type) {
	case *cmp.Requests:
		return x.certRequest(t, body)
	case cmp.PKCS10:
		return x.pkcs10(t, body)
	case cmp.Confirmation:
		return x.confirmation(t, body)
	case cmp.Poll:
		return x.poll(t, body)
	case cmp.Revocations:
		return x.revocation(t, body)
	case *cmp.General:
		if body.As == cmp.GenM {
			return x.general(t, body)
		}
	case cmp.Messages:
		return x.nested(t, body)
	case *cmp.Failed: // the client gives up (RFC 9483, section 3.6.4)
		t.finish()
		return x.reply(cmp.Confirmed{}, nil, nil)
	}
	return x.refused(refuse(cmp.BadRequest, "a %s is not for a server", x.m.Body.Kind()))
}

// refused records a refusal of the server's own and answers it.
func (x *exchange) refused(err error) ([]byte, error) {
	x.Enrol.Refuse(x.ctx, x.request(), err)
	return x.fail(err)
}

// nested answers the messages that a registration authority passes on (RFC 9483, section 5.2.2): one as if it had come by itself, several in one
// nested answer. That the authority passes a message on proves nothing of what is in it: each inner message is judged by its own protection.
func (x *exchange) nested(t *transaction, list cmp.Messages) ([]byte, error) {
	if x.inner {
		return x.refused(refuse(cmp.BadRequest, "a nested message in a nested message"))
	}
	if x.by.mac != nil {
		return x.refused(refuse(cmp.NotAuthorized, "a nested message is protected by the signature of a registration authority"))
	}
	id, err := x.Enrol.Authority(x.ctx, [][]byte{x.by.leaf.Raw})
	if err != nil {
		return x.refused(err)
	}
	x.note(slog.String("device", id.Device.ID.String()))
	t.finish()
	var answers cmp.Messages
	for _, in := range list {
		inner := &exchange{server: x.server, ctx: x.ctx, source: x.source, label: x.label, note: func(...slog.Attr) {}, inner: true}
		out, err := inner.answer(in)
		if err != nil {
			return nil, err
		}
		answers = append(answers, out)
	}
	if len(answers) == 1 {
		return answers[0], nil
	}
	return x.reply(answers, nil, nil)
}
