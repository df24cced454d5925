package enrol

import (
	"context"
	"maps"
	"slices"

	"mooring/internal/base/db"
	"mooring/internal/core/audit"
)

// save keeps what the record says last about the request of each device that has one.
func (c *checker) save(_ context.Context, _ *db.Tx, w *audit.StateWriter) error {
	w.Uint(uint64(len(c.requests)))
	for _, id := range slices.Sorted(maps.Keys(c.requests)) {
		k := c.requests[id]
		w.Text(id)
		w.Text(k.row)
		w.Int(int64(k.state))
		w.Int(k.decided)
		w.Text(k.decider)
	}
	return nil
}

func (c *checker) load(r *audit.StateReader) error {
	for range r.Len() {
		id := r.Text()
		k := standing{row: r.Text(), state: PendingState(r.Int()), decided: r.Int(), decider: r.Text()}
		if r.Err() != nil {
			break
		}
		c.requests[id] = k
	}
	return r.Err()
}
