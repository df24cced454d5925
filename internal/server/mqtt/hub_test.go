package mqtt

import (
	"context"
	"fmt"
	"strings"
	"sync"

	"mooring/internal/base/errs"
	"mooring/internal/core/message"
	"mooring/internal/core/message/policy"
	"mooring/internal/server/gate"
	"mooring/wire/mqtt"
)

// hub stands in for core/message, of which it has as much as a front can notice: things by the common names of certificates, sessions, subscriptions, and
// topics that belong to a thing (v1/THING/…) or to all (all/…). What tests want to be slow or wrong, they say.
type hub struct {
	mu       sync.Mutex
	limits   policy.Limits
	unknown  map[string]error // things that the registry refuses
	sessions map[string]*session
	events   []string // what fronts did, for tests that look at the order
	stuck    bool     // storing takes until unstick
	waiting  []func()
	refuse   error         // what publishing says
	busy     chan struct{} // publishing waits until it is closed; nil = it does not
	retained map[string]*message.Message
}

func newHub() *hub {
	return &hub{unknown: map[string]error{}, sessions: map[string]*session{}, retained: map[string]*message.Message{},
		limits: policy.Limits{SessionExpiry: 3600, KeepAlive: 60, Packet: 128 << 10, InFlightIn: 8, InFlightOut: 8, Outbound: 64 << 10, Subscriptions: 10,
			Filters: 4, Aliases: 4, Levels: 8, TopicOctets: 128, MaxQoS: 2, Retain: true, Shared: false, Deny: policy.DenyClose}}
}

func (h *hub) note(format string, args ...any) {
	h.events = append(h.events, fmt.Sprintf(format, args...))
}

// seen returns what happened so far.
func (h *hub) seen() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return append([]string(nil), h.events...)
}

func (h *hub) identify(_ context.Context, p *gate.Peer) (message.Identity, error) {
	leaf := p.Leaf()
	if leaf == nil {
		return message.Identity{}, errs.New(errs.Denied, "no certificate")
	}
	thing := leaf.Subject.CommonName
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := h.unknown[thing]; err != nil {
		return message.Identity{}, err
	}
	return message.Identity{Subject: policy.Subject{Thing: thing}}, nil
}

// session is a session, and its connection if it has one.
type session struct {
	hub    *hub
	key    string
	thing  string
	link   message.Link // nil: nobody is connected
	subs   map[string]message.Subscription
	got    map[uint16]bool // QoS 2 that the peer has not released
	flight []message.Delivery
	last   uint16
	will   *message.Will
	expiry uint32
	window int
}

// attached is a session as one connection has it; it means nothing any more when the next one has taken over.
type attached struct {
	*session
	link message.Link
}

func (h *hub) Connect(_ context.Context, a message.Attach) (Session, message.Connected, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	thing, client := a.Identity.Subject.Thing, a.Client
	if client == "" {
		client = thing
	}
	if client != thing && !strings.HasPrefix(client, thing+".") {
		return nil, message.Connected{}, message.ErrClient
	}
	if a.Will != nil && !may(thing, a.Will.Message.Topic) {
		return nil, message.Connected{}, message.ErrWill
	}
	key := thing + "|" + client
	s := h.sessions[key]
	present := s != nil && !a.Clean
	if s != nil && s.link != nil {
		h.note("take over %s", key)
		s.link.Close(message.ReasonTakenOver)
	}
	if !present {
		s = &session{hub: h, key: key, thing: thing, subs: map[string]message.Subscription{}, got: map[uint16]bool{}}
		h.sessions[key] = s
	}
	expiry := min(a.Expiry, h.limits.SessionExpiry)
	if a.Default {
		expiry = h.limits.SessionExpiry
	}
	s.link, s.will, s.expiry, s.window = a.Link, a.Will, expiry, min(a.Window, h.limits.InFlightOut)
	h.note("connect %s %s", a.Front, key)
	for i := range s.flight {
		d := s.flight[i]
		d.Dup = !d.Release
		s.link.Deliver(d)
	}
	return attached{s, a.Link}, message.Connected{Present: present, Client: client, Assigned: a.Client == "", Expiry: expiry, Limits: h.limits}, nil
}

// may reports whether a thing may use a topic.
func may(thing, topic string) bool {
	return strings.HasPrefix(topic, "v1/"+thing+"/") || strings.HasPrefix(topic, "all/")
}

func (a attached) Publish(m *message.Message, id uint16, done func(error)) {
	h := a.hub
	if h.busy != nil {
		<-h.busy
	}
	h.mu.Lock()
	store := func() { done(nil) }
	switch {
	case h.refuse != nil:
		err := h.refuse
		store = func() { done(err) }
	case !may(a.thing, m.Topic):
		h.note("denied %s", m.Topic)
		store = func() { done(errs.New(errs.Denied, "not allowed")) }
	case id != 0 && a.got[id]:
		h.note("again %d", id)
	default:
		if id != 0 {
			a.got[id] = true
		}
		h.note("store %s %s", m.Topic, m.Payload)
		if m.Retain {
			h.retained[m.Topic] = m
		}
		h.spread(m)
	}
	stuck := h.stuck
	if stuck {
		h.waiting = append(h.waiting, store)
	}
	h.mu.Unlock()
	if !stuck {
		store()
	}
}

// unstick stores what waits, the last first: fronts must keep the order themselves.
func (h *hub) unstick() {
	h.mu.Lock()
	waiting := h.waiting
	h.waiting, h.stuck = nil, false
	h.mu.Unlock()
	for i := range waiting {
		waiting[len(waiting)-1-i]()
	}
}

// spread delivers a message to all whose filters match. mu is held.
func (h *hub) spread(m *message.Message) {
	for _, s := range h.sessions {
		s.deliver(m, false)
	}
}

func (s *session) deliver(m *message.Message, retained bool) {
	matched, d := false, message.Delivery{Message: m, Retain: retained, Expiry: m.Expiry}
	for _, sub := range s.subs {
		if mqtt.Match(sub.Filter, m.Topic) {
			matched = true
			d.QoS = max(d.QoS, min(sub.QoS, m.QoS))
			if sub.ID != 0 {
				d.Subs = append(d.Subs, sub.ID)
			}
		}
	}
	if !matched {
		return
	}
	if d.QoS > 0 {
		if len(s.flight) >= s.window {
			return
		}
		s.last++
		d.ID = s.last
		s.flight = append(s.flight, d)
	}
	if s.link != nil {
		s.link.Deliver(d)
	}
}

func (a attached) Release(_ context.Context, id uint16) (bool, error) {
	a.hub.mu.Lock()
	defer a.hub.mu.Unlock()
	known := a.got[id]
	delete(a.got, id)
	return known, nil
}

func (a attached) Subscribe(_ context.Context, list []message.Subscription) []message.Grant {
	h := a.hub
	h.mu.Lock()
	defer h.mu.Unlock()
	grants := make([]message.Grant, len(list))
	for i, s := range list {
		if !may(a.thing, s.Filter) {
			grants[i].Err = errs.New(errs.Denied, "not allowed")
			continue
		}
		h.note("subscribe %s", s.Filter)
		a.subs[s.Filter] = s
		grants[i].QoS = s.QoS
		for topic, m := range h.retained {
			if mqtt.Match(s.Filter, topic) {
				a.deliver(m, true)
			}
		}
	}
	return grants
}

func (a attached) Unsubscribe(_ context.Context, filters []string) []error {
	a.hub.mu.Lock()
	defer a.hub.mu.Unlock()
	answers := make([]error, len(filters))
	for i, f := range filters {
		if _, ok := a.subs[f]; !ok {
			answers[i] = errs.New(errs.NotFound, "no such subscription")
		}
		delete(a.subs, f)
	}
	return answers
}

// settle takes a delivery out, or with released keeps the release of it.
func (a attached) settle(id uint16, released bool) bool {
	a.hub.mu.Lock()
	defer a.hub.mu.Unlock()
	for i, d := range a.flight {
		if d.ID != id {
			continue
		}
		a.hub.note("settled %d %v", id, released)
		if !released {
			a.flight = append(a.flight[:i], a.flight[i+1:]...)
			return true
		}
		a.flight[i].Release = true
		a.link.Deliver(a.flight[i])
		return true
	}
	return false
}

func (a attached) Acked(id uint16) bool     { return a.settle(id, false) }
func (a attached) Received(id uint16) bool  { return a.settle(id, true) }
func (a attached) Completed(id uint16) bool { return a.settle(id, false) }

func (a attached) Detach(r message.Reason, f message.Farewell) {
	h := a.hub
	h.mu.Lock()
	defer h.mu.Unlock()
	h.note("detach %s %s", a.key, ended[r].name)
	if a.will != nil && (r != message.ReasonFarewell || f.KeepWill) && a.session.link == a.link {
		h.note("will %s", a.will.Message.Topic)
		h.spread(&a.will.Message)
	}
	if a.session.link != a.link {
		return
	}
	a.session.link = nil
	if f.Expiry != nil {
		a.expiry = *f.Expiry
	}
	if a.expiry == 0 && h.sessions[a.key] == a.session {
		delete(h.sessions, a.key)
	}
}

// send publishes to all, as the platform does.
func (h *hub) send(m message.Message) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.spread(&m)
}

// linkOf returns the connection of a thing.
func (h *hub) linkOf(thing string) message.Link {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.sessions[thing+"|"+thing].link
}

// cut ends the connections of a thing.
func (h *hub) cut(thing string, r message.Reason) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.note("cut %s", thing)
	for _, s := range h.sessions {
		if s.thing == thing && s.link != nil {
			s.link.Close(r)
		}
	}
}

// anybody takes everybody for dev-1, for tests without certificates.
func (h *hub) anybody(context.Context, *gate.Peer) (message.Identity, error) {
	return message.Identity{Subject: policy.Subject{Thing: "dev-1"}}, nil
}
