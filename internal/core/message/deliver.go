package message

import (
	"math"
)

// item is a message on its way to a session.
type item struct {
	m      *Message // shared; nil for what was on its way on an earlier connection and is not read again yet
	qos    byte
	retain bool // the flag
	ids    []uint32
	share  *share
	again  bool // a retained message that was asked for by subscribing
}

// flight is an item that the peer was told of and has not acknowledged.
type flight struct {
	id       uint16
	released bool // QoS 2: the peer has it, and has not said yet that it will not take it again
	item
}

const (
	maxPending       = 64       // messages of a session in memory that wait for room in its window; what follows is read from the fabric
	maxPendingOctets = 64 << 10 // of their payloads
)

// left returns the seconds that m has left at now (Unix milliseconds), 0 for one that does not expire, and whether it may be delivered at all.
func (m *Message) left(now int64) (seconds uint32, ok bool) {
	if m.Expiry == 0 {
		return 0, true
	}
	waited := max(now-m.At, 0) / 1000
	if waited >= int64(m.Expiry) {
		return 0, false
	}
	return m.Expiry - uint32(waited), true
}

// hear takes a message that was just stored and that subscriptions of this session match. It is called in the order of the stream.
func (c *Conn) hear(i item) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch at := &c.pos[i.m.Stream]; {
	case c.ended:
	case i.qos == 0:
		if i.m.Seq > c.looseFrom[i.m.Stream] {
			c.sayLoose(&i)
		}
	case i.m.Seq <= *at: // it was read from the fabric before
	case c.behind:
		c.missed[i.m.Stream] = i.m.Seq
	case len(c.flights) < c.window && len(c.pending) == 0:
		*at = i.m.Seq
		c.send(i)
	case !c.roomToWait(&i):
		c.behind, c.missed[i.m.Stream] = true, i.m.Seq
		c.s.metrics.Behind.Add(1)
	default:
		*at = i.m.Seq
		c.wait(i)
	}
}

// take is hear for what does not come in the order of a stream: of a group that shares, and retained messages. It reports false when there is no room.
func (c *Conn) take(s *sub, i item) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended || c.subs[s.Filter] != s || s.partial && !c.mayReceive(i.m.Topic) {
		return false
	}
	i.asked(s)
	switch {
	case i.qos == 0:
		return c.sayLoose(&i)
	case len(c.flights) < c.window && len(c.pending) == 0:
		c.send(i)
	case !i.again && c.roomToWait(&i): // who waits with a retained one reads it again: it stands in the record until it was said
		c.wait(i)
	default:
		return false
	}
	return true
}

// asked makes i what one subscription asked for.
func (i *item) asked(s *sub) {
	i.qos = min(i.m.QoS, s.granted)
	i.retain = i.again || i.m.Retain && s.AsPublish
	i.ids = nil
	if s.ID != 0 {
		i.ids = []uint32{s.ID}
	}
}

func (c *Conn) roomToWait(i *item) bool {
	return len(c.pending) < maxPending && (c.waits == 0 || c.waits+len(i.m.Payload) <= maxPendingOctets)
}

func (c *Conn) wait(i item) {
	c.pending = append(c.pending, i)
	c.waits += len(i.m.Payload)
}

// load says how much is on its way to the peer, and whether there is room for more.
func (c *Conn) load() (n int, room bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	n = len(c.flights) + len(c.pending)
	return n, !c.ended && len(c.flights) < c.window
}

// sayLoose says a message of QoS 0. c.mu is held.
func (c *Conn) sayLoose(i *item) bool {
	left, ok := i.m.left(c.s.milli())
	if !ok {
		c.s.metrics.Expired.Add(1)
		return true
	}
	if !c.link.Deliver(Delivery{Message: i.m, Retain: i.retain, Expiry: left, Subs: i.ids}) {
		c.s.metrics.SlowDropped.Add(1)
		return false
	}
	c.s.metrics.Delivered.Add(1)
	return true
}

// send says a message of QoS 1 or 2 under a new identifier. One that has expired takes an identifier too: before a crash it may have been said under that, which
// the peer remembers with QoS 2, and it would take another message for the same one. c.mu is held, and there is room in the window.
func (c *Conn) send(i item) {
	left, ok := i.m.left(c.s.milli())
	id := c.freeID(i.origin())
	if !ok {
		c.s.metrics.Expired.Add(1)
		c.touch()
		return
	}
	f := flight{id: id, item: i}
	c.flights = append(c.flights, f)
	c.touch()
	c.s.metrics.Delivered.Add(1)
	c.link.Deliver(Delivery{Message: i.m, QoS: i.qos, ID: f.id, Retain: i.retain, Expiry: left, Subs: i.ids})
}

// What comes from a stream, in its order, has identifiers of its own range, so that it gets the same ones again when it is read again after a crash, whatever came from
// elsewhere in between. The range 0 is for what is in no such order: retained messages that were asked for, and messages of groups.
const idRange = uint16(math.MaxUint16 / streams)

// maxWindow is how many deliveries may be on their way to a peer. With as many from an earlier connection there is always room in a range.
const maxWindow = 1 << 12

// origin is the range of the identifiers of i.
func (i *item) origin() Stream {
	if i.share != nil || i.again {
		return 0
	}
	return i.m.Stream
}

// freeID returns an identifier of a range that no delivery of the session has.
func (c *Conn) freeID(from Stream) uint16 {
	for {
		c.lastID[from] = c.lastID[from]%idRange + 1
		id := uint16(from)*idRange + c.lastID[from]
		if c.flightAt(id) < 0 && c.againAt(id) < 0 {
			return id
		}
	}
}

func (c *Conn) flightAt(id uint16) int {
	for i := range c.flights {
		if c.flights[i].id == id {
			return i
		}
	}
	return -1
}

func (c *Conn) againAt(id uint16) int {
	for i := range c.again {
		if c.again[i].ID == id {
			return i
		}
	}
	return -1
}

// Acked is the peer's PUBACK of a delivery, or its PUBREC that refuses one. It reports whether there is such a delivery.
func (c *Conn) Acked(id uint16) bool {
	return c.settle(id, func(f *flight) bool { return !f.released })
}

// Completed is the peer's PUBCOMP. It reports whether such a release was said.
func (c *Conn) Completed(id uint16) bool {
	return c.settle(id, func(f *flight) bool { return f.released })
}

func (c *Conn) settle(id uint16, fits func(*flight) bool) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	at := c.flightAt(id)
	if c.ended || at < 0 || !fits(&c.flights[at]) {
		return false
	}
	c.flights = append(c.flights[:at], c.flights[at+1:]...)
	c.flights[:len(c.flights)+1][len(c.flights)] = flight{} // for the garbage collector
	c.touch()
	c.fill()
	return true
}

// Received is the peer's PUBREC. When it reports true, the release (PUBREL) comes as a Delivery with Release as soon as that is stored: once on a connection,
// however often the peer says it, or who says it all the time and reads nothing would have releases without end waiting for it.
func (c *Conn) Received(id uint16) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	at := c.flightAt(id)
	if c.ended || at < 0 || c.flights[at].qos != 2 {
		return false
	}
	f := &c.flights[at]
	if f.released {
		return true
	}
	f.released, f.item.m = true, nil
	if !c.kept() {
		c.link.Deliver(Delivery{QoS: 2, ID: id, Release: true})
		return true
	}
	c.touch()
	c.whenSaved(func(err error) {
		if err != nil {
			return // the connection has ended
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		if !c.ended {
			c.link.Deliver(Delivery{QoS: 2, ID: id, Release: true})
		}
	})
	return true
}

// fill uses the room in the window: first for what waits here, then for what waits in groups, then it has more read. c.mu is held.
func (c *Conn) fill() {
	for len(c.pending) > 0 && len(c.flights) < c.window {
		i := c.pending[0]
		c.pending[0] = item{}
		c.pending = c.pending[1:]
		c.waits -= len(i.m.Payload)
		c.send(i)
	}
	if len(c.pending) == 0 {
		c.pending = nil
	}
	for _, s := range c.shared {
		for len(c.flights) < c.window {
			i, ok := s.share.next(s)
			if !ok {
				break
			}
			i.asked(s)
			c.send(i)
		}
	}
	c.stir()
}

// refill is fill for who does not hold c.mu.
func (c *Conn) refill() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.ended && len(c.again) == 0 && len(c.flights) < c.window { // what was on its way comes first
		c.fill()
	}
}

// stir has the rest of the queue read if there is one and room for it. c.mu is held.
func (c *Conn) stir() {
	if c.reading || c.resuming || c.ended || len(c.flights) >= c.window || len(c.pending) > 0 || !c.backlog() {
		return
	}
	c.reading = true
	c.s.hands.do(c.read)
}

// backlog reports whether something is to be read from the fabric. c.mu is held.
func (c *Conn) backlog() bool { return len(c.again) > 0 || len(c.replays) > 0 || c.behind }
