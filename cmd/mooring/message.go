package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"mooring/internal/base/errs"
	"mooring/internal/server/api/client"
	"mooring/internal/server/api/v1"
)

const publishHelp = `Publishes a message as the platform, to whichever devices and services subscribe to its topic, and returns when it is stored. The payload is the
second argument, or with --file the content of a file ("-" is standard input), or nothing. With --retain it is kept for those who subscribe later; without
a payload it then removes what is kept. It needs the permission message.publish and is recorded.`

const subscribeHelp = `Prints messages as they are published to topics that the filter matches, whoever publishes them, until it is interrupted or --count of them have
come; with --json one object a line, whose payload is base64. It shows what comes from now on, and takes nothing away from those for whom it is meant. It needs
the permission message.read.`

const deviceTailHelp = `Prints what a device publishes, as it does, until it is interrupted or --count messages have come. --filter keeps to some of its topics.`

const connectionHelp = `Devices and services that are connected to this server and talk by MQTT or CoAP.`

const connectionListHelp = `Lists live connections of the server that is asked, and of those who are back when and why it cut them off last. Of who is not connected, "mooring device show" tells
in its last events.`

const connectionEndHelp = `Ends the connections of a device or service to this server. It may connect again: to cut it off, suspend it, report it lost, or revoke its
certificate, which ends its connections everywhere by itself.`

// maxPayload bounds what is published at once, in octets.
const maxPayload = 1 << 20

func (c *cli) publishCommand() *cobra.Command {
	var m v1.NewMessage
	var file string
	cmd := &cobra.Command{
		Use: "publish TOPIC [PAYLOAD]", Short: "Publish a message to devices and services", Long: publishHelp,
		Example: "  mooring publish v1/meter-1/cmd/reboot now --qos 1\n  mooring publish v1/group/plant-3/notice --file notice.json --retain",
		Args:    from(1, "TOPIC", "PAYLOAD"),
		RunE: c.online(func(ctx context.Context, s *client.Client, args []string) (err error) {
			m.Topic = args[0]
			if m.Payload, err = c.payload(args[1:], file); err != nil {
				return err
			}
			said, err := s.Publish(ctx, m)
			if err != nil {
				return err
			}
			shown := map[string]any{"topic": m.Topic, "octets": len(m.Payload)}
			if said.Listeners != nil {
				shown["listeners"] = *said.Listeners
			}
			if err := c.show(shown, func(w io.Writer) {
				fact(w, "Published", m.Topic)
				fact(w, "Octets", fmt.Sprint(len(m.Payload)))
				if said.Listeners != nil {
					fact(w, "Listeners here", fmt.Sprint(*said.Listeners))
				}
			}); err != nil {
				return err
			}
			if said.Listeners != nil && *said.Listeners == 0 {
				c.advise("Nobody who is connected to this server subscribes to it now. %s See mooring connection list.", laterFor(m))
			}
			return nil
		}),
	}
	flags := cmd.Flags()
	flags.SortFlags = false
	flags.StringVar(&file, "file", "", `take the payload from a file, "-" for standard input`)
	flags.IntVar(&m.QoS, "qos", 0, "the most that subscribers get it with: 0, 1 or 2")
	flags.BoolVar(&m.Retain, "retain", false, "keep it for those that subscribe later")
	flags.IntVar(&m.Expiry, "expiry", 0, "seconds after which it is of no use (default: never)")
	flags.StringVar(&m.ContentType, "content-type", "", "of the payload, such as application/json")
	return cmd
}

// laterFor says who still gets a message that nobody listens to.
func laterFor(m v1.NewMessage) string {
	switch {
	case m.QoS > 0:
		return "Whoever subscribed with QoS 1 or 2, is away and comes back still gets it."
	case m.Retain:
		return "With QoS 0 it waits for nobody who is away; whoever subscribes from now on gets it, since it is retained."
	}
	return "With QoS 0 it waits for nobody: for those who are away and come back, publish it with --qos 1."
}

// payload returns what is to be published.
func (c *cli) payload(args []string, file string) ([]byte, error) {
	switch {
	case len(args) > 0 && file != "":
		return nil, usagef("give the payload as an argument or by --file, not both")
	case len(args) > 0:
		return []byte(args[0]), nil
	case file == "":
		return nil, nil
	case file != "-":
		return readFile(file)
	}
	data, err := io.ReadAll(io.LimitReader(c.in, maxPayload+1))
	if err == nil && len(data) > maxPayload {
		err = errs.New(errs.Invalid, "the payload has more than %d octets", maxPayload)
	}
	return data, err
}

// tail are the flags of commands that print messages.
type tail struct {
	count  int
	filter string
}

func (t *tail) flags(cmd *cobra.Command) {
	cmd.Flags().IntVar(&t.count, "count", 0, "end after so many messages (default: never)")
}

func (c *cli) subscribeCommand() *cobra.Command {
	var t tail
	cmd := &cobra.Command{
		Use: "subscribe FILTER", Short: "Print messages as they are published", Long: subscribeHelp,
		Example: "  mooring subscribe 'v1/+/telemetry/#'\n  mooring subscribe '#' --count 10 --json",
		Args:    needs("FILTER"),
		RunE: c.online(func(ctx context.Context, s *client.Client, args []string) error {
			t.filter = args[0]
			return c.printMessages(ctx, s, "", t)
		}),
	}
	t.flags(cmd)
	return cmd
}

func (c *cli) deviceTailCommand() *cobra.Command {
	var t tail
	cmd := &cobra.Command{
		Use: "tail NAME", Short: "Print what a device publishes", Long: deviceTailHelp,
		Example: "  mooring device tail meter-1\n  mooring device tail meter-1 --filter 'v1/+/telemetry/#' --json",
		Args:    needs("NAME"),
		RunE: c.online(func(ctx context.Context, s *client.Client, args []string) error {
			return c.printMessages(ctx, s, args[0], t)
		}),
	}
	t.flags(cmd)
	cmd.Flags().StringVar(&t.filter, "filter", "", "topics that match this filter alone")
	return cmd
}

// errEnough ends a stream of messages of which enough have come.
var errEnough = errors.New("enough")

func (c *cli) printMessages(ctx context.Context, s *client.Client, thing string, t tail) error {
	if t.count < 0 {
		return usagef("--count %d is less than 1", t.count)
	}
	n := 0
	err := s.Messages(ctx, t.filter, thing, func() { c.advise("Messages from now on; Ctrl+C ends.") }, func(m v1.Message) error {
		if err := c.printMessage(m); err != nil {
			return err
		}
		if n++; n == t.count {
			return errEnough
		}
		return nil
	})
	if errors.Is(err, errEnough) || ctx.Err() != nil {
		return nil
	}
	return err
}

// shownPayload is how much of a payload people are shown, in octets.
const shownPayload = 200

func (c *cli) printMessage(m v1.Message) error {
	if c.json {
		line, err := json.Marshal(m)
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(c.out, "%s\n", line)
		return err
	}
	from := m.Thing
	if from == "" {
		from = "(operator)"
	}
	text := m.Payload
	if len(text) > shownPayload {
		text = text[:shownPayload]
	}
	shown := fmt.Sprintf("%x", text)
	if utf8.Valid(text) || len(text) == shownPayload && utf8.Valid(text[:shownPayload-utf8.UTFMax]) {
		shown = printable(string(text))
	}
	if len(text) < len(m.Payload) {
		shown += fmt.Sprintf("… (%d octets)", len(m.Payload))
	}
	_, err := fmt.Fprintf(c.out, "%s  %s  %s  %s\n", m.At.UTC().Format(time.RFC3339), printable(from), printable(m.Topic), shown)
	return err
}

// lastCut says when and why a device was cut off that is connected again.
func lastCut(l *v1.MessageConnection) string {
	if l.CutAt == nil {
		return ""
	}
	return minute(*l.CutAt) + " " + l.LastCut
}

func (c *cli) connectionCommand() *cobra.Command {
	var thing, policyGroup string
	var limit int
	list := &cobra.Command{
		Use: "list", Short: "List live connections", Long: connectionListHelp,
		Example: "  mooring connection list\n  mooring connection list --device meter-1 --json",
		Args:    needs(),
		RunE: c.online(func(ctx context.Context, s *client.Client, _ []string) error {
			if limit < 1 || limit > 10000 {
				return usagef("--limit %d is not between 1 and 10000", limit)
			}
			all, err := s.Connections(ctx, thing, policyGroup, limit)
			if err != nil {
				return err
			}
			if len(all) == 0 {
				c.advise("None.")
			}
			return c.show(v1.MessageConnectionList{Connections: all}, func(w io.Writer) {
				if len(all) > 0 {
					row(w, "NAME", "CLIENT", "GROUP", "BY", "FROM", "SINCE", "SUBSCRIPTIONS", "IN FLIGHT", "QUEUED", "LAST CUT")
				}
				for _, l := range all {
					row(w, l.Thing, l.Client, l.Group, l.Front, l.Address, minute(l.Since), fmt.Sprint(l.Subscriptions), fmt.Sprint(l.InFlight), fmt.Sprint(l.Queued), lastCut(&l))
				}
			})
		}),
	}
	list.Flags().SortFlags = false
	list.Flags().StringVar(&thing, "device", "", "of this device or service: name or id")
	list.Flags().StringVar(&policyGroup, "group", "", "of this group of the policy")
	list.Flags().IntVar(&limit, "limit", 1000, "connections at most, 1 to 10000")
	return group(&cobra.Command{
		Use: "connection", Short: "See who is connected and talks", Long: connectionHelp,
		Example: "  mooring connection list\n  mooring connection end meter-1",
	}, list, &cobra.Command{
		Use: "end NAME", Short: "End the connections of a device", Long: connectionEndHelp,
		Example: "  mooring connection end meter-1",
		Args:    needs("NAME"),
		RunE: c.online(func(ctx context.Context, s *client.Client, args []string) error {
			e, err := s.EndConnections(ctx, args[0])
			if err != nil {
				return err
			}
			return c.show(e, func(w io.Writer) { fact(w, "Ended", fmt.Sprint(e.Ended)) })
		}),
	})
}
