package device

import (
	"context"
	"slices"
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

// SlotsRevokedTx is SlotRevokedTx for many, in one round trip, in the order given: it takes the locks of the devices, so the order is that of cells
// and ids. It returns how many certificates were issued to each so far.
func (r *Registry) SlotsRevokedTx(ctx context.Context, tx *db.Tx, list []Marked) (issued []int64, err error) {
	stmts := make([]*db.Stmt, 0, 2*len(list))
	issued = make([]int64, len(list))
	for i, m := range list {
		issued[i] = -1
		cell := int64(r.CellOf(m.ID))
		stmts = append(stmts, &db.Stmt{SQL: bumpPolicy + ` RETURNING issued`, Args: []any{cell, m.ID[:], m.At}, Each: func(row db.Row) error { return row.Scan(&issued[i]) }})
		if m.Slot != "" {
			stmts = append(stmts, &db.Stmt{SQL: revokeSlot, Args: []any{cell, m.ID[:], m.Slot, octets(m.Serial), m.At}})
		}
		tx.OnCommit(func() { r.inv.touch(m.ID) })
	}
	if err := tx.Send(ctx, stmts...); err != nil {
		return nil, err
	}
	if slices.Contains(issued, -1) {
		return nil, errs.New(errs.NotFound, "there is no such device")
	}
	return issued, nil
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
