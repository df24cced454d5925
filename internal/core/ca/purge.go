package ca

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"mooring/internal/base/db"
	"mooring/internal/core/access"
	"mooring/internal/core/audit"
	"mooring/wire/der"
)

// Certificates leave when they have expired and the retention of their profile has passed, and never while a CRL that names them may be in use.
// On PostgreSQL the ordinary ones leave a month at a time: the decision and its entry are one transaction, what follows (taking the
// partition out, dropping it) changes nothing any more and is taken up again after a crash. On SQLite, and those that are kept long on both,
// leave in small batches, each with its entry.
//
// The entry names the month, how many left, a sum over their serial numbers and for how long each profile kept them. A verification accepts that a
// certificate is gone only for these (verify.go).

// ActionPurge is the action of the entries about certificates that left.
const ActionPurge = "cert.purge"

// objectLong is what these entries name in place of a month for certificates that were kept long.
const objectLong = "long"

const (
	purgeBatch = 200                   // rows a transaction
	purgePause = 20 * time.Millisecond // between two, so that those who issue come in between
)

// keepers tells how long certificates are kept after their end.
type keepers struct {
	now, slack int64
	by         map[string]int64 // by profile and version
	profiles   *Profiles
	versions   map[string]string // texts of the profiles that are no more
}

// newKeepers reads the profile versions that have certificates but no profile any more.
func (a *Authority) newKeepers(ctx context.Context) (*keepers, error) {
	k := &keepers{now: a.deps.Now().Unix(), slack: int64(a.deps.Retention.Slack / time.Second), by: map[string]int64{}, profiles: a.deps.Profiles}
	err := a.deps.DB.View(ctx, func(ctx context.Context, tx *db.Tx) error {
		k.versions = map[string]string{}
		return tx.Each(ctx, func(row db.Row) error {
			var name, version, text string
			err := row.Scan(&name, &version, &text)
			k.versions[name+" "+version] = text
			return err
		}, `SELECT name, version, yaml FROM profile_version WHERE cell = 0`)
	})
	if err != nil {
		return nil, fmt.Errorf("reading the profiles: %w", err)
	}
	return k, nil
}

// keep returns for how many seconds after its end a certificate of a profile is kept: as its profile says now, or, when that is gone or keeps none,
// as the version says by which it was made.
func (k *keepers) keep(profile, version string) int64 {
	id := profile + " " + version
	keep, known := k.by[id]
	if known {
		return keep
	}
	keep = KeepForever
	if profile == ResponderProfile {
		keep = defaultRetention
	} else if p, err := k.profiles.Get(profile); err == nil && p.Record == Full {
		keep = p.Retention
	} else if text, ok := k.versions[id]; ok {
		if p, d := parseProfile(profile+".yaml", []byte(text)); len(d.problems) == 0 && p.Record == Full {
			keep = p.Retention
		}
	}
	if keep != KeepForever {
		keep = max(keep, k.slack)
	}
	k.by[id] = keep
	return keep
}

func (k *keepers) over(profile, version string, notAfter int64) bool {
	keep := k.keep(profile, version)
	return notAfter != der.NoExpiry && keep != KeepForever && notAfter+keep < k.now
}

// lastDay returns a day of issue after which nothing can be over: of the shortest-kept certificates those of no life at all.
func (k *keepers) lastDay() int64 {
	shortest := int64(KeepForever)
	for id := range k.versions {
		profile, version, _ := strings.Cut(id, " ")
		shortest = min(shortest, k.keep(profile, version))
	}
	if shortest == KeepForever {
		return -1
	}
	return (k.now - shortest) / 86400
}

// gone sums up what leaves.
type gone struct {
	n    int64
	sum  [16]byte
	keep map[string]int64 // the shortest, by profile
}

func (g *gone) add(serial []byte) {
	digest := sha256.Sum256(serial)
	for i := range g.sum {
		g.sum[i] ^= digest[i]
	}
	g.n++
}

func (g *gone) kept(profile string, seconds int64) {
	if g.keep == nil {
		g.keep = map[string]int64{}
	}
	if known, ok := g.keep[profile]; !ok || seconds < known {
		g.keep[profile] = seconds
	}
}

// entry is what the record says about certificates of one month, or of those that are kept long.
func (g *gone) entry(actor access.Actor, object string, at int64, whole bool) audit.Entry {
	var keep []string
	for _, profile := range slices.Sorted(maps.Keys(g.keep)) {
		keep = append(keep, profile+"="+strconv.FormatInt(g.keep[profile], 10))
	}
	e := audit.Entry{At: at, Action: ActionPurge, Actor: actor.String(), Object: object, Detail: map[string]string{
		"n": strconv.FormatInt(g.n, 10), "sum": hex.EncodeToString(g.sum[:]), "keep": strings.Join(keep, " ")}}
	if whole {
		e.Detail["month"] = "whole"
	}
	return e
}

// expired is a row that may leave.
type expired struct {
	day              int64
	serial           []byte
	profile, version string
	notAfter         int64
}

// sweep deletes from a table, cell by cell in the order of the key, what is over, in small batches.
func (a *Authority) sweep(ctx context.Context, l *db.Lease, actor access.Actor, k *keepers, table string) (deleted int64, err error) {
	last := k.lastDay()
	for cell := int64(0); cell < 256 && last >= 0; cell++ {
		from := expired{day: -1, serial: []byte{}}
		for more := true; more; {
			var page []expired
			if page, more, err = a.expiredAfter(ctx, table, cell, from, last); err != nil {
				return deleted, fmt.Errorf("looking for what is over in %s: %w", table, err)
			}
			if len(page) > 0 {
				from = page[len(page)-1]
			}
			page = slices.DeleteFunc(page, func(e expired) bool { return !k.over(e.profile, e.version, e.notAfter) })
			if len(page) == 0 {
				continue
			}
			n, err := a.deleteBatch(ctx, l, actor, k, table, cell, page)
			if err != nil {
				return deleted, fmt.Errorf("deleting from %s: %w", table, err)
			}
			deleted += n
			if !wait(ctx, purgePause) {
				return deleted, ctx.Err()
			}
		}
	}
	return deleted, nil
}

func wait(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// expiredAfter returns the next rows of a cell that have expired, and whether there may be more.
func (a *Authority) expiredAfter(ctx context.Context, table string, cell int64, from expired, last int64) (page []expired, more bool, err error) {
	err = a.deps.DB.View(ctx, func(ctx context.Context, tx *db.Tx) error {
		page = nil
		return tx.Each(ctx, func(row db.Row) error {
			var e expired
			err := row.Scan(&e.day, &e.serial, &e.profile, &e.version, &e.notAfter)
			page = append(page, e)
			return err
		}, `SELECT day, serial, profile, version, not_after FROM `+table+` WHERE cell = $1 AND (day, serial) > ($2, $3) AND day <= $4 AND not_after < $5
			ORDER BY day, serial LIMIT $6`, cell, from.day, from.serial, last, a.deps.Now().Unix(), int64(purgeBatch))
	})
	return page, len(page) == purgeBatch, err
}

// deleteBatch deletes rows of one cell and records it.
func (a *Authority) deleteBatch(ctx context.Context, l *db.Lease, actor access.Actor, k *keepers, table string, cell int64, rows []expired) (n int64, err error) {
	err = a.deps.DB.Do(ctx, func(ctx context.Context, tx *db.Tx) error {
		n = 0
		if err := l.Fence(ctx, tx); err != nil {
			return err
		}
		parts := map[string]*gone{}
		stmts := make([]*db.Stmt, len(rows))
		for i, e := range rows {
			object := objectLong
			if table == tableOrdinary {
				object = monthOf(e.day).String()
			}
			if parts[object] == nil {
				parts[object] = &gone{}
			}
			stmts[i] = &db.Stmt{SQL: `DELETE FROM ` + table + ` WHERE cell = $1 AND day = $2 AND serial = $3 RETURNING serial`, Args: []any{cell, e.day, e.serial},
				Each: func(row db.Row) error {
					var serial []byte
					if err := row.Scan(&serial); err != nil {
						return err
					}
					parts[object].add(serial)
					parts[object].kept(e.profile, k.keep(e.profile, e.version))
					n++
					return nil
				}}
		}
		if err := tx.Send(ctx, stmts...); err != nil {
			return err
		}
		var entries []audit.Entry
		for _, object := range slices.Sorted(maps.Keys(parts)) {
			if parts[object].n > 0 {
				entries = append(entries, parts[object].entry(actor, object, k.now, false))
			}
		}
		return a.deps.Audit.Append(ctx, tx, entries...)
	})
	return n, err
}

// dropMonths gives up every month of which everything is over.
func (a *Authority) dropMonths(ctx context.Context, l *db.Lease, actor access.Actor, k *keepers) (deleted int64, dropped []string, err error) {
	rows, err := a.monthRows(ctx)
	if err != nil {
		return 0, nil, err
	}
	last := monthOf(max(k.lastDay(), 0))
	for _, r := range rows {
		if r.month >= last || k.lastDay() < 0 {
			break // the month of lastDay is not over yet
		}
		if !r.givenUp {
			n, over, err := a.giveUp(ctx, l, actor, k, r.month)
			if err != nil {
				return deleted, dropped, fmt.Errorf("giving up the certificates of %s: %w", r.month, err)
			}
			if !over {
				continue
			}
			deleted += n
		}
		if err := a.months.TakeAway(ctx, l, r.month); err != nil {
			return deleted, dropped, fmt.Errorf("taking away the certificates of %s, which were given up: %w", r.month, err)
		}
		dropped = append(dropped, r.month.String())
	}
	return deleted, dropped, nil
}

// giveUp records that everything of a month leaves, if it is over. The rows of a month that has passed do not change any more, so they are counted
// beforehand, in a look that holds up nobody.
func (a *Authority) giveUp(ctx context.Context, l *db.Lease, actor access.Actor, k *keepers, m month) (n int64, over bool, err error) {
	var g gone
	err = a.deps.DB.View(ctx, func(ctx context.Context, tx *db.Tx) error {
		g, over = gone{}, true
		if _, err := tx.Exec(ctx, `SET LOCAL enable_seqscan = on`); err != nil { // all of it is read
			return err
		}
		err := tx.Each(ctx, func(row db.Row) error {
			var profile, version string
			var notAfter int64
			err := row.Scan(&profile, &version, &notAfter)
			over = over && k.over(profile, version, notAfter)
			g.kept(profile, k.keep(profile, version))
			return err
		}, `SELECT profile, version, max(not_after) FROM `+a.months.Partition(m)+` GROUP BY profile, version`)
		if err != nil || !over {
			return err
		}
		return tx.Each(ctx, func(row db.Row) error {
			var serial []byte
			err := row.Scan(&serial)
			g.add(serial)
			return err
		}, `SELECT serial FROM `+a.months.Partition(m))
	})
	if err != nil || !over {
		return 0, false, err
	}
	err = a.deps.DB.Do(ctx, func(ctx context.Context, tx *db.Tx) error {
		if err := l.Fence(ctx, tx); err != nil {
			return err
		}
		if err := a.months.GiveUp(ctx, tx, m); err != nil || g.n == 0 {
			return err
		}
		return a.deps.Audit.Append(ctx, tx, g.entry(actor, m.String(), k.now, true))
	})
	return g.n, err == nil, err
}
