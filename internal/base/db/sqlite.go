package db

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"modernc.org/sqlite"
	lib "modernc.org/sqlite/lib"

	"mooring/internal/base/errs"
)

// sqliteEngine keeps one writing connection and a few reading ones, each with its own prepared statements. It talks to the driver's
// connections directly: package database/sql's locks and conversions cost as much as a small statement does.
type sqliteEngine struct {
	path    string
	log     *slog.Logger
	unlock  func() error
	driver  driver.Driver
	writer  chan *sqliteConn // capacity 1: SQLite has one writer
	readers chan *sqliteConn
}

const (
	sqliteReaders = 4
	// checkpointAt is the size of the write-ahead log, in octets, from which a checkpoint runs beside the writer. The automatic one, at
	// 256 MiB, is the safety net: it would run inside somebody's commit.
	checkpointAt = 32 << 20
	// patience is how long a glance waits for the writing connection, about as long as a commit of a few dozen takes.
	patience = 4 * time.Millisecond
)

func openSQLite(ctx context.Context, path string, log *slog.Logger) (*sqliteEngine, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("finding %q: %w", path, err)
	}
	if _, err := os.Stat(filepath.Dir(abs)); err != nil {
		return nil, errs.Wrap(errs.Invalid, err, "the folder of the database %s cannot be used; create it, or run mooring init", path)
	}
	unlock, err := lockFile(abs + ".lock")
	if err != nil {
		return nil, err
	}
	// SQLite would make a file that everybody on the machine may read, and gives its companions the mode of the file. What cannot be made is
	// told when it is opened.
	if f, err := os.OpenFile(abs, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600); err == nil {
		if err := f.Close(); err != nil {
			return nil, errors.Join(err, unlock())
		}
	}
	pool, err := sql.Open("sqlite", "") // only to reach the registered driver
	if err != nil {
		return nil, errors.Join(err, unlock())
	}
	e := &sqliteEngine{path: abs, log: log, unlock: unlock, driver: pool.Driver(), writer: make(chan *sqliteConn, 1), readers: make(chan *sqliteConn, sqliteReaders)}
	if err := pool.Close(); err != nil {
		return nil, errors.Join(err, unlock())
	}
	w, err := e.connect(ctx, "_pragma=journal_mode(WAL)&_pragma=synchronous(FULL)&_pragma=cache_size(-32768)&_pragma=wal_autocheckpoint(65536)")
	if err != nil {
		return nil, errors.Join(e.cannotOpen(err), unlock())
	}
	e.writer <- w
	for n := range sqliteReaders {
		r, err := e.connect(ctx, "mode=ro&_pragma=query_only(1)&_pragma=cache_size(-2048)")
		if err != nil {
			return nil, errors.Join(e.cannotOpen(err), e.closeFirst(ctx, n))
		}
		e.readers <- r
	}
	return e, nil
}

func (e *sqliteEngine) cannotOpen(err error) error {
	var se *sqlite.Error
	if errors.As(err, &se) && se.Code()&0xff == lib.SQLITE_NOTADB || errors.As(err, &se) && se.Code()&0xff == lib.SQLITE_CORRUPT {
		return errs.Wrap(errs.Invalid, err, "the database %s is damaged or is not an SQLite database; restore it from a backup", e.path)
	}
	return errs.Wrap(errs.Unavailable, err, "the database %s cannot be opened for writing (permissions, read-only or full disk?)", e.path)
}

// connect opens one connection. The file: form is needed: with a plain path the driver drops SQLite's own parameters without a word.
func (e *sqliteEngine) connect(ctx context.Context, params string) (*sqliteConn, error) {
	u := url.URL{Scheme: "file", Opaque: (&url.URL{Path: e.path}).EscapedPath(), RawQuery: params + "&_pragma=busy_timeout(5000)"}
	c, err := e.driver.Open(u.String())
	if err != nil {
		return nil, err
	}
	conn := &sqliteConn{raw: c, prepared: map[string]driver.Stmt{}}
	// The first look at the file tells whether it is a database at all.
	if err := conn.each(ctx, func(Row) (bool, error) { return true, nil }, `SELECT count(*) FROM sqlite_schema`, nil); err != nil {
		return nil, errors.Join(err, conn.close())
	}
	return conn, nil
}

func (e *sqliteEngine) arrays() bool { return false }

func (e *sqliteEngine) trim(ctx context.Context) error {
	select {
	case c := <-e.writer:
		defer func() { e.writer <- c }()
		_, err := c.exec(`PRAGMA shrink_memory`, nil)
		return sqliteError(err)
	case <-ctx.Done():
		return &storeError{class: classGivenUp, cause: ctx.Err()}
	}
}
func (e *sqliteEngine) writers() int { return 1 }

func (e *sqliteEngine) close(ctx context.Context) error { return e.closeFirst(ctx, sqliteReaders) }

// closeFirst closes that many readers, the writer and the lock. The writer goes last: the last connection to be closed puts the log into the
// file, which a reader may not. A stopped installation is then one whole file.
func (e *sqliteEngine) closeFirst(ctx context.Context, readers int) error {
	var all []error
	for range readers {
		all = append(all, closeNext(ctx, e.readers))
	}
	all = append(all, closeNext(ctx, e.writer))
	if err := errors.Join(all...); err != nil {
		return err // the lock stays until the process ends: something is still in use
	}
	return e.unlock()
}

// closeNext closes a connection of pool when it is free.
func closeNext(ctx context.Context, pool chan *sqliteConn) error {
	select {
	case c := <-pool:
		return c.close()
	case <-ctx.Done():
		return errs.Wrap(errs.Unavailable, ctx.Err(), "the database was not closed: transactions are still open")
	}
}

// glance needs no transaction: a statement that runs alone sees one state, and to open and end one costs as much as a small statement. The writing connection has
// read what it wrote and what it is about to write, while a reading one forgets all its pages when anything was committed. So a look goes
// by that one when no transaction is open on it, which a patient one waits for a little.
func (e *sqliteEngine) glance(ctx context.Context, patient bool) (session, error) {
	select {
	case c := <-e.writer:
		return bareSession(c, e.writer), nil
	default:
	}
	if patient {
		late := time.NewTimer(patience)
		defer late.Stop()
		select {
		case c := <-e.writer:
			return bareSession(c, e.writer), nil
		case <-late.C:
		case <-ctx.Done():
		}
	}
	select {
	case c := <-e.readers:
		return bareSession(c, e.readers), nil
	case <-ctx.Done():
		return nil, &storeError{class: classGivenUp, cause: ctx.Err()}
	}
}

func bareSession(c *sqliteConn, pool chan *sqliteConn) *sqliteSession {
	return &sqliteSession{conn: c, pool: pool, bare: true}
}

func (e *sqliteEngine) begin(ctx context.Context, write bool) (session, error) {
	pool, text := e.readers, "BEGIN"
	if write {
		pool, text = e.writer, "BEGIN IMMEDIATE"
	}
	select {
	case c := <-pool:
		// The driver watches a context by a goroutine per statement; a transaction's end is decided at its own points instead.
		if _, err := c.exec(text, nil); err != nil {
			pool <- c
			return nil, sqliteError(err)
		}
		return &sqliteSession{conn: c, pool: pool}, nil
	case <-ctx.Done():
		return nil, &storeError{class: classGivenUp, cause: ctx.Err()}
	}
}

// run checkpoints the write-ahead log beside the writer when it has grown.
func (e *sqliteEngine) run(ctx context.Context) (err error) {
	c, err := e.connect(ctx, "_pragma=synchronous(FULL)")
	if err != nil && ctx.Err() != nil {
		return nil // stopped while it started
	}
	if err != nil {
		return e.cannotOpen(err)
	}
	defer func() { err = errors.Join(err, c.close()) }()
	for sleep(ctx, 2*time.Second) {
		if st, err := os.Stat(e.path + "-wal"); err != nil || st.Size() < checkpointAt {
			continue
		}
		if err := e.checkpoint(ctx, c); err != nil {
			e.log.LogAttrs(ctx, slog.LevelWarn, "the checkpoint of the database failed", slog.Any("cause", err))
		}
	}
	return nil
}

// checkpoint puts the log into the file: nearly all of it beside the writer, and what he wrote meanwhile while he waits for a moment. Only a log that is in the file
// as a whole is begun anew by the next commit. Else it would grow up to its safety net, and to append to a file costs a commit more than to write over it.
func (e *sqliteEngine) checkpoint(ctx context.Context, c *sqliteConn) error {
	const passive = "PRAGMA wal_checkpoint(PASSIVE)"
	skip := func(Row) (bool, error) { return true, nil }
	if err := c.each(ctx, skip, passive, nil); err != nil {
		return err
	}
	select {
	case w := <-e.writer:
		defer func() { e.writer <- w }()
		return c.each(ctx, skip, passive, nil)
	case <-ctx.Done():
		return nil
	}
}

func (e *sqliteEngine) migrate(ctx context.Context, schemas []Schema) error {
	err := e.write(ctx, schemas)
	var se *sqlite.Error
	if c, _ := classOf(sqliteError(err)); c == classPlace && errors.As(err, &se) {
		return e.cannotOpen(se) // the first write is what shows that a file may only be read
	}
	return err
}

// write does the migrations and puts right what a former process left.
func (e *sqliteEngine) write(ctx context.Context, schemas []Schema) error {
	u := url.URL{Scheme: "file", Opaque: (&url.URL{Path: e.path}).EscapedPath(), RawQuery: "_pragma=synchronous(FULL)&_pragma=busy_timeout(5000)&_txlock=immediate"}
	pool, err := sql.Open("sqlite", u.String())
	if err != nil {
		return fmt.Errorf("opening %s for migration: %w", e.path, err)
	}
	defer pool.Close()
	pool.SetMaxOpenConns(1)
	if err := migrateAll(ctx, pool, "sqlite", schemas); err != nil {
		return err
	}
	// The lock file proves that no other process holds a lease or writes a stream in this file, so whatever stands there is of the dead.
	if _, err := pool.ExecContext(ctx, `UPDATE lease SET until = 0`); err != nil {
		return fmt.Errorf("freeing the leases of a former process: %w", err)
	}
	if _, err := pool.ExecContext(ctx, `UPDATE stream SET closed = 1 WHERE closed = 0`); err != nil {
		return fmt.Errorf("closing the streams of a former process: %w", err)
	}
	return nil
}

// sqliteSession is one transaction on one connection.
type sqliteSession struct {
	conn *sqliteConn
	pool chan *sqliteConn
	bare bool // no transaction was opened
}

func (s *sqliteSession) exec(ctx context.Context, text string, args []any) (int64, error) {
	if err := ctx.Err(); err != nil {
		return 0, &storeError{class: classGivenUp, cause: err}
	}
	if s.bare { // nothing would stop it on the writing connection
		return 0, notForWriting()
	}
	n, err := s.conn.exec(text, args)
	return n, sqliteError(err)
}

func (s *sqliteSession) query(ctx context.Context, each func(Row) (bool, error), text string, args []any) error {
	if s.bare && !strings.HasPrefix(text, "SELECT ") && !strings.HasPrefix(text, "WITH ") { // such as INSERT with RETURNING
		return notForWriting()
	}
	return sqliteError(s.conn.each(ctx, each, text, args))
}

func notForWriting() error {
	return &storeError{class: classBug, cause: errors.New("a glance is for reading")}
}

func (s *sqliteSession) send(ctx context.Context, stmts []*Stmt) error {
	for _, st := range stmts {
		if st.Each != nil {
			if err := s.query(ctx, func(r Row) (bool, error) { st.N++; return true, st.Each(r) }, st.SQL, st.Args); err != nil {
				return err
			}
			continue
		}
		n, err := s.exec(ctx, st.SQL, st.Args)
		if err != nil {
			return err
		}
		st.N = n
	}
	return nil
}

func (s *sqliteSession) commit(ctx context.Context, last []*Stmt, _ follow) error {
	if err := s.send(ctx, last); err != nil {
		s.rollback()
		return err
	}
	_, err := s.conn.exec("COMMIT", nil)
	if err != nil {
		// After most failures the transaction is still open; after some, SQLite has rolled it back itself and refuses the ROLLBACK.
		_, _ = s.conn.exec("ROLLBACK", nil)
	}
	s.pool <- s.conn
	err = sqliteError(err)
	if c, ours := classOf(err); ours && c == classPlace {
		// A failed fsync may have left the commit in the log.
		return &storeError{class: classUnknown, cause: err}
	}
	return err
}

func (s *sqliteSession) rollback() {
	if !s.bare {
		// The only error is "no transaction is active", after SQLite rolled back by itself.
		_, _ = s.conn.exec("ROLLBACK", nil)
	}
	s.pool <- s.conn
}

// sqliteConn is one connection with its prepared statements. One goroutine uses it at a time.
type sqliteConn struct {
	raw      driver.Conn
	prepared map[string]driver.Stmt
	args     []driver.NamedValue // reused
	values   []driver.Value      // reused: statements do not nest
}

// preparedMax bounds the cache; the slices hold well under a hundred texts.
const preparedMax = 512

func (c *sqliteConn) stmt(text string) (driver.Stmt, error) {
	if st := c.prepared[text]; st != nil {
		return st, nil
	}
	st, err := c.raw.(driver.ConnPrepareContext).PrepareContext(quiet{}, withoutJournal(text))
	if err != nil {
		return nil, err
	}
	if len(c.prepared) >= preparedMax {
		for k, old := range c.prepared {
			delete(c.prepared, k)
			if err := old.Close(); err != nil {
				return nil, err
			}
			break
		}
	}
	c.prepared[text] = st
	return st, nil
}

// withoutJournal has an INSERT that fails leave the rows that it wrote until then. Else SQLite copies each page that an INSERT of many rows touches, to be able to take
// back that statement alone, and beyond 16 pages into a file: for rows in random places that came to half of what they cost. Nobody wants it, since after an
// error nothing is left but to roll the whole transaction back (Tx.statement).
func withoutJournal(text string) string {
	if rest, ok := strings.CutPrefix(text, "INSERT INTO "); ok {
		return "INSERT OR FAIL INTO " + rest
	}
	return text
}

func (c *sqliteConn) bind(args []any) ([]driver.NamedValue, error) {
	c.args = c.args[:0]
	for i, a := range args {
		v, err := sqliteValue(a)
		if err != nil {
			return nil, fmt.Errorf("parameter $%d: %w", i+1, err)
		}
		c.args = append(c.args, driver.NamedValue{Ordinal: i + 1, Value: v})
	}
	return c.args, nil
}

func sqliteValue(a any) (driver.Value, error) {
	switch v := a.(type) {
	case nil, int64, string:
		return v, nil
	case []byte:
		if v == nil {
			return []byte{}, nil // columns are NOT NULL; nil and empty are the same to a slice
		}
		return v, nil
	case int:
		return int64(v), nil
	case int16:
		return int64(v), nil
	case int32:
		return int64(v), nil
	case uint8:
		return int64(v), nil
	case bool:
		if v {
			return int64(1), nil
		}
		return int64(0), nil
	}
	return driver.DefaultParameterConverter.ConvertValue(a)
}

func (c *sqliteConn) exec(text string, args []any) (int64, error) {
	st, err := c.stmt(text)
	if err != nil {
		return 0, err
	}
	bound, err := c.bind(args)
	if err != nil {
		return 0, err
	}
	res, err := st.(driver.StmtExecContext).ExecContext(quiet{}, bound)
	if err != nil {
		return 0, err
	}
	return res.RowsAffected()
}

func (c *sqliteConn) each(ctx context.Context, each func(Row) (bool, error), text string, args []any) (err error) {
	st, err := c.stmt(text)
	if err != nil {
		return err
	}
	bound, err := c.bind(args)
	if err != nil {
		return err
	}
	rows, err := st.(driver.StmtQueryContext).QueryContext(quiet{}, bound)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	values := slices.Grow(c.values[:0], len(rows.Columns()))[:len(rows.Columns())]
	c.values = values
	defer clear(values) // what was read belongs to the reader alone
	for more := true; more; {
		if err := ctx.Err(); err != nil {
			return &storeError{class: classGivenUp, cause: err}
		}
		switch err := rows.Next(values); {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		}
		if more, err = each(valueRow(values)); err != nil {
			return err
		}
	}
	return nil
}

func (c *sqliteConn) close() error {
	var all []error
	for _, st := range c.prepared {
		all = append(all, st.Close())
	}
	return errors.Join(append(all, c.raw.Close())...)
}

// quiet is a context that never ends, for the driver: see begin.
type quiet struct{}

func (quiet) Deadline() (time.Time, bool) { return time.Time{}, false }
func (quiet) Done() <-chan struct{}       { return nil }
func (quiet) Err() error                  { return nil }
func (quiet) Value(any) any               { return nil }

// valueRow is a row of driver values.
type valueRow []driver.Value

func (r valueRow) Scan(dest ...any) error {
	if len(dest) != len(r) {
		return fmt.Errorf("scanning a row of %d columns into %d values", len(r), len(dest))
	}
	for i, d := range dest {
		if err := assign(d, r[i]); err != nil {
			return fmt.Errorf("column %d: %w", i+1, err)
		}
	}
	return nil
}

func assign(dest any, v driver.Value) error {
	n, isInt := v.(int64)
	switch d := dest.(type) {
	case *any:
		*d = v
		return nil
	case *[]byte:
		switch v := v.(type) {
		case []byte:
			*d = v
			return nil
		case nil:
			*d = nil
			return nil
		}
	case *string:
		if s, ok := v.(string); ok {
			*d = s
			return nil
		}
	case *int64:
		if isInt {
			*d = n
			return nil
		}
	case *int:
		if isInt {
			*d = int(n)
			return nil
		}
	case *int16:
		if isInt && int64(int16(n)) == n {
			*d = int16(n)
			return nil
		}
	case *uint8:
		if isInt && n >= 0 && n <= 255 {
			*d = uint8(n)
			return nil
		}
	case *bool:
		if isInt {
			*d = n != 0
			return nil
		}
	}
	return fmt.Errorf("a value of type %T does not fit into %T", v, dest)
}

// sqliteError says what a failure left behind. Failures of COMMIT are judged by commit.
func sqliteError(err error) error {
	var e *sqlite.Error
	if err == nil || !errors.As(err, &e) {
		return err
	}
	se := &storeError{class: classBug, cause: err}
	switch e.Code() & 0xff {
	case lib.SQLITE_BUSY, lib.SQLITE_LOCKED:
		se.class = classRetry
	case lib.SQLITE_CONSTRAINT:
		se.class = classData
		se.unique = e.Code() == lib.SQLITE_CONSTRAINT_UNIQUE || e.Code() == lib.SQLITE_CONSTRAINT_PRIMARYKEY || e.Code() == lib.SQLITE_CONSTRAINT_ROWID
	case lib.SQLITE_MISMATCH, lib.SQLITE_TOOBIG:
		se.class = classData
	case lib.SQLITE_FULL, lib.SQLITE_IOERR, lib.SQLITE_READONLY, lib.SQLITE_CORRUPT, lib.SQLITE_NOTADB, lib.SQLITE_CANTOPEN, lib.SQLITE_NOMEM, lib.SQLITE_PERM:
		se.class = classPlace
	}
	return se
}
