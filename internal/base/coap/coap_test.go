package coap

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"mooring/internal/base/errs"
	"mooring/internal/base/web"
	wire "mooring/wire/coap"
)

// peer is a client at the other end of a conn in memory.
type peer struct {
	in, out  chan []byte
	drain    chan struct{}
	mu       sync.Mutex
	at       netip.AddrPort // guarded by mu: where it was last
	proven   netip.AddrPort // guarded by mu: where it was shown to be
	refuse   bool           // guarded by mu
	drops    int            // guarded by mu
	idle     time.Duration  // guarded by mu
	written  func()         // guarded by mu, which it is called with; nil: nothing happens
	payload  int
	more     func(*Handler) // changes how it is served; nil: it does not
	server   *Server
	refusals []string // guarded by mu
	calls    []string // guarded by mu: bodies that a handler saw
	next     uint16
}

func (p *peer) Read(b []byte) (int, error) {
	d, ok := <-p.in
	if !ok {
		return 0, io.EOF
	}
	return copy(b, d), nil
}

func (p *peer) Write(b []byte) (int, error) {
	p.out <- bytes.Clone(b)
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.written != nil {
		p.written()
	}
	return len(b), nil
}
func (p *peer) Payload() int { return p.payload }
func (p *peer) Allow() bool  { p.mu.Lock(); defer p.mu.Unlock(); return !p.refuse }
func (p *peer) Moved() (netip.AddrPort, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.at, p.at != p.proven
}
func (p *peer) Prove(at netip.AddrPort)   { p.mu.Lock(); defer p.mu.Unlock(); p.proven = at }
func (p *peer) Draining() <-chan struct{} { return p.drain }
func (p *peer) Drop()                     { p.mu.Lock(); defer p.mu.Unlock(); p.drops++ }
func (p *peer) Idle(d time.Duration)      { p.mu.Lock(); defer p.mu.Unlock(); p.idle = d }

// move has the next datagrams come from, and go to, port.
func (p *peer) move(port uint16) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.at = netip.AddrPortFrom(netip.IPv6Loopback(), port)
}

func (p *peer) set(flag *bool, to bool) { p.mu.Lock(); defer p.mu.Unlock(); *flag = to }

func (p *peer) handled() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]string(nil), p.calls...)
}

// begin serves handle in memory within a bubble of time.
func begin(t *testing.T, change func(*Options, *peer), handle func(r *Request) Response) *peer {
	t.Helper()
	p := &peer{in: make(chan []byte), out: make(chan []byte, 100), drain: make(chan struct{}), payload: 1186}
	o := Options{Surface: "coaps", Body: 4096, Memory: 1 << 20, Now: time.Now, Log: slog.New(slog.DiscardHandler), Counters: &web.Counters{}}
	if change != nil {
		change(&o, p)
	}
	p.server = NewServer(o)
	ended := make(chan struct{})
	go func() {
		h := Handler{
			Answer: func(_ context.Context, r *Request) Response {
				p.mu.Lock()
				p.calls = append(p.calls, string(r.Body))
				p.mu.Unlock()
				return handle(r)
			},
			Refused: func(_ context.Context, path string, err error) {
				p.mu.Lock()
				p.refusals = append(p.refusals, path+": "+errs.Public(err))
				p.mu.Unlock()
			},
		}
		if p.more != nil {
			p.more(&h)
		}
		p.server.Serve(t.Context(), p, h)
		close(ended)
	}()
	t.Cleanup(func() {
		close(p.in)
		<-ended
		if n := p.server.Held(); n != 0 {
			t.Errorf("%d octets are still accounted for", n)
		}
	})
	return p
}

// echo answers with what was sent.
func echo(r *Request) Response {
	return Response{Code: wire.Changed, Format: wire.TextPlain, Body: r.Body, Route: "echo"}
}

func (p *peer) put(m *wire.Message) {
	p.in <- m.Append(nil)
}

// post is a request with an ID of its own.
func (p *peer) post(payload string, options ...wire.Option) *wire.Message {
	p.next++
	return &wire.Message{Code: wire.POST, ID: p.next, Token: fmt.Appendf(nil, "t%d", p.next), Options: append(wire.PathOptions("/x"), options...), Payload: []byte(payload)}
}

// get takes the next message that was sent, which is there without anybody doing anything.
func (p *peer) get(t *testing.T) *wire.Message {
	t.Helper()
	synctest.Wait()
	select {
	case b := <-p.out:
		m, err := wire.Parse(b)
		if err != nil {
			t.Fatal(err)
		}
		return m
	default:
		t.Fatal("nothing was sent")
		return nil
	}
}

// pinged takes a ping, and returns its ID.
func (p *peer) pinged(t *testing.T) uint16 {
	t.Helper()
	m := p.get(t)
	if m.Type != wire.Confirmable || m.Code != wire.Empty {
		t.Fatalf("sent %+v to an address that is not proven, want a ping", m)
	}
	p.nothing(t)
	return m.ID
}

func (p *peer) nothing(t *testing.T) {
	t.Helper()
	synctest.Wait()
	if len(p.out) != 0 {
		t.Errorf("was sent: %+v", p.get(t))
	}
}

// ask sends a request and takes the answer, which must belong to it.
func (p *peer) ask(t *testing.T, m *wire.Message) *wire.Message {
	t.Helper()
	p.put(m)
	a := p.get(t)
	if a.Type != wire.Acknowledgement || a.ID != m.ID || !bytes.Equal(a.Token, m.Token) {
		t.Errorf("answered by %+v, want an acknowledgement of %d with the token %s", a, m.ID, m.Token)
	}
	return a
}

func block(n wire.Number, num uint32, more bool, szx uint8) wire.Option {
	return wire.Option{Number: n, Value: wire.Block{Num: num, More: more, SZX: szx}.Value()}
}

func tag(text string) wire.Option { return wire.Option{Number: wire.RequestTag, Value: []byte(text)} }

// blockOf reads a block option of an answer.
func blockOf(t *testing.T, m *wire.Message, n wire.Number) wire.Block {
	t.Helper()
	value, ok := m.Options.Get(n)
	if !ok {
		t.Fatalf("%+v has no option %d", m, n)
	}
	b, err := wire.ParseBlock(value)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// cases runs each case in a bubble of time.
func cases(t *testing.T, all map[string]func(t *testing.T)) {
	for name, run := range all {
		t.Run(name, func(t *testing.T) { synctest.Test(t, run) })
	}
}

func TestMessages(t *testing.T) {
	cases(t, map[string]func(t *testing.T){
		"duplicate CON answered from cache": func(t *testing.T) {
			p := begin(t, nil, echo)
			m := p.post("once")
			first := p.ask(t, m)
			time.Sleep(200 * time.Second)
			if again := p.ask(t, m); string(again.Payload) != string(first.Payload) || again.Code != wire.Changed {
				t.Errorf("answered %+v, before %+v", again, first)
			}
			if n := len(p.handled()); n != 1 {
				t.Errorf("handled %d times", n)
			}
			time.Sleep(exchangeLifetime)
			p.ask(t, m)
			if n := len(p.handled()); n != 2 {
				t.Errorf("after its lifetime handled %d times, want 2", n)
			}
		},
		"NON requests": func(t *testing.T) {
			p := begin(t, nil, echo)
			m := p.post("non")
			m.Type = wire.NonConfirmable
			p.put(m)
			if a := p.get(t); a.Type != wire.NonConfirmable || a.Code != wire.Changed || string(a.Payload) != "non" || !bytes.Equal(a.Token, m.Token) {
				t.Errorf("answered by %+v", a)
			}
			p.put(m)
			p.nothing(t)
			if n := len(p.handled()); n != 1 {
				t.Errorf("handled %d times", n)
			}
		},
		"slow CA: empty ACK then CON": func(t *testing.T) {
			p := begin(t, nil, func(r *Request) Response { time.Sleep(5 * time.Second); return echo(r) })
			m := p.post("slow")
			p.put(m)
			p.nothing(t)
			time.Sleep(time.Second)
			if a := p.get(t); a.Type != wire.Acknowledgement || a.Code != wire.Empty || a.ID != m.ID {
				t.Errorf("acknowledged by %+v", a)
			}
			if a := func() *wire.Message { p.put(m); return p.get(t) }(); a.Code != wire.Empty || a.Type != wire.Acknowledgement {
				t.Errorf("asked again: %+v", a)
			}
			time.Sleep(4 * time.Second)
			answer := p.get(t)
			if answer.Type != wire.Confirmable || answer.Code != wire.Changed || string(answer.Payload) != "slow" || !bytes.Equal(answer.Token, m.Token) {
				t.Errorf("answered by %+v", answer)
			}
			time.Sleep(3 * time.Second)
			if again := p.get(t); again.ID != answer.ID {
				t.Errorf("sent again as %+v", again)
			}
			p.put(&wire.Message{Type: wire.Acknowledgement, ID: answer.ID})
			time.Sleep(time.Minute)
			p.nothing(t)
		},
		"an answer that nobody acknowledges is given up": func(t *testing.T) {
			p := begin(t, nil, func(r *Request) Response { time.Sleep(2 * time.Second); return echo(r) })
			p.put(p.post("lost"))
			time.Sleep(10 * time.Minute)
			synctest.Wait()
			if n := len(p.out); n != 1+1+maxRetransmit {
				t.Errorf("%d messages were sent, want an acknowledgement and %d answers", n, 1+maxRetransmit)
			}
		},
		"very slow: 5.03 Max-Age then identical request": func(t *testing.T) {
			p := begin(t, func(o *Options, _ *peer) { o.Piggyback = time.Minute }, func(r *Request) Response { time.Sleep(25 * time.Second); return echo(r) })
			m := p.post("very slow")
			p.put(m)
			time.Sleep(20 * time.Second)
			a := p.get(t)
			if age, ok := a.Options.Uint(wire.MaxAge); a.Code != wire.ServiceUnavailable || !ok || age != 10 {
				t.Errorf("answered by %+v", a)
			}
			time.Sleep(10 * time.Second)
			if a := p.ask(t, p.post("very slow", tag("another"))); a.Code != wire.Changed || string(a.Payload) != "very slow" {
				t.Errorf("the same request is answered by %+v", a)
			}
			if n := len(p.handled()); n != 1 {
				t.Errorf("handled %d times", n)
			}
		},
		"ping": func(t *testing.T) {
			p := begin(t, nil, echo)
			p.put(&wire.Message{ID: 7})
			if a := p.get(t); a.Type != wire.Reset || a.ID != 7 {
				t.Errorf("answered by %+v", a)
			}
		},
		"what is no request": func(t *testing.T) {
			p := begin(t, nil, echo)
			p.in <- []byte("junk")
			p.in <- []byte{0x50, 0x45, 0, 1}                        // NON, 2.05
			p.put(&wire.Message{Type: wire.Acknowledgement, ID: 4}) // of nothing
			p.put(&wire.Message{Type: wire.Reset, ID: 4})           // of nothing
			p.put(&wire.Message{Type: wire.NonConfirmable})         // empty
			p.in <- []byte{0x50, 2, 0, 1, 0xff}                     // NON, malformed
			p.nothing(t)
			p.in <- []byte{0x40, 2, 0, 9, 0xff} // CON, malformed
			if a := p.get(t); a.Type != wire.Reset || a.ID != 9 {
				t.Errorf("answered by %+v", a)
			}
			p.in <- []byte{0x40, 0x45, 0, 8} // CON, 2.05
			if a := p.get(t); a.Type != wire.Reset || a.ID != 8 {
				t.Errorf("answered by %+v", a)
			}
		},
		"unknown critical option 4.02": func(t *testing.T) {
			p := begin(t, nil, echo)
			for _, o := range []wire.Option{{Number: 9}, {Number: wire.IfMatch}, {Number: 65001, Value: []byte("x")}, {Number: wire.Accept, Value: []byte("abc")}, {Number: wire.URIHost}} {
				if a := p.ask(t, p.post("x", o)); a.Code != wire.BadOption {
					t.Errorf("option %d: %+v", o.Number, a)
				}
			}
			if a := p.ask(t, p.post("x", wire.UintOption(wire.Accept, 1), wire.UintOption(wire.Accept, 1))); a.Code != wire.BadOption {
				t.Errorf("Accept twice: %+v", a)
			}
			for _, o := range []wire.Option{{Number: 10}, {Number: wire.Observe}, {Number: wire.ContentFormat, Value: []byte("abc")}, {Number: wire.NoResponse, Value: []byte{8}}} {
				if a := p.ask(t, p.post("x", o)); a.Code != wire.Changed {
					t.Errorf("elective option %d: %+v", o.Number, a)
				}
			}
			if a := p.ask(t, p.post("x", wire.Option{Number: wire.ProxyURI, Value: []byte("coap://x")})); a.Code != wire.ProxyingUnsupported {
				t.Errorf("Proxy-Uri: %+v", a)
			}
			m := p.post("x", wire.Option{Number: 9})
			m.Type = wire.NonConfirmable
			p.put(m)
			if a := p.get(t); a.Type != wire.Reset {
				t.Errorf("NON with an unknown critical option: %+v", a)
			}
			if n := len(p.refusals); n != 8 || !strings.HasPrefix(p.refusals[0], "/x: the option 9 is critical") {
				t.Errorf("told of %d refusals: %q", n, p.refusals)
			}
		},
		"rate": func(t *testing.T) {
			p := begin(t, nil, echo)
			p.set(&p.refuse, true)
			a := p.ask(t, p.post("x"))
			if age, _ := a.Options.Uint(wire.MaxAge); a.Code != wire.TooManyRequests || age != 1 {
				t.Errorf("answered by %+v", a)
			}
			// What was begun goes on.
			p.set(&p.refuse, false)
			p.ask(t, p.post("0123456789abcdef", block(wire.Block1, 0, true, 0)))
			p.set(&p.refuse, true)
			if a := p.ask(t, p.post("x", block(wire.Block1, 1, false, 0))); a.Code != wire.Changed {
				t.Errorf("the next block is answered by %+v", a)
			}
		},
		"rate of what asks for later blocks": func(t *testing.T) {
			large := strings.Repeat("large ", 50)
			p := begin(t, nil, func(*Request) Response { return Response{Code: wire.Content, Body: []byte(large)} })
			get := func(num uint32) *wire.Message {
				m := p.post("", block(wire.Block2, num, false, 2))
				m.Code = wire.GET
				return m
			}
			p.set(&p.refuse, true)
			for name, m := range map[string]*wire.Message{
				"a whole body":          p.post("x", block(wire.Block2, 1, false, 2), block(wire.Block1, 0, false, 2)),
				"an answer that is not": get(1),
			} {
				if a := p.ask(t, m); a.Code != wire.TooManyRequests {
					t.Errorf("%s: answered by %+v", name, a)
				}
			}
			if a := p.ask(t, p.post("", block(wire.Block2, 1, false, 2))); a.Code != wire.EntityIncomplete {
				t.Errorf("the rest of what POST never began: answered by %+v", a)
			}
			if n := p.handled(); len(n) != 0 {
				t.Errorf("handled %q over the rate", n)
			}
			p.set(&p.refuse, false)
			p.ask(t, get(0))
			p.set(&p.refuse, true)
			if a := p.ask(t, get(1)); a.Code != wire.Content || string(a.Payload) != large[64:128] {
				t.Errorf("the rest of what was begun is answered by %+v", a)
			}
			p.mu.Lock()
			defer p.mu.Unlock()
			if len(p.refusals) != 0 {
				t.Errorf("told of %q: what is over the rate would fill the record", p.refusals)
			}
		},
		"requests at once": func(t *testing.T) {
			p := begin(t, nil, func(r *Request) Response { time.Sleep(500 * time.Millisecond); return echo(r) })
			for i := range maxCalls {
				p.put(p.post(fmt.Sprint(i)))
			}
			if a := p.ask(t, p.post("one more")); a.Code != wire.ServiceUnavailable {
				t.Errorf("answered by %+v", a)
			}
			time.Sleep(time.Second)
			for range maxCalls {
				if a := p.get(t); a.Code != wire.Changed {
					t.Errorf("answered by %+v", a)
				}
			}
		},
		"a panic": func(t *testing.T) {
			p := begin(t, nil, func(*Request) Response { panic("oh") })
			if a := p.ask(t, p.post("x")); a.Code != wire.InternalServerError || string(a.Payload) != "internal error" {
				t.Errorf("answered by %+v", a)
			}
		},
		"address change": func(t *testing.T) {
			large := strings.Repeat("large ", 50)
			p := begin(t, nil, func(r *Request) Response { return Response{Code: wire.Content, Body: []byte(large)} })
			p.move(1)
			m := p.post("x")
			p.put(m)
			first := p.pinged(t)
			p.put(&wire.Message{Type: wire.Reset, ID: first + 1}) // of something else
			p.nothing(t)
			p.put(&wire.Message{Type: wire.Reset, ID: first})
			second := p.pinged(t)
			p.put(&wire.Message{Type: wire.Reset, ID: first}) // it came twice
			p.nothing(t)
			p.put(&wire.Message{Type: wire.Reset, ID: second})
			if a := p.get(t); string(a.Payload) != large || a.ID != m.ID {
				t.Errorf("answered by %+v", a)
			}
			p.move(2)                                                                                                               // what is small is answered all the same
			if a := p.ask(t, p.post("short", block(wire.Block1, 0, true, 0), wire.Option{Number: 10})); a.Code != wire.BadRequest { // not full
				t.Errorf("answered by %+v", a)
			}
		},
		"an address where the client is not": func(t *testing.T) {
			large := strings.Repeat("large ", 50)
			p := begin(t, nil, func(r *Request) Response { return Response{Code: wire.Content, Body: []byte(large)} })
			reset := func(id uint16) { p.put(&wire.Message{Type: wire.Reset, ID: id}) }
			m := p.post("x")
			m.Type = wire.NonConfirmable
			p.put(m)
			known := p.get(t).ID
			p.move(1)
			p.put(p.post("x"))
			if ping := p.pinged(t); ping == known+1 { // one in 65536 is so by chance, two of two are not
				reset(ping)
				if next := p.pinged(t); next == known+2 {
					t.Errorf("the pings follow upon %d, which the client has seen", known)
				}
			}
			// What was learned at an address of the client's own is worth nothing at another.
			p.move(2)
			p.put(p.post("y"))
			reset(p.pinged(t))
			last := p.pinged(t)
			p.move(3)
			reset(last)
			p.nothing(t)
			p.put(p.post("z"))
			ping := p.pinged(t)
			for range maxWrong - 1 { // with the one above
				reset(ping + 1)
			}
			reset(ping) // too late
			p.nothing(t)
			p.put(p.post("at once"))
			p.nothing(t)
			p.move(4)
			p.put(p.post("from elsewhere"))
			p.nothing(t)
			time.Sleep(proofPause)
			m = p.post("later")
			p.put(m)
			reset(p.pinged(t))
			reset(p.pinged(t))
			if a := p.get(t); string(a.Payload) != large || a.ID != m.ID {
				t.Errorf("after a pause answered by %+v", a)
			}
		},
		"a ping that may have gone elsewhere": func(t *testing.T) {
			large := strings.Repeat("large ", 50)
			p := begin(t, nil, func(r *Request) Response { return Response{Code: wire.Content, Body: []byte(large)} })
			p.move(1)
			p.mu.Lock()
			p.written = func() { p.at, p.written = netip.AddrPortFrom(netip.IPv6Loopback(), 2), nil }
			p.mu.Unlock()
			p.put(p.post("x"))
			ping := p.pinged(t)
			p.move(1)
			for range proofPings {
				p.put(&wire.Message{Type: wire.Reset, ID: ping})
				p.nothing(t)
			}
		},
		"draining": func(t *testing.T) {
			p := begin(t, nil, func(r *Request) Response { time.Sleep(3 * time.Second); return echo(r) })
			m := p.post("last")
			p.put(m)
			close(p.drain)
			time.Sleep(1500 * time.Millisecond)
			if a := p.get(t); a.Code != wire.Empty {
				t.Errorf("acknowledged by %+v", a)
			}
			time.Sleep(2 * time.Second)
			a := p.get(t)
			if a.Code != wire.Changed {
				t.Errorf("answered by %+v", a)
			}
			p.put(&wire.Message{Type: wire.Acknowledgement, ID: a.ID})
		},
	})
}

func TestBlocks(t *testing.T) {
	body := strings.Repeat("0123456789abcdef", 64) // 1024 octets
	// upload sends blocks of a body from first to last and returns the last answer.
	upload := func(t *testing.T, p *peer, szx uint8, first, last uint32, more bool, options ...wire.Option) *wire.Message {
		t.Helper()
		var a *wire.Message
		size := uint32(16) << szx
		for n := first; n <= last; n++ {
			final := n == last && !more
			a = p.ask(t, p.post(body[n*size:(n+1)*size], append([]wire.Option{block(wire.Block1, n, !final, szx)}, options...)...))
			if !final && a.Code != wire.Continue {
				return a
			}
			if a.Code == wire.Continue {
				if b := blockOf(t, a, wire.Block1); b.Num != n || !b.More {
					t.Errorf("block %d is acknowledged as %+v", n, b)
				}
			}
		}
		return a
	}
	cases(t, map[string]func(t *testing.T){
		"Block1 sizes 16 to 1024": func(t *testing.T) {
			for szx := range uint8(7) {
				p := begin(t, nil, func(r *Request) Response { return Response{Code: wire.Changed, Body: []byte(fmt.Sprint(len(r.Body)))} })
				a := upload(t, p, szx, 0, 1024/(16<<szx)-1, false)
				if b := blockOf(t, a, wire.Block1); a.Code != wire.Changed || string(a.Payload) != "1024" || b.More {
					t.Errorf("size %d: %+v, %+v", 16<<szx, a, b)
				}
				if got := p.handled(); len(got) != 1 || got[0] != body {
					t.Errorf("size %d: handled %d bodies", 16<<szx, len(got))
				}
			}
		},
		"out of order (4.08)": func(t *testing.T) {
			p := begin(t, nil, echo)
			upload(t, p, 2, 0, 1, true)
			if a := p.ask(t, p.post(body[:64], block(wire.Block1, 3, true, 2))); a.Code != wire.EntityIncomplete {
				t.Errorf("block 3 after block 1: %+v", a)
			}
			if a := p.ask(t, p.post(body[:64], block(wire.Block1, 2, true, 2))); a.Code != wire.EntityIncomplete {
				t.Errorf("block 2 after that: %+v", a)
			}
			if a := p.ask(t, p.post(body[:64], block(wire.Block1, 15, false, 2))); a.Code != wire.EntityIncomplete || len(p.handled()) != 0 {
				t.Errorf("the last block alone: %+v, handled %q", a, p.handled())
			}
		},
		"restarted at 0": func(t *testing.T) {
			p := begin(t, nil, echo)
			upload(t, p, 2, 0, 5, true)
			if a := upload(t, p, 5, 0, 1, false); a.Code != wire.Changed || len(p.handled()) != 1 || p.handled()[0] != body {
				t.Errorf("answered by %+v", a)
			}
		},
		"token changed per block": func(t *testing.T) {
			p := begin(t, nil, echo)
			// A fresh token for each block, as libcoap has them; then one for two bodies at once, which it does not make one.
			for n, token := range []string{"a", "bb", "", "dddd"} {
				m := p.post(body[n*256:(n+1)*256], block(wire.Block1, uint32(n), n < 3, 4))
				m.Token = []byte(token)
				if a := p.ask(t, m); n < 3 && a.Code != wire.Continue || n == 3 && a.Code != wire.Changed {
					t.Errorf("block %d with the token %q: %+v", n, token, a)
				}
			}
			for n := range 4 {
				for _, of := range []string{"x", "y"} {
					m := p.post(strings.Repeat(of, 256), block(wire.Block1, uint32(n), n < 3, 4), tag(of))
					m.Token = []byte("same")
					p.ask(t, m)
				}
			}
			if got := p.handled(); len(got) != 3 || got[0] != body || got[1] != strings.Repeat("x", 1024) || got[2] != strings.Repeat("y", 1024) {
				t.Errorf("handled %q", got)
			}
		},
		"two transfers at once with different Request-Tag": func(t *testing.T) {
			p := begin(t, nil, echo)
			upload(t, p, 4, 0, 1, true, tag("a"))
			upload(t, p, 5, 0, 0, true, tag("b"))
			if a := upload(t, p, 4, 2, 3, false, tag("a")); a.Code != wire.Changed {
				t.Errorf("the first: %+v", a)
			}
			if a := upload(t, p, 5, 1, 1, false, tag("b")); a.Code != wire.Changed {
				t.Errorf("the second: %+v", a)
			}
			if got := p.handled(); len(got) != 2 || got[0] != body || got[1] != body {
				t.Errorf("handled %d bodies", len(got))
			}
			upload(t, p, 4, 0, 1, true, tag("a"))
			upload(t, p, 4, 0, 1, true, tag("b"))
			if a := p.ask(t, p.post(body[:256], block(wire.Block1, 0, true, 4), tag("c"))); a.Code != wire.ServiceUnavailable {
				t.Errorf("a third: %+v", a)
			}
		},
		"abandoned (timeout)": func(t *testing.T) {
			p := begin(t, nil, echo)
			upload(t, p, 4, 0, 1, true, tag("a"))
			upload(t, p, 4, 0, 1, true, tag("b"))
			if n := p.server.Held(); n != 1024 {
				t.Errorf("%d octets are held, want 1024", n)
			}
			time.Sleep(transferLife + time.Second)
			if a := p.ask(t, p.post(body[:256], block(wire.Block1, 2, true, 4), tag("a"))); a.Code != wire.EntityIncomplete {
				t.Errorf("the next block: %+v", a)
			}
			if n := p.server.Held(); n != 0 {
				t.Errorf("%d octets are held after the timeout", n)
			}
		},
		"abandoned (memory cap)": func(t *testing.T) {
			p := begin(t, func(o *Options, _ *peer) { o.Memory = 1000 }, echo)
			upload(t, p, 4, 0, 2, true, tag("a"))
			a := p.ask(t, p.post(body[:256], block(wire.Block1, 0, true, 4), tag("b")))
			if _, ok := a.Options.Uint(wire.MaxAge); a.Code != wire.ServiceUnavailable || !ok {
				t.Errorf("over the cap: %+v", a)
			}
			if a := p.ask(t, p.post("small", tag("c"))); a.Code != wire.Changed {
				t.Errorf("without blocks: %+v", a)
			}
		},
		"Size1 lying": func(t *testing.T) {
			p := begin(t, nil, echo)
			if a := upload(t, p, 4, 0, 3, false, wire.UintOption(wire.Size1, 3)); a.Code != wire.Changed || p.handled()[0] != body {
				t.Errorf("too small: %+v", a)
			}
			if a := upload(t, p, 4, 0, 3, false, wire.UintOption(wire.Size1, 4000)); a.Code != wire.Changed {
				t.Errorf("too large: %+v", a)
			}
			a := p.ask(t, p.post(body[:256], block(wire.Block1, 0, true, 4), wire.UintOption(wire.Size1, 1<<31)))
			if size, _ := a.Options.Uint(wire.Size1); a.Code != wire.EntityTooLarge || size != 4096 {
				t.Errorf("over the limit: %+v", a)
			}
			if n := p.server.Held(); n != 0 {
				t.Errorf("%d octets are held", n)
			}
		},
		"oversize 4.13": func(t *testing.T) {
			p := begin(t, func(o *Options, _ *peer) { o.Body = 1000 }, echo)
			a := upload(t, p, 4, 0, 3, false)
			if size, _ := a.Options.Uint(wire.Size1); a.Code != wire.EntityTooLarge || size != 1000 {
				t.Errorf("in blocks: %+v", a)
			}
			if a := p.ask(t, p.post(body)); a.Code != wire.EntityTooLarge {
				t.Errorf("in one message: %+v", a)
			}
			if len(p.handled()) != 0 || len(p.refusals) != 2 || p.server.Held() != 0 {
				t.Errorf("handled %q, told %q, held %d", p.handled(), p.refusals, p.server.Held())
			}
		},
		"SZX 7": func(t *testing.T) {
			p := begin(t, nil, echo)
			for _, n := range []wire.Number{wire.Block1, wire.Block2} {
				if a := p.ask(t, p.post("x", wire.Option{Number: n, Value: []byte{7}})); a.Code != wire.BadRequest {
					t.Errorf("option %d: %+v", n, a)
				}
			}
		},
		"smaller blocks are asked for": func(t *testing.T) {
			p := begin(t, func(_ *Options, p *peer) { p.payload = 400 }, echo)
			a := p.ask(t, p.post(body[:1024], block(wire.Block1, 0, true, 6)))
			if b := blockOf(t, a, wire.Block1); b.SZX != 4 || b.Num != 0 || !b.More {
				t.Errorf("acknowledged as %+v, want blocks of 256", b)
			}
			// RFC 7959, section 2.5: the client goes on where it is, in the smaller unit.
			a = p.ask(t, p.post("the end", block(wire.Block1, 4, false, 4)))
			if b := blockOf(t, a, wire.Block2); a.Code != wire.Changed || b.SZX != 4 || !b.More {
				t.Errorf("answered by %+v, %+v", a, b)
			}
		},
		"the last block comes again": func(t *testing.T) {
			p := begin(t, nil, echo)
			upload(t, p, 4, 0, 1, true)
			if a := p.ask(t, p.post(body[256:512], block(wire.Block1, 1, true, 4))); a.Code != wire.Continue {
				t.Errorf("answered by %+v", a)
			}
			if a := upload(t, p, 4, 2, 3, false); a.Code != wire.Changed || p.handled()[0] != body {
				t.Errorf("answered by %+v", a)
			}
		},
		"Block2 with early size negotiation and ETag": func(t *testing.T) {
			for szx := range uint8(7) {
				p := begin(t, nil, func(r *Request) Response { return Response{Code: wire.Content, Format: 281, Body: []byte(body + "!")} })
				var got, etag []byte
				for n := uint32(0); ; n++ {
					m := p.post("", block(wire.Block2, n, false, szx))
					m.Code = wire.GET
					a := p.ask(t, m)
					b := blockOf(t, a, wire.Block2)
					tag, ok := a.Options.Get(wire.ETag)
					if b.Num != n || b.SZX != szx || !ok || n > 0 && !bytes.Equal(tag, etag) {
						t.Fatalf("size %d, block %d: %+v, ETag %x, before %x", 16<<szx, n, b, tag, etag)
					}
					if size, ok := a.Options.Uint(wire.Size2); ok != (n == 0) || ok && size != 1025 {
						t.Errorf("Size2 %d, %v", size, ok)
					}
					etag, got = tag, append(got, a.Payload...)
					if !b.More {
						break
					}
				}
				if string(got) != body+"!" {
					t.Errorf("size %d: %d octets", 16<<szx, len(got))
				}
				if n := len(p.handled()); n != 1 {
					t.Errorf("size %d: handled %d times", 16<<szx, n)
				}
				fresh := p.post("", wire.Option{Number: wire.ETag, Value: etag})
				fresh.Code = wire.GET
				if a := p.ask(t, fresh); a.Code != wire.Valid || len(a.Payload) != 0 {
					t.Errorf("with the ETag: %+v", a)
				}
			}
		},
		"Block2 continuation of a POST does not act twice": func(t *testing.T) {
			p := begin(t, nil, func(r *Request) Response { return Response{Code: wire.Changed, Format: 281, Body: []byte(body + body)} })
			a := upload(t, p, 5, 0, 1, false, tag("r"), wire.UintOption(wire.ContentFormat, 286), wire.UintOption(wire.Accept, 281))
			if b1, b2 := blockOf(t, a, wire.Block1), blockOf(t, a, wire.Block2); b1.More || b1.Num != 1 || b2.Num != 0 || !b2.More || b2.SZX != 6 {
				t.Errorf("the final answer has the blocks %+v and %+v", b1, b2)
			}
			got := append([]byte(nil), a.Payload...)
			// With all options, without those that describe the body, and in smaller blocks.
			for _, options := range [][]wire.Option{
				{block(wire.Block2, 1, false, 6), tag("r"), wire.UintOption(wire.ContentFormat, 286), wire.UintOption(wire.Accept, 281)},
				{block(wire.Block2, 1, false, 6), wire.UintOption(wire.Accept, 281)},
			} {
				a = p.ask(t, p.post("", options...))
				if b := blockOf(t, a, wire.Block2); string(got)+string(a.Payload) != body+body || b.More {
					t.Errorf("the rest: %+v", a)
				}
			}
			if a = p.ask(t, p.post("", block(wire.Block2, 127, false, 0), wire.UintOption(wire.Accept, 281))); string(a.Payload) != body[1008:] {
				t.Errorf("in small blocks: %+v", a)
			}
			if a = p.ask(t, p.post("", block(wire.Block2, 2, false, 6), wire.UintOption(wire.Accept, 281))); a.Code != wire.BadRequest {
				t.Errorf("past the end: %+v", a)
			}
			if n := len(p.handled()); n != 1 {
				t.Errorf("handled %d times", n)
			}
			time.Sleep(transferLife + time.Second)
			if a = p.ask(t, p.post("", block(wire.Block2, 1, false, 6), wire.UintOption(wire.Accept, 281))); a.Code != wire.EntityIncomplete || len(p.handled()) != 1 {
				t.Errorf("when it is forgotten: %+v, handled %d times", a, len(p.handled()))
			}
		},
		"answers in blocks are bounded": func(t *testing.T) {
			p := begin(t, func(o *Options, _ *peer) { o.Memory = 3000 }, func(r *Request) Response { return Response{Code: wire.Changed, Body: []byte(body + "!")} })
			for i := range 5 {
				if a := p.ask(t, p.post("x", tag(fmt.Sprint(i)))); a.Code != wire.Changed {
					t.Errorf("answered by %+v", a)
				}
				if n := p.server.Held(); n > 2*1025 {
					t.Errorf("%d octets are held", n)
				}
			}
		},
	})
}

func TestCodesAreComplete(t *testing.T) {
	seen := map[wire.Code]errs.Kind{}
	for _, k := range errs.Kinds() {
		code := Code(errs.New(k, "x"))
		if other, twice := seen[code]; twice {
			t.Errorf("%v and %v are both %s", k, other, code)
		}
		seen[code] = k
	}
	if Code(errors.New("x")) != wire.InternalServerError {
		t.Error("an error without a kind is not internal")
	}
	long := RefuseAs(wire.BadRequest, strings.Repeat("ü", 150))
	if len(long.Body) > maxReason || string(long.Body) != strings.Repeat("ü", 100) {
		t.Errorf("the reason has %d octets: %q", len(long.Body), long.Body)
	}
}
