package mqtt

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	wire "mooring/wire/mqtt"
)

// peer is the server's end of a connection, moved by hand.
type peer struct {
	net.Conn
	t       *testing.T
	r       *reader
	v       wire.Version
	connect wire.Connect
}

// dialling hands the server's end of each connection to the channel.
func dialling(ends chan<- net.Conn) func(context.Context) (net.Conn, error) {
	return func(ctx context.Context) (net.Conn, error) {
		ours, theirs := net.Pipe()
		select {
		case ends <- theirs:
			return ours, nil
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// accept waits for CONNECT and answers it.
func accept(t *testing.T, end net.Conn, answer wire.Connack) *peer {
	t.Helper()
	p := &peer{Conn: end, t: t, r: &reader{from: end, rules: wire.Rules{From: wire.Client}}}
	h, body, err := p.r.next()
	if err != nil {
		t.Fatalf("waiting for CONNECT: %v", err)
	}
	if p.connect, err = wire.DecodeConnect(p.r.rules, h, bytes.Clone(body)); err != nil {
		t.Fatalf("reading CONNECT: %v", err)
	}
	p.v, p.r.rules.Version = p.connect.Version, p.connect.Version
	p.send(answer)
	return p
}

func (p *peer) send(list ...wire.Packet) {
	p.t.Helper()
	for _, packet := range list {
		if _, err := p.Write(packet.Append(nil, p.v)); err != nil {
			p.t.Fatalf("sending %+v: %v", packet, err)
		}
	}
}

// next reads a packet.
func (p *peer) next() wire.Packet {
	p.t.Helper()
	h, body, err := p.r.next()
	if err != nil {
		p.t.Fatalf("waiting for a packet: %v", err)
	}
	packet, err := wire.Decode(p.r.rules, h, bytes.Clone(body))
	if err != nil {
		p.t.Fatalf("reading %s: %v", h.Type, err)
	}
	return packet
}

// want reads a packet that must be this one.
func (p *peer) want(want wire.Packet) {
	p.t.Helper()
	if got := p.next(); !reflect.DeepEqual(got, want) {
		p.t.Fatalf("got %T %+v, want %+v", got, got, want)
	}
}

// wantPublish reads a PUBLISH and returns it.
func (p *peer) wantPublish(topic string, qos wire.QoS, dup bool) wire.Publish {
	p.t.Helper()
	packet := p.next()
	m, ok := packet.(wire.Publish)
	if !ok || string(m.RawTopic) != topic || m.QoS != qos || m.Duplicate != dup {
		p.t.Fatalf("got %T %+v, want PUBLISH to %q with QoS %d, again: %v", packet, packet, topic, qos, dup)
	}
	return m
}

// silent checks that nothing is sent for a while.
func (p *peer) silent(d time.Duration) {
	p.t.Helper()
	if err := p.SetReadDeadline(time.Now().Add(d)); err != nil {
		p.t.Fatal(err)
	}
	h, _, err := p.r.next()
	if timeout := net.Error(nil); !errors.As(err, &timeout) || !timeout.Timeout() {
		p.t.Fatalf("got %+v, %v; want silence", h, err)
	}
	if err := p.SetReadDeadline(time.Time{}); err != nil {
		p.t.Fatal(err)
	}
}

func ack(t wire.Type, id uint16) wire.Ack { return wire.Ack{Type: t, ID: id} }

// connected makes a Conn and the server's end of it.
func connected(t *testing.T, c Config, answer wire.Connack) (*Conn, *peer) {
	t.Helper()
	ends := make(chan net.Conn, 1)
	c.Dial, c.Now = dialling(ends), time.Now
	var p *peer
	done := make(chan struct{})
	go func() {
		defer close(done)
		p = accept(t, <-ends, answer)
	}()
	conn, err := Dial(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	<-done
	t.Cleanup(func() { conn.Break(); _ = p.Close() })
	return conn, p
}

// both runs a test for both versions, in a bubble of time.
func both(t *testing.T, test func(t *testing.T, v wire.Version)) {
	for _, v := range []wire.Version{wire.V311, wire.V5} {
		t.Run(v.String(), func(t *testing.T) { synctest.Test(t, func(t *testing.T) { test(t, v) }) })
	}
}

func start(f func() error) <-chan error {
	done := make(chan error, 1)
	go func() { done <- f() }()
	return done
}

func wantNil(t *testing.T, done <-chan error) {
	t.Helper()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

func TestPublish(t *testing.T) {
	both(t, func(t *testing.T, v wire.Version) {
		conn, p := connected(t, Config{Version: v, ClientID: "dev-1"}, wire.Connack{})
		if p.connect.ClientID != "dev-1" || p.connect.KeepAlive != 60 || p.connect.Version != v {
			t.Errorf("CONNECT %+v", p.connect)
		}
		done := start(func() error {
			return conn.Publish(t.Context(), Message{Topic: "a", Payload: []byte("0"), Retain: true})
		})
		if m := p.wantPublish("a", 0, false); string(m.Payload) != "0" || !m.Retain {
			t.Errorf("got %+v", m)
		}
		wantNil(t, done)

		done = start(func() error { return conn.Publish(t.Context(), Message{Topic: "b", QoS: 1}) })
		m := p.wantPublish("b", 1, false)
		synctest.Wait()
		select {
		case err := <-done:
			t.Fatalf("returned without an acknowledgement: %v", err)
		default:
		}
		p.send(ack(wire.PUBACK, m.ID))
		wantNil(t, done)

		done = start(func() error { return conn.Publish(t.Context(), Message{Topic: "c", QoS: 2}) })
		m = p.wantPublish("c", 2, false)
		p.send(ack(wire.PUBREC, m.ID))
		p.want(ack(wire.PUBREL, m.ID))
		p.send(ack(wire.PUBCOMP, m.ID))
		wantNil(t, done)

		done = start(conn.Close)
		p.want(wire.Disconnect{})
		wantNil(t, done)
		if err := conn.Publish(t.Context(), Message{Topic: "d", QoS: 1}); !errors.Is(err, ErrClosed) {
			t.Errorf("after Close: %v", err)
		}
	})
}

// All that the configuration says is in CONNECT, and when the server broke off, the will is the server's to send.
func TestConnect(t *testing.T) {
	both(t, func(t *testing.T, v wire.Version) {
		c := Config{
			Version: v, ClientID: "dev-1", UserName: "me", Password: []byte("secret"), CleanStart: true, SessionExpiry: 60, KeepAlive: 90 * time.Second, ReceiveMaximum: 9,
			MaximumPacket: 1000, TopicAliases: 3, Will: &wire.Will{Topic: "gone", QoS: 1, Retain: true, Payload: []byte("x")}, User: wire.UserProperties(nil).Add("k", "v"),
		}
		_, p := connected(t, c, wire.Connack{})
		want := wire.Connect{Version: v, CleanStart: true, KeepAlive: 90, ClientID: "dev-1", UserName: wire.Some("me"), Password: []byte("secret"), Will: c.Will}
		if v == wire.V5 {
			want.SessionExpiry, want.ReceiveMaximum, want.MaximumPacketSize, want.TopicAliasMaximum, want.User = 60, 9, 1000, 3, c.User
		}
		if !reflect.DeepEqual(p.connect, want) {
			t.Errorf("got %+v, want %+v", p.connect, want)
		}
	})
}

func TestRefusalInWords(t *testing.T) {
	r := &Refusal{Packet: wire.SUBACK, Reason: wire.NotAuthorised, Text: "no\n", Filter: "a/#"}
	if got, want := r.Error(), `the server said SUBACK: not authorised for the filter "a/#" ("no\n")`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestPublishRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		conn, p := connected(t, Config{}, wire.Connack{MaximumQoS: wire.Some(wire.AtLeastOnce), RetainAvailable: wire.Some(false), MaximumPacketSize: 40})
		for _, m := range []Message{{Topic: "a", QoS: 2}, {Topic: "a", Retain: true}, {Topic: "a/#"}, {Topic: ""}, {Topic: "a", Payload: make([]byte, 40)}, {Topic: "a", QoS: 1, Payload: make([]byte, 40)}} {
			if err := conn.Publish(t.Context(), m); err == nil {
				t.Errorf("%+v was sent", m)
			}
		}
		done := start(func() error { return conn.Publish(t.Context(), Message{Topic: "a", QoS: 1}) })
		m := p.wantPublish("a", 1, false)
		p.send(wire.Ack{Type: wire.PUBACK, ID: m.ID, Reason: wire.NotAuthorised, ReasonString: "no"})
		refused := (*Refusal)(nil)
		if err := <-done; !errors.As(err, &refused) || refused.Reason != wire.NotAuthorised || refused.Text != "no" {
			t.Errorf("got %v", err)
		}
	})
}

func TestReceive(t *testing.T) {
	both(t, func(t *testing.T, v wire.Version) {
		var mu sync.Mutex
		var got []string
		hold := make(chan struct{})
		conn, p := connected(t, Config{Version: v, Handler: func(m Message) {
			if m.Topic == "held" {
				<-hold
			}
			mu.Lock()
			defer mu.Unlock()
			got = append(got, fmt.Sprintf("%s=%s/%d", m.Topic, m.Payload, m.QoS))
		}}, wire.Connack{})
		conn.Handle("own/#", func(m Message) {
			mu.Lock()
			defer mu.Unlock()
			got = append(got, "own "+m.Topic)
		})
		p.send(wire.Publish{Topic: "a", Payload: []byte("0")}, wire.Publish{Topic: "own", QoS: 1, ID: 5})
		p.want(ack(wire.PUBACK, 5))
		p.send(wire.Publish{Topic: "c", QoS: 2, ID: 6})
		p.want(ack(wire.PUBREC, 6))
		p.send(wire.Publish{Topic: "c", QoS: 2, ID: 6, Duplicate: true}) // once more, and only acknowledged
		p.want(ack(wire.PUBREC, 6))
		p.send(ack(wire.PUBREL, 6))
		p.want(ack(wire.PUBCOMP, 6))
		p.send(ack(wire.PUBREL, 6))
		unknown := ack(wire.PUBCOMP, 6)
		if v == wire.V5 {
			unknown.Reason = wire.PacketIDNotFound
		}
		p.want(unknown)

		p.send(wire.Publish{Topic: "held", QoS: 1, ID: 7}, wire.Publish{Topic: "after", QoS: 1, ID: 8})
		p.silent(time.Second)
		close(hold)
		p.want(ack(wire.PUBACK, 7))
		p.want(ack(wire.PUBACK, 8))
		mu.Lock()
		defer mu.Unlock()
		if want := []string{"a=0/0", "own own", "c=/2", "held=/1", "after=/1"}; !slices.Equal(got, want) {
			t.Errorf("got %q, want %q", got, want)
		}
	})
}

// A handler that waits for the server does not stop the connection.
func TestHandlerMayPublish(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var conn *Conn
		ready := make(chan struct{})
		conn, p := connected(t, Config{Handler: func(m Message) {
			<-ready
			if err := conn.Publish(t.Context(), Message{Topic: "answer", QoS: 1}); err != nil {
				t.Error(err)
			}
		}}, wire.Connack{})
		close(ready)
		p.send(wire.Publish{Topic: "question", QoS: 1, ID: 1})
		m := p.wantPublish("answer", 1, false)
		p.send(ack(wire.PUBACK, m.ID))
		p.want(ack(wire.PUBACK, 1))
	})
}

func TestReceiveMaximumOfServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		conn, p := connected(t, Config{}, wire.Connack{ReceiveMaximum: 2})
		var done []<-chan error
		for range 4 {
			done = append(done, start(func() error { return conn.Publish(t.Context(), Message{Topic: "a", QoS: 2}) }))
		}
		one, two := p.wantPublish("a", 2, false), p.wantPublish("a", 2, false)
		p.silent(time.Second)
		p.send(ack(wire.PUBREC, one.ID))
		p.want(ack(wire.PUBREL, one.ID))
		p.silent(time.Second) // it is not over before PUBCOMP
		p.send(ack(wire.PUBCOMP, one.ID))
		three := p.wantPublish("a", 2, false)
		p.send(wire.Ack{Type: wire.PUBREC, ID: two.ID, Reason: wire.QuotaExceeded}) // over
		four := p.wantPublish("a", 2, false)
		for _, m := range []wire.Publish{three, four} {
			p.send(ack(wire.PUBREC, m.ID))
			p.want(ack(wire.PUBREL, m.ID))
			p.send(ack(wire.PUBCOMP, m.ID))
		}
		var refused int
		for _, d := range done {
			if <-d != nil {
				refused++
			}
		}
		if refused != 1 {
			t.Errorf("%d were refused, want 1", refused)
		}
	})
}

// 3.1.1 has no Receive Maximum, and yet servers have one.
func TestWindowOf311(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		conn, p := connected(t, Config{Version: wire.V311}, wire.Connack{})
		for range 30 {
			if err := conn.Send(t.Context(), Message{Topic: "a", QoS: 1}, nil); err != nil {
				t.Fatal(err)
			}
		}
		for range 14 {
			m := p.wantPublish("a", 1, false)
			p.wantPublish("a", 1, false) // is never acknowledged
			p.send(ack(wire.PUBACK, m.ID))
		}
		p.wantPublish("a", 1, false)
		p.wantPublish("a", 1, false)
		p.silent(time.Second)
	})
}

func TestReceiveMaximumExceeded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hold := make(chan struct{})
		defer close(hold)
		conn, p := connected(t, Config{ReceiveMaximum: 2, Handler: func(Message) { <-hold }}, wire.Connack{})
		for id := range uint16(3) {
			p.send(wire.Publish{Topic: "a", QoS: 1, ID: id + 1})
		}
		p.want(wire.Disconnect{Reason: wire.ReceiveMaximumExceeded})
		<-conn.Done()
	})
}

// A window of one that is used at once again is no breach: the acknowledgement leaves after the message has left the list.
func TestReceiveMaximumKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		conn, p := connected(t, Config{ReceiveMaximum: 1, Handler: func(Message) {}}, wire.Connack{})
		for range 1000 {
			p.send(wire.Publish{Topic: "a", QoS: 1, ID: 1})
			p.want(ack(wire.PUBACK, 1))
		}
		if err := conn.Err(); err != nil {
			t.Error(err)
		}
	})
}

// What comes with QoS 0 while the handler is at work does not fill the memory.
func TestDropped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hold := make(chan struct{})
		defer close(hold)
		conn, p := connected(t, Config{Handler: func(Message) { <-hold }}, wire.Connack{})
		for range 1000 {
			p.send(wire.Publish{Topic: "a"})
		}
		synctest.Wait()
		if n := conn.Dropped(); n < 700 || n == 1000 {
			t.Errorf("%d were dropped", n)
		}
	})
}

func TestSubscribe(t *testing.T) {
	both(t, func(t *testing.T, v wire.Version) {
		conn, p := connected(t, Config{Version: v}, wire.Connack{})
		list := []Subscription{{Filter: "a/#", QoS: 1}, {Filter: "b", QoS: 2}}
		var reasons []wire.Reason
		done := start(func() (err error) { reasons, err = conn.Subscribe(t.Context(), list...); return err })
		s, ok := p.next().(wire.Subscribe)
		if !ok || !slices.Equal(s.Filters, list) {
			t.Fatalf("got %+v", s)
		}
		p.send(wire.Suback{ID: s.ID, Reasons: []wire.Reason{wire.GrantedQoS1, wire.Unspecified}})
		refused := (*Refusal)(nil)
		if err := <-done; !errors.As(err, &refused) || refused.Filter != "b" || len(reasons) != 2 || reasons[0] != wire.GrantedQoS1 {
			t.Errorf("got %v, %v", reasons, err)
		}
		done = start(func() error { return conn.Unsubscribe(t.Context(), "a/#") })
		u, ok := p.next().(wire.Unsubscribe)
		if !ok || !slices.Equal(u.Filters, []string{"a/#"}) {
			t.Fatalf("got %+v", u)
		}
		p.send(wire.Unsuback{ID: u.ID, Reasons: []wire.Reason{wire.Success}})
		wantNil(t, done)
		if _, err := conn.Subscribe(t.Context(), Subscription{Filter: "a#"}); err == nil {
			t.Error("a bad filter was sent")
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		done = start(func() error { _, err := conn.Subscribe(ctx, list...); return err })
		p.next()
		if err := <-done; !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("without an answer: %v", err)
		}
		done = start(func() error { _, err := conn.Subscribe(t.Context(), list...); return err })
		p.next()
		_ = p.Close()
		if err := <-done; err == nil {
			t.Error("without a connection: no error")
		}
	})
}

func TestKeepAlive(t *testing.T) {
	both(t, func(t *testing.T, v wire.Version) {
		conn, p := connected(t, Config{Version: v, KeepAlive: 40 * time.Second}, wire.Connack{})
		p.silent(29 * time.Second)
		p.want(wire.Pingreq{})
		p.send(wire.Pingresp{})
		began := time.Now()
		p.want(wire.Pingreq{})
		if waited := time.Since(began); waited != 30*time.Second {
			t.Errorf("asked again after %v", waited)
		}
		began = time.Now() // and no answer
		<-conn.Done()
		if waited := time.Since(began); !errors.Is(conn.Err(), ErrSilent) || waited != 30*time.Second {
			t.Errorf("%v after %v", conn.Err(), waited)
		}
	})
}

func TestServerKeepAlive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, p := connected(t, Config{KeepAlive: time.Hour}, wire.Connack{ServerKeepAlive: wire.Some(uint16(8))})
		p.silent(5 * time.Second)
		p.want(wire.Pingreq{})
	})
}

func TestNoKeepAlive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, p := connected(t, Config{KeepAlive: -1}, wire.Connack{})
		if p.connect.KeepAlive != 0 {
			t.Errorf("CONNECT says %d", p.connect.KeepAlive)
		}
		p.silent(24 * time.Hour)
	})
}

func TestConnectRefused(t *testing.T) {
	both(t, func(t *testing.T, v wire.Version) {
		ends := make(chan net.Conn, 1)
		go func() {
			p := accept(t, <-ends, wire.Connack{Reason: wire.NotAuthorised})
			_ = p.Close()
		}()
		_, err := Dial(t.Context(), Config{Dial: dialling(ends), Now: time.Now, Version: v})
		refused := (*Refusal)(nil)
		if !errors.As(err, &refused) || refused.Reason != wire.NotAuthorised || refused.Packet != wire.CONNACK {
			t.Errorf("got %v", err)
		}
	})
}

// A server that does not answer CONNECT holds nobody up for long.
func TestNoConnack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ends := make(chan net.Conn, 1)
		began := time.Now()
		_, err := Dial(t.Context(), Config{Dial: dialling(ends), Now: time.Now})
		if waited := time.Since(began); !errors.Is(err, context.DeadlineExceeded) || waited != connectTimeout {
			t.Errorf("%v after %v", err, waited)
		}
	})
}

// What breaks the protocol ends the connection, and the server is told in 5.0.
func TestBrokenServer(t *testing.T) {
	for _, row := range []struct {
		name   string
		send   []byte
		reason wire.Reason
	}{
		{"malformed", []byte("\x30\x03\x00\x01"), wire.Malformed},
		{"too large", []byte("\x30\xff\xff\xff\x7f"), wire.PacketTooLarge},
		{"a client's packet", wire.Pingreq{}.Append(nil, wire.V5), wire.ProtocolError},
		{"CONNACK again", wire.Connack{}.Append(nil, wire.V5), wire.ProtocolError},
		{"AUTH", wire.Auth{Reason: wire.ContinueAuthentication, AuthenticationMethod: wire.Some("x")}.Append(nil, wire.V5), wire.ProtocolError},
		{"alias above the maximum", wire.Publish{Topic: "a", TopicAlias: 3}.Append(nil, wire.V5), wire.TopicAliasInvalid},
		{"unknown alias", wire.Publish{TopicAlias: 2}.Append(nil, wire.V5), wire.ProtocolError},
	} {
		t.Run(row.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				conn, p := connected(t, Config{TopicAliases: 2}, wire.Connack{})
				go func() { _, _ = p.Write(append(row.send, 0xff, 0xff)) }() // may end early
				d, ok := p.next().(wire.Disconnect)
				if !ok || d.Reason != row.reason {
					t.Errorf("got %+v, want %v", d, row.reason)
				}
				<-conn.Done()
				if fault := (*wire.Error)(nil); !errors.As(conn.Err(), &fault) {
					t.Errorf("got %v", conn.Err())
				}
			})
		})
	}
}

func TestDisconnectOfServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		conn, p := connected(t, Config{}, wire.Connack{})
		p.send(wire.Disconnect{Reason: wire.UseAnotherServer, ServerReference: "b:8883"})
		<-conn.Done()
		refused := (*Refusal)(nil)
		if !errors.As(conn.Err(), &refused) || refused.ServerReference != "b:8883" {
			t.Errorf("got %v", conn.Err())
		}
	})
}

// closer is a connection whose other side closes it as soon as it has read DISCONNECT, before the write of that has returned.
type closer struct {
	net.Conn
	far   net.Conn
	noted <-chan struct{} // closed when this side has noticed
}

func (c *closer) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	if wire.Type(b[0]>>4) == wire.DISCONNECT {
		_ = c.far.Close() // that is the point
		<-c.noted
	}
	return n, err
}

// TestServerClosesFirst: a server that hears DISCONNECT and closes at once is no reason for Close to complain.
func TestServerClosesFirst(t *testing.T) {
	both(t, func(t *testing.T, v wire.Version) {
		ours, theirs := net.Pipe()
		noted := make(chan struct{})
		conn := start(func() error {
			c, err := Dial(t.Context(), Config{Now: time.Now, Version: v, Dial: func(context.Context) (net.Conn, error) { return &closer{ours, theirs, noted}, nil }})
			if err != nil {
				return err
			}
			go func() { <-c.Done(); close(noted) }()
			return c.Close()
		})
		p := accept(t, theirs, wire.Connack{})
		if _, ok := p.next().(wire.Disconnect); !ok {
			t.Error("the client does not say DISCONNECT")
		}
		wantNil(t, conn)
	})
}

func TestTopicAliases(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		got := make(chan string, 9)
		_, p := connected(t, Config{TopicAliases: 2, Handler: func(m Message) { got <- m.Topic }}, wire.Connack{})
		if p.connect.TopicAliasMaximum != 2 {
			t.Errorf("CONNECT says %d", p.connect.TopicAliasMaximum)
		}
		p.send(wire.Publish{Topic: "a", TopicAlias: 1}, wire.Publish{TopicAlias: 1}, wire.Publish{Topic: "b", TopicAlias: 1}, wire.Publish{TopicAlias: 1})
		for _, want := range []string{"a", "a", "b", "b"} {
			if topic := <-got; topic != want {
				t.Errorf("got %q, want %q", topic, want)
			}
		}
	})
}

// Packets that come in pieces, or many at once.
func TestPieces(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		got := make(chan int, 9)
		_, p := connected(t, Config{Handler: func(m Message) { got <- len(m.Payload) }}, wire.Connack{})
		stream := wire.Publish{Topic: "a", Payload: make([]byte, 100_000)}.Append(nil, wire.V5)
		stream = wire.Publish{Topic: "a", Payload: make([]byte, 1)}.Append(stream, wire.V5)
		stream = wire.Publish{Topic: "a", Payload: make([]byte, 2)}.Append(stream, wire.V5)
		for _, piece := range []int{1, 1, 1, 1, 5, 60_000, 40_000} {
			piece = min(piece, len(stream))
			if _, err := p.Write(stream[:piece]); err != nil {
				t.Fatal(err)
			}
			stream = stream[piece:]
		}
		if _, err := p.Write(stream); err != nil {
			t.Fatal(err)
		}
		for _, want := range []int{100_000, 1, 2} {
			if n := <-got; n != want {
				t.Errorf("got %d octets, want %d", n, want)
			}
		}
	})
}

// A server that does not read does not hold up Close for ever.
func TestStalledServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		conn, _ := connected(t, Config{}, wire.Connack{})
		done := start(func() error { return conn.Publish(t.Context(), Message{Topic: strings.Repeat("a", 100)}) })
		wantNil(t, done)
		began := time.Now()
		if err := conn.Close(); err == nil || time.Since(began) > writeTimeout {
			t.Errorf("%v after %v", err, time.Since(began))
		}
	})
}
