package acme

import (
	"context"
	"maps"
	"slices"
	"time"

	"mooring/internal/base/db"
	"mooring/internal/core/audit"
)

// save writes what later entries can still speak of: accounts that have a row, and names that were validated lately.
func (c *checker) save(ctx context.Context, tx *db.Tx, w *audit.StateWriter) error {
	there := map[string]bool{}
	err := tx.Each(ctx, func(r db.Row) error {
		var raw []byte
		err := r.Scan(&raw)
		var id ID
		copy(id[:], raw)
		there[id.String()] = true
		return err
	}, `SELECT id FROM acme_account`)
	if err != nil {
		return err
	}
	var accounts []string
	for _, id := range slices.Sorted(maps.Keys(c.accounts)) {
		if there[id] {
			accounts = append(accounts, id)
		}
	}
	w.Uint(uint64(len(accounts)))
	for _, id := range accounts {
		a := c.accounts[id]
		w.Text(id)
		w.Text(a.key)
		w.Text(a.device)
		w.Text(a.state)
		w.Int(a.n)
	}
	c.forget()
	w.Int(c.last)
	w.Uint(uint64(len(c.shown)))
	for _, mark := range slices.Sorted(maps.Keys(c.shown)) {
		w.Text(mark)
		w.Int(c.shown[mark])
	}
	return nil
}

func (c *checker) load(r *audit.StateReader) error {
	for range r.Len() {
		id := r.Text()
		c.accounts[id] = standing{key: r.Text(), device: r.Text(), state: r.Text(), n: r.Int()}
	}
	c.last = r.Int()
	for range r.Len() {
		mark := r.Text()
		c.shown[mark] = r.Int()
	}
	return r.Err()
}

// forget drops the marks of orders that are gone.
func (c *checker) forget() {
	maps.DeleteFunc(c.shown, func(_ string, at int64) bool { return at < c.last-int64(2*orderLife/time.Second) })
}
