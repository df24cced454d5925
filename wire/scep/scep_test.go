package scep

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"math/big"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"mooring/wire/cms"
)

// identity is a key with a self-signed certificate.
type identity struct {
	key  crypto.Signer
	cert *x509.Certificate
}

func newIdentity(t testing.TB, key crypto.Signer) identity {
	t.Helper()
	template := &x509.Certificate{SerialNumber: big.NewInt(serials.Add(1)), Subject: pkix.Name{CommonName: "dev1"}, NotBefore: time.Unix(0, 0), NotAfter: time.Unix(4e9, 0)}
	raw, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(raw)
	if err != nil {
		t.Fatal(err)
	}
	return identity{key, cert}
}

var serials atomic.Int64

// rsaKeys are made once: they are slow to make.
var rsaKeys = sync.OnceValue(func() (keys [2]*rsa.PrivateKey) {
	for i := range keys {
		keys[i], _ = rsa.GenerateKey(rand.Reader, 2048)
	}
	return keys
})

func pair(t testing.TB) (device, ra identity) {
	keys := rsaKeys()
	return newIdentity(t, keys[0]), newIdentity(t, keys[1])
}

func (i identity) request(to identity) Input {
	return Input{Type: PKCSReq, Transaction: "a+/=1", SenderNonce: []byte("0123456789abcdef"), Content: []byte("a request"), Recipient: to.cert,
		Signer: i.key, Certificate: i.cert, Rand: rand.Reader}
}

func build(t testing.TB, in Input) []byte {
	t.Helper()
	raw, err := Build(in)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func TestRequest(t *testing.T) {
	device, ra := pair(t)
	for _, c := range []cms.Cipher{0, cms.AES128CBC, cms.AES256CBC} {
		in := device.request(ra)
		in.Cipher = c
		m, err := Parse(build(t, in))
		if err != nil {
			t.Fatal(err)
		}
		if m.Type != PKCSReq || m.Transaction != in.Transaction || !bytes.Equal(m.SenderNonce, in.SenderNonce) || !m.Signer.Equal(device.cert) {
			t.Errorf("read %+v", m)
		}
		got, err := m.Open(OpenKey{Certificate: ra.cert, Key: ra.key.(crypto.Decrypter), Rand: rand.Reader})
		if err != nil || string(got) != "a request" {
			t.Errorf("opened %q, %v", got, err)
		}
		// With another key there is either an error or nonsense, as the random key may lead to a good padding.
		if got, err := m.Open(OpenKey{Certificate: device.cert, Key: device.key.(crypto.Decrypter), Rand: rand.Reader}); err != ErrOpen && string(got) == "a request" {
			t.Errorf("opened with another key: %q, %v, want %v", got, err, ErrOpen)
		}
		// The certificate before a renewal was for the same key.
		renewed := newIdentity(t, ra.key)
		if got, err := m.Open(OpenKey{Certificate: renewed.cert, Key: ra.key.(crypto.Decrypter), Rand: rand.Reader}); err != nil || string(got) != "a request" {
			t.Errorf("opened by the next certificate's key: %q, %v", got, err)
		}
	}
}

func TestTripleDES(t *testing.T) {
	device, ra := pair(t)
	in := device.request(ra)
	in.Cipher = cms.TripleDESCBC
	m, err := Parse(build(t, in))
	if err != nil {
		t.Fatal(err)
	}
	key := OpenKey{Certificate: ra.cert, Key: ra.key.(crypto.Decrypter), Rand: rand.Reader}
	if _, err := m.Open(key); err != ErrOpen || m.Cipher() != cms.TripleDESCBC {
		t.Errorf("triple DES without leave: %v", err)
	}
	key.TripleDES = true
	if got, err := m.Open(key); err != nil || string(got) != "a request" {
		t.Errorf("opened %q, %v", got, err)
	}
}

func TestAnswers(t *testing.T) {
	device, ra := pair(t)
	answer := func(status Status) Input {
		return Input{Type: CertRep, Transaction: "1", SenderNonce: []byte("n2"), RecipientNonce: []byte("n1"), Status: status, Signer: ra.key, Certificate: ra.cert, Rand: rand.Reader}
	}
	success := answer(Success)
	success.Content, success.Recipient = []byte("a certificate"), device.cert
	failure := answer(Failure)
	failure.FailInfo, failure.FailText = BadTime, "the clock is wröng"
	for _, in := range []Input{success, failure, answer(Pending)} {
		m, err := Parse(build(t, in))
		if err != nil {
			t.Fatal(err)
		}
		if m.Status != in.Status || m.FailInfo != in.FailInfo || m.FailText != in.FailText || string(m.RecipientNonce) != "n1" {
			t.Errorf("read %+v, want %+v", m, in)
		}
		got, err := m.Open(OpenKey{Certificate: device.cert, Key: device.key.(crypto.Decrypter), Rand: rand.Reader})
		if in.Status == Success && string(got) != "a certificate" || in.Status != Success && err != ErrOpen {
			t.Errorf("status %d: opened %q, %v", in.Status, got, err)
		}
	}
}

func TestBuildNeedsRSA(t *testing.T) {
	device, _ := pair(t)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Build(device.request(newIdentity(t, key))); !errors.Is(err, ErrKey) {
		t.Errorf("got %v, want ErrKey", err)
	}
}

func TestParseRefuses(t *testing.T) {
	device, ra := pair(t)
	good := build(t, device.request(ra))
	if _, err := Parse(append(good, 0)); err == nil {
		t.Error("a byte behind the message was ignored")
	}
	for n := 0; n < len(good); n += 7 {
		if _, err := Parse(good[:n]); err == nil {
			t.Fatalf("the first %d bytes were read", n)
		}
	}
	changed := bytes.Clone(good)
	changed[len(changed)-5] ^= 1 // in the signature
	if m, err := Parse(changed); !errors.Is(err, ErrSignature) || m == nil || m.Transaction != "a+/=1" {
		t.Errorf("got %+v, %v, want the message and ErrSignature", m, err)
	}
	small, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Parse(build(t, newIdentity(t, small).request(ra))); !errors.Is(err, ErrSignature) || !strings.Contains(err.Error(), "1024") {
		t.Errorf("RSA-1024: got %v", err)
	}
	for name, change := range map[string]func(*Input){
		"no transaction":        func(in *Input) { in.Transaction = "" },
		"long transaction":      func(in *Input) { in.Transaction = strings.Repeat("a", MaxTransaction+1) },
		"unprintable":           func(in *Input) { in.Transaction = "a\x07" },
		"no nonce":              func(in *Input) { in.SenderNonce = nil },
		"long nonce":            func(in *Input) { in.SenderNonce = make([]byte, 65) },
		"negative message type": func(in *Input) { in.Type = -1 },
	} {
		in := device.request(ra)
		change(&in)
		if m, err := Parse(build(t, in)); err == nil {
			t.Errorf("%s: read %+v, want an error", name, m)
		}
	}
}

func TestNames(t *testing.T) {
	name, err := asn1.Marshal(pkix.Name{CommonName: "x"}.ToRDNSequence())
	if err != nil {
		t.Fatal(err)
	}
	subject := IssuerAndSubject{Issuer: name, Subject: name}
	raw, err := subject.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if got, err := ParseIssuerAndSubject(raw); err != nil || !bytes.Equal(got.Issuer, name) || !bytes.Equal(got.Subject, name) {
		t.Errorf("got %x, %v", got, err)
	}
	if _, err := ParseIssuerAndSubject(raw[:len(raw)-1]); err == nil {
		t.Error("a truncated name was read")
	}
	serial := IssuerAndSerial{Issuer: name, Serial: big.NewInt(300)}
	if raw, err = serial.Encode(); err != nil {
		t.Fatal(err)
	}
	if got, err := ParseIssuerAndSerial(raw); err != nil || got.Serial.Int64() != 300 || !bytes.Equal(got.Issuer, name) {
		t.Errorf("got %+v, %v", got, err)
	}
	if _, err := ParseIssuerAndSerial(append(raw, 0)); err == nil {
		t.Error("a byte behind was ignored")
	}
}

func FuzzParse(f *testing.F) {
	device, ra := pair(f)
	f.Add(build(f, device.request(ra)))
	f.Add(build(f, Input{Type: CertRep, Transaction: "1", SenderNonce: []byte("n2"), RecipientNonce: []byte("n1"), Status: Failure, Signer: ra.key, Certificate: ra.cert, Rand: rand.Reader}))
	key := OpenKey{Certificate: ra.cert, Key: ra.key.(crypto.Decrypter), Rand: rand.Reader}
	f.Fuzz(func(t *testing.T, raw []byte) {
		m, err := Parse(raw)
		if m == nil && err == nil || m != nil && (m.Transaction == "" || m.Signer == nil) {
			t.Errorf("%x was read as %+v, %v", raw, m, err)
		}
		if err == nil {
			m.Open(key)
		}
	})
}

func FuzzParseIssuerAndSubject(f *testing.F) {
	f.Add([]byte{0x30, 4, 0x30, 0, 0x30, 0})
	f.Fuzz(func(t *testing.T, raw []byte) {
		n, err := ParseIssuerAndSubject(raw)
		if err != nil {
			return
		}
		if again, err := n.Encode(); err != nil || !bytes.Equal(again, raw) {
			t.Errorf("%x became %x, %v", raw, again, err)
		}
	})
}

func FuzzParseIssuerAndSerial(f *testing.F) {
	f.Add([]byte{0x30, 5, 0x30, 0, 2, 1, 7})
	f.Fuzz(func(t *testing.T, raw []byte) {
		n, err := ParseIssuerAndSerial(raw)
		if err != nil {
			return
		}
		if again, err := n.Encode(); err != nil || !bytes.Equal(again, raw) {
			t.Errorf("%x became %x, %v", raw, again, err)
		}
	})
}

func FuzzParseSHA1(f *testing.F) {
	device, ra := pair(f)
	f.Add(build(f, device.request(ra)))
	f.Fuzz(func(t *testing.T, raw []byte) {
		// Whoever passes the stricter reader passes this one.
		if _, err := Parse(raw); err != nil {
			return
		}
		if _, err := ParseSHA1(raw); err != nil {
			t.Errorf("%x passes with SHA-2 alone, and not with SHA-1 too: %v", raw, err)
		}
	})
}
