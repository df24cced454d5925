package enrol

import (
	"bytes"
	"context"
	"encoding/hex"
	"fmt"
	"strings"
	"time"

	"mooring/internal/base/db"
	"mooring/internal/base/errs"
	"mooring/internal/core/access"
	"mooring/internal/core/audit"
	"mooring/internal/core/device"
	"mooring/wire/der"
)

// PendingState says where a request that needs a person's decision stands.
type PendingState int64

// The states of such a request.
const (
	Waiting  PendingState = 1
	Approved PendingState = 2
	Refused  PendingState = 3
)

// String returns the state's name.
func (s PendingState) String() string {
	switch s {
	case Waiting:
		return "waiting"
	case Approved:
		return "approved"
	case Refused:
		return "refused"
	}
	return "unknown"
}

// Pending is a request that waits, or has waited, for a person. A device has at most one; a new one of its replaces it.
type Pending struct {
	Device  device.ID
	Profile string
	State   PendingState
	Subject string // as asked for
	Names   string // as asked for
	Key     string // kind of key
	SPKI    []byte // SHA-256 of the public key, for comparison with what the device shows
	Created int64  // UTC seconds
	Decided int64
	Decider string
	Rescue  int64  // when the certificate ended by which the device asks, in a rescue; 0 for an ordinary request
	Second  string // the id of the approval that a second person must give; set by Decide
	id      []byte
}

// ID names the request among all that the device makes: 32 hexadecimal digits that follow from what was asked for.
func (p *Pending) ID() string { return hex.EncodeToString(p.id[:min(len(p.id), 16)]) }

// pendingLife is how long a request waits before it is forgotten.
const pendingLife = 14 * 24 * time.Hour

// forgotten is the time, UTC seconds, before which a request must have come to be forgotten at now, with what was decided about it.
func forgotten(now time.Time) int64 { return now.Add(-pendingLife).Unix() }

const (
	deleteRequest = `DELETE FROM request WHERE cell = $1 AND device = $2`
	selectRequest = `SELECT device, id, profile, state, subject, names, keykind, spki, created, decided, decider, rescue FROM request`
)

func scanPending(r db.Row) (p Pending, err error) {
	var dev []byte
	var state int64
	err = r.Scan(&dev, &p.id, &p.Profile, &state, &p.Subject, &p.Names, &p.Key, &p.SPKI, &p.Created, &p.Decided, &p.Decider, &p.Rescue)
	copy(p.Device[:], dev)
	p.State = PendingState(state)
	return p, err
}

// pending returns the device's request, if there is one.
func (s *Service) pending(ctx context.Context, tx *db.Tx, cell uint8, id device.ID) (p Pending, found bool, err error) {
	err = tx.Each(ctx, func(r db.Row) (err error) {
		found = true
		p, err = scanPending(r)
		return err
	}, selectRequest+` WHERE cell = $1 AND device = $2`, int64(cell), id[:])
	return p, found, err
}

// awaitApproval returns 0 when a person has approved this very request, and else how long to wait; it keeps the request for the person.
func (s *Service) awaitApproval(ctx context.Context, sub *submission) (time.Duration, error) {
	d, same := &sub.identity.Device, sub.sameness()
	var p Pending
	var found bool
	err := s.DB.View(ctx, func(ctx context.Context, tx *db.Tx) (err error) {
		p, found, err = s.pending(ctx, tx, d.Cell, d.ID)
		return err
	})
	switch {
	case err != nil:
		return 0, fmt.Errorf("looking for the request: %w", err)
	case !found || !bytes.Equal(p.id, same) || p.Rescue != sub.identity.expired || p.Created < forgotten(s.Now()):
		return s.Retry, s.keep(ctx, sub)
	case p.State == Refused:
		return 0, errs.New(errs.Denied, "an operator has refused this request")
	case p.State == Waiting:
		return s.Retry, nil
	}
	sub.approved = true
	return 0, nil
}

// keep stores the request in place of an older one of the same device.
func (s *Service) keep(ctx context.Context, sub *submission) error {
	d, now, spki := &sub.identity.Device, s.Now().Unix(), sub.csr.HashSPKI()
	p := Pending{Device: d.ID, Profile: sub.profile.Name, State: Waiting, Subject: der.FormatName(sub.csr.Subject), Names: describe(sub.csr.Names),
		Key: string(der.KindOf(sub.csr.PublicKey)), SPKI: spki[:], Created: now, Rescue: sub.identity.expired, id: sub.sameness()}
	return s.DB.Do(ctx, func(ctx context.Context, tx *db.Tx) error {
		if _, err := tx.Exec(ctx, `DELETE FROM request WHERE created < $1`, forgotten(s.Now())); err != nil {
			return err
		}
		var waiting int
		// The device's own request is replaced, so it takes no room.
		if _, err := tx.Get(ctx, []any{&waiting}, `SELECT count(*) FROM (SELECT 1 AS one FROM request WHERE state = 1 AND NOT (cell = $1 AND device = $2) LIMIT $3) AS w`,
			int64(d.Cell), d.ID[:], int64(s.MaxPending)); err != nil {
			return err
		}
		if waiting >= s.MaxPending {
			return errs.WithRetry(errs.New(errs.Limited, "too many requests wait for approval; an operator must decide about some"), s.Retry)
		}
		_, err := tx.Exec(ctx, `INSERT INTO request (cell, device, id, profile, state, subject, names, keykind, spki, created, decided, decider, rescue)
			VALUES ($1, $2, $3, $4, 1, $5, $6, $7, $8, $9, 0, '', $10)
			ON CONFLICT (cell, device) DO UPDATE SET id = excluded.id, profile = excluded.profile, state = 1, subject = excluded.subject, names = excluded.names,
			keykind = excluded.keykind, spki = excluded.spki, created = excluded.created, decided = 0, decider = '',
			rescue = excluded.rescue`, int64(d.Cell), d.ID[:], p.id, p.Profile, p.Subject, p.Names, p.Key, p.SPKI, now, p.Rescue)
		if err != nil {
			return err
		}
		return s.Audit.Append(ctx, tx, audit.Entry{At: now, Action: "enrol.request", Actor: sub.identity.Actor(sub.req.Protocol).String(), Device: d.ID.String(),
			Detail: map[string]string{"profile": p.Profile, "protocol": sub.req.Protocol, "row": p.rowMark()}})
	})
}

// describe lists alternative names for a person.
func describe(n der.AltNames) string { return strings.Join(listNames(n), " ") }

// listNames returns the names in the registry's form.
func listNames(n der.AltNames) (all []string) {
	for _, v := range n.DNS {
		all = append(all, "dns:"+v)
	}
	for _, v := range n.IP {
		all = append(all, "ip:"+v.Unmap().String())
	}
	for _, v := range n.URI {
		all = append(all, "uri:"+v)
	}
	for _, v := range n.Email {
		all = append(all, "email:"+v)
	}
	return all
}

// Waiting returns the requests that wait for a decision, oldest first, at most limit.
func (s *Service) Waiting(ctx context.Context, actor access.Actor, limit int) ([]Pending, error) {
	if err := s.Access.Require(ctx, actor, access.DeviceRead, "requests"); err != nil {
		return nil, err
	}
	var list []Pending
	err := s.DB.View(ctx, func(ctx context.Context, tx *db.Tx) error {
		list = list[:0]
		return tx.Each(ctx, func(r db.Row) error {
			p, err := scanPending(r)
			list = append(list, p)
			return err
		}, selectRequest+` WHERE state = 1 ORDER BY created, cell, device LIMIT $1`, int64(min(max(limit, 1), 1000)))
	})
	return list, err
}

// Decide approves or refuses the request that a device has waiting. The device gets the decision when it asks again. seen is the ID of the
// request that the person looked at; when another one waits by now, which whoever holds the device's token can bring about at any moment,
// the error is Conflict. With "" the decision is about whatever waits.
func (s *Service) Decide(ctx context.Context, actor access.Actor, nameOrID, seen string, approve bool) (Pending, error) {
	if err := s.Access.Require(ctx, actor, access.EnrolApprove, "request"); err != nil {
		return Pending{}, err
	}
	d, err := s.Devices.Get(ctx, actor, nameOrID)
	if err != nil {
		return Pending{}, err
	}
	if approve {
		if err := s.Devices.MayEmpower(ctx, actor, d.ID); err != nil {
			return Pending{}, err
		}
	}
	if approve {
		if err := s.agree(ctx, actor, &d, seen); err != nil {
			return Pending{}, err
		}
	}
	p, err := s.settle(ctx, actor, &d, seen, approve)
	if err != nil {
		return Pending{}, err
	}
	return p, nil
}

// agree lets actor be the second person for a rescue that takes two.
func (s *Service) agree(ctx context.Context, actor access.Actor, d *device.Device, seen string) error {
	var p Pending
	var found bool
	err := s.DB.View(ctx, func(ctx context.Context, tx *db.Tx) (err error) {
		p, found, err = s.pending(ctx, tx, d.Cell, d.ID)
		return err
	})
	if err != nil || !found || p.State != Waiting || seen != "" && seen != p.ID() || !s.fourEyes(&p) {
		return err // what is wrong with it, settle says
	}
	return s.second(ctx, actor, &p)
}

func (s *Service) settle(ctx context.Context, actor access.Actor, d *device.Device, seen string, approve bool) (p Pending, err error) {
	state, action := Refused, "enrol.deny"
	if approve {
		state, action = Approved, "enrol.approve"
	}
	err = s.DB.Do(ctx, func(ctx context.Context, tx *db.Tx) error {
		var found bool
		p, found, err = s.pending(ctx, tx, d.Cell, d.ID)
		if err != nil {
			return err
		}
		if !found || p.State != Waiting {
			return errs.New(errs.NotFound, "no request of this device waits for a decision")
		}
		if seen != "" && seen != p.ID() {
			return errs.New(errs.Conflict, "another request of this device waits by now; look at it again")
		}
		if approve && s.fourEyes(&p) {
			if agreed, err := s.agreedTx(ctx, tx, actor, &p); err != nil || !agreed {
				return err
			}
		}
		p.State, p.Decided, p.Decider = state, s.Now().Unix(), actor.String()
		// The condition on id: the device may ask for something else between the look above and now.
		n, err := tx.Exec(ctx, `UPDATE request SET state = $3, decided = $4, decider = $5 WHERE cell = $1 AND device = $2 AND state = 1 AND id = $6`,
			int64(d.Cell), d.ID[:], int64(state), p.Decided, p.Decider, p.id)
		if err != nil {
			return err
		}
		if n != 1 {
			return errs.New(errs.Conflict, "the request changed meanwhile; look at it again")
		}
		return s.Audit.Append(ctx, tx, audit.Entry{At: p.Decided, Action: action, Actor: actor.String(), Device: d.ID.String(),
			Detail: map[string]string{"profile": p.Profile}})
	})
	return p, err
}
