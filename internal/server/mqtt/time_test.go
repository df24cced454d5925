package mqtt

import (
	"io"
	"log/slog"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"mooring/internal/base/errs"
	"mooring/internal/core/message"
	"mooring/internal/core/message/policy"
	"mooring/internal/server/gate"
	"mooring/wire/mqtt"
)

// pipe is a transport without buffers, under the clock of a test.
type pipe struct{ net.Conn }

func (p pipe) End(time.Duration) { _ = p.Close() }

// pair returns a client at the other end of a new connection, and what is closed when that is over.
func (s *Server) pair(t *testing.T) (*client, <-chan struct{}) {
	near, far := net.Pipe()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if c := s.newConn(pipe{near}, &gate.Peer{}, "mqtt"); c.admit(t.Context()) {
			c.loop(t.Context())
		}
	}()
	return &client{T: t, Conn: far, version: mqtt.V5}, ended
}

func newSilentLog() *slog.Logger { return slog.New(slog.DiscardHandler) }

// bubble runs f with a client of the thing dev-1 that has not said anything, under a clock that jumps when everybody waits.
func bubble(t *testing.T, f func(h *hub, c *client)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		h := newHub()
		s := New(Deps{Messages: h, Identify: h.anybody, Now: time.Now, Log: newSilentLog()})
		c, ended := s.pair(t)
		f(h, c)
		_ = c.Close()
		<-ended
		time.Sleep(time.Minute) // what still drips sees the end
		if m := s.Metrics(); m.Open != 0 || m.Panics != 0 {
			t.Errorf("left behind: %+v", m)
		}
	})
}

// after fails unless the connection is closed exactly then, counted from now; said is the last word.
func (c *client) after(d time.Duration, said string) {
	c.Helper()
	began := time.Now()
	if got := c.closed(); got != said {
		c.Errorf("the last word was %q, want %q", got, said)
	}
	if took := time.Since(began); took != d {
		c.Errorf("closed after %s, want %s", took, d)
	}
}

// drip sends octets one by one.
func (c *client) drip(b string, each time.Duration) {
	go func() {
		for i := range len(b) {
			if _, err := io.WriteString(c.Conn, b[i:i+1]); err != nil {
				return
			}
			time.Sleep(each)
		}
	}()
}

func TestTimes(t *testing.T) {
	connect := string(mqtt.Connect{Version: mqtt.V5, ClientID: "dev-1", CleanStart: true, KeepAlive: 30}.Append(nil, 0))
	t.Run("no word", func(t *testing.T) {
		bubble(t, func(_ *hub, c *client) { c.after(5*time.Second, "") })
	})
	t.Run("dripped CONNECT", func(t *testing.T) {
		bubble(t, func(_ *hub, c *client) { c.drip(connect, time.Second); c.after(5*time.Second, "") })
	})
	t.Run("CONNECT dripped in time", func(t *testing.T) {
		bubble(t, func(_ *hub, c *client) { c.drip(connect, 100*time.Millisecond); expect[mqtt.Connack](c); c.alive() })
	})
	t.Run("keep-alive", func(t *testing.T) {
		bubble(t, func(_ *hub, c *client) {
			c.hello("dev-1", nil)
			for range 3 {
				time.Sleep(44 * time.Second)
				c.alive()
			}
			c.after(45*time.Second, "keep alive timeout")
		})
	})
	t.Run("no keep-alive is the longest", func(t *testing.T) {
		bubble(t, func(_ *hub, c *client) {
			got := c.hello("dev-1", func(p *mqtt.Connect) { p.KeepAlive = 0 })
			c.is(got.ServerKeepAlive, mqtt.Some(uint16(60)))
			c.after(90*time.Second, "keep alive timeout")
		})
	})
	t.Run("3.1.1 hears nothing of it", func(t *testing.T) {
		bubble(t, func(_ *hub, c *client) {
			c.hello("dev-1", func(p *mqtt.Connect) { v311(p); p.KeepAlive = 65535 })
			c.after(90*time.Second, "")
		})
	})
	publish := string(mqtt.Publish{Topic: "all/a", Payload: make([]byte, 60<<10)}.Append(nil, mqtt.V5))
	t.Run("dripped PUBLISH", func(t *testing.T) {
		bubble(t, func(_ *hub, c *client) {
			c.hello("dev-1", nil)
			c.drip(publish, time.Second)
			c.after(13*time.Second, "keep alive timeout") // 3 for the header, which is no part of a body yet
		})
	})
	t.Run("PUBLISH that stops half way", func(t *testing.T) {
		bubble(t, func(_ *hub, c *client) {
			c.hello("dev-1", nil)
			go c.raw(publish[:20<<10])
			c.after(29*time.Second, "keep alive timeout") // 10, and a second for each KiB of the 20, less the header
		})
	})
	t.Run("slow PUBLISH", func(t *testing.T) {
		bubble(t, func(h *hub, c *client) {
			c.hello("dev-1", nil)
			for rest := publish; rest != ""; time.Sleep(time.Second) {
				n := min(len(rest), 1100)
				c.raw(rest[:n])
				rest = rest[n:]
			}
			c.alive()
			if !has(h.seen(), "store all/a") {
				t.Error("the message did not arrive")
			}
		})
	})
	t.Run("storage is late", func(t *testing.T) {
		bubble(t, func(h *hub, c *client) {
			c.hello("dev-1", nil)
			h.stuck = true
			c.send(mqtt.Publish{Topic: "all/a", QoS: 1, ID: 1})
			c.after(10*time.Second, "server busy")
		})
	})
	t.Run("the peer does not read", func(t *testing.T) {
		bubble(t, func(h *hub, c *client) {
			c.hello("dev-1", nil)
			c.subscribe(mqtt.Subscription{Filter: "all/#"})
			h.send(message.Message{Topic: "all/a", Payload: []byte("unread")})
			for _, after := range []time.Duration{9999 * time.Millisecond, 2 * time.Millisecond} {
				if has(h.seen(), "detach dev-1|dev-1") {
					t.Error("cut off in less than 10 s")
				}
				time.Sleep(after)
			}
			if !has(h.seen(), "detach dev-1|dev-1 slow") {
				t.Errorf("not cut off after 10 s: %q", h.seen())
			}
		})
	})
}

// A peer that asks and does not read the answers is not read either, and is cut off.
func TestAnswersThatNobodyReads(t *testing.T) {
	bubble(t, func(h *hub, c *client) {
		c.hello("dev-1", nil)
		began := time.Now()
		n, err := io.WriteString(c.Conn, strings.Repeat("\xc0\x00", 1<<20))
		if most := 2 * maxAnswers; err == nil || n > most {
			t.Errorf("%d octets of PINGREQ were read, more than %d: %v", n, most, err)
		}
		if took := time.Since(began); took != 10*time.Second {
			t.Errorf("cut off after %s, want 10 s", took)
		}
		synctest.Wait()
		if !has(h.seen(), "detach dev-1|dev-1 slow") {
			t.Errorf("core heard %q", h.seen())
		}
	})
}

// 3.1.1 is slowed down, and then ended; 5.0 is told.
func TestRate(t *testing.T) {
	tooFast := errs.WithRetry(errs.New(errs.Limited, "too fast"), time.Second)
	t.Run("3.1.1 waits", func(t *testing.T) {
		bubble(t, func(h *hub, c *client) {
			c.hello("dev-1", v311)
			h.refuse = tooFast
			time.AfterFunc(2500*time.Millisecond, func() { h.mu.Lock(); h.refuse = nil; h.mu.Unlock() })
			began := time.Now()
			c.is(c.publish("all/a", "x"), ackOf(mqtt.PUBACK, 9, 0))
			if took := time.Since(began); took != 3*time.Second {
				t.Errorf("answered after %s, want 3 s", took)
			}
		})
	})
	t.Run("3.1.1 that goes on", func(t *testing.T) {
		bubble(t, func(h *hub, c *client) {
			c.hello("dev-1", v311)
			h.refuse = tooFast
			c.send(mqtt.Publish{Topic: "all/a", QoS: 1, ID: 1})
			c.after(5*time.Second, "")
			if !has(h.seen(), "detach dev-1|dev-1 rate") {
				t.Errorf("core heard %q", h.seen())
			}
		})
	})
	t.Run("5.0, QoS 1", func(t *testing.T) {
		bubble(t, func(h *hub, c *client) {
			c.hello("dev-1", nil)
			h.refuse = tooFast
			c.is(c.publish("all/a", "x").Reason, mqtt.QuotaExceeded)
			c.alive()
		})
	})
	t.Run("5.0, QoS 0", func(t *testing.T) {
		bubble(t, func(h *hub, c *client) {
			c.hello("dev-1", nil)
			h.refuse = tooFast
			c.send(mqtt.Publish{Topic: "all/a"})
			c.after(0, "message rate too high")
		})
	})
}

// What core says of a message, and what its publisher hears.
func TestRefusedMessages(t *testing.T) {
	for _, row := range []struct {
		name             string
		err              error
		drop             bool   // the policy drops what is denied
		one, zero, older string // QoS 1 and QoS 0 in 5.0, QoS 1 in 3.1.1: the code, or "end: " and the last word
	}{
		{"denied", errs.New(errs.Denied, "x"), false, "not authorised", "end: not authorised", "end: "},
		{"denied and dropped", errs.New(errs.Denied, "x"), true, "not authorised", "", "success"},
		{"too large", message.ErrTooLarge, false, "quota exceeded", "end: packet too large", "end: "},
		{"full", message.ErrFull, false, "quota exceeded", "", "end: "},
		{"no topic", errs.New(errs.Invalid, "x"), false, "topic name invalid", "end: protocol error", "end: "},
		{"unavailable", errs.New(errs.Unavailable, "x"), false, "end: server busy", "", "end: "},
		{"our fault", io.ErrUnexpectedEOF, false, "end: server busy", "", "end: "},
	} {
		try := func(version mqtt.Version, qos mqtt.QoS, want string) {
			bubble(t, func(h *hub, c *client) {
				if row.drop {
					h.limits.Deny = policy.DenyDrop
				}
				c.hello("dev-1", func(p *mqtt.Connect) { p.Version = version })
				h.refuse = row.err
				c.send(mqtt.Publish{Topic: "all/a", QoS: qos, ID: uint16(qos)})
				switch last, ends := strings.CutPrefix(want, "end: "); {
				case ends:
					c.after(0, last)
				case want == "":
					c.alive()
				default:
					c.is(expect[mqtt.Ack](c).Reason, want)
					c.alive()
				}
			})
		}
		t.Run(row.name+", 5.0, QoS 1", func(t *testing.T) { try(mqtt.V5, 1, row.one) })
		t.Run(row.name+", 5.0, QoS 0", func(t *testing.T) { try(mqtt.V5, 0, row.zero) })
		t.Run(row.name+", 3.1.1, QoS 1", func(t *testing.T) { try(mqtt.V311, 1, row.older) })
	}
}
