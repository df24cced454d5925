// Package apptest starts a whole platform on loopback for a test: real listeners, a real data directory, and SQLite or, where MOORING_TEST_DB
// says so, a PostgreSQL database or schema of its own.
//
//	p := apptest.Start(t, nil)
//	d, token := p.Device(t, "meter-1", "device")
//	key := apptest.Key(t)
//	reply := p.Send(t, apptest.Call{Path: "/.well-known/est/simpleenroll", Body: apptest.Body(apptest.CSR(t, key, der.RequestSpec{})), User: "meter-1", Secret: token})
//
// An installation that the configuration makes no different is a copy of one that was made once (see template), its database included, because
// most tests are shorter than that takes. The copy differs from an installation of its own in that the certificates of its CAs tell the address of another
// status listener.
//
// The platform stops with the test, after its whole record was verified: every test is also one of the record. What it logged is shown
// when the test failed.
//
// Send speaks HTTP/1.1 by hand over one TLS connection, so that a test can say what no ordinary client would; well-behaved devices come from
// Session, which is the public agent/est. The package deliberately has no opinion on what is right: it starts, sends and shows.
package apptest

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"mooring/internal/app"
	"mooring/internal/base/conf"
	"mooring/internal/base/db/dbtest"
	"mooring/internal/base/errs"
	"mooring/internal/core/audit"
	"mooring/internal/core/ca"
)

// Platform is a running platform. Its fields of core change with Restart.
type Platform struct {
	*app.Platform
	Made  app.InitResult
	Clock *Clock
	Root  *x509.Certificate
	Log   *Log
	// Tampered says that the test changes the database behind the platform's back, so that the record need not verify at the end.
	Tampered bool

	running bool
	stop    context.CancelFunc
	stopped chan error
}

const organisation = "Test Fleet"

// Profile is a profile that a test has beside the default ones.
type Profile struct{ Name, YAML string }

// Variant returns the default profile called base under another name and with some lines, "key: value", in place of its own.
func Variant(base, name string, lines ...string) Profile {
	text, err := fs.ReadFile(ca.DefaultProfiles(), base+".yaml")
	if err != nil {
		panic("apptest: " + err.Error())
	}
	yaml := string(text)
	for _, line := range append([]string{"name: " + name}, lines...) {
		yaml = replaceLine(yaml, line)
	}
	return Profile{name, yaml}
}

func replaceLine(yaml, line string) string {
	key, _, _ := strings.Cut(line, ":")
	lines := strings.Split(yaml, "\n")
	for i := range lines {
		if strings.HasPrefix(lines[i], key+":") {
			lines[i] = line
			return strings.Join(lines, "\n")
		}
	}
	return yaml + line + "\n"
}

// Start makes an installation and runs it until the test ends. change, if not nil, is given the configuration before anything is made.
func Start(t testing.TB, change func(*conf.Config), profiles ...Profile) *Platform {
	t.Helper()
	p := &Platform{Clock: &Clock{}, Log: &Log{}}
	c, made := install(t, p.Clock, p.Log, change)
	p.Made = made
	for _, extra := range profiles {
		if err := os.WriteFile(filepath.Join(c.ProfileDir(), extra.Name+".yaml"), []byte(extra.YAML), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	root, err := os.ReadFile(made.Root)
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(root)
	if p.Root, err = x509.ParseCertificate(block.Bytes); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.end(t) })
	p.start(t, c)
	return p
}

// Init makes an installation in a directory of the test and does not run it.
func Init(t testing.TB, clock *Clock, log *Log, change func(*conf.Config)) (*conf.Config, app.InitResult) {
	t.Helper()
	return install(t, clock, log, change)
}

func configure(t testing.TB, change func(*conf.Config)) *conf.Config {
	t.Helper()
	c, err := app.Loopback(organisation)
	if err != nil {
		t.Fatal(err)
	}
	if server := os.Getenv("MOORING_TEST_DB"); server != "" {
		c.Database.URL = server // stands for one of the test's own
	}
	if change != nil {
		change(c)
	}
	return c
}

func initialise(t testing.TB, clock *Clock, log *Log, c *conf.Config) app.InitResult {
	t.Helper()
	if server := os.Getenv("MOORING_TEST_DB"); server != "" && c.Database.URL == server {
		c.Database.URL = dbtest.URL(t)
	}
	made, err := app.Init(t.Context(), app.InitOptions{Dir: filepath.Join(t.TempDir(), "data"), Config: c, Now: clock.Now, Log: log.Logger()})
	if err != nil {
		t.Fatalf("making an installation: %v", err)
	}
	return made
}

// start builds and runs. The free ports were free a moment ago; another process may have been faster.
func (p *Platform) start(t testing.TB, c *conf.Config) {
	t.Helper()
	var err error
	for range 5 {
		p.Platform, err = app.Build(t.Context(), app.Options{Config: c, Keys: p.Made.Keys, Now: p.Clock.Now, Log: p.Log.Logger()})
		if err == nil || !strings.Contains(errs.Public(err), "another program has this address") {
			break
		}
		fresh, err := app.Loopback(c.Name)
		if err != nil {
			t.Fatal(err)
		}
		c.PublicURLs.EST, c.PublicURLs.Status = fresh.PublicURLs.EST, fresh.PublicURLs.Status
		c.Listen.EST, c.Listen.API, c.Listen.Status, c.Listen.Socket = fresh.Listen.EST, fresh.Listen.API, fresh.Listen.Status, fresh.Listen.Socket
	}
	if err != nil {
		t.Fatalf("building the platform: %v", err)
	}
	// The test's own context ends before its cleanups; the platform must outlive it.
	ctx, stop := context.WithCancel(context.WithoutCancel(t.Context()))
	p.stop, p.stopped, p.running = stop, make(chan error, 1), true
	ready, stopped := make(chan struct{}), p.stopped
	built := p.Platform
	go func() { stopped <- built.Run(ctx, func() { close(ready) }) }()
	select {
	case <-ready:
	case err := <-stopped:
		p.running = false
		t.Fatalf("starting the platform: %v", err)
	}
}

// Second starts another node of p's installation, with the same data and keys and addresses of its own, until the test ends. It needs
// PostgreSQL, and skips the test without.
func (p *Platform) Second(t testing.TB) *Platform {
	t.Helper()
	if strings.HasPrefix(p.Config.Database.URL, "sqlite:") {
		t.Skip("two nodes need PostgreSQL: set MOORING_TEST_DB")
	}
	fresh, err := app.Loopback(p.Config.Name)
	if err != nil {
		t.Fatal(err)
	}
	c := *p.Config
	c.Listen = fresh.Listen
	for _, l := range []struct{ first, second *string }{{&p.Config.Listen.ACME, &c.Listen.ACME}, {&p.Config.Listen.MQTT, &c.Listen.MQTT}, {&p.Config.Listen.COAPS, &c.Listen.COAPS}} {
		if *l.first != "" {
			*l.second = anyPort
		}
	}
	c.Listen.Socket = filepath.Join(t.TempDir(), "second.sock")
	second := &Platform{Clock: p.Clock, Log: p.Log, Made: p.Made, Root: p.Root}
	t.Cleanup(func() { second.Stop(t) })
	second.start(t, &c)
	return second
}

// WriteProfile puts a profile's text in place. It counts from the next Restart on.
func (p *Platform) WriteProfile(t testing.TB, profile Profile) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(p.Config.ProfileDir(), profile.Name+".yaml"), []byte(profile.YAML), 0o644); err != nil {
		t.Fatal(err)
	}
}

// Stop stops the platform and waits for it.
func (p *Platform) Stop(t testing.TB) {
	t.Helper()
	if !p.running {
		return
	}
	p.running = false
	p.stop()
	if err := <-p.stopped; err != nil {
		t.Errorf("stopping the platform: %v", err)
	}
}

// Restart stops the platform and starts it anew with the same configuration and data.
func (p *Platform) Restart(t testing.TB) {
	t.Helper()
	c := p.Config
	p.Stop(t)
	p.start(t, c)
}

func (p *Platform) end(t testing.TB) {
	if p.running && !p.Tampered && !t.Failed() {
		for _, f := range p.Verify(t).Findings {
			t.Errorf("the record does not verify: %s", f)
		}
	}
	p.Stop(t)
	if t.Failed() {
		t.Logf("the platform's log:\n%s", p.Log)
	}
}

// Verify recomputes the record and compares every slice's tables with it.
func (p *Platform) Verify(t testing.TB) audit.Report {
	t.Helper()
	report, err := p.Audit.Verify(context.WithoutCancel(t.Context()), audit.VerifyOptions{Checkers: p.Checkers()})
	if err != nil {
		t.Fatalf("verifying the record: %v", err)
	}
	return report
}

// Pool returns the platform's root as a pool of trusted roots.
func (p *Platform) Pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(p.Root)
	return pool
}

// OperatorCert returns the first operator's credential, an administrator's.
func (p *Platform) OperatorCert(t testing.TB) tls.Certificate {
	t.Helper()
	pair, err := tls.LoadX509KeyPair(filepath.Join(p.Made.Operator, "cert.pem"), filepath.Join(p.Made.Operator, "key.pem"))
	if err != nil {
		t.Fatal(err)
	}
	return pair
}

// Clock is the platform's clock: the machine's, moved by an offset. The zero value is not moved. Safe for concurrent use.
type Clock struct{ offset atomic.Int64 }

// Now returns the time by this clock.
func (c *Clock) Now() time.Time { return time.Now().Add(time.Duration(c.offset.Load())) }

// Move moves the clock by d, to and fro.
func (c *Clock) Move(d time.Duration) { c.offset.Add(int64(d)) }

// Log collects what a platform logs. The zero value is ready. Safe for concurrent use.
type Log struct {
	mu  sync.Mutex
	buf bytes.Buffer // guarded by mu
}

// Write makes Log an io.Writer.
func (l *Log) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(b)
}

// String returns everything logged so far.
func (l *Log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

// Logger returns a logger that writes here, from the level debug on: a secret that is logged anywhere is to be seen.
func (l *Log) Logger() *slog.Logger {
	return slog.New(slog.NewTextHandler(l, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// isClosed reports whether err only says that a connection was closed already.
func isClosed(err error) bool {
	return errors.Is(err, os.ErrClosed) || strings.Contains(err.Error(), "use of closed")
}
