//go:build pkcs11

package pkcs11

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"encoding/asn1"
	"encoding/binary"
	"math/big"

	"mooring/internal/base/errs"
)

// The curves as CKA_EC_PARAMS names them: an object identifier, DER (RFC 5480, section 2.1.1.1; RFC 8410, section 3).
func oidP256() []byte    { return []byte{0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07} }
func oidP384() []byte    { return []byte{0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x22} }
func oidEd25519() []byte { return []byte{0x06, 0x03, 0x2b, 0x65, 0x70} }

// nameEd25519 is the other form of PKCS #11 3.0, a PrintableString.
const nameEd25519 = "\x13\x0cedwards25519"

func strange(what string) error {
	return errs.New(errs.Unavailable, "the token shows a public key that cannot be read: %s", what)
}

// curveKey makes a public key of CKA_EC_PARAMS and CKA_EC_POINT. The point is an OCTET STRING around the encoding of the curve, but some tokens
// leave the wrapper out.
func curveKey(params, point []byte) (crypto.PublicKey, error) {
	switch string(params) {
	case string(oidP256()):
		return ecKey(elliptic.P256(), point)
	case string(oidP384()):
		return ecKey(elliptic.P384(), point)
	case string(oidEd25519()), nameEd25519:
		if raw := unwrapped(point, ed25519.PublicKeySize); raw != nil {
			return ed25519.PublicKey(raw), nil
		}
		return nil, strange("the point of an Ed25519 key has another length")
	}
	return nil, strange("its curve is neither P-256, P-384 nor Ed25519")
}

func ecKey(curve elliptic.Curve, point []byte) (crypto.PublicKey, error) {
	raw := unwrapped(point, 1+2*((curve.Params().BitSize+7)/8))
	if raw == nil {
		return nil, strange("its point has another length")
	}
	pub, err := ecdsa.ParseUncompressedPublicKey(curve, raw)
	if err != nil {
		return nil, strange("its point is not on the curve")
	}
	return pub, nil
}

// unwrapped returns the size octets of a point, with or without the OCTET STRING around them, or nil.
func unwrapped(point []byte, size int) []byte {
	if len(point) == size {
		return point
	}
	var inner []byte
	if rest, err := asn1.Unmarshal(point, &inner); err == nil && len(rest) == 0 && len(inner) == size {
		return inner
	}
	return nil
}

func rsaKey(n, e []byte) (crypto.PublicKey, error) {
	exponent := new(big.Int).SetBytes(e)
	if !exponent.IsInt64() || exponent.Int64() < 3 || exponent.Int64() >= 1<<31 {
		return nil, strange("its RSA exponent is out of range")
	}
	return &rsa.PublicKey{N: new(big.Int).SetBytes(n), E: int(exponent.Int64())}, nil
}

// ecdsaDER turns r and s as CKM_ECDSA returns them, each of half the length, into the ECDSA-Sig-Value of RFC 3279, section 2.2.3.
func ecdsaDER(raw []byte) ([]byte, error) {
	if len(raw) == 0 || len(raw)%2 != 0 {
		return nil, errs.New(errs.Unavailable, "the token returned a signature of %d octets, which is none", len(raw))
	}
	half := len(raw) / 2
	return asn1.Marshal(struct{ R, S *big.Int }{new(big.Int).SetBytes(raw[:half]), new(big.Int).SetBytes(raw[half:])})
}

// digestInfo puts the DigestInfo of PKCS #1 v1.5 (RFC 8017, section 9.2, note 1) before a digest; CKM_RSA_PKCS does only the padding.
func digestInfo(hash crypto.Hash, digest []byte) ([]byte, error) {
	var last byte
	switch hash {
	case crypto.SHA256:
		last = 1
	case crypto.SHA384:
		last = 2
	case crypto.SHA512:
		last = 3
	default:
		return nil, errs.New(errs.Invalid, "a token signs digests of SHA-256, SHA-384 and SHA-512, not of %s", hash)
	}
	n := byte(len(digest))
	head := []byte{0x30, 17 + n, 0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, last, 0x05, 0x00, 0x04, n}
	return append(head, digest...), nil
}

func nativeUint32(b []byte) uint32 { return binary.NativeEndian.Uint32(b) }
func nativeUint64(b []byte) uint64 { return binary.NativeEndian.Uint64(b) }
