//go:build interop

package interop

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/eclipse/paho.golang/packets"
	"github.com/eclipse/paho.golang/paho"
)

// talker is a client of Eclipse Paho for Go.
type talker struct {
	*paho.Client
	ack   *paho.Connack
	heard chan *paho.Publish
	told  chan *paho.Disconnect // what the server said at the end
}

// paho connects; a refusal is an error. web says that it is by a WebSocket.
func (s *site) paho(t *testing.T, cert tls.Certificate, web bool, c *paho.Connect) (*talker, error) {
	t.Helper()
	config := s.tls(t, "dev")
	config.Certificates, config.ServerName, config.NextProtos = []tls.Certificate{cert}, s.env["HOST"], []string{"mqtt"}
	conn, err := dialMQTT(t, s.env["HOST"], config, web)
	if err != nil {
		return nil, err
	}
	t.Cleanup(func() { _ = conn.Close() })
	p := &talker{heard: make(chan *paho.Publish, 100), told: make(chan *paho.Disconnect, 1)}
	p.Client = paho.NewClient(paho.ClientConfig{Conn: packets.NewThreadSafeConn(conn), PacketTimeout: 20 * time.Second,
		OnServerDisconnect: func(d *paho.Disconnect) { p.told <- d },
		OnPublishReceived: []func(paho.PublishReceived) (bool, error){func(r paho.PublishReceived) (bool, error) {
			p.heard <- r.Packet
			return true, nil
		}}})
	p.ack, err = p.Connect(t.Context(), c)
	return p, err
}

func dialMQTT(t *testing.T, host string, config *tls.Config, web bool) (net.Conn, error) {
	t.Helper()
	if !web {
		return tls.Dial("tcp", host+":8883", config)
	}
	config.NextProtos = nil
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: config}}
	ws, _, err := websocket.Dial(t.Context(), "wss://"+host+":8884/mqtt", &websocket.DialOptions{HTTPClient: client, Subprotocols: []string{"mqtt"}})
	if err != nil {
		return nil, err
	}
	return websocket.NetConn(context.WithoutCancel(t.Context()), ws, websocket.MessageBinary), nil
}

// must is paho for who is let in.
func (s *site) must(t *testing.T, cert tls.Certificate, web bool, c *paho.Connect) *talker {
	t.Helper()
	p, err := s.paho(t, cert, web, c)
	if err != nil {
		t.Fatalf("connecting %q: %v", c.ClientID, err)
	}
	return p
}

func (p *talker) subscribe(t *testing.T, list ...paho.SubscribeOptions) []byte {
	t.Helper()
	ack, err := p.Subscribe(t.Context(), &paho.Subscribe{Subscriptions: list})
	if ack == nil {
		t.Fatalf("subscribing: %v", err)
	}
	return ack.Reasons
}

// say publishes and returns the reason code of the answer.
func (p *talker) say(t *testing.T, m *paho.Publish) byte {
	t.Helper()
	answer, err := p.Publish(t.Context(), m)
	if answer == nil {
		t.Fatalf("publishing to %s: %v", m.Topic, err)
	}
	return answer.ReasonCode
}

func (p *talker) next(t *testing.T) *paho.Publish {
	t.Helper()
	select {
	case m := <-p.heard:
		return m
	case <-time.After(20 * time.Second):
		t.Fatal("nothing was heard for 20 s")
		return nil
	}
}

func (p *talker) end(t *testing.T) byte {
	t.Helper()
	select {
	case d := <-p.told:
		return d.ReasonCode
	case <-time.After(20 * time.Second):
		t.Fatal("the server has not ended the connection after 20 s")
		return 0
	}
}

func (p *talker) leave(t *testing.T) {
	t.Helper()
	if err := p.Disconnect(&paho.Disconnect{}); err != nil {
		t.Errorf("leaving: %v", err)
	}
}

// TestInteropPaho has Eclipse Paho for Go use what MQTT 5 has and 3.1.1 has not, over TLS and over WebSockets.
func TestInteropPaho(t *testing.T) {
	s := mqttSite(t, "dev")
	device, err := tls.X509KeyPair(s.read(t, "dev.pem"), s.read(t, "dev.key"))
	if err != nil {
		t.Fatal(err)
	}
	operator, err := tls.X509KeyPair(s.read(t, "d/operator/cert.pem"), s.read(t, "d/operator/key.pem"))
	if err != nil {
		t.Fatal(err)
	}
	for _, web := range []bool{false, true} {
		t.Run(map[bool]string{false: "tls", true: "websocket"}[web], func(t *testing.T) {
			back := s.must(t, operator, web, &paho.Connect{KeepAlive: 60, CleanStart: true})
			if back.ack.Properties.AssignedClientID == "" {
				t.Error("no client identifier was assigned")
			}
			t.Run("request and response", func(t *testing.T) { requestResponse(t, s.must(t, device, web, fresh("dev")), back) })
			t.Run("CONNACK", func(t *testing.T) {
				p := s.must(t, device, web, &paho.Connect{KeepAlive: 65000, CleanStart: true, Properties: &paho.ConnectProperties{SessionExpiryInterval: paho.Uint32(1 << 31)}})
				x := p.ack.Properties
				if x.AssignedClientID != "dev" || x.ServerKeepAlive == nil || *x.ServerKeepAlive >= 65000 || x.SessionExpiryInterval == nil || *x.SessionExpiryInterval >= 1<<31 ||
					x.ReceiveMaximum == nil || x.MaximumPacketSize == nil || x.TopicAliasMaximum == nil || x.SharedSubAvailable {
					t.Errorf("CONNACK has %+v, want identifier, keep-alive, expiry, limits, and no shared subscriptions for a device", x)
				}
				p.leave(t)
			})
			t.Run("receive maximum", func(t *testing.T) { receiveMaximum(t, s, device, back, web) })
			t.Run("session expiry and reason codes", func(t *testing.T) { sessionExpiry(t, s, device, back, web) })
			t.Run("subscription options", func(t *testing.T) { subscriptionOptions(t, back, s.must(t, device, web, fresh("dev"))) })
			t.Run("taken over", func(t *testing.T) {
				first := s.must(t, device, web, fresh("dev"))
				second := s.must(t, device, web, fresh("dev"))
				if code := first.end(t); code != 0x8E {
					t.Errorf("the first connection was told %#x, want 0x8E", code)
				}
				second.leave(t)
			})
			t.Run("another's identifier", func(t *testing.T) {
				p, err := s.paho(t, device, web, fresh("admin"))
				if err == nil || p.ack == nil || p.ack.ReasonCode != 0x85 {
					t.Errorf("CONNACK %+v, %v; want 0x85", p.ack, err)
				}
			})
			t.Run("suspended", func(t *testing.T) {
				p := s.must(t, device, web, fresh("dev"))
				began := time.Now()
				s.sh(t, `mooring device suspend dev`)
				if code := p.end(t); code != 0x98 {
					t.Errorf("it was told %#x, want 0x98", code)
				}
				fmt.Printf("paho: told %v after mooring device suspend was started\n", time.Since(began).Round(time.Millisecond))
				if p, err := s.paho(t, device, web, fresh("dev")); err == nil || p.ack == nil || p.ack.ReasonCode != 0x87 {
					t.Errorf("coming back: %+v, %v; want 0x87", p, err)
				}
				s.sh(t, `mooring device resume dev`)
			})
			back.leave(t)
		})
	}
}

func fresh(id string) *paho.Connect {
	return &paho.Connect{ClientID: id, KeepAlive: 60, CleanStart: true, Properties: &paho.ConnectProperties{RequestProblemInfo: true}}
}

// requestResponse: an operator asks a device, which answers where it is told to; whatever belongs to a message comes through.
func requestResponse(t *testing.T, p, back *talker) {
	p.subscribe(t, paho.SubscribeOptions{Topic: "v1/dev/cmd/+", QoS: 1})
	back.subscribe(t, paho.SubscribeOptions{Topic: "v1/+/telemetry/answer", QoS: 2})
	if code := back.say(t, &paho.Publish{Topic: "v1/dev/cmd/ask", QoS: 1, Payload: []byte("how are you?"), Properties: &paho.PublishProperties{ResponseTopic: "v1/dev/telemetry/answer",
		CorrelationData: []byte{0, 1, 255}, ContentType: "text/plain", PayloadFormat: paho.Byte(1), MessageExpiry: paho.Uint32(60), User: paho.UserProperties{{Key: "k", Value: "1"}, {Key: "k", Value: "2"}}}}); code != 0 {
		t.Fatalf("asking: %#x", code)
	}
	q := p.next(t)
	x := q.Properties
	if string(q.Payload) != "how are you?" || x.ResponseTopic == "" || x.ContentType != "text/plain" || x.PayloadFormat == nil || *x.PayloadFormat != 1 || x.MessageExpiry == nil || *x.MessageExpiry > 60 ||
		!slices.Equal(x.User, paho.UserProperties{{Key: "k", Value: "1"}, {Key: "k", Value: "2"}}) {
		t.Errorf("the device heard %v with %+v", q, x)
	}
	if code := p.say(t, &paho.Publish{Topic: x.ResponseTopic, QoS: 2, Payload: []byte("fine"), Properties: &paho.PublishProperties{CorrelationData: x.CorrelationData}}); code != 0 {
		t.Fatalf("answering: %#x", code)
	}
	if a := back.next(t); string(a.Payload) != "fine" || string(a.Properties.CorrelationData) != "\x00\x01\xff" || a.QoS != 2 {
		t.Errorf("the operator heard %v with %+v", a, a.Properties)
	}
	if _, err := back.Unsubscribe(t.Context(), &paho.Unsubscribe{Topics: []string{"v1/+/telemetry/answer"}}); err != nil {
		t.Error(err)
	}
	p.leave(t)
}

// receiveMaximum: who takes one message at a time gets all of them, one after the other.
func receiveMaximum(t *testing.T, s *site, device tls.Certificate, back *talker, web bool) {
	c := fresh("dev")
	c.Properties.ReceiveMaximum = paho.Uint16(1)
	p := s.must(t, device, web, c)
	p.subscribe(t, paho.SubscribeOptions{Topic: "v1/dev/cmd/+", QoS: 2})
	for n := range 10 {
		back.say(t, &paho.Publish{Topic: "v1/dev/cmd/x", QoS: byte(1 + n%2), Payload: fmt.Append(nil, n)})
	}
	for n := range 10 {
		if m := p.next(t); string(m.Payload) != fmt.Sprint(n) {
			t.Errorf("heard %q, want %d", m.Payload, n)
		}
	}
	p.leave(t)
}

// sessionExpiry: a session is there after its connection has ended, and not after a farewell that says 0. What is refused has the code that the standard gives it.
func sessionExpiry(t *testing.T, s *site, device tls.Certificate, back *talker, web bool) {
	c := fresh("dev")
	c.Properties.SessionExpiryInterval = paho.Uint32(600)
	p := s.must(t, device, web, c)
	if got := p.subscribe(t, paho.SubscribeOptions{Topic: "v1/dev/cmd/+", QoS: 1}, paho.SubscribeOptions{Topic: "v1/other/cmd/+", QoS: 1}); !slices.Equal(got, []byte{1, 0x87}) {
		t.Errorf("SUBACK %x, want 01 and 87", got)
	}
	if code := p.say(t, &paho.Publish{Topic: "v1/other/telemetry/x", QoS: 1}); code != 0x87 {
		t.Errorf("publishing to another's topic: %#x, want 0x87", code)
	}
	p.leave(t)
	back.say(t, &paho.Publish{Topic: "v1/dev/cmd/x", QoS: 1, Payload: []byte("while away")})
	c.CleanStart = false
	p = s.must(t, device, web, c)
	if !p.ack.SessionPresent {
		t.Error("the session is gone")
	}
	if m := p.next(t); string(m.Payload) != "while away" {
		t.Errorf("heard %q", m.Payload)
	}
	if err := p.Disconnect(&paho.Disconnect{Properties: &paho.DisconnectProperties{SessionExpiryInterval: paho.Uint32(0)}}); err != nil {
		t.Error(err)
	}
	if p = s.must(t, device, web, c); p.ack.SessionPresent {
		t.Error("the session is still there after it was ended by DISCONNECT")
	}
	p.leave(t)
}

// subscriptionOptions: identifiers, no local, retain as published and retain handling.
func subscriptionOptions(t *testing.T, back, p *talker) {
	state := func(text string) {
		if code := p.say(t, &paho.Publish{Topic: "v1/dev/state", QoS: 1, Retain: true, Payload: []byte(text)}); code != 0 {
			t.Fatalf("publishing the state: %#x", code)
		}
	}
	state("on")
	subscribe := func(id int, o paho.SubscribeOptions) {
		if _, err := back.Subscribe(t.Context(), &paho.Subscribe{Subscriptions: []paho.SubscribeOptions{o}, Properties: &paho.SubscribeProperties{SubscriptionIdentifier: new(id)}}); err != nil {
			t.Fatal(err)
		}
	}
	subscribe(7, paho.SubscribeOptions{Topic: "v1/dev/state", QoS: 1, RetainHandling: 1, RetainAsPublished: true})
	if m := back.next(t); string(m.Payload) != "on" || !m.Retain || m.Properties.SubscriptionIdentifier == nil || *m.Properties.SubscriptionIdentifier != 7 {
		t.Errorf("replayed: %v with %+v", m, m.Properties)
	}
	subscribe(8, paho.SubscribeOptions{Topic: "v1/dev/state", QoS: 1, RetainHandling: 1, RetainAsPublished: true}) // it is there: nothing is replayed
	state("off")
	if m := back.next(t); string(m.Payload) != "off" || !m.Retain || m.Properties.SubscriptionIdentifier == nil || *m.Properties.SubscriptionIdentifier != 8 {
		t.Errorf("live, retain as published: %v with %+v", m, m.Properties)
	}
	subscribe(9, paho.SubscribeOptions{Topic: "v1/dev/cmd/+", QoS: 1, NoLocal: true})
	back.say(t, &paho.Publish{Topic: "v1/dev/cmd/x", QoS: 1, Payload: []byte("of its own")})
	state("") // it is removed
	if m := back.next(t); len(m.Payload) != 0 || m.Topic != "v1/dev/state" {
		t.Errorf("heard %v, want no message of its own", m)
	}
	if _, err := back.Unsubscribe(t.Context(), &paho.Unsubscribe{Topics: []string{"v1/dev/state", "v1/dev/cmd/+"}}); err != nil {
		t.Error(err)
	}
	p.leave(t)
}
