package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"mooring/agent/v2x"
	"mooring/internal/app/demo"
	"mooring/internal/app/v2xsim"
)

const v2xSimulateHelp = `Brings up the authorities for vehicles on this machine, on free ports of the loopback address, and runs a fleet of vehicles through them by the
messages of TS 102 941: each fetches the trust list and the revocation list, enrols with its canonical key, and gets its tickets for all weeks, each over a
connection of its own. The vehicle verifies each ticket up to the root; afterwards all are compared, so that none was issued twice, and counted in the stores of both
authorities. One vehicle is then suspended in the registry and refused.

With --processes the enrolment authority (with root and distribution centre) and the authorization authority run in processes of their own. With --kill N they are
killed N times, in turn, while they are asked for tickets, and started again; who got no answer sends the same request again. Nothing may be lost and nothing doubled.

With --butterfly each vehicle asks for all of its tickets with one request, by butterfly keys, and fetches them in an archive for each week; "=unified" and "=compact" ask for these expansions of keys in place of "original". A
registration authority expands the keys, in the process of the enrolment authority, mixes what it asks for with that of other vehicles, and is looked at like the others; it is killed in its turn, when the
authorization authority has answered it.

At the end it is looked at what each of them could find out about whose the tickets are, alone and with another one: from its files, its log, and all messages that it
received and sent, which are recorded for that. The command fails if one alone could do it, or if tickets were lost or doubled.

Everything lives in a temporary directory that is removed at the end, unless --dir names one to make and keep.`

func (c *cli) v2xSimulateCommand() *cobra.Command {
	var o v2xsim.Options
	var apart bool
	var way string
	cmd := &cobra.Command{
		Use: "simulate", Short: "Run a fleet of vehicles on this machine", Long: v2xSimulateHelp,
		Example: "  mooring v2x simulate --vehicles 100 --weeks 2 --tickets 20\n  mooring v2x simulate --vehicles 1000 --kill 6 --json\n  mooring v2x simulate --butterfly --kill 6", Args: needs(),
	}
	cmd.Flags().IntVar(&o.Vehicles, "vehicles", 10, fmt.Sprintf("how many vehicles, 1 to %d", v2xsim.MaxVehicles))
	cmd.Flags().IntVar(&o.Weeks, "weeks", 2, "for how many weeks they get tickets, 1 to 13")
	cmd.Flags().IntVar(&o.Tickets, "tickets", 20, "how many tickets for each week, 1 to 100")
	cmd.Flags().BoolVar(&apart, "processes", false, "run the two authorities in processes of their own")
	cmd.Flags().IntVar(&o.Kill, "kill", 0, fmt.Sprintf("how often one of them is killed, up to %d; includes --processes", v2xsim.MaxKill))
	cmd.Flags().StringVar(&way, "butterfly", "", "get many tickets with one request, by butterfly keys: original, unified or compact")
	cmd.Flags().Lookup("butterfly").NoOptDefVal = string(v2x.ButterflyOriginal)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		o.Butterfly = v2x.ByButterfly(way)
		if cmd.Flags().Changed("dir") {
			o.Dir = c.dir
		}
		if apart || o.Kill > 0 {
			if err := inProcesses(cmd.Context(), &o); err != nil {
				return err
			}
		}
		return c.v2xSimulate(cmd.Context(), o)
	}
	return cmd
}

// inProcesses has the authorities run in processes of their own, of this program.
func inProcesses(ctx context.Context, o *v2xsim.Options) error {
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("finding this program: %w", err)
	}
	run := func(args ...string) *exec.Cmd {
		cmd := exec.CommandContext(ctx, self, args...)
		cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
		return cmd
	}
	o.Serve = func(dir string) *exec.Cmd { return run("serve", "--dir", dir) }
	o.ServeAA = func(dir string) *exec.Cmd { return run("v2x", "aa", "serve", "--dir", dir) }
	return nil
}

func (c *cli) v2xSimulate(ctx context.Context, o v2xsim.Options) (err error) {
	if err := o.Check(); err != nil {
		return usagef("--%s", strings.TrimPrefix(err.Error(), "--"))
	}
	kept := o.Dir
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
	r.Dir = kept // one that is removed is nobody's business
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
		stores := fmt.Sprintf("%d counted by the enrolment authority, %d issued by the authorization authority", r.Counted, r.Issued)
		if r.MadeUp > 0 {
			stores += fmt.Sprintf(", and %d that were made up to be mixed with", r.MadeUp)
		}
		if r.Butterfly != "" {
			fact(w, "Asked for", "with one request for each vehicle, by butterfly keys ("+r.Butterfly+")")
		}
		fact(w, "In the stores", stores)
		if r.Killed > 0 {
			fact(w, "Killed", fmt.Sprintf("an authority %d times; requests were sent again %d times", r.Killed, r.Repeated))
		}
		fact(w, "Cut off", fmt.Sprintf("the suspended vehicle, refused %.1f ms after its suspension", r.CutOff))
		fact(w, "Took", fmt.Sprintf("%.1f s", r.Seconds))
		fmt.Fprintln(w)
		row(w, "WHO", "VEHICLES", "TICKETS", "LINKED", "GROUPED", "BY FILES", "BY ORDER")
		for _, l := range r.Links {
			row(w, l.Name(), number(l.Vehicles), number(l.Tickets), number(l.Linked), number(l.Grouped), number(l.Stored), number(l.Ordered))
		}
	})
}

func number(n int) string { return strconv.Itoa(n) }
