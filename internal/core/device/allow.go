package device

import (
	"context"
	"slices"

	"mooring/internal/base/db"
)

const (
	allowRow = `SELECT cell, id FROM device WHERE cell = $1 AND id = $2 AND state IN (1, 2) AND policy = $3`
	// The rows are not locked: what is allowed here leaves no trace in the registry.
	allowArray = `SELECT d.cell, d.id FROM unnest($1::smallint[], $2::bytea[], $3::bigint[]) AS t(cell, id, policy)
 JOIN device d ON d.cell = t.cell AND d.id = t.id WHERE d.state IN (1, 2) AND d.policy = t.policy`
)

// AllowTx asks of claims what ClaimTx does, and writes nothing: for certificates that the registry does not keep. It sees what was committed
// when the transaction looked; a suspension that is committed at the same moment may come too late for one certificate. Tokens cannot be spent
// this way. claims holds every device at most once, and before is as with ClaimTx.
func (r *Registry) AllowTx(ctx context.Context, tx *db.Tx, claims []Claim, before ...*db.Stmt) (refused []error, err error) {
	if len(claims) == 0 {
		return nil, nil
	}
	allowed := make(map[ID]bool, len(claims))
	each := func(row db.Row) error {
		var cell int64
		var id []byte
		if err := row.Scan(&cell, &id); err != nil {
			return err
		}
		allowed[ID(id)] = true
		return nil
	}
	stmts := allowStmts(claims, !tx.Arrays() || len(claims) <= rowsUpTo)
	for _, s := range stmts {
		s.Each = each
	}
	if err := tx.Send(ctx, append(slices.Clip(before), stmts...)...); err != nil {
		return nil, err
	}
	refused = make([]error, len(claims))
	for i := range claims {
		if !allowed[claims[i].ID] {
			if refused[i], err = r.refusal(ctx, tx, &claims[i]); err != nil {
				return nil, err
			}
		}
	}
	return refused, nil
}

func allowStmts(claims []Claim, byRow bool) []*db.Stmt {
	if byRow {
		stmts := make([]*db.Stmt, len(claims))
		for i := range claims {
			c := &claims[i]
			stmts[i] = &db.Stmt{SQL: allowRow, Args: []any{int64(c.Cell), c.ID[:], c.Policy}}
		}
		return stmts
	}
	n := len(claims)
	cells, ids, policies := make([]int16, n), make([][]byte, n), make([]int64, n)
	for i := range claims {
		c := &claims[i]
		cells[i], ids[i], policies[i] = int16(c.Cell), c.ID[:], c.Policy
	}
	return []*db.Stmt{{SQL: allowArray, Args: []any{cells, ids, policies}}}
}
