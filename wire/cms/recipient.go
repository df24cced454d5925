package cms

import (
	"crypto"
	"crypto/ecdh"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/asn1"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

var (
	oidOAEP        = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 7}
	oidMGF1        = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 8}
	oidECPublicKey = asn1.ObjectIdentifier{1, 2, 840, 10045, 2, 1}
	// dhSinglePass-stdDH-sha256kdf-scheme and its siblings (RFC 5753, section 7.1.4). We send the first.
	oidECDHSHA256 = asn1.ObjectIdentifier{1, 3, 132, 1, 11, 1}
	oidECDHSHA384 = asn1.ObjectIdentifier{1, 3, 132, 1, 11, 2}
	oidECDHSHA512 = asn1.ObjectIdentifier{1, 3, 132, 1, 11, 3}
)

// Recipient is one who can open a message: RSARecipient, ECRecipient or SharedRecipient.
type Recipient interface {
	// add adds the RecipientInfo in which key is encrypted for the recipient.
	add(b *cryptobyte.Builder, rand io.Reader, key []byte) error
	// original tells whether the RecipientInfo has version 0, which decides the version of the message.
	original() bool
}

// RSARecipient opens with an RSA key, by OAEP with SHA-256 (RFC 3560).
type RSARecipient struct {
	ID  KeyID
	Key *rsa.PublicKey
	// PKCS1v15 encrypts by PKCS #1 v1.5, which is all that clients of SCEP can open (RFC 8894, section 3.1).
	PKCS1v15 bool
}

// ECRecipient opens with an elliptic-curve key, by ephemeral Diffie-Hellman (RFC 5753). P-256 and P-384 are meant;
// P-521 works too.
type ECRecipient struct {
	ID  KeyID
	Key *ecdh.PublicKey
}

// SharedRecipient opens with an AES key that both sides have (RFC 5652, section 6.2.3).
type SharedRecipient struct {
	// ID is the key's identifier, known to the recipient.
	ID []byte
	// Key has 16 or 32 bytes.
	Key []byte
}

// String keeps the key out of printed text.
func (r SharedRecipient) String() string { return fmt.Sprintf("cms.SharedRecipient(%x)", r.ID) }

// GoString keeps the key out of %#v.
func (r SharedRecipient) GoString() string { return r.String() }

func (r RSARecipient) original() bool  { return r.ID.SubjectKey == nil }
func (ECRecipient) original() bool     { return false }
func (SharedRecipient) original() bool { return false }

func (r RSARecipient) add(b *cryptobyte.Builder, rand io.Reader, key []byte) error {
	encrypted, algorithm, err := r.encrypt(rand, key)
	if err != nil {
		return fmt.Errorf("encrypting for an RSA key: %w", err)
	}
	var version int64
	if !r.original() {
		version = 2
	}
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1Int64(version)
		addKeyID(b, r.ID)
		addAlgorithm(b, algorithm)
		b.AddASN1OctetString(encrypted)
	})
	return nil
}

func (r RSARecipient) encrypt(rand io.Reader, key []byte) ([]byte, Algorithm, error) {
	if r.PKCS1v15 {
		//lint:ignore SA1019 clients of SCEP can open nothing else
		encrypted, err := rsa.EncryptPKCS1v15(rand, r.Key, key)
		return encrypted, Algorithm{oidRSA, []byte{5, 0}}, err
	}
	parameters, err := encoded(addOAEPParameters)
	if err != nil {
		return nil, Algorithm{}, err
	}
	encrypted, err := rsa.EncryptOAEP(sha256.New(), rand, r.Key, key, nil)
	return encrypted, Algorithm{oidOAEP, parameters}, err
}

// addOAEPParameters adds RSAES-OAEP-params with SHA-256 throughout (RFC 4055, section 4.1).
func addOAEPParameters(b *cryptobyte.Builder) {
	hash := Algorithm{oidSHA256, []byte{5, 0}}
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1(tag0, func(b *cryptobyte.Builder) { addAlgorithm(b, hash) })
		b.AddASN1(tag1, func(b *cryptobyte.Builder) {
			b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
				b.AddASN1ObjectIdentifier(oidMGF1)
				addAlgorithm(b, hash)
			})
		})
	})
}

// isOAEP tells whether an algorithm is OAEP with SHA-256 throughout and no label.
func isOAEP(a Algorithm) bool {
	input := cryptobyte.String(a.Parameters)
	var s, hashes, masks cryptobyte.String
	var hash, mask, maskHash Algorithm
	if !a.OID.Equal(oidOAEP) || !input.ReadASN1(&s, cbasn1.SEQUENCE) || !input.Empty() ||
		!s.ReadASN1(&hashes, tag0) || !s.ReadASN1(&masks, tag1) || !s.Empty() ||
		!readAlgorithm(&hashes, &hash) || !hashes.Empty() || !readAlgorithm(&masks, &mask) || !masks.Empty() {
		return false
	}
	parameters := cryptobyte.String(mask.Parameters)
	return readAlgorithm(&parameters, &maskHash) && parameters.Empty() && mask.OID.Equal(oidMGF1) &&
		hash.OID.Equal(oidSHA256) && hash.plain() && maskHash.OID.Equal(oidSHA256) && maskHash.plain()
}

func (r ECRecipient) add(b *cryptobyte.Builder, rand io.Reader, key []byte) error {
	ephemeral, err := r.Key.Curve().GenerateKey(rand)
	if err != nil {
		return fmt.Errorf("making an ephemeral key: %w", err)
	}
	secret, err := ephemeral.ECDH(r.Key)
	if err != nil {
		return fmt.Errorf("agreeing on a key: %w", err)
	}
	wrap, err := wrapAlgorithm(len(key))
	if err != nil {
		return err
	}
	kek, err := deriveKey(crypto.SHA256, secret, wrap, nil)
	if err != nil {
		return err
	}
	wrapped, err := wrapKey(kek, key)
	if err != nil {
		return err
	}
	wrapDER, err := encoded(func(b *cryptobyte.Builder) { addAlgorithm(b, wrap) })
	if err != nil {
		return err
	}
	b.AddASN1(tag1, func(b *cryptobyte.Builder) {
		b.AddASN1Int64(3)
		b.AddASN1(tag0, func(b *cryptobyte.Builder) { // originator
			b.AddASN1(tag1, func(b *cryptobyte.Builder) { // originatorKey
				addAlgorithm(b, Algorithm{OID: oidECPublicKey})
				b.AddASN1BitString(ephemeral.PublicKey().Bytes())
			})
		})
		addAlgorithm(b, Algorithm{oidECDHSHA256, wrapDER})
		b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
			b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
				addAgreementID(b, r.ID)
				b.AddASN1OctetString(wrapped)
			})
		})
	})
	return nil
}

// addAgreementID adds a KeyAgreeRecipientIdentifier, which wraps a subject key identifier once more.
func addAgreementID(b *cryptobyte.Builder, id KeyID) {
	if id.SubjectKey != nil {
		b.AddASN1(tag0, func(b *cryptobyte.Builder) { b.AddASN1OctetString(id.SubjectKey) })
		return
	}
	addIssuerAndSerial(b, id)
}

func (r SharedRecipient) add(b *cryptobyte.Builder, _ io.Reader, key []byte) error {
	if len(r.ID) == 0 {
		return errors.New("a shared key needs an identifier")
	}
	wrap, err := wrapAlgorithm(len(r.Key))
	if err != nil {
		return err
	}
	wrapped, err := wrapKey(r.Key, key)
	if err != nil {
		return err
	}
	b.AddASN1(tag2, func(b *cryptobyte.Builder) {
		b.AddASN1Int64(4)
		b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) { b.AddASN1OctetString(r.ID) })
		addAlgorithm(b, wrap)
		b.AddASN1OctetString(wrapped)
	})
	return nil
}

// wrapAlgorithm returns AES key wrap under a key of the given size in bytes (RFC 3565, section 2.3.2).
func wrapAlgorithm(size int) (Algorithm, error) {
	oid := asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 1, 5}
	switch size {
	case 16:
	case 24:
		oid[8] = 25
	case 32:
		oid[8] = 45
	default:
		return Algorithm{}, fmt.Errorf("an AES key cannot have %d bytes", size)
	}
	return Algorithm{OID: oid}, nil
}

// wrapSize returns the key size in bytes of a key wrap algorithm, or 0.
func wrapSize(a Algorithm) int {
	for _, size := range []int{16, 24, 32} {
		if want, err := wrapAlgorithm(size); err == nil && want.OID.Equal(a.OID) && a.plain() {
			return size
		}
	}
	return 0
}

// deriveKey turns a Diffie-Hellman secret into a key for the wrap algorithm by the KDF of ANSI X9.63 over
// ECC-CMS-SharedInfo (RFC 5753, section 7.2). The algorithm goes in as it was sent, NULL or not.
func deriveKey(hash crypto.Hash, secret []byte, wrap Algorithm, ukm []byte) ([]byte, error) {
	size := wrapSize(wrap)
	info, err := encoded(func(b *cryptobyte.Builder) {
		b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
			addAlgorithm(b, wrap)
			if ukm != nil {
				b.AddASN1(tag0, func(b *cryptobyte.Builder) { b.AddASN1OctetString(ukm) })
			}
			b.AddASN1(tag2, func(b *cryptobyte.Builder) {
				b.AddASN1OctetString(binary.BigEndian.AppendUint32(nil, uint32(8*size)))
			})
		})
	})
	if err != nil || size == 0 {
		return nil, fmt.Errorf("key wrap %v is not supported", wrap.OID)
	}
	// The shortest hash gives 32 bytes, the longest key: one round with counter 1 is enough.
	h := hash.New()
	h.Write(secret)
	h.Write([]byte{0, 0, 0, 1})
	h.Write(info)
	return h.Sum(nil)[:size], nil
}
