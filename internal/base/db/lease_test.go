package db_test

import (
	"context"
	"path/filepath"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"mooring/internal/base/db"
	"mooring/internal/base/db/dbtest"
)

// leading runs Lead in the background until the returned function is called, which waits for its end. held gets a lease each time.
func leading(t *testing.T, d *db.DB, held chan<- *db.Lease) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- d.Lead(ctx, "job", func(ctx context.Context, l *db.Lease) error {
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

func change(t *testing.T, d *db.DB, sql string, args ...any) {
	t.Helper()
	if err := d.Do(t.Context(), func(ctx context.Context, tx *db.Tx) error {
		_, err := tx.Exec(ctx, sql, args...)
		return err
	}); err != nil {
		t.Fatal(err)
	}
}

// In a bubble the clock jumps, and SQLite does its work within the goroutine that asks for it.
func TestLeaseMovesOn(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.db")
	synctest.Test(t, func(t *testing.T) {
		d := dbtest.OpenURL(t, "sqlite:"+path)
		start := time.Now()

		// A holder that crashed: its row stands there for a term of ten seconds, and two more are allowed for the clocks.
		change(t, d, `INSERT INTO lease (cell, name, holder, epoch, until) VALUES (0, 'job', 'dead', 7, $1)`, start.Add(10*time.Second).Unix())
		first := make(chan *db.Lease, 1)
		stopFirst := leading(t, d, first)
		l := <-first
		if waited := time.Since(start); l.Epoch() != 8 || waited < 12*time.Second || waited > 17*time.Second {
			t.Errorf("a dead holder's lease was taken after %v with epoch %d, want 12 to 17 seconds and 8", waited, l.Epoch())
		}

		// A holder that lives renews, for as long as it likes.
		second := make(chan *db.Lease, 1)
		stopSecond := leading(t, d, second)
		time.Sleep(5 * time.Minute)
		select {
		case l := <-second:
			t.Errorf("a second one holds the lease with epoch %d", l.Epoch())
		default:
		}

		// A holder that goes hands it over within a third of a term.
		released := time.Now()
		stopFirst()
		if l = <-second; l.Epoch() != 9 || time.Since(released) > 4*time.Second {
			t.Errorf("a released lease was taken after %v with epoch %d", time.Since(released), l.Epoch())
		}

		// A holder that was robbed notices at its next renewal, and stands in line again.
		change(t, d, `UPDATE lease SET holder = 'thief', epoch = epoch + 1, until = $1`, time.Now().Add(10*time.Second).Unix())
		robbed := time.Now()
		if l = <-second; l.Epoch() != 11 || time.Since(robbed) < 12*time.Second || time.Since(robbed) > 17*time.Second {
			t.Errorf("a stolen lease came back after %v with epoch %d", time.Since(robbed), l.Epoch())
		}
		stopSecond()
	})
}

func TestLeaseEndsWhenItCannotBeRenewed(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.db")
	synctest.Test(t, func(t *testing.T) {
		d := dbtest.OpenURL(t, "sqlite:"+path)
		held := make(chan *db.Lease, 1)
		var ended atomic.Int64
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		done := make(chan error, 1)
		start := time.Now()
		go func() {
			done <- d.Lead(ctx, "job", func(ctx context.Context, l *db.Lease) error {
				held <- l
				<-ctx.Done()
				ended.CompareAndSwap(0, int64(time.Since(start)))
				return nil
			})
		}()
		<-held
		if err := d.Do(t.Context(), func(context.Context, *db.Tx) error {
			time.Sleep(time.Minute) // the only writer is busy
			return nil
		}); err != nil {
			t.Error(err)
		}
		if at := time.Duration(ended.Load()); at == 0 || at > 25*time.Second {
			t.Errorf("the work under a lease that could not be renewed ended after %v", at)
		}
		<-held // and it comes back
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}
