package acme

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync/atomic"
	"time"

	"mooring/internal/base/db"
	"mooring/internal/base/errs"
	"mooring/internal/core/audit"
	"mooring/internal/core/device"
	"mooring/internal/core/enrol"
	"mooring/wire/acme"
)

// place names an authorization.
type place struct {
	order ID
	n     int
}

// attempt is a validation under way. A challenge is processing as long as there is one.
type attempt struct {
	place
	account   ID
	open      bool // the account is an open one
	seen      Order
	challenge Challenge
	owner     device.ID
	actor     string
	tries     int
	done      chan struct{}                // closed at the end
	trouble   atomic.Pointer[acme.Problem] // what went wrong last
	after     *Order                       // as it stands at the end; nil: look again. Written before done is closed
}

// Authz returns the order that an authorization is in, if it is the account's, and the authorization.
func (s *Service) Authz(ctx context.Context, a *Account, id ID, n int) (Order, *Authz, error) {
	o, err := s.load(ctx, a, id)
	if err != nil {
		return Order{}, nil, err
	}
	if o.Account != a.ID || n < 0 || n >= len(o.Authz) {
		return Order{}, nil, refuse(errs.NotFound, Malformed, "there is no such authorization of this account")
	}
	return o, &o.Authz[n], nil
}

// Underway returns the challenge that is being validated for the authorization, "" when none is, and what went wrong last.
func (s *Service) Underway(id ID, n int) (method string, trouble *acme.Problem) {
	at := s.line.underway(place{id, n})
	if at == nil {
		return "", nil
	}
	return at.challenge.Type, at.trouble.Load()
}

// Validate begins to validate an authorization by one of its challenges (RFC 8555, section 7.5.1), and gives a quick one the time to end. One
// that is not pending stays as it is.
func (s *Service) Validate(ctx context.Context, a *Account, id ID, n int, method string, response []byte) (Order, *Authz, error) {
	o, z, err := s.Authz(ctx, a, id, n)
	if err != nil {
		return Order{}, nil, err
	}
	if !slices.Contains(z.Methods(), method) {
		return Order{}, nil, refuse(errs.NotFound, Malformed, "there is no such challenge")
	}
	if z.Status != acme.StatusPending || o.Status(s.Now().Unix()) != acme.StatusPending {
		return o, z, nil
	}
	if method != acme.DeviceAttest01 {
		response = nil // empty objects, which wait in thousands
	}
	at := &attempt{place: place{id, n}, account: a.ID, open: !a.Bound(), seen: o, owner: o.Device, actor: "account:" + a.ID.String(), done: make(chan struct{}),
		challenge: Challenge{Type: method, Name: z.Name, Token: z.Token, KeyAuthorization: acme.KeyAuthorization(z.Token, a.Key.Thumbprint[:]), Response: response}}
	if at, err = s.line.begin(at); err != nil {
		return Order{}, nil, err
	}
	patience := time.NewTimer(quick)
	defer patience.Stop()
	select {
	case <-at.done:
		if at.after != nil {
			o := *at.after
			return o, &o.Authz[n], nil
		}
	case <-patience.C:
	case <-ctx.Done():
	}
	return s.Authz(ctx, a, id, n)
}

// quick is how long the answer to the request for a validation waits for it.
const quick = 300 * time.Millisecond

// validate works until ctx ends.
func (s *Service) validate(ctx context.Context) {
	for {
		at := s.line.take()
		if at == nil {
			select {
			case <-ctx.Done():
				return
			case <-s.line.wake:
			}
			continue
		}
		again, pause := s.try(ctx, at)
		if s.line.leave(at, again); again {
			time.AfterFunc(pause, func() { s.line.put(at) }) // it keeps its place among those that are under way
		}
		if ctx.Err() != nil {
			return
		}
	}
}

// validateTime bounds one try.
const validateTime = 15 * time.Second

// try validates once and writes down what came of it, unless it is to be tried again after a pause.
func (s *Service) try(ctx context.Context, at *attempt) (again bool, pause time.Duration) {
	limited, cancel := context.WithTimeout(ctx, validateTime)
	validate := s.Validator.Validate
	if at.challenge.Type == acme.DeviceAttest01 {
		validate = func(ctx context.Context, c Challenge) (Shown, error) { return s.attested(ctx, c, at.owner) }
	}
	shown, err := validate(limited, at.challenge)
	cancel()
	if err != nil && errs.Is(err, errs.Unavailable) && at.tries < len(s.Again) && ctx.Err() == nil {
		at.trouble.Store(problem(err))
		at.tries++
		return true, s.Again[at.tries-1]
	}
	if ctx.Err() == nil {
		if at.after, err = s.settle(ctx, at, shown, err); err != nil {
			s.Log.WarnContext(ctx, "the outcome of a validation could not be stored", "cause", err)
		}
	}
	return false, 0
}

// problem is an error as the client gets it.
func problem(err error) *acme.Problem {
	t := ServerInternal
	errors.As(err, &t)
	return &acme.Problem{Type: acme.ErrorPrefix + string(t), Detail: errs.Public(err)}
}

// settle writes down what came of a validation, and returns the order as it stands then, if that is known.
func (s *Service) settle(ctx context.Context, at *attempt, shown Shown, failure error) (*Order, error) {
	return s.authorize(ctx, at.seen, at.n, func(z *Authz, e *audit.Entry) bool {
		if z.Status != acme.StatusPending {
			return false
		}
		z.Method, z.At, z.Status, z.SPKI, z.Hardware = at.challenge.Type, s.Now().Unix(), acme.StatusValid, shown.SPKI, shown.Hardware
		e.Action, e.Actor, e.Detail["method"] = "acme.validate", at.actor, at.challenge.Type
		if failure != nil {
			z.Status, z.SPKI, z.Hardware, z.Problem = acme.StatusInvalid, nil, "", problem(failure)
			e.Refused = enrol.Reason(failure)
		}
		return true
	})
}

// Give deactivates an authorization that the account no longer wants (section 7.5.2).
func (s *Service) Give(ctx context.Context, a *Account, id ID, n int) (Order, *Authz, error) {
	o, z, err := s.Authz(ctx, a, id, n)
	if err != nil {
		return Order{}, nil, err
	}
	if z.Status != acme.StatusPending && z.Status != acme.StatusValid {
		return Order{}, nil, refuse(errs.Invalid, Malformed, "the authorization is %s already", z.Status)
	}
	_, err = s.authorize(ctx, o, n, func(z *Authz, e *audit.Entry) bool {
		if z.Status != acme.StatusPending && z.Status != acme.StatusValid {
			return false
		}
		z.Status = acme.StatusDeactivated
		e.Action, e.Actor = "acme.release", "account:"+a.ID.String()
		return true
	})
	if err != nil {
		return Order{}, nil, err
	}
	return s.Authz(ctx, a, id, n)
}

// authorize changes one authorization of an order as it was read, with its entry. change returns false to leave it as it is. The order is returned as it
// stands then, or nil when it was changed by others, too.
func (s *Service) authorize(ctx context.Context, seen Order, n int, change func(*Authz, *audit.Entry) bool) (*Order, error) {
	if o, err := s.alter(ctx, seen.ID, n, change); o != nil || err != nil {
		return o, err
	}
	next, entry, ok, err := s.altered(seen, n, change)
	if err != nil || !ok {
		return nil, err
	}
	var now *Order // after another change of the order, which came between; nil: none did
	var then []audit.Entry
	w := &write{row: seen.ID, ask: next.storeAuthz(seen.authz),
		again: func(ctx context.Context, tx *db.Tx) error {
			now, then = &Order{}, nil
			err := tx.Each(ctx, func(r db.Row) (err error) {
				*now, err = scanOrder(r)
				return err
			}, orderColumns+` WHERE id = $1`, seen.ID[:])
			if err != nil || now.ID != seen.ID { // it is gone
				return err
			}
			next, entry, ok, err := s.altered(*now, n, change)
			if err != nil || !ok {
				return err
			}
			stmt := next.storeAuthz(now.authz)
			if err := tx.Send(ctx, stmt); err != nil {
				return err
			}
			if stmt.N != 1 {
				return refuse(errs.Conflict, Malformed, "the authorization was changed meanwhile; ask again")
			}
			then = []audit.Entry{entry}
			return nil
		}}
	w.then = func() []*db.Stmt {
		if w.ask.N == 1 {
			now, then = nil, []audit.Entry{entry}
		}
		return nil
	}
	w.entries = func() []audit.Entry { return then }
	w.kept = func() {
		if now == nil {
			s.orderShelf.swap(seen.ID, next, seen.same)
			return
		}
		s.orderShelf.drop(seen.ID)
	}
	if err := s.commit(ctx, w); err != nil {
		s.orderShelf.drop(seen.ID)
		return nil, err
	}
	if now != nil {
		return nil, nil
	}
	return &next, nil
}

// altered returns the order with one authorization changed, and the entry about it. ok is false when there is nothing to change.
func (s *Service) altered(o Order, n int, change func(*Authz, *audit.Entry) bool) (next Order, e audit.Entry, ok bool, err error) {
	if n >= len(o.Authz) {
		return o, e, false, nil
	}
	o.Authz = slices.Clone(o.Authz)
	e = audit.Entry{At: s.Now().Unix(), Object: o.ID.String(), Device: o.Device.String(), Detail: map[string]string{"n": strconv.Itoa(n)}}
	if !change(&o.Authz[n], &e) {
		return o, e, false, nil
	}
	e.Detail["mark"] = o.mark(n)
	text, err := json.Marshal(o.Authz)
	o.authz = string(text)
	return o, e, err == nil, err
}

// storeAuthz returns the statement that stores the authorizations, if they are still as before.
func (o *Order) storeAuthz(before string) *db.Stmt {
	return &db.Stmt{SQL: `UPDATE acme_order SET authz = $2 WHERE id = $1 AND authz = $3`, Args: []any{o.ID[:], o.authz, before}}
}

// mark condenses what an entry about a validated name vouches for.
func (o *Order) mark(n int) string {
	h := sha256.New()
	z := &o.Authz[n]
	parts := []string{o.ID.String(), o.Account.String(), o.Device.String(), string(o.Evidence), o.Profile, fmt.Sprint(n), z.full(), z.Status, z.Method, string(z.SPKI)}
	if z.Hardware != "" {
		parts = append(parts, z.Hardware)
	}
	for _, part := range parts {
		fmt.Fprintf(h, "%d:%s", len(part), part)
	}
	return hex.EncodeToString(h.Sum(nil)[:16])
}
