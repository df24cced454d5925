package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"encoding/pem"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"mooring/agent"
	"mooring/agent/est"
	"mooring/agent/esttest"
	wire "mooring/wire/est"
)

// device is the machine on which "mooring agent" is run.
type device struct {
	t      *testing.T
	server *esttest.Server
	dir    string
	ca     string
}

func newDevice(t *testing.T, o esttest.Options) *device {
	t.Helper()
	o.Token = "claim-code"
	d := &device{t: t, server: esttest.Start(t, o), dir: filepath.Join(t.TempDir(), "agent")}
	d.ca = d.file("ca.pem", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: d.server.Root.Raw})))
	return d
}

func (d *device) file(name, text string) string {
	d.t.Helper()
	path := filepath.Join(d.t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		d.t.Fatal(err)
	}
	return path
}

// run runs one command and checks its exit code.
func (d *device) run(ctx context.Context, want int, in string, args ...string) (out, report string) {
	d.t.Helper()
	var stdout, stderr bytes.Buffer
	args = append([]string{"agent"}, append(args, "--dir", d.dir)...)
	if got := run(ctx, args, strings.NewReader(in), &stdout, &stderr); got != want {
		d.t.Fatalf("mooring %v: exit code %d, want %d\n%s%s", args, got, want, &stdout, &stderr)
	}
	if strings.Contains(stdout.String()+stderr.String(), "claim-code") {
		d.t.Errorf("mooring %v shows the token", args)
	}
	return stdout.String(), stderr.String()
}

func (d *device) enrolArgs(more ...string) []string {
	return append([]string{"enrol", "--server", d.server.URL, "--name", "dev1"}, more...)
}

func TestAgentLife(t *testing.T) {
	d := newDevice(t, esttest.Options{})
	token := d.file("token", "claim-code\n")
	out, report := d.run(t.Context(), exitOK, "", d.enrolArgs("--token-file", token, "--ca", d.ca, "--san", "dns:dev1.example.test")...)
	for _, want := range []string{"CN=dev1", "enrolled", filepath.Join(d.dir, "current", "key.pem"), "mooring agent run --dir " + d.dir} {
		if !strings.Contains(out+report, want) {
			t.Errorf("enrol printed %q; want %q in it", out+report, want)
		}
	}
	first := d.status()
	if first.Condition != agent.Enrolled {
		t.Errorf("status %+v", first)
	}
	d.run(t.Context(), exitOK, "", "renew")
	if second := d.status(); second.Serial == first.Serial {
		t.Errorf("serial %s before and after the renewal", first.Serial)
	}
	if _, report := d.run(t.Context(), exitFailure, "", d.enrolArgs("--token-file", token, "--ca", d.ca)...); !strings.Contains(report, "--again") {
		t.Errorf("second enrolment: %s", report)
	}
	before := d.status()
	d.run(t.Context(), exitOK, "", d.enrolArgs("--again", "--token-file", token, "--ca", d.ca)...)
	if after := d.status(); after.Serial == before.Serial {
		t.Errorf("serial %s before and after enrolling again", before.Serial)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, report := d.run(ctx, exitOK, "", "run"); !strings.Contains(report, "agent ended") {
		t.Errorf("run: %s", report)
	}
}

func (d *device) status() (s agent.Status) {
	d.t.Helper()
	out, _ := d.run(d.t.Context(), exitOK, "", "status", "--json")
	if err := json.Unmarshal([]byte(out), &s); err != nil {
		d.t.Fatalf("%v in %s", err, out)
	}
	return s
}

func TestAgentEnrolByFingerprintAndStdin(t *testing.T) {
	d := newDevice(t, esttest.Options{})
	fingerprint := est.FormatFingerprint(sha256.Sum256(d.server.Root.Raw))
	d.run(t.Context(), exitFailure, "claim-code", d.enrolArgs("--token-stdin", "--fingerprint", strings.Repeat("00", 32))...)
	d.run(t.Context(), exitOK, "claim-code\n", d.enrolArgs("--token-stdin", "--fingerprint", fingerprint, "--key-type", "ed25519")...)
	if s := d.status(); s.KeyType != "ed25519" {
		t.Errorf("key type %s", s.KeyType)
	}
}

func TestAgentTokenOnTheCommandLineIsWarnedOf(t *testing.T) {
	d := newDevice(t, esttest.Options{})
	if _, report := d.run(t.Context(), exitOK, "", d.enrolArgs("--token", "claim-code", "--ca", d.ca)...); !strings.Contains(report, "warning") {
		t.Errorf("no warning: %s", report)
	}
}

func TestAgentEnrolPending(t *testing.T) {
	d := newDevice(t, esttest.Options{})
	args := d.enrolArgs("--token-stdin", "--ca", d.ca)
	d.server.Answer(wire.SimpleEnroll, esttest.Status(202, "Retry-After", "3600"))
	if _, report := d.run(t.Context(), exitUnavailable, "claim-code", args...); !strings.Contains(report, "agent run") {
		t.Errorf("pending: %s", report)
	}
	if s := d.status(); s.Condition != agent.Pending {
		t.Errorf("status %+v", s)
	}
	d.server.Answer(wire.SimpleEnroll, esttest.Status(202, "Retry-After", "1"))
	d.run(t.Context(), exitOK, "claim-code", append(args, "--wait", "1m")...)
}

// A server that is away is not a mistake: scripts may try again.
func TestAgentServerAway(t *testing.T) {
	d := newDevice(t, esttest.Options{})
	enrolment := d.enrolArgs("--token-stdin", "--ca", d.ca)
	other := d.file("other.pem", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: d.server.OtherRoot(t).Raw})))
	_, report := d.run(t.Context(), exitFailure, "claim-code", d.enrolArgs("--token-stdin", "--ca", other)...)
	if !strings.Contains(report, "--ca or --fingerprint") {
		t.Errorf("another root: %s", report)
	}
	d.server.Answer(wire.SimpleEnroll, esttest.Hang)
	d.run(t.Context(), exitUnavailable, "claim-code", enrolment...)
	d.run(t.Context(), exitOK, "claim-code", enrolment...)
	nobody, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := "https://" + nobody.Addr().String()
	if err := nobody.Close(); err != nil {
		t.Fatal(err)
	}
	config := filepath.Join(d.dir, "config.json")
	text, err := os.ReadFile(config)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(config, bytes.ReplaceAll(text, []byte(d.server.URL), []byte(address)), 0o600); err != nil {
		t.Fatal(err)
	}
	d.run(t.Context(), exitUnavailable, "", "renew")
	d.server.URL, d.dir = address, filepath.Join(t.TempDir(), "agent")
	d.run(t.Context(), exitUnavailable, "claim-code", d.enrolArgs("--token-stdin", "--ca", d.ca)...)
	d.run(t.Context(), exitUnavailable, "claim-code", d.enrolArgs("--token-stdin", "--fingerprint", strings.Repeat("00", 32))...)
}

func TestAgentErrors(t *testing.T) {
	d := newDevice(t, esttest.Options{})
	empty := d.file("token", "\n")
	for name, test := range map[string]struct {
		code int
		in   string
		args []string
		text string
	}{
		"no server":        {exitUsage, "", []string{"enrol", "--name", "x"}, "--server and --name"},
		"no root":          {exitUsage, "x", d.enrolArgs("--token-stdin"), "--ca or --fingerprint"},
		"two roots":        {exitUsage, "x", d.enrolArgs("--token-stdin", "--ca", d.ca, "--fingerprint", "00"), "--ca or --fingerprint"},
		"no token":         {exitUsage, "", d.enrolArgs("--ca", d.ca), "--token-file"},
		"two tokens":       {exitUsage, "x", d.enrolArgs("--ca", d.ca, "--token", "y", "--token-stdin"), "one way"},
		"empty token":      {exitFailure, "\n", d.enrolArgs("--ca", d.ca, "--token-stdin"), "standard input is empty"},
		"empty file":       {exitFailure, "", d.enrolArgs("--ca", d.ca, "--token-file", empty), empty + " is empty"},
		"empty, JSON":      {exitFailure, "", d.enrolArgs("--ca", d.ca, "--token-file", empty, "--json"), empty + " is empty"},
		"two lines":        {exitFailure, "a\nb\n", d.enrolArgs("--ca", d.ca, "--token-stdin"), "one line"},
		"half a birth":     {exitUsage, "", d.enrolArgs("--ca", d.ca, "--birth-cert", "x"), "belong together"},
		"BRSKI, half":      {exitUsage, "", []string{"enrol", "--brski", "--server", "https://h", "--birth-cert", "x"}, "--masa-ca"},
		"BRSKI and a root": {exitUsage, "", d.enrolArgs("--ca", d.ca, "--brski", "--birth-cert", "x", "--birth-key", "x", "--masa-ca", "x"), "take --ca"},
		"BRSKI by CMP":     {exitUsage, "", []string{"enrol", "--brski", "--server", "cmp://h", "--birth-cert", "x", "--birth-key", "x", "--masa-ca", "x"}, "https://"},
		"MASA for nothing": {exitUsage, "", d.enrolArgs("--ca", d.ca, "--masa-ca", "x"), "goes with --brski"},
		"odd fingerprint":  {exitUsage, "x", d.enrolArgs("--token-stdin", "--fingerprint", "abc"), "64 digits"},
		"wrong token":      {exitDenied, "wrong", d.enrolArgs("--token-stdin", "--ca", d.ca), "token is wrong"},
		"odd key type":     {exitFailure, "x", d.enrolArgs("--token-stdin", "--ca", d.ca, "--key-type", "dsa"), "ec-p256"},
		"odd name":         {exitFailure, "x", d.enrolArgs("--token-stdin", "--ca", d.ca, "--san", "dev1"), "dns:"},
		"http":             {exitFailure, "x", []string{"enrol", "--server", "http://h", "--name", "x", "--token-stdin", "--ca", d.ca}, "https://"},
		"status of nobody": {exitNotFound, "", []string{"status"}, "not enrolled"},
		"run of nobody":    {exitNotFound, "", []string{"run"}, "not enrolled"},
		"renew of nobody":  {exitNotFound, "", []string{"renew"}, "not enrolled"},
	} {
		t.Run(name, func(t *testing.T) {
			d := &device{t: t, server: d.server, dir: filepath.Join(t.TempDir(), "agent"), ca: d.ca}
			if _, report := d.run(t.Context(), test.code, test.in, test.args...); !strings.Contains(report, test.text) {
				t.Errorf("got %q, want %q in it", report, test.text)
			}
		})
	}
}
