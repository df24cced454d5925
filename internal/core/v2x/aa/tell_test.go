package aa

import (
	"context"
	"crypto/sha256"
	"testing"
	"time"

	"mooring/internal/base/db"
	"mooring/internal/base/db/dbtest"
	"mooring/internal/core/audit"
	"mooring/wire/its"
)

// Once they are named, the rows of tickets say no more by which transaction each was written: on PostgreSQL that would be the order in which they were issued, and which cocoon key was answered with it.
func TestRowsOfTicketsAreOfOneTransaction(t *testing.T) {
	t.Parallel()
	d := dbtest.Open(t, audit.Schema(), Schema())
	if !d.Arrays() {
		t.Skip("rows of SQLite say nothing of transactions")
	}
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	clock := func() time.Time { return now }
	s := New(Deps{DB: d, Now: clock, Audit: audit.New(d, audit.Options{Origin: "test", BatchKey: make([]byte, 32), Now: clock})})
	const tickets = 5
	for i := range tickets {
		sum := sha256.Sum256([]byte{byte(i)})
		if err := d.Do(t.Context(), func(ctx context.Context, tx *db.Tx) error {
			_, err := s.apply(ctx, tx, []*made{{request: sum[:], key: sum[:], answer: []byte{1}, id: its.HashedId8(sum[:]), ends: now.Add(time.Hour).Unix()}})
			return err
		}); err != nil {
			t.Fatal(err)
		}
	}
	transactions := func() (rows, n int64) {
		t.Helper()
		if err := d.View(t.Context(), func(ctx context.Context, tx *db.Tx) error {
			_, err := tx.Get(ctx, []any{&rows, &n}, `SELECT COUNT(*), COUNT(DISTINCT CAST(xmin AS text)) FROM v2x_ticket`)
			return err
		}); err != nil {
			t.Fatal(err)
		}
		return rows, n
	}
	if rows, n := transactions(); rows != tickets || n != tickets {
		t.Fatalf("%d tickets of %d transactions, want %d of as many", rows, n, tickets)
	}
	now = now.Add(time.Hour)
	if err := s.Tell(t.Context()); err != nil {
		t.Fatal(err)
	}
	if rows, n := transactions(); rows != tickets || n != 1 {
		t.Errorf("%d tickets are of %d transactions, want %d of one", rows, n, tickets)
	}
}
