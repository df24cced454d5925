package agent_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"mooring/agent"
	"mooring/agent/esttest"
	"mooring/agent/keyfile"
	"mooring/wire/der"
	wire "mooring/wire/est"
)

func sameKey(a, b *agent.Identity) bool {
	return a.Key.Public().(interface{ Equal(crypto.PublicKey) bool }).Equal(b.Key.Public())
}

func mustKey(t *testing.T) crypto.Signer {
	t.Helper()
	key, err := keyfile.Generate(der.ECP256)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// A crash of the renewal at each step between the files. Before is the folder of the old identity, after that of the new
// one; each state is put together from the two as the steps would have left it.
func TestCrash(t *testing.T) {
	for _, test := range []struct {
		name    string
		crash   func(d *device) // turns the folder after the renewal into that of the crash
		newKey  bool            // which identity is there after the restart
		requery bool            // the next renewal goes on with the key of the interrupted one
	}{
		{"after the key", func(d *device) { d.undo("cert.pem", "chain.pem") }, false, true},
		{"while the chain is written", func(d *device) {
			d.undo("cert.pem", "chain.pem")
			d.write(d.path("next", ".unfinished-1"), "half a chain")
		}, false, true},
		{"after the chain", func(d *device) { d.undo("cert.pem") }, false, true},
		{"after the certificate", func(d *device) { d.undo() }, true, false},
		{"after the generation was moved", func(d *device) { d.point("gen/1") }, true, false},
		{"while the link was changed", func(d *device) {
			d.point("gen/1")
			if err := os.Symlink("gen/2", d.path("current.new")); err != nil {
				d.t.Fatal(err)
			}
		}, true, false},
		{"disk full of zeros", func(d *device) {
			d.undo()
			d.write(d.path("next", "cert.pem"), strings.Repeat("\x00", 100))
		}, false, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			d := newDevice(t, esttest.Options{})
			a := d.enrol()
			before, err := a.Identity()
			if err != nil {
				t.Fatal(err)
			}
			after, err := a.Renew(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			test.crash(d)

			restarted := d.open()
			got, err := restarted.Identity()
			if err != nil {
				t.Fatalf("no identity after the crash: %v", err)
			}
			want := before
			if test.newKey {
				want = after
			}
			if !got.Certificate().Equal(want.Certificate()) || !sameKey(got, want) {
				t.Errorf("identity %v after the crash, want %v", got, want)
			}
			if left, _ := filepath.Glob(d.path("next", ".*")); len(left) > 0 {
				t.Errorf("left over: %v", left)
			}
			next, err := restarted.Renew(t.Context())
			if err != nil {
				t.Fatalf("renewing after the crash: %v", err)
			}
			if sameKey(next, after) != test.requery {
				t.Errorf("the next renewal has the interrupted key: %v, want %v", !test.requery, test.requery)
			}
			if _, err := os.Stat(d.path("next")); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("an unfinished generation is left: %v", err)
			}
		})
	}
}

// undo puts the second generation back to where it was made, without some of its files.
func (d *device) undo(without ...string) {
	d.t.Helper()
	d.point("gen/1")
	if err := os.Rename(d.path("gen", "2"), d.path("next")); err != nil {
		d.t.Fatal(err)
	}
	for _, name := range without {
		if err := os.Remove(d.path("next", name)); err != nil {
			d.t.Fatal(err)
		}
	}
}

func (d *device) point(target string) {
	d.t.Helper()
	if err := errors.Join(os.Remove(d.path("current")), os.Symlink(target, d.path("current"))); err != nil {
		d.t.Fatal(err)
	}
}

func (d *device) write(path, text string) {
	d.t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		d.t.Fatal(err)
	}
}

// A failed renewal leaves the old identity in use, and the next one goes on with the same key.
func TestFailedRenewal(t *testing.T) {
	d := newDevice(t, esttest.Options{})
	a := d.enrol()
	old := d.serial(a)
	stranger := d.server.Certify(t, "stranger", mustKey(t).Public())
	var keys [][32]byte
	for name, answer := range map[string]http.HandlerFunc{
		"refused":     esttest.Text(403, "device is suspended"),
		"truncated":   truncated,
		"another key": func(w http.ResponseWriter, _ *http.Request) { esttest.SendCertificates(t, w, stranger.Raw) },
	} {
		d.server.Answer(wire.SimpleReenroll, answer)
		if _, err := a.Renew(t.Context()); err == nil {
			t.Fatalf("%s: renewed", name)
		}
		if d.serial(a) != old {
			t.Errorf("%s: the identity has changed", name)
		}
		key, err := keyfile.Read(d.path("next", keyfile.Name))
		if err != nil {
			t.Fatal(err)
		}
		spki, err := x509.MarshalPKIXPublicKey(key.Public())
		if err != nil {
			t.Fatal(err)
		}
		keys = append(keys, sha256.Sum256(spki))
	}
	if keys[0] != keys[1] || keys[1] != keys[2] {
		t.Error("each attempt made a new key")
	}
	status, err := a.Status()
	if err != nil || status.Failures != 3 || status.LastError == "" || status.Condition != agent.Enrolled {
		t.Errorf("status %+v, %v", status, err)
	}
}

func TestKeepKey(t *testing.T) {
	d := newDevice(t, esttest.Options{})
	d.config.KeepKey = true
	a := d.enrol()
	old, err := a.Identity()
	if err != nil {
		t.Fatal(err)
	}
	renewed, err := a.Renew(t.Context())
	if err != nil || !sameKey(old, renewed) {
		t.Errorf("renewed with another key (%v)", err)
	}
}

func TestKeyTypes(t *testing.T) {
	p384, err := wire.WantECKey([]int{1, 3, 132, 0, 34})
	if err != nil {
		t.Fatal(err)
	}
	d := newDevice(t, esttest.Options{Attributes: wire.CSRAttrs{Items: []wire.Item{p384}}})
	d.config.KeyType = der.KeyEd25519
	d.server.Answer(wire.SimpleEnroll, esttest.Text(403, "no keys of kind ed25519"))
	if _, err := d.create().Enrol(t.Context(), d.first()); err == nil || !strings.Contains(err.Error(), "no keys of kind ed25519") {
		t.Errorf("type that the server refuses: %v", err)
	}
	identity, err := d.create().Enrol(t.Context(), d.first())
	if err != nil {
		t.Fatal(err)
	}
	if got := der.KindOf(identity.Key.Public()); got != der.KeyEd25519 {
		t.Errorf("key %s, want the person's choice", got)
	}
	d.config.KeyType = ""
	if identity, err = d.replace().Enrol(t.Context(), d.first()); err != nil {
		t.Fatal(err)
	}
	if got := der.KindOf(identity.Key.Public()); got != der.ECP384 {
		t.Errorf("key %s, want the server's choice", got)
	}
}

func TestBoundEnrolmentAndRenewal(t *testing.T) {
	d := newDevice(t, esttest.Options{Attributes: wire.CSRAttrs{Items: []wire.Item{wire.WantOID(wire.OIDChallengePassword)}}})
	d.server.Answer(wire.SimpleEnroll, esttest.Status(202))
	a := d.create()
	if _, err := a.Enrol(t.Context(), d.first()); err == nil {
		t.Fatal("not pending")
	}
	pending, err := keyfile.Read(d.path("next", keyfile.Name))
	if err != nil {
		t.Fatal(err)
	}
	identity, err := a.Enrol(t.Context(), d.first())
	if err != nil {
		t.Fatal(err)
	}
	if !sameKey(identity, &agent.Identity{Key: pending}) {
		t.Error("the repeated request had another key")
	}
	if _, err := a.Renew(t.Context()); err != nil {
		t.Error(err)
	}
}

// The server's roots are taken over at each renewal, but never so that the server itself would not be believed any more.
func TestRoots(t *testing.T) {
	d := newDevice(t, esttest.Options{})
	a := d.enrol()
	other := d.server.OtherRoot(t)
	next, cross, after, crossAfter := d.server.NextRoot(t)
	forged := *cross
	forged.Raw = bytes.Clone(cross.Raw)
	forged.Raw[len(forged.Raw)-1] ^= 1
	for _, test := range []struct {
		name   string
		bundle []*x509.Certificate
		want   int
	}{
		{"a second root that nobody vouches for", []*x509.Certificate{d.server.Root, d.server.Inter, other}, 1},
		{"a next root without the cross certificate", []*x509.Certificate{d.server.Root, d.server.Inter, next}, 1},
		{"a next root with a forged one", []*x509.Certificate{d.server.Root, d.server.Inter, next, &forged}, 1},
		{"a next root", []*x509.Certificate{d.server.Root, d.server.Inter, next, cross}, 2},
		{"the next root stays trusted without the cross certificate", []*x509.Certificate{d.server.Root, d.server.Inter, next}, 2},
		{"one again", []*x509.Certificate{d.server.Root, d.server.Inter}, 1},
		{"two generations at once", []*x509.Certificate{d.server.Root, d.server.Inter, after, crossAfter, next, cross}, 3},
		{"one again, again", []*x509.Certificate{d.server.Root, d.server.Inter}, 1},
		{"only a foreign one", []*x509.Certificate{other, d.server.Inter}, 1},
		{"none at all", []*x509.Certificate{d.server.Inter}, 1},
	} {
		d.server.SetBundle(test.bundle...)
		if _, err := a.Renew(t.Context()); err != nil {
			t.Errorf("%s: %v", test.name, err)
		}
		if roots, err := a.Roots(); err != nil || len(roots) != test.want {
			t.Errorf("%s: %d roots, %v; want %d", test.name, len(roots), err, test.want)
		}
	}
}

func TestAnotherServerStartsAnew(t *testing.T) {
	d := newDevice(t, esttest.Options{})
	d.server.Answer(wire.SimpleEnroll, esttest.Status(202))
	if _, err := d.create().Enrol(t.Context(), d.first()); err == nil {
		t.Fatal("not pending")
	}
	d.config.Label = "other"
	a := d.create()
	if _, err := os.Stat(d.path("next")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the key of the old order is kept for another service (%v)", err)
	}
	if _, err := a.Due(); !errors.Is(err, agent.ErrNotEnrolled) {
		t.Errorf("due: %v, want ErrNotEnrolled", err)
	}
}

func TestOpenWithoutAgent(t *testing.T) {
	d := newDevice(t, esttest.Options{})
	if _, err := agent.Open(d.options()); !errors.Is(err, agent.ErrNotEnrolled) {
		t.Errorf("got %v", err)
	}
	d.create()
	if err := d.open().Run(t.Context()); !errors.Is(err, agent.ErrNotEnrolled) {
		t.Errorf("run: %v", err)
	}
}

func TestRenewAt(t *testing.T) {
	begin := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	cert := &x509.Certificate{NotBefore: begin, NotAfter: begin.Add(1000 * time.Hour)}
	var low, high int
	for i := range 2000 {
		age := agent.RenewAt(cert, string(rune('a'+i%26))+string(rune('a'+i/26))).Sub(begin)
		if age < 566*time.Hour || age > 767*time.Hour {
			t.Fatalf("renewal at the age of %v of 1000h; want 567 to 767", age)
		}
		if age < 600*time.Hour {
			low++
		}
		if age > 733*time.Hour {
			high++
		}
	}
	if low < 250 || low > 420 || high < 250 || high > 420 {
		t.Errorf("%d in the first and %d in the last sixth of the window of 2000; want about 333 each", low, high)
	}
	endless := &x509.Certificate{NotBefore: begin, NotAfter: time.Unix(der.NoExpiry, 0)}
	if at := agent.RenewAt(endless, "dev1"); at.Year() < 6000 {
		t.Errorf("a certificate without end is renewed in %d", at.Year())
	}
}

func TestTwoAgentsOfOneFolderTakeTurns(t *testing.T) {
	d := newDevice(t, esttest.Options{})
	a := d.enrol()
	d.server.Answer(wire.SimpleReenroll, func(w http.ResponseWriter, r *http.Request) {
		if _, err := d.open().Renew(r.Context()); !errors.Is(err, agent.ErrBusy) {
			t.Errorf("second agent: %v, want ErrBusy", err)
		}
		esttest.Status(503)(w, r)
	})
	if _, err := a.Renew(t.Context()); err == nil {
		t.Fatal("renewed")
	}
	if _, err := d.open().Renew(t.Context()); err != nil {
		t.Errorf("afterwards: %v", err)
	}
	if status, err := a.Status(); err != nil || status.Failures != 0 {
		t.Errorf("status %+v, %v", status, err)
	}
}

// Being told to stop is no failure.
func TestStopInTheMiddle(t *testing.T) {
	d := newDevice(t, esttest.Options{})
	a := d.enrol()
	ctx, cancel := context.WithCancel(t.Context())
	d.server.Answer(wire.SimpleReenroll, func(_ http.ResponseWriter, r *http.Request) {
		if _, err := io.Copy(io.Discard, r.Body); err != nil { // only then does the server notice that the client hangs up
			t.Error(err)
		}
		cancel()
		<-r.Context().Done()
	})
	d.now = d.now.Add(29 * 24 * time.Hour)
	if err := a.Run(ctx); err != nil {
		t.Errorf("run: %v", err)
	}
	if status, err := a.Status(); err != nil || status.Failures != 0 {
		t.Errorf("status %+v, %v; want no failure", status, err)
	}
}
