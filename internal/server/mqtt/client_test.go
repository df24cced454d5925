package mqtt

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
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"mooring/internal/base/conf"
	"mooring/internal/server/gate"
	"mooring/wire/mqtt"
)

// world is a server behind a real listener on loopback.
type world struct {
	*testing.T
	hub    *hub
	server *Server
	gate   *gate.Gate
	stop   context.CancelFunc
	certs  map[string]tls.Certificate
}

// newWorld starts a server after change had its say; change may be nil.
func newWorld(t *testing.T, change func(*Server)) *world {
	t.Helper()
	return startWorld(t, change, false)
}

// newWebWorld is newWorld for who names no protocol and means HTTP, as Go's client of WebSockets does.
func newWebWorld(t *testing.T) *world {
	t.Helper()
	return startWorld(t, patient, true)
}

func startWorld(t *testing.T, change func(*Server), web bool) *world {
	t.Helper()
	w := &world{T: t, hub: newHub(), certs: map[string]tls.Certificate{}}
	w.server = New(Deps{Messages: w.hub, Identify: w.hub.identify, Origins: []string{"https://console.example"}, Now: time.Now, Log: slog.New(slog.DiscardHandler)})
	if change != nil {
		change(w.server)
	}
	held, own := &gate.ServerCertificate{}, certificate(t, "server.example")
	held.Set(&own)
	defaults := conf.Default()
	limits := defaults.Limits
	limits.DrainTimeout, limits.AddressHandshakes, limits.AddressConns = 2*time.Second, 10000, 5000
	var err error
	w.gate, err = gate.Listen(t.Context(), gate.Options{Name: "mqtt", Address: "127.0.0.1:0", Streams: "mqtt", PreferHTTP: web, Limits: limits, Now: time.Now, Log: slog.New(slog.DiscardHandler),
		TLS: &gate.TLS{Certificate: held, Settings: defaults.TLS, Require: true, TicketSecret: bytes.Repeat([]byte{7}, 32)}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	w.stop = stop
	served := make(chan error, 1)
	go func() { served <- w.gate.ServeStreams(ctx, w.server.Stream, w.server) }()
	t.Cleanup(func() {
		stop()
		if err := <-served; err != nil {
			t.Errorf("serving: %v", err)
		}
		until(t, "all connections have left", func() bool { return w.server.Metrics().Open == 0 })
		if m := w.server.Metrics(); m.Panics != 0 {
			t.Errorf("%d connections ended by a panic", m.Panics)
		}
	})
	return w
}

func certificate(t testing.TB, name string) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
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

// client speaks packets, or any octets.
type client struct {
	*testing.T
	net.Conn
	version mqtt.Version
	pending []byte
}

// in is the world for a subtest.
func (w *world) in(t *testing.T) *world {
	of := *w
	of.T = t
	return &of
}

// dial connects as a thing, without a word of MQTT.
func (w *world) dial(thing string) *client {
	w.Helper()
	cert, ok := w.certs[thing]
	if !ok {
		cert = certificate(w, thing)
		w.certs[thing] = cert
	}
	c, err := tls.Dial("tcp", w.gate.Addr().String(), &tls.Config{InsecureSkipVerify: true, Certificates: []tls.Certificate{cert}, NextProtos: []string{"mqtt"}})
	if err != nil {
		w.Fatal(err)
	}
	w.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(time.Minute))
	return &client{T: w.T, Conn: c, version: mqtt.V5}
}

// connect connects as a thing and has to be let in.
func (w *world) connect(thing string, change func(*mqtt.Connect)) (*client, mqtt.Connack) {
	w.Helper()
	c := w.dial(thing)
	answer := c.hello(thing, change)
	if answer.Reason != mqtt.Success {
		w.Fatalf("CONNECT of %s: %s", thing, answer.Reason)
	}
	return c, answer
}

// hello says CONNECT and returns the answer.
func (c *client) hello(thing string, change func(*mqtt.Connect)) mqtt.Connack {
	c.Helper()
	p := mqtt.Connect{Version: mqtt.V5, CleanStart: true, ClientID: thing, KeepAlive: 30}
	if change != nil {
		change(&p)
	}
	c.version = p.Version
	c.send(p)
	return expect[mqtt.Connack](c)
}

func v311(p *mqtt.Connect) { p.Version = mqtt.V311 }

func (c *client) send(packets ...mqtt.Packet) {
	c.Helper()
	var b []byte
	for _, p := range packets {
		b = p.Append(b, c.version)
	}
	c.raw(string(b))
}

// raw sends octets. That they cannot be sent shows when something is expected.
func (c *client) raw(b string) {
	c.Helper()
	_, _ = io.WriteString(c.Conn, b)
}

// next returns the next packet.
func (c *client) next() (mqtt.Packet, error) {
	r := mqtt.Rules{Version: c.version, From: mqtt.Server, Limits: &mqtt.Limits{Packet: 1 << 21}}
	for {
		h, n, err := mqtt.ParseHeader(c.pending)
		if err == nil && len(c.pending) >= n+h.Length {
			body := c.pending[n : n+h.Length]
			c.pending = c.pending[n+h.Length:]
			if err := h.Check(r); err != nil {
				return nil, err
			}
			p, err := mqtt.Decode(r, h, bytes.Clone(body))
			return p, err
		}
		if err != nil && !errors.Is(err, mqtt.ErrMore) {
			return nil, err
		}
		more := make([]byte, 4096)
		k, err := c.Read(more)
		if err != nil {
			return nil, err
		}
		c.pending = append(slices.Clone(c.pending), more[:k]...)
	}
}

// expect returns the next packet, which has to be of this type.
func expect[P mqtt.Packet](c *client) P {
	c.Helper()
	p, err := c.next()
	if err != nil {
		c.Fatalf("waiting for %T: %v", *new(P), err)
	}
	got, ok := p.(P)
	if !ok {
		c.Fatalf("got %.300s, want %T", fmt.Sprintf("%T %+v", p, p), got)
	}
	return got
}

// closed reads until the server has closed and returns what it said before: the reason of a DISCONNECT, or "".
func (c *client) closed() (said string) {
	c.Helper()
	for {
		p, err := c.next()
		if err != nil {
			var timeout net.Error
			if errors.As(err, &timeout) && timeout.Timeout() {
				c.Fatal("the server kept the connection open")
			}
			return said
		}
		switch p := p.(type) {
		case mqtt.Disconnect:
			said = p.Reason.String()
		case mqtt.Connack:
			said = "connack: " + p.Reason.String()
		default:
			c.Logf("before the end: %T", p)
		}
	}
}

// alive makes sure that the server answers on this connection.
func (c *client) alive() {
	c.Helper()
	c.send(mqtt.Pingreq{})
	expect[mqtt.Pingresp](c)
}

// aliveAmid is alive for who gets messages meanwhile.
func (c *client) aliveAmid() {
	c.Helper()
	c.send(mqtt.Pingreq{})
	for {
		p, err := c.next()
		if err != nil {
			c.Fatal(err)
		}
		if _, ok := p.(mqtt.Pingresp); ok {
			return
		}
	}
}

func (c *client) subscribe(filters ...mqtt.Subscription) []mqtt.Reason {
	c.Helper()
	c.send(mqtt.Subscribe{ID: 7, Filters: filters})
	answer := expect[mqtt.Suback](c)
	if answer.ID != 7 {
		c.Errorf("SUBACK has the id %d, want 7", answer.ID)
	}
	return answer.Reasons
}

// publish sends a message of QoS 1 and returns the answer.
func (c *client) publish(topic, payload string) mqtt.Ack {
	c.Helper()
	c.send(mqtt.Publish{Topic: topic, QoS: 1, ID: 9, Payload: []byte(payload)})
	return expect[mqtt.Ack](c)
}

func ackOf(t mqtt.Type, id uint16, r mqtt.Reason) mqtt.Ack {
	return mqtt.Ack{Type: t, ID: id, Reason: r}
}

// is fails if what a packet came out as is not as wanted.
func (c *client) is(got, want any) {
	c.Helper()
	if g, w := fmt.Sprintf("%+v", got), fmt.Sprintf("%+v", want); g != w {
		c.Errorf("got  %s\nwant %s", g, w)
	}
}

// has reports whether events stand in this order, others between them.
func has(events []string, want ...string) bool {
	for _, e := range events {
		if len(want) > 0 && strings.HasPrefix(e, want[0]) {
			want = want[1:]
		}
	}
	return len(want) == 0
}
