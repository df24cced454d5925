package device

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"time"

	"mooring/internal/base/db"
)

// walkAt is how far a walk through the registry has come.
type walkAt struct {
	cell  int64
	first []byte // the first id of a block
}

// errOvertaken says that the inventory was changed between reading and writing.
var errOvertaken = errors.New("overtaken")

// walk makes the blocks of the inventory anew from the registry, beginning at at, which it moves, and reports whether it came to the end. It
// rests as long as it works, and the notes of changes are flushed by the caller between two walks of a second each.
func (r *Registry) walk(ctx context.Context, at *walkAt) (done bool) {
	for began := r.now(); r.now().Sub(began) < flushEvery; {
		step := r.now()
		err := r.walkStep(ctx, at)
		switch {
		case errors.Is(err, errOvertaken):
		case err != nil:
			if ctx.Err() == nil {
				r.log.LogAttrs(ctx, slog.LevelWarn, "reading the registry for the inventory failed; it is tried again", slog.Any("cause", err))
			}
			return false
		}
		if at.cell > 255 {
			return r.walked(ctx)
		}
		select {
		case <-time.After(max(r.now().Sub(step), 100*time.Microsecond)):
		case <-ctx.Done():
			return false
		}
	}
	return false
}

// walked says that the inventory is whole.
func (r *Registry) walked(ctx context.Context) bool {
	err := r.db.Do(ctx, func(ctx context.Context, tx *db.Tx) error {
		_, err := tx.Exec(ctx, setBuilt, int64(1))
		return err
	})
	return err == nil
}

// Reindex makes the whole inventory anew from the registry. Run does so by itself when there is need; this is for tools that fill a database.
func (r *Registry) Reindex(ctx context.Context) error {
	for at := (&walkAt{}); at.cell <= 255; {
		if err := r.walkStep(ctx, at); err != nil && !errors.Is(err, errOvertaken) {
			return err
		}
	}
	if !r.walked(ctx) {
		return errors.New("the end of the walk could not be noted")
	}
	return nil
}

const (
	selectRange = `SELECT ` + deviceColumns + ` FROM (SELECT ` + ownColumns + ` FROM device WHERE cell = $1 AND id >= $2 AND id < $3 ORDER BY id LIMIT $4) d` +
		joinedTables + ` ORDER BY d.cell, d.id, s.slot`
	selectNext  = `SELECT first FROM inventory WHERE cell = $1 AND kind = 1 AND first > $2 ORDER BY first LIMIT 1`
	selectBlock = `SELECT kind, data FROM inventory WHERE cell = $1 AND first = $2`
	lockAsRead  = `UPDATE inventory_state SET epoch = epoch + 1 WHERE cell = 0 AND epoch = $1`
)

// walkStep makes the block at at anew and moves at behind it. It reads first and writes what differs in a transaction of its own, under the
// condition that the inventory is still the one that it has read.
func (r *Registry) walkStep(ctx context.Context, at *walkAt) error {
	if at.first == nil {
		at.first = []byte{}
	}
	var (
		epoch, built int64
		next         []byte
		bounded      bool
		old          *raw
		g            gather
	)
	err := r.db.View(ctx, func(ctx context.Context, tx *db.Tx) (err error) {
		g, old = gather{}, &raw{cell: uint8(at.cell), first: at.first}
		if _, err = tx.Get(ctx, []any{&built, &epoch}, selectBuilt); err != nil {
			return err
		}
		if bounded, err = tx.Get(ctx, []any{&next}, selectNext, at.cell, at.first); err != nil {
			return err
		}
		if !bounded {
			next = maxID()
		}
		if err := tx.Each(ctx, old.scan, selectBlock, at.cell, at.first); err != nil {
			return err
		}
		return tx.Each(ctx, g.row, selectRange, at.cell, at.first, next, int64(blockStep))
	})
	if err != nil {
		return err
	}
	entries := make([]entry, len(g.found))
	for i := range g.found {
		entries[i] = entryOf(&g.found[i])
	}
	following := walkAt{at.cell, next}
	switch {
	case len(entries) == blockStep:
		following.first = successor(entries[len(entries)-1].id)
	case !bounded:
		following = walkAt{at.cell + 1, []byte{}}
	}
	split := len(entries) == blockStep && !bytes.Equal(following.first, next) // what follows in the range becomes a block of its own
	if err := r.replaceBlock(ctx, old, entries, epoch, split, following.first); err != nil {
		return err
	}
	*at = following
	return nil
}

// replaceBlock writes what differs from old, and the beginning of an empty block that ends it.
func (r *Registry) replaceBlock(ctx context.Context, old *raw, entries []entry, epoch int64, split bool, first []byte) error {
	fresh, same := pack(old.cell, old.first, entries), true
	for kind := 1; kind < columns; kind++ {
		same = same && old.col[kind] != nil && bytes.Equal(old.col[kind], fresh.col[kind])
	}
	if same && !split || len(entries) == 0 && old.col[colIDs] == nil && len(old.first) > 0 {
		return nil
	}
	return r.db.Do(ctx, func(ctx context.Context, tx *db.Tx) error {
		if n, err := tx.Exec(ctx, lockAsRead, epoch); err != nil {
			return err
		} else if n != 1 {
			return errOvertaken
		}
		if split {
			if err := writeBlock(ctx, tx, &raw{cell: old.cell, first: first}, nil); err != nil {
				return err
			}
		}
		return writeBlock(ctx, tx, old, entries)
	})
}

// scan reads a column of the block.
func (b *raw) scan(row db.Row) error {
	var kind int64
	var data []byte
	if err := row.Scan(&kind, &data); err != nil {
		return err
	}
	if kind < 1 || kind >= columns {
		return errDamaged
	}
	b.col[kind] = data
	return nil
}

// successor is the lowest key above id.
func successor(id ID) []byte { return append(id[:len(id):len(id)], 0) }
