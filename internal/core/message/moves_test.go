package message_test

import (
	"context"
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

// slowWill is a fabric that has who says a will wait, and counts sessions that were let go of.
type slowWill struct {
	*messagetest.Memory
	saying *gate
	let    atomic.Int64
}

func (f *slowWill) Append(m *message.Message, dedupe string, done func(uint64, error)) {
	if strings.HasPrefix(dedupe, "will:") {
		f.saying.pass()
	}
	f.Memory.Append(m, dedupe, done)
}

func (f *slowWill) Disown(ctx context.Context, key string, epoch uint64) error {
	defer f.let.Add(1)
	return f.Memory.Disown(ctx, key, epoch)
}

// TestMoveWhileWillIsSaid: a node that says the will of a session that has ended takes nothing away from who began it anew on another node meanwhile.
func TestMoveWhileWillIsSaid(t *testing.T) {
	w := newWorld(t)
	w.add("dev-1")
	w.add("back", service)
	saying := newGate()
	opened := sync.OnceFunc(func() { close(saying.open) })
	t.Cleanup(opened)
	f := &slowWill{Memory: w.fabric, saying: saying}
	w.wrapped = f
	first := w.node()
	w.wrapped = w.fabric
	second := w.node()
	first.connect("dev-1", will("v1/dev-1/state", "gone", 0)).leave(message.ReasonLost)
	<-saying.reached
	next := second.connect("dev-1", persistent, will("v1/dev-1/state", "gone again", 0))
	next.subscribe("v1/dev-1/cmd/+")
	opened()
	until(t, "the first node is done with it", func() bool { return f.let.Load() == 1 })
	next.subscribe("v1/dev-1/tree/#")
	next.leave(message.ReasonLost)
	until(t, "the session is left", func() bool { return w.left(idOf("dev-1")) })
	second.connect("back").says("v1/dev-1/cmd/a", "while it was away", 1)
	first.connect("dev-1", persistent).hears("while it was away")
}

// mute is a fabric that stores sessions and does not say so.
type mute struct {
	*messagetest.Memory
	quiet   atomic.Bool
	unheard atomic.Int64 // sessions that were stored meanwhile
}

func (f *mute) PutSession(ctx context.Context, key string, data []byte, revision uint64, life time.Duration) (uint64, error) {
	quiet := strings.HasPrefix(key, "s/") && f.quiet.Load()
	seq, err := f.Memory.PutSession(ctx, key, data, revision, life)
	if quiet && err == nil {
		f.unheard.Add(1)
		return 0, errs.New(errs.Unavailable, "nothing is answered")
	}
	return seq, err
}

// TestSaveWithoutAnswer: that a session was stored without an answer is no take-over: its connection goes on, or ends as any other one.
func TestSaveWithoutAnswer(t *testing.T) {
	for _, row := range []struct {
		name  string
		end   func(n *node, p *peer)
		gone  bool // nothing is left of the session, and no will is said
		quiet bool // its end is not answered either
	}{
		{"it goes on, and is lost later", func(n *node, p *peer) {
			p.subscribe("v1/dev-1/tree/#")
			p.leave(message.ReasonLost)
		}, false, false},
		{"it is lost", func(n *node, p *peer) { p.leave(message.ReasonLost) }, false, false},
		{"it is lost, also without an answer", func(n *node, p *peer) { p.leave(message.ReasonLost) }, false, true},
		{"it is ended for good", func(n *node, p *peer) {
			p.conn.Detach(message.ReasonFarewell, message.Farewell{Expiry: new(uint32)})
		}, true, false},
		{"it is cut off", func(n *node, p *peer) {
			if _, err := n.Cut(t.Context(), message.Selector{Device: idOf("dev-1"), Serial: "serial of dev-1"}, "test"); err != nil {
				t.Error(err)
			}
		}, true, false},
	} {
		t.Run(row.name, func(t *testing.T) {
			w := newWorld(t)
			w.add("dev-1")
			w.add("back", service)
			f := &mute{Memory: w.fabric}
			w.wrapped = f
			n := w.node()
			p := n.connect("dev-1", persistent, will("v1/dev-1/state", "gone", 0))
			p.subscribe("v1/dev-1/cmd/+")
			f.quiet.Store(true)
			n.connect("back").says("v1/dev-1/cmd/a", "one", 1)
			p.hears("one")
			until(t, "that is stored", func() bool { return f.unheard.Load() > 0 })
			f.quiet.Store(row.quiet)
			row.end(n, p)
			if row.quiet {
				until(t, "the end is stored", func() bool { return w.left(idOf("dev-1")) })
				f.quiet.Store(false)
			}
			if row.gone {
				until(t, "the session is gone", func() bool {
					_, _, err := w.fabric.Session(t.Context(), "s/"+idOf("dev-1").String())
					return errs.Is(err, errs.NotFound)
				})
				return
			}
			until(t, "the session is left", func() bool { return w.left(idOf("dev-1")) })
			until(t, "the will is said", func() bool { return slices.Contains(w.stored(message.Up), "gone") })
		})
	}
}

// TestEndWhileNothingIsStored: of a session whose connection ends while nothing can be stored is stored what is left as soon as that can be, and its will is said.
func TestEndWhileNothingIsStored(t *testing.T) {
	w := newWorld(t)
	w.add("dev-1")
	f := &forgetful{Memory: w.fabric}
	w.wrapped = f
	n := w.node()
	p := n.connect("dev-1", persistent, will("v1/dev-1/state", "gone", 0))
	f.forget.Store(true)
	p.leave(message.ReasonLost)
	until(t, "it was to be stored", func() bool { return f.forgotten.Load() > 0 })
	f.forget.Store(false)
	until(t, "the session is left", func() bool { return w.left(idOf("dev-1")) })
	until(t, "the will is said", func() bool { return slices.Contains(w.stored(message.Up), "gone") })
	if next := n.connect("dev-1", persistent); !next.got.Present {
		t.Error("the session does not go on")
	}
}

// slowAnswers is a fabric that stores messages of QoS 2 and is slow to say so, and that can be told to have forgotten which those were, as after two minutes.
type slowAnswers struct {
	*messagetest.Memory
	answering *gate
	forgot    atomic.Bool
}

func (f *slowAnswers) Append(m *message.Message, dedupe string, done func(uint64, error)) {
	if f.forgot.Load() {
		f.Memory.Append(m, "", done)
		return
	}
	f.Memory.Append(m, dedupe, func(seq uint64, err error) {
		f.answering.pass()
		done(seq, err)
	})
}

// TestEndWhileQoS2IsStored: a message of QoS 2 that is being stored when its connection ends is known to the session, however late the peer sends it again.
func TestEndWhileQoS2IsStored(t *testing.T) {
	w := newWorld(t)
	w.add("dev-1")
	answering := newGate()
	opened := sync.OnceFunc(func() { close(answering.open) })
	t.Cleanup(opened)
	f := &slowAnswers{Memory: w.fabric, answering: answering}
	w.wrapped = f
	n := w.node()
	p := n.connect("dev-1", persistent)
	p.conn.Publish(say("v1/dev-1/telemetry/x", "once", 2), 5, func(error) {})
	<-answering.reached
	p.leave(message.ReasonLost)
	soon := time.Now().Add(300 * time.Millisecond)
	until(t, "the session is left, or that is waited for", func() bool { return w.left(idOf("dev-1")) || time.Now().After(soon) })
	opened()
	until(t, "the session is left", func() bool { return w.left(idOf("dev-1")) })
	w.pass(5 * time.Minute)
	f.forgot.Store(true)
	p = n.connect("dev-1", persistent)
	must(t, p.publish(say("v1/dev-1/telemetry/x", "once", 2), 5))
	if got := w.stored(message.Up); len(got) != 1 {
		t.Errorf("stored: %q, want it once", got)
	}
}
