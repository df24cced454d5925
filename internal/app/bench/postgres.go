package bench

import (
	"context"
	"crypto/rand"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

// schema makes an empty schema on a PostgreSQL server and returns a URL that leads into it, and what drops it again.
func schema(ctx context.Context, server string) (in string, drop func() error, err error) {
	u, err := url.Parse(server)
	if err != nil {
		return "", nil, fmt.Errorf("the database URL cannot be parsed: %w", err)
	}
	name := "bench_" + strings.ToLower(rand.Text()[:12])
	if err := statement(ctx, server, "CREATE SCHEMA "+name); err != nil {
		return "", nil, err
	}
	q := u.Query()
	q.Set("search_path", name)
	u.RawQuery = q.Encode()
	return u.String(), func() error { return statement(context.WithoutCancel(ctx), server, "DROP SCHEMA "+name+" CASCADE") }, nil
}

// postmasterOf returns the process that all processes of a PostgreSQL server descend from. The server must run on this machine.
func postmasterOf(ctx context.Context, server string) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	conn, err := pgx.Connect(ctx, server)
	if err != nil {
		return 0, fmt.Errorf("connecting to PostgreSQL: %w", err)
	}
	defer conn.Close(ctx)
	var backend int
	if err := conn.QueryRow(ctx, "SELECT pg_backend_pid()").Scan(&backend); err != nil {
		return 0, fmt.Errorf("asking PostgreSQL for its process: %w", err)
	}
	s, err := readStat(backend)
	if err != nil {
		return 0, fmt.Errorf("PostgreSQL must run on this machine, so that its CPU time can be read: %w", err)
	}
	return s.parent, nil
}

// settle does now what PostgreSQL would do about the import behind the back of what is measured: hint bits, visibility, statistics, and the
// writing of dirty pages.
func settle(ctx context.Context, url string) error {
	for _, text := range []string{"VACUUM (ANALYZE)", "CHECKPOINT"} {
		if err := statement(ctx, url, text); err != nil {
			return err
		}
	}
	return nil
}

func statement(ctx context.Context, server, text string) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	conn, err := pgx.Connect(ctx, server)
	if err != nil {
		return fmt.Errorf("connecting to PostgreSQL: %w", err)
	}
	defer conn.Close(ctx)
	if _, err := conn.Exec(ctx, text); err != nil {
		return fmt.Errorf("%s: %w", text, err)
	}
	return nil
}
