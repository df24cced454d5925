package db_test

import (
	"context"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"mooring/internal/base/db"
)

// TestFilesAreTheOwners: a database may lie in a folder that others may enter, and holds who owns which device.
func TestFilesAreTheOwners(t *testing.T) {
	if runtime.GOOS == "windows" {
		return // its modes say nothing
	}
	dir := t.TempDir()
	d, err := db.Open(t.Context(), db.Options{URL: "sqlite:" + filepath.Join(dir, "a.db"), Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := d.Close(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
	}()
	if err := d.Migrate(t.Context(), schema()); err != nil {
		t.Fatal(err)
	}
	files, err := os.ReadDir(dir)
	if err != nil || len(files) < 4 { // the database, its log, its shared memory, its lock
		t.Fatalf("the folder holds %v, %v", files, err)
	}
	for _, f := range files {
		info, err := f.Info()
		if err != nil {
			t.Fatal(err)
		}
		if mode := info.Mode(); mode&fs.ModePerm&^0o600 != 0 {
			t.Errorf("%s has the mode %s: others may use it", f.Name(), mode)
		}
	}
}
