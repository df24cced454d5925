package coap

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"mooring/internal/base/errs"
	wire "mooring/wire/coap"
)

// observer is a client that observes something.
type observer struct {
	*peer
	mu       sync.Mutex
	all      []*Observation // guarded by mu
	ends     int            // guarded by mu: observations that the client ended
	outcomes []Outcome      // guarded by mu
	last     uint32         // number of the notification before
}

// watching begins an association whose requests with Observe 0 are granted.
func watching(t *testing.T, change func(*Options, *peer)) *observer {
	o := &observer{}
	o.peer = begin(t, change, func(r *Request) Response {
		out := Response{Code: wire.Content, Format: wire.TextPlain, Body: []byte("first")}
		wish, said := r.Options.Uint(wire.Observe)
		if said && wish == 1 {
			r.Forget()
		}
		if !said || wish != 0 {
			return out
		}
		ob, err := r.Observe(func() { o.mu.Lock(); defer o.mu.Unlock(); o.ends++ })
		if err != nil {
			return Refuse(err)
		}
		o.mu.Lock()
		defer o.mu.Unlock()
		o.all = append(o.all, ob)
		out.Observed = ob
		return out
	})
	return o
}

func (o *observer) register(path, token string, options ...wire.Option) *wire.Message {
	o.next++
	return &wire.Message{Code: wire.GET, ID: o.next, Token: []byte(token), Options: append(append(wire.PathOptions(path), wire.Option{Number: wire.Observe}), options...)}
}

// observe registers, and returns the observation.
func (o *observer) observe(t *testing.T, path, token string, options ...wire.Option) *Observation {
	t.Helper()
	a := o.ask(t, o.register(path, token, options...))
	if _, ok := a.Options.Get(wire.Observe); a.Code != wire.Content || !ok {
		t.Fatalf("registering is answered by %+v", a)
	}
	o.numbered(t, a)
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.all[len(o.all)-1]
}

// numbered looks at the number of a notification, which must grow.
func (o *observer) numbered(t *testing.T, m *wire.Message) {
	t.Helper()
	n, ok := m.Options.Uint(wire.Observe)
	if !ok || n <= o.last {
		t.Errorf("a notification has the number %d, %v after %d", n, ok, o.last)
	}
	o.last = n
}

func (o *observer) tell(ob *Observation, text string, more func(*Notice)) bool {
	n := Notice{Response: Response{Code: wire.Content, Format: wire.TextPlain, Body: []byte(text)}, Done: func(out Outcome) {
		o.mu.Lock()
		defer o.mu.Unlock()
		o.outcomes = append(o.outcomes, out)
	}}
	if more != nil {
		more(&n)
	}
	return ob.Notify(n)
}

func command(n *Notice) { n.Confirmable = true }

func newest(n *Notice) { n.Newest = "state" }

// told takes a notification of this type.
func (o *observer) told(t *testing.T, kind wire.Type, token, text string) *wire.Message {
	t.Helper()
	m := o.get(t)
	if m.Type != kind || string(m.Token) != token || string(m.Payload) != text {
		t.Fatalf("was sent %+v %q, want %q", m, m.Payload, text)
	}
	o.numbered(t, m)
	return m
}

func (o *observer) ack(m *wire.Message) { o.put(&wire.Message{Type: wire.Acknowledgement, ID: m.ID}) }
func (o *observer) rst(m *wire.Message) { o.put(&wire.Message{Type: wire.Reset, ID: m.ID}) }

// came checks what became of notifications.
func (o *observer) came(t *testing.T, want ...Outcome) {
	t.Helper()
	synctest.Wait()
	o.mu.Lock()
	defer o.mu.Unlock()
	if !slices.Equal(o.outcomes, want) {
		t.Errorf("the outcomes are %v, want %v", o.outcomes, want)
	}
}

func (o *observer) ended(t *testing.T, want int) {
	t.Helper()
	synctest.Wait()
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.ends != want {
		t.Errorf("%d observations were ended by the client, want %d", o.ends, want)
	}
}

func TestObserve(t *testing.T) {
	cases(t, map[string]func(t *testing.T){
		"commands in order, one at a time (NSTART 1)": func(t *testing.T) {
			o := watching(t, nil)
			ob := o.observe(t, "/a", "A")
			other := o.observe(t, "/b", "B")
			for i := range 3 {
				o.tell(ob, fmt.Sprint(i), command)
			}
			o.tell(other, "x", command)
			for i := range 3 {
				m := o.told(t, wire.Confirmable, "A", fmt.Sprint(i))
				o.nothing(t)
				o.ack(m)
			}
			o.ack(o.told(t, wire.Confirmable, "B", "x"))
			o.came(t, Told, Told, Told, Told)
		},
		"nothing before the answer to the registration": func(t *testing.T) {
			o := watching(t, func(_ *Options, p *peer) {
				p.more = func(h *Handler) {
					answer := h.Answer
					h.Answer = func(ctx context.Context, r *Request) Response {
						out := answer(ctx, r)
						out.Observed.Notify(Notice{Response: Response{Code: wire.Content, Body: []byte("second")}, Confirmable: true})
						time.Sleep(100 * time.Millisecond)
						return out
					}
				}
			})
			m := o.register("/a", "A")
			o.put(m)
			o.nothing(t)
			time.Sleep(200 * time.Millisecond)
			if a := o.get(t); a.ID != m.ID || string(a.Payload) != "first" {
				t.Errorf("answered by %+v", a)
			}
			if n := o.get(t); string(n.Payload) != "second" {
				t.Errorf("notified by %+v", n)
			}
		},
		"retransmission: 2 s times 1 to 1.5, doubled, four times": func(t *testing.T) {
			o := watching(t, nil)
			o.tell(o.observe(t, "/a", "A"), "go", command)
			began, id := time.Now(), o.told(t, wire.Confirmable, "A", "go").ID
			var at []float64
			for range 120 {
				time.Sleep(time.Second)
				synctest.Wait()
				for len(o.out) > 0 {
					if m := o.get(t); m.ID != id || string(m.Payload) != "go" {
						t.Errorf("sent %+v", m)
					}
					at = append(at, math.Floor(time.Since(began).Seconds()))
				}
			}
			if len(at) != maxRetransmit || at[0] < 2 || at[0] > 3 || at[1]-at[0] < 3 || at[1]-at[0] > 7 || at[3] < 30 || at[3] > 46 {
				t.Errorf("sent again after %v seconds", at)
			}
			o.came(t)
		},
		"a device that sleeps: what it did not get waits for the next uplink": func(t *testing.T) {
			o := watching(t, nil)
			ob := o.observe(t, "/a", "A")
			o.tell(ob, "1", command)
			o.tell(ob, "2", command)
			o.told(t, wire.Confirmable, "A", "1")
			time.Sleep(10 * time.Minute)
			for len(o.out) > 0 {
				o.get(t)
			}
			o.tell(ob, "3", command)
			time.Sleep(10 * time.Hour)
			o.nothing(t)
			o.came(t)
			m := o.post("reading") // which the handler of this test answers as it does everything
			o.put(m)
			if a := o.get(t); a.ID != m.ID {
				t.Errorf("the uplink is answered by %+v", a)
			}
			for i := range 3 {
				o.ack(o.told(t, wire.Confirmable, "A", fmt.Sprint(i+1)))
			}
			o.came(t, Told, Told, Told)
			o.ended(t, 0)
		},
		"a device that wakes while it is told again": func(t *testing.T) {
			o := watching(t, nil)
			o.tell(o.observe(t, "/a", "A"), "1", command)
			o.told(t, wire.Confirmable, "A", "1")
			time.Sleep(22 * time.Second) // three more times by now, and not again before 30
			synctest.Wait()
			for len(o.out) > 0 {
				o.get(t)
			}
			time.Sleep(3 * time.Second)
			o.nothing(t)
			o.put(&wire.Message{ID: 999}) // a ping
			if m := o.get(t); m.Type != wire.Reset || m.ID != 999 {
				t.Errorf("the ping is answered by %+v", m)
			}
			if m := o.get(t); string(m.Payload) != "1" {
				t.Errorf("sent %+v", m)
			}
		},
		"RST of a confirmable notification ends it": func(t *testing.T) {
			o := watching(t, nil)
			ob := o.observe(t, "/a", "A")
			o.tell(ob, "1", command)
			o.tell(ob, "2", command)
			o.rst(o.told(t, wire.Confirmable, "A", "1"))
			o.nothing(t)
			o.came(t, Unwanted, Unwanted)
			o.ended(t, 1)
			if o.tell(ob, "3", command) {
				t.Error("an observation that is over takes notifications")
			}
		},
		"RST of a NON notification ends it": func(t *testing.T) {
			o := watching(t, nil)
			ob := o.observe(t, "/a", "A")
			o.tell(ob, "1", nil)
			o.ack(o.told(t, wire.Confirmable, "A", "1"))
			o.tell(ob, "2", nil)
			m := o.told(t, wire.NonConfirmable, "A", "2")
			time.Sleep(time.Second)
			o.rst(m)
			o.ended(t, 1)
			if o.tell(ob, "3", nil) {
				t.Error("an observation that is over takes notifications")
			}
		},
		"Observe 1 ends it": func(t *testing.T) {
			o := watching(t, nil)
			ob := o.observe(t, "/a", "A")
			m := o.register("/a", "A")
			m.Options[len(m.Options)-1].Value = []byte{1}
			if a := o.ask(t, m); a.Code != wire.Content {
				t.Errorf("answered by %+v", a)
			} else if _, observed := a.Options.Get(wire.Observe); observed {
				t.Error("the answer has the option Observe")
			}
			o.ended(t, 1)
			if o.tell(ob, "1", nil) {
				t.Error("an observation that is over takes notifications")
			}
		},
		"the same token again is the same observation, another resource another": func(t *testing.T) {
			o := watching(t, nil)
			first := o.observe(t, "/a", "A")
			if again := o.observe(t, "/a", "A"); again != first {
				t.Error("the same request has made another observation")
			}
			o.ended(t, 0)
			if o.observe(t, "/b", "A") == first {
				t.Error("another resource is the same observation")
			}
			o.ended(t, 1)
		},
		"at most eight": func(t *testing.T) {
			o := watching(t, nil)
			for i := range maxObservations {
				o.observe(t, "/a", fmt.Sprint(i))
			}
			a := o.ask(t, o.register("/a", "one more"[:8]))
			if _, ok := a.Options.Uint(wire.MaxAge); a.Code != wire.TooManyRequests || !ok {
				t.Errorf("answered by %+v", a)
			}
			o.observe(t, "/a", "3")
		},
		"confirmable at the first, and once in 24 hours": func(t *testing.T) {
			o := watching(t, nil)
			ob := o.observe(t, "/a", "A")
			say := func(text string, kind wire.Type) *wire.Message {
				t.Helper()
				o.tell(ob, text, nil)
				return o.told(t, kind, "A", text)
			}
			o.ack(say("1", wire.Confirmable))
			for i := range 23 {
				time.Sleep(time.Hour)
				say(fmt.Sprint("hour ", i), wire.NonConfirmable)
			}
			time.Sleep(time.Hour)
			o.ack(say("a day", wire.Confirmable))
			time.Sleep(time.Minute)
			say("after", wire.NonConfirmable)
		},
		"NON notifications: one in each round trip": func(t *testing.T) {
			o := watching(t, nil)
			ob := o.observe(t, "/a", "A")
			o.tell(ob, "1", nil)
			m := o.told(t, wire.Confirmable, "A", "1")
			time.Sleep(time.Second)
			o.ack(m)
			for _, text := range []string{"2", "3"} {
				o.tell(ob, text, nil)
			}
			o.told(t, wire.NonConfirmable, "A", "2")
			o.nothing(t)
			time.Sleep(time.Second)
			o.told(t, wire.NonConfirmable, "A", "3")
		},
		"the newest state wins": func(t *testing.T) {
			o := watching(t, nil)
			ob := o.observe(t, "/a", "A")
			o.tell(ob, "command", command)
			for i := range 5 {
				o.tell(ob, fmt.Sprint(i), newest)
			}
			o.ack(o.told(t, wire.Confirmable, "A", "command"))
			o.told(t, wire.NonConfirmable, "A", "4")
			time.Sleep(time.Minute)
			o.nothing(t)
			synctest.Wait()
			o.mu.Lock()
			defer o.mu.Unlock()
			if slices.Sort(o.outcomes); !slices.Equal(o.outcomes, []Outcome{Told, Told, Superseded, Superseded, Superseded, Superseded}) {
				t.Errorf("the outcomes are %v", o.outcomes)
			}
		},
		"what expires while the device sleeps is not told": func(t *testing.T) {
			o := watching(t, nil)
			ob := o.observe(t, "/a", "A")
			o.tell(ob, "short", func(n *Notice) { n.Confirmable, n.Until = true, time.Now().Add(time.Minute) })
			o.tell(ob, "long", func(n *Notice) { n.Confirmable, n.Until = true, time.Now().Add(5*time.Hour) })
			m := o.told(t, wire.Confirmable, "A", "short")
			if age, _ := m.Options.Uint(wire.MaxAge); age != 60 {
				t.Errorf("Max-Age is %d", age)
			}
			time.Sleep(time.Hour)
			synctest.Wait()
			for len(o.out) > 0 {
				o.get(t)
			}
			o.put(&wire.Message{ID: 999})
			o.get(t)
			m = o.told(t, wire.Confirmable, "A", "long")
			if age, _ := m.Options.Uint(wire.MaxAge); age != 4*3600 {
				t.Errorf("Max-Age is %d", age)
			}
			o.ack(m)
			o.came(t, Superseded, Told)
		},
		"a final notification, and nothing that waited": func(t *testing.T) {
			o := watching(t, nil)
			ob := o.observe(t, "/a", "A")
			o.tell(ob, "1", command)
			o.tell(ob, "secret", command)
			m := o.told(t, wire.Confirmable, "A", "1")
			ob.Notify(Notice{Response: RefuseAs(wire.Forbidden, "no more"), Final: true})
			o.ack(m)
			m = o.get(t)
			if _, has := m.Options.Get(wire.Observe); m.Type != wire.Confirmable || m.Code != wire.Forbidden || has || string(m.Token) != "A" {
				t.Errorf("sent %+v", m)
			}
			o.ack(m)
			o.nothing(t)
			if o.tell(ob, "3", nil) {
				t.Error("an observation that is over takes notifications")
			}
			o.ended(t, 0)
		},
		"larger than a block: the next command when this one was fetched": func(t *testing.T) {
			o := watching(t, nil)
			ob := o.observe(t, "/a", "A", block(wire.Block2, 0, false, 1))
			large := strings.Repeat("0123456789abcdef", 5)
			o.tell(ob, large, command)
			o.tell(ob, "next", command)
			m := o.told(t, wire.Confirmable, "A", large[:32])
			if b := blockOf(t, m, wire.Block2); !b.More || b.Num != 0 || b.SZX != 1 {
				t.Errorf("the notification has the block %+v", b)
			}
			o.ack(m)
			o.nothing(t)
			got := large[:32]
			for n := uint32(1); ; n++ {
				rest := o.post("", block(wire.Block2, n, false, 1))
				rest.Code, rest.Options = wire.GET, append(wire.PathOptions("/a"), block(wire.Block2, n, false, 1))
				o.put(rest)
				a := o.get(t)
				got += string(a.Payload)
				if _, has := a.Options.Get(wire.Observe); has {
					t.Error("the rest of a notification has the option Observe")
				}
				if !blockOf(t, a, wire.Block2).More {
					break
				}
				o.nothing(t)
			}
			if got != large {
				t.Errorf("got %q", got)
			}
			o.told(t, wire.Confirmable, "A", "next")
			o.came(t, Told)
		},
		"larger than a block and not fetched: it comes again": func(t *testing.T) {
			o := watching(t, nil)
			ob := o.observe(t, "/a", "A", block(wire.Block2, 0, false, 1))
			large := strings.Repeat("0123456789abcdef", 5)
			o.tell(ob, large, command)
			o.ack(o.told(t, wire.Confirmable, "A", large[:32]))
			time.Sleep(time.Hour)
			o.nothing(t)
			o.came(t)
			o.put(&wire.Message{ID: 999})
			o.get(t)
			o.told(t, wire.Confirmable, "A", large[:32])
		},
		"an address where the client may not be is told nothing": func(t *testing.T) {
			o := watching(t, nil)
			ob := o.observe(t, "/a", "A")
			o.move(1)
			for i := range 10 {
				o.tell(ob, fmt.Sprint(i), command)
			}
			sent := 0
			time.Sleep(10 * time.Minute)
			synctest.Wait()
			for len(o.out) > 0 {
				m := o.get(t)
				if m.Code != wire.Empty {
					t.Errorf("sent %+v", m)
				}
				sent += 4
			}
			// The request that moved the client has a record of more than 40 octets; an attempt is five pings.
			if sent > 5*4 {
				t.Errorf("%d octets were sent to the address", sent)
			}
		},
		"the association ends": func(t *testing.T) {
			var ended []error
			o := watching(t, func(_ *Options, p *peer) {
				p.more = func(h *Handler) { h.Ended = func(err error) { ended = append(ended, err) } }
			})
			o.tell(o.observe(t, "/a", "A"), "1", command)
			o.told(t, wire.Confirmable, "A", "1")
			close(o.in)
			synctest.Wait()
			if len(ended) != 1 || !errors.Is(ended[0], io.EOF) {
				t.Errorf("told %v", ended)
			}
			o.came(t)
			o.in = make(chan []byte)
		},
		"draining does not wait for notifications": func(t *testing.T) {
			ended := false
			o := watching(t, func(_ *Options, p *peer) { p.more = func(h *Handler) { h.Ended = func(error) { ended = true } } })
			o.tell(o.observe(t, "/a", "A"), "1", command)
			o.told(t, wire.Confirmable, "A", "1")
			close(o.drain)
			time.Sleep(100 * time.Millisecond)
			synctest.Wait()
			if !ended {
				t.Error("it goes on")
			}
		},
		"dropped: what was read is not handled": func(t *testing.T) {
			var client *Client
			o := watching(t, func(_ *Options, p *peer) {
				p.more = func(h *Handler) {
					answer := h.Answer
					h.Answer = func(ctx context.Context, r *Request) Response { client = r.Client; return answer(ctx, r) }
				}
			})
			o.ask(t, o.post("x"))
			client.Idle(time.Hour)
			client.Drop()
			o.put(o.post("too late"))
			o.nothing(t)
			if got := o.handled(); len(got) != 1 {
				t.Errorf("handled %q", got)
			}
			o.peer.mu.Lock()
			defer o.peer.mu.Unlock()
			if o.drops != 1 || o.idle != time.Hour {
				t.Errorf("dropped %d times, idle for %v", o.drops, o.idle)
			}
		},
	})
}

func TestHandlers(t *testing.T) {
	cases(t, map[string]func(t *testing.T){
		"requests that look the same and are two": func(t *testing.T) {
			slow := func(r *Request) Response { time.Sleep(500 * time.Millisecond); return echo(r) }
			for distinct, want := range map[bool]int{false: 1, true: 2} {
				p := begin(t, func(_ *Options, p *peer) {
					p.more = func(h *Handler) { h.Distinct = func(string) bool { return distinct } }
				}, slow)
				p.put(p.post("21.5"))
				p.put(p.post("21.5"))
				time.Sleep(time.Second)
				for range 2 {
					if a := p.get(t); a.Code != wire.Changed {
						t.Errorf("answered by %+v", a)
					}
				}
				if n := len(p.handled()); n != want {
					t.Errorf("distinct %v: handled %d times, want %d", distinct, n, want)
				}
			}
		},
		"a distinct request that took too long leaves its place when it is done": func(t *testing.T) {
			p := begin(t, func(_ *Options, p *peer) {
				p.more = func(h *Handler) { h.Distinct = func(string) bool { return true } }
			},
				func(r *Request) Response { time.Sleep(30 * time.Second); return echo(r) })
			p.put(p.post("x"))
			time.Sleep(25 * time.Second)
			p.get(t)
			if a := p.get(t); a.Code != wire.ServiceUnavailable {
				t.Errorf("answered by %+v", a)
			} else {
				p.put(&wire.Message{Type: wire.Acknowledgement, ID: a.ID})
			}
			for len(p.out) > 0 { // it was sent more than once by then
				p.get(t)
			}
			for range maxCalls - 1 {
				p.put(p.post("y"))
			}
			if a := p.ask(t, p.post("one more")); a.Code != wire.ServiceUnavailable {
				t.Errorf("while it is not done: %+v", a)
			}
			time.Sleep(7 * time.Second)
			for len(p.out) > 0 {
				p.get(t)
			}
			p.put(p.post("now"))
			time.Sleep(2 * time.Second)
			if a := p.get(t); a.Type != wire.Acknowledgement || a.Code != wire.Empty {
				t.Errorf("afterwards: %+v", a)
			}
		},
		"what is quiet and what is not, in the log": func(t *testing.T) {
			var log bytes.Buffer
			p := begin(t, func(o *Options, _ *peer) { o.Log = slog.New(slog.NewTextHandler(&log, nil)) }, func(r *Request) Response {
				out := echo(r)
				switch string(r.Body) {
				case "denied":
					out = Refuse(errs.New(errs.Denied, "no"))
				case "away":
					out = Refuse(errs.New(errs.Unavailable, "away"))
				}
				out.Quiet = true
				return out
			})
			for text, want := range map[string]bool{"good": false, "denied": false, "away": true} {
				log.Reset()
				p.ask(t, p.post(text))
				if logged := log.Len() > 0; logged != want {
					t.Errorf("%s is logged: %v, want %v: %s", text, logged, want, &log)
				}
			}
		},
		"a limit of the path's own": func(t *testing.T) {
			p := begin(t, func(o *Options, p *peer) {
				o.Body = 10
				p.more = func(h *Handler) {
					h.Limit = func(path string) int { return map[string]int{"/x": 20}[path] }
				}
			}, echo)
			if a := p.ask(t, p.post(strings.Repeat("x", 20))); a.Code != wire.Changed {
				t.Errorf("answered by %+v", a)
			}
			a := p.ask(t, p.post(strings.Repeat("x", 21)))
			if n, _ := a.Options.Uint(wire.Size1); a.Code != wire.EntityTooLarge || n != 20 {
				t.Errorf("answered by %+v", a)
			}
			m := p.post(strings.Repeat("x", 11))
			m.Options = wire.PathOptions("/other")
			if a := p.ask(t, m); a.Code != wire.EntityTooLarge {
				t.Errorf("another path: %+v", a)
			}
		},
		"No-Response (RFC 7967)": func(t *testing.T) {
			p := begin(t, nil, func(r *Request) Response {
				if string(r.Body) == "bad" {
					return Refuse(errs.New(errs.Invalid, "bad"))
				}
				return echo(r)
			})
			quiet := wire.Option{Number: wire.NoResponse, Value: []byte{2}}
			non := func(body string) *wire.Message {
				m := p.post(body, quiet)
				m.Type = wire.NonConfirmable
				return m
			}
			p.put(non("good"))
			p.nothing(t)
			p.put(non("bad"))
			if a := p.get(t); a.Code != wire.BadRequest {
				t.Errorf("answered by %+v", a)
			}
			m := p.post("good", quiet)
			for range 2 {
				p.put(m)
				if a := p.get(t); a.Type != wire.Acknowledgement || a.Code != wire.Empty || a.ID != m.ID || len(a.Token) != 0 {
					t.Errorf("answered by %+v", a)
				}
			}
			if a := p.ask(t, p.post("0123456789abcdef", quiet, block(wire.Block1, 0, true, 0))); a.Code != wire.Continue {
				t.Errorf("a block is answered by %+v", a)
			}
			if n := len(p.handled()); n != 3 {
				t.Errorf("handled %d times", n)
			}
		},
		"answers that nobody acknowledges hold up no more than four": func(t *testing.T) {
			p := begin(t, nil, func(r *Request) Response { time.Sleep(2 * time.Second); return echo(r) })
			for i := range 100 {
				p.put(p.post(fmt.Sprint(i)))
				time.Sleep(time.Second / 2)
				for len(p.out) > 0 {
					p.get(t)
				}
			}
			if n := len(p.handled()); n > 4*2 { // the first of them is given up within 93 seconds
				t.Errorf("%d requests were handled", n)
			}
		},
	})
}

// TestManyPeers has the row "unfinished from 1,000 peers": what they began is bounded while they are silent, is forgotten in time, and whoever needs no blocks
// is served meanwhile.
func TestManyPeers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const memory = 256 << 10
		good := begin(t, func(o *Options, _ *peer) { o.Memory = memory }, echo)
		var served sync.WaitGroup
		var silent []*peer
		refused := 0
		for range 1000 {
			p := &peer{in: make(chan []byte), out: make(chan []byte, 2), payload: 1186}
			served.Go(func() { good.server.Serve(t.Context(), p, Handler{}) })
			silent = append(silent, p)
			if a := p.ask(t, p.post(strings.Repeat("x", 1024), block(wire.Block1, 0, true, 6))); a.Code == wire.ServiceUnavailable {
				refused++
			}
		}
		if n := good.server.Held(); n > memory || refused != 1000-memory/1024 {
			t.Errorf("%d octets are held of %d, and %d peers were told to come again", n, memory, refused)
		}
		if a := good.ask(t, good.post("a reading")); a.Code != wire.Changed {
			t.Errorf("a good client is answered by %+v", a)
		}
		time.Sleep(transferLife + 2*time.Second)
		synctest.Wait()
		if n := good.server.Held(); n != 0 {
			t.Errorf("%d octets are held after the transfers' time", n)
		}
		if a := good.ask(t, good.post(strings.Repeat("x", 1024), block(wire.Block1, 0, true, 6))); a.Code != wire.Continue {
			t.Errorf("a good client's transfer is answered by %+v", a)
		}
		for _, p := range silent {
			close(p.in)
		}
		served.Wait()
	})
}
