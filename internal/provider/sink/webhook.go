package sink

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"mooring/internal/base/errs"
	"mooring/internal/core/message"
	"mooring/internal/provider/reach"
)

// Webhook posts messages to an address, as CloudEvents 1.0 over HTTP: many in one request (the batched mode, application/cloudevents-batch+json), or each in a
// request of its own with its payload as the body and what is known of it in ce- headers (the binary mode).
//
// Requests are signed as Standard Webhooks has it, for which there are libraries:
//
//	webhook-id         the id of the event, of a batch that of the first, a dot and that of the last
//	webhook-timestamp  Unix seconds
//	webhook-signature  "v1," and the base64 of HMAC-SHA256(secret, id "." timestamp "." body); one for each secret, with a blank between
//
// In the binary mode the headers with the thing's name are not covered by that: TLS protects them on the way. Who keeps requests to check them later takes the
// batched mode.
//
// What a device chose and does not fit into a header of a kibibyte is left out of the headers; it is in batches.
//
// Answers: 2xx is safe; 400, 413, 414, 415, 422, 431 and 500 refuse the message, after which parts of a batch are tried; everything else means later, also 401, 403
// and 404, which say that it is set up wrongly. Redirections are not followed.
type Webhook struct {
	URL     string
	Tenant  string
	Secrets [][]byte // the first is the newest
	Binary  bool
	Client  *http.Client // of NewWebhookClient
	Now     func() time.Time
}

// The bounds of a request.
const (
	maxBatchOctets = 1 << 20 // of the body, unless one message alone is larger
	minSecret      = 24      // octets
	webhookTime    = 30 * time.Second
	webhookAtOnce  = 8 // requests of the binary mode
	maxReply       = 4 << 10
)

// NewWebhook checks what is configured.
func NewWebhook(w Webhook) (*Webhook, error) {
	u, err := url.Parse(w.URL)
	switch {
	case err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" || u.User != nil || u.Fragment != "":
		return nil, errs.New(errs.Invalid, "the address of the webhook is none: write https://HOST/PATH")
	case len(w.Secrets) == 0:
		return nil, errs.New(errs.Invalid, "the webhook has no secret by which its requests are signed")
	case slices.ContainsFunc(w.Secrets, func(s []byte) bool { return len(s) < minSecret }):
		return nil, errs.New(errs.Invalid, "a secret of the webhook is shorter than %d octets", minSecret)
	}
	return &w, nil
}

// NewWebhookClient returns a client that goes to public addresses and to those in allow, to no proxy, and follows nothing. roots nil means those of the system;
// own, if not nil, is the certificate that it shows.
func NewWebhookClient(allow []netip.Prefix, roots *x509.CertPool, own *tls.Certificate, now func() time.Time) *http.Client {
	config := &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots, Time: now}
	if own != nil {
		config.Certificates = []tls.Certificate{*own}
	}
	way := reach.New(reach.Options{Allow: allow})
	return &http.Client{
		Timeout:       webhookTime,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport: &http.Transport{DialContext: way.DialContext, TLSClientConfig: config, ForceAttemptHTTP2: true, DisableCompression: true, MaxIdleConnsPerHost: webhookAtOnce,
			TLSHandshakeTimeout: webhookTime, MaxResponseHeaderBytes: 16 << 10, IdleConnTimeout: time.Minute},
	}
}

// Close implements Sink.
func (w *Webhook) Close() { w.Client.CloseIdleConnections() }

// Put implements Sink.
func (w *Webhook) Put(ctx context.Context, b Batch) (done int, err error) {
	if w.Binary {
		return w.each(ctx, b)
	}
	return narrow(b, func(part Batch) error { return w.batches(ctx, part) })
}

// batches posts a part of a batch in requests that are not too large. A request that was taken before another one is refused comes again.
func (w *Webhook) batches(ctx context.Context, b Batch) error {
	body, first := []byte("["), 0
	for i, m := range b.Messages {
		text := encode(newEvent(w.Tenant, b.Born, m))
		if len(body) > 1 && len(body)+len(text) > maxBatchOctets {
			if err := w.batch(ctx, b, first, i, body); err != nil {
				return err
			}
			body, first = []byte("["), i
		}
		if len(body) > 1 {
			body = append(body, ',')
		}
		body = append(body, text...)
	}
	return w.batch(ctx, b, first, len(b.Messages), body)
}

func (w *Webhook) batch(ctx context.Context, b Batch, from, to int, body []byte) error {
	id := ID(b.Born, b.Messages[from])
	if to-from > 1 {
		id += "." + ID(b.Born, b.Messages[to-1])
	}
	return w.post(ctx, id, append(body, ']'), http.Header{"Content-Type": {"application/cloudevents-batch+json; charset=utf-8"}})
}

// each posts each message alone: those of one thing one after the other, those of several things at the same time. What counts as done is what no message
// before it is missing from.
func (w *Webhook) each(ctx context.Context, b Batch) (done int, err error) {
	results := make([]error, len(b.Messages))
	lanes := make([][]int, webhookAtOnce)
	for i, m := range b.Messages {
		lane := lane(m.Thing)
		lanes[lane] = append(lanes[lane], i)
	}
	var tasks sync.WaitGroup
	for _, lane := range lanes {
		tasks.Go(func() {
			for n, i := range lane {
				if results[i] = w.one(ctx, b.Born, b.Messages[i]); results[i] == nil {
					continue
				}
				for _, rest := range lane[n+1:] {
					results[rest] = errNotTried
				}
				return
			}
		})
	}
	tasks.Wait()
	for done < len(results) && results[done] == nil {
		done++
	}
	if done < len(results) {
		err = results[done]
	}
	return done, err
}

var errNotTried = errors.New("the one before it was not taken")

// lane spreads things.
func lane(thing string) int {
	sum := sha256.Sum256([]byte(thing))
	return int(sum[0]) % webhookAtOnce
}

// one posts one message in the binary mode (CloudEvents, HTTP protocol binding 1.0.2, section 3.1).
func (w *Webhook) one(ctx context.Context, born int64, m *message.Message) error {
	e := newEvent(w.Tenant, born, m)
	h := http.Header{"Content-Type": {bodyType(e.ContentType)}}
	for _, pair := range [][2]string{
		{"specversion", e.SpecVersion}, {"id", e.ID}, {"source", e.Source}, {"type", e.Type}, {"subject", e.Subject}, {"time", e.Time}, {"tenant", e.Tenant}, {"thing", e.Thing}, {"child", e.Child},
		{"device", e.Device}, {"certificate", e.Certificate}, {"qos", strconv.Itoa(e.QoS)}, {"retain", strconv.FormatBool(e.Retain)}, {"responsetopic", e.ResponseTopic}, {"correlation", e.Correlation},
	} {
		if value := percent(pair[1]); value != "" && len(value) <= maxHeader {
			h.Set("ce-"+pair[0], value)
		}
	}
	return w.post(ctx, e.ID, m.Payload, h)
}

// anyType is the type of what is not known.
const anyType = "application/octet-stream"

// bodyType is the type under which a payload is posted. The device chose said: a payload that called itself an event would be taken for one that we made and
// signed, and what is no media type may be read as several.
func bodyType(said string) string {
	kind, _, err := mime.ParseMediaType(said)
	if err != nil || len(said) > maxHeader || strings.HasPrefix(kind, "application/cloudevents") || strings.ContainsFunc(said, func(r rune) bool { return r < ' ' || r > '~' }) {
		return anyType
	}
	return said
}

// percent writes a value of a header as section 3.1.3.2 has it.
func percent(value string) string {
	var b strings.Builder
	for _, c := range []byte(value) {
		if c <= ' ' || c > '~' || c == '"' || c == '%' {
			fmt.Fprintf(&b, "%%%02X", c)
		} else {
			b.WriteByte(c)
		}
	}
	return b.String()
}

// post sends one request and judges the answer.
func (w *Webhook) post(ctx context.Context, id string, body []byte, h http.Header) error {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, w.URL, bytes.NewReader(body))
	if err != nil {
		return errs.Wrap(errs.Unavailable, err, "the address of the webhook is none")
	}
	timestamp := strconv.FormatInt(w.Now().Unix(), 10)
	r.Header = h
	h.Set("User-Agent", "mooring")
	h.Set("webhook-id", id)
	h.Set("webhook-timestamp", timestamp)
	h.Set("webhook-signature", w.sign(id, timestamp, body))
	answer, err := w.Client.Do(r)
	if err != nil {
		if errs.KindOf(err) == errs.Denied { // of package reach
			return errs.Wrap(errs.Unavailable, err, "the webhook has no public address: if it is right, allow its network for this sink")
		}
		return errs.Wrap(errs.Unavailable, err, "the webhook cannot be reached")
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(io.LimitReader(answer.Body, maxReply))
	if err != nil {
		text = nil
	}
	return judge(answer, text)
}

func (w *Webhook) sign(id, timestamp string, body []byte) string {
	var all []string
	for _, secret := range w.Secrets {
		mac := hmac.New(sha256.New, secret)
		mac.Write([]byte(id + "." + timestamp + "."))
		mac.Write(body)
		all = append(all, "v1,"+base64.StdEncoding.EncodeToString(mac.Sum(nil)))
	}
	return strings.Join(all, " ")
}

// judge makes an error of an answer that is not good.
func judge(answer *http.Response, text []byte) error {
	switch code := answer.StatusCode; code {
	case http.StatusBadRequest, http.StatusRequestEntityTooLarge, http.StatusRequestURITooLong, http.StatusUnsupportedMediaType, http.StatusUnprocessableEntity,
		http.StatusRequestHeaderFieldsTooLarge, http.StatusInternalServerError:
		return errs.New(errs.Invalid, "the webhook answered with %d: %q", code, words(text))
	default:
		if code >= 200 && code < 300 {
			return nil
		}
		err := errs.New(errs.Unavailable, "the webhook answered with %d: %q", code, words(text))
		if n, failure := strconv.Atoi(answer.Header.Get("Retry-After")); failure == nil && n > 0 && n < 24*3600 {
			err = errs.WithRetry(err, time.Duration(n)*time.Second)
		}
		return err
	}
}

// words makes what a receiver says fit to be shown.
func words(text []byte) string {
	line := strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return ' '
		}
		return r
	}, string(text[:min(len(text), 200)]))
	return strings.Join(strings.Fields(line), " ")
}
