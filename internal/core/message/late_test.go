package message_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"mooring/internal/base/errs"
	"mooring/internal/core/message"
	"mooring/internal/core/message/messagetest"
)

// slowStore is a fabric that has who first reads a session wait, or who stores one.
type slowStore struct {
	*messagetest.Memory
	read, stored     sync.Once
	reading, storing *gate
}

func (f *slowStore) Session(ctx context.Context, key string) ([]byte, uint64, error) {
	if strings.HasPrefix(key, "s/") {
		f.read.Do(f.reading.pass)
	}
	return f.Memory.Session(ctx, key)
}

func (f *slowStore) PutSession(ctx context.Context, key string, data []byte, revision uint64, life time.Duration) (uint64, error) {
	seq, err := f.Memory.PutSession(ctx, key, data, revision, life)
	if strings.HasPrefix(key, "s/") {
		f.stored.Do(f.storing.pass)
	}
	return seq, err
}

// TestEndWhileStoring: a connection that ends while that it lives is being stored does not stand there as one that lives, and its will is said.
func TestEndWhileStoring(t *testing.T) {
	w := newWorld(t)
	w.add("dev-1")
	storing := newGate()
	opened := sync.OnceFunc(func() { close(storing.open) })
	t.Cleanup(opened)
	f := &slowStore{Memory: w.fabric, storing: storing}
	w.wrapped = f
	n := w.node()
	done := make(chan error, 1)
	go func() {
		_, err := n.try("dev-1", persistent, will("v1/dev-1/state", "gone", 0))
		done <- err
	}()
	<-storing.reached
	ended, err := n.End(t.Context(), operator, message.Selector{Device: idOf("dev-1")})
	must(t, err)
	if ended != 1 {
		t.Fatalf("%d connections were ended, want 1", ended)
	}
	opened()
	if err := <-done; err == nil {
		t.Error("a connection is admitted that has ended")
	}
	until(t, "the session is left", func() bool { return w.left(idOf("dev-1")) })
	until(t, "the will is said", func() bool { return len(w.stored(message.Up)) == 1 })
}

// TestEndWhileResuming: a connection that ends while its session is taken up leaves nothing behind that hears in its place: another member of its group
// gets all that comes.
func TestEndWhileResuming(t *testing.T) {
	w := newWorld(t)
	w.add("back", service)
	w.add("dev-1")
	reading := newGate()
	opened := sync.OnceFunc(func() { close(reading.open) })
	t.Cleanup(opened)
	w.wrapped = &slowStore{Memory: w.fabric, reading: reading}
	slow := w.node()
	w.wrapped = w.fabric
	quick := w.node()
	first := quick.connect("back", persistent, client("back"))
	first.subscribe("$share/g/v1/dev-1/telemetry/#")
	first.leave(message.ReasonLost)
	until(t, "the session is left", func() bool { return w.left(idOf("back")) })

	done := make(chan error, 1)
	go func() { _, err := slow.try("back", persistent, client("back")); done <- err }()
	<-reading.reached
	second := quick.connect("back", persistent, client("back"))
	until(t, "the other node has heard of it", func() bool { return slow.Metrics().TakenOver == 1 })
	opened()
	if err := <-done; err == nil {
		t.Error("a connection is admitted that has ended")
	}
	dev := quick.connect("dev-1")
	for i := range 8 {
		must(t, dev.publish(say("v1/dev-1/telemetry/x", fmt.Sprint("reading ", i), 1)))
	}
	for i := range 8 {
		second.hears(fmt.Sprint("reading ", i))
	}
}

// breaking is a fabric whose streams break off when they are told to. It counts how often a queue was found to have no more.
type breaking struct {
	*slowStore
	down  chan context.CancelFunc
	empty atomic.Int64
}

func (f *breaking) Follow(ctx context.Context, s message.Stream, ready func(), fn func(*message.Message)) error {
	if s == message.Down {
		own, stop := context.WithCancel(ctx)
		defer stop()
		ctx = own
		f.down <- stop
	}
	return f.Memory.Follow(ctx, s, ready, fn)
}

func (f *breaking) Next(ctx context.Context, s message.Stream, key string, after uint64) (*message.Message, error) {
	m, err := f.Memory.Next(ctx, s, key, after)
	if s == message.Cast && errs.Is(err, errs.NotFound) {
		f.empty.Add(1)
	}
	return m, err
}

// TestBreakWhileResuming: a session that is looked through before its subscriptions hear what comes misses nothing in between.
func TestBreakWhileResuming(t *testing.T) {
	w := newWorld(t)
	w.add("dev-1")
	w.add("back", service)
	w.add("ops", service)
	n := w.node()
	p := n.connect("dev-1", persistent)
	p.subscribe("v1/dev-1/cmd/+")
	p.leave(message.ReasonLost)
	until(t, "the session is left", func() bool { return w.left(idOf("dev-1")) })
	back := n.connect("back")
	back.says("v1/dev-1/cmd/a", "before", 1)

	storing := newGate()
	opened := sync.OnceFunc(func() { close(storing.open) })
	t.Cleanup(opened)
	f := &breaking{slowStore: &slowStore{Memory: w.fabric, storing: storing}, down: make(chan context.CancelFunc, 8)}
	w.wrapped = f
	other := w.node()
	ops := other.connect("ops")
	ops.subscribe("v1/dev-1/cmd/+")
	done := make(chan *peer, 1)
	go func() {
		p, err := other.try("dev-1", persistent)
		if err != nil {
			t.Error(err)
		}
		done <- p
	}()
	<-storing.reached
	(<-f.down)() // the stream breaks, and is taken up again
	<-f.down
	soon := time.Now().Add(time.Second)
	until(t, "the queue was looked through, or is left alone", func() bool { return f.empty.Load() > 1 || time.Now().After(soon) })
	back.says("v1/dev-1/cmd/a", "between", 1)
	for d := ops.next(); string(d.Message.Payload) != "between"; d = ops.next() {
		ops.ack(d)
	}
	opened()
	p = <-done
	p.hears("before", "between")
}

// TestReceivedOverAndOver: a peer that says again and again that it has received a message is told once that it may forget it.
func TestReceivedOverAndOver(t *testing.T) {
	for _, row := range []struct {
		name   string
		change []func(*message.Attach)
	}{
		{"a session that stays", []func(*message.Attach){persistent}},
		{"one that does not", nil},
	} {
		t.Run(row.name, func(t *testing.T) {
			w := newWorld(t)
			w.add("dev-1")
			w.add("back", service)
			n := w.node()
			p, back := n.connect("dev-1", row.change...), n.connect("back")
			p.subscribe("v1/dev-1/cmd/+")
			back.says("v1/dev-1/cmd/a", "once", 2)
			d := p.next()
			for range 1000 {
				if !p.conn.Received(d.ID) {
					t.Fatal("there is no such delivery")
				}
			}
			if r := p.next(); !r.Release || r.ID != d.ID {
				t.Fatalf("it hears %+v, want the release of %d", r, d.ID)
			}
			back.says("v1/dev-1/cmd/z", "the last", 1)
			for r := p.next(); r.Message == nil; r = p.next() {
				t.Error("the release is said again")
			}
			if !p.conn.Completed(d.ID) {
				t.Error("there is no release to complete")
			}
		})
	}
}

// TestConnectionsAtOnce: a thing that connects many times at once has no more connections than one that does so one after the other.
func TestConnectionsAtOnce(t *testing.T) {
	const most, atOnce = 3, 16
	w := newWorld(t)
	w.add("dev-1", tag("several", "yes"))
	n := w.node()
	for range 100 {
		peers := make(chan *peer, atOnce)
		var all sync.WaitGroup
		begin := make(chan struct{})
		for i := range atOnce {
			all.Go(func() {
				<-begin
				if p, err := n.try("dev-1", client(fmt.Sprint("dev-1~", i))); err == nil {
					peers <- p
				} else if !errs.Is(err, errs.Limited) {
					t.Errorf("Connect = %v, want Limited", err)
				}
			})
		}
		close(begin)
		all.Wait()
		close(peers)
		if len(peers) != most {
			t.Fatalf("it has %d connections, want %d", len(peers), most)
		}
		for p := range peers {
			p.leave(message.ReasonFarewell)
		}
	}
}

// watched is a fabric that counts who follows what devices publish.
type watched struct {
	*messagetest.Memory
	begun, ended atomic.Int64
}

func (f *watched) Follow(ctx context.Context, s message.Stream, ready func(), fn func(*message.Message)) error {
	if s == message.Up {
		f.begun.Add(1)
		defer f.ended.Add(1)
	}
	return f.Memory.Follow(ctx, s, ready, fn)
}

// TestUpIdleAtTheLastMoment: what devices publish is followed for a subscription that began when nobody had wanted that for a while.
func TestUpIdleAtTheLastMoment(t *testing.T) {
	w := newWorld(t)
	f := &watched{Memory: w.fabric}
	w.wrapped = f
	n := w.node()
	must(t, n.WaitForUp(t.Context()))
	until(t, "it is not followed any more", func() bool {
		w.pass(31 * time.Second)
		return f.ended.Load() == 1
	})
	n.WantUp(1)
	until(t, "it is followed again", func() bool { return f.begun.Load() == 2 })
	n.WantUp(-1)
}

// TestCrashAndIdentifiers: what a peer may have received under an identifier that was not stored before its node died, and that is not to be said again,
// leaves that identifier to nobody else: the peer would take the other message for the one that it has.
func TestCrashAndIdentifiers(t *testing.T) {
	for _, row := range []struct {
		name   string
		expiry uint32 // of the first message, seconds
		more   int    // messages besides
		want   string // what comes first
	}{
		{"it has expired", 1, 1, "message 1"},
		{"the queue is too long", 0, 20, "message 1"},
		{"the queue is much too long", 0, 22, "message 3"},
	} {
		t.Run(row.name, func(t *testing.T) {
			w := newWorld(t)
			w.add("dev-1")
			w.add("back", service)
			f := &forgetful{Memory: w.fabric}
			w.wrapped = f
			dies := w.node()
			p := dies.connect("dev-1", persistent)
			p.subscribe("v1/dev-1/cmd/+")
			f.forget.Store(true)
			w.wrapped = w.fabric
			other := w.node()
			back := other.connect("back")
			m := say("v1/dev-1/cmd/a", "message 0", 2)
			m.Expiry = row.expiry
			must(t, back.publish(m, 1))
			for i := range row.more {
				back.says("v1/dev-1/cmd/a", fmt.Sprint("message ", i+1), 2)
			}
			under := map[uint16]string{}
			for d := p.next(); ; d = p.next() {
				under[d.ID] = string(d.Message.Payload)
				if len(under) == min(row.more+1, 8) {
					break
				}
			}
			w.pass(2 * time.Second)
			p = other.connect("dev-1", persistent)
			d := p.next()
			got := string(d.Message.Payload)
			if got != row.want {
				t.Errorf("%q comes, want %q", got, row.want)
			}
			if before, known := under[d.ID]; known && before != got {
				t.Errorf("%q comes under the identifier %d, under which %q came before", got, d.ID, before)
			}
		})
	}
}

// TestSharedHelper: who comes into a group gets what waits there because the others have as much as they take.
func TestSharedHelper(t *testing.T) {
	w := newWorld(t)
	w.add("dev-1")
	w.add("back", service)
	w.add("help", service)
	n := w.node()
	back := n.connect("back", window(1))
	back.subscribe("$share/g/v1/dev-1/telemetry/#")
	dev := n.connect("dev-1")
	dev.says("v1/dev-1/telemetry/x", "first", 1)
	first := back.next()
	dev.says("v1/dev-1/telemetry/x", "second", 1)
	dev.says("v1/dev-1/telemetry/x", "third", 1)
	until(t, "all is dispatched", func() bool { return n.Waits("$share/g/v1/dev-1/telemetry/#") == 2 })
	help := n.connect("help")
	help.subscribe("$share/g/v1/dev-1/telemetry/#")
	help.hears("second", "third")
	back.ack(first)
}

// TestCrashAndTwoStreams: what comes from one stream has the same identifiers when it is read again after a crash, whatever came from another one in between, and
// however the two are read then.
func TestCrashAndTwoStreams(t *testing.T) {
	w := newWorld(t)
	w.add("dev-1")
	w.add("back", service)
	f := &forgetful{Memory: w.fabric}
	w.wrapped = f
	dies := w.node()
	p := dies.connect("dev-1", persistent)
	p.subscribe("v1/dev-1/cmd/+", "v1/group/g1/notice")
	f.forget.Store(true)
	w.wrapped = w.fabric
	other := w.node()
	back := other.connect("back")
	under := map[uint16]string{}
	for _, topic := range []string{"v1/group/g1/notice", "v1/dev-1/cmd/a", "v1/group/g1/notice", "v1/dev-1/cmd/a"} {
		text := fmt.Sprint("message ", len(under))
		back.says(topic, text, 2)
		d := p.next()
		if got := string(d.Message.Payload); got != text {
			t.Fatalf("%q comes, want %q", got, text)
		}
		under[d.ID] = text
	}
	p = other.connect("dev-1", persistent)
	for range len(under) {
		d := p.next()
		if got := string(d.Message.Payload); under[d.ID] != got {
			t.Errorf("%q comes under the identifier %d, under which %q came before", got, d.ID, under[d.ID])
		}
	}
}
