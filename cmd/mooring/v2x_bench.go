package main

import (
	"fmt"
	"os"
	"os/exec"

	"github.com/spf13/cobra"

	"mooring/internal/app/bench"
)

const benchV2XHelp = `Measures authorization tickets of TS 102 941 from end to end over HTTP, with the enrolment authority and the authorization authority in processes and stores of
their own. Requests are made before; each is answered when both stores are durable. The floor is what the protocol demands of either side in cryptography: of the
AA a key unwrapped, a key wrapped, two verifications and three signatures; of the EA two keys unwrapped, two verifications and a signature.`

func (c *cli) benchV2XCommand() *cobra.Command {
	o := bench.V2XOptions{}
	var profile string
	cmd := &cobra.Command{
		Use: "v2x", Short: "Measure tickets of vehicles", Long: benchV2XHelp, Example: "  mooring bench v2x\n  mooring bench v2x --n 2000 --clients 64 --json", Args: needs(),
	}
	cmd.Flags().IntVar(&o.N, "n", 1000, "tickets in each round")
	cmd.Flags().IntVar(&o.Clients, "clients", 32, "vehicles at once")
	cmd.Flags().IntVar(&o.Rounds, "rounds", 5, "rounds; the median is printed")
	cmd.Flags().StringVar(&profile, "cpu-profile", "", "file for a profile of the EA's CPU time; that of the AA has \".aa\" behind it")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if o.N < 1 || o.N > 100_000 || o.Clients < 1 || o.Clients > 1024 || o.Rounds < 1 || o.Rounds > 100 {
			return usagef("--n must lie between 1 and 100000, --clients between 1 and 1024, --rounds between 1 and 100")
		}
		self, err := os.Executable()
		if err != nil {
			return fmt.Errorf("finding this program: %w", err)
		}
		ctx := cmd.Context()
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
