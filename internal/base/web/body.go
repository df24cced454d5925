package web

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"

	"mooring/internal/base/errs"
)

// tooLarge marks a Limited error whose answer is 413, not 429.
type tooLarge struct{ max int64 }

func (e *tooLarge) Error() string { return fmt.Sprintf("over %d octets", e.max) }

// TooLarge returns the Limited error for a body of more than limit octets; its status is 413.
func TooLarge(limit int64) error {
	return errs.Wrap(errs.Limited, &tooLarge{limit}, "the body has more than the %d octets allowed here", limit)
}

// ReadBody reads r's body of at most limit octets. A body that says it is longer is refused before any of it is read. Errors are Limited
// (413) for too much, Unavailable when the body did not arrive in time, and Invalid when it broke off.
func ReadBody(w http.ResponseWriter, r *http.Request, limit int64) ([]byte, error) {
	if r.ContentLength > limit {
		return nil, TooLarge(limit)
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, limit))
	if err != nil {
		return nil, bodyError(err)
	}
	return body, nil
}

// LimitBodies returns a handler that passes requests on to next with bodies of at most limit octets. Reading past that gives a Limited error
// whose status is 413; handlers with a smaller limit use ReadBody as well.
func LimitBodies(next http.Handler, limit int64) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.Body = &limited{http.MaxBytesReader(w, r.Body, limit)}
		next.ServeHTTP(w, r)
	})
}

type limited struct{ io.ReadCloser }

func (l *limited) Read(p []byte) (int, error) {
	n, err := l.ReadCloser.Read(p)
	if err != nil && err != io.EOF {
		err = bodyError(err)
	}
	return n, err
}

func bodyError(err error) error {
	var large *http.MaxBytesError
	switch {
	case errs.KindOf(err) != errs.Internal:
		return err // an outer limit has said it already
	case errors.As(err, &large):
		return TooLarge(large.Limit)
	case errors.Is(err, os.ErrDeadlineExceeded):
		return errs.Wrap(errs.Unavailable, err, "the body did not arrive in time")
	}
	return errs.Wrap(errs.Invalid, err, "the body broke off")
}
