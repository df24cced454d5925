package der

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"errors"
	"fmt"
	"math"
	"math/big"
	"strconv"

	"filippo.io/mldsa"
	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"
)

// ErrKey is wrapped by every error that refuses a public key for what it is: an unsupported kind, too short, a weak
// exponent, a known flaw. A malformed encoding does not wrap it.
var ErrKey = errors.New("public key refused")

// maxRSABits is the modulus size above which RSA keys are refused before anything is computed with them.
const maxRSABits = 8192

// ParsePublicKey reads a SubjectPublicKeyInfo: EC on P-256, P-384 and P-521 as uncompressed points that lie on the
// curve, Ed25519, RSA up to 8192 bits, and ML-DSA-44 and -65. It returns *ecdsa.PublicKey, ed25519.PublicKey,
// *rsa.PublicKey or *mldsa.PublicKey (filippo.io/mldsa). Whether the key is good enough is CheckKey's question.
func ParsePublicKey(spki []byte) (crypto.PublicKey, error) {
	s, err := whole(spki, asn1.SEQUENCE, "public key")
	if err != nil {
		return nil, err
	}
	var algorithm cryptobyte.String
	var bits []byte
	if !s.ReadASN1(&algorithm, asn1.SEQUENCE) || !s.ReadASN1BitStringAsBytes(&bits) || !s.Empty() {
		return nil, malformed("public key")
	}
	id, ok := readOID(&algorithm)
	if !ok {
		return nil, malformed("public key")
	}
	switch id {
	case oidEC:
		return readEC(algorithm, bits)
	case oidEd25519:
		if !algorithm.Empty() || len(bits) != ed25519.PublicKeySize {
			return nil, malformed("Ed25519 public key")
		}
		return ed25519.PublicKey(bits), nil
	case oidRSA:
		return readRSA(algorithm, bits)
	case oidMLDSA44, oidMLDSA65, oidMLDSA87:
		return readMLDSA(id, algorithm, bits)
	case oidRSAPSS:
		return nil, fmt.Errorf("%w: RSA key restricted to PSS; encode it as plain rsaEncryption", ErrKey)
	}
	return nil, fmt.Errorf("%w: unsupported algorithm %s; use EC P-256, Ed25519, RSA or ML-DSA", ErrKey, id)
}

func readEC(parameters cryptobyte.String, point []byte) (crypto.PublicKey, error) {
	if parameters.PeekASN1Tag(asn1.SEQUENCE) {
		return nil, fmt.Errorf("%w: explicit curve parameters; use a named curve", ErrKey)
	}
	id, ok := readOID(&parameters)
	if !ok || !parameters.Empty() {
		return nil, malformed("EC public key")
	}
	curve, err := namedCurve(id)
	if err != nil {
		return nil, err
	}
	if len(point) > 0 && point[0] != 4 {
		return nil, fmt.Errorf("%w: EC point that is not in uncompressed form", ErrKey)
	}
	pub, err := ecdsa.ParseUncompressedPublicKey(curve, point)
	if err != nil {
		return nil, fmt.Errorf("%w: EC point of the wrong length or not on the curve", ErrKey)
	}
	return pub, nil
}

func namedCurve(id OID) (elliptic.Curve, error) {
	switch id {
	case oidP256:
		return elliptic.P256(), nil
	case oidP384:
		return elliptic.P384(), nil
	case oidP521:
		return elliptic.P521(), nil
	}
	return nil, fmt.Errorf("%w: unsupported curve %s; use P-256", ErrKey, curveName(id))
}

// curveName is what people call the refused curves that they use most.
func curveName(id OID) string {
	switch id {
	case oidP192:
		return "P-192"
	case oidP224:
		return "P-224"
	case oidSecp256k1:
		return "secp256k1"
	}
	return id.String()
}

func readRSA(parameters cryptobyte.String, bits []byte) (crypto.PublicKey, error) {
	var null cryptobyte.String
	if !parameters.ReadASN1(&null, asn1.NULL) || !null.Empty() || !parameters.Empty() {
		return nil, malformed("RSA public key")
	}
	key, err := whole(bits, asn1.SEQUENCE, "RSA public key")
	if err != nil {
		return nil, err
	}
	var modulus, exponent []byte // ReadASN1Integer into []byte refuses negative and non-minimal integers
	if !key.ReadASN1Integer(&modulus) || !key.ReadASN1Integer(&exponent) || !key.Empty() {
		return nil, malformed("RSA public key")
	}
	n := new(big.Int).SetBytes(modulus)
	e := new(big.Int).SetBytes(exponent)
	switch {
	case n.Sign() == 0 || e.Sign() == 0:
		return nil, fmt.Errorf("%w: RSA modulus or exponent of zero", ErrKey)
	case n.BitLen() > maxRSABits:
		return nil, fmt.Errorf("%w: RSA key of %d bits, more than anything here accepts", ErrKey, n.BitLen())
	case e.Cmp(big.NewInt(math.MaxInt32)) > 0:
		return nil, fmt.Errorf("%w: RSA exponent of more than 31 bits; use 65537", ErrKey)
	}
	return &rsa.PublicKey{N: n, E: int(e.Int64())}, nil
}

// KeyKind names the kind and strength of a public key: "ec-p256", "ec-p384", "ec-p521", "ed25519", "ml-dsa-44",
// "ml-dsa-65", "rsa-2048" (with the bits that the modulus really has).
type KeyKind string

// The kinds with a fixed size.
const (
	ECP256     KeyKind = "ec-p256"
	ECP384     KeyKind = "ec-p384"
	ECP521     KeyKind = "ec-p521"
	KeyEd25519 KeyKind = "ed25519"
	KeyMLDSA44 KeyKind = "ml-dsa-44"
	KeyMLDSA65 KeyKind = "ml-dsa-65"
)

// KindOf is the kind of a public key; empty for keys that ParsePublicKey does not return.
func KindOf(pub crypto.PublicKey) KeyKind {
	switch pub := pub.(type) {
	case *ecdsa.PublicKey:
		switch pub.Curve {
		case elliptic.P256():
			return ECP256
		case elliptic.P384():
			return ECP384
		case elliptic.P521():
			return ECP521
		}
	case ed25519.PublicKey:
		return KeyEd25519
	case *rsa.PublicKey:
		return KeyKind("rsa-" + strconv.Itoa(pub.N.BitLen()))
	case *mldsa.PublicKey:
		return mldsaKind(pub)
	}
	return ""
}

// CheckKey refuses keys that Mooring certifies for nobody, whatever the profile: kinds that KindOf does not know, RSA
// outside 2048 to 4096 bits, RSA with an even exponent or one below 65537, and RSA keys with the ROCA flaw
// (CVE-2017-15361). Do this before checking a signature by the key. Errors wrap ErrKey.
func CheckKey(pub crypto.PublicKey) error {
	key, isRSA := pub.(*rsa.PublicKey)
	if !isRSA {
		if KindOf(pub) == "" {
			return fmt.Errorf("%w: unsupported kind %T", ErrKey, pub)
		}
		return nil
	}
	switch bits := key.N.BitLen(); {
	case bits < 2048:
		return fmt.Errorf("%w: RSA key of %d bits; at least 2048 are needed", ErrKey, bits)
	case bits > 4096:
		return fmt.Errorf("%w: RSA key of %d bits; at most 4096 are accepted", ErrKey, bits)
	case key.N.Bit(0) == 0:
		return fmt.Errorf("%w: even RSA modulus", ErrKey)
	case key.E < 65537 || key.E%2 == 0:
		return fmt.Errorf("%w: RSA exponent %d; use 65537", ErrKey, key.E)
	case hasROCA(key.N):
		return fmt.Errorf("%w: RSA key from the flawed generator of CVE-2017-15361 (ROCA); replace it and its maker's firmware", ErrKey)
	}
	return nil
}

// hasROCA recognises moduli of the flawed generator. Its primes are powers of 65537 modulo the product of the first
// primes, hence so is their product, modulo each small prime. A random modulus passes by chance once in some 2^27.
func hasROCA(n *big.Int) bool {
	for p := int64(3); p <= 167; p += 2 {
		if !big.NewInt(p).ProbablyPrime(0) {
			continue
		}
		residue := new(big.Int).Mod(n, big.NewInt(p)).Int64()
		power := int64(1)
		for power != residue {
			power = power * 65537 % p
			if power == 1 {
				return false
			}
		}
	}
	return true
}

// HashSPKI is the SHA-256 of a SubjectPublicKeyInfo, by which keys are looked up.
func HashSPKI(spki []byte) [32]byte { return sha256.Sum256(spki) }

// KeyBits is the content of the BIT STRING of a SubjectPublicKeyInfo, without the octet that counts unused bits: what
// key identifiers and the key hashes of OCSP are computed over.
func KeyBits(spki []byte) ([]byte, error) {
	s, err := whole(spki, asn1.SEQUENCE, "public key")
	if err != nil {
		return nil, err
	}
	var bits []byte
	if !s.SkipASN1(asn1.SEQUENCE) || !s.ReadASN1BitStringAsBytes(&bits) || !s.Empty() {
		return nil, malformed("public key")
	}
	return bits, nil
}

// SubjectKeyID is the key identifier that Mooring writes: the leftmost 160 bits of the SHA-256 of the BIT STRING
// content (RFC 7093, section 2, method 1).
func SubjectKeyID(spki []byte) ([20]byte, error) {
	bits, err := KeyBits(spki)
	if err != nil {
		return [20]byte{}, err
	}
	sum := sha256.Sum256(bits)
	return [20]byte(sum[:20]), nil
}
