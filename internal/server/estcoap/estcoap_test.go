package estcoap_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	piondtls "github.com/pion/dtls/v3"

	"mooring/internal/app/apptest"
	"mooring/internal/core/audit"
	"mooring/internal/core/device"
	"mooring/internal/core/revoke"
	api "mooring/internal/server/api/client"
	"mooring/internal/server/api/v1"
	"mooring/wire/cms"
	wire "mooring/wire/coap"
	"mooring/wire/der"
	"mooring/wire/est"
)

// issued reads a certificate out of an answer of sen or sren.
func issued(t *testing.T, a *wire.Message) *x509.Certificate {
	t.Helper()
	if a.Code != wire.Changed {
		t.Fatalf("got %s %q, want a certificate", a.Code, a.Payload)
	}
	raw := a.Payload
	if f, _ := a.Options.Uint(wire.ContentFormat); wire.Format(f) == wire.PKCS7CertsOnly {
		certs, err := cms.ParseCertsOnly(raw)
		if err != nil || len(certs) != 1 {
			t.Fatalf("%d certificates, %v", len(certs), err)
		}
		raw = certs[0]
	} else if wire.Format(f) != wire.PKIXCert {
		t.Fatalf("the answer has the format %d", f)
	}
	cert, err := x509.ParseCertificate(raw)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

// entries returns the entries of the record that an answer has left.
func entries(t *testing.T, p *apptest.Platform, action string) (list []audit.Indexed) {
	t.Helper()
	for _, e := range p.Record(t) {
		if e.Action == action {
			list = append(list, e)
		}
	}
	return list
}

func wantCode(t *testing.T, a *wire.Message, code wire.Code, text string) {
	t.Helper()
	if a.Code != code || text != "" && !strings.Contains(string(a.Payload), text) {
		t.Errorf("got %s %q, want %s %q", a.Code, a.Payload, code, text)
	}
}

// TestTransport: who gets in.
func TestTransport(t *testing.T) {
	p := start(t)
	_, pair := p.Enrolled(t, "meter-1", "device")
	for name, suites := range map[string][]piondtls.CipherSuiteID{
		"CCM_8 only": {piondtls.TLS_ECDHE_ECDSA_WITH_AES_128_CCM_8},
		"GCM":        {piondtls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256},
		"both":       {piondtls.TLS_ECDHE_ECDSA_WITH_AES_128_CCM_8, piondtls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256},
	} {
		t.Run(name, func(t *testing.T) {
			c, err := tryDial(t, p, piondtls.WithCertificates(pair), piondtls.WithCipherSuites(suites...))
			if err != nil {
				t.Fatal(err)
			}
			wantCode(t, c.get(t, "/est/crts"), wire.Content, "")
		})
	}
	for name, options := range map[string][]piondtls.ClientOption{
		"client without certificate refused": {piondtls.WithCipherSuites(piondtls.TLS_ECDHE_ECDSA_WITH_AES_128_CCM_8)},
		"PSK refused": {piondtls.WithPSK(func([]byte) ([]byte, error) { return []byte("secret"), nil }), piondtls.WithPSKIdentityHint([]byte("id")),
			piondtls.WithCipherSuites(piondtls.TLS_PSK_WITH_AES_128_CCM_8)},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := tryDial(t, p, options...); err == nil {
				t.Error("an association came about")
			}
		})
	}
}

// TestResources: what is where, and in which form it can be had.
func TestResources(t *testing.T) {
	p := start(t)
	_, pair := p.Enrolled(t, "meter-1", "device")
	c := dial(t, p, pair)
	csr := apptest.CSR(t, apptest.Key(t), der.RequestSpec{})

	t.Run("/.well-known/core?rt=ace.est* filter", func(t *testing.T) {
		a := c.get(t, "/.well-known/core?rt=ace.est*")
		f, _ := a.Options.Uint(wire.ContentFormat)
		want := `</est/crts>;rt="ace.est.crts";ct="281 287",</est/sen>;rt="ace.est.sen";ct="281 287",</est/sren>;rt="ace.est.sren";ct="281 287",` +
			`</est/att>;rt="ace.est.att";ct="285",</est/skg>;rt="ace.est.skg";ct="62",</est/skc>;rt="ace.est.skc";ct="62"`
		if a.Code != wire.Content || f != 40 || string(a.Payload) != want {
			t.Errorf("got %s, %d, %s", a.Code, f, a.Payload)
		}
		for query, want := range map[string]string{"rt=ace.est.sen": `</est/sen>;rt="ace.est.sen";ct="281 287"`, "rt=nothing": "", "ct=285": `</est/att>;rt="ace.est.att";ct="285"`} {
			if a := c.get(t, "/.well-known/core?"+query); string(a.Payload) != want || a.Code != wire.Content {
				t.Errorf("%s: %s %s", query, a.Code, a.Payload)
			}
		}
		wantCode(t, c.get(t, "/.well-known/core", accept(wire.PKCS8)), wire.NotAcceptable, "40")
	})
	for _, row := range []struct {
		name, path string
		post       bool
		options    []wire.Option
		code       wire.Code
		format     wire.Format
		text       string
	}{
		{"short paths", "/est/crts", false, nil, wire.Content, 281, ""},
		{"/.well-known/est root", "/.well-known/est/crts", false, nil, wire.Content, 281, ""},
		{"labels, short root", "/est/device/crts", false, nil, wire.Content, 281, ""},
		{"labels, long root", "/.well-known/est/device/att", false, nil, wire.Content, 285, ""},
		{"unknown label", "/est/nonesuch/crts", false, nil, wire.NotFound, 0, "there is no profile"},
		{"unknown label, enrolment", "/est/nonesuch/sen", true, []wire.Option{format(286)}, wire.NotFound, 0, "there is no profile"},
		{"operation as label", "/est/crts/sen", false, nil, wire.NotFound, 0, "there is nothing here"},
		{"empty label", "/est//sen", false, nil, wire.NotFound, 0, "there is nothing here"},
		{"unknown resource", "/est/nonesuch", false, nil, wire.NotFound, 0, "rt=ace.est*"},
		{"elsewhere", "/", false, nil, wire.NotFound, 0, ""},
		{"long name", "/.well-known/est/cacerts", false, nil, wire.NotFound, 0, ""},
		{"POST crts", "/est/crts", true, nil, wire.MethodNotAllowed, 0, "only GET"},
		{"GET sen", "/est/sen", false, nil, wire.MethodNotAllowed, 0, "only POST"},
		{"Accept 281", "/est/crts", false, []wire.Option{accept(281)}, wire.Content, 281, ""},
		{"Accept 287, several certificates", "/est/crts", false, []wire.Option{accept(287)}, wire.NotAcceptable, 0, "281 can"},
		{"Accept unsupported", "/est/crts", false, []wire.Option{accept(50)}, wire.NotAcceptable, 0, "281 or 287"},
		{"Accept unsupported, att", "/est/att", false, []wire.Option{accept(281)}, wire.NotAcceptable, 0, "285"},
		{"Accept 281, sen", "/est/sen", true, []wire.Option{format(286), accept(281)}, wire.Changed, 281, ""},
		{"Accept 287, sen", "/est/sen", true, []wire.Option{format(286), accept(287)}, wire.Changed, 287, ""},
		{"Accept none, sen", "/est/sen", true, []wire.Option{format(286)}, wire.Changed, 281, ""},
		{"Accept unsupported (4.06), sen", "/est/sen", true, []wire.Option{format(286), accept(62)}, wire.NotAcceptable, 0, "281 or 287"},
		{"Content-Format other than 286 (4.15)", "/est/sen", true, []wire.Option{format(281)}, wire.UnsupportedFormat, 0, "286"},
		{"Content-Format absent (4.15)", "/est/sen", true, nil, wire.UnsupportedFormat, 0, "286"},
		{"Content-Format 0, skg (4.15)", "/est/skg", true, []wire.Option{format(0)}, wire.UnsupportedFormat, 0, "286"},
		{"Accept 281, skg", "/est/skg", true, []wire.Option{format(286), accept(281)}, wire.NotAcceptable, 0, "62"},
		{"unknown critical option 4.02", "/est/crts", false, []wire.Option{{Number: 9}}, wire.BadOption, 0, "9"},
	} {
		t.Run(row.name, func(t *testing.T) {
			a := &wire.Message{}
			if row.post {
				a = c.post(t, row.path, csr, row.options...)
			} else {
				a = c.get(t, row.path, row.options...)
			}
			wantCode(t, a, row.code, row.text)
			if f, _ := a.Options.Uint(wire.ContentFormat); row.code.Class() == 2 && wire.Format(f) != row.format {
				t.Errorf("format %d, want %d", f, row.format)
			}
		})
	}
	t.Run("crts holds the root", func(t *testing.T) {
		certs, err := cms.ParseCertsOnly(c.get(t, "/est/crts").Payload)
		if err != nil || !slices.ContainsFunc(certs, func(c []byte) bool { return bytes.Equal(c, p.Root.Raw) }) {
			t.Errorf("%d certificates without the root, %v", len(certs), err)
		}
	})
	t.Run("att is what /csrattrs says", func(t *testing.T) {
		a, err := est.ParseCSRAttrs(c.get(t, "/est/att").Payload)
		if err != nil || a.Template == nil || len(a.Items) == 0 {
			t.Errorf("got %+v, %v", a, err)
		}
	})
	t.Run("refusals are recorded", func(t *testing.T) {
		var reasons []string
		for _, e := range entries(t, p, "enrol.refuse") {
			if e.Detail["protocol"] != "est-coaps" {
				t.Errorf("refused over %q", e.Detail["protocol"])
			}
			reasons = append(reasons, e.Refused)
		}
		for _, want := range []string{"the content format must be 286", "the content format 62 is not offered here"} {
			if !strings.Contains(strings.Join(reasons, "\n"), want) {
				t.Errorf("the record lacks %q: %q", want, reasons)
			}
		}
	})
}

// TestEnrolment: certificates by blocks of each size, each for the key that was asked for and each once.
func TestEnrolment(t *testing.T) {
	p := start(t)
	d, pair := p.Enrolled(t, "meter-1", "device")
	request := func(t *testing.T) (csr []byte, key *ecdsa.PublicKey) {
		k := apptest.Key(t)
		return apptest.CSR(t, k, der.RequestSpec{}), &k.PublicKey
	}
	t.Run("Block1 sizes 16 to 1024", func(t *testing.T) {
		for szx := range uint8(7) {
			c := dial(t, p, pair)
			c.szx = szx
			csr, key := request(t)
			before := len(entries(t, p, "cert.issue"))
			cert := issued(t, c.post(t, "/est/sen", csr, format(286), wire.Option{Number: wire.RequestTag, Value: []byte{szx}}))
			if !key.Equal(cert.PublicKey) {
				t.Errorf("size %d: the certificate has another key", 16<<szx)
			}
			if n := len(entries(t, p, "cert.issue")) - before; n != 1 {
				t.Errorf("size %d: %d certificates were issued", 16<<szx, n)
			}
		}
	})
	t.Run("out of order (4.08)", func(t *testing.T) {
		c := dial(t, p, pair)
		c.szx = 2
		csr, _ := request(t)
		c.block(t, "/est/sen", csr, 0, format(286))
		a, _ := c.block(t, "/est/sen", csr, 2, format(286))
		wantCode(t, a, wire.EntityIncomplete, "")
		t.Run("restarted at 0", func(t *testing.T) { issued(t, c.post(t, "/est/sen", csr, format(286))) })
	})
	t.Run("oversize 4.13", func(t *testing.T) {
		c := dial(t, p, pair)
		a := c.post(t, "/est/sen", make([]byte, 17<<10), format(286))
		wantCode(t, a, wire.EntityTooLarge, "16384")
		if size, _ := a.Options.Uint(wire.Size1); size != 16384 {
			t.Errorf("Size1 %d", size)
		}
	})
	t.Run("address change in mid-transfer", func(t *testing.T) {
		c := dial(t, p, pair)
		c.szx = 3
		csr, key := request(t)
		var a *wire.Message
		for num, more := uint32(0), true; more; num++ {
			c.road.rebind(t)
			a, more = c.block(t, "/est/sen", csr, num, format(286))
		}
		c.road.rebind(t)
		cert := issued(t, c.rest(t, wire.POST, "/est/sen", csr, a, wire.Options{format(286)}))
		if !key.Equal(cert.PublicKey) {
			t.Error("the certificate has another key")
		}
		if counted(t, p, "mooring_associations_moved_total") == 0 {
			t.Error("the client has not been asked whether it is there")
		}
	})
	t.Run("Block2 continuation of a POST does not enrol twice", func(t *testing.T) {
		c := dial(t, p, pair)
		c.szx = 1
		csr, _ := request(t)
		before := len(entries(t, p, "cert.issue"))
		if a := c.post(t, "/est/skg", csr, format(286)); a.Code != wire.Changed || len(a.Payload) < 500 {
			t.Errorf("got %s, %d octets", a.Code, len(a.Payload))
		}
		if n := len(entries(t, p, "cert.issue")) - before; n != 1 {
			t.Errorf("%d certificates were issued", n)
		}
	})
	t.Run("duplicate CON answered from cache", func(t *testing.T) {
		c := dial(t, p, pair)
		csr, _ := request(t)
		m := &wire.Message{Code: wire.POST, Options: append(wire.PathOptions("/est/skg"), format(286)), Payload: csr}
		before := len(entries(t, p, "cert.issue"))
		first := c.ask(t, m)
		again := c.again(t, m)
		if n := len(entries(t, p, "cert.issue")) - before; n != 1 || !bytes.Equal(first.Payload, again.Payload) {
			t.Errorf("%d certificates were issued; answers alike: %v", n, bytes.Equal(first.Payload, again.Payload))
		}
	})
	t.Run("NON requests", func(t *testing.T) {
		c := dial(t, p, pair)
		csr, _ := request(t)
		a := c.ask(t, &wire.Message{Type: wire.NonConfirmable, Code: wire.POST, Options: append(wire.PathOptions("/est/sen"), format(286)), Payload: csr})
		if a.Type != wire.NonConfirmable {
			t.Errorf("answered by a message of type %d", a.Type)
		}
		issued(t, c.rest(t, wire.POST, "/est/sen", csr, a, wire.Options{format(286)}))
	})
	t.Run("the same request gives the same certificate", func(t *testing.T) {
		csr, _ := request(t)
		first := issued(t, dial(t, p, pair).post(t, "/est/sen", csr, format(286)))
		if again := issued(t, dial(t, p, pair).post(t, "/est/sen", csr, format(286), accept(287))); !again.Equal(first) {
			t.Error("another certificate was issued")
		}
	})
	t.Run("the record names the protocol", func(t *testing.T) {
		list := entries(t, p, "cert.issue")
		last := list[len(list)-1]
		if last.Detail["protocol"] != "est-coaps" || last.Device != d.ID.String() || last.Detail["evidence"] != "operational" {
			t.Errorf("got %+v", last.Entry)
		}
	})
}

// TestAuthority has a registration authority send the requests of devices (RFC 9148, section 5). What else it may not is shown for EST, by the same code.
func TestAuthority(t *testing.T) {
	p := start(t, apptest.Variant("device", "field", "evidence: [token, operational, ra]"),
		apptest.Variant("device", "authority", "ext_key_usage: [clientAuth, cmcRA]", "approval: required", "slot: authority"))
	d, token := p.Device(t, "authority-1", "authority")
	key := apptest.Key(t)
	call := apptest.Call{Path: "/.well-known/est/simpleenroll", User: d.Name, Secret: token, Body: apptest.Body(apptest.CSR(t, key, der.RequestSpec{}))}
	p.Send(t, call)
	if _, err := p.Enrol.Decide(t.Context(), apptest.Operator(), d.Name, "", true); err != nil {
		t.Fatal(err)
	}
	ra := dial(t, p, p.Pair(t, key, p.Send(t, call).Certificate(t).Raw))
	inside := p.Add(t, device.Spec{Name: "inside", Profile: "field"})
	p.Add(t, device.Spec{Name: "plain", Profile: "device"})
	named := func(name string, challenge ...string) []byte {
		return apptest.CSR(t, apptest.Key(t), der.RequestSpec{Subject: []der.Attribute{{Type: der.OIDCommonName, Value: name}}, ChallengePassword: strings.Join(challenge, "")})
	}
	t.Run("RA with cmcRA", func(t *testing.T) {
		if cert := issued(t, ra.post(t, "/est/sen", named("inside", "of the device's association with the authority"), format(286))); cert.Subject.CommonName != "inside" {
			t.Errorf("the certificate is for %s", cert.Subject)
		}
		list := entries(t, p, "cert.issue")
		if last := list[len(list)-1]; last.Device != inside.ID.String() || last.Detail["evidence"] != "ra" || last.Detail["authority"] != d.ID.String() {
			t.Errorf("the record says %+v", last.Entry)
		}
	})
	t.Run("RA with cmcRA for a profile that takes no RA", func(t *testing.T) {
		for _, name := range []string{"plain", "mooring"} {
			wantCode(t, ra.post(t, "/est/sen", named(name), format(286)), wire.Forbidden, "does not accept authentication by ra")
		}
	})
	t.Run("RA with cmcRA for a renewal or a key", func(t *testing.T) { // those are for whom the association is with
		for _, path := range []string{"/est/sren", "/est/skg"} {
			if a := ra.post(t, path, named("inside"), format(286)); a.Code.Class() == 2 {
				t.Errorf("%s: got %s", path, a.Code)
			}
		}
	})
	t.Run("RA without cmcRA", func(t *testing.T) {
		_, other := p.Enrolled(t, "end-entity", "field")
		wantCode(t, dial(t, p, other).post(t, "/est/sen", named("inside"), format(286)), wire.Forbidden, "asks for the subject")
	})
	if n := p.Load(t, inside.ID).Issued; n != 1 {
		t.Errorf("%d certificates were issued", n)
	}
}

func TestRenewal(t *testing.T) {
	p := start(t)
	_, pair := p.Enrolled(t, "meter-1", "device")
	second, birth := p.Enrolled(t, "meter-2", "birth")
	working := "device"
	if _, err := p.Devices.Change(t.Context(), apptest.Operator(), second.ID, device.Change{Profile: &working}); err != nil {
		t.Fatal(err)
	}
	spec := der.RequestSpec{RawSubject: pair.Leaf.RawSubject}
	if len(pair.Leaf.URIs) > 0 {
		for _, u := range pair.Leaf.URIs {
			spec.Names.URI = append(spec.Names.URI, u.String())
		}
	}
	t.Run("rekey allowed", func(t *testing.T) {
		key := apptest.Key(t)
		cert := issued(t, dial(t, p, pair).post(t, "/est/sren", apptest.CSR(t, key, spec), format(286)))
		if !key.PublicKey.Equal(cert.PublicKey) || !bytes.Equal(cert.RawSubject, pair.Leaf.RawSubject) {
			t.Errorf("renewed as %s", cert.Subject)
		}
		pair = p.Pair(t, key, cert.Raw)
	})
	t.Run("other subject", func(t *testing.T) {
		other := spec
		other.RawSubject, other.Subject = nil, []der.Attribute{{Type: der.OIDCommonName, Value: "meter-9"}}
		wantCode(t, dial(t, p, pair).post(t, "/est/sren", apptest.CSR(t, apptest.Key(t), other), format(286)), wire.Forbidden, "must repeat the subject")
	})
	t.Run("birth certificate leads to the working one", func(t *testing.T) {
		cert := issued(t, dial(t, p, birth).post(t, "/est/sen", apptest.CSR(t, apptest.Key(t), der.RequestSpec{}), format(286)))
		if cert.Subject.CommonName != "meter-2" {
			t.Errorf("issued to %s", cert.Subject)
		}
	})
	t.Run("revoked", func(t *testing.T) {
		c := dial(t, p, pair)
		wantCode(t, c.get(t, "/est/crts"), wire.Content, "")
		if _, err := p.Revoke.Certificate(t.Context(), apptest.Operator(), pair.Leaf.SerialNumber.Bytes(), revoke.KeyCompromise); err != nil {
			t.Fatal(err)
		}
		// The association is cut within a second; a new one is let in, and its request refused.
		b := make([]byte, 100)
		if err := c.conn.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
			t.Fatal(err)
		}
		if _, err := c.conn.Read(b); err == nil || strings.Contains(err.Error(), "timeout") {
			t.Errorf("the association lives on: %v", err)
		}
		wantCode(t, dial(t, p, pair).post(t, "/est/sren", apptest.CSR(t, apptest.Key(t), spec), format(286)), wire.Forbidden, "revoked")
	})
	t.Run("stranger", func(t *testing.T) {
		key := apptest.Key(t)
		template := &x509.Certificate{SerialNumber: pair.Leaf.SerialNumber, Subject: pair.Leaf.Subject, NotBefore: pair.Leaf.NotBefore, NotAfter: pair.Leaf.NotAfter}
		raw, err := x509.CreateCertificate(nil, template, template, key.Public(), key)
		if err != nil {
			t.Fatal(err)
		}
		c := dial(t, p, tls.Certificate{Certificate: [][]byte{raw}, PrivateKey: key})
		wantCode(t, c.post(t, "/est/sen", apptest.CSR(t, apptest.Key(t), der.RequestSpec{}), format(286)), wire.Unauthorized, "neither issued here")
	})
}

// TestDelays: very slow, because a person must decide: 5.03 with Max-Age, then the identical request.
func TestDelays(t *testing.T) {
	p := start(t, apptest.Variant("device", "approved", "approval: required", "slot: birth", "also_for: [device]"))
	d, pair := p.Enrolled(t, "meter-1", "device")
	csr := apptest.CSR(t, apptest.Key(t), der.RequestSpec{})
	ask := func(t *testing.T, csr []byte) *wire.Message {
		t.Helper()
		return dial(t, p, pair).post(t, "/est/approved/sen", csr, format(286))
	}
	wantLater := func(t *testing.T, a *wire.Message) {
		t.Helper()
		if age, ok := a.Options.Uint(wire.MaxAge); a.Code != wire.ServiceUnavailable || !ok || age != 60 {
			t.Fatalf("got %s, Max-Age %d, %q", a.Code, age, a.Payload)
		}
	}
	t.Run("very slow: 5.03 Max-Age then identical CSR", func(t *testing.T) {
		wantLater(t, ask(t, csr))
		wantLater(t, ask(t, csr))
		if _, err := p.Enrol.Decide(t.Context(), apptest.Operator(), d.Name, "", true); err != nil {
			t.Fatal(err)
		}
		first := issued(t, ask(t, csr))
		if again := issued(t, ask(t, csr)); !again.Equal(first) {
			t.Error("the request got two certificates")
		}
	})
	t.Run("very slow: another CSR is another request", func(t *testing.T) {
		wantLater(t, ask(t, apptest.CSR(t, apptest.Key(t), der.RequestSpec{})))
	})
}

func TestKeys(t *testing.T) {
	p := start(t)
	_, pair := p.Enrolled(t, "meter-1", "device")
	c := dial(t, p, pair)
	parts := func(t *testing.T, path string, spec der.RequestSpec) map[wire.Format][]byte {
		t.Helper()
		a := c.post(t, path, apptest.CSR(t, apptest.Key(t), spec), format(286))
		f, _ := a.Options.Uint(wire.ContentFormat)
		list, err := wire.ParseMultipart(a.Payload)
		if a.Code != wire.Changed || wire.Format(f) != wire.MultipartCore || err != nil || len(list) != 2 {
			t.Fatalf("got %s, format %d, %d parts, %v, %q", a.Code, f, len(list), err, a.Payload)
		}
		return map[wire.Format][]byte{list[0].Format: list[0].Body, list[1].Format: list[1].Body}
	}
	own := func(t *testing.T, key, cert []byte) {
		t.Helper()
		private, err := x509.ParsePKCS8PrivateKey(key)
		if err != nil {
			t.Fatal(err)
		}
		leaf, err := x509.ParseCertificate(cert)
		if err != nil {
			t.Fatal(err)
		}
		if !private.(*ecdsa.PrivateKey).PublicKey.Equal(leaf.PublicKey) {
			t.Error("key and certificate do not belong together")
		}
	}
	t.Run("multipart-core for skg", func(t *testing.T) {
		got := parts(t, "/est/skg", der.RequestSpec{})
		certs, err := cms.ParseCertsOnly(got[wire.PKCS7CertsOnly])
		if err != nil || len(certs) != 1 {
			t.Fatalf("%d certificates, %v", len(certs), err)
		}
		own(t, got[wire.PKCS8], certs[0])
	})
	t.Run("multipart-core for skc", func(t *testing.T) {
		got := parts(t, "/est/skc", der.RequestSpec{})
		own(t, got[wire.PKCS8], got[wire.PKIXCert])
	})
	t.Run("encrypted key (280)", func(t *testing.T) {
		value := octets(pair.Leaf.SubjectKeyId)
		got := parts(t, "/est/skg", der.RequestSpec{Attributes: []der.RequestAttribute{{Type: asymmetricDecryptKeyID, Values: [][]byte{value}}}})
		if len(got[wire.PKCS7Enveloped]) == 0 || len(got[wire.PKCS8]) != 0 {
			t.Errorf("the parts have the formats %v", got)
		}
	})
	t.Run("unknown key identifier", func(t *testing.T) {
		value := octets([]byte("somebody else's"))
		csr := apptest.CSR(t, apptest.Key(t), der.RequestSpec{Attributes: []der.RequestAttribute{{Type: asymmetricDecryptKeyID, Values: [][]byte{value}}}})
		wantCode(t, c.post(t, "/est/skg", csr, format(286)), wire.BadRequest, "does not name the key")
	})
}

// asymmetricDecryptKeyID names the key for which a generated one is encrypted (RFC 7030, section 4.4.1.2).
const asymmetricDecryptKeyID = der.OID("\x2a\x86\x48\x86\xf7\x0d\x01\x09\x10\x02\x36")

// octets is a short OCTET STRING.
func octets(b []byte) []byte { return append([]byte{4, byte(len(b))}, b...) }

// TestBinding: a challengePassword must be the exporter value of the association; DTLS has nothing else.
func TestBinding(t *testing.T) {
	p := start(t)
	_, pair := p.Enrolled(t, "meter-1", "device")
	c, other := dial(t, p, pair), dial(t, p, pair)
	value := func(c *client) string {
		state, _ := c.conn.ConnectionState()
		exporter, err := state.ExportKeyingMaterial(est.ExporterLabel, nil, est.ExporterLength)
		if err != nil {
			t.Fatal(err)
		}
		return base64.StdEncoding.EncodeToString(exporter)
	}
	for _, row := range []struct {
		name, challenge string
		code            wire.Code
	}{
		{"of this association", value(c), wire.Changed},
		{"of another association", value(other), wire.BadRequest},
		{"a password", "secret", wire.BadRequest},
	} {
		t.Run(row.name, func(t *testing.T) {
			csr := apptest.CSR(t, apptest.Key(t), der.RequestSpec{ChallengePassword: row.challenge})
			wantCode(t, c.post(t, "/est/sen", csr, format(286)), row.code, "")
		})
	}
}

// TestStatus: the listener is told of like the others.
func TestStatus(t *testing.T) {
	p := start(t)
	_, pair := p.Enrolled(t, "meter-1", "device")
	c := dial(t, p, pair)
	wantCode(t, c.get(t, "/est/crts"), wire.Content, "")
	wantCode(t, c.get(t, "/est/nonesuch"), wire.NotFound, "")
	if n := counted(t, p, "mooring_cookies_total"); n == 0 {
		t.Error("no hello was answered with a cookie")
	}
	status := server(t, p)
	found := false
	for _, l := range status.Listeners {
		if l.Name == "coaps" {
			found = true
			if l.Handshakes != 1 || l.Open != 1 || l.Accepted != 1 || !strings.HasPrefix(l.Address, "127.0.0.1:") {
				t.Errorf("shown as %+v", l)
			}
		}
	}
	if log := p.Log.String(); !found || !strings.Contains(log, "surface=coaps method=0.01 route=crts code=2.05") || !strings.Contains(log, "route=unmatched code=4.04") {
		t.Errorf("found %v; the log has no lines of the requests:\n%s", found, log)
	}
}

// server asks the platform how it does.
func server(t *testing.T, p *apptest.Platform) v1.Status {
	t.Helper()
	status, err := api.New(p.Config.SocketPath()).Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return status
}

// counted returns a counter of the listener.
func counted(t *testing.T, p *apptest.Platform, name string) (n float64) {
	t.Helper()
	for _, c := range server(t, p).Counts {
		if strings.HasPrefix(c.Name, name) && strings.Contains(c.Name+fmt.Sprint(c), "coaps") {
			n += c.Value
		}
	}
	return n
}
