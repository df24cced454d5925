// Package keytest checks that a custody keeps the contract of key.Custody. A new custody calls Test from its own tests, against the
// real thing (a token, a service), with the algorithms it offers. It deliberately tests nothing about how keys are kept.
package keytest

import (
	"crypto"
	"crypto/rand"
	"sync"
	"testing"

	"mooring/internal/base/errs"
	"mooring/internal/core/key"
	"mooring/wire/der"
)

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
