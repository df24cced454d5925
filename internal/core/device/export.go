package device

import (
	"context"

	"mooring/internal/base/db"
)

// EachTx calls fn for every device that passes f, in the order of the table, all in the state of the database that tx sees. It asks nobody for
// permission. fn runs no statement of tx.
func (r *Registry) EachTx(ctx context.Context, tx *db.Tx, f Filter, fn func(*Device) error) error {
	if err := f.check(); err != nil {
		return err
	}
	for at := (position{kind: cursorPlain, id: []byte{}}); ; {
		page, err := f.candidates(ctx, tx, at, pageMost)
		if err != nil {
			return err
		}
		for i := range page {
			if f.passes(&page[i]) {
				if err := fn(&page[i]); err != nil {
					return err
				}
			}
			at = position{kind: cursorPlain, cell: page[i].Cell, id: page[i].ID[:]}
		}
		if len(page) < pageMost {
			return nil
		}
	}
}
