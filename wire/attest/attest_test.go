package attest_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/fxamacker/cbor/v2"
	"github.com/google/go-tpm/tpm2"

	"mooring/wire/attest"
	"mooring/wire/der"
)

const (
	token   = "evaGxfADs6pSRb2LAv9IZf17Dt3juxGJ-PCt92wr-oA"
	keyAuth = token + ".9jg46WB3rR_AHD-EBXdN7cBkH1WOu0tA3M9fm21mqTI"
)

var start = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// maker is a manufacturer: a root and a CA below it.
type maker struct {
	root, ca       *x509.Certificate
	rootKey, caKey crypto.Signer
}

func ecKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func certify(t testing.TB, template, parent *x509.Certificate, key crypto.PublicKey, signer crypto.Signer) *x509.Certificate {
	t.Helper()
	template.SerialNumber = big.NewInt(int64(len(template.Subject.CommonName)) + 1)
	if template.NotBefore.IsZero() {
		template.NotBefore, template.NotAfter = start.Add(-time.Hour), start.Add(time.Hour)
	}
	raw, err := x509.CreateCertificate(rand.Reader, template, parent, key, signer)
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(raw)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func newMaker(t testing.TB) *maker {
	t.Helper()
	m := &maker{rootKey: ecKey(t), caKey: ecKey(t)}
	root := &x509.Certificate{Subject: pkix.Name{CommonName: "Maker Root"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	m.root = certify(t, root, root, m.rootKey.Public(), m.rootKey)
	m.ca = certify(t, &x509.Certificate{Subject: pkix.Name{CommonName: "Maker CA"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}, m.root, m.caKey.Public(), m.rootKey)
	return m
}

func (m *maker) pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(m.root)
	return pool
}

// leaf has extensions, in pairs of number and value.
func (m *maker) leaf(t testing.TB, key crypto.PublicKey, change func(*x509.Certificate), extensions ...pkix.Extension) *x509.Certificate {
	t.Helper()
	template := &x509.Certificate{Subject: pkix.Name{CommonName: "Device"}, ExtraExtensions: extensions}
	if change != nil {
		change(template)
	}
	return certify(t, template, m.ca, key, m.caKey)
}

func ext(t testing.TB, id string, value []byte) pkix.Extension {
	t.Helper()
	oid, err := x509.ParseOID(id)
	if err != nil {
		t.Fatal(err)
	}
	var plain asn1.ObjectIdentifier
	for part := range strings.SplitSeq(oid.String(), ".") {
		n, ok := new(big.Int).SetString(part, 10)
		if !ok {
			t.Fatal(part)
		}
		plain = append(plain, int(n.Int64()))
	}
	return pkix.Extension{Id: plain, Value: value}
}

func must[T any](v T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func marshal(t testing.TB, v any) []byte { t.Helper(); return must(asn1.Marshal(v))(t) }

func sum(text string) []byte { s := sha256.Sum256([]byte(text)); return s[:] }

// spec is a statement to be bent before it is made.
type spec struct {
	m          *maker
	key        *ecdsa.PrivateKey // attested
	auth       string            // that the statement is about
	change     func(*x509.Certificate)
	extensions []pkix.Extension
	statement  map[string]any
	format     string

	attributes  tpm2.TPMAObject
	ak          crypto.Signer
	attestation func(*tpm2.TPMSAttest)
	certified   *ecdsa.PrivateKey // another key than that of pubArea
	scheme      tpm2.TPMAlgID
	bare        bool // sig is no TPMT_SIGNATURE
	level       asn1.Enumerated
	origin      int
	purpose     int
	twice       bool
}

func newSpec(t testing.TB, format string) *spec {
	t.Helper()
	s := &spec{m: newMaker(t), key: ecKey(t), auth: keyAuth, format: format, level: 1, purpose: 2, scheme: tpm2.TPMAlgECDSA}
	s.ak = s.key
	if format == attest.TPM {
		s.ak = ecKey(t)
		s.attributes = tpm2.TPMAObject{FixedTPM: true, FixedParent: true, SensitiveDataOrigin: true, UserWithAuth: true, SignEncrypt: true}
	}
	return s
}

func (s *spec) build(t testing.TB) []byte {
	t.Helper()
	fill := map[string]func(testing.TB){attest.Step: s.step, attest.Apple: s.apple, attest.TPM: s.tpm, attest.AndroidKey: s.android}[s.format]
	if fill != nil {
		fill(t)
	}
	return must(cbor.Marshal(map[string]any{"fmt": s.format, "attStmt": s.statement, "authData": []byte{1}}))(t)
}

func (s *spec) chain(leaf *x509.Certificate) [][]byte { return [][]byte{leaf.Raw, s.m.ca.Raw} }

func (s *spec) step(t testing.TB) {
	leaf := s.m.leaf(t, s.key.Public(), s.change, append(s.extensions, ext(t, "1.3.6.1.4.1.41482.3.7", marshal(t, big.NewInt(12345678))))...)
	sig := must(ecdsa.SignASN1(rand.Reader, s.ak.(*ecdsa.PrivateKey), sum(s.auth)))(t)
	s.statement = map[string]any{"alg": -7, "sig": must(cbor.Marshal(sig))(t), "x5c": s.chain(leaf)}
}

func (s *spec) apple(t testing.TB) {
	own, _, _ := strings.Cut(s.auth, ".")
	leaf := s.m.leaf(t, s.key.Public(), s.change, append(s.extensions, ext(t, "1.2.840.113635.100.8.11.1", sum(own)),
		ext(t, "1.2.840.113635.100.8.9.1", []byte("C02TEST")), ext(t, "1.2.840.113635.100.8.9.2", marshal(t, "00008030-TEST")))...)
	s.statement = map[string]any{"x5c": s.chain(leaf)}
}

func explicit(t testing.TB, tag int, content []byte) []byte {
	t.Helper()
	return marshal(t, asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: tag, IsCompound: true, Bytes: content})
}

func (s *spec) android(t testing.TB) {
	purposes := must(asn1.MarshalWithParams([]int{s.purpose}, "set"))(t)
	list := bytes.Join([][]byte{explicit(t, 1, purposes), explicit(t, 702, marshal(t, s.origin)), explicit(t, 713, marshal(t, []byte("R58TEST")))}, nil)
	description := marshal(t, struct {
		Version                   int
		Level                     asn1.Enumerated
		Mint                      int
		MintLevel                 asn1.Enumerated
		Challenge, Unique         []byte
		Software, HardwareEnforce asn1.RawValue
	}{300, s.level, 300, s.level, sum(s.auth), nil, asn1.RawValue{Tag: asn1.TagSequence, IsCompound: true}, asn1.RawValue{Tag: asn1.TagSequence, IsCompound: true, Bytes: list}})
	id := "1.3.6.1.4.1.11129.2.1.17"
	leaf := s.m.leaf(t, s.key.Public(), s.change, append(s.extensions, ext(t, id, description))...)
	if s.twice {
		s.m.ca = certify(t, &x509.Certificate{Subject: pkix.Name{CommonName: "Maker CA"}, IsCA: true, BasicConstraintsValid: true, ExtraExtensions: []pkix.Extension{ext(t, id, description)}},
			s.m.root, s.m.caKey.Public(), s.m.rootKey)
	}
	s.statement = map[string]any{"x5c": s.chain(leaf)}
}

func public(key *ecdsa.PrivateKey, a tpm2.TPMAObject) tpm2.TPMTPublic {
	point, err := key.PublicKey.Bytes()
	if err != nil {
		panic(err) // the tests make good keys
	}
	return tpm2.TPMTPublic{Type: tpm2.TPMAlgECC, NameAlg: tpm2.TPMAlgSHA256, ObjectAttributes: a,
		Parameters: tpm2.NewTPMUPublicParms(tpm2.TPMAlgECC, &tpm2.TPMSECCParms{CurveID: tpm2.TPMECCNistP256, Scheme: tpm2.TPMTECCScheme{Scheme: tpm2.TPMAlgNull}, KDF: tpm2.TPMTKDFScheme{Scheme: tpm2.TPMAlgNull}, Symmetric: tpm2.TPMTSymDefObject{Algorithm: tpm2.TPMAlgNull}}),
		Unique:     tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{X: tpm2.TPM2BECCParameter{Buffer: point[1:33]}, Y: tpm2.TPM2BECCParameter{Buffer: point[33:]}})}
}

// sanOf is a critical extension with a permanent identifier, a hardware module and a directoryName, as in certificates of attestation keys.
func sanOf(t testing.TB, permanent string) pkix.Extension {
	t.Helper()
	hardware := must(der.ParseOID("1.3.6.1.4.1.99999.1"))(t)
	names := must(der.BuildAltNames(der.AltNames{Other: []der.OtherName{der.PermanentIdentifier(permanent, ""), der.HardwareModule(hardware, []byte("SN-7"))}}))(t)
	var list asn1.RawValue
	must(asn1.Unmarshal(names, &list))(t)
	directory := explicit(t, 4, marshal(t, pkix.Name{CommonName: "id:49424D00"}.ToRDNSequence()))
	e := ext(t, "2.5.29.17", marshal(t, asn1.RawValue{Tag: asn1.TagSequence, IsCompound: true, Bytes: append(list.Bytes, directory...)}))
	e.Critical = true
	return e
}

func (s *spec) tpm(t testing.TB) {
	area := public(s.key, s.attributes)
	named := area
	if s.certified != nil {
		named = public(s.certified, s.attributes)
	}
	a := tpm2.TPMSAttest{Magic: tpm2.TPMGeneratedValue, Type: tpm2.TPMSTAttestCertify, ExtraData: tpm2.TPM2BData{Buffer: sum(s.auth)},
		Attested: tpm2.NewTPMUAttest(tpm2.TPMSTAttestCertify, &tpm2.TPMSCertifyInfo{Name: *must(tpm2.ObjectName(&named))(t)})}
	if s.attestation != nil {
		s.attestation(&a)
	}
	info := tpm2.Marshal(a)
	digest := sha256.Sum256(info)
	var sig tpm2.TPMTSignature
	var raw []byte
	switch s.scheme {
	case tpm2.TPMAlgRSASSA:
		raw = must(rsa.SignPKCS1v15(rand.Reader, s.ak.(*rsa.PrivateKey), crypto.SHA256, digest[:]))(t)
		sig = tpm2.TPMTSignature{SigAlg: s.scheme, Signature: tpm2.NewTPMUSignature(s.scheme, &tpm2.TPMSSignatureRSA{Hash: tpm2.TPMAlgSHA256, Sig: tpm2.TPM2BPublicKeyRSA{Buffer: raw}})}
	case tpm2.TPMAlgRSAPSS:
		raw = must(rsa.SignPSS(rand.Reader, s.ak.(*rsa.PrivateKey), crypto.SHA256, digest[:], nil))(t)
		sig = tpm2.TPMTSignature{SigAlg: s.scheme, Signature: tpm2.NewTPMUSignature(s.scheme, &tpm2.TPMSSignatureRSA{Hash: tpm2.TPMAlgSHA256, Sig: tpm2.TPM2BPublicKeyRSA{Buffer: raw}})}
	default:
		x, y, err := ecdsa.Sign(rand.Reader, s.ak.(*ecdsa.PrivateKey), digest[:])
		if err != nil {
			t.Fatal(err)
		}
		sig = tpm2.TPMTSignature{SigAlg: tpm2.TPMAlgECDSA, Signature: tpm2.NewTPMUSignature(tpm2.TPMAlgECDSA, &tpm2.TPMSSignatureECC{Hash: tpm2.TPMAlgSHA256,
			SignatureR: tpm2.TPM2BECCParameter{Buffer: x.Bytes()}, SignatureS: tpm2.TPM2BECCParameter{Buffer: y.Bytes()}})}
	}
	if !s.bare {
		raw = tpm2.Marshal(sig)
	}
	cert := s.m.leaf(t, s.ak.Public(), func(c *x509.Certificate) {
		c.UnknownExtKeyUsage = []asn1.ObjectIdentifier{{2, 23, 133, 8, 3}}
		if s.change != nil {
			s.change(c)
		}
	}, append(s.extensions, sanOf(t, "tpm-1"))...)
	s.statement = map[string]any{"ver": "2.0", "alg": -257, "sig": raw, "x5c": s.chain(cert), "certInfo": info, "pubArea": tpm2.Marshal(area)}
}

func (s *spec) verify(t testing.TB) (*attest.Result, error) {
	t.Helper()
	o, err := attest.Parse(s.build(t))
	if err != nil {
		return nil, err
	}
	return o.Verify(attest.Check{Roots: s.m.pool(), Token: token, KeyAuthorization: keyAuth, Now: start})
}

func TestEachFormat(t *testing.T) {
	rsaKey := must(rsa.GenerateKey(rand.Reader, 2048))(t)
	for _, c := range []struct {
		name, format string
		bend         func(*spec)
		want         string
	}{
		{"step", attest.Step, func(*spec) {}, "12345678"},
		{"apple", attest.Apple, func(*spec) {}, "C02TEST"},
		{"android-key", attest.AndroidKey, func(*spec) {}, "R58TEST"},
		{"android-key in a StrongBox", attest.AndroidKey, func(s *spec) { s.level = 2 }, "R58TEST"},
		{"tpm with an EC attestation key", attest.TPM, func(*spec) {}, "tpm-1"},
		{"tpm with an RSA attestation key", attest.TPM, func(s *spec) { s.ak, s.scheme = rsaKey, tpm2.TPMAlgRSASSA }, "tpm-1"},
		{"tpm with RSA-PSS", attest.TPM, func(s *spec) { s.ak, s.scheme = rsaKey, tpm2.TPMAlgRSAPSS }, "tpm-1"},
		{"tpm with a bare signature", attest.TPM, func(s *spec) { s.ak, s.scheme, s.bare = rsaKey, tpm2.TPMAlgRSASSA, true }, "tpm-1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newSpec(t, c.format)
			c.bend(s)
			r, err := s.verify(t)
			if err != nil {
				t.Fatal(err)
			}
			if !s.key.PublicKey.Equal(r.Key) || !r.IsPermanent(c.want) || r.IsPermanent("another") || r.IsPermanent("") {
				t.Errorf("got key %v, serial %q, permanent %q; want the device's key and %q", r.Key, r.Serial, r.Permanent, c.want)
			}
			if _, ok := r.HardwareOf("SN-7"); ok != (c.format == attest.TPM) {
				t.Errorf("hardware modules: %v", r.Hardware)
			}
			if h, ok := r.HardwareOf("534e2d37"); ok && string(h.Serial) != "SN-7" {
				t.Errorf("hardware module %q", h.Serial)
			}
			if len(r.Chain) != 3 || r.KeyIsLeafs != (c.format != attest.TPM) {
				t.Errorf("chain of %d", len(r.Chain))
			}
		})
	}
}

func TestRefusals(t *testing.T) {
	type row struct {
		name, format string
		bend         func(*spec)
		want         string
	}
	rows := []row{
		{"step: sig is bare", attest.Step, nil, "byte string"},
		{"step: signed by another key", attest.Step, func(s *spec) { s.ak = ecKey(t) }, "does not verify"},
		{"apple: no freshness", attest.Apple, nil, "freshness"},
		{"android-key: software", attest.AndroidKey, func(s *spec) { s.level = 0 }, "software"},
		{"android-key: imported", attest.AndroidKey, func(s *spec) { s.origin = 2 }, "not made"},
		{"android-key: not for signing", attest.AndroidKey, func(s *spec) { s.purpose = 0 }, "not for signing"},
		{"android-key: described twice", attest.AndroidKey, func(s *spec) { s.twice = true }, "more than one"},
		{"android-key: not described", attest.AndroidKey, nil, "no description"},
		{"tpm: magic", attest.TPM, func(s *spec) { s.attestation = func(a *tpm2.TPMSAttest) { a.Magic = 1 } }, "certInfo"},
		{"tpm: another type", attest.TPM, func(s *spec) {
			s.attestation = func(a *tpm2.TPMSAttest) {
				a.Type = tpm2.TPMSTAttestCreation
				a.Attested = tpm2.NewTPMUAttest(tpm2.TPMSTAttestCreation, &tpm2.TPMSCreationInfo{})
			}
		}, "did not|not made by"},
		{"tpm: about another key", attest.TPM, func(s *spec) { s.certified = ecKey(t) }, "another key"},
		{"tpm: signed by another key", attest.TPM, func(s *spec) {
			other := s.ak
			s.change = func(*x509.Certificate) { s.ak = other }
			s.ak = ecKey(t)
		}, ""},
		{"tpm: key may leave", attest.TPM, func(s *spec) { s.attributes.FixedTPM = false }, "could leave"},
		{"tpm: key has another parent", attest.TPM, func(s *spec) { s.attributes.FixedParent = false }, "could leave"},
		{"tpm: key was brought in", attest.TPM, func(s *spec) { s.attributes.SensitiveDataOrigin = false }, "could leave"},
		{"tpm: key does not sign", attest.TPM, func(s *spec) { s.attributes.SignEncrypt = false }, "not for signing"},
		{"tpm: certificate without the usage", attest.TPM, func(s *spec) { s.change = func(c *x509.Certificate) { c.UnknownExtKeyUsage = nil } }, "extended key usage"},
		{"intermediate with a key that nobody is certified for", attest.Step, func(s *spec) {
			weak := must(rsa.GenerateKey(rand.Reader, 1024))(t) // large ones, which are what matters, take minutes to make
			s.m.ca = certify(t, &x509.Certificate{Subject: pkix.Name{CommonName: "Maker CA"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}, s.m.root, weak.Public(), s.m.rootKey)
			s.m.caKey = weak
		}, "unknown authority"},
		{"unsupported format", "packed", nil, "not supported"},
		{"format of another case", "TPM", nil, "not supported"},
	}
	for _, format := range attest.Formats() {
		rows = append(rows,
			row{format + ": another challenge", format, func(s *spec) { s.auth = "other.challenge" }, "another challenge|does not verify"},
			row{format + ": expired leaf", format, func(s *spec) {
				s.change = func(c *x509.Certificate) { c.NotBefore, c.NotAfter = start.Add(-2*time.Hour), start.Add(-time.Minute) }
			}, "expired"},
			row{format + ": leaf of the future", format, func(s *spec) {
				s.change = func(c *x509.Certificate) { c.NotBefore, c.NotAfter = start.Add(time.Minute), start.Add(time.Hour) }
			}, "not yet valid"},
			row{format + ": critical extension that is unknown", format, func(s *spec) {
				e := ext(t, "1.2.3.4.5", []byte{5, 0})
				e.Critical = true
				s.extensions = []pkix.Extension{e}
			}, "unhandled critical"})
	}
	for _, c := range rows {
		t.Run(c.name, func(t *testing.T) {
			s := newSpec(t, c.format)
			if c.bend != nil {
				c.bend(s)
			}
			o, err := attest.Parse(s.bent(t, c.name))
			if err == nil {
				_, err = o.Verify(attest.Check{Roots: s.m.pool(), Token: token, KeyAuthorization: keyAuth, Now: start})
			}
			if err == nil {
				t.Fatal("it was accepted")
			}
			ok := c.want == ""
			for part := range strings.SplitSeq(c.want, "|") {
				ok = ok || strings.Contains(err.Error(), part)
			}
			if !ok {
				t.Errorf("got %q, want something with %q", err, c.want)
			}
		})
	}
	for _, format := range attest.Formats() {
		t.Run(format+": wrong root", func(t *testing.T) {
			s := newSpec(t, format)
			o := must(attest.Parse(s.build(t)))(t)
			for name, roots := range map[string]*x509.CertPool{"another": newMaker(t).pool(), "none": nil, "empty": x509.NewCertPool()} {
				if r, err := o.Verify(attest.Check{Roots: roots, Token: token, KeyAuthorization: keyAuth, Now: start}); err == nil {
					t.Errorf("%s root: accepted, %v", name, r)
				}
			}
		})
	}
}

// bent builds the statement and breaks what a row's name says and a spec cannot.
func (s *spec) bent(t testing.TB, name string) []byte {
	raw := s.build(t)
	switch name {
	case "step: sig is bare":
		s.statement["sig"] = must(ecdsa.SignASN1(rand.Reader, s.key, sum(s.auth)))(t)
	case "apple: no freshness", "android-key: not described":
		s.statement["x5c"] = s.chain(s.m.leaf(t, s.key.Public(), nil))
	case "tpm: signed by another key":
		other := newSpec(t, attest.TPM)
		other.m = s.m
		other.build(t)
		s.statement["x5c"] = other.statement["x5c"]
	default:
		return raw
	}
	return must(cbor.Marshal(map[string]any{"fmt": s.format, "attStmt": s.statement}))(t)
}

func TestParseRefuses(t *testing.T) {
	s := newSpec(t, attest.Step)
	s.build(t)
	leaf := s.statement["x5c"].([][]byte)[0]
	object := func(v any) []byte { return must(cbor.Marshal(v))(t) }
	pair := func(format string, statement []byte) []byte {
		return append(append(append([]byte{0xa2, 0x63, 'f', 'm', 't'}, object(format)...), append([]byte{0x67}, "attStmt"...)...), statement...)
	}
	if _, err := attest.Parse(pair("step", object(s.statement))); err != nil {
		t.Fatalf("the sound one: %v", err)
	}
	nested := []byte{0}
	for range 9 {
		nested = append([]byte{0x81}, nested...)
	}
	x5c := append([]byte{0x63}, "x5c"...)
	one := append(append([]byte{}, x5c...), object([][]byte{leaf})...)
	many := make([][]byte, 9)
	for i := range many {
		many[i] = leaf
	}
	for name, raw := range map[string][]byte{
		"nothing":                           {},
		"garbage":                           []byte("\xff\x00garbage"),
		"no map":                            object("tpm"),
		"trailing octets":                   append(pair("step", object(s.statement)), 0),
		"cut off":                           pair("step", object(s.statement))[:50],
		"indefinite map":                    append(append([]byte{0xbf}, pair("step", object(s.statement))[1:]...), 0xff),
		"indefinite statement":              pair("step", append(append([]byte{0xbf}, one...), 0xff)),
		"indefinite byte string":            pair("step", append(append([]byte{0xa1}, x5c...), 0x81, 0x5f, 0x41, 0, 0xff)),
		"duplicate key":                     append(append([]byte{0xa3}, pair("step", object(s.statement))[1:]...), append([]byte{0x63, 'f', 'm', 't'}, object("step")...)...),
		"duplicate key in statement":        pair("step", append(append([]byte{0xa2}, one...), one...)),
		"duplicate unknown key":             pair("step", append(append([]byte{0xa3}, one...), 0x61, 'z', 0, 0x61, 'z', 0)),
		"too deep":                          pair("step", append([]byte{0xa1, 0x61, 'z'}, nested...)),
		"tag":                               pair("step", append([]byte{0xc1}, object(s.statement)...)),
		"too long":                          pair("step", object(map[string]any{"x5c": [][]byte{leaf}, "z": make([]byte, 64<<10)})),
		"x5c: none":                         pair("step", object(map[string]any{"x5c": [][]byte{}})),
		"x5c: nine":                         pair("step", object(map[string]any{"x5c": many})),
		"x5c: huge certificate":             pair("step", object(map[string]any{"x5c": [][]byte{make([]byte, 16<<10+1)}})),
		"x5c: texts":                        pair("step", object(map[string]any{"x5c": []string{"a"}})),
		"no statement":                      object(map[string]any{"fmt": "step"}),
		"no format":                         object(map[string]any{"attStmt": s.statement}),
		"sig is a number":                   pair("step", object(map[string]any{"x5c": [][]byte{leaf}, "sig": 1})),
		"unsupported format":                pair("none", object(s.statement)),
		"thousands of elements":             pair("step", object(map[string]any{"x5c": make([][]byte, 5000)})),
		"a number beyond what alg can have": pair("step", object(map[string]any{"x5c": [][]byte{leaf}, "alg": new(big.Int).Lsh(big.NewInt(1), 70)})),
	} {
		if o, err := attest.Parse(raw); err == nil {
			t.Errorf("%s: accepted: %+v", name, o)
		}
	}
	o := must(attest.Parse(pair("step", object(map[string]any{"x5c": [][]byte{[]byte("no certificate")}}))))(t)
	if _, err := o.Verify(attest.Check{Roots: s.m.pool(), Now: start}); err == nil {
		t.Error("a certificate that is none was accepted")
	}
}

func TestKeysOfTPMs(t *testing.T) {
	ak := tpm2.TPMAObject{FixedTPM: true, FixedParent: true, SensitiveDataOrigin: true, UserWithAuth: true, Restricted: true, SignEncrypt: true}
	ek := tpm2.TPMAObject{FixedTPM: true, FixedParent: true, SensitiveDataOrigin: true, Restricted: true, Decrypt: true}
	key := ecKey(t)
	for _, sized := range []bool{false, true} {
		raw := tpm2.Marshal(public(key, ak))
		if sized {
			raw = append([]byte{byte(len(raw) >> 8), byte(len(raw))}, raw...)
		}
		k, err := attest.ParseAttestationKey(raw)
		if err != nil || !key.PublicKey.Equal(k.Key) || len(k.Name) != 34 {
			t.Errorf("sized %v: %+v, %v", sized, k, err)
		}
		if _, err := attest.ParseAttestationKey(append(raw, 0)); err == nil {
			t.Error("trailing octets were accepted")
		}
	}
	for name, change := range map[string]func(*tpm2.TPMAObject){
		"fixedTPM": func(a *tpm2.TPMAObject) { a.FixedTPM = false }, "fixedParent": func(a *tpm2.TPMAObject) { a.FixedParent = false },
		"restricted": func(a *tpm2.TPMAObject) { a.Restricted = false }, "sign": func(a *tpm2.TPMAObject) { a.SignEncrypt = false },
		"decrypt": func(a *tpm2.TPMAObject) { a.Decrypt = true }, "sensitiveDataOrigin": func(a *tpm2.TPMAObject) { a.SensitiveDataOrigin = false },
	} {
		a := ak
		change(&a)
		if _, err := attest.ParseAttestationKey(tpm2.Marshal(public(key, a))); err == nil {
			t.Errorf("%s: accepted as an attestation key", name)
		}
	}
	if _, err := attest.ParseEndorsementKey(tpm2.Marshal(public(key, ak))); err == nil {
		t.Error("an attestation key was accepted as an endorsement key")
	}
	if _, err := attest.ParseEndorsementKey(tpm2.Marshal(public(key, ek))); err != nil {
		t.Errorf("the endorsement key: %v", err)
	}
	off := public(key, ak)
	off.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{X: tpm2.TPM2BECCParameter{Buffer: []byte{1}}, Y: tpm2.TPM2BECCParameter{Buffer: []byte{1}}})
	if _, err := attest.ParseAttestationKey(tpm2.Marshal(off)); err == nil {
		t.Error("a point off the curve was accepted")
	}
}

func FuzzParse(f *testing.F) {
	m := newMaker(f)
	for _, format := range attest.Formats() {
		s := newSpec(f, format)
		s.m = m
		f.Add(s.build(f))
	}
	check := attest.Check{Roots: m.pool(), Token: token, KeyAuthorization: keyAuth, Now: start}
	f.Fuzz(func(t *testing.T, raw []byte) {
		if o, err := attest.Parse(raw); err == nil {
			if r, err := o.Verify(check); err == nil && r.Key == nil {
				t.Error("a statement without a key was accepted")
			}
		}
	})
}

func fuzzKey(f *testing.F, parse func([]byte) error) {
	key := ecKey(f)
	for _, a := range []tpm2.TPMAObject{{FixedTPM: true, FixedParent: true, SensitiveDataOrigin: true, Restricted: true, SignEncrypt: true}, {FixedTPM: true, FixedParent: true, SensitiveDataOrigin: true, Restricted: true, Decrypt: true}} {
		f.Add(tpm2.Marshal(public(key, a)))
	}
	f.Add(tpm2.Marshal(tpm2.RSAEKTemplate))
	f.Fuzz(func(_ *testing.T, raw []byte) { _ = parse(raw) })
}

func FuzzParseAttestationKey(f *testing.F) {
	fuzzKey(f, func(raw []byte) error { _, err := attest.ParseAttestationKey(raw); return err })
}

func FuzzParseEndorsementKey(f *testing.F) {
	ak := must(attest.ParseAttestationKey(tpm2.Marshal(public(ecKey(f), tpm2.TPMAObject{FixedTPM: true, FixedParent: true, SensitiveDataOrigin: true, Restricted: true, SignEncrypt: true}))))(f)
	fuzzKey(f, func(raw []byte) error {
		ek, err := attest.ParseEndorsementKey(raw)
		if err == nil {
			_, err = ek.Wrap(rand.Reader, ak, make([]byte, 32))
		}
		return err
	})
}
