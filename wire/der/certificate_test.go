package der_test

import (
	"bytes"
	"crypto"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"math/big"
	mathrand "math/rand/v2"
	"net"
	"net/netip"
	"net/url"
	"testing"
	"time"

	"mooring/wire/der"
)

// issuer is a CA whose own certificate our template made.
type issuer struct {
	key  crypto.Signer
	cert *x509.Certificate
	name []byte
	ski  [20]byte
}

func newIssuer(t testing.TB, key crypto.Signer) *issuer {
	t.Helper()
	name, err := der.BuildName([]der.Attribute{{Type: der.OIDOrganization, Value: "Acme"}, {Type: der.OIDCommonName, Value: "Acme Device CA G2"}})
	if err != nil {
		t.Fatal(err)
	}
	spki := spkiOf(t, key.Public())
	ski, err := der.SubjectKeyID(spki)
	if err != nil {
		t.Fatal(err)
	}
	template := newTemplate(t, key, name, der.NewBasicConstraints(true, 0), der.NewKeyUsage(der.KeyCertSign|der.CRLSign))
	tbs, err := template.AppendTBS(nil, der.Variable{
		Serial: []byte{1}, NotBefore: 1_700_000_000, NotAfter: der.NoExpiry, Subject: name, SPKI: spki, SKI: ski[:],
	})
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(sign(t, tbs, key))
	if err != nil {
		t.Fatal(err)
	}
	if err := cert.CheckSignatureFrom(cert); err != nil {
		t.Fatal(err)
	}
	if !cert.IsCA || !cert.MaxPathLenZero || !cert.BasicConstraintsValid || cert.NotAfter.Unix() != der.NoExpiry {
		t.Fatalf("CA certificate reads as %+v", cert)
	}
	return &issuer{key, cert, name, ski}
}

func newTemplate(t testing.TB, key crypto.Signer, name []byte, extensions ...der.Extension) *der.Template {
	t.Helper()
	algorithm, err := der.AlgorithmFor(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	template, err := der.NewTemplate(der.TemplateSpec{Algorithm: algorithm, Issuer: name, Extensions: extensions})
	if err != nil {
		t.Fatal(err)
	}
	return template
}

func newIssuers(t testing.TB) []*issuer {
	t.Helper()
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return []*issuer{newIssuer(t, ed), newIssuer(t, newEC(t, elliptic.P256()))}
}

// sample is one random certificate, said to us and to the standard library.
type sample struct {
	std       x509.Certificate
	first     []der.Extension // KU, EKU, BC: what the standard library writes before the SKI
	ski       []byte
	authority der.Extension
	san       []byte
	info      []der.Extension // AIA, written before the SAN
	last      []der.Extension // policies, constraints, CRL points: after the SAN
	v         der.Variable
}

func randomSample(t testing.TB, r *mathrand.Rand, ca *issuer, spki []byte) *sample {
	s := &sample{authority: der.NewAuthorityKeyID(ca.ski[:])}
	serial := make([]byte, 1+r.IntN(20))
	for i := range serial {
		serial[i] = byte(r.Uint32())
	}
	serial[0] = 1 + serial[0]&0x3f
	s.std.SerialNumber = new(big.Int).SetBytes(serial)
	from := r.Int64N(3_000_000_000)
	to := from + r.Int64N(der.NoExpiry-from)
	s.std.NotBefore, s.std.NotAfter = time.Unix(from, 0).UTC(), time.Unix(to, 0).UTC()
	subject := randomSubject(t, r)
	s.std.RawSubject = subject
	s.v = der.Variable{Serial: serial, NotBefore: from, NotAfter: to, Subject: subject, SPKI: spki}
	s.randomExtensions(t, r)
	return s
}

func randomSubject(t testing.TB, r *mathrand.Rand) []byte {
	types := []der.OID{der.OIDCommonName, der.OIDOrganization, der.OIDSerialNumber, der.OIDLocality, der.OIDUserID}
	var attributes []der.Attribute
	for range 1 + r.IntN(5) {
		value := bytes.Repeat([]byte{'a' + byte(r.IntN(26))}, 1+r.IntN(64))
		attributes = append(attributes, der.Attribute{Type: types[r.IntN(len(types))], Value: string(value)})
	}
	name, err := der.BuildName(attributes)
	if err != nil {
		t.Fatal(err)
	}
	return name
}

func (s *sample) randomExtensions(t testing.TB, r *mathrand.Rand) {
	some := func() bool { return r.IntN(2) == 0 }
	if usage := r.IntN(512); usage > 0 {
		s.std.KeyUsage = x509.KeyUsage(usage)
		s.first = append(s.first, der.NewKeyUsage(der.KeyUsage(usage)))
	}
	if some() {
		s.std.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageOCSPSigning, x509.ExtKeyUsageAny}
		s.first = append(s.first, der.NewExtKeyUsage(der.OIDClientAuth, der.OIDOCSPSigning, der.OIDAnyExtKeyUsage))
	}
	if some() {
		length := r.IntN(4) - 1
		s.std.BasicConstraintsValid, s.std.IsCA = true, some()
		s.std.MaxPathLen = length
		s.std.MaxPathLenZero = length == 0
		if !s.std.IsCA {
			s.std.MaxPathLen, s.std.MaxPathLenZero = 0, false
		}
		s.first = append(s.first, der.NewBasicConstraints(s.std.IsCA, length))
	}
	if s.std.IsCA || some() {
		s.ski = bytes.Repeat([]byte{byte(r.Uint32())}, 20)
		s.std.SubjectKeyId = s.ski
	}
	if some() {
		s.std.OCSPServer, s.std.IssuingCertificateURL = []string{"http://o.example/"}, []string{"http://c.example/g2.cer"}
		s.info = append(s.info, der.NewAuthorityInfo(s.std.OCSPServer, s.std.IssuingCertificateURL))
	}
	if some() {
		s.std.EmailAddresses, s.std.DNSNames = []string{"a@b.example"}, []string{"x.example", "*.y.example"}
		uri, _ := url.Parse("urn:dev:ops:acme-dev-1")
		s.std.URIs, s.std.IPAddresses = []*url.URL{uri}, []net.IP{net.IPv4(192, 0, 2, byte(r.Uint32())).To4()}
		ip, _ := netip.AddrFromSlice(s.std.IPAddresses[0])
		value, err := der.BuildAltNames(der.AltNames{Email: s.std.EmailAddresses, DNS: s.std.DNSNames, URI: []string{uri.String()}, IP: []netip.Addr{ip}})
		if err != nil {
			t.Fatal(err)
		}
		s.san = value
	}
	if some() {
		policy, _ := x509.OIDFromInts([]uint64{1, 3, 6, 1, 4, 1, 55555, 7})
		s.std.Policies = []x509.OID{policy}
		oid, err := der.ParseOID(policy.String())
		if err != nil {
			t.Fatal(err)
		}
		s.last = append(s.last, der.NewPolicies(oid))
	}
	if some() {
		s.std.PermittedDNSDomainsCritical = true
		s.std.PermittedDNSDomains, s.std.PermittedURIDomains = []string{"a.example"}, []string{".b.example"}
		_, all4, _ := net.ParseCIDR("0.0.0.0/0")
		_, net6, _ := net.ParseCIDR("2001:db8::/33")
		s.std.ExcludedIPRanges = []*net.IPNet{all4, net6}
		e, err := der.NewNameConstraints(der.NameConstraints{PermittedDNS: s.std.PermittedDNSDomains, PermittedURI: s.std.PermittedURIDomains,
			ExcludedIP: []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("2001:db8::1/33")}})
		if err != nil {
			t.Fatal(err)
		}
		s.last = append(s.last, e)
	}
	if some() {
		s.std.CRLDistributionPoints = []string{"http://crl.example/1/7.crl", "http://crl2.example/1/7.crl"}
		s.last = append(s.last, der.NewCRLPoints(s.std.CRLDistributionPoints...))
	}
}

// native puts our extensions into the order of the standard library, which then encodes each by its own means.
func (s *sample) native(t testing.TB, ca *issuer) []byte {
	s.v.SKI = s.ski
	s.v.Extra = append([]der.Extension{s.authority}, s.info...)
	if s.san != nil {
		s.v.Extra = append(s.v.Extra, der.Extension{OID: der.OIDSubjectAltName, Value: s.san})
	}
	s.v.Extra = append(s.v.Extra, s.last...)
	return s.tbs(t, newTemplate(t, ca.key, ca.name, s.first...))
}

// ours takes the order that the product uses; the standard library is handed the same list.
func (s *sample) ours(t testing.TB, ca *issuer) []byte {
	s.v.SKI, s.v.SAN, s.v.Extra = s.ski, s.san, s.last
	constant := append(append(s.first, s.authority), s.info...)
	all := constant
	if s.ski != nil {
		all = append(all, der.NewSubjectKeyID(s.ski))
	}
	if s.san != nil {
		all = append(all, der.Extension{OID: der.OIDSubjectAltName, Value: s.san})
	}
	for _, e := range append(all, s.last...) {
		var oid asn1.ObjectIdentifier
		if _, err := asn1.Unmarshal(e.OID.Append(nil), &oid); err != nil {
			t.Fatal(err)
		}
		s.std.ExtraExtensions = append(s.std.ExtraExtensions, pkix.Extension{Id: oid, Critical: e.Critical, Value: e.Value})
	}
	return s.tbs(t, newTemplate(t, ca.key, ca.name, constant...))
}

func (s *sample) tbs(t testing.TB, template *der.Template) []byte {
	t.Helper()
	tbs, err := template.AppendTBS(nil, s.v)
	if err != nil {
		t.Fatal(err)
	}
	return tbs
}

// The TBSCertificate of random certificates equals that of crypto/x509 octet for octet, and the whole verifies.
func TestCertificateEqualsStandardLibrary(t *testing.T) {
	issuers := newIssuers(t)
	subject := newEC(t, elliptic.P256())
	spki := spkiOf(t, &subject.PublicKey)
	r := mathrand.New(mathrand.NewPCG(3, 4))
	for i := range 4000 {
		ca := issuers[min(i%8, 1)^1] // one in eight by Ed25519
		s := randomSample(t, r, ca, spki)
		order := s.native
		if i%2 == 0 {
			order = s.ours
		}
		tbs := order(t, ca)
		want, err := x509.CreateCertificate(rand.Reader, &s.std, ca.cert, &subject.PublicKey, ca.key)
		if err != nil {
			t.Fatalf("%d: %v", i, err)
		}
		std, err := x509.ParseCertificate(want)
		if err != nil {
			t.Fatalf("%d: %v", i, err)
		}
		if !bytes.Equal(tbs, std.RawTBSCertificate) {
			t.Fatalf("%d: certificate\n%x, standard library\n%x", i, tbs, std.RawTBSCertificate)
		}
		if i%16 > 1 {
			continue
		}
		cert, err := x509.ParseCertificate(sign(t, tbs, ca.key))
		if err != nil {
			t.Fatalf("%d: %v", i, err)
		}
		if err := cert.CheckSignatureFrom(ca.cert); err != nil {
			t.Fatalf("%d: %v", i, err)
		}
	}
}

func TestCertificateWithoutSubject(t *testing.T) {
	ca := newIssuers(t)[1]
	san, err := der.BuildAltNames(der.AltNames{URI: []string{"spiffe://acme.example/w"}})
	if err != nil {
		t.Fatal(err)
	}
	v := der.Variable{Serial: []byte{1}, NotAfter: 1, Subject: []byte{0x30, 0}, SPKI: spkiOf(t, ca.key.Public()), SAN: san}
	tbs, err := newTemplate(t, ca.key, ca.name).AppendTBS(nil, v)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(sign(t, tbs, ca.key))
	if err != nil {
		t.Fatal(err)
	}
	if len(cert.Extensions) != 1 || !cert.Extensions[0].Critical {
		t.Errorf("alternative name beside an empty subject is not critical: %v", cert.Extensions)
	}
}

func TestOtherExtensions(t *testing.T) {
	for _, c := range []struct {
		e    der.Extension
		want string
	}{
		{der.NewOCSPNoCheck(), "300f 06092b0601050507300105 0402 0500"},
		{der.NewNoRevAvail(), "3009 0603551d38 0402 0500"},
		{der.NewMustStaple(), "3011 06082b06010505070118 0405 3003020105"},
		{der.NewMASAURL("m.example"), "3017 06082b06010505070120 040b 1609 6d2e6578616d706c65"},
		{der.NewKeyUsage(0), "300d 0603551d0f 0101ff 0403 030100"},
	} {
		if got := c.e.Append(nil); !bytes.Equal(got, unhex(t, c.want)) {
			t.Errorf("extension %s = %x, want %s", c.e.OID, got, c.want)
		}
	}
	if _, err := der.NewNameConstraints(der.NameConstraints{}); err == nil {
		t.Error("name constraints without any are built")
	}
	if _, err := der.NewNameConstraints(der.NameConstraints{PermittedIP: []netip.Prefix{{}}}); err == nil {
		t.Error("name constraint of no prefix is built")
	}
	if _, err := der.NewAltNames(der.AltNames{}, false); err == nil {
		t.Error("alternative names without any are built")
	}
}

func TestTemplateRefuses(t *testing.T) {
	name := unhex(t, "300f310d300b06035504030c0474657374")
	usage := der.NewKeyUsage(der.DigitalSignature)
	for words, spec := range map[string]der.TemplateSpec{
		"signature algorithm": {Issuer: name},
		"issuer name":         {Algorithm: der.PureEd25519, Issuer: []byte{0x30, 0}},
		"twice":               {Algorithm: der.PureEd25519, Issuer: name, Extensions: []der.Extension{usage, usage}},
		"without a type":      {Algorithm: der.PureEd25519, Issuer: name, Extensions: []der.Extension{{}}},
	} {
		_, err := der.NewTemplate(spec)
		wantError(t, err, words)
	}
}

func TestAppendTBSRefuses(t *testing.T) {
	key := newEC(t, elliptic.P256())
	name := unhex(t, "300f310d300b06035504030c0474657374")
	template := newTemplate(t, key, name, der.NewKeyUsage(der.DigitalSignature))
	good := der.Variable{Serial: []byte{1}, NotAfter: 1, Subject: name, SPKI: spkiOf(t, &key.PublicKey)}
	if _, err := template.AppendTBS(nil, good); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		words  string
		change func(v *der.Variable)
	}{
		{"serial number of 0", func(v *der.Variable) { v.Serial = nil }},
		{"serial number of 21", func(v *der.Variable) { v.Serial = bytes.Repeat([]byte{1}, 21) }},
		{"zero", func(v *der.Variable) { v.Serial = []byte{0} }},
		{"negative", func(v *der.Variable) { v.Serial = []byte{0x80} }},
		{"leading zero", func(v *der.Variable) { v.Serial = []byte{0, 1} }},
		{"ends before", func(v *der.Variable) { v.NotBefore = 2 }},
		{"1950 to 9999", func(v *der.Variable) { v.NotAfter = der.NoExpiry + 1 }},
		{"1950 to 9999", func(v *der.Variable) { v.NotBefore = -1 << 62 }},
		{"subject", func(v *der.Variable) { v.Subject = nil }},
		{"subject", func(v *der.Variable) { v.Subject = append(name[:len(name):len(name)], 0) }},
		{"public key", func(v *der.Variable) { v.SPKI = v.SPKI[1:] }},
		{"subjectAltName", func(v *der.Variable) { v.SAN = []byte{} }},
		{"neither a subject", func(v *der.Variable) { v.Subject = []byte{0x30, 0} }},
		{"key identifier", func(v *der.Variable) { v.SKI = make([]byte, 33) }},
		{"key identifier", func(v *der.Variable) { v.SKI = []byte{} }},
		{"twice", func(v *der.Variable) { v.Extra = []der.Extension{der.NewKeyUsage(1)} }},
		{"twice", func(v *der.Variable) { v.Extra = []der.Extension{der.NewOCSPNoCheck(), der.NewOCSPNoCheck()} }},
		{"twice", func(v *der.Variable) { v.SKI = []byte{1}; v.Extra = []der.Extension{der.NewSubjectKeyID([]byte{1})} }},
	} {
		v := good
		c.change(&v)
		_, err := template.AppendTBS(nil, v)
		wantError(t, err, c.words)
	}
}

// The hot path allocates only for its result.
func TestAppendTBSAllocatesNothing(t *testing.T) {
	template, v := hotPath(t)
	buffer := make([]byte, 0, 1024)
	if n := testing.AllocsPerRun(100, func() {
		if _, err := template.AppendTBS(buffer, v); err != nil {
			t.Fatal(err)
		}
	}); n > 0 {
		t.Errorf("%v allocations per certificate", n)
	}
}

func hotPath(t testing.TB) (*der.Template, der.Variable) {
	key := newEC(t, elliptic.P256())
	ca := newIssuer(t, key)
	template := newTemplate(t, key, ca.name, der.NewKeyUsage(der.DigitalSignature), der.NewExtKeyUsage(der.OIDClientAuth), der.NewAuthorityKeyID(ca.ski[:]))
	san, err := der.BuildAltNames(der.AltNames{DNS: []string{"dev1.example"}})
	if err != nil {
		t.Fatal(err)
	}
	return template, der.Variable{
		Serial: bytes.Repeat([]byte{0x41}, 16), NotBefore: 1_700_000_000, NotAfter: 1_800_000_000, Subject: ca.name,
		SPKI: spkiOf(t, &key.PublicKey), SKI: ca.ski[:], SAN: san, Extra: []der.Extension{der.NewCRLPoints("http://crl.example/1/7.crl")},
	}
}
