package acme

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"strconv"

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
}

// Bound reports whether the account is that of a device.
func (a *Account) Bound() bool { return a.Device != device.ID{} }

const accountColumns = `SELECT id, thumb, jwk, state, device, binding, created, used, changed FROM acme_account`

func scanAccount(r db.Row) (a Account, err error) {
	var id, thumb, dev []byte
	var jwk, binding string
	var state int64
	if err := r.Scan(&id, &thumb, &jwk, &state, &dev, &binding, &a.Created, &a.Used, &a.changed); err != nil {
		return a, err
	}
	copy(a.ID[:], id)
	copy(a.Device[:], dev)
	a.State, a.Binding = State(state), []byte(binding)
	a.Key, err = acme.ParseKey([]byte(jwk))
	if err == nil && string(a.Key.Thumbprint[:]) != string(thumb) {
		err = errors.New("the thumbprint is another key's")
	}
	if err != nil {
		return a, fmt.Errorf("reading the account %s: %w", a.ID, err)
	}
	return a, nil
}

func accountBy(ctx context.Context, tx *db.Tx, where string, args ...any) (a Account, found bool, err error) {
	err = tx.Each(ctx, func(r db.Row) (err error) {
		found = true
		a, err = scanAccount(r)
		return err
	}, accountColumns+where, args...)
	return a, found, err
}

// Account returns the account with this id, whatever its state. The error is NotFound, with Type AccountDoesNotExist, when there is none.
func (s *Service) Account(ctx context.Context, id ID) (Account, error) {
	return s.find(ctx, ` WHERE id = $1`, id[:])
}

// ByKey returns the account of a key.
func (s *Service) ByKey(ctx context.Context, key *acme.Key) (Account, error) {
	return s.find(ctx, ` WHERE thumb = $1`, key.Thumbprint[:])
}

func (s *Service) find(ctx context.Context, where string, arg []byte) (a Account, err error) {
	var found bool
	err = s.DB.View(ctx, func(ctx context.Context, tx *db.Tx) (err error) {
		a, found, err = accountBy(ctx, tx, where, arg)
		return err
	})
	if err == nil && !found {
		err = refuse(errs.NotFound, AccountDoesNotExist, "there is no such account; make one with newAccount")
	}
	return a, err
}

// Newcomer asks for an account.
type Newcomer struct {
	Key     *acme.Key
	Binding *acme.Message // the external account binding; nil: none
	Raw     []byte        // the same as it came
	Source  netip.Addr
}

// NewAccount returns the account of a key, which is made when there is none. made tells which. An account without binding is ExternalAccountRequired
// unless open ones are allowed; a binding whose secret is wrong is Unauthorized, and says the same of devices that do not exist.
func (s *Service) NewAccount(ctx context.Context, n Newcomer) (a Account, made bool, err error) {
	if a, err = s.ByKey(ctx, n.Key); err == nil || !errors.Is(err, AccountDoesNotExist) {
		return a, false, err
	}
	a = Account{Key: n.Key, State: Valid, Created: s.Now().Unix(), Used: s.Now().Unix(), Binding: n.Raw, changed: 1}
	rand.Read(a.ID[:])
	if n.Binding == nil {
		return s.newOpen(ctx, a, n)
	}
	secret, err := s.Devices.TokenSecret(ctx, n.Binding.KID)
	if err != nil && !errs.Is(err, errs.Denied) {
		return Account{}, false, err
	}
	known := secret
	if known == "" {
		known = a.ID.String() // a wrong name has no secret; the check takes as long with another one
	}
	if n.Binding.VerifyMAC([]byte(known)) != nil || secret == "" {
		return Account{}, false, refuse(errs.Denied, Unauthorized, "the external account binding is not accepted: the device is unknown, or the key is not its present token: check both, or ask for a new token")
	}
	if err != nil { // used or expired, which whoever has it may know
		return Account{}, false, s.bindingRefused(err)
	}
	return s.bind(ctx, a, n, secret)
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
		return s.insert(ctx, tx, &a, access.Stranger(n.Source, protocol), nil)
	})
	return s.made(ctx, a, err)
}

// bind makes the account of a device and spends its token, in one transaction.
func (s *Service) bind(ctx context.Context, a Account, n Newcomer, secret string) (Account, bool, error) {
	hash, err := device.HashToken(secret)
	if err != nil {
		return Account{}, false, err
	}
	id, _ := s.Devices.IDOf(n.Binding.KID)
	a.Device = id
	err = s.DB.Do(ctx, func(ctx context.Context, tx *db.Tx) error {
		spent, err := s.Devices.SpendTokenTx(ctx, tx, id, hash, s.Now().Unix())
		if err != nil {
			return err
		}
		if err := s.supersede(ctx, tx, &a); err != nil {
			return err
		}
		return s.insert(ctx, tx, &a, access.Device(id.String(), protocol), spent)
	})
	if errs.Is(err, errs.Denied) {
		err = s.bindingRefused(err)
	}
	return s.made(ctx, a, err)
}

// made tells the account that was just made, or the one that another request for the same key made meanwhile.
func (s *Service) made(ctx context.Context, a Account, err error) (Account, bool, error) {
	if db.IsConflict(err) {
		a, err = s.ByKey(ctx, a.Key)
		return a, false, err
	}
	if err != nil {
		return Account{}, false, err
	}
	return a, true, nil
}

func (s *Service) insert(ctx context.Context, tx *db.Tx, a *Account, actor access.Actor, spent map[string]string) error {
	dev := []byte{}
	if a.Bound() {
		dev = a.Device[:]
	}
	_, err := tx.Exec(ctx, `INSERT INTO acme_account (id, thumb, jwk, state, device, binding, created, used, changed) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)`,
		a.ID[:], a.Key.Thumbprint[:], string(a.Key.JWK()), int64(a.State), dev, string(a.Binding), a.Created, a.Used, a.changed)
	if err != nil {
		return err
	}
	return s.Audit.Append(ctx, tx, a.entry("acme.account", actor, s.Now().Unix(), spent))
}

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

// supersede ends the accounts that the device of a had before.
func (s *Service) supersede(ctx context.Context, tx *db.Tx, a *Account) error {
	var older []Account
	err := tx.Each(ctx, func(r db.Row) error {
		o, err := scanAccount(r)
		older = append(older, o)
		return err
	}, accountColumns+` WHERE device = $1 AND state = 1`, a.Device[:])
	if err != nil {
		return err
	}
	for i := range older {
		if err := s.end(ctx, tx, &older[i], Revoked, access.Device(a.Device.String(), protocol)); err != nil {
			return err
		}
	}
	return nil
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
	return s.Audit.Append(ctx, tx, a.entry("acme.end", actor, now, nil))
}

// Deactivate ends the account on its own wish (RFC 8555, section 7.3.6). Its certificates stay.
func (s *Service) Deactivate(ctx context.Context, a Account, source netip.Addr) (Account, error) {
	err := s.DB.Do(ctx, func(ctx context.Context, tx *db.Tx) error {
		now := a
		if err := s.end(ctx, tx, &now, Deactivated, a.actor(source)); err != nil {
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
			a, err := scanAccount(r)
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
	return s.Account(ctx, id)
}

// End takes an account away, which an operator does. It needs device.state, and access.grant where the device has power.
func (s *Service) End(ctx context.Context, actor access.Actor, id ID) (Account, error) {
	if err := s.Access.Require(ctx, actor, access.DeviceState, "acme account "+id.String()); err != nil {
		return Account{}, err
	}
	a, err := s.Account(ctx, id)
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
	err = s.DB.Do(ctx, func(ctx context.Context, tx *db.Tx) error {
		now := a
		if err := s.end(ctx, tx, &now, Revoked, actor); err != nil {
			return err
		}
		tx.OnCommit(func() { a = now })
		return nil
	})
	return a, err
}
