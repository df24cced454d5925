package app_test

import (
	"encoding/hex"
	"strings"
	"testing"
	"time"

	"mooring/internal/app/apptest"
	"mooring/internal/base/errs"
	"mooring/internal/core/access"
	"mooring/internal/core/device"
	"mooring/internal/core/job"
	"mooring/internal/core/revoke"
)

// refusedGrants counts the recorded refusals for want of access.grant.
func refusedGrants(t *testing.T, p *apptest.Platform) (n int) {
	for _, e := range p.Record(t) {
		if strings.Contains(e.Refused, string(access.Grant)) {
			n++
		}
	}
	return n
}

// TestAnOperatorPutsNoAdministratorOut tries every way on which an operator could take a role away.
func TestAnOperatorPutsNoAdministratorOut(t *testing.T) {
	p := apptest.Start(t, onSQLite)
	ctx := t.Context()
	leaf := p.OperatorCert(t).Leaf
	serial := leaf.SerialNumber.Bytes()
	admin, err := p.Devices.Get(ctx, apptest.Operator(), "admin")
	must(t, err)
	me := p.Add(t, device.Spec{Name: "olga", Profile: "operator"})
	operator := access.Actor{Kind: access.KindOperator, ID: me.ID.String(), Role: access.RoleOperator, Via: "api"}
	former, was := p.Enrolled(t, "former", "operator-admin") // his certificate gives a role, the registry does not any more
	profile := "device"
	_, err = p.Devices.Change(ctx, apptest.Operator(), former.ID, device.Change{Profile: &profile})
	must(t, err)
	ways := map[string]func() error{
		"by job, the profile named": func() error {
			_, err := p.Bulk.MoveMany(ctx, operator, revoke.Filter{Profile: "operator-admin"}, device.Lose, revoke.How{Start: true})
			return err
		},
		"revoke by job, the profile named": func() error {
			_, err := p.Bulk.RevokeMany(ctx, operator, revoke.Filter{Profile: "operator-admin"}, revoke.How{Start: true})
			return err
		},
		"revoke by a file": func() error {
			_, err := p.Bulk.RevokeFile(ctx, operator, strings.NewReader(hex.EncodeToString(serial)), "file", revoke.How{Start: true})
			return err
		},
		"release": func() error { _, err := p.Revoke.Release(ctx, operator, serial); return err },
	}
	for _, move := range []device.Move{device.Suspend, device.Lose, device.Retire} {
		ways[string(move)] = func() error { _, err := p.Revoke.Device(ctx, operator, admin.ID, move, revoke.Unspecified); return err }
	}
	ways["move a former administrator"] = func() error {
		_, err := p.Revoke.Device(ctx, operator, former.ID, device.Suspend, revoke.Unspecified)
		return err
	}
	for name, s := range map[string][]byte{"administrator": serial, "former administrator": was.Leaf.SerialNumber.Bytes()} {
		for _, why := range []revoke.Reason{revoke.Superseded, revoke.KeyCompromise, revoke.CertificateHold} {
			ways[name+": "+why.String()] = func() error { _, err := p.Revoke.Certificate(ctx, operator, s, why); return err }
		}
	}
	for name, try := range ways {
		before := refusedGrants(t, p)
		if err := try(); !errs.Is(err, errs.Denied) {
			t.Errorf("%s: %v, want Denied", name, err)
		}
		if refusedGrants(t, p) <= before {
			t.Errorf("%s: the refusal is not recorded", name)
		}
	}
	j, err := p.Bulk.MoveMany(ctx, operator, revoke.Filter{Profile: "device", Everything: true}, device.Suspend, revoke.How{Start: true})
	must(t, err)
	if j = ended(t, p, j); j.Failed != 1 || j.Done != 0 {
		t.Errorf("a job that meets the former administrator: %s, %d done, %d failed", j.State, j.Done, j.Failed)
	}
	for _, s := range [][]byte{serial, was.Leaf.SerialNumber.Bytes()} {
		if _, gone, err := p.Revoke.Status(ctx, s); err != nil || gone {
			t.Errorf("%x is revoked: %v, %v", s, gone, err)
		}
	}
	if d := p.Load(t, admin.ID); !d.State.Active() {
		t.Errorf("the administrator is %s", d.State)
	}
}

// ended waits for the end of a job.
func ended(t *testing.T, p *apptest.Platform, j job.Job) job.Job {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !j.State.Ended(); time.Sleep(10 * time.Millisecond) {
		var err error
		if j, err = p.Jobs.Get(t.Context(), apptest.Operator(), j.ID); err != nil || time.Now().After(end) {
			t.Fatalf("the job is %s, %v", j.State, err)
		}
	}
	return j
}

// TestTheLastAdministratorStays: he can leave when there is another, and root on the machine can do it in any case.
func TestTheLastAdministratorStays(t *testing.T) {
	p := apptest.Start(t, onSQLite)
	ctx := t.Context()
	serial := p.OperatorCert(t).Leaf.SerialNumber.Bytes()
	d, err := p.Devices.Get(ctx, apptest.Operator(), "admin")
	must(t, err)
	admin := access.Actor{Kind: access.KindOperator, ID: d.ID.String(), Role: access.RoleAdmin, Via: "api"}
	p.Add(t, device.Spec{Name: "not-yet", Profile: "operator-admin"}) // without a certificate he is of no use
	stay := func(what string, err error) {
		t.Helper()
		if !errs.Is(err, errs.Conflict) || !strings.Contains(errs.Public(err), "socket") {
			t.Errorf("%s: %v, want Conflict and the way out", what, err)
		}
	}
	for _, move := range []device.Move{device.Suspend, device.Lose, device.Retire} {
		_, err := p.Revoke.Device(ctx, admin, d.ID, move, revoke.Unspecified)
		stay(string(move), err)
	}
	for _, why := range []revoke.Reason{revoke.Superseded, revoke.CertificateHold} {
		_, err := p.Revoke.Certificate(ctx, admin, serial, why)
		stay(why.String(), err)
	}
	j, err := p.Bulk.MoveMany(ctx, admin, revoke.Filter{Profile: "operator-admin", State: "enrolled", Everything: true}, device.Suspend, revoke.How{Start: true})
	must(t, err)
	if j = ended(t, p, j); j.Done != 0 || j.Failed != 1 {
		t.Errorf("a job that moves him: %s, %d done, %d failed", j.State, j.Done, j.Failed)
	}
	j, err = p.Bulk.RevokeFile(ctx, admin, strings.NewReader(hex.EncodeToString(serial)), "file", revoke.How{Start: true})
	must(t, err)
	if j = ended(t, p, j); j.Done != 0 || j.Failed != 1 {
		t.Errorf("a job that revokes his certificate: %s, %d done, %d failed", j.State, j.Done, j.Failed)
	}
	other, _ := p.Enrolled(t, "other", "operator-admin")
	if _, err := p.Revoke.Device(ctx, admin, d.ID, device.Suspend, revoke.Unspecified); err != nil {
		t.Errorf("with another administrator: %v", err)
	}
	if _, err := p.Revoke.Device(ctx, apptest.Operator(), other.ID, device.Lose, revoke.Unspecified); err != nil {
		t.Errorf("on the machine: %v", err)
	}
}
