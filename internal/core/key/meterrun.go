package key

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"mooring/internal/base/db"
	"mooring/internal/core/audit"
)

const (
	lookEvery   = 10 * time.Second // for limits that other nodes have set
	storeEvery  = time.Hour
	maxBlock    = 1000
	storeAtOnce = 200 // keys in one transaction
)

// Load reads the limits. It may be called again.
func (m *Meter) Load(ctx context.Context) error {
	type row struct {
		id ID
		limited
	}
	var rows []row
	err := m.deps.DB.View(ctx, func(ctx context.Context, tx *db.Tx) error {
		rows = nil
		return tx.Each(ctx, func(r db.Row) error {
			var l row
			if err := r.Scan((*string)(&l.id), &l.MaxUses, &l.StatusUses, &l.Until, &l.turn); err != nil {
				return err
			}
			rows = append(rows, l)
			return nil
		}, `SELECT id, max_issued, max_told, ends, turn FROM key_use WHERE cell = 0 AND turn > 0`)
	})
	if err != nil {
		return fmt.Errorf("reading the limits of keys: %w", err)
	}
	for _, r := range rows {
		m.usage(r.id).adopt(r.limited)
	}
	return nil
}

// Run reserves uses for those who ask, looks for limits that other nodes set, and stores counts, until ctx ends; then it gives back what was
// reserved and not used. Limited keys do not sign afterwards.
func (m *Meter) Run(ctx context.Context) error {
	look, store := time.NewTicker(lookEvery), time.NewTicker(storeEvery)
	defer look.Stop()
	defer store.Stop()
	for {
		var err error
		select {
		case <-ctx.Done():
			return m.end(ctx)
		case a := <-m.asks:
			a.reply <- m.reserve(ctx, a.use, a.purpose)
		case <-look.C:
			err = m.Load(ctx)
		case <-store.C:
			err = m.Store(ctx)
		}
		if err != nil && ctx.Err() == nil {
			m.deps.Log.LogAttrs(ctx, slog.LevelError, "the use of keys could not be counted", slog.Any("cause", err))
		}
	}
}

// end stores everything. It must not depend on ctx, which has ended.
func (m *Meter) end(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), m.deps.Wait)
	defer cancel()
	return m.store(ctx, (*usage).drain)
}

// Store stores the uses that were counted in memory.
func (m *Meter) Store(ctx context.Context) error {
	return m.store(ctx, (*usage).uncount)
}

func (m *Meter) store(ctx context.Context, drain func(*usage) counts) error {
	type used struct {
		key *usage
		n   counts
	}
	var all []used
	m.mu.RLock()
	for _, u := range m.keys {
		if n := drain(u); n != (counts{}) {
			all = append(all, used{u, n})
		}
	}
	m.mu.RUnlock()
	for len(all) > 0 {
		part := all[:min(len(all), storeAtOnce)]
		err := m.deps.DB.Do(ctx, func(ctx context.Context, tx *db.Tx) error {
			var entries []audit.Entry
			for _, c := range part {
				if _, err := tx.Exec(ctx, `INSERT INTO key_use (cell, id, issued, told, max_issued, max_told, ends, turn) VALUES (0, $1, $2, $3, 0, 0, 0, 0)
 ON CONFLICT (cell, id) DO UPDATE SET issued = key_use.issued + excluded.issued, told = key_use.told + excluded.told`, string(c.key.id), c.n[forIssue], c.n[forStatus]); err != nil {
					return err
				}
				entries = append(entries, usesEntry(c.key.id, c.n))
			}
			return m.deps.Audit.Append(ctx, tx, entries...)
		})
		if err != nil {
			for _, c := range all {
				c.key.count(c.n)
			}
			return fmt.Errorf("storing the use of keys: %w", err)
		}
		all = all[len(part):]
	}
	return nil
}

// reserve takes a block of uses of a limited key from the database. No error: there may be some now, and the caller looks again.
func (m *Meter) reserve(ctx context.Context, u *usage, p purpose) error {
	if u.left[p].Load() > 0 {
		return nil // another one asked a moment ago
	}
	var l limited
	var uses counts
	var n int64
	owed := u.uncount() // from before there was a limit
	err := m.deps.DB.Do(ctx, func(ctx context.Context, tx *db.Tx) error {
		// Writing the row first keeps other nodes away until the commit, on every engine and at every isolation level.
		found, err := tx.Get(ctx, []any{&uses[forIssue], &uses[forStatus], &l.MaxUses, &l.StatusUses, &l.Until, &l.turn},
			`UPDATE key_use SET issued = issued + $2, told = told + $3 WHERE cell = 0 AND id = $1 RETURNING issued, told, max_issued, max_told, ends, turn`,
			string(u.id), owed[forIssue], owed[forStatus])
		if err != nil {
			return err
		}
		if !found {
			return fmt.Errorf("the row of the key %s in key_use is gone", u.id)
		}
		n = block(l.most(p)-uses[p], l.MaxUses)
		var entries []audit.Entry
		more := counts{}
		more[p] = n
		if all := (counts{owed[forIssue] + more[forIssue], owed[forStatus] + more[forStatus]}); all != (counts{}) {
			entries = append(entries, usesEntry(u.id, all))
		}
		if n > 0 {
			if _, err := tx.Exec(ctx, `UPDATE key_use SET issued = issued + $2, told = told + $3 WHERE cell = 0 AND id = $1`, string(u.id), more[forIssue], more[forStatus]); err != nil {
				return err
			}
		} else if l.MaxUses > 0 && u.told[p].Load() != l.turn {
			entries = append(entries, exhaustedEntry(u.id, l.most(p), p))
		}
		if len(entries) == 0 {
			return nil
		}
		return m.deps.Audit.Append(ctx, tx, entries...)
	})
	if err != nil {
		u.count(owed)
		return fmt.Errorf("counting the use of a key: %w", err)
	}
	u.adopt(l)
	if n > 0 {
		u.left[p].Add(n)
		return nil
	}
	if l.MaxUses > 0 {
		u.told[p].Store(l.turn)
		u.dry[p].Store(true)
	}
	return nil
}

// block is how many uses are taken at once when so many are left: few near the end, so that a crash wastes little and nodes share the rest.
func block(left, limit int64) int64 {
	if limit == 0 || left <= 0 {
		return 0
	}
	return min(max(left/8, 1), maxBlock)
}
