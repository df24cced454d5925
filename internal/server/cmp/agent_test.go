package cmp_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"mooring/agent"
	device "mooring/agent/cmp"
	"mooring/agent/est"
	"mooring/internal/app/apptest"
	"mooring/internal/core/audit"
	"mooring/wire/cmp"
)

// agentOf is the agent of a device whose server is spoken to by CMP.
func agentOf(t *testing.T, p *apptest.Platform, dir, name string) *agent.Agent {
	t.Helper()
	o := agent.Options{Dir: dir, Now: p.Clock.Now, Sleep: func(context.Context, time.Duration) error { return nil }}
	a, err := agent.Create(o, agent.Config{Server: "cmp://" + strings.TrimPrefix(p.Addresses().CMP, "http://"), Name: name})
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// handshake uses an identity for TLS with the platform, believing it by the roots that the agent has.
func handshake(t *testing.T, p *apptest.Platform, a *agent.Agent) {
	t.Helper()
	identity, err := a.Identity()
	if err != nil {
		t.Fatal(err)
	}
	roots, err := a.Roots()
	if err != nil || len(roots) == 0 {
		t.Fatalf("roots: got %d, %v", len(roots), err)
	}
	pool := x509.NewCertPool()
	for _, r := range roots {
		pool.AddCert(r)
	}
	conn, err := tls.Dial("tcp", strings.TrimPrefix(p.Addresses().EST, "https://"), &tls.Config{RootCAs: pool, Time: p.Clock.Now, Certificates: []tls.Certificate{*identity.TLS()}})
	if err != nil {
		t.Fatal(err)
	}
	if err := conn.Close(); err != nil {
		t.Error(err)
	}
	if _, err := p.Enrol.Authenticate(t.Context(), identity.TLS().Certificate); err != nil {
		t.Errorf("the identity: got %v", err)
	}
}

// TestAgent enrols by a token alone, renews, and goes on with the same key after a lost answer.
func TestAgent(t *testing.T) {
	p := apptest.Start(t, withCMP)
	d, token := p.Device(t, "pump", "device")
	dir := t.TempDir()
	a := agentOf(t, p, dir, "pump")
	if _, err := a.Enrol(t.Context(), agent.First{Token: token}); err != nil {
		t.Fatal(err)
	}
	handshake(t, p, a)
	first, err := a.Identity()
	if err != nil {
		t.Fatal(err)
	}
	chain, err := os.ReadFile(filepath.Join(dir, "current", "chain.pem"))
	if err != nil || bytes.Count(chain, []byte("BEGIN CERTIFICATE")) < 2 {
		t.Errorf("chain.pem: got %d certificates, %v, want the device's and its CA's", bytes.Count(chain, []byte("BEGIN CERTIFICATE")), err)
	}
	if _, err := a.RenewNow(t.Context()); err != nil {
		t.Fatal(err)
	}
	handshake(t, p, a)
	second, err := a.Identity()
	if err != nil || second.Certificate().Equal(first.Certificate()) || bytes.Equal(second.Certificate().RawSubjectPublicKeyInfo, first.Certificate().RawSubjectPublicKeyInfo) {
		t.Errorf("the renewal: got %v, %v, want another certificate for another key", second, err)
	}
	count := 0
	for _, e := range p.Record(t) {
		if e.Device == d.ID.String() && (e.Action == "cert.confirm" || e.Action == "cert.issue" && e.Detail["protocol"] == "cmp") {
			count++
		}
	}
	if count != 4 {
		t.Errorf("the record has %d issues and confirmations, want 4", count)
	}
	if r := p.Verify(t); len(r.Findings) > 0 {
		t.Errorf("the record does not fit: %v", r.Findings)
	}
}

func TestAgentWaits(t *testing.T) {
	p := apptest.Start(t, withCMP, apptest.Variant("device", "approved", "approval: required"))
	d, token := p.Device(t, "pump", "approved")
	a := agentOf(t, p, t.TempDir(), "pump")
	_, err := a.Enrol(t.Context(), agent.First{Token: token})
	var pending *est.PendingError
	if !errors.As(err, &pending) || pending.RetryAfter < time.Second {
		t.Fatalf("got %v, want PendingError", err)
	}
	if _, err := p.Enrol.Decide(t.Context(), apptest.Operator(), d.Name, "", true); err != nil {
		t.Fatal(err)
	}
	if _, err := a.Enrol(t.Context(), agent.First{Token: token}); err != nil {
		t.Fatal(err)
	}
	handshake(t, p, a)
	issues := 0
	for _, e := range p.Record(t) {
		if isIssue(e.Entry, d.ID.String()) {
			issues++
		}
	}
	if issues != 1 {
		t.Errorf("%d certificates, want 1", issues)
	}
}

func isIssue(e audit.Entry, id string) bool { return e.Action == "cert.issue" && e.Device == id }

func TestAgentRefused(t *testing.T) {
	p := apptest.Start(t, withCMP)
	_, token := p.Device(t, "pump", "device")
	a := agentOf(t, p, t.TempDir(), "pump")
	_, err := a.Enrol(t.Context(), agent.First{Token: "mt_wrong"})
	var refused *est.RefusedError
	if !errors.As(err, &refused) || refused.Status != http.StatusUnauthorized || !strings.Contains(err.Error(), "token is wrong") || !strings.Contains(err.Error(), "not proven") {
		t.Errorf("a wrong token: got %v", err)
	}
	if strings.Contains(err.Error(), token) {
		t.Errorf("the token shows: %v", err)
	}
	if _, err := a.Enrol(t.Context(), agent.First{Token: token, Fingerprint: new([32]byte)}); err == nil {
		t.Error("a fingerprint: got success")
	}
	if _, err := device.New(device.Config{Server: "https://x"}); err == nil {
		t.Error("another scheme: got success")
	}
}

// TestImpostors has others than the server answer.
func TestImpostors(t *testing.T) {
	p := apptest.Start(t, withCMP)
	_, own := p.Enrolled(t, "own", "device")
	_, other := p.Enrolled(t, "other", "device")
	root, err := p.CA.Issuer("root")
	if err != nil {
		t.Fatal(err)
	}
	for what, answer := range map[string]func(asked *cmp.Message) []byte{
		"a device of the same authority": func(asked *cmp.Message) []byte { return forge(t, asked, other, nil) },
		"nobody":                         func(asked *cmp.Message) []byte { return forge(t, asked, tls.Certificate{}, nil) },
		"a secret that is guessed":       func(asked *cmp.Message) []byte { return forge(t, asked, tls.Certificate{}, []byte("x")) },
		"garbage":                        func(*cmp.Message) []byte { return []byte("hello") },
		"a replay of another exchange": func(asked *cmp.Message) []byte {
			asked.Header.SenderNonce = random(16)
			return forge(t, asked, other, nil)
		},
	} {
		t.Run(what, func(t *testing.T) {
			fake := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				in, err := io.ReadAll(r.Body)
				if err != nil {
					t.Error(err)
				}
				m, err := cmp.Parse(in)
				if err != nil {
					t.Error(err)
					return
				}
				_, _ = w.Write(answer(m))
			}))
			defer fake.Close()
			c, err := device.New(device.Config{Server: "cmp://" + strings.TrimPrefix(fake.URL, "http://"), Roots: []*x509.Certificate{root.Certificate()}, Now: p.Clock.Now})
			if err != nil {
				t.Fatal(err)
			}
			result, err := c.Order(t.Context(), device.Credential{Certificate: &own}, device.Order{Key: apptest.Key(t), Old: own.Leaf})
			if err == nil {
				t.Errorf("got %+v", result)
			}
			if _, err := c.RootUpdate(t.Context(), device.Credential{Certificate: &own}, root.Certificate()); err == nil {
				t.Error("RootUpdate: got success")
			}
		})
	}
}

// forge answers a request with the certificate that the requester has.
func forge(t *testing.T, asked *cmp.Message, by tls.Certificate, secret []byte) []byte {
	h := cmp.Header{Version: 2, Recipient: asked.Header.Sender, Time: time.Now(), Transaction: asked.Header.Transaction, SenderNonce: random(16), RecipientNonce: asked.Header.SenderNonce}
	var p cmp.Protector
	var certs [][]byte
	switch {
	case secret != nil:
		mac, err := cmp.NewMAC(secret, rand.Reader)
		if err != nil {
			t.Error(err)
		}
		p = mac
	case by.Leaf != nil:
		p, certs, h.Sender = &cmp.Signer{Key: by.PrivateKey.(crypto.Signer), Rand: rand.Reader}, by.Certificate, by.Leaf.RawSubject
	}
	var body cmp.Body = &cmp.Responses{As: cmp.KUP, List: []cmp.Response{{Certificate: asked.Certs[0]}}}
	if asked.Body.Kind() == cmp.GenM {
		body = &cmp.General{As: cmp.GenP, List: []cmp.Info{{Type: cmp.OIDRootUpdate}}}
	}
	out, err := cmp.Build(h, body, certs, p)
	if err != nil {
		t.Error(err)
	}
	return out
}
