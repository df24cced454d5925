package device

import (
	"context"
	"strconv"

	"mooring/internal/base/db"
)

const spendToken = `UPDATE device SET token_used = $5, updated = $5 WHERE cell = $1 AND id = $2 AND state IN (1, 2) AND policy = $3
 AND token = $4 AND token_used = 0 AND token_until > $5`

// SpendTokenTx uses up the token with this hash for something else than a certificate, such as an account that stands for the device from then on.
// The error is that of TokenMatches, or says that the device may not enrol, or that it was changed meanwhile (Conflict). detail belongs into the
// entry about what it was used for, which names the device: from it Checker knows that the token is spent.
func (r *Registry) SpendTokenTx(ctx context.Context, tx *db.Tx, id ID, hash []byte, now int64) (detail map[string]string, err error) {
	d, err := r.loadTx(ctx, tx, id)
	if err != nil {
		return nil, err
	}
	if err := d.TokenMatches(hash, now); err != nil {
		return nil, err
	}
	if !d.State.Active() {
		return nil, StateRefusal(d.State)
	}
	n, err := tx.Exec(ctx, spendToken, int64(d.Cell), id[:], d.Policy, hash, now)
	if err := changed(n, err); err != nil {
		return nil, err
	}
	return spent(d.Policy, now), nil
}

// SpendStmt is SpendTokenTx as a statement, to be sent together with others: it must change one row. When it changes none SpendTokenTx says why, or
// succeeds, since the device was changed after p was looked up.
func (r *Registry) SpendStmt(p Presented, now int64) (stmt *db.Stmt, detail map[string]string) {
	return &db.Stmt{SQL: spendToken, Args: []any{int64(p.cell), p.ID[:], p.policy, p.hash, now}}, spent(p.policy, now)
}

func spent(policy, now int64) map[string]string {
	return map[string]string{"token_at": strconv.FormatInt(now, 10), "policy": strconv.FormatInt(policy, 10)}
}
