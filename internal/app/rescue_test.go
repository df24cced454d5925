package app_test

import (
	"context"
	"crypto/x509"
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"mooring/agent"
	"mooring/internal/app/apptest"
)

// TestAgentIsRescued lets the certificate of an agent expire and wants it to come back by itself, over TLS and EST, with no person's hand.
func TestAgentIsRescued(t *testing.T) {
	p := apptest.Start(t, nil,
		apptest.Variant("device", "pump", "validity: 10d", "renew_before: 3d", "renew_spread: 1d", "rescue: {max_expired: 20d, validity: 2d}"),
		apptest.Variant("device", "plain", "validity: 10d", "renew_before: 3d", "renew_spread: 1d"))
	asleep := errors.New("the agent sleeps")
	open := func(name, profile string) *agent.Agent {
		t.Helper()
		_, token := p.Device(t, name, profile)
		a, err := agent.Create(agent.Options{Dir: filepath.Join(t.TempDir(), name), Now: p.Clock.Now, Sleep: func(context.Context, time.Duration) error { return asleep }},
			agent.Config{Server: p.Addresses().EST, Name: name})
		must(t, err)
		_, err = a.Enrol(t.Context(), agent.First{Roots: []*x509.Certificate{p.Root}, Token: token})
		must(t, err)
		return a
	}
	pump, plain := open("pump-1", "pump"), open("plain-1", "plain")
	p.Clock.Move(15 * 24 * time.Hour)
	if s, err := pump.Status(); err != nil || s.Condition != agent.Expired {
		t.Fatalf("after 15 days: %+v, %v", s, err)
	}
	must(t, pump.Run(t.Context()))
	s, err := pump.Status()
	if err != nil || s.Condition != agent.Enrolled || s.NotAfter.Sub(p.Clock.Now()) > 2*24*time.Hour {
		t.Errorf("after its next attempt: %+v, %v", s, err)
	}
	if due := s.RenewAt.Sub(p.Clock.Now()); due < 20*time.Hour || due > 44*time.Hour {
		t.Errorf("the rescued certificate is to be renewed in %s, want two thirds of its two days or so", due)
	}
	p.Clock.Move(44 * time.Hour)
	must(t, pump.Run(t.Context()))
	if s, err = pump.Status(); err != nil || s.NotAfter.Sub(p.Clock.Now()) < 9*24*time.Hour {
		t.Errorf("after the renewal that follows: %+v, %v", s, err)
	}

	must(t, plain.Run(t.Context()))
	if s, err = plain.Status(); err != nil || s.Condition != agent.Expired || !strings.Contains(s.LastError, "expired") {
		t.Errorf("without a rescue: %+v, %v", s, err)
	}
}
