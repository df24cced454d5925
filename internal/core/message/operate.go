package message

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"math"
	"slices"
	"strconv"
	"strings"
	"sync"
	"unicode/utf8"

	"mooring/internal/base/errs"
	"mooring/internal/core/access"
	"mooring/internal/core/audit"
	"mooring/internal/core/device"
	"mooring/internal/core/message/policy"
	"mooring/wire/mqtt"
)

// LiveFilter selects connections; fields that are set must fit.
type LiveFilter struct {
	Thing string
	Group string // of the policy
	Limit int    // 0 = 100, at most 10,000
}

// LiveConn is one connection of this node, for people.
type LiveConn struct {
	Thing, Client, Group string // the policy's group
	Front, Address       string
	ID                   device.ID
	Serial               string // content octets
	Since                int64  // Unix seconds
	Subscriptions        int
	InFlight             int // deliveries that were not acknowledged
	Queued               int // octets that wait to be written
	// LastCut is why the thing was cut off last, and CutAt when, Unix seconds; "" and 0 where nothing is known.
	LastCut string
	CutAt   int64
}

// Live returns the connections of this node by thing and client identifier. It needs message.read.
func (s *Service) Live(ctx context.Context, actor access.Actor, f LiveFilter) ([]LiveConn, error) {
	if err := s.Access.Require(ctx, actor, access.MessageRead, "connections"); err != nil {
		return nil, err
	}
	var list []LiveConn
	for _, c := range s.live.all() {
		if l := c.describe(); (f.Thing == "" || f.Thing == l.Thing) && (f.Group == "" || f.Group == l.Group) {
			list = append(list, l)
		}
	}
	slices.SortFunc(list, func(a, b LiveConn) int { return cmp.Or(cmp.Compare(a.Thing, b.Thing), cmp.Compare(a.Client, b.Client)) })
	most := f.Limit
	if most <= 0 {
		most = 100
	}
	return list[:min(len(list), most, 10_000)], nil
}

func (c *Conn) describe() LiveConn {
	queued := c.link.Queued()
	c.mu.Lock()
	l := LiveConn{Thing: c.id.Subject.Thing, Client: c.client, Group: c.rights.Load().Group, Front: c.front, Address: c.address, ID: c.id.ID, Serial: c.id.Serial,
		Since: c.since, Subscriptions: len(c.subs), InFlight: len(c.flights), Queued: queued}
	c.mu.Unlock()
	live := &c.s.live
	live.mu.RLock()
	defer live.mu.RUnlock()
	last := live.lastCuts[c.id.ID]
	l.LastCut, l.CutAt = last.reason, last.at
	return l
}

// LastCut returns why a thing was cut off last by this node and when (Unix seconds), "" when that is not known.
func (s *Service) LastCut(ctx context.Context, actor access.Actor, id device.ID) (reason string, at int64, err error) {
	if err := s.Access.Require(ctx, actor, access.MessageRead, "connections"); err != nil {
		return "", 0, err
	}
	s.live.mu.RLock()
	defer s.live.mu.RUnlock()
	last := s.live.lastCuts[id]
	return last.reason, last.at, nil
}

// PublishAs publishes m for an operator, in the name of the platform, and returns when it is stored. Its topic decides to whom it goes. It needs
// message.publish. Only Topic, Payload, QoS, Retain, Expiry and Properties of m count.
func (s *Service) PublishAs(ctx context.Context, actor access.Actor, m *Message) error {
	if err := s.Access.Require(ctx, actor, access.MessagePublish, "messages"); err != nil {
		return err
	}
	if err := mqtt.CheckTopic(m.Topic, nil); err != nil {
		return errs.Wrap(errs.Invalid, err, "topic: %s", errs.Public(errs.New(errs.Invalid, "%v", err)))
	}
	if m.Topic[0] == '$' || m.QoS > 2 {
		return errs.New(errs.Invalid, "topics that begin with $ are the platform's own, and the quality of service is 0, 1 or 2")
	}
	if err := m.Properties.check(); err != nil {
		return err
	}
	said := &Message{Topic: m.Topic, Payload: m.Payload, QoS: m.QoS, Retain: m.Retain, Expiry: m.Expiry, Properties: m.Properties, At: s.milli()}
	s.address(said)
	if err := s.record(ctx, said.entry(actor)); err != nil {
		return err
	}
	return full(s.store(ctx, said, "", 0))
}

// check refuses properties that no client could read, since it would end its connection over them. It is what the codec asks of those of a packet.
func (p *Properties) check() error {
	limits := (*mqtt.Limits)(nil).Resolved()
	if p.Format > 1 {
		return errs.New(errs.Invalid, "format: it is 0 for octets or 1 for text")
	}
	if lack := noText(p.ContentType); lack != "" {
		return errs.New(errs.Invalid, "content_type: it %s", lack)
	}
	if p.ResponseTopic != "" {
		if err := mqtt.CheckTopic(p.ResponseTopic, nil); err != nil {
			return errs.Wrap(errs.Invalid, err, "response_topic: %s", errs.Public(errs.New(errs.Invalid, "%v", err)))
		}
	}
	if len(p.Correlation) > math.MaxUint16 {
		return errs.New(errs.Invalid, "correlation: it has %d octets, more than %d", len(p.Correlation), math.MaxUint16)
	}
	octets := 0
	for _, pair := range p.User {
		octets += len(pair.Name) + len(pair.Value)
		if lack := cmp.Or(noText(pair.Name), noText(pair.Value)); lack != "" {
			return errs.New(errs.Invalid, "user: a name or value %s", lack)
		}
	}
	if len(p.User) > limits.UserProperties || octets > limits.UserOctets {
		return errs.New(errs.Invalid, "user: there are %d user properties of %d octets, and there may be %d of %d", len(p.User), octets, limits.UserProperties, limits.UserOctets)
	}
	return nil
}

// noText says why MQTT has no such text, or "".
func noText(text string) string {
	switch {
	case len(text) > math.MaxUint16:
		return "has more than 65535 octets"
	case !utf8.ValidString(text) || strings.IndexByte(text, 0) >= 0:
		return "is not UTF-8, or holds U+0000"
	}
	return ""
}

// entry is what is recorded of what an operator publishes: neither topic nor payload, which may tell of people.
func (m *Message) entry(actor access.Actor) audit.Entry {
	topic, payload := sha256.Sum256([]byte(m.Topic)), sha256.Sum256(m.Payload)
	return audit.Entry{Action: "message.publish", Actor: actor.String(), Object: "message",
		Detail: map[string]string{"topic": hex.EncodeToString(topic[:]), "payload": hex.EncodeToString(payload[:]), "octets": strconv.Itoa(len(m.Payload)),
			"retain": strconv.FormatBool(m.Retain)}}
}

// TapFilter says what an operator wants to see.
type TapFilter struct {
	Filter string // a topic filter; "" = everything
	Thing  string // only what this thing published; "" = of all
}

// tap is an operator who looks on.
type tap struct {
	thing string
	mu    sync.Mutex
	more  *sync.Cond
	queue []*Message // guarded by mu
	lost  int64      // guarded by mu
	over  bool       // guarded by mu
}

const maxTapped = 1024 // messages that wait for one tap

func (t *tap) offer(m *Message) {
	if t.thing != "" && t.thing != m.Thing && t.thing != m.Child {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.queue) >= maxTapped {
		t.lost++
		return
	}
	t.queue = append(t.queue, m)
	t.more.Signal()
}

// next waits for what comes; false when the tap is closed.
func (t *tap) next() (list []*Message, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for len(t.queue) == 0 && !t.over {
		t.more.Wait()
	}
	list, t.queue = t.queue, nil
	return list, !t.over
}

func (t *tap) close() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.over = true
	t.more.Broadcast()
}

// Tap shows an operator what is published from now on, until ctx ends or fn returns an error, which Tap returns. ready, if not nil, is called when that has
// begun. Who reads too slowly misses messages, and delays nobody. It needs message.read.
func (s *Service) Tap(ctx context.Context, actor access.Actor, f TapFilter, ready func(), fn func(*Message) error) error {
	if err := s.Access.Require(ctx, actor, access.MessageRead, "messages"); err != nil {
		return err
	}
	if f.Filter == "" {
		f.Filter = "#"
	}
	if err := mqtt.CheckFilter(f.Filter, nil); err != nil || len(f.Filter) > 0 && f.Filter[0] == '$' && f.Filter[:min(len(f.Filter), 7)] == "$share/" {
		return errs.Wrap(errs.Invalid, err, "filter: that is no topic filter; + stands for one level, and # at the end for all that follow")
	}
	leave, err := s.lookOn(actor)
	if err != nil {
		return err
	}
	defer leave()
	if err := s.record(ctx, audit.Entry{Action: "message.tap", Actor: actor.String(), Object: "messages"}); err != nil {
		return err
	}
	if err := s.up.wait(ctx, s); err != nil {
		return err
	}
	t := &tap{thing: f.Thing}
	t.more = sync.NewCond(&t.mu)
	x := &sub{inner: f.Filter, tap: t, heard: true}
	s.join(x)
	defer s.leave(x)
	stop := context.AfterFunc(ctx, t.close)
	defer stop()
	if ready != nil {
		ready()
	}
	for {
		list, ok := t.next()
		if !ok {
			s.metrics.TapDropped.Add(t.lost)
			return nil
		}
		for _, m := range list {
			if err := fn(m); err != nil {
				return err
			}
		}
	}
}

// lookOn counts one more who looks on, until leave is called. There are places for all, so that nobody takes those of the others.
func (s *Service) lookOn(actor access.Actor) (leave func(), err error) {
	who := actor.String()
	s.looking.mu.Lock()
	defer s.looking.mu.Unlock()
	if s.looking.by[who] >= maxTapsEach {
		return nil, errs.New(errs.Limited, "you look on %d times already, which is the most one may: end one of them", maxTapsEach)
	}
	if s.metrics.Taps.Load() >= maxTaps {
		return nil, errs.New(errs.Limited, "%d people look on already, which is the most there may be", maxTaps)
	}
	if s.looking.by == nil {
		s.looking.by = map[string]int{}
	}
	s.looking.by[who]++
	s.metrics.Taps.Add(1)
	return func() {
		s.looking.mu.Lock()
		defer s.looking.mu.Unlock()
		s.metrics.Taps.Add(-1)
		if s.looking.by[who]--; s.looking.by[who] == 0 {
			delete(s.looking.by, who)
		}
	}, nil
}

// looking are those who look on, by who they are. The number of all is metrics.Taps.
type looking struct {
	mu sync.Mutex
	by map[string]int // guarded by mu
}

// Question is what Test is asked.
type Question struct {
	Thing  string
	Client string // "" = the thing's name
	Action string // publish, subscribe, will or receive
	Topic  string // or the filter
	QoS    byte
	Retain bool
	Size   int
}

// Verdict is the answer, and why.
type Verdict struct {
	Allowed bool
	Group   string
	Lines   []string
}

// Test says what the present policy answers to a question, and which rule decides. It needs message.read.
func (s *Service) Test(ctx context.Context, actor access.Actor, q Question) (Verdict, error) {
	if err := s.Access.Require(ctx, actor, access.MessageRead, "policy"); err != nil {
		return Verdict{}, err
	}
	if s.Named == nil {
		return Verdict{}, errs.New(errs.Unavailable, "there is no registry to ask")
	}
	subject, err := s.Named(ctx, q.Thing)
	if errs.Is(err, errs.Denied) { // it is suspended, or worse: that is the answer
		return Verdict{Lines: []string{errs.Public(err)}}, nil
	}
	if err != nil {
		return Verdict{}, err
	}
	known := map[string]device.ID{}
	if s.Children != nil && subject.Kind == policy.Gateway {
		children, err := s.Children(ctx, subject.Thing)
		if err != nil {
			return Verdict{}, err
		}
		subject.Child = func(name string) bool { _, ok := children[name]; return ok }
		known = children
	}
	set := s.policy.Load().set
	var v Verdict
	for _, n := range set.ExplainGroup(subject) {
		v.Lines = append(v.Lines, n.String())
	}
	rights, err := set.Compile(subject)
	if err != nil {
		v.Lines = append(v.Lines, errs.Public(err))
		return v, nil
	}
	v.Group = rights.Group
	client, ok := rights.ClientID(q.Client)
	if !ok {
		v.Lines = append(v.Lines, errs.Public(ErrClient))
		return v, nil
	}
	rights = rights.ForClient(client)
	e, err := explain(rights, q)
	if err != nil {
		return Verdict{}, err
	}
	v.Allowed = e.Verdict.OK()
	v.Lines = append(v.Lines, e.Summary)
	s.testChild(ctx, &v, rights, &q, &e, known)
	for _, n := range e.Rules {
		v.Lines = append(v.Lines, n.String())
	}
	return v, nil
}

// testChild adds what the rules do not say of what a gateway does for a child: who publishes asks whether it is connected itself, and one that may not talk is no
// child.
func (s *Service) testChild(ctx context.Context, v *Verdict, rights *policy.Rights, q *Question, e *policy.Explanation, children map[string]device.ID) {
	if e.Verdict.Code == policy.NotChild {
		for level := range strings.SplitSeq(q.Topic, "/") {
			if _, err := s.Named(ctx, level); errs.Is(err, errs.Denied) {
				v.Lines = append(v.Lines, errs.Public(err)+", so that no gateway may do it for it")
			}
		}
	}
	child := e.Verdict.Child
	if !v.Allowed || q.Action != "publish" || child == "" {
		return
	}
	if _, both := rights.ActFor(child); both {
		return
	}
	if s.live.has(children[child]) {
		v.Allowed = false
		v.Lines = append(v.Lines, child+" is connected itself, and the group does not say act-for children both yes: until it leaves, only it may publish that")
		return
	}
	v.Lines = append(v.Lines, "only while "+child+" is not connected itself: the group does not say act-for children both yes")
}

// Listeners returns how many subscriptions of connections of this node match a topic now.
func (s *Service) Listeners(topic string) (n int) {
	for _, x := range s.index.match(nil, topic) {
		if x.tap == nil {
			n++
		}
	}
	return n
}

func explain(r *policy.Rights, q Question) (policy.Explanation, error) {
	switch q.Action {
	case "publish":
		return r.ExplainPublish(q.Topic, q.QoS, q.Retain, q.Size), nil
	case "will":
		return r.ExplainWill(q.Topic, q.QoS, q.Retain, q.Size), nil
	case "receive":
		return r.ExplainReceive(q.Topic), nil
	case "subscribe":
		_, inner, shared, err := mqtt.Shared(q.Topic)
		if err != nil {
			return policy.Explanation{}, errs.Wrap(errs.Invalid, err, "topic: that is no shared subscription")
		}
		return r.ExplainSubscribe(inner, q.QoS, shared), nil
	}
	return policy.Explanation{}, errs.New(errs.Invalid, "action: use publish, subscribe, receive or will")
}
