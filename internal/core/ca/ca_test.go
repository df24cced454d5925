package ca_test

import (
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"math/big"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/fstest"

	"mooring/internal/base/db"
	"mooring/internal/base/errs"
	"mooring/internal/core/access"
	"mooring/internal/core/audit"
	"mooring/internal/core/ca"
	"mooring/internal/core/key"
	"mooring/wire/der"
)

func TestHierarchy(t *testing.T) {
	f := newFixture(t)
	f.hierarchy(t)
	root, err := f.Issuer("root")
	if err != nil {
		t.Fatal(err)
	}
	devices, err := f.Issuer("devices")
	if err != nil {
		t.Fatal(err)
	}
	cert := f.verify(t, devices.Chain()[0], x509.ExtKeyUsageAny)
	if !cert.IsCA || cert.MaxPathLen != 0 || !cert.MaxPathLenZero || cert.KeyUsage != x509.KeyUsageCertSign|x509.KeyUsageCRLSign|x509.KeyUsageDigitalSignature {
		t.Errorf("issuing CA: %v %d %b", cert.IsCA, cert.MaxPathLen, cert.KeyUsage)
	}
	if got := cert.CRLDistributionPoints; len(got) != 1 || got[0] != "http://pki.test/crl/"+root.ID().String()+".crl" {
		t.Errorf("CRL of the issuing CA: %v", got)
	}
	lints(t, root.Chain()[0])
	if c := root.Certificate(); c.KeyUsage != x509.KeyUsageCertSign|x509.KeyUsageCRLSign || c.MaxPathLen != 1 || c.NotAfter.Year() != 9999 {
		t.Errorf("root: %b %d %s", c.KeyUsage, c.MaxPathLen, c.NotAfter)
	}
	if n := len(f.Chain(devices.ID())); n != 2 || len(devices.PEM()) == 0 || f.Chain(ca.IssuerID{}) != nil {
		t.Errorf("chain of %d", n)
	}
	if block, rest := pem.Decode(devices.PEM()); block == nil || string(block.Bytes) != string(devices.Chain()[0]) || len(rest) == 0 {
		t.Error("PEM does not begin with the CA's own certificate")
	}

	again := f.reopen(t)
	for _, name := range []string{"root", "devices", "birth", "services", "operators"} {
		was, _ := f.Issuer(name)
		is, err := again.Issuer(name)
		if err != nil || is.ID() != was.ID() || is.Key() != was.Key() || len(is.Chain()) != len(was.Chain()) {
			t.Errorf("CA %s after a restart: %v, %v", name, is, err)
		}
		if byID, err := again.Issuer(was.ID().String()); err != nil || byID.Name() != name {
			t.Errorf("CA %s by id: %v", name, err)
		}
	}
	list, err := again.Issuers(t.Context(), admin)
	if err != nil || len(list) != 5 || list[0].Name() != "birth" {
		t.Errorf("Issuers: %v, %v", list, err)
	}
	if _, err := again.Issuers(t.Context(), access.Actor{}); !errs.Is(err, errs.Denied) {
		t.Errorf("Issuers for a stranger: %v", err)
	}
}

func TestCreateRefuses(t *testing.T) {
	f := newFixture(t)
	f.hierarchy(t)
	good := ca.Spec{Name: "new", Parent: "root", Subject: dn(t, "CN=New"), Algorithm: key.P256, Validity: 86400}
	tests := []struct {
		name   string
		actor  access.Actor
		change func(*ca.Spec)
		kind   errs.Kind
	}{
		{"as operator", access.Actor{Kind: access.KindOperator, Role: access.RoleOperator}, func(*ca.Spec) {}, errs.Denied},
		{"name taken", admin, func(s *ca.Spec) { s.Name = "devices" }, errs.Conflict},
		{"bad name", admin, func(s *ca.Spec) { s.Name = "../x" }, errs.Invalid},
		{"no subject", admin, func(s *ca.Spec) { s.Subject = nil }, errs.Invalid},
		{"unknown parent", admin, func(s *ca.Spec) { s.Parent = "none" }, errs.NotFound},
		{"outlives its parent", admin, func(s *ca.Spec) { s.Parent, s.Validity = "devices", 20*365*86400 }, errs.Invalid},
		{"below an issuing CA", admin, func(s *ca.Spec) { s.Parent = "devices" }, errs.Invalid},
		{"as long a path as its parent", admin, func(s *ca.Spec) { s.PathLen = 1 }, errs.Invalid},
		{"no validity", admin, func(s *ca.Spec) { s.Validity = 0 }, errs.Invalid},
		{"unknown algorithm", admin, func(s *ca.Spec) { s.Algorithm = "rsa-512" }, errs.Invalid},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := good
			tt.change(&s)
			if _, err := f.Create(t.Context(), tt.actor, s); !errs.Is(err, tt.kind) {
				t.Errorf("got %v (%v), want kind %v", err, errs.KindOf(err), tt.kind)
			}
		})
	}
	if _, err := f.Create(t.Context(), admin, good); err != nil {
		t.Errorf("the unchanged one: %v", err)
	}
}

func TestEveryDefaultProfileIssues(t *testing.T) {
	f := newFixture(t)
	f.hierarchy(t)
	for _, p := range f.deps.Profiles.All() {
		t.Run(p.Name, func(t *testing.T) {
			usage := x509.ExtKeyUsageClientAuth
			switch p.Name {
			case "server":
				usage = x509.ExtKeyUsageServerAuth
			case "birth":
				usage = x509.ExtKeyUsageAny
			}
			for _, alg := range []key.Algorithm{key.P256, key.P384} {
				if !slices.Contains(p.Keys, der.KeyKind(alg)) {
					continue
				}
				c := issue(t, f.Authority, f.order(t, p.Name, request(t, newKey(t, alg), der.RequestSpec{})))
				cert := f.verify(t, c.DER, usage)
				if cert.IsCA || cert.Subject.CommonName != "pump-17" || cert.NotBefore.Unix() != c.NotBefore || cert.NotAfter.Unix() != c.NotAfter {
					t.Errorf("got subject %v, %s to %s", cert.Subject, cert.NotBefore, cert.NotAfter)
				}
				if got := cert.SerialNumber.Bytes(); len(got) != 16 || string(got) != string(c.Serial[:]) {
					t.Errorf("serial number %x, want %x", got, c.Serial)
				}
				if !p.Forever && c.NotAfter-c.NotBefore+1 != p.Validity {
					t.Errorf("validity of %d s, want %d", c.NotAfter-c.NotBefore+1, p.Validity)
				}
				if p.Forever && (c.NotAfter != der.NoExpiry || c.Serial[0] != 0x42) {
					t.Errorf("life-long certificate ends %d, serial %x", c.NotAfter, c.Serial)
				}
			}
		})
	}
}

// Another implementation is stricter than ours in places: OpenSSL with -x509_strict must accept every kind of certificate.
func TestOpenSSLAcceptsEveryProfile(t *testing.T) {
	f := newFixture(t)
	f.hierarchy(t)
	dir := t.TempDir()
	write := func(name string, certs ...[]byte) string {
		var text []byte
		for _, raw := range certs {
			text = append(text, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: raw})...)
		}
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, text, 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	for _, p := range f.deps.Profiles.All() {
		c := issue(t, f.Authority, f.order(t, p.Name, request(t, newKey(t, key.Algorithm(p.Keys[0])), der.RequestSpec{})))
		chain := f.Chain(c.Issuer)
		out, err := exec.Command("openssl", "verify", "-x509_strict", "-attime", strconv.Itoa(start), "-CAfile", write("root", chain[1]),
			"-untrusted", write("issuer", chain[0]), write("leaf", c.DER)).CombinedOutput()
		if err != nil {
			t.Errorf("openssl verify of profile %s: %v\n%s", p.Name, err, out)
		}
	}
}

func TestNames(t *testing.T) {
	f := newFixture(t)
	f.hierarchy(t)
	profile := func(san string) *ca.Profile {
		t.Helper()
		ps, err := ca.LoadProfiles(fstest.MapFS{"p.yaml": {Data: []byte("name: p\nissuer: devices\nsubject: [{O: Acme}, {CN: \"{device.name}\"}, {OU: \"{device.tag.site}\"}]\nkey_usage: [digitalSignature]\nvalidity: 1d\n" + san)}})
		if err != nil {
			t.Fatal(err)
		}
		p, _ := ps.Get("p")
		return p
	}
	free := profile("san: {dns: {fixed: [\"{device.name}.fleet.example\"], request: [\"*.lab.example\", \"*.*.lab.example\"], max: 2, wildcard: true}, ip: {registry: true, request: [10.0.0.0/8]}, uri: {request: [\"urn:uuid:*\"]}, email: {request: [\"*@example.com\"]}}\n")
	tight := profile("san: {dns: {request: [\"*.lab.example\"], require: true}}\n")
	device, gateway := f.order(t, "device", nil).Profile, f.order(t, "gateway", nil).Profile
	addr := netip.MustParseAddr
	tests := []struct {
		name    string
		profile *ca.Profile
		spec    der.RequestSpec
		want    string // names of the certificate
		kind    errs.Kind
		refused string
	}{
		{"nothing asked", free, der.RequestSpec{}, "pump-17.fleet.example 192.0.2.17", 0, ""},
		{"what it gets anyway", free, der.RequestSpec{Names: der.AltNames{DNS: []string{"PUMP-17.fleet.example"}, IP: []netip.Addr{addr("192.0.2.17")}}}, "pump-17.fleet.example 192.0.2.17", 0, ""},
		{"subject repeated", free, der.RequestSpec{Subject: dn(t, "O=Acme, CN=pump-17, OU=north")}, "pump-17.fleet.example 192.0.2.17", 0, ""},
		{"part of the subject", free, der.RequestSpec{Subject: dn(t, "CN=pump-17")}, "pump-17.fleet.example 192.0.2.17", 0, ""},
		{"other subject", free, der.RequestSpec{Subject: dn(t, "CN=pump-18")}, "", errs.Denied, `the request asks for the subject "CN=pump-18", but the profile p gives "O=Acme, CN=pump-17, OU=north": ask for that, or leave the subject empty`},
		{"chosen within patterns", free, der.RequestSpec{Names: der.AltNames{DNS: []string{"a.lab.example", "b.a.lab.example"}, IP: []netip.Addr{addr("10.1.2.3")}, URI: []string{"urn:uuid:1"}, Email: []string{"me@example.com"}}},
			"pump-17.fleet.example a.lab.example b.a.lab.example 192.0.2.17 10.1.2.3 urn:uuid:1 me@example.com", 0, ""},
		{"chosen wildcard", free, der.RequestSpec{Names: der.AltNames{DNS: []string{"*.a.lab.example"}}}, "pump-17.fleet.example *.a.lab.example 192.0.2.17", 0, ""},
		{"too many", free, der.RequestSpec{Names: der.AltNames{DNS: []string{"a.lab.example", "b.lab.example", "c.lab.example"}}}, "", errs.Denied, "the request asks for more than 2 names of the kind DNS name, which is what the profile p permits"},
		{"foreign DNS name", free, der.RequestSpec{Names: der.AltNames{DNS: []string{"bank.example"}}}, "", errs.Denied, "the request asks for the DNS name \"bank.example\", which the profile p does not permit for this device"},
		{"foreign address", free, der.RequestSpec{Names: der.AltNames{IP: []netip.Addr{addr("11.0.0.1")}}}, "", errs.Denied, "the request asks for the IP address \"11.0.0.1\", which the profile p does not permit for this device"},
		{"foreign URI", free, der.RequestSpec{Names: der.AltNames{URI: []string{"https://bank.example/"}}}, "", errs.Denied, "the request asks for the URI \"https://bank.example/\", which the profile p does not permit for this device"},
		{"foreign mail address", free, der.RequestSpec{Names: der.AltNames{Email: []string{"me@bank.example"}}}, "", errs.Denied, "the request asks for the mail address \"me@bank.example\", which the profile p does not permit for this device"},
		{"otherName", free, der.RequestSpec{Names: der.AltNames{Other: []der.OtherName{der.HardwareModule(der.OIDCommonName, []byte{1})}}}, "", errs.Denied, "the request asks for an otherName of type 1.3.6.1.5.5.7.8.4, which the profile p does not give"},
		{"wildcard without leave", tight, der.RequestSpec{Names: der.AltNames{DNS: []string{"*.lab.example"}}}, "", errs.Denied, "the request asks for the DNS name \"*.lab.example\", which the profile p does not permit for this device"},
		{"required name missing", tight, der.RequestSpec{}, "", errs.Invalid, "the profile p needs a DNS name: register one for the device, or ask for one that the profile permits"},
		{"required name given", tight, der.RequestSpec{Names: der.AltNames{DNS: []string{"a.lab.example"}}}, "a.lab.example", 0, ""},
		{"registered name, but not for this profile", device, der.RequestSpec{Names: der.AltNames{DNS: []string{"pump-17.example.com"}}}, "", errs.Denied, "the request asks for the DNS name \"pump-17.example.com\", which the profile device does not permit for this device"},
		{"registered names", gateway, der.RequestSpec{}, "pump-17.example.com 192.0.2.17 urn:mooring:device:" + strings.Repeat("ab", 16), 0, ""},
	}
	k := newKey(t, key.P256)
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			o := f.order(t, "device", request(t, k, tt.spec))
			o.Profile = tt.profile
			p, err := f.Prepare(t.Context(), o)
			if tt.refused != "" {
				if !errs.Is(err, tt.kind) || errs.Public(err) != tt.refused {
					t.Errorf("got  %v (%v)\nwant %s (%v)", err, errs.KindOf(err), tt.refused, tt.kind)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			c, err := p.Sign(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			cert := parse(t, c.DER)
			names := append([]string{}, cert.DNSNames...)
			for _, ip := range cert.IPAddresses {
				names = append(names, ip.String())
			}
			for _, u := range cert.URIs {
				names = append(names, u.String())
			}
			if got := strings.Join(append(names, cert.EmailAddresses...), " "); got != tt.want {
				t.Errorf("got %s, want %s", got, tt.want)
			}
		})
	}
	o := f.order(t, "device", request(t, k, der.RequestSpec{}))
	o.Profile, o.Registry.Tags = free, nil
	if _, err := f.Prepare(t.Context(), o); !errs.Is(err, errs.Invalid) || errs.Public(err) != `the device has no tag "site", which its profile writes into the certificate` {
		t.Errorf("missing tag: %v", err)
	}
}

func TestRequestsForPowerAreRefused(t *testing.T) {
	f := newFixture(t)
	f.hierarchy(t)
	k := newKey(t, key.P256)
	tests := []struct {
		name      string
		extension der.Extension
		want      string
	}{
		{"CA:TRUE", der.NewBasicConstraints(true, 0), "basicConstraints CA:TRUE"},
		{"keyCertSign", der.NewKeyUsage(der.DigitalSignature | der.KeyCertSign), "keyCertSign"},
		{"cRLSign", der.NewKeyUsage(der.CRLSign), "cRLSign"},
		{"OCSPSigning", der.NewExtKeyUsage(der.OIDOCSPSigning), "OCSP signing"},
		{"cmcRA", der.NewExtKeyUsage(der.OIDClientAuth, der.OIDCMCRA), "CMC CA or RA"},
	}
	for _, tt := range tests {
		_, err := f.Prepare(t.Context(), f.order(t, "device", request(t, k, der.RequestSpec{Extensions: []der.Extension{tt.extension}})))
		if !errs.Is(err, errs.Denied) || !strings.Contains(errs.Public(err), tt.want) {
			t.Errorf("%s: got %v, want a refusal that names %q", tt.name, err, tt.want)
		}
	}
	echoed := []der.Extension{der.NewSubjectKeyID([]byte{1, 2, 3}), der.NewAuthorityKeyID([]byte{4}), der.NewKeyUsage(der.KeyAgreement),
		der.NewExtKeyUsage(der.OIDServerAuth), der.NewBasicConstraints(false, 0), der.NewMustStaple()}
	c := issue(t, f.Authority, f.order(t, "device", request(t, k, der.RequestSpec{Extensions: echoed})))
	cert := parse(t, c.DER)
	if cert.KeyUsage != x509.KeyUsageDigitalSignature || len(cert.ExtKeyUsage) != 1 || len(cert.SubjectKeyId) != 20 {
		t.Errorf("echoed extensions were copied: %b %v %x", cert.KeyUsage, cert.ExtKeyUsage, cert.SubjectKeyId)
	}
}

func TestKeyPolicy(t *testing.T) {
	f := newFixture(t)
	f.hierarchy(t)
	devices, _ := f.Issuer("devices")
	weak := &rsa.PublicKey{N: new(big.Int).Lsh(big.NewInt(3), 1030), E: 65537}
	small := &rsa.PublicKey{N: new(big.Int).SetBit(new(big.Int).Lsh(big.NewInt(3), 2046), 0, 1), E: 3}
	edPub := newKey(t, key.Ed25519).Public().(ed25519.PublicKey)
	tests := []struct {
		name    string
		profile string
		pub     crypto.PublicKey
		kind    errs.Kind
		want    string
	}{
		{"CA key", "device", devices.Certificate().PublicKey, errs.Denied, "that of a CA"},
		{"short RSA", "device", weak, errs.Invalid, "RSA key of 1032 bits"},
		{"RSA exponent 3", "device", small, errs.Invalid, "RSA exponent 3"},
		{"Ed25519 where not permitted", "gateway", edPub, errs.Denied, "does not accept keys of kind ed25519"},
		{"P-384 where not permitted", "device-short", newKey(t, key.P384).Public(), errs.Denied, "does not accept keys of kind ec-p384"},
	}
	for _, tt := range tests {
		o := f.order(t, tt.profile, nil)
		var err error
		if o.SPKI, err = x509.MarshalPKIXPublicKey(tt.pub); err != nil {
			t.Fatal(err)
		}
		if _, err := f.Prepare(t.Context(), o); !errs.Is(err, tt.kind) || !strings.Contains(errs.Public(err), tt.want) {
			t.Errorf("%s: got %v, want %q", tt.name, err, tt.want)
		}
	}
	o := f.order(t, "device", nil)
	if _, err := f.Prepare(t.Context(), o); !errs.Is(err, errs.Invalid) {
		t.Errorf("no key at all: %v", err)
	}
	var err error
	if o.SPKI, err = x509.MarshalPKIXPublicKey(edPub); err != nil {
		t.Fatal(err)
	}
	f.verify(t, issue(t, f.Authority, o).DER, x509.ExtKeyUsageClientAuth)
}

func TestIssuingStopsInTime(t *testing.T) {
	f := newFixture(t)
	f.hierarchy(t)
	devices, _ := f.Issuer("devices")
	end := devices.Certificate().NotAfter.Unix()
	o := f.order(t, "device", request(t, newKey(t, key.P256), der.RequestSpec{}))
	*f.now = end - 90*86400 + 1 + o.Profile.Backdate
	c := issue(t, f.Authority, o)
	if c.NotAfter != end {
		t.Errorf("the last certificate ends at %d, its CA at %d", c.NotAfter, end)
	}
	*f.now++
	if _, err := f.Prepare(t.Context(), o); !errs.Is(err, errs.Unavailable) || !strings.Contains(errs.Public(err), "an administrator must set up its successor") {
		t.Errorf("one second later: %v", err)
	}
	*f.now = start - 3600
	if c := issue(t, f.Authority, o); c.NotBefore < devices.Certificate().NotBefore.Unix() {
		t.Errorf("notBefore %d before that of the CA", c.NotBefore)
	}
}

func TestForeverNeedsAForeverCA(t *testing.T) {
	f := newFixture(t)
	f.hierarchy(t)
	ps, err := ca.LoadProfiles(fstest.MapFS{"p.yaml": {Data: []byte("name: p\nissuer: devices\nsubject: [{CN: x}]\nkey_usage: [digitalSignature]\nvalidity: forever\n")}})
	if err != nil {
		t.Fatal(err)
	}
	o := f.order(t, "device", request(t, newKey(t, key.P256), der.RequestSpec{}))
	o.Profile, _ = ps.Get("p")
	if _, err := f.Prepare(t.Context(), o); !errs.Is(err, errs.Unavailable) || !strings.Contains(errs.Public(err), "without an end") {
		t.Errorf("got %v", err)
	}
}

func TestMissingThings(t *testing.T) {
	f := newFixture(t)
	o := f.order(t, "device", request(t, newKey(t, key.P256), der.RequestSpec{}))
	if _, err := f.Prepare(t.Context(), o); !errs.Is(err, errs.Unavailable) {
		t.Errorf("no CA yet: %v", err)
	}
	f.hierarchy(t)
	empty, err := key.Create(filepath.Join(t.TempDir(), "other"), []byte("unlock that"), key.Options{})
	if err != nil {
		t.Fatal(err)
	}
	f.keys = empty
	if _, err := f.reopen(t).Prepare(t.Context(), o); !errs.Is(err, errs.Unavailable) {
		t.Errorf("no key: %v", err)
	}
}

func TestSameIdentity(t *testing.T) {
	f := newFixture(t)
	f.hierarchy(t)
	k := newKey(t, key.P256)
	c := issue(t, f.Authority, f.order(t, "gateway", request(t, k, der.RequestSpec{})))
	names := der.AltNames{DNS: []string{"pump-17.example.com"}, IP: []netip.Addr{netip.MustParseAddr("192.0.2.17")}, URI: []string{"urn:mooring:device:" + strings.Repeat("ab", 16)}}
	subject := dn(t, "CN=pump-17")
	fewer := names
	fewer.IP = nil
	tests := []struct {
		name string
		spec der.RequestSpec
		ok   bool
	}{
		{"the same", der.RequestSpec{Subject: subject, Names: names}, true},
		{"the same octets", der.RequestSpec{RawSubject: parse(t, c.DER).RawSubject, Names: names}, true},
		{"printable instead of UTF-8", der.RequestSpec{RawSubject: []byte("\x30\x12\x31\x10\x30\x0e\x06\x03\x55\x04\x03\x13\x07pump-17"), Names: names}, true},
		{"empty subject", der.RequestSpec{Names: names}, false},
		{"other subject", der.RequestSpec{Subject: dn(t, "CN=pump-18"), Names: names}, false},
		{"longer subject", der.RequestSpec{Subject: dn(t, "CN=pump-17, O=Acme"), Names: names}, false},
		{"no names", der.RequestSpec{Subject: subject}, false},
		{"fewer names", der.RequestSpec{Subject: subject, Names: fewer}, false},
	}
	for _, tt := range tests {
		err := ca.SameIdentity(c.DER, request(t, k, tt.spec))
		if tt.ok && err != nil || !tt.ok && !errs.Is(err, errs.Denied) {
			t.Errorf("%s: got %v", tt.name, err)
		}
	}
	if err := ca.SameIdentity([]byte{0x30, 0}, request(t, k, der.RequestSpec{})); !errs.Is(err, errs.Invalid) {
		t.Errorf("garbage as old certificate: %v", err)
	}
}

func TestStore(t *testing.T) {
	f := newFixture(t)
	f.hierarchy(t)
	r := request(t, newKey(t, key.P256), der.RequestSpec{})
	var certs []*ca.Certificate
	var prev []byte
	for i := range 5 {
		*f.now = start + int64(i)*86400
		o := f.order(t, "device", r)
		o.PrevSerial = prev
		certs = append(certs, issue(t, f.Authority, o))
		prev = certs[i].Serial[:]
	}
	f.record(t, certs...)
	for _, c := range certs {
		got, err := f.Get(t.Context(), c.Serial[:])
		if err != nil {
			t.Fatal(err)
		}
		if string(got.DER) != string(c.DER) || got.Entry(admin).Detail["spki"] != c.Entry(admin).Detail["spki"] || got.Device != c.Device || got.Slot != c.Slot {
			t.Errorf("got %+v, want %+v", got, c)
		}
	}
	if _, err := f.Get(t.Context(), make([]byte, 16)); !errs.Is(err, errs.NotFound) {
		t.Errorf("foreign serial: %v", err)
	}
	history, err := f.History(t.Context(), prev, 0)
	if err != nil || len(history) != 5 || history[4].Serial != certs[0].Serial {
		t.Errorf("History: %d certificates, %v", len(history), err)
	}
	if history, err = f.History(t.Context(), prev, 2); err != nil || len(history) != 2 {
		t.Errorf("History of 2: %d certificates, %v", len(history), err)
	}
	var pages, seen int
	for cursor := ""; ; {
		page, next, err := f.List(t.Context(), admin, ca.CertFilter{Profile: "device", Cell: new(uint8(9)), Device: &[16]byte{0xab}, Cursor: cursor, Limit: 2})
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range page {
			if c.Serial != certs[seen].Serial {
				t.Errorf("certificate %d of the list is %x, want %x", seen, c.Serial, certs[seen].Serial)
			}
			seen++
		}
		pages++
		if cursor = next; next == "" {
			break
		}
	}
	if pages != 3 || seen != 5 {
		t.Errorf("List: %d pages of %d certificates, want 3 of 5", pages, seen)
	}
	issuer := certs[0].Issuer
	page, _, err := f.List(t.Context(), admin, ca.CertFilter{Issuer: &issuer, ExpiresBefore: certs[1].NotAfter + 1, ExpiresAfter: certs[1].NotAfter})
	if err != nil || len(page) != 1 || page[0].Serial != certs[1].Serial {
		t.Errorf("List by end: %d certificates, %v", len(page), err)
	}
	if _, _, err := f.List(t.Context(), admin, ca.CertFilter{Cursor: "x"}); !errs.Is(err, errs.Invalid) {
		t.Errorf("bad cursor: %v", err)
	}
	if _, _, err := f.List(t.Context(), access.Actor{}, ca.CertFilter{}); !errs.Is(err, errs.Denied) {
		t.Errorf("List for a stranger: %v", err)
	}
	if got := hex.EncodeToString(certs[0].Serial[5:6]); got != "09" {
		t.Errorf("cell in the serial number: %s", got)
	}
}

func TestAuditFindsEveryChange(t *testing.T) {
	tests := []struct{ name, sql, want string }{
		{"nothing", "", ""},
		{"certificate gone", `DELETE FROM cert WHERE day = (SELECT max(day) FROM cert)`, "was issued, but is not in the database"},
		{"certificate of another device", `UPDATE cert SET device = $1 WHERE day = (SELECT min(day) FROM cert)`, "differs from what was issued"},
		{"other DER", `UPDATE cert SET der = $1`, "differs from what was issued"},
		{"certificate from nowhere", `INSERT INTO cert SELECT cell, day + 1, $1, device, slot, issuer, profile, version, prev_serial, not_before, not_after, spki, der FROM cert`, "no entry says that it was issued"},
		{"CA renamed", `UPDATE ca_issuer SET name = 'evil' WHERE name = 'devices'`, `CA "evil" is in the database, but no entry says that it was created`},
		{"CA key changed", `UPDATE ca_issuer SET key = 'evil' WHERE name = 'devices'`, `CA "devices" in the database differs from what was created`},
		{"CA with other shards", `UPDATE ca_issuer SET shards = 4 WHERE name = 'devices'`, `CA "devices" in the database differs from what was created`},
		{"CA gone", `DELETE FROM ca_issuer WHERE name = 'birth'`, `CA "birth" was created, but is not in the database`},
		{"profile edited", `UPDATE profile_version SET yaml = 'x' WHERE name = 'device'`, "differs from what was loaded"},
		{"profile gone", `DELETE FROM profile_version WHERE name = 'device'`, "was loaded, but is not in the database"},
	}
	keys := newFixture(t).keys // opening a key store is slow on purpose
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f := newFixtureWith(t, keys)
			f.hierarchy(t)
			r := request(t, newKey(t, key.P256), der.RequestSpec{})
			first := issue(t, f.Authority, f.order(t, "device", r))
			*f.now += 86400
			second := issue(t, f.Authority, f.order(t, "device", r))
			f.record(t, first)
			f.record(t, second)
			if tt.sql != "" {
				var args []any
				if strings.Contains(tt.sql, "$1") {
					args = []any{append([]byte{0x41, 0x6a, 0, 0, 0, 9}, make([]byte, 10)...)}
				}
				if err := f.db.Do(t.Context(), func(ctx context.Context, tx *db.Tx) error {
					sql := tt.sql
					if strings.HasPrefix(sql, "INSERT") {
						sql += " LIMIT 1"
					}
					_, err := tx.Exec(ctx, sql, args...)
					return err
				}); err != nil {
					t.Fatal(err)
				}
			}
			if err := f.audit.Sequence(t.Context()); err != nil {
				t.Fatal(err)
			}
			report, err := f.audit.Verify(t.Context(), audit.VerifyOptions{Checkers: []audit.Checker{f.Checker()}})
			if err != nil {
				t.Fatal(err)
			}
			found := ""
			for _, finding := range report.Findings {
				found += finding.String() + "\n"
			}
			if tt.want == "" && found != "" || !strings.Contains(found, tt.want) {
				t.Errorf("got %q, want %q in it", found, tt.want)
			}
		})
	}
}

// Issuing goes on while CAs are added and read again; run with -race.
func TestIssuingBesideNewCAs(t *testing.T) {
	f := newFixture(t)
	f.hierarchy(t)
	o := f.order(t, "device", request(t, newKey(t, key.P256), der.RequestSpec{}))
	serials := make(chan [16]byte, 4*50)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 50 {
				p, err := f.Prepare(t.Context(), o)
				if err != nil {
					t.Error(err)
					return
				}
				c, err := p.Sign(t.Context())
				if err != nil {
					t.Error(err)
					return
				}
				serials <- c.Serial
			}
		})
	}
	for _, name := range []string{"a", "b", "c"} {
		if _, err := f.Create(t.Context(), admin, ca.Spec{Name: name, Parent: "root", Subject: dn(t, "CN="+name), Algorithm: key.P256, Validity: 86400}); err != nil {
			t.Error(err)
		}
		if err := f.Load(t.Context()); err != nil {
			t.Error(err)
		}
	}
	wg.Wait()
	close(serials)
	seen := map[[16]byte]bool{}
	for s := range serials {
		if seen[s] {
			t.Errorf("serial number %x twice", s)
		}
		seen[s] = true
	}
	if len(seen) != 200 || f.Issued() != 200 {
		t.Errorf("%d serial numbers, %d issued, want 200", len(seen), f.Issued())
	}
}

func TestPreparedIsSignedOnce(t *testing.T) {
	f := newFixture(t)
	f.hierarchy(t)
	p, err := f.Prepare(t.Context(), f.order(t, "device", request(t, newKey(t, key.P256), der.RequestSpec{})))
	if err != nil {
		t.Fatal(err)
	}
	devices, _ := f.Issuer("devices")
	before := f.keys.Uses()[devices.Key()]
	if _, err := p.Sign(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Sign(t.Context()); err == nil {
		t.Error("signed a second time")
	}
	if got := f.keys.Uses()[devices.Key()] - before; got != 1 {
		t.Errorf("the CA's key was used %d times, want 1", got)
	}
}

func TestTamperedCADoesNotLoad(t *testing.T) {
	f := newFixture(t)
	f.hierarchy(t)
	services, _ := f.Issuer("services")
	err := f.db.Do(t.Context(), func(ctx context.Context, tx *db.Tx) error {
		_, err := tx.Exec(ctx, `UPDATE ca_issuer SET parent = $1 WHERE name = 'devices'`, idOf(services))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	again := ca.New(f.deps)
	if err := again.Load(t.Context()); err == nil || !strings.Contains(err.Error(), `checking the certificate of CA "devices"`) {
		t.Errorf("a CA under the wrong parent loaded: %v", err)
	}
}

func idOf(i *ca.Issuer) []byte { id := i.ID(); return id[:] }
