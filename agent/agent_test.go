package agent_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"mooring/agent"
	"mooring/agent/est"
	"mooring/agent/esttest"
	"mooring/agent/keyfile"
	"mooring/wire/der"
	wire "mooring/wire/est"
)

const token = "s3cr3t-claim"

// device is a device under test: its folder survives, its process (the agent) can be started anew.
type device struct {
	t      *testing.T
	server *esttest.Server
	dir    string
	now    time.Time
	sleeps []time.Duration
	wake   func() bool // after each sleep; false ends the run
	log    bytes.Buffer
	config agent.Config
}

func newDevice(t *testing.T, o esttest.Options) *device {
	t.Helper()
	d := &device{t: t, dir: filepath.Join(t.TempDir(), "agent"), now: time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)}
	o.Now = func() time.Time { return d.now }
	if o.Token == "" {
		o.Token = token
	}
	d.server = esttest.Start(t, o)
	d.config = agent.Config{Server: d.server.URL, Name: "dev1"}
	return d
}

func (d *device) options() agent.Options {
	return agent.Options{
		Dir:  d.dir,
		Now:  func() time.Time { return d.now },
		Rand: zeros{},
		Log:  slog.New(slog.NewJSONHandler(&d.log, nil)),
		Sleep: func(ctx context.Context, pause time.Duration) error {
			d.sleeps = append(d.sleeps, pause)
			d.now = d.now.Add(pause)
			if d.wake != nil && !d.wake() {
				return context.Canceled
			}
			return ctx.Err()
		},
	}
}

// zeros makes every random addition the smallest.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

func (d *device) first() agent.First {
	return agent.First{Token: token, Roots: []*x509.Certificate{d.server.Root}}
}

func (d *device) create() *agent.Agent {
	d.t.Helper()
	a, err := agent.Create(d.options(), d.config)
	if err != nil {
		d.t.Fatal(err)
	}
	return a
}

func (d *device) open() *agent.Agent {
	d.t.Helper()
	a, err := agent.Open(d.options())
	if err != nil {
		d.t.Fatal(err)
	}
	return a
}

func (d *device) enrol() *agent.Agent {
	d.t.Helper()
	a := d.create()
	if _, err := a.Enrol(d.t.Context(), d.first()); err != nil {
		d.t.Fatal(err)
	}
	return a
}

func (d *device) serial(a *agent.Agent) int64 {
	d.t.Helper()
	identity, err := a.Identity()
	if err != nil {
		d.t.Fatal(err)
	}
	return identity.Certificate().SerialNumber.Int64()
}

func (d *device) path(elem ...string) string {
	return filepath.Join(append([]string{d.dir}, elem...)...)
}

func TestEnrol(t *testing.T) {
	d := newDevice(t, esttest.Options{})
	d.config.Subject = "O=Acme, CN=dev1"
	d.config.Names = []string{"dns:dev1.example.test", "ip:192.0.2.1"}
	a := d.create()
	identity, err := a.Enrol(t.Context(), d.first())
	if err != nil {
		t.Fatal(err)
	}
	cert := identity.Certificate()
	if cert.Subject.String() != "CN=dev1,O=Acme" || len(cert.DNSNames) != 1 || len(cert.IPAddresses) != 1 {
		t.Errorf("certificate for %v, %v, %v", cert.Subject, cert.DNSNames, cert.IPAddresses)
	}
	status, err := d.open().Status()
	if err != nil {
		t.Fatal(err)
	}
	if status.Condition != agent.Enrolled || status.Subject != "O=Acme, CN=dev1" || status.KeyType != "ec-p256" || !status.NextAttempt.Equal(status.RenewAt) {
		t.Errorf("status %+v", status)
	}
	if key, err := keyfile.Read(status.Files.Key); err != nil || der.KindOf(key.Public()) != der.ECP256 {
		t.Errorf("key file: %v", err)
	}
	for path, want := range map[string]int{status.Files.Certificate: 1, status.Files.Chain: 2, status.Files.CA: 1} {
		if certs, err := agent.ReadCertificates(path); err != nil || len(certs) != want {
			t.Errorf("%s has %d certificates, %v; want %d", path, len(certs), err, want)
		}
	}
	if _, err := a.Enrol(t.Context(), d.first()); !errors.Is(err, agent.ErrEnrolled) {
		t.Errorf("second enrolment: %v", err)
	}
	if _, err := agent.Create(d.options(), d.config); !errors.Is(err, agent.ErrEnrolled) {
		t.Errorf("second agent in the folder: %v", err)
	}
	d.secretsStayed()
}

// secretsStayed fails if the token or key lies anywhere but in a key file, or was logged.
func (d *device) secretsStayed() {
	d.t.Helper()
	if strings.Contains(d.log.String(), token) || strings.Contains(d.log.String(), "PRIVATE") {
		d.t.Errorf("a secret was logged: %s", d.log.String())
	}
	err := filepath.WalkDir(d.dir, func(path string, entry os.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		data, err := os.ReadFile(path)
		if bytes.Contains(data, []byte(token)) || bytes.Contains(data, []byte("PRIVATE")) && entry.Name() != keyfile.Name {
			d.t.Errorf("a secret lies in %s", path)
		}
		return err
	})
	if err != nil {
		d.t.Error(err)
	}
}

func TestEnrolByFingerprint(t *testing.T) {
	d := newDevice(t, esttest.Options{})
	wrong, right := sha256.Sum256([]byte("x")), sha256.Sum256(d.server.Root.Raw)
	a := d.create()
	if _, err := a.Enrol(t.Context(), agent.First{Token: token, Fingerprint: &wrong}); err == nil || !strings.Contains(err.Error(), "no root with the fingerprint") {
		t.Errorf("wrong fingerprint: %v", err)
	}
	if len(d.server.Requests()) > 0 {
		t.Error("a request went to a server that was not believed")
	}
	if _, err := a.Enrol(t.Context(), agent.First{Token: token, Fingerprint: &right}); err != nil {
		t.Errorf("right fingerprint: %v", err)
	}
}

func TestEnrolNeedsSomethingToBelieve(t *testing.T) {
	d := newDevice(t, esttest.Options{})
	if _, err := d.create().Enrol(t.Context(), agent.First{Token: token}); err == nil || !strings.Contains(err.Error(), "roots or a fingerprint") {
		t.Errorf("got %v", err)
	}
}

func TestEnrolWithBirthCertificate(t *testing.T) {
	d := newDevice(t, esttest.Options{})
	dir := t.TempDir()
	key, err := keyfile.Keys{}.Create(dir, der.ECP256)
	if err != nil {
		t.Fatal(err)
	}
	birth := d.server.Certify(t, "serial 7", key.Public())
	certFile := filepath.Join(dir, "birth.pem")
	writePEM(t, certFile, birth)
	first := agent.First{Roots: []*x509.Certificate{d.server.Root}, CertFile: certFile, KeyFile: filepath.Join(dir, keyfile.Name)}
	if _, err := d.create().Enrol(t.Context(), first); err != nil {
		t.Error(err)
	}
}

// Every attempt sends the same request, whatever comes in between: refusals, lost answers, restarts, waiting.
func TestOneRequestUntilItIsAnswered(t *testing.T) {
	d := newDevice(t, esttest.Options{})
	var bodies []string
	record := func(then http.HandlerFunc) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			body, _ := io.ReadAll(r.Body)
			bodies = append(bodies, string(body))
			then(w, r)
		}
	}
	stranger := d.server.Certify(t, "stranger", mustKey(t).Public())
	for _, answer := range []http.HandlerFunc{
		esttest.Text(401, "token is used up"),
		esttest.Hang,
		truncated,
		func(w http.ResponseWriter, _ *http.Request) { esttest.SendCertificates(t, w, stranger.Raw) },
		esttest.Status(503, "Retry-After", "120"),
		esttest.Status(202, "Retry-After", "120"),
	} {
		d.server.Answer(wire.SimpleEnroll, record(answer))
		if _, err := d.create().Enrol(t.Context(), d.first()); err == nil {
			t.Fatal("enrolled without an answer")
		}
	}
	d.server.Answer(wire.SimpleEnroll, record(esttest.Status(202, "Retry-After", "120")), record(esttest.Hang))
	d.wake = func() bool { return d.server.Issued() == 0 }
	if err := d.open().Run(t.Context()); err != nil { // twice without success, then the real answer
		t.Fatal(err)
	}
	if len(bodies) != 8 {
		t.Errorf("%d attempts, want 8", len(bodies))
	}
	for i, body := range bodies {
		if body != bodies[0] {
			t.Errorf("attempt %d sent another request", i)
		}
	}
	if d.serial(d.open()) == 0 {
		t.Error("no identity")
	}
	d.secretsStayed()
}

func TestPendingEnrolmentWaitsAsToldAndSurvivesARestart(t *testing.T) {
	d := newDevice(t, esttest.Options{})
	d.server.Answer(wire.SimpleEnroll, esttest.Status(202, "Retry-After", "600"), esttest.Status(202, "Retry-After", "900"))
	var pending *est.PendingError
	if _, err := d.create().Enrol(t.Context(), d.first()); !errors.As(err, &pending) || pending.RetryAfter != 10*time.Minute {
		t.Fatalf("got %v; want pending for 10 minutes", err)
	}
	status, err := d.open().Status()
	if err != nil || status.Condition != agent.Pending || !status.NextAttempt.Equal(d.now.Add(10*time.Minute)) {
		t.Errorf("status %+v, %v", status, err)
	}
	d.wake = func() bool { return d.server.Issued() == 0 }
	if err := d.open().Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	if len(d.sleeps) < 2 || d.sleeps[0] != 10*time.Minute || d.sleeps[1] != 15*time.Minute {
		t.Errorf("slept %v; want what the server asked for", d.sleeps)
	}
	d.secretsStayed() // the token was kept while it was needed, and no longer
}

func TestRunRenewsInTime(t *testing.T) {
	d := newDevice(t, esttest.Options{Life: 9 * 24 * time.Hour})
	a := d.enrol()
	old, err := a.Identity()
	if err != nil {
		t.Fatal(err)
	}
	due := agent.RenewAt(old.Certificate(), "dev1")
	var attempts []time.Duration // after the time of renewal
	fail := func(then http.HandlerFunc) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			attempts = append(attempts, d.now.Sub(due))
			then(w, r)
		}
	}
	d.server.Answer(wire.SimpleReenroll, fail(esttest.Status(503, "Retry-After", "7200")), fail(esttest.Hang), fail(esttest.Hang), fail(esttest.Status(400)))
	d.wake = func() bool { return len(attempts) < 4 }
	if err := a.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	// When due; two hours later as told; then half a minute doubled for each failure, halved by the smallest jitter.
	want := []time.Duration{0, 2 * time.Hour, 2*time.Hour + 30*time.Second, 2*time.Hour + 90*time.Second}
	if !slices.Equal(attempts, want) {
		t.Errorf("attempts %v after the renewal was due, want %v", attempts, want)
	}
	if state := readState(t, d); state["failures"] != 4. {
		t.Errorf("state %v, want 4 failures", state)
	}

	start := len(d.server.Requests())
	d.wake = func() bool { return len(d.server.Requests()) < start+3 }
	if err := d.open().Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	identity, err := d.open().Identity()
	if err != nil {
		t.Fatal(err)
	}
	if d.server.Issued() != 4 || sameKey(old, identity) {
		t.Errorf("%d certificates, same key %v; want 4 with a new key each", d.server.Issued(), sameKey(old, identity))
	}
	if _, err := os.Stat(d.path("state.json")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("old failures are remembered after success (%v)", err)
	}
	generations, err := os.ReadDir(d.path("gen"))
	if err != nil || len(generations) != 2 {
		t.Errorf("%d generations are kept, %v; want the one in use and the one before", len(generations), err)
	}
	d.secretsStayed()
}

func writePEM(t *testing.T, path string, cert *x509.Certificate) {
	t.Helper()
	text := fmt.Sprintf("-----BEGIN CERTIFICATE-----\n%s-----END CERTIFICATE-----\n", wire.EncodeBase64(cert.Raw))
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func truncated(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", wire.TypeCertsOnly)
	w.Header().Set("Content-Length", "1000")
	_, _ = io.WriteString(w, "MIIB")
}

func readState(t *testing.T, d *device) (state map[string]any) {
	t.Helper()
	data, err := os.ReadFile(d.path("state.json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(data, &state); err != nil {
		t.Fatal(err)
	}
	return state
}
