package agent_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"mooring/agent"
	"mooring/agent/est"
	"mooring/agent/esttest"
	wire "mooring/wire/est"
	"mooring/wire/voucher"
)

// party is a certificate with its key.
type party struct {
	cert *x509.Certificate
	key  crypto.Signer
}

// registrar is the server of a device under test, which also makes its vouchers. The authority of the server is that of the manufacturer too.
type registrar struct {
	*device
	masa, idevid party

	mu       sync.Mutex // guards what follows
	seen     []string   // what came: number of the connection, path, and for reports what they say
	requests [][]byte   // for vouchers
	conns    map[string]int
	reports  map[string]voucher.Status // the last, by path
	by       map[string]string         // who made them: the subject of the client certificate
	answers  []http.HandlerFunc        // to the next requests for vouchers
	bend     func(v *voucher.Voucher)  // spoils the voucher
	signer   *party                    // instead of the MASA
	silent   bool                      // does not answer reports about enrolments
}

func newRegistrar(t *testing.T, o esttest.Options) *registrar {
	t.Helper()
	r := &registrar{conns: map[string]int{}, reports: map[string]voucher.Status{}, by: map[string]string{}}
	o.Seen, o.Else = r.see, http.HandlerFunc(r.serve)
	r.device = newDevice(t, o)
	r.masa, r.idevid = r.party(pkix.Name{CommonName: "MASA"}), r.party(pkix.Name{Organization: []string{"ACME"}, SerialNumber: "AC-17"})
	return r
}

func (r *registrar) party(subject pkix.Name) party {
	key := mustKey(r.t)
	return party{r.server.CertifySubject(r.t, subject, key.Public()), key}
}

// first has the device know its manufacturer and nothing else.
func (r *registrar) first() agent.First {
	r.t.Helper()
	raw, err := x509.MarshalPKCS8PrivateKey(r.idevid.key)
	if err != nil {
		r.t.Fatal(err)
	}
	dir := r.t.TempDir()
	first := agent.First{MASA: []*x509.Certificate{r.server.Root}, CertFile: filepath.Join(dir, "cert.pem"), KeyFile: filepath.Join(dir, "key.pem")}
	cert := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: r.idevid.cert.Raw})
	cert = append(cert, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: r.server.Inter.Raw})...)
	for name, data := range map[string][]byte{first.CertFile: cert, first.KeyFile: pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: raw})} {
		if err := os.WriteFile(name, data, 0o600); err != nil {
			r.t.Fatal(err)
		}
	}
	return first
}

func (r *registrar) see(q *http.Request) {
	r.mu.Lock()
	defer r.mu.Unlock()
	n, ok := r.conns[q.RemoteAddr]
	if !ok {
		n = len(r.conns) + 1
		r.conns[q.RemoteAddr] = n
	}
	r.seen = append(r.seen, fmt.Sprintf("%d%s", n, strings.TrimPrefix(q.URL.Path, "/.well-known")))
}

func (r *registrar) serve(w http.ResponseWriter, q *http.Request) {
	body, err := io.ReadAll(q.Body)
	if err != nil {
		r.t.Error(err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	switch op := strings.TrimPrefix(q.URL.Path, voucher.WellKnown); op {
	case voucher.RequestVoucher:
		r.requests = append(r.requests, body)
		if len(r.answers) > 0 {
			answer := r.answers[0]
			r.answers = r.answers[1:]
			if answer != nil {
				answer(w, q)
				return
			}
		}
		if got := q.Header.Get("Content-Type") + " " + q.Header.Get("Accept") + q.Header.Get("Authorization"); got != voucher.MediaType+" "+voucher.MediaType {
			r.t.Errorf("requestvoucher with the header %q", got)
		}
		w.Header().Set("Content-Type", voucher.MediaType)
		_, _ = w.Write(r.voucher(body)) // a device that is gone is the test's business
	case voucher.VoucherStatus, voucher.EnrollStatus:
		if r.silent && op == voucher.EnrollStatus {
			esttest.Hang(w, q)
		}
		status, err := voucher.ParseStatus(body)
		if err != nil {
			r.t.Errorf("%s: %v", op, err)
		}
		r.reports[op], r.by[op] = status, q.TLS.PeerCertificates[0].Subject.String()
		r.seen[len(r.seen)-1] += fmt.Sprintf(" %v", status.Status)
	default:
		http.NotFound(w, q)
	}
}

// voucher answers a request as the MASA would, apart from what is bent.
func (r *registrar) voucher(request []byte) []byte {
	q, err := voucher.ParseRequest(request)
	if err != nil {
		r.t.Error(err)
		return nil
	}
	v := voucher.Voucher{CreatedOn: r.now, ExpiresOn: r.now.Add(20 * time.Minute), Assertion: voucher.Proximity, SerialNumber: q.SerialNumber, Nonce: q.Nonce,
		IDevIDIssuer: voucher.IDevIDIssuer(q.Chain[0]), PinnedDomainCert: r.server.Root.Raw}
	if r.bend != nil {
		r.bend(&v)
	}
	by := r.masa
	if r.signer != nil {
		by = *r.signer
	}
	message, err := v.Sign(by.key, by.cert, []*x509.Certificate{r.server.Inter}, rand.Reader)
	if err != nil {
		r.t.Error(err)
	}
	return message
}

func (r *registrar) agent() *agent.Agent {
	r.t.Helper()
	a, err := agent.Create(r.options(), r.config)
	if err != nil {
		r.t.Fatal(err)
	}
	return a
}

// wantSeen compares what came, in its order, with the numbers of the connections.
func (r *registrar) wantSeen(want ...string) {
	r.t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	if got := strings.Join(r.seen, "\n"); got != strings.Join(want, "\n") {
		r.t.Errorf("the registrar saw:\n%s\nwant:\n%s", got, strings.Join(want, "\n"))
	}
}

// TestVoucher has a device that knows its manufacturer alone find its domain, enrol and report.
func TestVoucher(t *testing.T) {
	r := newRegistrar(t, esttest.Options{})
	r.config.Nameless = true
	identity, err := r.agent().Enrol(t.Context(), r.first())
	if err != nil {
		t.Fatal(err)
	}
	r.wantSeen("1/brski/requestvoucher", "1/brski/voucher_status true", "1/est/cacerts", "1/est/csrattrs", "1/est/simpleenroll", "2/brski/enrollstatus true")
	q, err := voucher.ParseRequest(r.requests[0])
	if err != nil {
		t.Fatal(err)
	}
	shown, err := x509.ParseCertificate(q.ProximityRegistrarCert)
	if err != nil || shown.Subject.CommonName != "est" || q.SerialNumber != "AC-17" || len(q.Nonce) != 32 || q.Assertion != voucher.Proximity || !q.CreatedOn.Equal(r.now) || len(q.Chain) != 2 {
		t.Errorf("the request for the voucher: %+v, %v", q.Request, err)
	}
	if got, want := r.by[voucher.EnrollStatus], identity.Certificate().Subject.String(); got != want {
		t.Errorf("the enrolment was reported by %q, want the new certificate %q", got, want)
	}
	if got := r.server.Requests(); len(got) != 1 || len(got[0].Subject) != 0 {
		t.Errorf("the device does not know its name and asked for %v", got[0].Subject)
	}
	roots, err := r.open().Roots()
	if err != nil || len(roots) != 1 || !roots[0].Equal(r.server.Root) {
		t.Errorf("roots of the device: %v, %v", roots, err)
	}
	if left, err := filepath.Glob(filepath.Join(r.dir, "gen", "1", "*")); err != nil || len(left) != 3 {
		t.Errorf("beside key and certificates there is something: %v, %v", left, err)
	}
	if _, err := r.open().Renew(t.Context()); err != nil {
		t.Errorf("renewing: %v", err)
	}
}

// TestNoVoucher has the device be offered what it must not believe. It tells nothing of EST then, but why.
func TestNoVoucher(t *testing.T) {
	for _, test := range []struct {
		name, reason string
		set          func(r *registrar)
	}{
		{"another manufacturer", "not signed by the service", func(r *registrar) {
			other := esttest.Start(t, esttest.Options{})
			key := mustKey(t)
			r.signer = &party{other.Certify(t, "MASA", key.Public()), key}
		}},
		{"signed by another device", "signed by a device", func(r *registrar) {
			other := r.party(pkix.Name{SerialNumber: "AC-18"})
			r.signer = &other
		}},
		{"signed by itself", "signed by a device", func(r *registrar) { r.signer = &r.idevid }},
		{"another serial number", `for the serial number "AC-18"`, func(r *registrar) { r.bend = func(v *voucher.Voucher) { v.SerialNumber = "AC-18" } }},
		{"another issuer", "certificate of another issuer", func(r *registrar) { r.bend = func(v *voucher.Voucher) { v.IDevIDIssuer = []byte{1, 2, 3, 4} } }},
		{"another nonce", "another nonce", func(r *registrar) { r.bend = func(v *voucher.Voucher) { v.Nonce = bytes.Repeat([]byte{7}, 32) } }},
		{"no nonce", "no nonce", func(r *registrar) { r.bend = func(v *voucher.Voucher) { v.Nonce = nil } }},
		{"expired", "expired at", func(r *registrar) { r.bend = func(v *voucher.Voucher) { v.ExpiresOn = r.now } }},
		{"not made yet", "will be made at", func(r *registrar) {
			r.bend = func(v *voucher.Voucher) { v.CreatedOn, v.ExpiresOn = r.now.Add(25*time.Hour), r.now.Add(26*time.Hour) }
		}},
		{"another domain", "another domain", func(r *registrar) {
			r.bend = func(v *voucher.Voucher) { v.PinnedDomainCert = r.server.OtherRoot(t).Raw }
		}},
		{"revocation to be looked at", "was revoked, which this device cannot do", func(r *registrar) { r.bend = func(v *voucher.Voucher) { v.DomainCertRevocationChecks = true } }},
		{"no voucher", "reading a voucher", func(r *registrar) {
			r.answers = []http.HandlerFunc{func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Type", voucher.MediaType)
				_, _ = io.WriteString(w, "nothing") // a device that is gone is the test's business
			}}
		}},
		{"the registrar under another name", "est", func(r *registrar) { r.config.Server = strings.Replace(r.server.URL, "127.0.0.1", "localhost", 1) }},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := newRegistrar(t, esttest.Options{})
			test.set(r)
			a := r.agent()
			_, err := a.Enrol(t.Context(), r.first())
			if err == nil || !strings.Contains(err.Error(), test.reason) && test.reason != "est" {
				t.Fatalf("got %v, want an error with %q", err, test.reason)
			}
			r.wantSeen("1/brski/requestvoucher", "1/brski/voucher_status false")
			if got := r.reports[voucher.VoucherStatus]; got.Reason == "" || !strings.Contains(err.Error(), got.Reason) {
				t.Errorf("the registrar was told %+v, and the error is %v", got, err)
			}
			r.bend, r.signer, r.config.Server = nil, nil, r.server.URL
			if _, err := r.agent().Enrol(t.Context(), r.first()); err != nil {
				t.Errorf("afterwards, with a good voucher: %v", err)
			}
			if bytes.Equal(r.requests[0], r.requests[1]) {
				t.Error("the request was used again though its answer was refused")
			}
		})
	}
}

// TestVoucherLater: the registrar takes its time, over one connection and over several, and gets the same request each time.
func TestVoucherLater(t *testing.T) {
	r := newRegistrar(t, esttest.Options{})
	later := esttest.Status(http.StatusAccepted, "Retry-After", "20")
	r.answers = []http.HandlerFunc{later, esttest.Status(http.StatusAccepted, "Retry-After", "20", "Connection", "close"), esttest.Status(http.StatusAccepted, "Retry-After", "100000")}
	first := r.first()
	_, err := r.agent().Enrol(t.Context(), first)
	var pending *est.PendingError
	if !errors.As(err, &pending) || pending.RetryAfter != time.Minute {
		t.Fatalf("got %v, want that it is pending for at most a minute", err)
	}
	r.wantSeen("1/brski/requestvoucher", "1/brski/requestvoucher", "2/brski/requestvoucher")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	r.wake = func() bool { return len(r.requests) < 4 }
	if err := r.open().Run(ctx); err != nil { // another process goes on
		t.Fatal(err)
	}
	if _, err := r.open().Identity(); err != nil {
		t.Fatalf("after the wait: %v", err)
	}
	for i, request := range r.requests {
		if !bytes.Equal(request, r.requests[0]) {
			t.Errorf("request %d is another one than the first", i+1)
		}
	}
	t.Run("refused", func(t *testing.T) {
		r := newRegistrar(t, esttest.Options{})
		r.answers = []http.HandlerFunc{esttest.Text(http.StatusNotFound, "on no list")}
		_, err := r.agent().Enrol(t.Context(), r.first())
		var refused *est.RefusedError
		if !errors.As(err, &refused) || refused.Status != http.StatusNotFound || !strings.Contains(err.Error(), "on no list") {
			t.Errorf("got %v", err)
		}
		r.wantSeen("1/brski/requestvoucher")
	})
	t.Run("too late", func(t *testing.T) {
		r := newRegistrar(t, esttest.Options{})
		r.answers = []http.HandlerFunc{esttest.Status(http.StatusAccepted, "Retry-After", "60000"), esttest.Status(http.StatusAccepted, "Retry-After", "60000")}
		if _, err := r.agent().Enrol(t.Context(), r.first()); err == nil {
			t.Fatal("enrolled at once")
		}
		r.now = r.now.Add(4*24*time.Hour + time.Second)
		if _, err := r.agent().Enrol(t.Context(), r.first()); err != nil || bytes.Equal(r.requests[0], r.requests[2]) {
			t.Errorf("after four days: %v, or the same request", err)
		}
	})
}

// TestVoucherApproval: the voucher comes at once and the certificate after an approval. Nobody needs another voucher for that.
func TestVoucherApproval(t *testing.T) {
	r := newRegistrar(t, esttest.Options{})
	first := r.first()
	r.server.Answer("simpleenroll", esttest.Status(http.StatusAccepted, "Retry-After", "30"), esttest.Text(http.StatusForbidden, "no"))
	var pending *est.PendingError
	if _, err := r.agent().Enrol(t.Context(), first); !errors.As(err, &pending) {
		t.Fatalf("got %v, want that it is pending", err)
	}
	var refused *est.RefusedError
	if _, err := r.open().Enrol(t.Context(), first); !errors.As(err, &refused) {
		t.Fatalf("got %v, want a refusal", err)
	}
	if got := r.reports[voucher.EnrollStatus]; got.Status || !strings.Contains(got.Reason, "no") {
		t.Errorf("the registrar was told %+v", got)
	}
	if _, err := r.open().Enrol(t.Context(), first); err != nil {
		t.Fatal(err)
	}
	if len(r.requests) != 1 || !r.reports[voucher.EnrollStatus].Status {
		t.Errorf("%d requests for vouchers, want one; the last report %+v", len(r.requests), r.reports[voucher.EnrollStatus])
	}
}

// TestReportLater: the registrar is away when the device is enrolled, and hears of it from the next process.
func TestReportLater(t *testing.T) {
	r := newRegistrar(t, esttest.Options{})
	r.silent = true
	if _, err := r.agent().Enrol(t.Context(), r.first()); err != nil {
		t.Fatal(err)
	}
	if _, told := r.reports[voucher.EnrollStatus]; told {
		t.Fatal("it was reported all the same")
	}
	r.silent = false
	r.wake = func() bool { return false }
	for range 2 {
		if err := r.open().Run(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if got := strings.Count(strings.Join(r.seen, "\n"), "enrollstatus true"); got != 1 {
		t.Errorf("it was reported %d times, want once:\n%s", got, strings.Join(r.seen, "\n"))
	}
}

// TestRegistrarByUsage: a registrar that is called by another name than its certificate has is believed if that is a registration authority's.
func TestRegistrarByUsage(t *testing.T) {
	r := newRegistrar(t, esttest.Options{CMCRA: true})
	r.config.Server, r.config.CMCRA = strings.Replace(r.server.URL, "127.0.0.1", "localhost", 1), true
	if _, err := r.agent().Enrol(t.Context(), r.first()); err != nil {
		t.Fatal(err)
	}
	if _, err := r.open().Renew(t.Context()); err != nil {
		t.Errorf("renewing: %v", err)
	}
}

// TestVoucherBrokenOff: power or network fail between the voucher and the certificate, at each exchange. The same command leads to the end then, with the key
// that was made, and one report.
func TestVoucherBrokenOff(t *testing.T) {
	for at, times := range map[wire.Operation]int{wire.CACerts: 2, wire.CSRAttributes: 2, wire.SimpleEnroll: 1} { // what only asks is asked again over another connection
		t.Run(string(at), func(t *testing.T) {
			r := newRegistrar(t, esttest.Options{})
			for range times {
				r.server.Answer(at, esttest.Hang)
			}
			first := r.first()
			var silent *est.UnreachableError
			if _, err := r.agent().Enrol(t.Context(), first); !errors.As(err, &silent) {
				t.Fatalf("got %v, want that there was no answer", err)
			}
			if _, told := r.reports[voucher.EnrollStatus]; told {
				t.Error("it was reported though it goes on")
			}
			if _, err := r.agent().Enrol(t.Context(), first); err != nil {
				t.Fatal(err)
			}
			if got := strings.Count(strings.Join(r.seen, "\n"), "enrollstatus true"); got != 1 || r.server.Issued() != 1 {
				t.Errorf("it was reported %d times, and %d certificates were issued; want one of each", got, r.server.Issued())
			}
		})
	}
}

// TestVoucherAgain: a device that is enrolled gets another voucher with --again; until it has another certificate it keeps the one it has, and says nothing of success.
func TestVoucherAgain(t *testing.T) {
	r := newRegistrar(t, esttest.Options{})
	before, err := r.agent().Enrol(t.Context(), r.first())
	if err != nil {
		t.Fatal(err)
	}
	replace := func() error {
		a, err := agent.Replace(r.options(), r.config)
		if err == nil {
			_, err = a.Enrol(t.Context(), r.first())
		}
		return err
	}
	r.server.Answer(wire.SimpleEnroll, esttest.Text(http.StatusForbidden, "no"))
	if err := replace(); err == nil {
		t.Fatal("enrolled though it was refused")
	}
	r.wake = func() bool { return false }
	if err := r.open().Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	now, err := r.open().Identity()
	if err != nil || !now.Certificate().Equal(before.Certificate()) {
		t.Errorf("the identity in use was replaced: %v", err)
	}
	if got := strings.Count(strings.Join(r.seen, "\n"), "enrollstatus true"); got != 1 {
		t.Errorf("success was reported %d times, want once", got)
	}
	if err := replace(); err != nil {
		t.Fatal(err)
	}
	if got := strings.Count(strings.Join(r.seen, "\n"), "enrollstatus true"); got != 2 {
		t.Errorf("success was reported %d times, want twice", got)
	}
}
