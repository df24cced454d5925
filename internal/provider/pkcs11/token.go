//go:build pkcs11

package pkcs11

import (
	"context"
	"errors"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/miekg/pkcs11"

	"mooring/internal/base/errs"
	"mooring/internal/core/key"
)

const (
	defaultSessions = 16
	defaultWait     = 5 * time.Second
	waitForKey      = time.Minute // large RSA keys take their time
)

// module is what a Token needs of a PKCS #11 library; *pkcs11.Ctx is one.
type module interface {
	Initialize(...pkcs11.InitializeOption) error
	Finalize() error
	GetSlotList(tokenPresent bool) ([]uint, error)
	GetTokenInfo(slot uint) (pkcs11.TokenInfo, error)
	GetMechanismInfo(slot uint, m []*pkcs11.Mechanism) (pkcs11.MechanismInfo, error)
	OpenSession(slot, flags uint) (pkcs11.SessionHandle, error)
	CloseSession(pkcs11.SessionHandle) error
	Login(s pkcs11.SessionHandle, user uint, pin string) error
	FindObjectsInit(pkcs11.SessionHandle, []*pkcs11.Attribute) error
	FindObjects(s pkcs11.SessionHandle, most int) ([]pkcs11.ObjectHandle, bool, error)
	FindObjectsFinal(pkcs11.SessionHandle) error
	GetAttributeValue(pkcs11.SessionHandle, pkcs11.ObjectHandle, []*pkcs11.Attribute) ([]*pkcs11.Attribute, error)
	GenerateKeyPair(s pkcs11.SessionHandle, m []*pkcs11.Mechanism, public, private []*pkcs11.Attribute) (pub, priv pkcs11.ObjectHandle, err error)
	DestroyObject(pkcs11.SessionHandle, pkcs11.ObjectHandle) error
	SignInit(pkcs11.SessionHandle, []*pkcs11.Mechanism, pkcs11.ObjectHandle) error
	Sign(s pkcs11.SessionHandle, message []byte) ([]byte, error)
}

// token is the Custody of a build with PKCS #11. It is safe for many goroutines.
type token struct {
	o       Options
	module  module
	turns   chan struct{} // holds one for each operation under way
	signers sync.Map      // key.ID to *signer

	mu      sync.Mutex // guards what follows; calls into the module that find, open or close are made under it
	mine    bool       // this Token initialised the module
	login   *login     // nil while there is none
	closed  bool
	refused error // for the rest of the process
	failure error // of the last attempt to log in, at failed
	failed  time.Time
}

// login is one stay in the token. After a loss there is a new one.
type login struct {
	slot uint
	idle []pkcs11.SessionHandle           // guarded by token.mu
	keys map[key.ID][]pkcs11.ObjectHandle // guarded by token.mu
}

func open(ctx context.Context, o Options) (Custody, error) {
	if _, err := os.Stat(o.Module); err != nil {
		return nil, errs.Wrap(errs.Invalid, err, "the PKCS #11 module %s cannot be read: check keys.pkcs11.module", o.Module)
	}
	library := pkcs11.New(o.Module)
	if library == nil {
		return nil, errs.New(errs.Invalid, "%s is no PKCS #11 module for this machine: check keys.pkcs11.module", o.Module)
	}
	t, err := openModule(ctx, o, library)
	if t == nil {
		return nil, err // and not a Custody that is one
	}
	return t, err
}

func openModule(ctx context.Context, o Options, m module) (*token, error) {
	if o.Sessions == 0 {
		o.Sessions = defaultSessions
	}
	if o.Wait == 0 {
		o.Wait = defaultWait
	}
	t := &token{o: o, module: m, turns: make(chan struct{}, o.Sessions)}
	_, err := do(ctx.Done(), t, o.Wait, func(*login, pkcs11.SessionHandle) (struct{}, error) { return struct{}{}, nil })
	if err != nil && !errs.Is(err, errs.Unavailable) {
		return nil, errors.Join(err, t.Close())
	}
	return t, err
}

// String names the token without its PIN.
func (t *token) String() string { return "PKCS #11 token " + t.o.Token }

// do runs op with a session, in a goroutine of its own, because a token that hangs cannot be made to return: op then keeps its session until
// it does, and the caller is told Unavailable. It tries once more with a new login when the old one was lost. The caller gives up when gone is
// closed; crypto.Signer knows no context and passes nil, for which the time limit is enough.
func do[T any](gone <-chan struct{}, t *token, wait time.Duration, op func(*login, pkcs11.SessionHandle) (T, error)) (none T, _ error) {
	limit := time.NewTimer(wait)
	defer limit.Stop()
	select {
	case t.turns <- struct{}{}:
	case <-limit.C:
		return none, errs.New(errs.Unavailable, "the token %q has more to do than it can: no session became free in %s", t.o.Token, wait)
	case <-gone:
		return none, errs.New(errs.Unavailable, "waiting for the token %q was given up", t.o.Token)
	}
	type result struct {
		value T
		err   error
	}
	done := make(chan result, 1)
	go func() {
		value, err := attempt(t, op)
		if lost(err) {
			value, err = attempt(t, op)
		}
		<-t.turns
		done <- result{value, t.explain(err)}
	}()
	select {
	case r := <-done:
		return r.value, r.err
	case <-limit.C:
		return none, errs.New(errs.Unavailable, "the token %q does not answer: nothing came in %s", t.o.Token, wait)
	case <-gone:
		return none, errs.New(errs.Unavailable, "waiting for the token %q was given up", t.o.Token)
	}
}

func attempt[T any](t *token, op func(*login, pkcs11.SessionHandle) (T, error)) (none T, _ error) {
	l, session, err := t.session()
	if err != nil {
		return none, err
	}
	value, err := op(l, session)
	t.giveBack(l, session, err)
	return value, err
}

// session takes a session of the login, which it makes if there is none.
func (t *token) session() (*login, pkcs11.SessionHandle, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return nil, 0, errs.New(errs.Unavailable, "the token %q was closed", t.o.Token)
	}
	if t.login == nil {
		if err := t.logIn(); err != nil {
			return nil, 0, err
		}
	}
	l := t.login
	if n := len(l.idle); n > 0 {
		session := l.idle[n-1]
		l.idle = l.idle[:n-1]
		return l, session, nil
	}
	session, err := t.module.OpenSession(l.slot, pkcs11.CKF_SERIAL_SESSION|pkcs11.CKF_RW_SESSION)
	if err != nil && lost(err) {
		t.drop(l)
	}
	return l, session, err
}

// giveBack keeps the session for the next. After an error something may still be going on in it, so that it is closed; after a loss all are.
func (t *token) giveBack(l *login, session pkcs11.SessionHandle, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case lost(err):
		t.drop(l)
		_ = t.module.CloseSession(session) // most probably gone
	case err == nil && t.login == l && !t.closed:
		l.idle = append(l.idle, session)
	default:
		_ = t.module.CloseSession(session) // what is wrong with it is told by err
	}
}

// drop ends a login. The caller holds mu.
func (t *token) drop(l *login) {
	if t.login != l {
		return // another one was faster
	}
	t.login = nil
	for _, session := range l.idle {
		_ = t.module.CloseSession(session) // most probably gone
	}
	l.idle = nil
}

// pauseAfterFailure is how long nobody looks for the token after it was not found, so that a storm of requests does not become one of logins.
const pauseAfterFailure = time.Second

// logIn finds the token and logs in. The caller holds mu.
func (t *token) logIn() error {
	now := t.o.Now()
	if t.refused != nil {
		return t.refused
	}
	if t.failure != nil && now.Sub(t.failed) < pauseAfterFailure && !now.Before(t.failed) {
		return t.failure
	}
	l, err := t.enter()
	if lost(err) && t.restart() {
		l, err = t.enter()
	}
	t.login, t.failure, t.failed = l, err, now
	return err
}

// restart initialises the module anew, because some learn of a token that was plugged in only then. It does so only when no operation of this
// Token is under way but the one that asks, and when no other initialised the module. The caller holds mu.
func (t *token) restart() bool {
	if !t.mine || len(t.turns) > 1 {
		return false
	}
	t.mine = false
	return t.module.Finalize() == nil
}

func (t *token) enter() (*login, error) {
	switch err := t.module.Initialize(); {
	case err == nil:
		t.mine = true
	case !isCode(err, pkcs11.CKR_CRYPTOKI_ALREADY_INITIALIZED):
		return nil, err
	}
	slot, info, err := t.find()
	if err != nil {
		return nil, err
	}
	session, err := t.module.OpenSession(slot, pkcs11.CKF_SERIAL_SESSION|pkcs11.CKF_RW_SESSION)
	if err != nil {
		return nil, err
	}
	if err := t.identify(session, info); err != nil {
		_ = t.module.CloseSession(session) // the failure before it is the one to tell
		return nil, err
	}
	return &login{slot: slot, idle: []pkcs11.SessionHandle{session}, keys: map[key.ID][]pkcs11.ObjectHandle{}}, nil
}

// find returns the slot of the token with the configured label or serial number.
func (t *token) find() (slot uint, info pkcs11.TokenInfo, err error) {
	slots, err := t.module.GetSlotList(true)
	if err != nil {
		return 0, info, err
	}
	found, others := 0, []string{}
	for _, s := range slots {
		i, err := t.module.GetTokenInfo(s)
		if err != nil {
			continue // one that was pulled out a moment ago
		}
		label, serial := strings.TrimRight(i.Label, " \x00"), strings.TrimRight(i.SerialNumber, " \x00")
		if label == t.o.Token || serial == t.o.Token {
			slot, info = s, i
			found++
		} else if label != "" && len(others) < 5 {
			others = append(others, label)
		}
	}
	switch {
	case found > 1:
		return 0, info, errs.New(errs.Invalid, "%d tokens are called %q: give keys.pkcs11.token the serial number of the right one", found, t.o.Token)
	case found == 0 && len(others) > 0:
		return 0, info, &absence{t.o.Token, ", only " + strings.Join(others, ", ")}
	case found == 0:
		return 0, info, &absence{t.o.Token, ""}
	}
	return slot, info, nil
}

// identify logs the user in.
func (t *token) identify(session pkcs11.SessionHandle, info pkcs11.TokenInfo) error {
	if info.Flags&pkcs11.CKF_LOGIN_REQUIRED == 0 {
		return nil
	}
	switch {
	case info.Flags&pkcs11.CKF_USER_PIN_LOCKED != 0:
		return t.refuse(pkcs11.Error(pkcs11.CKR_PIN_LOCKED))
	case info.Flags&pkcs11.CKF_USER_PIN_INITIALIZED == 0:
		return t.refuse(pkcs11.Error(pkcs11.CKR_USER_PIN_NOT_INITIALIZED))
	case info.Flags&pkcs11.CKF_USER_PIN_FINAL_TRY != 0:
		return errs.New(errs.Denied, "the token %q has one attempt left before it locks its PIN, so this one is not made: correct the PIN file, log in once with the tool of the token's maker, then start again", t.o.Token)
	}
	pin, err := t.o.PIN()
	if err != nil {
		return err
	}
	defer clear(pin)
	err = t.module.Login(session, pkcs11.CKU_USER, string(pin))
	if isCode(err, pkcs11.CKR_USER_ALREADY_LOGGED_IN) {
		return nil
	}
	return t.refuse(err)
}

// refuse keeps an answer that the same PIN would get again.
func (t *token) refuse(err error) error {
	var told error
	switch {
	case isCode(err, pkcs11.CKR_PIN_INCORRECT, pkcs11.CKR_PIN_INVALID, pkcs11.CKR_PIN_LEN_RANGE):
		told = errs.Wrap(errs.Denied, err, "the token %q refuses the PIN: correct keys.pkcs11.pin_file, then start again. It is not tried a second time, because a token locks itself after some wrong PINs", t.o.Token)
	case isCode(err, pkcs11.CKR_PIN_LOCKED):
		told = errs.Wrap(errs.Denied, err, "the token %q has locked its PIN after too many wrong ones: its security officer must set a new one, then start again", t.o.Token)
	case isCode(err, pkcs11.CKR_PIN_EXPIRED, pkcs11.CKR_USER_PIN_NOT_INITIALIZED):
		told = errs.Wrap(errs.Denied, err, "the token %q has no valid user PIN: set one with the tool of its maker, then start again", t.o.Token)
	default:
		return err
	}
	t.refused = told
	return told
}

// Close ends the sessions. Operations that hang in the module are left behind.
func (t *token) Close() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.login != nil {
		t.drop(t.login)
	}
	t.closed = true
	if t.mine && len(t.turns) == 0 {
		t.mine = false
		if err := t.module.Finalize(); err != nil && !isCode(err, pkcs11.CKR_CRYPTOKI_NOT_INITIALIZED) {
			return errs.Wrap(errs.Internal, err, "ending the PKCS #11 module")
		}
	}
	return nil
}
