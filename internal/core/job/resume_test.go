package job

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"
	"time"
	"unicode/utf8"

	"mooring/internal/base/errs"
	"mooring/internal/core/access"
)

// TestAFailedSearchIsResumedAsASearch: a job whose search failed was never looked at, approved or delayed, so that resuming it must not be a way
// around all three.
func TestAFailedSearchIsResumedAsASearch(t *testing.T) {
	w := newWorld(t)
	broken := true // the runner alone reads and writes it
	search := Worker{Kind: "search", Needs: "cert.revoke", Unit: "names", Step: w.step, Fill: func(ctx context.Context, j Job) (Part, error) {
		if j.Total >= 6 && broken {
			broken = false
			return Part{}, errs.New(errs.Invalid, "the filter fits all there is")
		}
		return w.fill(ctx, j)
	}}
	w.Register(search)
	w.start(t)
	j, err := w.Create(t.Context(), anna, Spec{Kind: "search", Title: "strike them off", Params: 9, AskAbove: 1, Undo: time.Minute, Start: true})
	must(t, err)
	j = w.until(t, j.ID, "the failure", is(Failed))
	if j.Total != 6 || j.Began != 0 {
		t.Fatalf("got %+v", j)
	}
	j, err = w.Resume(t.Context(), anna, j.ID)
	must(t, err)
	if j.State != Draft {
		t.Fatalf("a search that failed is %s when resumed, want a draft", j.State)
	}
	j = w.until(t, j.ID, "the second person", is(Waiting))
	if n := w.struck(t); n != 0 || j.Total != 9 {
		t.Errorf("%d of %d were struck, and nobody else agreed", n, j.Total)
	}
}

// TestAJobEndsWithThePermissionOfItsMaker: what somebody left behind, waiting or at work, ends when he loses his role.
func TestAJobEndsWithThePermissionOfItsMaker(t *testing.T) {
	w := newWorld(t)
	var role atomic.Value
	role.Store(access.RoleAdmin) // more than he had is enough
	w.Role = func(_ context.Context, maker access.Actor) (access.Role, error) {
		if maker.ID != anna.ID {
			t.Errorf("asked about %s", maker)
		}
		return role.Load().(access.Role), nil
	}
	held := make(chan struct{})
	w.mu.Lock()
	w.hook = func(*Batch) error {
		role.Store(access.RoleAuditor)
		<-held
		return nil
	}
	w.mu.Unlock()
	w.start(t)
	working := w.create(t, Spec{Params: 9, AskAbove: -1, Start: true})
	delayed := w.create(t, Spec{Params: 9, AskAbove: -1, Undo: 30 * 24 * time.Hour, Start: true})
	asking := w.create(t, Spec{Params: 9, AskAbove: 1, Start: true})
	draft := w.create(t, Spec{Params: 9, AskAbove: -1})
	close(held)
	for _, j := range []Job{working, delayed, asking, draft} {
		j = w.until(t, j.ID, "the end", is(Aborted))
		if j.Note != "whoever made it has lost his permission meanwhile, so nothing more is done" {
			t.Errorf("got %q", j.Note)
		}
	}
	if n := w.struck(t); n > 3 {
		t.Errorf("%d were struck after he lost his role", n-3)
	}
}

// TestALongTitleHidesNothing: the second person sees how many items there are, whatever the first one called the file.
func TestALongTitleHidesNothing(t *testing.T) {
	w := newWorld(t)
	w.start(t)
	for _, pad := range []string{"", "x"} { // so that a cut by octets falls into a character
		j, err := w.Create(t.Context(), anna, Spec{Kind: "strike", Title: pad + strings.Repeat("€", 900), Params: 9, AskAbove: 1, Start: true})
		must(t, err)
		w.until(t, j.ID, "the second person", is(Waiting))
	}
	list, err := w.Approve.List(t.Context(), reader, false, 0)
	must(t, err)
	if len(list) != 2 {
		t.Fatalf("%d wait", len(list))
	}
	for _, a := range list {
		if !strings.HasSuffix(a.Summary, "€…: 9 names") || !utf8.ValidString(a.Summary) {
			t.Errorf("the second person is shown %q", a.Summary)
		}
	}
}
