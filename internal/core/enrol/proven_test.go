package enrol_test

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"slices"
	"strings"
	"testing"

	"mooring/internal/app/apptest"
	"mooring/internal/base/db"
	"mooring/internal/base/errs"
	"mooring/internal/core/ca"
	"mooring/internal/core/device"
	"mooring/internal/core/enrol"
	"mooring/internal/core/revoke"
	"mooring/wire/der"
)

// shownTo is a gateway's profile for what other slices prove.
func shownTo() apptest.Profile {
	return apptest.Variant("gateway", "shown", "evidence: [account, domain, attested, operational]")
}

func proven(d device.Device, e ca.Evidence, csr []byte, names ...string) enrol.Request {
	return enrol.Request{Protocol: "acme", Op: enrol.Enrol, CSR: csr, Proven: &enrol.Proven{Device: d.ID, Evidence: e, Names: names}}
}

func asking(t *testing.T, names ...string) []byte {
	t.Helper()
	return apptest.CSR(t, apptest.Key(t), der.RequestSpec{Names: der.AltNames{DNS: names}})
}

func TestProven(t *testing.T) {
	p := apptest.Start(t, nil, shownTo())
	d := p.Add(t, device.Spec{Name: "gw1.example.com", Profile: "shown", Names: []string{"dns:gw1.example.com", "dns:other.example.com", "ip:192.0.2.7"}})
	for _, e := range []ca.Evidence{ca.EvidenceAccount, ca.EvidenceDomain, ca.EvidenceAttested} {
		t.Run(string(e), func(t *testing.T) {
			subject, err := der.BuildName([]der.Attribute{{Type: der.OIDCommonName, Value: "gw1.example.com"}})
			if err != nil {
				t.Fatal(err)
			}
			csr := apptest.CSR(t, apptest.Key(t), der.RequestSpec{RawSubject: subject, Names: der.AltNames{DNS: []string{"gw1.example.com"}}})
			r := proven(d, e, csr, "dns:gw1.example.com")
			r.Proven.Once = []byte("order " + e)
			c := submit(t, p, r)
			leaf, err := x509.ParseCertificate(c.DER)
			if err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(leaf.DNSNames, []string{"gw1.example.com"}) || len(leaf.IPAddresses) != 0 || len(leaf.URIs) != 1 {
				t.Errorf("the certificate is for %v %v %v, want what was shown and the device's URI", leaf.DNSNames, leaf.IPAddresses, leaf.URIs)
			}
			list := entries(t, p, issues(d.ID))
			last := list[len(list)-1]
			if last.Detail["evidence"] != string(e) || last.Detail["order"] != hex.EncodeToString(r.Proven.Once) || last.Actor != "device:"+d.ID.String() {
				t.Errorf("the record says %+v", last)
			}
			if again := submit(t, p, r); again.Serial != c.Serial {
				t.Error("the same request got another certificate")
			}
			r.Proven.Once = []byte("next " + e)
			if next := submit(t, p, r); next.Serial == c.Serial || !bytes.Equal(next.PrevSerial, c.Serial[:]) {
				t.Error("another transaction got the same certificate, or one that follows nothing")
			}
			now := p.Load(t, d.ID)
			slot, _ := now.Slot("operational")
			if !bytes.Equal(slot.Prev, c.Serial[:]) {
				t.Errorf("the certificate before the newest one is %x, want %x", slot.Prev, c.Serial)
			}
		})
	}
	if r := p.Verify(t); len(r.Findings) > 0 {
		t.Errorf("the record does not fit: %v", r.Findings)
	}
}

func TestProvenRefusals(t *testing.T) {
	named := apptest.Variant("gateway", "named", "evidence: [domain]")
	named.YAML = strings.Replace(named.YAML, "  dns:\n", "  dns:\n    fixed: [\"{device.name}.example.com\"]\n    request: [\"*.example.com\"]\n", 1)
	p := apptest.Start(t, nil, shownTo(), named)
	d := p.Add(t, device.Spec{Name: "gw1.example.com", Profile: "shown", Names: []string{"dns:gw1.example.com", "dns:other.example.com"}})
	gw2 := p.Add(t, device.Spec{Name: "gw2", Profile: "named"})
	meter := p.Add(t, device.Spec{Name: "meter-1", Profile: "device"})
	own := asking(t, "gw1.example.com")
	attested := proven(d, ca.EvidenceAttested, own, "dns:gw1.example.com")
	attested.Proven.SPKI = bytes.Repeat([]byte{1}, 32)
	unknown := proven(device.Device{ID: device.ID{9}}, ca.EvidenceAccount, own)
	for _, c := range []struct {
		name    string
		request enrol.Request
		kind    errs.Kind
		text    string
	}{
		{"profile does not accept it", proven(meter, ca.EvidenceAccount, asking(t)), errs.Denied, "the profile device does not accept authentication by account: its evidence must list that"},
		{"name that was not shown", proven(d, ca.EvidenceAccount, asking(t, "gw1.example.com", "other.example.com"), "dns:gw1.example.com"), errs.Denied, `the certificate would be for "dns:other.example.com", which was not validated: order it, or leave it out`},
		{"shown name that the profile does not give", proven(d, ca.EvidenceAccount, asking(t, "www.example.net"), "dns:www.example.net"), errs.Denied, `the request asks for the DNS name "www.example.net", which the profile shown does not permit for this device`},
		{"fixed name that was not shown", proven(gw2, ca.EvidenceDomain, asking(t, "www.example.com"), "dns:www.example.com"), errs.Denied, `the certificate would be for "dns:gw2.example.com", which was not validated: order it, or leave it out`},
		{"another key than the attested one", attested, errs.Denied, "the request is for another key than the one that was attested: make it with that"},
		{"unknown device", unknown, errs.Denied, "the device is unknown; ask its operator"},
	} {
		t.Run(c.name, func(t *testing.T) { wantRefusal(t, p, c.request, c.kind, c.text) })
	}

	if _, err := p.Enrol.Submit(t.Context(), proven(d, ca.EvidenceOperational, own, "dns:gw1.example.com")); err == nil || errs.KindOf(err) != errs.Internal {
		t.Errorf("a foreign evidence: got %v", err)
	}

	c := submit(t, p, proven(d, ca.EvidenceAccount, own, "dns:gw1.example.com"))
	if _, err := p.Revoke.Certificate(t.Context(), apptest.Operator(), c.Serial[:], revoke.CertificateHold); err != nil {
		t.Fatal(err)
	}
	wantRefusal(t, p, proven(d, ca.EvidenceAccount, asking(t, "gw1.example.com"), "dns:gw1.example.com"), errs.Denied, "the device's newest certificate is on hold; ask the device's operator")
}

// TestTakenOnce has many finish the same order with different requests at once.
func TestTakenOnce(t *testing.T) {
	p := apptest.Start(t, nil, shownTo())
	d := p.Add(t, device.Spec{Name: "gw1", Profile: "shown", Names: []string{"dns:gw1.example.com"}})
	err := p.DB.Do(t.Context(), func(ctx context.Context, tx *db.Tx) error {
		_, err := tx.Exec(ctx, `CREATE TABLE taken (id BIGINT PRIMARY KEY, serial BYTEA NOT NULL)`)
		if err == nil {
			_, err = tx.Exec(ctx, `INSERT INTO taken (id, serial) VALUES (1, $1)`, []byte{})
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.DB.Do(context.Background(), func(ctx context.Context, tx *db.Tx) error {
			_, err := tx.Exec(ctx, `DROP TABLE taken`)
			return err
		}); err != nil {
			t.Error(err)
		}
	})
	take := func(c *ca.Certificate) (take, back *db.Stmt) {
		return &db.Stmt{SQL: `UPDATE taken SET serial = $1 WHERE id = 1 AND serial = $2`, Args: []any{c.Serial[:], []byte{}}},
			&db.Stmt{SQL: `UPDATE taken SET serial = $1 WHERE id = 1`, Args: []any{[]byte{}}}
	}
	requests := make([]enrol.Request, 8)
	for i := range requests {
		requests[i] = proven(d, ca.EvidenceAccount, asking(t, "gw1.example.com"), "dns:gw1.example.com")
		requests[i].Proven.Once, requests[i].Proven.Take = []byte("order"), take
	}
	if _, err := p.Devices.Move(t.Context(), apptest.Operator(), d.ID, device.Suspend, "test"); err != nil {
		t.Fatal(err)
	}
	wantRefusal(t, p, requests[0], errs.Denied, "this device is suspended: it may not enrol; ask its operator")
	if _, err := p.Devices.Move(t.Context(), apptest.Operator(), d.ID, device.Resume, "test"); err != nil {
		t.Fatal(err)
	}
	_, failures := together(len(requests), func(i int) (enrol.Answer, error) {
		defer p.Enrol.Expect()()
		return p.Enrol.Submit(t.Context(), requests[i])
	})
	won := 0
	for _, err := range failures {
		switch {
		case err == nil:
			won++
		case !errs.Is(err, errs.Conflict):
			t.Errorf("a loser got %v", err)
		}
	}
	if n := len(entries(t, p, issues(d.ID))); won != 1 || n != 1 {
		t.Errorf("%d requesters got a certificate and the record has %d, want 1: %v", won, n, errors.Join(failures...))
	}
}
