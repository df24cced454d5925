package cmp_test

import (
	"bytes"
	mathrand "math/rand/v2"
	"net/http"
	"testing"
	"time"

	"mooring/agent"
	"mooring/internal/app/apptest"
	"mooring/internal/core/ca"
	"mooring/internal/core/key"
	"mooring/wire/cmp"
	"mooring/wire/der"
)

// TestRootUpdate makes a root for which the old one vouches, and has a device and its agent learn of it.
func TestRootUpdate(t *testing.T) {
	p := apptest.Start(t, withCMP)
	_, token := p.Device(t, "pump", "device")
	a := agentOf(t, p, t.TempDir(), "pump")
	if _, err := a.Enrol(t.Context(), agent.First{Token: token}); err != nil {
		t.Fatal(err)
	}
	old, err := p.CA.Issuer("root")
	if err != nil {
		t.Fatal(err)
	}
	p.Clock.Move(time.Minute) // the new one is newer
	subject := []der.Attribute{{Type: der.OIDOrganization, Value: "Test Fleet"}, {Type: der.OIDCommonName, Value: "Root G2"}}
	next, err := p.CA.Create(t.Context(), apptest.Operator(), ca.Spec{Name: "root-g2", Subject: subject, Algorithm: key.P256, Validity: 86400, PathLen: 2})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.CA.Cross(t.Context(), apptest.Operator(), "root", "root-g2"); err != nil {
		t.Fatal(err)
	}
	c := (&fleet{p: p, prefix: "root"}).member(t, "device")
	update, err := cmp.ParseRootUpdate(ask(t, c, cmp.Info{Type: cmp.OIDRootCACert, Value: old.Certificate().Raw}, cmp.OIDRootUpdate))
	if err != nil || !bytes.Equal(update.NewWithNew, next.Certificate().Raw) || update.NewWithOld == nil || update.OldWithNew == nil {
		t.Fatalf("got %+v, %v", update, err)
	}
	if v := ask(t, c, cmp.Info{Type: cmp.OIDRootCACert, Value: next.Certificate().Raw}, cmp.OIDRootUpdate); v != nil {
		t.Error("the newest root has a successor")
	}
	if _, err := a.Renew(t.Context()); err != nil {
		t.Fatal(err)
	}
	roots, err := a.Roots()
	if err != nil || len(roots) != 2 || !roots[1].Equal(next.Certificate()) {
		t.Errorf("the agent's roots: got %d, %v, want the old and the new one", len(roots), err)
	}
	handshake(t, p, a)
}

// TestBrokenMessages flips octets of good messages, as a bad line does: each is answered, and none gets a certificate.
func TestBrokenMessages(t *testing.T) {
	p := apptest.Start(t, withCMP)
	f := &fleet{p: p, prefix: "broken"}
	random := mathrand.New(mathrand.NewPCG(1, 2))
	newcomer, member := f.newcomer(t, "device"), f.member(t, "device")
	good := [][]byte{newcomer.build(newcomer.request(cmp.IR)), member.build(member.renewal()), member.build(member.give(member.pair.Leaf, 1)),
		member.build(&cmp.General{As: cmp.GenM, List: []cmp.Info{{Type: cmp.OIDCACerts}}})}
	for range 300 {
		m := bytes.Clone(good[random.IntN(len(good))])
		// In what is protected: extraCerts behind the first need not be right.
		whole := parts(t, m)
		m[random.IntN(len(whole[0])+len(whole[1])+4)] ^= 1 << random.IntN(8)
		r, err := http.Post(p.Addresses().CMP+cmp.WellKnown, cmp.MediaType, bytes.NewReader(m))
		if err != nil {
			t.Fatal(err)
		}
		var out bytes.Buffer
		if _, err := out.ReadFrom(r.Body); err != nil {
			t.Fatal(err)
		}
		if err := r.Body.Close(); err != nil || r.StatusCode != http.StatusOK {
			t.Fatalf("got %d, %v for %x", r.StatusCode, err, m)
		}
		answer, err := cmp.Parse(out.Bytes())
		if err != nil {
			t.Fatalf("the answer to %x: %v", m, err)
		}
		if answer.Body.Kind() != cmp.Error && failure(t, answer.Body) < 0 {
			t.Errorf("got %s for %x", answer.Body.Kind(), m)
		}
	}
}
