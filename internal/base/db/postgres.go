package db

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
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
	pool *pgxpool.Pool
}

const (
	postgresConns = 32
	// commitWait bounds how long the answer to a COMMIT is waited for; after it the outcome is unknown and is asked for.
	commitWait = 10 * time.Second
	oldest     = 150000 // server_version_num
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
	return &postgresEngine{pool: pool}, nil
}

func (e *postgresEngine) arrays() bool { return true }
func (e *postgresEngine) writers() int { return 2 }

func (e *postgresEngine) close() error {
	e.pool.Close()
	return nil
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
		return nil, postgresError(ctx, err)
	}
	return &postgresSession{tx: tx}, nil
}

type postgresSession struct{ tx pgx.Tx }

func (s *postgresSession) exec(ctx context.Context, sql string, args []any) (int64, error) {
	tag, err := s.tx.Exec(ctx, sql, args...)
	return tag.RowsAffected(), postgresError(ctx, err)
}

func (s *postgresSession) query(ctx context.Context, each func(Row) (bool, error), sql string, args []any) error {
	rows, err := s.tx.Query(ctx, sql, args...)
	if err != nil {
		return postgresError(ctx, err)
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
	return postgresError(ctx, rows.Err())
}

func (s *postgresSession) send(ctx context.Context, stmts []*Stmt) error {
	b := &pgx.Batch{}
	for _, st := range stmts {
		b.Queue(st.SQL, st.Args...)
	}
	results := s.tx.SendBatch(ctx, b)
	for _, st := range stmts {
		if err := s.result(results, st); err != nil {
			_ = results.Close() // says the same again
			return postgresError(ctx, err)
		}
	}
	return postgresError(ctx, results.Close())
}

func (s *postgresSession) result(results pgx.BatchResults, st *Stmt) error {
	if st.Each == nil {
		tag, err := results.Exec()
		st.N = tag.RowsAffected()
		return err
	}
	rows, err := results.Query()
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		if err := st.Each(rows); err != nil {
			return err
		}
	}
	rows.Close()
	st.N = rows.CommandTag().RowsAffected()
	return rows.Err()
}

func (s *postgresSession) commit(ctx context.Context) error {
	// A requester that hangs up must not turn a commit into an unknown outcome.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), commitWait)
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
		return postgresError(ctx, err)
	}
	return &storeError{class: classUnknown, cause: err}
}

// unclear lists the codes after which a COMMIT may have happened: transaction_resolution_unknown, statement_completion_unknown, and the
// server's going down or cancelling us while it waited for a standby.
func unclear(code string) bool {
	return code == "08007" || code == "40003" || strings.HasPrefix(code, "57")
}

func (s *postgresSession) rollback() {
	ctx, cancel := context.WithTimeout(quiet{}, commitWait)
	defer cancel()
	// When it fails the connection is broken, the pool drops it, and the server rolls back.
	_ = s.tx.Rollback(ctx)
}

// postgresError says what a failure before COMMIT left behind: never a committed transaction.
func postgresError(ctx context.Context, err error) error {
	if err == nil {
		return nil
	}
	var se *storeError
	if errors.As(err, &se) {
		return err
	}
	var pg *pgconn.PgError
	if errors.As(err, &pg) {
		return &storeError{class: postgresClass(pg.Code), unique: pg.Code == "23505", cause: fmt.Errorf("%w (%s)", err, pg.Detail)}
	}
	if ctx.Err() != nil {
		return &storeError{class: classGivenUp, cause: errors.Join(err, ctx.Err())}
	}
	var connect *pgconn.ConnectError
	if errors.As(err, &connect) {
		return &storeError{class: classPlace, cause: err}
	}
	if pgconn.SafeToRetry(err) || pgconn.Timeout(err) {
		return &storeError{class: classRetry, cause: err}
	}
	var scan pgx.ScanArgError
	if errors.As(err, &scan) {
		return &storeError{class: classBug, cause: err}
	}
	// What is left are broken connections, and mistakes in parameters that the driver found.
	if strings.Contains(err.Error(), "unable to encode") || strings.Contains(err.Error(), "expected ") {
		return &storeError{class: classBug, cause: err}
	}
	return &storeError{class: classRetry, cause: err}
}

func postgresClass(code string) class {
	switch {
	case code == "40001", code == "40P01", code == "55P03", code == "25P02":
		return classRetry
	case strings.HasPrefix(code, "22"), strings.HasPrefix(code, "23"):
		return classData
	case code == "25006", strings.HasPrefix(code, "53"), strings.HasPrefix(code, "57P"), strings.HasPrefix(code, "58"), strings.HasPrefix(code, "08"):
		return classPlace
	}
	return classBug
}
