package client

import (
	"context"
	"fmt"
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
	// fails before the file is accepted.
	Tokens    io.Writer
	TokenLife time.Duration // 0: a week
	// Detach has Import return as soon as the file is accepted; the job in the report goes on.
	Detach bool
	// Accepted, when set, is told that the file is accepted, once.
	Accepted func(v1.ImportReport)
}

// Import adds the devices of a file. progress, when set, is called now and then, from this goroutine. When lines are wrong the error is an *Error
// whose Problems name them, and nothing is stored. Once the file is accepted all of it is imported, also when the connection ends: then
// the error is Unreachable and the report names the job. When tokens cannot be written the error is a *TokensLost. Unreachable with a report that names no job
// leaves open whether the file was accepted: list the jobs of the kind "import". Devices that others registered meanwhile are no error; the
// report counts them as failed.
func (c *Client) Import(ctx context.Context, f Import, progress func(done, total int64)) (v1.ImportReport, error) {
	q := query{}
	q.text("name", f.Name)
	q.text("profile", f.Profile)
	q.text("group", f.Group)
	q.number("size", f.Size)
	if f.Tokens != nil {
		q.text("tokens", "true")
	}
	if f.Detach {
		q.text("detach", "true")
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
	var report v1.ImportReport
	var lost error // tokens that could not be written; the end must be known all the same
	err = lines(ctx, c, r.Body, func(line v1.ImportLine) (last bool, err error) {
		switch {
		case line.Error != nil:
			return true, &Error{Problem: line.Error.Problem, Problems: line.Error.Problems, Wrong: line.Error.Wrong}
		case line.Accepted != nil:
			report = *line.Accepted
			if f.Accepted != nil {
				f.Accepted(report)
			}
		case line.Report != nil:
			report = *line.Report
			if f.Accepted != nil && f.Detach {
				f.Accepted(report)
			}
			return true, lost
		case line.Tokens != "" && f.Tokens != nil && lost == nil:
			if _, err := io.WriteString(f.Tokens, line.Tokens); err != nil {
				lost = &TokensLost{Err: err}
			}
		case line.Progress != nil && progress != nil:
			progress(line.Progress.Done, line.Progress.Total)
		}
		return false, nil
	})
	return report, err
}

// TokensLost says that an import was accepted but its tokens could not be written.
type TokensLost struct{ Err error }

// Error returns what is wrong and what to do next.
func (e *TokensLost) Error() string {
	return fmt.Sprintf("the devices are registered or will be, but their tokens could not be written: %v\nGive them new tokens.", e.Err)
}

// Unwrap returns the cause.
func (e *TokensLost) Unwrap() error { return e.Err }
