package cmp

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"mooring/wire/der"
)

func vectors(t testing.TB) map[string][]byte {
	t.Helper()
	files, err := filepath.Glob("testdata/*.der")
	if err != nil || len(files) < 15 {
		t.Fatalf("test data: got %d files, %v", len(files), err)
	}
	all := map[string][]byte{}
	for _, f := range files {
		if all[strings.TrimSuffix(filepath.Base(f), ".der")], err = os.ReadFile(f); err != nil {
			t.Fatal(err)
		}
	}
	return all
}

func certificate(t testing.TB, name string) *x509.Certificate {
	t.Helper()
	text, err := os.ReadFile("testdata/" + name)
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(text)
	c, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// TestOpenSSL reads what OpenSSL wrote, checks its protection, and writes it again to the octet.
func TestOpenSSL(t *testing.T) {
	kinds := map[string]Kind{"ir-mac": IR, "cr-mac": CR, "p10cr": P10CR, "kur": KUR, "rr": RR, "genm": GenM, "genp": GenP, "conf-mac": CertConf, "conf-sig": CertConf,
		"pollreq": PollReq, "wait": IP, "pollrep": IP, "error": Error, "kup": KUP, "ir-rsp": IP, "cp10": CP, "rp": RP, "pkiconf": PKIConf}
	dev, authority := certificate(t, "dev.pem"), certificate(t, "ca.pem")
	for name, raw := range vectors(t) {
		t.Run(name, func(t *testing.T) {
			m, err := Parse(raw)
			if err != nil {
				t.Fatal(err)
			}
			if got := m.Body.Kind(); got != kinds[name] {
				t.Errorf("body: got %s, want %s", got, kinds[name])
			}
			if IsMAC(m.Header.Protection) {
				mac, err := ParseMAC(m.Header.Protection)
				if err != nil {
					t.Fatal(err)
				}
				mac.Secret = []byte("secretsecret")
				if err := m.CheckMAC(mac); err != nil {
					t.Error(err)
				}
				mac.Secret = []byte("secretsecreT")
				if m.CheckMAC(mac) == nil {
					t.Error("another secret: got success")
				}
			} else if m.Verify(dev.PublicKey) != nil && m.Verify(authority.PublicKey) != nil {
				t.Errorf("the signature verifies by neither key")
			}
			again, err := Build(m.Header, m.Body, m.Certs, given{m.Header.Protection, m.Protection})
			if err != nil || !bytes.Equal(again, raw) {
				t.Errorf("written again: got\n%x, %v, want\n%x", again, err, raw)
			}
		})
	}
}

// given is a protection that was made before.
type given struct{ id, octets []byte }

func (g given) algorithm() ([]byte, error)     { return g.id, nil }
func (g given) protect([]byte) ([]byte, error) { return g.octets, nil }

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func name(t testing.TB, cn string) []byte {
	t.Helper()
	n, err := der.BuildName([]der.Attribute{{Type: der.OIDCommonName, Value: cn}})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// TestRoundTrip writes and reads a body of each kind, with every field set.
func TestRoundTrip(t *testing.T) {
	key := newKey(t)
	spki, err := der.EncodePublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	dev := certificate(t, "dev.pem").Raw
	san, err := der.NewAltNames(der.AltNames{DNS: []string{"a.example"}}, false)
	if err != nil {
		t.Fatal(err)
	}
	template := Template{Serial: []byte{1, 2}, Issuer: name(t, "ca"), Subject: name(t, "dev"), SPKI: spki, Extensions: der.AppendElement(nil, 0x30, san.Append(nil))}
	proven := Request{ID: 0, Template: template, Controls: []Info{NewOldCertID(name(t, "ca"), []byte{0x7f, 1})}}
	if err := proven.Prove(key, rand.Reader); err != nil {
		t.Fatal(err)
	}
	vouched := Request{ID: 1, Template: template, Proof: Proof{Kind: RAVerified}}
	if err := vouched.Complete(); err != nil {
		t.Fatal(err)
	}
	refused := Status{Status: Rejection, Text: []string{"no", "never"}, Failures: []Failure{BadAlg, BadPOP, DuplicateCertReq}}
	bodies := []Body{
		&Requests{As: KUR, List: []Request{proven, vouched}},
		PKCS10(der.AppendElement(nil, 0x30, []byte{5, 0})),
		&Responses{As: CP, CAPubs: [][]byte{dev}, List: []Response{{ID: -1, Certificate: dev, PrivateKey: []byte{0x30, 2, 5, 0}}, {ID: 1, Status: refused}}},
		Confirmation{}, Confirmation{{Hash: []byte{1}, ID: 7, Status: refused, HashAlgorithm: SHA256Identifier()}, {Hash: []byte{2}}},
		Confirmed{}, Revocations{{Template: template, Reason: 1}, {Template: Template{Serial: []byte{3}}}},
		&Revoked{List: []Status{{}, refused}, Certs: []CertID{{name(t, "ca"), []byte{1}}, {name(t, "ca"), []byte{2}}}},
		&General{As: GenM, List: []Info{{Type: OIDCACerts}, {Type: OIDRootCACert, Value: dev}}}, &General{As: GenP},
		&Failed{Status: refused, Code: 300, Details: []string{"x"}}, Poll{0, -1}, Wait{{ID: 0, After: 60, Reason: []string{"a person"}}}, Messages{{0x30, 0}, {0x30, 2, 5, 0}},
	}
	h := Header{Version: 3, Sender: name(t, "s"), Recipient: []byte(Empty), Time: time.Date(2026, 11, 26, 8, 0, 0, 0, time.UTC), SenderKID: []byte{1}, RecipientKID: []byte{2},
		Transaction: []byte{3}, SenderNonce: []byte{4}, RecipientNonce: []byte{5}, Text: []string{"ä"}, Info: []Info{{Type: OIDImplicitConfirm, Value: []byte(Null)}, ConfirmBy(time.Unix(1e9, 0))}}
	mac, err := NewMAC([]byte("s"), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	old := &MAC{Secret: []byte("s"), Old: true, Salt: make([]byte, 16), Iterations: 500, Derive: SHA256, HMAC: SHA1}
	for _, body := range bodies {
		for _, p := range []Protector{nil, mac, old, &Signer{key, rand.Reader}} {
			raw, err := Build(h, body, [][]byte{dev}, p)
			if err != nil {
				t.Fatalf("%s: %v", body.Kind(), err)
			}
			m, err := Parse(raw)
			if err != nil {
				t.Fatalf("%s: %v\n%x", body.Kind(), err, raw)
			}
			if !reflect.DeepEqual(m.Body, body) {
				t.Errorf("%s: got\n%#v, want\n%#v", body.Kind(), m.Body, body)
			}
			got := m.Header
			got.Protection = nil
			if !reflect.DeepEqual(got, h) || len(m.Certs) != 1 {
				t.Errorf("header: got\n%+v, want\n%+v", got, h)
			}
			checkProtection(t, m, p, key.Public())
		}
	}
	read, ok, err := proven.OldCertID()
	if err != nil || !ok || !bytes.Equal(read.Serial, []byte{0x7f, 1}) {
		t.Errorf("oldCertID: got %+v, %v, %v", read, ok, err)
	}
	if a, err := der.ParseSignatureAlgorithm(proven.Proof.Algorithm); err != nil || a.Verify(key.Public(), proven.What(), proven.Proof.Bits) != nil {
		t.Errorf("the proof of possession does not verify: %v", err)
	}
}

func checkProtection(t *testing.T, m *Message, p Protector, pub crypto.PublicKey) {
	t.Helper()
	var err error
	switch p := p.(type) {
	case nil:
		if m.Protection != nil || m.Header.Protection != nil || m.Verify(pub) == nil {
			t.Errorf("unprotected: got %x", m.Protection)
		}
	case *Signer:
		err = m.Verify(pub)
		m.body = append(bytes.Clone(m.body[:len(m.body)-1]), m.body[len(m.body)-1]^1)
		if !errors.Is(m.Verify(pub), der.ErrSignature) {
			t.Errorf("changed: got %v, want ErrSignature", m.Verify(pub))
		}
	case *MAC:
		var read *MAC
		if read, err = ParseMAC(m.Header.Protection); err == nil {
			read.Secret = p.Secret
			if !read.Same(p) || !bytes.Equal(read.Salt, p.Salt) {
				t.Errorf("MAC: got %+v, want %+v", *read, *p)
			}
			err = m.CheckMAC(read)
		}
	}
	if err != nil {
		t.Errorf("protection: %v", err)
	}
}

func TestInfoValues(t *testing.T) {
	dev, ca := certificate(t, "dev.pem").Raw, certificate(t, "ca.pem").Raw
	if list, err := ParseCertificates(NewCertificates(OIDCACerts, [][]byte{ca, dev}).Value); err != nil || len(list) != 2 || !bytes.Equal(list[0], ca) {
		t.Errorf("caCerts: got %d, %v", len(list), err)
	}
	if i := NewCertificates(OIDCRLs, nil); i.Value != nil {
		t.Errorf("no lists: got %x, want no value", i.Value)
	}
	for _, u := range []*RootUpdate{{NewWithNew: ca}, {NewWithNew: ca, NewWithOld: dev}, {ca, dev, ca}, {NewWithNew: ca, OldWithNew: dev}} {
		if got, err := ParseRootUpdate(u.Info().Value); err != nil || !reflect.DeepEqual(got, u) {
			t.Errorf("rootCaKeyUpdate: got %v, %v", got, err)
		}
	}
	for _, c := range []CRLStatus{{URL: "http://a/b.crl"}, {Issuer: name(t, "ca"), Since: time.Unix(1e9, 0).UTC()}} {
		if got, err := ParseCRLStatus(NewCRLStatus(c).Value); err != nil || len(got) != 1 || !reflect.DeepEqual(got[0], c) {
			t.Errorf("crlStatusList: got %v, %v, want %v", got, err, c)
		}
	}
	want := ReqTemplate{Template: Template{Subject: name(t, "x")}, KeySpec: []Info{KeyAlgorithm(der.ECDSAWithSHA256.Identifier()), RSAKeyLength(2048)}}
	i, err := want.Info()
	if err != nil {
		t.Fatal(err)
	}
	if got, err := ParseReqTemplate(i.Value); err != nil || !reflect.DeepEqual(got, &want) {
		t.Errorf("certReqTemplate: got %v, %v", got, err)
	}
	if got, err := ParseProfiles(NewProfiles("device", "x").Value); err != nil || !reflect.DeepEqual(got, []string{"device", "x"}) {
		t.Errorf("certProfile: got %v, %v", got, err)
	}
}

// TestMACBounds holds what makes a receiver work, or a secret easy to guess, to its bounds.
func TestMACBounds(t *testing.T) {
	good := MAC{Old: true, Salt: make([]byte, 16), Iterations: 1000, Derive: SHA256, HMAC: SHA256}
	for what, change := range map[string]func(*MAC){
		"99 iterations":     func(m *MAC) { m.Iterations = 99 },
		"100001 iterations": func(m *MAC) { m.Iterations = 100_001 },
		"-1 iterations":     func(m *MAC) { m.Iterations = -1 },
		"salt of 7":         func(m *MAC) { m.Salt = make([]byte, 7) },
		"salt of 65":        func(m *MAC) { m.Salt = make([]byte, 65) },
		"SHA-1 stretching":  func(m *MAC) { m.Derive = SHA1 },
		"key of 15":         func(m *MAC) { m.Old, m.KeyLength = false, 15 },
		"key of 65":         func(m *MAC) { m.Old, m.KeyLength = false, 65 },
		"50001 iterations for two blocks": func(m *MAC) {
			m.Old, m.KeyLength, m.Iterations = false, 33, 50_001
		},
		"PBMAC1, 99": func(m *MAC) { m.Old, m.KeyLength, m.Iterations = false, 32, 99 },
	} {
		m := good
		change(&m)
		a, err := m.algorithm()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := ParseMAC(a); err == nil {
			t.Errorf("%s: got success", what)
		}
	}
	for _, m := range []MAC{
		{Old: true, Salt: good.Salt, Iterations: 100_000, Derive: SHA512, HMAC: SHA256},
		{Salt: good.Salt, Iterations: 100_000, Derive: SHA256, HMAC: SHA256, KeyLength: 32},
		{Salt: good.Salt, Iterations: 50_000, Derive: SHA256, HMAC: SHA512, KeyLength: 64},
		{Salt: good.Salt, Iterations: 25_000, Derive: SHA1, HMAC: SHA512, KeyLength: 64},
	} {
		a, err := m.algorithm()
		if err != nil {
			t.Fatal(err)
		}
		if got, err := ParseMAC(a); err != nil || got.Rounds() != 100_000 {
			t.Errorf("%+v: got %v, %v, want 100,000 rounds", m, got, err)
		}
	}
	if h, ok := Hash(nil, crypto.SHA384); !ok || h != crypto.SHA384 {
		t.Errorf("Hash by the signature: got %v, %v", h, ok)
	}
	if _, ok := Hash(nil, 0); ok {
		t.Error("Hash of an Ed25519 signature: got one")
	}
	if h, ok := Hash(SHA256Identifier(), 0); !ok || h != crypto.SHA256 {
		t.Errorf("Hash by name: got %v, %v", h, ok)
	}
}

// TestStrict changes messages in ways that DER or the bounds forbid.
func TestStrict(t *testing.T) {
	v := vectors(t)
	base := v["ir-mac"]
	many := make(Messages, maxNested+1)
	for i := range many {
		many[i] = []byte{0x30, 0}
	}
	nested, err := Build(Header{Version: 2}, many, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	unknown := bytes.Clone(v["pkiconf"])
	at := bytes.Index(unknown, []byte{0xb3, 2, 5, 0})
	unknown[at] = 0xb1 // rann
	for what, in := range map[string][]byte{
		"empty":           nil,
		"trailing":        append(bytes.Clone(base), 0),
		"cut":             base[:len(base)-1],
		"indefinite":      append([]byte{0x30, 0x80}, base[4:]...),
		"long length":     append([]byte{0x30, 0x83, 0}, base[2:]...),
		"too large":       make([]byte, MaxSize+1),
		"too many nested": nested,
		"unknown body":    unknown,
	} {
		if m, err := Parse(in); err == nil {
			t.Errorf("%s: got %s", what, m.Body.Kind())
		}
	}
	if _, err := Parse(unknown); !errors.Is(err, ErrBody) {
		t.Errorf("unknown body: got %v, want ErrBody", err)
	}
	for i := range base { // no prefix is a message
		if _, err := Parse(base[:i]); err == nil {
			t.Fatalf("%d octets of it: got success", i)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, v := range vectors(f) {
		f.Add(v)
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		m, err := Parse(in)
		if err != nil {
			return
		}
		if r, ok := m.Body.(*Requests); ok {
			for i := range r.List {
				_, _, _ = r.List[i].OldCertID()
				_ = r.List[i].What()
			}
		}
		_ = m.Verify(nil)
		// What was read can be written, and is read as the same again.
		out, err := Build(m.Header, m.Body, m.Certs, nil)
		if err != nil {
			return // such as an EncryptedKey that is not ours to write
		}
		again, err := Parse(out)
		if err != nil {
			t.Fatalf("written again: %v\n%x", err, out)
		}
		if again.Body.Kind() != m.Body.Kind() {
			t.Fatalf("body: got %s, want %s", again.Body.Kind(), m.Body.Kind())
		}
	})
}

func FuzzParseMAC(f *testing.F) {
	for _, v := range vectors(f) {
		if m, err := Parse(v); err == nil {
			f.Add(m.Header.Protection)
		}
	}
	mac := &MAC{Salt: make([]byte, 8), Iterations: 1000, Derive: SHA256, HMAC: SHA256, KeyLength: 32}
	a, err := mac.algorithm()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(a)
	f.Fuzz(func(t *testing.T, in []byte) {
		m, err := ParseMAC(in)
		if err != nil {
			return
		}
		if m.Iterations > MaxIterations || m.Rounds() > MaxIterations || m.KeyLength > maxKey {
			t.Errorf("unbounded: %+v", *m)
		}
	})
}

func FuzzParseCertificates(f *testing.F) {
	f.Add([]byte{0x30, 2, 0x30, 0})
	f.Fuzz(func(t *testing.T, in []byte) {
		if list, err := ParseCertificates(in); err == nil && !bytes.Equal(NewCertificates(OIDCACerts, list).Value, in) {
			t.Errorf("written again it differs: %x", in)
		}
	})
}

func FuzzParseRootUpdate(f *testing.F) {
	f.Add([]byte{0x30, 2, 0x30, 0})
	f.Fuzz(func(t *testing.T, in []byte) {
		if u, err := ParseRootUpdate(in); err == nil && !bytes.Equal(u.Info().Value, in) {
			t.Errorf("written again it differs: %x", in)
		}
	})
}

func FuzzParseReqTemplate(f *testing.F) {
	i, err := (&ReqTemplate{KeySpec: []Info{RSAKeyLength(2048)}}).Info()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(i.Value)
	f.Fuzz(func(t *testing.T, in []byte) {
		if u, err := ParseReqTemplate(in); err == nil {
			if _, err := u.Info(); err != nil {
				t.Errorf("written again: %v", err)
			}
		}
	})
}

func FuzzParseCRLStatus(f *testing.F) {
	f.Add(NewCRLStatus(CRLStatus{URL: "http://a", Since: time.Unix(1e9, 0)}).Value)
	f.Add(NewCRLStatus(CRLStatus{Issuer: []byte(Empty)}).Value)
	f.Fuzz(func(_ *testing.T, in []byte) {
		_, _ = ParseCRLStatus(in)
	})
}

func FuzzParseProfiles(f *testing.F) {
	f.Add(NewProfiles("a").Value)
	f.Fuzz(func(t *testing.T, in []byte) {
		if list, err := ParseProfiles(in); err == nil && !bytes.Equal(NewProfiles(list...).Value, in) {
			t.Errorf("written again it differs: %x", in)
		}
	})
}
