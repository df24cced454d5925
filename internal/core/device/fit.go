package device

import (
	"context"
	"strings"

	"mooring/internal/base/db"
	"mooring/internal/base/errs"
)

// Allows reports whether a device in this state can be moved by m.
func (s State) Allows(m Move) bool {
	_, ok := moves[s][m]
	return ok
}

// Tagged reports whether the device has the tag: "key" or "key=value".
func (d *Device) Tagged(tag string) bool {
	k, want, exact := strings.Cut(tag, "=")
	v, ok := d.Tags[k]
	return ok && (!exact || v == want)
}

// Marked is a slot whose certificate is revoked or on hold; see SlotRevokedTx.
type Marked struct {
	ID     ID
	Slot   string // "" raises the policy number alone
	Serial []byte
	At     int64
}

// The texts of a large batch on PostgreSQL: statements of single rows took it longer than everything else about a revocation.
const (
	bumpArray = `UPDATE device AS d SET policy = d.policy + 1, updated = CASE WHEN d.updated < t.at THEN t.at ELSE d.updated END
 FROM unnest($1::smallint[], $2::bytea[], $3::bigint[]) AS t(cell, id, at) WHERE d.cell = t.cell AND d.id = t.id RETURNING d.id, d.issued`
	revokeSlotArray = `UPDATE slot AS s SET revoked = t.at
 FROM unnest($1::smallint[], $2::bytea[], $3::text[], $4::bytea[], $5::bigint[]) AS t(cell, device, slot, serial, at)
 WHERE s.cell = t.cell AND s.device = t.device AND s.slot = t.slot AND s.serial = t.serial AND s.revoked = 0`
)

// SlotsRevokedTx is SlotRevokedTx for many, in one round trip, in the order given: it takes the locks of the devices, so the order is that of cells
// and ids. It returns how many certificates were issued to each so far.
func (r *Registry) SlotsRevokedTx(ctx context.Context, tx *db.Tx, list []Marked) ([]int64, error) {
	return r.slotsRevokedTx(ctx, tx, list, !tx.Arrays() || len(list) <= rowsUpTo)
}

func (r *Registry) slotsRevokedTx(ctx context.Context, tx *db.Tx, list []Marked, byRow bool) (issued []int64, err error) {
	count := make(map[ID]int64, len(list))
	each := func(row db.Row) error {
		var id []byte
		var n int64
		if err := row.Scan(&id, &n); err != nil {
			return err
		}
		count[ID(id)] = n
		return nil
	}
	stmts := r.revokedArrays(list, each)
	if byRow {
		stmts = r.revokedRows(list, each)
	}
	if err := tx.Send(ctx, stmts...); err != nil {
		return nil, err
	}
	issued = make([]int64, len(list))
	for i, m := range list {
		n, known := count[m.ID]
		if !known {
			return nil, errs.New(errs.NotFound, "there is no such device")
		}
		issued[i] = n
		tx.OnCommit(func() { r.inv.touch(m.ID) })
	}
	return issued, nil
}

func (r *Registry) revokedRows(list []Marked, each func(db.Row) error) (stmts []*db.Stmt) {
	for _, m := range list {
		cell := int64(r.CellOf(m.ID))
		stmts = append(stmts, &db.Stmt{SQL: bumpPolicy + ` RETURNING id, issued`, Args: []any{cell, m.ID[:], m.At}, Each: each})
		if m.Slot != "" {
			stmts = append(stmts, &db.Stmt{SQL: revokeSlot, Args: []any{cell, m.ID[:], m.Slot, octets(m.Serial), m.At}})
		}
	}
	return stmts
}

func (r *Registry) revokedArrays(list []Marked, each func(db.Row) error) []*db.Stmt {
	var cells, slotCells []int16
	var ids, slotIDs, serials [][]byte
	var ats, slotAts []int64
	var slots []string
	place := make(map[ID]int, len(list)) // a row is updated once however often it is named
	for _, m := range list {
		at, named := place[m.ID]
		if !named {
			at = len(ids)
			place[m.ID] = at
			cells, ids, ats = append(cells, int16(r.CellOf(m.ID))), append(ids, m.ID[:]), append(ats, m.At)
		}
		ats[at] = max(ats[at], m.At)
		if m.Slot != "" {
			slotCells, slotIDs, slots = append(slotCells, cells[at]), append(slotIDs, m.ID[:]), append(slots, m.Slot)
			serials, slotAts = append(serials, octets(m.Serial)), append(slotAts, m.At)
		}
	}
	stmts := []*db.Stmt{{SQL: bumpArray, Args: []any{cells, ids, ats}, Each: each}}
	if len(slots) > 0 {
		stmts = append(stmts, &db.Stmt{SQL: revokeSlotArray, Args: []any{slotCells, slotIDs, slots, serials, slotAts}})
	}
	return stmts
}

// LoadManyTx returns those of the devices that there are, without asking for permission.
func (r *Registry) LoadManyTx(ctx context.Context, tx *db.Tx, ids []ID) (map[ID]Device, error) {
	return r.loadMany(ctx, tx, ids)
}

// LockTx returns the device and keeps everything about it as it is until the transaction ends.
func (r *Registry) LockTx(ctx context.Context, tx *db.Tx, id ID) (Device, error) {
	if _, err := tx.Exec(ctx, `UPDATE device SET policy = policy WHERE cell = $1 AND id = $2`, int64(r.CellOf(id)), id[:]); err != nil {
		return Device{}, err
	}
	return r.loadTx(ctx, tx, id)
}
