package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"mooring/internal/app/bench"
)

const benchJobsHelp = `Measures the revocation of a fleet as one job: how long the search for its certificates takes, how long they are worked through until
every list is published, the CPU time of this process for each, and how long it takes meanwhile to register a device.`

func (c *cli) benchJobsCommand() *cobra.Command {
	o := bench.JobsOptions{Database: "sqlite"}
	cmd := &cobra.Command{
		Use: "jobs", Short: "Measure a revocation of many", Long: benchJobsHelp,
		Example: "  mooring bench jobs\n  mooring bench jobs --certificates 1000000 --json",
		Args:    needs(),
	}
	cmd.Flags().StringVar(&o.Database, "database", o.Database, "sqlite, or the address of a PostgreSQL server on this machine, where a schema is made and dropped")
	cmd.Flags().IntVar(&o.Certificates, "certificates", 100_000, "certificates, of which nineteen in twenty are revoked")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if o.Certificates < 1000 || o.Certificates > 4_000_000 {
			return usagef("--certificates %d is not between 1000 and 4000000", o.Certificates)
		}
		if !c.quiet {
			o.Progress = func(text string) { fmt.Fprintln(c.err, text) }
		}
		w := tabwriter.NewWriter(c.out, 0, 8, 2, ' ', 0)
		if !c.json {
			row(w, "CASE", "N", "PER S", "CPU µs", "WALL ms", "MiB")
		}
		err := bench.Jobs(cmd.Context(), o, func(l bench.Line) error {
			if c.json {
				return json.NewEncoder(c.out).Encode(l)
			}
			row(w, l.Case, fmt.Sprint(l.N), fmt.Sprintf("%.0f", l.PerS), fmt.Sprintf("%.1f", l.CPU), fmt.Sprintf("%.1f", l.Wall), fmt.Sprintf("%.0f", l.RSS))
			return nil
		})
		return errors.Join(err, w.Flush())
	}
	return cmd
}
