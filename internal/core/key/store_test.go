package key_test

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"mooring/internal/base/errs"
	"mooring/internal/core/key"
	"mooring/internal/core/key/keytest"
)

var unlock = []byte("correct horse battery")

// create makes a store with a master key of its own, which takes long: keytest.Store is for tests of other things.
func create(t *testing.T) (*key.Store, string) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "keys")
	s, err := key.Create(dir, unlock, key.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return s, dir
}

func TestStoreKeepsTheContract(t *testing.T) {
	s, _ := keytest.Store(t)
	keytest.Test(t, s, key.P256, key.P384, key.Ed25519, key.RSA2048, key.MLDSA44, key.MLDSA65)
}

func TestKeysAndSecretsSurviveReopening(t *testing.T) {
	s, dir := create(t)
	id, pub, err := s.Generate(t.Context(), key.P256, "issuing")
	if err != nil {
		t.Fatal(err)
	}
	secret, err := s.Secret(t.Context(), "deployment", 32)
	if err != nil {
		t.Fatal(err)
	}
	s, err = key.Open(dir, unlock, key.Options{})
	if err != nil {
		t.Fatal(err)
	}
	signer, err := s.Signer(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	if !pub.(interface{ Equal(crypto.PublicKey) bool }).Equal(signer.Public()) {
		t.Error("reopened key differs")
	}
	again, err := s.Secret(t.Context(), "deployment", 32)
	if err != nil || !bytes.Equal(again, secret) {
		t.Errorf("reopened secret: got %x, %v, want %x", again, err, secret)
	}
	list, err := s.List(t.Context())
	if err != nil || len(list) != 1 || list[0].ID != id || list[0].Label != "issuing" || list[0].Algorithm != key.P256 {
		t.Errorf("List: got %+v, %v", list, err)
	}
	digest := sha256.Sum256(nil)
	for range 3 {
		if _, err := signer.Sign(rand.Reader, digest[:], crypto.SHA256); err != nil {
			t.Fatal(err)
		}
	}
	if got := s.Uses()[id]; got != 3 {
		t.Errorf("Uses: got %d, want 3", got)
	}
}

func TestCreateRefuses(t *testing.T) {
	_, dir := create(t)
	if _, err := key.Create(dir, unlock, key.Options{}); !errs.Is(err, errs.Conflict) {
		t.Errorf("second Create: got %v, want kind conflict", err)
	}
	if _, err := key.Create(t.TempDir()+"/x", []byte("short"), key.Options{}); !errs.Is(err, errs.Invalid) {
		t.Errorf("short passphrase: got %v, want kind invalid", err)
	}
	if _, err := key.Create(t.TempDir()+"/x", unlock, key.Options{LogN: 10}); !errs.Is(err, errs.Invalid) {
		t.Errorf("weak scrypt: got %v, want kind invalid", err)
	}
	if _, err := key.Open(t.TempDir()+"/none", unlock, key.Options{}); !errs.Is(err, errs.Unavailable) {
		t.Errorf("missing directory: got %v, want kind unavailable", err)
	}
}

func TestReopen(t *testing.T) {
	s, dir := create(t)
	secret, err := s.Secret(t.Context(), "deployment", 32)
	if err != nil {
		t.Fatal(err)
	}
	duplicate := filepath.Join(t.TempDir(), "copy")
	if out, err := exec.Command("cp", "-rp", dir, duplicate).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for _, path := range []string{dir, duplicate} {
		again, err := s.Reopen(path)
		if err != nil {
			t.Errorf("Reopen(%s): %v", path, err)
			continue
		}
		if got, err := again.Secret(t.Context(), "deployment", 32); err != nil || !bytes.Equal(got, secret) {
			t.Errorf("the secret in %s: got %x, %v, want %x", path, got, err, secret)
		}
	}
	_, other := create(t) // the same unlock material, another salt
	if _, err := s.Reopen(other); !errs.Is(err, errs.Conflict) {
		t.Errorf("Reopen of another store: got %v, want kind conflict", err)
	}
	if _, err := s.Reopen(t.TempDir()); !errs.Is(err, errs.Unavailable) {
		t.Errorf("Reopen of no store: got %v, want kind unavailable", err)
	}
}

func TestRacingCallersGetOneSecret(t *testing.T) {
	s, _ := keytest.Store(t)
	var wg sync.WaitGroup
	got := make([][]byte, 16)
	for i := range got {
		wg.Go(func() {
			var err error
			if got[i], err = s.Secret(t.Context(), "tickets", 32); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	for _, g := range got {
		if !bytes.Equal(g, got[0]) {
			t.Fatal("two callers got two secrets")
		}
	}
	if _, err := s.Secret(t.Context(), "tickets", 16); !errs.Is(err, errs.Conflict) {
		t.Errorf("other size: got %v, want kind conflict", err)
	}
	if _, err := s.Secret(t.Context(), "../x", 16); !errs.Is(err, errs.Invalid) {
		t.Errorf("path as name: got %v, want kind invalid", err)
	}
}

func TestDamage(t *testing.T) {
	edit := func(change func([]byte) []byte) func(*testing.T, string) {
		return func(t *testing.T, path string) {
			data, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, change(data), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	flip := func(at func([]byte) int) func(*testing.T, string) {
		return edit(func(d []byte) []byte { d[at(d)] ^= 1; return d })
	}
	chmod := func(mode os.FileMode) func(*testing.T, string) {
		return func(t *testing.T, path string) {
			if err := os.Chmod(path, mode); err != nil {
				t.Fatal(err)
			}
		}
	}
	storeFile := func(dir string) string { return filepath.Join(dir, "store.json") }
	itself := func(dir string) string { return dir }
	tests := []struct {
		name string
		file func(dir string) string
		harm func(t *testing.T, path string)
		want string
	}{
		{"directory readable by group", itself, chmod(0o750), "run chmod 0700"},
		{"store.json readable by all", storeFile, chmod(0o644), "run chmod 0600"},
		{"store.json missing", storeFile, func(t *testing.T, p string) { os.Remove(p) }, "cannot be read"},
		{"store.json truncated", storeFile, edit(func(d []byte) []byte { return d[:len(d)/2] }), "store.json is damaged"},
		{"store.json salt flipped", storeFile, flip(func(d []byte) int { return bytes.Index(d, []byte(`"salt"`)) + 12 }), "store.json is damaged"},
		{"store.json verifier flipped", storeFile, flip(func(d []byte) int { return bytes.Index(d, []byte(`"verifier"`)) + 16 }), "store.json is damaged"},
		{"key readable by group", nil, chmod(0o640), "run chmod 0600"},
		{"key missing", nil, func(t *testing.T, p string) { os.Remove(p) }, "cannot be read"},
		{"key empty", nil, edit(func([]byte) []byte { return nil }), "restore it from a backup"},
		{"key truncated", nil, edit(func(d []byte) []byte { return d[:len(d)-1] }), "restore it from a backup"},
		{"key extended", nil, edit(func(d []byte) []byte { return append(d, 0) }), "restore it from a backup"},
		{"key oversize", nil, edit(func(d []byte) []byte { return append(d, make([]byte, 70<<10)...) }), "larger than"},
		{"key magic flipped", nil, flip(func([]byte) int { return 3 }), "restore it from a backup"},
		{"key header length flipped", nil, flip(func([]byte) int { return 9 }), "restore it from a backup"},
		{"key label flipped", nil, flip(func(d []byte) int { return bytes.Index(d, []byte("issuing")) }), "restore it from a backup"},
		{"key nonce flipped", nil, flip(func(d []byte) int { return bytes.IndexByte(d, '}') + 2 }), "restore it from a backup"},
		{"key ciphertext flipped", nil, flip(func(d []byte) int { return len(d) - 40 }), "restore it from a backup"},
		{"key tag flipped", nil, flip(func(d []byte) int { return len(d) - 1 }), "restore it from a backup"},
	}
	master, masterDir := create(t)
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if strings.HasPrefix(tt.name, "key ") { // found when the key is used; opening is slow, so one store serves all
				id, _, err := master.Generate(t.Context(), key.P256, "issuing")
				if err != nil {
					t.Fatal(err)
				}
				tt.harm(t, filepath.Join(masterDir, string(id)+".key"))
				_, err = master.Signer(t.Context(), id)
				wantUnusable(t, err, tt.want)
				return
			}
			dir := t.TempDir()
			if err := os.Chmod(dir, 0o700); err != nil {
				t.Fatal(err)
			}
			copyFile(t, storeFile(masterDir), storeFile(dir))
			tt.harm(t, tt.file(dir))
			_, err := key.Open(dir, unlock, key.Options{})
			wantUnusable(t, err, tt.want)
		})
	}
}

func wantUnusable(t *testing.T, err error, want string) {
	t.Helper()
	if !errs.Is(err, errs.Unavailable) || !strings.Contains(errs.Public(err), want) {
		t.Errorf("got %q (%v), want kind unavailable and %q", err, errs.KindOf(err), want)
	}
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	data, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(to, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestWrongPassphraseIsToldApart(t *testing.T) {
	_, dir := create(t)
	if _, err := key.Open(dir, []byte("wrong passphrase"), key.Options{}); !errs.Is(err, errs.Denied) {
		t.Errorf("got %v, want kind denied", err)
	}
}

func TestRenamedFilesAreRefused(t *testing.T) {
	s, dir := keytest.Store(t)
	a, _, err := s.Generate(t.Context(), key.P256, "a")
	if err != nil {
		t.Fatal(err)
	}
	b, _, err := s.Generate(t.Context(), key.P256, "b")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(filepath.Join(dir, string(a)+".key"), filepath.Join(dir, string(b)+".key")); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Signer(t.Context(), b); !errs.Is(err, errs.Unavailable) {
		t.Errorf("renamed key: got %v, want kind unavailable", err)
	}
}

func TestNothingPrintsAKey(t *testing.T) {
	s, _ := keytest.Store(t)
	id, _, err := s.Generate(t.Context(), key.P256, "issuing")
	if err != nil {
		t.Fatal(err)
	}
	signer, err := s.Signer(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	want := fmt.Sprintf("key %s (ec-p256)", id)
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x", "%d"} {
		if got := fmt.Sprintf(verb, signer); got != want {
			t.Errorf("%s printed %q, want %q", verb, got, want)
		}
		if got := fmt.Sprintf(verb, s); !strings.HasPrefix(got, "key store ") {
			t.Errorf("%s of the store printed %q", verb, got)
		}
	}
	var log bytes.Buffer
	slog.New(slog.NewTextHandler(&log, nil)).Info("x", "k", signer, "s", s)
	if !strings.Contains(log.String(), want) {
		t.Errorf("logged %q, want %q in it", log.String(), want)
	}
}

func TestReadUnlock(t *testing.T) {
	dir := t.TempDir()
	good, open := filepath.Join(dir, "good"), filepath.Join(dir, "open")
	if err := os.WriteFile(good, []byte("from a file\r\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(open, []byte("from a file\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	empty := filepath.Join(dir, "empty")
	if err := os.WriteFile(empty, []byte("\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	ask := func() ([]byte, error) { return []byte("typed"), nil }
	tests := []struct {
		source string
		ask    func() ([]byte, error)
		want   string
		fails  string
	}{
		{"file:" + good, nil, "from a file", ""},
		{"file:" + open, nil, "", "run chmod 0600"},
		{"file:" + empty, nil, "", "is empty"},
		{"file:" + dir, nil, "", "not a regular file"},
		{"file:" + dir + "/none", nil, "", "cannot be read"},
		{"prompt", ask, "typed", ""},
		{"prompt", nil, "", "nobody can be asked"},
		{"fd:x", nil, "", "a file descriptor is a number"},
		{"env:X", nil, "", "unknown unlock source"},
		{"", nil, "", "unknown unlock source"},
	}
	for _, tt := range tests {
		got, err := key.ReadUnlock(tt.source, tt.ask)
		if tt.fails == "" && (err != nil || string(got) != tt.want) {
			t.Errorf("ReadUnlock(%q): got %q, %v, want %q", tt.source, got, err, tt.want)
		}
		if tt.fails != "" && !strings.Contains(errs.Public(err), tt.fails) {
			t.Errorf("ReadUnlock(%q): got %v, want %q", tt.source, err, tt.fails)
		}
	}
}

func TestReadUnlockFromDescriptor(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.WriteString("piped\n"); err != nil {
		t.Fatal(err)
	}
	w.Close()
	fd, err := syscall.Dup(int(r.Fd())) // ReadUnlock closes what it reads
	if err != nil {
		t.Fatal(err)
	}
	r.Close()
	got, err := key.ReadUnlock(fmt.Sprintf("fd:%d", fd), nil)
	if err != nil || string(got) != "piped" {
		t.Errorf("got %q, %v, want piped", got, err)
	}
}
