package est

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"time"

	"mooring/wire/cms"
	wire "mooring/wire/est"
)

// errClosed says that the server closed the connection after an earlier answer, so a new request needs a new one.
var errClosed = errors.New("the server closed the connection")

// connection is what a session needs to know of what carries it: a *tls.Conn, or an association of CoAP.
type connection interface {
	ConnectionState() tls.ConnectionState
	Close() error
}

// Session is one TLS connection to the server, or one DTLS association. It is used by one goroutine.
type Session struct {
	client     *Client
	credential Credential
	config     *tls.Config
	conn       connection
	http       *http.Client
	report     string // the roots that are trusted, for the server's information
	// provisional: the server is not believed yet.
	provisional bool
}

// Connect opens a session. The credential is used for all its operations.
func (c *Client) Connect(ctx context.Context, credential Credential) (*Session, error) {
	s := &Session{client: c, credential: credential, config: c.tlsConfig(credential)}
	if err := s.connect(ctx); err != nil {
		return nil, err
	}
	return s, nil
}

// connect makes the connection and an HTTP client that can use this connection and no other.
func (s *Session) connect(ctx context.Context) error {
	if s.client.base.Scheme == schemeCoAP {
		conn, err := s.client.dialCoAP(ctx, s.config, s.credential)
		if err != nil {
			return err
		}
		s.conn, s.http = conn, &http.Client{Transport: conn}
		return nil
	}
	conn, err := s.client.dial(ctx, s.config)
	if err != nil {
		return err
	}
	once := make(chan net.Conn, 1)
	once <- conn
	s.conn = conn
	s.http = &http.Client{
		CheckRedirect: s.checkRedirect,
		Transport: &http.Transport{
			DialTLSContext: func(context.Context, string, string) (net.Conn, error) {
				select {
				case conn := <-once:
					return conn, nil
				default:
					return nil, errClosed
				}
			},
			DisableCompression:     true,
			MaxResponseHeaderBytes: maxHeader,
		},
	}
	return nil
}

// Close ends the session. There is no error to report: every answer has been read to its end or given up by then, and
// the server may have closed its side first.
func (s *Session) Close() {
	s.http.CloseIdleConnections()
	_ = s.conn.Close()
}

// reconnect replaces a connection that the server closed.
func (s *Session) reconnect(ctx context.Context) error {
	before := s.Peer()
	s.Close()
	if err := s.connect(ctx); err != nil || !s.provisional {
		return err
	}
	return s.samePeer(before[0])
}

// Binding returns the values that tie a request to the present connection (RFC 7030, section 3.5; RFC 9266).
func (s *Session) Binding() wire.ChannelBinding {
	if over, ok := s.conn.(*overCoAP); ok {
		return over.binding()
	}
	state := s.conn.ConnectionState()
	if state.Version == tls.VersionTLS12 {
		return wire.ChannelBinding{TLSUnique: state.TLSUnique}
	}
	exporter, err := state.ExportKeyingMaterial(wire.ExporterLabel, nil, wire.ExporterLength)
	if err != nil {
		return wire.ChannelBinding{}
	}
	return wire.ChannelBinding{Exporter: exporter}
}

// CACerts fetches the certificates of the server's authorities (RFC 7030, section 4.1).
func (s *Session) CACerts(ctx context.Context) (*Bundle, error) {
	a, err := s.get(ctx, wire.CACerts)
	if err != nil {
		return nil, err
	}
	certs, err := a.certificates()
	if err != nil {
		return nil, err
	}
	b := newBundle(certs)
	if len(b.Roots) == 0 { // against the standard, but what is known already still holds
		b.Roots = s.client.config.Roots
	}
	return b, nil
}

// CSRAttrs asks what a request must have (RFC 7030, section 4.5). A server that has no wishes gives the zero value.
func (s *Session) CSRAttrs(ctx context.Context) (*wire.CSRAttrs, error) {
	a, err := s.get(ctx, wire.CSRAttributes)
	var refused *RefusedError
	if errors.As(err, &refused) && refused.Status == http.StatusNotFound {
		return new(wire.CSRAttrs), nil
	}
	if err != nil {
		return nil, err
	}
	if a.status == http.StatusNoContent || len(bytes.TrimSpace(a.body)) == 0 {
		return new(wire.CSRAttrs), nil
	}
	der, err := a.decode(wire.TypeCSRAttrs)
	if err != nil {
		return nil, err
	}
	attributes, err := wire.ParseCSRAttrs(der)
	if err != nil {
		return nil, fmt.Errorf("reading the CSR attributes of the server: %w", err)
	}
	return attributes, nil
}

// Enrol asks for a certificate (RFC 7030, section 4.2.1). The certificate has the public key of the order; who issued it
// is for Bundle.Chain to check.
func (s *Session) Enrol(ctx context.Context, order Order) (*x509.Certificate, error) {
	return s.order(ctx, wire.SimpleEnroll, order)
}

// Renew asks for a new certificate in place of the one that the session was opened with (RFC 7030, section 4.2.2).
// Subject and names of the order must be those of the old one: see OrderAgain.
func (s *Session) Renew(ctx context.Context, order Order) (*x509.Certificate, error) {
	return s.order(ctx, wire.SimpleReenroll, order)
}

func (s *Session) order(ctx context.Context, op wire.Operation, order Order) (*x509.Certificate, error) {
	a, err := s.post(ctx, op, order)
	if err != nil {
		return nil, err
	}
	certs, err := a.certificates()
	if err != nil {
		return nil, err
	}
	return pick(certs, order.Key.Public())
}

// get fetches one of the operations without a body.
func (s *Session) get(ctx context.Context, op wire.Operation) (*answer, error) {
	a, err := s.send(ctx, http.MethodGet, op, nil)
	if errors.Is(err, errClosed) {
		if err := s.reconnect(ctx); err != nil {
			return nil, err
		}
		a, err = s.send(ctx, http.MethodGet, op, nil)
	}
	return a, err
}

// post sends a request that is made for the connection that carries it.
func (s *Session) post(ctx context.Context, op wire.Operation, order Order) (*answer, error) {
	body, err := order.body(s.Binding())
	if err != nil {
		return nil, err
	}
	a, err := s.send(ctx, http.MethodPost, op, body)
	if !errors.Is(err, errClosed) {
		return a, err
	}
	if err := s.reconnect(ctx); err != nil {
		return nil, err
	}
	if body, err = order.body(s.Binding()); err != nil {
		return nil, err
	}
	return s.send(ctx, http.MethodPost, op, body)
}

// send makes one HTTP exchange of an operation.
func (s *Session) send(ctx context.Context, method string, op wire.Operation, body []byte) (*answer, error) {
	if s.provisional {
		return nil, errProvisional
	}
	ctx, cancel := context.WithTimeout(ctx, exchangeTimeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, method, s.client.base.JoinPath(string(op)).String(), bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("making the %s request: %w", op, err)
	}
	if method == http.MethodPost {
		request.Header.Set("Content-Type", wire.TypeRequest)
		// Without meaning since RFC 8951, but older servers refuse a request that lacks it.
		request.Header.Set("Content-Transfer-Encoding", "base64")
	}
	if s.report != "" {
		request.Header.Set(anchorsHeader, s.report)
	}
	if s.credential.Secret != "" {
		request.SetBasicAuth(s.credential.User, s.credential.Secret)
	}
	return s.exchange(op, request)
}

// exchange sends a request and reads the answer within its bounds.
func (s *Session) exchange(op wire.Operation, request *http.Request) (*answer, error) {
	response, err := s.http.Do(request)
	if err != nil {
		return nil, unanswered(fmt.Errorf("asking %s for %s: %w", s.client.address, op, bare(err)))
	}
	defer func() { _ = response.Body.Close() }() // whatever it says, the content is read and judged by then
	content, err := io.ReadAll(io.LimitReader(response.Body, wire.MaxBody+1))
	if err != nil {
		return nil, &UnreachableError{fmt.Errorf("reading the %s answer of %s, which ended early: %w", op, s.client.address, err)}
	}
	if len(content) > wire.MaxBody {
		return nil, fmt.Errorf("the %s answer of %s is larger than %d bytes and was not read", op, s.client.address, wire.MaxBody)
	}
	return judge(op, response, content, s.client.now())
}

// bare takes off what net/http puts around an error: method and URL are named already, in our own words.
func bare(err error) error {
	var wrapped *url.Error
	if errors.As(err, &wrapped) {
		return wrapped.Err
	}
	return err
}

// checkRedirect follows a redirect within the same origin that repeats the request as it is, and no other: the connection
// is the one that the request was made for, and a credential is for this server alone (RFC 7030, section 3.2.1).
func (s *Session) checkRedirect(next *http.Request, before []*http.Request) error {
	switch {
	case next.URL.Scheme != "https":
		return fmt.Errorf("refusing a redirect to %s, which is not https", next.URL.Redacted())
	case next.URL.Host != s.client.base.Host:
		return fmt.Errorf("refusing a redirect to another server, %s; if it is right, use it as server", next.URL.Host)
	case next.Method != before[0].Method:
		return errors.New("refusing a redirect that would lose the request; the server must use 307 or 308")
	case len(before) > maxRedirects:
		return errors.New("refusing to follow more redirects")
	}
	return nil
}

// now is the time of the device; zero when the configuration has no clock, which only dates of Retry-After suffer from.
func (c *Client) now() time.Time {
	if c.config.Now == nil {
		return time.Time{}
	}
	return c.config.Now()
}

// certificates reads a certs-only message.
func (a *answer) certificates() ([]*x509.Certificate, error) {
	der, err := a.decode(wire.TypeCACerts)
	if err != nil {
		return nil, err
	}
	return parseCertsOnly(der)
}

func parseCertsOnly(der []byte) ([]*x509.Certificate, error) {
	raw, err := cms.ParseCertsOnly(der)
	if err != nil {
		return nil, fmt.Errorf("reading the certificates of the server: %w", err)
	}
	var certs []*x509.Certificate
	for _, der := range raw {
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, fmt.Errorf("reading a certificate of the server: %w", err)
		}
		certs = append(certs, cert)
	}
	return certs, nil
}
