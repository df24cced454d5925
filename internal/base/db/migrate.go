package db

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/lock"

	"mooring/internal/base/errs"
)

// migrateAll brings every schema to its newest version, each with a version table of its own, in order.
func migrateAll(ctx context.Context, pool *sql.DB, engine string, schemas []Schema) error {
	for _, sc := range schemas {
		files := rewritten{sc.FS, engine}
		options := []goose.ProviderOption{goose.WithTableName("version_" + sc.Name), goose.WithDisableGlobalRegistry(true)}
		dialect := goose.DialectSQLite3
		if engine == "postgres" {
			dialect = goose.DialectPostgres
			// A row as lock: advisory locks belong to a database session and fail behind a pooler.
			locker, err := lock.NewPostgresTableLocker()
			if err != nil {
				return fmt.Errorf("preparing the migration lock: %w", err)
			}
			options = append(options, goose.WithLocker(locker))
		}
		p, err := goose.NewProvider(dialect, pool, files, options...)
		if err != nil {
			return fmt.Errorf("preparing the migrations of %s: %w", sc.Name, err)
		}
		if err := tooNew(ctx, p, sc.Name); err != nil {
			return err
		}
		if _, err := p.Up(ctx); err != nil {
			return fmt.Errorf("migrating %s: %w", sc.Name, err)
		}
	}
	return nil
}

// tooNew refuses a database that a newer release has migrated: this one does not know what the columns mean there.
func tooNew(ctx context.Context, p *goose.Provider, name string) error {
	current, target, err := p.GetVersions(ctx)
	if err != nil {
		return fmt.Errorf("reading the version of %s: %w", name, err)
	}
	if current > target {
		return errs.New(errs.Conflict, "the database is of a newer release (%s has version %d, this program knows %d); use that release", name, current, target)
	}
	return nil
}

// rewritten is a file system in which the comments meant for one engine have become text.
type rewritten struct {
	fs     fs.FS
	engine string
}

func (r rewritten) Open(name string) (fs.File, error) {
	f, err := r.fs.Open(name)
	if err != nil || !strings.HasSuffix(name, ".sql") {
		return f, err
	}
	text, err := fs.ReadFile(r.fs, name)
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &rewrittenFile{File: f, text: bytes.NewReader([]byte(forEngine(string(text), r.engine)))}, nil
}

type rewrittenFile struct {
	fs.File
	text *bytes.Reader
}

func (f *rewrittenFile) Read(p []byte) (int, error) { return f.text.Read(p) }

// forEngine turns every comment of the form /*engine: text */ into its text.
func forEngine(text, engine string) string {
	open := "/*" + engine + ":"
	for {
		before, rest, found := strings.Cut(text, open)
		if !found {
			return text
		}
		inner, after, closed := strings.Cut(rest, "*/")
		if !closed {
			return text
		}
		text = before + inner + after
	}
}
