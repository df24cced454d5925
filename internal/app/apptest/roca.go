package apptest

import "math/big"

// ROCA is a modulus of the shape that the flawed generator of CVE-2017-15361 gives: k*M + 65537^a mod M, M the product of the primes to 701.
func ROCA() *big.Int {
	m := big.NewInt(1)
	for p := int64(2); p <= 701; p++ {
		if big.NewInt(p).ProbablyPrime(0) {
			m.Mul(m, big.NewInt(p))
		}
	}
	n := new(big.Int).Exp(big.NewInt(65537), big.NewInt(123457), m)
	for n.BitLen() < 2048 {
		n.Add(n, new(big.Int).Lsh(m, uint(2047-m.BitLen())))
	}
	return n
}
