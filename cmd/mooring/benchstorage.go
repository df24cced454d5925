package main

import (
	"encoding/json"
	"fmt"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"mooring/internal/app/bench"
)

const benchStorageHelp = `Measures what is stored: a small fleet renews its one-day certificates again and again, once for each recording class (full, brief,
ephemeral; see doc/life-models.md), by a clock that is moved. Printed is what was added since the first certificates, in octets on the disk
with indexes: to the registry, which holds devices, slots and certificates, and to the audit record; after half of the renewals, after all
of them, after what is over has left, and after the entries themselves have left the audit record (retention.audit).`

func (c *cli) benchStorageCommand() *cobra.Command {
	o := bench.StorageOptions{Devices: 100, Renewals: 200}
	databases := []string{"sqlite"}
	cmd := &cobra.Command{
		Use: "storage", Short: "Measure what is stored for each certificate", Long: benchStorageHelp,
		Example: "  mooring bench storage\n  mooring bench storage --renewals 1000 --database sqlite --database postgres://postgres@127.0.0.1/postgres --json",
		Args:    needs(),
	}
	cmd.Flags().StringArrayVar(&databases, "database", databases, "\"sqlite\" or the URL of a PostgreSQL server; may be repeated")
	cmd.Flags().IntVar(&o.Devices, "devices", o.Devices, "devices")
	cmd.Flags().IntVar(&o.Renewals, "renewals", o.Renewals, "renewals of each")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if o.Devices < 1 || o.Devices > 100_000 || o.Renewals < 2 || o.Renewals > 3000 {
			return usagef("--devices must lie between 1 and 100000, --renewals between 2 and 3000")
		}
		o.Progress = func(text string) { c.advise("%s", text) }
		w := tabwriter.NewWriter(c.out, 0, 8, 2, ' ', 0)
		if !c.json {
			row(w, fmt.Sprintf("%-22s", "CASE"), fmt.Sprintf("%-16s", "AT"), "CERTIFICATES", "REGISTRY", "EACH", "RECORD", "EACH", "KEPT")
		}
		for _, o.Database = range databases {
			err := bench.Storage(cmd.Context(), o, func(l bench.StorageLine) error {
				if c.json {
					return json.NewEncoder(c.out).Encode(l)
				}
				row(w, fmt.Sprintf("%-22s", l.Case), fmt.Sprintf("%-16s", l.At), fmt.Sprintf("%-12d", l.N), fmt.Sprintf("%-10d", l.Registry),
					fmt.Sprintf("%-8.1f", l.RegistryEach), fmt.Sprintf("%-10d", l.Record), fmt.Sprintf("%-8.1f", l.RecordEach), fmt.Sprint(l.Rows))
				return w.Flush()
			})
			if err != nil {
				return err
			}
		}
		return nil
	}
	return cmd
}
