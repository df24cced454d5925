package acme_test

import (
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"net/http"
	"testing"
	"time"

	"mooring/internal/app/apptest"
	"mooring/internal/core/device"
	"mooring/wire/acme"
	"mooring/wire/der"
)

// refused wants a revocation to be refused, and the certificate to stand.
func (w *world) refused(t *testing.T, a *account, sent []byte, leaf *x509.Certificate) {
	t.Helper()
	want(t, a.post(t, w.base+"/acme/revoke-cert", acme.Revoke{Certificate: b64(sent)}), http.StatusForbidden, "unauthorized")
	if state, revoked, err := w.Revoke.Status(t.Context(), leaf.SerialNumber.Bytes()); err != nil || revoked {
		t.Errorf("the certificate stands at %+v, revoked %v, %v", state, revoked, err)
	}
}

// TestRevokeForged: of a certificate that is recorded in brief, its serial number and key with other names beside them are no proof, whoever
// signed them.
func TestRevokeForged(t *testing.T) {
	w := newWorld(t, nil)
	victim, _ := w.bound(t, "gw-victim", "trusted", "dns:v.example.com")
	key := apptest.Key(t)
	_, chain := victim.obtain(t, acme.NewOrder{Identifiers: identifiers("v.example.com"), Profile: "short"}, key)
	leaf, issuer := parse(t, chain[0]), parse(t, chain[1])
	attacker, _ := w.bound(t, "www.example.com", "validated")
	_, o := attacker.order(t, acme.NewOrder{Identifiers: identifiers("www.example.com")})
	attacker.validate(t, o)
	spec := &x509.Certificate{SerialNumber: leaf.SerialNumber, Subject: pkix.Name{CommonName: "x"}, NotBefore: time.Now(), NotAfter: time.Now().Add(time.Hour), DNSNames: []string{"www.example.com"}}
	for name, parent := range map[string]*x509.Certificate{"of another CA": {Subject: pkix.Name{CommonName: "evil"}}, "in the name of the CA": {RawSubject: issuer.RawSubject, SubjectKeyId: issuer.SubjectKeyId}} {
		t.Run(name, func(t *testing.T) {
			forged, err := x509.CreateCertificate(rand.Reader, spec, parent, leaf.PublicKey, apptest.Key(t))
			if err != nil {
				t.Fatal(err)
			}
			w.refused(t, attacker, forged, leaf)
			w.refused(t, victim, forged, leaf)
			w.refused(t, &account{w: w, key: key}, forged, leaf)
		})
	}
	w.refused(t, attacker, chain[0], leaf)
	if r := victim.post(t, w.base+"/acme/revoke-cert", acme.Revoke{Certificate: b64(chain[0])}); r.StatusCode != http.StatusOK {
		t.Errorf("its own device got %d %s", r.StatusCode, r.Text)
	}
}

// TestRevokeOthers: the names that count for another device's certificate are those that were shown, and they must be all that it has.
func TestRevokeOthers(t *testing.T) {
	w, m := attestWorld(t)
	t.Run("a name that the account is trusted with", func(t *testing.T) {
		victim, _ := w.bound(t, "gw-1", "trusted", "dns:gw1.example.com")
		wanted := acme.NewOrder{Identifiers: identifiers("gw1.example.com")}
		_, chain := victim.obtain(t, wanted, apptest.Key(t))
		other, _ := w.bound(t, "gw-2", "trusted")
		if _, o := other.order(t, wanted); o.Status != acme.StatusReady {
			t.Fatalf("the order is %s: this shows nothing", o.Status)
		}
		w.refused(t, other, chain[0], parse(t, chain[0]))
	})
	t.Run("names of other kinds beside it", func(t *testing.T) {
		victim, _ := w.bound(t, "unit-1", "both", "dns:u1.example.com")
		key := apptest.Key(t)
		wanted := permanent("unit-1")
		wanted.Identifiers = append(wanted.Identifiers, identifiers("u1.example.com")...)
		_, o := victim.order(t, wanted)
		victim.attest(t, o, func(_, auth string) []byte {
			return m.statement(t, key, w.Clock.Now(), auth, der.PermanentIdentifier("unit-1", ""))
		})
		done := into[acme.Order](t, victim.post(t, o.Finalize, csr(t, key, "u1.example.com")))
		chain := decodePEM(t, victim.post(t, done.Certificate, nil).Text)
		if names := altNames(t, chain[0]); len(names.Other) != 1 || len(names.DNS) != 1 {
			t.Fatalf("the certificate has the names %+v: this shows nothing", names)
		}
		w.Add(t, device.Spec{Name: "u1.example.com", Profile: "validated"})
		other := w.open(t)
		_, o = other.order(t, acme.NewOrder{Identifiers: identifiers("u1.example.com")})
		other.validate(t, o)
		w.refused(t, other, chain[0], parse(t, chain[0]))
	})
}
