package coap

import (
	"context"
	"log/slog"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"mooring/internal/base/coap"
	"mooring/internal/base/errs"
	"mooring/internal/core/message"
	wire "mooring/wire/coap"
	"mooring/wire/mqtt"
)

// relation is an observation of a topic or filter, over one association.
type relation struct {
	*coap.Observation // set before the client is told of anything
	filter            string
	accept            wire.Format // NoFormat: whatever it is
	withdrawn         atomic.Bool // the client may not observe it any more
}

// fresh is how long a client may take what it was told for the newest: there is no sign of life before there is something to be told, and once a day at the
// least such a sign is confirmable.
const fresh = 24 * time.Hour

// patience is how long a device that has begun another association has until what nobody observes is given up, if that keeps other messages away.
const patience = time.Minute

// observe registers the client for a topic or a filter. The answer holds what is retained of a topic; of a filter that follows.
func (x *exchange) observe() coap.Response {
	rel := &relation{filter: x.topic, accept: coap.NoFormat}
	if want, asked := x.Options.Uint(wire.Accept); asked {
		rel.accept = wire.Format(want)
	}
	o, err := x.Observe(func() { x.forget(x.ctx, rel) })
	if err != nil {
		return refuse(err)
	}
	if !x.add(rel, o) { // it has been observed by this token before; the client asks whether that still holds
		return x.first(o)
	}
	handling := byte(2)
	if wildcard(x.topic) {
		handling = 0
	}
	grants := x.conn.Subscribe(x.ctx, []message.Subscription{{Filter: x.topic, QoS: 1, Handling: handling}})
	if len(grants) != 1 {
		err = errEnded
	} else {
		err = grants[0].Err
	}
	if err != nil {
		x.drop(rel)
		o.End()
		return refuse(err)
	}
	out := x.first(o)
	if out.Observed == nil {
		x.forget(x.ctx, rel)
		o.End()
	}
	return out
}

// first is the answer that an observation begins with.
func (x *exchange) first(o *coap.Observation) coap.Response {
	out := coap.Response{Code: wire.Content, Format: coap.NoFormat}
	if !wildcard(x.topic) {
		switch m, err := x.conn.Retained(x.ctx, x.topic); {
		case err == nil:
			out = x.content(m)
		case !errs.Is(err, errs.NotFound):
			return refuse(err)
		}
	}
	if out.Code == wire.Content {
		out.Observed = o
		if out.MaxAge == 0 {
			out.MaxAge = fresh
		}
	}
	return out
}

// unobserve ends what the client observes by the token of the request, or what it observed over an association that is no more.
func (x *exchange) unobserve() {
	x.Forget()
	x.mu.Lock()
	observed := x.observes(x.topic)
	x.mu.Unlock()
	if !observed {
		x.conn.Unsubscribe(x.ctx, []string{x.topic})
	}
}

// observes reports whether a relation has this filter. The caller holds mu.
func (s *session) observes(filter string) bool {
	return slices.ContainsFunc(s.relations, func(rel *relation) bool { return rel.filter == filter })
}

// add notes a relation, and hands over what has waited for it. It reports false when o belongs to one already.
func (s *session) add(rel *relation, o *coap.Observation) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if slices.ContainsFunc(s.relations, func(other *relation) bool { return other.Observation == o }) {
		return false
	}
	rel.Observation = o
	s.relations = append(s.relations, rel)
	waited := s.orphans
	s.orphans = nil
	for _, d := range waited {
		s.deliver(d)
	}
	s.press()
	return true
}

// drop takes a relation away.
func (s *session) drop(rel *relation) (last bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.relations = slices.DeleteFunc(s.relations, func(other *relation) bool { return other == rel })
	return !s.observes(rel.filter)
}

// forget ends the subscription of a relation that the client does not want any more.
func (s *session) forget(ctx context.Context, rel *relation) {
	s.counts.unwatched.Add(1)
	if !s.drop(rel) {
		return
	}
	s.mu.Lock()
	conn := s.conn
	s.mu.Unlock()
	conn.Unsubscribe(ctx, []string{rel.filter})
}

// Withdrawn is called when the policy does not allow a subscription any more: those who observe it hear so, and nothing else.
func (s *session) Withdrawn(filter string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.relations = slices.DeleteFunc(s.relations, func(rel *relation) bool {
		if rel.filter != filter {
			return false
		}
		rel.withdrawn.Store(true)
		rel.Notify(coap.Notice{Response: coap.RefuseAs(wire.Forbidden, "this may not be observed any more"), Final: true})
		return true
	})
}

// Deliver is that of message.Link.
func (s *session) Deliver(d message.Delivery) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if d.Release { // of a message that the session got over MQTT: there is nothing to say here
		if s.conn == nil {
			s.releases = append(s.releases, d)
		} else {
			go s.conn.Completed(d.ID)
		}
		return true
	}
	return s.deliver(d)
}

// deliver tells d to each relation that it is for. The caller holds mu.
func (s *session) deliver(d message.Delivery) bool {
	if s.closed != 0 {
		return true
	}
	told := &telling{session: s, d: d}
	told.left.Store(1) // this call
	var lost []*relation
	for _, rel := range s.relations {
		if !mqtt.Match(rel.filter, d.Message.Topic) {
			continue
		}
		n := s.notice(rel, told)
		if n.Final {
			lost = append(lost, rel)
		} else {
			told.left.Add(1)
			told.to = append(told.to, rel)
		}
		if !rel.Notify(n) && !n.Final {
			told.left.Add(-1)
		}
	}
	s.relations = slices.DeleteFunc(s.relations, func(rel *relation) bool { return slices.Contains(lost, rel) })
	switch {
	case told.left.Load() > 1 || told.had.Load():
		if told.left.Add(-1) == 0 {
			go told.finish() // whoever delivers may hold what the connection needs
		}
		return true
	case d.ID == 0:
		return false
	}
	s.wait(d)
	return true
}

// wait keeps what nobody observes yet. The caller holds mu.
func (s *session) wait(d message.Delivery) {
	s.orphans = append(s.orphans, d)
	s.press()
}

// telling is a delivery on its way to one observation or more.
type telling struct {
	*session
	d    message.Delivery
	to   []*relation
	left atomic.Int32 // of whom it is not known yet
	had  atomic.Bool  // one has it, or a newer one
}

func (t *telling) done(out coap.Outcome) {
	switch out {
	case coap.Told:
		t.counts.told.Add(1)
		t.had.Store(true)
	case coap.Superseded:
		t.counts.superseded.Add(1)
		t.had.Store(true)
	}
	if t.left.Add(-1) == 0 {
		t.finish()
	}
}

// finish says that the device has the message, or has it wait for another observation. What it may not have any more counts as had.
func (t *telling) finish() {
	if t.d.ID == 0 {
		return
	}
	settled := t.had.Load() || slices.ContainsFunc(t.to, func(rel *relation) bool { return rel.withdrawn.Load() })
	t.mu.Lock()
	conn, over := t.conn, t.closed != 0
	if !settled && !over {
		t.wait(t.d)
	}
	t.mu.Unlock()
	if settled && !over {
		acknowledge(conn, t.d)
	}
}

// notice is the notification of a message.
func (s *session) notice(rel *relation, told *telling) coap.Notice {
	d := told.d
	n := coap.Notice{Response: body(d.Message), Confirmable: d.ID != 0 || d.Message.Stream == message.Down, Done: told.done}
	n.MaxAge = fresh
	if rel.accept != coap.NoFormat && n.Format != rel.accept { // RFC 7641, section 4.2
		n.Response, n.Final = coap.RefuseAs(wire.NotAcceptable, "the next message has another content format"), true
		n.Done = nil
	}
	if wildcard(rel.filter) { // which topic it is, in options that the client may pass over
		for level := range strings.SplitSeq(root[1:]+"/"+d.Message.Topic, "/") {
			n.Options = append(n.Options, wire.Option{Number: wire.LocationPath, Value: []byte(level)})
		}
	}
	if d.Message.Stream != message.Down && (d.ID == 0 || d.Message.Retain) {
		n.Newest = d.Message.Topic
	}
	return n
}

// press has orphans given up after a while when they leave no room for other messages. The caller holds mu.
func (s *session) press() {
	full := len(s.orphans) >= s.Window
	switch {
	case full && s.pressing == nil && len(s.relations) > 0:
		s.pressing = time.AfterFunc(patience, s.giveUp)
	case !full && s.pressing != nil:
		s.pressing.Stop()
		s.pressing = nil
	}
}

// giveUp takes for received what the device does not observe any more.
func (s *session) giveUp() {
	s.mu.Lock()
	lost, conn := s.orphans, s.conn
	s.orphans, s.pressing = nil, nil
	over := s.closed != 0
	s.mu.Unlock()
	if over || conn == nil || len(lost) == 0 {
		return
	}
	s.counts.givenUp.Add(int64(len(lost)))
	s.Log.Info("messages that a device does not observe any more are given up", slog.Int("messages", len(lost)))
	for _, d := range lost {
		acknowledge(conn, d)
	}
}

func acknowledge(conn Conn, d message.Delivery) {
	switch {
	case d.QoS == 2:
		conn.Received(d.ID)
	case d.ID != 0:
		conn.Acked(d.ID)
	}
}
