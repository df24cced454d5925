package mqtt

import "encoding/binary"

// Subscription is a topic filter and how messages are to be sent for it.
type Subscription struct {
	Filter            string // is still to be judged by CheckFilter, as each filter has an answer of its own
	QoS               QoS    // the highest that is wanted
	NoLocal           bool   // not those that the client itself sent
	RetainAsPublished bool   // with the retain flag that they came with
	RetainHandling    RetainHandling
}

// RetainHandling says when retained messages are sent for a subscription.
type RetainHandling uint8

// When they are sent.
const (
	RetainSend    RetainHandling = 0 // always
	RetainSendNew RetainHandling = 1 // when there was no such subscription before
	RetainNone    RetainHandling = 2 // never
)

// Subscribe asks for messages.
type Subscribe struct {
	ID             uint16
	SubscriptionID uint32 // 0: none
	User           UserProperties
	Filters        []Subscription // one at least
	// Beyond is how many filters followed that were read and not kept, because of Limits.Filters; the answer has a code for each of them too.
	Beyond int
}

// The options of a subscription (section 3.8.3.1).
const (
	optionQoS               = 3
	optionNoLocal           = 4
	optionRetainAsPublished = 8
	optionRetainHandling    = 0x30
	optionReserved          = 0xC0
)

// DecodeSubscribe reads a SUBSCRIBE. Filters are strings as the standard has them; whether they are good filters, CheckFilter says.
func DecodeSubscribe(r Rules, h Header, body []byte) (Subscribe, error) {
	c := begin(r, h, body, SUBSCRIBE)
	p := Subscribe{ID: c.id()}
	c.properties(subscribeProperties)
	for c.property() {
		p.SubscriptionID = positive(&c, c.number(c.what()), ProtocolError)
	}
	p.User = c.userProperties()
	c.filters(func(filter []byte) {
		options := c.u8("the options of a filter")
		c.options(filter, options)
		switch {
		case c.err != nil:
		case len(p.Filters) >= c.rules.Limits.Resolved().Filters:
			p.Beyond++
		default:
			p.Filters = append(p.Filters, subscription(filter, options))
		}
	})
	if err := c.end(); err != nil {
		return Subscribe{}, err
	}
	return p, nil
}

// filters reads filters up to the end, one at least, and what each has behind it.
func (c *cursor) filters(each func(filter []byte)) {
	if c.err == nil && len(c.rest) == 0 {
		c.fail(ProtocolError, "there is no filter")
	}
	for c.err == nil && len(c.rest) > 0 {
		if filter := c.text("a topic filter"); c.err == nil {
			each(filter)
		}
	}
}

func (c *cursor) options(filter []byte, options uint8) {
	switch {
	case c.err != nil:
	case c.rules.Version != V5 && options&^optionQoS != 0:
		c.fail(Malformed, "a reserved option of a filter is set")
	case options&optionReserved != 0:
		c.fail(Malformed, "a reserved option of a filter is set")
	case options&optionQoS == 3:
		c.fail(ProtocolError, "the QoS of a filter is 3")
	case options&optionRetainHandling == optionRetainHandling:
		c.fail(ProtocolError, "the Retain Handling of a filter is 3")
	case options&optionNoLocal != 0 && len(filter) >= len(sharePrefix) && string(filter[:len(sharePrefix)]) == sharePrefix:
		c.fail(ProtocolError, "a shared subscription is asked not to have the client's own messages (No Local)")
	}
}

func subscription(filter []byte, options uint8) Subscription {
	return Subscription{
		Filter: string(filter), QoS: QoS(options & optionQoS), NoLocal: options&optionNoLocal != 0,
		RetainAsPublished: options&optionRetainAsPublished != 0, RetainHandling: RetainHandling(options & optionRetainHandling >> 4),
	}
}

// Append appends the packet. 3.1.1 has only the filters and their QoS.
func (p Subscribe) Append(b []byte, v Version) []byte {
	start := len(b) + 1
	b = binary.BigEndian.AppendUint16(appendHead(b, SUBSCRIBE, SUBSCRIBE.flags()), p.ID)
	if v == V5 {
		at := len(b)
		b = append(b, 0)
		if p.SubscriptionID != 0 {
			b = appendVarint(append(b, byte(subscriptionID)), p.SubscriptionID)
		}
		b = closeLength(p.User.append(b), at, 0)
	}
	for _, s := range p.Filters {
		b = append(appendText(b, s.Filter), s.options(v))
	}
	return closeLength(b, start, 0)
}

func (s Subscription) options(v Version) byte {
	o := byte(s.QoS)
	if v != V5 {
		return o
	}
	if s.NoLocal {
		o |= optionNoLocal
	}
	if s.RetainAsPublished {
		o |= optionRetainAsPublished
	}
	return o | byte(s.RetainHandling)<<4
}

// Suback answers a SUBSCRIBE, with a reason for each filter in their order: the QoS that is granted, or why nothing is.
type Suback struct {
	ID           uint16
	ReasonString string // "": none
	User         UserProperties
	Reasons      []Reason
}

// DecodeSuback reads a SUBACK.
func DecodeSuback(r Rules, h Header, body []byte) (Suback, error) {
	c := begin(r, h, body, SUBACK)
	p := Suback{ID: c.id()}
	p.ReasonString, p.User = c.answer(answerProperties)
	p.Reasons = c.reasons()
	if err := c.end(); err != nil {
		return Suback{}, err
	}
	return p, nil
}

// reasons reads reason codes up to the end, one at least.
func (c *cursor) reasons() []Reason {
	if c.err == nil && len(c.rest) == 0 {
		c.fail(ProtocolError, "there is no reason code")
	}
	list := make([]Reason, 0, len(c.rest))
	for c.err == nil && len(c.rest) > 0 {
		r := c.reason()
		if c.rules.Version == V311 && r > GrantedQoS2 && r != Unspecified {
			c.fail(ProtocolError, "there is a return code that 3.1.1 does not have")
		}
		list = append(list, r)
	}
	return list
}

// Append appends the packet. In 3.1.1 each refusal has the code 0x80.
func (p Suback) Append(b []byte, v Version) []byte {
	start := len(b) + 1
	b = binary.BigEndian.AppendUint16(appendHead(b, SUBACK, 0), p.ID)
	if v == V5 {
		b = appendAnswer(b, p.ReasonString, p.User)
	}
	for _, r := range p.Reasons {
		if v != V5 && r.Failed() {
			r = Unspecified
		}
		b = append(b, byte(r))
	}
	return closeLength(b, start, 0)
}

// Unsubscribe takes subscriptions back.
type Unsubscribe struct {
	ID      uint16
	User    UserProperties
	Filters []string // one at least
	Beyond  int      // as in Subscribe
}

// DecodeUnsubscribe reads an UNSUBSCRIBE.
func DecodeUnsubscribe(r Rules, h Header, body []byte) (Unsubscribe, error) {
	c := begin(r, h, body, UNSUBSCRIBE)
	p := Unsubscribe{ID: c.id()}
	c.properties(unsubscribeProperties)
	for c.property() { // none but user properties
		continue
	}
	p.User = c.userProperties()
	c.filters(func(filter []byte) {
		if len(p.Filters) >= c.rules.Limits.Resolved().Filters {
			p.Beyond++
			return
		}
		p.Filters = append(p.Filters, string(filter))
	})
	if err := c.end(); err != nil {
		return Unsubscribe{}, err
	}
	return p, nil
}

// Append appends the packet.
func (p Unsubscribe) Append(b []byte, v Version) []byte {
	start := len(b) + 1
	b = binary.BigEndian.AppendUint16(appendHead(b, UNSUBSCRIBE, UNSUBSCRIBE.flags()), p.ID)
	if v == V5 {
		at := len(b)
		b = closeLength(p.User.append(append(b, 0)), at, 0)
	}
	for _, filter := range p.Filters {
		b = appendText(b, filter)
	}
	return closeLength(b, start, 0)
}

// Unsuback answers an UNSUBSCRIBE; in 5.0 with a reason for each filter.
type Unsuback struct {
	ID           uint16
	ReasonString string // "": none
	User         UserProperties
	Reasons      []Reason
}

// DecodeUnsuback reads an UNSUBACK.
func DecodeUnsuback(r Rules, h Header, body []byte) (Unsuback, error) {
	c := begin(r, h, body, UNSUBACK)
	p := Unsuback{ID: c.id()}
	if r.Version == V5 {
		p.ReasonString, p.User = c.answer(answerProperties)
		p.Reasons = c.reasons()
	}
	if err := c.end(); err != nil {
		return Unsuback{}, err
	}
	return p, nil
}

// Append appends the packet.
func (p Unsuback) Append(b []byte, v Version) []byte {
	start := len(b) + 1
	b = binary.BigEndian.AppendUint16(appendHead(b, UNSUBACK, 0), p.ID)
	if v == V5 {
		b = appendAnswer(b, p.ReasonString, p.User)
		for _, r := range p.Reasons {
			b = append(b, byte(r))
		}
	}
	return closeLength(b, start, 0)
}
