package db

import (
	"context"
	"errors"
	"slices"
)

// Row is the present row of a result. Scan takes pointers to int64, int, int16, uint8, bool, string, []byte or any, in column order.
// A []byte is the caller's to keep.
type Row interface {
	Scan(dest ...any) error
}

// BatchID names one committed transaction: the Seq-th, counted from 1 and without gaps, of a stream.
type BatchID struct {
	Stream [8]byte
	Seq    int64
}

// Tx is one open transaction. It belongs to one goroutine and ends with the function that received it.
type Tx struct {
	session session
	arrays  bool
	batch   BatchID
	part    int64
	after   []func()
	last    []*Stmt // of Defer; they go with the commit
	follow  follow
	hopeful bool  // see Optimistic
	lead    *Stmt // goes before the first statement and in its round trip; nil when it was sent, or when there is none
	fence   error // what the transaction fails with when lead changes no row
	busy    bool  // rows are being read
	failed  error // of the engine; the transaction can only be rolled back
}

// Stmt is one statement of a Send. Each, when set, is called for every row; N is set to the number of rows affected.
type Stmt struct {
	SQL  string
	Args []any
	Each func(Row) error
	N    int64
}

// Exec runs a statement and returns how many rows it affected.
func (tx *Tx) Exec(ctx context.Context, sql string, args ...any) (n int64, err error) {
	if tx.lead != nil {
		st := &Stmt{SQL: sql, Args: args}
		err := tx.Send(ctx, st)
		return st.N, err
	}
	err = tx.statement(func() error {
		n, err = tx.session.exec(ctx, sql, args)
		return err
	})
	return n, err
}

// Get scans the first row into dest and reports whether there was one.
func (tx *Tx) Get(ctx context.Context, dest []any, sql string, args ...any) (found bool, err error) {
	if err := tx.Send(ctx); err != nil {
		return false, err
	}
	err = tx.statement(func() error {
		return tx.session.query(ctx, func(r Row) (bool, error) {
			found = true
			return false, r.Scan(dest...)
		}, sql, args)
	})
	return found, err
}

// Each calls fn for every row, until fn returns an error. fn runs no statement of tx: the connection is busy with the rows.
func (tx *Tx) Each(ctx context.Context, fn func(Row) error, sql string, args ...any) error {
	if tx.lead != nil {
		return tx.Send(ctx, &Stmt{SQL: sql, Args: args, Each: fn})
	}
	return tx.statement(func() error {
		return tx.session.query(ctx, func(r Row) (bool, error) { return true, fn(r) }, sql, args)
	})
}

// Send runs the statements in order, in one round trip where the engine is a server. It stops at the first error.
func (tx *Tx) Send(ctx context.Context, stmts ...*Stmt) error {
	lead := tx.lead
	if lead == nil {
		if len(stmts) == 0 {
			return nil
		}
		return tx.statement(func() error { return tx.session.send(ctx, stmts) })
	}
	return tx.statement(func() error {
		tx.lead, lead.N = nil, notRun
		err := tx.session.send(ctx, append([]*Stmt{lead}, stmts...))
		if lead.N != notRun && lead.N != 1 { // whatever became of those behind it, which should not have run
			return tx.fence
		}
		return err
	})
}

// Defer leaves statements until the commit, with which they travel in one round trip where the engine is a server: for what is written without a look at
// what came of it. They run in order, after all others; N is not set, and there must be no Each. When one fails, nothing is committed, and whoever ran the
// transaction gets the error as if the function had returned it.
func (tx *Tx) Defer(stmts ...*Stmt) { tx.last = append(tx.last, stmts...) }

// Follow has statements that only read travel behind the commit, in its round trip: they see what anybody had committed when this transaction was. done is
// called when the commit is certain and they were all answered. That is an opportunity and no promise: on SQLite, where nobody else could commit, they
// are not run, and on a server they may fail, or what became of the commit may have to be asked for. So whoever needs to know looks again when
// done was not called. There is one Follow in a transaction; the last one counts.
func (tx *Tx) Follow(done func(), stmts ...*Stmt) { tx.follow = follow{stmts, done} }

// follow is what was given to Follow. The zero value is nothing.
type follow struct {
	stmts []*Stmt
	done  func()
}

func (f follow) has(sql string) bool {
	return slices.ContainsFunc(f.stmts, func(st *Stmt) bool { return st.SQL == sql })
}

// Optimistic reports whether Apply of a Plan should send what it would do if nobody were refused, in as few round trips as it can. Where it turns out that
// somebody is, it returns ErrPessimist, and is run again in another transaction, in which Optimistic is false. It is false too where a round trip
// costs nothing.
func (tx *Tx) Optimistic() bool { return tx.hopeful && tx.arrays }

// ErrPessimist is what Apply returns when it was optimistic for nothing.
var ErrPessimist = errors.New("more was sent than may be written; run again without optimism")

// notRun is the N of a statement of which nothing is known.
const notRun = -1

// statement runs one call of the session. After an error of the engine no other is run: PostgreSQL would refuse it, and SQLite may have ended
// the transaction by itself, so that the next statement would stand alone and be durable at once.
func (tx *Tx) statement(run func() error) error {
	if tx.failed != nil {
		return tx.failed
	}
	if tx.busy {
		return &storeError{class: classBug, cause: errors.New("a statement was run while the rows of another one of the same transaction were read")}
	}
	tx.busy = true
	err := run()
	tx.busy = false
	if _, ours := classOf(err); ours {
		tx.failed = err
	}
	return err
}

// verdict returns what a function that returned err makes of its transaction: nil to commit. A failure of the engine cannot be swallowed,
// and one that only wants repeating cannot be turned into anything else.
func (tx *Tx) verdict(err error) error {
	c, _ := classOf(tx.failed)
	if tx.failed != nil && (err == nil || c == classRetry) {
		return tx.failed
	}
	return err
}

// Arrays reports whether array parameters and unnest may be used.
func (tx *Tx) Arrays() bool { return tx.arrays }

// Batch returns the identity of this transaction; the zero value when it was opened by View.
func (tx *Tx) Batch() BatchID { return tx.batch }

// Part returns 0, 1, 2, … at successive calls: a number for rows that share a BatchID.
func (tx *Tx) Part() int64 {
	tx.part++
	return tx.part - 1
}

// OnCommit has fn called once the commit is certain, in the order of registration. When the outcome of the commit could not be found out, and
// the caller got an error of kind Unavailable, fn is not called though the change may be there.
func (tx *Tx) OnCommit(fn func()) { tx.after = append(tx.after, fn) }

func (tx *Tx) committed() {
	for _, fn := range tx.after {
		fn()
	}
}
