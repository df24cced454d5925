package job

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"time"

	"mooring/internal/base/db"
	"mooring/internal/base/errs"
	"mooring/internal/core/access"
	"mooring/internal/core/approve"
)

const (
	leaseName = "jobs"
	// pollEvery is how often the runner looks for what others did: approvals, jobs made on other nodes, times that have come.
	pollEvery  = time.Second
	cleanEvery = time.Minute
	// After a step a job rests for the restShare-th part of what the step took: whoever waits for the database has his turn when the step ends, and
	// what is computed beside the database has the processor meanwhile.
	restShare  = 4
	restMost   = 500 * time.Millisecond
	retryLeast = 2 * time.Second
	retryMost  = time.Minute
)

// actor is who moves a job when nobody asked for it.
func actor() access.Actor { return access.System("job") }

// Run works on the jobs, on the one node that holds the lease, until ctx ends.
func (s *Service) Run(ctx context.Context) error {
	return s.DB.Lead(ctx, leaseName, func(ctx context.Context, l *db.Lease) error {
		r := &runner{Service: s, lease: l, later: map[ID]delay{}, behind: map[ID]bool{}}
		for ctx.Err() == nil {
			busy, err := r.round(ctx)
			if err != nil {
				return err
			}
			if !busy {
				r.wait(ctx)
			}
		}
		return nil
	})
}

// runner is the work of one holder of the lease.
type runner struct {
	*Service
	lease   *db.Lease
	later   map[ID]delay // jobs that could not go on a moment ago
	behind  map[ID]bool  // jobs whose Rest was not called with last since their last step
	cleaned time.Time
}

type delay struct {
	until time.Time
	step  time.Duration
}

func (r *runner) wait(ctx context.Context) {
	t := time.NewTimer(pollEvery)
	defer t.Stop()
	select {
	case <-t.C:
	case <-r.work:
	case <-ctx.Done():
	}
}

// round does one step of every job that can go on, and reports whether any did.
func (r *runner) round(ctx context.Context) (busy bool, err error) {
	var open []Job
	err = r.DB.View(ctx, func(ctx context.Context, tx *db.Tx) error {
		open = nil
		return tx.Each(ctx, func(row db.Row) error {
			var j Job
			err := j.scan(row)
			open = append(open, j)
			return err
		}, selectJob+` AND state < 6 AND state <> 5 ORDER BY created, id`)
	})
	if err != nil {
		return false, fmt.Errorf("reading the jobs: %w", err)
	}
	r.settle(ctx, open)
	for i := range open {
		j := &open[i]
		if ctx.Err() != nil || r.Now().Before(r.later[j.ID].until) {
			continue
		}
		began := r.Now()
		worked, err := r.advance(ctx, j)
		if err != nil && ctx.Err() == nil {
			r.trouble(ctx, j, err)
			continue
		}
		delete(r.later, j.ID)
		if worked {
			busy = true
			pause(ctx, min(max(r.Now().Sub(began), 0)/restShare, restMost))
		}
	}
	if !busy && r.Now().Sub(r.cleaned) >= cleanEvery {
		r.cleaned = r.Now()
		return false, r.clean(ctx)
	}
	return busy, nil
}

// settle calls Rest for the last time for jobs that were paused or cancelled.
func (r *runner) settle(ctx context.Context, open []Job) {
	running := map[ID]bool{}
	for i := range open {
		running[open[i].ID] = open[i].State == Running
	}
	maps.DeleteFunc(r.later, func(id ID, _ delay) bool { _, open := running[id]; return !open })
	for id := range r.behind {
		if running[id] {
			continue
		}
		delete(r.behind, id)
		if j, err := r.find(ctx, id); err == nil {
			r.rest(ctx, j, true)
		}
	}
}

func (r *runner) rest(ctx context.Context, j Job, last bool) {
	if w := r.workers[j.Kind]; w.Rest != nil {
		w.Rest(ctx, j, last)
	}
}

func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// advance does what can be done for j now, one step at most, and reports whether it was work.
func (r *runner) advance(ctx context.Context, j *Job) (worked bool, err error) {
	w, err := r.worker(j.Kind)
	if err != nil {
		return false, err
	}
	if able, err := r.able(ctx, j.Maker); err != nil || !able {
		if err == nil {
			err = r.move(ctx, j, moveCancel, "whoever made it has lost his permission meanwhile, so nothing more is done")
		}
		return false, err
	}
	switch j.State {
	case Draft:
		return r.prepare(ctx, w, j)
	case Waiting:
		return false, r.lookForApproval(ctx, j)
	case Scheduled:
		if r.Now().Unix() < j.NotBefore {
			return false, nil
		}
		return true, r.begin(ctx, j)
	}
	if j.Next < j.Chunks {
		return true, r.step(ctx, w, j)
	}
	r.rest(ctx, *j, true)
	delete(r.behind, j.ID)
	return true, r.move(ctx, j, moveFinish, "")
}

// able reports whether maker may still do all that he could when he made a job: who is dismissed, or whose certificate was stolen, leaves nothing
// behind that goes off later.
func (r *runner) able(ctx context.Context, maker access.Actor) (bool, error) {
	if r.Role == nil {
		return true, nil
	}
	role, err := r.Role(ctx, maker)
	if err != nil {
		return false, errs.Wrap(errs.Unavailable, err, "the role of whoever made the job cannot be looked up")
	}
	has := access.Permissions(role)
	return !slices.ContainsFunc(access.Permissions(maker.Role), func(p access.Permission) bool { return !slices.Contains(has, p) }), nil
}

// trouble notes why j cannot go on, and ends it when waiting does not help.
func (r *runner) trouble(ctx context.Context, j *Job, err error) {
	d := min(max(2*r.later[j.ID].step, retryLeast), retryMost)
	r.later[j.ID] = delay{r.Now().Add(d), d}
	if errors.Is(err, errMoved) { // somebody paused it, or gave a word on it
		delete(r.later, j.ID)
		return
	}
	r.counts.troubles.Add(1)
	r.Log.LogAttrs(ctx, slog.LevelWarn, "a job cannot go on at present", slog.String("job", j.ID.String()), slog.String("kind", string(j.Kind)), slog.Any("cause", err))
	passing := errs.Is(err, errs.Unavailable) || errs.Is(err, errs.Conflict) || errs.Is(err, errs.Limited)
	var failed error
	switch {
	case !passing && (j.State == Running || j.State == Draft):
		failed = r.move(ctx, j, moveBreak, errs.Public(err))
		delete(r.later, j.ID) // whoever resumes it does not want to wait
	case clean(errs.Public(err)) != j.Note:
		_, failed = r.alter(ctx, actor(), j.ID, func(_ context.Context, _ *db.Tx, j *Job) error { j.Note = clean(errs.Public(err)); return nil })
	}
	if failed != nil && ctx.Err() == nil {
		r.Log.LogAttrs(ctx, slog.LevelWarn, "why a job cannot go on could not be noted", slog.String("job", j.ID.String()), slog.Any("cause", failed))
	}
}

// move changes the state of the job as it was read.
func (r *runner) move(ctx context.Context, was *Job, m move, note string) error {
	return r.write1(ctx, was, actionMove, func(ctx context.Context, tx *db.Tx, j *Job) (err error) {
		if j.State == Waiting && m == moveCancel {
			if err := r.Approve.Withdraw(ctx, tx, actor(), r.act(j)); err != nil {
				return err
			}
		}
		if j.State, err = j.State.after(m); err != nil {
			return err
		}
		j.Note = clean(note)
		r.close(j)
		return nil
	})
}

// write1 writes what fn makes of the job as it was read, under the lease, unless somebody wrote it since.
func (r *runner) write1(ctx context.Context, was *Job, action string, fn func(ctx context.Context, tx *db.Tx, j *Job) error) error {
	return r.DB.Do(ctx, func(ctx context.Context, tx *db.Tx) error {
		if err := r.lease.Fence(ctx, tx); err != nil {
			return err
		}
		// The lock on the row comes before the work, so that nobody's work is thrown away at the end.
		n, err := tx.Exec(ctx, `UPDATE job SET turn = turn WHERE cell = 0 AND id = $1 AND turn = $2`, was.ID[:], was.turn)
		if err != nil {
			return err
		}
		if n != 1 {
			return errMoved
		}
		j := *was
		j.Sample = append([]string{}, was.Sample...)
		if err := fn(ctx, tx, &j); err != nil {
			return err
		}
		return r.write(ctx, tx, &j, action, actor())
	})
}

// prepare looks for more items of a draft, and starts it when it is ready and shall not wait to be looked at.
func (r *runner) prepare(ctx context.Context, w Worker, j *Job) (bool, error) {
	switch {
	case r.Now().Unix() > j.Created+int64(draftLife.Seconds()):
		return false, r.move(ctx, j, moveCancel, "nobody started it within a day")
	case j.Ready && !j.Auto:
		return false, nil
	case j.Ready && j.Total == 0:
		return false, r.move(ctx, j, moveCancel, "nothing fits, so there is nothing to do")
	case j.Ready:
		return true, r.write1(ctx, j, actionMove, r.startTx)
	}
	began := r.Now()
	part, err := w.Fill(ctx, *j)
	if err != nil {
		return false, err
	}
	return true, r.write1(ctx, j, actionFill, func(ctx context.Context, tx *db.Tx, j *Job) error {
		for _, text := range part.Sample {
			if len(j.Sample) < SampleMost {
				j.Sample = append(j.Sample, clean(text))
			}
		}
		j.Place, j.Ready = part.Place, part.End
		if part.Note != "" {
			j.Note = clean(part.Note)
		}
		j.Busy += r.since(began)
		if part.End {
			j.Busy = 0 // from now on it counts the work itself
		}
		return r.addItems(ctx, tx, j, w, (&Spec{Items: part.Items}).each())
	})
}

func (r *runner) since(t time.Time) time.Duration { return max(r.Now().Sub(t), 0) }

// lookForApproval moves j on when the second person has decided, or can no longer.
func (r *runner) lookForApproval(ctx context.Context, j *Job) error {
	var a approve.Approval
	var found bool
	err := r.DB.View(ctx, func(ctx context.Context, tx *db.Tx) (err error) {
		a, found, err = r.Approve.Look(ctx, tx, r.act(j))
		return err
	})
	switch {
	case err != nil:
		return err
	case !found:
		return r.move(ctx, j, moveCancel, "nobody approved it in time")
	case a.State == approve.Refused:
		return r.move(ctx, j, moveCancel, "a second person refused it (approval "+a.ID.String()+")")
	case a.State != approve.Granted:
		return nil
	}
	return r.write1(ctx, j, actionMove, func(ctx context.Context, tx *db.Tx, j *Job) (err error) {
		if _, err := r.Approve.Spend(ctx, tx, r.act(j)); err != nil {
			return err
		}
		j.State, err = j.State.after(moveApproved)
		j.schedule(r.Now())
		return err
	})
}

// begin lets the work start, once the items are found to be those that were looked at and approved.
func (r *runner) begin(ctx context.Context, j *Job) error {
	digest, total := [32]byte{}, int64(0)
	for n := int64(0); n < j.Chunks; n++ {
		body, items, err := r.chunk(ctx, j, n)
		if err != nil {
			return err
		}
		digest, total = chain(digest, body), total+items
	}
	if digest != j.Digest || total != j.Total {
		return r.move(ctx, j, moveCancel, "its items were changed outside the platform, so nothing more is done")
	}
	return r.write1(ctx, j, actionMove, func(_ context.Context, _ *db.Tx, j *Job) (err error) {
		j.State, err = j.State.after(moveDue)
		if j.Began == 0 {
			j.Began = r.Now().Unix()
		}
		return err
	})
}

func (r *runner) chunk(ctx context.Context, j *Job, n int64) (body []byte, items int64, err error) {
	err = r.DB.View(ctx, func(ctx context.Context, tx *db.Tx) error {
		found, err := tx.Get(ctx, []any{&items, &body}, `SELECT items, body FROM job_chunk WHERE cell = 0 AND job = $1 AND n = $2`, j.ID[:], n)
		if err == nil && !found {
			err = errs.New(errs.Invalid, "a part of its items is missing: it was taken away outside the platform")
		}
		return err
	})
	return body, items, err
}

// step has the worker handle the next chunk.
func (r *runner) step(ctx context.Context, w Worker, j *Job) error {
	body, n, err := r.chunk(ctx, j, j.Next)
	if err != nil {
		return err
	}
	items, err := decode(body, n)
	if err != nil {
		return err
	}
	r.behind[j.ID] = true
	b := &Batch{Job: *j, Items: items, run: r, keepAll: w.KeepAll, began: r.Now()}
	if err := w.Step(ctx, b); err != nil {
		return err
	}
	if !b.committed {
		return fmt.Errorf("the worker of %q did not commit its step", j.Kind)
	}
	r.rest(ctx, b.Job, false)
	return nil
}

// Batch is one step of a job.
type Batch struct {
	Job   Job // as it stands before the step, and after Commit as it stands then
	Items [][]byte

	run       *runner
	keepAll   bool
	began     time.Time
	committed bool
}

// Outcome is what a step made of its items. Done, Skipped and the results that are not OK add up to the items.
type Outcome struct {
	Done, Skipped int64
	Results       []Result
}

// Commit runs fn in the transaction that moves the job on: all of it happens or nothing. fn may run again, as in db.Do. When the job was
// paused, cancelled or taken over meanwhile the error is Conflict, fn was not run, and nothing happened.
func (b *Batch) Commit(ctx context.Context, fn func(ctx context.Context, tx *db.Tx) (Outcome, error)) error {
	r := b.run
	var after Job
	err := r.write1(ctx, &b.Job, actionStep, func(ctx context.Context, tx *db.Tx, j *Job) error {
		o, err := fn(ctx, tx)
		if err != nil {
			return err
		}
		failed := int64(0)
		for _, one := range o.Results {
			one.Item, one.Text = clean(one.Item), clean(one.Text)
			if !one.OK {
				failed++
			}
			if !one.OK && !b.keepAll && j.Failed+failed > ResultsMost {
				continue
			}
			if err := r.addResult(ctx, tx, j, one); err != nil {
				return err
			}
		}
		if o.Done+o.Skipped+failed != int64(len(b.Items)) {
			return fmt.Errorf("a step of %d items accounts for %d done, %d skipped and %d failed", len(b.Items), o.Done, o.Skipped, failed)
		}
		j.Done, j.Skipped, j.Failed, j.Next, j.Note = j.Done+o.Done, j.Skipped+o.Skipped, j.Failed+failed, j.Next+1, ""
		worked := r.since(b.began)
		j.Busy += worked + min(worked/restShare, restMost)
		after = *j
		after.turn++
		return nil
	})
	if err == nil {
		r.counts.steps.Add(1)
		r.counts.done.Add(after.Done - b.Job.Done)
		r.counts.failed.Add(after.Failed - b.Job.Failed)
		b.Job, b.committed = after, true
	}
	return err
}

// clean makes a text fit for every store and for the record: valid UTF-8 without NUL, and not without end.
func clean(text string) string {
	const most = 1000
	text = strings.ReplaceAll(strings.ToValidUTF8(text, "\ufffd"), "\x00", "\ufffd")
	if r := []rune(text); len(r) > most {
		text = string(r[:most]) + "…"
	}
	return text
}
