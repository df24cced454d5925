// Package estcoap serves Enrolment over Secure Transport to constrained devices: RFC 9148, EST over CoAP and the DTLS listener of package gate.
//
// It parses, authenticates by the certificate that the handshake proved, and renders; every decision is core/enrol's, as in package est. Bodies are DER
// without base64, and may come and go in blocks, of which package coap makes whole ones before anything here sees them. Resources have short names:
//
//	crts  GET   the CA certificates            281 (certs-only), 287 (one certificate)
//	sen   POST  enrolment                      286 in; 281 or 287 out
//	sren  POST  renewal                        the same
//	skg   POST  enrolment with a key of ours   286 in; 62: the key as 284 or 280, the certificate as 281
//	skc   POST  the same                       the certificate as 287
//	att   GET   what a request should have     285
//
// They stand below /est and /.well-known/est, after a label that names a profile or without one. /.well-known/core tells of them (RFC 6690).
//
// Every request needs a client certificate (RFC 9148, section 3), also for crts; there are no tokens and no passwords. It deliberately has no full CMC
// and no proxy to HTTPS.
package estcoap

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"mooring/internal/base/coap"
	"mooring/internal/base/errs"
	"mooring/internal/core/ca"
	"mooring/internal/core/enrol"
	"mooring/internal/server/est/body"
	"mooring/internal/server/gate"
	"mooring/wire/cms"
	wire "mooring/wire/coap"
)

// Protocol is the name of this protocol in the record.
const Protocol = "est-coaps"

// Deps is what the server stands on.
type Deps struct {
	Enrol    *enrol.Service
	Identity body.Identity
	// Anchor returns the root that a client trusts who completed a handshake under a server name, and false when several would do; nil: not known.
	Anchor func(serverName string) (root ca.IssuerID, only bool)
}

// Server answers EST requests over CoAP.
type Server struct {
	Deps
	anchors    body.Anchors
	operations map[string]operation
}

// operation is a resource.
type operation struct {
	name    string // in paths
	method  wire.Code
	formats []wire.Format // of the answer; the first is for clients that name none
	submit  enrol.Op      // 0: nothing is asked of core
	answer  func(*exchange) coap.Response
}

// New returns the server.
func New(d Deps) *Server {
	s := &Server{Deps: d, anchors: body.Anchors{Enrol: d.Enrol, Shown: d.Anchor}, operations: map[string]operation{}}
	certificate := []wire.Format{wire.PKCS7CertsOnly, wire.PKIXCert}
	for _, o := range []operation{
		{"crts", wire.GET, certificate, 0, s.caCerts},
		{"att", wire.GET, []wire.Format{wire.CSRAttrs}, 0, s.attributes},
		{"sen", wire.POST, certificate, enrol.Enrol, s.enrol},
		{"sren", wire.POST, certificate, enrol.Renew, s.enrol},
		{"skg", wire.POST, []wire.Format{wire.MultipartCore}, enrol.Generate, s.keygen},
		{"skc", wire.POST, []wire.Format{wire.MultipartCore}, enrol.Generate, s.keygen},
	} {
		s.operations[o.name] = o
	}
	return s
}

// exchange is one request on its way.
type exchange struct {
	*coap.Request
	ctx    context.Context
	peer   *gate.Peer
	op     operation
	label  string
	format wire.Format // of the answer
	attrs  []slog.Attr
}

// For returns what answers the requests of a client.
func (s *Server) For(peer *gate.Peer) coap.Handler {
	return coap.Handler{
		Answer: func(ctx context.Context, r *coap.Request) coap.Response { return s.answer(ctx, peer, r) },
		Refused: func(ctx context.Context, path string, err error) {
			if label, op, ok := s.resource(path); ok && op.submit != 0 {
				s.Enrol.Refuse(ctx, (&exchange{peer: peer, op: op, label: label}).submission(nil), err)
			}
		},
	}
}

func (s *Server) answer(ctx context.Context, peer *gate.Peer, r *coap.Request) coap.Response {
	if r.Path == "/.well-known/core" {
		return s.discover(r)
	}
	label, op, ok := s.resource(r.Path)
	if !ok {
		return coap.Refuse(errs.New(errs.NotFound, "there is nothing here; GET /.well-known/core?rt=ace.est* tells what there is"))
	}
	x := &exchange{Request: r, ctx: ctx, peer: peer, op: op, label: label, format: op.formats[0]}
	x.attrs = append(x.attrs, slog.String("operation", op.name))
	out := s.operate(x)
	out.Route, out.Attrs = op.name, x.attrs
	return out
}

// resource finds the operation at a path, and the label before it.
func (s *Server) resource(path string) (label string, op operation, ok bool) {
	rest, below := strings.CutPrefix(path, "/.well-known/est/")
	if !below {
		if rest, below = strings.CutPrefix(path, "/est/"); !below {
			return "", op, false
		}
	}
	name := rest
	if before, after, labelled := strings.Cut(rest, "/"); labelled {
		if _, taken := s.operations[before]; taken || before == "" {
			return "", op, false
		}
		label, name = before, after
	}
	op, ok = s.operations[name]
	return label, op, ok
}

// operate checks what is the same for all operations, and answers.
func (s *Server) operate(x *exchange) coap.Response {
	if x.Code != x.op.method {
		return coap.RefuseAs(wire.MethodNotAllowed, "this resource answers only "+map[wire.Code]string{wire.GET: "GET", wire.POST: "POST"}[x.op.method])
	}
	if x.label != "" {
		p, err := s.Enrol.Profile(x.label)
		if err != nil {
			return x.refuse(err)
		}
		x.attrs = append(x.attrs, slog.String("profile", p.Name))
	}
	if want, asked := x.Options.Uint(wire.Accept); asked {
		if !slices.Contains(x.op.formats, wire.Format(want)) {
			return s.mistaken(x, wire.NotAcceptable, fmt.Sprintf("the content format %d is not offered here; %s is", want, list(x.op.formats)))
		}
		x.format = wire.Format(want)
	}
	if x.op.submit != 0 {
		if have, said := x.Options.Uint(wire.ContentFormat); !said || wire.Format(have) != wire.PKCS10 {
			return s.mistaken(x, wire.UnsupportedFormat, fmt.Sprintf("the content format must be %d, a PKCS#10 request", wire.PKCS10))
		}
	}
	return x.op.answer(x)
}

func list(formats []wire.Format) string {
	text := make([]string, len(formats))
	for i, f := range formats {
		text[i] = fmt.Sprint(uint32(f))
	}
	return strings.Join(text, " or ")
}

// mistaken refuses what is wrong with the form of a request.
func (s *Server) mistaken(x *exchange, code wire.Code, reason string) coap.Response {
	out := coap.RefuseAs(code, reason)
	if x.op.submit != 0 {
		s.Enrol.Refuse(x.ctx, x.submission(nil), out.Err)
	}
	x.attrs = append(x.attrs, slog.String("reason", reason))
	return out
}

// refuse answers with err and has the log say why, as the record does.
func (x *exchange) refuse(err error) coap.Response {
	x.attrs = append(x.attrs, slog.String("reason", enrol.Reason(err)))
	out := coap.Refuse(err)
	if errors.Is(err, enrol.ErrUnauthenticated) {
		out.Code = wire.Unauthorized
	}
	return out
}

// submission is the request as core sees it.
func (x *exchange) submission(csr []byte) enrol.Request {
	return enrol.Request{Protocol: Protocol, Op: x.op.submit, Profile: x.label, Chain: x.peer.Chain(), Bound: body.Bound(x.peer), Source: x.peer.Address(), CSR: csr}
}

// discover answers RFC 9148, section 4.1: the resources under the short root, filtered by the queries.
func (s *Server) discover(r *coap.Request) coap.Response {
	if r.Code != wire.GET {
		return coap.RefuseAs(wire.MethodNotAllowed, "this resource answers only GET")
	}
	if want, asked := r.Options.Uint(wire.Accept); asked && wire.Format(want) != wire.LinkFormat {
		return coap.RefuseAs(wire.NotAcceptable, "only the link format, 40, is offered here")
	}
	var links []wire.Link
	for _, name := range []string{"crts", "sen", "sren", "att", "skg", "skc"} {
		formats := strings.ReplaceAll(list(s.operations[name].formats), " or ", " ")
		links = append(links, wire.Link{Target: "/est/" + name, Attributes: []wire.Attribute{{Name: "rt", Value: "ace.est." + name}, {Name: "ct", Value: formats}}})
	}
	for _, query := range r.Options.Queries() {
		links = wire.FilterLinks(links, query)
	}
	return coap.Response{Code: wire.Content, Format: wire.LinkFormat, Body: wire.AppendLinks(nil, links), Route: "core"}
}

// caCerts answers RFC 9148, section 4.3, for /crts.
func (s *Server) caCerts(x *exchange) coap.Response {
	anchors, err := s.Enrol.Anchors(x.label)
	if err != nil {
		return x.refuse(err)
	}
	out := coap.Response{Code: wire.Content, Format: x.format, MaxAge: time.Hour}
	switch {
	case x.format == wire.PKCS7CertsOnly:
		if out.Body, err = cms.CertsOnly(anchors); err != nil {
			return x.refuse(fmt.Errorf("encoding the CA certificates: %w", err))
		}
	case len(anchors) == 1:
		out.Body = anchors[0]
	default:
		return s.mistaken(x, wire.NotAcceptable, fmt.Sprintf("there are %d CA certificates, which the content format 287 cannot hold; 281 can", len(anchors)))
	}
	s.anchors.Delivered(x.ctx, x.peer, x.label, "")
	return out
}

// attributes answers /att.
func (s *Server) attributes(x *exchange) coap.Response {
	p, err := s.Enrol.Profile(x.label)
	if err != nil {
		return x.refuse(err)
	}
	der, err := body.Attributes(p)
	if err != nil {
		return x.refuse(fmt.Errorf("encoding the CSR attributes of %s: %w", p.Name, err))
	}
	return coap.Response{Code: wire.Content, Format: wire.CSRAttrs, Body: der}
}

// submit asks core. done is the answer when there is no certificate.
func (s *Server) submit(x *exchange) (answer enrol.Answer, done *coap.Response) {
	defer s.Enrol.Expect()()
	req := x.submission(x.Body)
	body.Vouch(&req, x.peer.Leaf())
	answer, err := s.Enrol.Submit(x.ctx, req)
	if answer.Device != "" {
		x.attrs = append(x.attrs, slog.String("device", answer.Device))
	}
	if err != nil {
		out := x.refuse(err)
		return answer, &out
	}
	if req.Vouch == nil { // an authority's association shows nothing about the device
		s.anchors.Trusts(x.peer, answer.Device, "")
	}
	if answer.Pending > 0 {
		// RFC 9148, section 4.7: the client sends the very same request again after that time.
		out := coap.RefuseAs(wire.ServiceUnavailable, "an operator must approve this request; send it again later")
		out.MaxAge, out.Err = answer.Pending, nil
		return answer, &out
	}
	return answer, nil
}

// enrol answers /sen and /sren.
func (s *Server) enrol(x *exchange) coap.Response {
	answer, done := s.submit(x)
	if done != nil {
		return *done
	}
	cert, err := certificate(answer.Certificate.DER, x.format)
	if err != nil {
		return x.refuse(err)
	}
	return coap.Response{Code: wire.Changed, Format: x.format, Body: cert}
}

// certificate encodes the issued certificate, and it alone: the chain is for crts.
func certificate(der []byte, format wire.Format) ([]byte, error) {
	if format == wire.PKIXCert {
		return der, nil
	}
	out, err := cms.CertsOnly([][]byte{der})
	if err != nil {
		return nil, fmt.Errorf("encoding the certificate: %w", err)
	}
	return out, nil
}

// keygen answers /skg and /skc (RFC 9148, section 4.8). How the key is to be protected is settled before anything is issued.
func (s *Server) keygen(x *exchange) coap.Response {
	to, err := body.Recipient(x.Body, x.peer.Leaf())
	if err != nil {
		s.Enrol.Refuse(x.ctx, x.submission(x.Body), err)
		return x.refuse(err)
	}
	answer, done := s.submit(x)
	if done != nil {
		return *done
	}
	key := wire.Part{Format: wire.PKCS8, Body: answer.Key}
	defer clear(answer.Key)
	if to != nil {
		key.Format = wire.PKCS7Enveloped
		if key.Body, err = to.Seal(answer.Key, s.Identity); err != nil {
			return x.refuse(fmt.Errorf("encrypting a generated key: %w", err))
		}
	}
	cert := wire.Part{Format: wire.PKCS7CertsOnly}
	if x.op.name == "skc" {
		cert.Format = wire.PKIXCert
	}
	if cert.Body, err = certificate(answer.Certificate.DER, cert.Format); err != nil {
		return x.refuse(err)
	}
	return coap.Response{Code: wire.Changed, Format: wire.MultipartCore, Body: wire.AppendMultipart(nil, key, cert)}
}
