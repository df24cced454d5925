package broker

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"strings"

	"golang.org/x/sync/errgroup"

	"mooring/internal/base/errs"
)

// The bounds of a call.
const (
	maxAnswer = 64 << 10 // octets that are read
	maxWords  = 200      // of a refusal that are passed on
	parallel  = 16       // calls at once, where a broker takes one name each
)

// HTTP is how the API of a broker is reached.
type HTTP struct {
	URL  string // such as https://emqx.example.com:18083
	User string // the name of an API key
	Key  string // its secret
	// Client makes the calls: it has the certificates by which the broker is known, and a time limit. Redirections should not be followed.
	Client *http.Client
}

// LogValue keeps the secret out of logs.
func (h HTTP) LogValue() slog.Value { return slog.StringValue(h.URL) }

// call sends one request and returns status and answer. The error has kind Unavailable when there was no answer, or one that passes.
func (h *HTTP) call(ctx context.Context, method, path string, query url.Values, body any) (status int, answer []byte, err error) {
	var text io.Reader
	if body != nil {
		raw, err := json.Marshal(body)
		if err != nil {
			return 0, nil, err
		}
		text = bytes.NewReader(raw)
	}
	target := strings.TrimSuffix(h.URL, "/") + path
	if len(query) > 0 {
		target += "?" + strings.ReplaceAll(query.Encode(), "--cleanup=", "--cleanup") // VerneMQ's flags have no value
	}
	r, err := http.NewRequestWithContext(ctx, method, target, text)
	if err != nil {
		return 0, nil, errs.Wrap(errs.Invalid, err, "the broker's address is none")
	}
	if body != nil {
		r.Header.Set("Content-Type", "application/json")
	}
	if h.Key != "" || h.User != "" {
		r.SetBasicAuth(h.User, h.Key)
	}
	r.Header.Set("User-Agent", "mooring")
	got, err := h.Client.Do(r)
	if err != nil {
		return 0, nil, errs.Wrap(errs.Unavailable, err, "the broker cannot be reached")
	}
	defer got.Body.Close()
	answer, err = io.ReadAll(io.LimitReader(got.Body, maxAnswer))
	if err != nil {
		return 0, nil, errs.Wrap(errs.Unavailable, err, "the broker's answer broke off")
	}
	return got.StatusCode, answer, passing(got.StatusCode)
}

// passing returns an error for a status that says nothing about the request.
func passing(status int) error {
	if status == http.StatusTooManyRequests || status >= 500 {
		return errs.New(errs.Unavailable, "the broker answered with %d", status)
	}
	return nil
}

// refused is the error for an answer that confirms nothing.
func refused(status int, answer []byte) error {
	kind := errs.Conflict
	if status == http.StatusUnauthorized || status == http.StatusForbidden {
		kind = errs.Denied
	}
	return errs.New(kind, "the broker answered with %d: %q", status, words(answer))
}

// words makes what a broker says fit to be shown.
func words(text []byte) string {
	line := strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return ' '
		}
		return r
	}, string(text[:min(len(text), maxWords)]))
	return strings.Join(strings.Fields(line), " ")
}

// each calls fn for every name, some at once, and returns the first error. A refusal of one does not keep the others from being done.
func each(ctx context.Context, names []string, fn func(ctx context.Context, name string) error) error {
	var g errgroup.Group
	g.SetLimit(parallel)
	for _, name := range names {
		g.Go(func() error { return fn(ctx, name) })
	}
	return g.Wait()
}
