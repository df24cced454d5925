package brainpool

import (
	"bytes"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"errors"
	"math/big"
	"strings"
	"testing"

	"filippo.io/bigmod"
)

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ToLower(s))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// vector is a key that OpenSSL 3 made, and signatures that it made with the key over "mooring: " and the name of the curve.
type vector struct {
	curve   *Curve
	private string // no secret: the key is of no use but here
	x, y    string
	digest  []byte
	signed  [][2]string
}

func vectors() map[string]vector {
	d256 := sha256.Sum256([]byte("mooring: brainpoolP256r1"))
	d384 := sha512.Sum384([]byte("mooring: brainpoolP384r1"))
	return map[string]vector{
		"brainpoolP256r1": {P256r1(), "603a4ee524981c89ef0bfb552fb485d65c74683af43d2ace7c381af02007a882",
			"649f5de39bd4da791e70e22c2c9a67243459d4079b3d988ed98088aebd2bd775", "2435070d0356e93c54cb54cfcbb2c9ec763d6605327a84e57b0474bf9198c8f5", d256[:], [][2]string{
				{"7518FF9C780E2D8BD0FA58B2163F1C640589DD7F3278C9641193FB4FE0313A55", "72FD514234060689D6CE6F38C0B2347157FF3CA9667E4722B25C20DED343BC3F"},
				{"6B01A4873E574648F36F11BDAD1279CEB5757E4EDC2BD0981FCF82E8D27DDA99", "840443FBED1F135CAA50A66B9BC4CB11B03979C348B576BF42D0635B5D7C17C2"},
				{"2EC39D98568A0498E345F3AD0B93370FC9ADF3DFA4CBCFE8C14901582CD7586A", "3CD0C6AF502ADC718F9D1BA9987932DCF6027C220A6F883E200E33A47FD02F28"}}},
		"brainpoolP384r1": {P384r1(), "656a2c42d72f13a27a1751d984dda2056663b3e2e676a5cbee3e1b2255d210e8d94853e6b377bd92ae6fef83bbb2d44c",
			"8307de51a800c0d1c037c836b8028ae84aaf9c832fac35765e92fcdfdf9d68c2f6ef37f912a006e80e72eb90a02fb6ee",
			"8c8d4fa630a1aff7099d47c93a3f4e21fabfb88c5f875c1018559bbbc10fa58e1a9c8bfd5eaf2c77b71e3ba558716813", d384[:], [][2]string{
				{"7E707CDF02B95776B36E7E37DA5061CD8F750CD115A0DD64CF5539152AA80A85D81C7F80C7079FEAF6E0D3B301190417",
					"2F7E0C041919C05224A871105F47A0B1450B393D8C97B87815D5ADB562B19DCC12D43D29F136228FEFAF518F55CEC747"},
				{"20A864127BA03C2873291EE46B565B13406A1A179DB2A889E6759D6BB8AB2D5E48C9F9A7AB5813F420A160E6B85AD84B",
					"65DB3FAE5DC8668A7E5DBAA6D4C1E339B56C0BAC7D8C54EE25801B97C1EA3AC0E1F783513C7720935803C90087EAACBF"},
				{"5766412A591A10034C64A2FFE9542DB3B327D2E3EDD31F3629923A2027F3154D9362CB368D25D6E2F1127234E7951878",
					"57381C791C5F98ED5E939358510ADF95CE407DCCE5868C4F121B9413ED7384C486FB10951A02DA70D7D2087A36766E5F"}}},
	}
}

// CRY-7 and CRY-9: signatures verify, also with the other s; those that were changed do not.
func TestVerify(t *testing.T) {
	t.Parallel()
	for name, v := range vectors() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			key, err := v.curve.NewPoint(unhex(t, v.x), unhex(t, v.y))
			if err != nil {
				t.Fatal(err)
			}
			n := new(big.Int).SetBytes(v.curve.order)
			for _, sig := range v.signed {
				r, s := unhex(t, sig[0]), unhex(t, sig[1])
				other := new(big.Int).Sub(n, new(big.Int).SetBytes(s)).FillBytes(make([]byte, len(s)))
				if !v.curve.Verify(key, v.digest, r, s) || !v.curve.Verify(key, v.digest, r, other) {
					t.Errorf("%s: a right signature is refused", sig[0])
				}
			}
			r, s := unhex(t, v.signed[0][0]), unhex(t, v.signed[0][1])
			flipped := func(b []byte) []byte { b = append([]byte(nil), b...); b[len(b)-1] ^= 1; return b }
			zero := make([]byte, len(r))
			over := new(big.Int).Add(n, big.NewInt(1)).FillBytes(make([]byte, len(r)))
			for what, ok := range map[string]bool{
				"another digest":    v.curve.Verify(key, flipped(v.digest), r, s),
				"another r":         v.curve.Verify(key, v.digest, flipped(r), s),
				"another s":         v.curve.Verify(key, v.digest, r, flipped(s)),
				"r is 0":            v.curve.Verify(key, v.digest, zero, s),
				"s is 0":            v.curve.Verify(key, v.digest, r, zero),
				"r is n":            v.curve.Verify(key, v.digest, v.curve.order, s),
				"s is n+1":          v.curve.Verify(key, v.digest, r, over),
				"r is short":        v.curve.Verify(key, v.digest, r[1:], s),
				"the base as a key": v.curve.Verify(v.curve.base, v.digest, r, s),
			} {
				if ok {
					t.Errorf("it verifies with %s", what)
				}
			}
		})
	}
}

// The private keys lead to the public ones, and compressed points are the same points.
func TestKeys(t *testing.T) {
	t.Parallel()
	for name, v := range vectors() {
		zero := make([]byte, v.curve.Size())
		p := v.curve.combine(unhex(t, v.private), zero, v.curve.base)
		z, ok := bigmod.NewNat().InverseVarTime(p.z, v.curve.p)
		if !ok || hex.EncodeToString(v.curve.mul(p.x, z).Bytes(v.curve.p)) != v.x || hex.EncodeToString(v.curve.mul(p.y, z).Bytes(v.curve.p)) != v.y {
			t.Errorf("%s: the private key leads elsewhere", name)
		}
		y := unhex(t, v.y)
		q, err := v.curve.Decompress(unhex(t, v.x), y[len(y)-1]&1 == 1)
		if err != nil || q.y.Equal(v.curve.mustNat(t, y)) != 1 {
			t.Errorf("%s: decompressed to another point: %v", name, err)
		}
		if v.curve.combine(v.curve.order, zero, v.curve.base).z.IsZero() != 1 {
			t.Errorf("%s: the base has another order", name)
		}
	}
}

func (c *Curve) mustNat(t *testing.T, b []byte) *bigmod.Nat {
	t.Helper()
	x, err := c.coordinate(b)
	if err != nil {
		t.Fatal(err)
	}
	return x
}

// Two keys lead to one secret, from either side (RFC 7027, appendix A.1).
func TestAgree(t *testing.T) {
	t.Parallel()
	c := P256r1()
	a := unhex(t, "81DB1EE100150FF2EA338D708271BE38300CB54241D79950F77B063039804F1D")
	b := unhex(t, "55E40BC41E37E3E2AD25C3C6654511FFA8474A91A0032087593852D3E7D76BD3")
	const secret = "89afc39d41d3b327814b80940b042590f96556ec91e6ae7939bce31f3a18bf2b"
	ax, ay := c.affine(c.multiply(c.base, a))
	ka, err := c.NewPoint(ax, ay)
	if err != nil {
		t.Fatal(err)
	}
	if hex.EncodeToString(ax) != "44106e913f92bc02a1705d9953a8414db95e1aaa49e81d9e85f929a8e3100be5" {
		t.Errorf("the first public key is %x", ax)
	}
	public, z, err := c.Agree(bytes.NewReader(append(bytes.Repeat([]byte{0xff}, 32), b...)), ka) // the first is beyond the order
	if err != nil || hex.EncodeToString(z) != secret {
		t.Fatalf("the secret is %x, %v", z, err)
	}
	kb, err := c.Decompress(public[1:], public[0] == 3)
	if err != nil {
		t.Fatal(err)
	}
	if z, _ := c.affine(c.multiply(kb, a)); hex.EncodeToString(z) != secret {
		t.Errorf("from the other side the secret is %x", z)
	}
	if _, _, err := c.Agree(bytes.NewReader(make([]byte, 32*maxTries)), ka); !errors.Is(err, ErrRandom) {
		t.Errorf("randomness of zeros: %v", err)
	}
}

// CRY-8.
func TestPointsThatAreNone(t *testing.T) {
	t.Parallel()
	for name, v := range vectors() {
		c, x, y := v.curve, unhex(t, v.x), unhex(t, v.y)
		y[0] ^= 1
		if _, err := c.NewPoint(x, y); err == nil {
			t.Errorf("%s: a point off the curve is one", name)
		}
		if _, err := c.NewPoint(x[1:], y); err == nil {
			t.Errorf("%s: a short coordinate is one", name)
		}
		high := make([]byte, c.Size())
		for i := range high {
			high[i] = 0xff
		}
		if _, err := c.Decompress(high, true); err == nil {
			t.Errorf("%s: a coordinate beyond the field is one", name)
		}
		none := 0
		for i := range byte(50) {
			b := make([]byte, c.Size())
			b[c.Size()-1] = i
			if _, err := c.Decompress(b, true); err != nil {
				none++
			}
		}
		if none < 10 || none > 40 {
			t.Errorf("%s: of 50 coordinates %d belong to no point, where it should be half", name, none)
		}
	}
}
