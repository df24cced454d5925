// Package mqtt serves MQTT 3.1.1 and MQTT 5.0 (OASIS) over TLS and over WebSocket, behind package gate.
//
// It ends the protocol and decides nothing: who the peer is comes from the registry by its certificate, and what it may say, hear and use from
// core/message. User name and password are not looked at. What it guards by itself is the protocol: sizes and times, order of packets and answers, quotas of
// messages under way, topic aliases.
//
//	gate ─ stream ─→ admit: CONNECT, who is it, Connect, CONNACK       a goroutine that ends then, with the stack that verifying needed
//	                   └→ loop: reads packets and hands them to core    one goroutine for as long as the connection lives
//	core ─ Deliver ─→ outbox ─→ write                                  a goroutine only while there is something to write
//
// The promises. An acknowledgement (PUBACK, PUBREC) leaves when the message is stored, and in the order in which the messages came. No lock is held while
// writing, so a peer that does not read holds nobody up: what waits for it is bounded in octets, and after ten seconds it is cut off. Every wait has an end:
// for CONNECT, for the rest of a packet, for the next packet, for storage. Memory is given to what has arrived, never to what was announced. A connection
// that panics ends alone.
//
// What ends a connection, and with which code, stands in reasons.go. A stranger learns nothing: an unknown device and a disabled one get the same answer.
//
// Not offered: enhanced authentication (AUTH), response information, MQTT 3.1, bridges.
package mqtt

import (
	"context"
	"log/slog"
	"runtime/debug"
	"sync"
	"time"

	"mooring/internal/core/message"
	"mooring/internal/server/gate"
	"mooring/wire/mqtt"
)

// Messages is core/message as this package uses it; see Over.
type Messages interface {
	Connect(ctx context.Context, a message.Attach) (Session, message.Connected, error)
}

// Session is message.Conn, where its methods are described.
type Session interface {
	Publish(m *message.Message, id uint16, done func(error))
	Release(ctx context.Context, id uint16) (known bool, err error)
	Subscribe(ctx context.Context, list []message.Subscription) []message.Grant
	Unsubscribe(ctx context.Context, filters []string) []error
	Acked(id uint16) bool
	Received(id uint16) bool
	Completed(id uint16) bool
	Detach(r message.Reason, f message.Farewell)
}

// Over is a Service as Messages.
func Over(s *message.Service) Messages { return service{s} }

type service struct{ *message.Service }

func (s service) Connect(ctx context.Context, a message.Attach) (Session, message.Connected, error) {
	c, connected, err := s.Service.Connect(ctx, a)
	if err != nil {
		return nil, connected, err
	}
	return c, connected, nil
}

// Deps is what a Server needs.
type Deps struct {
	Messages Messages
	// Identify says who is at the other end. An error of kind Unavailable is told as such, any other one as a refusal without a reason.
	Identify func(context.Context, *gate.Peer) (message.Identity, error)
	// Origins are the web pages' origins that may open WebSockets, such as "https://console.example". Clients that are no browsers send none.
	Origins []string
	// Elsewhere is where peers of 5.0 are told to go when the server stops (Server Reference, section 4.11); "": they are told that it stops.
	Elsewhere string
	Now       func() time.Time
	Log       *slog.Logger
}

// Server serves MQTT. It starts nothing by itself.
type Server struct {
	deps   Deps
	times  times
	counts counts

	buffers sync.Pool // of *[]byte, for what is being written

	mu     sync.Mutex
	limits map[mqtt.Limits]*mqtt.Limits // guarded by mu; connections of a group share theirs
}

// times are how long things may take. They are the same for all, so that tests may have others.
type times struct {
	connect  time.Duration // from the end of the handshake to the whole CONNECT
	progress time.Duration // until the rest of a packet must come with minRate
	write    time.Duration // for what is being written
	store    time.Duration // until a message is stored
	farewell time.Duration // for the last word to a peer that is cut off
	linger   time.Duration // for a peer to take the last word and go
}

// minRate is how many octets of a packet must come each second, after some time.
const minRate = 1024

// New returns a Server.
func New(d Deps) *Server {
	return &Server{deps: d, limits: map[mqtt.Limits]*mqtt.Limits{},
		times: times{connect: 5 * time.Second, progress: 10 * time.Second, write: 10 * time.Second, store: 10 * time.Second,
			farewell: 50 * time.Millisecond, linger: time.Second}}
}

// Stream serves one stream; see gate.Gate.ServeStreams.
func (s *Server) Stream(ctx context.Context, stream *gate.Stream) {
	c := s.newConn(stream, stream.Peer(), "mqtt")
	stream.OnDrain(func() { c.Close(message.ReasonStopping) })
	if c.admit(ctx) {
		go c.loop(ctx)
	}
}

// maxLimits bounds the sets of limits that are kept to be shared: there is one for each group of the policy.
const maxLimits = 64

// sharedLimits returns the codec's limits for what core granted.
func (s *Server) sharedLimits(l mqtt.Limits) *mqtt.Limits {
	s.mu.Lock()
	defer s.mu.Unlock()
	if same := s.limits[l]; same != nil {
		return same
	}
	if len(s.limits) >= maxLimits { // the policy was changed often
		clear(s.limits)
	}
	resolved := l.Resolved()
	s.limits[l] = &resolved
	return &resolved
}

// survive is deferred around everything that runs for one connection: what the programmer broke ends that one alone.
func (c *conn) survive() {
	p := recover()
	if p == nil {
		return
	}
	c.server.counts.panics.Add(1)
	c.server.deps.Log.Error("a connection ended by a panic", slog.Any("panic", p), slog.String("stack", string(debug.Stack())))
	c.end(message.ReasonProtocol, mqtt.Unspecified, true)
}
