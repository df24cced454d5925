package main

import (
	"context"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"mooring/internal/server/api/client"
	"mooring/internal/server/api/v1"
)

const deviceListHelp = `Lists devices, a page at a time or all of them. Filters can be combined. With --expires-before the order is by the end of the
certificate, so that the most urgent come first; else it is by id, which is no order that people know, but a stable one.`

func (c *cli) deviceListCommand() *cobra.Command {
	var f client.Devices
	var p paging
	var expires string
	cmd := &cobra.Command{
		Use: "list", Short: "List devices", Long: deviceListHelp,
		Example: "  mooring device list --group plant-3 --state enrolled\n  mooring device list --expires-before 30d\n  mooring device list --tag colour=red --all --json",
		Args:    needs(),
	}
	flags := cmd.Flags()
	flags.SortFlags = false
	flags.StringVar(&f.Group, "group", "", "only this group")
	flags.StringVar(&f.State, "state", "", "only this state: registered, enrolled, suspended, lost, retired")
	flags.StringVar(&f.Profile, "profile", "", "only this profile")
	flags.StringVar(&f.Tag, "tag", "", "only with this tag: KEY or KEY=VALUE")
	flags.StringVar(&expires, "expires-before", "", "only with a certificate that ends before: 2026-12-24, or 30d from now")
	p.flags(cmd)
	cmd.RunE = c.online(func(ctx context.Context, s *client.Client, _ []string) (err error) {
		if f.ExpiresBefore, err = moment("--expires-before", expires, time.Now()); err != nil {
			return err
		}
		return listing[v1.Device]{
			name:  "devices",
			head:  []string{"NAME", "STATE", "PROFILE", "GROUP", "CERTIFICATE ENDS", "LAST SEEN", "ID"},
			cells: deviceCells,
			fetch: func(cursor string, limit int) ([]v1.Device, string, error) {
				f.Cursor, f.Limit = cursor, limit
				page, err := s.Devices(ctx, f)
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
