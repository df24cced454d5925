package acme_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	agent "mooring/agent/acme"
	"mooring/internal/app/apptest"
	"mooring/internal/base/conf"
	"mooring/internal/base/port"
	"mooring/internal/core/device"
	"mooring/internal/provider/reach/reachtest"
	"mooring/wire/acme"
	"mooring/wire/der"
)

// world is a platform that serves ACME, and a network in which it validates.
type world struct {
	*apptest.Platform
	net  *reachtest.Net
	base string
	http *http.Client
	// refusals counts those of which the record must tell; nil: nobody asks.
	refusals *atomic.Int64
}

// validated is the profile of gateways that order by ACME and show each name; trusted the one of those that need not; approved waits for a person.
func profiles() []apptest.Profile {
	choice := func(name string, lines ...string) apptest.Profile {
		p := apptest.Variant("gateway", name, lines...)
		p.YAML = strings.Replace(p.YAML, "  dns:\n", "  dns:\n    request: [\"*.example.com\"]\n    max: 100\n    wildcard: true\n", 1)
		p.YAML = strings.Replace(p.YAML, "  ip:\n", "  ip:\n    request: [127.0.0.0/8, \"fd00::/8\"]\n    max: 9\n", 1)
		return p
	}
	return []apptest.Profile{choice("validated", "evidence: [account, domain, operational]"), choice("trusted", "evidence: [account]", "acme: trust-account"),
		choice("approved", "evidence: [account]", "acme: trust-account", "approval: required", "also_for: [trusted]", "slot: second"),
		choice("short", "evidence: [account]", "acme: trust-account", "also_for: [trusted]", "slot: third", "record: brief", "validity: 1d", "renew_before: 8h", "ocsp: false", "retention: 0s")}
}

func newWorld(t *testing.T, change func(*conf.Config), more ...apptest.Profile) *world {
	t.Helper()
	w := &world{net: reachtest.Start(t), refusals: new(atomic.Int64)}
	list := profiles()
	list[3].YAML = strings.Replace(list[3].YAML, "retention: 0s\n", "", 1)
	w.Platform = apptest.Start(t, func(c *conf.Config) {
		c.Listen.ACME = free(t)
		c.PublicURLs.ACME = "https://" + c.Listen.ACME
		c.ACME.Resolver, c.ACME.HTTPPort, c.ACME.TLSPort, c.ACME.Allow = w.net.Resolver, w.net.HTTPPort, w.net.TLSPort, w.net.Options().Allow
		c.ACME.Open = true
		if change != nil {
			change(c)
		}
	}, append(list, more...)...)
	w.base = w.Addresses().ACME
	w.http = w.client(w.Platform)
	return w
}

func (w *world) client(p *apptest.Platform) *http.Client {
	return &http.Client{Timeout: time.Minute, Transport: &http.Transport{MaxIdleConnsPerHost: 32, TLSClientConfig: &tls.Config{RootCAs: p.Pool(), ServerName: "localhost", Time: p.Clock.Now}}}
}

// free is an address that nobody listens at.
func free(t *testing.T) string {
	t.Helper()
	ports, err := port.Free(1)
	if err != nil {
		t.Fatal(err)
	}
	return ports[0].String()
}

// header is a protected header that can be bent: fields of a map.
type header map[string]any

// reply is what came back.
type reply struct {
	*http.Response
	Text []byte
}

func (r reply) problem() (p acme.Problem) {
	_ = json.Unmarshal(r.Text, &p) // what is no problem has no type
	return p
}

func (r reply) kind() string { return strings.TrimPrefix(r.problem().Type, acme.ErrorPrefix) }

func into[T any](t testing.TB, r reply) (v T) {
	t.Helper()
	if r.StatusCode >= 300 {
		t.Fatalf("got %d %s", r.StatusCode, r.Text)
	}
	if err := json.Unmarshal(r.Text, &v); err != nil {
		t.Fatalf("reading %s: %v", r.Text, err)
	}
	return v
}

func (w *world) do(t testing.TB, method, url, contentType string, body []byte) reply {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, url, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if contentType != "" {
		r.Header.Set("Content-Type", contentType)
	}
	answer, err := w.http.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	out := reply{answer, text}
	if w.refusals != nil && method == http.MethodPost && answer.StatusCode >= 400 && answer.StatusCode != http.StatusMethodNotAllowed && out.kind() != "badNonce" {
		w.refusals.Add(1)
	}
	return out
}

func (w *world) nonce(t testing.TB) string {
	t.Helper()
	return w.do(t, http.MethodHead, w.base+"/acme/new-nonce", "", nil).Header.Get("Replay-Nonce")
}

func b64(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

func jwkOf(t testing.TB, key crypto.Signer) json.RawMessage {
	t.Helper()
	k, err := acme.NewKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	return k.JWK()
}

// sign makes a message with any header.
func sign(t testing.TB, key *ecdsa.PrivateKey, h header, payload []byte) []byte {
	t.Helper()
	text, err := json.Marshal(h)
	if err != nil {
		t.Fatal(err)
	}
	protected, body := b64(text), b64(payload)
	sum := sha256.Sum256([]byte(protected + "." + body))
	r, s, err := ecdsa.Sign(rand.Reader, key, sum[:])
	if err != nil {
		t.Fatal(err)
	}
	signature := append(r.FillBytes(make([]byte, 32)), s.FillBytes(make([]byte, 32))...)
	out, err := json.Marshal(map[string]string{"protected": protected, "payload": body, "signature": b64(signature)})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// account is a client of the tests.
type account struct {
	w   *world
	key *ecdsa.PrivateKey
	url string // "": the key itself
}

func encode(t testing.TB, payload any) []byte {
	t.Helper()
	switch p := payload.(type) {
	case nil:
		return nil
	case []byte:
		return p
	}
	text, err := json.Marshal(payload)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// post sends payload as JSON; bend may change the header, with nil values taken out.
func (a *account) post(t testing.TB, url string, payload any, bend ...header) reply {
	t.Helper()
	h := header{"alg": "ES256", "nonce": a.w.nonce(t), "url": url}
	if a.url == "" {
		h["jwk"] = jwkOf(t, a.key)
	} else {
		h["kid"] = a.url
	}
	for _, b := range bend {
		for k, v := range b {
			h[k] = v
			if v == nil {
				delete(h, k)
			}
		}
	}
	return a.w.do(t, http.MethodPost, url, acme.TypeRequest, sign(t, a.key, h, encode(t, payload)))
}

// open makes an account without a binding.
func (w *world) open(t testing.TB) *account {
	t.Helper()
	a := &account{w: w, key: apptest.Key(t)}
	r := a.post(t, w.base+"/acme/new-account", acme.NewAccount{})
	if r.StatusCode != http.StatusCreated {
		t.Fatalf("making an account: %d %s", r.StatusCode, r.Text)
	}
	a.url = r.Header.Get("Location")
	return a
}

// bind makes a binding that can be bent.
func bind(t testing.TB, key crypto.Signer, name, secret, url string) json.RawMessage {
	t.Helper()
	k, err := acme.NewKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	text, err := acme.Bind(k, name, []byte(secret), url)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// bound registers a device and makes its account.
func (w *world) bound(t testing.TB, name, profile string, names ...string) (*account, device.Device) {
	t.Helper()
	d := w.Add(t, device.Spec{Name: name, Profile: profile, Names: names})
	return w.boundTo(t, d), d
}

// boundTo makes a device's account.
func (w *world) boundTo(t testing.TB, d device.Device) *account {
	t.Helper()
	a := &account{w: w, key: apptest.Key(t)}
	url := w.base + "/acme/new-account"
	r := a.post(t, url, acme.NewAccount{ExternalAccountBinding: bind(t, a.key, d.Name, w.Token(t, d.ID), url)})
	if r.StatusCode != http.StatusCreated {
		t.Fatalf("making an account: %d %s", r.StatusCode, r.Text)
	}
	a.url = r.Header.Get("Location")
	return a
}

func identifiers(names ...string) (list []acme.Identifier) {
	for _, n := range names {
		kind := "dns"
		if net.ParseIP(n) != nil {
			kind = "ip"
		}
		list = append(list, acme.Identifier{Type: kind, Value: n})
	}
	return list
}

// order orders and returns the order's address.
func (a *account) order(t testing.TB, wanted acme.NewOrder) (string, acme.Order) {
	t.Helper()
	r := a.post(t, a.w.base+"/acme/new-order", wanted)
	return r.Header.Get("Location"), into[acme.Order](t, r)
}

// validate shows the right to every name of an order by http-01 and waits.
func (a *account) validate(t testing.TB, o acme.Order) {
	t.Helper()
	k, err := acme.NewKey(a.key.Public())
	if err != nil {
		t.Fatal(err)
	}
	for _, url := range o.Authorizations {
		z := into[acme.Authorization](t, a.post(t, url, nil))
		if z.Identifier.Type == "dns" {
			a.w.net.Name(z.Identifier.Value)
		}
		for _, ch := range z.Challenges {
			if ch.Type != acme.HTTP01 {
				continue
			}
			if _, err := a.w.net.Present(ch.Token, acme.KeyAuthorization(ch.Token, k.Thumbprint[:])); err != nil {
				t.Fatal(err)
			}
			into[acme.Challenge](t, a.post(t, ch.URL, struct{}{}))
		}
		a.await(t, url, acme.StatusValid)
	}
}

// await asks until an authorization or order has the status.
func (a *account) await(t testing.TB, url, status string) reply {
	t.Helper()
	for {
		r := a.post(t, url, nil)
		v := into[struct {
			Status string `json:"status"`
		}](t, r)
		switch {
		case v.Status == status:
			return r
		case v.Status == acme.StatusInvalid:
			t.Fatalf("it is invalid: %s", r.Text)
		}
		select {
		case <-t.Context().Done():
			t.Fatal("it takes too long")
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func csr(t testing.TB, key crypto.Signer, names ...string) acme.Finalize {
	t.Helper()
	var alt der.AltNames
	for _, n := range identifiers(names...) {
		if n.Type == "dns" {
			alt.DNS = append(alt.DNS, n.Value)
		} else {
			alt.IP = append(alt.IP, address(n.Value))
		}
	}
	return acme.Finalize{CSR: b64(apptest.CSR(t, key, der.RequestSpec{Names: alt}))}
}

// obtain orders, validates and finishes.
func (a *account) obtain(t testing.TB, wanted acme.NewOrder, key crypto.Signer) (url string, chain [][]byte) {
	t.Helper()
	url, o := a.order(t, wanted)
	if o.Status == acme.StatusPending {
		a.validate(t, o)
	}
	var names []string
	for _, id := range wanted.Identifiers {
		names = append(names, id.Value)
	}
	done := into[acme.Order](t, a.post(t, o.Finalize, csr(t, key, names...)))
	if done.Status != acme.StatusValid {
		t.Fatalf("the order is %s", done.Status)
	}
	r := a.post(t, done.Certificate, nil)
	if r.StatusCode != http.StatusOK {
		t.Fatalf("fetching: %d %s", r.StatusCode, r.Text)
	}
	return url, decodePEM(t, r.Text)
}

// agentFor is the agent's client, with a key of its own.
func (w *world) agentFor(t testing.TB) *agent.Client {
	t.Helper()
	return &agent.Client{Directory: w.base + "/acme/directory", HTTP: w.http, Key: apptest.Key(t), Now: w.Clock.Now,
		Pause: func(ctx context.Context, _ time.Duration) error {
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(20 * time.Millisecond):
				return nil
			}
		}}
}

func want(t testing.TB, r reply, status int, kind string) {
	t.Helper()
	if r.StatusCode != status || r.kind() != kind {
		t.Errorf("got %d %s, want %d %s", r.StatusCode, r.Text, status, kind)
	}
	if r.Header.Get("Content-Type") != acme.TypeProblem && status >= 400 {
		t.Errorf("the media type is %q", r.Header.Get("Content-Type"))
	}
}

// roots are what clients believe the platform by.
func (w *world) roots() []*x509.Certificate { return []*x509.Certificate{w.Root} }
