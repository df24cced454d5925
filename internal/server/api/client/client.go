// Package client speaks to the REST API (package api) with the messages of package v1: over the Unix socket of a server on the same machine,
// where the user's identity decides, or over https with an operator's certificate.
//
//	c := client.New("/var/lib/mooring/mooring.sock")
//	d, err := c.Device(ctx, "sensor-0017")
//
// Each route has one method. Refusals are *Error and say what is wrong and what to do next; a server that cannot be reached is *Unreachable.
// Listings come by the page, or whole as an iterator. The package deliberately retries nothing, keeps nothing, and reads no files: keys and
// certificates are handed over as PEM.
package client

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// maxAnswer bounds an answer that is not a stream, in octets: a page of 1,000 devices with long tags stays below.
const maxAnswer = 64 << 20

// Client speaks to one server. It is safe for concurrent use.
type Client struct {
	base  string // without a slash at the end
	where string // for people
	http  *http.Client
}

// New returns a client for the server whose Unix socket is at path. Nothing is connected yet.
func New(path string) *Client {
	var dialer net.Dialer
	t := transport()
	t.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) { return dialer.DialContext(ctx, "unix", path) }
	return &Client{base: "http://mooring", where: "the socket " + path, http: &http.Client{Transport: t}}
}

// NewTLS returns a client for the server at address, such as "https://pki.example.com:9443", for the holder of the certificate and key. roots
// are the CA certificates by which the server is known; none of the machine's own count. All three are PEM.
func NewTLS(address string, certificate, key, roots []byte) (*Client, error) {
	u, err := url.Parse(address)
	if err != nil || u.Scheme != "https" || u.Host == "" || u.Path != "" && u.Path != "/" || u.RawQuery != "" || u.User != nil {
		return nil, fmt.Errorf("the server's address is %q: it must look like https://pki.example.com:9443", address)
	}
	pair, err := tls.X509KeyPair(certificate, key)
	if err != nil {
		return nil, fmt.Errorf("reading the operator's certificate and key: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(roots) {
		return nil, errors.New("the file of CA certificates holds none: get it from the server's operator")
	}
	t := transport()
	t.TLSClientConfig = &tls.Config{Certificates: []tls.Certificate{pair}, RootCAs: pool, MinVersion: tls.VersionTLS12}
	return &Client{base: "https://" + u.Host, where: address, http: &http.Client{Transport: t}}, nil
}

// transport has no proxy: what is said here is for the server alone. Only the time to the first octet of an answer is left open, since
// an import works for minutes.
func transport() *http.Transport {
	return &http.Transport{MaxIdleConns: 4, IdleConnTimeout: time.Minute, TLSHandshakeTimeout: 15 * time.Second}
}

// Close closes the connections that are kept for later.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// segment is text as one segment of a path. Dots alone would be taken for directions.
func segment(text string) string {
	if text == "." || text == ".." {
		return strings.ReplaceAll(text, ".", "%2E")
	}
	return url.PathEscape(text)
}

// get asks for path and decodes the answer into T.
func get[T any](ctx context.Context, c *Client, path string, query url.Values) (T, error) {
	r, err := c.send(ctx, http.MethodGet, path, query, "", nil)
	if err != nil {
		var none T
		return none, err
	}
	return decode[T](c, r)
}

// call sends in as JSON, nothing when it is nil, and decodes the answer into T.
func call[T any](ctx context.Context, c *Client, method, path string, in any) (out T, err error) {
	r, err := c.sendJSON(ctx, method, path, in)
	if err != nil {
		return out, err
	}
	return decode[T](c, r)
}

func decode[T any](c *Client, r *http.Response) (out T, err error) {
	defer r.Body.Close()
	data, err := io.ReadAll(io.LimitReader(r.Body, maxAnswer+1))
	switch {
	case err != nil:
		return out, &Unreachable{Where: c.where, Err: err}
	case len(data) > maxAnswer:
		return out, fmt.Errorf("the answer of %s has more than %d octets", c.where, maxAnswer)
	}
	if err := json.Unmarshal(data, &out); err != nil {
		return out, fmt.Errorf("reading the answer of %s: is it a mooring server? %w", c.where, err)
	}
	return out, nil
}

// sendJSON sends in as JSON, nothing when it is nil.
func (c *Client) sendJSON(ctx context.Context, method, path string, in any) (*http.Response, error) {
	if in == nil {
		return c.send(ctx, method, path, nil, "", nil)
	}
	data, err := json.Marshal(in)
	if err != nil {
		return nil, fmt.Errorf("encoding the request: %w", err)
	}
	return c.send(ctx, method, path, nil, "application/json", bytes.NewReader(data))
}

// send returns the answer when it is a good one; the caller closes its body.
func (c *Client) send(ctx context.Context, method, path string, query url.Values, contentType string, body io.Reader) (*http.Response, error) {
	address := c.base + path
	if len(query) > 0 {
		address += "?" + query.Encode()
	}
	q, err := http.NewRequestWithContext(ctx, method, address, body)
	if err != nil {
		return nil, fmt.Errorf("making the request: %w", err)
	}
	q.Header.Set("User-Agent", "mooring")
	if body != nil {
		q.Header.Set("Content-Type", contentType)
	}
	r, err := c.http.Do(q)
	if err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, &Unreachable{Where: c.where, Err: err}
	}
	if r.StatusCode/100 != 2 {
		defer r.Body.Close()
		return nil, refusal(r)
	}
	return r, nil
}
