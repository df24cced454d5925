package revoke

import (
	"context"
	"errors"
	"testing"

	"mooring/internal/base/errs"
	"mooring/internal/core/access"
)

// TestTheFeedHasRoomForThePlatform: whoever fills the feed with watchers does not keep the platform from cutting connections.
func TestTheFeedHasRoomForThePlatform(t *testing.T) {
	w := newWorld(t)
	for range maxWatchers {
		_, err := w.hub.join(false)
		must(t, err)
	}
	if err := w.Watch(t.Context(), auditor, -1, func(Event) error { return nil }); !errs.Is(err, errs.Limited) {
		t.Errorf("one too many: got %v", err)
	}
	met := errors.New("met")
	if err := w.Watch(context.WithoutCancel(t.Context()), access.System("gate"), -1, func(Event) error { return met }); !errors.Is(err, met) {
		t.Errorf("the platform: got %v, want to be told", err)
	}
}
