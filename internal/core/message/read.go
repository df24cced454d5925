package message

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"mooring/internal/base/errs"
	"mooring/wire/mqtt"
)

const (
	readTurn = 64      // messages that are read for one session before another one has its turn
	farBack  = 100_000 // so many messages of a stream are looked through for a session that was away, at most
)

// errNoRoom says that the peer does not take what is said with QoS 0. Nobody says when it does again, so it is tried again after a while.
var errNoRoom = errors.New("the peer reads too slowly")

const roomTime = 100 * time.Millisecond

// read brings a session what it is behind with: first what was on its way on an earlier connection, in that order, then retained messages, then its queue.
// There is one reader for each session, and until it reaches the end nothing that is newer overtakes.
func (c *Conn) read(ctx context.Context) {
	for range readTurn {
		more, err := c.readOne(ctx)
		if !more {
			return // and another one may be reading by now
		}
		if err == errNoRoom {
			c.s.hands.after(roomTime, c.read)
			return
		}
		if err == errLate && c.late < lateMost {
			c.late++
			c.s.hands.after(lateTime, c.read)
			return
		}
		c.late = 0
		if err != nil && ctx.Err() == nil {
			c.s.log.LogAttrs(ctx, slog.LevelWarn, "the queue of a session cannot be read; it is tried again", sessionAttr(c.key), slog.Any("cause", err))
			c.s.hands.after(time.Second, c.read)
			return
		}
		if err != nil {
			return
		}
	}
	c.s.hands.do(c.read)
}

// readOne reads one message. It reports false, and is no reader any more, when there is no room or nothing to read.
func (c *Conn) readOne(ctx context.Context) (more bool, err error) {
	c.mu.Lock()
	if c.ended || len(c.flights) >= c.window || len(c.pending) > 0 || !c.backlog() {
		c.reading = false
		c.mu.Unlock()
		return false, nil
	}
	switch {
	case len(c.again) > 0:
		next := c.again[0]
		c.mu.Unlock()
		return true, c.sayAgain(ctx, next)
	case len(c.replays) > 0:
		next := c.replays[0]
		c.mu.Unlock()
		blocked, err := c.replayOne(ctx, next)
		if blocked {
			err = errNoRoom
		}
		return true, err
	}
	trim := c.trim
	c.mu.Unlock()
	if trim {
		return true, c.trimQueue(ctx)
	}
	return true, c.catchUp(ctx)
}

// sayAgain repeats what was on its way when an earlier connection ended, under the same identifier.
func (c *Conn) sayAgain(ctx context.Context, r flightRecord) error {
	var m *Message
	if !r.Released {
		var err error
		if m, err = c.findAgain(ctx, &r); err != nil {
			return err
		}
		if m != nil && !c.mayReceive(m.Topic) {
			c.s.metrics.ResendDenied.Add(1)
			m = nil
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended || len(c.again) == 0 || c.again[0].ID != r.ID {
		return nil
	}
	c.again = c.again[1:]
	c.touch()
	f := flight{id: r.ID, released: r.Released, item: item{m: m, qos: r.QoS, retain: r.Retain, ids: r.IDs}}
	if r.Released {
		c.flights = append(c.flights, f)
		c.link.Deliver(Delivery{QoS: 2, ID: r.ID, Release: true})
		return nil
	}
	if m == nil {
		return nil
	}
	left, ok := m.left(c.s.milli())
	if !ok {
		c.s.metrics.Expired.Add(1)
		return nil
	}
	c.flights = append(c.flights, f)
	c.s.metrics.Resent.Add(1)
	c.link.Deliver(Delivery{Message: m, QoS: r.QoS, ID: r.ID, Dup: true, Retain: r.Retain, Expiry: left, Subs: r.IDs})
	return nil
}

// findAgain returns the message of an earlier delivery, nil when it is gone.
func (c *Conn) findAgain(ctx context.Context, r *flightRecord) (m *Message, err error) {
	if r.Seq == 0 { // it was a retained one
		err = c.s.Fabric.Retained(ctx, r.Topic, func(found *Message) bool {
			m = found
			return false
		})
		return m, err
	}
	return c.s.stored(ctx, r.Stream, r.Seq)
}

// stored returns the message at a place where one was once, nil when it is gone.
func (s *Service) stored(ctx context.Context, x Stream, place uint64) (*Message, error) {
	if err := s.shows(ctx, x, place); err != nil {
		return nil, err
	}
	m, err := s.Fabric.Next(ctx, x, "", place-1)
	if errs.Is(err, errs.NotFound) {
		return nil, nil
	}
	if err != nil || m.Seq != place {
		return nil, err
	}
	return m, nil
}

// catchUp reads the next message of the queue. When no stream has one, the session is behind no more.
func (c *Conn) catchUp(ctx context.Context) error {
	for _, s := range [...]Stream{Down, Cast, Up} {
		if s == Up && !c.hearsUp() {
			continue
		}
		c.mu.Lock()
		at, missed := c.pos[s], c.missed[s]
		c.mu.Unlock()
		shown := c.s.streams[s].shown.Load() // before the question: what others are shown meanwhile, its answer may lack
		m, err := c.nextOf(ctx, s, at)
		if m == nil && err == nil && missed > max(at, shown) {
			if err = c.s.shows(ctx, s, missed); err == nil {
				m, err = c.nextOf(ctx, s, at)
			}
		}
		if err != nil {
			return err
		}
		if m != nil {
			c.bring(m)
			return nil
		}
		c.mu.Lock()
		c.pos[s] = max(c.pos[s], missed) // what is not found any more is gone
		c.mu.Unlock()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.behind = c.isMissing()
	return nil
}

// isMissing reports whether something came that was not taken. c.mu is held.
func (c *Conn) isMissing() bool {
	for s := range c.pos {
		if c.missed[s] > c.pos[s] && (Stream(s) != Up || c.heard > 0) {
			return true
		}
	}
	return false
}

// nextOf returns the first message of s above at under the session's keys, nil when there is none.
func (c *Conn) nextOf(ctx context.Context, s Stream, at uint64) (first *Message, err error) {
	for _, key := range c.keysOf(s) {
		m, err := c.s.Fabric.Next(ctx, s, key, at)
		if errs.Is(err, errs.NotFound) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if first == nil || m.Seq < first.Seq {
			first = m
		}
	}
	return first, nil
}

var everyKey = []string{""}

// keysOf returns under which keys of a stream the session's messages lie. Services may be subscribed to what is addressed to others.
func (c *Conn) keysOf(s Stream) []string {
	if s != Down || c.isService() {
		return everyKey
	}
	keys := []string{c.id.Subject.Thing}
	if children := c.children.Load(); children != nil {
		for name := range *children {
			keys = append(keys, name)
		}
	}
	return keys
}

// bring takes a message of the queue, if a subscription matches it.
func (c *Conn) bring(m *Message) {
	i, ok := c.wanted(m)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended || m.Seq <= c.pos[m.Stream] {
		return
	}
	if ok && (len(c.flights) >= c.window || len(c.pending) > 0) {
		return // a retained message took the room meanwhile; this one is read again
	}
	c.pos[m.Stream] = m.Seq
	if ok {
		c.send(i)
	}
}

// wanted returns m as the session's subscriptions want it, and whether one does. What was published with QoS 0, or is wanted with that, is not queued.
func (c *Conn) wanted(m *Message) (i item, ok bool) {
	if m.QoS == 0 {
		return item{}, false
	}
	for _, s := range c.matching(m.Topic) {
		if !s.shared && m.Seq > s.since[m.Stream] && !(s.NoLocal && c.said(m)) {
			i.merge(m, s)
			ok = true
		}
	}
	return i, ok && i.qos > 0 && c.mayReceive(m.Topic)
}

// matching returns the session's own subscriptions that topic matches.
func (c *Conn) matching(topic string) (found []*sub) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.subs) > 32 {
		for _, s := range c.s.index.match(nil, topic) {
			if s.owner == c {
				found = append(found, s)
			}
		}
		return found
	}
	for _, s := range c.subs {
		if mqtt.Match(s.inner, topic) {
			found = append(found, s)
		}
	}
	return found
}

// merge adds what a further subscription of the same session wants of m: each message is delivered once, with the highest QoS that was granted and all
// identifiers (MQTT 5.0, section 3.3.4).
func (i *item) merge(m *Message, s *sub) {
	i.m = m
	i.qos = max(i.qos, min(m.QoS, s.granted))
	i.retain = i.retain || m.Retain && s.AsPublish
	if s.ID != 0 {
		i.ids = append(i.ids, s.ID)
	}
}

// said reports whether this client published m.
func (c *Conn) said(m *Message) bool {
	return m.Thing == c.id.Subject.Thing && (m.From == c.client || m.From == "" && c.client == m.Thing)
}

// trimQueue looks through the queue of a session that was away, once, and moves its beginning to where the newest messages begin that the policy lets it
// have: older ones are lost, and counted.
func (c *Conn) trimQueue(ctx context.Context) error {
	limits := &c.rights.Load().Limits
	for _, s := range [...]Stream{Down, Cast, Up} {
		if s == Up && !c.hearsUp() {
			continue
		}
		if err := c.trimStream(ctx, s, limits.QueueMessages, limits.QueueOctets); err != nil {
			return err
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.trim = false
	return nil
}

func (c *Conn) trimStream(ctx context.Context, s Stream, most, octets int) error {
	last, err := c.s.last(ctx, s)
	if err != nil {
		return err
	}
	c.mu.Lock()
	at := c.pos[s]
	c.mu.Unlock()
	if last > farBack {
		at = max(at, last-farBack)
	}
	q := ring{most: most, room: octets, start: at}
	for {
		m, err := c.nextOf(ctx, s, at)
		if err != nil {
			return err
		}
		if m == nil {
			break
		}
		at = m.Seq
		if _, ok := c.wanted(m); ok {
			q.push(m.Seq, len(m.Payload))
		} else if len(q.kept) == 0 {
			q.start = at
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.pos[s] = max(c.pos[s], q.start)
	c.lastID[s] = uint16((int64(c.lastID[s]) + q.dropped) % int64(idRange)) // as if they were said, which they may have been before a crash; see send
	c.s.metrics.QueueDropped.Add(q.dropped)
	return nil
}

// ring remembers the places of the newest messages, up to a number and a size.
type ring struct {
	most, room int
	start      uint64 // everything up to here is left behind
	kept       []kept
	octets     int
	dropped    int64
}

type kept struct {
	seq  uint64
	size int
}

func (r *ring) push(seq uint64, size int) {
	r.kept = append(r.kept, kept{seq, size})
	r.octets += size
	for len(r.kept) > 0 && (len(r.kept) > r.most || r.octets > r.room) {
		r.start = r.kept[0].seq
		r.octets -= r.kept[0].size
		r.kept = r.kept[1:]
		r.dropped++
	}
}
