package dbtest

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	"mooring/internal/base/db"
	"mooring/internal/base/errs"
)

// Test is the conformance suite: what every engine must do for the slices, through the package's front door. open returns an empty database
// with the given schemas; it is called once for each part.
func Test(t *testing.T, open func(t testing.TB, schemas ...db.Schema) *db.DB) {
	for _, part := range []struct {
		name string
		test func(t *testing.T, d *db.DB)
	}{
		{"values", testValues},
		{"batches", testBatches},
		{"one item of a key in a batch", testDuplicateKeys},
		{"refusal beside success", testRefusal},
		{"poison", testPoison},
		{"replay of a batch that is done", testReplay},
		{"cancel while queued and while committing", testCancel},
		{"leases", testLeases},
		{"a look sees one state", testSnapshot},
	} {
		t.Run(part.name, func(t *testing.T) { part.test(t, open(t, conformSchema())) })
	}
}

func conformSchema() db.Schema {
	return db.Schema{Name: "conform", FS: fstest.MapFS{"00001_conform.sql": {Data: []byte(`-- +goose Up
CREATE TABLE item (
	cell  smallint NOT NULL,
	id    bytea    NOT NULL,
	n     bigint   NOT NULL,
	small integer  NOT NULL DEFAULT 0,
	at    bigint   NOT NULL DEFAULT 0,
	raw   bytea    NOT NULL,
	note  text     NOT NULL,
	PRIMARY KEY (cell, id)
) /*sqlite: WITHOUT ROWID */ /*postgres: WITH (fillfactor = 80) */;
`)}}}
}

const (
	addItem   = `INSERT INTO item (cell, id, n, raw, note) VALUES ($1, $2, $3, $4, $5)`
	countItem = `INSERT INTO item (cell, id, n, raw, note) VALUES ($1, $2, 1, $3, '') ON CONFLICT (cell, id) DO UPDATE SET n = item.n + 1`
)

func key(n int) db.Key {
	k := db.Key{Cell: uint8(n)}
	binary.BigEndian.PutUint64(k.ID[8:], uint64(n))
	return k
}

func octets(n int) []byte {
	k := key(n)
	return k.ID[:]
}

// sum returns how many items there are and what their n make together.
func sum(t *testing.T, d *db.DB) (rows, total int64) {
	t.Helper()
	if err := d.View(t.Context(), func(ctx context.Context, tx *db.Tx) error {
		_, err := tx.Get(ctx, []any{&rows, &total}, `SELECT count(*), CAST(coalesce(sum(n), 0) AS bigint) FROM item`)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return rows, total
}

func change(ctx context.Context, d *db.DB, sql string, args ...any) error {
	return d.Do(ctx, func(ctx context.Context, tx *db.Tx) error {
		_, err := tx.Exec(ctx, sql, args...)
		return err
	})
}

// running starts g until the end of t.
func running[T any](t *testing.T, g *db.Group[T]) {
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- g.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
}

func testValues(t *testing.T, d *db.DB) {
	year := func(y int) int64 { return time.Date(y, 12, 31, 23, 59, 59, 0, time.UTC).Unix() }
	large := bytes.Repeat([]byte{0, 0xff, '\'', '\\'}, 1<<16)
	for i, row := range []struct {
		n, at int64
		small int
		raw   []byte
		note  string
	}{
		{0, 0, 0, []byte{0}, "plain"},
		{-1 << 63, year(1969) - 1, -1 << 31, nil, ""},
		{1<<63 - 1, year(2038), 1<<31 - 1, []byte{}, "Gerät №7 – 設備 🛰 'quoted' \"twice\" $1 ? % \\ \n\t"},
		{42, year(9999), 7, large, strings.Repeat("é", 70_000)},
	} {
		k := key(i)
		if err := d.Do(t.Context(), func(ctx context.Context, tx *db.Tx) error {
			return tx.Send(ctx, &db.Stmt{SQL: `INSERT INTO item (cell, id, n, small, at, raw, note) VALUES ($1, $2, $3, $4, $5, $6, $7)`,
				Args: []any{k.Cell, k.ID[:], row.n, row.small, row.at, row.raw, row.note}})
		}); err != nil {
			t.Errorf("row %d: %v", i, err)
			continue
		}
		var (
			cell, id     = uint8(0), []byte(nil)
			n, at, small int64
			raw          []byte
			note         string
		)
		if err := d.View(t.Context(), func(ctx context.Context, tx *db.Tx) error {
			found, err := tx.Get(ctx, []any{&cell, &id, &n, &at, &small, &raw, &note}, `SELECT cell, id, n, at, small, raw, note FROM item WHERE cell = $1 AND id = $2 AND note = $3 AND raw = $4`,
				k.Cell, k.ID[:], row.note, row.raw)
			if err == nil && !found {
				err = errors.New("not found by its own values")
			}
			return err
		}); err != nil {
			t.Errorf("row %d: %v", i, err)
			continue
		}
		if cell != k.Cell || !bytes.Equal(id, k.ID[:]) || n != row.n || at != row.at || small != int64(row.small) || !bytes.Equal(raw, row.raw) || note != row.note {
			t.Errorf("row %d came back as %d %x %d %d %d, %d octets, %d octets of text", i, cell, id, n, at, small, len(raw), len(note))
		}
	}
	if err := change(t.Context(), d, addItem, 9, octets(9), nil, []byte{}, ""); err == nil || db.IsConflict(err) || errs.Is(err, errs.Unavailable) {
		t.Errorf("NULL in a column without: got %v", err)
	}
	if err := change(t.Context(), d, addItem, 0, octets(0), 1, []byte{}, ""); !db.IsConflict(err) {
		t.Errorf("a second row of a key: got %v, want a conflict", err)
	}
	if err := change(t.Context(), d, `UPDATE nothing SET n = 1`); err == nil || errs.Is(err, errs.Unavailable) {
		t.Errorf("a wrong statement: got %v, want an error that says it will fail again", err)
	}
}

func testBatches(t *testing.T, d *db.DB) {
	var sizes []int
	g := db.NewGroup(d, db.Plan[int]{
		// One cell, so that one committer has them all.
		Key: func(n int) db.Key { k := key(n); k.Cell = 0; return k },
		Apply: func(ctx context.Context, tx *db.Tx, batch []int) ([]error, error) {
			sizes = append(sizes, len(batch))
			stmts := make([]*db.Stmt, len(batch))
			for i, n := range batch {
				if i > 0 && batch[i-1] >= n {
					return nil, fmt.Errorf("%d stands before %d", batch[i-1], n)
				}
				stmts[i] = &db.Stmt{SQL: addItem, Args: []any{0, octets(n), n, []byte{}, ""}}
			}
			return nil, tx.Send(ctx, stmts...)
		},
	})
	// What waits before Run is what the first batches are made of: 512 and 1; then 3, one commit each.
	results := make(chan error)
	for n := range 513 {
		done := g.Expect()
		go func() { defer done(); results <- g.Do(t.Context(), n) }()
	}
	ctx, cancel := context.WithCancel(t.Context())
	stopped := make(chan error, 1)
	go func() { stopped <- g.Run(ctx) }()
	for range 513 {
		if err := <-results; err != nil {
			t.Error(err)
		}
	}
	for n := 600; n < 603; n++ {
		if err := g.Do(t.Context(), n); err != nil {
			t.Error(err)
		}
	}
	cancel()
	if err := <-stopped; err != nil {
		t.Error(err)
	}
	rows, _ := sum(t, d)
	batches, items := g.Metrics()
	if rows != 516 || items != 516 || batches < 5 || len(sizes) < 5 {
		t.Errorf("%d rows, %d items in %d batches", rows, items, batches)
	}
	// The same statements in one transaction, in the sizes at which a plan may change its text.
	next := 1000
	for _, size := range []int{1, 2, 3, 512} {
		if err := d.Do(t.Context(), func(ctx context.Context, tx *db.Tx) error {
			stmts := make([]*db.Stmt, size)
			for i := range stmts {
				stmts[i] = &db.Stmt{SQL: addItem, Args: []any{0, octets(next + i), 1, []byte{}, ""}}
			}
			var last int64
			stmts = append(stmts, &db.Stmt{SQL: `SELECT n FROM item WHERE cell = 0 AND id = $1`, Args: []any{octets(next + size - 1)}, Each: func(r db.Row) error { return r.Scan(&last) }})
			if err := tx.Send(ctx, stmts...); err != nil {
				return err
			}
			for i, s := range stmts {
				if s.N != 1 {
					return fmt.Errorf("statement %d affected %d rows", i, s.N)
				}
			}
			if last != 1 {
				return fmt.Errorf("the last row was read as %d", last)
			}
			return nil
		}); err != nil {
			t.Errorf("%d statements: %v", size, err)
		}
		next += size
	}
}

func testDuplicateKeys(t *testing.T, d *db.DB) {
	g := db.NewGroup(d, db.Plan[int]{
		Key: func(n int) db.Key { return key(n % 3) },
		Apply: func(ctx context.Context, tx *db.Tx, batch []int) ([]error, error) {
			seen := map[db.Key]bool{}
			for _, n := range batch {
				k := key(n % 3)
				if seen[k] {
					return nil, fmt.Errorf("key %d is twice in a batch", n%3)
				}
				seen[k] = true
				if _, err := tx.Exec(ctx, countItem, k.Cell, k.ID[:], []byte{}); err != nil {
					return nil, err
				}
			}
			return nil, nil
		},
	})
	running(t, g)
	var wg sync.WaitGroup
	for n := range 60 {
		wg.Go(func() {
			if err := g.Do(t.Context(), n); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if rows, total := sum(t, d); rows != 3 || total != 60 {
		t.Errorf("%d rows that count %d, want 3 and 60", rows, total)
	}
}

// storing returns a group that stores n for each n, but refuses what refuse says and fails at poison.
func storing(d *db.DB, refuse func(n int) bool, poison int) *db.Group[int] {
	return db.NewGroup(d, db.Plan[int]{
		Key: key,
		Apply: func(ctx context.Context, tx *db.Tx, batch []int) ([]error, error) {
			refused := make([]error, len(batch))
			var stmts []*db.Stmt
			for i, n := range batch {
				if refuse(n) {
					refused[i] = errs.New(errs.Denied, "no %d", n)
					continue
				}
				k, value := key(n), any(n)
				if n == poison {
					value = nil
				}
				stmts = append(stmts, &db.Stmt{SQL: addItem, Args: []any{k.Cell, k.ID[:], value, []byte{}, ""}})
			}
			return refused, tx.Send(ctx, stmts...)
		},
	})
}

// all puts 0 to n-1 into g at once and returns what each got.
func all(t *testing.T, g *db.Group[int], n int) []error {
	got := make([]error, n)
	var wg sync.WaitGroup
	for i := range n {
		done := g.Expect()
		wg.Go(func() { defer done(); got[i] = g.Do(t.Context(), i) })
	}
	wg.Wait()
	return got
}

func testRefusal(t *testing.T, d *db.DB) {
	g := storing(d, func(n int) bool { return n%3 == 0 }, -1)
	running(t, g)
	for n, err := range all(t, g, 99) {
		switch {
		case n%3 == 0 && errs.Public(err) != fmt.Sprintf("no %d", n):
			t.Errorf("item %d got %v, want its own refusal", n, err)
		case n%3 != 0 && err != nil:
			t.Errorf("item %d got %v", n, err)
		}
	}
	if rows, _ := sum(t, d); rows != 66 {
		t.Errorf("%d rows, want 66", rows)
	}
}

func testPoison(t *testing.T, d *db.DB) {
	g := storing(d, func(int) bool { return false }, 200)
	running(t, g)
	for n, err := range all(t, g, 512) {
		if (err != nil) != (n == 200) || errs.Is(err, errs.Unavailable) {
			t.Errorf("item %d got %v", n, err)
		}
	}
	if rows, _ := sum(t, d); rows != 511 {
		t.Errorf("%d rows, want 511", rows)
	}
}

// testReplay does again what a committer does that never heard of its commit: the first statement must say that the batch is done.
func testReplay(t *testing.T, d *db.DB) {
	const take = `UPDATE stream SET next = next + 1 WHERE cell = 0 AND stream = $1 AND next = $2 AND closed = 0`
	var b db.BatchID
	if err := d.Do(t.Context(), func(ctx context.Context, tx *db.Tx) error { b = tx.Batch(); return nil }); err != nil {
		t.Fatal(err)
	}
	moved := int64(-1)
	for range 20 { // until another stream than b's own has its turn
		if err := d.Do(t.Context(), func(ctx context.Context, tx *db.Tx) (err error) {
			if tx.Batch().Stream == b.Stream {
				return nil
			}
			moved, err = tx.Exec(ctx, take, b.Stream[:], b.Seq)
			return err
		}); err != nil {
			t.Fatal(err)
		}
		if moved >= 0 {
			break
		}
	}
	if moved != 0 {
		t.Errorf("a batch that was done could be done again: %d rows moved", moved)
	}
}

func testCancel(t *testing.T, d *db.DB) {
	inside, release := make(chan struct{}, 1), make(chan struct{})
	g := db.NewGroup(d, db.Plan[int]{
		Key: func(n int) db.Key { k := key(n); k.Cell = 0; return k },
		Apply: func(ctx context.Context, tx *db.Tx, batch []int) ([]error, error) {
			select {
			case inside <- struct{}{}:
			default:
			}
			<-release
			for _, n := range batch {
				if _, err := tx.Exec(ctx, addItem, 0, octets(n), n, []byte{}, ""); err != nil {
					return nil, err
				}
			}
			return nil, ctx.Err()
		},
	})
	running(t, g)
	first := make(chan error, 1)
	go func() { first <- g.Do(t.Context(), 1) }()
	<-inside // 1 is being committed
	ctx, cancel := context.WithCancel(t.Context())
	gone := make(chan error, 2)
	for n := range 2 {
		go func() { gone <- g.Do(ctx, 2+n) }() // 2 and 3 are queued, or about to be
	}
	cancel()
	for range 2 {
		if err := <-gone; !errs.Is(err, errs.Unavailable) {
			t.Errorf("who hung up got %v", err)
		}
	}
	close(release)
	if err := <-first; err != nil {
		t.Errorf("who was being served got %v", err)
	}
	if err := g.Do(t.Context(), 4); err != nil {
		t.Errorf("who did not hang up got %v", err)
	}
	if rows, _ := sum(t, d); rows != 4 {
		t.Errorf("%d rows, want 4: what was queued was cancelled by its requester", rows)
	}
}

func testLeases(t *testing.T, d *db.DB) {
	held := make(chan *db.Lease, 1)
	lead := func() (stop func()) {
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() {
			done <- d.Lead(ctx, "conform", func(ctx context.Context, l *db.Lease) error {
				held <- l
				<-ctx.Done()
				return nil
			})
		}()
		return func() {
			cancel()
			if err := <-done; err != nil {
				t.Errorf("Lead: %v", err)
			}
		}
	}
	write := func(l *db.Lease) error {
		return d.Do(t.Context(), func(ctx context.Context, tx *db.Tx) error {
			if err := l.Fence(ctx, tx); err != nil {
				return err
			}
			_, err := tx.Exec(ctx, countItem, 1, octets(1), []byte{})
			return err
		})
	}
	stop := lead()
	first := <-held
	if err := write(first); err != nil {
		t.Errorf("the holder got %v", err)
	}
	// Renewing moves the time and nothing else.
	if err := change(t.Context(), d, `UPDATE lease SET until = until + 1`); err != nil {
		t.Fatal(err)
	}
	if err := write(first); err != nil {
		t.Errorf("the holder got %v after a renewal", err)
	}
	stop()
	stop = lead()
	second := <-held
	if second.Epoch() <= first.Epoch() {
		t.Errorf("the epoch went from %d to %d", first.Epoch(), second.Epoch())
	}
	if err := write(first); !errs.Is(err, errs.Unavailable) {
		t.Errorf("the former holder got %v", err)
	}
	if err := write(second); err != nil {
		t.Errorf("the present holder got %v", err)
	}
	if err := change(t.Context(), d, `UPDATE lease SET holder = 'thief', epoch = epoch + 1`); err != nil {
		t.Fatal(err)
	}
	if err := write(second); !errs.Is(err, errs.Unavailable) {
		t.Errorf("who was robbed got %v", err)
	}
	stop()
	if _, total := sum(t, d); total != 3 {
		t.Errorf("%d writes under the lease, want 3", total)
	}
}

func testSnapshot(t *testing.T, d *db.DB) {
	if err := change(t.Context(), d, addItem, 1, octets(1), 1, []byte{}, ""); err != nil {
		t.Fatal(err)
	}
	read := func(ctx context.Context, tx *db.Tx) (n int64, err error) {
		_, err = tx.Get(ctx, []any{&n}, `SELECT n FROM item WHERE cell = 1`)
		return n, err
	}
	if err := d.View(t.Context(), func(ctx context.Context, tx *db.Tx) error {
		before, err := read(ctx, tx)
		if err != nil {
			return err
		}
		if err := change(ctx, d, `UPDATE item SET n = n + 1`); err != nil {
			return err
		}
		after, err := read(ctx, tx)
		if err == nil && before != after {
			err = fmt.Errorf("the look saw %d and then %d", before, after)
		}
		return err
	}); err != nil {
		t.Error(err)
	}
	if err := d.View(t.Context(), func(ctx context.Context, tx *db.Tx) error {
		_, err := tx.Exec(ctx, `UPDATE item SET n = 0`)
		return err
	}); err == nil {
		t.Error("a look wrote")
	}
}
