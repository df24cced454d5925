package apptest

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	agent "mooring/agent/est"
	"mooring/wire/cms"
	"mooring/wire/est"
)

// Call is one HTTP/1.1 request, to be bent as a test likes.
type Call struct {
	Method string // "" means POST with a body and GET without
	Path   string
	Proto  string // "" means HTTP/1.1
	Body   []byte
	// Header are further lines, "Name: value". One without value takes the default line of this name away: Host, Content-Type,
	// Content-Length.
	Header       []string
	User, Secret string // HTTP Basic, when Secret is set
}

// Reply is what came back.
type Reply struct {
	*http.Response
	Text []byte // the body
}

// String shows status and body.
func (r Reply) String() string { return fmt.Sprintf("%d %q", r.StatusCode, r.Text) }

// Body returns DER as the body of an EST request.
func Body(der []byte) []byte { return est.EncodeBase64(der) }

// Conn is one TLS connection to the EST listener.
type Conn struct {
	*tls.Conn
	in *bufio.Reader
}

// TLS returns the configuration of a client that trusts the platform's root; cert may be nil.
func (p *Platform) TLS(cert *tls.Certificate) *tls.Config {
	c := &tls.Config{RootCAs: p.Pool(), ServerName: "localhost", Time: p.Clock.Now, NextProtos: []string{"http/1.1"}}
	if cert != nil {
		// Whatever authorities the server names, this certificate is sent.
		c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return cert, nil }
	}
	return c
}

// Dial connects to the EST listener.
func (p *Platform) Dial(t testing.TB, c *tls.Config) *Conn {
	t.Helper()
	conn, err := tls.Dial("tcp", strings.TrimPrefix(p.Addresses().EST, "https://"), c)
	if err != nil {
		t.Fatalf("connecting: %v", err)
	}
	t.Cleanup(func() {
		if err := conn.Close(); err != nil && !isClosed(err) {
			t.Logf("closing a connection: %v", err)
		}
	})
	return &Conn{Conn: conn, in: bufio.NewReader(conn)}
}

// Send sends c over a connection of its own, which presents cert unless it is nil.
func (p *Platform) Send(t testing.TB, c Call, cert ...tls.Certificate) Reply {
	t.Helper()
	var own *tls.Certificate
	if len(cert) > 0 {
		own = &cert[0]
	}
	conn := p.Dial(t, p.TLS(own))
	defer conn.Close() // the reply is complete
	return conn.Send(t, c)
}

// Send sends c and reads the reply.
func (c *Conn) Send(t testing.TB, call Call) Reply {
	t.Helper()
	c.Say(t, call.bytes())
	return c.Reply(t, call.method())
}

// Text returns c as it would be sent.
func (*Conn) Text(c Call) string { return string(c.bytes()) }

// Say writes text as it is.
func (c *Conn) Say(t testing.TB, text []byte) {
	t.Helper()
	if _, err := c.Conn.Write(text); err != nil {
		t.Fatalf("sending: %v", err)
	}
}

// Reply reads one reply to a request by method.
func (c *Conn) Reply(t testing.TB, method string) Reply {
	t.Helper()
	if err := c.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	r, err := http.ReadResponse(c.in, &http.Request{Method: method})
	if err != nil {
		t.Fatalf("reading a reply: %v", err)
	}
	text, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatalf("reading the body of a reply: %v", err)
	}
	return Reply{r, text}
}

func (c *Call) method() string {
	switch {
	case c.Method != "":
		return c.Method
	case c.Body != nil:
		return http.MethodPost
	}
	return http.MethodGet
}

func (c *Call) bytes() []byte {
	proto := c.Proto
	if proto == "" {
		proto = "HTTP/1.1"
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s %s %s\r\n", c.method(), c.Path, proto)
	lines := []string{"Host: localhost"}
	if c.Body != nil {
		lines = append(lines, "Content-Type: application/pkcs10", fmt.Sprintf("Content-Length: %d", len(c.Body)))
	}
	if c.Secret != "" {
		r := &http.Request{Header: http.Header{}}
		r.SetBasicAuth(c.User, c.Secret)
		lines = append(lines, "Authorization: "+r.Header.Get("Authorization"))
	}
	for _, own := range c.Header {
		name, value, _ := strings.Cut(own, ":")
		for i, line := range lines {
			if strings.HasPrefix(line, name+":") {
				lines[i] = ""
			}
		}
		if strings.TrimSpace(value) != "" {
			lines = append(lines, own)
		}
	}
	for _, line := range lines {
		if line != "" {
			b.WriteString(line + "\r\n")
		}
	}
	b.WriteString("\r\n")
	b.Write(c.Body)
	return b.Bytes()
}

// Certificate returns the one certificate of an enrolment's reply.
func (r Reply) Certificate(t testing.TB) *x509.Certificate {
	t.Helper()
	if r.StatusCode != http.StatusOK {
		t.Fatalf("got %s, want a certificate", r)
	}
	return OneCertificate(t, r.Text)
}

// OneCertificate reads base64 of a certs-only message with one certificate.
func OneCertificate(t testing.TB, text []byte) *x509.Certificate {
	t.Helper()
	der, err := est.DecodeBase64(text)
	if err != nil {
		t.Fatal(err)
	}
	certs, err := cms.ParseCertsOnly(der)
	if err != nil {
		t.Fatal(err)
	}
	if len(certs) != 1 {
		t.Fatalf("got %d certificates, want 1", len(certs))
	}
	cert, err := x509.ParseCertificate(certs[0])
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

// Session opens a session of the public EST client under label, which may be "".
func (p *Platform) Session(t testing.TB, label string, credential agent.Credential) *agent.Session {
	t.Helper()
	client, err := agent.New(agent.Config{Server: p.Addresses().EST, Label: label, Roots: []*x509.Certificate{p.Root}, Now: p.Clock.Now})
	if err != nil {
		t.Fatal(err)
	}
	session, err := client.Connect(t.Context(), credential)
	if err != nil {
		t.Fatalf("connecting: %v", err)
	}
	t.Cleanup(session.Close)
	return session
}
