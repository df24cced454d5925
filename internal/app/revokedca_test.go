package app_test

import (
	"crypto/x509"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"

	"mooring/internal/app/apptest"
	"mooring/internal/base/errs"
	"mooring/internal/core/access"
	"mooring/internal/core/revoke"
	"mooring/wire/der"
)

// TestARevokedCA: the certificate of an issuing CA is put on hold, released, and revoked. While it is barred nothing is issued below it and
// nobody is believed whom it certified, also after a restart; the list of the CA above says so.
func TestARevokedCA(t *testing.T) {
	p := apptest.Start(t, nil)
	ctx := t.Context()
	devices, err := p.CA.Issuer("devices")
	must(t, err)
	serial := devices.Certificate().SerialNumber.Bytes()
	_, pair := p.Enrolled(t, "meter-1", "device")
	enrols := func(name string) apptest.Reply {
		d, token := p.Device(t, name, "device")
		return p.Send(t, apptest.Call{Path: "/.well-known/est/simpleenroll", User: d.Name, Secret: token, Body: apptest.Body(apptest.CSR(t, apptest.Key(t),
			der.RequestSpec{}))})
	}
	renews := func() apptest.Reply {
		return p.Send(t, apptest.Call{Path: "/.well-known/est/simplereenroll", Body: apptest.Body(apptest.CSR(t, apptest.Key(t), der.RequestSpec{
			Subject: subjectOf(t, pair.Leaf.RawSubject), Names: der.AltNames{URI: []string{pair.Leaf.URIs[0].String()}}}))}, pair)
	}
	if r := renews(); r.StatusCode != http.StatusOK {
		t.Fatalf("before: got %s", r)
	}
	operator := apptest.Operator()
	operator.Role = access.RoleOperator
	if _, err := p.Revoke.Certificate(ctx, operator, serial, revoke.CACompromise); !errs.Is(err, errs.Denied) {
		t.Fatalf("by an operator: got %v, want Denied", err)
	}
	for _, step := range []struct {
		name  string
		do    func() error
		works bool
	}{
		{"hold", func() error {
			_, err := p.Revoke.Certificate(ctx, apptest.Operator(), serial, revoke.CertificateHold)
			return err
		}, false},
		{"release", func() error { _, err := p.Revoke.Release(ctx, apptest.Operator(), serial); return err }, true},
		{"revoke", func() error {
			_, err := p.Revoke.Certificate(ctx, apptest.Operator(), serial, revoke.CACompromise)
			return err
		}, false},
		{"restart", func() error { p.Restart(t); return nil }, false},
	} {
		must(t, step.do())
		first, again := enrols("new-after-"+step.name), renews()
		if (first.StatusCode == http.StatusOK) != step.works || (again.StatusCode == http.StatusOK) != step.works {
			t.Errorf("after %s: enrolment %s, renewal %s, want them to work: %v", step.name, first, again, step.works)
		}
		if !step.works && !strings.Contains(string(first.Text), "revoked or on hold") {
			t.Errorf("after %s: the device is told %q", step.name, first.Text)
		}
		if got := listed(t, p, devices.Parent().ID().String(), serial); got == step.works {
			t.Errorf("after %s: the root's list names the CA: %v", step.name, got)
		}
	}
}

// listed reports whether the published list of a CA names a serial number.
func listed(t *testing.T, p *apptest.Platform, issuer string, serial []byte) bool {
	t.Helper()
	r, err := http.Get(p.Addresses().Status + "/crl/" + issuer + ".crl")
	must(t, err)
	raw, err := io.ReadAll(r.Body)
	must(t, errors.Join(err, r.Body.Close()))
	l, err := x509.ParseRevocationList(raw)
	must(t, err)
	for _, e := range l.RevokedCertificateEntries {
		if string(e.SerialNumber.Bytes()) == string(serial) {
			return true
		}
	}
	return false
}
