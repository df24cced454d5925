package acme

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
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
	challenge Challenge
	owner     device.ID
	actor     string
	device    string
	tries     int
	done      chan struct{}                // closed at the end
	trouble   atomic.Pointer[acme.Problem] // what went wrong last
}

// Authz returns the order that an authorization is in, if it is the account's, and the authorization.
func (s *Service) Authz(ctx context.Context, a *Account, id ID, n int) (Order, *Authz, error) {
	o, err := s.load(ctx, id)
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
	s.mu.Lock()
	at := s.running[place{id, n}]
	s.mu.Unlock()
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
	at := &attempt{place: place{id, n}, account: a.ID, owner: o.Device, device: o.Device.String(), actor: "account:" + a.ID.String(), done: make(chan struct{}),
		challenge: Challenge{Type: method, Name: z.Name, Token: z.Token, KeyAuthorization: acme.KeyAuthorization(z.Token, a.Key.Thumbprint[:]), Response: response}}
	if at, err = s.begin(at); err != nil {
		return Order{}, nil, err
	}
	patience := time.NewTimer(quick)
	defer patience.Stop()
	select {
	case <-at.done:
	case <-patience.C:
	case <-ctx.Done():
	}
	return s.Authz(ctx, a, id, n)
}

// quick is how long the answer to the request for a validation waits for it.
const quick = 300 * time.Millisecond

// begin puts at to work, or returns the one that is under way for the same authorization.
func (s *Service) begin(at *attempt) (*attempt, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if running := s.running[at.place]; running != nil {
		return running, nil
	}
	if len(s.running) >= maxWaiting {
		return nil, errs.WithRetry(refuse(errs.Limited, RateLimited, "too many validations are under way; ask again"), 10*time.Second)
	}
	share := 0
	for _, other := range s.running {
		if other.account == at.account {
			share++
		}
	}
	if share >= maxAccountWaiting {
		return nil, errs.WithRetry(refuse(errs.Limited, RateLimited, "%d validations of this account are under way; ask again", share), 10*time.Second)
	}
	s.running[at.place] = at
	s.work <- at // there is room for all that may run
	return at, nil
}

func (s *Service) finish(at *attempt) {
	s.mu.Lock()
	delete(s.running, at.place)
	s.mu.Unlock()
	close(at.done)
}

// validate works until ctx ends.
func (s *Service) validate(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case at := <-s.work:
			s.try(ctx, at)
		}
	}
}

// validateTime bounds one try.
const validateTime = 15 * time.Second

func (s *Service) try(ctx context.Context, at *attempt) {
	limited, cancel := context.WithTimeout(ctx, validateTime)
	validate := s.Validator.Validate
	if at.challenge.Type == acme.DeviceAttest01 {
		validate = func(ctx context.Context, c Challenge) (Shown, error) { return s.attested(ctx, c, at.owner) }
	}
	shown, err := validate(limited, at.challenge)
	cancel()
	if err != nil && errs.Is(err, errs.Unavailable) && at.tries < len(s.Again) && ctx.Err() == nil {
		at.trouble.Store(problem(err))
		pause := s.Again[at.tries]
		at.tries++
		time.AfterFunc(pause, func() { s.work <- at }) // it has its place among those that may run
		return
	}
	if ctx.Err() == nil {
		if err := s.settle(ctx, at, shown, err); err != nil {
			s.Log.WarnContext(ctx, "the outcome of a validation could not be stored", "cause", err)
		}
	}
	s.finish(at)
}

// problem is an error as the client gets it.
func problem(err error) *acme.Problem {
	t := ServerInternal
	errors.As(err, &t)
	return &acme.Problem{Type: acme.ErrorPrefix + string(t), Detail: errs.Public(err)}
}

// settle writes down what came of a validation.
func (s *Service) settle(ctx context.Context, at *attempt, shown Shown, failure error) error {
	return s.authorize(ctx, at.order, at.n, func(z *Authz, e *audit.Entry) bool {
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
	_, z, err := s.Authz(ctx, a, id, n)
	if err != nil {
		return Order{}, nil, err
	}
	if z.Status != acme.StatusPending && z.Status != acme.StatusValid {
		return Order{}, nil, refuse(errs.Invalid, Malformed, "the authorization is %s already", z.Status)
	}
	err = s.authorize(ctx, id, n, func(z *Authz, e *audit.Entry) bool {
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

// authorize changes one authorization, with its entry. change returns false to leave it as it is.
func (s *Service) authorize(ctx context.Context, id ID, n int, change func(*Authz, *audit.Entry) bool) error {
	return s.write(ctx, id, func(ctx context.Context, tx *db.Tx) error {
		var o Order
		found := false
		err := tx.Each(ctx, func(r db.Row) (err error) {
			found = true
			o, err = scanOrder(r)
			return err
		}, orderColumns+` WHERE id = $1`, id[:])
		if err != nil || !found || n >= len(o.Authz) {
			return err
		}
		e := audit.Entry{At: s.Now().Unix(), Object: id.String(), Device: o.Device.String(), Detail: map[string]string{"n": fmt.Sprint(n)}}
		if !change(&o.Authz[n], &e) {
			return nil
		}
		e.Detail["mark"] = o.mark(n)
		text, err := json.Marshal(o.Authz)
		if err != nil {
			return err
		}
		changed, err := tx.Exec(ctx, `UPDATE acme_order SET authz = $2 WHERE id = $1 AND authz = $3`, id[:], string(text), o.authz)
		if err != nil {
			return err
		}
		if changed != 1 {
			return refuse(errs.Conflict, Malformed, "the authorization was changed meanwhile; ask again")
		}
		return s.Audit.Append(ctx, tx, e)
	})
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
