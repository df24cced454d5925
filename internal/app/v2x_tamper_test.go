package app_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"mooring/internal/app/apptest"
	"mooring/internal/base/db"
	"mooring/internal/core/audit"
)

// TestV2XListsLeave publishes more lists than are kept. Both stores verify all the same, and a list of theirs that is gone or was changed is named, as is an
// authority.
func TestV2XListsLeave(t *testing.T) {
	t.Parallel()
	p := startV2X(t, nil)
	ctx := t.Context()
	for n := range 260 {
		must(t, p.V2X.Trust.Move(ctx, apptest.Operator(), p.made.AA, fmt.Sprintf("http://aa-%d.test", n), ""))
		st := p.V2X.Trust.State()
		must(t, p.Tickets().Trust.Accept(ctx, st.Full, st.CRL))
	}
	p.verify(t)
	for _, store := range []struct {
		name     string
		db       *db.DB
		log      *audit.Log
		checkers func() []audit.Checker
	}{{"platform", p.DB, p.Audit, p.Checkers}, {"authorization authority", p.Tickets().DB, p.Tickets().Audit, p.Tickets().Checkers}} {
		for _, row := range []struct{ change, back, table string }{
			{`UPDATE v2x_list SET cell = 1 WHERE kind = 1 AND number = 200`, `UPDATE v2x_list SET cell = 0 WHERE kind = 1 AND number = 200`, "v2x_list"},
			{`UPDATE v2x_list SET ends = ends + 1 WHERE kind = 1 AND number = 100`, `UPDATE v2x_list SET ends = ends - 1 WHERE kind = 1 AND number = 100`, "v2x_list"},
			{`UPDATE v2x_authority SET revoked = 1 WHERE role = 3`, `UPDATE v2x_authority SET revoked = 0 WHERE role = 3`, "v2x_authority"},
		} {
			alterV2X(t, store.db, row.change)
			report, err := store.log.Verify(ctx, audit.VerifyOptions{Checkers: store.checkers()})
			must(t, err)
			if !strings.Contains(fmt.Sprint(report.Findings), "table "+row.table) {
				t.Errorf("%s: after %s: %v, want something about table %s", store.name, row.change, report.Findings, row.table)
			}
			alterV2X(t, store.db, row.back)
		}
		var lists int64
		must(t, store.db.View(ctx, func(ctx context.Context, tx *db.Tx) error {
			_, err := tx.Get(ctx, []any{&lists}, `SELECT COUNT(*) FROM v2x_list WHERE kind = 1`)
			return err
		}))
		if lists != 256 {
			t.Errorf("%s: %d full lists are kept, want 256", store.name, lists)
		}
	}
}

// alterV2X changes one row behind everybody's back.
func alterV2X(t *testing.T, of *db.DB, sql string) {
	t.Helper()
	must(t, of.Do(t.Context(), func(ctx context.Context, tx *db.Tx) error {
		if n, err := tx.Exec(ctx, sql); err != nil || n != 1 {
			return fmt.Errorf("%s changed %d rows: %w", sql, n, err)
		}
		return nil
	}))
}
