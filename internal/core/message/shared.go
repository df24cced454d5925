package message

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// maxShared is how many messages a group keeps while all its members have as many on their way as they may have.
const maxShared = 1000

// share is a group that shares a subscription ($share/NAME/FILTER; MQTT 5.0, section 4.8.2): each message goes to that member which has the fewest on
// their way. Members are those that are connected. Where several nodes have some, they take turns: nodes tell each other when their first member comes and
// their last one goes, and what a node cannot give to a member any more it leaves to the others. While that changes a message may come to two of them; it is
// lost only where there is no member at all.
type share struct {
	nodes atomic.Pointer[[]string] // those that have members, in order; nil = this one alone

	mu      sync.Mutex
	members []*sub // guarded by mu
	waiting []item // guarded by mu: what no member had room for
}

// join adds a member and reports whether it is the first.
func (g *share) join(s *sub) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.members = append(g.members, s)
	return len(g.members) == 1
}

// leave takes a member out and reports whether it was the last; what waited is for other nodes then.
func (g *share) leave(s *sub) (last bool, waited []item) {
	g.mu.Lock()
	defer g.mu.Unlock()
	before := len(g.members)
	g.members = without(g.members, s)
	if before > 0 && len(g.members) == 0 {
		waited, g.waiting = g.waiting, nil
		return true, waited
	}
	return false, nil
}

func (g *share) empty() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.members) == 0
}

// offer gives a message to the member with the fewest on their way, or keeps it until one has room. It reports false when it was dropped.
func (g *share) offer(i item) bool {
	g.mu.Lock()
	members := append([]*sub(nil), g.members...)
	g.mu.Unlock()
	for range members {
		best, least := -1, 0
		for at, s := range members {
			if s == nil {
				continue
			}
			if load, room := s.owner.load(); room && (best < 0 || load < least) {
				best, least = at, load
			}
		}
		if best < 0 {
			break
		}
		if members[best].owner.take(members[best], i) {
			return true
		}
		members[best] = nil
	}
	if i.m.QoS == 0 || len(members) == 0 {
		return false
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.waiting) >= maxShared || !slices.ContainsFunc(g.members, func(s *sub) bool { return s.owner.mayReceive(i.m.Topic) }) {
		return false
	}
	g.waiting = append(g.waiting, i)
	return true
}

// mine reports whether it is this node's turn.
func (g *share) mine(seq uint64, node string) bool {
	nodes := g.nodes.Load()
	return nodes == nil || len(*nodes) < 2 || (*nodes)[seq%uint64(len(*nodes))] == node
}

// next returns what waits longest of what s, a member that has room again, may have.
func (g *share) next(s *sub) (i item, ok bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	at := slices.IndexFunc(g.waiting, func(i item) bool { return s.owner.mayReceive(i.m.Topic) })
	if at < 0 {
		return item{}, false
	}
	i = g.waiting[at]
	if at > 0 {
		g.waiting = slices.Delete(g.waiting, at, at+1)
		return i, true
	}
	g.waiting[0] = item{}
	g.waiting = g.waiting[1:]
	return i, true
}

// groups are those that share subscriptions, by $share/NAME/FILTER.
type groups struct {
	mu  sync.Mutex
	all map[string]*groupEntry // guarded by mu
}

type groupEntry struct {
	share  *share
	entry  *sub                 // in the index, for all members of this node
	others map[string]time.Time // guarded by groups.mu: nodes that have members, and when they said so last
}

// spread is what nodes tell each other about groups.
type spread struct {
	Filters []string // the groups
	On      bool     // the node has members
	Ask     bool     // … since now, and wants to know who else has
	Take    bool     // the message is left to the others
	Stream  Stream   `json:",omitempty"`
	Seq     uint64   `json:",omitempty"`
}

// count has the nodes that have members be those that are known. groups.mu is held.
func (e *groupEntry) count(self string) {
	if len(e.others) == 0 {
		e.share.nodes.Store(nil)
		return
	}
	nodes := []string{}
	if !e.share.empty() {
		nodes = append(nodes, self)
	}
	for node := range e.others {
		nodes = append(nodes, node)
	}
	slices.Sort(nodes)
	e.share.nodes.Store(&nodes)
}

// tellSpread announces something about groups, without waiting, one after the other.
func (s *Service) tellSpread(x spread) {
	t := &s.telling
	t.mu.Lock()
	defer t.mu.Unlock()
	t.list = append(t.list, x)
	if !t.busy {
		t.busy = true
		s.hands.do(s.tellAll)
	}
}

// telling is what is to be announced about groups.
type telling struct {
	mu   sync.Mutex
	list []spread // guarded by mu
	busy bool     // guarded by mu: somebody does
}

func (s *Service) tellAll(ctx context.Context) {
	t := &s.telling
	for {
		t.mu.Lock()
		if len(t.list) == 0 {
			t.busy = false
			t.mu.Unlock()
			return
		}
		x := t.list[0]
		t.list = t.list[1:]
		t.mu.Unlock()
		a := announcement{Node: s.node, Spread: &x}
		if err := s.Fabric.Announce(ctx, a.bytes()); err != nil && ctx.Err() == nil {
			s.metrics.AnnounceFailed.Add(1)
		}
	}
}

// joinGroup makes x a member of its group, which it returns.
func (s *Service) joinGroup(x *sub) *share {
	s.groups.mu.Lock()
	defer s.groups.mu.Unlock()
	e := s.groups.all[x.Filter]
	if e == nil {
		if s.groups.all == nil {
			s.groups.all = map[string]*groupEntry{}
		}
		e = &groupEntry{share: &share{}, others: map[string]time.Time{}}
		e.entry = &sub{Subscription: Subscription{Filter: x.Filter}, inner: x.inner, share: e.share}
		s.groups.all[x.Filter] = e
		s.index.add(e.entry)
	}
	if e.share.join(x) {
		e.count(s.node)
		s.tellSpread(spread{Filters: []string{x.Filter}, On: true, Ask: true})
	}
	return e.share
}

// leaveGroup takes x out of its group. When it was the last, the group stays until the other nodes have heard that.
func (s *Service) leaveGroup(x *sub) {
	s.groups.mu.Lock()
	e := s.groups.all[x.Filter]
	if e == nil {
		s.groups.mu.Unlock()
		return
	}
	last, waited := e.share.leave(x)
	if last {
		e.count(s.node)
		s.tellSpread(spread{Filters: []string{x.Filter}})
	}
	s.groups.mu.Unlock()
	for _, i := range waited {
		s.leaveToOthers(x.Filter, e.share, i)
	}
}

// leaveToOthers has another node give a message to one of its members. It reports false when there is none.
func (s *Service) leaveToOthers(filter string, g *share, i item) bool {
	nodes := g.nodes.Load()
	if i.m.QoS == 0 || i.m.Seq == 0 || nodes == nil || len(*nodes) == 0 || len(*nodes) == 1 && (*nodes)[0] == s.node {
		return false
	}
	s.tellSpread(spread{Filters: []string{filter}, Take: true, Stream: i.m.Stream, Seq: i.m.Seq})
	return true
}

// offerShared gives a message to a group.
func (s *Service) offerShared(filter string, g *share, i item) {
	if !g.offer(i) && !(g.empty() && s.leaveToOthers(filter, g, i)) {
		s.metrics.SharedDropped.Add(1)
	}
}

// heardSpread is what another node, or this one, has announced.
func (s *Service) heardSpread(node string, x *spread) {
	s.groups.mu.Lock()
	var asked []string
	var take *share
	for _, filter := range x.Filters {
		e := s.groups.all[filter]
		switch {
		case e == nil:
			continue
		case node == s.node:
			if !x.On && !x.Take && e.share.empty() { // everybody has heard it
				delete(s.groups.all, filter)
				s.index.remove(e.entry)
			}
			continue
		case x.Take:
			take = e.share
			continue
		case x.On:
			e.others[node] = s.Now()
		default:
			delete(e.others, node)
		}
		e.count(s.node)
		if x.Ask && !e.share.empty() {
			asked = append(asked, filter)
		}
	}
	s.groups.mu.Unlock()
	if len(asked) > 0 {
		s.tellSpread(spread{Filters: asked, On: true})
	}
	if take != nil && take.mine(x.Seq, s.node) && !take.empty() {
		s.hands.do(func(ctx context.Context) { s.takeShared(ctx, x, take) })
	}
}

// takeShared gives a message to a member here that another node had no member for any more.
func (s *Service) takeShared(ctx context.Context, x *spread, g *share) {
	m, err := s.stored(ctx, x.Stream, x.Seq)
	switch {
	case err == errLate:
		s.hands.after(lateTime, func(ctx context.Context) { s.takeShared(ctx, x, g) })
	case err != nil && ctx.Err() == nil:
		s.log.LogAttrs(ctx, slog.LevelWarn, "a message that another node left to this one cannot be read", slog.Any("cause", err))
	case m != nil:
		s.offerShared(x.Filters[0], g, item{m: m, share: g})
	}
}

// beatSpread says again which groups have members here, and forgets nodes that have not said so for long.
func (s *Service) beatSpread() {
	s.groups.mu.Lock()
	defer s.groups.mu.Unlock()
	var here []string
	for filter, e := range s.groups.all {
		before := len(e.others)
		for node, at := range e.others {
			if s.Now().Sub(at) > lostAfter {
				delete(e.others, node)
			}
		}
		if len(e.others) != before {
			e.count(s.node)
		}
		if !e.share.empty() {
			here = append(here, filter)
		}
	}
	for part := range slices.Chunk(here, 100) {
		s.tellSpread(spread{Filters: part, On: true})
	}
}
