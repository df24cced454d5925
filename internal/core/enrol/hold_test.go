package enrol_test

import (
	"crypto/x509"
	"testing"

	"mooring/internal/app/apptest"
	"mooring/internal/base/errs"
	"mooring/internal/core/revoke"
	"mooring/wire/der"
)

// TestASpentTokenIsNoWayAroundAHold: the answer to a repeated request is another certificate where the first is not kept, but not when that is on
// hold.
func TestASpentTokenIsNoWayAroundAHold(t *testing.T) {
	for _, profile := range []string{"device", "device-short"} {
		t.Run(profile, func(t *testing.T) {
			p := apptest.Start(t, nil)
			_, token := p.Device(t, "meter-1", profile)
			csr := apptest.CSR(t, apptest.Key(t), der.RequestSpec{})
			c := submit(t, p, byToken("meter-1", token, csr))
			if _, err := p.Revoke.Certificate(t.Context(), apptest.Operator(), c.Serial[:], revoke.CertificateHold); err != nil {
				t.Fatal(err)
			}
			wantRefusal(t, p, byToken("meter-1", token, csr), errs.Denied, "the device's newest certificate is on hold, and with it the one before; ask the device's operator")
			if _, err := p.Revoke.Release(t.Context(), apptest.Operator(), c.Serial[:]); err != nil {
				t.Fatal(err)
			}
			submit(t, p, byToken("meter-1", token, csr))
		})
	}
}

// TestAStolenCAKeyMakesNoNewestCertificate: of a certificate that is not kept, the slot knows the key and the CA.
func TestAStolenCAKeyMakesNoNewestCertificate(t *testing.T) {
	p := apptest.Start(t, nil)
	_, victim := p.Enrolled(t, "meter-1", "device-short")
	if _, err := p.Enrol.Authenticate(t.Context(), victim.Certificate); err != nil {
		t.Fatal(err)
	}
	wantStranger(t, p, ours(t, p).pair(t, func(c *x509.Certificate) {
		c.SerialNumber, c.Subject, c.URIs, c.AuthorityKeyId = victim.Leaf.SerialNumber, victim.Leaf.Subject, victim.Leaf.URIs, victim.Leaf.AuthorityKeyId
	}))
}
