package device

import (
	"bytes"
	"context"
	"encoding/base64"
	"fmt"
	"log/slog"
	"slices"
	"sync"

	"mooring/internal/base/db"
	"mooring/internal/base/errs"
	"mooring/internal/core/access"
)

// Anchor is the id of a root that devices come to trust.
type Anchor [8]byte

// Grade is how good the evidence is that a device trusts a root. The numbers are stored.
type Grade int16

// The grades.
const (
	NoEvidence Grade = 0
	Delivered  Grade = 1 // the root was among the CA certificates that were handed to the device
	Reported   Grade = 2 // the device says that it trusts the root
	Proven     Grade = 3 // the device completed a handshake with a listener whose chain leads to this root alone, and authenticated itself there
)

// String returns the grade's name.
func (g Grade) String() string {
	switch g {
	case Delivered:
		return "delivered"
	case Reported:
		return "reported"
	case Proven:
		return "proven"
	}
	return "none"
}

const (
	anchorMost  = 1 << 16 // pieces of evidence that wait to be written
	anchorKnown = 1 << 17 // that are remembered as written, so that they are not written again
	anchorBatch = 1000    // rows a transaction
)

// evidence is what SawAnchor was told.
type evidence struct {
	mu      sync.Mutex
	waiting map[sighting]graded // guarded by mu
	known   map[sighting]Grade  // guarded by mu; some of what the table holds
}

type sighting struct {
	device ID
	anchor Anchor
}

type graded struct {
	grade Grade
	at    int64
}

func newEvidence() evidence {
	return evidence{waiting: map[sighting]graded{}, known: map[sighting]Grade{}}
}

// SawAnchor notes evidence, from the given time (UTC seconds), that a device trusts a root. It never waits: what is new is written within half a
// minute, is lost when the process is killed before, and is dropped when more comes than can be remembered. It will come again.
func (r *Registry) SawAnchor(id ID, anchor Anchor, g Grade, at int64) {
	e, k := &r.evidence, sighting{id, anchor}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.known[k] >= g || e.waiting[k].grade >= g || len(e.waiting) >= anchorMost {
		return
	}
	e.waiting[k] = graded{g, at}
}

const putAnchor = `INSERT INTO anchor_seen (cell, device, anchor, grade, at) VALUES ($1, $2, $3, $4, $5) ON CONFLICT (cell, device, anchor)
 DO UPDATE SET grade = excluded.grade, at = excluded.at WHERE anchor_seen.grade < excluded.grade`

// flushAnchors writes what was noted so far. What could not be written is noted again.
func (r *Registry) flushAnchors(ctx context.Context) error {
	e := &r.evidence
	e.mu.Lock()
	waiting := e.waiting
	e.waiting = map[sighting]graded{}
	e.mu.Unlock()
	if len(waiting) == 0 {
		return nil
	}
	keys := make([]sighting, 0, len(waiting))
	for k := range waiting {
		keys = append(keys, k)
	}
	slices.SortFunc(keys, func(a, b sighting) int { // one order everywhere, so that nodes do not lock each other out
		if x, y := r.CellOf(a.device), r.CellOf(b.device); x != y {
			return int(x) - int(y)
		}
		if c := bytes.Compare(a.device[:], b.device[:]); c != 0 {
			return c
		}
		return bytes.Compare(a.anchor[:], b.anchor[:])
	})
	for batch := range slices.Chunk(keys, anchorBatch) {
		err := r.db.Do(ctx, func(ctx context.Context, tx *db.Tx) error {
			stmts := make([]*db.Stmt, len(batch))
			for i, k := range batch {
				w := waiting[k]
				stmts[i] = &db.Stmt{SQL: putAnchor, Args: []any{int64(r.CellOf(k.device)), k.device[:], k.anchor[:], int64(w.grade), w.at}}
			}
			return tx.Send(ctx, stmts...)
		})
		if err != nil {
			for k, w := range waiting {
				r.SawAnchor(k.device, k.anchor, w.grade, w.at)
			}
			return fmt.Errorf("noting which roots devices trust: %w", err)
		}
		e.learn(batch, waiting)
	}
	return nil
}

// learn remembers what was written.
func (e *evidence) learn(batch []sighting, written map[sighting]graded) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.known)+len(batch) > anchorKnown {
		clear(e.known)
	}
	for _, k := range batch {
		e.known[k] = max(e.known[k], written[k].grade)
	}
}

const countAnchors = `SELECT COALESCE(a.grade, 0), COUNT(*) FROM device d LEFT JOIN anchor_seen a ON a.cell = d.cell AND a.device = d.id AND a.anchor = $1
 WHERE d.state IN (2, 3) %s GROUP BY 1`

// CountAnchor counts the devices with a certificate, all or those of a group, by the grade of the evidence that they trust a root. Devices that are
// lost or retired do not count. It needs the permission device.read.
func (r *Registry) CountAnchor(ctx context.Context, actor access.Actor, anchor Anchor, group string) (n [4]int64, err error) {
	if err := r.access.Require(ctx, actor, access.DeviceRead, "devices"); err != nil {
		return n, err
	}
	if err := r.flushAnchors(ctx); err != nil {
		return n, err
	}
	sql, args := inGroup(countAnchors, group, anchor[:])
	err = r.db.View(ctx, func(ctx context.Context, tx *db.Tx) error {
		n = [4]int64{}
		return tx.Each(ctx, func(row db.Row) error {
			var grade, count int64
			if err := row.Scan(&grade, &count); err != nil {
				return err
			}
			if grade >= 0 && int(grade) < len(n) {
				n[grade] += count
			}
			return nil
		}, sql, args...)
	})
	if err != nil {
		return n, fmt.Errorf("counting which devices trust a root: %w", err)
	}
	return n, nil
}

// inGroup restricts a query to a group, by its last parameter, unless the group is "".
func inGroup(sql, group string, args ...any) (string, []any) {
	if group == "" {
		return fmt.Sprintf(sql, ""), args
	}
	args = append(args, group)
	return fmt.Sprintf(sql, fmt.Sprintf("AND d.grp = $%d", len(args))), args
}

// WithoutAnchor is a device of which there is not the evidence that was asked for.
type WithoutAnchor struct {
	ID          ID
	Name, Group string
	State       State
	Grade       Grade
	At          int64 // of the evidence; 0 when there is none
}

const listWithout = `SELECT d.cell, d.id, d.name, d.grp, d.state, COALESCE(a.grade, 0), COALESCE(a.at, 0) FROM device d
 LEFT JOIN anchor_seen a ON a.cell = d.cell AND a.device = d.id AND a.anchor = $1
 WHERE d.state IN (2, 3) AND COALESCE(a.grade, 0) < $2 AND (d.cell, d.id) > ($3, $4) %s ORDER BY d.cell, d.id LIMIT $5`

// MissingAnchor returns a page of the devices with a certificate of which there is no evidence of at least the given grade that they trust a root,
// and the cursor of the next page, "" at the end. Devices that are lost or retired are left out; those that never got a certificate learn of
// the root when they enrol. It needs the permission device.read.
func (r *Registry) MissingAnchor(ctx context.Context, actor access.Actor, anchor Anchor, least Grade, group, cursor string, limit int) (page []WithoutAnchor, next string, err error) {
	if err := r.access.Require(ctx, actor, access.DeviceRead, "devices"); err != nil {
		return nil, "", err
	}
	if least < Delivered || least > Proven {
		return nil, "", errs.New(errs.Invalid, "the grade must be 1 (delivered), 2 (reported) or 3 (proven)")
	}
	if limit < 1 || limit > 1000 {
		limit = 1000
	}
	from, err := anchorCursor(cursor)
	if err != nil {
		return nil, "", err
	}
	if err := r.flushAnchors(ctx); err != nil {
		return nil, "", err
	}
	var last anchorPlace
	sql, args := inGroup(listWithout, group, anchor[:], int64(least), from.cell, from.id, int64(limit))
	err = r.db.View(ctx, func(ctx context.Context, tx *db.Tx) error {
		page = nil
		return tx.Each(ctx, func(row db.Row) error {
			var w WithoutAnchor
			var id []byte
			if err := row.Scan(&last.cell, &id, &w.Name, &w.Group, (*int16)(&w.State), (*int16)(&w.Grade), &w.At); err != nil {
				return err
			}
			if len(id) != len(w.ID) {
				return fmt.Errorf("the row of device %x has an id of another length", id)
			}
			w.ID = ID(id)
			last.id = id
			page = append(page, w)
			return nil
		}, sql, args...)
	})
	if err != nil {
		return nil, "", fmt.Errorf("listing the devices that do not trust a root: %w", err)
	}
	if len(page) == limit {
		next = base64.RawURLEncoding.EncodeToString(append([]byte{byte(last.cell)}, last.id...))
	}
	return page, next, nil
}

// anchorPlace is behind which device a page begins.
type anchorPlace struct {
	cell int64
	id   []byte
}

func anchorCursor(text string) (anchorPlace, error) {
	if text == "" {
		return anchorPlace{-1, []byte{}}, nil
	}
	raw, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil || len(raw) != 1+len(ID{}) {
		return anchorPlace{}, errs.New(errs.Invalid, "the cursor is not one of a list of devices")
	}
	return anchorPlace{int64(raw[0]), raw[1:]}, nil
}

// keepEvidence is what Run does about anchors: it writes, and says when it cannot.
func (r *Registry) keepEvidence(ctx context.Context) {
	if err := r.flushAnchors(ctx); err != nil && ctx.Err() == nil {
		r.log.LogAttrs(ctx, slog.LevelWarn, "noting which roots devices trust failed; it is tried again", slog.Any("cause", err))
	}
}
