package acme_test

import (
	"crypto/x509"
	"net"
	"strconv"
	"testing"
	"time"

	"mooring/agent"
	"mooring/internal/app/apptest"
	"mooring/internal/base/conf"
	"mooring/internal/core/device"
	"mooring/internal/core/revoke"
	"mooring/wire/acme"
)

// TestAgent has our agent enrol and renew, with its names shown by http-01, and again with a new token after its account was ended.
func TestAgent(t *testing.T) {
	listen := free(t)
	w := newWorld(t, func(c *conf.Config) {
		_, port, err := net.SplitHostPort(listen)
		if err != nil {
			t.Fatal(err)
		}
		if c.ACME.HTTPPort, err = strconv.Atoi(port); err != nil {
			t.Fatal(err)
		}
	})
	d := w.Add(t, device.Spec{Name: "gw-9", Profile: "validated", Names: []string{"dns:gw9.example.com"}})
	w.net.Name("gw9.example.com")
	o := agent.Options{Dir: t.TempDir(), Now: w.Clock.Now}
	config := agent.Config{Server: "acme" + w.base[len("https"):], Name: "gw-9", Names: []string{"dns:gw9.example.com"}, HTTPListen: listen}
	a, err := agent.Create(o, config)
	if err != nil {
		t.Fatal(err)
	}
	first := agent.First{Roots: w.roots(), Token: w.Token(t, d.ID)}
	got, err := a.Enrol(t.Context(), first)
	if err != nil {
		t.Fatal(err)
	}
	handshake(t, w, *got.TLS(), "gw9.example.com")
	asksWhenToRenew(t, w, a, got.Certificate())
	next, err := a.Renew(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if next.Certificate().Equal(got.Certificate()) {
		t.Error("the renewal gave the same certificate")
	}
	list, err := w.ACME.Accounts(t.Context(), apptest.Operator(), d.ID, [16]byte{}, 10)
	if err != nil || len(list) != 1 {
		t.Fatalf("got %v, %v", list, err)
	}
	if _, err := w.ACME.End(t.Context(), apptest.Operator(), list[0].ID); err != nil {
		t.Fatal(err)
	}
	if _, err := a.Renew(t.Context()); err == nil {
		t.Error("an account that was ended still orders")
	}
	if a, err = agent.Replace(o, config); err != nil {
		t.Fatal(err)
	}
	first.Token = w.Token(t, d.ID)
	if got, err = a.Enrol(t.Context(), first); err != nil {
		t.Fatal(err)
	}
	handshake(t, w, *got.TLS(), "gw9.example.com")
}

// asksWhenToRenew has an agent ask for renewal information (RFC 9773): it renews within the window that the server names, and at once when the certificate was revoked.
func asksWhenToRenew(t *testing.T, w *world, a *agent.Agent, cert *x509.Certificate) {
	t.Helper()
	due := func() time.Time {
		t.Helper()
		if err := a.Ask(t.Context()); err != nil {
			t.Fatal(err)
		}
		s, err := a.Status()
		if err != nil {
			t.Fatal(err)
		}
		return s.RenewAt
	}
	start, end, err := w.ACME.Renewal(t.Context(), acme.NewCertID(cert.AuthorityKeyId, cert.SerialNumber.Bytes()))
	if err != nil {
		t.Fatal(err)
	}
	at := due()
	if at.Before(start) || at.After(end) {
		t.Errorf("it renews at %s, want from %s to %s", at, start, end)
	}
	if again := due(); !again.Equal(at) {
		t.Errorf("asked again it renews at %s, before at %s", again, at)
	}
	if _, err := w.Revoke.Certificate(t.Context(), apptest.Operator(), cert.SerialNumber.Bytes(), revoke.Superseded); err != nil {
		t.Fatal(err)
	}
	if at := due(); at.After(w.Clock.Now()) {
		t.Errorf("with a revoked certificate it renews at %s, want at once", at)
	}
}
