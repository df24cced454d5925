package db_test

import (
	"context"
	"sync"
	"testing"

	"mooring/internal/base/db"
	"mooring/internal/base/db/dbtest"
)

// readThings is what a Lookup of things asks.
func readThings(ctx context.Context, tx *db.Tx, keys []int) (map[int]int64, error) {
	found := map[int]int64{}
	for _, k := range keys {
		var n int64
		ok, err := tx.Get(ctx, []any{&n}, `SELECT n FROM thing WHERE cell = 1 AND id = $1`, id(k))
		if err != nil {
			return nil, err
		}
		if ok {
			found[k] = n
		}
	}
	return found, nil
}

// While somebody writes, a look neither waits for the end of that nor sees what is not committed, whether it is alone or one of many; afterwards it sees all.
func TestLookupBesideAWriter(t *testing.T) {
	d := dbtest.Open(t, schema())
	l := db.NewLookup(d, readThings)
	const many = 40
	look := func(want bool) {
		t.Helper()
		var wg sync.WaitGroup
		for range 3 { // the second and third time the one before had company
			for k := range many {
				wg.Go(func() {
					if n, found, err := l.Get(t.Context(), k); err != nil || found != want || found && n != int64(k) {
						t.Errorf("key %d: %d, %v, %v; want found %v", k, n, found, err, want)
					}
				})
			}
			wg.Wait()
		}
		if _, found, err := l.Get(t.Context(), 0); err != nil || found != want {
			t.Errorf("alone: found %v, %v; want %v", found, err, want)
		}
	}
	err := d.Do(t.Context(), func(ctx context.Context, tx *db.Tx) error {
		for k := range many {
			if _, err := tx.Exec(ctx, insert, 1, id(k), int64(k), ""); err != nil {
				return err
			}
		}
		look(false)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	look(true)
}

// SQLite may look by the connection that writes.
func TestLookupDoesNotWrite(t *testing.T) {
	d := dbtest.Open(t, schema())
	if d.Arrays() {
		t.Skip("on a server a look has a connection that may write")
	}
	l := db.NewLookup(d, func(ctx context.Context, tx *db.Tx, keys []int) (map[int]int64, error) {
		if keys[0] == 1 {
			_, err := tx.Exec(ctx, insert, 1, id(1), int64(1), "")
			return nil, err
		}
		return nil, tx.Each(ctx, func(db.Row) error { return nil }, insert+` RETURNING n`, 1, id(keys[0]), int64(1), "")
	})
	for key := range 2 {
		if _, _, err := l.Get(t.Context(), key); err == nil {
			t.Errorf("look %d wrote", key)
		}
	}
	err := d.View(t.Context(), func(ctx context.Context, tx *db.Tx) error {
		var n int64
		if _, err := tx.Get(ctx, []any{&n}, `SELECT COUNT(*) FROM thing`); err != nil {
			return err
		}
		if n != 0 {
			t.Errorf("%d rows were written by a look", n)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}
