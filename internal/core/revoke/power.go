package revoke

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"

	"mooring/internal/base/db"
	"mooring/internal/base/errs"
	"mooring/internal/core/access"
	"mooring/internal/core/ca"
	"mooring/internal/core/device"
	"mooring/internal/core/job"
)

// To take a role away is as much as to give one: an operator who could would put the administrators out. So what has a role is moved, revoked,
// held and released by whoever has access.grant. And by the API nobody takes the last administrator away, since then nobody could make a new
// one but whoever owns the server's machine; he can all the same. Two administrators who put each other out at the same moment meet at the row of
// the other's device: whoever comes second finds that nobody would be left.

// roleOf returns the role that certificates of the profile give.
func (s *Service) roleOf(profile string) access.Role {
	p, err := s.CA.Profile(profile)
	if err != nil { // without its profile a certificate gives nothing
		return access.RoleNone
	}
	return p.Grants
}

// errPower is what a transaction ends with that meets a certificate with a role; no refusal can be recorded in there.
var errPower = errs.New(errs.Denied, "this needs the permission %s", access.Grant)

// withinPower returns errPower when one of the certificates gives a role and actor may not take it: also of a device that has another profile
// by now.
func (s *Service) withinPower(actor access.Actor, certs []*ca.Certificate) error {
	if actor.May(access.Grant) {
		return nil
	}
	for _, c := range certs {
		if s.roleOf(c.Profile) != access.RoleNone {
			return errPower
		}
	}
	return nil
}

// refusedFor has errPower recorded.
func (s *Service) refusedFor(ctx context.Context, actor access.Actor, object string, err error) error {
	if !errors.Is(err, errPower) {
		return err
	}
	if denied := s.Access.Require(ctx, actor, access.Grant, object); denied != nil {
		return denied
	}
	return err
}

// mayTake returns nil when actor may do this to a certificate, as far as roles go, else the recorded refusal; and the heirs that the transaction
// is to check.
func (s *Service) mayTake(ctx context.Context, actor access.Actor, c *ca.Certificate, to Reason) ([]heir, error) {
	err := s.refusedFor(ctx, actor, "certificate "+hex.EncodeToString(c.Serial[:]), s.withinPower(actor, []*ca.Certificate{c}))
	if err != nil || c.Device == [16]byte{} {
		return nil, err
	}
	if err := s.Devices.MayEmpower(ctx, actor, device.ID(c.Device)); err != nil && !errs.Is(err, errs.NotFound) {
		return nil, err
	}
	if to == released || s.roleOf(c.Profile) != access.RoleAdmin {
		return nil, nil
	}
	return s.leavesAdmin(ctx, actor, func(_ *device.Device, slot *device.Slot) bool { return takes(c, slot, to) })
}

// takes reports whether the end of c ends what stands in the slot.
func takes(c *ca.Certificate, slot *device.Slot, to Reason) bool {
	return bytes.Equal(slot.Serial, c.Serial[:]) || to == KeyCompromise && bytes.Equal(slot.SPKI, c.SPKIHash[:])
}

// keepsAdmin returns nil when an administrator is left after the move, and the heirs that the transaction is to check.
func (s *Service) keepsAdmin(ctx context.Context, actor access.Actor, id device.ID, move device.Move) ([]heir, error) {
	if move == device.Resume || actor.Kind != access.KindOperator {
		return nil, nil
	}
	d, err := s.Devices.Load(ctx, id)
	if err != nil || s.roleOf(d.Profile) != access.RoleAdmin {
		return nil, err
	}
	return s.leavesAdmin(ctx, actor, func(d *device.Device, _ *device.Slot) bool { return d.ID == id })
}

// heir is an administrator who would be left: a device, and the slot of the certificate that makes it one.
type heir struct {
	id   device.ID
	slot string
}

// heirsMost bounds how many administrators are looked at in a transaction; one who is still there is enough.
const heirsMost = 8

// errLast is what stays undone.
var errLast = errs.New(errs.Conflict, "nobody would be left who is an administrator: register another one first and let him enrol, or do this on the server's machine, by its socket")

// leavesAdmin returns administrators with a valid certificate whom gone does not name, or errLast; nobody when actor needs none.
func (s *Service) leavesAdmin(ctx context.Context, actor access.Actor, gone func(*device.Device, *device.Slot) bool) (heirs []heir, err error) {
	if actor.Kind != access.KindOperator {
		return nil, nil
	}
	for _, p := range s.CA.Profiles() {
		if p.Grants != access.RoleAdmin {
			continue
		}
		for f := (device.Filter{Profile: p.Name}); ; {
			page, next, err := s.Devices.List(ctx, actor, f)
			if err != nil {
				return nil, err
			}
			for i := range page {
				left, err := s.usable(ctx, &page[i], p.Slot, gone)
				if err != nil {
					return nil, err
				}
				if left {
					heirs = append(heirs, heir{page[i].ID, p.Slot})
				}
				if len(heirs) == heirsMost {
					return heirs, nil
				}
			}
			if f.Cursor = next; next == "" {
				break
			}
		}
	}
	if len(heirs) == 0 {
		return nil, errLast
	}
	return heirs, nil
}

// keepTx is the last act of a transaction that puts an administrator out: it returns errLast when none of the heirs is one any more. It locks the
// row of the one on whom it relies, which whoever puts him out writes. Where two do this to each other, the database ends one of the two
// transactions, and when that one is run again it finds that the other was done.
func (s *Service) keepTx(ctx context.Context, tx *db.Tx, heirs []heir) error {
	for _, h := range heirs {
		d, err := s.Devices.LockTx(ctx, tx, h.id)
		if errs.Is(err, errs.NotFound) {
			continue
		}
		if err != nil {
			return fmt.Errorf("locking an administrator: %w", err)
		}
		slot, ok := d.Slot(h.slot)
		if !ok || !d.State.Active() || slot.Revoked != 0 || slot.NotAfter <= s.Now().Unix() {
			continue
		}
		cell, _, err := ca.Locate(slot.Serial)
		if err != nil {
			continue // no certificate of ours
		}
		r, err := readTx(ctx, tx, cell, slot.Serial)
		if err != nil {
			return fmt.Errorf("reading the revocation of an administrator: %w", err)
		}
		if !r.standing() {
			return nil
		}
	}
	if len(heirs) == 0 { // nobody was put out, or by one who needs no heir
		return nil
	}
	return errLast
}

// usable reports whether the device has a valid certificate in the slot that gone does not name.
func (s *Service) usable(ctx context.Context, d *device.Device, name string, gone func(*device.Device, *device.Slot) bool) (bool, error) {
	slot, ok := d.Slot(name)
	if !ok || !d.State.Active() || slot.Revoked != 0 || slot.NotAfter <= s.Now().Unix() || gone(d, &slot) {
		return false, nil
	}
	_, standing, err := s.Status(ctx, slot.Serial)
	return !standing, err
}

// mayMean asks whether actor may name the profile in a filter for many.
func (b *Bulk) mayMean(ctx context.Context, actor access.Actor, f *Filter) error {
	if f.Profile == "" || !b.privileged(f.Profile) {
		return nil
	}
	return b.Access.Require(ctx, actor, access.Grant, "profile "+f.Profile)
}

// untouchable returns, by serial number, why certificates of the batch stay as they are, and the heirs that the transaction is to check.
func (b *Bulk) untouchable(ctx context.Context, batch *job.Batch, brief map[string]*ca.Certificate, to Reason) (refused map[[16]byte]string, heirs []heir, err error) {
	maker := batch.Job.Maker
	if maker.Kind != access.KindOperator {
		return nil, nil, nil
	}
	certs, devices, err := b.withDevices(ctx, batch.Items, brief)
	if err != nil {
		return nil, nil, err
	}
	refused = map[[16]byte]string{}
	var admins []*ca.Certificate
	for _, c := range certs {
		d, known := devices[device.ID(c.Device)]
		if b.roleOf(c.Profile) != access.RoleNone || known && b.Devices.Powerful(&d) {
			if err := b.Access.Require(ctx, maker, access.Grant, "certificate "+hex.EncodeToString(c.Serial[:])); err != nil {
				refused[c.Serial] = errs.Public(err)
				continue
			}
		}
		if b.roleOf(c.Profile) == access.RoleAdmin && to != released {
			admins = append(admins, c)
		}
	}
	if len(admins) == 0 {
		return refused, nil, nil
	}
	heirs, err = b.leavesAdmin(ctx, maker, func(_ *device.Device, slot *device.Slot) bool {
		for _, c := range admins {
			if takes(c, slot, to) {
				return true
			}
		}
		return false
	})
	if err != nil && !errs.Is(err, errs.Conflict) {
		return nil, nil, err
	}
	for _, c := range admins {
		if err != nil {
			refused[c.Serial] = errs.Public(err)
		}
	}
	return refused, heirs, nil
}

// withDevices reads certificates and whose they are.
func (b *Bulk) withDevices(ctx context.Context, serials [][]byte, brief map[string]*ca.Certificate) (certs []*ca.Certificate, devices map[device.ID]device.Device, err error) {
	err = b.DB.View(ctx, func(ctx context.Context, tx *db.Tx) error {
		rows, err := b.CA.GetManyTx(ctx, tx, serials)
		if err != nil {
			return err
		}
		certs = nil
		var ids []device.ID
		meant := map[device.ID]bool{}
		for i, c := range rows {
			if c == nil {
				c = brief[string(serials[i])]
			}
			if c == nil {
				continue
			}
			certs = append(certs, c)
			if id := device.ID(c.Device); !meant[id] {
				meant[id] = true
				ids = append(ids, id)
			}
		}
		devices, err = b.Devices.LoadManyTx(ctx, tx, ids)
		return err
	})
	return certs, devices, err
}

// sparing says which devices of a page are moved and which are not, because of the roles that their certificates give, and the heirs that the
// transaction is to check.
type sparing struct {
	keep    []device.Device
	refused []job.Result
	heirs   []heir
}

func (b *Bulk) spared(ctx context.Context, maker access.Actor, page []device.Device, found map[device.ID][]*ca.Certificate, move device.Move) (sparing, error) {
	if maker.Kind != access.KindOperator {
		return sparing{keep: page}, nil
	}
	var s sparing
	admins := map[device.ID]bool{}
	for i := range page {
		d := &page[i]
		if err := b.refusedFor(ctx, maker, "device "+d.ID.String(), b.withinPower(maker, b.live(found[d.ID]))); err != nil {
			s.refused = append(s.refused, job.Result{Item: d.ID.String(), Text: errs.Public(err)})
			continue
		}
		if move != device.Resume && b.roleOf(d.Profile) == access.RoleAdmin {
			admins[d.ID] = true
		}
		s.keep = append(s.keep, *d)
	}
	if len(admins) == 0 {
		return s, nil
	}
	err := b.withoutLast(ctx, maker, &s, admins)
	return s, err
}

// withoutLast takes the administrators out when nobody would be left.
func (b *Bulk) withoutLast(ctx context.Context, maker access.Actor, s *sparing, admins map[device.ID]bool) (err error) {
	s.heirs, err = b.leavesAdmin(ctx, maker, func(d *device.Device, _ *device.Slot) bool { return admins[d.ID] })
	if err == nil || !errs.Is(err, errs.Conflict) {
		return err
	}
	var keep []device.Device
	for _, d := range s.keep {
		if admins[d.ID] {
			s.refused = append(s.refused, job.Result{Item: d.ID.String(), Text: errs.Public(err)})
			continue
		}
		keep = append(keep, d)
	}
	s.keep = keep
	return nil
}
