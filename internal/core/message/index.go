package message

import (
	"strings"
	"sync"
	"sync/atomic"
)

// index finds the subscriptions of this node that a topic matches. It is a tree of levels. Each node of the tree is there because of a subscription, and goes
// with the last one, so what sessions may subscribe to (policy.Limits) bounds the tree too.
type index struct {
	mu    sync.RWMutex
	root  branch // guarded by mu
	nodes int    // guarded by mu
	count atomic.Int64
}

type branch struct {
	word string             // the level of the only branch below, while there is one: most have no more, and maps take room
	only *branch            // that
	next map[string]*branch // all branches below by level, "+" among them, once there were several
	here []*sub             // whose filters end here
	rest []*sub             // whose filters end here with a further "/#"
}

// sub is one subscription in the index: of a connection, of a group that shares it, or of an operator who looks on.
type sub struct {
	Subscription
	inner   string // the filter without $share/NAME/
	granted byte
	owner   *Conn
	shared  bool   // it is a member's; the group has an entry of its own in the index, with share
	share   *share // of a member: guarded by Conn.mu, nil before it joined
	tap     *tap
	partial bool            // the topic above the /# is not to be delivered unless Rights.Receive says so
	heard   bool            // devices may publish what it matches, so the stream Up is followed for it
	since   [streams]uint64 // what was stored up to there was published before the subscription

	// A connection may end between the moment at which it holds the subscription and that at which the index does: what has left never joins.
	mu           sync.Mutex
	joined, left bool // guarded by mu; mu comes before all other locks
}

// streams is how long arrays are that are indexed by Stream.
const streams = int(Cast) + 1

func (x *index) add(s *sub) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.put(s)
}

// swap puts s in the place of old, between two messages.
func (x *index) swap(old, s *sub) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.take(old)
	x.put(s)
}

func (x *index) put(s *sub) {
	x.count.Add(1)
	at := &x.root
	for rest := s.inner; ; {
		level, tail, more := strings.Cut(rest, "/")
		if level == "#" {
			at.rest = append(at.rest, s)
			return
		}
		child := at.below(level)
		if child == nil {
			child = at.grow(level)
			x.nodes++
		}
		at = child
		if !more {
			at.here = append(at.here, s)
			return
		}
		rest = tail
	}
}

// below returns the branch for a level, or nil.
func (b *branch) below(level string) *branch {
	if b.next != nil {
		return b.next[level]
	}
	if b.only != nil && b.word == level {
		return b.only
	}
	return nil
}

func (b *branch) grow(level string) *branch {
	child := &branch{}
	switch {
	case b.next != nil:
		b.next[level] = child
	case b.only == nil:
		b.word, b.only = level, child
	default:
		b.next = map[string]*branch{b.word: b.only, level: child}
		b.word, b.only = "", nil
	}
	return child
}

func (b *branch) cut(level string) {
	if b.next != nil {
		delete(b.next, level)
		return
	}
	b.word, b.only = "", nil
}

func (b *branch) bare() bool {
	return len(b.next) == 0 && b.only == nil && len(b.here) == 0 && len(b.rest) == 0
}

func (x *index) remove(s *sub) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.take(s)
}

// take takes s out. x.mu is held.
func (x *index) take(s *sub) {
	x.count.Add(-1)
	x.nodes -= x.root.remove(s, s.inner)
}

// remove takes s away and returns how many branches below b became empty and went.
func (b *branch) remove(s *sub, rest string) (gone int) {
	level, tail, more := strings.Cut(rest, "/")
	if level == "#" {
		b.rest = without(b.rest, s)
		return 0
	}
	child := b.below(level)
	if child == nil {
		return 0
	}
	if more {
		gone = child.remove(s, tail)
	} else {
		child.here = without(child.here, s)
	}
	if child.bare() {
		b.cut(level)
		gone++
	}
	return gone
}

// without takes s out of list, whose order means nothing.
func without(list []*sub, s *sub) []*sub {
	for i, other := range list {
		if other == s {
			last := len(list) - 1
			list[i], list[last] = list[last], nil
			return list[:last]
		}
	}
	return list
}

// match adds to found the subscriptions that topic matches. It visits at most two branches a level for each branch that it visited on the level above.
func (x *index) match(found []*sub, topic string) []*sub {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return x.root.match(found, topic, topic, false, topic != "" && topic[0] == '$')
}

// match goes on below b with what is left of the topic. Wildcards of the first level match no topic that begins with $ (MQTT 5.0, section 4.7.2).
func (b *branch) match(found []*sub, topic, left string, end, dollar bool) []*sub {
	if !dollar {
		for _, s := range b.rest {
			if end && s.partial && (s.owner == nil || !s.owner.mayReceive(topic)) {
				continue
			}
			found = append(found, s)
		}
	}
	if end {
		return append(found, b.here...)
	}
	level, tail, more := strings.Cut(left, "/")
	if child := b.below(level); child != nil {
		found = child.match(found, topic, tail, !more, false)
	}
	if dollar {
		return found
	}
	if child := b.below("+"); child != nil {
		found = child.match(found, topic, tail, !more, false)
	}
	return found
}
