package mqtt

import (
	"testing"

	"mooring/internal/core/message"
	"mooring/wire/mqtt"
)

// Both versions connect, publish, subscribe, hear and leave.
func TestConversation(t *testing.T) {
	for _, version := range []mqtt.Version{mqtt.V311, mqtt.V5} {
		t.Run(version.String(), func(t *testing.T) {
			w := newWorld(t, nil)
			set := func(p *mqtt.Connect) { p.Version = version }
			from, _ := w.connect("dev-1", set)
			to, _ := w.connect("dev-2", set)
			to.is(to.subscribe(mqtt.Subscription{Filter: "all/#", QoS: 1}, mqtt.Subscription{Filter: "v1/dev-2/cmd/+", QoS: 2}), []mqtt.Reason{1, 2})
			from.send(mqtt.Publish{Topic: "all/a", Payload: []byte("zero")})
			got := expect[mqtt.Publish](to)
			to.is([]any{string(got.RawTopic), string(got.Payload), got.QoS, got.ID, got.Retain, got.Duplicate}, []any{"all/a", "zero", 0, 0, false, false})
			from.is(from.publish("all/b", "one"), ackOf(mqtt.PUBACK, 9, 0))
			got = expect[mqtt.Publish](to)
			to.is([]any{string(got.RawTopic), string(got.Payload), got.QoS, got.ID}, []any{"all/b", "one", 1, 1})
			to.send(mqtt.Ack{Type: mqtt.PUBACK, ID: 1})
			w.hub.send(message.Message{Topic: "v1/dev-2/cmd/go", QoS: 2, Payload: []byte("two")})
			got = expect[mqtt.Publish](to)
			to.is([]any{string(got.RawTopic), got.QoS, got.ID}, []any{"v1/dev-2/cmd/go", 2, 2})
			to.send(mqtt.Ack{Type: mqtt.PUBREC, ID: 2})
			to.is(expect[mqtt.Ack](to), ackOf(mqtt.PUBREL, 2, 0))
			to.send(mqtt.Ack{Type: mqtt.PUBCOMP, ID: 2})
			to.alive()
			to.send(mqtt.Unsubscribe{ID: 3, Filters: []string{"all/#", "all/x"}})
			unsuback := expect[mqtt.Unsuback](to)
			if version == mqtt.V5 {
				to.is(unsuback.Reasons, []mqtt.Reason{mqtt.Success, mqtt.NoSubscriptionExisted})
			}
			from.is(from.publish("all/c", "unheard"), ackOf(mqtt.PUBACK, 9, 0))
			to.alive()
			for _, c := range []*client{from, to} {
				c.send(mqtt.Disconnect{})
				c.is(c.closed(), "")
			}
			until(t, "core has heard of both", func() bool {
				return has(w.hub.seen(), "connect mqtt dev-1|dev-1", "settled 1", "settled 2 true", "settled 2 false") &&
					has(w.hub.seen(), "detach dev-1|dev-1 farewell") && has(w.hub.seen(), "detach dev-2|dev-2 farewell")
			})
		})
	}
}
