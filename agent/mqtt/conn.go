package mqtt

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	wire "mooring/wire/mqtt"
)

// Conn is one connection. Its methods may be called by many goroutines.
type Conn struct {
	config    Config
	session   *session
	final     bool // the session ends with the connection
	net       net.Conn
	answer    wire.Connack
	keepAlive time.Duration
	dropped   atomic.Uint64
	leaving   atomic.Pointer[error] // what end is told when the server closes first, once DISCONNECT is on its way

	window int // messages that the server takes yet; session.mu guards it

	writing sync.Mutex // guards what follows
	wrote   *sync.Cond // out was taken, or nothing is being written any more
	out     []byte     // what waits to be written
	spare   []byte     // the buffer that was written last
	active  bool       // a goroutine writes

	incoming sync.Mutex // guards what follows
	taken    *sync.Cond // the list became shorter
	list     []Message  // what waits for the handler
	ids      []uint16   // their packet identifiers
	waiting  int        // of those with QoS 1 and 2
	handing  bool       // a goroutine hands over
	aliases  map[uint16]string

	heard atomic.Bool // since the last tick
	asked bool        // there was a tick
	timer *time.Timer // nil: no keep-alive

	ending sync.Once
	done   chan struct{}
	err    error // read after done
}

// Dial connects once.
func Dial(ctx context.Context, config Config) (*Conn, error) {
	config = config.withDefaults()
	return dial(ctx, config, newSession(config), true)
}

func dial(ctx context.Context, config Config, s *session, final bool) (*Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	below, err := config.Dial(ctx)
	if err != nil {
		return nil, fmt.Errorf("connecting: %w", err)
	}
	c := &Conn{config: config, session: s, final: final, net: below, done: make(chan struct{})}
	c.wrote, c.taken = sync.NewCond(&c.writing), sync.NewCond(&c.incoming)
	stop := context.AfterFunc(ctx, func() { _ = below.SetDeadline(time.Unix(1, 0)) }) // ends what hangs; the error is that of the read
	reader, err := c.open()
	if !stop() || err != nil {
		_ = below.Close() // nothing was agreed
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return nil, err
	}
	c.begin()
	go c.read(reader)
	return c, nil
}

// open says CONNECT and reads the answer.
func (c *Conn) open() (*reader, error) {
	s := c.session
	s.mu.Lock()
	id, clean := s.id, c.config.CleanStart && (!s.began || c.config.Version == wire.V311) // a clean session of 3.1.1 ends with its connection
	s.mu.Unlock()
	if c.config.Version == wire.V311 && id == "" {
		clean = true // 3.1.1, section 3.1.3.1
	}
	if _, err := c.net.Write(c.config.connect(id, clean).Append(nil, c.config.Version)); err != nil {
		return nil, fmt.Errorf("sending CONNECT: %w", err)
	}
	r := &reader{from: c.net, rules: wire.Rules{Version: c.config.Version, From: wire.Server, Limits: &wire.Limits{Packet: c.config.MaximumPacket}}}
	h, body, err := r.next()
	if err != nil {
		return nil, fmt.Errorf("waiting for CONNACK: %w", err)
	}
	if c.answer, err = wire.DecodeConnack(r.rules, h, body); err != nil {
		return nil, fmt.Errorf("reading CONNACK: %w", err)
	}
	c.answer.AuthenticationData, c.answer.User = bytes.Clone(c.answer.AuthenticationData), bytes.Clone(c.answer.User)
	if a := c.answer; a.Reason.Failed() {
		return nil, &Refusal{Packet: wire.CONNACK, Reason: a.Reason, Text: a.ReasonString, ServerReference: a.ServerReference}
	}
	return r, nil
}

// window311 is how many messages with QoS 1 and 2 are on their way to a server of 3.1.1, which cannot say how many it takes. Mosquitto closes at the
// 21st with QoS 2.
const window311 = 16

// begin starts the session on this connection.
func (c *Conn) begin() {
	switch {
	case c.config.Version == wire.V311:
		c.window = window311
	case c.answer.ReceiveMaximum != 0:
		c.window = int(c.answer.ReceiveMaximum)
	default:
		c.window = 65535
	}
	c.keepAlive = max(c.config.KeepAlive, 0).Truncate(time.Second)
	if c.answer.ServerKeepAlive.Present {
		c.keepAlive = time.Duration(c.answer.ServerKeepAlive.Value) * time.Second
	}
	if c.keepAlive > 0 {
		c.writing.Lock()
		c.timer = time.AfterFunc(c.keepAlive*3/4, c.tick)
		c.writing.Unlock()
	}
	c.session.begin(c, c.answer.SessionPresent)
}

// Answer returns the server's CONNACK.
func (c *Conn) Answer() wire.Connack { return c.answer }

// ClientID returns the identifier that the client has, the assigned one if one was assigned.
func (c *Conn) ClientID() string {
	c.session.mu.Lock()
	defer c.session.mu.Unlock()
	return c.session.id
}

// Done is closed when the connection is over.
func (c *Conn) Done() <-chan struct{} { return c.done }

// Err returns why the connection is over, nil while it is not.
func (c *Conn) Err() error {
	select {
	case <-c.done:
		return c.err
	default:
		return nil
	}
}

// Dropped returns how many messages with QoS 0 came too fast for the handler.
func (c *Conn) Dropped() uint64 { return c.dropped.Load() }

// Close ends the connection in good order: what was handed over is written, and the server forgets the will.
func (c *Conn) Close() error { return c.CloseWith(wire.Disconnect{}) }

// CloseWith is Close with what is to be said.
func (c *Conn) CloseWith(d wire.Disconnect) error {
	c.farewell(d, ErrClosed)
	if err := c.Err(); !errors.Is(err, ErrClosed) {
		return err
	}
	return nil
}

// farewell says why the connection ends, if that can be said, and ends it.
func (c *Conn) farewell(d wire.Disconnect, err error) {
	c.leaving.CompareAndSwap(nil, &err)
	if queue(c, d) == nil {
		c.writing.Lock()
		for c.active {
			c.wrote.Wait()
		}
		c.writing.Unlock()
	}
	c.end(err)
}

// Break cuts the connection without a word, as a loss of power does.
func (c *Conn) Break() { c.end(errBroken) }

var errBroken = fmt.Errorf("%w, without a word", ErrClosed)

// raw returns the connection below TLS, whose end nobody has to be told.
func raw(c net.Conn) net.Conn {
	if t, ok := c.(interface{ NetConn() net.Conn }); ok {
		return t.NetConn()
	}
	return c
}

// end is over and done with; the first error counts.
func (c *Conn) end(err error) {
	c.ending.Do(func() {
		c.err = err
		close(c.done)
		if err == ErrClosed { // not errBroken
			_ = c.net.Close() // nothing more is to be said
		} else { // TLS would wait for a peer that does not read
			_ = raw(c.net).Close()
		}
		c.writing.Lock()
		if c.timer != nil {
			c.timer.Stop()
		}
		c.wrote.Broadcast()
		c.writing.Unlock()
		c.incoming.Lock()
		c.taken.Broadcast()
		c.incoming.Unlock()
		c.session.end(c, err, c.final)
	})
}

// fail tells the server why the connection ends, if it can hear it, and ends it.
func (c *Conn) fail(err error) {
	reason := wire.ProtocolError
	if fault := (*wire.Error)(nil); errors.As(err, &fault) {
		reason = fault.Reason
	}
	if c.config.Version == wire.V5 && reason.Legal(wire.DISCONNECT, wire.Client) {
		c.farewell(wire.Disconnect{Reason: reason}, err)
	}
	c.end(err)
}

// highWater is how many octets may wait to be written before who writes messages with QoS 0 waits, too.
const highWater = 64 << 10

// queue hands a packet over for writing. It never waits, so that whoever holds session.mu, or reads, may call it: what may wait to be written is bounded by
// Receive Maximum in both directions.
func queue[P wire.Packet](c *Conn, p P) error {
	c.writing.Lock()
	defer c.writing.Unlock()
	return queueLocked(c, p)
}

func queueLocked[P wire.Packet](c *Conn, p P) error {
	if err := c.Err(); err != nil {
		return err
	}
	before := len(c.out)
	c.out = p.Append(c.out, c.config.Version)
	if limit := int(c.answer.MaximumPacketSize); limit > 0 && len(c.out)-before > limit {
		c.out = c.out[:before]
		return ErrTooMuch
	}
	if !c.active {
		c.active = true
		go c.write()
	}
	return nil
}

// write writes as long as there is something, and ends then.
func (c *Conn) write() {
	c.writing.Lock()
	defer c.writing.Unlock()
	for len(c.out) > 0 && c.Err() == nil {
		b := c.out
		c.out = c.spare[:0]
		c.spare = nil
		c.wrote.Broadcast()
		c.writing.Unlock()
		err := c.net.SetWriteDeadline(c.config.Now().Add(writeTimeout))
		if err == nil {
			_, err = c.net.Write(b)
		}
		if err != nil {
			c.end(fmt.Errorf("writing: %w", err))
		}
		c.writing.Lock()
		if cap(b) <= highWater {
			c.spare = b
		}
	}
	c.active = false
	c.wrote.Broadcast()
}

// tick asks the server whether it is there, four times in three keep-alives whatever else was sent: so that no time longer than the keep-alive passes in
// silence, and it is seen when nothing comes any more.
func (c *Conn) tick() {
	if heard := c.heard.Swap(false); c.asked && !heard {
		c.end(ErrSilent)
		return
	}
	c.asked = true
	if err := queue(c, wire.Pingreq{}); err != nil {
		return
	}
	c.writing.Lock()
	defer c.writing.Unlock()
	if c.Err() == nil {
		c.timer.Reset(c.keepAlive * 3 / 4)
	}
}

// Publish sends a message. With QoS 1 and 2 it returns when the server has it; when ctx ends before, the message may be delivered all the same. With
// QoS 0 it returns when the message is about to be written.
func (c *Conn) Publish(ctx context.Context, m Message) error {
	return publish(ctx, m, c.Send)
}

func publish(ctx context.Context, m Message, send func(context.Context, Message, func(error)) error) error {
	if m.QoS == wire.AtMostOnce {
		return send(ctx, m, nil)
	}
	done := make(chan error, 1)
	if err := send(ctx, m, func(err error) { done <- err }); err != nil {
		return err
	}
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Send hands a message over and does not wait for the server; it waits only while too many others are on their way. done, if not nil, is called once, for
// messages with QoS 1 and 2 that were taken, on a goroutine of its own; those with QoS 0 have no end that could be known. The message is not to be changed
// until then.
func (c *Conn) Send(ctx context.Context, m Message, done func(error)) error {
	p, err := m.packet()
	if err != nil {
		return err
	}
	if err := c.Err(); err != nil {
		return err
	}
	if err := c.takes(p); err != nil {
		return err
	}
	if m.QoS > wire.AtMostOnce {
		return c.session.enter(ctx, p, done)
	}
	c.writing.Lock()
	defer c.writing.Unlock()
	for len(c.out) > highWater && c.Err() == nil {
		c.wrote.Wait()
	}
	return queueLocked(c, p)
}

// takes says whether the server takes such a message.
func (c *Conn) takes(p wire.Publish) error {
	switch {
	case p.QoS > c.answer.MaximumQoS.Or(wire.ExactlyOnce):
		return fmt.Errorf("the server takes no messages with QoS %d", p.QoS)
	case p.Retain && !c.answer.RetainAvailable.Or(true):
		return errors.New("the server retains no messages")
	}
	return nil
}

// packet makes a message a packet, if there is such a message.
func (m Message) packet() (wire.Publish, error) {
	if err := wire.CheckTopic(m.Topic, nil); err != nil {
		return wire.Publish{}, err
	}
	if m.QoS > wire.ExactlyOnce {
		return wire.Publish{}, fmt.Errorf("there is no QoS %d", m.QoS)
	}
	return wire.Publish{Topic: m.Topic, Payload: m.Payload, QoS: m.QoS, Retain: m.Retain, Properties: m.Properties}, nil
}

// Handle has messages whose topic the filter matches given to f instead of Config.Handler. The first filter that was named counts; one that was named
// before gets another f, and none with nil.
func (c *Conn) Handle(filter string, f func(Message)) { c.session.handle(filter, f) }

// Subscribe asks for messages and returns what was granted for each filter. The error is a *Refusal when one was refused; the others hold all the same.
func (c *Conn) Subscribe(ctx context.Context, list ...Subscription) ([]wire.Reason, error) {
	for _, s := range list {
		if err := wire.CheckFilter(s.Filter, nil); err != nil {
			return nil, err
		}
	}
	reasons, text, err := ask(ctx, c, wire.SUBACK, func(id uint16) wire.Subscribe { return wire.Subscribe{ID: id, Filters: list} })
	if err != nil {
		return nil, fmt.Errorf("subscribing: %w", err)
	}
	if len(reasons) != len(list) {
		return nil, fmt.Errorf("subscribing: the server answered %d filters with %d reasons", len(list), len(reasons))
	}
	c.session.granted(list, reasons)
	return reasons, refusal(wire.SUBACK, reasons, text, func(i int) string { return list[i].Filter })
}

// refusal returns the first one, if there is one.
func refusal(t wire.Type, reasons []wire.Reason, text string, filter func(int) string) error {
	for i, r := range reasons {
		if r.Failed() {
			return &Refusal{Packet: t, Reason: r, Text: text, Filter: filter(i)}
		}
	}
	return nil
}

// Unsubscribe takes subscriptions back.
func (c *Conn) Unsubscribe(ctx context.Context, filters ...string) error {
	reasons, text, err := ask(ctx, c, wire.UNSUBACK, func(id uint16) wire.Unsubscribe { return wire.Unsubscribe{ID: id, Filters: filters} })
	if err != nil {
		return fmt.Errorf("unsubscribing: %w", err)
	}
	if reasons != nil && len(reasons) != len(filters) {
		return fmt.Errorf("unsubscribing: the server answered %d filters with %d reasons", len(filters), len(reasons))
	}
	for i, f := range filters {
		if reasons == nil || !reasons[i].Failed() {
			c.session.granted([]Subscription{{Filter: f}}, nil)
		}
	}
	return refusal(wire.UNSUBACK, reasons, text, func(i int) string { return filters[i] })
}
