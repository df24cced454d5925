package nats

import (
	"log/slog"
	"sync/atomic"
	"testing"
	"time"

	"mooring/internal/base/errs"
	"mooring/internal/core/message"
)

// TestDiskNearlyFull: the disk's state is the one thing that a test cannot have for real; the space that is seen is given here, and everything else is real.
func TestDiskNearlyFull(t *testing.T) {
	f, err := Open(t.Context(), Options{Dir: t.TempDir(), MaxBytes: 16 << 20, Now: time.Now, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := f.Close(t.Context()); err != nil {
			t.Error(err)
		}
	}()
	if free, err := space(f.o.Dir); err != nil || free <= 0 {
		t.Errorf("space: %d, %v", free, err)
	}
	var free atomic.Int64
	f.free = func(string) (int64, error) { return free.Load(), nil }
	put := func() error {
		done := make(chan error, 1)
		f.Append(&message.Message{Topic: "t", Stream: message.Up, Key: "k"}, "", func(_ uint64, err error) { done <- err })
		return <-done
	}
	for _, row := range []struct {
		name string
		free int64
		full bool
	}{
		{"room", spare, false},
		{"nearly full", spare - 1, true},
		{"still nearly full", 0, true},
		{"room again", spare, false},
	} {
		free.Store(row.free)
		f.look()
		if err := put(); errs.Is(err, errs.Limited) != row.full || !row.full && err != nil {
			t.Errorf("%s: Append: %v, want refused as Limited: %v", row.name, err, row.full)
		}
		if _, _, err := f.Own(t.Context(), "s", "n"); err != nil {
			t.Errorf("%s: Own: %v", row.name, err)
		}
	}
}
