package db

import (
	"context"
	"fmt"
	"sync"
	"time"

	"mooring/internal/base/errs"
)

// Month is a number of months since January 1970, in UTC.
type Month int64

// MonthOf returns the month of a time in UTC seconds.
func MonthOf(unix int64) Month {
	t := time.Unix(unix, 0).UTC()
	return Month((t.Year()-1970)*12 + int(t.Month()) - 1)
}

// Start returns the first second of the month.
func (m Month) Start() int64 {
	return time.Date(1970, time.January+time.Month(m), 1, 0, 0, 0, 0, time.UTC).Unix()
}

// String returns the month as people write it, such as "2026-03".
func (m Month) String() string { return time.Unix(m.Start(), 0).UTC().Format("2006-01") }

// Monthly is a table that PostgreSQL keeps in partitions, one for each month, so that a month that is over leaves as a whole: a statement that
// takes a moment, whatever the month held. There is no default partition, since it would be read through whenever another one is attached, so
// the partition must be there before the first row of a month is written (Ready, Ahead).
//
// A second table, the register, has the columns cell, month and state, and a row for each partition: state 1 it is in use, 2 it was given up and
// is being taken away. On SQLite there is neither, and the methods do nothing. It is safe for concurrent use.
type Monthly struct {
	DB       *DB
	Table    string
	Prefix   string // of the partitions' names, which the month's number follows
	Register string
	Bound    func(Month) int64 // the smallest value of the partition key in a month

	mu    sync.Mutex
	known map[Month]bool // guarded by mu
}

// Partition returns the name of a month's partition.
func (t *Monthly) Partition(m Month) string { return fmt.Sprintf("%s%d", t.Prefix, int64(m)) }

func (t *Monthly) knows(m Month) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.known[m]
}

func (t *Monthly) learn(m Month, known bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.known == nil {
		t.known = map[Month]bool{}
	}
	t.known[m] = known
}

// Ready makes sure that the month and so many after it have a partition.
func (t *Monthly) Ready(ctx context.Context, m Month, ahead int) error {
	if !t.DB.Arrays() {
		return nil
	}
	for last := m + Month(ahead); m <= last; m++ {
		if t.knows(m) {
			continue
		}
		if err := t.make(ctx, m); err != nil {
			return fmt.Errorf("making the place of %s in %s: %w", m, t.Table, err)
		}
	}
	return nil
}

// make makes the partition of a month unless it is there. Whoever is first to insert the month's row makes it; others wait for that row.
func (t *Monthly) make(ctx context.Context, m Month) error {
	err := t.DB.write(ctx, func(ctx context.Context, tx *Tx) error { // which BeforeWrites does not precede
		// A lock that is not to be had soon must not keep everybody behind us waiting; the transaction is run again.
		if _, err := tx.Exec(ctx, `SET LOCAL lock_timeout = '2s'`); err != nil {
			return err
		}
		n, err := tx.Exec(ctx, `INSERT INTO `+t.Register+` (cell, month, state) VALUES (0, $1, 1) ON CONFLICT DO NOTHING`, int64(m))
		if err != nil || n == 0 {
			return err
		}
		// Made apart and then attached: CREATE … PARTITION OF would lock the table against everybody.
		if _, err := tx.Exec(ctx, `CREATE TABLE `+t.Partition(m)+` (LIKE `+t.Table+` INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING INDEXES INCLUDING STORAGE)`); err != nil {
			return err
		}
		_, err = tx.Exec(ctx, fmt.Sprintf(`ALTER TABLE %s ATTACH PARTITION %s FOR VALUES FROM (%d) TO (%d)`, t.Table, t.Partition(m), t.Bound(m), t.Bound(m+1)))
		return err
	})
	if err == nil {
		t.learn(m, true)
	}
	return err
}

// MonthState is a month that has a partition.
type MonthState struct {
	Month   Month
	GivenUp bool
}

// Months returns the months that have a partition, in order.
func (t *Monthly) Months(ctx context.Context) (list []MonthState, err error) {
	if !t.DB.Arrays() {
		return nil, nil
	}
	err = t.DB.View(ctx, func(ctx context.Context, tx *Tx) error {
		list = nil
		return tx.Each(ctx, func(row Row) error {
			var s MonthState
			var state int64
			err := row.Scan((*int64)(&s.Month), &state)
			s.GivenUp = state == 2
			list = append(list, s)
			return err
		}, `SELECT month, state FROM `+t.Register+` WHERE cell = 0 ORDER BY month`)
	})
	if err != nil {
		return nil, fmt.Errorf("reading the months of %s: %w", t.Table, err)
	}
	return list, nil
}

// GiveUp decides in tx that a month is taken away: call TakeAway after the commit, again and again until it succeeds. A month that somebody else
// works on is a Conflict.
func (t *Monthly) GiveUp(ctx context.Context, tx *Tx, m Month) error {
	n, err := tx.Exec(ctx, `UPDATE `+t.Register+` SET state = 2 WHERE cell = 0 AND month = $1 AND state = 1`, int64(m))
	if err == nil && n != 1 {
		err = errs.New(errs.Conflict, "somebody else works on this month")
	}
	return err
}

// TakeAway takes a month that was given up out of the table, beside everything that reads and writes there, and drops it.
func (t *Monthly) TakeAway(ctx context.Context, l *Lease, m Month) error {
	var attached, pending bool
	err := t.DB.View(ctx, func(ctx context.Context, tx *Tx) error {
		attached, pending = false, false
		return tx.Each(ctx, func(row Row) error {
			attached = true
			return row.Scan(&pending)
		}, `SELECT inhdetachpending FROM pg_inherits WHERE inhrelid = to_regclass($1)`, t.Partition(m))
	})
	if err != nil {
		return err
	}
	switch {
	case pending: // somebody was interrupted
		err = t.DB.Alone(ctx, `ALTER TABLE `+t.Table+` DETACH PARTITION `+t.Partition(m)+` FINALIZE`)
	case attached:
		err = t.DB.Alone(ctx, `ALTER TABLE `+t.Table+` DETACH PARTITION `+t.Partition(m)+` CONCURRENTLY`)
	}
	if err != nil {
		return err
	}
	t.learn(m, false)
	return t.DB.Do(ctx, func(ctx context.Context, tx *Tx) error {
		if err := l.Fence(ctx, tx); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, `DROP TABLE IF EXISTS `+t.Partition(m)); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, `DELETE FROM `+t.Register+` WHERE cell = 0 AND month = $1 AND state = 2`, int64(m))
		return err
	})
}

// BeforeWrites has fn called before each writing transaction, and before each attempt of a group, begins; an error of fn is returned in its place.
// All that fn may write is a month's place (Monthly.Ready). It must be quick when there is nothing to do. Call it before the first write.
func (d *DB) BeforeWrites(fn func(ctx context.Context) error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.before = append(d.before[:len(d.before):len(d.before)], fn)
}

func (d *DB) prepare(ctx context.Context) error {
	d.mu.Lock()
	before := d.before
	d.mu.Unlock()
	for _, fn := range before {
		if err := fn(ctx); err != nil {
			return err
		}
	}
	return nil
}
