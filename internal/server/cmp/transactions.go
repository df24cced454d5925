package cmp

import (
	"bytes"
	"crypto/sha256"
	"slices"
	"sync"
	"time"

	"mooring/internal/core/enrol"
	"mooring/wire/cmp"
)

// The bounds of what is kept of open exchanges.
const (
	openMost    = 10_000
	waitingMost = 1000 // of these, requests that somebody must approve
	openLife    = 10 * time.Minute
	waitingLife = 24 * time.Hour // since it was asked for last
	noncesMost  = 64             // of one exchange
)

// transaction is an exchange of several messages.
type transaction struct {
	id     string
	busy   sync.Mutex // held while one of its messages is answered; it guards what follows
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
	over    bool // all is said

	expires time.Time // guarded by transactions.mu
	waits   bool
	used    int // how many messages are being answered
}

// finish says that nothing more follows.
func (t *transaction) finish() { t.over, t.waiting = true, nil }

// transactions are those that are open on this node.
type transactions struct {
	now func() time.Time

	mu      sync.Mutex
	byID    map[string]*transaction // guarded by mu, as are expires, waits and used in it
	waiting int
	swept   time.Time
}

func newTransactions(now func() time.Time) *transactions {
	return &transactions{now: now, byID: map[string]*transaction{}}
}

// take returns the transaction with this id, a new one if there is none, for the caller alone; fresh says which. It is nil when there is no room.
func (o *transactions) take(id string) (t *transaction, fresh bool) {
	o.mu.Lock()
	now := o.now()
	o.sweep(now)
	t = o.byID[id]
	if t == nil {
		if len(o.byID) >= openMost {
			o.mu.Unlock()
			return nil, false
		}
		t, fresh = &transaction{id: id}, true
		o.byID[id] = t
	}
	t.used++
	t.expires = now.Add(openLife)
	o.mu.Unlock()
	t.busy.Lock()
	return t, fresh
}

// sweep forgets what has expired, now and then, or when there is no room.
func (o *transactions) sweep(now time.Time) {
	if len(o.byID) < openMost && now.Sub(o.swept) < openLife/10 {
		return
	}
	o.swept = now
	for id, t := range o.byID {
		if t.used == 0 && t.expires.Before(now) {
			o.drop(id, t)
		}
	}
}

// drop forgets t; mu is held.
func (o *transactions) drop(id string, t *transaction) {
	delete(o.byID, id)
	if t.waits {
		o.waiting--
	}
}

// release gives t back.
func (o *transactions) release(t *transaction) {
	waits := t.waiting != nil
	t.busy.Unlock()
	o.mu.Lock()
	defer o.mu.Unlock()
	t.used--
	switch {
	case waits && !t.waits:
		o.waiting++
	case !waits && t.waits:
		o.waiting--
	}
	if t.waits = waits; waits {
		t.expires = o.now().Add(waitingLife)
	}
}

// discard gives back t, which turned out to be for nothing.
func (o *transactions) discard(t *transaction) {
	t.busy.Unlock()
	o.mu.Lock()
	defer o.mu.Unlock()
	if t.used--; t.used == 0 && o.byID[t.id] == t {
		o.drop(t.id, t)
	}
}

// room reports whether one more request may wait.
func (o *transactions) room() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.waiting < waitingMost
}

// begin finds the transaction that the message belongs to, and holds the message to what came before in it.
func (x *exchange) begin() (*transaction, error) {
	// Two senders may not disturb each other: to each its own transactions.
	t, fresh := x.open.take(x.by.id() + "\x00" + string(x.m.Header.Transaction))
	if t == nil {
		return nil, refuse(cmp.SystemUnavail, "too many exchanges are open; try again in a few minutes")
	}
	check := x.continues
	switch kind := x.m.Body.Kind(); {
	case fresh && first(kind):
		t.kind, t.mac, t.first = kind, x.by.kind(), sha256.Sum256(x.m.Raw)
		check = func(*transaction) error { return nil }
	case fresh && kind == cmp.PollReq:
		x.open.discard(t)
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
	if len(t.nonces) == noncesMost {
		t.nonces = t.nonces[1:]
	}
	t.nonces = append(t.nonces, x.m.Header.SenderNonce)
	t.last = sha256.Sum256(x.m.Raw)
	return t, nil
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
