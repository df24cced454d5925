package key

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"mooring/internal/base/db"
	"mooring/internal/base/errs"
	"mooring/internal/core/access"
)

// State says whether a key can be used.
type State string

// The states of keys.
const (
	Usable  State = "usable"
	Missing State = "missing" // it is not where it is kept
	Locked  State = "locked"  // where it is kept, or the key itself, cannot be used now
)

// Report is what is known of a key.
type Report struct {
	Info    // Label, Algorithm and SPKI are empty when the key is not usable
	State   State
	Problem string // why it is not usable, for administrators
	// How many certificates, and how many lists and status answers, it signed. Those of this process are included; of other nodes those of the last
	// hour may be missing.
	Uses, StatusUses int64
	Limit            Limit
}

// maxReports bounds a page.
const maxReports = 1000

// Reports describes keys in the order of their ids, at most limit of them (1000 when 0) that come after a given one: those that the custodies hold,
// and the others that are expected. It looks at the place of each key and does not load it. It needs the permission ca.read.
func (m *Meter) Reports(ctx context.Context, actor access.Actor, expected []ID, after ID, limit int) ([]Report, error) {
	if err := m.deps.Access.Require(ctx, actor, access.CARead, "keys"); err != nil {
		return nil, err
	}
	if limit <= 0 || limit > maxReports {
		limit = maxReports
	}
	held := m.deps.Custody.holdings(ctx)
	ids := map[ID]bool{}
	for _, id := range expected {
		ids[id] = true
	}
	for _, h := range held {
		maps.Copy(ids, h.ids)
	}
	delete(ids, "") // of CAs whose key is elsewhere
	list := slices.Sorted(maps.Keys(ids))
	if n, found := slices.BinarySearch(list, after); found {
		list = list[n+1:]
	} else {
		list = list[n:]
	}
	list = list[:min(limit, len(list))]
	rows, err := m.rows(ctx)
	if err != nil {
		return nil, err
	}
	reports := make([]Report, len(list))
	for i, id := range list {
		r := m.report(ctx, id, held)
		row, pending := rows[id], m.usage(id).pending()
		r.Uses, r.StatusUses, r.Limit = row.uses[forIssue]+pending[forIssue], row.uses[forStatus]+pending[forStatus], row.Limit
		reports[i] = r
	}
	return reports, ctx.Err()
}

// report says in which state a key is.
func (m *Meter) report(ctx context.Context, id ID, held map[Place]holdings) Report {
	r := Report{Info: Info{ID: id}}
	var err error
	if h, known := held[id.Place()]; known && h.problem != nil {
		err = h.problem // the same for all of them, and perhaps slow to find out
	} else {
		var info Info
		if info, err = m.deps.Custody.inspect(ctx, id); err == nil {
			r.Info, r.State = info, Usable
			return r
		}
	}
	r.State, r.Problem = Locked, errs.Public(err)
	if errs.Is(err, errs.NotFound) {
		r.State = Missing
	}
	return r
}

// Over says why a key signs no certificates any more: its limit is reached; "" when it is not.
func (m *Meter) Over(ctx context.Context, id ID) (string, error) {
	rows, err := m.rows(ctx)
	if err != nil {
		return "", err
	}
	row := rows[id]
	if row.Until > 0 && row.Until <= m.deps.Now().Unix() {
		return "the end of its key, " + time.Unix(row.Until, 0).UTC().Format("2006-01-02 15:04:05Z") + ", is past", nil
	}
	if used := row.uses[forIssue] + m.usage(id).pending()[forIssue]; row.MaxUses > 0 && used >= row.MaxUses {
		return fmt.Sprintf("its key has signed %d certificates already", used), nil
	}
	return "", nil
}

// pending is what this process knows beyond the database.
func (u *usage) pending() (n counts) {
	for p := range purposes {
		n[p] = u.counted[p].Load() - max(0, u.left[p].Load())
	}
	return n
}

// rows reads the uses and limits of all keys.
func (m *Meter) rows(ctx context.Context) (rows map[ID]useRow, err error) {
	err = m.deps.DB.View(ctx, func(ctx context.Context, tx *db.Tx) error {
		rows = map[ID]useRow{}
		return tx.Each(ctx, func(r db.Row) error {
			var id ID
			var row useRow
			if err := r.Scan((*string)(&id), &row.uses[forIssue], &row.uses[forStatus], &row.MaxUses, &row.StatusUses, &row.Until, &row.turn); err != nil {
				return err
			}
			rows[id] = row
			return nil
		}, `SELECT id, issued, told, max_issued, max_told, ends, turn FROM key_use WHERE cell = 0`)
	})
	if err != nil {
		return nil, fmt.Errorf("reading the use of keys: %w", err)
	}
	return rows, nil
}
