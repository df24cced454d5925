package ra

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strconv"
	"time"

	"mooring/internal/base/db"
	"mooring/internal/base/errs"
	"mooring/internal/core/device"
	"mooring/wire/butterfly"
	"mooring/wire/coer"
	"mooring/wire/its"
)

// order is a request that was accepted.
type order struct {
	id          its.HashedId8
	digest      [32]byte
	device      device.ID
	signer      its.HashedId8
	octets      []byte // EeRaCertRequest
	tickets     int64
	created     int64
	until       int64
	first, next int64
	ended       int64
	answer      []byte

	// From octets.
	caterpillar butterfly.Caterpillar
	permissions []its.PsidSsp
}

const (
	orderColumns      = `id, digest, device, signer, caterpillar, tickets, created, until, first, next, ended, answer`
	insertOrder       = `INSERT INTO v2x_order (cell, ` + orderColumns + `) VALUES (0, $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)`
	selectOrder       = `SELECT ` + orderColumns + ` FROM v2x_order WHERE cell = 0 AND id = $1`
	selectDue         = `SELECT ` + orderColumns + ` FROM v2x_order WHERE cell = 0 AND next < $1 AND until > $2 AND ended = 0 ORDER BY next, id LIMIT $3`
	selectUnended     = `SELECT id FROM v2x_order WHERE cell = 0 AND device = $1 AND ended = 0 ORDER BY id`
	endOrder          = `UPDATE v2x_order SET ended = $2 WHERE cell = 0 AND id = $1`
	holdOrder         = `UPDATE v2x_order SET next = next WHERE cell = 0 AND id = $1 AND ended = 0 AND next = $2`
	moveOrder         = `UPDATE v2x_order SET next = $2 WHERE cell = 0 AND id = $1`
	insertCaterpillar = `INSERT INTO v2x_caterpillar (cell, key, id, until) VALUES (0, $1, $2, $3) ON CONFLICT DO NOTHING`

	insertWaiting = `INSERT INTO v2x_waiting (cell, id, i, j, since, answer) VALUES (0, $1, $2, $3, $4, $5)`
	selectWaiting = `SELECT w.id, w.i, w.j, w.since, o.device, o.signer FROM v2x_waiting AS w JOIN v2x_order AS o ON o.cell = w.cell AND o.id = w.id
		WHERE w.cell = 0 AND w.answer = $1 ORDER BY w.since, w.id, w.i, w.j LIMIT $2 OFFSET $3`
	answerWaiting = `UPDATE v2x_waiting SET answer = $4 WHERE cell = 0 AND id = $1 AND i = $2 AND j = $3`
	selectWhole   = `SELECT id, i FROM v2x_waiting WHERE cell = 0 GROUP BY id, i HAVING MIN(LENGTH(answer)) > 0 OR MAX(since) < $1 ORDER BY id, i LIMIT $2`
	selectAnswers = `SELECT j, answer FROM v2x_waiting WHERE cell = 0 AND id = $1 AND i = $2 ORDER BY j`
	deleteWaiting = `DELETE FROM v2x_waiting WHERE cell = 0 AND id = $1 AND i = $2`

	insertArchive = `INSERT INTO v2x_archive (cell, id, i, made, ends, octets) VALUES (0, $1, $2, $3, $4, $5)`
	selectArchive = `SELECT i, octets FROM v2x_archive WHERE cell = 0 AND id = $1`
)

func (o *order) row() []any {
	return []any{o.id[:], o.digest[:], o.device[:], o.signer[:], o.octets, o.tickets, o.created, o.until, o.first, o.next, o.ended, o.answer}
}

// Details of the entries.
const (
	detailRow     = "row"
	detailFirst   = "first"
	detailNext    = "next"
	detailUntil   = "until"
	detailTickets = "tickets"
	detailEnds    = "ends" // of the station's earlier requests
	detailKeys    = "keys" // digests
	detailCreated = "created"
)

// mark is the digest of what does not change of the row.
func (o *order) mark() string {
	return markOf(hex.EncodeToString(o.id[:]), string(o.digest[:]), string(o.device[:]), string(o.signer[:]), string(o.octets), strconv.FormatInt(o.tickets, 10),
		strconv.FormatInt(o.created, 10), strconv.FormatInt(o.until, 10), strconv.FormatInt(o.first, 10), string(o.answer))
}

func markOf(parts ...string) string {
	h := sha256.New()
	for _, p := range parts {
		h.Write([]byte(strconv.Quote(p)))
	}
	return hex.EncodeToString(h.Sum(nil))
}

// scanOrder reads a row.
func scanOrder(row db.Row) (*order, error) {
	o := &order{}
	var id, digest, dev, signer []byte
	if err := row.Scan(&id, &digest, &dev, &signer, &o.octets, &o.tickets, &o.created, &o.until, &o.first, &o.next, &o.ended, &o.answer); err != nil {
		return nil, fmt.Errorf("reading table v2x_order: %w", err)
	}
	if len(id) != len(o.id) || len(digest) != len(o.digest) || len(dev) != len(o.device) || len(signer) != len(o.signer) {
		return nil, fmt.Errorf("table v2x_order: the row of %x is damaged", id)
	}
	o.id, o.digest, o.device, o.signer = its.HashedId8(id), [32]byte(digest), device.ID(dev), its.HashedId8(signer)
	return o, nil
}

// read takes apart what is to be expanded.
func (o *order) read() (err error) {
	r := new(its.EeRaCertRequest)
	if err := coer.Unmarshal(o.octets, r); err != nil || r.AdditionalParams == nil {
		return fmt.Errorf("table v2x_order: the row of %s is damaged: %w", o.id, err)
	}
	o.permissions = r.TbsCert.AppPermissions
	o.caterpillar, err = caterpillar(r)
	return err
}

// endOrders ends the requests that a station made before.
func endOrders(ctx context.Context, tx *db.Tx, o *order) (ends []string, err error) {
	var ids []its.HashedId8
	if err := tx.Each(ctx, func(row db.Row) error {
		var id []byte
		if err := row.Scan(&id); err != nil || len(id) != len(its.HashedId8{}) {
			return fmt.Errorf("reading table v2x_order: %w", err)
		}
		ids = append(ids, its.HashedId8(id))
		return nil
	}, selectUnended, o.device[:]); err != nil {
		return nil, err
	}
	for _, id := range ids {
		if _, err := tx.Exec(ctx, endOrder, id[:], o.created); err != nil {
			return nil, err
		}
		ends = append(ends, id.String())
	}
	return ends, nil
}

type archiveState uint8

const (
	archiveNone archiveState = iota
	archiveComing
	archiveReady
)

// archive finds an archive of a station. Of the period the last 16 bits are known.
func (s *Service) archive(ctx context.Context, of device.ID, id its.HashedId8, i uint16) (octets []byte, state archiveState, err error) {
	err = s.DB.View(ctx, func(ctx context.Context, tx *db.Tx) error {
		octets, state = nil, archiveNone
		var o *order
		if err := tx.Each(ctx, func(row db.Row) (err error) {
			o, err = scanOrder(row)
			return err
		}, selectOrder, id[:]); err != nil {
			return err
		}
		if o == nil || o.device != of {
			return nil
		}
		if revoked, err := s.EA.RevokedTx(ctx, tx, o.signer); err != nil || revoked[o.signer] {
			return err
		}
		for n := o.next - 1; n >= o.first && n > o.next-1-1<<16; n-- {
			if uint16(n) == i {
				found, err := tx.Get(ctx, []any{new(int64), &octets}, selectArchive+` AND i = $2`, id[:], n)
				switch {
				case found:
					state = archiveReady
				case s.unix(s.valid(n).End()) > s.Now().Unix():
					state = archiveComing
				}
				return err
			}
		}
		return nil
	})
	return octets, state, err
}

func errComing() error {
	return errs.WithRetry(errs.New(errs.NotFound, "the tickets are not there yet"), time.Minute)
}
