package crlfile_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"mooring/internal/provider/broker/crlfile"
)

var start = time.Date(2026, 11, 26, 12, 0, 0, 0, time.UTC)

// authority is a CA that publishes one list.
type authority struct {
	t    *testing.T
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
}

func newAuthority(t *testing.T, name string) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotBefore: start.Add(-time.Hour), NotAfter: start.Add(1000 * time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCRLSign, SubjectKeyId: []byte(name)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &authority{t, key, cert}
}

// list is a list with a number, from begin for 30 minutes.
func (a *authority) list(number int64, begin time.Time) []byte {
	a.t.Helper()
	raw, err := x509.CreateRevocationList(rand.Reader, &x509.RevocationList{Number: big.NewInt(number), ThisUpdate: begin, NextUpdate: begin.Add(30 * time.Minute)}, a.cert, a.key)
	if err != nil {
		a.t.Fatal(err)
	}
	return raw
}

// bench is a status listener, a clock and a broker that counts.
type bench struct {
	mu      sync.Mutex
	served  map[string][]byte // path → what is there; absent: 404
	now     time.Time
	reloads int
	refuse  error
	path    string
	options crlfile.Options
}

func newBench(t *testing.T, urls []string, issuers ...*authority) *bench {
	t.Helper()
	b := &bench{served: map[string][]byte{}, now: start, path: filepath.Join(t.TempDir(), "broker.crl")}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b.mu.Lock()
		defer b.mu.Unlock()
		body, ok := b.served[r.URL.Path]
		if !ok {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		_, _ = w.Write(body)
	}))
	t.Cleanup(s.Close)
	b.options = crlfile.Options{Path: b.path, Every: time.Minute, Client: s.Client(), Now: func() time.Time { return b.now }, Log: slog.New(slog.DiscardHandler),
		Reload: func(context.Context) error {
			if b.refuse != nil {
				return b.refuse
			}
			b.reloads++
			return nil
		}}
	for _, u := range urls {
		b.options.URLs = append(b.options.URLs, s.URL+u)
	}
	for _, a := range issuers {
		b.options.Issuers = append(b.options.Issuers, a.cert)
	}
	return b
}

func (b *bench) keeper(t *testing.T) *crlfile.Keeper {
	t.Helper()
	k, err := crlfile.New(b.options)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func (b *bench) serve(path string, body []byte) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if body == nil {
		delete(b.served, path)
		return
	}
	b.served[path] = body
}

// numbers are those of the lists in the file.
func (b *bench) numbers(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile(b.path)
	if errors.Is(err, os.ErrNotExist) {
		return "none"
	}
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		l, err := x509.ParseRevocationList(block.Bytes)
		if err != nil || block.Type != "X509 CRL" {
			t.Fatalf("a block %q: %v", block.Type, err)
		}
		all = append(all, fmt.Sprint(l.Number))
	}
	return strings.Join(all, " ")
}

// TestRounds plays, one after the other, what can come from the status listener, and looks at the file and the broker after each.
func TestRounds(t *testing.T) {
	a, other := newAuthority(t, "Devices"), newAuthority(t, "Devices") // the same name with another key
	b := newBench(t, []string{"/a"}, a)
	k := b.keeper(t)
	for _, row := range []struct {
		name    string
		served  []byte
		at      time.Duration
		refuse  error
		want    string // numbers in the file
		reloads int
		fails   string // part of the error; "" = none
		alarm   bool
	}{
		{"nobody answers", nil, 0, nil, "none", 0, "404", true},
		{"the first list", a.list(5, start), 0, nil, "5", 1, "", false},
		{"the same again", a.list(5, start), time.Minute, nil, "5", 2, "", false}, // signed anew: other octets
		{"PEM", pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: a.list(6, start)}), time.Minute, nil, "6", 3, "", false},
		{"an older one", a.list(4, start), time.Minute, nil, "6", 3, "older", false},
		{"another CA of the same name", other.list(7, start), time.Minute, nil, "6", 3, "signed by none", false},
		{"no list", []byte("<html>"), time.Minute, nil, "6", 3, "no revocation list", false},
		{"one that is over", a.list(8, start.Add(-31*time.Minute)), time.Minute, nil, "6", 3, "ended", false},
		{"one of tomorrow", a.list(9, start.Add(24*time.Hour)), time.Minute, nil, "6", 3, "clock", false},
		{"nobody answers, time is left", nil, 19 * time.Minute, nil, "6", 3, "404", false},
		{"nobody answers, a third is left", nil, 21 * time.Minute, nil, "6", 3, "404", true},
		{"the CA signs no new one", a.list(6, start), 22 * time.Minute, nil, "6", 4, "", true},
		{"everybody is locked out", nil, 31 * time.Minute, nil, "6", 4, "404", true},
		{"a new one", a.list(10, start.Add(30*time.Minute)), 31 * time.Minute, nil, "10", 5, "", false},
		{"the broker does not read it", a.list(11, start.Add(30*time.Minute)), 32 * time.Minute, errors.New("no such process"), "11", 5, "no such process", false},
		{"the broker reads it at last", a.list(11, start.Add(30*time.Minute)), 33 * time.Minute, nil, "11", 6, "", false},
	} {
		t.Run(row.name, func(t *testing.T) {
			b.serve("/a", row.served)
			b.now, b.refuse = start.Add(row.at), row.refuse
			alarms, err := k.Round(t.Context())
			if row.fails == "" && err != nil || !strings.Contains(fmt.Sprint(err), row.fails) {
				t.Errorf("Round: %v, want %q", err, row.fails)
			}
			if (len(alarms) > 0) != row.alarm {
				t.Errorf("alarms %v, want some: %v", alarms, row.alarm)
			}
			if got := b.numbers(t); got != row.want {
				t.Errorf("the file has the lists %s, want %s", got, row.want)
			}
			if b.reloads != row.reloads {
				t.Errorf("the broker has read it %d times, want %d", b.reloads, row.reloads)
			}
		})
	}
}

// TestTwoAuthorities: the file has the lists of both or is not written, since a broker refuses everybody of a CA whose list is missing.
func TestTwoAuthorities(t *testing.T) {
	a, c := newAuthority(t, "A"), newAuthority(t, "C")
	b := newBench(t, []string{"/a", "/c"}, a, c)
	k := b.keeper(t)
	b.serve("/a", a.list(1, start))
	if _, err := k.Round(t.Context()); err == nil || b.numbers(t) != "none" {
		t.Errorf("with one of two lists: %v and %s, want an error and no file", err, b.numbers(t))
	}
	b.serve("/c", c.list(2, start))
	if _, err := k.Round(t.Context()); err != nil || b.numbers(t) != "1 2" {
		t.Errorf("with both: %v and %s, want 1 2", err, b.numbers(t))
	}
	b.serve("/c", nil)
	b.serve("/a", a.list(3, start))
	if _, err := k.Round(t.Context()); err == nil || b.numbers(t) != "3 2" {
		t.Errorf("with a newer one of one: %v and %s, want an error and 3 2", err, b.numbers(t))
	}
}

// TestRestart: what the file has is taken up, so that an older list does not come after it, and a failure does not take it away.
func TestRestart(t *testing.T) {
	a := newAuthority(t, "A")
	b := newBench(t, []string{"/a"}, a)
	b.serve("/a", a.list(7, start))
	if _, err := b.keeper(t).Round(t.Context()); err != nil {
		t.Fatal(err)
	}
	b.serve("/a", a.list(6, start))
	k := b.keeper(t)
	if _, err := k.Round(t.Context()); err == nil || b.numbers(t) != "7" || b.reloads != 2 {
		t.Errorf("an older list after a restart: %v, the file has %s, read %d times; want an error, 7, and a second time because nobody knows whether the first was", err, b.numbers(t), b.reloads)
	}
}

// TestFile: all may read it, nothing stays beside it, and a folder that cannot be written to is an error.
func TestFile(t *testing.T) {
	a := newAuthority(t, "A")
	b := newBench(t, []string{"/a"}, a)
	b.serve("/a", a.list(7, start))
	if _, err := b.keeper(t).Round(t.Context()); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(b.path)
	if err != nil || info.Mode().Perm() != 0o644 {
		t.Errorf("the file: %v %v, want 0644", info.Mode(), err)
	}
	beside, err := os.ReadDir(filepath.Dir(b.path))
	if err != nil || len(beside) != 1 {
		t.Errorf("%d files, %v; want one", len(beside), err)
	}
	b.options.Path = filepath.Join(b.path, "x")
	if _, err := crlfile.New(b.options); err == nil {
		t.Error("a file in a file was accepted")
	}
}

func TestExpand(t *testing.T) {
	for _, row := range []struct{ url, want string }{
		{"http://x/crl/devices.crl", "http://x/crl/devices.crl"},
		{"http://x/crl/devices/[0-2].crl", "http://x/crl/devices/0.crl http://x/crl/devices/1.crl http://x/crl/devices/2.crl"},
		{"http://x/[7-7]", "http://x/7"},
		{"http://x/[2-1]", ""}, {"http://x/[0-]", ""}, {"http://x/[a-b]", ""}, {"http://x/[0-2", ""}, {"http://x/[0-1][0-1]", ""}, {"http://x/[0-65535]", ""}, {"http://x/[-1-1]", ""},
	} {
		got, err := crlfile.Expand(row.url)
		if strings.Join(got, " ") != row.want || (err == nil) != (row.want != "") {
			t.Errorf("Expand(%q): %v, %v; want %q", row.url, got, err, row.want)
		}
	}
}

// TestManyFailures: a listener that is away is told once and not for each of hundreds of lists.
func TestManyFailures(t *testing.T) {
	a := newAuthority(t, "A")
	var urls []string
	for i := range 256 {
		urls = append(urls, fmt.Sprintf("/%d", i))
	}
	_, err := newBench(t, urls, a).keeper(t).Round(t.Context())
	if n := strings.Count(fmt.Sprint(err), "fetching"); n != 3 || !strings.Contains(err.Error(), "256 lists in all") {
		t.Errorf("%d failures are told by name, want 3 and how many there are: %v", n, err)
	}
}

// TestUnchanged: what has not changed is not sent again.
func TestUnchanged(t *testing.T) {
	a := newAuthority(t, "A")
	b := newBench(t, []string{"/a"}, a)
	raw, sent := a.list(1, start), 0
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("ETag", `"1"`)
		if r.Header.Get("If-None-Match") == `"1"` {
			w.WriteHeader(http.StatusNotModified)
			return
		}
		sent++
		_, _ = w.Write(raw)
	}))
	defer s.Close()
	b.options.URLs = []string{s.URL}
	k := b.keeper(t)
	for range 3 {
		if alarms, err := k.Round(t.Context()); err != nil || len(alarms) > 0 {
			t.Fatal(alarms, err)
		}
	}
	if sent != 1 || b.reloads != 1 || b.numbers(t) != "1" {
		t.Errorf("sent %d times, read %d times, the file has %s", sent, b.reloads, b.numbers(t))
	}
	b.now = start.Add(29 * time.Minute)
	if alarms, err := k.Round(t.Context()); err != nil || len(alarms) != 1 {
		t.Errorf("a list that does not change and is going to be over: %v, %v; want an alarm", alarms, err)
	}
}

func TestHangup(t *testing.T) {
	dir := t.TempDir()
	heard := make(chan os.Signal, 1)
	signal.Notify(heard, syscall.SIGHUP)
	defer signal.Stop(heard)
	for _, row := range []struct{ name, text, fails string }{
		{"ours", fmt.Sprintf("%d\n", os.Getpid()), ""},
		{"no file", "", "cannot be read"},
		{"no number", "mosquitto", "no process number"},
		{"everybody", "-1", "no process number"},
		{"init", "1", "no process number"},
	} {
		t.Run(row.name, func(t *testing.T) {
			file := filepath.Join(dir, row.name)
			if row.text != "" {
				if err := os.WriteFile(file, []byte(row.text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			err := crlfile.Hangup(file)(t.Context())
			if row.fails == "" && err != nil || !strings.Contains(fmt.Sprint(err), row.fails) {
				t.Fatalf("Hangup: %v, want %q", err, row.fails)
			}
			if row.fails == "" {
				<-heard
			}
		})
	}
}

func TestCommand(t *testing.T) {
	sh, err := exec.LookPath("sh")
	if err != nil {
		t.Skip("there is no sh")
	}
	file := filepath.Join(t.TempDir(), "done")
	if err := crlfile.Command(sh, "-c", `: >"$0"`, file)(t.Context()); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(file); err != nil {
		t.Errorf("the command was not run: %v", err)
	}
	if err := crlfile.Command(sh, "-c", "echo no such broker; exit 3")(t.Context()); err == nil || !strings.Contains(err.Error(), "no such broker") {
		t.Errorf("a command that fails: %v, want what it says", err)
	}
}
