package mqtt

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"mooring/internal/core/message"
	"mooring/wire/mqtt"
)

// A second connection of the same client ends the first, whose session goes on; a clean start ends that too.
func TestTakeOver(t *testing.T) {
	w := newWorld(t, patient)
	keep := func(p *mqtt.Connect) { p.CleanStart, p.SessionExpiry = false, 600 }
	first, _ := w.connect("dev-1", keep)
	first.subscribe(mqtt.Subscription{Filter: "all/#", QoS: 1})
	second, answer := w.connect("dev-1", keep)
	second.is(answer.SessionPresent, true)
	first.is(first.closed(), "session taken over")
	w.hub.send(message.Message{Topic: "all/a", Payload: []byte("x")})
	second.is(string(expect[mqtt.Publish](second).Payload), "x")
	third, answer := w.connect("dev-1", func(p *mqtt.Connect) { p.SessionExpiry = 600 })
	third.is(answer.SessionPresent, false)
	second.is(second.closed(), "session taken over")
	w.hub.send(message.Message{Topic: "all/a"})
	third.alive()
	older, _ := w.connect("dev-2", v311)
	_, _ = w.connect("dev-2", v311)
	older.is(older.closed(), "") // 3.1.1 has no word for it
}

// patient has everybody who reads hear the last word, however slow the machine is.
func patient(s *Server) { s.times.farewell = time.Minute }

// stall lets a client's connection fill up, so that the server writes and cannot go on.
func (w *world) stall(thing string) *client {
	w.Helper()
	c, _ := w.connect(thing, func(p *mqtt.Connect) { p.CleanStart, p.SessionExpiry = false, 600 })
	_ = c.Conn.(*tls.Conn).NetConn().(*net.TCPConn).SetReadBuffer(1) // as little as the system lets
	c.subscribe(mqtt.Subscription{Filter: "all/#"})
	link := w.hub.linkOf(thing)
	for sent, same := uint64(0), 0; same < 50; {
		w.hub.send(message.Message{Topic: "all/a", Payload: make([]byte, 32<<10)})
		if now := w.server.Metrics().Sent; now != sent || link.Queued() == 0 {
			sent, same = now, 0
			continue
		}
		same++
		time.Sleep(time.Millisecond) // so that who can write does
	}
	return c
}

// A peer that does not read holds up neither who takes over its session nor who cuts it off. What is looked at is the order: the time of a write, after which
// it would be cut off anyway, is an hour here. How long the take-over took is told, not judged.
func TestStalledPeers(t *testing.T) {
	w := newWorld(t, func(s *Server) { s.times.write = time.Hour })
	w.stall("dev-1")
	began := time.Now()
	next, answer := w.connect("dev-1", func(p *mqtt.Connect) { p.CleanStart, p.SessionExpiry = false, 600 })
	t.Logf("taking over from a stalled peer took %s, with the handshake", time.Since(began))
	next.is(answer.SessionPresent, true)
	until(t, "the stalled one is gone", func() bool {
		return has(w.hub.seen(), "take over dev-1|dev-1", "connect mqtt dev-1", "detach dev-1|dev-1 taken_over")
	})
	w.stall("dev-2")
	began = time.Now()
	w.hub.cut("dev-2", message.ReasonCut)
	until(t, "it is gone", func() bool { return has(w.hub.seen(), "cut dev-2", "detach dev-2|dev-2 cut") })
	t.Logf("cutting off a stalled peer took %s", time.Since(began))
	next.aliveAmid()
}

// Core ends connections for reasons, which peers of 5.0 hear if they read.
func TestCoreEndsConnections(t *testing.T) {
	w := newWorld(t, func(s *Server) { s.times.farewell, s.times.linger = time.Minute, 10*time.Millisecond }) // this client stays after the last word
	for r := message.ReasonTakenOver; r <= message.ReasonFabric; r++ {
		t.Run(ended[r].name, func(t *testing.T) {
			c, _ := w.in(t).connect("dev-1", nil)
			w.hub.cut("dev-1", r)
			c.is(c.closed(), ended[r].code.String())
			until(t, "core hears of it", func() bool { return has(w.hub.seen(), "detach dev-1|dev-1 "+ended[r].name) })
		})
	}
}

// What was read before a cut and not handled is not handled afterwards.
func TestNothingIsHandledAfterTheEnd(t *testing.T) {
	bubble(t, func(h *hub, c *client) {
		c.hello("dev-1", nil)
		var b []byte
		for range 3 { // they fit into what is read at once
			b = mqtt.Publish{Topic: "all/a", Payload: []byte("x")}.Append(b, mqtt.V5)
		}
		h.busy = make(chan struct{})
		c.raw(string(b))
		synctest.Wait() // core is busy with the first
		h.cut("dev-1", message.ReasonCut)
		close(h.busy)
		c.closed()
		synctest.Wait()
		if has(h.seen(), "store", "store") || !has(h.seen(), "store", "detach") {
			t.Errorf("core heard %q", h.seen())
		}
	})
}

// The will is said unless the peer takes its leave; what kind of end it was, core hears from the front.
func TestWill(t *testing.T) {
	will := func(topic string) func(*mqtt.Connect) {
		return func(p *mqtt.Connect) { p.Will = &mqtt.Will{Topic: topic, QoS: 1, Payload: []byte("gone")} }
	}
	for _, row := range []struct {
		name string
		end  func(h *hub, c *client)
		said bool
	}{
		{"farewell", func(_ *hub, c *client) { c.send(mqtt.Disconnect{}) }, false},
		{"farewell that keeps it", func(_ *hub, c *client) { c.send(mqtt.Disconnect{Reason: mqtt.DisconnectWithWill}) }, true},
		{"farewell with an error", func(_ *hub, c *client) { c.send(mqtt.Disconnect{Reason: mqtt.Unspecified}) }, true},
		{"lost", func(_ *hub, c *client) { _ = c.Close() }, true},
		{"broke the rules", func(_ *hub, c *client) { c.raw("\x00\x00"); c.closed() }, true},
		{"silent", func(_ *hub, c *client) { c.closed() }, true},
		{"denied", func(_ *hub, c *client) { c.send(mqtt.Publish{Topic: "v1/dev-2/x"}); c.closed() }, true},
	} {
		t.Run(row.name, func(t *testing.T) {
			bubble(t, func(h *hub, c *client) {
				c.hello("dev-1", will("all/will"))
				row.end(h, c)
				time.Sleep(time.Hour)
				if got := has(h.seen(), "detach", "will all/will"); got != row.said || !has(h.seen(), "detach") {
					t.Errorf("said: %v, want %v; core heard %q", got, row.said, h.seen())
				}
			})
		})
	}
	for _, version := range []mqtt.Version{mqtt.V311, mqtt.V5} {
		t.Run("foreign, "+version.String(), func(t *testing.T) {
			bubble(t, func(h *hub, c *client) {
				answer := c.hello("dev-1", func(p *mqtt.Connect) { p.Version = version; will("v1/dev-2/state")(p) })
				c.is(answer.Reason, mqtt.NotAuthorised)
			})
		})
	}
}

// DISCONNECT may change how long the session goes on.
func TestExpiryInDisconnect(t *testing.T) {
	bubble(t, func(h *hub, c *client) {
		c.hello("dev-1", func(p *mqtt.Connect) { p.SessionExpiry = 600 })
		c.send(mqtt.Disconnect{SessionExpiry: mqtt.Some(uint32(0))})
		c.after(0, "")
		synctest.Wait()
		if len(h.sessions) != 0 {
			t.Error("the session goes on")
		}
	})
}

// When the listener stops, peers of 5.0 hear so, and core hears it from all before serving ends.
func TestDrain(t *testing.T) {
	w := newWorld(t, nil)
	five, _ := w.connect("dev-1", nil)
	older, _ := w.connect("dev-2", v311)
	silent := w.dial("dev-3")
	w.stop()
	five.is(five.closed(), "server shutting down")
	older.is(older.closed(), "")
	silent.is(silent.closed(), "")
	until(t, "core hears of both", func() bool {
		return has(w.hub.seen(), "detach dev-1|dev-1 stopping") && has(w.hub.seen(), "detach dev-2|dev-2 stopping")
	})
}

// A node that has others beside it says where to go.
func TestDrainElsewhere(t *testing.T) {
	w := newWorld(t, func(s *Server) { s.deps.Elsewhere = "mqtt-2.example.com:8883" })
	five, _ := w.connect("dev-1", nil)
	narrow, _ := w.connect("dev-2", func(p *mqtt.Connect) { p.MaximumPacketSize = 30 })
	older, _ := w.connect("dev-3", v311)
	w.stop()
	if got := expect[mqtt.Disconnect](five); got.Reason != mqtt.UseAnotherServer || got.ServerReference != "mqtt-2.example.com:8883" {
		t.Errorf("told %+v", got)
	}
	if got := expect[mqtt.Disconnect](narrow); got.Reason != mqtt.ServerShuttingDown || got.ServerReference != "" {
		t.Errorf("one that takes 30 octets was told %+v", got)
	}
	older.is(older.closed(), "")
}

// A panic of ours ends the connection where it happened, and no other.
func TestPanicEndsOneConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub()
		s := New(Deps{Messages: breaking{h}, Identify: h.anybody, Now: time.Now, Log: newSilentLog()})
		for _, where := range []string{"Connect", "Publish", "Subscribe", "done"} {
			c, _ := s.pair(t)
			if where == "Connect" {
				c.send(mqtt.Connect{Version: mqtt.V5, ClientID: "dev-1.panic", CleanStart: true})
				c.is(c.closed(), "")
				continue
			}
			c.hello("dev-1", nil)
			switch where {
			case "Publish":
				c.send(mqtt.Publish{Topic: "all/panic"})
			case "Subscribe":
				c.send(mqtt.Subscribe{ID: 1, Filters: []mqtt.Subscription{{Filter: "all/panic"}}})
			case "done":
				c.send(mqtt.Publish{Topic: "all/nil"})
			}
			c.closed()
		}
		synctest.Wait()
		if m := s.Metrics(); m.Panics != 3 || m.Open != 0 {
			t.Errorf("counted %+v", m)
		}
	})
}

// breaking is a hub that panics where it is told to.
type breaking struct{ *hub }

func (b breaking) Connect(ctx context.Context, a message.Attach) (Session, message.Connected, error) {
	if strings.HasSuffix(a.Client, ".panic") {
		panic("as told")
	}
	s, got, err := b.hub.Connect(ctx, a)
	return broken{s}, got, err
}

type broken struct{ Session }

func (b broken) Publish(m *message.Message, id uint16, done func(error)) {
	switch m.Topic {
	case "all/panic":
		panic("as told")
	case "all/nil":
		done(io.EOF)
		done(message.ErrTooLarge)
	}
}

func (b broken) Subscribe(ctx context.Context, list []message.Subscription) []message.Grant {
	if list[0].Filter == "all/panic" {
		panic("as told")
	}
	return b.Session.Subscribe(ctx, list)
}
