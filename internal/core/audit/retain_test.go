package audit

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"mooring/internal/base/db"
	"mooring/internal/base/db/dbtest"
	"mooring/internal/base/errs"
	"mooring/internal/core/access"
)

// tallyChecker counts the entries of each device, which stands for what a slice's table would say.
type tallyChecker struct{ seen map[string]int64 }

func (c *tallyChecker) checker() Checker {
	c.seen = map[string]int64{}
	return Checker{
		Name: "tally",
		Entry: func(_ int64, e Entry) error {
			if e.Device != "" {
				c.seen[e.Device]++
			}
			return nil
		},
		Finish: func(context.Context, *db.Tx) error { return nil },
		Save: func(_ context.Context, _ *db.Tx, w *StateWriter) error {
			w.Uint(uint64(len(c.seen)))
			for _, id := range slices.Sorted(maps.Keys(c.seen)) {
				w.Text(id)
				w.Int(c.seen[id])
			}
			return nil
		},
		Load: func(r *StateReader) error {
			for range r.Len() {
				id := r.Text()
				c.seen[id] = r.Int()
				if r.Err() != nil {
					break
				}
			}
			return r.Err()
		},
	}
}

// keeper is a record of which entries leave after 100 days.
type keeper struct {
	*Log
	clock   *clock
	entries int
	broken  error // what the slice's checker complains about
}

func newKeeper(t *testing.T) *keeper {
	t.Helper()
	signer, verifier := testKey(t, 1)
	k := &keeper{clock: &clock{now: time.Date(2027, 1, 5, 0, 0, 0, 0, time.UTC)}}
	k.Log = New(dbtest.Open(t, Schema()), Options{Origin: origin, Signer: signer, Verifier: verifier, BatchKey: testBatchKey(1), Now: k.clock.Now,
		Retention: Retention{Keep: 100 * 24 * time.Hour, Checkers: k.checkers}})
	return k
}

func (k *keeper) checkers() []Checker {
	c := (&tallyChecker{}).checker()
	c.Finish = func(context.Context, *db.Tx) error { return k.broken }
	return []Checker{c}
}

// live records something every four days, until the given day.
func (k *keeper) live(t *testing.T, until time.Time) {
	t.Helper()
	for k.clock.Now().Before(until) {
		k.entries = fill(t, k.Log, k.entries, 30)
		k.clock.move(4 * 24 * time.Hour)
		sequence(t, k.Log)
	}
}

var keeperActor = access.Actor{Kind: access.KindLocal, ID: "test", Role: access.RoleAdmin}

func (k *keeper) drop(t *testing.T) Dropped {
	t.Helper()
	d, err := k.Drop(t.Context(), keeperActor)
	if err != nil {
		t.Fatalf("dropping: %v", err)
	}
	return d
}

// whole verifies and wants no finding and a tally of everything that was ever recorded.
func (k *keeper) whole(t *testing.T) Report {
	t.Helper()
	c := &tallyChecker{}
	r := verify(t, k.Log, VerifyOptions{Checkers: []Checker{c.checker()}})
	if len(r.Findings) > 0 {
		t.Fatalf("findings: %v", r.Findings)
	}
	want := map[string]int64{}
	for n := range k.entries {
		want[sample(n).Device]++
	}
	if !maps.Equal(c.seen, want) {
		t.Errorf("the checker knows %v, want %v", c.seen, want)
	}
	return r
}

func (k *keeper) count(t *testing.T, table string) (n int64) {
	t.Helper()
	err := k.db.View(t.Context(), func(ctx context.Context, tx *db.Tx) error {
		_, err := tx.Get(ctx, []any{&n}, "SELECT COUNT(*) FROM "+table)
		return err
	})
	if err != nil {
		t.Fatalf("counting %s: %v", table, err)
	}
	return n
}

func TestOldEntriesLeave(t *testing.T) {
	k := newKeeper(t)
	k.live(t, time.Date(2027, 4, 20, 0, 0, 0, 0, time.UTC))
	if d := k.drop(t); d != (Dropped{}) {
		t.Fatalf("%+v left before its time", d)
	}
	before := k.count(t, "audit_batch")
	proof, err := k.Prove(t.Context(), 7)
	if err != nil {
		t.Fatal(err)
	}
	known, _, err := k.Checkpoint(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	k.live(t, time.Date(2027, 6, 12, 0, 0, 0, 0, time.UTC))
	d := k.drop(t)
	if d.Month != "2027-02" || d.Entries != d.Snapshot || d.Entries < 300 {
		t.Errorf("%+v left, want all up to the end of February", d)
	}
	if r := k.whole(t); r.Dropped != d.Entries || r.Replayed != d.Snapshot {
		t.Errorf("the report says %d entries left and what follows %d was replayed, want %d and %d", r.Dropped, r.Replayed, d.Entries, d.Snapshot)
	}
	if r := verify(t, k.Log, VerifyOptions{Checkers: k.checkers(), Known: [][]byte{known}}); len(r.Findings) > 0 {
		t.Errorf("with a checkpoint from before: %v", r.Findings)
	}
	if after := k.count(t, "audit_batch"); after >= k.count(t, "audit_pos") || after == before {
		t.Errorf("%d batches are there, %d positions", after, k.count(t, "audit_pos"))
	}
	if n := k.count(t, "audit_filter"); n != (k.count64(t, "SELECT size FROM tree")+255)/256-d.Entries/256 {
		t.Errorf("%d filters are left", n)
	}
	k.proofs(t, proof, d)
	k.readers(t, d)

	k.live(t, time.Date(2027, 8, 15, 0, 0, 0, 0, time.UTC))
	again := k.drop(t)
	if again.Month != "2027-04" || again.Snapshot <= d.Snapshot {
		t.Errorf("%+v left, want all up to the end of April", again)
	}
	if r := k.whole(t); r.Dropped != again.Entries {
		t.Errorf("%d entries left, want %d", r.Dropped, again.Entries)
	}
	if n := k.count(t, "audit_snapshot"); n != 1 {
		t.Errorf("%d snapshots are kept", n)
	}
	if d := k.drop(t); d != (Dropped{}) {
		t.Errorf("%+v left a second time", d)
	}
}

func (k *keeper) count64(t *testing.T, query string) (n int64) {
	t.Helper()
	if err := k.db.View(t.Context(), func(ctx context.Context, tx *db.Tx) error {
		_, err := tx.Get(ctx, []any{&n}, query)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return n
}

// proofs wants an entry that left to be proven by its hash, and the proof from before to hold.
func (k *keeper) proofs(t *testing.T, before Proof, d Dropped) {
	t.Helper()
	after, err := k.Prove(t.Context(), before.Index)
	if err != nil {
		t.Fatalf("proving an entry that left: %v", err)
	}
	if after.Entry != nil || after.Left != k.clock.Now().Unix() || after.Leaf != before.Leaf {
		t.Errorf("the proof holds %q and says that it left at %d, hash %v, want %v", after.Entry, after.Left, after.Leaf, before.Leaf)
	}
	if err := errors.Join(CheckProof(before.Text(), before.Entry, k.verifier), CheckProof(after.Text(), before.Entry, k.verifier), CheckLeaf(after.Text(), before.Leaf, k.verifier)); err != nil {
		t.Error(err)
	}
	if err := CheckLeaf(after.Text(), [32]byte{1}, k.verifier); err == nil {
		t.Error("another hash was proven")
	}
	if there, err := k.Prove(t.Context(), d.Snapshot); err != nil || there.Left != 0 || there.Entry == nil {
		t.Errorf("the proof of an entry that is there: %+v, %v", there, err)
	}
}

// readers wants lists to begin where entries are, and followers to be told that they miss something.
func (k *keeper) readers(t *testing.T, d Dropped) {
	t.Helper()
	list, err := k.List(t.Context(), auditor, Query{Limit: 5})
	if err != nil || len(list) != 5 || list[0].Index != d.Snapshot {
		t.Errorf("the list begins with %v, %v; want entry %d", list, err, d.Snapshot)
	}
	if list, err = k.List(t.Context(), auditor, Query{Action: "device.state", Limit: 1000}); err != nil || len(list) == 0 || list[0].Index < d.Snapshot {
		t.Errorf("the search begins with %v, %v", list, err)
	}
	if list, err = k.List(t.Context(), auditor, Query{Newest: true, After: d.Snapshot}); err != nil || len(list) > 0 {
		t.Errorf("of what left the list shows %v, %v", list, err)
	}
	if _, _, err := k.Scan(t.Context(), 3, []string{"cert.issue"}); !errs.Is(err, errs.NotFound) || !strings.Contains(errs.Public(err), fmt.Sprint(d.Snapshot)) {
		t.Errorf("a follower who misses entries is told %v", err)
	}
	if page, _, err := k.Scan(t.Context(), d.Snapshot, []string{"cert.issue"}); err != nil || len(page) == 0 {
		t.Errorf("a follower who misses nothing is given %d entries and %v", len(page), err)
	}
	if err := k.Watch(t.Context(), 0, func(Indexed) error { return nil }); !errs.Is(err, errs.NotFound) {
		t.Errorf("a watcher who misses entries is told %v", err)
	}
}

func TestNothingLeavesThatDoesNotVerify(t *testing.T) {
	k := newKeeper(t)
	k.live(t, time.Date(2027, 6, 12, 0, 0, 0, 0, time.UTC))
	k.broken = errors.New("the table says something else")
	if d, err := k.Drop(t.Context(), keeperActor); !errs.Is(err, errs.Conflict) || !strings.Contains(errs.Public(err), "something else") {
		t.Errorf("%+v left, %v", d, err)
	}
	if n := k.count(t, "audit_snapshot"); n != 0 || k.count(t, "audit_batch") != k.count(t, "audit_pos") {
		t.Errorf("%d snapshots, %d of %d batches", n, k.count(t, "audit_batch"), k.count(t, "audit_pos"))
	}
	k.broken = nil
	if d := k.drop(t); d.Month != "2027-02" {
		t.Errorf("%+v left when everything fitted again", d)
	}
	k.whole(t)
}

func TestAHoldKeepsEverything(t *testing.T) {
	k := newKeeper(t)
	k.live(t, time.Date(2027, 6, 12, 0, 0, 0, 0, time.UTC))
	k.retention.Hold = true
	if _, err := k.Drop(t.Context(), keeperActor); !errs.Is(err, errs.Conflict) || !strings.Contains(errs.Public(err), "retention.hold") {
		t.Errorf("under a hold: %v", err)
	}
	if _, err := k.Drop(t.Context(), auditor); !errs.Is(err, errs.Denied) {
		t.Errorf("an auditor may let entries leave: %v", err)
	}
	sequence(t, k.Log) // the refusal
	if k.count(t, "audit_batch") != k.count(t, "audit_pos") {
		t.Error("something left")
	}
}

// TestAnInterruptedDropIsTakenUp: between the decision and the last row, everything verifies at every step, and the next pass goes on.
func TestAnInterruptedDropIsTakenUp(t *testing.T) {
	k := newKeeper(t)
	k.live(t, time.Date(2027, 6, 12, 0, 0, 0, 0, time.UTC))
	decided := func(ctx context.Context, lease *db.Lease) error {
		d, err := k.findDue(ctx)
		if err == nil {
			_, err = k.giveUp(ctx, lease, keeperActor, d)
		}
		return err
	}
	if err := k.once(t.Context(), decided); err != nil {
		t.Fatal(err)
	}
	if k.count(t, "audit_batch") < k.count(t, "audit_pos") {
		t.Fatal("something left already")
	}
	k.whole(t)
	if !k.db.Arrays() { // half of the rows are gone
		exec2(t, k.Log, `DELETE FROM audit_batch WHERE seq % 2 = 0 AND ts < (SELECT ts FROM audit_pos WHERE idx >= 200 ORDER BY idx LIMIT 1)`)
		k.whole(t)
	}
	k.drop(t)
	k.whole(t)
	if n := k.count64(t, `SELECT COUNT(*) FROM audit_batch WHERE ts < 1803859200000000`); n != 0 { // March 2027
		t.Errorf("%d batches of February and before are there", n)
	}
}

// exec2 runs a statement that may change any number of rows.
func exec2(t *testing.T, l *Log, sql string, args ...any) {
	t.Helper()
	if err := l.db.Do(t.Context(), func(ctx context.Context, tx *db.Tx) error {
		_, err := tx.Exec(ctx, sql, args...)
		return err
	}); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

// TestWhatIsKeptIsGuarded damages what stands for the entries that left, and what should not have left, and wants each named.
func TestWhatIsKeptIsGuarded(t *testing.T) {
	k := newKeeper(t)
	k.live(t, time.Date(2027, 6, 12, 0, 0, 0, 0, time.UTC))
	k.drop(t)
	k.live(t, time.Date(2027, 6, 20, 0, 0, 0, 0, time.UTC))
	k.whole(t)
	for name, c := range map[string]struct{ change, back, table string }{
		"the month":      {`UPDATE audit_snapshot SET month = month + 1`, `UPDATE audit_snapshot SET month = month - 1`, "audit_snapshot"},
		"a month less":   {`UPDATE audit_snapshot SET month = month - 1`, `UPDATE audit_snapshot SET month = month + 1`, "audit_snapshot"},
		"the time":       {`UPDATE audit_snapshot SET at = at + 1`, `UPDATE audit_snapshot SET at = at - 1`, "audit_snapshot"},
		"the place":      {`UPDATE audit_snapshot SET idx = idx + 1`, `UPDATE audit_snapshot SET idx = idx - 1`, "audit_snapshot"},
		"a part's place": {`UPDATE audit_snapshot_part SET part = part - 1`, `UPDATE audit_snapshot_part SET part = part + 1`, "audit_snapshot"},
		"another's part": {`UPDATE audit_snapshot_part SET idx = idx + 1`, `UPDATE audit_snapshot_part SET idx = idx - 1`, "audit_snapshot_part"},
		"a part more":    {`INSERT INTO audit_snapshot_part (cell, idx, part, data) SELECT cell, idx, part + 1, data FROM audit_snapshot_part`, `DELETE FROM audit_snapshot_part WHERE part = 1`, "audit_snapshot"},
		"an old stamp":   {`UPDATE audit_pos SET ts = ts + 1 WHERE idx = 0`, `UPDATE audit_pos SET ts = ts - 1 WHERE idx = 0`, "audit_snapshot"},
		"an old number":  {`UPDATE audit_pos SET part = part + 1 WHERE idx = 0`, `UPDATE audit_pos SET part = part - 1 WHERE idx = 0`, "audit_snapshot"},
		"a batch lost": {`UPDATE audit_batch SET cell = 7 WHERE seq = (SELECT seq FROM audit_pos ORDER BY idx DESC LIMIT 1) AND stream = (SELECT stream FROM audit_pos ORDER BY idx DESC LIMIT 1)`,
			`UPDATE audit_batch SET cell = 0 WHERE cell = 7`, "audit_batch"},
		"no snapshot": {`UPDATE audit_snapshot SET cell = 7`, `UPDATE audit_snapshot SET cell = 0`, "audit_snapshot"},
	} {
		exec2(t, k.Log, c.change)
		if t.Failed() {
			return
		}
		r := verify(t, k.Log, VerifyOptions{Checkers: k.checkers()})
		if !slices.ContainsFunc(r.Findings, func(f Finding) bool { return f.Table == c.table }) {
			t.Errorf("%s: findings %v, want one in %s", name, r.Findings, c.table)
		}
		exec2(t, k.Log, c.back)
		if t.Failed() {
			return
		}
	}
	k.whole(t)
	block := rows(t, k.Log, "audit_filter", []string{"block", "data"})[0] // of which some entries have left
	for at := range filterSize {
		changed := bytes.Clone(block[1].([]byte))
		changed[at] ^= 1 << (at % 8)
		if at%97 > 0 {
			continue
		}
		exec2(t, k.Log, `UPDATE audit_filter SET data = $1 WHERE block = $2`, changed, block[0])
		if r := verify(t, k.Log, VerifyOptions{Checkers: k.checkers()}); len(r.Findings) != 1 || r.Findings[0].Table != "audit_filter" {
			t.Errorf("a bit of octet %d of the first filter: findings %v", at, r.Findings)
		}
	}
	exec2(t, k.Log, `UPDATE audit_filter SET data = $1 WHERE block = $2`, block[1], block[0])
	k.laterCheckers(t)
}

// laterCheckers verifies with the checker of a slice that there was not yet when entries left, and without that of one that there was.
func (k *keeper) laterCheckers(t *testing.T) {
	t.Helper()
	known := &tallyChecker{}
	with := known.checker()
	for name, checkers := range map[string][]Checker{"before": {{Name: "new"}, with}, "behind": {with, {Name: "new"}}} {
		clear(known.seen)
		if r := verify(t, k.Log, VerifyOptions{Checkers: checkers}); len(r.Findings) > 0 || len(known.seen) != 40 {
			t.Errorf("with a new checker %s: findings %v, %d devices", name, r.Findings, len(known.seen))
		}
	}
	if r := verify(t, k.Log, VerifyOptions{Checkers: []Checker{{Name: "new"}}}); len(r.Findings) != 1 || !strings.Contains(r.Findings[0].Text, `"tally"`) {
		t.Errorf("without a checker: findings %v", r.Findings)
	}
}

// TestLeavingTooEarlyIsNamed: the record says itself when bodies left, so that a platform that was told to keep too little is found out.
func TestLeavingTooEarlyIsNamed(t *testing.T) {
	k := newKeeper(t)
	k.live(t, time.Date(2027, 4, 20, 0, 0, 0, 0, time.UTC))
	k.retention.Keep = 30 * 24 * time.Hour // which no configuration allows
	if d := k.drop(t); d.Month == "" {
		t.Fatal("nothing left")
	}
	r := verify(t, k.Log, VerifyOptions{Checkers: k.checkers()})
	if len(r.Findings) != 2 || !strings.Contains(r.Findings[0].String(), "left too early") {
		t.Errorf("findings %v, want that entries left too early", r.Findings)
	}
}
