package job

import (
	"context"
	"maps"
	"slices"

	"mooring/internal/base/db"
	"mooring/internal/core/audit"
)

// forgottenFor is how long after a job was forgotten an entry about it may still get its place, in seconds: the entries of several nodes are in
// order as far as their clocks agree.
const forgottenFor = 86400

// save keeps what the record says last about each job, but for those that were forgotten: their rows left with that entry.
func (c *checker) save(_ context.Context, _ *db.Tx, w *audit.StateWriter) error {
	var objects []string
	for _, object := range slices.Sorted(maps.Keys(c.known)) {
		if k := c.known[object]; !k.forgotten || k.at > c.last-forgottenFor {
			objects = append(objects, object)
		}
	}
	w.Int(c.last)
	w.Uint(uint64(len(objects)))
	for _, object := range objects {
		k := c.known[object]
		w.Text(object)
		w.Int(k.turn)
		w.Text(k.row)
		w.Bool(k.forgotten)
		w.Int(k.at)
	}
	return nil
}

func (c *checker) load(r *audit.StateReader) error {
	c.last = r.Int()
	for range r.Len() {
		object := r.Text()
		k := &standing{turn: r.Int(), row: r.Text(), forgotten: r.Bool(), at: r.Int()}
		if r.Err() != nil {
			break
		}
		c.known[object] = k
	}
	return r.Err()
}
