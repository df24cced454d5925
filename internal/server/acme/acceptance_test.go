package acme_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"mooring/internal/app/apptest"
	"mooring/internal/base/conf"
	"mooring/internal/core/access"
	"mooring/internal/core/audit"
	"mooring/internal/core/ca"
	"mooring/internal/core/device"
	"mooring/internal/core/revoke"
	"mooring/internal/provider/reach/reachtest"
	"mooring/wire/acme"
	"mooring/wire/der"
)

func address(text string) netip.Addr { return netip.MustParseAddr(text) }

func decodePEM(t testing.TB, text []byte) (chain [][]byte) {
	t.Helper()
	for {
		block, rest := pem.Decode(text)
		if block == nil {
			return chain
		}
		chain, text = append(chain, block.Bytes), rest
	}
}

func parse(t testing.TB, raw []byte) *x509.Certificate {
	t.Helper()
	c, err := x509.ParseCertificate(raw)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// TestAcceptance has one row for each case of the list for ACME in the reference, by its name. Those about what a validation meets in the network
// are in package reach, and those about hardware attestation with the formats.
func TestAcceptance(t *testing.T) {
	w := newWorld(t, nil)
	open := w.open(t)
	bound, gw := w.bound(t, "gw-1", "trusted")
	web := w.Add(t, device.Spec{Name: "www.example.com", Profile: "validated"})
	newAccount, newOrder := w.base+"/acme/new-account", w.base+"/acme/new-order"
	named := acme.NewOrder{Identifiers: identifiers("www.example.com")}
	trusted := acme.NewOrder{Identifiers: identifiers("gw1.example.com")}

	for name, test := range map[string]func(t *testing.T){
		"directory/meta": func(t *testing.T) {
			r := w.do(t, http.MethodGet, w.base+"/acme/directory", "", nil)
			d := into[acme.Directory](t, r)
			if d.NewAccount != newAccount || d.NewOrder != newOrder || d.RenewalInfo == "" || d.KeyChange == "" || d.RevokeCert == "" || d.Meta.ExternalAccountRequired {
				t.Errorf("got %s", r.Text)
			}
			if _, ok := d.Meta.Profiles["validated"]; !ok || len(d.Meta.Profiles) != 4 {
				t.Errorf("the profiles are %v", d.Meta.Profiles)
			}
			want(t, w.do(t, http.MethodPost, w.base+"/acme/directory", "", nil), http.StatusMethodNotAllowed, "malformed")
			want(t, w.do(t, http.MethodGet, newOrder, "", nil), http.StatusMethodNotAllowed, "malformed")
			want(t, w.do(t, http.MethodGet, w.base+"/acme/nothing", "", nil), http.StatusNotFound, "malformed")
			want(t, w.do(t, http.MethodGet, w.base+"//acme/directory", "", nil), http.StatusNotFound, "malformed")
		},
		"nonce on every POST reply incl. errors": func(t *testing.T) {
			for _, r := range []reply{open.post(t, newOrder, named), open.post(t, newOrder, []byte("x")), open.post(t, newOrder, named, header{"nonce": "x"}),
				w.do(t, http.MethodPost, newOrder, "text/plain", nil), open.post(t, w.base+"/acme/order/none", nil)} {
				if r.Header.Get("Replay-Nonce") == "" || r.Header.Get("Cache-Control") != "no-store" || !strings.Contains(strings.Join(r.Header.Values("Link"), ","), `rel="index"`) {
					t.Errorf("%d %s has the header %v", r.StatusCode, r.Text, r.Header)
				}
			}
		},
		"HEAD and GET newNonce, no-store": func(t *testing.T) {
			for method, status := range map[string]int{http.MethodHead: 200, http.MethodGet: 204} {
				r := w.do(t, method, w.base+"/acme/new-nonce", "", nil)
				if r.StatusCode != status || r.Header.Get("Replay-Nonce") == "" || r.Header.Get("Cache-Control") != "no-store" || len(r.Text) > 0 {
					t.Errorf("%s: got %d %v", method, r.StatusCode, r.Header)
				}
			}
			want(t, w.do(t, http.MethodPost, w.base+"/acme/new-nonce", "", nil), http.StatusMethodNotAllowed, "malformed")
		},
		"nonce used twice": func(t *testing.T) {
			n := w.nonce(t)
			if r := open.post(t, open.url, nil, header{"nonce": n}); r.StatusCode != 200 {
				t.Fatalf("got %d %s", r.StatusCode, r.Text)
			}
			r := open.post(t, open.url, nil, header{"nonce": n})
			want(t, r, http.StatusBadRequest, "badNonce")
			if r := open.post(t, open.url, nil, header{"nonce": r.Header.Get("Replay-Nonce")}); r.StatusCode != 200 {
				t.Errorf("the nonce of the refusal is not good: %d %s", r.StatusCode, r.Text)
			}
		},
		"wrong alg (none, HS256 outer)": func(t *testing.T) {
			for _, alg := range []string{"none", "HS256", "ES512", ""} {
				r := open.post(t, newOrder, named, header{"alg": alg})
				want(t, r, http.StatusBadRequest, "badSignatureAlgorithm")
				if !slices.Contains(r.problem().Algorithms, "ES256") {
					t.Errorf("%q: the algorithms are %v", alg, r.problem().Algorithms)
				}
			}
			want(t, open.post(t, newOrder, named, header{"alg": "RS256"}), http.StatusBadRequest, "malformed")
		},
		"bad key": func(t *testing.T) {
			small := json.RawMessage(`{"kty":"RSA","e":"AQAB","n":"` + strings.Repeat("_", 171) + `"}`)
			want(t, (&account{w: w, key: apptest.Key(t)}).post(t, newAccount, acme.NewAccount{}, header{"alg": "RS256", "jwk": small}), http.StatusBadRequest, "badPublicKey")
		},
		"jwk + kid both": func(t *testing.T) {
			want(t, open.post(t, newOrder, named, header{"jwk": jwkOf(t, open.key)}), http.StatusBadRequest, "malformed")
			want(t, open.post(t, newOrder, named, header{"kid": nil}), http.StatusBadRequest, "malformed")
			want(t, open.post(t, newOrder, named, header{"kid": nil, "jwk": jwkOf(t, open.key)}), http.StatusBadRequest, "malformed")
			want(t, open.post(t, newAccount, acme.NewAccount{}), http.StatusBadRequest, "malformed")
		},
		"url mismatch": func(t *testing.T) {
			for _, url := range []string{"", w.base + "/acme/new-account", "http" + strings.TrimPrefix(newOrder, "https"), newOrder + "/", newOrder + "?x"} {
				want(t, open.post(t, newOrder, named, header{"url": url}), http.StatusForbidden, "unauthorized")
			}
		},
		"kid of another account": func(t *testing.T) {
			want(t, open.post(t, newOrder, named, header{"kid": bound.url}), http.StatusBadRequest, "malformed")
			want(t, open.post(t, newOrder, named, header{"kid": w.base + "/acme/account/" + strings.Repeat("0", 32)}), http.StatusBadRequest, "accountDoesNotExist")
			want(t, open.post(t, newOrder, named, header{"kid": "https://elsewhere.example/1"}), http.StatusBadRequest, "accountDoesNotExist")
			url, o := bound.order(t, trusted)
			for _, place := range []string{url, o.Finalize, o.Authorizations[0], url + "/certificate"} {
				want(t, open.post(t, place, nil), map[bool]int{true: 400, false: 404}[place == o.Finalize], "malformed")
			}
			want(t, open.post(t, o.Finalize, csr(t, apptest.Key(t), "gw1.example.com")), http.StatusNotFound, "malformed")
			want(t, open.post(t, bound.url, nil), http.StatusForbidden, "unauthorized")
		},
		"deactivated account": func(t *testing.T) {
			a := w.open(t)
			if got := into[acme.Account](t, a.post(t, a.url, acme.AccountUpdate{Status: "deactivated"})); got.Status != "deactivated" {
				t.Errorf("got %+v", got)
			}
			want(t, a.post(t, a.url, nil), http.StatusUnauthorized, "unauthorized")
			want(t, a.post(t, newOrder, named), http.StatusUnauthorized, "unauthorized")
			a.url = ""
			want(t, a.post(t, newAccount, acme.NewAccount{}), http.StatusUnauthorized, "unauthorized")
		},
		"bad content type 415": func(t *testing.T) {
			for _, kind := range []string{"", "application/json", "application/jose"} {
				want(t, w.do(t, http.MethodPost, newOrder, kind, []byte("{}")), http.StatusUnsupportedMediaType, "malformed")
			}
		},
		"body over the limit": func(t *testing.T) {
			want(t, w.do(t, http.MethodPost, newOrder, acme.TypeRequest, make([]byte, acme.MaxRequest+1)), http.StatusRequestEntityTooLarge, "malformed")
		},
		"POST-as-GET with body": func(t *testing.T) {
			url, o := open.order(t, named)
			want(t, open.post(t, url, struct{}{}), http.StatusBadRequest, "malformed")
			want(t, open.post(t, o.Authorizations[0], struct{}{}), http.StatusBadRequest, "malformed")
			want(t, open.post(t, url+"/certificate", struct{}{}), http.StatusBadRequest, "malformed")
			want(t, open.post(t, o.Finalize, nil), http.StatusBadRequest, "malformed")
		},
		"account: onlyReturnExisting": func(t *testing.T) {
			stranger := &account{w: w, key: apptest.Key(t)}
			want(t, stranger.post(t, newAccount, acme.NewAccount{OnlyReturnExisting: true}), http.StatusBadRequest, "accountDoesNotExist")
			known := &account{w: w, key: open.key}
			if r := known.post(t, newAccount, acme.NewAccount{OnlyReturnExisting: true}); r.StatusCode != 200 || r.Header.Get("Location") != open.url {
				t.Errorf("got %d %s at %s", r.StatusCode, r.Text, r.Header.Get("Location"))
			}
		},
		"account: same key → 200": func(t *testing.T) {
			r := (&account{w: w, key: open.key}).post(t, newAccount, acme.NewAccount{Contact: []string{"tel:1"}})
			if r.StatusCode != 200 || r.Header.Get("Location") != open.url {
				t.Errorf("got %d %s", r.StatusCode, r.Text)
			}
		},
		"contact schemes": func(t *testing.T) {
			for contact, kind := range map[string]string{"tel:+123": "unsupportedContact", "mailto:a@example.com?subject=x": "invalidContact", "mailto:a@example.com,b@example.com": "invalidContact", "mailto:nobody": "invalidContact"} {
				want(t, (&account{w: w, key: apptest.Key(t)}).post(t, newAccount, acme.NewAccount{Contact: []string{contact}}), http.StatusBadRequest, kind)
			}
			if r := (&account{w: w, key: apptest.Key(t)}).post(t, newAccount, acme.NewAccount{Contact: []string{"mailto:a@example.com"}}); r.StatusCode != 201 {
				t.Errorf("got %d %s", r.StatusCode, r.Text)
			}
		},
		"key rollover": func(t *testing.T) {
			a := w.open(t)
			_, o := a.order(t, named)
			next := apptest.Key(t)
			r := a.rollover(t, next, header{}, acme.KeyChange{Account: a.url, OldKey: jwkOf(t, a.key)})
			if r.StatusCode != 200 {
				t.Fatalf("got %d %s", r.StatusCode, r.Text)
			}
			want(t, a.post(t, a.url, nil), http.StatusBadRequest, "malformed")
			a.key = next
			if r := a.post(t, o.Authorizations[0], nil); r.StatusCode != 200 { // pending orders survive
				t.Errorf("got %d %s", r.StatusCode, r.Text)
			}
			good := acme.KeyChange{Account: a.url, OldKey: jwkOf(t, next)}
			for name, r := range map[string]reply{
				"nonce inside":    a.rollover(t, apptest.Key(t), header{"nonce": "n"}, good),
				"another url":     a.rollover(t, apptest.Key(t), header{"url": newOrder}, good),
				"kid inside":      a.rollover(t, apptest.Key(t), header{"kid": a.url, "jwk": nil}, good),
				"another account": a.rollover(t, apptest.Key(t), header{}, acme.KeyChange{Account: open.url, OldKey: good.OldKey}),
				"another old key": a.rollover(t, apptest.Key(t), header{}, acme.KeyChange{Account: a.url, OldKey: jwkOf(t, open.key)}),
				"foreign new key": a.rollover(t, apptest.Key(t), header{"jwk": jwkOf(t, apptest.Key(t))}, good),
			} {
				if r.StatusCode != 400 || r.kind() != "malformed" {
					t.Errorf("%s: got %d %s", name, r.StatusCode, r.Text)
				}
			}
		},
		"key rollover to a used key 409": func(t *testing.T) {
			a := w.open(t)
			r := a.rollover(t, open.key, header{}, acme.KeyChange{Account: a.url, OldKey: jwkOf(t, a.key)})
			want(t, r, http.StatusConflict, "malformed")
			if r.Header.Get("Location") != open.url {
				t.Errorf("it leads to %q", r.Header.Get("Location"))
			}
		},
		"EAB wrong MAC": func(t *testing.T) {
			d := w.Add(t, device.Spec{Name: "eab-mac", Profile: "trusted"})
			token := w.Token(t, d.ID)
			a := &account{w: w, key: apptest.Key(t)}
			wrong := a.post(t, newAccount, acme.NewAccount{ExternalAccountBinding: bind(t, a.key, "eab-mac", token+"x", newAccount)})
			nobody := a.post(t, newAccount, acme.NewAccount{ExternalAccountBinding: bind(t, a.key, "eab-nobody", token, newAccount)})
			want(t, wrong, http.StatusForbidden, "unauthorized")
			if string(wrong.Text) != string(nobody.Text) {
				t.Errorf("a wrong secret and an unknown device are told apart: %s, %s", wrong.Text, nobody.Text)
			}
			other := a.post(t, newAccount, acme.NewAccount{ExternalAccountBinding: bind(t, apptest.Key(t), "eab-mac", token, newAccount)})
			want(t, other, http.StatusBadRequest, "malformed")
			if r := a.post(t, newAccount, acme.NewAccount{ExternalAccountBinding: bind(t, a.key, "eab-mac", token, newAccount)}); r.StatusCode != 201 || len(into[acme.Account](t, r).ExternalAccountBinding) == 0 {
				t.Errorf("got %d %s", r.StatusCode, r.Text)
			}
		},
		"EAB reused kid": func(t *testing.T) {
			d := w.Add(t, device.Spec{Name: "eab-used", Profile: "trusted"})
			token := w.Token(t, d.ID)
			first, second := &account{w: w, key: apptest.Key(t)}, &account{w: w, key: apptest.Key(t)}
			if r := first.post(t, newAccount, acme.NewAccount{ExternalAccountBinding: bind(t, first.key, "eab-used", token, newAccount)}); r.StatusCode != 201 {
				t.Fatalf("got %d %s", r.StatusCode, r.Text)
			}
			want(t, second.post(t, newAccount, acme.NewAccount{ExternalAccountBinding: bind(t, second.key, "eab-used", token, newAccount)}), http.StatusForbidden, "unauthorized")
			// A lost answer: the same key with the same binding.
			if r := first.post(t, newAccount, acme.NewAccount{ExternalAccountBinding: bind(t, first.key, "eab-used", token, newAccount)}); r.StatusCode != 200 {
				t.Errorf("got %d %s", r.StatusCode, r.Text)
			}
			// With a new token another account takes the place of the first.
			next := w.Token(t, d.ID)
			if r := second.post(t, newAccount, acme.NewAccount{ExternalAccountBinding: bind(t, second.key, "eab-used", next, newAccount)}); r.StatusCode != 201 {
				t.Fatalf("got %d %s", r.StatusCode, r.Text)
			}
			want(t, first.post(t, newAccount, acme.NewAccount{}), http.StatusUnauthorized, "unauthorized")
		},
		"EAB url mismatch": func(t *testing.T) {
			d := w.Add(t, device.Spec{Name: "eab-url", Profile: "trusted"})
			a := &account{w: w, key: apptest.Key(t)}
			want(t, a.post(t, newAccount, acme.NewAccount{ExternalAccountBinding: bind(t, a.key, "eab-url", w.Token(t, d.ID), newOrder)}), http.StatusBadRequest, "malformed")
		},
		"EAB of a suspended device": func(t *testing.T) {
			d := w.Add(t, device.Spec{Name: "eab-off", Profile: "trusted"})
			token := w.Token(t, d.ID)
			if _, err := w.Devices.Move(t.Context(), apptest.Operator(), d.ID, device.Suspend, "test"); err != nil {
				t.Fatal(err)
			}
			a := &account{w: w, key: apptest.Key(t)}
			want(t, a.post(t, newAccount, acme.NewAccount{ExternalAccountBinding: bind(t, a.key, "eab-off", token, newAccount)}), http.StatusForbidden, "unauthorized")
		},
		"orders: unsupported/refused identifier with subproblems": func(t *testing.T) {
			r := bound.post(t, newOrder, acme.NewOrder{Identifiers: []acme.Identifier{{Type: "dns", Value: "gw1.example.com"}, {Type: "email", Value: "a@example.com"}, {Type: "dns", Value: "a_b.example.com"}}})
			want(t, r, http.StatusBadRequest, "unsupportedIdentifier")
			if p := r.problem(); len(p.Subproblems) != 2 || p.Subproblems[0].Identifier.Value != "a@example.com" || p.Subproblems[1].Type != acme.ErrorPrefix+"malformed" {
				t.Errorf("got %s", r.Text)
			}
			r = bound.post(t, newOrder, acme.NewOrder{Identifiers: identifiers("gw1.example.com", "www.example.net", "10.0.0.1")})
			want(t, r, http.StatusForbidden, "rejectedIdentifier")
			if p := r.problem(); len(p.Subproblems) != 2 || p.Subproblems[1].Identifier.Value != "10.0.0.1" {
				t.Errorf("got %s", r.Text)
			}
			want(t, open.post(t, newOrder, trusted), http.StatusForbidden, "rejectedIdentifier") // of no device's name
			want(t, bound.post(t, newOrder, acme.NewOrder{}), http.StatusBadRequest, "malformed")
			want(t, bound.post(t, newOrder, acme.NewOrder{Identifiers: identifiers("localhost")}), http.StatusForbidden, "rejectedIdentifier") // the platform's own
		},
		"IP v4/v6": func(t *testing.T) {
			for ip, ok := range map[string]bool{"127.0.0.9": true, "fd00::9": true, "127.0.0.09": false, "fd00:0::9": false, "::ffff:127.0.0.9": false} {
				r := bound.post(t, newOrder, acme.NewOrder{Identifiers: []acme.Identifier{{Type: "ip", Value: ip}}})
				if ok != (r.StatusCode == 201) {
					t.Errorf("%s: got %d %s", ip, r.StatusCode, r.Text)
				}
			}
			key := apptest.Key(t)
			_, chain := bound.obtain(t, acme.NewOrder{Identifiers: identifiers("127.0.0.9", "127.0.0.8")}, key)
			if leaf := parse(t, chain[0]); len(leaf.IPAddresses) != 2 || len(leaf.DNSNames) != 0 {
				t.Errorf("the certificate is for %v %v", leaf.IPAddresses, leaf.DNSNames)
			}
		},
		"wildcard only dns-01": func(t *testing.T) {
			a, _ := w.bound(t, "wild", "validated")
			_, o := a.order(t, acme.NewOrder{Identifiers: identifiers("*.example.com")})
			z := into[acme.Authorization](t, a.post(t, o.Authorizations[0], nil))
			if !z.Wildcard || z.Identifier.Value != "example.com" || len(z.Challenges) != 1 || z.Challenges[0].Type != acme.DNS01 {
				t.Fatalf("got %+v", z)
			}
			k, err := acme.NewKey(a.key.Public())
			if err != nil {
				t.Fatal(err)
			}
			w.net.TXT("_acme-challenge.example.com", "x", acme.DNSRecord(acme.KeyAuthorization(z.Challenges[0].Token, k.Thumbprint[:])))
			into[acme.Challenge](t, a.post(t, z.Challenges[0].URL, struct{}{}))
			a.await(t, o.Authorizations[0], acme.StatusValid)
			done := into[acme.Order](t, a.post(t, o.Finalize, csr(t, apptest.Key(t), "*.example.com")))
			if leaf := parse(t, decodePEM(t, a.post(t, done.Certificate, nil).Text)[0]); !slices.Equal(leaf.DNSNames, []string{"*.example.com"}) {
				t.Errorf("the certificate is for %v", leaf.DNSNames)
			}
		},
		"tls-alpn-01": func(t *testing.T) {
			a, _ := w.bound(t, "alpn", "validated")
			_, o := a.order(t, acme.NewOrder{Identifiers: identifiers("alpn.example.com")})
			z := into[acme.Authorization](t, a.post(t, o.Authorizations[0], nil))
			at := slices.IndexFunc(z.Challenges, func(c acme.Challenge) bool { return c.Type == acme.TLSALPN01 })
			k, err := acme.NewKey(a.key.Public())
			if err != nil {
				t.Fatal(err)
			}
			w.net.Name("alpn.example.com")
			w.net.Certificate("alpn.example.com", reachtest.Witness(t, acme.KeyAuthorization(z.Challenges[at].Token, k.Thumbprint[:]), []string{"alpn.example.com"}, nil, nil))
			into[acme.Challenge](t, a.post(t, z.Challenges[at].URL, struct{}{}))
			z = into[acme.Authorization](t, a.await(t, o.Authorizations[0], acme.StatusValid))
			if len(z.Challenges) != 1 || z.Challenges[0].Type != acme.TLSALPN01 || z.Challenges[0].Validated == "" {
				t.Errorf("got %+v", z)
			}
		},
		"duplicates": func(t *testing.T) {
			_, o := bound.order(t, acme.NewOrder{Identifiers: identifiers("gw1.example.com", "GW1.example.com", "gw1.example.com")})
			if len(o.Identifiers) != 1 || len(o.Authorizations) != 1 {
				t.Errorf("got %+v", o)
			}
		},
		"notBefore": func(t *testing.T) {
			want(t, bound.post(t, newOrder, acme.NewOrder{Identifiers: trusted.Identifiers, NotBefore: "2026-01-01T00:00:00Z"}), http.StatusBadRequest, "malformed")
		},
		"finalize: names differ, badCSR leaves ready": func(t *testing.T) {
			url, o := bound.order(t, trusted)
			key := apptest.Key(t)
			cn, err := der.BuildName([]der.Attribute{{Type: der.OIDCommonName, Value: "other.example.com"}})
			if err != nil {
				t.Fatal(err)
			}
			for name, f := range map[string]acme.Finalize{
				"another": csr(t, key, "gw2.example.com"), "more": csr(t, key, "gw1.example.com", "gw2.example.com"), "none": csr(t, key),
				"URI":         {CSR: b64(apptest.CSR(t, key, der.RequestSpec{Names: der.AltNames{DNS: []string{"gw1.example.com"}, URI: []string{"urn:x:y"}}}))},
				"common name": {CSR: b64(apptest.CSR(t, key, der.RequestSpec{RawSubject: cn, Names: der.AltNames{DNS: []string{"gw1.example.com"}}}))},
				"garbage":     {CSR: "AAAA"}, "base64": {CSR: "%"},
			} {
				r := bound.post(t, o.Finalize, f)
				if r.StatusCode != 400 || r.kind() != "badCSR" {
					t.Errorf("%s: got %d %s", name, r.StatusCode, r.Text)
				}
			}
			if now := into[acme.Order](t, bound.post(t, url, nil)); now.Status != acme.StatusReady {
				t.Errorf("badCSR leaves the order %s, want ready", now.Status)
			}
			own, err := der.BuildName([]der.Attribute{{Type: der.OIDCommonName, Value: "gw1.example.com"}})
			if err != nil {
				t.Fatal(err)
			}
			r := bound.post(t, o.Finalize, acme.Finalize{CSR: b64(apptest.CSR(t, key, der.RequestSpec{RawSubject: own}))}) // the name as common name alone
			if r.StatusCode != 200 && r.kind() != "badCSR" {
				t.Errorf("got %d %s", r.StatusCode, r.Text)
			}
		},
		"finalize: same key as account": func(t *testing.T) {
			_, o := bound.order(t, trusted)
			want(t, bound.post(t, o.Finalize, csr(t, bound.key, "gw1.example.com")), http.StatusBadRequest, "badCSR")
		},
		"finalize: before ready → orderNotReady": func(t *testing.T) {
			_, o := open.order(t, named)
			want(t, open.post(t, o.Finalize, csr(t, apptest.Key(t), "www.example.com")), http.StatusForbidden, "orderNotReady")
		},
		"finalize: signature and key": func(t *testing.T) {
			url, o := bound.order(t, trusted)
			f := csr(t, apptest.Key(t), "gw1.example.com")
			raw := []byte(f.CSR)
			raw[len(raw)-8] ^= 1
			want(t, bound.post(t, o.Finalize, acme.Finalize{CSR: string(raw)}), http.StatusBadRequest, "badCSR")
			if now := into[acme.Order](t, bound.post(t, url, nil)); now.Status != acme.StatusReady {
				t.Errorf("the order is %s, want ready", now.Status)
			}
		},
		"Location on finalize": func(t *testing.T) {
			url, o := bound.order(t, trusted)
			key := apptest.Key(t)
			f := csr(t, key, "gw1.example.com")
			first := bound.post(t, o.Finalize, f)
			if first.Header.Get("Location") != url || into[acme.Order](t, first).Status != acme.StatusValid {
				t.Errorf("got %v %s", first.Header, first.Text)
			}
			again := bound.post(t, o.Finalize, f) // the answer was lost
			if again.StatusCode != 200 || into[acme.Order](t, again).Certificate != into[acme.Order](t, first).Certificate {
				t.Errorf("repeated: got %d %s", again.StatusCode, again.Text)
			}
			want(t, bound.post(t, o.Finalize, csr(t, apptest.Key(t), "gw1.example.com")), http.StatusForbidden, "orderNotReady")
		},
		"processing: Retry-After as seconds": func(t *testing.T) {
			url, o := bound.order(t, acme.NewOrder{Identifiers: trusted.Identifiers, Profile: "approved"})
			r := bound.post(t, o.Finalize, csr(t, apptest.Key(t), "gw1.example.com"))
			if r.StatusCode != 200 || into[acme.Order](t, r).Status != acme.StatusProcessing || r.Header.Get("Retry-After") == "" {
				t.Fatalf("got %d %v %s", r.StatusCode, r.Header, r.Text)
			}
			if _, err := w.Enrol.Decide(t.Context(), apptest.Operator(), gw.ID.String(), "", true); err != nil {
				t.Fatal(err)
			}
			done := into[acme.Order](t, bound.post(t, url, nil))
			if done.Status != acme.StatusValid {
				t.Fatalf("after the approval the order is %s", done.Status)
			}
			url, o = bound.order(t, acme.NewOrder{Identifiers: trusted.Identifiers, Profile: "approved"})
			bound.post(t, o.Finalize, csr(t, apptest.Key(t), "gw1.example.com"))
			if _, err := w.Enrol.Decide(t.Context(), apptest.Operator(), gw.ID.String(), "", false); err != nil {
				t.Fatal(err)
			}
			done = into[acme.Order](t, bound.post(t, url, nil))
			w.refusals.Add(1) // which is told in the order
			if done.Status != acme.StatusInvalid || done.Error == nil || done.Error.Type != acme.ErrorPrefix+"unauthorized" {
				t.Errorf("after the refusal the order is %+v", done)
			}
		},
		"certificates that are kept nowhere else": func(t *testing.T) {
			_, chain := bound.obtain(t, acme.NewOrder{Identifiers: trusted.Identifiers, Profile: "short"}, apptest.Key(t))
			if leaf := parse(t, chain[0]); !slices.Equal(leaf.DNSNames, []string{"gw1.example.com"}) || len(chain) < 2 {
				t.Errorf("got %v with a chain of %d", leaf.DNSNames, len(chain))
			}
		},
		"authz deactivation": func(t *testing.T) {
			url, o := open.order(t, named)
			if z := into[acme.Authorization](t, open.post(t, o.Authorizations[0], map[string]string{"status": "deactivated"})); z.Status != acme.StatusDeactivated {
				t.Errorf("got %+v", z)
			}
			if now := into[acme.Order](t, open.post(t, url, nil)); now.Status != acme.StatusInvalid {
				t.Errorf("the order is %s", now.Status)
			}
			want(t, open.post(t, o.Authorizations[0], map[string]string{"status": "deactivated"}), http.StatusBadRequest, "malformed")
			want(t, open.post(t, o.Authorizations[0], map[string]string{"status": "valid"}), http.StatusBadRequest, "malformed")
		},
		"open account: evidence domain": func(t *testing.T) {
			key := apptest.Key(t)
			url, chain := open.obtain(t, named, key)
			leaf := parse(t, chain[0])
			if !slices.Equal(leaf.DNSNames, []string{"www.example.com"}) || url == "" {
				t.Errorf("the certificate is for %v", leaf.DNSNames)
			}
			found := w.entry(t, func(e audit.Entry) bool { return e.Action == "cert.issue" && e.Device == web.ID.String() })
			if found.Detail["evidence"] != string(ca.EvidenceDomain) || found.Detail["protocol"] != "acme" {
				t.Errorf("the record says %+v", found)
			}
		},
		"bound account: evidence account, validated": func(t *testing.T) {
			a, d := w.bound(t, "meter-7", "validated", "dns:meter-7.example.net", "dns:spare.example.net")
			_, chain := a.obtain(t, acme.NewOrder{Identifiers: identifiers("meter-7.example.net")}, apptest.Key(t))
			leaf := parse(t, chain[0])
			if !slices.Equal(leaf.DNSNames, []string{"meter-7.example.net"}) || leaf.Subject.CommonName != "meter-7" {
				t.Errorf("the certificate is for %v of %s", leaf.DNSNames, leaf.Subject)
			}
			found := w.entry(t, func(e audit.Entry) bool { return e.Action == "cert.issue" && e.Device == d.ID.String() })
			if found.Detail["evidence"] != string(ca.EvidenceAccount) {
				t.Errorf("the record says %+v", found)
			}
		},
		"failed validation": func(t *testing.T) {
			a, _ := w.bound(t, "lost", "validated")
			_, o := a.order(t, acme.NewOrder{Identifiers: identifiers("inside.example.com")})
			w.net.Name("inside.example.com", "10.9.9.9")
			z := into[acme.Authorization](t, a.post(t, o.Authorizations[0], nil))
			into[acme.Challenge](t, a.post(t, z.Challenges[0].URL, struct{}{}))
			for {
				r := a.post(t, o.Authorizations[0], nil)
				if z = into[acme.Authorization](t, r); z.Status != acme.StatusPending {
					break
				}
				if r.Header.Get("Retry-After") == "" || z.Challenges[0].Status != acme.StatusProcessing {
					t.Errorf("while it is validated: %v %s", r.Header, r.Text)
				}
			}
			if z.Status != acme.StatusInvalid || z.Challenges[0].Error == nil || z.Challenges[0].Error.Type != acme.ErrorPrefix+"connection" {
				t.Errorf("got %+v", z)
			}
		},
		"revoke by account, already revoked, bad reason": func(t *testing.T) {
			_, chain := bound.obtain(t, trusted, apptest.Key(t))
			reason := 7
			want(t, bound.post(t, w.base+"/acme/revoke-cert", acme.Revoke{Certificate: b64(chain[0]), Reason: &reason}), http.StatusBadRequest, "badRevocationReason")
			want(t, open.post(t, w.base+"/acme/revoke-cert", acme.Revoke{Certificate: b64(chain[0])}), http.StatusForbidden, "unauthorized")
			reason = 4
			if r := bound.post(t, w.base+"/acme/revoke-cert", acme.Revoke{Certificate: b64(chain[0]), Reason: &reason}); r.StatusCode != 200 {
				t.Fatalf("got %d %s", r.StatusCode, r.Text)
			}
			want(t, bound.post(t, w.base+"/acme/revoke-cert", acme.Revoke{Certificate: b64(chain[0])}), http.StatusBadRequest, "alreadyRevoked")
			state, revoked, err := w.Revoke.Status(t.Context(), parse(t, chain[0]).SerialNumber.Bytes())
			if err != nil || !revoked || state.Reason != revoke.Superseded {
				t.Errorf("it stands at %+v, %v", state, err)
			}
			want(t, bound.post(t, w.base+"/acme/revoke-cert", acme.Revoke{Certificate: "AAAA"}), http.StatusBadRequest, "malformed")
		},
		"revoke by certificate key": func(t *testing.T) {
			key := apptest.Key(t)
			_, chain := bound.obtain(t, trusted, key)
			want(t, (&account{w: w, key: apptest.Key(t)}).post(t, w.base+"/acme/revoke-cert", acme.Revoke{Certificate: b64(chain[0])}), http.StatusForbidden, "unauthorized")
			reason := 1
			if r := (&account{w: w, key: key}).post(t, w.base+"/acme/revoke-cert", acme.Revoke{Certificate: b64(chain[0]), Reason: &reason}); r.StatusCode != 200 {
				t.Errorf("got %d %s", r.StatusCode, r.Text)
			}
		},
		"revoke by authorised account": func(t *testing.T) {
			_, chain := open.obtain(t, named, apptest.Key(t))
			other := w.open(t)
			want(t, other.post(t, w.base+"/acme/revoke-cert", acme.Revoke{Certificate: b64(chain[0])}), http.StatusForbidden, "unauthorized")
			_, o := other.order(t, named)
			other.validate(t, o)
			if r := other.post(t, w.base+"/acme/revoke-cert", acme.Revoke{Certificate: b64(chain[0])}); r.StatusCode != 200 {
				t.Errorf("got %d %s", r.StatusCode, r.Text)
			}
		},
		"ARI": func(t *testing.T) {
			_, chain := bound.obtain(t, trusted, apptest.Key(t))
			leaf := parse(t, chain[0])
			id := acme.NewCertID(leaf.AuthorityKeyId, leaf.SerialNumber.Bytes())
			r := w.do(t, http.MethodGet, w.base+"/acme/renewal-info/"+id.String(), "", nil)
			info := into[acme.RenewalInfo](t, r)
			if r.Header.Get("Retry-After") != "21600" || !info.SuggestedWindow.Start.After(leaf.NotBefore) || !info.SuggestedWindow.End.Before(leaf.NotAfter) || !info.SuggestedWindow.End.After(info.SuggestedWindow.Start) {
				t.Errorf("got %v %s", r.Header, r.Text)
			}
		},
		"ARI: ID decode errors 404/malformed": func(t *testing.T) {
			for id, status := range map[string]int{"x": 400, "AA": 400, "AA.": 400, "AAAA.AAE": 400, "AAAA.AQ": 404, "AAAA.AQIDBAUGBwgJCgsMDQ4PEA": 404} {
				want(t, w.do(t, http.MethodGet, w.base+"/acme/renewal-info/"+id, "", nil), status, "malformed")
			}
		},
		"ARI: window in the past": func(t *testing.T) {
			_, chain := bound.obtain(t, trusted, apptest.Key(t))
			leaf := parse(t, chain[0])
			if _, err := w.Revoke.Certificate(t.Context(), apptest.Operator(), leaf.SerialNumber.Bytes(), revoke.Superseded); err != nil {
				t.Fatal(err)
			}
			info := into[acme.RenewalInfo](t, w.do(t, http.MethodGet, w.base+"/acme/renewal-info/"+acme.NewCertID(leaf.AuthorityKeyId, leaf.SerialNumber.Bytes()).String(), "", nil))
			if !info.SuggestedWindow.End.Before(w.Clock.Now()) || !info.SuggestedWindow.Start.Before(info.SuggestedWindow.End) {
				t.Errorf("got %+v", info)
			}
		},
		"ARI: replaces repeated (accepted) and of another account (refused)": func(t *testing.T) {
			_, chain := bound.obtain(t, trusted, apptest.Key(t))
			leaf := parse(t, chain[0])
			id := acme.NewCertID(leaf.AuthorityKeyId, leaf.SerialNumber.Bytes()).String()
			for range 2 {
				_, o := bound.order(t, acme.NewOrder{Identifiers: trusted.Identifiers, Replaces: id})
				if o.Replaces != id {
					t.Errorf("got %+v", o)
				}
			}
			want(t, open.post(t, newOrder, acme.NewOrder{Identifiers: named.Identifiers, Replaces: id}), http.StatusForbidden, "unauthorized")
			want(t, bound.post(t, newOrder, acme.NewOrder{Identifiers: trusted.Identifiers, Replaces: "x"}), http.StatusBadRequest, "malformed")
			bound.order(t, acme.NewOrder{Identifiers: trusted.Identifiers, Replaces: "AAAA.AQ"}) // another authority's
		},
		"profile unknown": func(t *testing.T) {
			for _, name := range []string{"nobody", "validated", "device"} {
				want(t, bound.post(t, newOrder, acme.NewOrder{Identifiers: trusted.Identifiers, Profile: name}), http.StatusBadRequest, "invalidProfile")
			}
			_, o := bound.order(t, trusted)
			if o.Profile != "trusted" {
				t.Errorf("the order has the profile %q", o.Profile)
			}
		},
		"suspended device": func(t *testing.T) {
			a, d := w.bound(t, "later-off", "trusted")
			_, o := a.order(t, trusted)
			if _, err := w.Devices.Move(t.Context(), apptest.Operator(), d.ID, device.Suspend, "test"); err != nil {
				t.Fatal(err)
			}
			want(t, a.post(t, newOrder, trusted), http.StatusForbidden, "unauthorized")
			want(t, a.post(t, o.Finalize, csr(t, apptest.Key(t), "gw1.example.com")), http.StatusForbidden, "unauthorized")
		},
		"account ended by an operator": func(t *testing.T) {
			a, d := w.bound(t, "ended", "trusted")
			list, err := w.ACME.Accounts(t.Context(), apptest.Operator(), d.ID, [16]byte{}, 10)
			if err != nil || len(list) != 1 {
				t.Fatalf("got %v, %v", list, err)
			}
			if _, err := w.ACME.End(t.Context(), access.Actor{Kind: access.KindOperator, ID: "x", Role: access.RoleAuditor}, list[0].ID); err == nil {
				t.Error("an auditor may end accounts")
			}
			if _, err := w.ACME.End(t.Context(), apptest.Operator(), list[0].ID); err != nil {
				t.Fatal(err)
			}
			want(t, a.post(t, newOrder, trusted), http.StatusUnauthorized, "unauthorized")
		},
		"a mode in which every nonce is rejected once must be survived by our own agent": func(t *testing.T) {
			d := w.Add(t, device.Spec{Name: "agent-1", Profile: "validated", Names: []string{"dns:agent-1.example.com"}})
			w.net.Name("agent-1.example.com")
			c := w.agentFor(t)
			c.HTTP = &http.Client{Transport: &grumpy{next: w.http.Transport, refused: map[string]bool{}}}
			if err := c.Register(t.Context(), bindingOf("agent-1", w.Token(t, d.ID))); err != nil {
				t.Fatal(err)
			}
			key := apptest.Key(t)
			chain, err := c.Obtain(t.Context(), acme.NewOrder{Identifiers: identifiers("agent-1.example.com")}, apptest.CSR(t, key, der.RequestSpec{Names: der.AltNames{DNS: []string{"agent-1.example.com"}}}), w.net)
			if err != nil {
				t.Fatal(err)
			}
			pair := tls.Certificate{Certificate: chain, PrivateKey: key}
			handshake(t, w, pair, "agent-1.example.com")
			id := parse(t, chain[0])
			if win, again, err := c.RenewalInfo(t.Context(), acme.NewCertID(id.AuthorityKeyId, id.SerialNumber.Bytes())); err != nil || again != 6*time.Hour || win.Start.IsZero() {
				t.Errorf("renewal: %v %v %v", win, again, err)
			}
			if err := c.Revoke(t.Context(), chain[0], 0); err != nil {
				t.Error(err)
			}
		},
		"order expires in days": func(t *testing.T) {
			a, _ := w.bound(t, "slow", "validated")
			_, o := a.order(t, acme.NewOrder{Identifiers: identifiers("slow.example.com")})
			if expires, err := time.Parse(time.RFC3339, o.Expires); err != nil || expires.Before(w.Clock.Now().Add(6*24*time.Hour)) {
				t.Errorf("it expires %s: %v", o.Expires, err)
			}
		},
	} {
		t.Run(name, test)
	}
	if r := w.Verify(t); len(r.Findings) > 0 {
		t.Errorf("the record does not fit: %v", r.Findings)
	}
	t.Run("audit entry on every refusal", func(t *testing.T) {
		refused := w.entry(t, func(e audit.Entry) bool { return e.Action == "acme.refuse" && e.Detail["op"] == "/acme/new-order" })
		if refused.Refused == "" {
			t.Errorf("the record of refusals says %+v", refused)
		}
		want := w.refusals.Load()
		w.Restart(t) // those that are like others are counted, and the count is recorded every minute and at the end
		recorded := int64(0)
		for _, e := range w.Record(t) {
			if e.Action == "acme.refuse" || e.Action == "enrol.refuse" {
				more, _ := strconv.ParseInt(e.Detail["count"], 10, 64)
				recorded += max(1, more)
			}
		}
		if recorded != want {
			t.Errorf("the record tells of %d refusals, want %d", recorded, want)
		}
	})
}

// TestAccountsNeedDevices: unless accounts are open, each is bound to a device by its token.
func TestAccountsNeedDevices(t *testing.T) {
	w := newWorld(t, func(c *conf.Config) { c.ACME.Open = false })
	newAccount := w.base + "/acme/new-account"
	t.Run("EAB missing", func(t *testing.T) {
		if d := into[acme.Directory](t, w.do(t, http.MethodGet, w.base+"/acme/directory", "", nil)); !d.Meta.ExternalAccountRequired {
			t.Error("the directory does not say so")
		}
		a := &account{w: w, key: apptest.Key(t)}
		want(t, a.post(t, newAccount, acme.NewAccount{}), http.StatusForbidden, "externalAccountRequired")
		want(t, a.post(t, newAccount, acme.NewAccount{OnlyReturnExisting: true}), http.StatusBadRequest, "accountDoesNotExist") // nothing was made
		if found := w.entry(t, func(e audit.Entry) bool { return e.Action == "acme.refuse" }); found.Refused == "" {
			t.Error("the record does not know of it")
		}
	})
}

// entry returns the newest entry that matches.
func (w *world) entry(t *testing.T, match func(audit.Entry) bool) (found audit.Entry) {
	t.Helper()
	for _, e := range w.Record(t) {
		if match(e.Entry) {
			found = e.Entry
		}
	}
	return found
}

// rollover asks for a key change with an inner message that can be bent.
func (a *account) rollover(t *testing.T, next *ecdsa.PrivateKey, bend header, change acme.KeyChange) reply {
	t.Helper()
	url := a.w.base + "/acme/key-change"
	h := header{"alg": "ES256", "url": url, "jwk": jwkOf(t, next)}
	for k, v := range bend {
		h[k] = v
		if v == nil {
			delete(h, k)
		}
	}
	return a.post(t, url, sign(t, next, h, encode(t, change)))
}

// handshake uses a certificate as a TLS server's.
func handshake(t *testing.T, w *world, pair tls.Certificate, name string) {
	t.Helper()
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{pair}})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	done := make(chan error, 1)
	go func() {
		conn, err := l.Accept()
		if err == nil {
			err = conn.(*tls.Conn).HandshakeContext(context.WithoutCancel(t.Context()))
			_ = conn.Close()
		}
		done <- err
	}()
	conn, err := tls.Dial("tcp", l.Addr().String(), &tls.Config{RootCAs: w.Pool(), ServerName: name, Time: w.Clock.Now})
	if err != nil {
		t.Fatalf("the handshake with the new certificate: %v", err)
	}
	if err := conn.Close(); err != nil {
		t.Error(err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}
