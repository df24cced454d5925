package attest

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"fmt"
	"math/big"

	"github.com/google/go-tpm/tpm2"
)

// tpm verifies a statement of TPM2_Certify (TPM 2.0 Library, part 2, section 10.12, and part 3, section 18.2).
func (o *Object) tpm(ak *x509.Certificate, c *Check, r *Result) error {
	if o.body.Ver != "2.0" {
		return fmt.Errorf("the version %.10q is not 2.0", o.body.Ver)
	}
	if !isAttestationKey(ak) {
		return errors.New("the first certificate is not that of an attestation key: it lacks the extended key usage 2.23.133.8.3, or is that of a CA")
	}
	public, err := parsePublic(o.body.PubArea)
	if err != nil {
		return err
	}
	if !public.ObjectAttributes.FixedTPM || !public.ObjectAttributes.FixedParent || !public.ObjectAttributes.SensitiveDataOrigin {
		return errors.New("the key could leave the TPM, or was not made in it: it must have the attributes fixedTPM, fixedParent and sensitiveDataOrigin")
	}
	if !public.ObjectAttributes.SignEncrypt {
		return errors.New("the key is not for signing")
	}
	if err := certified(o.body.CertInfo, public, digest(c.KeyAuthorization)); err != nil {
		return err
	}
	if err := verifyTPM(ak.PublicKey, o.body.Alg, o.body.CertInfo, o.body.Sig); err != nil {
		return err
	}
	if r.Key, err = tpm2.Pub(*public); err != nil {
		return fmt.Errorf("the key in pubArea: %w", err)
	}
	r.SPKI, err = encoded(r.Key)
	r.KeyIsLeafs = false
	return err
}

// isAttestationKey reports whether a certificate has the extended key usage tcg-kp-AIKCertificate and is none of a CA.
func isAttestationKey(c *x509.Certificate) bool {
	if c.IsCA {
		return false
	}
	for _, usage := range c.UnknownExtKeyUsage {
		if usage.String() == oidAttestKey {
			return true
		}
	}
	return false
}

// read decodes all of raw.
func read[T tpm2.Marshallable, P interface {
	*T
	tpm2.Unmarshallable
}](raw []byte, what string) (*T, error) {
	v, err := tpm2.Unmarshal[T, P](raw)
	if err != nil {
		return nil, fmt.Errorf("%s cannot be read: %w", what, err)
	}
	if !bytes.Equal(tpm2.Marshal(*v), raw) {
		return nil, fmt.Errorf("%s is not written as it must be", what)
	}
	return v, nil
}

// parsePublic reads a TPMT_PUBLIC of a kind whose key Go knows.
func parsePublic(raw []byte) (*tpm2.TPMTPublic, error) {
	p, err := read[tpm2.TPMTPublic](raw, "the public area")
	if err != nil {
		return nil, err
	}
	if p.Type != tpm2.TPMAlgRSA && p.Type != tpm2.TPMAlgECC {
		return nil, errors.New("the public area is not that of an RSA or EC key")
	}
	if p.NameAlg != tpm2.TPMAlgSHA256 && p.NameAlg != tpm2.TPMAlgSHA384 && p.NameAlg != tpm2.TPMAlgSHA512 {
		return nil, errors.New("the algorithm of the key's name is not SHA-256, SHA-384 or SHA-512")
	}
	return p, nil
}

// certified checks that a TPM says of just this key, and just now, that it holds it.
func certified(raw []byte, public *tpm2.TPMTPublic, nonce []byte) error {
	a, err := read[tpm2.TPMSAttest](raw, "certInfo")
	if err != nil {
		return err
	}
	if a.Magic != tpm2.TPMGeneratedValue || a.Type != tpm2.TPMSTAttestCertify {
		return errors.New("certInfo was not made by a TPM that certified a key")
	}
	if !bytes.Equal(a.ExtraData.Buffer, nonce) {
		return errors.New("the statement was made for another challenge")
	}
	info, err := a.Attested.Certify()
	if err != nil {
		return fmt.Errorf("certInfo cannot be read: %w", err)
	}
	name, err := tpm2.ObjectName(public)
	if err != nil {
		return fmt.Errorf("the name of the key: %w", err)
	}
	if !bytes.Equal(info.Name.Buffer, name.Buffer) {
		return errors.New("certInfo is about another key than pubArea")
	}
	return nil
}

// verifyTPM checks a signature in a TPMT_SIGNATURE, or one that stands by itself, as some clients have it.
func verifyTPM(key crypto.PublicKey, alg int64, message, raw []byte) error {
	refused := errors.New("the attestation key's signature does not verify")
	s, err := read[tpm2.TPMTSignature](raw, "sig")
	if err != nil {
		if verify(key, alg, message, raw) != nil {
			return refused
		}
		return nil
	}
	switch key := key.(type) {
	case *rsa.PublicKey:
		return refusedUnless(verifyRSA(key, s, message), refused)
	case *ecdsa.PublicKey:
		return refusedUnless(verifyECDSA(key, s, message), refused)
	}
	return refused
}

func refusedUnless(good bool, refused error) error {
	if good {
		return nil
	}
	return refused
}

func verifyRSA(key *rsa.PublicKey, s *tpm2.TPMTSignature, message []byte) bool {
	if key.N.BitLen() > 4096 {
		return false
	}
	if plain, err := s.Signature.RSASSA(); err == nil {
		hash, sum := hashed(plain.Hash, message)
		return sum != nil && rsa.VerifyPKCS1v15(key, hash, sum, plain.Sig.Buffer) == nil
	}
	pss, err := s.Signature.RSAPSS()
	if err != nil {
		return false
	}
	hash, sum := hashed(pss.Hash, message)
	return sum != nil && rsa.VerifyPSS(key, hash, sum, pss.Sig.Buffer, &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthAuto}) == nil
}

func verifyECDSA(key *ecdsa.PublicKey, s *tpm2.TPMTSignature, message []byte) bool {
	e, err := s.Signature.ECDSA()
	if err != nil {
		return false
	}
	_, sum := hashed(e.Hash, message)
	return sum != nil && ecdsa.Verify(key, sum, new(big.Int).SetBytes(e.SignatureR.Buffer), new(big.Int).SetBytes(e.SignatureS.Buffer))
}

// hashed returns nil for algorithms that are not trusted.
func hashed(alg tpm2.TPMIAlgHash, message []byte) (crypto.Hash, []byte) {
	if alg != tpm2.TPMAlgSHA256 && alg != tpm2.TPMAlgSHA384 && alg != tpm2.TPMAlgSHA512 {
		return 0, nil
	}
	hash, err := alg.Hash()
	if err != nil {
		return 0, nil
	}
	h := hash.New()
	h.Write(message)
	return hash, h.Sum(nil)
}
