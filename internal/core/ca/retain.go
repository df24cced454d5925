package ca

import (
	"context"
	"log/slog"
	"time"

	"mooring/internal/base/db"
	"mooring/internal/base/errs"
	"mooring/internal/core/access"
	"mooring/internal/core/audit"
)

// RetentionOptions say when certificates leave that their profiles keep no longer.
type RetentionOptions struct {
	Hold  bool          // nothing leaves, whatever profiles say: somebody may need it as evidence
	Every time.Duration // how often Run looks for what is over; 0 means 6 hours
	Slack time.Duration // for so long after its end a certificate stays in any case: as long as a CRL that names it may be in use
}

const (
	retentionLease = "cert-retention"
	monthsEvery    = 10 * time.Minute // how often Run looks for months that need a place
	retentionWait  = 30 * time.Second // for another node that is at it
)

// Purged is what one pass did.
type Purged struct {
	Certificates int64    // that left
	Months       []string // that left as a whole
}

// Run makes places for the certificates of the months to come and deletes what is over, until ctx ends. Several nodes take turns.
func (a *Authority) Run(ctx context.Context) error {
	every := a.deps.Retention.Every
	if every == 0 {
		every = 6 * time.Hour
	}
	months, briefs, passes := time.NewTicker(monthsEvery), time.NewTicker(briefEvery), time.NewTicker(every)
	defer months.Stop()
	defer briefs.Stop()
	defer passes.Stop()
	a.note(ctx, "the places for the certificates of the next months could not be made", a.makeMonths(ctx))
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-months.C:
			a.note(ctx, "the places for the certificates of the next months could not be made", a.makeMonths(ctx))
		case <-briefs.C:
			a.note(ctx, "the rows of certificates recorded in brief that have ended could not all be deleted", a.forgetBrief(ctx))
		case <-passes.C:
			done, err := a.purge(ctx, access.System("retention"))
			a.note(ctx, "deleting certificates that are over did not come to its end", err)
			if done.Certificates > 0 {
				a.deps.Log.LogAttrs(ctx, slog.LevelInfo, "certificates left after their retention", slog.Int64("certificates", done.Certificates), slog.Any("months", done.Months))
			}
		}
	}
}

func (a *Authority) note(ctx context.Context, text string, err error) {
	if err != nil && ctx.Err() == nil {
		a.deps.Log.LogAttrs(ctx, slog.LevelError, text, slog.Any("cause", err))
	}
}

// Purge deletes what is over now. It needs ca.manage. While nothing may leave (Hold) it is a Conflict.
func (a *Authority) Purge(ctx context.Context, actor access.Actor) (Purged, error) {
	if err := a.deps.Access.Require(ctx, actor, access.CAManage, "retention"); err != nil {
		return Purged{}, err
	}
	if a.deps.Retention.Hold {
		return Purged{}, errs.New(errs.Conflict, "retention.hold is set: nothing is deleted until it is taken out of the configuration and the server is started anew")
	}
	return a.purge(ctx, actor)
}

// purge is one pass, under the lease.
func (a *Authority) purge(ctx context.Context, actor access.Actor) (done Purged, err error) {
	if a.deps.Retention.Hold {
		return Purged{}, nil
	}
	err = a.lead(ctx, func(ctx context.Context, l *db.Lease) error {
		if err := a.sweepBrief(ctx, l); err != nil {
			return err
		}
		k, err := a.newKeepers(ctx)
		if err != nil {
			return err
		}
		tables := []string{tableOrdinary, tableLong}
		if a.deps.DB.Arrays() {
			tables = tables[1:] // ordinary ones leave by the month
			if done.Certificates, done.Months, err = a.dropMonths(ctx, l, actor, k); err != nil {
				return err
			}
		}
		for _, table := range tables {
			n, err := a.sweep(ctx, l, actor, k, table)
			done.Certificates += n
			if err != nil {
				return err
			}
		}
		return nil
	})
	return done, err
}

// lead runs fn once under the lease. When another node holds it for longer than half a minute, the error is Unavailable.
func (a *Authority) lead(ctx context.Context, fn func(context.Context, *db.Lease) error) (result error) {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	begun := false
	patience := time.AfterFunc(retentionWait, stop)
	defer patience.Stop()
	err := a.deps.DB.Lead(ctx, retentionLease, func(ctx context.Context, l *db.Lease) error {
		patience.Stop()
		begun = true
		result = fn(ctx, l)
		stop()
		return nil
	})
	if err == nil && !begun {
		return errs.WithRetry(errs.New(errs.Unavailable, "another server is deleting what is over; ask again later"), time.Minute)
	}
	if result == nil {
		result = err
	}
	return result
}

// RetentionState says what is kept for how long, and what left last.
type RetentionState struct {
	Hold     bool
	Slack    time.Duration
	Profiles []*Profile
	Months   []string // that have a place of their own, on PostgreSQL
	Last     []audit.Indexed
}

// mostPurges is how many of the last entries RetentionState shows.
const mostPurges = 20

// RetentionState returns how things stand. It needs cert.read.
func (a *Authority) RetentionState(ctx context.Context, actor access.Actor) (RetentionState, error) {
	if err := a.deps.Access.Require(ctx, actor, access.CertRead, "retention"); err != nil {
		return RetentionState{}, err
	}
	s := RetentionState{Hold: a.deps.Retention.Hold, Slack: a.deps.Retention.Slack, Profiles: a.deps.Profiles.All()}
	if a.deps.DB.Arrays() {
		rows, err := a.monthRows(ctx)
		if err != nil {
			return s, err
		}
		for _, r := range rows {
			s.Months = append(s.Months, r.month.String())
		}
	}
	var err error
	s.Last, err = a.deps.Audit.List(ctx, access.System("ca"), audit.Query{Action: ActionPurge, Newest: true, Limit: mostPurges})
	return s, err
}
