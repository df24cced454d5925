// Package est is a client of Enrollment over Secure Transport (RFC 7030, RFC 8951, RFC 9908) for devices. It speaks to any
// server of the standard.
//
//	client, err := est.New(est.Config{Server: "https://est.example.test", Roots: roots})
//	session, err := client.Connect(ctx, est.Credential{User: "dev1", Secret: token})
//	defer session.Close()
//	bundle, err := session.CACerts(ctx)
//	attributes, err := session.CSRAttrs(ctx)
//	order := est.Order{Key: key, Attributes: attributes, Subject: subject}
//	certificate, err := session.Enrol(ctx, order)
//	chain, err := bundle.Chain(certificate, now)
//
// A Session holds one TLS connection, because a request that is bound to its connection (RFC 7030, section 3.5) must be
// signed after the handshake and sent over the same connection. When the server closes it, the session makes a new one and
// signs again.
//
// A server is believed by its certificate only: Config.Roots, or at the first contact a root of known fingerprint (Pin).
// Answers other than success are *PendingError and *RefusedError, and tell when to come again.
//
// A server whose URL begins with "coaps" is spoken to by EST over CoAP and DTLS (RFC 9148), which takes a client certificate for everything.
//
// The package stores nothing, retries nothing and makes no keys; package agent does. It does not do Full CMC, HTTP proxies
// (Config.Dial can), redirects to another origin, or certificate-less TLS.
package est

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"
	"time"

	wire "mooring/wire/est"
)

// Bounds of one exchange with the server.
const (
	dialTimeout     = 20 * time.Second // connection and handshake
	exchangeTimeout = 90 * time.Second // one request and its answer; some servers sign slowly
	maxHeader       = 64 << 10
	maxRedirects    = 3
)

// Config says which server a client speaks to and why it believes it.
type Config struct {
	// Server is the origin of the server: "https://host" or "https://host:port", or with "coaps" for EST over CoAP (RFC 9148). A path is kept in front of
	// "/.well-known/est/", which the standard does not know but some gateways have.
	Server string
	// Label selects among the server's certification services (RFC 7030, section 3.2.2); often empty.
	Label string
	// Roots are the certificates that the server's certificate must lead to.
	Roots []*x509.Certificate
	// CMCRA believes a server by another name too, if its certificate leads to Roots and is that of a registration authority (id-kp-cmcRA; RFC 7030,
	// section 3.6.1): for devices that find their server by other means than its name.
	CMCRA bool
	// Now is the clock by which certificates are judged; nil is the system's.
	Now func() time.Time
	// Dial opens connections; nil is a plain TCP dialler.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// MaxVersion is the highest TLS version offered; 0 is the highest there is. TLS 1.2 is the lowest always.
	MaxVersion uint16
}

// Client speaks to one server. It holds no connection and may be used by several goroutines.
type Client struct {
	config  Config
	base    *url.URL // ends in "/"
	address string
}

// Credential is what the device proves itself with. Both parts may be set if the server wants both.
type Credential struct {
	// Certificate is the TLS client certificate with its chain, or nil.
	Certificate *tls.Certificate
	// User and Secret are sent by HTTP Basic authentication if Secret is not empty; the user may be empty (RFC 7030,
	// section 3.2.3).
	User, Secret string
}

// String keeps the secret out of printed text.
func (c Credential) String() string {
	return fmt.Sprintf("est.Credential(user %q, secret withheld)", c.User)
}

// GoString keeps the secret out of %#v.
func (c Credential) GoString() string { return c.String() }

// MarshalText keeps the secret out of JSON and logs.
func (c Credential) MarshalText() ([]byte, error) { return []byte(c.String()), nil }

// New returns a client. It connects to nothing.
func New(config Config) (*Client, error) {
	if len(config.Roots) == 0 {
		return nil, errors.New("an EST client needs the root certificates that its server is believed by")
	}
	return newClient(config)
}

func newClient(config Config) (*Client, error) {
	base, err := baseURL(config.Server, config.Label)
	if err != nil {
		return nil, err
	}
	port := base.Port()
	switch {
	case port != "":
	case base.Scheme == schemeCoAP:
		port = "5684" // RFC 7252, section 6.2
	default:
		port = "443"
	}
	if config.Dial == nil {
		config.Dial = new(net.Dialer).DialContext
	}
	return &Client{config, base, net.JoinHostPort(base.Hostname(), port)}, nil
}

// baseURL is the URL that operations are appended to.
func baseURL(server, label string) (*url.URL, error) {
	u, err := url.Parse(server)
	if err != nil || u.Hostname() == "" {
		return nil, fmt.Errorf("server %q is not a URL such as https://est.example.test", server)
	}
	if u.Scheme != "https" && u.Scheme != schemeCoAP {
		return nil, fmt.Errorf("server %q must begin with https://, since enrolment needs TLS, or with coaps:// for EST over CoAP", server)
	}
	if u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return nil, fmt.Errorf("server URL of host %s must have no user, query or fragment", u.Host)
	}
	if label != "" && !wire.ValidLabel(label) {
		return nil, fmt.Errorf("label %q is not allowed: letters, digits, '-', '_', '.', and not the name of an EST operation", label)
	}
	path := strings.TrimSuffix(u.Path, "/")
	if !strings.HasSuffix(path+"/", wire.WellKnown) {
		path += strings.TrimSuffix(wire.WellKnown, "/")
	}
	if label != "" {
		path += "/" + label
	}
	u.Path, u.RawPath = path+"/", ""
	return u, nil
}

// tlsConfig is the configuration of one connection. HTTP/1.1 is all that one connection for one device needs, and every
// EST server speaks it.
func (c *Client) tlsConfig(credential Credential) *tls.Config {
	config := &tls.Config{
		MinVersion: tls.VersionTLS12,
		MaxVersion: c.config.MaxVersion,
		ServerName: c.base.Hostname(),
		RootCAs:    pool(c.config.Roots),
		NextProtos: []string{"http/1.1"},
		Time:       c.config.Now,
	}
	if c.config.CMCRA {
		config.InsecureSkipVerify = true // verify does it, and takes one more kind of certificate
		config.VerifyConnection = func(state tls.ConnectionState) error {
			return c.verify(state.PeerCertificates, c.config.Roots, nil)
		}
	}
	if credential.Certificate != nil {
		// Given unasked whichever issuers the server names: it may name none, or not the one of this certificate.
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			return credential.Certificate, nil
		}
	}
	return config
}

// dial opens a connection and completes its handshake.
func (c *Client) dial(ctx context.Context, config *tls.Config) (*tls.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	raw, err := c.config.Dial(ctx, "tcp", c.address)
	if err != nil {
		return nil, &UnreachableError{fmt.Errorf("connecting to %s: %w", c.address, err)}
	}
	conn := tls.Client(raw, config)
	if err := conn.HandshakeContext(ctx); err != nil {
		_ = raw.Close() // the handshake's error is the one that says something
		return nil, unanswered(fmt.Errorf("connecting to %s by TLS: %w%s", c.address, err, handshakeHint(err)))
	}
	return conn, nil
}

// handshakeHint says what to do about the common causes of a failed handshake.
func handshakeHint(err error) string {
	var unknown x509.UnknownAuthorityError
	var invalid x509.CertificateInvalidError
	switch {
	case errors.As(err, &unknown):
		return " (the server's certificate does not lead to the root that this device was given; enrol with the right one: --ca or --fingerprint)"
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return " (is the clock of this device right?)"
	}
	return ""
}

func pool(certs []*x509.Certificate) *x509.CertPool {
	p := x509.NewCertPool()
	for _, cert := range certs {
		p.AddCert(cert)
	}
	return p
}
