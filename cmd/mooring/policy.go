package main

import (
	"context"
	"fmt"
	"io"
	"path/filepath"

	"github.com/spf13/cobra"

	"mooring/internal/base/errs"
	"mooring/internal/server/api/client"
	"mooring/internal/server/api/v1"
)

const policyHelp = `Says which devices and services may publish and subscribe where. The policy is one text of groups, which are matched by what the registry
knows of a device, never by what it says of itself; what no rule allows is refused. Without one of your own a built-in policy holds, which "mooring policy
show" prints. doc/policies.md is the guide.`

const policyShowHelp = `Prints the policy that holds, as a text that "mooring policy set" takes.`

const policySetHelp = `Replaces the policy by the text in a file. All mistakes are told with their lines, and then nothing is changed. Connections that are there are
held to the new policy at once: what they may no longer do ends, without a new connection. --version N refuses when the policy is not the one with this
number any more, for scripts that change what they have read. It needs the permission message.policy.`

const policyTestHelp = `Tells whether a device may do something, and which rule decided, or what each rule lacks. Nothing is published.`

func (c *cli) policyCommand() *cobra.Command {
	return group(&cobra.Command{
		Use: "policy", Short: "Say who may publish and subscribe where", Long: policyHelp,
		Example: "  mooring policy show > policy.txt\n  mooring policy set policy.txt\n  mooring policy test meter-1 publish v1/meter-1/telemetry/power",
	}, &cobra.Command{
		Use: "show", Short: "Print the policy", Long: policyShowHelp,
		Example: "  mooring policy show > policy.txt",
		Args:    needs(),
		RunE:    c.online(c.policyShow),
	}, c.policySetCommand(), c.policyTestCommand())
}

func (c *cli) policyShow(ctx context.Context, s *client.Client, _ []string) error {
	p, err := s.Policy(ctx)
	if err != nil {
		return err
	}
	if c.json {
		return c.show(p, nil)
	}
	if _, err := io.WriteString(c.out, p.Text); err != nil {
		return err
	}
	switch {
	case p.Version == 0:
		c.advise("This is the policy that is built in. To have your own, change the text and give it to mooring policy set FILE")
	default:
		c.advise("Version %d, set at %s by %s.", p.Version, minute(*p.Changed), p.By)
	}
	return nil
}

func (c *cli) policySetCommand() *cobra.Command {
	version := int64(-1)
	cmd := &cobra.Command{
		Use: "set FILE", Short: "Replace the policy", Long: policySetHelp,
		Example: "  mooring policy set policy.txt\n  mooring policy set policy.txt --version 3",
		Args:    needs("FILE"),
		RunE: c.online(func(ctx context.Context, s *client.Client, args []string) error {
			text, err := readFile(args[0])
			if err != nil {
				return err
			}
			if version < 0 {
				now, err := s.Policy(ctx)
				if err != nil {
					return err
				}
				version = now.Version
			}
			p, err := s.SetPolicy(ctx, v1.NewMessagePolicy{Text: string(text), File: shortFile(args[0]), Seen: version})
			if err != nil {
				return err
			}
			return c.show(p, func(w io.Writer) { fact(w, "Version", fmt.Sprint(p.Version)) })
		}),
	}
	cmd.Flags().Int64Var(&version, "version", -1, "the version that is replaced (default: whichever holds)")
	return cmd
}

// shortFile is the name of a file as errors tell it: all of it, or where that is too long its end.
func shortFile(name string) string {
	const most = 255
	if len(name) > most {
		return filepath.Base(name)[:min(most, len(filepath.Base(name)))]
	}
	return name
}

func (c *cli) policyTestCommand() *cobra.Command {
	var q v1.PolicyQuestion
	cmd := &cobra.Command{
		Use: "test NAME publish|subscribe|will TOPIC", Short: "Tell whether a device may do something, and why", Long: policyTestHelp,
		Example: "  mooring policy test meter-1 publish v1/meter-1/telemetry/power\n  mooring policy test meter-1 subscribe 'v1/+/cmd/#'",
		Args:    needs("NAME", "publish|subscribe|will", "TOPIC"),
		RunE: c.online(func(ctx context.Context, s *client.Client, args []string) error {
			q.Thing, q.Action, q.Topic = args[0], args[1], args[2]
			v, err := s.TestPolicy(ctx, q)
			if err != nil {
				return err
			}
			if err := c.show(v, func(w io.Writer) {
				answer := "refused"
				if v.Allowed {
					answer = "allowed"
				}
				fact(w, "Answer", answer)
				fact(w, "Group", v.Group)
				for _, line := range v.Why {
					fact(w, "Why", line)
				}
			}); err != nil {
				return err
			}
			if !v.Allowed {
				return errs.New(errs.Denied, "%s may not %s %s", q.Thing, q.Action, q.Topic)
			}
			return nil
		}),
	}
	flags := cmd.Flags()
	flags.SortFlags = false
	flags.IntVar(&q.QoS, "qos", 0, "quality of service: 0, 1 or 2")
	flags.BoolVar(&q.Retain, "retain", false, "with the retain flag")
	flags.IntVar(&q.Size, "size", 0, "octets of the payload")
	flags.StringVar(&q.Client, "client", "", "client identifier (default: the name)")
	return cmd
}
