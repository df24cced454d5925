package client

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"strconv"
	"strings"
	"syscall"
	"time"

	"mooring/internal/server/api/v1"
)

// Error is a refusal by the server.
type Error struct {
	v1.Problem
	// RetryAfter is when to try again, if the server said so.
	RetryAfter time.Duration
	// Problems are the first lines of an imported file that are wrong, and Wrong is how many there are in all.
	Problems []string
	Wrong    int64

	readiness *v1.Readiness // of a server that is not ready
}

// Error returns what is wrong and, where it helps, what to do next.
func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(e.Detail)
	if e.Detail == "" {
		fmt.Fprintf(&b, "the server answered %d %s", e.Status, http.StatusText(e.Status))
	}
	for _, f := range e.Problem.Errors {
		fmt.Fprintf(&b, "\n  %s: %s", f.Where, f.Text)
	}
	if next := e.Next(); next != "" {
		b.WriteString("\n")
		b.WriteString(next)
	}
	return b.String()
}

// Next returns what to do next, "" when the detail says all there is.
func (e *Error) Next() string {
	switch {
	case e.RetryAfter > 0:
		return fmt.Sprintf("Try again in %s.", e.RetryAfter)
	case e.Status == http.StatusUnauthorized:
		return "Use a valid operator certificate, or run the command on the server as the user that the server runs as."
	case e.Status == http.StatusForbidden && strings.Contains(e.Detail, "which the role"): // as access.Require says it; other refusals hold for administrators too
		return "Ask an administrator to do it; mooring whoami shows your role."
	case e.Status == http.StatusServiceUnavailable:
		return "Try again soon; mooring status shows what is amiss."
	case e.Status >= 500:
		return "The server's log names the cause."
	}
	return ""
}

// refusal reads a problem (RFC 9457), or makes one of an answer that is none.
func refusal(r *http.Response) error {
	e := &Error{}
	data, err := io.ReadAll(io.LimitReader(r.Body, 1<<20))
	if r.Header.Get("Content-Type") == "application/json" && json.Unmarshal(data, &e.readiness) != nil {
		e.readiness = nil
	}
	if err == nil && strings.HasPrefix(r.Header.Get("Content-Type"), "application/problem+json") {
		err = json.Unmarshal(data, &e.Problem)
	}
	if err != nil || e.Detail == "" {
		e.Problem.Detail = strings.TrimSpace(string(data[:min(len(data), 500)]))
	}
	e.Status = r.StatusCode
	if s, err := strconv.ParseInt(r.Header.Get("Retry-After"), 10, 32); err == nil {
		e.RetryAfter = time.Duration(s) * time.Second
	}
	return e
}

// Unreachable says that no answer came.
type Unreachable struct {
	Where string // the server, for people
	Err   error
}

// Error returns what is wrong and what to do next.
func (e *Unreachable) Error() string {
	switch {
	case errors.Is(e.Err, fs.ErrNotExist), errors.Is(e.Err, syscall.ECONNREFUSED):
		return fmt.Sprintf("nobody answers at %s: start the server with mooring serve, or name another one", e.Where)
	case errors.Is(e.Err, fs.ErrPermission):
		return fmt.Sprintf("you may not use %s: run the command as the user that the server runs as", e.Where)
	}
	return fmt.Sprintf("%s gave no answer: %v", e.Where, e.Err)
}

// Unwrap returns the cause.
func (e *Unreachable) Unwrap() error { return e.Err }
