package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"mooring/internal/base/errs"
	"mooring/internal/server/api/client"
	"mooring/internal/server/api/v1"
)

const statusHelp = `Tells how the running server does: whether it can do its work and if not, why, where it listens, and what it counted since it
started. All counters, for machines, are at /metrics of the management API. The exit code is 5 when it is not ready.`

const whoamiHelp = `Tells who the server takes you for: your name in the audit record, your role, and what it may do.`

func (c *cli) statusCommand() *cobra.Command {
	return &cobra.Command{
		Use: "status", Short: "Tell how the server does", Long: statusHelp,
		Example: "  mooring status\n  mooring status --json",
		Args:    needs(),
		RunE:    c.online(c.status),
	}
}

func (c *cli) whoamiCommand() *cobra.Command {
	return &cobra.Command{
		Use: "whoami", Short: "Tell who the server takes you for", Long: whoamiHelp,
		Example: "  mooring whoami\n  mooring whoami --server https://pki.example.com:9443 --cert me.pem --key me.key --ca root.pem",
		Args:    needs(),
		RunE:    c.online(c.whoami),
	}
}

func (c *cli) status(ctx context.Context, s *client.Client, _ []string) error {
	st, err := s.Status(ctx)
	if err != nil {
		return err
	}
	err = c.show(st, func(w io.Writer) {
		ready := "yes"
		if !st.Ready.Ready {
			ready = "NO"
		}
		fact(w, "Ready", ready)
		for _, k := range st.Ready.Checks {
			if !k.OK {
				fact(w, "  "+k.Name, k.Text)
			}
		}
		fact(w, "Version", st.Version.Version)
		fact(w, "Started", within(st.Started, time.Now()))
		fact(w, "Certificates issued since", fmt.Sprint(st.Issued))
		fmt.Fprintln(w)
		row(w, "LISTENER", "ADDRESS", "OPEN", "ACCEPTED", "REFUSED")
		for _, l := range st.Listeners {
			var refused uint64
			for _, n := range l.Refused {
				refused += n
			}
			row(w, l.Name, l.Address, fmt.Sprint(l.Open), fmt.Sprint(l.Accepted), fmt.Sprint(refused))
		}
	})
	return errors.Join(err, notReady(st.Ready))
}

// notReady is the error of a server that cannot do its work, for the exit code; nil when it can.
func notReady(r v1.Readiness) error {
	if r.Ready {
		return nil
	}
	var all []string
	for _, k := range r.Checks {
		if !k.OK {
			all = append(all, k.Text)
		}
	}
	return errs.New(errs.Unavailable, "the server is not ready: %s", strings.Join(all, "; "))
}

func (c *cli) whoami(ctx context.Context, s *client.Client, _ []string) error {
	who, err := s.WhoAmI(ctx)
	if err != nil {
		return err
	}
	return c.show(who, func(w io.Writer) {
		fact(w, "Actor", who.Actor)
		fact(w, "Role", orNone(who.Role))
		fact(w, "By", who.Via)
		fact(w, "May", strings.Join(who.Permissions, ", "))
	})
}
