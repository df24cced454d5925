package key

import (
	"context"
	"crypto"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"mooring/internal/base/errs"
	"mooring/wire/der"
)

// kindOwn is the kind of files with the platform's own named keys, which are not keys of CAs.
const kindOwn = "own"

// Own is a named key pair of the platform itself, such as that of a registration authority. Other than keys of CAs it decrypts too, if its kind can.
type Own struct {
	name string
	priv crypto.Signer
}

// Own returns the named key pair, which it makes when there is none yet. Two callers that race, on whatever nodes that share the store, get the same one.
// A name whose key has another algorithm is a Conflict.
func (s *Store) Own(ctx context.Context, name string, alg Algorithm) (*Own, error) {
	if !secretName.MatchString(name) {
		return nil, errs.New(errs.Invalid, "a key needs a name of small letters, digits, dots and hyphens, not %q", name)
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if _, err := os.Stat(s.path(kindOwn, name)); errors.Is(err, fs.ErrNotExist) {
		if err := s.makeOwn(name, alg); err != nil && !errors.Is(err, fs.ErrExist) { // what the winner of a race stored is read below
			return nil, errs.Wrap(errs.Unavailable, err, "the key %s cannot be stored", name)
		}
	}
	_, pkcs8, err := s.read(kindOwn, name)
	if err != nil {
		return nil, err
	}
	defer clear(pkcs8)
	priv, err := der.ParsePrivateKey(pkcs8)
	if err != nil {
		return nil, errs.Wrap(errs.Unavailable, err, "the key %s is not usable: restore it from a backup", name)
	}
	if have, _ := AlgorithmOf(priv.Public()); have != alg {
		return nil, errs.New(errs.Conflict, "the key %s is of the kind %s, and %s is asked for", name, have, alg)
	}
	return &Own{name, priv}, nil
}

func (s *Store) makeOwn(name string, alg Algorithm) error {
	priv, err := New(alg)
	if err != nil {
		return err
	}
	sum, err := spkiSum(priv.Public())
	if err != nil {
		return err
	}
	pkcs8, err := der.EncodePrivateKey(priv)
	if err != nil {
		return err
	}
	defer clear(pkcs8)
	return s.add(header{Version: 1, Kind: kindOwn, ID: name, Algorithm: alg, SPKI: hex.EncodeToString(sum[:])}, pkcs8)
}

// Public returns the public key.
func (o *Own) Public() crypto.PublicKey { return o.priv.Public() }

// Sign signs as Custody says.
func (o *Own) Sign(rand io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	return o.priv.Sign(rand, digest, opts)
}

// Decrypt decrypts with keys that can: RSA keys. For others the error is of kind Invalid.
func (o *Own) Decrypt(rand io.Reader, msg []byte, opts crypto.DecrypterOpts) ([]byte, error) {
	d, ok := o.priv.(crypto.Decrypter)
	if !ok {
		return nil, errs.New(errs.Invalid, "the key %s cannot decrypt", o.name)
	}
	return d.Decrypt(rand, msg, opts)
}

// String names the key without showing it.
func (o *Own) String() string { return "key " + o.name }

// Format prints String for every verb, as Signer does.
func (o *Own) Format(f fmt.State, _ rune) { io.WriteString(f, o.String()) }
