package approve

import (
	"context"
	"maps"
	"slices"

	"mooring/internal/base/db"
	"mooring/internal/core/audit"
)

// save keeps what the record says about each approval, but for those whose rows have left long after their time: nothing can become of them.
func (c *checker) save(ctx context.Context, tx *db.Tx, w *audit.StateWriter) error {
	there := map[string]bool{}
	err := tx.Each(ctx, func(r db.Row) error {
		var a Approval
		var cell int64
		if err := a.scan(r, &cell); err != nil {
			return err
		}
		there["approval "+a.ID.String()] = true
		return nil
	}, `SELECT cell, `+columns+` FROM approval ORDER BY cell, id`)
	if err != nil {
		return err
	}
	var objects []string
	for _, object := range slices.Sorted(maps.Keys(c.known)) {
		if there[object] || c.known[object].expires > c.last-2*int64(keepFor.Seconds()) {
			objects = append(objects, object)
		}
	}
	w.Int(c.last)
	w.Uint(uint64(len(objects)))
	for _, object := range objects {
		k := c.known[object]
		w.Text(object)
		w.Text(k.row)
		w.Int(int64(k.state))
		w.Int(k.decided)
		w.Text(k.decider)
		w.Int(k.spent)
		w.Int(k.expires)
	}
	return nil
}

func (c *checker) load(r *audit.StateReader) error {
	c.last = r.Int()
	for range r.Len() {
		object := r.Text()
		k := &standing{row: r.Text(), state: State(r.Int()), decided: r.Int(), decider: r.Text(), spent: r.Int(), expires: r.Int()}
		if r.Err() != nil {
			break
		}
		c.known[object] = k
	}
	return r.Err()
}
