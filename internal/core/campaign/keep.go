package campaign

import (
	"context"
	"maps"
	"slices"

	"mooring/internal/base/db"
	"mooring/internal/core/audit"
)

// save keeps what the record says last about each campaign; none of them leaves.
func (c *checker) save(_ context.Context, _ *db.Tx, w *audit.StateWriter) error {
	w.Uint(uint64(len(c.known)))
	for _, object := range slices.Sorted(maps.Keys(c.known)) {
		w.Text(object)
		w.Int(c.known[object].turn)
		w.Text(c.known[object].row)
	}
	return nil
}

func (c *checker) load(r *audit.StateReader) error {
	for range r.Len() {
		object := r.Text()
		k := &said{turn: r.Int(), row: r.Text()}
		if r.Err() != nil {
			break
		}
		c.known[object] = k
	}
	return r.Err()
}
