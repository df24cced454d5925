package job

import (
	"context"
	"testing"
	"time"

	"mooring/internal/base/errs"
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
