package enrol

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"mooring/internal/base/db"
	"mooring/internal/base/errs"
	"mooring/internal/core/access"
	"mooring/internal/core/audit"
	"mooring/internal/core/ca"
	"mooring/internal/core/device"
	"mooring/internal/core/revoke"
)

// In CMP the receiver of a certificate says that it has and wants it, and what is not confirmed in time is taken back (RFC 9810, section 5.3.18).
// A certificate that waits for this stands in the table unconfirmed, which is written in the transaction that records it: so any node can take the
// confirmation, and any node takes back what was not confirmed, also after the one that issued it is gone. What is taken back is revoked as
// superseded, the reason that suspects nobody: the certificate before it stays good (see notClosed), and so a renewal whose answer was lost or
// refused leaves the device as it was.

// Awaiting asks for a certificate that its receiver will confirm.
type Awaiting struct {
	Transaction []byte // names the exchange among those of the device
	// Within is for how long the confirmation is waited for; 0: it is not.
	Within time.Duration
}

// ErrConfirmed marks the refusal of somebody who rejects a certificate that was confirmed before.
var ErrConfirmed = errors.New("confirmed already")

// ErrUnknownTransaction marks a confirmation of something that waits for none.
var ErrUnknownTransaction = errors.New("nothing waits for this confirmation")

const (
	insertUnconfirmed = `INSERT INTO unconfirmed (cell, device, serial, transaction_id, cert, until) VALUES ($1, $2, $3, $4, $5, $6)
 ON CONFLICT (cell, device, serial) DO NOTHING`
	renameUnconfirmed = `UPDATE unconfirmed SET transaction_id = $4, until = $5 WHERE cell = $1 AND device = $2 AND serial = $3`
	selectUnconfirmed = `SELECT serial, cert FROM unconfirmed WHERE cell = $1 AND device = $2 AND transaction_id = $3 AND until >= $4`
	deleteUnconfirmed = `DELETE FROM unconfirmed WHERE cell = $1 AND device = $2 AND serial = $3`
	claimUnconfirmed  = deleteUnconfirmed + ` AND until >= $4`
	selectOverdue     = `SELECT cell, device, serial FROM unconfirmed WHERE until < $1 ORDER BY until LIMIT $2`
)

// await returns the statement that has the item's certificate wait for its confirmation, or nil.
func (s *Service) await(sub *submission, i *item) *db.Stmt {
	a := &sub.req.Confirm
	if a.Within <= 0 || ca.KeptAs(i.cert.Serial[:]) == ca.Ephemeral { // nothing could take that back
		return nil
	}
	return &db.Stmt{SQL: insertUnconfirmed, Args: []any{int64(i.cell), i.device[:], i.cert.Serial[:], a.Transaction, i.cert.DER, s.Now().Add(a.Within).Unix()}}
}

// awaitAgain has a certificate that was given out before, and was not confirmed, wait under the new transaction.
func (s *Service) awaitAgain(ctx context.Context, sub *submission, c *ca.Certificate) error {
	a := &sub.req.Confirm
	if a.Within <= 0 {
		return nil
	}
	err := s.DB.Do(ctx, func(ctx context.Context, tx *db.Tx) error {
		_, err := tx.Exec(ctx, renameUnconfirmed, int64(c.Cell), c.Device[:], c.Serial[:], a.Transaction, s.Now().Add(a.Within).Unix())
		return err
	})
	if err != nil {
		return fmt.Errorf("waiting for the confirmation of a certificate again: %w", err)
	}
	return nil
}

// Confirm takes the word of the receiver about a certificate that it got in the transaction of r.Confirm. r says who it is, as in the request for
// the certificate; its other fields do not matter. matches tells whether a certificate in DER is the one that is meant. When it is not accepted it
// is revoked. A confirmation that comes again is taken again. It returns the device, as an Answer does.
func (s *Service) Confirm(ctx context.Context, r Request, matches func(cert []byte) bool, accept bool) (id string, err error) {
	sub := &submission{req: &r}
	if err = s.confirm(ctx, sub, matches, accept); err != nil {
		s.recordRefusal(ctx, sub, err)
	}
	if sub.identity != nil {
		id = sub.identity.Device.ID.String()
	}
	return id, err
}

func (s *Service) confirm(ctx context.Context, sub *submission, matches func([]byte) bool, accept bool) error {
	if err := s.authenticate(ctx, sub); err != nil {
		return err
	}
	serial, cert, err := s.unconfirmed(ctx, sub)
	switch {
	case err != nil:
		return err
	case serial == nil:
		return s.confirmedBefore(ctx, sub, matches, accept)
	case !matches(cert):
		return errs.Wrap(errs.Invalid, ErrUnknownTransaction, "the confirmation is for another certificate than the one that was given out in this transaction")
	case sub.identity.Own != nil && string(sub.identity.Own.Serial[:]) == string(serial):
		return errs.New(errs.Denied, "a certificate is not confirmed by itself: protect the confirmation as the request was")
	case accept:
		return s.settleConfirmed(ctx, sub, serial)
	}
	if err := s.takeBack(ctx, sub.identity.Actor(sub.req.Protocol), sub.identity.Device.ID, serial); err != nil {
		return err
	}
	return s.forget(ctx, sub.identity.Device.Cell, sub.identity.Device.ID[:], serial)
}

// unconfirmed returns what waits in the transaction of a submission.
func (s *Service) unconfirmed(ctx context.Context, sub *submission) (serial, cert []byte, err error) {
	d := &sub.identity.Device
	err = s.DB.View(ctx, func(ctx context.Context, tx *db.Tx) error {
		serial, cert = nil, nil
		_, err := tx.Get(ctx, []any{&serial, &cert}, selectUnconfirmed, int64(d.Cell), d.ID[:], sub.req.Confirm.Transaction, s.Now().Unix())
		return err
	})
	if err != nil {
		return nil, nil, fmt.Errorf("looking for a certificate that waits for its confirmation: %w", err)
	}
	return serial, cert, nil
}

// confirmedBefore answers for a certificate that waits for nothing (any more): who confirms it again gets the same answer.
func (s *Service) confirmedBefore(ctx context.Context, sub *submission, matches func([]byte) bool, accept bool) error {
	for _, slot := range sub.identity.Device.Slots {
		if slot.Revoked != 0 || len(slot.Serial) == 0 || ca.KeptAs(slot.Serial) != ca.Full {
			continue
		}
		c, err := s.CA.Get(ctx, slot.Serial)
		if err != nil && !errs.Is(err, errs.NotFound) {
			return fmt.Errorf("looking for a certificate that may be confirmed: %w", err)
		}
		if err != nil || !matches(c.DER) {
			continue
		}
		if !accept {
			return errs.Wrap(errs.Conflict, ErrConfirmed, "this certificate was confirmed already: have it revoked instead")
		}
		return nil
	}
	return errs.Wrap(errs.Invalid, ErrUnknownTransaction, "no certificate of this transaction waits for a confirmation: it may have come too late, and then the certificate is revoked; ask for a new one")
}

func (s *Service) settleConfirmed(ctx context.Context, sub *submission, serial []byte) error {
	d, now := &sub.identity.Device, s.Now().Unix()
	return s.DB.Do(ctx, func(ctx context.Context, tx *db.Tx) error {
		n, err := tx.Exec(ctx, claimUnconfirmed, int64(d.Cell), d.ID[:], serial, now)
		if err != nil || n == 0 { // a twin of this confirmation was faster
			return err
		}
		return s.Audit.Append(ctx, tx, audit.Entry{At: now, Action: "cert.confirm", Actor: sub.identity.Actor(sub.req.Protocol).String(), Device: d.ID.String(),
			Serial: hex.EncodeToString(serial), Detail: map[string]string{"protocol": sub.req.Protocol}})
	})
}

// takeBack revokes a certificate that its receiver does not want or did not confirm.
func (s *Service) takeBack(ctx context.Context, actor access.Actor, owner device.ID, serial []byte) error {
	_, err := s.Revoke.ForHolder(ctx, actor, owner, serial, revoke.Superseded)
	if errs.Is(err, errs.NotFound) { // its time here is over
		return nil
	}
	return err
}

func (s *Service) forget(ctx context.Context, cell uint8, id, serial []byte) error {
	err := s.DB.Do(ctx, func(ctx context.Context, tx *db.Tx) error {
		_, err := tx.Exec(ctx, deleteUnconfirmed, int64(cell), id, serial)
		return err
	})
	if err != nil {
		return fmt.Errorf("forgetting a certificate that was not confirmed: %w", err)
	}
	return nil
}

const (
	lapseEvery = 10 * time.Second
	// lapseSlack is what the clocks of two nodes may differ, so that none takes back what another still lets be confirmed.
	lapseSlack = time.Minute
	lapseMost  = 100 // in one go
)

// WatchConfirmations takes back what is not confirmed in time, until ctx ends.
func (s *Service) WatchConfirmations(ctx context.Context) error {
	tick := time.NewTicker(lapseEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		if _, err := s.Lapse(ctx); err != nil && ctx.Err() == nil {
			s.Log.LogAttrs(ctx, slog.LevelError, "certificates that were not confirmed could not be revoked", slog.Any("cause", err))
		}
	}
}

// Lapse revokes certificates whose time to be confirmed is over, and returns how many. Two nodes may do it at once: revoking again changes nothing.
func (s *Service) Lapse(ctx context.Context) (n int, err error) {
	type overdue struct {
		cell       int64
		id, serial []byte
	}
	var list []overdue
	err = s.DB.View(ctx, func(ctx context.Context, tx *db.Tx) error {
		list = nil
		return tx.Each(ctx, func(row db.Row) error {
			var o overdue
			err := row.Scan(&o.cell, &o.id, &o.serial)
			list = append(list, o)
			return err
		}, selectOverdue, s.Now().Add(-lapseSlack).Unix(), int64(lapseMost))
	})
	if err != nil {
		return 0, fmt.Errorf("looking for certificates that were not confirmed: %w", err)
	}
	for _, o := range list {
		if len(o.id) != len(device.ID{}) {
			return n, fmt.Errorf("a certificate waits for confirmation by a device whose id has %d octets", len(o.id))
		}
		if err := s.takeBack(ctx, access.System("enrol"), device.ID(o.id), o.serial); err != nil {
			return n, err
		}
		if err := s.forget(ctx, uint8(o.cell), o.id, o.serial); err != nil {
			return n, err
		}
		n++
	}
	return n, nil
}
