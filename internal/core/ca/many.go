package ca

import (
	"context"
	"encoding/base64"
	"fmt"
	"slices"

	"mooring/internal/base/db"
)

// GetManyTx returns the certificates with these serial numbers in the order asked for, nil for each that is not kept, in one round trip.
func (a *Authority) GetManyTx(ctx context.Context, tx *db.Tx, serials [][]byte) ([]*Certificate, error) {
	list := make([]*Certificate, len(serials))
	stmts := make([]*db.Stmt, 0, len(serials))
	for i, serial := range serials {
		if KeptAs(serial) != Full {
			continue
		}
		cell, day, err := Locate(serial)
		if err != nil {
			continue
		}
		stmts = append(stmts, &db.Stmt{SQL: `SELECT ` + certColumns + ` FROM ` + tableOf(serial) + ` WHERE cell = $1 AND day = $2 AND serial = $3`,
			Args: []any{int64(cell), day, serial}, Each: func(row db.Row) (err error) {
				list[i], err = scanCert(row)
				return err
			}})
	}
	if err := tx.Send(ctx, stmts...); err != nil {
		return nil, fmt.Errorf("reading certificates: %w", err)
	}
	return list, nil
}

// PageTx is List inside a transaction, for components that have decided who may see it.
func (a *Authority) PageTx(ctx context.Context, tx *db.Tx, f CertFilter) (page []*Certificate, next string, err error) {
	if f.Limit <= 0 || f.Limit > 1000 {
		f.Limit = 1000
	}
	conditions := f.where()
	if err := conditions.after(f.Cursor); err != nil {
		return nil, "", err
	}
	where, args := conditions.all(int64(f.Limit))
	for _, table := range []string{tableOrdinary, tableLong} {
		err = tx.Each(ctx, func(row db.Row) error {
			c, err := scanCert(row)
			page = append(page, c)
			return err
		}, fmt.Sprintf(`SELECT %s FROM %s WHERE %s ORDER BY cell, day, serial LIMIT $%d`, certColumns, table, where, len(args)), args...)
		if err != nil {
			break
		}
	}
	slices.SortFunc(page, (*Certificate).compare)
	page = page[:min(len(page), f.Limit)]
	if err != nil {
		return nil, "", fmt.Errorf("listing certificates: %w", err)
	}
	if len(page) == f.Limit {
		next = base64.RawURLEncoding.EncodeToString(page[len(page)-1].Serial[:])
	}
	return page, next, nil
}

// Ready makes sure that certificates which were issued on this day, since 1970, can be stored. It is for who records certificates of the past, as
// measurements do; issuing sees to it by itself.
func (a *Authority) Ready(ctx context.Context, day int64) error { return a.ready(ctx, day) }
