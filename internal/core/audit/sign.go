package audit

import (
	"context"
	"fmt"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"mooring/internal/base/db"
	"mooring/internal/base/errs"
)

// keepEvery: of the checkpoints whose sizes share a multiple of it, only the newest is kept. A tree that grows by single entries would
// otherwise fill the database with signatures; a proof of growth from any size can be made from the tiles.
const keepEvery = 1024

// fence is the first act of a transaction done under a lease; without a lease it does nothing.
type fence func(ctx context.Context, tx *db.Tx) error

func noFence(context.Context, *db.Tx) error { return nil }

// sign signs the stored tree if it is not signed yet, and stores the checkpoint. It refuses, with kind Unavailable, to sign a tree that does
// not grow out of the last signed one, or that holds a batch without its MAC. r is the round before it, which has checked its own batches.
func (l *Log) sign(ctx context.Context, f fence, r *round) error {
	if l.signer == nil {
		return nil
	}
	var tree tlog.Tree
	var due bool
	err := l.db.View(ctx, func(ctx context.Context, tx *db.Tx) (err error) {
		tree, due, err = l.dueTree(ctx, tx, r)
		return err
	})
	if err != nil || !due {
		return err
	}
	signed, err := note.Sign(&note.Note{Text: checkpoint{l.origin, tree}.text()}, l.signer)
	if err != nil {
		return errs.Wrap(errs.Unavailable, err, "the audit key cannot sign at present")
	}
	err = l.db.Do(ctx, func(ctx context.Context, tx *db.Tx) error {
		if err := f(ctx, tx); err != nil {
			return err
		}
		return storeCheckpoint(ctx, tx, tree.N, signed)
	})
	if err != nil {
		return fmt.Errorf("storing the checkpoint of %d entries: %w", tree.N, err)
	}
	l.counts.checkpoints.Add(1)
	return nil
}

// dueTree returns the stored tree and whether it waits for its signature.
func (l *Log) dueTree(ctx context.Context, tx *db.Tx, r *round) (tlog.Tree, bool, error) {
	tree, _, err := readTree(ctx, tx)
	if err != nil {
		return tree, false, err
	}
	signed, size, err := lastCheckpoint(ctx, tx)
	if err != nil || tree.N == 0 && signed == nil {
		return tree, false, err
	}
	if signed == nil {
		return tree, true, l.checkUnsigned(ctx, tx, tlog.Tree{}, tree, r)
	}
	last, err := openCheckpoint(signed, l.verifier)
	switch {
	case err != nil:
		return tree, false, damaged("the last checkpoint: %w", err)
	case last.tree.N != size:
		return tree, false, damaged("the checkpoint stored for %d entries is of %d", size, last.tree.N)
	case tree.N < size:
		return tree, false, damaged("the tree has %d entries, but %d are signed: an older state was restored", tree.N, size)
	case tree.N == size && tree.Hash != last.tree.Hash:
		return tree, false, damaged("the tree of %d entries is not the one that was signed", size)
	case tree.N == size:
		return tree, false, nil
	}
	if err := l.checkUnsigned(ctx, tx, last.tree, tree, r); err != nil {
		return tree, false, err
	}
	return tree, true, checkGrowth(newTiles(ctx, tx), tree, last.tree)
}

// checkUnsigned returns nil when the entries between the last signed tree and the stored one bear their MACs and make the stored one. Where
// r alone lies between them, that is known. Otherwise another sequencer was at work, or one that did not come to sign; or somebody has
// written positions, tiles and head himself, past every sequencer.
func (l *Log) checkUnsigned(ctx context.Context, tx *db.Tx, last, tree tlog.Tree, r *round) error {
	if r.tree == last && r.grown == tree {
		return nil
	}
	g, err := growFrom(newTiles(ctx, tx), last)
	if err != nil {
		return err
	}
	if err := readRange(ctx, tx, l.macs, last.N, tree.N, func(_ int64, data []byte) error { return g.add(tlog.RecordHash(data)) }); err != nil {
		return err
	}
	root, err := g.root()
	if err == nil && root != tree.Hash {
		err = damaged("the stored tree of %d entries is not the one that its entries make", tree.N)
	}
	return err
}

// checkGrowth returns nil when tree, as its tiles prove, grew out of old.
func checkGrowth(stored *tiles, tree, old tlog.Tree) error {
	proof, err := tlog.ProveTree(tree.N, old.N, stored.proven(tree))
	if err == nil {
		err = tlog.CheckTree(proof, tree.N, tree.Hash, old.N, old.Hash)
	}
	if err != nil {
		return damaged("the tree of %d entries does not grow out of the signed one of %d: %w", tree.N, old.N, err)
	}
	return nil
}

// lastCheckpoint returns the newest stored checkpoint, nil when there is none.
func lastCheckpoint(ctx context.Context, tx *db.Tx) (signed []byte, size int64, err error) {
	_, err = tx.Get(ctx, []any{&size, &signed}, `SELECT size, text FROM checkpoint WHERE cell = 0 ORDER BY size DESC LIMIT 1`)
	if err != nil {
		return nil, 0, fmt.Errorf("reading the last checkpoint: %w", err)
	}
	return signed, size, nil
}

// storeCheckpoint stores signed unless one of this size or a larger one is there, and drops the ones that it makes superfluous.
func storeCheckpoint(ctx context.Context, tx *db.Tx, size int64, signed []byte) error {
	// The tree's row is the lock under which signers look at each other's checkpoints.
	if _, err := tx.Exec(ctx, `UPDATE tree SET size = size WHERE cell = 0`); err != nil {
		return err
	}
	_, last, err := lastCheckpoint(ctx, tx)
	if err != nil || last >= size {
		return err
	}
	if _, err := tx.Exec(ctx, `DELETE FROM checkpoint WHERE cell = 0 AND size >= $1 AND size < $2`, size-size%keepEvery, size); err != nil {
		return err
	}
	_, err = tx.Exec(ctx, `INSERT INTO checkpoint (cell, size, text) VALUES (0, $1, $2)`, size, signed)
	return err
}

// Checkpoint returns the newest signed checkpoint and how many entries it covers; NotFound before the first.
func (l *Log) Checkpoint(ctx context.Context) (signed []byte, size int64, err error) {
	err = l.db.View(ctx, func(ctx context.Context, tx *db.Tx) (err error) {
		signed, size, err = lastCheckpoint(ctx, tx)
		return err
	})
	if err == nil && signed == nil {
		err = errs.New(errs.NotFound, "nothing is signed yet")
	}
	return signed, size, err
}

// Prove returns the proof that the entry at index stands under the newest checkpoint. NotFound: there is no such entry, or it is so new
// that no checkpoint covers it; Sequence sees to the latter.
func (l *Log) Prove(ctx context.Context, index int64) (Proof, error) {
	if l.verifier == nil {
		return Proof{}, errs.New(errs.Unavailable, "proofs cannot be given: this server has no audit key")
	}
	p := Proof{Index: index}
	err := l.db.View(ctx, func(ctx context.Context, tx *db.Tx) error {
		signed, _, err := lastCheckpoint(ctx, tx)
		if err != nil {
			return err
		}
		var c checkpoint
		if signed != nil {
			if c, err = openCheckpoint(signed, l.verifier); err != nil {
				return damaged("the last checkpoint: %w", err)
			}
		}
		if index < 0 || index >= c.tree.N {
			return errs.New(errs.NotFound, "there is no signed entry %d: the last checkpoint covers %d", index, c.tree.N)
		}
		p.Checkpoint = signed
		if p.Hashes, err = tlog.ProveRecord(c.tree.N, index, newTiles(ctx, tx).proven(c.tree)); err != nil {
			return damaged("proving entry %d: %w", index, err)
		}
		p.Entry, p.Left = nil, 0
		err = readRange(ctx, tx, l.macs, index, index+1, func(_ int64, data []byte) error {
			p.Entry, p.Leaf = data, tlog.RecordHash(data)
			return nil
		})
		if err != nil || p.Entry != nil {
			return err
		}
		s, err := newestSnapshot(ctx, tx)
		if err != nil {
			return err
		}
		p.Left = s.at
		leaf, err := newTiles(ctx, tx).proven(c.tree).ReadHashes([]int64{tlog.StoredHashIndex(0, index)})
		if err != nil {
			return damaged("the hash of entry %d: %w", index, err)
		}
		p.Leaf = leaf[0]
		return nil
	})
	if err != nil {
		return Proof{}, err
	}
	if err := CheckLeaf(p.Text(), p.Leaf, l.verifier); err != nil {
		return Proof{}, damaged("the proof of entry %d does not hold: %w", index, err)
	}
	return p, nil
}
