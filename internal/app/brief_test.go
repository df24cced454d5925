package app_test

import (
	"crypto/tls"
	"testing"
	"time"

	"mooring/internal/app/apptest"
	"mooring/internal/core/ca"
	"mooring/internal/core/device"
	"mooring/internal/core/enrol"
	"mooring/internal/core/job"
	"mooring/internal/core/revoke"
	"mooring/wire/der"
)

// TestManyDevicesWithoutRowsAreMoved moves devices whose certificates are recorded in brief, by a job.
func TestManyDevicesWithoutRowsAreMoved(t *testing.T) {
	p := apptest.Start(t, onSQLite)
	ctx := t.Context()
	var serials [][]byte
	for _, name := range []string{"meter-1", "meter-2"} {
		_, pair := p.Enrolled(t, name, "device-short")
		serials = append(serials, pair.Leaf.SerialNumber.Bytes())
	}
	for _, move := range []device.Move{device.Suspend, device.Resume, device.Lose} {
		j, err := p.Bulk.MoveMany(ctx, apptest.Operator(), revoke.Filter{Profile: "device-short", Everything: true}, move, revoke.How{Start: true})
		if err != nil {
			t.Fatal(err)
		}
		for end := time.Now().Add(time.Minute); !j.State.Ended(); time.Sleep(10 * time.Millisecond) {
			if j, err = p.Jobs.Get(ctx, apptest.Operator(), j.ID); err != nil || time.Now().After(end) {
				t.Fatalf("%s: the job is %s (%s), %v", move, j.State, j.Note, err)
			}
		}
		if j.State != job.Done || j.Done != 2 {
			t.Errorf("%s: the job is %s, %d done, %s", move, j.State, j.Done, j.Note)
		}
		for _, serial := range serials {
			if _, gone, err := p.Revoke.Status(ctx, serial); err != nil || gone != (move != device.Resume) {
				t.Errorf("after %s the certificate %x is revoked or on hold: %v, %v", move, serial, gone, err)
			}
		}
	}
}

// TestTheCertificateBeforeHasItsOwnCA: a device renews after its profile turned to another CA and is lost. What is revoked is told of by the CA that
// issued it.
func TestTheCertificateBeforeHasItsOwnCA(t *testing.T) {
	from := time.Now().Add(2 * time.Hour).UTC().Format(time.RFC3339)
	p := apptest.Start(t, onSQLite, turning(t, "device-short", "turner", "issuers: [{name: devices}, {name: services, from: "+from+"}]"))
	ctx := t.Context()
	before, err := p.CA.Issuer("devices")
	must(t, err)
	after, err := p.CA.Issuer("services")
	must(t, err)
	certs, pairs := map[string][2][]byte{}, map[string]tls.Certificate{}
	for _, name := range []string{"by-itself", "by-job"} {
		_, pairs[name] = p.Enrolled(t, name, "turner")
	}
	p.Clock.Move(3 * time.Hour)
	for name, pair := range pairs {
		csr := apptest.CSR(t, apptest.Key(t), der.RequestSpec{Subject: subjectOf(t, pair.Leaf.RawSubject), Names: der.AltNames{URI: []string{pair.Leaf.URIs[0].String()}}})
		answer, err := p.Enrol.Submit(ctx, enrol.Request{Protocol: "est", Op: enrol.Renew, CSR: csr, Chain: pair.Certificate})
		must(t, err)
		certs[name] = [2][]byte{pair.Leaf.SerialNumber.Bytes(), answer.Certificate.Serial[:]}
	}
	must(t, p.Audit.Sequence(ctx)) // the clock has gone faster than the record
	d, err := p.Devices.Get(ctx, apptest.Operator(), "by-itself")
	must(t, err)
	_, err = p.Revoke.Device(ctx, apptest.Operator(), d.ID, device.Lose, revoke.Unspecified)
	must(t, err)
	j, err := p.Bulk.MoveMany(ctx, apptest.Operator(), revoke.Filter{Profile: "turner", Everything: true}, device.Lose, revoke.How{Start: true})
	must(t, err)
	for end := time.Now().Add(time.Minute); !j.State.Ended(); time.Sleep(10 * time.Millisecond) {
		if j, err = p.Jobs.Get(ctx, apptest.Operator(), j.ID); err != nil || time.Now().After(end) {
			t.Fatalf("the job is %s (%s), %v", j.State, j.Note, err)
		}
	}
	for name, serials := range certs {
		for i, want := range []ca.IssuerID{before.ID(), after.ID()} {
			r, gone, err := p.Revoke.Status(ctx, serials[i])
			if err != nil || !gone || r.Issuer != want {
				t.Errorf("%s, certificate %d: revoked %v by %s, %v, want by %s", name, i, gone, r.Issuer, err, want)
			}
		}
	}
}
