package app_test

import (
	"bytes"
	"crypto"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	xocsp "golang.org/x/crypto/ocsp"

	"mooring/internal/app"
	"mooring/internal/app/apptest"
	"mooring/internal/base/conf"
	"mooring/internal/core/ca"
	"mooring/internal/core/revoke"
	"mooring/wire/ocsp"
)

// askOCSP asks the node about the certificate and returns the answer, its signature checked by an implementation that is not ours.
func askOCSP(t *testing.T, node *apptest.Platform, i *ca.Issuer, serial []byte) *xocsp.Response {
	t.Helper()
	ids, err := ocsp.NewIssuer(i.Certificate().RawSubject, i.Certificate().RawSubjectPublicKeyInfo)
	must(t, err)
	id, err := ids.CertID(crypto.SHA1, serial)
	must(t, err)
	request, err := ocsp.AppendRequest(nil, []ocsp.CertID{id}, nil)
	must(t, err)
	r, err := http.Post(node.Addresses().Status+"/ocsp", "application/ocsp-request", bytes.NewReader(request))
	must(t, err)
	defer r.Body.Close()
	body, err := io.ReadAll(r.Body)
	must(t, err)
	answer, err := xocsp.ParseResponse(body, i.Certificate())
	must(t, err)
	return answer
}

// TestOCSPOnTwoNodes revokes on one node and asks the other, which has the old answer in its cache, until it tells the news: within a second.
func TestOCSPOnTwoNodes(t *testing.T) {
	for _, mode := range []string{"ca", "delegated"} {
		t.Run(mode, func(t *testing.T) {
			near := apptest.Start(t, func(c *conf.Config) { c.OCSP.Responder = mode })
			far := near.Second(t)
			devices, err := near.CA.Issuer("devices")
			must(t, err)
			for round, name := range []string{"one", "two", "three"} {
				_, pair := near.Enrolled(t, name, "device")
				serial := pair.Leaf.SerialNumber.Bytes()
				for _, node := range []*apptest.Platform{near, far} {
					if a := askOCSP(t, node, devices, serial); a.Status != xocsp.Good || (a.Certificate != nil) != (mode == "delegated") {
						t.Fatalf("before the revocation: %+v", a)
					}
				}
				_, err = near.Revoke.Certificate(t.Context(), apptest.Operator(), serial, revoke.KeyCompromise)
				must(t, err)
				revoked := time.Now()
				if a := askOCSP(t, near, devices, serial); a.Status != xocsp.Revoked || a.RevocationReason != xocsp.KeyCompromise {
					t.Errorf("on the node that revoked: %+v", a)
				}
				for askOCSP(t, far, devices, serial).Status != xocsp.Revoked && time.Since(revoked) < time.Minute { // it is about a second
					time.Sleep(5 * time.Millisecond)
				}
				took := time.Since(revoked)
				t.Logf("round %d: the other node knew after %s", round, took)
				if took > time.Minute {
					t.Errorf("round %d: the other node does not know after %s", round, took)
				}
			}
		})
	}
}

// TestResponderOff refuses a configuration in which certificates would lead to nobody.
func TestResponderOff(t *testing.T) {
	c, _ := apptest.Init(t, &apptest.Clock{}, &apptest.Log{}, nil)
	file := filepath.Join(c.Dir, conf.FileName)
	text, err := os.ReadFile(file)
	must(t, err)
	changed := strings.Replace(string(text), "  # responder: \"ca\"\n", "  responder: \"off\"\n", 1)
	must(t, os.WriteFile(file, []byte(changed), 0o600))
	line := 1 + strings.Count(changed[:strings.Index(changed, "  responder: ")], "\n")
	c, err = conf.Load(c.Dir)
	must(t, err)
	_, err = app.Open(t.Context(), app.Options{Config: c})
	if before := app.CheckProfiles(c); err == nil || before == nil || before.Error() != err.Error() {
		t.Fatalf("OCSP is off and profiles want it: got %v, and before the start %v", err, before)
	}
	for _, want := range []string{c.Place("ocsp.responder"), "profiles/", ".yaml:", "ocsp"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("no %q in %q (line %d)", want, err, line)
		}
	}
}

// TestAnchorWithoutProfile: a name of tls.anchors whose profile does not exist is refused before the start and at the start.
func TestAnchorWithoutProfile(t *testing.T) {
	c, _ := apptest.Init(t, &apptest.Clock{}, &apptest.Log{}, nil)
	edit(t, filepath.Join(c.Dir, conf.FileName), func(text string) string {
		return strings.Replace(text, "\ntls:\n", "\ntls:\n  anchors: [g2.example.com=nope]\n", 1)
	})
	c, err := conf.Load(c.Dir)
	must(t, err)
	_, err = app.Build(t.Context(), app.Options{Config: c})
	if before := app.CheckProfiles(c); err == nil || before == nil || before.Error() != err.Error() {
		t.Fatalf("got %v, and before the start %v", err, before)
	}
	if place := c.Place("tls.anchors"); place == conf.FileName || !strings.HasPrefix(err.Error(), place+": ") || !strings.Contains(err.Error(), "there is no profile \"nope\"") {
		t.Errorf("got %q, want it to begin with %s and to name the profile", err, place)
	}
}
