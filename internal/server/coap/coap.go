// Package coap carries messages over CoAP (RFC 7252) and DTLS: telemetry up and commands down, by the same policy, sessions and fabric as MQTT, for devices
// that sleep, and whose network counts octets.
//
//	/p/<level>/<level>…   a topic, or a filter to be observed: one Uri-Path option for each level
//	POST, PUT             publish; confirmable is QoS 1 and answered once it is stored, non-confirmable is QoS 0
//	    ?retain           … and retain;  ?expiry=SECONDS  … for so long
//	DELETE                remove the retained message
//	GET                   the retained message
//	GET, Observe 0 or 1   subscribe, or end that (RFC 7641)
//	/.well-known/core     what the client may use (RFC 6690)
//
// An association of DTLS is one connection of core/message, made at the first request below /p, and its client identifier is the thing's name. When that
// connection is cut, the association goes with it. Everything that core decides stays there: the package translates.
//
// Commands (what is addressed to one thing) and all of QoS 1 come in confirmable notifications, one at a time and in order. Of what is the state of
// something only the newest is told. What a sleeping device does not acknowledge waits: in this association until the device is heard, and in the session when
// the association has ended.
//
// The package deliberately knows no shared keys, no Block1 over a megabyte, no conditional requests (If-Match and If-None-Match are answered by 4.02), and
// no observation of more than eight resources over one association.
package coap

import (
	"context"
	"log/slog"
	"strings"
	"sync/atomic"

	"mooring/internal/base/coap"
	"mooring/internal/core/message"
	"mooring/internal/core/message/policy"
	"mooring/internal/server/gate"
)

// Conn is what the server asks of a connection of core/message.
type Conn interface {
	Publish(m *message.Message, id uint16, done func(error))
	Subscribe(ctx context.Context, list []message.Subscription) []message.Grant
	Unsubscribe(ctx context.Context, filters []string) []error
	Retained(ctx context.Context, topic string) (*message.Message, error)
	Acked(id uint16) bool
	Received(id uint16) bool
	Completed(id uint16) bool
	Detach(message.Reason, message.Farewell)
}

// Messages is what the server asks of core/message. Over makes one of its Service.
type Messages interface {
	Identify(ctx context.Context, v message.Visit, chain [][]byte) (message.Identity, error)
	Connect(ctx context.Context, a message.Attach) (Conn, message.Connected, error)
	// Rules returns by which rules somebody may publish and subscribe.
	Rules(who message.Identity) []policy.Rule
}

// Over returns Messages over a Service.
func Over(s *message.Service) Messages { return service{s} }

type service struct{ *message.Service }

func (s service) Connect(ctx context.Context, a message.Attach) (Conn, message.Connected, error) {
	c, granted, err := s.Service.Connect(ctx, a)
	if err != nil {
		return nil, granted, err
	}
	return c, granted, nil
}

// Deps is what the server stands on.
type Deps struct {
	Messages Messages
	// Window bounds the messages of QoS 1 that are on their way to one device, or wait for it here; 0 means 16.
	Window int
	Log    *slog.Logger
}

// Server carries messages. It is safe for concurrent use.
type Server struct {
	Deps
	counts struct{ open, told, superseded, unwatched, givenUp atomic.Int64 }
}

// New returns a server.
func New(d Deps) *Server {
	if d.Window == 0 {
		d.Window = 16
	}
	return &Server{Deps: d}
}

// Metrics is what the server counts.
type Metrics struct {
	Open       int64 // connections
	Told       int64 // notifications that arrived, or need not
	Superseded int64 // notifications that a newer one made needless
	Unwatched  int64 // observations that clients ended
	GivenUp    int64 // messages of an earlier association that nobody observes any more
}

// Metrics returns the counts.
func (s *Server) Metrics() Metrics {
	c := &s.counts
	return Metrics{c.open.Load(), c.told.Load(), c.superseded.Load(), c.unwatched.Load(), c.givenUp.Load()}
}

const (
	root    = "/p"
	core    = "/.well-known/core"
	maxBody = 64 << 10 // octets of a message before the policy has said how many
)

// For returns what answers the requests of a client: those for messages, and by rest all others. The handler is for one association.
func (s *Server) For(peer *gate.Peer, rest coap.Handler) coap.Handler {
	one := &session{Server: s, chain: peer.Chain()}
	return one.handler(rest)
}

func (s *session) handler(rest coap.Handler) coap.Handler {
	return coap.Handler{
		Answer: func(ctx context.Context, r *coap.Request) coap.Response {
			switch {
			case ours(r.Path):
				return s.answer(ctx, r)
			case r.Path == core:
				return s.discover(ctx, r, rest)
			}
			return rest.Answer(ctx, r)
		},
		Refused: func(ctx context.Context, path string, err error) {
			if !ours(path) && rest.Refused != nil {
				rest.Refused(ctx, path, err)
			}
		},
		Limit: func(path string) int {
			switch {
			case ours(path):
				return s.limit()
			case rest.Limit != nil:
				return rest.Limit(path)
			}
			return 0
		},
		Distinct: func(path string) bool { return ours(path) || rest.Distinct != nil && rest.Distinct(path) },
		Ended: func(err error) {
			s.ended(err)
			if rest.Ended != nil {
				rest.Ended(err)
			}
		},
	}
}

func ours(path string) bool { return path == root || strings.HasPrefix(path, root+"/") }
