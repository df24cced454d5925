package message_test

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"mooring/internal/base/errs"
	"mooring/internal/core/message"
	"mooring/internal/core/message/policy"
)

// TestClientIdentifier: a thing has its own identifiers and no other's; whoever is spoofed stays connected (acceptance: Identity, Sessions).
func TestClientIdentifier(t *testing.T) {
	w := newWorld(t)
	n := w.node()
	w.add("dev-1")
	w.add("dev-10")
	w.add("multi", tag("several", "yes"))
	w.add("back", service)
	victim := n.connect("dev-1")
	for _, row := range []struct{ name, thing, client, want string }{
		{"none is assigned", "dev-10", "", "dev-10"},
		{"its own", "dev-10", "dev-10", "dev-10"},
		{"another thing's", "dev-10", "dev-1", "refused"},
		{"another's with a suffix", "dev-10", "dev-1~x", "refused"},
		{"a suffix where there may be one connection", "dev-10", "dev-10~x", "refused"},
		{"a suffix where there may be several", "multi", "multi~x", "multi~x"},
		{"a prefix of its own", "dev-10", "dev", "refused"},
		{"another case", "dev-10", "DEV-10", "refused"},
		{"any, of a service", "back", "dev-1", "dev-1"},
	} {
		t.Run(row.name, func(t *testing.T) {
			p, err := n.try(row.thing, client(row.client))
			if row.want == "refused" {
				if !errors.Is(err, message.ErrClient) {
					t.Errorf("Connect = %v, want ErrClient", err)
				}
				return
			}
			if err != nil || p.got.Client != row.want || p.got.Assigned != (row.client == "") {
				t.Errorf("Connect = %+v, %v; want %q", p.got, err, row.want)
			}
		})
	}
	if r := victim.reason(); r != 0 {
		t.Errorf("the victim was disconnected: %d", r)
	}
}

// TestStrangersSession: a clean start by somebody else under the same identifier wipes nothing.
func TestStrangersSession(t *testing.T) {
	w := newWorld(t)
	n := w.node()
	w.add("dev-1")
	w.add("back", service)
	p := n.connect("dev-1", persistent)
	p.subscribe("v1/dev-1/cmd/+")
	p.leave(message.ReasonFarewell)
	stranger := n.connect("back", client("dev-1")) // a service may have any identifier; its session is its own all the same
	stranger.says("v1/dev-1/cmd/a", "one", 1)
	stranger.leave(message.ReasonFarewell)
	again := n.connect("dev-1", persistent)
	if !again.got.Present {
		t.Error("the session was wiped")
	}
	again.hears("one")
}

// TestTakeOver: the same client again ends the connection before, and only that.
func TestTakeOver(t *testing.T) {
	for _, row := range []struct {
		name  string
		nodes int
	}{{"on one node", 1}, {"on another node", 2}} {
		t.Run(row.name, func(t *testing.T) {
			w := newWorld(t)
			first := w.node()
			second := first
			if row.nodes == 2 {
				second = w.node()
			}
			w.add("dev-1")
			w.add("dev-2")
			w.add("back", service)
			old, other := first.connect("dev-1", persistent), first.connect("dev-2")
			old.subscribe("v1/dev-1/cmd/+")
			next := second.connect("dev-1", persistent)
			until(t, "the old connection is closed", func() bool { return old.reason() == message.ReasonTakenOver })
			if !next.got.Present {
				t.Error("the session does not go on")
			}
			if other.reason() != 0 {
				t.Error("somebody else's connection was closed")
			}
			if err := old.publish(say("v1/dev-1/telemetry/x", "late", 1)); err == nil {
				t.Error("the old connection still publishes")
			}
			first.connect("back").says("v1/dev-1/cmd/a", "one", 1)
			next.hears("one")
		})
	}
}

// TestFlapping: two that take one session from each other are stopped, and it is recorded once.
func TestFlapping(t *testing.T) {
	w := newWorld(t)
	n := w.node()
	w.add("dev-1")
	var last *peer
	for i := range 6 {
		last = n.connect("dev-1")
		_ = i
	}
	for range 3 {
		if _, err := n.try("dev-1"); !errs.Is(err, errs.Conflict) {
			t.Fatalf("the seventh connection: %v, want Conflict", err)
		}
	}
	if last.reason() != 0 {
		t.Error("the connection that is refused ended the one before")
	}
	until(t, "it is recorded", func() bool { return len(w.entries("message.flap")) > 0 })
	if got := len(w.entries("message.flap")); got != 1 {
		t.Errorf("there are %d entries, want one", got)
	}
	w.pass(61 * time.Second)
	n.connect("dev-1")
}

func TestConnectionQuota(t *testing.T) {
	w := newWorld(t)
	n := w.node()
	w.add("multi", tag("several", "yes"))
	var all []*peer
	for _, id := range []string{"multi", "multi~a", "multi~b"} {
		all = append(all, n.connect("multi", client(id)))
	}
	if _, err := n.try("multi", client("multi~c")); !errs.Is(err, errs.Limited) {
		t.Errorf("the fourth connection: %v, want Limited", err)
	}
	for _, p := range all {
		if p.reason() != 0 {
			t.Errorf("%s was disconnected", p.name)
		}
	}
	all[1].leave(message.ReasonFarewell)
	n.connect("multi", client("multi~c"))
}

// TestSessionExpiry: how long sessions last, and who may change it when.
func TestSessionExpiry(t *testing.T) {
	seconds := func(n uint32) *uint32 { return &n }
	for _, row := range []struct {
		name    string
		attach  func(*message.Attach)
		granted uint32
		bye     *uint32
		passes  time.Duration
		present bool
	}{
		{"none", func(a *message.Attach) { a.Clean = false }, 0, nil, 0, false},
		{"within", persistent, 3600, nil, 59 * time.Minute, true},
		{"over", persistent, 3600, nil, 61 * time.Minute, false},
		{"more than the policy allows", func(a *message.Attach) { a.Clean, a.Expiry = false, ^uint32(0) }, 3600, nil, 0, true},
		{"the policy's", func(a *message.Attach) { a.Clean, a.Default = false, true }, 3600, nil, 0, true},
		{"shortened in the farewell", persistent, 3600, seconds(60), 2 * time.Minute, false},
		{"ended by the farewell", persistent, 3600, seconds(0), 0, false},
		{"from none to some is not allowed", func(a *message.Attach) { a.Clean = false }, 0, seconds(60), 0, false},
	} {
		t.Run(row.name, func(t *testing.T) {
			w := newWorld(t)
			n := w.node()
			w.add("dev-1")
			p := n.connect("dev-1", row.attach)
			if p.got.Expiry != row.granted {
				t.Errorf("granted %d seconds, want %d", p.got.Expiry, row.granted)
			}
			p.subscribe("v1/dev-1/cmd/+")
			p.conn.Detach(message.ReasonFarewell, message.Farewell{Expiry: row.bye})
			w.pass(row.passes)
			if again := n.connect("dev-1", persistent); again.got.Present != row.present {
				t.Errorf("Present = %v, want %v", again.got.Present, row.present)
			}
		})
	}
}

// TestQueue: what was addressed to a session that was away comes in order, once, up to the limit of its group.
func TestQueue(t *testing.T) {
	for _, row := range []struct {
		name  string
		topic string
		sent  int
		first int
		nodes int
	}{
		{"to the thing", "v1/dev-1/cmd/a", 10, 0, 1},
		{"to many", "v1/group/g1/notice", 10, 0, 1},
		{"more than is kept", "v1/dev-1/cmd/a", 27, 7, 1},
		{"on another node", "v1/dev-1/cmd/a", 10, 0, 2},
	} {
		t.Run(row.name, func(t *testing.T) {
			w := newWorld(t)
			n := w.node()
			other := n
			if row.nodes == 2 {
				other = w.node()
			}
			w.add("dev-1")
			w.add("dev-2")
			w.add("back", service)
			p := n.connect("dev-1", persistent)
			p.subscribe("v1/dev-1/cmd/+", "v1/group/g1/notice")
			p.leave(message.ReasonLost)
			back := n.connect("back")
			for i := range row.sent {
				back.says(row.topic, fmt.Sprint(i), 1)
				back.says("v1/dev-2/cmd/a", "not for dev-1", 1)
				if row.nodes == 1 { // another node may hear a little later what happened before
					back.says(row.topic, "loose, so it is not queued", 0)
				}
			}
			again := other.connect("dev-1", persistent, window(3))
			for i := row.first; i < row.sent; i++ {
				again.hears(fmt.Sprint(i))
			}
			again.silent(back, "v1/dev-1/cmd/z")
			if dropped := other.Metrics().QueueDropped; dropped != int64(row.first) {
				t.Errorf("%d were counted as dropped, want %d", dropped, row.first)
			}
		})
	}
}

// TestQueueOfQoS0: what a session wants with QoS 0 is not queued for it, so it takes nothing else's place there, and no identifiers.
func TestQueueOfQoS0(t *testing.T) {
	w := newWorld(t)
	n := w.node()
	w.add("dev-1")
	w.add("back", service)
	p := n.connect("dev-1", persistent)
	p.subscribe("v1/dev-1/cmd/+")
	p.subscribeTo(message.Subscription{Filter: "v1/dev-1/tree/#", QoS: 0})
	p.leave(message.ReasonLost)
	back := n.connect("back")
	back.says("v1/dev-1/cmd/a", "command", 1)
	for range 27 { // the queue may have 20
		back.says("v1/dev-1/tree/x", "only of interest at once", 1)
	}
	again := n.connect("dev-1", persistent)
	again.hears("command")
	if dropped := n.Metrics().QueueDropped; dropped != 0 {
		t.Errorf("%d were counted as dropped, want 0", dropped)
	}
}

// TestRedelivery: what was not acknowledged comes again with its identifier, marked, in order, and before what is new.
func TestRedelivery(t *testing.T) {
	w := newWorld(t)
	n := w.node()
	w.add("dev-1")
	w.add("back", service)
	back := n.connect("back")
	p := n.connect("dev-1", persistent, window(4))
	p.subscribe("v1/dev-1/cmd/+")
	for i, qos := range []byte{1, 2, 2, 1} {
		back.says("v1/dev-1/cmd/a", fmt.Sprint(i), qos)
	}
	back.says("v1/dev-1/cmd/a", "waits", 1)
	var first []message.Delivery
	for range 4 {
		first = append(first, p.next())
	}
	if !p.conn.Received(first[1].ID) { // it has the second, and only the release is missing
		t.Fatal("there is no second delivery")
	}
	if r := p.next(); !r.Release {
		t.Fatalf("got %+v, want the release", r)
	}
	p.leave(message.ReasonLost)
	back.says("v1/dev-1/cmd/a", "new", 1)

	again := n.connect("dev-1", persistent, window(4))
	for i, want := range first {
		d := again.next()
		release := i == 1
		if d.ID != want.ID || d.Release != release || !release && (!d.Dup || string(d.Message.Payload) != fmt.Sprint(i) || d.QoS != want.QoS) {
			t.Fatalf("delivery %d is %+v, want %d again (release: %v)", i, d, want.ID, release)
		}
	}
	for i, d := range first {
		switch i {
		case 1:
			if !again.conn.Completed(d.ID) {
				t.Errorf("no release of %d", d.ID)
			}
		default:
			again.ack(message.Delivery{ID: d.ID, QoS: map[byte]byte{1: 1, 2: 1}[d.QoS]})
		}
	}
	for _, want := range []string{"waits", "new"} {
		d := again.next()
		if d.Dup || string(d.Message.Payload) != want {
			t.Errorf("got %+v, want %q for the first time", d, want)
		}
		again.ack(d)
	}
}

// TestWindow: no more is on its way than the peer wants, however much comes, and nothing is lost or out of order.
func TestWindow(t *testing.T) {
	for _, size := range []int{1, 2, 7} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			w := newWorld(t)
			n := w.node()
			w.add("dev-1")
			w.add("back", service)
			back := n.connect("back")
			p := n.connect("dev-1", window(size))
			p.subscribe("v1/dev-1/cmd/+")
			const many = 300 // more than wait in memory
			for i := range many {
				back.says("v1/dev-1/cmd/a", fmt.Sprint(i), 1)
			}
			var open []message.Delivery
			for i := range many {
				d := p.next()
				if string(d.Message.Payload) != fmt.Sprint(i) {
					t.Fatalf("got %q, want %d", d.Message.Payload, i)
				}
				if open = append(open, d); len(open) > size {
					t.Fatalf("%d are on their way, want at most %d", len(open), size)
				}
				if len(open) == size {
					p.ack(open[0])
					open = open[1:]
				}
			}
			if n.Metrics().Behind == 0 {
				t.Error("the session never fell behind, so this shows nothing")
			}
		})
	}
}

// TestIdentifiers: 65,535 deliveries use all identifiers and none that is in use.
func TestIdentifiers(t *testing.T) {
	w := newWorld(t)
	n := w.node()
	w.add("dev-1")
	w.add("back", service)
	back := n.connect("back")
	p := n.connect("dev-1", window(2))
	p.subscribe("v1/dev-1/cmd/+")
	back.says("v1/dev-1/cmd/a", "kept", 1)
	kept := p.next()
	for i := range 65_540 {
		back.conn.Publish(say("v1/dev-1/cmd/a", "x", 1), 0, func(error) {})
		d := p.next()
		if d.ID == 0 || d.ID == kept.ID {
			t.Fatalf("delivery %d has the identifier %d, which %d has", i, d.ID, kept.ID)
		}
		p.ack(d)
	}
	p.ack(kept)
}

// TestQoS2In: a message of QoS 2 is stored once, whatever is repeated, over a reconnect and a restart too.
func TestQoS2In(t *testing.T) {
	w := newWorld(t)
	n := w.node()
	w.add("dev-1")
	p := n.connect("dev-1", persistent)
	for range 3 {
		must(t, p.publish(say("v1/dev-1/telemetry/x", "one", 2), 5))
	}
	p.leave(message.ReasonLost)
	p = n.connect("dev-1", persistent)
	must(t, p.publish(say("v1/dev-1/telemetry/x", "one", 2), 5))
	n.stop() // the node is gone; another one takes the session up
	n = w.node()
	p = n.connect("dev-1", persistent)
	must(t, p.publish(say("v1/dev-1/telemetry/x", "one", 2), 5))
	if known, err := p.conn.Release(t.Context(), 5); !known || err != nil {
		t.Errorf("Release = %v, %v; want it known", known, err)
	}
	if known, err := p.conn.Release(t.Context(), 5); known || err != nil {
		t.Errorf("Release again = %v, %v; want it unknown", known, err)
	}
	must(t, p.publish(say("v1/dev-1/telemetry/x", "two", 2), 5)) // the identifier is free again
	if got, want := w.stored(message.Up), []string{"one", "two"}; !slices.Equal(got, want) {
		t.Errorf("stored: %q, want %q", got, want)
	}
}

// TestQoS2Anew: a session that begins anew uses the identifiers of the one before it, and what it publishes is stored all the same.
func TestQoS2Anew(t *testing.T) {
	w := newWorld(t)
	n := w.node()
	w.add("dev-1")
	var want []string
	for _, row := range []struct {
		name   string
		change func(*message.Attach)
	}{
		{"one that ends with its connection", func(*message.Attach) {}},
		{"another such", func(*message.Attach) {}},
		{"one that lives on", persistent},
		{"one in the place of that", func(a *message.Attach) { a.Clean, a.Expiry = true, 3600 }},
	} {
		t.Run(row.name, func(t *testing.T) {
			p := n.connect("dev-1", row.change)
			must(t, p.publish(say("v1/dev-1/telemetry/x", row.name, 2), 1))
			want = append(want, row.name)
			p.leave(message.ReasonLost) // its identifier is not released
			if got := w.stored(message.Up); !slices.Equal(got, want) {
				t.Errorf("stored: %q, want %q", got, want)
			}
		})
	}
}

// TestLostAcknowledgement: a crash after the message was stored and before its identifier was leaves no second copy.
func TestLostAcknowledgement(t *testing.T) {
	w := newWorld(t)
	broken := &forgetful{Memory: w.fabric}
	w.wrapped = broken
	n := w.node()
	w.add("dev-1")
	p := n.connect("dev-1", persistent)
	broken.forget.Store(true)
	if err := p.publish(say("v1/dev-1/telemetry/x", "one", 2), 5); err == nil {
		t.Error("it was acknowledged although its identifier is not stored")
	}
	broken.forget.Store(false)
	n = w.node()
	p = n.connect("dev-1", persistent)
	must(t, p.publish(say("v1/dev-1/telemetry/x", "one", 2), 5))
	if got := w.stored(message.Up); len(got) != 1 {
		t.Errorf("stored: %q, want it once", got)
	}
}

// TestCrashBeforeStoring: a session that is stored while a message of QoS 2 is still on its way to the fabric does not claim to have it: who sends it again after
// the crash would be told that it is stored, and it would be lost.
func TestCrashBeforeStoring(t *testing.T) {
	w := newWorld(t)
	slow := &holding{Memory: w.fabric}
	w.wrapped = slow
	n := w.node()
	w.add("dev-1")
	p := n.connect("dev-1", persistent)
	slow.on.Store(true)
	p.conn.Publish(say("v1/dev-1/telemetry/x", "one", 2), 5, func(error) {})
	p.subscribe("v1/dev-1/cmd/+") // has the session stored
	w.wrapped = w.fabric          // the node is dead, and what it held with it
	n = w.node()
	p = n.connect("dev-1", persistent)
	must(t, p.publish(say("v1/dev-1/telemetry/x", "one", 2), 5))
	if got, want := w.stored(message.Up), []string{"one"}; !slices.Equal(got, want) {
		t.Errorf("stored: %q, want %q", got, want)
	}
	slow.release() // for the end of the first node
}

// TestResumeLooksAgain: what the policy does not allow any more is lost from a session that goes on, in its queue and on its way.
func TestResumeLooksAgain(t *testing.T) {
	w := newWorld(t)
	n := w.node()
	w.add("dev-1")
	w.add("back", service)
	back := n.connect("back")
	p := n.connect("dev-1", persistent)
	p.subscribe("v1/dev-1/cmd/+", "v1/group/g1/notice")
	back.says("v1/group/g1/notice", "on its way", 1)
	p.next()
	p.leave(message.ReasonLost)
	back.says("v1/group/g1/notice", "queued", 1)
	w.add("dev-1", func(s *policy.Subject) { s.Group = "g2" }) // it moved to another group of the registry
	again := n.connect("dev-1", persistent)
	again.silent(back, "v1/dev-1/cmd/a")
	if m := n.Metrics(); m.SubscriptionsLost != 1 || m.ResendDenied != 1 {
		t.Errorf("lost %d, denied %d; want one each", m.SubscriptionsLost, m.ResendDenied)
	}
	back.says("v1/group/g1/notice", "later", 1)
	again.silent(back, "v1/dev-1/cmd/a")
}

// TestNeverReleased: who publishes with QoS 2 and never releases has as many open as the policy says, over reconnects too.
func TestNeverReleased(t *testing.T) {
	w := newWorld(t)
	n := w.node()
	w.add("dev-1")
	p := n.connect("dev-1", persistent)
	most := p.got.Limits.InFlightIn
	for i := range most {
		must(t, p.publish(say("v1/dev-1/telemetry/x", "x", 2), uint16(i+1)))
	}
	p.leave(message.ReasonLost)
	p = n.connect("dev-1", persistent)
	for i := range 100 {
		if err := p.publish(say("v1/dev-1/telemetry/x", "x", 2), uint16(most+1+i)); !errs.Is(err, errs.Limited) {
			t.Fatalf("Publish = %v, want Limited", err)
		}
	}
	must(t, p.publish(say("v1/dev-1/telemetry/x", "x", 2), 1)) // a repetition
	if _, err := p.conn.Release(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	must(t, p.publish(say("v1/dev-1/telemetry/x", "x", 2), uint16(most+1)))
	if got := len(w.stored(message.Up)); got != most+1 {
		t.Errorf("%d are stored, want %d", got, most+1)
	}
}

// TestSubscriptionNotStored: a subscription that could not be stored is not granted, and the connection ends: it would be lost with the node.
func TestSubscriptionNotStored(t *testing.T) {
	w := newWorld(t)
	broken := &forgetful{Memory: w.fabric}
	w.wrapped = broken
	n := w.node()
	w.add("dev-1")
	p := n.connect("dev-1", persistent)
	broken.forget.Store(true)
	g := p.conn.Subscribe(t.Context(), []message.Subscription{{Filter: "v1/dev-1/cmd/+", QoS: 1}})
	if !errs.Is(g[0].Err, errs.Unavailable) || p.reason() != message.ReasonFabric {
		t.Errorf("Subscribe = %v, closed for %d", g[0].Err, p.reason())
	}
}
