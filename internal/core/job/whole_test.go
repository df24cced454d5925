package job

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"mooring/internal/base/db"
	"mooring/internal/base/errs"
)

// oneByOne gives the items name-0 to name-(n-1) out of one buffer, as a reader of a file does.
func oneByOne(n, size int) func(func([]byte, error) bool) {
	return func(yield func([]byte, error) bool) {
		var buf []byte
		for i := range n {
			buf = fmt.Appendf(buf[:0], "name-%d%s", i, strings.Repeat("-", size))
			if !yield(buf, nil) {
				return
			}
		}
	}
}

// TestItemsThatComeOneByOne: they are kept with the job or not at all, in steps that are bounded by number and by size.
func TestItemsThatComeOneByOne(t *testing.T) {
	w := newWorld(t)
	w.Register(Worker{Kind: "whole", Needs: "cert.revoke", Unit: "names", Step: w.step, Chunk: 30, Whole: true})
	spec := Spec{Kind: "whole", Title: "strike them off", AskAbove: -1, Start: true, Each: oneByOne(100, 0)}
	spec.Also = func(ctx context.Context, tx *db.Tx, j Job) error {
		if open, err := w.OpenTx(ctx, tx, "whole"); err != nil || len(open) != 1 || open[0].ID != j.ID || j.Total != 100 {
			t.Errorf("while it is made: %v, %v, %d items", open, err, j.Total)
		}
		return errs.New(errs.Conflict, "no")
	}
	_, err := w.Create(t.Context(), anna, spec)
	wants(t, err, errs.Conflict, "no")
	broken := spec
	broken.Also = nil
	broken.Each = func(yield func([]byte, error) bool) {
		oneByOne(40, 0)(func(i []byte, _ error) bool { return yield(i, nil) })
		yield(nil, errors.New("unplugged"))
	}
	if _, err := w.Create(t.Context(), anna, broken); err == nil || !strings.Contains(err.Error(), "unplugged") {
		t.Errorf("items that cannot be read: %v", err)
	}
	if list, _, err := w.List(t.Context(), reader, Filter{}); err != nil || len(list) != 0 {
		t.Fatalf("got %v, %v, want no job", list, err)
	}
	spec.Also = nil
	j, err := w.Create(t.Context(), anna, spec)
	must(t, err)
	if j.Chunks != 4 || j.Total != 100 || !j.Ready {
		t.Errorf("got %d chunks of %d items", j.Chunks, j.Total)
	}
	large := spec
	large.Each, large.Start = oneByOne(100, itemMost-100), false
	big, err := w.Create(t.Context(), anna, large)
	must(t, err)
	if big.Chunks != 7 || big.Total != 100 {
		t.Errorf("got %d chunks of %d large items", big.Chunks, big.Total)
	}
	large.Each = oneByOne(100, 100_000)
	_, err = w.Create(t.Context(), anna, large)
	wants(t, err, errs.Limited, "takes more than 65536 octets")
	w.start(t)
	j, err = w.Await(t.Context(), reader, j.ID, func(j Job) bool { return j.State.Ended() })
	if err != nil || j.State != Done || j.Done != 90 || j.Failed != 10 || w.struck(t) != 90 {
		t.Errorf("got %s, %d done, %d failed, %d struck, %v", j.State, j.Done, j.Failed, w.struck(t), err)
	}
	if open, err := w.open(t); err != nil || len(open) != 1 || open[0].ID != big.ID {
		t.Errorf("open are %v, %v, want the draft alone", open, err)
	}
}

func (w *world) open(t *testing.T) (list []Job, err error) {
	err = w.DB.View(t.Context(), func(ctx context.Context, tx *db.Tx) error {
		list, err = w.OpenTx(ctx, tx, "whole")
		return err
	})
	return list, err
}

// TestWholeJobsAreNotCancelledHalfway: before the first step they are, and afterwards paused.
func TestWholeJobsAreNotCancelledHalfway(t *testing.T) {
	w := newWorld(t)
	w.Register(Worker{Kind: "whole", Needs: "cert.revoke", Unit: "names", Step: w.step, Chunk: 3, Whole: true})
	make1 := func(undo time.Duration) Job {
		j, err := w.Create(t.Context(), anna, Spec{Kind: "whole", Title: "strike them off", AskAbove: -1, Start: true, Undo: undo, Each: oneByOne(7, 0)})
		must(t, err)
		return j
	}
	held, goOn := make(chan struct{}, 8), make(chan struct{})
	w.mu.Lock()
	w.hook = func(*Batch) error { held <- struct{}{}; <-goOn; return nil }
	w.mu.Unlock()
	w.start(t)
	early := w.until(t, make1(time.Hour).ID, "its time", is(Scheduled))
	early, err := w.Cancel(t.Context(), bert, early.ID)
	must(t, err)
	if early.State != Aborted {
		t.Errorf("got %s", early.State)
	}
	j := make1(0)
	<-held
	_, err = w.Cancel(t.Context(), bert, j.ID)
	wants(t, err, errs.Conflict, "done whole or not at all")
	j, err = w.Pause(t.Context(), bert, j.ID)
	must(t, err)
	_, err = w.Cancel(t.Context(), bert, j.ID)
	wants(t, err, errs.Conflict, "pause it, or let it end")
	close(goOn)
	_, err = w.Resume(t.Context(), anna, j.ID)
	must(t, err)
	j = w.until(t, j.ID, "the end", is(Done))
	if j.Done != 7 || w.struck(t) != 7 {
		t.Errorf("got %d done, %d struck", j.Done, w.struck(t))
	}
	_, err = w.Cancel(t.Context(), bert, j.ID)
	wants(t, err, errs.Conflict, "it has ended")
}
