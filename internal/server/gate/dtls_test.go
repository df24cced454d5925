package gate

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"runtime"
	"strings"
	"testing"
	"time"

	piondtls "github.com/pion/dtls/v3"

	"mooring/internal/base/conf"
	"mooring/internal/base/errs"
	"mooring/wire/dtls"
)

type dtlsSetup struct {
	gate   *Gate
	server tls.Certificate
	client tls.Certificate
	seen   chan *Session // each association, once it is served
}

// startDTLS serves on loopback what gives every datagram back.
func startDTLS(t *testing.T, change func(*Options, *DTLS)) *dtlsSetup {
	t.Helper()
	s := &dtlsSetup{server: certificate(t, "server.example", time.Now().Add(time.Hour)), client: certificate(t, "client.example", time.Now().Add(time.Hour)), seen: make(chan *Session, 100)}
	held := &ServerCertificate{}
	held.Set(&s.server)
	o := Options{Name: "coaps", Address: "127.0.0.1:0", Limits: conf.Default().Limits, Now: time.Now, Log: slog.New(slog.DiscardHandler)}
	o.Limits.DrainTimeout = 2 * time.Second
	o.Limits.HandshakeTimeout = 30 * time.Second
	d := DTLS{Certificate: held, MTU: 1280, Node: 0x0102}
	if change != nil {
		change(&o, &d)
	}
	var err error
	if s.gate, err = ListenDTLS(t.Context(), o, d); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.gate.ServeDTLS(ctx, s.echo) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Errorf("ServeDTLS: %v, want nil after its context ended", err)
		}
		if m := s.gate.Metrics(); m.Open != 0 {
			t.Errorf("%d associations have kept their places", m.Open)
		}
	})
	return s
}

func (s *dtlsSetup) echo(_ context.Context, session *Session) {
	select {
	case s.seen <- session:
	default:
	}
	stop := context.AfterFunc(closing(session), func() { _ = session.Close() })
	defer stop()
	b := make([]byte, 2048)
	for {
		n, err := session.Read(b)
		if err != nil {
			return
		}
		if string(b[:n]) == "prove" {
			at, _ := session.Moved()
			session.Prove(at)
		}
		if string(b[:n]) == "stay" {
			session.Idle(time.Hour)
		}
		_, moved := session.Moved()
		if _, err := session.Write(fmt.Appendf(nil, "%s moved=%v", b[:n], moved)); err != nil {
			return
		}
	}
}

// closing is a context that ends with the draining of a session's listener.
func closing(s *Session) context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	go func() { <-s.Draining(); cancel() }()
	return ctx
}

func (s *dtlsSetup) options(more ...piondtls.ClientOption) []piondtls.ClientOption {
	return s.withoutCID(append([]piondtls.ClientOption{piondtls.WithConnectionIDGenerator(piondtls.OnlySendCIDGenerator())}, more...)...)
}

func (s *dtlsSetup) withoutCID(more ...piondtls.ClientOption) []piondtls.ClientOption {
	return append([]piondtls.ClientOption{piondtls.WithInsecureSkipVerify(true), piondtls.WithCertificates(s.client),
		piondtls.WithExtendedMasterSecret(piondtls.RequireExtendedMasterSecret),
		piondtls.WithCipherSuites(piondtls.TLS_ECDHE_ECDSA_WITH_AES_128_CCM_8), piondtls.WithFlightInterval(200 * time.Millisecond)}, more...)
}

// dialDTLS makes an association with a server, or a relay, at to.
func dialDTLS(t *testing.T, to net.Addr, options ...piondtls.ClientOption) (*piondtls.Conn, error) {
	t.Helper()
	c, err := piondtls.DialWithOptions("udp", to.(*net.UDPAddr), options...)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := c.HandshakeContext(ctx); err != nil {
		_ = c.Close()
		return nil, err
	}
	t.Cleanup(func() { c.Close() })
	return c, nil
}

// ask sends text until it is answered, and returns the answer without what was sent.
func ask(t *testing.T, c *piondtls.Conn, text string) string {
	t.Helper()
	b := make([]byte, 2048)
	for range 100 {
		if _, err := c.Write([]byte(text)); err != nil {
			t.Fatalf("writing: %v", err)
		}
		for {
			if err := c.SetReadDeadline(time.Now().Add(300 * time.Millisecond)); err != nil {
				t.Fatal(err)
			}
			n, err := c.Read(b)
			if errors.Is(err, context.DeadlineExceeded) {
				break
			}
			if err != nil {
				t.Fatalf("asking %q: %v", text, err)
			}
			if answer, ok := strings.CutPrefix(string(b[:n]), text+" "); ok {
				return answer
			}
		}
	}
	t.Fatalf("%q was never answered", text)
	return ""
}

func TestDTLS(t *testing.T) {
	s := startDTLS(t, nil)
	for name, suite := range map[string][]piondtls.CipherSuiteID{
		"CCM_8 only": {piondtls.TLS_ECDHE_ECDSA_WITH_AES_128_CCM_8},
		"GCM":        {piondtls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256},
		"both":       {piondtls.TLS_ECDHE_ECDSA_WITH_AES_128_CCM_8, piondtls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256},
		"CCM":        {piondtls.TLS_ECDHE_ECDSA_WITH_AES_128_CCM},
	} {
		t.Run(name, func(t *testing.T) {
			c, err := dialDTLS(t, s.gate.Addr(), s.options(piondtls.WithCipherSuites(suite...))...)
			if err != nil {
				t.Fatal(err)
			}
			if got := ask(t, c, "hello"); got != "moved=false" {
				t.Errorf("answered %q", got)
			}
			p := (<-s.seen).Peer()
			if len(p.Chain()) != 1 || !bytes.Equal(p.Leaf().Raw, s.client.Certificate[0]) || p.Address() != netip.MustParseAddr("127.0.0.1") {
				t.Errorf("the peer is %v at %v", p.Leaf(), p.Address())
			}
			state, _ := c.ConnectionState()
			want, err := state.ExportKeyingMaterial(bindingLabel, nil, bindingOctets)
			if err != nil || len(p.Bindings()) != 1 || !bytes.Equal(p.Bindings()[0], want) {
				t.Errorf("bindings %x, want %x, %v", p.Bindings(), want, err)
			}
		})
	}
}

func TestDTLSRefusals(t *testing.T) {
	s := startDTLS(t, func(_ *Options, d *DTLS) {
		d.Verify = func(chain [][]byte) error {
			if len(chain) > 1 {
				return errors.New("not this one")
			}
			return nil
		}
	})
	two := s.client
	two.Certificate = append(append([][]byte{}, s.client.Certificate...), s.server.Certificate...)
	many := s.client
	for range maxChain {
		many.Certificate = append(many.Certificate[:len(many.Certificate):len(many.Certificate)], s.client.Certificate[0])
	}
	for name, options := range map[string][]piondtls.ClientOption{
		"client without certificate refused": {piondtls.WithInsecureSkipVerify(true), piondtls.WithCipherSuites(suites()...)},
		"PSK refused": {piondtls.WithPSK(func([]byte) ([]byte, error) { return []byte("secret"), nil }), piondtls.WithPSKIdentityHint([]byte("id")),
			piondtls.WithCipherSuites(piondtls.TLS_PSK_WITH_AES_128_CCM_8)},
		"without EMS":         s.options(piondtls.WithExtendedMasterSecret(piondtls.DisableExtendedMasterSecret)),
		"CBC":                 s.options(piondtls.WithCipherSuites(piondtls.TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA)),
		"verifier says no":    s.options(piondtls.WithCertificates(two)),
		"chain too long":      s.options(piondtls.WithCertificates(many)),
		"key of another":      s.options(piondtls.WithCertificates(tls.Certificate{Certificate: s.client.Certificate, PrivateKey: s.server.PrivateKey})),
		"RSA suites, EC only": s.options(piondtls.WithCipherSuites(piondtls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256)),
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := dialDTLS(t, s.gate.Addr(), options...); err == nil {
				t.Error("an association came about")
			}
		})
	}
	until(t, "all failures are counted and their places free", func() bool {
		m := s.gate.Metrics()
		return m.Refused["handshake_failed"] >= 7 && m.Open == 0 && m.Handshakes == 0 && len(s.gate.slots) == 0
	})
}

// TestDTLSCookies: a hundred thousand hellos of which none has a cookie leave nothing behind, and a client gets through meanwhile.
func TestDTLSCookies(t *testing.T) {
	s := startDTLS(t, nil)
	if _, err := cookieField(new(piondtls.Conn)); err != nil {
		t.Fatalf("pion/dtls was changed: %v; see dtlscookie.go", err)
	}
	f := s.gate.front
	hello := captureHello(t, s)
	goroutines := runtime.NumGoroutine()
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	const flood = 100_000
	t.Run("cookie flood without state", func(t *testing.T) {
		for i := range flood {
			from := netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), uint16(1024+i%60000))
			h, err := dtls.ParseHello(hello)
			if err != nil {
				t.Fatal(err)
			}
			binary.BigEndian.PutUint32(hello[len(hello)-4:], uint32(i)) // all differ
			now := s.gate.o.Now()
			if f.cookies.good(&h, from, now) {
				t.Fatal("a hello without a cookie has a good one")
			}
			f.cookies.give(&h, from, now)
			if i%1000 == 0 {
				if session := f.dispatch(hello, netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), 9)); session != nil {
					t.Fatal("an association was begun for a hello without a cookie")
				}
			}
		}
		runtime.GC()
		runtime.ReadMemStats(&after)
		if grown := int64(after.HeapAlloc) - int64(before.HeapAlloc); grown > 1<<20 {
			t.Errorf("the flood has left %d octets", grown)
		}
		if n := runtime.NumGoroutine(); n > goroutines+5 {
			t.Errorf("the flood has left %d goroutines", n-goroutines)
		}
		f.mu.Lock()
		left := len(f.byAddr) + len(f.byCID)
		f.mu.Unlock()
		if m := s.gate.Metrics(); m.Open != 0 || m.Cookies < flood/1000 || left != 0 {
			t.Errorf("after the flood: %+v", m)
		}
	})
	if _, err := dialDTLS(t, s.gate.Addr(), s.options()...); err != nil {
		t.Errorf("a client after the flood: %v", err)
	}
}

// captureHello returns the first datagram of a client.
func captureHello(t *testing.T, s *dtlsSetup) []byte {
	t.Helper()
	r := newRelay(t, s.gate.Addr())
	r.set(func(r *relay) { r.loss = 1 })
	c, err := piondtls.DialWithOptions("udp", r.near.LocalAddr().(*net.UDPAddr), s.options()...)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	go func() { _ = c.HandshakeContext(ctx) }()
	defer c.Close()
	defer cancel()
	var first []byte
	until(t, "the client has sent its hello", func() bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		if len(r.sent) > 0 {
			first = r.sent[0]
		}
		return first != nil
	})
	return append([]byte(nil), first...)
}

func TestCookiesAreBound(t *testing.T) {
	s := startDTLS(t, nil)
	h, err := dtls.ParseHello(captureHello(t, s))
	if err != nil {
		t.Fatal(err)
	}
	c, from, now := s.gate.front.cookies, netip.MustParseAddrPort("192.0.2.1:5"), time.Now().Truncate(cookieLife)
	h.Cookie = c.give(&h, from, now)
	other, err := dtls.ParseHello(captureHello(t, s)) // another random
	if err != nil {
		t.Fatal(err)
	}
	other.Cookie = h.Cookie
	for _, row := range []struct {
		name string
		h    *dtls.Hello
		from string
		at   time.Duration
		want bool
	}{
		{"given", &h, "192.0.2.1:5", 0, true},
		{"a minute later", &h, "192.0.2.1:5", cookieLife, true},
		{"two minutes later", &h, "192.0.2.1:5", 2 * cookieLife, false},
		{"from another port", &h, "192.0.2.1:6", 0, false},
		{"from another address", &h, "192.0.2.2:5", 0, false},
		{"another hello", &other, "192.0.2.1:5", 0, false},
	} {
		if got := c.good(row.h, netip.MustParseAddrPort(row.from), now.Add(row.at)); got != row.want {
			t.Errorf("%s: %v, want %v", row.name, got, row.want)
		}
	}
}

// Each row does something to the datagrams of a handshake and of what follows.
func TestDTLSOverBadNetworks(t *testing.T) {
	for name, row := range map[string]struct {
		mtu    int
		worsen func(*relay)
	}{
		"loss 20 %":          {1280, func(r *relay) { r.loss = 0.2 }},
		"reordering":         {1280, func(r *relay) { r.reorder = true }},
		"MTU 576":            {576, func(r *relay) { r.limit = 576 - 28 }},
		"DTLS fragmentation": {400, func(r *relay) { r.limit = 400 - 28 }},
	} {
		t.Run(name, func(t *testing.T) {
			s := startDTLS(t, func(_ *Options, d *DTLS) { d.MTU = row.mtu })
			r := newRelay(t, s.gate.Addr())
			r.set(row.worsen)
			for range 3 {
				c, err := dialDTLS(t, r.near.LocalAddr(), s.options(piondtls.WithMTU(row.mtu-100))...)
				if err != nil {
					t.Fatal(err)
				}
				if got := ask(t, c, "hello"); got != "moved=false" {
					t.Errorf("answered %q", got)
				}
				_ = c.Close()
			}
			r.mu.Lock()
			defer r.mu.Unlock()
			if row.mtu < 1280 && r.largest > row.mtu-28 {
				t.Errorf("a datagram of %d octets with an MTU of %d", r.largest, row.mtu)
			}
		})
	}
}

func TestDTLSRoaming(t *testing.T) {
	s := startDTLS(t, nil)
	beginWith := func(t *testing.T, options []piondtls.ClientOption) (*relay, *piondtls.Conn, *Session) {
		r := newRelay(t, s.gate.Addr())
		c, err := dialDTLS(t, r.near.LocalAddr(), options...)
		if err != nil {
			t.Fatal(err)
		}
		if got := ask(t, c, "begin"); got != "moved=false" {
			t.Fatalf("answered %q", got)
		}
		return r, c, <-s.seen
	}
	begin := func(t *testing.T) (*relay, *piondtls.Conn, *Session) { return beginWith(t, s.options()) }
	at := func(s *Session) netip.AddrPort { return s.conn.RemoteAddr().(endpoint).AddrPort }
	t.Run("CID roaming by relay", func(t *testing.T) {
		r, c, session := begin(t)
		if session.cid[0] != 1 || session.cid[1] != 2 {
			t.Errorf("the connection ID %x does not begin with the node", session.cid)
		}
		for i := range 5 {
			r.rebind(t)
			if got := ask(t, c, fmt.Sprint("from address ", i)); got != "moved=true" {
				t.Errorf("answered %q", got)
			}
			if got := ask(t, c, "prove"); got != "moved=false" {
				t.Errorf("answered %q", got)
			}
		}
		if len(s.seen) != 0 {
			t.Error("another association was made")
		}
	})
	t.Run("stale and replayed records", func(t *testing.T) {
		r, c, session := begin(t)
		ask(t, c, "one")
		ask(t, c, "two")
		before := at(session)
		// The newest record and an older one, from elsewhere.
		for _, back := range []int{1, 2} {
			r.replay(t, func(sent [][]byte) []byte { return sent[len(sent)-back] })
		}
		if got := ask(t, c, "three"); got != "moved=false" || at(session) != before {
			t.Errorf("a replayed record has moved the client: %q, %v", got, at(session))
		}
	})
	t.Run("spoofed source with valid CID and an old record must not move the address", func(t *testing.T) {
		r, c, session := begin(t)
		before := at(session)
		r.mu.Lock()
		r.loss = 1 // an attacker keeps a record back …
		r.mu.Unlock()
		if _, err := c.Write([]byte("kept back")); err != nil {
			t.Fatal(err)
		}
		until(t, "the record is with the attacker", func() bool {
			r.mu.Lock()
			defer r.mu.Unlock()
			return len(r.sent) > 0 && r.sent[len(r.sent)-1][0] == 25
		})
		r.mu.Lock()
		kept := r.sent[len(r.sent)-1]
		r.loss = 0
		r.mu.Unlock()
		ask(t, c, "newer") // … until a newer one is through
		r.replay(t, func([][]byte) []byte { return kept })
		forged := append([]byte(nil), kept...)
		forged[len(forged)-1] ^= 1
		binary.BigEndian.PutUint16(forged[9:], 60000) // newer than all, and not by the client
		r.replay(t, func([][]byte) []byte { return forged })
		if got := ask(t, c, "after"); got != "moved=false" || at(session) != before {
			t.Errorf("an old record has moved the client: %q, %v", got, at(session))
		}
	})
	t.Run("without a CID another address is a stranger", func(t *testing.T) {
		r, c, _ := beginWith(t, s.withoutCID())
		before := s.gate.Metrics().Refused["stray_datagram"]
		r.rebind(t)
		if _, err := c.Write([]byte("lost")); err != nil {
			t.Fatal(err)
		}
		until(t, "the datagram is counted", func() bool { return s.gate.Metrics().Refused["stray_datagram"] > before })
	})
}

func TestDTLSBeginsAnew(t *testing.T) {
	s := startDTLS(t, nil)
	socket, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	address := socket.LocalAddr().(*net.UDPAddr)
	for i := range 3 {
		if i > 0 { // the client lost its memory and not its address
			if socket, err = net.ListenUDP("udp", address); err != nil {
				t.Fatal(err)
			}
		}
		c, err := piondtls.ClientWithOptions(socket, s.gate.Addr(), s.withoutCID()...)
		if err != nil {
			t.Fatal(err)
		}
		if got := ask(t, c, "hello"); got != "moved=false" {
			t.Errorf("answered %q", got)
		}
		socket.Close() // without a word
	}
	until(t, "only the last association is left", func() bool { return s.gate.Metrics().Open == 1 })
}

func TestDTLSLimits(t *testing.T) {
	t.Run("idle association reaped", func(t *testing.T) {
		s := startDTLS(t, func(o *Options, _ *DTLS) { o.Limits.IdleTimeout = 100 * time.Millisecond })
		if _, err := dialDTLS(t, s.gate.Addr(), s.options()...); err != nil {
			t.Fatal(err)
		}
		until(t, "the association is gone", func() bool { m := s.gate.Metrics(); return m.Handshakes == 1 && m.Open == 0 && m.Idle == 1 })
	})
	t.Run("an association may be silent for longer than others", func(t *testing.T) {
		s := startDTLS(t, func(o *Options, _ *DTLS) { o.Limits.IdleTimeout = 200 * time.Millisecond })
		stays, err := dialDTLS(t, s.gate.Addr(), s.options()...)
		if err != nil {
			t.Fatal(err)
		}
		ask(t, stays, "stay")
		if _, err := dialDTLS(t, s.gate.Addr(), s.options()...); err != nil {
			t.Fatal(err)
		}
		until(t, "the later one is gone", func() bool { return s.gate.Metrics().Idle == 1 })
		if got := ask(t, stays, "hello"); got != "moved=false" {
			t.Errorf("answered %q", got)
		}
	})
	t.Run("half-open handshakes capped", func(t *testing.T) {
		s := startDTLS(t, func(o *Options, _ *DTLS) { o.Limits.Handshakes, o.Limits.HandshakeTimeout = 1, 300*time.Millisecond })
		r := newRelay(t, s.gate.Addr())
		small := func(r *relay) { r.limit = 300 } // hellos pass, certificates do not
		r.set(small)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		for range 2 {
			c, err := piondtls.DialWithOptions("udp", r.near.LocalAddr().(*net.UDPAddr), s.options()...)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			r2 := newRelay(t, s.gate.Addr())
			r2.set(small)
			other, err := piondtls.DialWithOptions("udp", r2.near.LocalAddr().(*net.UDPAddr), s.options()...)
			if err != nil {
				t.Fatal(err)
			}
			defer other.Close()
			go func() { _ = c.HandshakeContext(ctx) }()
			go func() { _ = other.HandshakeContext(ctx) }()
		}
		until(t, "one is over the limit and one too slow", func() bool {
			m := s.gate.Metrics()
			return m.Refused["handshakes"] > 0 && m.Refused["handshake_slow"] > 0
		})
		cancel()
		until(t, "their places are free", func() bool { return s.gate.Metrics().Open == 0 && len(s.gate.slots) == 0 })
	})
	t.Run("bounded sessions", func(t *testing.T) {
		s := startDTLS(t, func(o *Options, _ *DTLS) { o.Limits.Connections = 1 })
		if _, err := dialDTLS(t, s.gate.Addr(), s.options()...); err != nil {
			t.Fatal(err)
		}
		c, err := piondtls.DialWithOptions("udp", s.gate.Addr().(*net.UDPAddr), s.options()...)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go func() { _ = c.HandshakeContext(ctx) }()
		until(t, "the second is counted", func() bool { return s.gate.Metrics().Refused["connections"] > 0 })
	})
	t.Run("revoked client cut", func(t *testing.T) {
		s := startDTLS(t, nil)
		c, err := dialDTLS(t, s.gate.Addr(), s.options()...)
		if err != nil {
			t.Fatal(err)
		}
		ask(t, c, "hello")
		if n := s.gate.Cut(s.client.Leaf.SerialNumber.Bytes()); n != 1 {
			t.Errorf("%d associations are cut, want 1", n)
		}
		until(t, "it is gone", func() bool { return s.gate.Metrics().Open == 0 })
		if _, err := c.Read(make([]byte, 10)); err == nil {
			t.Error("the client was not told")
		}
	})
}

// Drop ends an association at once; nobody is told at an address where the client may not be.
func TestDTLSDrop(t *testing.T) {
	for name, moved := range map[string]bool{"where it was": false, "moved": true} {
		t.Run(name, func(t *testing.T) {
			s := startDTLS(t, nil)
			r := newRelay(t, s.gate.Addr())
			c, err := dialDTLS(t, r.near.LocalAddr(), s.options()...)
			if err != nil {
				t.Fatal(err)
			}
			ask(t, c, "hello")
			session := <-s.seen
			if moved {
				r.rebind(t)
				ask(t, c, "from elsewhere")
			}
			var before int
			r.set(func(r *relay) { before = r.toClient })
			session.Drop()
			session.Drop()
			session.front.mu.Lock()
			if _, ok := session.front.byCID[session.cid]; ok {
				t.Error("datagrams still find it")
			}
			session.front.mu.Unlock()
			until(t, "its place is free", func() bool { return s.gate.Metrics().Open == 0 })
			if !moved {
				if _, err := c.Read(make([]byte, 100)); err == nil {
					t.Error("the client was not told")
				}
				return
			}
			strays := s.gate.Metrics().Refused["stray_datagram"]
			if _, err := c.Write([]byte("lost")); err != nil {
				t.Fatal(err)
			}
			until(t, "the datagram is counted", func() bool { return s.gate.Metrics().Refused["stray_datagram"] > strays })
			r.set(func(r *relay) {
				if r.toClient != before {
					t.Errorf("%d datagrams were sent to an address that is not proven", r.toClient-before)
				}
			})
		})
	}
}

func TestDTLSPortInUse(t *testing.T) {
	s := startDTLS(t, nil)
	o := s.gate.o
	o.Address = s.gate.Addr().String()
	_, err := ListenDTLS(t.Context(), o, *s.gate.front.dtls)
	want := "cannot listen on " + o.Address + " for coaps: another program has this address; stop it or change listen.coaps"
	if errs.Public(err) != want {
		t.Errorf("got %q, want %q", errs.Public(err), want)
	}
}
