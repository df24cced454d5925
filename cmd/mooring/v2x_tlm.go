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

const v2xTLMHelp = `Sees to the trust list manager, whose list (ECTL) says which roots are believed and where their lists are; vehicles and others then need to know nobody
but the manager. The list is served by listen.v2x_cpoc. It works on a running server. What changes something needs the permission v2x.tlm, which the role v2x-tlm has.`

const v2xTLMInitHelp = `Makes the trust list manager, with its first list, which has no roots yet. The list says where it is to be had: set v2x.cpoc_url or listen.v2x_cpoc before.`

const v2xTLMRekeyHelp = `Makes the trust list manager that follows the present one, for which that vouches by a link certificate: whoever believes the present one goes on to it.
Its lists count from 0. A manager needs it before its list has the number 254, and before its certificate ends. The last list of the present one stays available.`

const v2xTLMAddHelp = `Puts a root on the list: FILE has its certificate, --dc says where its lists are. It may be a root of this installation (mooring v2x rca export) or anybody's;
whether its operators are to be trusted is yours to find out. A root that follows one on the list is named as its successor: those of this installation are known, whichever
comes first; for others put the one before on the list first, and give its link certificate with --link.`

const v2xTLMExportHelp = `Writes the certificate of the trust list manager, which vehicles are to believe, in octets (COER); or with --what one of its lists: ctl is the list, delta
what changed in it last, link the link certificate to the manager that follows it. Without --id it is the newest manager.`

func (c *cli) v2xTLMCommand() *cobra.Command {
	var first, next string
	initial := &cobra.Command{Use: "init", Short: "Make the trust list manager", Long: v2xTLMInitHelp, Example: "  mooring v2x tlm init --name \"Acme TLM\"", Args: needs(),
		RunE: c.online(func(ctx context.Context, s *client.Client, _ []string) error {
			a, err := s.CreateV2XManager(ctx, first)
			return c.v2xShown(a, err)
		})}
	initial.Flags().StringVar(&first, "name", "Mooring TLM", "how it is called")
	rekey := &cobra.Command{Use: "rekey", Short: "Make the manager that follows the present one", Long: v2xTLMRekeyHelp, Example: "  mooring v2x tlm rekey", Args: needs(),
		RunE: c.online(func(ctx context.Context, s *client.Client, _ []string) error {
			a, err := s.RekeyV2XManager(ctx, next)
			return c.v2xShown(a, err)
		})}
	rekey.Flags().StringVar(&next, "name", "", "how it is called; without it, as the present one with a number")
	return group(&cobra.Command{Use: "tlm", Short: "See to the trust list manager for vehicles", Long: v2xTLMHelp,
		Example: "  mooring v2x tlm init --name \"Acme TLM\"\n  mooring v2x tlm add root.oer --dc http://dc.example.com"},
		initial, c.v2xListCommand("tlm", "List the trust list managers", "tlm"), c.v2xShowAuthorityCommand("tlm"), rekey,
		&cobra.Command{Use: "roots", Short: "List the roots on the list", Long: "Lists the roots on the list of the trust list manager. It needs the permission v2x.read.", Example: "  mooring v2x tlm roots", Args: needs(),
			RunE: c.online(func(ctx context.Context, s *client.Client, _ []string) error {
				all, err := s.V2XRoots(ctx)
				return c.v2xRoots(all, err)
			})},
		c.v2xAddRootCommand(),
		&cobra.Command{Use: "remove ID", Short: "Take a root off the list", Long: "Takes a root off the list of the trust list manager: who follows the list believes it no longer. ID is its HashedId8.", Example: "  mooring v2x tlm remove EB038C02072DD13C", Args: needs("ID"),
			RunE: c.withID(func(ctx context.Context, s *client.Client, id string) error {
				all, err := s.ExpelV2XRoot(ctx, id)
				return c.v2xRoots(all, err)
			})},
		c.v2xExportCommand("tlm", "Write the certificate or a list of the manager", v2xTLMExportHelp))
}

func (c *cli) v2xAddRootCommand() *cobra.Command {
	var a v1.V2XAdmit
	var link string
	cmd := &cobra.Command{Use: "add FILE", Short: "Put a root on the list", Long: v2xTLMAddHelp,
		Example: "  mooring v2x tlm add root.oer --dc http://dc.example.com\n  mooring v2x tlm add theirs-2.oer --dc http://dc.example.org --link theirs-link.oer", Args: needs("FILE")}
	cmd.Flags().StringVar(&a.URL, "dc", "", "where its lists are")
	cmd.Flags().StringVar(&link, "link", "", "file with the link certificate of the root that it follows")
	cmd.RunE = c.online(func(ctx context.Context, s *client.Client, args []string) (err error) {
		if a.URL == "" {
			return usagef("name the distribution centre of the root by --dc")
		}
		if a.Certificate, err = readOctets(args[0]); err != nil {
			return err
		}
		if link != "" {
			if a.Link, err = readOctets(link); err != nil {
				return err
			}
		}
		r, err := s.AdmitV2XRoot(ctx, a)
		if err != nil {
			return err
		}
		return c.v2xRoots([]v1.V2XListedRoot{r}, nil)
	})
	return cmd
}

func (c *cli) v2xRoots(all []v1.V2XListedRoot, err error) error {
	if err != nil {
		return err
	}
	if all == nil {
		all = []v1.V2XListedRoot{}
	}
	return c.show(all, func(w io.Writer) {
		row(w, "ID", "NAME", "UNTIL", "FOLLOWS", "LISTS")
		for _, r := range all {
			row(w, r.ID, r.Name, r.NotAfter.Format(time.DateOnly), r.Follows, r.URL)
		}
	})
}

const v2xDCHelp = `Shows and writes the lists that the distribution centre gives out: trust lists, what changed in them, revocation lists, link certificates. The centre itself is
served by the server where listen.v2x_dc is set, from the same lists.`

func (c *cli) v2xDCCommand() *cobra.Command {
	list := &cobra.Command{Use: "list", Short: "List the lists of all roots", Long: "Lists the lists of all roots, with their numbers and ends. It needs the permission v2x.read.", Example: "  mooring v2x dc list\n  mooring v2x dc list --json", Args: needs(),
		RunE: c.online(func(ctx context.Context, s *client.Client, _ []string) error { return c.v2xLists(ctx, s) })}
	return group(&cobra.Command{Use: "dc", Short: "See what the distribution centre for vehicles gives out", Long: v2xDCHelp, Example: "  mooring v2x dc list\n  mooring v2x dc export crl.oer --what crl"},
		list, c.v2xExportCommand("rca", "Write a list", v2xExportHelp))
}

func (c *cli) v2xLists(ctx context.Context, s *client.Client) error {
	all, err := s.V2XAuthorities(ctx)
	if err != nil {
		return err
	}
	shown := []v1.V2XAuthority{}
	for _, a := range all {
		if a.Role != "rca" {
			continue
		}
		if a, err = s.V2XAuthority(ctx, a.ID); err != nil {
			return err
		}
		a.Certificate = nil
		shown = append(shown, a)
	}
	return c.show(shown, func(w io.Writer) {
		row(w, "ROOT", "LIST", "NUMBER", "ENTRIES", "UNTIL")
		for _, a := range shown {
			for _, l := range a.Lists {
				number, until := "", "over"
				if l.Sequence != nil {
					number = fmt.Sprint(*l.Sequence)
				}
				if l.NextUpdate != nil {
					until = minute(*l.NextUpdate)
				}
				if l.List == "link" {
					until = ""
				}
				row(w, a.ID, l.List, number, fmt.Sprint(l.Entries), until)
			}
		}
	})
}
