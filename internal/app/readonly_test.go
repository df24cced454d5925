//go:build unix

package app_test

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"mooring/internal/app"
	"mooring/internal/app/apptest"
	"mooring/internal/base/errs"
)

// startChild starts and says what a person would read.
func startChild(ctx context.Context, dir string) error {
	p, err := load(ctx, dir, app.Build)
	if err != nil {
		return errors.New(errs.Public(err))
	}
	return p.Close()
}

// TestReadOnly starts as a user who may not write. No permission stops root, so root lets somebody else try.
func TestReadOnly(t *testing.T) {
	ofFiles(t)
	c, _ := apptest.Init(t, &apptest.Clock{}, &apptest.Log{}, onSQLite)
	for _, row := range []struct {
		name  string
		spoil map[string]os.FileMode
		want  string
	}{
		{"nothing", nil, ""},
		{"directory", map[string]os.FileMode{"": 0o500, "mooring.db.lock": 0o400}, "the lock file DIR/mooring.db.lock cannot be written (permissions, read-only or full disk?)"},
		{"database", map[string]os.FileMode{"mooring.db": 0o400}, "the database DIR/mooring.db cannot be opened for writing (permissions, read-only or full disk?)"},
		{"unreadable database", map[string]os.FileMode{"mooring.db": 0}, "the database DIR/mooring.db cannot be opened for writing (permissions, read-only or full disk?)"},
		{"unreadable configuration", map[string]os.FileMode{"mooring.yaml": 0}, "the configuration DIR/mooring.yaml cannot be read"},
		{"unreadable key", map[string]os.FileMode{"keys/store.json": 0}, "DIR/keys/store.json cannot be read: check that it exists and is yours, or restore it from a backup"},
		{"unreadable unlock file", map[string]os.FileMode{"keys/unlock": 0}, "DIR/keys/unlock cannot be read: check that it exists and is yours, or restore it from a backup"},
	} {
		t.Run(row.name, func(t *testing.T) {
			dir := copyOf(t, c.Dir)
			for path, mode := range row.spoil {
				must(t, os.Chmod(filepath.Join(dir, path), mode))
			}
			t.Cleanup(func() { must(t, os.Chmod(dir, 0o700)) })
			cmd := asOrdinaryUser(t, dir)
			cmd.Env = append(os.Environ(), child+"=start", childDir+"="+dir)
			out, err := cmd.CombinedOutput()
			text := strings.ReplaceAll(strings.TrimSpace(string(out)), dir, "DIR")
			if (err == nil) != (row.want == "") || text != row.want {
				t.Errorf("got %v: %q, want %q", err, text, row.want)
			}
		})
	}
}

// asOrdinaryUser returns this test binary as a command that is not run by root, and gives dir to whoever runs it.
func asOrdinaryUser(t *testing.T, dir string) *exec.Cmd {
	t.Helper()
	if os.Geteuid() != 0 {
		return exec.CommandContext(t.Context(), os.Args[0])
	}
	const nobody = 65534
	binary := filepath.Join(t.TempDir(), "test")
	text, err := os.ReadFile(os.Args[0])
	must(t, err)
	must(t, os.WriteFile(binary, text, 0o755))
	for _, path := range []string{dir, binary} { // the test's own folders are closed to others
		for up := filepath.Dir(path); up != filepath.Clean(os.TempDir()) && up != "/"; up = filepath.Dir(up) {
			must(t, os.Chmod(up, 0o755))
		}
	}
	must(t, filepath.WalkDir(dir, func(path string, _ os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Chown(path, nobody, nobody)
	}))
	cmd := exec.CommandContext(t.Context(), binary)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	return cmd
}
