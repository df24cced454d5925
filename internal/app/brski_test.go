package app_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"mooring/agent"
	"mooring/agent/est"
	"mooring/internal/app/apptest"
	"mooring/internal/core/audit"
	"mooring/internal/core/device"
	"mooring/internal/core/maker"
	"mooring/internal/core/masa"
	"mooring/internal/core/registrar"
	"mooring/internal/core/revoke"
	"mooring/wire/cms"
	"mooring/wire/voucher"
)

// remoteMASA is a manufacturer's service elsewhere, which does what it is told.
type remoteMASA struct {
	url  string
	cert *x509.Certificate // of the service, which signs vouchers as well
	key  crypto.Signer

	mu      sync.Mutex // guards what follows
	asked   [][]byte   // requests for vouchers, as they came
	by      *x509.Certificate
	answers []http.HandlerFunc // to the next requests
	bend    func(*voucher.Voucher)
	signer  *tls.Certificate // instead of the service's own
	domains [][]byte         // others, in the log
}

func newRemoteMASA(t *testing.T) *remoteMASA {
	t.Helper()
	d, key := newDomain(t, "MASA"), apptest.Key(t)
	m := &remoteMASA{key: key}
	m.cert = d.sign(&x509.Certificate{Subject: pkix.Name{CommonName: "masa.test"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, KeyUsage: x509.KeyUsageDigitalSignature}, d.ca, key)
	server := httptest.NewUnstartedServer(m)
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.TLS = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{m.cert.Raw}, PrivateKey: key}}, ClientAuth: tls.RequireAnyClientCert}
	server.StartTLS()
	t.Cleanup(server.Close)
	m.url = server.URL + "/pumps"
	return m
}

// set changes what the service does from now on: nothing but what change says.
func (m *remoteMASA) set(change func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.asked, m.by, m.answers, m.bend, m.signer, m.domains = nil, nil, nil, nil, nil, nil
	if change != nil {
		change()
	}
}

// heard returns the requests for vouchers since set, and who showed himself with the last one.
func (m *remoteMASA) heard() (asked [][]byte, by *x509.Certificate) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.asked), m.by
}

// ServeHTTP answers a registrar.
func (m *remoteMASA) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	request, parsed := voucher.ParseRequest(body)
	if err != nil || parsed != nil {
		http.Error(w, fmt.Sprint(err, parsed), http.StatusBadRequest)
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	pinned := request.Chain[len(request.Chain)-1]
	switch r.URL.Path {
	case "/pumps/" + voucher.RequestVoucher:
		m.asked, m.by = append(m.asked, body), r.TLS.PeerCertificates[0]
		if len(m.answers) > 0 {
			answer := m.answers[0]
			m.answers = m.answers[1:]
			answer(w, r)
			return
		}
		v := voucher.Voucher{CreatedOn: time.Now(), Assertion: voucher.Logged, SerialNumber: request.SerialNumber, IDevIDIssuer: request.IDevIDIssuer, Nonce: request.Nonce, PinnedDomainCert: pinned.Raw}
		if m.bend != nil {
			m.bend(&v)
		}
		cert, key := m.cert, m.key
		if m.signer != nil {
			cert, key = m.signer.Leaf, m.signer.PrivateKey.(crypto.Signer)
		}
		message, err := v.Sign(key, cert, nil, rand.Reader)
		if err != nil {
			panic(err) // the test asks for what is none
		}
		w.Header().Set("Content-Type", voucher.MediaType)
		_, _ = w.Write(message) // a registrar that is gone is the test's business
	case "/pumps/" + voucher.RequestAuditLog:
		var l voucher.AuditLog
		for _, domain := range append(m.domains, voucher.DomainID(pinned)) {
			l.Events = append(l.Events, voucher.Event{Date: time.Now(), DomainID: domain, Assertion: voucher.Logged})
		}
		text, err := l.Encode()
		if err != nil {
			panic(err)
		}
		w.Header().Set("Content-Type", voucher.StatusType)
		_, _ = w.Write(text)
	default:
		http.NotFound(w, r)
	}
}

// homeNet is a platform with manufacturers whose devices come in by vouchers: acme's by the platform itself, globex' by a service elsewhere.
type homeNet struct {
	*apptest.Platform
	t            *testing.T
	acme, globex *factory
	remote       *remoteMASA
	n            int
}

func newHomeNet(t *testing.T) *homeNet {
	t.Helper()
	f := &homeNet{Platform: withMASA(t), t: t, acme: newFactory(t, "ACME", farAway), globex: newFactory(t, "Globex", farAway), remote: newRemoteMASA(t)}
	madeHere(t, f.Platform, "acme", f.acme)
	_, err := f.Makers.Add(t.Context(), apptest.Operator(), maker.Spec{Name: "globex", Anchors: [][]byte{f.globex.root.Raw}, MASA: f.remote.url, Trusted: [][]byte{f.remote.cert.Raw}})
	must(t, err)
	f.awaitRegistrar()
	return f
}

// awaitRegistrar waits until the EST listener shows the registrar's certificate.
func (f *homeNet) awaitRegistrar() {
	f.t.Helper()
	for range 200 {
		if conn := f.connect(f.t, nil); registrar.IsRegistrar(conn.shown) {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	f.t.Fatal("the registrar gets no certificate")
}

// pledgeConn is a device that is connected and believes nobody yet.
type pledgeConn struct {
	*apptest.Conn
	t      *testing.T
	idevid *tls.Certificate
	shown  *x509.Certificate
}

func (f *homeNet) connect(t *testing.T, idevid *tls.Certificate) *pledgeConn {
	t.Helper()
	c := f.TLS(idevid)
	c.InsecureSkipVerify = true
	conn := f.Dial(t, c)
	return &pledgeConn{Conn: conn, t: t, idevid: idevid, shown: conn.ConnectionState().PeerCertificates[0]}
}

// listed makes a device and puts it on the ownership list.
func (f *homeNet) listed(t *testing.T, of string, by *factory) (device.Device, *tls.Certificate) {
	t.Helper()
	f.n++
	serial := fmt.Sprintf("S-%d", f.n)
	return product(f.Platform, t, of, serial, ""), by.device(serial, nil)
}

// pledgeConn is a listed device that is connected.
func (f *homeNet) pledgeConn(t *testing.T, of string, by *factory) *pledgeConn {
	t.Helper()
	_, idevid := f.listed(t, of, by)
	return f.connect(t, idevid)
}

// request is what the device signs, which change may bend.
func (n *pledgeConn) request(change func(*voucher.Request)) []byte {
	n.t.Helper()
	q := voucher.Request{CreatedOn: time.Now(), Assertion: voucher.Proximity, SerialNumber: n.idevid.Leaf.Subject.SerialNumber, Nonce: make([]byte, 16), ProximityRegistrarCert: n.shown.Raw}
	_, err := rand.Read(q.Nonce)
	must(n.t, err)
	if change != nil {
		change(&q)
	}
	line, err := x509.ParseCertificate(n.idevid.Certificate[1])
	must(n.t, err)
	message, err := q.Sign(n.idevid.PrivateKey.(crypto.Signer), n.idevid.Leaf, []*x509.Certificate{line}, rand.Reader)
	must(n.t, err)
	return message
}

// ask asks for a voucher.
func (n *pledgeConn) ask(request []byte, header ...string) apptest.Reply {
	n.t.Helper()
	return n.Send(n.t, apptest.Call{Method: http.MethodPost, Path: voucher.WellKnown + voucher.RequestVoucher, Body: request, Header: append([]string{"Content-Type: " + voucher.MediaType, "Accept: " + voucher.MediaType}, header...)})
}

// voucher asks until there is one.
func (n *pledgeConn) voucher(request []byte) *voucher.SignedVoucher {
	n.t.Helper()
	r := n.ask(request)
	for r.StatusCode == http.StatusAccepted { // a busy machine
		time.Sleep(100 * time.Millisecond)
		r = n.ask(request)
	}
	if r.StatusCode != http.StatusOK || r.Header.Get("Content-Type") != voucher.MediaType {
		n.t.Fatalf("got %s of type %q, want a voucher", r, r.Header.Get("Content-Type"))
	}
	v, err := voucher.ParseVoucher(r.Text)
	must(n.t, err)
	return v
}

// refused wants an answer other than a voucher.
func (n *pledgeConn) refused(request []byte, status int, text string, header ...string) apptest.Reply {
	n.t.Helper()
	r := n.ask(request, header...)
	for r.StatusCode == http.StatusAccepted && status != http.StatusAccepted {
		time.Sleep(100 * time.Millisecond)
		r = n.ask(request, header...)
	}
	if r.StatusCode != status || !strings.Contains(string(r.Text), text) {
		n.t.Errorf("got %s, want %d with %q", r, status, text)
	}
	return r
}

// tell sends a report.
func (n *pledgeConn) tell(operation, report string, header ...string) apptest.Reply {
	n.t.Helper()
	return n.Send(n.t, apptest.Call{Path: voucher.WellKnown + operation, Body: []byte(report), Header: append([]string{"Content-Type: application/json"}, header...)})
}

// recorded returns the entries of an action about a device.
func (f *homeNet) recorded(t *testing.T, action string, id device.ID) (found []audit.Indexed) {
	t.Helper()
	for _, e := range f.Record(t) {
		if e.Action == action && e.Device == id.String() {
			found = append(found, e)
		}
	}
	return found
}

// pledge enrols by our agent, which believes vouchers that lead to anchor.
func (f *homeNet) pledge(t *testing.T, idevid *tls.Certificate, anchor *x509.Certificate) error {
	t.Helper()
	a, err := agent.Create(agent.Options{Dir: filepath.Join(t.TempDir(), "agent"), Now: f.Clock.Now, Sleep: func(_ context.Context, d time.Duration) error {
		f.Clock.Move(d)
		return nil
	}}, agent.Config{Server: f.Addresses().EST, Name: idevid.Leaf.Subject.SerialNumber, Nameless: true, CMCRA: true})
	must(t, err)
	first := agent.First{MASA: []*x509.Certificate{anchor}}
	first.CertFile, first.KeyFile = asFiles(t, *idevid)
	_, err = a.Enrol(t.Context(), first)
	return err
}

// TestBRSKI has a row for each case of the acceptance list, named by it.
func TestBRSKI(t *testing.T) {
	f := newHomeNet(t)
	vouchers, err := f.CA.Issuer("vouchers")
	must(t, err)
	anchor := vouchers.Certificate()

	t.Run("provisional TLS pinned later", func(t *testing.T) {
		d, idevid := f.listed(t, "acme", f.acme)
		must(t, f.pledge(t, idevid, anchor))
		got := f.Load(t, d.ID)
		if slot, ok := got.Slot("operational"); !ok || len(slot.Serial) == 0 {
			t.Errorf("the device has no certificate: %+v", got.Slots)
		}
		for action, want := range map[string]map[string]string{"registrar.voucher": {"manufacturer": "acme", "assertion": "proximity"}, "registrar.status": {"ok": "true", "certificate": "birth"}, "registrar.enrolled": {"ok": "true", "certificate": "operational"}} {
			entries := f.recorded(t, action, d.ID)
			if len(entries) != 1 {
				t.Errorf("%s stands in the record %d times, want once", action, len(entries))
				continue
			}
			for name, value := range want {
				if got := entries[0].Detail[name]; got != value {
					t.Errorf("%s: %s is %q, want %q", action, name, got, value)
				}
			}
		}
		other, idevid := f.listed(t, "acme", f.acme)
		if err := f.pledge(t, idevid, f.remote.cert); err == nil || !strings.Contains(err.Error(), "not signed by the service") {
			t.Errorf("a device of another manufacturer: got %v", err)
		}
		if e := f.recorded(t, "registrar.status", other.ID); len(e) != 1 || e[0].Detail["ok"] != "false" || !strings.Contains(e[0].Detail["reason"], "not signed by the service") {
			t.Errorf("what the device said stands in the record as %+v", e)
		}
		if len(f.recorded(t, "cert.issue", other.ID)) > 0 {
			t.Error("it enrolled all the same")
		}
	})

	t.Run("nonce/nonceless", func(t *testing.T) {
		n := f.pledgeConn(t, "acme", f.acme)
		nonce := bytes.Repeat([]byte{7}, 32)
		if v := n.voucher(n.request(func(q *voucher.Request) { q.Nonce = nonce })); !bytes.Equal(v.Nonce, nonce) || !v.ExpiresOn.IsZero() {
			t.Errorf("got %+v, want the nonce and no end", v.Voucher)
		}
		n.refused(n.request(func(q *voucher.Request) { q.Nonce = nil }), http.StatusBadRequest, "no nonce")
		far := newDomain(t, "Far")
		_, err := f.MASA.AddRegistrar(t.Context(), apptest.Operator(), masa.Spec{Name: "far", Offline: true, Anchors: [][]byte{far.ca.Raw}})
		must(t, err)
		_, idevid := f.listed(t, "acme", f.acme)
		without := far.asks(idevid, idevid.Leaf.Subject.SerialNumber, nil, func(q *voucher.Request) { q.Nonce, q.ExpiresOn = nil, time.Now().Add(time.Hour) })
		if r := post(t, f.Platform, far.tls(), voucher.RequestVoucher, without); r.StatusCode != http.StatusOK {
			t.Errorf("without a nonce, for a registrar that may: %s", r)
		} else if v, err := voucher.ParseVoucher(r.Text); err != nil || v.Nonce != nil || v.ExpiresOn.IsZero() {
			t.Errorf("got %+v, %v, want no nonce and an end", v, err)
		}
		if r := post(t, f.Platform, nil, voucher.RequestVoucher, without); r.StatusCode != http.StatusForbidden {
			t.Errorf("without a nonce, for a stranger: %s", r)
		}
	})

	t.Run("assertions proximity/verified/logged", func(t *testing.T) {
		n := f.pledgeConn(t, "acme", f.acme)
		if v := n.voucher(n.request(nil)); v.Assertion != voucher.Proximity {
			t.Errorf("signed by the device: got %s", v.Assertion)
		}
		n.refused(n.request(func(q *voucher.Request) { q.Assertion = voucher.Logged }), http.StatusUnauthorized, "")
		for group, want := range map[string]voucher.Assertion{"": voucher.Logged, "sold/here": voucher.Verified} {
			buyer := newDomain(t, "Buyer "+group)
			_, err := f.MASA.AddRegistrar(t.Context(), apptest.Operator(), masa.Spec{Name: "buyer" + fmt.Sprint(len(group)), Group: group, Anchors: [][]byte{buyer.ca.Raw}})
			must(t, err)
			d := product(f.Platform, t, "acme", "B-"+fmt.Sprint(len(group)), group)
			r := post(t, f.Platform, buyer.tls(), voucher.RequestVoucher, buyer.asks(nil, d.Product.Serial, nil, nil))
			if v, err := voucher.ParseVoucher(r.Text); err != nil || v.Assertion != want {
				t.Errorf("not signed by the device, of the group %q: got %v, want %s", group, r, want)
			}
		}
	})

	t.Run("idevid-issuer and serial match", func(t *testing.T) {
		n := f.pledgeConn(t, "acme", f.acme)
		own := voucher.IDevIDIssuer(n.idevid.Leaf)
		if v := n.voucher(n.request(func(q *voucher.Request) { q.IDevIDIssuer = own })); !bytes.Equal(v.IDevIDIssuer, own) || v.SerialNumber != n.idevid.Leaf.Subject.SerialNumber {
			t.Errorf("got %+v", v.Voucher)
		}
		n.refused(n.request(func(q *voucher.Request) { q.IDevIDIssuer = []byte{1, 2, 3} }), http.StatusForbidden, "another issuer")
		n.refused(n.request(func(q *voucher.Request) { q.SerialNumber = "S-1" }), http.StatusForbidden, "serial number")
		for name, bend := range map[string]func(*voucher.Voucher){
			"serial number": func(v *voucher.Voucher) { v.SerialNumber = "S-1" }, "another issuer": func(v *voucher.Voucher) { v.IDevIDIssuer = []byte{1} },
		} {
			f.remote.set(func() { f.remote.bend = bend })
			n := f.pledgeConn(t, "globex", f.globex)
			n.refused(n.request(nil), http.StatusNotAcceptable, name)
		}
	})

	t.Run("proximity certificate mismatch 401", func(t *testing.T) {
		for name, shown := range map[string][]byte{"another": newDomain(t, "Between").ra.Raw, "none": nil, "the root": f.Root.Raw} {
			n := f.pledgeConn(t, "acme", f.acme)
			r := n.refused(n.request(func(q *voucher.Request) { q.ProximityRegistrarCert = shown }), http.StatusUnauthorized, "shown the certificate of this server")
			if !r.Close {
				t.Errorf("%s: the connection is not closed", name)
			}
		}
	})

	t.Run("pinned-domain-cert", func(t *testing.T) {
		n := f.pledgeConn(t, "acme", f.acme)
		v := n.voucher(n.request(nil))
		pinned, err := x509.ParseCertificate(v.PinnedDomainCert)
		must(t, err)
		roots, between := x509.NewCertPool(), x509.NewCertPool()
		roots.AddCert(pinned)
		for _, c := range n.ConnectionState().PeerCertificates[1:] {
			between.AddCert(c)
		}
		if _, err := n.shown.Verify(x509.VerifyOptions{Roots: roots, Intermediates: between, DNSName: "localhost"}); err != nil {
			t.Errorf("the connection does not lead to what is pinned: %v", err)
		}
		f.remote.set(func() {
			f.remote.bend = func(v *voucher.Voucher) { v.PinnedDomainCert = newDomain(t, "Elsewhere").ca.Raw }
		})
		m := f.pledgeConn(t, "globex", f.globex)
		m.refused(m.request(nil), http.StatusNotAcceptable, "pins no certificate of this platform")
	})

	t.Run("prior-signed request", func(t *testing.T) {
		f.remote.set(nil)
		n := f.pledgeConn(t, "globex", f.globex)
		request := n.request(nil)
		n.voucher(request)
		asked, by := f.remote.heard()
		q, err := voucher.ParseRequest(asked[0])
		must(t, err)
		prior, err := voucher.ParseRequest(request)
		must(t, err)
		if !bytes.Equal(q.PriorSigned, request) || !bytes.Equal(q.Nonce, prior.Nonce) || q.ProximityRegistrarCert != nil || !q.Chain[0].Equal(n.shown) || !by.Equal(n.shown) ||
			!registrar.IsRegistrar(q.Chain[0]) || !q.Chain[len(q.Chain)-1].Equal(f.Root) || !bytes.Equal(q.IDevIDIssuer, n.idevid.Leaf.AuthorityKeyId) {
			t.Errorf("the manufacturer was asked %+v by %s", q.Request, by.Subject)
		}
		n.refused(n.request(func(q *voucher.Request) { q.ProximityRegistrarCert, q.PriorSigned = nil, request }), http.StatusBadRequest, "holds another one")
		thief := *n
		thief.idevid = f.globex.device(n.idevid.Leaf.Subject.SerialNumber, nil)
		n.refused(thief.request(nil), http.StatusForbidden, "not signed by the certificate of the connection")
	})

	t.Run("MASA refuses unknown serial", func(t *testing.T) {
		buyer := newDomain(t, "Hopeful")
		_, err := f.MASA.AddRegistrar(t.Context(), apptest.Operator(), masa.Spec{Name: "hopeful", Anchors: [][]byte{buyer.ca.Raw}})
		must(t, err)
		if r := post(t, f.Platform, buyer.tls(), voucher.RequestVoucher, buyer.asksFor(f.acme.device("nobody's", nil))); r.StatusCode != http.StatusNotFound {
			t.Errorf("got %s", r)
		}
	})

	t.Run("MASA refuses signer without cmcRA", func(t *testing.T) {
		plain := newDomain(t, "Plain")
		plain.ra = plain.registrar(plain.raKey, func(c *x509.Certificate) { c.UnknownExtKeyUsage = nil })
		_, err := f.MASA.AddRegistrar(t.Context(), apptest.Operator(), masa.Spec{Name: "plain", Anchors: [][]byte{plain.ca.Raw}})
		must(t, err)
		_, idevid := f.listed(t, "acme", f.acme)
		if r := post(t, f.Platform, plain.tls(), voucher.RequestVoucher, plain.asksFor(idevid)); r.StatusCode != http.StatusForbidden || !strings.Contains(string(r.Text), "cmcRA") {
			t.Errorf("got %s", r)
		}
	})

	t.Run("logs every voucher, audit log", func(t *testing.T) {
		d, idevid := f.listed(t, "acme", f.acme)
		for range 2 {
			n := f.connect(t, idevid)
			n.voucher(n.request(nil))
		}
		if all, err := f.MASA.Vouchers(t.Context(), apptest.Operator(), d.Product); err != nil || len(all) != 2 {
			t.Errorf("the log has %d vouchers, %v; want 2", len(all), err)
		}
		if e := f.recorded(t, "masa.voucher", d.ID); len(e) != 2 {
			t.Errorf("the record has %d, want 2", len(e))
		}
		f.remote.set(func() { f.remote.domains = [][]byte{{1, 2, 3}} })
		had, idevid := f.listed(t, "globex", f.globex)
		n := f.connect(t, idevid)
		n.refused(n.request(nil), http.StatusNotAcceptable, "somebody else got a voucher")
		tags := map[string]string{registrar.HistoryTag: registrar.HistoryAccepted}
		_, err := f.Devices.Change(t.Context(), apptest.Operator(), had.ID, device.Change{Tags: &tags})
		must(t, err)
		n.voucher(n.request(nil))
	})

	t.Run("eContentType", func(t *testing.T) {
		n := f.pledgeConn(t, "acme", f.acme)
		whole, err := cms.ParseSigned(n.request(nil))
		must(t, err)
		for name, body := range map[string][]byte{"JSON alone": whole.Content, "nothing": nil} {
			if r := n.ask(body); r.StatusCode != http.StatusBadRequest {
				t.Errorf("%s: got %s", name, r)
			}
		}
		data := cms.SignInput{ContentType: cms.OIDData, Content: whole.Content, Signer: n.idevid.PrivateKey.(crypto.Signer), Certificate: n.idevid.Leaf, Chain: n.idevid.Certificate[1:], Rand: rand.Reader}
		message, err := cms.Sign(data)
		must(t, err)
		n.refused(message, http.StatusBadRequest, "the type of its content")
		data.ContentType = voucher.OID
		message, err = cms.Sign(data)
		must(t, err)
		n.voucher(message)
	})

	t.Run("voucher_status and enrollstatus", func(t *testing.T) {
		d, idevid := f.listed(t, "acme", f.acme)
		n := f.connect(t, idevid)
		for operation, action := range map[string]string{voucher.VoucherStatus: "registrar.status", voucher.EnrollStatus: "registrar.enrolled"} {
			for report, status := range map[string]int{
				`{"version":1,"status":true}`: 200, `{"version":"1","status":true}`: 400, `{"status":true}`: 400, `{"version":1}`: 400, `{"version":1,"status":"yes"}`: 400, `[]`: 400, "": 400,
				`{"version":1,"status":false,"reason":"no \"good\" voucher","reason-context":{"more":"words"},"extra":1}`: 200,
			} {
				if r := n.tell(operation, report); r.StatusCode != status {
					t.Errorf("%s %s: got %s, want %d", operation, report, r, status)
				}
			}
			if r := n.tell(operation, `{"version":1,"status":true}`, "Content-Type: text/plain"); r.StatusCode != http.StatusUnsupportedMediaType {
				t.Errorf("%s as text: got %s", operation, r)
			}
			entries := f.recorded(t, action, d.ID)
			failed := slices.IndexFunc(entries, func(e audit.Indexed) bool { return e.Detail["ok"] == "false" })
			if len(entries) != 2 || failed < 0 || entries[failed].Detail["reason"] != `no "…" voucher` {
				t.Errorf("%s stands in the record as %+v", action, entries)
			}
			stranger := f.connect(t, newFactory(t, "Nobody", farAway).device("1", nil))
			if r := stranger.tell(operation, `{"version":1,"status":true}`); r.StatusCode != http.StatusNotFound {
				t.Errorf("%s of a stranger: got %s", operation, r)
			}
		}
	})

	t.Run("403/404/406/415", func(t *testing.T) {
		d, idevid := f.listed(t, "acme", f.acme)
		_, err := f.Revoke.Device(t.Context(), apptest.Operator(), d.ID, device.Suspend, revoke.Unspecified)
		must(t, err)
		suspended := f.connect(t, idevid)
		suspended.refused(suspended.request(nil), http.StatusForbidden, "suspended")
		unlisted := f.connect(t, f.acme.device("unlisted", nil))
		unlisted.refused(unlisted.request(nil), http.StatusNotFound, "on no ownership list")
		stranger := f.connect(t, newFactory(t, "Nobody", farAway).device("1", nil))
		stranger.refused(stranger.request(nil), http.StatusNotFound, "no manufacturer")
		anonymous := f.connect(t, nil)
		anonymous.refused(unlisted.request(nil), http.StatusForbidden, "no client certificate")
		n := f.pledgeConn(t, "acme", f.acme)
		n.refused(n.request(nil), http.StatusNotAcceptable, "application/voucher-cms+json", "Accept: application/voucher-cose+cbor")
		n.refused(n.request(nil), http.StatusUnsupportedMediaType, "application/voucher-cms+json", "Content-Type: application/json")
		for status, want := range map[int]int{http.StatusForbidden: http.StatusForbidden, http.StatusNotFound: http.StatusNotFound, http.StatusConflict: http.StatusNotAcceptable} {
			f.remote.set(func() {
				f.remote.answers = []http.HandlerFunc{func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "because", status) }}
			})
			n := f.pledgeConn(t, "globex", f.globex)
			n.refused(n.request(nil), want, "because")
		}
	})

	t.Run("202 then identical request", func(t *testing.T) {
		later := func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Retry-After", "1")
			w.WriteHeader(http.StatusAccepted)
		}
		f.remote.set(func() { f.remote.answers = []http.HandlerFunc{later} })
		_, idevid := f.listed(t, "globex", f.globex)
		n := f.connect(t, idevid)
		request := n.request(nil)
		r := n.refused(request, http.StatusAccepted, "")
		if wait := r.Header.Get("Retry-After"); wait == "" || wait == "0" {
			t.Errorf("the device is to come again after %q", wait)
		}
		f.Clock.Move(5 * time.Second)
		f.connect(t, idevid).voucher(request)
		if asked, _ := f.remote.heard(); len(asked) != 2 || !bytes.Equal(asked[0], asked[1]) {
			t.Errorf("the manufacturer was asked %d times, or not for the same", len(asked))
		}
		d, idevid := f.listed(t, "globex", f.globex)
		f.remote.set(func() { f.remote.answers = []http.HandlerFunc{later} })
		must(t, f.pledge(t, idevid, f.remote.cert))
		if len(f.recorded(t, "cert.issue", d.ID)) != 1 {
			t.Error("our agent did not wait for its voucher")
		}
	})

	t.Run("expired voucher", func(t *testing.T) {
		f.remote.set(func() {
			f.remote.bend = func(v *voucher.Voucher) { v.ExpiresOn = f.Clock.Now().Add(-time.Second) }
		})
		n := f.pledgeConn(t, "globex", f.globex)
		n.refused(n.request(nil), http.StatusNotAcceptable, "has expired")
	})

	t.Run("replay", func(t *testing.T) {
		d, idevid := f.listed(t, "acme", f.acme)
		n := f.connect(t, idevid)
		request := n.request(nil)
		first := n.voucher(request)
		if again := f.connect(t, idevid).voucher(request); !bytes.Equal(again.Raw, first.Raw) {
			t.Error("the same request got another voucher")
		}
		if all, err := f.MASA.Vouchers(t.Context(), apptest.Operator(), d.Product); err != nil || len(all) != 1 {
			t.Errorf("there are %d vouchers, %v; want one", len(all), err)
		}
		thief, _ := f.listed(t, "acme", f.acme)
		m := f.connect(t, f.acme.device(thief.Product.Serial, nil))
		m.refused(request, http.StatusForbidden, "not signed by the certificate of the connection")
		f.remote.set(func() {
			f.remote.bend = func(v *voucher.Voucher) { v.Nonce = bytes.Repeat([]byte{1}, 16) }
		})
		g := f.pledgeConn(t, "globex", f.globex)
		g.refused(g.request(nil), http.StatusNotAcceptable, "another nonce")
		f.remote.set(func() { f.remote.signer = f.acme.device("S-1", nil) })
		g = f.pledgeConn(t, "globex", f.globex)
		g.refused(g.request(nil), http.StatusNotAcceptable, "signature does not lead")
	})

	t.Run("IDevID lifetime ignored per manufacturer", func(t *testing.T) {
		over := func(c *x509.Certificate) {
			c.NotBefore, c.NotAfter = time.Now().Add(-1000*24*time.Hour), time.Now().Add(-time.Hour)
		}
		old := newFactory(t, "Old", time.Now().Add(-30*24*time.Hour))
		_, err := f.Makers.Add(t.Context(), apptest.Operator(), maker.Spec{Name: "old", Timeless: true, Anchors: [][]byte{old.root.Raw}, MASA: maker.OwnMASA})
		must(t, err)
		product(f.Platform, t, "old", "O-1", "")
		n := f.connect(t, old.device("O-1", over))
		n.voucher(n.request(nil))
		product(f.Platform, t, "acme", "O-2", "")
		m := f.connect(t, f.acme.device("O-2", over))
		m.refused(m.request(nil), http.StatusNotFound, "has expired")
	})
}

// TestNoBRSKI: a platform without manufacturers who have a MASA shows its ordinary certificate and gives no vouchers.
func TestNoBRSKI(t *testing.T) {
	p := apptest.Start(t, nil)
	f := &homeNet{Platform: p, t: t, acme: newFactory(t, "ACME", farAway)}
	_, err := p.Makers.Add(t.Context(), apptest.Operator(), maker.Spec{Name: "acme", Anchors: [][]byte{f.acme.root.Raw}})
	must(t, err)
	_, idevid := f.listed(t, "acme", f.acme)
	n := f.connect(t, idevid)
	if registrar.IsRegistrar(n.shown) {
		t.Error("the listener shows a registrar's certificate")
	}
	n.refused(n.request(nil), http.StatusForbidden, "nobody gives out vouchers")
	var refused *est.RefusedError
	if err := f.pledge(t, idevid, f.acme.root); !errors.As(err, &refused) || refused.Status != http.StatusForbidden {
		t.Errorf("our agent: got %v", err)
	}
}
