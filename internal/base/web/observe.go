package web

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"runtime/debug"
	"time"

	"mooring/internal/base/errs"
)

// Observer sees every request of one surface: it logs, counts and turns panics into answers.
type Observer struct {
	Surface  string // "est", "api", "status": an attribute of each log line
	Log      *slog.Logger
	Now      func() time.Time
	Refuse   Refuser   // how this surface answers a panic
	Counters *Counters // nil: not counted
	Quiet    bool      // what is not our fault is logged at the level debug: it is public, and everybody fetches it all the time
}

// Wrap returns next under observation. Each request becomes one log line with surface, method, route, status, duration and octets sent, and
// for a refusal its kind, with the private cause where the fault is ours, and what the handler said by Annotate. The route is the mux's pattern, so neither path values nor the query, which may hold names and
// secrets, are written; nor is the client's address. A panic is logged with its stack and answered with 500, or the connection is
// broken off if the answer had begun.
func (o Observer) Wrap(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		began := o.Now()
		rec := &record{}
		r = r.WithContext(context.WithValue(r.Context(), recordKey{}, rec))
		out := &response{ResponseWriter: w}
		defer func() {
			abort := o.recovered(recover(), out, r)
			o.finish(r, out, rec, o.Now().Sub(began))
			if abort {
				panic(http.ErrAbortHandler)
			}
		}()
		next.ServeHTTP(out, r)
	})
}

// recovered deals with what recover returned and reports whether the connection must be broken off.
func (o Observer) recovered(p any, out *response, r *http.Request) (abort bool) {
	switch {
	case p == nil:
		return false
	case p == http.ErrAbortHandler:
		return true
	}
	o.Log.LogAttrs(r.Context(), slog.LevelError, "a handler panicked",
		slog.String("surface", o.Surface), slog.String("route", route(r)), slog.String("panic", fmt.Sprint(p)), slog.String("stack", string(debug.Stack())))
	if out.status != 0 {
		return true
	}
	o.Refuse(out, r, errs.Wrap(errs.Internal, fmt.Errorf("panic: %v", p), "panic"))
	return false
}

func (o Observer) finish(r *http.Request, out *response, rec *record, took time.Duration) {
	if out.status == 0 {
		out.status = http.StatusOK // net/http sends this for a handler that wrote nothing
	}
	o.Counters.observe(route(r), out.status, took)
	level := slog.LevelInfo
	if o.Quiet {
		level = slog.LevelDebug
	}
	if rec.err == nil && !o.Log.Enabled(r.Context(), level) {
		return
	}
	attrs := []slog.Attr{slog.String("surface", o.Surface), slog.String("method", method(r)), slog.String("route", route(r)),
		slog.Int("status", out.status), slog.Duration("took", took), slog.Int64("octets", out.octets)}
	if rec.err != nil {
		kind := errs.KindOf(rec.err)
		attrs = append(attrs, slog.String("refused", kind.String()))
		if kind == errs.Internal || kind == errs.Unavailable { // the other texts may name what the client sent
			level = slog.LevelWarn
			attrs = append(attrs, slog.String("cause", rec.err.Error()))
		}
		if kind == errs.Internal && !(r.Context().Err() != nil && errors.Is(rec.err, context.Canceled)) { // a client that went away is nobody's fault
			level = slog.LevelError
		}
	}
	o.Log.LogAttrs(r.Context(), level, "request", append(attrs, rec.attrs...)...)
}

// route is the pattern that served r. Requests that no pattern matched share one name, so that strangers cannot make up new ones.
func route(r *http.Request) string {
	if r.Pattern == "" {
		return "unmatched"
	}
	return r.Pattern
}

// method is r's method if it is a common one: strangers may invent others.
func method(r *http.Request) string {
	switch r.Method {
	case http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete, http.MethodOptions:
		return r.Method
	}
	return "other"
}

type recordKey struct{}

// record carries what a handler knows, such as the error behind an answer, to where the request is logged.
type record struct {
	err   error
	attrs []slog.Attr
}

// Annotate adds attrs to r's log line, if r is observed. They must be of this platform's making, such as the name of a profile or the
// pseudonymous id of a device: never a name, an address, a secret or anything else that a client chose. It is for the goroutine that
// answers r.
func Annotate(r *http.Request, attrs ...slog.Attr) {
	if rec, ok := r.Context().Value(recordKey{}).(*record); ok {
		rec.attrs = append(rec.attrs, attrs...)
	}
}

// Note remembers err for r's log line, if r is observed. Problem and Text call it; so does a surface with a form of its own for errors.
func Note(r *http.Request, err error) {
	if rec, ok := r.Context().Value(recordKey{}).(*record); ok {
		rec.err = err
	}
}

// response remembers what was sent. http.ResponseController reaches the original through Unwrap.
type response struct {
	http.ResponseWriter
	status int
	octets int64
}

func (w *response) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (w *response) WriteHeader(status int) {
	if w.status == 0 && status >= 200 { // 1xx answers come before the real one
		w.status = status
	}
	w.ResponseWriter.WriteHeader(status)
}

func (w *response) Write(p []byte) (int, error) {
	if w.status == 0 {
		w.status = http.StatusOK
	}
	n, err := w.ResponseWriter.Write(p)
	w.octets += int64(n)
	return n, err
}

// FlushError is what http.ResponseController calls. A flush sends the header.
func (w *response) FlushError() error {
	if w.status == 0 {
		w.status = http.StatusOK
	}
	return http.NewResponseController(w.ResponseWriter).Flush()
}

// Flush is for writers of event streams that look for http.Flusher.
func (w *response) Flush() { _ = w.FlushError() } // a connection that cannot flush shows at the next write
