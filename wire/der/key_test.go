package der_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"math/big"
	"testing"

	mldsax509 "filippo.io/mldsa/x509"

	"mooring/wire/der"
)

func spkiOf(t testing.TB, pub crypto.PublicKey) []byte {
	t.Helper()
	spki, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		t.Fatal(err)
	}
	return spki
}

func newEC(t testing.TB, curve elliptic.Curve) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// rsaSPKI encodes an RSA key that the standard library would not make.
func rsaSPKI(t testing.TB, n, e *big.Int) []byte {
	t.Helper()
	key, err := asn1.Marshal(struct{ N, E *big.Int }{n, e})
	if err != nil {
		t.Fatal(err)
	}
	return spki(unhexTest("300d06092a864886f70d0101010500"), key)
}

func spki(algorithm, bits []byte) []byte {
	content := append(algorithm, der.AppendElement(nil, 3, append([]byte{0}, bits...))...)
	return der.AppendElement(nil, 0x30, content)
}

func TestParsePublicKey(t *testing.T) {
	edPub, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	for kind, pub := range map[der.KeyKind]interface{ Equal(crypto.PublicKey) bool }{
		der.ECP256: &newEC(t, elliptic.P256()).PublicKey, der.ECP384: &newEC(t, elliptic.P384()).PublicKey,
		der.ECP521: &newEC(t, elliptic.P521()).PublicKey, der.KeyEd25519: edPub, "rsa-2048": &rsaKey.PublicKey,
	} {
		got, err := der.ParsePublicKey(spkiOf(t, pub))
		if err != nil || !pub.Equal(got) || der.KindOf(got) != kind || der.CheckKey(got) != nil {
			t.Errorf("%s: read %v (%s), %v, check %v", kind, got, der.KindOf(got), err, der.CheckKey(got))
		}
	}
}

func TestParsePublicKeyRefuses(t *testing.T) {
	good := spkiOf(t, &newEC(t, elliptic.P256()).PublicKey)
	change := func(f func(in []byte) []byte) []byte { return f(append([]byte(nil), good...)) }
	point := good[26:]
	compressed := append([]byte{2 + point[64]&1}, point[1:33]...)
	ec := func(curve string) []byte { return unhexTest(curve) }
	p224 := spkiOf(t, &newEC(t, elliptic.P224()).PublicKey)
	big8193 := new(big.Int).Lsh(big.NewInt(1), 8192)
	e := big.NewInt(65537)
	for _, c := range []struct {
		name  string
		in    []byte
		words string
		key   bool // wraps ErrKey
	}{
		{"trailing byte", append(good[:len(good):len(good)], 0), "trailing", false},
		{"truncated", good[:len(good)-1], "malformed", false},
		{"unused bits", change(func(b []byte) []byte { b[25] = 1; return b }), "malformed", false},
		{"not on the curve", change(func(b []byte) []byte { b[len(b)-1] ^= 1; return b }), "not on the curve", true},
		{"point at infinity", spki(ec("301306072a8648ce3d020106082a8648ce3d030107"), []byte{0}), "uncompressed", true},
		{"no point", spki(ec("301306072a8648ce3d020106082a8648ce3d030107"), nil), "wrong length", true},
		{"compressed", spki(ec("301306072a8648ce3d020106082a8648ce3d030107"), compressed), "uncompressed", true},
		{"P-192", spki(ec("301306072a8648ce3d020106082a8648ce3d030101"), point), "P-192", true},
		{"P-224", p224, "P-224", true},
		{"secp256k1", spki(ec("301006072a8648ce3d020106052b8104000a"), point), "secp256k1", true},
		{"brainpoolP256r1", spki(ec("301406072a8648ce3d020106092b2403030208010107"), point), "1.3.36.3.3.2.8.1.1.7", true},
		{"explicit parameters", spki(ec("300e06072a8648ce3d02013003020101"), point), "explicit", true},
		{"implicit curve", spki(ec("300b06072a8648ce3d02010500"), point), "malformed", false},
		{"Ed25519 with parameters", spki(ec("300706032b65700500"), make([]byte, 32)), "malformed", false},
		{"Ed25519 of 31 octets", spki(ec("300506032b6570"), make([]byte, 31)), "malformed", false},
		{"Ed448", spki(ec("300506032b6571"), make([]byte, 57)), "1.3.101.113", true},
		{"DSA", spki(ec("300906072a8648ce380401"), []byte{2, 1, 1}), "unsupported algorithm", true},
		{"RSA-PSS key", spki(ec("300b06092a864886f70d01010a"), []byte{2, 1, 1}), "PSS", true},
		{"RSA without NULL", spki(ec("300b06092a864886f70d010101"), []byte{0x30, 6, 2, 1, 5, 2, 1, 3}), "malformed", false},
		{"RSA negative", rsaSPKI(t, big.NewInt(-5), e), "malformed", false},
		{"RSA padded modulus", spki(ec("300d06092a864886f70d0101010500"), []byte{0x30, 7, 2, 2, 0, 5, 2, 1, 3}), "malformed", false},
		{"RSA zero", rsaSPKI(t, big.NewInt(0), e), "zero", true},
		{"RSA 8193 bits", rsaSPKI(t, big8193, e), "8193 bits", true},
		{"RSA huge exponent", rsaSPKI(t, big.NewInt(5), big8193), "exponent", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := der.ParsePublicKey(c.in)
			wantError(t, err, c.words)
			if errors.Is(err, der.ErrKey) != c.key {
				t.Errorf("%v: wraps ErrKey: %v, want %v", err, !c.key, c.key)
			}
		})
	}
}

func TestCheckKeyRefuses(t *testing.T) {
	n2048 := new(big.Int).SetBit(new(big.Int).SetBit(big.NewInt(0), 2047, 1), 0, 1)
	for _, c := range []struct {
		name  string
		n     *big.Int
		e     int64
		words string
	}{
		{"1024 bits", new(big.Int).Rsh(n2048, 1024), 65537, "1024 bits"},
		{"2047 bits", new(big.Int).Rsh(n2048, 1), 65537, "2047 bits"},
		{"4097 bits", new(big.Int).Lsh(n2048, 2049), 65537, "4097 bits"},
		{"even modulus", new(big.Int).SetBit(n2048, 0, 0), 65537, "even"},
		{"e = 1", n2048, 1, "exponent 1;"},
		{"e = 3", n2048, 3, "exponent 3;"},
		{"e = 65538", n2048, 65538, "exponent 65538;"},
		{"ROCA", rocaModulus(), 65537, "ROCA"},
	} {
		t.Run(c.name, func(t *testing.T) {
			pub, err := der.ParsePublicKey(rsaSPKI(t, c.n, big.NewInt(c.e)))
			if err != nil {
				t.Fatal(err)
			}
			err = der.CheckKey(pub)
			wantError(t, err, c.words)
			if !errors.Is(err, der.ErrKey) {
				t.Errorf("%v does not wrap ErrKey", err)
			}
		})
	}
	for _, pub := range []crypto.PublicKey{nil, "key", &newEC(t, elliptic.P224()).PublicKey} {
		if err := der.CheckKey(pub); !errors.Is(err, der.ErrKey) {
			t.Errorf("CheckKey(%T) = %v", pub, err)
		}
	}
}

// TestIntermediates: what the search of a path may verify by.
func TestIntermediates(t *testing.T) {
	good := &x509.Certificate{Raw: []byte{1}, PublicKey: newEC(t, elliptic.P256()).Public()}
	large := &rsa.PublicKey{N: new(big.Int).SetBit(new(big.Int).Lsh(big.NewInt(1), 100_000), 0, 1), E: 1<<31 - 1}
	want := x509.NewCertPool()
	want.AddCert(good)
	if got := der.Intermediates([]*x509.Certificate{{Raw: []byte{2}, PublicKey: large}, good, {Raw: []byte{3}}}); !got.Equal(want) {
		t.Error("got other certificates than the good one")
	}
}

// rocaModulus has the shape that the flawed generator gives: k*M + 65537^a mod M, M the product of the primes to 701.
func rocaModulus() *big.Int {
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

func TestSubjectKeyID(t *testing.T) {
	key := newEC(t, elliptic.P256())
	in := spkiOf(t, &key.PublicKey)
	point, err := key.PublicKey.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	want := sha256.Sum256(point)
	if got, err := der.SubjectKeyID(in); err != nil || got != [20]byte(want[:20]) {
		t.Errorf("SubjectKeyID = %x, %v; want %x", got, err, want[:20])
	}
	if _, err := der.SubjectKeyID(in[1:]); err == nil {
		t.Error("no error for a truncated key")
	}
}

func TestSignatureAlgorithms(t *testing.T) {
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	edPub, edKey, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	p256, p384, p521 := newEC(t, elliptic.P256()), newEC(t, elliptic.P384()), newEC(t, elliptic.P521())
	for _, c := range []struct {
		std x509.SignatureAlgorithm
		our der.SignatureAlgorithm
		key crypto.Signer
	}{
		{x509.ECDSAWithSHA256, der.ECDSAWithSHA256, p256}, {x509.ECDSAWithSHA384, der.ECDSAWithSHA384, p384},
		{x509.ECDSAWithSHA512, der.ECDSAWithSHA512, p521}, {x509.ECDSAWithSHA512, der.ECDSAWithSHA512, p256},
		{x509.PureEd25519, der.PureEd25519, edKey},
		{x509.SHA256WithRSA, der.RSAWithSHA256, rsaKey}, {x509.SHA384WithRSA, der.RSAWithSHA384, rsaKey}, {x509.SHA512WithRSA, der.RSAWithSHA512, rsaKey},
		{x509.SHA256WithRSAPSS, der.RSAPSSWithSHA256, rsaKey}, {x509.SHA384WithRSAPSS, der.RSAPSSWithSHA384, rsaKey}, {x509.SHA512WithRSAPSS, der.RSAPSSWithSHA512, rsaKey},
	} {
		csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{SignatureAlgorithm: c.std}, c.key)
		if err != nil {
			t.Fatal(err)
		}
		r, err := der.ParseRequest(csr)
		if err != nil {
			t.Fatalf("%s: %v", c.our, err)
		}
		if r.Algorithm != c.our {
			t.Errorf("read %s, want %s", r.Algorithm, c.our)
		}
		if err := r.CheckSignature(); err != nil {
			t.Errorf("%s: %v", c.our, err)
		}
		if got, err := der.ParseSignatureAlgorithm(c.our.Identifier()); got != c.our || err != nil {
			t.Errorf("%s reads as %s, %v", c.our, got, err)
		}
		r.Signature[len(r.Signature)-1] ^= 1
		if err := r.CheckSignature(); !errors.Is(err, der.ErrSignature) {
			t.Errorf("%s with a changed signature: %v", c.our, err)
		}
	}
	for _, pub := range []crypto.PublicKey{&p256.PublicKey, edPub, &rsaKey.PublicKey} {
		own, err := der.AlgorithmFor(pub)
		if err != nil {
			t.Fatal(err)
		}
		for _, a := range []der.SignatureAlgorithm{0, der.ECDSAWithSHA256, der.PureEd25519, der.RSAWithSHA256} {
			if err := a.Verify(pub, nil, nil); (a == own) != errors.Is(err, der.ErrSignature) {
				t.Errorf("%s with %T: %v", a, pub, err)
			}
		}
	}
}

func TestParseSignatureAlgorithmRefuses(t *testing.T) {
	for _, c := range []struct{ name, in, words string }{
		{"ECDSA with NULL", "300c06082a8648ce3d0403020500", "parameters"},
		{"Ed25519 with NULL", "300706032b65700500", "parameters"},
		{"PSS with defaults, which are SHA-1", "300d06092a864886f70d01010a3000", "parameters"},
		{"SHA-1 with RSA", "300d06092a864886f70d0101050500", "SHA-1"},
		{"SHA-1 with ECDSA", "300906072a8648ce3d0401", "SHA-1"},
		{"MD5 with RSA", "300d06092a864886f70d0101040500", "MD5"},
		{"trailing bytes", "300506032b657000", "trailing"},
		{"nothing", "", "malformed"},
	} {
		_, err := der.ParseSignatureAlgorithm(unhex(t, c.in))
		if err == nil {
			t.Fatalf("%s is accepted", c.name)
		}
		wantError(t, err, c.words)
	}
	if a, err := der.ParseSignatureAlgorithm(unhex(t, "300b06092a864886f70d01010b")); err != nil || a != der.RSAWithSHA256 {
		t.Errorf("RSA without NULL: %s, %v", a, err)
	}
}

func FuzzParsePublicKey(f *testing.F) {
	f.Add(spkiOf(f, &newEC(f, elliptic.P256()).PublicKey))
	f.Add(rsaSPKI(f, rocaModulus(), big.NewInt(65537)))
	f.Add(vector(f, "public-44.pem"))
	f.Add(vector(f, "public-65.pem"))
	f.Add(unhex(f, "302a300506032b6570032100 d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"))
	f.Fuzz(func(t *testing.T, in []byte) {
		pub, err := der.ParsePublicKey(in)
		if err != nil {
			return
		}
		if der.KindOf(pub) == "" {
			t.Fatalf("a key of no kind: %T", pub)
		}
		_ = der.CheckKey(pub)                                       // must not panic
		if _, err := mldsax509.ParsePKIXPublicKey(in); err != nil { // the standard library, and ML-DSA
			t.Fatalf("the standard library refuses %x: %v", in, err)
		}
	})
}

func FuzzParseSignatureAlgorithm(f *testing.F) {
	for a := der.ECDSAWithSHA256; a <= der.PureMLDSA65; a++ {
		f.Add(a.Identifier())
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		if a, err := der.ParseSignatureAlgorithm(in); err == nil && len(a.Identifier()) == 0 {
			t.Fatalf("%x reads as no algorithm", in)
		}
	})
}
