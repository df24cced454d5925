package sink_test

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"mooring/internal/base/errs"
	"mooring/internal/core/message"
	"mooring/internal/provider/sink"
)

var (
	newSecret = []byte("0123456789abcdef0123456789abcdef")
	oldSecret = []byte("fedcba9876543210fedcba9876543210")
	here      = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
	clock     = func() time.Time { return time.Unix(1_795_720_329, 0) }
)

// hook is a receiver.
type hook struct {
	*httptest.Server
	mu       sync.Mutex
	requests []*http.Request // with bodies that are read
	bodies   [][]byte
	answer   func(body []byte) (status int, text string)
}

func newHook(t *testing.T) *hook {
	t.Helper()
	h := &hook{answer: func([]byte) (int, string) { return http.StatusNoContent, "" }}
	h.Server = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		h.mu.Lock()
		defer h.mu.Unlock()
		h.requests, h.bodies = append(h.requests, r), append(h.bodies, body)
		status, text := h.answer(body)
		w.WriteHeader(status)
		_, _ = io.WriteString(w, text)
	}))
	t.Cleanup(h.Close)
	return h
}

// to returns a sink that posts to h, made by change.
func (h *hook) to(t *testing.T, change func(*sink.Webhook)) *sink.Webhook {
	t.Helper()
	roots := x509.NewCertPool()
	roots.AddCert(h.Certificate())
	w := sink.Webhook{URL: h.URL + "/in?a=b", Tenant: "acme", Secrets: [][]byte{newSecret}, Client: sink.NewWebhookClient(here, roots, nil, time.Now), Now: clock}
	if change != nil {
		change(&w)
	}
	made, err := sink.NewWebhook(w)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(made.Close)
	return made
}

// verify checks a signature as libraries of Standard Webhooks do.
func verify(r *http.Request, body, secret []byte) bool {
	mac := hmac.New(sha256.New, secret)
	fmt.Fprintf(mac, "%s.%s.%s", r.Header.Get("webhook-id"), r.Header.Get("webhook-timestamp"), body)
	want := "v1," + base64.StdEncoding.EncodeToString(mac.Sum(nil))
	return slices.Contains(strings.Fields(r.Header.Get("webhook-signature")), want)
}

// odd is a message with everything that a header cannot hold as it is.
func odd() *message.Message {
	return &message.Message{Topic: `v1/dev "1"/ü%`, Payload: []byte("\x00\xff"), QoS: 1, Retain: true, Thing: "Pumpe 7", Child: "dev-1", Cert: [16]byte{0xab}, At: 1_795_720_329_123, Seq: 42, Stream: message.Up,
		Properties: message.Properties{ContentType: "text/plain", ResponseTopic: "r/é", Correlation: []byte{1}}}
}

func TestWebhookBatch(t *testing.T) {
	h := newHook(t)
	w := h.to(t, func(w *sink.Webhook) { w.Secrets = [][]byte{newSecret, oldSecret} })
	b := some(40, 2, time.UnixMilli(1_795_720_329_000))
	b.Messages = append(b.Messages, odd())
	done, err := w.Put(t.Context(), b)
	if done != 3 || err != nil || len(h.requests) != 1 {
		t.Fatalf("Put: %d, %v, in %d requests; want 3 in one", done, err, len(h.requests))
	}
	r, body := h.requests[0], h.bodies[0]
	if r.Method != http.MethodPost || r.URL.String() != "/in?a=b" || r.Header.Get("Content-Type") != "application/cloudevents-batch+json; charset=utf-8" {
		t.Errorf("asked %s %s with %s", r.Method, r.URL, r.Header.Get("Content-Type"))
	}
	if r.Header.Get("webhook-id") != "7-40.7-42" || r.Header.Get("webhook-timestamp") != "1795720329" {
		t.Errorf("the id is %q, the time %q", r.Header.Get("webhook-id"), r.Header.Get("webhook-timestamp"))
	}
	for name, secret := range map[string][]byte{"new": newSecret, "old": oldSecret} {
		if !verify(r, body, secret) {
			t.Errorf("the signature by the %s secret is wrong: %q", name, r.Header.Get("webhook-signature"))
		}
	}
	if verify(r, append(body, ' '), newSecret) {
		t.Error("the signature holds for another body")
	}
	var events []json.RawMessage
	if err := json.Unmarshal(body, &events); err != nil || len(events) != 3 {
		t.Fatalf("%d events, %v, in %s", len(events), err, body)
	}
	want := `{"specversion":"1.0","id":"7-42","source":"/mooring/acme/up","type":"mooring.message","subject":"v1/dev \"1\"/ü%","time":"2026-11-26T19:12:09.123Z","datacontenttype":"text/plain","tenant":"acme","thing":"Pumpe 7",` +
		`"child":"dev-1","device":"` + odd().ID.String() + `","certificate":"ab000000000000000000000000000000","qos":1,"retain":true,"responsetopic":"r/é","correlation":"AQ==","data_base64":"AP8="}`
	if string(events[2]) != want {
		t.Errorf("got  %s\nwant %s", events[2], want)
	}
}

func TestWebhookBinary(t *testing.T) {
	h := newHook(t)
	w := h.to(t, func(w *sink.Webhook) { w.Binary = true })
	done, err := w.Put(t.Context(), sink.Batch{Born: 7, Messages: []*message.Message{odd()}})
	if done != 1 || err != nil {
		t.Fatalf("Put: %d, %v", done, err)
	}
	r := h.requests[0]
	for name, want := range map[string]string{
		"Content-Type": "text/plain", "ce-specversion": "1.0", "ce-id": "7-42", "ce-source": "/mooring/acme/up", "ce-type": "mooring.message", "ce-subject": "v1/dev%20%221%22/%C3%BC%25", "ce-time": "2026-11-26T19:12:09.123Z",
		"ce-thing": "Pumpe%207", "ce-child": "dev-1", "ce-qos": "1", "ce-retain": "true", "ce-responsetopic": "r/%C3%A9", "webhook-id": "7-42",
	} {
		if got := r.Header.Get(name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	if string(h.bodies[0]) != "\x00\xff" || !verify(r, h.bodies[0], newSecret) {
		t.Errorf("the body is %q, or its signature wrong", h.bodies[0])
	}
}

// TestWebhookBinaryHostile: what a device chose makes no event of its own out of a request that is signed, and no header that a receiver refuses.
func TestWebhookBinaryHostile(t *testing.T) {
	const unknown = "application/octet-stream"
	long := strings.Repeat("x", 60_000)
	h := newHook(t)
	w := h.to(t, func(w *sink.Webhook) { w.Binary = true })
	for _, row := range []struct{ name, said, want string }{
		{"a type", "application/json", "application/json"},
		{"a type with a parameter", "text/plain; charset=utf-8", "text/plain; charset=utf-8"},
		{"none", "", unknown},
		{"an event", "application/cloudevents+json", unknown},
		{"a batch of events", "application/cloudevents-batch+json", unknown},
		{"an event in capitals, with a parameter", "Application/CloudEvents+JSON; charset=utf-8", unknown},
		{"an event behind blanks", "  application/cloudevents+json", unknown},
		{"an event behind another type", "text/plain, application/cloudevents+json", unknown},
		{"an event behind a semicolon", "; application/cloudevents+json", unknown},
		{"an event of no format", "application/cloudevents", unknown},
		{"a line break", "text/plain\r\nce-thing: victim", unknown},
		{"a long one", "text/plain;x=" + long, unknown},
	} {
		t.Run(row.name, func(t *testing.T) {
			m := odd()
			m.ContentType, m.Topic, m.ResponseTopic, m.Correlation = row.said, long, long, []byte(long)
			if done, err := w.Put(t.Context(), sink.Batch{Born: 7, Messages: []*message.Message{m}}); done != 1 || err != nil {
				t.Fatalf("Put: %d, %v", done, err)
			}
			r := h.requests[len(h.requests)-1]
			if got := r.Header.Get("Content-Type"); got != row.want {
				t.Errorf("the type is %.100q, want %q", got, row.want)
			}
			for name, values := range r.Header {
				if len(values[0]) > 1024 {
					t.Errorf("%s has %d octets", name, len(values[0]))
				}
			}
			if got := r.Header.Get("ce-thing"); got != "Pumpe%207" {
				t.Errorf("the thing is %q", got)
			}
		})
	}
}

// TestWebhookOrder: in the binary mode, what fails holds up what follows of the same thing and of no other, and counts from there.
func TestWebhookOrder(t *testing.T) {
	h := newHook(t)
	w := h.to(t, func(w *sink.Webhook) { w.Binary = true })
	h.answer = func(body []byte) (int, string) {
		if string(body) == "5" {
			return http.StatusServiceUnavailable, ""
		}
		return http.StatusOK, ""
	}
	b := some(1, 9, clock())
	for i, m := range b.Messages {
		m.Thing = fmt.Sprintf("dev-%d", i%2) // odd places are of dev-0
	}
	done, err := w.Put(t.Context(), b)
	if done != 4 || !errs.Is(err, errs.Unavailable) {
		t.Fatalf("Put: %d, %v; want 4 and Unavailable", done, err)
	}
	var odd []string
	for _, body := range h.bodies {
		if strings.Contains("13579", string(body)) {
			odd = append(odd, string(body))
		}
	}
	if !slices.Equal(odd, []string{"1", "3", "5"}) {
		t.Errorf("of dev-0 were posted %v, want nothing after 5", odd)
	}
}

// TestWebhookAnswers: what an answer means for the message.
func TestWebhookAnswers(t *testing.T) {
	for _, row := range []struct {
		status int
		kind   errs.Kind
		ok     bool
	}{
		{200, 0, true}, {202, 0, true}, {204, 0, true},
		{400, errs.Invalid, false}, {413, errs.Invalid, false}, {414, errs.Invalid, false}, {431, errs.Invalid, false}, {415, errs.Invalid, false}, {422, errs.Invalid, false}, {500, errs.Invalid, false},
		{301, errs.Unavailable, false}, {401, errs.Unavailable, false}, {403, errs.Unavailable, false}, {404, errs.Unavailable, false}, {408, errs.Unavailable, false}, {410, errs.Unavailable, false},
		{429, errs.Unavailable, false}, {502, errs.Unavailable, false}, {503, errs.Unavailable, false}, {504, errs.Unavailable, false},
	} {
		t.Run(fmt.Sprint(row.status), func(t *testing.T) {
			h := newHook(t)
			h.answer = func([]byte) (int, string) { return row.status, "because\n of \x1b[1m this" }
			done, err := h.to(t, nil).Put(t.Context(), some(1, 1, clock()))
			if row.ok != (err == nil && done == 1) || !row.ok && errs.KindOf(err) != row.kind {
				t.Errorf("Put: %d, %v (%v)", done, err, errs.KindOf(err))
			}
			if !row.ok && strings.ContainsAny(err.Error(), "\n\x1b") {
				t.Errorf("the receiver's words are passed on as they are: %q", err)
			}
		})
	}
}

// TestWebhookNarrows: of a batch that is refused for one message, the others arrive, once each.
func TestWebhookNarrows(t *testing.T) {
	h := newHook(t)
	var taken []string
	h.answer = func(body []byte) (int, string) {
		var events []struct {
			Data []byte `json:"data_base64"`
		}
		if json.Unmarshal(body, &events) != nil {
			return http.StatusTeapot, ""
		}
		var these []string
		for _, e := range events {
			if string(e.Data) == "13" {
				return http.StatusUnprocessableEntity, "unlucky"
			}
			these = append(these, string(e.Data))
		}
		taken = append(taken, these...)
		return http.StatusOK, ""
	}
	w := h.to(t, nil)
	b := some(1, 50, clock())
	done, err := w.Put(t.Context(), b)
	if done != 12 || !errs.Is(err, errs.Invalid) || !strings.Contains(err.Error(), "unlucky") {
		t.Fatalf("Put: %d, %v; want 12 and why", done, err)
	}
	if done, err := w.Put(t.Context(), sink.Batch{Born: 7, Messages: b.Messages[13:]}); done != 37 || err != nil {
		t.Fatalf("the rest: %d, %v", done, err)
	}
	if want := slices.Delete(numbers(1, 50), 12, 13); !slices.Equal(taken, want) {
		t.Errorf("arrived %v, want %v", taken, want)
	}
}

// TestWebhookSizes: requests are not larger than a megabyte, unless a message is.
func TestWebhookSizes(t *testing.T) {
	h := newHook(t)
	b := some(1, 5, clock())
	for _, m := range b.Messages {
		m.Payload = make([]byte, 300<<10)
	}
	b.Messages[4].Payload = make([]byte, 1<<20)
	done, err := h.to(t, nil).Put(t.Context(), b)
	if done != 5 || err != nil {
		t.Fatalf("Put: %d, %v", done, err)
	}
	var sizes []int
	for _, body := range h.bodies {
		sizes = append(sizes, strings.Count(string(body), `"id"`))
	}
	if !slices.Equal(sizes, []int{2, 2, 1}) {
		t.Errorf("messages in requests: %v, want 2 2 1", sizes)
	}
}

// TestWebhookGoesToFewPlaces: no private networks, no redirections, no certificates of others.
func TestWebhookGoesToFewPlaces(t *testing.T) {
	h := newHook(t)
	elsewhere := newHook(t)
	led := httptest.NewTLSServer(http.RedirectHandler(elsewhere.URL, http.StatusTemporaryRedirect))
	defer led.Close()
	roots := x509.NewCertPool()
	roots.AddCert(h.Certificate()) // the same for all servers of httptest
	for _, row := range []struct {
		name, url, text string
		client          *http.Client
	}{
		{"loopback", h.URL, "public address", sink.NewWebhookClient(nil, roots, nil, time.Now)},
		{"loopback by name", strings.Replace(h.URL, "127.0.0.1", "localhost", 1), "public address", sink.NewWebhookClient(nil, roots, nil, time.Now)},
		{"metadata of a cloud", "https://169.254.169.254/", "public address", sink.NewWebhookClient(here, roots, nil, time.Now)},
		{"another network than the allowed one", "https://10.0.0.1/", "public address", sink.NewWebhookClient(here, roots, nil, time.Now)},
		{"led elsewhere", led.URL, "307", sink.NewWebhookClient(here, roots, nil, time.Now)},
		{"an unknown certificate", h.URL, "reached", sink.NewWebhookClient(here, x509.NewCertPool(), nil, time.Now)},
	} {
		t.Run(row.name, func(t *testing.T) {
			w, err := sink.NewWebhook(sink.Webhook{URL: row.url, Secrets: [][]byte{newSecret}, Client: row.client, Now: clock})
			if err != nil {
				t.Fatal(err)
			}
			defer w.Close()
			if done, err := w.Put(t.Context(), some(1, 1, clock())); done != 0 || !errs.Is(err, errs.Unavailable) || !strings.Contains(errs.Public(err), row.text) {
				t.Errorf("Put: %d, %v; want %q", done, err, row.text)
			}
		})
	}
	if len(elsewhere.requests) != 0 {
		t.Error("a redirection was followed")
	}
}

// TestWebhookConfiguration: what cannot be meant is refused at the start.
func TestWebhookConfiguration(t *testing.T) {
	for _, row := range []struct {
		name string
		w    sink.Webhook
	}{
		{"no address", sink.Webhook{Secrets: [][]byte{newSecret}}},
		{"another protocol", sink.Webhook{URL: "file:///etc/passwd", Secrets: [][]byte{newSecret}}},
		{"a password in the address", sink.Webhook{URL: (&url.URL{Scheme: "https", Host: "x", User: url.UserPassword("a", "b")}).String(), Secrets: [][]byte{newSecret}}},
		{"no secret", sink.Webhook{URL: "https://x/"}},
		{"a short secret", sink.Webhook{URL: "https://x/", Secrets: [][]byte{newSecret, []byte("short")}}},
	} {
		if _, err := sink.NewWebhook(row.w); !errs.Is(err, errs.Invalid) {
			t.Errorf("%s: %v, want it refused", row.name, err)
		}
	}
}

// TestWebhookOwnCertificate: the sink shows a certificate where it has one.
func TestWebhookOwnCertificate(t *testing.T) {
	h := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if len(r.TLS.PeerCertificates) != 1 {
			w.WriteHeader(http.StatusForbidden)
		}
	}))
	h.TLS = &tls.Config{ClientAuth: tls.RequireAnyClientCert}
	h.StartTLS()
	defer h.Close()
	roots := x509.NewCertPool()
	roots.AddCert(h.Certificate())
	own := h.TLS.Certificates[0]
	w, err := sink.NewWebhook(sink.Webhook{URL: h.URL, Secrets: [][]byte{newSecret}, Client: sink.NewWebhookClient(here, roots, &own, time.Now), Now: clock})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	if done, err := w.Put(t.Context(), some(1, 1, clock())); done != 1 || err != nil {
		t.Errorf("Put: %d, %v", done, err)
	}
}

// TestWebhookAway runs a sink against a receiver that is down for a while, and then refuses one message.
func TestWebhookAway(t *testing.T) {
	h := newHook(t)
	down, seen := true, map[string]int{}
	h.answer = func(body []byte) (int, string) {
		if down {
			down = false
			return http.StatusBadGateway, ""
		}
		var events []struct{ ID string }
		if json.Unmarshal(body, &events) != nil {
			return http.StatusBadRequest, ""
		}
		for _, e := range events {
			seen[e.ID]++
		}
		return http.StatusOK, ""
	}
	w := newWorld(t)
	published(t, w.log, 0, 30)
	r := w.runner(h.to(t, nil), nil)
	run(t, r)
	m := until(t, r, "caught up", caughtUp)
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(seen) != 30 || m.Failures == 0 || m.Dead != 0 {
		t.Errorf("%d messages arrived, %+v; want 30, after a failure", len(seen), m)
	}
}
