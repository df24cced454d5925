package mqtt

import (
	"errors"
	"time"

	"mooring/internal/base/errs"
	"mooring/internal/core/message"
	"mooring/wire/mqtt"
)

// inbound is what the peer published and what has not been answered yet.
type inbound struct {
	acks []*ack              // of QoS 1 and 2, in the order in which they came
	held map[uint16]struct{} // QoS 2: identifiers that the peer has not released; nil = none
	ones int                 // QoS 1, of acks
	late alarm               // ends the connection when the first of acks is not stored in time
}

// ack is the answer to a message, once it is stored or refused.
type ack struct {
	id   uint16
	qos  mqtt.QoS
	done bool
	code mqtt.Reason
}

// publication is a message on its way to core, and back as an answer. It is one piece of memory, since there are so many.
type publication struct {
	conn *conn
	message.Message
	ack     ack           // none with QoS 0
	tooFast time.Duration // for so long core wants the peer to wait; set within Publish, since core looks at the rate at once
}

// keptAcks is for how many acks a connection keeps memory.
const keptAcks = 4

// maxHeld is how many messages of QoS 2 may be unreleased in 3.1.1, which has no Receive Maximum.
const maxHeld = 1024

// published takes a PUBLISH. The body is ours.
func (c *conn) published(r mqtt.Rules, h mqtt.Header, body []byte) error {
	p, err := mqtt.DecodePublish(r, h, body)
	if err != nil {
		return err
	}
	topic, code := c.resolve(&p)
	if code == mqtt.Success {
		code = c.unfit(&p)
	}
	if code != mqtt.Success {
		return &mqtt.Error{Reason: code, Packet: mqtt.PUBLISH, Text: "it asks for what was not offered"}
	}
	b := &publication{conn: c, Message: message.Message{Topic: topic, Payload: p.Payload, QoS: byte(p.QoS), Retain: p.Retain}, ack: ack{id: p.ID, qos: p.QoS}}
	takeProperties(&b.Message, &p.Properties)
	if p.QoS == mqtt.AtMostOnce {
		c.publish(b)
		return nil
	}
	a := &b.ack
	if code := c.begin(a); code != mqtt.Success {
		return &mqtt.Error{Reason: code, Packet: mqtt.PUBLISH, Text: "too many messages are under way"}
	}
	if !textual(&p.Properties, p.Payload) {
		c.finish(a, mqtt.PayloadFormatInvalid)
		return nil
	}
	c.publish(b)
	return nil
}

// resolve returns the topic that a topic alias stands for, or gives it its meaning. What is published to is decided by the name alone, so an alias opens
// nothing that the name does not.
func (c *conn) resolve(p *mqtt.Publish) (string, mqtt.Reason) {
	if p.TopicAlias > c.may.aliases {
		return "", mqtt.TopicAliasInvalid
	}
	if len(p.RawTopic) == 0 {
		if topic, known := c.aliases[p.TopicAlias]; known {
			return topic, mqtt.Success
		}
		return "", mqtt.ProtocolError
	}
	if string(p.RawTopic) != c.topic { // most peers say the same again and again
		c.topic = string(p.RawTopic)
	}
	if p.TopicAlias != 0 {
		if c.aliases == nil {
			c.aliases = map[uint16]string{}
		}
		c.aliases[p.TopicAlias] = c.topic
	}
	return c.topic, mqtt.Success
}

// unfit says which of the limits in CONNACK a message is over, or Success. 3.1.1 has no such limits; there, core refuses.
func (c *conn) unfit(p *mqtt.Publish) mqtt.Reason {
	switch {
	case c.version != mqtt.V5:
		return mqtt.Success
	case byte(p.QoS) > c.may.maxQoS:
		return mqtt.QoSNotSupported
	case p.Retain && !c.may.retain:
		return mqtt.RetainNotSupported
	case p.QoS == mqtt.AtMostOnce && !textual(&p.Properties, p.Payload):
		return mqtt.PayloadFormatInvalid
	}
	return mqtt.Success
}

// begin takes a place among the messages under way. 5.0 has told the peer how many there are; in 3.1.1 no more is read until there is one.
func (c *conn) begin(a *ack) mqtt.Reason {
	if c.version != mqtt.V5 && !c.waitForRoom(func() bool { return len(c.in.acks) < c.may.inFlight }) {
		return mqtt.Success // it is over
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if a.qos == mqtt.ExactlyOnce {
		if c.in.held == nil {
			c.in.held = map[uint16]struct{}{}
		}
		c.in.held[a.id] = struct{}{}
	} else {
		c.in.ones++
	}
	limit := c.may.inFlight
	if c.version != mqtt.V5 {
		limit += maxHeld
	}
	// The second is for those who say the same again and again before it was answered.
	if c.in.ones+len(c.in.held) > limit || len(c.in.acks) > 2*limit {
		c.server.counts.exceeded.Add(1)
		return mqtt.ReceiveMaximumExceeded
	}
	c.in.acks = append(c.in.acks, a)
	if len(c.in.acks) == 1 {
		c.hurry()
	}
	return mqtt.Success
}

// hurry gives the first of the messages under way the time that storing may take. mu is held.
func (c *conn) hurry() { c.in.late.in(c.server.times.store, c.server.deps.Now()) }

// tooLate ends the connection if storing takes too long.
func (c *conn) tooLate() {
	defer c.survive()
	now := c.server.deps.Now()
	c.mu.Lock()
	late := c.in.late.rings(now)
	c.mu.Unlock()
	if late {
		c.Close(message.ReasonFabric)
	}
}

// publish hands a message to core. 3.1.1 has no word for "too fast": there, no more is read until the message may pass.
func (c *conn) publish(b *publication) {
	var id uint16
	if b.ack.qos == mqtt.ExactlyOnce {
		id = b.ack.id
	}
	done := b.done
	for paused := time.Duration(0); !c.over(); {
		b.tooFast = 0
		c.session.Publish(&b.Message, id, done)
		tooFast := b.tooFast
		if tooFast == 0 {
			return
		}
		if paused += tooFast; paused > c.server.times.store/2 {
			c.server.counts.unpublished.Add(1)
			c.fail(mqtt.MessageRateTooHigh)
			return
		}
		c.server.counts.paused.Add(1)
		c.pause(tooFast)
	}
}

// retryable returns how long core wants a publisher to wait, if it only came too fast.
func retryable(err error) (time.Duration, bool) {
	d, ok := errs.RetryAfter(err)
	return d, ok && d > 0 && errs.Is(err, errs.Limited)
}

// pause waits, unless the connection ends meanwhile.
func (c *conn) pause(d time.Duration) {
	over := false
	due := time.AfterFunc(d, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		over = true
		c.wake()
	})
	defer due.Stop()
	c.waitForRoom(func() bool { return over })
}

// done is called when core has the message or does not want it.
func (b *publication) done(err error) {
	c, a := b.conn, &b.ack
	if a.qos == mqtt.AtMostOnce {
		a = nil
	}
	defer c.survive()
	if d, limited := retryable(err); limited && c.version != mqtt.V5 {
		b.tooFast = d
		return
	}
	if err == nil {
		if a != nil {
			c.finish(a, mqtt.Success)
		}
		return
	}
	c.server.counts.unpublished.Add(1)
	code := codesOf(errs.KindOf(err))
	_, limited := retryable(err)
	switch kind := errs.KindOf(err); {
	case a != nil && (kind == errs.Unavailable || kind == errs.Internal): // no answer: the peer is to say it again
		c.Close(message.ReasonFabric)
	case kind == errs.Unavailable || kind == errs.Internal: // QoS 0 may be lost
	case a != nil && c.version == mqtt.V5:
		c.finish(a, code.puback)
	case code.disconnect == mqtt.NotAuthorised && !c.may.closeOnDeny: // as if it had been taken
		if a != nil {
			c.finish(a, mqtt.Success)
		}
	case limited:
		c.fail(mqtt.MessageRateTooHigh)
	case errors.Is(err, message.ErrTooLarge):
		c.fail(mqtt.PacketTooLarge)
	case kind == errs.Limited && a == nil: // no room; QoS 0 may be lost
	default:
		c.fail(code.disconnect)
	}
}

// finish answers a message, and those that came after it and were done before.
func (c *conn) finish(a *ack, code mqtt.Reason) {
	c.mu.Lock()
	defer c.mu.Unlock()
	a.done, a.code = true, code
	n := 0
	for n < len(c.in.acks) && c.in.acks[n].done {
		c.answer(c.in.acks[n])
		n++
	}
	if n == 0 {
		return
	}
	if n == len(c.in.acks) && n <= keptAcks { // the same memory serves for the next ones
		clear(c.in.acks)
		c.in.acks = c.in.acks[:0]
	} else {
		c.in.acks = c.in.acks[n:]
	}
	if len(c.in.acks) == 0 {
		c.in.late.off()
	} else {
		c.hurry()
	}
	c.wake()
}

// answer says PUBACK or PUBREC. mu is held.
func (c *conn) answer(a *ack) {
	kind := mqtt.PUBACK
	if a.qos == mqtt.ExactlyOnce {
		kind = mqtt.PUBREC
		if a.code.Failed() {
			delete(c.in.held, a.id)
		}
	} else {
		c.in.ones--
	}
	c.say(mqtt.Ack{Type: kind, ID: a.id, Reason: a.code}.Append(nil, c.version))
}

// settle frees the place of a message of QoS 2 that the peer has released.
func (c *conn) settle(id uint16) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.in.held, id)
	c.wake()
}
