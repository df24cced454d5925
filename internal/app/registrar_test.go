package app_test

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"mooring/internal/app/apptest"
	"mooring/internal/base/errs"
	"mooring/internal/core/access"
	"mooring/internal/core/audit"
	"mooring/internal/core/device"
	"mooring/internal/core/maker"
	"mooring/internal/core/masa"
	"mooring/internal/core/registrar"
	"mooring/internal/core/revoke"
	"mooring/wire/der"
	"mooring/wire/voucher"
)

// newcomer is a device on its connection with a registrar that it does not believe yet.
type newcomer struct {
	test   *testing.T
	idevid *tls.Certificate
	conn   *apptest.Conn
	shown  *x509.Certificate // by the registrar
}

// arrive connects a device. idevid may be nil.
func arrive(t *testing.T, p *apptest.Platform, idevid *tls.Certificate) *newcomer {
	t.Helper()
	n := &newcomer{test: t, idevid: idevid, conn: p.Dial(t, p.TLS(idevid))}
	n.shown = n.conn.ConnectionState().PeerCertificates[0]
	return n
}

// request signs a pledge voucher-request, which change may bend.
func (n *newcomer) request(change func(*voucher.Request)) []byte {
	n.test.Helper()
	q := voucher.Request{CreatedOn: time.Now(), Assertion: voucher.Proximity, SerialNumber: n.idevid.Leaf.Subject.SerialNumber, Nonce: nonce, ProximityRegistrarCert: n.shown.Raw}
	if change != nil {
		change(&q)
	}
	line, err := x509.ParseCertificate(n.idevid.Certificate[1])
	must(n.test, err)
	message, err := q.Sign(n.idevid.PrivateKey.(crypto.Signer), n.idevid.Leaf, []*x509.Certificate{line}, rand.Reader)
	must(n.test, err)
	return message
}

func (n *newcomer) post(operation, mediaType string, body []byte, header ...string) apptest.Reply {
	n.test.Helper()
	return n.conn.Send(n.test, apptest.Call{Path: voucher.WellKnown + operation, Body: body, Header: append([]string{"Content-Type: " + mediaType}, header...)})
}

// voucher asks until there is an answer that is not "later".
func (n *newcomer) voucher(request []byte) (r apptest.Reply) {
	n.test.Helper()
	for range 20 {
		r = n.post(voucher.RequestVoucher, voucher.MediaType, request)
		if r.StatusCode != http.StatusAccepted {
			return r
		}
		if r.Header.Get("Retry-After") == "" || len(r.Text) > 0 {
			n.test.Fatalf("later: %s, Retry-After %q", r, r.Header.Get("Retry-After"))
		}
	}
	return r
}

// opened waits until the EST listener shows the registrar's certificate.
func opened(t *testing.T, p *apptest.Platform) {
	t.Helper()
	shows(t, p, registrar.IsRegistrar)
}

// shows waits until the EST listener shows a certificate as wanted.
func shows(t *testing.T, p *apptest.Platform, wanted func(*x509.Certificate) bool) {
	t.Helper()
	for range 500 {
		conn := p.Dial(t, p.TLS(nil))
		shown := conn.ConnectionState().PeerCertificates[0]
		must(t, conn.Close())
		if wanted(shown) {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	t.Fatal("the EST listener does not show such a certificate")
}

func expected(t *testing.T, p *apptest.Platform, manufacturer, serial string, tags map[string]string) device.Device {
	t.Helper()
	return p.Add(t, device.Spec{Name: manufacturer + "-" + serial, Profile: "device", Product: device.Product{Maker: manufacturer, Serial: serial}, Tags: tags})
}

func madeBy(t *testing.T, p *apptest.Platform, name string, f *factory, where string, trusted ...[]byte) {
	t.Helper()
	_, err := p.Makers.Add(t.Context(), apptest.Operator(), maker.Spec{Name: name, Anchors: [][]byte{f.root.Raw}, MASA: where, Trusted: trusted})
	must(t, err)
}

// recorded returns the newest entry with an action about a device.
func recorded(t *testing.T, p *apptest.Platform, action string, id device.ID) audit.Indexed {
	t.Helper()
	all := p.Record(t)
	for _, e := range slices.Backward(all) {
		if e.Action == action && e.Device == id.String() {
			return e
		}
	}
	t.Fatalf("the record has no %s about the device", action)
	return audit.Indexed{}
}

// TestRegistrar brings devices in whose vouchers this platform gives out itself, and refuses the others.
func TestRegistrar(t *testing.T) {
	p := withMASA(t)
	if shown := arrive(t, p, nil).shown; registrar.IsRegistrar(shown) {
		t.Error("without a manufacturer with a MASA a registrar's certificate is shown")
	}
	acme, silent, other := newFactory(t, "ACME", farAway), newFactory(t, "Silent", farAway), newFactory(t, "Other", farAway)
	madeBy(t, p, "silent", silent, maker.NoMASA)
	madeBy(t, p, "acme", acme, maker.OwnMASA)
	opened(t, p)

	t.Run("whole way", func(t *testing.T) {
		d := expected(t, p, "acme", "AC-1", nil)
		n := arrive(t, p, acme.device("AC-1", nil))
		request := n.request(nil)
		r := n.voucher(request)
		if r.StatusCode != http.StatusOK || r.Header.Get("Content-Type") != voucher.MediaType {
			t.Fatalf("asking for a voucher: %s", r)
		}
		v, err := voucher.ParseVoucher(r.Text)
		must(t, err)
		if v.SerialNumber != "AC-1" || !bytes.Equal(v.Nonce, nonce) || !bytes.Equal(v.PinnedDomainCert, p.Root.Raw) || v.Assertion != voucher.Proximity {
			t.Errorf("the voucher: %+v", v.Voucher)
		}
		if again := n.voucher(request); !bytes.Equal(again.Text, r.Text) {
			t.Errorf("the same request again: %s", again)
		}
		if r := n.post(voucher.VoucherStatus, voucher.StatusType, []byte(`{"version":1,"status":true}`)); r.StatusCode != http.StatusOK {
			t.Fatalf("telling of the voucher: %s", r)
		}
		key := apptest.Key(t)
		r = n.conn.Send(t, apptest.Call{Path: "/.well-known/est/simpleenroll", Body: apptest.Body(apptest.CSR(t, key, der.RequestSpec{})), Header: []string{"Content-Type: application/pkcs10"}})
		if r.StatusCode != http.StatusOK {
			t.Fatalf("enrolling over the same connection: %s", r)
		}
		own := p.Pair(t, key, r.Certificate(t).Raw)
		if r := arrive(t, p, &own).post(voucher.EnrollStatus, voucher.StatusType, []byte(`{"version":1,"status":true}`)); r.StatusCode != http.StatusOK {
			t.Fatalf("telling of the enrolment: %s", r)
		}
		e := recorded(t, p, "registrar.voucher", d.ID)
		if e.Detail["masa"] != "own" || e.Detail["assertion"] != "proximity" || e.Detail["log"] != "1" {
			t.Errorf("the voucher in the record: %v", e.Detail)
		}
		if e := recorded(t, p, "registrar.status", d.ID); e.Detail["ok"] != "true" || e.Detail["certificate"] != "birth" {
			t.Errorf("what the device told of the voucher, in the record: %v", e.Detail)
		}
		if e := recorded(t, p, "registrar.enrolled", d.ID); e.Detail["certificate"] != "operational" || e.Detail["serial"] != fmt.Sprintf("%032x", own.Leaf.SerialNumber) {
			t.Errorf("what the device told of its enrolment, in the record: %v", e.Detail)
		}
	})

	t.Run("failure is told", func(t *testing.T) {
		d := expected(t, p, "acme", "AC-2", nil)
		n := arrive(t, p, acme.device("AC-2", nil))
		if r := n.post(voucher.VoucherStatus, voucher.StatusType, []byte(`{"version":1,"status":false,"reason":"no \"Ada\" here","reason-context":{"a":1}}`)); r.StatusCode != http.StatusOK {
			t.Fatalf("telling of a failure: %s", r)
		}
		if e := recorded(t, p, "registrar.status", d.ID); e.Detail["ok"] != "false" || e.Detail["reason"] != `no "…" here` {
			t.Errorf("in the record: %v", e.Detail)
		}
		if r := n.post(voucher.EnrollStatus, voucher.StatusType, []byte(`{"version":1,"status":false,"reason":"no room"}`)); r.StatusCode != http.StatusOK {
			t.Fatalf("telling of a failed enrolment: %s", r)
		}
		if e := recorded(t, p, "registrar.enrolled", d.ID); e.Detail["certificate"] != "birth" || e.Detail["reason"] != "no room" {
			t.Errorf("in the record: %v", e.Detail)
		}
		for _, body := range []string{`{"version":1}`, `{`, ``} {
			if r := n.post(voucher.EnrollStatus, voucher.StatusType, []byte(body)); r.StatusCode != http.StatusBadRequest {
				t.Errorf("%s: %s", body, r)
			}
		}
		for range 30 {
			if r := n.post(voucher.VoucherStatus, voucher.StatusType, []byte(`{"version":1,"status":true}`)); r.StatusCode == http.StatusTooManyRequests {
				return
			}
		}
		t.Error("a device can fill the record")
	})

	t.Run("refusals", func(t *testing.T) {
		suspended := expected(t, p, "acme", "AC-suspended", nil)
		_, err := p.Revoke.Device(t.Context(), apptest.Operator(), suspended.ID, device.Suspend, 0)
		must(t, err)
		expected(t, p, "silent", "S-1", nil)
		expected(t, p, "acme", "AC-3", nil)
		good := acme.device("AC-3", nil)
		bound := acme.device("AC-1", nil) // another certificate than the one that came first
		stranger := acme.device("AC-3", nil)
		for _, c := range []struct {
			name   string
			idevid *tls.Certificate
			bend   func(*voucher.Request)
			status int
			reason string
		}{
			{"manufacturer unknown", other.device("O-1", nil), nil, 404, "no manufacturer that is registered"},
			{"not on the list", acme.device("AC-none", nil), nil, 404, "is on no ownership list"},
			{"suspended", acme.device("AC-suspended", nil), nil, 403, "the device is suspended"},
			{"no MASA", silent.device("S-1", nil), nil, 403, "nobody gives out vouchers"},
			{"bound to another certificate", bound, nil, 403, "is bound to another certificate"},
			{"another serial number", good, func(q *voucher.Request) { q.SerialNumber = "AC-1" }, 403, "is for the serial number"},
			{"another issuer", good, func(q *voucher.Request) { q.IDevIDIssuer = []byte("somebody") }, 403, "names another issuer"},
			{"request without a nonce", good, func(q *voucher.Request) { q.Nonce = nil }, 400, "has no nonce"},
			{"proximity to another", good, func(q *voucher.Request) { q.ProximityRegistrarCert = p.Root.Raw }, 401, "somebody may stand between"},
			{"no proximity", good, func(q *voucher.Request) { q.Assertion, q.ProximityRegistrarCert = voucher.Logged, nil }, 401, "somebody may stand between"},
		} {
			t.Run(c.name, func(t *testing.T) {
				n := arrive(t, p, c.idevid)
				r := n.voucher(n.request(c.bend))
				if r.StatusCode != c.status || !strings.Contains(string(r.Text), c.reason) {
					t.Errorf("%s, want %d and %q", r, c.status, c.reason)
				}
				if (r.StatusCode == 401) != r.Close {
					t.Errorf("status %d, connection closed: %t", r.StatusCode, r.Close)
				}
				if !slices.ContainsFunc(p.Record(t), func(e audit.Indexed) bool {
					return e.Action == "registrar.refuse" && strings.Contains(e.Refused, c.reason)
				}) {
					t.Error("it is not in the record")
				}
			})
		}
		n := arrive(t, p, good)
		forged := &newcomer{test: t, idevid: stranger, shown: n.shown}
		for _, c := range []struct {
			name, operation, mediaType, accept string
			body                               []byte
			status                             int
		}{
			{"signed by another certificate", voucher.RequestVoucher, voucher.MediaType, "", forged.request(nil), 403},
			{"no CMS", voucher.RequestVoucher, voucher.MediaType, "", []byte("voucher"), 400},
			{"another type", voucher.RequestVoucher, "application/voucher-jws+json", "", n.request(nil), 415},
			{"another answer wanted", voucher.RequestVoucher, voucher.MediaType, "application/voucher-cose+cbor, application/voucher-cms+json;q=0", n.request(nil), 406},
			{"too large", voucher.RequestVoucher, voucher.MediaType, "", make([]byte, voucher.MaxSize+1), 413},
			{"report of another type", voucher.VoucherStatus, "text/plain", "", []byte(`{"version":1,"status":true}`), 415},
			{"no such operation", "requestauditlog", voucher.MediaType, "", n.request(nil), 404},
		} {
			n := arrive(t, p, good)
			header := []string{}
			if c.accept != "" {
				header = append(header, "Accept: "+c.accept)
			}
			if r := n.post(c.operation, c.mediaType, c.body, header...); r.StatusCode != c.status {
				t.Errorf("%s: %s, want %d", c.name, r, c.status)
			}
		}
		if r := arrive(t, p, nil).post(voucher.RequestVoucher, voucher.MediaType, n.request(nil)); r.StatusCode != 403 {
			t.Errorf("without a client certificate: %s", r)
		}
		if r := arrive(t, p, other.device("O-2", nil)).post(voucher.VoucherStatus, voucher.StatusType, []byte(`{"version":1,"status":true}`)); r.StatusCode != 404 {
			t.Errorf("a report of a stranger: %s", r)
		}
		if r := n.conn.Send(t, apptest.Call{Path: voucher.WellKnown + voucher.RequestVoucher}); r.StatusCode != 405 {
			t.Errorf("GET: %s", r)
		}
		if r := n.voucher(n.request(nil)); r.StatusCode != 200 {
			t.Errorf("after all that the device itself: %s", r)
		}
	})
	t.Run("elsewhere", func(t *testing.T) { strangeMASAs(t, p) })

	t.Run("certificate replaced", func(t *testing.T) {
		expected(t, p, "acme", "AC-4", nil)
		n := arrive(t, p, acme.device("AC-4", nil))
		p.Clock.Move(61 * 24 * time.Hour)
		shows(t, p, func(c *x509.Certificate) bool { return registrar.IsRegistrar(c) && !c.Equal(n.shown) })
		if r := n.voucher(n.request(nil)); r.StatusCode != http.StatusOK {
			t.Errorf("over a connection that began with the certificate before: %s", r)
		}
		_, err := p.Revoke.Certificate(t.Context(), apptest.Operator(), n.shown.SerialNumber.Bytes(), revoke.KeyCompromise)
		must(t, err)
		if r := n.voucher(n.request(func(q *voucher.Request) { q.Nonce = []byte("another nonce") })); r.StatusCode != http.StatusUnauthorized {
			t.Errorf("over it, after it was revoked: %s", r)
		}
	})
	for _, name := range []string{"acme", "globex"} {
		_, err := p.Makers.ChangeMASA(t.Context(), apptest.Operator(), name, maker.NoMASA, nil)
		must(t, err)
	}
	shows(t, p, func(c *x509.Certificate) bool { return !registrar.IsRegistrar(c) })
	if report := p.Verify(t); len(report.Findings) > 0 {
		t.Errorf("the record: %v", report.Findings)
	}
}

// service is a manufacturer's MASA that does as a test wants.
type service struct {
	*httptest.Server
	d      *domain // whose registrar's key signs vouchers
	mu     sync.Mutex
	answer func(w http.ResponseWriter, operation string, q *voucher.SignedRequest)
}

func newService(t *testing.T, d *domain) *service {
	s := &service{d: d}
	s.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet {
			s.current()(w, r.URL.Path, nil)
			return
		}
		var body bytes.Buffer
		_, err := body.ReadFrom(r.Body)
		q, bad := voucher.ParseRequest(body.Bytes())
		switch {
		case err != nil || bad != nil:
			http.Error(w, "no request", http.StatusBadRequest)
			return
		case !q.Chain[0].Equal(r.TLS.PeerCertificates[0]), !registrar.IsRegistrar(q.Chain[0]), len(q.ProximityRegistrarCert) > 0, len(q.PriorSigned) == 0, len(q.IDevIDIssuer) == 0:
			http.Error(w, "not a registrar's request", http.StatusForbidden)
			return
		}
		s.current()(w, strings.TrimPrefix(r.URL.Path, voucher.WellKnown), q)
	}))
	key := apptest.Key(t)
	cert := d.sign(&x509.Certificate{DNSNames: []string{"localhost"}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}, d.ca, key)
	s.TLS = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{cert.Raw}, PrivateKey: key}}, ClientAuth: tls.RequireAnyClientCert, MinVersion: tls.VersionTLS12}
	s.StartTLS()
	t.Cleanup(s.Close)
	return s
}

func (s *service) url() string {
	return "https://localhost" + s.Listener.Addr().String()[strings.LastIndex(s.Listener.Addr().String(), ":"):]
}

func (s *service) current() func(http.ResponseWriter, string, *voucher.SignedRequest) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.answer
}

func (s *service) set(answer func(http.ResponseWriter, string, *voucher.SignedRequest)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answer = answer
}

// gives is an answer by a voucher, which bend may bend, and by a log.
func (s *service) gives(t *testing.T, log voucher.AuditLog, bend func(*voucher.Voucher)) func(http.ResponseWriter, string, *voucher.SignedRequest) {
	return func(w http.ResponseWriter, operation string, q *voucher.SignedRequest) {
		if operation == voucher.RequestAuditLog {
			text, err := log.Encode()
			if err != nil {
				t.Error(err)
			}
			w.Header().Set("Content-Type", voucher.StatusType)
			_, _ = w.Write(text) // what is lost the client misses
			return
		}
		v := voucher.Voucher{CreatedOn: time.Now(), Assertion: voucher.Logged, SerialNumber: q.SerialNumber, Nonce: q.Nonce, PinnedDomainCert: q.Chain[len(q.Chain)-1].Raw}
		if bend != nil {
			bend(&v)
		}
		message, err := v.Sign(s.d.raKey, s.d.ra, s.d.above, rand.Reader)
		if err != nil {
			t.Error(err)
		}
		w.Header().Set("Content-Type", voucher.MediaType)
		_, _ = w.Write(message)
	}
}

// over is gives by a certificate of a CA with this key, which stands below the domain's.
func (s *service) over(t *testing.T, log voucher.AuditLog, key crypto.Signer) func(http.ResponseWriter, string, *voucher.SignedRequest) {
	t.Helper()
	below := *s.d
	line := below.sign(&x509.Certificate{Subject: pkix.Name{CommonName: "Line"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}, s.d.ca, key)
	below.ca, below.caKey, below.above = line, key, []*x509.Certificate{line}
	below.ra = below.registrar(below.raKey, nil)
	return (&service{d: &below}).gives(t, log, nil)
}

// masaURL is the extension by which an IDevID names a service.
func masaURL(t *testing.T, text string) pkix.Extension {
	t.Helper()
	value, err := asn1.MarshalWithParams(text, "ia5")
	must(t, err)
	return pkix.Extension{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 1, 32}, Value: value}
}

// strangeMASAs asks services elsewhere that do all kinds of things.
func strangeMASAs(t *testing.T, p *apptest.Platform) {
	globex := newFactory(t, "Globex", farAway)
	d, liar := newDomain(t, "Globex"), newDomain(t, "Globex")
	s := newService(t, d)
	madeBy(t, p, "globex", globex, s.url(), d.ca.Raw)
	ours := voucher.AuditLog{Events: []voucher.Event{{Date: time.Now(), DomainID: voucher.DomainID(p.Root), Nonce: "n", Assertion: voucher.Logged}}}
	theirs := voucher.AuditLog{Events: append(slices.Clone(ours.Events), voucher.Event{Date: time.Now(), DomainID: voucher.DomainID(liar.ca), Nonce: "n", Assertion: voucher.Logged})}
	cut := voucher.AuditLog{Events: ours.Events, Truncation: voucher.Truncation{Arbitrary: 1}}
	status := func(code int, text string) func(http.ResponseWriter, string, *voucher.SignedRequest) {
		return func(w http.ResponseWriter, _ string, _ *voucher.SignedRequest) { http.Error(w, text, code) }
	}
	noLog := func(w http.ResponseWriter, operation string, q *voucher.SignedRequest) {
		if operation == voucher.RequestAuditLog {
			http.NotFound(w, nil)
			return
		}
		s.gives(t, ours, nil)(w, operation, q)
	}
	logAt := func(place string) func(http.ResponseWriter, string, *voucher.SignedRequest) {
		return func(w http.ResponseWriter, operation string, q *voucher.SignedRequest) {
			switch operation {
			case voucher.RequestAuditLog:
				w.Header().Set("Location", place)
				w.WriteHeader(http.StatusCreated)
			case "/logs/1":
				s.gives(t, ours, nil)(w, voucher.RequestAuditLog, nil)
			default:
				s.gives(t, ours, nil)(w, operation, q)
			}
		}
	}
	byLiar := func(w http.ResponseWriter, operation string, q *voucher.SignedRequest) {
		(&service{d: liar}).gives(t, ours, nil)(w, operation, q)
	}
	over := func(between crypto.Signer) func(http.ResponseWriter, string, *voucher.SignedRequest) {
		return s.over(t, ours, between)
	}
	weak, err := rsa.GenerateKey(rand.Reader, 1024) // no key that anybody is certified for; large ones, which are what matters, take minutes to make
	must(t, err)
	known := map[string]string{registrar.HistoryTag: registrar.HistoryAccepted}
	for n, c := range []struct {
		name   string
		answer func(http.ResponseWriter, string, *voucher.SignedRequest)
		tags   map[string]string
		status int
		reason string
	}{
		{"good", s.gives(t, ours, nil), nil, 200, ""},
		{"voucher with another nonce", s.gives(t, ours, func(v *voucher.Voucher) { v.Nonce = []byte("another nonce") }), nil, 406, "has another nonce"},
		{"voucher for another device", s.gives(t, ours, func(v *voucher.Voucher) { v.SerialNumber = "GX-other" }), nil, 406, "is for the serial number"},
		{"voucher that has expired", s.gives(t, ours, func(v *voucher.Voucher) { v.ExpiresOn = time.Now().Add(-time.Hour) }), nil, 406, "has expired"},
		{"voucher for another domain", s.gives(t, ours, func(v *voucher.Voucher) { v.PinnedDomainCert = d.ca.Raw }), nil, 406, "pins no certificate of this platform"},
		{"voucher of another signer", byLiar, nil, 406, "its signature does not lead to"},
		{"voucher over an intermediate CA", over(apptest.Key(t)), nil, 200, ""},
		{"voucher over one with a key that nobody is certified for", over(weak), nil, 406, "its signature does not lead to"},
		{"no voucher", func(w http.ResponseWriter, _ string, _ *voucher.SignedRequest) {
			w.Header().Set("Content-Type", voucher.MediaType)
		}, nil, 406, "cannot be read"},
		{"another type", func(w http.ResponseWriter, _ string, _ *voucher.SignedRequest) {
			w.Header().Set("Content-Type", "text/html")
		}, nil, 406, "something else than"},
		{"another owner", s.gives(t, theirs, nil), nil, 406, "somebody else got a voucher"},
		{"another owner who is known", s.gives(t, theirs, nil), known, 200, ""},
		{"log with gaps", s.gives(t, cut, nil), nil, 406, "is not complete"},
		{"no log", noLog, nil, 406, "does not say who else has vouchers"},
		{"log at another path", logAt("/logs/1"), nil, 200, ""},
		{"log at another service", logAt("https://127.0.0.1/logs/1"), nil, 406, "does not say who else has vouchers"},
		{"no log, accepted", noLog, known, 200, ""},
		{"unknown there", status(404, "no such device"), nil, 404, "no such device"},
		{"forbidden there", status(403, "not yours\x1b[2J"), nil, 403, "not yours [2J"},
		{"not acceptable there", status(406, ""), nil, 406, "answered with 406"},
		{"redirection", status(302, ""), nil, 406, "answered with 302"},
		{"broken there", status(500, ""), nil, 503, "answered with 500"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s.set(c.answer)
			serial := fmt.Sprintf("GX-%d", n)
			expected(t, p, "globex", serial, c.tags)
			n := arrive(t, p, globex.device(serial, nil))
			r := n.voucher(n.request(nil))
			if r.StatusCode != c.status || c.status != 200 && !strings.Contains(string(r.Text), c.reason) {
				t.Errorf("%s, want %d and %q", r, c.status, c.reason)
			}
			if (r.StatusCode == 503) != (r.Header.Get("Retry-After") != "") {
				t.Errorf("status %d, Retry-After %q", r.StatusCode, r.Header.Get("Retry-After"))
			}
		})
	}
	t.Run("slow", func(t *testing.T) {
		ready := make(chan struct{})
		var asked [][]byte
		s.set(func(w http.ResponseWriter, operation string, q *voucher.SignedRequest) {
			asked = append(asked, q.Raw)
			<-ready
			s.gives(t, ours, nil)(w, operation, q)
		})
		expected(t, p, "globex", "GX-slow", nil)
		n := arrive(t, p, globex.device("GX-slow", nil))
		request := n.request(nil)
		if r := n.post(voucher.RequestVoucher, voucher.MediaType, request); r.StatusCode != 202 || r.Header.Get("Retry-After") == "" {
			t.Fatalf("while the service thinks: %s", r)
		}
		close(ready)
		if r := n.voucher(request); r.StatusCode != 200 {
			t.Errorf("afterwards: %s", r)
		}
		if len(asked) != 2 || !bytes.Equal(asked[0], asked[1]) {
			t.Errorf("the service was asked %d times, want once for the voucher and once for the log, by the same request", len(asked))
		}
	})
	t.Run("put off", func(t *testing.T) {
		var first []byte
		s.set(func(w http.ResponseWriter, _ string, q *voucher.SignedRequest) {
			first = q.Raw
			w.Header().Set("Retry-After", "120")
			w.WriteHeader(http.StatusAccepted)
		})
		expected(t, p, "globex", "GX-later", nil)
		n := arrive(t, p, globex.device("GX-later", nil))
		request := n.request(nil)
		if r := n.post(voucher.RequestVoucher, voucher.MediaType, request); r.StatusCode != 202 || r.Header.Get("Retry-After") != "120" {
			t.Fatalf("the service wants to be asked later: %s, Retry-After %q", r, r.Header.Get("Retry-After"))
		}
		s.set(func(w http.ResponseWriter, operation string, q *voucher.SignedRequest) {
			if !bytes.Equal(first, q.Raw) {
				t.Error("it is asked again by another request")
			}
			s.gives(t, ours, nil)(w, operation, q)
		})
		p.Clock.Move(3 * time.Minute)
		if r := n.voucher(request); r.StatusCode != 200 {
			t.Errorf("afterwards: %s", r)
		}
	})
	t.Run("not believed", func(t *testing.T) {
		_, err := p.Makers.ChangeMASA(t.Context(), apptest.Operator(), "globex", s.url(), [][]byte{liar.ca.Raw})
		must(t, err)
		expected(t, p, "globex", "GX-untrue", nil)
		n := arrive(t, p, globex.device("GX-untrue", nil))
		if r := n.voucher(n.request(nil)); r.StatusCode != 503 || !strings.Contains(string(r.Text), "is not believed") {
			t.Errorf("a service whose certificate leads elsewhere: %s", r)
		}
	})
	t.Run("named by the certificate", func(t *testing.T) {
		_, err := p.Makers.ChangeMASA(t.Context(), apptest.Operator(), "globex", maker.IDevIDMASA, [][]byte{d.ca.Raw})
		must(t, err)
		for serial, c := range map[string]struct{ text, reason string }{
			"GX-none": {"", "does not say where vouchers for it are given out"},
			"GX-here": {strings.TrimPrefix(s.url(), "https://"), "has no public address"},
		} {
			expected(t, p, "globex", serial, nil)
			n := arrive(t, p, globex.device(serial, func(x *x509.Certificate) {
				if c.text != "" {
					x.ExtraExtensions = append(x.ExtraExtensions, masaURL(t, c.text))
				}
			}))
			if r := n.voucher(n.request(nil)); r.StatusCode != 403 || !strings.Contains(string(r.Text), c.reason) {
				t.Errorf("%s: %s", serial, r)
			}
		}
	})
}

// TestRegistrarAndMASA has one platform bring in a device whose vouchers another platform gives out, the manufacturer's.
func TestRegistrarAndMASA(t *testing.T) {
	p, theirs := apptest.Start(t, nil), withMASA(t)
	acme := newFactory(t, "ACME", farAway)
	madeBy(t, theirs, "acme", acme, maker.OwnMASA)
	expected(t, theirs, "acme", "AC-1", nil)
	_, err := theirs.MASA.AddRegistrar(t.Context(), apptest.Operator(), masa.Spec{Name: "owner", Anchors: [][]byte{p.Root.Raw}})
	must(t, err)
	madeBy(t, p, "acme", acme, strings.Replace(theirs.Addresses().MASA, "127.0.0.1", "localhost", 1), theirs.Root.Raw)
	d := expected(t, p, "acme", "AC-1", nil)
	opened(t, p)
	n := arrive(t, p, acme.device("AC-1", nil))
	r := n.voucher(n.request(nil))
	if r.StatusCode != http.StatusOK {
		t.Fatalf("asking for a voucher: %s", r)
	}
	v, err := voucher.ParseVoucher(r.Text)
	must(t, err)
	if !bytes.Equal(v.PinnedDomainCert, p.Root.Raw) || v.SerialNumber != "AC-1" {
		t.Errorf("the voucher: %+v", v.Voucher)
	}
	if e := recorded(t, p, "registrar.voucher", d.ID); e.Detail["log"] != "1" || !strings.HasPrefix(e.Detail["masa"], "localhost:") {
		t.Errorf("in the record: %v", e.Detail)
	}
	issued, err := theirs.MASA.Vouchers(t.Context(), access.System("test"), device.Product{Maker: "acme", Serial: "AC-1"})
	must(t, err)
	if len(issued) != 1 || issued[0].Registrar != "owner" {
		t.Errorf("what the manufacturer has in its log: %+v", issued)
	}

	// An installation of before has no such profile.
	must(t, os.Remove(filepath.Join(p.Config.ProfileDir(), "registrar.yaml")))
	p.Restart(t)
	if shown := arrive(t, p, nil).shown; registrar.IsRegistrar(shown) {
		t.Error("without the profile a registrar's certificate is shown")
	}
	if _, err := p.Makers.ChangeMASA(t.Context(), apptest.Operator(), "acme", maker.OwnMASA, nil); !errs.Is(err, errs.Conflict) || !strings.Contains(errs.Public(err), "registrar.yaml") {
		t.Errorf("a MASA without the profile: %v", err)
	}
	n = arrive(t, p, acme.device("AC-1", nil))
	if r := n.voucher(n.request(nil)); r.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("asking for a voucher without the profile: %s", r)
	}
}
