package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"mooring/internal/base/errs"
	"mooring/internal/server/api/client"
	"mooring/internal/server/api/v1"
)

const revocationHelp = `The feed of revocations, for whoever must act on them at once.`

const revocationWatchHelp = `Prints every revocation, hold and release as it happens, until it is interrupted; with --json one object a line.

Each event has a cursor, its place in the record: begin with --from CURSOR+1 to go on where you ended, with --from 0 to get all that ever
happened. Without --from it begins with the present. What the server does comes at once, without a cursor ("-"), and again with it a
fraction of a second later. When the connection breaks it is made anew and goes on without missing an event.`

func (c *cli) revocationCommand() *cobra.Command {
	var from int64
	watch := &cobra.Command{
		Use: "watch", Short: "Print revocations as they happen", Long: revocationWatchHelp,
		Example: "  mooring revocation watch\n  mooring revocation watch --from 73895 --json",
		Args:    needs(),
	}
	watch.Flags().Int64Var(&from, "from", -1, "cursor to begin with: 0 for everything, -1 for the present")
	watch.RunE = c.online(func(ctx context.Context, s *client.Client, _ []string) error { return c.revocationWatch(ctx, s, from) })
	return group(&cobra.Command{
		Use: "revocation", Short: "Follow revocations", Long: revocationHelp,
		Example: "  mooring revocation watch",
	}, watch)
}

// reconnectAfter is the pause before a broken connection is made anew; it grows to reconnectMost.
const (
	reconnectAfter = time.Second
	reconnectMost  = 30 * time.Second
)

func (c *cli) revocationWatch(ctx context.Context, s *client.Client, from int64) error {
	pause, connected := reconnectAfter, false
	for {
		next, err := s.WatchRevocations(ctx, from, func(e v1.RevocationEvent) error {
			pause, connected = reconnectAfter, true
			return c.revocationPrint(e)
		})
		connected = connected || next != from
		from = next
		var gone *client.Unreachable
		switch {
		case ctx.Err() != nil:
			return nil
		case !errors.As(err, &gone) && !errs.Is(err, errs.Unavailable) && !errs.Is(err, errs.Limited), !connected:
			return err // it never worked, or it is of no use to try again
		}
		c.advise("The connection broke; it is made anew from %s.", position(from))
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return nil
		}
		pause = min(2*pause, reconnectMost)
	}
}

func position(from int64) string {
	if from < 0 {
		return "the present"
	}
	return "cursor " + strconv.FormatInt(from, 10)
}

func (c *cli) revocationPrint(e v1.RevocationEvent) error {
	if c.json {
		line, err := json.Marshal(e)
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(c.out, "%s\n", line)
		return err
	}
	cursor := "-"
	if e.Cursor != nil {
		cursor = strconv.FormatInt(*e.Cursor, 10)
	}
	_, err := fmt.Fprintf(c.out, "%s  %s  %-7s  %s  %s  %s\n", cursor, e.At.UTC().Format(time.RFC3339), e.Kind, e.Serial, e.Reason, e.Device)
	return err
}
