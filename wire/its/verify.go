package its

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"errors"
	"math/big"

	"mooring/wire/brainpool"
	"mooring/wire/butterfly"
)

// What a verification finds.
var (
	ErrSignature = errors.New("the signature does not verify")
	ErrKey       = errors.New("the key cannot verify: its point is not on the curve, or in a form that does not say which point it is")
	ErrAlgorithm = errors.New("the algorithms of key, digest and signature do not belong together, or are not supported")
	ErrIssuer    = errors.New("the certificate was issued by another one")
)

// Verify says whether the signature is of what has this digest, which must be of the algorithm that goes with the key. Any of (r, s) and (r, n-s) does: both are
// in use.
func (k *PublicVerificationKey) Verify(digest []byte, g *Signature) error {
	if err := k.fits(digest, g); err != nil {
		return err
	}
	switch k.Choice {
	case ECDSANistP256:
		point, err := k.Point.p256()
		if err != nil {
			return err
		}
		return verifyP256(butterfly.NewVerifier(point), digest, g)
	case ECDSANistP384:
		return k.verifyP384(digest, g)
	case ECDSABrainpoolP256r1:
		return k.verifyBrainpool(brainpool.P256r1(), digest, g)
	case ECDSABrainpoolP384r1:
		return k.verifyBrainpool(brainpool.P384r1(), digest, g)
	}
	return ErrAlgorithm
}

// fits says whether digest and signature are of the sizes that go with the key.
func (k *PublicVerificationKey) fits(digest []byte, g *Signature) error {
	size := k.Choice.Size()
	switch {
	case g.Choice != k.Choice || len(digest) != size:
		return ErrAlgorithm
	case g.R.Form == Fill || len(g.R.X) != size || len(g.S) != size:
		return ErrSignature
	}
	return nil
}

// r is the number r of a signature: of a point that was given in full, its x-coordinate may exceed the order.
func (g *Signature) r(order *big.Int) *big.Int {
	r := new(big.Int).SetBytes(g.R.X)
	if g.R.Form != XOnly {
		r.Mod(r, order)
	}
	return r
}

// Check says whether the key is one: its point lies on its curve. That costs far less than a verification.
func (k *PublicVerificationKey) Check() (err error) {
	switch k.Choice {
	case ECDSANistP256:
		_, err = k.Point.p256()
	case ECDSANistP384:
		_, err = k.p384()
	case ECDSABrainpoolP256r1:
		_, err = k.Point.Brainpool(brainpool.P256r1())
	case ECDSABrainpoolP384r1:
		_, err = k.Point.Brainpool(brainpool.P384r1())
	default:
		err = ErrAlgorithm
	}
	return err
}

// p256 is the point on P-256.
func (p *CurvePoint) p256() (butterfly.Point, error) {
	b, err := p.SEC1()
	if err != nil {
		return butterfly.Point{}, err
	}
	point, err := butterfly.NewPoint(b)
	if err != nil {
		return butterfly.Point{}, ErrKey
	}
	return point, nil
}

func verifyP256(v *butterfly.Verifier, digest []byte, g *Signature) error {
	r := g.R.X
	if g.R.Form != XOnly {
		r = g.r(elliptic.P256().Params().N).FillBytes(make([]byte, len(g.R.X)))
	}
	if !v.Verify(digest, r, g.S) {
		return ErrSignature
	}
	return nil
}

func (k *PublicVerificationKey) p384() (*ecdsa.PublicKey, error) {
	point, err := k.Point.SEC1()
	if err != nil {
		return nil, err
	}
	if k.Point.Form != Uncompressed {
		x, y := elliptic.UnmarshalCompressed(elliptic.P384(), point)
		if x == nil {
			return nil, ErrKey
		}
		point = append(append([]byte{4}, k.Point.X...), y.FillBytes(make([]byte, len(k.Point.X)))...)
	}
	key, err := ecdsa.ParseUncompressedPublicKey(elliptic.P384(), point)
	if err != nil {
		return nil, ErrKey
	}
	return key, nil
}

func (k *PublicVerificationKey) verifyP384(digest []byte, g *Signature) error {
	key, err := k.p384()
	if err != nil {
		return err
	}
	if !ecdsa.Verify(key, digest, g.r(key.Curve.Params().N), new(big.Int).SetBytes(g.S)) {
		return ErrSignature
	}
	return nil
}

// SEC1 is the point in the form of SEC 1, which other libraries read.
func (p *CurvePoint) SEC1() ([]byte, error) {
	switch p.Form {
	case CompressedY0, CompressedY1:
		return append([]byte{byte(p.Form)}, p.X...), nil // the forms have the numbers that SEC 1 gives them
	case Uncompressed:
		return append(append([]byte{4}, p.X...), p.Y...), nil
	}
	return nil, ErrKey
}

// Brainpool is the point on one of the brainpool curves.
func (p *CurvePoint) Brainpool(curve *brainpool.Curve) (*brainpool.Point, error) {
	var q *brainpool.Point
	var err error
	switch p.Form {
	case CompressedY0, CompressedY1:
		q, err = curve.Decompress(p.X, p.Form == CompressedY1)
	case Uncompressed:
		q, err = curve.NewPoint(p.X, p.Y)
	default:
		return nil, ErrKey
	}
	if err != nil {
		return nil, ErrKey
	}
	return q, nil
}

func (k *PublicVerificationKey) verifyBrainpool(curve *brainpool.Curve, digest []byte, g *Signature) error {
	key, err := k.Point.Brainpool(curve)
	if err != nil {
		return err
	}
	r := g.r(new(big.Int).SetBytes(curve.Order())).FillBytes(make([]byte, curve.Size()))
	if !curve.Verify(key, digest, r, g.S) {
		return ErrSignature
	}
	return nil
}

// Verify says whether the certificate was signed by issuer, or by itself if that is nil. It does not say whether the issuer was permitted to.
func (x *Certificate) Verify(issuer *Certificate) error {
	signer := issuer
	switch self := x.Issuer.Choice == IssuerSelf; {
	case self != (issuer == nil):
		return ErrIssuer
	case self:
		signer = x
	default:
		id, err := issuer.HashedId8()
		if err != nil {
			return err
		}
		if id != x.Issuer.Digest {
			return ErrIssuer
		}
	}
	key := &signer.ToBeSigned.VerifyKeyIndicator
	if x.Type != Explicit || key.Choice != VerificationKey || x.Issuer.Hash() != key.VerificationKey.Choice.Hash() {
		return ErrAlgorithm
	}
	digest, err := x.Input(issuer)
	if err != nil {
		return err
	}
	return key.VerificationKey.Verify(digest, &x.Signature.Value)
}

// Verify says whether the message was signed with the key of signer; if it was signed by nobody but the holder of a key (self), signer is nil and the key
// is given.
func (d *SignedData) Verify(signer *Certificate, key *PublicVerificationKey) error {
	if signer != nil {
		key = &signer.ToBeSigned.VerifyKeyIndicator.VerificationKey
	}
	if (d.Signer.Choice == SignerSelf) != (signer == nil) || key == nil || d.HashId != key.Choice.Hash() ||
		signer != nil && signer.ToBeSigned.VerifyKeyIndicator.Choice != VerificationKey {
		return ErrAlgorithm
	}
	digest, err := d.Input(signer)
	if err != nil {
		return err
	}
	return key.Verify(digest, &d.Signature)
}

// VerifyBy is Verify for a signatory.
func (d *SignedData) VerifyBy(s *Signatory) error {
	key := &s.Certificate.ToBeSigned.VerifyKeyIndicator
	if d.Signer.Choice == SignerSelf || d.HashId != key.VerificationKey.Choice.Hash() || key.Choice != VerificationKey {
		return ErrAlgorithm
	}
	digest, err := d.InputBy(s)
	if err != nil {
		return err
	}
	if s.verifier == nil {
		return key.VerificationKey.Verify(digest, &d.Signature)
	}
	if err := key.VerificationKey.fits(digest, &d.Signature); err != nil {
		return err
	}
	return verifyP256(s.verifier, digest, &d.Signature)
}
