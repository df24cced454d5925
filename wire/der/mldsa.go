package der

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"errors"
	"fmt"

	"filippo.io/mldsa"
	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"
)

// ML-DSA in certificates, as RFC 9881 says: one object identifier names the key and the signature, parameters are
// absent, the message itself is signed with the empty context, and a private key is its seed of 32 octets. ML-DSA-87 is
// not offered; it is named in the refusal.
const (
	oidMLDSA44 OID = "\x60\x86\x48\x01\x65\x03\x04\x03\x11"
	oidMLDSA65 OID = "\x60\x86\x48\x01\x65\x03\x04\x03\x12"
	oidMLDSA87 OID = "\x60\x86\x48\x01\x65\x03\x04\x03\x13"
)

// mldsaPrefix is the AlgorithmIdentifier without its last octet (RFC 9881, section 2).
const mldsaPrefix = "\x30\x0b\x06\x09\x60\x86\x48\x01\x65\x03\x04\x03"

func mldsaParameters(id OID) (mldsa.Parameters, bool) {
	switch id {
	case oidMLDSA44:
		return mldsa.MLDSA44(), true
	case oidMLDSA65:
		return mldsa.MLDSA65(), true
	}
	return mldsa.Parameters{}, false
}

// mldsaAlgorithm is the signature algorithm of a key; 0 for sets that are not offered.
func mldsaAlgorithm(pub *mldsa.PublicKey) SignatureAlgorithm {
	switch pub.Parameters() {
	case mldsa.MLDSA44():
		return PureMLDSA44
	case mldsa.MLDSA65():
		return PureMLDSA65
	}
	return 0
}

func mldsaKind(pub *mldsa.PublicKey) KeyKind {
	switch mldsaAlgorithm(pub) {
	case PureMLDSA44:
		return KeyMLDSA44
	case PureMLDSA65:
		return KeyMLDSA65
	}
	return ""
}

func readMLDSA(id OID, parameters cryptobyte.String, bits []byte) (crypto.PublicKey, error) {
	set, ok := mldsaParameters(id)
	if !ok {
		return nil, fmt.Errorf("%w: ML-DSA-87 is not offered; use ML-DSA-65 or ML-DSA-44", ErrKey)
	}
	if !parameters.Empty() || len(bits) != set.PublicKeySize() {
		return nil, malformed(set.String() + " public key")
	}
	pub, err := mldsa.NewPublicKey(set, bits)
	if err != nil {
		return nil, malformed(set.String() + " public key")
	}
	return pub, nil
}

// EncodePublicKey is the SubjectPublicKeyInfo of a key of any kind that ParsePublicKey returns.
func EncodePublicKey(pub crypto.PublicKey) ([]byte, error) {
	k, ok := pub.(*mldsa.PublicKey)
	if !ok {
		spki, err := x509.MarshalPKIXPublicKey(pub)
		if err != nil {
			return nil, fmt.Errorf("%w: unsupported kind %T", ErrKey, pub)
		}
		return spki, nil
	}
	algorithm := mldsaAlgorithm(k)
	if algorithm == 0 {
		return nil, fmt.Errorf("%w: unsupported kind %s", ErrKey, k.Parameters())
	}
	content := AppendElement(algorithm.Identifier(), tagBitString, append([]byte{0}, k.Bytes()...))
	return AppendElement(nil, tagSequence, content), nil
}

// EncodePrivateKey is the unencrypted PKCS #8 form (RFC 5208) of an EC, Ed25519, RSA or ML-DSA key; of an ML-DSA key its
// seed alone (RFC 9881, section 6).
func EncodePrivateKey(key crypto.PrivateKey) ([]byte, error) {
	k, ok := key.(*mldsa.PrivateKey)
	if !ok {
		encoded, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			return nil, fmt.Errorf("%w: unsupported kind of private key %T", ErrKey, key)
		}
		return encoded, nil
	}
	algorithm := mldsaAlgorithm(k.PublicKey())
	if algorithm == 0 {
		return nil, fmt.Errorf("%w: unsupported kind %s", ErrKey, k.PublicKey().Parameters())
	}
	content := append([]byte{tagInteger, 1, 0}, algorithm.identifier()...)
	content = AppendElement(content, tagOctetString, AppendElement(nil, tagSeed, k.Bytes()))
	return AppendElement(nil, tagSequence, content), nil
}

// tagSeed is [0] IMPLICIT OCTET STRING (RFC 9881, section 6).
const tagSeed = 0x80

// What a person does about an ML-DSA key that holds more than its seed, as OpenSSL writes by default, or no seed.
const (
	bothForms = "the ML-DSA private key holds seed and expanded key; keep the seed alone: openssl pkey -in KEY -out NEW -provparam ml-dsa.output_formats=seed-only"
	noSeed    = "the ML-DSA private key holds only the expanded key, from which the seed cannot be had; where the seed is still known write it with openssl pkey -provparam ml-dsa.output_formats=seed-only, else make a new key"
)

// ParsePrivateKey reads an unencrypted PKCS #8 key of the kinds that EncodePrivateKey writes. Of ML-DSA keys it takes the
// form "seed" alone: the other two of RFC 9881, section 6, are refused with an error that says how to convert. Errors of
// refused keys wrap ErrKey.
func ParsePrivateKey(pkcs8 []byte) (crypto.Signer, error) {
	s, err := whole(pkcs8, asn1.SEQUENCE, "private key")
	if err != nil {
		return nil, err
	}
	var version int64
	var algorithm, key cryptobyte.String
	if !s.ReadASN1Integer(&version) || !s.ReadASN1(&algorithm, asn1.SEQUENCE) || !s.ReadASN1(&key, asn1.OCTET_STRING) {
		return nil, malformed("private key")
	}
	id, ok := readOID(&algorithm)
	if !ok {
		return nil, malformed("private key")
	}
	if id != oidMLDSA44 && id != oidMLDSA65 && id != oidMLDSA87 {
		return parseClassical(pkcs8)
	}
	if version != 0 && version != 1 || !algorithm.Empty() {
		return nil, malformed("ML-DSA private key")
	}
	k, err := readSeed(id, key)
	if err != nil {
		return nil, err
	}
	return k, checkRest(s, k.PublicKey())
}

func parseClassical(pkcs8 []byte) (crypto.Signer, error) {
	key, err := x509.ParsePKCS8PrivateKey(pkcs8)
	if err != nil {
		return nil, fmt.Errorf("malformed or unsupported private key: %w", err)
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("%w: a key that cannot sign (%T)", ErrKey, key)
	}
	return signer, nil
}

// readSeed reads ML-DSA-PrivateKey: CHOICE { seed [0] OCTET STRING, expandedKey OCTET STRING, both SEQUENCE }.
func readSeed(id OID, key cryptobyte.String) (*mldsa.PrivateKey, error) {
	switch {
	case key.PeekASN1Tag(asn1.SEQUENCE):
		return nil, fmt.Errorf("%w: %s", ErrKey, bothForms)
	case key.PeekASN1Tag(asn1.OCTET_STRING):
		return nil, fmt.Errorf("%w: %s", ErrKey, noSeed)
	}
	set, ok := mldsaParameters(id)
	if !ok {
		return nil, fmt.Errorf("%w: ML-DSA-87 is not offered; use ML-DSA-65 or ML-DSA-44", ErrKey)
	}
	var seed cryptobyte.String
	if !key.ReadASN1(&seed, asn1.Tag(0).ContextSpecific()) || !key.Empty() || len(seed) != mldsa.PrivateKeySize {
		return nil, malformed("ML-DSA private key")
	}
	return mldsa.NewPrivateKey(set, seed)
}

// checkRest reads what may follow the key: attributes, which nobody needs, and the public key (RFC 5958, section 2),
// which must be the key's own.
func checkRest(s cryptobyte.String, pub *mldsa.PublicKey) error {
	var public cryptobyte.String
	var has bool
	if !s.SkipOptionalASN1(asn1.Tag(0).ContextSpecific().Constructed()) ||
		!s.ReadOptionalASN1(&public, &has, asn1.Tag(1).ContextSpecific()) || !s.Empty() {
		return malformed("ML-DSA private key")
	}
	if has && (len(public) == 0 || public[0] != 0 || !bytes.Equal(public[1:], pub.Bytes())) {
		return errors.New("the private key comes with another key's public key")
	}
	return nil
}
