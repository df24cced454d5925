package audit

import (
	"context"
	"errors"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"mooring/internal/base/db"
	"mooring/internal/base/errs"
)

const (
	leaseName  = "audit-sequencer"
	pollEvery  = 200 * time.Millisecond // how often other processes' entries are looked for
	aloneEvery = time.Second            // the same where there are no other processes, and whoever commits wakes us
	restFor    = 200 * time.Millisecond // between two rounds, so that a busy writer makes rounds larger and not more frequent
	damageRest = 30 * time.Second       // after damage was found
	idleAfter  = time.Hour              // a stream that stood still for so long is closed
)

// Run sequences what is committed, and lets leave what is over, in one process of the deployment at a time, and writes the counted refusals of
// this process, until ctx ends.
func (l *Log) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return l.db.Lead(ctx, leaseName, l.lead) })
	g.Go(func() error { return l.flushRefusals(ctx) })
	g.Go(func() error { return l.retain(ctx) })
	return g.Wait()
}

// lead sequences under the lease until ctx ends, the lease is lost or a round fails.
func (l *Log) lead(ctx context.Context, lease *db.Lease) error {
	seen := idleness{}
	for {
		more, err := l.sequenceOnce(ctx, lease.Fence, seen)
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, errMoved):
			more = true
		case err != nil:
			l.counts.failures.Add(1)
			l.log.LogAttrs(ctx, slog.LevelError, "the audit record cannot be sequenced", slog.Any("cause", err))
			l.afterDamage(ctx, err)
			return err
		}
		if !more && !l.rest(ctx) {
			return nil
		}
	}
}

// afterDamage waits a while when err says that the record is damaged: looking again every second would find the same and fill the log.
func (l *Log) afterDamage(ctx context.Context, err error) {
	var cause *damage
	if !errors.As(err, &cause) {
		return
	}
	t := time.NewTimer(damageRest)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// rest waits for work or the time to look for it, and reports whether ctx is alive.
func (l *Log) rest(ctx context.Context) bool {
	pause, poll := time.NewTimer(restFor), time.NewTimer(l.LookAgain())
	defer pause.Stop()
	defer poll.Stop()
	select {
	case <-pause.C:
	case <-ctx.Done():
		return false
	}
	select {
	case <-l.work:
	case <-poll.C:
	case <-ctx.Done():
		return false
	}
	return true
}

// Sequence brings everything that was committed before the call into the tree and has it signed. It needs no lease: the tree moves by
// compare and swap, so it is right beside a running sequencer, in this process or another one.
func (l *Log) Sequence(ctx context.Context) error {
	for {
		more, err := l.sequenceOnce(ctx, noFence, nil)
		switch {
		case err != nil && !errors.Is(err, errMoved):
			return err
		case ctx.Err() != nil:
			return errs.Wrap(errs.Unavailable, ctx.Err(), "sequencing the audit record was given up")
		case err == nil && !more:
			return nil
		}
	}
}

// sequenceOnce does one round: read, compute, commit, sign. It reports whether more is known to be waiting.
func (l *Log) sequenceOnce(ctx context.Context, f fence, seen idleness) (more bool, err error) {
	var r *round
	err = l.db.View(ctx, func(ctx context.Context, tx *db.Tx) (err error) {
		r, err = readRound(ctx, tx, l.macs, seen.done)
		return err
	})
	if err != nil {
		l.behind(r)
		return false, err
	}
	if len(r.batches) > 0 {
		if err := l.commit(ctx, f, r); err != nil {
			l.behind(r)
			return false, err
		}
	}
	if err := l.sign(ctx, f, r); err != nil {
		return false, err
	}
	l.counts.rounds.Add(1)
	l.counts.size.Store(r.grown.N)
	if !r.more {
		l.counts.behindSince.Store(0)
	}
	return r.more, l.tidy(ctx, f, r, seen)
}

func (l *Log) commit(ctx context.Context, f fence, r *round) error {
	err := l.db.Do(ctx, func(ctx context.Context, tx *db.Tx) error {
		if err := f(ctx, tx); err != nil {
			return err
		}
		return r.write(ctx, tx)
	})
	if err != nil {
		return err
	}
	l.counts.entries.Add(r.grown.N - r.tree.N)
	l.counts.size.Store(r.grown.N)
	l.grown.fire()
	return nil
}

// behind notes since when entries have been waiting: from the oldest one found, or from now when a failed look leaves that unknown.
func (l *Log) behind(r *round) {
	since := l.now().Unix()
	if r != nil && r.oldest != 0 {
		since = r.oldest / microseconds
	}
	l.counts.behindSince.CompareAndSwap(0, since)
}

// idleness remembers where streams stood when they were last read to their end, and since when. nil remembers nothing.
type idleness map[[8]byte]standstill

type standstill struct {
	next  int64
	since int64 // Unix seconds
}

// done reports whether s has not moved since it was read to its end.
func (i idleness) done(s db.Stream) bool { return !s.Closed && i[s.ID].next == s.Next }

// tidy closes streams that stand still, since their processes are gone or do not need them, and notes closed ones that are read to the end.
func (l *Log) tidy(ctx context.Context, f fence, r *round, seen idleness) error {
	if seen == nil {
		return nil
	}
	now := l.now().Unix()
	idle, drained := seen.update(r, now), r.drained()
	if len(idle)+len(drained) == 0 {
		return nil
	}
	return l.db.Do(ctx, func(ctx context.Context, tx *db.Tx) error {
		if err := f(ctx, tx); err != nil {
			return err
		}
		for _, s := range idle {
			if _, err := tx.CloseStream(ctx, s); err != nil {
				return err
			}
		}
		for _, s := range drained {
			if err := tx.DrainStream(ctx, s); err != nil {
				return err
			}
		}
		return nil
	})
}

// update notes where the streams of r stand and returns those that have stood still for too long.
func (i idleness) update(r *round, now int64) (idle []db.Stream) {
	if r.more {
		return nil // it is not known which streams were read to their end
	}
	present := map[[8]byte]bool{}
	for _, s := range r.standing {
		present[s.ID] = true
		was, known := i[s.ID]
		switch {
		case !known || was.next != s.Next:
			i[s.ID] = standstill{s.Next, now}
		case !s.Closed && now-was.since >= int64(idleAfter.Seconds()):
			idle = append(idle, s)
		}
	}
	for id := range i {
		if !present[id] {
			delete(i, id)
		}
	}
	return idle
}

// Watch calls fn for every entry from the index from on, in order, as they get their place in the tree, until ctx ends (nil) or fn fails (its
// error). An entry is handed over once for each call of Watch; whoever keeps index+1 after handling it can go on from there after a
// restart.
func (l *Log) Watch(ctx context.Context, from int64, fn func(Indexed) error) error {
	if from < 0 {
		return errs.New(errs.Invalid, "the feed starts at 0, not at %d", from)
	}
	poll := time.NewTicker(l.LookAgain())
	defer poll.Stop()
	for {
		grown := l.grown.next() // before reading, so that no growth is missed
		page, err := l.feed(ctx, from)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		for _, e := range page {
			if err := fn(e); err != nil {
				return err
			}
			from = e.Index + 1
		}
		if len(page) > 0 {
			continue
		}
		select {
		case <-grown:
		case <-poll.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// feed returns the next entries from the index from on.
func (l *Log) feed(ctx context.Context, from int64) (page []Indexed, err error) {
	err = l.db.View(ctx, func(ctx context.Context, tx *db.Tx) error {
		page = nil
		tree, _, err := readTree(ctx, tx)
		if err != nil {
			return err
		}
		if err := checkPlace(ctx, tx, from); err != nil {
			return err
		}
		return readRange(ctx, tx, l.macs, from, min(tree.N, from+largestPage), func(index int64, data []byte) error {
			e, err := ParseEntry(data)
			page = append(page, Indexed{index, e})
			return err
		})
	})
	return page, err
}

// Metrics returns the counters and gauges of the record, for app to register. In a process that does not hold the sequencer's lease they
// speak only of its own calls of Sequence.
func (l *Log) Metrics() []prometheus.Collector {
	counter := func(name, help string, v *atomic.Int64) prometheus.Collector {
		return prometheus.NewCounterFunc(prometheus.CounterOpts{Namespace: "mooring", Subsystem: "audit", Name: name, Help: help},
			func() float64 { return float64(v.Load()) })
	}
	gauge := func(name, help string, value func() float64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Namespace: "mooring", Subsystem: "audit", Name: name, Help: help}, value)
	}
	return []prometheus.Collector{
		counter("entries_total", "Entries given their place in the tree.", &l.counts.entries),
		counter("rounds_total", "Rounds of the sequencer.", &l.counts.rounds),
		counter("failures_total", "Rounds of the sequencer that failed.", &l.counts.failures),
		counter("checkpoints_total", "Checkpoints signed.", &l.counts.checkpoints),
		gauge("tree_size", "Entries in the tree.", func() float64 { return float64(l.counts.size.Load()) }),
		gauge("lag_seconds", "Age of the oldest entry that waits for its place.", func() float64 {
			since := l.counts.behindSince.Load()
			if since == 0 {
				return 0
			}
			return float64(max(0, l.now().Unix()-since))
		}),
	}
}
