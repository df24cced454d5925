package approve

import (
	"context"
	"fmt"

	"mooring/internal/base/db"
	"mooring/internal/base/errs"
	"mooring/internal/core/access"
	"mooring/internal/core/audit"
)

// Grant agrees to what somebody else asked for. It needs approve.grant and the permission of the act.
func (s *Service) Grant(ctx context.Context, actor access.Actor, id ID) (Approval, error) {
	return s.decide(ctx, actor, id, Granted)
}

// Refuse turns a request down. Whoever asked can do it too, to take it back.
func (s *Service) Refuse(ctx context.Context, actor access.Actor, id ID) (Approval, error) {
	return s.decide(ctx, actor, id, Refused)
}

func (s *Service) decide(ctx context.Context, actor access.Actor, id ID, to State) (Approval, error) {
	if err := s.Access.Require(ctx, actor, access.ApproveGrant, "approval "+id.String()); err != nil {
		return Approval{}, err
	}
	a, err := s.find(ctx, id)
	if err != nil {
		return Approval{}, err
	}
	if to == Granted {
		if err := s.mayGrant(ctx, actor, &a); err != nil {
			return Approval{}, err
		}
	}
	err = s.DB.Do(ctx, func(ctx context.Context, tx *db.Tx) error {
		a, err = s.decideTx(ctx, tx, actor, id, to)
		return err
	})
	return a, err
}

// mayGrant refuses, on the record, who asked himself and who could not do it himself.
func (s *Service) mayGrant(ctx context.Context, actor access.Actor, a *Approval) error {
	if err := s.Access.Require(ctx, actor, a.Needs, "approval "+a.ID.String()); err != nil {
		return err
	}
	reason := ""
	switch {
	case actor.Kind != access.KindOperator && actor.Kind != access.KindLocal:
		reason = "only a person can be the second person"
	case samePerson(actor, a.Requester):
		reason = "whoever asked for it cannot approve it: another person must"
		if actor.Kind == access.KindLocal {
			reason += " (all users of the server's machine count as one: use an operator's certificate)"
		}
	default:
		return nil
	}
	if err := s.Audit.Refuse(ctx, actor, audit.Entry{Action: "approve.grant", Object: "approval " + a.ID.String(), Refused: reason}); err != nil {
		return errs.Wrap(errs.Denied, err, "%s", reason)
	}
	return errs.New(errs.Denied, "%s", reason)
}

// samePerson reports whether actor is, or may well be, the requester.
func samePerson(actor access.Actor, requester string) bool {
	local := string(access.KindLocal) + ":"
	return actor.String() == requester ||
		actor.Kind == access.KindLocal && len(requester) >= len(local) && requester[:len(local)] == local
}

func (s *Service) decideTx(ctx context.Context, tx *db.Tx, actor access.Actor, id ID, to State) (Approval, error) {
	now := s.Now().Unix()
	n, err := tx.Exec(ctx, `UPDATE approval SET state = $2, decided = $3, decider = $4 WHERE cell = 0 AND id = $1 AND state = 1 AND expires > $3`,
		id[:], int64(to), now, actor.String())
	if err != nil {
		return Approval{}, fmt.Errorf("deciding on an approval: %w", err)
	}
	a, err := findTx(ctx, tx, id)
	switch {
	case err != nil:
		return a, err
	case n == 0 && a.State == Waiting:
		return a, errs.New(errs.Conflict, "the request is over: it was not decided in time; it must be asked for anew")
	case n == 0:
		return a, errs.New(errs.Conflict, "the request is %s already", a.State)
	}
	action := "approve.grant"
	if to == Refused {
		action = "approve.refuse"
	}
	return a, s.Audit.Append(ctx, tx, a.entry(action, actor.String(), now))
}

// Withdraw ends what was asked for act, decided or not, in the transaction in which the act is given up: nobody need look at it any more, and
// no grant of it lies about. What was refused or spent stays.
func (s *Service) Withdraw(ctx context.Context, tx *db.Tx, actor access.Actor, act Act) error {
	a, found, err := s.Look(ctx, tx, act)
	if err != nil || !found || a.State == Refused {
		return err
	}
	a.State, a.Decided, a.Decider = Refused, s.Now().Unix(), actor.String()
	n, err := tx.Exec(ctx, `UPDATE approval SET state = 3, decided = $2, decider = $3 WHERE cell = 0 AND id = $1 AND state IN (1, 2)`, a.ID[:], a.Decided, a.Decider)
	if err != nil {
		return fmt.Errorf("withdrawing a request for approval: %w", err)
	}
	if n != 1 {
		return errs.New(errs.Conflict, "the approval %s was decided meanwhile: try again", a.ID)
	}
	return s.Audit.Append(ctx, tx, a.entry("approve.withdraw", a.Decider, a.Decided))
}

func (s *Service) find(ctx context.Context, id ID) (a Approval, err error) {
	err = s.DB.View(ctx, func(ctx context.Context, tx *db.Tx) error {
		a, err = findTx(ctx, tx, id)
		return err
	})
	return a, err
}

func findTx(ctx context.Context, tx *db.Tx, id ID) (a Approval, err error) {
	found := false
	err = tx.Each(ctx, func(r db.Row) error { found = true; return a.scan(r) }, selects+` AND id = $1`, id[:])
	if err == nil && !found {
		err = errs.New(errs.NotFound, "there is no approval %s", id)
	}
	return a, err
}

// Get returns the approval with the id. It needs approve.read.
func (s *Service) Get(ctx context.Context, actor access.Actor, id ID) (Approval, error) {
	if err := s.Access.Require(ctx, actor, access.ApproveRead, "approval "+id.String()); err != nil {
		return Approval{}, err
	}
	return s.find(ctx, id)
}

// listMost bounds one list.
const listMost = 1000

// List returns approvals, newest first, at most limit (0: 100): those that wait and can still be granted, or all. It needs approve.read.
func (s *Service) List(ctx context.Context, actor access.Actor, all bool, limit int) (list []Approval, err error) {
	if err := s.Access.Require(ctx, actor, access.ApproveRead, "approvals"); err != nil {
		return nil, err
	}
	if limit <= 0 {
		limit = 100
	}
	query, args := selects, []any{int64(min(limit, listMost))}
	if !all {
		query, args = query+` AND state = 1 AND expires > $2`, append(args, s.Now().Unix())
	}
	err = s.DB.View(ctx, func(ctx context.Context, tx *db.Tx) error {
		list = nil
		return tx.Each(ctx, func(r db.Row) error {
			var a Approval
			err := a.scan(r)
			list = append(list, a)
			return err
		}, query+` ORDER BY created DESC, id LIMIT $1`, args...)
	})
	if err != nil {
		return nil, fmt.Errorf("listing approvals: %w", err)
	}
	return list, nil
}
