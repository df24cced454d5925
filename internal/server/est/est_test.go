package est_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/asn1"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	agent "mooring/agent/est"
	"mooring/internal/app/apptest"
	"mooring/internal/base/conf"
	"mooring/internal/core/ca"
	"mooring/internal/core/device"
	"mooring/internal/core/key"
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
		{"unknown label 404: cacerts", apptest.Call{Path: root + "nonesuch/cacerts"}, 404, "there is no profile \"nonesuch\"\n", ""},
		{"unknown label 404: csrattrs", apptest.Call{Path: root + "nonesuch/csrattrs"}, 404, "there is no profile \"nonesuch\"\n", ""},
		{"unknown label 404: simpleenroll", apptest.Call{Path: root + "nonesuch/simpleenroll", Body: body}, 404, "there is no profile \"nonesuch\"\n", ""},
		{"unknown operation", apptest.Call{Path: root + "simpleenrol", Body: body}, 404, "there is no EST operation of this name\n", ""},
		{"unknown operation under a label", apptest.Call{Path: root + "device/enrol"}, 404, "there is no EST operation of this name\n", ""},
		{"elsewhere", apptest.Call{Path: "/"}, 404, "there is nothing here; EST is served below /.well-known/est/\n", ""},
		{"too deep", apptest.Call{Path: root + "device/cacerts/x"}, 404, "there is nothing here; EST is served below /.well-known/est/\n", ""},
		{"double slash", apptest.Call{Path: "/.well-known//est/cacerts"}, 404, "there is nothing here; EST is served below /.well-known/est/\n", ""},
		{"dots", apptest.Call{Path: root + "../est/cacerts"}, 404, "there is nothing here; EST is served below /.well-known/est/\n", ""},
		{"GET on POST paths 405: simpleenroll", apptest.Call{Path: enroll}, 405, "this address answers only POST\n", "POST"},
		{"GET on POST paths 405: simplereenroll", apptest.Call{Path: reenroll}, 405, "this address answers only POST\n", "POST"},
		{"PUT simplereenroll", apptest.Call{Path: reenroll, Method: "PUT", Body: body}, 405, "this address answers only POST\n", "POST"},
		{"GET on POST paths 405: serverkeygen", apptest.Call{Path: keygen}, 405, "this address answers only POST\n", "POST"},
		{"POST cacerts", apptest.Call{Path: root + "cacerts", Body: body}, 405, "this address answers only GET, HEAD\n", "GET, HEAD"},
		{"DELETE csrattrs", apptest.Call{Path: root + "csrattrs", Method: "DELETE"}, 405, "this address answers only GET, HEAD\n", "GET, HEAD"},
		{"GET on POST paths 405: fullcmc", apptest.Call{Path: root + "fullcmc"}, 405, "this address answers only POST\n", "POST"},
		{"fullcmc 501", apptest.Call{Path: root + "fullcmc", Body: body}, 501, "full CMC is not offered here; use simpleenroll\n", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := p.Send(t, c.call)
			want(t, r, c.code, c.text)
			if r.Header.Get("Allow") != c.allow {
				t.Errorf("Allow: %q, want %q", r.Header.Get("Allow"), c.allow)
			}
		})
	}
	t.Run("text/plain reasons", func(t *testing.T) { // want checks it above, too
		r := p.Send(t, apptest.Call{Path: root + "nonesuch/cacerts"})
		if got := r.Header.Get("Content-Type"); got != "text/plain; charset=utf-8" || r.Header.Get("X-Content-Type-Options") != "nosniff" || !strings.HasSuffix(string(r.Text), "\n") {
			t.Errorf("got %q, %v: %q", got, r.Header, r.Text)
		}
	})
	t.Run("no redirect to http", func(t *testing.T) { // want checks each answer above; and who comes without TLS is led nowhere
		r, err := http.Get(strings.Replace(p.Addresses().EST, "https://", "http://", 1) + root + "cacerts")
		if err == nil {
			r.Body.Close()
			t.Errorf("without TLS: got %s from %s, want nothing", r.Status, r.Request.URL)
		}
	})
}

// TestCACerts: without authentication, for every label, with the root, in the form that every client reads.
func TestCACerts(t *testing.T) {
	p := apptest.Start(t, nil, apptest.Variant("device", "old-client", "unwrapped: true"))
	fetch := func(t *testing.T, label string) [][]byte {
		t.Helper()
		r := p.Send(t, apptest.Call{Path: root + label + "cacerts"})
		wantFraming(t, r)
		if r.StatusCode != 200 || r.Header.Get("Content-Type") != "application/pkcs7-mime" || r.Header.Get("Content-Transfer-Encoding") != "base64" {
			t.Fatalf("got %d, %q, %q", r.StatusCode, r.Header.Get("Content-Type"), r.Header.Get("Content-Transfer-Encoding"))
		}
		wantLines(t, r.Text, label == "old-client/")
		if tag := r.Header.Get("ETag"); tag == "" {
			t.Error("no ETag")
		} else if again := p.Send(t, apptest.Call{Path: root + label + "cacerts", Header: []string{"If-None-Match: " + tag}}); again.StatusCode != 304 {
			t.Errorf("with its own ETag got %s, want 304", again)
		}
		raw, err := est.DecodeBase64(r.Text)
		if err != nil {
			t.Fatal(err)
		}
		certs, err := cms.ParseCertsOnly(raw)
		if err != nil {
			t.Fatal(err)
		}
		return certs
	}
	holds := func(certs [][]byte, cert []byte) bool {
		return slices.ContainsFunc(certs, func(c []byte) bool { return bytes.Equal(c, cert) })
	}
	for _, label := range []string{"", "device/", "server/", "birth/", "old-client/"} {
		name := "cacerts without client authentication, includes root; label " + strings.TrimSuffix(label, "/")
		if label == "birth/" {
			name = "cacerts of a CA that stands alone"
		}
		t.Run(name, func(t *testing.T) {
			if certs := fetch(t, label); holds(certs, p.Root.Raw) != (label != "birth/") {
				t.Errorf("the root of the hierarchy is among the %d certificates: %v", len(certs), holds(certs, p.Root.Raw))
			}
		})
	}
	t.Run("HEAD", func(t *testing.T) {
		if r := p.Send(t, apptest.Call{Method: "HEAD", Path: root + "cacerts"}); r.StatusCode != 200 || len(r.Text) > 0 {
			t.Errorf("got %s", r)
		}
	})
	t.Run("cacerts includes root-update certificates", func(t *testing.T) {
		p.Clock.Move(time.Minute) // the new root is newer
		next, err := p.CA.Create(t.Context(), apptest.Operator(), ca.Spec{Name: "root-g2", Subject: []der.Attribute{{Type: der.OIDCommonName, Value: "Root G2"}}, Algorithm: key.P256, Validity: 10 * 365 * 86400, PathLen: 2})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := p.CA.Cross(t.Context(), apptest.Operator(), "root", "root-g2"); err != nil {
			t.Fatal(err)
		}
		kinds := map[string]bool{}
		for _, raw := range fetch(t, "") {
			c, err := x509.ParseCertificate(raw)
			if err != nil {
				t.Fatal(err)
			}
			by := func(issuer *x509.Certificate) bool {
				return issuer.CheckSignature(c.SignatureAlgorithm, c.RawTBSCertificate, c.Signature) == nil
			}
			switch {
			case bytes.Equal(raw, p.Root.Raw):
				kinds["OldWithOld"] = true
			case bytes.Equal(raw, next.Certificate().Raw):
				kinds["NewWithNew"] = true
			case by(p.Root) && next.Certificate().PublicKey.(*ecdsa.PublicKey).Equal(c.PublicKey):
				kinds["NewWithOld"] = true
			case p.Root.PublicKey.(*ecdsa.PublicKey).Equal(c.PublicKey) && by(next.Certificate()):
				kinds["OldWithNew"] = true
			}
		}
		if len(kinds) != 4 {
			t.Errorf("there are %v, want the old root, the new one, and what each says of the other (RFC 7030, section 4.1.3)", kinds)
		}
	})
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
	for profile, name := range map[string]string{"device": "render rule byte-checked (64 columns, LF, CTE, Content-Length)", "old-client": "unwrapped switch"} {
		t.Run(name, func(t *testing.T) {
			f := &fresh{p: p, profile: profile}
			r := p.Send(t, f.call(t, enroll))
			wantFraming(t, r)
			wantLines(t, r.Text, profile == "old-client")
			r.Certificate(t)
			if r.Header.Get("Content-Type") != "application/pkcs7-mime; smime-type=certs-only" || r.Header.Get("Content-Transfer-Encoding") != "base64" {
				t.Errorf("type %q, encoding %q", r.Header.Get("Content-Type"), r.Header.Get("Content-Transfer-Encoding"))
			}
		})
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
		{"HTTP/1.1, CTE absent, base64 with LF", func(*apptest.Call) {}},
		{"label paths", func(c *apptest.Call) { c.Path = root + "device/simpleenroll" }},
		{"CTE base64: ignored", func(c *apptest.Call) { c.Header = []string{"Content-Transfer-Encoding: base64"} }},
		{"CTE binary: ignored", func(c *apptest.Call) { c.Header = []string{"Content-Transfer-Encoding: binary"} }},
		{"CTE wrong: ignored", func(c *apptest.Call) { c.Header = []string{"Content-Transfer-Encoding: nonsense"} }},
		{"type with parameters", func(c *apptest.Call) { c.Header = []string{"Content-Type: Application/PKCS10; charset=utf-8"} }},
		{"base64 with none (on one line)", func(c *apptest.Call) { c.Body = est.EncodeBase64Line(raw(*c)) }},
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
		{"missing Content-Type 400", func(c *apptest.Call) { c.Header = []string{"Content-Type:"} }, 400, "the Content-Type is missing; it must be application/pkcs10\n"},
		{"other Content-Type 415", func(c *apptest.Call) { c.Header = []string{"Content-Type: application/json"} }, 415, "the Content-Type must be application/pkcs10\n"},
		{"empty body", func(c *apptest.Call) { c.Body = []byte{} }, 400, "the body is not the base64 of a PKCS#10 request: base64 body is empty\n"},
		{"binary body", func(c *apptest.Call) { c.Body = []byte("\x30\x82\x01\x00") }, 400, "the body is not the base64 of a PKCS#10 request: body is not base64 (RFC 4648, section 4)\n"},
		{"base64 without padding", func(c *apptest.Call) { c.Body = []byte("aGVsbG8") }, 400,
			"the body is not the base64 of a PKCS#10 request: base64 body lacks its padding; end it with one or two \"=\"\n"},
		{"something else in base64", func(c *apptest.Call) { c.Body = []byte("aGVsbG8=") }, 400,
			"the certification request is not acceptable: malformed certification request (not strict DER, or not of the standard's shape)\n"},
		{"trailing bytes after DER", func(c *apptest.Call) {
			c.Body = est.EncodeBase64(append(mustDecode(t, c.Body), 0, 0, 0))
		}, 400, "the certification request is not acceptable: 3 trailing bytes after the certification request\n"},
		{"BER/indefinite lengths refused", func(c *apptest.Call) {
			der := mustDecode(t, c.Body)
			c.Body = est.EncodeBase64(append(append([]byte{0x30, 0x80}, der[4:]...), 0, 0))
		}, 400, "the certification request is not acceptable: malformed certification request (not strict DER, or not of the standard's shape)\n"},
		{"body over the limit 413", func(c *apptest.Call) { c.Body = bytes.Repeat([]byte("A"), est.MaxRequest+1) }, 413, "the body has more than the 65536 octets allowed here\n"},
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
		t.Run("401 with WWW-Authenticate and no body: "+c.name, func(t *testing.T) {
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
	// like asks for the identity that spec bends, in the place of the present one.
	like := func(t *testing.T, bend func(*der.RequestSpec)) apptest.Call {
		spec := der.RequestSpec{RawSubject: pair.Leaf.RawSubject, Names: names}
		bend(&spec)
		return apptest.Call{Path: reenroll, Body: apptest.Body(apptest.CSR(t, apptest.Key(t), spec))}
	}
	const unknown = "the client certificate was neither issued here nor registered as a birth certificate; enrol with a token, or have it registered"
	t.Run("full chain", func(t *testing.T) { p.Send(t, renewal(t), pair).Certificate(t) })
	t.Run("leaf only", func(t *testing.T) { p.Send(t, renewal(t), leaf).Certificate(t) })
	t.Run("full chain with the root", func(t *testing.T) {
		whole := pair
		whole.Certificate = append(append([][]byte{}, pair.Certificate...), p.Root.Raw)
		p.Send(t, renewal(t), whole).Certificate(t)
	})
	t.Run("mTLS + Basic together", func(t *testing.T) {
		d, own := p.Enrolled(t, "meter-2", "device")
		call := apptest.Call{Path: enroll, User: "meter-2", Secret: p.Token(t, d.ID), Body: apptest.Body(apptest.CSR(t, apptest.Key(t), der.RequestSpec{}))}
		p.Send(t, call, own).Certificate(t)
		call.Secret = p.Token(t, d.ID)
		call.Body = apptest.Body(apptest.CSR(t, apptest.Key(t), der.RequestSpec{}))
		r := p.Send(t, call, pair)
		want(t, r, 401, "")
		wantTrace(t, p, "the client certificate and the device name belong to different devices; use those of one device")
	})
	t.Run("unknown-CA client certificate", func(t *testing.T) {
		want(t, p.Send(t, renewal(t), selfSigned(t, apptest.Key(t))), 401, "")
		wantTrace(t, p, unknown)
	})
	t.Run("wrong-EKU client certificate", func(t *testing.T) {
		_, server := p.Enrolled(t, "broker", "server")
		want(t, p.Send(t, renewal(t), server), 401, "")
		wantTrace(t, p, "the client certificate's extended key usage does not include clientAuth; present another certificate")
	})
	t.Run("revoked client certificate", func(t *testing.T) {
		_, lost := p.Enrolled(t, "lost", "device")
		if _, err := p.Revoke.Certificate(t.Context(), apptest.Operator(), lost.Leaf.SerialNumber.Bytes(), revoke.KeyCompromise); err != nil {
			t.Fatal(err)
		}
		want(t, p.Send(t, renewal(t), lost), 403, "the client certificate is revoked; ask the device's operator for a new token\n")
		wantTrace(t, p, "the client certificate is revoked; ask the device's operator for a new token")
	})
	for name, serial := range map[string][]byte{"zero": {0}, "> 20-octet": append([]byte{0x7f}, make([]byte, 20)...)} {
		t.Run("client certificate with "+name+" serial", func(t *testing.T) {
			want(t, p.Send(t, renewal(t), withSerial(t, serial)), 401, "")
		})
	}
	t.Run("client certificate with negative serial", func(t *testing.T) {
		odd := withSerial(t, []byte{0x80})
		conn := p.Dial(t, p.TLS(&odd))
		if _, err := conn.Read(make([]byte, 1)); err == nil || !strings.Contains(err.Error(), "remote error: tls") {
			t.Errorf("got %v, want that the handshake fails", err)
		}
	})
	t.Run("simplereenroll with other subject", func(t *testing.T) {
		call := like(t, func(s *der.RequestSpec) {
			s.RawSubject, s.Subject = nil, []der.Attribute{{Type: der.OIDCommonName, Value: "meter-2"}}
		})
		const text = `a renewal must repeat the subject of its certificate (RFC 7030, section 4.2.2): the certificate has "CN=meter-1", the request "CN=meter-2"`
		want(t, p.Send(t, call, pair), 403, text+"\n")
		wantTrace(t, p, strings.NewReplacer(`"CN=meter-1"`, `"…"`, `"CN=meter-2"`, `"…"`).Replace(text))
	})
	t.Run("simplereenroll with other SAN", func(t *testing.T) {
		const text = "a renewal must repeat the subjectAltName of its certificate (RFC 7030, section 4.2.2): same names, no more and no fewer"
		for _, other := range []der.AltNames{{}, {URI: names.URI, DNS: []string{"a.test"}}, {URI: []string{"urn:mooring:device:00"}}} {
			want(t, p.Send(t, like(t, func(s *der.RequestSpec) { s.Names = other }), pair), 403, text+"\n")
		}
		wantTrace(t, p, text)
	})
	t.Run("rekey allowed", func(t *testing.T) {
		key := apptest.Key(t)
		cert := p.Send(t, apptest.Call{Path: reenroll, Body: apptest.Body(apptest.CSR(t, key, der.RequestSpec{RawSubject: pair.Leaf.RawSubject, Names: names}))}, pair).Certificate(t)
		if !key.PublicKey.Equal(cert.PublicKey) || key.PublicKey.Equal(pair.Leaf.PublicKey) {
			t.Error("the certificate is not for the new key")
		}
	})
	t.Run("echoed SKI/AKI/EKU ignored", func(t *testing.T) {
		strange := bytes.Repeat([]byte{0xee}, 20)
		cert := p.Send(t, like(t, func(s *der.RequestSpec) {
			s.Extensions = []der.Extension{der.NewSubjectKeyID(strange), der.NewAuthorityKeyID(strange), der.NewExtKeyUsage(der.OIDServerAuth), der.NewKeyUsage(der.KeyAgreement)}
		}), pair).Certificate(t)
		if bytes.Contains(cert.Raw, strange) || len(cert.ExtKeyUsage) != 1 || cert.ExtKeyUsage[0] != x509.ExtKeyUsageClientAuth || cert.KeyUsage != x509.KeyUsageDigitalSignature {
			t.Errorf("the certificate has the key usages %v %v, or an identifier of the request", cert.KeyUsage, cert.ExtKeyUsage)
		}
	})
	t.Run("IDevID vs own issuer kept apart", func(t *testing.T) {
		idevid := selfSigned(t, apptest.Key(t)) // of a maker; its names are those of our certificate
		d := p.Add(t, device.Spec{Name: "born", Profile: "device", Birth: idevid.Certificate[0]})
		call := renewal(t)
		want(t, p.Send(t, call, idevid), 403, "a renewal is authenticated by the certificate that is being renewed; use enrolment for the first one\n")
		call = apptest.Call{Path: enroll, Body: apptest.Body(apptest.CSR(t, apptest.Key(t), der.RequestSpec{}))}
		if cert := p.Send(t, call, idevid).Certificate(t); cert.Subject.CommonName != "born" {
			t.Errorf("the certificate is for %s", cert.Subject)
		}
		for _, e := range p.Record(t) {
			if e.Action == "cert.issue" && e.Device == d.ID.String() && e.Detail["evidence"] != "birth" {
				t.Errorf("the record says %+v", e.Entry)
			}
		}
	})
	t.Run("replay of the same request gives the same certificate", func(t *testing.T) {
		call := renewal(t)
		if one, two := p.Send(t, call, pair).Certificate(t), p.Send(t, call, pair).Certificate(t); !one.Equal(two) {
			t.Error("another certificate was issued")
		}
	})
	t.Run("clock skew: a new certificate is valid for a clock that is behind", func(t *testing.T) {
		if cert := p.Send(t, renewal(t), pair).Certificate(t); cert.NotBefore.After(p.Clock.Now().Add(-4 * time.Minute)) {
			t.Errorf("it is valid from %s, now is %s", cert.NotBefore, p.Clock.Now())
		}
	})
	// The clock moves from here on, and the listener's own certificate with it.
	move := func(t *testing.T, by time.Duration) {
		p.Clock.Move(by)
		t.Cleanup(func() { p.Clock.Move(-by) })
	}
	t.Run("not-yet-valid client certificate", func(t *testing.T) {
		_, young := p.Enrolled(t, "young", "device")
		config := p.TLS(&young)
		config.Time = time.Now // it is the server's clock that is wrong
		move(t, -10*time.Minute)
		want(t, p.Dial(t, config).Send(t, renewal(t)), 401, "")
		wantTrace(t, p, "the client certificate is not valid before "+young.Leaf.NotBefore.Format("2006-01-02 15:04:05Z")+"; check the clocks")
	})
	t.Run("expired client certificate", func(t *testing.T) {
		move(t, 91*day)
		p.Restart(t)
		want(t, p.Send(t, renewal(t), pair), 401, "")
		wantTrace(t, p, "the client certificate expired at "+pair.Leaf.NotAfter.Format("2006-01-02 15:04:05Z")+"; enrol again with a new token")
	})
}

// withSerial is a certificate that nobody knows, with a serial number of any octets, as crypto/x509 makes none.
func withSerial(t *testing.T, serial []byte) tls.Certificate {
	t.Helper()
	key := apptest.Key(t)
	pair := selfSigned(t, key)
	var cert struct {
		TBS struct {
			Raw                                                            asn1.RawContent
			Version                                                        int `asn1:"explicit,tag:0"`
			Serial, Algorithm, Issuer, Validity, Subject, SPKI, Extensions asn1.RawValue
		}
		Algorithm asn1.RawValue
		Signature asn1.BitString
	}
	if _, err := asn1.Unmarshal(pair.Certificate[0], &cert); err != nil {
		t.Fatal(err)
	}
	cert.TBS.Raw, cert.TBS.Serial = nil, asn1.RawValue{Tag: asn1.TagInteger, Bytes: serial}
	tbs, err := asn1.Marshal(cert.TBS)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(tbs)
	if cert.Signature.Bytes, err = ecdsa.SignASN1(rand.Reader, key, sum[:]); err != nil {
		t.Fatal(err)
	}
	cert.Signature.BitLength = 8 * len(cert.Signature.Bytes)
	cert.TBS.Raw = tbs
	if pair.Certificate[0], err = asn1.Marshal(cert); err != nil {
		t.Fatal(err)
	}
	return pair
}

// TestResumedAfterRevocation: a session that is resumed proves the certificate, not that it still counts.
func TestResumedAfterRevocation(t *testing.T) {
	p := apptest.Start(t, nil)
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		t.Run("resumed session of a revoked client refused, "+tls.VersionName(version), func(t *testing.T) { resumedAfterRevocation(t, p, version) })
	}
}

func resumedAfterRevocation(t *testing.T, p *apptest.Platform, version uint16) {
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

// TestApprovalOverHTTP: 202 with Retry-After until a person has decided.
func TestApprovalOverHTTP(t *testing.T) {
	p := apptest.Start(t, func(c *conf.Config) { c.Enrol.RetryAfter = 90_000_000_000 }, apptest.Variant("device", "approved", "approval: required"))
	f := &fresh{p: p, profile: "approved"}
	call := f.call(t, enroll)
	decide := func(t *testing.T, name string, granted bool) {
		t.Helper()
		if _, err := p.Enrol.Decide(t.Context(), apptest.Operator(), name, "", granted); err != nil {
			t.Fatal(err)
		}
	}
	t.Run("202 + Retry-After then same CSR gives the certificate", func(t *testing.T) {
		for range 2 {
			r := p.Send(t, call)
			want(t, r, 202, "")
			if r.Header.Get("Retry-After") != "90" {
				t.Errorf("Retry-After: %q, want 90", r.Header.Get("Retry-After"))
			}
		}
		decide(t, call.User, true)
		p.Send(t, call).Certificate(t)
	})
	t.Run("refused by an operator", func(t *testing.T) {
		call := f.call(t, enroll)
		want(t, p.Send(t, call), 202, "")
		decide(t, call.User, false)
		want(t, p.Send(t, call), 403, "an operator has refused this request\n")
	})
	t.Run("different CSR is a new request", func(t *testing.T) {
		call := f.call(t, enroll)
		want(t, p.Send(t, call), 202, "")
		decide(t, call.User, true)
		call.Body = apptest.Body(apptest.CSR(t, apptest.Key(t), der.RequestSpec{}))
		want(t, p.Send(t, call), 202, "") // what was approved is another
	})
	t.Run("rebuilt CSR after reconnect is the same request", func(t *testing.T) {
		call, key := f.call(t, enroll), apptest.Key(t)
		bound := func() apptest.Reply {
			conn := p.Dial(t, p.TLS(nil))
			call.Body = apptest.Body(apptest.CSR(t, key, der.RequestSpec{ChallengePassword: exporter(t, conn)}))
			return conn.Send(t, call)
		}
		want(t, bound(), 202, "")
		decide(t, call.User, true)
		if one, two := bound().Certificate(t), bound().Certificate(t); !one.Equal(two) {
			t.Error("the third connection got another certificate")
		}
	})
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
