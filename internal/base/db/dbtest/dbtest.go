// Package dbtest opens a real database for a test: an SQLite file in the test's own folder, or, when MOORING_TEST_DB holds a PostgreSQL
// URL, a fresh schema or database there that is dropped afterwards. The same tests run on both.
package dbtest

import (
	"context"
	"crypto/rand"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"mooring/internal/base/db"
)

// URL returns the URL of an empty database for t.
func URL(t testing.TB) string {
	t.Helper()
	server := os.Getenv("MOORING_TEST_DB")
	if server == "" {
		return "sqlite:" + filepath.Join(t.TempDir(), "mooring.db")
	}
	u, err := url.Parse(server)
	if err != nil {
		t.Fatalf("MOORING_TEST_DB is not a URL: %v", err)
	}
	name := "t_" + strings.ToLower(rand.Text()[:12])
	admin(t, server, `CREATE SCHEMA `+name)
	t.Cleanup(func() { admin(t, server, `DROP SCHEMA `+name+` CASCADE`) })
	q := u.Query()
	q.Set("search_path", name)
	u.RawQuery = q.Encode()
	return u.String()
}

func admin(t testing.TB, server, statement string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	conn, err := pgx.Connect(ctx, server)
	if err != nil {
		t.Fatalf("connecting to MOORING_TEST_DB: %v", err)
	}
	defer conn.Close(ctx)
	if _, err := conn.Exec(ctx, statement); err != nil {
		t.Errorf("%s: %v", statement, err)
	}
}

// Open opens and migrates an empty database for t and closes it at t's end.
func Open(t testing.TB, schemas ...db.Schema) *db.DB {
	t.Helper()
	server := os.Getenv("MOORING_TEST_DB")
	if server == "" {
		return OpenURL(t, URL(t), schemas...)
	}
	source, err := shared().of(server, schemas)
	if err != nil {
		t.Fatal(err)
	}
	return OpenURL(t, source.Copy(t), schemas...)
}

// OpenURL is Open for a database that may exist already.
func OpenURL(t testing.TB, url string, schemas ...db.Schema) *db.DB {
	t.Helper()
	d, err := db.Open(t.Context(), db.Options{URL: url, Now: time.Now, Node: "test"})
	if err != nil {
		t.Fatalf("opening %s: %v", url, err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := d.Close(ctx); err != nil {
			t.Errorf("closing %s: %v", url, err)
		}
	})
	if err := d.Migrate(t.Context(), schemas...); err != nil {
		t.Fatalf("migrating %s: %v", url, err)
	}
	return d
}
