package app_test

import (
	"slices"
	"testing"

	xocsp "golang.org/x/crypto/ocsp"

	"mooring/internal/app/apptest"
	"mooring/internal/base/conf"
	"mooring/internal/base/errs"
	"mooring/internal/core/access"
	"mooring/internal/core/ca"
	"mooring/internal/core/key"
	"mooring/internal/core/revoke"
	"mooring/wire/der"
)

// TestARevokedCrossCertificate: the certificate by which the old root vouches for the new one is put on hold, released, and revoked. The old root's
// list and its responder say so, and it is neither announced nor sent along; the one in the other direction stays.
func TestARevokedCrossCertificate(t *testing.T) {
	p := apptest.Start(t, func(c *conf.Config) { c.OCSP.Responder = "delegated" })
	ctx, op := t.Context(), apptest.Operator()
	_, err := p.CA.Create(ctx, op, ca.Spec{Name: "root-g2", Subject: []der.Attribute{{Type: der.OIDOrganization, Value: "Test Fleet"}, {Type: der.OIDCommonName, Value: "Root G2"}}, Algorithm: key.P256, Validity: 86400 * 365, PathLen: 2})
	must(t, err)
	made, err := p.CA.Cross(ctx, op, "root", "root-g2")
	must(t, err)
	x, back := made[0], made[1]
	serial := x.Cert.SerialNumber.Bytes()
	operator := op
	operator.Role = access.RoleOperator
	if _, err := p.Revoke.Certificate(ctx, operator, serial, revoke.CACompromise); !errs.Is(err, errs.Denied) {
		t.Fatalf("by an operator: got %v, want Denied", err)
	}
	act := func(reason revoke.Reason) func() error {
		return func() error {
			r, err := p.Revoke.Certificate(ctx, op, serial, reason)
			if err == nil && (string(r.Serial) != string(serial) || r.Listed == 0) {
				t.Errorf("the answer is about %x, want %x, on list %d", r.Serial, serial, r.Listed)
			}
			return err
		}
	}
	for _, step := range []struct {
		name  string
		do    func() error
		works bool
	}{
		{"making", func() error { return nil }, true},
		{"hold", act(revoke.CertificateHold), false},
		{"release", func() error { _, err := p.Revoke.Release(ctx, op, serial); return err }, true},
		{"revoke", act(revoke.CACompromise), false},
		{"restart", func() error { p.Restart(t); return nil }, false},
	} {
		must(t, step.do())
		if got := listed(t, p, x.Issuer.ID().String(), serial); got == step.works {
			t.Errorf("after %s: the root's list names it: %v", step.name, got)
		}
		announced := slices.ContainsFunc(p.CA.Anchors("root"), func(raw []byte) bool { return string(raw) == string(x.Cert.Raw) })
		if announced != step.works {
			t.Errorf("after %s: it is announced: %v", step.name, announced)
		}
		if !slices.ContainsFunc(p.CA.Crosses(), func(c *ca.Cross) bool { return string(c.Cert.Raw) == string(back.Cert.Raw) }) {
			t.Errorf("after %s: the one in the other direction is gone", step.name)
		}
		q, err := xocsp.CreateRequest(x.Cert, x.Issuer.Certificate(), nil)
		must(t, err)
		answer, err := p.Revoke.OCSP(ctx, q)
		must(t, err)
		status, err := xocsp.ParseResponseForCert(answer.DER, x.Cert, x.Issuer.Certificate())
		must(t, err)
		if (status.Status == xocsp.Good) != step.works || !step.works && status.Status != xocsp.Revoked {
			t.Errorf("after %s: the responder says %d", step.name, status.Status)
		}
	}
	if _, err := p.CA.Cross(ctx, op, "root", "root-g2"); !errs.Is(err, errs.Conflict) {
		t.Errorf("a second one while one of the two stands: %v, want Conflict", err)
	}
	for _, f := range p.Verify(t).Findings {
		t.Errorf("verification: %s", f)
	}
}
