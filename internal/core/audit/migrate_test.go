package audit

import (
	"context"
	"testing"
	"testing/fstest"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"mooring/internal/base/db"
	"mooring/internal/base/db/dbtest"
)

// TestARecordFromBeforeGoesOn migrates a record that the first version wrote, with a batch in the tree and one that waits, in two months.
func TestARecordFromBeforeGoesOn(t *testing.T) {
	first, err := schemaFiles.ReadFile("schema/00001_audit.sql")
	if err != nil {
		t.Fatal(err)
	}
	d := dbtest.Open(t, db.Schema{Name: "audit", FS: fstest.MapFS{"00001_audit.sql": {Data: first}}})
	signer, verifier := testKey(t, 1)
	macs := newBatchMAC(testBatchKey(1))
	entries := []Entry{sample(1), sample(7)}
	leaves := []tlog.Hash{tlog.RecordHash(entries[0].Bytes()), tlog.RecordHash(entries[1].Bytes())}
	root, f := tlog.NodeHash(leaves[0], leaves[1]), make(filter, filterSize)
	for _, e := range entries {
		f.add(termsOf(e.Action, e.Device, e.Serial))
	}
	placed := batch{stream: [8]byte{1}, seq: 1, ts: time.Date(2027, 1, 31, 23, 59, 59, 0, time.UTC).UnixMicro(), n: 2}
	waiting := batch{stream: [8]byte{1}, seq: 2, ts: time.Date(2027, 2, 1, 0, 0, 0, 0, time.UTC).UnixMicro(), n: 1}
	err = d.Do(t.Context(), func(ctx context.Context, tx *db.Tx) error {
		stmts := []*db.Stmt{
			{SQL: `INSERT INTO stream (cell, stream, node, next, checked, closed) VALUES (0, $1, '', 3, 0, 1)`, Args: []any{placed.stream[:]}},
			{SQL: `INSERT INTO audit_pos (cell, idx, stream, seq, part, n) VALUES (0, 0, $1, 1, 0, 2)`, Args: []any{placed.stream[:]}},
			{SQL: `INSERT INTO audit_cursor (cell, stream, seq, part) VALUES (0, $1, 1, 0)`, Args: []any{placed.stream[:]}},
			{SQL: `INSERT INTO audit_tile (cell, level, n, data) VALUES (0, 0, 0, $1)`, Args: []any{append(leaves[0][:], leaves[1][:]...)}},
			{SQL: `INSERT INTO audit_filter (cell, block, data) VALUES (0, 0, $1)`, Args: []any{[]byte(f)}},
			{SQL: `INSERT INTO tree (cell, size, root) VALUES (0, 2, $1)`, Args: []any{root[:]}},
		}
		for b, of := range map[batch][]Entry{placed: entries, waiting: {sample(8)}} {
			body := appendBody(nil, b.ts, of)
			stmts = append(stmts, &db.Stmt{SQL: insertBatch, Args: []any{b.stream[:], b.seq, b.part, b.ts, b.n, body, macs.sum(b, body)}})
		}
		return tx.Send(ctx, stmts...)
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Migrate(t.Context(), Schema()); err != nil {
		t.Fatalf("migrating: %v", err)
	}
	now := &clock{now: time.Date(2027, 3, 5, 0, 0, 0, 0, time.UTC)}
	k := &keeper{clock: now, Log: New(d, Options{Origin: origin, Signer: signer, Verifier: verifier, BatchKey: testBatchKey(1), Now: now.Now,
		Retention: Retention{Keep: MinKeep, Checkers: func() []Checker { return []Checker{(&tallyChecker{}).checker()} }}})}
	if err := k.Record(t.Context(), sample(9)); err != nil {
		t.Fatalf("recording after the migration: %v", err)
	}
	sequence(t, k.Log)
	if r := verify(t, k.Log, VerifyOptions{}); len(r.Findings) > 0 || r.Entries != 4 {
		t.Errorf("%d entries, %v", r.Entries, r.Findings)
	}
	now.move(65 * 24 * time.Hour) // the ninth of May: January is over, and so is the batch of the first version that was in the tree
	if left := k.drop(t); left.Month != "2027-01" || left.Entries != 2 {
		t.Errorf("%+v left", left)
	}
	if r := verify(t, k.Log, VerifyOptions{Checkers: k.retention.Checkers()}); len(r.Findings) > 0 || r.Dropped != 2 {
		t.Errorf("%d of %d entries left, %v", r.Dropped, r.Entries, r.Findings)
	}
}
