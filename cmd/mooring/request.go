package main

import (
	"context"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"mooring/internal/server/api/client"
	"mooring/internal/server/api/v1"
)

const requestHelp = `Where a profile demands approval, a device's first request waits until a person decides. The device asks again by itself and gets
its certificate then.`

const requestListHelp = `Lists the requests that wait, oldest first. Compare KEY, the SHA-256 of the public key, with what the device shows before you
approve: it is the only proof that the request came from that device. Give REQUEST with the decision, so that it is about what you compared:
whoever holds the device's token can ask for something else at any moment.`

const requestApproveHelp = `Approves the request that a device has waiting. The certificate is issued when the device asks again.

A rescue, that is, a renewal by a certificate that has expired, can take two people: then the first one's decision waits for the second one's,
who gives the same command.

--request says which one: the one that you compared. When another one waits by now nothing is approved.`

const requestRefuseHelp = `Refuses the request that a device has waiting. The device is told so when it asks again.

With --request nothing is refused when another request than this one waits by now.`

func (c *cli) requestCommand() *cobra.Command {
	var limit int
	list := &cobra.Command{
		Use: "list", Short: "List the requests that wait", Long: requestListHelp,
		Example: "  mooring request list",
		Args:    needs(),
		RunE: c.online(func(ctx context.Context, s *client.Client, _ []string) error {
			return c.requestList(ctx, s, limit)
		}),
	}
	list.Flags().IntVar(&limit, "limit", 100, "at most so many, 1 to 1000")
	return group(&cobra.Command{
		Use: "request", Short: "Decide on requests that wait for approval", Long: requestHelp,
		Example: "  mooring request list\n  mooring request approve gw-1 --request 0d7f3a4a7c9a2d5f9e7f1a2b3c6f0cbd",
	}, list,
		c.decideCommand("approve", "Approve a request", requestApproveHelp, (*client.Client).Approve),
		c.decideCommand("refuse", "Refuse a request", requestRefuseHelp, (*client.Client).Refuse),
	)
}

func (c *cli) requestList(ctx context.Context, s *client.Client, limit int) error {
	if limit < 1 || limit > 1000 {
		return usagef("--limit %d is not between 1 and 1000", limit)
	}
	requests, err := s.Requests(ctx, limit)
	if err != nil {
		return err
	}
	if len(requests) == 0 {
		c.advise("None waits.")
	}
	return c.show(v1.RequestList{Requests: requests}, func(w io.Writer) {
		if len(requests) == 0 {
			return
		}
		row(w, "DEVICE", "REQUEST", "PROFILE", "SINCE", "ASKS FOR", "KEY")
		for _, r := range requests {
			asks := strings.Join(nonEmpty(r.Subject, r.Names), " ")
			if !r.Expired.IsZero() {
				asks += " (rescue: expired " + minute(r.Expired) + ")"
			}
			row(w, r.Device, r.ID, r.Profile, within(r.Created, time.Now()), asks, r.Key+" "+r.SPKI)
		}
	})
}

func (c *cli) decideCommand(verb, short, help string, decide func(c *client.Client, ctx context.Context, device, seen string) (v1.Request, error)) *cobra.Command {
	var seen string
	cmd := &cobra.Command{
		Use: verb + " DEVICE", Short: short, Long: help,
		Example: "  mooring request " + verb + " gw-1 --request 0d7f3a4a7c9a2d5f9e7f1a2b3c6f0cbd",
		Args:    needs("DEVICE"),
		RunE: c.online(func(ctx context.Context, s *client.Client, args []string) error {
			if verb == "approve" && seen == "" {
				return usagef("mooring request approve needs --request: the one that you looked at, as mooring request list shows it in REQUEST")
			}
			r, err := decide(s, ctx, args[0], seen)
			if err != nil {
				return err
			}
			return c.show(r, func(w io.Writer) {
				fact(w, "Device", r.Device)
				fact(w, "Request", r.State)
				fact(w, "Key", r.Key+" "+r.SPKI)
				if r.Second != "" {
					fact(w, "Not yet decided", "a second person must approve it too, by the same command; approval "+r.Second)
				}
			})
		}),
	}
	cmd.Flags().StringVar(&seen, "request", "", "only this request, as the list shows it in REQUEST")
	return cmd
}
