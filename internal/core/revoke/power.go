package revoke

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"

	"mooring/internal/base/db"
	"mooring/internal/base/errs"
	"mooring/internal/core/access"
	"mooring/internal/core/ca"
	"mooring/internal/core/device"
	"mooring/internal/core/job"
)

// To take a role away is as much as to give one: an operator who could would put the administrators out. So what has a role is moved, revoked,
// held and released by whoever has access.grant. And by the API nobody takes the last administrator away, since then nobody could make a new
// one but whoever owns the server's machine; he can all the same.

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

// mayTake returns nil when actor may do this to a certificate, as far as roles go, else the recorded refusal.
func (s *Service) mayTake(ctx context.Context, actor access.Actor, c *ca.Certificate, to Reason) error {
	err := s.refusedFor(ctx, actor, "certificate "+hex.EncodeToString(c.Serial[:]), s.withinPower(actor, []*ca.Certificate{c}))
	if err != nil || c.Device == [16]byte{} {
		return err
	}
	if err := s.Devices.MayEmpower(ctx, actor, device.ID(c.Device)); err != nil && !errs.Is(err, errs.NotFound) {
		return err
	}
	if to == released || s.roleOf(c.Profile) != access.RoleAdmin {
		return nil
	}
	return s.leavesAdmin(ctx, actor, func(_ *device.Device, slot *device.Slot) bool { return takes(c, slot, to) })
}

// takes reports whether the end of c ends what stands in the slot.
func takes(c *ca.Certificate, slot *device.Slot, to Reason) bool {
	return bytes.Equal(slot.Serial, c.Serial[:]) || to == KeyCompromise && bytes.Equal(slot.SPKI, c.SPKIHash[:])
}

// keepsAdmin returns nil when an administrator is left after the move.
func (s *Service) keepsAdmin(ctx context.Context, actor access.Actor, id device.ID, move device.Move) error {
	if move == device.Resume || actor.Kind != access.KindOperator {
		return nil
	}
	d, err := s.Devices.Load(ctx, id)
	if err != nil || s.roleOf(d.Profile) != access.RoleAdmin {
		return err
	}
	return s.leavesAdmin(ctx, actor, func(d *device.Device, _ *device.Slot) bool { return d.ID == id })
}

// leavesAdmin returns nil when there is an administrator with a valid certificate whom gone does not name, or when actor needs none. Two
// who put each other out at the same moment are not noticed.
func (s *Service) leavesAdmin(ctx context.Context, actor access.Actor, gone func(*device.Device, *device.Slot) bool) error {
	if actor.Kind != access.KindOperator {
		return nil
	}
	for _, p := range s.CA.Profiles() {
		if p.Grants != access.RoleAdmin {
			continue
		}
		for f := (device.Filter{Profile: p.Name}); ; {
			page, next, err := s.Devices.List(ctx, actor, f)
			if err != nil {
				return err
			}
			for i := range page {
				if left, err := s.usable(ctx, &page[i], p.Slot, gone); left || err != nil {
					return err
				}
			}
			if f.Cursor = next; next == "" {
				break
			}
		}
	}
	return errs.New(errs.Conflict, "nobody would be left who is an administrator: register another one first and let him enrol, or do this on the server's machine, by its socket")
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

// untouchable returns, by serial number, why certificates of the batch stay as they are.
func (b *Bulk) untouchable(ctx context.Context, batch *job.Batch, brief map[string]*ca.Certificate, to Reason) (map[[16]byte]string, error) {
	maker := batch.Job.Maker
	if maker.Kind != access.KindOperator {
		return nil, nil
	}
	certs, devices, err := b.withDevices(ctx, batch.Items, brief)
	if err != nil {
		return nil, err
	}
	refused := map[[16]byte]string{}
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
		return refused, nil
	}
	err = b.leavesAdmin(ctx, maker, func(_ *device.Device, slot *device.Slot) bool {
		for _, c := range admins {
			if takes(c, slot, to) {
				return true
			}
		}
		return false
	})
	if err != nil && !errs.Is(err, errs.Conflict) {
		return nil, err
	}
	for _, c := range admins {
		if err != nil {
			refused[c.Serial] = errs.Public(err)
		}
	}
	return refused, nil
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

// spared divides the devices of a page into those that are moved and those that are not, because of the roles that their certificates give.
func (b *Bulk) spared(ctx context.Context, maker access.Actor, page []device.Device, found map[device.ID][]*ca.Certificate, move device.Move) (keep []device.Device, refused []job.Result, err error) {
	if maker.Kind != access.KindOperator {
		return page, nil, nil
	}
	admins := map[device.ID]bool{}
	for i := range page {
		d := &page[i]
		if err := b.refusedFor(ctx, maker, "device "+d.ID.String(), b.withinPower(maker, b.live(found[d.ID]))); err != nil {
			refused = append(refused, job.Result{Item: d.ID.String(), Text: errs.Public(err)})
			continue
		}
		admins[d.ID] = move != device.Resume && b.roleOf(d.Profile) == access.RoleAdmin
		keep = append(keep, *d)
	}
	return b.withoutLast(ctx, maker, keep, refused, admins)
}

// withoutLast takes the administrators out of a page when nobody would be left.
func (b *Bulk) withoutLast(ctx context.Context, maker access.Actor, page []device.Device, refused []job.Result, admins map[device.ID]bool) (keep []device.Device, _ []job.Result, err error) {
	for i := range page {
		if !admins[page[i].ID] {
			keep = append(keep, page[i])
		}
	}
	if len(keep) == len(page) {
		return page, refused, nil
	}
	err = b.leavesAdmin(ctx, maker, func(d *device.Device, _ *device.Slot) bool { return admins[d.ID] })
	if err == nil {
		return page, refused, nil
	}
	if !errs.Is(err, errs.Conflict) {
		return nil, nil, err
	}
	for i := range page {
		if admins[page[i].ID] {
			refused = append(refused, job.Result{Item: page[i].ID.String(), Text: errs.Public(err)})
		}
	}
	return keep, refused, nil
}
