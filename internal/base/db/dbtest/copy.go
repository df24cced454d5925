package dbtest

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"io/fs"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"mooring/internal/base/db"
)

// Source is a database on the PostgreSQL server of the tests of which they get copies. To copy one costs a tenth of making its tables.
// It stays when the process has ended, because nothing tells a package when its last test has; the next process drops what is older than any
// test takes.
type Source struct{ server, name string }

// NewSource makes a source: fill is given the URL of an empty database, and leaves nothing open there. server is what MOORING_TEST_DB holds; its
// user must be permitted to create databases.
func NewSource(server string, fill func(url string) error) (*Source, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	s := &Source{server, newName("source")}
	if err := s.do(ctx, func(conn *pgx.Conn) error {
		if err := dropOld(ctx, conn); err != nil {
			return err
		}
		_, err := conn.Exec(ctx, `CREATE DATABASE `+s.name)
		return err
	}); err != nil {
		return nil, fmt.Errorf("making a database of which tests get copies (MOORING_TEST_DB needs a user who may create databases): %w", err)
	}
	to, err := s.url(s.name)
	if err != nil {
		return nil, err
	}
	return s, fill(to)
}

// Copy makes a copy for t, which is dropped at its end, and returns its URL.
func (s *Source) Copy(t testing.TB) string {
	t.Helper()
	name := newName("copy")
	admin(t, s.server, `CREATE DATABASE `+name+` TEMPLATE `+s.name)
	t.Cleanup(func() { admin(t, s.server, `DROP DATABASE `+name+` WITH (FORCE)`) })
	to, err := s.url(name)
	if err != nil {
		t.Fatal(err)
	}
	return to
}

func (s *Source) url(database string) (string, error) {
	u, err := url.Parse(s.server)
	if err != nil {
		return "", fmt.Errorf("MOORING_TEST_DB is not a URL: %w", err)
	}
	u.Path = "/" + database
	return u.String(), nil
}

func (s *Source) do(ctx context.Context, work func(*pgx.Conn) error) error {
	conn, err := pgx.Connect(ctx, s.server)
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	return work(conn)
}

const (
	prefix = "mooring_test_"
	stale  = 2 * time.Hour
)

// newName names a database after what it is and when it was made.
func newName(what string) string {
	return prefix + strconv.FormatInt(time.Now().Unix(), 10) + "_" + what + "_" + strings.ToLower(rand.Text()[:12])
}

// dropOld drops what processes left that ended long ago.
func dropOld(ctx context.Context, conn *pgx.Conn) error {
	rows, err := conn.Query(ctx, `SELECT datname FROM pg_database WHERE starts_with(datname, $1)`, prefix)
	if err != nil {
		return err
	}
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return err
	}
	for _, name := range names {
		text, _, _ := strings.Cut(strings.TrimPrefix(name, prefix), "_")
		made, err := strconv.ParseInt(text, 10, 64)
		if err == nil && time.Since(time.Unix(made, 0)) > stale {
			_, _ = conn.Exec(ctx, `DROP DATABASE IF EXISTS `+name+` WITH (FORCE)`) // another process may be doing the same
		}
	}
	return nil
}

// sources are those of a process, by the migrations that were done in them.
type sources struct {
	mu   sync.Mutex
	made map[[sha256.Size]byte]func() (*Source, error) // guarded by mu
}

var shared = sync.OnceValue(func() *sources { return &sources{made: map[[sha256.Size]byte]func() (*Source, error){}} })

// of returns the source in which exactly these schemas are.
func (s *sources) of(server string, schemas []db.Schema) (*Source, error) {
	sum, err := digest(schemas)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	source := s.made[sum]
	if source == nil {
		source = sync.OnceValues(func() (*Source, error) {
			return NewSource(server, func(url string) error { return migrated(url, schemas) })
		})
		s.made[sum] = source
	}
	s.mu.Unlock()
	return source()
}

func migrated(url string, schemas []db.Schema) error {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	d, err := db.Open(ctx, db.Options{URL: url, Now: time.Now, Node: "test"})
	if err != nil {
		return err
	}
	if err := d.Migrate(ctx, schemas...); err != nil {
		return err
	}
	return d.Close(ctx)
}

// digest tells schemas apart by the text of their migrations.
func digest(schemas []db.Schema) (sum [sha256.Size]byte, err error) {
	var all bytes.Buffer
	for _, s := range schemas {
		fmt.Fprintf(&all, "%q\n", s.Name)
		err := fs.WalkDir(s.FS, ".", func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			text, err := fs.ReadFile(s.FS, path)
			fmt.Fprintf(&all, "%q %q\n", path, text)
			return err
		})
		if err != nil {
			return sum, err
		}
	}
	return sha256.Sum256(all.Bytes()), nil
}
