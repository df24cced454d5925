package estcoap_test

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"mooring/agent"
	"mooring/agent/est"
	"mooring/internal/app/apptest"
	"mooring/internal/core/device"
	"mooring/wire/der"
	wire "mooring/wire/est"
)

// files writes a credential as files.
func files(t *testing.T, pair tls.Certificate) (cert, key string) {
	t.Helper()
	dir := t.TempDir()
	cert, key = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	var text []byte
	for _, der := range pair.Certificate {
		text = append(text, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
	}
	private, err := x509.MarshalPKCS8PrivateKey(pair.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.WriteFile(cert, text, 0o600), os.WriteFile(key, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}), 0o600)); err != nil {
		t.Fatal(err)
	}
	return cert, key
}

// TestAgent: our agent enrols by its birth certificate and renews, by the protocol and by both; the certificate is then used for a handshake.
func TestAgent(t *testing.T) {
	p := start(t)
	d, birth := p.Enrolled(t, "meter-1", "birth")
	working := "device"
	if _, err := p.Devices.Change(t.Context(), apptest.Operator(), d.ID, device.Change{Profile: &working}); err != nil {
		t.Fatal(err)
	}
	first := agent.First{Roots: []*x509.Certificate{p.Root}}
	first.CertFile, first.KeyFile = files(t, birth)
	a, err := agent.Create(agent.Options{Dir: filepath.Join(t.TempDir(), "agent"), Now: p.Clock.Now}, agent.Config{Server: p.Addresses().CoAPS, Name: "meter-1"})
	if err != nil {
		t.Fatal(err)
	}
	use := func(t *testing.T, identity *agent.Identity) {
		t.Helper()
		r := p.Send(t, apptest.Call{Path: "/.well-known/est/simplereenroll", Body: []byte("no request")}, *identity.TLS())
		if r.StatusCode != 400 {
			t.Errorf("a request with the certificate: %s", r)
		}
	}
	t.Run("enrol", func(t *testing.T) {
		identity, err := a.Enrol(t.Context(), first)
		if err != nil {
			t.Fatal(err)
		}
		use(t, identity)
	})
	t.Run("renew", func(t *testing.T) {
		old, err := a.Identity()
		if err != nil {
			t.Fatal(err)
		}
		identity, err := a.RenewNow(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if identity.Certificate().Equal(old.Certificate()) {
			t.Error("the certificate is the same")
		}
		use(t, identity)
	})
	t.Run("renew by the other protocol, and back", func(t *testing.T) {
		for _, server := range []string{p.Addresses().EST, p.Addresses().CoAPS} {
			identity, err := a.By(server).RenewNow(t.Context())
			if err != nil {
				t.Fatalf("by %s: %v", server, err)
			}
			use(t, identity)
		}
	})
	t.Run("one device, whatever the protocol", func(t *testing.T) {
		protocols := map[string]int{}
		for _, e := range entries(t, p, "cert.issue") {
			if e.Device == d.ID.String() {
				protocols[e.Detail["protocol"]]++
			}
		}
		if protocols["est-coaps"] != 3 || protocols["est"] != 2 { // with the birth certificate
			t.Errorf("certificates by protocol: %v", protocols)
		}
	})
}

// TestClient: what the client says about answers.
func TestClient(t *testing.T) {
	p := start(t, apptest.Variant("device", "approved", "approval: required", "slot: birth", "also_for: [device]"))
	d, pair := p.Enrolled(t, "meter-1", "device")
	connect := func(t *testing.T, label string, credential est.Credential) (*est.Session, error) {
		t.Helper()
		c, err := est.New(est.Config{Server: p.Addresses().CoAPS, Label: label, Roots: []*x509.Certificate{p.Root}, Now: p.Clock.Now})
		if err != nil {
			t.Fatal(err)
		}
		s, err := c.Connect(t.Context(), credential)
		if err == nil {
			t.Cleanup(s.Close)
		}
		return s, err
	}
	t.Run("token", func(t *testing.T) {
		if _, err := connect(t, "", est.Credential{User: "meter-1", Secret: "x"}); err == nil || !strings.Contains(err.Error(), "no token") {
			t.Errorf("got %v", err)
		}
	})
	t.Run("unknown root", func(t *testing.T) {
		_, other := start(t).Enrolled(t, "meter-1", "device")
		c, err := est.New(est.Config{Server: p.Addresses().CoAPS, Roots: []*x509.Certificate{other.Leaf}, Now: p.Clock.Now})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Connect(t.Context(), est.Credential{Certificate: &pair}); err == nil || !strings.Contains(err.Error(), "does not lead to the root") {
			t.Errorf("got %v", err)
		}
	})
	t.Run("key generation", func(t *testing.T) {
		s, err := connect(t, "", est.Credential{Certificate: &pair})
		if err != nil {
			t.Fatal(err)
		}
		got, err := s.ServerKeygen(t.Context(), est.Order{Key: apptest.Key(t), Subject: []der.Attribute{{Type: der.OIDCommonName, Value: "meter-1"}}})
		if err != nil || got.Certificate == nil || got.Key == nil {
			t.Errorf("got %v, %v", got, err)
		}
	})
	t.Run("bound to the association", func(t *testing.T) {
		s, err := connect(t, "", est.Credential{Certificate: &pair})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Enrol(t.Context(), est.Order{Key: apptest.Key(t), Bind: true, Subject: []der.Attribute{{Type: der.OIDCommonName, Value: "meter-1"}}}); err != nil {
			t.Error(err)
		}
	})
	t.Run("pending", func(t *testing.T) {
		s, err := connect(t, "approved", est.Credential{Certificate: &pair})
		if err != nil {
			t.Fatal(err)
		}
		order := est.Order{Key: apptest.Key(t), Subject: []der.Attribute{{Type: der.OIDCommonName, Value: "meter-1"}}}
		if order.Request, err = order.Build(wire.ChannelBinding{}); err != nil { // the very same one each time
			t.Fatal(err)
		}
		_, err = s.Enrol(t.Context(), order)
		var pending *est.PendingError
		if !errors.As(err, &pending) || pending.RetryAfter.Seconds() != 60 {
			t.Fatalf("got %v", err)
		}
		if _, err := p.Enrol.Decide(t.Context(), apptest.Operator(), d.Name, "", true); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Enrol(t.Context(), order); err != nil {
			t.Error(err)
		}
	})
	t.Run("refusal", func(t *testing.T) {
		s, err := connect(t, "server", est.Credential{Certificate: &pair})
		if err != nil {
			t.Fatal(err)
		}
		_, err = s.Enrol(t.Context(), est.Order{Key: apptest.Key(t), Subject: []der.Attribute{{Type: der.OIDCommonName, Value: "meter-1"}}})
		var refused *est.RefusedError
		if !errors.As(err, &refused) || refused.Status != 403 || refused.Temporary() || !strings.Contains(refused.Reason, "registered for another profile") {
			t.Errorf("got %v", err)
		}
	})
	t.Run("nobody there", func(t *testing.T) {
		c, err := est.New(est.Config{Server: "coaps://127.0.0.1:9", Roots: []*x509.Certificate{p.Root}})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := withDeadline(t)
		defer cancel()
		_, err = c.Connect(ctx, est.Credential{Certificate: &pair})
		var silent *est.UnreachableError
		if !errors.As(err, &silent) {
			t.Errorf("got %v", err)
		}
	})
}
