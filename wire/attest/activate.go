package attest

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/google/go-tpm/tpm2"

	"mooring/wire/der"
)

// MaxPublic bounds a public area.
const MaxPublic = 4 << 10

// AttestationKey is the public part of a key by which a TPM vouches for others.
type AttestationKey struct {
	Key  crypto.PublicKey
	SPKI []byte // DER
	Name []byte // of the object, for TPM2_ActivateCredential
}

// ParseAttestationKey reads a TPMT_PUBLIC, or a TPM2B_PUBLIC around it, and checks that the key can do nothing but vouch for what is in its TPM: it has the
// attributes fixedTPM, fixedParent, sensitiveDataOrigin, restricted and sign, and not decrypt.
func ParseAttestationKey(raw []byte) (*AttestationKey, error) {
	public, err := inner(raw)
	if err != nil {
		return nil, err
	}
	a := public.ObjectAttributes
	switch {
	case !a.FixedTPM || !a.FixedParent || !a.SensitiveDataOrigin:
		return nil, errors.New("the attestation key could leave the TPM, or was not made in it: it must have the attributes fixedTPM, fixedParent and sensitiveDataOrigin")
	case !a.Restricted || !a.SignEncrypt || a.Decrypt:
		return nil, errors.New("an attestation key has the attributes restricted and sign, and not decrypt")
	}
	k := &AttestationKey{}
	if k.Key, err = tpm2.Pub(*public); err != nil {
		return nil, fmt.Errorf("the attestation key: %w", err)
	}
	if k.SPKI, err = encoded(k.Key); err != nil {
		return nil, fmt.Errorf("the attestation key: %w", err)
	}
	name, err := tpm2.ObjectName(public)
	if err != nil {
		return nil, fmt.Errorf("the attestation key: %w", err)
	}
	k.Name = name.Buffer
	return k, nil
}

// inner reads a TPMT_PUBLIC, with or without the two octets of a size before it.
func inner(raw []byte) (*tpm2.TPMTPublic, error) {
	if len(raw) > MaxPublic {
		return nil, fmt.Errorf("the public area has more than %d octets", MaxPublic)
	}
	if len(raw) > 2 && int(raw[0])<<8|int(raw[1]) == len(raw)-2 {
		raw = raw[2:]
	}
	return parsePublic(raw)
}

// EndorsementKey is the public part of the key by which a TPM is known.
type EndorsementKey struct {
	Key    crypto.PublicKey
	SPKI   []byte // DER
	public *tpm2.TPMTPublic
}

// ParseEndorsementKey reads a TPMT_PUBLIC, or a TPM2B_PUBLIC around it, and checks that the key is a restricted decryption key that cannot leave its TPM.
func ParseEndorsementKey(raw []byte) (*EndorsementKey, error) {
	public, err := inner(raw)
	if err != nil {
		return nil, err
	}
	a := public.ObjectAttributes
	if !a.FixedTPM || !a.FixedParent || !a.SensitiveDataOrigin || !a.Restricted || !a.Decrypt || a.SignEncrypt {
		return nil, errors.New("an endorsement key has the attributes fixedTPM, fixedParent, sensitiveDataOrigin, restricted and decrypt, and not sign")
	}
	k := &EndorsementKey{public: public}
	if k.Key, err = tpm2.Pub(*public); err != nil {
		return nil, fmt.Errorf("the endorsement key: %w", err)
	}
	if k.SPKI, err = encoded(k.Key); err != nil {
		return nil, fmt.Errorf("the endorsement key: %w", err)
	}
	return k, nil
}

// encoded is a key that is acceptable, as SubjectPublicKeyInfo.
func encoded(key crypto.PublicKey) ([]byte, error) {
	spki, err := x509.MarshalPKIXPublicKey(key)
	if err == nil {
		err = der.CheckKey(key)
	}
	return spki, err
}

// usageEndorsementKey is tcg-kp-EKCertificate.
const usageEndorsementKey = "2.23.133.8.1"

// Endorsed checks that the first certificate is that of the key, and that it leads to one of roots.
func (ek *EndorsementKey) Endorsed(chain []*x509.Certificate, roots *x509.CertPool, now time.Time) error {
	leaf := chain[0]
	if leaf.IsCA || !bytes.Equal(leaf.RawSubjectPublicKeyInfo, ek.SPKI) {
		return errors.New("the certificate is for another key")
	}
	endorses := len(leaf.UnknownExtKeyUsage)+len(leaf.ExtKeyUsage) == 0
	for _, usage := range leaf.UnknownExtKeyUsage {
		endorses = endorses || usage.String() == usageEndorsementKey
	}
	if !endorses {
		return errors.New("the certificate is not for an endorsement key: it lacks the extended key usage " + usageEndorsementKey)
	}
	_, err := Lead(chain, roots, now)
	return err
}

// Credential is a secret that only the TPM with a certain endorsement key opens, and only when it holds a certain attestation key (TPM 2.0 Library,
// part 1, section 24). Both parts are as TPM2_ActivateCredential takes them inside their TPM2Bs.
type Credential struct {
	Object []byte // TPMS_ID_OBJECT
	Secret []byte // encrypted
}

// Wrap wraps secret, of 16 to 32 octets, for the TPM of ek and the key ak.
func (ek *EndorsementKey) Wrap(random io.Reader, ak *AttestationKey, secret []byte) (c Credential, err error) {
	to, err := tpm2.ImportEncapsulationKey(ek.public)
	if err != nil {
		return c, fmt.Errorf("the endorsement key: %w", err)
	}
	c.Object, c.Secret, err = tpm2.CreateCredential(random, to, ak.Name, secret)
	return c, err
}
