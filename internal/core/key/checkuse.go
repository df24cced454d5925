package key

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"

	"mooring/internal/base/db"
	"mooring/internal/core/audit"
)

// Checker compares key_use with the replayed record: the uses of a key are the sum of what the entries count, its limit is that of the entry with
// the highest turn, whatever the order in which nodes' entries got their places. A Checker serves one verification.
func (m *Meter) Checker() audit.Checker {
	c := &useChecker{rows: map[string]useRow{}}
	return audit.Checker{Name: "key", Entry: c.entry, Finish: c.finish, Save: c.save, Load: c.load}
}

type useRow struct {
	uses counts
	limited
}

type useChecker struct {
	rows  map[string]useRow
	found []error
}

func (c *useChecker) entry(_ int64, e audit.Entry) error {
	if e.Refused != "" || e.Action != "key.use" && e.Action != "key.limit" {
		return nil
	}
	numbers := map[string]int64{}
	for name, text := range e.Detail {
		n, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			return fmt.Errorf("%s of the key %s: %q is no number", name, e.Object, text)
		}
		numbers[name] = n
	}
	row := c.rows[e.Object]
	if e.Action == "key.use" {
		row.uses[forIssue] += numbers["issued"]
		row.uses[forStatus] += numbers["told"]
	} else if numbers["turn"] > row.turn {
		row.limited = limited{Limit{MaxUses: numbers["max_uses"], StatusUses: numbers["status_uses"], Until: numbers["until"]}, numbers["turn"]}
	}
	c.rows[e.Object] = row
	return nil
}

func (c *useChecker) finish(ctx context.Context, tx *db.Tx) error {
	err := tx.Each(ctx, func(r db.Row) error {
		var id string
		var cell int64
		var row useRow
		if err := r.Scan(&cell, &id, &row.uses[forIssue], &row.uses[forStatus], &row.MaxUses, &row.StatusUses, &row.Until, &row.turn); err != nil {
			return err
		}
		want, known := c.rows[id]
		switch {
		case !known || cell != 0:
			c.found = append(c.found, fmt.Errorf("the key %s is in key_use, but no entry says that its use was counted", id))
		case want != row:
			c.found = append(c.found, fmt.Errorf("the row of the key %s in key_use says %+v, the entries %+v", id, row, want))
		}
		if cell == 0 {
			delete(c.rows, id)
		}
		return nil
	}, `SELECT cell, id, issued, told, max_issued, max_told, ends, turn FROM key_use`)
	for _, id := range slices.Sorted(maps.Keys(c.rows)) {
		c.found = append(c.found, fmt.Errorf("the use of the key %s was counted, but key_use does not have it", id))
	}
	if err != nil {
		return fmt.Errorf("reading the use of keys: %w", err)
	}
	return errors.Join(c.found...)
}
