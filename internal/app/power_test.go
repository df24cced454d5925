package app_test

import (
	"encoding/hex"
	"fmt"
	"strings"
	"sync"
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
	for end := time.Now().Add(time.Minute); !j.State.Ended(); time.Sleep(10 * time.Millisecond) {
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

// TestAdministratorsWhoPutEachOtherOut: of two who do it at the same moment, in whatever way, one stays.
func TestAdministratorsWhoPutEachOtherOut(t *testing.T) {
	p := apptest.Start(t, nil)
	ctx := t.Context()
	type admin struct {
		id     device.ID
		serial []byte
	}
	move := func(by access.Actor, whom admin) error {
		_, err := p.Revoke.Device(ctx, by, whom.id, device.Suspend, revoke.Unspecified)
		return err
	}
	strike := func(why revoke.Reason) func(access.Actor, admin) error {
		return func(by access.Actor, whom admin) error {
			_, err := p.Revoke.Certificate(ctx, by, whom.serial, why)
			return err
		}
	}
	ways := []func(access.Actor, admin) error{move, strike(revoke.Superseded), strike(revoke.KeyCompromise), strike(revoke.CertificateHold)}
	first, err := p.Devices.Get(ctx, apptest.Operator(), "admin")
	must(t, err)
	pair := []admin{{id: first.ID, serial: p.OperatorCert(t).Leaf.SerialNumber.Bytes()}}
	met := 0
	for round := range 8 {
		for len(pair) < 2 {
			d, c := p.Enrolled(t, fmt.Sprintf("admin-%d", round), "operator-admin")
			pair = append(pair, admin{d.ID, c.Leaf.SerialNumber.Bytes()})
		}
		errors := make([]error, 2)
		var both sync.WaitGroup
		for i := range pair {
			way := ways[(round+i*(round/len(ways)))%len(ways)]
			both.Go(func() {
				errors[i] = way(access.Actor{Kind: access.KindOperator, ID: pair[i].id.String(), Role: access.RoleAdmin, Via: "api"}, pair[1-i])
			})
		}
		both.Wait()
		var left []admin
		for _, a := range pair {
			_, gone, err := p.Revoke.Status(ctx, a.serial)
			must(t, err)
			if d := p.Load(t, a.id); d.State.Active() && !gone {
				left = append(left, a)
			}
		}
		if len(left) != 1 || (errors[0] == nil) == (errors[1] == nil) {
			t.Fatalf("round %d: %d administrators are left, the answers were %v and %v", round, len(left), errors[0], errors[1])
		}
		for _, err := range errors {
			if errs.Is(err, errs.Conflict) && strings.Contains(errs.Public(err), "nobody would be left") {
				met++
			}
		}
		pair = left
	}
	if met == 0 {
		t.Error("nobody was told that he is the last one")
	}
}
