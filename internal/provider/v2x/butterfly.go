package v2x

import (
	"bytes"
	"context"
	"net/http"

	"mooring/wire/cocoon"
	"mooring/wire/scr"
)

// Issue asks an authorization authority for tickets of cocoon keys.
func (c *Client) Issue(ctx context.Context, url string, request []byte) ([]byte, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(request))
	if err != nil {
		return nil, err
	}
	r.Header.Set("Content-Type", scr.RequestType)
	return c.do(r, scr.ResponseType, cocoon.MaxAnswer)
}
