package message_test

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"mooring/internal/core/message"
)

const minute = 60

// TestWill: when a will is said, and when not (acceptance: Will).
func TestWill(t *testing.T) {
	for _, row := range []struct {
		name   string
		attach []func(*message.Attach)
		then   func(w *world, n *node, p *peer)
		said   bool
	}{
		{"the peer is lost", nil, func(_ *world, _ *node, p *peer) { p.leave(message.ReasonLost) }, true},
		{"the peer broke the protocol", nil, func(_ *world, _ *node, p *peer) { p.leave(message.ReasonProtocol) }, true},
		{"nothing was heard", nil, func(_ *world, _ *node, p *peer) { p.leave(message.ReasonTimeout) }, true},
		{"a farewell", nil, func(_ *world, _ *node, p *peer) { p.leave(message.ReasonFarewell) }, false},
		{"a farewell that keeps it", nil, func(_ *world, _ *node, p *peer) {
			p.conn.Detach(message.ReasonFarewell, message.Farewell{KeepWill: true})
		}, true},
		{"delayed, before its time", []func(*message.Attach){persistent, will("v1/dev-1/state", "gone", minute)}, func(w *world, n *node, p *peer) {
			p.leave(message.ReasonLost)
			w.pass(59 * time.Second)
		}, false},
		{"delayed, at its time", []func(*message.Attach){persistent, will("v1/dev-1/state", "gone", minute)}, func(w *world, n *node, p *peer) {
			p.leave(message.ReasonLost)
			w.pass(61 * time.Second)
		}, true},
		{"delayed, but the session ends first", []func(*message.Attach){will("v1/dev-1/state", "gone", minute)}, func(w *world, n *node, p *peer) { p.leave(message.ReasonLost) }, true},
		{"delayed, and it came back in time", []func(*message.Attach){persistent, will("v1/dev-1/state", "gone", minute)}, func(w *world, n *node, p *peer) {
			p.leave(message.ReasonLost)
			again := n.connect("dev-1", persistent)
			again.leave(message.ReasonFarewell)
			w.pass(time.Hour)
		}, false},
		{"delayed, and it began anew", []func(*message.Attach){persistent, will("v1/dev-1/state", "gone", minute)}, func(w *world, n *node, p *peer) {
			p.leave(message.ReasonLost)
			n.connect("dev-1").leave(message.ReasonFarewell)
		}, true},
		{"delayed, and it came back too late", []func(*message.Attach){persistent, will("v1/dev-1/state", "gone", minute)}, func(w *world, n *node, p *peer) {
			p.leave(message.ReasonLost)
			w.pass(61 * time.Second)
			n.connect("dev-1", persistent).leave(message.ReasonFarewell)
		}, true},
		{"taken over, without a delay", nil, func(w *world, n *node, p *peer) { n.connect("dev-1", persistent).leave(message.ReasonFarewell) }, true},
		{"taken over, with a delay", []func(*message.Attach){persistent, will("v1/dev-1/state", "gone", minute)}, func(w *world, n *node, p *peer) {
			n.connect("dev-1", persistent).leave(message.ReasonFarewell)
			w.pass(time.Hour)
		}, false},
		{"taken over by another node, without a delay", nil, func(w *world, n *node, p *peer) {
			w.node().connect("dev-1", persistent).leave(message.ReasonFarewell)
		}, true},
		{"cut off", nil, func(w *world, n *node, p *peer) {
			_, err := n.Cut(w.t.Context(), message.Selector{Device: idOf("dev-1")}, "revoked")
			must(w.t, err)
		}, false},
		{"delayed, and cut off meanwhile", []func(*message.Attach){persistent, will("v1/dev-1/state", "gone", minute)}, func(w *world, n *node, p *peer) {
			p.leave(message.ReasonLost)
			_, err := n.Cut(w.t.Context(), message.Selector{Device: idOf("dev-1")}, "revoked")
			must(w.t, err)
			w.pass(time.Hour)
		}, false},
		{"delayed, and revoked without a cut", []func(*message.Attach){persistent, will("v1/dev-1/state", "gone", minute)}, func(w *world, n *node, p *peer) {
			p.leave(message.ReasonLost)
			w.deny("dev-1", true)
			w.pass(time.Hour)
		}, false},
		{"the policy does not allow it any more", []func(*message.Attach){persistent, will("v1/dev-1/state", "gone", minute)}, func(w *world, n *node, p *peer) {
			p.leave(message.ReasonLost)
			_, err := n.SetPolicy(w.t.Context(), operator, strings.ReplaceAll(standard, "allow will v1/${thing}/state", "allow will v1/settler/state"), 0)
			must(w.t, err)
			w.pass(time.Hour)
		}, false},
		{"the policy took it from a live connection", nil, func(w *world, n *node, p *peer) {
			_, err := n.SetPolicy(w.t.Context(), operator, strings.ReplaceAll(standard, "allow will v1/${thing}/state", "allow will v1/settler/state"), 0)
			must(w.t, err)
			p.leave(message.ReasonLost)
		}, false},
		{"the node stops, and nobody comes back", nil, func(w *world, n *node, p *peer) {
			n.stop()
			w.node()
			w.pass(2 * time.Minute)
		}, true},
		{"the node stops, and it comes back", nil, func(w *world, n *node, p *peer) {
			n.stop()
			w.node().connect("dev-1", persistent).leave(message.ReasonFarewell)
			w.pass(2 * time.Minute)
		}, false},
		{"the certificate ends", []func(*message.Attach){persistent, will("v1/dev-1/state", "gone", 0), func(a *message.Attach) { a.Identity.NotAfter = 1_800_003_600 }}, func(w *world, n *node, p *peer) { w.pass(2 * time.Hour) }, true},
	} {
		t.Run(row.name, func(t *testing.T) {
			w := newWorld(t)
			n := w.node()
			w.add("dev-1")
			changes := row.attach
			if changes == nil {
				changes = []func(*message.Attach){persistent, will("v1/dev-1/state", "gone", 0)}
			}
			p := n.connect("dev-1", changes...)
			row.then(w, n, p)
			if row.said {
				until(t, "the will is said", func() bool { return slices.Contains(w.stored(message.Up), "gone") })
			}
			w.settle()
			var times int
			for _, text := range w.stored(message.Up) {
				if text == "gone" {
					times++
				}
			}
			if row.said != (times == 1) || times > 1 {
				t.Errorf("it was said %d times, want it said: %v", times, row.said)
			}
		})
	}
}

// settle waits until a node that is new has looked at everything that is due, and stops it: what a will could still do has happened then.
func (w *world) settle() {
	w.t.Helper()
	n := w.node()
	w.add("settler")
	p := n.connect("settler", persistent, will("v1/settler/state", "settled", 0))
	p.leave(message.ReasonLost)
	until(w.t, "a will that is left now is said", func() bool { return slices.Contains(w.stored(message.Up), "settled") })
}

func TestForeignWill(t *testing.T) {
	w := newWorld(t)
	n := w.node()
	w.add("dev-1")
	for _, row := range []struct {
		name, topic string
		retain      bool
		denied      bool
	}{
		{"its own", "v1/dev-1/state", false, false},
		{"its own, retained", "v1/dev-1/state", true, false},
		{"another's", "v1/dev-2/state", false, true},
		{"another's, retained", "v1/dev-2/state", true, true},
		{"where it may publish but leave no will", "v1/dev-1/telemetry/x", false, true},
		{"a wildcard", "v1/dev-1/#", false, true},
		{"a topic of the server", "$SYS/x", false, true},
		{"none", "", false, true},
	} {
		t.Run(row.name, func(t *testing.T) {
			_, err := n.try("dev-1", func(a *message.Attach) {
				a.Will = &message.Will{Message: message.Message{Topic: row.topic, Payload: []byte("x"), Retain: row.retain}}
			})
			if row.denied != errors.Is(err, message.ErrWill) || !row.denied && err != nil {
				t.Errorf("Connect = %v, want it denied: %v", err, row.denied)
			}
			w.pass(time.Minute)
		})
	}
}

// TestCrashedNode: the wills of a node that died are said by whoever leads, and sessions that it held go on elsewhere.
func TestCrashedNode(t *testing.T) {
	w := newWorld(t)
	w.add("dev-1")
	w.add("dev-2")
	w.add("back", service)
	crashing := &deaf{Memory: w.fabric}
	w.wrapped = crashing
	dead := w.node()
	dead.connect("dev-1", persistent, will("v1/dev-1/state", "gone 1", 0))
	two := dead.connect("dev-2", persistent, will("v1/dev-2/state", "gone 2", 0))
	two.subscribe("v1/dev-2/cmd/+")
	crashing.dead.Store(true) // nothing of what it does reaches anybody
	dead.stop()
	w.wrapped = w.fabric
	n := w.node()
	again := n.connect("dev-2", persistent)
	if !again.got.Present {
		t.Error("the session does not go on")
	}
	n.connect("back").says("v1/dev-2/cmd/a", "one", 1)
	again.hears("one")
	w.pass(2 * time.Minute)
	until(t, "the wills are said", func() bool {
		said := w.stored(message.Up)
		return slices.Contains(said, "gone 1") && slices.Contains(said, "gone 2")
	})
	if got := w.stored(message.Up); len(got) != 2 {
		t.Errorf("said: %q, want each once", got)
	}
}
