package device

import (
	"context"

	"mooring/internal/base/db"
	"mooring/internal/base/errs"
	"mooring/internal/core/access"
)

const (
	updateState = `UPDATE device SET state = $4, policy = policy + 1, updated = $5 WHERE cell = $1 AND id = $2 AND policy = $3`
	bumpPolicy  = `UPDATE device SET policy = policy + 1, updated = CASE WHEN updated < $3 THEN $3 ELSE updated END WHERE cell = $1 AND id = $2`
	revokeSlot  = `UPDATE slot SET revoked = $5 WHERE cell = $1 AND device = $2 AND slot = $3 AND serial = $4 AND revoked = 0`
)

// Move changes the state of a device. Its certificates stay as they are: package revoke moves a device and revokes them in one transaction.
// reason is for people; it stands in the audit record for ever, so it should name nobody.
func (r *Registry) Move(ctx context.Context, actor access.Actor, id ID, m Move, reason string) (Device, error) {
	if err := r.AllowMove(ctx, actor, id, m); err != nil {
		return Device{}, err
	}
	var d Device
	err := r.db.Do(ctx, func(ctx context.Context, tx *db.Tx) (err error) {
		d, err = r.MoveTx(ctx, tx, actor, id, m, reason)
		return err
	})
	if err != nil {
		return Device{}, err
	}
	return d, nil
}

// AllowMove returns nil when actor may do m to the device, else the recorded refusal. What grants a role is moved by those alone who may give
// one: otherwise an operator could put the administrators out.
func (r *Registry) AllowMove(ctx context.Context, actor access.Actor, id ID, m Move) error {
	if err := r.access.Require(ctx, actor, access.DeviceState, id.String()); err != nil {
		return err
	}
	return r.MayEmpower(ctx, actor, id)
}

// MoveTx does what Move does in the transaction of the caller, who has asked AllowMove before. The error is Conflict for a move that is not in
// the table and for one of the platform itself, NotFound when there is no such device.
func (r *Registry) MoveTx(ctx context.Context, tx *db.Tx, actor access.Actor, id ID, m Move, reason string) (Device, error) {
	if err := checkReason(reason); err != nil {
		return Device{}, err
	}
	d, err := r.loadTx(ctx, tx, id)
	if err != nil {
		return Device{}, err
	}
	if err := r.sameGrant(&d, actor); err != nil {
		return Device{}, err
	}
	if m != Resume && r.itself(d.Name) {
		return Device{}, errs.New(errs.Conflict, "%s is this platform, which would stop with it: to replace a certificate of it, revoke that one (mooring cert revoke SERIAL)", d.Name)
	}
	from := d.State
	if d.State, err = from.after(m, d.Issued); err != nil {
		return Device{}, err
	}
	d.Updated = r.now().Unix()
	n, err := tx.Exec(ctx, updateState, int64(d.Cell), id[:], d.Policy, int64(d.State), d.Updated)
	if err := changed(n, err); err != nil {
		return Device{}, err
	}
	d.Policy++
	tx.OnCommit(func() {
		r.inv.touch(id)
		if r.changed != nil {
			r.changed(context.WithoutCancel(ctx), id)
		}
	})
	e := r.rowEntry("device.state", actor, &d)
	e.Detail["from"], e.Detail["to"] = from.String(), d.State.String()
	if reason != "" {
		e.Detail["reason"] = reason
	}
	return d, r.audit.Append(ctx, tx, e)
}

// SlotRevokedTx notes that the certificate with this serial was revoked at the given time (UTC seconds): in the slot, if it is still the one
// there, and by raising the device's policy number, so that a renewal that was decided before is turned away. With the slot "" it raises the
// number alone, as for a hold. Doing it twice changes nothing but the number. The caller writes the entry, "cert.revoke" for what marks.
func (r *Registry) SlotRevokedTx(ctx context.Context, tx *db.Tx, id ID, slot string, serial []byte, at int64) error {
	cell := int64(r.CellOf(id))
	if n, err := tx.Exec(ctx, bumpPolicy, cell, id[:], at); err != nil {
		return err
	} else if n == 0 {
		return errs.New(errs.NotFound, "there is no such device")
	}
	tx.OnCommit(func() { r.inv.touch(id) })
	_, err := tx.Exec(ctx, revokeSlot, cell, id[:], slot, octets(serial), at)
	return err
}
