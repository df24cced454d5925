package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"mooring/internal/server/api/client"
	"mooring/internal/server/api/v1"
)

const deviceListHelp = `Lists devices, a page at a time or all of them. Filters can be combined; those about certificates must fit one and the same
certificate, which is not revoked. With --expires-before or --expires-after the order is by the end of the certificate, so that the most
urgent come first; else it is by id, which is no order that people know, but a stable one.

--count prints only how many there are. A list never shows what is not so; it can miss what another server of a cluster changed within the
last seconds.`

// selection are the flags that select devices.
type selection struct {
	client.Devices
	expiresBefore, expiresAfter, seenBefore, seenAfter string
}

func (s *selection) flags(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&s.Group, "group", "", "only this group")
	flags.StringVar(&s.State, "state", "", "only this state: registered, enrolled, suspended, lost, retired")
	flags.StringVar(&s.Profile, "profile", "", "only this profile")
	flags.StringVar(&s.Tag, "tag", "", "only with this tag: KEY or KEY=VALUE")
	flags.StringVar(&s.Issuer, "issuer", "", "only with a certificate of this CA, by name or id")
	flags.StringVar(&s.Algorithm, "algorithm", "", "only with a certificate for this kind of key, such as ec-p256")
	flags.StringVar(&s.expiresBefore, "expires-before", "", "only with a certificate that ends before: 2026-12-24, or 30d from now")
	flags.StringVar(&s.expiresAfter, "expires-after", "", "only with a certificate that ends then or later: 2026-12-24, or 30d from now")
	flags.StringVar(&s.seenBefore, "seen-before", "", "only last heard of before, or never: 2026-11-01, or 30d ago")
	flags.StringVar(&s.seenAfter, "seen-after", "", "only last heard of then or later: 2026-11-01, or 30d ago")
}

// times reads the flags that are times. What was seen was seen in the past, so a distance counts backwards there.
func (s *selection) times(now time.Time) (err error) {
	if s.ExpiresBefore, err = moment("--expires-before", s.expiresBefore, now); err != nil {
		return err
	}
	if s.ExpiresAfter, err = moment("--expires-after", s.expiresAfter, now); err != nil {
		return err
	}
	if s.SeenBefore, err = ago("--seen-before", s.seenBefore, now); err != nil {
		return err
	}
	s.SeenAfter, err = ago("--seen-after", s.seenAfter, now)
	return err
}

// ago is moment for the past: 30d is 30 days ago.
func ago(flag, s string, now time.Time) (time.Time, error) {
	t, err := moment(flag, s, now)
	if err == nil && t.After(now) {
		t = now.Add(-t.Sub(now))
	}
	return t, err
}

func (c *cli) deviceListCommand() *cobra.Command {
	var f selection
	var p paging
	var count bool
	cmd := &cobra.Command{
		Use: "list", Short: "List or count devices", Long: deviceListHelp,
		Example: "  mooring device list --group plant-3 --state enrolled\n  mooring device list --expires-before 30d\n  mooring device list --tag colour=red --all --json\n" +
			"  mooring device list --algorithm ec-p256 --issuer devices --seen-before 90d --count",
		Args: needs(),
	}
	cmd.Flags().SortFlags = false
	f.flags(cmd)
	cmd.Flags().BoolVar(&count, "count", false, "only tell how many there are")
	p.flags(cmd)
	cmd.RunE = c.online(func(ctx context.Context, s *client.Client, _ []string) (err error) {
		if err := f.times(time.Now()); err != nil {
			return err
		}
		if count {
			n, err := s.CountDevices(ctx, f.Devices)
			if err != nil {
				return err
			}
			return c.show(n, func(w io.Writer) { fmt.Fprintln(w, n.Count) })
		}
		return listing[v1.Device]{
			name:  "devices",
			head:  []string{"NAME", "STATE", "PROFILE", "GROUP", "CERTIFICATE ENDS", "LAST SEEN", "ID"},
			cells: deviceCells,
			fetch: func(cursor string, limit int) ([]v1.Device, string, error) {
				f.Cursor, f.Limit = cursor, limit
				page, err := s.Devices(ctx, f.Devices)
				return page.Devices, page.Next, err
			},
		}.print(c, cmd, p)
	})
	return cmd
}

func deviceCells(d v1.Device) []string {
	return []string{d.Name, d.State, d.Profile, d.Group, firstEnd(d.Slots), minute(d.LastSeen), d.ID}
}

// firstEnd is when the first of the certificates that are not revoked ends.
func firstEnd(slots []v1.Slot) string {
	ends := slices.DeleteFunc(slices.Clone(slots), func(s v1.Slot) bool { return s.NotAfter.IsZero() || !s.Revoked.IsZero() })
	if len(ends) == 0 {
		return ""
	}
	first := slices.MinFunc(ends, func(a, b v1.Slot) int { return a.NotAfter.Compare(b.NotAfter) })
	if first.NotAfter.Year() == 9999 {
		return "never" // RFC 5280, section 4.1.2.5: no well-defined expiration date
	}
	return minute(first.NotAfter)
}
