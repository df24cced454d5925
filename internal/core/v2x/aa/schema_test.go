package aa

import (
	"context"
	"errors"
	"testing"
	"testing/fstest"

	"mooring/internal/base/db"
	"mooring/internal/base/db/dbtest"
)

// before is this slice's schema as it was up to a migration.
func before(t *testing.T, files ...string) db.Schema {
	t.Helper()
	now, old := Schema(), fstest.MapFS{}
	for _, name := range files {
		b, err := schemaFiles.ReadFile("schema/" + name)
		if err != nil {
			t.Fatal(err)
		}
		old[name] = &fstest.MapFile{Data: b}
	}
	return db.Schema{Name: now.Name, FS: old}
}

// What was written before answers lay in the order of their requests is found: who asks again gets the answer that was given, and tickets that are not told of yet are still to be told of.
func TestRowsOfBefore(t *testing.T) {
	t.Parallel()
	d := dbtest.Open(t, before(t, "00001_aa.sql", "00002_butterfly.sql", "00003_told.sql"))
	do := func(fn func(ctx context.Context, tx *db.Tx) error) {
		t.Helper()
		if err := d.Do(t.Context(), fn); err != nil {
			t.Fatal(err)
		}
	}
	do(func(ctx context.Context, tx *db.Tx) error {
		_, err := tx.Exec(ctx, `INSERT INTO v2x_answer (cell, request, answer, at) VALUES (0, $1, $2, 7)`, []byte("request"), []byte("answer"))
		_, err2 := tx.Exec(ctx, `INSERT INTO v2x_ticket (cell, key, id, hour, ends, told) VALUES (0, $1, $2, 3600, 9, 0), (0, $3, $4, 3600, 9, 1)`, []byte("a"), []byte("untold"), []byte("b"), []byte("told"))
		return errors.Join(err, err2)
	})
	if err := d.Migrate(t.Context(), Schema()); err != nil {
		t.Fatal(err)
	}
	do(func(ctx context.Context, tx *db.Tx) error {
		var answer []byte
		if _, err := tx.Get(ctx, []any{&answer}, selectAnswer, 5, []byte("request")); err != nil || string(answer) != "answer" {
			t.Errorf("got %q, %v", answer, err)
		}
		var untold []string
		err := tx.Each(ctx, func(row db.Row) error {
			var hour int64
			var id, key []byte
			err := row.Scan(&hour, &id, &key)
			untold = append(untold, string(id))
			return err
		}, selectUntold, 3601)
		if len(untold) != 1 || untold[0] != "untold" {
			t.Errorf("to be told of: %q", untold)
		}
		return err
	})
}
