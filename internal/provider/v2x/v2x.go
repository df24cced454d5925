// Package v2x reaches enrolment authorities and distribution centres of TS 102 941 over HTTP, at addresses that a trust list or the configuration names. It is what
// core/v2x/aa calls its Enrolment. What is read is bounded, redirections are not followed, proxies of the environment are not looked at.
package v2x

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"mooring/wire/its"
	"mooring/wire/scr"
)

// Client asks. It is safe for concurrent use, and keeps connections to the few whom it asks.
type Client struct {
	http *http.Client

	mu    sync.Mutex
	lines map[string]*lines // guarded by mu; by the URL
}

// New returns a client. It starts nothing.
func New() *Client {
	return &Client{lines: map[string]*lines{}, http: &http.Client{
		Transport:     &http.Transport{MaxIdleConnsPerHost: 16, MaxConnsPerHost: 64, IdleConnTimeout: time.Minute, MaxResponseHeaderBytes: headerMost, DisableCompression: true},
		CheckRedirect: func(*http.Request, []*http.Request) error { return errors.New("redirections are not followed") },
	}}
}

// Validate sends a question to an enrolment authority.
func (c *Client) Validate(ctx context.Context, address string, request []byte) ([]byte, error) {
	return c.post(ctx, address, request, scr.RequestType, scr.ResponseType)
}

// ValidateMany sends questions about many tickets in one message. No answer, without an error, is that the authority does not know such messages: any answer of HTTP but that
// it has too much to do.
func (c *Client) ValidateMany(ctx context.Context, address string, request []byte) ([]byte, error) {
	answer, err := c.post(ctx, address, request, scr.ManyRequestType, scr.ManyResponseType)
	var status *statusError
	if errors.As(err, &status) && status.code != http.StatusTooManyRequests && status.code != http.StatusServiceUnavailable {
		return nil, nil
	}
	return answer, err
}

// post sends a message of one type and returns the answer, which is of another one.
func (c *Client) post(ctx context.Context, address string, request []byte, kind, want string) ([]byte, error) {
	if l := c.to(address); l != nil {
		return l.post(ctx, request, kind, want, its.MaxRequest)
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, address, bytes.NewReader(request))
	if err != nil {
		return nil, err
	}
	r.Header.Set("Content-Type", kind)
	return c.do(r, want, its.MaxRequest)
}

// to returns the connections to an address of plain HTTP, unless there are too many addresses.
func (c *Client) to(address string) *lines {
	c.mu.Lock()
	defer c.mu.Unlock()
	if l := c.lines[address]; l != nil {
		return l
	}
	u, err := url.Parse(address)
	if err != nil || u.Scheme != "http" || u.User != nil || u.Hostname() == "" || len(c.lines) >= hostsMost {
		return nil
	}
	l := newLines(u)
	c.lines[address] = l
	return l
}

// Lists fetches the trust list and the revocation list of a root from a distribution centre.
func (c *Client) Lists(ctx context.Context, dc string, root its.HashedId8) (ctl, crl []byte, err error) {
	get := func(what, kind string) ([]byte, error) {
		r, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimSuffix(dc, "/")+"/"+what+"/"+root.String(), nil)
		if err != nil {
			return nil, err
		}
		return c.do(r, kind, its.MaxTrustList)
	}
	if ctl, err = get("getctl", scr.CTLType); err != nil {
		return nil, nil, err
	}
	crl, err = get("getcrl", scr.CRLType)
	return ctl, crl, err
}

// Link fetches the link certificate by which a root vouches for the one that follows it; nil if there is none.
func (c *Client) Link(ctx context.Context, dc string, root its.HashedId8) ([]byte, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimSuffix(dc, "/")+"/getlink/"+root.String(), nil)
	if err != nil {
		return nil, err
	}
	link, err := c.do(r, "application/octet-stream", its.MaxRequest)
	var status *statusError
	if errors.As(err, &status) && status.code == http.StatusNotFound {
		return nil, nil
	}
	return link, err
}

// statusError is an answer that is none.
type statusError struct {
	host string
	code int
	kind string
}

// Error implements error.
func (s *statusError) Error() string {
	return fmt.Sprintf("%s answers with status %d and the type %q", s.host, s.code, s.kind)
}

func (c *Client) do(r *http.Request, kind string, limit int64) ([]byte, error) {
	answer, err := c.http.Do(r)
	if err != nil {
		return nil, err
	}
	return read(answer, kind, limit, r.URL.Host)
}
