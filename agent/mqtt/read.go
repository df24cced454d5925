package mqtt

import (
	"bytes"
	"errors"
	"fmt"
	"io"

	wire "mooring/wire/mqtt"
)

// reader reads packets into a buffer that grows with what has arrived.
type reader struct {
	from  io.Reader
	rules wire.Rules
	b     []byte // what was read and not returned begins at used
	used  int
}

// Sizes of the buffer: the first one, and the one above which it is given back when it is empty.
const (
	firstBuffer = 512
	largeBuffer = 16 << 10
)

// next returns the next packet. The body is valid until the next call.
func (r *reader) next() (wire.Header, []byte, error) {
	for {
		h, n, err := wire.ParseHeader(r.b[r.used:])
		if err == nil {
			if err := h.Check(r.rules); err != nil {
				return h, nil, err
			}
			if end := r.used + h.Size(n); end <= len(r.b) {
				body := r.b[r.used+n : end]
				r.used = end
				return h, body, nil
			}
		} else if !errors.Is(err, wire.ErrMore) {
			return h, nil, err
		}
		if err := r.more(); err != nil {
			return h, nil, err
		}
	}
}

// more reads what comes, into a buffer of at most double the size if it is full.
func (r *reader) more() error {
	rest := r.b[r.used:]
	switch {
	case len(rest) == 0 && cap(r.b) > largeBuffer, r.b == nil:
		r.b = make([]byte, 0, firstBuffer)
	case len(rest) == cap(r.b):
		r.b = append(make([]byte, 0, 2*cap(r.b)), rest...)
	case r.used > 0:
		r.b = r.b[:copy(r.b[:cap(r.b)], rest)]
	}
	r.used = 0
	n, err := r.from.Read(r.b[len(r.b):cap(r.b)])
	r.b = r.b[:len(r.b)+n]
	if n > 0 {
		return nil // an error comes again
	}
	return err
}

// read takes what comes until the connection is over.
func (c *Conn) read(r *reader) {
	for {
		h, body, err := r.next()
		if err == nil {
			c.heard.Store(true)
			err = c.take(r.rules, h, body)
		}
		fault := (*wire.Error)(nil)
		switch {
		case err == nil:
		case errors.As(err, &fault):
			c.fail(fmt.Errorf("the server broke the protocol: %w", err))
			return
		case errors.Is(err, errForeign):
			c.fail(err)
			return
		default:
			if said := c.leaving.Load(); said != nil {
				err = *said
			}
			c.end(err)
			return
		}
	}
}

// take handles one packet.
func (c *Conn) take(r wire.Rules, h wire.Header, body []byte) error {
	switch h.Type {
	case wire.PUBLISH:
		return c.arrived(r, h, body)
	case wire.PUBACK, wire.PUBREC, wire.PUBCOMP, wire.PUBREL:
		a, err := wire.DecodeAck(r, h, body)
		if err != nil {
			return err
		}
		if h.Type == wire.PUBREL {
			c.session.release(c, a.ID)
			return nil
		}
		return c.session.acknowledged(c, a)
	case wire.SUBACK:
		a, err := wire.DecodeSuback(r, h, body)
		c.session.answered(h.Type, a.ID, answer{reasons: a.Reasons, text: a.ReasonString})
		return err
	case wire.UNSUBACK:
		a, err := wire.DecodeUnsuback(r, h, body)
		c.session.answered(h.Type, a.ID, answer{reasons: a.Reasons, text: a.ReasonString})
		return err
	case wire.PINGRESP:
		_, err := wire.DecodePingresp(r, h, body)
		return err
	case wire.DISCONNECT:
		d, err := wire.DecodeDisconnect(r, h, body)
		if err != nil {
			return err
		}
		return &Refusal{Packet: h.Type, Reason: d.Reason, Text: d.ReasonString, ServerReference: d.ServerReference}
	}
	return &wire.Error{Reason: wire.ProtocolError, Packet: h.Type, Text: "it was not asked for"}
}

// waitingQoS0 is how many messages with QoS 0 may wait for the handler, besides those that the server counts.
const waitingQoS0 = 256

// arrived takes a message.
func (c *Conn) arrived(r wire.Rules, h wire.Header, body []byte) error {
	p, err := wire.DecodePublish(r, h, bytes.Clone(body)) // it goes to the handler
	if err != nil {
		return err
	}
	topic, err := c.topic(p)
	if err != nil {
		return err
	}
	m := Message{Topic: topic, Payload: p.Payload, QoS: p.QoS, Retain: p.Retain, Duplicate: p.Duplicate, Properties: p.Properties, SubscriptionIDs: p.SubscriptionIDs}
	c.incoming.Lock()
	defer c.incoming.Unlock()
	switch {
	case m.QoS == wire.AtMostOnce && len(c.list) >= waitingQoS0+int(c.config.ReceiveMaximum):
		c.dropped.Add(1)
		return nil
	case m.QoS > wire.AtMostOnce && c.waiting >= int(c.config.ReceiveMaximum):
		if c.config.Version == wire.V5 {
			return &wire.Error{Reason: wire.ReceiveMaximumExceeded, Packet: wire.PUBLISH, Text: "too many messages were not acknowledged yet"}
		}
		for c.waiting >= int(c.config.ReceiveMaximum) && c.Err() == nil { // 3.1.1 has no such limit
			c.taken.Wait()
		}
	}
	c.list, c.ids = append(c.list, m), append(c.ids, p.ID)
	if m.QoS > wire.AtMostOnce {
		c.waiting++
	}
	if !c.handing {
		c.handing = true
		go c.hand()
	}
	return nil
}

// topic resolves a topic alias. Only the reader calls it.
func (c *Conn) topic(p wire.Publish) (string, error) {
	topic := string(p.RawTopic)
	switch {
	case p.TopicAlias == 0:
		return topic, nil
	case p.TopicAlias > c.config.TopicAliases:
		return "", &wire.Error{Reason: wire.TopicAliasInvalid, Packet: wire.PUBLISH, Text: "the topic alias is above the maximum"}
	case topic == "":
		topic, known := c.aliases[p.TopicAlias]
		if !known {
			return "", &wire.Error{Reason: wire.ProtocolError, Packet: wire.PUBLISH, Text: "the topic alias is not known"}
		}
		return topic, nil
	}
	if c.aliases == nil {
		c.aliases = make(map[uint16]string)
	}
	c.aliases[p.TopicAlias] = topic
	return topic, nil
}

// hand gives messages to the handler as long as there are some, and ends then. What was not handed over when the connection ends comes again.
func (c *Conn) hand() {
	c.incoming.Lock()
	defer c.incoming.Unlock()
	for len(c.list) > 0 && c.Err() == nil {
		m, id := c.list[0], c.ids[0]
		c.incoming.Unlock()
		c.handle(m, id)
		c.incoming.Lock()
		c.list[0] = Message{} // what it refers to may go
		c.list, c.ids = c.list[1:], c.ids[1:]
	}
	if len(c.list) == 0 {
		c.list, c.ids = nil, nil
	}
	c.handing = false
}

// handle gives one message to the handler and acknowledges it then.
func (c *Conn) handle(m Message, id uint16) {
	s := c.session
	s.handling.Lock()
	defer s.handling.Unlock()
	if c.Err() != nil {
		return
	}
	if again := m.QoS == wire.ExactlyOnce && s.has(id); !again {
		if f := s.handlerFor(m.Topic, c.config.Handler); f != nil {
			f(m)
		}
	}
	if m.QoS == wire.AtMostOnce {
		return
	}
	c.incoming.Lock()
	c.waiting-- // before the server may send the next one
	c.taken.Broadcast()
	c.incoming.Unlock()
	ack := wire.Ack{Type: wire.PUBACK, ID: id}
	if m.QoS == wire.ExactlyOnce {
		s.keep(id)
		ack.Type = wire.PUBREC
	}
	_ = queue(c, ack) // if the connection is over, the server asks again
}

func (s *session) has(id uint16) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.received[id]
}

func (s *session) keep(id uint16) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.received[id] = true
}
