package coap

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	wire "mooring/wire/coap"
)

// Bounds of what a device holds of notifications.
const (
	maxCame  = 64
	maxKnown = 32
)

// topics is where a server has its topics.
const topics = "/p/"

// Refused is what a server answers that does not do what it was asked for.
type Refused struct {
	Code   wire.Code
	Reason string
	MaxAge time.Duration // when to come again; 0: not said
}

// Error says what the server answered.
func (r *Refused) Error() string {
	return fmt.Sprintf("the server answered %s: %s", r.Code, r.Reason)
}

// Publication is something to be said.
type Publication struct {
	Topic     string
	Payload   []byte
	Format    wire.Format // of the payload
	Confirmed bool        // Publish returns once the server has stored it; otherwise it is sent once, and may be lost
	Retain    bool
	Expiry    uint32 // seconds; 0: it does not expire
}

// Publish says something. The error of a refusal is a *Refused.
func (c *Conn) Publish(ctx context.Context, p Publication) error {
	path, err := pathOf(p.Topic)
	if err != nil {
		return err
	}
	var query []string
	if p.Retain {
		query = append(query, "retain")
	}
	if p.Expiry > 0 {
		query = append(query, fmt.Sprint("expiry=", p.Expiry))
	}
	if query != nil {
		path += "?" + strings.Join(query, "&")
	}
	if !p.Confirmed && len(p.Payload) <= 16<<c.szx {
		return c.mention(path, p)
	}
	answer, err := c.Do(ctx, Request{Code: wire.POST, Path: path, Format: p.Format, Body: p.Payload})
	if err != nil {
		return err
	}
	return answer.refused()
}

func pathOf(topic string) (string, error) {
	if topic == "" || strings.Contains(topic, "?") {
		return "", fmt.Errorf("the topic %q cannot stand in a path", topic)
	}
	return topics + topic, nil
}

// refused returns an error unless the answer is a success.
func (a *Answer) refused() error {
	if a.Code.Class() == 2 {
		return nil
	}
	return &Refused{Code: a.Code, Reason: string(a.Body), MaxAge: a.MaxAge}
}

// mention sends what need not arrive and is not answered (RFC 7967).
func (c *Conn) mention(path string, p Publication) error {
	c.id++
	m := &wire.Message{Type: wire.NonConfirmable, Code: wire.POST, ID: c.id, Token: c.newToken(), Options: wire.PathOptions(path), Payload: p.Payload}
	m.Options = append(m.Options, wire.UintOption(wire.NoResponse, 2|8|16))
	if len(p.Payload) > 0 {
		m.Options = append(m.Options, wire.UintOption(wire.ContentFormat, uint32(p.Format)))
	}
	if _, err := c.dtls.Write(m.Append(nil)); err != nil {
		return fmt.Errorf("sending: %w", err)
	}
	return nil
}

// Ping asks whether the server is there. A server that holds something back for a device that sleeps sends it then.
func (c *Conn) Ping(ctx context.Context) error {
	_, err := c.exchange(ctx, &wire.Message{})
	return err
}

// Observation is a wish to be told of a topic, or of the topics that a filter with + or # matches.
type Observation struct {
	Filter string

	conn  *Conn
	token []byte
	base  wire.Options
}

// Notification is what an observer is told.
type Notification struct {
	Answer
	Of    *Observation
	Topic string
	Ended bool // the observation is over; Code says why
}

// Observe asks to be told, and returns what there is now: of a topic the retained message, if there is one.
func (c *Conn) Observe(ctx context.Context, filter string) (*Observation, *Answer, error) {
	return c.observe(ctx, filter, nil)
}

// ObserveAs is Observe for messages of one content format alone: with one of another the observation ends.
func (c *Conn) ObserveAs(ctx context.Context, filter string, f wire.Format) (*Observation, *Answer, error) {
	return c.observe(ctx, filter, wire.Options{wire.UintOption(wire.Accept, uint32(f))})
}

func (c *Conn) observe(ctx context.Context, filter string, more wire.Options) (*Observation, *Answer, error) {
	path, err := pathOf(filter)
	if err != nil {
		return nil, nil, err
	}
	o := &Observation{Filter: filter, conn: c, token: c.newToken(), base: append(wire.PathOptions(path), more...)}
	c.observations = append(c.observations, o)
	answer, observed, err := o.ask(ctx, 0)
	if err == nil {
		err = answer.refused()
	}
	if err == nil && !observed {
		err = errors.New("the server answers and does not let this be observed")
	}
	if err != nil {
		o.forget()
		return nil, nil, err
	}
	return o, answer, nil
}

// Cancel asks not to be told any more.
func (o *Observation) Cancel(ctx context.Context) error {
	_, _, err := o.ask(ctx, 1)
	o.forget()
	return err
}

func (o *Observation) forget() {
	o.conn.observations = slices.DeleteFunc(o.conn.observations, func(other *Observation) bool { return other == o })
}

// ask registers, or takes that back, and reports whether the server has taken note.
func (o *Observation) ask(ctx context.Context, wish uint32) (answer *Answer, observed bool, err error) {
	c := o.conn
	m := &wire.Message{Code: wire.GET, Token: o.token, Options: append(slices.Clone(o.base), wire.UintOption(wire.Observe, wish))}
	if c.szx < wire.MaxSZX {
		m.Options = append(m.Options, wire.Option{Number: wire.Block2, Value: wire.Block{SZX: c.szx}.Value()})
	}
	first, err := c.exchange(ctx, m)
	if err != nil {
		return nil, false, err
	}
	_, observed = first.Options.Get(wire.Observe)
	answer, err = c.download(ctx, Request{Code: wire.GET}, o.base, first)
	return answer, observed, err
}

// notification takes a message that an observation is about, and reports whether it is one. What finds no room is not acknowledged.
func (c *Conn) notification(m *wire.Message) bool {
	if m.Code.Class() < 2 || c.observation(m.Token) == nil {
		return false
	}
	again := slices.Contains(c.known, m.ID)
	if !again && len(c.came) >= maxCame {
		return true
	}
	if m.Type == wire.Confirmable {
		c.say(&wire.Message{Type: wire.Acknowledgement, ID: m.ID})
	}
	if again {
		return true
	}
	if len(c.known) >= maxKnown {
		c.known = c.known[1:]
	}
	c.known = append(c.known, m.ID)
	c.came = append(c.came, m)
	return true
}

func (c *Conn) observation(token []byte) *Observation {
	for _, o := range c.observations {
		if bytes.Equal(o.token, token) {
			return o
		}
	}
	return nil
}

// Wait returns the next notification of any observation, in the order in which they came.
func (c *Conn) Wait(ctx context.Context) (*Notification, error) {
	for {
		for len(c.came) == 0 {
			if _, _, err := c.await(ctx, nil, answerTimeout); err != nil {
				return nil, err
			}
		}
		m := c.came[0]
		c.came = c.came[1:]
		if o := c.observation(m.Token); o != nil {
			return o.read(ctx, m)
		}
	}
}

// read makes a notification whole.
func (o *Observation) read(ctx context.Context, m *wire.Message) (*Notification, error) {
	answer, err := o.conn.download(ctx, Request{Code: wire.GET}, o.base, m)
	if err != nil {
		return nil, fmt.Errorf("fetching the rest of a notification: %w", err)
	}
	n := &Notification{Answer: *answer, Of: o, Topic: o.Filter}
	if _, told := m.Options.Get(wire.Observe); !told || m.Code.Class() != 2 {
		n.Ended = true
		o.forget()
	}
	var levels []string
	for _, one := range m.Options {
		if one.Number == wire.LocationPath {
			levels = append(levels, string(one.Value))
		}
	}
	if len(levels) > 1 {
		n.Topic = strings.Join(levels[1:], "/")
	}
	return n, nil
}
