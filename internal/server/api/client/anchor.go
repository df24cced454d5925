package client

import (
	"context"
	"net/url"

	"mooring/internal/server/api/v1"
)

// Anchors returns the roots that the fleet has to come to trust, with how many devices of a group, or of all for "", do.
func (c *Client) Anchors(ctx context.Context, group string) ([]v1.AnchorState, error) {
	q := query{}
	q.text("group", group)
	list, err := get[v1.AnchorList](ctx, c, "/v1/anchors", url.Values(q))
	return list.Anchors, err
}

// Missing selects devices of which there is no evidence that they trust a root.
type Missing struct {
	Anchor string // name or id of the root
	Group  string
	Grade  int // 1 delivered, 2 reported, 3 proven; 0 = 3
	Cursor string
	Limit  int // devices a page; 0 = 100, at most 1,000
}

// MissingAnchor returns one page of devices. While Next is set there are more.
func (c *Client) MissingAnchor(ctx context.Context, f Missing) (v1.MissingAnchorPage, error) {
	q := query{}
	q.text("group", f.Group)
	q.number("min_grade", int64(f.Grade))
	q.text("cursor", f.Cursor)
	q.number("limit", int64(f.Limit))
	return get[v1.MissingAnchorPage](ctx, c, "/v1/anchors/"+segment(f.Anchor)+"/missing", url.Values(q))
}
