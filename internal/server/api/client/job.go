package client

import (
	"context"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"mooring/internal/server/api/v1"
)

// Jobs selects jobs. Fields that are set must all fit.
type Jobs struct {
	State, Kind string
	Cursor      string
	Limit       int // jobs a page; 0 = 100, at most 1,000
}

// Jobs returns one page of jobs, newest first. While Next is set there are more.
func (c *Client) Jobs(ctx context.Context, f Jobs) (v1.JobPage, error) {
	q := query{}
	q.text("state", f.State)
	q.text("kind", f.Kind)
	q.text("cursor", f.Cursor)
	q.number("limit", int64(f.Limit))
	return get[v1.JobPage](ctx, c, "/v1/jobs", url.Values(q))
}

// Job returns the job with this id.
func (c *Client) Job(ctx context.Context, id string) (v1.Job, error) {
	return get[v1.Job](ctx, c, "/v1/jobs/"+segment(id), nil)
}

// JobResults returns what became of single items from the number from on.
func (c *Client) JobResults(ctx context.Context, id string, from int64) (v1.JobResults, error) {
	return get[v1.JobResults](ctx, c, "/v1/jobs/"+segment(id)+"/results", url.Values{"from": {strconv.FormatInt(from, 10)}, "limit": {"1000"}})
}

// MoveJob does verb to a job: "start", "pause", "resume" or "cancel".
func (c *Client) MoveJob(ctx context.Context, id, verb string) (v1.Job, error) {
	return call[v1.Job](ctx, c, http.MethodPost, "/v1/jobs/"+segment(id)+"/"+segment(verb), nil)
}

// AwaitJob asks for a job until until says that it has seen enough, or ctx ends. It asks each second, and more often at first.
func (c *Client) AwaitJob(ctx context.Context, id string, until func(v1.Job) bool) (v1.Job, error) {
	for wait := 50 * time.Millisecond; ; wait = min(2*wait, time.Second) {
		j, err := c.Job(ctx, id)
		if err != nil || until(j) {
			return j, err
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return j, ctx.Err()
		}
	}
}

// RevokeMany makes a job that revokes every certificate that fits.
func (c *Client) RevokeMany(ctx context.Context, r v1.NewRevocation) (v1.Job, error) {
	return call[v1.Job](ctx, c, http.MethodPost, "/v1/certificates/revoke", r)
}

// RevokeFile makes a job that revokes the certificates whose serial numbers stand in file, one a line. Of r only reason, undo and start count.
func (c *Client) RevokeFile(ctx context.Context, file io.Reader, name string, r v1.NewRevocation) (v1.Job, error) {
	q := query{}
	q.text("name", name)
	q.text("reason", r.Reason)
	q.text("undo", r.Undo)
	if r.Start {
		q.text("start", "true")
	}
	answer, err := c.send(ctx, http.MethodPost, "/v1/certificates/revoke-file", url.Values(q), "text/plain", io.NopCloser(file))
	if err != nil {
		return v1.Job{}, err
	}
	return decode[v1.Job](c, answer)
}

// MoveMany makes a job that changes the state of every device that fits.
func (c *Client) MoveMany(ctx context.Context, m v1.NewMove) (v1.Job, error) {
	return call[v1.Job](ctx, c, http.MethodPost, "/v1/devices/move", m)
}

// Approvals returns what waits for a second person, newest first, or with all also what was decided; at most limit (0: 100).
func (c *Client) Approvals(ctx context.Context, all bool, limit int) ([]v1.Approval, error) {
	q := query{}
	q.number("limit", int64(limit))
	if all {
		q.text("all", "true")
	}
	list, err := get[v1.ApprovalList](ctx, c, "/v1/approvals", url.Values(q))
	return list.Approvals, err
}

// Approval returns the approval with this id.
func (c *Client) Approval(ctx context.Context, id string) (v1.Approval, error) {
	return get[v1.Approval](ctx, c, "/v1/approvals/"+segment(id), nil)
}

// Decide does verb to an approval: "grant" or "refuse".
func (c *Client) Decide(ctx context.Context, id, verb string) (v1.Approval, error) {
	return call[v1.Approval](ctx, c, http.MethodPost, "/v1/approvals/"+segment(id)+"/"+segment(verb), nil)
}

// IssueBundle makes a job that issues a certificate for each request of a bundle; format is "pem" or "jsonl".
func (c *Client) IssueBundle(ctx context.Context, file io.Reader, format, name, profile string, start bool) (v1.Job, error) {
	q := query{}
	q.text("name", name)
	q.text("profile", profile)
	if start {
		q.text("start", "true")
	}
	contentType := "application/x-pem-file"
	if format == "jsonl" {
		contentType = "application/jsonl"
	}
	answer, err := c.send(ctx, http.MethodPost, "/v1/certificates/issue-bundle", url.Values(q), contentType, io.NopCloser(file))
	if err != nil {
		return v1.Job{}, err
	}
	return decode[v1.Job](c, answer)
}

// Export says what to export. Fields that are set must all fit.
type Export struct {
	What, Format      string // "devices" or "certificates"; "csv" or "jsonl"
	Group, State, Tag string // of devices
	Profile           string
	Issuer            string // of certificates
}

// Export writes an export to w and returns its signed manifest. progress may be nil; it is told the rows read. What was written is worth nothing
// when there is an error.
func (c *Client) Export(ctx context.Context, e Export, w io.Writer, progress func(rows int64)) (manifest string, err error) {
	q := query{}
	for name, value := range map[string]string{"format": e.Format, "group": e.Group, "state": e.State, "tag": e.Tag, "profile": e.Profile, "issuer": e.Issuer} {
		q.text(name, value)
	}
	r, err := c.send(ctx, http.MethodGet, "/v1/export/"+segment(e.What), url.Values(q), "", nil)
	if err != nil {
		return "", err
	}
	defer r.Body.Close()
	err = lines(ctx, c, r.Body, func(line v1.ExportLine) (last bool, err error) {
		switch {
		case line.Error != nil:
			return true, &Error{Problem: *line.Error}
		case line.Manifest != "":
			manifest = line.Manifest
			return true, nil
		case line.Data != "":
			_, err := io.WriteString(w, line.Data)
			return false, err
		case progress != nil:
			progress(line.Rows)
		}
		return false, nil
	})
	return manifest, err
}
