// Package esttest runs an EST server on the loopback interface for tests of EST clients, in the way of net/http/httptest.
// It has an authority of its own (a root and an intermediate), answers as RFC 7030 and RFC 8951 want it, issues one
// certificate for a key however often it is asked, checks channel bindings, and can be told to misbehave:
//
//	server := esttest.Start(t, esttest.Options{Token: "secret"})
//	server.Answer(est.SimpleEnroll, esttest.Status(503, "Retry-After", "120"))
//
// It is for tests only: it authenticates by one token and believes every certificate of its own.
package esttest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"mooring/wire/cms"
	"mooring/wire/der"
	"mooring/wire/est"
)

// Options of a server. The zero value is one with TLS 1.3 that anybody may enrol with.
type Options struct {
	Token      string           // the password of HTTP Basic that an enrolment needs; "" is none
	Attributes est.CSRAttrs     // the answer to csrattrs
	MaxVersion uint16           // the highest TLS version
	Life       time.Duration    // validity of certificates; 0 is 30 days
	Now        func() time.Time // nil is the system's clock
	// Advice answers the question when to renew; nil: there is no such thing, as at other servers.
	Advice func(r *http.Request) est.Advice
	// Else answers what is not for EST; nil: not found.
	Else http.Handler
	// Seen is told of each request before it is answered; may be nil.
	Seen func(r *http.Request)
	// CMCRA has the server's certificate say that it is a registration authority's.
	CMCRA bool
}

// Server is a running server.
type Server struct {
	URL   string            // its origin
	Root  *x509.Certificate // the only root at start
	Inter *x509.Certificate // issues everything

	options  Options
	rootKey  crypto.Signer
	interKey crypto.Signer

	mu       sync.Mutex // guards what follows
	bundle   [][]byte
	script   map[est.Operation][]http.HandlerFunc
	requests []*der.Request
	issued   map[[32]byte][]byte // by public key
	serial   int64
}

// Start runs a server until the test ends.
func Start(t testing.TB, o Options) *Server {
	t.Helper()
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Life == 0 {
		o.Life = 30 * 24 * time.Hour
	}
	s := &Server{options: o, script: make(map[est.Operation][]http.HandlerFunc), issued: make(map[[32]byte][]byte), serial: 1000}
	s.Root, s.rootKey = s.authority(t, "esttest root", nil, nil)
	s.Inter, s.interKey = s.authority(t, "esttest issuing", s.Root, s.rootKey)
	s.bundle = [][]byte{s.Root.Raw, s.Inter.Raw}
	front := httptest.NewUnstartedServer(http.HandlerFunc(s.serve))
	front.Config.ErrorLog = log.New(io.Discard, "", 0) // handshakes that fail are what some tests want
	front.TLS = &tls.Config{
		Certificates: []tls.Certificate{s.serverCertificate(t)},
		ClientAuth:   tls.RequestClientCert,
		MaxVersion:   o.MaxVersion,
	}
	front.StartTLS()
	t.Cleanup(front.Close)
	s.URL = front.URL
	return s
}

// Answer has the next answers to an operation come from the handlers, one each. A nil handler is the ordinary answer.
func (s *Server) Answer(op est.Operation, handlers ...http.HandlerFunc) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.script[op] = append(s.script[op], handlers...)
}

// Status is a handler that answers with a status and headers, given as name and value in turn.
func Status(code int, header ...string) http.HandlerFunc {
	return Text(code, "", header...)
}

// Text is Status with a reason in the body.
func Text(code int, reason string, header ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", est.TypeReason)
		for i := 0; i < len(header); i += 2 {
			w.Header().Set(header[i], header[i+1])
		}
		w.WriteHeader(code)
		_, _ = io.WriteString(w, reason) // a client that is gone is the test's business
	}
}

// Hang is a handler that ends the connection without an answer.
func Hang(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }

// Requests are the certification requests that came with a valid signature and credential, in their order.
func (s *Server) Requests() []*der.Request {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.requests)
}

// Issued is the number of certificates that were issued to devices.
func (s *Server) Issued() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.issued)
}

// SetBundle replaces the certificates that cacerts answers with.
func (s *Server) SetBundle(certs ...*x509.Certificate) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.bundle = nil
	for _, cert := range certs {
		s.bundle = append(s.bundle, cert.Raw)
	}
}

// OtherRoot makes a root that has nothing to do with this server.
func (s *Server) OtherRoot(t testing.TB) *x509.Certificate {
	t.Helper()
	root, _ := s.authority(t, "another root", nil, nil)
	return root
}

// NextRoot makes a root that this server's root vouches for by a cross certificate, and one that vouches for that root in turn.
func (s *Server) NextRoot(t testing.TB) (next, newWithOld, afterNext, afterWithNext *x509.Certificate) {
	t.Helper()
	next, nextKey := s.authority(t, "next root", nil, nil)
	afterNext, _ = s.authority(t, "root after next", nil, nil)
	return next, s.vouch(t, next, s.Root, s.rootKey), afterNext, s.vouch(t, afterNext, next, nextKey)
}

// vouch makes a cross certificate.
func (s *Server) vouch(t testing.TB, root, by *x509.Certificate, key crypto.Signer) *x509.Certificate {
	t.Helper()
	template := &x509.Certificate{SerialNumber: big.NewInt(2), RawSubject: root.RawSubject, NotBefore: root.NotBefore, NotAfter: by.NotAfter,
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign}
	raw, err := x509.CreateCertificate(rand.Reader, template, by, root.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return parse(t, raw)
}

// Certify issues a certificate for a key, outside EST.
func (s *Server) Certify(t testing.TB, name string, key crypto.PublicKey) *x509.Certificate {
	t.Helper()
	return s.CertifySubject(t, pkix.Name{CommonName: name}, key)
}

// CertifySubject is Certify for any subject.
func (s *Server) CertifySubject(t testing.TB, subject pkix.Name, key crypto.PublicKey) *x509.Certificate {
	t.Helper()
	raw, err := s.sign(&x509.Certificate{Subject: subject, NotAfter: s.options.Now().Add(s.options.Life)}, key)
	if err != nil {
		t.Fatal(err)
	}
	return parse(t, raw)
}

func (s *Server) authority(t testing.TB, name string, parent *x509.Certificate, parentKey crypto.Signer) (*x509.Certificate, crypto.Signer) {
	t.Helper()
	key := newKey(t)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name},
		NotBefore: s.options.Now().Add(-time.Hour), NotAfter: s.options.Now().Add(20 * 365 * 24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	if parent == nil {
		parent, parentKey = template, key
	}
	raw, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), parentKey)
	if err != nil {
		t.Fatal(err)
	}
	return parse(t, raw), key
}

func (s *Server) serverCertificate(t testing.TB) tls.Certificate {
	t.Helper()
	key := newKey(t)
	template := &x509.Certificate{
		Subject: pkix.Name{CommonName: "est"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotAfter: s.Root.NotAfter, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	if s.options.CMCRA {
		template.UnknownExtKeyUsage = []asn1.ObjectIdentifier{{1, 3, 6, 1, 5, 5, 7, 3, 28}}
	}
	raw, err := s.sign(template, key.Public())
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{raw, s.Inter.Raw}, PrivateKey: key}
}

func (s *Server) sign(template *x509.Certificate, key crypto.PublicKey) ([]byte, error) {
	s.serial++
	template.SerialNumber = big.NewInt(s.serial)
	template.NotBefore = s.options.Now().Add(-time.Minute)
	return x509.CreateCertificate(rand.Reader, template, s.Inter, key, s.interKey)
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func parse(t testing.TB, raw []byte) *x509.Certificate {
	t.Helper()
	cert, err := x509.ParseCertificate(raw)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

// serve finds the operation and lets the script go first.
func (s *Server) serve(w http.ResponseWriter, r *http.Request) {
	if s.options.Seen != nil {
		s.options.Seen(r)
	}
	if r.URL.Path == est.RenewalPath && s.options.Advice != nil {
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(s.options.Advice(r)) // a client that is gone is the test's business
		return
	}
	path, ok := strings.CutPrefix(r.URL.Path, est.WellKnown)
	op := est.Operation(path[strings.LastIndex(path, "/")+1:])
	if !ok || !est.IsOperation(string(op)) {
		if s.options.Else != nil {
			s.options.Else.ServeHTTP(w, r)
			return
		}
		http.NotFound(w, r)
		return
	}
	if h := s.next(op); h != nil {
		h(w, r)
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	status, contentType, der := s.answer(op, r)
	if status != http.StatusOK {
		Text(status, string(der))(w, r)
		return
	}
	Send(w, contentType, der)
}

func (s *Server) next(op est.Operation) http.HandlerFunc {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.script[op]) == 0 {
		return nil
	}
	h := s.script[op][0]
	s.script[op] = s.script[op][1:]
	return h
}

// Send writes a successful answer.
func Send(w http.ResponseWriter, contentType string, der []byte) {
	body := est.EncodeBase64(der)
	w.Header().Set("Content-Type", contentType)
	w.Header().Set("Content-Transfer-Encoding", "base64")
	w.Header().Set("Content-Length", fmt.Sprint(len(body)))
	_, _ = w.Write(body) // a client that is gone is the test's business
}

// SendCertificates writes certificates as an enrolment answer.
func SendCertificates(t testing.TB, w http.ResponseWriter, certs ...[]byte) {
	t.Helper()
	message, err := cms.CertsOnly(certs)
	if err != nil {
		t.Error(err)
	}
	Send(w, est.TypeCertsOnly, message)
}

// answer makes the ordinary answer; for a status other than 200 the content is the reason.
func (s *Server) answer(op est.Operation, r *http.Request) (status int, contentType string, content []byte) {
	var err error
	switch op {
	case est.CACerts:
		content, err = cms.CertsOnly(s.bundle)
		contentType = est.TypeCACerts
	case est.CSRAttributes:
		content, err = est.BuildCSRAttrs(s.options.Attributes)
		contentType = est.TypeCSRAttrs
	case est.SimpleEnroll, est.SimpleReenroll:
		return s.enrol(op, r)
	default:
		return http.StatusNotImplemented, "", nil
	}
	if err != nil {
		return http.StatusInternalServerError, "", []byte(err.Error())
	}
	return http.StatusOK, contentType, content
}
