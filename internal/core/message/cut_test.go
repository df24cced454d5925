package message_test

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"mooring/internal/base/errs"
	"mooring/internal/core/message"
	"mooring/internal/core/message/messagetest"
	"mooring/internal/core/message/policy"
)

// TestCutSelectors: a cut ends those that it means and nobody else, on all nodes (acceptance: Revocation, good neighbours unaffected).
func TestCutSelectors(t *testing.T) {
	all := []string{"child", "dev-1", "dev-2", "gate", "other"}
	for _, row := range []struct {
		name string
		x    message.Selector
		ends []string
	}{
		{"nothing", message.Selector{}, nil},
		{"a device", message.Selector{Device: idOf("dev-1")}, []string{"dev-1"}},
		{"a thing", message.Selector{Thing: "dev-2"}, []string{"dev-2"}},
		{"a certificate", message.Selector{Serial: "serial of dev-1"}, []string{"dev-1"}},
		{"a certificate of another device", message.Selector{Device: idOf("dev-2"), Serial: "serial of dev-1"}, nil},
		{"an issuer", message.Selector{Issuer: "issuer"}, all},
		{"an unknown issuer", message.Selector{Issuer: "nobody"}, nil},
		{"a group", message.Selector{Group: "g2"}, []string{"other"}},
		{"a gateway and its children", message.Selector{Gateway: "gate"}, []string{"child", "gate"}},
		{"a device that is not connected", message.Selector{Device: idOf("dev-9"), Thing: "dev-9"}, nil},
	} {
		t.Run(row.name, func(t *testing.T) {
			w := newWorld(t)
			nodes := []*node{w.node(), w.node()}
			w.add("dev-1")
			w.add("dev-2")
			w.add("other", func(s *policy.Subject) { s.Group = "g2" })
			w.add("gate", gateway)
			w.add("child", tag(message.GatewayTag, "gate"))
			peers := map[string]*peer{}
			for i, name := range all {
				peers[name] = nodes[i%2].connect(name)
			}
			n, err := nodes[0].Cut(t.Context(), row.x, "test")
			must(t, err)
			for _, name := range row.ends {
				until(t, name+" is cut", func() bool { return peers[name].reason() == message.ReasonCut })
			}
			here := 0
			for i, name := range all {
				if slices.Contains(row.ends, name) {
					here += (i + 1) % 2
					continue
				}
				if r := peers[name].reason(); r != 0 {
					t.Errorf("%s was disconnected: %d", name, r)
				}
			}
			if n != here {
				t.Errorf("Cut = %d, want %d on this node", n, here)
			}
			if row.name == "a certificate" {
				until(t, "it is recorded of its device", func() bool {
					e := w.entries("message.cut")
					return len(e) == 1 && e[0].Device == idOf("dev-1").String()
				})
			}
		})
	}
}

// TestCutLeavesNothing: session, queue, will and retained messages of what was cut off are gone or hidden, it is recorded, and who may know is told.
func TestCutLeavesNothing(t *testing.T) {
	w := newWorld(t)
	n := w.node()
	w.add("dev-1")
	w.add("back", service)
	p := n.connect("dev-1", persistent, will("v1/dev-1/state", "gone", 0))
	p.subscribe("v1/dev-1/cmd/+")
	back := n.connect("back")
	back.says("v1/dev-1/cmd/a", "queued", 1)
	w.deny("dev-1", true)
	cut, err := n.Cut(t.Context(), message.Selector{Device: idOf("dev-1"), Thing: "dev-1"}, "lost")
	must(t, err)
	if cut != 1 || p.reason() != message.ReasonCut {
		t.Fatalf("Cut = %d, and the link was closed for %d", cut, p.reason())
	}
	if err := p.publish(say("v1/dev-1/telemetry/x", "late", 1)); !errs.Is(err, errs.Unavailable) {
		t.Errorf("what was read before is published: %v, want Unavailable", err)
	}
	if _, err := n.try("dev-1"); !errs.Is(err, errs.Denied) {
		t.Errorf("it connects again: %v, want Denied", err)
	}
	until(t, "it is recorded", func() bool { return len(w.entries("message.cut")) == 1 })
	e := w.entries("message.cut")[0]
	if e.Device != idOf("dev-1").String() || e.Detail["connections"] != "1" || e.Detail["reason"] != "lost" || e.Detail["milliseconds"] == "" {
		t.Errorf("the entry is %+v", e)
	}
	if got := w.stored(message.Up); len(got) != 0 {
		t.Errorf("stored: %q, want neither its will nor what came late", got)
	}
	if got := w.stored(message.Down); len(got) != 0 {
		t.Errorf("its queue still holds %q", got)
	}
	cast := w.fabric.Stored(message.Cast)
	if len(cast) != 1 || cast[0].Topic != "$presence/dev-1" || !strings.Contains(string(cast[0].Payload), `"reason":"lost"`) {
		t.Errorf("presence: %+v", cast)
	}
	reason, at, err := n.LastCut(t.Context(), auditor, idOf("dev-1"))
	if reason != "lost" || at != w.now().Unix() || err != nil {
		t.Errorf("LastCut = %q, %d, %v", reason, at, err)
	}
	w.deny("dev-1", false) // it was found again
	back.says("v1/dev-1/cmd/a", "before it came back", 1)
	again := n.connect("dev-1", persistent)
	if again.got.Present {
		t.Error("its session goes on")
	}
	again.subscribe("v1/dev-1/cmd/+")
	again.silent(back, "v1/dev-1/cmd/b")
	live, err := n.Live(t.Context(), auditor, message.LiveFilter{Thing: "dev-1"})
	if err != nil || len(live) != 1 || live[0].LastCut != "lost" || live[0].Queued != 7 || live[0].Subscriptions != 1 {
		t.Errorf("Live = %+v, %v", live, err)
	}
}

// TestCutWhileStalled: a peer that takes nothing is cut off like any other: its link is closed before anything is waited for.
func TestCutWhileStalled(t *testing.T) {
	w := newWorld(t)
	slow := &slowFabric{Memory: w.fabric, hold: make(chan struct{})}
	w.wrapped = slow
	n := w.node()
	w.add("dev-1")
	p := n.connect("dev-1")
	p.stalled = true
	published := make(chan error, 1)
	go p.conn.Publish(say("v1/dev-1/telemetry/x", "on its way", 1), 0, func(err error) { published <- err })
	until(t, "a message hangs in the fabric", func() bool { return slow.holding.Load() })
	done := make(chan int, 1)
	go func() {
		n, _ := n.Cut(context.Background(), message.Selector{Device: idOf("dev-1")}, "test")
		done <- n
	}()
	until(t, "the link is closed although the fabric hangs", func() bool { return p.reason() == message.ReasonCut })
	close(slow.hold)
	if got := <-done; got != 1 {
		t.Errorf("Cut = %d, want 1", got)
	}
	<-published
	if got := w.stored(message.Up); len(got) != 1 {
		t.Errorf("stored: %q; what was on its way before is", got)
	}
}

// slowFabric holds what is appended back until hold is closed.
type slowFabric struct {
	*messagetest.Memory
	hold    chan struct{}
	holding atomic.Bool
}

func (f *slowFabric) Append(m *message.Message, dedupe string, done func(uint64, error)) {
	f.holding.Store(true)
	<-f.hold
	f.Memory.Append(m, dedupe, done)
}

// TestNothingAfterCut: when a cut has returned, nothing of the device is stored any more, however much it was just sending.
func TestNothingAfterCut(t *testing.T) {
	w := newWorld(t)
	n := w.node()
	w.add("dev-1")
	for round := range 100 {
		w.pass(time.Second) // or its rate would be used up
		p := n.connect("dev-1")
		stop := make(chan struct{})
		var wait sync.WaitGroup
		wait.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					p.conn.Publish(say("v1/dev-1/telemetry/x", "x", 1), 0, func(error) {})
				}
			}
		})
		before := len(w.fabric.Stored(message.Up))
		until(t, "it publishes", func() bool { return len(w.fabric.Stored(message.Up)) > before })
		if cut, err := n.Cut(t.Context(), message.Selector{Device: idOf("dev-1")}, "test"); cut != 1 || err != nil {
			t.Fatalf("Cut = %d, %v", cut, err)
		}
		stored := len(w.fabric.Stored(message.Up))
		p.publish(say("v1/dev-1/telemetry/x", "after", 1))
		close(stop)
		wait.Wait()
		if got := len(w.fabric.Stored(message.Up)); got != stored {
			t.Fatalf("round %d: %d messages were stored after the cut returned", round, got-stored)
		}
	}
}

// TestCutRace: who is cut off while he connects is refused or cut, whatever comes first: 10,000 tries (acceptance: Revocation, during the handshake).
func TestCutRace(t *testing.T) {
	w := newWorld(t)
	n := w.node()
	tries := 10_000
	if testing.Short() {
		tries = 500
	}
	const things = 8
	var wait sync.WaitGroup
	var refused, cut atomic.Int64
	for k := range things {
		name := fmt.Sprint("dev-", k)
		w.add(name)
		wait.Go(func() {
			for try := range tries / things {
				w.deny(name, false)
				var both sync.WaitGroup
				id, err := n.Identify(t.Context(), message.Visit{}, [][]byte{[]byte(name)})
				must(t, err)
				var p *peer
				both.Go(func() { p, err = n.tryAs(id) })
				both.Go(func() {
					for range try % 64 { // sometimes sooner, sometimes later
						runtime.Gosched()
					}
					w.deny(name, true) // this is the commit
					if _, err := n.Cut(t.Context(), message.Selector{Device: idOf(name)}, "race"); err != nil {
						t.Errorf("Cut: %v", err)
					}
				})
				both.Wait()
				switch {
				case err == nil && p.reason() != message.ReasonCut:
					t.Errorf("%s is connected although it was cut off", name)
					return
				case err == nil:
					cut.Add(1)
				default:
					refused.Add(1)
				}
				if errs.Is(err, errs.Conflict) {
					w.pass(time.Minute)
				}
			}
		})
	}
	wait.Wait()
	t.Logf("%d were refused, %d were cut", refused.Load(), cut.Load())
	if refused.Load() == 0 || cut.Load() == 0 {
		t.Error("one side of the race never happened, so this shows nothing")
	}
}

// TestCutTenThousand: all connections of one issuer, at once, with one entry.
func TestCutTenThousand(t *testing.T) {
	w := newWorld(t)
	n := w.node()
	const many = 10_000
	var peers []*peer
	for i := range many {
		name := fmt.Sprint("dev-", i)
		w.add(name)
		peers = append(peers, n.connect(name))
	}
	w.add("good")
	good := n.connect("good", func(a *message.Attach) { a.Identity.Issuer = "another" })
	begun := time.Now()
	cut, err := n.Cut(t.Context(), message.Selector{Issuer: "issuer"}, "revoked")
	t.Logf("%d connections in %v", cut, time.Since(begun))
	if cut != many || err != nil {
		t.Errorf("Cut = %d, %v; want %d", cut, err, many)
	}
	for _, p := range peers {
		if p.reason() != message.ReasonCut {
			t.Fatalf("%s was not cut off", p.name)
		}
	}
	if good.reason() != 0 {
		t.Error("a connection of another issuer was cut off")
	}
	until(t, "it is recorded", func() bool { return len(w.entries("message.cut")) == 1 })
	if e := w.entries("message.cut")[0]; e.Detail["connections"] != "10000" {
		t.Errorf("the entry is %+v", e)
	}
	if m := n.Metrics(); m.Connections != 1 || m.CutConnections != many {
		t.Errorf("%d connections are left, %d were counted", m.Connections, m.CutConnections)
	}
}

// TestCertificateEnd: the connection ends with its certificate.
func TestCertificateEnd(t *testing.T) {
	w := newWorld(t)
	n := w.node()
	w.add("dev-1")
	w.add("dev-2")
	until1 := func(at int64) func(*message.Attach) {
		return func(a *message.Attach) { a.Identity.NotAfter = at }
	}
	p, later := n.connect("dev-1", until1(w.now().Unix()+60)), n.connect("dev-2", until1(w.now().Unix()+600))
	w.pass(59 * time.Second)
	p.says("v1/dev-1/telemetry/x", "still", 1)
	w.pass(2 * time.Second)
	until(t, "it is disconnected", func() bool { return p.reason() == message.ReasonExpired })
	if later.reason() != 0 {
		t.Error("a certificate that is good was taken for one that ended")
	}
}

// TestGateway: a gateway speaks for the things that the registry lists for it, and for no other (acceptance: Gateways).
func TestGateway(t *testing.T) {
	w := newWorld(t)
	n := w.node()
	w.add("gate", gateway)
	w.add("child", tag(message.GatewayTag, "gate"))
	w.add("foreign", tag(message.GatewayTag, "other"))
	w.add("back", service)
	g, back := n.connect("gate", persistent), n.connect("back")
	for _, row := range []struct {
		topic string
		ok    bool
	}{
		{"v1/gate/telemetry/x", true},
		{"v1/child/telemetry/x", true},
		{"v1/foreign/telemetry/x", false},
		{"v1/nobody/telemetry/x", false},
		{"v1/back/telemetry/x", false},
	} {
		if err := g.publish(say(row.topic, row.topic, 1)); (err == nil) != row.ok {
			t.Errorf("%s: %v, want it allowed: %v", row.topic, err, row.ok)
		}
	}
	up := w.fabric.Stored(message.Up)
	if len(up) != 2 || up[0].Child != "" || up[1].Child != "child" || up[1].Thing != "gate" {
		t.Errorf("stored: %+v; want both names in what was said for the child", up)
	}
	g.subscribe("v1/child/cmd/+")
	back.says("v1/child/cmd/a", "for the child", 1)
	g.hears("for the child")
	g.leave(message.ReasonLost)
	back.says("v1/child/cmd/a", "while the gateway is away", 1)
	g = n.connect("gate", persistent)
	g.hears("while the gateway is away")

	child := n.connect("child")
	if err := g.publish(say("v1/child/telemetry/x", "x", 1)); !errs.Is(err, errs.Denied) {
		t.Errorf("the child is connected itself: %v, want Denied", err)
	}
	child.leave(message.ReasonFarewell)
	must(t, g.publish(say("v1/child/telemetry/x", "x", 1)))

	w.deny("child", true)
	_, err := n.Cut(t.Context(), message.Selector{Device: idOf("child"), Thing: "child"}, "lost")
	must(t, err)
	if err := g.publish(say("v1/child/telemetry/x", "after the cut", 1)); !errs.Is(err, errs.Denied) {
		t.Errorf("the child was cut off: %v, want Denied", err)
	}
	until(t, "the gateway loses the child's commands", func() bool {
		g.mu.Lock()
		defer g.mu.Unlock()
		return slices.Contains(g.lost, "v1/child/cmd/+")
	})
	must(t, g.publish(say("v1/gate/telemetry/x", "its own", 1)))
	if g.reason() != 0 {
		t.Error("the gateway was disconnected")
	}

	w.deny("child", false)
	w.add("late", tag(message.GatewayTag, "gate"))
	for _, name := range []string{"child", "late"} {
		must(t, n.Changed(t.Context(), idOf(name)))
		must(t, g.publish(say("v1/"+name+"/telemetry/x", "x", 1)))
	}
	w.add("late", tag(message.GatewayTag, "other")) // moved to another gateway
	must(t, n.Changed(t.Context(), idOf("late")))
	if err := g.publish(say("v1/late/telemetry/x", "x", 1)); !errs.Is(err, errs.Denied) {
		t.Errorf("the child moved: %v, want Denied", err)
	}
	_, err = n.Cut(t.Context(), message.Selector{Device: idOf("gate")}, "lost")
	must(t, err)
	if err := g.publish(say("v1/child/telemetry/x", "x", 1)); err == nil {
		t.Error("the gateway was cut off, and still speaks for its child")
	}
}

// TestNothingAfterChildCut: when the cut of a child has returned, nothing is stored for it any more.
func TestNothingAfterChildCut(t *testing.T) {
	w := newWorld(t)
	n := w.node()
	w.add("gate", gateway)
	w.add("child", tag(message.GatewayTag, "gate"))
	g := n.connect("gate")
	for round := range 50 {
		w.pass(time.Second) // or its rate would be used up
		w.deny("child", false)
		must(t, n.Changed(t.Context(), idOf("child")))
		stop := make(chan struct{})
		var wait sync.WaitGroup
		wait.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					g.conn.Publish(say("v1/child/telemetry/x", "x", 1), 0, func(error) {})
				}
			}
		})
		before := len(w.fabric.Stored(message.Up))
		until(t, "it publishes", func() bool { return len(w.fabric.Stored(message.Up)) > before })
		w.deny("child", true)
		_, err := n.Cut(t.Context(), message.Selector{Device: idOf("child")}, "test")
		must(t, err)
		stored := len(w.fabric.Stored(message.Up))
		g.publish(say("v1/gate/telemetry/x", "its own", 1))
		close(stop)
		wait.Wait()
		for _, m := range w.fabric.Stored(message.Up)[stored:] {
			if m.Child != "" {
				t.Fatalf("round %d: a message for the child was stored after the cut returned", round)
			}
		}
	}
}
