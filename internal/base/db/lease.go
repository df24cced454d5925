package db

import (
	"context"
	"crypto/rand"
	"log/slog"
	"time"

	"mooring/internal/base/errs"
)

// Lease is the right to do a thing that must be done by one process at a time. Its safety rests on the epoch alone: every transaction done
// under the lease calls Fence first, and fails when somebody else has taken the lease since. The clock serves liveness only.
type Lease struct {
	name   string
	holder string
	epoch  int64
}

// term is how long a lease holds without renewal; skew is what the clocks of two nodes may differ.
const (
	term     = 10 * time.Second
	skew     = 2 * time.Second
	renewals = 3 // in a term
)

// Epoch returns the fencing number, which grows with every change of holder.
func (l *Lease) Epoch() int64 { return l.epoch }

// Fence is the first statement of every transaction done under the lease. It fails with kind Unavailable when the lease is lost.
// It is a write, so that it locks the row on every engine; a plain SELECT would be a race.
func (l *Lease) Fence(ctx context.Context, tx *Tx) error {
	n, err := tx.Exec(ctx, `UPDATE lease SET until = until WHERE cell = 0 AND name = $1 AND holder = $2 AND epoch = $3`, l.name, l.holder, l.epoch)
	if err != nil {
		return err
	}
	if n != 1 {
		return errs.New(errs.Unavailable, "the lease %q was lost", l.name)
	}
	return nil
}

// Lead runs fn whenever this process holds the lease called name, until ctx ends. fn's context ends when the lease is lost; fn is run again
// after it returned, not sooner than a second later, and its errors are logged. Lead returns nil when ctx ends.
func (d *DB) Lead(ctx context.Context, name string, fn func(ctx context.Context, l *Lease) error) error {
	holder := d.node + "/" + rand.Text()
	for {
		try, cancel := context.WithTimeout(ctx, term/2) // a server that hangs must not be waited for, but asked again
		l, err := d.take(try, name, holder)
		cancel()
		if err != nil && ctx.Err() == nil {
			d.log.LogAttrs(ctx, slog.LevelWarn, "a lease could not be asked for", slog.String("lease", name), slog.Any("cause", err))
		}
		if l != nil {
			d.hold(ctx, l, fn)
		}
		wait := time.Second
		if l == nil {
			wait = term / renewals
		}
		if !sleep(ctx, wait) {
			return nil
		}
	}
}

// hold runs fn and renews the lease beside it.
func (d *DB) hold(ctx context.Context, l *Lease, fn func(ctx context.Context, l *Lease) error) {
	defer d.release(ctx, l)
	held, cancel := context.WithCancel(ctx)
	renewed := make(chan struct{})
	defer func() { <-renewed }()
	defer cancel()
	go func() {
		defer close(renewed)
		defer cancel()
		d.keep(held, l)
	}()
	if err := fn(held, l); err != nil && ctx.Err() == nil {
		d.log.LogAttrs(ctx, slog.LevelWarn, "work under a lease stopped", slog.String("lease", l.name), slog.Any("cause", err))
	}
}

// keep renews the lease until ctx ends or the lease is lost: somebody else has it, or no renewal went through for a whole term.
func (d *DB) keep(ctx context.Context, l *Lease) {
	for failed := 0; failed < renewals && sleep(ctx, term/renewals); {
		try, cancel := context.WithTimeout(ctx, term/renewals)
		ok, err := d.renew(try, l)
		cancel()
		switch {
		case err != nil:
			failed++
		case !ok:
			return
		default:
			failed = 0
		}
	}
}

func (d *DB) take(ctx context.Context, name, holder string) (*Lease, error) {
	now := d.now().Unix()
	l := &Lease{name: name, holder: holder}
	var found bool
	// The holder's name is this call's alone: when it stands there already, an earlier attempt was committed without our learning of it.
	err := d.write(ctx, func(ctx context.Context, tx *Tx) (err error) {
		found, err = tx.Get(ctx, []any{&l.epoch}, `INSERT INTO lease (cell, name, holder, epoch, until) VALUES (0, $1, $2, 1, $3)
			ON CONFLICT (cell, name) DO UPDATE SET holder = excluded.holder, epoch = lease.epoch + 1, until = excluded.until
			WHERE lease.until < $4 OR lease.holder = excluded.holder RETURNING epoch`, name, holder, now+int64(term.Seconds()), now-int64(skew.Seconds()))
		return err
	})
	if err != nil || !found {
		return nil, err
	}
	return l, nil
}

func (d *DB) renew(ctx context.Context, l *Lease) (bool, error) {
	var n int64
	err := d.write(ctx, func(ctx context.Context, tx *Tx) (err error) {
		n, err = tx.Exec(ctx, `UPDATE lease SET until = $4 WHERE cell = 0 AND name = $1 AND holder = $2 AND epoch = $3`,
			l.name, l.holder, l.epoch, d.now().Add(term).Unix())
		return err
	})
	return n == 1, err
}

// release gives the lease back, so that a successor need not wait for its end. Failing to costs only that wait.
func (d *DB) release(ctx context.Context, l *Lease) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
	defer cancel()
	err := d.write(ctx, func(ctx context.Context, tx *Tx) error {
		_, err := tx.Exec(ctx, `UPDATE lease SET until = 0 WHERE cell = 0 AND name = $1 AND holder = $2 AND epoch = $3`, l.name, l.holder, l.epoch)
		return err
	})
	if err != nil {
		d.log.LogAttrs(ctx, slog.LevelDebug, "a lease was not given back", slog.String("lease", l.name), slog.Any("cause", err))
	}
}

// sleep waits for d and reports whether ctx is still alive.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
