package db

import (
	"bytes"
	"cmp"
	"context"
	"errors"
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
}

// The bounds of a group.
const (
	groupQueue  = 4096                 // items that wait for one committer
	groupBatch  = 512                  // items in one commit
	groupLinger = 2 * time.Millisecond // how long a small batch waits for requests that are known to be under way
	groupSmall  = 32                   // a batch of fewer items lingers
	groupTime   = 20 * time.Second     // for one batch, with its repetitions
)

// Group turns the requests of many goroutines into few commits. One request after the other costs one durable commit each, and then the
// disk decides everything; sixty-four at once share one.
type Group[T any] struct {
	db         *DB
	plan       Plan[T]
	committers []*committer[T]
	underway   atomic.Int64 // announced by Expect
	waiting    atomic.Int64 // of these, the ones that have reached a committer

	stopped chan struct{} // closed when Run returns
	admit   sync.RWMutex  // read-held while an item is put in a queue
	closed  bool          // guarded by admit: no more items

	batches, items atomic.Int64
}

type pending[T any] struct {
	item T
	key  Key
	done chan error // capacity 1
}

// committer owns the cells c with c mod n equal to its number, so that two committers of a process never touch the same device.
type committer[T any] struct {
	group *Group[T]
	queue chan *pending[T]
	held  []*pending[T] // second items of a key; for the next batch
}

// NewGroup returns a group for d that follows plan. Nothing is committed until Run runs.
func NewGroup[T any](d *DB, plan Plan[T]) *Group[T] {
	g := &Group[T]{db: d, plan: plan, stopped: make(chan struct{})}
	for range d.engine.writers() {
		g.committers = append(g.committers, &committer[T]{group: g, queue: make(chan *pending[T], groupQueue)})
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
	select {
	case c.queue <- p:
		return nil
	default:
		return errs.WithRetry(errs.New(errs.Limited, "too many requests wait to be stored"), 2*time.Second)
	}
}

// Run commits until ctx ends, then commits what was admitted before, and returns.
func (g *Group[T]) Run(ctx context.Context) error {
	defer close(g.stopped)
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
	s := newStream(c.group.db)
	for {
		batch, ok := c.gather()
		if !ok {
			return
		}
		// The committer's own context: a requester that hangs up must not cancel the others' commit, and stopping drains the queue.
		own, cancel := context.WithTimeout(context.WithoutCancel(ctx), groupTime)
		c.commit(own, s, batch)
		cancel()
	}
}

// gather returns the next batch, sorted, or false when the queue is closed and empty.
func (c *committer[T]) gather() ([]*pending[T], bool) {
	batch, seen := make([]*pending[T], 0, 64), map[Key]bool{}
	take := func(p *pending[T]) {
		if seen[p.key] {
			c.held = append(c.held, p)
			return
		}
		seen[p.key] = true
		batch = append(batch, p)
	}
	held := c.held
	c.held = nil
	for _, p := range held {
		take(p)
	}
	if len(batch) == 0 {
		p, ok := <-c.queue
		if !ok {
			return nil, false
		}
		take(p)
	}
	var linger <-chan time.Time
	for len(batch) < groupBatch {
		select {
		case p, ok := <-c.queue:
			if !ok {
				return c.sorted(batch), true
			}
			take(p)
			continue
		default:
		}
		if len(batch) >= groupSmall || c.group.underway.Load() <= c.group.waiting.Load() {
			break
		}
		if linger == nil {
			t := time.NewTimer(groupLinger)
			defer t.Stop()
			linger = t.C
		}
		select {
		case p, ok := <-c.queue:
			if !ok {
				return c.sorted(batch), true
			}
			take(p)
			continue
		case <-linger:
		}
		break
	}
	return c.sorted(batch), true
}

func (c *committer[T]) sorted(batch []*pending[T]) []*pending[T] {
	slices.SortFunc(batch, func(a, b *pending[T]) int { return a.key.compare(b.key) })
	return batch
}

// commit runs the batch and gives every item its result. A batch that fails through its data is halved until the culprit stands alone: one
// poisoned item must not fail five hundred others.
func (c *committer[T]) commit(ctx context.Context, s *stream, batch []*pending[T]) {
	items := make([]T, len(batch))
	for i, p := range batch {
		items[i] = p.item
	}
	var refused []error
	err := s.run(ctx, func(ctx context.Context, tx *Tx) (err error) {
		refused, err = c.group.plan.Apply(ctx, tx, items)
		if err == nil && refused != nil && len(refused) != len(items) {
			err = errors.New("the plan returned another number of refusals than of items")
		}
		return err
	})
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
		switch {
		case err != nil:
			p.done <- err
		case refused != nil:
			p.done <- refused[i]
		default:
			p.done <- nil
		}
	}
}
