package ea

import (
	"cmp"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"mooring/internal/base/db"
	"mooring/internal/base/errs"
	"mooring/internal/core/access"
	"mooring/internal/core/audit"
	"mooring/internal/core/device"
	"mooring/wire/its"
)

// Issued is an enrolment credential as its operators see it.
type Issued struct {
	ID      its.HashedId8
	Device  device.Device
	Issued  time.Time
	Expires time.Time
	Revoked time.Time // zero: it is not
}

const (
	insertRevoked  = `INSERT INTO v2x_credential_revoked (cell, id, at) VALUES (0, $1, $2)`
	lookRevoked    = `SELECT id FROM v2x_credential_revoked WHERE cell = 0 AND id IN `
	issuedColumns  = `SELECT c.id, c.device, c.issued, c.expires, COALESCE(r.at, 0) FROM v2x_credential AS c LEFT JOIN v2x_credential_revoked AS r ON r.cell = c.cell AND r.id = c.id WHERE c.cell = 0 AND `
	selectIssued   = issuedColumns + `c.id = $1`
	selectIssuedTo = issuedColumns + `c.device = $1 ORDER BY c.issued DESC, c.id LIMIT $2`
)

// RevokeCredential revokes one enrolment credential for good: from then on no request that it signs gets a ticket or another credential, on whatever node. The station is not
// stopped: it may have other credentials, and get another one by its canonical key. To revoke twice changes nothing. It needs the permission v2x.ea.
func (s *Service) RevokeCredential(ctx context.Context, actor access.Actor, id its.HashedId8) (*Issued, error) {
	if err := s.Trust.Access.Require(ctx, actor, access.V2XEnrolment, "v2x "+id.String()); err != nil {
		return nil, err
	}
	var i *Issued
	err := s.DB.Do(ctx, func(ctx context.Context, tx *db.Tx) (err error) {
		if i, err = oneIssued(ctx, tx, id); err != nil {
			return err
		}
		d, err := s.Devices.LockTx(ctx, tx, i.Device.ID) // nobody makes a credential by it meanwhile
		if err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, lockStation, d.ID[:]); err != nil { // nor counts a ticket
			return err
		}
		if i, err = oneIssued(ctx, tx, id); err != nil { // as it is now that nobody changes it
			return err
		}
		i.Device = d
		if !i.Revoked.IsZero() {
			return nil
		}
		at := s.Now().Unix()
		if _, err := tx.Exec(ctx, insertRevoked, id[:], at); err != nil {
			return err
		}
		i.Revoked = time.Unix(at, 0).UTC()
		return s.Audit.Append(ctx, tx, audit.Entry{Action: "v2x.revoke-credential", Actor: actor.String(), Device: i.Device.ID.String(), Object: id.String(),
			Detail: map[string]string{detailRow: revokedMark(id[:], at)}})
	})
	return i, err
}

func oneIssued(ctx context.Context, tx *db.Tx, id its.HashedId8) (*Issued, error) {
	list, err := eachIssued(ctx, tx, selectIssued, id[:])
	if err == nil && len(list) == 0 {
		err = errs.New(errs.NotFound, "there is no enrolment credential %s", id)
	}
	if err != nil {
		return nil, err
	}
	return list[0], nil
}

// eachIssued reads credentials. Of the devices there is the ID alone.
func eachIssued(ctx context.Context, tx *db.Tx, query string, args ...any) (list []*Issued, err error) {
	err = tx.Each(ctx, func(row db.Row) error {
		var id, dev []byte
		var issued, expires, revoked int64
		if err := row.Scan(&id, &dev, &issued, &expires, &revoked); err != nil {
			return fmt.Errorf("reading table v2x_credential: %w", err)
		}
		if len(id) != len(its.HashedId8{}) || len(dev) != len(device.ID{}) {
			return errs.New(errs.Internal, "table v2x_credential: the row of %x is damaged", id)
		}
		i := &Issued{ID: its.HashedId8(id), Device: device.Device{ID: device.ID(dev)}, Issued: time.Unix(issued, 0).UTC(), Expires: time.Unix(expires, 0).UTC()}
		if revoked != 0 {
			i.Revoked = time.Unix(revoked, 0).UTC()
		}
		list = append(list, i)
		return nil
	}, query, args...)
	return list, err
}

// RevokedTx returns which of some enrolment credentials are revoked. Others, and numbers of none, are not in it.
func (s *Service) RevokedTx(ctx context.Context, tx *db.Tx, ids ...its.HashedId8) (map[its.HashedId8]bool, error) {
	revoked := map[its.HashedId8]bool{}
	err := db.Chunks(len(ids), func(from, to int) error {
		args := make([]any, 0, to-from)
		for _, id := range ids[from:to] {
			args = append(args, id[:])
		}
		return tx.Each(ctx, readRevoked(revoked), lookRevoked+db.List(1, to-from), args...)
	})
	return revoked, err
}

// readRevoked takes in the rows of lookRevoked.
func readRevoked(into map[its.HashedId8]bool) func(db.Row) error {
	return func(row db.Row) error {
		var id []byte
		if err := row.Scan(&id); err != nil {
			return fmt.Errorf("reading table v2x_credential_revoked: %w", err)
		}
		if len(id) != len(its.HashedId8{}) {
			return errs.New(errs.Internal, "table v2x_credential_revoked: the row of %x is damaged", id)
		}
		into[its.HashedId8(id)] = true
		return nil
	}
}

// revokedMark is the digest of a row of v2x_credential_revoked.
func revokedMark(id []byte, at int64) string {
	m := markOf(id, at)
	return hex.EncodeToString(m[:])
}

// RevokedChecker compares which credentials are revoked with the replayed record. It serves one verification.
func (s *Service) RevokedChecker() audit.Checker {
	known := map[its.HashedId8]string{}
	return audit.Checker{Name: "v2x revoked credentials",
		Entry: func(_ int64, e audit.Entry) error {
			if e.Refused != "" || e.Action != "v2x.revoke-credential" {
				return nil
			}
			id, err := hex.DecodeString(e.Object)
			if err != nil || len(id) != len(its.HashedId8{}) || e.Detail[detailRow] == "" {
				return errors.New("the entry does not say what the row of the revocation is")
			}
			known[its.HashedId8(id)] = e.Detail[detailRow]
			return nil
		},
		Finish: func(ctx context.Context, tx *db.Tx) error { return compareRevoked(ctx, tx, known) },
		Save: func(_ context.Context, _ *db.Tx, w *audit.StateWriter) error {
			w.Uint(uint64(len(known)))
			for _, id := range sorted(known) {
				w.Fixed(id[:])
				w.Text(known[id])
			}
			return nil
		},
		Load: func(r *audit.StateReader) error {
			for range r.Len() {
				var id its.HashedId8
				r.Fixed(id[:])
				row := r.Text()
				if r.Err() != nil {
					break
				}
				known[id] = row
			}
			return r.Err()
		}}
}

func compareRevoked(ctx context.Context, tx *db.Tx, known map[its.HashedId8]string) error {
	c := &checker{}
	met := map[its.HashedId8]bool{}
	err := tx.Each(ctx, func(r db.Row) error {
		var cell, at int64
		var id []byte
		if err := r.Scan(&cell, &id, &at); err != nil {
			return fmt.Errorf("reading table v2x_credential_revoked: %w", err)
		}
		if len(id) != len(its.HashedId8{}) || cell != 0 || known[its.HashedId8(id)] != revokedMark(id, at) {
			c.find("table v2x_credential_revoked: the row of %X is not what the record says", id)
			return nil
		}
		met[its.HashedId8(id)] = true
		return nil
	}, `SELECT cell, id, at FROM v2x_credential_revoked ORDER BY cell, id`)
	for _, id := range sorted(known) {
		if !met[id] {
			c.find("table v2x_credential_revoked: the row of %s is missing, so that the credential would be good again", id)
		}
	}
	return errors.Join(append(c.found, err)...)
}

// sorted are the keys of a map in their order.
func sorted[V any](of map[its.HashedId8]V) []its.HashedId8 {
	return slices.SortedFunc(maps.Keys(of), func(a, b its.HashedId8) int { return cmp.Compare(string(a[:]), string(b[:])) })
}
