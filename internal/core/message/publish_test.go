package message_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"mooring/internal/base/errs"
	"mooring/internal/core/device"
	"mooring/internal/core/message"
	"mooring/internal/core/message/messagetest"
	"mooring/internal/core/message/policy"
)

// TestTopicEscape: nothing is published outside of one's rights, whatever the topic looks like (acceptance: Topic escape, as far as it is not the codec's).
func TestTopicEscape(t *testing.T) {
	w := newWorld(t)
	n := w.node()
	w.add("dev-1")
	p := n.connect("dev-1")
	for _, row := range []struct {
		topic string
		ok    bool
	}{
		{"v1/dev-1/telemetry/x", true},
		{"v1/dev-1/telemetry/x/../y", true}, // a level like any other
		{"v1/dev-1/telemetry//x", true},
		{"v1/dev-1/telemetry", false},
		{"v1/dev-10/telemetry/x", false},
		{"v1/dev-/telemetry/x", false},
		{"v1/dev-2/telemetry/x", false},
		{"v1/DEV-1/telemetry/x", false},
		{"/v1/dev-1/telemetry/x", false},
		{"v1//dev-1/telemetry/x", false},
		{"v1/dev-1/telemetry/../../dev-2/telemetry/x", true}, // nothing is normalised: it stays below dev-1
		{"v1/dev-1/../dev-2/telemetry/x", false},
		{"$SYS/x", false},
		{"$share/g/v1/dev-1/telemetry/x", false},
		{"$presence/dev-1", false},
		{"v1/dev-1/telemetry/+", false},
		{"v1/dev-1/telemetry/#", false},
		{"v1/+/telemetry/x", false},
		{"v1/dev-1/telemetry/\x00", false},
		{"v1/dev-1/cmd/a", false},
		{"", false},
	} {
		t.Run(row.topic, func(t *testing.T) {
			if err := p.publish(say(row.topic, "x", 1)); (err == nil) != row.ok {
				t.Errorf("Publish = %v, want it allowed: %v", err, row.ok)
			}
		})
	}
	for _, m := range w.fabric.Stored(message.Up) {
		if m.Thing != "dev-1" || m.Key != "dev-1" || m.ID != idOf("dev-1") || m.At != w.clock.Load() {
			t.Errorf("stored: %+v, want it signed by dev-1", m)
		}
	}
}

// TestRefusals: how what is not taken is answered.
func TestRefusals(t *testing.T) {
	w := newWorld(t)
	n := w.node()
	w.add("dev-1")
	w.add("slow", tag("slow", "yes"))
	p, slow := n.connect("dev-1"), n.connect("slow")
	t.Run("a payload over the rule's size", func(t *testing.T) {
		m := say("v1/dev-1/note/a", "", 1)
		m.Payload = make([]byte, 101)
		if err := p.publish(m); !errors.Is(err, message.ErrTooLarge) {
			t.Errorf("Publish = %v, want ErrTooLarge", err)
		}
	})
	t.Run("a QoS over the rule's", func(t *testing.T) {
		m := say("v1/dev-1/note/a", "x", 2)
		if err := p.publish(m, 1); !errs.Is(err, errs.Denied) {
			t.Errorf("Publish = %v, want Denied", err)
		}
	})
	t.Run("too fast", func(t *testing.T) {
		for range 2 {
			must(t, slow.publish(say("v1/slow/telemetry/x", "x", 1)))
		}
		err := slow.publish(say("v1/slow/telemetry/x", "x", 1))
		if wait, ok := errs.RetryAfter(err); !errs.Is(err, errs.Limited) || !ok || wait <= 0 {
			t.Errorf("Publish = %v after %v, want Limited and for how long", err, wait)
		}
		w.pass(time.Second)
		must(t, slow.publish(say("v1/slow/telemetry/x", "x", 1)))
	})
	t.Run("the log is full", func(t *testing.T) {
		w.fabric.Fill(true)
		if err := p.publish(say("v1/dev-1/telemetry/x", "x", 1)); !errors.Is(err, message.ErrFull) || !errs.Is(err, errs.Limited) {
			t.Errorf("Publish = %v, want ErrFull", err)
		}
		if err := p.publish(say("v1/dev-1/telemetry/x", "x", 2), 4); !errors.Is(err, message.ErrFull) {
			t.Errorf("Publish with QoS 2 = %v, want ErrFull", err)
		}
		w.fabric.Fill(false)
		must(t, p.publish(say("v1/dev-1/telemetry/x", "x", 2), 4)) // it was not taken for a repetition
		if got := len(w.fabric.Stored(message.Up)); got == 0 {
			t.Error("nothing is stored")
		}
	})
	t.Run("refusals are recorded, but not each", func(t *testing.T) {
		for range 20 {
			if err := p.publish(say("v1/dev-2/telemetry/x", "x", 1)); !errs.Is(err, errs.Denied) {
				t.Fatalf("Publish = %v, want Denied", err)
			}
		}
		until(t, "one is recorded", func() bool { return len(w.entries("message.publish")) > 0 })
		if got := len(w.entries("message.publish")); got != 1 {
			t.Errorf("%d entries, want one", got)
		}
	})
}

// TestDecisionsAreRememberedForTheSameOnly: what was allowed just before opens nothing that differs in one point, and not beyond a change of the policy.
func TestDecisionsAreRememberedForTheSameOnly(t *testing.T) {
	w := newWorld(t)
	n := w.node()
	w.add("dev-1")
	p := n.connect("dev-1")
	note := func(topic string, octets int, qos byte, retain bool) error {
		m := say(topic, strings.Repeat("x", octets), qos)
		m.Retain = retain
		return p.publish(m, 1)
	}
	for _, row := range []struct {
		name   string
		topic  string
		octets int
		qos    byte
		retain bool
	}{
		{"the size", "v1/dev-1/note/a", 101, 1, false},
		{"the QoS", "v1/dev-1/note/a", 100, 2, false},
		{"the topic", "v1/dev-2/note/a", 100, 1, false},
	} {
		t.Run(row.name, func(t *testing.T) {
			for range 2 {
				must(t, note("v1/dev-1/note/a", 100, 1, false))
				if err := note(row.topic, row.octets, row.qos, row.retain); err == nil {
					t.Errorf("Publish(%s, %d octets, QoS %d) = nil, want it refused", row.topic, row.octets, row.qos)
				}
			}
		})
	}
	t.Run("retain", func(t *testing.T) {
		must(t, note("v1/dev-1/telemetry/x", 1, 1, false))
		if err := note("v1/dev-1/telemetry/x", 1, 1, true); !errs.Is(err, errs.Denied) {
			t.Errorf("Publish of a retained message = %v, want Denied", err)
		}
	})
	t.Run("the policy", func(t *testing.T) {
		must(t, note("v1/dev-1/telemetry/x", 1, 1, false))
		_, err := n.SetPolicy(t.Context(), operator, strings.ReplaceAll(standard, "allow publish v1/${thing}/telemetry/# max_qos 2", ""), 0)
		must(t, err)
		until(t, "the message is refused", func() bool { return errs.Is(note("v1/dev-1/telemetry/x", 1, 1, false), errs.Denied) })
	})
}

// TestResponseTopic: a request that names a topic which its sender may not receive would have somebody else publish there for him.
func TestResponseTopic(t *testing.T) {
	w := newWorld(t)
	n := w.node()
	w.add("dev-1")
	p := n.connect("dev-1")
	for _, topic := range []string{"v1/dev-1/cmd/answer", "v1/dev-2/cmd/open"} {
		m := say("v1/dev-1/telemetry/x", "x", 1)
		m.ResponseTopic = topic
		must(t, p.publish(m))
	}
	var got []string
	for _, m := range w.fabric.Stored(message.Up) {
		got = append(got, m.ResponseTopic)
	}
	if want := []string{"v1/dev-1/cmd/answer", ""}; !slices.Equal(got, want) {
		t.Errorf("response topics: %q, want %q", got, want)
	}
}

// TestAddress: what services publish lies where those look whom it is for.
func TestAddress(t *testing.T) {
	w := newWorld(t)
	n := w.node()
	w.add("back", service)
	back := n.connect("back")
	for _, row := range []struct {
		topic  string
		stream message.Stream
		key    string
	}{
		{"v1/dev-1/cmd/a", message.Down, "dev-1"},
		{"v1/group/g1/notice", message.Cast, "cast"},
		{"v1/all/news", message.Up, "back"}, // no thing may receive it
	} {
		must(t, back.publish(say(row.topic, row.topic, 1)))
		list := w.fabric.Stored(row.stream)
		if len(list) == 0 || list[len(list)-1].Topic != row.topic || list[len(list)-1].Key != row.key {
			t.Errorf("%s lies elsewhere: stream %d holds %v", row.topic, row.stream, list)
		}
	}
}

// TestPublishAs: an operator speaks for the platform, which is recorded without topic and payload.
func TestPublishAs(t *testing.T) {
	w := newWorld(t)
	n := w.node()
	w.add("dev-1")
	p := n.connect("dev-1")
	p.subscribe("v1/dev-1/cmd/+")
	for _, row := range []struct {
		name  string
		topic string
		role  string
		kind  errs.Kind
		ok    bool
	}{
		{"an operator", "v1/dev-1/cmd/a", "operator", 0, true},
		{"an auditor", "v1/dev-1/cmd/a", "auditor", errs.Denied, false},
		{"a wildcard", "v1/+/cmd/a", "operator", errs.Invalid, false},
		{"the platform's own", "$presence/dev-1", "operator", errs.Invalid, false},
		{"none", "", "operator", errs.Invalid, false},
	} {
		t.Run(row.name, func(t *testing.T) {
			actor := operator
			if row.role == "auditor" {
				actor = auditor
			}
			err := n.PublishAs(t.Context(), actor, &message.Message{Topic: row.topic, Payload: []byte("hello"), QoS: 1, Thing: "dev-2", Seq: 9, Stream: message.Up})
			if row.ok != (err == nil) || !row.ok && !errs.Is(err, row.kind) {
				t.Errorf("PublishAs = %v", err)
			}
		})
	}
	d := p.next()
	if string(d.Message.Payload) != "hello" || d.Message.Thing != "" {
		t.Errorf("got %+v, want it in the platform's name", d.Message)
	}
	for _, e := range w.entries("message.publish") {
		if e.Refused == "" && (e.Actor != operator.String() || e.Detail["octets"] != "5" || len(e.Detail["topic"]) != 64) {
			t.Errorf("the entry is %+v", e)
		}
	}
	must(t, n.PublishAs(t.Context(), operator, &message.Message{Topic: "v1/dev-1/note/a", Payload: []byte("kept"), QoS: 1, Retain: true}))
	if m, err := p.conn.Retained(t.Context(), "v1/dev-1/note/a"); err != nil || string(m.Payload) != "kept" {
		t.Errorf("Retained = %v, %v", m, err)
	}
}

// TestTap: an operator sees what is published from now on.
func TestTap(t *testing.T) {
	w := newWorld(t)
	n := w.node()
	w.add("dev-1")
	w.add("dev-2")
	one, two := n.connect("dev-1"), n.connect("dev-2")
	one.says("v1/dev-1/telemetry/x", "before", 1)
	if err := n.Tap(t.Context(), nobody, message.TapFilter{}, nil, nil); !errs.Is(err, errs.Denied) {
		t.Errorf("Tap for nobody = %v, want Denied", err)
	}
	for _, filter := range []string{"a#", "$share/g/#", "a/#/b"} {
		if err := n.Tap(t.Context(), auditor, message.TapFilter{Filter: filter}, nil, nil); !errs.Is(err, errs.Invalid) {
			t.Errorf("Tap(%q) = %v, want Invalid", filter, err)
		}
	}
	func() { // one who looks on often leaves places for others
		ctx, cancel := context.WithCancel(t.Context())
		var wait sync.WaitGroup
		defer wait.Wait()
		defer cancel()
		for range 8 {
			begun := make(chan struct{})
			wait.Go(func() {
				if err := n.Tap(ctx, auditor, message.TapFilter{}, func() { close(begun) }, func(*message.Message) error { return nil }); err != nil {
					t.Errorf("Tap = %v", err)
				}
			})
			<-begun
		}
		if err := n.Tap(ctx, auditor, message.TapFilter{}, nil, nil); !errs.Is(err, errs.Limited) {
			t.Errorf("the ninth Tap of one = %v, want Limited", err)
		}
		other := errors.New("it looks on")
		if err := n.Tap(ctx, operator, message.TapFilter{}, func() { one.says("v1/dev-1/telemetry/x", "1", 1) }, func(*message.Message) error { return other }); !errors.Is(err, other) {
			t.Errorf("Tap of somebody else = %v", err)
		}
	}()
	enough := errors.New("enough")
	for _, row := range []struct {
		f    message.TapFilter
		want string
	}{
		{message.TapFilter{}, "[1 2]"},
		{message.TapFilter{Thing: "dev-2"}, "[2]"},
		{message.TapFilter{Filter: "v1/dev-1/#"}, "[1]"},
	} {
		var got []string
		err := n.Tap(t.Context(), auditor, row.f, func() {
			one.says("v1/dev-1/telemetry/x", "1", 1)
			two.says("v1/dev-2/telemetry/x", "2", 0)
			go func() {
				for _, p := range []*peer{one, two} {
					p.conn.Publish(say("v1/"+p.name+"/telemetry/x", "end", 1), 0, func(error) {})
				}
			}()
		}, func(m *message.Message) error {
			if string(m.Payload) == "end" {
				return enough
			}
			got = append(got, string(m.Payload))
			return nil
		})
		if !errors.Is(err, enough) || fmt.Sprint(got) != row.want {
			t.Errorf("Tap(%+v) = %v, saw %v; want %v", row.f, err, got, row.want)
		}
	}
	if m := n.Metrics(); m.Taps != 0 || m.Subscriptions != 0 {
		t.Errorf("%d taps and %d subscriptions are left", m.Taps, m.Subscriptions)
	}
}

// TestEnd: an operator ends connections, which may begin again.
func TestEnd(t *testing.T) {
	w := newWorld(t)
	n := w.node()
	w.add("dev-1")
	p := n.connect("dev-1", persistent)
	p.subscribe("v1/dev-1/cmd/+")
	if _, err := n.End(t.Context(), auditor, message.Selector{Device: idOf("dev-1")}); !errs.Is(err, errs.Denied) {
		t.Errorf("End by an auditor: %v, want Denied", err)
	}
	if ended, err := n.End(t.Context(), operator, message.Selector{Device: idOf("dev-1")}); ended != 1 || err != nil || p.reason() != message.ReasonPolicy {
		t.Errorf("End = %d, %v, closed for %d", ended, err, p.reason())
	}
	if again := n.connect("dev-1", persistent); !again.got.Present {
		t.Error("its session is gone")
	}
	if got := len(w.entries("message.end")); got != 1 {
		t.Errorf("%d entries, want one", got)
	}
}

// TestListeners: who publishes can be told that nobody who is connected listens.
func TestListeners(t *testing.T) {
	w := newWorld(t)
	n := w.node()
	w.add("dev-1")
	w.add("back", service)
	n.connect("dev-1").subscribe("v1/dev-1/cmd/+")
	n.connect("back").subscribe("v1/#")
	for topic, want := range map[string]int{"v1/dev-1/cmd/a": 2, "v1/dev-2/cmd/a": 1, "x": 0} {
		if got := n.Listeners(topic); got != want {
			t.Errorf("Listeners(%s) = %d, want %d", topic, got, want)
		}
	}
}

// TestExplain: the answer to a question is what Publish and Subscribe would say, with the rule.
func TestExplain(t *testing.T) {
	w := newWorld(t)
	n := w.node()
	w.add("dev-1")
	w.add("gate", gateway)
	w.add("child", tag(message.GatewayTag, "gate"))
	w.add("here", tag(message.GatewayTag, "gate"))
	w.add("off", tag(message.GatewayTag, "gate"))
	w.deny("off", true)
	n.connect("here")
	for _, row := range []struct {
		q     message.Question
		lines string // one of them holds it
	}{
		{message.Question{Thing: "off", Action: "publish", Topic: "v1/off/telemetry/x"}, "off is suspended"},
		{message.Question{Thing: "gate", Action: "publish", Topic: "v1/off/telemetry/x"}, "off is suspended: it may do nothing, so that no gateway may do it for it"},
		{message.Question{Thing: "gate", Action: "publish", Topic: "v1/here/telemetry/x"}, "here is connected itself"},
	} {
		if v, err := n.Test(t.Context(), auditor, row.q); err != nil || v.Allowed || !strings.Contains(strings.Join(v.Lines, "\n"), row.lines) {
			t.Errorf("Test(%+v) = %+v, %v; want it refused, and %q", row.q, v, err, row.lines)
		}
	}
	if v, err := n.Test(t.Context(), auditor, message.Question{Thing: "gate", Action: "publish", Topic: "v1/child/telemetry/x"}); err != nil || !v.Allowed ||
		!strings.Contains(strings.Join(v.Lines, "\n"), "only while child is not connected itself") {
		t.Errorf("Test for a child that is not connected = %+v, %v", v, err)
	}
	for _, row := range []struct {
		q       message.Question
		allowed bool
		kind    errs.Kind
	}{
		{message.Question{Thing: "dev-1", Action: "publish", Topic: "v1/dev-1/telemetry/x"}, true, 0},
		{message.Question{Thing: "dev-1", Action: "publish", Topic: "v1/dev-2/telemetry/x"}, false, 0},
		{message.Question{Thing: "dev-1", Client: "dev-2", Action: "publish", Topic: "v1/dev-1/telemetry/x"}, false, 0},
		{message.Question{Thing: "dev-1", Action: "subscribe", Topic: "v1/dev-1/cmd/+"}, true, 0},
		{message.Question{Thing: "dev-1", Action: "subscribe", Topic: "$share/g/v1/dev-1/cmd/+"}, false, 0},
		{message.Question{Thing: "dev-1", Action: "will", Topic: "v1/dev-1/state", Retain: true}, true, 0},
		{message.Question{Thing: "dev-1", Action: "receive", Topic: "v1/dev-1/cmd/a"}, true, 0},
		{message.Question{Thing: "gate", Action: "publish", Topic: "v1/child/telemetry/x"}, true, 0},
		{message.Question{Thing: "dev-1", Action: "dance", Topic: "x"}, false, errs.Invalid},
		{message.Question{Thing: "dev-9", Action: "publish", Topic: "x"}, false, errs.NotFound},
	} {
		t.Run(fmt.Sprint(row.q), func(t *testing.T) {
			v, err := n.Test(t.Context(), auditor, row.q)
			if row.kind != 0 {
				if !errs.Is(err, row.kind) {
					t.Errorf("Test = %+v, %v; want %v", v, err, row.kind)
				}
				return
			}
			if err != nil || v.Allowed != row.allowed || v.Group == "" || len(v.Lines) == 0 {
				t.Errorf("Test = %+v, %v", v, err)
			}
		})
	}
	if _, err := n.Test(t.Context(), nobody, message.Question{Thing: "dev-1"}); !errs.Is(err, errs.Denied) {
		t.Errorf("Test for nobody: %v, want Denied", err)
	}
}

// TestLoose: messages of QoS 0 do not wait for room in the fabric; what comes beyond is dropped, counted, and answered.
func TestLoose(t *testing.T) {
	w := newWorld(t)
	held := &holding{Memory: w.fabric}
	w.wrapped = held
	n := w.node()
	w.add("dev-1")
	p := n.connect("dev-1")
	held.on.Store(true)
	var answered atomic.Int64
	const many = 5000
	for range many {
		p.conn.Publish(say("v1/dev-1/telemetry/x", "x", 0), 0, func(err error) {
			if err != nil {
				t.Errorf("Publish: %v", err)
			}
			answered.Add(1)
		})
	}
	dropped := n.Metrics().LooseDropped
	if dropped == 0 || answered.Load() != dropped {
		t.Errorf("%d were dropped and %d answered, want as many, and some", dropped, answered.Load())
	}
	held.release()
	until(t, "all are answered", func() bool { return answered.Load() == many })
	if got := int64(len(w.fabric.Stored(message.Up))); got != many-dropped {
		t.Errorf("%d are stored, want %d", got, many-dropped)
	}
}

// holding keeps what is appended, without blocking, until it is released.
type holding struct {
	*messagetest.Memory
	on   atomic.Bool
	mu   sync.Mutex
	list []func()
}

func (f *holding) Append(m *message.Message, dedupe string, done func(uint64, error)) {
	if !f.on.Load() {
		f.Memory.Append(m, dedupe, done)
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.list = append(f.list, func() { f.Memory.Append(m, dedupe, done) })
}

func (f *holding) release() {
	f.on.Store(false)
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, fn := range f.list {
		fn()
	}
}

// TestFixedGroup: whoever comes by a listener with a fixed group needs no entry in the registry, and hears the others there.
func TestFixedGroup(t *testing.T) {
	w := newWorld(t)
	n := w.node()
	_, err := n.SetPolicy(t.Context(), operator, standard+"\ngroup bench {\n principal service\n client_id any\n match none\n allow publish \"#\"\n allow subscribe \"#\"\n}\n", 0)
	must(t, err)
	fixed := func(a *message.Attach) {
		a.Identity = message.Identity{Subject: policy.Subject{Thing: "bench", Kind: policy.Device}, Group: "bench"}
	}
	w.add("any")
	a, b := n.connect("any", fixed, client("a")), n.connect("any", fixed, client("b"))
	b.subscribe("in/#")
	a.says("in/x", "hello", 1)
	b.hears("hello")
	must(t, n.Changed(t.Context(), device.ID{}))
	_, err = n.Cut(t.Context(), message.Selector{Issuer: "somebody's"}, "test")
	must(t, err)
	w.pass(time.Hour) // what was cut before is forgotten
	_, err = n.Cut(t.Context(), message.Selector{Issuer: "somebody's"}, "test")
	must(t, err)
	n.connect("any", fixed, client("c"))
	a.says("in/x", "again", 1)
	b.hears("again")
}
