package audit

import (
	"context"
	"fmt"
	"time"

	"mooring/internal/base/db"
	"mooring/internal/base/errs"
)

// Size returns how many entries are in the tree.
func (l *Log) Size(ctx context.Context) (size int64, err error) {
	err = l.db.View(ctx, func(ctx context.Context, tx *db.Tx) error {
		tree, _, err := readTree(ctx, tx)
		size = tree.N
		return err
	})
	return size, err
}

// Grown returns a channel that is closed when this process has seen the tree grow. What other processes of a deployment sequence is seen by
// looking, as often as LookAgain says.
func (l *Log) Grown() <-chan struct{} { return l.grown.next() }

// LookAgain is how often a follower looks without being woken by Grown. A database that is a file has one process, which wakes whoever waits; looking
// five times a second in it costs more than all else that a server without work does.
func (l *Log) LookAgain() time.Duration {
	if l.db.Arrays() {
		return pollEvery
	}
	return aloneEvery
}

// Scan reads on from the index from, for followers who care for a few actions only: it returns the next entries of these actions, not all at once,
// and the index up to which everything was looked at, where the next Scan goes on. That is from itself when nothing is new. Blocks of entries
// that cannot hold such an action are passed over unread. It asks nobody for permission; followers of the record are part of the platform.
func (l *Log) Scan(ctx context.Context, from int64, actions []string) (page []Indexed, next int64, err error) {
	if from < 0 {
		return nil, from, errs.New(errs.Invalid, "the feed starts at 0, not at %d", from)
	}
	err = l.db.View(ctx, func(ctx context.Context, tx *db.Tx) error {
		page, next = nil, from
		tree, _, err := readTree(ctx, tx)
		if err != nil || from >= tree.N {
			return err
		}
		if err := checkPlace(ctx, tx, from); err != nil {
			return err
		}
		end := min(tree.N, from+stepFilters*blockEntries)
		spans, err := actionBlocks(ctx, tx, from, end, actions)
		if err != nil {
			return err
		}
		wanted := map[string]bool{}
		for _, a := range actions {
			wanted[a] = true
		}
		for _, span := range spans {
			err := readRange(ctx, tx, l.macs, span[0], span[1], func(index int64, data []byte) error {
				e, err := ParseEntry(data)
				if err != nil {
					return damaged("entry %d: %w", index, err)
				}
				if wanted[e.Action] && e.Refused == "" {
					page = append(page, Indexed{index, e})
				}
				return nil
			})
			if err != nil {
				return err
			}
			if len(page) >= largestPage { // within a block more: no entry is read twice
				next = span[1]
				return nil
			}
		}
		next = end
		return nil
	})
	if err != nil {
		return nil, from, fmt.Errorf("following the audit record: %w", err)
	}
	return page, next, nil
}

// checkPlace returns an error when entries behind a follower's place have left: whoever goes on from there would miss them without a word.
func checkPlace(ctx context.Context, tx *db.Tx, from int64) error {
	s, err := newestSnapshot(ctx, tx)
	if err == nil && from < s.idx {
		err = errs.New(errs.NotFound, "entries from %d on have left the audit record (retention.audit): read what they led to elsewhere, such as in the lists of revoked certificates, and follow the record from %d on", from, s.idx)
	}
	return err
}

// actionBlocks returns the parts of [from, to), by blocks, that can hold one of the actions.
func actionBlocks(ctx context.Context, tx *db.Tx, from, to int64, actions []string) ([][2]int64, error) {
	var spans [][2]int64
	err := tx.Each(ctx, func(r db.Row) error {
		var block int64
		var data []byte
		if err := r.Scan(&block, &data); err != nil {
			return err
		}
		for _, action := range actions {
			if filter(data).may(termsOf(action, "", "")) {
				spans = append(spans, [2]int64{max(from, block*blockEntries), min(to, (block+1)*blockEntries)})
				break
			}
		}
		return nil
	}, `SELECT block, data FROM audit_filter WHERE cell = 0 AND block >= $1 AND block <= $2 ORDER BY block`, from/blockEntries, (to-1)/blockEntries)
	return spans, err
}
