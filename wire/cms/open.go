package cms

import (
	"bytes"
	"crypto"
	"crypto/ecdh"
	"crypto/rsa"
	"encoding/asn1"
	"fmt"
	"io"
)

// Key opens messages: RSAKey, ECKey or SharedKey.
type Key interface {
	// names tells whether a recipient is meant for this key.
	names(r *RecipientInfo) bool
	// contentKey decrypts the key of the content, which has size bytes.
	contentKey(r *RecipientInfo, size int) ([]byte, error)
	// opens tells whether content in this cipher may be opened.
	opens(c Cipher) bool
}

// RSAKey is the private key of an RSARecipient.
type RSAKey struct {
	ID KeyID
	// Key decrypts OAEP, and PKCS #1 v1.5 with PKCS1v15; *rsa.PrivateKey and keys in hardware do.
	Key crypto.Decrypter
	// PKCS1v15 lets the message be encrypted by PKCS #1 v1.5 too, as SCEP demands (RFC 8894, section 3.1). Whether its padding was right never
	// shows: with a wrong one the content is decrypted with a key drawn at random (RFC 3218, section 2.3.2).
	PKCS1v15 bool
	// TripleDES lets content in triple DES be opened.
	TripleDES bool
	// Rand is the source of that key; it must be set with PKCS1v15.
	Rand io.Reader
}

// ECKey is the private key of an ECRecipient.
type ECKey struct {
	ID KeyID
	// Key does Diffie-Hellman; *ecdh.PrivateKey and keys in hardware do.
	Key ecdh.KeyExchanger
}

// SharedKey is the key of a SharedRecipient.
type SharedKey struct {
	ID, Key []byte
}

// String keeps the key out of printed text.
func (k SharedKey) String() string { return fmt.Sprintf("cms.SharedKey(%x)", k.ID) }

// GoString keeps the key out of %#v.
func (k SharedKey) GoString() string { return k.String() }

func (k RSAKey) names(r *RecipientInfo) bool {
	return r.SharedID == nil && r.agreement == nil && k.ID.equal(r.ID)
}

func (k ECKey) names(r *RecipientInfo) bool {
	return r.agreement != nil && k.ID.equal(r.ID)
}

func (k SharedKey) names(r *RecipientInfo) bool {
	return r.SharedID != nil && bytes.Equal(k.ID, r.SharedID)
}

func (k RSAKey) contentKey(r *RecipientInfo, size int) ([]byte, error) {
	if k.PKCS1v15 && r.algorithm.OID.Equal(oidRSA) && r.algorithm.plain() {
		//lint:ignore SA1019 SCEP has nothing else; no error of it shows
		return k.Key.Decrypt(k.Rand, r.encrypted, &rsa.PKCS1v15DecryptOptions{SessionKeyLen: size})
	}
	if !isOAEP(r.algorithm) {
		return nil, errOpen
	}
	return k.Key.Decrypt(nil, r.encrypted, &rsa.OAEPOptions{Hash: crypto.SHA256})
}

func (k RSAKey) opens(c Cipher) bool  { return c != TripleDESCBC || k.TripleDES }
func (ECKey) opens(c Cipher) bool     { return c != TripleDESCBC }
func (SharedKey) opens(c Cipher) bool { return c != TripleDESCBC }

func (k ECKey) contentKey(r *RecipientInfo, _ int) ([]byte, error) {
	point, err := k.Key.Curve().NewPublicKey(r.agreement.point)
	if err != nil {
		return nil, err
	}
	secret, err := k.Key.ECDH(point)
	if err != nil {
		return nil, err
	}
	kek, err := deriveKey(agreementHash(r.agreement.scheme), secret, r.algorithm, r.agreement.user)
	if err != nil {
		return nil, err
	}
	return unwrapKey(kek, r.encrypted)
}

// agreementHash returns the hash of a key agreement scheme, or SHA-256, with which others merely do not open.
func agreementHash(scheme asn1.ObjectIdentifier) crypto.Hash {
	switch {
	case scheme.Equal(oidECDHSHA384):
		return crypto.SHA384
	case scheme.Equal(oidECDHSHA512):
		return crypto.SHA512
	}
	return crypto.SHA256
}

func (k SharedKey) contentKey(r *RecipientInfo, _ int) ([]byte, error) {
	if wrapSize(r.algorithm) != len(k.Key) {
		return nil, errOpen
	}
	return unwrapKey(k.Key, r.encrypted)
}
