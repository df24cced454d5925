package mqtt

import "encoding/binary"

// Properties are what 5.0 lets a message carry beside its payload, in a PUBLISH and in a will. Whoever passes the message on passes them on unchanged,
// but for the expiry, of which the time of waiting is taken off.
type Properties struct {
	PayloadFormat   Maybe[uint8]  // 1: the payload is UTF-8; absent is the same as 0
	MessageExpiry   Maybe[uint32] // seconds; absent: never
	ContentType     []byte        // UTF-8; nil: none
	ResponseTopic   []byte        // a topic name; nil: none
	CorrelationData []byte        // nil: none
	User            UserProperties
}

// messageProperty reads one of them.
func (c *cursor) messageProperty(p *Properties) {
	switch c.p.id {
	case payloadFormat:
		p.PayloadFormat = Some(c.propertyBit())
	case messageExpiry:
		p.MessageExpiry = Some(c.propertyU32())
	case contentType:
		p.ContentType = c.propertyText()
	case responseTopic:
		p.ResponseTopic = c.topic(c.what(), false)
	case correlationData:
		p.CorrelationData = c.propertyBinary()
	}
}

func (p *Properties) append(b []byte) []byte {
	b = appendOctet(b, payloadFormat, p.PayloadFormat)
	b = appendU32(b, messageExpiry, p.MessageExpiry)
	b = appendBinaryProperty(b, contentType, p.ContentType)
	b = appendBinaryProperty(b, responseTopic, p.ResponseTopic)
	b = appendBinaryProperty(b, correlationData, p.CorrelationData)
	return p.User.append(b)
}

// Publish is a message. Reading and writing one takes no memory beyond the buffer.
type Publish struct {
	Duplicate bool // sent before, perhaps
	QoS       QoS
	Retain    bool
	// Topic is what Append writes, unless it is empty and RawTopic is not. DecodePublish leaves it empty and sets RawTopic, which refers to the body: the
	// caller may have the string already.
	Topic    string
	RawTopic []byte
	ID       uint16 // packet identifier; 0 with QoS 0
	// TopicAlias is a number that stands for the topic on this connection, or is to; 0: none. With one, and in 5.0 only, the topic may be empty.
	TopicAlias uint16
	// SubscriptionIDs are those of the subscriptions for which the server sends the message. Clients send none.
	SubscriptionIDs []uint32
	Properties
	Payload []byte
}

const (
	flagDuplicate = 8
	flagRetain    = 1
)

// DecodePublish reads a PUBLISH. The message refers to the body.
func DecodePublish(r Rules, h Header, body []byte) (Publish, error) {
	c := begin(r, h, body, PUBLISH)
	p := Publish{Duplicate: h.Flags&flagDuplicate != 0, QoS: QoS(h.Flags >> 1 & 3), Retain: h.Flags&flagRetain != 0}
	p.RawTopic = c.topic("the topic name", true)
	if p.QoS > AtMostOnce {
		p.ID = c.id()
	}
	c.publishProperties(&p)
	if len(p.RawTopic) == 0 && p.TopicAlias == 0 {
		c.fail(ProtocolError, "there is neither a topic name nor a topic alias")
	}
	if c.err != nil {
		return Publish{}, c.err
	}
	p.Payload = c.rest[:len(c.rest):len(c.rest)]
	return p, nil
}

func (c *cursor) publishProperties(p *Publish) {
	allowed := publishProperties
	if c.rules.From == Server {
		allowed |= subscribeProperties
	}
	c.properties(allowed)
	for c.property() {
		switch c.p.id {
		case topicAlias:
			p.TopicAlias = positive(c, c.propertyU16(), TopicAliasInvalid)
		case subscriptionID:
			p.SubscriptionIDs = append(p.SubscriptionIDs, positive(c, c.number(c.what()), ProtocolError))
		default:
			c.messageProperty(&p.Properties)
		}
	}
	p.User = c.userProperties()
}

// Append appends the packet.
func (p Publish) Append(b []byte, v Version) []byte {
	flags := byte(p.QoS) << 1
	if p.Duplicate {
		flags |= flagDuplicate
	}
	if p.Retain {
		flags |= flagRetain
	}
	start := len(b) + 1
	b = appendHead(b, PUBLISH, flags)
	if p.Topic != "" {
		b = appendText(b, p.Topic)
	} else {
		b = appendText(b, p.RawTopic)
	}
	if p.QoS > AtMostOnce {
		b = binary.BigEndian.AppendUint16(b, p.ID)
	}
	if v == V5 {
		at := len(b)
		b = appendU16(append(b, 0), topicAlias, orZero(p.TopicAlias))
		for _, id := range p.SubscriptionIDs {
			b = appendVarint(append(b, byte(subscriptionID)), id)
		}
		b = closeLength(p.Properties.append(b), at, 0)
	}
	b = closeLength(b, start, len(p.Payload))
	return append(b, p.Payload...)
}

// Ack is a PUBACK, PUBREC, PUBREL or PUBCOMP. In 3.1.1 it has nothing but the packet identifier.
type Ack struct {
	Type         Type
	ID           uint16
	Reason       Reason
	ReasonString string // "": none
	User         UserProperties
}

// DecodeAck reads a PUBACK, PUBREC, PUBREL or PUBCOMP.
func DecodeAck(r Rules, h Header, body []byte) (Ack, error) {
	want := h.Type
	if want < PUBACK || want > PUBCOMP {
		want = PUBACK
	}
	c := begin(r, h, body, want)
	p := Ack{Type: h.Type, ID: c.id()}
	if r.Version == V5 && len(c.rest) > 0 {
		p.Reason = c.reason()
	}
	if r.Version == V5 && len(c.rest) > 0 {
		p.ReasonString, p.User = c.answer(answerProperties)
	}
	if err := c.end(); err != nil {
		return Ack{}, err
	}
	return p, nil
}

// answer reads the properties of an answer that has no other ones.
func (c *cursor) answer(allowed set) (reason string, user UserProperties) {
	c.properties(allowed)
	for c.property() {
		reason = string(c.propertyText())
	}
	return reason, c.userProperties()
}

// Append appends the packet.
func (p Ack) Append(b []byte, v Version) []byte {
	start := len(b) + 1
	b = binary.BigEndian.AppendUint16(appendHead(b, p.Type, p.Type.flags()), p.ID)
	bare := p.ReasonString == "" && len(p.User) == 0
	if v != V5 || bare && p.Reason == Success {
		return closeLength(b, start, 0)
	}
	b = append(b, byte(p.Reason))
	if !bare {
		b = appendAnswer(b, p.ReasonString, p.User)
	}
	return closeLength(b, start, 0)
}

func appendAnswer(b []byte, reason string, user UserProperties) []byte {
	at := len(b)
	b = appendTextProperty(append(b, 0), reasonString, reason)
	return closeLength(user.append(b), at, 0)
}
