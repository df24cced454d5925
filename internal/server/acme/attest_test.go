package acme_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/fxamacker/cbor/v2"

	"mooring/internal/app/apptest"
	"mooring/internal/base/conf"
	"mooring/internal/core/acme"
	"mooring/internal/core/device"
	wire "mooring/wire/acme"
	"mooring/wire/der"
)

// maker is a manufacturer of things that attest in the format step.
type maker struct {
	key  *ecdsa.PrivateKey
	root *x509.Certificate
}

func newMaker(t testing.TB, now time.Time) *maker {
	t.Helper()
	m := &maker{key: apptest.Key(t)}
	spec := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Maker"}, NotBefore: now.Add(-time.Hour), NotAfter: now.Add(1000 * time.Hour), IsCA: true, BasicConstraintsValid: true}
	m.root = m.sign(t, spec, spec, m.key)
	return m
}

func (m *maker) sign(t testing.TB, spec, parent *x509.Certificate, of *ecdsa.PrivateKey) *x509.Certificate {
	t.Helper()
	raw, err := x509.CreateCertificate(rand.Reader, spec, parent, of.Public(), m.key)
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(raw)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// statement says of key that it is in the device that is called so.
func (m *maker) statement(t testing.TB, key *ecdsa.PrivateKey, now time.Time, keyAuthorization string, names ...der.OtherName) []byte {
	t.Helper()
	san, err := der.BuildAltNames(der.AltNames{Other: names})
	if err != nil {
		t.Fatal(err)
	}
	leaf := m.sign(t, &x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "attested"}, NotBefore: now.Add(-time.Minute), NotAfter: now.Add(time.Hour),
		ExtraExtensions: []pkix.Extension{{Id: []int{2, 5, 29, 17}, Value: san}}}, m.root, key)
	sum := sha256.Sum256([]byte(keyAuthorization))
	sig, err := ecdsa.SignASN1(rand.Reader, key, sum[:])
	if err != nil {
		t.Fatal(err)
	}
	inner := encodeCBOR(t, sig)
	return encodeCBOR(t, map[string]any{"fmt": "step", "attStmt": map[string]any{"alg": -7, "sig": inner, "x5c": [][]byte{leaf.Raw}}})
}

func encodeCBOR(t testing.TB, v any) []byte {
	t.Helper()
	raw, err := cbor.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// attestedProfiles are one for devices that attest, one whose certificates do not say so, one for attestation keys, and one that trusts accounts.
func attestedProfiles() []apptest.Profile {
	list := []apptest.Profile{apptest.Variant("gateway", "attested", "evidence: [attested]"), apptest.Variant("gateway", "silent", "evidence: [attested]"),
		apptest.Variant("gateway", "keys-of-tpms", "evidence: [attested]", "also_for: [attested]", "slot: tpm", "ext_key_usage: [2.23.133.8.3]")}
	list = append(list, apptest.Variant("gateway", "both", "evidence: [attested, account]", "acme: trust-account"))
	for _, i := range []int{0, 2, 3} {
		list[i].YAML = strings.Replace(list[i].YAML, "san:\n", "san:\n  attested: true\n", 1)
	}
	return list
}

// attestWorld trusts m for statements of the format step and for endorsement keys, and change may have it trusted for more.
func attestWorld(t *testing.T, change ...func(*conf.Config)) (*world, *maker) {
	t.Helper()
	m := newMaker(t, time.Now())
	file := filepath.Join(t.TempDir(), "roots.pem")
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: m.root.Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	return newWorld(t, func(c *conf.Config) {
		c.ACME.Attest.Step, c.ACME.Attest.EK = file, file
		for _, f := range change {
			f(c)
		}
	}, attestedProfiles()...), m
}

// answer sends an attestation object for the only authorization of an order and returns the authorization when it is decided.
func (a *account) attest(t testing.TB, o wire.Order, object func(token, keyAuthorization string) []byte) wire.Authorization {
	t.Helper()
	k, err := wire.NewKey(a.key.Public())
	if err != nil {
		t.Fatal(err)
	}
	url := o.Authorizations[0]
	z := into[wire.Authorization](t, a.post(t, url, nil))
	if len(z.Challenges) != 1 || z.Challenges[0].Type != wire.DeviceAttest01 {
		t.Fatalf("the challenges are %+v", z.Challenges)
	}
	ch := z.Challenges[0]
	into[wire.Challenge](t, a.post(t, ch.URL, wire.Attestation{AttObj: b64(object(ch.Token, wire.KeyAuthorization(ch.Token, k.Thumbprint[:])))}))
	for z.Status == wire.StatusPending {
		select {
		case <-t.Context().Done():
			t.Fatal("it takes too long")
		case <-time.After(10 * time.Millisecond):
		}
		z = into[wire.Authorization](t, a.post(t, url, nil))
	}
	return z
}

func permanent(value string) wire.NewOrder {
	return wire.NewOrder{Identifiers: []wire.Identifier{{Type: wire.KindPermanent, Value: value}}}
}

func altNames(t testing.TB, raw []byte) der.AltNames {
	t.Helper()
	c, err := x509.ParseCertificate(raw)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range c.Extensions {
		if e.Id.String() == "2.5.29.17" {
			names, err := der.ParseAltNames(e.Value)
			if err != nil {
				t.Fatal(err)
			}
			return names
		}
	}
	return der.AltNames{}
}

func TestDeviceAttest(t *testing.T) {
	w, m := attestWorld(t)
	bound, _ := w.bound(t, "unit-1", "attested")
	now := w.Clock.Now()
	hardware, err := der.ParseOID("1.3.6.1.4.1.99999.1")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name  string
		order wire.NewOrder
		in    der.OtherName
	}{
		{"permanent-identifier", permanent("unit-1"), der.PermanentIdentifier("unit-1", "")},
		{"hardware-module", wire.NewOrder{Identifiers: []wire.Identifier{{Type: wire.KindHardware, Value: "unit-1"}}}, der.HardwareModule(hardware, []byte("unit-1"))},
	} {
		t.Run("device-attest: CSR key other than attested, "+c.name, func(t *testing.T) {
			key := apptest.Key(t)
			_, o := bound.order(t, c.order)
			if z := bound.attest(t, o, func(_, auth string) []byte { return m.statement(t, key, now, auth, c.in) }); z.Status != wire.StatusValid {
				t.Fatalf("the authorization is %s: %+v", z.Status, z.Challenges)
			}
			r := bound.post(t, o.Finalize, csr(t, apptest.Key(t)))
			want(t, r, http.StatusForbidden, "badAttestationStatement") // another key
			r = bound.post(t, o.Finalize, wire.Finalize{CSR: b64(apptest.CSR(t, key, der.RequestSpec{Names: der.AltNames{Other: []der.OtherName{der.PermanentIdentifier("another", "")}}}))})
			want(t, r, http.StatusBadRequest, "badCSR")
			done := into[wire.Order](t, bound.post(t, o.Finalize, wire.Finalize{CSR: b64(apptest.CSR(t, key, der.RequestSpec{Names: der.AltNames{Other: []der.OtherName{c.in}}}))}))
			chain := decodePEM(t, bound.post(t, done.Certificate, nil).Text)
			if names := altNames(t, chain[0]); len(names.Other) != 1 || !names.Other[0].Same(c.in) {
				t.Errorf("the certificate has the names %+v", names)
			}
		})
	}
	t.Run("a profile that does not say so gives no such name", func(t *testing.T) {
		a, _ := w.bound(t, "unit-2", "silent")
		key := apptest.Key(t)
		_, o := a.order(t, permanent("unit-2"))
		a.attest(t, o, func(_, auth string) []byte {
			return m.statement(t, key, now, auth, der.PermanentIdentifier("unit-2", ""))
		})
		done := into[wire.Order](t, a.post(t, o.Finalize, csr(t, key)))
		if names := altNames(t, decodePEM(t, a.post(t, done.Certificate, nil).Text)[0]); len(names.Other) != 0 {
			t.Errorf("the certificate has the names %+v", names)
		}
	})
	t.Run("an open account, for the device that is called so", func(t *testing.T) {
		w.Add(t, device.Spec{Name: "unit-3", Profile: "attested"})
		a, key := w.open(t), apptest.Key(t)
		_, o := a.order(t, permanent("unit-3"))
		a.attest(t, o, func(_, auth string) []byte {
			return m.statement(t, key, now, auth, der.PermanentIdentifier("unit-3", ""))
		})
		if done := into[wire.Order](t, a.post(t, o.Finalize, csr(t, key))); done.Status != wire.StatusValid {
			t.Errorf("the order is %s", done.Status)
		}
	})
	t.Run("a serial number in the registry", func(t *testing.T) {
		d := w.Add(t, device.Spec{Name: "unit-4", Profile: "attested", Tags: map[string]string{acme.TagSerial: "SN-0004"}})
		a := w.boundTo(t, d)
		key := apptest.Key(t)
		_, o := a.order(t, permanent("SN-0004"))
		if z := a.attest(t, o, func(_, auth string) []byte {
			return m.statement(t, key, now, auth, der.PermanentIdentifier("SN-0004", ""))
		}); z.Status != wire.StatusValid {
			t.Errorf("the authorization is %s: %+v", z.Status, z.Challenges)
		}
	})
	t.Run("with names of the network, which the profile trusts the account with", func(t *testing.T) {
		a, _ := w.bound(t, "unit-6", "both", "dns:u6.example.com")
		key := apptest.Key(t)
		wanted := permanent("unit-6")
		wanted.Identifiers = append(wanted.Identifiers, wire.Identifier{Type: wire.KindDNS, Value: "u6.example.com"})
		_, o := a.order(t, wanted)
		if o.Status != wire.StatusPending {
			t.Fatalf("the order is %s before anything was attested", o.Status)
		}
		a.attest(t, o, func(_, auth string) []byte {
			return m.statement(t, key, now, auth, der.PermanentIdentifier("unit-6", ""))
		})
		done := into[wire.Order](t, a.post(t, o.Finalize, csr(t, key, "u6.example.com")))
		names := altNames(t, decodePEM(t, a.post(t, done.Certificate, nil).Text)[0])
		if len(names.Other) != 1 || len(names.DNS) != 1 || names.DNS[0] != "u6.example.com" {
			t.Errorf("the certificate has the names %+v", names)
		}
	})
	for name, object := range map[string]func(token, auth string) []byte{
		"device-attest: wrong root": func(_, auth string) []byte {
			return newMaker(t, now).statement(t, apptest.Key(t), now, auth, der.PermanentIdentifier("unit-1", ""))
		},
		"device-attest: expired leaf": func(_, auth string) []byte {
			return m.statement(t, apptest.Key(t), now.Add(-2*time.Hour), auth, der.PermanentIdentifier("unit-1", ""))
		},
		"device-attest: nonce mismatch": func(token, _ string) []byte {
			return m.statement(t, apptest.Key(t), now, token, der.PermanentIdentifier("unit-1", ""))
		},
		"device-attest: identifier not in statement": func(_, auth string) []byte {
			return m.statement(t, apptest.Key(t), now, auth, der.PermanentIdentifier("unit-2", ""))
		},
		"device-attest: CBOR garbage":    func(string, string) []byte { return []byte("\xffgarbage") },
		"device-attest: CBOR indefinite": func(string, string) []byte { return []byte{0xbf, 0xff} },
		"device-attest: duplicate keys":  func(string, string) []byte { return []byte("\xa2\x63fmt\x64step\x63fmt\x64step") },
		"device-attest: huge x5c": func(string, string) []byte {
			return encodeCBOR(t, map[string]any{"fmt": "step", "attStmt": map[string]any{"x5c": make([][]byte, 9)}})
		},
		"device-attest: unsupported format": func(string, string) []byte {
			return encodeCBOR(t, map[string]any{"fmt": "packed", "attStmt": map[string]any{"x5c": make([][]byte, 1)}})
		},
		"device-attest: format without roots": func(string, string) []byte {
			return encodeCBOR(t, map[string]any{"fmt": "apple", "attStmt": map[string]any{"x5c": [][]byte{m.root.Raw}}})
		},
	} {
		t.Run(name, func(t *testing.T) {
			url, o := bound.order(t, permanent("unit-1"))
			z := bound.attest(t, o, object)
			if z.Status != wire.StatusInvalid || z.Challenges[0].Error == nil || z.Challenges[0].Error.Type != wire.ErrorPrefix+"badAttestationStatement" {
				t.Errorf("the authorization is %s, the challenge %+v", z.Status, z.Challenges)
			}
			if o = into[wire.Order](t, bound.post(t, url, nil)); o.Status != wire.StatusInvalid {
				t.Errorf("the order is %s", o.Status)
			}
		})
	}
	t.Run("what cannot be ordered", func(t *testing.T) {
		newOrder := w.base + "/acme/new-order"
		want(t, bound.post(t, newOrder, permanent("unit-2")), http.StatusForbidden, "rejectedIdentifier")
		want(t, bound.post(t, newOrder, permanent("")), http.StatusBadRequest, "malformed")
		want(t, bound.post(t, newOrder, permanent("a\nb")), http.StatusBadRequest, "malformed")
		two := permanent("unit-1")
		two.Identifiers = append(two.Identifiers, wire.Identifier{Type: wire.KindHardware, Value: "unit-1"})
		want(t, bound.post(t, newOrder, two), http.StatusBadRequest, "rejectedIdentifier")
		account, _ := w.bound(t, "gw-account", "validated")
		want(t, account.post(t, newOrder, permanent("gw-account")), http.StatusBadRequest, "invalidProfile")
		open := w.open(t)
		want(t, open.post(t, newOrder, permanent("nobody")), http.StatusForbidden, "rejectedIdentifier")
	})
	if r := w.Verify(t); len(r.Findings) > 0 {
		t.Errorf("the verification: %v", r.Findings)
	}
}

func TestActivationRefuses(t *testing.T) {
	w, _ := attestWorld(t)
	bound, _ := w.bound(t, "unit-1", "attested")
	other, _ := w.bound(t, "unit-2", "silent")
	url := w.base + "/acme/attest/tpm"
	want(t, w.open(t).post(t, url, wire.Activation{}), http.StatusForbidden, "unauthorized")
	want(t, other.post(t, url, wire.Activation{}), http.StatusBadRequest, "invalidProfile")
	want(t, bound.post(t, url, wire.Activation{Profile: "attested"}), http.StatusBadRequest, "invalidProfile")
	want(t, bound.post(t, url, wire.Activation{AK: "AAAA", EK: "AAAA"}), http.StatusForbidden, "badAttestationStatement")
	want(t, bound.post(t, url, wire.Activation{AK: b64(bytes.Repeat([]byte{1}, 5000))}), http.StatusForbidden, "badAttestationStatement")
	want(t, bound.post(t, url, wire.Activation{AK: "!"}), http.StatusBadRequest, "malformed")
	want(t, bound.post(t, url, wire.Activation{Session: "AAAA", Secret: "AAAA"}), http.StatusForbidden, "unauthorized")
	want(t, bound.post(t, url, []byte("[]")), http.StatusBadRequest, "malformed")
}
