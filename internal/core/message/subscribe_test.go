package message_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"mooring/internal/base/errs"
	"mooring/internal/core/message"
)

// TestWildcards: filters above one's rights are refused, and nothing of them is delivered (acceptance: Wildcards).
func TestWildcards(t *testing.T) {
	w := newWorld(t)
	n := w.node()
	w.add("dev-1")
	w.add("victim")
	w.add("back", service)
	p := n.connect("dev-1")
	for _, row := range []struct {
		filter string
		kind   errs.Kind
	}{
		{"#", errs.Denied},
		{"v1/#", errs.Denied},
		{"+/+/+", errs.Denied},
		{"+/+/+/+", errs.Denied},
		{"v1/+/cmd/+", errs.Denied},
		{"+/dev-1/cmd/+", errs.Denied},
		{"v1/victim/cmd/a", errs.Denied},
		{"v1/dev-10/cmd/a", errs.Denied},
		{"V1/dev-1/cmd/a", errs.Denied},
		{"/v1/dev-1/cmd/a", errs.Denied},
		{"v1//dev-1/cmd/a", errs.Denied},
		{"v1/dev-1/cmd/#", errs.Denied},
		{"v1/dev-1/cmd", errs.Denied},
		{"v1/dev-1/../victim/cmd/a", errs.Denied},
		{"$share/g/v1/#", errs.Denied},
		{"$share/g/v1/dev-1/cmd/+", errs.Denied}, // devices may not share
		{"$share//x", errs.Invalid},
		{"$share/g", errs.Invalid},
		{"$share/+/v1/dev-1/cmd/a", errs.Invalid},
		{"$queue/v1/dev-1/cmd/a", errs.Denied},
		{"$SYS/#", errs.Denied},
		{"$JS/#", errs.Denied},
		{"$presence/#", errs.Denied},
		{"v1/dev-1/cmd/a#", errs.Invalid},
		{"v1/#/a", errs.Invalid},
		{"", errs.Invalid},
		{"v1/dev-1/cmd/\x00", errs.Invalid},
		{"v1/dev-1/cmd/\xff", errs.Invalid},
	} {
		t.Run(row.filter, func(t *testing.T) {
			g := p.conn.Subscribe(t.Context(), []message.Subscription{{Filter: row.filter, QoS: 1}})
			if !errs.Is(g[0].Err, row.kind) {
				t.Errorf("Subscribe = %+v, want %v", g[0], row.kind)
			}
		})
	}
	back := n.connect("back")
	p.subscribe("v1/dev-1/cmd/+")
	for _, topic := range []string{"v1/victim/cmd/a", "v1/dev-10/cmd/a", "v1/victim/tree/x"} {
		back.says(topic, "not for dev-1", 1)
	}
	p.silent(back, "v1/dev-1/cmd/a")
}

// TestAllOrPart: each filter of a request has its own answer.
func TestAllOrPart(t *testing.T) {
	w := newWorld(t)
	n := w.node()
	w.add("dev-1")
	w.add("back", service)
	p, back := n.connect("dev-1"), n.connect("back")
	got := p.conn.Subscribe(t.Context(), []message.Subscription{{Filter: "v1/dev-1/cmd/a", QoS: 2}, {Filter: "#", QoS: 0}, {Filter: "v1/group/g1/notice", QoS: 0}})
	if got[0].Err != nil || got[0].QoS != 2 || !errs.Is(got[1].Err, errs.Denied) || got[2].Err != nil || got[2].QoS != 0 {
		t.Fatalf("grants: %+v", got)
	}
	back.says("v1/group/g1/notice", "notice", 1)
	if d := p.next(); d.QoS != 0 || string(d.Message.Payload) != "notice" {
		t.Errorf("got %+v, want the notice with QoS 0", d)
	}
	if got := p.conn.Unsubscribe(t.Context(), []string{"v1/group/g1/notice", "v1/nothing"}); got[0] != nil || !errs.Is(got[1], errs.NotFound) {
		t.Errorf("Unsubscribe = %v, want nil and NotFound", got)
	}
	back.says("v1/group/g1/notice", "after it unsubscribed", 1)
	p.silent(back, "v1/dev-1/cmd/a")
}

// TestParentLevel: template/# is what lies below, in subscriptions too: MQTT's # means the level above as well, and that is not delivered.
func TestParentLevel(t *testing.T) {
	w := newWorld(t)
	n := w.node()
	w.add("dev-1")
	w.add("back", service)
	p, back := n.connect("dev-1"), n.connect("back")
	p.subscribe("v1/dev-1/tree/#", "v1/dev-1/cmd/+")
	back.says("v1/dev-1/tree", "the parent", 1)
	back.says("v1/dev-1/tree/a", "a", 1)
	back.says("v1/dev-1/tree/a/b", "b", 1)
	p.hears("a", "b")
	p.silent(back, "v1/dev-1/cmd/a")
}

// TestOptions: overlapping subscriptions deliver once, with the highest QoS that was granted and all identifiers; No Local; Retain As Published.
func TestOptions(t *testing.T) {
	sub := func(filter string, qos byte, id uint32) message.Subscription {
		return message.Subscription{Filter: filter, QoS: qos, ID: id}
	}
	for _, row := range []struct {
		name   string
		subs   []message.Subscription
		qos    byte // published
		retain bool
		want   string
	}{
		{"one", []message.Subscription{sub("v1/x/cmd/a", 1, 0)}, 2, false, "qos 1 ids []"},
		{"published with less", []message.Subscription{sub("v1/x/cmd/a", 2, 0)}, 0, false, "qos 0 ids []"},
		{"overlap", []message.Subscription{sub("v1/x/cmd/a", 0, 3), sub("v1/+/cmd/+", 2, 0), sub("v1/#", 1, 7)}, 2, false, "qos 2 ids [3 7]"},
		{"replaced", []message.Subscription{sub("v1/x/cmd/a", 2, 3), sub("v1/x/cmd/a", 1, 4)}, 2, false, "qos 1 ids [4]"},
		{"retained, live", []message.Subscription{sub("v1/x/cmd/a", 1, 0)}, 1, true, "qos 1 ids []"},
		{"retain as published", []message.Subscription{{Filter: "v1/x/cmd/a", QoS: 1, AsPublish: true}}, 1, true, "qos 1 ids [] retain"},
		{"retain as published by one of two", []message.Subscription{{Filter: "v1/x/cmd/a", QoS: 1, AsPublish: true}, sub("v1/#", 1, 0)}, 1, true, "qos 1 ids [] retain"},
		{"no local, of another", []message.Subscription{{Filter: "v1/x/cmd/a", QoS: 1, NoLocal: true}}, 1, false, "qos 1 ids []"},
	} {
		t.Run(row.name, func(t *testing.T) {
			w := newWorld(t)
			n := w.node()
			w.add("reader", service)
			w.add("writer", service)
			p, back := n.connect("reader"), n.connect("writer")
			for _, s := range row.subs {
				p.subscribeTo(s)
			}
			p.subscribe("v1/end/cmd/end")
			must(t, back.publish(&message.Message{Topic: "v1/x/cmd/a", Payload: []byte("x"), QoS: row.qos, Retain: row.retain}, 1))
			d := p.next()
			slices.Sort(d.Subs)
			got := fmt.Sprintf("qos %d ids %v", d.QoS, d.Subs)
			if d.Retain {
				got += " retain"
			}
			if got != row.want {
				t.Errorf("got %q, want %q", got, row.want)
			}
			p.ack(d)
			p.silent(back, "v1/end/cmd/end")
		})
	}
}

func TestNoLocal(t *testing.T) {
	w := newWorld(t)
	n := w.node()
	w.add("back", service)
	one, two := n.connect("back", client("one")), n.connect("back", client("two"))
	for _, p := range []*peer{one, two} {
		p.subscribeTo(message.Subscription{Filter: "v1/x/cmd/+", QoS: 1, NoLocal: true})
	}
	one.says("v1/x/cmd/a", "of one", 1)
	two.says("v1/x/cmd/a", "of two", 1)
	two.hears("of one")
	one.hears("of two")
	if g := one.conn.Subscribe(t.Context(), []message.Subscription{{Filter: "$share/g/v1/x/cmd/+", NoLocal: true}}); !errs.Is(g[0].Err, errs.Invalid) {
		t.Errorf("a shared subscription with No Local: %v, want Invalid", g[0].Err)
	}
}

// TestShared: each message goes to one member, to that with the fewest on their way; who leaves gives back what it had not acknowledged.
func TestShared(t *testing.T) {
	w := newWorld(t)
	n := w.node()
	w.add("back", service)
	w.add("dev-1")
	const filter = "$share/g/v1/dev-1/telemetry/#"
	a, b := n.connect("back", client("a"), window(2)), n.connect("back", client("b"), window(2))
	a.subscribe(filter)
	b.subscribe(filter)
	dev := n.connect("dev-1")
	for i := range 6 { // two more than both have room for
		dev.says("v1/dev-1/telemetry/x", fmt.Sprint(i), 1)
	}
	var got []string
	var ofB []message.Delivery
	for range 2 {
		d := a.next()
		got = append(got, string(d.Message.Payload))
		a.ack(d)
	}
	for range 2 {
		ofB = append(ofB, b.next())
	}
	for range 2 { // those that waited come to a, which has room
		d := a.next()
		got = append(got, string(d.Message.Payload))
		a.ack(d)
	}
	b.leave(message.ReasonLost)
	for range 2 {
		d := a.next()
		got = append(got, string(d.Message.Payload))
		a.ack(d)
	}
	slices.Sort(got)
	if strings.Join(got, "") != "012345" {
		t.Errorf("a got %v, want all six once", got)
	}
	if len(ofB) != 2 {
		t.Errorf("b had %d, want 2", len(ofB))
	}
	if g := a.conn.Unsubscribe(t.Context(), []string{filter}); g[0] != nil {
		t.Errorf("Unsubscribe: %v", g[0])
	}
	dev.says("v1/dev-1/telemetry/x", "for nobody", 1)
	a.subscribe("v1/dev-1/telemetry/#")
	dev.says("v1/dev-1/telemetry/x", "for a", 1)
	a.hears("for a")
}

// TestSubscriptionQuota: filters in a request, subscriptions of a session, levels of a filter.
func TestSubscriptionQuota(t *testing.T) {
	w := newWorld(t)
	n := w.node()
	w.add("dev-1")
	p := n.connect("dev-1")
	var list []message.Subscription
	for i := range 5 {
		list = append(list, message.Subscription{Filter: fmt.Sprint("v1/dev-1/cmd/", i)})
	}
	for i, g := range p.conn.Subscribe(t.Context(), list) {
		if (i == 4) != errs.Is(g.Err, errs.Limited) {
			t.Errorf("filter %d of a request: %v", i, g.Err)
		}
	}
	p.subscribe("v1/dev-1/cmd/4")
	g := p.conn.Subscribe(t.Context(), []message.Subscription{{Filter: "v1/dev-1/cmd/5"}, {Filter: "v1/dev-1/cmd/4", QoS: 1}})
	if !errs.Is(g[0].Err, errs.Limited) || g[1].Err != nil {
		t.Errorf("the sixth: %v, want Limited; the fifth again: %v, want nil", g[0].Err, g[1].Err)
	}
	if g := p.conn.Subscribe(t.Context(), []message.Subscription{{Filter: "v1/dev-1/tree" + strings.Repeat("/x", 65_535)}}); g[0].Err == nil {
		t.Error("65,535 levels were granted")
	}
	before := n.Metrics()
	p.leave(message.ReasonFarewell)
	if m := n.Metrics(); m.IndexNodes != 0 || m.Subscriptions != 0 || before.Subscriptions != 5 {
		t.Errorf("%d nodes and %d subscriptions stay in the index (before: %d), want none", m.IndexNodes, m.Subscriptions, before.Subscriptions)
	}
}

// TestSlowSubscriber: who does not read, or does not acknowledge, delays nobody, and takes a bounded part of memory.
func TestSlowSubscriber(t *testing.T) {
	w := newWorld(t)
	n := w.node()
	for _, name := range []string{"quick", "slow", "stalled", "writer"} {
		w.add(name, service)
	}
	quick, slow, stalled, writer := n.connect("quick"), n.connect("slow", window(1)), n.connect("stalled"), n.connect("writer")
	stalled.stalled = true
	for _, p := range []*peer{quick, slow} {
		p.subscribeTo(message.Subscription{Filter: "v1/x/cmd/+", QoS: 1})
	}
	stalled.subscribeTo(message.Subscription{Filter: "v1/x/cmd/+", QoS: 0})
	const many = 500
	for i := range many {
		writer.says("v1/x/cmd/a", fmt.Sprint(i), 1)
		quick.hears(fmt.Sprint(i))
	}
	if m := n.Metrics(); m.SlowDropped < many {
		t.Errorf("%d were dropped for the stalled one, want %d", m.SlowDropped, many)
	}
	for i := range many {
		slow.hears(fmt.Sprint(i))
	}
	if r := stalled.reason(); r != 0 {
		t.Errorf("the stalled one was disconnected: %d", r)
	}
}

// TestOrder: messages of one topic reach each subscriber in the order in which they were published.
func TestOrder(t *testing.T) {
	w := newWorld(t)
	n, other := w.node(), w.node()
	w.add("back", service)
	var devices []*peer
	reader := other.connect("back", window(3))
	reader.subscribeTo(message.Subscription{Filter: "v1/#", QoS: 1})
	for i := range 4 {
		name := fmt.Sprint("dev-", i)
		w.add(name)
		devices = append(devices, n.connect(name))
	}
	const each = 200
	for i := range each {
		for _, p := range devices {
			p.conn.Publish(say("v1/"+p.name+"/telemetry/x", fmt.Sprint(i), 1), 0, func(err error) {
				if err != nil {
					t.Errorf("Publish: %v", err)
				}
			})
		}
	}
	next := map[string]int{}
	for range each * len(devices) {
		d := reader.next()
		if want := fmt.Sprint(next[d.Message.Topic]); string(d.Message.Payload) != want {
			t.Fatalf("%s: got %s, want %s", d.Message.Topic, d.Message.Payload, want)
		}
		next[d.Message.Topic]++
		reader.ack(d)
	}
}

// TestSharedOverNodes: members on several nodes are one group, and who leaves leaves what he had to the others, on another node too.
func TestSharedOverNodes(t *testing.T) {
	w := newWorld(t)
	n, other := w.node(), w.node()
	w.add("back", service)
	w.add("dev-1")
	const filter = "$share/g/v1/dev-1/telemetry/#"
	a := n.connect("back", client("a"), window(200))
	a.subscribe(filter)
	b := other.connect("back", client("b"), window(200))
	b.subscribe(filter)
	dev := n.connect("dev-1")
	for _, p := range []*peer{a, b} {
		p.subscribeTo(message.Subscription{Filter: "v1/dev-1/state", QoS: 1})
	}
	// round publishes, and returns what each heard of it: the state comes to both, after all that was said before.
	round := func(texts ...string) (ofA, ofB []message.Delivery) {
		for _, text := range texts {
			dev.says("v1/dev-1/telemetry/x", text, 1)
		}
		dev.says("v1/dev-1/state", "end", 1)
		for p, list := range map[*peer]*[]message.Delivery{a: &ofA, b: &ofB} {
			for {
				d := p.next()
				if string(d.Message.Payload) == "end" {
					p.ack(d)
					break
				}
				*list = append(*list, d)
			}
		}
		return ofA, ofB
	}
	until(t, "they know of each other", func() bool { // until then both take all
		ofA, ofB := round("1", "2", "3", "4")
		for _, d := range ofA {
			a.ack(d)
		}
		for _, d := range ofB {
			b.ack(d)
		}
		return len(ofA)+len(ofB) == 4
	})
	var texts []string
	for i := range 40 {
		texts = append(texts, fmt.Sprint(i))
	}
	ofA, ofB := round(texts...)
	if len(ofA)+len(ofB) != 40 || len(ofA) == 0 || len(ofB) == 0 {
		t.Fatalf("a heard %d and b %d, want 40 together, and both some", len(ofA), len(ofB))
	}
	b.leave(message.ReasonLost)
	got := map[string]bool{}
	for _, d := range ofA {
		got[string(d.Message.Payload)] = true
		a.ack(d)
	}
	for len(got) < 40 { // what b had comes too
		d := a.next()
		got[string(d.Message.Payload)] = true
		a.ack(d)
	}
	for i := range 40 { // a gets all now
		dev.says("v1/dev-1/telemetry/x", fmt.Sprint("later ", i), 1)
	}
	for len(got) < 80 {
		d := a.next()
		got[string(d.Message.Payload)] = true
		a.ack(d)
	}
}

// TestManySubscriptions: ten thousand deep filters of one session take as many nodes of the index as they have levels and no more, slow nobody, and leave nothing behind; one more is refused
// (acceptance: 10,000 subscriptions, subscription trie bomb).
func TestManySubscriptions(t *testing.T) {
	w := newWorld(t)
	n := w.node()
	w.add("back", service)
	w.add("dev-1")
	p, dev := n.connect("back"), n.connect("dev-1")
	limits := p.got.Limits
	const most, levels = 10_000, 32
	if limits.Subscriptions != most || limits.Levels != levels {
		t.Fatalf("the limits are %d subscriptions of %d levels", limits.Subscriptions, limits.Levels)
	}
	p.subscribe("v1/dev-1/telemetry/#")
	for i := 1; i < most; i += limits.Filters {
		var list []message.Subscription
		for k := i; k < min(i+limits.Filters, most); k++ {
			list = append(list, message.Subscription{Filter: fmt.Sprint("v1/", k, strings.Repeat("/+", levels-2)), QoS: 1})
		}
		for _, g := range p.conn.Subscribe(t.Context(), list) {
			must(t, g.Err)
		}
	}
	if g := p.conn.Subscribe(t.Context(), []message.Subscription{{Filter: "v1/one/more"}}); !errs.Is(g[0].Err, errs.Limited) {
		t.Errorf("one more: %v, want Limited", g[0].Err)
	}
	if g := p.conn.Subscribe(t.Context(), []message.Subscription{{Filter: "v1" + strings.Repeat("/+", levels)}}); g[0].Err == nil {
		t.Error("a level more is granted")
	}
	if m := n.Metrics(); m.Subscriptions != most || m.IndexNodes > most*levels {
		t.Errorf("%d subscriptions take %d nodes", m.Subscriptions, m.IndexNodes)
	}
	dev.says("v1/dev-1/telemetry/x", "heard", 1)
	p.hears("heard")
	p.leave(message.ReasonFarewell)
	if m := n.Metrics(); m.IndexNodes != 0 || m.Subscriptions != 0 {
		t.Errorf("%d nodes and %d subscriptions stay", m.IndexNodes, m.Subscriptions)
	}
}
