package api_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"mooring/internal/server/api/client"
	"mooring/internal/server/api/v1"
)

// TestJobs takes a revocation of many through its life over the API: looked at, approved by another person, done; and names what is wrong.
func TestJobs(t *testing.T) {
	p := start(t, nil)
	anna, bert, reader := p.operator(t, "anna", "operator"), p.operator(t, "bert", "operator"), p.operator(t, "reader", "auditor")
	ctx := t.Context()
	for i := range 3 {
		name := fmt.Sprintf("meter-%d", i)
		p.credential(t, name, "device")
		group := "hall"
		if _, err := anna.ChangeDevice(ctx, name, v1.ChangeDevice{Group: &group}); err != nil {
			t.Fatal(err)
		}
	}
	p.credential(t, "other", "device")
	if _, err := reader.RevokeMany(ctx, v1.NewRevocation{Group: "hall"}); status(err) != http.StatusForbidden {
		t.Errorf("an auditor: got %v", err)
	}
	for _, bad := range []v1.NewRevocation{{}, {Group: "hall", Reason: "boredom"}, {Group: "hall", Undo: "soon"}, {Issuer: "nobody"}} {
		if _, err := anna.RevokeMany(ctx, bad); status(err) != http.StatusBadRequest {
			t.Errorf("%+v: got %v", bad, err)
		}
	}
	j, err := anna.RevokeMany(ctx, v1.NewRevocation{Group: "hall", Reason: "keyCompromise"})
	if err != nil {
		t.Fatal(err)
	}
	if j, err = reader.AwaitJob(ctx, j.ID, func(j v1.Job) bool { return j.Ready }); err != nil || j.Total != 3 || len(j.Sample) != 3 || j.State != "draft" || j.Unit != "certificates" {
		t.Fatalf("the preview: got %+v, %v", j, err)
	}
	if _, err := bert.MoveJob(ctx, j.ID, "start"); status(err) != http.StatusForbidden {
		t.Errorf("started by another: got %v", err)
	}
	if j, err = anna.MoveJob(ctx, j.ID, "start"); err != nil || j.State != "waiting" {
		t.Fatalf("started: got %+v, %v", j, err)
	}
	waiting, err := reader.Approvals(ctx, false, 0)
	if err != nil || len(waiting) != 1 || !strings.Contains(j.Note, waiting[0].ID) || waiting[0].Needs != "cert.revoke" {
		t.Fatalf("what waits: got %+v, %v", waiting, err)
	}
	if _, err := anna.Decide(ctx, waiting[0].ID, "grant"); status(err) != http.StatusForbidden {
		t.Errorf("approved by who asked: got %v", err)
	}
	if a, err := bert.Decide(ctx, waiting[0].ID, "grant"); err != nil || a.State != "granted" {
		t.Errorf("approved: got %+v, %v", a, err)
	}
	if j, err = anna.AwaitJob(ctx, j.ID, func(j v1.Job) bool { return j.State == "done" }); err != nil || j.Done != 3 {
		t.Errorf("the end: got %+v, %v", j, err)
	}
	if a, err := reader.Approval(ctx, waiting[0].ID); err != nil || a.State != "spent" {
		t.Errorf("the approval afterwards: got %+v, %v", a, err)
	}
	if r, err := reader.JobResults(ctx, j.ID, 0); err != nil || len(r.Results) != 0 || r.Next != 0 {
		t.Errorf("results: got %+v, %v", r, err)
	}
	page, err := reader.Jobs(ctx, client.Jobs{})
	if err != nil || len(page.Jobs) != 1 || page.Next != "" {
		t.Errorf("the list: got %+v, %v", page, err)
	}
	_, err = anna.RevokeFile(ctx, strings.NewReader("zz\n\n1234\n"), "batch.txt", v1.NewRevocation{})
	if status(err) != http.StatusBadRequest || !strings.Contains(err.Error(), `batch.txt:1: "zz"`) || !strings.Contains(err.Error(), "batch.txt:3: 1234") {
		t.Errorf("a bad file: got %v", err)
	}
	moved, err := anna.MoveMany(ctx, v1.NewMove{Move: "suspend", Group: "hall", Start: true})
	if err == nil {
		_, err = anna.AwaitJob(ctx, moved.ID, func(j v1.Job) bool { return j.State == "waiting" })
	}
	if err != nil {
		t.Errorf("a move of three: %v", err)
	}
	if j, err := bert.MoveJob(ctx, moved.ID, "cancel"); err != nil || j.State != "aborted" {
		t.Errorf("cancelled: got %+v, %v", j, err)
	}
	if _, err := bert.MoveJob(ctx, moved.ID, "resume"); status(err) != http.StatusConflict {
		t.Errorf("resumed after its end: got %v", err)
	}
}
