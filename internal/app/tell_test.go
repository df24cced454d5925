package app

import (
	"context"
	"log/slog"
	"slices"
	"testing"

	"mooring/internal/base/errs"
	"mooring/internal/core/device"
)

// TestWhatCouldNotBeToldIsTriedAgain: a change that the other nodes were not told of is told when they can be reached, once, and one of a device that is no
// more is forgotten.
func TestWhatCouldNotBeToldIsTriedAgain(t *testing.T) {
	p := &Platform{log: slog.New(slog.DiscardHandler)}
	one, two, gone := device.ID{1}, device.ID{2}, device.ID{3}
	p.changes.list = []device.ID{two, one, two, gone}
	for _, row := range []struct {
		name  string
		full  bool
		told  []device.ID
		again bool
	}{
		{"the other nodes cannot be told", true, []device.ID{one, two, gone}, true},
		{"nor the next time", true, []device.ID{one, two}, true},
		{"then they can", false, []device.ID{one, two}, false},
		{"and everything is told", false, nil, false},
	} {
		var told []device.ID
		again := p.tellAll(t.Context(), func(_ context.Context, id device.ID) error {
			told = append(told, id)
			switch {
			case id == gone:
				return errs.New(errs.NotFound, "no such device")
			case row.full:
				return errs.New(errs.Limited, "the store of messages is full")
			}
			return nil
		})
		if again != row.again || !slices.Equal(told, row.told) {
			t.Errorf("%s: told %v, again %v; want %v, %v", row.name, told, again, row.told, row.again)
		}
	}
}
