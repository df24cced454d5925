package ra

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"mooring/internal/base/db"
	"mooring/internal/core/audit"
	"mooring/internal/core/v2x/trust"
	"mooring/wire/cocoon"
	"mooring/wire/its"
)

// finishBatch is how many archives are made in one transaction.
const finishBatch = 128

// whole is a period of an order whose tickets are all there, or whose rest is given up.
type whole struct {
	id   its.HashedId8
	i    int64
	info []byte
}

// finish makes the archives of the periods whose tickets are all there. What was not given out within Keep is given up: an archive then has what there is.
func (s *Service) finish(ctx context.Context) error {
	for {
		var list []*whole
		err := s.DB.View(ctx, func(ctx context.Context, tx *db.Tx) error {
			list = nil
			return tx.Each(ctx, func(row db.Row) error {
				w := &whole{}
				var id []byte
				if err := row.Scan(&id, &w.i); err != nil || len(id) != len(w.id) {
					return errors.Join(errors.New("reading table v2x_waiting"), err)
				}
				w.id = its.HashedId8(id)
				list = append(list, w)
				return nil
			}, selectWhole, s.Now().Add(-Keep).Unix(), finishBatch)
		})
		if err != nil || len(list) == 0 {
			return err
		}
		by, err := s.Trust.Credential(ctx, trust.EA)
		if err != nil {
			return err
		}
		for _, w := range list {
			// The next period is planned when it comes within reach, and is there at the latest when it has waited as long as it may.
			v := s.valid(w.i + 1)
			reach := min(time.Duration(s.Policy.Ahead-1)*s.Policy.Period, s.EA.Policy.Preload)
			next, now := v.Start.Time(s.Trust.Leap).Add(s.Policy.Wait-reach), s.Now()
			if next.Before(now) {
				next = now
			}
			if w.info, err = s.info(by, w.id, w.i, next); err != nil {
				return err
			}
		}
		if err := s.DB.Do(ctx, func(ctx context.Context, tx *db.Tx) error { return s.finishTx(ctx, tx, list) }); err != nil {
			return err
		}
	}
}

// finishTx makes archives. What is in one never changes afterwards.
func (s *Service) finishTx(ctx context.Context, tx *db.Tx, list []*whole) error {
	var entries []audit.Entry
	for _, w := range list {
		a := &cocoon.Archive{I: uint16(w.i), Info: w.info}
		if err := tx.Each(ctx, func(row db.Row) error {
			var j int64
			var octets []byte
			if err := row.Scan(&j, &octets); err != nil {
				return fmt.Errorf("reading table v2x_waiting: %w", err)
			}
			if len(octets) > 0 {
				a.Files = append(a.Files, cocoon.File{J: uint32(j), Octets: octets})
			}
			return nil
		}, selectAnswers, w.id[:], w.i); err != nil {
			return err
		}
		n, err := tx.Exec(ctx, deleteWaiting, w.id[:], w.i)
		if err != nil {
			return err
		}
		if n == 0 {
			continue // another process was faster
		}
		entry, err := s.keep(ctx, tx, w, a)
		if err != nil {
			return err
		}
		entries = append(entries, entry)
	}
	return s.Audit.Append(ctx, tx, entries...)
}

// keep stores an archive, and returns what is recorded of it.
func (s *Service) keep(ctx context.Context, tx *db.Tx, w *whole, a *cocoon.Archive) (audit.Entry, error) {
	made, ends := s.Now().Unix(), s.unix(s.valid(w.i).End())
	e := audit.Entry{Action: "v2x.archive", Actor: "system:v2x", Object: cocoon.ArchiveName(w.id, uint16(w.i)), Detail: map[string]string{
		detailPeriod: strconv.FormatInt(w.i, 10), detailTickets: strconv.Itoa(len(a.Files)), detailUntil: strconv.FormatInt(ends, 10)}}
	if len(a.Files) == 0 {
		return e, nil // given up
	}
	octets, err := a.Bytes()
	if err != nil {
		return e, err
	}
	e.Detail[detailRow] = archiveMark(w.id, w.i, made, ends, octets)
	_, err = tx.Exec(ctx, insertArchive, w.id[:], w.i, made, ends, octets)
	return e, err
}

const detailPeriod = "period"

func archiveMark(id its.HashedId8, i, made, ends int64, octets []byte) string {
	return markOf(id.String(), strconv.FormatInt(i, 10), strconv.FormatInt(made, 10), strconv.FormatInt(ends, 10), string(octets))
}

// Prune takes away archives whose tickets are over, and then their requests. Caterpillar keys stay until the credential is over.
func (s *Service) Prune(ctx context.Context) error {
	now := s.Now().Unix()
	return s.DB.Do(ctx, func(ctx context.Context, tx *db.Tx) error {
		_, err := tx.Exec(ctx, `DELETE FROM v2x_archive WHERE cell = 0 AND ends < $1`, now)
		_, err2 := tx.Exec(ctx, `DELETE FROM v2x_order WHERE cell = 0 AND until < $1 AND NOT EXISTS (SELECT 1 FROM v2x_archive AS a WHERE a.cell = v2x_order.cell AND a.id = v2x_order.id)
			AND NOT EXISTS (SELECT 1 FROM v2x_waiting AS w WHERE w.cell = v2x_order.cell AND w.id = v2x_order.id)`, now)
		_, err3 := tx.Exec(ctx, `DELETE FROM v2x_caterpillar WHERE cell = 0 AND until < $1`, now)
		return errors.Join(err, err2, err3)
	})
}
