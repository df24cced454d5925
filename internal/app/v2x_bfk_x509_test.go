package app_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"io"
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
	"mooring/wire/cocoon"
	"mooring/wire/der"
	"mooring/wire/scr"
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
	oauth := newECKey(t)
	p := carsBy509(t, apptest.Start(t, nil), oauth)
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
	p.byToken(t, one, two, b, oauth)
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

// byToken has stations show access tokens of an OAuth server: beside a request, and for a download.
func (p *v2xPlatform) byToken(t *testing.T, one, two x509Car, b *agent.Butterfly, key *ecdsa.PrivateKey) {
	t.Helper()
	name := cocoon.ArchiveName(b.ID, b.First)
	mine, others := oauthToken(t, key, "car-1", p.clock.Now()), oauthToken(t, key, "car-2", p.clock.Now())
	for _, row := range []struct {
		what, token, name string
		status            int
	}{
		{"its own token", mine, name, 200}, {"another station's token", others, name, 403}, {"a token of nobody", oauthToken(t, key, "nobody", p.clock.Now()), name, 403},
		{"a token that is over", oauthToken(t, key, "car-1", p.clock.Now().Add(-time.Hour)), name, 403}, {"a token of another server", oauthToken(t, newECKey(t), "car-1", p.clock.Now()), name, 403},
		{"no name", mine, "", 403},
	} {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, p.Addresses().V2XEA+"/butterfly/download?filename="+row.name, nil)
		must(t, err)
		r.Header.Set("Authorization", "Bearer "+row.token)
		a, err := http.DefaultClient.Do(r)
		must(t, err)
		archive, err := io.ReadAll(a.Body)
		must(t, err)
		must(t, a.Body.Close())
		if a.StatusCode != row.status {
			t.Errorf("BFK-7: a download by %s: %d, want %d", row.what, a.StatusCode, row.status)
		}
		if row.status != http.StatusOK {
			continue
		}
		if batch, err := p.client(t).OpenButterfly(b, archive); err != nil || len(batch.Tickets) != 3 {
			t.Errorf("BFK-7: a download by %s: %v, %v", row.what, batch, err)
		}
	}
	for _, row := range []struct {
		token  string
		status int
	}{{mine, 403}, {others, 200}} { // the request is of car-2
		b, err := p.client(t).PrepareButterfly(two.by, agent.ButterflyOrder{})
		must(t, err)
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, p.Addresses().V2XEA+"/butterfly", bytes.NewReader(b.Request))
		must(t, err)
		r.Header.Set("Content-Type", scr.RequestType)
		r.Header.Set("Authorization", "Bearer "+row.token)
		a, err := http.DefaultClient.Do(r)
		must(t, err)
		must(t, a.Body.Close())
		if a.StatusCode != row.status {
			t.Errorf("BFK-5: a request with a token: %d, want %d", a.StatusCode, row.status)
		}
	}
}

// oauthToken is an access token (RFC 9068) that is good for a minute.
func oauthToken(t *testing.T, key *ecdsa.PrivateKey, name string, at time.Time) string {
	t.Helper()
	claims := fmt.Sprintf(`{"iss":"https://login.test","aud":"mooring","sub":%q,"exp":%d,"scope":"v2x"}`, name, at.Add(time.Minute).Unix())
	text := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"ES256","typ":"at+jwt"}`)) + "." + base64.RawURLEncoding.EncodeToString([]byte(claims))
	sum := sha256.Sum256([]byte(text))
	r, s, err := ecdsa.Sign(rand.Reader, key, sum[:])
	must(t, err)
	return text + "." + base64.RawURLEncoding.EncodeToString(append(r.FillBytes(make([]byte, 32)), s.FillBytes(make([]byte, 32))...))
}

// carsBy509 gives a platform a CA with a country, the profile of cars, and the authorities.
func carsBy509(t *testing.T, base *apptest.Platform, oauth *ecdsa.PrivateKey) *v2xPlatform {
	t.Helper()
	public, err := x509.MarshalPKIXPublicKey(&oauth.PublicKey)
	must(t, err)
	must(t, os.WriteFile(filepath.Join(base.Config.Dir, "oauth.pem"), pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public}), 0o644))
	subject := []der.Attribute{{Type: der.OIDCountry, Value: "DE"}, {Type: der.OIDOrganization, Value: "Acme"}, {Type: der.OIDCommonName, Value: "Acme Cars G1"}}
	_, err = base.CA.Create(t.Context(), apptest.Operator(), ca.Spec{Name: "cars", Parent: "root", Subject: subject, Algorithm: key.P256, Validity: 10 * 365 * 86400})
	must(t, err)
	must(t, os.WriteFile(filepath.Join(base.Config.ProfileDir(), "car.yaml"), []byte(carProfile), 0o644))
	c := base.Config
	base.Stop(t)
	c.V2X.Butterfly = conf.Butterfly{On: true, Period: 7 * 24 * time.Hour, Tickets: 3, Ahead: 1, Stations: 1,
		TokenKey: "oauth.pem", TokenIssuer: "https://login.test", TokenAudience: "mooring"}
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

// A certificate that was replaced orders nothing and fetches nothing, although it is not revoked. The one before the newest does, unless the newest is on hold.
func TestV2XButterflyReplacedX509(t *testing.T) {
	t.Parallel()
	p := carsBy509(t, apptest.Start(t, nil), newECKey(t))
	car := p.x509Car(t, "car-1", "car")
	client := p.client(t)
	renewed := func(before *agent.X509Credential) *agent.X509Credential {
		x, err := x509.ParseCertificate(before.Certificate)
		must(t, err)
		k := newECKey(t)
		r, err := p.Enrol.Submit(t.Context(), enrol.Request{Protocol: "est", Op: enrol.Renew, Chain: [][]byte{before.Certificate}, CSR: apptest.CSR(t, k, der.RequestSpec{RawSubject: x.RawSubject})})
		must(t, err)
		return &agent.X509Credential{Certificate: r.Certificate.DER, Key: k}
	}
	var b *agent.Butterfly
	check := func(what string, by *agent.X509Credential, want int) {
		t.Helper()
		if _, err := client.FetchButterfly(t.Context(), by, b, b.First); status(err) != want {
			t.Errorf("with %s an archive is fetched: %v, want status %d", what, err, want)
		}
		other, err := client.PrepareButterfly(by, agent.ButterflyOrder{Variant: butterfly.Unified})
		must(t, err)
		if err := client.OrderButterfly(t.Context(), other); want != 0 && status(err) != want {
			t.Errorf("with %s tickets are ordered: %v, want status %d", what, err, want)
		}
	}
	first := car.by
	b, err := client.PrepareButterfly(first, agent.ButterflyOrder{Variant: butterfly.Unified})
	must(t, err)
	must(t, client.OrderButterfly(t.Context(), b))
	apptest.Until(t, "the tickets are there", func() bool {
		_, err := client.FetchButterfly(t.Context(), first, b, b.First)
		return status(err) != http.StatusNotFound
	})
	second := renewed(first)
	check("the certificate before the newest", first, 0)
	third := renewed(second)
	check("a replaced certificate", first, http.StatusForbidden)
	for _, action := range []string{"v2x.butterfly", "v2x.download"} {
		if refusals(t, p.Audit, action, "baditsstatus") == 0 {
			t.Errorf("the record has no refusal of %s", action)
		}
	}
	check("the certificate before the newest", second, 0)
	x, err := x509.ParseCertificate(third.Certificate)
	must(t, err)
	_, err = p.Revoke.Certificate(t.Context(), apptest.Operator(), x.SerialNumber.Bytes(), revoke.CertificateHold)
	must(t, err)
	check("the certificate before one that is on hold", second, http.StatusForbidden)
}
