package ca

import (
	"context"

	"mooring/internal/base/db"
)

// PostgreSQL keeps the ordinary certificates in partitions, one for each month of issue (db.Monthly). They are made months ahead by Run, and where
// Run does not run (commands that issue on a stopped installation) before the first certificate of a month is signed.

// month is the month of a certificate's issue.
type month = db.Month

func monthOf(day int64) month { return db.MonthOf(day * 86400) }

// newMonths are the partitions of the ordinary certificates.
func newMonths(d *db.DB) *db.Monthly {
	return &db.Monthly{DB: d, Table: tableOrdinary, Prefix: "cert_m", Register: "cert_month", Bound: func(m month) int64 { return m.Start() / 86400 }}
}

// monthsAhead is how many months have a partition before their time comes.
const monthsAhead = 3

// ready makes sure that a certificate of this day can be stored.
func (a *Authority) ready(ctx context.Context, day int64) error {
	return a.months.Ready(ctx, monthOf(day), 0)
}

// makeMonths makes the partitions of this month and the next ones.
func (a *Authority) makeMonths(ctx context.Context) error {
	return a.months.Ready(ctx, db.MonthOf(a.deps.Now().Unix()), monthsAhead)
}

// monthRow is a month that has a partition.
type monthRow struct {
	month   month
	givenUp bool
}

func (a *Authority) monthRows(ctx context.Context) (list []monthRow, err error) {
	rows, err := a.months.Months(ctx)
	for _, r := range rows {
		list = append(list, monthRow{r.Month, r.GivenUp})
	}
	return list, err
}
