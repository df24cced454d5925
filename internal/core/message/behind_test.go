package message_test

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"mooring/internal/base/errs"
	"mooring/internal/core/message"
	"mooring/internal/core/message/messagetest"
)

// twoServers is a fabric of which one server tells what is new and another one is asked, which has not everything yet.
type twoServers struct {
	*messagetest.Memory
	lags   atomic.Bool
	shown  [4]uint64    // up to where the second one has each stream, while it lags
	looked atomic.Int64 // questions meanwhile

	held atomic.Pointer[gate] // who is told next that dev-1 has nothing more is told late
}

func (f *twoServers) lag(t *testing.T) {
	t.Helper()
	for x := message.Up; x <= message.Cast; x++ {
		last, err := f.Memory.Last(t.Context(), x)
		must(t, err)
		f.shown[x] = last
	}
	f.looked.Store(0)
	f.lags.Store(true)
}

func (f *twoServers) Next(ctx context.Context, x message.Stream, key string, after uint64) (*message.Message, error) {
	lags := f.lags.Load()
	m, err := f.Memory.Next(ctx, x, key, after)
	if err == nil && lags && m.Seq > f.shown[x] {
		f.looked.Add(1)
		if key == "dev-1" {
			f.held.Swap(nil).pass()
		}
		return nil, errs.New(errs.NotFound, "there is no such message")
	}
	return m, err
}

func (f *twoServers) Last(ctx context.Context, x message.Stream) (uint64, error) {
	if f.lags.Load() {
		f.looked.Add(1)
		return f.shown[x], nil
	}
	return f.Memory.Last(ctx, x)
}

// TestServerBehind: what this node has heard and cannot read yet is not taken for gone, neither when a session is taken up nor while it catches up.
func TestServerBehind(t *testing.T) {
	w := newWorld(t)
	f := &twoServers{Memory: w.fabric}
	w.wrapped = f
	n := w.node()
	w.add("dev-1")
	w.add("back", service)
	back := n.connect("back")
	back.subscribe("v1/dev-1/cmd/+")
	dev := n.connect("dev-1", persistent)
	dev.subscribe("v1/dev-1/cmd/+")
	f.lag(t)
	back.says("v1/dev-1/cmd/a", "unacknowledged", 1)
	dev.next()
	dev.leave(message.ReasonLost)
	back.says("v1/dev-1/cmd/a", "while it was away", 1)
	back.hears("unacknowledged", "while it was away") // so this node has heard it
	until(t, "the session is left", func() bool { return w.left(idOf("dev-1")) })
	dev = n.connect("dev-1", persistent)
	until(t, "it is looked for", func() bool { return f.looked.Load() > 2 })
	back.says("v1/dev-1/cmd/a", "while it catches up", 1)
	back.hears("while it catches up")
	f.lags.Store(false)
	dev.hears("unacknowledged", "while it was away", "while it catches up")
}

// TestServerBehindCatchingUp: also where all that was there when the session was taken up could be read.
func TestServerBehindCatchingUp(t *testing.T) {
	w := newWorld(t)
	f := &twoServers{Memory: w.fabric}
	w.wrapped = f
	n := w.node()
	w.add("dev-1")
	w.add("back", service)
	back := n.connect("back")
	back.subscribe("v1/dev-1/cmd/+")
	dev := n.connect("dev-1", window(1))
	dev.subscribe("v1/dev-1/cmd/+")
	var all []string
	say := func() {
		all = append(all, fmt.Sprint("command ", len(all)))
		back.says("v1/dev-1/cmd/a", all[len(all)-1], 1)
		back.hears(all[len(all)-1])
	}
	for n.Metrics().Behind == 0 {
		say()
	}
	f.lag(t)
	say()
	first := dev.next()
	dev.ack(first)
	dev.hears(all[1 : len(all)-1]...)
	until(t, "the last one is looked for", func() bool { return f.looked.Load() > 2 })
	f.lags.Store(false)
	dev.hears(all[len(all)-1])
}

// TestServerBehindForOne: that the server which is asked has everything by now, as another session was told, says nothing of what it answered before.
func TestServerBehindForOne(t *testing.T) {
	w := newWorld(t)
	f := &twoServers{Memory: w.fabric}
	w.wrapped = f
	n := w.node()
	w.add("dev-1")
	w.add("dev-2")
	w.add("back", service)
	back := n.connect("back")
	back.subscribe("v1/+/cmd/+")
	for _, name := range []string{"dev-1", "dev-2"} {
		dev := n.connect(name, persistent)
		dev.subscribe("v1/" + name + "/cmd/+")
		dev.leave(message.ReasonLost)
		until(t, "the session is left", func() bool { return w.left(idOf(name)) })
	}
	f.lag(t)
	back.says("v1/dev-1/cmd/a", "first", 1)
	back.says("v1/dev-2/cmd/a", "other", 1)
	back.hears("first", "other")
	one := n.connect("dev-1", persistent)
	until(t, "it is looked for", func() bool { return f.looked.Load() > 4 })
	late := newGate()
	opened := sync.OnceFunc(func() { close(late.open) })
	t.Cleanup(opened)
	f.held.Store(late)
	<-late.reached
	f.lags.Store(false)
	two := n.connect("dev-2", persistent)
	two.hears("other")
	opened()
	back.says("v1/dev-1/cmd/a", "second", 1)
	one.hears("first", "second")
}

// TestServerBehindShared: what the members of one node leave to those of another is waited for.
func TestServerBehindShared(t *testing.T) {
	w := newWorld(t)
	f := &twoServers{Memory: w.fabric}
	w.wrapped = f
	leaves, stays := w.node(), w.node()
	w.add("dev-1")
	w.add("back", service)
	const filter = "$share/g/v1/dev-1/telemetry/#"
	first := leaves.connect("back", client("first"), window(1))
	first.subscribe(filter)
	second := stays.connect("back", client("second"))
	second.subscribe(filter)
	dev := leaves.connect("dev-1")
	f.lag(t)
	const all = 32
	for i := range all {
		dev.says("v1/dev-1/telemetry/x", fmt.Sprint("reading ", i), 1)
	}
	until(t, "some wait", func() bool { return leaves.Waits(filter) > 2 })
	first.leave(message.ReasonLost)
	until(t, "what was left is looked for", func() bool { return f.looked.Load() > 2 })
	f.lags.Store(false)
	got := map[string]bool{} // while a node hears that another one has members, a message may come to both
	for len(got) < all {
		d := second.next()
		second.ack(d)
		got[string(d.Message.Payload)] = true
	}
}

// slowQueue is a fabric that has who first reads the queue of a thing wait.
type slowQueue struct {
	*messagetest.Memory
	first sync.Once
	gate  *gate
}

func (f *slowQueue) Next(ctx context.Context, x message.Stream, key string, after uint64) (*message.Message, error) {
	if x == message.Down {
		f.first.Do(f.gate.pass)
	}
	return f.Memory.Next(ctx, x, key, after)
}

// TestRoomWhileCatchingUp: where a retained message takes the last place on the way to a peer while the queue is read for it, what was read waits: no more is
// on its way than the peer takes (MQTT 5.0, section 3.3.4).
func TestRoomWhileCatchingUp(t *testing.T) {
	w := newWorld(t)
	f := &slowQueue{Memory: w.fabric, gate: newGate()}
	opened := sync.OnceFunc(func() { close(f.gate.open) })
	t.Cleanup(opened)
	w.wrapped = f
	n := w.node()
	w.add("dev-1")
	w.add("back", service)
	back, dev := n.connect("back"), n.connect("dev-1", window(1))
	must(t, dev.publish(retained("v1/dev-1/state", "on")))
	back.subscribe("v1/dev-1/cmd/+")
	dev.subscribe("v1/dev-1/cmd/+")
	var all []string
	for n.Metrics().Behind == 0 {
		all = append(all, fmt.Sprint("command ", len(all)))
		back.says("v1/dev-1/cmd/a", all[len(all)-1], 1)
		back.hears(all[len(all)-1]) // so it was given to all
	}
	for len(f.gate.reached) == 0 {
		dev.hears(all[0])
		all = all[1:]
		until(t, "the next one comes, or is read", func() bool { return dev.waits() > 0 || len(f.gate.reached) > 0 })
	}
	dev.subscribe("v1/dev-1/state")
	d := dev.next()
	if got := string(d.Message.Payload); got != "on" || d.QoS == 0 {
		t.Fatalf("%q comes with QoS %d, want the retained message", got, d.QoS)
	}
	opened()
	until(t, "nobody reads", func() bool { return !dev.conn.Reads() })
	if more := dev.waits(); more > 0 {
		t.Errorf("%d more are on their way to a peer that takes one", more)
	}
	dev.ack(d)
	dev.hears(all...)
}
