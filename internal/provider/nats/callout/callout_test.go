package callout_test

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"io"
	"log/slog"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	natsgo "github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"

	"mooring/internal/base/errs"
	"mooring/internal/base/port"
	"mooring/internal/provider/nats/callout"
	"mooring/internal/provider/nats/natstest"
)

// authority is a CA that makes certificates for things.
type authority struct {
	t    *testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	file string
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{t: t, key: newKey(t), file: filepath.Join(t.TempDir(), "ca.pem")}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "root"}, NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, template, template, a.key.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	if a.cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(a.file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	return a
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func (a *authority) pool() *x509.CertPool {
	p := x509.NewCertPool()
	p.AddCert(a.cert)
	return p
}

// issue makes a certificate that ends after life.
func (a *authority) issue(name string, life time.Duration) tls.Certificate {
	a.t.Helper()
	key := newKey(a.t)
	template := &x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: name}, NotAfter: time.Now().Add(life), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, key.Public(), a.key)
	if err != nil {
		a.t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// site is NATS with MQTT, whose auth callout we answer.
type site struct {
	t       *testing.T
	ca      *authority
	cluster *natstest.Cluster
	r       *callout.Responder
	mqtt    string
	mu      sync.Mutex
	revoked []string
	asked   []callout.Request
}

func (s *site) revoke(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.revoked = append(s.revoked, name)
}

// decide does what core does: the thing is known by its certificate, its client identifier is its name.
func (s *site) decide(_ context.Context, r callout.Request) (callout.Permit, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked = append(s.asked, r)
	thing := r.Chain[0].Subject.CommonName
	switch {
	case slices.Contains(s.revoked, thing):
		return callout.Permit{}, errs.New(errs.Denied, "%s is revoked", thing)
	case r.MQTT && r.Client != thing:
		return callout.Permit{}, errs.New(errs.Denied, "%s claims to be %s", thing, r.Client)
	}
	return callout.Permit{Name: thing, Publish: []string{"v1/acme/" + thing + "/telemetry/#"},
		Subscribe: []string{"v1/acme/" + thing + "/cmd/+"}, NotAfter: r.Chain[0].NotAfter.Unix()}, nil
}

type keys struct{ issuer, issuerSeed, xkey, xkeySeed string }

func newKeys(t *testing.T) keys {
	t.Helper()
	account, err := nkeys.CreateAccount()
	if err != nil {
		t.Fatal(err)
	}
	curve, err := nkeys.CreateCurveKeys()
	if err != nil {
		t.Fatal(err)
	}
	text := func(b []byte, err error) string {
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	public := func(s string, err error) string {
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	return keys{public(account.PublicKey()), text(account.Seed()), public(curve.PublicKey()), text(curve.Seed())}
}

// open starts n servers and a responder for them.
func open(t *testing.T, n int, change ...func(*server.Options)) *site {
	t.Helper()
	s := &site{t: t, ca: newAuthority(t)}
	k := newKeys(t)
	mutual := &tls.Config{Certificates: []tls.Certificate{s.ca.issue("server", time.Hour)}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: s.ca.pool(), MinVersion: tls.VersionTLS12}
	s.cluster = natstest.Start(t, n, append([]func(*server.Options){func(o *server.Options) {
		auth, dev, sys := server.NewAccount("AUTH"), server.NewAccount("DEV"), server.NewAccount("SYS")
		o.Accounts, o.SystemAccount = []*server.Account{auth, dev, sys}, "SYS"
		o.Users = []*server.User{{Username: "callout", Password: "c", Account: auth}, {Username: "sys", Password: "s", Account: sys}, {Username: "backend", Password: "b", Account: dev}}
		o.AuthCallout = &server.AuthCallout{Issuer: k.issuer, Account: "AUTH", AuthUsers: []string{"callout", "sys", "backend"}, XKey: k.xkey}
		o.TLSConfig = mutual
		o.AuthTimeout = 5
		if n == 1 {
			free, err := port.Free(1)
			if err != nil {
				t.Fatal(err)
			}
			s.mqtt = free[0].String()
			o.MQTT = server.MQTTOpts{Host: "127.0.0.1", Port: int(free[0].Port()), TLSConfig: mutual, AuthTimeout: 5}
		}
	}}, change...)...)
	if n == 1 {
		account, err := s.cluster.Server(0).LookupAccount("DEV")
		if err == nil {
			err = account.EnableJetStream(nil, nil)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	s.respond(k)
	return s
}

func (s *site) respond(k keys) {
	t := s.t
	t.Helper()
	o := callout.Options{URLs: s.cluster.URLs(), CA: s.ca.file, Callout: callout.Login{User: "callout", Password: "c"}, System: callout.Login{User: "sys", Password: "s"},
		Issuer: k.issuerSeed, XKey: k.xkeySeed, Account: "DEV", Decide: s.decide, Now: time.Now, Log: slog.New(slog.DiscardHandler)}
	o.Cert, o.Key = s.files(s.ca.issue("mooring", time.Hour))
	var err error
	if s.r, err = callout.Open(o); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	var ran sync.WaitGroup
	ran.Go(func() {
		if err := s.r.Run(ctx); err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	t.Cleanup(func() { stop(); ran.Wait(); s.r.Close() })
	for s.r.Counts() == (callout.Counts{}) { // the first question shows that the servers know of the responder
		if c, err := s.client("probe"); err == nil {
			c.Close()
		}
	}
}

func (s *site) files(c tls.Certificate) (cert, key string) {
	s.t.Helper()
	dir := s.t.TempDir()
	cert, key = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	der, err := x509.MarshalPKCS8PrivateKey(c.PrivateKey)
	if err != nil {
		s.t.Fatal(err)
	}
	for path, block := range map[string]*pem.Block{cert: {Type: "CERTIFICATE", Bytes: c.Certificate[0]}, key: {Type: "PRIVATE KEY", Bytes: der}} {
		if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
			s.t.Fatal(err)
		}
	}
	return cert, key
}

func (s *site) tls(c tls.Certificate) *tls.Config {
	return &tls.Config{Certificates: []tls.Certificate{c}, RootCAs: s.ca.pool(), MinVersion: tls.VersionTLS12}
}

// client is a thing that speaks NATS's own protocol.
func (s *site) client(name string, options ...natsgo.Option) (*natsgo.Conn, error) {
	return natsgo.Connect(strings.Join(s.cluster.URLs(), ","), append([]natsgo.Option{natsgo.Secure(s.tls(s.ca.issue(name, time.Hour))), natsgo.NoReconnect()}, options...)...)
}

// device is a thing that speaks MQTT 3.1.1.
type device struct {
	t *testing.T
	c *tls.Conn
	r *bufio.Reader
}

// connect gives the return code of CONNACK.
func (s *site) connect(cert tls.Certificate, id string) (*device, byte, error) {
	c, err := tls.Dial("tcp", s.mqtt, s.tls(cert))
	if err != nil {
		return nil, 0, err
	}
	s.t.Cleanup(func() { _ = c.Close() }) // it may be closed already
	d := &device{s.t, c, bufio.NewReader(c)}
	body := append([]byte("\x00\x04MQTT\x04\x02\x00\x00\x00"), append([]byte{byte(len(id))}, id...)...)
	if err := d.write(0x10, body); err != nil {
		return nil, 0, err
	}
	kind, answer, err := d.read()
	if err != nil {
		return nil, 0, err
	}
	if kind != 0x20 || len(answer) != 2 {
		s.t.Fatalf("the answer to CONNECT is %x %x", kind, answer)
	}
	return d, answer[1], nil
}

func (d *device) write(kind byte, body []byte) error {
	_, err := d.c.Write(append([]byte{kind, byte(len(body))}, body...)) // all are below 128 octets
	return err
}

func (d *device) read() (kind byte, body []byte, err error) {
	if kind, err = d.r.ReadByte(); err != nil {
		return 0, nil, err
	}
	n, err := d.r.ReadByte()
	if err != nil {
		return 0, nil, err
	}
	body = make([]byte, n)
	_, err = io.ReadFull(d.r, body)
	return kind, body, err
}

func (d *device) subscribe(filter string, qos byte) byte {
	d.t.Helper()
	if err := d.write(0x82, append(append([]byte{0, 7, 0, byte(len(filter))}, filter...), qos)); err != nil {
		d.t.Fatal(err)
	}
	kind, body, err := d.read()
	if err != nil || kind != 0x90 || len(body) != 3 {
		d.t.Fatalf("the answer to SUBSCRIBE is %x %x, %v", kind, body, err)
	}
	return body[2]
}

func (d *device) publish(topic, payload string) {
	d.t.Helper()
	if err := d.write(0x30, append(append([]byte{0, byte(len(topic))}, topic...), payload...)); err != nil {
		d.t.Fatal(err)
	}
}

// alive asks for an answer.
func (d *device) alive() error {
	if err := d.write(0xc0, nil); err != nil {
		return err
	}
	kind, _, err := d.read()
	if err == nil && kind != 0xd0 {
		err = errors.New("no PINGRESP")
	}
	return err
}

// ended waits until the server closes the connection.
func (d *device) ended() {
	for {
		if _, _, err := d.read(); err != nil {
			return
		}
	}
}

func (s *site) must(cert tls.Certificate, id string) *device {
	s.t.Helper()
	d, code, err := s.connect(cert, id)
	if err != nil || code != 0 {
		s.t.Fatalf("CONNECT of %s: code %d, %v", id, code, err)
	}
	return d
}

func (s *site) backend() *natsgo.Conn {
	s.t.Helper()
	c, err := s.client("backend", natsgo.UserInfo("backend", "b"))
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(c.Close)
	return c
}

func TestAllowed(t *testing.T) {
	s := open(t, 1)
	b := s.backend()
	heard := make(chan string, 10)
	if _, err := b.Subscribe("v1.>", func(m *natsgo.Msg) { heard <- m.Subject + " " + string(m.Data) }); err != nil {
		t.Fatal(err)
	}
	if err := b.Flush(); err != nil {
		t.Fatal(err)
	}
	d := s.must(s.ca.issue("dev-1", time.Hour), "dev-1")
	if code := d.subscribe("v1/acme/dev-1/cmd/+", 0); code != 0 {
		t.Errorf("SUBSCRIBE to its commands: %#x", code)
	}
	if code := d.subscribe("v1/acme/dev-1/cmd/+", 1); code != 1 {
		t.Errorf("SUBSCRIBE to its commands with QoS 1: %#x", code)
	}
	for _, filter := range []string{"v1/acme/dev-2/cmd/+", "v1/#", "#", "+/+/+/+/+", "v1/acme/dev-1/cmd/#", "$MQTT/#", "$SYS/#"} {
		if code := d.subscribe(filter, 0); code != 0x80 {
			t.Errorf("SUBSCRIBE to %s: %#x, want 0x80", filter, code)
		}
	}
	d.publish("v1/acme/dev-2/telemetry/x", "foreign")
	d.publish("v1/acme/dev-1/telemetry", "the parent level is not granted")
	d.publish("v1/acme/dev-1/telemetry/x", "own")
	if got := <-heard; got != "v1.acme.dev-1.telemetry.x own" {
		t.Errorf("the first message is %q", got)
	}
	if err := b.Publish("v1.acme.dev-1.cmd.go", []byte("now")); err != nil {
		t.Fatal(err)
	}
	if kind, body, err := d.read(); err != nil || kind&0xf0 != 0x30 || !strings.HasSuffix(string(body), "cmd/gonow") {
		t.Errorf("the device hears %x %q, %v", kind, body, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	last := s.asked[len(s.asked)-1]
	if last.Client != "dev-1" || !last.MQTT || len(last.Chain) != 2 || last.Address == "" || last.Server == "" {
		t.Errorf("Decide was asked %+v", last)
	}
}

func TestRefused(t *testing.T) {
	s := open(t, 1)
	victim := s.must(s.ca.issue("dev-1", time.Hour), "dev-1")
	s.revoke("dev-9")
	for _, row := range []struct {
		name string
		cert tls.Certificate
		id   string
	}{
		{"a foreign CA", newAuthority(t).issue("dev-1", time.Hour), "dev-1"},
		{"an expired certificate", s.ca.issue("dev-2", -time.Minute), "dev-2"},
		{"a revoked thing", s.ca.issue("dev-9", time.Hour), "dev-9"},
		{"another's client identifier", s.ca.issue("dev-3", time.Hour), "dev-1"},
		{"no certificate", tls.Certificate{}, "dev-1"},
	} {
		t.Run(row.name, func(t *testing.T) {
			if _, code, err := s.connect(row.cert, row.id); err == nil && code != 5 {
				t.Errorf("CONNECT: code %d, want 5 or no answer", code)
			}
		})
	}
	if err := victim.alive(); err != nil {
		t.Errorf("the thing whose client identifier others claimed: %v", err)
	}
	if c := s.r.Counts(); c.Refused != 2 || c.Failed != 0 {
		t.Errorf("counts are %+v, want 2 refused: the rest ends in the handshake", c)
	}
}

func TestUserNameIsNoWayIn(t *testing.T) {
	s := open(t, 1)
	if c, err := s.client("dev-1", natsgo.UserInfo("backend", "wrong")); err == nil {
		c.Close()
		t.Error("the name of one of auth_users with a wrong password is let in")
	}
	c, err := s.client("dev-1", natsgo.UserInfo("dev-2", "x"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if got := s.asked[len(s.asked)-1].Chain[0].Subject.CommonName; got != "dev-1" {
		t.Errorf("with another's user name the thing is %q, want dev-1 by its certificate", got)
	}
}

func TestKick(t *testing.T) {
	s := open(t, 1)
	cert := s.ca.issue("dev-1", time.Hour)
	d, other := s.must(cert, "dev-1"), s.must(s.ca.issue("dev-2", time.Hour), "dev-2")
	s.revoke("dev-1")
	begun := time.Now()
	ended := make(chan time.Duration, 1)
	go func() { d.ended(); ended <- time.Since(begun) }()
	if err := s.r.Kick(t.Context(), []string{"dev-1", "never-seen"}); err != nil {
		t.Fatal(err)
	}
	t.Logf("from Kick to the closed connection: %v", <-ended)
	if _, code, err := s.connect(cert, "dev-1"); err == nil && code != 5 {
		t.Errorf("CONNECT after Kick: code %d, want 5", code)
	}
	if err := other.alive(); err != nil {
		t.Errorf("another thing after Kick: %v", err)
	}
	for range 2 { // nobody is there any more
		if err := s.r.Kick(t.Context(), []string{"dev-1"}); err != nil {
			t.Error(err)
		}
	}
	if err := s.r.Kick(t.Context(), nil); err != nil {
		t.Error(err)
	}
	if got := s.r.Counts().Kicked; got != 1 {
		t.Errorf("%d connections were ended, want 1", got)
	}
}

// TestKickInCluster kicks things that are connected with any of three servers, one by name and many at once.
func TestKickInCluster(t *testing.T) {
	s := open(t, 3)
	var names []string
	var gone sync.WaitGroup
	for i := range 9 {
		name := string(rune('a' + i))
		names = append(names, name)
		gone.Add(1)
		c, err := natsgo.Connect(s.cluster.URL(i%3), natsgo.Secure(s.tls(s.ca.issue(name, time.Hour))), natsgo.NoReconnect(), natsgo.ClosedHandler(func(*natsgo.Conn) { gone.Done() }))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(c.Close)
	}
	stays, err := s.client("stays")
	if err != nil {
		t.Fatal(err)
	}
	defer stays.Close()
	for _, name := range names {
		s.revoke(name)
	}
	if err := s.r.Kick(t.Context(), names[:1]); err != nil {
		t.Fatal(err)
	}
	if err := s.r.Kick(t.Context(), names); err != nil {
		t.Fatal(err)
	}
	gone.Wait()
	if err := stays.Flush(); err != nil {
		t.Errorf("a thing that was not kicked: %v", err)
	}
	if got := s.r.Counts().Kicked; got != 9 {
		t.Errorf("%d connections were ended, want 9", got)
	}
}

func TestKickAbandoned(t *testing.T) {
	s := open(t, 1)
	ctx, stop := context.WithCancel(t.Context())
	stop()
	if err := s.r.Kick(ctx, []string{"dev-1"}); !errs.Is(err, errs.Unavailable) {
		t.Errorf("Kick with a context that ended: %v, want Unavailable", err)
	}
	s.cluster.Lose(0)
	if err := s.r.Kick(t.Context(), []string{"dev-1"}); !errs.Is(err, errs.Unavailable) {
		t.Errorf("Kick without a server: %v, want Unavailable", err)
	}
}

// TestCertificateEnds: the server ends the connection by itself, even if we were away.
func TestCertificateEnds(t *testing.T) {
	s := open(t, 1)
	d := s.must(s.ca.issue("dev-1", 3*time.Second), "dev-1")
	d.ended()
	if _, code, err := s.connect(s.ca.issue("dev-2", time.Hour), "dev-2"); err != nil || code != 0 {
		t.Errorf("another thing afterwards: code %d, %v", code, err)
	}
}

// TestServerForgotSomething: without verification of certificates, and without a seal, everybody is refused.
func TestServerForgotSomething(t *testing.T) {
	for _, row := range []struct {
		name   string
		change func(*server.Options)
	}{
		{"no verification", func(o *server.Options) {
			c := o.TLSConfig.Clone()
			c.ClientAuth = tls.RequestClientCert
			o.MQTT.TLSConfig = c
		}},
		{"no seal", func(o *server.Options) { o.AuthCallout.XKey, o.AuthTimeout, o.MQTT.AuthTimeout = "", 1, 1 }},
	} {
		t.Run(row.name, func(t *testing.T) {
			s := open(t, 1, row.change)
			if _, code, err := s.connect(s.ca.issue("dev-1", time.Hour), "dev-1"); err == nil && code != 5 {
				t.Errorf("CONNECT: code %d, want 5", code)
			}
		})
	}
}

// Servers that are away keep nobody from starting; they are tried on, and the log says so.
func TestOpenWithoutServers(t *testing.T) {
	s := open(t, 1)
	k := newKeys(t)
	var said strings.Builder
	o := callout.Options{URLs: []string{"nats://127.0.0.1:1"}, Issuer: k.issuerSeed, XKey: k.xkeySeed, Account: "DEV", Decide: s.decide, Now: time.Now, Log: slog.New(slog.NewTextHandler(&said, nil))}
	r, err := callout.Open(o)
	if err != nil {
		t.Fatal(err)
	}
	r.Close()
	if !strings.Contains(said.String(), "127.0.0.1:1") {
		t.Errorf("the log says %q", said.String())
	}
}

func TestOpenSaysWhatIsWrong(t *testing.T) {
	s := open(t, 1)
	k := newKeys(t)
	cert, key := s.files(s.ca.issue("mooring", time.Hour))
	good := callout.Options{URLs: s.cluster.URLs(), CA: s.ca.file, Cert: cert, Key: key, Callout: callout.Login{User: "callout", Password: "c"}, System: callout.Login{User: "sys", Password: "s"},
		Issuer: k.issuerSeed, XKey: k.xkeySeed, Account: "DEV", Decide: s.decide, Now: time.Now, Log: slog.New(slog.DiscardHandler)}
	for _, row := range []struct {
		name   string
		change func(*callout.Options)
		kind   errs.Kind
		want   string
	}{
		{"no URLs", func(o *callout.Options) { o.URLs = nil }, errs.Invalid, "URLs"},
		{"no account", func(o *callout.Options) { o.Account = "" }, errs.Invalid, "account"},
		{"a public key for the issuer", func(o *callout.Options) { o.Issuer = k.issuer }, errs.Invalid, "issuer"},
		{"a seed of another kind", func(o *callout.Options) { o.XKey = k.issuerSeed }, errs.Invalid, "xkey"},
		{"a wrong password", func(o *callout.Options) { o.System.Password = "x" }, errs.Denied, "system account"},
	} {
		t.Run(row.name, func(t *testing.T) {
			o := good
			row.change(&o)
			r, err := callout.Open(o)
			if err == nil {
				r.Close()
			}
			if !errs.Is(err, row.kind) || !strings.Contains(errs.Public(err), row.want) {
				t.Errorf("Open: %v, want %v with %q", err, row.kind, row.want)
			}
			if err != nil && (strings.Contains(err.Error(), k.issuerSeed) || strings.Contains(err.Error(), k.xkeySeed)) {
				t.Error("the error shows a seed")
			}
		})
	}
}
