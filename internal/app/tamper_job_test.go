package app_test

import (
	"context"
	"crypto/sha256"
	"testing"
	"time"

	"mooring/internal/app/apptest"
	"mooring/internal/base/db"
	"mooring/internal/core/access"
	"mooring/internal/core/approve"
	"mooring/internal/core/job"
	"mooring/internal/core/revoke"
)

// lifeOfJobs leaves jobs and approvals in several states behind, and the result of an item that failed.
func lifeOfJobs(t *testing.T, p *apptest.Platform, serial []byte) {
	t.Helper()
	ctx := t.Context()
	_, err := p.Jobs.Create(ctx, apptest.Operator(), job.Spec{Kind: revoke.JobRevoke, Title: "looked at and left", Params: map[string]int{"reason": 1}, Items: [][]byte{serial},
		Sample: []string{"this one"}, AskAbove: -1})
	must(t, err)
	nobodys := append([]byte{}, serial...)
	nobodys[15] ^= 1
	j, err := p.Jobs.Create(ctx, apptest.Operator(), job.Spec{Kind: revoke.JobRevoke, Title: "of nobody", Params: map[string]int{"reason": 1}, Items: [][]byte{nobodys}, Start: true})
	must(t, err)
	second := access.Actor{Kind: access.KindOperator, ID: "second", Role: access.RoleOperator, Via: "api"}
	for deadline := time.Now().Add(time.Minute); j.State != job.Done; time.Sleep(10 * time.Millisecond) {
		if j, err = p.Jobs.Get(ctx, second, j.ID); err != nil || j.State.Ended() && j.State != job.Done || time.Now().After(deadline) {
			t.Fatalf("the job is %s: %s, %v", j.State, j.Note, err)
		}
		waiting, err := p.Approve.List(ctx, second, false, 0)
		must(t, err)
		for _, a := range waiting {
			_, err := p.Approve.Grant(ctx, second, a.ID)
			must(t, err)
		}
	}
	if j.Failed != 1 {
		t.Fatalf("the job of nobody: %d failed", j.Failed)
	}
	for i, decide := range []func(context.Context, access.Actor, approve.ID) (approve.Approval, error){nil, p.Approve.Grant, p.Approve.Refuse} {
		var a approve.Approval
		must(t, p.DB.Do(ctx, func(ctx context.Context, tx *db.Tx) (err error) {
			a, err = p.Approve.Request(ctx, tx, apptest.Operator(), approve.Act{Kind: "try", Object: "this", Digest: sha256.Sum256([]byte{byte(i)}), Needs: access.CertRevoke, Summary: "try it"}, 0)
			return err
		}))
		if decide != nil {
			_, err := decide(ctx, second, a.ID)
			must(t, err)
		}
	}
}
