package app_test

import (
	"bytes"
	"database/sql"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"mooring/internal/app"
	"mooring/internal/app/apptest"
	"mooring/internal/base/conf"
	"mooring/internal/base/errs"
	"mooring/internal/core/access"
	"mooring/internal/core/audit"
)

// onSQLite keeps an installation in a file also where the tests run on PostgreSQL: what goes wrong with files is what is tested.
func onSQLite(c *conf.Config) { c.Database.URL = "sqlite:mooring.db" }

// ofFiles skips a test that looks into the files of SQLite, or breaks them, where the tests run on PostgreSQL: the same was run without.
func ofFiles(t *testing.T) {
	t.Helper()
	if os.Getenv("MOORING_TEST_DB") != "" {
		t.Skip("this is about the files of SQLite: run it without MOORING_TEST_DB")
	}
}

// copyOf returns a copy of the installation in dir. Nothing in it knows where it lies.
func copyOf(t *testing.T, dir string) string {
	t.Helper()
	to := filepath.Join(t.TempDir(), "data")
	must(t, os.CopyFS(to, os.DirFS(dir)))
	must(t, filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error { // CopyFS is generous with permissions
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		return os.Chmod(filepath.Join(to, strings.TrimPrefix(path, dir)), info.Mode().Perm())
	}))
	return to
}

func edit(t *testing.T, path string, change func(string) string) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(change(string(text))), 0o600); err != nil {
		t.Fatal(err)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// TestCannotStart: each obstacle is told in one text that says what to do, and leaves nothing open: without it the start succeeds.
func TestCannotStart(t *testing.T) {
	ofFiles(t)
	c, _ := apptest.Init(t, &apptest.Clock{}, &apptest.Log{}, onSQLite)
	for _, row := range []struct {
		name  string
		spoil func(t *testing.T, dir string)
		kind  errs.Kind
		want  string // DIR stands for the directory
	}{
		{"unknown key", func(t *testing.T, dir string) {
			edit(t, filepath.Join(dir, "mooring.yaml"), func(string) string { return "name: Fleet\nlisten:\n  esst: 127.0.0.1:0\n" })
		}, errs.Invalid, `mooring.yaml:3: unknown key "listen.esst" (did you mean "listen.est"?)`},
		{"wrong type", func(t *testing.T, dir string) {
			edit(t, filepath.Join(dir, "mooring.yaml"), func(string) string { return "names: 7\nlimits:\n  connections: many\n" })
		}, errs.Invalid, `mooring.yaml:1: names wants a list of DNS names and IP addresses, such as ["pki.example.com", "192.0.2.7"], not the number 7` + "\n" +
			"mooring.yaml:3: limits.connections wants a whole number, such as 20000, not a text"},
		{"not YAML", func(t *testing.T, dir string) {
			edit(t, filepath.Join(dir, "mooring.yaml"), func(string) string { return "name: [\n" })
		}, errs.Invalid, "mooring.yaml:1: is not YAML"},
		{"no configuration", func(t *testing.T, dir string) { must(t, os.Remove(filepath.Join(dir, "mooring.yaml"))) },
			errs.NotFound, "no configuration at DIR/mooring.yaml: set MOORING_DIR or --dir to the directory of an installation, or make one there by mooring init"},
		{"no profiles", func(t *testing.T, dir string) { must(t, os.RemoveAll(filepath.Join(dir, "profiles"))) },
			errs.NotFound, "the directory of the profiles, DIR/profiles, cannot be read: set profiles.dir, or run mooring init"},
		{"a wrong profile", func(t *testing.T, dir string) {
			edit(t, filepath.Join(dir, "profiles", "device.yaml"), func(s string) string { return strings.Replace(s, "validity: 90d", "validity: soon", 1) })
		}, errs.Invalid, "profiles/device.yaml:21: \"soon\" is not a time: use a whole number and s, m, h, d, w or y, such as 90d"},
		{"no unlock file", func(t *testing.T, dir string) { must(t, os.Remove(filepath.Join(dir, "keys", "unlock"))) },
			errs.Unavailable, "DIR/keys/unlock cannot be read: check that it exists and is yours, or restore it from a backup"},
		{"wrong passphrase", func(t *testing.T, dir string) {
			edit(t, filepath.Join(dir, "keys", "unlock"), func(string) string { return "another secret\n" })
		}, errs.Denied, "the unlock material is wrong for this key store: use that with which it was made"},
		{"unlock file for everybody", func(t *testing.T, dir string) { must(t, os.Chmod(filepath.Join(dir, "keys", "unlock"), 0o644)) },
			errs.Unavailable, "DIR/keys/unlock has mode 0644, which lets other users at it: run chmod 0600 DIR/keys/unlock"},
		{"key directory for everybody", func(t *testing.T, dir string) { must(t, os.Chmod(filepath.Join(dir, "keys"), 0o755)) },
			errs.Unavailable, "DIR/keys has mode 0755, which lets other users at it: run chmod 0700 DIR/keys"},
		{"no key directory", func(t *testing.T, dir string) {
			must(t, os.Rename(filepath.Join(dir, "keys"), filepath.Join(dir, "gone")))
		},
			errs.Unavailable, "DIR/keys/unlock cannot be read: check that it exists and is yours, or restore it from a backup"},
		{"damaged key store", func(t *testing.T, dir string) {
			edit(t, filepath.Join(dir, "keys", "store.json"), func(s string) string { return strings.Replace(s, `"salt": "`, `"salt": "00`, 1) })
		}, errs.Unavailable, "store.json is damaged: restore it from a backup"},
		{"a directory in place of the database", func(t *testing.T, dir string) {
			must(t, os.Remove(filepath.Join(dir, "mooring.db")))
			must(t, os.Mkdir(filepath.Join(dir, "mooring.db"), 0o700))
		}, errs.Unavailable, "the database DIR/mooring.db cannot be opened for writing (permissions, read-only or full disk?)"},
		{"a directory in place of the lock file", func(t *testing.T, dir string) {
			must(t, os.RemoveAll(filepath.Join(dir, "mooring.db.lock")))
			must(t, os.Mkdir(filepath.Join(dir, "mooring.db.lock"), 0o700))
		}, errs.Unavailable, "the lock file DIR/mooring.db.lock cannot be written (permissions, read-only or full disk?)"},
		{"no folder for the database", func(t *testing.T, dir string) {
			edit(t, filepath.Join(dir, "mooring.yaml"), func(string) string { return "database:\n  url: sqlite:data/mooring.db\n" })
		}, errs.Invalid, "the folder of the database DIR/data/mooring.db cannot be used; create it, or run mooring init"},
		{"not a database", func(t *testing.T, dir string) {
			must(t, os.WriteFile(filepath.Join(dir, "mooring.db"), bytes.Repeat([]byte("not a database "), 1000), 0o600))
		}, errs.Invalid, "the database DIR/mooring.db is damaged or is not an SQLite database; restore it from a backup"},
		{"damaged database", func(t *testing.T, dir string) { scribble(t, filepath.Join(dir, "mooring.db"), 4096) },
			errs.Invalid, "the database DIR/mooring.db is damaged or is not an SQLite database; restore it from a backup"},
		{"cut database", func(t *testing.T, dir string) { must(t, os.Truncate(filepath.Join(dir, "mooring.db"), 5000)) },
			errs.Invalid, "the database DIR/mooring.db is damaged or is not an SQLite database; restore it from a backup"},
		{"database of a newer release", func(t *testing.T, dir string) {
			change(t, dir, `UPDATE version_audit SET version_id = 99 WHERE version_id = 1`)
		}, errs.Conflict, "the database is of a newer release (audit has version 99, this program knows "},
		{"port in use", func(t *testing.T, dir string) {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			must(t, err)
			t.Cleanup(func() { must(t, l.Close()) })
			edit(t, filepath.Join(dir, "mooring.yaml"), func(s string) string { return strings.Replace(s, c.Listen.EST, l.Addr().String(), 1) })
		}, errs.Unavailable, "for est: another program has this address; stop it or change listen.est"},
		{"an address of another machine", func(t *testing.T, dir string) {
			edit(t, filepath.Join(dir, "mooring.yaml"), func(s string) string { return strings.Replace(s, c.Listen.EST, "192.0.2.1:8443", 1) })
		}, errs.Unavailable, "cannot listen on 192.0.2.1:8443 for est: this machine has no such address; change listen.est"},
	} {
		t.Run(row.name, func(t *testing.T) {
			dir := copyOf(t, c.Dir)
			row.spoil(t, dir)
			p, err := load(t.Context(), dir, app.Build)
			if err == nil {
				must(t, p.Close())
				t.Fatal("the platform starts all the same")
			}
			text := strings.ReplaceAll(errs.Public(err), dir, "DIR")
			if errs.KindOf(err) != row.kind || !strings.Contains(text, row.want) {
				t.Errorf("got %s %q (%v), want %s %q", errs.KindOf(err), text, err, row.kind, row.want)
			}
		})
	}
	t.Run("nothing wrong", func(t *testing.T) {
		dir := copyOf(t, c.Dir)
		p, err := load(t.Context(), dir, app.Build)
		must(t, err)
		if _, err := load(t.Context(), dir, app.Build); !errs.Is(err, errs.Conflict) || !strings.Contains(errs.Public(err), fmt.Sprintf("the database is in use by process %d; stop it, or talk to it", os.Getpid())) {
			t.Errorf("a second process: got %v", err)
		}
		must(t, p.Close())
		p, err = load(t.Context(), dir, app.Build)
		must(t, err)
		must(t, p.Close())
	})
}

// scribble overwrites what follows the first page's header in the file.
func scribble(t *testing.T, path string, from int64) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	must(t, err)
	size, err := f.Seek(0, io.SeekEnd)
	must(t, err)
	_, err = f.WriteAt(bytes.Repeat([]byte{0xa5}, int(size-from)), from)
	must(t, err)
	must(t, f.Close())
}

// change runs a statement in the database of a stopped installation, by the driver that package db registers.
func change(t *testing.T, dir, statement string, args ...any) {
	t.Helper()
	d, err := sql.Open("sqlite", "file:"+filepath.Join(dir, "mooring.db"))
	must(t, err)
	result, err := d.Exec(statement, args...)
	must(t, err)
	if n, err := result.RowsAffected(); err != nil || n < 1 {
		t.Fatalf("%s: %d rows, %v", statement, n, err)
	}
	must(t, d.Close())
}

// TestClockBehind: a clock that lies before the record would issue certificates that were never valid.
func TestClockBehind(t *testing.T) {
	clock := &apptest.Clock{}
	c, _ := apptest.Init(t, clock, &apptest.Log{}, nil)
	clock.Move(-time.Hour)
	_, err := app.Build(t.Context(), app.Options{Config: c, Now: clock.Now})
	text := errs.Public(err)
	if !errs.Is(err, errs.Unavailable) || !strings.HasPrefix(text, "the clock says "+clock.Now().UTC().Format("2006-01-02T15:04")) || !strings.HasSuffix(text, ": set the clock, then start again") {
		t.Errorf("got %v", err)
	}
	clock.Move(time.Hour - 30*time.Second) // what two machines may differ
	p, err := app.Build(t.Context(), app.Options{Config: c, Now: clock.Now})
	must(t, err)
	must(t, p.Close())
}

// TestInitOnce: Init touches nothing that exists, and leaves nothing behind when it fails.
func TestInitOnce(t *testing.T) {
	c, made := apptest.Init(t, &apptest.Clock{}, &apptest.Log{}, nil)
	again := func(dir string, config *conf.Config) error {
		_, err := app.Init(t.Context(), app.InitOptions{Dir: dir, Config: config})
		return err
	}
	before := listing(t, made.Dir)
	err := again(made.Dir, nil)
	want := fmt.Sprintf("%s holds an installation already; nothing was changed. Start it with mooring serve --dir %s", made.Dir, made.Dir)
	if !errs.Is(err, errs.Conflict) || errs.Public(err) != want || listing(t, made.Dir) != before {
		t.Errorf("got %v, want %q", err, want)
	}

	other := t.TempDir()
	must(t, os.WriteFile(filepath.Join(other, "mine"), []byte("x"), 0o600))
	if err := again(other, nil); !errs.Is(err, errs.Conflict) || errs.Public(err) != other+" is not empty; nothing was changed. Choose another directory" {
		t.Errorf("a directory in use: got %v", err)
	}
	if listing(t, other) != "mine 1\n" {
		t.Errorf("a directory in use now holds %s", listing(t, other))
	}

	// A failure half-way: the database cannot be made.
	broken := *c
	broken.Database.URL = "sqlite:nowhere/mooring.db"
	fresh := filepath.Join(t.TempDir(), "new")
	if err := again(fresh, &broken); err == nil {
		t.Error("an installation without a database was made")
	}
	if _, err := os.Stat(fresh); !os.IsNotExist(err) {
		t.Errorf("the failed installation left %s", listing(t, fresh))
	}
	empty := t.TempDir()
	if err := again(empty, &broken); err == nil || listing(t, empty) != "" {
		t.Errorf("in an empty directory: got %v and %q, want it empty again", err, listing(t, empty))
	}

	// A database that somebody uses.
	taken := *c
	if taken.Database.URL == "sqlite:mooring.db" {
		taken.Database.URL = "sqlite:" + filepath.Join(made.Dir, "mooring.db")
	}
	if err := again(fresh, &taken); !errs.Is(err, errs.Conflict) || errs.Public(err) != "the database holds an installation already; it was left alone. Choose an empty one in database.url" {
		t.Errorf("a database in use: got %v", err)
	}
	if _, err := os.Stat(fresh); !os.IsNotExist(err) {
		t.Errorf("the refused installation left %s", listing(t, fresh))
	}
	p, err := app.Open(t.Context(), app.Options{Config: c})
	must(t, err)
	report, err := p.Audit.Verify(t.Context(), audit.VerifyOptions{Checkers: p.Checkers()})
	if err != nil || len(report.Findings) > 0 {
		t.Errorf("the first installation afterwards: %v, %v", report.Findings, err)
	}
	must(t, p.Close())

	for path, mode := range map[string]os.FileMode{"": 0o700, "keys": 0o700, "keys/unlock": 0o600, "operator": 0o700, "operator/key.pem": 0o600, "mooring.yaml": 0o600} {
		if info, err := os.Stat(filepath.Join(made.Dir, path)); err != nil || info.Mode().Perm() != mode {
			t.Errorf("%q: %v, %v, want the mode %v", path, info, err, mode)
		}
	}
}

func listing(t *testing.T, dir string) string {
	t.Helper()
	var b strings.Builder
	must(t, filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		fmt.Fprintf(&b, "%s %d\n", strings.TrimPrefix(path, dir+"/"), info.Size())
		return err
	}))
	return b.String()
}

// TestNamesFollowConfiguration: the listeners' certificate has the names that are configured now.
func TestNamesFollowConfiguration(t *testing.T) {
	p := apptest.Start(t, nil)
	p.Config.Names = []string{"localhost", "pki.example.com", "192.0.2.7"}
	p.Restart(t)
	leaf := p.Dial(t, p.TLS(nil)).ConnectionState().PeerCertificates[0]
	for _, name := range p.Config.Names {
		if err := leaf.VerifyHostname(name); err != nil {
			t.Error(err)
		}
	}
	d, err := p.Devices.Get(t.Context(), access.System("test"), "mooring")
	must(t, err)
	if d.Issued != 2 {
		t.Errorf("the platform was issued %d certificates, want one for each start", d.Issued)
	}
}

// TestWarnings: the log says at the start where the configuration sends devices to a port that nobody has.
func TestWarnings(t *testing.T) {
	p := apptest.Start(t, func(c *conf.Config) { c.PublicURLs.Status = "http://127.0.0.1:1" })
	if text := p.Log.String(); strings.Count(text, "level=WARN msg=\"public_urls.status names port 1 of this machine") != 1 {
		t.Errorf("the log says\n%s\nwant one warning of public_urls.status", text)
	}
}
