package app_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"
	"testing"

	"mooring/internal/app"
	"mooring/internal/base/conf"
)

// child names what a copy of the test binary does in place of the tests, and childDir where.
const (
	child    = "MOORING_APP_TEST_CHILD"
	childDir = "MOORING_APP_TEST_DIR"
)

// TestMain lets the test binary be the server: a process of its own can be killed, and have its own limits.
func TestMain(m *testing.M) {
	work := map[string]func(context.Context, string) error{"": nil, "serve": serveChild, "full": fullDiskChild, "start": startChild, "station": stationChild}[os.Getenv(child)]
	if work == nil {
		os.Exit(m.Run())
	}
	if err := work(context.Background(), os.Getenv(childDir)); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// serveChild runs the installation in dir until it is killed, and says on standard output where it can be reached. On SIGUSR1 it gives back memory that it does not use, and says so.
func serveChild(ctx context.Context, dir string) error {
	p, err := load(ctx, dir, app.Build)
	if err != nil {
		return err
	}
	relief := make(chan os.Signal, 1)
	signal.Notify(relief, syscall.SIGUSR1)
	go func() {
		for range relief {
			debug.FreeOSMemory()
			fmt.Println("relieved")
		}
	}()
	return p.Run(ctx, func() { _ = json.NewEncoder(os.Stdout).Encode(p.Addresses()) }) // the reader notices
}

type builder func(context.Context, app.Options) (*app.Platform, error)

func load(ctx context.Context, dir string, build builder) (*app.Platform, error) {
	c, err := conf.Load(dir)
	if err != nil {
		return nil, err
	}
	return build(ctx, app.Options{Config: c})
}
