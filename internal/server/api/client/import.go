package client

import (
	"context"
	"io"
	"net/http"
	"net/url"
	"time"

	"mooring/internal/server/api/v1"
)

// Import is a file of devices. What stands in its rows is described at POST /v1/devices/import.
type Import struct {
	R       io.Reader
	Name    string // for messages, such as "devices.csv"
	Format  string // "csv" or "jsonl"
	Size    int64  // octets that R will give; 0 = not known, and then there is no total to compare progress with
	Profile string // of rows that name none
	Group   string // of rows that name none
	// Tokens, when set, receives CSV "name,token" with a token for each device. It comes before anything is stored and is void when Import
	// fails.
	Tokens    io.Writer
	TokenLife time.Duration // 0: a week
}

// Import adds the devices of a file, all or none. progress, when set, is called now and then, from this goroutine. When lines are wrong the
// error is an *Error whose Problems name them. Unreachable in the middle leaves open whether the import was stored: list the devices.
func (c *Client) Import(ctx context.Context, f Import, progress func(done, total int64)) (v1.ImportReport, error) {
	q := query{}
	q.text("name", f.Name)
	q.text("profile", f.Profile)
	q.text("group", f.Group)
	q.number("size", f.Size)
	if f.Tokens != nil {
		q.text("tokens", "true")
	}
	if f.TokenLife != 0 {
		q.text("token_life", f.TokenLife.String())
	}
	contentType := "text/csv"
	if f.Format == "jsonl" {
		contentType = "application/jsonl"
	}
	r, err := c.send(ctx, http.MethodPost, "/v1/devices/import", url.Values(q), contentType, io.NopCloser(f.R))
	if err != nil {
		return v1.ImportReport{}, err
	}
	defer r.Body.Close()
	var report *v1.ImportReport
	err = lines(ctx, c, r.Body, func(line v1.ImportLine) (last bool, err error) {
		switch {
		case line.Error != nil:
			return true, &Error{Problem: line.Error.Problem, Problems: line.Error.Problems, Wrong: line.Error.Wrong}
		case line.Report != nil:
			report = line.Report
			return true, nil
		case line.Tokens != "" && f.Tokens != nil:
			_, err := io.WriteString(f.Tokens, line.Tokens)
			return false, err
		case line.Progress != nil && progress != nil:
			progress(line.Progress.Done, line.Progress.Total)
		}
		return false, nil
	})
	if err != nil {
		return v1.ImportReport{}, err
	}
	return *report, nil
}
