package main

import (
	"fmt"
	"os"
	"os/exec"

	"github.com/spf13/cobra"

	"mooring/internal/app/bench"
)

const benchOCSPHelp = `Measures answers about the status of certificates, over kept HTTP connections against the status listener of a server in a process of
its own: answers from the cache by POST and by GET, answers to a nonce, which are signed each time, and answers to first questions.

The floor is a bare net/http server, also in a process of its own, that gives the same octets for every question; where answers are
signed, one P-256 signature is added. Answers per core and second are 1,000,000 / CPU µs. The certificates are rows without devices.`

func (c *cli) benchOCSPCommand() *cobra.Command {
	var profile string
	o := bench.OCSPOptions{Certificates: 1_000_000, Asked: 20_000, Clients: 16, N: 100_000, Rounds: 5}
	cmd := &cobra.Command{
		Use: "ocsp", Short: "Measure answers about the status of certificates", Long: benchOCSPHelp,
		Example: "  mooring bench ocsp\n  mooring bench ocsp --certificates 10000 --n 20000 --json",
		Args:    needs(),
	}
	f := cmd.Flags()
	f.IntVar(&o.Certificates, "certificates", o.Certificates, "certificates in the database")
	f.IntVar(&o.Asked, "asked", o.Asked, "different certificates whose answers are kept")
	f.IntVar(&o.Clients, "clients", o.Clients, "connections at once")
	f.IntVar(&o.N, "n", o.N, "questions in each measurement; a tenth where each answer is signed")
	f.IntVar(&o.Rounds, "rounds", o.Rounds, "measurements of each case; the median is printed")
	f.StringVar(&profile, "cpu-profile", "", "file for a profile of the server's CPU time")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		switch {
		case o.Certificates < 100 || o.Certificates > 20_000_000 || o.Asked < 1 || o.Asked > o.Certificates/4:
			return usagef("--certificates must lie between 100 and 20000000, --asked between 1 and a quarter of that")
		case o.N < 10 || o.N > 10_000_000 || o.Rounds < 1 || o.Rounds > 1000 || o.Rounds*o.N/10 > o.Certificates/4:
			return usagef("--n must lie between 10 and 10000000, --rounds between 1 and 1000, and a tenth of both multiplied at most at a quarter of --certificates")
		case o.Clients < 1 || o.Clients > 200:
			return usagef("--clients must lie between 1 and 200")
		}
		self, err := os.Executable()
		if err != nil {
			return fmt.Errorf("finding this program: %w", err)
		}
		ctx := cmd.Context()
		o.Progress = func(text string) { c.advise("%s", text) }
		o.Serve = func(dir, ready string) *exec.Cmd { return serveProcess(ctx, self, dir, ready, profile) }
		o.Bare = func(file, ready string) *exec.Cmd {
			return exec.CommandContext(ctx, self, "bench", "bare", file, ready)
		}
		return c.bench(func(print func(bench.Line) error) error { return bench.OCSP(ctx, o, print) })
	}
	return cmd
}

// benchBareCommand is the floor of ocsp as a process: not for people.
func (c *cli) benchBareCommand() *cobra.Command {
	return &cobra.Command{
		Use: "bare FILE READY", Short: "Repeat recorded answers", Long: "Serves the answers in FILE over HTTP and nothing else: what the OCSP benchmark compares with.", Hidden: true, Args: cobra.ExactArgs(2),
		Example: "  mooring bench bare answers.json ready.json",
		RunE:    func(_ *cobra.Command, args []string) error { return bench.ServeBare(args[0], args[1]) },
	}
}
