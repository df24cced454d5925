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
	selectNext  = `SELECT first FROM inventory WHERE cell = $1 AND kind = 2 AND first > $2 ORDER BY first LIMIT 1`
	selectBlock = `SELECT kind, data FROM inventory WHERE cell = $1 AND first = $2 ORDER BY kind`
	lockAsRead  = `UPDATE inventory_state SET epoch = epoch + 1 WHERE cell = 0 AND epoch = $1`
)

// walkStep makes the next blocks anew, as many as hold blockStep devices, and moves at behind them. It reads first and writes what differs in a
// transaction of its own, under the condition that the inventory is still the one that it has read.
func (r *Registry) walkStep(ctx context.Context, at *walkAt) error {
	var (
		epoch, built int64
		stale        []rework
		next         walkAt
	)
	err := r.db.View(ctx, func(ctx context.Context, tx *db.Tx) (err error) {
		if _, err = tx.Get(ctx, []any{&built, &epoch}, selectBuilt); err != nil {
			return err
		}
		stale, next = nil, *at
		for devices := 0; devices < blockStep && next.cell <= 255; {
			var p rework
			if p, next, err = readBlock(ctx, tx, next); err != nil {
				return err
			}
			devices += len(p.entries)
			if !p.same() {
				stale = append(stale, p)
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	if len(stale) > 0 {
		if err := r.writeAnew(ctx, stale, epoch); err != nil {
			return err
		}
	}
	*at = next
	return nil
}

// rework is a block as it is stored and as it should be.
type rework struct {
	old     *raw
	entries []entry
	rest    []byte // where a block begins of what does not fit; nil = all fits
}

// readBlock reads the block at at and the devices that belong there, and returns what comes next.
func readBlock(ctx context.Context, tx *db.Tx, at walkAt) (p rework, next walkAt, err error) {
	if at.first == nil {
		at.first = []byte{}
	}
	p.old = &raw{cell: uint8(at.cell), first: at.first}
	var end []byte
	bounded, err := tx.Get(ctx, []any{&end}, selectNext, at.cell, at.first)
	if err != nil {
		return p, at, err
	}
	if !bounded {
		end = maxID()
	}
	if err := tx.Each(ctx, p.old.scan, selectBlock, at.cell, at.first); err != nil {
		return p, at, err
	}
	var g gather
	if err := tx.Each(ctx, g.row, selectRange, at.cell, at.first, end, int64(blockStep)); err != nil {
		return p, at, err
	}
	for i := range g.found {
		p.entries = append(p.entries, entryOf(&g.found[i]))
	}
	if len(p.entries) == blockStep {
		if first := successor(p.entries[blockStep-1].id); !bytes.Equal(first, end) {
			p.rest = first
			return p, walkAt{at.cell, first}, nil
		}
	}
	if bounded {
		return p, walkAt{at.cell, end}, nil
	}
	return p, walkAt{at.cell + 1, []byte{}}, nil
}

// same reports whether nothing is to be written.
func (p *rework) same() bool {
	fresh, same := pack(p.old.cell, p.old.first, p.entries), p.rest == nil
	for kind := partIDs; kind < parts; kind++ {
		same = same && bytes.Equal(p.old.part[kind], fresh.part[kind])
	}
	return same
}

func (r *Registry) writeAnew(ctx context.Context, stale []rework, epoch int64) error {
	return r.db.Do(ctx, func(ctx context.Context, tx *db.Tx) error {
		if n, err := tx.Exec(ctx, lockAsRead, epoch); err != nil {
			return err
		} else if n != 1 {
			return errOvertaken
		}
		for _, p := range stale {
			if p.rest != nil {
				if err := tx.Send(ctx, blockStmts(&raw{cell: p.old.cell, first: p.rest}, nil)...); err != nil {
					return err
				}
			}
			if err := tx.Send(ctx, blockStmts(p.old, p.entries)...); err != nil {
				return err
			}
		}
		return nil
	})
}

// scan reads a row of the block.
func (b *raw) scan(row db.Row) error {
	var kind int64
	var data []byte
	if err := row.Scan(&kind, &data); err != nil {
		return err
	}
	return b.add(kind, data)
}

// successor is the lowest key above id.
func successor(id ID) []byte { return append(id[:len(id):len(id)], 0) }
