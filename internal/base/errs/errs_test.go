package errs

import (
	"errors"
	"fmt"
	"testing"
	"time"
)

func TestKindAndPublicText(t *testing.T) {
	cause := errors.New("dial 10.0.0.7: refused")
	for _, row := range []struct {
		name   string
		err    error
		kind   Kind
		public string
	}{
		{"bare", cause, Internal, "internal error"},
		{"new", New(Invalid, "name %q has a blank", "a b"), Invalid, `name "a b" has a blank`},
		{"wrapped cause stays private", Wrap(Unavailable, cause, "the store cannot be reached"), Unavailable, "the store cannot be reached"},
		{"context keeps the kind", fmt.Errorf("adding: %w", New(Conflict, "the name is taken")), Conflict, "the name is taken"},
		{"internal with a text", Wrap(Internal, cause, "secret place"), Internal, "internal error"},
	} {
		t.Run(row.name, func(t *testing.T) {
			if got := KindOf(row.err); got != row.kind {
				t.Errorf("KindOf(%v) = %v, want %v", row.err, got, row.kind)
			}
			if got := Public(row.err); got != row.public {
				t.Errorf("Public(%v) = %q, want %q", row.err, got, row.public)
			}
		})
	}
}

func TestRetryAfterSurvivesContext(t *testing.T) {
	err := fmt.Errorf("enrolling: %w", WithRetry(New(Limited, "too many"), 3*time.Second))
	if d, ok := RetryAfter(err); !ok || d != 3*time.Second {
		t.Errorf("RetryAfter = %v, %v, want 3s, true", d, ok)
	}
	if KindOf(err) != Limited || Public(err) != "too many" {
		t.Errorf("kind %v, text %q", KindOf(err), Public(err))
	}
	if _, ok := RetryAfter(New(Limited, "x")); ok {
		t.Error("advice found where none was given")
	}
}

func TestEveryKindHasItsOwnName(t *testing.T) {
	seen := map[string]bool{}
	for _, k := range Kinds() {
		if seen[k.String()] {
			t.Errorf("name %q twice", k)
		}
		seen[k.String()] = true
	}
}
