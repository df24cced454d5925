package enrol

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"time"

	"mooring/internal/base/db"
	"mooring/internal/base/errs"
	"mooring/internal/core/access"
	"mooring/internal/core/approve"
	"mooring/internal/core/ca"
)

// A rescue is a renewal by a certificate that has expired, where the profile permits it. Only the end is forgiven, and only here: the
// certificate must have begun, be signed by our CA, be on record and the newest in its slot, not be revoked or on hold, be meant for clients,
// and belong to an active device, exactly as in a renewal in time; subject and names must be repeated. It happens once a device and period,
// which the claim on the device's row makes sure of, and what it gives is short.

// expiredText refuses an expired certificate.
func expiredText(notAfter int64) error {
	return unauthenticated("the client certificate expired at %s; enrol again with a new token", clockTime(notAfter))
}

func clockTime(at int64) string { return time.Unix(at, 0).UTC().Format("2006-01-02 15:04:05Z") }

// checkRescue decides whether the end of the certificate is forgiven.
func (s *Service) checkRescue(_ context.Context, sub *submission) error {
	id, r := sub.identity, sub.profile.Rescue
	if id.expired == 0 {
		return nil
	}
	if r == nil || id.Evidence != ca.EvidenceOperational || id.Own == nil || id.Own.Slot != sub.profile.Slot || id.role != access.RoleNone {
		return expiredText(id.expired)
	}
	now := s.Now().Unix()
	switch {
	case now-id.expired > r.MaxExpired:
		return unauthenticated("the client certificate expired at %s, longer ago than the profile %s forgives (%s); enrol again with a new token",
			clockTime(id.expired), sub.profile.Name, ca.TimeText(r.MaxExpired))
	case s.rescuedBefore(sub):
		return nil
	case !bytes.Equal(id.Slot.Serial, id.Own.Serial[:]):
		return errs.New(errs.Denied, "the client certificate was replaced by a newer one; use that")
	case id.Device.Rescued > now-r.MaxExpired:
		return errs.New(errs.Denied, "this device was rescued at %s, and the profile %s permits that once in %s; enrol again with a new token",
			clockTime(id.Device.Rescued), sub.profile.Name, ca.TimeText(r.MaxExpired))
	case r.Token && id.token == nil:
		return unauthenticated("the client certificate expired at %s, and for a rescue the profile %s wants a one-time token besides; present name and token too",
			clockTime(id.expired), sub.profile.Name)
	}
	return nil
}

// rescuedBefore reports whether this very request was rescued already: its answer was lost, and it may have it, or its like, again.
func (s *Service) rescuedBefore(sub *submission) bool {
	_, ok := s.answered(sub)
	return ok && sub.identity.expired != 0
}

// rescueClaim returns what the claim on the device demands: 0 when the submission is no rescue.
func (s *Service) rescueClaim(sub *submission) int64 {
	if sub.identity.expired == 0 || s.rescuedBefore(sub) {
		return 0
	}
	return max(s.Now().Unix()-sub.profile.Rescue.MaxExpired, 1)
}

// rescueApproval reports whether a person must look at a rescue.
func (sub *submission) rescueApproval() bool {
	return sub.identity.expired != 0 && sub.profile.Rescue.Approval != ca.RescueFreely
}

// fourEyes reports whether p takes two people.
func (s *Service) fourEyes(p *Pending) bool {
	profile, err := s.CA.Profile(p.Profile)
	return err == nil && p.Rescue > 0 && profile.Rescue != nil && profile.Rescue.Approval == ca.RescueFourEyes
}

// act describes the rescue of p to the second person.
func (p *Pending) act() approve.Act {
	return approve.Act{Kind: "rescue", Object: "device " + p.Device.String(), Digest: sha256.Sum256([]byte(p.rowMark())), Needs: access.EnrolApprove,
		Summary: fmt.Sprintf("rescue of a certificate of profile %s that expired at %s", p.Profile, clockTime(p.Rescue))}
}

// second agrees as the second person to what another one has asked for, if that is how things stand.
func (s *Service) second(ctx context.Context, actor access.Actor, p *Pending) error {
	if s.Approve == nil {
		return errs.New(errs.Unavailable, "this process keeps no approvals, which the rescue needs: decide on a server")
	}
	var a approve.Approval
	var found bool
	err := s.DB.View(ctx, func(ctx context.Context, tx *db.Tx) (err error) {
		a, found, err = s.Approve.Look(ctx, tx, p.act())
		return err
	})
	if err != nil || !found || a.State != approve.Waiting || a.Requester == actor.String() {
		return err
	}
	_, err = s.Approve.Grant(ctx, actor, a.ID)
	return err
}

// agreedTx spends the second person's agreement, or asks for it and returns false.
func (s *Service) agreedTx(ctx context.Context, tx *db.Tx, actor access.Actor, p *Pending) (bool, error) {
	a, err := s.Approve.Request(ctx, tx, actor, p.act(), 0) // what was asked for before counts
	switch {
	case err != nil:
		return false, err
	case a.State == approve.Waiting:
		p.Second = a.ID.String()
		return false, nil
	}
	_, err = s.Approve.Spend(ctx, tx, p.act())
	return err == nil, err
}
