package mqtt

import (
	"context"

	"mooring/internal/base/errs"
	"mooring/internal/core/message"
	"mooring/wire/mqtt"
)

// handle does what a packet asks for.
func (c *conn) handle(ctx context.Context, r mqtt.Rules, h mqtt.Header, body []byte) {
	var err error
	switch h.Type {
	case mqtt.PUBLISH:
		err = c.published(r, h, body)
	case mqtt.PUBACK, mqtt.PUBREC, mqtt.PUBREL, mqtt.PUBCOMP:
		err = c.acknowledged(ctx, r, h, body)
	case mqtt.SUBSCRIBE:
		err = c.subscribe(ctx, r, h, body)
	case mqtt.UNSUBSCRIBE:
		err = c.unsubscribe(ctx, r, h, body)
	case mqtt.PINGREQ:
		if _, err = mqtt.DecodePingreq(r, h, body); err == nil {
			c.reply(mqtt.Pingresp{})
		}
	case mqtt.DISCONNECT:
		err = c.disconnected(r, h, body)
	default: // AUTH, which nobody asked for; the codec has refused all other types
		err = &mqtt.Error{Reason: mqtt.ProtocolError, Packet: h.Type, Text: "no authentication is under way"}
	}
	if err != nil {
		c.unread(ctx, err)
	}
}

// acknowledged takes PUBACK, PUBREC and PUBCOMP of what was delivered, and PUBREL of what was published.
func (c *conn) acknowledged(ctx context.Context, r mqtt.Rules, h mqtt.Header, body []byte) error {
	p, err := mqtt.DecodeAck(r, h, body)
	if err != nil {
		return err
	}
	switch {
	case p.Type == mqtt.PUBACK, p.Type == mqtt.PUBREC && p.Reason.Failed():
		c.session.Acked(p.ID) // an unknown one may be of a delivery that was given up since
	case p.Type == mqtt.PUBREC:
		if !c.session.Received(p.ID) {
			c.reply(mqtt.Ack{Type: mqtt.PUBREL, ID: p.ID, Reason: mqtt.PacketIDNotFound})
		}
	case p.Type == mqtt.PUBCOMP:
		c.session.Completed(p.ID)
	default:
		c.aside(func() { c.released(ctx, p.ID) })
	}
	return nil
}

// released takes PUBREL: the peer will not send this message again.
func (c *conn) released(ctx context.Context, id uint16) {
	known, err := c.session.Release(ctx, id)
	if err != nil {
		c.Close(message.ReasonFabric)
		return
	}
	answer := mqtt.Ack{Type: mqtt.PUBCOMP, ID: id}
	if !known {
		answer.Reason = mqtt.PacketIDNotFound
	}
	c.settle(id)
	c.reply(answer)
}

// subscribe answers each filter for itself.
func (c *conn) subscribe(ctx context.Context, r mqtt.Rules, h mqtt.Header, body []byte) error {
	p, err := mqtt.DecodeSubscribe(r, h, body)
	if err != nil {
		return err
	}
	reasons := make([]mqtt.Reason, len(p.Filters), len(p.Filters)+p.Beyond)
	var asked []message.Subscription
	var places []int
	for i := range p.Filters {
		f := &p.Filters[i]
		if reasons[i] = c.filterFault(f.Filter); reasons[i].Failed() {
			continue
		}
		asked, places = append(asked, message.Subscription{Filter: f.Filter, QoS: byte(f.QoS), NoLocal: f.NoLocal, AsPublish: f.RetainAsPublished,
			Handling: byte(f.RetainHandling), ID: p.SubscriptionID}), append(places, i)
	}
	c.hold() // retained messages follow the answer
	var grants []message.Grant
	if len(asked) > 0 {
		c.aside(func() { grants = c.session.Subscribe(ctx, asked) })
	}
	for i, place := range places {
		if i >= len(grants) { // it ended meanwhile
			reasons[place] = mqtt.Unspecified
			continue
		}
		if reasons[place] = mqtt.Reason(grants[i].QoS); grants[i].Err != nil {
			reasons[place] = codesOf(errs.KindOf(grants[i].Err)).suback
		}
	}
	for range p.Beyond {
		reasons = append(reasons, mqtt.QuotaExceeded)
	}
	c.count(reasons)
	c.release(mqtt.Suback{ID: p.ID, Reasons: reasons}.Append(nil, c.version))
	return nil
}

// filterFault says why core is not even asked about a filter, or Success.
func (c *conn) filterFault(filter string) mqtt.Reason {
	if mqtt.CheckFilter(filter, c.limits) != nil {
		return mqtt.TopicFilterInvalid
	}
	if _, _, shared, _ := mqtt.Shared(filter); shared && !c.may.shared {
		return mqtt.SharedNotSupported
	}
	return mqtt.Success
}

func (c *conn) count(reasons []mqtt.Reason) {
	for _, r := range reasons {
		if r.Failed() {
			c.server.counts.denied.Add(1)
		}
	}
}

func (c *conn) unsubscribe(ctx context.Context, r mqtt.Rules, h mqtt.Header, body []byte) error {
	p, err := mqtt.DecodeUnsubscribe(r, h, body)
	if err != nil {
		return err
	}
	var answers []error
	c.aside(func() { answers = c.session.Unsubscribe(ctx, p.Filters) })
	reasons := make([]mqtt.Reason, len(p.Filters), len(p.Filters)+p.Beyond)
	for i := range reasons {
		switch {
		case i >= len(answers):
			reasons[i] = mqtt.Unspecified
		case answers[i] != nil:
			reasons[i] = codesOf(errs.KindOf(answers[i])).unsuback
		}
	}
	for range p.Beyond {
		reasons = append(reasons, mqtt.ImplementationSpecific) // it was not looked at: no UNSUBACK has a code for too many
	}
	c.reply(mqtt.Unsuback{ID: p.ID, Reasons: reasons})
	return nil
}

// disconnected takes the peer's farewell. Any reason but 0 has the will said (section 3.14.4).
func (c *conn) disconnected(r mqtt.Rules, h mqtt.Header, body []byte) error {
	p, err := mqtt.DecodeDisconnect(r, h, body)
	if err != nil {
		return err
	}
	if p.SessionExpiry.Present {
		if p.SessionExpiry.Value > 0 && !c.endless { // section 3.14.2.2.2
			return &mqtt.Error{Reason: mqtt.ProtocolError, Packet: mqtt.DISCONNECT, Text: "a session that was to end with the connection is to outlive it"}
		}
		c.farewell.Expiry = &p.SessionExpiry.Value
	}
	c.farewell.KeepWill = p.Reason != mqtt.Success
	c.end(message.ReasonFarewell, mqtt.Success, false)
	return nil
}
