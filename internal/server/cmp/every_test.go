package cmp_test

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	agentacme "mooring/agent/acme"
	"mooring/agent/coap"
	"mooring/internal/app/apptest"
	"mooring/internal/base/conf"
	"mooring/internal/base/port"
	"mooring/internal/core/device"
	"mooring/wire/acme"
	"mooring/wire/cmp"
	"mooring/wire/cms"
	wire "mooring/wire/coap"
	"mooring/wire/der"
	"mooring/wire/scep"
)

// way is a protocol by which a device asks, and what a request of that device has that would be granted.
type way struct {
	name string
	key  crypto.Signer
	spec der.RequestSpec
	ask  func(t *testing.T, csr []byte) (granted bool, said string)
}

// bend makes the request of a row out of a good one.
type bend func(t *testing.T, w *way) []byte

// spec makes a request whose specification was changed.
func spec(change func(*der.RequestSpec)) bend {
	return func(t *testing.T, w *way) []byte {
		s := w.spec
		change(&s)
		return apptest.CSR(t, w.key, s)
	}
}

func extension(list ...der.Extension) bend {
	return spec(func(s *der.RequestSpec) { s.Extensions = list })
}

// names makes a request with one more alternative name of any octets.
func names(more []byte) bend {
	return func(t *testing.T, w *way) []byte {
		own, err := der.BuildAltNames(w.spec.Names)
		if err != nil {
			t.Fatal(err)
		}
		var list asn1.RawValue
		if _, err := asn1.Unmarshal(own, &list); err != nil {
			t.Fatal(err)
		}
		s := w.spec
		s.Names, s.Extensions = der.AltNames{}, []der.Extension{{OID: der.OIDSubjectAltName, Value: join(list.Bytes, more)}}
		return apptest.CSR(t, w.key, s)
	}
}

// weak makes a request for a public key that is none of the device's; it is refused before its signature is looked at.
func weak(spki []byte) bend { return spec(func(s *der.RequestSpec) { s.SPKI = spki }) }

func rsaSPKI(n *big.Int, e int) []byte {
	out, err := x509.MarshalPKIXPublicKey(&rsa.PublicKey{N: n, E: e})
	if err != nil {
		panic(err) // the tests' numbers can be written
	}
	return out
}

func p192() []byte {
	return append([]byte("\x30\x49\x30\x13\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x01\x03\x32\x00\x04"), make([]byte, 48)...)
}

// TestEveryProtocol has the rows of the list for all protocols that are about what is asked for and about who asks, by each protocol but EST, whose own tests have
// them. Every one of them can carry a request of PKCS #10. In the end each request is made as it should be, and granted: so the rows failed for no other reason.
func TestEveryProtocol(t *testing.T) {
	known, err := rsa.GenerateKey(rand.Reader, 2048) // whose private half everybody can find
	if err != nil {
		t.Fatal(err)
	}
	addresses, err := port.Free(1)
	if err != nil {
		t.Fatal(err)
	}
	p := apptest.Start(t, func(c *conf.Config) {
		c.Listen.CMP, c.Listen.COAPS, c.Listen.SCEP, c.Listen.ACME = "127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:0", addresses[0].String()
		c.PublicURLs.ACME = "https://" + c.Listen.ACME
		c.Enrol.WeakKeys = filepath.Join(t.TempDir(), "blacklist.RSA-2048")
		print := sha1.Sum(fmt.Appendf(nil, "Modulus=%X\n", known.N))
		if err := os.WriteFile(c.Enrol.WeakKeys, fmt.Appendf(nil, "# of openssl-blacklist\n%x\n", print[10:]), 0o600); err != nil {
			t.Fatal(err)
		}
	}, apptest.Variant("gateway", "anything", "keys: [ec-p256, rsa-2048]", "evidence: [token, operational, account]", "acme: trust-account", "scep: {ra: scep-ra}"))
	ways := []*way{byACME(t, p), byCMP(t, p), bySCEP(t, p), byCoAP(t, p)}

	issuer, err := p.CA.Issuer("devices")
	if err != nil {
		t.Fatal(err)
	}
	caKey, err := p.Keys.Signer(t.Context(), issuer.Key())
	if err != nil {
		t.Fatal(err)
	}
	odd := new(big.Int).SetBit(big.NewInt(1), 2047, 1)
	usage := der.NewKeyUsage(der.DigitalSignature)
	refused := 0
	// What SCEP says of all that it cannot read, so that nobody learns what somebody else encrypted.
	const sealed = "cannot be opened, or is not what its type says"
	for _, row := range []struct {
		name string
		csr  bend
		why  string // parts of the reason, of which one must be there
	}{
		{"trailing bytes after DER", func(t *testing.T, w *way) []byte { return append(apptest.CSR(t, w.key, w.spec), 0) }, "trailing|cannot be read|" + sealed},
		{"BER/indefinite lengths refused", func(t *testing.T, w *way) []byte {
			var v asn1.RawValue
			if _, err := asn1.Unmarshal(apptest.CSR(t, w.key, w.spec), &v); err != nil {
				t.Fatal(err)
			}
			return append(append([]byte{0x30, 0x80}, v.Bytes...), 0, 0)
		}, "not strict DER|cannot be read|" + sealed},
		{"CSR signature wrong", func(t *testing.T, w *way) []byte {
			out := apptest.CSR(t, w.key, w.spec)
			out[len(out)-1] ^= 1
			return out
		}, "signature|" + sealed},
		{"RSA < 2048", weak(rsaSPKI(new(big.Int).Rsh(odd, 1024), 65537)), "RSA key of 1024 bits|" + sealed},
		{"e = 1", weak(rsaSPKI(odd, 1)), "RSA exponent 1|" + sealed},
		{"P-192", weak(p192()), "unsupported curve P-192|" + sealed},
		{"known-weak key (ROCA)", weak(rsaSPKI(apptest.ROCA(), 65537)), "ROCA|" + sealed},
		{"known-weak key (Debian)", func(t *testing.T, w *way) []byte { return apptest.CSR(t, known, w.spec) }, "on a list of weak keys|another key"},
		{"key equal to a CA key", func(t *testing.T, w *way) []byte { return apptest.CSR(t, caKey, w.spec) }, "that of a CA|another key"},
		{"duplicate extensions", extension(usage, usage), "occurs twice|" + sealed},
		{"SAN otherName", spec(func(s *der.RequestSpec) {
			s.Names.Other = []der.OtherName{{Type: "\x2b\x06\x01", Value: []byte{0x0c, 1, 'x'}}}
		}), "otherName|not for"},
		{"SAN IP", spec(func(s *der.RequestSpec) { s.Names.IP = []netip.Addr{netip.MustParseAddr("192.0.2.1")} }), "192.0.2.1"},
		{"SAN URI", spec(func(s *der.RequestSpec) { s.Names.URI = []string{"urn:mooring:device:00"} }), "urn:mooring:device:00|not for"},
		{"SAN wildcard", spec(func(s *der.RequestSpec) { s.Names.DNS = append([]string{"*.example.com"}, s.Names.DNS...) }), "*.example.com"},
		{"SAN NUL", names([]byte{0x82, 3, 'a', 0, 'b'}), "labels are 1 to 63|" + sealed},
		{"SAN IDN", names([]byte("\x82\x0cb\xc3\xbccher.test")), "labels are 1 to 63|" + sealed},
		{"CA:TRUE asked", extension(der.NewBasicConstraints(true, 0)), "CA:TRUE"},
		{"keyCertSign asked", extension(der.NewKeyUsage(der.KeyCertSign)), "keyCertSign"},
	} {
		t.Run(row.name, func(t *testing.T) {
			for _, w := range ways {
				t.Run(w.name, func(t *testing.T) {
					granted, said := w.ask(t, row.csr(t, w))
					if granted {
						t.Fatal("it was granted")
					}
					refused++
					if !slices.ContainsFunc(strings.Split(row.why, "|"), func(part string) bool { return strings.Contains(said, part) }) {
						t.Errorf("it was told %q, want %q", said, row.why)
					}
				})
			}
		})
	}
	for name, serial := range map[string][]byte{"negative": {0x80}, "zero": {0}, "> 20-octet": append([]byte{0x7f}, make([]byte, 20)...)} {
		t.Run("client certificate with "+name+" serial", func(t *testing.T) {
			t.Run("CMP", func(t *testing.T) {
				c := byCert(t, p, withSerial(t, apptest.Key(t), serial))
				if got := failure(t, c.send(c.request(cmp.CR))); got != cmp.SignerNotTrusted && got != cmp.BadMessageCheck {
					t.Errorf("got %v", got)
				}
				refused++
			})
			t.Run("SCEP", func(t *testing.T) {
				c := newSCEP(t, p, known)
				c.cert = withSerial(t, known, serial).Leaf
				if said := c.refused(t, scep.RenewalReq, apptest.CSR(t, known, der.RequestSpec{})); said == "" {
					t.Error("it was granted")
				}
				refused++
			})
			t.Run("EST over CoAP", func(t *testing.T) {
				odd := withSerial(t, apptest.Key(t), serial)
				conn, err := coap.Dial(t.Context(), coap.Config{Address: strings.TrimPrefix(p.Addresses().CoAPS, "coaps://"), Certificate: &odd, Verify: func([]*x509.Certificate) error { return nil }})
				if name == "negative" { // crypto/x509 reads none such, which ends the handshake
					if err == nil {
						t.Error("it was let in")
					}
					return
				}
				if err != nil {
					t.Fatal(err)
				}
				defer conn.Close()
				if a := do(t, conn, coap.Request{Code: wire.POST, Path: "/est/sen", Format: wire.PKCS10, Body: apptest.CSR(t, apptest.Key(t), der.RequestSpec{})}); a.Code != wire.Unauthorized {
					t.Errorf("got %s %q", a.Code, a.Body)
				}
				refused++
			})
		})
	}
	for _, w := range ways {
		t.Run("as it should be, "+w.name, func(t *testing.T) {
			if granted, said := w.ask(t, apptest.CSR(t, w.key, w.spec)); !granted {
				t.Errorf("it was refused: %s", said)
			}
		})
	}
	t.Run("audit entry on every refusal", func(t *testing.T) {
		p.Restart(t) // those that are like others are counted, and the count is recorded every minute and at the end
		recorded := 0
		for _, e := range p.Record(t) {
			if e.Action == "acme.refuse" || e.Action == "enrol.refuse" {
				more, _ := strconv.Atoi(e.Detail["count"])
				recorded += max(1, more)
			}
		}
		if recorded != refused {
			t.Errorf("the record tells of %d refusals, want %d", recorded, refused)
		}
	})
	if r := p.Verify(t); len(r.Findings) > 0 {
		t.Errorf("the record does not fit: %v", r.Findings)
	}
}

// asker registers a device that may have a certificate with one name.
func asker(t *testing.T, p *apptest.Platform, name string) (device.Device, der.AltNames) {
	t.Helper()
	names := der.AltNames{DNS: []string{name + ".example.com"}}
	return p.Add(t, device.Spec{Name: name, Profile: "anything", Names: []string{"dns:" + names.DNS[0]}}), names
}

func byACME(t *testing.T, p *apptest.Platform) *way {
	t.Helper()
	d, names := asker(t, p, "every-acme")
	c := &agentacme.Client{Directory: p.Addresses().ACME + "/acme/directory", Key: apptest.Key(t), Now: p.Clock.Now,
		HTTP: &http.Client{Timeout: time.Minute, Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: p.Pool(), ServerName: "localhost"}}}}
	if err := c.Register(t.Context(), &agentacme.Binding{Name: d.Name, Token: p.Token(t, d.ID)}); err != nil {
		t.Fatal(err)
	}
	wanted := acme.NewOrder{Identifiers: []acme.Identifier{{Type: acme.KindDNS, Value: names.DNS[0]}}}
	return &way{"ACME", apptest.Key(t), der.RequestSpec{Names: names}, func(t *testing.T, csr []byte) (bool, string) {
		chain, err := c.Obtain(t.Context(), wanted, csr, nil)
		if err != nil {
			if !agentacme.Is(err, "badCSR") {
				t.Errorf("got %v, want badCSR", err)
			}
			return false, err.Error()
		}
		return len(chain) > 1, ""
	}}
}

func byCMP(t *testing.T, p *apptest.Platform) *way {
	t.Helper()
	d, names := asker(t, p, "every-cmp")
	c := byMAC(t, p, d.Name, p.Token(t, d.ID))
	return &way{"CMP", apptest.Key(t), der.RequestSpec{Names: names}, func(t *testing.T, csr []byte) (bool, string) {
		c.t, c.id, c.theirs, c.header = t, random(16), nil, implicit
		switch b := c.send(cmp.PKCS10(csr)).(type) {
		case *cmp.Failed:
			return false, strings.Join(b.Status.Text, "")
		case *cmp.Responses:
			return b.List[0].Certificate != nil, strings.Join(b.List[0].Status.Text, "")
		}
		return false, ""
	}}
}

func byCoAP(t *testing.T, p *apptest.Platform) *way {
	t.Helper()
	d, names := asker(t, p, "every-mote")
	pair := p.Enrolment(t, d)
	conn := dial(t, p, &pair, 1024)
	return &way{"EST over CoAP", apptest.Key(t), der.RequestSpec{Names: names}, func(t *testing.T, csr []byte) (bool, string) {
		a := do(t, conn, coap.Request{Code: wire.POST, Path: "/est/sen", Format: wire.PKCS10, Body: csr})
		if a.Code != wire.Changed && a.Code != wire.BadRequest && a.Code != wire.Forbidden {
			t.Errorf("got %s", a.Code)
		}
		return a.Code == wire.Changed, string(a.Body)
	}}
}

// scepClient sends what SCEP wraps around requests.
type scepClient struct {
	url      string
	key      *rsa.PrivateKey
	cert, ra *x509.Certificate
}

func newSCEP(t *testing.T, p *apptest.Platform, key *rsa.PrivateKey) *scepClient {
	t.Helper()
	c := &scepClient{url: p.Addresses().SCEP + "/scep/anything?operation=", key: key, cert: withSerial(t, key, []byte{1}).Leaf}
	r, err := http.Get(c.url + "GetCACert")
	if err != nil {
		t.Fatal(err)
	}
	list, err := cms.ParseCertsOnly(bodyOf(t, r))
	if err != nil {
		t.Fatal(err)
	}
	for _, raw := range list {
		cert, err := x509.ParseCertificate(raw)
		if err != nil {
			t.Fatal(err)
		}
		if cert.KeyUsage&x509.KeyUsageKeyEncipherment != 0 {
			c.ra = cert
		}
	}
	return c
}

func bodyOf(t *testing.T, r *http.Response) []byte {
	t.Helper()
	out, err := io.ReadAll(r.Body)
	if err := errors.Join(err, r.Body.Close()); err != nil {
		t.Fatal(err)
	}
	return out
}

// refused sends a request, and returns why it was refused; "": it was granted.
func (c *scepClient) refused(t *testing.T, kind scep.MessageType, csr []byte) string {
	t.Helper()
	raw, err := scep.Build(scep.Input{Type: kind, Transaction: rand.Text(), SenderNonce: random(16), Content: csr, Recipient: c.ra, Signer: c.key, Certificate: c.cert, Rand: rand.Reader})
	if err != nil {
		t.Fatal(err)
	}
	r, err := http.Post(c.url+"PKIOperation", scep.TypeMessage, bytes.NewReader(raw))
	if err != nil {
		t.Fatal(err)
	}
	body := bodyOf(t, r)
	if r.StatusCode != http.StatusOK {
		return string(body)
	}
	m, err := scep.Parse(body)
	switch {
	case err != nil:
		t.Fatal(err)
	case m.Status == scep.Success:
		return ""
	case m.Status != scep.Failure || m.FailText == "":
		t.Errorf("the status is %d, the reason %q", m.Status, m.FailText)
	}
	return m.FailText
}

func bySCEP(t *testing.T, p *apptest.Platform) *way {
	t.Helper()
	d, names := asker(t, p, "every-scep")
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	c := newSCEP(t, p, key)
	spec := der.RequestSpec{Names: names, Subject: []der.Attribute{{Type: der.OIDCommonName, Value: d.Name}}, ChallengePassword: p.Token(t, d.ID)}
	return &way{"SCEP", key, spec, func(t *testing.T, csr []byte) (bool, string) {
		said := c.refused(t, scep.PKCSReq, csr)
		return said == "", said
	}}
}

// withSerial is a certificate that nobody knows, with a serial number of any octets, as crypto/x509 makes none. The parsed one has these octets as well, which
// crypto/x509 may refuse to parse.
func withSerial(t *testing.T, key crypto.Signer, serial []byte) tls.Certificate {
	t.Helper()
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "odd"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		SubjectKeyId: []byte("odd"), KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
	raw, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(raw)
	if err != nil {
		t.Fatal(err)
	}
	list := parts(t, leaf.RawTBSCertificate)
	list[1] = der.AppendElement(nil, 2, serial)
	tbs := join(list...)
	sum := sha256.Sum256(tbs)
	signature, err := key.Sign(rand.Reader, sum[:], crypto.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	leaf.Raw = join(tbs, parts(t, raw)[1], der.AppendElement(nil, 3, append([]byte{0}, signature...)))
	leaf.SerialNumber = new(big.Int).SetBytes(serial)
	if serial[0]&0x80 != 0 {
		leaf.SerialNumber.Sub(leaf.SerialNumber, new(big.Int).Lsh(big.NewInt(1), uint(8*len(serial))))
	}
	return tls.Certificate{Certificate: [][]byte{leaf.Raw}, PrivateKey: key, Leaf: leaf}
}
