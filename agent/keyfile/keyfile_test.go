package keyfile_test

import (
	"crypto"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"mooring/agent/keyfile"
	"mooring/wire/der"
)

func TestCreateThenLoad(t *testing.T) {
	for _, kind := range []der.KeyKind{der.ECP256, der.ECP384, der.ECP521, der.KeyEd25519, "rsa-2048"} {
		dir := t.TempDir()
		made, err := keyfile.Keys{}.Create(dir, kind)
		if err != nil {
			t.Fatalf("%s: %v", kind, err)
		}
		read, err := keyfile.Keys{}.Load(dir)
		if err != nil {
			t.Fatalf("%s: %v", kind, err)
		}
		if !same(made, read) || der.KindOf(read.Public()) != kind {
			t.Errorf("%s: another key was read than was made", kind)
		}
		if info, _ := os.Stat(filepath.Join(dir, keyfile.Name)); info.Mode().Perm() != 0o600 {
			t.Errorf("%s: mode %v, want 0600", kind, info.Mode())
		}
	}
}

func TestCreateNeverReplaces(t *testing.T) {
	dir := t.TempDir()
	first, err := keyfile.Keys{}.Create(dir, der.ECP256)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := (keyfile.Keys{}).Create(dir, der.ECP256); err == nil {
		t.Error("a second key was made in the same folder")
	}
	if read, err := (keyfile.Keys{}).Load(dir); err != nil || !same(first, read) {
		t.Errorf("the first key is gone (%v)", err)
	}
}

func TestReuse(t *testing.T) {
	from, to := t.TempDir(), t.TempDir()
	made, err := keyfile.Keys{}.Create(from, der.ECP256)
	if err != nil {
		t.Fatal(err)
	}
	if err := (keyfile.Keys{}).Reuse(from, to); err != nil {
		t.Fatal(err)
	}
	if read, err := (keyfile.Keys{}).Load(to); err != nil || !same(made, read) {
		t.Errorf("the copy is not the key (%v)", err)
	}
}

func TestLoadRefuses(t *testing.T) {
	dir := t.TempDir()
	if _, err := (keyfile.Keys{}).Load(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("absent file: %v, want fs.ErrNotExist", err)
	}
	if _, err := (keyfile.Keys{}).Create(dir, der.ECP256); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, keyfile.Name)
	if err := os.Chmod(path, 0o640); err != nil {
		t.Fatal(err)
	}
	if _, err := (keyfile.Keys{}).Load(dir); err == nil || !strings.Contains(err.Error(), "chmod 600") {
		t.Errorf("file that the group may read: %v", err)
	}
}

func TestDecodeRefuses(t *testing.T) {
	for text, want := range map[string]string{
		"":          "no PEM block",
		"not a key": "no PEM block",
		"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n":                     "no PKCS #8 key",
		"-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n": "encrypted",
		"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n":                     "CERTIFICATE",
	} {
		if _, err := keyfile.Decode([]byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Decode(%q): %v, want %q", text, err, want)
		}
	}
}

func TestGenerateNamesTheKinds(t *testing.T) {
	if _, err := keyfile.Generate("dsa"); err == nil || !strings.Contains(err.Error(), "ec-p256") {
		t.Errorf("unknown kind: %v", err)
	}
}

func same(a, b crypto.Signer) bool {
	return a.Public().(interface{ Equal(crypto.PublicKey) bool }).Equal(b.Public())
}
