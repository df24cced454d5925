package mqtt

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"mooring/internal/core/message"
	"mooring/internal/core/message/policy"
	"mooring/wire/mqtt"
)

// CONNACK says what the policy grants, as far as it is not what the client asked for.
func TestConnack(t *testing.T) {
	for _, row := range []struct {
		name   string
		limits func(*policy.Limits)
		ask    func(*mqtt.Connect)
		want   func(*mqtt.Connack)
	}{
		{"as asked", nil, nil, nil},
		{"keep-alive is too long", nil, func(p *mqtt.Connect) { p.KeepAlive = 61 }, func(a *mqtt.Connack) { a.ServerKeepAlive = mqtt.Some(uint16(60)) }},
		{"no keep-alive", nil, func(p *mqtt.Connect) { p.KeepAlive = 0 }, func(a *mqtt.Connack) { a.ServerKeepAlive = mqtt.Some(uint16(60)) }},
		{"session for ever", nil, func(p *mqtt.Connect) { p.SessionExpiry = ^uint32(0) }, func(a *mqtt.Connack) { a.SessionExpiry = mqtt.Some(uint32(3600)) }},
		{"session in bounds", nil, func(p *mqtt.Connect) { p.SessionExpiry = 3600 }, nil},
		{"no client identifier", nil, func(p *mqtt.Connect) { p.ClientID = "" }, func(a *mqtt.Connack) { a.AssignedClientID = "dev-1" }},
		{"QoS 1 at most", func(l *policy.Limits) { l.MaxQoS = 1 }, nil, func(a *mqtt.Connack) { a.MaximumQoS = mqtt.Some(mqtt.AtLeastOnce) }},
		{"no retaining", func(l *policy.Limits) { l.Retain = false }, nil, func(a *mqtt.Connack) { a.RetainAvailable = mqtt.Some(false) }},
		{"sharing", func(l *policy.Limits) { l.Shared = true }, nil, func(a *mqtt.Connack) { a.SharedAvailable = mqtt.Some(true) }},
		{"other sizes", func(l *policy.Limits) { l.Packet, l.InFlightIn, l.Aliases = 1000, 3, 0 }, nil, func(a *mqtt.Connack) {
			a.MaximumPacketSize, a.ReceiveMaximum, a.TopicAliasMaximum = 1000, 3, 0
		}},
	} {
		t.Run(row.name, func(t *testing.T) {
			bubble(t, func(h *hub, c *client) {
				if row.limits != nil {
					row.limits(&h.limits)
				}
				want := mqtt.Connack{ReceiveMaximum: 8, MaximumPacketSize: 128 << 10, TopicAliasMaximum: 4, SharedAvailable: mqtt.Some(false)}
				if row.want != nil {
					row.want(&want)
				}
				c.is(c.hello("dev-1", row.ask), want)
			})
		})
	}
}

// The acknowledgements leave in the order of the messages, whatever the order in which they are stored, and not before.
func TestAcknowledgementsKeepTheOrder(t *testing.T) {
	bubble(t, func(h *hub, c *client) {
		c.hello("dev-1", nil)
		h.stuck = true
		for id := uint16(1); id <= 8; id++ {
			c.send(mqtt.Publish{Topic: "all/a", QoS: mqtt.QoS(1 + id%2), ID: id})
		}
		c.alive() // and nothing was acknowledged before this answer
		h.unstick()
		for id := uint16(1); id <= 8; id++ {
			want := mqtt.PUBACK
			if id%2 == 1 {
				want = mqtt.PUBREC
			}
			c.is(expect[mqtt.Ack](c), ackOf(want, id, 0))
		}
	})
}

// More messages under way than CONNACK allows.
func TestReceiveMaximum(t *testing.T) {
	t.Run("5.0", func(t *testing.T) {
		bubble(t, func(h *hub, c *client) {
			c.hello("dev-1", nil)
			h.stuck = true
			for id := uint16(1); id <= 8; id++ {
				c.send(mqtt.Publish{Topic: "all/a", QoS: 1, ID: id})
			}
			c.alive()
			c.send(mqtt.Publish{Topic: "all/a", QoS: 1, ID: 9})
			c.after(0, "receive maximum exceeded")
		})
	})
	t.Run("QoS 2 counts until it is released", func(t *testing.T) {
		bubble(t, func(_ *hub, c *client) {
			c.hello("dev-1", nil)
			for id := uint16(1); id <= 8; id++ {
				c.send(mqtt.Publish{Topic: "all/a", QoS: 2, ID: id})
				expect[mqtt.Ack](c)
			}
			c.send(mqtt.Publish{Topic: "all/a", QoS: 2, ID: 8, Duplicate: true}) // again, so not one more
			c.is(expect[mqtt.Ack](c), ackOf(mqtt.PUBREC, 8, 0))
			c.send(mqtt.Ack{Type: mqtt.PUBREL, ID: 3})
			c.is(expect[mqtt.Ack](c), ackOf(mqtt.PUBCOMP, 3, 0))
			c.send(mqtt.Publish{Topic: "all/a", QoS: 2, ID: 9})
			c.is(expect[mqtt.Ack](c), ackOf(mqtt.PUBREC, 9, 0))
			c.send(mqtt.Publish{Topic: "all/a", QoS: 2, ID: 10})
			c.after(0, "receive maximum exceeded")
		})
	})
	t.Run("3.1.1 is not read any more", func(t *testing.T) {
		bubble(t, func(h *hub, c *client) {
			c.hello("dev-1", v311)
			h.stuck = true
			go func() {
				for id := uint16(1); id <= 20; id++ {
					c.raw(string(mqtt.Publish{Topic: "all/a", QoS: 1, ID: id}.Append(nil, mqtt.V311)))
				}
			}()
			synctest.Wait()
			if n := len(h.seen()); n != 1+8 {
				t.Errorf("%d messages reached core, want 8", n-1)
			}
			h.unstick()
			for id := uint16(1); id <= 20; id++ {
				c.is(expect[mqtt.Ack](c), ackOf(mqtt.PUBACK, id, 0))
			}
		})
	})
	t.Run("3.1.1 that releases nothing", func(t *testing.T) {
		bubble(t, func(_ *hub, c *client) {
			c.hello("dev-1", v311)
			for id := uint16(1); id <= 8+maxHeld; id++ {
				c.send(mqtt.Publish{Topic: "all/a", QoS: 2, ID: id})
				expect[mqtt.Ack](c)
			}
			c.send(mqtt.Publish{Topic: "all/a", QoS: 2, ID: 60000})
			c.after(0, "")
		})
	})
}

// QoS 2 from the peer, with repetitions at each step: the message is stored once.
func TestExactlyOnceIn(t *testing.T) {
	for _, version := range []mqtt.Version{mqtt.V311, mqtt.V5} {
		t.Run(version.String(), func(t *testing.T) {
			bubble(t, func(h *hub, c *client) {
				c.hello("dev-1", func(p *mqtt.Connect) { p.Version = version })
				p := mqtt.Publish{Topic: "all/a", QoS: 2, ID: 5, Payload: []byte("x")}
				for range 3 {
					c.send(p)
					c.is(expect[mqtt.Ack](c), ackOf(mqtt.PUBREC, 5, 0))
					p.Duplicate = true
				}
				unknown := mqtt.PacketIDNotFound
				if version == mqtt.V311 {
					unknown = mqtt.Success
				}
				for _, want := range []mqtt.Reason{0, unknown, unknown} {
					c.send(mqtt.Ack{Type: mqtt.PUBREL, ID: 5})
					c.is(expect[mqtt.Ack](c), ackOf(mqtt.PUBCOMP, 5, want))
				}
				c.send(mqtt.Publish{Topic: "all/a", QoS: 2, ID: 5, Payload: []byte("y")}) // the identifier is free again
				c.is(expect[mqtt.Ack](c), ackOf(mqtt.PUBREC, 5, 0))
				stored := slices.DeleteFunc(h.seen(), func(e string) bool { return !strings.HasPrefix(e, "store") })
				c.is(stored, []string{"store all/a x", "store all/a y"})
			})
		})
	}
}

// QoS 2 to the peer, which loses its connection at each step.
func TestExactlyOnceOut(t *testing.T) {
	w := newWorld(t, nil)
	keep := func(p *mqtt.Connect) { p.CleanStart, p.SessionExpiry = false, 600 }
	c, answer := w.connect("dev-1", keep)
	c.is(answer.SessionPresent, false)
	c.subscribe(mqtt.Subscription{Filter: "all/#", QoS: 2})
	w.hub.send(message.Message{Topic: "all/a", QoS: 2, Payload: []byte("x")})
	expect[mqtt.Publish](c)
	again := func() {
		t.Helper()
		_ = c.Close()
		c, answer = w.connect("dev-1", keep)
		c.is(answer.SessionPresent, true)
	}
	again()
	p := expect[mqtt.Publish](c)
	c.is([]any{p.Duplicate, p.QoS, p.ID, string(p.Payload)}, []any{true, 2, 1, "x"})
	c.send(mqtt.Ack{Type: mqtt.PUBREC, ID: 1})
	c.is(expect[mqtt.Ack](c), ackOf(mqtt.PUBREL, 1, 0))
	again()
	c.is(expect[mqtt.Ack](c), ackOf(mqtt.PUBREL, 1, 0))
	c.send(mqtt.Ack{Type: mqtt.PUBCOMP, ID: 1})
	c.alive()
	again()
	c.alive() // nothing comes any more
	c.send(mqtt.Ack{Type: mqtt.PUBREC, ID: 77})
	c.is(expect[mqtt.Ack](c), ackOf(mqtt.PUBREL, 77, mqtt.PacketIDNotFound))
}

// A PUBREC that refuses ends the delivery.
func TestRefusedDelivery(t *testing.T) {
	bubble(t, func(h *hub, c *client) {
		c.hello("dev-1", nil)
		c.subscribe(mqtt.Subscription{Filter: "all/#", QoS: 2})
		h.send(message.Message{Topic: "all/a", QoS: 2})
		c.send(mqtt.Ack{Type: mqtt.PUBREC, ID: expect[mqtt.Publish](c).ID, Reason: mqtt.QuotaExceeded})
		c.alive()
		if !has(h.seen(), "settled 1 false") {
			t.Errorf("core heard %q", h.seen())
		}
	})
}

// Each filter has its own answer.
func TestSubscribeAnswers(t *testing.T) {
	w := newWorld(t, nil)
	for _, row := range []struct {
		filter  string
		want    mqtt.Reason
		older   mqtt.Reason
		granted bool
	}{
		{"all/#", 1, 1, true},
		{"v1/dev-1/+", 1, 1, true},
		{"#", mqtt.NotAuthorised, mqtt.Unspecified, false},
		{"+/+/+", mqtt.NotAuthorised, mqtt.Unspecified, false},
		{"v1/dev-2/x", mqtt.NotAuthorised, mqtt.Unspecified, false},
		{"$SYS/#", mqtt.NotAuthorised, mqtt.Unspecified, false},
		{"$share/g/all/#", mqtt.SharedNotSupported, mqtt.Unspecified, false},
		{"$share//all/#", mqtt.TopicFilterInvalid, mqtt.Unspecified, false},
		{"$share/g", mqtt.TopicFilterInvalid, mqtt.Unspecified, false},
		{"all/#/x", mqtt.TopicFilterInvalid, mqtt.Unspecified, false},
		{"all/x+", mqtt.TopicFilterInvalid, mqtt.Unspecified, false},
		{"", mqtt.TopicFilterInvalid, mqtt.Unspecified, false},
		{strings.Repeat("/", 8), mqtt.TopicFilterInvalid, mqtt.Unspecified, false},
		{"all/" + longText(125), mqtt.TopicFilterInvalid, mqtt.Unspecified, false},
		{"all/\uffff", mqtt.TopicFilterInvalid, mqtt.Unspecified, false},
	} {
		t.Run(row.filter, func(t *testing.T) {
			w := w.in(t)
			c, _ := w.connect("dev-1", nil)
			c.is(c.subscribe(mqtt.Subscription{Filter: row.filter, QoS: 1}, mqtt.Subscription{Filter: "all/x"}), []mqtt.Reason{row.want, 0})
			older, _ := w.connect("dev-1", v311)
			older.is(older.subscribe(mqtt.Subscription{Filter: row.filter, QoS: 1}), []mqtt.Reason{row.older})
		})
	}
	t.Run("too many filters", func(t *testing.T) {
		c, _ := w.in(t).connect("dev-1", nil)
		all := slices.Repeat([]mqtt.Subscription{{Filter: "all/x"}}, 6)
		c.is(c.subscribe(all...), []mqtt.Reason{0, 0, 0, 0, mqtt.QuotaExceeded, mqtt.QuotaExceeded})
		c.send(mqtt.Unsubscribe{ID: 1, Filters: []string{"all/x", "b", "c", "d", "e"}})
		none := mqtt.NoSubscriptionExisted
		c.is(expect[mqtt.Unsuback](c).Reasons, []mqtt.Reason{0, none, none, none, mqtt.ImplementationSpecific})
	})
}

// Retained messages that a subscription brings follow its answer.
func TestRetainedFollowTheAnswer(t *testing.T) {
	bubble(t, func(_ *hub, c *client) {
		c.hello("dev-1", nil)
		c.send(mqtt.Publish{Topic: "all/a", Retain: true, Payload: []byte("kept")})
		c.is(c.subscribe(mqtt.Subscription{Filter: "all/#", RetainAsPublished: true}), []mqtt.Reason{0})
		p := expect[mqtt.Publish](c)
		c.is([]any{string(p.Payload), p.Retain}, []any{"kept", true})
	})
}

// What 5.0 lets a message carry goes from one end to the other, and 3.1.1 gets the message without.
func TestProperties(t *testing.T) {
	w := newWorld(t, nil)
	to, _ := w.connect("dev-2", nil)
	to.send(mqtt.Subscribe{ID: 1, SubscriptionID: 300, Filters: []mqtt.Subscription{{Filter: "all/#", QoS: 1}}})
	expect[mqtt.Suback](to)
	to.send(mqtt.Subscribe{ID: 2, SubscriptionID: 7, Filters: []mqtt.Subscription{{Filter: "all/a", QoS: 1}}})
	expect[mqtt.Suback](to)
	older, _ := w.connect("dev-3", v311)
	older.subscribe(mqtt.Subscription{Filter: "all/#", QoS: 1})
	from, _ := w.connect("dev-1", nil)
	properties := mqtt.Properties{PayloadFormat: mqtt.Some(uint8(1)), MessageExpiry: mqtt.Some(uint32(60)), ContentType: []byte("text/plain"), ResponseTopic: []byte("all/answer"),
		CorrelationData: []byte{1, 2}, User: mqtt.UserProperties(nil).Add("a", "1").Add("a", "2")}
	from.send(mqtt.Publish{Topic: "all/a", QoS: 1, ID: 1, Properties: properties, Payload: []byte("héllo")})
	expect[mqtt.Ack](from)
	got := expect[mqtt.Publish](to)
	slices.Sort(got.SubscriptionIDs)
	to.is(got.SubscriptionIDs, []uint32{7, 300}) // one message for both
	to.is(got.Properties, properties)
	to.alive()
	plain := expect[mqtt.Publish](older)
	older.is([]any{string(plain.Payload), plain.ContentType == nil}, []any{"héllo", true})

	from.send(mqtt.Publish{Topic: "all/a", QoS: 1, ID: 2, Properties: mqtt.Properties{PayloadFormat: mqtt.Some(uint8(1))}, Payload: []byte("\xff")})
	from.is(expect[mqtt.Ack](from), ackOf(mqtt.PUBACK, 2, mqtt.PayloadFormatInvalid))
}

// Aliases of the client stand for topics until they are given another meaning.
func TestAliasesIn(t *testing.T) {
	bubble(t, func(h *hub, c *client) {
		c.hello("dev-1", nil)
		for _, p := range []mqtt.Publish{
			{Topic: "all/a", TopicAlias: 1}, {TopicAlias: 1}, {Topic: "all/b", TopicAlias: 4}, {TopicAlias: 4}, {TopicAlias: 1}, {Topic: "all/c", TopicAlias: 1}, {TopicAlias: 1},
		} {
			c.send(p)
		}
		c.alive()
		c.is(h.seen()[1:], []string{"store all/a ", "store all/a ", "store all/b ", "store all/b ", "store all/a ", "store all/c ", "store all/c "})
	})
}

// Aliases to the client, for the first topics and as many as it takes.
func TestAliasesOut(t *testing.T) {
	bubble(t, func(h *hub, c *client) {
		c.hello("dev-1", func(p *mqtt.Connect) { p.TopicAliasMaximum = 2 })
		c.subscribe(mqtt.Subscription{Filter: "all/#"})
		var got []string
		for _, topic := range []string{"a", "b", "c", "a", "b", "c"} {
			h.send(message.Message{Topic: "all/" + topic})
			p := expect[mqtt.Publish](c)
			got = append(got, fmt.Sprintf("%s=%d", p.RawTopic, p.TopicAlias))
		}
		c.is(got, []string{"all/a=1", "all/b=2", "all/c=0", "=1", "=2", "all/c=0"})
	})
}

// What is larger than the client takes is not said; a delivery of QoS 1 counts as done, and an alias that was to be new is free.
func TestMaximumPacketSizeOut(t *testing.T) {
	bubble(t, func(h *hub, c *client) {
		c.hello("dev-1", func(p *mqtt.Connect) { p.MaximumPacketSize, p.TopicAliasMaximum = 100, 1 })
		c.subscribe(mqtt.Subscription{Filter: "all/#", QoS: 1})
		for _, qos := range []byte{0, 1, 2} {
			h.send(message.Message{Topic: "all/large", QoS: qos, Payload: make([]byte, 100)})
		}
		h.send(message.Message{Topic: "all/small", QoS: 1, Payload: make([]byte, 80)})
		p := expect[mqtt.Publish](c)
		c.is([]any{string(p.RawTopic), p.TopicAlias, p.ID}, []any{"all/small", 1, 3})
		c.alive()
		if !has(h.seen(), "settled 1 false", "settled 2 false") {
			t.Errorf("core heard %q", h.seen())
		}
	})
}

// A packet above the server's limit.
func TestMaximumPacketSizeIn(t *testing.T) {
	bubble(t, func(h *hub, c *client) {
		h.limits.Packet = 200
		c.hello("dev-1", nil)
		c.send(mqtt.Publish{Topic: "all/a", Payload: make([]byte, 200-3-2-5-1)})
		c.alive()
		go c.send(mqtt.Publish{Topic: "all/a", Payload: make([]byte, 200-3-2-5)})
		c.after(0, "packet too large")
	})
}

// What CONNACK said is not available.
func TestNotAvailable(t *testing.T) {
	for _, row := range []struct {
		name string
		p    mqtt.Publish
		want string
	}{
		{"QoS", mqtt.Publish{Topic: "all/a", QoS: 2, ID: 1}, "QoS not supported"},
		{"retain", mqtt.Publish{Topic: "all/a", Retain: true}, "retain not supported"},
	} {
		t.Run(row.name, func(t *testing.T) {
			bubble(t, func(h *hub, c *client) {
				h.limits.MaxQoS, h.limits.Retain = 1, false
				c.hello("dev-1", nil)
				c.send(row.p)
				c.after(0, row.want)
			})
		})
	}
}

// Packets that follow CONNECT without waiting for the answer are taken, and answered after it.
func TestPipelinedPackets(t *testing.T) {
	w := newWorld(t, nil)
	c := w.dial("dev-1")
	c.send(mqtt.Connect{Version: mqtt.V5, ClientID: "dev-1", CleanStart: true}, mqtt.Subscribe{ID: 1, Filters: []mqtt.Subscription{{Filter: "all/#"}}},
		mqtt.Publish{Topic: "all/a", QoS: 1, ID: 2, Payload: make([]byte, 5000)}, mqtt.Pingreq{}, mqtt.Disconnect{})
	expect[mqtt.Connack](c)
	expect[mqtt.Suback](c)
	kinds := map[string]bool{}
	for p, err := c.next(); err == nil; p, err = c.next() {
		kinds[fmt.Sprintf("%T", p)] = true
	}
	until(t, "core has heard all of it", func() bool {
		return has(w.hub.seen(), "connect", "subscribe", "store all/a", "detach dev-1|dev-1 farewell")
	})
}

// Reason strings are left out for who asks for that.
func TestReasonStrings(t *testing.T) {
	w := newWorld(t, nil)
	for _, quiet := range []bool{false, true} {
		t.Run(fmt.Sprint("quiet: ", quiet), func(t *testing.T) {
			ask := func(p *mqtt.Connect) { p.NoProblemInfo = quiet }
			c, _ := w.in(t).connect("dev-1", ask)
			c.send(mqtt.Publish{TopicAlias: 2})
			if told := expect[mqtt.Disconnect](c); (told.ReasonString == "") != quiet || told.Reason != mqtt.ProtocolError {
				t.Errorf("told %+v", told)
			}
			answer := w.in(t).dial("dev-2").hello("dev-2", func(p *mqtt.Connect) { ask(p); p.AuthenticationMethod = mqtt.Some("SCRAM") })
			if (answer.ReasonString == "") != quiet || answer.Reason != mqtt.BadAuthenticationMethod {
				t.Errorf("answered %+v", answer)
			}
		})
	}
}
