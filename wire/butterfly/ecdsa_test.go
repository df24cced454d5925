package butterfly

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"math/big"
	"testing"
)

// signed is a key with a signature of a digest.
func signed(t testing.TB, message string) (key *ecdsa.PrivateKey, v *Verifier, digest []byte, r, s *big.Int) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	public, err := key.PublicKey.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	point, err := NewPoint(public)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256([]byte(message))
	if r, s, err = ecdsa.Sign(rand.Reader, key, sum[:]); err != nil {
		t.Fatal(err)
	}
	return key, NewVerifier(point), sum[:], r, s
}

func octets(n *big.Int) []byte { return n.FillBytes(make([]byte, 32)) }

// What crypto/ecdsa believes is believed, with a table and without, and nothing else.
func TestVerify(t *testing.T) {
	n := elliptic.P256().Params().N
	for _, message := range []string{"", "a message", "another one"} {
		key, plain, digest, r, s := signed(t, message)
		other := sha256.Sum256([]byte("something else"))
		_, stranger, _, _, _ := signed(t, message)
		for kind, v := range map[string]*Verifier{"plain": plain, "prepared": plain.Prepare(), "of a stranger": stranger, "of a stranger, prepared": stranger.Prepare()} {
			mine := v != stranger && kind[0] == 'p'
			for _, c := range []struct {
				name   string
				digest []byte
				r, s   []byte
				want   bool
			}{
				{"as signed", digest, octets(r), octets(s), true},
				{"the other s", digest, octets(r), octets(new(big.Int).Sub(n, s)), true},
				{"another digest", other[:], octets(r), octets(s), false},
				{"a digest of nothing", make([]byte, 32), octets(r), octets(s), false},
				{"r and s exchanged", digest, octets(s), octets(r), false},
				{"r is 0", digest, make([]byte, 32), octets(s), false},
				{"s is 0", digest, octets(r), make([]byte, 32), false},
				{"r is the order", digest, octets(n), octets(s), false},
				{"s is the order", digest, octets(r), octets(n), false},
				{"another r", digest, octets(new(big.Int).Xor(r, big.NewInt(1))), octets(s), false},
				{"another s", digest, octets(r), octets(new(big.Int).Xor(s, big.NewInt(1))), false},
				{"short r", digest, octets(r)[1:], octets(s), false},
				{"short s", digest, octets(r), octets(s)[:31], false},
				{"short digest", digest[:31], octets(r), octets(s), false},
				{"long digest", append(digest[:32:32], 0), octets(r), octets(s), false},
			} {
				if got := v.Verify(c.digest, c.r, c.s); got != (c.want && mine) {
					t.Errorf("%s, key %s: got %v, want %v", c.name, kind, got, c.want && mine)
				}
			}
		}
		if !ecdsa.Verify(&key.PublicKey, digest, r, s) {
			t.Error("crypto/ecdsa does not believe its own signature")
		}
	}
}

// A signature whose point has an x-coordinate beyond the order is right for r = x - n. For the digest 0 and s = r that point is the key itself, so that the key can be
// made from such an x-coordinate.
func TestVerifyBeyondOrder(t *testing.T) {
	params := elliptic.P256().Params()
	for x := new(big.Int).Add(params.N, big.NewInt(1)); x.Cmp(params.P) < 0; x.Add(x, big.NewInt(1)) {
		point, err := NewPoint(append([]byte{2}, octets(x)...))
		if err != nil {
			continue // no point has this x-coordinate
		}
		r := octets(new(big.Int).Sub(x, params.N))
		v := NewVerifier(point)
		for kind, v := range map[string]*Verifier{"plain": v, "prepared": v.Prepare()} {
			if !v.Verify(make([]byte, 32), r, r) {
				t.Errorf("%s: x = n + %x is not believed", kind, r)
			}
			if v.Verify(make([]byte, 32), octets(x), r) {
				t.Errorf("%s: r beyond the order is believed", kind)
			}
		}
		return
	}
	t.Fatal("no point has an x-coordinate beyond the order")
}

// The sum of both products is infinity where the digest is -r times the key's number: that is no signature.
func TestVerifyInfinity(t *testing.T) {
	n := elliptic.P256().Params().N
	d := big.NewInt(7)
	private, err := NewScalar(octets(d))
	if err != nil {
		t.Fatal(err)
	}
	r := big.NewInt(12345)
	z := new(big.Int).Mul(r, d)
	z.Sub(n, z.Mod(z, n))
	for kind, v := range map[string]*Verifier{"plain": NewVerifier(private.Public()), "prepared": NewVerifier(private.Public()).Prepare()} {
		if v.Verify(octets(z), octets(r), octets(big.NewInt(3))) {
			t.Errorf("%s: infinity is believed", kind)
		}
	}
}

func FuzzVerify(f *testing.F) {
	key, plain, digest, r, s := signed(f, "a message")
	prepared := plain.Prepare()
	f.Add(digest, octets(r), octets(s))
	f.Add(make([]byte, 32), octets(r), octets(s))
	f.Add([]byte{1}, []byte{}, []byte{0})
	f.Fuzz(func(t *testing.T, digest, r, s []byte) {
		want := len(digest) == 32 && len(r) == 32 && len(s) == 32 && ecdsa.Verify(&key.PublicKey, digest, new(big.Int).SetBytes(r), new(big.Int).SetBytes(s))
		if got := plain.Verify(digest, r, s); got != want {
			t.Errorf("plain: got %v, want %v", got, want)
		}
		if got := prepared.Verify(digest, r, s); got != want {
			t.Errorf("prepared: got %v, want %v", got, want)
		}
	})
}

func BenchmarkVerify(b *testing.B) {
	_, plain, digest, r, s := signed(b, "a message")
	for name, v := range map[string]*Verifier{"plain": plain, "prepared": plain.Prepare()} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				if !v.Verify(digest, octets(r), octets(s)) {
					b.Fatal("it does not verify")
				}
			}
		})
	}
}
