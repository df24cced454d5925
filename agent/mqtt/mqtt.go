// Package mqtt is a client of MQTT 5.0 and 3.1.1 for devices and services.
//
//	client := mqtt.New(mqtt.Config{Dial: mqtt.TLS("mqtt.example.com:8883", tlsConfig), Now: time.Now, ClientID: "dev-1"})
//	client.Handle("v1/acme/dev-1/cmd/+", func(m mqtt.Message) { … })
//	go client.Run(ctx) // connects, again and again
//	_, err := client.Subscribe(ctx, mqtt.Subscription{Filter: "v1/acme/dev-1/cmd/+", QoS: 1})
//	err = client.Publish(ctx, mqtt.Message{Topic: "v1/acme/dev-1/state", QoS: 1, Payload: []byte("on")})
//
// A Client keeps its session in memory: a message with QoS 1 or 2 that was handed to it is sent again after a reconnect until the server has
// acknowledged it, QoS 2 once only, and subscriptions are made anew when the server has lost them. Whoever wants one connection and no more, such as a
// test or a load generator, uses Dial and gets a Conn.
//
// Messages come to the handler one after another, in their order, and are acknowledged when it returns. A handler may wait for Publish and Subscribe.
// While it is at work, messages with QoS 1 and 2 wait up to ReceiveMaximum; of those with QoS 0, a small number, and further ones are dropped and counted.
//
// Reconnects are spread: the n-th wait is drawn evenly from 0 to 1 s × 2^n, 15 min at the most, so that a fleet does not come back all at once. The
// count begins anew after a connection that lasted.
//
// A session that the server kept from before a restart of this process goes on, though 5.0 (section 3.2.2.1.1) has a client close then that remembers
// nothing: what waited at the server would be lost, and a message with QoS 2 that was half handed over comes a second time at worst.
//
// The package deliberately keeps nothing on disk, follows no Server Reference by itself (whoever dials decides; a Refusal carries it), does not
// authenticate by AUTH, and sends no topic aliases.
package mqtt

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"time"

	wire "mooring/wire/mqtt"
)

// Subscription is a filter and how messages are to come for it.
type Subscription = wire.Subscription

// Config says with whom and how.
type Config struct {
	// Dial makes the connection on which MQTT is spoken. Required; TLS and TCP are such functions.
	Dial func(ctx context.Context) (net.Conn, error)
	// Now is the clock. Required.
	Now     func() time.Time
	Version wire.Version // 0 is 5.0

	ClientID       string // "": the server assigns one, which is kept
	UserName       string // "": none
	Password       []byte // nil: none
	CleanStart     bool   // forget what the server knows of an earlier session, at the first connect
	SessionExpiry  uint32 // seconds that the server keeps the session without a connection; of 5.0
	KeepAlive      time.Duration
	ReceiveMaximum uint16 // messages of QoS 1 and 2 that may wait for the handler; 0 is 32
	MaximumPacket  int    // octets of a packet that may come; 0 is 128 KiB
	TopicAliases   uint16 // how many topic aliases the server may use
	Will           *wire.Will
	User           wire.UserProperties // of CONNECT

	// Queue is how many messages with QoS 1 and 2 may wait for the server; further ones block. 0 is 64.
	Queue int
	// Handler takes what comes. nil: messages are acknowledged and forgotten.
	Handler func(Message)
	// Connected and Lost, if not nil, are told of each connect and of each end or failure, by the goroutine of Run.
	Connected func(Connected)
	Lost      func(error)
}

// Connected is what a connect came to.
type Connected struct {
	SessionPresent bool
	ClientID       string
	KeepAlive      time.Duration // 0: none
	Answer         wire.Connack
	// Refused are the subscriptions that the server would not renew.
	Refused []error
}

// Message is a message, either way.
type Message struct {
	Topic     string
	Payload   []byte
	QoS       wire.QoS
	Retain    bool
	Duplicate bool // of what came: perhaps it came before
	wire.Properties
	SubscriptionIDs []uint32 // of what came
}

// Defaults and times.
const (
	defaultKeepAlive      = 60 * time.Second
	defaultReceiveMaximum = 32
	defaultMaximumPacket  = 128 << 10
	defaultQueue          = 64
	// connectTimeout bounds the time from dialling to CONNACK.
	connectTimeout = 30 * time.Second
	writeTimeout   = 10 * time.Second
)

// Errors of the connection's end.
var (
	ErrClosed  = errors.New("the connection was closed by this side")
	ErrSilent  = errors.New("the server has not answered within the keep-alive")
	ErrTooMuch = errors.New("the packet is larger than the server takes")
)

// Refusal says that the server refused something, or ended the connection.
type Refusal struct {
	Packet          wire.Type // by which it said so
	Reason          wire.Reason
	Text            string // its reason string, which is not to be believed
	Filter          string // of SUBACK and UNSUBACK
	ServerReference string // of CONNACK and DISCONNECT: where to try instead
}

func (r *Refusal) Error() string {
	s := fmt.Sprintf("the server said %s: %s", r.Packet, r.Reason)
	if r.Filter != "" {
		s += fmt.Sprintf(" for the filter %q", r.Filter)
	}
	if r.Text != "" {
		s += fmt.Sprintf(" (%q)", r.Text)
	}
	return s
}

// TLS returns a function for Config.Dial that speaks TLS. The protocol "mqtt" is offered by ALPN unless the configuration offers others.
func TLS(address string, config *tls.Config) func(context.Context) (net.Conn, error) {
	config = config.Clone()
	if config.NextProtos == nil {
		config.NextProtos = []string{"mqtt"}
	}
	return func(ctx context.Context) (net.Conn, error) {
		return (&tls.Dialer{Config: config}).DialContext(ctx, "tcp", address)
	}
}

// TCP returns a function for Config.Dial that encrypts nothing, for tests and for what is loopback.
func TCP(address string) func(context.Context) (net.Conn, error) {
	return func(ctx context.Context) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "tcp", address)
	}
}

// withDefaults returns the configuration without zeros that stand for something.
func (c Config) withDefaults() Config {
	if c.Version == 0 {
		c.Version = wire.V5
	}
	if c.KeepAlive == 0 {
		c.KeepAlive = defaultKeepAlive
	}
	if c.ReceiveMaximum == 0 {
		c.ReceiveMaximum = defaultReceiveMaximum
	}
	if c.MaximumPacket == 0 {
		c.MaximumPacket = defaultMaximumPacket
	}
	if c.Queue == 0 {
		c.Queue = defaultQueue
	}
	return c
}

// connect is the first packet.
func (c Config) connect(id string, clean bool) wire.Connect {
	p := wire.Connect{
		Version: c.Version, CleanStart: clean, KeepAlive: uint16(min(max(c.KeepAlive, 0)/time.Second, 65535)), ClientID: id, Will: c.Will, Password: c.Password,
		SessionExpiry: c.SessionExpiry, ReceiveMaximum: c.ReceiveMaximum, MaximumPacketSize: uint32(c.MaximumPacket), TopicAliasMaximum: c.TopicAliases, User: c.User,
	}
	if c.UserName != "" {
		p.UserName = wire.Some(c.UserName)
	}
	return p
}
