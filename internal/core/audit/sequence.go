package audit

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"slices"

	"golang.org/x/mod/sumdb/tlog"

	"mooring/internal/base/db"
)

// What one round of the sequencer takes at most, so that its memory is bounded however much is waiting.
const (
	roundEntries = 20_000 // a batch that goes beyond is still taken whole
	roundBatches = 2_000  // of one stream
)

// errMoved says that another sequencer has moved the tree since this round read it. The round is repeated.
var errMoved = errors.New("the tree was moved by another sequencer")

// batch is one row of audit_batch without its body.
type batch struct {
	stream    [8]byte
	seq, part int64
	ts, n     int64
}

func (b batch) String() string { return fmt.Sprintf("%x/%d/%d", b.stream, b.seq, b.part) }

// round is what one pass of the sequencer found and is going to write.
type round struct {
	tree     tlog.Tree // as stored
	exists   bool      // whether the row of tree exists
	grown    tlog.Tree // as it will be
	standing []db.Stream
	sources  []*source
	batches  []batch // in their new order
	filters  map[int64]filter
	tiles    []tileRow
	more     bool  // the bounds were reached before everything was taken
	oldest   int64 // stamp of the oldest batch found, 0 = none
}

// source is one stream in a round.
type source struct {
	db.Stream
	cursor  batch   // the last batch in the tree, then the last one taken
	waiting []batch // what follows the cursor, in order
	cut     bool    // there are more than waiting holds
	taken   int     // how many of waiting the round takes
}

// content is what the tree needs of a batch.
type content struct {
	leaves []tlog.Hash
	terms  []terms
}

type tileRow struct {
	level, n int64
	data     []byte
}

// readRound reads what was committed and is not yet in the tree, and computes the tree that holds it. A row whose MAC is wrong is damage. The streams that done knows to have
// been read to their end are left out.
func readRound(ctx context.Context, tx *db.Tx, macs *batchMAC, done func(db.Stream) bool) (*round, error) {
	r := &round{filters: map[int64]filter{}}
	var err error
	if r.tree, r.exists, err = readTree(ctx, tx); err != nil {
		return nil, err
	}
	r.grown = r.tree
	if err := checkEnd(ctx, tx, r.tree.N); err != nil {
		return nil, err
	}
	growth, err := growFrom(newTiles(ctx, tx), r.tree)
	if err != nil {
		return nil, err
	}
	if r.standing, err = tx.Streams(ctx); err != nil {
		return nil, err
	}
	for _, s := range r.standing {
		if done(s) {
			continue
		}
		src, err := readSource(ctx, tx, s)
		if err != nil {
			return nil, err
		}
		r.sources = append(r.sources, src)
	}
	r.choose()
	if len(r.batches) == 0 {
		return r, nil
	}
	return r, r.fill(ctx, tx, macs, growth)
}

// readTree returns the stored tree head and whether there is one; there is none before the first entry.
func readTree(ctx context.Context, tx *db.Tx) (tlog.Tree, bool, error) {
	var t tlog.Tree
	var root []byte
	found, err := tx.Get(ctx, []any{&t.N, &root}, `SELECT size, root FROM tree WHERE cell = 0`)
	if err != nil {
		return t, false, fmt.Errorf("reading the tree's head: %w", err)
	}
	if !found {
		return t, false, nil
	}
	if t.N < 1 || len(root) != tlog.HashSize {
		return t, true, damaged("the tree's head has the size %d and a root of %d octets", t.N, len(root))
	}
	copy(t.Hash[:], root)
	return t, true, nil
}

// checkEnd fails when the positions do not end where the tree ends.
func checkEnd(ctx context.Context, tx *db.Tx, size int64) error {
	var end int64
	if _, err := tx.Get(ctx, []any{&end}, `SELECT idx + n FROM audit_pos WHERE cell = 0 ORDER BY idx DESC LIMIT 1`); err != nil {
		return fmt.Errorf("reading the last position: %w", err)
	}
	if end != size {
		return damaged("the positions end at %d, the tree at %d", end, size)
	}
	return nil
}

// readCursor returns the last batch of stream that has its place. It fails when the cursor and the positions do not agree: a wrong cursor
// would have batches left out or placed twice.
func readCursor(ctx context.Context, tx *db.Tx, stream [8]byte) (batch, error) {
	c, last := batch{stream: stream, part: -1}, batch{stream: stream, part: -1}
	err := tx.Send(ctx,
		&db.Stmt{SQL: `SELECT seq, part FROM audit_cursor WHERE cell = 0 AND stream = $1`, Args: []any{stream[:]},
			Each: func(r db.Row) error { return r.Scan(&c.seq, &c.part) }},
		&db.Stmt{SQL: `SELECT seq, part FROM audit_pos WHERE cell = 0 AND stream = $1 ORDER BY seq DESC, part DESC LIMIT 1`, Args: []any{stream[:]},
			Each: func(r db.Row) error { return r.Scan(&last.seq, &last.part) }})
	if err != nil {
		return c, fmt.Errorf("reading the cursor of stream %x: %w", stream, err)
	}
	if c != last {
		return c, damaged("the cursor of stream %x stands at %d/%d, its last position at %d/%d", stream, c.seq, c.part, last.seq, last.part)
	}
	return c, nil
}

// readSource finds the batches behind the cursor of s. Every number below s.Next is committed with all its parts in the state that tx sees,
// so a number without a row is a transaction that recorded nothing, and nothing can be overtaken.
func readSource(ctx context.Context, tx *db.Tx, s db.Stream) (*source, error) {
	c, err := readCursor(ctx, tx, s.ID)
	if err != nil {
		return nil, err
	}
	if c.seq >= s.Next {
		return nil, damaged("stream %x stands at %d, but batch %d of it is in the tree", s.ID, s.Next, c.seq)
	}
	src := &source{Stream: s, cursor: c}
	err = tx.Each(ctx, func(row db.Row) error {
		b := batch{stream: s.ID}
		if err := row.Scan(&b.seq, &b.part, &b.ts, &b.n); err != nil {
			return err
		}
		src.waiting = append(src.waiting, b)
		return nil
	}, `SELECT seq, part, ts, n FROM audit_batch WHERE cell = 0 AND stream = $1 AND (seq, part) > ($2, $3) AND seq < $4
		ORDER BY seq, part LIMIT $5`, s.ID[:], c.seq, c.part, s.Next, roundBatches)
	if err != nil {
		return nil, fmt.Errorf("finding the batches of stream %x: %w", s.ID, err)
	}
	src.cut = len(src.waiting) == roundBatches
	return src, nil
}

// choose puts what is waiting in the order of its stamps, each stream's own order being kept, and takes as much of it as a round may. Of a
// stream that was cut nothing is known beyond its last batch, so nothing later than that is taken from any stream.
func (r *round) choose() {
	type dated struct {
		batch
		from *source
		at   int64 // the largest stamp of its stream up to here
	}
	var all []dated
	horizon := int64(math.MaxInt64)
	for _, src := range r.sources {
		at := int64(0)
		for _, b := range src.waiting {
			at = max(at, b.ts)
			all = append(all, dated{b, src, at})
		}
		if src.cut {
			horizon = min(horizon, at)
			r.more = true
		}
	}
	slices.SortStableFunc(all, func(a, b dated) int { return cmp.Compare(a.at, b.at) })
	if len(all) > 0 {
		r.oldest = all[0].at
	}
	entries := int64(0)
	for _, d := range all {
		if d.at > horizon || entries >= roundEntries {
			r.more = true
			return
		}
		d.from.taken++
		d.from.cursor = d.batch
		r.batches = append(r.batches, d.batch)
		entries += d.n
	}
}

// fill reads the chosen batches and computes the new tree.
func (r *round) fill(ctx context.Context, tx *db.Tx, macs *batchMAC, g *growth) error {
	contents := map[batch]content{}
	for _, src := range r.sources {
		if src.taken == 0 {
			continue
		}
		first, last := src.waiting[0], src.cursor
		oldest, newest := first.ts, first.ts // so that PostgreSQL looks into the partitions of these months only
		for _, b := range src.waiting[:src.taken] {
			oldest, newest = min(oldest, b.ts), max(newest, b.ts)
		}
		err := tx.Each(ctx, func(row db.Row) error {
			b, body, mac := batch{stream: src.ID}, []byte(nil), []byte(nil)
			if err := row.Scan(&b.seq, &b.part, &b.ts, &b.n, &body, &mac); err != nil {
				return err
			}
			if err := macs.check(b, body, mac); err != nil {
				return damaged("batch %s: %w", b, err)
			}
			c, err := readContent(b, body)
			contents[b] = c
			return err
		}, `SELECT seq, part, ts, n, body, mac FROM audit_batch WHERE cell = 0 AND stream = $1 AND (seq, part) >= ($2, $3) AND (seq, part) <= ($4, $5)
			AND ts >= $6 AND ts <= $7`, src.ID[:], first.seq, first.part, last.seq, last.part, oldest, newest)
		if err != nil {
			return fmt.Errorf("reading the batches of stream %x: %w", src.ID, err)
		}
	}
	if err := r.mergeFilter(ctx, tx); err != nil {
		return err
	}
	for _, b := range r.batches {
		c := contents[b]
		for i, leaf := range c.leaves {
			r.filterOf(g.size / blockEntries).add(c.terms[i])
			if err := g.add(leaf); err != nil {
				return err
			}
		}
	}
	return r.cut(g)
}

func readContent(b batch, body []byte) (content, error) {
	c := content{make([]tlog.Hash, 0, min(b.n, batchEntries)), make([]terms, 0, min(b.n, batchEntries))}
	err := eachEntry(body, b.ts, b.n, func(data []byte, e *Entry) error {
		if e == nil {
			parsed, err := ParseEntry(data)
			if err != nil {
				return err
			}
			e = &parsed
		}
		c.leaves, c.terms = append(c.leaves, tlog.RecordHash(data)), append(c.terms, termsOf(e.Action, e.Device, e.Serial))
		return nil
	})
	if err != nil {
		return content{}, damaged("batch %s: %w", b, err)
	}
	return c, nil
}

func (r *round) filterOf(block int64) filter {
	f := r.filters[block]
	if f == nil {
		f = make(filter, filterSize)
		r.filters[block] = f
	}
	return f
}

// mergeFilter adds what the stored filter of the unfinished block knows.
func (r *round) mergeFilter(ctx context.Context, tx *db.Tx) error {
	block := r.tree.N / blockEntries
	if r.tree.N%blockEntries == 0 {
		return nil
	}
	var stored []byte
	if _, err := tx.Get(ctx, []any{&stored}, `SELECT data FROM audit_filter WHERE cell = 0 AND block = $1`, block); err != nil {
		return fmt.Errorf("reading filter %d: %w", block, err)
	}
	if len(stored) != filterSize {
		return damaged("filter %d is missing or has %d octets", block, len(stored))
	}
	f := r.filterOf(block)
	for i := range f {
		f[i] |= stored[i]
	}
	return nil
}

// cut takes the root and the changed tiles of the grown tree.
func (r *round) cut(g *growth) error {
	root, err := g.root()
	if err != nil {
		return fmt.Errorf("computing the root: %w", err)
	}
	r.grown = tlog.Tree{N: g.size, Hash: root}
	return g.changed(func(level, n int64, data []byte) { r.tiles = append(r.tiles, tileRow{level, n, data}) })
}

// drained returns the closed streams of which everything is taken.
func (r *round) drained() []db.Stream {
	var all []db.Stream
	for _, src := range r.sources {
		if src.Closed && !src.cut && src.taken == len(src.waiting) {
			all = append(all, src.Stream)
		}
	}
	return all
}

// write stores the round in tx. It fails with errMoved when the tree is no longer the one that the round was computed for: that compare and
// swap of one row, not the lease, is what keeps two sequencers from making two trees.
func (r *round) write(ctx context.Context, tx *db.Tx) error {
	if err := r.moveTree(ctx, tx); err != nil {
		return err
	}
	stmts := make([]*db.Stmt, 0, len(r.batches)+len(r.tiles)+len(r.filters)+len(r.sources))
	next := r.tree.N
	for _, b := range r.batches {
		stmts = append(stmts, &db.Stmt{SQL: `INSERT INTO audit_pos (cell, idx, stream, seq, part, n, ts) VALUES (0, $1, $2, $3, $4, $5, $6)`,
			Args: []any{next, b.stream[:], b.seq, b.part, b.n, b.ts}})
		next += b.n
	}
	for _, t := range r.tiles {
		stmts = append(stmts, &db.Stmt{SQL: `INSERT INTO audit_tile (cell, level, n, data) VALUES (0, $1, $2, $3)
			ON CONFLICT (cell, level, n) DO UPDATE SET data = excluded.data`, Args: []any{t.level, t.n, t.data}})
	}
	for block, f := range r.filters {
		stmts = append(stmts, &db.Stmt{SQL: `INSERT INTO audit_filter (cell, block, data) VALUES (0, $1, $2)
			ON CONFLICT (cell, block) DO UPDATE SET data = excluded.data`, Args: []any{block, []byte(f)}})
	}
	for _, src := range r.sources {
		if src.taken == 0 {
			continue
		}
		stmts = append(stmts, &db.Stmt{SQL: `INSERT INTO audit_cursor (cell, stream, seq, part) VALUES (0, $1, $2, $3)
			ON CONFLICT (cell, stream) DO UPDATE SET seq = excluded.seq, part = excluded.part`, Args: []any{src.ID[:], src.cursor.seq, src.cursor.part}})
	}
	if err := tx.Send(ctx, stmts...); err != nil {
		return fmt.Errorf("storing the tree of %d entries: %w", r.grown.N, err)
	}
	return nil
}

func (r *round) moveTree(ctx context.Context, tx *db.Tx) error {
	var n int64
	var err error
	if r.exists {
		n, err = tx.Exec(ctx, `UPDATE tree SET size = $1, root = $2 WHERE cell = 0 AND size = $3 AND root = $4`,
			r.grown.N, r.grown.Hash[:], r.tree.N, r.tree.Hash[:])
	} else {
		n, err = tx.Exec(ctx, `INSERT INTO tree (cell, size, root) VALUES (0, $1, $2) ON CONFLICT (cell) DO NOTHING`, r.grown.N, r.grown.Hash[:])
	}
	if err != nil {
		return fmt.Errorf("moving the tree's head: %w", err)
	}
	if n != 1 {
		return errMoved
	}
	return nil
}
