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
//
// A request that finds nobody committing does it himself: to wake another goroutine for it and to be woken again would cost a lonely request more than
// its statements do. He commits one batch, with whoever came along; what has gathered meanwhile is the committer's, who goes on until nothing waits.
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
	item     T
	key      Key
	size     int
	done     chan error // capacity 1
	answered bool       // guarded by turn of its committer
}

// committer owns the cells c with c mod n equal to its number, so that two committers of a process never touch the same device.
type committer[T any] struct {
	group *Group[T]
	queue chan *pending[T]
	wake  chan struct{} // capacity 1; something waits, and whoever had the turn does not go on

	turn   sync.Mutex    // held by whoever commits, and by nobody else while Run does not run
	stream *stream       // guarded by turn
	held   []*pending[T] // guarded by turn; second items of a key, and what made a batch too large; for the next batch

	// What follows is reused, and guarded by turn.
	batch  []*pending[T] // being gathered
	size   int           // octets of batch
	seen   map[Key]struct{}
	linger *time.Timer
}

// NewGroup returns a group for d that follows plan. Nothing is committed until Run runs.
func NewGroup[T any](d *DB, plan Plan[T]) *Group[T] {
	g := &Group[T]{db: d, plan: plan}
	for range d.engine.writers() {
		c := &committer[T]{group: g, queue: make(chan *pending[T], groupQueue), wake: make(chan struct{}, 1), stream: newStream(d, groupAttempt), seen: make(map[Key]struct{}, groupBatch)}
		c.turn.Lock() // until Run
		g.committers = append(g.committers, c)
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
// durable, as far as is known). When ctx ends first the item may still be recorded: it is in a batch with others. Whoever commits himself stays
// until that is done, whatever becomes of ctx, as the others' items are at stake.
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
	c.lead(ctx)
	select {
	case err := <-p.done: // who was answered is told so, though he may have hung up meanwhile
		return err
	default:
	}
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
	p.answered = true
	g.size.Add(int64(-p.size))
	p.done <- err
}

// Run commits until ctx ends, then commits what was admitted before, and returns.
func (g *Group[T]) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	closed := make(chan struct{})
	for _, c := range g.committers {
		wg.Go(func() { c.run(ctx, closed) })
	}
	<-ctx.Done()
	g.admit.Lock()
	g.closed = true
	g.admit.Unlock()
	close(closed)
	wg.Wait()
	return nil
}

// run commits what requesters leave to it, until closed is. Then nobody gets the turn any more.
func (c *committer[T]) run(ctx context.Context, closed <-chan struct{}) {
	// The committer's own context: a requester that hangs up must not cancel the others' commit, and stopping drains the queue.
	ctx = context.WithoutCancel(ctx)
	c.linger = time.NewTimer(groupLinger)
	defer c.linger.Stop()
	c.drain(ctx)
	for ending := false; !ending; {
		c.turn.Unlock()
		if len(c.queue) == 0 {
			select {
			case <-c.wake:
			case <-closed: // whoever was admitted is in the queue, or is served by who has the turn
				ending = true
			}
		}
		c.turn.Lock()
		c.drain(ctx)
	}
	own, cancel := context.WithTimeout(ctx, groupAttempt)
	defer cancel()
	if err := c.stream.end(own); err != nil {
		c.group.db.log.LogAttrs(ctx, slog.LevelWarn, "a stream was left open", slog.Any("cause", err))
	}
}

// drain commits until nothing waits.
func (c *committer[T]) drain(ctx context.Context) {
	for c.gather() {
		c.round(ctx)
	}
}

// call wakes the committer.
func (c *committer[T]) call() {
	select {
	case c.wake <- struct{}{}:
	default: // it has been called
	}
}

// lead commits one batch of what waits, unless somebody commits already. Everybody who gives the turn back looks then at what waits, so nothing is
// left over.
func (c *committer[T]) lead(ctx context.Context) {
	if !c.turn.TryLock() {
		return
	}
	defer func() { // also when Apply panics: those who wait are not part of that
		more := len(c.held) > 0
		c.turn.Unlock()
		if more || len(c.queue) > 0 {
			c.call()
		}
	}()
	if c.gather() {
		// The leader serves others, too, so his own hanging up must not end it.
		c.round(context.WithoutCancel(ctx))
	}
}

// round commits what was gathered.
func (c *committer[T]) round(ctx context.Context) {
	defer func() { // there is somebody only when Apply panicked
		for _, p := range c.batch {
			if !p.answered {
				c.group.answer(p, errs.New(errs.Internal, "the commit did not come to its end"))
			}
		}
	}()
	own, cancel := context.WithTimeout(ctx, groupTime)
	defer cancel()
	c.commit(own, c.stream, c.batch)
}

// gather fills c.batch with the next batch, sorted. It returns false when nothing waits.
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
		select {
		case p := <-c.queue:
			c.take(p)
		default:
			return false
		}
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
		case p := <-c.queue:
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
		case p := <-c.queue:
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
