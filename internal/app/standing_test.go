package app_test

import (
	"testing"
	"time"

	"mooring/internal/app/apptest"
	"mooring/internal/core/access"
	"mooring/internal/core/device"
	"mooring/internal/core/job"
	"mooring/internal/core/revoke"
)

// TestADismissedOperatorLeavesNothingBehind: work that an operator had put off is not done after he has lost his account.
func TestADismissedOperatorLeavesNothingBehind(t *testing.T) {
	p := apptest.Start(t, onSQLite)
	ctx := t.Context()
	_, pair := p.Enrolled(t, "meter-1", "device")
	serial := pair.Leaf.SerialNumber.Bytes()
	made := map[string]job.Job{}
	for _, name := range []string{"stays", "dismissed", "becomes-auditor"} {
		d := p.Add(t, device.Spec{Name: name, Profile: "operator"})
		operator := access.Actor{Kind: access.KindOperator, ID: d.ID.String(), Role: access.RoleOperator, Via: "api"}
		j, err := p.Bulk.RevokeMany(ctx, operator, revoke.Filter{Profile: "device", Everything: true}, revoke.How{Reason: revoke.Superseded, Undo: 24 * time.Hour, Start: name != "stays"})
		if err != nil {
			t.Fatal(err)
		}
		made[name] = j
		switch name {
		case "dismissed":
			_, err = p.Revoke.Device(ctx, apptest.Operator(), d.ID, device.Suspend, revoke.Unspecified)
		case "becomes-auditor":
			profile := "auditor"
			_, err = p.Devices.Change(ctx, apptest.Operator(), d.ID, device.Change{Profile: &profile})
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"dismissed", "becomes-auditor"} {
		j := made[name]
		for end := time.Now().Add(time.Minute); !j.State.Ended(); time.Sleep(10 * time.Millisecond) {
			var err error
			if j, err = p.Jobs.Get(ctx, apptest.Operator(), j.ID); err != nil || time.Now().After(end) {
				t.Fatalf("%s: the job is %s, %v", name, j.State, err)
			}
		}
		if j.State != job.Aborted || j.Done != 0 {
			t.Errorf("%s: the job is %s, %d done", name, j.State, j.Done)
		}
	}
	p.Clock.Move(25 * time.Hour)
	if j, err := p.Jobs.Get(ctx, apptest.Operator(), made["stays"].ID); err != nil || j.State == job.Failed {
		t.Errorf("the job of one who stays is %s, %v", j.State, err)
	}
	if _, gone, err := p.Revoke.Status(ctx, serial); err != nil || gone {
		t.Errorf("the certificate is revoked: %v, %v", gone, err)
	}
}
