package est_test

import (
	"bytes"
	"crypto/tls"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	agent "mooring/agent/est"
	"mooring/internal/app/apptest"
	"mooring/internal/base/conf"
	"mooring/internal/core/device"
	"mooring/internal/core/revoke"
	"mooring/wire/cms"
	"mooring/wire/der"
	"mooring/wire/est"
)

const (
	root     = "/.well-known/est/"
	enroll   = root + "simpleenroll"
	reenroll = root + "simplereenroll"
	keygen   = root + "serverkeygen"
)

// fresh makes a device with a token and a request for it; devices are numbered.
type fresh struct {
	p       *apptest.Platform
	profile string
	n       int
}

func (f *fresh) call(t *testing.T, path string) apptest.Call {
	t.Helper()
	f.n++
	name := fmt.Sprintf("%s-%d", f.profile, f.n)
	_, token := f.p.Device(t, name, f.profile)
	return apptest.Call{Path: path, User: name, Secret: token, Body: apptest.Body(apptest.CSR(t, apptest.Key(t), der.RequestSpec{}))}
}

// id returns the id of the last device.
func (f *fresh) id(t *testing.T) device.ID {
	t.Helper()
	id, _ := f.p.Devices.IDOf(fmt.Sprintf("%s-%d", f.profile, f.n))
	return id
}

// want checks status and body of a reply, and what every reply has: an exact length, no chunks, no way elsewhere.
func want(t *testing.T, r apptest.Reply, status int, text string) {
	t.Helper()
	if r.StatusCode != status || string(r.Text) != text {
		t.Errorf("got %s, want %d %q", r, status, text)
	}
	wantFraming(t, r)
	if status >= 400 && len(text) > 0 && !strings.HasPrefix(r.Header.Get("Content-Type"), "text/plain") {
		t.Errorf("the reason has the type %q, want text/plain", r.Header.Get("Content-Type"))
	}
}

func wantFraming(t *testing.T, r apptest.Reply) {
	t.Helper()
	if r.Header.Get("Content-Length") != fmt.Sprint(len(r.Text)) && r.StatusCode != http.StatusNotModified || len(r.TransferEncoding) > 0 {
		t.Errorf("Content-Length %q and Transfer-Encoding %q for %d octets", r.Header.Get("Content-Length"), r.TransferEncoding, len(r.Text))
	}
	if r.Header.Get("Location") != "" {
		t.Errorf("led to %q", r.Header.Get("Location"))
	}
}

// TestAddresses: what is there, by which method, and what is not.
func TestAddresses(t *testing.T) {
	p := apptest.Start(t, nil)
	body := []byte("x")
	for _, c := range []struct {
		name  string
		call  apptest.Call
		code  int
		text  string
		allow string
	}{
		{"unknown label, cacerts", apptest.Call{Path: root + "nonesuch/cacerts"}, 404, "there is no profile \"nonesuch\"\n", ""},
		{"unknown label, csrattrs", apptest.Call{Path: root + "nonesuch/csrattrs"}, 404, "there is no profile \"nonesuch\"\n", ""},
		{"unknown label, simpleenroll", apptest.Call{Path: root + "nonesuch/simpleenroll", Body: body}, 404, "there is no profile \"nonesuch\"\n", ""},
		{"unknown operation", apptest.Call{Path: root + "simpleenrol", Body: body}, 404, "there is no EST operation of this name\n", ""},
		{"unknown operation under a label", apptest.Call{Path: root + "device/enrol"}, 404, "there is no EST operation of this name\n", ""},
		{"elsewhere", apptest.Call{Path: "/"}, 404, "there is nothing here; EST is served below /.well-known/est/\n", ""},
		{"too deep", apptest.Call{Path: root + "device/cacerts/x"}, 404, "there is nothing here; EST is served below /.well-known/est/\n", ""},
		{"double slash", apptest.Call{Path: "/.well-known//est/cacerts"}, 404, "there is nothing here; EST is served below /.well-known/est/\n", ""},
		{"dots", apptest.Call{Path: root + "../est/cacerts"}, 404, "there is nothing here; EST is served below /.well-known/est/\n", ""},
		{"GET simpleenroll", apptest.Call{Path: enroll}, 405, "this address answers only POST\n", "POST"},
		{"PUT simplereenroll", apptest.Call{Path: reenroll, Method: "PUT", Body: body}, 405, "this address answers only POST\n", "POST"},
		{"GET serverkeygen", apptest.Call{Path: keygen}, 405, "this address answers only POST\n", "POST"},
		{"POST cacerts", apptest.Call{Path: root + "cacerts", Body: body}, 405, "this address answers only GET, HEAD\n", "GET, HEAD"},
		{"DELETE csrattrs", apptest.Call{Path: root + "csrattrs", Method: "DELETE"}, 405, "this address answers only GET, HEAD\n", "GET, HEAD"},
		{"GET fullcmc", apptest.Call{Path: root + "fullcmc"}, 405, "this address answers only POST\n", "POST"},
		{"POST fullcmc", apptest.Call{Path: root + "fullcmc", Body: body}, 501, "full CMC is not offered here; use simpleenroll\n", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := p.Send(t, c.call)
			want(t, r, c.code, c.text)
			if r.Header.Get("Allow") != c.allow {
				t.Errorf("Allow: %q, want %q", r.Header.Get("Allow"), c.allow)
			}
		})
	}
}

// TestCACerts: without authentication, for every label, with the root, in the form that every client reads.
func TestCACerts(t *testing.T) {
	p := apptest.Start(t, nil, apptest.Variant("device", "old-client", "unwrapped: true"))
	for _, label := range []string{"", "device/", "server/", "birth/", "old-client/"} {
		r := p.Send(t, apptest.Call{Path: root + label + "cacerts"})
		wantFraming(t, r)
		if r.StatusCode != 200 || r.Header.Get("Content-Type") != "application/pkcs7-mime" || r.Header.Get("Content-Transfer-Encoding") != "base64" {
			t.Fatalf("%q: got %d, %q, %q", label, r.StatusCode, r.Header.Get("Content-Type"), r.Header.Get("Content-Transfer-Encoding"))
		}
		wantLines(t, r.Text, label == "old-client/")
		raw, err := est.DecodeBase64(r.Text)
		if err != nil {
			t.Fatal(err)
		}
		certs, err := cms.ParseCertsOnly(raw)
		if err != nil {
			t.Fatal(err)
		}
		holdsRoot := false
		for _, c := range certs {
			holdsRoot = holdsRoot || bytes.Equal(c, p.Root.Raw)
		}
		if holdsRoot != (label != "birth/") {
			t.Errorf("%q: the root of the hierarchy is among the %d certificates: %v", label, len(certs), holdsRoot)
		}
		if tag := r.Header.Get("ETag"); tag == "" {
			t.Errorf("%q: no ETag", label)
		} else if again := p.Send(t, apptest.Call{Path: root + label + "cacerts", Header: []string{"If-None-Match: " + tag}}); again.StatusCode != 304 {
			t.Errorf("%q: with its own ETag got %s, want 304", label, again)
		}
	}
	if r := p.Send(t, apptest.Call{Method: "HEAD", Path: root + "cacerts"}); r.StatusCode != 200 || len(r.Text) > 0 {
		t.Errorf("HEAD: got %s", r)
	}
}

// wantLines checks the render rule: lines of 64 characters that end in LF, or one line without an end.
func wantLines(t *testing.T, text []byte, one bool) {
	t.Helper()
	if one {
		if bytes.ContainsAny(text, "\r\n") {
			t.Errorf("the text has line ends: %q", text[:min(len(text), 80)])
		}
		return
	}
	lines := strings.SplitAfter(string(text), "\n")
	if lines[len(lines)-1] != "" || strings.Contains(string(text), "\r") {
		t.Errorf("the text does not end in LF, or has CR")
	}
	for i, line := range lines[:len(lines)-1] {
		if len(line) > 65 || len(line) < 65 && i < len(lines)-2 {
			t.Errorf("line %d has %d characters, want 64", i, len(line)-1)
		}
	}
}

// TestEnrolledForm checks the answer of an enrolment octet by octet.
func TestEnrolledForm(t *testing.T) {
	p := apptest.Start(t, nil, apptest.Variant("device", "old-client", "unwrapped: true"))
	for _, profile := range []string{"device", "old-client"} {
		f := &fresh{p: p, profile: profile}
		r := p.Send(t, f.call(t, enroll))
		wantFraming(t, r)
		wantLines(t, r.Text, profile == "old-client")
		r.Certificate(t)
		if r.Header.Get("Content-Type") != "application/pkcs7-mime; smime-type=certs-only" || r.Header.Get("Content-Transfer-Encoding") != "base64" {
			t.Errorf("type %q, encoding %q", r.Header.Get("Content-Type"), r.Header.Get("Content-Transfer-Encoding"))
		}
	}
}

// TestAccepted: what requests may look like on their way.
func TestAccepted(t *testing.T) {
	p := apptest.Start(t, nil)
	f := &fresh{p: p, profile: "device"}
	raw := func(c apptest.Call) []byte {
		der, err := est.DecodeBase64(c.Body)
		if err != nil {
			t.Fatal(err)
		}
		return der
	}
	for _, c := range []struct {
		name string
		bend func(*apptest.Call)
	}{
		{"label", func(c *apptest.Call) { c.Path = root + "device/simpleenroll" }},
		{"Content-Transfer-Encoding: base64", func(c *apptest.Call) { c.Header = []string{"Content-Transfer-Encoding: base64"} }},
		{"Content-Transfer-Encoding: binary", func(c *apptest.Call) { c.Header = []string{"Content-Transfer-Encoding: binary"} }},
		{"Content-Transfer-Encoding: nonsense", func(c *apptest.Call) { c.Header = []string{"Content-Transfer-Encoding: nonsense"} }},
		{"type with parameters", func(c *apptest.Call) { c.Header = []string{"Content-Type: Application/PKCS10; charset=utf-8"} }},
		{"base64 on one line", func(c *apptest.Call) { c.Body = est.EncodeBase64Line(raw(*c)) }},
		{"base64 with CRLF", func(c *apptest.Call) { c.Body = bytes.ReplaceAll(c.Body, []byte("\n"), []byte("\r\n")) }},
		{"base64 with tabs and blanks", func(c *apptest.Call) { c.Body = bytes.ReplaceAll(c.Body, []byte("\n"), []byte("\t \n ")) }},
		{"PEM armour", func(c *apptest.Call) {
			c.Body = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: raw(*c)})
		}},
		{"HTTP/1.0", func(c *apptest.Call) { c.Proto = "HTTP/1.0" }},
		{"chunked", func(c *apptest.Call) {
			c.Header = []string{"Content-Length:", "Transfer-Encoding: chunked"}
			half := len(c.Body) / 2
			c.Body = fmt.Appendf(nil, "%x\r\n%s\r\n%x;ext=1\r\n%s\r\n0\r\n\r\n", half, c.Body[:half], len(c.Body)-half, c.Body[half:])
		}},
		{"Connection: close", func(c *apptest.Call) { c.Header = []string{"Connection: close"} }},
		{"our challenge in its Authorization", func(c *apptest.Call) { c.Header = []string{`WWW-Authenticate: Basic realm="est"`} }},
	} {
		t.Run(c.name, func(t *testing.T) {
			call := f.call(t, enroll)
			c.bend(&call)
			p.Send(t, call).Certificate(t)
		})
	}
	t.Run("Expect: 100-continue", func(t *testing.T) {
		call := f.call(t, enroll)
		body := call.Body
		call.Header = []string{"Expect: 100-continue", fmt.Sprintf("Content-Length: %d", len(body))}
		call.Body = []byte{}
		conn := p.Dial(t, p.TLS(nil))
		if r := conn.Send(t, call); r.StatusCode != http.StatusContinue {
			t.Fatalf("got %s, want 100", r)
		}
		conn.Say(t, body)
		conn.Reply(t, "POST").Certificate(t)
	})
	t.Run("HTTP/2", func(t *testing.T) {
		call := f.call(t, enroll)
		config := p.TLS(nil)
		config.NextProtos = nil
		client := &http.Client{Transport: &http.Transport{TLSClientConfig: config, ForceAttemptHTTP2: true}}
		defer client.CloseIdleConnections()
		r, err := http.NewRequestWithContext(t.Context(), "POST", p.Addresses().EST+enroll, bytes.NewReader(call.Body))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Content-Type", est.TypeRequest)
		r.SetBasicAuth(call.User, call.Secret)
		reply, err := client.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer reply.Body.Close()
		text, err := io.ReadAll(reply.Body)
		if err != nil || reply.StatusCode != 200 || reply.ProtoMajor != 2 || reply.ContentLength != int64(len(text)) {
			t.Fatalf("got %s %s with the length %d, %v: %q", reply.Proto, reply.Status, reply.ContentLength, err, text)
		}
		apptest.OneCertificate(t, text)
	})
	t.Run("several on one connection", func(t *testing.T) {
		conn := p.Dial(t, p.TLS(nil))
		for range 3 {
			conn.Send(t, f.call(t, enroll)).Certificate(t)
		}
	})
}

// TestTurnedAway: what is wrong before anybody looks into the request. Each leaves a trace.
func TestTurnedAway(t *testing.T) {
	p := apptest.Start(t, nil)
	f := &fresh{p: p, profile: "device"}
	for _, c := range []struct {
		name string
		bend func(*apptest.Call)
		code int
		text string
	}{
		{"no Content-Type", func(c *apptest.Call) { c.Header = []string{"Content-Type:"} }, 400, "the Content-Type is missing; it must be application/pkcs10\n"},
		{"another Content-Type", func(c *apptest.Call) { c.Header = []string{"Content-Type: application/json"} }, 415, "the Content-Type must be application/pkcs10\n"},
		{"empty body", func(c *apptest.Call) { c.Body = []byte{} }, 400, "the body is not the base64 of a PKCS#10 request: base64 body is empty\n"},
		{"binary body", func(c *apptest.Call) { c.Body = []byte("\x30\x82\x01\x00") }, 400, "the body is not the base64 of a PKCS#10 request: body is not base64 (RFC 4648, section 4)\n"},
		{"base64 without padding", func(c *apptest.Call) { c.Body = []byte("aGVsbG8") }, 400,
			"the body is not the base64 of a PKCS#10 request: base64 body lacks its padding; end it with one or two \"=\"\n"},
		{"something else in base64", func(c *apptest.Call) { c.Body = []byte("aGVsbG8=") }, 400,
			"the certification request is not acceptable: malformed certification request (not strict DER, or not of the standard's shape)\n"},
		{"trailing bytes", func(c *apptest.Call) {
			c.Body = est.EncodeBase64(append(mustDecode(t, c.Body), 0, 0, 0))
		}, 400, "the certification request is not acceptable: 3 trailing bytes after the certification request\n"},
		{"too large", func(c *apptest.Call) { c.Body = bytes.Repeat([]byte("A"), est.MaxRequest+1) }, 413, "the body has more than the 65536 octets allowed here\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			call := f.call(t, enroll)
			c.bend(&call)
			want(t, p.Send(t, call), c.code, c.text)
			wantTrace(t, p, strings.ReplaceAll(strings.TrimSuffix(c.text, "\n"), `"="`, `"…"`)) // the record keeps no quotations
		})
	}
}

func mustDecode(t *testing.T, text []byte) []byte {
	t.Helper()
	der, err := est.DecodeBase64(text)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func wantTrace(t *testing.T, p *apptest.Platform, reason string) {
	t.Helper()
	for _, e := range p.Record(t) {
		if e.Action == "enrol.refuse" && e.Refused == reason {
			return
		}
	}
	t.Errorf("the record does not know of %q", reason)
}

// TestUnauthenticated: 401 invites, has no body, and is the same whatever exists.
func TestUnauthenticated(t *testing.T) {
	p := apptest.Start(t, nil)
	_, right := p.Device(t, "known", "device")
	_, other := p.Device(t, "other", "device")
	const wrong = "the device is unknown or the token is wrong: check both, or ask for a new token"
	csr := apptest.Body(apptest.CSR(t, apptest.Key(t), der.RequestSpec{}))
	for _, c := range []struct{ name, user, secret, reason string }{
		{"nothing", "", "", "no client certificate was presented; present one, or the device's name and token"},
		{"known device", "known", other, wrong},
		{"unknown device", "nobody", other, wrong},
		{"unknown device, right token", "nobody", right, wrong},
		{"malformed token", "known", "x", "a token begins with mt_ and has 39 characters: copy it again"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := p.Send(t, apptest.Call{Path: enroll, Body: csr, User: c.user, Secret: c.secret})
			want(t, r, 401, "")
			if got, want := r.Header.Get("WWW-Authenticate"), `Basic realm="est", charset="UTF-8", error_description="`+c.reason+`"`; got != want {
				t.Errorf("WWW-Authenticate: %s, want %s", got, want)
			}
			r.Header.Del("Date")
			r.Header.Del("WWW-Authenticate")
			if len(r.Header) != 1 || r.Header.Get("Content-Length") != "0" {
				t.Errorf("the answer says more: %v", r.Header)
			}
			wantTrace(t, p, c.reason)
		})
	}
}

// TestClientCertificates: TLS lets every certificate in; what it is worth is decided per request.
func TestClientCertificates(t *testing.T) {
	p := apptest.Start(t, nil)
	_, pair := p.Enrolled(t, "meter-1", "device")
	names := der.AltNames{URI: []string{pair.Leaf.URIs[0].String()}}
	renewal := func(t *testing.T) apptest.Call {
		return apptest.Call{Path: reenroll, Body: apptest.Body(apptest.CSR(t, apptest.Key(t), der.RequestSpec{RawSubject: pair.Leaf.RawSubject, Names: names}))}
	}
	leaf := pair
	leaf.Certificate = pair.Certificate[:1]
	t.Run("chain", func(t *testing.T) { p.Send(t, renewal(t), pair).Certificate(t) })
	t.Run("leaf only", func(t *testing.T) { p.Send(t, renewal(t), leaf).Certificate(t) })
	t.Run("with the root", func(t *testing.T) {
		whole := pair
		whole.Certificate = append(append([][]byte{}, pair.Certificate...), p.Root.Raw)
		p.Send(t, renewal(t), whole).Certificate(t)
	})
	t.Run("certificate and token", func(t *testing.T) {
		d, own := p.Enrolled(t, "meter-2", "device")
		call := apptest.Call{Path: enroll, User: "meter-2", Secret: p.Token(t, d.ID), Body: apptest.Body(apptest.CSR(t, apptest.Key(t), der.RequestSpec{}))}
		p.Send(t, call, own).Certificate(t)
		call.Secret = p.Token(t, d.ID)
		call.Body = apptest.Body(apptest.CSR(t, apptest.Key(t), der.RequestSpec{}))
		r := p.Send(t, call, pair)
		want(t, r, 401, "")
		wantTrace(t, p, "the client certificate and the device name belong to different devices; use those of one device")
	})
	t.Run("strange CA", func(t *testing.T) {
		key := apptest.Key(t)
		want(t, p.Send(t, renewal(t), selfSigned(t, key)), 401, "")
		wantTrace(t, p, "the client certificate was neither issued here nor registered as a birth certificate; enrol with a token, or have it registered")
	})
	t.Run("expired", func(t *testing.T) {
		p.Clock.Move(91 * day)
		p.Restart(t) // the listener's own certificate ended as well
		defer func() {
			p.Clock.Move(-91 * day)
		}()
		want(t, p.Send(t, renewal(t), pair), 401, "")
	})
}

// TestResumedAfterRevocation: a session that is resumed proves the certificate, not that it still counts.
func TestResumedAfterRevocation(t *testing.T) {
	p := apptest.Start(t, nil)
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		d, pair := p.Enrolled(t, fmt.Sprintf("meter-%x", version), "device")
		config := p.TLS(&pair)
		config.MaxVersion, config.ClientSessionCache = version, tls.NewLRUClientSessionCache(1)
		call := func() apptest.Call {
			names := der.AltNames{URI: []string{pair.Leaf.URIs[0].String()}}
			return apptest.Call{Path: reenroll, Body: apptest.Body(apptest.CSR(t, apptest.Key(t), der.RequestSpec{RawSubject: pair.Leaf.RawSubject, Names: names}))}
		}
		p.Dial(t, config).Send(t, call()).Certificate(t)
		resumed := p.Dial(t, config)
		if resumed.Send(t, call()).Certificate(t); !resumed.ConnectionState().DidResume {
			t.Fatalf("%x: the session was not resumed", version)
		}
		if _, err := p.Revoke.Device(t.Context(), apptest.Operator(), d.ID, device.Lose, revoke.Unspecified); err != nil {
			t.Fatal(err)
		}
		const reason = "the client certificate is revoked; ask the device's operator for a new token\n"
		want(t, resumed.Send(t, call()), 403, reason) // on the open connection
		later := p.Dial(t, config)
		want(t, later.Send(t, call()), 403, reason)
		if !later.ConnectionState().DidResume {
			t.Errorf("%x: the later session was not resumed, so this shows nothing", version)
		}
	}
}

// TestApprovalOverHTTP: 202 with Retry-After until a person has decided.
func TestApprovalOverHTTP(t *testing.T) {
	p := apptest.Start(t, func(c *conf.Config) { c.Enrol.RetryAfter = 90_000_000_000 }, apptest.Variant("device", "approved", "approval: required"))
	f := &fresh{p: p, profile: "approved"}
	call := f.call(t, enroll)
	for range 2 {
		r := p.Send(t, call)
		want(t, r, 202, "")
		if r.Header.Get("Retry-After") != "90" {
			t.Errorf("Retry-After: %q, want 90", r.Header.Get("Retry-After"))
		}
	}
	if _, err := p.Enrol.Decide(t.Context(), apptest.Operator(), call.User, "", true); err != nil {
		t.Fatal(err)
	}
	p.Send(t, call).Certificate(t)

	call = f.call(t, enroll)
	want(t, p.Send(t, call), 202, "")
	if _, err := p.Enrol.Decide(t.Context(), apptest.Operator(), call.User, "", false); err != nil {
		t.Fatal(err)
	}
	want(t, p.Send(t, call), 403, "an operator has refused this request\n")
}

// TestOrdinaryLife drives the public client through enrolment and renewal.
func TestOrdinaryLife(t *testing.T) {
	p := apptest.Start(t, nil, apptest.Variant("device", "linked", "linking: required"))
	for _, profile := range []string{"device", "linked"} {
		t.Run(profile, func(t *testing.T) { ordinaryLife(t, p, profile) })
	}
}

func ordinaryLife(t *testing.T, p *apptest.Platform, profile string) {
	name := "meter-" + profile
	d, token := p.Device(t, name, profile)
	session := p.Session(t, profile, agent.Credential{User: name, Secret: token})
	attributes, err := session.CSRAttrs(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	key := apptest.Key(t)
	cert, err := session.Enrol(t.Context(), agent.Order{Key: key, Attributes: attributes, Subject: []der.Attribute{{Type: der.OIDCommonName, Value: name}}})
	if err != nil {
		t.Fatal(err)
	}
	bundle, err := session.CACerts(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := bundle.Chain(cert, p.Clock.Now()); err != nil {
		t.Error(err)
	}
	pair := p.Pair(t, key, cert.Raw)
	next := apptest.Key(t)
	order, err := agent.OrderAgain(cert, next, attributes)
	if err != nil {
		t.Fatal(err)
	}
	renewed, err := p.Session(t, profile, agent.Credential{Certificate: &pair}).Renew(t.Context(), order)
	if err != nil {
		t.Fatal(err)
	}
	if !next.PublicKey.Equal(renewed.PublicKey) {
		t.Error("the renewed certificate has another key")
	}
	kinds := map[string]int{}
	for _, e := range p.Record(t) {
		if e.Device == d.ID.String() {
			kinds[e.Action]++
		}
	}
	if kinds["cert.issue"] != 2 || kinds["enrol.refuse"] != 0 {
		t.Errorf("the record of the device: %v", kinds)
	}
}
