package acme

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"time"

	"mooring/internal/base/db"
	"mooring/internal/base/errs"
	"mooring/internal/core/access"
	"mooring/internal/core/audit"
	"mooring/internal/core/device"
	"mooring/wire/acme"
)

// State says whether an account may do anything.
type State int64

// The states of accounts. An account that is not valid never becomes so again.
const (
	Valid       State = 1
	Deactivated State = 2 // by itself
	Revoked     State = 3 // by an operator, or by the next account of its device
)

// String returns the state's name in ACME.
func (s State) String() string {
	switch s {
	case Valid:
		return acme.StatusValid
	case Deactivated:
		return acme.StatusDeactivated
	case Revoked:
		return acme.StatusRevoked
	}
	return "unknown"
}

// Account may order certificates.
type Account struct {
	ID      ID
	Key     *acme.Key
	State   State
	Device  device.ID // zero for an open account
	Binding []byte    // the external account binding by which it was made, JSON
	Created int64     // UTC seconds
	Used    int64     // UTC seconds, when it last ordered something

	changed int64
	read    time.Time // before it was read; zero: nobody says
	near    *Order    // that was read along with it; see load
	fresh   bool      // it has no order in the database
	known   *known    // its device, as it was read lately; nil: look
}

// known is a device as it was read, and when.
type known struct {
	device device.Device
	mark   device.Mark
	at     time.Time // before it was read
}

// stands reports whether the device may be taken as it was read.
func (s *Service) stands(k *known) bool {
	if s.several {
		return s.isRecent(k.at) && s.Devices.Mark(k.device.ID) == k.mark
	}
	return s.Devices.Unchanged(k.device.ID, k.mark)
}

// Bound reports whether the account is that of a device.
func (a *Account) Bound() bool { return a.Device != device.ID{} }

const accountColumns = `SELECT id, thumb, jwk, state, device, binding, created, used, changed FROM acme_account`

// scanAccount reads a row of accountColumns. The service's own parses no key twice.
func (s *Service) scanAccount(r db.Row) (Account, error) { return scanAccount(r, s.keys.parse) }

func scanAccount(r db.Row, parse func(jwk string) (*acme.Key, error)) (a Account, err error) {
	var id, thumb, dev []byte
	var jwk, binding string
	var state int64
	if err := r.Scan(&id, &thumb, &jwk, &state, &dev, &binding, &a.Created, &a.Used, &a.changed); err != nil {
		return a, err
	}
	copy(a.ID[:], id)
	copy(a.Device[:], dev)
	a.State, a.Binding = State(state), []byte(binding)
	a.Key, err = parse(jwk)
	if err == nil && string(a.Key.Thumbprint[:]) != string(thumb) {
		err = errors.New("the thumbprint is another key's")
	}
	if err != nil {
		return a, fmt.Errorf("reading the account %s: %w", a.ID, err)
	}
	return a, nil
}

// ByKey returns the account of a key. The error is as that of Account.
func (s *Service) ByKey(ctx context.Context, key *acme.Key) (Account, error) {
	a, found, err := s.byThumb.Get(ctx, key.Thumbprint)
	if err == nil && !found {
		err = noAccount()
	}
	return a, err
}

// seeByThumb is the work of a db.Lookup.
func (s *Service) seeByThumb(ctx context.Context, tx *db.Tx, keys [][32]byte) (map[[32]byte]Account, error) {
	found := make(map[[32]byte]Account, len(keys))
	add := func(r db.Row) error {
		a, err := s.scanAccount(r)
		if err == nil {
			found[a.Key.Thumbprint] = a
		}
		return err
	}
	if tx.Arrays() {
		thumbs := make([][]byte, len(keys))
		for i := range keys {
			thumbs[i] = keys[i][:]
		}
		return found, tx.Each(ctx, add, accountColumns+` WHERE thumb = ANY($1)`, thumbs)
	}
	for i := range keys {
		if err := tx.Each(ctx, add, accountColumns+` WHERE thumb = $1`, keys[i][:]); err != nil {
			return nil, err
		}
	}
	return found, nil
}

// Newcomer asks for an account.
type Newcomer struct {
	Key     *acme.Key
	Binding *acme.Message // the external account binding; nil: none
	Raw     []byte        // the same as it came
	Source  netip.Addr
}

// NewAccount makes the account of a key that ByKey does not know. Whoever asks for the same at once gets the one that was made, and made tells which.
// An account without binding is ExternalAccountRequired unless open ones are allowed; a binding whose secret is wrong is Unauthorized, and says the
// same of devices that do not exist.
func (s *Service) NewAccount(ctx context.Context, n Newcomer) (a Account, made bool, err error) {
	a = Account{Key: n.Key, State: Valid, Created: s.Now().Unix(), Used: s.Now().Unix(), Binding: n.Raw, changed: 1}
	a.ID = newID(s.Now())
	if n.Binding == nil {
		return s.newOpen(ctx, a, n)
	}
	if isBirth(n.Binding.KID) {
		return s.newByBirth(ctx, a, n)
	}
	at := s.Now()
	token, err := s.Devices.PresentToken(ctx, n.Binding.KID)
	if err != nil && !errs.Is(err, errs.Denied) {
		return Account{}, false, err
	}
	known := token.Text
	if known == "" {
		known = a.ID.String() // a wrong name has no secret; the check takes as long with another one
	}
	if n.Binding.VerifyMAC([]byte(known)) != nil || token.Text == "" {
		return Account{}, false, refuse(errs.Denied, Unauthorized, "the external account binding is not accepted: the device is unknown, or the key is not its present token: check both, or ask for a new token")
	}
	if err != nil { // used or expired, which whoever has it may know
		return s.made(ctx, a, s.bindingRefused(err))
	}
	a.read = at
	return s.bind(ctx, a, token)
}

// bindingRefused gives what the registry says about a token the name that ACME has for it.
func (s *Service) bindingRefused(err error) error {
	if errs.Is(err, errs.Denied) {
		return refuse(errs.Denied, Unauthorized, "the external account binding is not accepted: %s", errs.Public(err))
	}
	return err
}

func (s *Service) newOpen(ctx context.Context, a Account, n Newcomer) (Account, bool, error) {
	if !s.Open {
		return Account{}, false, refuse(errs.Denied, ExternalAccountRequired, "an account needs an external account binding: the key identifier is the device's name, the key its token")
	}
	err := s.DB.Do(ctx, func(ctx context.Context, tx *db.Tx) error {
		var have int
		if _, err := tx.Get(ctx, []any{&have}, `SELECT count(*) FROM (SELECT 1 AS one FROM acme_account WHERE device = $1 LIMIT $2) AS a`, []byte{}, int64(maxOpen)); err != nil {
			return err
		}
		if have >= maxOpen {
			return refuse(errs.Limited, RateLimited, "there are too many accounts without a binding: use the device's token, or ask again in a day")
		}
		if err := tx.Send(ctx, a.insert()); err != nil {
			return err
		}
		return s.Audit.Append(ctx, tx, a.entry("acme.account", access.Stranger(n.Source, protocol), s.Now().Unix(), nil))
	})
	return s.made(ctx, a, err)
}

// bind makes the account of a device and spends its token, in one transaction.
func (s *Service) bind(ctx context.Context, a Account, token device.Presented) (Account, bool, error) {
	hash, err := device.HashToken(token.Text)
	if err != nil {
		return Account{}, false, err
	}
	now := s.Now().Unix()
	a.Device = token.ID
	actor := access.Device(a.Device.String(), protocol)
	spend, first := s.Devices.SpendStmt(token, now)
	detail := first
	var ended []audit.Entry
	older := false // there are older accounts
	err = s.commit(ctx, &write{row: a.ID, device: db.Key{Cell: s.Devices.CellOf(a.Device), ID: a.Device}, ask: spend,
		again: func(ctx context.Context, tx *db.Tx) (err error) {
			older = true // the look may have come before the lock that this takes
			detail, err = s.Devices.SpendTokenTx(ctx, tx, a.Device, hash, now)
			return err
		},
		also: func() []*db.Stmt {
			older = false
			return []*db.Stmt{{SQL: `SELECT 1 FROM acme_account WHERE device = $1 AND state = 1 LIMIT 1`, Args: []any{a.Device[:]}, Each: func(db.Row) error { older = true; return nil }}}
		},
		then: func() []*db.Stmt {
			if spend.N == 1 {
				detail = first
			}
			if ended = nil; !older {
				return nil
			}
			return []*db.Stmt{s.supersede(&a, now, func(older *Account) { ended = append(ended, older.entry("acme.end", actor, now, nil)) })}
		},
		last:    func() []*db.Stmt { return []*db.Stmt{a.insert()} },
		entries: func() []audit.Entry { return append(ended, a.entry("acme.account", actor, now, detail)) },
		kept: func() {
			if len(ended) > 0 {
				s.accounts.clear()
			}
			made := a
			made.fresh = true
			if token.Device.ID == a.Device {
				made.known = &known{token.Device, token.Mark, a.read}
			}
			s.accounts.set(a.ID, made)
		}})
	if isFault(err) {
		s.accounts.clear() // an older account may have ended, whatever is known here
	}
	if errs.Is(err, errs.Denied) {
		err = s.bindingRefused(err)
	}
	return s.made(ctx, a, err)
}

// made tells the account that was just made, or the one that another request for the same key made meanwhile.
func (s *Service) made(ctx context.Context, a Account, err error) (Account, bool, error) {
	if db.IsConflict(err) || errs.Is(err, errs.Denied) {
		if other, err := s.ByKey(ctx, a.Key); err == nil && other.State == Valid {
			return other, false, nil
		}
	}
	if err != nil {
		return Account{}, false, err
	}
	return a, true, nil
}

// insert returns the statement that makes the row.
func (a *Account) insert() *db.Stmt {
	dev := []byte{}
	if a.Bound() {
		dev = a.Device[:]
	}
	return &db.Stmt{SQL: `INSERT INTO acme_account (id, thumb, jwk, state, device, binding, created, used, changed) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)`,
		Args: []any{a.ID[:], a.Key.Thumbprint[:], string(a.Key.JWK()), int64(a.State), dev, string(a.Binding), a.Created, a.Used, a.changed}}
}

// supersede returns the statement that ends the accounts which the device of a had before, and tells each to ended.
func (s *Service) supersede(a *Account, now int64, ended func(*Account)) *db.Stmt {
	return &db.Stmt{SQL: `UPDATE acme_account SET state = 3, changed = changed + 1, used = $2 WHERE device = $1 AND state = 1
 RETURNING id, thumb, jwk, state, device, binding, created, used, changed`, Args: []any{a.Device[:], now}, Each: func(r db.Row) error {
		older, err := s.scanAccount(r)
		if err == nil {
			ended(&older)
		}
		return err
	}}
}

// newID returns an id for an account or order: the time, so that what is made one after the other lies so and all goes to the ends of indexes, where pages
// fill without being split, and 80 random bits, so that nobody guesses it.
func newID(now time.Time) ID {
	id := idAt(now)
	rand.Read(id[6:])
	return id
}

// idAt is the first id of a time: its seconds, and 65536ths of one.
func idAt(at time.Time) (id ID) {
	binary.BigEndian.PutUint32(id[:], uint32(at.Unix()))
	binary.BigEndian.PutUint16(id[4:], uint16(int64(at.Nanosecond())<<16/int64(time.Second)))
	return id
}

// made is when the id was made, as the clock of its node had it.
func (id ID) made() time.Time { return time.Unix(int64(binary.BigEndian.Uint32(id[:])), 0) }

// entry is what the record holds of an account: enough to find out later that its row is another one.
func (a *Account) entry(action string, actor access.Actor, at int64, more map[string]string) audit.Entry {
	e := audit.Entry{At: at, Action: action, Actor: actor.String(), Object: a.ID.String(), Detail: map[string]string{
		"key": hex.EncodeToString(a.Key.Thumbprint[:]), "state": a.State.String(), "n": strconv.FormatInt(a.changed, 10)}}
	if a.Bound() {
		e.Device = a.Device.String()
	}
	for k, v := range more {
		e.Detail[k] = v
	}
	return e
}

// end moves a to a state from which it does not come back.
func (s *Service) end(ctx context.Context, tx *db.Tx, a *Account, to State, actor access.Actor) error {
	now := s.Now().Unix()
	n, err := tx.Exec(ctx, `UPDATE acme_account SET state = $2, changed = changed + 1, used = $4 WHERE id = $1 AND state = 1 AND changed = $3`, a.ID[:], int64(to), a.changed, now)
	if err != nil {
		return err
	}
	if n != 1 {
		return errs.New(errs.Conflict, "the account was changed meanwhile; look at it again")
	}
	a.State = to
	a.changed++
	tx.OnCommit(func() { s.accounts.drop(a.ID) })
	return s.Audit.Append(ctx, tx, a.entry("acme.end", actor, now, nil))
}

// Deactivate ends the account on its own wish (RFC 8555, section 7.3.6). Its certificates stay.
func (s *Service) Deactivate(ctx context.Context, a Account, source netip.Addr) (Account, error) {
	return s.endAlone(ctx, a, Deactivated, a.actor(source))
}

// endAlone is end in a transaction of its own.
func (s *Service) endAlone(ctx context.Context, a Account, to State, actor access.Actor) (Account, error) {
	defer s.accounts.drop(a.ID) // also when it is not known whether it happened
	err := s.DB.Do(ctx, func(ctx context.Context, tx *db.Tx) error {
		now := a
		if err := s.end(ctx, tx, &now, to, actor); err != nil {
			return err
		}
		tx.OnCommit(func() { a = now })
		return nil
	})
	return a, err
}

// Rekey gives the account another key (section 7.3.5), which the new key has agreed to. When that is another account's, the error is Conflict and
// holder is that account.
func (s *Service) Rekey(ctx context.Context, a Account, key *acme.Key, source netip.Addr) (holder Account, err error) {
	other, err := s.ByKey(ctx, key)
	if err == nil {
		return other, refuse(errs.Conflict, Malformed, "the new key is that of an account already")
	}
	if !errors.Is(err, AccountDoesNotExist) {
		return Account{}, err
	}
	defer s.accounts.drop(a.ID) // also when it is not known whether it happened
	err = s.DB.Do(ctx, func(ctx context.Context, tx *db.Tx) error {
		n, err := tx.Exec(ctx, `UPDATE acme_account SET thumb = $2, jwk = $3, changed = changed + 1 WHERE id = $1 AND state = 1 AND changed = $4`,
			a.ID[:], key.Thumbprint[:], string(key.JWK()), a.changed)
		if err != nil {
			return err
		}
		if n != 1 {
			return refuse(errs.Conflict, Malformed, "the account was changed meanwhile; ask for it again")
		}
		next := a
		next.Key, next.changed = key, a.changed+1
		tx.OnCommit(func() { s.accounts.drop(a.ID) })
		return s.Audit.Append(ctx, tx, next.entry("acme.rekey", a.actor(source), s.Now().Unix(), map[string]string{"old": hex.EncodeToString(a.Key.Thumbprint[:])}))
	})
	if db.IsConflict(err) {
		other, err := s.ByKey(ctx, key)
		if err != nil {
			return Account{}, err
		}
		return other, refuse(errs.Conflict, Malformed, "the new key is that of an account already")
	}
	return Account{}, err
}

// Accounts returns accounts for people, in the order of their ids, after one of them: those of a device, or all. It needs device.read.
func (s *Service) Accounts(ctx context.Context, actor access.Actor, of device.ID, after ID, limit int) (page []Account, err error) {
	if err := s.Access.Require(ctx, actor, access.DeviceRead, "acme accounts"); err != nil {
		return nil, err
	}
	where, args := ` WHERE id > $1 ORDER BY id LIMIT $2`, []any{after[:], int64(min(max(limit, 1), 1000))}
	if of != (device.ID{}) {
		where, args = ` WHERE id > $1 AND device = $3 ORDER BY id LIMIT $2`, append(args, of[:])
	}
	err = s.DB.View(ctx, func(ctx context.Context, tx *db.Tx) error {
		page = page[:0]
		return tx.Each(ctx, func(r db.Row) error {
			a, err := s.scanAccount(r)
			page = append(page, a)
			return err
		}, accountColumns+where, args...)
	})
	return page, err
}

// Show returns one account for people. It needs device.read.
func (s *Service) Show(ctx context.Context, actor access.Actor, id ID) (Account, error) {
	if err := s.Access.Require(ctx, actor, access.DeviceRead, "acme account "+id.String()); err != nil {
		return Account{}, err
	}
	return s.AccountNow(ctx, id)
}

// End takes an account away, which an operator does. It needs device.state, and access.grant where the device has power.
func (s *Service) End(ctx context.Context, actor access.Actor, id ID) (Account, error) {
	if err := s.Access.Require(ctx, actor, access.DeviceState, "acme account "+id.String()); err != nil {
		return Account{}, err
	}
	a, err := s.AccountNow(ctx, id)
	if err != nil {
		return Account{}, err
	}
	if a.Bound() {
		if err := s.Devices.MayEmpower(ctx, actor, a.Device); err != nil && !errs.Is(err, errs.NotFound) {
			return Account{}, err
		}
	}
	if a.State != Valid {
		return Account{}, errs.New(errs.Conflict, "the account is %s already", a.State)
	}
	return s.endAlone(ctx, a, Revoked, actor)
}
