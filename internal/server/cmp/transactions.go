package cmp

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"net/netip"
	"slices"
	"sync"
	"time"

	"mooring/internal/core/enrol"
	"mooring/wire/cmp"
)

// The bounds of what is kept of open exchanges. Only exchanges with senders that core knows are kept, so that strangers fill none of it; that one of
// those is out of order, or in wrong hands, must not keep the others away either.
const (
	openMost        = 10_000
	openOfSource    = openMost / 4  // from one IPv4 address or IPv6 /64 network, behind which there may be many devices
	openOfSender    = openMost / 20 // of one device, or registration authority
	waitingMost     = 1000          // of these, requests that somebody must approve
	waitingOfSender = waitingMost / 10
	openLife        = 10 * time.Minute
	waitingLife     = 24 * time.Hour // since it was asked for last
	noncesMost      = 64             // of one exchange
)

// transaction is an exchange of several messages.
type transaction struct {
	id     string
	sender string
	source netip.Prefix // from where it began
	busy   sync.Mutex   // held while one of its messages is answered; it guards what follows
	kind   cmp.Kind
	mac    *cmp.MAC // how it is protected; nil = by signature
	first  [sha256.Size]byte
	last   [sha256.Size]byte // the newest message that was taken
	nonces [][]byte          // of the sender
	mine   []byte            // the last one of the server

	// waiting is the request that is polled for, without the secret, and number its certReqId; nil = none.
	waiting *enrol.Request
	number  int
	// passing is a certificate that nothing can take back; its confirmation means nothing.
	passing []byte
	over    bool // all is said; it is kept for a message that comes again because its answer was lost
	void    bool // it is not worth keeping

	expires time.Time // guarded by transactions.mu, as is what follows
	waits   bool
	ended   bool // over, when it was released
	used    int  // how many messages are being answered
}

// finish says that nothing more follows.
func (t *transaction) finish() { t.over, t.waiting = true, nil }

// transactions are those that are open on this node.
type transactions struct {
	now func() time.Time

	mu      sync.Mutex
	byID    map[string]*transaction // guarded by mu, as is what follows
	senders map[string]share
	sources map[netip.Prefix]int // how many are open
	waiting int
	swept   time.Time
}

// share is what one sender has of the transactions.
type share struct{ open, waiting int }

func newTransactions(now func() time.Time) *transactions {
	return &transactions{now: now, byID: map[string]*transaction{}, senders: map[string]share{}, sources: map[netip.Prefix]int{}}
}

// take returns the transaction of the sender with this transactionID, a new one if there is none, for the caller alone; fresh says which. It is nil
// when there is no room. Two senders may not disturb each other: to each its own transactions.
func (o *transactions) take(sender string, number []byte, source netip.Addr) (t *transaction, fresh bool) {
	o.mu.Lock()
	now := o.now()
	o.sweep(now)
	id := sender + "\x00" + string(number)
	t = o.byID[id]
	if t == nil {
		t, fresh = &transaction{id: id, sender: sender, source: network(source)}, true
		if o.full(t) {
			o.makeRoom(t, now)
		}
		if o.full(t) {
			o.mu.Unlock()
			return nil, false
		}
		o.byID[id] = t
		o.count(t, 1, 0)
	}
	t.used++
	t.expires = now.Add(openLife)
	o.mu.Unlock()
	t.busy.Lock()
	return t, fresh
}

// network is what counts as one source: an IPv6 host owns its /64. The zero Prefix stands for a source that has no address.
func network(a netip.Addr) netip.Prefix {
	bits := a.BitLen()
	if a.Is6() {
		bits = 64
	}
	p, err := a.Prefix(bits)
	if err != nil {
		return netip.Prefix{}
	}
	return p
}

// full reports whether there is no room for t; mu is held, as in all that follows but for release and room.
func (o *transactions) full(t *transaction) bool {
	return len(o.byID) >= openMost || o.senders[t.sender].open >= openOfSender || o.sources[t.source] >= openOfSource
}

// makeRoom forgets what has expired, and what is finished of those with whom t shares what is full.
func (o *transactions) makeRoom(t *transaction, now time.Time) {
	everybody, ofSource := len(o.byID) >= openMost, o.sources[t.source] >= openOfSource
	for _, u := range o.byID {
		concerned := everybody || ofSource && u.source == t.source || u.sender == t.sender
		if u.used == 0 && (u.expires.Before(now) || u.ended && concerned) {
			o.drop(u)
		}
	}
}

// sweep forgets what has expired, now and then.
func (o *transactions) sweep(now time.Time) {
	if now.Sub(o.swept) < openLife/10 {
		return
	}
	o.swept = now
	for _, t := range o.byID {
		if t.used == 0 && t.expires.Before(now) {
			o.drop(t)
		}
	}
}

// drop forgets t.
func (o *transactions) drop(t *transaction) {
	delete(o.byID, t.id)
	waiting := 0
	if t.waits {
		waiting = -1
	}
	o.count(t, -1, waiting)
}

// count keeps account of who has how much.
func (o *transactions) count(t *transaction, open, waiting int) {
	of := o.senders[t.sender]
	of.open += open
	of.waiting += waiting
	o.senders[t.sender] = of
	if of.open == 0 {
		delete(o.senders, t.sender)
	}
	if o.sources[t.source] += open; o.sources[t.source] == 0 {
		delete(o.sources, t.source)
	}
	o.waiting += waiting
}

// release gives t back.
func (o *transactions) release(t *transaction) {
	waits, over, void := t.waiting != nil, t.over, t.void
	t.busy.Unlock()
	o.mu.Lock()
	defer o.mu.Unlock()
	t.used--
	switch {
	case waits && !t.waits:
		o.count(t, 0, 1)
	case !waits && t.waits:
		o.count(t, 0, -1)
	}
	t.ended = over
	if t.waits = waits; waits {
		t.expires = o.now().Add(waitingLife)
	}
	if void && t.used == 0 {
		o.drop(t)
	}
}

// room reports whether one more request of the sender of t may wait.
func (o *transactions) room(t *transaction) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.waiting < waitingMost && o.senders[t.sender].waiting < waitingOfSender
}

// begin finds the transaction that the message belongs to, and holds the message to what came before in it.
func (x *exchange) begin() (*transaction, error) {
	t, fresh := x.open.take(x.by.id(), x.m.Header.Transaction, x.source)
	if t == nil {
		return nil, refuse(cmp.SystemUnavail, "too many exchanges are open, of this sender, from this address, or in all: end those that began, or try again in a few minutes")
	}
	x.fresh = fresh
	check := x.continues
	switch kind := x.m.Body.Kind(); {
	case fresh && first(kind):
		t.kind, t.mac, t.first = kind, x.by.kind(), sha256.Sum256(x.m.Raw)
		check = func(*transaction) error { return nil }
	case fresh && kind == cmp.PollReq:
		t.void = true
		x.open.release(t)
		return nil, refuse(cmp.BadRequest, "nothing is known of this exchange here: send the request again with a new transactionID; what was asked for is not lost by that")
	case fresh: // a certConf of an exchange with another node; core knows it
		t.kind, t.mac = kind, x.by.kind()
		check = func(*transaction) error { return nil }
	case first(kind):
		check = x.repeats
	}
	if err := check(t); err != nil {
		x.open.release(t)
		return nil, err
	}
	if first(x.m.Body.Kind()) {
		t.over = false
	}
	if len(t.nonces) == noncesMost {
		t.nonces = t.nonces[1:]
	}
	t.nonces = append(t.nonces, x.m.Header.SenderNonce)
	t.last = sha256.Sum256(x.m.Raw)
	return t, nil
}

// keep decides, once the message is answered, whether its transaction is worth keeping. What begins with a refusal is over by that, and leaves nothing;
// so does what a stranger sends, as he is refused all that may be had.
func (x *exchange) keep(t *transaction, err error) {
	nothing := err != nil || x.refusal != nil || x.m.Body.Kind() == cmp.Error
	t.void = x.fresh && nothing || errors.Is(x.refusal, enrol.ErrUnauthenticated)
}

// repeats lets the first message of a transaction come again as it was, when its answer was lost.
func (x *exchange) repeats(t *transaction) error {
	if t.first != sha256.Sum256(x.m.Raw) {
		return refuse(cmp.TransactionIDInUse, "the transactionID is in use: draw a new one for each exchange")
	}
	return nil
}

// kind is how a sender protects its messages, without the secret; nil = by signature.
func (s *sender) kind() *cmp.MAC {
	if s.mac == nil {
		return nil
	}
	m := *s.mac
	m.Secret = nil
	return &m
}

// continues holds a message to those before it.
func (x *exchange) continues(t *transaction) error {
	h := &x.m.Header
	switch {
	case t.last == sha256.Sum256(x.m.Raw): // its answer was lost
		return nil
	case t.mac != nil && !t.mac.Same(x.by.mac):
		return refuse(cmp.WrongIntegrity, "the exchange began with another kind of protection")
	case t.mine != nil && !bytes.Equal(t.mine, h.RecipientNonce) && x.m.Body.Kind() != cmp.Error:
		return refuse(cmp.BadRecipientNonce, "the recipNonce is not the senderNonce of the answer before")
	case slices.ContainsFunc(t.nonces, func(n []byte) bool { return bytes.Equal(n, h.SenderNonce) }):
		return refuse(cmp.BadSenderNonce, "the senderNonce was used before: draw a new one for each message")
	}
	return nil
}
