package gate

import (
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"mooring/internal/base/conf"
	"mooring/internal/base/errs"
	"mooring/internal/core/access"
)

func socketOptions(t *testing.T) Options {
	t.Helper()
	dir, err := os.MkdirTemp("", "gate") // t.TempDir can be too long for a socket's address
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return Options{Name: "socket", Address: filepath.Join(dir, "m.sock"), Limits: conf.Default().Limits, Now: time.Now, Log: slog.New(slog.DiscardHandler)}
}

func TestSocketKnowsItsUser(t *testing.T) {
	o := socketOptions(t)
	gate, err := ListenSocket(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(o.Address); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v, want 0600", info.Mode(), err)
	}
	var seen atomic.Pointer[Peer]
	s := &setup{gate: gate, ended: make(chan error, 1)}
	s.serve(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { p, _ := PeerFrom(r); seen.Store(p) }))
	c, err := net.Dial("unix", o.Address)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := get(t, c); err != nil {
		t.Fatal(err)
	}
	want := access.Actor{Kind: access.KindLocal, ID: "uid=" + strconv.Itoa(os.Getuid()), Role: access.RoleAdmin, Via: "socket"}
	if got, ok := seen.Load().Local(); !ok || got != want || seen.Load().Bindings() != nil || seen.Load().Address().IsValid() {
		t.Errorf("got %+v, %v, want %+v", got, ok, want)
	}
	if _, err := ListenSocket(t.Context(), o); !errs.Is(err, errs.Conflict) || !strings.Contains(err.Error(), "another server answers") {
		t.Errorf("second server: %v", err)
	}
	s.stop()
	until(t, "the socket is gone", func() bool { _, err := os.Stat(o.Address); return err != nil })
}

func TestOnlyOwnerAndRootAreAdministrators(t *testing.T) {
	for _, row := range []struct {
		uid    uint32
		server int
		want   access.Role
	}{{1000, 1000, access.RoleAdmin}, {0, 1000, access.RoleAdmin}, {1001, 1000, access.RoleNone}, {1000, 0, access.RoleNone}} {
		if got := actorOf(row.uid, row.server); got.Role != row.want || got.Kind != access.KindLocal {
			t.Errorf("uid %d on a server of %d: %+v, want role %q", row.uid, row.server, got, row.want)
		}
	}
}

func TestLeftOverSocketIsReplacedAndOtherFilesAreNot(t *testing.T) {
	o := socketOptions(t)
	dead, err := net.Listen("unix", o.Address)
	if err != nil {
		t.Fatal(err)
	}
	dead.(*net.UnixListener).SetUnlinkOnClose(false)
	dead.Close()
	o.Mode = 0o660
	gate, err := ListenSocket(t.Context(), o)
	if err != nil {
		t.Fatalf("with a left-over socket: %v", err)
	}
	if info, err := os.Stat(o.Address); err != nil || info.Mode().Perm() != 0o660 {
		t.Errorf("mode %v, %v, want 0660", info.Mode(), err)
	}
	gate.Close()

	if err := os.WriteFile(o.Address, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := ListenSocket(t.Context(), o); !errs.Is(err, errs.Conflict) {
		t.Errorf("with a file at the path: %v", err)
	}
	if data, err := os.ReadFile(o.Address); string(data) != "precious" {
		t.Errorf("the file is now %q, %v", data, err)
	}
}

func TestSocketOptionsAreChecked(t *testing.T) {
	for name, change := range map[string]func(*Options){
		"long path":  func(o *Options) { o.Address = "/" + strings.Repeat("a", maxPath) },
		"empty path": func(o *Options) { o.Address = "" },
		"open mode":  func(o *Options) { o.Mode = 0o666 },
		"TLS":        func(o *Options) { o.TLS = &TLS{} },
	} {
		o := socketOptions(t)
		change(&o)
		if _, err := ListenSocket(t.Context(), o); !errs.Is(err, errs.Invalid) {
			t.Errorf("%s: %v, want Invalid", name, err)
		}
	}
}
