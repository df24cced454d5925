package apptest

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"

	"mooring/internal/app"
	"mooring/internal/base/conf"
	"mooring/internal/base/db/dbtest"
)

// template is an installation that was made and never run: its files are held in memory.
type template struct {
	config   conf.Config
	made     app.InitResult
	files    []file         // directories before what they hold
	database *dbtest.Source // nil: it is one of the files
}

type file struct {
	path string // below the installation's directory
	mode fs.FileMode
	text []byte
}

// installed is made when a test first needs it, and is copied from then on.
var installed = sync.OnceValues(func() (*template, error) {
	dir, err := os.MkdirTemp("", "apptest-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	c, err := app.Loopback(organisation)
	if err != nil {
		return nil, err
	}
	m, clock := &template{}, &Clock{}
	initialise := func(url string) (err error) {
		c.Database.URL = url
		m.made, err = app.Init(context.Background(), app.InitOptions{Dir: filepath.Join(dir, "data"), Config: c, Now: clock.Now})
		return err
	}
	if server := os.Getenv("MOORING_TEST_DB"); server != "" {
		m.database, err = dbtest.NewSource(server, initialise)
		c.Database.URL = server // as in the configuration of a test
	} else {
		err = initialise(c.Database.URL)
	}
	if err != nil {
		return nil, fmt.Errorf("making the installation of which tests get copies: %w", err)
	}
	m.config = *c
	return m, filepath.WalkDir(m.made.Dir, m.read)
})

func (m *template) read(path string, entry fs.DirEntry, err error) error {
	if err != nil {
		return err
	}
	info, err := entry.Info()
	if err != nil {
		return err
	}
	f := file{path: strings.TrimPrefix(path, m.made.Dir), mode: info.Mode()}
	if info.Mode().IsRegular() {
		if f.text, err = os.ReadFile(path); err != nil {
			return err
		}
	}
	m.files = append(m.files, f)
	return nil
}

// install makes an installation: a copy where one is as good.
func install(t testing.TB, clock *Clock, log *Log, change func(*conf.Config)) (*conf.Config, app.InitResult) {
	t.Helper()
	c := configure(t, change)
	m, err := installed()
	if err != nil {
		t.Fatal(err)
	}
	if !m.fits(c) || clock.offset.Load() != 0 {
		return c, initialise(t, clock, log, c)
	}
	return c, m.copy(t, c)
}

// fits reports whether an installation made with c would be the same: whether nothing differs but what says how a server runs.
func (m *template) fits(c *conf.Config) bool {
	if !strings.HasSuffix(c.PublicURLs.Status, c.Listen.Status) { // the test speaks of what stands in certificates
		return false
	}
	same := *c
	same.Dir = m.config.Dir
	same.Listen, same.PublicURLs = m.config.Listen, m.config.PublicURLs
	same.Limits, same.TLS, same.Enrol, same.Approve = m.config.Limits, m.config.TLS, m.config.Enrol, m.config.Approve
	same.ACME, same.Retention, same.Jobs = m.config.ACME, m.config.Retention, m.config.Jobs
	same.COAPS, same.Messaging = m.config.COAPS, m.config.Messaging
	return reflect.DeepEqual(same, m.config)
}

func (m *template) copy(t testing.TB, c *conf.Config) app.InitResult {
	t.Helper()
	c.Dir = filepath.Join(t.TempDir(), "data")
	if m.database != nil {
		c.Database.URL = m.database.Copy(t)
	}
	for _, f := range m.files {
		path := c.Dir + f.path
		var err error
		switch {
		case f.mode.IsDir():
			err = os.Mkdir(path, f.mode.Perm())
		case filepath.Base(path) == conf.FileName:
			err = os.WriteFile(path, c.Write(), f.mode.Perm())
		default:
			err = os.WriteFile(path, f.text, f.mode.Perm())
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	made := m.made
	for _, path := range []*string{&made.Dir, &made.Config, &made.Profiles, &made.Unlock, &made.Root, &made.Operator} {
		*path = c.Dir + strings.TrimPrefix(*path, m.made.Dir)
	}
	return made
}
