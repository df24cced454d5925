package sink

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"mooring/internal/base/db"
	"mooring/internal/base/errs"
	"mooring/internal/core/message"
	"mooring/wire/mqtt"
)

// Options are what a Runner stands on.
type Options struct {
	Name   string // for ever: its place is kept under it
	Sink   Sink
	Log    Log
	Store  *Store
	Topics []string // filters; only messages whose topic fits one are passed on. Empty = all
	Batch  int      // messages that are handed over at once; 0 = 500
	Tries  int      // for a message that is refused; 0 = 3
	Logger *slog.Logger
}

// The bounds.
const (
	defaultBatch = 500
	defaultTries = 3
	manyTries    = 10      // while the receiver refuses whatever it is given
	manyThings   = 8       // whose messages are refused one after the other, with none taken in between, tell that from messages that are bad
	maxOctets    = 4 << 20 // of payloads in one batch
	idle         = 200 * time.Millisecond
	firstPause   = time.Second
	maxPause     = 5 * time.Minute
	shortPause   = 250 * time.Millisecond // before a message that is refused is tried again, at first
	putTime      = 2 * time.Minute
	retryEvery   = 2 * time.Second // between two looks for dead letters that are to be tried again
	retryPause   = 30 * time.Second
	retryBatch   = 100
	retryTries   = 5                // while the receiver does not say what is wrong with a dead letter
	retryTime    = 20 * time.Second // for one of them: what is new waits for it
)

// Runner keeps one sink supplied.
type Runner struct {
	o Options

	mu sync.Mutex
	m  Metric // guarded by mu
}

// Metric says how one sink is. What is counted is counted since the start, on the node that has the sink.
type Metric struct {
	Sink      string
	Running   bool          // on this node
	Place     uint64        // up to here everything is safe
	Lag       uint64        // messages of the log that are not
	Behind    time.Duration // age of the oldest of them
	Delivered uint64
	Failures  uint64 // calls that were not successful
	Dead      int64  // dead letters, of all nodes
	Missed    uint64 // messages that had left the log before they were read
	Cause     string // why the last call failed; "" when it did not
	oldest    int64
}

// New returns a runner. It starts nothing.
func New(o Options) *Runner {
	if o.Batch == 0 {
		o.Batch = defaultBatch
	}
	if o.Tries == 0 {
		o.Tries = defaultTries
	}
	return &Runner{o: o, m: Metric{Sink: o.Name}}
}

// Name is what the sink is called.
func (r *Runner) Name() string { return r.o.Name }

// Run supplies the sink, on one node of a cluster at a time, until ctx ends.
func (r *Runner) Run(ctx context.Context) error {
	defer r.o.Sink.Close()
	return r.o.Store.DB.Lead(ctx, "sink-"+r.o.Name, func(ctx context.Context, l *db.Lease) error {
		r.note(func(m *Metric) { m.Running = true })
		defer r.note(func(m *Metric) { m.Running = false })
		return r.lead(ctx, l)
	})
}

// Metrics returns how the sink is; with an error only what it is called.
func (r *Runner) Metrics(ctx context.Context) (Metric, error) {
	none := Metric{Sink: r.o.Name}
	r.mu.Lock()
	m := r.m // before what is read: a place is never ahead of the dead letters that it goes past
	r.mu.Unlock()
	if !m.Running {
		var err error
		if _, m.Place, err = r.o.Store.place(ctx, r.o.Name); err != nil {
			return none, err
		}
	}
	dead, err := r.o.Store.dead(ctx, r.o.Name)
	if err != nil {
		return none, err
	}
	last, err := r.o.Log.Last(ctx, message.Up)
	if err != nil {
		return none, err
	}
	m.Dead, m.Lag = dead, last-min(last, m.Place)
	if m.Lag > 0 && m.oldest > 0 {
		m.Behind = max(0, r.o.Store.Now().Sub(time.UnixMilli(m.oldest)))
	}
	return m, nil
}

func (r *Runner) note(fn func(*Metric)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	fn(&r.m)
}

// supply is one turn of supplying, under a lease.
type supply struct {
	*Runner
	lease *db.Lease
	born  int64
	place uint64
	// refused are the things of which a message was given up since the last that was taken, at most manyThings.
	refused map[string]bool
	retryAt time.Time // when dead letters are looked at next
}

// lead supplies until the lease or ctx ends. An error has it begin again, from the place that is kept.
func (r *Runner) lead(ctx context.Context, l *db.Lease) error {
	s := &supply{Runner: r, lease: l, refused: map[string]bool{}}
	if err := s.begin(ctx); err != nil {
		return r.failed(ctx, err)
	}
	for ctx.Err() == nil {
		if err := s.retry(ctx); err != nil {
			return r.failed(ctx, err)
		}
		b, last, err := s.read(ctx)
		if err != nil {
			return r.failed(ctx, err)
		}
		if last == 0 {
			r.note(func(m *Metric) { m.oldest = 0 })
			pause(ctx, idle)
			continue
		}
		if err := s.deliver(ctx, b); err != nil {
			return r.failed(ctx, err)
		}
		if ctx.Err() != nil {
			break
		}
		if last > s.place { // the rest of what was read is not for this sink
			if err := s.move(ctx, last); err != nil {
				return r.failed(ctx, err)
			}
		}
	}
	return nil
}

// failed notes an error of ours or of the log; Lead logs it and begins again.
func (r *Runner) failed(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	r.note(func(m *Metric) { m.Failures++; m.Cause = err.Error() })
	return err
}

// begin finds the place from which to go on.
func (s *supply) begin(ctx context.Context) (err error) {
	if s.born, err = s.o.Log.Born(ctx, message.Up); err != nil {
		return fmt.Errorf("asking when the log was made: %w", err)
	}
	if k, ok := s.o.Sink.(Keeper); ok {
		s.place, err = k.Place(ctx, s.born)
	} else {
		var born int64
		if born, s.place, err = s.o.Store.place(ctx, s.o.Name); err == nil && born != s.born {
			if s.place > 0 {
				s.o.Logger.LogAttrs(ctx, slog.LevelWarn, "the log was made anew: the sink begins with its first message", slog.String("sink", s.o.Name))
			}
			s.place = 0
		}
	}
	if err != nil {
		return fmt.Errorf("asking for the place of the sink: %w", err)
	}
	last, err := s.o.Log.Last(ctx, message.Up)
	if err != nil {
		return fmt.Errorf("asking for the end of the log: %w", err)
	}
	if s.place > last {
		s.o.Logger.LogAttrs(ctx, slog.LevelError, "the log ends before the place of the sink, as if it came from an older copy: what is stored from now on is passed on, under ids that its receiver may have seen",
			slog.String("sink", s.o.Name), slog.Uint64("place", s.place), slog.Uint64("last", last))
		s.place = last
	}
	s.note(func(m *Metric) { m.Place = s.place })
	return nil
}

// read returns the next messages for the sink, and the place of the last message that was looked at, 0 when there was none.
func (s *supply) read(ctx context.Context) (b Batch, last uint64, err error) {
	b.Born = s.born
	octets, before := 0, s.place
	err = s.o.Log.Read(ctx, message.Up, s.place, s.o.Batch, func(m *message.Message) bool {
		if before > 0 && m.Seq > before+1 {
			s.missed(ctx, m.Seq-before-1)
		}
		before, last = m.Seq, m.Seq
		if s.wanted(m) {
			b.Messages = append(b.Messages, m)
		}
		octets += len(m.Payload)
		return octets < maxOctets
	})
	if err != nil {
		return b, 0, fmt.Errorf("reading the log: %w", err)
	}
	return b, last, nil
}

// missed says that messages were not there any more.
func (s *supply) missed(ctx context.Context, n uint64) {
	s.note(func(m *Metric) { m.Missed += n })
	s.o.Logger.LogAttrs(ctx, slog.LevelError, "messages had left the log before the sink could pass them on: let the log keep them longer", slog.String("sink", s.o.Name), slog.Uint64("messages", n))
}

func (s *supply) wanted(m *message.Message) bool {
	return len(s.o.Topics) == 0 || slices.ContainsFunc(s.o.Topics, func(filter string) bool { return mqtt.Match(filter, m.Topic) })
}

// deliver hands messages over until each is safe or among the dead letters. A message that is refused is given up soon, so that one device cannot hold up the
// others; but when those of many things are, it is rather the receiver that has gone wrong, and it is given time.
func (s *supply) deliver(ctx context.Context, b Batch) error {
	failures, tries := 0, 0
	for len(b.Messages) > 0 && ctx.Err() == nil {
		s.note(func(m *Metric) { m.oldest = b.Messages[0].At })
		done, err := s.put(ctx, b)
		if done > 0 {
			failures, tries = 0, 0
			clear(s.refused)
			s.note(func(m *Metric) { m.Delivered += uint64(done) }) // before the place, with which who looks expects them
			if err := s.safe(ctx, b.Messages[done-1].Seq); err != nil {
				return err
			}
			b.Messages = b.Messages[done:]
		}
		if err == nil || ctx.Err() != nil {
			continue
		}
		failures++
		s.note(func(m *Metric) { m.Failures++; m.Cause = err.Error() })
		s.o.Logger.LogAttrs(ctx, slog.LevelError, "a sink did not take messages", slog.String("sink", s.o.Name), slog.Int("failures", failures), slog.Any("cause", err))
		if tries++; !errs.Is(err, errs.Invalid) {
			tries = 0
		}
		most, rest := s.o.Tries, wait(failures, err)
		if len(s.refused) >= manyThings {
			most = max(most, manyTries)
		} else if tries > 0 {
			rest = shortWait(tries)
		}
		if tries >= most {
			if err = s.giveUp(ctx, b.Messages[0], err); err == nil {
				if len(s.refused) < manyThings {
					s.refused[b.Messages[0].Thing] = true
				}
				b.Messages, tries, failures = b.Messages[1:], 0, 0
				continue
			}
			s.note(func(m *Metric) { m.Cause = err.Error() })
			rest = wait(failures, err)
		}
		pause(ctx, rest)
	}
	return nil
}

// put is one call of the sink, in a bounded time.
func (s *supply) put(ctx context.Context, b Batch) (done int, err error) {
	ctx, cancel := context.WithTimeout(ctx, putTime)
	defer cancel()
	done, err = s.o.Sink.Put(ctx, b)
	if err == nil && done < len(b.Messages) {
		err = errs.New(errs.Unavailable, "the sink took %d of %d messages and does not say why", done, len(b.Messages))
	}
	if err == nil {
		s.works(ctx)
	}
	return done, err
}

// works notes that a call was successful, and says so if the one before was not.
func (s *supply) works(ctx context.Context) {
	failed := false
	s.note(func(m *Metric) { failed, m.Cause = m.Cause != "", "" })
	if failed {
		s.o.Logger.LogAttrs(ctx, slog.LevelInfo, "a sink takes messages again", slog.String("sink", s.o.Name))
	}
}

// safe notes that everything up to a place is at the receiver, which a Keeper has noted already.
func (s *supply) safe(ctx context.Context, seq uint64) error {
	if _, ok := s.o.Sink.(Keeper); !ok {
		return s.move(ctx, seq)
	}
	s.place = seq
	s.note(func(m *Metric) { m.Place = seq })
	return nil
}

// move notes that everything up to a place is done with.
func (s *supply) move(ctx context.Context, seq uint64) error {
	if k, ok := s.o.Sink.(Keeper); !ok {
		if err := s.o.Store.move(ctx, s.lease, s.o.Name, s.born, seq); err != nil {
			return fmt.Errorf("keeping the place of the sink: %w", err)
		}
	} else if err := k.Skip(ctx, s.born, seq); err != nil {
		return fmt.Errorf("keeping the place of the sink: %w", err)
	}
	s.place = seq
	s.note(func(m *Metric) { m.Place = seq })
	return nil
}

// retry hands dead letters over once more that somebody wants to be. The error is of the database.
func (s *supply) retry(ctx context.Context) error {
	now := s.o.Store.Now()
	if now.Before(s.retryAt) {
		return nil
	}
	s.retryAt = now.Add(retryEvery)
	list, err := s.o.Store.letters(ctx, s.o.Name, 0, 0, retryBatch, true)
	if err != nil {
		return fmt.Errorf("reading dead letters: %w", err)
	}
	for i := range list {
		d := &list[i]
		err := s.again(ctx, d)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			s.note(func(m *Metric) { m.Failures++; m.Cause = err.Error() })
			s.o.Logger.LogAttrs(ctx, slog.LevelWarn, "a dead letter was not taken this time either", slog.String("sink", s.o.Name), slog.Uint64("place", d.message.Seq), slog.Any("cause", err))
		}
		away := err != nil && !errs.Is(err, errs.Invalid) // the receiver is, or this one makes it fail: the others come first then
		note := s.o.Store.settle
		if away && d.tries < retryTries {
			note = s.o.Store.tried
		}
		if err := note(ctx, s.lease, s.o.Name, d, err); err != nil {
			return fmt.Errorf("noting what became of a dead letter: %w", err)
		}
		switch {
		case err == nil:
			s.note(func(m *Metric) { m.Delivered++ })
		case away:
			s.retryAt = s.o.Store.Now().Add(retryPause)
			return nil
		}
	}
	return nil
}

// again hands one dead letter over.
func (s *supply) again(ctx context.Context, d *letter) error {
	ctx, cancel := context.WithTimeout(ctx, retryTime)
	defer cancel()
	if l, ok := s.o.Sink.(Latecomer); ok {
		return l.Late(ctx, d.born, d.message)
	}
	_, err := s.put(ctx, Batch{d.born, []*message.Message{d.message}})
	return err
}

// giveUp puts a message among the dead letters.
func (s *supply) giveUp(ctx context.Context, m *message.Message, reason error) error {
	if err := s.o.Store.bury(ctx, s.lease, s.o.Name, s.born, m, reason); err != nil {
		return err
	}
	s.o.Logger.LogAttrs(ctx, slog.LevelError, "a message is among the dead letters", slog.String("sink", s.o.Name), slog.Uint64("place", m.Seq), slog.Any("cause", reason))
	if k, ok := s.o.Sink.(Keeper); ok {
		if err := k.Skip(ctx, s.born, m.Seq); err != nil {
			return err
		}
	}
	s.place = m.Seq
	s.note(func(n *Metric) { n.Place = m.Seq })
	return nil
}

// wait is the pause after so many failures: doubled each time, half of it by chance, and not shorter than the receiver asks for.
func wait(failures int, err error) time.Duration {
	d := min(maxPause, firstPause<<min(failures-1, 10))
	d = d/2 + rand.N(d/2)
	if asked, ok := errs.RetryAfter(err); ok {
		d = min(maxPause, max(d, asked))
	}
	return d
}

// shortWait is the pause after a message was refused so many times.
func shortWait(tries int) time.Duration {
	d := min(firstPause, shortPause<<min(tries-1, 10))
	return d/2 + rand.N(d/2)
}

func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}
