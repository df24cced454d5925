// Package butterfly has the cryptography by which vehicles get certificates that nobody can link to each other: butterfly key expansion, implicit certificates
// and linkage values of IEEE 1609.2.1, and the encryption of keys and messages of IEEE 1609.2. Everything is on P-256 and, where secrets are touched, takes a time
// that does not depend on them. Points are written as SEC 1 has it, compressed; scalars have 32 octets. Randomness comes from the caller.
//
// Butterfly expansion. A vehicle has a caterpillar key (a, A) and hands out A with the key k of an expansion function. Whoever has both makes as many cocoon keys
// A + f_k(i,j)·G as are wanted, for period i and number j; only the vehicle can make the private keys a + f_k(i,j):
//
//	x        = prefix (32 bits: 0 for signing, 1s for encryption) || i (32) || j (32) || 0 (32)
//	f_k(i,j) = (AES_k(x+1) ^ (x+1)  ||  AES_k(x+2) ^ (x+2)  ||  AES_k(x+3) ^ (x+3)) mod n
//
// So that whoever expands does not know the keys of certificates either, the authority that issues them adds a point of its own: see ECQV and Randomise.
//
// Implicit certificates (ECQV). For a request with key U the authority takes a random k and puts P = U + k·G into the certificate instead of a key and a signature. With
// e the digest of the certificate and its issuer's, all 256 bits of it, the key of the certificate is Q = e·P + Q_CA. The authority returns r = e·k + d_CA, and
// the private key is e·u + r. That the key was not forged shows only when it is used, or by comparing its public key with Q.
//
// Encryption (ECIES). The key of a message is wrapped for the key K of a recipient with an ephemeral key (v, V): Z is the x-coordinate of v·K, and
//
//	K1 (16) || K2 (32) = KDF2-SHA256(Z, P1)    C = key ^ K1    T = HMAC-SHA256(K2, C), of which the first 16 octets
//
// P1 says for whom it is; what it is the digest of depends on how the recipient is named. The message itself goes by AES-128 in CCM mode, with a nonce of 12 octets and a
// tag of 16.
//
// There are patents on butterfly expansion, among them US 12010247; doc/v2x.md says more.
package butterfly

import (
	"errors"
	"io"

	"filippo.io/bigmod"
	"filippo.io/nistec"
)

// What can be wrong.
var (
	ErrPoint   = errors.New("the octets are no point of P-256, or infinity")
	ErrScalar  = errors.New("the octets are no scalar of P-256: 0, or not below the order")
	ErrRandom  = errors.New("the source of randomness gives nothing of use")
	ErrOpen    = errors.New("the message or its key was encrypted for somebody else, or changed")
	ErrDigest  = errors.New("the digest of the certificate gives no key; issue it with another random number")
	ErrForged  = errors.New("the private key does not belong to the certificate")
	ErrNonce   = errors.New("the nonce was used with this key before")
	ErrTooLong = errors.New("the message is too long to be encrypted")
)

// order is the number of points of P-256.
var order = mustModulus([]byte{
	0xff, 0xff, 0xff, 0xff, 0x00, 0x00, 0x00, 0x00, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
	0xbc, 0xe6, 0xfa, 0xad, 0xa7, 0x17, 0x9e, 0x84, 0xf3, 0xb9, 0xca, 0xc2, 0xfc, 0x63, 0x25, 0x51,
})

// mustModulus panics if its constant is no modulus.
func mustModulus(b []byte) *bigmod.Modulus {
	m, err := bigmod.NewModulus(b)
	if err != nil {
		panic(err)
	}
	return m
}

// Scalar is a private key, or something that is added to one: a number below the order of P-256. It refuses to be printed.
type Scalar struct{ n *bigmod.Nat }

// NewScalar reads a scalar of 32 octets that is neither 0 nor beyond the order.
func NewScalar(b []byte) (Scalar, error) {
	if len(b) != 32 {
		return Scalar{}, ErrScalar
	}
	n, err := bigmod.NewNat().SetBytes(b, order)
	if err != nil || n.IsZero() == 1 {
		return Scalar{}, ErrScalar
	}
	return Scalar{n}, nil
}

// maxTries is how often a random number may lie beyond the order, which happens once in 2^32 times.
const maxTries = 8

// RandomScalar takes a scalar from a source of randomness.
func RandomScalar(random io.Reader) (Scalar, error) {
	var b [32]byte
	for range maxTries {
		if _, err := io.ReadFull(random, b[:]); err != nil {
			return Scalar{}, err
		}
		if s, err := NewScalar(b[:]); err == nil {
			return s, nil
		}
	}
	return Scalar{}, ErrRandom
}

// reduce is a number of up to 48 octets modulo the order; it may be 0.
func reduce(b []byte) Scalar {
	var wide [48]byte
	copy(wide[48-len(b):], b)
	high, low := part(wide[:24]), part(wide[24:])
	shift := make([]byte, 32)
	shift[7] = 1 // 2^192
	by, err := bigmod.NewNat().SetBytes(shift, order)
	if err != nil {
		panic(err) // it is below the order
	}
	return Scalar{high.Mul(by, order).Add(low, order)}
}

func part(b []byte) *bigmod.Nat {
	n, err := bigmod.NewNat().SetBytes(b, order)
	if err != nil {
		panic(err) // 24 octets are below the order
	}
	return n
}

// Bytes are its 32 octets.
func (s Scalar) Bytes() []byte { return s.n.Bytes(order) }

// String does not tell.
func (s Scalar) String() string { return "a secret scalar" }

// GoString does not tell either.
func (s Scalar) GoString() string { return s.String() }

func (s Scalar) isZero() bool { return s.n.IsZero() == 1 }

func copyNat(n *bigmod.Nat) *bigmod.Nat {
	return bigmod.NewNat().ExpandFor(order).Add(n, order)
}

// Add is s + t. It is not 0 but with a probability of nothing.
func (s Scalar) Add(t Scalar) Scalar { return Scalar{copyNat(s.n).Add(t.n, order)} }

// Mul is s · t.
func (s Scalar) Mul(t Scalar) Scalar { return Scalar{copyNat(s.n).Mul(t.n, order)} }

// Public is s·G.
func (s Scalar) Public() Point {
	p, err := nistec.NewP256Point().ScalarBaseMult(s.Bytes())
	if err != nil {
		panic(err) // 32 octets
	}
	return Point{p}
}

// Point is a point of P-256: a public key, or something that is added to one.
type Point struct{ p *nistec.P256Point }

// NewPoint reads a point in one of the forms of SEC 1, compressed or not. Infinity is none.
func NewPoint(b []byte) (Point, error) {
	p, err := nistec.NewP256Point().SetBytes(b)
	if err != nil || p.IsInfinity() == 1 {
		return Point{}, ErrPoint
	}
	return Point{p}, nil
}

// Bytes are its 33 octets.
func (p Point) Bytes() []byte { return p.p.BytesCompressed() }

// Add is p + q.
func (p Point) Add(q Point) Point { return Point{nistec.NewP256Point().Add(p.p, q.p)} }

// Mul is s·p.
func (p Point) Mul(s Scalar) Point {
	q, err := nistec.NewP256Point().ScalarMult(p.p, s.Bytes())
	if err != nil {
		panic(err) // 32 octets
	}
	return Point{q}
}

// Equal says whether two points are the same.
func (p Point) Equal(q Point) bool { return p.p.Equal(q.p) == 1 }

// IsInfinity says whether it is no key.
func (p Point) IsInfinity() bool { return p.p.IsInfinity() == 1 }
