// Package reachtest is a small network for tests of validations: a name server, a web server and a TLS server on this machine, which answer as a
// test tells them to. Names that were not set do not exist.
package reachtest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"mooring/internal/provider/reach"
)

// Net is such a network. It implements the agent's Solver.
type Net struct {
	Resolver          string // host:port
	HTTPPort, TLSPort int

	mu       sync.Mutex // guards what follows
	names    map[string][]netip.Addr
	rebound  map[string][]netip.Addr // what a name resolves to from the second question for it on
	asked    map[string]int
	texts    map[string][]string
	aliases  map[string]string
	broken   map[string]bool
	answers  map[string]string
	handlers map[string]http.HandlerFunc
	certs    map[string]*tls.Certificate
}

// Start begins to answer, until the test ends.
func Start(t testing.TB) *Net {
	t.Helper()
	n := &Net{names: map[string][]netip.Addr{}, rebound: map[string][]netip.Addr{}, asked: map[string]int{}, texts: map[string][]string{}, aliases: map[string]string{}, broken: map[string]bool{},
		answers: map[string]string{}, handlers: map[string]http.HandlerFunc{}, certs: map[string]*tls.Certificate{}}
	n.dns(t)
	web := httptest.NewServer(http.HandlerFunc(n.serve))
	t.Cleanup(web.Close)
	n.HTTPPort = web.Listener.Addr().(*net.TCPAddr).Port
	n.alpn(t)
	return n
}

// Options are those of a validator in this network.
func (n *Net) Options() reach.Options {
	return reach.Options{Allow: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}, Resolver: n.Resolver, HTTPPort: n.HTTPPort, TLSPort: n.TLSPort}
}

func set[T any](n *Net, where map[string]T, key string, value T) {
	n.mu.Lock()
	defer n.mu.Unlock()
	where[key] = value
}

// Name makes a name resolve to addresses, 127.0.0.1 when none are given.
func (n *Net) Name(name string, ips ...string) {
	if len(ips) == 0 {
		ips = []string{"127.0.0.1"}
	}
	set(n, n.names, name, parse(ips))
}

func parse(ips []string) (list []netip.Addr) {
	for _, ip := range ips {
		list = append(list, netip.MustParseAddr(ip))
	}
	return list
}

// Rebind makes a name resolve to ips from the second question on.
func (n *Net) Rebind(name string, ips ...string) { set(n, n.rebound, name, parse(ips)) }

// TXT gives a name TXT records, Alias another name that it stands for, Break a name server that fails.
func (n *Net) TXT(name string, values ...string) { set(n, n.texts, name, values) }

// Alias makes name a CNAME of other.
func (n *Net) Alias(name, other string) { set(n, n.aliases, name, other) }

// Break has questions about a name fail.
func (n *Net) Break(name string) { set(n, n.broken, name, true) }

// Handle answers HTTP requests for a host.
func (n *Net) Handle(host string, h http.HandlerFunc) { set(n, n.handlers, host, h) }

// Certificate is what the TLS server shows for a server name.
func (n *Net) Certificate(server string, c *tls.Certificate) { set(n, n.certs, server, c) }

// Present shows the answer to a challenge on every host.
func (n *Net) Present(token, keyAuthorization string) (remove func(), err error) {
	set(n, n.answers, token, keyAuthorization)
	return func() {
		n.mu.Lock()
		defer n.mu.Unlock()
		delete(n.answers, token)
	}, nil
}

func (n *Net) serve(w http.ResponseWriter, r *http.Request) {
	host, _, err := net.SplitHostPort(r.Host)
	if err != nil {
		host = r.Host
	}
	n.mu.Lock()
	h := n.handlers[host]
	answer := n.answers[strings.TrimPrefix(r.URL.Path, "/.well-known/acme-challenge/")]
	n.mu.Unlock()
	switch {
	case h != nil:
		h(w, r)
	case answer != "":
		_, _ = w.Write([]byte(answer + "\r\n")) // white space at the end is of no account
	default:
		http.NotFound(w, r)
	}
}

// dns answers questions over UDP.
func (n *Net) dns(t testing.TB) {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	n.Resolver = conn.LocalAddr().String()
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, 1500)
		for {
			size, from, err := conn.ReadFrom(buf)
			if err != nil {
				return
			}
			if answer := n.answer(buf[:size]); answer != nil {
				_, _ = conn.WriteTo(answer, from) // lost datagrams are asked for again
			}
		}
	}()
	t.Cleanup(func() {
		if err := conn.Close(); err != nil {
			t.Error(err)
		}
		<-done
	})
}

func (n *Net) answer(question []byte) []byte {
	var m dnsmessage.Message
	if m.Unpack(question) != nil || len(m.Questions) != 1 {
		return nil
	}
	q := m.Questions[0]
	name := strings.ToLower(strings.TrimSuffix(q.Name.String(), "."))
	m.Header = dnsmessage.Header{ID: m.ID, Response: true, Authoritative: true, RecursionDesired: m.RecursionDesired, RecursionAvailable: true}
	m.Additionals = nil
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.broken[name] {
		m.RCode = dnsmessage.RCodeServerFailure
	} else if !n.records(&m, q, name) {
		m.RCode = dnsmessage.RCodeNameError
	}
	out, err := m.Pack()
	if err != nil {
		return nil
	}
	return out
}

// records adds what there is to an answer and reports whether the name exists. It needs mu.
func (n *Net) records(m *dnsmessage.Message, q dnsmessage.Question, name string) bool {
	header := func(of dnsmessage.Name, t dnsmessage.Type) dnsmessage.ResourceHeader {
		return dnsmessage.ResourceHeader{Name: of, Type: t, Class: dnsmessage.ClassINET, TTL: 1}
	}
	at := q.Name
	for range 8 {
		other, ok := n.aliases[name]
		if !ok {
			break
		}
		target := dnsmessage.MustNewName(other + ".")
		m.Answers = append(m.Answers, dnsmessage.Resource{Header: header(at, dnsmessage.TypeCNAME), Body: &dnsmessage.CNAMEResource{CNAME: target}})
		name, at = other, target
	}
	ips, known := n.names[name]
	if later, ok := n.rebound[name]; ok && q.Type == dnsmessage.TypeA {
		if n.asked[name]++; n.asked[name] > 1 {
			ips = later
		}
	}
	texts, hasText := n.texts[name]
	switch q.Type {
	case dnsmessage.TypeA:
		for _, ip := range ips {
			if ip.Is4() {
				m.Answers = append(m.Answers, dnsmessage.Resource{Header: header(at, q.Type), Body: &dnsmessage.AResource{A: ip.As4()}})
			}
		}
	case dnsmessage.TypeAAAA:
		for _, ip := range ips {
			if ip.Is6() {
				m.Answers = append(m.Answers, dnsmessage.Resource{Header: header(at, q.Type), Body: &dnsmessage.AAAAResource{AAAA: ip.As16()}})
			}
		}
	case dnsmessage.TypeTXT:
		for _, text := range texts {
			m.Answers = append(m.Answers, dnsmessage.Resource{Header: header(at, q.Type), Body: &dnsmessage.TXTResource{TXT: []string{text}}})
		}
	}
	return known || hasText
}

// alpn serves TLS.
func (n *Net) alpn(t testing.TB) {
	t.Helper()
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{NextProtos: []string{"acme-tls/1", "http/1.1"}, GetCertificate: func(h *tls.ClientHelloInfo) (*tls.Certificate, error) {
		n.mu.Lock()
		defer n.mu.Unlock()
		if c := n.certs[h.ServerName]; c != nil {
			return c, nil
		}
		return nil, errors.New("nobody here has this name")
	}})
	if err != nil {
		t.Fatal(err)
	}
	n.TLSPort = l.Addr().(*net.TCPAddr).Port
	var all sync.WaitGroup
	all.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			all.Go(func() {
				defer conn.Close()
				_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
				_, _ = conn.Read(make([]byte, 1)) // the handshake, and then nothing
			})
		}
	})
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
		all.Wait()
	})
}

// Witness makes a certificate for tls-alpn-01. change, if not nil, bends it.
func Witness(t testing.TB, keyAuthorization string, dns []string, ips []string, change func(*x509.Certificate)) *tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256([]byte(keyAuthorization))
	value, err := asn1.Marshal(sum[:])
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "witness"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), DNSNames: dns,
		ExtraExtensions: []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 1, 31}, Critical: true, Value: value}}}
	for _, ip := range ips {
		c.IPAddresses = append(c.IPAddresses, net.ParseIP(ip))
	}
	if change != nil {
		change(c)
	}
	der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}
