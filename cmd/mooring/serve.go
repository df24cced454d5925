package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime/pprof"

	"github.com/spf13/cobra"

	"mooring/internal/app"
	"mooring/internal/base/conf"
	"mooring/internal/base/errs"
)

const serveHelp = `Runs the server of the data directory until it is interrupted (SIGINT or SIGTERM); then requests in progress are finished
first. What it listens on is in the configuration file; by default that can be reached from this machine only.

It logs to standard error. --ready-file names a file that is written when requests are answered, with the addresses as JSON, for
whoever has to wait for that; it is removed at the end. --cpu-profile writes a profile of the CPU time in pprof's form when the server
stops, for finding out where time goes.`

func (c *cli) serveCommand() *cobra.Command {
	var ready, profile string
	cmd := &cobra.Command{
		Use: "serve", Short: "Run the server", Long: serveHelp,
		Example: "  mooring serve\n  mooring serve --dir /var/lib/mooring --ready-file /run/mooring/ready.json",
		Args:    needs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return profiled(profile, func() error { return c.serve(cmd.Context(), ready) })
		},
	}
	cmd.Flags().StringVar(&ready, "ready-file", "", "file to write the addresses to when the server is ready")
	cmd.Flags().StringVar(&profile, "cpu-profile", "", "file to write a profile of the CPU time to")
	return cmd
}

func (c *cli) serve(ctx context.Context, readyFile string) error {
	config, err := conf.Load(c.dir)
	if err != nil {
		return err
	}
	log, err := c.logger(config.Log)
	if err != nil {
		return err
	}
	collectLess()
	p, err := app.Build(ctx, app.Options{Config: config, Prompt: c.prompt, Log: log})
	if err != nil {
		return err
	}
	addresses := p.Addresses()
	if readyFile != "" {
		defer os.Remove(readyFile)
	}
	err = p.Run(ctx, func() {
		if err := announce(readyFile, addresses); err != nil {
			log.LogAttrs(ctx, slog.LevelError, "the ready file cannot be written", slog.Any("cause", err))
		}
		log.LogAttrs(ctx, slog.LevelInfo, "ready", listeners(addresses)...)
	})
	if err == nil {
		log.LogAttrs(ctx, slog.LevelInfo, "stopped")
	}
	return err
}

// logger writes what the configuration asks for on standard error.
func (c *cli) logger(l conf.Log) (*slog.Logger, error) {
	var level slog.Level
	if err := level.UnmarshalText([]byte(l.Level)); err != nil {
		return nil, errs.New(errs.Invalid, "log.level: %v", err)
	}
	o := &slog.HandlerOptions{Level: level}
	if l.Format == "json" {
		return slog.New(slog.NewJSONHandler(c.err, o)), nil
	}
	return slog.New(slog.NewTextHandler(c.err, o)), nil
}

// announce writes the addresses to path, whole or not at all: whoever waits for the file may read it the moment it is there.
func announce(path string, a app.Addresses) error {
	if path == "" {
		return nil
	}
	text, err := json.Marshal(a)
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".ready-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // gone already if all went well
	_, err = fmt.Fprintf(f, "%s\n", text)
	if closed := f.Close(); err == nil {
		err = closed
	}
	if err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

// profiled runs work and writes where its CPU time went to the file at path; "" does without.
func profiled(path string, work func() error) (err error) {
	if path == "" {
		return work()
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return errs.Wrap(errs.Unavailable, err, "the profile %s cannot be written", path)
	}
	if err := pprof.StartCPUProfile(f); err != nil {
		return errors.Join(err, f.Close())
	}
	defer func() {
		pprof.StopCPUProfile()
		err = errors.Join(err, f.Close())
	}()
	return work()
}

// listeners are the addresses of what is served.
func listeners(a app.Addresses) (attrs []slog.Attr) {
	for _, l := range []struct{ name, address string }{{"est", a.EST}, {"api", a.API}, {"status", a.Status}, {"coaps", a.CoAPS}, {"mqtt", a.MQTT}, {"mqtt_web", a.MQTTWeb}, {"acme", a.ACME}, {"cmp", a.CMP},
		{"scep", a.SCEP}, {"masa", a.MASA}, {"hooks", a.Hooks}, {"v2x_ea", a.V2XEA}, {"v2x_validation", a.V2XValidation}, {"v2x_aa", a.V2XAA}, {"v2x_dc", a.V2XDC}, {"v2x_cpoc", a.V2XCPOC}, {"socket", a.Socket}} {
		if l.address != "" {
			attrs = append(attrs, slog.String(l.name, l.address))
		}
	}
	return attrs
}
