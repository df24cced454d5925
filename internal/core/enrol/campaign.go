package enrol

import (
	"context"
	"errors"
	"time"

	"mooring/internal/base/errs"
	"mooring/internal/core/ca"
	"mooring/wire/der"
)

// checkCampaign holds a device to what a campaign demands of its next certificate. Who comes with a token has nothing that could be replaced, or
// was given the token by somebody who wants it back.
func (s *Service) checkCampaign(ctx context.Context, sub *submission) error {
	if s.Campaigns == nil || sub.identity.Own == nil || sub.identity.Evidence != ca.EvidenceOperational {
		return nil
	}
	want, err := s.Campaigns.Demand(ctx, &sub.identity.Device)
	if err != nil || want.Campaign == "" {
		return err
	}
	since := time.Unix(want.Since, 0).UTC().Format("2006-01-02")
	kind, hash := der.KeyKind(sub.keyKind()), sub.csr.HashSPKI()
	switch {
	case want.Key != "" && kind != want.Key:
		return errs.New(errs.Denied, "the campaign %s demands a key of kind %s since %s, and the request is for one of kind %s: make such a key and renew with it", want.Campaign, want.Key, since, kind)
	case want.NewKey && sub.req.Op != Generate && hash == sub.identity.Own.SPKIHash:
		return errs.New(errs.Denied, "the campaign %s demands a new key since %s, and the request is for the present one: make a new key and renew with it", want.Campaign, since)
	}
	return nil
}

// tellCampaigns tells of the refusal of somebody who proved who he is.
func (s *Service) tellCampaigns(ctx context.Context, sub *submission, refusal error) {
	kind := errs.KindOf(refusal)
	if s.Campaigns == nil || sub.identity == nil || errors.Is(refusal, ErrUnauthenticated) || kind != errs.Denied && kind != errs.Invalid && kind != errs.Conflict {
		return
	}
	s.Campaigns.Refused(ctx, &sub.identity.Device, Reason(refusal))
}
