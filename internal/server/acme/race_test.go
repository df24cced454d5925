package acme_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	agent "mooring/agent/acme"
	"mooring/internal/app/apptest"
	"mooring/internal/core/device"
	"mooring/wire/acme"
	"mooring/wire/der"
)

func bindingOf(name, token string) *agent.Binding { return &agent.Binding{Name: name, Token: token} }

// grumpy rejects every nonce once.
type grumpy struct {
	next    http.RoundTripper
	mu      sync.Mutex
	refused map[string]bool // by octets of the message
}

func (g *grumpy) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Method != http.MethodPost {
		return g.next.RoundTrip(r)
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	var m struct{ Protected, Payload string }
	if err := json.Unmarshal(body, &m); err != nil {
		return nil, err
	}
	g.mu.Lock()
	key := r.URL.Path + m.Payload
	first := !g.refused[key]
	g.refused[key] = first
	g.mu.Unlock()
	if first {
		head, err := http.NewRequestWithContext(r.Context(), http.MethodHead, r.URL.Scheme+"://"+r.URL.Host+"/acme/new-nonce", nil)
		if err != nil {
			return nil, err
		}
		answer, err := g.next.RoundTrip(head)
		if err != nil {
			return nil, err
		}
		answer.StatusCode = http.StatusBadRequest
		answer.Body = io.NopCloser(strings.NewReader(`{"type":"` + acme.ErrorPrefix + `badNonce"}`))
		return answer, nil
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	return g.next.RoundTrip(r)
}

// TestOneOrderOneCertificate finishes one order with many requests at once, some for other keys. With PostgreSQL half of them go to another node.
func TestOneOrderOneCertificate(t *testing.T) {
	w := newWorld(t, nil)
	a, d := w.bound(t, "gw-1", "trusted")
	nodes := []*world{w}
	if w.DB.Arrays() {
		second := &world{Platform: w.Second(t), net: w.net, base: w.base}
		second.http = second.client(second.Platform)
		nodes = append(nodes, second)
	}
	for round := range 3 {
		_, o := a.order(t, acme.NewOrder{Identifiers: identifiers("gw1.example.com")})
		keys := []acme.Finalize{csr(t, apptest.Key(t), "gw1.example.com"), csr(t, apptest.Key(t), "gw1.example.com")}
		replies := make([]reply, 16)
		var all sync.WaitGroup
		for i := range replies {
			all.Go(func() {
				node := nodes[i%len(nodes)]
				body := sign(t, a.key, header{"alg": "ES256", "nonce": node.nonceAt(t), "url": o.Finalize, "kid": a.url}, encode(t, keys[i/8]))
				replies[i] = node.do(t, http.MethodPost, node.at(o.Finalize), acme.TypeRequest, body)
			})
		}
		all.Wait()
		certs := map[string]int{}
		for i, r := range replies {
			switch {
			case r.StatusCode == 200:
				certs[fmt.Sprint(i/8)]++
			case r.kind() != "orderNotReady":
				t.Errorf("request %d got %d %s", i, r.StatusCode, r.Text)
			}
		}
		if len(certs) != 1 {
			t.Errorf("certificates went to the requests %v, want those of one key", certs)
		}
		issued := 0
		for _, e := range w.Record(t) {
			if e.Action == "cert.issue" && e.Device == d.ID.String() {
				issued++
			}
		}
		if issued != round+1 {
			t.Errorf("after %d orders the record has %d certificates", round+1, issued)
		}
	}
	if r := w.Verify(t); len(r.Findings) > 0 {
		t.Errorf("the record does not fit: %v", r.Findings)
	}
}

// at is the address at which this node really listens.
func (w *world) at(url string) string {
	if own := w.Addresses().ACME; own != "" {
		return own + strings.TrimPrefix(url, w.base)
	}
	return url
}

func (w *world) nonceAt(t testing.TB) string {
	t.Helper()
	return w.do(t, http.MethodHead, w.at(w.base+"/acme/new-nonce"), "", nil).Header.Get("Replay-Nonce")
}

// TestSixteenClients has sixteen devices enrol at once, each with an account of its own.
func TestSixteenClients(t *testing.T) {
	w := newWorld(t, nil)
	const n = 16
	tokens := make([]string, n)
	for i := range tokens {
		name := fmt.Sprintf("m%d", i)
		d := w.Add(t, device.Spec{Name: name, Profile: "validated", Names: []string{"dns:" + name + ".example.com"}})
		tokens[i] = w.Token(t, d.ID)
		w.net.Name(name + ".example.com")
	}
	failures := make([]error, n)
	var all sync.WaitGroup
	for i := range n {
		client, key := w.agentFor(t), apptest.Key(t)
		name := fmt.Sprintf("m%d", i)
		request := apptest.CSR(t, key, der.RequestSpec{Names: der.AltNames{DNS: []string{name + ".example.com"}}})
		all.Go(func() {
			if failures[i] = client.Register(t.Context(), bindingOf(name, tokens[i])); failures[i] == nil {
				_, failures[i] = client.Obtain(t.Context(), acme.NewOrder{Identifiers: identifiers(name + ".example.com")}, request, w.net)
			}
		})
	}
	all.Wait()
	for i, err := range failures {
		if err != nil {
			t.Errorf("client %d: %v", i, err)
		}
	}
}

// TestPurge: what has expired leaves, and the record still fits.
func TestPurge(t *testing.T) {
	w := newWorld(t, nil)
	w.open(t)
	a, _ := w.bound(t, "gw-1", "trusted")
	url, _ := a.order(t, acme.NewOrder{Identifiers: identifiers("gw1.example.com")})
	ended := w.open(t)
	ended.post(t, ended.url, acme.AccountUpdate{Status: "deactivated"})
	w.Clock.Move(8 * 24 * time.Hour)
	if r := a.post(t, url, nil); r.StatusCode != 200 && r.StatusCode != 404 || r.StatusCode == 200 && into[acme.Order](t, r).Status != acme.StatusInvalid {
		t.Errorf("an expired order: got %d %s", r.StatusCode, r.Text)
	}
	if err := w.ACME.Purge(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	want(t, a.post(t, url, nil), http.StatusNotFound, "malformed")
	if r := a.post(t, a.url, nil); r.StatusCode != 200 {
		t.Errorf("the bound account: %d %s", r.StatusCode, r.Text)
	}
	w.Clock.Move(100 * 24 * time.Hour)
	if err := w.ACME.Purge(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	left, err := w.ACME.Accounts(t.Context(), apptest.Operator(), device.ID{}, [16]byte{}, 10)
	if err != nil || len(left) != 1 || !left[0].Bound() {
		t.Errorf("left are %v, %v, want the bound account", left, err)
	}
	if r := w.Verify(t); len(r.Findings) > 0 {
		t.Errorf("the record does not fit: %v", r.Findings)
	}
}
