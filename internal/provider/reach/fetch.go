package reach

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"mooring/internal/base/errs"
	core "mooring/internal/core/acme"
)

// http validates http-01 (RFC 8555, section 8.3).
func (v *Validator) http(ctx context.Context, c core.Challenge) error {
	ctx, cancel := context.WithTimeout(ctx, fetchTime)
	defer cancel()
	authority := host(c.Name)
	if v.o.HTTPPort != 80 {
		authority = net.JoinHostPort(authority, strconv.Itoa(v.o.HTTPPort))
	} else if strings.Contains(authority, ":") {
		authority = "[" + authority + "]"
	}
	client := &http.Client{Transport: single{v}, CheckRedirect: v.redirect}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+authority+"/.well-known/acme-challenge/"+c.Token, nil)
	if err != nil {
		return wrong(core.Malformed, "%q cannot be asked over HTTP", host(c.Name))
	}
	r.Header.Set("User-Agent", "mooring-acme")
	r.Header.Set("Accept", "*/*")
	answer, err := client.Do(r)
	if err != nil {
		return fetchFailed(host(c.Name), err)
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return failed(core.Unauthorized, "%q answered with status %d in place of 200", host(c.Name), answer.StatusCode)
	}
	body, err := io.ReadAll(io.LimitReader(answer.Body, maxBody+1))
	if err != nil {
		return fetchFailed(host(c.Name), err)
	}
	if len(body) > maxBody {
		return wrong(core.Unauthorized, "%q answered with more than %d octets", host(c.Name), maxBody)
	}
	if strings.TrimRight(string(body), " \t\r\n\v\f") != c.KeyAuthorization {
		return failed(core.Unauthorized, "%q answered with something else than the key authorization", host(c.Name))
	}
	return nil
}

// single is an http.RoundTripper for one question on one connection, on the goroutine that asks. That of net/http keeps connections, for which it has
// two goroutines each and a third that dials; a validation needs one answer of a hundred octets.
type single struct{ v *Validator }

// RoundTrip asks. The request's context must have a deadline, which holds for all of it.
func (s single) RoundTrip(r *http.Request) (*http.Response, error) {
	ctx := r.Context()
	conn, err := s.connect(ctx, r.URL)
	if err != nil {
		return nil, err
	}
	cut := context.AfterFunc(ctx, func() { _ = conn.Close() })
	end := func() {
		cut()
		_ = conn.Close() // it was read only
	}
	answer, err := ask(ctx, conn, r)
	if err != nil {
		end()
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return nil, err
	}
	answer.Body = &ending{answer.Body, end}
	return answer, nil
}

// ending is a body that ends the connection, whatever is left of it.
type ending struct {
	io.Reader
	end func()
}

// Close closes the connection.
func (e *ending) Close() error {
	e.end()
	return nil
}

func (s single) connect(ctx context.Context, u *url.URL) (net.Conn, error) {
	port := 80
	if u.Scheme == "https" {
		port = 443
	}
	if text := u.Port(); text != "" {
		n, err := strconv.ParseUint(text, 10, 16)
		if err != nil {
			return nil, err
		}
		port = int(n)
	}
	conn, err := s.v.dial(ctx, u.Hostname(), port)
	if err != nil || u.Scheme != "https" {
		return conn, err
	}
	// Whoever asks for his first certificate has no other: what counts is what is read.
	secure := tls.Client(conn, &tls.Config{ServerName: u.Hostname(), InsecureSkipVerify: true})
	hello, cancel := context.WithTimeout(ctx, dialTime)
	defer cancel()
	if err := secure.HandshakeContext(hello); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return secure, nil
}

// ask writes the question and reads the header of the answer.
func ask(ctx context.Context, conn net.Conn, r *http.Request) (*http.Response, error) {
	if at, ok := ctx.Deadline(); ok {
		if err := conn.SetDeadline(at); err != nil {
			return nil, err
		}
	}
	own := *r
	own.Close = true
	var text bytes.Buffer
	if err := own.Write(&text); err != nil {
		return nil, err
	}
	if _, err := conn.Write(text.Bytes()); err != nil {
		return nil, err
	}
	in := bufio.NewReaderSize(io.LimitReader(conn, maxHeader+2*maxBody), 2048)
	for range maxInterim {
		answer, err := http.ReadResponse(in, r)
		if err != nil || answer.StatusCode >= 200 {
			return answer, err
		}
	}
	return nil, errors.New("too many interim answers")
}

// redirect lets a redirection pass that leads to http or https on its own port.
func (v *Validator) redirect(r *http.Request, via []*http.Request) error {
	port := r.URL.Port()
	usual := port == "" || r.URL.Scheme == "http" && (port == "80" || port == strconv.Itoa(v.o.HTTPPort)) || r.URL.Scheme == "https" && (port == "443" || port == strconv.Itoa(v.o.TLSPort))
	switch {
	case len(via) > maxRedirects:
		return wrong(core.Connection, "more than %d redirections", maxRedirects)
	case r.URL.Scheme != "http" && r.URL.Scheme != "https":
		return wrong(core.Connection, "a redirection to something else than http or https")
	case !usual:
		return wrong(core.Connection, "a redirection to another port than 80 or 443")
	case r.URL.User != nil:
		return wrong(core.Connection, "a redirection with a user name")
	}
	return nil
}

// fetchFailed finds the reason in what net/http wraps around it.
func fetchFailed(host string, err error) error {
	var e *url.Error
	if errors.As(err, &e) {
		err = e.Err
	}
	if errs.KindOf(err) != errs.Internal {
		return err
	}
	return failed(core.Connection, "the answer of %q broke off or could not be read: %s", host, plainly(err))
}
