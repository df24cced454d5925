package cms

import (
	"bytes"
	"crypto"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/hex"
	"math/big"
	"strings"
	"testing"
	"time"
)

// identity is a key with a self-signed certificate.
type identity struct {
	cert   *x509.Certificate
	signer crypto.Signer
}

func newKey(t testing.TB, kind string) crypto.Signer {
	t.Helper()
	var key crypto.Signer
	var err error
	switch kind {
	case "RSA":
		key, err = rsa.GenerateKey(rand.Reader, 2048)
	case "P-256":
		key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case "P-384":
		key, err = ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	case "P-521":
		key, err = ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	case "Ed25519":
		_, key, err = ed25519.GenerateKey(rand.Reader)
	default:
		t.Fatalf("no kind of key %q", kind)
	}
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func newCertificate(t testing.TB, kind string) identity {
	t.Helper()
	key := newKey(t, kind)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()),
		Subject:      pkix.Name{CommonName: "test " + kind},
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().Add(time.Hour),
		SubjectKeyId: []byte("key of " + kind),
		KeyUsage:     x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment | x509.KeyUsageKeyAgreement,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageEmailProtection},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return identity{cert, key}
}

// ecKey returns the Diffie-Hellman form of an identity's key.
func (i identity) ecKey(t testing.TB) *ecdh.PrivateKey {
	t.Helper()
	key, err := i.signer.(*ecdsa.PrivateKey).ECDH()
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func unhex(t testing.TB, text string) []byte {
	t.Helper()
	out, err := hex.DecodeString(strings.ReplaceAll(text, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// signExample signs some content, after change has had its way with the input.
func signExample(t testing.TB, id identity, change func(*SignInput)) []byte {
	t.Helper()
	in := SignInput{ContentType: OIDData, Content: []byte("hello"), Signer: id.signer, Certificate: id.cert, Rand: rand.Reader}
	if change != nil {
		change(&in)
	}
	der, err := Sign(in)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func TestSignAndVerify(t *testing.T) {
	at := time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)
	extra := Attribute{asn1.ObjectIdentifier{1, 2, 3, 4}, [][]byte{{5, 0}, {2, 1, 7}}}
	for _, kind := range []string{"RSA", "P-256", "P-384", "P-521", "Ed25519"} {
		id, other := newCertificate(t, kind), newCertificate(t, kind)
		for _, bySubjectKey := range []bool{false, true} {
			signed, err := ParseSigned(signExample(t, id, func(in *SignInput) {
				in.BySubjectKey, in.SigningTime, in.Attributes = bySubjectKey, at, []Attribute{extra}
				in.Chain = [][]byte{other.cert.Raw}
			}))
			if err != nil {
				t.Fatalf("%s: %v", kind, err)
			}
			info, err := signed.Verify(id.cert)
			if err != nil {
				t.Fatalf("%s: %v", kind, err)
			}
			if string(signed.Content) != "hello" || len(signed.Certificates) != 2 || (info.ID.SubjectKey != nil) != bySubjectKey {
				t.Errorf("%s: read as %+v", kind, signed)
			}
			if got := info.Attribute(OIDSigningTime); string(got) != "\x17\x0d261125120000Z" {
				t.Errorf("%s: signing time is %q", kind, got)
			}
			if got := info.Attribute(extra.Type); got != nil {
				t.Errorf("%s: an attribute of two values is taken for %x", kind, got)
			}
			if _, err := signed.Verify(other.cert); err == nil {
				t.Errorf("%s: verified with another certificate", kind)
			}
		}
	}
}

func TestVerifyRefusesChanges(t *testing.T) {
	for _, kind := range []string{"RSA", "P-256", "Ed25519"} {
		id := newCertificate(t, kind)
		good := signExample(t, id, nil)
		for name, change := range map[string]func(*Signed){
			"content":         func(s *Signed) { s.Content[0] ^= 1 },
			"content missing": func(s *Signed) { s.Content = nil },
			"content type":    func(s *Signed) { s.ContentType = OIDKeyPackage },
			"attributes":      func(s *Signed) { s.Signers[0].signedBytes[len(s.Signers[0].signedBytes)-1] ^= 1 },
			"signature":       func(s *Signed) { s.Signers[0].value[9] ^= 1 },
			"digest":          func(s *Signed) { s.Signers[0].Digest.OID = asn1.ObjectIdentifier{1, 3, 14, 3, 2, 26} },
			"algorithm":       func(s *Signed) { s.Signers[0].Signature.OID = oidECDSASHA512 },
			"key":             func(s *Signed) { s.Signers[0].ID = IssuerAndSerial(newCertificate(t, kind).cert) },
		} {
			signed, err := ParseSigned(good)
			if err != nil {
				t.Fatal(err)
			}
			change(signed)
			if _, err := signed.Verify(id.cert); err == nil {
				t.Errorf("%s: verified after a change of the %s", kind, name)
			}
		}
	}
}

// A certificate with a key of another kind but the right name must not get past the table of schemes.
func TestVerifyRefusesOtherKind(t *testing.T) {
	id, other := newCertificate(t, "P-256"), newCertificate(t, "RSA")
	signed, err := ParseSigned(signExample(t, id, nil))
	if err != nil {
		t.Fatal(err)
	}
	forged := *other.cert
	forged.RawIssuer, forged.SerialNumber = id.cert.RawIssuer, id.cert.SerialNumber
	if _, err := signed.Verify(&forged); err == nil {
		t.Error("an ECDSA signature was verified with an RSA key")
	}
}

func TestSignRefusesRepeatedAttribute(t *testing.T) {
	id := newCertificate(t, "P-256")
	_, err := Sign(SignInput{ContentType: OIDData, Signer: id.signer, Certificate: id.cert, Rand: rand.Reader,
		Attributes: []Attribute{{OIDMessageDigest, [][]byte{{4, 0}}}}})
	if err == nil {
		t.Error("a second message digest was signed")
	}
}

func TestSignRefusesOtherKey(t *testing.T) {
	id := newCertificate(t, "P-256")
	_, err := Sign(SignInput{ContentType: OIDData, Signer: newKey(t, "P-256"), Certificate: id.cert, Rand: rand.Reader})
	if err == nil {
		t.Error("signed with a key that is not the certificate's")
	}
}

func TestParseSignedRefuses(t *testing.T) {
	good := signExample(t, newCertificate(t, "P-256"), nil)
	for i := range good {
		if _, err := ParseSigned(good[:i]); err == nil {
			t.Errorf("read after %d of %d bytes", i, len(good))
		}
	}
	if _, err := ParseSigned(append(bytes.Clone(good), 0)); err == nil {
		t.Error("read with a trailing byte")
	}
}

func FuzzParseSigned(f *testing.F) {
	for _, kind := range []string{"RSA", "P-256"} {
		id := newCertificate(f, kind)
		f.Add(signExample(f, id, nil))
		f.Add(signExample(f, id, func(in *SignInput) { in.BySubjectKey = true }))
	}
	cert := newCertificate(f, "P-256").cert
	f.Fuzz(func(t *testing.T, der []byte) {
		signed, err := ParseSigned(der)
		if err != nil {
			return
		}
		if _, err := signed.Verify(cert); err == nil {
			t.Errorf("%x is signed by a certificate nobody used", der)
		}
		for i := range signed.Signers {
			if signed.verify(&signed.Signers[i], cert.PublicKey, schemes()) == nil {
				t.Errorf("%x is signed by a key nobody used", der)
			}
		}
	})
}

func FuzzParseContentInfo(f *testing.F) {
	f.Add(signExample(f, newCertificate(f, "P-256"), nil))
	f.Fuzz(func(t *testing.T, der []byte) {
		contentType, content, err := ParseContentInfo(der)
		if err == nil && (len(contentType) < 2 || !bytes.HasSuffix(der, content)) {
			t.Errorf("%x was read as %v, %x", der, contentType, content)
		}
	})
}
