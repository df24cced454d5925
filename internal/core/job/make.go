package job

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"iter"
	"strings"
	"time"

	"mooring/internal/base/db"
	"mooring/internal/base/errs"
	"mooring/internal/core/access"
	"mooring/internal/core/approve"
)

// Spec is a job to be made.
type Spec struct {
	Kind   Kind
	Title  string // what it does, for people; it is kept, so it names nobody
	Params any    // becomes JSON
	Items  [][]byte
	// Each, when set, gives the items one by one in place of Items, for numbers that do not fit into memory. It is called within the transaction
	// that keeps the job, and may be called again. An item need not last longer than its turn.
	Each   iter.Seq2[[]byte, error]
	Sample []string
	// Also, when set, is done in the transaction that keeps the job, after everything else. It may run again.
	Also     func(ctx context.Context, tx *db.Tx, j Job) error
	Note     string        // what is to be known about the items
	AskAbove int64         // a second person must agree when there are more items; negative: never
	Undo     time.Duration // between start and first deed
	Start    bool          // as soon as its items are known; else it stays a draft, to be looked at
}

// Create makes a job: with spec.Items when its worker finds none by itself. It needs the permission of its worker. The error is Limited when too
// many jobs have not ended.
func (s *Service) Create(ctx context.Context, actor access.Actor, spec Spec) (Job, error) {
	w, err := s.worker(spec.Kind)
	if err != nil {
		return Job{}, err
	}
	if err := s.Access.Require(ctx, actor, w.Needs, "job of the kind "+string(spec.Kind)); err != nil {
		return Job{}, err
	}
	j, err := spec.job(w, actor, s.Now())
	if err != nil {
		return Job{}, err
	}
	made := j
	err = s.DB.Do(ctx, func(ctx context.Context, tx *db.Tx) error {
		made = j
		if err := s.makeRoom(ctx, tx); err != nil {
			return err
		}
		if err := s.addItems(ctx, tx, &made, w, spec.each()); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, insertJob, made.all()...); err != nil {
			return fmt.Errorf("keeping a job: %w", err)
		}
		tx.OnCommit(s.Nudge)
		if err := s.Audit.Append(ctx, tx, made.entry(actionCreate, actor, made.Created)); err != nil || spec.Also == nil {
			return err
		}
		return spec.Also(ctx, tx, made)
	})
	return made, err
}

// each returns the items, wherever they come from.
func (spec *Spec) each() iter.Seq2[[]byte, error] {
	if spec.Each != nil {
		return spec.Each
	}
	return func(yield func([]byte, error) bool) {
		for _, i := range spec.Items {
			if !yield(i, nil) {
				return
			}
		}
	}
}

// addItems keeps items in chunks that are small enough for one step.
func (s *Service) addItems(ctx context.Context, tx *db.Tx, j *Job, w Worker, items iter.Seq2[[]byte, error]) error {
	var body []byte
	n, most := 0, w.chunk()
	for i, err := range items {
		switch {
		case err != nil:
			return err
		case len(i) > itemMost:
			return errs.New(errs.Limited, "one of the %s takes more than %d octets", w.Unit, itemMost)
		case n == most || n > 0 && len(body)+len(i) > chunkSize:
			if err := s.addChunk(ctx, tx, j, body, n); err != nil {
				return err
			}
			body, n = body[:0], 0
		}
		body = appendItem(body, i)
		n++
	}
	return s.addChunk(ctx, tx, j, body, n)
}

func (w *Worker) chunk() int {
	if w.Chunk > 0 {
		return w.Chunk
	}
	return ChunkMost
}

func (spec *Spec) job(w Worker, actor access.Actor, now time.Time) (Job, error) {
	params, err := json.Marshal(spec.Params)
	switch {
	case err != nil:
		return Job{}, fmt.Errorf("encoding what a job is to do: %w", err)
	case len(params) > paramsMost:
		return Job{}, errs.New(errs.Limited, "what the job is to do takes more than %d octets to say", paramsMost)
	case len(spec.Items) == 0 && spec.Each == nil && w.Fill == nil:
		return Job{}, errs.New(errs.Invalid, "there is nothing to do: no %s were named", w.Unit)
	case spec.Undo < 0 || spec.Undo > undoMost:
		return Job{}, errs.New(errs.Invalid, "undo: the time to think better of it is 0s to %d days", undoMost/(24*time.Hour))
	}
	spec.Title = clean(spec.Title)
	j := Job{Kind: spec.Kind, State: Draft, Title: spec.Title, Params: string(params), Ready: len(spec.Items) > 0 || spec.Each != nil, Auto: spec.Start,
		Maker: actor, AskAbove: spec.AskAbove, Undo: spec.Undo.Truncate(time.Second), Created: now.Unix(), Note: clean(spec.Note), kept: true, turn: 1}
	for _, text := range spec.Sample[:min(len(spec.Sample), SampleMost)] {
		j.Sample = append(j.Sample, clean(text))
	}
	rand.Read(j.ID[:])
	return j, nil
}

// makeRoom refuses when too many jobs have not ended.
func (s *Service) makeRoom(ctx context.Context, tx *db.Tx) error {
	var open int64
	_, err := tx.Get(ctx, []any{&open}, `SELECT count(*) FROM job WHERE cell = 0 AND state < 6`)
	if err == nil && open >= openMost {
		err = errs.WithRetry(errs.New(errs.Limited, "%d jobs have not ended yet: wait for some, or cancel them", open), time.Minute)
	}
	return err
}

// Start ends the look at a draft: it goes on to a second person, or to the time to think better of it. Whoever made it starts it, and needs the
// permission of its worker. While its items are still looked for the error is Conflict.
func (s *Service) Start(ctx context.Context, actor access.Actor, id ID) (Job, error) {
	return s.change(ctx, actor, id, func(ctx context.Context, tx *db.Tx, j *Job) error {
		if j.Maker.String() != actor.String() {
			return errs.New(errs.Denied, "only whoever made the job can start it; you can cancel it, or make one like it")
		}
		if !j.Ready && j.State == Draft {
			return errs.New(errs.Conflict, "the %s are still being looked for, %d so far: start it when that has ended", s.Unit(j.Kind), j.Total)
		}
		return s.startTx(ctx, tx, j)
	})
}

// startTx moves a draft on.
func (s *Service) startTx(ctx context.Context, tx *db.Tx, j *Job) (err error) {
	if j.Total == 0 && j.State == Draft {
		return errs.New(errs.Conflict, "there is nothing to do: nothing fits")
	}
	m := moveStart
	if j.AskAbove >= 0 {
		before, err := s.lately(ctx, tx, j)
		if err != nil {
			return err
		}
		if before+j.Total > j.AskAbove {
			m = moveAsk
		}
	}
	if j.State, err = j.State.after(m); err != nil {
		return err
	}
	if m == moveStart {
		j.schedule(s.Now())
		return nil
	}
	a, err := s.Approve.Request(ctx, tx, j.Maker, s.act(j), 0)
	if err != nil {
		return err
	}
	j.Note = fmt.Sprintf("more than %d %s within a day need a second person: approval %s waits", j.AskAbove, s.Unit(j.Kind), a.ID)
	return nil
}

// lately returns how many items the maker's other jobs of the kind had within a day that were few enough to need nobody else: much in small
// portions is much.
func (s *Service) lately(ctx context.Context, tx *db.Tx, j *Job) (n int64, err error) {
	_, err = tx.Get(ctx, []any{&n}, `SELECT COALESCE(SUM(total), 0) FROM job WHERE cell = 0 AND created > $1 AND kind = $2 AND maker_id = $3
 AND state IN (3, 4, 5, 6, 8) AND total <= ask_above AND id <> $4`, s.Now().Add(-24*time.Hour).Unix(), string(j.Kind), j.Maker.ID, j.ID[:])
	return n, err
}

// schedule sets when the first deed may be done.
func (j *Job) schedule(now time.Time) {
	j.NotBefore, j.Note = now.Add(j.Undo).Unix(), ""
}

// titleMost is how many octets of a title the second person is shown.
const titleMost = 600

// act describes the job for the second person: with all its items, and nothing that changes afterwards.
func (s *Service) act(j *Job) approve.Act {
	h := sha256.New()
	for _, text := range []string{string(j.ID[:]), string(j.Kind), j.Params, string(j.Digest[:]), fmt.Sprint(j.Total), fmt.Sprint(int64(j.Undo / time.Second))} {
		fmt.Fprintf(h, "%d:%s", len(text), text)
	}
	title := j.Title
	if len(title) > titleMost { // whoever named a file at length shall not push the number out of sight
		title = strings.ToValidUTF8(title[:titleMost], "") + "…"
	}
	return approve.Act{Kind: approve.Kind(j.Kind), Object: j.object(), Digest: [32]byte(h.Sum(nil)), Needs: s.workers[j.Kind].Needs,
		Summary: fmt.Sprintf("%s: %d %s", title, j.Total, s.Unit(j.Kind))}
}

// Pause stops a job before its next step. It needs job.manage.
func (s *Service) Pause(ctx context.Context, actor access.Actor, id ID) (Job, error) {
	return s.manage(ctx, actor, id, movePause, "paused by "+actor.String())
}

// Cancel ends a job before its next step. What was done stays done. It needs job.manage. The error is Conflict when the job has begun and its
// worker's jobs are brought to their end.
func (s *Service) Cancel(ctx context.Context, actor access.Actor, id ID) (Job, error) {
	return s.manage(ctx, actor, id, moveCancel, "cancelled by "+actor.String())
}

// Resume lets a paused or failed job go on; one that failed before it was started is a draft again. It needs job.manage and the permission of
// its worker.
func (s *Service) Resume(ctx context.Context, actor access.Actor, id ID) (Job, error) {
	return s.manage(ctx, actor, id, moveResume, "")
}

func (s *Service) manage(ctx context.Context, actor access.Actor, id ID, m move, note string) (Job, error) {
	if err := s.Access.Require(ctx, actor, access.JobManage, "job "+id.String()); err != nil {
		return Job{}, err
	}
	need := s.change
	if m != moveResume {
		need = s.alter // to stop something takes no right to do it
	}
	return need(ctx, actor, id, func(ctx context.Context, tx *db.Tx, j *Job) (err error) {
		was := j.State
		if m == moveCancel && j.Began != 0 && s.workers[j.Kind].Whole && !was.Ended() {
			return errs.New(errs.Conflict, "the job has begun, and jobs of this kind are done whole or not at all: pause it, or let it end and undo what it did")
		}
		if was == Waiting && m == moveCancel {
			if err := s.Approve.Withdraw(ctx, tx, actor, s.act(j)); err != nil {
				return err
			}
		}
		if j.State, err = was.after(m); err != nil {
			return err
		}
		if was == Failed && j.Began == 0 {
			j.State = Draft // its search failed, so that nobody has looked at it, agreed to it, or had time to think better of it
		}
		j.Note = note
		s.close(j)
		return nil
	})
}

// close sets what goes with the end of a job.
func (s *Service) close(j *Job) {
	j.Ended = 0
	if j.State.Ended() {
		j.Ended = s.Now().Unix()
	}
	if j.State == Done || j.State == Aborted {
		j.kept = false // a failed one may be resumed
	}
}

// change alters a job for an actor who must have the permission of its worker.
func (s *Service) change(ctx context.Context, actor access.Actor, id ID, fn func(ctx context.Context, tx *db.Tx, j *Job) error) (Job, error) {
	if err := s.Access.Require(ctx, actor, access.JobRead, "job "+id.String()); err != nil {
		return Job{}, err
	}
	j, err := s.find(ctx, id)
	if err != nil {
		return Job{}, err
	}
	w, err := s.worker(j.Kind)
	if err != nil {
		return Job{}, err
	}
	if err := s.Access.Require(ctx, actor, w.Needs, j.object()); err != nil {
		return Job{}, err
	}
	return s.alter(ctx, actor, id, fn)
}

// alter writes what fn makes of a job, in one transaction.
func (s *Service) alter(ctx context.Context, actor access.Actor, id ID, fn func(ctx context.Context, tx *db.Tx, j *Job) error) (j Job, err error) {
	for range 20 { // a job that runs is written at every step
		err = s.DB.Do(ctx, func(ctx context.Context, tx *db.Tx) error {
			if j, err = readTx(ctx, tx, id); err != nil {
				return err
			}
			if err := fn(ctx, tx, &j); err != nil {
				return err
			}
			tx.OnCommit(s.Nudge)
			return s.write(ctx, tx, &j, actionMove, actor)
		})
		if err != errMoved {
			break
		}
	}
	if err != nil {
		return Job{}, err
	}
	return j, nil
}

// Nudge tells this process's runner, if it has the lease, that there may be something to do, such as when an approval was decided. Without it
// the runner sees it within a second.
func (s *Service) Nudge() {
	select {
	case s.work <- struct{}{}:
	default:
	}
}
