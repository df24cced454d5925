package db

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// aloneWait bounds how long a statement that runs alone waits for the locks of others, so that it never stands in front of them for long.
const aloneWait = 5 * time.Second

// Alone runs one statement outside any transaction, for the few that PostgreSQL runs no other way, such as ALTER TABLE … DETACH PARTITION …
// CONCURRENTLY. When it fails, part of it may have been done: whoever calls it looks at what is there and goes on from that. It is for
// PostgreSQL only (Arrays).
func (d *DB) Alone(ctx context.Context, sql string) (err error) {
	e, ok := d.engine.(*postgresEngine)
	if !ok {
		return errors.New("a statement was to run outside a transaction on an engine that has no need of it")
	}
	if err := d.usable(); err != nil {
		return err
	}
	conn, err := e.pool.Acquire(ctx)
	if err != nil {
		return postgresError(ctx, err, false)
	}
	defer conn.Release()
	raw := conn.Conn().PgConn()
	if _, err := raw.Exec(ctx, fmt.Sprintf("SET lock_timeout = %d", aloneWait.Milliseconds())).ReadAll(); err != nil {
		return postgresError(ctx, err, !conn.Conn().IsClosed())
	}
	defer func() {
		_, reset := raw.Exec(context.WithoutCancel(ctx), "RESET lock_timeout").ReadAll()
		err = errors.Join(err, reset)
	}()
	_, err = raw.Exec(ctx, sql).ReadAll()
	return postgresError(ctx, err, !conn.Conn().IsClosed())
}
