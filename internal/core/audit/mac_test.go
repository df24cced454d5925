package audit

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"slices"
	"strings"
	"testing"

	"golang.org/x/mod/sumdb/tlog"

	"mooring/internal/base/db"
	"mooring/internal/base/db/dbtest"
	"mooring/internal/base/errs"
)

// TestMACOfABatch computes the MAC once more, from the comment.
func TestMACOfABatch(t *testing.T) {
	b := batch{stream: [8]byte{1, 2, 3, 4, 5, 6, 7, 8}, seq: 9, part: 10, ts: 11, n: 12}
	body := bytes.Repeat([]byte("body"), 100)
	h := hmac.New(sha256.New, testBatchKey(7))
	for _, value := range []any{[]byte("mooring audit_batch v1"), b.stream[:], b.seq, b.part, b.ts, b.n, body} {
		binary.Write(h, binary.BigEndian, uint32(binary.Size(value)))
		binary.Write(h, binary.BigEndian, value)
	}
	want := h.Sum(nil)
	m := newBatchMAC(testBatchKey(7))
	for range 3 { // the state is used again
		if got := m.sum(b, body); !bytes.Equal(got, want) {
			t.Fatalf("got %x, want %x", got, want)
		}
	}
	for name, other := range map[string]batch{"stream": {[8]byte{1}, 9, 10, 11, 12}, "seq": {b.stream, 1, 10, 11, 12}, "part": {b.stream, 9, 1, 11, 12}, "ts": {b.stream, 9, 10, 1, 12}, "n": {b.stream, 9, 10, 11, 1}} {
		if m.check(other, body, want) == nil {
			t.Errorf("another %s has the same MAC", name)
		}
	}
	if m.check(b, body[1:], want) == nil || newBatchMAC(testBatchKey(8)).check(b, body, want) == nil || m.check(b, body, nil) == nil {
		t.Error("another body, another key or no MAC at all passes")
	}
}

func TestNewWithoutBatchKeyPanics(t *testing.T) {
	defer func() {
		if r, ok := recover().(string); !ok || !strings.Contains(r, "batch key of 31 octets") {
			t.Errorf("recovered %q", r)
		}
	}()
	New(dbtest.Open(t, Schema()), Options{Now: newClock().Now, BatchKey: make([]byte, minBatchKey-1)})
}

// forge inserts a stream and a batch of one entry, as somebody does who can write to the database and knows how everything looks.
func forge(t *testing.T, l *Log, e Entry) batch {
	t.Helper()
	stamp := l.stamp()
	b := batch{stream: [8]byte{0xf0, 1, 2, 3, 4, 5, 6, 7}, seq: 1, ts: stamp, n: 1}
	body := appendBody(nil, stamp, []Entry{e})
	exec(t, l, `INSERT INTO stream (cell, stream, node, next, closed, checked) VALUES (0, $1, 'node', 2, 0, 0)`, b.stream[:])
	exec(t, l, `INSERT INTO audit_batch (cell, stream, seq, part, ts, n, body, mac) VALUES (0, $1, 1, 0, $2, 1, $3, $4)`,
		b.stream[:], stamp, body, newBatchMAC(testBatchKey(9)).sum(b, body))
	return b
}

// TestAForgedBatchIsRefusedAndNamed: a row without the platform's MAC gets no place in the tree, stops the sequencer, is named, and is told to
// no checker.
func TestAForgedBatchIsRefusedAndNamed(t *testing.T) {
	l := openLog(t)
	fill(t, l, 0, 10)
	sequence(t, l)
	forged := sample(1000)
	b := forge(t, l, forged)
	var cause *damage
	if err := l.Sequence(t.Context()); !errs.Is(err, errs.Unavailable) || !errors.As(err, &cause) || !errors.Is(err, errMAC) {
		t.Errorf("sequencing: got %v, want the damage", err)
	}
	if l.counts.behindSince.Load() == 0 {
		t.Error("the metrics do not show that something waits")
	}
	told := 0
	r := verify(t, l, VerifyOptions{Checkers: []Checker{{Name: "test", Entry: func(_ int64, e Entry) error {
		told++
		if e.Serial == forged.Serial {
			t.Error("a checker was told of the forged entry")
		}
		return nil
	}}}})
	if told != 10 || r.Entries != 10 || r.Checkpoint != 10 {
		t.Errorf("told of %d, %d in the tree, %d signed, want 10", told, r.Entries, r.Checkpoint)
	}
	if len(r.Findings) != 1 || r.Findings[0].Table != "audit_batch" || r.Findings[0].Batch != b.String() || !strings.Contains(r.Findings[0].Text, "MAC") {
		t.Errorf("findings %v, want the batch %s", r.Findings, b)
	}
}

// TestAForgedTreeIsNotSigned writes positions, tiles and head as well, past every sequencer.
func TestAForgedTreeIsNotSigned(t *testing.T) {
	for name, signed := range map[string]bool{"behind a checkpoint": true, "before the first": false} {
		t.Run(name, func(t *testing.T) {
			l := openLog(t)
			fill(t, l, 0, 10)
			if signed {
				sequence(t, l)
			}
			forge(t, l, sample(1000))
			placeForged(t, newLogOn(t, l.db, 9)) // the forger's own key
			err := l.Sequence(t.Context())
			if !errors.Is(err, errMAC) {
				t.Errorf("sequencing and signing: got %v, want the damage", err)
			}
			if _, size, err := l.Checkpoint(t.Context()); signed && (err != nil || size != 10) || !signed && !errs.Is(err, errs.NotFound) {
				t.Errorf("the checkpoint covers %d, %v", size, err)
			}
			r := verify(t, l, VerifyOptions{})
			if !slices.ContainsFunc(r.Findings, func(f Finding) bool { return f.Table == "audit_batch" && strings.Contains(f.Text, "MAC") }) {
				t.Errorf("findings %v, want the forged batch", r.Findings)
			}
			if _, err := l.List(t.Context(), auditor, Query{Limit: 20}); !errors.Is(err, errMAC) {
				t.Errorf("listing: got %v, want the damage", err)
			}
		})
	}
}

func newLogOn(t *testing.T, d *db.DB, key byte) *Log {
	t.Helper()
	signer, verifier := testKey(t, 1)
	return New(d, Options{Origin: origin, Signer: signer, Verifier: verifier, BatchKey: testBatchKey(key), Now: newClock().Now})
}

// placeForged gives the forged batch its place in the tree with the sequencer's own code.
func placeForged(t *testing.T, l *Log) {
	t.Helper()
	err := l.db.Do(t.Context(), func(ctx context.Context, tx *db.Tx) error {
		r, err := readRound(ctx, tx, l.macs, func(s db.Stream) bool { return s.ID[0] != 0xf0 })
		if err != nil {
			return err
		}
		return r.write(ctx, tx)
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestUnsignedRoundsOfOthersAreSigned: what another sequencer placed and did not come to sign is signed, since its batches are authentic.
func TestUnsignedRoundsOfOthersAreSigned(t *testing.T) {
	l := openLog(t)
	mute := newLogOn(t, l.db, 1)
	mute.signer = nil
	fill(t, l, 0, 300)
	sequence(t, mute)
	fill(t, l, 300, 20)
	sequence(t, mute)
	wantClean(t, l, 320)
	fill(t, l, 320, 20)
	sequence(t, mute)
	sequence(t, l)
	if _, size, err := l.Checkpoint(t.Context()); err != nil || size != 340 {
		t.Errorf("the checkpoint covers %d, %v, want 340", size, err)
	}
	if root := verify(t, l, VerifyOptions{}).Root; root == (tlog.Hash{}) {
		t.Error("no root")
	}
}

// TestAnotherKeyIsNamed: with a key store that is not this database's nothing passes.
func TestAnotherKeyIsNamed(t *testing.T) {
	l := openLog(t)
	fill(t, l, 0, 10)
	sequence(t, l)
	other := newLogOn(t, l.db, 2)
	r := verify(t, other, VerifyOptions{})
	if len(r.Findings) == 0 || r.Findings[0].Table != "audit_batch" || !strings.Contains(r.Findings[0].Text, "the key is another one") {
		t.Errorf("findings %v, want the batches", r.Findings)
	}
	fill(t, l, 10, 1)
	if err := other.Sequence(t.Context()); !errors.Is(err, errMAC) {
		t.Errorf("sequencing with another key: got %v, want the damage", err)
	}
}
