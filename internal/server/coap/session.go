package coap

import (
	"context"
	"errors"
	"io"
	"os"
	"sync"
	"time"

	"mooring/internal/base/coap"
	"mooring/internal/base/errs"
	"mooring/internal/core/message"
)

// session is one association, and from its first request for messages the Link of one connection.
type session struct {
	*Server
	chain [][]byte

	entering sync.Mutex // held while the connection is made; never together with mu by who waits for it

	mu        sync.Mutex
	client    *coap.Client       // guarded by mu; nil until the connection is made
	conn      Conn               // guarded by mu; nil: there is none
	packet    int                // guarded by mu: octets of a message, at most; 0: not known
	closed    message.Reason     // guarded by mu: the first reason that was given; 0: none
	relations []*relation        // guarded by mu
	orphans   []message.Delivery // guarded by mu: of QoS 1 and 2, that nobody observes yet
	releases  []message.Delivery // guarded by mu: that came before Connect had returned
	pressing  *time.Timer        // guarded by mu: then orphans are given up; nil: they need not be
}

// errEnded says that the connection is no more.
var errEnded = errs.New(errs.Unavailable, "this association is at its end: begin another one")

// errStranger is what a client is told whom the registry does not know, or not as somebody who may talk: which of them is nobody's business.
var errStranger = errs.New(errs.Denied, "the registry knows no device by this certificate that may send messages")

// enter returns the connection, which the first request makes.
func (s *session) enter(ctx context.Context, client *coap.Client) (Conn, error) {
	s.entering.Lock()
	defer s.entering.Unlock()
	s.mu.Lock()
	conn, closed := s.conn, s.closed
	s.client = client
	s.mu.Unlock()
	switch {
	case closed != 0:
		return nil, errEnded
	case conn != nil:
		return conn, nil
	}
	who, err := s.Messages.Identify(ctx, message.Visit{Front: "coap", Address: client.Address()}, s.chain)
	if err != nil {
		return nil, stranger(err)
	}
	conn, granted, err := s.Messages.Connect(ctx, message.Attach{Identity: who, Client: who.Subject.Thing, Front: "coap", Address: client.Address(),
		Expiry: ^uint32(0), Window: s.Window, Link: s})
	if err != nil {
		return nil, err
	}
	if idle := granted.Limits.Idle; idle > 0 {
		client.Idle(time.Duration(idle) * time.Second)
	}
	s.mu.Lock()
	s.conn, s.packet = conn, granted.Limits.Packet
	releases := s.releases
	s.releases = nil
	s.mu.Unlock()
	s.counts.open.Add(1)
	for _, d := range releases {
		conn.Completed(d.ID)
	}
	return conn, nil
}

// stranger hides why somebody is not known.
func stranger(err error) error {
	if k := errs.KindOf(err); k == errs.Denied || k == errs.NotFound || k == errs.Conflict {
		return errStranger
	}
	return err
}

func (s *session) limit() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.packet > 0 {
		return s.packet
	}
	return maxBody
}

// ended gives the connection back.
func (s *session) ended(err error) {
	s.mu.Lock()
	conn, reason := s.conn, s.closed
	if reason == 0 {
		reason = why(err)
		s.closed = reason
	}
	if s.pressing != nil {
		s.pressing.Stop()
	}
	s.mu.Unlock()
	if conn != nil {
		conn.Detach(reason, message.Farewell{})
		s.counts.open.Add(-1)
	}
}

// why is the reason for which an association ended by itself.
func why(err error) message.Reason {
	switch {
	case err == nil:
		return message.ReasonStopping
	case errors.Is(err, os.ErrDeadlineExceeded):
		return message.ReasonTimeout
	case errors.Is(err, io.EOF):
		return message.ReasonFarewell
	}
	return message.ReasonLost
}

// Close is that of message.Link. Whatever the reason, the association is over: its state goes, and there is no resumption.
func (s *session) Close(r message.Reason) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed != 0 {
		return
	}
	s.closed = r
	if s.client != nil {
		s.client.Drop()
	}
}

// Queued is that of message.Link.
func (s *session) Queued() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.client == nil {
		return 0
	}
	n := s.client.Waiting()
	for _, d := range s.orphans {
		n += len(d.Message.Payload)
	}
	return n
}
