package bench

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"os/exec"
	"slices"
	"strings"
	"time"

	agentest "mooring/agent/est"
	"mooring/internal/base/conf"
	"mooring/wire/mqtt"
)

// TalkOptions say what Connect, Message, CoAP and Cut measure.
type TalkOptions struct {
	Devices int // connected ones
	N       int // operations in each measurement
	Rounds  int // measurements of each case; the median counts
	Clients int // at work at once
	// Rate is how many messages a second are published, by all devices together.
	Rate int
	// Memory has CoAP measure the memory of kept associations, for which garbage has to leave: that takes minutes.
	Memory bool
	// Nodes is how many servers share a database and three NATS servers, which are started for them. With 0 or 1 there is one server, with a NATS server in it.
	// Only Cut has its devices at all of them.
	Nodes int
	// Database is "sqlite", as "" is, or the URL of a PostgreSQL server on this machine, in which a schema is made and dropped. Several nodes need that.
	Database string
	// Serve returns a command that serves the data directory and writes its addresses as JSON to the file ready.
	Serve func(dir, ready string) *exec.Cmd
	// Bare returns a command that serves bare TLS with the certificate and key in the PEM file, to clients of the root in the other one, as ServeBareTLS does.
	Bare func(identity, root, ready string) *exec.Cmd
	// Progress, if not nil, is told what is being done.
	Progress func(text string)
}

func (o *TalkOptions) say(format string, args ...any) {
	if o.Progress != nil {
		o.Progress(fmt.Sprintf(format, args...))
	}
}

// fleet is an installation whose devices have certificates and may talk.
type fleet struct {
	*installation
	others  []*installation // further nodes
	devices []talker
	remove  func() error
}

// talker is a device that has enrolled.
type talker struct {
	name string
	cert tls.Certificate
}

// gather makes an installation with devices that have enrolled by EST, and starts its nodes.
func (o *TalkOptions) gather(ctx context.Context, devices int) (f *fleet, err error) {
	if err := o.shareable(); err != nil {
		return nil, err
	}
	database, urls, end := "sqlite", []string(nil), func() error { return nil }
	if o.Database != "" {
		database = o.Database
	}
	if o.Nodes > 1 {
		o.say("starting %d NATS servers", natsServers)
		if urls, end, err = outside(ctx); err != nil {
			return nil, err
		}
	}
	setup := EnrolOptions{N: devices, Rounds: 1, Clients: []int{1}, Serve: o.Serve, configure: func(c *conf.Config) error {
		c.Listen.MQTT, c.Listen.COAPS, c.COAPS.Messages = "127.0.0.1:0", "127.0.0.1:0", true
		c.Limits.Connections, c.Limits.AddressConns = 1<<16, 1<<16
		c.Approve.RevokeAbove = -1
		if urls != nil {
			c.Messaging.NATS, c.Messaging.Durability, c.Messaging.MaxBytes = urls, "quorum", share
		}
		return nil
	}}
	o.say("registering %d devices", devices)
	in, remove, err := setup.install(ctx, database, devices)
	if err != nil {
		return nil, errors.Join(err, end())
	}
	f = &fleet{installation: in, remove: func() error { return errors.Join(remove(), end()) }}
	defer func() {
		if err != nil {
			err = errors.Join(err, f.close())
		}
	}()
	if err := in.start(ctx, o.Serve); err != nil {
		return nil, err
	}
	if err := f.grow(ctx, o); err != nil {
		return nil, err
	}
	o.say("enrolling %d devices", devices)
	tokens, err := in.take(ctx, devices)
	if err != nil {
		return nil, err
	}
	keys, err := keysFor(tokens)
	if err != nil {
		return nil, err
	}
	f.devices = make([]talker, devices)
	client, err := agentest.New(agentest.Config{Server: in.addresses.EST, Roots: []*x509.Certificate{in.root}})
	if err != nil {
		return nil, err
	}
	err = byMany(8, devices, func(i int) error {
		session, err := client.Connect(ctx, agentest.Credential{User: tokens[i].device, Secret: tokens[i].secret})
		if err != nil {
			return err
		}
		defer session.Close()
		cert, err := session.Enrol(ctx, agentest.Order{Key: keys[i]})
		if err != nil {
			return err
		}
		f.devices[i] = talker{tokens[i].device, tls.Certificate{Certificate: [][]byte{cert.Raw}, PrivateKey: keys[i], Leaf: cert}}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return f, in.quiet(ctx)
}

func (f *fleet) close() error {
	var err error
	for _, node := range f.others {
		err = errors.Join(err, node.stop())
	}
	return errors.Join(err, f.stop(), f.remove())
}

// link is a device's connection by MQTT 5.
type link struct {
	*tls.Conn
	in  []byte // what was read and not handled
	out []byte
}

// receives is what a client reads of a server.
func receives() mqtt.Rules { return mqtt.Rules{Version: mqtt.V5, From: mqtt.Server} }

// reach makes a TLS connection. cache, if not nil, resumes sessions.
func (d *talker) reach(ctx context.Context, address string, in *installation, cache tls.ClientSessionCache) (*tls.Conn, error) {
	dialer := tls.Dialer{Config: &tls.Config{RootCAs: in.roots, ServerName: "localhost", Certificates: []tls.Certificate{d.cert}, MinVersion: tls.VersionTLS13, NextProtos: []string{"mqtt"}, ClientSessionCache: cache}}
	c, err := dialer.DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("connecting %s: %w", d.name, err)
	}
	return c.(*tls.Conn), nil
}

// begin says CONNECT and waits for CONNACK.
func (d *talker) begin(c *tls.Conn) (*link, error) {
	l := &link{Conn: c}
	if err := l.say(mqtt.Connect{Version: mqtt.V5, CleanStart: true, KeepAlive: 1200, ClientID: d.name}); err != nil {
		return nil, err
	}
	h, body, err := l.next()
	if err != nil {
		return nil, fmt.Errorf("waiting for CONNACK: %w", err)
	}
	ack, err := mqtt.DecodeConnack(receives(), h, body)
	if err != nil || ack.Reason.Failed() {
		return nil, fmt.Errorf("%s was not let in: %v, %v", d.name, ack.Reason, err)
	}
	return l, nil
}

func (d *talker) connect(ctx context.Context, in *installation) (*link, error) {
	c, err := d.reach(ctx, in.mqtt(), in, nil)
	if err != nil {
		return nil, err
	}
	l, err := d.begin(c)
	if err != nil {
		_ = c.Close() // it is of no use
	}
	return l, err
}

func (in *installation) mqtt() string { return strings.TrimPrefix(in.addresses.MQTT, "mqtts://") }

func (l *link) say(p mqtt.Packet) error {
	l.out = p.Append(l.out[:0], mqtt.V5)
	_, err := l.Write(l.out)
	return err
}

// next returns the next packet; its body is good until the next call.
func (l *link) next() (h mqtt.Header, body []byte, err error) {
	for {
		h, n, err := mqtt.ParseHeader(l.in)
		if err != nil && !errors.Is(err, mqtt.ErrMore) {
			return h, nil, err
		}
		if err == nil && len(l.in) >= n+h.Length {
			body := l.in[n : n+h.Length]
			l.in = l.in[n+h.Length:]
			return h, body, nil
		}
		grown := slices.Grow(l.in, 512)
		n, err = l.Read(grown[len(l.in):cap(grown)])
		if err != nil {
			return h, nil, err
		}
		l.in = grown[:len(l.in)+n]
	}
}

// subscribe asks for a filter and waits for the answer.
func (l *link) subscribe(filter string, qos mqtt.QoS) error {
	if err := l.say(mqtt.Subscribe{ID: 1, Filters: []mqtt.Subscription{{Filter: filter, QoS: qos}}}); err != nil {
		return err
	}
	h, body, err := l.next()
	if err != nil {
		return err
	}
	ack, err := mqtt.DecodeSuback(receives(), h, body)
	if err != nil || len(ack.Reasons) != 1 || ack.Reasons[0].Failed() {
		return fmt.Errorf("the subscription to %s was answered %v, %v", filter, ack.Reasons, err)
	}
	return nil
}

// farewell ends the connection in good order.
func (l *link) farewell() error {
	if err := l.say(mqtt.Disconnect{}); err != nil {
		return err
	}
	_, err := io.Copy(io.Discard, l.Conn)
	_ = l.Close() // the server has closed it
	var gone *net.OpError
	if err != nil && !errors.As(err, &gone) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return err
	}
	return nil
}

// connectAll connects every device, each to the next node.
func (f *fleet) connectAll(ctx context.Context, devices []talker) ([]*link, error) {
	links := make([]*link, len(devices))
	err := byMany(8, len(devices), func(i int) (err error) {
		links[i], err = devices[i].connect(ctx, f.at(i))
		return err
	})
	return links, err
}

func closeAll(links []*link) {
	for _, l := range links {
		if l != nil {
			_ = l.NetConn().Close() // the measurement is over
		}
	}
}

// collected is after how long a Go program that does nothing has collected its garbage and given the memory back: two minutes until the one, some seconds
// for the other.
const collected = 140 * time.Second

// settledRSS returns the resident memory of the server in MiB, when garbage has left and it does not fall any more.
func (in *installation) settledRSS(ctx context.Context) float64 {
	select {
	case <-time.After(collected):
	case <-ctx.Done():
	}
	last := rssOf(in.server.Process.Pid)
	for calm := 0; calm < 3 && ctx.Err() == nil; {
		time.Sleep(2 * time.Second)
		now := rssOf(in.server.Process.Pid)
		if calm++; now < last-0.5 {
			calm = 0
		}
		last = min(last, now)
	}
	return last
}

// percentile returns the value below which so many of a hundred lie; values are sorted.
func percentile(sorted []float64, p int) float64 {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[min(len(sorted)*p/100, len(sorted)-1)]
}
