package audit

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/mod/sumdb/tlog"

	"mooring/internal/base/db"
)

// What one round of the sequencer takes at most, so that its memory is bounded however much is waiting.
const (
	roundEntries = 20_000
	roundOctets  = 16 << 20
	roundBatches = 256 // rows read by one query
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
	batches  []batch   // in their new order
	leaves   []tlog.Hash
	filters  map[int64]filter
	cursors  map[[8]byte]batch // the last batch taken of each stream
	tiles    []tileRow
	drained  []db.Stream
	standing []db.Stream // the streams as they stood
	more     bool        // the bounds were reached before everything was read
	oldest   int64       // time of the oldest batch found, 0 = none
	octets   int
}

type tileRow struct {
	level, n int64
	data     []byte
}

// readRound reads what was committed and is not yet in the tree, and computes the tree that holds it. The streams that done knows to have
// been read to their end are left out.
func readRound(ctx context.Context, tx *db.Tx, done func(db.Stream) bool) (*round, error) {
	r := &round{filters: map[int64]filter{}, cursors: map[[8]byte]batch{}}
	var err error
	if r.tree, r.exists, err = readTree(ctx, tx); err != nil {
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
		if err := r.readStream(ctx, tx, s); err != nil {
			return nil, err
		}
	}
	if len(r.leaves) == 0 {
		r.grown = r.tree
		return r, nil
	}
	if err := r.mergeFilter(ctx, tx); err != nil {
		return nil, err
	}
	return r, r.grow(growth)
}

// readTree returns the stored tree head. A record that has positions but no head is damaged.
func readTree(ctx context.Context, tx *db.Tx) (tlog.Tree, bool, error) {
	var t tlog.Tree
	var root []byte
	found, err := tx.Get(ctx, []any{&t.N, &root}, `SELECT size, root FROM tree WHERE cell = 0`)
	if err != nil {
		return t, false, fmt.Errorf("reading the tree's head: %w", err)
	}
	if !found {
		var first int64
		used, err := tx.Get(ctx, []any{&first}, `SELECT idx FROM audit_pos WHERE cell = 0 LIMIT 1`)
		if err != nil {
			return t, false, fmt.Errorf("looking for positions: %w", err)
		}
		if used {
			return t, false, damaged("there are positions but no tree")
		}
		return t, false, nil
	}
	if t.N < 1 || len(root) != tlog.HashSize {
		return t, true, damaged("the tree's head has the size %d and a root of %d octets", t.N, len(root))
	}
	copy(t.Hash[:], root)
	return t, true, nil
}

func readCursor(ctx context.Context, tx *db.Tx, stream [8]byte) (batch, error) {
	c := batch{stream: stream, part: -1}
	_, err := tx.Get(ctx, []any{&c.seq, &c.part}, `SELECT seq, part FROM audit_cursor WHERE cell = 0 AND stream = $1`, stream[:])
	if err != nil {
		return c, fmt.Errorf("reading the cursor of stream %x: %w", stream, err)
	}
	return c, nil
}

// readStream takes the batches behind the cursor in order. Every number below s.Next is committed with all its parts in the state that tx
// sees, so a number without a row is a transaction that recorded nothing, and nothing can be overtaken.
func (r *round) readStream(ctx context.Context, tx *db.Tx, s db.Stream) error {
	c, err := readCursor(ctx, tx, s.ID)
	if err != nil {
		return err
	}
	if c.seq >= s.Next {
		return damaged("stream %x stands at %d, but batch %d of it is in the tree", s.ID, s.Next, c.seq)
	}
	for {
		rows := 0
		err := tx.Each(ctx, func(row db.Row) error {
			if len(r.leaves) >= roundEntries || r.octets >= roundOctets {
				return errFull
			}
			b, body := batch{stream: s.ID}, []byte(nil)
			if err := row.Scan(&b.seq, &b.part, &b.ts, &b.n, &body); err != nil {
				return err
			}
			rows++
			c = b
			return r.take(b, body)
		}, `SELECT seq, part, ts, n, body FROM audit_batch WHERE cell = 0 AND stream = $1 AND (seq, part) > ($2, $3) AND seq < $4
			ORDER BY seq, part LIMIT $5`, s.ID[:], c.seq, c.part, s.Next, roundBatches)
		switch {
		case errors.Is(err, errFull):
			r.more = true
			return nil
		case err != nil:
			return fmt.Errorf("reading the batches of stream %x: %w", s.ID, err)
		case rows < roundBatches:
			if s.Closed {
				r.drained = append(r.drained, s)
			}
			return nil
		}
	}
}

// errFull ends the reading of rows when a round has enough.
var errFull = errors.New("the round is full")

// take gives the entries of b the next places.
func (r *round) take(b batch, body []byte) error {
	entries, err := splitBody(body, b.n)
	if err != nil {
		return damaged("batch %s: %w", b, err)
	}
	for _, data := range entries {
		e, err := ParseEntry(data)
		if err != nil {
			return damaged("batch %s: %w", b, err)
		}
		r.filterOf((r.tree.N + int64(len(r.leaves))) / blockEntries).add(&e)
		r.leaves = append(r.leaves, tlog.RecordHash(data))
	}
	r.batches = append(r.batches, b)
	r.cursors[b.stream] = b
	r.octets += len(body)
	if r.oldest == 0 || b.ts < r.oldest {
		r.oldest = b.ts
	}
	return nil
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

// grow computes the new tree.
func (r *round) grow(g *growth) error {
	for _, leaf := range r.leaves {
		if err := g.add(leaf); err != nil {
			return err
		}
	}
	root, err := g.root()
	if err != nil {
		return fmt.Errorf("computing the root: %w", err)
	}
	r.grown = tlog.Tree{N: g.size, Hash: root}
	return g.changed(func(level, n int64, data []byte) { r.tiles = append(r.tiles, tileRow{level, n, data}) })
}

// write stores the round in tx. It fails with errMoved when the tree is no longer the one that the round was computed for: that compare and
// swap of one row, not the lease, is what keeps two sequencers from making two trees.
func (r *round) write(ctx context.Context, tx *db.Tx) error {
	if err := r.moveTree(ctx, tx); err != nil {
		return err
	}
	stmts := make([]*db.Stmt, 0, len(r.batches)+len(r.tiles)+len(r.filters)+len(r.cursors))
	next := r.tree.N
	for _, b := range r.batches {
		stmts = append(stmts, &db.Stmt{SQL: `INSERT INTO audit_pos (cell, idx, stream, seq, part, n) VALUES (0, $1, $2, $3, $4, $5)`,
			Args: []any{next, b.stream[:], b.seq, b.part, b.n}})
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
	for stream, b := range r.cursors {
		stmts = append(stmts, &db.Stmt{SQL: `INSERT INTO audit_cursor (cell, stream, seq, part) VALUES (0, $1, $2, $3)
			ON CONFLICT (cell, stream) DO UPDATE SET seq = excluded.seq, part = excluded.part`, Args: []any{stream[:], b.seq, b.part}})
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
