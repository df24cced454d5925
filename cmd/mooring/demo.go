package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"mooring/internal/app/demo"
)

const demoHelp = `Brings up a whole installation on this machine, on free ports of the loopback address with the embedded database, and runs a
fleet of simulated devices through it: each is registered, enrols over EST with its own one-time token, and renews with its
certificate; they connect by MQTT and publish readings, which a service hears; one is then revoked, cut off and refused. All of it goes through the real listeners. At the end the audit record is verified
and what was measured is printed.

The installation stays up to be looked at until it is interrupted; --exit ends it at once. It lives in a temporary directory that is
removed at the end, unless --dir names one to make and keep.`

const demoExample = `  mooring demo
  mooring demo --devices 1000 --exit --json
  mooring demo --dir ./demo && mooring serve --dir ./demo`

func (c *cli) demoCommand() *cobra.Command {
	var devices int
	var exit bool
	cmd := &cobra.Command{
		Use: "demo", Short: "Show a fleet on this machine", Long: demoHelp, Example: demoExample,
		Args: needs(),
	}
	cmd.Flags().IntVar(&devices, "devices", 100, fmt.Sprintf("how many devices, 1 to %d", demo.MaxDevices))
	cmd.Flags().BoolVar(&exit, "exit", false, "end when the fleet has run")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		dir := ""
		if cmd.Flags().Changed("dir") {
			dir = c.dir
		}
		return c.demo(cmd.Context(), dir, devices, exit)
	}
	return cmd
}

func (c *cli) demo(ctx context.Context, dir string, devices int, exit bool) (err error) {
	if devices < 1 || devices > demo.MaxDevices {
		return usagef("--devices: a fleet of %d cannot be shown: choose 1 to %d", devices, demo.MaxDevices)
	}
	if dir == "" {
		var remove func() error
		if dir, remove, err = demo.TempDir(); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, remove()) }()
	}
	stages := &stages{c: c}
	log := slog.New(slog.NewTextHandler(c.err, &slog.HandlerOptions{Level: slog.LevelWarn}))
	d, err := demo.Start(ctx, demo.Options{Dir: dir, Devices: devices, Log: log, Now: time.Now, Progress: stages.at})
	if err != nil {
		return err
	}
	closed := false
	defer func() {
		if !closed {
			err = errors.Join(err, d.Close())
		}
	}()
	r, err := d.Fleet(ctx)
	stages.end()
	if err != nil {
		return err
	}
	if err := c.showDemo(r); err != nil || exit {
		return err
	}
	c.advise("\nIt is up until you press Ctrl-C. Look at it from another window:\n"+
		"  %[3]s device list --dir %[1]s\n  %[3]s audit list --dir %[1]s\n  %[3]s connection list --dir %[1]s\n  %[2]s/ shows the CAs and their revocation lists", r.Dir, r.Addresses.Status, program())
	select {
	case <-ctx.Done():
		return nil
	case err := <-d.Done():
		closed = true
		return err
	}
}

// showDemo prints the result; as JSON it is one line, so that it is the last one.
func (c *cli) showDemo(r demo.Result) error {
	if c.json {
		line, err := json.Marshal(r)
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(c.out, "%s\n", line)
		return err
	}
	return c.show(nil, func(w io.Writer) {
		fact(w, "Enrolled", fmt.Sprintf("%d of %d devices over EST, each with its own token (%.0f a second)", r.Enrolled, r.Devices, r.EnrolPerSecond))
		fact(w, "Renewed", fmt.Sprintf("%d over mutual TLS, each with a new key (%.0f a second)", r.Renewed, r.RenewPerSecond))
		fact(w, "Talked", fmt.Sprintf("%d connected by MQTT; %d messages stored, acknowledged and heard (%.0f a second)", r.Connected, r.Messages, r.MessagesPerSecond))
		fact(w, "Cut off", fmt.Sprintf("the connection of the revoked device, %.1f ms after the order to revoke it", r.Cut))
		fact(w, "Revoked", fmt.Sprintf("%d; its renewal was refused %.1f ms after the revocation, and OCSP says %q", r.Revoked, r.CutOff, r.OCSP))
		fact(w, "Audit", fmt.Sprintf("%s: %d entries, recomputed from the first to the signed head", r.Audit, r.Entries))
		fact(w, "Took", fmt.Sprintf("%.1f s", r.Seconds))
		fmt.Fprintln(w)
		fact(w, "EST", r.Addresses.EST+"/.well-known/est/")
		fact(w, "API", r.Addresses.API+"/openapi.json")
		fact(w, "Status", r.Addresses.Status+"/")
		fact(w, "MQTT", r.Addresses.MQTT)
		fact(w, "Directory", r.Dir)
		fact(w, "Root's SHA-256", r.Fingerprint)
	})
}

// stages shows the progress of one stage after the other.
type stages struct {
	c *cli

	mu   sync.Mutex
	name string    // guarded by mu
	bar  *progress // guarded by mu
}

func (s *stages) at(stage string, done, total int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.name != stage {
		if s.bar != nil {
			s.bar.end()
		}
		s.name, s.bar = stage, s.c.progress(stage)
	}
	s.bar.at(int64(done), int64(total))
}

func (s *stages) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.bar != nil {
		s.bar.end()
	}
}

// program is what a person types for this program: "go run" leaves nothing behind that could be called.
func program() string {
	if path, err := os.Executable(); err == nil && strings.Contains(path, string(filepath.Separator)+"go-build") {
		return "go run ./cmd/mooring"
	}
	return "mooring"
}
