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
	t.Run("two nodes, one order, two finalizes: one certificate", oneOrderOneCertificate)
}

func oneOrderOneCertificate(t *testing.T) {
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
	oneTokenOneAccount(t, nodes)
	if r := w.Verify(t); len(r.Findings) > 0 {
		t.Errorf("the record does not fit: %v", r.Findings)
	}
}

// oneTokenOneAccount has each token used for two keys at once, on two nodes where there are two, whose transactions lock the same devices.
func oneTokenOneAccount(t *testing.T, nodes []*world) {
	t.Helper()
	w, url := nodes[0], nodes[0].base+"/acme/new-account"
	const devices = 12
	var bodies [2 * devices][]byte
	for i := range devices {
		d := w.Add(t, device.Spec{Name: fmt.Sprintf("twice-%d", i), Profile: "trusted"})
		token := w.Token(t, d.ID)
		for k, at := range []int{i, len(bodies) - 1 - i} { // the other way round on the other node
			key := apptest.Key(t)
			bodies[at] = sign(t, key, header{"alg": "ES256", "nonce": nodes[k%len(nodes)].nonceAt(t), "url": url, "jwk": jwkOf(t, key)},
				encode(t, acme.NewAccount{ExternalAccountBinding: bind(t, key, d.Name, token, url)}))
		}
	}
	var status [len(bodies)]int
	var all sync.WaitGroup
	for i, body := range bodies {
		node := nodes[i/devices%len(nodes)]
		all.Go(func() { status[i] = node.do(t, http.MethodPost, node.at(url), acme.TypeRequest, body).StatusCode })
	}
	all.Wait()
	for i := range devices {
		if sum := status[i] + status[len(bodies)-1-i]; sum != http.StatusCreated+http.StatusForbidden {
			t.Errorf("device %d: got %d and %d, want one account", i, status[i], status[len(bodies)-1-i])
		}
	}
}

// TestNonceOfAnotherNode: a nonce counts where it was given out; whoever brings it to another node gets one that counts at both, once.
func TestNonceOfAnotherNode(t *testing.T) {
	w := newWorld(t, nil)
	if !w.DB.Arrays() {
		t.Skip("with SQLite there is one node")
	}
	a := w.open(t)
	second := &world{Platform: w.Second(t), net: w.net, base: w.base}
	second.http = second.client(second.Platform)
	ask := func(node *world, nonce string) reply {
		return node.do(t, http.MethodPost, node.at(a.url), acme.TypeRequest, sign(t, a.key, header{"alg": "ES256", "nonce": nonce, "url": a.url, "kid": a.url}, nil))
	}
	own := w.nonce(t)
	r := ask(second, own)
	want(t, r, http.StatusBadRequest, "badNonce")
	if r := ask(w, own); r.StatusCode != http.StatusOK {
		t.Errorf("the nonce at the node that gave it out: %d %s", r.StatusCode, r.Text)
	}
	shared := r.Header.Get("Replay-Nonce")
	if r := ask(w, shared); r.StatusCode != http.StatusOK {
		t.Errorf("the nonce of the refusal at the first node: %d %s", r.StatusCode, r.Text)
	}
	for _, node := range []*world{w, second} {
		want(t, ask(node, shared), http.StatusBadRequest, "badNonce")
	}
	if r := ask(second, w.nonce(t)); r.StatusCode != http.StatusOK { // the first node has met a nonce of the second one by now
		t.Errorf("a nonce from one node to the other: %d %s", r.StatusCode, r.Text)
	}
}

// TestStrangersHoldNoNode: who has no account goes from one node to another as well, and no order of others is stored at once for that.
func TestStrangersHoldNoNode(t *testing.T) {
	w := newWorld(t, nil)
	if !w.DB.Arrays() {
		t.Skip("with SQLite there is one node")
	}
	second := &world{Platform: w.Second(t), net: w.net, base: w.base}
	second.http = second.client(second.Platform)
	a, _ := w.bound(t, "gw-1", "trusted")
	key, url := apptest.Key(t), w.base+"/acme/new-account"
	join := func(node *world, nonce string) reply {
		h := header{"alg": "ES256", "nonce": nonce, "url": url, "jwk": jwkOf(t, key)}
		return node.do(t, http.MethodPost, node.at(url), acme.TypeRequest, sign(t, key, h, encode(t, acme.NewAccount{})))
	}
	refused := join(w, second.nonceAt(t))
	want(t, refused, http.StatusBadRequest, "badNonce")
	forged := header{"alg": "ES256", "nonce": second.nonceAt(t), "url": a.url, "kid": a.url}
	want(t, w.do(t, http.MethodPost, a.url, acme.TypeRequest, sign(t, key, forged, nil)), http.StatusBadRequest, "malformed")
	order, _ := a.order(t, acme.NewOrder{Identifiers: identifiers("gw1.example.com")})
	if got := w.stored(t, order); got != 0 {
		t.Errorf("the row's state is %d: a stranger's nonces had the order stored at once", got)
	}
	if r := join(second, refused.Header.Get("Replay-Nonce")); r.StatusCode != http.StatusCreated {
		t.Errorf("the nonce of the refusal at the other node: %d %s", r.StatusCode, r.Text)
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
