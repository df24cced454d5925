package message_test

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"mooring/internal/core/access"
	"mooring/internal/core/audit"
	"mooring/internal/core/message"
	"mooring/internal/core/message/policy"
)

// TestRefusalsAreRecorded: who is refused a connection, a subscription or a message stands in the record with a fixed reason, once at once and not once for each time that he
// asks; the metrics count each of them.
func TestRefusalsAreRecorded(t *testing.T) {
	const often = 20
	visit := message.Visit{Front: "mqtt", Address: netip.MustParseAddrPort("192.0.2.77:4711")}
	come := func(name string, change ...func(*message.Attach)) func(n *node) {
		return func(n *node) {
			if _, err := n.try(name, change...); err == nil {
				n.w.t.Errorf("%s connects", name)
			}
		}
	}
	for _, row := range []struct {
		name                   string
		ask                    func(n *node)
		action, reason, source string
		text                   string
		more                   map[string]string
	}{
		{name: "nobody of the registry", ask: func(n *node) { _, _ = n.Service.Identify(n.w.t.Context(), visit, [][]byte{[]byte("nobody")}) },
			action: "message.connect", reason: "unknown", source: "stranger:192.0.2.0/24", text: "the certificate is none by which a device may talk"},
		{name: "a suspended device", ask: func(n *node) { _, _ = n.Service.Identify(n.w.t.Context(), visit, [][]byte{[]byte("suspended")}) },
			action: "message.connect", reason: "state", source: "device:" + idOf("suspended").String(), text: "the device may not talk by this certificate, or not in its state"},
		{name: "no group", ask: come("odd"), action: "message.connect", reason: "group", source: "device:" + idOf("odd").String(), text: "no group of the policy fits"},
		{name: "another one's client identifier", ask: come("dev-1", client("dev-2")), action: "message.connect", reason: "client", source: "device:" + idOf("dev-1").String(),
			text: "the client identifier is not one that it may have"},
		{name: "another one's will", ask: come("dev-1", will("v1/dev-2/state", "gone", 0)), action: "message.connect", reason: "will", source: "device:" + idOf("dev-1").String(),
			text: "the policy does not allow its will", more: map[string]string{"why": "denied"}},
		{name: "filters", ask: func(n *node) {
			p := n.connect("dev-3")
			for range often {
				p.conn.Subscribe(n.w.t.Context(), []message.Subscription{{Filter: "v1/dev-3/cmd/+"}, {Filter: "#"}, {Filter: "v1/+/cmd/+"}})
			}
			p.leave(message.ReasonFarewell)
		}, action: "message.subscribe", reason: "policy", source: "device:" + idOf("dev-3").String(), text: "the policy does not allow the filter", more: map[string]string{"why": "denied"}},
		{name: "too many filters", ask: func(n *node) {
			p := n.connect("dev-4")
			p.conn.Subscribe(n.w.t.Context(), []message.Subscription{{Filter: "v1/dev-4/cmd/a"}, {Filter: "v1/dev-4/cmd/b"}, {Filter: "v1/dev-4/cmd/c"}, {Filter: "v1/dev-4/cmd/d"}, {Filter: "v1/dev-4/cmd/e"}})
			p.leave(message.ReasonFarewell)
		}, action: "message.subscribe", reason: "quota", source: "device:" + idOf("dev-4").String(), text: "it has as many filters or subscriptions as it may have"},
		{name: "messages, with a connection for each", ask: func(n *node) {
			p := n.connect("dev-5")
			_ = p.publish(say("v1/dev-1/telemetry/x", "x", 1))
			p.leave(message.ReasonFarewell)
		}, action: "message.publish", reason: "policy", source: "device:" + idOf("dev-5").String(), text: "the policy does not allow it", more: map[string]string{"why": "denied"}},
	} {
		t.Run(row.name, func(t *testing.T) {
			w := newWorld(t)
			for _, name := range []string{"dev-1", "dev-2", "dev-3", "dev-4", "dev-5", "suspended"} {
				w.add(name)
			}
			w.add("odd", func(s *policy.Subject) { s.Kind, s.Role = policy.Service, "nothing" })
			w.deny("suspended", true)
			n := w.node()
			count := func() (n64 int64) {
				for _, r := range n.Metrics().Refusals {
					if r.Action == row.action && r.Reason == row.reason {
						n64 = r.N
					}
				}
				return n64
			}
			before := count()
			for range often {
				row.ask(n)
			}
			until(t, "each is counted", func() bool { return count() >= before+often })
			var list []audit.Entry
			until(t, "it is recorded", func() bool {
				list = slices.DeleteFunc(w.entries(row.action), func(e audit.Entry) bool { return e.Detail["front"] == "" }) // how node waits
				return len(list) > 0
			})
			if len(list) != 1 {
				t.Fatalf("the record has %d entries of %s, want 1: %v", len(list), row.action, list)
			}
			e := list[0]
			if e.Actor != row.source || e.Refused != row.text || e.Detail["front"] != "mqtt" {
				t.Errorf("it says %q of %s by %s, want %q of %s", e.Refused, e.Actor, e.Detail["front"], row.text, row.source)
			}
			for k, v := range row.more {
				if e.Detail[k] != v {
					t.Errorf("%s is %q, want %q", k, e.Detail[k], v)
				}
			}
		})
	}
}

// hanging is a record that takes no refusals until it is told to, as if the database did not answer.
type hanging struct {
	*audit.Log
	goOn chan struct{}
}

func (h *hanging) Refuse(ctx context.Context, who access.Actor, e audit.Entry) error {
	if e.Action == "message.publish" {
		select {
		case <-h.goOn:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return h.Log.Refuse(ctx, who, e)
}

// TestRefusedMessagesHoldNobodyUp: while refused messages cannot be recorded, everything else goes on; some of them wait, and the others are counted.
func TestRefusedMessagesHoldNobodyUp(t *testing.T) {
	const things = 300 // more than wait
	w := newWorld(t)
	h := &hanging{w.log, make(chan struct{})}
	w.record = h
	n := w.node()
	for i := range things {
		name := fmt.Sprint("dev-", i)
		w.add(name)
		if err := n.connect(name).publish(say("v1/other/telemetry/x", "x", 1)); err == nil {
			t.Fatal("it is not refused")
		}
	}
	w.add("good")
	p := n.connect("good", persistent)
	must(t, p.publish(say("v1/good/telemetry/x", "x", 2), 1)) // its session is stored by those who do what blocks
	dropped := n.Metrics().NotesDropped
	if dropped == 0 || dropped >= things {
		t.Errorf("of %d refusals %d are not recorded, want some", things, dropped)
	}
	close(h.goOn)
	until(t, "each is counted", func() bool {
		for _, r := range n.Metrics().Refusals {
			if r.Action == "message.publish" {
				return r.N == things
			}
		}
		return false
	})
}
