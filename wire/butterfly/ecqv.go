package butterfly

// Digest is Hash(Hash(ToBeSigned) || Hash(issuer's certificate)), all of it. (SEC 4 cuts it to 255 bits; certificates in use do not.)
type Digest [32]byte

// scalar is the digest modulo the order.
func (d Digest) scalar() (Scalar, error) {
	e := reduce(d[:])
	if e.isZero() {
		return Scalar{}, ErrDigest
	}
	return e, nil
}

// ReconstructionValue is what an implicit certificate has instead of a key, for a request with key u and the authority's random number k: u + k·G.
func ReconstructionValue(u Point, k Scalar) (Point, error) {
	p := u.Add(k.Public())
	if p.IsInfinity() {
		return Point{}, ErrPoint
	}
	return p, nil
}

// PrivateReconstruction is what the authority returns with an implicit certificate: e·k + d, with its private key d. Both k and the result are secret, since
// with both d can be computed.
func PrivateReconstruction(digest Digest, k, d Scalar) (Scalar, error) {
	e, err := digest.scalar()
	if err != nil {
		return Scalar{}, err
	}
	return e.Mul(k).Add(d), nil
}

// ImplicitKey is the public key of an implicit certificate: e·P + Q, with its reconstruction value P and the issuer's key Q.
func ImplicitKey(digest Digest, p, q Point) (Point, error) {
	e, err := digest.scalar()
	if err != nil {
		return Point{}, err
	}
	key := p.Mul(e).Add(q)
	if key.IsInfinity() {
		return Point{}, ErrDigest
	}
	return key, nil
}

// Reconstruct is the private key of an implicit certificate: e·u + r, with the private key u of the request and what the authority returned. It is checked against
// the certificate, which proves that the authority made it.
func Reconstruct(digest Digest, u, r Scalar, p, q Point) (Scalar, error) {
	key, err := ImplicitKey(digest, p, q)
	if err != nil {
		return Scalar{}, err
	}
	e, err := digest.scalar()
	if err != nil {
		return Scalar{}, err
	}
	d := e.Mul(u).Add(r)
	if !d.Public().Equal(key) {
		return Scalar{}, ErrForged
	}
	return d, nil
}
