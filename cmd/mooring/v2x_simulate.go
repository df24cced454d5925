package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"mooring/internal/app/demo"
	"mooring/internal/app/v2xsim"
)

const v2xSimulateHelp = `Brings up the authorities for vehicles on this machine, on free ports of the loopback address, and runs a fleet of vehicles through them by the
messages of TS 102 941: each fetches the trust list and the revocation list, enrols with its canonical key, and gets its tickets for all weeks, each over a
connection of its own. The vehicle verifies each ticket up to the root; afterwards all are compared, so that none was issued twice. One vehicle is then suspended in
the registry and refused.

At the end the stores of the enrolment authority and of the authorization authority are searched for what names vehicles and what names tickets: one that has both
could link them. The command fails if one does.

Everything lives in a temporary directory that is removed at the end, unless --dir names one to make and keep.`

func (c *cli) v2xSimulateCommand() *cobra.Command {
	var o v2xsim.Options
	cmd := &cobra.Command{
		Use: "simulate", Short: "Run a fleet of vehicles on this machine", Long: v2xSimulateHelp,
		Example: "  mooring v2x simulate --vehicles 100 --weeks 2 --tickets 20\n  mooring v2x simulate --vehicles 1000 --json", Args: needs(),
	}
	cmd.Flags().IntVar(&o.Vehicles, "vehicles", 10, fmt.Sprintf("how many vehicles, 1 to %d", v2xsim.MaxVehicles))
	cmd.Flags().IntVar(&o.Weeks, "weeks", 2, "for how many weeks they get tickets, 1 to 13")
	cmd.Flags().IntVar(&o.Tickets, "tickets", 20, "how many tickets for each week, 1 to 100")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if cmd.Flags().Changed("dir") {
			o.Dir = c.dir
		}
		return c.v2xSimulate(cmd.Context(), o)
	}
	return cmd
}

func (c *cli) v2xSimulate(ctx context.Context, o v2xsim.Options) (err error) {
	if err := o.Check(); err != nil {
		return usagef("--%s", strings.TrimPrefix(err.Error(), "--"))
	}
	if o.Dir == "" {
		var remove func() error
		if o.Dir, remove, err = demo.TempDir(); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, remove()) }()
	}
	stages := &stages{c: c}
	o.Log = slog.New(slog.NewTextHandler(c.err, &slog.HandlerOptions{Level: slog.LevelWarn}))
	o.Now, o.Progress = time.Now, stages.at
	s, err := v2xsim.Start(ctx, o)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	r, err := s.Run(ctx)
	stages.end()
	if err != nil {
		return err
	}
	return c.showSimulation(r)
}

// showSimulation prints the result; as JSON it is one line, so that it is the last one.
func (c *cli) showSimulation(r v2xsim.Result) error {
	if c.json {
		line, err := json.Marshal(r)
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(c.out, "%s\n", line)
		return err
	}
	return c.show(nil, func(w io.Writer) {
		fact(w, "Root", r.Root)
		fact(w, "Enrolled", fmt.Sprintf("%d of %d vehicles (%.0f a second)", r.Enrolled, r.Vehicles, r.EnrolPerSecond))
		fact(w, "Tickets", fmt.Sprintf("%d issued, %d verified up to the root, %d twice (%.0f a second)", r.Tickets, r.Verified, r.Doubled, r.TicketsPerSecond))
		fact(w, "Cut off", fmt.Sprintf("the suspended vehicle, refused %.1f ms after its suspension", r.CutOff))
		for _, l := range r.Links {
			fact(w, "Store of "+l.Store, unlinkable(l.Stations, l.Tickets, l.Linked))
		}
		fact(w, "Took", fmt.Sprintf("%.1f s", r.Seconds))
	})
}
