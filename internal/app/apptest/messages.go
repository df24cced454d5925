package apptest

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"mooring/agent/coap"
	"mooring/agent/mqtt"
	"mooring/internal/base/conf"
	"mooring/internal/core/device"
	"mooring/internal/core/message"
	wire "mooring/wire/mqtt"
)

const anyPort = "127.0.0.1:0"

// patience is how long something is waited for that comes at once where all is well.
const patience = time.Minute

// Messaging has a platform carry messages, by MQTT, WebSockets at the same address, and CoAP. Start takes it as change.
func Messaging(c *conf.Config) {
	c.Listen.MQTT, c.Listen.COAPS, c.COAPS.Messages = anyPort, anyPort, true
}

// Talker is a device or service that has a certificate.
type Talker struct {
	device.Device
	Cert tls.Certificate
}

// Talker registers a device and gets it a certificate.
func (p *Platform) Talker(t testing.TB, name, profile string) Talker {
	t.Helper()
	d, cert := p.Enrolled(t, name, profile)
	return Talker{d, cert}
}

// Boss is the first operator, whom the policy lets read everything and command everybody.
func (p *Platform) Boss(t testing.TB) Talker {
	t.Helper()
	k := Talker{Cert: p.OperatorCert(t)}
	id, err := p.Message.Identify(t.Context(), message.Visit{}, k.Cert.Certificate)
	if err != nil {
		t.Fatalf("looking for the operator: %v", err)
	}
	k.Device = p.Load(t, id.ID)
	return k
}

// MQTT returns how k connects to this node by MQTT.
func (p *Platform) MQTT(k Talker) mqtt.Config {
	return mqtt.Config{Dial: mqtt.TLS(p.mqttAddress(), p.mqttTLS(k)), Now: time.Now, ClientID: k.Name}
}

func (p *Platform) mqttTLS(k Talker) *tls.Config {
	c := p.TLS(&k.Cert)
	c.NextProtos = []string{"mqtt"}
	return c
}

func (p *Platform) mqttAddress() string { return strings.TrimPrefix(p.Addresses().MQTT, "mqtts://") }

// Over returns a function for mqtt.Config.Dial that has wrap look at the connection below TLS first, and change of the configuration what it likes; each may be nil.
func (p *Platform) Over(k Talker, change func(*tls.Config), wrap func(net.Conn) net.Conn) func(context.Context) (net.Conn, error) {
	address, config := p.mqttAddress(), p.mqttTLS(k)
	if change != nil {
		change(config)
	}
	return func(ctx context.Context) (net.Conn, error) {
		below, err := new(net.Dialer).DialContext(ctx, "tcp", address)
		if err != nil {
			return nil, err
		}
		if wrap != nil {
			below = wrap(below)
		}
		over := tls.Client(below, config)
		if err := over.HandshakeContext(ctx); err != nil {
			_ = below.Close() // it is of no use
			return nil, err
		}
		return over, nil
	}
}

// Connect connects k by MQTT until the test ends; each change may alter how.
func (p *Platform) Connect(t testing.TB, k Talker, change ...func(*mqtt.Config)) *mqtt.Conn {
	t.Helper()
	c, err := p.TryConnect(t, k, change...)
	if err != nil {
		t.Fatalf("connecting %s: %v", k.Name, err)
	}
	return c
}

// TryConnect is Connect for who may be refused.
func (p *Platform) TryConnect(t testing.TB, k Talker, change ...func(*mqtt.Config)) (*mqtt.Conn, error) {
	t.Helper()
	config := p.MQTT(k)
	for _, f := range change {
		f(&config)
	}
	c, err := mqtt.Dial(t.Context(), config)
	if err == nil {
		t.Cleanup(c.Break)
	}
	return c, err
}

// Subscribe asks for filters with a QoS and fails the test when one is refused.
func Subscribe(t testing.TB, c *mqtt.Conn, qos wire.QoS, filters ...string) {
	t.Helper()
	for _, f := range filters {
		if _, err := c.Subscribe(t.Context(), mqtt.Subscription{Filter: f, QoS: qos}); err != nil {
			t.Fatalf("subscribing to %s: %v", f, err)
		}
	}
}

// Publish says something by MQTT and fails the test when it is refused.
func Publish(t testing.TB, c *mqtt.Conn, qos wire.QoS, topic, payload string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := c.Publish(ctx, mqtt.Message{Topic: topic, QoS: qos, Payload: []byte(payload)}); err != nil {
		t.Fatalf("publishing to %s: %v", topic, err)
	}
}

// CoAP associates k with this node.
func (p *Platform) CoAP(t testing.TB, k Talker) *coap.Conn {
	t.Helper()
	c, err := p.TryCoAP(t, k)
	if err != nil {
		t.Fatalf("associating %s: %v", k.Name, err)
	}
	return c
}

// TryCoAP is CoAP for who may be refused.
func (p *Platform) TryCoAP(t testing.TB, k Talker) (*coap.Conn, error) {
	t.Helper()
	verify := func(chain []*x509.Certificate) error {
		above := x509.NewCertPool()
		for _, one := range chain[1:] {
			above.AddCert(one)
		}
		_, err := chain[0].Verify(x509.VerifyOptions{Roots: p.Pool(), Intermediates: above, CurrentTime: p.Clock.Now()})
		return err
	}
	c, err := coap.Dial(t.Context(), coap.Config{Address: strings.TrimPrefix(p.Addresses().CoAPS, "coaps://"), ServerName: "localhost", Certificate: &k.Cert, Verify: verify})
	if err == nil {
		t.Cleanup(func() { _ = c.Close() }) // the server may have dropped it
	}
	return c, err
}

// WebSocket returns a function for mqtt.Config.Dial that opens a WebSocket.
func (p *Platform) WebSocket(k Talker) func(context.Context) (net.Conn, error) {
	return p.WebSocketOver(k, nil)
}

// WebSocketOver is WebSocket, and has wrap look at the connection below TLS first, as Over does.
func (p *Platform) WebSocketOver(k Talker, wrap func(net.Conn) net.Conn) func(context.Context) (net.Conn, error) {
	open := p.Over(k, func(c *tls.Config) { c.NextProtos = []string{"http/1.1"} }, wrap)
	return func(ctx context.Context) (net.Conn, error) { return upgrade(ctx, open) }
}

// Connections returns those of a thing at this node, of all things with "".
func (p *Platform) Connections(t testing.TB, thing string) []message.LiveConn {
	t.Helper()
	list, err := p.Message.Live(context.WithoutCancel(t.Context()), Operator(), message.LiveFilter{Thing: thing, Limit: 10_000})
	if err != nil {
		t.Fatalf("listing connections: %v", err)
	}
	return list
}

// Ear is an operator who listens to what is published.
type Ear struct {
	mu   sync.Mutex
	list []*message.Message // guarded by mu
}

// Hear listens to what a filter matches, from now until the test ends or the platform stops.
func (p *Platform) Hear(t testing.TB, filter string) *Ear {
	t.Helper()
	e := &Ear{}
	ctx, cancel := context.WithCancel(t.Context())
	ready, over := make(chan struct{}), make(chan error, 1)
	service := p.Message
	go func() {
		over <- service.Tap(ctx, Operator(), message.TapFilter{Filter: filter}, func() { close(ready) }, func(m *message.Message) error {
			e.mu.Lock()
			defer e.mu.Unlock()
			e.list = append(e.list, m)
			return nil
		})
	}()
	t.Cleanup(cancel)
	select {
	case <-ready:
	case err := <-over:
		t.Fatalf("listening: %v", err)
	}
	return e
}

// All returns what was heard so far.
func (e *Ear) All() []*message.Message {
	e.mu.Lock()
	defer e.mu.Unlock()
	return append([]*message.Message(nil), e.list...)
}

// Wait waits until something is heard for which match is true, and returns it.
func (e *Ear) Wait(t testing.TB, what string, match func(*message.Message) bool) (found *message.Message) {
	t.Helper()
	Until(t, what+" is heard", func() bool {
		for _, m := range e.All() {
			if match(m) {
				found = m
				return true
			}
		}
		return false
	})
	return found
}

// Until waits for what others make true soon, and fails the test if they do not.
func Until(t testing.TB, what string, cond func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !cond(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited in vain until %s", what)
		}
	}
}

// upgrade opens a connection and asks for a WebSocket on it, by hand: only what MQTT needs of RFC 6455.
func upgrade(ctx context.Context, open func(context.Context) (net.Conn, error)) (net.Conn, error) {
	conn, err := open(ctx)
	if err != nil {
		return nil, err
	}
	w := newWebSocket(conn)
	if err := w.greet(); err != nil {
		_ = conn.Close() // it is of no use
		return nil, err
	}
	return w, nil
}

// Status is an answer to a request for a WebSocket that is none.
type Status int

func (s Status) Error() string { return "the server answered " + http.StatusText(int(s)) }
