package ca

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"time"

	"mooring/internal/base/db"
	"mooring/internal/base/errs"
	"mooring/internal/core/access"
)

// A certificate that is recorded in brief is not kept. But as long as it is valid there is a short row in cert_brief, which is written in the
// transaction that records it: who ends the trust in a device, a CA or a profile finds all of them there. The rows leave when the
// certificates have ended, so that there are no more of them than certificates in use.

// briefDetail marks the entries of certificates that have a short row, so that those from before there were such rows are told apart.
const briefDetail = "row"

const briefColumns = `cell, device, serial, slot, issuer, profile, not_after, spki`

// briefStmts returns the statements that write the short rows.
func briefStmts(tx *db.Tx, certs []*Certificate) []*db.Stmt {
	if len(certs) == 0 {
		return nil
	}
	if tx.Arrays() {
		return []*db.Stmt{briefArray(certs)}
	}
	stmts := make([]*db.Stmt, len(certs))
	for i, c := range certs {
		stmts[i] = &db.Stmt{SQL: `INSERT INTO cert_brief (` + briefColumns + `) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)`,
			Args: []any{int64(c.Cell), c.Device[:], c.Serial[:], c.Slot, c.Issuer[:], c.Profile, c.NotAfter, c.SPKIHash[:]}}
	}
	return stmts
}

func briefArray(certs []*Certificate) *db.Stmt {
	n := len(certs)
	cell, notAfter := make([]int16, n), make([]int64, n)
	device, serial, issuer, spki := make([][]byte, n), make([][]byte, n), make([][]byte, n), make([][]byte, n)
	slot, profile := make([]string, n), make([]string, n)
	for i, c := range certs {
		cell[i], device[i], serial[i], slot[i], issuer[i] = int16(c.Cell), c.Device[:], c.Serial[:], c.Slot, c.Issuer[:]
		profile[i], notAfter[i], spki[i] = c.Profile, c.NotAfter, c.SPKIHash[:]
	}
	return &db.Stmt{SQL: `INSERT INTO cert_brief (` + briefColumns + `) SELECT * FROM unnest($1::smallint[], $2::bytea[], $3::bytea[], $4::text[], $5::bytea[],
		$6::text[], $7::bigint[], $8::bytea[])`, Args: []any{cell, device, serial, slot, issuer, profile, notAfter, spki}}
}

// scanBrief reads briefColumns. Version, notBefore and DER the row does not say.
func scanBrief(row db.Row) (*Certificate, error) {
	var c Certificate
	var cell int64
	var device, serial, issuer, spki []byte
	if err := row.Scan(&cell, &device, &serial, &c.Slot, &issuer, &c.Profile, &c.NotAfter, &spki); err != nil {
		return nil, err
	}
	if len(serial) != len(c.Serial) || len(device) != len(c.Device) || len(issuer) != len(c.Issuer) || len(spki) != len(c.SPKIHash) {
		return nil, fmt.Errorf("the short row of certificate %x has columns of the wrong length", serial)
	}
	c.Cell, c.Device, c.Serial, c.Issuer, c.SPKIHash = uint8(cell), [16]byte(device), [16]byte(serial), IssuerID(issuer), [32]byte(spki)
	c.Day, c.NotBefore = IssuedAt(serial)/86400, IssuedAt(serial)
	return &c, nil
}

// BriefOfTx returns the certificates recorded in brief that a device has; perhaps also some that have ended. Whoever has locked the device's row
// in tx misses none.
func (a *Authority) BriefOfTx(ctx context.Context, tx *db.Tx, cell uint8, device [16]byte) (list []*Certificate, err error) {
	err = tx.Each(ctx, func(row db.Row) error {
		c, err := scanBrief(row)
		list = append(list, c)
		return err
	}, `SELECT `+briefColumns+` FROM cert_brief WHERE cell = $1 AND device = $2 ORDER BY serial DESC`, int64(cell), device[:])
	if err != nil {
		return nil, fmt.Errorf("reading the certificates of a device that are recorded in brief: %w", err)
	}
	return list, nil
}

// BriefManyTx returns, by serial number, those of the certificates that are recorded in brief and have not ended. It reads the whole cells, which is
// cheaper than the record for many of a cell and dear for a single one.
func (a *Authority) BriefManyTx(ctx context.Context, tx *db.Tx, serials [][]byte) (map[string]*Certificate, error) {
	wanted, cells := map[string]bool{}, map[uint8]bool{}
	for _, serial := range serials {
		if KeptAs(serial) == Brief {
			wanted[string(serial)], cells[serial[5]] = true, true
		}
	}
	found := make(map[string]*Certificate, len(wanted))
	for cell := range cells {
		err := tx.Each(ctx, func(row db.Row) error {
			c, err := scanBrief(row)
			if err == nil && wanted[string(c.Serial[:])] {
				found[string(c.Serial[:])] = c
			}
			return err
		}, `SELECT `+briefColumns+` FROM cert_brief WHERE cell = $1`, int64(cell))
		if err != nil {
			return nil, fmt.Errorf("reading the certificates that are recorded in brief: %w", err)
		}
	}
	return found, nil
}

// ListBrief is List for the certificates that are recorded in brief, in the order of cell, device and serial number; a few that ended a while
// ago may be among them. Its cursors are its own.
func (a *Authority) ListBrief(ctx context.Context, actor access.Actor, f CertFilter) (page []*Certificate, next string, err error) {
	if err := a.deps.Access.Require(ctx, actor, access.CertRead, "certificates"); err != nil {
		return nil, "", err
	}
	if f.Limit <= 0 || f.Limit > 1000 {
		f.Limit = 1000
	}
	where := f.where()
	if f.Cursor != "" {
		at, err := base64.RawURLEncoding.DecodeString(f.Cursor)
		if err != nil || len(at) != 33 {
			return nil, "", errs.New(errs.Invalid, "the cursor is not one of a list of certificates")
		}
		where.add("(cell, device, serial) > ($%d, $%d, $%d)", int64(at[0]), at[1:17], at[17:])
	}
	text, args := where.all(int64(f.Limit))
	err = a.deps.DB.View(ctx, func(ctx context.Context, tx *db.Tx) error {
		page = nil
		return tx.Each(ctx, func(row db.Row) error {
			c, err := scanBrief(row)
			page = append(page, c)
			return err
		}, fmt.Sprintf(`SELECT %s FROM cert_brief WHERE %s ORDER BY cell, device, serial LIMIT $%d`, briefColumns, text, len(args)), args...)
	})
	if err != nil {
		return nil, "", fmt.Errorf("listing certificates that are recorded in brief: %w", err)
	}
	if len(page) == f.Limit {
		last := page[len(page)-1]
		next = base64.RawURLEncoding.EncodeToString(append(append([]byte{last.Cell}, last.Device[:]...), last.Serial[:]...))
	}
	return page, next, nil
}

const (
	briefEvery = time.Hour // how often Run looks for short rows that can go
	briefSlack = 3600      // seconds that a row stays after the end of its certificate, since clocks differ
	briefBatch = 500       // rows that are deleted in a transaction
)

// sweepBrief deletes the rows of certificates that have ended.
func (a *Authority) sweepBrief(ctx context.Context, l *db.Lease) error {
	until := a.deps.Now().Unix() - briefSlack
	for cell := range int64(256) {
		device, serial := []byte{}, []byte{}
		for {
			last, err := a.briefEnd(ctx, cell, device, serial, until)
			if err != nil {
				return fmt.Errorf("looking for certificates recorded in brief that have ended: %w", err)
			}
			if last.serial == nil {
				break
			}
			if err := a.deleteBrief(ctx, l, cell, device, serial, last, until); err != nil {
				return fmt.Errorf("deleting certificates recorded in brief that have ended: %w", err)
			}
			device, serial = last.device, last.serial
			if last.n == briefBatch && !wait(ctx, purgePause) {
				return ctx.Err()
			}
		}
	}
	return nil
}

// briefKey is a place among the short rows of a cell, and how many rows that can go lead to it.
type briefKey struct {
	device, serial []byte
	n              int
}

// briefEnd returns the last of the next rows that can go; nothing when there is none.
func (a *Authority) briefEnd(ctx context.Context, cell int64, device, serial []byte, until int64) (last briefKey, err error) {
	err = a.deps.DB.View(ctx, func(ctx context.Context, tx *db.Tx) error {
		last = briefKey{}
		return tx.Each(ctx, func(row db.Row) error {
			last.n++
			return row.Scan(&last.device, &last.serial)
		}, `SELECT device, serial FROM cert_brief WHERE cell = $1 AND (device, serial) > ($2, $3) AND not_after < $4 ORDER BY device, serial LIMIT $5`,
			cell, device, serial, until, int64(briefBatch))
	})
	return last, err
}

func (a *Authority) deleteBrief(ctx context.Context, l *db.Lease, cell int64, device, serial []byte, last briefKey, until int64) error {
	return a.deps.DB.Do(ctx, func(ctx context.Context, tx *db.Tx) error {
		if err := l.Fence(ctx, tx); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, `DELETE FROM cert_brief WHERE cell = $1 AND (device, serial) > ($2, $3) AND (device, serial) <= ($4, $5) AND not_after < $6`,
			cell, device, serial, last.device, last.serial, until)
		return err
	})
}

// forgetBrief is one pass of sweepBrief, under the lease. Another node that is at it does as well.
func (a *Authority) forgetBrief(ctx context.Context) error {
	err := a.lead(ctx, func(ctx context.Context, l *db.Lease) error { return a.sweepBrief(ctx, l) })
	if errs.Is(err, errs.Unavailable) && !errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}
