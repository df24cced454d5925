package db

import (
	"context"
	"runtime"
	"sync"
	"time"

	"mooring/internal/base/errs"
)

// Lookup answers the point reads of many goroutines with few transactions: while one is under way the others gather, and the next one reads
// for all of them; and whoever is to read lets those go first who are ready to run, since some of them will ask too. A lonely read waits for nobody; where many
// asked the last time, SQLite may have the next ones wait until the commit that is under way is done, for 4 ms at most.
// What a read returns was committed when it began, or later.
//
// It is for the hot path, where a transaction for each read would cost more than the read.
type Lookup[K comparable, V any] struct {
	db   *DB
	read func(ctx context.Context, tx *Tx, keys []K) (map[K]V, error)

	mu      sync.Mutex
	reading bool         // guarded by mu: somebody reads
	waiting []*ask[K, V] // guarded by mu
	latest  int          // guarded by mu: how many asks the batch before had
}

type ask[K comparable, V any] struct {
	key   K
	done  chan struct{}
	value V
	found bool
	err   error
}

// The bounds of a lookup.
const (
	lookupBatch = 256
	lookupQueue = 4096
	lookupTime  = 10 * time.Second
	// lookupMany is the size of a batch after which the next one may wait a little for others and for a connection that reads for less.
	lookupMany = 4
)

// NewLookup returns a Lookup for d. read returns what it found for distinct keys, at most 256; it may run again.
func NewLookup[K comparable, V any](d *DB, read func(ctx context.Context, tx *Tx, keys []K) (map[K]V, error)) *Lookup[K, V] {
	return &Lookup[K, V]{db: d, read: read}
}

// Get returns the value for key and whether there is one. The value may be shared with others who asked for the same key: do not change it.
func (l *Lookup[K, V]) Get(ctx context.Context, key K) (value V, found bool, err error) {
	a := &ask[K, V]{key: key, done: make(chan struct{})}
	l.mu.Lock()
	if len(l.waiting) >= lookupQueue {
		l.mu.Unlock()
		return value, false, errs.New(errs.Limited, "too many requests wait to be looked up")
	}
	l.waiting = append(l.waiting, a)
	lead := !l.reading
	l.reading = true
	l.mu.Unlock()
	if lead {
		// The reader serves others too, so his own hanging up must not end it.
		l.serve(context.WithoutCancel(ctx))
	}
	select {
	case <-a.done:
		return a.value, a.found, a.err
	case <-ctx.Done():
		return value, false, errs.Wrap(errs.Unavailable, ctx.Err(), "the request was given up while it was looked up")
	}
}

// serve reads for those who wait. Whoever leads answers one batch, his own key among it, and leaves what has gathered meanwhile to another
// goroutine.
func (l *Lookup[K, V]) serve(ctx context.Context) {
	// Requests come in bunches, when the network is looked at. Without this the first of a bunch would read for itself alone, which costs most of what
	// reading for all of them does.
	runtime.Gosched()
	defer func() { // also when read panics: those who wait are not part of that
		l.mu.Lock()
		more := len(l.waiting) > 0
		l.reading = more
		l.mu.Unlock()
		if more {
			go l.serve(ctx)
		}
	}()
	l.answer(ctx)
}

// take returns a batch of those who wait, of whom there is one at least, and their distinct keys.
func (l *Lookup[K, V]) take() (batch []*ask[K, V], keys []K) {
	l.mu.Lock()
	n := min(len(l.waiting), lookupBatch)
	batch = l.waiting[:n:n]
	l.waiting = append([]*ask[K, V](nil), l.waiting[n:]...)
	l.latest = n
	l.mu.Unlock()
	keys = make([]K, 0, n)
	seen := make(map[K]bool, n)
	for _, a := range batch {
		if !seen[a.key] {
			seen[a.key] = true
			keys = append(keys, a.key)
		}
	}
	return batch, keys
}

// busy reports whether many asked the last time.
func (l *Lookup[K, V]) busy() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.latest >= lookupMany
}

func (l *Lookup[K, V]) answer(ctx context.Context) {
	var batch []*ask[K, V]
	var values map[K]V
	err := errs.New(errs.Internal, "the look-up did not come to its end") // what the others get when read panics
	defer func() {
		if batch == nil { // there was no connection
			batch, _ = l.take()
		}
		for _, a := range batch {
			a.value, a.found = values[a.key]
			a.err = err
			close(a.done)
		}
	}()
	// A server that hangs must not hold up those who ask later for ever.
	ctx, cancel := context.WithTimeout(ctx, lookupTime)
	defer cancel()
	var keys []K
	var got map[K]V
	err = l.db.glance(ctx, l.busy(), func(ctx context.Context, tx *Tx) (err error) {
		if batch == nil { // whoever came while the connection was waited for is read for as well
			batch, keys = l.take()
		}
		got, err = l.read(ctx, tx, keys)
		return err
	})
	if err == nil {
		values = got
	}
}
