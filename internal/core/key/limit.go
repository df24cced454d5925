package key

import (
	"context"
	"embed"
	"fmt"
	"io/fs"
	"strconv"

	"mooring/internal/base/db"
	"mooring/internal/base/errs"
	"mooring/internal/core/access"
	"mooring/internal/core/audit"
)

//go:embed schema/*.sql
var schemaFiles embed.FS

// Schema returns the table of this package.
func Schema() db.Schema {
	sub, err := fs.Sub(schemaFiles, "schema")
	if err != nil {
		panic(err) // the name above is wrong
	}
	return db.Schema{Name: "key", FS: sub}
}

// Limit bounds the use of a key. The zero value does not.
//
// Every signature counts, those of certificates on one account, those of revocation lists and status answers on another. When MaxUses
// certificates are signed, or at the end, no further one is. The lists and answers about those that were issued must go on, or the fleet would stop at
// the same moment: so they have StatusUses for themselves, which certificates cannot use up and they cannot exceed, and no end in time.
// Both together are how often the key signs in its life.
type Limit struct {
	MaxUses    int64 // certificates; 0: as often as you like, of both kinds
	StatusUses int64 // lists and answers; 0 with MaxUses: DefaultStatusUses
	Until      int64 // Unix second; 0: as long as you like
}

// DefaultStatusUses is enough for 256 lists that are signed twice a day, for five years.
const DefaultStatusUses = 1_000_000

func (l *Limit) check() error {
	if l.MaxUses < 0 || l.StatusUses < 0 || l.Until < 0 || l.MaxUses > 1<<53 || l.StatusUses > 1<<53 {
		return errs.New(errs.Invalid, "the limit of a key is a number of signatures from 0 to %d", int64(1<<53))
	}
	if l.MaxUses == 0 {
		l.StatusUses = 0
	} else if l.StatusUses == 0 {
		l.StatusUses = DefaultStatusUses
	}
	return nil
}

// most is how often the key may sign for a purpose; 0: as often as you like.
func (l Limit) most(p purpose) int64 {
	if p == forStatus {
		return l.StatusUses
	}
	return l.MaxUses
}

// SetLimit bounds the use of a key, or with the zero Limit lifts the bound. It needs the permission ca.manage. What was used before counts. Other
// nodes heed it after a quarter of a minute at the latest.
func (m *Meter) SetLimit(ctx context.Context, actor access.Actor, id ID, l Limit) error {
	if err := m.deps.Access.Require(ctx, actor, access.CAManage, "key "+string(id)); err != nil {
		return err
	}
	if id == "" {
		return errs.New(errs.NotFound, "the key is not kept here, so that its use cannot be limited here")
	}
	if err := l.check(); err != nil {
		return err
	}
	u := m.usage(id)
	n := u.drain()
	var turn int64
	err := m.deps.DB.Do(ctx, func(ctx context.Context, tx *db.Tx) error {
		if _, err := tx.Get(ctx, []any{&turn}, `INSERT INTO key_use (cell, id, issued, told, max_issued, max_told, ends, turn) VALUES (0, $1, $2, $3, $4, $5, $6, 1)
 ON CONFLICT (cell, id) DO UPDATE SET issued = key_use.issued + excluded.issued, told = key_use.told + excluded.told, max_issued = excluded.max_issued,
 max_told = excluded.max_told, ends = excluded.ends, turn = key_use.turn + 1 RETURNING turn`, string(id), n[forIssue], n[forStatus], l.MaxUses, l.StatusUses, l.Until); err != nil {
			return err
		}
		entries := []audit.Entry{l.entry(actor, id, turn)}
		if n != (counts{}) {
			entries = append(entries, usesEntry(id, n))
		}
		return m.deps.Audit.Append(ctx, tx, entries...)
	})
	if err != nil {
		u.count(n) // as if it had not been tried; a limited key counts it with the next block
		return err
	}
	u.adopt(limited{l, turn})
	return nil
}

func (l Limit) entry(actor access.Actor, id ID, turn int64) audit.Entry {
	n := func(i int64) string { return strconv.FormatInt(i, 10) }
	return audit.Entry{Action: "key.limit", Actor: actor.String(), Object: string(id), Detail: map[string]string{
		"max_uses": n(l.MaxUses), "status_uses": n(l.StatusUses), "until": n(l.Until), "turn": n(turn)}}
}

// usesEntry says that so many uses were counted or reserved, or, below zero, given back.
func usesEntry(id ID, n counts) audit.Entry {
	return audit.Entry{Action: "key.use", Actor: access.System("key").String(), Object: string(id), Detail: map[string]string{
		"issued": strconv.FormatInt(n[forIssue], 10), "told": strconv.FormatInt(n[forStatus], 10)}}
}

// exhaustedEntry says that a key may not be used any more for a purpose. It changes nothing, and is a refusal.
func exhaustedEntry(id ID, most int64, p purpose) audit.Entry {
	what := "certificates"
	if p == forStatus {
		what = "lists and status answers"
	}
	return audit.Entry{Action: "key.exhausted", Actor: access.System("key").String(), Object: string(id), Refused: fmt.Sprintf("used up for %s: %d signatures", what, most)}
}
