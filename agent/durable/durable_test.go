package durable_test

import (
	"os"
	"path/filepath"
	"testing"

	"mooring/agent/durable"
)

func TestWriteFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "key.pem")
	if err := os.WriteFile(path, []byte("old, and longer"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := durable.WriteFile(path, []byte("new"), 0o600); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(path)
	if err != nil || string(data) != "new" {
		t.Errorf("content %q, %v; want %q", data, err, "new")
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v; want 0600", info.Mode(), err)
	}
	onlyEntry(t, path)
}

func TestWriteFileKeepsTheOldOneWhenItFails(t *testing.T) {
	path := filepath.Join(t.TempDir(), "folder")
	if err := durable.Mkdir(filepath.Join(path, "below")); err != nil {
		t.Fatal(err)
	}
	if err := durable.WriteFile(path, []byte("x"), 0o600); err == nil {
		t.Error("a folder was replaced by a file")
	}
	if _, err := os.Stat(filepath.Join(path, "below")); err != nil {
		t.Error(err)
	}
}

func TestTidy(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"kept", ".unfinished-123"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := durable.Tidy(dir); err != nil {
		t.Fatal(err)
	}
	onlyEntry(t, filepath.Join(dir, "kept"))
	if err := durable.Tidy(filepath.Join(dir, "absent")); err != nil {
		t.Errorf("absent folder: %v", err)
	}
}

func TestPoint(t *testing.T) {
	path := filepath.Join(t.TempDir(), "current")
	if err := os.Symlink("left over from a crash", path+".new"); err != nil {
		t.Fatal(err)
	}
	for _, target := range []string{"gen/1", "gen/2"} {
		if err := durable.Point(path, target); err != nil {
			t.Fatal(err)
		}
		if got, err := os.Readlink(path); err != nil || got != target {
			t.Errorf("link to %q, %v; want %q", got, err, target)
		}
	}
	onlyEntry(t, path)
}

func onlyEntry(t *testing.T, path string) {
	t.Helper()
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(entries) != 1 || entries[0].Name() != filepath.Base(path) {
		t.Errorf("folder holds %v, %v; want only %s", entries, err, filepath.Base(path))
	}
}
