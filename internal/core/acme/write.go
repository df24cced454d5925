package acme

import (
	"context"

	"mooring/internal/base/db"
	"mooring/internal/base/errs"
)

// write is a change of one order. Those of many orders share a commit, which is most of what a change costs.
type write struct {
	order ID
	do    func(ctx context.Context, tx *db.Tx) error
}

func (w *write) key() db.Key { return db.Key{Cell: w.order[0], ID: w.order} }

// write runs do in a transaction with the changes of other orders. An error of do is a refusal and has changed nothing, unless the store is at fault.
func (s *Service) write(ctx context.Context, order ID, do func(ctx context.Context, tx *db.Tx) error) error {
	return s.writes.Do(ctx, &write{order, do})
}

func applyWrites(ctx context.Context, tx *db.Tx, batch []*write) ([]error, error) {
	refused := make([]error, len(batch))
	for i, w := range batch {
		switch err := w.do(ctx, tx); errs.KindOf(err) {
		case errs.Internal, errs.Unavailable:
			if err != nil {
				return nil, err
			}
		default:
			refused[i] = err
		}
	}
	return refused, nil
}
