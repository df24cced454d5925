// Package web holds what every HTTP surface of the platform shares: answers for errors, bounded bodies, the client's address, servers with
// all timeouts set, and one wrapper that logs, counts and survives panics.
//
// Errors become answers through one table from errs kinds to status codes. Surfaces for programs and people use Problem, which writes
// application/problem+json (RFC 9457); EST and the other device surfaces use Text, one sentence of text/plain (RFC 8951, section 5). Both
// show only what errs.Public permits and hand the private cause to the request's log line.
//
// The package deliberately authenticates nobody, knows no routes, and never reads forwarding headers such as X-Forwarded-For: whoever
// speaks to us is whoever holds the connection.
package web

import (
	"encoding/json"
	"errors"
	"math"
	"net/http"
	"strconv"
	"strings"
	"time"

	"mooring/internal/base/errs"
)

// Status returns the HTTP status for err: the one table from kinds to codes.
func Status(err error) int {
	var large *tooLarge
	if errors.As(err, &large) {
		return http.StatusRequestEntityTooLarge
	}
	switch errs.KindOf(err) {
	case errs.Invalid:
		return http.StatusBadRequest
	case errs.Denied:
		return http.StatusForbidden
	case errs.NotFound:
		return http.StatusNotFound
	case errs.Conflict:
		return http.StatusConflict
	case errs.Limited:
		return http.StatusTooManyRequests
	case errs.Unavailable:
		return http.StatusServiceUnavailable
	}
	return http.StatusInternalServerError
}

// A Refuser writes an answer for err. Problem and Text are the two.
type Refuser func(w http.ResponseWriter, r *http.Request, err error)

// Problem answers with err as problem+json (RFC 9457): type (left out, thus "about:blank"), title, status and detail.
func Problem(w http.ResponseWriter, r *http.Request, err error) {
	status := prepare(w, r, err)
	body, jsonErr := json.Marshal(struct {
		Title  string `json:"title"`
		Status int    `json:"status"`
		Detail string `json:"detail"`
	}{http.StatusText(status), status, errs.Public(err)})
	if jsonErr != nil {
		panic("web: " + jsonErr.Error()) // strings and numbers always marshal
	}
	Write(w, status, "application/problem+json", append(body, '\n'))
}

// Text answers with err's public text as one sentence of text/plain.
func Text(w http.ResponseWriter, r *http.Request, err error) {
	status := prepare(w, r, err)
	Write(w, status, "text/plain; charset=utf-8", []byte(errs.Public(err)+"\n"))
}

// prepare sets the headers that every refusal has, remembers the cause for the log and returns the status.
func prepare(w http.ResponseWriter, r *http.Request, err error) int {
	Note(r, err)
	h := w.Header()
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	if d, ok := errs.RetryAfter(err); ok {
		h.Set("Retry-After", RetryAfter(d))
	}
	return Status(err)
}

// RetryAfter writes d as the Retry-After header wants it: whole seconds, rounded up, at least 1 (RFC 9110, section 10.2.3).
func RetryAfter(d time.Duration) string {
	return strconv.FormatInt(max(1, int64(math.Ceil(d.Seconds()))), 10)
}

// Write answers with status and body and an exact Content-Length, so that the answer is never chunked: constrained clients cannot read
// chunks. An empty body gets "Content-Length: 0" and no type.
func Write(w http.ResponseWriter, status int, contentType string, body []byte) {
	h := w.Header()
	h.Set("Content-Length", strconv.Itoa(len(body)))
	if len(body) > 0 {
		h.Set("Content-Type", contentType)
	}
	w.WriteHeader(status)
	_, _ = w.Write(body) // the client has gone; nobody is left to tell
}

// MethodNotAllowed answers 405 with the methods that are allowed (RFC 9110, section 15.5.6) and one sentence of text.
func MethodNotAllowed(w http.ResponseWriter, allow ...string) {
	list := strings.Join(allow, ", ")
	w.Header().Set("Allow", list)
	w.Header().Set("X-Content-Type-Options", "nosniff")
	Write(w, http.StatusMethodNotAllowed, "text/plain; charset=utf-8", []byte("this address answers only "+list+"\n"))
}
