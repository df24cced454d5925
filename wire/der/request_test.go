package der_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"mooring/wire/der"
)

// unhexTest is unhex for constants.
func unhexTest(text string) []byte {
	out, err := hex.DecodeString(text)
	if err != nil {
		panic(err)
	}
	return out
}

// sign completes what AppendRequestInfo and the like made.
func sign(t testing.TB, tbs []byte, key crypto.Signer) []byte {
	t.Helper()
	algorithm, err := der.AlgorithmFor(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	signature, err := key.Sign(rand.Reader, algorithm.Digest(tbs), algorithm.Hash())
	if err != nil {
		t.Fatal(err)
	}
	return der.Wrap(nil, tbs, algorithm, signature)
}

func TestBuildRequest(t *testing.T) {
	key := newEC(t, elliptic.P256())
	spec := der.RequestSpec{
		Subject:           []der.Attribute{{Type: der.OIDOrganization, Value: "Acme"}, {Type: der.OIDCommonName, Value: "dev1"}},
		SPKI:              spkiOf(t, &key.PublicKey),
		Names:             der.AltNames{DNS: []string{"dev1.example"}},
		Extensions:        []der.Extension{der.NewKeyUsage(der.DigitalSignature | der.KeyAgreement), der.NewExtKeyUsage(der.OIDClientAuth, der.OIDServerAuth)},
		ChallengePassword: "open_sesame",
		Attributes:        []der.RequestAttribute{{Type: "\x2a\x03", Values: [][]byte{{5, 0}, {4, 0}}}},
	}
	info, err := der.AppendRequestInfo(nil, spec)
	if err != nil {
		t.Fatal(err)
	}
	csr := sign(t, info, key)

	std, err := x509.ParseCertificateRequest(csr)
	if err != nil {
		t.Fatal(err)
	}
	if err := std.CheckSignature(); err != nil {
		t.Error(err)
	}
	if std.Subject.String() != "CN=dev1,O=Acme" || !slices.Equal(std.DNSNames, spec.Names.DNS) {
		t.Errorf("standard library reads subject %s, names %v", std.Subject, std.DNSNames)
	}

	r, err := der.ParseRequest(csr)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.CheckSignature(); err != nil {
		t.Error(err)
	}
	if !slices.Equal(r.Subject, spec.Subject) || !r.Names.Equal(spec.Names) || !bytes.Equal(r.RawSPKI, spec.SPKI) || !key.PublicKey.Equal(r.PublicKey) {
		t.Errorf("read %+v", r)
	}
	if !r.HasChallengePassword || r.ChallengePassword != spec.ChallengePassword {
		t.Errorf("challengePassword %q, %v", r.ChallengePassword, r.HasChallengePassword)
	}
	if r.CA || r.KeyUsage != der.DigitalSignature|der.KeyAgreement || !slices.Equal(r.ExtKeyUsage, []der.OID{der.OIDClientAuth, der.OIDServerAuth}) {
		t.Errorf("asked %+v", r.Asked)
	}
	if a, ok := r.Attribute("\x2a\x03"); !ok || len(a.Values) != 2 || !bytes.Equal(a.Values[0], []byte{4, 0}) {
		t.Errorf("attribute %+v, %v; want its values sorted", a, ok)
	}
	if text := fmt.Sprintf("%+v", r); text != `request of "O=Acme, CN=dev1" for an ec-p256 key` {
		t.Errorf("a request prints as %s", text)
	}
	if r.HashSPKI() != der.HashSPKI(spec.SPKI) {
		t.Error("HashSPKI differs")
	}

	renewed, err := der.AppendRequestInfo(nil, der.RequestSpec{RawSubject: r.RawSubject, SPKI: spec.SPKI})
	if err != nil {
		t.Fatal(err)
	}
	again, err := der.ParseRequest(sign(t, renewed, key))
	if err != nil || !bytes.Equal(again.RawSubject, r.RawSubject) || again.HasChallengePassword || len(again.Attributes) != 0 {
		t.Errorf("renewal request %+v, %v", again, err)
	}
}

func TestBuildRequestRefuses(t *testing.T) {
	key := spkiOf(t, &newEC(t, elliptic.P256()).PublicKey)
	for words, spec := range map[string]der.RequestSpec{
		"public key": {},
		"empty":      {SPKI: key, Subject: []der.Attribute{{Type: der.OIDCommonName}}},
		"DNS name":   {SPKI: key, Names: der.AltNames{DNS: []string{"a_b"}}},
		"NUL":        {SPKI: key, ChallengePassword: "a\x00b"},
		"subject":    {SPKI: key, RawSubject: []byte{0x30}},
	} {
		_, err := der.AppendRequestInfo(nil, spec)
		wantError(t, err, words)
	}
}

// parts are the pieces of a request, to be put together wrongly.
type parts struct {
	version, subject, spki []byte
	attributes             [][]byte
	rest                   []byte // after the attributes
	noAttributes           bool
}

func (p parts) info() []byte {
	content := slices.Concat(p.version, p.subject, p.spki)
	if !p.noAttributes {
		content = der.AppendElement(content, 0xa0, bytes.Join(p.attributes, nil))
	}
	return der.AppendElement(nil, 0x30, append(content, p.rest...))
}

func sequence(parts ...[]byte) []byte { return der.AppendElement(nil, 0x30, bytes.Join(parts, nil)) }

func attribute(oid der.OID, values ...[]byte) []byte {
	return sequence(oid.Append(nil), der.AppendElement(nil, 0x31, bytes.Join(values, nil)))
}

func extensionRequest(list ...der.Extension) []byte {
	var content []byte
	for _, e := range list {
		content = e.Append(content)
	}
	return attribute(der.OIDExtensionRequest, der.AppendElement(nil, 0x30, content))
}

func TestParseRequestRefuses(t *testing.T) {
	key := newEC(t, elliptic.P256())
	base := parts{version: []byte{2, 1, 0}, subject: unhexTest("300f310d300b06035504030c0474657374"), spki: spkiOf(t, &key.PublicKey)}
	good := sign(t, base.info(), key)
	if _, err := der.ParseRequest(good); err != nil {
		t.Fatal(err)
	}
	san, err := der.NewAltNames(der.AltNames{DNS: []string{"a.example"}}, false)
	if err != nil {
		t.Fatal(err)
	}
	challenge := func(value ...byte) []byte { return attribute(der.OIDChallengePassword, value) }
	change := func(f func(p *parts)) []byte {
		p := base
		f(&p)
		return sign(t, p.info(), key)
	}
	with := func(attributes ...[]byte) []byte { return change(func(p *parts) { p.attributes = attributes }) }
	extension := func(oid der.OID, value string) []byte {
		return with(extensionRequest(der.Extension{OID: oid, Value: unhexTest(value)}))
	}
	usage := der.NewKeyUsage(der.DigitalSignature)
	for _, c := range []struct {
		name  string
		in    []byte
		words string
	}{
		{"nothing", nil, "malformed"},
		{"too long", make([]byte, der.MaxRequest+1), "octets"},
		{"trailing byte", append(slices.Clone(good), 0), "trailing"},
		{"truncated", good[:len(good)-1], "malformed"},
		{"indefinite length", slices.Concat([]byte{0x30, 0x80}, good[3:], []byte{0, 0}), "malformed"},
		{"non-minimal length", slices.Concat([]byte{0x30, 0x82, 0}, good[2:]), "malformed"},
		{"version 2", change(func(p *parts) { p.version = []byte{2, 1, 1} }), "version"},
		{"non-minimal version", change(func(p *parts) { p.version = []byte{2, 2, 0, 0} }), "version"},
		{"no attributes", change(func(p *parts) { p.noAttributes = true }), "malformed"},
		{"bytes after the attributes", change(func(p *parts) { p.rest = []byte{5, 0} }), "malformed"},
		{"multi-valued RDN", change(func(p *parts) {
			p.subject = unhexTest("301c311a300b06035504030c0474657374300b060355040a0c0474657374")
		}), "multi-valued"},
		{"NUL in the subject", change(func(p *parts) { p.subject = unhexTest("300e310c300a06035504030c03610062") }), "NUL"},
		{"P-224", change(func(p *parts) { p.spki = spkiOf(t, &newEC(t, elliptic.P224()).PublicKey) }), "P-224"},
		{"attribute twice", with(challenge(12, 1, 'a'), challenge(12, 1, 'a')), "occurs twice"},
		{"attribute without values", with(attribute("\x2a")), "malformed"},
		{"33 attributes", with(slices.Collect(func(yield func([]byte) bool) {
			for n := range 33 {
				if !yield(attribute(der.OID([]byte{0x2a, byte(n)}), []byte{5, 0})) {
					return
				}
			}
		})...), "more than 32"},
		{"attribute with 33 values", with(attribute("\x2a", bytes.Repeat([]byte{5, 0}, 33))), "malformed"},
		{"extensions twice", with(extensionRequest(usage), attribute(der.OIDMicrosoftExtensionRequest, sequence(san.Append(nil)))), "two attributes"},
		{"extension request with two values", with(attribute(der.OIDExtensionRequest, sequence(), sequence())), "several values"},
		{"extension twice", with(extensionRequest(usage, san, usage)), "occurs twice"},
		{"criticality FALSE", with(attribute(der.OIDExtensionRequest, sequence(sequence([]byte{6, 1, 0x2a, 1, 1, 0, 4, 0})))), "left out"},
		{"criticality 1", with(attribute(der.OIDExtensionRequest, sequence(sequence([]byte{6, 1, 0x2a, 1, 1, 1, 4, 0})))), "left out"},
		{"extension without value", with(attribute(der.OIDExtensionRequest, sequence(sequence([]byte{6, 1, 0x2a})))), "malformed"},
		{"SAN malformed", extension(der.OIDSubjectAltName, "04"), "malformed"},
		{"SAN with NUL", extension(der.OIDSubjectAltName, "3009820761002e62632e64"), "DNS name"},
		{"basicConstraints malformed", extension(der.OIDBasicConstraints, "30030101ff00"), "trailing"},
		{"basicConstraints negative", extension(der.OIDBasicConstraints, "30060101ff0201ff"), "malformed"},
		{"keyUsage without octets", extension(der.OIDKeyUsage, "0300"), "malformed"},
		{"keyUsage, 8 unused bits", extension(der.OIDKeyUsage, "03020880"), "malformed"},
		{"keyUsage, set unused bits", extension(der.OIDKeyUsage, "03020581"), "malformed"},
		{"extKeyUsage malformed", extension(der.OIDExtKeyUsage, "30020500"), "malformed"},
		{"challengePassword as BMPString", with(challenge(0x1e, 2, 0, 'a')), "string type"},
		{"challengePassword with NUL", with(challenge(12, 3, 'a', 0, 'b')), "NUL"},
		{"challengePassword empty", with(challenge(12, 0)), "empty"},
		{"challengePassword twice in a set", with(challenge(12, 1, 'a', 12, 1, 'b')), "several values"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := der.ParseRequest(c.in)
			wantError(t, err, c.words)
		})
	}
}

func TestParseRequestAccepts(t *testing.T) {
	key := newEC(t, elliptic.P256())
	base := parts{version: []byte{2, 1, 0}, subject: []byte{0x30, 0}, spki: spkiOf(t, &key.PublicKey)}
	read := func(attributes ...[]byte) *der.Request {
		t.Helper()
		base.attributes = attributes
		r, err := der.ParseRequest(sign(t, base.info(), key))
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	ca := read(extensionRequest(der.NewBasicConstraints(true, 3), der.NewKeyUsage(der.KeyCertSign|der.CRLSign|der.DecipherOnly)))
	if !ca.CA || ca.KeyUsage != der.KeyCertSign|der.CRLSign|der.DecipherOnly || !ca.Extensions[0].Critical {
		t.Errorf("CA request reads as %+v", ca.Asked)
	}
	if r := read(extensionRequest(der.Extension{OID: der.OIDBasicConstraints, Value: unhexTest("3003010100")})); r.CA {
		t.Error("explicit cA FALSE reads as TRUE")
	}
	if r := read(attribute(der.OIDMicrosoftExtensionRequest, sequence(der.NewExtKeyUsage(der.OIDClientAuth).Append(nil)))); len(r.ExtKeyUsage) != 1 {
		t.Error("the extension request of Windows clients is not read")
	}
	if r := read(extensionRequest()); len(r.Extensions) != 0 {
		t.Error("an empty list of extensions is not empty")
	}
	// A client in the field repeats the identifiers of its old certificate; they are there and ask for nothing.
	if r := read(extensionRequest(der.NewSubjectKeyID([]byte{1}), der.NewAuthorityKeyID([]byte{2}))); len(r.Extensions) != 2 || r.CA {
		t.Errorf("repeated identifiers read as %+v", r)
	}
	for tag, text := range map[byte]string{12: "pässword", 19: "password", 22: "pass_word"} {
		if r := read(attribute(der.OIDChallengePassword, der.AppendElement(nil, tag, []byte(text)))); r.ChallengePassword != text {
			t.Errorf("challengePassword %q with tag %d", r.ChallengePassword, tag)
		}
	}
}

func TestCheckSignatureRefuses(t *testing.T) {
	key, other := newEC(t, elliptic.P256()), newEC(t, elliptic.P256())
	info, err := der.AppendRequestInfo(nil, der.RequestSpec{SPKI: spkiOf(t, &key.PublicKey)})
	if err != nil {
		t.Fatal(err)
	}
	for name, csr := range map[string][]byte{
		"other key":           sign(t, info, other),
		"no signature":        der.Wrap(nil, info, der.ECDSAWithSHA256, nil),
		"zeros":               der.Wrap(nil, info, der.ECDSAWithSHA256, []byte{0x30, 6, 2, 1, 0, 2, 1, 0}),
		"other hash declared": der.Wrap(nil, info, der.ECDSAWithSHA384, signatureOf(t, sign(t, info, key))),
	} {
		r, err := der.ParseRequest(csr)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if err := r.CheckSignature(); !errors.Is(err, der.ErrSignature) {
			t.Errorf("%s: %v", name, err)
		}
	}
	r, err := der.ParseRequest(der.Wrap(nil, info, der.RSAWithSHA256, []byte{1}))
	if err != nil {
		t.Fatal(err)
	}
	wantError(t, r.CheckSignature(), "rsa-sha256 with an EC key")
}

func signatureOf(t testing.TB, csr []byte) []byte {
	t.Helper()
	r, err := der.ParseRequest(csr)
	if err != nil {
		t.Fatal(err)
	}
	return r.Signature
}

func standardRequest(t testing.TB, key *ecdsa.PrivateKey) []byte {
	t.Helper()
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
		Subject:  pkix.Name{Organization: []string{"Acme"}, CommonName: "dev1"},
		DNSNames: []string{"dev1.example"},
	}, key)
	if err != nil {
		t.Fatal(err)
	}
	return csr
}

func FuzzParseRequest(f *testing.F) {
	key := newEC(f, elliptic.P256())
	f.Add(standardRequest(f, key))
	info, err := der.AppendRequestInfo(nil, der.RequestSpec{
		SPKI: spkiOf(f, &key.PublicKey), ChallengePassword: "x",
		Extensions: []der.Extension{der.NewBasicConstraints(true, 1), der.NewKeyUsage(der.CRLSign)},
	})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(sign(f, info, key))
	f.Add(vector(f, "request-44.pem"))
	f.Fuzz(func(t *testing.T, in []byte) {
		r, err := der.ParseRequest(in)
		if err != nil {
			return
		}
		if again := der.Wrap(nil, r.RawInfo, r.Algorithm, r.Signature); !bytes.Equal(again, in) && r.Algorithm < der.RSAWithSHA256 {
			t.Fatalf("wrapping again gives %x, not %x", again, in)
		}
		_ = r.CheckSignature() // must not panic
		// Its own refusals ("x509: ...") are a matter of taste; its decoder ("asn1: ...") must not see less than ours.
		if _, err := x509.ParseCertificateRequest(in); err != nil && !strings.Contains(err.Error(), "x509") {
			t.Fatalf("the standard library refuses the shape of %x: %v", in, err)
		}
	})
}

func FuzzParseExtensions(f *testing.F) {
	f.Add(sequence(der.NewKeyUsage(der.CRLSign).Append(nil), der.NewOCSPNoCheck().Append(nil)))
	f.Fuzz(func(t *testing.T, in []byte) {
		list, err := der.ParseExtensions(in)
		if err != nil {
			return
		}
		var content []byte
		for _, e := range list {
			content = e.Append(content)
		}
		if again := der.AppendElement(nil, 0x30, content); !bytes.Equal(again, in) {
			t.Fatalf("writing again gives %x, not %x", again, in)
		}
	})
}

func FuzzParseAsked(f *testing.F) {
	for _, e := range []der.Extension{der.NewKeyUsage(der.CRLSign | der.DecipherOnly), der.NewBasicConstraints(true, 2), der.NewExtKeyUsage(der.OIDCMCRA)} {
		f.Add(string(e.OID), e.Value)
	}
	f.Fuzz(func(t *testing.T, oid string, value []byte) {
		asked, err := der.ParseAsked([]der.Extension{{OID: der.OID(oid), Value: value}})
		if err != nil || der.OID(oid) != der.OIDKeyUsage {
			return
		}
		again, err := der.ParseAsked([]der.Extension{der.NewKeyUsage(asked.KeyUsage)})
		if err != nil || again.KeyUsage != asked.KeyUsage {
			t.Fatalf("key usage %b becomes %b, %v", asked.KeyUsage, again.KeyUsage, err)
		}
	})
}
