package mqtt

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"time"

	wire "mooring/wire/mqtt"
)

// Client is a session that is connected again and again. Its methods may be called by many goroutines, before and while Run runs.
type Client struct {
	config  Config
	session *session

	mu      sync.Mutex
	conn    *Conn         // nil: not connected
	changed chan struct{} // is closed when conn changes
}

// New makes a client; Run connects it.
func New(config Config) *Client {
	config = config.withDefaults()
	return &Client{config: config, session: newSession(config), changed: make(chan struct{})}
}

// Bounds of the wait between two connects, and how long a connection must have lasted to be a good one.
const (
	minBackoff = time.Second
	maxBackoff = 15 * time.Minute
	lasted     = time.Minute
)

// Backoff returns how long to wait at most before connecting again after so many failures in a row, from 1 on: doubled for each, up to 15 minutes.
// The wait is drawn evenly between 0 and this.
func Backoff(failures int) time.Duration {
	if failures > 10 { // 1 s << 10 is above the maximum
		return maxBackoff
	}
	return min(minBackoff<<max(failures-1, 0), maxBackoff)
}

// Run keeps the client connected until ctx ends, and says goodbye then. What waits for the server then fails with ctx's error. It is called once.
func (c *Client) Run(ctx context.Context) error {
	failures := 0
	for ctx.Err() == nil {
		began := c.config.Now()
		err := c.once(ctx)
		if ctx.Err() != nil {
			break
		}
		if failures++; c.config.Now().Sub(began) >= lasted {
			failures = 1
		}
		if c.config.Lost != nil {
			c.config.Lost(err)
		}
		wait := time.NewTimer(rand.N(Backoff(failures)))
		select {
		case <-ctx.Done():
		case <-wait.C:
		}
		wait.Stop()
	}
	c.session.end(nil, ctx.Err(), true)
	return ctx.Err()
}

// once connects and stays until the connection is over.
func (c *Client) once(ctx context.Context) error {
	conn, err := dial(ctx, c.config, c.session, false)
	if err != nil {
		return err
	}
	refused, err := c.renew(ctx, conn)
	if err != nil {
		conn.end(err)
		return err
	}
	c.set(conn)
	defer c.set(nil)
	if c.config.Connected != nil {
		c.config.Connected(Connected{SessionPresent: conn.answer.SessionPresent, ClientID: conn.ClientID(), KeepAlive: conn.keepAlive, Answer: conn.answer, Refused: refused})
	}
	select {
	case <-conn.Done():
		return conn.Err()
	case <-ctx.Done():
		_ = conn.Close() // the end was wanted, however it went
		return ctx.Err()
	}
}

// perSubscribe is how many filters go into one SUBSCRIBE.
const perSubscribe = 32

// renew makes the subscriptions anew if the server has lost them, and returns those that it refused now.
func (c *Client) renew(ctx context.Context, conn *Conn) (refused []error, err error) {
	if conn.answer.SessionPresent {
		return nil, nil
	}
	c.session.mu.Lock()
	list := append([]Subscription(nil), c.session.filters...)
	c.session.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	for len(list) > 0 {
		part := list[:min(len(list), perSubscribe)]
		list = list[len(part):]
		reasons, err := conn.Subscribe(ctx, part...)
		if err != nil && reasons == nil {
			return nil, err
		}
		for i, r := range reasons {
			if r.Failed() {
				refused = append(refused, &Refusal{Packet: wire.SUBACK, Reason: r, Filter: part[i].Filter})
			}
		}
	}
	return refused, nil
}

func (c *Client) set(conn *Conn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.conn = conn
	close(c.changed)
	c.changed = make(chan struct{})
}

// Conn waits for a connection and returns it.
func (c *Client) Conn(ctx context.Context) (*Conn, error) {
	for {
		c.mu.Lock()
		conn, changed := c.conn, c.changed
		c.mu.Unlock()
		if conn != nil && conn.Err() == nil {
			return conn, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// Publish sends a message. With QoS 1 and 2 it returns when the server has it, over as many connections as that takes; when ctx ends before, the message
// may be delivered all the same. With QoS 0 it waits for a connection and hands the message to it.
func (c *Client) Publish(ctx context.Context, m Message) error {
	return publish(ctx, m, c.Send)
}

// Send hands a message over and does not wait for the server; see Conn.Send. A message with QoS 1 or 2 need not wait for a connection.
func (c *Client) Send(ctx context.Context, m Message, done func(error)) error {
	if m.QoS == wire.AtMostOnce {
		conn, err := c.Conn(ctx)
		if err != nil {
			return err
		}
		return conn.Send(ctx, m, nil)
	}
	p, err := m.packet()
	if err != nil {
		return err
	}
	return c.session.enter(ctx, p, done)
}

// Handle has messages whose topic the filter matches given to f instead of Config.Handler; see Conn.Handle. Messages of a session that the server kept come
// before Subscribe can be called, so name handlers before Run.
func (c *Client) Handle(filter string, f func(Message)) { c.session.handle(filter, f) }

// Subscribe asks for messages as Conn.Subscribe does, as soon as there is a connection; what is granted is made anew when the server loses it.
func (c *Client) Subscribe(ctx context.Context, list ...Subscription) (reasons []wire.Reason, err error) {
	err = c.again(ctx, func(conn *Conn) error {
		reasons, err = conn.Subscribe(ctx, list...)
		return err
	})
	return reasons, err
}

// Unsubscribe takes subscriptions back.
func (c *Client) Unsubscribe(ctx context.Context, filters ...string) error {
	return c.again(ctx, func(conn *Conn) error { return conn.Unsubscribe(ctx, filters...) })
}

// again does something on a connection, and on the next one if that one was lost meanwhile.
func (c *Client) again(ctx context.Context, do func(*Conn) error) error {
	for {
		conn, err := c.Conn(ctx)
		if err != nil {
			return err
		}
		err = do(conn)
		refused := (*Refusal)(nil)
		if err == nil || conn.Err() == nil || ctx.Err() != nil || errors.As(err, &refused) && refused.Filter != "" {
			return err
		}
	}
}
