package voucher

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"errors"
	"math/big"
	"reflect"
	"strings"
	"testing"
	"time"

	"mooring/wire/cms"
)

// party is a certificate with its key.
type party struct {
	cert *x509.Certificate
	key  crypto.Signer
}

// issue returns a certificate by the issuer, or a self-signed one.
func issue(t testing.TB, name string, issuer *party, change func(*x509.Certificate)) *party {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(int64(len(name)) + 100), Subject: pkix.Name{CommonName: name}, NotBefore: time.Unix(0, 0), NotAfter: time.Unix(1<<33, 0),
		BasicConstraintsValid: true, IsCA: true}
	if change != nil {
		change(template)
	}
	above, by := template, crypto.Signer(key)
	if issuer != nil {
		above, by = issuer.cert, issuer.key
	}
	raw, err := x509.CreateCertificate(rand.Reader, template, above, key.Public(), by)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(raw)
	if err != nil {
		t.Fatal(err)
	}
	return &party{cert, key}
}

func domain(t testing.TB) (root, registrar *party) {
	root = issue(t, "root", nil, nil)
	return root, issue(t, "registrar", root, func(c *x509.Certificate) { c.IsCA = false })
}

var at = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func exampleRequest(registrar *party) Request {
	return Request{CreatedOn: at, Assertion: Proximity, SerialNumber: "JADA123456789", IDevIDIssuer: []byte{1, 2, 3}, Nonce: []byte("0123456789abcdef"),
		ProximityRegistrarCert: registrar.cert.Raw}
}

func exampleVoucher(root *party) Voucher {
	return Voucher{CreatedOn: at, ExpiresOn: at.Add(20 * time.Minute), LastRenewalDate: at.Add(time.Hour), Assertion: Logged, SerialNumber: "JADA123456789",
		IDevIDIssuer: []byte{1, 2, 3}, PinnedDomainCert: root.cert.Raw, DomainCertRevocationChecks: true}
}

func TestRoundTrip(t *testing.T) {
	root, registrar := domain(t)
	pledge := exampleRequest(registrar)
	inner, err := pledge.Sign(registrar.key, registrar.cert, nil, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	asked := pledge
	asked.ProximityRegistrarCert, asked.PriorSigned = nil, inner
	for _, r := range []Request{pledge, asked, {SerialNumber: "1"}, {SerialNumber: "ö 1", ExpiresOn: at}} {
		message, err := r.Sign(registrar.key, registrar.cert, []*x509.Certificate{root.cert}, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		got, err := ParseRequest(message)
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(got.Request, r) || !bytes.Equal(got.Raw, message) || len(got.Chain) != 2 || !got.Chain[0].Equal(registrar.cert) || !got.Chain[1].Equal(root.cert) {
			t.Errorf("read %+v, want %+v", got, r)
		}
		if err := got.VerifiedBy(root.cert); err == nil {
			t.Error("verified by a certificate that did not sign")
		}
	}
	v := exampleVoucher(root)
	nonced := Voucher{CreatedOn: at, Assertion: Verified, SerialNumber: "1", PinnedDomainCert: root.cert.Raw, Nonce: []byte("01234567")}
	for _, v := range []Voucher{v, nonced} {
		message, err := v.Sign(root.key, root.cert, nil, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		got, err := ParseVoucher(message)
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(got.Voucher, v) || got.VerifiedBy(root.cert) != nil || got.VerifiedBy(registrar.cert) == nil {
			t.Errorf("read %+v, want %+v", got, v)
		}
	}
}

// exampleLog is the RFC's (RFC 8995, section 5.8.1), numbers in quotes and all.
const exampleLog = `{"version":"1","events":[
{"date":"2019-05-15T17:25:55.644-04:00","domainID":"BduJhdHPpfhQLyponf48JzXSGZ8=","nonce":"VOUFT-WwrEv0NuAQEHoV7Q","assertion":"proximity","truncated":"0"},
{"date":"2017-05-15T17:25:55.644-04:00","domainID":"BduJhdHPpfhQLyponf48JzXSGZ8=","nonce":"f4G6Vi1t8nKo/FieCVgpBg==","assertion":"proximity"}],
"truncation":{"nonced duplicates":"0","nonceless duplicates":"1","arbitrary":"2"}}`

// signContent signs anything, as a message of the given type.
func signContent(t *testing.T, by *party, kind asn1.ObjectIdentifier, content string) []byte {
	t.Helper()
	message, err := cms.Sign(cms.SignInput{ContentType: kind, Content: []byte(content), Signer: by.key, Certificate: by.cert, Rand: rand.Reader})
	if err != nil {
		t.Fatal(err)
	}
	return message
}

func TestRequestForm(t *testing.T) {
	_, registrar := domain(t)
	cert := base64.StdEncoding.EncodeToString(registrar.cert.Raw)
	tests := []struct{ name, inner, want string }{
		{"nonce in the other alphabet, without padding", `"serial-number":"1","nonce":"-_XE9zK9q8Ll1qylMtLKeg","created-on":"2021-04-13T17:43:23.747-04:00"`, ""},
		{"fields that mean nothing in a request", `"serial-number":"1","pinned-domain-cert":"AA==","last-renewal-date":"x","domain-cert-revocation-checks":[]`, ""},
		{"no serial number", `"nonce":"AAAAAAAAAAA="`, "serial-number must be text"},
		{"empty serial number", `"serial-number":""`, "not an empty one"},
		{"serial number that is a number", `"serial-number":1`, "must be a string"},
		{"serial number that is null", `"serial-number":null`, "must be a string"},
		{"control character", `"serial-number":"1\n2"`, "serial-number must be text"},
		{"serial number of 256 octets", `"serial-number":"` + strings.Repeat("1", 256) + `"`, "serial-number must be text"},
		{"nonce of 7 octets", `"serial-number":"1","nonce":"AAAAAAAAAA=="`, "7 octets, want 8 to 32"},
		{"nonce of 33 octets", `"serial-number":"1","nonce":"` + base64.StdEncoding.EncodeToString(make([]byte, 33)) + `"`, "33 octets"},
		{"nonce that is not base64", `"serial-number":"1","nonce":"!!!!!!!!!!!!"`, "must be base64"},
		{"nonce with a line end", `"serial-number":"1","nonce":"AAAA\nAAAAAAA="`, "must be base64"},
		{"nonce and expiry", `"serial-number":"1","nonce":"AAAAAAAAAAA=","expires-on":"2026-03-01T12:00:00Z"`, "only one of them"},
		{"time without zone", `"serial-number":"1","created-on":"2026-03-01T12:00:00"`, "RFC 3339"},
		{"assertion nobody knows", `"serial-number":"1","assertion":"agent-proximity"`, "is not known"},
		{"field nobody knows", `"serial-number":"1","owner":"me"`, `"owner" is not one of this message`},
		{"field in capitals", `"Serial-Number":"1"`, ""},
		{"field twice", `"serial-number":"1","serial-number":"2"`, "twice"},
		{"field twice, one escaped", `"serial-number":"1","serial\u002dnumber":"2"`, "twice"},
		{"proximity and prior", `"serial-number":"1","proximity-registrar-cert":"` + cert + `","prior-signed-voucher-request":"AAAA"`, "for devices and the other for registrars"},
		{"proximity that is no certificate", `"serial-number":"1","proximity-registrar-cert":"AAAA"`, "not a certificate"},
		{"UTF-8", "\"serial-number\":\"\xff\"", "UTF-8"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			message := signContent(t, registrar, OID, `{"ietf-voucher-request:voucher":{`+tt.inner+`}}`)
			_, err := ParseRequest(message)
			if tt.name == "field in capitals" {
				if err == nil {
					t.Fatal("taken")
				}
				return
			}
			if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
}

func TestOuterForm(t *testing.T) {
	_, registrar := domain(t)
	for name, content := range map[string]string{
		"voucher for a request": `{"ietf-voucher:voucher":{"serial-number":"1"}}`, "without outer": `{"serial-number":"1"}`, "array": `[]`, "nothing": ``,
		"two outer": `{"ietf-voucher-request:voucher":{"serial-number":"1"},"more":1}`, "text after": `{"ietf-voucher-request:voucher":{"serial-number":"1"}} 1`,
		"inner is text": `{"ietf-voucher-request:voucher":"x"}`, "cut off": `{"ietf-voucher-request:voucher":{"serial-number":"1"}`,
		"deep": `{"ietf-voucher-request:voucher":` + strings.Repeat("[", 12000) + strings.Repeat("]", 12000) + `}`,
	} {
		if _, err := ParseRequest(signContent(t, registrar, OID, content)); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
	good := `{"ietf-voucher-request:voucher":{"serial-number":"1"}}`
	if _, err := ParseRequest(signContent(t, registrar, OID, good)); err != nil {
		t.Error(err)
	}
	if _, err := ParseRequest(signContent(t, registrar, cms.OIDData, good)); err == nil || !strings.Contains(err.Error(), "1.2.840.113549.1.9.16.1.40, a voucher in JSON") {
		t.Errorf("plain data: got %v", err)
	}
	if _, err := ParseRequest(make([]byte, MaxSize+1)); err == nil || !strings.Contains(err.Error(), "at most 65536 are read") {
		t.Errorf("too large: got %v", err)
	}
	message := signContent(t, registrar, OID, good)
	if _, err := ParseRequest(bytes.Replace(message, []byte(`"serial-number":"1"`), []byte(`"serial-number":"2"`), 1)); !errors.Is(err, ErrSignature) {
		t.Errorf("changed content: got %v", err)
	}
}

func TestVoucherForm(t *testing.T) {
	root, _ := domain(t)
	cert := `"pinned-domain-cert":"` + base64.StdEncoding.EncodeToString(root.cert.Raw) + `"`
	full := `"created-on":"2026-03-01T12:00:00Z","serial-number":"1","assertion":"logged",` + cert
	tests := []struct{ name, inner, want string }{
		{"plain", full, ""},
		{"nonce and expiry, as others write", full + `,"nonce":"AAAAAAAAAAA=","expires-on":"2026-03-01T12:00:00Z"`, ""},
		{"without time", `"serial-number":"1","assertion":"logged",` + cert, "no created-on"},
		{"without assertion", `"created-on":"2026-03-01T12:00:00Z","serial-number":"1",` + cert, "is not known"},
		{"without certificate", `"created-on":"2026-03-01T12:00:00Z","serial-number":"1","assertion":"logged"`, "no pinned-domain-cert"},
		{"checks without expiry", full + `,"domain-cert-revocation-checks":true`, "without expires-on"},
		{"checks in quotes", full + `,"expires-on":"2026-03-01T12:00:00Z","domain-cert-revocation-checks":"true"`, "true or false"},
		{"checks null", full + `,"domain-cert-revocation-checks":null`, "true or false"},
		{"renewal without expiry", full + `,"last-renewal-date":"2026-03-01T12:00:00Z"`, "without expires-on"},
		{"field nobody knows", full + `,"est-domain":"https://est.example"`, ""},
		{"the same, twice", full + `,"est-domain":"1","est-domain":"2"`, "there twice"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := ParseVoucher(signContent(t, root, OID, `{"ietf-voucher:voucher":{`+tt.inner+`}}`))
			if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
}

func TestSignRefuses(t *testing.T) {
	root, registrar := domain(t)
	r, v := Request{SerialNumber: "1", Nonce: []byte("short")}, Voucher{SerialNumber: "1"}
	if _, err := r.Sign(registrar.key, registrar.cert, nil, rand.Reader); err == nil {
		t.Error("a request with a short nonce was signed")
	}
	if _, err := v.Sign(registrar.key, registrar.cert, nil, rand.Reader); err == nil {
		t.Error("a voucher without a certificate was signed")
	}
	r = Request{SerialNumber: "1"}
	if _, err := r.Sign(root.key, registrar.cert, nil, rand.Reader); err == nil {
		t.Error("signed with another's key")
	}
	r.PriorSigned = make([]byte, MaxSize)
	if _, err := r.Sign(registrar.key, registrar.cert, nil, rand.Reader); err == nil {
		t.Error("a request was signed that nobody would read")
	}
	r = Request{SerialNumber: "1", CreatedOn: time.Date(12000, 1, 1, 0, 0, 0, 0, time.UTC)}
	if _, err := r.Sign(registrar.key, registrar.cert, nil, rand.Reader); err == nil {
		t.Error("a time was written that nobody can read")
	}
}

// The chain is in order however it was carried; what does not belong to it is told apart; a roll-over of the root does not lengthen it.
func TestChain(t *testing.T) {
	root := issue(t, "root", nil, nil)
	middle := issue(t, "middle", root, nil)
	registrar := issue(t, "registrar", middle, func(c *x509.Certificate) { c.IsCA = false })
	impostor := issue(t, "middle", nil, nil)
	other := issue(t, "other root", nil, nil)
	link := issue(t, "root", other, nil)
	r := Request{SerialNumber: "1"}
	message, err := r.Sign(registrar.key, registrar.cert, []*x509.Certificate{impostor.cert, link.cert, root.cert, other.cert, middle.cert}, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	got, err := ParseRequest(message)
	if err != nil {
		t.Fatal(err)
	}
	if len(got.Chain) != 3 || !got.Chain[0].Equal(registrar.cert) || !got.Chain[1].Equal(middle.cert) || !got.Chain[2].Equal(root.cert) || len(got.Others) != 3 {
		t.Errorf("chain of %d, and %d others", len(got.Chain), len(got.Others))
	}
	above, last := []*x509.Certificate(nil), root
	for i := range MaxChain {
		last = issue(t, strings.Repeat("x", i+1), last, nil)
		above = append(above, last.cert)
	}
	if message, err = r.Sign(last.key, last.cert, above, rand.Reader); err == nil {
		_, err = ParseRequest(message)
	}
	if err != nil {
		t.Errorf("a chain of %d is refused: %v", MaxChain, err)
	}
	if message, err = r.Sign(last.key, last.cert, append(above, root.cert), rand.Reader); err != nil {
		t.Fatal(err)
	}
	if _, err = ParseRequest(message); err == nil {
		t.Errorf("a chain of more than %d is taken", MaxChain)
	}
}

// TestManyOfOneName: each certificate that may be the next of a chain costs the verification of a signature, which the sender chooses to be slow.
func TestManyOfOneName(t *testing.T) {
	root, registrar := domain(t)
	request := exampleRequest(registrar)
	for _, tt := range []struct {
		decoys int
		ok     bool
	}{{4, true}, {30, false}} {
		var above []*x509.Certificate
		if tt.ok {
			above = append(above, root.cert)
		}
		for range tt.decoys {
			above = append(above, issue(t, "root", nil, nil).cert)
		}
		message, err := request.Sign(registrar.key, registrar.cert, above, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := ParseRequest(message); (err == nil) != tt.ok || tt.ok && len(got.Chain) != 2 {
			t.Errorf("%d others of the root's name: got %v", tt.decoys, err)
		}
	}
}

func TestStatus(t *testing.T) {
	tests := []struct {
		in   string
		want *Status
	}{
		{`{"version": 1, "status":false, "reason":"Informative human readable message", "reason-context": { "additional" : "JSON" } }`,
			&Status{Version: 1, Reason: "Informative human readable message", ReasonContext: map[string]any{"additional": "JSON"}}},
		{`{"status":true,"version":2,"more":1,"Status":false}`, &Status{Version: 2, Status: true, Unknown: []string{"Status", "more"}}},
		{`{"status":true}`, nil}, {`{"version":1}`, nil}, {`{"version":0,"status":true}`, nil}, {`{"version":-1,"status":true}`, nil}, {`{"version":"1","status":true}`, nil},
		{`{"version":1,"status":"true"}`, nil}, {`{"version":1,"status":null}`, nil}, {`{"version":1,"status":1}`, nil}, {`{"version":1,"status":true,"status":false}`, nil},
		{`{"version":1,"status":true,"reason":7}`, nil}, {`{"version":1,"status":true,"reason-context":"text"}`, nil}, {``, nil}, {`[]`, nil},
		{`{"version":1,"status":true,"reason-context":{"a":` + strings.Repeat("[", maxDepth) + strings.Repeat("]", maxDepth) + `}}`, nil},
		{`{"version":1,"status":true,"reason":"` + strings.Repeat("x", MaxStatus) + `"}`, nil},
	}
	for _, tt := range tests {
		got, err := ParseStatus([]byte(tt.in))
		if tt.want == nil {
			if err == nil {
				t.Errorf("%.80s: taken as %+v", tt.in, got)
			}
			continue
		}
		if err != nil || !reflect.DeepEqual(got, *tt.want) {
			t.Errorf("%s: got %+v, %v, want %+v", tt.in, got, err, tt.want)
		}
	}
	out, err := Status{Status: true}.Encode()
	if want := `{"version":1,"status":true}`; err != nil || string(out) != want {
		t.Errorf("wrote %s, %v, want %s", out, err, want)
	}
	if _, err := (Status{Reason: strings.Repeat("x", MaxStatus)}).Encode(); err == nil {
		t.Error("a report was written that nobody would read")
	}
}

func TestAuditLog(t *testing.T) {
	l, err := ParseAuditLog([]byte(exampleLog))
	if err != nil {
		t.Fatal(err)
	}
	domainID, _ := base64.StdEncoding.DecodeString("BduJhdHPpfhQLyponf48JzXSGZ8=")
	want := AuditLog{Version: 1, Events: []Event{
		{Date: time.Date(2019, 5, 15, 21, 25, 55, 0, time.UTC), DomainID: domainID, Nonce: "VOUFT-WwrEv0NuAQEHoV7Q", Assertion: Proximity},
		{Date: time.Date(2017, 5, 15, 21, 25, 55, 0, time.UTC), DomainID: domainID, Nonce: "f4G6Vi1t8nKo/FieCVgpBg==", Assertion: Proximity},
	}, Truncation: Truncation{NoncelessDuplicates: 1, Arbitrary: 2}}
	if !reflect.DeepEqual(l, want) {
		t.Errorf("got %+v, want %+v", l, want)
	}
	out, err := AuditLog{Events: []Event{{Date: at, DomainID: []byte{1}, Assertion: Logged, Truncated: 3}, {Date: at, DomainID: []byte{1}, Nonce: NonceText([]byte("01234567")), Assertion: Logged}}}.Encode()
	if want := `{"version":1,"events":[{"date":"2026-03-01T12:00:00Z","domainID":"AQ==","nonce":null,"assertion":"logged","truncated":3},` +
		`{"date":"2026-03-01T12:00:00Z","domainID":"AQ==","nonce":"MDEyMzQ1Njc=","assertion":"logged"}]}`; err != nil || string(out) != want {
		t.Errorf("wrote %s, %v, want %s", out, err, want)
	}
	for _, in := range []string{``, `{}`, `{"version":1,"events":[]}`, `{"version":0,"events":[{"date":"2026-03-01T12:00:00Z","domainID":"AQ==","nonce":null,"assertion":"logged"}]}`,
		`{"version":1,"events":[{"date":"yesterday","domainID":"AQ==","nonce":null,"assertion":"logged"}]}`, `{"version":1,"events":[{"date":"2026-03-01T12:00:00Z","domainID":"","nonce":null,"assertion":"logged"}]}`,
		`{"version":1,"events":[{"date":"2026-03-01T12:00:00Z","domainID":"AQ==","nonce":"","assertion":"logged"}]}`, `{"version":1,"events":[{"date":"2026-03-01T12:00:00Z","domainID":"AQ==","nonce":null,"assertion":"x"}]}`,
		`{"version":1,"events":[{"date":"2026-03-01T12:00:00Z","domainID":"AQ==","nonce":null,"assertion":"logged","truncated":-1}]}`} {
		if l, err := ParseAuditLog([]byte(in)); err == nil {
			t.Errorf("%s: taken as %+v", in, l)
		}
	}
}

func TestCertificateNames(t *testing.T) {
	root, registrar := domain(t)
	if !bytes.Equal(DomainID(root.cert), root.cert.SubjectKeyId) {
		t.Error("the domain's name is not its subject key identifier")
	}
	sum := sha256.Sum256(registrar.cert.RawSubjectPublicKeyInfo)
	if !bytes.Equal(DomainID(registrar.cert), sum[:]) {
		t.Error("without an identifier the domain's name is not the digest of the key")
	}
	key := IDevIDIssuer(registrar.cert)
	if IDevIDIssuer(root.cert) != nil && !bytes.Equal(IDevIDIssuer(root.cert), root.cert.AuthorityKeyId) {
		t.Error("a root has an issuer")
	}
	extension := append([]byte{0x30, byte(len(key) + 2), 0x80, byte(len(key))}, key...)
	octets := func(in []byte) []byte { return append([]byte{4, byte(len(in))}, in...) }
	for _, issuer := range [][]byte{key, octets(key), extension, octets(extension)} {
		if !IsIDevIDIssuer(issuer, registrar.cert) {
			t.Errorf("%x is not taken for %x", issuer, key)
		}
	}
	for _, issuer := range [][]byte{nil, {1}, octets(octets(key)), key[1:]} {
		if IsIDevIDIssuer(issuer, registrar.cert) {
			t.Errorf("%x is taken for %x", issuer, key)
		}
	}
}

func TestMASAURL(t *testing.T) {
	for in, want := range map[string]string{
		"masa.example": "https://masa.example/.well-known/brski", "masa.example:9443": "https://masa.example:9443/.well-known/brski",
		"https://masa.example/v1/": "https://masa.example/v1", "https://masa.example": "https://masa.example/.well-known/brski", "[2001:db8::1]:9443": "https://[2001:db8::1]:9443/.well-known/brski",
		"http://masa.example": "", "": "", "https://user@masa.example": "", "masa.example?x": "", "ftp://x": "", "https://:443": "",
	} {
		value, err := asn1.MarshalWithParams(in, "ia5")
		if err != nil {
			t.Fatal(err)
		}
		idevid := &x509.Certificate{Extensions: []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 1, 32}, Value: value}}}
		got, err := MASAURL(idevid)
		if got != want || (err == nil) != (want != "") {
			t.Errorf("%q: got %q, %v, want %q", in, got, err, want)
		}
	}
	if _, err := MASAURL(&x509.Certificate{}); err != ErrNoMASA {
		t.Errorf("no extension: got %v", err)
	}
}
