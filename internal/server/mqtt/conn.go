package mqtt

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"mooring/internal/core/message"
	"mooring/internal/server/gate"
	"mooring/wire/mqtt"
)

// transport carries the octets of a connection: a gate.Stream, or a WebSocket. It has one reader and one writer.
type transport interface {
	Read([]byte) (int, error)
	Write([]byte) (int, error)
	Close() error             // at once, whatever is being read or written; any number of times
	End(within time.Duration) // after what was written, by who writes; somebody may be reading
}

// conn is one connection, and the message.Link of its session.
type conn struct {
	server *Server
	out    transport
	peer   *gate.Peer
	front  string        // "mqtt" or "wss"
	why    atomic.Uint32 // isOver and a message.Reason once the connection is to end, 0 before

	patience sync.Mutex
	patient  alarm         // ends the connection when what is waited for does not come; guarded by patience
	waiting  atomic.Uint32 // for what: a wait

	// Set by CONNECT, before the connection is anybody else's.
	version   mqtt.Version
	quiet     bool // no reason strings, please (Request Problem Information 0)
	maxPacket int  // octets that the peer takes; 0 = any number
	session   Session
	limits    *mqtt.Limits
	keepAlive time.Duration
	endless   bool // the session outlives the connection

	// Of the reader alone.
	input    input
	aliases  map[uint16]string
	topic    string // the last one
	farewell message.Farewell

	// Of the writer alone.
	outAliases map[string]uint16

	mu  sync.Mutex
	box outbox  // guarded by mu
	in  inbound // guarded by mu
	may granted // guarded by mu until CONNACK, not changed afterwards
}

// granted are the limits that the policy has for this connection, as far as the front keeps to them.
type granted struct {
	inFlight    int // messages of QoS 1 and 2 from the peer
	aliases     uint16
	outAliases  uint16
	outbound    int // octets
	maxQoS      byte
	retain      bool
	shared      bool
	closeOnDeny bool
}

// wait is what a connection waits for.
type wait uint32

const (
	waitConnect wait = iota // CONNECT
	waitPacket              // the next packet, as keep-alive says
	waitRest                // the rest of a packet
	waitCore                // core takes a packet
)

// isOver marks that a connection is to end; below it stands the message.Reason.
const isOver = 1 << 8

// refused is the reason of a connection that was never let in; core does not hear of it.
const refused message.Reason = 0

func (s *Server) newConn(out transport, peer *gate.Peer, front string) *conn {
	c := &conn{server: s, out: out, peer: peer, front: front}
	c.box.held, c.may.outbound = true, heldOutbound
	s.counts.open.Add(1)
	c.patient.ring, c.box.slow.ring, c.in.late.ring = c.overdue, c.tooSlow, c.tooLate
	c.await(waitConnect, s.times.connect)
	return c
}

// over reports whether the connection is to end: nothing is handled any more.
func (c *conn) over() bool { return c.why.Load() != 0 }

// Close ends the connection as core wants it; see message.Link.
func (c *conn) Close(r message.Reason) { c.end(r, ended[r].code, ended[r].hard) }

// fail ends the connection for a fault of the peer.
func (c *conn) fail(code mqtt.Reason) { c.end(reasonOf(code), code, false) }

// end ends the connection: the first reason counts. What was read and not handled is not handled any more. A hard end does not wait for what is to be
// written; another one leaves that some time. It does not block.
func (c *conn) end(r message.Reason, code mqtt.Reason, hard bool) {
	first := c.why.CompareAndSwap(0, isOver|uint32(r))
	if first {
		c.server.counts.ended[r].Add(1)
		c.server.counts.faults[code].Add(1)
	}
	switch {
	case hard && first:
		c.hangUp(code)
	case hard: // it is ending politely, and somebody cannot wait
		_ = c.out.Close()
	case first:
		c.conclude(r, code)
	}
}

// await sets how long what is waited for may take.
func (c *conn) await(w wait, d time.Duration) {
	now := c.server.deps.Now()
	c.patience.Lock()
	defer c.patience.Unlock()
	c.waiting.Store(uint32(w))
	c.patient.in(d, now)
}

// overdue is called when what the connection waits for may not have come in time.
func (c *conn) overdue() {
	defer c.survive()
	now := c.server.deps.Now()
	c.patience.Lock()
	late := c.patient.rings(now)
	c.patience.Unlock()
	if !late {
		return
	}
	switch wait(c.waiting.Load()) {
	case waitConnect: // nobody is known there, so there is nothing to say
		c.end(message.ReasonTimeout, mqtt.Success, true)
	case waitCore:
		c.Close(message.ReasonFabric)
	case waitRest:
		c.server.counts.dripped.Add(1)
		c.Close(message.ReasonTimeout)
	default:
		c.Close(message.ReasonTimeout)
	}
}

// loop reads packets until the connection ends.
func (c *conn) loop(ctx context.Context) {
	defer c.leave()
	defer c.survive()
	rules := mqtt.Rules{Version: c.version, From: mqtt.Client, Limits: c.limits}
	for !c.over() {
		c.await(waitPacket, c.keepAlive)
		h, body, err := c.input.next(c, rules)
		if err != nil {
			c.unread(ctx, err)
			return
		}
		if c.over() {
			return
		}
		c.await(waitCore, c.server.times.write+c.server.times.store) // first for room, which who writes has to make
		c.server.counts.received[h.Type].Add(1)
		if c.waitForRoom(func() bool { return c.box.answers <= maxAnswers }) {
			c.handle(ctx, rules, h, body)
		}
	}
}

// unread ends the connection after a packet that could not be read.
func (c *conn) unread(ctx context.Context, err error) {
	var fault *mqtt.Error
	if !errors.As(err, &fault) {
		c.end(message.ReasonLost, mqtt.Success, true)
		return
	}
	c.server.deps.Log.LogAttrs(ctx, slog.LevelDebug, "a packet broke the rules", slog.String("front", c.front), slog.String("cause", fault.Error()))
	c.mu.Lock()
	c.box.complaint = complaint(fault)
	c.mu.Unlock()
	c.fail(fault.Reason)
}

// leave tells core that the connection has ended. It is the only place from which core hears that.
func (c *conn) leave() {
	c.patience.Lock()
	c.patient.stop()
	c.patience.Unlock()
	c.end(message.ReasonLost, mqtt.Success, false) // if nothing else has ended it
	c.mu.Lock()
	c.in.late.stop()
	c.mu.Unlock()
	c.server.counts.open.Add(-1)
	if c.session == nil {
		return
	}
	c.server.counts.connected.Add(-1)
	c.session.Detach(message.Reason(c.why.Load()&^isOver), c.farewell)
}

// aside runs f in a goroutine of its own and waits for it, so that the stack that f needs does not stay with the connection.
func (c *conn) aside(f func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer c.survive()
		f()
	}()
	<-done
}

// waitForRoom waits until enough holds, which is asked with mu held whenever something was written or acknowledged. It reports false when the connection
// ends meanwhile. It is for the reader.
func (c *conn) waitForRoom(enough func() bool) bool {
	for {
		c.mu.Lock()
		if c.over() || enough() {
			c.mu.Unlock()
			return !c.over()
		}
		if c.box.room == nil {
			c.box.room = make(chan struct{})
		}
		room := c.box.room
		c.mu.Unlock()
		<-room
	}
}

// wake lets who waits for room look again. mu is held.
func (c *conn) wake() {
	if c.box.room != nil {
		close(c.box.room)
		c.box.room = nil
	}
}
