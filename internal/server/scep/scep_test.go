package scep_test

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"mooring/internal/app/apptest"
	"mooring/internal/base/conf"
	"mooring/internal/core/device"
	"mooring/internal/core/revoke"
	"mooring/wire/cms"
	"mooring/wire/der"
	"mooring/wire/scep"
)

// rsaKeys are made once: they are slow to make.
var rsaKeys = sync.OnceValue(func() (keys [3]*rsa.PrivateKey) {
	for i := range keys {
		keys[i], _ = rsa.GenerateKey(rand.Reader, 2048)
	}
	return keys
})

func start(t *testing.T, profiles ...apptest.Profile) *apptest.Platform {
	t.Helper()
	return apptest.Start(t, func(c *conf.Config) { c.Listen.SCEP = "127.0.0.1:0"; c.Enrol.RetryAfter = time.Second },
		append(profiles, apptest.Variant("device", "printer", "scep: {ra: scep-ra}"))...)
}

// client speaks SCEP with the keys and certificate of a device.
type client struct {
	p       *apptest.Platform
	path    string
	key     crypto.Signer
	cert    *x509.Certificate // self-signed at first
	ra      *x509.Certificate
	cipher  cms.Cipher
	get     bool // messages go by GET
	nonce   []byte
	counter int
}

// newClient has a fresh self-signed certificate for its key and knows the registration authority's.
func newClient(t *testing.T, p *apptest.Platform, profile, name string, key crypto.Signer) *client {
	t.Helper()
	c := &client{p: p, path: "/scep/" + profile, key: key, cert: selfSigned(t, name, key)}
	for _, cert := range c.caCerts(t) {
		if cert.KeyUsage&x509.KeyUsageKeyEncipherment != 0 {
			c.ra = cert
		}
	}
	if c.ra == nil {
		t.Fatal("GetCACert tells no registration authority")
	}
	return c
}

func selfSigned(t *testing.T, name string, key crypto.Signer) *x509.Certificate {
	t.Helper()
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour)}
	raw, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(raw)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

// fetch returns what the server answers to a GET.
func (c *client) fetch(t *testing.T, query string) (status int, mediaType string, body []byte) {
	t.Helper()
	r, err := http.Get(c.p.Addresses().SCEP + c.path + "?" + query)
	if err != nil {
		t.Fatal(err)
	}
	return read(t, r)
}

func read(t *testing.T, r *http.Response) (status int, mediaType string, body []byte) {
	t.Helper()
	defer r.Body.Close()
	body, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	return r.StatusCode, r.Header.Get("Content-Type"), body
}

func (c *client) caCerts(t *testing.T) (certs []*x509.Certificate) {
	t.Helper()
	status, mediaType, body := c.fetch(t, "operation=GetCACert&message=any%20word")
	list, err := cms.ParseCertsOnly(body)
	if status != 200 || mediaType != scep.TypeCAChain || err != nil {
		t.Fatalf("GetCACert: %d, %s, %q, %v", status, mediaType, body, err)
	}
	for _, raw := range list {
		cert, err := x509.ParseCertificate(raw)
		if err != nil {
			t.Fatal(err)
		}
		certs = append(certs, cert)
	}
	return certs
}

// csr is a request for the client's name, with a challenge unless it is "".
func (c *client) csr(t *testing.T, key crypto.Signer, name, challenge string) []byte {
	t.Helper()
	return apptest.CSR(t, key, der.RequestSpec{Subject: []der.Attribute{{Type: der.OIDCommonName, Value: name}}, ChallengePassword: challenge})
}

// message builds a message of the client.
func (c *client) message(t *testing.T, kind scep.MessageType, transaction string, content []byte) []byte {
	t.Helper()
	c.counter++
	c.nonce = fmt.Appendf(nil, "nonce %d of %s", c.counter, t.Name())
	c.nonce = c.nonce[:min(16, len(c.nonce))]
	raw, err := scep.Build(scep.Input{Type: kind, Transaction: transaction, SenderNonce: c.nonce, Content: content, Recipient: c.ra, Cipher: c.cipher,
		Signer: c.key, Certificate: c.cert, Rand: rand.Reader})
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// post sends octets as a PKIOperation.
func (c *client) post(t *testing.T, raw []byte) (status int, mediaType string, body []byte) {
	t.Helper()
	if c.get {
		return c.fetch(t, "operation=PKIOperation&message="+url.QueryEscape(base64.StdEncoding.EncodeToString(raw)))
	}
	r, err := http.Post(c.p.Addresses().SCEP+c.path+"?operation=PKIOperation", scep.TypeMessage, bytes.NewReader(raw))
	if err != nil {
		t.Fatal(err)
	}
	return read(t, r)
}

// send sends a message and returns the answer, which must be one of the protocol, from the authority, about this transaction.
func (c *client) send(t *testing.T, kind scep.MessageType, transaction string, content []byte) *scep.Message {
	t.Helper()
	return c.answered(t, transaction, c.message(t, kind, transaction, content))
}

// refusals counts the answers that refuse. TestAcceptance compares it with the record.
var refusals atomic.Int64

func (c *client) answered(t *testing.T, transaction string, raw []byte) *scep.Message {
	t.Helper()
	status, mediaType, body := c.post(t, raw)
	if status != 200 || mediaType != scep.TypeMessage {
		t.Fatalf("got %d, %s, %q", status, mediaType, body)
	}
	m, err := scep.Parse(body)
	if err != nil {
		t.Fatalf("reading the answer: %v", err)
	}
	if m.Type != scep.CertRep || m.Transaction != transaction || !m.Signer.Equal(c.ra) || !bytes.Equal(m.RecipientNonce, c.nonce) {
		t.Errorf("the answer is a %s about %q by %s to the nonce %q, want one about %q to %q", m.Type, m.Transaction, m.Signer.Subject, m.RecipientNonce, transaction, c.nonce)
	}
	if m.Status == scep.Failure {
		refusals.Add(1)
	}
	if len(m.SenderNonce) != scep.NonceSize || bytes.Equal(m.SenderNonce, c.nonce) {
		t.Errorf("the answer's own nonce is %x", m.SenderNonce)
	}
	return m
}

// certificate opens an answer with a certificate.
func (c *client) certificate(t *testing.T, m *scep.Message) *x509.Certificate {
	t.Helper()
	if m.Status != scep.Success {
		t.Fatalf("status %d, %s: %s", m.Status, m.FailInfo, m.FailText)
	}
	content, err := m.Open(scep.OpenKey{Certificate: c.cert, Key: c.key.(crypto.Decrypter), TripleDES: c.cipher == cms.TripleDESCBC, Rand: rand.Reader})
	if err != nil {
		t.Fatal(err)
	}
	want := c.cipher
	if want == 0 {
		want = cms.AES128CBC
	}
	if m.Cipher() != want {
		t.Errorf("the answer is in cipher %d, want %d", m.Cipher(), want)
	}
	certs, err := cms.ParseCertsOnly(content)
	if err != nil || len(certs) != 1 {
		t.Fatalf("%d certificates, %v", len(certs), err)
	}
	cert, err := x509.ParseCertificate(certs[0])
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

// refused checks an answer that refuses.
func refused(t *testing.T, m *scep.Message, why scep.FailInfo, text string) {
	t.Helper()
	if m.Status != scep.Failure || m.FailInfo != why || !strings.Contains(m.FailText, text) {
		t.Errorf("status %d, %s: %q, want a failure, %s: %q", m.Status, m.FailInfo, m.FailText, why, text)
	}
}

// enrolled gets a new device its first certificate, which the client then signs with.
func enrolled(t *testing.T, p *apptest.Platform, profile, name string, key *rsa.PrivateKey) *client {
	t.Helper()
	_, token := p.Device(t, name, profile)
	c := newClient(t, p, profile, name, key)
	c.cert = c.certificate(t, c.send(t, scep.PKCSReq, "first of "+name, c.csr(t, key, name, token)))
	return c
}

func issuerOf(t *testing.T, p *apptest.Platform, name string) *x509.Certificate {
	t.Helper()
	issuer, err := p.CA.Issuer(name)
	if err != nil {
		t.Fatal(err)
	}
	return issuer.Certificate()
}

// resigned changes the encrypted content of a message and signs it anew, as everybody can who has a key.
func (c *client) resigned(t *testing.T, raw []byte, change func(content []byte)) []byte {
	t.Helper()
	return c.signedAnew(t, raw, func(content []byte) []byte { change(content); return content })
}

func (c *client) signedAnew(t *testing.T, raw []byte, change func(content []byte) []byte) []byte {
	t.Helper()
	signed, err := cms.ParseSigned(raw)
	if err != nil {
		t.Fatal(err)
	}
	content := change(bytes.Clone(signed.Content))
	var attributes []cms.Attribute
	for _, a := range signed.Signers[0].Attributes {
		if !a.Type.Equal(cms.OIDContentType) && !a.Type.Equal(cms.OIDMessageDigest) {
			attributes = append(attributes, a)
		}
	}
	raw, err = cms.Sign(cms.SignInput{ContentType: cms.OIDData, Content: content, Signer: c.key, Certificate: c.cert, Attributes: attributes, Rand: rand.Reader})
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// algorithm puts one object identifier in the place of another.
func algorithm(t *testing.T, raw []byte, from, to der.OID) (out []byte) {
	t.Helper()
	for rest := raw; len(rest) > 0; {
		var v asn1.RawValue
		var err error
		if rest, err = asn1.Unmarshal(rest, &v); err != nil {
			t.Fatal(err)
		}
		switch {
		case v.IsCompound:
			v.Bytes = algorithm(t, v.Bytes, from, to)
		case v.Class == asn1.ClassUniversal && v.Tag == asn1.TagOID && string(v.Bytes) == string(from):
			v.Bytes = []byte(to)
		}
		out = der.AppendElement(out, v.FullBytes[0], v.Bytes)
	}
	return out
}

// pollOf is what a CertPoll asks about.
func pollOf(t *testing.T, c *client, csr []byte) []byte {
	t.Helper()
	r, err := der.ParseRequest(csr)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := scep.IssuerAndSubject{Issuer: c.ra.RawIssuer, Subject: r.RawSubject}.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func serialOf(t *testing.T, cert *x509.Certificate) []byte {
	t.Helper()
	raw, err := scep.IssuerAndSerial{Issuer: cert.RawIssuer, Serial: cert.SerialNumber}.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// turning is the profile printer under another name and with other CAs.
func turning(name, issuers string) apptest.Profile {
	v := apptest.Variant("device", name, "scep: {ra: scep-ra}")
	v.YAML = strings.Replace(v.YAML, "issuer: devices", issuers, 1)
	return v
}

// TestAcceptance has one row for each case of SCEP's acceptance list.
func TestAcceptance(t *testing.T) {
	p := start(t, apptest.Variant("device", "old-printer", "scep: {ra: scep-ra, triple_des: true}"), apptest.Variant("device", "approved", "approval: required", "scep: {ra: scep-ra}"))
	keys := rsaKeys()
	one, two := keys[0], keys[1]
	var spent string // a token that was sent
	values := map[scep.FailInfo]bool{}
	refused := func(t *testing.T, m *scep.Message, why scep.FailInfo, text string) {
		t.Helper()
		refused(t, m, why, text)
		values[m.FailInfo] = true
	}
	refusals.Store(0)

	t.Run("GetCACaps", func(t *testing.T) {
		c := &client{p: p, path: "/scep/printer"}
		status, mediaType, body := c.fetch(t, "operation=GetCACaps&message=0")
		if status != 200 || mediaType != "text/plain" || string(body) != "AES\nPOSTPKIOperation\nRenewal\nSHA-256\nSHA-384\nSHA-512\nSCEPStandard\n" {
			t.Errorf("got %d, %s, %q", status, mediaType, body)
		}
	})
	t.Run("GetCACert, chain", func(t *testing.T) {
		certs := (&client{p: p, path: "/scep/printer"}).caCerts(t)
		var subjects []string
		for _, c := range certs {
			subjects = append(subjects, c.Subject.CommonName)
		}
		if len(certs) != 3 || !slices.ContainsFunc(certs, func(c *x509.Certificate) bool { return c.Equal(p.Root) }) {
			t.Errorf("got %v, want the authority, the issuing CA and the root", subjects)
		}
	})
	// RFC 8894, section 4.2.1.1, has one certificate alone for a CA that answers itself. Here the RA answers always, so a client must get two at the least, in
	// the other form; one alone, under its own media type, would have it encrypt for a key that cannot decrypt.
	t.Run("GetCACert, single", func(t *testing.T) {
		for _, word := range []string{"", "&message=devices", "&message=0"} {
			status, mediaType, body := (&client{p: p, path: "/scep/printer"}).fetch(t, "operation=GetCACert"+word)
			if _, err := x509.ParseCertificate(body); status != 200 || mediaType == "application/x-x509-ca-cert" || mediaType != scep.TypeCAChain || err == nil {
				t.Errorf("%q: got %d, %s, %v", word, status, mediaType, err)
			}
		}
	})
	t.Run("RSA RA certificate beside EC issuer", func(t *testing.T) {
		c := newClient(t, p, "printer", "x", one)
		issuer, err := p.CA.Issuer("devices")
		if err != nil {
			t.Fatal(err)
		}
		if _, ok := c.ra.PublicKey.(*rsa.PublicKey); !ok || c.ra.CheckSignatureFrom(issuer.Certificate()) != nil || issuer.Certificate().PublicKeyAlgorithm != x509.ECDSA {
			t.Errorf("the authority has a key of type %T", c.ra.PublicKey)
		}
	})
	t.Run("GetNextCACert", func(t *testing.T) {
		if status, _, body := (&client{p: p, path: "/scep/printer"}).fetch(t, "operation=GetNextCACert"); status != 404 || !strings.Contains(string(body), "no other CA is due") {
			t.Errorf("got %d, %q", status, body)
		}
	})
	t.Run("profile without SCEP", func(t *testing.T) {
		for _, path := range []string{"/scep/device", "/scep", "/cgi-bin/pkiclient.exe"} {
			if status, _, body := (&client{p: p, path: path}).fetch(t, "operation=GetCACaps"); status != 404 || !strings.Contains(string(body), "not served by SCEP") {
				t.Errorf("%s: got %d, %q", path, status, body)
			}
		}
	})
	t.Run("unknown profile and operation", func(t *testing.T) {
		for query, path := range map[string]string{"operation=GetCACaps": "/scep/nosuch", "operation=Nonsense": "/scep/printer", "": "/scep/printer"} {
			if status, _, body := (&client{p: p, path: path}).fetch(t, query); status != 404 && status != 400 {
				t.Errorf("%s?%s: got %d, %q", path, query, status, body)
			}
		}
	})

	t.Run("POST PKIOperation", func(t *testing.T) {
		c := enrolled(t, p, "printer", "by-post", one)
		if c.cert.Subject.CommonName != "by-post" || c.cert.CheckSignatureFrom(issuerOf(t, p, "devices")) != nil {
			t.Errorf("got the certificate of %s", c.cert.Subject)
		}
	})
	t.Run("GET PKIOperation", func(t *testing.T) {
		_, token := p.Device(t, "by-get", "printer")
		c := newClient(t, p, "printer", "by-get", one)
		c.get = true
		c.certificate(t, c.send(t, scep.PKCSReq, "1", c.csr(t, one, "by-get", token)))
	})
	t.Run("GET with unescaped base64", func(t *testing.T) {
		_, token := p.Device(t, "by-raw-get", "printer")
		c := newClient(t, p, "printer", "by-raw-get", one)
		raw := c.message(t, scep.PKCSReq, "1", c.csr(t, one, "by-raw-get", token))
		_, _, body := c.fetch(t, "operation=PKIOperation&message="+base64.StdEncoding.EncodeToString(raw))
		m, err := scep.Parse(body)
		if err != nil {
			t.Fatalf("%v: %q", err, body)
		}
		c.certificate(t, m)
	})
	t.Run("inner AES-128/256 only, in requests and answers", func(t *testing.T) {
		for _, cipher := range []cms.Cipher{cms.AES128CBC, cms.AES256CBC} {
			name := fmt.Sprintf("aes-%d", cipher)
			_, token := p.Device(t, name, "printer")
			c := newClient(t, p, "printer", name, one)
			c.cipher = cipher
			c.certificate(t, c.send(t, scep.PKCSReq, "1", c.csr(t, one, name, token)))
		}
	})
	t.Run("3DES by switch", func(t *testing.T) {
		for _, profile := range []string{"printer", "old-printer"} {
			name := "des3-" + profile
			_, token := p.Device(t, name, profile)
			c := newClient(t, p, profile, name, one)
			c.cipher = cms.TripleDESCBC
			m := c.send(t, scep.PKCSReq, "1", c.csr(t, one, name, token))
			if profile == "printer" {
				refused(t, m, scep.BadAlg, "not encrypted by AES")
				continue
			}
			c.certificate(t, m)
		}
	})
	t.Run("DES never", func(t *testing.T) {
		c := newClient(t, p, "old-printer", "des", one)
		raw := c.message(t, scep.PKCSReq, "1", c.csr(t, one, "des", "x"))
		const aes128, des = der.OID("\x60\x86\x48\x01\x65\x03\x04\x01\x02"), der.OID("\x2b\x0e\x03\x02\x07") // in CBC
		m := c.answered(t, "1", c.signedAnew(t, raw, func(content []byte) []byte {
			changed := algorithm(t, content, aes128, des)
			if bytes.Equal(changed, content) {
				t.Fatal("the message names no AES-128-CBC")
			}
			return changed
		}))
		refused(t, m, scep.BadAlg, "not encrypted by AES")
	})
	t.Run("BER of CMS is read, of the request inside is not", func(t *testing.T) {
		indefinite := func(der []byte) []byte { return append(append([]byte{0x30, 0x80}, der[4:]...), 0, 0) }
		_, token := p.Device(t, "ber", "printer")
		c := newClient(t, p, "printer", "ber", one)
		csr := c.csr(t, one, "ber", token)
		refused(t, c.send(t, scep.PKCSReq, "1", indefinite(csr)), scep.BadMessageCheck, "cannot be opened, or is not what its type says")
		c.certificate(t, c.answered(t, "2", indefinite(c.message(t, scep.PKCSReq, "2", csr))))
	})
	t.Run("own fresh senderNonce, recipientNonce echoed", func(t *testing.T) {
		_, token := p.Device(t, "nonces", "printer")
		c := newClient(t, p, "printer", "nonces", one)
		raw := c.message(t, scep.PKCSReq, "1", c.csr(t, one, "nonces", token))
		first, second := c.answered(t, "1", raw), c.answered(t, "1", raw) // which compares theirs
		if bytes.Equal(first.SenderNonce, second.SenderNonce) {
			t.Errorf("both answers have the nonce %x", first.SenderNonce)
		}
	})
	t.Run("OpenSSL 3 without legacy provider can read the answer", func(t *testing.T) {
		_, token := p.Device(t, "openssl", "printer")
		c := newClient(t, p, "printer", "openssl", one)
		_, _, body := c.post(t, c.message(t, scep.PKCSReq, "1", c.csr(t, one, "openssl", token)))
		dir := t.TempDir()
		private, err := x509.MarshalPKCS8PrivateKey(one)
		if err != nil {
			t.Fatal(err)
		}
		for name, octets := range map[string][]byte{"answer": body, "key": pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}), "cert": pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.cert.Raw})} {
			if err := os.WriteFile(filepath.Join(dir, name), octets, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		openssl := exec.Command("sh", "-euc", `openssl cms -verify -inform DER -in answer -noverify -binary -out envelope
openssl cms -decrypt -inform DER -in envelope -recip cert -inkey key -binary -out certs
openssl pkcs7 -inform DER -in certs -print_certs -noout`)
		openssl.Dir = dir
		if out, err := openssl.CombinedOutput(); err != nil || !strings.Contains(strings.ReplaceAll(string(out), " ", ""), "CN=openssl") {
			t.Errorf("%v: %s", err, out)
		}
	})
	t.Run("challenge absent", func(t *testing.T) {
		p.Device(t, "no-challenge", "printer")
		c := newClient(t, p, "printer", "no-challenge", one)
		refused(t, c.send(t, scep.PKCSReq, "1", c.csr(t, one, "no-challenge", "")), scep.BadRequest, "token")
	})
	t.Run("challenge wrong", func(t *testing.T) {
		p.Device(t, "wrong-challenge", "printer")
		_, other := p.Device(t, "other", "printer")
		c := newClient(t, p, "printer", "wrong-challenge", one)
		refused(t, c.send(t, scep.PKCSReq, "1", c.csr(t, one, "wrong-challenge", "secret")), scep.BadRequest, "token")
		refused(t, c.send(t, scep.PKCSReq, "2", c.csr(t, one, "wrong-challenge", other)), scep.BadRequest, "unknown or the token is wrong")
	})
	t.Run("challenge reused, same request: same certificate", func(t *testing.T) {
		_, token := p.Device(t, "reused", "printer")
		spent = token
		c := newClient(t, p, "printer", "reused", one)
		csr := c.csr(t, one, "reused", token)
		first := c.certificate(t, c.send(t, scep.PKCSReq, "1", csr))
		if again := c.certificate(t, c.send(t, scep.PKCSReq, "2", csr)); !again.Equal(first) {
			t.Error("the same request led to another certificate")
		}
		thief := newClient(t, p, "printer", "reused", two)
		refused(t, thief.send(t, scep.PKCSReq, "3", thief.csr(t, two, "reused", token)), scep.BadRequest, "used")
	})
	t.Run("challenge per device, with its name", func(t *testing.T) {
		_, token := p.Device(t, "named", "printer")
		c := newClient(t, p, "printer", "anything", one)
		csr := apptest.CSR(t, one, der.RequestSpec{ChallengePassword: "named:" + token})
		if cert := c.certificate(t, c.send(t, scep.PKCSReq, "1", csr)); cert.Subject.CommonName != "named" {
			t.Errorf("got the certificate of %s", cert.Subject)
		}
	})
	t.Run("signed with another key than the request's", func(t *testing.T) {
		_, token := p.Device(t, "two-keys", "printer")
		c := newClient(t, p, "printer", "two-keys", one)
		refused(t, c.send(t, scep.PKCSReq, "1", c.csr(t, two, "two-keys", token)), scep.BadRequest, "another key")
	})
	t.Run("EC client key refused cleanly", func(t *testing.T) {
		d, token := p.Device(t, "elliptic", "printer")
		ec := apptest.Key(t)
		c := newClient(t, p, "printer", "elliptic", ec)
		refused(t, c.send(t, scep.PKCSReq, "1", c.csr(t, ec, "elliptic", token)), scep.BadAlg, "RSA keys only")
		if p.Load(t, d.ID).Token.Used != 0 {
			t.Error("the token was used up")
		}
	})
	t.Run("transactionID with odd characters", func(t *testing.T) {
		for i, id := range []string{"a+/b==", "00:11:22", "urn:x y'()?", strings.Repeat("f", 200)} {
			name := fmt.Sprintf("odd-%d", i)
			_, token := p.Device(t, name, "printer")
			c := newClient(t, p, "printer", name, one)
			c.certificate(t, c.send(t, scep.PKCSReq, id, c.csr(t, one, name, token)))
		}
	})
	t.Run("PENDING and CertPoll", func(t *testing.T) {
		_, token := p.Device(t, "patient", "approved")
		c := newClient(t, p, "approved", "patient", one)
		csr := c.csr(t, one, "patient", token)
		if m := c.send(t, scep.PKCSReq, "7", csr); m.Status != scep.Pending {
			t.Fatalf("status %d: %s", m.Status, m.FailText)
		}
		subject := pollOf(t, c, csr)
		if m := c.send(t, scep.CertPoll, "7", subject); m.Status != scep.Pending {
			t.Fatalf("polled: status %d: %s", m.Status, m.FailText)
		}
		t.Run("transactionID reuse with another request", func(t *testing.T) {
			refused(t, c.send(t, scep.PKCSReq, "7", c.csr(t, one, "patient", "patient:"+token)), scep.BadRequest, "another request")
		})
		refused(t, c.send(t, scep.CertPoll, "8", subject), scep.BadCertID, "send it again")
		stranger := newClient(t, p, "approved", "patient", two)
		refused(t, stranger.send(t, scep.CertPoll, "7", subject), scep.BadCertID, "send it again")
		if _, err := p.Enrol.Decide(t.Context(), apptest.Operator(), "patient", "", true); err != nil {
			t.Fatal(err)
		}
		c.certificate(t, c.send(t, scep.CertPoll, "7", subject))
		refused(t, c.send(t, scep.CertPoll, "7", subject), scep.BadCertID, "send it again")
		c.certificate(t, c.send(t, scep.PKCSReq, "9", csr)) // after a lost answer
	})
	t.Run("renewal by the old certificate without challenge", func(t *testing.T) {
		c := enrolled(t, p, "printer", "renewing", one)
		next := c.certificate(t, c.send(t, scep.RenewalReq, "2", c.csr(t, two, "renewing", "")))
		if next.Equal(c.cert) || !two.PublicKey.Equal(next.PublicKey) {
			t.Error("the renewal gave no new certificate for the new key")
		}
		// An older kind of client says PKCSReq, and one may leave its old challenge in.
		if !slices.EqualFunc(next.URIs, c.cert.URIs, func(a, b *url.URL) bool { return *a == *b }) {
			t.Errorf("the names %v became %v", c.cert.URIs, next.URIs)
		}
		c.cert, c.key = next, two
		third := c.certificate(t, c.send(t, scep.PKCSReq, "3", c.csr(t, keys[2], "renewing", "mt_anything")))
		if third.Equal(next) {
			t.Error("the second renewal gave no new certificate")
		}
	})
	t.Run("renewal with a self-signed certificate", func(t *testing.T) {
		c := newClient(t, p, "printer", "renewing", one)
		refused(t, c.send(t, scep.RenewalReq, "1", c.csr(t, one, "renewing", "")), scep.BadRequest, "key of the certificate that is renewed")
	})
	t.Run("renewal with a forged certificate", func(t *testing.T) {
		c := enrolled(t, p, "printer", "forged", one)
		template := *c.cert
		template.SignatureAlgorithm = 0
		parent := *issuerOf(t, p, "devices")
		raw, err := x509.CreateCertificate(rand.Reader, &template, &parent, &two.PublicKey, keys[2])
		if err == nil { // Go compares the parent's key with the signer's
			t.Fatalf("made %x", raw)
		}
		parent.PublicKey = &keys[2].PublicKey
		if raw, err = x509.CreateCertificate(rand.Reader, &template, &parent, &two.PublicKey, keys[2]); err != nil {
			t.Fatal(err)
		}
		if c.cert, err = x509.ParseCertificate(raw); err != nil {
			t.Fatal(err)
		}
		c.key = two
		refused(t, c.send(t, scep.RenewalReq, "1", c.csr(t, two, "forged", "")), scep.BadRequest, "neither issued here nor registered")
	})
	t.Run("renewal of a revoked certificate", func(t *testing.T) {
		c := enrolled(t, p, "printer", "revoked", one)
		if _, err := p.Revoke.Certificate(t.Context(), apptest.Operator(), c.cert.SerialNumber.Bytes(), revoke.Superseded); err != nil {
			t.Fatal(err)
		}
		refused(t, c.send(t, scep.RenewalReq, "1", c.csr(t, two, "revoked", "")), scep.BadRequest, "revoked")
	})
	t.Run("renewal under another name", func(t *testing.T) {
		c := enrolled(t, p, "printer", "renamed", one)
		refused(t, c.send(t, scep.RenewalReq, "1", c.csr(t, two, "somebody-else", "")), scep.BadRequest, "")
	})
	t.Run("suspended device", func(t *testing.T) {
		c := enrolled(t, p, "printer", "suspended", one)
		id, _ := p.Devices.IDOf("suspended")
		if _, err := p.Revoke.Device(t.Context(), apptest.Operator(), id, device.Suspend, revoke.CertificateHold); err != nil {
			t.Fatal(err)
		}
		refused(t, c.send(t, scep.RenewalReq, "1", c.csr(t, two, "suspended", "")), scep.BadRequest, "hold")
	})
	t.Run("GetCert", func(t *testing.T) {
		c := enrolled(t, p, "printer", "asking", one)
		other := enrolled(t, p, "printer", "asked", two)
		if got := c.certificate(t, c.send(t, scep.GetCert, "1", serialOf(t, c.cert))); !got.Equal(c.cert) {
			t.Errorf("got the certificate %x", got.SerialNumber)
		}
		refused(t, c.send(t, scep.GetCert, "2", serialOf(t, other.cert)), scep.BadCertID, "no such certificate of this device")
		c.cert = selfSigned(t, "asking", one)
		refused(t, c.send(t, scep.GetCert, "3", serialOf(t, other.cert)), scep.BadRequest, "neither issued here")
	})
	t.Run("GetCRL", func(t *testing.T) {
		c := enrolled(t, p, "printer", "checking", one)
		m := c.send(t, scep.GetCRL, "1", serialOf(t, c.cert))
		if m.Status != scep.Success {
			t.Fatalf("%s: %s", m.FailInfo, m.FailText)
		}
		content, err := m.Open(scep.OpenKey{Certificate: c.cert, Key: one, Rand: rand.Reader})
		if err != nil {
			t.Fatal(err)
		}
		issuer, err := p.CA.Issuer("devices")
		if err != nil {
			t.Fatal(err)
		}
		list, err := p.Revoke.CRL(t.Context(), issuer.ID(), issuer.Shard(c.cert.SerialNumber.Bytes()))
		if err != nil || !bytes.Contains(content, list.DER) {
			t.Errorf("the list %d is not in the answer, %v", list.Number, err)
		}
		unknown := *c.cert
		unknown.SerialNumber = big.NewInt(4711)
		refused(t, c.send(t, scep.GetCRL, "2", serialOf(t, &unknown)), scep.BadCertID, "no certificate of this serial number")
	})
	t.Run("padding-oracle-safe errors", func(t *testing.T) {
		c := newClient(t, p, "printer", "oracle", one)
		good := c.message(t, scep.PKCSReq, "1", c.csr(t, one, "oracle", "x"))
		seen := map[string]int{}
		for i := range 24 {
			m := c.answered(t, "1", c.resigned(t, good, func(content []byte) {
				content[len(content)-1-i*3] ^= 0x55 // in the ciphertext, and in the key further before
				content[len(content)/3+i] ^= 0x01
			}))
			seen[fmt.Sprintf("%d %s %s", m.Status, m.FailInfo, m.FailText)]++
		}
		if len(seen) != 1 {
			t.Errorf("got different answers: %v", seen)
		}
		for text := range seen {
			if !strings.HasPrefix(text, "2 badMessageCheck") {
				t.Errorf("got %s", text)
			}
		}
	})
	t.Run("a stranger learns nothing about another's message", func(t *testing.T) {
		for _, profile := range []string{"printer", "old-printer"} {
			victim := newClient(t, p, profile, "victim", one)
			victim.cipher = cms.AES128CBC
			if profile == "old-printer" {
				victim.cipher = cms.TripleDESCBC
			}
			sniffed := victim.message(t, scep.PKCSReq, "1", victim.csr(t, one, "victim", "a secret"))
			stranger := newClient(t, p, profile, "nobody", two)
			stranger.nonce = victim.nonce
			seen := map[string]int{}
			for guess := range 256 { // one of them gives the last block a good padding
				m := stranger.answered(t, "1", stranger.resigned(t, sniffed, func(content []byte) { content[len(content)-17] ^= byte(guess) | 1 }))
				seen[fmt.Sprintf("%d %s %s", m.Status, m.FailInfo, m.FailText)]++
			}
			if len(seen) != 1 {
				t.Errorf("%s: got different answers: %v", profile, seen)
			}
		}
	})
	t.Run("unknown type of message", func(t *testing.T) {
		c := newClient(t, p, "printer", "nobody", one)
		good := c.message(t, 99, "1", c.csr(t, one, "nobody", "x"))
		refused(t, c.answered(t, "1", good), scep.BadRequest, "cannot send")
		refused(t, c.answered(t, "1", c.resigned(t, good, func(content []byte) { content[len(content)-1] ^= 1 })), scep.BadRequest, "cannot send")
	})
	t.Run("signature wrong, before anything is looked up", func(t *testing.T) {
		_, token := p.Device(t, "bad-signature", "printer")
		c := newClient(t, p, "printer", "bad-signature", one)
		raw := c.message(t, scep.PKCSReq, "1", c.csr(t, one, "bad-signature", token))
		raw[len(raw)-9] ^= 1
		refused(t, c.answered(t, "1", raw), scep.BadMessageCheck, "does not verify")
	})
	t.Run("message types of a server", func(t *testing.T) {
		c := newClient(t, p, "printer", "odd-type", one)
		refused(t, c.send(t, 18, "1", []byte("x")), scep.BadRequest, "cannot send")
	})
	t.Run("body over the limit", func(t *testing.T) {
		c := &client{p: p, path: "/scep/printer"}
		status, _, body := c.post(t, make([]byte, scep.MaxRequest+1))
		if status != http.StatusRequestEntityTooLarge {
			t.Errorf("got %d, %q", status, body)
		}
		refusals.Add(1)
	})
	t.Run("not a message", func(t *testing.T) {
		c := &client{p: p, path: "/scep/printer"}
		for _, raw := range []string{"", "nonsense", "\x30\x00"} {
			if status, _, body := c.post(t, []byte(raw)); status != 400 || !strings.Contains(string(body), "not a SCEP message") {
				t.Errorf("%q: got %d, %q", raw, status, body)
			} else {
				refusals.Add(1)
			}
		}
		status, _, body := c.fetch(t, "operation=PKIOperation&message=%25")
		if status != 400 || !strings.Contains(string(body), "not base64") {
			t.Errorf("got %d, %q", status, body)
		}
		refusals.Add(1)
	})
	t.Run("trailing bytes after DER", func(t *testing.T) {
		c := newClient(t, p, "printer", "trailing", one)
		csr := c.csr(t, one, "trailing", "x")
		if status, _, body := c.post(t, append(c.message(t, scep.PKCSReq, "1", csr), 0)); status != 400 || !strings.Contains(string(body), "not a SCEP message") {
			t.Errorf("got %d, %q", status, body)
		}
		refusals.Add(1)
		refused(t, c.send(t, scep.PKCSReq, "1", append(csr, 0)), scep.BadMessageCheck, "cannot be opened, or is not what its type says")
	})
	t.Run("failInfo values", func(t *testing.T) {
		// badTime is about a signing time (RFC 8894, section 3.2.1.4.4), which nobody is asked for: many of these devices have no clock.
		for value, number := range map[scep.FailInfo]int{scep.BadAlg: 0, scep.BadMessageCheck: 1, scep.BadRequest: 2, scep.BadCertID: 4} {
			if !values[value] || int(value) != number {
				t.Errorf("%s, which is %d, was given: %v, want %d", value, value, values[value], number)
			}
		}
	})
	t.Run("audit entry on every refusal", func(t *testing.T) {
		p.Restart(t) // those that are like others are counted, and the count is recorded every minute and at the end
		recorded := int64(0)
		for _, e := range p.Record(t) {
			if e.Action == "enrol.refuse" {
				more, _ := strconv.ParseInt(e.Detail["count"], 10, 64)
				recorded += max(1, more)
			}
		}
		if recorded != refusals.Load() {
			t.Errorf("the record tells of %d refusals, want %d", recorded, refusals.Load())
		}
		text := fmt.Sprint(p.Record(t))
		if spent == "" || strings.Contains(p.Log.String(), spent) || strings.Contains(text, spent) {
			t.Error("a token stands in the log or the record")
		}
	})
}

// TestAuthority: its key and certificate outlive a restart, and a revoked certificate is replaced at the next start.
func TestAuthority(t *testing.T) {
	p := start(t)
	before := newClient(t, p, "printer", "x", rsaKeys()[0]).ra
	p.Restart(t)
	if after := newClient(t, p, "printer", "x", rsaKeys()[0]).ra; !after.Equal(before) {
		t.Error("the authority has another certificate after a restart")
	}
	if _, err := p.Revoke.Certificate(t.Context(), apptest.Operator(), before.SerialNumber.Bytes(), revoke.Superseded); err != nil {
		t.Fatal(err)
	}
	p.Restart(t)
	_, token := p.Device(t, "later", "printer")
	c := newClient(t, p, "printer", "later", rsaKeys()[0])
	if c.ra.Equal(before) {
		t.Error("the authority goes on with a revoked certificate")
	}
	// What is encrypted for the certificate before is still read, as that of another node would be.
	now := c.ra
	c.ra = before
	raw := c.message(t, scep.PKCSReq, "1", c.csr(t, rsaKeys()[0], "later", token))
	c.ra = now
	c.certificate(t, c.answered(t, "1", raw))
}
