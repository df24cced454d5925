package app_test

import (
	"crypto/x509"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	agent "mooring/agent/v2x"
	"mooring/internal/app"
	"mooring/internal/app/apptest"
	"mooring/internal/base/conf"
	"mooring/internal/core/ca"
	"mooring/internal/core/device"
	"mooring/internal/core/enrol"
	"mooring/internal/core/key"
	"mooring/internal/core/revoke"
	"mooring/wire/butterfly"
	"mooring/wire/der"
)

// carProfile is a profile for X.509 certificates that are enrolment credentials (TS 102 941, 6.1.3.1). The certificate policy is 1.2.3.4.
const carProfile = `name: car
issuer: cars
slot: operational
subject:
  - C: DE
  - O: Acme
  - CN: "{device.name}"
keys: [ec-p256]
key_usage: [digitalSignature, contentCommitment]
extensions:
  - oid: 2.5.29.32
    value: "3007300506032a0304"
validity: 90d
renew_before: 30d
reuse_key: allowed
evidence: [token, operational]
crl: true
ocsp: true
retention: 1y
`

// BFK-5: requests that are signed with an X.509 certificate, which needs no enrolment credential beside it.
func TestV2XButterflyX509(t *testing.T) {
	t.Parallel()
	p := carsBy509(t, apptest.Start(t, nil))
	plain := p.x509Car(t, "plain", "device")
	one, two := p.x509Car(t, "car-1", "car"), p.x509Car(t, "car-2", "car")
	client := p.client(t)
	order := func(by *agent.X509Credential) (*agent.Butterfly, error) {
		b, err := client.PrepareButterfly(by, agent.ButterflyOrder{Variant: butterfly.Unified})
		must(t, err)
		return b, client.OrderButterfly(t.Context(), b)
	}
	if _, err := order(plain.by); status(err) != http.StatusForbidden {
		t.Errorf("a certificate of another profile: %v", err)
	}
	if refusals(t, p.Audit, "v2x.butterfly", "deniedpermissions") == 0 {
		t.Error("the record has no refusal")
	}
	stolen := &agent.X509Credential{Certificate: one.by.Certificate, Key: newECKey(t)}
	if _, err := order(stolen); status(err) != http.StatusForbidden {
		t.Errorf("a certificate without its key: %v", err)
	}
	b, err := order(one.by)
	must(t, err)
	var batch *agent.Batch
	apptest.Until(t, "the tickets are there", func() bool {
		batch, err = client.FetchButterfly(t.Context(), one.by, b, b.First)
		return status(err) != http.StatusNotFound
	})
	if err != nil || len(batch.Tickets) != 3 {
		t.Fatalf("%v, %v", batch, err)
	}
	if _, err := client.FetchButterfly(t.Context(), two.by, b, b.First); status(err) != http.StatusForbidden {
		t.Errorf("BFK-7: another station gets %v", err)
	}
	x, err := x509.ParseCertificate(one.by.Certificate)
	must(t, err)
	_, err = p.Revoke.Certificate(t.Context(), apptest.Operator(), x.SerialNumber.Bytes(), revoke.KeyCompromise)
	must(t, err)
	if _, err := client.FetchButterfly(t.Context(), one.by, b, b.First); status(err) != http.StatusForbidden {
		t.Errorf("BFK-7: with a revoked certificate: %v", err)
	}
	if _, err := order(one.by); status(err) != http.StatusForbidden {
		t.Errorf("BFK-14: with a revoked certificate: %v", err)
	}
}

// carsBy509 gives a platform a CA with a country, the profile of cars, and the authorities.
func carsBy509(t *testing.T, base *apptest.Platform) *v2xPlatform {
	t.Helper()
	subject := []der.Attribute{{Type: der.OIDCountry, Value: "DE"}, {Type: der.OIDOrganization, Value: "Acme"}, {Type: der.OIDCommonName, Value: "Acme Cars G1"}}
	_, err := base.CA.Create(t.Context(), apptest.Operator(), ca.Spec{Name: "cars", Parent: "root", Subject: subject, Algorithm: key.P256, Validity: 10 * 365 * 86400})
	must(t, err)
	must(t, os.WriteFile(filepath.Join(base.Config.ProfileDir(), "car.yaml"), []byte(carProfile), 0o644))
	c := base.Config
	base.Stop(t)
	c.V2X.Butterfly = conf.Butterfly{On: true, Period: 7 * 24 * time.Hour, Tickets: 3, Ahead: 1, Stations: 1}
	c.Listen.V2XEA, c.Listen.V2XValidation, c.Listen.V2XAA, c.Listen.V2XDC = freeAddress(t), freeAddress(t), freeAddress(t), freeAddress(t)
	made, err := app.MakeV2X(t.Context(), app.Options{Config: c, Keys: base.Made.Keys, Now: base.Clock.Now, Log: base.Log.Logger()}, "Test")
	must(t, err)
	base.Restart(t)
	return &v2xPlatform{Platform: base.Platform, made: made, clock: base.Clock, log: base.Log}
}

// x509Car is a vehicle with an X.509 certificate.
type x509Car struct {
	by     *agent.X509Credential
	device device.ID
}

func (p *v2xPlatform) x509Car(t *testing.T, name, profile string) x509Car {
	t.Helper()
	d, err := p.Devices.Add(t.Context(), apptest.Operator(), device.Spec{Name: name, Profile: profile, Tags: map[string]string{"v2x": "vehicle"}})
	must(t, err)
	token, _, err := p.Devices.Token(t.Context(), apptest.Operator(), d.ID, 0)
	must(t, err)
	k := newECKey(t)
	r, err := p.Enrol.Submit(t.Context(), enrol.Request{Protocol: "est", Op: enrol.Enrol, Basic: true, User: name, Secret: token, CSR: apptest.CSR(t, k, der.RequestSpec{})})
	must(t, err)
	return x509Car{&agent.X509Credential{Certificate: r.Certificate.DER, Key: k}, d.ID}
}
