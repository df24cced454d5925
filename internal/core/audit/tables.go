package audit

import (
	"errors"
	"fmt"

	"mooring/internal/base/db"
	"mooring/internal/base/errs"
)

// What follows the replay: the tables around the entries.

func (v *verification) checkHead() error {
	v.report.Entries, v.report.Root = v.rebuild.size, v.rebuild.root()
	switch {
	case v.rebuild.size != v.tree.N:
		v.findf("tree", "the tree is said to have %d entries, there are %d", v.tree.N, v.rebuild.size)
	case v.report.Root != v.tree.Hash:
		v.findf("tree", "the root is not the one that the entries make")
	}
	for _, s := range v.signed {
		v.findf(s.table, "a tree of %d entries was signed, there are only %d: an older state was restored", s.N, v.rebuild.size)
	}
	return nil
}

// checkTileCounts looks for tiles and filters that belong to no entry.
func (v *verification) checkTileCounts() error {
	levels := len(v.rebuild.levels)
	if err := v.strays("audit_tile", `SELECT level, n FROM audit_tile WHERE cell = 0 AND (level < 0 OR level >= $1)`, levels); err != nil {
		return err
	}
	for level := range levels {
		if err := v.strays("audit_tile", `SELECT level, n FROM audit_tile WHERE cell = 0 AND level = $1 AND (n < 0 OR n >= $2)`,
			level, v.rebuild.count(level)); err != nil {
			return err
		}
	}
	blocks := (v.rebuild.size + blockEntries - 1) / blockEntries
	return v.strays("audit_filter", `SELECT 0, block FROM audit_filter WHERE cell = 0 AND (block < 0 OR block >= $1)`, blocks)
}

// strays makes a finding of every row that query returns, named by two numbers.
func (v *verification) strays(table, query string, args ...any) error {
	return v.tx.Each(v.ctx, func(r db.Row) error {
		var level, n int64
		if err := r.Scan(&level, &n); err != nil {
			return err
		}
		v.findf(table, "the row %d/%d belongs to no entry", level, n)
		return nil
	}, query+` LIMIT 100`, args...)
}

// checkCursors compares each cursor with the last position of its stream and with the stream itself.
func (v *verification) checkCursors() error {
	left := make(map[[8]byte]batch, len(v.streams))
	for id, s := range v.streams {
		left[id] = s.last
	}
	err := v.tx.Each(v.ctx, func(r db.Row) error {
		var stream []byte
		var c batch
		var next int64
		if err := r.Scan(&stream, &c.seq, &c.part, &next); err != nil {
			return err
		}
		copy(c.stream[:], stream)
		last, known := left[c.stream]
		delete(left, c.stream)
		switch {
		case !known || len(stream) != len(c.stream):
			v.findf("audit_cursor", "the cursor of stream %x belongs to no entry", stream)
		case last.seq != c.seq || last.part != c.part:
			v.findf("audit_cursor", "the cursor of stream %x stands at %d/%d, the last batch in the tree is %s", stream, c.seq, c.part, last)
		case next < 0:
			v.findf("stream", "the row of stream %x is missing", stream)
		case next <= c.seq:
			v.findf("stream", "stream %x stands at %d, but batch %d of it is in the tree", stream, next, c.seq)
		}
		return nil
	}, `SELECT c.stream, c.seq, c.part, COALESCE(s.next, -1) FROM audit_cursor c LEFT JOIN stream s ON s.cell = 0 AND s.stream = c.stream
		WHERE c.cell = 0 ORDER BY c.stream`)
	for id := range left {
		v.findf("audit_cursor", "stream %x has no cursor", id)
	}
	return err
}

// streamRows is what audit_batch and stream say of one stream.
type streamRows struct {
	stream            []byte
	rows, placed, max int64 // rows of audit_batch; of these, how many the cursor has passed; the largest number
	next, closed      int64
}

// checkBatches finds batches that the tree ought to hold and does not: the positions name each batch at most once and in order, so equal
// counts mean that they name all of them.
func (v *verification) checkBatches() error {
	var all []streamRows
	err := v.tx.Each(v.ctx, func(r db.Row) error {
		var s streamRows
		if err := r.Scan(&s.stream, &s.rows, &s.placed, &s.max, &s.next, &s.closed); err != nil {
			return err
		}
		all = append(all, s)
		return nil
	}, `SELECT b.stream, COUNT(*),
			SUM(CASE WHEN b.seq < c.seq OR b.seq = c.seq AND b.part <= c.part THEN 1 ELSE 0 END),
			MAX(b.seq), COALESCE(MAX(s.next), -1), COALESCE(MAX(s.closed), -1)
		FROM audit_batch b
			LEFT JOIN audit_cursor c ON c.cell = 0 AND c.stream = b.stream
			LEFT JOIN stream s ON s.cell = 0 AND s.stream = b.stream
		WHERE b.cell = 0 GROUP BY b.stream ORDER BY b.stream`)
	if err != nil {
		return err
	}
	for _, s := range all {
		if err := v.checkStreamRows(s); err != nil {
			return err
		}
	}
	_, err = v.tx.Get(v.ctx, []any{&v.report.Streams}, `SELECT COUNT(*) FROM stream WHERE cell = 0`)
	return err
}

func (v *verification) checkStreamRows(s streamRows) error {
	var id [8]byte
	copy(id[:], s.stream)
	pending := s.rows - s.placed
	v.report.Pending += pending
	switch {
	case s.next < 0:
		v.findf("stream", "the row of stream %x is missing", s.stream)
	case s.max >= s.next:
		v.findf("audit_batch", "batch %x/%d has a number that its stream has not reached: it stands at %d", s.stream, s.max, s.next)
	case pending > 0 && s.closed > 1:
		v.findf("stream", "stream %x is marked as read to its end, but %d batches are not in the tree", s.stream, pending)
	}
	if s.placed > v.streams[id].count {
		return v.findUnplaced(s.stream)
	}
	return nil
}

// findUnplaced names the first batch of stream that the cursor has passed and no position names.
func (v *verification) findUnplaced(stream []byte) error {
	var b batch
	copy(b.stream[:], stream)
	found, err := v.tx.Get(v.ctx, []any{&b.seq, &b.part}, `SELECT b.seq, b.part FROM audit_batch b
			JOIN audit_cursor c ON c.cell = 0 AND c.stream = b.stream
			LEFT JOIN audit_pos p ON p.cell = 0 AND p.stream = b.stream AND p.seq = b.seq AND p.part = b.part
		WHERE b.cell = 0 AND b.stream = $1 AND p.idx IS NULL AND (b.seq < c.seq OR b.seq = c.seq AND b.part <= c.part)
		ORDER BY b.seq, b.part LIMIT 1`, stream)
	if err != nil {
		return err
	}
	if found {
		v.find(Finding{Table: "audit_batch", Index: -1, Batch: b.String(), Text: "the batch has no place in the tree: it was added behind the sequencer, or its position was taken away"})
	}
	return nil
}

// checkCells looks for rows outside the record's cell, where nothing reads them.
func (v *verification) checkCells() error {
	for _, table := range []string{"stream", "audit_batch", "audit_pos", "audit_cursor", "audit_tile", "audit_filter", "tree", "checkpoint", "audit_snapshot", "audit_snapshot_part"} {
		var n int64
		if _, err := v.tx.Get(v.ctx, []any{&n}, `SELECT COUNT(*) FROM `+table+` WHERE cell < 0 OR cell > 0`); err != nil {
			return err
		}
		if n > 0 {
			v.findf(table, "%d rows stand in another cell than 0", n)
		}
	}
	return nil
}

// runCheckers lets the slices compare their tables with what they saw.
func (v *verification) runCheckers() error {
	for _, c := range v.options.Checkers {
		if c.Finish == nil {
			continue
		}
		err := c.Finish(v.ctx, v.tx)
		if errs.Is(err, errs.Unavailable) {
			return fmt.Errorf("checking %s: %w", c.Name, err)
		}
		for _, one := range split(err) {
			v.findf(c.Name, "%v", one)
		}
	}
	return nil
}

// split returns the errors that errors.Join put together.
func split(err error) []error {
	var joined interface{ Unwrap() []error }
	switch {
	case err == nil:
		return nil
	case errors.As(err, &joined):
		return joined.Unwrap()
	}
	return []error{err}
}
