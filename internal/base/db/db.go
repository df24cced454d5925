// Package db is what every slice stands on to keep facts: transactions on SQLite (the default, by modernc.org/sqlite) and PostgreSQL 15 or
// later (by pgx), one SQL text for both, migrations by slice, group commit, batch identity and leases.
//
// How it is meant to be used. A slice writes plain SQL with $1 parameters in the common subset, hands its migrations over as a Schema, and
// works inside the function that it gives to Do (one decision, one transaction), View (a consistent look) or, on the hot path, inside the
// Apply of a Plan, where a Group gathers the concurrent requests of many clients into one durable commit.
//
// Every writing transaction is a numbered batch of a stream: its first statement moves the stream's row from seq to seq+1. That one
// statement proves that a batch ran once, tells after a lost connection whether it was committed, fences off a process that was thought
// dead, and gives the audit record a gapless order to read (see stream.go).
//
// A function given to Do, View or a Plan may run more than once. It must have no effect outside the transaction; what must happen after the
// commit goes into Tx.OnCommit. Nothing is ever signed in there. When a statement fails, its transaction has failed: nothing more is done in
// it and it is rolled back, even if the function returns nil. Statements do not nest: none can be run from inside a row's callback.
//
// The package deliberately knows no table but its own two, builds no SQL but lists of parameters (Values), and maps no rows to structs.
package db

import (
	"context"
	"embed"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"mooring/internal/base/errs"
)

//go:embed schema/*.sql
var schemaFiles embed.FS

// Options say which database to open and with what clock.
type Options struct {
	// URL is "sqlite:PATH" for a file on this machine, or "postgres://…" for PostgreSQL 15 or later.
	URL  string
	Now  func() time.Time
	Log  *slog.Logger
	Node string // names this process in stream and lease rows; for people only
}

// DB is one database. It is safe for concurrent use.
type DB struct {
	engine  engine
	now     func() time.Time
	log     *slog.Logger
	node    string
	streams chan *stream  // idle streams for Do; its capacity bounds how many changes run at once
	closed  chan struct{} // closed by Close
	// resolveWait bounds how long is asked for what became of a batch.
	resolveWait time.Duration

	mu     sync.Mutex
	opened map[[8]byte]bool                  // guarded by mu; rows of this process that are not closed yet
	ending bool                              // guarded by mu; Close was called
	fault  error                             // guarded by mu; why the last write could not be stored, nil when it could
	before []func(ctx context.Context) error // guarded by mu; see BeforeWrites
}

// engine is what differs between SQLite and PostgreSQL.
type engine interface {
	// begin waits for a connection until ctx ends.
	begin(ctx context.Context, write bool) (session, error)
	// glance waits for a connection for reading by a single statement; patient says that a little longer wait is worth it, when what is read is then had for less.
	glance(ctx context.Context, patient bool) (session, error)
	migrate(ctx context.Context, schemas []Schema) error
	run(ctx context.Context) error // upkeep, until ctx ends
	trim(ctx context.Context) error
	arrays() bool
	writers() int                    // committers that can usefully run at once
	close(ctx context.Context) error // waits for open transactions until ctx ends
}

// session is one open transaction. Every error that stems from the engine is a *storeError. Exactly one of commit and rollback is called, once.
type session interface {
	exec(ctx context.Context, sql string, args []any) (int64, error)
	query(ctx context.Context, each func(Row) (bool, error), sql string, args []any) error
	send(ctx context.Context, stmts []*Stmt) error
	commit(ctx context.Context, last []*Stmt, f follow) error // runs last before
	rollback()
}

// Open opens the database and checks that it answers. It starts nothing and changes nothing; call Migrate next.
func Open(ctx context.Context, o Options) (*DB, error) {
	d := &DB{now: o.Now, log: o.Log, node: o.Node, closed: make(chan struct{}), opened: map[[8]byte]bool{}, resolveWait: 10 * time.Second}
	if d.now == nil {
		return nil, fmt.Errorf("opening the database: no clock was given")
	}
	if d.log == nil {
		d.log = slog.New(slog.DiscardHandler)
	}
	var err error
	switch {
	case strings.HasPrefix(o.URL, "sqlite:"):
		d.engine, err = openSQLite(ctx, strings.TrimPrefix(o.URL, "sqlite:"), d.log)
	case strings.HasPrefix(o.URL, "postgres://"), strings.HasPrefix(o.URL, "postgresql://"):
		d.engine, err = openPostgres(ctx, o.URL, d.log)
	default:
		return nil, errs.New(errs.Invalid, "the database URL must start with sqlite: or postgres://")
	}
	if err != nil {
		return nil, err
	}
	const atOnce = 8
	d.streams = make(chan *stream, atOnce)
	for range atOnce {
		d.streams <- newStream(d, 0)
	}
	return d, nil
}

// Close waits for the changes under way, ends the streams of this process and closes the database. Whoever comes later gets an error of
// kind Unavailable. When ctx ends first, what is still in use is left alone and the error says so. A second call does nothing.
func (d *DB) Close(ctx context.Context) error {
	d.mu.Lock()
	again := d.ending
	d.ending = true
	d.mu.Unlock()
	if again {
		return nil
	}
	for range cap(d.streams) {
		select {
		case <-d.streams:
		case <-ctx.Done():
			return errs.Wrap(errs.Unavailable, ctx.Err(), "the database was not closed: changes are still under way")
		}
	}
	d.mu.Lock()
	rows := slices.Collect(maps.Keys(d.opened))
	d.mu.Unlock()
	for _, id := range rows {
		if err := d.endStream(ctx, id); err != nil {
			d.log.LogAttrs(ctx, slog.LevelWarn, "streams were left open", slog.Any("cause", err))
			break
		}
	}
	close(d.closed)
	return d.engine.close(ctx)
}

// usable returns an error once the database is closed.
func (d *DB) usable() error {
	select {
	case <-d.closed:
		return errs.New(errs.Unavailable, "the database is closed")
	default:
		return nil
	}
}

// Run does the engine's upkeep, such as SQLite's checkpoints, until ctx ends.
func (d *DB) Run(ctx context.Context) error { return d.engine.run(ctx) }

// Trim gives back the memory in which SQLite's writer keeps pages. It is for who writes much that nobody reads soon, in between and afterwards: that
// has pushed everything else out of there anyway.
func (d *DB) Trim(ctx context.Context) error { return d.engine.trim(ctx) }

// Arrays reports whether array parameters and unnest may be used, that is, whether this is PostgreSQL.
func (d *DB) Arrays() bool { return d.engine.arrays() }

// Fault returns why the last write could not be stored, or nil when it could. Readiness shows it.
func (d *DB) Fault() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.fault
}

// Schema is one slice's migrations: files NNNNN_name.sql at the root of FS, in goose's form, upwards only.
//
// Both engines read the same files. A comment of the form /*sqlite: … */ or /*postgres: … */ becomes text on that engine.
type Schema struct {
	Name string
	FS   fs.FS
}

// Migrate brings this package's tables and then the schemas, in the given order, to their newest version.
func (d *DB) Migrate(ctx context.Context, schemas ...Schema) error {
	own, err := fs.Sub(schemaFiles, "schema")
	if err != nil {
		return fmt.Errorf("reading the embedded migrations: %w", err)
	}
	return d.engine.migrate(ctx, append([]Schema{{Name: "db", FS: own}}, schemas...))
}

// Do runs fn in one writing transaction and returns when it is durable. It runs fn again after serialisation failures. An error that fn
// returns on its own account rolls everything back and is returned as it is; when the store is at fault the error has kind Unavailable.
func (d *DB) Do(ctx context.Context, fn func(ctx context.Context, tx *Tx) error) error {
	if err := d.prepare(ctx); err != nil {
		return err
	}
	var s *stream
	select {
	case s = <-d.streams:
	case <-d.closed:
		return d.usable()
	case <-ctx.Done():
		return errs.Wrap(errs.Unavailable, ctx.Err(), "the change was given up while it waited for its turn")
	}
	defer func() { d.streams <- s }()
	return s.run(ctx, fn)
}

// View runs fn in one read-only transaction, which sees one state of the database throughout.
func (d *DB) View(ctx context.Context, fn func(ctx context.Context, tx *Tx) error) error {
	return d.retry(ctx, func() error {
		tx, err := d.attempt(ctx, false, BatchID{}, fn)
		if c, ours := classOf(err); ours && c == classUnknown {
			return &storeError{class: classRetry, cause: err} // of a look nothing remains, whatever became of its end
		}
		if err == nil {
			tx.committed()
		}
		return err
	})
}

// write runs fn in a writing transaction that belongs to no stream: leases and the streams themselves. fn is harmless to repeat, even when
// it was committed before: a commit of unknown outcome is answered by running fn again.
func (d *DB) write(ctx context.Context, fn func(ctx context.Context, tx *Tx) error) error {
	const unknowns = 3
	unknown := 0
	err := d.retry(ctx, func() error {
		_, err := d.attempt(ctx, true, BatchID{}, fn)
		if c, ours := classOf(err); ours && c == classUnknown {
			if unknown++; unknown < unknowns {
				return &storeError{class: classRetry, cause: err}
			}
		}
		return err
	})
	d.noteOutcome(err)
	return err
}

// attempt runs fn in a transaction, once. The Tx is returned when the commit was sent, or what goes with it, whatever came of that.
func (d *DB) attempt(ctx context.Context, write bool, batch BatchID, fn func(ctx context.Context, tx *Tx) error) (*Tx, error) {
	if err := d.usable(); err != nil {
		return nil, err
	}
	s, err := d.engine.begin(ctx, write)
	if err != nil {
		return nil, err
	}
	tx := &Tx{session: s, arrays: d.engine.arrays(), batch: batch}
	open := true
	defer func() {
		if open { // fn failed, or panicked, or ended its goroutine
			s.rollback()
		}
	}()
	if err := tx.verdict(fn(ctx, tx)); err != nil {
		return nil, err
	}
	open = false
	return tx, s.commit(ctx, tx.last, tx.follow)
}

// glance runs fn, which reads by one statement or does not mind if each of several sees a state of its own.
func (d *DB) glance(ctx context.Context, patient bool, fn func(ctx context.Context, tx *Tx) error) error {
	return d.retry(ctx, func() error {
		if err := d.usable(); err != nil {
			return err
		}
		s, err := d.engine.glance(ctx, patient)
		if err != nil {
			return err
		}
		defer s.rollback() // there is nothing to commit
		tx := &Tx{session: s, arrays: d.engine.arrays()}
		return tx.verdict(fn(ctx, tx))
	})
}

// noteOutcome remembers for Fault how a write ended.
func (d *DB) noteOutcome(err error) {
	c, ours := classOf(err)
	switch {
	case err == nil:
	case !ours || c != classPlace && c != classUnknown:
		return
	}
	d.mu.Lock()
	d.fault = err
	d.mu.Unlock()
}
