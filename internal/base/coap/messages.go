package coap

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"mooring/internal/base/errs"
	wire "mooring/wire/coap"
)

// What is remembered of one association.
const (
	maxSeen    = 32 // messages, so that they are known when they come again
	maxUploads = 2  // transfers of request bodies
	maxKept    = 2  // answers and notifications in blocks
	maxCalls   = 4  // requests that are being handled
	maxHeld    = 4  // messages that wait until the client has shown where it is
)

// Times of RFC 7252, section 4.8, and of transfers, whose latest is EXCHANGE_LIFETIME.
const (
	exchangeLifetime = 247 * time.Second
	nonLifetime      = 145 * time.Second
	transferLife     = 60 * time.Second
	ackTimeout       = 2 * time.Second
	maxRetransmit    = 4
)

// maxMessage is more than a message of RFC 7252, section 4.6, has: 1152 octets.
const maxMessage = 2048

// association is the state of one client.
type association struct {
	*Server
	conn   Conn
	handle Handler
	ended  chan struct{}

	mu        sync.Mutex
	seen      map[uint16]*exchange        // guarded by mu
	order     []uint16                    // guarded by mu: the IDs in seen, oldest first
	calls     map[[sha256.Size]byte]*call // guarded by mu
	uploads   map[string]*upload          // guarded by mu
	kept      []*kept                     // guarded by mu; oldest first
	awaiting  map[uint16]*waiting         // guarded by mu: for our message of this ID to be acknowledged or rejected
	next      uint16                      // guarded by mu: ID of our next message
	proof     *proof                      // guarded by mu, as is what it points to; nil: none is needed
	wrong     int                         // guarded by mu: answers to nothing during proofs
	pause     time.Time                   // guarded by mu: until then no other proof is begun
	answering int                         // guarded by mu: requests for whose answer, or its acknowledgement, somebody waits
	distinct  uint64                      // guarded by mu: requests that were like no other
	tidying   bool                        // guarded by mu: purge is going to be called, whatever the client does
	working   sync.WaitGroup              // of handlers
	turn      chan struct{}               // whoever has put something in may send a confirmable message
	stir      chan struct{}               // the client is awake
	dropped   atomic.Bool                 // nothing is handled any more
	watch
}

// waiting is for a confirmable message of ours.
type waiting struct {
	done  chan struct{}
	reset bool // once done is closed: it was rejected
}

// exchange is a message that was received.
type exchange struct {
	at     time.Time
	life   time.Duration
	answer []byte // what is sent when the message comes again; nil: nothing yet
}

// call is a request that a handler works on.
type call struct {
	done chan struct{}
	one  bool     // nobody else may have its answer
	out  Response // once done is closed
	at   time.Time
}

// Serve answers what comes over conn until reading fails or, after its draining has begun, nothing is left to be answered.
func (s *Server) Serve(ctx context.Context, conn Conn, handle Handler) {
	a := &association{Server: s, conn: conn, handle: handle, ended: make(chan struct{}), seen: map[uint16]*exchange{}, calls: map[[sha256.Size]byte]*call{},
		uploads: map[string]*upload{}, awaiting: map[uint16]*waiting{}, next: uint16(rand.Uint32()), turn: make(chan struct{}, nstart), stir: make(chan struct{}, 1)}
	datagrams := make(chan []byte)
	failed := make(chan error, 1)
	go func() { failed <- a.read(datagrams); close(datagrams) }()
	var err error
	if a.serve(ctx, datagrams) {
		err = <-failed
	}
	close(a.ended)
	a.quit()
	a.working.Wait()
	a.mu.Lock()
	for key := range a.uploads {
		a.dropUpload(key)
	}
	for len(a.kept) > 0 {
		a.dropKept(0)
	}
	a.mu.Unlock()
	if handle.Ended != nil {
		handle.Ended(err)
	}
}

// read passes datagrams on until there are no more, and returns why.
func (a *association) read(to chan<- []byte) error {
	for {
		b := make([]byte, maxMessage)
		n, err := a.conn.Read(b)
		if err != nil {
			return err
		}
		select {
		case to <- b[:n]:
		case <-a.ended:
			return nil
		}
	}
}

// serve reports whether reading has failed.
func (a *association) serve(ctx context.Context, datagrams <-chan []byte) bool {
	draining := a.conn.Draining()
	var look <-chan time.Time
	for {
		select {
		case b, ok := <-datagrams:
			if !ok {
				return true
			}
			a.receive(ctx, b)
		case <-draining:
			draining = nil
			tick := time.NewTicker(50 * time.Millisecond)
			defer tick.Stop()
			look = tick.C
			if a.quiet() {
				return false
			}
		case <-look:
			if a.quiet() {
				return false
			}
		case <-ctx.Done():
			return false
		}
	}
}

// quiet reports whether nothing is being answered.
func (a *association) quiet() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, c := range a.calls {
		select {
		case <-c.done:
		default:
			return false
		}
	}
	return a.answering == 0 // a notification that is not acknowledged is said again to the next association
}

// receive deals with one datagram.
func (a *association) receive(ctx context.Context, b []byte) {
	if a.dropped.Load() {
		return
	}
	m, err := wire.Parse(b)
	switch {
	case m == nil: // RFC 7252, section 3: silently
	case m.Type == wire.Acknowledgement || m.Type == wire.Reset:
		a.acknowledged(m)
		a.heard()
	case err != nil || !m.Code.Request():
		if m.Type == wire.Confirmable { // also a ping, which is an empty one
			a.send(reset(m.ID))
		}
		a.heard()
	default:
		a.request(ctx, m) // what waits for the client follows the answer
	}
}

func reset(id uint16) []byte { return (&wire.Message{Type: wire.Reset, ID: id}).Append(nil) }

// id returns the ID of our next message. The caller holds mu.
func (a *association) id() uint16 {
	if a.next++; a.proof != nil && a.next == a.proof.ping {
		a.next++
	}
	return a.next
}

// request deals with a request: one that came before gets what it got before.
func (a *association) request(ctx context.Context, m *wire.Message) {
	x, answer, again := a.remember(m)
	if again {
		if answer != nil {
			a.send(answer)
		}
		return
	}
	if begins(m) && !a.conn.Allow() {
		a.refuse(x, m, a.tooMany())
		return
	}
	path, ok := m.Options.Path()
	if out, bad := badOption(m.Options); bad || !ok {
		if !ok {
			out = RefuseAs(wire.BadRequest, "a segment of the path is not acceptable")
		}
		a.tell(ctx, path, out)
		if m.Type == wire.NonConfirmable && out.Code == wire.BadOption {
			a.send(reset(m.ID)) // RFC 7252, section 5.4.1
			return
		}
		a.refuse(x, m, compose(out, nil, nil))
		return
	}
	t, done := a.receiveBody(m, a.limit(path))
	if done != nil {
		if done.Code.Class() == 4 && done.Code != wire.EntityIncomplete && done.Code != wire.TooManyRequests {
			a.tell(ctx, path, Response{Err: errs.New(errs.Invalid, "%s", done.Payload)})
		}
		a.refuse(x, m, done)
		return
	}
	c := a.start(ctx, m, &Request{Code: m.Code, Path: path, Options: m.Options, Body: t.body, Confirmable: m.Type == wire.Confirmable,
		Client: &Client{a}, token: m.Token})
	if c == nil {
		a.limited[overRequests].Add(1)
		out := RefuseAs(wire.ServiceUnavailable, "too many requests at once over this association")
		out.MaxAge = time.Second
		a.refuse(x, m, compose(out, t.sent, nil))
		return
	}
	a.mu.Lock()
	a.answering++
	a.mu.Unlock()
	go func() {
		a.await(x, m, t, c)
		a.mu.Lock()
		a.answering--
		a.mu.Unlock()
	}()
}

// limit is how many octets a body for path may have.
func (a *association) limit(path string) int {
	if a.handle.Limit != nil {
		if n := a.handle.Limit(path); n > 0 {
			return n
		}
	}
	return a.Body
}

// begins reports whether a message is more than one block of what was begun before. Such blocks are many, and cost little. A block of the request's own
// body decides it where there is one: what has only the first of them is a whole request, whichever block of the answer it asks for.
func begins(m *wire.Message) bool {
	for _, n := range []wire.Number{wire.Block1, wire.Block2} {
		if value, ok := m.Options.Get(n); ok {
			b, err := wire.ParseBlock(value)
			return err != nil || b.Num == 0
		}
	}
	return true
}

func (a *association) tooMany() *wire.Message {
	a.limited[overRate].Add(1)
	out := RefuseAs(wire.TooManyRequests, "too many requests from this address")
	out.MaxAge = time.Second
	return compose(out, nil, nil)
}

// refuse answers without the handler: with a refusal, or with what carries a transfer on.
func (a *association) refuse(x *exchange, m *wire.Message, out *wire.Message) {
	a.Counters.Meter("transport", out.Code.Class()*100).Observe(0)
	a.answer(x, m, out)
}

func (a *association) tell(ctx context.Context, path string, out Response) {
	if a.handle.Refused != nil {
		a.handle.Refused(ctx, path, out.Err)
	}
}

// remember notes a message, unless it is known: then it returns what was answered.
func (a *association) remember(m *wire.Message) (x *exchange, answer []byte, again bool) {
	now := a.Now()
	a.mu.Lock()
	defer a.mu.Unlock()
	a.purge(now)
	if x := a.seen[m.ID]; x != nil {
		return x, x.answer, true
	}
	if len(a.order) >= maxSeen {
		a.forgetOldest()
	}
	x = &exchange{at: now, life: exchangeLifetime}
	if m.Type == wire.NonConfirmable {
		x.life = nonLifetime
	}
	a.seen[m.ID], a.order = x, append(a.order, m.ID)
	return x, nil, false
}

func (a *association) forgetOldest() {
	delete(a.seen, a.order[0])
	a.order = append(a.order[:0], a.order[1:]...)
}

// purge forgets what is over. The caller holds mu.
func (a *association) purge(now time.Time) {
	for len(a.order) > 0 && now.Sub(a.seen[a.order[0]].at) > a.seen[a.order[0]].life {
		a.forgetOldest()
	}
	for key, u := range a.uploads {
		if now.Sub(u.at) > transferLife {
			a.dropUpload(key)
		}
	}
	for len(a.kept) > 0 && now.Sub(a.kept[0].at) > transferLife {
		a.dropKept(0)
	}
	for key, c := range a.calls {
		select {
		case <-c.done:
			if now.Sub(c.at) > transferLife {
				delete(a.calls, key)
			}
		default:
		}
	}
}

// start has the handler work on a request, unless it works on the same already or has done so while nobody waited any more; nil: too much at once.
func (a *association) start(ctx context.Context, m *wire.Message, r *Request) *call {
	distinct := a.handle.Distinct != nil && a.handle.Distinct(r.Path)
	var key [sha256.Size]byte
	if !distinct {
		key = sha256.Sum256(fmt.Appendf(nil, "%d %s%s", len(r.Body), r.Body, wire.LooseKey(m)))
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if distinct { // no hash begins so, but one in 2^192
		a.distinct++
		binary.BigEndian.PutUint64(key[sha256.Size-8:], a.distinct)
	}
	if c := a.calls[key]; c != nil {
		return c
	}
	if len(a.calls) >= maxCalls {
		return nil
	}
	c := &call{done: make(chan struct{}), one: distinct}
	a.calls[key] = c
	a.working.Go(func() {
		c.out = a.Server.call(ctx, a.handle.Answer, r)
		a.mu.Lock()
		c.at = a.Now()
		a.mu.Unlock()
		close(c.done)
	})
	return c
}

// collected forgets a call whose answer somebody took.
func (a *association) collected(c *call) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for key, other := range a.calls {
		if other == c {
			delete(a.calls, key)
		}
	}
}

// await answers a request when its answer is there: with the acknowledgement, or later by itself.
func (a *association) await(x *exchange, m *wire.Message, t transfer, c *call) {
	patience := time.NewTimer(a.Patience)
	defer patience.Stop()
	acknowledge := time.NewTimer(a.Piggyback)
	defer acknowledge.Stop()
	separate := false
	for {
		select {
		case <-c.done:
			out := a.cut(m, t, c.out)
			observed := a.answers(out, c.out.Observed)
			if !separate { // otherwise it is collected when the client has it, so that those who never say so get no more
				a.collected(c)
			}
			a.respond(x, m, out, separate)
			a.collected(c)
			a.begun(observed)
			a.heard()
			return
		case <-patience.C:
			out := RefuseAs(wire.ServiceUnavailable, "this takes longer; send the same request again")
			out.MaxAge = a.Again
			a.respond(x, m, compose(out, t.sent, nil), separate)
			if c.one {
				a.abandon(c)
			}
			return
		case <-acknowledge.C:
			if m.Type != wire.Confirmable {
				break
			}
			separate = true
			ack := (&wire.Message{Type: wire.Acknowledgement, ID: m.ID}).Append(nil)
			a.mu.Lock()
			x.answer = ack
			a.mu.Unlock()
			a.send(ack)
		case <-a.ended:
			return
		}
	}
}

// abandon forgets a call when it is done, since nobody comes for its answer.
func (a *association) abandon(c *call) {
	select {
	case <-c.done:
		a.collected(c)
	case <-a.ended:
	}
}

func (a *association) respond(x *exchange, m *wire.Message, out *wire.Message, separate bool) {
	switch {
	case !separate:
		a.answer(x, m, out)
	case !unwanted(m, out.Code):
		out.Token = m.Token
		a.confirm(out, a.send)
	}
}

// nstart is how many confirmable messages of ours are on their way at once (RFC 7252, section 4.7).
const nstart = 1

// outcome is what became of a confirmable message.
type outcome uint8

const (
	arrived    outcome = iota + 1
	rejected           // by a reset
	unanswered         // the client is not there, or asleep
	over               // the association has ended
)

// confirm sends a confirmable message by send until it is acknowledged, when it is its turn (RFC 7252, section 4.2). A client that is heard meanwhile is
// sent it again at once: it may have slept.
func (a *association) confirm(m *wire.Message, send func([]byte)) outcome {
	select {
	case a.turn <- struct{}{}:
		defer func() { <-a.turn }()
	case <-a.ended:
		return over
	}
	w := &waiting{done: make(chan struct{})}
	a.mu.Lock()
	m.Type, m.ID = wire.Confirmable, a.id()
	a.awaiting[m.ID] = w
	a.mu.Unlock()
	defer func() {
		a.mu.Lock()
		delete(a.awaiting, m.ID)
		a.mu.Unlock()
	}()
	b, began := m.Append(nil), a.Now()
	timeout := ackTimeout + time.Duration(rand.Int64N(int64(ackTimeout/2)))
	for attempt := range maxRetransmit + 1 {
		send(b)
		if out := a.hear(w, timeout); out == arrived || out == rejected {
			if attempt == 0 {
				a.measured(a.Now().Sub(began))
			}
			return out
		} else if out == over {
			return over
		}
		timeout *= 2
	}
	return unanswered
}

// hear waits for a message to be acknowledged.
func (a *association) hear(w *waiting, timeout time.Duration) outcome {
	timer := time.NewTimer(timeout)
	defer timer.Stop()
	sent := a.Now()
	for {
		select {
		case <-w.done:
			if w.reset {
				return rejected
			}
			return arrived
		case <-a.ended:
			return over
		case <-a.stir:
			if a.Now().Sub(sent) < ackTimeout {
				continue
			}
			return unanswered
		case <-timer.C:
			return unanswered
		}
	}
}

// unwanted reports whether the client does not want an answer of this class (RFC 7967, section 2).
func unwanted(m *wire.Message, code wire.Code) bool {
	classes, _ := m.Options.Uint(wire.NoResponse)
	return code != wire.Continue && code.Class() >= 1 && classes&(1<<(code.Class()-1)) != 0
}

// answer sends an answer at once, and remembers it for when the request comes again. Who does not want it gets an acknowledgement, if anything.
func (a *association) answer(x *exchange, m *wire.Message, out *wire.Message) {
	out.Type, out.ID, out.Token = wire.Acknowledgement, m.ID, m.Token
	if unwanted(m, out.Code) {
		if m.Type == wire.NonConfirmable {
			return
		}
		out = &wire.Message{Type: wire.Acknowledgement, ID: m.ID}
	}
	a.mu.Lock()
	if m.Type == wire.NonConfirmable {
		out.Type, out.ID = wire.NonConfirmable, a.id()
	}
	b := out.Append(nil)
	if m.Type == wire.Confirmable {
		x.answer = b
	}
	a.mu.Unlock()
	a.send(b)
}
