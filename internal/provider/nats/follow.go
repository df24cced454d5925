package nats

import (
	"context"
	"errors"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"mooring/internal/core/message"
)

// Follow calls fn for every message that is stored in s from now on.
func (f *Fabric) Follow(ctx context.Context, s message.Stream, ready func(), fn func(m *message.Message)) error {
	stream, err := f.name.stream(s)
	if err != nil {
		return err
	}
	state, _, err := f.state(ctx, stream)
	if err != nil {
		return err
	}
	return f.tail(ctx, stream, state.LastSeq, ready, func(from *stored) {
		f.unpack(s, from, 0, func(m *message.Message) bool { fn(m); return true })
	})
}

// heartbeat is how often an idle stream says that it is there; after two that did not come the reading begins anew where it was.
const heartbeat = time.Second

// tail calls fn for everything in stream after the given place, in order, until ctx ends. The reader that JetStream keeps for it lies in the memory of one
// server; when that is gone, or when something is missing between two messages, another is made, which begins after the last message that fn got.
func (f *Fabric) tail(ctx context.Context, stream string, after uint64, ready func(), fn func(*stored)) error {
	t := tail{f: f, stream: stream, after: after, ready: ready, fn: fn}
	for {
		err := t.read(ctx)
		switch {
		case ctx.Err() != nil:
			return nil
		case f.ended():
			return errClosed()
		case !t.began && !passing(err):
			return f.failed(err, "following the stream %s", stream)
		}
		f.o.Log.Info("following a stream begins anew", "stream", stream, "after", t.after, "err", err)
		select {
		case <-ctx.Done():
		case <-f.closed:
		case <-time.After(100 * time.Millisecond):
		}
	}
}

type tail struct {
	f      *Fabric
	stream string
	after  uint64 // the place of the last message that fn got
	began  bool
	ready  func()
	fn     func(*stored)
}

var errGap = errors.New("a message is missing")

// read makes a reader and reads with it until something is wrong with it.
func (t *tail) read(ctx context.Context) error {
	c, err := t.f.js.CreateConsumer(ctx, t.stream, jetstream.ConsumerConfig{DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: t.after + 1,
		AckPolicy: jetstream.AckNonePolicy, MemoryStorage: true, Replicas: 1, InactiveThreshold: time.Minute})
	if err != nil {
		return err
	}
	defer t.forget(ctx, c.CachedInfo().Name)
	messages, err := c.Messages(jetstream.PullExpiry(10*time.Second), jetstream.PullHeartbeat(heartbeat), jetstream.PullMaxMessages(1000))
	if err != nil {
		return err
	}
	defer messages.Stop()
	defer context.AfterFunc(ctx, messages.Stop)()
	if !t.began && t.ready != nil {
		t.ready()
	}
	t.began = true
	for want := uint64(1); ; want++ {
		msg, err := messages.Next()
		if err != nil {
			return err
		}
		meta, err := msg.Metadata()
		if err != nil {
			return err
		}
		if meta.Sequence.Consumer != want {
			return errGap
		}
		if ctx.Err() != nil {
			return nil
		}
		t.fn(&stored{subject: msg.Subject(), header: msg.Headers(), data: msg.Data(), seq: meta.Sequence.Stream})
		t.after = meta.Sequence.Stream
	}
}

// forget removes the reader, if that can be done now; else JetStream does after a minute.
func (t *tail) forget(ctx context.Context, name string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	_ = t.f.js.DeleteConsumer(ctx, t.stream, name)
}
