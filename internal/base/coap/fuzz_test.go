package coap

import (
	"context"
	"io"
	"log/slog"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	wire "mooring/wire/coap"
)

// script is a client that sends what a fuzzer wrote: each datagram after an octet of its length, or with 255 lets time pass.
type script struct {
	rest []byte
	t    *testing.T
	mu   sync.Mutex
	sent int // guarded by mu
}

func (s *script) Read(b []byte) (int, error) {
	for len(s.rest) > 0 {
		n := int(s.rest[0])
		s.rest = s.rest[1:]
		if n == 255 {
			time.Sleep(20 * time.Second)
			continue
		}
		n = copy(b, s.rest[:min(n, len(s.rest))])
		s.rest = s.rest[n:]
		synctest.Wait()
		return n, nil
	}
	time.Sleep(5 * time.Minute) // for what is on its way, and what is kept
	return 0, io.EOF
}

func (s *script) Write(b []byte) (int, error) {
	if _, err := wire.Parse(b); err != nil || len(b) > s.Payload() {
		s.t.Errorf("sent %x, %v", b, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sent++
	return len(b), nil
}

func (s *script) Payload() int                  { return 256 }
func (s *script) Allow() bool                   { return true }
func (s *script) Moved() (netip.AddrPort, bool) { return netip.AddrPort{}, false }
func (s *script) Prove(netip.AddrPort)          {}
func (s *script) Draining() <-chan struct{}     { return nil }
func (s *script) Drop()                         {}
func (s *script) Idle(time.Duration)            {}

// FuzzServe has a client send anything: what it begins is bounded, what is sent can be read and fits, and nothing is left of it.
func FuzzServe(f *testing.F) {
	add := func(all ...*wire.Message) {
		var b []byte
		for _, m := range all {
			d := m.Append(nil)
			b = append(append(b, byte(len(d))), d...)
		}
		f.Add(b)
	}
	path := wire.PathOptions("/x")
	add(&wire.Message{Code: wire.POST, ID: 1, Options: append(path, block(wire.Block1, 0, true, 0)), Payload: []byte("0123456789abcdef")},
		&wire.Message{Code: wire.POST, ID: 2, Options: append(path, block(wire.Block1, 1, false, 0)), Payload: []byte("end")},
		&wire.Message{Code: wire.GET, ID: 3, Options: append(path, block(wire.Block2, 1, false, 0))})
	add(&wire.Message{Code: wire.GET, ID: 1, Token: []byte("t"), Options: append(path, wire.Option{Number: wire.Observe})}, &wire.Message{Type: wire.Reset, ID: 2},
		&wire.Message{Code: wire.GET, ID: 3, Token: []byte("t"), Options: append(path, wire.UintOption(wire.Observe, 1))}, &wire.Message{ID: 4})
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > 4096 {
			return
		}
		synctest.Test(t, func(t *testing.T) {
			const memory = 2000
			server := NewServer(Options{Surface: "coaps", Body: 1000, Memory: memory, Now: time.Now, Log: slog.New(slog.DiscardHandler)})
			server.Serve(t.Context(), &script{rest: b, t: t}, Handler{Distinct: func(path string) bool { return path == "/x" },
				Answer: func(_ context.Context, r *Request) Response {
					if n := server.Held(); n > memory {
						t.Errorf("%d octets are held", n)
					}
					if wish, said := r.Options.Uint(wire.Observe); said && wish == 0 {
						o, err := r.Observe(nil)
						if err != nil {
							return Refuse(err)
						}
						for _, size := range []int{1, 500} {
							o.Notify(Notice{Response: Response{Code: wire.Content, Body: make([]byte, size)}, Confirmable: size == 1, Newest: "x"})
						}
						return Response{Code: wire.Content, Observed: o}
					} else if said {
						r.Forget()
					}
					return Response{Code: wire.Changed, Body: append(r.Body, make([]byte, 100)...)}
				}})
			if n := server.Held(); n != 0 {
				t.Errorf("%d octets are still held", n)
			}
		})
	})
}
