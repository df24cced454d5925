package main

import (
	"fmt"
	"os"
	"os/exec"

	"github.com/spf13/cobra"

	"mooring/internal/app/bench"
)

const benchV2XHelp = `Measures what the authorities of vehicles do, each as CPU time and as its ratio to that of its cryptographic primitives in the same run:

Tickets of TS 102 941 from end to end over HTTP, with the enrolment authority and the authorization authority in processes and stores of their own: each process, and
both together. Requests are made before; each is answered when both stores are durable. The primitives are what the protocol demands of either side: of the AA a
key unwrapped, a key wrapped, two verifications, three signatures and two points decoded; of the EA two keys unwrapped, two verifications, a signature and two
points decoded. That is with a question of the AA to the EA for each ticket; questions that leave in one message share of it three operations of either side.

The issue of tickets by the AA in this process, without HTTP, 256 requests at once: with questions about many tickets in one message, as our EA takes them, and with a
question for each, as an EA of others has it; the primitives are those of the messages that there were, and what answers them is not counted. Each ticket is looked at afterwards.

The expansion of cocoon keys, and the private and the compact unified response for one; of these also how much faster two workers are than one.`

func (c *cli) benchV2XCommand() *cobra.Command {
	o := bench.V2XOptions{}
	var profile string
	cmd := &cobra.Command{
		Use: "v2x", Short: "Measure tickets of vehicles", Long: benchV2XHelp, Example: "  mooring bench v2x\n  mooring bench v2x --n 2000 --clients 64 --json", Args: needs(),
	}
	cmd.Flags().IntVar(&o.N, "n", 1000, "tickets in each round")
	cmd.Flags().IntVar(&o.Clients, "clients", 64, "vehicles at once")
	cmd.Flags().IntVar(&o.Rounds, "rounds", 5, "rounds; the median is printed")
	cmd.Flags().StringVar(&profile, "cpu-profile", "", "file for a profile of the EA's CPU time; that of the AA has \".aa\" behind it, those of tickets in this process \".issue\" and \".issue-alone\"")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if o.N < 1 || o.N > 100_000 || o.Clients < 1 || o.Clients > 1024 || o.Rounds < 1 || o.Rounds > 100 {
			return usagef("--n must lie between 1 and 100000, --clients between 1 and 1024, --rounds between 1 and 100")
		}
		self, err := os.Executable()
		if err != nil {
			return fmt.Errorf("finding this program: %w", err)
		}
		ctx := cmd.Context()
		o.Profile = profile
		o.Progress = func(text string) { c.advise("%s", text) }
		o.Serve = func(dir, ready string) *exec.Cmd { return serveProcess(ctx, self, dir, ready, profile) }
		o.ServeAA = func(dir string) *exec.Cmd {
			args := []string{"v2x", "aa", "serve", "--dir", dir}
			if profile != "" {
				args = append(args, "--cpu-profile", profile+".aa")
			}
			cmd := exec.CommandContext(ctx, self, args...)
			cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
			return cmd
		}
		return c.bench(func(print func(bench.Line) error) error { return bench.V2X(ctx, o, print) })
	}
	return cmd
}
