package nats_test

import (
	"context"
	"log/slog"
	"sync"
	"testing"
	"time"

	"mooring/internal/core/message"
	"mooring/internal/provider/nats"
	"mooring/internal/provider/nats/natstest"
)

func options(dir string, urls ...string) nats.Options {
	return nats.Options{Dir: dir, URLs: urls, Now: time.Now, Log: slog.New(slog.DiscardHandler), MaxBytes: 64 << 20}
}

func cluster(c *natstest.Cluster) nats.Options {
	o := options("", c.URLs()...)
	o.Durability = nats.Quorum
	return o
}

// open opens a fabric and runs it until the test ends or the function that it returns is called.
func open(t testing.TB, o nats.Options) (*nats.Fabric, func()) {
	t.Helper()
	f, err := nats.Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	var ran sync.WaitGroup
	ran.Go(func() {
		if err := f.Run(ctx); err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	end := sync.OnceFunc(func() {
		stop()
		ran.Wait()
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := f.Close(ctx); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	t.Cleanup(end)
	return f, end
}

func opened(t testing.TB, o nats.Options) *nats.Fabric {
	t.Helper()
	f, _ := open(t, o)
	return f
}

type result struct {
	seq uint64
	err error
}

// put stores m and waits until that is done.
func put(t testing.TB, f message.Fabric, m *message.Message, dedupe string) (uint64, error) {
	t.Helper()
	done := make(chan result, 1)
	f.Append(m, dedupe, func(seq uint64, err error) { done <- result{seq, err} })
	r := <-done
	return r.seq, r.err
}

func stored(t testing.TB, f message.Fabric, m *message.Message) uint64 {
	t.Helper()
	seq, err := put(t, f, m, "")
	if err != nil {
		t.Fatalf("Append(%q under %q): %v", m.Topic, m.Key, err)
	}
	return seq
}

// following has a call of a method that follows something going until the test ends.
func following(t testing.TB, follow func(ctx context.Context, ready func()) error) {
	t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	begun, ended := make(chan struct{}), make(chan error, 1)
	go func() { ended <- follow(ctx, func() { close(begun) }) }()
	select {
	case <-begun:
	case err := <-ended:
		stop()
		t.Fatalf("following: %v", err)
	}
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Errorf("following: %v", err)
		}
	})
}

// each calls row with an embedded fabric, and with one on a cluster of three.
func each(t *testing.T, row func(t *testing.T, f *nats.Fabric)) {
	t.Run("embedded", func(t *testing.T) { row(t, opened(t, options(t.TempDir()))) })
	t.Run("three nodes", func(t *testing.T) { row(t, opened(t, cluster(natstest.Start(t, 3)))) })
}
