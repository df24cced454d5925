// Package acme is the device's side of the Automatic Certificate Management Environment (RFC 8555): it makes or finds the account of a key, bound to a
// device by its token where the server demands it, orders a certificate, shows by http-01 that it controls the names, and fetches the
// certificate with its chain.
//
// A Client survives what servers may do: each message is signed again with the nonce of the refusal when the nonce was not good (section 6.5),
// however often that happens within reason, and it waits as long as Retry-After says, in seconds or as a date. What is read is bounded.
//
// With device-attest-01 it shows by a statement of the device's hardware that it is that device, and it has the attestation key of a TPM certified.
//
// It keeps nothing: whoever uses it keeps the keys. Other challenges are not met.
package acme

import (
	"bytes"
	"context"
	"crypto"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"mooring/wire/acme"
)

// The bounds of a conversation.
const (
	maxAnswer   = 1 << 20 // octets
	maxBadNonce = 20      // in a row
	leastPause  = 200 * time.Millisecond
	mostPause   = time.Minute
	maxPolls    = 200
	keptNonces  = 16
)

// Error is a problem that the server told of.
type Error struct {
	acme.Problem
	Retry time.Duration // when to ask again; 0 = it did not say
}

// Error returns what the server said.
func (e *Error) Error() string {
	text := strings.TrimPrefix(e.Type, acme.ErrorPrefix)
	if e.Detail != "" {
		text += ": " + e.Detail
	}
	for _, s := range e.Subproblems {
		if !strings.Contains(e.Detail, s.Detail) { // the first one often stands there already
			text += "; " + s.Detail
		}
	}
	return text
}

// Is reports whether the problem is of the type that a name such as "badNonce" stands for.
func Is(err error, name string) bool {
	var e *Error
	return errors.As(err, &e) && e.Type == acme.ErrorPrefix+name
}

// Client speaks for one account. Fill in the exported fields, then call Register. It is safe for concurrent use after that.
type Client struct {
	Directory string       // its address, https
	HTTP      *http.Client // which knows whom to trust
	Key       crypto.Signer
	Now       func() time.Time
	// Pause waits; nil waits in earnest. Tests replace it.
	Pause func(ctx context.Context, d time.Duration) error

	directory acme.Directory
	account   string
	key       *acme.Key

	mu     sync.Mutex
	nonces []string // guarded by mu
}

// Binding ties the account to a device: its external name and its token, or what BindBirth got.
type Binding struct{ Name, Token string }

// BindBirth gets a binding for the device that HTTP connects as: by the certificate of its manufacturer. Of the Client only Directory, HTTP and Now need be
// filled in. Servers other than Mooring do not know this.
func (c *Client) BindBirth(ctx context.Context) (*Binding, error) {
	var d acme.Directory
	if err := c.getJSON(ctx, c.Directory, &d); err != nil {
		return nil, fmt.Errorf("reading the directory: %w", err)
	}
	if d.BindBirth == "" {
		return nil, errors.New("the server takes no certificates of manufacturers by ACME: use the device's token")
	}
	r, err := c.send(ctx, http.MethodPost, d.BindBirth, nil)
	if err != nil {
		return nil, err
	}
	var b acme.BirthBinding
	if err := c.read(r, &b); err != nil {
		return nil, fmt.Errorf("showing the certificate of the manufacturer: %w", err)
	}
	key, err := base64.RawURLEncoding.DecodeString(b.Key)
	if err != nil || b.KID == "" || len(key) == 0 {
		return nil, errors.New("showing the certificate of the manufacturer: the answer holds no binding")
	}
	return &Binding{Name: b.KID, Token: string(key)}, nil
}

// Register reads the directory and makes the account of the key, or finds it. binding may be nil.
func (c *Client) Register(ctx context.Context, binding *Binding) (err error) {
	if c.key, err = acme.NewKey(c.Key.Public()); err != nil {
		return err
	}
	if c.Pause == nil {
		c.Pause = wait
	}
	if err := c.getJSON(ctx, c.Directory, &c.directory); err != nil {
		return fmt.Errorf("reading the directory: %w", err)
	}
	if c.directory.NewNonce == "" || c.directory.NewAccount == "" || c.directory.NewOrder == "" {
		return errors.New("reading the directory: it does not say where to go")
	}
	n := acme.NewAccount{TermsOfServiceAgreed: true}
	if binding != nil {
		// Whoever lost the answer finds the account by its key, though the token is spent.
		if n.ExternalAccountBinding, err = acme.Bind(c.key, binding.Name, []byte(binding.Token), c.directory.NewAccount); err != nil {
			return err
		}
	}
	r, err := c.post(ctx, c.directory.NewAccount, n, &acme.Account{})
	if err != nil {
		return fmt.Errorf("making the account: %w", err)
	}
	if c.account = r.Header.Get("Location"); c.account == "" {
		return errors.New("making the account: the server does not say where it is")
	}
	return nil
}

// Account returns the account's address.
func (c *Client) Account() string { return c.account }

// Profiles returns the profiles that the server offers, with their descriptions.
func (c *Client) Profiles() map[string]string { return c.directory.Meta.Profiles }

// Solver answers challenges: Present makes keyAuthorization readable under token (section 8.3), and the returned function takes it away.
type Solver interface {
	Present(token, keyAuthorization string) (remove func(), err error)
}

// Obtain orders a certificate for csr, PKCS#10 in DER, which must ask for exactly the names. It returns the certificate and those above it, in DER.
func (c *Client) Obtain(ctx context.Context, wanted acme.NewOrder, csr []byte, solver Solver) (chain [][]byte, err error) {
	var o acme.Order
	r, err := c.post(ctx, c.directory.NewOrder, wanted, &o)
	if err != nil {
		return nil, fmt.Errorf("ordering: %w", err)
	}
	url := r.Header.Get("Location")
	for _, authz := range o.Authorizations {
		if err := c.authorize(ctx, authz, solver); err != nil {
			return nil, err
		}
	}
	if _, err := c.post(ctx, o.Finalize, acme.Finalize{CSR: base64.RawURLEncoding.EncodeToString(csr)}, &o); err != nil {
		return nil, fmt.Errorf("asking for the certificate: %w", err)
	}
	if o.Status != acme.StatusValid {
		if err := c.poll(ctx, url, &o, func() (bool, error) {
			if o.Status == acme.StatusInvalid {
				return false, fmt.Errorf("the order is invalid: %w", problemOf(o.Error))
			}
			return o.Status == acme.StatusValid, nil
		}); err != nil {
			return nil, fmt.Errorf("waiting for the certificate: %w", err)
		}
	}
	return c.fetch(ctx, o.Certificate)
}

func problemOf(p *acme.Problem) error {
	if p == nil {
		return errors.New("the server does not say why")
	}
	return &Error{Problem: *p}
}

// authorize shows the right to one name by http-01 or device-attest-01.
func (c *Client) authorize(ctx context.Context, url string, solver Solver) error {
	var z acme.Authorization
	if _, err := c.post(ctx, url, nil, &z); err != nil {
		return fmt.Errorf("reading an authorization: %w", err)
	}
	if z.Status == acme.StatusValid {
		return nil
	}
	for _, ch := range z.Challenges {
		attest, attests := solver.(Attest)
		if solver == nil || !(ch.Type == acme.HTTP01 && !attests || ch.Type == acme.DeviceAttest01 && attests) {
			continue
		}
		var answer any = struct{}{}
		auth := acme.KeyAuthorization(ch.Token, c.key.Thumbprint[:])
		if attests {
			object, err := attest(ch.Token, auth)
			if err != nil {
				return fmt.Errorf("attesting: %w", err)
			}
			answer = acme.Attestation{AttObj: base64.RawURLEncoding.EncodeToString(object)}
		} else {
			remove, err := solver.Present(ch.Token, auth)
			if err != nil {
				return fmt.Errorf("presenting the answer to a challenge: %w", err)
			}
			defer remove()
		}
		var now acme.Challenge
		var err error
		if _, err = c.post(ctx, ch.URL, answer, &now); err != nil {
			return fmt.Errorf("asking for the validation of %q: %w", z.Identifier.Value, err)
		}
		if now.Status == acme.StatusValid {
			return nil
		}
		err = c.poll(ctx, url, &z, func() (bool, error) {
			if z.Status == acme.StatusPending || z.Status == acme.StatusValid {
				return z.Status == acme.StatusValid, nil
			}
			for _, ch := range z.Challenges {
				if ch.Error != nil {
					return false, problemOf(ch.Error)
				}
			}
			return false, fmt.Errorf("the authorization is %s", z.Status)
		})
		if err != nil {
			return fmt.Errorf("validating %q: %w", z.Identifier.Value, err)
		}
		return nil
	}
	return fmt.Errorf("showing the right to %q: the server offers no challenge that can be met here; http-01 can be with --http-listen", z.Identifier.Value)
}

// poll asks for what is at url until done says so.
func (c *Client) poll(ctx context.Context, url string, into any, done func() (bool, error)) error {
	pause := leastPause
	for range maxPolls {
		r, err := c.post(ctx, url, nil, into)
		if err != nil {
			return err
		}
		if ok, err := done(); ok || err != nil {
			return err
		}
		pause = min(max(c.retryAfter(r), pause*3/2), mostPause)
		if err := c.Pause(ctx, pause); err != nil {
			return err
		}
	}
	return errors.New("it takes too long")
}

// fetch downloads a certificate chain (section 7.4.2).
func (c *Client) fetch(ctx context.Context, url string) (chain [][]byte, err error) {
	var text []byte
	if _, err := c.post(ctx, url, nil, &text); err != nil {
		return nil, fmt.Errorf("fetching the certificate: %w", err)
	}
	return decode(text)
}

func decode(text []byte) (chain [][]byte, err error) {
	for rest := text; ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			return nil, errors.New("fetching the certificate: the answer holds something else")
		}
		chain = append(chain, block.Bytes)
	}
	if len(chain) == 0 {
		return nil, errors.New("fetching the certificate: the answer holds none")
	}
	return chain, nil
}

// Revoke revokes a certificate on the account's word (section 7.6).
func (c *Client) Revoke(ctx context.Context, der []byte, reason int) error {
	_, err := c.post(ctx, c.directory.RevokeCert, acme.Revoke{Certificate: base64.RawURLEncoding.EncodeToString(der), Reason: &reason}, nil)
	return err
}

// ErrNoRenewalInfo says that the server does not tell when to renew.
var ErrNoRenewalInfo = errors.New("the server offers no renewal information")

// RenewalInfo asks when to renew a certificate (RFC 9773). again is when to ask the next time; 0: the server did not say. Anybody may ask: of the Client only
// Directory, HTTP and Now need be filled in.
func (c *Client) RenewalInfo(ctx context.Context, id acme.CertID) (w acme.Window, again time.Duration, err error) {
	var info acme.RenewalInfo
	d := c.directory
	if d.RenewalInfo == "" {
		if err := c.getJSON(ctx, c.Directory, &d); err != nil {
			return w, 0, fmt.Errorf("reading the directory: %w", err)
		}
	}
	if d.RenewalInfo == "" {
		return w, 0, ErrNoRenewalInfo
	}
	r, err := c.send(ctx, http.MethodGet, d.RenewalInfo+"/"+id.String(), nil)
	if err != nil {
		return w, 0, err
	}
	err = c.read(r, &info)
	return info.SuggestedWindow, c.retryAfter(r), err
}

// post sends a signed message, a POST-as-GET when payload is nil, and decodes the answer into a JSON value or a *[]byte.
func (c *Client) post(ctx context.Context, url string, payload, into any) (*http.Response, error) {
	body := []byte{}
	if payload != nil {
		var err error
		if body, err = json.Marshal(payload); err != nil {
			return nil, err
		}
	}
	for n := 0; ; n++ {
		nonce, err := c.nonce(ctx)
		if err != nil {
			return nil, err
		}
		message, err := acme.Sign(c.Key, acme.Header{KID: c.account, Nonce: nonce, URL: url}, body)
		if err != nil {
			return nil, err
		}
		r, err := c.send(ctx, http.MethodPost, url, message)
		if err != nil {
			return nil, err
		}
		c.keep(r)
		err = c.read(r, into)
		if Is(err, "badNonce") && n < maxBadNonce {
			continue // section 6.5: with the nonce of that answer
		}
		return r, err
	}
}

// nonce returns one that was kept, the newest first, or asks for one.
func (c *Client) nonce(ctx context.Context) (string, error) {
	c.mu.Lock()
	if n := len(c.nonces); n > 0 {
		last := c.nonces[n-1]
		c.nonces = c.nonces[:n-1]
		c.mu.Unlock()
		return last, nil
	}
	c.mu.Unlock()
	r, err := c.send(ctx, http.MethodHead, c.directory.NewNonce, nil)
	if err != nil {
		return "", err
	}
	r.Body.Close()
	if nonce := r.Header.Get("Replay-Nonce"); nonce != "" {
		return nonce, nil
	}
	return "", errors.New("the server gives no nonces")
}

func (c *Client) keep(r *http.Response) {
	nonce := r.Header.Get("Replay-Nonce")
	if nonce == "" {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.nonces) >= keptNonces {
		c.nonces = c.nonces[1:]
	}
	c.nonces = append(c.nonces, nonce)
}

func (c *Client) send(ctx context.Context, method, url string, body []byte) (*http.Response, error) {
	r, err := http.NewRequestWithContext(ctx, method, url, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	if r.URL.Scheme != "https" {
		return nil, fmt.Errorf("the server sends to %q, which is not https", url)
	}
	r.Header.Set("User-Agent", "mooring-agent")
	if method == http.MethodPost {
		r.Header.Set("Content-Type", acme.TypeRequest)
	}
	return c.HTTP.Do(r)
}

func (c *Client) getJSON(ctx context.Context, url string, into any) error {
	r, err := c.send(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	c.keep(r)
	return c.read(r, into)
}

// read decodes an answer, or returns the problem in it.
func (c *Client) read(r *http.Response, into any) error {
	defer r.Body.Close()
	text, err := io.ReadAll(io.LimitReader(r.Body, maxAnswer+1))
	if err != nil {
		return err
	}
	if len(text) > maxAnswer {
		return errors.New("the answer is too long")
	}
	if r.StatusCode >= 400 {
		e := &Error{Retry: c.retryAfter(r)}
		if json.Unmarshal(text, &e.Problem) != nil || e.Type == "" {
			e.Type, e.Detail = acme.ErrorPrefix+"serverInternal", "the server answered with status "+strconv.Itoa(r.StatusCode)
		}
		return e
	}
	switch into := into.(type) {
	case nil:
		return nil
	case *[]byte:
		*into = text
		return nil
	}
	if err := json.Unmarshal(text, into); err != nil {
		return fmt.Errorf("the answer cannot be read: %w", err)
	}
	return nil
}

// retryAfter reads Retry-After in either of its forms (RFC 9110, section 10.2.3).
func (c *Client) retryAfter(r *http.Response) time.Duration {
	text := r.Header.Get("Retry-After")
	if n, err := strconv.ParseUint(text, 10, 31); err == nil {
		return time.Duration(n) * time.Second
	}
	if at, err := http.ParseTime(text); err == nil {
		return max(at.Sub(c.Now()), 0)
	}
	return 0
}

func wait(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
