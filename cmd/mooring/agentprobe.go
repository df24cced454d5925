package main

import (
	"context"
	"crypto/sha256"
	"io"

	"github.com/spf13/cobra"
)

const agentProbeHelp = `Connects to the server with the device's certificate and the roots that it trusts, and changes nothing. Given the address under which a
server shows a new root alone (tls.anchors in its configuration), success proves to both sides that this device trusts that root.`

func (c *cli) agentProbeCommand(f *agentFlags) *cobra.Command {
	var address string
	cmd := &cobra.Command{
		Use: "probe", Short: "Prove that this device trusts a server's root", Long: agentProbeHelp,
		Example: "  mooring agent probe --address https://g2.pki.example.com:8443",
		Args:    needs(),
		RunE:    func(cmd *cobra.Command, _ []string) error { return agentError(c.agentProbe(cmd.Context(), f, address)) },
	}
	cmd.Flags().StringVar(&address, "address", "", "the server (default the one that this device enrolled with)")
	return cmd
}

func (c *cli) agentProbe(ctx context.Context, f *agentFlags, address string) error {
	a, err := c.agentOpen(f)
	if err != nil {
		return err
	}
	roots, err := a.Probe(ctx, address)
	if err != nil {
		return err
	}
	report := struct {
		Trusted bool     `json:"trusted"`
		Roots   []string `json:"roots"`
	}{Trusted: true}
	for _, root := range roots {
		report.Roots = append(report.Roots, fingerprint(sha256.Sum256(root.Raw)))
	}
	return c.show(report, func(w io.Writer) {
		fact(w, "The server's root", "is trusted")
		for _, sum := range report.Roots {
			fact(w, "Trusted here", sum)
		}
	})
}
