package acme

import (
	"context"
	"time"

	"mooring/internal/base/db"
	"mooring/internal/core/access"
	"mooring/internal/core/audit"
)

const (
	leaseName  = "acme"
	purgeEvery = time.Minute
	purgeBatch = 500
)

// pause waits, or returns false when ctx ends.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// purge takes away what has expired, until ctx ends.
func (s *Service) purge(ctx context.Context, l *db.Lease) error {
	for {
		if err := s.Purge(ctx, l); err != nil {
			return err
		}
		if !pause(ctx, purgeEvery) {
			return nil
		}
	}
}

// Purge takes away once what has expired: orders after their time, nonces that are too old to be used, open accounts that order nothing, and
// accounts that ended. Whoever holds the lease hands it over; nil is for tests.
func (s *Service) Purge(ctx context.Context, l *db.Lease) error {
	if err := s.storeDrafts(ctx, func(x *draft) bool { return x.taken == 0 }); err != nil {
		return err
	}
	now := s.Now().Unix()
	for _, step := range []struct {
		sql   string
		args  []any
		entry bool
	}{
		{`DELETE FROM acme_order WHERE id IN (SELECT id FROM acme_order WHERE id < $3 AND expires <= $1 ORDER BY id LIMIT $2)`, []any{now, int64(purgeBatch), madeBefore(now)}, false},
		{`DELETE FROM acme_nonce WHERE id IN (SELECT id FROM acme_nonce WHERE expires <= $1 ORDER BY expires LIMIT $2)`, []any{now, int64(purgeMost)}, false},
		// The first condition is that of the index.
		{`DELETE FROM acme_account WHERE id IN (SELECT id FROM acme_account WHERE (state <> 1 OR length(device) = 0)
 AND used <= $1 AND (state <> 1 AND used <= $3 OR device = $4 AND used <= $5) ORDER BY used, id LIMIT $2)`,
			[]any{now - int64(endedLife/time.Second), int64(purgeBatch), now - int64(endedLife/time.Second), []byte{}, now - int64(openLife/time.Second)}, true},
	} {
		for gone := int64(purgeBatch); gone >= purgeBatch && ctx.Err() == nil; {
			if err := s.DB.Do(ctx, func(ctx context.Context, tx *db.Tx) (err error) {
				if l != nil {
					if err := l.Fence(ctx, tx); err != nil {
						return err
					}
				}
				if gone, err = tx.Exec(ctx, step.sql, step.args...); gone > 0 {
					tx.OnCommit(func() { s.accounts.clear(); s.orderShelf.clear(); s.leaves.clear() })
				}
				if err != nil || gone == 0 || !step.entry {
					return err
				}
				return s.Audit.Append(ctx, tx, audit.Entry{At: now, Action: "acme.purge", Actor: access.System(protocol).String()})
			}); err != nil {
				return err
			}
		}
	}
	return nil
}

// madeBefore is an id beyond those of all orders that have expired at a time. Each row's own expiry decides; the minute is for clocks that are set.
func madeBefore(now int64) []byte {
	id := idAt(time.Unix(now, 0).Add(time.Minute - orderLife))
	return id[:]
}

// count keeps the number of orders, until ctx ends. It is a bound and no exact figure: other nodes add to it meanwhile.
func (s *Service) count(ctx context.Context) {
	for {
		var n int64
		err := s.DB.View(ctx, func(ctx context.Context, tx *db.Tx) error {
			_, err := tx.Get(ctx, []any{&n}, `SELECT count(*) FROM (SELECT 1 AS one FROM acme_order LIMIT $1) AS o`, int64(maxOrders))
			return err
		})
		if err == nil {
			s.orders.Store(n)
		}
		if !pause(ctx, purgeEvery) {
			return
		}
	}
}
