package main

import (
	"github.com/spf13/cobra"

	"mooring/internal/app/bench"
)

const benchRevokeHelp = `Measures one revocation when many were revoked before under the same CA: durable, recorded, and on the signed list when it returns.
Three kinds: at the start, in a shard that was not read ahead yet, so that its revocations are read then; the first in a shard after the server
has read the lists ahead; and any other. The floor is two P-256 signatures, for the list and the
status answer.

The lines about lists tell how long it takes to make and read the list of a shard and the complete list, and in the last column by how much
the process grows meanwhile. The revocations from before are rows without entries in the audit record, so the record of this throw-away
installation would not verify.`

func (c *cli) benchRevokeCommand() *cobra.Command {
	o := bench.RevokeOptions{Revoked: []int{10_000, 100_000, 1_000_000}, N: 200}
	cmd := &cobra.Command{
		Use: "revoke", Short: "Measure revocation after many revocations", Long: benchRevokeHelp,
		Example: "  mooring bench revoke\n  mooring bench revoke --revoked 10000,1000000 --json",
		Args:    needs(),
	}
	f := cmd.Flags()
	f.IntSliceVar(&o.Revoked, "revoked", o.Revoked, "certificates of one CA that are revoked before")
	f.IntVar(&o.N, "n", o.N, "revocations measured")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		for _, n := range o.Revoked {
			if n < 1 || n > 20_000_000 {
				return usagef("--revoked: %d is not between 1 and 20000000", n)
			}
		}
		if o.N < 1 || o.N > 10_000 {
			return usagef("--n must lie between 1 and 10000")
		}
		o.Progress = func(text string) { c.advise("%s", text) }
		return c.bench(func(print func(bench.Line) error) error { return bench.Revoke(cmd.Context(), o, print) })
	}
	return cmd
}
