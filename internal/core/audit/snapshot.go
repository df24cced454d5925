package audit

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"strconv"

	"mooring/internal/base/db"
	"mooring/internal/base/errs"
)

// A snapshot is what all Checkers knew when the tree had so many entries. It is taken in a verification that found nothing, when bodies are about to
// leave, and the entry about it, which is in the tree, holds the digest of all its octets. So whoever changes it in the database is found
// out like whoever changes an entry.

// The entries about what leaves.
const (
	ActionSnapshot = "audit.snapshot" // object: the number of entries
	ActionDrop     = "audit.drop"     // object: the month up to whose end bodies leave, such as "2026-03"
)

// snapshot is a row of audit_snapshot.
type snapshot struct {
	idx   int64 // 0: there is none
	month db.Month
	at    int64
}

// newestSnapshot returns the snapshot from which is verified; the zero value when there is none.
func newestSnapshot(ctx context.Context, tx *db.Tx) (s snapshot, err error) {
	_, err = tx.Get(ctx, []any{&s.idx, (*int64)(&s.month), &s.at}, `SELECT idx, month, at FROM audit_snapshot WHERE cell = 0 ORDER BY idx DESC LIMIT 1`)
	if err != nil {
		return s, fmt.Errorf("reading the newest snapshot: %w", err)
	}
	return s, nil
}

// left reports whether the body of b has left, or may have, by policy.
func (s *snapshot) left(b *located) bool {
	return b.first < s.idx && db.MonthOf(b.ts/microseconds) <= s.month
}

// leftTx reports whether the body of b, which is missing, has left by policy.
func leftTx(ctx context.Context, tx *db.Tx, b *located) (bool, error) {
	s, err := newestSnapshot(ctx, tx)
	return s.left(b), err
}

// firstKept returns an index before which no entry is left. The filters leave last and in order.
func firstKept(ctx context.Context, tx *db.Tx) (int64, error) {
	var block int64
	if _, err := tx.Get(ctx, []any{&block}, `SELECT block FROM audit_filter WHERE cell = 0 ORDER BY block LIMIT 1`); err != nil {
		return 0, fmt.Errorf("finding the first entry that is kept: %w", err)
	}
	return max(0, block) * blockEntries, nil
}

// keptState is what a verification knows about the snapshot it starts from.
type keptState struct {
	snapshot
	loaded    bool
	positions hash.Hash // over the positions so far
	before    []byte    // positions, when the snapshot was reached
	parts     int64
	sum       []byte // of the parts
	vouched   bool   // an entry tells of it
	dropped   bool   // an entry tells of the bodies that left
}

// position takes note of a position.
func (k *keptState) position(b *located) {
	if k.positions == nil {
		k.positions = sha256.New()
	}
	k.positions.Write(b.stream[:])
	var row [40]byte
	for i, n := range [5]int64{b.first, b.seq, b.part, b.n, b.ts} {
		binary.BigEndian.PutUint64(row[8*i:], uint64(n))
	}
	k.positions.Write(row[:])
}

func (k *keptState) positionsSum() []byte {
	if k.positions == nil {
		k.positions = sha256.New()
	}
	return k.positions.Sum(nil)
}

// entry looks at what the record says about snapshots.
func (k *keptState) entry(_ int64, e *Entry) error {
	if e.Refused != "" {
		return nil
	}
	switch e.Action {
	case ActionSnapshot:
		idx, err := strconv.ParseInt(e.Object, 10, 64)
		switch {
		case err != nil:
			return errors.New("its number of entries cannot be read")
		case idx > k.idx:
			return fmt.Errorf("the snapshot at %d entries, without which what follows cannot be compared with the tables, is missing", idx)
		case idx < k.idx:
			return nil
		}
		k.vouched = true
		var wrong []error
		for _, c := range []struct {
			name      string
			got, want string
		}{
			{"the month of the row of audit_snapshot", k.month.String(), e.Detail["month"]},
			{"the time of the row of audit_snapshot", strconv.FormatInt(k.at, 10), strconv.FormatInt(e.At, 10)},
			{"the number of parts in audit_snapshot_part", strconv.FormatInt(k.parts, 10), e.Detail["parts"]},
			{"what is kept in audit_snapshot_part", hex.EncodeToString(k.sum), e.Detail["sha256"]},
			{"what audit_pos says of the entries before", hex.EncodeToString(k.before), e.Detail["positions"]},
		} {
			if c.got != c.want {
				wrong = append(wrong, fmt.Errorf("%s is not what this entry says of the snapshot at %d entries", c.name, k.idx))
			}
		}
		return errors.Join(wrong...)
	case ActionDrop:
		return k.drop(e)
	}
	return nil
}

// drop looks at an entry about bodies that left.
func (k *keptState) drop(e *Entry) error {
	end, err := strconv.ParseInt(e.Detail["until"], 10, 64)
	keep, err2 := strconv.ParseInt(e.Detail["keep"], 10, 64)
	if err := errors.Join(err, err2); err != nil {
		return errors.New("its times cannot be read")
	}
	month := db.MonthOf(end) - 1
	if end+keep > e.At || keep < int64(MinKeep.Seconds()) || month.String() != e.Object {
		return fmt.Errorf("the entries of %s left too early: they were to be kept for %d days at least", e.Object, max(keep, int64(MinKeep.Seconds()))/86400)
	}
	if month == k.month && e.Detail["snapshot"] == strconv.FormatInt(k.idx, 10) {
		k.dropped = true
	}
	return nil
}

// readSnapshot finds the snapshot to start from.
func (v *verification) readSnapshot() (err error) {
	v.kept.snapshot, err = newestSnapshot(v.ctx, v.tx)
	return err
}

// reach is called when the entries before index are replayed.
func (v *verification) reach(index int64) error {
	if k := &v.kept; k.idx > 0 && !k.loaded && index >= k.idx {
		if err := v.load(index); err != nil {
			return err
		}
	}
	if s := v.saving; s != nil && !s.saved && index >= s.idx {
		s.saved = true
		s.positions = v.kept.positionsSum()
		return s.save(v)
	}
	return nil
}

// load gives the Checkers what was kept.
func (v *verification) load(index int64) error {
	k := &v.kept
	k.loaded, k.before = true, k.positionsSum()
	v.report.Replayed = k.idx
	if index != k.idx {
		v.findf("audit_snapshot", "the snapshot at %d entries does not stand between two batches", k.idx)
	}
	parts := &partReader{ctx: v.ctx, tx: v.tx, idx: k.idx, sum: sha256.New()}
	r := newStateReader(parts)
	if wrong := v.loadAll(r); wrong != nil {
		v.findf("audit_snapshot_part", "the snapshot at %d entries cannot be read, so that the tables were not compared with the record: %v", k.idx, wrong)
		v.options.Checkers = nil
	}
	if err := parts.drain(); err != nil {
		return err
	}
	k.parts, k.sum = parts.next, parts.sum.Sum(nil)
	return nil
}

func (v *verification) loadAll(r *StateReader) error {
	if format := r.Uint(); r.err == nil && format != snapshotFormat {
		return fmt.Errorf("its format is %d, this program knows %d", format, snapshotFormat)
	}
	v.refilter(r.Text())
	name := r.Text()
	for _, c := range v.options.Checkers {
		if c.Name != name || r.err != nil {
			continue // of a slice that there was not yet, nothing had been recorded
		}
		if err := errors.Join(c.Load(r), r.err); err != nil {
			return fmt.Errorf("%s: %w", c.Name, err)
		}
		name = r.Text()
	}
	if r.err == nil && name != "" {
		return fmt.Errorf("it has what package %q knew, which this program does not have in this place", name)
	}
	return r.err
}

// refilter adds what the entries before the snapshot, of which none may be left, gave to the filter of the block that it stands in.
func (v *verification) refilter(before string) {
	if v.filter == nil || len(before) != filterSize {
		return
	}
	for i := range v.filter {
		v.filter[i] |= before[i]
	}
	v.partial = false
}

// checkSnapshot wants entries for the snapshot that was used and for the bodies that left.
func (v *verification) checkSnapshot() error {
	k := &v.kept
	switch {
	case k.idx == 0:
	case !k.loaded:
		v.findf("audit_snapshot", "a snapshot at %d entries is in the database, where there are only %d", k.idx, v.rebuild.size)
	case !k.vouched:
		v.findf("audit_snapshot", "no entry tells of the snapshot at %d entries", k.idx)
	case !k.dropped:
		v.findf("audit_snapshot", "no entry says that the entries up to the end of %s, before the snapshot at %d, were to leave", k.month, k.idx)
	}
	return nil
}

// snapshotFormat is the first number of every snapshot.
const snapshotFormat = 1

// saving keeps what the Checkers know at one place of a verification.
type saving struct {
	idx   int64
	store func(part int64, data []byte) error

	saved     bool
	positions []byte
	sum       []byte
	parts     int64
}

func (s *saving) save(v *verification) error {
	w := newStateWriter(s.store)
	w.Uint(snapshotFormat)
	w.Text(string(v.filter))
	for _, c := range v.options.Checkers {
		if c.Save == nil || c.Load == nil {
			return errs.New(errs.Internal, "package %s cannot keep what it knows of the record", c.Name)
		}
		w.Text(c.Name)
		if err := c.Save(v.ctx, v.tx, w); err != nil {
			return fmt.Errorf("keeping what package %s knows: %w", c.Name, err)
		}
	}
	w.Text("")
	var err error
	s.sum, err = w.end()
	s.parts = w.parts.parts
	return err
}
