package db_test

import (
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"mooring/internal/base/db"
)

// TestUnlock: who has closed the database can open it again at once, also while a copy of the lock's descriptor is about. A program that is being started has one
// until it runs, and a lock belongs to all copies together.
func TestUnlock(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.db")
	for range 2 {
		d, err := db.Open(t.Context(), db.Options{URL: "sqlite:" + path, Now: time.Now, Node: "test"})
		if err != nil {
			t.Fatal(err)
		}
		copied := duplicate(t, path+".lock")
		defer syscall.Close(copied)
		if err := d.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}

// duplicate returns a copy of the descriptor by which this process has a file open.
func duplicate(t *testing.T, path string) int {
	t.Helper()
	open, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range open {
		var fd int
		if to, err := os.Readlink("/proc/self/fd/" + e.Name()); err != nil || to != path {
			continue
		}
		if _, err := fmt.Sscan(e.Name(), &fd); err != nil {
			t.Fatal(err)
		}
		if fd, err = syscall.Dup(fd); err != nil {
			t.Fatal(err)
		}
		return fd
	}
	t.Fatalf("%s is not open", path)
	return -1
}
