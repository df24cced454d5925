package gate

import (
	"cmp"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"net/netip"
	"testing"
	"time"

	"mooring/internal/base/conf"
)

// closedByServer waits until the server has closed c.
func closedByServer(t *testing.T, c net.Conn) {
	t.Helper()
	_ = c.SetReadDeadline(time.Now().Add(time.Minute))
	_, err := io.Copy(io.Discard, c)
	if timeout, ok := err.(net.Error); ok && timeout.Timeout() {
		t.Error("the server kept the connection open")
	}
}

func TestSlowHandshakeIsClosedAtItsDeadline(t *testing.T) {
	s := start(t, http.NotFoundHandler(), func(o *Options) { o.Limits.HandshakeTimeout = 50 * time.Millisecond })
	for _, sent := range []string{"", "\x16\x03\x01\x02\x00\x01"} {
		c, err := net.Dial("tcp", s.gate.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if _, err := io.WriteString(c, sent); err != nil {
			t.Fatal(err)
		}
		closedByServer(t, c)
	}
	until(t, "both are counted and their places free", func() bool {
		m := s.gate.Metrics()
		return m.Refused["handshake_slow"] == 2 && m.Open == 0 && len(s.gate.slots) == 0
	})
}

// Each row opens two silent connections; the second must be turned away for the row's reason while the first stays.
func TestConnectionLimits(t *testing.T) {
	for _, row := range []struct {
		reason string
		change func(*conf.Limits)
	}{
		{"connections", func(l *conf.Limits) { l.Connections = 1 }},
		{"address_connections", func(l *conf.Limits) { l.AddressConns = 1 }},
		{"handshakes", func(l *conf.Limits) { l.Handshakes = 1 }},
	} {
		name := map[string]string{"handshakes": "half-open handshakes capped"}[row.reason]
		t.Run(cmp.Or(name, row.reason), func(t *testing.T) {
			s := start(t, http.NotFoundHandler(), func(o *Options) { row.change(&o.Limits) })
			first, err := net.Dial("tcp", s.gate.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			until(t, "the first is in", func() bool { return s.gate.Metrics().Open == 1 })
			// The reset may come as early as during the dial.
			if second, err := net.Dial("tcp", s.gate.Addr().String()); err == nil {
				closedByServer(t, second)
				second.Close()
			}
			until(t, "the second is counted", func() bool { return s.gate.Metrics().Refused[row.reason] > 0 })
			if m := s.gate.Metrics(); m.Refused[row.reason] != 1 || m.Open != 1 {
				t.Errorf("counted %+v", m)
			}
			first.Close()
			until(t, "the first has left", func() bool { return s.gate.Metrics().Open == 0 && len(s.gate.slots) == 0 })
			if _, err := s.dial(t, nil); err != nil {
				t.Errorf("with the place free again: %v", err)
			}
		})
	}
}

func TestHandshakeRates(t *testing.T) {
	for reason, change := range map[string]func(*conf.Limits){
		"address_rate": func(l *conf.Limits) { l.AddressHandshakes = 1 },
		"rate":         func(l *conf.Limits) { l.HandshakeRate = 1 },
	} {
		now := time.Now() // stands still, so that nothing is refilled
		s := start(t, http.NotFoundHandler(), func(o *Options) { change(&o.Limits); o.Now = func() time.Time { return now } })
		for i := range burst + 1 {
			_, err := s.dial(t, nil)
			if (err == nil) != (i < burst) {
				t.Errorf("%s: connection %d: %v", reason, i, err)
			}
		}
		if got := s.gate.Metrics().Refused[reason]; got != 1 {
			t.Errorf("%s: %d refused, want 1", reason, got)
		}
	}
}

func TestRequestRateIsAnsweredWith429(t *testing.T) {
	now := time.Now()
	s := start(t, http.NotFoundHandler(), func(o *Options) {
		o.TLS, o.Limits.RequestRate, o.Limits.RequestBurst, o.Now = nil, 1, 2, func() time.Time { return now }
	})
	for i, want := range []int{404, 404, 429} {
		response, err := http.Get("http://" + s.gate.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		if response.StatusCode != want || (want == 429) != (response.Header.Get("Retry-After") == "1") {
			t.Errorf("request %d: %d %v, want %d", i, response.StatusCode, response.Header, want)
		}
	}
	if got := s.gate.Metrics().Refused["requests"]; got != 1 {
		t.Errorf("counted %d, want 1", got)
	}
}

func TestAddressesShareTheirNetwork(t *testing.T) {
	l := conf.Default().Limits
	l.AddressConns = 1
	g := newGuard(l)
	now := time.Now()
	for _, row := range []struct {
		address string
		want    reason
	}{
		{"2001:db8::1", admitted}, {"2001:db8::2", tooManyFromAddress}, {"2001:db8:0:1::1", admitted},
		{"192.0.2.1", admitted}, {"192.0.2.1", tooManyFromAddress}, {"192.0.2.2", admitted},
	} {
		if got := g.enter(netip.MustParseAddr(row.address), now, true); got != row.want {
			t.Errorf("%s: %v, want %v", row.address, got, row.want)
		}
	}
	g.leave(netip.MustParseAddr("2001:db8::1"))
	if got := g.enter(netip.MustParseAddr("2001:db8::2"), now, true); got != admitted {
		t.Errorf("after the neighbour left: %v", got)
	}
}

func TestRememberedAddressesAreBounded(t *testing.T) {
	l := conf.Default().Limits
	l.TrackedAddresses, l.RequestRate, l.RequestBurst = 16, 1, 1
	g := newGuard(l)
	now := time.Now()
	faithful := netip.MustParseAddr("10.9.9.9")
	g.request(faithful, now)
	for i := range 100 {
		g.request(netip.AddrFrom4([4]byte{10, 0, 0, byte(i)}), now)
		if g.request(faithful, now) {
			t.Fatal("an address in steady use was forgotten, and with it that it is over its rate")
		}
	}
	if len(g.rates) != 16 || g.recent.Len() != 16 {
		t.Errorf("%d and %d remembered, want 16", len(g.rates), g.recent.Len())
	}
}

func TestPlaintextOnTLSPortIsClosed(t *testing.T) {
	s := start(t, http.NotFoundHandler(), nil)
	c, err := net.Dial("tcp", s.gate.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	closedByServer(t, c)
	if _, err := s.dial(t, func(c *tls.Config) { c.MaxVersion = tls.VersionTLS12 }); err != nil {
		t.Errorf("the next client: %v", err)
	}
}
