package db

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"time"
)

// stream numbers the writing transactions of one committer. It is used by one goroutine at a time.
//
// Rules that make it work:
//   - a batch takes the number seq by moving stream.next from seq to seq+1, as its first statement, in its own transaction. It travels with the one
//     behind it; when it changes no row the transaction fails, whatever that one did;
//   - when that changes no row, the batch is done already (next is seq+1), or somebody closed the stream (closed is 1, next is seq) and it can
//     never be committed there, so the same batch runs under a new stream;
//   - after a commit of unknown outcome the row is written, not only read. A read could see a commit that a standby never received; a commit
//     that writes waits for its own, later place in the log and so covers the earlier one.
//   - a batch whose fate could not be found out leaves its stream behind: its number is never used for another batch, which would be taken
//     for done.
type stream struct {
	db    *DB
	limit time.Duration // for one attempt at a batch; 0: none
	id    [8]byte
	next  int64 // 0: there is no row to go on with
}

func newStream(d *DB, limit time.Duration) *stream { return &stream{db: d, limit: limit} }

// open inserts a fresh row.
func (s *stream) open(ctx context.Context) error {
	var id [8]byte
	rand.Read(id[:])
	s.db.mu.Lock()
	s.db.opened[id] = true
	s.db.mu.Unlock()
	err := s.db.write(ctx, func(ctx context.Context, tx *Tx) error {
		_, err := tx.Exec(ctx, `INSERT INTO stream (cell, stream, node, next, checked, closed) VALUES (0, $1, $2, 1, 0, 0)
			ON CONFLICT (cell, stream) DO UPDATE SET checked = stream.checked + 1`, id[:], s.db.node)
		return err
	})
	if err != nil {
		if c, ours := classOf(err); !ours || c != classUnknown {
			s.db.forget(id)
		}
		return fmt.Errorf("opening a stream: %w", err)
	}
	s.id, s.next = id, 1
	return nil
}

// end closes the row, if there is one.
func (s *stream) end(ctx context.Context) error {
	if s.next == 0 {
		return nil
	}
	s.next = 0
	return s.db.endStream(ctx, s.id)
}

// endStream closes a row, so that whoever reads the stream knows that no more will come.
func (d *DB) endStream(ctx context.Context, id [8]byte) error {
	err := d.write(ctx, func(ctx context.Context, tx *Tx) error {
		_, err := tx.Exec(ctx, `UPDATE stream SET closed = 1 WHERE cell = 0 AND stream = $1 AND closed = 0`, id[:])
		return err
	})
	if err != nil {
		return fmt.Errorf("closing a stream: %w", err)
	}
	d.forget(id)
	return nil
}

func (d *DB) forget(id [8]byte) {
	d.mu.Lock()
	delete(d.opened, id)
	d.mu.Unlock()
}

// fate is what became of a batch.
type fate uint8

const (
	fateOpen   fate = iota // not committed, and may still be
	fateDone               // committed
	fateClosed             // not committed, and never will be under this stream
	fateLost               // the row is not where this process left it: restored from a backup, or changed by hand
)

// run commits fn as the next batch, exactly once.
func (s *stream) run(ctx context.Context, fn func(ctx context.Context, tx *Tx) error) error {
	if s.next == 0 {
		if err := s.open(ctx); err != nil {
			return err
		}
	}
	var last *Tx     // of the attempt whose outcome is being asked for
	inDoubt := false // a COMMIT was sent and nobody knows what became of it
	err := s.db.retry(ctx, func() error {
		tx, err := s.attempt(ctx, fn)
		if tx != nil {
			last = tx
		}
		c, ours := classOf(err)
		if !ours || c != classUnknown && c != classFenced {
			return err
		}
		inDoubt = inDoubt || c == classUnknown
		f, err := s.resolve(ctx)
		if err != nil {
			return err
		}
		switch {
		case f == fateDone && last != nil:
			return nil
		case f == fateLost && last != nil:
			return fmt.Errorf("what became of batch %s/%d cannot be told: the database was restored, or changed from outside", hex.EncodeToString(s.id[:]), s.next)
		}
		inDoubt = false
		if f != fateOpen {
			// Closed under us; or moved, though no COMMIT of this batch was ever sent. Either way it is not there, and cannot come there.
			s.db.forget(s.id)
			s.next, last = 0, nil
			if err := s.open(ctx); err != nil {
				return err
			}
		}
		return &storeError{class: classRetry, cause: fmt.Errorf("batch %s/%d was not committed", hex.EncodeToString(s.id[:]), s.next)}
	})
	s.db.noteOutcome(err)
	if err != nil {
		if inDoubt {
			s.next = 0
		}
		return err
	}
	s.next++
	last.committed()
	return nil
}

// attempt runs fn once. The Tx is returned when the commit was sent, since its outcome may be asked for.
func (s *stream) attempt(ctx context.Context, fn func(ctx context.Context, tx *Tx) error) (*Tx, error) {
	own := ctx
	if s.limit != 0 {
		var cancel context.CancelFunc
		own, cancel = context.WithTimeout(ctx, s.limit)
		defer cancel()
	}
	tx, err := s.db.attempt(own, true, BatchID{s.id, s.next}, func(ctx context.Context, tx *Tx) error {
		tx.lead = &Stmt{SQL: `UPDATE stream SET next = next + 1 WHERE cell = 0 AND stream = $1 AND next = $2 AND closed = 0`, Args: []any{s.id[:], s.next}}
		tx.fence = &storeError{class: classFenced, cause: fmt.Errorf("stream %s did not stand at %d", hex.EncodeToString(s.id[:]), s.next)}
		err := fn(ctx, tx)
		if err == nil {
			err = tx.Send(ctx) // the lead, when fn had nothing to write
		}
		if tx.failed == tx.fence { // whatever fn made of it
			err = tx.fence
		}
		return err
	})
	if c, ours := classOf(err); ours && c == classGivenUp && ctx.Err() == nil {
		err = &storeError{class: classRetry, cause: err} // only this attempt took too long
	}
	return tx, err
}

// resolve asks what became of the batch at s.next.
func (s *stream) resolve(ctx context.Context) (fate, error) {
	// A caller that went away must not leave the outcome open.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.db.resolveWait)
	defer cancel()
	var next, closed int64
	err := s.db.write(ctx, func(ctx context.Context, tx *Tx) error {
		if _, err := tx.Exec(ctx, `UPDATE stream SET checked = checked + 1 WHERE cell = 0 AND stream = $1`, s.id[:]); err != nil {
			return err
		}
		next, closed = 0, 0 // stays so when the row is gone
		_, err := tx.Get(ctx, []any{&next, &closed}, `SELECT next, closed FROM stream WHERE cell = 0 AND stream = $1`, s.id[:])
		return err
	})
	switch {
	case err != nil:
		return fateOpen, fmt.Errorf("asking what became of a batch: %w", err)
	case next == s.next+1:
		return fateDone, nil
	case next != s.next:
		return fateLost, nil
	case closed != 0:
		return fateClosed, nil
	}
	return fateOpen, nil
}
