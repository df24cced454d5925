package acme_test

import (
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"math/big"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"mooring/internal/app/apptest"
	core "mooring/internal/core/acme"
	"mooring/internal/core/audit"
	"mooring/internal/core/device"
	makers "mooring/internal/core/maker"
	"mooring/wire/acme"
)

// factory makes certificates as a manufacturer does.
type factory struct {
	root *x509.Certificate
	sign func(serial string) tls.Certificate
}

func newFactory(t *testing.T) factory {
	key := apptest.Key(t)
	issue := func(c, parent *x509.Certificate, public any) *x509.Certificate {
		c.NotBefore, c.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(1000*time.Hour)
		var err error
		if c.SerialNumber, err = rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 100)); err != nil {
			t.Fatal(err)
		}
		raw, err := x509.CreateCertificate(rand.Reader, c, parent, public, key)
		if err != nil {
			t.Fatal(err)
		}
		cert, err := x509.ParseCertificate(raw)
		if err != nil {
			t.Fatal(err)
		}
		return cert
	}
	root := &x509.Certificate{Subject: pkix.Name{CommonName: "Works"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	root = issue(root, root, key.Public())
	return factory{root, func(serial string) tls.Certificate {
		own := apptest.Key(t)
		leaf := issue(&x509.Certificate{Subject: pkix.Name{CommonName: "Pump", SerialNumber: serial}, KeyUsage: x509.KeyUsageDigitalSignature}, root, own.Public())
		return tls.Certificate{Certificate: [][]byte{leaf.Raw}, PrivateKey: own, Leaf: leaf}
	}}
}

// TestBirthBinding: what a device gets for the certificate of its manufacturer is for that device, for one account, and for a while. Who gets it is shown for
// all protocols in TestZeroTouch.
func TestBirthBinding(t *testing.T) {
	w := newWorld(t, nil, apptest.Variant("gateway", "born", "evidence: [birth, account]", "acme: trust-account"), apptest.Variant("gateway", "mute", "evidence: [birth, operational]"))
	f := newFactory(t)
	if _, err := w.Makers.Add(t.Context(), apptest.Operator(), makers.Spec{Name: "works", Anchors: [][]byte{f.root.Raw}}); err != nil {
		t.Fatal(err)
	}
	add := func(name, profile string) (device.Device, tls.Certificate) {
		d := w.Add(t, device.Spec{Name: name, Profile: profile, Names: []string{"dns:" + name + ".example.com"}, Product: device.Product{Maker: "works", Serial: name}})
		return d, f.sign(name)
	}
	ask := func(t *testing.T, certs ...tls.Certificate) reply {
		t.Helper()
		own := *w
		own.http = &http.Client{Timeout: time.Minute, Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{RootCAs: w.Pool(), ServerName: "localhost", Time: w.Clock.Now, Certificates: certs}}}
		return own.do(t, http.MethodPost, w.base+"/acme/birth", "", nil)
	}
	get := func(t *testing.T, cert tls.Certificate) acme.BirthBinding {
		t.Helper()
		return into[acme.BirthBinding](t, ask(t, cert))
	}
	url := w.base + "/acme/new-account"
	register := func(t *testing.T, b acme.BirthBinding) (*account, reply) {
		t.Helper()
		a := &account{w: w, key: apptest.Key(t)}
		key, err := base64.RawURLEncoding.DecodeString(b.Key)
		if err != nil {
			t.Fatal(err)
		}
		r := a.post(t, url, acme.NewAccount{ExternalAccountBinding: bind(t, a.key, b.KID, string(key), url)})
		a.url = r.Header.Get("Location")
		return a, r
	}
	refused := func(t *testing.T, r reply, status int, detail string) {
		t.Helper()
		want(t, r, status, "unauthorized")
		if !strings.Contains(r.problem().Detail, detail) {
			t.Errorf("got %q, want %q in it", r.problem().Detail, detail)
		}
	}

	d, idevid := add("pump-1", "born")
	b := get(t, idevid)
	a, r := register(t, b)
	if r.StatusCode != http.StatusCreated {
		t.Fatalf("got %d %s", r.StatusCode, r.Text)
	}
	key := apptest.Key(t)
	a.obtain(t, acme.NewOrder{Identifiers: identifiers("pump-1.example.com")}, key)
	now := w.Load(t, d.ID)
	if _, ok := now.Slot(device.SlotBirth); !ok {
		t.Error("the device is not bound to its certificate")
	}
	t.Run("used before", func(t *testing.T) {
		_, r := register(t, b)
		refused(t, r, http.StatusForbidden, "was used before")
	})
	t.Run("the account of the key again", func(t *testing.T) {
		again := &account{w: w, key: a.key}
		secret, _ := base64.RawURLEncoding.DecodeString(b.Key)
		r := again.post(t, url, acme.NewAccount{ExternalAccountBinding: bind(t, a.key, b.KID, string(secret), url)})
		if r.StatusCode != http.StatusOK || r.Header.Get("Location") != a.url {
			t.Errorf("got %d %s", r.StatusCode, r.Text)
		}
	})
	t.Run("another one ends the account before", func(t *testing.T) {
		next, r := register(t, get(t, idevid))
		if r.StatusCode != http.StatusCreated {
			t.Fatalf("got %d %s", r.StatusCode, r.Text)
		}
		want(t, a.post(t, a.url, nil), http.StatusUnauthorized, "unauthorized")
		next.obtain(t, acme.NewOrder{Identifiers: identifiers("pump-1.example.com")}, apptest.Key(t))
	})
	t.Run("several at once: one account stays", func(t *testing.T) {
		d, idevid := add("pump-4", "born")
		nodes := []*world{w, w}
		if w.DB.Arrays() {
			nodes[1] = &world{Platform: w.Second(t), net: w.net, base: w.base}
			nodes[1].http = nodes[1].client(nodes[1].Platform)
		}
		requests := make([][]byte, 12)
		for i := range requests {
			b, own := get(t, idevid), apptest.Key(t)
			secret, err := base64.RawURLEncoding.DecodeString(b.Key)
			if err != nil {
				t.Fatal(err)
			}
			requests[i] = sign(t, own, header{"alg": "ES256", "nonce": nodes[i%2].nonceAt(t), "url": url, "jwk": jwkOf(t, own)},
				encode(t, acme.NewAccount{ExternalAccountBinding: bind(t, own, b.KID, string(secret), url)}))
		}
		var all sync.WaitGroup
		for i, body := range requests {
			all.Go(func() {
				if r := nodes[i%2].do(t, http.MethodPost, nodes[i%2].at(url), acme.TypeRequest, body); r.StatusCode != http.StatusCreated {
					t.Errorf("got %d %s", r.StatusCode, r.Text)
				}
			})
		}
		all.Wait()
		list, err := w.ACME.Accounts(t.Context(), apptest.Operator(), d.ID, [16]byte{}, 100)
		if err != nil {
			t.Fatal(err)
		}
		valid := 0
		for _, a := range list {
			if a.State == core.Valid {
				valid++
			}
		}
		if len(list) != len(requests) || valid != 1 {
			t.Errorf("%d of %d accounts are valid, want 1 of %d", valid, len(list), len(requests))
		}
	})
	t.Run("wrong key", func(t *testing.T) {
		b := get(t, idevid)
		b.Key = b64([]byte("some other key of the right size"))
		_, r := register(t, b)
		refused(t, r, http.StatusForbidden, "the key is not the one that was handed out")
	})
	t.Run("key identifier of another making", func(t *testing.T) {
		b := get(t, idevid)
		b.KID = b.KID[:len(b.KID)-4] + "AAAA"
		_, r := register(t, b)
		refused(t, r, http.StatusForbidden, "the key is not the one that was handed out")
	})
	t.Run("device changed meanwhile", func(t *testing.T) {
		d, idevid := add("pump-2", "born")
		b := get(t, idevid)
		if _, err := w.Devices.Change(t.Context(), apptest.Operator(), d.ID, device.Change{Birth: &[]byte{}}); err != nil {
			t.Fatal(err)
		}
		_, r := register(t, b)
		refused(t, r, http.StatusForbidden, "the device was changed since")
	})
	t.Run("no certificate", func(t *testing.T) {
		refused(t, ask(t), http.StatusForbidden, "connect with the certificate of the device's manufacturer")
	})
	t.Run("profile without accounts", func(t *testing.T) {
		d, idevid := add("pump-3", "mute")
		want(t, ask(t, idevid), http.StatusBadRequest, "invalidProfile")
		if !slices.ContainsFunc(w.Record(t), func(e audit.Indexed) bool {
			return e.Device == d.ID.String() && strings.Contains(e.Refused, "accepts no accounts")
		}) {
			t.Error("the record does not tell of it with the device")
		}
	})
	t.Run("GET", func(t *testing.T) {
		want(t, w.do(t, http.MethodGet, w.base+"/acme/birth", "", nil), http.StatusMethodNotAllowed, "malformed")
	})
	t.Run("too late", func(t *testing.T) {
		b := get(t, idevid)
		w.Clock.Move(11 * time.Minute)
		_, r := register(t, b)
		refused(t, r, http.StatusForbidden, "is older than 10m0s")
	})
	if report := w.Verify(t); len(report.Findings) > 0 {
		t.Errorf("the record and the tables differ: %v", report.Findings)
	}
}
