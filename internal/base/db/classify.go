package db

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"mooring/internal/base/errs"
)

// class says what a failed statement or commit left behind, and so what may be done next.
type class uint8

const (
	classBug     class = iota // a wrong statement: ours to mend, never to repeat
	classRetry                // certainly not executed: run the same again
	classData                 // the data violate a constraint or type
	classPlace                // the place is bad: disk full, server in recovery, connection refused; not committed
	classUnknown              // the commit may or may not have happened
	classGivenUp              // the caller's context ended before the commit was sent
	classFenced               // the stream's row did not move: the batch is done, or the stream closed
)

// storeError is any failure of the engine.
type storeError struct {
	class  class
	unique bool // a unique or primary key was violated
	cause  error
}

func (e *storeError) Error() string { return e.cause.Error() }
func (e *storeError) Unwrap() error { return e.cause }

func classOf(err error) (class, bool) {
	var e *storeError
	if errors.As(err, &e) {
		return e.class, true
	}
	return 0, false
}

// IsConflict reports whether err says that a unique or primary key was violated.
func IsConflict(err error) bool {
	var e *storeError
	return errors.As(err, &e) && e.unique
}

// tries bounds how often a transaction that certainly did not happen is run: for some four seconds. Sixty-four writers of ten rows with
// serialisable isolation need more than a dozen, and more on a busy machine.
const tries = 40

// retry runs try until it succeeds, fails for good, or was tried often enough. What it returns has a kind when the store is at fault.
func (d *DB) retry(ctx context.Context, try func() error) error {
	for n := 1; ; n++ {
		err := try()
		c, ours := classOf(err)
		switch {
		case err == nil:
			return nil
		case !ours:
			return err
		case c == classRetry && n < tries && !errs.Is(err, errs.Unavailable): // with that kind it was tried often enough already
			if err := pause(ctx, n); err != nil {
				return err
			}
		default:
			return outward(err)
		}
	}
}

// outward gives a store's error the kind that a caller can act on.
func outward(err error) error {
	c, ours := classOf(err)
	if !ours {
		return err
	}
	switch {
	case c == classData, c == classBug:
		return err
	case c == classGivenUp:
		return errs.Wrap(errs.Unavailable, err, "the request was given up before it was stored")
	case placeIsBad(err):
		return errs.WithRetry(errs.Wrap(errs.Unavailable, err, "the store cannot be read or written at present"), 5*time.Second)
	}
	return errs.WithRetry(errs.Wrap(errs.Unavailable, err, "the store is busy"), time.Second)
}

// placeIsBad reports whether a bad place is at the bottom of err, also under an outcome that is unknown: a full disk must not be taken for a
// busy store.
func placeIsBad(err error) bool {
	for {
		var e *storeError
		if !errors.As(err, &e) {
			return false
		}
		if e.class == classPlace {
			return true
		}
		err = e.cause
	}
}

// pause waits 2 to 200 ms, growing and with jitter, before the n-th repetition: who was refused often had better leave the others time to finish.
func pause(ctx context.Context, n int) error {
	limit := min(200*time.Millisecond, 4*time.Millisecond<<min(n, 6))
	t := time.NewTimer(2*time.Millisecond + rand.N(limit))
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return errs.Wrap(errs.Unavailable, ctx.Err(), "the request was given up while the store was busy")
	}
}
