package audit

import (
	"bytes"
	"context"
	"encoding/hex"
	"fmt"
	"sync"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"

	"mooring/internal/base/db"
	"mooring/internal/base/db/dbtest"
	"mooring/internal/core/access"
)

const origin = "test.example/audit"

func testKey(t testing.TB, fill byte) (note.Signer, note.Verifier) {
	t.Helper()
	signer, vkey, err := NoteKey(origin, bytes.Repeat([]byte{fill}, 32))
	if err != nil {
		t.Fatal(err)
	}
	verifier, err := note.NewVerifier(vkey)
	if err != nil {
		t.Fatal(err)
	}
	return signer, verifier
}

func testBatchKey(fill byte) []byte { return bytes.Repeat([]byte{fill}, minBatchKey) }

// clock is a clock that a test moves.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func newClock() *clock { return &clock{now: time.Unix(1_800_000_000, 0)} }

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) move(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

func newLog(t testing.TB, d *db.DB) (*Log, *clock) {
	t.Helper()
	signer, verifier := testKey(t, 1)
	c := newClock()
	return New(d, Options{Origin: origin, Signer: signer, Verifier: verifier, BatchKey: testBatchKey(1), Now: c.Now}), c
}

func openLog(t testing.TB) *Log {
	t.Helper()
	l, _ := newLog(t, dbtest.Open(t, Schema()))
	return l
}

var auditor = access.Actor{Kind: access.KindOperator, ID: "a", Role: access.RoleAuditor}

func deviceID(n int) string { return fmt.Sprintf("%032x", n) }

// sample is the n-th of a series of entries: every seventh is a state change, the others are certificates of 40 devices in turn.
func sample(n int) Entry {
	e := Entry{At: 1_700_000_000 + int64(n), Action: "cert.issue", Actor: "device:" + deviceID(n%40), Device: deviceID(n % 40),
		Serial: hex.EncodeToString(fmt.Appendf(nil, "serial-%06d", n)), Detail: map[string]string{"slot": "operational", "sha256": fmt.Sprintf("%064x", n)}}
	if n%7 == 0 {
		e = Entry{At: e.At, Action: "device.state", Actor: "operator:ab", Device: e.Device, Detail: map[string]string{"to": "suspended"}}
	}
	return e
}

// fill records the samples from from on, in batches of growing size, and returns the next number.
func fill(t testing.TB, l *Log, from, count int) int {
	t.Helper()
	for size := 1; count > 0; size = size%97 + 1 {
		size = min(size, count)
		entries := make([]Entry, size)
		for i := range entries {
			entries[i] = sample(from + i)
		}
		if err := l.Record(t.Context(), entries...); err != nil {
			t.Fatalf("recording %d entries: %v", size, err)
		}
		from, count = from+size, count-size
	}
	return from
}

func sequence(t testing.TB, l *Log) {
	t.Helper()
	if err := l.Sequence(t.Context()); err != nil {
		t.Fatalf("sequencing: %v", err)
	}
}

func verify(t testing.TB, l *Log, o VerifyOptions) Report {
	t.Helper()
	r, err := l.Verify(t.Context(), o)
	if err != nil {
		t.Fatalf("verifying: %v", err)
	}
	return r
}

func wantClean(t testing.TB, l *Log, entries int64) {
	t.Helper()
	r := verify(t, l, VerifyOptions{})
	if len(r.Findings) > 0 || r.Entries != entries || r.Checkpoint != entries || r.Pending != 0 {
		t.Errorf("verified %d entries, %d under the checkpoint, %d batches pending, want %d, all signed; findings %v", r.Entries, r.Checkpoint, r.Pending, entries, r.Findings)
	}
}

func TestEntriesGetTheirPlaceInOrderAndAreSigned(t *testing.T) {
	l := openLog(t)
	fill(t, l, 0, 1500) // over several tiles and checkpoints, with an unfinished tile of each
	sequence(t, l)
	fill(t, l, 1500, 20)
	sequence(t, l)
	wantClean(t, l, 1520)

	seen := map[string]bool{}
	replay := Checker{Name: "replay", Entry: func(index int64, e Entry) error {
		seen[string(e.Bytes())] = true
		return nil
	}, Finish: func(context.Context, *db.Tx) error { return nil }}
	verify(t, l, VerifyOptions{Checkers: []Checker{replay}})
	for n := range 1520 {
		if !seen[string(sample(n).Bytes())] {
			t.Fatalf("entry %d was recorded and is not in the tree", n)
		}
	}
}

func TestAnEntryIsRecordedWithItsChangeOrNotAtAll(t *testing.T) {
	l := openLog(t)
	undone := fmt.Errorf("the change failed")
	err := l.db.Do(t.Context(), func(ctx context.Context, tx *db.Tx) error {
		if err := l.Append(ctx, tx, sample(1)); err != nil {
			return err
		}
		return undone
	})
	if err != undone {
		t.Fatalf("got %v, want the change's own error", err)
	}
	err = l.db.Do(t.Context(), func(ctx context.Context, tx *db.Tx) error {
		if err := l.Append(ctx, tx, sample(2)); err != nil {
			return err
		}
		return tx.Send(ctx, l.Stmt(tx, sample(3), sample(4)))
	})
	if err != nil {
		t.Fatal(err)
	}
	sequence(t, l)
	got, err := l.List(t.Context(), auditor, Query{})
	if err != nil || len(got) != 3 || got[0].At != sample(2).At || got[2].At != sample(4).At {
		t.Errorf("listed %v, %v, want the samples 2, 3, 4", got, err)
	}
	wantClean(t, l, 3)
}

func TestTransactionsWithoutEntriesLeaveNoTrace(t *testing.T) {
	l := openLog(t)
	nothing := func(context.Context, *db.Tx) error { return nil }
	for n := range 5 {
		if err := l.db.Do(t.Context(), nothing); err != nil {
			t.Fatal(err)
		}
		if err := l.Record(t.Context(), sample(n)); err != nil {
			t.Fatal(err)
		}
	}
	wantClean(t, l, 5)
}

func TestEntryGetsThePresentWhenItBearsNoTime(t *testing.T) {
	l, c := newLog(t, dbtest.Open(t, Schema()))
	if err := l.Record(t.Context(), Entry{Action: "ca.create", Actor: "system:init"}); err != nil {
		t.Fatal(err)
	}
	sequence(t, l)
	got, err := l.List(t.Context(), auditor, Query{})
	if err != nil || len(got) != 1 || got[0].At != c.Now().Unix() {
		t.Errorf("got %v, %v, want one entry at %d", got, err, c.Now().Unix())
	}
	wantClean(t, l, 1)
}
