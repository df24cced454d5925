package status

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"time"

	xocsp "golang.org/x/crypto/ocsp"
	"golang.org/x/mod/sumdb/note"

	"mooring/internal/base/db/dbtest"
	"mooring/internal/base/web"
	"mooring/internal/core/access"
	"mooring/internal/core/audit"
	"mooring/internal/core/ca"
	"mooring/internal/core/device"
	"mooring/internal/core/enrol"
	"mooring/internal/core/key"
	"mooring/internal/core/key/keytest"
	"mooring/internal/core/revoke"
	"mooring/wire/der"
	"mooring/wire/ocsp"
)

var admin = access.Actor{Kind: access.KindLocal, ID: "uid=0", Role: access.RoleAdmin, Via: "socket"}

// world is the server on a real listener, before everything real.
type world struct {
	url     string
	ca      *ca.Authority
	revoke  *revoke.Service
	enrol   *enrol.Service
	devices *device.Registry
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func newWorld(t *testing.T) *world {
	t.Helper()
	d := dbtest.Open(t, audit.Schema(), device.Schema(), ca.Schema(), revoke.Schema(), enrol.Schema())
	signer, vkey, err := audit.NoteKey("test", bytes.Repeat([]byte{1}, 32))
	must(t, err)
	verifier, err := note.NewVerifier(vkey)
	must(t, err)
	log := audit.New(d, audit.Options{Origin: "test", Signer: signer, Verifier: verifier, BatchKey: make([]byte, 32), Now: time.Now})
	keys, _ := keytest.Store(t)
	profiles, err := ca.LoadProfiles(ca.DefaultProfiles())
	must(t, err)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	w := &world{url: "http://" + l.Addr().String()}
	decider := access.NewDecider(log)
	w.ca = ca.New(ca.Deps{DB: d, Audit: log, Access: decider, Keys: keys, Profiles: profiles, Now: time.Now,
		URLs: ca.URLs{CRL: w.url + "/crl/", OCSP: w.url + "/ocsp", CAIssuers: w.url + "/ca/"}})
	w.devices = device.New(device.Deps{DB: d, Audit: log, Access: decider, Key: bytes.Repeat([]byte{7}, 32), Now: time.Now,
		ProfileGrants: func(string) (bool, access.Role) { return true, access.RoleNone }})
	w.revoke = revoke.New(revoke.Deps{DB: d, Audit: log, Access: decider, CA: w.ca, Devices: w.devices, Keys: keys, Now: time.Now})
	w.enrol = enrol.New(enrol.Deps{DB: d, Audit: log, Access: decider, Devices: w.devices, CA: w.ca, Revoke: w.revoke, Now: time.Now, MaxPending: 10, Default: "device"})
	for _, s := range []ca.Spec{
		{Name: "root", Algorithm: key.P384, Forever: true, PathLen: 1},
		{Name: "devices", Parent: "root", Algorithm: key.P256, Validity: 10 * 365 * 86400},
	} {
		s.Subject, err = der.ParseDN("O=Acme, CN=Acme " + s.Name)
		must(t, err)
		_, err = w.ca.Create(t.Context(), admin, s)
		must(t, err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- w.enrol.Run(ctx) }()
	handler := web.Observer{Surface: "status", Log: slog.New(slog.DiscardHandler), Now: time.Now, Refuse: web.Text}.Wrap(web.LimitBodies(New(Deps{Revoke: w.revoke, CA: w.ca, Now: time.Now}), 64<<10))
	server := &http.Server{Handler: handler, ReadHeaderTimeout: 10 * time.Second}
	go func() { _ = server.Serve(l) }()
	t.Cleanup(func() {
		must(t, server.Close())
		cancel()
		must(t, <-ended)
	})
	return w
}

// issue registers a device and gets it a certificate.
func (w *world) issue(t *testing.T, name string) (*x509.Certificate, device.ID) {
	t.Helper()
	d, err := w.devices.Add(t.Context(), admin, device.Spec{Name: name, Profile: "device"})
	must(t, err)
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	a, err := w.enrol.Direct(t.Context(), admin, d.ID, k)
	must(t, err)
	c, err := x509.ParseCertificate(a.Certificate.DER)
	must(t, err)
	return c, d.ID
}

func (w *world) issuer(t *testing.T, name string) *ca.Issuer {
	t.Helper()
	i, err := w.ca.Issuer(name)
	must(t, err)
	return i
}

// do sends a request whose path goes out octet by octet, and checks what every answer must have.
func (w *world) do(t *testing.T, method, path string, body []byte, header ...string) (*http.Response, []byte) {
	t.Helper()
	u, err := url.Parse(w.url)
	must(t, err)
	u.Opaque = path // not cleaned, not encoded again
	r := &http.Request{Method: method, URL: u, Host: u.Host, Header: http.Header{}}
	if body != nil {
		r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
	}
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	client := &http.Client{Transport: http.DefaultTransport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	answer, err := client.Do(r.WithContext(t.Context()))
	must(t, err)
	got, err := io.ReadAll(answer.Body)
	must(t, err)
	must(t, answer.Body.Close())
	if answer.StatusCode != http.StatusNotModified && answer.Header.Get("Content-Length") == "" {
		t.Errorf("%s %s: no Content-Length", method, path)
	}
	if answer.StatusCode >= 300 && answer.StatusCode < 400 && answer.StatusCode != http.StatusNotModified {
		t.Errorf("%s %s: redirected to %s", method, path, answer.Header.Get("Location"))
	}
	return answer, got
}

func TestCRL(t *testing.T) {
	w := newWorld(t)
	leaf, _ := w.issue(t, "pump")
	if len(leaf.CRLDistributionPoints) != 1 || !strings.HasPrefix(leaf.CRLDistributionPoints[0], w.url) {
		t.Fatalf("distribution points: %v", leaf.CRLDistributionPoints)
	}
	path := strings.TrimPrefix(leaf.CRLDistributionPoints[0], w.url)
	r, body := w.do(t, "GET", path, nil)
	l, err := x509.ParseRevocationList(body)
	must(t, err)
	must(t, l.CheckSignatureFrom(w.issuer(t, "devices").Certificate()))
	h := r.Header
	if r.StatusCode != 200 || h.Get("Content-Type") != "application/pkix-crl" || h.Get("Cache-Control") != "public, max-age=60" ||
		h.Get("Last-Modified") != l.ThisUpdate.UTC().Format(http.TimeFormat) {
		t.Errorf("got %d, %v", r.StatusCode, h)
	}
	for _, condition := range [][2]string{{"If-None-Match", h.Get("ETag")}, {"If-Modified-Since", h.Get("Last-Modified")}} {
		if r, body := w.do(t, "GET", path, nil, condition[0], condition[1]); r.StatusCode != 304 || len(body) != 0 {
			t.Errorf("%s: got %d with %d octets, want 304", condition[0], r.StatusCode, len(body))
		}
	}
	if r, part := w.do(t, "GET", path, nil, "Range", "bytes=0-9"); r.StatusCode != 206 || !bytes.Equal(part, body[:10]) {
		t.Errorf("range: got %d, %x", r.StatusCode, part)
	}
	if r, none := w.do(t, "HEAD", path, nil); r.StatusCode != 200 || r.ContentLength != int64(len(body)) || len(none) != 0 {
		t.Errorf("HEAD: got %d, length %d, want %d", r.StatusCode, r.ContentLength, len(body))
	}
	if _, byName := w.do(t, "GET", "/crl/devices.crl", nil); !bytes.Equal(byName, body) {
		t.Error("the list by name is another than by id")
	}

	_, err = w.revoke.Certificate(t.Context(), admin, leaf.SerialNumber.Bytes(), revoke.KeyCompromise)
	must(t, err)
	r, body = w.do(t, "GET", path, nil, "If-None-Match", h.Get("ETag"))
	newer, err := x509.ParseRevocationList(body)
	must(t, err)
	if r.StatusCode != 200 || newer.Number.Cmp(l.Number) <= 0 || len(newer.RevokedCertificateEntries) != 1 ||
		newer.RevokedCertificateEntries[0].SerialNumber.Cmp(leaf.SerialNumber) != 0 {
		t.Errorf("after the revocation: %d, list %d after %d with %d entries", r.StatusCode, newer.Number, l.Number, len(newer.RevokedCertificateEntries))
	}
}

func TestCertificates(t *testing.T) {
	w := newWorld(t)
	leaf, _ := w.issue(t, "pump")
	devices, root := w.issuer(t, "devices"), w.issuer(t, "root")
	r, body := w.do(t, "GET", strings.TrimPrefix(leaf.IssuingCertificateURL[0], w.url), nil)
	if r.StatusCode != 200 || r.Header.Get("Content-Type") != "application/pkix-cert" || !bytes.Equal(body, devices.Certificate().Raw) {
		t.Errorf("certificate: got %d, %v", r.StatusCode, r.Header)
	}
	r, chain := w.do(t, "GET", "/ca/devices.pem", nil)
	first, rest := pem.Decode(chain)
	second, rest := pem.Decode(rest)
	if r.StatusCode != 200 || first == nil || second == nil || len(rest) != 0 || !bytes.Equal(first.Bytes, devices.Certificate().Raw) || !bytes.Equal(second.Bytes, root.Certificate().Raw) {
		t.Errorf("chain: got %d, %s", r.StatusCode, chain)
	}
	if r, _ := w.do(t, "GET", "/ca/root.cer", nil, "If-None-Match", r.Header.Get("ETag")); r.StatusCode != 200 {
		t.Errorf("the tag of another file: got %d, want 200", r.StatusCode)
	}
}

// Every route as somebody who gets it wrong.
func TestRoutes(t *testing.T) {
	w := newWorld(t)
	for _, row := range []struct {
		method, path string
		want         int
	}{
		{"GET", "/", 200}, {"HEAD", "/", 200}, {"POST", "/", 405}, {"GET", "/favicon.ico", 404}, {"GET", "/crl/", 404}, {"GET", "/crl/devices", 404},
		{"GET", "/crl/nobody.crl", 404}, {"POST", "/crl/devices.crl", 405}, {"DELETE", "/ca/root.cer", 405}, {"GET", "/ca/root.key", 404},
		{"GET", "/ca/root", 404}, {"GET", "/ca/nobody.cer", 404}, {"PUT", "/ocsp", 405}, {"DELETE", "/ocsp/MAo", 405}, {"GET", "/ocspx", 404},
		{"GET", "/crl/..%2fca%2froot.crl", 404}, {"GET", "/%00", 404},
	} {
		r, body := w.do(t, row.method, row.path, nil)
		if r.StatusCode != row.want {
			t.Errorf("%s %s: got %d, want %d", row.method, row.path, r.StatusCode, row.want)
		}
		if r.StatusCode == 405 && r.Header.Get("Allow") == "" {
			t.Errorf("%s %s: 405 without Allow", row.method, row.path)
		}
		if r.StatusCode >= 400 && (!strings.HasPrefix(r.Header.Get("Content-Type"), "text/plain") || len(body) == 0) {
			t.Errorf("%s %s: no reason: %v %q", row.method, row.path, r.Header, body)
		}
	}
}

func TestIndex(t *testing.T) {
	w := newWorld(t)
	r, body := w.do(t, "GET", "/", nil)
	text := string(body)
	root := w.issuer(t, "root")
	sum := sha256.Sum256(root.Certificate().Raw)
	fingerprint := strings.ToUpper(strings.ReplaceAll(fmt.Sprintf("% x", sum), " ", ":"))
	list, err := w.revoke.CRL(t.Context(), root.ID(), ca.Complete)
	must(t, err)
	for _, want := range []string{fingerprint, "/crl/" + root.ID().String() + ".crl", "/ca/" + root.ID().String() + ".pem", "number " + strconv.FormatInt(list.Number, 10)} {
		if !strings.Contains(text, want) {
			t.Errorf("the page lacks %q", want)
		}
	}
	if strings.Contains(text, "<script") || strings.Contains(text, "ZgotmplZ") {
		t.Errorf("the page has a script, or a value that the template refused: %s", text)
	}
	_, sheet, _ := strings.Cut(text, "<style>")
	sheet, _, _ = strings.Cut(sheet, "</style>")
	hash := sha256.Sum256([]byte(sheet))
	policy := r.Header.Get("Content-Security-Policy")
	if !strings.HasPrefix(policy, "default-src 'none';") || !strings.Contains(policy, base64.StdEncoding.EncodeToString(hash[:])) {
		t.Errorf("the policy %q does not fit the style sheet %q", policy, sheet)
	}
}

func (w *world) question(t *testing.T, hash crypto.Hash, nonce []byte, serials ...*big.Int) []byte {
	t.Helper()
	i := w.issuer(t, "devices").Certificate()
	ids, err := ocsp.NewIssuer(i.RawSubject, i.RawSubjectPublicKeyInfo)
	must(t, err)
	var asked []ocsp.CertID
	for _, s := range serials {
		id, err := ids.CertID(hash, s.Bytes())
		must(t, err)
		asked = append(asked, id)
	}
	q, err := ocsp.AppendRequest(nil, asked, nonce)
	must(t, err)
	return q
}

func TestOCSP(t *testing.T) {
	w := newWorld(t)
	leaf, id := w.issue(t, "pump")
	devices := w.issuer(t, "devices").Certificate()
	q := w.question(t, crypto.SHA1, nil, leaf.SerialNumber)
	status := func(r *http.Response, body []byte) int {
		t.Helper()
		if r.StatusCode != 200 || r.Header.Get("Content-Type") != "application/ocsp-response" {
			t.Errorf("got %d, %v", r.StatusCode, r.Header)
		}
		parsed, err := xocsp.ParseResponseForCert(body, leaf, devices)
		must(t, err)
		return parsed.Status
	}
	r, body := w.do(t, "POST", "/ocsp", q, "Content-Type", "application/ocsp-request")
	if got := status(r, body); got != xocsp.Good || r.Header.Get("Cache-Control") != "no-store" {
		t.Errorf("POST: got %d, %v", got, r.Header)
	}
	plain := base64.StdEncoding.EncodeToString(q)
	for name, path := range map[string]string{"as RFC 6960 wants": "/ocsp/" + ocsp.EncodePath(q), "as it is": "/ocsp/" + plain, "query escaped": "/ocsp/" + url.QueryEscape(plain)} {
		r, body := w.do(t, "GET", path, nil)
		if got := status(r, body); got != xocsp.Good {
			t.Errorf("GET %s: got %d", name, got)
		}
		parsed, err := xocsp.ParseResponse(body, devices)
		must(t, err)
		h := r.Header
		var age int
		if _, err := fmt.Sscanf(h.Get("Cache-Control"), "max-age=%d, public, no-transform, must-revalidate", &age); err != nil || age <= 0 || time.Duration(age)*time.Second > time.Until(parsed.NextUpdate) {
			t.Errorf("GET %s: cache control %q: %v", name, h.Get("Cache-Control"), err)
		}
		if h.Get("Expires") != parsed.NextUpdate.UTC().Format(http.TimeFormat) || h.Get("Last-Modified") != parsed.ThisUpdate.UTC().Format(http.TimeFormat) || h.Get("ETag") == "" {
			t.Errorf("GET %s: headers %v", name, h)
		}
		if r, _ := w.do(t, "GET", path, nil, "If-None-Match", h.Get("ETag")); r.StatusCode != 304 {
			t.Errorf("GET %s again: got %d, want 304", name, r.StatusCode)
		}
	}
	r, body = w.do(t, "GET", "/ocsp/"+ocsp.EncodePath(w.question(t, crypto.SHA256, []byte("fresh"), leaf.SerialNumber)), nil)
	parsed, err := ocsp.ParseResponse(body)
	must(t, err)
	if !bytes.Equal(parsed.Nonce, ocsp.NonceValue([]byte("fresh"))) || r.Header.Get("Cache-Control") != "no-store" || r.Header.Get("Expires") != "" || r.Header.Get("ETag") != "" {
		t.Errorf("nonce: got %x, %v", parsed.Nonce, r.Header)
	}

	_, err = w.revoke.Device(t.Context(), admin, id, device.Lose, revoke.Unspecified)
	must(t, err)
	if got := status(w.do(t, "GET", "/ocsp/"+plain, nil)); got != xocsp.Revoked {
		t.Errorf("after the loss: got %d, want revoked", got)
	}
}

// A question with "//" in its base64, which path cleaning would destroy.
func TestOCSPDoubleSlash(t *testing.T) {
	w := newWorld(t)
	ones := new(big.Int).SetBytes(append([]byte{0x41}, bytes.Repeat([]byte{0xff}, 15)...))
	q := w.question(t, crypto.SHA256, nil, ones)
	path := "/ocsp/" + base64.StdEncoding.EncodeToString(q)
	if !strings.Contains(path, "//") {
		t.Fatalf("the question has no double slash: %s", path)
	}
	r, body := w.do(t, "GET", path, nil)
	parsed, err := ocsp.ParseResponse(body)
	must(t, err)
	if r.StatusCode != 200 || len(parsed.Singles) != 1 || parsed.Singles[0].Status != ocsp.Unknown {
		t.Errorf("got %d, %+v", r.StatusCode, parsed)
	}
}

// What is wrong is said in OCSP, with status 200.
func TestOCSPErrors(t *testing.T) {
	w := newWorld(t)
	leaf, _ := w.issue(t, "pump")
	q := w.question(t, crypto.SHA256, nil, leaf.SerialNumber)
	foreign := bytes.Clone(q)
	foreign[len(foreign)-30] ^= 1
	for name, row := range map[string]struct {
		method, path string
		body         []byte
		mediaType    string
		want         ocsp.Status
	}{
		"good, no media type":  {"POST", "/ocsp", q, "", ocsp.Successful},
		"good, trailing slash": {"POST", "/ocsp/", q, "application/ocsp-request", ocsp.Successful},
		"good, parameter":      {"POST", "/ocsp", q, "Application/OCSP-Request; charset=x", ocsp.Successful},
		"wrong media type":     {"POST", "/ocsp", q, "text/plain", ocsp.MalformedRequest},
		"broken media type":    {"POST", "/ocsp", q, ";;", ocsp.MalformedRequest},
		"empty":                {"POST", "/ocsp", []byte{}, "application/ocsp-request", ocsp.MalformedRequest},
		"noise":                {"POST", "/ocsp", []byte("noise"), "application/ocsp-request", ocsp.MalformedRequest},
		"too long":             {"POST", "/ocsp", make([]byte, ocsp.MaxRequest+1), "application/ocsp-request", ocsp.MalformedRequest},
		"far too long":         {"POST", "/ocsp", make([]byte, 1<<20), "application/ocsp-request", ocsp.MalformedRequest},
		"POST to a question":   {"POST", "/ocsp/MAo", q, "application/ocsp-request", ocsp.MalformedRequest},
		"foreign CA":           {"POST", "/ocsp", foreign, "application/ocsp-request", ocsp.Unauthorized},
		"no question":          {"GET", "/ocsp", nil, "", ocsp.MalformedRequest},
		"empty question":       {"GET", "/ocsp/", nil, "", ocsp.MalformedRequest},
		"not base64":           {"GET", "/ocsp/!!!", nil, "", ocsp.MalformedRequest},
		"only slashes":         {"GET", "/ocsp////", nil, "", ocsp.MalformedRequest},
		"long path":            {"GET", "/ocsp/" + strings.Repeat("A", 3*ocsp.MaxRequest+1), nil, "", ocsp.MalformedRequest},
	} {
		var header []string
		if row.mediaType != "" {
			header = []string{"Content-Type", row.mediaType}
		}
		r, body := w.do(t, row.method, row.path, row.body, header...)
		parsed, err := ocsp.ParseResponse(body)
		if err != nil || r.StatusCode != 200 || r.Header.Get("Content-Type") != "application/ocsp-response" || parsed.Status != row.want {
			t.Errorf("%s: got %d, %v, %v, %v, want %s", name, r.StatusCode, r.Header, parsed, err, row.want)
		}
		if r.Header.Get("Cache-Control") != "no-store" {
			t.Errorf("%s: may be cached: %v", name, r.Header)
		}
	}
}
