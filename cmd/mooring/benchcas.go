package main

import (
	"fmt"
	"os"
	"os/exec"

	"github.com/spf13/cobra"

	"mooring/internal/app/bench"
)

const benchCAsHelp = `Measures what thousands of issuing CAs in one instance cost: how long a server takes from its start until it answers, and the
CPU time of an EST enrolment, with one issuing CA and with --n of them, each with a profile of its own and each in turn.

The first two lines are starts (the floor is that with one CA). Then comes the first certificate of each CA, for which its key is read
and its template made; then enrolments as in "mooring bench enrol" with one CA and with many; the last line is their ratio.`

func (c *cli) benchCAsCommand() *cobra.Command {
	o := bench.CAsOptions{N: 2000, Issues: 2000, Rounds: 5, Starts: 3}
	cmd := &cobra.Command{
		Use: "cas", Short: "Measure thousands of CAs", Long: benchCAsHelp,
		Example: "  mooring bench cas\n  mooring bench cas --n 10000 --json",
		Args:    needs(),
	}
	f := cmd.Flags()
	f.IntVar(&o.N, "n", o.N, "issuing CAs")
	f.IntVar(&o.Issues, "enrolments", o.Issues, "enrolments in each measurement")
	f.IntVar(&o.Rounds, "rounds", o.Rounds, "measurements of each case; the median is printed")
	f.IntVar(&o.Starts, "starts", o.Starts, "starts of each; the median is printed")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if o.N < 1 || o.N > 20_000 || o.Issues < 1 || o.Issues > 100_000 || o.Rounds < 1 || o.Rounds > 100 || o.Starts < 1 || o.Starts > 100 {
			return usagef("--n must lie between 1 and 20000, --enrolments between 1 and 100000, --rounds and --starts between 1 and 100")
		}
		self, err := os.Executable()
		if err != nil {
			return fmt.Errorf("finding this program: %w", err)
		}
		ctx := cmd.Context()
		o.Progress = func(text string) { c.advise("%s", text) }
		o.Serve = func(dir, ready string) *exec.Cmd { return serveProcess(ctx, self, dir, ready, "") }
		return c.bench(func(print func(bench.Line) error) error { return bench.CAs(ctx, o, print) })
	}
	return cmd
}
