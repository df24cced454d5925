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
	// fails.
	Tokens    io.Writer
	TokenLife time.Duration // 0: a week
}

// Import adds the devices of a file, all or none. progress, when set, is called now and then, from this goroutine. When lines are wrong the
// error is an *Error whose Problems name them. When tokens cannot be written the
// devices are registered and the error is a *TokensLost. Unreachable in the middle leaves open whether the import was stored: list the devices.
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
	var report v1.ImportReport
	var lost error // tokens that could not be written; the end must be known all the same
	err = lines(ctx, c, r.Body, func(line v1.ImportLine) (last bool, err error) {
		switch {
		case line.Error != nil:
			return true, &Error{Problem: line.Error.Problem, Problems: line.Error.Problems, Wrong: line.Error.Wrong}
		case line.Report != nil:
			report = *line.Report
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

// TokensLost says that an import was stored but its tokens could not be written.
type TokensLost struct{ Err error }

// Error returns what is wrong and what to do next.
func (e *TokensLost) Error() string {
	return fmt.Sprintf("the devices are registered, but their tokens could not be written: %v\nGive them new tokens.", e.Err)
}

// Unwrap returns the cause.
func (e *TokensLost) Unwrap() error { return e.Err }
