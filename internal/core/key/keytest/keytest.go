// Package keytest checks that a custody keeps the contract of key.Custody. A new custody calls Test from its own tests, against the
// real thing (a token, a service), with the algorithms it offers. It deliberately tests nothing about how keys are kept.
package keytest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"sync"
	"testing"

	"mooring/internal/base/errs"
	"mooring/internal/core/key"
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
	var wg sync.WaitGroup
	for i := range 64 {
		wg.Go(func() {
			message := []byte{byte(i), 1, 2, 3}
			digest, opts := input(alg, message)
			sig, err := s.Sign(rand.Reader, digest, opts)
			if err != nil {
				t.Errorf("signature %d: %v", i, err)
			} else if !verify(pub, message, sig) {
				t.Errorf("signature %d does not verify", i)
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

func input(alg key.Algorithm, message []byte) ([]byte, crypto.SignerOpts) {
	if alg == key.Ed25519 {
		return message, crypto.Hash(0)
	}
	sum := sha256.Sum256(message)
	return sum[:], crypto.SHA256
}

func verify(pub crypto.PublicKey, message, sig []byte) bool {
	sum := sha256.Sum256(message)
	switch k := pub.(type) {
	case *ecdsa.PublicKey:
		return ecdsa.VerifyASN1(k, sum[:], sig)
	case ed25519.PublicKey:
		return ed25519.Verify(k, message, sig)
	case *rsa.PublicKey:
		return rsa.VerifyPKCS1v15(k, crypto.SHA256, sum[:], sig) == nil
	}
	return false
}
