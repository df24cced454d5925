package message

import (
	"context"
	"errors"
	"slices"

	"mooring/internal/base/errs"
	"mooring/internal/core/message/policy"
	"mooring/wire/mqtt"
)

// Subscribe adds or replaces subscriptions; each has its own grant. Retained messages may come before it returns. A session is stored before it returns.
func (c *Conn) Subscribe(ctx context.Context, list []Subscription) []Grant {
	grants := make([]Grant, len(list))
	limits := &c.rights.Load().Limits
	added := make([]*sub, len(list))
	isNew := make([]bool, len(list))
	for i := range list {
		if i >= limits.Filters {
			c.s.metrics.SubscribeQuota.Add(1)
			grants[i].Err = errs.New(errs.Limited, "one request may have %d filters", limits.Filters)
			continue
		}
		added[i], isNew[i], grants[i] = c.subscribe(ctx, &list[i], false)
	}
	c.refuseFilters(ctx, grants)
	for i, s := range added { // before it is stored: what is to come must not be forgotten either
		if s != nil {
			c.replay(ctx, s, isNew[i])
		}
	}
	if err := c.store(ctx); err != nil { // what the peer is told and what it has would not be the same
		c.end(ReasonFabric, Farewell{})
		for i := range grants {
			grants[i] = Grant{Err: err}
		}
	}
	return grants
}

// refuseFilters has it recorded when filters of one request were refused: once, however many there were.
func (c *Conn) refuseFilters(ctx context.Context, grants []Grant) {
	for i := range grants {
		var by errPolicy
		switch err := grants[i].Err; {
		case errors.As(err, &by):
			c.refuse(ctx, refusedFilter, codeDetail(by.code))
			return
		case errs.Is(err, errs.Limited):
			c.refuse(ctx, refusedFilters, nil)
			return
		}
	}
}

// store writes the record now.
func (c *Conn) store(ctx context.Context) error {
	c.mu.Lock()
	c.version++
	c.mu.Unlock()
	return c.save(ctx)
}

// subscribe adds or replaces one subscription. With again it is one that was lost: if the peer has taken it back meanwhile, nothing is added.
func (c *Conn) subscribe(ctx context.Context, want *Subscription, again bool) (*sub, bool, Grant) {
	s, err := c.grantNow(ctx, want)
	if err != nil {
		c.mu.Lock()
		defer c.mu.Unlock()
		if !again && errs.Is(err, errs.Denied) {
			c.recall(want.Filter) // the peer is told that it has none
		}
		return nil, false, Grant{Err: err}
	}
	old := c.subs[s.Filter]
	if again && (old != nil || !slices.ContainsFunc(c.lost, func(l Subscription) bool { return l == *want })) {
		c.mu.Unlock()
		return nil, false, Grant{}
	}
	if c.ended || old == nil && len(c.subs) >= c.rights.Load().Limits.Subscriptions {
		ended := c.ended
		c.mu.Unlock()
		if ended {
			return nil, false, Grant{Err: errGone}
		}
		c.s.metrics.SubscribeQuota.Add(1)
		return nil, false, Grant{Err: errs.New(errs.Limited, "a session may have %d subscriptions", c.rights.Load().Limits.Subscriptions)}
	}
	c.recall(s.Filter)
	if old != nil {
		s.since = old.since // what it is behind with still comes
		c.letGo(old)
	}
	if s.heard && c.heard == 0 && !c.behind {
		c.pos[Up] = max(c.pos[Up], s.since[Up])
	}
	c.hold(s)
	c.mu.Unlock()
	c.s.joinFor(s, old)
	c.s.metrics.Subscribed.Add(1)
	return s, old == nil, Grant{QoS: s.granted}
}

// grantNow is grant for the rights that the connection has when it returns, and then c.mu is held unless there is an error: the rights may change while the
// stream is waited for.
func (c *Conn) grantNow(ctx context.Context, want *Subscription) (*sub, error) {
	for {
		rights := c.rights.Load()
		s, err := c.grant(want)
		if err != nil {
			c.s.metrics.SubscribeDenied.Add(1)
			return nil, err
		}
		if s.heard {
			if err := c.s.up.wait(ctx, c.s); err != nil {
				return nil, err
			}
		}
		for stream := Up; stream <= Cast; stream++ {
			s.since[stream] = c.s.streams[stream].now()
		}
		c.mu.Lock()
		if c.rights.Load() == rights {
			return s, nil
		}
		c.mu.Unlock()
	}
}

// grant asks the policy for one subscription.
func (c *Conn) grant(want *Subscription) (*sub, error) {
	if err := mqtt.CheckFilter(want.Filter, nil); err != nil {
		return nil, errPolicy{errs.Wrap(errs.Invalid, err, "that is no topic filter"), policy.Malformed}
	}
	_, inner, shared, err := mqtt.Shared(want.Filter)
	if err != nil || shared && want.NoLocal {
		return nil, errPolicy{errs.Wrap(errs.Invalid, err, "that is no shared subscription"), policy.Malformed}
	}
	v := c.rights.Load().Subscribe(inner, want.QoS, shared)
	if !v.OK() {
		return nil, errPolicy{v.Err(), v.Code}
	}
	s := &sub{Subscription: *want, inner: inner, granted: v.QoS, owner: c, partial: v.Partial}
	s.heard = c.s.policy.Load().heard(c.isService(), inner)
	if shared {
		s.shared = true
	}
	return s, nil
}

// hold and letGo keep the session's own list. c.mu is held.
func (c *Conn) hold(s *sub) {
	if c.subs == nil {
		c.subs = make(map[string]*sub, 1)
	}
	c.subs[s.Filter] = s
	if s.heard {
		c.heard++
	}
}

func (c *Conn) letGo(s *sub) {
	delete(c.subs, s.Filter)
	if s.heard {
		c.heard--
	}
	for i := range c.shared {
		if c.shared[i] == s {
			c.shared = append(c.shared[:i:i], c.shared[i+1:]...)
			break
		}
	}
}

// joinFor is join, and leave for what x replaces, if that is not nil. Of one that is not shared no message is missed meanwhile, or heard by both.
func (s *Service) joinFor(x, old *sub) {
	if old == nil || x.shared || !s.swap(x, old) {
		s.join(x)
	}
	if old != nil {
		s.leave(old)
	}
}

// swap puts x in the place of old and reports whether it did.
func (s *Service) swap(x, old *sub) bool {
	old.mu.Lock()
	defer old.mu.Unlock()
	x.mu.Lock()
	defer x.mu.Unlock()
	if !old.joined || old.left || x.left {
		return false
	}
	if x.heard != old.heard { // the policy changed meanwhile
		s.up.want(boolToInt(x.heard) - boolToInt(old.heard))
	}
	s.index.swap(old, x)
	old.joined, old.left, x.joined = false, true, true
	return true
}

func boolToInt(b bool) int {
	if b {
		return 1
	}
	return 0
}

// join has x hear what comes from now on.
func (s *Service) join(x *sub) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.left || x.joined {
		return
	}
	x.joined = true
	if x.heard {
		s.up.want(1)
	}
	if !x.shared {
		s.index.add(x)
		return
	}
	g := s.joinGroup(x)
	c := x.owner
	c.mu.Lock()
	defer c.mu.Unlock()
	x.share = g
	if c.subs[x.Filter] == x {
		c.shared = append(c.shared, x)
	}
	if !c.ended && len(c.again) == 0 { // else what was on its way comes first
		c.fill() // with what waits there for a member that has room
	}
}

// leave takes s out of what hears.
func (s *Service) leave(x *sub) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if !x.joined {
		x.left = true
		return
	}
	x.joined, x.left = false, true
	if x.heard {
		s.up.want(-1)
	}
	if !x.shared {
		s.index.remove(x)
		return
	}
	s.leaveGroup(x)
}

// Unsubscribe removes subscriptions; each has its own answer, nil or of kind NotFound.
func (c *Conn) Unsubscribe(ctx context.Context, filters []string) []error {
	answers := make([]error, len(filters))
	for i, filter := range filters {
		if !c.unsubscribe(filter, false) {
			answers[i] = errs.New(errs.NotFound, "there is no such subscription")
		}
	}
	if err := c.store(ctx); err != nil {
		for i := range answers {
			answers[i] = err
		}
	}
	return answers
}

// unsubscribe ends a subscription and reports whether there was one. With lost it was taken away, and the session keeps it in mind; else one that was lost is
// forgotten.
func (c *Conn) unsubscribe(filter string, lost bool) bool {
	c.mu.Lock()
	had := !lost && c.recall(filter)
	s := c.subs[filter]
	if s == nil || c.ended {
		c.mu.Unlock()
		return had
	}
	c.letGo(s)
	if lost {
		c.lose(s.Subscription)
	}
	c.mu.Unlock()
	c.s.leave(s)
	c.s.giveBack(s.Filter, s.share, c.sharedFlights(s))
	return true
}

// sharedFlights takes out what waits for a member of a group that leaves it. What is on its way to it already stays with it.
func (c *Conn) sharedFlights(s *sub) (list []item) {
	if !s.shared {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	rest := c.pending[:0:0]
	for _, i := range c.pending {
		if i.share == s.share {
			list = append(list, i)
			c.waits -= len(i.m.Payload)
			continue
		}
		rest = append(rest, i)
	}
	c.pending = rest
	return list
}

// giveBack gives a group messages back that a member left unacknowledged.
func (s *Service) giveBack(filter string, g *share, list []item) {
	for _, i := range list {
		i.qos, i.ids = 0, nil // each member has its own
		s.offerShared(filter, g, i)
	}
}

// dispatch gives a message that was just stored to the subscriptions that match it. There is one caller for each stream; found and hits are its own.
func (s *Service) dispatch(m *Message, d *dispatcher) {
	d.found = s.index.match(d.found[:0], m.Topic)
	d.turn++
	d.hits = d.hits[:0]
	for _, x := range d.found {
		switch {
		case x.tap != nil:
			x.tap.offer(m)
		case x.share != nil:
			if x.share.mine(m.Seq) {
				s.offerShared(x.Filter, x.share, item{m: m, share: x.share})
			}
		case m.Seq <= x.since[m.Stream] || x.NoLocal && x.owner.said(m):
		default:
			d.add(m, x)
		}
	}
	for i := range d.hits {
		d.hits[i].c.hear(d.hits[i].item)
	}
	clear(d.found)
	clear(d.hits)
}

// dispatcher is the memory of one stream's dispatch.
type dispatcher struct {
	found []*sub
	hits  []hit
	turn  uint64
	place map[*Conn]int // of hits, when there are many
}

type hit struct {
	c *Conn
	item
}

// add merges x into the hit of its connection. With few hits looking through them is the fastest; with many a map is.
func (d *dispatcher) add(m *Message, x *sub) {
	const few = 16
	if len(d.hits) == few {
		d.place = make(map[*Conn]int, 2*few)
		for i := range d.hits {
			d.place[d.hits[i].c] = i
		}
	}
	at := -1
	if len(d.hits) < few {
		for i := range d.hits {
			if d.hits[i].c == x.owner {
				at = i
			}
		}
	} else if i, ok := d.place[x.owner]; ok {
		at = i
	}
	if at < 0 {
		at = len(d.hits)
		d.hits = append(d.hits, hit{c: x.owner})
		if len(d.hits) > few {
			d.place[x.owner] = at
		}
	}
	d.hits[at].merge(m, x)
}

// heard reports whether the stream Up is to be followed for a filter: devices may publish what it matches, or it is a service's, who hears what other services
// say to no device in particular, too.
func (r *ruling) heard(service bool, filter string) bool { return service || r.set.Heard(filter) }
