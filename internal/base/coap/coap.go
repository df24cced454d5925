// Package coap answers CoAP requests (RFC 7252) that come over associations, such as those of DTLS: it is to CoAP what net/http and package web are to
// HTTP. A handler sees whole requests and gives whole answers.
//
// In between lie the message layer (messages.go): requests that come twice are answered twice and handled once, answers that take long are announced by
// an empty acknowledgement and sent when they are ready, and what takes longer than anybody waits is answered by 5.03 and goes on, so that the same
// request finds it done; and the block layer (blocks.go): bodies in blocks, in both directions (RFC 7959, RFC 9175).
//
// Whatever a client can make it hold is bounded: messages remembered, transfers begun, answers kept and observations of each association, and the octets of
// bodies of all of them together. How much waits to be told, whoever calls Notify bounds.
//
// A client whose address has changed is sent small messages only until it has answered a ping (RFC 9146, section 6; RFC 7252, section 4.3).
//
// The package deliberately knows no proxies, no multicast, and sends no requests.
package coap

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"runtime/debug"
	"strings"
	"sync/atomic"
	"time"

	"mooring/internal/base/errs"
	"mooring/internal/base/web"
	wire "mooring/wire/coap"
)

// Conn is an association with a client.
type Conn interface {
	// Read returns the next datagram; it is called by one goroutine.
	Read(b []byte) (int, error)
	// Write sends a datagram to where the client was last; many goroutines call it.
	Write(b []byte) (int, error)
	// Payload is how many octets a datagram may have.
	Payload() int
	// Allow reports whether the client may send one more request now.
	Allow() bool
	// Moved returns where the client was last, and whether nothing shows that it is there; Prove says that it has answered from there.
	Moved() (at netip.AddrPort, moved bool)
	Prove(at netip.AddrPort)
	// Draining returns a channel that is closed when the association should come to its end.
	Draining() <-chan struct{}
	// Drop ends the association at once; it does not block. Idle has it end when nothing came for d.
	Drop()
	Idle(d time.Duration)
}

// Request is a request whose body is complete.
type Request struct {
	Code        wire.Code
	Path        string
	Options     wire.Options
	Body        []byte
	Confirmable bool
	Client      *Client // who asks

	token []byte
}

// Response answers a request. The zero value is an internal error.
type Response struct {
	Code   wire.Code
	Format wire.Format // counts where there is a body and the code is one of success
	Body   []byte
	MaxAge time.Duration // 0: not said
	// Until is when it is of no use any more, and what is left until then its Max-Age; zero: it stays of use.
	Until time.Time
	// Options are further ones, which the client may do without. Observed, if not nil, is what the answer begins (Request.Observe).
	Options  wire.Options
	Observed *Observation
	// Route names what was asked for, in logs and counters: a fixed set of names. Err is why it was refused, if it was.
	Route string
	Err   error
	Attrs []slog.Attr
	Quiet bool // it is one of very many, and logged only when something is amiss here

	size1 int // > 0: how large a body may be
}

// NoFormat says that nothing is known of what a body is.
const NoFormat wire.Format = 1 << 16

// Handler answers the requests of one client.
type Handler struct {
	// Answer answers a request. Several run at once.
	Answer func(ctx context.Context, r *Request) Response
	// Refused is told of a request that was refused before it was complete; nil: nobody is.
	Refused func(ctx context.Context, path string, err error)
	// Ended is told, once nothing is being answered any more, that the association has ended: nil when the server stops, else why reading failed. nil: nobody is.
	Ended func(err error)
	// Limit says how many octets the body of a request for path may have; nil or 0: what Options.Body says.
	Limit func(path string) int
	// Distinct reports whether two requests for path that look the same are two. Otherwise the second waits for the answer of the first. nil: none are.
	Distinct func(path string) bool
}

// Options sets up a Server.
type Options struct {
	Surface string // "coaps": an attribute of each log line
	Body    int    // the largest body of a request, in octets
	Memory  int64  // octets of bodies that are held for all associations together
	// Piggyback is how long a request waits for its answer before it is acknowledged without; 0 means one second. Patience is how long it waits before it is
	// told to come again; 0 means 20 seconds. Again is when.
	Piggyback, Patience, Again time.Duration
	Now                        func() time.Time
	Log                        *slog.Logger
	Counters                   *web.Counters // nil: not counted
}

// Server serves associations. It is safe for concurrent use.
type Server struct {
	Options
	held    atomic.Int64 // octets, of Memory
	limited [len(limits)]atomic.Uint64
}

// The limits that a client can go over.
const (
	overRequests = iota
	overTransfers
	overMemory
	overObservations
	overSize
	overRate
)

// limits are their names in Limited.
var limits = [...]string{overRequests: "requests", overTransfers: "transfers", overMemory: "memory", overObservations: "observations", overSize: "size", overRate: "rate"}

// Limited returns how often clients went over a limit, by what it is of: requests, transfers or observations at once, memory, the size of a body, and the rate of an address.
func (s *Server) Limited() map[string]uint64 {
	all := make(map[string]uint64, len(limits))
	for i, name := range limits {
		all[name] = s.limited[i].Load()
	}
	return all
}

// NewServer returns a server.
func NewServer(o Options) *Server {
	o.Piggyback = cmp.Or(o.Piggyback, time.Second)
	o.Patience = cmp.Or(o.Patience, 20*time.Second)
	o.Again = cmp.Or(o.Again, 10*time.Second)
	return &Server{Options: o}
}

// Held returns how many octets of bodies are held now.
func (s *Server) Held() int64 { return s.held.Load() }

// take reserves n octets, or reports that there is no room.
func (s *Server) take(n int) bool {
	if s.held.Add(int64(n)) <= s.Memory {
		return true
	}
	s.give(n)
	return false
}

func (s *Server) give(n int) { s.held.Add(-int64(n)) }

// Code returns the code that answers err: the one table from kinds to codes.
func Code(err error) wire.Code {
	switch errs.KindOf(err) {
	case errs.Invalid:
		return wire.BadRequest
	case errs.Denied:
		return wire.Forbidden
	case errs.NotFound:
		return wire.NotFound
	case errs.Conflict:
		return wire.Conflict
	case errs.Limited:
		return wire.TooManyRequests
	case errs.Unavailable:
		return wire.ServiceUnavailable
	}
	return wire.InternalServerError
}

// maxReason keeps a refusal within one datagram of a constrained network.
const maxReason = 200

// Refuse answers with an error: a sentence of text (RFC 7252, section 5.5.2), and when to come again, if it says so.
func Refuse(err error) Response {
	r := RefuseAs(Code(err), errs.Public(err))
	r.Err = err
	r.MaxAge, _ = errs.RetryAfter(err)
	if r.MaxAge == 0 && r.Code == wire.ServiceUnavailable {
		r.MaxAge = time.Minute // RFC 7252, section 5.9.3.4 wants it said
	}
	return r
}

// RefuseAs answers with a code and a sentence.
func RefuseAs(code wire.Code, reason string) Response {
	if len(reason) > maxReason {
		reason = strings.ToValidUTF8(reason[:maxReason], "")
	}
	return Response{Code: code, Body: []byte(reason), Err: errs.New(errs.Invalid, "%s", reason)}
}

// call has a handler answer, survives its panic, and logs and counts what happened.
func (s *Server) call(ctx context.Context, handle func(context.Context, *Request) Response, r *Request) (out Response) {
	began := s.Now()
	defer func() {
		if p := recover(); p != nil {
			s.Log.LogAttrs(ctx, slog.LevelError, "a handler panicked", slog.String("surface", s.Surface), slog.String("panic", fmt.Sprint(p)), slog.String("stack", string(debug.Stack())))
			out = Refuse(errs.Wrap(errs.Internal, fmt.Errorf("panic: %v", p), "panic"))
		}
		s.finish(ctx, r.Code, &out, s.Now().Sub(began))
	}()
	return handle(ctx, r)
}

// finish logs and counts a request, as web.Observer does: nothing in the line was chosen by the client.
func (s *Server) finish(ctx context.Context, method wire.Code, out *Response, took time.Duration) {
	if out.Route == "" {
		out.Route = "unmatched"
	}
	s.Counters.Meter(out.Route, out.Code.Class()*100).Observe(took)
	level := slog.LevelInfo
	if kind := errs.KindOf(out.Err); out.Quiet && (out.Err == nil || kind != errs.Internal && kind != errs.Unavailable) {
		level = slog.LevelDebug
	}
	if !s.Log.Enabled(ctx, level) {
		return
	}
	attrs := []slog.Attr{slog.String("surface", s.Surface), slog.String("method", method.String()), slog.String("route", out.Route),
		slog.String("code", out.Code.String()), slog.Duration("took", took), slog.Int("octets", len(out.Body))}
	if out.Err != nil {
		kind := errs.KindOf(out.Err)
		attrs = append(attrs, slog.String("refused", kind.String()))
		if kind == errs.Internal || kind == errs.Unavailable { // the other texts may name what the client sent
			level = slog.LevelWarn
			attrs = append(attrs, slog.String("cause", out.Err.Error()))
		}
		if kind == errs.Internal && !(ctx.Err() != nil && errors.Is(out.Err, context.Canceled)) { // a client that went away is nobody's fault
			level = slog.LevelError
		}
	}
	s.Log.LogAttrs(ctx, level, "request", append(attrs, out.Attrs...)...)
}
