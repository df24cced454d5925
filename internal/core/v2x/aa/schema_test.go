package aa

import (
	"context"
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

// Who asks again gets the answer that was given before answers lay in the order of their requests.
func TestAnswersOfBefore(t *testing.T) {
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
		return err
	})
	if err := d.Migrate(t.Context(), Schema()); err != nil {
		t.Fatal(err)
	}
	do(func(ctx context.Context, tx *db.Tx) error {
		var answer []byte
		if _, err := tx.Get(ctx, []any{&answer}, selectAnswer, 5, []byte("request")); err != nil || string(answer) != "answer" {
			t.Errorf("got %q, %v", answer, err)
		}
		return nil
	})
}
