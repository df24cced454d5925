package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"mooring/internal/app"
	"mooring/internal/base/conf"
	"mooring/internal/server/api/client"
	"mooring/internal/server/api/v1"
)

const v2xEAHelp = `Sees to the enrolment authority: its certificate, the request for the next one, and the credentials that stations have from it. It works on a running server,
which serves the authority itself where listen.v2x_ea is set: it knows the stations by the registry. What changes something, or shows a station, needs the permission
v2x.ea, which the role v2x-ea has.`

const v2xStationHelp = `Shows what the enrolment authority knows of a station: its enrolment credentials, and how many tickets it has: now, and by the week in which they begin, which
is from Tuesday, 9:00 UTC, until the next. DEVICE is its name in the registry, or its id. Weeks whose tickets are all over are not kept. Which tickets it has nobody knows here.`

const v2xRevokeCredentialHelp = `Revokes one enrolment credential for good. From then on, within a second and on all nodes, no request that it signs gets a ticket, an archive or another
credential (baditsstatus). Tickets that there are live until they end. CREDENTIAL is its HashedId8, as "mooring v2x ea station" shows it.

The station itself is not stopped: other credentials that it has go on, those too that it got by this one, and with its canonical key it gets another one. Look at what
there is with "mooring v2x ea station"; to stop the station whatever it has: "mooring device suspend".`

const v2xAAHelp = `Runs the authorization authority, and sees to its certificate and its record. Its store is its own: the commands ask the running server, if the authority
runs in its process; with --alone, or where no server runs, they open the store in v2x.aa_dir, whose authority must be stopped unless it uses PostgreSQL. On the server what
changes something needs the permission v2x.aa, which the role v2x-aa has.`

const v2xRequestHelp = `Makes new keys for the authority and writes the request for its certificate (CaCertificateRequest, TS 102 941) to --out. Give it to the operators of the
root, and tell them its digest on another way. The certificate is then installed with "install". An authority that has a certificate asks with "rekey" for the next one.`

const v2xInstallHelp = `Gives the authority the certificate in FILE, for which it asked. --root is the certificate of the root that issued it, which is believed from then on.
Certificates before it count until they end: requests that are encrypted to them are answered.`

const v2xRekeyHelp = `Has the authority followed by another one of the same name, with new keys: the request is signed with the new key, and all of that with the present one.
With --request it is written to a file for the operators of the root, to be issued by "mooring v2x rca issue" and installed with "install". Without it, the root of this
server issues the certificate and it is installed at once, which needs the permission v2x.root as well.

Requests to the certificate before it are answered until that ends; stations go over to the new one when they have fetched the trust list and others had two minutes to
do so. A certificate that has ended, or is revoked, cannot ask for another one: begin anew with "request".`

const v2xVerifyAAHelp = `Recomputes the record of the authorization authority, which is apart from the platform's, from the first entry to the signed heads, and compares the
tables of its store with it. The exit code is 1 if anything does not fit. The records of the root, the enrolment authority and the trust list manager are in the
platform's: "mooring audit verify". On the server it needs the permission audit.read.`

// authorityKeys are what is done to the keys and certificates of an authority.
type authorityKeys struct {
	of      string // ea or aa
	ask     func(context.Context, v1.V2XAsk) (v1.V2XRequest, error)
	install func(context.Context, v1.V2XInstall) (v1.V2XAuthority, error)
}

func keysOfEA(s *client.Client) authorityKeys { return authorityKeys{"ea", s.AskV2XEA, s.InstallV2XEA} }

func (c *cli) v2xEACommand() *cobra.Command {
	var o requestFlags
	request := o.command("ea")
	request.RunE = c.online(func(ctx context.Context, s *client.Client, _ []string) error {
		return c.v2xRequest(ctx, keysOfEA(s), v1.V2XAsk{Name: o.name}, o.out)
	})
	var root string
	install := installCommand("ea", &root)
	install.RunE = c.online(func(ctx context.Context, s *client.Client, args []string) error {
		return c.v2xInstall(ctx, keysOfEA(s), args[0], root)
	})
	var out string
	rekey := rekeyCommand("ea", &out)
	rekey.RunE = c.online(func(ctx context.Context, s *client.Client, _ []string) error {
		return c.v2xRekey(ctx, keysOfEA(s), s, out)
	})
	return group(&cobra.Command{Use: "ea", Short: "See to the enrolment authority for vehicles", Long: v2xEAHelp, Example: "  mooring v2x ea list\n  mooring v2x ea rekey"},
		c.v2xListCommand("ea", "List the enrolment authorities that the root knows", "ea"), c.v2xShowAuthorityCommand("ea"), request, install, rekey, c.v2xStationCommand(), c.v2xRevokeCredentialCommand())
}

func (c *cli) v2xStationCommand() *cobra.Command {
	return &cobra.Command{Use: "station DEVICE", Short: "Show a station's credentials and how many tickets it has", Long: v2xStationHelp,
		Example: "  mooring v2x ea station car-7\n  mooring v2x ea station car-7 --json", Args: needs("DEVICE"),
		RunE: c.online(func(ctx context.Context, s *client.Client, args []string) error {
			st, err := s.V2XStation(ctx, args[0])
			if err != nil {
				return err
			}
			return c.show(st, func(w io.Writer) { stationShown(w, &st) })
		})}
}

func stationShown(w io.Writer, st *v1.V2XStation) {
	fact(w, "Device", st.Device)
	state := st.State
	if !st.Station {
		state += ", without the tag v2x"
	}
	fact(w, "State", state)
	fact(w, "Tickets", fmt.Sprintf("%d valid now, of %d at the most", st.Tickets.Valid, st.Tickets.Limit))
	for _, week := range st.Tickets.Weeks {
		fact(w, "From "+week.From.Format(time.DateOnly), fmt.Sprint(week.Tickets))
	}
	fmt.Fprintln(w)
	row(w, "CREDENTIAL", "ISSUED", "UNTIL", "STATE")
	for _, i := range st.Credentials {
		state := i.State
		if i.Revoked != nil {
			state += " " + minute(*i.Revoked)
		}
		row(w, i.ID, minute(i.Issued), minute(i.NotAfter), state)
	}
}

func (c *cli) v2xRevokeCredentialCommand() *cobra.Command {
	return &cobra.Command{Use: "revoke CREDENTIAL", Short: "Revoke one enrolment credential of a station", Long: v2xRevokeCredentialHelp,
		Example: "  mooring v2x ea revoke 5A1C3C2D1E0F9A8B", Args: needs("CREDENTIAL"),
		RunE: c.withID(func(ctx context.Context, s *client.Client, id string) error {
			i, err := s.RevokeV2XCredential(ctx, id)
			if err != nil {
				return err
			}
			return c.show(i, func(w io.Writer) {
				fact(w, "Credential", i.ID)
				fact(w, "Device", i.Device)
				fact(w, "State", i.State)
				fact(w, "Revoked", minute(*i.Revoked))
			})
		})}
}

type requestFlags struct{ name, out string }

func (o *requestFlags) command(of string) *cobra.Command {
	cmd := &cobra.Command{Use: "request", Short: "Make keys and a request for a certificate", Long: v2xRequestHelp, Example: "  mooring v2x " + of + " request --name \"Acme " + of + " 2\" --out " + of + ".request", Args: needs()}
	cmd.Flags().StringVar(&o.name, "name", "", "how the authority is called")
	cmd.Flags().StringVar(&o.out, "out", "", "file to write the request to")
	return cmd
}

func installCommand(of string, root *string) *cobra.Command {
	cmd := &cobra.Command{Use: "install FILE", Short: "Install the certificate that was asked for", Long: v2xInstallHelp, Example: "  mooring v2x " + of + " install " + of + ".oer --root root.oer", Args: needs("FILE")}
	cmd.Flags().StringVar(root, "root", "", "file with the certificate of the root")
	return cmd
}

func rekeyCommand(of string, out *string) *cobra.Command {
	cmd := &cobra.Command{Use: "rekey", Short: "Have the authority followed by one with new keys", Long: v2xRekeyHelp, Example: "  mooring v2x " + of + " rekey\n  mooring v2x " + of + " rekey --request " + of + ".request", Args: needs()}
	cmd.Flags().StringVar(out, "request", "", "write the request to this file, for a root elsewhere")
	return cmd
}

func (c *cli) v2xRequest(ctx context.Context, k authorityKeys, a v1.V2XAsk, out string) error {
	if out == "" {
		return usagef("the request needs a file: name it with --out")
	}
	if a.Name == "" && !a.Rekey {
		return usagef("the authority needs a name: give it with --name")
	}
	r, err := k.ask(ctx, a)
	if err != nil {
		return err
	}
	if err := writeOctets(out, r.Request); err != nil {
		return err
	}
	return c.show(map[string]any{"file": out, "digest": r.Digest}, func(w io.Writer) {
		fact(w, "Request", out)
		fact(w, "Digest", r.Digest)
	})
}

func (c *cli) v2xInstall(ctx context.Context, k authorityKeys, path, root string) error {
	if root == "" {
		return usagef("name the file with the certificate of the root by --root")
	}
	cert, err := readOctets(path)
	if err != nil {
		return err
	}
	by, err := readOctets(root)
	if err != nil {
		return err
	}
	a, err := k.install(ctx, v1.V2XInstall{Certificate: cert, Root: by})
	return c.v2xShown(a, err)
}

// v2xRekey has an authority ask for its next certificate and, if there is a server whose root is to issue it at once, installs it.
func (c *cli) v2xRekey(ctx context.Context, k authorityKeys, s *client.Client, out string) error {
	if out != "" {
		return c.v2xRequest(ctx, k, v1.V2XAsk{Rekey: true}, out)
	}
	if s == nil {
		return usagef("the root is elsewhere: write the request to a file with --request")
	}
	r, err := k.ask(ctx, v1.V2XAsk{Rekey: true})
	if err != nil {
		return err
	}
	issued, err := s.IssueV2X(ctx, v1.V2XIssue{Request: r.Request, Digest: r.Digest})
	if err != nil {
		return err
	}
	root, err := s.V2XAuthority(ctx, issued.Issuer)
	if err != nil {
		return err
	}
	a, err := k.install(ctx, v1.V2XInstall{Certificate: issued.Certificate, Root: root.Certificate})
	return c.v2xShown(a, err)
}

// ticketStore is the store of the authorization authority, by a server or opened here.
type ticketStore interface {
	V2XTicketAuthorities(context.Context) ([]v1.V2XAuthority, error)
	AskV2XAA(context.Context, v1.V2XAsk) (v1.V2XRequest, error)
	InstallV2XAA(context.Context, v1.V2XInstall) (v1.V2XAuthority, error)
	VerifyV2XAA(context.Context) (v1.VerifyReport, error)
}

func keysOfAA(t ticketStore) authorityKeys { return authorityKeys{"aa", t.AskV2XAA, t.InstallV2XAA} }

// tickets works on the store of the authorization authority. The client is nil where there is no server.
func (c *cli) tickets(alone *bool, do func(ctx context.Context, t ticketStore, s *client.Client, args []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) (err error) {
		online := c.server != ""
		if !online && !*alone {
			config, err := conf.Load(c.dir)
			if err != nil {
				return err
			}
			online = exists(config.SocketPath())
		}
		if online && !*alone {
			return c.online(func(ctx context.Context, s *client.Client, args []string) error { return do(ctx, s, s, args) })(cmd, args)
		}
		config, log, err := c.v2xConfig()
		if err != nil {
			return err
		}
		t, err := app.OpenTicketAuthority(cmd.Context(), app.Options{Config: config, Log: log})
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, t.Close()) }()
		return do(cmd.Context(), t, nil, args)
	}
}

func (c *cli) v2xAACommand() *cobra.Command {
	var alone bool
	var profile, root, out string
	var o requestFlags
	serve := &cobra.Command{Use: "serve", Short: "Run the authorization authority alone", Long: v2xServeHelp, Example: "  mooring v2x aa serve --dir /var/lib/mooring-aa", Args: needs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return profiled(profile, func() error { return c.v2xServe(cmd.Context()) })
		}}
	serve.Flags().StringVar(&profile, "cpu-profile", "", "file to write a profile of the CPU time to")
	list := &cobra.Command{Use: "list", Short: "List what the authorization authority's store has of authorities",
		Long: "Lists the authorization authority's own certificates and the roots that it believes. On the server it needs the permission v2x.read.", Example: "  mooring v2x aa list\n  mooring v2x aa list --alone", Args: needs(),
		RunE: c.tickets(&alone, func(ctx context.Context, t ticketStore, _ *client.Client, _ []string) error {
			all, err := t.V2XTicketAuthorities(ctx)
			if err != nil {
				return err
			}
			return c.v2xList(all, "")
		})}
	request, install, rekey := o.command("aa"), installCommand("aa", &root), rekeyCommand("aa", &out)
	request.RunE = c.tickets(&alone, func(ctx context.Context, t ticketStore, _ *client.Client, _ []string) error {
		return c.v2xRequest(ctx, keysOfAA(t), v1.V2XAsk{Name: o.name}, o.out)
	})
	install.RunE = c.tickets(&alone, func(ctx context.Context, t ticketStore, _ *client.Client, args []string) error {
		return c.v2xInstall(ctx, keysOfAA(t), args[0], root)
	})
	rekey.RunE = c.tickets(&alone, func(ctx context.Context, t ticketStore, s *client.Client, _ []string) error {
		return c.v2xRekey(ctx, keysOfAA(t), s, out)
	})
	verify := &cobra.Command{Use: "verify", Short: "Verify the authorization authority's own record", Long: v2xVerifyAAHelp, Example: "  mooring v2x aa verify\n  mooring v2x aa verify --alone --dir /var/lib/mooring-aa", Args: needs(),
		RunE: c.tickets(&alone, func(ctx context.Context, t ticketStore, _ *client.Client, _ []string) error {
			r, err := t.VerifyV2XAA(ctx)
			if err != nil {
				return err
			}
			return c.verified(r)
		})}
	for _, cmd := range []*cobra.Command{list, request, install, rekey, verify} {
		cmd.Flags().BoolVar(&alone, "alone", false, "open the authority's store here, without a server")
	}
	return group(&cobra.Command{Use: "aa", Short: "Run the authorization authority for vehicles, and see to it", Long: v2xAAHelp, Example: "  mooring v2x aa serve\n  mooring v2x aa rekey"}, serve, list, request, install, rekey, verify)
}
