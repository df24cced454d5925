package db

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
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
		return nil, errs.Wrap(errs.Unavailable, err, "PostgreSQL at %s does not answer; check the URL, the password and that it runs", cfg.ConnConfig.Host)
	}
	if version < oldest {
		pool.Close()
		return nil, errs.New(errs.Invalid, "PostgreSQL %d is too old: version 15 or later is needed", version/10000)
	}
	return &postgresEngine{pool: pool, commitWait: 10 * time.Second}, nil
}

func (e *postgresEngine) arrays() bool { return true }
func (e *postgresEngine) writers() int { return 2 }

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

func (e *postgresEngine) begin(ctx context.Context, write bool) (session, error) {
	opts := pgx.TxOptions{}
	if !write {
		// One snapshot for the whole look; read-only, so that it can never fail to serialise with more than a retry.
		opts = pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}
	}
	tx, err := e.pool.BeginTx(ctx, opts)
	if err != nil {
		return nil, postgresError(ctx, err, false)
	}
	return &postgresSession{tx: tx, commitWait: e.commitWait}, nil
}

type postgresSession struct {
	tx         pgx.Tx
	commitWait time.Duration
}

// failure says what a failed statement left behind.
func (s *postgresSession) failure(ctx context.Context, err error) error {
	return postgresError(ctx, err, !s.tx.Conn().IsClosed())
}

func (s *postgresSession) exec(ctx context.Context, sql string, args []any) (int64, error) {
	tag, err := s.tx.Exec(ctx, sql, postgresArgs(args)...)
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
	rows, err := s.tx.Query(ctx, sql, postgresArgs(args)...)
	if err != nil {
		return s.failure(ctx, err)
	}
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
	b := &pgx.Batch{}
	for _, st := range stmts {
		b.Queue(st.SQL, postgresArgs(st.Args)...)
	}
	results := s.tx.SendBatch(ctx, b)
	open := true
	defer func() {
		if open { // a row's callback failed or panicked
			_ = results.Close() // whatever it says, the transaction is rolled back
		}
	}()
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

func (s *postgresSession) commit(ctx context.Context) error {
	// A requester that hangs up must not turn a commit into an unknown outcome.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.commitWait)
	defer cancel()
	err := s.tx.Commit(ctx)
	if err == nil {
		return nil
	}
	var pg *pgconn.PgError
	switch {
	case errors.Is(err, pgx.ErrTxCommitRollback):
		return &storeError{class: classRetry, cause: err}
	case pgconn.SafeToRetry(err):
		return &storeError{class: classRetry, cause: err}
	case errors.As(err, &pg) && !unclear(pg.Code):
		return postgresError(ctx, err, true)
	}
	return &storeError{class: classUnknown, cause: err}
}

// unclear lists the codes after which a COMMIT may have happened: transaction_resolution_unknown, statement_completion_unknown, and the
// server's going down or cancelling us while it waited for a standby.
func unclear(code string) bool {
	return code == "08007" || code == "40003" || strings.HasPrefix(code, "57")
}

func (s *postgresSession) rollback() {
	ctx, cancel := context.WithTimeout(quiet{}, s.commitWait)
	defer cancel()
	// When it fails the connection is broken, the pool drops it, and the server rolls back.
	_ = s.tx.Rollback(ctx)
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
