package cms

import (
	"bytes"
	"crypto"
	"crypto/ecdh"
	"crypto/rsa"
	"encoding/asn1"
	"fmt"
)

// Key opens messages: RSAKey, ECKey or SharedKey.
type Key interface {
	// names tells whether a recipient is meant for this key.
	names(r *RecipientInfo) bool
	// contentKey decrypts the key of the content.
	contentKey(r *RecipientInfo) ([]byte, error)
}

// RSAKey is the private key of an RSARecipient.
type RSAKey struct {
	ID KeyID
	// Key decrypts OAEP; *rsa.PrivateKey and keys in hardware do.
	Key crypto.Decrypter
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

func (k RSAKey) contentKey(r *RecipientInfo) ([]byte, error) {
	if !isOAEP(r.algorithm) {
		return nil, errOpen
	}
	return k.Key.Decrypt(nil, r.encrypted, &rsa.OAEPOptions{Hash: crypto.SHA256})
}

func (k ECKey) contentKey(r *RecipientInfo) ([]byte, error) {
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

func (k SharedKey) contentKey(r *RecipientInfo) ([]byte, error) {
	if wrapSize(r.algorithm) != len(k.Key) {
		return nil, errOpen
	}
	return unwrapKey(k.Key, r.encrypted)
}
