package client

import (
	"context"
	"net/http"
	"net/url"
	"strconv"

	"mooring/internal/server/api/v1"
)

// V2XAuthorities returns the authorities of the root's store.
func (c *Client) V2XAuthorities(ctx context.Context) ([]v1.V2XAuthority, error) {
	list, err := get[v1.V2XAuthorityList](ctx, c, "/v1/v2x/authorities", nil)
	return list.Authorities, err
}

// V2XAuthority returns one with its certificate and what it publishes.
func (c *Client) V2XAuthority(ctx context.Context, id string) (v1.V2XAuthority, error) {
	return get[v1.V2XAuthority](ctx, c, "/v1/v2x/authorities/"+segment(id), nil)
}

// V2XList returns a list of a root or trust list manager; a negative sequence stands for the newest.
func (c *Client) V2XList(ctx context.Context, id, list string, sequence int) (v1.V2XList, error) {
	q := url.Values{}
	if sequence >= 0 {
		q.Set("sequence", strconv.Itoa(sequence))
	}
	return get[v1.V2XList](ctx, c, "/v1/v2x/lists/"+segment(id)+"/"+segment(list), q)
}

// IssueV2X has the root issue to an authority.
func (c *Client) IssueV2X(ctx context.Context, i v1.V2XIssue) (v1.V2XAuthority, error) {
	return call[v1.V2XAuthority](ctx, c, http.MethodPost, "/v1/v2x/authorities", i)
}

// RevokeV2X revokes an authority, or a root, for good.
func (c *Client) RevokeV2X(ctx context.Context, id string) (v1.V2XAuthority, error) {
	return call[v1.V2XAuthority](ctx, c, http.MethodPost, "/v1/v2x/authorities/"+segment(id)+"/revoke", nil)
}

// MoveV2X says where an authority is reached.
func (c *Client) MoveV2X(ctx context.Context, id string, to v1.V2XMove) (v1.V2XAuthority, error) {
	return call[v1.V2XAuthority](ctx, c, http.MethodPost, "/v1/v2x/authorities/"+segment(id)+"/move", to)
}

// RekeyV2XRoot makes the root that follows.
func (c *Client) RekeyV2XRoot(ctx context.Context, name string) (v1.V2XAuthority, error) {
	return call[v1.V2XAuthority](ctx, c, http.MethodPost, "/v1/v2x/root/rekey", v1.V2XName{Name: name})
}

// CreateV2XManager makes the trust list manager.
func (c *Client) CreateV2XManager(ctx context.Context, name string) (v1.V2XAuthority, error) {
	return call[v1.V2XAuthority](ctx, c, http.MethodPost, "/v1/v2x/manager", v1.V2XName{Name: name})
}

// RekeyV2XManager makes the trust list manager that follows.
func (c *Client) RekeyV2XManager(ctx context.Context, name string) (v1.V2XAuthority, error) {
	return call[v1.V2XAuthority](ctx, c, http.MethodPost, "/v1/v2x/manager/rekey", v1.V2XName{Name: name})
}

// V2XRoots returns the roots on the list of the trust list manager.
func (c *Client) V2XRoots(ctx context.Context) ([]v1.V2XListedRoot, error) {
	list, err := get[v1.V2XListedRootList](ctx, c, "/v1/v2x/manager/roots", nil)
	return list.Roots, err
}

// AdmitV2XRoot puts a root on that list.
func (c *Client) AdmitV2XRoot(ctx context.Context, a v1.V2XAdmit) (v1.V2XListedRoot, error) {
	return call[v1.V2XListedRoot](ctx, c, http.MethodPost, "/v1/v2x/manager/roots", a)
}

// ExpelV2XRoot takes a root off it.
func (c *Client) ExpelV2XRoot(ctx context.Context, id string) ([]v1.V2XListedRoot, error) {
	list, err := call[v1.V2XListedRootList](ctx, c, http.MethodPost, "/v1/v2x/manager/roots/"+segment(id)+"/remove", nil)
	return list.Roots, err
}

// AskV2XEA has the enrolment authority ask for its certificate.
func (c *Client) AskV2XEA(ctx context.Context, a v1.V2XAsk) (v1.V2XRequest, error) {
	return call[v1.V2XRequest](ctx, c, http.MethodPost, "/v1/v2x/ea/request", a)
}

// InstallV2XEA gives the enrolment authority its certificate.
func (c *Client) InstallV2XEA(ctx context.Context, i v1.V2XInstall) (v1.V2XAuthority, error) {
	return call[v1.V2XAuthority](ctx, c, http.MethodPost, "/v1/v2x/ea/install", i)
}

// V2XStation returns what the enrolment authority knows of a station.
func (c *Client) V2XStation(ctx context.Context, device string) (v1.V2XStation, error) {
	return get[v1.V2XStation](ctx, c, "/v1/v2x/ea/stations/"+segment(device), nil)
}

// RevokeV2XCredential revokes one enrolment credential for good.
func (c *Client) RevokeV2XCredential(ctx context.Context, id string) (v1.V2XCredential, error) {
	return call[v1.V2XCredential](ctx, c, http.MethodPost, "/v1/v2x/ea/credentials/"+segment(id)+"/revoke", nil)
}

// AskV2XAA has the authorization authority of the server's process ask for its certificate.
func (c *Client) AskV2XAA(ctx context.Context, a v1.V2XAsk) (v1.V2XRequest, error) {
	return call[v1.V2XRequest](ctx, c, http.MethodPost, "/v1/v2x/aa/request", a)
}

// InstallV2XAA gives it its certificate.
func (c *Client) InstallV2XAA(ctx context.Context, i v1.V2XInstall) (v1.V2XAuthority, error) {
	return call[v1.V2XAuthority](ctx, c, http.MethodPost, "/v1/v2x/aa/install", i)
}

// V2XTicketAuthorities returns what that authority's own store has of authorities.
func (c *Client) V2XTicketAuthorities(ctx context.Context) ([]v1.V2XAuthority, error) {
	list, err := get[v1.V2XAuthorityList](ctx, c, "/v1/v2x/aa/authorities", nil)
	return list.Authorities, err
}

// VerifyV2XAA recomputes that authority's own record.
func (c *Client) VerifyV2XAA(ctx context.Context) (v1.VerifyReport, error) {
	return call[v1.VerifyReport](ctx, c, http.MethodPost, "/v1/v2x/aa/verify", nil)
}
