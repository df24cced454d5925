// Package brainpool verifies signatures of ECDSA on the curves brainpoolP256r1 and brainpoolP384r1 (RFC 5639), which the authorities of European cooperative
// transport sign with, and agrees on secrets with those who have a key there. The standard library does not have these curves.
//
//	curve := brainpool.P384r1()
//	key, err := curve.Decompress(x, odd)
//	ok := curve.Verify(key, digest, r, s)
//
// Verify works on public values, and its time depends on them; those of Agree, Public and Shared do not depend on the secret. There is deliberately nothing that signs.
// It is not fast, some milliseconds for an operation, as who verifies the signatures of authorities does so once and remembers. Points are added by
// formulas without exceptions (Renes, Costello, Batina: Complete addition formulas for prime order elliptic curves, 2016, algorithm 1), so that there are no
// special cases to forget.
package brainpool

import (
	"bytes"
	"encoding/hex"
	"errors"
	"io"

	"filippo.io/bigmod"
)

// Curve is y^2 = x^3 + ax + b over a field of p elements, whose points are a group of prime order n.
type Curve struct {
	p, n  *bigmod.Modulus
	a, b  *bigmod.Nat
	b3    *bigmod.Nat // 3b
	base  *Point
	root  []byte // (p+1)/4, the exponent of square roots
	minus []byte // p-2, the exponent of inverses
	order []byte
}

// Point is a point of a curve, (X/Z, Y/Z), or infinity if Z is 0.
type Point struct{ x, y, z *bigmod.Nat }

// ErrPoint is that coordinates are of no point of the curve.
var ErrPoint = errors.New("the point does not lie on the curve")

// P256r1 is brainpoolP256r1 (RFC 5639, section 3.4).
func P256r1() *Curve { return p256r1 }

// P384r1 is brainpoolP384r1 (RFC 5639, section 3.6).
func P384r1() *Curve { return p384r1 }

var p256r1 = mustCurve(
	"a9fb57dba1eea9bc3e660a909d838d726e3bf623d52620282013481d1f6e5377",
	"7d5a0975fc2c3057eef67530417affe7fb8055c126dc5c6ce94a4b44f330b5d9",
	"26dc5c6ce94a4b44f330b5d9bbd77cbf958416295cf7e1ce6bccdc18ff8c07b6",
	"8bd2aeb9cb7e57cb2c4b482ffc81b7afb9de27e1e3bd23c23a4453bd9ace3262",
	"547ef835c3dac4fd97f8461a14611dc9c27745132ded8e545c1d54c72f046997",
	"a9fb57dba1eea9bc3e660a909d838d718c397aa3b561a6f7901e0e82974856a7")

var p384r1 = mustCurve(
	"8cb91e82a3386d280f5d6f7e50e641df152f7109ed5456b412b1da197fb71123acd3a729901d1a71874700133107ec53",
	"7bc382c63d8c150c3c72080ace05afa0c2bea28e4fb22787139165efba91f90f8aa5814a503ad4eb04a8c7dd22ce2826",
	"04a8c7dd22ce28268b39b55416f0447c2fb77de107dcd2a62e880ea53eeb62d57cb4390295dbc9943ab78696fa504c11",
	"1d1c64f068cf45ffa2a63a81b7c13f6b8847a3e77ef14fe3db7fcafe0cbd10e8e826e03436d646aaef87b2e247d4af1e",
	"8abe1d7520f9c2a45cb1eb8e95cfd55262b70b29feec5864e19c054ff99129280e4646217791811142820341263c5315",
	"8cb91e82a3386d280f5d6f7e50e641df152f7109ed5456b31f166e6cac0425a7cf3ab6af6b7fc3103b883202e9046565")

// mustCurve panics if its constants are none.
func mustCurve(p, a, b, x, y, n string) *Curve {
	c := new(Curve)
	var err error
	for _, m := range []struct {
		to   **bigmod.Modulus
		from string
	}{{&c.p, p}, {&c.n, n}} {
		if *m.to, err = bigmod.NewModulus(octets(m.from)); err != nil {
			panic(err)
		}
	}
	c.order = octets(n)
	c.a, c.b = c.must(a), c.must(b)
	c.b3 = c.add(c.b, c.add(c.b, c.b))
	c.base = &Point{c.must(x), c.must(y), c.one()}
	c.root = quarter(octets(p))
	c.minus = octets(p)
	c.minus[len(c.minus)-1] -= 2 // it ends in 3 or more
	return c
}

func octets(s string) []byte {
	b, err := hex.DecodeString(s)
	if err != nil {
		panic(err)
	}
	return b
}

func (c *Curve) must(s string) *bigmod.Nat {
	x, err := bigmod.NewNat().SetBytes(octets(s), c.p)
	if err != nil {
		panic(err)
	}
	return x
}

// quarter is (p+1)/4: p ends in 11 in binary, so that it is p/4 + 1.
func quarter(p []byte) []byte {
	q := make([]byte, len(p))
	for i := range p {
		q[i] = p[i] >> 2
		if i > 0 {
			q[i] |= p[i-1] << 6
		}
	}
	for i := len(q) - 1; ; i-- {
		if q[i]++; q[i] != 0 {
			return q
		}
	}
}

// Size is how many octets a coordinate has, and a half of a signature.
func (c *Curve) Size() int { return c.p.Size() }

// Order is how many points the curve has, as an octet string.
func (c *Curve) Order() []byte { return bytes.Clone(c.order) }

// The field. Each result is new.

func (c *Curve) one() *bigmod.Nat                 { return bigmod.NewNat().SetUint(1).ExpandFor(c.p) }
func (c *Curve) zero() *bigmod.Nat                { return bigmod.NewNat().ExpandFor(c.p) }
func (c *Curve) add(x, y *bigmod.Nat) *bigmod.Nat { return c.zero().Add(x, c.p).Add(y, c.p) }
func (c *Curve) sub(x, y *bigmod.Nat) *bigmod.Nat { return c.zero().Add(x, c.p).Sub(y, c.p) }
func (c *Curve) mul(x, y *bigmod.Nat) *bigmod.Nat { return c.zero().Add(x, c.p).Mul(y, c.p) }

// right is x^3 + ax + b.
func (c *Curve) right(x *bigmod.Nat) *bigmod.Nat {
	return c.add(c.mul(c.add(c.mul(x, x), c.a), x), c.b)
}

// NewPoint is the point with these coordinates.
func (c *Curve) NewPoint(x, y []byte) (*Point, error) {
	px, err := c.coordinate(x)
	if err != nil {
		return nil, err
	}
	py, err := c.coordinate(y)
	if err != nil {
		return nil, err
	}
	if c.mul(py, py).Equal(c.right(px)) != 1 {
		return nil, ErrPoint
	}
	return &Point{px, py, c.one()}, nil
}

// Decompress is the point with this x-coordinate whose y-coordinate is odd, or even.
func (c *Curve) Decompress(x []byte, odd bool) (*Point, error) {
	px, err := c.coordinate(x)
	if err != nil {
		return nil, err
	}
	square := c.right(px)
	y := bigmod.NewNat().Exp(square, c.root, c.p)
	if c.mul(y, y).Equal(square) != 1 {
		return nil, ErrPoint
	}
	if (y.IsOdd() == 1) != odd {
		y = c.sub(c.zero(), y)
	}
	if (y.IsOdd() == 1) != odd { // y is 0
		return nil, ErrPoint
	}
	return &Point{px, y, c.one()}, nil
}

func (c *Curve) coordinate(b []byte) (*bigmod.Nat, error) {
	if len(b) != c.Size() {
		return nil, ErrPoint
	}
	x, err := bigmod.NewNat().SetBytes(b, c.p)
	if err != nil {
		return nil, ErrPoint
	}
	return x, nil
}

// sum is p + q, for any two points; the letters are those of the formulas.
func (c *Curve) sum(p, q *Point) *Point {
	t0, t1, t2 := c.mul(p.x, q.x), c.mul(p.y, q.y), c.mul(p.z, q.z)
	t3 := c.sub(c.mul(c.add(p.x, p.y), c.add(q.x, q.y)), c.add(t0, t1)) // X1 Y2 + X2 Y1
	t4 := c.sub(c.mul(c.add(p.x, p.z), c.add(q.x, q.z)), c.add(t0, t2)) // X1 Z2 + X2 Z1
	t5 := c.sub(c.mul(c.add(p.y, p.z), c.add(q.y, q.z)), c.add(t1, t2)) // Y1 Z2 + Y2 Z1

	z3 := c.add(c.mul(c.b3, t2), c.mul(c.a, t4))
	x3, z3 := c.sub(t1, z3), c.add(t1, z3)
	y3 := c.mul(x3, z3)
	at2 := c.mul(c.a, t2)
	t1 = c.add(c.add(c.add(t0, t0), t0), at2)
	t4 = c.add(c.mul(c.b3, t4), c.mul(c.a, c.sub(t0, at2)))
	return &Point{
		x: c.sub(c.mul(t3, x3), c.mul(t5, t4)),
		y: c.add(y3, c.mul(t1, t4)),
		z: c.add(c.mul(t5, z3), c.mul(t3, t1)),
	}
}

// combine is u*base + v*q, for scalars of as many octets as the order has.
func (c *Curve) combine(u, v []byte, q *Point) *Point {
	table := [4]*Point{nil, c.base, q, c.sum(c.base, q)}
	at := &Point{c.zero(), c.one(), c.zero()}
	for i := range 8 * len(u) {
		at = c.sum(at, at)
		which := u[i/8]>>(7-i%8)&1 | v[i/8]>>(7-i%8)&1<<1
		if which != 0 {
			at = c.sum(at, table[which])
		}
	}
	return at
}

// Verify says whether r and s are the signature of what has this digest, which is cut to the size of the order if it is longer. A signature (r, n-s) is as
// good as (r, s).
func (c *Curve) Verify(key *Point, digest, r, s []byte) bool {
	nr, ok1 := c.scalar(r)
	ns, ok2 := c.scalar(s)
	if !ok1 || !ok2 {
		return false
	}
	e, err := bigmod.NewNat().SetOverflowingBytes(digest[:min(len(digest), c.n.Size())], c.n)
	if err != nil {
		return false
	}
	w, ok := bigmod.NewNat().InverseVarTime(ns, c.n)
	if !ok {
		return false
	}
	u := e.Mul(w, c.n).Bytes(c.n)
	v := w.Mul(nr, c.n).Bytes(c.n)
	p := c.combine(u, v, key)
	z, ok := bigmod.NewNat().InverseVarTime(p.z, c.p)
	if !ok {
		return false // infinity
	}
	x, err := bigmod.NewNat().SetOverflowingBytes(c.mul(p.x, z).Bytes(c.p), c.n)
	return err == nil && x.Equal(nr) == 1
}

// scalar reads half of a signature: a number above 0 and below the order.
func (c *Curve) scalar(b []byte) (*bigmod.Nat, bool) {
	if len(b) != c.n.Size() || bytes.Compare(b, c.order) >= 0 {
		return nil, false
	}
	x, err := bigmod.NewNat().SetBytes(b, c.n)
	return x, err == nil && x.IsZero() == 0
}

// ErrRandom is that a source of randomness gives nothing of use.
var ErrRandom = errors.New("the source of randomness gives nothing of use")

// maxTries is how often a random number may lie beyond the order. It does so at most every second time.
const maxTries = 128

// Agree takes an ephemeral key from a source of randomness and returns its public side, as SEC 1 writes it compressed, and the secret that it has in common with
// the holder of a key: the x-coordinate of their product.
func (c *Curve) Agree(random io.Reader, key *Point) (public, secret []byte, err error) {
	k := make([]byte, c.n.Size())
	for range maxTries {
		if _, err := io.ReadFull(random, k); err != nil {
			return nil, nil, err
		}
		if _, ok := c.scalar(k); ok {
			x, y := c.affine(c.multiply(c.base, k))
			secret, _ := c.affine(c.multiply(key, k))
			return append([]byte{2 | y[len(y)-1]&1}, x...), secret, nil
		}
	}
	return nil, nil, ErrRandom
}

// ErrPrivate is that octets are no private key: a number above 0 and below the order, of as many octets as it has.
var ErrPrivate = errors.New("the octets are no private key of the curve")

// Public is the public side of a private key, as SEC 1 writes it compressed.
func (c *Curve) Public(private []byte) ([]byte, error) {
	if _, ok := c.scalar(private); !ok {
		return nil, ErrPrivate
	}
	x, y := c.affine(c.multiply(c.base, private))
	return append([]byte{2 | y[len(y)-1]&1}, x...), nil
}

// Shared is what the holder of a private key has in common with who agreed on a secret with its public side: the x-coordinate of their product.
func (c *Curve) Shared(private []byte, with *Point) ([]byte, error) {
	if _, ok := c.scalar(private); !ok {
		return nil, ErrPrivate
	}
	x, _ := c.affine(c.multiply(with, private)) // not infinity: the order is prime
	return x, nil
}

// multiply is k*p, in a time that does not depend on k: for each bit the sum is made, and taken or not by arithmetic.
func (c *Curve) multiply(p *Point, k []byte) *Point {
	at := &Point{c.zero(), c.one(), c.zero()}
	for i := range 8 * len(k) {
		at = c.sum(at, at)
		bit := bigmod.NewNat().SetUint(uint(k[i/8] >> (7 - i%8) & 1)).ExpandFor(c.p)
		with := c.sum(at, p)
		at = &Point{c.choose(bit, at.x, with.x), c.choose(bit, at.y, with.y), c.choose(bit, at.z, with.z)}
	}
	return at
}

// choose is a if the bit is 0, and b if it is 1.
func (c *Curve) choose(bit, a, b *bigmod.Nat) *bigmod.Nat {
	return c.add(a, c.mul(bit, c.sub(b, a)))
}

// affine are the coordinates of a point that is not infinity.
func (c *Curve) affine(p *Point) (x, y []byte) {
	z := bigmod.NewNat().Exp(p.z, c.minus, c.p)
	return c.mul(p.x, z).Bytes(c.p), c.mul(p.y, z).Bytes(c.p)
}
