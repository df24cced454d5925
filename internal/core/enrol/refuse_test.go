package enrol_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"math/big"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"mooring/internal/app/apptest"
	"mooring/internal/base/conf"
	"mooring/internal/base/errs"
	"mooring/internal/core/audit"
	"mooring/internal/core/device"
	"mooring/internal/core/enrol"
	"mooring/internal/core/revoke"
	"mooring/wire/der"
)

// issuing is a CA that is not ours, or ours in wrong hands.
type issuing struct {
	key  crypto.Signer
	cert *x509.Certificate
}

func authority(t *testing.T) issuing {
	t.Helper()
	key := apptest.Key(t)
	cert := sign(t, &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Other CA"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(1000 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}, nil, key, key)
	return issuing{key, cert}
}

// ours is the platform's CA, used past the platform.
func ours(t *testing.T, p *apptest.Platform) issuing {
	t.Helper()
	i, err := p.CA.Issuer("devices")
	if err != nil {
		t.Fatal(err)
	}
	key, err := p.Keys.Signer(t.Context(), i.Key())
	if err != nil {
		t.Fatal(err)
	}
	return issuing{key, i.Certificate()}
}

// issue makes a client certificate, which change may bend.
func (i issuing) issue(t *testing.T, change func(*x509.Certificate)) (*ecdsa.PrivateKey, *x509.Certificate) {
	t.Helper()
	key := apptest.Key(t)
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 100))
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: serial, Subject: pkix.Name{CommonName: "born"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
	if change != nil {
		change(c)
	}
	return key, sign(t, c, i.cert, key, i.key)
}

func sign(t *testing.T, c, parent *x509.Certificate, key, by crypto.Signer) *x509.Certificate {
	t.Helper()
	if parent == nil {
		parent = c
	}
	raw, err := x509.CreateCertificate(rand.Reader, c, parent, key.Public(), by)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(raw)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

func (i issuing) pair(t *testing.T, change func(*x509.Certificate)) tls.Certificate {
	key, cert := i.issue(t, change)
	return tls.Certificate{Certificate: [][]byte{cert.Raw, i.cert.Raw}, PrivateKey: key, Leaf: cert}
}

// TestBadTokens: who has no valid token learns nothing but that.
func TestBadTokens(t *testing.T) {
	p := apptest.Start(t, nil)
	csr := apptest.CSR(t, apptest.Key(t), der.RequestSpec{})
	_, good := p.Device(t, "meter-1", "device")
	_, other := p.Device(t, "meter-2", "device")
	p.Add(t, device.Spec{Name: "without", Profile: "device"})
	d, expired := p.Device(t, "late", "device")
	replaced := p.Token(t, d.ID)
	const wrong = "the device is unknown or the token is wrong: check both, or ask for a new token"
	for _, c := range []struct{ name, user, secret, text string }{
		{"token of another device", "meter-1", other, wrong},
		{"token of an unknown device", "nobody", good, wrong},
		{"no device name", "", good, wrong},
		{"device without a token", "without", good, wrong},
		{"token that a newer one replaced", "late", expired, wrong},
		{"typing error", "meter-1", good[:len(good)-1] + flip(good[len(good)-1]), "the token has a typing error: copy it again"},
		{"not a token", "meter-1", "secret", "a token begins with mt_ and has 39 characters: copy it again"},
		{"empty", "meter-1", "", "a token begins with mt_ and has 39 characters: copy it again"},
	} {
		t.Run(c.name, func(t *testing.T) {
			wantRefusal(t, p, byToken(c.user, c.secret, csr), errs.Denied, c.text)
		})
	}
	t.Run("expired", func(t *testing.T) {
		p.Clock.Move(device.TokenLife)
		defer p.Clock.Move(-device.TokenLife)
		wantRefusal(t, p, byToken("late", replaced, csr), errs.Denied, "this token has expired: ask for a new one")
	})
	if c := submit(t, p, byToken("meter-1", good, csr)); c == nil {
		t.Error("the right token no longer works")
	}
}

// flip returns another character of the token's alphabet.
func flip(c byte) string {
	if c == 'a' {
		return "b"
	}
	return "a"
}

// TestBadCertificates: a client certificate counts only when it is recorded or registered, valid, for clients, and the present one.
func TestBadCertificates(t *testing.T) {
	p := apptest.Start(t, nil)
	csr := apptest.CSR(t, apptest.Key(t), der.RequestSpec{})
	foreign, stolen := authority(t), ours(t, p)
	registered := func(t *testing.T, name string, change func(*x509.Certificate)) tls.Certificate {
		pair := foreign.pair(t, change)
		p.Add(t, device.Spec{Name: name, Profile: "device", Birth: pair.Leaf.Raw})
		return pair
	}
	const unknown = "the client certificate was neither issued here nor registered as a birth certificate; enrol with a token, or have it registered"
	utc := func(at time.Time) string { return at.UTC().Format("2006-01-02 15:04:05Z") }
	for _, c := range []struct {
		name string
		cert func(t *testing.T) (tls.Certificate, string)
	}{
		{"none", func(t *testing.T) (tls.Certificate, string) {
			return tls.Certificate{}, "no client certificate was presented; present one, or the device's name and token"
		}},
		{"unknown CA", func(t *testing.T) (tls.Certificate, string) { return foreign.pair(t, nil), unknown }},
		{"our CA, not recorded", func(t *testing.T) (tls.Certificate, string) { return stolen.pair(t, nil), unknown }},
		{"our CA, the serial of another certificate", func(t *testing.T) (tls.Certificate, string) {
			_, other := p.Enrolled(t, "victim", "device")
			return stolen.pair(t, func(c *x509.Certificate) { c.SerialNumber = other.Leaf.SerialNumber }), unknown
		}},
		{"serial of zero", func(t *testing.T) (tls.Certificate, string) {
			return foreign.pair(t, func(c *x509.Certificate) { c.SerialNumber = new(big.Int) }), unknown
		}},
		{"serial of 20 octets", func(t *testing.T) (tls.Certificate, string) {
			return foreign.pair(t, func(c *x509.Certificate) { c.SerialNumber = new(big.Int).Lsh(big.NewInt(1), 158) }), unknown
		}},
		{"not a certificate", func(t *testing.T) (tls.Certificate, string) {
			return tls.Certificate{Certificate: [][]byte{{0x30, 0x00}}}, "the client certificate cannot be parsed; present one that strict X.509 readers accept"
		}},
		{"expired", func(t *testing.T) (tls.Certificate, string) {
			pair := registered(t, "expired", func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) })
			return pair, "the client certificate expired at " + utc(pair.Leaf.NotAfter) + "; enrol again with a new token"
		}},
		{"not yet valid", func(t *testing.T) (tls.Certificate, string) {
			pair := registered(t, "early", func(c *x509.Certificate) { c.NotBefore = time.Now().Add(time.Minute) })
			return pair, "the client certificate is not valid before " + utc(pair.Leaf.NotBefore) + "; check the clocks"
		}},
		{"serverAuth only", func(t *testing.T) (tls.Certificate, string) {
			return registered(t, "server", func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} }),
				"the client certificate's extended key usage does not include clientAuth; present another certificate"
		}},
		{"for encryption only", func(t *testing.T) (tls.Certificate, string) {
			return registered(t, "encryption", func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageKeyEncipherment }),
				"the client certificate's key usage does not include digitalSignature; present another certificate"
		}},
		{"a CA", func(t *testing.T) (tls.Certificate, string) {
			pair := foreign.pair(t, func(c *x509.Certificate) { c.IsCA, c.BasicConstraintsValid = true, true })
			rows := fmt.Sprintf("name,profile,birth\nca,device,%x\n", sha256.Sum256(pair.Leaf.Raw)) // a digest does not show what it is of
			if _, err := p.Devices.Import(t.Context(), apptest.Operator(), device.Source{R: strings.NewReader(rows), Name: "cas.csv", Format: "csv"}, nil); err != nil {
				t.Fatal(err)
			}
			return pair, "the client certificate is a CA certificate; present the device's own"
		}},
		{"our own server certificate", func(t *testing.T) (tls.Certificate, string) {
			_, pair := p.Enrolled(t, "broker", "server")
			return pair, "the client certificate's extended key usage does not include clientAuth; present another certificate"
		}},
		{"revoked", func(t *testing.T) (tls.Certificate, string) {
			_, pair := p.Enrolled(t, "revoked", "device")
			if _, err := p.Revoke.Certificate(t.Context(), apptest.Operator(), pair.Leaf.SerialNumber.Bytes(), revoke.KeyCompromise); err != nil {
				t.Fatal(err)
			}
			return pair, "the client certificate is revoked; ask the device's operator for a new token"
		}},
		{"superseded", func(t *testing.T) (tls.Certificate, string) {
			_, pair := p.Enrolled(t, "superseded", "device")
			last := pair
			for range 2 {
				key := apptest.Key(t)
				last = p.Pair(t, key, submit(t, p, byCert(enrol.Renew, last, again(t, last, key))).DER)
			}
			return pair, "the client certificate was replaced by a newer one; use that"
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			pair, text := c.cert(t)
			wantRefusal(t, p, byCert(enrol.Enrol, pair, csr), errs.Denied, text)
		})
	}

	// With the clock moved, our own ones.
	d, pair := p.Enrolled(t, "aging", "device")
	t.Run("ours, expired", func(t *testing.T) {
		p.Clock.Move(life)
		defer p.Clock.Move(-life)
		wantRefusal(t, p, byCert(enrol.Renew, pair, again(t, pair, apptest.Key(t))), errs.Denied, "the client certificate expired at "+utc(pair.Leaf.NotAfter)+"; enrol again with a new token")
		// A new token helps.
		submit(t, p, byToken("aging", p.Token(t, d.ID), csr))
	})
	t.Run("ours, not yet valid", func(t *testing.T) {
		_, pair := p.Enrolled(t, "young", "device")
		p.Clock.Move(-10 * time.Minute)
		defer p.Clock.Move(10 * time.Minute)
		wantRefusal(t, p, byCert(enrol.Renew, pair, again(t, pair, apptest.Key(t))), errs.Denied, "the client certificate is not valid before "+utc(pair.Leaf.NotBefore)+"; check the clocks")
	})
}

// TestBadRequests: what is wrong with the request itself. Each row has a device with a good token.
func TestBadRequests(t *testing.T) {
	p := apptest.Start(t, func(c *conf.Config) {
		c.Enrol.WeakKeys = t.TempDir()
		if err := os.WriteFile(filepath.Join(c.Enrol.WeakKeys, "blacklist.RSA-2048"), []byte("# of openssl-blacklist\n49d96fae9bfc0e84bba3\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}, apptest.Variant("device", "linked", "linking: required"))
	const bad = "the certification request is not acceptable: "
	key := apptest.Key(t)
	plain := apptest.CSR(t, key, der.RequestSpec{})
	asking := func(spec der.RequestSpec) []byte { return apptest.CSR(t, key, spec) }
	extension := func(e der.Extension) []byte { return asking(der.RequestSpec{Extensions: []der.Extension{e}}) }
	twice := der.NewKeyUsage(der.DigitalSignature)
	p192 := append([]byte("\x30\x49\x30\x13\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x01\x03\x32\x00\x04"), make([]byte, 48)...)
	for _, c := range []struct {
		name    string
		profile string
		csr     []byte
		kind    errs.Kind
		text    string
	}{
		{"empty", "device", nil, errs.Invalid, bad + "malformed certification request (not strict DER, or not of the standard's shape)"},
		{"trailing bytes after DER", "device", append(bytes.Clone(plain), 0), errs.Invalid, bad + "1 trailing bytes after the certification request"},
		{"cut off", "device", plain[:len(plain)-1], errs.Invalid, bad + "malformed certification request (not strict DER, or not of the standard's shape)"},
		{"BER/indefinite lengths refused", "device", append(append([]byte{0x30, 0x80}, plain[4:]...), 0, 0), errs.Invalid, bad + "malformed certification request (not strict DER, or not of the standard's shape)"},
		{"larger than allowed", "device", make([]byte, der.MaxRequest+1), errs.Invalid, bad + "certification request of 65537 octets; at most 65536 are read"},
		{"CSR signature wrong", "device", damaged(plain), errs.Invalid, "the certification request's signature does not verify under its own key"},
		{"CSR signature of another key", "device", apptest.CSR(t, apptest.Key(t), der.RequestSpec{SPKI: spki(t, key.Public())}), errs.Invalid, "the certification request's signature does not verify under its own key"},
		{"key equal to a CA key", "device", apptest.CSR(t, ours(t, p).key, der.RequestSpec{}), errs.Denied, "the public key is that of a CA: make a key of your own"},
		{"RSA < 2048", "device", weakRSA(t, 1024, 65537), errs.Invalid, bad + "public key refused: RSA key of 1024 bits; at least 2048 are needed"},
		{"e = 3", "device", weakRSA(t, 2048, 3), errs.Invalid, bad + "public key refused: RSA exponent 3; use 65537"},
		{"e = 1", "device", weakRSA(t, 2048, 1), errs.Invalid, bad + "public key refused: RSA exponent 1; use 65537"},
		{"known-weak key (ROCA)", "device", asking(der.RequestSpec{SPKI: spki(t, &rsa.PublicKey{N: apptest.ROCA(), E: 65537})}), errs.Invalid,
			bad + "public key refused: RSA key from the flawed generator of CVE-2017-15361 (ROCA); replace it and its maker's firmware"},
		{"known-weak key (Debian)", "device", asking(der.RequestSpec{SPKI: spki(t, debianKey())}), errs.Invalid,
			bad + "public key refused: it is on a list of weak keys, such as those of Debian's generator (CVE-2008-0166), whose private keys everybody can find; make a new one with a generator that is up to date"},
		{"P-192", "device", asking(der.RequestSpec{SPKI: p192}), errs.Invalid, bad + "public key refused: unsupported curve P-192; use P-256"},
		{"P-224", "device", otherCurve(t), errs.Invalid, bad + "public key refused: unsupported curve P-224; use P-256"},
		{"a kind that the profile does not take", "gateway", rsaCSR(t), errs.Denied, "the profile gateway does not accept keys of kind rsa-2048: use one of [ec-p256 ec-p384]"},
		{"the subject of another device", "device", asking(der.RequestSpec{Subject: []der.Attribute{{Type: der.OIDCommonName, Value: "another"}}}), errs.Denied,
			`the request asks for the subject "CN=another", but the profile device gives "CN=row-13": ask for that, or leave the subject empty`},
		{"SAN DNS name", "device", asking(der.RequestSpec{Names: der.AltNames{DNS: []string{"pki.example.com"}}}), errs.Denied,
			"the request asks for the DNS name \"pki.example.com\", which the profile device does not permit for this device"},
		{"SAN wildcard", "gateway", asking(der.RequestSpec{Names: der.AltNames{DNS: []string{"*.example.com"}}}), errs.Denied,
			"the request asks for the DNS name \"*.example.com\", which the profile gateway does not permit for this device"},
		{"SAN IP", "device", asking(der.RequestSpec{Names: der.AltNames{IP: []netip.Addr{netip.MustParseAddr("192.0.2.1")}}}), errs.Denied,
			"the request asks for the IP address \"192.0.2.1\", which the profile device does not permit for this device"},
		{"SAN URI", "device", asking(der.RequestSpec{Names: der.AltNames{URI: []string{"urn:mooring:device:00"}}}), errs.Denied,
			"the request asks for the URI \"urn:mooring:device:00\", which the profile device does not permit for this device"},
		{"SAN otherName", "device", asking(der.RequestSpec{Names: der.AltNames{Other: []der.OtherName{{Type: "\x2b\x06\x01", Value: []byte{0x0c, 1, 'x'}}}}}), errs.Denied,
			"the request asks for an otherName of type 1.3.6.1, which the profile device does not give"},
		{"SAN IDN", "device", extension(der.Extension{OID: der.OIDSubjectAltName, Value: []byte("\x30\x0e\x82\x0cb\xc3\xbccher.test")}), errs.Invalid,
			bad + `reading the requested extensions: DNS name "bücher.test": labels are 1 to 63 letters, digits and inner hyphens (international names as A-labels); "*" only as whole first label`},
		{"SAN IDN as A-label", "device", asking(der.RequestSpec{Names: der.AltNames{DNS: []string{"xn--bcher-kva.test"}}}), errs.Denied,
			"the request asks for the DNS name \"xn--bcher-kva.test\", which the profile device does not permit for this device"},
		{"SAN NUL", "device", extension(der.Extension{OID: der.OIDSubjectAltName, Value: []byte{0x30, 5, 0x82, 3, 'a', 0, 'b'}}), errs.Invalid,
			bad + `reading the requested extensions: DNS name "a\x00b": labels are 1 to 63 letters, digits and inner hyphens (international names as A-labels); "*" only as whole first label`},
		{"CA:TRUE asked", "device", extension(der.NewBasicConstraints(true, 0)), errs.Denied, "the request asks for a CA certificate (basicConstraints CA:TRUE), which no profile gives: leave it out"},
		{"keyCertSign asked", "device", extension(der.NewKeyUsage(der.KeyCertSign)), errs.Denied, "the request asks for the key usage keyCertSign, which no profile gives: leave it out"},
		{"OCSPSigning", "device", extension(der.NewExtKeyUsage(der.OIDOCSPSigning)), errs.Denied,
			"the request asks for the extended key usage 1.3.6.1.5.5.7.3.9 (OCSP signing, CMC CA or RA), which the profile device does not give"},
		{"duplicate extensions", "device", asking(der.RequestSpec{Extensions: []der.Extension{twice, twice}}), errs.Invalid, bad + "reading the requested extensions: extension 2.5.29.15 occurs twice"},
		{"a password in place of the binding", "device", asking(der.RequestSpec{ChallengePassword: "letmein"}), errs.Invalid,
			"the challengePassword is not the channel binding of this connection; make the request anew on each connection"},
		{"no binding where linking is required", "linked", plain, errs.Invalid, `the profile linked requires a challengePassword with the connection's channel binding`},
	} {
		t.Run(c.name, func(t *testing.T) {
			name := "row-13"
			if c.name != "the subject of another device" {
				name = fmt.Sprintf("device of %s", c.name)
			}
			d, token := p.Device(t, wordOf(name), c.profile)
			wantRefusal(t, p, byToken(d.Name, token, c.csr), c.kind, c.text)
			if p.Load(t, d.ID).Token.Used != 0 {
				t.Error("the refusal used up the token")
			}
		})
	}
	t.Run("a profile that does not exist", func(t *testing.T) {
		d, token := p.Device(t, "lost", "device")
		r := byToken(d.Name, token, plain)
		r.Profile = "nonesuch"
		wantRefusal(t, p, r, errs.NotFound, `there is no profile "nonesuch"`)
	})
	t.Run("the profile of others", func(t *testing.T) {
		d, token := p.Device(t, "climber", "device")
		r := byToken(d.Name, token, plain)
		r.Profile = "operator-admin"
		wantRefusal(t, p, r, errs.Denied, `this device is registered for another profile than "operator-admin"`)
	})
	t.Run("evidence that the profile does not take", func(t *testing.T) {
		pair := authority(t).pair(t, nil)
		p.Add(t, device.Spec{Name: "admin-2", Profile: "operator-admin", Birth: pair.Leaf.Raw})
		wantRefusal(t, p, byCert(enrol.Enrol, pair, plain), errs.Denied, `the profile operator-admin does not accept authentication by birth: its evidence must list that`)
	})
	t.Run("certificate and token of two devices", func(t *testing.T) {
		_, pair := p.Enrolled(t, "one", "device")
		_, token := p.Device(t, "two", "device")
		r := byToken("two", token, plain)
		r.Chain = pair.Certificate
		wantRefusal(t, p, r, errs.Denied, "the client certificate and the device name belong to different devices; use those of one device")
	})
}

// TestChangedIdentity: when what the registry says stands in the certificate and is changed, a renewal is told so whatever it asks for, and
// the present certificate is enough to enrol anew.
func TestChangedIdentity(t *testing.T) {
	p := apptest.Start(t, nil, apptest.Profile{Name: "grouped", YAML: `name: grouped
issuer: devices
slot: operational
subject:
  - O: "{device.group}"
  - CN: "{device.name}"
san:
  dns:
    registry: true
keys: [ec-p256]
key_usage: [digitalSignature]
ext_key_usage: [clientAuth]
validity: 90d
renew_before: 30d
evidence: [token, operational]
`})
	const want = "the registry or the profile changed what stands in this certificate since it was issued, and a renewal must repeat it (RFC 7030, section 4.2.2): enrol with simpleenroll instead, with the present certificate or a new token"
	old, group := "north", "south"
	for _, row := range []struct {
		name   string
		change device.Change
		names  []string
	}{
		{"group", device.Change{Group: &group}, []string{"a.test"}},
		{"names", device.Change{Names: &[]string{}}, nil},
	} {
		t.Run(row.name, func(t *testing.T) {
			d := p.Add(t, device.Spec{Name: "by-" + row.name, Group: old, Profile: "grouped", Names: []string{"dns:a.test"}})
			key := apptest.Key(t)
			first := submit(t, p, byToken(d.Name, p.Token(t, d.ID), apptest.CSR(t, key, der.RequestSpec{})))
			pair := p.Pair(t, key, first.DER)
			same := der.RequestSpec{RawSubject: pair.Leaf.RawSubject, Names: der.AltNames{DNS: pair.Leaf.DNSNames}}
			submit(t, p, byCert(enrol.Renew, pair, apptest.CSR(t, apptest.Key(t), same)))

			_, err := p.Devices.Change(t.Context(), apptest.Operator(), d.ID, row.change)
			if err != nil {
				t.Fatal(err)
			}
			wantRefusal(t, p, byCert(enrol.Renew, pair, apptest.CSR(t, apptest.Key(t), same)), errs.Denied, want)
			wantRefusal(t, p, byCert(enrol.Renew, pair, apptest.CSR(t, apptest.Key(t), der.RequestSpec{})), errs.Denied, want)
			c := submit(t, p, byCert(enrol.Enrol, pair, apptest.CSR(t, apptest.Key(t), der.RequestSpec{})))
			leaf, err := x509.ParseCertificate(c.DER)
			if err != nil || leaf.Subject.String() == pair.Leaf.Subject.String() && slices.Equal(leaf.DNSNames, pair.Leaf.DNSNames) {
				t.Errorf("the new certificate says %v, %v (%v), as before", leaf.Subject, leaf.DNSNames, err)
			}
		})
	}
}

// TestOtherIdentity: a renewal repeats the identity of its certificate, no more and no less.
func TestOtherIdentity(t *testing.T) {
	p := apptest.Start(t, nil)
	_, pair := p.Enrolled(t, "meter-1", "device")
	uri := der.AltNames{URI: []string{pair.Leaf.URIs[0].String()}}
	own := []der.Attribute{{Type: der.OIDCommonName, Value: "meter-1"}}
	const names = "a renewal must repeat the subjectAltName of its certificate (RFC 7030, section 4.2.2): same names, no more and no fewer"
	for _, c := range []struct {
		name string
		spec der.RequestSpec
		text string
	}{
		{"another subject", der.RequestSpec{Subject: []der.Attribute{{Type: der.OIDCommonName, Value: "meter-2"}}, Names: uri},
			`a renewal must repeat the subject of its certificate (RFC 7030, section 4.2.2): the certificate has "CN=meter-1", the request "CN=meter-2"`},
		{"no subject", der.RequestSpec{Names: uri},
			`a renewal must repeat the subject of its certificate (RFC 7030, section 4.2.2): the certificate has "CN=meter-1", the request ""`},
		{"no alternative names", der.RequestSpec{Subject: own}, names},
		{"one more", der.RequestSpec{Subject: own, Names: der.AltNames{URI: uri.URI, DNS: []string{"a.test"}}}, names},
		{"another one", der.RequestSpec{Subject: own, Names: der.AltNames{URI: []string{"urn:mooring:device:00"}}}, names},
	} {
		t.Run(c.name, func(t *testing.T) {
			wantRefusal(t, p, byCert(enrol.Renew, pair, apptest.CSR(t, apptest.Key(t), c.spec)), errs.Denied, c.text)
		})
	}
	t.Run("by token", func(t *testing.T) {
		_, token := p.Device(t, "meter-2", "device")
		r := byToken("meter-2", token, again(t, pair, apptest.Key(t)))
		r.Op = enrol.Renew
		wantRefusal(t, p, r, errs.Denied, "a renewal is authenticated by the certificate that is being renewed; use enrolment for the first one")
	})
	submit(t, p, byCert(enrol.Renew, pair, again(t, pair, apptest.Key(t))))
}

// TestStrangersAreCounted: a thousand refusals of a stranger are two entries, not a thousand.
func TestStrangersAreCounted(t *testing.T) {
	p := apptest.Start(t, nil)
	csr := apptest.CSR(t, apptest.Key(t), der.RequestSpec{})
	for i := range 1000 {
		r := byToken(fmt.Sprintf("guess-%d", i), "mt_", csr)
		r.Source = netip.MustParseAddr("198.51.100.7")
		if _, err := p.Enrol.Submit(t.Context(), r); err == nil {
			t.Fatal("a guess was right")
		}
	}
	list := entries(t, p, func(e audit.Entry) bool { return e.Action == "enrol.refuse" })
	if len(list) != 1 || list[0].Actor != "stranger:198.51.100.0/24" || list[0].Device != "" {
		t.Errorf("the record has %d entries, want one of the network: %+v", len(list), list[:min(len(list), 2)])
	}
}

func damaged(csr []byte) []byte {
	out := bytes.Clone(csr)
	out[len(out)-1] ^= 1
	return out
}

func spki(t *testing.T, pub crypto.PublicKey) []byte {
	t.Helper()
	out, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// weakRSA is a request by an RSA key that crypto/rsa would not make, correctly signed: s^e = m. With e = 1 the signature is the message.
func weakRSA(t *testing.T, bits int, e int64) []byte {
	t.Helper()
	one := big.NewInt(1)
	var n, d *big.Int
	for d == nil {
		p, err := rand.Prime(rand.Reader, bits/2)
		if err != nil {
			t.Fatal(err)
		}
		q, err := rand.Prime(rand.Reader, bits/2)
		if err != nil {
			t.Fatal(err)
		}
		n = new(big.Int).Mul(p, q)
		phi := new(big.Int).Mul(new(big.Int).Sub(p, one), new(big.Int).Sub(q, one))
		d = new(big.Int).ModInverse(big.NewInt(e), phi)
		if n.BitLen() != bits {
			d = nil
		}
	}
	info, err := der.AppendRequestInfo(nil, der.RequestSpec{SPKI: spki(t, &rsa.PublicKey{N: n, E: int(e)})})
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(info)
	digest := append([]byte{0x30, 0x31, 0x30, 0x0d, 6, 9, 0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2, 1, 5, 0, 4, 0x20}, sum[:]...) // RFC 8017, section 9.2
	padded := append(append([]byte{0, 1}, bytes.Repeat([]byte{0xff}, bits/8-3-len(digest))...), 0)
	m := new(big.Int).SetBytes(append(padded, digest...))
	algorithm, err := der.AlgorithmFor(&rsa.PublicKey{N: new(big.Int).Lsh(one, 2047), E: 65537})
	if err != nil {
		t.Fatal(err)
	}
	return der.Wrap(nil, info, algorithm, m.Exp(m, d, n).FillBytes(make([]byte, bits/8)))
}

func rsaCSR(t *testing.T) []byte {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	return apptest.CSR(t, key, der.RequestSpec{})
}

func otherCurve(t *testing.T) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		t.Fatal(err)
	}
	return csr
}

// wordOf makes a device name of a row's name.
func wordOf(text string) string {
	return strings.Map(func(c rune) rune {
		if c >= '0' && c <= '9' || c >= 'A' && c <= 'Z' || c >= 'a' && c <= 'z' {
			return c
		}
		return '-'
	}, text)
}

// debianKey is one that Debian's generator made in process 1000 (github.com/HARICA-official/debian-weak-keys, lenny, amd64, noreadrnd).
func debianKey() *rsa.PublicKey {
	n, _ := new(big.Int).SetString("ceb8aaaba94464051514c8f3670e1fe77d6820d7e81f74b251c3ed8b388cf8b67534a32a074a9c175a5115a27a67aef399cc30aa2da4de18e6311e3be0b226f4"+
		"ebc6045ecb807fab7940d69cb3a492cf1e70887db026466d45c72276f4c21f52bbda0561fb17babd5af3a13323276630d547d4df6a9a5f413dddfb000335df71"+
		"bba036f6f20428ade06ed15744ccf9a37e0f299348dc17eb6437c9ec6acc1967b48b549fda2cd1c77c15f9fbff6b823454cd7b6450d0cda62cc84cd7cb95d922"+
		"89f64be8d91f314e1c074ea3c42c754d1653b620c280da74d58b2700c3c78281a5c5b371025119c23d2a43dd1a3c2e4c9d32b99b4acdfd05b7f7c5cebe78f999", 16)
	return &rsa.PublicKey{N: n, E: 65537}
}
