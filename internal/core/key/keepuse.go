package key

import (
	"context"
	"maps"
	"slices"

	"mooring/internal/base/db"
	"mooring/internal/core/audit"
)

// save keeps a row for each key.
func (c *useChecker) save(_ context.Context, _ *db.Tx, w *audit.StateWriter) error {
	w.Uint(uint64(len(c.rows)))
	for _, id := range slices.Sorted(maps.Keys(c.rows)) {
		r := c.rows[id]
		w.Text(id)
		for _, n := range r.numbers() {
			w.Int(*n)
		}
	}
	return nil
}

func (c *useChecker) load(r *audit.StateReader) error {
	for range r.Len() {
		var row useRow
		id := r.Text()
		for _, n := range row.numbers() {
			*n = r.Int()
		}
		if r.Err() != nil {
			break
		}
		c.rows[id] = row
	}
	return r.Err()
}

// numbers returns all that the row says, in the order in which it is kept.
func (r *useRow) numbers() []*int64 {
	return []*int64{&r.uses[forIssue], &r.uses[forStatus], &r.MaxUses, &r.StatusUses, &r.Until, &r.turn}
}
