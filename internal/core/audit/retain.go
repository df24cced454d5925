package audit

import (
	"context"
	"encoding/hex"
	"fmt"
	"log/slog"
	"strconv"
	"time"

	"mooring/internal/base/db"
	"mooring/internal/base/errs"
	"mooring/internal/core/access"
)

// Retention says for how long entries are kept. When all entries of a month are older than that, their bodies leave; the tree, the places and the
// proofs of their hashes stay for ever, 32 octets an entry and some.
type Retention struct {
	Keep     time.Duration // 0: for ever; otherwise MinKeep at least
	Hold     bool          // nothing leaves: somebody may need it as evidence
	Every    time.Duration // how often Run looks; 0 means 6 hours
	Checkers func() []Checker
}

// MinKeep is the shortest time for which entries are kept: certificates that are recorded in brief stand only there while they are in use.
const MinKeep = 90 * 24 * time.Hour

// Dropped is what one pass did.
type Dropped struct {
	Month    string // up to whose end bodies left, such as "2026-03"; "" = nothing was due
	Entries  int64  // of which only the hashes are kept now
	Snapshot int64  // the entry from which is verified now
}

const (
	retentionLease = "audit-retention"
	monthsAhead    = 3
	monthsEvery    = 10 * time.Minute
	retentionWait  = 30 * time.Second
	dropBatches    = 200                   // rows that are deleted in one transaction
	dropPause      = 20 * time.Millisecond // between two, so that those who write come in between
)

// newMonths are the partitions of the batches.
func newMonths(d *db.DB) *db.Monthly {
	return &db.Monthly{DB: d, Table: "audit_batch", Prefix: "audit_m", Register: "audit_month", Bound: func(m db.Month) int64 { return m.Start() * microseconds }}
}

// readyMonths makes sure that what is recorded now, and a moment later, has its place.
func (l *Log) readyMonths(ctx context.Context) error {
	m := db.MonthOf(l.now().Unix())
	if last := l.lastStamp.Load(); last > 0 { // a clock that was set back does not set back the stamps
		m = max(m, db.MonthOf(last/microseconds))
	}
	if l.readied.Load() == int64(m) {
		return nil
	}
	if err := l.months.Ready(ctx, m, 1); err != nil {
		return err
	}
	l.readied.Store(int64(m))
	return nil
}

// retain makes places for the months to come and lets bodies leave that are over, until ctx ends. Several nodes take turns.
func (l *Log) retain(ctx context.Context) error {
	every := l.retention.Every
	if every == 0 {
		every = 6 * time.Hour
	}
	months, passes := time.NewTicker(monthsEvery), time.NewTicker(every)
	defer months.Stop()
	defer passes.Stop()
	for {
		l.note(ctx, "the places for the audit record of the next months could not be made", l.months.Ready(ctx, db.MonthOf(l.now().Unix()), monthsAhead))
		select {
		case <-ctx.Done():
			return nil
		case <-months.C:
		case <-passes.C:
			done, err := l.drop(ctx, access.System("retention"))
			l.note(ctx, "old entries of the audit record could not leave", err)
			if done.Month != "" {
				l.log.LogAttrs(ctx, slog.LevelInfo, "old entries of the audit record left", slog.String("until", done.Month), slog.Int64("entries", done.Entries))
			}
		}
	}
}

func (l *Log) note(ctx context.Context, text string, err error) {
	if err != nil && ctx.Err() == nil {
		l.log.LogAttrs(ctx, slog.LevelError, text, slog.Any("cause", err))
	}
}

// Drop lets leave what is over now. It needs ca.manage. While nothing may leave (Hold) it is a Conflict, and so it is when the record or a table
// is found to be damaged: nothing leaves then.
func (l *Log) Drop(ctx context.Context, actor access.Actor) (Dropped, error) {
	if err := l.access.Require(ctx, actor, access.CAManage, "retention"); err != nil {
		return Dropped{}, err
	}
	if l.retention.Hold {
		return Dropped{}, errs.New(errs.Conflict, "retention.hold is set: nothing is deleted until it is taken out of the configuration and the server is started anew")
	}
	return l.drop(ctx, actor)
}

func (l *Log) drop(ctx context.Context, actor access.Actor) (done Dropped, err error) {
	if l.retention.Hold || l.retention.Keep == 0 {
		return Dropped{}, nil
	}
	err = l.once(ctx, func(ctx context.Context, lease *db.Lease) (err error) {
		done, err = l.dropMonths(ctx, lease, actor)
		return err
	})
	return done, err
}

// once runs fn once under the lease. When another node holds it for longer than half a minute, the error is Unavailable.
func (l *Log) once(ctx context.Context, fn func(context.Context, *db.Lease) error) (result error) {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	begun := false
	patience := time.AfterFunc(retentionWait, stop)
	defer patience.Stop()
	err := l.db.Lead(ctx, retentionLease, func(ctx context.Context, lease *db.Lease) error {
		patience.Stop()
		begun = true
		result = fn(ctx, lease)
		stop()
		return nil
	})
	if err == nil && !begun {
		return errs.WithRetry(errs.New(errs.Unavailable, "another server is letting old entries leave; ask again later"), time.Minute)
	}
	if result == nil {
		result = err
	}
	return result
}

// due is what is to leave.
type due struct {
	month db.Month // everything up to its end
	idx   int64    // no such entry stands here or behind; 0 = nothing is due
	was   snapshot
}

// end returns the first stamp that stays.
func (d *due) end() int64 { return (d.month + 1).Start() * microseconds }

// findDue looks for what is to leave and has not left yet.
func (l *Log) findDue(ctx context.Context) (d due, err error) {
	d.month = db.MonthOf(l.now().Add(-l.retention.Keep).Unix()) - 1
	err = l.db.View(ctx, func(ctx context.Context, tx *db.Tx) (err error) {
		d.idx = 0
		if d.was, err = newestSnapshot(ctx, tx); err != nil || d.was.idx > 0 && d.was.month >= d.month {
			return err
		}
		var first int64
		found, err := tx.Get(ctx, []any{&first}, `SELECT ts FROM audit_pos WHERE cell = 0 AND idx >= $1 ORDER BY idx LIMIT 1`, d.was.idx)
		if err != nil || !found || first >= d.end() {
			return err // by and large the record is in the order of time: nothing of this month stands further behind alone
		}
		var idx, n int64
		_, err = tx.Get(ctx, []any{&idx, &n}, `SELECT idx, n FROM audit_pos WHERE cell = 0 AND ts < $1 ORDER BY idx DESC LIMIT 1`, d.end())
		d.idx = idx + n
		return err
	})
	if err != nil {
		return d, fmt.Errorf("looking for entries that are over: %w", err)
	}
	return d, nil
}

// dropMonths lets the bodies leave that are over: it verifies everything, keeps what the Checkers knew behind the last of them, and records
// that; from then on they may be gone. Then it takes them away, which is taken up again after a crash.
func (l *Log) dropMonths(ctx context.Context, lease *db.Lease, actor access.Actor) (done Dropped, err error) {
	if err := l.Sequence(ctx); err != nil {
		return done, err
	}
	d, err := l.findDue(ctx)
	if err != nil {
		return done, err
	}
	if d.idx > 0 {
		if done, err = l.giveUp(ctx, lease, actor, d); err != nil {
			return Dropped{}, err
		}
	}
	if err := l.takeAway(ctx, lease); err != nil {
		return done, fmt.Errorf("taking away entries that were given up: %w", err)
	}
	return done, nil
}

// giveUp verifies, keeps and records.
func (l *Log) giveUp(ctx context.Context, lease *db.Lease, actor access.Actor, d due) (done Dropped, err error) {
	if err := l.clearParts(ctx, lease, d.idx); err != nil { // of somebody who was interrupted
		return done, err
	}
	s := &saving{idx: d.idx, store: func(part int64, data []byte) error {
		return l.db.Do(ctx, func(ctx context.Context, tx *db.Tx) error {
			if err := lease.Fence(ctx, tx); err != nil {
				return err
			}
			_, err := tx.Exec(ctx, `INSERT INTO audit_snapshot_part (cell, idx, part, data) VALUES (0, $1, $2, $3)`, d.idx, part, data)
			return err
		})
	}}
	v := &verification{log: l, options: VerifyOptions{Checkers: l.retention.Checkers()}, saving: s}
	report, err := l.verify(ctx, v)
	switch {
	case err != nil:
		return done, err
	case len(report.Findings) > 0:
		return done, errs.New(errs.Conflict, "no entry leaves the audit record, because it does not agree with the tables (\"mooring audit verify\" tells more): %s", report.Findings[0])
	case !s.saved:
		return done, errs.New(errs.Conflict, "the audit record has changed meanwhile; ask again later")
	}
	at := l.now().Unix()
	entries := []Entry{
		{At: at, Action: ActionSnapshot, Actor: actor.String(), Object: strconv.FormatInt(d.idx, 10), Detail: map[string]string{
			"month": d.month.String(), "parts": strconv.FormatInt(s.parts, 10), "sha256": hex.EncodeToString(s.sum), "positions": hex.EncodeToString(s.positions)}},
		{At: at, Action: ActionDrop, Actor: actor.String(), Object: d.month.String(), Detail: map[string]string{
			"snapshot": strconv.FormatInt(d.idx, 10), "until": strconv.FormatInt((d.month + 1).Start(), 10), "keep": strconv.FormatInt(int64(l.retention.Keep.Seconds()), 10)}},
	}
	months, err := l.months.Months(ctx)
	if err != nil {
		return done, err
	}
	err = l.db.Do(ctx, func(ctx context.Context, tx *db.Tx) error {
		if err := lease.Fence(ctx, tx); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, `INSERT INTO audit_snapshot (cell, idx, month, at) VALUES (0, $1, $2, $3)`, d.idx, int64(d.month), at); err != nil {
			return err
		}
		for _, m := range months {
			if m.Month > d.month || m.GivenUp {
				continue
			}
			if err := l.months.GiveUp(ctx, tx, m.Month); err != nil {
				return err
			}
		}
		return l.Append(ctx, tx, entries...)
	})
	if err != nil {
		return done, fmt.Errorf("recording that the entries of %s leave: %w", d.month, err)
	}
	done = Dropped{Month: d.month.String(), Snapshot: d.idx}
	err = l.db.View(ctx, func(ctx context.Context, tx *db.Tx) error {
		_, err := tx.Get(ctx, []any{&done.Entries}, `SELECT COALESCE(SUM(n), 0) FROM audit_pos WHERE cell = 0 AND ts < $1`, d.end())
		return err
	})
	return done, err
}

// takeAway deletes what was given up, in steps that each leave everything as sound as before.
func (l *Log) takeAway(ctx context.Context, lease *db.Lease) error {
	var s snapshot
	err := l.db.View(ctx, func(ctx context.Context, tx *db.Tx) (err error) {
		s, err = newestSnapshot(ctx, tx)
		return err
	})
	if err != nil || s.idx == 0 {
		return err
	}
	months, err := l.months.Months(ctx)
	if err != nil {
		return err
	}
	for _, m := range months {
		if m.GivenUp && m.Month <= s.month {
			if err := l.months.TakeAway(ctx, lease, m.Month); err != nil {
				return fmt.Errorf("the month %s: %w", m.Month, err)
			}
		}
	}
	if !l.db.Arrays() {
		if err := l.deleteBatches(ctx, lease, s); err != nil {
			return err
		}
	}
	if err := l.deleteFilters(ctx, lease, s); err != nil {
		return err
	}
	return l.clearParts(ctx, lease, -1)
}

// end returns the first stamp that stays.
func (s *snapshot) end() int64 { return (s.month + 1).Start() * microseconds }

// deleteBatches deletes the rows that were given up, few at a time. The room they leave is used again by what is written next.
func (l *Log) deleteBatches(ctx context.Context, lease *db.Lease, s snapshot) error {
	from := int64(-1)
	for {
		var page []located
		err := l.db.View(ctx, func(ctx context.Context, tx *db.Tx) error {
			page = nil
			if from < 0 {
				kept, err := firstKept(ctx, tx)
				if err != nil {
					return err
				}
				from = kept - batchEntries // a batch that reaches into the first block that is kept begins before it
			}
			return tx.Each(ctx, func(row db.Row) error {
				var b located
				var stream []byte
				err := row.Scan(&b.first, &stream, &b.seq, &b.part)
				copy(b.stream[:], stream)
				page = append(page, b)
				return err
			}, `SELECT p.idx, p.stream, p.seq, p.part FROM audit_pos p
					JOIN audit_batch b ON b.cell = 0 AND b.stream = p.stream AND b.seq = p.seq AND b.part = p.part AND b.ts = p.ts
				WHERE p.cell = 0 AND p.idx >= $1 AND p.idx < $2 AND p.ts < $3 ORDER BY p.idx LIMIT $4`, from, s.idx, s.end(), int64(dropBatches))
		})
		if err != nil || len(page) == 0 {
			return err
		}
		err = l.fenced(ctx, lease, func(ctx context.Context, tx *db.Tx) error {
			stmts := make([]*db.Stmt, len(page))
			for i, b := range page {
				stmts[i] = &db.Stmt{SQL: `DELETE FROM audit_batch WHERE cell = 0 AND stream = $1 AND seq = $2 AND part = $3`, Args: []any{b.stream[:], b.seq, b.part}}
			}
			return tx.Send(ctx, stmts...)
		})
		if err != nil {
			return err
		}
		from = page[len(page)-1].first + 1
		if !wait(ctx, dropPause) {
			return ctx.Err()
		}
	}
}

// deleteFilters deletes the filters of the blocks of which nothing is left.
func (l *Log) deleteFilters(ctx context.Context, lease *db.Lease, s snapshot) error {
	var from, to int64
	err := l.db.View(ctx, func(ctx context.Context, tx *db.Tx) (err error) {
		if from, err = firstKept(ctx, tx); err != nil {
			return err
		}
		to = s.idx
		_, err = tx.Get(ctx, []any{&to}, `SELECT idx FROM audit_pos WHERE cell = 0 AND idx >= $1 AND idx < $2 AND ts >= $3 ORDER BY idx LIMIT 1`, from, s.idx, s.end())
		return err
	})
	if err != nil {
		return err
	}
	for block := from / blockEntries; block < to/blockEntries; {
		block = min(block+dropBatches, to/blockEntries)
		err := l.fenced(ctx, lease, func(ctx context.Context, tx *db.Tx) error {
			_, err := tx.Exec(ctx, `DELETE FROM audit_filter WHERE cell = 0 AND block < $1`, block)
			return err
		})
		if err != nil {
			return err
		}
		if !wait(ctx, dropPause) {
			return ctx.Err()
		}
	}
	return nil
}

// clearParts deletes the parts at idx, and with -1 all snapshots but the newest and what was left of others.
func (l *Log) clearParts(ctx context.Context, lease *db.Lease, idx int64) error {
	type key struct{ idx, part int64 }
	for {
		var page []key
		var old []int64
		err := l.db.View(ctx, func(ctx context.Context, tx *db.Tx) error {
			page, old = nil, nil
			s, err := newestSnapshot(ctx, tx)
			if err != nil {
				return err
			}
			err = tx.Each(ctx, func(row db.Row) error {
				var k key
				err := row.Scan(&k.idx, &k.part)
				page = append(page, k)
				return err
			}, `SELECT idx, part FROM audit_snapshot_part WHERE cell = 0 AND idx <> $1 AND (idx = $2 OR $2 < 0) ORDER BY idx, part LIMIT $3`, s.idx, idx, int64(dropBatches))
			if err != nil || idx >= 0 {
				return err
			}
			return tx.Each(ctx, func(row db.Row) error {
				var n int64
				err := row.Scan(&n)
				old = append(old, n)
				return err
			}, `SELECT idx FROM audit_snapshot WHERE cell = 0 AND idx < $1`, s.idx)
		})
		if err != nil || len(page)+len(old) == 0 {
			return err
		}
		err = l.fenced(ctx, lease, func(ctx context.Context, tx *db.Tx) error {
			var stmts []*db.Stmt
			for _, n := range old {
				stmts = append(stmts, &db.Stmt{SQL: `DELETE FROM audit_snapshot WHERE cell = 0 AND idx = $1`, Args: []any{n}})
			}
			for _, k := range page {
				stmts = append(stmts, &db.Stmt{SQL: `DELETE FROM audit_snapshot_part WHERE cell = 0 AND idx = $1 AND part = $2`, Args: []any{k.idx, k.part}})
			}
			return tx.Send(ctx, stmts...)
		})
		if err != nil {
			return err
		}
	}
}

// fenced runs fn in a transaction under the lease.
func (l *Log) fenced(ctx context.Context, lease *db.Lease, fn func(ctx context.Context, tx *db.Tx) error) error {
	return l.db.Do(ctx, func(ctx context.Context, tx *db.Tx) error {
		if err := lease.Fence(ctx, tx); err != nil {
			return err
		}
		return fn(ctx, tx)
	})
}

// wait waits for d and reports whether ctx is alive.
func wait(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// RetentionState says how long entries are kept and what has left.
type RetentionState struct {
	Keep    time.Duration // 0: for ever
	Hold    bool
	Left    string // the month up to whose end bodies have left, "" = none has
	At      int64  // when that was decided, UTC seconds
	From    int64  // the entry from which is verified
	Octets  int64  // what the kept state takes
	Entries int64  // in the tree
}

// RetentionState returns how things stand. It needs audit.read.
func (l *Log) RetentionState(ctx context.Context, actor access.Actor) (RetentionState, error) {
	if err := l.access.Require(ctx, actor, access.AuditRead, "retention"); err != nil {
		return RetentionState{}, err
	}
	r := RetentionState{Keep: l.retention.Keep, Hold: l.retention.Hold}
	err := l.db.View(ctx, func(ctx context.Context, tx *db.Tx) error {
		s, err := newestSnapshot(ctx, tx)
		if err != nil {
			return err
		}
		tree, _, err := readTree(ctx, tx)
		if r.Entries = tree.N; err != nil || s.idx == 0 {
			return err
		}
		r.Left, r.At, r.From = s.month.String(), s.at, s.idx
		_, err = tx.Get(ctx, []any{&r.Octets}, `SELECT COALESCE(SUM(length(data)), 0) FROM audit_snapshot_part WHERE cell = 0 AND idx = $1`, s.idx)
		return err
	})
	return r, err
}
