package client

import (
	"context"
	"iter"
	"net/http"
	"net/url"

	"mooring/internal/server/api/v1"
)

// Keys returns one page of keys; limit 0 is 100, at most 1,000. While Next is set there are more; it is the after of the next page.
func (c *Client) Keys(ctx context.Context, after string, limit int) (v1.KeyPage, error) {
	q := query{}
	q.text("after", after)
	q.number("limit", int64(limit))
	return get[v1.KeyPage](ctx, c, "/v1/keys", url.Values(q))
}

// AllKeys returns every key, page by page. An error is the last thing that comes.
func (c *Client) AllKeys(ctx context.Context) iter.Seq2[v1.Key, error] {
	return pages("", func(after string) ([]v1.Key, string, error) {
		p, err := c.Keys(ctx, after, 0)
		return p.Keys, p.Next, err
	})
}

// LimitCA bounds the use of a CA's key; the zero limit lifts the bound.
func (c *Client) LimitCA(ctx context.Context, nameOrID string, l v1.KeyLimit) (v1.SetKeyLimit, error) {
	return call[v1.SetKeyLimit](ctx, c, http.MethodPost, "/v1/cas/"+segment(nameOrID)+"/limit", l)
}
