//go:build pkcs11

package pkcs11

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"mooring/internal/core/key"
	"mooring/internal/core/key/keytest"
)

const (
	soPIN   = "11223344"
	userPIN = "correct-horse"
)

// softHSM is where Debian has the module, on any kind of processor.
func softHSM() (string, error) {
	for _, pattern := range []string{"/usr/lib/softhsm/libsofthsm2.so", "/usr/lib/*/softhsm/libsofthsm2.so", "/usr/local/lib/softhsm/libsofthsm2.so"} {
		if found, err := filepath.Glob(pattern); err == nil && len(found) > 0 {
			return found[0], nil
		}
	}
	return "", fmt.Errorf("these tests need SoftHSM (Debian: softhsm2)")
}

// TestMain gives SoftHSM, which reads its configuration once for a process, a folder of its own.
func TestMain(m *testing.M) {
	code, err := withSoftHSM(m.Run)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func withSoftHSM(run func() int) (int, error) {
	if _, err := softHSM(); err != nil {
		return 0, err
	}
	dir, err := os.MkdirTemp("", "mooring-softhsm")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(dir)
	if err := os.Mkdir(filepath.Join(dir, "tokens"), 0o700); err != nil {
		return 0, err
	}
	text := fmt.Sprintf("directories.tokendir = %s\nobjectstore.backend = file\nlog.level = ERROR\n", filepath.Join(dir, "tokens"))
	if err := os.WriteFile(filepath.Join(dir, "softhsm2.conf"), []byte(text), 0o600); err != nil {
		return 0, err
	}
	os.Setenv("SOFTHSM2_CONF", filepath.Join(dir, "softhsm2.conf"))
	return run(), nil
}

// newToken makes a token and returns the folder in which SoftHSM keeps it.
func newToken(t *testing.T, label string) (dir string) {
	t.Helper()
	tokens := filepath.Join(filepath.Dir(os.Getenv("SOFTHSM2_CONF")), "tokens")
	before := folders(t, tokens)
	out, err := exec.Command("softhsm2-util", "--init-token", "--free", "--label", label, "--so-pin", soPIN, "--pin", userPIN).CombinedOutput()
	if err != nil {
		t.Fatalf("making a token: %v\n%s", err, out)
	}
	for name := range folders(t, tokens) {
		if !before[name] {
			dir = filepath.Join(tokens, name)
			t.Cleanup(func() {
				if err := os.RemoveAll(dir); err != nil {
					t.Error(err)
				}
			})
			return dir
		}
	}
	t.Fatalf("softhsm2-util made no token: %s", out)
	return ""
}

func folders(t *testing.T, dir string) map[string]bool {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	names := map[string]bool{}
	for _, e := range entries {
		names[e.Name()] = true
	}
	return names
}

func options(t *testing.T, label string) Options {
	t.Helper()
	module, err := softHSM()
	if err != nil {
		t.Fatal(err)
	}
	return Options{Module: module, Token: label, Now: time.Now, PIN: func() ([]byte, error) { return []byte(userPIN), nil }}
}

// opened opens a new token until the test ends.
func opened(t *testing.T, label string) (Custody, string) {
	t.Helper()
	dir := newToken(t, label)
	c, err := Open(t.Context(), options(t, label))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c, dir
}

func TestTokenKeepsTheContract(t *testing.T) {
	c, _ := opened(t, "contract")
	keytest.Test(t, c, key.P256, key.P384, key.Ed25519, key.RSA2048, key.RSA3072, key.RSA4096)
}
