package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"mooring/internal/app/bench"
)

const benchHelp = `Measures what the platform costs on this machine. Each run measures its own floor, that is, what the cryptographic primitives alone
cost at the same time, so that the ratio says something even where machines are noisy: compare ratios and CPU time, not wall time.

Every result is a line: what was measured, how many operations, how many a second, CPU time for one (of all our processes and of the
database) in microseconds, the floor, their ratio, and the resident memory of the measured process in MiB.`

func (c *cli) benchCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "bench", Short: "Measure what things cost", Long: benchHelp,
		Example: "  mooring bench issue\n  mooring bench enrol --json",
	}
	cmd.AddCommand(c.benchIssueCommand(), c.benchEnrolCommand(), c.benchInventoryCommand(), c.benchStorageCommand(), c.benchCAsCommand(), c.benchOCSPCommand(), c.benchRevokeCommand(),
		c.benchJobsCommand(), c.benchBareCommand(), c.benchV2XCommand())
	cmd.AddCommand(c.benchTalkCommands()...)
	return cmd
}

const benchIssueHelp = `Measures the making of a certificate, from a parsed request and a profile to signed DER, without network and database: against one
bare ECDSA signature and against the standard library's x509.CreateCertificate, by turns in 11 rounds.`

func (c *cli) benchIssueCommand() *cobra.Command {
	var n int
	cmd := &cobra.Command{
		Use: "issue", Short: "Measure issuing alone", Long: benchIssueHelp,
		Example: "  mooring bench issue\n  mooring bench issue --n 5000 --json",
		Args:    needs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return c.bench(func(print func(bench.Line) error) error { return bench.Issue(cmd.Context(), n, print) })
		},
	}
	cmd.Flags().IntVar(&n, "n", 1000, "certificates in each round")
	return cmd
}

const benchEnrolHelp = `Measures enrolments against a server in a process of its own, by EST over kept TLS connections or by another protocol. Every one is for
another device, with a token and a key of its own (by SCEP some RSA keys for all), and is answered when certificate, registry and audit entry are durable.

The floor is what the protocol demands of the server in cryptography, with all cores as busy as the server has them: in EST the check of one certification
request and one P-256 signature; in EST over CoAP a DTLS handshake besides; in ACME six messages of the account, which shows its address by http-01; in CMP
four message authentication codes of 1,000 rounds; in SCEP its RSA operations. The CPU time of the server and of PostgreSQL, which must run on this machine,
is read from the system.

Several sizes of the registry on one database are measured by turns. A last line for each number of clients compares them: ratio is what an enrolment costs with
more devices by what it costs with those that --registered names first.`

const benchEnrolExample = `  mooring bench enrol
  mooring bench enrol --clients 1,4,16,64 --registered 1000,1000000 --json
  mooring bench enrol --protocol acme --clients 1,16
  mooring bench enrol --database sqlite --database postgres://postgres@127.0.0.1/postgres`

func (c *cli) benchEnrolCommand() *cobra.Command {
	var profile string
	o := bench.EnrolOptions{Databases: []string{"sqlite"}, Registered: []int{1000}, Clients: []int{1, 4, 16, 64}, N: 2000, Rounds: 5}
	cmd := &cobra.Command{
		Use: "enrol", Short: "Measure whole enrolments", Long: benchEnrolHelp, Example: benchEnrolExample,
		Args: needs(),
	}
	f := cmd.Flags()
	f.StringArrayVar(&o.Databases, "database", o.Databases, "\"sqlite\" or the URL of a PostgreSQL server on this machine; may be repeated")
	f.IntSliceVar(&o.Registered, "registered", o.Registered, "devices in the registry")
	f.IntSliceVar(&o.Clients, "clients", o.Clients, "connections at once")
	f.IntVar(&o.N, "n", o.N, "enrolments in each measurement, at most as many as devices")
	f.IntVar(&o.Rounds, "rounds", o.Rounds, "measurements of each case; the median is printed")
	f.StringVar(&o.Protocol, "protocol", "est", "one of "+strings.Join(bench.Protocols(), ", ")+"; estcoap means est-coaps")
	f.StringVar(&profile, "cpu-profile", "", "file for a profile of the first server's CPU time; those of further ones go to FILE.2, FILE.3 and so on")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if o.Protocol == "estcoap" {
			o.Protocol = "est-coaps"
		}
		if err := benchable(o); err != nil {
			return err
		}
		self, err := os.Executable()
		if err != nil {
			return fmt.Errorf("finding this program: %w", err)
		}
		ctx := cmd.Context()
		o.Progress = func(text string) { c.advise("%s", text) }
		servers := 0
		o.Serve = func(dir, ready string) *exec.Cmd {
			path := profile
			if servers++; path != "" && servers > 1 {
				path = fmt.Sprintf("%s.%d", profile, servers)
			}
			return serveProcess(ctx, self, dir, ready, path)
		}
		return c.bench(func(print func(bench.Line) error) error { return bench.Enrol(ctx, o, print) })
	}
	return cmd
}

// benchable bounds what one run may be asked for.
func benchable(o bench.EnrolOptions) error {
	if all := bench.Protocols(); !slices.Contains(all, o.Protocol) {
		return usagef("--protocol is one of %s, not %q", strings.Join(all, ", "), o.Protocol)
	}
	if o.N < 1 || o.N > 1_000_000 || o.Rounds < 1 || o.Rounds > 1000 {
		return usagef("--n must lie between 1 and 1000000, --rounds between 1 and 1000")
	}
	for _, n := range o.Registered {
		if n < 1 || n > 4_000_000 {
			return usagef("--registered: %d is not between 1 and 4000000", n)
		}
	}
	for _, n := range o.Clients {
		if n < 1 || n > 1024 {
			return usagef("--clients: %d is not between 1 and 1024", n)
		}
	}
	return nil
}

// figure is a number that may not have been measured.
func figure(format string, value float64) string {
	if value == 0 {
		return ""
	}
	return fmt.Sprintf(format, value)
}

// serveProcess runs this program as the server of dir. It is asked to stop when ctx ends.
func serveProcess(ctx context.Context, self, dir, ready, profile string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, self, "serve", "--dir", dir, "--ready-file", ready, "--cpu-profile", profile)
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	return cmd
}

// bench prints every line as it comes.
func (c *cli) bench(run func(print func(bench.Line) error) error) error {
	collectLess() // what is measured in this process, as the server does it
	w := tabwriter.NewWriter(c.out, 44, 8, 2, ' ', 0)
	headed := false
	return run(func(l bench.Line) error {
		if c.json {
			return json.NewEncoder(c.out).Encode(l)
		}
		if !headed {
			row(w, "CASE", "N", "PER S", "CPU µs", "FLOOR µs", "RATIO", "MiB")
			headed = true
		}
		if l.P99 > 0 || l.KiB > 0 {
			l.Case += ": "
			if l.KiB > 0 {
				l.Case += fmt.Sprintf("%.1f KiB each", l.KiB)
			} else {
				l.Case += fmt.Sprintf("p50 %.1f ms, p99 %.1f ms", l.P50, l.P99)
			}
		}
		if l.PerCore > 0 {
			l.Case += fmt.Sprintf(", %.0f a core", l.PerCore)
		}
		if l.Scale > 0 {
			l.Case += fmt.Sprintf(", 2 workers %.2f of 1", l.Scale)
		}
		row(w, l.Case, fmt.Sprint(l.N), fmt.Sprintf("%.0f", l.PerS), fmt.Sprintf("%.1f", l.CPU), figure("%.1f", l.Floor), figure("%.2f", l.Ratio), fmt.Sprintf("%.0f", l.RSS))
		return w.Flush()
	})
}
