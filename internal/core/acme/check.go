package acme

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"mooring/internal/base/db"
	"mooring/internal/core/audit"
	"mooring/wire/acme"
)

// standing is what the record says about an account.
type standing struct {
	key    string
	device string
	state  string
	n      int64
}

// checker replays accounts and validated names. It remembers 150 octets an account, and one mark for each name that was validated lately.
type checker struct {
	accounts map[string]standing
	shown    map[string]int64 // by mark, when
	kept     int              // how many of these were left after the last look at their age
	last     int64            // the time of the newest of them
}

// Checker compares accounts and validated names with the replayed record: an account that nobody made, whose key is another one, or that speaks
// for another device is a finding, and so is a name that counts as validated without having been. Rows that were purged leave nothing to compare.
// A Checker serves one verification.
func (s *Service) Checker() audit.Checker {
	c := &checker{accounts: map[string]standing{}, shown: map[string]int64{}, kept: 1 << 16}
	return audit.Checker{Name: "acme", Entry: c.entry, Finish: c.finish, Save: c.save, Load: c.load}
}

func (c *checker) entry(_ int64, e audit.Entry) error {
	if e.Refused != "" {
		return nil
	}
	switch e.Action {
	case "acme.account", "acme.rekey", "acme.end":
		n, err := strconv.ParseInt(e.Detail["n"], 10, 64)
		if err != nil {
			return errors.New("it does not say how often the account was changed")
		}
		if known, ok := c.accounts[e.Object]; !ok || n > known.n {
			c.accounts[e.Object] = standing{e.Detail["key"], e.Device, e.Detail["state"], n}
		}
	case "acme.validate":
		if c.last = max(c.last, e.At); len(c.shown) > 2*c.kept {
			c.forget()
			c.kept = max(len(c.shown), 1<<16)
		}
		for _, mark := range strings.Fields(e.Detail["mark"]) {
			c.shown[mark] = e.At
		}
	}
	return nil
}

func (c *checker) finish(ctx context.Context, tx *db.Tx) error {
	var found []error
	err := tx.Each(ctx, func(r db.Row) error {
		a, err := scanAccount(r, func(jwk string) (*acme.Key, error) { return acme.ParseKey([]byte(jwk)) })
		if err != nil {
			found = append(found, fmt.Errorf("table acme_account: %w", err))
			return nil
		}
		now := standing{hex.EncodeToString(a.Key.Thumbprint[:]), "", a.State.String(), a.changed}
		if a.Bound() {
			now.device = a.Device.String()
		}
		if known, ok := c.accounts[a.ID.String()]; !ok || known != now {
			found = append(found, fmt.Errorf("table acme_account: the row of account %s is not what the record says", a.ID))
		}
		return nil
	}, accountColumns)
	if err != nil {
		return errors.Join(append(found, err)...)
	}
	err = tx.Each(ctx, func(r db.Row) error {
		o, err := scanOrder(r)
		if err != nil {
			found = append(found, fmt.Errorf("table acme_order: %w", err))
			return nil
		}
		for n := range o.Authz {
			z := &o.Authz[n]
			if _, ok := c.shown[o.mark(n)]; !ok && z.Status == acme.StatusValid {
				found = append(found, fmt.Errorf("table acme_order: a name of order %s counts as validated, of which the record knows nothing", o.ID))
			}
		}
		return nil
	}, orderColumns)
	return errors.Join(append(found, err)...)
}
