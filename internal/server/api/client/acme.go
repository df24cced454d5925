package client

import (
	"context"
	"net/http"
	"net/url"

	"mooring/internal/server/api/v1"
)

// ACMEAccounts returns one page of accounts: those of a device, by name or id, or all for "". While Next is set there are more.
func (c *Client) ACMEAccounts(ctx context.Context, device, cursor string, limit int) (v1.ACMEAccountPage, error) {
	q := query{}
	q.text("device", device)
	q.text("cursor", cursor)
	q.number("limit", int64(limit))
	return get[v1.ACMEAccountPage](ctx, c, "/v1/acme/accounts", url.Values(q))
}

// ACMEAccount returns an account.
func (c *Client) ACMEAccount(ctx context.Context, id string) (v1.ACMEAccount, error) {
	return get[v1.ACMEAccount](ctx, c, "/v1/acme/accounts/"+segment(id), nil)
}

// EndACMEAccount takes an account away.
func (c *Client) EndACMEAccount(ctx context.Context, id string) (v1.ACMEAccount, error) {
	return call[v1.ACMEAccount](ctx, c, http.MethodPost, "/v1/acme/accounts/"+segment(id)+"/deactivate", nil)
}

// ACMEOrders returns the orders of an account that are still kept.
func (c *Client) ACMEOrders(ctx context.Context, account string) (v1.ACMEOrderList, error) {
	return get[v1.ACMEOrderList](ctx, c, "/v1/acme/accounts/"+segment(account)+"/orders", nil)
}
