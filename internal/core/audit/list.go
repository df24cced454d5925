package audit

import (
	"context"
	"fmt"
	"slices"

	"mooring/internal/base/db"
	"mooring/internal/base/errs"
	"mooring/internal/core/access"
)

// Indexed is an entry in its place.
type Indexed struct {
	Index int64
	Entry
}

// Query says which entries List returns. Of Device, Serial and Action those that are not empty must all match exactly.
type Query struct {
	// After is a place between entries: before the entry of that index. Oldest first, List returns what follows the place, so the next page
	// starts after (last index)+1; newest first, what precedes it, so the next page starts at the last index, and 0 means from the newest.
	After  int64
	Limit  int  // 1 to 1,000; 0 = 100
	Newest bool // newest first
	Device string
	Serial string
	Action string
	// Near, UTC seconds, restricts the search to what was recorded about this time: from five minutes before to an hour after. Where a serial
	// number says when its certificate was made, that saves reading the rest. 0 does not restrict.
	Near int64
}

func (q *Query) matches(e *Entry) bool {
	return (q.Device == "" || q.Device == e.Device) && (q.Serial == "" || q.Serial == e.Serial) && (q.Action == "" || q.Action == e.Action)
}

func (q *Query) filtered() bool { return q.Device != "" || q.Serial != "" || q.Action != "" }

const (
	defaultPage = 100
	largestPage = 1000
	stepFilters = 256 // filters read in one transaction, so that a long search holds up nobody
)

// List returns the entries that q asks for. It sees what is in the tree: an entry appears a fraction of a second after its commit.
func (l *Log) List(ctx context.Context, actor access.Actor, q Query) ([]Indexed, error) {
	if err := l.access.Require(ctx, actor, access.AuditRead, "audit"); err != nil {
		return nil, err
	}
	if q.Limit == 0 {
		q.Limit = defaultPage
	}
	if q.Limit < 1 || q.Limit > largestPage || q.After < 0 {
		return nil, errs.New(errs.Invalid, "the limit must be 1 to %d and the place not negative", largestPage)
	}
	s := &search{q: q, macs: l.macs}
	for !s.over {
		var step stepResult
		err := l.db.View(ctx, func(ctx context.Context, tx *db.Tx) (err error) {
			step, err = s.step(ctx, tx)
			return err
		})
		if err != nil {
			return nil, fmt.Errorf("searching the audit record: %w", err)
		}
		s.apply(step)
	}
	return s.found, nil
}

// search walks the record in steps, each in its own transaction.
type search struct {
	q      Query
	macs   *batchMAC
	lo, hi int64 // what is still to be searched
	begun  bool
	over   bool
	found  []Indexed
}

// stepResult is what one step found in [from, to), and what then remains.
type stepResult struct {
	found  []Indexed
	lo, hi int64
}

// step searches the next part. It changes nothing in s, since a transaction may run again.
func (s *search) step(ctx context.Context, tx *db.Tx) (stepResult, error) {
	lo, hi := s.lo, s.hi
	if !s.begun {
		tree, _, err := readTree(ctx, tx)
		if err != nil {
			return stepResult{}, err
		}
		lo, hi = s.bounds(tree.N)
		kept, err := firstKept(ctx, tx)
		if err != nil {
			return stepResult{}, err
		}
		lo, hi = max(lo, kept), max(hi, kept)
		if s.q.Near > 0 {
			if lo, hi, err = near(ctx, tx, lo, hi, s.q.Near); err != nil {
				return stepResult{}, err
			}
		}
	}
	from, to := s.span(lo, hi)
	found, err := s.look(ctx, tx, from, to)
	if s.q.Newest {
		return stepResult{found, lo, from}, err
	}
	return stepResult{found, to, hi}, err
}

func (s *search) apply(r stepResult) {
	s.found = append(s.found, r.found...)
	s.lo, s.hi, s.begun = r.lo, r.hi, true
	s.over = len(s.found) >= s.q.Limit || s.lo >= s.hi
}

// bounds returns what is to be searched in a tree of size entries.
func (s *search) bounds(size int64) (lo, hi int64) {
	switch {
	case !s.q.Newest:
		return s.q.After, size
	case s.q.After > 0:
		return 0, min(s.q.After, size)
	}
	return 0, size
}

// near narrows [lo, hi) to the entries that were recorded about a time.
func near(ctx context.Context, tx *db.Tx, lo, hi, at int64) (from, to int64, err error) {
	if from, err = indexAt(ctx, tx, lo, hi, (at-300)*microseconds); err == nil {
		to, err = indexAt(ctx, tx, from, hi, (at+3600)*microseconds)
	}
	return from, to, err
}

// indexAt returns the index of the first entry in [lo, hi) that was not recorded before stamp, as far as the record is in the order of time:
// by halves, which is a few dozen point reads however long the record is.
func indexAt(ctx context.Context, tx *db.Tx, lo, hi, stamp int64) (int64, error) {
	for lo < hi {
		var first, n, ts int64
		found, err := tx.Get(ctx, []any{&first, &n, &ts}, `SELECT idx, n, ts FROM audit_pos WHERE cell = 0 AND idx <= $1 ORDER BY idx DESC LIMIT 1`, lo+(hi-lo)/2)
		if err != nil {
			return 0, fmt.Errorf("finding entries by time: %w", err)
		}
		switch {
		case !found:
			return lo, nil
		case ts < stamp:
			lo = first + n
		default:
			hi = max(first, lo)
			if first < lo {
				return lo, nil
			}
		}
	}
	return lo, nil
}

// span returns the entries that one step covers.
func (s *search) span(lo, hi int64) (from, to int64) {
	width := int64(s.q.Limit - len(s.found))
	if s.q.filtered() {
		width = stepFilters * blockEntries
	}
	if s.q.Newest {
		return max(lo, hi-width), hi
	}
	return lo, min(hi, lo+width)
}

// look returns the matches in [from, to) in the order of q, no more than are still wanted.
func (s *search) look(ctx context.Context, tx *db.Tx, from, to int64) ([]Indexed, error) {
	if from >= to {
		return nil, nil
	}
	spans := [][2]int64{{from, to}}
	if s.q.filtered() {
		var err error
		if spans, err = s.blocks(ctx, tx, from, to); err != nil {
			return nil, err
		}
	}
	if s.q.Newest {
		slices.Reverse(spans)
	}
	want := s.q.Limit - len(s.found)
	var found []Indexed
	for _, span := range spans {
		matches, err := s.matches(ctx, tx, span[0], span[1])
		if err != nil {
			return nil, err
		}
		if found = append(found, matches...); len(found) >= want {
			return found[:want], nil
		}
	}
	return found, nil
}

// blocks returns the parts of [from, to) that can hold a match.
func (s *search) blocks(ctx context.Context, tx *db.Tx, from, to int64) ([][2]int64, error) {
	var spans [][2]int64
	wanted := termsOf(s.q.Action, s.q.Device, s.q.Serial)
	err := tx.Each(ctx, func(r db.Row) error {
		var block int64
		var data []byte
		if err := r.Scan(&block, &data); err != nil {
			return err
		}
		if filter(data).may(wanted) {
			spans = append(spans, [2]int64{max(from, block*blockEntries), min(to, (block+1)*blockEntries)})
		}
		return nil
	}, `SELECT block, data FROM audit_filter WHERE cell = 0 AND block >= $1 AND block <= $2 ORDER BY block`, from/blockEntries, (to-1)/blockEntries)
	return spans, err
}

func (s *search) matches(ctx context.Context, tx *db.Tx, from, to int64) ([]Indexed, error) {
	var found []Indexed
	err := readRange(ctx, tx, s.macs, from, to, func(index int64, data []byte) error {
		e, err := ParseEntry(data)
		if err != nil {
			return damaged("entry %d: %w", index, err)
		}
		if s.q.matches(&e) {
			found = append(found, Indexed{index, e})
		}
		return nil
	})
	if s.q.Newest {
		slices.Reverse(found)
	}
	return found, err
}

// located is a batch with the index of its first entry and its body.
type located struct {
	batch
	first int64
	rows  int64 // how many entries its own row says it holds; -1 = the row is missing
	body  []byte
	mac   []byte
}

// rangePage is how many batches readLocated reads at once.
const rangePage = 64

// readLocated returns the next batches, at most rangePage, of those that hold entries of [from, to).
func readLocated(ctx context.Context, tx *db.Tx, from, to int64) ([]located, error) {
	var page []located
	err := tx.Each(ctx, func(r db.Row) error {
		var b located
		var stream []byte
		if err := r.Scan(&b.first, &stream, &b.seq, &b.part, &b.n, &b.ts, &b.rows, &b.body, &b.mac); err != nil {
			return err
		}
		copy(b.stream[:], stream)
		page = append(page, b)
		return nil
	}, `SELECT p.idx, p.stream, p.seq, p.part, p.n, p.ts, COALESCE(b.n, -1), b.body, b.mac
		FROM audit_pos p LEFT JOIN audit_batch b ON b.cell = 0 AND b.stream = p.stream AND b.seq = p.seq AND b.part = p.part AND b.ts = p.ts
		WHERE p.cell = 0 AND p.idx < $2 AND p.idx >= COALESCE((SELECT MAX(q.idx) FROM audit_pos q WHERE q.cell = 0 AND q.idx <= $1), 0)
		ORDER BY p.idx LIMIT $3`, from, to, rangePage)
	if err != nil {
		return nil, fmt.Errorf("reading entries from %d: %w", from, err)
	}
	return page, nil
}

// readRange calls fn with the octets of every entry in [from, to), which must be in the tree and bear their MACs. Entries whose bodies have left
// are passed over.
func readRange(ctx context.Context, tx *db.Tx, macs *batchMAC, from, to int64, fn func(index int64, data []byte) error) error {
	for from < to {
		page, err := readLocated(ctx, tx, from, to)
		if err != nil {
			return err
		}
		if len(page) == 0 {
			return damaged("entry %d has no position", from)
		}
		for _, b := range page {
			if b.rows < 0 && b.first <= from {
				left, err := leftTx(ctx, tx, &b)
				if err != nil {
					return err
				}
				if left {
					from = b.first + b.n
					continue
				}
			}
			next, err := b.each(macs, from, to, fn)
			if err != nil {
				return err
			}
			from = next
		}
	}
	return nil
}

// each calls fn for the entries of b in [from, to), the first of which must be in b, and returns the index after them.
func (b *located) each(macs *batchMAC, from, to int64, fn func(index int64, data []byte) error) (next int64, err error) {
	if b.rows != b.n || from < b.first || from >= b.first+b.n {
		return from, damaged("entry %d is not where its position says, in batch %s", from, b.batch)
	}
	if err := macs.check(b.batch, b.body, b.mac); err != nil {
		return from, damaged("batch %s: %w", b.batch, err)
	}
	entries, err := splitBody(b.body, b.ts, b.n)
	if err != nil {
		return from, damaged("batch %s: %w", b.batch, err)
	}
	for ; from < to && from < b.first+b.n; from++ {
		if err := fn(from, entries[from-b.first]); err != nil {
			return from, err
		}
	}
	return from, nil
}
