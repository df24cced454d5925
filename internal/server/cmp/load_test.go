package cmp_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/x509"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"testing"

	"mooring/internal/app/apptest"
	server "mooring/internal/server/cmp"
	"mooring/wire/cmp"
	"mooring/wire/der"
)

// questions is a genm.
func questions(list ...cmp.Info) *cmp.General { return &cmp.General{As: cmp.GenM, List: list} }

// TestCostlyMACs has as many strangers as there are turns hold theirs. Others with costly MACs are told so, and no secret is looked up for them; cheap ones
// and signatures pass.
func TestCostlyMACs(t *testing.T) {
	p := apptest.Start(t, withCMP)
	f := &fleet{p: p, prefix: "m"}
	_, own := p.Enrolled(t, f.name(), "device") // the server signs with it here
	entered, leave := make(chan struct{}), make(chan struct{})
	var mu sync.Mutex
	var asked []string // guarded by mu, as is what follows
	var announced int  // requests that others wait for
	var expected []int // announced, when an answer is made
	s := server.New(server.Deps{Enrol: p.Enrol, CA: p.CA, Revoke: p.Revoke, Now: p.Clock.Now,
		Secret: func(ctx context.Context, name string) (string, error) {
			mu.Lock()
			asked = append(asked, name)
			mu.Unlock()
			if name == "held" {
				entered <- struct{}{}
				<-leave
			}
			return p.Devices.TokenSecret(ctx, name)
		},
		Identity: func() (crypto.Signer, *x509.Certificate, [][]byte) {
			mu.Lock()
			defer mu.Unlock()
			expected = append(expected, announced)
			return own.PrivateKey.(crypto.Signer), own.Leaf, nil
		}})
	s.OnExpect(func() func() {
		mu.Lock()
		defer mu.Unlock()
		announced++
		return func() { mu.Lock(); announced--; mu.Unlock() }
	})
	post := func(message []byte, host int) []byte {
		r := httptest.NewRequest(http.MethodPost, cmp.WellKnown, bytes.NewReader(message))
		r.Header.Set("Content-Type", cmp.MediaType)
		r.RemoteAddr = fmt.Sprintf("[2001:db8:0:%x::1]:5", host)
		w := httptest.NewRecorder()
		s.ServeHTTP(w, r)
		return w.Body.Bytes()
	}
	// message of a device, by its token and so many iterations.
	message := func(name, secret string, rounds int) []byte {
		c := byMAC(t, p, name, secret)
		c.mac = &cmp.MAC{Secret: []byte(secret), Salt: random(16), Iterations: rounds, Derive: cmp.SHA256, HMAC: cmp.SHA256, KeyLength: 32}
		return c.build(questions(cmp.Info{Type: cmp.OIDCACerts}))
	}
	wants := func(what string, message []byte, fail cmp.Failure, waits int) {
		t.Helper()
		mu.Lock()
		expected = nil
		mu.Unlock()
		m, err := cmp.Parse(post(message, 1))
		if err != nil {
			t.Fatal(err)
		}
		if got := failure(t, m.Body); got != fail {
			t.Errorf("%s: got %v, want %v", what, got, fail)
		}
		mu.Lock()
		defer mu.Unlock()
		if !slices.Equal(expected, []int{waits}) || announced != 0 {
			t.Errorf("%s: others wait for %d requests and then for %d, want %d and none", what, expected, announced, waits)
		}
	}
	d, token := p.Device(t, f.name(), "device")
	costly := message(d.Name, token, server.CheapRounds+1)

	var holders sync.WaitGroup
	held := message("held", "mt_guess", server.CheapRounds+1)
	for i := range s.Turns() {
		holders.Go(func() { post(held, i+2) })
		<-entered
	}
	wants("costly, while all turns are taken", costly, cmp.SystemUnavail, 0)
	mu.Lock()
	if slices.Contains(asked, d.Name) {
		t.Error("the secret was looked up without a turn")
	}
	mu.Unlock()
	wants("cheap", message(d.Name, token, server.CheapRounds), -1, 1)
	wants("cheap and wrong", message(d.Name, "mt_guess", server.CheapRounds), cmp.BadMessageCheck, 0)
	wants("signed", f.member(t, "device").build(questions(cmp.Info{Type: cmp.OIDCACerts})), -1, 1)
	close(leave)
	holders.Wait()
	wants("costly", costly, -1, 1)
}

// TestAnswersDoNotSwell asks for much with little.
func TestAnswersDoNotSwell(t *testing.T) {
	p := apptest.Start(t, withCMP)
	f := &fleet{p: p, prefix: "a"}
	c := f.member(t, "device")
	issuer := p.CA.IssuerOf(c.pair.Leaf)
	byName := cmp.NewCRLStatus(cmp.CRLStatus{Issuer: issuer.Certificate().RawSubject})
	byURL := cmp.NewCRLStatus(cmp.CRLStatus{URL: c.pair.Leaf.CRLDistributionPoints[0]})
	both := func(lists ...cmp.Info) cmp.Info { // in one crlStatusList
		var content []byte
		for _, l := range lists {
			content = append(content, l.Value[2:]...) // each is short
		}
		return cmp.Info{Type: cmp.OIDCRLStatusList, Value: der.AppendElement(nil, 0x30, content)}
	}
	for name, list := range map[string][]cmp.Info{
		"a question twice":             {{Type: cmp.OIDCACerts}, {Type: cmp.OIDCertReqTemplate}, {Type: cmp.OIDCACerts}},
		"lists twice":                  {byName, byURL},
		"a list twice in one question": {both(byName, byName)},
	} {
		t.Run(name, func(t *testing.T) { want(t, f.member(t, "device"), questions(list...), cmp.BadRequest) })
	}
	if m, err := cmp.Parse(c.post(c.build(questions(cmp.Info{Type: cmp.OIDCACerts}, both(byName, byURL), cmp.Info{Type: cmp.OIDCurrentCRL})))); err != nil || len(m.Body.(*cmp.General).List) != 3 {
		t.Errorf("three questions, two lists: got %+v, %v", m, err)
	}
	s := server.New(server.Deps{Enrol: p.Enrol, CA: p.CA, Revoke: p.Revoke, Now: p.Clock.Now})
	list, err := s.ListAfter(t.Context(), 0, issuer)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.ListAfter(t.Context(), server.ListMost-int64(len(list)), issuer); err != nil {
		t.Errorf("lists of %d octets: got %v", server.ListMost, err)
	}
	if _, err := s.ListAfter(t.Context(), server.ListMost-int64(len(list))+1, issuer); err == nil {
		t.Error("lists of one octet more: got success")
	}
}
