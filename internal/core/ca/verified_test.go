package ca

import "testing"

// What was verified is remembered for a CA alone, and no more of it than is allowed.
func TestVerified(t *testing.T) {
	var v verified
	nth := func(n int) proof {
		return proof{digest: [32]byte{byte(n), byte(n >> 8), byte(n >> 16)}, issuer: IssuerID{1}}
	}
	v.add(nth(0))
	if !v.has(nth(0)) || v.has(nth(1)) || v.has(proof{digest: nth(0).digest, issuer: IssuerID{2}}) {
		t.Error("it remembers something else than it was told")
	}
	for n := 1; n <= 3*maxVerified; n++ {
		v.add(nth(n))
		if !v.has(nth(n)) {
			t.Fatalf("%d was forgotten at once", n)
		}
		if len(v.young) > maxVerified || len(v.older) > maxVerified {
			t.Fatalf("after %d it holds %d and %d", n, len(v.young), len(v.older))
		}
	}
	if v.has(nth(0)) {
		t.Error("the oldest is still there")
	}
}
