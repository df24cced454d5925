package est_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"mooring/agent/est"
	"mooring/agent/esttest"
	"mooring/wire/cms"
	"mooring/wire/der"
	wire "mooring/wire/est"
)

func TestEnrolThenRenew(t *testing.T) {
	server := esttest.Start(t, esttest.Options{Token: "claim"})
	session := connect(t, server, est.Credential{User: "dev1", Secret: "claim"})
	order := order(t, "dev1")
	order.Names = der.AltNames{DNS: []string{"dev1.example.test"}}
	cert, err := session.Enrol(t.Context(), order)
	if err != nil {
		t.Fatal(err)
	}
	if cert.Subject.CommonName != "dev1" || len(cert.DNSNames) != 1 {
		t.Errorf("certificate for %v, %v; want dev1 with one name", cert.Subject, cert.DNSNames)
	}
	bundle, err := session.CACerts(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	chain, err := bundle.Chain(cert, time.Now())
	if err != nil || len(chain) != 2 || !chain[1].Equal(server.Inter) {
		t.Errorf("chain of %d, %v; want certificate and issuing authority", len(chain), err)
	}

	renewal := connect(t, server, est.Credential{Certificate: &tls.Certificate{Certificate: [][]byte{cert.Raw}, PrivateKey: order.Key}})
	again, err := est.OrderAgain(cert, newKey(t), nil)
	if err != nil {
		t.Fatal(err)
	}
	next, err := renewal.Renew(t.Context(), again)
	if err != nil {
		t.Fatal(err)
	}
	if string(next.RawSubject) != string(cert.RawSubject) || next.DNSNames[0] != "dev1.example.test" {
		t.Errorf("renewed for %v, %v; want the same names", next.Subject, next.DNSNames)
	}
}

func TestAnswers(t *testing.T) {
	server := esttest.Start(t, esttest.Options{})
	date := time.Now().Add(90 * time.Second).UTC().Format(http.TimeFormat)
	other := server.Certify(t, "other", newKey(t).Public())
	for _, test := range []struct {
		name   string
		answer http.HandlerFunc
		wait   time.Duration // of a pending answer
		status int
		text   string
	}{
		{name: "pending, seconds", answer: esttest.Status(202, "Retry-After", "120"), wait: 2 * time.Minute},
		{name: "pending, date", answer: esttest.Status(202, "Retry-After", date), wait: 90 * time.Second},
		{name: "pending, past date", answer: esttest.Status(202, "Retry-After", "Sun, 06 Nov 1994 08:49:37 GMT"), wait: time.Second},
		{name: "pending, nothing", answer: esttest.Status(202), wait: time.Minute},
		{name: "pending, garbage", answer: esttest.Status(202, "Retry-After", "soon"), wait: time.Minute},
		{name: "pending, for ever", answer: esttest.Status(202, "Retry-After", "2000000000"), wait: 7 * 24 * time.Hour},
		{name: "401", answer: esttest.Status(401), status: 401, text: "token or certificate unknown, used up or expired"},
		{name: "401 of Mooring", answer: challenge(`Basic realm="est", charset="UTF-8", error_description="this token was used already: ask for a new one"`), status: 401, text: "expired): this token was used already: ask for a new one"},
		{name: "401 with escapes", answer: challenge(`Basic realm="a",ERROR_DESCRIPTION="say \"please\"` + "\t" + `first", x="y"`), status: 401, text: `expired): say "please" first`},
		{name: "401 of control characters", answer: challenge("Basic error_description=\"a\x85\xffb\""), status: 401, text: "expired): ab"},
		{name: "401 without end", answer: challenge(`Basic error_description="` + strings.Repeat("z", 5000)), status: 401, text: strings.Repeat("z", 300) + "…"},
		{name: "401 of another parameter", answer: challenge(`Basic my_error_description="no"`), status: 401, text: "used up or expired)"},
		{name: "400", answer: esttest.Text(400, "RSA key too\x1b[2J\nshort"), status: 400, text: "RSA key too[2J short"},
		{name: "429", answer: esttest.Status(429, "Retry-After", "7"), status: 429, text: "asks to wait 7s"},
		{name: "503", answer: esttest.Status(503, "Retry-After", "7"), status: 503, text: "overloaded"},
		{name: "html", answer: html(500), status: 500, text: "500 Internal Server Error"},
		{name: "not EST", answer: html(200), text: `"text/html" where "application/pkcs7-mime" belongs`},
		{name: "another key", answer: func(w http.ResponseWriter, _ *http.Request) { esttest.SendCertificates(t, w, other.Raw) }, text: "another key"},
		{name: "truncated", answer: truncated, text: "ended early"},
		{name: "garbage", answer: func(w http.ResponseWriter, _ *http.Request) {
			esttest.Send(w, wire.TypeCertsOnly, []byte("garbage"))
		}, text: "reading the certificates"},
		{name: "not base64", answer: body(wire.TypeCertsOnly, "%%%%"), text: "not base64"},
		{name: "endless", answer: body(wire.TypeCertsOnly, strings.Repeat("A", wire.MaxBody+4)), text: "larger than"},
		{name: "no answer", answer: esttest.Hang, text: "EOF"},
	} {
		t.Run(test.name, func(t *testing.T) {
			session := connect(t, server, est.Credential{})
			server.Answer(wire.SimpleEnroll, test.answer)
			_, err := session.Enrol(t.Context(), order(t, "dev1"))
			var pending *est.PendingError
			if got := errors.As(err, &pending); got != (test.wait > 0) {
				t.Fatalf("got %v; want pending %v", err, test.wait > 0)
			}
			if pending != nil && (pending.RetryAfter > test.wait || pending.RetryAfter < test.wait-10*time.Second) {
				t.Errorf("wait %v, want %v", pending.RetryAfter, test.wait)
			}
			var refused *est.RefusedError
			if errors.As(err, &refused) != (test.status != 0) || refused != nil && refused.Status != test.status {
				t.Errorf("got %v; want status %d", err, test.status)
			}
			if err == nil || !strings.Contains(err.Error(), test.text) {
				t.Errorf("got %v; want %q in it", err, test.text)
			}
		})
	}
}

// challenge is a refusal without a body.
func challenge(value string) http.HandlerFunc { return esttest.Status(401, "WWW-Authenticate", value) }

func TestRefusedErrorTemporary(t *testing.T) {
	for status, want := range map[int]bool{400: false, 401: false, 403: false, 404: false, 408: true, 429: true, 500: true, 501: false, 503: true} {
		if got := (&est.RefusedError{Status: status}).Temporary(); got != want {
			t.Errorf("%d: temporary %v, want %v", status, got, want)
		}
	}
}

func TestNoSecretInErrorsOrText(t *testing.T) {
	server := esttest.Start(t, esttest.Options{Token: "right"})
	credential := est.Credential{User: "dev1", Secret: "s3cr3t-wrong"}
	_, err := connect(t, server, credential).Enrol(t.Context(), order(t, "dev1"))
	text, _ := credential.MarshalText()
	for _, s := range []string{err.Error(), credential.String(), credential.GoString(), string(text)} {
		if strings.Contains(s, "s3cr3t") {
			t.Errorf("the secret is in %q", s)
		}
	}
	if !strings.Contains(err.Error(), "token is wrong") {
		t.Errorf("got %v; want the server's reason", err)
	}
}

func TestRedirects(t *testing.T) {
	server := esttest.Start(t, esttest.Options{})
	for name, test := range map[string]struct {
		status      int
		place, text string
	}{
		"to http":         {307, "http://127.0.0.1/.well-known/est/simpleenroll", "not https"},
		"to another host": {307, "https://127.0.0.2/.well-known/est/simpleenroll", "another server"},
		"losing the body": {302, "/.well-known/est/simpleenroll", "307 or 308"},
		"same origin":     {307, "/.well-known/est/label/simpleenroll", ""},
	} {
		t.Run(name, func(t *testing.T) {
			server.Answer(wire.SimpleEnroll, esttest.Status(test.status, "Location", test.place))
			_, err := connect(t, server, est.Credential{}).Enrol(t.Context(), order(t, "dev1"))
			if test.text == "" && err != nil || test.text != "" && (err == nil || !strings.Contains(err.Error(), test.text)) {
				t.Errorf("got %v; want %q", err, test.text)
			}
		})
	}
}

func TestChannelBinding(t *testing.T) {
	for name, version := range map[string]uint16{"TLS 1.2": tls.VersionTLS12, "TLS 1.3": tls.VersionTLS13} {
		t.Run(name, func(t *testing.T) {
			server := esttest.Start(t, esttest.Options{
				MaxVersion: version,
				Attributes: wire.CSRAttrs{Items: []wire.Item{wire.WantOID(wire.OIDChallengePassword)}},
			})
			session := connect(t, server, est.Credential{})
			attributes, err := session.CSRAttrs(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			bound := order(t, "dev1")
			bound.Attributes = attributes
			if _, err := session.Enrol(t.Context(), bound); err != nil {
				t.Errorf("bound request: %v", err)
			}
			if got := server.Requests(); len(got) != 1 || !got[0].HasChallengePassword {
				t.Errorf("%d requests, want one that is bound", len(got))
			}
			if _, err := session.Enrol(t.Context(), order(t, "dev1")); err == nil || !strings.Contains(err.Error(), "not bound") {
				t.Errorf("unbound request: %v", err)
			}
			old, err := bound.Build(session.Binding())
			if err != nil {
				t.Fatal(err)
			}
			stolen := est.Order{Key: bound.Key, Request: old}
			if _, err := connect(t, server, est.Credential{}).Enrol(t.Context(), stolen); err == nil || !strings.Contains(err.Error(), "another connection") {
				t.Errorf("request of another connection: %v", err)
			}
		})
	}
}

// TestNoCSRAttrs: that a server wishes for nothing is said in three ways (RFC 8951, section 4).
func TestNoCSRAttrs(t *testing.T) {
	for name, answer := range map[string]http.HandlerFunc{
		"csrattrs 204": esttest.Status(204),
		"csrattrs 404": esttest.Status(404),
		"csrattrs empty SEQUENCE": func(w http.ResponseWriter, _ *http.Request) {
			esttest.Send(w, wire.TypeCSRAttrs, []byte{0x30, 0})
		},
	} {
		t.Run(name, func(t *testing.T) {
			server := esttest.Start(t, esttest.Options{Attributes: wire.CSRAttrs{Items: []wire.Item{wire.WantOID(wire.OIDChallengePassword)}}})
			server.Answer(wire.CSRAttributes, answer)
			attributes, err := connect(t, server, est.Credential{}).CSRAttrs(t.Context())
			if err != nil || attributes.Template != nil || len(attributes.Items) != 0 {
				t.Errorf("got %+v, %v, want none", attributes, err)
			}
		})
	}
}

// A server that closes the connection after each answer gets a request that is bound to the next one.
func TestBindingAfterReconnect(t *testing.T) {
	server := esttest.Start(t, esttest.Options{Attributes: wire.CSRAttrs{Items: []wire.Item{wire.WantOID(wire.OIDChallengePassword)}}})
	session := connect(t, server, est.Credential{})
	attributes, err := session.CSRAttrs(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	server.Answer(wire.CSRAttributes, esttest.Status(204, "Connection", "close"))
	if _, err := session.CSRAttrs(t.Context()); err != nil {
		t.Fatal(err)
	}
	bound := order(t, "dev1")
	bound.Attributes = attributes
	if _, err := session.Enrol(t.Context(), bound); err != nil {
		t.Errorf("after the server closed the connection: %v", err)
	}
}

func TestPin(t *testing.T) {
	server, other := esttest.Start(t, esttest.Options{}), esttest.Start(t, esttest.Options{})
	config := est.Config{Server: server.URL}
	root, err := est.Pin(t.Context(), config, sha256.Sum256(server.Root.Raw))
	if err != nil || !root.Equal(server.Root) {
		t.Fatalf("got %v, %v; want the root", root, err)
	}
	if _, err := est.Pin(t.Context(), config, sha256.Sum256([]byte("another"))); err == nil || !strings.Contains(err.Error(), "no root with the fingerprint") {
		t.Errorf("unknown fingerprint: %v", err)
	}
	// Somebody in the middle shows the true bundle, but has no certificate of that root.
	server.SetBundle(other.Root, other.Inter)
	if _, err := est.Pin(t.Context(), config, sha256.Sum256(other.Root.Raw)); err == nil || !strings.Contains(err.Error(), "does not prove itself") {
		t.Errorf("true bundle over a false connection: %v", err)
	}
	if len(server.Requests()) > 0 {
		t.Error("something was sent besides the question for the bundle")
	}
}

func TestOnlyConfiguredRootsAreBelieved(t *testing.T) {
	server, other := esttest.Start(t, esttest.Options{}), esttest.Start(t, esttest.Options{})
	client, err := est.New(est.Config{Server: server.URL, Roots: []*x509.Certificate{other.Root}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := client.Connect(t.Context(), est.Credential{}); err == nil || !strings.Contains(err.Error(), "does not lead to the root") {
		t.Errorf("got %v", err)
	}
}

func TestChainRefuses(t *testing.T) {
	server, other := esttest.Start(t, esttest.Options{}), esttest.Start(t, esttest.Options{})
	bundle, err := connect(t, server, est.Credential{}).CACerts(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	own, foreign := server.Certify(t, "a", newKey(t).Public()), other.Certify(t, "b", newKey(t).Public())
	if _, err := bundle.Chain(foreign, time.Now()); err == nil {
		t.Error("a certificate of another authority was accepted")
	}
	if _, err := bundle.Chain(own, time.Now().Add(-2*time.Hour)); err != nil {
		t.Errorf("with a slow clock: %v", err)
	}
	if _, err := bundle.Chain(own, time.Now().Add(-48*time.Hour)); err == nil {
		t.Error("a certificate of the day after tomorrow was accepted")
	}
}

func TestServerURL(t *testing.T) {
	roots := []*x509.Certificate{{}}
	for _, bad := range []string{"", "est.example.test", "http://est.example.test", "https://", "https://u:p@h", "https://h?x=1", "https://h/#f"} {
		if _, err := est.New(est.Config{Server: bad, Roots: roots}); err == nil {
			t.Errorf("server %q was accepted", bad)
		}
	}
	for _, bad := range []string{"a/b", "cacerts", ".."} {
		if _, err := est.New(est.Config{Server: "https://h", Label: bad, Roots: roots}); err == nil {
			t.Errorf("label %q was accepted", bad)
		}
	}
	if _, err := est.New(est.Config{Server: "https://h"}); err == nil {
		t.Error("a client without roots was made")
	}
}

func TestFingerprint(t *testing.T) {
	want := sha256.Sum256([]byte("root"))
	text := est.FormatFingerprint(want)
	for _, form := range []string{text, strings.ToLower(text), strings.ReplaceAll(text, ":", ""), "SHA256:" + text, "sha256 Fingerprint=" + text, " " + text + "\n"} {
		if got, err := est.ParseFingerprint(form); err != nil || got != want {
			t.Errorf("ParseFingerprint(%q): %v", form, err)
		}
	}
	for _, bad := range []string{"", "AA", text + ":00", strings.Replace(text, text[:2], "XX", 1)} {
		if _, err := est.ParseFingerprint(bad); err == nil {
			t.Errorf("ParseFingerprint(%q) gave no error", bad)
		}
	}
}

func TestServerKeygen(t *testing.T) {
	server := esttest.Start(t, esttest.Options{})
	made := newKey(t)
	pkcs8, err := x509.MarshalPKCS8PrivateKey(made)
	if err != nil {
		t.Fatal(err)
	}
	send := func(keyType string, key []byte, certified crypto.PublicKey) http.HandlerFunc {
		message, err := cms.CertsOnly([][]byte{server.Certify(t, "dev1", certified).Raw})
		if err != nil {
			t.Fatal(err)
		}
		content, contentType, err := wire.BuildKeygen(wire.Keygen{KeyType: keyType, Key: key, Certificates: message}, "boundary")
		if err != nil {
			t.Fatal(err)
		}
		return body(contentType, string(content))
	}
	ask := func(h http.HandlerFunc) (*est.Generated, error) {
		server.Answer(wire.ServerKeygen, h)
		return connect(t, server, est.Credential{}).ServerKeygen(t.Context(), order(t, "dev1"))
	}
	if got, err := ask(send(wire.TypePlainKey, pkcs8, made.Public())); err != nil || !made.PublicKey.Equal(got.Key.Public()) {
		t.Errorf("plain key: %v", err)
	}
	if got, err := ask(send(wire.TypeSealedKey, []byte{0x30, 0}, made.Public())); err != nil || got.Key != nil || got.Sealed == nil {
		t.Errorf("sealed key: %+v, %v", got, err)
	}
	if _, err := ask(send(wire.TypePlainKey, pkcs8, newKey(t).Public())); err == nil || !strings.Contains(err.Error(), "another key") {
		t.Errorf("certificate of another key: %v", err)
	}
}

func html(status int) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		w.WriteHeader(status)
		_, _ = io.WriteString(w, "<html>some proxy</html>")
	}
}

func body(contentType, content string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", contentType)
		_, _ = io.WriteString(w, content)
	}
}

func truncated(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", wire.TypeCertsOnly)
	w.Header().Set("Content-Length", "1000")
	_, _ = io.WriteString(w, "MIIB")
}

func connect(t *testing.T, server *esttest.Server, credential est.Credential) *est.Session {
	t.Helper()
	client, err := est.New(est.Config{Server: server.URL, Roots: []*x509.Certificate{server.Root}, Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	session, err := client.Connect(t.Context(), credential)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(session.Close)
	return session
}

func order(t *testing.T, name string) est.Order {
	t.Helper()
	return est.Order{Key: newKey(t), Subject: []der.Attribute{{Type: der.OIDCommonName, Value: name}}}
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}
