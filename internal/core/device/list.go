package device

import (
	"context"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"log/slog"
	"math"
	"regexp"
	"strings"

	"mooring/internal/base/db"
	"mooring/internal/base/errs"
	"mooring/internal/core/access"
)

// Filter selects devices. Fields that are set must all fit, those about certificates by one and the same certificate, which is not revoked. The
// zero Filter selects every device.
type Filter struct {
	Group   string
	State   State
	Profile string
	Tag     string // "key" or "key=value"
	Issuer  []byte // holding a certificate of the CA with this id
	Key     string // holding a certificate for a key of this kind, such as "ec-p256"
	// ExpiresAfter and ExpiresBefore select devices that hold a certificate which ends at or after the one and before the other (UTC
	// seconds), also one that ended already. The page is then in order of the end, but for as long as the inventory is still being made.
	ExpiresAfter, ExpiresBefore int64
	// SeenAfter and SeenBefore select devices that were last heard of at or after the one and before the other. A device that was never heard of
	// counts as heard of before everything.
	SeenAfter, SeenBefore int64
	Cursor                string // what the previous page returned as next
	Limit                 int    // devices a page; 0 = 100, at most 1,000
}

// The bounds of one page.
const (
	pageDefault  = 100
	pageMost     = 1000
	scanStep     = 500
	scanMost     = 4000
	cursorPlain  = 1
	cursorExpiry = 2
)

// List returns the devices that pass f, in a stable order, and the cursor of the next page, "" at the end. What the registry's own indexes
// answer is read there, everything else is found in the inventory and looked up in the registry, so that a page never shows what is not so.
// It can miss what was changed within the last seconds elsewhere than in this process. While next is set there are more, also behind a page
// that is short or, as long as the inventory is still being made, empty.
func (r *Registry) List(ctx context.Context, actor access.Actor, f Filter) (page []Device, next string, err error) {
	if err := r.access.Require(ctx, actor, access.DeviceRead, "device"); err != nil {
		return nil, "", err
	}
	if err := f.check(); err != nil {
		return nil, "", err
	}
	byInventory := f.residual() && r.fresh(ctx, notesAtOnce)
	at, err := f.position(byInventory)
	if err != nil {
		return nil, "", err
	}
	err = r.db.View(ctx, func(ctx context.Context, tx *db.Tx) error {
		var further *position
		if byInventory {
			page, further, err = r.search(ctx, tx, &f, at, f.limit())
		} else {
			page, further, err = f.browse(ctx, tx, at, f.limit())
		}
		if next = ""; further != nil {
			further.kind = at.kind
			next = further.encode()
		}
		return err
	})
	if err != nil {
		return nil, "", r.damage(err)
	}
	return page, next, nil
}

// Count returns how many devices pass f: exactly, but for what other processes changed within the last seconds. Decisions hang on the number, so
// all that this process has noted is flushed first, however much it is. The error is Unavailable while the inventory is being made.
func (r *Registry) Count(ctx context.Context, actor access.Actor, f Filter) (n int64, err error) {
	if err := r.access.Require(ctx, actor, access.DeviceRead, "device"); err != nil {
		return 0, err
	}
	if err := f.check(); err != nil {
		return 0, err
	}
	if !r.fresh(ctx, math.MaxInt) {
		return 0, errs.New(errs.Unavailable, "the inventory is still being made, so nobody can count yet; ask again in a minute")
	}
	err = r.db.View(ctx, func(ctx context.Context, tx *db.Tx) error {
		n = 0
		return f.search(tx).each(ctx, 0, nil, func(b *match) (bool, error) {
			n += int64(countSet(b.on))
			return true, nil
		})
	})
	return n, r.damage(err)
}

// fresh flushes the notes of this process when they are at most so many, and reports whether the inventory is whole.
func (r *Registry) fresh(ctx context.Context, most int) bool {
	built, err := r.inventoryBuilt(ctx)
	if err != nil || !built {
		return false
	}
	if n := r.inv.pending(); n > 0 && n <= most {
		if err := r.flushInventory(ctx); err != nil { // what is there is still worth a look
			r.log.LogAttrs(ctx, slog.LevelWarn, "bringing the inventory up to date failed; it is tried again", slog.Any("cause", err))
		}
	}
	return true
}

// damage has the inventory made anew when it cannot be read.
func (r *Registry) damage(err error) error {
	if !errors.Is(err, errDamaged) {
		return err
	}
	r.inv.lose()
	return errs.Wrap(errs.Unavailable, err, "the inventory is damaged and is being made anew; ask again in a minute")
}

// browse returns a page by the registry's own indexes. One call looks at a bounded number of rows.
func (f *Filter) browse(ctx context.Context, tx *db.Tx, at position, limit int) (page []Device, next *position, err error) {
	from, step := at, limit+1
	if f.residual() {
		step = max(scanStep, step)
	}
	for scanned := 0; ; scanned += step {
		found, err := f.candidates(ctx, tx, from, step)
		if err != nil {
			return nil, nil, err
		}
		for i := range found {
			if f.passes(&found[i]) {
				page = append(page, found[i])
			}
			from = f.after(&found[i])
			from.kind = at.kind
			if len(page) == limit && (i < len(found)-1 || len(found) == step) {
				return page, &from, nil
			}
		}
		if len(found) < step {
			return page, nil, nil
		}
		if scanned+step >= scanMost {
			return page, &from, nil
		}
	}
}

// keyKinds are the kinds of keys as people are told them; keyKind is what the registry can hold, which is RSA of any length.
const keyKinds = "ec-p256, ec-p384, ec-p521, ed25519, ml-dsa-44, ml-dsa-65, or rsa- and the bits, such as rsa-2048"

var keyKind = regexp.MustCompile(`^(ec-p256|ec-p384|ec-p521|ed25519|ml-dsa-44|ml-dsa-65|rsa-[1-9][0-9]{2,4})$`)

// check refuses what can fit nothing.
func (f *Filter) check() error {
	if err := checkGroup(f.Group); err != nil {
		return err
	}
	if f.Tag != "" {
		if k, _, _ := strings.Cut(f.Tag, "="); k == "" || len(k) > maxTagKey || !isWord(k) {
			return errs.New(errs.Invalid, "tag: %s has no key that a tag can have: write KEY or KEY=VALUE, such as colour or colour=red", shown(f.Tag))
		}
	}
	if f.Key != "" && !keyKind.MatchString(f.Key) {
		return errs.New(errs.Invalid, "algorithm: there is no kind of key %s: use %s", shown(f.Key), keyKinds)
	}
	if f.ExpiresBefore > 0 && f.ExpiresAfter >= f.ExpiresBefore {
		return errs.New(errs.Invalid, "expires_after: it is not before expires_before, so nothing can fit")
	}
	if f.SeenBefore > 0 && f.SeenAfter >= f.SeenBefore {
		return errs.New(errs.Invalid, "seen_after: it is not before seen_before, so nothing can fit")
	}
	return nil
}

func (f *Filter) limit() int {
	if f.Limit <= 0 {
		return pageDefault
	}
	return min(f.Limit, pageMost)
}

// residual reports whether f holds conditions that no index of the registry answers.
func (f *Filter) residual() bool {
	return f.State != 0 || f.Profile != "" || f.Tag != "" || len(f.Issuer) > 0 || f.Key != "" || f.byEnd() || f.SeenAfter > 0 || f.SeenBefore > 0
}

// The order of a page is that of one index: (cell, id), the same within a group.
const (
	ownColumns = `cell, id, state, policy, name, names, grp, tags, profile, issued, token, token_until, token_used, created, updated, rescued, product`

	selectPlain = `SELECT ` + deviceColumns + ` FROM (SELECT ` + ownColumns + ` FROM device WHERE (cell, id) > ($1, $2) ORDER BY cell, id LIMIT $3) d` +
		joinedTables + ` ORDER BY d.cell, d.id, s.slot`
	selectGroup = `SELECT ` + deviceColumns + ` FROM (SELECT ` + ownColumns + ` FROM device WHERE grp = $4 AND (cell, id) > ($1, $2) ORDER BY cell, id LIMIT $3) d` +
		joinedTables + ` ORDER BY d.cell, d.id, s.slot`
)

func (f *Filter) candidates(ctx context.Context, tx *db.Tx, from position, limit int) ([]Device, error) {
	text, args := selectPlain, []any{int64(from.cell), from.id, int64(limit)}
	if f.Group != "" {
		text, args = selectGroup, append(args, f.Group)
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

// position returns where f goes on. The order by the end of certificates is that of the inventory alone.
func (f *Filter) position(byInventory bool) (position, error) {
	p := position{kind: cursorPlain, id: []byte{}}
	if f.byEnd() && byInventory {
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

// CursorBehind is the cursor of the page that follows a place in the order of f: an id, or, when f is about the end of certificates, such an
// end. It need not be the place of a device.
func (r *Registry) CursorBehind(f Filter, end int64, id ID) string {
	p := position{kind: cursorPlain, cell: r.CellOf(id), id: id[:]}
	if f.byEnd() {
		p.kind, p.notAfter = cursorExpiry, end
	}
	return p.encode()
}

func maxID() []byte {
	id := make([]byte, len(ID{})+1) // longer than any id, so greater than all
	for i := range id {
		id[i] = 0xff
	}
	return id
}

// after is the position of d in the order of f.
func (f *Filter) after(d *Device) position {
	p := position{kind: cursorPlain, cell: d.Cell, id: d.ID[:]}
	if f.byEnd() {
		p.kind, p.notAfter = cursorExpiry, f.end(d)
	}
	return p
}
