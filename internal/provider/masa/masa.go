// Package masa asks the services of manufacturers for vouchers and for their logs of vouchers, over HTTPS (RFC 8995, sections 5.4 to 5.8). It is what
// core/registrar calls its Remote Authority.
//
// A service that an administrator named may be anywhere. One that a device's certificate names must have a public address, since the manufacturer decides
// where that leads: package reach looks at every address in the moment of dialling. The service is checked by the certificates that are registered for
// the manufacturer and by no others, and the registrar shows its certificate. Nothing is followed but, for a log, one address at the same service
// (RFC 8995, section 5.8). What is read is bounded, and so is the time. Neither proxies of the environment are looked at nor connections kept.
package masa

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"mime"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"time"

	"mooring/internal/base/errs"
	"mooring/internal/core/registrar"
	"mooring/internal/provider/reach"
	"mooring/wire/voucher"
)

const (
	callTime  = 30 * time.Second // of one request
	maxHeader = 16 << 10
	maxWords  = 4 << 10 // octets of a refusal that are read
	showWords = 200     // of these, that are passed on
	firstWait = 10 * time.Second
)

// Client asks. It is safe for concurrent use.
type Client struct {
	now          func() time.Time
	public, free *reach.Validator
}

// New returns a client that checks certificates by the clock now. It starts nothing.
func New(now func() time.Time) *Client {
	everywhere := []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0")}
	return &Client{now: now, public: reach.New(reach.Options{}), free: reach.New(reach.Options{Allow: everywhere})}
}

// Voucher implements core/registrar's Authority.
func (c *Client) Voucher(ctx context.Context, a *registrar.Ask) (message []byte, retry time.Duration, err error) {
	call := c.open(a)
	defer call.close()
	answer, err := call.post(ctx, voucher.RequestVoucher, voucher.MediaType)
	if err != nil {
		return nil, 0, err
	}
	defer answer.Body.Close()
	switch answer.StatusCode {
	case http.StatusOK:
	case http.StatusAccepted:
		return nil, after(answer), nil
	default:
		return nil, 0, refusal(answer)
	}
	message, err = body(answer, voucher.MediaType, voucher.MaxSize)
	return message, 0, err
}

// Log implements core/registrar's Authority.
func (c *Client) Log(ctx context.Context, a *registrar.Ask) (log voucher.AuditLog, err error) {
	call := c.open(a)
	defer call.close()
	answer, err := call.post(ctx, voucher.RequestAuditLog, voucher.StatusType)
	if err != nil {
		return log, err
	}
	defer answer.Body.Close()
	if answer.StatusCode == http.StatusCreated {
		if answer, err = call.get(ctx, answer.Header.Get("Location")); err != nil {
			return log, err
		}
		defer answer.Body.Close()
	}
	if answer.StatusCode != http.StatusOK {
		return log, refusal(answer)
	}
	text, err := body(answer, voucher.StatusType, voucher.MaxAuditLog)
	if err != nil {
		return log, err
	}
	if log, err = voucher.ParseAuditLog(text); err != nil {
		return log, errs.New(errs.Conflict, "the manufacturer's log of vouchers is not acceptable: %v", err)
	}
	return log, nil
}

// call is what is asked, and the connection for it.
type call struct {
	*registrar.Ask
	client    *http.Client
	transport *http.Transport
}

func (c *Client) open(a *registrar.Ask) *call {
	way := c.public
	if a.Given {
		way = c.free
	}
	own := tls.Certificate{Certificate: [][]byte{a.By.Certificate.Raw}, PrivateKey: a.By.Key, Leaf: a.By.Certificate}
	for _, above := range a.By.Above {
		own.Certificate = append(own.Certificate, above.Raw)
	}
	trusted := x509.NewCertPool()
	for _, t := range a.Trusted {
		trusted.AddCert(t)
	}
	transport := &http.Transport{DialContext: way.DialContext, MaxResponseHeaderBytes: maxHeader, TLSHandshakeTimeout: callTime, ForceAttemptHTTP2: true, DisableCompression: true,
		TLSClientConfig: &tls.Config{Time: c.now, MinVersion: tls.VersionTLS12, RootCAs: trusted,
			// Whatever the service lists: ours is the one, or none.
			GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &own, nil }}}
	stay := func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return &call{a, &http.Client{Transport: transport, CheckRedirect: stay, Timeout: callTime}, transport}
}

func (c *call) close() { c.transport.CloseIdleConnections() }

func (c *call) post(ctx context.Context, operation, want string) (*http.Response, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, c.URL+"/"+operation, bytes.NewReader(c.Request))
	if err != nil {
		return nil, errs.Wrap(errs.Denied, err, "the address of the manufacturer's service is not usable")
	}
	r.Header.Set("Content-Type", voucher.MediaType)
	r.Header.Set("Accept", want)
	return c.do(r)
}

// get fetches what the service has put elsewhere, but no farther than at its own host and port.
func (c *call) get(ctx context.Context, location string) (*http.Response, error) {
	base, err := url.Parse(c.URL + "/" + voucher.RequestAuditLog)
	if err != nil {
		return nil, errs.Wrap(errs.Denied, err, "the address of the manufacturer's service is not usable")
	}
	to, err := base.Parse(location)
	if err != nil || location == "" || to.Scheme != base.Scheme || to.Host != base.Host || to.User != nil {
		return nil, errs.New(errs.Conflict, "the manufacturer's service has its log at another place than its own")
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, to.String(), nil)
	if err != nil {
		return nil, errs.Wrap(errs.Conflict, err, "the manufacturer's service has its log at a place that is not usable")
	}
	r.Header.Set("Accept", voucher.StatusType)
	return c.do(r)
}

func (c *call) do(r *http.Request) (*http.Response, error) {
	r.Header.Set("User-Agent", "mooring-brski")
	answer, err := c.client.Do(r)
	var unknown *tls.CertificateVerificationError
	switch {
	case err == nil:
		return answer, nil
	case errors.As(err, &unknown):
		return nil, errs.Wrap(errs.Unavailable, err, "the manufacturer's service is not believed: its certificate does not lead to what is registered for it")
	case errs.KindOf(err) == errs.Denied: // of package reach
		return nil, errs.Wrap(errs.Denied, err, "the manufacturer's service, which the device's certificate names, has no public address: if it is right, give its address with mooring manufacturer change --masa")
	}
	return nil, errs.Wrap(errs.Unavailable, err, "the manufacturer's service cannot be reached")
}

// body reads an answer of the type that was asked for.
func body(answer *http.Response, want string, most int64) ([]byte, error) {
	if got, _, err := mime.ParseMediaType(answer.Header.Get("Content-Type")); err != nil || got != want {
		return nil, errs.New(errs.Conflict, "the manufacturer's service answered with something else than %s", want)
	}
	text, err := io.ReadAll(io.LimitReader(answer.Body, most+1))
	if err != nil {
		return nil, errs.Wrap(errs.Unavailable, err, "the answer of the manufacturer's service broke off")
	}
	if int64(len(text)) > most {
		return nil, errs.New(errs.Conflict, "the manufacturer's service answered with more than %d octets", most)
	}
	return text, nil
}

// refusal is the error for an answer that is not what was asked for, with the service's words (RFC 8995, section 5.6).
func refusal(answer *http.Response) error {
	text, err := io.ReadAll(io.LimitReader(answer.Body, maxWords))
	if err != nil {
		text = nil
	}
	kind := errs.Conflict
	switch code := answer.StatusCode; {
	case code == http.StatusNotFound:
		kind = errs.NotFound
	case code == http.StatusForbidden || code == http.StatusUnauthorized:
		kind = errs.Denied
	case code == http.StatusTooManyRequests || code >= 500:
		kind = errs.Unavailable
	}
	return errs.New(kind, "the manufacturer's service answered with %d: %q", answer.StatusCode, words(text))
}

// words makes what a service says fit to be passed on.
func words(text []byte) string {
	line := strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return ' '
		}
		return r
	}, string(text[:min(len(text), showWords)]))
	return strings.Join(strings.Fields(line), " ")
}

// after returns when a service wants to be asked again.
func after(answer *http.Response) time.Duration {
	n, err := strconv.Atoi(answer.Header.Get("Retry-After"))
	if err != nil || n <= 0 || n > 7*24*3600 {
		return firstWait
	}
	return time.Duration(n) * time.Second
}
