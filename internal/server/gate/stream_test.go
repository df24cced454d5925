package gate

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"mooring/internal/base/conf"
	"mooring/internal/base/errs"
)

// startStreams serves streams of the protocol "mqtt" by serve, and HTTP by the answer "http".
func startStreams(t *testing.T, serve func(context.Context, *Stream), change func(*Options)) *setup {
	t.Helper()
	s := &setup{server: certificate(t, "server.example", time.Now().Add(time.Hour)), client: certificate(t, "client.example", time.Now().Add(time.Hour)),
		held: &ServerCertificate{}, ended: make(chan error, 1)}
	s.held.Set(&s.server)
	defaults := conf.Default()
	o := Options{Name: "mqtt", Address: "127.0.0.1:0", Limits: defaults.Limits, Now: time.Now, Log: slog.New(slog.DiscardHandler), Streams: "mqtt",
		TLS: &TLS{Certificate: s.held, Settings: defaults.TLS, Require: true, TicketSecret: bytes.Repeat([]byte{7}, 32)}}
	o.Limits.DrainTimeout = 2 * time.Second
	if change != nil {
		change(&o)
	}
	var err error
	if s.gate, err = Listen(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	s.stop = stop
	h := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "http") })
	go func() { s.ended <- s.gate.ServeStreams(ctx, serve, h) }()
	t.Cleanup(func() {
		stop()
		if err := <-s.ended; err != nil {
			t.Errorf("ServeStreams: %v, want nil after its context ended", err)
		}
		s.ended <- nil
	})
	return s
}

// echo answers what it reads until there is nothing more.
func echo(_ context.Context, s *Stream) {
	defer s.Close()
	_, _ = io.Copy(s, s)
}

// hears reports whether what is sent on c comes back.
func hears(c net.Conn) error {
	if _, err := io.WriteString(c, "ping"); err != nil {
		return err
	}
	answer := make([]byte, 4)
	_, err := io.ReadFull(c, answer)
	if err == nil && string(answer) != "ping" {
		return errors.New("got " + string(answer))
	}
	return err
}

func TestProtocolByALPN(t *testing.T) {
	device := startStreams(t, echo, nil)
	web := startStreams(t, echo, func(o *Options) { o.PreferHTTP = true })
	for _, row := range []struct {
		name    string
		s       *setup
		offered []string
		want    string
	}{
		{"the protocol's name", device, []string{"mqtt"}, "stream"},
		{"none", device, nil, "stream"},
		{"HTTP/1.1", device, []string{"http/1.1"}, "http"},
		{"HTTP/2 and 1.1, as browsers do", device, []string{"h2", "http/1.1"}, "http"},
		{"the protocol and HTTP", device, []string{"http/1.1", "mqtt"}, "stream"},
		{"HTTP/2 alone", device, []string{"h2"}, "refused"},
		{"unknown", device, []string{"amqp"}, "refused"},
		{"nearly the name", device, []string{"MQTT"}, "refused"},
		{"the protocol's name where HTTP is preferred", web, []string{"mqtt"}, "stream"},
		{"none where HTTP is preferred", web, nil, "http"},
		{"unknown where HTTP is preferred", web, []string{"amqp"}, "refused"},
	} {
		t.Run(row.name, func(t *testing.T) {
			s := row.s
			c, err := s.dial(t, func(c *tls.Config) { c.NextProtos = row.offered })
			got := "refused"
			switch {
			case err != nil:
			case row.want == "http":
				if _, got, err = get(t, c); err != nil {
					t.Fatal(err)
				}
			default:
				if err := hears(c); err != nil {
					t.Fatal(err)
				}
				got = "stream"
			}
			if got != row.want {
				t.Errorf("got %s, want %s", got, row.want)
			}
		})
	}
}

func TestStreamKnowsItsPeer(t *testing.T) {
	peers := make(chan *Peer, 2)
	s := startStreams(t, func(ctx context.Context, s *Stream) { peers <- s.Peer(); echo(ctx, s) }, nil)
	if _, err := s.dial(t, func(c *tls.Config) { c.Certificates = nil; c.MaxVersion = tls.VersionTLS12 }); err == nil {
		t.Error("a client without a certificate was let in")
	}
	c, err := s.dial(t, nil)
	if err != nil {
		t.Fatal(err)
	}
	p := <-peers
	if len(p.Chain()) != 1 || p.Leaf() == nil || p.AddrPort().String() != c.LocalAddr().String() {
		t.Errorf("chain of %d, leaf %v, address %s, want those of the client at %s", len(p.Chain()), p.Leaf(), p.AddrPort(), c.LocalAddr())
	}
}

// After Forget nothing large is left, and all that the stream does still works.
func TestForget(t *testing.T) {
	for version, name := range map[uint16]string{tls.VersionTLS12: "1.2", tls.VersionTLS13: "1.3"} {
		t.Run(name, func(t *testing.T) {
			streams := make(chan *Stream, 1)
			s := startStreams(t, func(ctx context.Context, s *Stream) {
				var first [8]byte
				_, _ = io.ReadFull(s, first[:4])
				s.Peer().Forget()
				_, _ = s.Write(first[:4])
				streams <- s
				echo(ctx, s)
			}, nil)
			c, err := s.dial(t, func(c *tls.Config) { c.MaxVersion = version })
			if err != nil {
				t.Fatal(err)
			}
			for range 3 {
				if err := hears(c); err != nil {
					t.Fatal(err)
				}
			}
			stream := <-streams
			p, secure, want := stream.Peer(), stream.out.(*tls.Conn), sha256.Sum256(s.client.Certificate[0])
			if got, ok := p.Digest(); !ok || got != want || p.Chain() != nil || p.Leaf() != nil || p.Bindings() != nil {
				t.Errorf("digest %x, %v, chain %v", got, ok, p.Chain())
			}
			if left := secure.ConnectionState().PeerCertificates; len(left) != 0 {
				t.Errorf("%d certificates are kept", len(left))
			}
			if fieldOf[bytes.Buffer](secure, "hand") == nil || fieldOf[bytes.Buffer](secure, "rawInput") == nil || fieldOf[bytes.Reader](secure, "input") == nil {
				t.Error("this version of Go keeps its buffers elsewhere")
			}
			if n := s.gate.Cut(s.client.Leaf.SerialNumber.Bytes()); n != 1 {
				t.Errorf("%d streams are cut, want 1", n)
			}
			closedByServer(t, c)
		})
	}
}

// Who may connect is asked for resumed sessions too, before the stream begins.
func TestStreamsOfResumedSessionsAreVerified(t *testing.T) {
	for version, name := range map[uint16]string{tls.VersionTLS12: "1.2", tls.VersionTLS13: "1.3"} {
		t.Run(name, func(t *testing.T) {
			var resumed, deny atomic.Bool
			s := startStreams(t, echo, func(o *Options) {
				o.TLS.Verify = func(state tls.ConnectionState) error {
					resumed.Store(state.DidResume)
					if deny.Load() {
						return errors.New("cut")
					}
					return nil
				}
			})
			cache := tls.NewLRUClientSessionCache(1)
			connect := func() error {
				c, err := s.dial(t, func(c *tls.Config) { c.MaxVersion, c.ClientSessionCache = version, cache })
				if err != nil {
					return err
				}
				return hears(c) // which takes the ticket of TLS 1.3 in
			}
			for range 2 {
				if err := connect(); err != nil {
					t.Fatal(err)
				}
			}
			if !resumed.Load() {
				t.Fatal("the second session was not resumed")
			}
			resumed.Store(false)
			deny.Store(true)
			if err := connect(); err == nil || !resumed.Load() {
				t.Errorf("after the cut: %v (a resumed session was seen: %v)", err, resumed.Load())
			}
		})
	}
}

func TestStreamsAreCut(t *testing.T) {
	s := startStreams(t, echo, nil)
	s.gate.grace = 0
	other := certificate(t, "other.example", time.Now().Add(time.Hour))
	var conns []*tls.Conn
	for _, held := range []tls.Certificate{s.client, other} {
		c, err := s.dial(t, func(c *tls.Config) { c.Certificates = []tls.Certificate{held} })
		if err != nil {
			t.Fatal(err)
		}
		if err := hears(c); err != nil {
			t.Fatal(err)
		}
		conns = append(conns, c)
	}
	if n := s.gate.Cut(s.client.Leaf.SerialNumber.Bytes()); n != 1 {
		t.Errorf("%d streams are cut, want 1", n)
	}
	closedByServer(t, conns[0])
	if err := hears(conns[1]); err != nil {
		t.Errorf("the other client: %v", err)
	}
	until(t, "the place is free", func() bool { return s.gate.Metrics().Open == 1 })
}

// Against a client that does not read, a write blocks; Close does not, and ends the write.
func TestCloseOfAStalledStream(t *testing.T) {
	streams, ended := make(chan *Stream, 1), make(chan error, 1)
	s := startStreams(t, func(_ context.Context, s *Stream) {
		streams <- s
		block := make([]byte, 1<<16)
		for {
			if _, err := s.Write(block); err != nil {
				ended <- err
				return
			}
		}
	}, nil)
	if _, err := s.dial(t, nil); err != nil {
		t.Fatal(err)
	}
	stalled := <-streams
	select {
	case err := <-ended:
		t.Fatalf("writing ended by itself: %v", err)
	case <-time.After(200 * time.Millisecond): // the buffers of both ends are full by now, or will be: either way Close comes while it writes
	}
	_ = stalled.Close()
	_ = stalled.Close()
	if err := <-ended; err == nil {
		t.Error("a write after Close worked")
	}
	until(t, "the place is free", func() bool { return s.gate.Metrics().Open == 0 })
}

// What was written before End arrives, although the client goes on sending, and then the client sees the end.
func TestEndOfAStream(t *testing.T) {
	s := startStreams(t, func(_ context.Context, s *Stream) {
		var first [1]byte
		_, _ = io.ReadFull(s, first[:])
		_, _ = io.WriteString(s, "farewell")
		s.End(time.Minute)
	}, nil)
	c, err := s.dial(t, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Write(make([]byte, 20000)); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(c); err != nil || string(got) != "farewell" {
		t.Errorf("got %q, %v, want the last word and the end", got, err)
	}
	c.Close()
	until(t, "the place is free", func() bool { return s.gate.Metrics().Open == 0 })
}

// When the listener stops, streams are told and may end by themselves; one that does not is cut off, and none begins any more.
func TestStreamsDrain(t *testing.T) {
	told := make(chan string, 2)
	s := startStreams(t, func(ctx context.Context, s *Stream) {
		name := make([]byte, 4)
		_, _ = io.ReadFull(s, name)
		s.OnDrain(func() {
			told <- string(name)
			if string(name) == "good" {
				go s.End(time.Minute)
			}
		})
		_, _ = s.Write(name)
	}, func(o *Options) { o.Limits.DrainTimeout = 300 * time.Millisecond })
	ends := map[string]net.Conn{}
	for _, name := range []string{"good", "deaf"} {
		c, err := s.dial(t, nil)
		if err != nil {
			t.Fatal(err)
		}
		ends[name] = c
		if _, err := io.WriteString(c, name); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(c, make([]byte, 4)); err != nil {
			t.Fatal(err)
		}
	}
	s.stop()
	if _, err := io.ReadAll(ends["good"]); err != nil {
		t.Errorf("the stream that ends by itself: %v, want a clean end", err)
	}
	ends["good"].Close()
	closedByServer(t, ends["deaf"])
	if got := <-told + <-told; got != "gooddeaf" && got != "deafgood" {
		t.Errorf("told: %q, want both", got)
	}
	until(t, "both places are free", func() bool { return s.gate.Metrics().Open == 0 })
}

func TestStreamsWithoutTLS(t *testing.T) {
	s := startStreams(t, echo, func(o *Options) { o.TLS = nil })
	c, err := net.Dial("tcp", s.gate.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := hears(c); err != nil {
		t.Error(err)
	}
	for _, address := range []string{"0.0.0.0:0", ":0", "[::]:0", "192.0.2.1:0", "localhost:0", "[::ffff:192.0.2.1]:0"} {
		t.Run(address, func(t *testing.T) {
			g, err := Listen(t.Context(), Options{Name: "interop", Address: address, Limits: conf.Default().Limits, Streams: "mqtt", Now: time.Now})
			if err == nil {
				_ = g.Close()
			}
			if !errs.Is(err, errs.Invalid) || !strings.Contains(err.Error(), "only be reached from this machine") {
				t.Errorf("got %v, want a refusal that says why", err)
			}
		})
	}
}

func TestStreamsCountAgainstTheLimits(t *testing.T) {
	s := startStreams(t, echo, func(o *Options) { o.Limits.AddressConns = 1 })
	first, err := s.dial(t, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := hears(first); err != nil {
		t.Fatal(err)
	}
	if c, err := s.dial(t, nil); err == nil {
		closedByServer(t, c)
	}
	if m := s.gate.Metrics(); m.Refused["address_connections"] == 0 || m.Open != 1 {
		t.Errorf("counted %+v", m)
	}
	first.Close()
	until(t, "the first has left", func() bool { return s.gate.Metrics().Open == 0 })
	if c, err := s.dial(t, nil); err != nil {
		t.Errorf("with the place free again: %v", err)
	} else if err := hears(c); err != nil {
		t.Error(err)
	}
}
