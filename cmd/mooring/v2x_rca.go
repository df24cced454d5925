package main

import (
	"context"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"mooring/internal/base/errs"
	"mooring/internal/server/api/client"
	"mooring/internal/server/api/v1"
)

const v2xRCAHelp = `Sees to the root for vehicles: which authorities it has issued to and where they are, its lists, and the root that follows it. It works on a running
server. What changes something needs the permission v2x.root, which the role v2x-root has, and no other authority's.`

const v2xShowAuthorityHelp = `Shows an authority: its certificate's period, where it is reached, and the lists that it publishes. ID is its HashedId8, as the listing shows it.`

const v2xIssueHelp = `Has the root issue a certificate to an authority, for the request in FILE, which "mooring v2x ea request" or "mooring v2x aa request" made, or another
implementation of TS 102 941. What the certificate says follows from --role; name and keys come from the request. A request that follows on a certificate of this root is
signed by that, and needs neither role nor address.

Anybody can sign an initial request with a key of their own: compare its digest with what the authority's operators say on another way. With --digest it is issued only
if it is that one. The trust list names the authority at once.`

const v2xRevokeHelp = `Revokes an authority for good: it leaves the trust list and comes on the revocation list. ID is its HashedId8, as "mooring v2x rca list" shows it.
Vehicles believe it until they have fetched the lists. It asks first, or with --yes goes on; where nobody is at a terminal to be asked, it wants --yes.

Vehicles drop the tickets of an authorization authority that is revoked, and get others when there is another authority; credentials of an enrolment authority that is
revoked are worth nothing until another one gives new ones. An authority begins anew with a request of its own ("mooring v2x aa request"), which "mooring v2x rca issue" answers.

A root may revoke itself: then nobody below it is believed, vehicles get neither credentials nor tickets, and their tickets are
worth nothing. What is left is to take it off the lists of trust list managers (mooring v2x tlm remove), to begin anew with the server stopped (mooring v2x init), and to
give the certificate of the new root to vehicles and authorities elsewhere. A root whose key is in good hands is followed by another one instead (mooring v2x rca rekey).`

const v2xMoveHelp = `Says where an authority is reached, which the trust list tells everybody: --url for stations, and of an enrolment authority --peer for authorization
authorities.`

const v2xRekeyRootHelp = `Makes the root that follows the present one, with a link certificate that both sign: whoever believes the present one goes on to it without being told.
The present root keeps its lists until its certificate ends. Then have the authorities follow (mooring v2x ea rekey, mooring v2x aa rekey), and if there is a trust
list manager, put the root on its list.`

const v2xExportHelp = `Writes the certificate of a root, which vehicles are to believe, in octets (COER); or with --what one of its lists: ctl is the trust list, delta what changed
in it last, crl the revocation list, link the link certificate to the root that follows it. Without --id it is the newest root of this installation.`

// v2xWhat are what can be written of a root or manager.
var v2xWhat = []string{"certificate", "ctl", "delta", "crl", "link"}

func (c *cli) v2xRCACommand() *cobra.Command {
	var name string
	rekey := &cobra.Command{Use: "rekey", Short: "Make the root that follows the present one", Long: v2xRekeyRootHelp, Example: "  mooring v2x rca rekey\n  mooring v2x rca rekey --name \"Acme RCA 2031\"", Args: needs(),
		RunE: c.online(func(ctx context.Context, s *client.Client, _ []string) error {
			a, err := s.RekeyV2XRoot(ctx, name)
			return c.v2xShown(a, err)
		})}
	rekey.Flags().StringVar(&name, "name", "", "how it is called; without it, as the present one with a number")
	return group(&cobra.Command{Use: "rca", Short: "See to the root for vehicles", Long: v2xRCAHelp, Example: "  mooring v2x rca list\n  mooring v2x rca revoke C5691C82D7E330E8"},
		c.v2xListCommand("rca", "List the root and the authorities it issued to", ""), c.v2xShowAuthorityCommand("rca"), c.v2xIssueCommand(), c.v2xMoveCommand(),
		c.v2xRevokeCommand(),
		rekey, c.v2xExportCommand("rca", "Write the certificate or a list of the root", v2xExportHelp))
}

func (c *cli) v2xRevokeCommand() *cobra.Command {
	var yes bool
	cmd := &cobra.Command{Use: "revoke ID", Short: "Revoke an authority for good", Long: v2xRevokeHelp, Example: "  mooring v2x rca revoke C5691C82D7E330E8\n  mooring v2x rca revoke C5691C82D7E330E8 --yes", Args: needs("ID"),
		RunE: c.withID(func(ctx context.Context, s *client.Client, id string) error {
			a, err := s.V2XAuthority(ctx, id)
			if err != nil {
				return err
			}
			lost, can := v2xLost[a.Role]
			if can && !yes && a.State != "revoked" { // the server refuses the others
				if err := c.sureToRevoke(a, lost); err != nil {
					return err
				}
			}
			done, err := s.RevokeV2X(ctx, id)
			if err == nil {
				c.advise(lost.next, id, a.URL)
			}
			return c.v2xShown(done, err)
		})}
	cmd.Flags().BoolVar(&yes, "yes", false, "do not ask")
	return cmd
}

// loss is what the revocation of an authority does.
type loss struct{ what, short, long, next string }

// v2xLost is that by role. What is next takes the digest and the address.
var v2xLost = map[string]loss{
	"rca": {"a root", "below which nobody would be believed any more", "nobody below it is believed: no vehicle gets a credential or ticket,\nand those that they have are worth nothing, until all begins anew",
		"Nobody below %[1]s is believed any more. Take it off the lists of trust list managers (mooring v2x tlm remove %[1]s),\nand begin anew: stop the server, then mooring v2x init --name NAME --root root.oer"},
	"ea": {"an enrolment authority", "whose vehicles would get nothing before there is another one", "vehicles get neither credentials nor tickets by it,\nand credentials that it gave are worth nothing",
		"Vehicles get neither credentials nor tickets by %[1]s. Another one begins so: mooring v2x ea request --name NAME --out ea.request, then\n" +
			"mooring v2x rca issue ea.request --role ea --url %[2]s --peer URL --digest DIGEST --out ea.oer --root root.oer, then mooring v2x ea install ea.oer --root root.oer"},
	"aa": {"an authorization authority", "whose tickets would be worth nothing any more", "all tickets that it issued are worth nothing,\nand vehicles get others only if there is another one",
		"The tickets of %[1]s are worth nothing as soon as vehicles have the lists. Another one begins so: mooring v2x aa request --name NAME --out aa.request, then\n" +
			"mooring v2x rca issue aa.request --role aa --url %[2]s --digest DIGEST --out aa.oer --root root.oer, then mooring v2x aa install aa.oer --root root.oer"},
}

// sureToRevoke asks the person at the terminal.
func (c *cli) sureToRevoke(a v1.V2XAuthority, lost loss) error {
	if !isTerminal(c.in) || c.json {
		return usagef("%s is %s, %s, and nobody is at the terminal to be asked: say --yes if that is meant. Nothing was done", a.ID, lost.what, lost.short)
	}
	if !c.typesYes("%s, %s, is %s. Once it is revoked, which is for good, %s. Type yes to revoke it: ", a.ID, printable(a.Name), lost.what, lost.long) {
		return usagef("nothing was done")
	}
	return nil
}

// withID is a command on an authority.
func (c *cli) withID(do func(ctx context.Context, s *client.Client, id string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		if b, err := hex.DecodeString(args[0]); err != nil || len(b) != 8 {
			return usagef("%q is no HashedId8: it has sixteen hexadecimal digits", args[0])
		}
		return c.online(func(ctx context.Context, s *client.Client, args []string) error {
			return do(ctx, s, strings.ToUpper(args[0]))
		})(cmd, args)
	}
}

// v2xListCommand lists authorities; of one role only, if it is given.
func (c *cli) v2xListCommand(of, short, only string) *cobra.Command {
	return &cobra.Command{Use: "list", Short: short, Long: short + ". It needs the permission v2x.read.", Example: "  mooring v2x " + of + " list\n  mooring v2x " + of + " list --json", Args: needs(),
		RunE: c.online(func(ctx context.Context, s *client.Client, _ []string) error {
			all, err := s.V2XAuthorities(ctx)
			if err != nil {
				return err
			}
			return c.v2xList(all, only)
		})}
}

func (c *cli) v2xList(all []v1.V2XAuthority, only string) error {
	list := []v1.V2XAuthority{}
	for _, a := range all {
		if only == "" || a.Role == only {
			list = append(list, a)
		}
	}
	return c.show(list, func(w io.Writer) {
		row(w, "ID", "ROLE", "NAME", "UNTIL", "STATE", "ADDRESS")
		for _, a := range list {
			row(w, a.ID, a.Role, a.Name, a.NotAfter.Format(time.DateOnly), a.State, a.URL)
		}
	})
}

func (c *cli) v2xShowAuthorityCommand(of string) *cobra.Command {
	return &cobra.Command{Use: "show ID", Short: "Show an authority and what it publishes", Long: v2xShowAuthorityHelp, Example: "  mooring v2x " + of + " show C5691C82D7E330E8", Args: needs("ID"),
		RunE: c.withID(func(ctx context.Context, s *client.Client, id string) error {
			a, err := s.V2XAuthority(ctx, id)
			return c.v2xShown(a, err)
		})}
}

// v2xShown shows an authority, unless there is an error.
func (c *cli) v2xShown(a v1.V2XAuthority, err error) error {
	if err != nil {
		return err
	}
	return c.show(a, func(w io.Writer) {
		fact(w, "ID", a.ID)
		fact(w, "Role", a.Role)
		fact(w, "Name", a.Name)
		fact(w, "Valid", minute(a.NotBefore)+" to "+minute(a.NotAfter))
		fact(w, "State", a.State)
		fact(w, "Issuer", a.Issuer)
		fact(w, "Follows", a.Follows)
		fact(w, "Address", a.URL)
		fact(w, "For authorities", a.Peer)
		for _, l := range a.Lists {
			fact(w, "List "+l.List, listed(l))
		}
	})
}

// listed words what is known of a list.
func listed(l v1.V2XList) string {
	var parts []string
	if l.Sequence != nil {
		parts = append(parts, fmt.Sprintf("number %d", *l.Sequence))
	}
	if l.List != "link" {
		parts = append(parts, fmt.Sprintf("%d entries", l.Entries))
	}
	switch {
	case l.NextUpdate != nil:
		parts = append(parts, "until "+minute(*l.NextUpdate))
	case l.List != "link":
		parts = append(parts, "over")
	default:
		parts = append(parts, "there")
	}
	return strings.Join(parts, ", ")
}

func (c *cli) v2xIssueCommand() *cobra.Command {
	var i v1.V2XIssue
	var out, root string
	cmd := &cobra.Command{Use: "issue FILE", Short: "Issue a certificate to an authority", Long: v2xIssueHelp,
		Example: "  mooring v2x rca issue aa.request --role aa --url http://aa.example.com/authorization --digest 5d41… --out aa.oer --root root.oer\n  mooring v2x rca issue rekey.request --out ea.oer", Args: needs("FILE")}
	flags := cmd.Flags()
	flags.StringVar(&i.Role, "role", "", "ea or aa")
	flags.StringVar(&i.URL, "url", "", "where stations reach it")
	flags.StringVar(&i.Peer, "peer", "", "of an enrolment authority: where authorization authorities reach it")
	flags.StringVar(&i.Digest, "digest", "", "SHA-256 of the request, as the authority's operators told it")
	flags.StringVar(&out, "out", "", "file to write the certificate to")
	flags.StringVar(&root, "root", "", "file to write the certificate of the root to")
	_ = cmd.RegisterFlagCompletionFunc("role", cobra.FixedCompletions([]string{"ea", "aa"}, cobra.ShellCompDirectiveNoFileComp)) // fails only without the flag
	cmd.RunE = c.online(func(ctx context.Context, s *client.Client, args []string) (err error) {
		if i.Request, err = readOctets(args[0]); err != nil {
			return err
		}
		a, err := s.IssueV2X(ctx, i)
		if err != nil {
			return err
		}
		if err := writeOctets(out, a.Certificate); err != nil {
			return err
		}
		if root != "" {
			r, err := s.V2XAuthority(ctx, a.Issuer)
			if err != nil {
				return err
			}
			if err := writeOctets(root, r.Certificate); err != nil {
				return err
			}
		}
		return c.v2xShown(a, nil)
	})
	return cmd
}

// writeOctets writes a public file, if it has a name.
func writeOctets(path string, octets []byte) error {
	if path == "" {
		return nil
	}
	if err := os.WriteFile(path, octets, 0o644); err != nil {
		return errs.Wrap(errs.Unavailable, err, "%s cannot be written", path)
	}
	return nil
}

func (c *cli) v2xMoveCommand() *cobra.Command {
	var to v1.V2XMove
	cmd := &cobra.Command{Use: "move ID", Short: "Say where an authority is reached", Long: v2xMoveHelp, Example: "  mooring v2x rca move C5691C82D7E330E8 --url http://aa2.example.com/authorization", Args: needs("ID")}
	cmd.Flags().StringVar(&to.URL, "url", "", "where stations reach it")
	cmd.Flags().StringVar(&to.Peer, "peer", "", "of an enrolment authority: where authorization authorities reach it")
	cmd.RunE = c.withID(func(ctx context.Context, s *client.Client, id string) error {
		a, err := s.MoveV2X(ctx, id, to)
		return c.v2xShown(a, err)
	})
	return cmd
}

// v2xExportCommand writes something of a root or manager.
func (c *cli) v2xExportCommand(role, short, long string) *cobra.Command {
	var what, id string
	sequence := -1
	cmd := &cobra.Command{Use: "export FILE", Short: short, Long: long, Example: "  mooring v2x " + role + " export " + role + ".oer\n  mooring v2x " + role + " export ctl.oer --what ctl && mooring v2x show ctl.oer", Args: needs("FILE")}
	cmd.Flags().StringVar(&what, "what", "certificate", strings.Join(v2xWhat, ", "))
	cmd.Flags().StringVar(&id, "id", "", "HashedId8 of whose; without it, the newest")
	cmd.Flags().IntVar(&sequence, "sequence", -1, "number of a delta; without it, the newest")
	_ = cmd.RegisterFlagCompletionFunc("what", cobra.FixedCompletions(v2xWhat, cobra.ShellCompDirectiveNoFileComp)) // fails only without the flag
	cmd.RunE = c.online(func(ctx context.Context, s *client.Client, args []string) error {
		octets, err := v2xExported(ctx, s, role, what, id, sequence)
		if err != nil {
			return err
		}
		if err := writeOctets(args[0], octets); err != nil {
			return err
		}
		return c.show(map[string]any{"file": args[0], "what": what, "octets": len(octets)}, func(w io.Writer) {
			fact(w, "Written", fmt.Sprintf("%s, %d octets", args[0], len(octets)))
		})
	})
	return cmd
}

func v2xExported(ctx context.Context, s *client.Client, role, what, id string, sequence int) ([]byte, error) {
	if id == "" {
		all, err := s.V2XAuthorities(ctx)
		if err != nil {
			return nil, err
		}
		for _, a := range all { // the newest is the last
			if a.Role == role && a.State == "own" {
				id = a.ID
			}
		}
		if id == "" {
			return nil, errs.New(errs.NotFound, "there is no %s here yet", role)
		}
	}
	switch what {
	case "certificate":
		a, err := s.V2XAuthority(ctx, id)
		return a.Certificate, err
	case "ctl", "delta", "crl", "link":
		l, err := s.V2XList(ctx, id, what, sequence)
		return l.Octets, err
	}
	return nil, usagef("--what: use one of %s", strings.Join(v2xWhat, ", "))
}
