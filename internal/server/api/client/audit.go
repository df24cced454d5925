package client

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"strconv"

	"mooring/internal/server/api/v1"
)

// Audit selects entries of the audit record. Texts that are set must match exactly.
type Audit struct {
	After                  int64 // the Next of the page before; 0 = from the beginning, or with Newest from the end
	Limit                  int   // 0 = 100, at most 1,000
	Newest                 bool  // newest first
	Device, Serial, Action string
}

// Audit returns one page of the record. While Next is set there are more.
func (c *Client) Audit(ctx context.Context, f Audit) (v1.EntryPage, error) {
	q := query{}
	q.number("after", f.After)
	q.number("limit", int64(f.Limit))
	q.text("device", f.Device)
	q.text("serial", f.Serial)
	q.text("action", f.Action)
	if f.Newest {
		q.text("newest", "true")
	}
	return get[v1.EntryPage](ctx, c, "/v1/audit", url.Values(q))
}

// Checkpoint returns the newest signed head of the record.
func (c *Client) Checkpoint(ctx context.Context) (v1.Checkpoint, error) {
	return get[v1.Checkpoint](ctx, c, "/v1/audit/checkpoint", nil)
}

// Prove returns the proof that the entry at index stands in the record.
func (c *Client) Prove(ctx context.Context, index int64) (v1.Proof, error) {
	return get[v1.Proof](ctx, c, "/v1/audit/proof/"+strconv.FormatInt(index, 10), nil)
}

// Verify has the server recompute the whole record and compare every table with it. known are checkpoints that were kept elsewhere. Damage is
// in the report; an error says that verifying was not possible. progress may be nil.
func (c *Client) Verify(ctx context.Context, known []string, progress func(done, total int64)) (v1.VerifyReport, error) {
	r, err := c.sendJSON(ctx, http.MethodPost, "/v1/audit/verify", v1.Verify{Known: known})
	if err != nil {
		return v1.VerifyReport{}, err
	}
	defer r.Body.Close()
	var report v1.VerifyReport
	err = lines(ctx, c, r.Body, func(line v1.VerifyLine) (last bool, err error) {
		switch {
		case line.Error != nil:
			return true, &Error{Problem: *line.Error}
		case line.Report != nil:
			report = *line.Report
			return true, nil
		case line.Progress != nil && progress != nil:
			progress(line.Progress.Done, line.Progress.Total)
		}
		return false, nil
	})
	return report, err
}

// WhoAmI returns who the server takes the caller for.
func (c *Client) WhoAmI(ctx context.Context) (v1.Who, error) {
	return get[v1.Who](ctx, c, "/v1/whoami", nil)
}

// Version returns what the server runs.
func (c *Client) Version(ctx context.Context) (v1.Version, error) {
	return get[v1.Version](ctx, c, "/v1/version", nil)
}

// Status returns how the server does.
func (c *Client) Status(ctx context.Context) (v1.Status, error) {
	return get[v1.Status](ctx, c, "/v1/status", nil)
}

// Ready returns whether the server can do its work. It needs no permission. A server that is not ready is no error: the checks tell.
func (c *Client) Ready(ctx context.Context) (v1.Readiness, error) {
	ready, err := get[v1.Readiness](ctx, c, "/readyz", nil)
	var refused *Error
	if errors.As(err, &refused) && refused.readiness != nil {
		return *refused.readiness, nil
	}
	return ready, err
}
