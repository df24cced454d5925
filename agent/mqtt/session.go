package mqtt

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"sync"

	wire "mooring/wire/mqtt"
)

// session is what outlives a connection. At most one connection uses it at a time.
type session struct {
	room chan struct{} // a token for each message with QoS 1 and 2 that waits for the server

	// handling is held while the handler runs, so that messages come one after another over connections, too.
	handling sync.Mutex

	mu       sync.Mutex
	conn     *Conn               // the present one; nil: none
	id       string              // client identifier, the assigned one if it was assigned
	began    bool                // there was a connection
	last     uint16              // packet identifier
	queue    []*outgoing         // messages with QoS 1 and 2 in their order, until the server has them for good
	answers  map[uint16]*request // SUBSCRIBE and UNSUBSCRIBE of this connection
	received map[uint16]bool     // QoS 2: handed over, and not released yet
	filters  []Subscription      // what was granted
	handlers []handler
	ended    error // nil: goes on
}

// outgoing is a message on its way.
type outgoing struct {
	message  wire.Publish
	sent     bool // on this connection
	released bool // QoS 2: the server has received it
	done     func(error)
}

// request waits for SUBACK or UNSUBACK.
type request struct {
	packet wire.Type // that answers
	answer chan answer
}

type answer struct {
	reasons []wire.Reason
	text    string
	err     error
}

// handler takes the messages for a filter.
type handler struct {
	filter string
	f      func(Message)
}

// newSession makes a session. Its first packet identifier is drawn: a server that knows an earlier session of this client may remember some of those, and
// would take a message for one that it has.
func newSession(c Config) *session {
	return &session{
		room: make(chan struct{}, c.Queue), id: c.ClientID, answers: make(map[uint16]*request), received: make(map[uint16]bool), last: uint16(rand.Uint32()),
	}
}

func (s *session) handle(filter string, f func(Message)) {
	_, inner, _, err := wire.Shared(filter)
	if err != nil {
		return // nothing comes for it
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	i := slices.IndexFunc(s.handlers, func(h handler) bool { return h.filter == inner })
	switch {
	case i < 0 && f != nil:
		s.handlers = append(s.handlers, handler{inner, f})
	case i >= 0 && f != nil:
		s.handlers[i].f = f
	case i >= 0:
		s.handlers = slices.Delete(s.handlers, i, i+1)
	}
}

// handlerFor returns who takes messages to a topic.
func (s *session) handlerFor(topic string, other func(Message)) func(Message) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, h := range s.handlers {
		if wire.Match(h.filter, topic) {
			return h.f
		}
	}
	return other
}

// nextID returns a packet identifier that nothing uses. There is always one, since Queue is smaller than their number.
func (s *session) nextID() uint16 {
	for {
		s.last++
		if s.last != 0 && s.answers[s.last] == nil && s.find(s.last) == nil {
			return s.last
		}
	}
}

func (s *session) find(id uint16) *outgoing {
	for _, o := range s.queue {
		if o.message.ID == id {
			return o
		}
	}
	return nil
}

// enter puts a message into the queue, and sends it as soon as the server takes it.
func (s *session) enter(ctx context.Context, m wire.Publish, done func(error)) error {
	select {
	case s.room <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended != nil {
		<-s.room
		return s.ended
	}
	m.ID = s.nextID()
	s.queue = append(s.queue, &outgoing{message: m, done: done})
	s.pump()
	return nil
}

// pump sends what waits, as far as the server's Receive Maximum allows. s.mu is held.
func (s *session) pump() {
	c := s.conn
	if c == nil {
		return
	}
	for i := 0; i < len(s.queue) && c.window > 0 && c.Err() == nil; {
		o := s.queue[i]
		if !o.sent {
			if err := c.submit(o); err != nil && c.Err() == nil {
				s.leave(o, err) // this server takes it at no time
				continue
			}
			o.sent, o.message.Duplicate = true, true // if it is sent again
			c.window--
		}
		i++
	}
}

// submit sends a message, or what is left of it.
func (c *Conn) submit(o *outgoing) error {
	if o.released {
		return queue(c, wire.Ack{Type: wire.PUBREL, ID: o.message.ID})
	}
	if err := c.takes(o.message); err != nil {
		return err
	}
	return queue(c, o.message)
}

// leave takes a message out of the queue. s.mu is held.
func (s *session) leave(o *outgoing, err error) {
	i := slices.Index(s.queue, o)
	if i < 0 {
		return
	}
	s.queue = slices.Delete(s.queue, i, i+1)
	<-s.room
	if o.done != nil {
		go o.done(err) // it may do what it likes
	}
}

// begin makes a connection the present one. Without a session at the server, messages that it has not acknowledged are new to it.
func (s *session) begin(c *Conn, present bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.conn, s.began = c, true
	if c.answer.AssignedClientID != "" {
		s.id = c.answer.AssignedClientID
	}
	if !present {
		clear(s.received)
	}
	for _, o := range slices.Clone(s.queue) {
		o.sent = false
		switch {
		case present:
		case o.released:
			s.leave(o, nil)
		default:
			o.message.Duplicate = false
		}
	}
	s.pump()
}

// end says that the connection is over. final: so is the session, and nothing waits any more.
func (s *session) end(c *Conn, err error, final bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conn == c {
		s.conn = nil
	}
	for id, r := range s.answers {
		delete(s.answers, id)
		r.answer <- answer{err: err}
	}
	if !final {
		return
	}
	s.ended = err
	for _, o := range slices.Clone(s.queue) {
		s.leave(o, err)
	}
}

// errForeign says that the server acknowledged something otherwise than it was sent.
var errForeign = errors.New("the server acknowledged a message of another QoS")

// acknowledged takes PUBACK, PUBREC and PUBCOMP.
func (s *session) acknowledged(c *Conn, a wire.Ack) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	o := s.find(a.ID)
	if o == nil || !o.sent {
		if a.Type == wire.PUBREC { // of a message that is forgotten
			queue(c, wire.Ack{Type: wire.PUBREL, ID: a.ID, Reason: wire.PacketIDNotFound})
		}
		return nil
	}
	if (o.message.QoS == wire.AtLeastOnce) != (a.Type == wire.PUBACK) {
		return errForeign
	}
	if a.Type == wire.PUBREC && !a.Reason.Failed() {
		o.released, o.message.Payload = true, nil
		queue(c, wire.Ack{Type: wire.PUBREL, ID: a.ID})
		return nil
	}
	var err error
	if a.Reason.Failed() && a.Type != wire.PUBCOMP { // a release that was not known is one, too
		err = &Refusal{Packet: a.Type, Reason: a.Reason, Text: a.ReasonString}
	}
	s.leave(o, err)
	c.window++
	s.pump()
	return nil
}

// release takes PUBREL.
func (s *session) release(c *Conn, id uint16) {
	s.mu.Lock()
	defer s.mu.Unlock()
	reason := wire.Success
	if !s.received[id] {
		reason = wire.PacketIDNotFound
	}
	delete(s.received, id)
	queue(c, wire.Ack{Type: wire.PUBCOMP, ID: id, Reason: reason})
}

// answered takes SUBACK and UNSUBACK.
func (s *session) answered(packet wire.Type, id uint16, a answer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r := s.answers[id]; r != nil && r.packet == packet {
		delete(s.answers, id)
		r.answer <- a // has room for one
	}
}

// ask sends a SUBSCRIBE or UNSUBSCRIBE and waits for the answer.
func ask[P wire.Packet](ctx context.Context, c *Conn, answers wire.Type, packet func(id uint16) P) ([]wire.Reason, string, error) {
	s, r := c.session, &request{packet: answers, answer: make(chan answer, 1)}
	s.mu.Lock()
	if s.conn != c {
		s.mu.Unlock()
		return nil, "", c.Err()
	}
	id := s.nextID()
	s.answers[id] = r
	err := queue(c, packet(id))
	s.mu.Unlock()
	if err != nil {
		s.forget(id, r)
		return nil, "", err
	}
	select {
	case a := <-r.answer:
		return a.reasons, a.text, a.err
	case <-ctx.Done():
		s.forget(id, r)
		return nil, "", ctx.Err()
	}
}

func (s *session) forget(id uint16, r *request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.answers[id] == r {
		delete(s.answers, id)
	}
}

// granted keeps the subscriptions that the server granted, and forgets those that it refused.
func (s *session) granted(list []Subscription, reasons []wire.Reason) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, sub := range list {
		s.filters = slices.DeleteFunc(s.filters, func(had Subscription) bool { return had.Filter == sub.Filter })
		if i < len(reasons) && !reasons[i].Failed() {
			s.filters = append(s.filters, sub)
		}
	}
}
