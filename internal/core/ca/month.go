package ca

import (
	"context"
	"fmt"
	"sync"
	"time"

	"mooring/internal/base/db"
)

// PostgreSQL keeps the ordinary certificates in partitions, one for each month of issue, so that a month that is over leaves as a whole: a
// statement that takes a moment, whatever the month held. Partitions are made months ahead by Run, and where Run does not run (commands that
// issue on a stopped installation) before the first certificate of a month is signed.

// month is a number of months since January 1970.
type month int64

func monthOf(day int64) month {
	t := time.Unix(day*86400, 0).UTC()
	return month((t.Year()-1970)*12 + int(t.Month()) - 1)
}

// first returns the first day of the month, since 1970.
func (m month) first() int64 {
	return time.Date(1970+int(m)/12, time.Month(int(m)%12+1), 1, 0, 0, 0, 0, time.UTC).Unix() / 86400
}

// String returns the month as people write it, such as "2026-03".
func (m month) String() string { return fmt.Sprintf("%04d-%02d", 1970+m/12, m%12+1) }

func (m month) partition() string { return fmt.Sprintf("cert_m%d", int64(m)) }

// monthsAhead is how many months have a partition before their time comes.
const monthsAhead = 3

// months remembers which months are known to have a partition. The zero value is ready.
type months struct {
	mu    sync.Mutex
	known map[month]bool // guarded by mu
}

func (ms *months) knows(m month) bool {
	ms.mu.Lock()
	defer ms.mu.Unlock()
	return ms.known[m]
}

func (ms *months) learn(m month, known bool) {
	ms.mu.Lock()
	defer ms.mu.Unlock()
	if ms.known == nil {
		ms.known = map[month]bool{}
	}
	ms.known[m] = known
}

// ready makes sure that a certificate of this day can be stored.
func (a *Authority) ready(ctx context.Context, day int64) error {
	m := monthOf(day)
	if !a.deps.DB.Arrays() || a.months.knows(m) {
		return nil
	}
	return a.makeMonth(ctx, m)
}

// makeMonth makes the partition of a month unless it is there. Whoever is first to insert the month's row makes it; others wait for that row.
func (a *Authority) makeMonth(ctx context.Context, m month) error {
	err := a.deps.DB.Do(ctx, func(ctx context.Context, tx *db.Tx) error {
		// A lock that is not to be had soon must not keep everybody behind us waiting; the transaction is run again.
		if _, err := tx.Exec(ctx, `SET LOCAL lock_timeout = '2s'`); err != nil {
			return err
		}
		n, err := tx.Exec(ctx, `INSERT INTO cert_month (cell, month, state) VALUES (0, $1, 1) ON CONFLICT DO NOTHING`, int64(m))
		if err != nil || n == 0 {
			return err
		}
		// Made apart and then attached: CREATE … PARTITION OF would lock cert against everybody.
		if _, err := tx.Exec(ctx, `CREATE TABLE `+m.partition()+` (LIKE cert INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING INDEXES INCLUDING STORAGE)`); err != nil {
			return err
		}
		_, err = tx.Exec(ctx, fmt.Sprintf(`ALTER TABLE cert ATTACH PARTITION %s FOR VALUES FROM (%d) TO (%d)`, m.partition(), m.first(), (m+1).first()))
		return err
	})
	if err != nil {
		return fmt.Errorf("making the place for the certificates of %s: %w", m, err)
	}
	a.months.learn(m, true)
	return nil
}

// makeMonths makes the partitions of this month and the next ones.
func (a *Authority) makeMonths(ctx context.Context) error {
	if !a.deps.DB.Arrays() {
		return nil
	}
	for m := monthOf(a.deps.Now().Unix() / 86400); m <= monthOf(a.deps.Now().Unix()/86400)+monthsAhead; m++ {
		if a.months.knows(m) {
			continue
		}
		if err := a.makeMonth(ctx, m); err != nil {
			return err
		}
	}
	return nil
}
