package audit

import (
	"context"
	"fmt"

	"golang.org/x/mod/sumdb/tlog"

	"mooring/internal/base/db"
	"mooring/internal/base/errs"
)

const (
	tileHeight = 8
	tileWidth  = 1 << tileHeight
)

type tileKey struct{ level, n int64 }

// tiles reads the stored tree in one transaction, each tile once. What it returns is what is stored, proven by nothing; see tlog.TileHashReader.
type tiles struct {
	ctx   context.Context // of the transaction that this value lives in: the interfaces of tlog have no room for it
	tx    *db.Tx
	known map[tileKey][]byte
}

func newTiles(ctx context.Context, tx *db.Tx) *tiles {
	return &tiles{ctx: ctx, tx: tx, known: map[tileKey][]byte{}}
}

// read returns the stored tile, nil when there is none.
func (t *tiles) read(level, n int64) ([]byte, error) {
	key := tileKey{level, n}
	if data, ok := t.known[key]; ok {
		return data, nil
	}
	var data []byte
	_, err := t.tx.Get(t.ctx, []any{&data}, `SELECT data FROM audit_tile WHERE cell = 0 AND level = $1 AND n = $2`, level, n)
	if err != nil {
		return nil, fmt.Errorf("reading tile %d/%d: %w", level, n, err)
	}
	t.known[key] = data
	return data, nil
}

// width returns the first w hashes of a tile, which may have grown since.
func (t *tiles) width(tile tlog.Tile) ([]byte, error) {
	data, err := t.read(int64(tile.L), tile.N)
	if err != nil {
		return nil, err
	}
	if len(data) < tile.W*tlog.HashSize {
		return nil, damaged("tile %d/%d of the tree is missing or too short", tile.L, tile.N)
	}
	return data[:tile.W*tlog.HashSize], nil
}

// Height, ReadTiles and SaveTiles make it a tlog.TileReader.
func (t *tiles) Height() int { return tileHeight }

func (t *tiles) ReadTiles(want []tlog.Tile) ([][]byte, error) {
	data := make([][]byte, len(want))
	for i, tile := range want {
		var err error
		if data[i], err = t.width(tile); err != nil {
			return nil, err
		}
	}
	return data, nil
}

func (t *tiles) SaveTiles([]tlog.Tile, [][]byte) {}

// proven returns a reader of hashes that are proven to belong to tree.
func (t *tiles) proven(tree tlog.Tree) tlog.HashReader { return tlog.TileHashReader(tree, t) }

// growth is a tree that grows in memory on top of the stored one.
type growth struct {
	stored *tiles
	old    int64       // entries in the stored tree
	size   int64       // entries now
	base   int64       // hashes of the stored tree, in tlog's numbering
	fresh  []tlog.Hash // the hashes from base on
}

// growFrom starts from the stored tree and fails with kind Unavailable when the stored tiles do not add up to its root.
func growFrom(stored *tiles, tree tlog.Tree) (*growth, error) {
	g := &growth{stored: stored, old: tree.N, size: tree.N, base: tlog.StoredHashCount(tree.N)}
	if tree.N == 0 {
		return g, nil
	}
	root, err := g.root()
	if err != nil {
		return nil, err
	}
	if root != tree.Hash {
		return nil, damaged("the stored tiles of %d entries do not add up to the stored root", tree.N)
	}
	return g, nil
}

// ReadHashes makes it a tlog.HashReader.
func (g *growth) ReadHashes(indexes []int64) ([]tlog.Hash, error) {
	hashes := make([]tlog.Hash, len(indexes))
	for i, x := range indexes {
		if x >= g.base {
			hashes[i] = g.fresh[x-g.base]
			continue
		}
		tile := tlog.TileForIndex(tileHeight, x)
		data, err := g.stored.width(tile)
		if err != nil {
			return nil, err
		}
		if hashes[i], err = tlog.HashFromTile(tile, data, x); err != nil {
			return nil, err
		}
	}
	return hashes, nil
}

func (g *growth) add(leaf tlog.Hash) error {
	hashes, err := tlog.StoredHashesForRecordHash(g.size, leaf, g)
	if err != nil {
		return fmt.Errorf("adding entry %d to the tree: %w", g.size, err)
	}
	g.fresh = append(g.fresh, hashes...)
	g.size++
	return nil
}

func (g *growth) root() (tlog.Hash, error) { return tlog.TreeHash(g.size, g) }

// changed calls fn for every tile that is new or wider than stored.
func (g *growth) changed(fn func(level, n int64, data []byte)) error {
	for _, tile := range tlog.NewTiles(tileHeight, g.old, g.size) {
		data, err := tlog.ReadTileData(tile, g)
		if err != nil {
			return fmt.Errorf("cutting tile %d/%d: %w", tile.L, tile.N, err)
		}
		fn(int64(tile.L), tile.N, data)
	}
	return nil
}

// damage is the private cause of an error that damaged made.
type damage struct{ cause error }

func (d *damage) Error() string { return d.cause.Error() }
func (d *damage) Unwrap() error { return d.cause }

// damaged says that the stored record contradicts itself. Nothing more is signed until somebody has looked.
func damaged(format string, args ...any) error {
	return errs.Wrap(errs.Unavailable, &damage{fmt.Errorf(format, args...)}, "the audit record is damaged; run \"mooring audit verify\" to see where")
}
