package db

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"mooring/internal/base/errs"
)

// Key is what orders and separates the items of a batch: at most one item per key is in a batch, and batches are sorted by key, so that
// two writers take their row locks in the same order.
type Key struct {
	Cell uint8
	ID   [16]byte
}

func (k Key) compare(o Key) int {
	if c := cmp.Compare(k.Cell, o.Cell); c != 0 {
		return c
	}
	return bytes.Compare(k.ID[:], o.ID[:])
}

// Plan says how items of type T become rows.
type Plan[T any] struct {
	Key func(T) Key
	// Apply writes a batch. It may run again, in another transaction or for a part of the batch, and has no effect outside tx. refused is
	// nil, or holds at each refused item's index the error that its requester shall get; the others are accepted. err fails the batch.
	Apply func(ctx context.Context, tx *Tx, batch []T) (refused []error, err error)
	// Size says how many octets of memory an item holds, roughly. It may be nil when items are small.
	Size func(T) int
	// Linger is how long a batch of less than half of the greatest size waits for requests that are known to be under way; 0 is 2 ms, for a batch of less than 32.
	Linger time.Duration
}

func (p *Plan[T]) linger() (wait time.Duration, small int) {
	if p.Linger > 0 {
		return p.Linger, groupBatch / 2
	}
	return groupLinger, groupSmall
}

// The bounds of a group.
const (
	groupQueue     = 4096                 // items that wait for one committer, and once more as many of keys that are in a batch already
	groupQueueSize = 16 << 20             // octets of items in a group
	groupBatch     = 512                  // items in one commit
	groupBatchSize = 4 << 20              // octets of items in one commit, but at least one item
	groupLinger    = 2 * time.Millisecond // how long a small batch waits for requests that are known to be under way
	groupSmall     = 32                   // a batch of fewer items lingers
	groupTime      = 20 * time.Second     // for one batch, with its repetitions
	groupAttempt   = 5 * time.Second      // for one attempt at it, so that a hung server is noticed
)

// Group turns the requests of many goroutines into few commits. One request after the other costs one durable commit each, and then the
// disk decides everything; sixty-four at once share one.
type Group[T any] struct {
	db         *DB
	plan       Plan[T]
	committers []*committer[T]
	underway   atomic.Int64 // announced by Expect
	waiting    atomic.Int64 // of these, the ones that have reached a committer
	size       atomic.Int64 // octets of the items that have reached a committer

	admit  sync.RWMutex // read-held while an item is put in a queue
	closed bool         // guarded by admit: no more items

	batches, items atomic.Int64
}

type pending[T any] struct {
	item T
	key  Key
	size int
	done chan error // capacity 1
}

// committer owns the cells c with c mod n equal to its number, so that two committers of a process never touch the same device.
type committer[T any] struct {
	group *Group[T]
	queue chan *pending[T]
	held  []*pending[T] // second items of a key, and what made a batch too large; for the next batch

	batch  []*pending[T]    // being gathered; reused
	size   int              // octets of batch
	seen   map[Key]struct{} // keys of batch; reused
	linger *time.Timer      // reused
}

// NewGroup returns a group for d that follows plan. Nothing is committed until Run runs.
func NewGroup[T any](d *DB, plan Plan[T]) *Group[T] {
	g := &Group[T]{db: d, plan: plan}
	for range d.engine.writers() {
		g.committers = append(g.committers, &committer[T]{group: g, queue: make(chan *pending[T], groupQueue), seen: make(map[Key]struct{}, groupBatch)})
	}
	return g
}

// Expect announces a request that will probably reach Do, so that a small batch may wait for it. The request calls done at its end.
func (g *Group[T]) Expect() (done func()) {
	g.underway.Add(1)
	var once sync.Once
	return func() { once.Do(func() { g.underway.Add(-1) }) }
}

// Metrics returns how many batches and items were committed.
func (g *Group[T]) Metrics() (batches, items int64) { return g.batches.Load(), g.items.Load() }

// Do returns nil when item is durable, the refusal that Apply gave it, or an error of kind Limited (too many wait) or Unavailable (not
// durable, as far as is known). When ctx ends first the item may still be recorded: it is in a batch with others.
func (g *Group[T]) Do(ctx context.Context, item T) error {
	p := &pending[T]{item: item, key: g.plan.Key(item), done: make(chan error, 1)}
	if g.plan.Size != nil {
		p.size = g.plan.Size(item)
	}
	c := g.committers[int(p.key.Cell)%len(g.committers)]
	if err := g.put(c, p); err != nil {
		return err
	}
	g.waiting.Add(1)
	defer g.waiting.Add(-1)
	select {
	case err := <-p.done:
		return err
	case <-ctx.Done():
		return errs.Wrap(errs.Unavailable, ctx.Err(), "the request was given up before it was known to be stored")
	}
}

func (g *Group[T]) put(c *committer[T], p *pending[T]) error {
	g.admit.RLock()
	defer g.admit.RUnlock()
	if g.closed {
		return errs.WithRetry(errs.New(errs.Unavailable, "the service is stopping"), 5*time.Second)
	}
	if g.size.Add(int64(p.size)) <= groupQueueSize {
		select {
		case c.queue <- p:
			return nil
		default:
		}
	}
	g.size.Add(int64(-p.size))
	return tooMany()
}

func tooMany() error {
	return errs.WithRetry(errs.New(errs.Limited, "too many requests wait to be stored"), 2*time.Second)
}

// answer gives p its result.
func (g *Group[T]) answer(p *pending[T], err error) {
	g.size.Add(int64(-p.size))
	p.done <- err
}

// Run commits until ctx ends, then commits what was admitted before, and returns.
func (g *Group[T]) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	for _, c := range g.committers {
		wg.Go(func() { c.run(ctx) })
	}
	<-ctx.Done()
	g.admit.Lock()
	g.closed = true
	for _, c := range g.committers {
		close(c.queue)
	}
	g.admit.Unlock()
	wg.Wait()
	return nil
}

func (c *committer[T]) run(ctx context.Context) {
	// The committer's own context: a requester that hangs up must not cancel the others' commit, and stopping drains the queue.
	ctx = context.WithoutCancel(ctx)
	c.linger = time.NewTimer(groupLinger)
	defer c.linger.Stop()
	s := newStream(c.group.db, groupAttempt)
	for c.gather() {
		own, cancel := context.WithTimeout(ctx, groupTime)
		c.commit(own, s, c.batch)
		cancel()
	}
	own, cancel := context.WithTimeout(ctx, groupAttempt)
	defer cancel()
	if err := s.end(own); err != nil {
		c.group.db.log.LogAttrs(ctx, slog.LevelWarn, "a stream was left open", slog.Any("cause", err))
	}
}

// gather fills c.batch with the next batch, sorted. It returns false when the queue is closed and everything was committed.
func (c *committer[T]) gather() bool {
	clear(c.batch) // a reused slice must not keep what was answered
	clear(c.seen)
	c.batch, c.size = c.batch[:0], 0
	held := c.held
	c.held = nil
	for _, p := range held {
		c.take(p)
	}
	if len(c.batch) == 0 {
		p, ok := <-c.queue
		if !ok {
			return false
		}
		c.take(p)
	}
	c.fill()
	slices.SortFunc(c.batch, func(a, b *pending[T]) int { return a.key.compare(b.key) })
	return true
}

// fill takes what is queued, and waits a little for what is known to be under way. A lonely request waits for nobody.
func (c *committer[T]) fill() {
	lingering := false
	wait, small := c.group.plan.linger()
	for len(c.batch) < groupBatch && c.size < groupBatchSize {
		select {
		case p, ok := <-c.queue:
			if !ok {
				return
			}
			c.take(p)
			continue
		default:
		}
		if len(c.batch) >= small || c.group.underway.Load() <= c.group.waiting.Load() {
			return
		}
		if !lingering {
			lingering = true
			c.linger.Reset(wait)
		}
		select {
		case p, ok := <-c.queue:
			if !ok {
				return
			}
			c.take(p)
		case <-c.linger.C:
			return
		}
	}
}

// take puts p into the batch, or, when its key is in there already or the batch is full, among those held for the next one.
func (c *committer[T]) take(p *pending[T]) {
	_, twice := c.seen[p.key]
	switch {
	case !twice && len(c.batch) < groupBatch && (c.size+p.size <= groupBatchSize || len(c.batch) == 0):
		c.seen[p.key] = struct{}{}
		c.batch = append(c.batch, p)
		c.size += p.size
	case len(c.held) < groupQueue:
		c.seen[p.key] = struct{}{} // whoever comes later with this key stays behind p
		c.held = append(c.held, p)
	default:
		c.group.answer(p, tooMany())
	}
}

// commit runs the batch and gives every item its result. A batch that fails through its data is halved until the culprit stands alone: one
// poisoned item must not fail five hundred others.
func (c *committer[T]) commit(ctx context.Context, s *stream, batch []*pending[T]) {
	items := make([]T, len(batch))
	for i, p := range batch {
		items[i] = p.item
	}
	var refused []error
	err := c.group.db.prepare(ctx)
	apply := func(hopeful bool) error {
		return s.run(ctx, func(ctx context.Context, tx *Tx) (err error) {
			tx.hopeful = hopeful
			refused, err = c.group.plan.Apply(ctx, tx, items)
			if err == nil && refused != nil && len(refused) != len(items) {
				err = errors.New("the plan returned another number of refusals than of items")
			}
			return err
		})
	}
	if err == nil {
		if err = apply(true); errors.Is(err, ErrPessimist) {
			err = apply(false)
		}
	}
	if err != nil && len(batch) > 1 && !errs.Is(err, errs.Unavailable) {
		c.commit(ctx, s, batch[:len(batch)/2])
		c.commit(ctx, s, batch[len(batch)/2:])
		return
	}
	if err == nil {
		c.group.batches.Add(1)
		c.group.items.Add(int64(len(batch)))
	}
	for i, p := range batch {
		answer := err
		if err == nil && refused != nil {
			answer = refused[i]
		}
		c.group.answer(p, answer)
	}
}
