package cmp_test

import (
	"bufio"
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"mooring/internal/app/apptest"
	server "mooring/internal/server/cmp"
	"mooring/wire/cmp"
	"mooring/wire/cms"
	"mooring/wire/der"
)

// ask sends one question and returns the answer to it.
func ask(t *testing.T, c *client, i cmp.Info, as der.OID) []byte {
	t.Helper()
	b := c.send(&cmp.General{As: cmp.GenM, List: []cmp.Info{i}})
	g, ok := b.(*cmp.General)
	if !ok || g.As != cmp.GenP || len(g.List) != 1 || g.List[0].Type != as {
		t.Fatalf("got %+v", b)
	}
	c.id, c.theirs = random(16), nil
	return g.List[0].Value
}

func caCerts(t *testing.T, f *fleet) {
	for _, c := range []*client{f.newcomer(t, "device"), f.member(t, "device")} {
		list, err := cmp.ParseCertificates(ask(t, c, cmp.Info{Type: cmp.OIDCACerts}, cmp.OIDCACerts))
		all, err2 := f.p.Enrol.Anchors("")
		if err != nil || err2 != nil || len(list) != len(all) {
			t.Errorf("got %d, %v, want %d certificates", len(list), err, len(all))
		}
	}
	c := f.member(t, "device")
	f.revoke(t, c.pair.Leaf)
	want(t, c, &cmp.General{As: cmp.GenM, List: []cmp.Info{{Type: cmp.OIDCACerts}}}, cmp.CertRevoked)
}

func rootCACert(t *testing.T, f *fleet) {
	root, err := f.p.CA.Issuer("root")
	if err != nil {
		t.Fatal(err)
	}
	c := f.member(t, "device")
	if v := ask(t, c, cmp.Info{Type: cmp.OIDRootCACert, Value: root.Certificate().Raw}, cmp.OIDRootUpdate); v != nil {
		t.Errorf("the newest root: got %x, want no update", v)
	}
}

func certReqTemplate(t *testing.T, f *fleet) {
	c := f.member(t, "device")
	v, err := cmp.ParseReqTemplate(ask(t, c, cmp.Info{Type: cmp.OIDCertReqTemplate}, cmp.OIDCertReqTemplate))
	if err != nil {
		t.Fatal(err)
	}
	p, err := f.p.Enrol.Profile("")
	if err != nil {
		t.Fatal(err)
	}
	if len(v.KeySpec) != len(p.Keys) || v.KeySpec[0].Type != cmp.OIDAlgorithmID || len(v.Template.Subject) < 8 {
		t.Errorf("got %+v", v)
	}
}

func crlUpdate(t *testing.T, f *fleet) {
	c := f.member(t, "device")
	issuer := f.p.CA.IssuerOf(c.pair.Leaf)
	get := func(s cmp.CRLStatus) *x509.RevocationList {
		t.Helper()
		v := ask(t, c, cmp.NewCRLStatus(s), cmp.OIDCRLs)
		if v == nil {
			return nil
		}
		lists, err := cmp.ParseCertificates(v)
		if err != nil || len(lists) != 1 {
			t.Fatalf("got %d lists, %v", len(lists), err)
		}
		l, err := x509.ParseRevocationList(lists[0])
		if err == nil {
			err = l.CheckSignatureFrom(issuer.Certificate())
		}
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	whole := get(cmp.CRLStatus{Issuer: issuer.Certificate().RawSubject})
	if whole == nil {
		t.Fatal("no list for who has none")
	}
	if l := get(cmp.CRLStatus{Issuer: issuer.Certificate().RawSubject, Since: whole.ThisUpdate}); l != nil {
		t.Error("a list for who has the newest one")
	}
	if l := get(cmp.CRLStatus{URL: c.pair.Leaf.CRLDistributionPoints[0], Since: whole.ThisUpdate.Add(-time.Hour)}); l == nil {
		t.Error("no list for who has an old one")
	}
	want(t, c, &cmp.General{As: cmp.GenM, List: []cmp.Info{cmp.NewCRLStatus(cmp.CRLStatus{Issuer: []byte(cmp.Empty)})}}, cmp.BadCertID)
	c.id, c.theirs = random(16), nil
	if v := ask(t, c, cmp.Info{Type: cmp.OIDCurrentCRL}, cmp.OIDCurrentCRL); v == nil {
		t.Error("currentCRL: got nothing")
	}
}

// http10 speaks as the most common client does.
func http10(t *testing.T, f *fleet) {
	c := f.newcomer(t, "device")
	c.sent = c.build(c.request(cmp.IR))
	conn, err := net.Dial("tcp", strings.TrimPrefix(f.p.Addresses().CMP, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	if _, err := fmt.Fprintf(conn, "POST %s HTTP/1.0\r\nContent-Type: application/pkixcmp\r\nContent-Length: %d\r\n\r\n%s", cmp.WellKnown, len(c.sent), c.sent); err != nil {
		t.Fatal(err)
	}
	r, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	out, err := io.ReadAll(r.Body)
	if err != nil || r.StatusCode != http.StatusOK || r.ContentLength != int64(len(out)) {
		t.Fatalf("got %d, %d octets of %d, %v", r.StatusCode, len(out), r.ContentLength, err)
	}
	c.issued(c.read(out), cmp.IP)
}

func mediaTypes(t *testing.T, f *fleet) {
	for mediaType, status := range map[string]int{"application/pkixcmp": 200, "Application/PKIXCMP; charset=x": 200, "": 415, "application/pkcs10": 415} {
		c := f.newcomer(t, "device")
		r, err := http.Post(f.p.Addresses().CMP+cmp.WellKnown, mediaType, bytes.NewReader(c.build(c.request(cmp.IR))))
		if err != nil {
			t.Fatal(err)
		}
		if r.Body.Close(); r.StatusCode != status {
			t.Errorf("%q: got %d, want %d", mediaType, r.StatusCode, status)
		}
		if status == http.StatusUnsupportedMediaType {
			refusals.Add(1)
		}
	}
	r, err := http.Get(f.p.Addresses().CMP + cmp.WellKnown)
	if err != nil {
		t.Fatal(err)
	}
	if r.Body.Close(); r.StatusCode != http.StatusMethodNotAllowed || r.Header.Get("Allow") != "POST" {
		t.Errorf("GET: got %d, Allow %q", r.StatusCode, r.Header.Get("Allow"))
	}
}

func paths(t *testing.T, f *fleet) {
	for path, fail := range map[string]cmp.Failure{"": -1, "/": -1, "/initialization": -1, "/p/device": -1, "/p/device/": -1, "/p/device/initialization": -1,
		"/p/approved": cmp.NotAuthorized, "/p/nothing": cmp.BadCertID} {
		c := f.newcomer(t, "device")
		c.path += path
		if got := failure(t, c.send(c.request(cmp.IR))); got != fail {
			t.Errorf("%q: got %v, want %v", path, got, fail)
		}
	}
	named := f.newcomer(t, "device")
	named.header = func(h *cmp.Header) { h.Info = []cmp.Info{cmp.NewProfiles("device")} }
	want(t, named, named.request(cmp.IR), -1)
	named = f.newcomer(t, "device")
	named.path += "/p/device"
	named.header = func(h *cmp.Header) { h.Info = []cmp.Info{cmp.NewProfiles("approved")} }
	want(t, named, named.request(cmp.IR), cmp.BadRequest)
	r, err := http.Post(f.p.Addresses().CMP+"/pkix/", cmp.MediaType, nil)
	if err != nil {
		t.Fatal(err)
	}
	if r.Body.Close(); r.StatusCode != http.StatusNotFound {
		t.Errorf("another path: got %d, want 404", r.StatusCode)
	}
}

func madeHere(t *testing.T, f *fleet) {
	c := f.member(t, "made")
	r := &cmp.Requests{As: cmp.CR, List: []cmp.Request{{Template: cmp.Template{Subject: c.pair.Leaf.RawSubject}}}}
	b := c.send(r)
	cert := c.issued(b, cmp.CP)
	sealed := der.AppendElement(nil, 0xa0, b.(*cmp.Responses).List[0].PrivateKey)
	info := der.AppendElement(nil, 0x30, append([]byte("\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x07\x03"), sealed...))
	own, err := ecdhOf(c.pair)
	if err != nil {
		t.Fatal(err)
	}
	keys, signed, err := cms.OpenKeys(info, cms.ECKey{ID: cms.IssuerAndSerial(c.pair.Leaf), Key: own})
	if err != nil || len(keys) != 1 {
		t.Fatalf("got %d keys, %v", len(keys), err)
	}
	by, err := x509.ParseCertificate(signed.Certificates[0])
	if err != nil || by.Subject.CommonName != "mooring" && len(signed.Certificates) < 2 {
		t.Errorf("signed by %v, %v", by, err)
	}
	key, err := der.ParsePrivateKey(keys[0])
	if err != nil {
		t.Fatal(err)
	}
	spki, err := der.EncodePublicKey(key.Public())
	if err != nil || !bytes.Equal(spki, cert.RawSubjectPublicKeyInfo) {
		t.Errorf("the key is not that of the certificate: %v", err)
	}
	if b := c.send(confirm(cert)); b.Kind() != cmp.PKIConf {
		t.Errorf("got %s %+v, want pkiconf", b.Kind(), b)
	}
}

// badRequests takes some of what no protocol may have from the list for all protocols, in requests of CRMF; TestEveryProtocol has all of it in PKCS #10.
func badRequests(t *testing.T, f *fleet) {
	issuer, err := f.p.CA.Issuer("devices")
	if err != nil {
		t.Fatal(err)
	}
	name := func(n string) []byte {
		out, err := der.BuildName([]der.Attribute{{Type: der.OIDCommonName, Value: n}})
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	for what, c := range map[string]struct {
		change func(*cmp.Template)
		fail   cmp.Failure
	}{
		"a CA's key":      {func(x *cmp.Template) { x.SPKI = issuer.Certificate().RawSubjectPublicKeyInfo }, cmp.BadPOP},
		"RSA < 2048":      {func(x *cmp.Template) { x.SPKI = rsaSPKI(new(big.Int).Lsh(big.NewInt(1), 1023), 65537) }, cmp.BadCertTemplate},
		"e = 1":           {func(x *cmp.Template) { x.SPKI = rsaSPKI(new(big.Int).Lsh(big.NewInt(1), 2047), 1) }, cmp.BadCertTemplate},
		"P-192":           {func(x *cmp.Template) { x.SPKI = p192() }, cmp.BadCertTemplate},
		"ROCA":            {func(x *cmp.Template) { x.SPKI = rsaSPKI(apptest.ROCA(), 65537) }, cmp.BadCertTemplate},
		"another subject": {func(x *cmp.Template) { x.Subject = name("somebody-else") }, cmp.NotAuthorized},
		"CA:TRUE":         {func(x *cmp.Template) { x.Extensions = extensions(der.NewBasicConstraints(true, 0)) }, cmp.NotAuthorized},
		"keyCertSign":     {func(x *cmp.Template) { x.Extensions = extensions(der.NewKeyUsage(der.KeyCertSign)) }, cmp.NotAuthorized},
		"twice":           {func(x *cmp.Template) { x.Extensions = extensions(der.NewKeyUsage(1), der.NewKeyUsage(1)) }, cmp.BadCertTemplate},
		"a name that no one has": {func(x *cmp.Template) {
			san, err := der.NewAltNames(der.AltNames{DNS: []string{"pki.example.com"}}, false)
			if err != nil {
				t.Fatal(err)
			}
			x.Extensions = extensions(san)
		}, cmp.NotAuthorized},
	} {
		t.Run(what, func(t *testing.T) {
			d := f.newcomer(t, "device")
			key := apptest.Key(t)
			r := d.wanted(key, nil)
			c.change(&r.Template)
			if err := r.Prove(key, rand.Reader); err != nil {
				t.Fatal(err)
			}
			want(t, d, &cmp.Requests{As: cmp.IR, List: []cmp.Request{r}}, c.fail)
		})
	}
}

func extensions(list ...der.Extension) []byte {
	var out []byte
	for _, e := range list {
		out = e.Append(out)
	}
	return der.AppendElement(nil, 0x30, out)
}

// TestRefusalsAreRecorded wants an entry for each kind of refusal: by the server, of a stranger, and by core.
func TestRefusalsAreRecorded(t *testing.T) {
	p := apptest.Start(t, withCMP)
	f := &fleet{p: p, prefix: "d"}
	c := f.member(t, "device")
	c.header = func(h *cmp.Header) { h.SenderNonce = nil }
	want(t, c, c.renewal(), cmp.BadSenderNonce)
	d, _ := p.Device(t, f.name(), "device")
	want(t, byMAC(t, p, d.Name, "mt_wrong"), c.renewal(), cmp.BadMessageCheck)
	want(t, byCert(t, p, *c.pair), c.give(f.member(t, "device").pair.Leaf, 1), cmp.BadCertID)
	for _, part := range []string{"the senderNonce has 0 octets", "the message authentication code does not match", "this device holds no such certificate"} {
		found := false
		for _, e := range p.Record(t) {
			found = found || e.Action == "enrol.refuse" && strings.Contains(e.Refused, part) && e.Detail["protocol"] == "cmp"
		}
		if !found {
			t.Errorf("no entry says %q", part)
		}
	}
	if text := p.Log.String(); !strings.Contains(text, "failure=badSenderNonce") || !strings.Contains(text, "surface=cmp") {
		t.Errorf("the log does not tell: %s", text)
	}
}

// TestStrangersLeaveNothing has somebody with a certificate of his own making send a message of each kind, and a device with a bad request: neither
// takes anything of the memory for open exchanges. A device that is known does.
func TestStrangersLeaveNothing(t *testing.T) {
	p := apptest.Start(t, withCMP)
	f := &fleet{p: p, prefix: "s"}
	_, own := p.Enrolled(t, f.name(), "device") // the server signs with it here
	s := server.New(server.Deps{Enrol: p.Enrol, CA: p.CA, Revoke: p.Revoke, Secret: p.Devices.TokenSecret, Now: p.Clock.Now,
		Identity: func() (crypto.Signer, *x509.Certificate, [][]byte) {
			return own.PrivateKey.(crypto.Signer), own.Leaf, nil
		}})
	ask := func(c *client, body cmp.Body) cmp.Body {
		t.Helper()
		r := httptest.NewRequest(http.MethodPost, cmp.WellKnown, bytes.NewReader(c.build(body)))
		r.Header.Set("Content-Type", cmp.MediaType)
		w := httptest.NewRecorder()
		s.ServeHTTP(w, r)
		m, err := cmp.Parse(w.Body.Bytes())
		if err != nil {
			t.Fatalf("%s: got %d, %v", body.Kind(), w.Code, err)
		}
		c.theirs = m.Header.SenderNonce
		return m.Body
	}
	key := apptest.Key(t)
	spec := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "nobody"}, NotBefore: p.Clock.Now().Add(-time.Hour), NotAfter: p.Clock.Now().Add(time.Hour)}
	raw, err := x509.CreateCertificate(rand.Reader, spec, spec, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(raw)
	if err != nil {
		t.Fatal(err)
	}
	nobody := func() *client {
		return byCert(t, p, tls.Certificate{Certificate: [][]byte{raw}, PrivateKey: key, Leaf: leaf})
	}
	c := nobody()
	two := c.request(cmp.IR)
	two.List = append(two.List, two.List...)
	for _, body := range []cmp.Body{&cmp.General{As: cmp.GenM}, c.request(cmp.IR), c.request(cmp.CR), c.request(cmp.KUR), two, c.give(leaf, 1), cmp.Messages{[]byte{0x30, 0}}, confirm(leaf),
		cmp.PKCS10(apptest.CSR(t, apptest.Key(t), der.RequestSpec{})), cmp.Poll{0}, &cmp.Failed{Status: cmp.Refused(cmp.SystemFailure, "no")}, cmp.Confirmed{}} {
		c := nobody()
		switch body.Kind() {
		case cmp.CertConf, cmp.PollReq, cmp.PKIConf:
			c.theirs = random(16)
		}
		if answer := ask(c, body); failure(t, answer) < 0 && body.Kind() != cmp.Error {
			t.Errorf("a %s of a stranger was answered with a %s", body.Kind(), answer.Kind())
		}
		if n := s.Open(); n != 0 {
			t.Fatalf("after a %s of a stranger %d exchanges are kept", body.Kind(), n)
		}
	}
	known := f.newcomer(t, "device")
	bad := known.request(cmp.IR)
	bad.List[0].Proof.Bits = known.request(cmp.IR).List[0].Proof.Bits
	if got := failure(t, ask(known, bad)); got != cmp.BadPOP || s.Open() != 0 {
		t.Errorf("a bad request: got %v, and %d exchanges are kept, want badPOP and none", got, s.Open())
	}
	known.theirs = nil
	cert := known.issued(ask(known, known.request(cmp.IR)), cmp.IP) // the transactionID is free again
	if n := s.Open(); n != 1 {
		t.Errorf("an exchange that waits for its certConf: %d are kept, want 1", n)
	}
	if b := ask(known, confirm(cert)); b.Kind() != cmp.PKIConf || s.Open() != 1 {
		t.Errorf("the certConf: got a %s, and %d exchanges are kept, want pkiconf and 1", b.Kind(), s.Open())
	}
}
