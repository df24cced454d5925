package app_test

import (
	"crypto/tls"
	"net"
	"strings"
	"testing"
	"time"

	"mooring/internal/app/apptest"
	"mooring/internal/core/device"
	"mooring/internal/core/revoke"
)

// A connection whose client certificate is revoked or put on hold ends soon, on the EST and the API listener; those of others stay.
func TestRevokedConnectionsAreCut(t *testing.T) {
	p := apptest.Start(t, nil)
	dial := func(url string, cert tls.Certificate) net.Conn {
		t.Helper()
		c, err := tls.Dial("tcp", strings.TrimPrefix(url, "https://"), p.TLS(&cert))
		must(t, err)
		t.Cleanup(func() { _ = c.Close() })
		return c
	}
	gone := func(c net.Conn, within time.Duration) bool {
		t.Helper()
		must(t, c.SetReadDeadline(time.Now().Add(within)))
		_, err := c.Read(make([]byte, 1))
		return err != nil && !strings.Contains(err.Error(), "timeout")
	}
	est, api := p.Addresses().EST, p.Addresses().API
	_, bad := p.Enrolled(t, "bad", "device")
	held, onHold := p.Enrolled(t, "held", "device")
	_, good := p.Enrolled(t, "good", "device")
	stays := dial(est, good)
	for name, act := range map[string]struct {
		cert tls.Certificate
		do   func() error
	}{
		"revoked": {bad, func() error {
			_, err := p.Revoke.Certificate(t.Context(), apptest.Operator(), bad.Leaf.SerialNumber.Bytes(), revoke.KeyCompromise)
			return err
		}},
		"suspended": {onHold, func() error {
			_, err := p.Revoke.Device(t.Context(), apptest.Operator(), held.ID, device.Suspend, revoke.Unspecified)
			return err
		}},
	} {
		conns := map[string]net.Conn{"EST": dial(est, act.cert), "API": dial(api, act.cert)}
		for listener, c := range conns {
			if gone(c, 300*time.Millisecond) {
				t.Fatalf("%s: the connection to %s ended before anything was revoked", name, listener)
			}
		}
		must(t, act.do())
		for listener, c := range conns {
			if !gone(c, time.Minute) {
				t.Errorf("%s: the connection to %s is still there", name, listener)
			}
		}
	}
	if gone(stays, 300*time.Millisecond) {
		t.Error("the connection of another device was cut")
	}
}
