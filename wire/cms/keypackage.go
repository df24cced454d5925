package cms

import (
	"errors"
	"fmt"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

// maxKeys is the largest number of private keys in one package.
const maxKeys = 8

// SealKeys returns the DER of private keys made by a server for a device: an envelope around SignedData around an
// AsymmetricKeyPackage (RFC 7030, section 4.4.2). The keys are PKCS#8 (OneAsymmetricKey). The content types and
// contents of both inputs are set here; the rest says who signs and who can open it.
//
// Choose a CBC cipher unless the device asked for GCM: releases of OpenSSL before the summer of 2026 read no
// AuthEnvelopedData with anything but plain data in it (openssl/openssl issue 26101). The signature inside protects
// the keys from change either way.
func SealKeys(keys [][]byte, sign SignInput, encrypt EncryptInput) ([]byte, error) {
	content, err := encodeKeyPackage(keys)
	if err != nil {
		return nil, err
	}
	defer clear(content)
	sign.ContentType, sign.Content = OIDKeyPackage, content
	message, err := Sign(sign)
	if err != nil {
		return nil, err
	}
	defer clear(message)
	// What stands in an envelope is the content itself, the SignedData, not the ContentInfo around it.
	contentType, signed, err := ParseContentInfo(message)
	if err != nil {
		return nil, err
	}
	defer clear(signed)
	encrypt.ContentType, encrypt.Content = contentType, signed
	return Encrypt(encrypt)
}

// OpenKeys undoes SealKeys. The keys are PKCS#8. Nothing is verified: before using the keys, call Verify on the
// returned SignedData with the certificate of the server that may make keys.
func OpenKeys(der []byte, key Key) (keys [][]byte, signed *Signed, err error) {
	envelope, err := ParseEnveloped(der)
	if err != nil {
		return nil, nil, err
	}
	content, err := envelope.Open(key)
	if err != nil {
		return nil, nil, err
	}
	if !envelope.ContentType.Equal(OIDSignedData) {
		return nil, nil, fmt.Errorf("envelope holds content type %v, want signed data", envelope.ContentType)
	}
	if signed, err = parseSignedData(content); err != nil {
		return nil, nil, err
	}
	if !signed.ContentType.Equal(OIDKeyPackage) {
		return nil, nil, fmt.Errorf("signed data holds content type %v, want a key package", signed.ContentType)
	}
	if keys, err = ParseKeyPackage(signed.Content); err != nil {
		return nil, nil, err
	}
	return keys, signed, nil
}

func encodeKeyPackage(keys [][]byte) ([]byte, error) {
	if len(keys) == 0 || len(keys) > maxKeys {
		return nil, fmt.Errorf("a key package has %d keys; 1 to %d are allowed", len(keys), maxKeys)
	}
	return encoded(func(b *cryptobyte.Builder) {
		b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
			for _, key := range keys {
				s := cryptobyte.String(key)
				if !s.SkipASN1(cbasn1.SEQUENCE) || !s.Empty() {
					b.SetError(errors.New("a private key is not PKCS#8"))
					return
				}
				b.AddBytes(key)
			}
		})
	})
}

// ParseKeyPackage returns the keys of an AsymmetricKeyPackage (RFC 5958, section 2), each as PKCS#8 that is not parsed.
func ParseKeyPackage(der []byte) ([][]byte, error) {
	input := cryptobyte.String(der)
	var list cryptobyte.String
	if len(der) > MaxSize || !input.ReadASN1(&list, cbasn1.SEQUENCE) || !input.Empty() || list.Empty() {
		return nil, fmt.Errorf("reading the key package: %w", errForm)
	}
	var keys [][]byte
	for !list.Empty() {
		var key cryptobyte.String
		if len(keys) == maxKeys || !list.ReadASN1Element(&key, cbasn1.SEQUENCE) {
			return nil, fmt.Errorf("reading the keys, of which there may be %d: %w", maxKeys, errForm)
		}
		keys = append(keys, append([]byte{}, key...))
	}
	return keys, nil
}
