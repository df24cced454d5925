//go:build interop

package interop

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"mooring/internal/base/db/dbtest"
	"mooring/internal/base/port"
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
	for _, program := range []string{"bash", "curl", "openssl", "certtool", "gnutls-cli", "ocsptool", "awk", "od", "softhsm2-util", "gcc"} {
		if _, err := exec.LookPath(program); err != nil {
			return 0, fmt.Errorf("these tests need %s (Debian: curl openssl gnutls-bin softhsm2 gcc libc6-dev): %w", program, err)
		}
	}
	dir, err := os.MkdirTemp("", "mooring-interop")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(dir)
	for _, p := range []struct{ name, pkg, cgo, tags string }{
		{"mooring", "mooring/cmd/mooring", "0", ""},
		{tokenProgram, "mooring/cmd/mooring", "1", "pkcs11"},
		{"checkproof", "./testdata/checkproof", "0", ""},
		{"nats-server", "github.com/nats-io/nats-server/v2", "0", ""}, // Debian's, 2.9, has no auth callout
	} {
		build := exec.Command("go", "build", "-tags", p.tags, "-o", filepath.Join(dir, p.name), p.pkg)
		build.Env = append(os.Environ(), "CGO_ENABLED="+p.cgo)
		if text, err := build.CombinedOutput(); err != nil {
			return 0, fmt.Errorf("building %s: %w\n%s", p.name, err, text)
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

// engines runs test on SQLite and, where there is one, on PostgreSQL, at the same time: most of it is waiting for programs to start and to
// ask again. Each has an address of this machine for itself.
func engines(t *testing.T, test func(t *testing.T, database string)) {
	t.Run("sqlite", func(t *testing.T) {
		t.Parallel()
		test(t, "")
	})
	if os.Getenv("MOORING_TEST_DB") != "" {
		t.Run("postgres", func(t *testing.T) {
			t.Parallel()
			test(t, dbtest.URL(t))
		})
	}
}

// site is an installation with a server, and a folder in which commands run.
type site struct {
	dir     string            // where commands run; the installation is in dir/d
	program string            // what serves; commands are those of the PATH
	env     map[string]string // of the commands and of what serves
}

// addresses is what "mooring serve --ready-file" writes.
type addresses struct{ EST, API, Status, Socket string }

// newSite is a folder with nothing installed, and a loopback address that nobody else has: so a server can be what "mooring init" makes,
// on the default ports.
func newSite(t *testing.T) *site {
	t.Helper()
	dir := t.TempDir()
	return &site{dir: dir, program: "mooring", env: map[string]string{"MOORING_DIR": filepath.Join(dir, "d"), "HOST": freeHost(t)}}
}

// initFlags say where the server of a site is to be found, and which database it has; "" is the default one.
func (s *site) initFlags(database string) string {
	if database == "" {
		return `--host "$HOST" --listen "$HOST"`
	}
	s.env["DATABASE"] = database
	return `--host "$HOST" --listen "$HOST" --database "$DATABASE"`
}

// start makes an installation and runs its server until the test ends. root.pem and cas.pem are its CAs.
func start(t *testing.T, database string) *site {
	t.Helper()
	s := newSite(t)
	s.sh(t, `mooring init -q --name Acme `+s.initFlags(database))
	s.serve(t)
	s.sh(t, `mooring ca export --root -o root.pem
curl -sSf --cacert root.pem "$EST/.well-known/est/cacerts" | openssl base64 -d | openssl pkcs7 -inform DER -print_certs -out cas.pem`)
	return s
}

// serveLog is the file in a site's folder with what the server has logged.
const serveLog = "serve.log"

// serve runs "mooring serve" until the test ends or the result is called.
func (s *site) serve(t *testing.T) (stop func()) {
	t.Helper()
	ready := filepath.Join(s.dir, "ready.json")
	server := exec.Command(s.program, "serve", "--dir", filepath.Join(s.dir, "d"), "--ready-file", ready)
	server.Env = s.environ()
	log, err := os.OpenFile(filepath.Join(s.dir, serveLog), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = log.Close() }) // it was written by the server
	server.Stderr = log
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- server.Wait() }()
	stop = sync.OnceFunc(func() {
		_ = server.Process.Signal(os.Interrupt) // it may have ended by itself
		if err := <-ended; err != nil {
			t.Errorf("the server: %v", err)
		}
		if t.Failed() {
			t.Logf("the server's log:\n%s", s.read(t, serveLog))
		}
	})
	t.Cleanup(stop)
	s.await(t, ready, ended)
	return stop
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

// freeHost returns an address of this machine, of 127.0.0.0/8, on which the default ports are free.
func freeHost(t *testing.T) string {
	t.Helper()
	for range 20 {
		host := fmt.Sprintf("127.%d.%d.%d", 1+rand.IntN(254), rand.IntN(256), 1+rand.IntN(254))
		if isFree(host, "8443") && isFree(host, "9443") && isFree(host, "8080") {
			return host
		}
	}
	t.Fatal("no address of 127.0.0.0/8 has the ports 8443, 9443 and 8080 free: is there a server that listens on all addresses?")
	return ""
}

func isFree(host, port string) bool {
	l, err := net.Listen("tcp", net.JoinHostPort(host, port))
	return err == nil && l.Close() == nil
}

// freePort is a port for a program besides.
func freePort(t *testing.T) string {
	t.Helper()
	free, err := port.Free(1)
	if err != nil {
		t.Fatal(err)
	}
	return strconv.Itoa(int(free[0].Port()))
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

// environ is the environment of the commands and of what serves.
func (s *site) environ() []string {
	list := os.Environ()
	for name, value := range s.env {
		list = append(list, name+"="+value)
	}
	return list
}

// try is sh for a script that may fail.
func (s *site) try(t *testing.T, script string, variables ...string) (string, error) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "bash", "-euo", "pipefail", "-c", script)
	cmd.Dir = s.dir
	cmd.Env = append(s.environ(), variables...)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// device registers a device and returns its token.
func (s *site) device(t *testing.T, name, profile string, flags ...string) string {
	t.Helper()
	token := s.sh(t, `mooring device add "$NAME" --profile "$PROFILE" --token -q `+strings.Join(flags, " "),
		"NAME="+name, "PROFILE="+profile)
	if token = strings.TrimSpace(token); token == "" {
		t.Fatalf("device %s got no token", name)
	}
	return token
}

// enrol registers a device of a profile and enrols it with curl and OpenSSL: NAME.key, NAME.csr (base64) and NAME.pem. key are the
// options of openssl genpkey; flags are of mooring device add. It returns the token, which is used now.
func (s *site) enrol(t *testing.T, name, profile, key string, flags ...string) (token string) {
	t.Helper()
	token = s.device(t, name, profile, flags...)
	s.sh(t, `openssl genpkey `+key+` -out "$NAME.key" 2>/dev/null
openssl req -new -key "$NAME.key" -subj / -outform DER | openssl base64 > "$NAME.csr"
curl -sS --fail-with-body --cacert root.pem -u "$NAME:$TOKEN" -H 'Content-Type: application/pkcs10' --data-binary "@$NAME.csr" \
	"$EST/.well-known/est/simpleenroll" -o answer
openssl base64 -d -in answer | openssl pkcs7 -inform DER -print_certs -out "$NAME.pem"`, "NAME="+name, "TOKEN="+token)
	return token
}
