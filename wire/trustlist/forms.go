package trustlist

import (
	"crypto/elliptic"
	"math/big"

	"mooring/wire/brainpool"
	"mooring/wire/its"
)

// forms are the two certificates that are the same but for the value of s, (r, s) and (r, n-s); of an implicit certificate, which has no signature, there is one.
func forms(x *its.Certificate) []*its.Certificate {
	sig, ok := x.Signature.Get()
	if !ok {
		return []*its.Certificate{x}
	}
	var n *big.Int
	switch sig.Choice {
	case its.ECDSANistP256:
		n = elliptic.P256().Params().N
	case its.ECDSANistP384:
		n = elliptic.P384().Params().N
	case its.ECDSABrainpoolP256r1:
		n = new(big.Int).SetBytes(brainpool.P256r1().Order())
	case its.ECDSABrainpoolP384r1:
		n = new(big.Int).SetBytes(brainpool.P384r1().Order())
	default:
		return []*its.Certificate{x}
	}
	s := new(big.Int).Sub(n, new(big.Int).SetBytes(sig.S))
	if s.Sign() <= 0 {
		return []*its.Certificate{x}
	}
	other := *x
	sig.S = s.FillBytes(make([]byte, len(sig.S)))
	other.Signature.Value = sig
	return []*its.Certificate{x, &other}
}
