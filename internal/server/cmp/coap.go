package cmp

import (
	"context"
	"log/slog"
	"net/netip"
	"strings"

	"mooring/internal/base/coap"
	"mooring/wire/cmp"
	wire "mooring/wire/coap"
)

// formatCMP is the content format of application/pkixcmp (RFC 9482, section 6).
const formatCMP wire.Format = 259

// coapRoute names CMP in logs and counters of a CoAP surface.
const coapRoute = "cmp"

// CoAP returns what answers a client's messages over CoAP (RFC 9482), and rest all its other requests. Messages come and go in blocks, of which
// package coap makes whole ones.
func (s *Server) CoAP(source netip.Addr, rest coap.Handler) coap.Handler {
	return coap.Handler{
		Answer: func(ctx context.Context, r *coap.Request) coap.Response {
			label, ours := coapLabel(r.Path)
			if !ours {
				return rest.Answer(ctx, r)
			}
			out := s.overCoAP(ctx, source, label, r)
			out.Route = coapRoute
			return out
		},
		Refused: func(ctx context.Context, path string, err error) {
			if _, ours := coapLabel(path); ours {
				s.Enrol.Refuse(ctx, (&exchange{server: s.server, source: source}).request(), err)
			} else if rest.Refused != nil {
				rest.Refused(ctx, path, err)
			}
		},
	}
}

// coapLabel reads a path as the HTTP listener does: it names a profile, or the device's own.
func coapLabel(path string) (label string, ours bool) {
	below, ours := strings.CutPrefix(path, cmp.WellKnown)
	if !ours || below != "" && below[0] != '/' {
		return "", false
	}
	segments := strings.Split(strings.Trim(below, "/"), "/")
	switch {
	case segments[0] == "p" && (len(segments) == 2 || len(segments) == 3):
		return segments[1], true
	case len(segments) == 1:
		return "", true
	}
	return "", false
}

func (s *Server) overCoAP(ctx context.Context, source netip.Addr, label string, r *coap.Request) coap.Response {
	var attrs []slog.Attr
	x := &exchange{server: s.server, ctx: ctx, source: source, label: label, note: func(a ...slog.Attr) { attrs = append(attrs, a...) }}
	mistaken := func(code wire.Code, reason string) coap.Response {
		out := coap.RefuseAs(code, reason)
		s.Enrol.Refuse(ctx, x.request(), out.Err)
		return out
	}
	if r.Code != wire.POST {
		return coap.RefuseAs(wire.MethodNotAllowed, "this resource answers only POST")
	}
	if have, said := r.Options.Uint(wire.ContentFormat); !said || wire.Format(have) != formatCMP {
		return mistaken(wire.UnsupportedFormat, "the content format must be 259, application/pkixcmp")
	}
	if want, asked := r.Options.Uint(wire.Accept); asked && wire.Format(want) != formatCMP {
		return mistaken(wire.NotAcceptable, "only the content format 259, application/pkixcmp, is offered here")
	}
	out, err := x.answer(r.Body)
	if err != nil {
		answer := coap.Refuse(err)
		answer.Attrs = attrs
		return answer
	}
	return coap.Response{Code: wire.Content, Format: formatCMP, Body: out, Attrs: attrs}
}
