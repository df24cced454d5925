// Package key creates private keys and keeps them: it is the file custody of the platform, and it states the contract that every other
// custody (a PKCS#11 token, a cloud service) has to meet.
//
// A Store is one directory, mode 0700, of small files, mode 0600, all owned by the user who runs the platform:
//
//	store.json          how the master key follows from the unlock material: scrypt parameters, salt, verifier, checksum
//	<id>.key            one private key
//	<name>.secret       one named random secret
//	<name>.own          one named key pair of the platform itself
//
// The master key comes from scrypt (RFC 7914) over the unlock material, N = 2^15 or more, r = 8, p = 1; HKDF-SHA256 (RFC 5869) splits it
// into the container key and the verifier, which tells a wrong passphrase from a damaged file. A key or secret file is
//
//	"MOORKEY1" | length of header, 2 octets | header, JSON | nonce, 12 octets | AES-256-GCM ciphertext and tag
//
// where everything before the nonce is authenticated too, the header names id, label, algorithm and the SHA-256 of the public key, and the
// plaintext is PKCS#8 (RFC 5208; of ML-DSA keys the seed, RFC 9881) or the secret itself. Files are written once, whole, and never overwritten. Keys are decrypted on first use.
//
// Nothing that holds a secret prints it: see Signer. The package deliberately has no database, no export, and no way to delete: a key of a
// certification authority must be around to sign CRLs until its last certificate has expired. It does not lock memory against swapping.
package key

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"

	"filippo.io/mldsa"

	"mooring/internal/base/errs"
)

// Algorithm names a kind of key pair.
type Algorithm string

// The algorithms a custody may offer. RSA with 2048 bits is for compatibility with old peers only.
const (
	P256    Algorithm = "ec-p256"
	P384    Algorithm = "ec-p384"
	Ed25519 Algorithm = "ed25519"
	RSA2048 Algorithm = "rsa-2048"
	RSA3072 Algorithm = "rsa-3072"
	RSA4096 Algorithm = "rsa-4096"
	MLDSA44 Algorithm = "ml-dsa-44"
	MLDSA65 Algorithm = "ml-dsa-65"
)

// Algorithms returns all algorithms in a fixed order.
func Algorithms() []Algorithm {
	return []Algorithm{P256, P384, Ed25519, RSA2048, RSA3072, RSA4096, MLDSA44, MLDSA65}
}

// ID names a key within its custody. Its form is the custody's own; it is stored in database rows and is not secret.
type ID string

// Custody is what the platform needs of a place that keeps private keys.
//
// Generate makes a key and returns only when it is durable: a power cut after the return must not lose it. Label is for people, need not be
// unique, and is kept with the key. Signer finds a key again after any restart; its Public never fails and its Sign may be called from many
// goroutines at once. A key that is missing, locked away or damaged is an error of kind Unavailable, from Signer or from Sign, never a
// signature that does not verify. An algorithm the custody lacks is an error of kind Invalid. Signing takes a digest and the hash as
// options for EC and RSA (PKCS #1 v1.5, or PSS with *rsa.PSSOptions), and the message itself with crypto.Hash(0) for Ed25519
// and ML-DSA (with the empty context).
//
// keytest.Test checks an implementation against this contract.
type Custody interface {
	Generate(ctx context.Context, alg Algorithm, label string) (ID, crypto.PublicKey, error)
	Signer(ctx context.Context, id ID) (crypto.Signer, error)
}

// New makes a key pair in memory, for keys that do not stay with the platform (those it makes for devices) and for the Store itself.
func New(alg Algorithm) (crypto.Signer, error) {
	switch alg {
	case P256:
		return ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case P384:
		return ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	case Ed25519:
		_, priv, err := ed25519.GenerateKey(rand.Reader)
		return priv, err
	case RSA2048:
		return rsa.GenerateKey(rand.Reader, 2048)
	case RSA3072:
		return rsa.GenerateKey(rand.Reader, 3072)
	case RSA4096:
		return rsa.GenerateKey(rand.Reader, 4096)
	case MLDSA44:
		return mldsa.GenerateKey(mldsa.MLDSA44())
	case MLDSA65:
		return mldsa.GenerateKey(mldsa.MLDSA65())
	}
	return nil, errs.New(errs.Invalid, "unknown key algorithm %q: use one of %v", alg, Algorithms())
}

// AlgorithmOf returns the algorithm of a public key. It reports false for kinds and sizes outside the list.
func AlgorithmOf(pub crypto.PublicKey) (Algorithm, bool) {
	switch k := pub.(type) {
	case *ecdsa.PublicKey:
		switch k.Curve {
		case elliptic.P256():
			return P256, true
		case elliptic.P384():
			return P384, true
		}
	case ed25519.PublicKey:
		return Ed25519, true
	case *rsa.PublicKey:
		switch k.N.BitLen() {
		case 2048:
			return RSA2048, true
		case 3072:
			return RSA3072, true
		case 4096:
			return RSA4096, true
		}
	case *mldsa.PublicKey:
		switch k.Parameters() {
		case mldsa.MLDSA44():
			return MLDSA44, true
		case mldsa.MLDSA65():
			return MLDSA65, true
		}
	}
	return "", false
}
