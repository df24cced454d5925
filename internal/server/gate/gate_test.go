package gate

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"mooring/internal/base/conf"
	"mooring/internal/base/errs"
)

// certificate makes a self-signed certificate called name that is valid around now, or until before it.
func certificate(t *testing.T, name string, notAfter time.Time) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name},
		NotBefore: notAfter.Add(-48 * time.Hour), NotAfter: notAfter, DNSNames: []string{name}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
}

type setup struct {
	gate   *Gate
	server tls.Certificate
	client tls.Certificate
	held   *ServerCertificate
	ended  chan error
	stop   context.CancelFunc
}

// start serves h on loopback after change had its say about the options.
func start(t *testing.T, h http.Handler, change func(*Options)) *setup {
	t.Helper()
	s := &setup{server: certificate(t, "server.example", time.Now().Add(time.Hour)), client: certificate(t, "client.example", time.Now().Add(time.Hour)),
		held: &ServerCertificate{}, ended: make(chan error, 1)}
	s.held.Set(&s.server)
	defaults := conf.Default()
	o := Options{Name: "est", Address: "127.0.0.1:0", Limits: defaults.Limits, Now: time.Now, Log: slog.New(slog.DiscardHandler),
		TLS: &TLS{Certificate: s.held, Settings: defaults.TLS, TicketSecret: bytes.Repeat([]byte{7}, 32)}}
	o.Limits.DrainTimeout = 2 * time.Second
	if change != nil {
		change(&o)
	}
	var err error
	if s.gate, err = Listen(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	s.serve(t, h)
	return s
}

func (s *setup) serve(t *testing.T, h http.Handler) {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	s.stop = stop
	go func() { s.ended <- s.gate.Serve(ctx, h) }()
	t.Cleanup(func() {
		stop()
		if err := <-s.ended; err != nil {
			t.Errorf("Serve: %v, want nil after its context ended", err)
		}
		s.ended <- nil
	})
}

// dial connects with the client's certificate.
func (s *setup) dial(t *testing.T, change func(*tls.Config)) (*tls.Conn, error) {
	t.Helper()
	c := &tls.Config{InsecureSkipVerify: true, Certificates: []tls.Certificate{s.client}, ServerName: "server.example"}
	if change != nil {
		change(c)
	}
	conn, err := tls.Dial("tcp", s.gate.Addr().String(), c)
	if err == nil {
		t.Cleanup(func() { conn.Close() })
	}
	return conn, err
}

func get(t *testing.T, c net.Conn) (int, string, error) {
	t.Helper()
	r, err := http.NewRequest("GET", "http://server.example/", nil)
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) { return c, nil }}
	defer transport.CloseIdleConnections()
	response, err := transport.RoundTrip(r)
	if err != nil {
		return 0, "", err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	return response.StatusCode, string(body), err
}

// until waits for cond, which another goroutine makes true soon.
func until(t *testing.T, what string, cond func() bool) {
	t.Helper()
	deadline := time.After(time.Minute)
	for !cond() {
		select {
		case <-deadline:
			t.Fatalf("waited too long until %s", what)
		case <-time.After(time.Millisecond):
		}
	}
}

func TestBothVersionsProveThePeer(t *testing.T) {
	var seen atomic.Pointer[Peer]
	s := start(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		p, ok := PeerFrom(r)
		if !ok {
			t.Error("no peer")
		}
		seen.Store(p)
	}), nil)
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		t.Run(tls.VersionName(version)+"-only peer", func(t *testing.T) {
			c, err := s.dial(t, func(c *tls.Config) { c.MinVersion, c.MaxVersion = version, version })
			if err != nil {
				t.Fatal(err)
			}
			state := c.ConnectionState()
			if _, _, err := get(t, c); err != nil {
				t.Fatal(err)
			}
			p := seen.Load()
			if len(p.Chain()) != 1 || !bytes.Equal(p.Chain()[0], s.client.Certificate[0]) || p.Leaf().Subject.CommonName != "client.example" || p.Resumed() {
				t.Errorf("%s: chain %x, leaf %v", tls.VersionName(version), p.Chain(), p.Leaf())
			}
			if p.Address().String() != "127.0.0.1" {
				t.Errorf("address %v", p.Address())
			}
			exporter, err := state.ExportKeyingMaterial("EXPORTER-Channel-Binding", []byte{}, 32)
			if err != nil {
				t.Fatal(err)
			}
			want := [][]byte{exporter}
			if version == tls.VersionTLS12 {
				noContext, err := state.ExportKeyingMaterial("EXPORTER-Channel-Binding", nil, 32)
				if err != nil {
					t.Fatal(err)
				}
				want = [][]byte{state.TLSUnique, exporter, noContext}
			}
			if got := p.Bindings(); len(got) != len(want) || !bytes.Equal(bytes.Join(got, []byte("|")), bytes.Join(want, []byte("|"))) {
				t.Errorf("%s: bindings %x, want %x", tls.VersionName(version), got, want)
			}
			if version == tls.VersionTLS13 && state.CurveID != tls.X25519MLKEM768 {
				t.Errorf("key exchange %v, want the hybrid", state.CurveID)
			}
			if _, local := p.Local(); local {
				t.Error("a TCP peer is local")
			}
		})
	}
}

func TestWeakTLSIsRefused(t *testing.T) {
	s := start(t, http.NotFoundHandler(), nil)
	for name, change := range map[string]func(*tls.Config){
		"1.0/1.1 off": func(c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS10, tls.VersionTLS11 },
		"no CBC": func(c *tls.Config) {
			c.MaxVersion, c.CipherSuites = tls.VersionTLS12, []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA, tls.TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA256}
		},
		"no RSA key exchange": func(c *tls.Config) {
			c.MaxVersion, c.CipherSuites = tls.VersionTLS12, []uint16{tls.TLS_RSA_WITH_AES_128_GCM_SHA256}
		},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := s.dial(t, change); err == nil {
				t.Error("it was accepted")
			}
		})
	}
	until(t, "all failures are counted", func() bool { return s.gate.Metrics().Refused["handshake_failed"] == 3 && s.gate.Metrics().Open == 0 })
}

// TestWhatOnlyOthersDo has OpenSSL do what crypto/tls cannot be made to do.
func TestWhatOnlyOthersDo(t *testing.T) {
	s := start(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, "served") }), nil)
	const ask = "GET / HTTP/1.1\r\nHost: server.example\r\nConnection: close\r\n\r\n"
	config := filepath.Join(t.TempDir(), "openssl.cnf")
	if err := os.WriteFile(config, []byte("openssl_conf = all\n[all]\nssl_conf = tls\n[tls]\nsystem_default = options\n[options]\nOptions = -ExtendedMasterSecret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	// speak returns what a client prints that says input. By "-ign_eof" it waits for the answer; without it takes commands.
	speak := func(t *testing.T, input, flag string, environment ...string) string {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		client := exec.CommandContext(ctx, "openssl", "s_client", "-tls1_2", "-connect", s.gate.Addr().String(), "-servername", "server.example", flag)
		client.Stdin, client.Env = strings.NewReader(input), append(os.Environ(), environment...)
		out, err := client.CombinedOutput() // its exit status says nothing of use
		if ctx.Err() != nil {
			t.Fatalf("the client goes on: %v\n%s", err, out)
		}
		return string(out)
	}
	t.Run("as it is", func(t *testing.T) { // so that the rows below fail for no other reason
		if out := speak(t, ask, "-ign_eof"); !strings.Contains(out, "Extended master secret: yes") || !strings.Contains(out, "served") {
			t.Errorf("got %s", out)
		}
	})
	t.Run("EMS required", func(t *testing.T) {
		out := speak(t, ask, "-ign_eof", "OPENSSL_CONF="+config)
		if !strings.Contains(out, "Extended master secret: no") || strings.Contains(out, "served") || s.gate.Metrics().Refused["handshake_failed"] != 1 {
			t.Errorf("counted %v, got %s", s.gate.Metrics().Refused, out)
		}
	})
	t.Run("no renegotiation", func(t *testing.T) {
		if out := speak(t, "R\n", "-state"); !strings.Contains(out, "RENEGOTIATING") || !strings.Contains(out, "alert unexpected message") {
			t.Errorf("got %s", out)
		}
	})
}

func TestSettingsNarrowTLS(t *testing.T) {
	s := start(t, http.NotFoundHandler(), func(o *Options) { o.TLS.Settings.MinVersion, o.TLS.Settings.Hybrid = "1.3", false })
	if _, err := s.dial(t, func(c *tls.Config) { c.MaxVersion = tls.VersionTLS12 }); err == nil {
		t.Error("TLS 1.2 was accepted with min_version 1.3")
	}
	c, err := s.dial(t, nil)
	if err != nil {
		t.Fatal(err)
	}
	if got := c.ConnectionState().CurveID; got == tls.X25519MLKEM768 {
		t.Errorf("key exchange %v although hybrid is off", got)
	}
}

func TestResumedConnectionsAreVerifiedToo(t *testing.T) {
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		t.Run("resumption re-checks revocation, "+tls.VersionName(version), func(t *testing.T) {
			var revoked atomic.Bool
			var calls, resumed atomic.Int32
			var seen atomic.Pointer[Peer]
			s := start(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { p, _ := PeerFrom(r); seen.Store(p) }), func(o *Options) {
				o.TLS.Verify = func(state tls.ConnectionState) error {
					calls.Add(1)
					if state.DidResume {
						resumed.Add(1)
					}
					if revoked.Load() {
						return errors.New("revoked")
					}
					return nil
				}
			})
			cache := tls.NewLRUClientSessionCache(1)
			resume := func(c *tls.Config) { c.ClientSessionCache, c.MinVersion, c.MaxVersion = cache, version, version }
			for i := range 2 {
				c, err := s.dial(t, resume)
				if err != nil {
					t.Fatal(err)
				}
				state := c.ConnectionState()
				if _, _, err := get(t, c); err != nil { // also fetches the ticket in TLS 1.3
					t.Fatal(err)
				}
				p := seen.Load()
				if p.Resumed() != (i == 1) || p.Leaf() == nil || !bytes.Equal(p.Leaf().Raw, s.client.Certificate[0]) {
					t.Errorf("%s, connection %d: resumed %v, leaf %v", tls.VersionName(version), i, p.Resumed(), p.Leaf())
				}
				if version == tls.VersionTLS12 && (len(state.TLSUnique) == 0 || !bytes.Equal(p.Bindings()[0], state.TLSUnique)) {
					t.Errorf("connection %d: tls-unique %x, server %x", i, state.TLSUnique, p.Bindings())
				}
			}
			if calls.Load() != 2 || resumed.Load() != 1 {
				t.Fatalf("%s: hook called %d times, %d for resumed ones; want 2 and 1", tls.VersionName(version), calls.Load(), resumed.Load())
			}
			revoked.Store(true)
			if c, err := s.dial(t, resume); err == nil {
				if _, _, err := get(t, c); err == nil {
					t.Errorf("%s: a resumed session got through although the hook refuses", tls.VersionName(version))
				}
			}
			if resumed.Load() != 2 {
				t.Errorf("%s: the last connection did not try to resume", tls.VersionName(version))
			}
			if m := s.gate.Metrics(); m.Handshakes != 2 || m.Resumed != 1 {
				t.Errorf("counted %+v", m)
			}
		})
	}
}

func TestTicketsEndWithTheirLifetime(t *testing.T) {
	var offset atomic.Int64
	now := func() time.Time { return time.Now().Truncate(24 * time.Hour).Add(time.Duration(offset.Load())) }
	s := start(t, http.NotFoundHandler(), func(o *Options) { o.Now, o.TLS.Settings.SessionLifetime = now, time.Hour })
	cache := tls.NewLRUClientSessionCache(1)
	for i, row := range []struct {
		at      time.Duration
		resumed bool
	}{{0, false}, {59 * time.Minute, true}, {3 * time.Hour, false}} {
		offset.Store(int64(row.at))
		c, err := s.dial(t, func(c *tls.Config) { c.ClientSessionCache, c.MaxVersion = cache, tls.VersionTLS12 })
		if err != nil {
			t.Fatal(err)
		}
		if got := c.ConnectionState().DidResume; got != row.resumed {
			t.Errorf("connection %d after %v: resumed %v, want %v", i, row.at, got, row.resumed)
		}
	}
}

func TestTicketKeysAreBoundToNameAndShared(t *testing.T) {
	secret := bytes.Repeat([]byte{1}, 32)
	est, err := newTickets("est", secret, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	other, _ := newTickets("est", secret, time.Hour)
	api, _ := newTickets("api", secret, time.Hour)
	if est.key(5) != other.key(5) || est.key(5) == api.key(5) || est.key(5) == est.key(6) {
		t.Error("keys must be equal for the same name and period, and differ otherwise")
	}
	if _, err := newTickets("est", secret[:31], time.Hour); !errs.Is(err, errs.Invalid) {
		t.Errorf("short secret: %v", err)
	}
}

func TestExpiredCertificateReachesTheHandler(t *testing.T) {
	var leaf atomic.Pointer[x509.Certificate]
	s := start(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { p, _ := PeerFrom(r); leaf.Store(p.Leaf()) }), nil)
	t.Run("expired client certificate path", func(t *testing.T) {
		s.client = certificate(t, "expired.example", time.Now().Add(-time.Hour))
		c, err := s.dial(t, nil)
		if err != nil {
			t.Fatal(err)
		}
		if status, _, err := get(t, c); err != nil || status != 200 || leaf.Load().Subject.CommonName != "expired.example" {
			t.Errorf("got %d, %v, leaf %v", status, err, leaf.Load())
		}
	})
}

func TestPossessionOfTheKeyIsRequired(t *testing.T) {
	var reached atomic.Bool
	s := start(t, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { reached.Store(true) }), nil)
	thief := certificate(t, "thief.example", time.Now().Add(time.Hour))
	s.client = tls.Certificate{Certificate: s.client.Certificate, PrivateKey: thief.PrivateKey}
	if c, err := s.dial(t, nil); err == nil {
		if _, _, err := get(t, c); err == nil {
			t.Error("a certificate without its key was accepted")
		}
	}
	if reached.Load() {
		t.Error("the handler was reached")
	}
}

func TestClientCertificateMayBeAbsentUnlessRequired(t *testing.T) {
	for _, required := range []bool{false, true} {
		s := start(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if p, _ := PeerFrom(r); p.Chain() != nil || p.Leaf() != nil {
				t.Error("a chain from nowhere")
			}
		}), func(o *Options) { o.TLS.Require = required })
		c, err := s.dial(t, func(c *tls.Config) { c.Certificates = nil })
		if err == nil {
			_, _, err = get(t, c)
		}
		if (err == nil) == required {
			t.Errorf("required %v: %v", required, err)
		}
	}
}

// TestCAListIsBounded: constrained clients choke on long lists of CAs, and devices have certificates of CAs that nobody lists.
func TestCAListIsBounded(t *testing.T) {
	s := start(t, http.NotFoundHandler(), nil)
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		t.Run("CA list bounded, "+tls.VersionName(version), func(t *testing.T) {
			asked := -1
			if _, err := s.dial(t, func(c *tls.Config) {
				c.MinVersion, c.MaxVersion = version, version
				c.GetClientCertificate = func(r *tls.CertificateRequestInfo) (*tls.Certificate, error) {
					asked = len(r.AcceptableCAs)
					return &s.client, nil
				}
			}); err != nil {
				t.Fatal(err)
			}
			if asked != 0 {
				t.Errorf("the request names %d CAs, want none; -1 is no request", asked)
			}
		})
	}
}

func TestLongChainsAreRefused(t *testing.T) {
	s := start(t, http.NotFoundHandler(), nil)
	for range maxChain {
		s.client.Certificate = append(s.client.Certificate, s.server.Certificate[0])
	}
	if c, err := s.dial(t, nil); err == nil {
		if _, _, err := get(t, c); err == nil {
			t.Errorf("a chain of %d was accepted", len(s.client.Certificate))
		}
	}
}

func TestServerCertificateIsSwappedInPlace(t *testing.T) {
	s := start(t, http.NotFoundHandler(), nil)
	next := certificate(t, "next.example", time.Now().Add(time.Hour))
	for _, want := range []tls.Certificate{s.server, next} {
		s.held.Set(&want)
		c, err := s.dial(t, nil)
		if err != nil {
			t.Fatal(err)
		}
		if got := c.ConnectionState().PeerCertificates[0]; !bytes.Equal(got.Raw, want.Certificate[0]) {
			t.Errorf("presented %s, want %s", got.Subject, want.Leaf.Subject)
		}
	}
	s.held.Set(nil)
	if _, err := s.dial(t, nil); err == nil {
		t.Error("a handshake without a certificate succeeded")
	}
}

func TestHTTP2SharesThePeer(t *testing.T) {
	var computed atomic.Int32
	s := start(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p, _ := PeerFrom(r)
		got := p.Cache("path", func() any { computed.Add(1); return p.Leaf().Subject.CommonName })
		_, _ = io.WriteString(w, r.Proto+" "+got.(string))
	}), nil)
	client := &http.Client{Transport: &http.Transport{ForceAttemptHTTP2: true,
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true, Certificates: []tls.Certificate{s.client}}}}
	defer client.CloseIdleConnections()
	for range 3 {
		response, err := client.Get("https://" + s.gate.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(response.Body)
		response.Body.Close()
		if string(body) != "HTTP/2.0 client.example" {
			t.Errorf("got %q", body)
		}
	}
	if computed.Load() != 1 || s.gate.Metrics().Accepted != 1 {
		t.Errorf("computed %d times on %d connections, want once on one", computed.Load(), s.gate.Metrics().Accepted)
	}
}

func TestCacheIsBounded(t *testing.T) {
	p := &Peer{}
	for i := range 100 {
		if got := p.Cache(i, func() any { return i }); got != i {
			t.Fatalf("got %v, want %d", got, i)
		}
	}
	if len(p.cache) > maxCached {
		t.Errorf("%d values kept", len(p.cache))
	}
}

func TestPortInUseSaysWhatToDo(t *testing.T) {
	s := start(t, http.NotFoundHandler(), nil)
	o := s.gate.o
	o.Address = s.gate.Addr().String()
	_, err := Listen(t.Context(), o)
	want := "cannot listen on " + o.Address + " for est: another program has this address; stop it or change listen.est"
	if errs.Public(err) != want {
		t.Errorf("got %q, want %q", errs.Public(err), want)
	}
	o.Address = "192.0.2.1:1"
	if _, err := Listen(t.Context(), o); !strings.Contains(errs.Public(err), "no such address") {
		t.Errorf("got %v", err)
	}
	o.Address = ""
	if _, err := Listen(t.Context(), o); !errs.Is(err, errs.Invalid) {
		t.Errorf("empty address: %v", err)
	}
}

func TestRequestsInProgressFinishOnStop(t *testing.T) {
	entered, finish := make(chan struct{}), make(chan struct{})
	s := start(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		close(entered)
		<-finish
		if r.Context().Err() != nil {
			t.Error("the request's context ended with the server's")
		}
		_, _ = io.WriteString(w, "done")
	}), nil)
	c, err := s.dial(t, nil)
	if err != nil {
		t.Fatal(err)
	}
	answers := make(chan string, 1)
	go func() {
		_, body, err := get(t, c)
		answers <- body
		if err != nil {
			t.Error(err)
		}
	}()
	<-entered
	s.stop()
	until(t, "the address is free", func() bool {
		c, err := net.Dial("tcp", s.gate.Addr().String())
		if err == nil {
			c.Close()
		}
		return err != nil
	})
	close(finish)
	if got := <-answers; got != "done" {
		t.Errorf("got %q, want done", got)
	}
}

func TestStuckRequestsAreCutOffAfterTheDrain(t *testing.T) {
	entered, released := make(chan struct{}), make(chan struct{})
	s := start(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		close(entered)
		<-r.Context().Done() // ends when the drain is over, or never
		close(released)
	}), func(o *Options) { o.Limits.DrainTimeout = 50 * time.Millisecond })
	c, err := s.dial(t, nil)
	if err != nil {
		t.Fatal(err)
	}
	go func() { _, _, _ = get(t, c) }()
	<-entered
	s.stop()
	<-released
}
