package device

import (
	"bytes"
	"context"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"mooring/internal/base/db"
)

const (
	seenEvery = 30 * time.Second
	seenMost  = 1 << 16 // devices remembered between two flushes
	seenBatch = 1000    // rows a transaction
)

// sightings are what Seen was told since the last flush.
type sightings struct {
	mu   sync.Mutex
	at   map[ID]int64  // guarded by mu
	full chan struct{} // asks Run to flush early
}

func newSightings() sightings {
	return sightings{at: make(map[ID]int64), full: make(chan struct{}, 1)}
}

// Seen notes that the device was heard of at the given time (UTC seconds). It never waits: the note is written within half a minute, is
// lost when the process is killed before, and is dropped when more devices report in than can be remembered.
func (r *Registry) Seen(id ID, at int64) {
	s := &r.seen
	s.mu.Lock()
	defer s.mu.Unlock()
	if old, known := s.at[id]; known || len(s.at) < seenMost {
		s.at[id] = max(at, old)
	}
	if len(s.at) >= seenMost/2 {
		select {
		case s.full <- struct{}{}:
		default:
		}
	}
}

// Run writes down what Seen was told, every half minute and when ctx ends, and keeps the inventory.
func (r *Registry) Run(ctx context.Context) error {
	var beside sync.WaitGroup
	beside.Go(func() { r.keepInventory(ctx) })
	defer beside.Wait()
	tick := time.NewTicker(seenEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-r.seen.full:
		case <-ctx.Done():
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
			defer cancel()
			r.keepEvidence(last)
			return r.flushSeen(last)
		}
		r.keepEvidence(ctx)
		if err := r.flushSeen(ctx); err != nil && ctx.Err() == nil {
			r.log.LogAttrs(ctx, slog.LevelWarn, "noting when devices were last seen failed; it is tried again", slog.Any("cause", err))
		}
	}
}

const (
	seenRow   = `INSERT INTO last_seen (cell, id, at) VALUES ($1, $2, $3)` + seenConflict
	seenArray = `INSERT INTO last_seen (cell, id, at)
 SELECT t.cell, t.id, t.at FROM unnest($1::smallint[], $2::bytea[], $3::bigint[]) AS t(cell, id, at)` + seenConflict
	seenConflict = ` ON CONFLICT (cell, id) DO UPDATE SET at = excluded.at WHERE last_seen.at < excluded.at`
)

// flushSeen writes everything noted so far. What could not be written is noted again.
func (r *Registry) flushSeen(ctx context.Context) error {
	s := &r.seen
	s.mu.Lock()
	at := s.at
	s.at = make(map[ID]int64)
	s.mu.Unlock()
	ids := slices.Collect(maps.Keys(at))
	cells := make(map[ID]uint8, len(ids))
	for _, id := range ids {
		cells[id] = r.CellOf(id)
	}
	slices.SortFunc(ids, func(a, b ID) int {
		if cells[a] != cells[b] {
			return int(cells[a]) - int(cells[b])
		}
		return bytes.Compare(a[:], b[:])
	})
	for batch := range slices.Chunk(ids, seenBatch) {
		err := r.db.Do(ctx, func(ctx context.Context, tx *db.Tx) error {
			return tx.Send(ctx, seenStmts(batch, cells, at, !tx.Arrays())...)
		})
		if err != nil {
			for id, t := range at {
				r.Seen(id, t)
			}
			return err
		}
		r.inv.saw(batch, at)
	}
	return nil
}

func seenStmts(ids []ID, cells map[ID]uint8, at map[ID]int64, byRow bool) []*db.Stmt {
	if byRow {
		stmts := make([]*db.Stmt, len(ids))
		for i, id := range ids {
			stmts[i] = &db.Stmt{SQL: seenRow, Args: []any{int64(cells[id]), id[:], at[id]}}
		}
		return stmts
	}
	c, raw, t := make([]int16, len(ids)), make([][]byte, len(ids)), make([]int64, len(ids))
	for i, id := range ids {
		c[i], raw[i], t[i] = int16(cells[id]), id[:], at[id]
	}
	return []*db.Stmt{{SQL: seenArray, Args: []any{c, raw, t}}}
}
