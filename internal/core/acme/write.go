package acme

import (
	"context"

	"mooring/internal/base/db"
	"mooring/internal/base/errs"
	"mooring/internal/core/audit"
)

// write is a change of one account or order. Those of many share a commit, which is most of what a change costs, and their statements the way to
// the database. Its functions may be called again, for another transaction.
type write struct {
	row ID
	// device is set when ask locks the row of one, not row. Devices are locked in the same order everywhere.
	device db.Key
	// ask decides: it must change one row. When it changes none, again decides, which returns the refusal, and with nil has changed what ask would
	// have. An error that stems from the store is no refusal, and neither is one of again after it has changed something: that is fatal.
	ask   *db.Stmt
	again func(ctx context.Context, tx *db.Tx) error
	// also are looks that travel with ask, and are taken whether or not it changes its row. It may be nil.
	also func() []*db.Stmt
	// then are the statements that follow, last those at the end, of which nobody looks at what came of them, and entries what goes into the record; each
	// may be nil.
	then, last func() []*db.Stmt
	entries    func() []audit.Entry
	// kept is called when it is committed; it may be nil.
	kept func()
}

// fatal is an error that fails the transaction, though it is a refusal by its kind.
type fatal struct{ error }

func (f fatal) Unwrap() error { return f.error }

// key parts the rows among committers by their last octets, which are random, and devices as enrolment does.
func (w *write) key() db.Key {
	if w.device != (db.Key{}) {
		return w.device
	}
	return db.Key{Cell: w.row[len(w.row)-1], ID: w.row}
}

// commit makes a change durable. A refusal has changed nothing.
func (s *Service) commit(ctx context.Context, w *write) error { return s.writes.Do(ctx, w) }

func (s *Service) applyWrites(ctx context.Context, tx *db.Tx, batch []*write) ([]error, error) {
	asks, looks := make([]*db.Stmt, len(batch)), []*db.Stmt(nil)
	for i, w := range batch {
		asks[i] = w.ask
		if w.also != nil {
			looks = append(looks, w.also()...)
		}
	}
	if err := tx.Send(ctx, append(asks, looks...)...); err != nil {
		return nil, err
	}
	refused := make([]error, len(batch))
	var then []*db.Stmt
	for i, w := range batch {
		if w.ask.N != 1 {
			if refused[i] = w.again(ctx, tx); isFault(refused[i]) {
				return nil, refused[i]
			}
		}
		if refused[i] == nil && w.then != nil {
			then = append(then, w.then()...)
		}
	}
	if err := tx.Send(ctx, then...); err != nil {
		return nil, err
	}
	var entries []audit.Entry
	for i, w := range batch {
		if refused[i] != nil {
			continue
		}
		if w.last != nil {
			tx.Defer(w.last()...)
		}
		if w.entries != nil {
			entries = append(entries, w.entries()...)
		}
		if w.kept != nil {
			tx.OnCommit(w.kept)
		}
	}
	s.Audit.Defer(tx, entries...)
	return refused, nil
}

// isFault reports whether err is more than a refusal.
func isFault(err error) bool {
	if err == nil {
		return false
	}
	k := errs.KindOf(err)
	_, isFatal := err.(fatal)
	return isFatal || k == errs.Internal || k == errs.Unavailable
}
