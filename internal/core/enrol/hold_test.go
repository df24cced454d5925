package enrol_test

import (
	"crypto/tls"
	"crypto/x509"
	"testing"

	"mooring/internal/app/apptest"
	"mooring/internal/base/errs"
	"mooring/internal/core/device"
	"mooring/internal/core/enrol"
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

// TestABirthCertificateIsNoWayAroundAHold: what a device has from its manufacturer stays with it, and with whoever has taken it over.
func TestABirthCertificateIsNoWayAroundAHold(t *testing.T) {
	p := apptest.Start(t, nil)
	foreign := authority(t)
	key, birth := foreign.issue(t, nil)
	p.Add(t, device.Spec{Name: "meter-1", Profile: "device", Birth: birth.Raw})
	pair := tls.Certificate{Certificate: [][]byte{birth.Raw, foreign.cert.Raw}, PrivateKey: key, Leaf: birth}
	ask := func() enrol.Request {
		return byCert(enrol.Enrol, pair, apptest.CSR(t, apptest.Key(t), der.RequestSpec{}))
	}
	c := submit(t, p, ask())
	if _, err := p.Revoke.Certificate(t.Context(), apptest.Operator(), c.Serial[:], revoke.CertificateHold); err != nil {
		t.Fatal(err)
	}
	wantRefusal(t, p, ask(), errs.Denied, "the device's newest certificate is on hold; ask the device's operator")
	if _, err := p.Revoke.Release(t.Context(), apptest.Operator(), c.Serial[:]); err != nil {
		t.Fatal(err)
	}
	submit(t, p, ask())
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
