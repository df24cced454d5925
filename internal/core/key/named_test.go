package key_test

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"mooring/internal/base/errs"
	"mooring/internal/core/key"
	"mooring/internal/core/key/keytest"
)

// The platform's own key is made once, whoever asks first, and after a restart decrypts what was encrypted for it before.
func TestOwnKey(t *testing.T) {
	s, dir := keytest.Store(t)
	var wait sync.WaitGroup
	keys := make([]*key.Own, 4)
	for i := range keys {
		wait.Go(func() {
			var err error
			if keys[i], err = s.Own(t.Context(), "scep", key.RSA2048); err != nil {
				t.Error(err)
			}
		})
	}
	wait.Wait()
	public := keys[0].Public().(*rsa.PublicKey)
	for _, k := range keys[1:] {
		if !public.Equal(k.Public()) {
			t.Fatal("two callers got two keys")
		}
	}
	//lint:ignore SA1019 what clients of SCEP do
	sealed, err := rsa.EncryptPKCS1v15(rand.Reader, public, []byte("hello"))
	if err != nil {
		t.Fatal(err)
	}
	if s, err = s.Reopen(dir); err != nil {
		t.Fatal(err)
	}
	again, err := s.Own(t.Context(), "scep", key.RSA2048)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := again.Decrypt(rand.Reader, sealed, nil); err != nil || string(got) != "hello" {
		t.Errorf("decrypted %q, %v", got, err)
	}
	if ids, err := s.IDs(t.Context()); err != nil || len(ids) != 0 {
		t.Errorf("the platform's own key stands among those of CAs: %v, %v", ids, err)
	}
	if _, err := s.Own(t.Context(), "scep", key.RSA3072); !errs.Is(err, errs.Conflict) {
		t.Errorf("another algorithm: got %v, want a conflict", err)
	}
	if _, err := s.Own(t.Context(), "../scep", key.RSA2048); !errs.Is(err, errs.Invalid) {
		t.Errorf("a name that leaves the directory: got %v, want invalid", err)
	}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s"} {
		if text := fmt.Sprintf(verb, again); text != "key scep" {
			t.Errorf("%s prints %q", verb, text)
		}
	}
	ec, err := s.Own(t.Context(), "other", key.P256)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ec.Decrypt(rand.Reader, nil, nil); !errs.Is(err, errs.Invalid) {
		t.Errorf("an EC key decrypts: %v", err)
	}
	if _, err := ec.Sign(rand.Reader, make([]byte, 32), crypto.SHA256); err != nil {
		t.Error(err)
	}
}

func TestOwnKeyDamaged(t *testing.T) {
	s, dir := keytest.Store(t)
	if _, err := s.Own(t.Context(), "scep", key.P256); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "scep.own")
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(data, []byte("PRIVATE")) {
		t.Error("the file is not encrypted")
	}
	data[len(data)-1] ^= 1
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Own(t.Context(), "scep", key.P256); !errs.Is(err, errs.Unavailable) || !strings.Contains(err.Error(), "backup") {
		t.Errorf("got %v, want unavailable and what to do", err)
	}
}
