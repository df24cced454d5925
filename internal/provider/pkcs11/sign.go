//go:build pkcs11

package pkcs11

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"fmt"
	"io"
	"log/slog"
	"sync/atomic"

	"github.com/miekg/pkcs11"

	"mooring/internal/base/errs"
	"mooring/internal/core/key"
)

// signer is a key in the token.
type signer struct {
	token     *token
	info      key.Info
	pub       crypto.PublicKey
	mechanism uint
	checked   atomic.Pointer[login] // the login under which a signature was last verified
}

// Public returns the public key, which is known without the token.
func (s *signer) Public() crypto.PublicKey { return s.pub }

// String names the key.
func (s *signer) String() string {
	return fmt.Sprintf("key %s (%s) in %s", s.info.ID, s.info.Algorithm, s.token)
}

// LogValue logs String.
func (s *signer) LogValue() slog.Value { return slog.StringValue(s.String()) }

// made is a signature and the login under which it was made.
type made struct {
	raw   []byte
	login *login
}

// Sign has the token sign. The random source is the token's own.
func (s *signer) Sign(_ io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	if hash := opts.HashFunc(); hash != 0 && len(digest) != hash.Size() {
		return nil, errs.New(errs.Invalid, "a digest of %d octets is none of %s", len(digest), hash)
	}
	mechanism, input, err := s.input(digest, opts)
	if err != nil {
		return nil, err
	}
	t := s.token
	m, err := do(nil, t, t.o.Wait, func(l *login, session pkcs11.SessionHandle) (m made, err error) {
		priv, err := t.handle(l, session, s.info.ID)
		if err != nil {
			return m, err
		}
		if err := t.module.SignInit(session, []*pkcs11.Mechanism{mechanism}, priv); err != nil {
			return m, err
		}
		raw, err := t.module.Sign(session, input)
		return made{raw, l}, err
	})
	if err != nil {
		if errs.Is(err, errs.NotFound) {
			err = errs.Wrap(errs.Unavailable, err, "%s", errs.Public(err))
		}
		return nil, err
	}
	signature := m.raw
	if s.mechanism == pkcs11.CKM_ECDSA {
		if signature, err = ecdsaDER(m.raw); err != nil {
			return nil, err
		}
	}
	return signature, s.check(m.login, digest, opts, signature)
}

// input is what the token is given for a digest.
func (s *signer) input(digest []byte, opts crypto.SignerOpts) (*pkcs11.Mechanism, []byte, error) {
	pss, isPSS := opts.(*rsa.PSSOptions)
	switch {
	case s.mechanism == ckmEdDSA && opts.HashFunc() != 0:
		return nil, nil, errs.New(errs.Invalid, "an Ed25519 key signs the message itself, not its digest")
	case s.mechanism == pkcs11.CKM_RSA_PKCS && isPSS:
		params, err := s.pssParams(pss)
		return pkcs11.NewMechanism(pkcs11.CKM_RSA_PKCS_PSS, params), digest, err
	case s.mechanism == pkcs11.CKM_RSA_PKCS:
		input, err := digestInfo(opts.HashFunc(), digest)
		return pkcs11.NewMechanism(pkcs11.CKM_RSA_PKCS, nil), input, err
	}
	return pkcs11.NewMechanism(s.mechanism, nil), digest, nil
}

// pssParams are those of RFC 8017, section 9.1, with the same hash for the mask.
func (s *signer) pssParams(o *rsa.PSSOptions) ([]byte, error) {
	var hash, mask uint
	switch o.Hash {
	case crypto.SHA256:
		hash, mask = pkcs11.CKM_SHA256, pkcs11.CKG_MGF1_SHA256
	case crypto.SHA384:
		hash, mask = pkcs11.CKM_SHA384, pkcs11.CKG_MGF1_SHA384
	case crypto.SHA512:
		hash, mask = pkcs11.CKM_SHA512, pkcs11.CKG_MGF1_SHA512
	default:
		return nil, errs.New(errs.Invalid, "a token signs digests of SHA-256, SHA-384 and SHA-512, not of %s", o.Hash)
	}
	salt := o.SaltLength
	switch salt {
	case rsa.PSSSaltLengthEqualsHash:
		salt = o.Hash.Size()
	case rsa.PSSSaltLengthAuto:
		salt = (s.pub.(*rsa.PublicKey).N.BitLen()-1+7)/8 - 2 - o.Hash.Size()
	}
	return pkcs11.NewPSSParams(hash, mask, uint(salt)), nil
}

// check verifies the first signature after each login: a token that was exchanged for another, or whose public key is not that of the private
// one, must not go unnoticed. Package ca verifies more.
func (s *signer) check(l *login, digest []byte, opts crypto.SignerOpts, signature []byte) error {
	if s.checked.Load() == l {
		return nil
	}
	if !verifies(s.pub, digest, opts, signature) {
		return errs.New(errs.Unavailable, "the token %q signs with another key than %s shows: restore the token from its backup", s.token.o.Token, s.info.ID)
	}
	s.checked.Store(l)
	return nil
}

func verifies(pub crypto.PublicKey, digest []byte, opts crypto.SignerOpts, signature []byte) bool {
	switch k := pub.(type) {
	case *ecdsa.PublicKey:
		return ecdsa.VerifyASN1(k, digest, signature)
	case ed25519.PublicKey:
		return ed25519.Verify(k, digest, signature)
	case *rsa.PublicKey:
		if pss, ok := opts.(*rsa.PSSOptions); ok {
			return rsa.VerifyPSS(k, pss.Hash, digest, signature, &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthAuto}) == nil
		}
		return rsa.VerifyPKCS1v15(k, opts.HashFunc(), digest, signature) == nil
	}
	return false
}
