//go:build soak

package soak

import (
	"bufio"
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	mathrand "math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	xocsp "golang.org/x/crypto/ocsp"

	agentacme "mooring/agent/acme"
	agentcmp "mooring/agent/cmp"
	"mooring/agent/coap"
	agentest "mooring/agent/est"
	agentscep "mooring/agent/scep"
	"mooring/internal/app"
	"mooring/internal/server/api/client"
	"mooring/wire/acme"
	wirecoap "mooring/wire/coap"
	"mooring/wire/der"
	"mooring/wire/ocsp"
)

// world is what all clients know.
type world struct {
	at      app.Addresses
	root    *x509.Certificate
	pool    *x509.CertPool
	admin   *client.Client
	status  *http.Client
	solver  *agentacme.HTTPSolver
	keys    []*ecdsa.PrivateKey // for certificates and accounts: to make one each time would be most of the clients' work
	rsa     []*rsa.PrivateKey
	issuers []*x509.Certificate
	good    tally
	bad     tally
}

// member is a device. One client at a time is it.
type member struct {
	name    string
	cert    *tls.Certificate  // that it has, by which it renews; nil: none yet
	account *agentacme.Client // of ACME; nil: none yet
}

// route is how a client reaches the server.
type route struct {
	dial  func(ctx context.Context, network, address string) (net.Conn, error)
	coaps string
	block int                       // of CoAP
	harm  func(*http.Request) error // nil: nothing
	count func(protocol string, err error)
}

// life is what a device does in one go, by one protocol.
type life func(w *world, ctx context.Context, by route, m *member) error

// lives are the protocols and how many of a hundred lives are theirs.
func lives() []struct {
	protocol string
	share    int
	live     life
} {
	return []struct {
		protocol string
		share    int
		live     life
	}{
		{"est", 32, (*world).est}, {"est-coaps", 16, (*world).coaps}, {"cmp", 16, (*world).cmp}, {"cmp-coap", 12, (*world).cmpCoAP},
		{"scep", 8, (*world).scep}, {"acme", 16, (*world).acme},
	}
}

func newKeys(t *testing.T) (keys []*ecdsa.PrivateKey, others []*rsa.PrivateKey) {
	t.Helper()
	for range 256 {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		must(t, err)
		keys = append(keys, key)
	}
	for range 32 {
		key, err := rsa.GenerateKey(rand.Reader, 2048)
		must(t, err)
		others = append(others, key)
	}
	return keys, others
}

func (w *world) key() *ecdsa.PrivateKey { return w.keys[mathrand.IntN(len(w.keys))] }

func (w *world) token(ctx context.Context, m *member) (string, error) {
	given, err := w.admin.NewToken(ctx, m.name, time.Hour)
	if err != nil {
		return "", fmt.Errorf("asking for a token: %w", err)
	}
	return given.Token, nil
}

func subjectOf(m *member) []der.Attribute {
	return []der.Attribute{{Type: der.OIDCommonName, Value: m.name}}
}

func pairOf(cert *x509.Certificate, key crypto.Signer) *tls.Certificate {
	return &tls.Certificate{Certificate: [][]byte{cert.Raw}, PrivateKey: key, Leaf: cert}
}

// session connects by EST, asks for what devices ask for first, and does one thing.
func (w *world) session(ctx context.Context, by route, server string, c agentest.Credential, do func(*agentest.Session) (*x509.Certificate, error)) (*x509.Certificate, error) {
	protocol := "est"
	if strings.HasPrefix(server, "coaps") {
		protocol = "est-coaps"
	}
	one, err := agentest.New(agentest.Config{Server: server, Roots: []*x509.Certificate{w.root}, Now: time.Now, Dial: by.dial})
	if err != nil {
		return nil, err
	}
	s, err := one.Connect(ctx, c)
	if err != nil {
		by.count(protocol, err)
		return nil, err
	}
	defer s.Close()
	if mathrand.IntN(4) == 0 {
		_, err := s.CACerts(ctx)
		if by.count(protocol, err); err != nil {
			return nil, err
		}
	}
	cert, err := do(s)
	by.count(protocol, err)
	return cert, err
}

// first gets a device its first certificate by EST and its token.
func (w *world) first(ctx context.Context, by route, m *member) error {
	token, err := w.token(ctx, m)
	if err != nil {
		return err
	}
	key := w.key()
	cert, err := w.session(ctx, by, w.at.EST, agentest.Credential{User: m.name, Secret: token}, func(s *agentest.Session) (*x509.Certificate, error) {
		return s.Enrol(ctx, agentest.Order{Key: key})
	})
	if err == nil {
		m.cert = pairOf(cert, key)
	}
	return err
}

// renew gets it the next one by EST, over HTTPS or CoAP.
func (w *world) renew(ctx context.Context, by route, server string, m *member) error {
	key := w.key()
	order, err := agentest.OrderAgain(m.cert.Leaf, key, nil)
	if err != nil {
		return err
	}
	cert, err := w.session(ctx, by, server, agentest.Credential{Certificate: m.cert}, func(s *agentest.Session) (*x509.Certificate, error) {
		return s.Renew(ctx, order)
	})
	if err == nil {
		m.cert = pairOf(cert, key)
	}
	return err
}

func (w *world) est(ctx context.Context, by route, m *member) error {
	if err := w.first(ctx, by, m); err != nil {
		return err
	}
	old := m.cert.Leaf
	if err := w.renew(ctx, by, w.at.EST, m); err != nil {
		return err
	}
	return w.after(ctx, by, old, m.cert.Leaf)
}

func (w *world) coaps(ctx context.Context, by route, m *member) error {
	if m.cert == nil {
		if err := w.first(ctx, by.whole(), m); err != nil {
			return err
		}
	}
	return w.renew(ctx, by, "coaps://"+by.coaps, m)
}

func (w *world) cmp(ctx context.Context, by route, m *member) error {
	return w.byCMP(ctx, by, m, by.dial)
}

// byCMP enrols by a token the first time and every fourth time, and renews else.
func (w *world) byCMP(ctx context.Context, by route, m *member, dial func(ctx context.Context, network, address string) (net.Conn, error)) error {
	one, err := agentcmp.New(agentcmp.Config{Server: "cmp" + strings.TrimPrefix(w.at.CMP, "http"), Roots: []*x509.Certificate{w.root}, Now: time.Now, Dial: dial})
	if err != nil {
		return err
	}
	key := w.key()
	order, credential := agentcmp.Order{Key: key, Subject: subjectOf(m)}, agentcmp.Credential{Certificate: m.cert}
	if m.cert == nil || mathrand.IntN(4) == 0 {
		token, err := w.token(ctx, m)
		if err != nil {
			return err
		}
		credential = agentcmp.Credential{Name: m.name, Secret: token}
	} else {
		order.Old = m.cert.Leaf
	}
	got, err := one.Order(ctx, credential, order)
	by.count("cmp", err)
	if err == nil {
		m.cert = pairOf(got.Certificate, key)
	}
	return err
}

// cmpCoAP carries the messages of the client for HTTP over CoAP.
func (w *world) cmpCoAP(ctx context.Context, by route, m *member) error {
	if m.cert == nil {
		if err := w.first(ctx, by.whole(), m); err != nil {
			return err
		}
	}
	limited, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	conn, err := coap.Dial(limited, coap.Config{Address: by.coaps, Certificate: m.cert, Block: by.block, Verify: func([]*x509.Certificate) error { return nil }})
	if err != nil {
		by.count("cmp-coap", err)
		return err
	}
	defer conn.Close()
	by.count("cmp-coap", nil)
	return w.byCMP(ctx, by, m, func(context.Context, string, string) (net.Conn, error) {
		near, far := net.Pipe()
		go carry(limited, far, conn)
		return near, nil
	})
}

func (w *world) scep(ctx context.Context, by route, m *member) error {
	one, err := agentscep.New(agentscep.Config{Server: "scep" + strings.TrimPrefix(w.at.SCEP, "http") + "/scep/" + profileName, Roots: []*x509.Certificate{w.root}, Now: time.Now, Dial: by.dial})
	if err != nil {
		return err
	}
	key := w.rsa[mathrand.IntN(len(w.rsa))]
	order, credential := agentscep.Order{Key: key, Subject: subjectOf(m)}, agentscep.Credential{Certificate: m.cert}
	if m.cert == nil || mathrand.IntN(2) == 0 {
		token, err := w.token(ctx, m)
		if err != nil {
			return err
		}
		credential = agentscep.Credential{Name: m.name, Secret: token}
	} else {
		order.Old = m.cert.Leaf
	}
	got, err := one.Order(ctx, credential, order)
	by.count("scep", err)
	if err == nil {
		m.cert = pairOf(got.Certificate, key)
	}
	return err
}

// acme makes an account the first time and now and then, and orders a certificate, which is sometimes revoked on the account's word.
func (w *world) acme(ctx context.Context, by route, m *member) error {
	transport := &http.Transport{DialContext: by.dial, TLSClientConfig: &tls.Config{RootCAs: w.pool, ServerName: "localhost"}}
	defer transport.CloseIdleConnections()
	one := &agentacme.Client{Directory: w.at.ACME + "/acme/directory", HTTP: &http.Client{Transport: harming{transport, by.harm}}, Now: time.Now}
	var binding *agentacme.Binding
	if m.account != nil && mathrand.IntN(20) > 0 {
		one.Key = m.account.Key
	} else {
		token, err := w.token(ctx, m)
		if err != nil {
			return err
		}
		binding = &agentacme.Binding{Name: m.name, Token: token}
		if one.Key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil { // no other account has it
			return err
		}
	}
	err := one.Register(ctx, binding)
	if by.count("acme", err); err != nil {
		return err
	}
	m.account = one
	names := der.AltNames{}
	names.IP = append(names.IP, netip.MustParseAddr(solverHost))
	csr, err := csrFor(w.key(), names)
	if err != nil {
		return err
	}
	chain, err := one.Obtain(ctx, acme.NewOrder{Identifiers: []acme.Identifier{{Type: "ip", Value: solverHost}}}, csr, w.solver)
	if by.count("acme", err); err != nil {
		return err
	}
	if mathrand.IntN(4) > 0 {
		return nil
	}
	err = one.Revoke(ctx, chain[0], 4)
	by.count("acme", err)
	return err
}

// harming sends requests that were harmed before.
type harming struct {
	next http.RoundTripper
	harm func(*http.Request) error
}

func (h harming) RoundTrip(r *http.Request) (*http.Response, error) {
	if h.harm != nil {
		r = r.Clone(r.Context())
		if err := h.harm(r); err != nil {
			return nil, err
		}
	}
	return h.next.RoundTrip(r)
}

// after asks about the certificates that a device has had: that the new one is good, and, of every fourth old one, that it is revoked once
// that was asked for. Every eighth time it fetches the revocation list.
func (w *world) after(ctx context.Context, by route, old, fresh *x509.Certificate) error {
	err := w.askOCSP(ctx, fresh, xocsp.Good)
	if by.count("ocsp", err); err != nil {
		return err
	}
	if mathrand.IntN(4) == 0 {
		if _, err := w.admin.Revoke(ctx, hex.EncodeToString(old.SerialNumber.Bytes()), "superseded"); err != nil {
			return fmt.Errorf("revoking: %w", err)
		}
		err := w.askOCSP(ctx, old, xocsp.Revoked)
		if by.count("ocsp", err); err != nil {
			return err
		}
	}
	if mathrand.IntN(8) == 0 && len(fresh.CRLDistributionPoints) > 0 {
		err := w.fetchCRL(ctx, fresh.CRLDistributionPoints[0])
		by.count("crl", err)
		return err
	}
	return nil
}

func (w *world) issuerOf(cert *x509.Certificate) (*x509.Certificate, error) {
	for _, i := range w.issuers {
		if bytes.Equal(i.RawSubject, cert.RawIssuer) {
			return i, nil
		}
	}
	return nil, fmt.Errorf("no issuer %s is known", cert.Issuer)
}

func ocspRequest(issuer, cert *x509.Certificate) ([]byte, error) {
	ids, err := ocsp.NewIssuer(issuer.RawSubject, issuer.RawSubjectPublicKeyInfo)
	if err != nil {
		return nil, err
	}
	id, err := ids.CertID(crypto.SHA1, cert.SerialNumber.Bytes())
	if err != nil {
		return nil, err
	}
	return ocsp.AppendRequest(nil, []ocsp.CertID{id}, nil)
}

func (w *world) askOCSP(ctx context.Context, cert *x509.Certificate, want int) error {
	if len(cert.OCSPServer) == 0 {
		return nil
	}
	issuer, err := w.issuerOf(cert)
	if err != nil {
		return err
	}
	request, err := ocspRequest(issuer, cert)
	if err != nil {
		return err
	}
	body, err := w.fetch(ctx, http.MethodPost, cert.OCSPServer[0], request)
	if err != nil {
		return err
	}
	answer, err := xocsp.ParseResponse(body, issuer)
	if err == nil && answer.Status != want {
		err = fmt.Errorf("the status of %x is %d, want %d", cert.SerialNumber, answer.Status, want)
	}
	return err
}

func (w *world) fetchCRL(ctx context.Context, address string) error {
	body, err := w.fetch(ctx, http.MethodGet, address, nil)
	if err != nil {
		return err
	}
	_, err = x509.ParseRevocationList(body)
	return err
}

func (w *world) fetch(ctx context.Context, method, address string, body []byte) ([]byte, error) {
	r, err := http.NewRequestWithContext(ctx, method, address, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	if body != nil {
		r.Header.Set("Content-Type", "application/ocsp-request")
	}
	answer, err := w.status.Do(r)
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err == nil && answer.StatusCode != http.StatusOK {
		err = fmt.Errorf("the server answered %s: %s", answer.Status, text)
	}
	return text, err
}

func csrFor(key *ecdsa.PrivateKey, names der.AltNames) ([]byte, error) {
	spki, err := der.EncodePublicKey(key.Public())
	if err != nil {
		return nil, err
	}
	info, err := der.AppendRequestInfo(nil, der.RequestSpec{SPKI: spki, Names: names})
	if err != nil {
		return nil, err
	}
	algorithm, err := der.AlgorithmFor(key.Public())
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(info)
	signature, err := key.Sign(rand.Reader, sum[:], crypto.SHA256)
	return der.Wrap(nil, info, algorithm, signature), err
}

// carry answers the one HTTP request that comes over a connection by what the server says over CoAP.
func carry(ctx context.Context, from net.Conn, to *coap.Conn) {
	defer from.Close()
	r, err := http.ReadRequest(bufio.NewReader(from))
	if err != nil {
		return
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	a, err := to.Do(ctx, coap.Request{Code: wirecoap.POST, Path: r.URL.Path, Format: 259, Body: body})
	status := http.StatusOK
	if err != nil {
		status, a = http.StatusGatewayTimeout, &coap.Answer{Body: []byte(err.Error())}
	} else if a.Code.Class() != 2 {
		status = int(a.Code.Class())*100 + int(a.Code&31)
	}
	out := &http.Response{StatusCode: status, ProtoMajor: 1, ProtoMinor: 1, ContentLength: int64(len(a.Body)), Body: io.NopCloser(bytes.NewReader(a.Body)),
		Header: http.Header{"Content-Type": {"application/pkixcmp"}}, Close: true}
	_ = out.Write(from) // the client notices
}

// well is how well-behaved clients reach the server.
func (w *world) well() route {
	return route{dial: dialer, coaps: strings.TrimPrefix(w.at.CoAPS, "coaps://"), block: 64 << mathrand.IntN(5), count: w.good.add}
}

// whole is the route without its wound.
func (r route) whole() route {
	r.dial = dialer
	return r
}

// refused tells a refusal by the server from an answer that did not come.
func refused(err error) bool {
	var away *agentest.UnreachableError
	var network net.Error
	return !(errors.As(err, &away) || errors.As(err, &network) || errors.Is(err, coap.ErrNoAnswer) || errors.Is(err, context.DeadlineExceeded) ||
		errors.Is(err, context.Canceled) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, net.ErrClosed))
}
