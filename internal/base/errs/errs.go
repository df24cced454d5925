// Package errs gives errors that cross a package boundary a kind, so that the caller can act on them, and a public text, so that a stranger
// can be told what is wrong without being shown a cause.
//
// New makes an error whose whole text is public. Wrap puts a public text in front of a private cause. Everything that has no kind is
// Internal, and a stranger then reads only "internal error". The package deliberately does not log, translate to protocol codes or
// collect stacks: servers do the first two, and the participles of wrapped contexts ("reading profile …: …") do the last.
package errs

import (
	"errors"
	"fmt"
	"time"
)

// Kind says what a caller can do about an error.
type Kind uint8

// The kinds. The zero value is Internal, so that an error nobody classified never leaks.
const (
	Internal    Kind = iota // our fault; the stranger learns nothing
	Invalid                 // the input is wrong; the same request will fail again
	Denied                  // understood and refused
	NotFound                // no such thing, or none that the caller may know of
	Conflict                // the present state forbids it
	Limited                 // too much, too often or too large
	Unavailable             // not now; a later try may succeed
)

// Kinds returns every kind, for tables that must be complete.
func Kinds() []Kind {
	return []Kind{Internal, Invalid, Denied, NotFound, Conflict, Limited, Unavailable}
}

// String returns the kind's name in lower case.
func (k Kind) String() string {
	switch k {
	case Invalid:
		return "invalid"
	case Denied:
		return "denied"
	case NotFound:
		return "not found"
	case Conflict:
		return "conflict"
	case Limited:
		return "limited"
	case Unavailable:
		return "unavailable"
	}
	return "internal"
}

type kinded struct {
	kind  Kind
	text  string
	cause error
	retry time.Duration
}

func (e *kinded) Error() string {
	if e.cause == nil {
		return e.text
	}
	if e.retry > 0 {
		return e.cause.Error() // its text stands there already
	}
	return e.text + ": " + e.cause.Error()
}

func (e *kinded) Unwrap() error { return e.cause }

// New returns an error of kind k with a public text.
func New(k Kind, format string, args ...any) error {
	return &kinded{kind: k, text: fmt.Sprintf(format, args...)}
}

// Wrap returns an error of kind k with a public text and a private cause, which Unwrap gives back. A nil cause is allowed.
func Wrap(k Kind, cause error, format string, args ...any) error {
	return &kinded{kind: k, text: fmt.Sprintf(format, args...), cause: cause}
}

// KindOf returns the kind of the outermost error in err's chain that has one, or Internal.
func KindOf(err error) Kind {
	var e *kinded
	if errors.As(err, &e) {
		return e.kind
	}
	return Internal
}

// Is reports whether err has kind k. A nil error has no kind.
func Is(err error, k Kind) bool { return err != nil && KindOf(err) == k }

// Public returns what a stranger may read of err: the text given to New or Wrap, or "internal error".
func Public(err error) string {
	var e *kinded
	if errors.As(err, &e) && e.kind != Internal {
		return e.text
	}
	return "internal error"
}

// WithRetry returns err with advice to try again after d. Kind and text stay.
func WithRetry(err error, d time.Duration) error {
	return &kinded{kind: KindOf(err), text: Public(err), cause: err, retry: d}
}

// RetryAfter returns the advice that WithRetry gave.
func RetryAfter(err error) (time.Duration, bool) {
	for err != nil {
		var e *kinded
		if !errors.As(err, &e) {
			return 0, false
		}
		if e.retry > 0 {
			return e.retry, true
		}
		err = e.cause
	}
	return 0, false
}
