package db_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"mooring/internal/base/db"
	"mooring/internal/base/db/dbtest"
	"mooring/internal/base/errs"
)

// limitedChild names the environment variable that makes this test program the child of TestFullDisk; it holds the database's path.
const limitedChild = "MOORING_TEST_LIMITED"

// TestFullDisk runs a child whose files may not grow, which is what a full disk looks like to it; the limit is then lifted again.
func TestFullDisk(t *testing.T) {
	path := filepath.Join(t.TempDir(), "full.db")
	c := exec.Command(os.Args[0])
	c.Env = append(os.Environ(), limitedChild+"="+path)
	out, err := c.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	d := dbtest.OpenURL(t, "sqlite:"+path, schema())
	if got, want := fmt.Sprintf("stored %d", count(t, d)), strings.TrimSpace(string(out)); got != want {
		t.Errorf("found %q after the child ended, want %q", got, want)
	}
}

func runLimited() int {
	signal.Ignore(syscall.SIGXFSZ)
	stored, err := limited(os.Getenv(limitedChild))
	if err != nil {
		fmt.Println(err)
		return 1
	}
	fmt.Printf("stored %d\n", stored)
	return 0
}

func limited(path string) (stored int, err error) {
	ctx := context.Background()
	d, err := db.Open(ctx, db.Options{URL: "sqlite:" + path, Now: time.Now})
	if err != nil {
		return 0, err
	}
	if err := d.Migrate(ctx, schema()); err != nil {
		return 0, err
	}
	put := func() error {
		err := d.Do(ctx, func(ctx context.Context, tx *db.Tx) error {
			_, err := tx.Exec(ctx, insert, 1, id(stored), 0, strings.Repeat("x", 3000))
			return err
		})
		if err == nil {
			stored++
		}
		return err
	}
	var was syscall.Rlimit
	if err := errors.Join(put(), syscall.Getrlimit(syscall.RLIMIT_FSIZE, &was)); err != nil {
		return 0, err
	}
	for round := range 3 {
		wal, err := os.Stat(path + "-wal")
		if err != nil {
			return 0, err
		}
		full := syscall.Rlimit{Cur: uint64(wal.Size()) + uint64(round)*5000, Max: was.Max}
		if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &full); err != nil {
			return 0, err
		}
		for n := 0; ; n++ {
			err := put()
			if errs.Is(err, errs.Unavailable) && d.Fault() != nil {
				break
			}
			if err != nil || n == 1000 {
				return 0, fmt.Errorf("round %d: on a full disk change %d got %v and the fault is %v", round, n, err, d.Fault())
			}
		}
		var n int
		if err := d.View(ctx, func(ctx context.Context, tx *db.Tx) error {
			_, err := tx.Get(ctx, []any{&n}, `SELECT count(*) FROM thing`)
			return err
		}); err != nil || n != stored {
			return 0, fmt.Errorf("round %d: reading on a full disk found %d of %d rows: %w", round, n, stored, err)
		}
		if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &was); err != nil {
			return 0, err
		}
		for range 10 { // every stream, also those that were in doubt
			if err := put(); err != nil || d.Fault() != nil {
				return 0, fmt.Errorf("round %d: when there was room again: %w, fault %w", round, err, d.Fault())
			}
		}
	}
	return stored, d.Close(ctx)
}

func TestFullDatabaseRecovers(t *testing.T) {
	d := dbtest.OpenURL(t, "sqlite:"+filepath.Join(t.TempDir(), "x.db"), schema())
	limit := func(pages int) {
		t.Helper()
		if err := d.Do(t.Context(), func(ctx context.Context, tx *db.Tx) error {
			_, err := tx.Exec(ctx, fmt.Sprintf("PRAGMA max_page_count = %d", pages))
			return err
		}); err != nil {
			t.Fatal(err)
		}
	}
	put := func(n int) error {
		return d.Do(t.Context(), func(ctx context.Context, tx *db.Tx) error {
			_, err := tx.Exec(ctx, insert, 1, id(n), 0, strings.Repeat("x", 3000))
			return err
		})
	}
	limit(1) // SQLite makes it as many as there are
	stored := 0
	var err error
	for ; err == nil && stored < 1000; stored++ {
		err = put(stored)
	}
	stored--
	if !errs.Is(err, errs.Unavailable) || d.Fault() == nil {
		t.Fatalf("a full database gave %v, and the fault %v", err, d.Fault())
	}
	if _, ok := errs.RetryAfter(err); !ok {
		t.Error("nothing says when to come again")
	}
	if n := count(t, d); n != stored {
		t.Errorf("%d rows, want the %d acknowledged", n, stored)
	}
	// What fails in the middle of a function is not made good by ignoring it.
	if err := d.Do(t.Context(), func(ctx context.Context, tx *db.Tx) error {
		for n := range 10 {
			_, _ = tx.Exec(ctx, insert, 2, id(n), 0, strings.Repeat("x", 3000))
		}
		_, _ = tx.Exec(ctx, insert, 3, id(0), 0, "")
		return nil
	}); !errs.Is(err, errs.Unavailable) {
		t.Errorf("got %v, want the failure that the function ignored", err)
	}
	if n := count(t, d); n != stored {
		t.Errorf("%d rows, want %d: a part of a failed change is durable", n, stored)
	}
	limit(1 << 20)
	if err := put(stored); err != nil || d.Fault() != nil {
		t.Errorf("when there was room again: %v, fault %v", err, d.Fault())
	}
}

// TestDamagedPagesAreAnErrorAndNoCrash damages pages of the tree in the middle of the file. (In what rows hold beyond a page SQLite could not
// notice it: there are no checksums. The record's tree of hashes does.)
func TestDamagedPagesAreAnErrorAndNoCrash(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.db")
	ctx := t.Context()
	d, err := db.Open(ctx, db.Options{URL: "sqlite:" + path, Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Migrate(ctx, schema()); err != nil {
		t.Fatal(err)
	}
	if err := d.Do(ctx, func(ctx context.Context, tx *db.Tx) error {
		for n := range 500 {
			if _, err := tx.Exec(ctx, insert, 1, id(n), 0, strings.Repeat("x", 300)); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if err := d.Close(ctx); err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	failed := 0
	for _, fill := range []byte{0x00, 0x01, 0x7f, 0xff} {
		damaged := append([]byte(nil), whole...)
		for i := len(damaged) / 2; i < len(damaged)/2+3*4096; i++ {
			damaged[i] = fill
		}
		other := filepath.Join(t.TempDir(), "x.db")
		if err := os.WriteFile(other, damaged, 0o600); err != nil {
			t.Fatal(err)
		}
		d := dbtest.OpenURL(t, "sqlite:"+other, schema())
		err := d.View(ctx, func(ctx context.Context, tx *db.Tx) error {
			return tx.Each(ctx, func(r db.Row) error {
				var n int64
				var b []byte
				var s string
				return r.Scan(&b, &n, &s)
			}, `SELECT id, n, note FROM thing`)
		})
		if err != nil {
			failed++
			if !errs.Is(err, errs.Unavailable) && !strings.Contains(err.Error(), "does not fit") { // what is not a page's structure is taken for a value
				t.Errorf("damage %#x: reading gave %v of kind %v", fill, err, errs.KindOf(err))
			}
		}
		err = d.Do(ctx, func(ctx context.Context, tx *db.Tx) error {
			_, err := tx.Exec(ctx, `UPDATE thing SET n = n + 1`)
			return err
		})
		if err != nil && !errs.Is(err, errs.Unavailable) {
			t.Errorf("damage %#x: writing gave %v of kind %v", fill, err, errs.KindOf(err))
		}
	}
	if failed < 3 {
		t.Errorf("only %d of 4 damages were noticed", failed)
	}
}

func TestFolderThatCannotBeWritten(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "gone")
	if err := os.Symlink(filepath.Join(dir, "loop"), dir); err != nil {
		t.Fatal(err)
	}
	if _, err := db.Open(t.Context(), db.Options{URL: "sqlite:" + filepath.Join(dir, "x.db"), Now: time.Now}); err == nil || errs.KindOf(err) == errs.Internal {
		t.Errorf("got %v of kind %v", err, errs.KindOf(err))
	}
}

func TestStoppedInstallationIsOneFile(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "x.db")
	d, err := db.Open(t.Context(), db.Options{URL: "sqlite:" + path, Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Migrate(t.Context(), schema()); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- d.Run(ctx) }()
	if err := d.Do(t.Context(), func(ctx context.Context, tx *db.Tx) error {
		_, err := tx.Exec(ctx, insert, 1, id(1), 0, "")
		return err
	}); err != nil {
		t.Fatal(err)
	}
	stop()
	if err := errors.Join(<-done, d.Close(t.Context())); err != nil {
		t.Fatal(err)
	}
	for _, rest := range []string{"-wal", "-shm"} {
		if _, err := os.Stat(path + rest); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s is left beside the database (%v)", rest, err)
		}
	}
}

// TestDriverHasTheLibraryItWasMadeFor: modernc.org/sqlite is generated code that must run with exactly the libc it was generated for.
func TestDriverHasTheLibraryItWasMadeFor(t *testing.T) {
	read := func(into any, args ...string) {
		t.Helper()
		out, err := exec.Command("go", args...).Output()
		if err == nil {
			err = json.Unmarshal(out, into)
		}
		if err != nil {
			t.Fatalf("go %s: %v", strings.Join(args, " "), err)
		}
	}
	libc := func(module string) string {
		t.Helper()
		var where struct{ GoMod string }
		read(&where, "list", "-m", "-json", module)
		var file struct {
			Require []struct{ Path, Version string }
		}
		read(&file, "mod", "edit", "-json", where.GoMod)
		for _, r := range file.Require {
			if r.Path == "modernc.org/libc" {
				return r.Version
			}
		}
		t.Fatalf("%s requires no modernc.org/libc", module)
		return ""
	}
	if ours, theirs := libc("mooring"), libc("modernc.org/sqlite"); ours != theirs {
		t.Errorf("go.mod requires modernc.org/libc %s, the SQLite driver was made for %s", ours, theirs)
	}
}
