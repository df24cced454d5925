package db_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"sync"
	"testing"

	"mooring/internal/base/db"
	"mooring/internal/base/db/dbtest"
	"mooring/internal/base/errs"
)

func TestDeferredStatements(t *testing.T) {
	d := dbtest.Open(t, schema())
	row := func(n int) *db.Stmt { return &db.Stmt{SQL: insert, Args: []any{1, id(n), n, ""}} }
	own := errors.New("its own")
	for _, c := range []struct {
		name string
		do   func(ctx context.Context, tx *db.Tx) error
		rows int // in all, after it
		is   func(error) bool
	}{
		{"nothing else", func(_ context.Context, tx *db.Tx) error { tx.Defer(row(1), row(2)); return nil }, 2, func(err error) bool { return err == nil }},
		{"after others, though left before", func(ctx context.Context, tx *db.Tx) error {
			tx.Defer(&db.Stmt{SQL: `UPDATE thing SET n = 4 WHERE cell = $1 AND id = $2`, Args: []any{1, id(3)}})
			return tx.Send(ctx, row(3))
		}, 3, func(err error) bool { return err == nil }},
		{"one that cannot be", func(ctx context.Context, tx *db.Tx) error {
			tx.Defer(row(5), row(1), row(6))
			return tx.Send(ctx, row(4))
		}, 3, db.IsConflict},
		{"a wrong one", func(_ context.Context, tx *db.Tx) error {
			tx.Defer(row(5), &db.Stmt{SQL: `INSERT INTO nowhere (n) VALUES (1)`})
			return nil
		}, 3, func(err error) bool { return err != nil && errs.KindOf(err) == errs.Internal }},
		{"a function that fails", func(_ context.Context, tx *db.Tx) error { tx.Defer(row(5)); return own }, 3, func(err error) bool { return errors.Is(err, own) }},
		{"and on it goes", func(_ context.Context, tx *db.Tx) error { tx.Defer(row(5)); return nil }, 4, func(err error) bool { return err == nil }},
	} {
		t.Run(c.name, func(t *testing.T) {
			committed := false
			err := d.Do(t.Context(), func(ctx context.Context, tx *db.Tx) error {
				tx.OnCommit(func() { committed = true })
				return c.do(ctx, tx)
			})
			if !c.is(err) || committed != (err == nil) {
				t.Errorf("got %v, committed: %t", err, committed)
			}
			if n := count(t, d); n != c.rows {
				t.Errorf("%d rows, want %d", n, c.rows)
			}
		})
	}
	var n int64
	if err := d.View(t.Context(), func(ctx context.Context, tx *db.Tx) error {
		_, err := tx.Get(ctx, []any{&n}, `SELECT n FROM thing WHERE cell = $1 AND id = $2`, 1, id(3))
		return err
	}); err != nil || n != 4 {
		t.Errorf("the row has %d, %v, want 4: what is deferred comes last", n, err)
	}
}

// TestArrays: what goes in as an array comes out as rows.
func TestArrays(t *testing.T) {
	d := dbtest.Open(t, schema())
	if !d.Arrays() {
		t.Skip("this engine has no arrays")
	}
	type row struct {
		octets string
		text   string
		large  int64
		small  int16
	}
	const many = 300
	wide := make([]row, many)
	for i := range wide {
		wide[i] = row{string(make([]byte, i)), fmt.Sprint(i), int64(i) << 40, int16(-i)}
	}
	for name, want := range map[string][]row{
		"none": {}, "one": {{"\x00\xff", "ä\\\"{},", math.MaxInt64, math.MinInt16}}, "empty ones": {{}, {"", "", math.MinInt64, math.MaxInt16}}, "many": wide,
	} {
		t.Run(name, func(t *testing.T) {
			octets, text, large, small := make([][]byte, len(want)), make([]string, len(want)), make([]int64, len(want)), make([]int16, len(want))
			for i, r := range want {
				if r.octets != "" { // else nil
					octets[i] = []byte(r.octets)
				}
				text[i], large[i], small[i] = r.text, r.large, r.small
			}
			got := []row{}
			err := d.View(t.Context(), func(ctx context.Context, tx *db.Tx) error {
				return tx.Each(ctx, func(out db.Row) error {
					var r row
					var b []byte
					err := out.Scan(&b, &r.text, &r.large, &r.small)
					r.octets = string(b)
					got = append(got, r)
					return err
				}, `SELECT * FROM unnest($1::bytea[], $2::text[], $3::bigint[], $4::smallint[])`, octets, text, large, small)
			})
			if err != nil || !slices.Equal(got, want) {
				t.Errorf("got %v, %v, want %v", got, err, want)
			}
		})
	}
	var sum int64
	if err := d.View(t.Context(), func(ctx context.Context, tx *db.Tx) error { // of another width than the array's
		_, err := tx.Get(ctx, []any{&sum}, `SELECT sum(n)::bigint FROM unnest($1::smallint[]) AS t(n)`, []int64{1, 2, -5})
		return err
	}); err != nil || sum != -2 {
		t.Errorf("the sum is %d, %v, want -2", sum, err)
	}
}

// TestFollow: what follows a commit sees it, and its failure takes nothing back.
func TestFollow(t *testing.T) {
	d := dbtest.Open(t, schema())
	row := func(n int) *db.Stmt { return &db.Stmt{SQL: insert, Args: []any{1, id(n), n, ""}} }
	var seen int64
	look := func() *db.Stmt {
		seen = 0
		return &db.Stmt{SQL: `SELECT n FROM thing`, Each: func(r db.Row) error { seen++; return r.Scan(new(int64)) }}
	}
	zero := &db.Stmt{SQL: `SELECT 1 / $1`, Args: []any{int64(0)}, Each: func(db.Row) error { return nil }}
	for _, c := range []struct {
		name     string
		do       func(tx *db.Tx, done func()) error
		rows     int // in all, after it
		answered bool
		fails    bool
	}{
		{"a look", func(tx *db.Tx, done func()) error { tx.Defer(row(1)); tx.Follow(done, look()); return nil }, 1, true, false},
		{"two looks behind what was sent", func(tx *db.Tx, done func()) error {
			tx.Follow(done, look(), look())
			return tx.Send(t.Context(), row(2))
		}, 2, true, false},
		{"one that fails", func(tx *db.Tx, done func()) error { tx.Defer(row(3)); tx.Follow(done, zero, look()); return nil }, 3, false, false},
		{"one whose rows cannot be read", func(tx *db.Tx, done func()) error {
			bad := look()
			bad.Each = func(db.Row) error { return errors.New("no") }
			tx.Defer(row(4))
			tx.Follow(done, bad, look())
			return nil
		}, 4, false, false},
		{"one that cannot be sent", func(tx *db.Tx, done func()) error {
			bad := look()
			bad.SQL, bad.Args = `SELECT n FROM thing WHERE n = $1`, []any{struct{}{}}
			tx.Defer(row(6))
			tx.Follow(done, look(), bad)
			return nil
		}, 5, false, false},
		{"behind a statement that fails", func(tx *db.Tx, done func()) error { tx.Defer(row(5), row(1)); tx.Follow(done, look()); return nil }, 5, false, true},
		{"behind a function that fails", func(tx *db.Tx, done func()) error { tx.Defer(row(5)); tx.Follow(done, look()); return errors.New("no") }, 5, false, true},
		{"and on it goes", func(tx *db.Tx, done func()) error { tx.Defer(row(5)); tx.Follow(done, look()); return nil }, 6, true, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			answered, committed := 0, 0
			err := d.Do(t.Context(), func(ctx context.Context, tx *db.Tx) error {
				tx.OnCommit(func() { committed++ })
				return c.do(tx, func() { answered++ })
			})
			if (err != nil) != c.fails || (committed == 1) == c.fails {
				t.Errorf("got %v, committed: %d", err, committed)
			}
			if want := c.answered && d.Arrays(); (answered == 1) != want || want && int(seen)%c.rows != 0 || want && seen == 0 {
				t.Errorf("answered %d times, %d rows seen, want %t of %d rows", answered, seen, want, c.rows)
			}
			if n := count(t, d); n != c.rows {
				t.Errorf("%d rows, want %d", n, c.rows)
			}
		})
	}
}

// TestArgumentsThatCannotBeEncoded: what is wrong with the arguments of a statement is a bug of who wrote it, and no broken connection. It is tried once, and who
// shares a batch with it does not share its fate.
func TestArgumentsThatCannotBeEncoded(t *testing.T) {
	wrong := map[string]any{"no type of a database": struct{}{}, "not a number": []string{"1"}}
	d := dbtest.Open(t, schema())
	if d.Arrays() { // the others have columns of any size
		wrong["a number that is too great"] = int64(1) << 40
	}
	good := func(n int) *db.Stmt { return &db.Stmt{SQL: insert, Args: []any{1, id(n), n, ""}} }
	for name, value := range wrong {
		bad := &db.Stmt{SQL: insert, Args: []any{value, id(2), 2, ""}}
		for how, do := range map[string]func(ctx context.Context, tx *db.Tx) error{
			"sent":                     func(ctx context.Context, tx *db.Tx) error { return tx.Send(ctx, good(1), bad) },
			"alone":                    func(ctx context.Context, tx *db.Tx) error { _, err := tx.Exec(ctx, bad.SQL, bad.Args...); return err },
			"deferred":                 func(_ context.Context, tx *db.Tx) error { tx.Defer(good(1), bad); return nil },
			"deferred, after one sent": func(ctx context.Context, tx *db.Tx) error { tx.Defer(bad); return tx.Send(ctx, good(1)) },
		} {
			t.Run(name+"/"+how, func(t *testing.T) {
				tries := 0
				err := d.Do(t.Context(), func(ctx context.Context, tx *db.Tx) error { tries++; return do(ctx, tx) })
				if err == nil || errs.KindOf(err) != errs.Internal || tries != 1 {
					t.Errorf("%v after %d tries, want an internal error after one", err, tries)
				}
				if n := count(t, d); n != 0 {
					t.Errorf("%d rows, want none", n)
				}
			})
		}
		t.Run(name+"/among others of a group", func(t *testing.T) {
			d := dbtest.Open(t, schema())
			g := db.NewGroup(d, db.Plan[int]{Key: func(n int) db.Key { return db.Key{ID: [16]byte(id(n))} },
				Apply: func(_ context.Context, tx *db.Tx, batch []int) ([]error, error) {
					for _, n := range batch {
						s := good(n)
						if n == 5 {
							s.Args[0] = value
						}
						tx.Defer(s)
					}
					return nil, nil
				}})
			answers := make([]error, 9)
			var all sync.WaitGroup
			for n := range answers {
				all.Go(func() { defer g.Expect()(); answers[n] = g.Do(t.Context(), n) })
			}
			run(t, g)
			all.Wait()
			for n, err := range answers {
				if (err != nil) != (n == 5) || errs.Is(err, errs.Unavailable) {
					t.Errorf("item %d: %v", n, err)
				}
			}
			if n := count(t, d); n != len(answers)-1 {
				t.Errorf("%d rows, want %d", n, len(answers)-1)
			}
		})
	}
}

// TestOptimismThatWasWrong: what an optimist sent is gone, and the same batch is applied once more.
func TestOptimismThatWasWrong(t *testing.T) {
	d := dbtest.Open(t, schema())
	var hopes []bool
	g := db.NewGroup(d, db.Plan[int]{
		Key: func(n int) db.Key { return db.Key{ID: [16]byte(id(n))} },
		Apply: func(ctx context.Context, tx *db.Tx, batch []int) ([]error, error) {
			hopes = append(hopes, tx.Optimistic())
			for _, n := range batch {
				tx.Defer(&db.Stmt{SQL: insert, Args: []any{1, id(n), n, ""}})
			}
			if tx.Optimistic() {
				if err := tx.Send(ctx, &db.Stmt{SQL: insert, Args: []any{1, id(100), 0, ""}}); err != nil {
					return nil, err
				}
				return nil, db.ErrPessimist
			}
			return nil, nil
		}})
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- g.Run(ctx) }()
	err := g.Do(t.Context(), 1)
	stop()
	if err := errors.Join(err, <-ended); err != nil {
		t.Fatal(err)
	}
	want := []bool{false}
	if d.Arrays() {
		want = []bool{true, false}
	}
	if !slices.Equal(hopes, want) || count(t, d) != 1 {
		t.Errorf("optimism: %v, want %v; %d rows, want 1", hopes, want, count(t, d))
	}
}

// Of a statement of many rows that fails in the middle nothing stays, whatever the function makes of its error.
func TestManyRowsOrNone(t *testing.T) {
	d := dbtest.Open(t, schema())
	rows := []any{1, id(1), 0, "", 1, id(2), 0, "", 1, id(2), 0, ""}
	for name, swallow := range map[string]bool{"returned": false, "swallowed": true} {
		err := d.Do(t.Context(), func(ctx context.Context, tx *db.Tx) error {
			if _, err := tx.Exec(ctx, `INSERT INTO thing (cell, id, n, note) VALUES `+db.Values("", 4, 3), rows...); err != nil && !swallow {
				return err
			}
			return nil
		})
		if !db.IsConflict(err) {
			t.Errorf("%s: got %v, want a conflict", name, err)
		}
		if n := count(t, d); n != 0 {
			t.Errorf("%s: %d rows are left", name, n)
		}
	}
}
