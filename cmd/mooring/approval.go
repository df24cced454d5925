package main

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"mooring/internal/server/api/client"
	"mooring/internal/server/api/v1"
)

const approvalHelp = `What one person asked for and another person must agree to, such as revoking more certificates than approve.revoke_above. A grant is
for exactly what was asked for, once, and ends after a day. Whoever asked cannot agree; all users of the server's own machine count as
one person, so a second person uses an operator's certificate.`

const approvalListHelp = `Lists what waits for a second person, newest first. --all adds what was decided, used or over.`

func (c *cli) approvalCommand() *cobra.Command {
	return group(&cobra.Command{
		Use: "approval", Short: "Be the second person", Long: approvalHelp,
		Example: "  mooring approval list\n  mooring approval grant 0d7f3a4a7c9a2d5f9e7f1a2b3c6f0cbd",
	}, c.approvalListCommand(), c.approvalShowCommand(),
		c.approvalDecideCommand("grant", "Agree to what somebody else asked for", "Agrees. What was asked for is then done, or can be."),
		c.approvalDecideCommand("refuse", "Turn down what somebody asked for", "Turns it down. Whoever asked can take it back in this way, too."),
	)
}

func (c *cli) approvalListCommand() *cobra.Command {
	var all bool
	var limit int
	cmd := &cobra.Command{
		Use: "list", Short: "List what waits for a second person", Long: approvalListHelp,
		Example: "  mooring approval list\n  mooring approval list --all",
		Args:    needs(),
		RunE: c.online(func(ctx context.Context, s *client.Client, _ []string) error {
			if limit < 1 || limit > 1000 {
				return usagef("--limit %d is not between 1 and 1000", limit)
			}
			list, err := s.Approvals(ctx, all, limit)
			if err != nil {
				return err
			}
			if len(list) == 0 {
				c.advise("None waits.")
			}
			return c.show(v1.ApprovalList{Approvals: list}, func(w io.Writer) {
				if len(list) == 0 {
					return
				}
				row(w, "APPROVAL", "STATE", "ASKED BY", "ENDS", "WHAT")
				for _, a := range list {
					row(w, a.ID, a.State, a.Requester, within(a.Expires, time.Now()), a.Summary)
				}
			})
		}),
	}
	cmd.Flags().BoolVar(&all, "all", false, "also what was decided, used or over")
	cmd.Flags().IntVar(&limit, "limit", 100, "at most so many, 1 to 1000")
	return cmd
}

func approvalFacts(w io.Writer, a v1.Approval) {
	now := time.Now()
	fact(w, "Approval", a.ID)
	fact(w, "State", a.State)
	fact(w, "What", a.Summary)
	fact(w, "Of", a.Object)
	fact(w, "  its SHA-256", a.Digest)
	fact(w, "Asked by", a.Requester)
	fact(w, "Asked", within(a.Created, now))
	fact(w, "Ends", within(a.Expires, now))
	fact(w, "Needs", "approve.grant and "+a.Needs)
	if a.Decider != "" {
		fact(w, "Decided", within(a.Decided, now)+" by "+a.Decider)
	}
	fact(w, "Used", within(a.Spent, now))
}

func (c *cli) approvalShowCommand() *cobra.Command {
	return &cobra.Command{
		Use: "show APPROVAL", Short: "Show what was asked for", Long: "Shows what was asked for, by whom, and what became of it.",
		Example: "  mooring approval show 0d7f3a4a7c9a2d5f9e7f1a2b3c6f0cbd",
		Args:    needs("APPROVAL"),
		RunE: c.online(func(ctx context.Context, s *client.Client, args []string) error {
			a, err := s.Approval(ctx, args[0])
			if err != nil {
				return err
			}
			return c.show(a, func(w io.Writer) { approvalFacts(w, a) })
		}),
	}
}

func (c *cli) approvalDecideCommand(verb, short, help string) *cobra.Command {
	return &cobra.Command{
		Use: verb + " APPROVAL", Short: short, Long: help,
		Example: "  mooring approval " + verb + " 0d7f3a4a7c9a2d5f9e7f1a2b3c6f0cbd",
		Args:    needs("APPROVAL"),
		RunE: c.online(func(ctx context.Context, s *client.Client, args []string) error {
			a, err := s.Decide(ctx, args[0], verb)
			if err != nil {
				return err
			}
			return c.show(a, func(w io.Writer) { fmt.Fprintf(w, "Approval %s is %s: %s\n", a.ID, a.State, printable(a.Summary)) })
		}),
	}
}
