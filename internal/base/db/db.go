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
// commit goes into Tx.OnCommit. Nothing is ever signed in there.
//
// The package deliberately knows no table but its own two, builds no SQL, and maps no rows to structs.
package db

import (
	"context"
	"embed"
	"fmt"
	"io/fs"
	"log/slog"
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
	streams chan *stream // idle streams for Do; its capacity bounds how many changes run at once

	mu     sync.Mutex
	opened []*stream // guarded by mu; closed again by Close
	fault  error     // guarded by mu; why the last write could not be stored, nil when it could
}

// engine is what differs between SQLite and PostgreSQL.
type engine interface {
	begin(ctx context.Context, write bool) (session, error)
	migrate(ctx context.Context, schemas []Schema) error
	run(ctx context.Context) error // upkeep, until ctx ends
	arrays() bool
	writers() int // committers that can usefully run at once
	close() error
}

// session is one open transaction. Every error that stems from the engine is a *storeError.
type session interface {
	exec(ctx context.Context, sql string, args []any) (int64, error)
	query(ctx context.Context, each func(Row) (bool, error), sql string, args []any) error
	send(ctx context.Context, stmts []*Stmt) error
	commit(ctx context.Context) error
	rollback()
}

// Open opens the database and checks that it answers. It starts nothing and changes nothing; call Migrate next.
func Open(ctx context.Context, o Options) (*DB, error) {
	d := &DB{now: o.Now, log: o.Log, node: o.Node}
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
		d.streams <- newStream(d)
	}
	return d, nil
}

// Close ends the streams of this process and closes the database. The caller has stopped using it.
func (d *DB) Close(ctx context.Context) error {
	d.mu.Lock()
	opened := d.opened
	d.opened = nil
	d.mu.Unlock()
	for _, s := range opened {
		if err := s.end(ctx); err != nil {
			d.log.LogAttrs(ctx, slog.LevelWarn, "a stream was left open", slog.Any("cause", err))
			break
		}
	}
	return d.engine.close()
}

// Run does the engine's upkeep, such as SQLite's checkpoints, until ctx ends.
func (d *DB) Run(ctx context.Context) error { return d.engine.run(ctx) }

// Arrays reports whether array parameters and unnest may be used, that is, whether this is PostgreSQL.
func (d *DB) Arrays() bool { return d.engine.arrays() }

// Fault returns why the last write could not be stored, or nil when it could. Readiness shows it.
func (d *DB) Fault() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.fault
}

func (d *DB) noteFault(err error) {
	d.mu.Lock()
	d.fault = err
	d.mu.Unlock()
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
	var s *stream
	select {
	case s = <-d.streams:
	case <-ctx.Done():
		return errs.Wrap(errs.Unavailable, ctx.Err(), "the change was given up while it waited for its turn")
	}
	defer func() { d.streams <- s }()
	return s.run(ctx, fn)
}

// View runs fn in one read-only transaction, which sees one state of the database throughout.
func (d *DB) View(ctx context.Context, fn func(ctx context.Context, tx *Tx) error) error {
	return d.attempt(ctx, false, fn)
}

// write runs fn in a writing transaction that belongs to no stream: leases and the streams themselves.
func (d *DB) write(ctx context.Context, fn func(ctx context.Context, tx *Tx) error) error {
	return d.attempt(ctx, true, fn)
}

// attempt runs fn in a transaction, again after failures that certainly left nothing behind. A commit of unknown outcome is returned as
// it is: fn must then be harmless to repeat.
func (d *DB) attempt(ctx context.Context, write bool, fn func(ctx context.Context, tx *Tx) error) error {
	return d.retry(ctx, func() error {
		s, err := d.engine.begin(ctx, write)
		if err != nil {
			return err
		}
		tx := &Tx{session: s, arrays: d.engine.arrays()}
		if err := fn(ctx, tx); err != nil {
			s.rollback()
			return err
		}
		if err := s.commit(ctx); err != nil {
			return err
		}
		tx.committed()
		return nil
	})
}
