package nats

import "context"

// Announce tells all nodes something.
func (f *Fabric) Announce(ctx context.Context, data []byte) error {
	_, err := f.put(ctx, slot{subject: f.name.cut(), data: data})
	return err
}

// Announced calls fn for everything that was announced after the given place. A place that the stream never reached is of another one, such as after a loss
// of all that was stored: then everything that is there is told.
func (f *Fabric) Announced(ctx context.Context, after uint64, ready func(), fn func(place uint64, data []byte)) error {
	stream := f.name.named(streamCuts)
	state, _, err := f.state(ctx, stream)
	if err != nil {
		return err
	}
	switch {
	case after == 0:
		after = state.LastSeq
	case after > state.LastSeq:
		f.o.Log.Warn("announcements begin anew: the place that was asked for was never reached", "after", after, "last", state.LastSeq)
		after = 0
	}
	return f.tail(ctx, stream, after, ready, func(s *stored) { fn(s.seq, s.data) })
}
