package device

import (
	"context"
	"encoding/base64"
	"encoding/binary"
	"strings"

	"mooring/internal/base/db"
	"mooring/internal/base/errs"
	"mooring/internal/core/access"
)

// Filter selects devices. Fields that are set must all fit; the zero Filter selects every device.
type Filter struct {
	Group   string
	State   State
	Profile string
	Tag     string // "key" or "key=value"
	// ExpiresBefore selects devices that hold a certificate which is not revoked and ends before this time (UTC seconds), also one that
	// ended already. The page is then in order of the end.
	ExpiresBefore int64
	Cursor        string // what the previous page returned as next
	Limit         int    // devices a page; 0 = 100, at most 1,000
}

// The bounds of one page. A filter that few devices pass would otherwise read the whole registry for it.
const (
	pageDefault  = 100
	pageMost     = 1000
	scanStep     = 500
	scanMost     = 4000
	cursorPlain  = 1
	cursorExpiry = 2
)

// List returns the devices that pass f, in a stable order, and the cursor of the next page, "" at the end. One call looks at a bounded
// number of rows: while next is set, a page may hold fewer devices than the limit, even none, and the listing goes on.
func (r *Registry) List(ctx context.Context, actor access.Actor, f Filter) (page []Device, next string, err error) {
	if err := r.access.Require(ctx, actor, access.DeviceRead, "device"); err != nil {
		return nil, "", err
	}
	if err := checkGroup(f.Group); err != nil {
		return nil, "", err
	}
	at, err := f.position()
	if err != nil {
		return nil, "", err
	}
	limit := f.limit()
	err = r.db.View(ctx, func(ctx context.Context, tx *db.Tx) error {
		page, next = nil, ""
		from, step := at, limit+1
		if f.residual() {
			step = max(scanStep, step)
		}
		for scanned := 0; ; scanned += step {
			found, err := f.candidates(ctx, tx, from, step)
			if err != nil {
				return err
			}
			for i := range found {
				if f.passes(&found[i]) {
					page = append(page, found[i])
				}
				from = f.after(&found[i])
				if len(page) == limit && (i < len(found)-1 || len(found) == step) {
					next = from.encode()
					return nil
				}
			}
			if len(found) < step {
				return nil
			}
			if scanned+step >= scanMost {
				next = from.encode()
				return nil
			}
		}
	})
	if err != nil {
		return nil, "", err
	}
	return page, next, nil
}

func (f Filter) limit() int {
	if f.Limit <= 0 {
		return pageDefault
	}
	return min(f.Limit, pageMost)
}

// residual reports whether f holds conditions that no index answers.
func (f Filter) residual() bool {
	return f.State != 0 || f.Profile != "" || f.Tag != ""
}

func (f Filter) passes(d *Device) bool {
	if f.State != 0 && d.State != f.State || f.Profile != "" && d.Profile != f.Profile {
		return false
	}
	if f.Tag == "" {
		return true
	}
	k, want, exact := strings.Cut(f.Tag, "=")
	v, ok := d.Tags[k]
	return ok && (!exact || v == want)
}

// The order of a page is that of one index: (cell, id), the same within a group, or (not_after, cell, device) with or without one. A device
// stands at its earliest certificate only.
const (
	ownColumns = `cell, id, state, policy, name, names, grp, tags, profile, issued, token, token_until, token_used, created, updated, rescued`

	selectPlain = `SELECT ` + deviceColumns + ` FROM (SELECT ` + ownColumns + ` FROM device WHERE (cell, id) > ($1, $2) ORDER BY cell, id LIMIT $3) d` +
		joinedTables + ` ORDER BY d.cell, d.id, s.slot`
	selectGroup = `SELECT ` + deviceColumns + ` FROM (SELECT ` + ownColumns + ` FROM device WHERE grp = $4 AND (cell, id) > ($1, $2) ORDER BY cell, id LIMIT $3) d` +
		joinedTables + ` ORDER BY d.cell, d.id, s.slot`

	earliest = ` AND NOT EXISTS (SELECT 1 FROM slot e WHERE e.cell = x.cell AND e.device = x.device AND e.revoked = 0 AND e.not_after > 0
 AND (e.not_after < x.not_after OR e.not_after = x.not_after AND e.slot < x.slot)) ORDER BY x.not_after, x.cell, x.device LIMIT $4) e
 JOIN device d ON d.cell = e.cell AND d.id = e.device` + joinedTables + ` ORDER BY e.not_after, e.cell, e.device, s.slot`
	selectExpiry = `SELECT ` + deviceColumns + ` FROM (SELECT x.not_after, x.cell, x.device FROM slot x WHERE x.revoked = 0
 AND (x.not_after, x.cell, x.device) > ($1, $2, $3) AND x.not_after < $5` + earliest
	selectGroupExpiry = `SELECT ` + deviceColumns + ` FROM (SELECT x.not_after, x.cell, x.device FROM slot x WHERE x.revoked = 0 AND x.grp = $6
 AND (x.not_after, x.cell, x.device) > ($1, $2, $3) AND x.not_after < $5` + earliest
)

func (f Filter) candidates(ctx context.Context, tx *db.Tx, from position, limit int) ([]Device, error) {
	var text string
	var args []any
	switch {
	case f.ExpiresBefore > 0:
		text, args = selectExpiry, []any{from.notAfter, int64(from.cell), from.id, int64(limit), f.ExpiresBefore}
		if f.Group != "" {
			text, args = selectGroupExpiry, append(args, f.Group)
		}
	case f.Group != "":
		text, args = selectGroup, []any{int64(from.cell), from.id, int64(limit), f.Group}
	default:
		text, args = selectPlain, []any{int64(from.cell), from.id, int64(limit)}
	}
	var g gather
	err := tx.Each(ctx, g.row, text, args...)
	return g.found, err
}

// position is the key of the last device that was looked at. The zero id stands before every one.
type position struct {
	kind     byte
	notAfter int64
	cell     uint8
	id       []byte
}

func (p position) encode() string {
	b := []byte{p.kind}
	b = binary.BigEndian.AppendUint64(b, uint64(p.notAfter))
	b = append(b, p.cell)
	return base64.RawURLEncoding.EncodeToString(append(b, p.id...))
}

// position returns where f goes on.
func (f Filter) position() (position, error) {
	p := position{kind: cursorPlain, id: []byte{}}
	if f.ExpiresBefore > 0 {
		// After every slot whose end is not known.
		p = position{kind: cursorExpiry, cell: 255, id: maxID()}
	}
	if f.Cursor == "" {
		return p, nil
	}
	b, err := base64.RawURLEncoding.DecodeString(f.Cursor)
	if err != nil || len(b) != 10+len(ID{}) || b[0] != p.kind {
		return p, errs.New(errs.Invalid, "cursor: it does not belong to this list; begin without one")
	}
	return position{kind: b[0], notAfter: int64(binary.BigEndian.Uint64(b[1:])), cell: b[9], id: b[10:]}, nil
}

func maxID() []byte {
	id := make([]byte, len(ID{})+1) // longer than any id, so greater than all
	for i := range id {
		id[i] = 0xff
	}
	return id
}

// after is the position of d in the order of f.
func (f Filter) after(d *Device) position {
	p := position{kind: cursorPlain, cell: d.Cell, id: d.ID[:]}
	if f.ExpiresBefore > 0 {
		p.kind = cursorExpiry
		for _, s := range d.Slots {
			if s.Revoked == 0 && s.NotAfter > 0 && (p.notAfter == 0 || s.NotAfter < p.notAfter) {
				p.notAfter = s.NotAfter
			}
		}
	}
	return p
}
