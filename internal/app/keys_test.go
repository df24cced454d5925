package app_test

import (
	"bytes"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ocsp"

	"mooring/internal/app"
	"mooring/internal/app/apptest"
	"mooring/internal/base/conf"
	"mooring/internal/base/errs"
	"mooring/internal/core/ca"
	"mooring/internal/core/key"
	"mooring/internal/core/revoke"
	"mooring/internal/server/api/client"
	"mooring/internal/server/api/v1"
	"mooring/wire/der"
)

// keyFile is where the key of a CA lies.
func keyFile(t *testing.T, p *apptest.Platform, name string) string {
	t.Helper()
	i, err := p.CA.Issuer(name)
	must(t, err)
	return filepath.Join(p.Config.KeyDir(), string(i.Key())+".key")
}

// hide takes a file away and returns how to put it back.
func hide(t *testing.T, path string) (back func()) {
	t.Helper()
	aside := filepath.Join(t.TempDir(), "aside")
	must(t, os.Rename(path, aside))
	return func() { must(t, os.Rename(aside, path)) }
}

// enrolOver sends an enrolment over EST.
func enrolOver(t *testing.T, p *apptest.Platform, name, token string) apptest.Reply {
	t.Helper()
	return p.Send(t, apptest.Call{Path: "/.well-known/est/simpleenroll", Body: apptest.Body(apptest.CSR(t, apptest.Key(t), der.RequestSpec{})), User: name, Secret: token})
}

// listOf fetches the revocation list that a certificate names and checks it.
func listOf(t *testing.T, p *apptest.Platform, leaf *x509.Certificate) *x509.RevocationList {
	t.Helper()
	r, err := http.Get(leaf.CRLDistributionPoints[0])
	must(t, err)
	defer r.Body.Close()
	body, err := io.ReadAll(r.Body)
	must(t, err)
	if r.StatusCode != http.StatusOK {
		t.Fatalf("the list %s: %s %q", leaf.CRLDistributionPoints[0], r.Status, body)
	}
	l, err := x509.ParseRevocationList(body)
	must(t, err)
	devices, err := p.CA.Issuer("devices")
	must(t, err)
	must(t, l.CheckSignatureFrom(devices.Certificate()))
	return l
}

// statusOf asks for the status of a certificate by OCSP; nil is no answer now.
func statusOf(t *testing.T, p *apptest.Platform, leaf *x509.Certificate) *ocsp.Response {
	t.Helper()
	devices, err := p.CA.Issuer("devices")
	must(t, err)
	question, err := ocsp.CreateRequest(leaf, devices.Certificate(), nil)
	must(t, err)
	r, err := http.Post(leaf.OCSPServer[0], "application/ocsp-request", bytes.NewReader(question))
	must(t, err)
	defer r.Body.Close()
	body, err := io.ReadAll(r.Body)
	must(t, err)
	answer, err := ocsp.ParseResponseForCert(body, leaf, devices.Certificate())
	var refusal ocsp.ResponseError
	if errors.As(err, &refusal) && refusal.Status == ocsp.TryLater {
		return nil
	}
	must(t, err)
	return answer
}

// TestMissingKeyOfACA: the key of a CA is gone at the next start. It issues nothing and says so, its lists go on being served, other CAs do
// not notice, and when the key is back everything goes on.
func TestMissingKeyOfACA(t *testing.T) {
	p := apptest.Start(t, nil)
	_, pair := p.Enrolled(t, "before", "device")
	before := listOf(t, p, pair.Leaf)
	_, token := p.Device(t, "after", "device")
	path := keyFile(t, p, "devices")
	p.Stop(t)
	back := hide(t, path)
	p.Restart(t)

	if r := enrolOver(t, p, "after", token); r.StatusCode != http.StatusServiceUnavailable || !strings.Contains(string(r.Text), "its key is not to be had") {
		t.Errorf("an enrolment: got %s, want 503", r)
	}
	if after := listOf(t, p, pair.Leaf); after.Number.Cmp(before.Number) < 0 {
		t.Errorf("the list went back from number %s to %s", before.Number, after.Number)
	}
	if answer := statusOf(t, p, pair.Leaf); answer != nil && answer.Status != ocsp.Good {
		t.Errorf("OCSP says %d", answer.Status)
	}
	states := keysByCA(t, p)
	if states["devices"].State != string(key.Missing) || states["services"].State != string(key.Usable) {
		t.Errorf("the keys: %+v", states)
	}
	back()
	if r := enrolOver(t, p, "after", token); r.StatusCode != http.StatusOK {
		t.Errorf("an enrolment with the key back: got %s", r)
	}
	if states := keysByCA(t, p); states["devices"].State != string(key.Usable) {
		t.Errorf("the keys with all back: %+v", states)
	}
}

// TestKeyGoesWhileServing: what was loaded goes on working, and the list of keys tells that it will not after the next start.
func TestKeyGoesWhileServing(t *testing.T) {
	p := apptest.Start(t, nil)
	p.Enrolled(t, "before", "device")
	back := hide(t, keyFile(t, p, "devices"))
	defer back()
	_, pair := p.Enrolled(t, "after", "device")
	if answer := statusOf(t, p, pair.Leaf); answer == nil || answer.Status != ocsp.Good {
		t.Errorf("OCSP says %+v", answer)
	}
	if k := keysByCA(t, p)["devices"]; k.State != string(key.Missing) || !strings.Contains(k.Problem, "restore it from a backup") {
		t.Errorf("the key: %+v", k)
	}
}

// TestNoKeyForTheListeners: without the key of the CA that certifies the listeners, what needs no certificate is served.
func TestNoKeyForTheListeners(t *testing.T) {
	p := apptest.Start(t, nil)
	_, pair := p.Enrolled(t, "before", "device")
	before := listOf(t, p, pair.Leaf)
	path := keyFile(t, p, "services")
	p.Stop(t)
	back := hide(t, path)
	p.Restart(t)
	if after := listOf(t, p, pair.Leaf); after.Number.Cmp(before.Number) < 0 {
		t.Errorf("the list went back from number %s to %s", before.Number, after.Number)
	}
	if answer := statusOf(t, p, pair.Leaf); answer == nil || answer.Status != ocsp.Good {
		t.Errorf("OCSP says %+v", answer)
	}
	if k := keysByCA(t, p)["services"]; k.State != string(key.Missing) {
		t.Errorf("the key: %+v", k)
	}
	if !strings.Contains(p.Log.String(), "the listeners have no certificate yet") {
		t.Error("nobody was told that the listeners have no certificate")
	}
	p.Stop(t)
	back()
	p.Restart(t)
	p.Enrolled(t, "after", "device")
}

// keysByCA lists the keys over the Unix socket, by the names of their CAs.
func keysByCA(t *testing.T, p *apptest.Platform) map[string]v1.Key {
	t.Helper()
	c := client.New(p.Addresses().Socket)
	defer c.Close()
	found := map[string]v1.Key{}
	for k, err := range c.AllKeys(t.Context()) {
		must(t, err)
		for _, name := range k.CAs {
			found[name] = k
		}
	}
	return found
}

// TestUsedUpCA: a CA whose key may sign no further certificate says so, and goes on telling what it revoked.
func TestUsedUpCA(t *testing.T) {
	p := apptest.Start(t, nil)
	c := client.New(p.Addresses().Socket)
	defer c.Close()
	_, pair := p.Enrolled(t, "first", "device")
	used := keysByCA(t, p)["devices"].Uses
	if used == 0 {
		t.Error("nothing was counted")
	}
	_, err := c.LimitCA(t.Context(), "devices", v1.KeyLimit{MaxUses: used + 40})
	must(t, err)
	var refused apptest.Reply
	issued := 0
	for ; issued <= 40; issued++ {
		name := fmt.Sprintf("next-%d", issued)
		_, token := p.Device(t, name, "device")
		if refused = enrolOver(t, p, name, token); refused.StatusCode != http.StatusOK {
			break
		}
		if issued == 5 {
			p.Restart(t)
		}
	}
	if issued != 40 || refused.StatusCode != http.StatusServiceUnavailable || !strings.Contains(string(refused.Text), "its key has signed as many as it may") {
		t.Errorf("an enrolment after %d, with a limit of 40: got %s, want 503", issued, refused)
	}
	_, err = p.Revoke.Certificate(t.Context(), apptest.Operator(), pair.Leaf.SerialNumber.Bytes(), revoke.KeyCompromise)
	must(t, err)
	revoked := false
	for _, e := range listOf(t, p, pair.Leaf).RevokedCertificateEntries {
		revoked = revoked || e.SerialNumber.Cmp(pair.Leaf.SerialNumber) == 0
	}
	if !revoked {
		t.Error("the list of the used-up CA does not tell what was revoked")
	}
	if answer := statusOf(t, p, pair.Leaf); answer == nil || answer.Status != ocsp.Revoked {
		t.Errorf("OCSP of the used-up CA says %+v", answer)
	}
	_, err = client.New(p.Addresses().Socket).LimitCA(t.Context(), "devices", v1.KeyLimit{Until: new(p.Clock.Now().Add(time.Hour))})
	must(t, err)
	p.Enrolled(t, "sixth", "device")
	p.Clock.Move(2 * time.Hour)
	_, token := p.Device(t, "seventh", "device")
	if r := enrolOver(t, p, "seventh", token); r.StatusCode != http.StatusServiceUnavailable || !strings.Contains(string(r.Text), "was to be used until") {
		t.Errorf("an enrolment after the end: got %s, want 503", r)
	}
}

// TestNewCAWithALimit: the limit holds from the first signature.
func TestNewCAWithALimit(t *testing.T) {
	p := apptest.Start(t, nil)
	subject := func(cn string) []der.Attribute {
		name, err := der.ParseDN("CN=" + cn + ",O=Test")
		must(t, err)
		return name
	}
	_, err := p.CA.Create(t.Context(), apptest.Operator(), ca.Spec{Name: "small", Subject: subject("Small"), Algorithm: key.P256, Validity: 86400 * 365, PathLen: 1, Limit: key.Limit{MaxUses: 1}})
	must(t, err)
	_, err = p.CA.Create(t.Context(), apptest.Operator(), ca.Spec{Name: "below", Parent: "small", Subject: subject("Below"), Algorithm: key.P256, Validity: 86400})
	if !errs.Is(err, errs.Unavailable) || !strings.Contains(errs.Public(err), "as many as it may, 1.") {
		t.Errorf("a second certificate: got %v, want it unavailable", err)
	}
	_, err = p.CA.Create(t.Context(), apptest.Operator(), ca.Spec{Name: "token", Subject: subject("Token"), Algorithm: key.P256, Validity: 86400, Custody: key.InToken})
	if !errs.Is(err, errs.Invalid) || !strings.Contains(errs.Public(err), "no PKCS #11 token is set up here") {
		t.Errorf("a key in a token that is not there: got %v", err)
	}
}

// TestTokensThatCannotBeOpened: every mistake about a token is told at the start.
func TestTokensThatCannotBeOpened(t *testing.T) {
	dir := t.TempDir()
	pin, open := filepath.Join(dir, "pin"), filepath.Join(dir, "open")
	must(t, os.WriteFile(pin, []byte("123456\n"), 0o600))
	must(t, os.WriteFile(open, []byte("123456\n"), 0o644))
	must(t, os.Chmod(open, 0o644)) // whatever the umask is
	for name, row := range map[string]struct {
		pin  string
		kind errs.Kind
		want string
	}{
		"no PIN file":             {filepath.Join(dir, "none"), errs.Unavailable, "none cannot be read: check that it exists and is yours"},
		"PIN file for everybody":  {open, errs.Unavailable, "open has mode 0644, which lets other users at it: run chmod 0600"},
		"no such module or build": {pin, errs.Invalid, "PKCS #11"},
	} {
		t.Run(name, func(t *testing.T) {
			c, err := app.Loopback("Test Fleet")
			must(t, err)
			c.Keys.PKCS11 = conf.PKCS11{Module: filepath.Join(dir, "module.so"), Token: "t", PINFile: row.pin}
			c.Keys.Custody = "pkcs11"
			data := filepath.Join(t.TempDir(), "data")
			_, err = app.Init(t.Context(), app.InitOptions{Dir: data, Config: c})
			if !errs.Is(err, row.kind) || !strings.Contains(errs.Public(err), row.want) {
				t.Errorf("got %v, want %s and %q", err, row.kind, row.want)
			}
			if _, err := os.Stat(data); !os.IsNotExist(err) {
				t.Errorf("the directory is left behind: %v", err)
			}
		})
	}
}
