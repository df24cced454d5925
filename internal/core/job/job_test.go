package job

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/fstest"
	"time"

	"golang.org/x/mod/sumdb/note"

	"mooring/internal/base/db"
	"mooring/internal/base/db/dbtest"
	"mooring/internal/base/errs"
	"mooring/internal/core/access"
	"mooring/internal/core/approve"
	"mooring/internal/core/audit"
)

var (
	anna   = access.Actor{Kind: access.KindOperator, ID: "aa", Role: access.RoleOperator, Via: "api"}
	bert   = access.Actor{Kind: access.KindOperator, ID: "bb", Role: access.RoleOperator, Via: "api"}
	reader = access.Actor{Kind: access.KindOperator, ID: "cc", Role: access.RoleAuditor, Via: "api"}
)

// world is the service with a worker that strikes names off a list, each with a row of its own, so that one that was struck twice shows.
type world struct {
	*Service
	log      *audit.Log
	now      *atomic.Int64
	tampered bool

	mu     sync.Mutex
	hook   func(b *Batch) error // guarded by mu; called before each step
	rested []string             // guarded by mu
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{now: &atomic.Int64{}}
	w.now.Store(1_800_000_000)
	clock := func() time.Time { return time.Unix(w.now.Load(), 0) }
	signer, vkey, err := audit.NoteKey("test", make([]byte, 32))
	must(t, err)
	verifier, err := note.NewVerifier(vkey)
	must(t, err)
	d := dbtest.Open(t, audit.Schema(), approve.Schema(), Schema(), struckSchema())
	w.log = audit.New(d, audit.Options{Origin: "test", Signer: signer, Verifier: verifier, BatchKey: make([]byte, 32), Now: clock})
	decider := access.NewDecider(w.log)
	w.Service = New(Deps{DB: d, Audit: w.log, Access: decider, Now: clock, Approve: approve.New(approve.Deps{DB: d, Audit: w.log, Access: decider, Now: clock})})
	w.Register(Worker{Kind: "strike", Needs: access.CertRevoke, Unit: "names", Fill: w.fill, Step: w.step, Rest: func(_ context.Context, j Job, last bool) {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.rested = append(w.rested, fmt.Sprint(j.State, j.Handled(), last))
	}})
	t.Cleanup(func() {
		if !w.tampered {
			for _, f := range w.findings(t) {
				t.Errorf("the record does not verify: %s", f)
			}
		}
	})
	return w
}

// fill finds names 0 to N-1, given as params, three at a time.
func (w *world) fill(_ context.Context, j Job) (Part, error) {
	var n, from int
	if _, err := fmt.Sscan(j.Params, &n); err != nil {
		return Part{}, err
	}
	if j.Place != "" {
		if _, err := fmt.Sscan(j.Place, &from); err != nil {
			return Part{}, err
		}
	}
	p := Part{Place: fmt.Sprint(from + 3), End: from+3 >= n}
	for i := from; i < min(from+3, n); i++ {
		p.Items = append(p.Items, fmt.Appendf(nil, "name-%d", i))
		p.Sample = append(p.Sample, fmt.Sprint("name-", i))
	}
	return p, nil
}

func (w *world) step(ctx context.Context, b *Batch) error {
	w.mu.Lock()
	hook := w.hook
	w.mu.Unlock()
	if hook != nil {
		if err := hook(b); err != nil {
			return err
		}
	}
	return b.Commit(ctx, func(ctx context.Context, tx *db.Tx) (o Outcome, err error) {
		for _, i := range b.Items {
			if strings.HasSuffix(string(i), "7") {
				o.Results = append(o.Results, Result{Item: string(i), Text: "a seven cannot be struck"})
				continue
			}
			if _, err := tx.Exec(ctx, `INSERT INTO struck (cell, name) VALUES (0, $1)`, string(i)); err != nil {
				return o, err // also when it stands there already
			}
			o.Done++
		}
		return o, nil
	})
}

func struckSchema() db.Schema {
	return db.Schema{Name: "struck", FS: fstest.MapFS{"00001_struck.sql": {Data: []byte("-- +goose Up\nCREATE TABLE struck (cell smallint NOT NULL, name text NOT NULL, PRIMARY KEY (cell, name));\n")}}}
}

func (w *world) struck(t *testing.T) (n int) {
	t.Helper()
	must(t, w.DB.View(t.Context(), func(ctx context.Context, tx *db.Tx) error {
		_, err := tx.Get(ctx, []any{&n}, `SELECT count(*) FROM struck`)
		return err
	}))
	return n
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wants(t *testing.T, err error, kind errs.Kind, text string) {
	t.Helper()
	if !errs.Is(err, kind) || !strings.Contains(err.Error(), text) {
		t.Errorf("got %v, want %s %q", err, kind, text)
	}
}

func (w *world) findings(t *testing.T) []audit.Finding {
	t.Helper()
	report, err := w.log.Verify(context.WithoutCancel(t.Context()), audit.VerifyOptions{Checkers: []audit.Checker{w.Checker(), w.Approve.Checker()}})
	must(t, err)
	return report.Findings
}

// run starts a runner until the test ends or stop is called.
func (w *world) start(t *testing.T) (stop func()) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	ended := make(chan struct{})
	go func() { defer close(ended); _ = w.Run(ctx) }()
	stop = sync.OnceFunc(func() { cancel(); <-ended })
	t.Cleanup(stop)
	return stop
}

// until waits until the job passes.
func (w *world) until(t *testing.T, id ID, what string, pass func(j Job) bool) Job {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); ; {
		j, err := w.Get(t.Context(), reader, id)
		must(t, err)
		if pass(j) {
			return j
		}
		if time.Now().After(deadline) {
			t.Fatalf("waiting for %s: the job is %s, ready %v, %d of %d, %q", what, j.State, j.Ready, j.Handled(), j.Total, j.Note)
		}
		w.Nudge()
		time.Sleep(5 * time.Millisecond)
	}
}

func is(s State) func(Job) bool { return func(j Job) bool { return j.State == s } }

func (w *world) create(t *testing.T, spec Spec) Job {
	t.Helper()
	spec.Kind, spec.Title = "strike", "strike them off"
	j, err := w.Create(t.Context(), anna, spec)
	must(t, err)
	return j
}

func TestADraftIsLookedAtAndThenDone(t *testing.T) {
	w := newWorld(t)
	w.start(t)
	j := w.create(t, Spec{Params: 20, AskAbove: -1, Undo: time.Minute})
	j = w.until(t, j.ID, "the items", func(j Job) bool { return j.Ready })
	if j.State != Draft || j.Total != 20 || len(j.Sample) != SampleMost || j.Sample[3] != "name-3" {
		t.Errorf("got %+v", j)
	}
	_, err := w.Start(t.Context(), bert, j.ID)
	wants(t, err, errs.Denied, "only whoever made the job")
	_, err = w.Start(t.Context(), reader, j.ID)
	wants(t, err, errs.Denied, "cert.revoke")
	_, err = w.Pause(t.Context(), anna, j.ID)
	wants(t, err, errs.Conflict, "a job that is draft takes no pause: possible is start, cancel")
	j, err = w.Start(t.Context(), anna, j.ID)
	must(t, err)
	if j.State != Scheduled || j.NotBefore != w.now.Load()+60 {
		t.Errorf("started: got %s, not before %d", j.State, j.NotBefore)
	}
	time.Sleep(50 * time.Millisecond)
	if n := w.struck(t); n != 0 {
		t.Errorf("%d were struck in the time to think better of it", n)
	}
	w.now.Add(60)
	j = w.until(t, j.ID, "the end", is(Done))
	if j.Done != 18 || j.Failed != 2 || j.Skipped != 0 || w.struck(t) != 18 || j.Ended == 0 {
		t.Errorf("got %+v, %d struck", j, w.struck(t))
	}
	if m := w.Metrics(); m != (Metrics{Steps: 7, Done: 18, Failed: 2}) {
		t.Errorf("the counts: got %+v", m)
	}
	results, err := w.Results(t.Context(), reader, j.ID, 0, 0)
	must(t, err)
	if want := []Result{{Item: "name-7", Text: "a seven cannot be struck"}, {Item: "name-17", Text: "a seven cannot be struck"}}; !slices.Equal(results, want) {
		t.Errorf("got %v, want %v", results, want)
	}
	_, err = w.Cancel(t.Context(), anna, j.ID)
	wants(t, err, errs.Conflict, "it has ended")
	w.mu.Lock()
	defer w.mu.Unlock()
	if n := len(w.rested); n != 8 || w.rested[n-1] != "running 20 true" {
		t.Errorf("rested: %q", w.rested)
	}
}

func TestMuchNeedsASecondPerson(t *testing.T) {
	w := newWorld(t)
	w.start(t)
	few := w.create(t, Spec{Params: 3, AskAbove: 3, Start: true})
	w.until(t, few.ID, "the end of few", is(Done))
	j := w.create(t, Spec{Params: 13, AskAbove: 3, Start: true})
	// The names that were struck already would fail: begin behind them.
	j = w.until(t, j.ID, "the wait", is(Waiting))
	waiting, err := w.Approve.List(t.Context(), reader, false, 0)
	must(t, err)
	if len(waiting) != 1 || waiting[0].Summary != "strike them off: 13 names" || !strings.Contains(j.Note, waiting[0].ID.String()) {
		t.Fatalf("got %+v, note %q", waiting, j.Note)
	}
	_, err = w.Approve.Grant(t.Context(), anna, waiting[0].ID)
	wants(t, err, errs.Denied, "whoever asked")
	must(t, w.DB.Do(t.Context(), func(ctx context.Context, tx *db.Tx) error {
		_, err := tx.Exec(ctx, `DELETE FROM struck`)
		return err
	}))
	_, err = w.Approve.Grant(t.Context(), bert, waiting[0].ID)
	must(t, err)
	w.until(t, j.ID, "the end", is(Done))

	refused := w.create(t, Spec{Params: 13, AskAbove: 3, Start: true})
	w.until(t, refused.ID, "the wait", is(Waiting))
	waiting, err = w.Approve.List(t.Context(), reader, false, 0)
	must(t, err)
	_, err = w.Approve.Refuse(t.Context(), bert, waiting[0].ID)
	must(t, err)
	if j := w.until(t, refused.ID, "the refusal", is(Aborted)); !strings.Contains(j.Note, "second person refused") {
		t.Errorf("got %q", j.Note)
	}
	late := w.create(t, Spec{Params: 13, AskAbove: 3, Start: true})
	w.until(t, late.ID, "the wait", is(Waiting))
	w.now.Add(int64(approve.Life.Seconds()))
	if j := w.until(t, late.ID, "the end of the time", is(Aborted)); !strings.Contains(j.Note, "in time") {
		t.Errorf("got %q", j.Note)
	}
}

// TestACancelledJobNeedsNobody: with the job ends what was asked for it, granted or not.
func TestACancelledJobNeedsNobody(t *testing.T) {
	w := newWorld(t)
	for _, granted := range []bool{false, true} {
		j := w.create(t, Spec{Items: [][]byte{[]byte("a"), []byte("b")}, AskAbove: 1})
		j, err := w.Start(t.Context(), anna, j.ID)
		must(t, err)
		_, err = w.Start(t.Context(), anna, j.ID)
		wants(t, err, errs.Conflict, "a job that is waiting takes no start: possible is cancel")
		waiting, err := w.Approve.List(t.Context(), reader, false, 0)
		must(t, err)
		if len(waiting) != 1 {
			t.Fatalf("%d approvals wait, want 1", len(waiting))
		}
		if granted {
			_, err = w.Approve.Grant(t.Context(), bert, waiting[0].ID)
			must(t, err)
		}
		_, err = w.Cancel(t.Context(), anna, j.ID)
		must(t, err)
		a, err := w.Approve.Get(t.Context(), reader, waiting[0].ID)
		must(t, err)
		if a.State != approve.Refused || a.Decider != anna.String() {
			t.Errorf("granted %v, and the job cancelled: the approval is %s by %q", granted, a.State, a.Decider)
		}
		_, err = w.Approve.Grant(t.Context(), bert, a.ID)
		wants(t, err, errs.Conflict, "the request is refused already")
	}
	if f := w.findings(t); len(f) > 0 {
		t.Errorf("the record: %v", f)
	}
}

func TestPauseResumeCancel(t *testing.T) {
	w := newWorld(t)
	reached, goOn := make(chan struct{}), make(chan struct{})
	w.hook = func(b *Batch) error {
		if b.Job.Next == 2 {
			reached <- struct{}{}
			<-goOn
		}
		return nil
	}
	w.start(t)
	j := w.create(t, Spec{Params: 12, AskAbove: -1, Start: true})
	<-reached
	_, err := w.Pause(t.Context(), reader, j.ID)
	wants(t, err, errs.Denied, "job.manage")
	paused, err := w.Pause(t.Context(), bert, j.ID)
	must(t, err)
	if paused.State != Paused || paused.Done != 6 || paused.Note != "paused by operator:bb" {
		t.Errorf("got %+v", paused)
	}
	goOn <- struct{}{} // the step that was under way finds that it may not
	time.Sleep(50 * time.Millisecond)
	if n := w.struck(t); n != 6 {
		t.Errorf("%d were struck after the pause, want 6", n)
	}
	_, err = w.Resume(t.Context(), anna, j.ID)
	must(t, err)
	<-reached
	goOn <- struct{}{}
	j = w.until(t, j.ID, "the end", is(Done))
	if j.Done != 11 || j.Failed != 1 {
		t.Errorf("got %d done, %d failed", j.Done, j.Failed)
	}
	gone := w.create(t, Spec{Params: 12, AskAbove: -1, Undo: time.Hour, Start: true})
	w.until(t, gone.ID, "the time to think", is(Scheduled))
	_, err = w.Cancel(t.Context(), bert, gone.ID)
	must(t, err)
	w.now.Add(7200)
	w.Nudge()
	time.Sleep(50 * time.Millisecond)
	if n := w.struck(t); n != 11 {
		t.Errorf("%d are struck after a cancelled job, want 11", n)
	}
}

// TestTheNextHolderGoesOn ends the runner in the middle of steps, again and again.
func TestTheNextHolderGoesOn(t *testing.T) {
	w := newWorld(t)
	j := w.create(t, Spec{Params: 60, AskAbove: -1, Start: true})
	var steps atomic.Int64
	for round := 0; ; round++ {
		interrupt := make(chan struct{}, 1)
		var once sync.Once
		w.mu.Lock()
		w.hook = func(*Batch) error {
			if steps.Add(1)%3 == 0 {
				once.Do(func() { interrupt <- struct{}{} })
			}
			return nil
		}
		w.mu.Unlock()
		stop := w.start(t)
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			for {
				now, err := w.find(context.WithoutCancel(t.Context()), j.ID)
				if err != nil || now.State == Done {
					return
				}
				time.Sleep(2 * time.Millisecond)
			}
		}()
		select {
		case <-interrupt:
			stop()
			continue
		case <-ended:
			stop()
		}
		if round == 0 {
			t.Fatal("nothing was interrupted")
		}
		break
	}
	got, err := w.Get(t.Context(), reader, j.ID)
	must(t, err)
	if got.Done != 54 || got.Failed != 6 || w.struck(t) != 54 {
		t.Errorf("got %d done, %d failed, %d struck; want 54, 6, 54", got.Done, got.Failed, w.struck(t))
	}
}

func TestWhatCannotGoOnSaysWhy(t *testing.T) {
	w := newWorld(t)
	var fail atomic.Pointer[error]
	away := errs.New(errs.Unavailable, "the token is not there")
	fail.Store(&away)
	w.hook = func(*Batch) error {
		if e := fail.Load(); e != nil {
			return *e
		}
		return nil
	}
	w.start(t)
	j := w.create(t, Spec{Params: 6, AskAbove: -1, Start: true})
	w.until(t, j.ID, "the note", func(j Job) bool { return j.State == Running && j.Note == "the token is not there" })
	broken := errors.New("a bug")
	fail.Store(&broken)
	w.now.Add(3600)
	w.until(t, j.ID, "the failure", func(j Job) bool { return j.State == Failed && j.Note == "internal error" })
	fail.Store(nil)
	_, err := w.Resume(t.Context(), anna, j.ID)
	must(t, err)
	if j = w.until(t, j.ID, "the end", is(Done)); j.Done != 6 || j.Note != "" {
		t.Errorf("got %+v", j)
	}
	empty := w.create(t, Spec{Params: 0, AskAbove: -1, Start: true})
	w.until(t, empty.ID, "the end of nothing", is(Aborted))
	_, err = w.Create(t.Context(), reader, Spec{Kind: "strike"})
	wants(t, err, errs.Denied, "cert.revoke")
	_, err = w.Create(t.Context(), anna, Spec{Kind: "paint"})
	wants(t, err, errs.Unavailable, "another version")
}

func TestOldThingsGo(t *testing.T) {
	w := newWorld(t)
	w.start(t)
	j := w.create(t, Spec{Params: 20, AskAbove: -1, Start: true})
	draft := w.create(t, Spec{Items: [][]byte{[]byte("a"), []byte("b")}, Sample: []string{"a"}, AskAbove: -1})
	w.until(t, j.ID, "the end", is(Done))
	w.now.Add(int64(cleanEvery.Seconds()))
	rows := func(table string) (n int) {
		must(t, w.DB.View(t.Context(), func(ctx context.Context, tx *db.Tx) error {
			_, err := tx.Get(ctx, []any{&n}, `SELECT count(*) FROM `+table)
			return err
		}))
		return n
	}
	become := func(table string, want int) {
		t.Helper()
		for deadline := time.Now().Add(time.Minute); rows(table) != want; time.Sleep(5 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("%s has %d rows, want %d", table, rows(table), want)
			}
			w.Nudge()
		}
	}
	become("job_chunk", 1) // the draft's
	w.now.Add(int64(draftLife.Seconds()))
	if j := w.until(t, draft.ID, "the end of the draft", is(Aborted)); !strings.Contains(j.Note, "nobody started it") {
		t.Errorf("got %q", j.Note)
	}
	w.now.Add(int64(keepFor.Seconds()) + int64(cleanEvery.Seconds()) + 1)
	become("job", 0)
	become("job_result", 0)
	become("job_chunk", 0)
}

func TestListsPage(t *testing.T) {
	w := newWorld(t)
	for range 5 {
		w.create(t, Spec{Params: 1, AskAbove: -1})
		w.now.Add(1)
	}
	var seen []ID
	for f := (Filter{Limit: 2}); ; {
		page, next, err := w.List(t.Context(), reader, f)
		must(t, err)
		for _, j := range page {
			seen = append(seen, j.ID)
		}
		if f.Cursor = next; next == "" {
			break
		}
	}
	slices.SortFunc(seen, func(a, b ID) int { return strings.Compare(string(a[:]), string(b[:])) })
	if len(slices.Compact(seen)) != 5 {
		t.Errorf("%d jobs were listed, want 5", len(seen))
	}
	page, _, err := w.List(t.Context(), reader, Filter{State: Done})
	if err != nil || len(page) != 0 {
		t.Errorf("done: got %d, %v", len(page), err)
	}
	_, _, err = w.List(t.Context(), reader, Filter{Cursor: "nonsense"})
	wants(t, err, errs.Invalid, "cursor")
}

func TestEveryMoveIsInTheTable(t *testing.T) {
	for _, s := range States() {
		if moves[s] == nil || s.String() == "unknown" {
			t.Errorf("state %d is not complete", s)
		}
		if got, err := ParseState(s.String()); got != s || err != nil {
			t.Errorf("ParseState(%q) = %v, %v", s.String(), got, err)
		}
		if _, cancellable := moves[s][moveCancel]; cancellable == s.Ended() {
			t.Errorf("%s: cancellable %v, ended %v", s, cancellable, s.Ended())
		}
	}
}

func TestEveryChangeBehindTheBackIsNamed(t *testing.T) {
	for _, change := range []string{
		`UPDATE job SET state = 6`, `UPDATE job SET total = total + 1`, `UPDATE job SET params = '99'`, `UPDATE job SET not_before = 5`, `UPDATE job SET note = 'x'`,
		`DELETE FROM job`, `UPDATE job SET cell = 1`, `UPDATE job_chunk SET body = substr(body, 2)`, `DELETE FROM job_chunk`, `UPDATE job_chunk SET items = 3`,
		`INSERT INTO job_chunk (cell, job, n, items, body) SELECT cell, job, n + 1, items, body FROM job_chunk`,
		`INSERT INTO job_result (cell, job, n, ok, item, text) SELECT cell, id, 0, 1, 'x', 'y' FROM job`, `UPDATE job SET busy = 7`, `UPDATE job SET maker_id = 'bb'`,
	} {
		t.Run(change, func(t *testing.T) {
			w := newWorld(t)
			w.tampered = true
			w.create(t, Spec{Items: [][]byte{[]byte("a"), []byte("bb")}, AskAbove: -1})
			if f := w.findings(t); len(f) > 0 {
				t.Fatal(f)
			}
			must(t, w.DB.Do(t.Context(), func(ctx context.Context, tx *db.Tx) error {
				_, err := tx.Exec(ctx, change)
				return err
			}))
			if len(w.findings(t)) == 0 {
				t.Error("nobody noticed")
			}
		})
	}
}

// TestItemsChangedBetweenApprovalAndDeed: what runs is what was looked at.
func TestItemsChangedBetweenApprovalAndDeed(t *testing.T) {
	w := newWorld(t)
	w.tampered = true
	j := w.create(t, Spec{Items: [][]byte{[]byte("name-1"), []byte("name-2")}, AskAbove: -1, Start: true, Undo: time.Minute})
	w.start(t)
	w.until(t, j.ID, "the time to think", is(Scheduled))
	must(t, w.DB.Do(t.Context(), func(ctx context.Context, tx *db.Tx) error {
		_, err := tx.Exec(ctx, `UPDATE job_chunk SET body = $1`, appendItem(appendItem(nil, []byte("name-1")), []byte("name-3")))
		return err
	}))
	w.now.Add(60)
	if j = w.until(t, j.ID, "the refusal", is(Aborted)); !strings.Contains(j.Note, "changed outside") || w.struck(t) != 0 {
		t.Errorf("got %q, %d struck", j.Note, w.struck(t))
	}
}
