package main

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"mooring/internal/base/errs"
	"mooring/internal/server/api/client"
	"mooring/internal/server/api/v1"
)

const sinkHelp = `Sinks pass on what devices publish: to PostgreSQL, webhooks, NATS or Kafka. They stand in the files of messaging.sinks. A message that a receiver refuses
becomes a dead letter, and the next one has its turn. doc/sinks.md is the guide.`

const sinkListHelp = `Lists the sinks with how far they are. What is counted is counted by the server that supplies a sink; another one shows none of it.`

const sinkShowHelp = `Shows one sink.`

const sinkDeadHelp = `Lists dead letters of a sink with the reasons, the oldest first. --json has their payloads, too, in base64.`

const sinkRetryHelp = `Has dead letters handed over once more, within seconds, by the server that supplies the sink. Those that the receiver takes now leave the list; the others stay in
it with the new reason. It needs the permission message.publish and is recorded.`

const sinkDropHelp = `Forgets dead letters for good. It needs the permission message.publish and is recorded.`

func (c *cli) sinkCommand() *cobra.Command {
	return group(&cobra.Command{
		Use: "sink", Short: "See where messages are passed on to", Long: sinkHelp,
		Example: "  mooring sink list\n  mooring sink dead archive\n  mooring sink retry archive --all",
	}, &cobra.Command{
		Use: "list", Short: "List sinks", Long: sinkListHelp,
		Example: "  mooring sink list",
		Args:    needs(),
		RunE:    c.online(c.sinkList),
	}, &cobra.Command{
		Use: "show NAME", Short: "Show a sink", Long: sinkShowHelp,
		Example: "  mooring sink show archive",
		Args:    needs("NAME"),
		RunE:    c.online(c.sinkShow),
	}, c.sinkDeadCommand(),
		c.sinkLettersCommand("retry", "Have dead letters handed over once more", sinkRetryHelp, "Retried", (*client.Client).RetryDead),
		c.sinkLettersCommand("drop", "Forget dead letters", sinkDropHelp, "Dropped", (*client.Client).DropDead))
}

func (c *cli) sinkList(ctx context.Context, s *client.Client, _ []string) error {
	all, err := s.Sinks(ctx)
	if err != nil {
		return err
	}
	if len(all) == 0 {
		c.advise("None.")
	}
	return c.show(v1.SinkList{Sinks: all}, func(w io.Writer) {
		if len(all) > 0 {
			row(w, "NAME", "HERE", "LAG", "BEHIND", "DEAD", "DELIVERED", "FAILURES", "MISSED", "CAUSE")
		}
		for _, x := range all {
			row(w, x.Name, yesNo(x.Running), fmt.Sprint(x.Lag), fmt.Sprintf("%.0fs", x.Behind), fmt.Sprint(x.Dead), fmt.Sprint(x.Delivered), fmt.Sprint(x.Failures), fmt.Sprint(x.Missed), x.Cause)
		}
	})
}

func (c *cli) sinkShow(ctx context.Context, s *client.Client, args []string) error {
	all, err := s.Sinks(ctx)
	if err != nil {
		return err
	}
	for _, x := range all {
		if x.Name != args[0] {
			continue
		}
		return c.show(x, func(w io.Writer) {
			fact(w, "Name", x.Name)
			if !x.Measured {
				fact(w, "Not known", "the database or the log does not answer")
				return
			}
			fact(w, "Supplied by this server", yesNo(x.Running))
			fact(w, "Not safe yet", fmt.Sprint(x.Lag))
			fact(w, "Oldest on its way", fmt.Sprintf("%.0fs", x.Behind))
			fact(w, "Dead letters", fmt.Sprint(x.Dead))
			fact(w, "Delivered", fmt.Sprint(x.Delivered))
			fact(w, "Failed calls", fmt.Sprint(x.Failures))
			fact(w, "Missed", fmt.Sprint(x.Missed))
			if x.Cause != "" {
				fact(w, "Last failure", x.Cause)
			}
		})
	}
	return errs.New(errs.NotFound, "there is no sink %q: see mooring sink list", args[0])
}

func (c *cli) sinkDeadCommand() *cobra.Command {
	var after string
	var limit int
	cmd := &cobra.Command{
		Use: "dead NAME", Short: "List dead letters of a sink", Long: sinkDeadHelp,
		Example: "  mooring sink dead archive\n  mooring sink dead archive --limit 1000 --json",
		Args:    needs("NAME"),
		RunE: c.online(func(ctx context.Context, s *client.Client, args []string) error {
			if limit < 1 || limit > 1000 {
				return usagef("--limit %d is not between 1 and 1000", limit)
			}
			page, err := s.DeadLetters(ctx, args[0], after, limit)
			if err != nil {
				return err
			}
			if len(page.Letters) == 0 {
				c.advise("None.")
			}
			if err := c.show(page, func(w io.Writer) {
				if len(page.Letters) > 0 {
					row(w, "ID", "REFUSED", "DEVICE", "TOPIC", "OCTETS", "RETRY", "REASON")
				}
				for _, d := range page.Letters {
					row(w, d.ID, minute(d.At), d.Thing, d.Topic, fmt.Sprint(len(d.Payload)), yesNo(d.Retry), d.Reason)
				}
			}); err != nil {
				return err
			}
			if page.Next != "" {
				c.advise("There are more: --after %s", page.Next)
			}
			return nil
		}),
	}
	cmd.Flags().SortFlags = false
	cmd.Flags().StringVar(&after, "after", "", "those after the one with this id")
	cmd.Flags().IntVar(&limit, "limit", 100, "letters at most, 1 to 1000")
	return cmd
}

func (c *cli) sinkLettersCommand(use, short, long, done string, do func(*client.Client, context.Context, string, v1.DeadLetters) (v1.HandledLetters, error)) *cobra.Command {
	var all bool
	cmd := &cobra.Command{
		Use: use + " NAME [ID...]", Short: short, Long: long,
		Example: "  mooring sink " + use + " archive dj3k2v9qk1k0-42\n  mooring sink " + use + " archive --all",
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usagef("%s needs NAME: see %s --help", cmd.CommandPath(), cmd.CommandPath())
			}
			return nil
		},
		RunE: c.online(func(ctx context.Context, s *client.Client, args []string) error {
			if all == (len(args) > 1) {
				return usagef("give the ids of dead letters, from mooring sink dead %s, or --all", args[0])
			}
			n, err := do(s, ctx, args[0], v1.DeadLetters{IDs: args[1:], All: all})
			if err != nil {
				return err
			}
			return c.show(n, func(w io.Writer) { fact(w, done, fmt.Sprint(n.Letters)) })
		}),
	}
	cmd.Flags().BoolVar(&all, "all", false, "all dead letters of the sink")
	return cmd
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}
