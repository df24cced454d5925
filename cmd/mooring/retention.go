package main

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"mooring/internal/server/api/client"
	"mooring/internal/server/api/v1"
)

const retentionHelp = `Certificates leave when they have expired and the retention of their profile has passed. The server looks for them by itself
(retention.every); the audit record keeps what was issued, and its verification knows what left. Entries of the audit record stay for
ever unless retention.audit says how long they are kept; their hashes and places stay in any case, so that proofs go on to hold.`

const retentionShowHelp = `Shows how long the certificates of each profile are kept after their end, how long entries of the audit record are, and what left last.`

const retentionRunHelp = `Deletes what is over now, without waiting for the server's next look. Enrolments go on meanwhile. Before entries of the
audit record leave, all of it is verified; if anything does not fit, nothing leaves. Nothing is deleted while retention.hold is set.`

func (c *cli) retentionCommand() *cobra.Command {
	return group(&cobra.Command{
		Use: "retention", Short: "Show what is kept for how long, and delete what is over", Long: retentionHelp,
		Example: "  mooring retention show\n  mooring retention run",
	}, c.retentionShowCommand(), c.retentionRunCommand())
}

func (c *cli) retentionShowCommand() *cobra.Command {
	return &cobra.Command{
		Use: "show", Short: "Show what is kept for how long", Long: retentionShowHelp,
		Example: "  mooring retention show",
		Args:    needs(),
		RunE: c.online(func(ctx context.Context, s *client.Client, _ []string) error {
			r, err := s.Retention(ctx)
			if err != nil {
				return err
			}
			return c.show(r, func(w io.Writer) {
				if r.Hold {
					fmt.Fprintln(w, "Nothing is deleted: retention.hold is set.")
				}
				fact(w, "Kept at least", r.AtLeast+" after the end, while a revocation list may name it")
				if len(r.Months) > 0 {
					fact(w, "Months of issue", strings.Join(r.Months, ", "))
				}
				if a := r.Audit; a != nil {
					fact(w, "Audit record", auditKept(a))
				}
				fmt.Fprintln(w)
				row(w, "PROFILE", "RECORDED", "KEPT AFTER THE END")
				for _, p := range r.Profiles {
					row(w, p.Name, p.Record, orNone(p.Retention))
				}
				if len(r.Last) == 0 {
					return
				}
				fmt.Fprintln(w)
				row(w, "LEFT", "ISSUED IN", "CERTIFICATES", "ENTRY")
				for _, p := range r.Last {
					row(w, minute(p.At), p.What, fmt.Sprint(p.Certificates), fmt.Sprint(p.Index))
				}
			})
		}),
	}
}

func (c *cli) retentionRunCommand() *cobra.Command {
	return &cobra.Command{
		Use: "run", Short: "Delete what is over now", Long: retentionRunHelp,
		Example: "  mooring retention run",
		Args:    needs(),
		RunE: c.online(func(ctx context.Context, s *client.Client, _ []string) error {
			r, err := s.RunRetention(ctx)
			if err != nil {
				return err
			}
			return c.show(r, func(w io.Writer) {
				fmt.Fprintf(w, "%d certificates left.\n", r.Certificates)
				if len(r.Months) > 0 {
					fmt.Fprintf(w, "Whole months: %s\n", strings.Join(r.Months, ", "))
				}
				if r.Until != "" {
					fmt.Fprintf(w, "Of the audit record only the hashes are kept up to the end of %s: %d entries.\n", r.Until, r.Entries)
				}
			})
		}),
	}
}

// auditKept says in a line how long entries are kept and what has left.
func auditKept(a *v1.RetentionAudit) string {
	text := "entries are kept for ever"
	if a.Keep != "" {
		text = "entries are kept for " + a.Keep
	}
	if a.Until != "" {
		text += fmt.Sprintf("; those up to the end of %s have left but for their hashes, and the tables are verified from entry %d on", a.Until, a.From)
	}
	return text
}
