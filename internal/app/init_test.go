package app_test

import (
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"mooring/internal/app"
	"mooring/internal/base/conf"
)

// A descriptor can be read once only, and both making the key store and opening it want the secret.
func TestInitReadsTheSecretFromADescriptor(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	c := conf.Default()
	c.Keys.Unlock = fmt.Sprintf("fd:%d", descriptorWith(t, "correct horse battery\n"))
	_, err := app.Init(t.Context(), app.InitOptions{Dir: dir, Config: c})
	must(t, err)

	read, err := conf.Load(dir)
	must(t, err)
	if read.Keys.Unlock != c.Keys.Unlock {
		t.Errorf("the configuration says keys.unlock %q, want %q", read.Keys.Unlock, c.Keys.Unlock)
	}
	read.Keys.Unlock = fmt.Sprintf("fd:%d", descriptorWith(t, "correct horse battery\n"))
	p, err := app.Open(t.Context(), app.Options{Config: read})
	must(t, err)
	must(t, p.Close())
}

// descriptorWith returns a descriptor, not owned by any os.File, from which text can be read.
func descriptorWith(t *testing.T, text string) int {
	t.Helper()
	r, w, err := os.Pipe()
	must(t, err)
	fd, err := syscall.Dup(int(r.Fd()))
	must(t, err)
	_, err = w.WriteString(text)
	must(t, err)
	must(t, w.Close())
	must(t, r.Close())
	return fd
}
