package db

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"

	"mooring/internal/base/errs"
)

// postgresEngine is a pool of connections to PostgreSQL 15 or later.
type postgresEngine struct {
	pool       *pgxpool.Pool
	commitWait time.Duration // how long the answer to a COMMIT is waited for; after it the outcome is unknown and is asked for
}

const (
	postgresConns = 32
	oldest        = 150000 // server_version_num
)

func openPostgres(ctx context.Context, url string, _ *slog.Logger) (*postgresEngine, error) {
	cfg, err := pgxpool.ParseConfig(url)
	if err != nil {
		return nil, errs.Wrap(errs.Invalid, err, "the database URL cannot be understood")
	}
	cfg.MaxConns = postgresConns
	cfg.AfterConnect = func(ctx context.Context, conn *pgx.Conn) error {
		encodeArrays(conn)
		return planOnce(ctx, conn)
	}
	if cfg.ConnConfig.ConnectTimeout == 0 {
		cfg.ConnConfig.ConnectTimeout = 5 * time.Second
	}
	pool, err := pgxpool.NewWithConfig(ctx, cfg)
	if err != nil {
		return nil, errs.Wrap(errs.Unavailable, err, "the connection pool cannot be made")
	}
	var version int
	if err := pool.QueryRow(ctx, `SELECT current_setting('server_version_num')::integer`).Scan(&version); err != nil {
		pool.Close()
		return nil, refusedBy(cfg.ConnConfig, err)
	}
	if version < oldest {
		pool.Close()
		return nil, errs.New(errs.Invalid, "PostgreSQL %d is too old: version 15 or later is needed", version/10000)
	}
	return &postgresEngine{pool: pool, commitWait: 10 * time.Second}, nil
}

// refusedBy says why the first connection failed: whether the server does not answer, does not let this user in, or has no such database.
func refusedBy(c *pgx.ConnConfig, err error) error {
	var pg *pgconn.PgError
	switch {
	case errors.As(err, &pg) && strings.HasPrefix(pg.Code, "28"): // invalid_authorization_specification, invalid_password
		return errs.Wrap(errs.Unavailable, err, "PostgreSQL at %s does not let the user %q in; check the user and the password of database.url", c.Host, c.User)
	case errors.As(err, &pg) && pg.Code == "3D000": // invalid_catalog_name
		return errs.Wrap(errs.Unavailable, err, "PostgreSQL at %s has no database %q; create it, or name another in database.url", c.Host, c.Database)
	}
	return errs.Wrap(errs.Unavailable, err, "PostgreSQL at %s does not answer; check the host and port of database.url, and that it runs", c.Host)
}

// planOnce has the server plan each prepared statement once, and by its indexes. Left alone it plans the short ones anew for every batch,
// because it sees the arrays' lengths, and that costs more than the statement. A plan that was made while a table was small and freshly
// analysed would else read the whole table, and stay when it has grown. A statement that must read a whole table all the same is then
// reckoned so dear that the server would compile it to machine code first, for ten to a hundred milliseconds where it runs for one: hence no
// jit. Behind a pooler the settings may be lost, and with them only the saving.
func planOnce(ctx context.Context, conn *pgx.Conn) error {
	for _, setting := range []string{"plan_cache_mode = force_generic_plan", "enable_seqscan = off", "jit = off"} {
		_, err := conn.Exec(ctx, "SET "+setting)
		var pg *pgconn.PgError
		if err != nil && !errors.As(err, &pg) { // an engine may not know the setting
			return err
		}
	}
	return nil
}

func (e *postgresEngine) arrays() bool { return true }

func (e *postgresEngine) trim(context.Context) error { return nil }

// One committer keeps one backend of the server busy, which does about a third of the work that its batches cost here. More committers than
// that only make the batches smaller.
func (e *postgresEngine) writers() int { return min(max(1, runtime.GOMAXPROCS(0)/4), 4) }

func (e *postgresEngine) close(ctx context.Context) error {
	closed := make(chan struct{})
	go func() {
		defer close(closed)
		e.pool.Close() // waits for the connections in use
	}()
	select {
	case <-closed:
		return nil
	case <-ctx.Done():
		return errs.Wrap(errs.Unavailable, ctx.Err(), "the database was not closed: connections are still in use")
	}
}

func (e *postgresEngine) run(ctx context.Context) error {
	<-ctx.Done()
	return nil
}

func (e *postgresEngine) migrate(ctx context.Context, schemas []Schema) error {
	pool := stdlib.OpenDBFromPool(e.pool)
	defer pool.Close()
	return migrateAll(ctx, pool, "postgres", schemas)
}

// The texts that open a transaction. A view has one snapshot for the whole look, and is read-only so that it can never fail to serialise
// with more than a retry.
const (
	beginWrite = "begin"
	beginView  = "begin isolation level repeatable read read only"
)

func (e *postgresEngine) begin(ctx context.Context, write bool) (session, error) {
	if write {
		return e.session(ctx, beginWrite)
	}
	return e.session(ctx, beginView)
}

// glance is a view of one statement, which needs no transaction and so a third of the messages.
func (e *postgresEngine) glance(ctx context.Context, _ bool) (session, error) {
	return e.session(ctx, "")
}

func (e *postgresEngine) session(ctx context.Context, begin string) (session, error) {
	conn, err := e.pool.Acquire(ctx)
	if err != nil {
		return nil, postgresError(ctx, err, false)
	}
	return &postgresSession{conn: conn, begin: begin, commitWait: e.commitWait}, nil
}

// postgresSession is a transaction on one connection. The text that opens it travels with the first statement.
type postgresSession struct {
	conn       *pgxpool.Conn
	begin      string // not yet sent; "" when it was, or when there is none
	begun      bool
	commitWait time.Duration
}

// opening returns a batch that begins with the text that opens the transaction, if that is still to be sent, and whether it does.
func (s *postgresSession) opening() (*pgx.Batch, bool) {
	b := &pgx.Batch{}
	if s.begin == "" {
		return b, false
	}
	b.Queue(s.begin)
	s.begin, s.begun = "", true
	return b, true
}

// failure says what a failed statement left behind.
func (s *postgresSession) failure(ctx context.Context, err error) error {
	return postgresError(ctx, err, !s.conn.Conn().IsClosed())
}

func (s *postgresSession) exec(ctx context.Context, sql string, args []any) (int64, error) {
	if s.begin != "" {
		st := &Stmt{SQL: sql, Args: args}
		err := s.send(ctx, []*Stmt{st})
		return st.N, err
	}
	tag, err := s.conn.Exec(ctx, sql, postgresArgs(args)...)
	return tag.RowsAffected(), s.failure(ctx, err)
}

// postgresArgs makes empty what is nil among octet strings, as on SQLite: columns are NOT NULL, and to a slice of Go the two are the same.
func postgresArgs(args []any) []any {
	changed := false
	for i, a := range args {
		var b any
		switch v := a.(type) {
		case []byte:
			if v == nil {
				b = []byte{}
			}
		case [][]byte:
			if slices.ContainsFunc(v, func(e []byte) bool { return e == nil }) {
				full := slices.Clone(v)
				for k := range full {
					if full[k] == nil {
						full[k] = []byte{}
					}
				}
				b = full
			}
		}
		if b == nil {
			continue
		}
		if !changed {
			args, changed = slices.Clone(args), true // the caller's slice may be used again
		}
		args[i] = b
	}
	return args
}

func (s *postgresSession) query(ctx context.Context, each func(Row) (bool, error), sql string, args []any) error {
	b, opens := s.opening()
	if !opens {
		rows, err := s.conn.Query(ctx, sql, postgresArgs(args)...)
		if err != nil {
			return s.failure(ctx, err)
		}
		return s.rows(ctx, rows, each)
	}
	b.Queue(sql, postgresArgs(args)...)
	results := s.conn.SendBatch(ctx, b)
	defer results.Close() // when a row's callback failed; whatever it says then, the transaction is rolled back
	if _, err := results.Exec(); err != nil {
		return s.failure(ctx, err)
	}
	rows, err := results.Query()
	if err == nil {
		err = s.rows(ctx, rows, each)
	} else {
		err = s.failure(ctx, err)
	}
	if err != nil {
		return err
	}
	return s.failure(ctx, results.Close())
}

// rows hands rows to each until it wants no more.
func (s *postgresSession) rows(ctx context.Context, rows pgx.Rows, each func(Row) (bool, error)) error {
	defer rows.Close()
	for rows.Next() {
		more, err := each(rows)
		if err != nil {
			return err
		}
		if !more {
			break
		}
	}
	rows.Close()
	return s.failure(ctx, rows.Err())
}

func (s *postgresSession) send(ctx context.Context, stmts []*Stmt) (err error) {
	b, opens := s.opening()
	for _, st := range stmts {
		b.Queue(st.SQL, postgresArgs(st.Args)...)
	}
	results := s.conn.SendBatch(ctx, b)
	open := true
	defer func() {
		if open { // a row's callback failed or panicked
			_ = results.Close() // whatever it says, the transaction is rolled back
		}
	}()
	if opens {
		if _, err := results.Exec(); err != nil {
			return s.failure(ctx, err)
		}
	}
	for _, st := range stmts {
		if err := s.result(ctx, results, st); err != nil {
			return err
		}
	}
	open = false
	return s.failure(ctx, results.Close())
}

func (s *postgresSession) result(ctx context.Context, results pgx.BatchResults, st *Stmt) error {
	if st.Each == nil {
		tag, err := results.Exec()
		st.N = tag.RowsAffected()
		return s.failure(ctx, err)
	}
	rows, err := results.Query()
	if err != nil {
		return s.failure(ctx, err)
	}
	defer rows.Close()
	for rows.Next() {
		if err := st.Each(rows); err != nil {
			return err
		}
	}
	rows.Close()
	st.N = rows.CommandTag().RowsAffected()
	return s.failure(ctx, rows.Err())
}

func (s *postgresSession) commit(ctx context.Context, last []*Stmt, f follow) error {
	if !s.begun && len(last) > 0 {
		if err := s.send(ctx, nil); err != nil { // the text that opens it
			s.rollback()
			return err
		}
	}
	defer s.conn.Release() // a connection that is still in a transaction, or broken, is closed by the pool
	if !s.begun {
		return nil
	}
	// A requester that hangs up must not turn a commit into an unknown outcome.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.commitWait)
	defer cancel()
	var tag pgconn.CommandTag
	var err error
	if len(last)+len(f.stmts) == 0 {
		tag, err = s.conn.Exec(ctx, "commit")
	} else if tag, err = s.commitWith(ctx, last, f); errors.As(err, new(*storeError)) {
		return err
	}
	var pg *pgconn.PgError
	switch {
	case err == nil && tag.String() == "ROLLBACK":
		return &storeError{class: classRetry, cause: errors.New("a statement had failed, so that the commit rolled back")}
	case err == nil:
		return nil
	case pgconn.SafeToRetry(err):
		return &storeError{class: classRetry, cause: err}
	case errors.As(err, &pg) && !unclear(pg.Code):
		return postgresError(ctx, err, true)
	}
	return &storeError{class: classUnknown, cause: err}
}

// commitWith sends the last statements and the COMMIT together. They end in one Sync, up to which the server passes over everything once a statement has
// failed, the COMMIT too (PostgreSQL documentation, section 55.2.4, "Pipelining"). So what the server says against a statement
// is a *storeError: nothing was committed. Any other error is one of the COMMIT, or of a connection that broke while it was on
// its way. What follows the COMMIT runs in a transaction of its own, which the server opens by itself, and fails without it.
func (s *postgresSession) commitWith(ctx context.Context, last []*Stmt, f follow) (tag pgconn.CommandTag, err error) {
	b := &pgx.Batch{}
	for _, st := range last {
		b.Queue(st.SQL, postgresArgs(st.Args)...)
	}
	b.Queue("commit")
	for _, st := range f.stmts {
		b.Queue(st.SQL, postgresArgs(st.Args)...)
	}
	results := s.conn.SendBatch(ctx, b)
	for range last {
		if _, err = results.Exec(); err != nil {
			break
		}
	}
	if err == nil {
		if tag, err = results.Exec(); err == nil && tag.String() == "COMMIT" && len(f.stmts) > 0 {
			s.followed(ctx, results, f)
			return tag, nil
		}
		return tag, errors.Join(err, results.Close())
	}
	_ = results.Close() // it says the same
	var unsent pgx.ErrPreprocessingBatch
	if unencodable(err) && errors.As(err, &unsent) && f.has(unsent.SQL()) { // giving up the connection, the driver sends what stands before it: the COMMIT too
		return tag, err
	}
	var pg *pgconn.PgError
	if alive := !s.conn.Conn().IsClosed(); alive || errors.As(err, &pg) || unencodable(err) {
		_, _ = s.conn.Exec(ctx, "rollback") // when it fails the connection is broken, and the server rolls back
		return tag, postgresError(ctx, err, alive)
	}
	return tag, err
}

// followed reads what came behind a COMMIT that was done, whatever becomes of this.
func (s *postgresSession) followed(ctx context.Context, results pgx.BatchResults, f follow) {
	var err error
	for _, st := range f.stmts {
		if err = s.result(ctx, results, st); err != nil {
			break
		}
	}
	if errors.Join(err, results.Close()) == nil {
		f.done()
	}
}

// unclear lists the codes after which a COMMIT may have happened: transaction_resolution_unknown, statement_completion_unknown, and the
// server's going down or cancelling us while it waited for a standby.
func unclear(code string) bool {
	return code == "08007" || code == "40003" || strings.HasPrefix(code, "57")
}

func (s *postgresSession) rollback() {
	defer s.conn.Release()
	if !s.begun {
		return
	}
	ctx, cancel := context.WithTimeout(quiet{}, s.commitWait)
	defer cancel()
	// When it fails the connection is broken, the pool drops it, and the server rolls back.
	_, _ = s.conn.Exec(ctx, "rollback")
}

// postgresError says what a failure before COMMIT left behind: never a committed transaction. alive tells that the connection still works.
func postgresError(ctx context.Context, err error, alive bool) error {
	var (
		se      *storeError
		pg      *pgconn.PgError
		connect *pgconn.ConnectError
	)
	switch {
	case err == nil || errors.As(err, &se):
		return err
	case errors.As(err, &pg):
		if pg.Routine == "RevalidateCachedQuery" {
			return &storeError{class: classRetry, cause: err} // a prepared statement outlived a migration; it is prepared anew
		}
		return &storeError{class: postgresClass(pg.Code), unique: pg.Code == "23505", cause: fmt.Errorf("%w (%s)", err, pg.Detail)}
	case unencodable(err):
		return &storeError{class: classBug, cause: err}
	case ctx.Err() != nil:
		return &storeError{class: classGivenUp, cause: errors.Join(err, ctx.Err())}
	case errors.As(err, &connect):
		return &storeError{class: classPlace, cause: err}
	case alive:
		// The server did not complain and the connection works: the driver found parameters or destinations that do not fit.
		return &storeError{class: classBug, cause: err}
	}
	return &storeError{class: classRetry, cause: err} // the connection broke, and with it the transaction
}

// unencodable reports whether the driver could not put the arguments of a statement of a batch into octets. It gives up the connection then, so that this looks
// like one that broke; but nothing from that statement on was sent, a COMMIT behind it neither. The driver has one type for this and for what comes of preparing the
// statements, which may be a connection that did break, and tells the two apart in the text alone.
func unencodable(err error) bool {
	var batch pgx.ErrPreprocessingBatch
	return errors.As(err, &batch) && strings.HasPrefix(batch.Error(), "error preprocessing batch (build)")
}

// postgresClass sorts the codes of PostgreSQL's appendix A, "PostgreSQL Error Codes".
func postgresClass(code string) class {
	switch {
	case strings.HasPrefix(code, "40"), // serialisation, deadlock
		code == "55P03",                                   // lock not available
		code == "25P02",                                   // the transaction failed before
		code == "25P03",                                   // idle in transaction for too long
		code == "57P01", code == "57P02", code == "57P05", // this connection was ended; another may do
		code == "26000": // a prepared statement outlived its connection behind a pooler
		return classRetry
	case strings.HasPrefix(code, "22"), strings.HasPrefix(code, "23"):
		return classData
	case code == "25006", // became a standby
		strings.HasPrefix(code, "08"), strings.HasPrefix(code, "53"), strings.HasPrefix(code, "57"), strings.HasPrefix(code, "58"), strings.HasPrefix(code, "XX"):
		return classPlace
	}
	return classBug
}
