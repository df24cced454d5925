package main

import (
	"encoding/json"
	"fmt"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"mooring/internal/app/bench"
)

const benchInventoryHelp = `Measures lists of devices by combinations of filters, on a registry that is filled for it: each device with a certificate, a group, a tag,
one in a thousand suspended. For each combination it prints how many devices pass, and the slowest of several looks, in milliseconds, at the
first page of 100, a page of 100 in the middle, the first page of 1,000, and the exact count; and the CPU time of the dearest of the four, that
of PostgreSQL included, which counts on a busy machine.

A million devices take some minutes to fill in, and about 1.5 GB on the disk.`

func (c *cli) benchInventoryCommand() *cobra.Command {
	o := bench.InventoryOptions{Database: "sqlite", Registered: 1_000_000, Rounds: 5}
	cmd := &cobra.Command{
		Use: "inventory", Short: "Measure lists of devices", Long: benchInventoryHelp,
		Example: "  mooring bench inventory\n  mooring bench inventory --registered 100000 --json",
		Args:    needs(),
	}
	cmd.Flags().StringVar(&o.Database, "database", o.Database, "\"sqlite\" or the URL of a PostgreSQL server on this machine")
	cmd.Flags().IntVar(&o.Registered, "registered", o.Registered, "devices in the registry")
	cmd.Flags().IntVar(&o.Rounds, "rounds", o.Rounds, "looks at each page; the slowest is printed")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if o.Registered < 1000 || o.Registered > 4_000_000 || o.Rounds < 1 || o.Rounds > 1000 {
			return usagef("--registered must lie between 1000 and 4000000, --rounds between 1 and 1000")
		}
		o.Progress = func(text string) { c.advise("%s", text) }
		w := tabwriter.NewWriter(c.out, 0, 8, 2, ' ', 0)
		headed := false
		return bench.Inventory(cmd.Context(), o, func(l bench.InventoryLine) error {
			if c.json {
				return json.NewEncoder(c.out).Encode(l)
			}
			if !headed {
				row(w, fmt.Sprintf("%-50s", "FILTER"), "MATCHES", "FIRST ms", "MIDDLE ms", "1,000 ms", "COUNT ms", "CPU ms")
				headed = true
			}
			ms := func(t float64) string { return fmt.Sprintf("%.1f", t) }
			row(w, fmt.Sprintf("%-50s", l.Case), fmt.Sprint(l.Matches), ms(l.First), ms(l.Middle), ms(l.Large), ms(l.Count), ms(l.CPU))
			return w.Flush()
		})
	}
	return cmd
}
