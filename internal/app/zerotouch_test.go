package app_test

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"fmt"
	"math/big"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"mooring/agent"
	"mooring/internal/app/apptest"
	"mooring/internal/base/conf"
	"mooring/internal/base/errs"
	"mooring/internal/core/access"
	"mooring/internal/core/audit"
	"mooring/internal/core/device"
	"mooring/internal/core/maker"
	"mooring/internal/core/revoke"
	"mooring/wire/der"
)

// factory is a manufacturer's CA, with an intermediate one below its root.
type factory struct {
	test              *testing.T
	root, line        *x509.Certificate
	rootKey, lineKey  crypto.Signer
	notBefore, before time.Time // the CAs' own life
}

func newFactory(t *testing.T, name string, until time.Time) *factory {
	f := &factory{test: t, rootKey: apptest.Key(t), lineKey: apptest.Key(t), notBefore: time.Now().Add(-20 * 365 * 24 * time.Hour), before: until}
	f.root = f.sign(f.ca(name+" Root"), nil, f.rootKey, f.rootKey)
	f.line = f.sign(f.ca(name+" Line 1"), f.root, f.lineKey, f.rootKey)
	return f
}

func (f *factory) ca(name string) *x509.Certificate {
	return &x509.Certificate{Subject: pkix.Name{CommonName: name}, NotBefore: f.notBefore, NotAfter: f.before, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
}

func (f *factory) sign(c, parent *x509.Certificate, key, by crypto.Signer) *x509.Certificate {
	f.test.Helper()
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	must(f.test, err)
	if c.SerialNumber = serial; parent == nil {
		parent = c
	}
	raw, err := x509.CreateCertificate(rand.Reader, c, parent, key.Public(), by)
	must(f.test, err)
	cert, err := x509.ParseCertificate(raw)
	must(f.test, err)
	return cert
}

// device makes an IDevID, which change may bend, with its chain up to the root.
func (f *factory) device(serial string, change func(*x509.Certificate)) *tls.Certificate {
	f.test.Helper()
	return f.deviceWith(apptest.Key(f.test), serial, change)
}

func (f *factory) deviceWith(key crypto.Signer, serial string, change func(*x509.Certificate)) *tls.Certificate {
	f.test.Helper()
	c := &x509.Certificate{Subject: pkix.Name{Organization: []string{"ACME"}, CommonName: "Pump", SerialNumber: serial}, NotBefore: time.Now().Add(-time.Hour),
		NotAfter: time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC), KeyUsage: x509.KeyUsageDigitalSignature}
	if change != nil {
		change(c)
	}
	leaf := f.sign(c, f.line, key, f.lineKey)
	return &tls.Certificate{Certificate: [][]byte{leaf.Raw, f.line.Raw}, PrivateKey: key, Leaf: leaf}
}

var farAway = time.Date(2090, 1, 1, 0, 0, 0, 0, time.UTC)

// lifeOfMakers leaves the rows of manufacturers and of their products.
func lifeOfMakers(t *testing.T, p *apptest.Platform) {
	f := newFactory(t, "ACME", farAway)
	_, err := p.Makers.Add(t.Context(), apptest.Operator(), maker.Spec{Name: "acme", Organization: "ACME", Anchors: [][]byte{f.root.Raw}, MASA: "https://masa.test", Trusted: [][]byte{f.line.Raw}})
	must(t, err)
	_, err = p.Makers.Add(t.Context(), apptest.Operator(), maker.Spec{Name: "gone", Timeless: true, Anchors: [][]byte{f.line.Raw}})
	must(t, err)
	_, err = p.Makers.Remove(t.Context(), apptest.Operator(), "gone")
	must(t, err)
	for n, serial := range []string{"AC-1", "AC-2"} {
		d := p.Add(t, device.Spec{Name: "pump-" + serial, Profile: "device", Product: device.Product{Maker: "acme", Serial: serial}})
		if n == 0 {
			_, err = p.Devices.Bind(t.Context(), d.ID, f.device(serial, nil).Leaf)
			must(t, err)
		}
	}
}

// enrolBy enrols by a certificate from the factory over one protocol, as our agent does.
func enrolBy(t *testing.T, p *apptest.Platform, server, name string, idevid *tls.Certificate) (*tls.Certificate, error) {
	t.Helper()
	kind := der.KeyKind("ec-p256")
	if strings.HasPrefix(server, "scep:") {
		kind = "rsa-2048"
	}
	o := agent.Options{Dir: filepath.Join(t.TempDir(), "agent"), Now: p.Clock.Now, Sleep: func(context.Context, time.Duration) error { return nil }}
	config := agent.Config{Server: server, Name: name, KeyType: kind}
	if strings.HasPrefix(server, "acme:") {
		config.Names = []string{"dns:" + name + ".example.com"}
	}
	a, err := agent.Create(o, config)
	must(t, err)
	first := agent.First{Roots: []*x509.Certificate{p.Root}}
	first.CertFile, first.KeyFile = asFiles(t, *idevid)
	if _, err := a.Enrol(t.Context(), first); err != nil {
		return nil, err
	}
	identity, err := a.Identity()
	must(t, err)
	return identity.TLS(), nil
}

// wantNone tries a certificate and wants a refusal, and its reason in the record.
func wantNone(t *testing.T, p *apptest.Platform, server, name string, idevid *tls.Certificate, reason string) {
	t.Helper()
	if _, err := enrolBy(t, p, server, name, idevid); err == nil {
		t.Fatal("it got a certificate")
	}
	if !slices.ContainsFunc(p.Record(t), func(e audit.Indexed) bool { return strings.Contains(e.Refused, reason) }) {
		t.Errorf("the record tells of no refusal with %q", reason)
	}
}

// byIDevID are the protocols that take a certificate from the factory, and the end of their URL's scheme.
func byIDevID(p *apptest.Platform) map[string]string {
	at := p.Addresses()
	return map[string]string{"EST": at.EST, "EST over CoAP": at.CoAPS, "CMP": "cmp" + strings.TrimPrefix(at.CMP, "http"),
		"ACME": "acme" + strings.TrimPrefix(at.ACME, "https")}
}

// zero is a profile that every protocol but SCEP takes IDevIDs for.
func zero() apptest.Profile {
	return apptest.Variant("gateway", "zero", "evidence: [birth, operational, account]", "acme: trust-account")
}

// TestZeroTouch takes a shipment list and has its devices enrol by what they came with, over each protocol.
func TestZeroTouch(t *testing.T) {
	p := apptest.Start(t, func(c *conf.Config) {
		c.Listen.COAPS, c.Listen.CMP, c.Listen.ACME = "127.0.0.1:0", "127.0.0.1:0", freeAddress(t)
		c.PublicURLs.ACME = "https://" + c.Listen.ACME
	}, zero())
	acme, other, old := newFactory(t, "ACME", farAway), newFactory(t, "Other", farAway), newFactory(t, "Old", time.Now().Add(-30*24*time.Hour))
	weak, err := rsa.GenerateKey(rand.Reader, 1024) // no key that anybody is certified for; large ones, which are what matters, take minutes to make
	must(t, err)
	costly := &factory{test: t, root: acme.root, rootKey: acme.rootKey, lineKey: weak, notBefore: acme.notBefore, before: farAway}
	costly.line = costly.sign(costly.ca("ACME Line 2"), costly.root, costly.lineKey, costly.rootKey)
	for _, s := range []maker.Spec{
		{Name: "acme", Anchors: [][]byte{acme.root.Raw}},
		{Name: "old", Anchors: [][]byte{old.root.Raw}, Timeless: true},
		{Name: "strict", Anchors: [][]byte{newFactory(t, "Strict", farAway).root.Raw}, Organization: "Strict"},
	} {
		_, err := p.Makers.Add(t.Context(), apptest.Operator(), s)
		must(t, err)
	}
	started := time.Now()
	var list strings.Builder
	list.WriteString("name,profile,maker,serial,names\n")
	for _, c := range []string{"EST", "EST over CoAP", "CMP", "ACME"} {
		c = strings.ReplaceAll(c, " ", "")
		for _, kind := range []string{"good", "suspended", "expired", "issuer", "bad", "gone"} {
			fmt.Fprintf(&list, "%[1]s-%[2]s,zero,acme,%[1]s/%[2]s,dns:%[1]s-%[2]s.example.com\n", kind, c)
		}
		fmt.Fprintf(&list, "timeless-%[1]s,zero,old,AC-1%[1]s,dns:timeless-%[1]s.example.com\n", c)
	}
	_, err = p.Devices.Import(t.Context(), apptest.Operator(), device.Source{R: strings.NewReader(list.String()), Name: "shipment.csv", Format: "csv"}, nil)
	must(t, err)

	for name, server := range byIDevID(p) {
		word := strings.ReplaceAll(name, " ", "")
		refused := func(t *testing.T, idevid *tls.Certificate, reason string) {
			t.Helper()
			wantNone(t, p, server, "gone-"+word, idevid, reason)
		}
		t.Run(name, func(t *testing.T) {
			idevid := acme.device("good/"+word, nil)
			t.Run("listed", func(t *testing.T) {
				got, err := enrolBy(t, p, server, "good-"+word, idevid)
				must(t, err)
				if r := p.Send(t, apptest.Call{Path: "/.well-known/est/simplereenroll", Body: []byte("no request")}, *got); r.StatusCode != 400 {
					t.Errorf("a request with the certificate: %s", r)
				}
			})
			t.Run("the same again", func(t *testing.T) {
				_, err := enrolBy(t, p, server, "good-"+word, idevid)
				must(t, err)
			})
			t.Run("duplicate serial", func(t *testing.T) {
				refused(t, acme.device("good/"+word, nil), fmt.Sprintf("serial number %s of the manufacturer acme is bound to another certificate", "good/"+word))
			})
			t.Run("not listed", func(t *testing.T) {
				refused(t, acme.device("new/"+word, nil), fmt.Sprintf("serial number %s of the manufacturer acme is on no ownership list", "new/"+word))
			})
			t.Run("wrong issuer", func(t *testing.T) {
				refused(t, other.device("issuer/"+word, nil), "neither issued here nor registered as a birth certificate")
			})
			t.Run("issuer of the same name", func(t *testing.T) {
				forged := newFactory(t, "ACME", farAway).device("issuer/"+word, nil)
				refused(t, forged, "neither issued here nor registered as a birth certificate")
			})
			t.Run("intermediate with a key that nobody is certified for", func(t *testing.T) {
				refused(t, costly.device("issuer/"+word, nil), "neither issued here nor registered as a birth certificate")
			})
			t.Run("expired", func(t *testing.T) {
				refused(t, acme.device("expired/"+word, func(c *x509.Certificate) { c.NotAfter = started.Add(-time.Minute) }), "the client certificate expired at")
			})
			t.Run("lifetime ignored for the manufacturer", func(t *testing.T) {
				_, err := enrolBy(t, p, server, "timeless-"+word, old.device("AC-1"+word, func(c *x509.Certificate) {
					c.NotBefore, c.NotAfter = time.Now().Add(-1000*24*time.Hour), time.Now().Add(-time.Hour)
				}))
				must(t, err)
			})
			t.Run("not yet valid, lifetime ignored", func(t *testing.T) {
				refused(t, old.device("AC-2"+word, func(c *x509.Certificate) { c.NotBefore = started.Add(time.Hour) }), "is not valid before")
			})
			t.Run("no serialNumber", func(t *testing.T) {
				refused(t, acme.device("", nil), "the certificate of the manufacturer acme has no serialNumber in its subject")
			})
			t.Run("two serialNumbers", func(t *testing.T) {
				refused(t, acme.device("bad/"+word, func(c *x509.Certificate) {
					c.Subject.ExtraNames = []pkix.AttributeTypeAndValue{{Type: asn1.ObjectIdentifier{2, 5, 4, 5}, Value: "good/" + word}, {Type: asn1.ObjectIdentifier{2, 5, 4, 5}, Value: "bad/" + word}}
				}), "has 2 serialNumbers in its subject")
			})
			t.Run("suspended", func(t *testing.T) {
				id, _ := p.Devices.IDOf("suspended-" + word)
				_, err := p.Revoke.Device(t.Context(), apptest.Operator(), id, device.Suspend, revoke.Unspecified)
				must(t, err)
				refused(t, acme.device("suspended/"+word, nil), "this device is suspended")
				if d := p.Load(t, id); len(d.Slots) > 0 {
					t.Errorf("it was bound all the same: %+v", d.Slots)
				}
			})
		})
	}
	t.Run("manufacturer removed", func(t *testing.T) {
		idevid := acme.device("gone/EST", nil)
		_, err := enrolBy(t, p, p.Addresses().EST, "gone-EST", idevid)
		must(t, err)
		_, err = p.Makers.Remove(t.Context(), apptest.Operator(), "acme")
		must(t, err)
		wantNone(t, p, p.Addresses().EST, "gone-EST", idevid, "its manufacturer acme is no longer registered")
		_, err = p.Makers.Add(t.Context(), apptest.Operator(), maker.Spec{Name: "acme", Anchors: [][]byte{acme.line.Raw}})
		must(t, err)
		_, err = enrolBy(t, p, p.Addresses().EST, "gone-EST", idevid)
		must(t, err)
	})
	t.Run("exchanged part", func(t *testing.T) {
		id, _ := p.Devices.IDOf("gone-EST")
		_, err := p.Devices.Change(t.Context(), apptest.Operator(), id, device.Change{Birth: &[]byte{}})
		must(t, err)
		_, err = enrolBy(t, p, p.Addresses().EST, "gone-EST", acme.device("gone/EST", nil))
		must(t, err)
	})
	t.Run("taken from the list", func(t *testing.T) {
		idevid := acme.device("bad/EST", nil)
		_, err := enrolBy(t, p, p.Addresses().EST, "bad-EST", idevid)
		must(t, err)
		id, _ := p.Devices.IDOf("bad-EST")
		_, err = p.Devices.Change(t.Context(), apptest.Operator(), id, device.Change{Product: &device.Product{Maker: "acme", Serial: "something else"}})
		must(t, err)
		wantNone(t, p, p.Addresses().EST, "bad-EST", idevid, "shows another product than the device is registered as")
	})
	if report := p.Verify(t); len(report.Findings) > 0 {
		t.Errorf("the record and the tables differ: %v", report.Findings)
	}
}

// TestZeroTouchBySCEP: the same by SCEP, which has RSA keys only; our agent sends its certificate without those above it, so the CA that issued it is registered.
func TestZeroTouchBySCEP(t *testing.T) {
	p := apptest.Start(t, func(c *conf.Config) { c.Listen.SCEP = "127.0.0.1:0" },
		apptest.Variant("device", "printer", "keys: [ec-p256, rsa-2048]", "evidence: [birth, operational]", "scep: {ra: scep-ra}"))
	acme := newFactory(t, "ACME", farAway)
	_, err := p.Makers.Add(t.Context(), apptest.Operator(), maker.Spec{Name: "acme", Anchors: [][]byte{acme.line.Raw}})
	must(t, err)
	p.Add(t, device.Spec{Name: "printer-1", Profile: "printer", Product: device.Product{Maker: "acme", Serial: "P-1"}})
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	must(t, err)
	server := "scep" + strings.TrimPrefix(p.Addresses().SCEP, "http") + "/scep/printer"
	_, err = enrolBy(t, p, server, "printer-1", acme.deviceWith(key, "P-1", nil))
	must(t, err)
	wantNone(t, p, server, "printer-1", acme.deviceWith(key, "P-1", nil), "serial number P-1 of the manufacturer acme is bound to another certificate")
	wantNone(t, p, server, "printer-1", acme.deviceWith(key, "P-2", nil), "serial number P-2 of the manufacturer acme is on no ownership list")
}

// TestMakers: what is no manufacturer, and who may say which are.
func TestMakers(t *testing.T) {
	p := apptest.Start(t, nil)
	a, b := newFactory(t, "A", farAway), newFactory(t, "B", farAway)
	add := func(name, organization string, timeless bool, certs ...*x509.Certificate) error {
		s := maker.Spec{Name: name, Organization: organization, Timeless: timeless}
		for _, c := range certs {
			s.Anchors = append(s.Anchors, c.Raw)
		}
		_, err := p.Makers.Add(t.Context(), apptest.Operator(), s)
		return err
	}
	must(t, add("a", "", false, a.root))
	must(t, add("shared-1", "One", false, b.root))
	for _, c := range []struct {
		name, text string
		err        error
		kind       errs.Kind
	}{
		{"no name", "maker: ", add("", "", false, a.root), errs.Invalid},
		{"no certificate", "give the certificate of at least one CA", add("x", "", false), errs.Invalid},
		{"a device's certificate", "is not a CA", add("x", "", false, a.device("1", nil).Leaf), errs.Invalid},
		{"the same certificate twice", "given twice", add("x", "", false, b.line, b.line), errs.Invalid},
		{"a certificate that is there", "registered for this manufacturer already", add("a", "", false, a.root), errs.Conflict},
		{"another word about lifetimes", "remove it first", add("a", "", true, a.line), errs.Conflict},
		{"the CA of a manufacturer without an organization", "is a CA of the manufacturer a", add("x", "X", false, a.root), errs.Conflict},
		{"the CA and organization of another", "is a CA of the manufacturer shared-1", add("x", "One", false, b.root), errs.Conflict},
	} {
		if !errs.Is(c.err, c.kind) || !strings.Contains(errs.Public(c.err), c.text) {
			t.Errorf("%s: got %v, want %v with %q", c.name, c.err, c.kind, c.text)
		}
	}
	must(t, add("a", "", false, a.line))
	must(t, add("shared-2", "Two", false, b.root))
	for serial, organization := range map[string][]string{"shared-1": {"One"}, "shared-2": {"Two"}, "": {"Three"}} {
		shown, ok, err := p.Makers.Recognize(t.Context(), []*x509.Certificate{b.device("1", func(c *x509.Certificate) { c.Subject.Organization = organization }).Leaf, b.line})
		if err != nil || shown.Product.Maker != serial || ok != (serial != "") {
			t.Errorf("organization %v: got %+v, %v, %v", organization, shown, ok, err)
		}
	}
	if _, _, err := p.Makers.Recognize(t.Context(), []*x509.Certificate{b.device("1", func(c *x509.Certificate) { c.Subject.Organization = []string{"One", "Two"} }).Leaf, b.line}); !errs.Is(err, errs.Invalid) {
		t.Errorf("two organizations: got %v, want Invalid", err)
	}
	operator := access.Actor{Kind: access.KindOperator, ID: "o", Role: access.RoleOperator, Via: "api"}
	if _, err := p.Makers.Add(t.Context(), operator, maker.Spec{Name: "mine", Anchors: [][]byte{b.root.Raw}}); !errs.Is(err, errs.Denied) {
		t.Errorf("an operator: got %v, want Denied", err)
	}
	if _, err := p.Makers.Remove(t.Context(), operator, "a"); !errs.Is(err, errs.Denied) {
		t.Errorf("an operator: got %v, want Denied", err)
	}
	all, err := p.Makers.List(t.Context(), operator)
	if err != nil || len(all) != 3 || len(all[0].Anchors) != 2 {
		t.Errorf("got %+v, %v", all, err)
	}
}
