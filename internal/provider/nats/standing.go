package nats

import (
	"context"
	"sync/atomic"
	"time"

	"mooring/internal/core/message"
)

// Standing says how the fabric is: what the last look at it, at most a few seconds ago, has shown.
func (f *Fabric) Standing() message.Standing {
	if s := f.stand.Load(); s != nil {
		return *s
	}
	return message.Standing{}
}

// reached notes whether NATS answers.
func (f *Fabric) reached(yes bool) {
	s := f.Standing()
	if s.Reached != yes || s.Since == 0 {
		s.Reached, s.Since = yes, f.o.Now().Unix()
		f.stand.Store(&s)
	}
}

// watch looks at the streams and says when that is not possible.
func (f *Fabric) watch(ctx context.Context) {
	was := f.Standing().Reached
	err := f.measure(ctx)
	if err != nil && ctx.Err() == nil && was {
		f.o.Log.Warn("nats does not answer", "err", err)
	}
}

// measure looks how full the stream is that devices fill.
func (f *Fabric) measure(ctx context.Context) error {
	name, err := f.name.stream(message.Up)
	if err != nil {
		return err
	}
	state, _, err := f.state(ctx, name)
	if err != nil {
		f.reached(false)
		return err
	}
	f.reached(true)
	s := f.Standing()
	s.Stored, s.Limit = int64(state.Bytes), f.o.sizes().up
	f.stand.Store(&s)
	if s.Stored > s.Limit/10*9 && f.nearlyFull.due(f.o.Now()) {
		f.o.Log.Warn("the stream of what devices publish is nearly full: raise messaging.max_bytes, lower messaging.max_age, or find who publishes so much",
			"stored", s.Stored, "limit", s.Limit)
	}
	return nil
}

// lacking says that a message is refused for lack of room.
func (f *Fabric) lacking(doing string, cause error) {
	if f.noRoom.due(f.o.Now()) {
		f.o.Log.Warn("there is no room: messages are refused; raise messaging.max_bytes or lower messaging.max_age", "doing", doing, "cause", cause)
	}
}

// seldom lets a line of the log pass once a minute.
type seldom struct{ last atomic.Int64 }

func (s *seldom) due(now time.Time) bool {
	last := s.last.Load()
	return (last == 0 || now.UnixNano()-last >= int64(time.Minute)) && s.last.CompareAndSwap(last, now.UnixNano())
}
