package campaign

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"time"

	"mooring/internal/base/db"
	"mooring/internal/base/errs"
	"mooring/internal/core/access"
	"mooring/internal/core/approve"
)

const (
	openMost = 1000 // campaigns that have not ended
	kind     = approve.Kind("campaign")
	askFor   = 7 * day * time.Second
)

// Create makes a campaign, which does nothing until it is started. When it is for more than Deps.AskAbove devices a second person is asked. It
// needs campaign.manage, and cert.revoke when it revokes.
func (s *Service) Create(ctx context.Context, actor access.Actor, spec Spec) (Campaign, error) {
	if err := s.Access.Require(ctx, actor, access.CampaignManage, "campaign"); err != nil {
		return Campaign{}, err
	}
	if spec.RevokeOld {
		if err := s.Access.Require(ctx, actor, access.CertRevoke, "campaign"); err != nil {
			return Campaign{}, err
		}
	}
	now := s.Now().Unix()
	if err := s.check(&spec, now); err != nil {
		return Campaign{}, err
	}
	n, err := s.Devices.Count(ctx, access.System("campaign"), spec.Filter)
	if err != nil {
		return Campaign{}, err
	}
	if n == 0 {
		return Campaign{}, errs.New(errs.Invalid, "select: no device fits")
	}
	c := Campaign{State: Draft, Spec: spec, Maker: actor.String(), Created: now}
	rand.Read(c.ID[:])
	err = s.DB.Do(ctx, func(ctx context.Context, tx *db.Tx) error {
		if err := s.makeRoom(ctx, tx); err != nil {
			return err
		}
		c.Note, c.Approval = fmt.Sprintf("%d devices fit now", n), approve.ID{}
		if s.AskAbove >= 0 && n > int64(s.AskAbove) {
			c.Agreed = n
			a, err := s.Approve.Request(ctx, tx, actor, s.act(&c, n), askFor)
			if err != nil {
				return err
			}
			c.Approval, c.Note = a.ID, fmt.Sprintf("%d devices fit now; a second person must agree: approval %s waits", n, a.ID)
		}
		if err := c.add(ctx, tx); err != nil {
			return err
		}
		return s.Audit.Append(ctx, tx, c.entry(actionCreate, actor, now))
	})
	if db.IsConflict(err) {
		return Campaign{}, errs.Wrap(errs.Conflict, err, "name: there is a campaign %q already", spec.Name)
	}
	return c, err
}

func (s *Service) makeRoom(ctx context.Context, tx *db.Tx) error {
	var n int64
	_, err := tx.Get(ctx, []any{&n}, `SELECT count(*) FROM campaign WHERE cell = 0 AND state < $1`, int64(Done))
	if err == nil && n >= openMost {
		err = errs.New(errs.Limited, "%d campaigns are open: end some first", n)
	}
	return err
}

// check refuses what the CAs and profiles do not allow.
func (s *Service) check(spec *Spec, now int64) error {
	if err := spec.check(now); err != nil {
		return err
	}
	if spec.To != "" {
		if _, err := s.CA.Issuer(spec.To); err != nil {
			return err
		}
	}
	if spec.Filter.Profile == "" {
		return nil
	}
	p, err := s.CA.Profile(spec.Filter.Profile)
	if err != nil {
		return err
	}
	if why := s.unfit(spec, p.Name); why != "" {
		return errs.New(errs.Invalid, "%s", why)
	}
	return nil
}

// unfit says why devices of a profile cannot get what the campaign demands; "" = they can.
func (s *Service) unfit(spec *Spec, profile string) string {
	p, err := s.CA.Profile(profile)
	switch {
	case err != nil:
		return fmt.Sprintf("there is no profile %q any more", profile)
	case spec.Algorithm != "" && !slices.Contains(p.Keys, spec.Algorithm):
		return fmt.Sprintf("the profile %s does not accept keys of kind %s", profile, spec.Algorithm)
	case spec.To != "" && p.IssuerAt(s.Now().Unix()) != spec.To:
		return fmt.Sprintf("the profile %s is issued by the CA %s and not by %s", profile, p.IssuerAt(s.Now().Unix()), spec.To)
	}
	return ""
}

// act describes the campaign for the second person: all that it will do.
func (s *Service) act(c *Campaign, n int64) approve.Act {
	spec, _ := c.text() // of numbers and texts, which always can be written
	needs := access.CampaignManage
	if c.RevokeOld {
		needs = access.CertRevoke
	}
	issuer := hex.EncodeToString(c.Filter.Issuer)
	if i, err := s.CA.Issuer(issuer); err == nil && issuer != "" {
		issuer = i.Name()
	}
	return approve.Act{Kind: kind, Object: c.object(), Digest: sha256.Sum256([]byte(spec)), Needs: needs,
		Summary: fmt.Sprintf("campaign %s: %d devices %s, %s", c.Name, n, c.selects(issuer), c.Spec.String())}
}

// Start begins a campaign: turns come from now on. One that needs a second person must have been approved.
func (s *Service) Start(ctx context.Context, actor access.Actor, nameOrID string) (Campaign, error) {
	return s.change(ctx, actor, nameOrID, moveStart, func(ctx context.Context, tx *db.Tx, c *Campaign, now int64) error {
		if end := c.clockAt(now, c.full()); end > c.Deadline {
			return errs.New(errs.Conflict, "too late: at its rate the campaign would end at %s, after its deadline; make another one", time.Unix(end, 0).UTC().Format("2006-01-02 15:04 UTC"))
		}
		if c.Approval != (approve.ID{}) {
			if _, err := s.Approve.Spend(ctx, tx, s.act(c, 0)); err != nil {
				return err
			}
		}
		var n int64
		if _, err := tx.Get(ctx, []any{&n}, `SELECT count(*) FROM campaign WHERE cell = 0 AND state = $1`, int64(Running)); err != nil {
			return err
		}
		if n >= runningMost {
			return errs.New(errs.Limited, "%d campaigns run already: pause or end one first", n)
		}
		c.Started, c.Resumed, c.Note = now, now, ""
		return nil
	})
}

// Pause stops a campaign: nobody is told any more, and nothing is demanded, until it is resumed.
func (s *Service) Pause(ctx context.Context, actor access.Actor, nameOrID string) (Campaign, error) {
	return s.change(ctx, actor, nameOrID, movePause, func(_ context.Context, _ *db.Tx, c *Campaign, now int64) error {
		c.stop(now)
		c.Note = "paused by " + actor.String()
		return nil
	})
}

// stop ends the stretch that c runs for.
func (c *Campaign) stop(now int64) {
	if c.Resumed > 0 {
		c.Elapsed += c.active(c.Resumed, max(now, c.Resumed))
		c.Resumed = 0
	}
}

// Resume lets a paused campaign go on where it stood. Who resumes one that paused for its failures has looked at them: only further ones stop
// it again.
func (s *Service) Resume(ctx context.Context, actor access.Actor, nameOrID string) (Campaign, error) {
	return s.change(ctx, actor, nameOrID, moveResume, func(ctx context.Context, tx *db.Tx, c *Campaign, now int64) error {
		p, err := progressTx(ctx, tx, c.ID)
		if err != nil {
			return err
		}
		c.Resumed, c.Excused, c.Note = now, p.Failed, ""
		return nil
	})
}

// Abort ends a campaign for good. Certificates that were issued stay.
func (s *Service) Abort(ctx context.Context, actor access.Actor, nameOrID string) (Campaign, error) {
	return s.change(ctx, actor, nameOrID, moveAbort, func(_ context.Context, _ *db.Tx, c *Campaign, now int64) error {
		c.stop(now)
		c.Ended, c.Note = now, "aborted by "+actor.String()
		return nil
	})
}

// change does a move of a person.
func (s *Service) change(ctx context.Context, actor access.Actor, nameOrID string, m move, fn func(ctx context.Context, tx *db.Tx, c *Campaign, now int64) error) (c Campaign, err error) {
	if err := s.Access.Require(ctx, actor, access.CampaignManage, "campaign"); err != nil {
		return Campaign{}, err
	}
	err = s.DB.Do(ctx, func(ctx context.Context, tx *db.Tx) (err error) {
		if c, err = findTx(ctx, tx, nameOrID); err != nil {
			return err
		}
		return s.moveTx(ctx, tx, &c, actor, m, fn)
	})
	if err != nil {
		return Campaign{}, err
	}
	s.nudge()
	return c, s.refresh(ctx)
}

// moveTx writes a move with its entry.
func (s *Service) moveTx(ctx context.Context, tx *db.Tx, c *Campaign, actor access.Actor, m move, fn func(ctx context.Context, tx *db.Tx, c *Campaign, now int64) error) error {
	to, err := c.State.after(m)
	if err != nil {
		return err
	}
	now := s.Now().Unix()
	if err := fn(ctx, tx, c, now); err != nil { // before the state is another one: the present one counts for the time
		return err
	}
	c.State = to
	if err := c.write(ctx, tx); err != nil {
		return err
	}
	return s.Audit.Append(ctx, tx, c.entry(m.action(), actor, now))
}

func (s *Service) nudge() {
	select {
	case s.work <- struct{}{}:
	default:
	}
}

// Get returns a campaign by its name or id, with its progress. It needs device.read.
func (s *Service) Get(ctx context.Context, actor access.Actor, nameOrID string) (c Campaign, p Progress, err error) {
	if err := s.Access.Require(ctx, actor, access.DeviceRead, "campaign"); err != nil {
		return c, p, err
	}
	err = s.DB.View(ctx, func(ctx context.Context, tx *db.Tx) (err error) {
		if c, err = findTx(ctx, tx, nameOrID); err == nil {
			p, err = progressTx(ctx, tx, c.ID)
		}
		return err
	})
	return c, p, err
}

// List returns campaigns with their progress, the newest first, at most 1,000. It needs device.read.
func (s *Service) List(ctx context.Context, actor access.Actor) (list []Campaign, all []Progress, err error) {
	if err := s.Access.Require(ctx, actor, access.DeviceRead, "campaign"); err != nil {
		return nil, nil, err
	}
	err = s.DB.View(ctx, func(ctx context.Context, tx *db.Tx) (err error) {
		if list, err = readAll(ctx, tx, selects+` ORDER BY created DESC, id LIMIT 1000`); err != nil {
			return err
		}
		all = make([]Progress, len(list))
		for i := range list {
			if all[i], err = progressTx(ctx, tx, list[i].ID); err != nil {
				return err
			}
		}
		return nil
	})
	return list, all, err
}
