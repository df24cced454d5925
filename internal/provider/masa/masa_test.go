package masa

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"io"
	"math/big"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"mooring/internal/base/errs"
	"mooring/internal/core/registrar"
	"mooring/internal/provider/reach"
	"mooring/wire/voucher"
)

func selfSigned(t *testing.T) registrar.Signer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Registrar"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	raw, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(raw)
	if err != nil {
		t.Fatal(err)
	}
	return registrar.Signer{Key: key, Certificate: cert}
}

// TestAnswers asks a service whose address comes from a certificate, in a network that is public for once.
func TestAnswers(t *testing.T) {
	var answer func(http.ResponseWriter)
	by := selfSigned(t)
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil || string(body) != "request" || r.Header.Get("Content-Type") != voucher.MediaType || r.Header.Get("Accept") != voucher.MediaType ||
			r.URL.Path != voucher.WellKnown+voucher.RequestVoucher || !r.TLS.PeerCertificates[0].Equal(by.Certificate) {
			t.Errorf("the service was sent %s %q, %v, %v", r.URL.Path, body, r.Header, err)
		}
		answer(w)
	}))
	server.TLS = &tls.Config{ClientAuth: tls.RequireAnyClientCert, MinVersion: tls.VersionTLS12}
	server.StartTLS()
	defer server.Close()
	c := New(time.Now)
	c.public = reach.New(reach.Options{Allow: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}})
	ask := &registrar.Ask{URL: server.URL + strings.TrimRight(voucher.WellKnown, "/"), Trusted: []*x509.Certificate{server.Certificate()}, By: by, Request: []byte("request")}
	reply := func(status int, mediaType, body string, header ...string) func(http.ResponseWriter) {
		return func(w http.ResponseWriter) {
			w.Header().Set("Content-Type", mediaType)
			for _, line := range header {
				name, value, _ := strings.Cut(line, ": ")
				w.Header().Set(name, value)
			}
			w.WriteHeader(status)
			_, _ = io.WriteString(w, body) // what is lost the client misses
		}
	}
	for _, row := range []struct {
		name    string
		answer  func(http.ResponseWriter)
		message string
		retry   time.Duration
		kind    errs.Kind
		text    string
	}{
		{"voucher", reply(200, voucher.MediaType, "voucher"), "voucher", 0, 0, ""},
		{"type with a parameter", reply(200, voucher.MediaType+"; charset=binary", "voucher"), "voucher", 0, 0, ""},
		{"later", reply(202, "", "", "Retry-After: 30"), "", 30 * time.Second, 0, ""},
		{"later, not said when", reply(202, "", ""), "", firstWait, 0, ""},
		{"later, at a date", reply(202, "", "", "Retry-After: Thu, 01 Jan 2099 00:00:00 GMT"), "", firstWait, 0, ""},
		{"too much", reply(200, voucher.MediaType, strings.Repeat("x", voucher.MaxSize+1)), "", 0, errs.Conflict, "more than"},
		{"another type", reply(200, "application/json", "{}"), "", 0, errs.Conflict, "something else than"},
		{"not known there", reply(404, "text/plain", "unknown\r\ndevice"), "", 0, errs.NotFound, `404: "unknown device"`},
		{"wants a password", reply(401, "text/plain", ""), "", 0, errs.Denied, "401"},
		{"too often", reply(429, "text/plain", ""), "", 0, errs.Unavailable, "429"},
		{"long words", reply(403, "text/plain", strings.Repeat("no ", 5000)), "", 0, errs.Denied, "no no"},
		{"redirection", reply(307, "", "", "Location: https://127.0.0.1/"), "", 0, errs.Conflict, "307"},
	} {
		answer = row.answer
		message, retry, err := c.Voucher(t.Context(), ask)
		if string(message) != row.message || retry != row.retry || (err == nil) != (row.text == "") {
			t.Errorf("%s: %q, %v, %v", row.name, message, retry, err)
		}
		if err != nil && (errs.KindOf(err) != row.kind || !strings.Contains(errs.Public(err), row.text) || len(errs.Public(err)) > 300) {
			t.Errorf("%s: %v: %s", row.name, errs.KindOf(err), errs.Public(err))
		}
	}
	if _, _, err := New(time.Now).Voucher(t.Context(), ask); !errs.Is(err, errs.Denied) {
		t.Errorf("an address of a certificate that is not public: %v", err)
	}
	given := *ask
	given.Given = true
	answer = reply(200, voucher.MediaType, "voucher")
	if message, _, err := New(time.Now).Voucher(t.Context(), &given); err != nil || !bytes.Equal(message, []byte("voucher")) {
		t.Errorf("the same address, given by an administrator: %q, %v", message, err)
	}
}
