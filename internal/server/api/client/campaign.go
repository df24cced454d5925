package client

import (
	"context"
	"net/http"
	"net/url"

	"mooring/internal/server/api/v1"
)

// CreateCampaign makes a campaign, which does nothing until it is started.
func (c *Client) CreateCampaign(ctx context.Context, n v1.CampaignPlan) (v1.Campaign, error) {
	return call[v1.Campaign](ctx, c, http.MethodPost, "/v1/campaigns", n)
}

// Campaigns returns all campaigns, the newest first.
func (c *Client) Campaigns(ctx context.Context) ([]v1.Campaign, error) {
	list, err := get[v1.CampaignList](ctx, c, "/v1/campaigns", nil)
	return list.Campaigns, err
}

// Campaign returns a campaign by its name or id.
func (c *Client) Campaign(ctx context.Context, nameOrID string) (v1.Campaign, error) {
	return get[v1.Campaign](ctx, c, "/v1/campaigns/"+segment(nameOrID), nil)
}

// MoveCampaign does "start", "pause", "resume" or "abort" to a campaign.
func (c *Client) MoveCampaign(ctx context.Context, nameOrID, move string) (v1.Campaign, error) {
	return call[v1.Campaign](ctx, c, http.MethodPost, "/v1/campaigns/"+segment(nameOrID)+"/"+move, nil)
}

// CampaignDevices returns a page of the devices of a campaign; standing "" is any.
func (c *Client) CampaignDevices(ctx context.Context, nameOrID, standing, cursor string, limit int) (v1.CampaignDevicePage, error) {
	q := query{}
	q.text("standing", standing)
	q.text("cursor", cursor)
	q.number("limit", int64(limit))
	return get[v1.CampaignDevicePage](ctx, c, "/v1/campaigns/"+segment(nameOrID)+"/devices", url.Values(q))
}
