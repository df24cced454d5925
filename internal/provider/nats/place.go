package nats

import (
	"context"
	"fmt"
	"sync"
	"time"

	"mooring/internal/base/errs"
	"mooring/internal/core/message"
)

// The places of messages are counted through, whatever entries they lie in: that of the first message of a row follows that of the last one of the row before, or
// the number of the last entry from before there were rows. So a place does not tell the entry. But entries lie in the order of places, and find looks for one
// by halving. A row is stored only next to the entry behind which it was counted (Nats-Expected-Last-Sequence): no place is given twice, also when a row was sent
// twice, or when its callers were told too early that it was not stored.
//
// A stream that was taken along to servers outside goes on there with entries of one message behind the last row, and their places count on from that (rowsEnd).

// span is which places lie in an entry, from first on, n of them.
type span struct {
	seq, first, n uint64
}

// behind is the place behind the entry.
func (s span) behind() uint64 { return s.first + s.n }

// span returns which places lie in an entry of Up. What is no message of ours counts as one.
func (f *Fabric) span(from *stored) (span, *reader) {
	if from.subject == f.name.rows() && len(from.data) > 0 && from.data[0] == rowVersion {
		r := &reader{rest: from.data[1:]}
		first, n := r.number(), r.number()
		if !r.bad && n > 0 && n <= rowMessages {
			return span{from.seq, first, n}, r
		}
	}
	return span{from.seq, f.single(from.seq), 1}, nil
}

// single is the place of the message of an entry of one.
func (f *Fabric) single(seq uint64) uint64 {
	if end := f.rowsEnd; seq >= end.seq {
		return seq - end.seq + end.behind() - 1
	}
	return seq // from before there were rows
}

// end returns the last entry of Up. In an empty stream it is the one that was last there.
func (f *Fabric) end(ctx context.Context) (span, error) {
	stream, err := f.name.stream(message.Up)
	if err != nil {
		return span{}, err
	}
	from, err := f.get(ctx, stream, lookup{Last: f.name.all(message.Up)})
	if err == nil {
		at, _ := f.span(from)
		return at, nil
	}
	if !errs.Is(err, errs.NotFound) {
		return span{}, err
	}
	if f.rows { // what JetStream has stored since, and not acknowledged yet, lies behind that
		seq, place := f.out.rowsEnd()
		return span{seq, place, 1}, nil
	}
	state, _, err := f.state(ctx, stream)
	if err != nil {
		return span{}, err
	}
	return span{state.LastSeq, f.single(state.LastSeq), 1}, nil
}

// find returns the entry of s from which to read on for a place: the one with it, or one before it behind which it is.
func (f *Fabric) find(ctx context.Context, s message.Stream, place uint64) (seq uint64, err error) {
	if s != message.Up {
		return place, nil
	}
	if end := f.rowsEnd; !f.rows && place >= end.behind() {
		return place - end.behind() + 1 + end.seq, nil
	}
	if seq := f.spans.find(place); seq > 0 {
		return seq, nil
	}
	last, err := f.end(ctx)
	if err != nil || place >= last.behind() {
		return last.seq + 1, err
	}
	stream, err := f.name.stream(s)
	if err != nil {
		return 0, err
	}
	// No entry has a place below its number, and none is further ahead of it than the last.
	low, high := uint64(1), min(place, last.seq)
	if ahead := last.first - last.seq + rowMessages; place > ahead {
		low = place - ahead
	}
	for low < high { // all before low have places before the one that is sought, all behind high have later ones
		middle := low + (high-low+1)/2
		from, err := f.get(ctx, stream, lookup{Seq: middle, Next: f.name.all(s)})
		if err != nil && !errs.Is(err, errs.NotFound) {
			return 0, err
		}
		if err != nil {
			high = middle - 1
			continue
		}
		switch at, _ := f.span(from); {
		case at.first > place:
			high = middle - 1
		case place < at.behind():
			return at.seq, nil
		default:
			low = at.seq
		}
	}
	return low, nil
}

// count finds out how far the places of Up are, when the fabric is opened.
func (f *Fabric) count(ctx context.Context) error {
	f.rowsEnd = span{n: 1} // there were none: a place is the number of its entry
	stream, err := f.name.stream(message.Up)
	if err != nil {
		return err
	}
	counted := true
	switch from, err := f.get(ctx, stream, lookup{Last: f.name.rows()}); {
	case err == nil:
		f.rowsEnd, _ = f.span(from)
	case !errs.Is(err, errs.NotFound):
		return err
	default:
		if counted, err = f.recall(ctx); err != nil {
			return err
		}
	}
	if f.server == nil {
		f.remember(ctx)
		return nil
	}
	last, err := f.end(ctx)
	if err != nil {
		return err
	}
	if behind := last.seq - min(last.seq, f.rowsEnd.seq); counted && behind > 0 {
		state, _, err := f.state(ctx, stream)
		if err != nil {
			return err
		}
		if state.Msgs > 0 {
			f.o.Log.Info("what devices publish is stored message by message, since the stream comes back from servers outside")
			f.remember(ctx)
			return nil
		}
		// Rows were stored after the last note, and have left since. No place is given twice, but some are not given.
		last.first = f.rowsEnd.first + behind*rowMessages
	}
	f.rows = true
	f.out.number(last.seq, max(last.behind(), f.rowsEnd.behind())-1) // what was noted may be more than what was left when the power failed
	f.remember(ctx)
	return nil
}

// remember notes how far the places are, for when no row is there any more at a start. What it could not note it notes later: nothing waits for it.
func (f *Fabric) remember(ctx context.Context) {
	at := span{f.rowsEnd.seq, f.rowsEnd.behind() - 1, 1}
	if f.rows {
		at.seq, at.first = f.out.rowsEnd()
	}
	if f.noted == at || !f.rows && at.seq == 0 {
		return
	}
	if _, err := f.put(ctx, slot{subject: f.name.slot(bucketSessions, slotRows), data: fmt.Appendf(nil, "%d %d", at.seq, at.first)}); err != nil {
		if ctx.Err() == nil {
			f.o.Log.Warn("how far messages are counted cannot be noted", "err", err)
		}
		return
	}
	f.noted = at
}

// recall reads what remember noted, and reports whether there is something.
func (f *Fabric) recall(ctx context.Context) (bool, error) {
	from, err := f.last(ctx, bucketSessions, f.name.slot(bucketSessions, slotRows))
	if errs.Is(err, errs.NotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if _, err := fmt.Sscanf(string(from.data), "%d %d", &f.rowsEnd.seq, &f.rowsEnd.first); err != nil {
		return false, errs.Wrap(errs.Conflict, err, "the note of how far messages are counted cannot be read")
	}
	f.noted = f.rowsEnd
	return true, nil
}

// slotRows is where that is noted; a session has a single token.
const slotRows = "rows.up"

// spans remember which entries were read last, for those who read on behind them.
type spans struct {
	mu   sync.Mutex
	last [32]span // guarded by mu
	next int      // guarded by mu
}

func (s *spans) note(at span) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range s.last {
		if s.last[i].seq == at.seq {
			return
		}
	}
	s.last[s.next] = at
	s.next = (s.next + 1) % len(s.last)
}

// find returns the entry from which to read for a place, 0 when it is not known.
func (s *spans) find(place uint64) (seq uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range s.last {
		switch at := &s.last[i]; {
		case at.n > 0 && at.first <= place && place < at.behind():
			return at.seq
		case at.n > 0 && place == at.behind():
			seq = at.seq + 1
		}
	}
	return seq
}

// rowsRead are the rows that Next read last: who goes on behind a message finds the next one in the same row.
type rowsRead struct {
	mu   sync.Mutex
	last [8]rowRead // guarded by mu
	next int        // guarded by mu
}

// rowRead is a row, which nobody changes, and when it was read.
type rowRead struct {
	*stored
	at time.Time
}

// rowFresh is how long a row is remembered: it may leave the stream meanwhile.
const rowFresh = time.Second

// keep remembers an entry of s, if it is a row.
func (f *Fabric) keep(s message.Stream, from *stored) {
	if s != message.Up || from.subject != f.name.rows() {
		return
	}
	r, now := &f.read, f.o.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.last[r.next] = rowRead{from, now}
	r.next = (r.next + 1) % len(r.last)
}

// row returns a row of s by its number, nil when it is not remembered.
func (r *rowsRead) row(s message.Stream, seq uint64, now time.Time) *stored {
	if s != message.Up {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := range r.last {
		if l := &r.last[i]; l.stored != nil && l.seq == seq {
			if age := now.Sub(l.at); age >= 0 && age < rowFresh {
				return l.stored
			}
			*l = rowRead{}
		}
	}
	return nil
}
