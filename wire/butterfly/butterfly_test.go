package butterfly

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write testdata/own.json again")

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func key16(t testing.TB, s string) (k [16]byte) {
	t.Helper()
	copy(k[:], unhex(t, s))
	return k
}

func scalar(t testing.TB, s string) Scalar {
	t.Helper()
	n, err := NewScalar(unhex(t, s))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func point(t testing.TB, s string) Point {
	t.Helper()
	p, err := NewPoint(unhex(t, s))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// vectors reads the vectors of a file of testdata into a slice.
func vectors[T any](t testing.TB, file string) []T {
	t.Helper()
	b, err := os.ReadFile("testdata/" + file)
	if err != nil {
		t.Fatal(err)
	}
	var v struct{ Vectors []T }
	if err := json.Unmarshal(b, &v); err != nil || len(v.Vectors) == 0 {
		t.Fatalf("%s: %v, %d vectors", file, err, len(v.Vectors))
	}
	return v.Vectors
}

func equal(t *testing.T, what string, got []byte, want string) {
	t.Helper()
	if hex.EncodeToString(got) != want {
		t.Errorf("%s is %x, want %s", what, got, want)
	}
}

// CRY-1: the vectors of the key derivation.
func TestCRY1KDF2(t *testing.T) {
	t.Parallel()
	for _, v := range vectors[struct{ Name, Shared, P1, Out string }](t, "kdf2_sha256.json") {
		equal(t, v.Name, KDF2(unhex(t, v.Shared), unhex(t, v.P1), len(v.Out)/2), v.Out)
	}
}

// CRY-2: the vectors of ECIES, both ways, and what is refused.
func TestCRY2Wrap(t *testing.T) {
	t.Parallel()
	for _, v := range vectors[struct {
		Name, C, T string
		Ephemeral  string `json:"ephemeral_private"`
		V          string `json:"ephemeral_public_compressed"`
		Private    string `json:"recipient_private"`
		Public     string `json:"recipient_public_compressed"`
		Key        string `json:"aes_key"`
		P1         string `json:"p1_sha256_recipient_info"`
	}](t, "ecies_p256.json") {
		t.Run(v.Name, func(t *testing.T) {
			private, p1 := scalar(t, v.Private), unhex(t, v.P1)
			equal(t, "the public key", private.Public().Bytes(), v.Public)
			w, err := Wrap(bytes.NewReader(unhex(t, v.Ephemeral)), point(t, v.Public), key16(t, v.Key), p1)
			if err != nil {
				t.Fatal(err)
			}
			equal(t, "V", w.V.Bytes(), v.V)
			equal(t, "C", w.C[:], v.C)
			equal(t, "T", w.T[:], v.T)
			k, err := Unwrap(private, w, p1)
			if err != nil {
				t.Fatal(err)
			}
			equal(t, "the key", k[:], v.Key)
			for what, change := range map[string]func(w *WrappedKey, p1 []byte){
				"wrong P1":    func(_ *WrappedKey, p1 []byte) { p1[0] ^= 1 },
				"flipped tag": func(w *WrappedKey, _ []byte) { w.T[15] ^= 1 },
				"flipped C":   func(w *WrappedKey, _ []byte) { w.C[0] ^= 0x80 },
				"another V":   func(w *WrappedKey, _ []byte) { w.V = private.Public() },
			} {
				x, other := w, bytes.Clone(p1)
				change(&x, other)
				if k, err := Unwrap(private, x, other); !errors.Is(err, ErrOpen) || k != [16]byte{} {
					t.Errorf("%s: %x, %v", what, k, err)
				}
			}
		})
	}
}

// CRY-3: the vectors of AES-CCM, and a nonce that is used again.
func TestCRY3CCM(t *testing.T) {
	t.Parallel()
	for _, v := range vectors[struct {
		Name, Key, Nonce12, Plaintext string
		Sealed                        string `json:"ciphertext_and_tag16"`
	}](t, "aes_ccm_128.json") {
		t.Run(v.Name, func(t *testing.T) {
			nonce := [NonceSize]byte(unhex(t, v.Nonce12))
			k := NewMessageKey(key16(t, v.Key))
			sealed, err := k.Seal(nonce, unhex(t, v.Plaintext))
			if err != nil {
				t.Fatal(err)
			}
			equal(t, "what is sealed", sealed, v.Sealed)
			if _, err := k.Seal(nonce, []byte("another message")); !errors.Is(err, ErrNonce) {
				t.Errorf("the nonce is used again: %v", err)
			}
			reader := NewMessageKey(key16(t, v.Key))
			opened, err := reader.Open(nonce, sealed)
			if err != nil {
				t.Fatal(err)
			}
			equal(t, "what is opened", opened, v.Plaintext)
			if _, err := reader.Seal(nonce, []byte("the answer")); !errors.Is(err, ErrNonce) {
				t.Errorf("the answer has the nonce of the request: %v", err)
			}
			for _, at := range []int{0, len(sealed) - TagSize, len(sealed) - 1} {
				changed := bytes.Clone(sealed)
				changed[at] ^= 1
				if m, err := reader.Open(nonce, changed); !errors.Is(err, ErrOpen) || m != nil {
					t.Errorf("octet %d is flipped: %x, %v", at, m, err)
				}
			}
			if _, err := reader.Open(nonce, sealed[:TagSize-1]); !errors.Is(err, ErrOpen) {
				t.Errorf("there is no room for a tag: %v", err)
			}
		})
	}
}

// A message of no octets, and one of whole blocks, come back; too many messages do not go out.
func TestMessageSizes(t *testing.T) {
	t.Parallel()
	for _, n := range []int{0, 1, 15, 16, 17, 4096} {
		k, message := NewMessageKey([16]byte{1}), bytes.Repeat([]byte{7}, n)
		sealed, err := k.Seal([NonceSize]byte{}, message)
		if err != nil {
			t.Fatal(err)
		}
		if back, err := k.Open([NonceSize]byte{}, sealed); err != nil || !bytes.Equal(back, message) {
			t.Errorf("%d octets: %x, %v", n, back, err)
		}
	}
	k := NewMessageKey([16]byte{1})
	for i := range byte(maxNonces) {
		if _, err := k.Seal([NonceSize]byte{i}, nil); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := k.Seal([NonceSize]byte{99}, nil); !errors.Is(err, ErrNonce) {
		t.Errorf("message %d: %v", maxNonces+1, err)
	}
	if _, err := NewMessageKey([16]byte{}).Seal([NonceSize]byte{}, make([]byte, MaxMessage+1)); !errors.Is(err, ErrTooLong) {
		t.Errorf("too long: %v", err)
	}
}

// CRY-4: the vectors of butterfly expansion, for both purposes and of both keys.
func TestCRY4Expansion(t *testing.T) {
	t.Parallel()
	for _, v := range vectors[struct {
		Name, Purpose string
		I, J          uint32
		Key           string `json:"expansion_key"`
		Private       string `json:"caterpillar_private"`
		Public        string `json:"caterpillar_public_compressed"`
		F             string `json:"f_mod_n"`
		CocoonPrivate string `json:"cocoon_private"`
		CocoonPublic  string `json:"cocoon_public_compressed"`
	}](t, "butterfly_expansion.json") {
		purpose := map[string]Purpose{"signing": Signing, "encryption": Encryption}[v.Purpose]
		a, f := scalar(t, v.Private), Expand(key16(t, v.Key), purpose, v.I, v.J)
		equal(t, v.Name+": f", f.Bytes(), v.F)
		equal(t, v.Name+": private cocoon key", a.Add(f).Bytes(), v.CocoonPrivate)
		equal(t, v.Name+": public cocoon key", point(t, v.Public).Add(f.Public()).Bytes(), v.CocoonPublic)
		k := CaterpillarKeys{SigningKey: a, SigningExpansion: key16(t, v.Key), EncryptionKey: a, EncryptionExpansion: key16(t, v.Key)}
		c := k.Public()
		private, _ := k.Cocoon(v.I, v.J)
		public, _ := c.Cocoon(v.I, v.J)
		if purpose == Encryption {
			_, private = k.Cocoon(v.I, v.J)
			_, public = c.Cocoon(v.I, v.J)
		}
		equal(t, v.Name+": private cocoon key of the caterpillar", private.Bytes(), v.CocoonPrivate)
		equal(t, v.Name+": public cocoon key of the caterpillar", public.Bytes(), v.CocoonPublic)
	}
}

// CRY-5: the vectors of linkage values.
func TestCRY5Linkage(t *testing.T) {
	t.Parallel()
	for _, v := range vectors[struct {
		Name, Ls1, Ls2, Plv1, Plv2, Lv string
		J                              uint32
		La1                            string `json:"la_id1"`
		La2                            string `json:"la_id2"`
	}](t, "linkage_values.json") {
		one := Seed(unhex(t, v.Ls1)).Half(LaId(unhex(t, v.La1)), v.J)
		two := Seed(unhex(t, v.Ls2)).Half(LaId(unhex(t, v.La2)), v.J)
		equal(t, v.Name+": half", one[:], v.Plv1)
		equal(t, v.Name+": other half", two[:], v.Plv2)
		value := one.Join(two)
		equal(t, v.Name+": value", value[:], v.Lv)
	}
	// The seeds of period 1 follow from those of period 0.
	all := vectors[struct {
		I        int
		Ls1, Ls2 string
		La1      string `json:"la_id1"`
		La2      string `json:"la_id2"`
	}](t, "linkage_values.json")
	if all[0].I != 0 || all[1].I != 1 {
		t.Fatal("the vectors are of other periods")
	}
	one := Seed(unhex(t, all[0].Ls1)).Next(LaId(unhex(t, all[0].La1)))
	two := Seed(unhex(t, all[0].Ls2)).Next(LaId(unhex(t, all[0].La2)))
	equal(t, "the next seed", one[:], all[1].Ls1)
	equal(t, "the other next seed", two[:], all[1].Ls2)
}

// CRY-5: the index of a group depends on all that goes into it, in the order of the published vectors.
func TestCRY5GroupIndex(t *testing.T) {
	t.Parallel()
	k := [16]byte{1}
	a := GroupIndex(k, 1, 2)
	for _, other := range [][16]byte{GroupIndex(k, 2, 1), GroupIndex(k, 1, 3), GroupIndex([16]byte{2}, 1, 2)} {
		if a == other {
			t.Errorf("%x twice", a)
		}
	}
	var b [16]byte
	b[3], b[7] = 1, 2
	if want := daviesMeyer(k, b); a != want {
		t.Errorf("%x, want %x", a, want)
	}
}

func random(t testing.TB) Scalar {
	t.Helper()
	s, err := RandomScalar(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// CRY-6: implicit certificates are issued and reconstructed; the shifted digest, e = 0 and infinity are refused.
func TestCRY6ImplicitCertificates(t *testing.T) {
	t.Parallel()
	u, k, d := random(t), random(t), random(t)
	p, err := ReconstructionValue(u.Public(), k)
	if err != nil {
		t.Fatal(err)
	}
	digest := Digest(sha256.Sum256(p.Bytes()))
	digest[0] |= 0x80 // so that a shift makes a difference that is not one of the last bit alone
	r, err := PrivateReconstruction(digest, k, d)
	if err != nil {
		t.Fatal(err)
	}
	q := d.Public()
	private, err := Reconstruct(digest, u, r, p, q)
	if err != nil {
		t.Fatal(err)
	}
	key, err := ImplicitKey(digest, p, q)
	if err != nil || !private.Public().Equal(key) {
		t.Errorf("the keys do not belong together: %v", err)
	}
	one := scalar(t, strings.Repeat("0", 63)+"1")
	shifted := digest
	for i := 31; i >= 0; i-- {
		shifted[i] >>= 1
		if i > 0 {
			shifted[i] |= digest[i-1] << 7
		}
	}
	for what, err := range map[string]error{
		"r off by one":         second(Reconstruct(digest, u, r.Add(one), p, q)),
		"another issuer":       second(Reconstruct(digest, u, r, p, k.Public())),
		"another certificate":  second(Reconstruct(Digest{1}, u, r, p, q)),
		"the digest of SEC 4":  second(Reconstruct(shifted, u, r, p, q)),
		"another private key":  second(Reconstruct(digest, k, r, p, q)),
		"another public value": second(Reconstruct(digest, u, r, q, q)),
	} {
		if !errors.Is(err, ErrForged) {
			t.Errorf("%s: %v", what, err)
		}
	}
	var n Digest
	copy(n[:], unhex(t, "ffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551"))
	for _, zero := range []Digest{{}, n} {
		if _, err := ImplicitKey(zero, p, q); !errors.Is(err, ErrDigest) {
			t.Errorf("e is 0: %v", err)
		}
		if _, err := PrivateReconstruction(zero, k, d); !errors.Is(err, ErrDigest) {
			t.Errorf("e is 0: %v", err)
		}
	}
	minus := Digest{31: 1}
	negative := reduce(subtractOne(n)).Mul(d).Public() // -d·G, so that the key would be infinity
	if _, err := ImplicitKey(minus, negative, q); !errors.Is(err, ErrDigest) {
		t.Errorf("the key is infinity: %v", err)
	}
}

func subtractOne(d Digest) []byte { d[31]--; return d[:] }

func second(_ Scalar, err error) error { return err }

// CRY-8: what is no public key.
func TestCRY8NoPointsAndScalars(t *testing.T) {
	t.Parallel()
	base := scalar(t, strings.Repeat("0", 63)+"1").Public().Bytes()
	off := append([]byte{4}, bytes.Repeat([]byte{1}, 64)...)
	for name, b := range map[string][]byte{"nothing": nil, "infinity": {0}, "off the curve": off, "x alone": base[1:], "beyond the field": append([]byte{2}, bytes.Repeat([]byte{0xff}, 32)...)} {
		if _, err := NewPoint(b); !errors.Is(err, ErrPoint) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, s := range map[string]string{"0": strings.Repeat("00", 32), "the order": "ffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551", "short": "01"} {
		if _, err := NewScalar(unhex(t, s)); !errors.Is(err, ErrScalar) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := RandomScalar(bytes.NewReader(make([]byte, 32*maxTries))); !errors.Is(err, ErrRandom) {
		t.Errorf("randomness of zeros: %v", err)
	}
	if s := scalar(t, strings.Repeat("0", 63)+"7"); strings.Contains(fmt.Sprintf("%v %s %#v %+v", s, s, s, s), "7") {
		t.Error("a scalar was printed")
	}
}

// In every variant the private keys are those of the public ones, and an authority that adds a number of its own leaves who expanded without the key.
func TestVariants(t *testing.T) {
	t.Parallel()
	for _, v := range []Variant{Original, Unified, CompactUnified} {
		for _, d := range []Derivation{SameCocoon, OwnExpansions} {
			k := CaterpillarKeys{Variant: v, Derivation: d, SigningKey: random(t), SigningExpansion: [16]byte{1}, EncryptionKey: random(t), EncryptionExpansion: [16]byte{2}}
			c := k.Public()
			seen := map[string]bool{}
			for j := range uint32(3) {
				signing, encryption := k.Cocoon(7, j)
				ps, pe := c.Cocoon(7, j)
				if !signing.Public().Equal(ps) || !encryption.Public().Equal(pe) {
					t.Errorf("variant %d, derivation %d, j %d: the keys do not belong together", v, d, j)
				}
				if same := ps.Equal(pe); same != (v != Original && d == SameCocoon) {
					t.Errorf("variant %d, derivation %d: one key for both purposes: %v", v, d, same)
				}
				r := random(t)
				if key := Randomise(ps, r); !signing.Add(r).Public().Equal(key) || key.Equal(ps) {
					t.Errorf("variant %d: the randomised key is another one", v)
				}
				seen[string(ps.Bytes())] = true
			}
			if len(seen) != 3 {
				t.Errorf("variant %d: %d different keys of 3", v, len(seen))
			}
		}
	}
}

// own is the vectors that nobody else has published.
type own struct {
	Name, Value string
}

// TestOwnVectors holds what is computed against testdata/own.json, so that others can compare, and a change shows.
func TestOwnVectors(t *testing.T) {
	t.Parallel()
	a := scalar(t, "d418760f0cb2dcb856bc3c7217ad3aa36db6742ae1db655a3d28df88cbbf84e1")
	k := key16(t, "121d14216715e11d2d3787434a673b1b")
	r := scalar(t, "4624a6f9f6bc6bd088a71ed97b3aee983b5cc2f574f64e96a531d2464137049f")
	d := scalar(t, "baa2e87e53ab7a86a562664e77fb71264c040748ec29aeab2cf21b507045324f")
	const i, j = 219, 9
	same := CaterpillarKeys{Variant: Unified, SigningKey: a, SigningExpansion: k}
	apart := CaterpillarKeys{Variant: CompactUnified, Derivation: OwnExpansions, SigningKey: a, SigningExpansion: k}
	s1, e1 := same.Cocoon(i, j)
	s2, e2 := apart.Cocoon(i, j)
	p, err := ReconstructionValue(s1.Public(), r)
	if err != nil {
		t.Fatal(err)
	}
	digest := Digest(sha256.Sum256([]byte("implicit certificate")))
	rec, err := PrivateReconstruction(digest, r, d)
	if err != nil {
		t.Fatal(err)
	}
	q, err := ImplicitKey(digest, p, d.Public())
	if err != nil {
		t.Fatal(err)
	}
	private, err := Reconstruct(digest, s1, rec, p, d.Public())
	if err != nil {
		t.Fatal(err)
	}
	got := []own{
		{"caterpillar private key a", hex.EncodeToString(a.Bytes())}, {"expansion key", hex.EncodeToString(k[:])}, {"i", fmt.Sprint(i)}, {"j", fmt.Sprint(j)},
		{"unified: private cocoon key of signing", hex.EncodeToString(s1.Bytes())},
		{"unified, same cocoon: private key of encryption", hex.EncodeToString(e1.Bytes())},
		{"unified, own expansions: private key of signing", hex.EncodeToString(s2.Bytes())},
		{"unified, own expansions: private key of encryption", hex.EncodeToString(e2.Bytes())},
		{"authority's random number r or k", hex.EncodeToString(r.Bytes())},
		{"explicit, randomised: public key", hex.EncodeToString(Randomise(s1.Public(), r).Bytes())},
		{"explicit, randomised: private key", hex.EncodeToString(s1.Add(r).Bytes())},
		{"implicit: reconstruction value", hex.EncodeToString(p.Bytes())},
		{"implicit: digest", hex.EncodeToString(digest[:])}, {"implicit: authority's private key", hex.EncodeToString(d.Bytes())},
		{"implicit: what the authority returns", hex.EncodeToString(rec.Bytes())},
		{"implicit: public key", hex.EncodeToString(q.Bytes())}, {"implicit: private key", hex.EncodeToString(private.Bytes())},
	}
	if *update {
		text, err := json.MarshalIndent(map[string]any{"source": "Mooring", "vectors": got}, "", " ")
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile("testdata/own.json", append(text, '\n'), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want := vectors[own](t, "own.json")
	if len(want) != len(got) {
		t.Fatalf("%d values, want %d", len(got), len(want))
	}
	for n := range got {
		if got[n] != want[n] {
			t.Errorf("%s is %s, want %s", got[n].Name, got[n].Value, want[n].Value)
		}
	}
}

func BenchmarkCocoon(b *testing.B) {
	k := CaterpillarKeys{Variant: Unified, SigningKey: random(b), SigningExpansion: [16]byte{1}}
	c := k.Public()
	b.ReportAllocs()
	for n := uint32(0); b.Loop(); n++ {
		c.Cocoon(1, n)
	}
}

func BenchmarkWrap(b *testing.B) {
	p := random(b).Public()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Wrap(rand.Reader, p, [16]byte{1}, nil); err != nil {
			b.Fatal(err)
		}
	}
}
