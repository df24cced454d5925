//go:build interop

package interop

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"mooring/internal/base/db/dbtest"
)

func TestMain(m *testing.M) {
	code, err := withPrograms(m.Run)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

// withPrograms builds our program as it is released and the stranger's, puts them on the path and runs the tests.
func withPrograms(run func() int) (int, error) {
	for _, program := range []string{"bash", "curl", "openssl", "certtool", "ocsptool", "awk", "od"} {
		if _, err := exec.LookPath(program); err != nil {
			return 0, fmt.Errorf("these tests need %s (Debian: curl openssl gnutls-bin): %w", program, err)
		}
	}
	dir, err := os.MkdirTemp("", "mooring-interop")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(dir)
	for name, pkg := range map[string]string{"mooring": "mooring/cmd/mooring", "checkproof": "./testdata/checkproof"} {
		build := exec.Command("go", "build", "-o", filepath.Join(dir, name), pkg)
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		if text, err := build.CombinedOutput(); err != nil {
			return 0, fmt.Errorf("building %s: %w\n%s", pkg, err, text)
		}
	}
	// Nothing of the person who runs the tests may help or harm: no proxy, no configuration of curl, no data directory.
	for _, name := range []string{"MOORING_DIR", "MOORING_AGENT_DIR", "http_proxy", "https_proxy", "HTTPS_PROXY", "ALL_PROXY", "all_proxy"} {
		os.Unsetenv(name)
	}
	os.Setenv("HOME", dir)
	os.Setenv("PATH", dir+string(os.PathListSeparator)+os.Getenv("PATH"))
	return run(), nil
}

// engines runs test on SQLite and, where there is one, on PostgreSQL.
func engines(t *testing.T, test func(t *testing.T, database string)) {
	t.Run("sqlite", func(t *testing.T) { test(t, "") })
	if os.Getenv("MOORING_TEST_DB") != "" {
		t.Run("postgres", func(t *testing.T) { test(t, dbtest.URL(t)) })
	}
}

// site is an installation with a server, and a folder in which commands run.
type site struct {
	dir string            // where commands run; the installation is in dir/d
	env map[string]string // of the commands
}

// addresses is what "mooring serve --ready-file" writes.
type addresses struct{ EST, API, Status, Socket string }

// newSite is a folder with the variables of doc/enrol-est.md and nothing installed. The ports are free ones, chosen before, because
// certificates carry the address of the status listener.
func newSite(t *testing.T) *site {
	dir := t.TempDir()
	return &site{dir, map[string]string{"MOORING_DIR": filepath.Join(dir, "d")}}
}

// start makes an installation and runs its server until the test ends.
func start(t *testing.T, database string) *site {
	s := newSite(t)
	if database == "" {
		s.sh(t, `mooring init -q --name Acme`)
	} else {
		s.env["DATABASE"] = database
		s.sh(t, `mooring init -q --name Acme --database "$DATABASE"`)
	}
	s.sh(t, `sed -e 's/^name: .*/name: careful/' -e 's/^approval: .*/approval: required/' d/profiles/device.yaml > d/profiles/careful.yaml`)
	s.serve(t)
	s.sh(t, `mooring ca export --root -o root.pem
curl -sSf --cacert root.pem "$EST/.well-known/est/cacerts" | openssl base64 -d | openssl pkcs7 -inform DER -print_certs -out cas.pem`)
	return s
}

// serve runs "mooring serve" on free ports.
func (s *site) serve(t *testing.T) {
	t.Helper()
	config := "name: Acme\nnames: [localhost, 127.0.0.1]\n"
	if url := s.env["DATABASE"]; url != "" {
		config += fmt.Sprintf("database: {url: %q}\n", url)
	}
	ports := freePorts(t, 3)
	config += fmt.Sprintf("listen: {est: %q, api: %q, status: %q}\n", ports[0], ports[1], ports[2])
	config += fmt.Sprintf("public_urls: {est: %q, status: %q}\n", "https://"+ports[0], "http://"+ports[2])
	s.write(t, "d/mooring.yaml", config)

	ready := filepath.Join(s.dir, "ready.json")
	server := exec.Command("mooring", "serve", "--dir", filepath.Join(s.dir, "d"), "--ready-file", ready)
	var log bytes.Buffer
	server.Stderr = &log
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- server.Wait() }()
	t.Cleanup(func() {
		_ = server.Process.Signal(os.Interrupt) // it may have ended by itself
		if err := <-ended; err != nil {
			t.Errorf("the server: %v", err)
		}
		if t.Failed() {
			t.Logf("the server's log:\n%s", &log)
		}
	})
	s.await(t, ready, ended)
}

// await waits until the server has written its addresses.
func (s *site) await(t *testing.T, ready string, ended chan error) {
	t.Helper()
	look := time.NewTicker(20 * time.Millisecond)
	defer look.Stop()
	late := time.After(time.Minute)
	for {
		if text, err := os.ReadFile(ready); err == nil {
			var a addresses
			if err := json.Unmarshal(text, &a); err != nil {
				t.Fatalf("reading %s: %v", ready, err)
			}
			s.env["EST"], s.env["API"], s.env["STATUS"] = a.EST, a.API, a.Status
			return
		}
		select {
		case err := <-ended:
			ended <- err
			t.Fatalf("the server ended before it was ready: %v", err)
		case <-late:
			t.Fatal("the server is not ready after a minute")
		case <-look.C:
		}
	}
}

// freePorts asks the system for ports.
func freePorts(t *testing.T, n int) (list []string) {
	t.Helper()
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close() // only when all are found, so that none is found twice
		list = append(list, l.Addr().String())
	}
	return list
}

func (s *site) write(t *testing.T, name, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(s.dir, name), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func (s *site) read(t *testing.T, name string) []byte {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(s.dir, name))
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// sh runs a script that must succeed, in the site's folder, and returns what it printed. Pairs "NAME=value" set variables.
func (s *site) sh(t *testing.T, script string, variables ...string) string {
	t.Helper()
	out, err := s.try(t, script, variables...)
	if err != nil {
		t.Fatalf("%v in:\n%s\nIt printed:\n%s", err, script, out)
	}
	return out
}

// try is sh for a script that may fail.
func (s *site) try(t *testing.T, script string, variables ...string) (string, error) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "bash", "-euo", "pipefail", "-c", script)
	cmd.Dir = s.dir
	cmd.Env = append(os.Environ(), variables...)
	for name, value := range s.env {
		cmd.Env = append(cmd.Env, name+"="+value)
	}
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// device registers a device and returns its token.
func (s *site) device(t *testing.T, name, profile string, flags ...string) string {
	t.Helper()
	token := s.sh(t, `mooring device add "$NAME" --profile "$PROFILE" --token -q `+strings.Join(flags, " ")+` | sed -n 's/^Token: *//p'`,
		"NAME="+name, "PROFILE="+profile)
	if token = strings.TrimSpace(token); token == "" {
		t.Fatalf("device %s got no token", name)
	}
	return token
}

// enrol registers a device of a profile and enrols it with curl and OpenSSL: NAME.key, NAME.csr (base64) and NAME.pem. key are the
// options of openssl genpkey; flags are of mooring device add.
func (s *site) enrol(t *testing.T, name, profile, key string, flags ...string) {
	t.Helper()
	token := s.device(t, name, profile, flags...)
	s.sh(t, `openssl genpkey `+key+` -out "$NAME.key" 2>/dev/null
openssl req -new -key "$NAME.key" -subj / -outform DER | openssl base64 > "$NAME.csr"
curl -sS --fail-with-body --cacert root.pem -u "$NAME:$TOKEN" -H 'Content-Type: application/pkcs10' --data-binary "@$NAME.csr" \
	"$EST/.well-known/est/simpleenroll" -o answer
openssl base64 -d -in answer | openssl pkcs7 -inform DER -print_certs -out "$NAME.pem"`, "NAME="+name, "TOKEN="+token)
}

// The keys that devices make, as options of openssl genpkey.
const (
	p256    = "-algorithm EC -pkeyopt ec_paramgen_curve:P-256"
	p384    = "-algorithm EC -pkeyopt ec_paramgen_curve:P-384"
	ed25519 = "-algorithm ED25519"
	rsa2048 = "-algorithm RSA -pkeyopt rsa_keygen_bits:2048"
	rsa3072 = "-algorithm RSA -pkeyopt rsa_keygen_bits:3072"
)
