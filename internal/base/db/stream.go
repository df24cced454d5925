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
//   - a batch takes the number seq by moving stream.next from seq to seq+1, as its first statement, in its own transaction;
//   - when that changes no row, the batch is done already (next is seq+1), or somebody closed the stream (closed is 1, next is seq) and it can
//     never be committed there, so the same batch runs under a new stream;
//   - after a commit of unknown outcome the row is written, not only read. A read could see a commit that a standby never received; a commit
//     that writes waits for its own, later place in the log and so covers the earlier one.
type stream struct {
	db   *DB
	id   [8]byte
	next int64 // 0 before the row exists
}

func newStream(d *DB) *stream { return &stream{db: d} }

// open inserts a fresh row.
func (s *stream) open(ctx context.Context) error {
	var id [8]byte
	rand.Read(id[:])
	err := s.db.write(ctx, func(ctx context.Context, tx *Tx) error {
		_, err := tx.Exec(ctx, `INSERT INTO stream (cell, stream, node, next, checked, closed) VALUES (0, $1, $2, 1, 0, 0)`, id[:], s.db.node)
		return err
	})
	if err != nil {
		return fmt.Errorf("opening a stream: %w", err)
	}
	s.id, s.next = id, 1
	s.db.mu.Lock()
	s.db.opened = append(s.db.opened, s)
	s.db.mu.Unlock()
	return nil
}

// end closes the row, so that whoever reads the stream knows that no more will come.
func (s *stream) end(ctx context.Context) error {
	if s.next == 0 {
		return nil
	}
	return s.db.write(ctx, func(ctx context.Context, tx *Tx) error {
		_, err := tx.Exec(ctx, `UPDATE stream SET closed = 1 WHERE cell = 0 AND stream = $1`, s.id[:])
		return err
	})
}

// fate is what became of a batch.
type fate uint8

const (
	fateOpen   fate = iota // not committed, and may still be
	fateDone               // committed
	fateClosed             // not committed, and never will be under this stream
)

// run commits fn as the next batch, exactly once.
func (s *stream) run(ctx context.Context, fn func(ctx context.Context, tx *Tx) error) error {
	if s.next == 0 {
		if err := s.open(ctx); err != nil {
			return err
		}
	}
	var last *Tx // of the attempt whose outcome is being asked for
	err := s.db.retry(ctx, func() error {
		tx, err := s.attempt(ctx, fn)
		if tx != nil {
			last = tx
		}
		c, ours := classOf(err)
		if !ours || c != classUnknown && c != classFenced {
			return err
		}
		f, err := s.resolve(ctx)
		switch {
		case err != nil:
			return err
		case f == fateDone:
			return nil
		case f == fateClosed:
			if err := s.open(ctx); err != nil {
				return err
			}
		}
		return &storeError{class: classRetry, cause: fmt.Errorf("batch %s/%d was not committed", hex.EncodeToString(s.id[:]), s.next)}
	})
	if err == nil {
		s.next++
		last.committed()
		s.db.noteFault(nil)
		return nil
	}
	if c, ours := classOf(err); ours && (c == classPlace || c == classUnknown) {
		s.db.noteFault(err)
	}
	return err
}

// attempt runs fn once. The Tx is returned when the commit was sent, since its outcome may be asked for.
func (s *stream) attempt(ctx context.Context, fn func(ctx context.Context, tx *Tx) error) (*Tx, error) {
	ses, err := s.db.engine.begin(ctx, true)
	if err != nil {
		return nil, err
	}
	tx := &Tx{session: ses, arrays: s.db.engine.arrays(), batch: BatchID{s.id, s.next}}
	n, err := ses.exec(ctx, `UPDATE stream SET next = next + 1 WHERE cell = 0 AND stream = $1 AND next = $2 AND closed = 0`, []any{s.id[:], s.next})
	if err == nil && n != 1 {
		err = &storeError{class: classFenced, cause: fmt.Errorf("stream %s did not stand at %d", hex.EncodeToString(s.id[:]), s.next)}
	}
	if err == nil {
		err = fn(ctx, tx)
	}
	if err != nil {
		ses.rollback()
		return nil, err
	}
	return tx, ses.commit(ctx)
}

// resolve asks what became of the batch at s.next.
func (s *stream) resolve(ctx context.Context) (fate, error) {
	// A caller that went away must not leave the outcome open.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	var next, closed int64
	err := s.db.write(ctx, func(ctx context.Context, tx *Tx) error {
		if _, err := tx.Exec(ctx, `UPDATE stream SET checked = checked + 1 WHERE cell = 0 AND stream = $1`, s.id[:]); err != nil {
			return err
		}
		_, err := tx.Get(ctx, []any{&next, &closed}, `SELECT next, closed FROM stream WHERE cell = 0 AND stream = $1`, s.id[:])
		return err
	})
	switch {
	case err != nil:
		return fateOpen, fmt.Errorf("asking what became of a batch: %w", err)
	case next == s.next+1:
		return fateDone, nil
	case next != s.next:
		return fateOpen, fmt.Errorf("stream %s stands at %d, this process is at %d: the database was changed from outside or restored", hex.EncodeToString(s.id[:]), next, s.next)
	case closed != 0:
		return fateClosed, nil
	}
	return fateOpen, nil
}
