package db_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"testing"
	"time"

	"mooring/internal/base/db"
	"mooring/internal/base/db/dbtest"
	"mooring/internal/base/errs"
)

func put(d *db.DB, n int) func(ctx context.Context) error {
	return func(ctx context.Context) error {
		return d.Do(ctx, func(ctx context.Context, tx *db.Tx) error {
			_, err := tx.Exec(ctx, insert, 1, id(n), n, "")
			return err
		})
	}
}

func TestPanicsRollBackAndFreeEverything(t *testing.T) {
	d := dbtest.Open(t, schema())
	panicking := func(run func(context.Context, func(context.Context, *db.Tx) error) error, fn func(context.Context, *db.Tx)) {
		t.Helper()
		defer func() {
			if got := recover(); got != "bug" {
				t.Errorf("recovered %v, want the function's own panic", got)
			}
		}()
		_ = run(t.Context(), func(ctx context.Context, tx *db.Tx) error { fn(ctx, tx); panic("bug") })
	}
	for n := range 40 { // more than there are connections and streams
		panicking(d.Do, func(ctx context.Context, tx *db.Tx) {
			if _, err := tx.Exec(ctx, insert, 1, id(n), 0, ""); err != nil {
				t.Error(err)
			}
		})
		panicking(d.View, func(ctx context.Context, tx *db.Tx) {})
		panicking(d.Do, func(ctx context.Context, tx *db.Tx) {
			_ = tx.Send(ctx, &db.Stmt{SQL: insert, Args: []any{2, id(n), 0, ""}}, &db.Stmt{SQL: `SELECT 1`, Each: func(db.Row) error { panic("bug") }})
		})
	}
	// A goroutine that is ended in the middle, as t.Fatal does, is no different.
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			_ = d.Do(t.Context(), func(context.Context, *db.Tx) error { runtime.Goexit(); return nil })
		})
	}
	wg.Wait()
	if err := put(d, 100)(t.Context()); err != nil {
		t.Error(err)
	}
	if n := count(t, d); n != 1 {
		t.Errorf("%d rows, want 1", n)
	}
}

func TestSwallowedFailureIsNoSuccess(t *testing.T) {
	d := dbtest.Open(t, schema())
	if err := put(d, 1)(t.Context()); err != nil {
		t.Fatal(err)
	}
	err := d.Do(t.Context(), func(ctx context.Context, tx *db.Tx) error {
		if _, err := tx.Exec(ctx, insert, 1, id(2), 0, ""); err != nil {
			return err
		}
		_, _ = tx.Exec(ctx, insert, 1, id(1), 0, "") // a duplicate
		_, _ = tx.Exec(ctx, insert, 1, id(3), 0, "")
		return nil
	})
	if !db.IsConflict(err) {
		t.Errorf("got %v, want the conflict that the function ignored", err)
	}
	if n := count(t, d); n != 1 {
		t.Errorf("%d rows, want 1", n)
	}
}

func TestStatementsDoNotNest(t *testing.T) {
	d := dbtest.Open(t, schema())
	if err := put(d, 1)(t.Context()); err != nil {
		t.Fatal(err)
	}
	err := d.View(t.Context(), func(ctx context.Context, tx *db.Tx) error {
		return tx.Each(ctx, func(db.Row) error {
			_, err := tx.Get(ctx, nil, `SELECT 1`)
			return err
		}, `SELECT n FROM thing`)
	})
	if err == nil || errs.Is(err, errs.Unavailable) {
		t.Errorf("got %v, want an error that is not repeated", err)
	}
}

func TestContextEndsBetweenStatements(t *testing.T) {
	d := dbtest.Open(t, schema())
	ctx, cancel := context.WithCancel(t.Context())
	err := d.Do(ctx, func(ctx context.Context, tx *db.Tx) error {
		if _, err := tx.Exec(ctx, insert, 1, id(1), 0, ""); err != nil {
			return err
		}
		cancel()
		_, err := tx.Exec(ctx, insert, 1, id(2), 0, "")
		return err
	})
	if !errs.Is(err, errs.Unavailable) || !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if n := count(t, d); n != 0 {
		t.Errorf("%d rows of a change that was given up", n)
	}
	if err := put(d, 3)(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestCloseWaitsForChangesAndTurnsLaterOnesAway(t *testing.T) {
	d, err := db.Open(t.Context(), db.Options{URL: dbtest.URL(t), Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Migrate(t.Context(), schema()); err != nil {
		t.Fatal(err)
	}
	inside, release := make(chan struct{}), make(chan struct{})
	result := make(chan error, 1)
	go func() {
		result <- d.Do(t.Context(), func(ctx context.Context, tx *db.Tx) error {
			select {
			case <-inside:
			default:
				close(inside)
			}
			<-release
			_, err := tx.Exec(ctx, insert, 1, id(1), 0, "")
			return err
		})
	}()
	<-inside
	closed := make(chan error, 1)
	go func() { closed <- d.Close(t.Context()) }()
	close(release)
	if err := <-result; err != nil {
		t.Errorf("the change under way got %v", err)
	}
	if err := <-closed; err != nil {
		t.Errorf("closing: %v", err)
	}
	if err := put(d, 2)(t.Context()); !errs.Is(err, errs.Unavailable) {
		t.Errorf("a change after Close got %v", err)
	}
	if err := d.View(t.Context(), func(context.Context, *db.Tx) error { return nil }); !errs.Is(err, errs.Unavailable) {
		t.Errorf("a look after Close got %v", err)
	}
	if err := d.Close(t.Context()); err != nil {
		t.Errorf("closing again: %v", err)
	}
}

func TestCloseDoesNotWaitForEver(t *testing.T) {
	d := dbtest.Open(t, schema())
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := d.Do(t.Context(), func(context.Context, *db.Tx) error {
		if err := d.Close(ctx); !errs.Is(err, errs.Unavailable) {
			t.Errorf("closing in the middle of a change gave %v", err)
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
}

func TestStreamsAreClosedAtTheEnd(t *testing.T) {
	url := dbtest.URL(t)
	d, err := db.Open(t.Context(), db.Options{URL: url, Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Migrate(t.Context(), schema()); err != nil {
		t.Fatal(err)
	}
	g := db.NewGroup(d, ledgerPlan())
	ctx, stop := context.WithCancel(t.Context())
	stop()
	if err := errors.Join(put(d, 1)(t.Context()), g.Run(ctx), d.Close(t.Context())); err != nil {
		t.Fatal(err)
	}
	d = dbtest.OpenURL(t, url)
	if err := d.View(t.Context(), func(ctx context.Context, tx *db.Tx) error {
		all, err := tx.Streams(ctx)
		for _, s := range all {
			if !s.Closed {
				t.Errorf("stream %x stands open at %d", s.ID, s.Next)
			}
		}
		if len(all) == 0 {
			t.Error("there is no stream")
		}
		return err
	}); err != nil {
		t.Error(err)
	}
}

func TestGroupBoundsWhatItHolds(t *testing.T) {
	d := dbtest.Open(t, schema())
	var largest, total int
	g := db.NewGroup(d, db.Plan[int]{
		Key:  func(n int) db.Key { return db.Key{ID: [16]byte(id(n))} },
		Size: func(int) int { return 1 << 20 },
		Apply: func(ctx context.Context, tx *db.Tx, batch []int) ([]error, error) {
			largest = max(largest, len(batch))
			total += len(batch)
			return nil, nil
		},
	})
	ctx, cancel := context.WithCancel(t.Context())
	results := make(chan error)
	for n := range 40 {
		go func() { results <- g.Do(t.Context(), n) }()
	}
	// Nobody commits yet, so the group fills up to its 16 MiB, and the rest is turned away at once.
	for range 40 - 16 {
		if err := <-results; !errs.Is(err, errs.Limited) {
			t.Errorf("got %v, want Limited", err)
		}
	}
	done := make(chan error, 1)
	go func() { done <- g.Run(ctx) }()
	for range 16 {
		if err := <-results; err != nil {
			t.Error(err)
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if largest > 4 || total != 16 {
		t.Errorf("batches of up to %d MiB, %d items in all; want 4 and 16", largest, total)
	}
}

func TestLookupSurvivesAPanic(t *testing.T) {
	d := dbtest.Open(t, schema())
	first := true
	l := db.NewLookup(d, func(_ context.Context, _ *db.Tx, keys []int) (map[int]string, error) {
		if first {
			first = false
			panic("bug")
		}
		return map[int]string{keys[0]: fmt.Sprint(keys[0])}, nil
	})
	func() {
		defer func() {
			if recover() == nil {
				t.Error("the panic was swallowed")
			}
		}()
		_, _, _ = l.Get(t.Context(), 1)
	}()
	if v, found, err := l.Get(t.Context(), 2); v != "2" || !found || err != nil {
		t.Errorf("after a panic: %q, %v, %v", v, found, err)
	}
}
