package message_test

import (
	"context"
	"strings"
	"sync"
	"testing"

	"mooring/internal/base/errs"
	"mooring/internal/core/device"
	"mooring/internal/core/message"
	"mooring/internal/core/message/messagetest"
	"mooring/internal/core/message/policy"
)

// held is a fabric that has who calls wait, where it is told so.
type held struct {
	*messagetest.Memory
	mu      sync.Mutex
	own, up *gate // guarded by mu
}

// gate keeps those who come to it until it is opened.
type gate struct{ reached, open chan struct{} }

func newGate() *gate { return &gate{make(chan struct{}, 8), make(chan struct{})} }

func (g *gate) pass() {
	if g != nil {
		g.reached <- struct{}{}
		<-g.open
	}
}

func (f *held) hold(own, up *gate) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.own, f.up = own, up
}

func (f *held) gates() (own, up *gate) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.own, f.up
}

func (f *held) Own(ctx context.Context, key, node string) (uint64, string, error) {
	own, _ := f.gates()
	own.pass()
	return f.Memory.Own(ctx, key, node)
}

func (f *held) Follow(ctx context.Context, s message.Stream, ready func(), fn func(*message.Message)) error {
	if _, up := f.gates(); s == message.Up {
		up.pass()
	}
	return f.Memory.Follow(ctx, s, ready, fn)
}

// TestSubscribeRace: a subscription that waited for the stream is held to the policy that holds when it is granted.
func TestSubscribeRace(t *testing.T) {
	w := newWorld(t)
	f := &held{Memory: w.fabric}
	w.wrapped = f
	w.add("ops", service)
	n := w.node()
	up := newGate()
	f.hold(nil, up)
	ops := n.connect("ops")
	done := make(chan []message.Grant, 1)
	go func() {
		done <- ops.conn.Subscribe(context.Background(), []message.Subscription{{Filter: "v1/dev-1/#", QoS: 1}})
	}()
	<-up.reached
	_, err := n.SetPolicy(t.Context(), operator, strings.ReplaceAll(standard, "allow subscribe v1/# shared yes max_qos 2", ""), 0)
	must(t, err)
	close(up.open)
	if g := <-done; !errs.Is(g[0].Err, errs.Denied) {
		t.Errorf("granted: %+v, want Denied", g)
	}
}

// TestWillResponse: the response topic of a will is looked at as that of any message, by the policy that holds when it is said too.
func TestWillResponse(t *testing.T) {
	leaves := func(topic string) func(*message.Attach) {
		return func(a *message.Attach) {
			m := say("v1/dev-1/state", "gone", 1)
			m.ResponseTopic = topic
			a.Will = &message.Will{Message: *m}
		}
	}
	for _, row := range []struct {
		name, mode, later, topic string
		refused                  bool
		want                     string
	}{
		{"of another is taken off", "strip", "strip", "v1/victim/cmd/reboot", false, ""},
		{"its own stays", "strip", "strip", "v1/dev-1/cmd/x", false, "v1/dev-1/cmd/x"},
		{"any, where the policy says so", "any", "any", "v1/victim/cmd/reboot", false, "v1/victim/cmd/reboot"},
		{"the policy refuses", "refuse", "refuse", "v1/victim/cmd/reboot", true, ""},
		{"the policy changed meanwhile", "any", "strip", "v1/victim/cmd/reboot", false, ""},
	} {
		t.Run(row.name, func(t *testing.T) {
			w := newWorld(t)
			w.add("dev-1")
			n := w.node()
			set := func(mode string, seen int64) {
				_, err := n.SetPolicy(t.Context(), operator, strings.ReplaceAll(standard, "session_expiry 1h", "session_expiry 1h\n response_topics "+mode), seen)
				must(t, err)
			}
			set(row.mode, 0)
			p, err := n.try("dev-1", leaves(row.topic))
			if row.refused {
				if err == nil {
					t.Error("it connects, want ErrWill")
				}
				return
			}
			must(t, err)
			set(row.later, 1)
			p.leave(message.ReasonLost)
			until(t, "the will is said", func() bool { return len(w.fabric.Stored(message.Up)) == 1 })
			if got := w.fabric.Stored(message.Up)[0].ResponseTopic; got != row.want {
				t.Errorf("the response topic of the will is %q, want %q", got, row.want)
			}
		})
	}
}

// TestSharedPartial: a member of a group that had no room gets nothing afterwards that it may not receive.
func TestSharedPartial(t *testing.T) {
	w := newWorld(t)
	w.add("ops", service)
	w.add("reader", func(s *policy.Subject) { s.Kind, s.Role = policy.Service, "reader" })
	n := w.node()
	_, err := n.SetPolicy(t.Context(), operator, standard+"\ngroup readers {\n principal service\n match role=reader\n allow subscribe v1/x/tree/# shared yes\n}\n", 0)
	must(t, err)
	ops := n.connect("ops")
	reader := n.connect("reader", window(1))
	reader.subscribe("$share/g/v1/x/tree/#")
	ops.says("v1/x/tree/a", "first", 1)
	first := reader.next()
	ops.says("v1/x/tree", "of the level above", 1)
	ops.says("v1/x/tree/b", "second", 1)
	until(t, "all is dispatched", func() bool { return n.Metrics().SharedDropped == 1 })
	reader.ack(first)
	reader.hears("second")
}

// TestPublishAsProperties: what an operator publishes has no properties that would end the connections of those who hear it.
func TestPublishAsProperties(t *testing.T) {
	long := strings.Repeat("x", 1<<16)
	for _, row := range []struct {
		name, field string
		p           message.Properties
	}{
		{"good ones", "", message.Properties{Format: 1, ContentType: "text/plain", ResponseTopic: "a/b", Correlation: []byte{0, 255}, User: []message.Pair{{"a", ""}}}},
		{"a format that there is not", "format", message.Properties{Format: 2}},
		{"U+0000", "content_type", message.Properties{ContentType: "a\x00b"}},
		{"no UTF-8", "content_type", message.Properties{ContentType: "\xff"}},
		{"too long", "content_type", message.Properties{ContentType: long}},
		{"a wildcard", "response_topic", message.Properties{ResponseTopic: "a/#"}},
		{"U+0000 in a topic", "response_topic", message.Properties{ResponseTopic: "a\x00"}},
		{"correlation too long", "correlation", message.Properties{Correlation: []byte(long)}},
		{"U+0000 in a name", "user", message.Properties{User: []message.Pair{{"a\x00", "b"}}}},
		{"U+0000 in a value", "user", message.Properties{User: []message.Pair{{"a", "b\x00"}}}},
		{"too many", "user", message.Properties{User: make([]message.Pair, 33)}},
		{"too long together", "user", message.Properties{User: []message.Pair{{"a", long[:5000]}}}},
	} {
		t.Run(row.name, func(t *testing.T) {
			w := newWorld(t)
			n := w.node()
			m := say("v1/all/news", "x", 1)
			m.Properties = row.p
			err := n.PublishAs(t.Context(), operator, m)
			switch {
			case row.field == "":
				must(t, err)
			case !errs.Is(err, errs.Invalid) || !strings.HasPrefix(errs.Public(err), row.field+":"):
				t.Errorf("PublishAs = %v, want Invalid that names %s", err, row.field)
			}
		})
	}
}

// TestCutCertificateAway: what a certificate left that is revoked while its holder is away is gone or hidden: session, will and retained messages. What was
// left under one that was replaced stays.
func TestCutCertificateAway(t *testing.T) {
	for _, row := range []struct {
		name  string
		x     message.Selector
		goes  bool // what was left
		drops bool // … from the store too
	}{
		{"a certificate", message.Selector{Serial: "first"}, true, true},
		{"a certificate whose holder is known", message.Selector{Serial: "first", Holder: idOf("dev-1")}, true, true},
		{"a CA", message.Selector{Issuer: "issuer"}, true, true},
		{"no cut came through", message.Selector{}, true, false},
		{"another certificate", message.Selector{Serial: "second"}, false, false},
		{"a certificate that was replaced", message.Selector{Serial: "first", Holder: idOf("dev-1"), Superseded: true}, false, false},
	} {
		t.Run(row.name, func(t *testing.T) {
			w := newWorld(t)
			w.add("dev-1")
			w.add("ops", service)
			w.add("other")
			n := w.node()
			w.must(n.tryAs(w.under("other", "of the other"), persistent, func(a *message.Attach) { a.Identity.Issuer = "another" })).leave(message.ReasonLost)
			until(t, "the session of the other is left", func() bool { return w.left(idOf("other")) })
			first := w.must(n.tryAs(w.under("dev-1", "first"), persistent, will("v1/dev-1/state", "stolen will", 60)))
			first.subscribe("v1/dev-1/cmd/+")
			must(t, first.publish(retained("v1/dev-1/note/a", "stolen note")))
			first.leave(message.ReasonLost)
			until(t, "the session is left", func() bool { return w.left(idOf("dev-1")) })
			if row.goes {
				w.revoke(w.under("dev-1", "first"))
			}
			_, err := n.Cut(t.Context(), row.x, "key compromise")
			must(t, err)
			if got := w.left(idOf("dev-1")); got == row.drops {
				t.Errorf("the session is stored: %t", got)
			}
			if !w.left(idOf("other")) {
				t.Error("the session of another is gone too")
			}
			ops := n.connect("ops")
			ops.subscribe("v1/dev-1/note/#")
			if row.goes {
				until(t, "what is retained is hidden", func() bool { return n.Metrics().RetainedHidden == 1 })
			} else {
				ops.hears("stolen note")
			}
			again := n.connect("dev-1", persistent) // with the certificate that it has by now
			if again.got.Present == row.goes {
				t.Errorf("its session goes on with another certificate: %t", again.got.Present)
			}
			if got := w.stored(message.Up); len(got) != 1 {
				t.Errorf("stored: %q, want the note only", got)
			}
		})
	}
}

// TestCutCertificateWill: the delayed will of a certificate is not said any more once that is revoked.
func TestCutCertificateWill(t *testing.T) {
	w := newWorld(t)
	w.add("dev-1")
	w.add("dev-2")
	n := w.node()
	for _, name := range []string{"dev-1", "dev-2"} {
		n.connect(name, persistent, will("v1/"+name+"/state", "will of "+name, 60)).leave(message.ReasonLost)
		until(t, "the session is left", func() bool { return w.left(idOf(name)) })
	}
	_, err := n.Cut(t.Context(), message.Selector{Serial: "serial of dev-1"}, "key compromise")
	must(t, err)
	w.pass(61e9)
	until(t, "the will of the other is said", func() bool { return len(w.stored(message.Up)) > 0 })
	if got := w.stored(message.Up); len(got) != 1 || got[0] != "will of dev-2" {
		t.Errorf("said: %q", got)
	}
	if m := n.Metrics(); m.WillCut != 1 {
		t.Errorf("%d wills were cut, want 1", m.WillCut)
	}
}

func (w *world) must(p *peer, err error) *peer {
	w.t.Helper()
	must(w.t, err)
	return p
}

// left reports whether a session of a thing is stored that is not connected.
func (w *world) left(id device.ID) (found bool) {
	must(w.t, w.fabric.Sessions(w.t.Context(), func(key string, data []byte, _ uint64) bool {
		found = found || key == "s/"+id.String() && strings.Contains(string(data), `"Live":false`)
		return !found
	}))
	return found
}

// TestConnectRace: who was looked up, and admitted by the policy, before something changed, and is connected only afterwards, has the rights of afterwards.
func TestConnectRace(t *testing.T) {
	for _, row := range []struct {
		name, thing, topic string
		change             func(w *world, n *node)
	}{
		{"the policy", "dev-1", "v1/dev-1/telemetry/x", func(w *world, n *node) {
			_, err := n.SetPolicy(t.Context(), operator, strings.ReplaceAll(standard, "allow publish v1/${thing}/telemetry/# max_qos 2", ""), 0)
			must(t, err)
		}},
		{"the children of a gateway", "gw", "v1/kid/telemetry/x", func(w *world, n *node) {
			w.add("kid", tag("gateway", "other"))
			must(t, n.Changed(t.Context(), idOf("kid")))
		}},
		{"the thing itself", "ops", "v1/dev-1/cmd/x", func(w *world, n *node) {
			w.add("ops")
			must(t, n.Changed(t.Context(), idOf("ops")))
		}},
	} {
		t.Run(row.name, func(t *testing.T) {
			w := newWorld(t)
			f := &held{Memory: w.fabric}
			w.wrapped = f
			w.add("dev-1")
			w.add("gw", gateway)
			w.add("kid", tag("gateway", "gw"))
			w.add("ops", service)
			n := w.node()
			own := newGate()
			f.hold(own, nil)
			first := make(chan error, 1)
			go func() { _, err := n.try(row.thing, persistent, client(row.thing)); first <- err }()
			<-own.reached
			id, err := n.Identify(t.Context(), message.Visit{}, [][]byte{[]byte(row.thing)})
			must(t, err)
			second := make(chan *peer, 1)
			go func() {
				p, err := n.tryAs(id, persistent, client(row.thing))
				if err != nil {
					t.Error(err)
				}
				second <- p
			}()
			until(t, "the second waits for its turn", func() bool { return n.Waiting() == 2 })
			row.change(w, n)
			f.hold(nil, nil)
			close(own.open)
			<-first
			p := <-second
			if p.conn == nil {
				return
			}
			if err := p.publish(say(row.topic, "x", 1)); !errs.Is(err, errs.Denied) {
				t.Errorf("it publishes what it may not any more: %v, want Denied", err)
			}
		})
	}
}
