package mqtt

import (
	"slices"
	"time"

	"mooring/internal/core/message"
	"mooring/wire/mqtt"
)

// outbox is what waits to be written. While held, deliveries wait for an answer that must come before them.
type outbox struct {
	items     []parcel
	after     []parcel // deliveries that came while held
	held      bool
	octets    int           // of items and after, and of what is being written
	answers   int           // of them, octets of what is no delivery
	writing   bool          // there is a writer
	busy      bool          // it is in a write, which may take as long as the peer likes
	slow      alarm         // ends the connection when that takes too long
	ending    bool          // nothing is taken any more; the writer ends the connection after the items
	greeted   bool          // CONNACK was said, so that DISCONNECT may be
	complaint string        // what DISCONNECT says in words; "" = nothing
	room      chan struct{} // closed when there is room, for the reader that waits for it; or nil
}

// parcel is an answer, in octets, or a delivery, which is put into octets when it is written: the message is shared with other connections until then.
type parcel struct {
	answer []byte
	message.Delivery
}

// size is about what the parcel has when it is written.
func (p *parcel) size() int {
	m := p.Message
	if m == nil { // an answer, or a release
		return max(len(p.answer), 4)
	}
	n := len(m.Topic) + len(m.Payload) + 16
	n += len(m.ContentType) + len(m.ResponseTopic) + len(m.Correlation)
	for _, u := range m.User {
		n += len(u.Name) + len(u.Value) + 5
	}
	return n
}

const (
	// maxAnswers is how many octets of answers may wait before no more packets are read: a peer that asks and does not read the answers has to.
	maxAnswers = 16 << 10
	// heldOutbound is how many octets of QoS 0 may wait until the policy's limit is known.
	heldOutbound = 64 << 10
	// chunk is about how much is written at once.
	chunk = 16 << 10
)

// Deliver is that of message.Link.
func (c *conn) Deliver(d message.Delivery) bool {
	p := parcel{Delivery: d}
	size := p.size()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.box.ending {
		return false
	}
	if d.QoS == 0 && c.box.octets+size > c.may.outbound {
		c.server.counts.dropped.Add(1)
		return false
	}
	c.box.octets += size
	if c.box.held {
		c.box.after = append(c.box.after, p)
		return true
	}
	c.box.items = append(c.box.items, p)
	c.startWriter()
	return true
}

// Queued is that of message.Link.
func (c *conn) Queued() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.box.octets
}

// say has an answer written. mu is held.
func (c *conn) say(answer []byte) {
	if len(answer) == 0 || c.box.ending {
		return
	}
	c.box.octets += len(answer)
	c.box.answers += len(answer)
	c.box.items = append(c.box.items, parcel{answer: answer})
	c.startWriter()
}

// reply is say for who does not hold mu.
func (c *conn) reply(p mqtt.Packet) {
	answer := p.Append(nil, c.version)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.say(answer)
}

// hold keeps deliveries back until release.
func (c *conn) hold() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.box.held = true
}

// release says the answer that deliveries waited for, and then those.
func (c *conn) release(answer []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.box.held = false
	c.say(answer)
	if c.box.ending || len(c.box.after) == 0 {
		return
	}
	c.box.items = append(c.box.items, c.box.after...)
	c.box.after = nil
	c.startWriter()
}

// startWriter has what waits written, if nobody does that already. mu is held.
func (c *conn) startWriter() {
	if !c.box.writing {
		c.box.writing = true
		go c.write()
	}
}

// conclude has the connection end after what waits and a last word.
func (c *conn) conclude(r message.Reason, code mqtt.Reason) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch r {
	case message.ReasonLost:
		c.box.items = nil
	case message.ReasonFarewell: // what it asked is answered, but it wants no messages any more
		c.box.items = slices.DeleteFunc(c.box.items, func(p parcel) bool { return p.answer == nil })
	default:
		c.say(c.lastWord(code))
	}
	c.box.ending, c.box.after = true, nil
	c.wake()
	c.startWriter()
}

// lastWord is DISCONNECT, for a peer to which it may be said.
func (c *conn) lastWord(code mqtt.Reason) []byte {
	if c.version != mqtt.V5 || !c.box.greeted || code == mqtt.Success {
		return nil
	}
	p := mqtt.Disconnect{Reason: code}
	if at := c.server.deps.Elsewhere; at != "" && code == mqtt.ServerShuttingDown && (c.maxPacket == 0 || len(at)+shortAnswer <= c.maxPacket) {
		p.Reason, p.ServerReference = mqtt.UseAnotherServer, at
	}
	if !c.quiet && (c.maxPacket == 0 || len(c.box.complaint)+shortAnswer <= c.maxPacket) {
		p.ReasonString = c.box.complaint
	}
	return p.Append(nil, mqtt.V5)
}

// hangUp closes the connection. A peer to which nothing has been written for long in vain gets one chance to hear why, which holds nobody up.
func (c *conn) hangUp(code mqtt.Reason) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.box.ending, c.box.items, c.box.after = true, nil, nil
	c.wake()
	word := c.lastWord(code)
	if word == nil || c.stalled() {
		_ = c.out.Close()
		return
	}
	c.box.items = []parcel{{answer: word}}
	c.startWriter()
	time.AfterFunc(c.server.times.farewell, func() { _ = c.out.Close() })
}

// stalled reports whether a write goes on for longer than a last word may take. A shorter one may be over already, and its writer not back. mu is held.
func (c *conn) stalled() bool {
	began := c.box.slow.end.Add(-c.server.times.write)
	return c.box.busy && c.server.deps.Now().Sub(began) > c.server.times.farewell
}

// write writes what waits, until there is nothing more, and then ends the connection if it is to end. There is one at a time.
func (c *conn) write() {
	defer c.survive()
	buffer := c.server.buffer()
	defer c.server.giveBack(buffer)
	octets, answers := 0, 0
	for {
		batch, more := c.take(octets, answers)
		if !more {
			return
		}
		if batch == nil {
			c.out.End(c.server.times.linger)
			return
		}
		octets, answers = measure(batch)
		*buffer = c.pack((*buffer)[:0], batch)
		if len(*buffer) == 0 {
			continue
		}
		if _, err := c.out.Write(*buffer); err != nil {
			c.end(message.ReasonLost, mqtt.Success, true)
			_ = c.out.Close()
			c.mu.Lock()
			c.box.slow.stop()
			c.mu.Unlock()
			return
		}
	}
}

// take counts what does not wait any more and returns what is to be written now: none at the end of the connection, and false when there is nothing to do.
func (c *conn) take(octets, answers int) (batch []parcel, more bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.box.octets -= octets
	c.box.answers -= answers
	c.wake()
	if batch = c.box.next(); len(batch) > 0 {
		c.box.busy = true
		c.box.slow.in(c.server.times.write, c.server.deps.Now())
		return batch, true
	}
	c.box.busy = false
	if c.box.ending {
		c.box.slow.stop()
		return nil, true
	}
	c.box.slow.off()
	c.box.writing = false
	return nil, false
}

// next takes out what is enough for one write.
func (b *outbox) next() []parcel {
	size := 0
	for i := range b.items {
		if size >= chunk {
			batch := b.items[:i:i]
			b.items = b.items[i:]
			return batch
		}
		size += b.items[i].size()
	}
	batch := b.items
	b.items = nil
	return batch
}

// tooSlow ends the connection if a write takes too long.
func (c *conn) tooSlow() {
	defer c.survive()
	now := c.server.deps.Now()
	c.mu.Lock()
	slow := c.box.slow.rings(now)
	c.mu.Unlock()
	if slow {
		c.end(message.ReasonSlow, ended[message.ReasonSlow].code, true)
	}
}

func measure(batch []parcel) (octets, answers int) {
	for i := range batch {
		octets += batch[i].size()
		answers += len(batch[i].answer)
	}
	return octets, answers
}

// pack puts parcels into octets.
func (c *conn) pack(b []byte, batch []parcel) []byte {
	for i := range batch {
		if batch[i].answer != nil {
			b = append(b, batch[i].answer...)
			continue
		}
		b = c.packDelivery(b, &batch[i].Delivery)
	}
	return b
}

// packDelivery appends a delivery. One that is larger than the peer takes is not said at all, and counts as delivered (5.0, section 3.1.2.11.4).
func (c *conn) packDelivery(b []byte, d *message.Delivery) []byte {
	start := len(b)
	if d.Release {
		return mqtt.Ack{Type: mqtt.PUBREL, ID: d.ID}.Append(b, c.version)
	}
	p := publishOf(d, c.version)
	fresh := c.shorten(&p)
	b = p.Append(b, c.version)
	if c.maxPacket == 0 || len(b)-start <= c.maxPacket {
		c.server.counts.sent.Add(1)
		return b
	}
	if fresh {
		delete(c.outAliases, d.Message.Topic)
	}
	c.server.counts.tooLarge.Add(1)
	if d.QoS > 0 {
		c.session.Acked(d.ID)
	}
	return b[:start]
}

// shorten uses a topic alias, for a peer that takes such, and reports whether it is a new one. The first topics get one; devices hear of few.
func (c *conn) shorten(p *mqtt.Publish) (fresh bool) {
	if c.may.outAliases == 0 {
		return false
	}
	if alias, known := c.outAliases[p.Topic]; known {
		p.Topic, p.TopicAlias = "", alias
		return false
	}
	if len(c.outAliases) >= int(c.may.outAliases) {
		return false
	}
	if c.outAliases == nil {
		c.outAliases = map[string]uint16{}
	}
	p.TopicAlias = uint16(len(c.outAliases) + 1)
	c.outAliases[p.Topic] = p.TopicAlias
	return true
}

// publishOf returns the packet for a delivery.
func publishOf(d *message.Delivery, v mqtt.Version) mqtt.Publish {
	m := d.Message
	p := mqtt.Publish{Duplicate: d.Dup && d.QoS > 0, QoS: mqtt.QoS(d.QoS), Retain: d.Retain, Topic: m.Topic, ID: d.ID, Payload: m.Payload}
	if v != mqtt.V5 {
		return p
	}
	p.SubscriptionIDs = d.Subs
	if m.Format != 0 {
		p.PayloadFormat = mqtt.Some(m.Format)
	}
	if d.Expiry != 0 {
		p.MessageExpiry = mqtt.Some(d.Expiry)
	}
	p.ContentType, p.ResponseTopic, p.CorrelationData = octets(m.ContentType), octets(m.ResponseTopic), m.Correlation
	for _, u := range m.User {
		p.User = p.User.Add(u.Name, u.Value)
	}
	return p
}

// octets returns nil for "", which is how the codec says that a property is absent.
func octets(s string) []byte {
	if s == "" {
		return nil
	}
	return []byte(s)
}

// buffer returns memory for a writer.
func (s *Server) buffer() *[]byte {
	if b, ok := s.buffers.Get().(*[]byte); ok {
		return b
	}
	return new([]byte)
}

// giveBack keeps the memory of a writer for the next one, unless one large message made it large.
func (s *Server) giveBack(b *[]byte) {
	if cap(*b) <= 4*chunk {
		s.buffers.Put(b)
	}
}
