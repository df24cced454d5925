package app_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"io"
	"math/big"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"mooring/internal/app"
	"mooring/internal/app/apptest"
	"mooring/internal/base/conf"
	"mooring/internal/base/errs"
	"mooring/internal/core/access"
	"mooring/internal/core/audit"
	"mooring/internal/core/ca"
	"mooring/internal/core/device"
	"mooring/internal/core/key"
	"mooring/internal/core/maker"
	"mooring/internal/core/masa"
	"mooring/internal/core/revoke"
	"mooring/wire/der"
	"mooring/wire/voucher"
)

// domain is somebody's network with a CA and a registrar.
type domain struct {
	test      *testing.T
	ca, ra    *x509.Certificate
	above     []*x509.Certificate // what vouchers carry besides ra
	caKey     crypto.Signer
	raKey     *ecdsa.PrivateKey
	notBefore time.Time
}

func newDomain(t *testing.T, name string) *domain {
	d := &domain{test: t, caKey: apptest.Key(t), raKey: apptest.Key(t), notBefore: time.Now().Add(-time.Hour)}
	d.ca = d.sign(&x509.Certificate{Subject: pkix.Name{CommonName: name + " CA"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}, nil, d.caKey)
	d.ra = d.registrar(d.raKey, nil)
	return d
}

func (d *domain) sign(c, parent *x509.Certificate, key crypto.Signer) *x509.Certificate {
	d.test.Helper()
	c.NotBefore, c.NotAfter = d.notBefore, d.notBefore.Add(365*24*time.Hour)
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	must(d.test, err)
	if c.SerialNumber = serial; parent == nil {
		parent = c
	}
	raw, err := x509.CreateCertificate(rand.Reader, c, parent, key.Public(), d.caKey)
	must(d.test, err)
	cert, err := x509.ParseCertificate(raw)
	must(d.test, err)
	return cert
}

// registrar makes a registrar's certificate, which change may bend.
func (d *domain) registrar(key *ecdsa.PrivateKey, change func(*x509.Certificate)) *x509.Certificate {
	c := &x509.Certificate{Subject: pkix.Name{CommonName: "Registrar"}, KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
		UnknownExtKeyUsage: []asn1.ObjectIdentifier{{1, 3, 6, 1, 5, 5, 7, 3, 28}}}
	if change != nil {
		change(c)
	}
	return d.sign(c, d.ca, key)
}

func (d *domain) tls() *tls.Certificate {
	return &tls.Certificate{Certificate: [][]byte{d.ra.Raw, d.ca.Raw}, PrivateKey: d.raKey, Leaf: d.ra}
}

var nonce = []byte("0123456789abcdef")

// pledged is the request that a device signs, which change may bend.
func (d *domain) pledged(idevid *tls.Certificate, serial string, change func(*voucher.Request)) []byte {
	d.test.Helper()
	q := voucher.Request{CreatedOn: time.Now(), Assertion: voucher.Proximity, SerialNumber: serial, Nonce: nonce, ProximityRegistrarCert: d.ra.Raw}
	if change != nil {
		change(&q)
	}
	line, err := x509.ParseCertificate(idevid.Certificate[1])
	must(d.test, err)
	message, err := q.Sign(idevid.PrivateKey.(*ecdsa.PrivateKey), idevid.Leaf, []*x509.Certificate{line}, rand.Reader)
	must(d.test, err)
	return message
}

// asks is the request that the registrar signs about a device's, which change may bend.
func (d *domain) asks(idevid *tls.Certificate, serial string, prior []byte, change func(*voucher.Request)) []byte {
	d.test.Helper()
	q := voucher.Request{CreatedOn: time.Now(), SerialNumber: serial, Nonce: nonce, PriorSigned: prior}
	if idevid != nil {
		q.IDevIDIssuer = voucher.IDevIDIssuer(idevid.Leaf)
	}
	if change != nil {
		change(&q)
	}
	message, err := q.Sign(d.raKey, d.ra, []*x509.Certificate{d.ca}, rand.Reader)
	must(d.test, err)
	return message
}

// asksFor is asks about a device that has asked.
func (d *domain) asksFor(idevid *tls.Certificate) []byte {
	serial := idevid.Leaf.Subject.SerialNumber
	return d.asks(idevid, serial, d.pledged(idevid, serial, nil), nil)
}

// post sends a request to the service for vouchers as somebody.
func post(t *testing.T, p *apptest.Platform, as *tls.Certificate, operation string, body []byte, header ...string) apptest.Reply {
	t.Helper()
	method := http.MethodPost
	if body == nil {
		method = http.MethodGet
	}
	q, err := http.NewRequestWithContext(t.Context(), method, p.Addresses().MASA+voucher.WellKnown+operation, bytes.NewReader(body))
	must(t, err)
	q.Header.Set("Content-Type", voucher.MediaType)
	for _, line := range header {
		name, value, _ := strings.Cut(line, ": ")
		q.Header.Set(name, value)
	}
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: p.TLS(as), DisableKeepAlives: true}}
	r, err := client.Do(q)
	must(t, err)
	text, err := io.ReadAll(r.Body)
	must(t, err)
	must(t, r.Body.Close())
	return apptest.Reply{Response: r, Text: text}
}

// withMASA starts a platform that issues vouchers by a CA of their own.
func withMASA(t *testing.T) *apptest.Platform {
	p := apptest.Start(t, func(c *conf.Config) {
		c.MASA.Profile, c.Listen.MASA, c.Retention.Audit = "masa", "127.0.0.1:0", audit.MinKeep
	},
		apptest.Variant("scep-ra", "masa", "issuer: vouchers", "keys: [ec-p256]", "key_usage: [digitalSignature]"))
	_, err := p.CA.Create(t.Context(), apptest.Operator(), ca.Spec{Name: "vouchers", Parent: "root", Algorithm: key.P256, Validity: 20 * 365 * 86400,
		Subject: []der.Attribute{{Type: der.OIDCommonName, Value: "Test Fleet Vouchers"}}})
	must(t, err)
	p.Restart(t)
	return p
}

// madeHere registers a manufacturer whose vouchers are issued here.
func madeHere(t *testing.T, p *apptest.Platform, name string, f *factory) {
	t.Helper()
	_, err := p.Makers.Add(t.Context(), apptest.Operator(), maker.Spec{Name: name, Anchors: [][]byte{f.root.Raw}, MASA: maker.OwnMASA})
	must(t, err)
}

func product(p *apptest.Platform, t *testing.T, of, serial, group string) device.Device {
	t.Helper()
	return p.Add(t, device.Spec{Name: of + "-" + serial, Profile: "device", Group: group, Product: device.Product{Maker: of, Serial: serial}})
}

// TestVouchers has registrars of other domains ask for vouchers, well and badly.
func TestVouchers(t *testing.T) {
	p := withMASA(t)
	acme, foreign, stranger := newFactory(t, "ACME", farAway), newFactory(t, "Foreign", farAway), newFactory(t, "Stranger", farAway)
	madeHere(t, p, "acme", acme)
	_, err := p.Makers.Add(t.Context(), apptest.Operator(), maker.Spec{Name: "foreign", Anchors: [][]byte{foreign.root.Raw}})
	must(t, err)
	for _, serial := range []string{"1", "2", "3", "4", "5"} {
		product(p, t, "acme", serial, "sold/north")
	}
	product(p, t, "foreign", "1", "")
	sold := product(p, t, "acme", "south-1", "sold/south")
	north, south, nobody := newDomain(t, "North"), newDomain(t, "South"), newDomain(t, "Nobody")
	for _, s := range []masa.Spec{{Name: "north", Anchors: [][]byte{north.ca.Raw}}, {Name: "south", Anchors: [][]byte{south.ra.Raw}, Group: "sold/south", Offline: true}} {
		_, err := p.MASA.AddRegistrar(t.Context(), apptest.Operator(), s)
		must(t, err)
	}
	one := acme.device("1", nil)
	wanted := north.asksFor(one)

	t.Run("operators", func(t *testing.T) { // a device with such a certificate could vouch for all others, or speak for the platform
		operator := access.Actor{Kind: access.KindOperator, ID: "o", Role: access.RoleOperator, Via: "test"}
		d := product(p, t, "foreign", "2", "")
		for profile, want := range map[string]bool{"masa": true, "registrar": true, "operator": true, "device": false, "server": false} {
			if got := p.Devices.Empowers(profile); got != want { // jobs over many leave those out, too
				t.Errorf("the profile %s empowers: %v, want %v", profile, got, want)
			}
		}
		for _, profile := range []string{"masa", "registrar"} {
			if _, err := p.Devices.Change(t.Context(), operator, d.ID, device.Change{Profile: &profile}); !errs.Is(err, errs.Denied) {
				t.Errorf("an operator gives a device the profile %s: got %v, want a refusal", profile, err)
			}
			if _, err := p.Devices.Add(t.Context(), operator, device.Spec{Name: "new", Profile: profile}); !errs.Is(err, errs.Denied) {
				t.Errorf("an operator adds a device with the profile %s: got %v, want a refusal", profile, err)
			}
		}
		signs, err := p.Devices.Get(t.Context(), apptest.Operator(), "mooring-masa")
		must(t, err)
		if _, _, err := p.Devices.Token(t.Context(), operator, signs.ID, time.Hour); !errs.Is(err, errs.Denied) {
			t.Errorf("an operator makes a token for the signer of vouchers: got %v, want a refusal", err)
		}
	})

	t.Run("issued", func(t *testing.T) {
		r := post(t, p, north.tls(), voucher.RequestVoucher, wanted, "Accept: application/voucher-cms+json, */*;q=0.1")
		if r.StatusCode != http.StatusOK || r.Header.Get("Content-Type") != voucher.MediaType {
			t.Fatalf("got %s of type %s", r, r.Header.Get("Content-Type"))
		}
		v, err := voucher.ParseVoucher(r.Text)
		must(t, err)
		if !bytes.Equal(v.Nonce, nonce) || v.Assertion != voucher.Proximity || v.SerialNumber != "1" || !bytes.Equal(v.PinnedDomainCert, north.ca.Raw) || !v.ExpiresOn.IsZero() ||
			!bytes.Equal(v.IDevIDIssuer, one.Leaf.AuthorityKeyId) || time.Since(v.CreatedOn).Abs() > time.Minute || v.DomainCertRevocationChecks {
			t.Errorf("got %+v", v.Voucher)
		}
		// What a device does, which holds the certificate of the CA for vouchers.
		issuer, err := p.CA.Issuer("vouchers")
		must(t, err)
		anchors := x509.NewCertPool()
		anchors.AddCert(issuer.Certificate())
		if _, err := v.Chain[0].Verify(x509.VerifyOptions{Roots: anchors, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}); err != nil {
			t.Errorf("the signer of the voucher: %v", err)
		}
		again := post(t, p, north.tls(), voucher.RequestVoucher, wanted)
		if !bytes.Equal(again.Text, r.Text) {
			t.Error("the same request got another voucher")
		}
		all, err := p.MASA.Vouchers(t.Context(), apptest.Operator(), device.Product{Maker: "acme", Serial: "1"})
		must(t, err)
		if len(all) != 1 || all[0].Registrar != "north" || !bytes.Equal(all[0].Voucher, r.Text) || !bytes.Equal(all[0].Domain, north.ca.SubjectKeyId) {
			t.Errorf("on record are %+v", all)
		}
		if !slices.ContainsFunc(p.Record(t), func(e audit.Indexed) bool {
			return e.Action == "masa.voucher" && e.Actor == "registrar:north" && e.Device != ""
		}) {
			t.Error("the record does not tell of the voucher")
		}
	})

	t.Run("log", func(t *testing.T) {
		second := north.asks(one, "1", north.pledged(one, "1", func(q *voucher.Request) { q.Nonce = []byte("another one") }), func(q *voucher.Request) { q.Nonce = []byte("another one") })
		if r := post(t, p, north.tls(), voucher.RequestVoucher, second); r.StatusCode != http.StatusOK {
			t.Fatal(r)
		}
		r := post(t, p, north.tls(), voucher.RequestAuditLog, wanted, "Accept: "+voucher.MediaType)
		if r.StatusCode != http.StatusOK || r.Header.Get("Content-Type") != "application/json" {
			t.Fatalf("got %s of type %s", r, r.Header.Get("Content-Type"))
		}
		l, err := voucher.ParseAuditLog(r.Text)
		must(t, err)
		if len(l.Events) != 2 || l.Events[0].Nonce != voucher.NonceText([]byte("another one")) || l.Events[1].Nonce != voucher.NonceText(nonce) ||
			!bytes.Equal(l.Events[0].DomainID, voucher.DomainID(north.ca)) || l.Events[0].Assertion != voucher.Proximity {
			t.Errorf("got %+v", l)
		}
		if r := post(t, p, north.tls(), voucher.RequestAuditLog, north.asksFor(acme.device("2", nil))); r.StatusCode != http.StatusNotFound {
			t.Errorf("who never had a voucher got %s", r)
		}
	})

	other := acme.device("2", nil)
	bent := func(change func(*voucher.Request)) []byte {
		return north.asks(other, "2", north.pledged(other, "2", change), nil)
	}
	bending := func(change func(*voucher.Request)) []byte {
		return north.asks(other, "2", north.pledged(other, "2", nil), change)
	}
	broken := bytes.Replace(wanted, []byte(`"serial-number":"1"`), []byte(`"serial-number":"2"`), 1)
	if bytes.Equal(broken, wanted) {
		t.Fatal("the request does not have its serial number where it was thought")
	}
	plain := *north
	plain.ra = north.registrar(north.raKey, func(c *x509.Certificate) { c.UnknownExtKeyUsage = nil })
	for _, tt := range []struct {
		name   string
		as     *tls.Certificate
		body   []byte
		status int
		want   string
	}{
		{"no client certificate", nil, wanted, http.StatusForbidden, "no client certificate"},
		{"not a request", north.tls(), []byte("{}"), http.StatusBadRequest, "reading a voucher request"},
		{"broken signature", north.tls(), broken, http.StatusForbidden, "signature"},
		{"registrar that is not registered", nobody.tls(), nobody.asksFor(other), http.StatusForbidden, "no registrar is registered"},
		{"connection of another registrar", south.tls(), north.asksFor(other), http.StatusForbidden, "somebody else"},
		{"connection of nobody", nobody.tls(), north.asksFor(other), http.StatusForbidden, "somebody else"},
		{"signer without cmcRA", north.tls(), plain.asksFor(other), http.StatusForbidden, "cmcRA"},
		{"serial number that is not known", north.tls(), north.asksFor(acme.device("99", nil)), http.StatusNotFound, "no vouchers are issued here"},
		{"device of another registrar", south.tls(), south.asksFor(other), http.StatusNotFound, "no vouchers are issued here"},
		{"manufacturer whose vouchers others issue", north.tls(), north.asksFor(foreign.device("1", nil)), http.StatusNotFound, "no vouchers are issued here"},
		{"manufacturer nobody knows", north.tls(), north.asksFor(stranger.device("1", nil)), http.StatusNotFound, "no vouchers are issued here"},
		{"another nonce than the device's", north.tls(), bent(func(q *voucher.Request) { q.Nonce = []byte("something else") }), http.StatusForbidden, "nonce"},
		{"no nonce of the device", north.tls(), bent(func(q *voucher.Request) { q.Nonce = nil }), http.StatusForbidden, "nonce"},
		{"another serial number in the device's request", north.tls(), bent(func(q *voucher.Request) { q.SerialNumber = "1" }), http.StatusForbidden, "serial-number"},
		{"another serial number in the registrar's", north.tls(), bending(func(q *voucher.Request) { q.SerialNumber = "1" }), http.StatusForbidden, "serial-number"},
		{"device connected with another registrar", north.tls(), bent(func(q *voucher.Request) { q.ProximityRegistrarCert = south.ra.Raw }), http.StatusForbidden, "connected with another registrar"},
		{"device that does not say with whom it is connected", north.tls(), bent(func(q *voucher.Request) { q.ProximityRegistrarCert = nil }), http.StatusForbidden, "proximity-registrar-cert"},
		{"another issuer of the device's certificate", north.tls(), bending(func(q *voucher.Request) { q.IDevIDIssuer = []byte{1, 2, 3} }), http.StatusForbidden, "idevid-issuer"},
		{"registrar that speaks for the device", north.tls(), bending(func(q *voucher.Request) { q.PriorSigned, q.ProximityRegistrarCert = nil, north.ra.Raw }), http.StatusBadRequest, "proximity-registrar-cert"},
		{"a device's request within the device's", north.tls(), bent(func(q *voucher.Request) {
			q.ProximityRegistrarCert, q.PriorSigned = nil, north.pledged(other, "2", nil)
		}), http.StatusBadRequest, "another one within"},
		{"device's request that cannot be read", north.tls(), bending(func(q *voucher.Request) { q.PriorSigned = []byte{1} }), http.StatusBadRequest, "the device's request"},
		{"old request", north.tls(), bending(func(q *voucher.Request) { q.CreatedOn = time.Now().Add(-25 * time.Hour) }), http.StatusForbidden, "compare the clocks"},
		{"without nonce, without end", south.tls(), south.asks(nil, "south-1", nil, func(q *voucher.Request) { q.Nonce = nil }), http.StatusBadRequest, "expires-on"},
		{"without nonce, for a registrar that may not", north.tls(), bending(func(q *voucher.Request) { q.Nonce, q.ExpiresOn = nil, time.Now().Add(time.Hour) }), http.StatusForbidden, "--offline"},
		{"without nonce, with an end that is over", south.tls(), south.asks(nil, "south-1", nil, func(q *voucher.Request) { q.Nonce, q.ExpiresOn = nil, time.Now().Add(-time.Hour) }), http.StatusBadRequest, "is over"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if r := post(t, p, tt.as, voucher.RequestVoucher, tt.body); r.StatusCode != tt.status || !strings.Contains(string(r.Text), tt.want) {
				t.Errorf("got %s, want %d %q", r, tt.status, tt.want)
			}
		})
	}
	t.Run("refusals in the record", func(t *testing.T) {
		record := p.Record(t)
		for _, want := range []string{"somebody else", "cmcRA", "the nonce is not", "connected with another registrar"} {
			if !slices.ContainsFunc(record, func(e audit.Indexed) bool { return e.Action == "masa.refuse" && strings.Contains(e.Refused, want) }) {
				t.Errorf("the record tells of no refusal with %q", want)
			}
		}
	})

	for _, tt := range []struct {
		name, operation string
		body            []byte
		status          int
		header          []string
	}{
		{"GET", voucher.RequestVoucher, nil, http.StatusMethodNotAllowed, nil},
		{"another media type", voucher.RequestVoucher, wanted, http.StatusUnsupportedMediaType, []string{"Content-Type: application/voucher-cose+cbor"}},
		{"nothing acceptable", voucher.RequestVoucher, wanted, http.StatusNotAcceptable, []string{"Accept: application/voucher-cose+cbor"}},
		{"refused by its weight", voucher.RequestVoucher, wanted, http.StatusNotAcceptable, []string{"Accept: application/voucher-cms+json;q=0, */*"}},
		{"family", voucher.RequestVoucher, wanted, http.StatusOK, []string{"Accept: text/html, application/*"}},
		{"log as HTML", voucher.RequestAuditLog, wanted, http.StatusNotAcceptable, []string{"Accept: text/html"}},
		{"no such operation", "enrollstatus", wanted, http.StatusNotFound, nil},
		{"too large", voucher.RequestVoucher, make([]byte, voucher.MaxSize+1), http.StatusRequestEntityTooLarge, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if r := post(t, p, north.tls(), tt.operation, tt.body, tt.header...); r.StatusCode != tt.status {
				t.Errorf("got %s, want %d", r, tt.status)
			}
		})
	}

	t.Run("without nonce", func(t *testing.T) {
		ask := func(q *voucher.Request) { q.Nonce, q.ExpiresOn = nil, time.Now().Add(100*24*time.Hour) }
		r := post(t, p, south.tls(), voucher.RequestVoucher, south.asks(nil, "south-1", nil, ask))
		if r.StatusCode != http.StatusOK {
			t.Fatal(r)
		}
		v, err := voucher.ParseVoucher(r.Text)
		must(t, err)
		if v.Assertion != voucher.Verified || v.Nonce != nil || time.Until(v.ExpiresOn) > 14*24*time.Hour || time.Until(v.ExpiresOn) < 13*24*time.Hour || !bytes.Equal(v.PinnedDomainCert, south.ca.Raw) {
			t.Errorf("got %+v", v.Voucher)
		}
		pump := acme.device("south-1", nil)
		if r := post(t, p, north.tls(), voucher.RequestVoucher, north.asksFor(pump)); r.StatusCode != http.StatusForbidden || !strings.Contains(string(r.Text), "another registrar has a voucher") {
			t.Errorf("another registrar got %s", r)
		}
		if r := post(t, p, south.tls(), voucher.RequestVoucher, south.asksFor(pump)); r.StatusCode != http.StatusOK {
			t.Errorf("the same registrar got %s", r)
		}
		to := "sold/west"
		_, err = p.Devices.Change(t.Context(), apptest.Operator(), sold.ID, device.Change{Group: &to})
		must(t, err)
		if r := post(t, p, south.tls(), voucher.RequestAuditLog, south.asksFor(pump)); r.StatusCode != http.StatusOK {
			t.Errorf("the log, after the device went to somebody else: got %s", r)
		}
		if r := post(t, p, south.tls(), voucher.RequestAuditLog, south.asksFor(acme.device("5", nil))); r.StatusCode != http.StatusNotFound || !strings.Contains(string(r.Text), "no vouchers are issued here") {
			t.Errorf("the log of a device that it never had: got %s", r)
		}
		to = "sold/south"
		_, err = p.Devices.Change(t.Context(), apptest.Operator(), sold.ID, device.Change{Group: &to})
		must(t, err)
		_, err = p.Devices.Move(t.Context(), apptest.Operator(), sold.ID, device.Suspend, "")
		must(t, err)
		if r := post(t, p, south.tls(), voucher.RequestVoucher, south.asksFor(pump)); r.StatusCode != http.StatusForbidden || !strings.Contains(string(r.Text), "suspended") {
			t.Errorf("for a suspended device it got %s", r)
		}
	})

	t.Run("nothing signed by the device", func(t *testing.T) {
		r := post(t, p, north.tls(), voucher.RequestVoucher, north.asks(acme.device("3", nil), "3", nil, nil))
		if r.StatusCode != http.StatusOK {
			t.Fatal(r)
		}
		if v, err := voucher.ParseVoucher(r.Text); err != nil || v.Assertion != voucher.Logged {
			t.Errorf("got %+v, %v", v, err)
		}
	})

	t.Run("names of other domains", func(t *testing.T) { // by which their registrars would not see in the log who else has a voucher
		root, err := p.CA.Issuer("root")
		must(t, err)
		valve := acme.device("1", nil)
		for whose, id := range map[string][]byte{"another registrar's": north.ca.SubjectKeyId, "this platform's": root.Certificate().SubjectKeyId} {
			east := newDomain(t, "East")
			east.ca = east.sign(&x509.Certificate{Subject: pkix.Name{CommonName: "East CA"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign, SubjectKeyId: id}, nil, east.caKey)
			east.ra = east.registrar(east.raKey, nil)
			_, err := p.MASA.AddRegistrar(t.Context(), apptest.Operator(), masa.Spec{Name: "east", Anchors: [][]byte{east.ca.Raw}})
			must(t, err)
			if r := post(t, p, east.tls(), voucher.RequestVoucher, east.asksFor(valve)); r.StatusCode != http.StatusForbidden || !strings.Contains(string(r.Text), "subject key identifier") {
				t.Errorf("by %s name: got %s", whose, r)
			}
			_, err = p.MASA.RemoveRegistrar(t.Context(), apptest.Operator(), "east")
			must(t, err)
		}
	})

	t.Run("another's CA above the registrar's", func(t *testing.T) { // the certificates of a request can be changed by who has the request
		evil := newDomain(t, "Evil")
		cross := &x509.Certificate{Subject: north.ca.Subject, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign, SubjectKeyId: north.ca.SubjectKeyId}
		above := evil.sign(cross, evil.ca, north.caKey)
		q := voucher.Request{CreatedOn: time.Now(), SerialNumber: "1", Nonce: nonce, PriorSigned: north.pledged(acme.device("1", nil), "1", nil)}
		message, err := q.Sign(north.raKey, north.ra, []*x509.Certificate{above, evil.ca}, rand.Reader)
		must(t, err)
		if r := post(t, p, north.tls(), voucher.RequestVoucher, message); r.StatusCode != http.StatusForbidden || !strings.Contains(string(r.Text), "topmost certificate") {
			t.Errorf("got %s", r)
		}
	})

	t.Run("one serial number of two manufacturers", func(t *testing.T) { // of which one is not registered, and might believe the voucher for the other
		madeHere(t, p, "twin", newFactory(t, "Twin", farAway))
		for name, change := range map[string]func(*voucher.Request){"no issuer": func(q *voucher.Request) { q.IDevIDIssuer = nil },
			"an issuer that is not registered": func(q *voucher.Request) { q.IDevIDIssuer = []byte{1, 2, 3} }} {
			if r := post(t, p, north.tls(), voucher.RequestVoucher, north.asks(acme.device("3", nil), "3", nil, change)); r.StatusCode != http.StatusBadRequest || !strings.Contains(string(r.Text), "several manufacturers") {
				t.Errorf("%s: got %s", name, r)
			}
		}
		r := post(t, p, north.tls(), voucher.RequestVoucher, north.asks(nil, "3", nil, func(q *voucher.Request) { q.IDevIDIssuer = acme.root.SubjectKeyId }))
		if r.StatusCode != http.StatusOK {
			t.Errorf("a registered issuer: got %s", r)
		}
	})

	t.Run("the same request at once", func(t *testing.T) {
		body, answers := north.asksFor(acme.device("5", nil)), make(chan apptest.Reply)
		for range 4 {
			go func() { answers <- post(t, p, north.tls(), voucher.RequestVoucher, body) }()
		}
		first := <-answers
		for range 3 {
			if r := <-answers; r.StatusCode != http.StatusOK || !bytes.Equal(r.Text, first.Text) {
				t.Errorf("one answer is %d with %d octets, another %d with %d", r.StatusCode, len(r.Text), first.StatusCode, len(first.Text))
			}
		}
	})

	t.Run("own registrar", func(t *testing.T) {
		pump, own := acme.device("4", nil), newDomain(t, "Own")
		request, err := voucher.ParseRequest(own.asksFor(pump))
		must(t, err)
		if _, err := p.MASA.Issue(t.Context(), access.System("registrar"), nil, request); !errs.Is(err, errs.Denied) {
			t.Errorf("with a certificate of others it got %v", err)
		}
		name := p.Add(t, device.Spec{Name: "own-registrar", Profile: "registrar"})
		answer, err := p.Enrol.Direct(t.Context(), access.System("test"), name.ID, own.raKey)
		must(t, err)
		issuer, err := p.CA.IssuerByID(answer.Certificate.Issuer)
		must(t, err)
		own.ca = issuer.Certificate()
		own.ra, err = x509.ParseCertificate(answer.Certificate.DER)
		must(t, err)
		request, err = voucher.ParseRequest(own.asksFor(pump))
		must(t, err)
		message, err := p.MASA.Issue(t.Context(), access.System("registrar"), nil, request)
		must(t, err)
		if v, err := voucher.ParseVoucher(message); err != nil || v.Assertion != voucher.Proximity || !bytes.Equal(v.PinnedDomainCert, own.ca.Raw) {
			t.Errorf("got %+v, %v", v, err)
		}
		if l, err := p.MASA.AuditLog(t.Context(), access.System("registrar"), nil, request); err != nil || len(l.Events) != 1 {
			t.Errorf("the log is %+v, %v", l, err)
		}
		d, err := p.Devices.ByProduct(t.Context(), device.Product{Maker: "acme", Serial: "4"})
		must(t, err)
		_, err = p.Devices.Move(t.Context(), apptest.Operator(), d.ID, device.Suspend, "")
		must(t, err)
		for range 3 {
			if _, err := p.MASA.Issue(t.Context(), access.System("registrar"), nil, request); !errs.Is(err, errs.Denied) || !strings.Contains(err.Error(), "suspended") {
				t.Errorf("for a suspended device it got %v", err)
			}
		}
		n := 0
		for _, e := range p.Record(t) {
			if e.Action == "masa.refuse" && e.Device == d.ID.String() {
				n++
			}
		}
		if n != 1 { // the others are counted
			t.Errorf("three refusals of one device make %d entries", n)
		}
		_, err = p.Revoke.Certificate(t.Context(), apptest.Operator(), own.ra.SerialNumber.Bytes(), revoke.KeyCompromise)
		must(t, err)
		if _, err := p.MASA.Issue(t.Context(), access.System("registrar"), nil, request); !errs.Is(err, errs.Denied) || !strings.Contains(err.Error(), "revoked") {
			t.Errorf("with a revoked certificate it got %v", err)
		}
	})

	t.Run("removed", func(t *testing.T) {
		_, err := p.MASA.RemoveRegistrar(t.Context(), apptest.Operator(), "north")
		must(t, err)
		if r := post(t, p, north.tls(), voucher.RequestVoucher, wanted); r.StatusCode != http.StatusForbidden {
			t.Errorf("got %s", r)
		}
		back, err := p.MASA.AddRegistrar(t.Context(), apptest.Operator(), masa.Spec{Name: "north", Anchors: [][]byte{north.ca.Raw}, Group: "sold/north"})
		must(t, err)
		if back.Group != "sold/north" {
			t.Errorf("it came back as %+v", back)
		}
	})

	t.Run("when old entries leave", func(t *testing.T) {
		p.Clock.Move(audit.MinKeep + 32*24*time.Hour)
		if left, err := p.Audit.Drop(t.Context(), apptest.Operator()); err != nil || left.Entries == 0 {
			t.Fatalf("%+v left, %v", left, err)
		}
		// That the rest fits what is left of the record is looked at when the platform ends.
	})
}

// TestRegistrarTerms wants registrars told apart, and permission to add them.
func TestRegistrarTerms(t *testing.T) {
	p := apptest.Start(t, nil)
	north, south := newDomain(t, "North"), newDomain(t, "South")
	add := func(s masa.Spec) error {
		_, err := p.MASA.AddRegistrar(t.Context(), apptest.Operator(), s)
		return err
	}
	must(t, add(masa.Spec{Name: "north", Anchors: [][]byte{north.ca.Raw}}))
	must(t, add(masa.Spec{Name: "north", Anchors: [][]byte{north.ra.Raw}}))
	for _, tt := range []struct {
		name string
		spec masa.Spec
		kind errs.Kind
	}{
		{"without a name", masa.Spec{Anchors: [][]byte{south.ca.Raw}}, errs.Invalid},
		{"without certificates", masa.Spec{Name: "south"}, errs.Invalid},
		{"with what is none", masa.Spec{Name: "south", Anchors: [][]byte{{1}}}, errs.Invalid},
		{"with one twice", masa.Spec{Name: "south", Anchors: [][]byte{south.ca.Raw, south.ca.Raw}}, errs.Invalid},
		{"with another's CA", masa.Spec{Name: "south", Anchors: [][]byte{north.ca.Raw}}, errs.Conflict},
		{"on other terms", masa.Spec{Name: "north", Offline: true, Anchors: [][]byte{south.ca.Raw}}, errs.Conflict},
	} {
		if err := add(tt.spec); !errs.Is(err, tt.kind) {
			t.Errorf("%s: got %v, want %v", tt.name, err, tt.kind)
		}
	}
	auditor := access.Actor{Kind: access.KindOperator, ID: "a", Role: access.RoleOperator}
	if _, err := p.MASA.AddRegistrar(t.Context(), auditor, masa.Spec{Name: "south", Anchors: [][]byte{south.ca.Raw}}); !errs.Is(err, errs.Denied) {
		t.Errorf("without permission: got %v", err)
	}
	r, err := p.MASA.Registrar(t.Context(), auditor, "north")
	must(t, err)
	if len(r.Anchors) != 2 {
		t.Errorf("it has %d certificates, want 2", len(r.Anchors))
	}
	// Nothing is signed where nobody said by which profile.
	request, err := voucher.ParseRequest(north.asks(nil, "1", nil, nil))
	must(t, err)
	if _, err := p.MASA.Issue(t.Context(), access.Registrar("north", "test"), []*x509.Certificate{north.ra}, request); !errs.Is(err, errs.NotFound) || !strings.Contains(err.Error(), "masa.profile") {
		t.Errorf("got %v", err)
	}
}

// TestSignerOfVouchers wants no start where somebody else could sign vouchers, or nobody.
func TestSignerOfVouchers(t *testing.T) {
	p := apptest.Start(t, nil)
	p.Stop(t)
	for _, tt := range []struct {
		name, want string
		change     func(*conf.Config)
	}{
		{"CA of other profiles", "the CA devices issues by the profile", func(c *conf.Config) { c.MASA.Profile = "scep-ra" }},
		{"no such profile", "absent", func(c *conf.Config) { c.MASA.Profile = "absent" }},
		{"listener without signer", "name the profile of its certificate in masa.profile", func(c *conf.Config) { c.Listen.MASA = "127.0.0.1:0" }},
	} {
		c := *p.Config
		tt.change(&c)
		built, err := app.Build(t.Context(), app.Options{Config: &c, Keys: p.Made.Keys, Now: p.Clock.Now})
		if err == nil {
			must(t, built.Close())
		}
		if !errs.Is(err, errs.Invalid) || !strings.Contains(errs.Public(err), tt.want) {
			t.Errorf("%s: got %v, want %q", tt.name, err, tt.want)
		}
	}
}

// lifeOfMASA leaves the rows of registrars and of vouchers.
func lifeOfMASA(t *testing.T, p *apptest.Platform) {
	f, d, gone := newFactory(t, "Valves", farAway), newDomain(t, "Customer"), newDomain(t, "Gone")
	signer := newDomain(t, "Vouchers")
	service := masa.New(masa.Deps{DB: p.DB, Audit: p.Audit, Access: p.Access, Devices: p.Devices, Makers: p.Makers, CA: p.CA, Revoke: p.Revoke, Rand: rand.Reader, Offline: time.Hour, Now: p.Clock.Now,
		Signer: func() (masa.Signer, error) { return masa.Signer{Key: signer.raKey, Certificate: signer.ra}, nil }})
	madeHere(t, p, "valves", f)
	product(p, t, "valves", "V-1", "")
	product(p, t, "valves", "V-2", "")
	for _, s := range []masa.Spec{{Name: "customer", Offline: true, Anchors: [][]byte{d.ra.Raw}}, {Name: "gone", Group: "hall-1", Anchors: [][]byte{gone.ca.Raw}}} {
		_, err := service.AddRegistrar(t.Context(), apptest.Operator(), s)
		must(t, err)
	}
	_, err := service.RemoveRegistrar(t.Context(), apptest.Operator(), "gone")
	must(t, err)
	now := p.Clock.Now()
	for n, message := range [][]byte{
		d.asks(nil, "V-1", nil, func(q *voucher.Request) { q.CreatedOn = now }),
		d.asks(nil, "V-1", nil, func(q *voucher.Request) { q.CreatedOn, q.Nonce, q.ExpiresOn = now, nil, now.Add(time.Minute) }),
		d.asks(nil, "V-2", nil, func(q *voucher.Request) { q.CreatedOn = now }),
	} {
		request, err := voucher.ParseRequest(message)
		must(t, err)
		if _, err := service.Issue(t.Context(), access.Actor{}, []*x509.Certificate{d.ra}, request); err != nil {
			t.Fatalf("voucher %d: %v", n, err)
		}
	}
}
