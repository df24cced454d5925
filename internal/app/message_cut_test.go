package app_test

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"mooring/agent/coap"
	"mooring/agent/mqtt"
	"mooring/internal/app/apptest"
	"mooring/internal/core/device"
	"mooring/internal/core/message"
	"mooring/internal/core/revoke"
	wire "mooring/wire/mqtt"
)

// speech is one device's connection, whatever it is by.
type speech struct {
	say  func(topic, payload string) error // returns once it is stored
	over func() bool                       // whether the device has noticed that it is cut off
}

// manners are the ways by which devices talk.
func manners() []struct {
	name string
	open func(t *testing.T, p *apptest.Platform, k apptest.Talker) (speech, error)
} {
	by := func(change func(p *apptest.Platform, k apptest.Talker, c *mqtt.Config)) func(*testing.T, *apptest.Platform, apptest.Talker) (speech, error) {
		return func(t *testing.T, p *apptest.Platform, k apptest.Talker) (speech, error) {
			c, err := p.TryConnect(t, k, func(c *mqtt.Config) { change(p, k, c) })
			if err != nil {
				return speech{}, err
			}
			return speech{say: func(topic, payload string) error {
				return c.Publish(t.Context(), mqtt.Message{Topic: topic, QoS: 1, Payload: []byte(payload)})
			}, over: func() bool { return c.Err() != nil }}, nil
		}
	}
	return []struct {
		name string
		open func(t *testing.T, p *apptest.Platform, k apptest.Talker) (speech, error)
	}{
		{"mqtt 5", by(func(*apptest.Platform, apptest.Talker, *mqtt.Config) {})},
		{"mqtt 3.1.1", by(func(_ *apptest.Platform, _ apptest.Talker, c *mqtt.Config) { c.Version = wire.V311 })},
		{"websocket", by(func(p *apptest.Platform, k apptest.Talker, c *mqtt.Config) { c.Dial = p.WebSocket(k) })},
		{"coap", func(t *testing.T, p *apptest.Platform, k apptest.Talker) (speech, error) {
			c, err := p.TryCoAP(t, k)
			if err != nil {
				return speech{}, err
			}
			say := func(topic, payload string) error {
				ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
				defer cancel()
				return c.Publish(ctx, coap.Publication{Topic: topic, Payload: []byte(payload), Confirmed: true})
			}
			// The association is dropped without a word.
			return speech{say: say, over: func() bool {
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				return c.Ping(ctx) != nil
			}}, say("v1/"+k.Name+"/telemetry/begin", "")
		}},
	}
}

func move(to device.Move) func(*testing.T, *apptest.Platform, apptest.Talker) error {
	return func(t *testing.T, p *apptest.Platform, k apptest.Talker) error {
		_, err := p.Revoke.Device(t.Context(), apptest.Operator(), k.ID, to, revoke.Unspecified)
		return err
	}
}

func revokeCert(t *testing.T, p *apptest.Platform, k apptest.Talker) error {
	_, err := p.Revoke.Certificate(t.Context(), apptest.Operator(), k.Cert.Leaf.SerialNumber.Bytes(), revoke.KeyCompromise)
	return err
}

// causes are the decisions after which a device talks no more.
func causes() []struct {
	name string
	do   func(*testing.T, *apptest.Platform, apptest.Talker) error
} {
	return []struct {
		name string
		do   func(*testing.T, *apptest.Platform, apptest.Talker) error
	}{{"revoked", revokeCert}, {"suspended", move(device.Suspend)}, {"lost", move(device.Lose)}, {"retired", move(device.Retire)}}
}

// TestCutOff: whatever a device is connected by and whatever is decided about it, its connection ends, it cannot connect again, its good neighbour
// notices nothing, and the record says that it was cut off; so also after a restart.
func TestCutOff(t *testing.T) {
	p := apptest.Start(t, apptest.Messaging)
	good := p.Talker(t, "good", "device")
	type row struct {
		name  string
		who   apptest.Talker
		open  func(t *testing.T, p *apptest.Platform, k apptest.Talker) (speech, error)
		cause func(*testing.T, *apptest.Platform, apptest.Talker) error
	}
	var rows []row
	for _, m := range manners() {
		for _, c := range causes() {
			rows = append(rows, row{m.name + ", " + c.name, p.Talker(t, strings.NewReplacer(" ", "-", ".", "-").Replace("bad-"+m.name+"-"+c.name), "device"), m.open, c.do})
		}
	}
	neighbours := map[string]speech{}
	for i, m := range manners() {
		k := good
		if i > 0 {
			k = p.Talker(t, fmt.Sprint("good-", i), "device")
		}
		s, err := m.open(t, p, k)
		must(t, err)
		neighbours[k.Name] = s
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			s, err := row.open(t, p, row.who)
			must(t, err)
			topic := "v1/" + row.who.Name + "/telemetry/x"
			must(t, s.say(topic, "before"))
			if list := p.Connections(t, row.who.Name); len(list) != 1 {
				t.Fatalf("it has %d connections, want one", len(list))
			}
			began := time.Now()
			must(t, row.cause(t, p, row.who))
			apptest.Until(t, "its connection has ended", func() bool { return len(p.Connections(t, row.who.Name)) == 0 })
			t.Logf("%v from the request to the end", time.Since(began).Round(100*time.Microsecond))
			apptest.Until(t, "the device notices", s.over)
			apptest.Until(t, "it is recorded", func() bool { return len(cutsOf(t, p, row.who)) > 0 })
			heard := p.Hear(t, topic)
			if err := s.say(topic, "after"); err == nil {
				t.Error("it was told that what it says after the cut is stored")
			}
			if _, err := row.open(t, p, row.who); err == nil {
				t.Error("it connects again")
			}
			for name, s := range neighbours {
				if err := s.say("v1/"+name+"/telemetry/x", row.name); err != nil {
					t.Errorf("the neighbour %s: %v", name, err)
				}
			}
			if got := heard.All(); len(got) > 0 {
				t.Errorf("what it said after the cut is in the log: %q", got[0].Payload)
			}
		})
	}
	p.Restart(t)
	for _, row := range rows {
		if _, err := row.open(t, p, row.who); err == nil {
			t.Errorf("%s: it connects after a restart", row.name)
		}
	}
	p.Connect(t, good)
}

// cutsOf are the entries about cuts of k.
func cutsOf(t *testing.T, p *apptest.Platform, k apptest.Talker) (found []string) {
	t.Helper()
	for _, e := range p.Record(t) {
		if e.Action == "message.cut" && (e.Device == k.ID.String() || e.Serial != "" && strings.HasSuffix(fmt.Sprintf("%x", k.Cert.Leaf.SerialNumber.Bytes()), e.Serial)) {
			found = append(found, e.Detail["reason"])
		}
	}
	return found
}

// TestCutOffResumes: a connection by a resumed TLS session is cut off as any other, and sessions that began before are of no use after.
func TestCutOffResumes(t *testing.T) {
	p := apptest.Start(t, apptest.Messaging)
	for _, version := range []struct {
		name string
		max  uint16
	}{{"TLS 1.2", tls.VersionTLS12}, {"TLS 1.3", tls.VersionTLS13}} {
		for _, cause := range causes() {
			t.Run(version.name+", "+cause.name, func(t *testing.T) {
				k := p.Talker(t, strings.NewReplacer(" ", "-", ".", "-").Replace(version.name+"-"+cause.name), "device")
				cache := tls.NewLRUClientSessionCache(4)
				var resumed bool
				dial := p.Over(k, func(c *tls.Config) { c.MaxVersion, c.ClientSessionCache = version.max, cache }, nil)
				connect := func() (*mqtt.Conn, error) {
					return p.TryConnect(t, k, func(c *mqtt.Config) {
						c.Dial = func(ctx context.Context) (net.Conn, error) {
							over, err := dial(ctx)
							if err == nil {
								resumed = over.(*tls.Conn).ConnectionState().DidResume
							}
							return over, err
						}
					})
				}
				first, err := connect()
				must(t, err)
				must(t, first.Close())
				live, err := connect()
				must(t, err)
				apptest.Publish(t, live, 1, "v1/"+k.Name+"/telemetry/x", "x")
				if !resumed {
					t.Fatal("the second connection did not resume the session of the first")
				}
				must(t, cause.do(t, p, k))
				apptest.Until(t, "the resumed connection has ended", func() bool { return live.Err() != nil && len(p.Connections(t, k.Name)) == 0 })
				if _, err := connect(); err == nil {
					t.Error("a resumed session is let in")
				}
			})
		}
	}
}

// TestCutOffCA: with the certificate of a CA those that it issued are cut off, and only those.
func TestCutOffCA(t *testing.T) {
	p := apptest.Start(t, apptest.Messaging)
	boss := p.Connect(t, p.Boss(t))
	var conns []speech
	var all []apptest.Talker
	for i := range 12 {
		m := manners()[i%len(manners())]
		k := p.Talker(t, fmt.Sprint("meter-", i), "device")
		s, err := m.open(t, p, k)
		must(t, err)
		all, conns = append(all, k), append(conns, s)
	}
	keeper := p.Connect(t, p.Talker(t, "keeper", "device"))
	must(t, keeper.Publish(t.Context(), mqtt.Message{Topic: "v1/keeper/state", Payload: []byte("on"), QoS: 1, Retain: true}))
	kept := func() (all []string) {
		heard := make(chan string, 10)
		c := p.Connect(t, p.Boss(t), func(c *mqtt.Config) {
			c.ClientID, c.Handler = "kept", func(m mqtt.Message) { heard <- string(m.Payload) }
		})
		apptest.Subscribe(t, c, 1, "v1/#")
		must(t, p.Message.PublishAs(t.Context(), apptest.Operator(), &message.Message{Topic: "v1/mark", Payload: []byte("end"), QoS: 1}))
		for text := range heard {
			if text == "end" {
				return all
			}
			all = append(all, text)
		}
		return nil
	}
	if got := kept(); !slices.Contains(got, "on") {
		t.Errorf("before, what a device of the CA retained is not shown: %q", got)
	}
	issuer, err := p.CA.Issuer("devices")
	must(t, err)
	_, err = p.Revoke.Certificate(t.Context(), apptest.Operator(), issuer.Certificate().SerialNumber.Bytes(), revoke.CACompromise)
	must(t, err)
	for i, k := range all {
		apptest.Until(t, k.Name+" is cut off", func() bool { return len(p.Connections(t, k.Name)) == 0 })
		apptest.Until(t, k.Name+" notices", conns[i].over)
	}
	if _, err := p.TryConnect(t, all[0]); err == nil {
		t.Error("a device of the revoked CA connects")
	}
	if got := kept(); slices.Contains(got, "on") {
		t.Errorf("what a device of the revoked CA retained is shown: %q", got)
	}
	if err := boss.Err(); err != nil {
		t.Errorf("the operator, whom another CA certified, was cut off: %v", err)
	}
}

// TestCutOffAtTheEnd: a certificate that ends takes its connection with it.
func TestCutOffAtTheEnd(t *testing.T) {
	p := apptest.Start(t, apptest.Messaging)
	for _, m := range manners() {
		t.Run(m.name, func(t *testing.T) {
			name := strings.NewReplacer(" ", "-", ".", "-").Replace(m.name)
			short, long := p.Talker(t, "short-"+name, "device-short"), p.Talker(t, "long-"+name, "device")
			s, err := m.open(t, p, short)
			must(t, err)
			other, err := m.open(t, p, long)
			must(t, err)
			p.Clock.Move(25 * time.Hour)
			apptest.Until(t, "the connection has ended", func() bool { return len(p.Connections(t, short.Name)) == 0 })
			apptest.Until(t, "the device notices", s.over)
			if _, err := m.open(t, p, short); err == nil {
				t.Error("it connects with a certificate that has ended")
			}
			must(t, other.say("v1/"+long.Name+"/telemetry/x", "x"))
		})
	}
}

// TestCutOffPolicy: a change of the policy takes a subscription away from live connections, which stay.
func TestCutOffPolicy(t *testing.T) {
	p := apptest.Start(t, apptest.Messaging)
	in := p.Add(t, device.Spec{Name: "in-group", Profile: "device", Group: "g1"})
	k := apptest.Talker{Device: in, Cert: p.Enrolment(t, in)}
	over := p.Add(t, device.Spec{Name: "over-coap", Profile: "device", Group: "g1"})
	o := apptest.Talker{Device: over, Cert: p.Enrolment(t, over)}
	got := make(chan string, 100)
	c := p.Connect(t, k, func(c *mqtt.Config) { c.Handler = func(m mqtt.Message) { got <- m.Topic + " " + string(m.Payload) } })
	apptest.Subscribe(t, c, 1, "v1/group/g1/notice", "v1/in-group/cmd/+")
	observer := p.CoAP(t, o)
	if _, _, err := observer.Observe(t.Context(), "v1/group/g1/notice"); err != nil {
		t.Fatal(err)
	}
	boss := p.Connect(t, p.Boss(t))
	apptest.Publish(t, boss, 1, "v1/group/g1/notice", "first")
	if m := <-got; m != "v1/group/g1/notice first" {
		t.Fatalf("got %q", m)
	}
	n, err := observer.Wait(t.Context())
	must(t, err)
	if string(n.Body) != "first" || n.Ended {
		t.Fatalf("the observer was told %+v", n)
	}
	now, err := p.Message.Policy(t.Context(), apptest.Operator())
	must(t, err)
	_, err = p.Message.SetPolicy(t.Context(), apptest.Operator(), strings.Replace(now.Text, "allow subscribe v1/group/${group}/notice", "", 1), now.Version)
	must(t, err)
	apptest.Publish(t, boss, 1, "v1/group/g1/notice", "second")
	apptest.Publish(t, boss, 1, "v1/in-group/cmd/x", "third")
	if m := <-got; m != "v1/in-group/cmd/x third" {
		t.Errorf("after the change it got %q", m)
	}
	if n, err = observer.Wait(t.Context()); err != nil || !n.Ended || n.Code.Class() != 4 {
		t.Errorf("the observer was told %+v, %v; want that it is over", n, err)
	}
	if err := c.Err(); err != nil {
		t.Errorf("the connection has ended: %v", err)
	}
	must(t, observer.Publish(t.Context(), coap.Publication{Topic: "v1/over-coap/telemetry/x", Confirmed: true}))
	_, err = c.Subscribe(t.Context(), mqtt.Subscription{Filter: "v1/group/g1/notice", QoS: 1})
	if err == nil {
		t.Error("the subscription is granted again")
	}
}

// TestCutOffGateway: a child that is cut off is not spoken for any more, a gateway that is cut off speaks for nobody.
func TestCutOffGateway(t *testing.T) {
	p := apptest.Start(t, apptest.Messaging)
	gateway := p.Talker(t, "gw", "gateway")
	child := func(name string) device.Device {
		return p.Add(t, device.Spec{Name: name, Profile: "device", Tags: map[string]string{message.GatewayTag: "gw"}})
	}
	for _, row := range []struct {
		name  string
		child apptest.Talker
		do    func(*testing.T, *apptest.Platform, apptest.Talker) error
	}{
		{"a child without a certificate is suspended", apptest.Talker{Device: child("mute")}, move(device.Suspend)},
		{"a child with one is suspended", func() apptest.Talker { d := child("able"); return apptest.Talker{Device: d, Cert: p.Enrolment(t, d)} }(), move(device.Suspend)},
		{"a child is lost", func() apptest.Talker { d := child("gone"); return apptest.Talker{Device: d, Cert: p.Enrolment(t, d)} }(), move(device.Lose)},
		{"a child changes its gateway", apptest.Talker{Device: child("moved")}, func(t *testing.T, p *apptest.Platform, k apptest.Talker) error {
			tags := map[string]string{message.GatewayTag: "other"}
			_, err := p.Devices.Change(t.Context(), apptest.Operator(), k.ID, device.Change{Tags: &tags})
			return err
		}},
	} {
		t.Run(row.name, func(t *testing.T) {
			topic := "v1/" + row.child.Name + "/telemetry/x"
			got := make(chan string, 100)
			c := p.Connect(t, gateway, func(c *mqtt.Config) { c.Handler = func(m mqtt.Message) { got <- m.Topic } })
			apptest.Publish(t, c, 1, topic, "before")
			apptest.Subscribe(t, c, 1, "v1/"+row.child.Name+"/cmd/+")
			must(t, row.do(t, p, row.child))
			heard := p.Hear(t, topic)
			boss := p.Connect(t, p.Boss(t))
			refused := func(c *mqtt.Conn) bool {
				return c.Publish(t.Context(), mqtt.Message{Topic: topic, QoS: 1, Payload: []byte("after")}) != nil
			}
			apptest.Until(t, "the gateway is refused", func() bool {
				if c.Err() != nil {
					c = p.Connect(t, gateway)
				}
				return refused(c)
			})
			n := len(heard.All())
			c = p.Connect(t, gateway, func(c *mqtt.Config) { c.Handler = func(m mqtt.Message) { got <- m.Topic } })
			apptest.Subscribe(t, c, 1, "v1/gw/cmd/+")
			if _, err := c.Subscribe(t.Context(), mqtt.Subscription{Filter: "v1/" + row.child.Name + "/cmd/+"}); err == nil {
				t.Error("the gateway may hear what is for the child")
			}
			apptest.Publish(t, boss, 1, "v1/"+row.child.Name+"/cmd/x", "")
			apptest.Publish(t, boss, 1, "v1/gw/cmd/x", "")
			if m := <-got; m != "v1/gw/cmd/x" {
				t.Errorf("the gateway got %q", m)
			}
			if !refused(c) || len(heard.All()) != n {
				t.Error("the gateway speaks for it again")
			}
		})
	}
	t.Run("the gateway itself", func(t *testing.T) {
		last := child("last")
		c := p.Connect(t, gateway)
		apptest.Publish(t, c, 1, "v1/last/telemetry/x", "before")
		must(t, revokeCert(t, p, gateway))
		apptest.Until(t, "it is cut off", func() bool { return c.Err() != nil && len(p.Connections(t, "gw")) == 0 })
		if _, err := p.TryConnect(t, gateway); err == nil {
			t.Error("it connects again")
		}
		k := apptest.Talker{Device: last, Cert: p.Enrolment(t, last)}
		apptest.Publish(t, p.Connect(t, k), 1, "v1/last/telemetry/x", "the child itself may")
	})
}

// sluggish is a connection whose reader may stop.
type sluggish struct {
	net.Conn
	stopped atomic.Bool
	read    chan struct{} // closed: read on
}

func (s *sluggish) Read(b []byte) (int, error) {
	if s.stopped.Load() {
		<-s.read
	}
	return s.Conn.Read(b)
}

// TestCutOffStalled: who does not read is cut off all the same, and one who takes the session over does not wait for him either.
func TestCutOffStalled(t *testing.T) {
	p := apptest.Start(t, apptest.Messaging)
	stall := func(t *testing.T, k apptest.Talker, web bool) (*mqtt.Conn, *sluggish) {
		var below *sluggish
		slow := func(n net.Conn) net.Conn {
			must(t, n.(*net.TCPConn).SetReadBuffer(4096))
			below = &sluggish{Conn: n, read: make(chan struct{})}
			return below
		}
		c := p.Connect(t, k, func(c *mqtt.Config) {
			if c.Dial = p.Over(k, nil, slow); web {
				c.Dial = p.WebSocketOver(k, slow)
			}
		})
		apptest.Subscribe(t, c, 0, "v1/"+k.Name+"/cmd/+")
		below.stopped.Store(true)
		t.Cleanup(sync.OnceFunc(func() { close(below.read) }))
		full := false
		for i := 0; i < 2000 && !full; i++ {
			must(t, p.Message.PublishAs(t.Context(), apptest.Operator(), &message.Message{Topic: "v1/" + k.Name + "/cmd/fill", Payload: make([]byte, 20<<10)}))
			list := p.Connections(t, k.Name)
			full = len(list) == 1 && list[0].Queued > 48<<10 // of 64 KiB that may wait
		}
		if !full {
			t.Fatal("the connection cannot be filled")
		}
		return c, below
	}
	late := lateness(t)
	for name, web := range map[string]bool{"suspended": false, "suspended, over a WebSocket": true} {
		t.Run(name, func(t *testing.T) {
			k := p.Talker(t, fmt.Sprint("stalled-", web), "device")
			_, below := stall(t, k, web)
			began := time.Now()
			must(t, move(device.Suspend)(t, p, k))
			apptest.Until(t, "it is cut off", func() bool { return len(p.Connections(t, k.Name)) == 0 })
			if !closes(below.Conn) {
				t.Error("the socket is still open")
			}
			if took := time.Since(began); took > time.Second+2*late() {
				t.Errorf("cut off after %v, want a second at most; this process was late by %v", took, late())
			} else {
				t.Logf("cut off, and the socket closed, after %v", took.Round(100*time.Microsecond))
			}
			apptest.Until(t, "it is recorded", func() bool { return len(cutsOf(t, p, k)) > 0 })
		})
	}
	t.Run("taken over", func(t *testing.T) {
		k := p.Talker(t, "slow", "device")
		_, below := stall(t, k, false)
		began := time.Now()
		c := p.Connect(t, k)
		t.Logf("taken over after %v", time.Since(began).Round(100*time.Microsecond))
		apptest.Publish(t, c, 1, "v1/slow/telemetry/x", "x")
		if !closes(below.Conn) {
			t.Error("the socket is still open")
		}
	})
}

// TestCutOffLeavesNothing: of what a device says at full speed nothing is stored after the cut has returned; again and again, since this is a race.
func TestCutOffLeavesNothing(t *testing.T) {
	p := apptest.Start(t, apptest.Messaging)
	now, err := p.Message.Policy(t.Context(), apptest.Operator())
	must(t, err)
	_, err = p.Message.SetPolicy(t.Context(), apptest.Operator(), strings.Replace(now.Text, "match any\n    byte_rate 14MiB/h", "match any\n    rate 100000/s burst 100000\n    byte_rate 100MiB/s", 1), now.Version)
	must(t, err)
	bad, good := p.Talker(t, "bad", "device"), p.Connect(t, p.Talker(t, "good", "device"))
	heard := p.Hear(t, "v1/#")
	for round := range 20 {
		before := len(heard.All()) // the mark came behind all that was stored of the last round
		c := p.Connect(t, bad)
		var sent atomic.Int64
		go func() {
			for c.Err() == nil {
				// QoS 1 is refused at the end, and QoS 0 never.
				_ = c.Send(t.Context(), mqtt.Message{Topic: "v1/bad/telemetry/x", QoS: wire.QoS(sent.Load() % 2), Payload: []byte("x")}, nil)
				sent.Add(1)
			}
		}()
		apptest.Until(t, "it talks", func() bool { return sent.Load() > int64(50+20*round) && len(heard.All()) > before })
		if n, err := p.Message.Cut(t.Context(), message.Selector{Device: bad.ID, Thing: bad.Name}, "test"); err != nil || n != 1 {
			t.Fatalf("cut %d connections, %v", n, err)
		}
		mark := fmt.Sprint("round ", round)
		apptest.Publish(t, good, 1, "v1/good/telemetry/mark", mark)
		heard.Wait(t, mark, func(m *message.Message) bool { return string(m.Payload) == mark })
	}
	apptest.Publish(t, good, 1, "v1/good/telemetry/mark", "end")
	heard.Wait(t, "the end", func(m *message.Message) bool { return string(m.Payload) == "end" })
	rounds, since := 0, 0
	for _, m := range heard.All() {
		switch m.Thing {
		case "good":
			if rounds++; since == 0 && rounds <= 20 {
				t.Errorf("nothing is in the log before the cut of round %d", rounds)
			}
			since = 0
		case "bad":
			since++
		}
	}
	if since > 0 {
		t.Errorf("%d messages were stored after the last cut", since)
	}
}

// TestCutOffWill: who is cut off has no will, and what he retained is hidden from those who ask afterwards; the others' stands.
func TestCutOffWill(t *testing.T) {
	p := apptest.Start(t, apptest.Messaging)
	heard := p.Hear(t, "v1/+/state")
	all := map[string]apptest.Talker{}
	conns := map[string]*mqtt.Conn{}
	for _, name := range []string{"cut", "broken", "stays"} {
		k := p.Talker(t, name, "device")
		all[name] = k
		conns[name] = p.Connect(t, k, func(c *mqtt.Config) {
			c.Will = &wire.Will{Topic: "v1/" + name + "/state", Payload: []byte("will of " + name), QoS: 1}
		})
		must(t, conns[name].Publish(t.Context(), mqtt.Message{Topic: "v1/" + name + "/state", Payload: []byte("on"), QoS: 1, Retain: true}))
	}
	retained := func() (topics []string) {
		var mu sync.Mutex
		c := p.Connect(t, p.Boss(t), func(c *mqtt.Config) {
			c.Handler = func(m mqtt.Message) {
				mu.Lock()
				defer mu.Unlock()
				if m.Retain {
					topics = append(topics, m.Topic)
				}
			}
		})
		// Replay comes before what is published later.
		apptest.Subscribe(t, c, 1, "v1/+/state")
		end := make(chan struct{})
		c.Handle("v1/stays/telemetry/end", func(mqtt.Message) { close(end) })
		apptest.Subscribe(t, c, 1, "v1/stays/telemetry/end")
		apptest.Publish(t, conns["stays"], 1, "v1/stays/telemetry/end", "")
		<-end
		c.Break()
		mu.Lock()
		defer mu.Unlock()
		slices.Sort(topics)
		return topics
	}
	if got := retained(); len(got) != 3 {
		t.Fatalf("before: retained are %q", got)
	}
	must(t, revokeCert(t, p, all["cut"]))
	must(t, move(device.Suspend)(t, p, all["cut"]))
	apptest.Until(t, "it is cut off", func() bool { return conns["cut"].Err() != nil })
	conns["broken"].Break()
	heard.Wait(t, "the will of who is not cut off", func(m *message.Message) bool { return string(m.Payload) == "will of broken" })
	for _, m := range heard.All() {
		if string(m.Payload) == "will of cut" {
			t.Error("the will of who was cut off was said")
		}
	}
	if got, want := retained(), []string{"v1/broken/state", "v1/stays/state"}; !slices.Equal(got, want) {
		t.Errorf("after: retained are %q, want %q", got, want)
	}
}

// TestCutOffWhileAway: what waits for a device that is suspended while it is away does not wait for it when it comes back.
func TestCutOffWhileAway(t *testing.T) {
	p := apptest.Start(t, apptest.Messaging)
	for _, row := range []struct {
		name string
		cut  bool
		want []string
	}{{"is not cut off", false, []string{"waits", "new"}}, {"is cut off", true, []string{"new"}}} {
		t.Run(row.name, func(t *testing.T) {
			k := p.Talker(t, strings.ReplaceAll(row.name, " ", "-"), "device")
			got := make(chan string, 10)
			stays := func(c *mqtt.Config) {
				c.SessionExpiry = 3600
				c.Handler = func(m mqtt.Message) { got <- string(m.Payload) }
			}
			c := p.Connect(t, k, stays)
			apptest.Subscribe(t, c, 1, "v1/"+k.Name+"/cmd/+")
			c.Break()
			apptest.Until(t, "it is away", func() bool { return len(p.Connections(t, k.Name)) == 0 })
			boss := p.Connect(t, p.Boss(t))
			apptest.Publish(t, boss, 1, "v1/"+k.Name+"/cmd/x", "waits")
			if row.cut {
				must(t, move(device.Suspend)(t, p, k))
				apptest.Until(t, "that is done", func() bool {
					reason, _, err := p.Message.LastCut(t.Context(), apptest.Operator(), k.ID)
					must(t, err)
					return reason != ""
				})
				must(t, move(device.Resume)(t, p, k))
			}
			c = p.Connect(t, k, stays)
			if present := c.Answer().SessionPresent; present == row.cut {
				t.Errorf("session present: %v", present)
			}
			apptest.Subscribe(t, c, 1, "v1/"+k.Name+"/cmd/+")
			apptest.Publish(t, boss, 1, "v1/"+k.Name+"/cmd/x", "new")
			for _, want := range row.want {
				if m := <-got; m != want {
					t.Errorf("it got %q, want %q", m, want)
				}
			}
		})
	}
}
