package scep_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"strings"
	"testing"
	"time"

	"mooring/agent"
	"mooring/agent/est"
	"mooring/agent/scep"
	"mooring/internal/app/apptest"
	"mooring/wire/der"
)

// agentOf is the agent of a device whose server is spoken to by SCEP.
func agentOf(t *testing.T, p *apptest.Platform, profile, name string) *agent.Agent {
	t.Helper()
	o := agent.Options{Dir: t.TempDir(), Now: p.Clock.Now, Sleep: func(context.Context, time.Duration) error { return nil }}
	a, err := agent.Create(o, agent.Config{Server: "scep" + strings.TrimPrefix(p.Addresses().SCEP, "http") + "/scep/" + profile, Name: name, KeyType: "rsa-2048"})
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// TestAgent enrols by its token, uses the certificate over TLS, and renews.
func TestAgent(t *testing.T) {
	p := start(t)
	_, token := p.Device(t, "copier", "printer")
	a := agentOf(t, p, "printer", "copier")
	if _, err := a.Enrol(t.Context(), agent.First{Token: token}); err == nil || !strings.Contains(err.Error(), "root") {
		t.Errorf("without a root: got %v, want that it is needed", err)
	}
	if _, err := a.Enrol(t.Context(), agent.First{Token: token, Roots: []*x509.Certificate{p.Root}}); err != nil {
		t.Fatal(err)
	}
	first, err := a.Identity()
	if err != nil {
		t.Fatal(err)
	}
	conn, err := tls.Dial("tcp", strings.TrimPrefix(p.Addresses().EST, "https://"), &tls.Config{RootCAs: p.Pool(), Certificates: []tls.Certificate{*first.TLS()}})
	if err != nil {
		t.Fatal(err)
	}
	if err := conn.Close(); err != nil {
		t.Error(err)
	}
	if _, err := a.RenewNow(t.Context()); err != nil {
		t.Fatal(err)
	}
	second, err := a.Identity()
	if err != nil || second.Certificate().Equal(first.Certificate()) || second.Certificate().Subject.CommonName != "copier" {
		t.Errorf("renewed to %v, %v", second, err)
	}
}

func TestAgentWaits(t *testing.T) {
	p := start(t, apptest.Variant("device", "approved", "approval: required", "scep: {ra: scep-ra}"))
	_, token := p.Device(t, "copier", "approved")
	a := agentOf(t, p, "approved", "copier")
	first := agent.First{Token: token, Roots: []*x509.Certificate{p.Root}}
	_, err := a.Enrol(t.Context(), first)
	if pending := (*est.PendingError)(nil); !errors.As(err, &pending) {
		t.Fatalf("got %v, want that it waits", err)
	}
	if _, err := p.Enrol.Decide(t.Context(), apptest.Operator(), "copier", "", true); err != nil {
		t.Fatal(err)
	}
	if _, err := a.Enrol(t.Context(), first); err != nil {
		t.Fatal(err)
	}
}

// TestAgentIsNotFooled: an authority that leads nowhere, or that is a device, gets no secret.
func TestAgentIsNotFooled(t *testing.T) {
	p := start(t)
	key := rsaKeys()[0]
	subject := []der.Attribute{{Type: der.OIDCommonName, Value: "copier"}}
	for name, c := range map[string]struct {
		roots []*x509.Certificate
		path  string
		want  string
	}{
		"another root":        {[]*x509.Certificate{selfSigned(t, "another root", key)}, "/scep/printer", "leads to a trusted root"},
		"no root":             {nil, "/scep/printer", "believed by its root"},
		"no such profile":     {[]*x509.Certificate{p.Root}, "/scep/nosuch", "no profile"},
		"not served by SCEP":  {[]*x509.Certificate{p.Root}, "/scep/device", "not served"},
		"wrong secret":        {[]*x509.Certificate{p.Root}, "/scep/printer", "badRequest"},
		"a path of something": {[]*x509.Certificate{p.Root}, "/elsewhere", "there is nothing here"},
	} {
		client, err := scep.New(scep.Config{Server: "scep" + strings.TrimPrefix(p.Addresses().SCEP, "http") + c.path, Roots: c.roots, Now: p.Clock.Now})
		if err == nil {
			_, err = client.Order(t.Context(), scep.Credential{Name: "copier", Secret: "mt_wrong"}, scep.Order{Key: key, Subject: subject})
		}
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want an error with %q", name, err, c.want)
		}
	}
	client, err := scep.New(scep.Config{Server: "scep://127.0.0.1:1/scep", Roots: []*x509.Certificate{p.Root}, Now: p.Clock.Now})
	if err != nil {
		t.Fatal(err)
	}
	_, err = client.Order(t.Context(), scep.Credential{Name: "copier", Secret: "mt_wrong"}, scep.Order{Key: key, Subject: subject})
	if silent := (*est.UnreachableError)(nil); !errors.As(err, &silent) {
		t.Errorf("nobody listens: got %v", err)
	}
	for _, url := range []string{"http://a/scep", "scep:///x", "scep://u@a/", "scep://a/?q"} {
		if _, err := scep.New(scep.Config{Server: url, Roots: []*x509.Certificate{p.Root}, Now: p.Clock.Now}); err == nil {
			t.Errorf("%s was taken for a server", url)
		}
	}
}
