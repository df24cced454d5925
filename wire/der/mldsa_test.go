package der_test

import (
	"bytes"
	"crypto"
	"crypto/elliptic"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"filippo.io/mldsa"
	mldsax509 "filippo.io/mldsa/x509"

	"mooring/wire/der"
)

// vector reads a file that OpenSSL made; testdata/mldsa/make.sh says how.
func vector(t testing.TB, name string) []byte {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", "mldsa", name))
	if err != nil {
		t.Fatal(err)
	}
	block, rest := pem.Decode(text)
	if block == nil || len(bytes.TrimSpace(rest)) > 0 {
		t.Fatalf("%s is not one PEM block", name)
	}
	return block.Bytes
}

func mldsaKey(t testing.TB, set mldsa.Parameters) *mldsa.PrivateKey {
	t.Helper()
	seed := make([]byte, mldsa.PrivateKeySize)
	for i := range seed {
		seed[i] = byte(i)
	}
	key, err := mldsa.NewPrivateKey(set, seed)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func TestMLDSAKeysOfOpenSSL(t *testing.T) {
	for set, c := range map[mldsa.Parameters]struct {
		name      string
		kind      der.KeyKind
		algorithm der.SignatureAlgorithm
	}{
		mldsa.MLDSA44(): {"44", der.KeyMLDSA44, der.PureMLDSA44},
		mldsa.MLDSA65(): {"65", der.KeyMLDSA65, der.PureMLDSA65},
	} {
		spki, want := vector(t, "public-"+c.name+".pem"), mldsaKey(t, set)
		pub, err := der.ParsePublicKey(spki)
		if err != nil || !want.PublicKey().Equal(pub) || der.KindOf(pub) != c.kind || der.CheckKey(pub) != nil {
			t.Fatalf("%s: read %v (%s), %v", c.name, pub, der.KindOf(pub), err)
		}
		if a, err := der.AlgorithmFor(pub); a != c.algorithm || err != nil || a.Hash() != 0 || a.String() != string(c.kind) {
			t.Errorf("%s: signs with %s, %v", c.name, a, err)
		}
		if got, err := der.EncodePublicKey(pub); err != nil || !bytes.Equal(got, spki) {
			t.Errorf("%s: the public key is written as %x, %v, want %x", c.name, got, err, spki)
		}
		pkcs8 := vector(t, "seed-"+c.name+".pem")
		if key, err := der.ParsePrivateKey(pkcs8); err != nil || !want.Equal(key) {
			t.Errorf("%s: private key: %v", c.name, err)
		}
		if got, err := der.EncodePrivateKey(want); err != nil || !bytes.Equal(got, pkcs8) {
			t.Errorf("%s: the private key is written as %x, %v, want %x", c.name, got, err, pkcs8)
		}
	}
}

func TestClassicalKeysAreEncodedAsEver(t *testing.T) {
	key := newEC(t, elliptic.P384())
	pkcs8, err := der.EncodePrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := der.ParsePrivateKey(pkcs8); err != nil || !key.Equal(again) {
		t.Errorf("private key: %v, %v", again, err)
	}
	if spki, err := der.EncodePublicKey(&key.PublicKey); err != nil || !bytes.Equal(spki, spkiOf(t, &key.PublicKey)) {
		t.Errorf("public key: %x, %v", spki, err)
	}
	for _, k := range []any{nil, "x", mldsaKey(t, mldsa.MLDSA87())} {
		if _, err := der.EncodePrivateKey(k); !errors.Is(err, der.ErrKey) {
			t.Errorf("EncodePrivateKey(%T): %v", k, err)
		}
	}
	for _, k := range []any{nil, "x", mldsaKey(t, mldsa.MLDSA87()).PublicKey()} {
		if _, err := der.EncodePublicKey(k); !errors.Is(err, der.ErrKey) {
			t.Errorf("EncodePublicKey(%T): %v", k, err)
		}
	}
}

func TestMLDSAPrivateKeysThatAreRefused(t *testing.T) {
	seed := vector(t, "seed-44.pem")
	change := func(f func(b []byte) []byte) []byte { return f(bytes.Clone(seed)) }
	other := mldsaKey(t, mldsa.MLDSA44()).PublicKey().Bytes()
	other[0] ^= 1
	for _, c := range []struct {
		name, words string
		in          []byte
		key         bool
	}{
		{"both", "ml-dsa.output_formats=seed-only", vector(t, "both-44.pem"), true},
		{"both, 65", "ml-dsa.output_formats=seed-only", vector(t, "both-65.pem"), true},
		{"expanded", "expanded key, from which", vector(t, "expanded-44.pem"), true},
		{"expanded, 65", "make a new key", vector(t, "expanded-65.pem"), true},
		{"87", "ML-DSA-87 is not offered", vector(t, "seed-87.pem"), true},
		{"trailing", "trailing", append(bytes.Clone(seed), 0), false},
		{"short", "malformed", seed[:len(seed)-1], false},
		{"another version", "malformed", change(func(b []byte) []byte { b[4] = 2; return b }), false},
		{"parameters", "malformed", change(func(b []byte) []byte {
			b = append(b[:18], append([]byte{5, 0}, b[18:]...)...)
			b[1], b[6] = b[1]+2, b[6]+2
			return b
		}), false},
		{"seed of 31 octets", "malformed", change(func(b []byte) []byte {
			b[1], b[19], b[21] = b[1]-1, b[19]-1, b[21]-1
			return b[:len(b)-1]
		}), false},
		{"another form", "malformed", change(func(b []byte) []byte { b[20] = 0x81; return b }), false},
		{"another's public key", "another key's", change(func(b []byte) []byte {
			b[4] = 1
			return der.AppendElement(nil, 0x30, append(b[2:], der.AppendElement(nil, 0x81, append([]byte{0}, other...))...))
		}), false},
		{"nothing", "malformed", nil, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := der.ParsePrivateKey(c.in)
			if err == nil {
				t.Fatal("it is accepted")
			}
			wantError(t, err, c.words)
			if errors.Is(err, der.ErrKey) != c.key {
				t.Errorf("%v: wraps ErrKey: %v, want %v", err, !c.key, c.key)
			}
		})
	}
}

func TestMLDSAPublicKeysThatAreRefused(t *testing.T) {
	good := vector(t, "public-44.pem")
	bits := good[len(good)-1312:]
	for name, c := range map[string]struct {
		in    []byte
		words string
	}{
		"87":                   {vector(t, "public-87.pem"), "ML-DSA-87 is not offered"},
		"one octet short":      {spki(unhexTest("300b0609608648016503040311"), bits[1:]), "malformed"},
		"44 under the name 65": {spki(unhexTest("300b0609608648016503040312"), bits), "malformed"},
		"with parameters":      {spki(unhexTest("300d06096086480165030403110500"), bits), "malformed"},
	} {
		_, err := der.ParsePublicKey(c.in)
		if err == nil {
			t.Errorf("%s is accepted", name)
			continue
		}
		wantError(t, err, c.words)
	}
}

func TestMLDSARequestsOfOpenSSL(t *testing.T) {
	for name, kind := range map[string]der.KeyKind{"44": der.KeyMLDSA44, "65": der.KeyMLDSA65} {
		r, err := der.ParseRequest(vector(t, "request-"+name+".pem"))
		if err != nil {
			t.Fatal(err)
		}
		if der.KindOf(r.PublicKey) != kind || der.FormatName(r.Subject) != "O=Example, CN=pump-"+name || len(r.Names.DNS) != 1 {
			t.Errorf("%s: read %v, names %v", name, r, r.Names)
		}
		if err := r.CheckSignature(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		for _, at := range []int{0, len(r.Signature) / 2, len(r.Signature) - 1} {
			changed := bytes.Clone(r.Signature)
			changed[at] ^= 1
			if err := r.Algorithm.Verify(r.PublicKey, r.RawInfo, changed); !errors.Is(err, der.ErrSignature) {
				t.Errorf("%s: a changed octet %d: %v", name, at, err)
			}
		}
		if err := r.Algorithm.Verify(r.PublicKey, r.RawInfo, append(r.Signature, 0)); !errors.Is(err, der.ErrSignature) {
			t.Errorf("%s: a longer signature: %v", name, err)
		}
	}
}

func TestMLDSARequestOfOurs(t *testing.T) {
	for _, set := range []mldsa.Parameters{mldsa.MLDSA44(), mldsa.MLDSA65()} {
		key := mldsaKey(t, set)
		spki, err := der.EncodePublicKey(key.Public())
		if err != nil {
			t.Fatal(err)
		}
		info, err := der.AppendRequestInfo(nil, der.RequestSpec{Subject: []der.Attribute{{Type: der.OIDCommonName, Value: "pump"}}, SPKI: spki})
		if err != nil {
			t.Fatal(err)
		}
		r, err := der.ParseRequest(sign(t, info, key))
		if err != nil {
			t.Fatal(err)
		}
		if err := r.CheckSignature(); err != nil {
			t.Errorf("%s: %v", set, err)
		}
	}
}

func TestMLDSANeedsItsOwnAlgorithm(t *testing.T) {
	k44, k65, ec := mldsaKey(t, mldsa.MLDSA44()), mldsaKey(t, mldsa.MLDSA65()), newEC(t, elliptic.P384())
	message := []byte("message")
	for _, c := range []struct {
		a   der.SignatureAlgorithm
		pub crypto.PublicKey
	}{{der.PureMLDSA65, k44.Public()}, {der.PureMLDSA44, k65.Public()}, {der.PureEd25519, k44.Public()}, {0, k44.Public()},
		{0, mldsaKey(t, mldsa.MLDSA87()).Public()}, {der.PureMLDSA44, ec.Public()}} {
		if err := c.a.Verify(c.pub, message, nil); err == nil || errors.Is(err, der.ErrSignature) {
			t.Errorf("%s with %s: %v", c.a, der.KindOf(c.pub), err)
		}
	}
	with, err := k44.Sign(nil, message, &mldsa.Options{Context: "x"})
	if err != nil {
		t.Fatal(err)
	}
	if err := der.PureMLDSA44.Verify(k44.Public(), message, with); !errors.Is(err, der.ErrSignature) {
		t.Errorf("a signature with a context: %v", err)
	}
}

func TestCheckCertificate(t *testing.T) {
	certs := map[string]*x509.Certificate{}
	for _, name := range []string{"root", "issuing", "leaf", "ec-root", "ec-leaf"} {
		cert, err := x509.ParseCertificate(vector(t, name+".pem"))
		if err != nil {
			t.Fatal(err)
		}
		certs[name] = cert
	}
	for _, c := range []struct {
		name, by string
		ok       bool
	}{{"root", "root", true}, {"issuing", "root", true}, {"leaf", "issuing", true}, {"ec-leaf", "ec-root", true}, {"ec-root", "ec-root", true},
		{"leaf", "root", false}, {"leaf", "leaf", false}, {"ec-leaf", "root", false}, {"issuing", "ec-root", false}} {
		pub, err := der.ParsePublicKey(certs[c.by].RawSubjectPublicKeyInfo)
		if err != nil {
			t.Fatal(err)
		}
		if err := der.CheckCertificate(certs[c.name], pub); (err == nil) != c.ok {
			t.Errorf("%s by %s: %v", c.name, c.by, err)
		}
	}
}

func FuzzParsePrivateKey(f *testing.F) {
	for _, name := range []string{"seed-44", "seed-65", "seed-87", "both-44", "expanded-44"} {
		f.Add(vector(f, name+".pem"))
	}
	ec, err := der.EncodePrivateKey(newEC(f, elliptic.P384()))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(ec)
	f.Fuzz(func(t *testing.T, in []byte) {
		key, err := der.ParsePrivateKey(in)
		if err != nil {
			return
		}
		again, err := der.EncodePrivateKey(key)
		if err != nil {
			t.Fatalf("a key of kind %T is read, but cannot be written: %v", key, err)
		}
		if _, err := der.ParsePrivateKey(again); err != nil {
			t.Fatalf("what was written does not read: %v", err)
		}
		if _, ok := key.(*mldsa.PrivateKey); !ok {
			return
		}
		if other, err := mldsax509.ParsePKCS8PrivateKey(again); err != nil || !key.(*mldsa.PrivateKey).Equal(other) {
			t.Fatalf("the other parser reads %v, %v", other, err)
		}
	})
}
