// Package masa serves the manufacturer's side of BRSKI (RFC 8995, sections 5.4 to 5.8) to the registrars of domains, over a TLS listener of package gate:
// POST /.well-known/brski/requestvoucher and POST /.well-known/brski/requestauditlog.
//
// A registrar shows itself by a client certificate, and signs its requests besides. It parses and renders; every decision is core/masa's. Vouchers are JSON in
// CMS and nothing else: other media types are refused with 415, and a registrar that accepts no such answer gets 406.
package masa

import (
	"crypto/x509"
	"errors"
	"log/slog"
	"mime"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"mooring/internal/base/errs"
	"mooring/internal/base/web"
	"mooring/internal/core/access"
	"mooring/internal/core/masa"
	"mooring/internal/server/gate"
	"mooring/wire/voucher"
)

// surface is how the record names this server.
const surface = "masa"

type server struct{ masa *masa.Service }

// New returns the handler.
func New(m *masa.Service) http.Handler {
	s := &server{m}
	mux := http.NewServeMux()
	mux.HandleFunc(voucher.WellKnown+voucher.RequestVoucher, func(w http.ResponseWriter, r *http.Request) {
		s.serve(w, r, s.voucher, voucher.MediaType)
	})
	mux.HandleFunc(voucher.WellKnown+voucher.RequestAuditLog, func(w http.ResponseWriter, r *http.Request) {
		// Registrars send the same request as for the voucher, and many the same header.
		s.serve(w, r, s.log, voucher.StatusType, voucher.MediaType)
	})
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		web.Text(w, r, errs.New(errs.NotFound, "there is nothing here; vouchers are issued below %s", voucher.WellKnown))
	})
	return mux
}

// call is one request under way.
type call struct {
	actor   access.Actor
	chain   []*x509.Certificate
	request *voucher.SignedRequest
}

// serve reads a registrar's request and writes what answer makes of it, which has the first of the media types; a client that accepts one of the others gets
// it too.
func (s *server) serve(w http.ResponseWriter, r *http.Request, answer func(*http.Request, *call) ([]byte, error), types ...string) {
	operation := strings.TrimPrefix(r.URL.Path, voucher.WellKnown)
	web.Annotate(r, slog.String("operation", operation))
	if r.Method != http.MethodPost {
		web.MethodNotAllowed(w, http.MethodPost)
		return
	}
	if kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || kind != voucher.MediaType {
		refuseType(w, http.StatusUnsupportedMediaType, "requests are "+voucher.MediaType)
		return
	}
	if accept := r.Header.Values("Accept"); !slices.ContainsFunc(types, func(kind string) bool { return accepts(accept, kind) }) {
		refuseType(w, http.StatusNotAcceptable, "the answer is "+types[0])
		return
	}
	body, err := s.read(w, r, answer)
	if err != nil {
		web.Annotate(r, slog.String("reason", errs.Public(err)))
		web.Text(w, r, err)
		return
	}
	w.Header().Set("Cache-Control", "no-store")
	web.Write(w, http.StatusOK, types[0], body)
}

// refuseType says which media type it is to be.
func refuseType(w http.ResponseWriter, status int, why string) {
	web.Write(w, status, "text/plain; charset=utf-8", []byte(why+"\n"))
}

func (s *server) read(w http.ResponseWriter, r *http.Request, answer func(*http.Request, *call) ([]byte, error)) ([]byte, error) {
	body, err := web.ReadBody(w, r, voucher.MaxSize)
	if err != nil {
		return nil, err
	}
	peer, ok := gate.PeerFrom(r)
	if !ok {
		return nil, errs.New(errs.Denied, "vouchers are issued over TLS only")
	}
	c := &call{actor: access.Stranger(peer.Address(), surface)}
	if c.chain, err = chain(peer); err == nil {
		if c.request, err = voucher.ParseRequest(body); err != nil {
			err = errs.Wrap(kindOf(err), err, "%v", err)
		}
	}
	if err != nil {
		s.masa.Refuse(r.Context(), c.actor, err)
		return nil, err
	}
	return answer(r, c)
}

// kindOf tells a request that is not signed correctly from one that cannot be read (RFC 8995, section 5.6: 403 for the first).
func kindOf(err error) errs.Kind {
	if errors.Is(err, voucher.ErrSignature) {
		return errs.Denied
	}
	return errs.Invalid
}

// chain returns the client's certificates. Those above its own that cannot be read are left out: they may be for others.
func chain(peer *gate.Peer) (list []*x509.Certificate, err error) {
	for n, raw := range peer.Chain() {
		c, err := x509.ParseCertificate(raw)
		switch {
		case err == nil && n < voucher.MaxChain:
			list = append(list, c)
		case n == 0:
			return nil, errs.New(errs.Denied, "the client certificate cannot be parsed; present one that strict X.509 readers accept")
		}
	}
	if len(list) == 0 {
		return nil, errs.New(errs.Denied, "no client certificate was presented: a registrar asks with the certificate by which it is registered here")
	}
	return list, nil
}

func (s *server) voucher(r *http.Request, c *call) ([]byte, error) {
	return s.masa.Issue(r.Context(), c.actor, c.chain, c.request)
}

func (s *server) log(r *http.Request, c *call) ([]byte, error) {
	l, err := s.masa.AuditLog(r.Context(), c.actor, c.chain, c.request)
	if err != nil {
		return nil, err
	}
	return l.Encode()
}

// accepts reports whether an Accept header lets an answer have the media type (RFC 9110, section 12.5.1). Without the header it does.
func accepts(headers []string, offer string) bool {
	family, _, _ := strings.Cut(offer, "/")
	weight := map[string]float64{}
	for _, part := range strings.Split(strings.Join(headers, ","), ",") {
		kind, parameters, err := mime.ParseMediaType(part)
		if err != nil {
			continue
		}
		q, err := strconv.ParseFloat(parameters["q"], 64)
		if err != nil {
			q = 1
		}
		weight[kind] = q
	}
	if len(weight) == 0 {
		return strings.TrimSpace(strings.Join(headers, "")) == ""
	}
	for _, kind := range []string{offer, family + "/*", "*/*"} { // the more precise one decides
		if q, ok := weight[kind]; ok {
			return q > 0
		}
	}
	return false
}
