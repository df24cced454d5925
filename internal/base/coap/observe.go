package coap

import (
	"bytes"
	"net/netip"
	"slices"
	"time"

	"mooring/internal/base/errs"
	wire "mooring/wire/coap"
)

// Bounds of observation.
const (
	maxObservations = 8
	maxSaid         = 16             // notifications that were not confirmable and may still be rejected
	confirmEvery    = 24 * time.Hour // RFC 7641, section 4.5: one notification at least is confirmable
	fetchTime       = 30 * time.Second
)

// watch is the part of an association that is about observation. All of it is guarded by the association's mu.
type watch struct {
	observations []*Observation
	queue        []*notice // the oldest first
	pumping      bool      // somebody sends what is in the queue
	asleep       bool      // the client did not answer: nothing is sent until it is heard
	gone         bool      // the association has ended
	sequence     uint32
	rtt          time.Duration // of a confirmable message, lately; 0: not known
	confirmed    time.Time     // when the client acknowledged one last
	said         said
}

// said remembers which observation a message belongs to.
type said []struct {
	id uint16
	o  *Observation
}

func (s said) find(id uint16) *Observation {
	for _, one := range s {
		if one.id == id {
			return one.o
		}
	}
	return nil
}

// Observation is a client's wish to be told of something (RFC 7641). It ends with the association.
type Observation struct {
	a       *association
	token   []byte
	request *wire.Message // as it was registered, without what has no part in notifications
	ask     *wire.Block   // the size of blocks that the client wants; nil: it did not say
	ended   func()

	begun, over bool // guarded by a.mu: the client has the answer to its request; it is not told any more
}

// Outcome is what became of a notification.
type Outcome uint8

// The outcomes.
const (
	Told       Outcome = iota + 1 // the client has it, or it was sent to one that need not say so
	Superseded                    // a newer one was sent in its place, or it was of no use any more
	Unwanted                      // the client has ended the observation
)

// Notice is one notification.
type Notice struct {
	Response
	Confirmable bool // the client must say that it has it; others may be confirmable too
	// Newest, if not "", names what this is the state of: a notice of the same observation and name that waits is superseded. Others keep their order.
	Newest string
	Final  bool // the observation ends with it: its code is no success
	// Done, if not nil, is called once, by another goroutine and without locks, unless the association ends before.
	Done func(Outcome)
}

type notice struct {
	Notice
	to *Observation
}

// Client is who is at the other end of an association.
type Client struct{ a *association }

// Drop ends the association at once; it does not block and may be called with locks held. What came and is not handled yet never is.
func (c *Client) Drop() {
	c.a.dropped.Store(true)
	c.a.conn.Drop()
}

// Idle has the association end when nothing came for d.
func (c *Client) Idle(d time.Duration) { c.a.conn.Idle(d) }

// Address returns where the client was last.
func (c *Client) Address() netip.AddrPort {
	at, _ := c.a.conn.Moved()
	return at
}

// Waiting returns how many octets wait to be sent.
func (c *Client) Waiting() (octets int) {
	c.a.mu.Lock()
	defer c.a.mu.Unlock()
	for _, n := range c.a.queue {
		octets += len(n.Body)
	}
	return octets
}

// Observe registers the client for what it asks, and is given back in the answer to that, which must be a success. Nothing is told before. A request that
// the client has made already with this token finds the same observation. ended is called once if the client does not want it any more. The kind of the error is Limited.
func (r *Request) Observe(ended func()) (*Observation, error) {
	a := r.Client.a
	m := &wire.Message{Code: r.Code}
	o := &Observation{a: a, token: r.token, request: m, ended: ended}
	for _, one := range r.Options {
		switch one.Number {
		case wire.Block2:
			if b, err := wire.ParseBlock(one.Value); err == nil {
				o.ask = &wire.Block{SZX: b.SZX}
			}
		case wire.Observe, wire.ETag:
		default:
			m.Options = append(m.Options, one)
		}
	}
	a.mu.Lock()
	before := a.observer(r.token)
	if before != nil && wire.OperationKey(before.request) == wire.OperationKey(m) {
		a.mu.Unlock()
		return before, nil
	}
	full := before == nil && len(a.observations) >= maxObservations
	if !full {
		a.observations = append(a.observations, o)
	}
	a.mu.Unlock()
	if before != nil {
		a.unwatch(before)
	}
	if full {
		a.limited[overObservations].Add(1)
		return nil, errs.WithRetry(errs.New(errs.Limited, "this association observes %d resources already, the most that it may", maxObservations), time.Minute)
	}
	return o, nil
}

// Forget ends the observation that the client registered with the token of this request, if there is one.
func (r *Request) Forget() {
	a := r.Client.a
	a.mu.Lock()
	o := a.observer(r.token)
	a.mu.Unlock()
	if o != nil {
		a.unwatch(o)
	}
}

// observer finds the observation of a token. The caller holds mu.
func (a *association) observer(token []byte) *Observation {
	for _, o := range a.observations {
		if !o.over && bytes.Equal(o.token, token) {
			return o
		}
	}
	return nil
}

// unwatch ends an observation because the client has done so.
func (a *association) unwatch(o *Observation) {
	a.mu.Lock()
	was := o.over
	lost := a.remove(o)
	a.mu.Unlock()
	for _, n := range lost {
		n.done(Unwanted)
	}
	if !was && o.ended != nil {
		o.ended()
	}
}

// remove takes an observation away and returns what waited for it. The caller holds mu.
func (a *association) remove(o *Observation) (lost []*notice) {
	o.over = true
	a.observations = slices.DeleteFunc(a.observations, func(other *Observation) bool { return other == o })
	a.queue = slices.DeleteFunc(a.queue, func(n *notice) bool {
		if n.to == o {
			lost = append(lost, n)
		}
		return n.to == o
	})
	a.said = slices.DeleteFunc(a.said, func(one struct {
		id uint16
		o  *Observation
	}) bool {
		return one.o == o
	})
	return lost
}

// End ends the observation without a word to the client; what waits is unwanted.
func (o *Observation) End() {
	o.a.mu.Lock()
	lost := o.a.remove(o)
	o.a.mu.Unlock()
	for _, n := range lost {
		n.done(Unwanted)
	}
}

// Notify tells the client something when it is its turn; it does not block. It reports false when the observation is over.
func (o *Observation) Notify(n Notice) bool {
	a := o.a
	a.mu.Lock()
	if o.over || a.gone {
		a.mu.Unlock()
		return false
	}
	var old *notice
	if n.Newest != "" {
		if i := slices.IndexFunc(a.queue, func(other *notice) bool { return other.to == o && other.Newest == n.Newest }); i >= 0 {
			old = a.queue[i]
			a.queue = slices.Delete(a.queue, i, i+1)
		}
	}
	var lost []*notice
	if n.Final {
		lost = a.remove(o) // nothing else is told any more
	}
	a.queue = append(a.queue, &notice{n, o})
	a.pump()
	a.mu.Unlock()
	if old != nil || lost != nil {
		go finish(old, lost) // whoever calls may hold what Done needs
	}
	return true
}

func finish(old *notice, lost []*notice) {
	if old != nil {
		old.done(Superseded)
	}
	for _, n := range lost {
		n.done(Unwanted)
	}
}

func (n *notice) done(out Outcome) {
	if n.Done != nil {
		n.Done(out)
	}
}

// answers has an answer begin an observation, if it is a success; the observation is returned then, and ended otherwise.
func (a *association) answers(out *wire.Message, o *Observation) *Observation {
	if o == nil {
		return nil
	}
	if out.Code.Class() != 2 {
		a.unwatch(o)
		return nil
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	out.Options = append(out.Options, wire.UintOption(wire.Observe, a.number()))
	return o
}

// begun lets notifications go once the client has been sent the answer that they follow.
func (a *association) begun(o *Observation) {
	if o == nil {
		return
	}
	a.mu.Lock()
	o.begun = true
	a.pump()
	a.mu.Unlock()
}

// number returns the next number of a notification (RFC 7641, section 4.4). The caller holds mu.
func (a *association) number() uint32 {
	a.sequence = (a.sequence + 1) & (1<<24 - 1)
	return a.sequence
}

// measured notes how long the client took to acknowledge what it was sent once.
func (a *association) measured(took time.Duration) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.rtt, a.confirmed = max(took, time.Microsecond), a.Now()
}

// heard wakes what waits for the client.
func (a *association) heard() {
	select {
	case a.stir <- struct{}{}:
	default:
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.asleep = false
	a.pump()
}

// quit says that the association has ended.
func (a *association) quit() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.gone, a.queue = true, nil
}

// pump has somebody send what waits, unless somebody does. The caller holds mu.
func (a *association) pump() {
	if a.pumping || a.gone || a.asleep || !slices.ContainsFunc(a.queue, ready) {
		return
	}
	a.pumping = true
	a.working.Go(func() {
		for n := a.following(); n != nil; n = a.following() {
			a.say(n)
		}
	})
}

func ready(n *notice) bool { return n.to.begun }

// following takes the next notification that may be sent.
func (a *association) following() *notice {
	a.mu.Lock()
	defer a.mu.Unlock()
	i := slices.IndexFunc(a.queue, ready)
	if i < 0 || a.asleep || a.gone {
		a.pumping = false
		return nil
	}
	n := a.queue[i]
	a.queue = slices.Delete(a.queue, i, i+1)
	return n
}

// say sends a notification and waits for what becomes of it. One that a sleeping client did not get goes back to where it was.
func (a *association) say(n *notice) {
	if !n.Until.IsZero() && !a.Now().Before(n.Until) {
		n.done(Superseded)
		return
	}
	m, rest := a.notification(n)
	if m.Code.Class() != 2 && !n.Final { // there is no memory for it
		a.back(n)
		return
	}
	a.mu.Lock()
	quiet := !n.Confirmable && !n.Final && a.rtt > 0 && a.Now().Sub(a.confirmed) < confirmEvery
	a.mu.Unlock()
	if quiet {
		a.mention(n, m)
		n.done(Told)
		return
	}
	out := a.confirm(m, a.push)
	if out == arrived && rest != nil && n.Confirmable {
		out = a.fetched(rest)
	}
	switch out {
	case arrived:
		n.done(Told)
	case rejected:
		n.done(Unwanted)
		a.unwatch(n.to)
	case unanswered:
		a.back(n)
	}
}

// back puts a notification in front again, until the client is heard. RFC 7641, section 4.5, has the observation end here; a device that sleeps would not
// know, so it is only suspended.
func (a *association) back(n *notice) {
	a.mu.Lock()
	a.asleep = true
	gone := n.to.over && !n.Final
	if !gone {
		newer := n.Newest != "" && slices.ContainsFunc(a.queue, func(other *notice) bool { return other.to == n.to && other.Newest == n.Newest })
		if gone = newer; !newer {
			a.queue = slices.Insert(a.queue, 0, n)
		}
	}
	a.mu.Unlock()
	if gone {
		n.done(Superseded)
	}
}

// mention sends a notification that need not arrive, and waits for as long as the client takes to answer: no more than one is on its way (RFC 7641, section
// 4.5.1).
func (a *association) mention(n *notice, m *wire.Message) {
	a.mu.Lock()
	m.Type, m.ID = wire.NonConfirmable, a.id()
	if len(a.said) >= maxSaid {
		a.said = a.said[1:]
	}
	a.said = append(a.said, struct {
		id uint16
		o  *Observation
	}{m.ID, n.to})
	pause := a.rtt
	a.mu.Unlock()
	a.push(m.Append(nil))
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-a.ended:
	}
}

// notification makes the message, and returns what is kept for the rest of it if it has more than one block.
func (a *association) notification(n *notice) (*wire.Message, *kept) {
	m := a.cut(n.to.request, transfer{ask: n.to.ask}, n.Response)
	m.Token = n.to.token
	a.mu.Lock()
	defer a.mu.Unlock()
	if m.Code.Class() == 2 {
		m.Options = append(m.Options, wire.UintOption(wire.Observe, a.number()))
	}
	if value, ok := m.Options.Get(wire.Block2); ok {
		if b, err := wire.ParseBlock(value); err == nil && b.More {
			key := wire.OperationKey(n.to.request)
			if i := slices.IndexFunc(a.kept, func(k *kept) bool { return k.key == key }); i >= 0 {
				return m, a.kept[i]
			}
		}
	}
	return m, nil
}

// fetched waits until the client has fetched the rest of a notification.
func (a *association) fetched(rest *kept) outcome {
	timer := time.NewTimer(fetchTime)
	defer timer.Stop()
	select {
	case <-rest.ended:
	case <-timer.C:
		return unanswered
	case <-a.ended:
		return over
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if rest.whole {
		return arrived
	}
	return unanswered
}
