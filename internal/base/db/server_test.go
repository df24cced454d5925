package db_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"mooring/internal/base/port"
)

// postgres is a PostgreSQL server of this test's own, in a folder of its own on a free loopback port.
type postgres struct {
	bin, dir string
	port     int
	cmd      *exec.Cmd
}

// servers starts one server for all tests of the package, on demand; TestMain stops it.
type servers struct {
	once sync.Once
	own  *postgres
	err  error
}

var shared servers

func TestMain(m *testing.M) {
	if os.Getenv(limitedChild) != "" {
		os.Exit(runLimited())
	}
	code := m.Run()
	if shared.own != nil {
		shared.own.remove()
	}
	os.Exit(code)
}

// ownServer returns the server. Where none is installed the test is not for this machine, unless MOORING_REQUIRE_PG=1 says otherwise.
func ownServer(t *testing.T) *postgres {
	t.Helper()
	bin := findServer()
	if bin == "" {
		if os.Getenv("MOORING_REQUIRE_PG") == "1" {
			t.Fatal("MOORING_REQUIRE_PG=1, and no initdb was found")
		}
		t.Skip("this machine has no PostgreSQL server (initdb)")
	}
	shared.once.Do(func() { shared.own, shared.err = newServer(bin) })
	if shared.err != nil {
		t.Fatal(shared.err)
	}
	return shared.own
}

// onPostgres makes dbtest use PostgreSQL: the one of MOORING_TEST_DB, or the package's own.
func onPostgres(t *testing.T) {
	t.Helper()
	if os.Getenv("MOORING_TEST_DB") == "" {
		t.Setenv("MOORING_TEST_DB", ownServer(t).url())
	}
}

func findServer() string {
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/initdb") // the pattern is well formed
	slices.Sort(found)
	if len(found) > 0 {
		return filepath.Dir(found[len(found)-1])
	}
	path, err := exec.LookPath("initdb")
	if err != nil {
		return ""
	}
	if real, err := filepath.EvalSymlinks(path); err == nil {
		path = real
	}
	return filepath.Dir(path)
}

func newServer(bin string) (*postgres, error) {
	dir, err := os.MkdirTemp("", "mooring-db-")
	if err != nil {
		return nil, err
	}
	p := &postgres{bin: bin, dir: dir}
	data := filepath.Join(dir, "data")
	err = errors.Join(os.Chmod(dir, 0o755), os.Mkdir(data, 0o700))
	if c := serverUser(); err == nil && c != nil {
		err = os.Chown(data, int(c.Uid), int(c.Gid))
	}
	if err == nil {
		out, initErr := p.command("initdb", "-D", data, "-A", "trust", "-U", "postgres", "-E", "UTF8", "--no-locale", "-N").CombinedOutput()
		if initErr != nil {
			err = fmt.Errorf("initdb: %w: %s", initErr, out)
		}
	}
	var free []netip.AddrPort
	if err == nil {
		free, err = port.Free(1)
	}
	if err == nil {
		p.port = int(free[0].Port())
		err = p.start()
	}
	if err != nil {
		p.remove()
		return nil, err
	}
	return p, nil
}

// serverUser is somebody unprivileged when this is root, since PostgreSQL refuses root.
func serverUser() *syscall.Credential {
	if os.Getuid() != 0 {
		return nil
	}
	for _, name := range []string{"postgres", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, _ := strconv.ParseUint(u.Uid, 10, 32) // numbers on every Unix
		gid, _ := strconv.ParseUint(u.Gid, 10, 32)
		return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
	}
	return nil
}

func (p *postgres) command(name string, args ...string) *exec.Cmd {
	c := exec.Command(filepath.Join(p.bin, name), args...)
	c.Dir = p.dir
	c.Env = append(os.Environ(), "HOME=/tmp", "LC_ALL=C")
	c.SysProcAttr = &syscall.SysProcAttr{Credential: serverUser()}
	return c
}

func (p *postgres) url() string {
	return fmt.Sprintf("postgres://postgres@127.0.0.1:%d/postgres?sslmode=disable", p.port)
}

// start starts the server and waits until it answers. After a kill the first tries may find what its dead children still hold.
func (p *postgres) start() error {
	data := filepath.Join(p.dir, "data")
	var answer error
	for end := time.Now().Add(time.Minute); time.Now().Before(end); {
		p.cmd = p.command("postgres", "-D", data, "-c", "listen_addresses=127.0.0.1", "-c", "port="+strconv.Itoa(p.port),
			"-c", "unix_socket_directories="+data, "-c", "fsync=on", "-c", "max_connections=200", "-c", "logging_collector=on")
		if err := p.cmd.Start(); err != nil {
			return err
		}
		gone := make(chan struct{})
		go func(c *exec.Cmd) { defer close(gone); _ = c.Wait() }(p.cmd)
		for alive := true; alive; {
			if answer = p.ping(); answer == nil {
				return nil
			}
			select {
			case <-gone:
				alive = false
			case <-time.After(20 * time.Millisecond):
			}
		}
	}
	return fmt.Errorf("the server did not start: %w", answer)
}

func (p *postgres) ping() error {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	c, err := pgx.Connect(ctx, p.url())
	if err != nil {
		return err
	}
	return c.Close(ctx)
}

// kill ends the server and its children at once, as a crash of the machine would.
func (p *postgres) kill() {
	pid := p.cmd.Process.Pid
	// Linux only; elsewhere the children end by themselves when they notice.
	text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	_ = p.cmd.Process.Kill()
	for _, child := range strings.Fields(string(text)) {
		if n, err := strconv.Atoi(child); err == nil {
			_ = syscall.Kill(n, syscall.SIGKILL)
		}
	}
}

func (p *postgres) remove() {
	if p.cmd != nil && p.cmd.Process != nil {
		p.kill()
	}
	_ = os.RemoveAll(p.dir)
}
