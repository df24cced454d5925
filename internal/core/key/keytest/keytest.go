// Package keytest checks that a custody keeps the contract of key.Custody. A new custody calls Test from its own tests, against the
// real thing (a token, a service), with the algorithms it offers. It deliberately tests nothing about how keys are kept. Store is a key store
// for tests of other things.
package keytest

import (
	"crypto"
	"crypto/rand"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"mooring/internal/base/errs"
	"mooring/internal/core/key"
	"mooring/wire/der"
)

// Store makes a key store in a directory of the test, which it returns too. All of a process have one master key, because deriving it takes
// longer than most tests: scrypt is slow by design.
func Store(t testing.TB) (store *key.Store, dir string) {
	t.Helper()
	m, err := unlocked()
	if err != nil {
		t.Fatal(err)
	}
	dir = filepath.Join(t.TempDir(), "keys")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, lockFile), m.lock, 0o600); err != nil {
		t.Fatal(err)
	}
	if store, err = m.store.Reopen(dir); err != nil {
		t.Fatal(err)
	}
	return store, dir
}

// Unlock is what unlocks the stores that Store makes.
const Unlock = "correct horse battery"

const lockFile = "store.json"

// master is an empty store, unlocked, and its file.
type master struct {
	store *key.Store
	lock  []byte
}

var unlocked = sync.OnceValues(func() (m master, err error) {
	dir, err := os.MkdirTemp("", "keytest-")
	if err != nil {
		return m, err
	}
	defer os.RemoveAll(dir)
	if m.store, err = key.Create(dir, []byte(Unlock), key.Options{}); err != nil {
		return m, err
	}
	m.lock, err = os.ReadFile(filepath.Join(dir, lockFile))
	return m, err
})

// Test runs the suite. Keys made during the test stay in the custody.
func Test(t *testing.T, custody key.Custody, offered ...key.Algorithm) {
	for _, alg := range offered {
		t.Run(string(alg), func(t *testing.T) { testAlgorithm(t, custody, alg) })
	}
	t.Run("unknown algorithm", func(t *testing.T) {
		if _, _, err := custody.Generate(t.Context(), "ec-p1", "x"); !errs.Is(err, errs.Invalid) {
			t.Errorf("Generate of an unknown algorithm: got %v, want kind invalid", err)
		}
	})
	for _, id := range []key.ID{"", "0011223344556677", "../store", "a/b"} {
		t.Run("missing key "+string(id), func(t *testing.T) {
			if _, err := custody.Signer(t.Context(), id); !errs.Is(err, errs.Unavailable) {
				t.Errorf("Signer(%q): got %v, want kind unavailable", id, err)
			}
		})
	}
}

func testAlgorithm(t *testing.T, custody key.Custody, alg key.Algorithm) {
	id, pub, err := custody.Generate(t.Context(), alg, "conformance "+string(alg))
	if err != nil {
		t.Fatal(err)
	}
	if got, ok := key.AlgorithmOf(pub); !ok || got != alg {
		t.Errorf("generated key is %q, want %q", got, alg)
	}
	s, err := custody.Signer(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	if !pub.(interface{ Equal(crypto.PublicKey) bool }).Equal(s.Public()) {
		t.Fatal("Signer has another public key than Generate returned")
	}
	algorithm, err := der.AlgorithmFor(pub)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for i := range 64 {
		wg.Go(func() {
			message := []byte{byte(i), 1, 2, 3}
			sig, err := s.Sign(rand.Reader, algorithm.Digest(message), algorithm.Hash())
			if err != nil {
				t.Errorf("signature %d: %v", i, err)
			} else if err := algorithm.Verify(pub, message, sig); err != nil {
				t.Errorf("signature %d: %v", i, err)
			}
		})
	}
	wg.Wait()
	other, otherPub, err := custody.Generate(t.Context(), alg, "conformance "+string(alg))
	if err != nil {
		t.Fatal(err)
	}
	if other == id || otherPub.(interface{ Equal(crypto.PublicKey) bool }).Equal(pub) {
		t.Error("a second Generate returned the first key")
	}
}
