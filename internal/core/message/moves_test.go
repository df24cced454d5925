package message_test

import (
	"context"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

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
