package message

import (
	"context"
	"hash/fnv"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// maxShared is how many messages a group keeps while all its members have as many on their way as they may have.
const maxShared = 1000

// share is a group that shares a subscription ($share/NAME/FILTER; MQTT 5.0, section 4.8.2): each message goes to that member which has the fewest on
// their way. Members are those that are connected. Where several nodes have some, each message is one node's: of those that serve the group the one to which hashing
// gives it (rendezvous hashing). Nodes tell each other when their first member comes and their last one goes, and hear it at different times. A message may then
// come to two of them; it is lost only where there is no member at all, or in the memory of a node that dies. For that, whom a node takes for one that serves must do so:
//
//   - The first member: a node serves before it says so. Who hears of it leaves to it only what all who know it leave to it.
//   - The last one: the node serves on, and leaves its messages to the others (Take), until all of them have said up to where in the streams they leave some to it.
//   - A node that dies: who finds that it was not heard of for long reads again what was left to it since, and some of what was before.
type share struct {
	nodes atomic.Pointer[serving] // nil = this one alone

	mu      sync.Mutex
	members []*sub // guarded by mu
	waiting []item // guarded by mu: what no member had room for
}

// serving are the nodes that serve a group, by digests of their names.
type serving struct {
	self   uint64
	others []uint64
}

func digest(node string) uint64 {
	h := fnv.New64a()
	h.Write([]byte(node))
	return h.Sum64()
}

// weight is how much a node draws the message at a place (the end of splitmix64).
func weight(node, seq uint64) uint64 {
	x := node ^ seq*0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
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

// offer gives a message to the member with the fewest on their way, or keeps it until one has room. Else it reports whether there is no member, or it was dropped.
func (g *share) offer(i item) (taken, nobody bool) {
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
			return true, false
		}
		members[best] = nil
	}
	if taken, nobody = g.keep(i); taken {
		g.lookAgain()
	}
	return taken, nobody
}

// keep is offer when no member has room.
func (g *share) keep(i item) (kept, nobody bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case len(g.members) == 0:
		return false, true
	case i.m.QoS == 0, len(g.waiting) >= maxShared, !slices.ContainsFunc(g.members, func(s *sub) bool { return s.owner.mayReceive(i.m.Topic) }):
		return false, false
	}
	g.waiting = append(g.waiting, i)
	return true, false
}

// lookAgain gives what waits to members that got room, or came, before it did.
func (g *share) lookAgain() {
	g.mu.Lock()
	members := append([]*sub(nil), g.members...)
	g.mu.Unlock()
	for _, s := range members {
		s.owner.refill()
	}
}

// mine reports whether the message at a place is this node's.
func (g *share) mine(seq uint64) bool {
	nodes := g.nodes.Load()
	if nodes == nil {
		return true
	}
	own := weight(nodes.self, seq)
	for _, other := range nodes.others {
		if weight(other, seq) > own {
			return false
		}
	}
	return true
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

	marks uint64 // guarded by mu: the last leaving.mark
}

type groupEntry struct {
	share   *share
	entry   *sub              // in the index, for all members of this node
	others  map[string]server // guarded by groups.mu: nodes that serve the group
	left    map[string]left   // guarded by groups.mu: nodes that do not any more
	leaving *leaving          // guarded by groups.mu: nil while there are members
}

// server is another node that has members.
type server struct {
	at            time.Time       // when it said so last
	heads, before [streams]uint64 // up to where this node was then with the streams, and the time before
}

// left is a node that has no members any more: what lies behind heads this one takes itself if it is its own, although the other may still leave it to it.
type left struct {
	heads [streams]uint64
	at    time.Time
}

// leaving is a group without members here that is still served.
type leaving struct {
	mark  uint64 // the number of what was announced
	heard bool   // it came back
	at    time.Time
	told  map[string][streams]uint64 // up to where in the streams others leave messages to this node
}

// spread is what nodes tell each other about groups.
type spread struct {
	Filters []string // the groups
	On      bool     // the node has members
	Ask     bool     // … since now, and wants to know who else has
	Take    bool     // the message is left to the others
	Stream  Stream   `json:",omitempty"`
	Seq     uint64   `json:",omitempty"`

	Mark  uint64          `json:",omitempty"` // of who has no members any more: a number
	Left  string          `json:",omitempty"` // that this node has none any more, the one that says this has heard, under that number
	Heads [streams]uint64 `json:",omitzero"`  // … and leaves nothing to it that lies behind these
}

// count has the nodes that serve be those that are known. groups.mu is held.
func (e *groupEntry) count(self string) {
	if len(e.others) == 0 {
		e.share.nodes.Store(nil)
		return
	}
	nodes := &serving{self: digest(self)}
	for node := range e.others {
		nodes.others = append(nodes.others, digest(node))
	}
	e.share.nodes.Store(nodes)
}

// heard notes that a node has members. groups.mu is held.
func (e *groupEntry) heard(node string, now server) {
	now.before = now.heads
	if last, known := e.others[node]; known {
		now.before = last.heads
	}
	e.others[node] = now
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
		e = &groupEntry{share: &share{}, others: map[string]server{}, left: map[string]left{}}
		e.entry = &sub{Subscription: Subscription{Filter: x.Filter}, inner: x.inner, share: e.share}
		s.groups.all[x.Filter] = e
		s.index.add(e.entry)
	}
	if e.share.join(x) {
		e.leaving = nil
		e.count(s.node)
		s.tellSpread(spread{Filters: []string{x.Filter}, On: true, Ask: true})
	}
	return e.share
}

// leaveGroup takes x out of its group.
func (s *Service) leaveGroup(x *sub) {
	s.groups.mu.Lock()
	e := s.groups.all[x.Filter]
	if e == nil {
		s.groups.mu.Unlock()
		return
	}
	last, waited := e.share.leave(x)
	if last {
		s.groups.marks++
		e.leaving = &leaving{mark: s.groups.marks, at: s.Now(), told: map[string][streams]uint64{}}
		s.tellSpread(spread{Filters: []string{x.Filter}, Mark: e.leaving.mark})
	}
	s.groups.mu.Unlock()
	for _, i := range waited {
		s.offerShared(x.Filter, e.share, i)
	}
}

// closeGroup has this node serve a group without members no more, when the others leave nothing to it. groups.mu is held.
func (s *Service) closeGroup(filter string) {
	e := s.groups.all[filter]
	if e == nil || e.leaving == nil || !e.leaving.heard {
		return
	}
	if s.Now().Sub(e.leaving.at) <= lostAfter {
		for node := range e.others {
			heads, told := e.leaving.told[node]
			switch {
			case !told:
				return
			case s.behindAny(heads):
				s.hands.after(lateTime, func(context.Context) {
					s.groups.mu.Lock()
					defer s.groups.mu.Unlock()
					s.closeGroup(filter)
				})
				return
			}
		}
	}
	delete(s.groups.all, filter)
	s.index.remove(e.entry)
}

// waitForGroups waits until this node serves no groups any more, for a while.
func (s *Service) waitForGroups(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, groupTime)
	defer cancel()
	for ctx.Err() == nil {
		s.groups.mu.Lock()
		n := len(s.groups.all)
		s.groups.mu.Unlock()
		if n == 0 {
			return
		}
		pause(ctx, lateTime)
	}
}

// behindAny reports whether something up to these places is still to be given to the subscriptions of this node.
func (s *Service) behindAny(places [streams]uint64) bool {
	for x, place := range places {
		if s.streams[x].head.Load() < place && (Stream(x) != Up || s.up.followed()) {
			return true
		}
	}
	return false
}

// leaveToOthers has another node give a message to one of its members. It reports false when there is none.
func (s *Service) leaveToOthers(filter string, g *share, i item) bool {
	if i.m.QoS == 0 || i.m.Seq == 0 || g.nodes.Load() == nil {
		return false
	}
	s.tellSpread(spread{Filters: []string{filter}, Take: true, Stream: i.m.Stream, Seq: i.m.Seq})
	return true
}

// offerShared gives a message to a group.
func (s *Service) offerShared(filter string, g *share, i item) {
	if taken, nobody := g.offer(i); !taken && !(nobody && s.leaveToOthers(filter, g, i)) {
		s.metrics.SharedDropped.Add(1)
	}
}

// heardSpread is what another node, or this one, has announced.
func (s *Service) heardSpread(node string, x *spread) {
	s.groups.mu.Lock()
	defer s.groups.mu.Unlock()
	var asked []string
	for _, filter := range x.Filters {
		e := s.groups.all[filter]
		switch {
		case e == nil:
		case x.Left != "":
			if l := e.leaving; x.Left == s.node && l != nil && l.mark == x.Mark {
				l.told[node] = x.Heads
				s.closeGroup(filter)
			}
		case x.Take:
			if l, gone := e.left[node]; node != s.node && e.share.mine(x.Seq) && !(gone && x.Seq > l.heads[x.Stream]) {
				s.hands.do(func(ctx context.Context) { s.takeShared(ctx, x, e.share) })
			}
		case node == s.node:
			if l := e.leaving; !x.On && l != nil && l.mark == x.Mark {
				l.heard = true
				s.closeGroup(filter)
			}
		case x.On:
			e.heard(node, server{at: s.Now(), heads: s.heads()})
			delete(e.left, node)
			e.count(s.node)
			if x.Ask && e.leaving == nil {
				asked = append(asked, filter)
			}
		default:
			delete(e.others, node)
			e.count(s.node)
			l := left{at: s.Now()}
			for i := range l.heads { // what is being dispatched now is known
				l.heads[i] = s.streams[i].now()
			}
			e.left[node] = l
			s.tellSpread(spread{Filters: []string{filter}, Left: node, Mark: x.Mark, Heads: l.heads})
			s.closeGroup(filter) // if it was the last that this one waited for
		}
	}
	if len(asked) > 0 {
		s.tellSpread(spread{Filters: asked, On: true})
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
		s.forgetDead(filter, e)
		for node, l := range e.left {
			if s.Now().Sub(l.at) > lostAfter {
				delete(e.left, node)
			}
		}
		if e.leaving == nil {
			here = append(here, filter)
		}
		s.closeGroup(filter)
	}
	for part := range slices.Chunk(here, 100) {
		s.tellSpread(spread{Filters: part, On: true})
	}
}
