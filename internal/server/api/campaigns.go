package api

import (
	"context"
	"encoding/hex"
	"fmt"
	"time"

	"mooring/internal/base/errs"
	"mooring/internal/core/access"
	"mooring/internal/core/approve"
	"mooring/internal/core/ca"
	"mooring/internal/core/campaign"
	"mooring/internal/core/device"
	"mooring/internal/server/api/v1"
	"mooring/wire/der"
)

type createCampaignInput struct{ Body v1.CampaignPlan }

func (s *server) createCampaign(ctx context.Context, actor access.Actor, in *createCampaignInput) (v1.Campaign, error) {
	if err := s.Access.Require(ctx, actor, access.CampaignManage, "campaign"); err != nil {
		return v1.Campaign{}, err
	}
	spec, err := s.plan(&in.Body)
	if err != nil {
		return v1.Campaign{}, err
	}
	c, err := s.Campaigns.Create(ctx, actor, spec)
	return s.shownCampaign(&c, campaign.Progress{}), err
}

// plan reads what is to be done.
func (s *server) plan(b *v1.CampaignPlan) (spec campaign.Spec, err error) {
	spec = campaign.Spec{Name: b.Name, Action: campaign.Action(b.Action), Algorithm: der.KeyKind(b.Algorithm), To: b.To, Deadline: seconds(b.Deadline), RevokeOld: b.RevokeOld, ByIssue: b.ByIssue}
	in := DeviceFilter{Group: b.Select.Group, State: b.Select.State, Profile: b.Select.Profile, Tag: b.Select.Tag, Issuer: b.Select.Issuer, Algorithm: b.Select.Algorithm,
		SeenBefore: b.Select.SeenBefore, SeenAfter: b.Select.SeenAfter}
	if spec.Filter, err = s.filter(&in); err != nil {
		return spec, err
	}
	named := func(field string, err error) error {
		if err == nil {
			return nil
		}
		return errs.Wrap(errs.KindOf(err), err, "%s: %s", field, errs.Public(err))
	}
	if spec.Rate, spec.Every, err = campaign.ParseRate(b.Rate); err != nil {
		return spec, named("rate", err)
	}
	if spec.From, spec.Until, err = campaign.ParseWindow(b.Window); err != nil {
		return spec, named("window", err)
	}
	if spec.MaxFailed, err = campaign.ParsePercent(b.MaxFailed); err != nil {
		return spec, named("max_failed", err)
	}
	for field, to := range map[string]*int64{"grace": &spec.Grace, "patience": &spec.Patience} {
		text := map[string]string{"grace": b.Grace, "patience": b.Patience}[field]
		d, err := parseLength(field, text)
		if err != nil {
			return spec, err
		}
		*to = int64(d / time.Second)
	}
	return spec, nil
}

type oneCampaign struct {
	Campaign string `path:"campaign" maxLength:"64" doc:"Name or id" example:"p384"`
}

func (s *server) listCampaigns(ctx context.Context, actor access.Actor, _ *none) (v1.CampaignList, error) {
	list, progress, err := s.Campaigns.List(ctx, actor)
	out := v1.CampaignList{Campaigns: make([]v1.Campaign, len(list))}
	for i := range list {
		out.Campaigns[i] = s.shownCampaign(&list[i], progress[i])
	}
	return out, err
}

func (s *server) getCampaign(ctx context.Context, actor access.Actor, in *oneCampaign) (v1.Campaign, error) {
	c, p, err := s.Campaigns.Get(ctx, actor, in.Campaign)
	return s.shownCampaign(&c, p), err
}

// moves makes a handler of a change of a campaign.
func (s *server) moved(ctx context.Context, actor access.Actor, in *oneCampaign, do func(context.Context, access.Actor, string) (campaign.Campaign, error)) (v1.Campaign, error) {
	if _, err := do(ctx, actor, in.Campaign); err != nil {
		return v1.Campaign{}, err
	}
	return s.getCampaign(ctx, actor, in)
}

func (s *server) startCampaign(ctx context.Context, actor access.Actor, in *oneCampaign) (v1.Campaign, error) {
	return s.moved(ctx, actor, in, s.Campaigns.Start)
}

func (s *server) pauseCampaign(ctx context.Context, actor access.Actor, in *oneCampaign) (v1.Campaign, error) {
	return s.moved(ctx, actor, in, s.Campaigns.Pause)
}

func (s *server) resumeCampaign(ctx context.Context, actor access.Actor, in *oneCampaign) (v1.Campaign, error) {
	return s.moved(ctx, actor, in, s.Campaigns.Resume)
}

func (s *server) abortCampaign(ctx context.Context, actor access.Actor, in *oneCampaign) (v1.Campaign, error) {
	return s.moved(ctx, actor, in, s.Campaigns.Abort)
}

type campaignDevicesInput struct {
	Campaign string `path:"campaign" maxLength:"64" doc:"Name or id" example:"p384"`
	Standing string `query:"standing" enum:"waiting,told,issued,closing,done,failed,skipped" doc:"Only those that stand there"`
	Cursor   string `query:"cursor" maxLength:"1024" doc:"The next of the page before"`
	Limit    int    `query:"limit" minimum:"1" maximum:"1000" default:"100" doc:"Devices a page"`
}

func (s *server) campaignDevices(ctx context.Context, actor access.Actor, in *campaignDevicesInput) (v1.CampaignDevicePage, error) {
	only := campaign.Standing(0)
	if in.Standing != "" {
		var err error
		if only, err = campaign.ParseStanding(in.Standing); err != nil {
			return v1.CampaignDevicePage{}, err
		}
	}
	page, next, err := s.Campaigns.Members(ctx, actor, in.Campaign, only, in.Cursor, in.Limit)
	return v1.CampaignDevicePage{Next: next, Devices: each(page, func(m campaign.Member) v1.CampaignDevice {
		return v1.CampaignDevice{Device: m.Device.String(), Name: m.Name, Standing: m.Standing.String(), Since: moment(m.Since), Turn: moment(m.Turn), Wave: m.Wave, Waves: m.Of, Reason: m.Reason}
	})}, err
}

func (s *server) shownCampaign(c *campaign.Campaign, p campaign.Progress) v1.Campaign {
	now := s.Now().Unix()
	out := v1.Campaign{ID: c.ID.String(), State: c.State.String(), Note: c.Note, Maker: c.Maker, Created: moment(c.Created), Started: moment(c.Started), Ended: moment(c.Ended), Filled: c.Filled,
		Released: c.ReleasedText(now), LastTurn: moment(c.LastTurn(now)),
		Progress: v1.CampaignProgress{Total: p.Total(), Waiting: p.Waiting, Told: p.Told, Issued: p.Issued, Closing: p.Closing, Done: p.Done, Failed: p.Failed, Skipped: p.Skipped}}
	if c.Approval != (approve.ID{}) {
		out.Approval = c.Approval.String()
	}
	out.CampaignPlan = v1.CampaignPlan{Name: c.Name, Select: s.shownSelector(&c.Filter), Action: string(c.Action), Algorithm: string(c.Algorithm), To: c.To, Rate: c.RateText(), Window: c.WindowText(),
		MaxFailed: c.MaxFailedText(), Deadline: moment(c.Deadline), Grace: fmt.Sprint(time.Duration(c.Grace) * time.Second), Patience: fmt.Sprint(time.Duration(c.Patience) * time.Second),
		RevokeOld: c.RevokeOld, ByIssue: c.ByIssue}
	return out
}

func (s *server) shownSelector(f *device.Filter) v1.DeviceSelector {
	out := v1.DeviceSelector{Group: f.Group, Profile: f.Profile, Tag: f.Tag, Issuer: hex.EncodeToString(f.Issuer), Algorithm: f.Key, SeenBefore: moment(f.SeenBefore), SeenAfter: moment(f.SeenAfter)}
	if f.State != 0 {
		out.State = f.State.String()
	}
	if len(f.Issuer) == len(ca.IssuerID{}) {
		if i, err := s.CA.IssuerByID(ca.IssuerID(f.Issuer)); err == nil {
			out.Issuer = i.Name()
		}
	}
	return out
}
