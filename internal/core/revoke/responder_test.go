package revoke

import (
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"testing"

	xocsp "golang.org/x/crypto/ocsp"

	"mooring/internal/core/ca"
	"mooring/internal/core/key"
	"mooring/wire/der"
	"mooring/wire/ocsp"
)

// delegating makes every CA of w delegate, but services, which has no responder.
func delegating(w *world) {
	w.Deps.OCSP.Mode = func(issuer string) Mode {
		if issuer == "services" {
			return Off
		}
		return Delegated
	}
}

// delegateOf returns the certificate that came with an answer, after checking that an implementation that is not ours takes it.
func delegateOf(t *testing.T, a *Answer, i *ca.Issuer) *x509.Certificate {
	t.Helper()
	parsed, err := xocsp.ParseResponse(a.DER, i.Certificate())
	must(t, err)
	if parsed.Certificate == nil {
		t.Fatal("no certificate came with the answer")
	}
	return parsed.Certificate
}

func TestDelegated(t *testing.T) {
	w := newWorld(t)
	delegating(w)
	devices, root := w.issuer(t, "devices"), w.issuer(t, "root")
	c := w.issue(t, w.add(t, "pump").ID, nil)
	q := question(t, devices, crypto.SHA256, nil, c.Serial[:])
	a, err := w.OCSP(t.Context(), q)
	must(t, err)
	cert := delegateOf(t, a, devices)
	life := cert.NotAfter.Sub(cert.NotBefore).Hours()
	if life < 7*24 || life > 30*24 || cert.KeyUsage != x509.KeyUsageDigitalSignature || len(cert.ExtKeyUsage) != 1 || cert.ExtKeyUsage[0] != x509.ExtKeyUsageOCSPSigning ||
		len(cert.CRLDistributionPoints)+len(cert.OCSPServer) > 0 || cert.IsCA {
		t.Errorf("the responder's certificate: %.0f hours, usage %v %v, %+v", life, cert.KeyUsage, cert.ExtKeyUsage, cert)
	}
	nocheck := false
	for _, e := range cert.Extensions {
		nocheck = nocheck || e.Id.String() == "1.3.6.1.5.5.7.48.1.5" && string(e.Value) == "\x05\x00" && !e.Critical
	}
	if !nocheck {
		t.Errorf("the responder's certificate has no ocsp-nocheck: %v", cert.Extensions)
	}
	row, err := w.CA.Get(t.Context(), cert.SerialNumber.Bytes())
	must(t, err)
	if row.Profile != ca.ResponderProfile || row.Issuer != devices.ID() || row.Device != [16]byte{} {
		t.Errorf("the row of the responder's certificate: %+v", row)
	}
	w.sound(t)

	// One for each CA, also for one whose own key may not sign answers, which then tells about the CAs below it.
	a, err = w.OCSP(t.Context(), question(t, root, crypto.SHA1, nil, devices.Certificate().SerialNumber.Bytes()))
	must(t, err)
	delegateOf(t, a, root)
	if r, err := ocsp.ParseResponse(a.DER); err != nil || r.Singles[0].Status != ocsp.Good {
		t.Errorf("a CA below the root: got %+v, %v, want good", r, err)
	}
	if a, err := w.OCSP(t.Context(), question(t, w.issuer(t, "services"), crypto.SHA1, nil, c.Serial[:])); a.Status != ocsp.Unauthorized || err != nil {
		t.Errorf("a CA with OCSP off: got %s, %v", a.Status, err)
	}
	if n := w.Metrics().Delegates; n != 2 {
		t.Errorf("%d delegates were made, want 2", n)
	}
}

func TestDelegatesRotate(t *testing.T) {
	w := newWorld(t)
	delegating(w)
	w.Deps.OCSP.Delegation = 7 * 24 * 3600e9
	devices := w.issuer(t, "devices")
	q := question(t, devices, crypto.SHA1, nil, w.issue(t, w.add(t, "pump").ID, nil).Serial[:])
	ask := func() (*Answer, *x509.Certificate) {
		t.Helper()
		a, err := w.OCSP(t.Context(), q)
		must(t, err)
		cert := delegateOf(t, a, devices)
		if a.NextUpdate > cert.NotAfter.Unix() {
			t.Errorf("the answer holds to %d, its signer to %d", a.NextUpdate, cert.NotAfter.Unix())
		}
		return a, cert
	}
	const hour = 3600
	_, first := ask()
	w.now.Add(3*24*hour + 11*hour)
	late, same := ask()
	w.now.Add(2 * hour)
	if got, _ := ask(); got != late {
		t.Error("an answer of the old responder was dropped when its successor came")
	}
	w.now.Add(12 * hour)
	_, second := ask()
	if !same.Equal(first) || second.Equal(first) || second.NotBefore.After(first.NotAfter.Add(-2*24*3600e9)) {
		t.Errorf("responders %s, %s, %s: want the same up to half of its life and then another, both valid for days", first.SerialNumber, same.SerialNumber, second.SerialNumber)
	}
	// Without the CA's key the responder goes on to its end; the new one, with it, is there at once.
	custody := w.Keys
	w.CA, w.Keys = ca.New(ca.Deps{DB: w.DB, Audit: w.Audit, Access: w.Access, Keys: noKeys{custody}, Now: w.Now}), noKeys{custody}
	must(t, w.CA.Load(t.Context()))
	w.now.Store(second.NotAfter.Unix() - hour)
	if a, cert := ask(); !cert.Equal(second) || a.NextUpdate != second.NotAfter.Unix() {
		t.Errorf("with the CA's key away: responder %s, answer to %d, want %s to its end", cert.SerialNumber, a.NextUpdate, second.SerialNumber)
	}
	w.now.Add(2 * hour)
	if a, err := w.OCSP(t.Context(), q); a.Status != ocsp.TryLater || err == nil {
		t.Errorf("after the end of the last responder: got %s, %v", a.Status, err)
	}
}

// TestDelegateRevoked revokes the certificate of the responder itself.
func TestDelegateRevoked(t *testing.T) {
	w := newWorld(t)
	delegating(w)
	devices := w.issuer(t, "devices")
	q := question(t, devices, crypto.SHA1, nil, w.issue(t, w.add(t, "pump").ID, nil).Serial[:])
	a, err := w.OCSP(t.Context(), q)
	must(t, err)
	first := delegateOf(t, a, devices)
	_, err = w.Certificate(t.Context(), operator, first.SerialNumber.Bytes(), KeyCompromise)
	must(t, err)
	a, err = w.OCSP(t.Context(), q)
	must(t, err)
	if delegateOf(t, a, devices).Equal(first) {
		t.Error("the revoked responder still answers")
	}
	w.sound(t)
}

// TestDelegatedUnderLoad asks from many sides while a responder is made and while it is replaced.
func TestDelegatedUnderLoad(t *testing.T) {
	w := newWorld(t)
	delegating(w)
	devices := w.issuer(t, "devices")
	c := w.issue(t, w.add(t, "pump").ID, nil)
	for range 3 {
		errors := make(chan error, 32)
		for k := range cap(errors) {
			go func() {
				a, err := w.OCSP(t.Context(), question(t, devices, crypto.SHA1, []byte{byte(k + 1)}, c.Serial[:]))
				if err == nil {
					_, err = xocsp.ParseResponse(a.DER, devices.Certificate())
				}
				errors <- err
			}()
		}
		for range cap(errors) {
			must(t, <-errors)
		}
		w.now.Add(8 * 24 * 3600)
	}
	if n := w.Metrics().Delegates; n != 3 {
		t.Errorf("%d delegates were made, want 3", n)
	}
}

// TestCAWithoutKey imports a CA whose key is elsewhere: nobody here can answer for it, whatever the mode.
func TestCAWithoutKey(t *testing.T) {
	for _, mode := range []Mode{FromCA, Delegated} {
		w := newWorld(t)
		w.Deps.OCSP.Mode = func(string) Mode { return mode }
		private, err := key.New(key.P256)
		must(t, err)
		spki, err := der.EncodePublicKey(private.Public())
		must(t, err)
		subject, err := der.ParseDN("O=Elsewhere, CN=Elsewhere Root G1")
		must(t, err)
		name, err := der.BuildName(subject)
		must(t, err)
		now := w.now.Load()
		raw, err := ca.Certify(private, rand.Reader, now, ca.CACertificate{Subject: name, SPKI: spki, NotBefore: now - 3600, NotAfter: now + 365*86400, PathLen: 1})
		must(t, err)
		_, err = w.CA.Import(t.Context(), admin, ca.Import{Name: "elsewhere", Chain: [][]byte{raw}})
		must(t, err)
		i := w.issuer(t, "elsewhere")
		a, err := w.OCSP(t.Context(), question(t, i, crypto.SHA1, nil, []byte{1}))
		if a.Status != ocsp.Unauthorized || err != nil || !i.Offline() {
			t.Errorf("%s: got %s, %v, want unauthorized", mode, a.Status, err)
		}
	}
}
