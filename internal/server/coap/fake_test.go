package coap_test

import (
	"context"
	"slices"
	"strings"
	"sync"

	"mooring/internal/base/errs"
	"mooring/internal/core/message"
	"mooring/internal/core/message/policy"
	"mooring/internal/server/coap"
	"mooring/wire/mqtt"
)

// fake is as much of core/message as the server consumes: one policy, everything in memory. A topic below "denied" is not allowed, and one below "cmd" is
// addressed to a thing.
type fake struct {
	mu        sync.Mutex
	unknown   bool                        // guarded by mu: nobody is known
	fail      error                       // guarded by mu: what Publish says
	hold      bool                        // guarded by mu: what is published is not stored yet
	held      []func(error)               // guarded by mu
	published []message.Message           // guarded by mu
	retained  map[string]*message.Message // guarded by mu
	sessions  map[string]*fakeSession     // guarded by mu: by thing
	attached  []message.Attach            // guarded by mu
	detached  []message.Reason            // guarded by mu
	received  []uint16                    // guarded by mu
	completed []uint16                    // guarded by mu
}

// fakeSession is what is kept of a thing.
type fakeSession struct {
	filters []string
	queue   []message.Delivery // of QoS 1, in order; not acknowledged
	sent    int                // of queue
	next    uint16
	link    message.Link // nil: not connected
	window  int
}

type fakeConn struct {
	*fake
	*fakeSession
	link message.Link
}

func newFake() *fake {
	return &fake{retained: map[string]*message.Message{}, sessions: map[string]*fakeSession{}}
}

func (f *fake) Identify(_ context.Context, _ message.Visit, chain [][]byte) (message.Identity, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.unknown {
		return message.Identity{}, errs.New(errs.NotFound, "no such device: secret-7")
	}
	return message.Identity{Subject: policy.Subject{Thing: "dev-1"}}, nil
}

func (f *fake) Rules(message.Identity) []policy.Rule {
	return []policy.Rule{{Action: policy.Publish, Filter: "v1/dev-1/telemetry/#"}, {Action: policy.Subscribe, Filter: "cmd/dev-1/+"}, {Action: policy.Publish, Filter: "both"},
		{Action: policy.Subscribe, Filter: "both"}, {Action: policy.Publish, Filter: "v1/${child}/x", Child: true}}
}

func (f *fake) Connect(_ context.Context, a message.Attach) (coap.Conn, message.Connected, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.attached = append(f.attached, a)
	s := f.sessions[a.Client]
	present := s != nil
	if s == nil {
		s = &fakeSession{}
		f.sessions[a.Client] = s
	}
	if s.link != nil {
		s.link.Close(message.ReasonTakenOver)
	}
	s.link, s.sent, s.window = a.Link, 0, a.Window
	s.push()
	return &fakeConn{f, s, a.Link}, message.Connected{Present: present, Client: a.Client, Expiry: 3600, Limits: policy.Limits{Packet: 8192}}, nil
}

// push hands over what the window has room for. The caller holds mu.
func (s *fakeSession) push() {
	for s.link != nil && s.sent < min(len(s.queue), s.window) {
		s.link.Deliver(s.queue[s.sent])
		s.sent++
	}
}

func (c *fakeConn) Publish(m *message.Message, _ uint16, done func(error)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.fail != nil:
		done(c.fail)
		return
	case strings.HasPrefix(m.Topic, "denied"):
		done(errs.New(errs.Denied, "not allowed"))
		return
	}
	c.published = append(c.published, *m)
	if m.Retain && len(m.Payload) == 0 {
		delete(c.retained, m.Topic)
	} else if m.Retain {
		c.retained[m.Topic] = m
	}
	if c.hold {
		c.held = append(c.held, done)
		return
	}
	done(nil)
}

// publish is somebody else's.
func (f *fake) publish(m message.Message) {
	f.mu.Lock()
	defer f.mu.Unlock()
	m.Stream = message.Cast
	if strings.HasPrefix(m.Topic, "cmd") {
		m.Stream = message.Down
	}
	if m.Retain {
		f.retained[m.Topic] = &m
	}
	for _, s := range f.sessions {
		if !slices.ContainsFunc(s.filters, func(filter string) bool { return mqtt.Match(filter, m.Topic) }) {
			continue
		}
		d := message.Delivery{Message: &m, QoS: min(m.QoS, 1)}
		if m.QoS == 0 {
			if s.link != nil {
				s.link.Deliver(d)
			}
			continue
		}
		s.next++
		d.ID = s.next
		s.queue = append(s.queue, d)
		s.push()
	}
}

func (c *fakeConn) Subscribe(_ context.Context, list []message.Subscription) []message.Grant {
	c.mu.Lock()
	defer c.mu.Unlock()
	grants := make([]message.Grant, len(list))
	for i, s := range list {
		if strings.HasPrefix(s.Filter, "denied") {
			grants[i].Err = errs.New(errs.Denied, "not allowed")
			continue
		}
		grants[i].QoS = s.QoS
		if !slices.Contains(c.filters, s.Filter) {
			c.filters = append(c.filters, s.Filter)
		}
		for topic, m := range c.retained {
			if s.Handling == 0 && mqtt.Match(s.Filter, topic) {
				c.link.Deliver(message.Delivery{Message: m, Retain: true})
			}
		}
	}
	return grants
}

func (c *fakeConn) Unsubscribe(_ context.Context, filters []string) []error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.filters = slices.DeleteFunc(c.filters, func(f string) bool { return slices.Contains(filters, f) })
	return make([]error, len(filters))
}

func (c *fakeConn) Retained(_ context.Context, topic string) (*message.Message, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if strings.HasPrefix(topic, "denied") {
		return nil, errs.New(errs.Denied, "not allowed")
	}
	if m := c.retained[topic]; m != nil {
		return m, nil
	}
	return nil, errs.New(errs.NotFound, "nothing is retained here")
}

func (c *fakeConn) Acked(id uint16) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	i := slices.IndexFunc(c.queue, func(d message.Delivery) bool { return d.ID == id })
	if i < 0 {
		return false
	}
	c.queue = slices.Delete(c.queue, i, i+1)
	c.sent--
	c.push()
	return true
}

func (c *fakeConn) Received(id uint16) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.received = append(c.received, id)
	c.link.Deliver(message.Delivery{QoS: 2, ID: id, Release: true})
	return true
}

func (c *fakeConn) Completed(id uint16) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.completed = append(c.completed, id)
	return true
}

func (c *fakeConn) Detach(r message.Reason, _ message.Farewell) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.detached = append(c.detached, r)
	if c.fakeSession.link == c.link {
		c.fakeSession.link = nil
	}
}

// withdraw is a change of the policy.
func (f *fake) withdraw(filter string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, s := range f.sessions {
		s.filters = slices.DeleteFunc(s.filters, func(f string) bool { return f == filter })
		s.link.(interface{ Withdrawn(string) }).Withdrawn(filter)
	}
}

func (f *fake) set(change func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change()
}
