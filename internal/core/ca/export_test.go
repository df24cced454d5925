package ca

import (
	"context"

	"mooring/internal/base/db"
	"mooring/internal/core/access"
)

// GiveUpOnly gives up every month that is over and stops there, as a process does that is killed.
func (a *Authority) GiveUpOnly(ctx context.Context) (n int64, err error) {
	err = a.lead(ctx, func(ctx context.Context, l *db.Lease) error {
		k, err := a.newKeepers(ctx)
		if err != nil {
			return err
		}
		rows, err := a.monthRows(ctx)
		if err != nil {
			return err
		}
		for _, r := range rows {
			if r.month >= monthOf(max(k.lastDay(), 0)) {
				break
			}
			some, _, err := a.giveUp(ctx, l, access.System("test"), k, r.month)
			if n += some; err != nil {
				return err
			}
		}
		return nil
	})
	return n, err
}

// DetachOnly takes the given month out of the table without dropping it.
func (a *Authority) DetachOnly(ctx context.Context, unix int64) error {
	return a.deps.DB.Alone(ctx, `ALTER TABLE cert DETACH PARTITION `+a.months.Partition(monthOf(unix/86400))+` CONCURRENTLY`)
}
