package acme

import (
	"context"
	"sync"
	"time"

	"mooring/internal/base/db"
	"mooring/internal/base/errs"
	"mooring/internal/core/audit"
	"mooring/internal/core/ca"
	"mooring/wire/acme"
)

// drafts are orders that are not in the database yet. Most are finished within moments of being made, and are written once then, together with their
// certificate and with what the record says about their names: one commit in place of three. What is not finished soon is written as it stands, and
// so is, before it is answered, what went wrong with an order: a name that could not be shown or was given up, and a request that waits for a person.
//
// A process that dies loses the orders of its last second, with the names that were shown for them, and no more: the client is told that there is no
// such order, and makes another one (RFC 8555 promises no order a life: section 7.1.3 has "expires" for that, which tells until when it would be
// valid). Accounts and certificates are durable before anybody hears of them.
//
// With PostgreSQL there may be other nodes, and a client may ask another one for its order. That one does not find it, sees by its id that it was made
// just now, and looks again until it is stored, which takes a second (seek). Each client would wait so where requests go to all nodes by turns. So a node
// has drafts only as long as no client goes from one node to another, which their nonces tell (nonce.go); else each order is stored at once. Of
// one order there is a draft on one node at most, and once it is stored the row decides.
type drafts struct {
	wake chan struct{} // capacity 1; a draft was put where there was none

	mu     sync.Mutex
	rows   map[ID]*draft // guarded by mu
	have   map[ID]int    // guarded by mu; drafts of each account that has some
	closed bool          // guarded by mu; none is taken any more
}

// draft is one such order. Its fields are guarded by the mutex of drafts.
type draft struct {
	order   Order
	known   known         // the device that the order is for
	entries []audit.Entry // what the record is to say with it
	renew   bool          // the account has not ordered for a day
	old     bool          // it was there the last time that somebody looked
	taken   int           // requests that are finishing it; meanwhile it is changed by nobody
	storing chan struct{} // not nil while it is written; closed then
}

// The bounds of drafts.
const (
	draftMost    = 4096                   // in all
	draftAccount = 8                      // of one account
	draftAge     = 500 * time.Millisecond // a draft is written when it is between one and two of these old
	draftBatch   = 128                    // in one transaction
	draftTime    = 10 * time.Second       // for one transaction
)

func newDrafts() *drafts {
	return &drafts{wake: make(chan struct{}, 1), rows: map[ID]*draft{}, have: map[ID]int{}}
}

// draft keeps a new order out of the database for a moment. ok is false when it has to be written at once; the error is the refusal of one more.
func (s *Service) draft(ctx context.Context, a *Account, x *draft) (ok bool, err error) {
	if !s.alone() {
		return false, nil
	}
	room := int64(maxAccountNew)
	if !a.fresh {
		drafted := s.drafts.of(a.ID) // first: one that is stored meanwhile is counted twice, and not left out
		have, _, err := s.openOrders.Get(ctx, a.ID)
		if room -= have; err == nil && drafted >= room {
			err = tooManyOrders()
		}
		if err != nil {
			return false, err
		}
	}
	return s.drafts.put(x, room), nil
}

// alone reports whether all clients stay with the node that they came to, as far as this one has seen.
func (s *Service) alone() bool { return !s.several || s.Nonces.kind() == nonceOwn }

// countOpen counts the orders of accounts that are not finished. It is the work of a db.Lookup.
func (s *Service) countOpen(ctx context.Context, tx *db.Tx, accounts []ID) (map[ID]int64, error) {
	have := make(map[ID]int64, len(accounts))
	stmts := make([]*db.Stmt, len(accounts))
	for i, id := range accounts {
		stmts[i] = &db.Stmt{SQL: `SELECT count(*) FROM (SELECT 1 AS one FROM acme_order WHERE account = $1 AND expires > $2 AND state IN (1, 2) LIMIT $3) AS o`,
			Args: []any{id[:], s.Now().Unix(), int64(maxAccountNew)},
			Each: func(r db.Row) error {
				var n int64
				err := r.Scan(&n)
				have[id] = n
				return err
			}}
	}
	return have, tx.Send(ctx, stmts...)
}

// of is how many drafts an account has.
func (d *drafts) of(account ID) int64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return int64(d.have[account])
}

// put takes an order, unless there is no room for it, of which its account has so much.
func (d *drafts) put(x *draft, room int64) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed || len(d.rows) >= draftMost || int64(d.have[x.order.Account]) >= min(room, draftAccount) {
		return false
	}
	d.rows[x.order.ID] = x
	d.have[x.order.Account]++
	select {
	case d.wake <- struct{}{}:
	default:
	}
	return true
}

// get returns an order as it stands.
func (d *drafts) get(id ID) (o Order, ok bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if x := d.rows[id]; x != nil {
		return x.order, true
	}
	return o, false
}

// free returns the draft when nobody writes it, with mu held; or nil, with mu not held, when there is none.
func (d *drafts) free(ctx context.Context, id ID) *draft {
	for {
		d.mu.Lock()
		x := d.rows[id]
		if x == nil {
			d.mu.Unlock()
			return nil
		}
		storing := x.storing
		if storing == nil {
			return x
		}
		d.mu.Unlock()
		select {
		case <-storing:
		case <-ctx.Done():
			return nil // what follows in the database sees what became of it
		}
	}
}

// take keeps everybody else from changing or writing the order, until leave or gone. ok is false when it is no draft or no longer like o.
func (d *drafts) take(ctx context.Context, o *Order) (x draft, ok bool) {
	free := d.free(ctx, o.ID)
	if free == nil {
		return x, false
	}
	defer d.mu.Unlock()
	if !free.order.same(*o) {
		return x, false
	}
	free.taken++
	return *free, true
}

// leave ends a take that came to nothing.
func (d *drafts) leave(id ID) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if x := d.rows[id]; x != nil {
		x.taken--
	}
}

// gone forgets a draft that is in the database.
func (d *drafts) gone(id ID) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.remove(id)
}

// remove is called with mu held.
func (d *drafts) remove(id ID) {
	x := d.rows[id]
	if x == nil {
		return
	}
	delete(d.rows, id)
	if d.have[x.order.Account]--; d.have[x.order.Account] == 0 {
		delete(d.have, x.order.Account)
	}
}

// pick chooses up to draftBatch orders to be written, and keeps others from changing them.
func (d *drafts) pick(which func(*draft) bool) (picked []*draft) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, x := range d.rows {
		if x.storing == nil && which(x) {
			x.storing = make(chan struct{})
			if picked = append(picked, x); len(picked) == draftBatch {
				break
			}
		}
	}
	return picked
}

// stored ends what pick began. With written the orders are in the database.
func (d *drafts) stored(picked []*draft, written bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, x := range picked {
		if written {
			d.remove(x.order.ID)
		}
		close(x.storing)
		x.storing = nil
	}
}

// aged makes those old that are not yet, and reports whether any draft is there.
func (d *drafts) aged() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, x := range d.rows {
		x.old = true
	}
	return len(d.rows) > 0
}

// runDrafts writes what is not finished soon, until ctx ends, and then the rest.
func (s *Service) runDrafts(ctx context.Context) error {
	for ctx.Err() == nil {
		select {
		case <-s.drafts.wake:
		case <-ctx.Done():
		}
		for more := true; more && pause(ctx, draftAge); more = s.drafts.aged() {
			if err := s.storeDrafts(ctx, func(x *draft) bool { return x.old && x.taken == 0 }); err != nil {
				s.Log.WarnContext(ctx, "orders could not be stored, and are tried again", "cause", err)
			}
		}
	}
	s.drafts.mu.Lock()
	s.drafts.closed = true
	s.drafts.mu.Unlock()
	return s.storeDrafts(ctx, func(*draft) bool { return true })
}

// storeDrafts writes those orders that which says. Whoever called it may go away: the others that wait for it do not.
func (s *Service) storeDrafts(ctx context.Context, which func(*draft) bool) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), draftTime)
	defer cancel()
	for {
		picked := s.drafts.pick(which)
		if len(picked) == 0 {
			return nil
		}
		err := s.DB.Do(ctx, func(ctx context.Context, tx *db.Tx) error { return s.insertDrafts(ctx, tx, picked) })
		for _, x := range picked {
			s.accounts.drop(x.order.Account) // it has orders in the database now
		}
		s.drafts.stored(picked, err == nil)
		if err != nil || len(picked) < draftBatch {
			return err
		}
	}
}

// storeDraft writes one order, if it is a draft, whoever finishes it: he finds out in the database. It returns when the order is there.
func (s *Service) storeDraft(ctx context.Context, id ID) error {
	if err := s.storeDrafts(ctx, func(x *draft) bool { return x.order.ID == id }); err != nil {
		return err
	}
	if x := s.drafts.free(ctx, id); x != nil { // somebody else was writing it, and could not
		s.drafts.mu.Unlock()
		return errs.New(errs.Unavailable, "the order could not be stored; ask again")
	}
	if err := ctx.Err(); err != nil {
		return errs.Wrap(errs.Unavailable, err, "the request was given up before the order was known to be stored")
	}
	return nil
}

// storeDraftsOf writes the orders of an account before they are looked for in the database.
func (s *Service) storeDraftsOf(ctx context.Context, account ID) error {
	return s.storeDrafts(ctx, func(x *draft) bool { return x.order.Account == account && x.taken == 0 })
}

// insertDrafts writes orders with their entries. An order that is there already was written by a commit whose outcome nobody learned.
func (s *Service) insertDrafts(ctx context.Context, tx *db.Tx, picked []*draft) error {
	rows := make([]*db.Stmt, len(picked))
	for i, x := range picked {
		rows[i] = x.order.insert(Open, nil, nil, "")
	}
	if err := tx.Send(ctx, rows...); err != nil {
		return err
	}
	var entries []audit.Entry
	var then []*db.Stmt
	fresh := int64(0)
	for i, x := range picked {
		if rows[i].N == 1 {
			entries, then = append(entries, x.entries...), append(then, x.then()...)
			fresh++
		}
	}
	tx.OnCommit(func() { s.orders.Add(fresh) })
	if err := tx.Send(ctx, then...); err != nil || len(entries) == 0 {
		return err
	}
	return s.Audit.Append(ctx, tx, entries...)
}

// then are the statements that follow the order's own.
func (x *draft) then() []*db.Stmt {
	if !x.renew {
		return nil
	}
	return []*db.Stmt{touch(x.order.Account, x.order.Created)}
}

// touch notes that the account has ordered.
func touch(account ID, now int64) *db.Stmt {
	return &db.Stmt{SQL: `UPDATE acme_account SET used = $2 WHERE id = $1 AND used < $3`, Args: []any{account[:], now, now - 86400}}
}

// insert returns the statement that makes the order's row, in a state and on a condition. It makes none when there is one.
func (o *Order) insert(state OrderState, serial, cert []byte, condition string) *db.Stmt {
	return &db.Stmt{SQL: `INSERT INTO acme_order (id, account, device, evidence, profile, state, authz, csr, problem, serial, cert, replaces, created, expires)
 SELECT $1, $2, $3, $4, $5, $6, $7, $8, '', $9, $10, $11, $12, $13 WHERE 1 = 1` + condition + ` ON CONFLICT (id) DO NOTHING`,
		Args: []any{o.ID[:], o.Account[:], o.Device[:], string(o.Evidence), o.Profile, int64(state), o.authz, []byte{}, octets(serial), octets(cert), o.Replaces, o.Created, o.Expires}}
}

// finish is Order.take for a draft: it makes the row of the valid order.
func (x *draft) finish(c *ca.Certificate) (take, back *db.Stmt) {
	take = x.order.insert(Issued, c.Serial[:], kept(c), ` AND EXISTS (SELECT 1 FROM acme_account WHERE id = $2 AND state = 1)`)
	return take, &db.Stmt{SQL: `DELETE FROM acme_order WHERE id = $1 AND state = 3`, Args: []any{x.order.ID[:]}}
}

// follow returns what is written with it.
func (x *draft) follow() ([]*db.Stmt, []audit.Entry) { return x.then(), x.entries }

// alter changes an authorization of a draft and returns the order. It is nil when the order is no draft, or is being finished: then the database
// decides.
func (s *Service) alter(ctx context.Context, id ID, n int, change func(*Authz, *audit.Entry) bool) (*Order, error) {
	x := s.drafts.free(ctx, id)
	if x == nil {
		return nil, nil
	}
	if x.taken > 0 {
		s.drafts.mu.Unlock()
		return nil, s.storeDraft(ctx, id)
	}
	next, entry, changed, err := s.altered(x.order, n, change)
	if changed && err == nil {
		x.order, x.entries = next, append(x.entries, entry)
	}
	s.drafts.mu.Unlock()
	if err != nil {
		return nil, err
	}
	if changed && next.Authz[n].Status != acme.StatusValid {
		err = s.storeDraft(ctx, id)
	}
	return &next, err
}
