package campaign

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"mooring/internal/base/db"
	"mooring/internal/base/errs"
	"mooring/internal/core/access"
	"mooring/internal/core/approve"
	"mooring/internal/core/device"
)

const (
	leaseName = "campaigns"
	pollEvery = time.Second
	fillStep  = 500 // devices that are taken in at once
	lookStep  = 200 // devices that are looked after at once
	lookMost  = 1000
)

// actor is who acts when nobody asked for it.
func actor() access.Actor { return access.System("campaign") }

// Run keeps this node's list of what runs, and, on the one node that holds the lease, does the work of the campaigns, until ctx ends.
func (s *Service) Run(ctx context.Context) error {
	done := make(chan error, 1)
	go func() { done <- s.DB.Lead(ctx, leaseName, s.lead) }()
	for {
		if err := s.refresh(ctx); err != nil && ctx.Err() == nil {
			s.Log.LogAttrs(ctx, slog.LevelWarn, "reading the campaigns failed; it is tried again", slog.Any("cause", err))
		}
		select {
		case <-time.After(pollEvery):
		case <-ctx.Done():
			return <-done
		}
	}
}

func (s *Service) lead(ctx context.Context, l *db.Lease) error {
	r := &runner{Service: s, lease: l, at: map[ID]map[Standing]turn{}}
	for {
		if err := r.round(ctx); err != nil {
			return err
		}
		select {
		case <-time.After(pollEvery):
		case <-s.work:
		case <-ctx.Done():
			return nil
		}
	}
}

// runner is the work of one holder of the lease.
type runner struct {
	*Service
	lease *db.Lease
	at    map[ID]map[Standing]turn // how far the look at the devices of each standing has come
}

// round does a step of the work of every campaign.
func (r *runner) round(ctx context.Context) error {
	var open []Campaign
	err := r.DB.View(ctx, func(ctx context.Context, tx *db.Tx) (err error) {
		open, err = readAll(ctx, tx, selects+` AND state < $1 ORDER BY id`, int64(Done))
		return err
	})
	if err != nil {
		return err
	}
	var failed []error
	for i := range open {
		c := &open[i]
		var err error
		switch c.State {
		case Draft:
			err = r.lookForApproval(ctx, c)
		case Running:
			err = r.advance(ctx, c)
		case Paused:
			err = r.closeOverdue(ctx, c)
		}
		if errs.Is(err, errs.Conflict) {
			continue // somebody else has moved it
		}
		if err != nil {
			failed = append(failed, fmt.Errorf("campaign %s: %w", c.Name, err)) // the others go on
		}
	}
	return errors.Join(append(failed, r.refresh(ctx))...)
}

// lookForApproval moves a draft on when the second person has decided.
func (r *runner) lookForApproval(ctx context.Context, c *Campaign) error {
	if c.Approval == (approve.ID{}) {
		return nil
	}
	a, err := r.Approve.Get(ctx, actor(), c.Approval)
	switch {
	case errs.Is(err, errs.NotFound): // long over, and forgotten
		return r.do(ctx, c, moveRefuse, "nobody approved it in time")
	case err != nil:
		return err
	case a.State == approve.Granted:
		return r.do(ctx, c, moveApprove, fmt.Sprintf("approved by %s; start it", a.Decider))
	case a.State == approve.Refused:
		return r.do(ctx, c, moveRefuse, "refused by "+a.Decider)
	case a.Over(r.Now()):
		return r.do(ctx, c, moveRefuse, "nobody approved it in time")
	}
	return nil
}

// do moves a campaign for a reason of the platform's own.
func (r *runner) do(ctx context.Context, c *Campaign, m move, note string) error {
	return r.DB.Do(ctx, func(ctx context.Context, tx *db.Tx) error {
		if err := r.lease.Fence(ctx, tx); err != nil {
			return err
		}
		present := *c // the transaction may run again
		return r.moveTx(ctx, tx, &present, actor(), m, func(_ context.Context, _ *db.Tx, c *Campaign, now int64) error {
			c.stop(now)
			if c.Note = note; m == moveFinish || m == moveRefuse || m == moveAbort {
				c.Ended = now
			}
			return nil
		})
	})
}

// advance takes in devices, looks after those whose turn has come, and stops or ends the campaign when it is time.
func (r *runner) advance(ctx context.Context, c *Campaign) error {
	if !c.Filled {
		if err := r.fill(ctx, c); err != nil {
			return err
		}
	}
	for _, standing := range []Standing{Closing, Issued, Told, Waiting, Failed, Skipped} {
		if err := r.look(ctx, c, standing); err != nil {
			return err
		}
	}
	var p Progress
	err := r.DB.View(ctx, func(ctx context.Context, tx *db.Tx) (err error) {
		p, err = progressTx(ctx, tx, c.ID)
		return err
	})
	if err != nil {
		return err
	}
	if p.Failed < c.Excused {
		return r.excuseLess(ctx, c, p.Failed)
	}
	failed := p.Failed - c.Excused
	switch now := r.Now().Unix(); {
	case failed > 0 && failed*whole > c.MaxFailed*p.reached():
		return r.do(ctx, c, movePause, fmt.Sprintf("paused by itself: %d of %d devices failed, more than %s", p.Failed, p.reached(), percent(c.MaxFailed)))
	case now >= c.Deadline && p.Closing > 0: // what succeeded at the deadline has old certificates to be revoked first
		r.nudge()
	case now >= c.Deadline:
		return r.do(ctx, c, moveFinish, fmt.Sprintf("its deadline came with %d of %d devices done", p.Done, p.Total()-p.Skipped))
	case c.Filled && p.Waiting+p.Told+p.Issued+p.Closing == 0 && p.Failed == 0:
		return r.do(ctx, c, moveFinish, fmt.Sprintf("all %d devices are done", p.Done))
	case c.Filled && p.Waiting+p.Told+p.Issued+p.Closing == 0 && now >= c.clockAt(c.Resumed, c.full()-c.Elapsed)+c.Patience:
		return r.do(ctx, c, moveFinish, fmt.Sprintf("%d devices are done, %d failed", p.Done, p.Failed))
	}
	return nil
}

// excuseLess forgets what a person excused as far as these devices have succeeded since: else others could fail in their place unnoticed.
func (r *runner) excuseLess(ctx context.Context, c *Campaign, failed int64) error {
	defer r.nudge()
	return r.DB.Do(ctx, func(ctx context.Context, tx *db.Tx) error {
		if err := r.lease.Fence(ctx, tx); err != nil {
			return err
		}
		present := *c // the transaction may run again
		return r.moveTx(ctx, tx, &present, actor(), moveExcuse, func(_ context.Context, _ *db.Tx, c *Campaign, _ int64) error {
			c.Excused = failed
			return nil
		})
	})
}

func (r *runner) closeOverdue(ctx context.Context, c *Campaign) error {
	if r.Now().Unix() < c.Deadline {
		return nil
	}
	return r.do(ctx, c, moveFinish, "its deadline came while it was paused: "+c.Note)
}

// fill takes in the next devices that fit, each with its place and the certificate that it has now.
func (r *runner) fill(ctx context.Context, c *Campaign) error {
	f := c.Filter
	f.Cursor, f.Limit = c.cursor, fillStep
	page, next, err := r.Devices.List(ctx, actor(), f)
	if err != nil {
		return err
	}
	if grown, err := r.outgrown(ctx, c, len(page)); err != nil || grown {
		return err
	}
	filled := int64(0)
	if next == "" {
		filled = 1
	}
	err = r.DB.Do(ctx, func(ctx context.Context, tx *db.Tx) error {
		if err := r.lease.Fence(ctx, tx); err != nil {
			return err
		}
		if n, err := tx.Exec(ctx, updateFill, c.ID[:], filled, next, c.cursor); err != nil || n != 1 {
			return errors.Join(err, errs.New(errs.Conflict, "taken in already"))
		}
		for i := range page {
			if err := r.takeIn(ctx, tx, c, &page[i]); err != nil {
				return err
			}
		}
		return nil
	})
	if err == nil {
		c.Filled, c.cursor = filled == 1, next
		if !c.Filled {
			r.nudge() // more at once
		}
	}
	return err
}

// outgrown ends a campaign that would now take in more devices than one person may decide about or, when a second one has agreed, by a tenth more
// than there were then.
func (r *runner) outgrown(ctx context.Context, c *Campaign, more int) (bool, error) {
	most, why := int64(r.AskAbove), fmt.Sprintf("more than %d devices fit by now, and for so many a second person must agree: make it again", r.AskAbove)
	switch {
	case c.Agreed > 0:
		most, why = c.Agreed+c.Agreed/10, fmt.Sprintf("a second person agreed to %d devices, and by now a tenth more than that fit: make it again", c.Agreed)
	case r.AskAbove < 0 || c.Approval != (approve.ID{}):
		return false, nil
	}
	var p Progress
	err := r.DB.View(ctx, func(ctx context.Context, tx *db.Tx) (err error) {
		p, err = progressTx(ctx, tx, c.ID)
		return err
	})
	if err != nil || p.Total()+int64(more) <= most {
		return false, err
	}
	return true, r.do(ctx, c, moveAbort, why)
}

func (r *runner) takeIn(ctx context.Context, tx *db.Tx, c *Campaign, d *device.Device) error {
	slot := r.slotOf(d)
	m := member{cell: d.Cell, device: d.ID, place: place(c.ID, d.ID), standing: Waiting, base: slot.Serial}
	switch {
	case len(slot.Serial) == 0:
		m.standing, m.note = Skipped, noCertificate
	case c.Action != Renew && (c.Algorithm != "" || c.To != "") && r.conforms(c, &slot):
		return nil // it has what is wanted
	case r.unfit(&c.Spec, d.Profile) != "":
		m.standing, m.note = Skipped, r.unfit(&c.Spec, d.Profile)
	}
	if m.base == nil {
		m.base = []byte{}
	}
	n, err := tx.Exec(ctx, insertMember, int64(m.cell), c.ID[:], m.device[:], m.place, int64(m.standing), r.Now().Unix(), m.base, m.note)
	if err == nil && n == 1 {
		_, err = tx.Exec(ctx, addCount, int64(m.cell), c.ID[:], int64(m.standing), int64(1))
	}
	return err
}

const noCertificate = "it has no certificate that could be renewed"

// look looks after devices of one standing, those whose turn has come, from where the last look ended.
func (r *runner) look(ctx context.Context, c *Campaign, standing Standing) error {
	if r.at[c.ID] == nil {
		r.at[c.ID] = map[Standing]turn{}
	}
	from, ok := r.at[c.ID][standing]
	if !ok {
		from = turn{place: -1, id: []byte{}}
	}
	for seen := 0; seen < lookMost; {
		var rows []member
		err := r.DB.View(ctx, func(ctx context.Context, tx *db.Tx) error {
			rows = nil
			return tx.Each(ctx, func(row db.Row) error {
				var m member
				err := m.scan(row)
				rows = append(rows, m)
				return err
			}, selectTurns, c.ID[:], int64(standing), from.place, from.id, c.released(r.Now().Unix()), int64(lookStep))
		})
		if err != nil {
			return err
		}
		if err := r.judge(ctx, c, rows); err != nil {
			return err
		}
		if len(rows) < lookStep {
			delete(r.at[c.ID], standing) // from the beginning next time
			return nil
		}
		last := rows[len(rows)-1]
		from = turn{place: last.place, id: last.device[:]}
		seen += len(rows)
	}
	r.at[c.ID][standing] = from
	return nil
}

// judge moves those of the devices that do not stand any more where their rows say.
func (r *runner) judge(ctx context.Context, c *Campaign, rows []member) error {
	type change struct {
		member
		to   Standing
		note string
	}
	var changes []change
	now := r.Now().Unix()
	for _, m := range rows {
		d, err := r.Devices.Load(ctx, m.device)
		if err != nil {
			return err
		}
		to, note := r.verdict(c, &m, &d, now)
		if to == Succeeded && m.standing == Closing {
			if err := r.revokeOld(ctx, c, &m, &d); err != nil {
				return err
			}
		}
		if to != m.standing {
			changes = append(changes, change{m, to, note})
		}
	}
	if len(changes) == 0 {
		return nil
	}
	return r.DB.Do(ctx, func(ctx context.Context, tx *db.Tx) error {
		if err := r.lease.Fence(ctx, tx); err != nil {
			return err
		}
		for _, ch := range changes {
			if err := ch.moveTx(ctx, tx, c.ID, ch.to, now, ch.note); err != nil {
				return err
			}
		}
		return nil
	})
}

// verdict says where a device stands, by what the registry says.
func (r *runner) verdict(c *Campaign, m *member, d *device.Device, now int64) (Standing, string) {
	slot := r.slotOf(d)
	done := r.fulfilled(c, &slot, m.base)
	switch {
	case m.standing == Closing:
		return Succeeded, ""
	case done && (c.ByIssue || now >= c.Deadline):
		return c.success(), ""
	case done:
		return Issued, ""
	case !d.State.Active():
		return Skipped, "it is " + d.State.String()
	case r.unfit(&c.Spec, d.Profile) != "":
		return Skipped, r.unfit(&c.Spec, d.Profile)
	case m.standing == Skipped && m.note != noCertificate:
		return Waiting, ""
	case m.standing == Issued: // what it got was taken back
		return Waiting, ""
	case m.standing == Told && now >= m.at+c.Patience:
		return Failed, fmt.Sprintf("told at %s, and has no new certificate since", clock(m.at))
	}
	return m.standing, m.note
}
