// Package scep is a client of the Simple Certificate Enrolment Protocol (RFC 8894) for devices. It speaks to any server of the standard.
//
//	client, err := scep.New(scep.Config{Server: "scep://pki.example.test:8090/scep/printer", Roots: roots, Now: time.Now})
//	result, err := client.Order(ctx, scep.Credential{Name: "printer-1", Secret: token}, scep.Order{Key: key, Subject: subject})
//
// The server is believed by its registration authority's certificate, which must lead to Config.Roots, be for signatures and for encrypting keys, and not be one of
// a client or server: GetCACert is not protected, and the first message holds the device's secret. The protocol has RSA keys only; for devices with others there
// are better ones.
//
// The order made again with the same key is the same one to the server. Errors are *est.PendingError, *est.RefusedError and *est.UnreachableError, as for the other
// protocols. The package stores nothing and makes no keys that live longer than a message; package agent does.
package scep

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"mooring/agent/est"
	"mooring/wire/cms"
	"mooring/wire/der"
	wire "mooring/wire/est"
	"mooring/wire/scep"
)

// Scheme begins the URLs of servers.
const Scheme = "scep"

const (
	exchangeTimeout = 90 * time.Second
	maxAnswer       = cms.MaxSize
	retryAfter      = time.Minute // the protocol does not say when to ask again
)

// Config says which server a client speaks to and why it believes it.
type Config struct {
	Server string // "scep://host:port/path"; the path is often /scep/PROFILE
	// Roots are what the certificate of the registration authority must lead to.
	Roots []*x509.Certificate
	// Now is the clock. Required.
	Now func() time.Time
	// Dial opens connections; nil is a plain TCP dialler.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
}

// Credential is how a device proves itself: by a secret that goes with its name, or by the certificate that it has.
type Credential struct {
	Name, Secret string
	Certificate  *tls.Certificate
}

// String keeps the secret out of printed text.
func (Credential) String() string { return "scep.Credential(secret withheld)" }

// GoString keeps the secret out of %#v.
func (c Credential) GoString() string { return c.String() }

// Order is what a certificate is asked for with.
type Order struct {
	Key     *rsa.PrivateKey
	Subject []der.Attribute
	Names   der.AltNames
	// Old is the certificate to be renewed, whose subject and names are repeated; nil = another one is asked for.
	Old *x509.Certificate
}

// Result is what an order led to.
type Result struct {
	Certificate *x509.Certificate
	// Others are the CA certificates that the server told, which may lead from the new one to a root.
	Others []*x509.Certificate
}

// Client speaks to one server.
type Client struct {
	config Config
	url    string
	http   *http.Client
}

// New checks the configuration.
func New(c Config) (*Client, error) {
	u, err := url.Parse(c.Server)
	if err != nil || u.Scheme != Scheme || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return nil, fmt.Errorf("the SCEP server %q: write it as scep://host:port/scep/PROFILE", c.Server)
	}
	if len(c.Roots) == 0 {
		return nil, errors.New("a SCEP server is believed by its root: give it")
	}
	u.Scheme = "http"
	if strings.Trim(u.Path, "/") == "" {
		u.Path = "/scep"
	}
	transport := &http.Transport{DialContext: c.Dial, DisableKeepAlives: true}
	return &Client{config: c, url: u.String(), http: &http.Client{Transport: transport, Timeout: exchangeTimeout,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}}, nil
}

// Order gets a certificate.
func (c *Client) Order(ctx context.Context, by Credential, o Order) (*Result, error) {
	ra, others, err := c.authority(ctx)
	if err != nil {
		return nil, err
	}
	t := transaction{client: c, ra: ra}
	csr, err := o.request(by)
	if err != nil {
		return nil, fmt.Errorf("making the request: %w", err)
	}
	kind := scep.PKCSReq
	if t.key, t.cert, err = signer(by, &o); err != nil {
		return nil, err
	}
	if o.Old != nil {
		kind = scep.RenewalReq
	}
	content, err := t.send(ctx, kind, csr)
	if err != nil {
		return nil, err
	}
	certs, err := cms.ParseCertsOnly(content)
	if err != nil {
		return nil, fmt.Errorf("reading the certificate: %w", err)
	}
	spki, err := der.EncodePublicKey(&o.Key.PublicKey)
	if err != nil {
		return nil, err
	}
	for _, raw := range certs {
		cert, err := x509.ParseCertificate(raw)
		if err != nil {
			return nil, fmt.Errorf("reading the certificate: %w", err)
		}
		if bytes.Equal(cert.RawSubjectPublicKeyInfo, spki) {
			return &Result{Certificate: cert, Others: others}, nil
		}
		others = append(others, cert)
	}
	return nil, errors.New("the server sent no certificate for the key that it was asked to certify")
}

// authority returns the certificate of the registration authority, proven, and all that the server told.
func (c *Client) authority(ctx context.Context) (ra *x509.Certificate, all []*x509.Certificate, err error) {
	body, err := c.exchange(ctx, http.MethodGet, "GetCACert", nil)
	if err != nil {
		return nil, nil, err
	}
	list, err := cms.ParseCertsOnly(body)
	if err != nil { // a CA that is its own registration authority comes alone
		list = [][]byte{body}
	}
	roots := x509.NewCertPool()
	for _, root := range c.config.Roots {
		roots.AddCert(root)
	}
	for _, raw := range list {
		cert, err := x509.ParseCertificate(raw)
		if err != nil {
			return nil, nil, fmt.Errorf("reading the server's CA certificates: %w", err)
		}
		all = append(all, cert)
	}
	between := der.Intermediates(all)
	why := errors.New("none of them is for signatures and for encrypting keys")
	for _, cert := range all {
		if !isAuthority(cert) {
			continue
		}
		_, err := cert.Verify(x509.VerifyOptions{Roots: roots, Intermediates: between, CurrentTime: c.config.Now(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}})
		if err == nil {
			return cert, all, nil
		}
		why = err
	}
	return nil, nil, fmt.Errorf("no certificate of the server's is one of a registration authority that leads to a trusted root: %w", why)
}

// isAuthority tells whether a certificate can be that of a registration authority. One of a client or a server under the same root is not.
func isAuthority(cert *x509.Certificate) bool {
	const need = x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment
	if _, ok := cert.PublicKey.(*rsa.PublicKey); !ok || cert.KeyUsage&need != need {
		return false
	}
	return !slices.Contains(cert.ExtKeyUsage, x509.ExtKeyUsageClientAuth) && !slices.Contains(cert.ExtKeyUsage, x509.ExtKeyUsageServerAuth)
}

// request makes the PKCS #10 request. Its challenge is the secret, with the name before it when the subject does not say it.
func (o *Order) request(by Credential) ([]byte, error) {
	spki, err := der.EncodePublicKey(&o.Key.PublicKey)
	if err != nil {
		return nil, err
	}
	spec := der.RequestSpec{Subject: o.Subject, Names: o.Names, SPKI: spki}
	switch {
	case o.Old != nil:
		again, err := est.OrderAgain(o.Old, o.Key, nil)
		if err != nil {
			return nil, err
		}
		spec.RawSubject, spec.Names = again.RawSubject, again.Names
	case by.Secret != "":
		spec.ChallengePassword = by.Secret
		if !slices.ContainsFunc(o.Subject, func(a der.Attribute) bool { return a.Type == der.OIDCommonName && a.Value == by.Name }) {
			spec.ChallengePassword = by.Name + ":" + by.Secret
		}
	}
	info, err := der.AppendRequestInfo(nil, spec)
	if err != nil {
		return nil, err
	}
	algorithm, err := der.AlgorithmFor(&o.Key.PublicKey)
	if err != nil {
		return nil, err
	}
	signature, err := o.Key.Sign(rand.Reader, algorithm.Digest(info), algorithm.Hash())
	if err != nil {
		return nil, err
	}
	return der.Wrap(nil, info, algorithm, signature), nil
}

// signer returns what signs the message and decrypts its answer: the present certificate, or one that the new key makes for itself.
func signer(by Credential, o *Order) (*rsa.PrivateKey, *x509.Certificate, error) {
	if by.Certificate != nil {
		key, ok := by.Certificate.PrivateKey.(*rsa.PrivateKey)
		if !ok {
			return nil, nil, errors.New("SCEP has RSA keys only, and the present certificate has another one: use another protocol")
		}
		cert, err := x509.ParseCertificate(by.Certificate.Certificate[0])
		return key, cert, err
	}
	subject, err := der.BuildName(o.Subject)
	if err != nil {
		return nil, nil, err
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), RawSubject: subject, NotBefore: time.Unix(0, 0), NotAfter: time.Date(2049, 12, 31, 0, 0, 0, 0, time.UTC),
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment}
	raw, err := x509.CreateCertificate(rand.Reader, template, template, &o.Key.PublicKey, o.Key)
	if err != nil {
		return nil, nil, fmt.Errorf("making a certificate for the message: %w", err)
	}
	cert, err := x509.ParseCertificate(raw)
	return o.Key, cert, err
}

// transaction is one exchange with the authority.
type transaction struct {
	client *Client
	ra     *x509.Certificate
	key    *rsa.PrivateKey
	cert   *x509.Certificate
}

// send sends a message and returns what the answer holds, once it is proven.
func (t *transaction) send(ctx context.Context, kind scep.MessageType, content []byte) ([]byte, error) {
	nonce := make([]byte, scep.NonceSize)
	rand.Read(nonce)
	sum := sha256.Sum256(content)
	id := hex.EncodeToString(sum[:16])
	out, err := scep.Build(scep.Input{Type: kind, Transaction: id, SenderNonce: nonce, Content: content, Recipient: t.ra, Cipher: cms.AES256CBC,
		Signer: t.key, Certificate: t.cert, Rand: rand.Reader})
	if err != nil {
		return nil, fmt.Errorf("making a message: %w", err)
	}
	in, err := t.client.exchange(ctx, http.MethodPost, "PKIOperation", out)
	if err != nil {
		return nil, err
	}
	m, err := scep.Parse(in)
	switch {
	case err != nil:
		return nil, fmt.Errorf("reading the server's answer: %w", err)
	case !m.Signer.Equal(t.ra):
		return nil, errors.New("the server's answer is not to be believed: another than the registration authority signed it")
	case m.Type != scep.CertRep || m.Transaction != id || !bytes.Equal(m.RecipientNonce, nonce):
		return nil, errors.New("the server's answer is not to be believed: it is not the answer to this message")
	case m.Status == scep.Pending:
		return nil, &est.PendingError{RetryAfter: retryAfter}
	case m.Status != scep.Success:
		reason := m.FailInfo.String()
		if m.FailText != "" {
			reason += ": " + est.Clean(m.FailText)
		}
		return nil, &est.RefusedError{Operation: wire.Operation(kind.String()), Status: http.StatusForbidden, Reason: reason}
	}
	answer, err := m.Open(scep.OpenKey{Certificate: t.cert, Key: t.key, Rand: rand.Reader})
	if err != nil {
		return nil, fmt.Errorf("reading the server's answer: %w", err)
	}
	return answer, nil
}

func (c *Client) exchange(ctx context.Context, method, operation string, body []byte) ([]byte, error) {
	request, err := http.NewRequestWithContext(ctx, method, c.url+"?operation="+operation, bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("making an HTTP request: %w", err)
	}
	if method == http.MethodPost {
		request.Header.Set("Content-Type", scep.TypeMessage)
	}
	response, err := c.http.Do(request)
	if err != nil {
		return nil, est.Unanswered(fmt.Errorf("asking the server: %w", err))
	}
	in, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer+1))
	if err := errors.Join(err, response.Body.Close()); err != nil {
		return nil, est.Unanswered(fmt.Errorf("reading the server's answer: %w", err))
	}
	if response.StatusCode != http.StatusOK {
		return nil, &est.RefusedError{Operation: wire.Operation(operation), Status: response.StatusCode, Reason: est.Clean(string(in))}
	}
	return in, nil
}
