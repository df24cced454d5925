package main

import (
	"context"
	"fmt"
	"io"
	"strconv"

	"github.com/spf13/cobra"

	"mooring/internal/server/api/client"
	"mooring/internal/server/api/v1"
)

const anchorHelp = `During a rollover devices have to come to trust a new root before the old one may go. For each device the best evidence is kept that it
does:

  1  delivered   the root was among the CA certificates that the device was handed
  2  reported    the device says that it trusts the root; our agent does so at each renewal
  3  proven      the device completed a handshake under a name of tls.anchors that leads to this root alone, and authenticated itself there

Only roots are shown for which an older one vouches (mooring ca cross). Devices that are lost or retired, or never had a certificate, do
not count.`

const anchorListHelp = `Lists the roots that the fleet has to come to trust, and how many devices do, by their best evidence.`

const anchorMissingHelp = `Lists the devices of which there is no evidence of at least the given grade that they trust the root. An empty list is what to wait for
before the old root goes.`

func (c *cli) anchorCommand() *cobra.Command {
	var of string
	list := &cobra.Command{
		Use: "list", Short: "List new roots and how many devices trust them", Long: anchorListHelp,
		Example: "  mooring anchor list\n  mooring anchor list --group hall-3",
		Args:    needs(),
		RunE:    c.online(func(ctx context.Context, s *client.Client, _ []string) error { return c.anchorList(ctx, s, of) }),
	}
	list.Flags().StringVar(&of, "group", "", "only devices of this group")
	return group(&cobra.Command{
		Use: "anchor", Short: "See which devices trust a new root", Long: anchorHelp,
		Example: "  mooring anchor list\n  mooring anchor missing --anchor root-g2",
	}, list, c.anchorMissingCommand())
}

func (c *cli) anchorList(ctx context.Context, s *client.Client, of string) error {
	all, err := s.Anchors(ctx, of)
	if err != nil {
		return err
	}
	if len(all) == 0 {
		c.advise("None: no root vouches for a newer one now.")
	}
	return c.show(v1.AnchorList{Anchors: all}, func(w io.Writer) {
		if len(all) > 0 {
			row(w, "ROOT", "ID", "PROVEN", "REPORTED", "DELIVERED", "NONE", "TRUST IT FOR SURE")
		}
		for _, a := range all {
			total := a.None + a.Delivered + a.Reported + a.Proven
			share := "-"
			if total > 0 {
				share = fmt.Sprintf("%d %%", a.Proven*100/total)
			}
			n := func(i int64) string { return strconv.FormatInt(i, 10) }
			row(w, a.Name, a.ID, n(a.Proven), n(a.Reported), n(a.Delivered), n(a.None), share)
		}
	})
}

func (c *cli) anchorMissingCommand() *cobra.Command {
	var f client.Missing
	var p paging
	cmd := &cobra.Command{
		Use: "missing", Short: "List devices that do not trust a new root yet", Long: anchorMissingHelp,
		Example: "  mooring anchor missing --anchor root-g2 --group hall-3\n  mooring anchor missing --anchor root-g2 --min-grade 1 --all --json",
		Args:    needs(),
	}
	cmd.RunE = c.online(func(ctx context.Context, s *client.Client, _ []string) error {
		switch {
		case f.Anchor == "":
			return usagef("mooring anchor missing needs --anchor, the name of the new root")
		case f.Grade < 1 || f.Grade > 3:
			return usagef("--min-grade must be 1 (delivered), 2 (reported) or 3 (proven)")
		}
		return listing[v1.MissingAnchor]{name: "devices", head: []string{"NAME", "ID", "GROUP", "STATE", "EVIDENCE", "SINCE"}, cells: missingCells,
			fetch: func(cursor string, limit int) ([]v1.MissingAnchor, string, error) {
				f.Cursor, f.Limit = cursor, limit
				page, err := s.MissingAnchor(ctx, f)
				return page.Devices, page.Next, err
			}}.print(c, cmd, p)
	})
	cmd.Flags().StringVar(&f.Anchor, "anchor", "", "name or id of the new root")
	cmd.Flags().StringVar(&f.Group, "group", "", "only devices of this group")
	cmd.Flags().IntVar(&f.Grade, "min-grade", 3, "the evidence that is asked for: 1 delivered, 2 reported, 3 proven")
	p.flags(cmd)
	return cmd
}

func missingCells(m v1.MissingAnchor) []string {
	since := ""
	if m.At != nil {
		since = minute(*m.At)
	}
	return []string{m.Name, m.ID, m.Group, m.State, []string{"none", "delivered", "reported"}[min(max(m.Grade, 0), 2)], since}
}
