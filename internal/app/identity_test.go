package app_test

import (
	"crypto/x509"
	"strings"
	"testing"
	"time"

	"mooring/internal/app/apptest"
	"mooring/internal/base/conf"
	"mooring/internal/core/revoke"
)

// TestOwnCertificateRevoked: a certificate of the listeners that is revoked is replaced within seconds, for each name; when the CA above is
// revoked, the log says what to do.
func TestOwnCertificateRevoked(t *testing.T) {
	p := apptest.Start(t, func(c *conf.Config) { c.TLS.Anchors = []conf.Anchor{{Name: "g2.localhost", Profile: "server"}} })
	shown := func(name string) *x509.Certificate {
		t.Helper()
		secure := p.TLS(nil)
		secure.ServerName = name
		c := p.Dial(t, secure)
		defer c.Close()
		return c.ConnectionState().PeerCertificates[0]
	}
	for _, name := range []string{"localhost", "g2.localhost"} {
		was := shown(name)
		_, err := p.Revoke.Certificate(t.Context(), apptest.Operator(), was.SerialNumber.Bytes(), revoke.KeyCompromise)
		must(t, err)
		eventually(t, name+" presents a new certificate", func() bool {
			is := shown(name)
			_, revoked, err := p.Revoke.Status(t.Context(), is.SerialNumber.Bytes())
			must(t, err)
			return !revoked && is.SerialNumber.Cmp(was.SerialNumber) != 0
		})
	}
	if n := strings.Count(p.Log.String(), "the listeners' certificate was revoked, and a new one is presented"); n != 2 {
		t.Errorf("the log tells of %d replacements, want 2", n)
	}

	services := p.CA.IssuerOf(shown("localhost"))
	_, err := p.Revoke.Certificate(t.Context(), apptest.Operator(), services.Certificate().SerialNumber.Bytes(), revoke.CACompromise)
	must(t, err)
	eventually(t, "the log says what to do about the CA", func() bool {
		return strings.Count(p.Log.String(), "the CA of the listeners' certificate is revoked or on hold") == 2
	})
}

func eventually(t *testing.T, what string, done func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !done(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within 20 s: %s", what)
		}
	}
}
