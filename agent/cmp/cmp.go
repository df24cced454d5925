// Package cmp is a client of the Certificate Management Protocol (RFC 9483, RFC 9810) over HTTP (RFC 9811) for devices. It speaks to any server of the
// standard.
//
//	client, err := cmp.New(cmp.Config{Server: "cmp://pki.example.test:8081"})
//	result, err := client.Order(ctx, cmp.Credential{Name: "dev1", Secret: token}, cmp.Order{Key: key, Subject: subject})
//
// Messages protect themselves: by a MAC with the secret that both sides have, or by signatures. With a secret the answer's MAC proves the server, so
// that a device needs to know nothing else at its first contact and takes the roots from the answer. A signed answer is believed when its certificate
// leads to Config.Roots, is one of a server (serverAuth), and is for the host that was asked, as in TLS: a device of the same authority cannot pose
// as the server.
//
// A certificate is confirmed before Order returns it. When the answer to that was lost the same order may be made again. Errors are *est.PendingError,
// *est.RefusedError and *est.UnreachableError, as for the other protocol.
//
// The package stores nothing and makes no keys; package agent does. It does not do key agreement, keys made by the server, revocation or HTTPS.
package cmp

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"mooring/agent/est"
	"mooring/wire/cmp"
	"mooring/wire/der"
	wire "mooring/wire/est"
)

// Scheme begins the URLs of servers.
const Scheme = "cmp"

const (
	exchangeTimeout = 90 * time.Second
	pollMost        = 3                // in one order; then it is pending
	pollWait        = 10 * time.Second // the longest that is waited for within an order
	confirmTries    = 3
)

// Config says which server a client speaks to and why it believes it.
type Config struct {
	// Server is "cmp://host:port", with a path where it is not that of RFC 9811.
	Server string
	// Label names a profile of the server; often empty.
	Label string
	// Roots are what the certificate of a server that signs must lead to.
	Roots []*x509.Certificate
	// Now is the clock. Required.
	Now func() time.Time
	// Sleep waits; nil is in real time.
	Sleep func(ctx context.Context, d time.Duration) error
	// Dial opens connections; nil is a plain TCP dialler.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
}

// Credential is how a device proves itself: by a secret that goes with its name, or by a certificate.
type Credential struct {
	Name, Secret string
	Certificate  *tls.Certificate
}

// String keeps the secret out of printed text.
func (Credential) String() string { return "cmp.Credential(secret withheld)" }

// GoString keeps the secret out of %#v.
func (c Credential) GoString() string { return c.String() }

// Order is what a certificate is asked for with.
type Order struct {
	Key     crypto.Signer
	Subject []der.Attribute
	Names   der.AltNames
	// Old is the certificate to be renewed, whose subject and names are repeated; nil = another one is asked for.
	Old *x509.Certificate
}

// Result is what an order led to.
type Result struct {
	Certificate *x509.Certificate
	// Roots came with the proof of a shared secret; none came otherwise.
	Roots []*x509.Certificate
	// Others are certificates that may lead from the new one to a root.
	Others []*x509.Certificate
}

// Client speaks to one server.
type Client struct {
	config Config
	url    string
	host   string
	http   *http.Client
}

// New checks the configuration.
func New(c Config) (*Client, error) {
	u, err := url.Parse(c.Server)
	if err != nil || u.Scheme != Scheme || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return nil, fmt.Errorf("the CMP server %q: write it as cmp://host:port", c.Server)
	}
	host := u.Hostname()
	u.Scheme = "http"
	if strings.Trim(u.Path, "/") == "" {
		u.Path = cmp.WellKnown
		if c.Label != "" {
			u = u.JoinPath("p", c.Label)
		}
	}
	if c.Sleep == nil {
		c.Sleep = func(ctx context.Context, d time.Duration) error {
			timer := time.NewTimer(d)
			defer timer.Stop()
			select {
			case <-timer.C:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	}
	transport := &http.Transport{DialContext: c.Dial, DisableKeepAlives: true}
	return &Client{config: c, url: u.String(), host: host, http: &http.Client{Transport: transport, Timeout: exchangeTimeout,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}}, nil
}

// Order gets a certificate and confirms it.
func (c *Client) Order(ctx context.Context, by Credential, o Order) (*Result, error) {
	t := &transaction{client: c, by: by, id: nonce()}
	kind, request, err := o.build()
	if err != nil {
		return nil, fmt.Errorf("making the request: %w", err)
	}
	m, err := t.send(ctx, &cmp.Requests{As: kind, List: []cmp.Request{*request}})
	if err != nil {
		return nil, err
	}
	if m, err = t.await(ctx, kind, m); err != nil {
		return nil, err
	}
	result, err := t.result(kind, m)
	if err != nil {
		return nil, err
	}
	spki, err := der.EncodePublicKey(o.Key.Public())
	wrong := err != nil || !bytes.Equal(spki, result.Certificate.RawSubjectPublicKeyInfo) || o.Old != nil && !bytes.Equal(o.Old.RawSubject, result.Certificate.RawSubject)
	if _, implicit := cmp.Find(m.Header.Info, cmp.OIDImplicitConfirm); !implicit || wrong {
		if err := t.confirm(ctx, result.Certificate, wrong); err != nil {
			return nil, err
		}
	}
	if wrong {
		return nil, errors.New("the server gave a certificate for another key or subject than was asked for; it was rejected")
	}
	return result, nil
}

// build makes the request: an ir, or a kur when there is a certificate to be renewed. It is the same for the same order, but for the signature.
func (o *Order) build() (cmp.Kind, *cmp.Request, error) {
	kind := cmp.IR
	r := &cmp.Request{}
	names := o.Names
	var err error
	if r.Template.Subject, err = der.BuildName(o.Subject); err != nil {
		return 0, nil, err
	}
	if o.Old != nil {
		kind = cmp.KUR
		again, err := est.OrderAgain(o.Old, o.Key, nil)
		if err != nil {
			return 0, nil, err
		}
		r.Template.Subject, names = again.RawSubject, again.Names
		r.Controls = []cmp.Info{cmp.NewOldCertID(o.Old.RawIssuer, o.Old.SerialNumber.Bytes())}
	}
	if names.Count() > 0 {
		san, err := der.NewAltNames(names, false)
		if err != nil {
			return 0, nil, err
		}
		r.Template.Extensions = der.AppendElement(nil, 0x30, san.Append(nil))
	}
	if r.Template.SPKI, err = der.EncodePublicKey(o.Key.Public()); err != nil {
		return 0, nil, err
	}
	return kind, r, r.Prove(o.Key, rand.Reader)
}

// transaction is one exchange.
type transaction struct {
	client     *Client
	by         Credential
	id, theirs []byte
}

func nonce() []byte {
	n := make([]byte, 16)
	rand.Read(n)
	return n
}

// send sends a body and returns the answer once it is proven. An error message is an error.
func (t *transaction) send(ctx context.Context, body cmp.Body) (*cmp.Message, error) {
	h := cmp.Header{Version: 2, Sender: []byte(cmp.Empty), Recipient: []byte(cmp.Empty), Time: t.client.config.Now(), Transaction: t.id, SenderNonce: nonce(), RecipientNonce: t.theirs}
	if b, ok := body.(cmp.Confirmation); ok && len(b) > 0 && b[0].HashAlgorithm != nil {
		h.Version = 3
	}
	var protector cmp.Protector
	var certs [][]byte
	if cert := t.by.Certificate; cert != nil {
		key, ok := cert.PrivateKey.(crypto.Signer)
		leaf, err := x509.ParseCertificate(cert.Certificate[0])
		if err != nil || !ok {
			return nil, errors.New("the certificate of the device cannot be used")
		}
		protector, certs = &cmp.Signer{Key: key, Rand: rand.Reader}, cert.Certificate
		h.Sender, h.SenderKID = leaf.RawSubject, leaf.SubjectKeyId
	} else {
		mac, err := cmp.NewMAC([]byte(t.by.Secret), rand.Reader)
		if err != nil {
			return nil, err
		}
		protector, h.SenderKID = mac, []byte(t.by.Name)
	}
	if len(h.SenderKID) == 0 {
		h.SenderKID = nil
	}
	out, err := cmp.Build(h, body, certs, protector)
	if err != nil {
		return nil, fmt.Errorf("making a message: %w", err)
	}
	in, err := t.client.post(ctx, out)
	if err != nil {
		return nil, err
	}
	m, err := cmp.Parse(in)
	if err != nil {
		return nil, fmt.Errorf("reading the server's answer to %s: %w", body.Kind(), err)
	}
	proven := t.proven(m, h.SenderNonce)
	if failed, ok := m.Body.(*cmp.Failed); ok {
		return nil, refused(body.Kind(), failed.Status, proven)
	}
	if proven != nil {
		return nil, fmt.Errorf("the server's answer to %s is not to be believed: %w", body.Kind(), proven)
	}
	t.theirs = m.Header.SenderNonce
	return m, nil
}

func (c *Client) post(ctx context.Context, body []byte) ([]byte, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, c.url, bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("making an HTTP request: %w", err)
	}
	request.Header.Set("Content-Type", cmp.MediaType)
	response, err := c.http.Do(request)
	if err != nil {
		return nil, est.Unanswered(fmt.Errorf("asking the server: %w", err))
	}
	in, err := io.ReadAll(io.LimitReader(response.Body, cmp.MaxSize+1))
	if err := errors.Join(err, response.Body.Close()); err != nil {
		return nil, est.Unanswered(fmt.Errorf("reading the server's answer: %w", err))
	}
	if response.StatusCode != http.StatusOK {
		return nil, &est.RefusedError{Operation: Scheme, Status: response.StatusCode}
	}
	return in, nil
}

// proven checks that an answer is the server's, and to this message.
func (t *transaction) proven(m *cmp.Message, mine []byte) error {
	switch {
	case !bytes.Equal(m.Header.Transaction, t.id) || !bytes.Equal(m.Header.RecipientNonce, mine):
		return errors.New("it is not the answer to this message")
	case m.Header.Protection == nil || m.Protection == nil:
		return errors.New("it is not protected")
	case !cmp.IsMAC(m.Header.Protection):
		return t.client.signed(m)
	case t.by.Certificate != nil || t.by.Secret == "":
		return errors.New("it is protected by a secret that this device does not have")
	}
	mac, err := cmp.ParseMAC(m.Header.Protection)
	if err != nil {
		return err
	}
	mac.Secret = []byte(t.by.Secret)
	return m.CheckMAC(mac)
}

// signed checks that a server's certificate signed the answer.
func (c *Client) signed(m *cmp.Message) error {
	if len(m.Certs) == 0 {
		return errors.New("it comes without the certificate of who signed it")
	}
	certs, err := parse(m.Certs)
	if err != nil {
		return err
	}
	roots := x509.NewCertPool()
	for _, root := range c.config.Roots {
		roots.AddCert(root)
	}
	options := x509.VerifyOptions{Roots: roots, Intermediates: der.Intermediates(certs[1:]), CurrentTime: c.config.Now(), DNSName: c.host, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
	if _, err := certs[0].Verify(options); err != nil {
		return fmt.Errorf("checking the server's certificate: %w", err)
	}
	return m.Verify(certs[0].PublicKey)
}

func parse(list [][]byte) (certs []*x509.Certificate, err error) {
	for _, raw := range list {
		cert, err := x509.ParseCertificate(raw)
		if err != nil {
			return nil, fmt.Errorf("reading a certificate from the server: %w", err)
		}
		certs = append(certs, cert)
	}
	return certs, nil
}

// refused makes an error of a rejection. One that is not proven ends nothing but this attempt, and is told as such.
func refused(k cmp.Kind, s cmp.Status, unproven error) error {
	status := http.StatusForbidden
	for _, f := range s.Failures {
		switch f {
		case cmp.SystemUnavail:
			status = http.StatusServiceUnavailable
		case cmp.SystemFailure:
			status = http.StatusInternalServerError
		case cmp.BadMessageCheck, cmp.SignerNotTrusted:
			status = http.StatusUnauthorized
		}
	}
	reason := est.Clean(s.String())
	if unproven != nil {
		reason += " (this answer is not proven to be the server's: " + unproven.Error() + ")"
	}
	return &est.RefusedError{Operation: wire.Operation(k.String()), Status: status, Reason: reason}
}

// await polls while the server has not decided, for a little; then the order is pending.
func (t *transaction) await(ctx context.Context, kind cmp.Kind, m *cmp.Message) (*cmp.Message, error) {
	for range pollMost {
		if r, ok := m.Body.(*cmp.Responses); !ok || r.List[0].Status.Status != cmp.Waiting {
			return m, nil
		}
		answer, err := t.send(ctx, cmp.Poll{0})
		if err != nil {
			return nil, err
		}
		later, ok := answer.Body.(cmp.Wait)
		if !ok {
			m = answer
			continue
		}
		after := time.Duration(min(later[0].After, 7*24*3600)) * time.Second
		if after > pollWait {
			return nil, &est.PendingError{RetryAfter: after}
		}
		if err := t.client.config.Sleep(ctx, max(after, time.Second)); err != nil {
			return nil, err
		}
	}
	if r, ok := m.Body.(*cmp.Responses); ok && r.List[0].Status.Status == cmp.Waiting {
		return nil, &est.PendingError{RetryAfter: time.Minute}
	}
	return m, nil
}

// result takes the certificate out of an answer.
func (t *transaction) result(kind cmp.Kind, m *cmp.Message) (*Result, error) {
	r, ok := m.Body.(*cmp.Responses)
	want := map[cmp.Kind]cmp.Kind{cmp.IR: cmp.IP, cmp.KUR: cmp.KUP}[kind]
	if !ok || r.As != want || len(r.List) != 1 || r.List[0].ID != 0 {
		return nil, fmt.Errorf("the server answered %s with a %s", kind, m.Body.Kind())
	}
	one := r.List[0]
	if one.Status.Status == cmp.Rejection {
		return nil, refused(kind, one.Status, nil)
	}
	if one.Certificate == nil {
		return nil, fmt.Errorf("the server accepted a %s and sent no certificate", kind)
	}
	cert, err := x509.ParseCertificate(one.Certificate)
	if err != nil {
		return nil, fmt.Errorf("reading the certificate: %w", err)
	}
	out := &Result{Certificate: cert}
	if out.Others, err = parse(m.Certs); err != nil {
		return nil, err
	}
	if cmp.IsMAC(m.Header.Protection) { // only who shares the secret may name roots
		out.Roots, err = parse(r.CAPubs)
	}
	return out, err
}

// confirm tells the server that the certificate came, or that it is not wanted. It is told again when the answer is lost.
func (t *transaction) confirm(ctx context.Context, cert *x509.Certificate, reject bool) error {
	sum := crypto.SHA256.New()
	sum.Write(cert.Raw)
	status := cmp.CertStatus{Hash: sum.Sum(nil)}
	if h := signatureHash(cert.SignatureAlgorithm); h != crypto.SHA256 {
		status.HashAlgorithm = cmp.SHA256Identifier() // and pvno 3
		if h != 0 && h.Available() {
			sum = h.New()
			sum.Write(cert.Raw)
			status.Hash, status.HashAlgorithm = sum.Sum(nil), nil
		}
	}
	if reject {
		status.Status = cmp.Refused(cmp.IncorrectData, "not the certificate that was asked for")
	}
	theirs := t.theirs
	var err error
	for range confirmTries {
		t.theirs = theirs
		var m *cmp.Message
		if m, err = t.send(ctx, cmp.Confirmation{status}); err == nil {
			if m.Body.Kind() != cmp.PKIConf {
				return fmt.Errorf("the server answered certConf with a %s", m.Body.Kind())
			}
			return nil
		}
		var away *est.UnreachableError
		if !errors.As(err, &away) || ctx.Err() != nil {
			return err
		}
	}
	return err
}

// signatureHash is the hash of a certificate's signature algorithm; 0 for those that have none.
func signatureHash(a x509.SignatureAlgorithm) crypto.Hash {
	switch a {
	case x509.SHA256WithRSA, x509.ECDSAWithSHA256, x509.SHA256WithRSAPSS:
		return crypto.SHA256
	case x509.SHA384WithRSA, x509.ECDSAWithSHA384, x509.SHA384WithRSAPSS:
		return crypto.SHA384
	case x509.SHA512WithRSA, x509.ECDSAWithSHA512, x509.SHA512WithRSAPSS:
		return crypto.SHA512
	}
	return 0
}

// RootUpdate asks for the root that follows one that the device trusts (RFC 9483, section 4.3.2). It returns nil when there is none, or when the old
// root does not vouch for it.
func (c *Client) RootUpdate(ctx context.Context, by Credential, old *x509.Certificate) (*x509.Certificate, error) {
	t := &transaction{client: c, by: by, id: nonce()}
	m, err := t.send(ctx, &cmp.General{As: cmp.GenM, List: []cmp.Info{{Type: cmp.OIDRootCACert, Value: old.Raw}}})
	if err != nil {
		return nil, err
	}
	g, ok := m.Body.(*cmp.General)
	if !ok || g.As != cmp.GenP {
		return nil, fmt.Errorf("the server answered genm with a %s", m.Body.Kind())
	}
	info, there := cmp.Find(g.List, cmp.OIDRootUpdate)
	if !there || info.Value == nil {
		return nil, nil
	}
	update, err := cmp.ParseRootUpdate(info.Value)
	if err != nil {
		return nil, fmt.Errorf("reading the next root: %w", err)
	}
	if update.NewWithOld == nil {
		return nil, nil
	}
	certs, err := parse([][]byte{update.NewWithNew, update.NewWithOld})
	if err != nil {
		return nil, err
	}
	linked, _ := (&est.Bundle{Roots: certs[:1], Others: certs[1:]}).Linked([]*x509.Certificate{old}, c.config.Now())
	if len(linked) != 1 {
		return nil, nil
	}
	return linked[0], nil
}
