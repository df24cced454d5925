package app_test

import (
	"context"
	"crypto"
	"crypto/tls"
	"fmt"
	"strings"
	"testing"
	"time"

	"mooring/internal/app/apptest"
	"mooring/internal/base/db"
	"mooring/internal/core/ca"
	"mooring/internal/core/device"
	"mooring/internal/core/enrol"
	"mooring/internal/core/job"
	"mooring/internal/core/revoke"
	"mooring/wire/der"
)

// renewed returns the serial numbers of a device's certificate and n renewals, of keys that next gives.
func renewed(t *testing.T, p *apptest.Platform, pair tls.Certificate, n int, next func() crypto.Signer) (serials [][]byte) {
	t.Helper()
	serials = append(serials, pair.Leaf.SerialNumber.Bytes())
	for range n {
		key := next()
		answer, err := p.Enrol.Submit(t.Context(), enrol.Request{Protocol: "est", Op: enrol.Renew, Chain: pair.Certificate, CSR: apptest.CSR(t, key,
			der.RequestSpec{RawSubject: pair.Leaf.RawSubject, Names: der.AltNames{URI: []string{pair.Leaf.URIs[0].String()}}})})
		must(t, err)
		pair = p.Pair(t, key, answer.Certificate.DER)
		serials = append(serials, answer.Certificate.Serial[:])
	}
	return serials
}

// jobEnded waits for a job.
func jobEnded(t *testing.T, p *apptest.Platform, j job.Job) job.Job {
	t.Helper()
	var err error
	for end := time.Now().Add(time.Minute); !j.State.Ended(); time.Sleep(10 * time.Millisecond) {
		if j, err = p.Jobs.Get(t.Context(), apptest.Operator(), j.ID); err != nil || time.Now().After(end) {
			t.Fatalf("the job is %s (%s), %v", j.State, j.Note, err)
		}
	}
	return j
}

// TestEveryBriefCertificateIsFound renews devices whose certificates are recorded in brief more often than their slots remember, and ends the trust in
// them in each of the ways that there are: every certificate that has not ended is revoked.
func TestEveryBriefCertificateIsFound(t *testing.T) {
	p := apptest.Start(t, nil, apptest.Variant("device-short", "meter"), apptest.Variant("device-short", "turner", "issuer: services"), apptest.Variant("device-short", "thrifty", "reuse_key: allowed"))
	ctx, op := t.Context(), apptest.Operator()
	anew := func() crypto.Signer { return apptest.Key(t) }
	held := map[string][][]byte{} // by device
	ids := map[string]device.ID{}
	add := func(name, group, profile string, key func() crypto.Signer) {
		t.Helper()
		d := p.Add(t, device.Spec{Name: name, Group: group, Profile: profile})
		token, first := p.Token(t, d.ID), key()
		answer, err := p.Enrol.Submit(ctx, enrol.Request{Protocol: "est", Op: enrol.Enrol, Basic: true, User: name, Secret: token, CSR: apptest.CSR(t, first, der.RequestSpec{})})
		must(t, err)
		held[name], ids[name] = renewed(t, p, p.Pair(t, first, answer.Certificate.DER), 3, key), d.ID
	}
	same := apptest.Key(t)
	for name, group := range map[string]string{"lost": "a", "moved": "moved", "grouped": "g", "listed": "b"} {
		add(name, group, "device-short", anew)
	}
	add("profiled", "b", "meter", anew)
	add("issued", "b", "turner", anew)
	add("stolen", "b", "thrifty", func() crypto.Signer { return same })
	_, full := p.Enrolled(t, "full", "device")
	held["full"] = [][]byte{full.Leaf.SerialNumber.Bytes()}
	check := func(what string, gone ...string) {
		t.Helper()
		want := strings.Join(gone, " ") + " "
		for name, serials := range held {
			for i, serial := range serials {
				if _, revoked, err := p.Revoke.Status(ctx, serial); err != nil || revoked != strings.Contains(want, name+" ") {
					t.Errorf("%s: certificate %d of %q is revoked: %v, %v", what, i, name, revoked, err)
				}
			}
		}
	}
	var gone []string
	did := func(name string) {
		t.Helper()
		gone = append(gone, name)
		check(name, gone...)
	}

	if n, err := p.Revoke.Device(ctx, op, ids["lost"], device.Lose, revoke.Unspecified); err != nil || n != 4 {
		t.Errorf("losing a device revoked %d, %v; want all 4", n, err)
	}
	did("lost")
	r, err := p.Revoke.Certificate(ctx, op, held["stolen"][1], revoke.KeyCompromise)
	if err != nil || len(r.Also) != 3 {
		t.Errorf("the compromise of a key revoked %d others, %v; want 3", len(r.Also), err)
	}
	did("stolen")
	j, err := p.Bulk.MoveMany(ctx, op, revoke.Filter{Group: "moved"}, device.Lose, revoke.How{Start: true})
	must(t, err)
	if j = jobEnded(t, p, j); j.Done != 1 {
		t.Errorf("moving: %d done, %s", j.Done, j.Note)
	}
	did("moved")
	for name, f := range map[string]revoke.Filter{"grouped": {Group: "g"}, "profiled": {Profile: "meter"}, "issued": {Issuer: "services", Profile: "turner"}} {
		j, err := p.Bulk.RevokeMany(ctx, op, f, revoke.How{Reason: revoke.CessationOfOperation, Start: true})
		must(t, err)
		if j = jobEnded(t, p, j); j.Total != 4 || j.Done != 4 {
			t.Errorf("%s: %d of %d done, %s; want all 4", f, j.Done, j.Total, j.Note)
		}
		did(name)
	}
	lines := &strings.Builder{}
	for _, serial := range held["listed"] {
		fmt.Fprintf(lines, "%x\n", serial)
	}
	j, err = p.Bulk.RevokeFile(ctx, op, strings.NewReader(lines.String()), "serials", revoke.How{Reason: revoke.Superseded, Start: true})
	must(t, err)
	if j = jobEnded(t, p, j); j.Total != 4 || j.Done != 4 {
		t.Errorf("by a file: %d of %d done, %s; want all 4", j.Done, j.Total, j.Note)
	}
	did("listed")
	must(t, p.Audit.Sequence(ctx))
	if report := p.Verify(t); len(report.Findings) > 0 {
		t.Errorf("the record: %v", report.Findings)
	}
}

// rows counts the rows of a table.
func rows(t *testing.T, p *apptest.Platform, table string) (n int) {
	t.Helper()
	must(t, p.DB.View(t.Context(), func(ctx context.Context, tx *db.Tx) error {
		_, err := tx.Get(ctx, []any{&n}, `SELECT COUNT(*) FROM `+table)
		return err
	}))
	return n
}

// TestBriefRowsLeave: what is there of certificates recorded in brief grows with those that are valid and not with those that were issued, and
// nobody takes a valid one away unnoticed.
func TestBriefRowsLeave(t *testing.T) {
	p := apptest.Start(t, nil)
	ctx := t.Context()
	_, pair := p.Enrolled(t, "meter-1", "device-short")
	serials := renewed(t, p, pair, 3, func() crypto.Signer { return apptest.Key(t) })
	must(t, p.Audit.Sequence(ctx))
	if n := rows(t, p, "cert_brief"); n != len(serials) {
		t.Fatalf("%d rows, want %d", n, len(serials))
	}
	if report := p.Verify(t); len(report.Findings) > 0 {
		t.Fatalf("the record: %v", report.Findings)
	}
	deleted := false
	must(t, p.DB.Do(ctx, func(ctx context.Context, tx *db.Tx) error {
		n, err := tx.Exec(ctx, `DELETE FROM cert_brief WHERE serial = $1`, serials[1])
		deleted = n == 1
		return err
	}))
	if report := p.Verify(t); !deleted || len(report.Findings) != 1 || !strings.Contains(fmt.Sprint(report.Findings), fmt.Sprintf("certificate %x was issued and is valid, but is not in the database", serials[1])) {
		t.Errorf("one row was deleted: %v, and the verification says %v", deleted, report.Findings)
	}
	if _, err := p.CA.Purge(ctx, apptest.Operator()); err != nil || rows(t, p, "cert_brief") != len(serials)-1 {
		t.Errorf("valid ones left before their time, or %v", err)
	}
	p.Clock.Move(26 * time.Hour)
	if _, err := p.CA.Purge(ctx, apptest.Operator()); err != nil || rows(t, p, "cert_brief") != 0 {
		t.Errorf("%d rows of certificates that have ended are left, %v", rows(t, p, "cert_brief"), err)
	}
	if report := p.Verify(t); len(report.Findings) > 0 {
		t.Errorf("after they left: %v", report.Findings)
	}
	if c, err := p.CA.Known(ctx, serials[0]); err != nil || ca.KeptAs(c.Serial[:]) != ca.Brief {
		t.Errorf("the record knows of the first: %v, %v", c, err)
	}
}
