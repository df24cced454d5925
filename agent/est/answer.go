package est

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"mooring/agent/coap"
	wire "mooring/wire/est"
)

// Bounds of the waiting that a server may ask for, and what is assumed when it names no time though it must.
const (
	minWait     = time.Second
	maxWait     = 7 * 24 * time.Hour
	defaultWait = time.Minute
)

// maxReason bounds the text of a refusal that is shown to people.
const maxReason = 300

// PendingError says that the server has taken the request and has not decided it: the same request is to be sent again
// after a time (RFC 7030, section 4.2.3).
type PendingError struct {
	RetryAfter time.Duration // 1 second to 7 days
}

// Error says what to do.
func (e *PendingError) Error() string {
	return fmt.Sprintf("the server has taken the request and not decided it yet; ask again in %v", e.RetryAfter)
}

// UnreachableError says that there was no answer: nobody listens, the network is down, or the connection broke off. The same
// may succeed later.
type UnreachableError struct{ err error }

// Error tells what was tried and what came of it.
func (e *UnreachableError) Error() string { return e.err.Error() }

// Unwrap gives the cause.
func (e *UnreachableError) Unwrap() error { return e.err }

// Unanswered makes err an UnreachableError if it came from the network and not from what the other side said, for clients of other protocols.
func Unanswered(err error) error { return unanswered(err) }

// unanswered makes err an UnreachableError if it came from the network and not from what the other side said. A TLS alert is
// something that it said, though crypto/tls puts it into a net.OpError.
func unanswered(err error) error {
	var op *net.OpError
	switch {
	case errors.As(err, &op) && (op.Op == "remote error" || op.Op == "local error"):
		return err
	case op != nil, errors.Is(err, coap.ErrNoAnswer), errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, context.DeadlineExceeded):
		return &UnreachableError{err}
	}
	return err
}

// RefusedError is an answer of the server that is neither success nor waiting.
type RefusedError struct {
	Operation wire.Operation
	Status    int
	Reason    string // the server's words, one line fit for a terminal; may be empty
	// RetryAfter is how long the server wants to be left alone; 0 if it did not say.
	RetryAfter time.Duration
}

// Error gives the server's reason, and what its status means.
func (e *RefusedError) Error() string {
	text := fmt.Sprintf("the server answered %s with %d %s", e.Operation, e.Status, http.StatusText(e.Status))
	if hint := statusHint(e.Operation, e.Status); hint != "" {
		text += " (" + hint + ")"
	}
	if e.Reason != "" {
		text += ": " + e.Reason
	}
	if e.RetryAfter > 0 {
		text += fmt.Sprintf("; it asks to wait %v", e.RetryAfter)
	}
	return text
}

// Temporary tells whether the same request may succeed later without anybody changing anything.
func (e *RefusedError) Temporary() bool {
	switch e.Status {
	case http.StatusRequestTimeout, http.StatusTooEarly, http.StatusTooManyRequests:
		return true
	case http.StatusNotImplemented:
		return false
	}
	return e.Status >= 500
}

// statusHint says what a status means: some mean it only as answers to operations of EST, and this type has those of BRSKI, CMP and SCEP as well.
func statusHint(op wire.Operation, status int) string {
	est := slices.Contains([]wire.Operation{wire.CACerts, wire.SimpleEnroll, wire.SimpleReenroll, wire.FullCMC, wire.ServerKeygen, wire.CSRAttributes}, op)
	switch {
	case est && status == http.StatusUnauthorized && op == wire.SimpleReenroll:
		return "it does not accept the certificate of this device"
	case est && status == http.StatusUnauthorized:
		return "token or certificate unknown, used up or expired"
	case est && status == http.StatusForbidden:
		return "this device may not have the certificate"
	case est && status == http.StatusNotFound:
		return "no EST service of this label"
	case status == http.StatusTooManyRequests:
		return "too many requests"
	case status == http.StatusServiceUnavailable:
		return "overloaded or in maintenance"
	case status >= 300 && status < 400:
		return "a redirect without a place to go"
	}
	return ""
}

// answer is an answer with success.
type answer struct {
	op          wire.Operation
	status      int
	contentType string
	body        []byte
}

// judge makes an answer or an error of a response.
func judge(op wire.Operation, response *http.Response, body []byte, now time.Time) (*answer, error) {
	wait := retryAfter(response.Header, now)
	switch response.StatusCode {
	case http.StatusOK, http.StatusNoContent:
		return &answer{op, response.StatusCode, response.Header.Get("Content-Type"), body}, nil
	case http.StatusAccepted:
		if wait == 0 {
			wait = defaultWait
		}
		return nil, &PendingError{wait}
	}
	return nil, &RefusedError{op, response.StatusCode, reason(response.Header, body), wait}
}

// decode checks the media type and returns the DER in the body. Parameters are not compared: servers differ in them.
func (a *answer) decode(want string) ([]byte, error) {
	if got := wire.MediaType(a.contentType); got != want {
		return nil, fmt.Errorf("the server answered %s with content of type %q where %q belongs; is it an EST server?", a.op, Clean(a.contentType), want)
	}
	der, err := wire.DecodeBase64(a.body)
	if err != nil {
		return nil, fmt.Errorf("reading the %s answer: %w", a.op, err)
	}
	return der, nil
}

// retryAfter reads the header of that name: seconds, or a date, which is measured against the server's own clock where it
// tells it, since the device's may be wrong. It returns 0 when there is nothing to read.
func retryAfter(header http.Header, now time.Time) time.Duration {
	value := strings.TrimSpace(header.Get("Retry-After"))
	if value == "" {
		return 0
	}
	if seconds, err := strconv.ParseUint(value, 10, 31); err == nil {
		return clampWait(time.Duration(seconds) * time.Second)
	}
	at, err := http.ParseTime(value)
	if err != nil {
		return 0
	}
	if date, err := http.ParseTime(header.Get("Date")); err == nil {
		now = date
	}
	if now.IsZero() {
		return defaultWait
	}
	return clampWait(at.Sub(now))
}

func clampWait(d time.Duration) time.Duration { return min(max(d, minWait), maxWait) }

// reason is the text of a refusal: only plain text, since the HTML of some proxy helps nobody (RFC 8951, section 5). A 401 of
// Mooring has no body, because some clients fail on one; its text is beside the challenge.
func reason(header http.Header, body []byte) string {
	if wire.MediaType(header.Get("Content-Type")) == wire.TypeReason {
		if text := Clean(string(body[:min(len(body), 4*maxReason)])); text != "" {
			return text
		}
	}
	for _, challenge := range header.Values("WWW-Authenticate") {
		if text := Clean(description(challenge)); text != "" {
			return text
		}
	}
	return ""
}

// description is the value of the parameter error_description of a challenge (RFC 9110, section 11.6.1), or "".
func description(challenge string) string {
	const name = `error_description="`
	i := strings.Index(strings.ToLower(challenge[:min(len(challenge), 8*maxReason)]), name)
	if i < 0 || i > 0 && challenge[i-1] != ' ' && challenge[i-1] != ',' {
		return ""
	}
	var text []byte
	for rest := challenge[i+len(name):]; rest != "" && len(text) < 4*maxReason; rest = rest[1:] {
		if rest[0] == '"' {
			return string(text)
		}
		if rest[0] == '\\' && len(rest) > 1 {
			rest = rest[1:]
		}
		text = append(text, rest[0])
	}
	return string(text) // cut off, or without its closing quotation mark
}

// Clean makes a stranger's text fit for a terminal and a log: one line, no control characters, bounded.
func Clean(text string) string {
	var out []rune
	for _, word := range strings.Fields(text) {
		if len(out) > 0 {
			out = append(out, ' ')
		}
		for _, r := range word {
			if unicode.IsPrint(r) && r != unicode.ReplacementChar {
				out = append(out, r)
			}
		}
	}
	if len(out) > maxReason {
		out = append(out[:maxReason], '…')
	}
	return string(out)
}
