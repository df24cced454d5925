package mqtt

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"time"
	"unicode/utf8"

	"mooring/internal/base/errs"
	"mooring/internal/core/message"
	"mooring/internal/core/message/policy"
	"mooring/wire/mqtt"
)

// admit reads CONNECT and lets the peer in, or refuses it. The order: syntax and version, who it is, and then what core decides: client identifier, will, quotas,
// take-over, session. It reports whether there is to be a loop.
func (c *conn) admit(ctx context.Context) (in bool) {
	defer func() {
		if !in {
			c.leave()
		}
	}()
	defer c.survive()
	p, ok := c.greeting(ctx)
	if !ok {
		return false
	}
	c.version, c.quiet, c.maxPacket = p.Version, p.NoProblemInfo, int(p.MaximumPacketSize)
	c.await(waitCore, c.server.times.store)
	identity, err := c.server.deps.Identify(ctx, c.peer)
	c.peer.Forget()
	if err != nil {
		c.refuse(ctx, identityCode(err), err)
		return false
	}
	session, got, err := c.server.deps.Messages.Connect(ctx, c.attach(&p, &identity))
	if err != nil {
		c.refuse(ctx, connectCode(err), err)
		return false
	}
	c.session = session
	c.server.counts.connected.Add(1)
	c.server.counts.connects.Add(1)
	c.grant(&p, &got)
	return !c.over()
}

// greeting reads CONNECT.
func (c *conn) greeting(ctx context.Context) (p mqtt.Connect, ok bool) {
	rules := mqtt.Rules{From: mqtt.Client}
	h, body, err := c.input.next(c, rules)
	var fault *mqtt.Error
	switch {
	case err == nil:
		p, err = mqtt.DecodeConnect(rules, h, body)
	case errors.As(err, &fault) && fault.Reason == mqtt.PacketTooLarge:
		p.Version = c.versionOf(rules, h)
	}
	switch {
	case err != nil && (p.Version == 0 || !errors.As(err, &fault)): // it is gone, or speaks no MQTT
		c.unread(ctx, err)
	case err != nil:
		c.version = p.Version
		c.refuse(ctx, fault.Reason, err)
	case p.AuthenticationMethod.Present:
		c.version, c.quiet = p.Version, p.NoProblemInfo
		c.refuse(ctx, mqtt.BadAuthenticationMethod, errs.New(errs.Invalid, "enhanced authentication is not offered"))
	case p.Will != nil && !textual(&p.Will.Properties, p.Will.Payload):
		c.version, c.quiet = p.Version, p.NoProblemInfo
		c.refuse(ctx, mqtt.PayloadFormatInvalid, errs.New(errs.Invalid, "the will is said to be text and is not"))
	default:
		return p, true
	}
	return p, false
}

// versionOf returns the version of a CONNECT that is too large to be read, as its beginning says it; 0 if that is not there.
func (c *conn) versionOf(r mqtt.Rules, h mqtt.Header) mqtt.Version {
	h.Length = len("..MQTT.")
	start, err := c.input.body(c, h)
	if err != nil {
		return 0
	}
	p, _ := mqtt.DecodeConnect(r, h, start) // it ends too early, of course
	return p.Version
}

// textual reports whether a payload is what its format indicator says.
func textual(p *mqtt.Properties, payload []byte) bool {
	return p.PayloadFormat.Or(0) != 1 || utf8.Valid(payload)
}

// refuse answers a CONNECT with the code and ends the connection. 3.1.1 has no word for some codes, and gets none.
func (c *conn) refuse(ctx context.Context, code mqtt.Reason, err error) {
	c.server.counts.refused[code].Add(1)
	c.server.deps.Log.LogAttrs(ctx, slog.LevelDebug, "a connection was refused", slog.String("front", c.front), slog.String("code", code.String()), slog.Any("cause", err))
	answer := mqtt.Connack{Reason: code}
	if code != mqtt.NotAuthorised && !c.quiet { // of who is not known, nothing is told
		answer.ReasonString = complaint(err)
	}
	if len(answer.ReasonString)+shortAnswer > c.maxPacket && c.maxPacket > 0 {
		answer.ReasonString = ""
	}
	c.release(answer.Append(nil, c.version))
	c.end(refused, mqtt.Success, false)
}

// shortAnswer is more than an answer has besides its reason string.
const shortAnswer = 16

// complaint returns what a peer may read of an error.
func complaint(err error) string {
	var fault *mqtt.Error
	switch {
	case errors.As(err, &fault):
		return fault.Text
	case errs.KindOf(err) == errs.Invalid:
		return errs.Public(err)
	}
	return ""
}

// attach puts what CONNECT asks for into core's words.
func (c *conn) attach(p *mqtt.Connect, identity *message.Identity) message.Attach {
	a := message.Attach{Identity: *identity, Client: p.ClientID, Front: c.front, Address: c.peer.AddrPort(), Clean: p.CleanStart, Expiry: p.SessionExpiry,
		Window: 1<<16 - 1, Link: c}
	if p.ReceiveMaximum != 0 {
		a.Window = int(p.ReceiveMaximum)
	}
	a.Default = p.Version == mqtt.V311 && !p.CleanStart
	if w := p.Will; w != nil {
		a.Will = &message.Will{Delay: w.Delay, Message: message.Message{Topic: w.Topic, Payload: w.Payload, QoS: byte(w.QoS), Retain: w.Retain}}
		takeProperties(&a.Will.Message, &w.Properties)
	}
	return a
}

// takeProperties gives a message the properties of a packet.
func takeProperties(m *message.Message, p *mqtt.Properties) {
	m.Format, m.Expiry = p.PayloadFormat.Or(0), p.MessageExpiry.Or(0)
	m.ContentType, m.ResponseTopic, m.Correlation = string(p.ContentType), string(p.ResponseTopic), p.CorrelationData
	for name, value := range p.User.All() {
		m.User = append(m.User, message.Pair{Name: name, Value: value})
	}
}

// grant says CONNACK and lets deliveries follow.
func (c *conn) grant(p *mqtt.Connect, got *message.Connected) {
	l := &got.Limits
	c.limits = c.server.sharedLimits(mqtt.Limits{Packet: l.Packet, Topic: l.TopicOctets, Levels: l.Levels, Filters: l.Filters})
	longest := cmp.Or(l.KeepAlive, defaultKeepAlive)
	alive := p.KeepAlive
	if alive == 0 || alive > longest {
		alive = longest
	}
	c.keepAlive = time.Duration(alive) * time.Second * 3 / 2
	c.endless = got.Expiry > 0
	may := granted{inFlight: cmp.Or(min(l.InFlightIn, 1<<16-1), defaultInFlight), aliases: uint16(min(l.Aliases, 1<<16-1)), outbound: cmp.Or(l.Outbound, heldOutbound),
		maxQoS: l.MaxQoS, retain: l.Retain, shared: l.Shared, closeOnDeny: l.Deny != policy.DenyDrop}
	may.outAliases = min(p.TopicAliasMaximum, may.aliases)
	answer := mqtt.Connack{SessionPresent: got.Present, ReceiveMaximum: uint16(may.inFlight), MaximumPacketSize: uint32(c.limits.Resolved().Packet), TopicAliasMaximum: may.aliases}
	if got.Expiry != p.SessionExpiry {
		answer.SessionExpiry = mqtt.Some(got.Expiry)
	}
	if alive != p.KeepAlive {
		answer.ServerKeepAlive = mqtt.Some(alive)
	}
	if got.Assigned {
		answer.AssignedClientID = got.Client
	}
	if may.maxQoS < 2 {
		answer.MaximumQoS = mqtt.Some(mqtt.QoS(may.maxQoS))
	}
	if !may.retain {
		answer.RetainAvailable = mqtt.Some(false)
	}
	answer.SharedAvailable = mqtt.Some(may.shared)

	c.mu.Lock()
	c.may, c.box.greeted = may, true
	c.mu.Unlock()
	c.release(answer.Append(nil, c.version))
}

// What holds where core says nothing.
const (
	defaultKeepAlive uint16 = 1200
	defaultInFlight  int    = 32
)
