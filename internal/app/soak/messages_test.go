//go:build soak

package soak

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	mathrand "math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"mooring/agent/coap"
	"mooring/agent/mqtt"
	"mooring/internal/app/apptest"
	"mooring/internal/base/conf"
	"mooring/internal/server/api/client"
	v1 "mooring/internal/server/api/v1"
	wire "mooring/wire/mqtt"
)

// How many devices of each kind there are.
const (
	steadies = 60 // connect, talk for some seconds, and go, well or not
	stormers = 60 // all lose their connections at once and come back
	suspects = 12 // are suspended again and again while they talk
	lesser   = 16 // talk over CoAP
	hostiles = 64 // break the rules

	// Those who flood would fill the log in half an hour, and then it refuses. While messages leave it, the store has them in memory; a moment of
	// rest is when all have left.
	kept = time.Minute

	stormEvery = 15 * time.Second
)

// chatter is the load: devices that talk, and what happens to them.
type chatter struct {
	*world
	address, coaps string
	boss           apptest.Talker
	devices        map[string][]*gossip // by kind
	storm          atomic.Pointer[chan struct{}]
	heard          atomic.Int64
}

// gossip is one device. One goroutine is it.
type gossip struct {
	apptest.Talker
	cache tls.ClientSessionCache
}

// TestSoakMessages lasts as long as SOAK_MESSAGES says, 30s if it does not, and some time before and after.
func TestSoakMessages(t *testing.T) {
	lasts, err := time.ParseDuration(cmp.Or(os.Getenv("SOAK_MESSAGES"), "30s"))
	must(t, err)
	warm := min(max(lasts/12, 10*time.Second), 3*time.Minute)
	p := apptest.Start(t, func(c *conf.Config) {
		apptest.Messaging(c)
		c.Messaging.MaxAge = kept
		c.Limits.TrackedAddresses = 1024
		c.Limits.IdleTimeout, c.Limits.BodyTimeout = idle, idle
	})
	ch := &chatter{devices: map[string][]*gossip{}, boss: p.Boss(t)}
	for _, kind := range []struct {
		name string
		n    int
	}{{"steady", steadies}, {"storm", stormers}, {"suspect", suspects}, {"coap", lesser}, {"hostile", hostiles}} {
		for i := range kind.n {
			k := p.Talker(t, fmt.Sprintf("%s-%d", kind.name, i), "device")
			ch.devices[kind.name] = append(ch.devices[kind.name], &gossip{k, tls.NewLRUClientSessionCache(2)})
		}
	}
	p.Stop(t)

	dir := p.Made.Dir
	s := start(t, dir)
	ch.meet(t, s, dir)
	r := &report{began: time.Now(), server: s, world: ch.world}
	ch.talk(t, warm, r)
	time.Sleep(kept)
	before := s.settle(t, 1<<30)
	r.line(t, "rest before", before)
	ch.talk(t, lasts, r)
	time.Sleep(kept)
	after := s.settle(t, before.Goroutines+spareGoroutines)
	r.line(t, "rest after", after)
	r.judge(t, before, after, lasts >= steadyFrom)
	t.Logf("%d messages were heard", ch.heard.Load())
	if ch.heard.Load() == 0 {
		t.Error("nothing was heard")
	}
	log, err := s.end()
	if err != nil {
		t.Errorf("the server did not end well: %v", err)
	}
	for _, line := range alarms(log) {
		t.Errorf("the server logged: %s", line)
	}
	verify(t, dir, ch.world)
}

// meet learns where the server is.
func (ch *chatter) meet(t *testing.T, s *server, dir string) {
	t.Helper()
	c, err := conf.Load(dir)
	must(t, err)
	text, err := os.ReadFile(filepath.Join(dir, "root.pem"))
	must(t, err)
	block, _ := pem.Decode(text)
	root, err := x509.ParseCertificate(block.Bytes)
	must(t, err)
	ch.world = &world{at: s.addresses, root: root, pool: x509.NewCertPool(), admin: client.New(c.SocketPath())}
	ch.pool.AddCert(root)
	ch.address, ch.coaps = strings.TrimPrefix(s.addresses.MQTT, "mqtts://"), strings.TrimPrefix(s.addresses.CoAPS, "coaps://")
}

// talk has everybody talk for a time, and ends when all have hung up. Every ten seconds r takes a sample.
func (ch *chatter) talk(t *testing.T, lasts time.Duration, r *report) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), lasts)
	defer cancel()
	var all sync.WaitGroup
	again := func(kind string, live func(ctx context.Context, k *gossip)) {
		for _, k := range ch.devices[kind] {
			all.Go(func() {
				for nap(ctx, time.Duration(mathrand.Int64N(int64(2*time.Second)))) {
					live(ctx, k)
				}
			})
		}
	}
	again("steady", ch.steady)
	again("storm", ch.stormy)
	again("suspect", ch.suspect)
	again("coap", ch.constrained)
	again("hostile", ch.hostile)
	all.Go(func() { ch.listen(ctx) })
	all.Go(func() { ch.command(ctx) })
	weather := make(chan struct{})
	ch.storm.Store(&weather)
	all.Go(func() {
		for nap(ctx, stormEvery) {
			next := make(chan struct{})
			close(*ch.storm.Swap(&next))
		}
	})
	look := time.NewTicker(min(10*time.Second, lasts/12))
	defer look.Stop()
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case <-look.C:
			r.sample(t)
		}
	}
	all.Wait()
	ch.admin.Close()
}

// failed is add for what is not to come to nothing by itself: what went well is not counted.
func (c *tally) failed(what string, err error) {
	if err != nil {
		c.add(what, err)
	}
}

// nap waits, and reports whether there is anything to wake up for.
func nap(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return ctx.Err() == nil
	}
}

// config is how a device connects: by MQTT 5 or 3.1.1, its TLS session resumed if it can be.
func (ch *chatter) config(k *gossip, wrap func(net.Conn) net.Conn) mqtt.Config {
	c := mqtt.Config{Now: time.Now, ClientID: k.Name, KeepAlive: time.Minute, Handler: func(mqtt.Message) { ch.heard.Add(1) }}
	if mathrand.IntN(3) == 0 {
		c.Version = wire.V311
	}
	if mathrand.IntN(2) == 0 {
		c.SessionExpiry = 60
	}
	c.CleanStart = mathrand.IntN(4) == 0
	if mathrand.IntN(3) == 0 {
		c.Will = &wire.Will{Topic: "v1/" + k.Name + "/state", Payload: []byte("gone"), QoS: 1, Retain: true}
	}
	own := &tls.Config{RootCAs: ch.pool, ServerName: "localhost", Certificates: []tls.Certificate{k.Cert}, NextProtos: []string{"mqtt"}, ClientSessionCache: k.cache}
	if mathrand.IntN(3) == 0 {
		own.MaxVersion = tls.VersionTLS12
	}
	c.Dial = func(ctx context.Context) (net.Conn, error) {
		below, err := dialer(ctx, "tcp", ch.address)
		if err != nil {
			return nil, err
		}
		if wrap != nil {
			below = wrap(below)
		}
		over := tls.Client(below, own)
		if err := over.HandshakeContext(ctx); err != nil {
			_ = below.Close() // it is of no use
			return nil, err
		}
		return over, nil
	}
	return c
}

// chat is what a device does on a connection, for a while: it subscribes and publishes with each QoS.
func (ch *chatter) chat(ctx context.Context, c *mqtt.Conn, k *gossip, count func(string, error), lasts time.Duration) {
	once := func(what string, do func(context.Context) error) {
		limited, cancel := context.WithTimeout(context.WithoutCancel(ctx), patience)
		defer cancel()
		count(what, do(limited))
	}
	once("subscribe", func(ctx context.Context) error {
		_, err := c.Subscribe(ctx, mqtt.Subscription{Filter: "v1/" + k.Name + "/cmd/+", QoS: wire.QoS(mathrand.IntN(3))})
		return err
	})
	for until := time.Now().Add(lasts); time.Now().Before(until) && c.Err() == nil; {
		m := mqtt.Message{Topic: fmt.Sprint("v1/", k.Name, "/telemetry/", mathrand.IntN(5)), QoS: wire.QoS(mathrand.IntN(3)), Payload: junk(mathrand.IntN(400))}
		if mathrand.IntN(10) == 0 {
			m.Topic, m.Retain = "v1/"+k.Name+"/state", true
		}
		once(fmt.Sprint("publish ", m.QoS), func(ctx context.Context) error { return c.Publish(ctx, m) })
		if !nap(ctx, time.Duration(50+mathrand.IntN(300))*time.Millisecond) {
			return
		}
	}
}

// steady connects, talks and goes; now and then without a word.
func (ch *chatter) steady(ctx context.Context, k *gossip) {
	c, err := mqtt.Dial(context.WithoutCancel(ctx), ch.config(k, nil))
	if ch.good.add("connect", err); err != nil {
		return
	}
	ch.chat(ctx, c, k, ch.good.add, time.Duration(mathrand.Int64N(int64(10*time.Second))))
	if mathrand.IntN(3) == 0 {
		c.Break()
		nap(ctx, 5*time.Second) // else it would take its own session over, which is counted
		return
	}
	ch.good.add("farewell", c.Close())
}

// stormy stays until the storm breaks all connections of its kind at the same moment.
func (ch *chatter) stormy(ctx context.Context, k *gossip) {
	c, err := mqtt.Dial(context.WithoutCancel(ctx), ch.config(k, nil))
	if ch.good.add("storm", err); err != nil {
		return
	}
	select {
	case <-*ch.storm.Load():
	case <-ctx.Done():
	case <-c.Done():
		ch.good.add("storm", c.Err())
	}
	c.Break()
}

// suspect is suspended while it talks, tries to connect, and is let in again.
func (ch *chatter) suspect(ctx context.Context, k *gossip) {
	whole := context.WithoutCancel(ctx)
	c, err := mqtt.Dial(whole, ch.config(k, nil))
	if ch.good.add("suspect", err); err != nil {
		return
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		ch.chat(ctx, c, k, ch.bad.failed, 30*time.Second) // it is cut off in the middle
	}()
	nap(ctx, time.Duration(mathrand.Int64N(int64(2*time.Second))))
	_, err = ch.admin.MoveDevice(whole, k.Name, "suspend", "")
	ch.good.add("suspend", err)
	limited, cancel := context.WithTimeout(whole, patience)
	defer cancel()
	select {
	case <-c.Done():
		ch.good.add("cut", nil)
	case <-limited.Done():
		ch.good.add("cut", fmt.Errorf("%s is still connected", k.Name))
	}
	<-done
	again, err := mqtt.Dial(whole, ch.config(k, nil))
	ch.bad.add("suspended", err)
	if err == nil {
		again.Break()
		ch.good.add("cut", fmt.Errorf("%s connects though it is suspended", k.Name))
	}
	_, err = ch.admin.MoveDevice(whole, k.Name, "resume", "")
	ch.good.add("resume", err)
}

// constrained talks over CoAP, and goes with or without a word.
func (ch *chatter) constrained(ctx context.Context, k *gossip) {
	whole, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*patience)
	defer cancel()
	c, err := coap.Dial(whole, coap.Config{Address: ch.coaps, ServerName: "localhost", Certificate: &k.Cert, Verify: func([]*x509.Certificate) error { return nil }})
	if ch.good.add("associate", err); err != nil {
		return
	}
	defer func() { _ = c.Close() }() // the server may be faster
	_, _, err = c.Observe(whole, "v1/"+k.Name+"/cmd/+")
	ch.good.add("observe", err)
	for range 1 + mathrand.IntN(20) {
		err := c.Publish(whole, coap.Publication{Topic: "v1/" + k.Name + "/telemetry/x", Payload: junk(mathrand.IntN(3000)), Confirmed: mathrand.IntN(3) > 0})
		if ch.good.add("publish coap", err); err != nil || !nap(ctx, 200*time.Millisecond) {
			return
		}
	}
}

// listen is an operator who hears everything, over connections that are closed now and then.
func (ch *chatter) listen(ctx context.Context) {
	k := &gossip{ch.boss, tls.NewLRUClientSessionCache(2)}
	for ctx.Err() == nil {
		config := ch.config(k, nil)
		config.Will = nil
		c, err := mqtt.Dial(context.WithoutCancel(ctx), config)
		if ch.good.add("listen", err); err == nil {
			_, err := c.Subscribe(context.WithoutCancel(ctx), mqtt.Subscription{Filter: "v1/#", QoS: 1})
			ch.good.add("listen", err)
			nap(ctx, 20*time.Second)
			ch.good.add("listen", c.Close())
		}
		nap(ctx, time.Second)
	}
}

// command has an operator say something to devices, connected or not.
func (ch *chatter) command(ctx context.Context) {
	for nap(ctx, 20*time.Millisecond) {
		for _, kind := range []string{"steady", "storm", "coap"} {
			list := ch.devices[kind]
			_, err := ch.admin.Publish(context.WithoutCancel(ctx), v1.NewMessage{Topic: "v1/" + list[mathrand.IntN(len(list))].Name + "/cmd/x", QoS: mathrand.IntN(3), Payload: junk(100)})
			ch.good.add("command", err)
		}
	}
}

// hostile breaks one rule.
func (ch *chatter) hostile(ctx context.Context, k *gossip) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), patience)
	defer cancel()
	switch mathrand.IntN(8) {
	case 0: // in the octets of TLS
		ch.attack(ctx, k, "wounded", func(n net.Conn) net.Conn { return &hurt{Conn: n, wound: randomWound(6000)} }, nil)
	case 1, 2: // in the octets of MQTT
		ch.wounded(ctx, k)
	case 3:
		ch.attack(ctx, k, "spoof", nil, func(c *mqtt.Config) { c.ClientID = "steady-0" })
	case 4:
		ch.attack(ctx, k, "will", nil, func(c *mqtt.Config) { c.Will = &wire.Will{Topic: "v1/steady-0/state", Payload: []byte("x")} })
	case 5: // what it may not, or too fast
		ch.flood(ctx, k)
	case 6:
		ch.bad.add("stranger", stranger(ctx, ch.address))
	default:
		ch.bad.add("nonsense", ch.nonsense(ctx, k))
	}
}

// attack connects in a way that is to come to nothing, or soon does.
func (ch *chatter) attack(ctx context.Context, k *gossip, what string, wrap func(net.Conn) net.Conn, change func(*mqtt.Config)) {
	config := ch.config(k, wrap)
	if change != nil {
		change(&config)
	}
	c, err := mqtt.Dial(ctx, config)
	ch.bad.add(what, err)
	if err == nil {
		ch.chat(ctx, c, k, ch.bad.failed, time.Second)
		c.Break()
	}
}

// wounded harms what is said inside TLS.
func (ch *chatter) wounded(ctx context.Context, k *gossip) {
	config := ch.config(k, nil)
	dial := config.Dial
	config.Dial = func(ctx context.Context) (net.Conn, error) {
		over, err := dial(ctx)
		if err != nil {
			return nil, err
		}
		return &hurt{Conn: over, wound: randomWound(2000)}, nil
	}
	c, err := mqtt.Dial(ctx, config)
	ch.bad.add("mutated", err)
	if err == nil {
		ch.chat(ctx, c, k, ch.bad.failed, time.Second)
		c.Break()
	}
}

// flood says more than it may, to topics that it may not, and asks for everything.
func (ch *chatter) flood(ctx context.Context, k *gossip) {
	c, err := mqtt.Dial(ctx, ch.config(k, nil))
	if ch.bad.add("flood", err); err != nil {
		return
	}
	defer c.Break()
	_, err = c.Subscribe(ctx, mqtt.Subscription{Filter: "#"}, mqtt.Subscription{Filter: "$share/g/v1/#"}, mqtt.Subscription{Filter: "+/+/+/#"})
	ch.bad.add("flood", err)
	for range 1000 {
		if err := c.Send(ctx, mqtt.Message{Topic: "v1/" + k.Name + "/telemetry/x", QoS: wire.QoS(mathrand.IntN(2)), Payload: junk(2000)}, nil); err != nil {
			ch.bad.add("flood", err)
			return
		}
	}
	ch.bad.add("flood", c.Publish(ctx, mqtt.Message{Topic: "v1/steady-0/telemetry/x", QoS: 1}))
}

// nonsense says something else than CONNECT inside TLS, or never finishes it, and waits for the end.
func (ch *chatter) nonsense(ctx context.Context, k *gossip) error {
	conn, err := ch.config(k, nil).Dial(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }() // the server was faster
	connect := wire.Connect{Version: wire.V5, ClientID: k.Name, CleanStart: true, KeepAlive: 60}.Append(nil, wire.V5)
	texts := [][]byte{{0x10, 0xff, 0xff, 0xff, 0x7f}, {0x10, 0xff, 0xff, 0xff, 0xff, 0x01}, {0x30, 2, 0, 0}, {0xc0, 0}, {0, 0}, {0xf0, 0}, connect[:len(connect)/2], connect[:1], junk(2000),
		append(connect, connect...), append(connect, 0x82, 3, 0, 1, 0), append(connect, 0x32, 0x80, 0x80, 0x80, 1)}
	if _, err := conn.Write(texts[mathrand.IntN(len(texts))]); err != nil {
		return err
	}
	_ = conn.SetReadDeadline(time.Now().Add(patience))
	b := make([]byte, 4096)
	for {
		if _, err := conn.Read(b); err != nil {
			return err
		}
	}
}
