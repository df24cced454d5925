//go:build interop

package app_test

import (
	"archive/zip"
	"bytes"
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	agent "mooring/agent/v2x"
	"mooring/internal/app/apptest"
	"mooring/internal/base/conf"
	"mooring/internal/base/db"
	"mooring/internal/core/device"
	"mooring/internal/core/v2x/trust"
	"mooring/wire/butterfly"
	"mooring/wire/coer"
	"mooring/wire/its"
	"mooring/wire/spdu"
)

// exchange is what was sent and answered.
type exchange struct{ path, request, answer string }

// watcher records what goes between stations and authorities, and between authorities.
type watcher struct {
	mu  sync.Mutex
	all []exchange // guarded by mu
}

func (w *watcher) add(path string, request, answer []byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.all = append(w.all, exchange{path, string(request), string(answer)})
}

// RoundTrip is the network of a station.
func (w *watcher) RoundTrip(q *http.Request) (*http.Response, error) {
	var request []byte
	if q.Body != nil {
		var err error
		if request, err = io.ReadAll(q.Body); err != nil {
			return nil, err
		}
		q = q.Clone(q.Context())
		q.Body = io.NopCloser(bytes.NewReader(request))
	}
	a, err := http.DefaultTransport.RoundTrip(q)
	if err != nil {
		return nil, err
	}
	defer a.Body.Close()
	answer, err := io.ReadAll(a.Body)
	if err != nil {
		return nil, err
	}
	if signed := q.Header.Get("Ieee-1609.2.1-Authorization"); signed != "" {
		if request, err = base64.StdEncoding.DecodeString(signed); err != nil {
			return nil, err
		}
	}
	w.add(q.URL.Path, request, answer)
	a.Body = io.NopCloser(bytes.NewReader(answer))
	return a, nil
}

// between stands before an authority that others ask.
func (w *watcher) between(t *testing.T, to http.Handler) string {
	s := httptest.NewServer(http.HandlerFunc(func(out http.ResponseWriter, r *http.Request) {
		request, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		r.Body = io.NopCloser(bytes.NewReader(request))
		rec := httptest.NewRecorder()
		to.ServeHTTP(rec, r)
		w.add(r.URL.Path, request, rec.Body.Bytes())
		for k, v := range rec.Header() {
			out.Header()[k] = v
		}
		out.WriteHeader(rec.Code)
		_, _ = out.Write(rec.Body.Bytes())
	}))
	t.Cleanup(s.Close)
	return s.URL
}

// pile is messages for the dissector, and which contents of TS 102 941 are among them.
type pile struct {
	t       *testing.T
	names   []string
	octets  [][]byte
	seen    map[its.ManagementChoice]bool
	compact bool // an answer that is encrypted to the vehicle and not signed
	holders []spdu.Holder
}

// add takes a message, and all layers of it that can be opened with the keys of the authorities, or with that of the request.
func (l *pile) add(name string, b []byte, session *spdu.Session) *spdu.Session {
	l.t.Helper()
	d, err := its.ParseData(b, its.MaxTrustList)
	if err != nil {
		l.t.Errorf("%s: %v", name, err)
		return nil
	}
	if d.Content.Choice == its.ContentX509CertificateRequest {
		return nil // vehicles alone send it, and it came with an edition that Wireshark does not know yet
	}
	l.names, l.octets = append(l.names, name), append(l.octets, b)
	switch d.Content.Choice {
	case its.ContentEncrypted:
		return l.encrypted(name, d, session)
	case its.ContentSigned:
		p := &d.Content.SignedData.TbsData.Payload
		if p.Data == nil {
			return nil
		}
		inner, err := coer.Marshal(p.Data)
		must(l.t, err)
		l.add(name+", payload", inner, nil)
	case its.UnsecuredData:
		l.content(name, d.Content.Opaque)
	}
	return nil
}

func (l *pile) encrypted(name string, d *its.Ieee1609Dot2Data, session *spdu.Session) *spdu.Session {
	var inner *its.Ieee1609Dot2Data
	var err error
	if session != nil {
		inner, err = session.Open(d)
	} else {
		inner, session, err = spdu.Open(d, l.holders...)
	}
	if err != nil { // encrypted to the vehicle
		return session
	}
	b, err := coer.Marshal(inner)
	must(l.t, err)
	l.add(name+", decrypted", b, nil)
	return session
}

// content notes a content of TS 102 941, and takes the messages in it.
func (l *pile) content(name string, b []byte) {
	m, err := its.ParseManagement(b)
	if err != nil {
		return
	}
	l.seen[m.Content.Choice] = true
	inside := m.Content.Data
	if r := m.Content.AuthorizationRequest; r != nil {
		inside = r.EcSignature.Data
	}
	if r := m.Content.AuthorizationValidationRequest; r != nil {
		inside = r.EcSignature.Data
	}
	if inside == nil {
		return
	}
	b, err = coer.Marshal(inside)
	must(l.t, err)
	l.add(name+", inside", b, nil)
}

// certificate takes a certificate, as the signer of a message that is none.
func (l *pile) certificate(name string, x *its.Certificate) {
	l.t.Helper()
	b, err := coer.Marshal(x)
	must(l.t, err)
	head := []byte{0x03, 0x81, 0x00, 0x40, 0x03, 0x80, 0x01, 0x00, 0x00, 0x01, 0x23, 0x81, 0x01, 0x01}
	l.names, l.octets = append(l.names, name), append(l.octets, append(append(append(head, b...), 0x80, 0x80), make([]byte, 64)...))
}

// rows takes messages, or certificates, out of a table.
func (l *pile) rows(of *db.DB, name, sql string, certificates bool) {
	l.t.Helper()
	must(l.t, of.View(l.t.Context(), func(ctx context.Context, tx *db.Tx) error {
		return tx.Each(ctx, func(r db.Row) error {
			var b []byte
			if err := r.Scan(&b); err != nil {
				return err
			}
			if !certificates {
				l.add(name, b, nil)
				return nil
			}
			x, err := its.ParseCertificate(bytes.Clone(b))
			if err != nil {
				return err
			}
			l.certificate(name, x)
			return nil
		}, sql)
	}))
}

// dissect has tshark read all of them at once, and returns what it says of each.
func (l *pile) dissect() []string {
	l.t.Helper()
	dir := l.t.TempDir()
	var dump strings.Builder
	for _, b := range l.octets {
		for i := 0; i < len(b); i += 16 {
			fmt.Fprintf(&dump, "%06x % x\n", i, b[i:min(i+16, len(b))])
		}
		fmt.Fprintln(&dump)
	}
	text, capture := filepath.Join(dir, "text"), filepath.Join(dir, "capture")
	must(l.t, os.WriteFile(text, []byte(dump.String()), 0o600))
	if out, err := exec.Command("text2pcap", "-q", "-l", "147", text, capture).CombinedOutput(); err != nil {
		l.t.Fatalf("text2pcap: %v\n%s", err, out)
	}
	out, err := exec.Command("tshark", "-r", capture, "-V", "-o", `uat:user_dlts:"User 0 (DLT=147)","ieee1609dot2.data","0","","0",""`).Output() // warnings go elsewhere
	if err != nil {
		l.t.Fatalf("tshark: %v\n%s", err, out)
	}
	frames := regexp.MustCompile(`(?m)^Frame \d+:`).Split(string(out), -1)[1:]
	if len(frames) != len(l.octets) {
		l.t.Fatalf("tshark read %d messages, %d were written", len(frames), len(l.octets))
	}
	return frames
}

// watched is a platform whose messages are recorded, with what change makes of its configuration.
func watched(t *testing.T, change func(*conf.Butterfly)) (*v2xPlatform, *watcher) {
	w := &watcher{}
	validation, _ := balanced(t)
	issuing, _ := balanced(t)
	return startButterfly(t, 1, func(c *conf.Config) {
		withCPOC(t)(c)
		validation.add(t, c.V2XValidationURL())
		issuing.add(t, c.V2XAAURL())
		c.V2X.ValidationURL, c.V2X.AAURL = w.between(t, validation), w.between(t, issuing)
		if change != nil {
			change(&c.V2X.Butterfly)
		}
	}), w
}

// TestInteropV2X has Wireshark's dissector read every kind of message that stations and authorities send to each other, as they were sent: enrolment, tickets, questions, butterfly
// keys, trust lists, revocation lists, link certificates, certificates, CAM and DENM, and what is inside of those that are encrypted. It must find their parts, and nothing
// that is malformed or left over.
func TestInteropV2X(t *testing.T) {
	p, w := watched(t, nil)
	ctx, who := t.Context(), apptest.Operator()
	canonical, d := p.vehicle(t, "car-1")
	client, err := agent.New(agent.Config{Root: p.made.Certificate, DC: p.Addresses().V2XDC, Now: p.clock.Now, Transport: w})
	must(t, err)
	must(t, client.Update(ctx))
	ec, err := client.Enrol(ctx, "car-1", canonical)
	must(t, err)
	ec, err = client.Renew(ctx, ec)
	must(t, err)
	var last *agent.Ticket
	for _, o := range []agent.Order{{}, {WithoutProof: true}, {Open: true}, {Encryption: true}} {
		last, err = client.Ticket(ctx, ec, o)
		must(t, err)
	}
	c := car{client: client, ec: ec, device: d.ID}
	for _, v := range []butterfly.Variant{butterfly.Original, butterfly.Unified} {
		b := c.order(t, v)
		must(t, p.V2X.RA.Mix(ctx))
		c.fetch(t, b, b.First)
	}
	_, err = p.Devices.Move(ctx, who, d.ID, device.Suspend, "")
	must(t, err)
	if _, err := client.Ticket(ctx, ec, agent.Order{}); err == nil {
		t.Error("a suspended station has a ticket")
	}
	if _, err := client.Renew(ctx, ec); err == nil {
		t.Error("a suspended station has a credential")
	}

	talk := agent.NewTalk(agent.TalkOptions{Client: client, Changer: agent.NewChanger(one{last}, agent.Habit{}, p.clock.Now, 0)})
	l := &pile{t: t, seen: map[its.ManagementChoice]bool{}}
	// The enrolment authority asks for each ticket alone, as TS 102 941 has it; the authorization authority answers compact unified requests; and a request is signed with an X.509 certificate.
	strict, ws := watched(t, func(b *conf.Butterfly) { b.Strict = true })
	strict.butterflyThrough(t, ws, butterfly.Original, true)
	compact, wc := watched(t, func(b *conf.Butterfly) { b.Compact = true })
	compact.butterflyThrough(t, wc, butterfly.CompactUnified, false)
	cars := carsBy509(t, apptest.Start(t, nil), newECKey(t))
	w509 := &watcher{}
	signer := cars.x509Car(t, "car-1", "car").by
	by509, err := agent.New(agent.Config{Root: cars.made.Certificate, DC: cars.Addresses().V2XDC, Now: cars.clock.Now, Transport: w509})
	must(t, err)
	must(t, by509.Update(ctx))
	b509, err := by509.PrepareButterfly(signer, agent.ButterflyOrder{})
	must(t, err)
	must(t, by509.OrderButterfly(ctx, b509))
	for _, of := range []*v2xPlatform{p, strict, compact, cars} {
		for role, trusted := range map[trust.Role]*trust.Service{trust.EA: of.V2X.Trust, trust.AA: of.Tickets().Trust} {
			by, err := trusted.Credential(ctx, role)
			must(t, err)
			l.holders = append(l.holders, by.Holder)
		}
	}
	for _, name := range []string{"CAM with its ticket", "CAM by digest"} {
		b, err := talk.CAM([]byte{2, 2, 1})
		must(t, err)
		l.add(name, b, nil)
	}
	e := talk.Event()
	b, err := e.DENM([]byte{2, 1, 1}, its.ThreeDLocation{Latitude: 481_000_000, Longitude: 115_000_000})
	e.End()
	must(t, err)
	l.add("DENM", b, nil)

	// What follows roots and managers.
	_, err = p.V2X.Trust.CreateManager(ctx, who, "EU-TLM_L0")
	must(t, err)
	_, err = p.V2X.Trust.Admit(ctx, who, trust.Admission{Certificate: p.made.Certificate, URL: p.Addresses().V2XDC})
	must(t, err)
	p.clock.Move(time.Hour)
	root, err := p.V2X.Trust.RekeyRoot(ctx, who, "")
	must(t, err)
	_, err = p.V2X.Trust.Admit(ctx, who, trust.Admission{Certificate: root.Octets, URL: p.Addresses().V2XDC})
	must(t, err)
	_, err = p.V2X.Trust.RekeyManager(ctx, who, "EU-TLM_L0b")
	must(t, err)
	must(t, p.Tickets().Fetch(ctx))
	l.add("request of an authority", mustApply(t, p, trust.EA, "another"), nil)
	p.follow(t, trust.EA)
	aa := p.follow(t, trust.AA)
	must(t, p.V2X.Trust.Revoke(ctx, who, aa.ID))

	for _, w := range []*watcher{w, ws, wc, w509} {
		w.mu.Lock()
		all := w.all
		w.mu.Unlock()
		for _, x := range all {
			l.exchange(x)
		}
	}
	l.rows(p.DB, "list", `SELECT octets FROM v2x_list`, false)
	l.rows(p.DB, "link certificate", `SELECT octets FROM v2x_link`, false)
	l.rows(p.DB, "certificate of an authority", `SELECT cert FROM v2x_authority`, true)
	l.certificate("enrolment credential", ec.Certificate)
	l.certificate("ticket with a key for encryption", last.Certificate)
	for choice := its.EnrolmentRequest; choice <= its.ButterflyAtDownloadRequest; choice++ {
		if !l.seen[choice] {
			t.Errorf("content %d of TS 102 941 is not among the messages", choice)
		}
	}
	if !l.compact {
		t.Error("no compact unified answer is among the messages")
	}
	stopped := 0
	for i, text := range l.dissect() {
		// Wireshark stops at any chain length that is given: its own field for it has another type than its decoder. What comes before is read.
		if strings.Contains(text, "field ieee1609dot2.minChainLength is not of type") {
			stopped++
			continue
		}
		for _, bad := range []string{"Malformed", "not decoded", "Undecoded", "Trailer", "Dissector bug"} {
			if strings.Contains(text, bad) {
				t.Errorf("%s: %q in\n%s", l.names[i], bad, text)
			}
		}
		if !strings.Contains(text, "protocolVersion: 3") {
			t.Errorf("%s is not read:\n%s", l.names[i], text)
		}
	}
	t.Logf("%d messages were read, of which %d up to a fault of the dissector", len(l.octets), stopped)
	if stopped*2 > len(l.octets) {
		t.Errorf("of %d messages the dissector could not read %d", len(l.octets), stopped)
	}
}

// butterflyThrough gets a vehicle tickets by butterfly keys, over a network that is watched.
func (p *v2xPlatform) butterflyThrough(t *testing.T, w *watcher, v butterfly.Variant, plain bool) {
	t.Helper()
	c := p.car(t, "car-1")
	c.plain = plain
	var err error
	c.client, err = agent.New(agent.Config{Root: p.made.Certificate, DC: p.Addresses().V2XDC, Now: p.clock.Now, Transport: w})
	must(t, err)
	must(t, c.client.Update(t.Context()))
	b := c.order(t, v)
	must(t, p.V2X.RA.Mix(t.Context()))
	c.fetch(t, b, b.First)
}

// exchange takes a request and its answer, or the archive or list that is the answer.
func (l *pile) exchange(x exchange) {
	l.t.Helper()
	var session *spdu.Session
	if x.request != "" {
		session = l.add("request to "+x.path, []byte(x.request), nil)
	}
	switch {
	case x.answer == "" || strings.HasPrefix(x.path, "/getc"): // lists are taken from their table
	case strings.HasPrefix(x.answer, "PK"):
		z, err := zip.NewReader(strings.NewReader(x.answer), int64(len(x.answer)))
		must(l.t, err)
		for _, f := range z.File {
			r, err := f.Open()
			must(l.t, err)
			b, err := io.ReadAll(r)
			must(l.t, err)
			if d, err := its.ParseData(b, its.MaxRequest); err == nil { // others are no messages of IEEE 1609.2 by themselves
				l.add("archive, "+f.Name, b, nil)
				l.compact = l.compact || d.Content.Choice == its.ContentEncrypted
			}
		}
	default:
		if _, err := its.ParseData([]byte(x.answer), its.MaxRequest); err != nil { // a refusal in words
			return
		}
		l.add("answer of "+x.path, []byte(x.answer), session)
	}
}

// one is a stock of one ticket.
type one struct{ ticket *agent.Ticket }

// Choose implements agent.Stock.
func (o one) Choose() (*agent.Ticket, error) { return o.ticket, nil }
