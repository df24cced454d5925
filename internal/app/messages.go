package app

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"sync"
	"time"

	"mooring/internal/base/errs"
	"mooring/internal/base/web"
	"mooring/internal/core/access"
	"mooring/internal/core/ca"
	"mooring/internal/core/device"
	"mooring/internal/core/message"
	"mooring/internal/core/message/policy"
	"mooring/internal/core/revoke"
	"mooring/internal/provider/nats"
	"mooring/internal/server/gate"
	"mooring/internal/server/mqtt"
)

// openFabric opens where messages lie, if any are carried.
func (p *Platform) openFabric(ctx context.Context) (err error) {
	if !p.Config.Messages() {
		return nil
	}
	m := &p.Config.Messaging
	o := nats.Options{URLs: m.NATS, Credentials: p.file(m.Credentials), CA: p.file(m.CA), Cert: p.file(m.Cert), Key: p.file(m.Key), Durability: nats.Durability(m.Durability),
		MaxAge: m.MaxAge, MaxBytes: int64(m.MaxBytes), Now: p.now, Log: p.log}
	if len(o.URLs) == 0 {
		o.Dir = p.Config.Path(m.Dir)
	}
	p.fabric, err = nats.Open(ctx, o)
	return err
}

// file resolves the name of a file, "" for none.
func (p *Platform) file(name string) string {
	if name == "" {
		return ""
	}
	return p.Config.Path(name)
}

// buildMessages makes the service. Where no messages are carried it only checks the record.
func (p *Platform) buildMessages() {
	d := message.Deps{DB: p.DB, Audit: p.Audit, Access: p.Access, Now: p.now, Log: p.log, Node: node(), Standard: policy.DefaultText(),
		Identify: p.identify, Author: p.author, Children: p.children, Named: p.named, Ruled: p.ruled}
	p.changes.more = make(chan struct{}, 1)
	if p.fabric != nil {
		d.Fabric = p.fabric
	}
	p.Message = message.New(d)
}

// node names this process among those of an installation.
func node() string {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	return fmt.Sprintf("%s/%d", host, os.Getpid())
}

// identify returns who shows a chain, if he may talk: by a working certificate of ours, not by the one that he was made with.
func (p *Platform) identify(ctx context.Context, chain [][]byte) (id message.Identity, err error) {
	known, err := p.Enrol.Present(ctx, chain)
	if known != nil {
		id.ID = known.Device.ID // so that the record says who was refused
	}
	if err != nil {
		return id, err
	}
	if known.Evidence != ca.EvidenceOperational || known.Own == nil {
		return id, errs.New(errs.Denied, "messages need a certificate of this platform: enrol first")
	}
	if !known.Device.State.Active() {
		return id, device.StateRefusal(known.Device.State)
	}
	id = message.Identity{ID: known.Device.ID, Subject: p.subject(&known.Device, known.Actor("message").Role), Serial: content(known.Own.Serial[:]), Issuer: string(known.Own.Issuer[:]),
		NotAfter: known.Own.NotAfter, Cert: known.Own.Serial}
	return id, nil
}

// content is a serial number as the registry of connections compares it.
func content(serial []byte) string {
	for len(serial) > 0 && serial[0] == 0 {
		serial = serial[1:]
	}
	return string(serial)
}

// subject is what the policy is told about a device.
func (p *Platform) subject(d *device.Device, role access.Role) policy.Subject {
	s := policy.Subject{Tenant: p.Config.Name, Thing: d.Name, Kind: policy.Device, Group: d.Group, Profile: d.Profile, Tags: d.Tags, Manufacturer: d.Product.Maker, Role: string(role)}
	profile, err := p.Profiles.Get(d.Profile)
	switch {
	case err != nil: // the profile is gone; it is a device like others
	case profile.Principal == "service", profile.Grants != access.RoleNone:
		s.Kind = policy.Service
	case profile.Principal == "gateway":
		s.Kind = policy.Gateway
	}
	return s
}

// author says what a thing is now that published something under the certificate with a serial number. What was replaced in an orderly way leaves what it said.
func (p *Platform) author(ctx context.Context, id device.ID, serial [16]byte) (policy.Subject, error) {
	d, err := p.Devices.Load(ctx, id)
	if err != nil {
		return policy.Subject{}, err
	}
	role := access.RoleNone
	if profile, err := p.Profiles.Get(d.Profile); err == nil {
		role = profile.Grants
	}
	if !d.State.Active() { // what it retained is still its own
		return p.subject(&d, role), device.StateRefusal(d.State)
	}
	if serial == ([16]byte{}) {
		return p.subject(&d, role), nil
	}
	r, revoked, err := p.Revoke.Status(ctx, serial[:])
	if err != nil {
		return policy.Subject{}, err
	}
	if revoked && r.Reason != revoke.Superseded {
		return p.subject(&d, role), errs.New(errs.Denied, "the certificate is revoked: %s", r.Reason)
	}
	barred, err := p.underBarred(ctx, &d, serial)
	if err == nil && barred {
		err = errs.New(errs.Denied, "the certificate's CA is revoked or on hold")
	}
	if errs.Is(err, errs.Denied) || err == nil {
		return p.subject(&d, role), err
	}
	return policy.Subject{}, err
}

// underBarred reports whether the CA of one of a device's certificates, or one above it, is revoked or on hold. One that nothing is known of any more was
// replaced long ago, in an orderly way.
func (p *Platform) underBarred(ctx context.Context, d *device.Device, serial [16]byte) (bool, error) {
	var id ca.IssuerID
	for i := range d.Slots {
		if len(d.Slots[i].Issuer) == len(id) && content(d.Slots[i].Serial) == content(serial[:]) {
			copy(id[:], d.Slots[i].Issuer)
		}
	}
	if id == (ca.IssuerID{}) {
		cert, err := p.CA.Get(ctx, serial[:])
		if errs.Is(err, errs.NotFound) {
			return false, nil
		}
		if err != nil {
			return false, err
		}
		id = cert.Issuer
	}
	issuer, err := p.CA.IssuerByID(id)
	if err != nil { // it is none of ours any more
		return false, nil
	}
	return p.CA.Barred(issuer) != nil, nil
}

func (p *Platform) named(ctx context.Context, nameOrID string) (policy.Subject, error) {
	d, err := p.Devices.Get(ctx, access.System("message"), nameOrID)
	if err != nil {
		return policy.Subject{}, err
	}
	if !d.State.Active() {
		return policy.Subject{}, errs.New(errs.Denied, "%s is %s: it may do nothing", d.Name, d.State)
	}
	return p.author(ctx, d.ID, [16]byte{})
}

// maxChildren bounds for how many things one gateway speaks.
const maxChildren = 10_000

// children are the things that have the tag gateway with the gateway's name.
func (p *Platform) children(ctx context.Context, gateway string) (map[string]device.ID, error) {
	all := map[string]device.ID{}
	for f := (device.Filter{Tag: message.GatewayTag + "=" + gateway, Limit: 1000}); ; {
		page, next, err := p.Devices.List(ctx, access.System("message"), f)
		if err != nil {
			return nil, err
		}
		for i := range page {
			if page[i].State.Active() {
				all[page[i].Name] = page[i].ID
			}
		}
		if next == "" {
			return all, nil
		}
		if len(all) >= maxChildren {
			return nil, errs.New(errs.Limited, "more than %d devices have the tag gateway=%s", maxChildren, gateway)
		}
		f.Cursor = next
	}
}

// bindMessages opens the listeners of MQTT.
func (p *Platform) bindMessages(ctx context.Context, secure *gate.TLS) error {
	if p.fabric == nil {
		return nil
	}
	if err := p.Message.Load(ctx); err != nil {
		return err
	}
	c := p.Config
	private := *secure
	private.Require = true
	known := mqtt.Deps{Messages: mqtt.Over(p.Message), Identify: p.identifyPeer, Origins: c.Messaging.Origins, Elsewhere: c.Messaging.Elsewhere, Now: p.now, Log: p.log}
	anybody := mqtt.Deps{Messages: mqtt.Over(p.Message), Identify: p.identifyNobody, Now: p.now, Log: p.log}
	for _, s := range []struct {
		name, address string
		tls           *gate.TLS
		deps          mqtt.Deps
	}{
		{"mqtt", c.Listen.MQTT, &private, known},
		{"mqtt_web", c.Listen.MQTTWeb, &private, known},
		{"interop", c.Messaging.Interop, nil, anybody},
	} {
		if s.address == "" {
			continue
		}
		g, err := gate.Listen(ctx, gate.Options{Name: s.name, Address: s.address, Streams: "mqtt", PreferHTTP: s.name == "mqtt_web", TLS: s.tls, Limits: c.Limits, Now: p.now, Log: p.log})
		if err != nil {
			return err
		}
		server := mqtt.New(s.deps) // one for each listener, which counts what came by it alone
		p.talkers = append(p.talkers, talking{s.name, server})
		p.surfaces = append(p.surfaces, surface{name: s.name, gate: g, handler: server, streams: server.Stream, counters: &web.Counters{}})
	}
	return nil
}

// talking is a listener of MQTT.
type talking struct {
	name   string
	server *mqtt.Server
}

func (p *Platform) identifyPeer(ctx context.Context, peer *gate.Peer) (message.Identity, error) {
	return p.Message.Identify(ctx, message.Visit{Front: "mqtt", Address: peer.AddrPort()}, peer.Chain())
}

// interopGroup is the policy's group of those who connect without TLS on this machine.
const interopGroup = "interop"

// identifyNobody is who connects to messaging.interop: somebody on this machine, of whom nothing is known. To the policy it is a service, as its group is one
// of services: it hears what its like publishes, and what it publishes to a device reaches that.
func (p *Platform) identifyNobody(context.Context, *gate.Peer) (message.Identity, error) {
	return message.Identity{Subject: policy.Subject{Tenant: p.Config.Name, Thing: "interop", Kind: policy.Service}, Group: interopGroup, NotAfter: p.now().Add(100 * 365 * 24 * time.Hour).Unix()}, nil
}

// cutOff ends what a revoked certificate's holders have to say, and with that of a CA those of all that it certifies.
func (p *Platform) cutOff(ctx context.Context, e *revoke.Event) error {
	if p.fabric == nil {
		return nil
	}
	reason := "certificate revoked: " + e.Reason.String()
	if e.Kind == revoke.Held {
		reason = "certificate on hold"
	}
	if _, err := p.Message.Cut(ctx, message.Selector{Serial: content(e.Serial), Holder: e.Device, Superseded: e.Reason == revoke.Superseded}, reason); err != nil {
		return err
	}
	if issuer, _ := p.CA.CertificateOf(e.Serial); issuer == nil {
		if e.Reason != revoke.Superseded && e.Cursor >= 0 {
			p.later(func(ctx context.Context) error { return p.kickHolder(ctx, e.Device) })
		}
		return nil
	}
	var below []ca.IssuerID
	p.CA.Each(func(i *ca.Issuer) {
		if p.CA.Barred(i) != nil {
			below = append(below, i.ID())
		}
	})
	for _, id := range below {
		if _, err := p.Message.Cut(ctx, message.Selector{Issuer: string(id[:])}, "CA "+reason); err != nil {
			return err
		}
		p.later(func(ctx context.Context) error { return p.kickAll(ctx, device.Filter{Issuer: id[:]}, nil) })
	}
	return nil
}

// served is the service for the API, nil where no messages are carried.
func (p *Platform) served() *message.Service {
	if p.fabric == nil {
		return nil
	}
	return p.Message
}

// deviceChanged notes that the registry says something else of a device; tellChanges does what follows from that, since who changes devices must not wait.
func (p *Platform) deviceChanged(_ context.Context, id device.ID) {
	if p.fabric == nil {
		return
	}
	p.changes.mu.Lock()
	p.changes.list = append(p.changes.list, id)
	p.changes.mu.Unlock()
	select {
	case p.changes.more <- struct{}{}:
	default: // it is told already
	}
}

// changes are devices that were changed and of which messaging was not told yet.
type changes struct {
	mu   sync.Mutex
	list []device.ID   // guarded by mu
	more chan struct{} // has room for one
}

func (c *changes) take() []device.ID {
	c.mu.Lock()
	defer c.mu.Unlock()
	list := c.list
	c.list = nil
	return list
}

// tellAgain is the pause before what could not be told is tried again.
const tellAgain = 5 * time.Second

// tellAll has tell called for all changes. Those that could not be told are kept, once each, and it says whether there are any: a cut must reach the other
// nodes when they can be reached again.
func (p *Platform) tellAll(ctx context.Context, tell func(context.Context, device.ID) error) (again bool) {
	list := p.changes.take()
	slices.SortFunc(list, func(a, b device.ID) int { return bytes.Compare(a[:], b[:]) })
	var left []device.ID
	for _, id := range slices.Compact(list) {
		err := tell(ctx, id)
		if err == nil || errs.Is(err, errs.NotFound) || ctx.Err() != nil {
			continue
		}
		if left = append(left, id); len(left) == 1 {
			p.log.LogAttrs(ctx, slog.LevelWarn, "other nodes could not be told of a change of a device; it is tried again", slog.String("device", id.String()), slog.Any("cause", err))
		}
	}
	p.changes.mu.Lock()
	defer p.changes.mu.Unlock()
	p.changes.list = append(p.changes.list, left...)
	return len(left) > 0
}

// tellChanges has live connections held to what the registry says of their device now, until ctx ends. A device that may not talk any more is cut off, and
// has nothing left of what was kept for it: its certificates need not be what tells of that, since one for which a gateway speaks may have none.
func (p *Platform) tellChanges(ctx context.Context) error {
	for {
		var again <-chan time.Time
		if p.tellAll(ctx, p.tellChange) {
			again = time.After(tellAgain)
		}
		select {
		case <-again:
			continue
		case <-p.changes.more:
		case <-ctx.Done():
			return nil
		}
	}
}

func (p *Platform) tellChange(ctx context.Context, id device.ID) error {
	d, err := p.Devices.Load(ctx, id)
	if err != nil {
		return err
	}
	if !d.State.Active() {
		_, err := p.Message.Cut(ctx, message.Selector{Device: d.ID, Thing: d.Name}, "device "+d.State.String())
		return errors.Join(err, p.tellBrokers(ctx, false, d.Name))
	}
	return errors.Join(p.Message.Changed(ctx, id), p.tellBrokers(ctx, true, d.Name))
}
