package acme

import (
	"context"
	"encoding/json"
	"sync"
	"time"

	"mooring/internal/base/db"
	"mooring/internal/base/errs"
	"mooring/wire/acme"
)

// Most messages are about an account and one of its orders. Both are read at once, those of many messages together, and not at all where they are in
// memory.

// sight names what is read; either may be zero.
type sight struct{ account, order ID }

// seen is what was found.
type seen struct {
	account *Account
	order   *Order
}

// see reads for many. It is the work of a db.Lookup.
func (s *Service) see(ctx context.Context, tx *db.Tx, keys []sight) (map[sight]seen, error) {
	accounts, orders := map[ID]*Account{}, map[ID]*Order{}
	addAccount := func(r db.Row) error {
		a, err := s.scanAccount(r)
		accounts[a.ID] = &a
		return err
	}
	addOrder := func(r db.Row) error {
		o, err := scanOrder(r)
		orders[o.ID] = &o
		return err
	}
	var stmts []*db.Stmt
	if tx.Arrays() {
		var ids, orderIDs [][]byte
		for _, k := range keys {
			ids = appendID(ids, k.account)
			orderIDs = appendID(orderIDs, k.order)
		}
		if len(ids) > 0 {
			stmts = append(stmts, &db.Stmt{SQL: accountColumns + ` WHERE id = ANY($1)`, Args: []any{ids}, Each: addAccount})
		}
		if len(orderIDs) > 0 {
			stmts = append(stmts, &db.Stmt{SQL: orderColumns + ` WHERE id = ANY($1)`, Args: []any{orderIDs}, Each: addOrder})
		}
	} else {
		for _, k := range keys {
			if k.account != (ID{}) {
				stmts = append(stmts, &db.Stmt{SQL: accountColumns + ` WHERE id = $1`, Args: []any{k.account[:]}, Each: addAccount})
			}
			if k.order != (ID{}) {
				stmts = append(stmts, &db.Stmt{SQL: orderColumns + ` WHERE id = $1`, Args: []any{k.order[:]}, Each: addOrder})
			}
		}
	}
	if err := tx.Send(ctx, stmts...); err != nil {
		return nil, err
	}
	found := make(map[sight]seen, len(keys))
	for _, k := range keys {
		found[k] = seen{accounts[k.account], orders[k.order]}
	}
	return found, nil
}

func appendID(list [][]byte, id ID) [][]byte {
	if id == (ID{}) {
		return list
	}
	return append(list, id[:])
}

// recent is how long what another node may have changed meanwhile is taken as it was read: an account between the messages about one order, and its device.
// What lasts is decided anew in its own transaction: a certificate is recorded for an account that is valid then, and a device as it was decided about.
const recent = time.Second

// isRecent reports whether what was read at that time may be used without another look.
func (s *Service) isRecent(at time.Time) bool {
	age := s.Now().Sub(at)
	return age >= 0 && age < recent
}

// Account returns the account with this id, whatever its state. The error is NotFound, with Type AccountDoesNotExist, when there is none. The order
// that the account will be used for, if it is known already, is read along with it. Where several nodes serve, and as long as no client goes from one to
// another, what an operator or another node did to the account within the last second may be missing: for what is done about the account itself there
// is AccountNow.
func (s *Service) Account(ctx context.Context, id, order ID) (Account, error) {
	a, epoch, ok := s.accounts.get(id)
	if ok && (!s.several || s.alone() && s.isRecent(a.read)) {
		return a, nil
	}
	if s.here(order) {
		order = ID{}
	}
	return s.readAccount(ctx, id, order, epoch)
}

// AccountNow is Account as it stands.
func (s *Service) AccountNow(ctx context.Context, id ID) (Account, error) {
	a, epoch, ok := s.accounts.get(id)
	if ok && !s.several {
		return a, nil
	}
	return s.readAccount(ctx, id, ID{}, epoch)
}

func (s *Service) readAccount(ctx context.Context, id, order ID, epoch uint64) (Account, error) {
	at := s.Now()
	found, _, err := s.sights.Get(ctx, sight{id, order})
	switch {
	case err != nil:
		return Account{}, err
	case found.account == nil:
		return Account{}, noAccount()
	}
	a := *found.account
	a.read = at
	s.accounts.put(id, a, epoch)
	if s.several {
		a.near = found.order
	}
	return a, nil
}

func noAccount() error {
	return refuse(errs.NotFound, AccountDoesNotExist, "there is no such account; make one with newAccount")
}

// load returns an order, whosever it is. What was read along with the account is good for the first look.
func (s *Service) load(ctx context.Context, a *Account, id ID) (Order, error) {
	if a != nil && a.near != nil && a.near.ID == id {
		o := *a.near
		a.near = nil
		return o, nil
	}
	if o, ok := s.drafts.get(id); ok {
		return o, nil
	}
	if l, _, ok := s.leaves.get(id); ok && l.order.Expires > s.Now().Unix() {
		return l.order, nil
	}
	o, epoch, ok := s.orderShelf.get(id)
	if ok {
		return o, nil
	}
	found, err := s.seek(ctx, a, id)
	switch {
	case err != nil:
		return Order{}, err
	case found == nil:
		return Order{}, noOrder()
	}
	s.orderShelf.put(id, *found, epoch)
	return *found, nil
}

// here reports whether this process has the order in memory.
func (s *Service) here(id ID) bool {
	_, draft := s.drafts.get(id)
	_, _, made := s.leaves.get(id)
	return draft || made
}

// The bounds of seek.
const (
	seekFor  = 25                     // looks for an order that another node may have as a draft
	seekLook = 100 * time.Millisecond // between two
	seekAge  = 10 * time.Second       // of an order that is looked for again, with what the clocks of nodes may differ
	seekMost = 256                    // orders that are looked for at once
	seekEach = 4                      // of one account
	seekSame = 16                     // requests for one of them
)

// seekers counts the orders of other nodes that are waited for. Anybody may ask for orders that were never made, so each account has its share.
type seekers struct {
	mu     sync.Mutex
	orders map[sight]int // guarded by mu; requests for each
	of     map[ID]int    // guarded by mu; orders that each account waits for
}

// enter says whether one more request may wait. With true, leave must follow.
func (k *seekers) enter(x sight) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	switch same := k.orders[x]; {
	case same >= seekSame, same == 0 && (len(k.orders) >= seekMost || k.of[x.account] >= seekEach):
		return false
	case same == 0:
		k.of[x.account]++
	}
	k.orders[x]++
	return true
}

func (k *seekers) leave(x sight) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.orders[x]--; k.orders[x] > 0 {
		return
	}
	delete(k.orders, x)
	if k.of[x.account]--; k.of[x.account] == 0 {
		delete(k.of, x.account)
	}
}

// seek returns the order, or nil when there is none. One that was made a moment ago may be a draft of another node, which stores it within the second.
func (s *Service) seek(ctx context.Context, a *Account, id ID) (*Order, error) {
	found, _, err := s.sights.Get(ctx, sight{order: id})
	if err != nil || found.order != nil || !s.several || s.Now().Sub(id.made()).Abs() > seekAge {
		return found.order, err
	}
	wanted := sight{account: id, order: id} // this process asks for one that it knows, for nobody
	if a != nil {
		wanted.account = a.ID
	}
	if !s.seeking.enter(wanted) {
		return nil, errs.WithRetry(refuse(errs.Limited, RateLimited, "the order is not known here yet; ask again"), time.Second)
	}
	defer s.seeking.leave(wanted)
	for range seekFor {
		if !pause(ctx, seekLook) {
			return nil, errs.Wrap(errs.Unavailable, ctx.Err(), "the request was given up while the order was looked for")
		}
		if found, _, err = s.sights.Get(ctx, sight{order: id}); err != nil || found.order != nil {
			break
		}
	}
	return found.order, err
}

// keyring keeps the parsed keys of accounts by their text, which says everything about a key: to parse one costs more than to read it.
type keyring struct {
	mu   sync.Mutex
	keys map[string]*acme.Key // guarded by mu
}

const keyringMost = 4096

func (k *keyring) parse(jwk string) (*acme.Key, error) {
	k.mu.Lock()
	key := k.keys[jwk]
	k.mu.Unlock()
	if key != nil {
		return key, nil
	}
	key, err := acme.ParseKey(json.RawMessage(jwk))
	if err != nil {
		return nil, err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.keys) >= keyringMost {
		clear(k.keys)
	}
	k.keys[jwk] = key
	return key, nil
}
