package app

import (
	"context"

	"mooring/internal/base/coap"
	"mooring/internal/base/web"
	"mooring/internal/server/cmp"
	coapserver "mooring/internal/server/coap"
	"mooring/internal/server/estcoap"
	"mooring/internal/server/gate"
)

// maxCoAPBody is the largest body of a request over CoAP: a request of PKCS#10 with the longest of keys fits.
const maxCoAPBody = 16 << 10

// bindCoAPS opens the listener of EST over CoAP, if there is to be one. Where CMP is served it is served there too.
func (p *Platform) bindCoAPS(ctx context.Context, messages *cmp.Server) error {
	c := p.Config
	if c.Listen.COAPS == "" {
		return nil
	}
	g, err := gate.ListenDTLS(ctx, gate.Options{Name: "coaps", Address: c.Listen.COAPS, Limits: c.Limits, Now: p.now, Log: p.log},
		gate.DTLS{Certificate: &p.identity.held, MTU: c.COAPS.MTU, Node: uint16(c.COAPS.Node)})
	if err != nil {
		return err
	}
	counters := &web.Counters{}
	server := coap.NewServer(coap.Options{Surface: "coaps", Body: maxCoAPBody, Memory: int64(c.COAPS.Memory), Now: p.now, Log: p.log, Counters: counters})
	devices := estcoap.New(estcoap.Deps{Enrol: p.Enrol, Identity: p.identity.signer, Anchor: p.identity.anchor})
	answers := devices.For
	if c.Listen.CMP != "" {
		answers = func(peer *gate.Peer) coap.Handler { return messages.CoAP(peer.Address(), devices.For(peer)) }
	}
	if c.COAPS.Messages {
		rest, talk := answers, coapserver.New(coapserver.Deps{Messages: coapserver.Over(p.Message), Log: p.log})
		p.coaps = &constrained{server, talk}
		answers = func(peer *gate.Peer) coap.Handler { return talk.For(peer, rest(peer)) }
	}
	p.surfaces = append(p.surfaces, surface{name: "coaps", gate: g, counters: counters,
		sessions: func(ctx context.Context, s *gate.Session) { server.Serve(ctx, s, answers(s.Peer())) }})
	return nil
}

// constrained is the listener of CoAP, where it carries messages.
type constrained struct {
	transport *coap.Server
	messages  *coapserver.Server
}

// serve answers on the surface until ctx ends.
func (s *surface) serve(ctx context.Context) error {
	switch {
	case s.sessions != nil:
		return s.gate.ServeDTLS(ctx, s.sessions)
	case s.streams != nil:
		return s.gate.ServeStreams(ctx, s.streams, s.handler)
	}
	return s.gate.Serve(ctx, s.handler)
}
