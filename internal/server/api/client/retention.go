package client

import (
	"context"
	"net/http"

	"mooring/internal/server/api/v1"
)

// Retention returns what is kept for how long, and what left last.
func (c *Client) Retention(ctx context.Context) (v1.Retention, error) {
	return get[v1.Retention](ctx, c, "/v1/retention", nil)
}

// RunRetention deletes what is over now.
func (c *Client) RunRetention(ctx context.Context) (v1.RetentionRun, error) {
	return call[v1.RetentionRun](ctx, c, http.MethodPost, "/v1/retention/run", nil)
}
