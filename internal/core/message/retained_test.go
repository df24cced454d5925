package message_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"mooring/internal/base/errs"
	"mooring/internal/core/message"
	"mooring/internal/core/message/messagetest"
)

// TestRetainHandling: when a subscription is told what is retained.
func TestRetainHandling(t *testing.T) {
	for _, row := range []struct {
		name   string
		subs   []message.Subscription
		retain int // how often the retained message comes
	}{
		{"always", []message.Subscription{{Filter: "v1/x/state", Handling: 0}, {Filter: "v1/x/state", Handling: 0}}, 2},
		{"if it is new", []message.Subscription{{Filter: "v1/x/state", Handling: 1}, {Filter: "v1/x/state", Handling: 1}}, 1},
		{"never", []message.Subscription{{Filter: "v1/x/state", Handling: 2}}, 0},
		{"by a wildcard", []message.Subscription{{Filter: "v1/+/state"}}, 1},
		{"shared", []message.Subscription{{Filter: "$share/g/v1/x/state"}}, 0},
	} {
		t.Run(row.name, func(t *testing.T) {
			w := newWorld(t)
			n := w.node()
			w.add("x")
			w.add("back", service)
			must(t, n.connect("x").publish(retained("v1/x/state", "on")))
			p, writer := n.connect("back"), n.connect("back", client("w"))
			for _, s := range row.subs {
				s.QoS = 1
				p.subscribeTo(s)
			}
			for range row.retain {
				d := p.next()
				if !d.Retain || string(d.Message.Payload) != "on" || d.QoS != 1 {
					t.Fatalf("got %+v, want what is retained", d)
				}
				p.ack(d)
			}
			p.subscribe("v1/x/cmd/end")
			p.silent(writer, "v1/x/cmd/end")
		})
	}
}

// TestRetainedAuthor: what is retained is shown only while its author may speak and publish it, and the reader may read it (acceptance: Retained).
func TestRetainedAuthor(t *testing.T) {
	for _, row := range []struct {
		name   string
		author func(*world)
		change func(*world, *node)
		want   string
	}{
		{"nothing happened", func(w *world) { w.add("x") }, func(*world, *node) {}, "on"},
		{"revoked: hide", func(w *world) { w.add("x") }, func(w *world, n *node) {
			w.deny("x", true)
			_, err := n.Cut(w.t.Context(), message.Selector{Device: idOf("x"), Thing: "x"}, "revoked")
			must(w.t, err)
		}, ""},
		{"suspended and resumed", func(w *world) { w.add("x") }, func(w *world, n *node) {
			for _, denied := range []bool{true, false} {
				w.deny("x", denied)
				_, err := n.Cut(w.t.Context(), message.Selector{Device: idOf("x"), Thing: "x"}, "suspended")
				must(w.t, err)
			}
		}, "on"},
		{"revoked: mark", func(w *world) { w.add("x", tag("revoked", "mark")) }, func(w *world, n *node) {
			w.deny("x", true)
			_, err := n.Cut(w.t.Context(), message.Selector{Device: idOf("x"), Thing: "x"}, "revoked")
			must(w.t, err)
		}, "on author=revoked"},
		{"revoked: delete", func(w *world) { w.add("x", tag("revoked", "delete")) }, func(w *world, n *node) {
			w.deny("x", true)
			_, err := n.Cut(w.t.Context(), message.Selector{Device: idOf("x"), Thing: "x"}, "revoked")
			must(w.t, err)
			w.deny("x", false) // even if it comes back
			must(w.t, n.Changed(w.t.Context(), idOf("x")))
		}, ""},
		{"it may not publish that any more", func(w *world) { w.add("x") }, func(w *world, n *node) {
			_, err := n.SetPolicy(w.t.Context(), operator, strings.Replace(standard, "allow publish v1/${thing}/note/+", "allow publish v1/${thing}/notes/+", 1), 0)
			must(w.t, err)
			_, err = n.SetPolicy(w.t.Context(), operator, strings.ReplaceAll(strings.ReplaceAll(standard, "allow publish v1/${thing}/state max_qos 2 retain yes", ""), "allow will v1/${thing}/state max_qos 2 retain yes", ""), 1)
			must(w.t, err)
		}, ""},
	} {
		t.Run(row.name, func(t *testing.T) {
			w := newWorld(t)
			n := w.node()
			row.author(w)
			w.add("back", service)
			author := n.connect("x")
			must(t, author.publish(retained("v1/x/state", "on")))
			row.change(w, n)
			p, writer := n.connect("back"), n.connect("back", client("w"))
			p.subscribe("v1/x/state", "v1/x/cmd/end")
			if row.want != "" {
				d := p.next()
				got := string(d.Message.Payload)
				for _, u := range d.Message.User {
					got += " " + u.Name + "=" + u.Value
				}
				if got != row.want {
					t.Errorf("got %q, want %q", got, row.want)
				}
				p.ack(d)
			}
			p.silent(writer, "v1/x/cmd/end")
			m, err := p.conn.Retained(t.Context(), "v1/x/state")
			if row.want == "" && !errs.Is(err, errs.NotFound) || row.want != "" && err != nil {
				t.Errorf("Retained = %v, %v", m, err)
			}
		})
	}
}

// TestRetainedQuota: a flood of topics is bounded by the author's quota; what is removed or expires makes room.
func TestRetainedQuota(t *testing.T) {
	w := newWorld(t)
	n, other := w.node(), w.node()
	w.add("dev-1")
	p := n.connect("dev-1")
	for i := range 3 {
		must(t, p.publish(retained(fmt.Sprint("v1/dev-1/note/", i), "x")))
	}
	for i := range 50 {
		if err := p.publish(retained(fmt.Sprint("v1/dev-1/note/more", i), "x")); !errs.Is(err, errs.Limited) {
			t.Fatalf("the fourth topic: %v, want Limited", err)
		}
	}
	must(t, p.publish(retained("v1/dev-1/note/1", "again")))
	must(t, p.publish(retained("v1/dev-1/note/1", "")))
	p.leave(message.ReasonFarewell)
	p = other.connect("dev-1") // on another node the count is the same
	brief := retained("v1/dev-1/note/brief", "x")
	brief.Expiry = 10
	must(t, p.publish(brief))
	if err := p.publish(retained("v1/dev-1/note/c", "x")); !errs.Is(err, errs.Limited) {
		t.Errorf("the fourth topic on another node: %v, want Limited", err)
	}
	w.pass(11 * time.Second)
	must(t, p.publish(retained("v1/dev-1/note/c", "x")))
	if m := n.Metrics(); m.RetainedQuota != 50 {
		t.Errorf("counted %d, want 50", m.RetainedQuota)
	}
}

// TestRetainedStranger: nobody removes or reads what somebody else retained.
func TestRetainedStranger(t *testing.T) {
	w := newWorld(t)
	n := w.node()
	w.add("dev-1")
	w.add("dev-2")
	owner, stranger := n.connect("dev-1"), n.connect("dev-2")
	must(t, owner.publish(retained("v1/dev-1/state", "mine")))
	if err := stranger.publish(retained("v1/dev-1/state", "")); !errs.Is(err, errs.Denied) {
		t.Errorf("a stranger removes it: %v, want Denied", err)
	}
	if _, err := stranger.conn.Retained(t.Context(), "v1/dev-1/state"); !errs.Is(err, errs.Denied) {
		t.Errorf("a stranger reads it: %v, want Denied", err)
	}
	if m, err := owner.conn.Retained(t.Context(), "v1/dev-1/state"); err != nil || string(m.Payload) != "mine" {
		t.Errorf("Retained = %v, %v", m, err)
	}
	if err := owner.publish(retained("v1/dev-1/telemetry/x", "x")); !errs.Is(err, errs.Denied) {
		t.Errorf("retaining where that is not allowed: %v, want Denied", err)
	}
}

// TestRetainedMany: more retained messages than fit in memory or window all come, each once.
func TestRetainedMany(t *testing.T) {
	w := newWorld(t)
	n := w.node()
	w.add("back", service)
	writer := n.connect("back", client("w"))
	var want []string
	for i := range 200 {
		topic := fmt.Sprintf("v1/dev-%d/cmd/x", i)
		must(t, writer.publish(retained(topic, "x")))
		want = append(want, topic)
	}
	for _, qos := range []byte{0, 1} {
		p := n.connect("back", client(fmt.Sprint("r", qos)), window(3))
		p.subscribeTo(message.Subscription{Filter: "v1/+/cmd/x", QoS: qos})
		var got []string
		for range want {
			d := p.next()
			got = append(got, d.Message.Topic)
			p.ack(d)
		}
		slices.Sort(got)
		sorted := slices.Sorted(slices.Values(want))
		if !slices.Equal(got, sorted) {
			t.Errorf("QoS %d: %d topics, want each of %d once", qos, len(got), len(sorted))
		}
	}
}

// TestExpiry: a message is delivered with the seconds that it has left, and not at all when there are none.
func TestExpiry(t *testing.T) {
	w := newWorld(t)
	n := w.node()
	w.add("dev-1")
	w.add("back", service)
	back := n.connect("back")
	p := n.connect("dev-1", persistent)
	p.subscribe("v1/dev-1/cmd/+")
	p.leave(message.ReasonLost)
	for _, expiry := range []uint32{10, 100, 0} {
		m := say("v1/dev-1/cmd/a", fmt.Sprint(expiry), 1)
		m.Expiry = expiry
		must(t, back.publish(m))
	}
	w.pass(30 * time.Second)
	again := n.connect("dev-1", persistent)
	for _, want := range []struct {
		text string
		left uint32
	}{{"100", 70}, {"0", 0}} {
		d := again.next()
		if string(d.Message.Payload) != want.text || d.Expiry != want.left {
			t.Errorf("got %q with %d seconds left, want %q with %d", d.Message.Payload, d.Expiry, want.text, want.left)
		}
		again.ack(d)
	}
	again.silent(back, "v1/dev-1/cmd/a")
}

// TestReplayInterrupted: retained messages that a subscription was to get and had not got when the connection was lost come when the session goes on, there or on
// another node, also when the first one has died.
func TestReplayInterrupted(t *testing.T) {
	for _, row := range []struct {
		name string
		dies bool
	}{{"the connection is lost", false}, {"the node dies", true}} {
		t.Run(row.name, func(t *testing.T) {
			w := newWorld(t)
			w.add("dev-1")
			f := &deaf{Memory: w.fabric}
			w.wrapped = f
			first := w.node()
			w.wrapped = w.fabric
			other := w.node()
			p := first.connect("dev-1", persistent, window(1))
			for i := range 3 {
				must(t, p.publish(retained(fmt.Sprint("v1/dev-1/note/", i), fmt.Sprint("note ", i))))
			}
			p.subscribe("v1/dev-1/note/+")
			under := map[string]uint16{}
			d := p.next()
			under[string(d.Message.Payload)] = d.ID
			if row.dies {
				f.dead.Store(true)
			} else {
				p.leave(message.ReasonLost)
				until(t, "the session is left", func() bool { return w.left(idOf("dev-1")) })
			}
			again := other.connect("dev-1", persistent, window(1))
			for i := range 3 {
				d := again.next()
				text := string(d.Message.Payload)
				if id, said := under[text]; said != d.Dup || said && id != d.ID || !d.Retain {
					t.Errorf("%q comes as %d, again: %v, retained: %v", text, d.ID, d.Dup, d.Retain)
				}
				if i > 0 {
					under[text] = 0
				}
				again.ack(d)
			}
			if len(under) != 3 {
				t.Errorf("these came: %v, want all", under)
			}
		})
	}
}

// slowRetain is a fabric that is slow to keep retained messages, once it is told so.
type slowRetain struct {
	*messagetest.Memory
	keeping atomic.Pointer[gate]
}

func (f *slowRetain) Retain(ctx context.Context, m *message.Message) error {
	f.keeping.Load().pass()
	return f.Memory.Retain(ctx, m)
}

// TestSubscribeWhileRetaining: who subscribes after a retained message was stored, and before it is kept in the place of the one before, gets the new one.
func TestSubscribeWhileRetaining(t *testing.T) {
	for _, nodes := range []int{1, 2} {
		for _, row := range []struct{ before, after string }{{"old", "new"}, {"", "first"}, {"old", ""}} {
			t.Run(fmt.Sprintf("%d nodes, %q after %q", nodes, row.after, row.before), func(t *testing.T) {
				w := newWorld(t)
				w.add("dev-1")
				w.add("back", service)
				f := &slowRetain{Memory: w.fabric}
				w.wrapped = f
				first := w.node()
				other := first
				if nodes == 2 {
					other = w.node()
				}
				const topic = "v1/group/g1/notice"
				back, hears := first.connect("back"), other.connect("back", client("hears"))
				hears.subscribe(topic)
				if row.before != "" {
					must(t, back.publish(retained(topic, row.before)))
					hears.hears(row.before)
				}
				w.pass(time.Second)
				keeping := newGate()
				opened := sync.OnceFunc(func() { close(keeping.open) })
				t.Cleanup(opened)
				f.keeping.Store(keeping)
				kept := make(chan error, 1)
				back.conn.Publish(retained(topic, row.after), 0, func(err error) { kept <- err })
				<-keeping.reached
				hears.hears(row.after)
				dev := other.connect("dev-1")
				dev.subscribe(topic)
				opened()
				must(t, <-kept)
				if row.after != "" {
					dev.hears(row.after)
				}
				dev.silent(back, topic)
			})
		}
	}
}
