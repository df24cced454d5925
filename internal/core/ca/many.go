package ca

import (
	"context"
	"fmt"

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
		stmts = append(stmts, &db.Stmt{SQL: `SELECT ` + certColumns + ` FROM cert WHERE cell = $1 AND day = $2 AND serial = $3`,
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
