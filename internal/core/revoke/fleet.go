package revoke

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"mooring/internal/base/db"
	"mooring/internal/base/errs"
	"mooring/internal/core/access"
	"mooring/internal/core/ca"
	"mooring/internal/core/device"
)

// Device moves a device through its life and does to its certificates what follows, in one transaction: suspending puts them on hold, resuming
// lifts these holds, losing and retiring revoke them for good, with the reason given or, when it is Unspecified, keyCompromise and
// cessationOfOperation. It returns how many certificates changed. It needs device.state and cert.revoke, and access.grant
// when the device or one of its certificates has a role; nobody moves the last administrator away but on the server's machine. A move that the device's state
// does not allow is a Conflict, and then nothing changes.
//
// All certificates count that have not expired, also those that newer ones replaced.
func (s *Service) Device(ctx context.Context, actor access.Actor, id device.ID, move device.Move, reason Reason) (n int, err error) {
	to, err := forMove(move, reason)
	if err != nil {
		return 0, err
	}
	if err := s.Devices.AllowMove(ctx, actor, id, move); err != nil {
		return 0, err
	}
	if err := s.Access.Require(ctx, actor, access.CertRevoke, "device "+id.String()); err != nil {
		return 0, err
	}
	heirs, err := s.keepsAdmin(ctx, actor, id, move)
	if err != nil {
		return 0, err
	}
	changed, err := s.moveAll(ctx, actor, id, move, to, heirs)
	if err != nil {
		return 0, s.refusedFor(ctx, actor, "device "+id.String(), err)
	}
	s.renewAnswersOf(ctx, changed)
	s.makeVisible(ctx, changed)
	return len(changed), nil
}

// errMore says that the device has certificates that its slots do not lead to.
var errMore = errors.New("certificates outside the slots")

// maxScans bounds how often a device's certificates are searched for while others get it new ones.
const maxScans = 3

// moveAll runs the transaction. Normally the slots lead to every certificate. One that a device got by a token, after it had lost the last one,
// does not know its predecessor; the device's count then shows that one is missing, and all are searched for.
func (s *Service) moveAll(ctx context.Context, actor access.Actor, id device.ID, move device.Move, to Reason, heirs []heir) (changed []Revocation, err error) {
	d, err := s.Devices.Load(ctx, id)
	if err != nil {
		return nil, err
	}
	beside, err := s.beside(ctx, &d)
	if err != nil {
		return nil, err
	}
	found, last := beside, -1
	for scan := 0; ; scan++ {
		err = s.do(ctx, func(ctx context.Context, tx *db.Tx) error {
			// Raising the policy number locks the device's row, so that what is read from here on includes every certificate that a renewal
			// recorded before, and nothing is recorded after.
			if err := s.Devices.SlotRevokedTx(ctx, tx, id, "", nil, s.Now().Unix()); err != nil {
				return err
			}
			d, err := s.Devices.MoveTx(ctx, tx, actor, id, move, to.forPeople())
			if err != nil {
				return err
			}
			certs, err := s.certificatesTx(ctx, tx, &d, found)
			if err != nil {
				return err
			}
			// Of some there is no row, so a count that is too low and no longer grows is all there is.
			if int64(len(certs)) < d.Issued && scan < maxScans && len(certs) > last {
				last = len(certs)
				return errMore
			}
			certs = s.live(certs)
			if err := s.withinPower(actor, certs); err != nil {
				return err
			}
			outcomes, err := s.changeTx(ctx, tx, actor, certs, to, true)
			changed = nil
			for _, o := range outcomes {
				if o.changed {
					changed = append(changed, o.Revocation)
				}
			}
			if err != nil {
				return err
			}
			return s.keepTx(ctx, tx, heirs)
		})
		if !errors.Is(err, errMore) {
			return changed, err
		}
		if found, err = s.search(ctx, actor, id); err != nil {
			return nil, err
		}
		found = append(found, beside...)
	}
}

// beside returns the certificates without a row that stand beside the newest in the slots, as the record knows them: another CA than that of the
// newest may have issued them. Those are only such as were issued before certificates recorded in brief had short rows.
func (s *Service) beside(ctx context.Context, d *device.Device) (found []*ca.Certificate, err error) {
	now := s.Now().Unix()
	var rows []*ca.Certificate
	for i := range d.Slots {
		prev := d.Slots[i].Prev
		if ca.KeptAs(prev) != ca.Brief || ca.IssuedAt(prev)+ca.MaxBrief < now {
			continue
		}
		if rows == nil {
			err := s.DB.View(ctx, func(ctx context.Context, tx *db.Tx) (err error) {
				rows, err = s.CA.BriefOfTx(ctx, tx, d.Cell, d.ID)
				return err
			})
			if err != nil {
				return nil, err
			}
		}
		if slices.ContainsFunc(rows, func(c *ca.Certificate) bool { return bytes.Equal(c.Serial[:], prev) }) {
			continue
		}
		c, err := s.CA.Known(ctx, prev)
		if err != nil && !errs.Is(err, errs.NotFound) {
			return nil, err
		}
		if err == nil {
			found = append(found, c)
		}
	}
	return found, nil
}

// forPeople is the reason that the entry of the move shows.
func (r Reason) forPeople() string {
	if r == released {
		return ""
	}
	return r.String()
}

// longestHistory bounds how far back a slot is followed in the transaction.
const longestHistory = 5000

// certificatesTx returns what the slots lead to, newest first, after these the others that are recorded in brief, and then what was found
// otherwise.
func (s *Service) certificatesTx(ctx context.Context, tx *db.Tx, d *device.Device, found []*ca.Certificate) ([]*ca.Certificate, error) {
	var certs []*ca.Certificate
	known, better := map[[16]byte]bool{}, map[[16]byte]*ca.Certificate{}
	rows, err := s.CA.BriefOfTx(ctx, tx, d.Cell, d.ID)
	if err != nil {
		return nil, err
	}
	found = slices.Concat(rows, found)
	for _, c := range found {
		better[c.Serial] = cmp.Or(better[c.Serial], c)
	}
	for _, slot := range d.Slots {
		newest := slot.Serial
		if ca.KeptAs(newest) == ca.Brief {
			for _, c := range inBrief(d, &slot) {
				known[c.Serial] = true
				certs = append(certs, cmp.Or(better[c.Serial], c))
			}
			newest = slot.Prev
		}
		for next, n := newest, 0; len(next) == 16 && !known[[16]byte(next)] && n < longestHistory; n++ {
			c, err := s.CA.GetTx(ctx, tx, next)
			if errs.Is(err, errs.NotFound) {
				break
			}
			if err != nil {
				return nil, fmt.Errorf("reading the certificates of a device: %w", err)
			}
			if c.Device != [16]byte(d.ID) { // whatever led here, it is not this device's
				break
			}
			known[c.Serial] = true
			certs = append(certs, c)
			next = c.PrevSerial
		}
	}
	for _, c := range found {
		if !known[c.Serial] {
			known[c.Serial] = true
			certs = append(certs, c)
		}
	}
	return certs, nil
}

// inBrief returns what a slot says of certificates that are not kept: the newest, and the one by which it was asked for. It is for those that were
// issued before such certificates had short rows, and for those that have ended.
func inBrief(d *device.Device, slot *device.Slot) (certs []*ca.Certificate) {
	add := func(serial []byte, notAfter int64) {
		if ca.KeptAs(serial) != ca.Brief || len(slot.Issuer) != len(ca.IssuerID{}) {
			return
		}
		c := &ca.Certificate{Serial: [16]byte(serial), Issuer: ca.IssuerID(slot.Issuer), Slot: slot.Name, Device: d.ID, NotAfter: notAfter}
		c.Cell, c.Day, _ = ca.Locate(serial) // KeptAs knows it
		if bytes.Equal(serial, slot.Serial) && len(slot.SPKI) == len(c.SPKIHash) {
			c.SPKIHash = [32]byte(slot.SPKI)
		}
		certs = append(certs, c)
	}
	add(slot.Serial, slot.NotAfter)
	add(slot.Prev, ca.IssuedAt(slot.Prev)+ca.MaxBrief)
	return certs
}

// search reads the device's cell for its certificates.
func (s *Service) search(ctx context.Context, actor access.Actor, id device.ID) (found []*ca.Certificate, err error) {
	cell, raw := s.Devices.CellOf(id), [16]byte(id)
	f := ca.CertFilter{Cell: &cell, Device: &raw}
	for {
		page, next, err := s.CA.List(ctx, actor, f)
		if err != nil {
			return nil, fmt.Errorf("searching for the certificates of a device: %w", err)
		}
		found = append(found, page...)
		if next == "" {
			return found, nil
		}
		f.Cursor = next
	}
}

// live drops the certificates that have expired.
func (s *Service) live(certs []*ca.Certificate) []*ca.Certificate {
	now := s.Now().Unix()
	var live []*ca.Certificate
	for _, c := range certs {
		if c.NotAfter >= now {
			live = append(live, c)
		}
	}
	return live
}
