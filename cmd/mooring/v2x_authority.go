package main

import (
	"context"
	"encoding/hex"
	"errors"
	"io"
	"log/slog"
	"os"
	"runtime/debug"
	"time"

	"github.com/spf13/cobra"

	"mooring/internal/app"
	"mooring/internal/base/conf"
	"mooring/internal/base/errs"
	"mooring/wire/its"
)

const v2xInitHelp = `Makes the authorities that give vehicles their certificates (TS 102 941): a root (RCA), an enrolment authority (EA) and an authorization
authority (AA), with the trust list and the revocation list of the root. The server must be stopped, or not use SQLite.

Root and EA are in the data directory's own database and keys. The AA gets a directory of its own, v2x.aa_dir, with keys, database and record: it must not know
what the EA knows. It can be moved to another machine and run there by "mooring v2x aa serve".

The trust list says where all of them are, so listen.v2x_ea, listen.v2x_validation, listen.v2x_aa (or v2x.aa_url) and listen.v2x_dc must be set before. Vehicles
are devices of the registry with the tag v2x; see doc/v2x.md.`

const v2xRCAHelp = `Shows and revokes the authorities of the root. The server must be stopped, or not use SQLite.`

const v2xRevokeHelp = `Revokes an authority for good: it leaves the trust list and comes on the revocation list. ID is its HashedId8, as "mooring v2x rca list" shows it.
Vehicles believe it until they have fetched the lists.`

const v2xAAHelp = `Runs the authorization authority, or shows what its store knows of authorities.`

const v2xServeHelp = `Runs the authorization authority of v2x.aa_dir alone, without the rest of the platform: on a machine of its own it needs the configuration file and that
directory, not the keys or the database of the platform. It listens on listen.v2x_aa and fetches the lists of the root from v2x.dc_url.

The platform itself runs it too when listen.v2x_aa is set in its configuration; for the two to be apart, leave it out there and set v2x.aa_url.`

func (c *cli) v2xInitCommand() *cobra.Command {
	var name, root string
	cmd := &cobra.Command{
		Use: "init", Short: "Make the authorities for vehicles", Long: v2xInitHelp, Example: "  mooring v2x init --name \"Acme\" --root root.oer", Args: needs(),
		RunE: func(cmd *cobra.Command, _ []string) error { return c.v2xInit(cmd.Context(), name, root) },
	}
	cmd.Flags().StringVar(&name, "name", "Mooring", "how the certificates are called, with RCA, EA or AA behind it")
	cmd.Flags().StringVar(&root, "root", "", "file to write the certificate of the root to, for vehicles")
	return cmd
}

func (c *cli) v2xInit(ctx context.Context, name, root string) error {
	config, log, err := c.v2xConfig()
	if err != nil {
		return err
	}
	made, err := app.MakeV2X(ctx, app.Options{Config: config, Prompt: c.prompt, Log: log}, name)
	if err != nil {
		return err
	}
	if root != "" {
		if err := os.WriteFile(root, made.Certificate, 0o644); err != nil {
			return errs.Wrap(errs.Unavailable, err, "the certificate of the root cannot be written to %s", root)
		}
	}
	return c.show(map[string]string{"rca": made.Root.String(), "ea": made.EA.String(), "aa": made.AA.String(), "aa_dir": made.Dir}, func(w io.Writer) {
		fact(w, "Root", made.Root.String())
		fact(w, "EA", made.EA.String())
		fact(w, "AA", made.AA.String()+", in "+made.Dir)
	})
}

func (c *cli) v2xConfig() (*conf.Config, *slog.Logger, error) {
	config, err := conf.Load(c.dir)
	if err != nil {
		return nil, nil, err
	}
	log, err := c.logger(config.Log)
	return config, log, err
}

func (c *cli) v2xRCACommand() *cobra.Command {
	list := &cobra.Command{Use: "list", Short: "List the root and the authorities it issued to", Long: v2xRCAHelp, Example: "  mooring v2x rca list --json", Args: needs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return c.withV2X(cmd.Context(), func(p *app.Platform) error { return c.v2xList(cmd.Context(), p.V2XAuthorities) })
		}}
	revoke := &cobra.Command{Use: "revoke ID", Short: "Revoke an authority for good", Long: v2xRevokeHelp, Example: "  mooring v2x rca revoke C5691C82D7E330E8", Args: needs("ID"),
		RunE: func(cmd *cobra.Command, args []string) error {
			b, err := hex.DecodeString(args[0])
			if err != nil || len(b) != len(its.HashedId8{}) {
				return usagef("%q is no HashedId8: it has sixteen hexadecimal digits", args[0])
			}
			return c.withV2X(cmd.Context(), func(p *app.Platform) error { return p.RevokeV2X(cmd.Context(), its.HashedId8(b)) })
		}}
	export := &cobra.Command{Use: "export FILE", Short: "Write the certificate of the root", Long: "Writes the certificate of the root, which vehicles are to believe, in octets (COER).",
		Example: "  mooring v2x rca export root.oer && mooring v2x show root.oer", Args: needs("FILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.withV2X(cmd.Context(), func(p *app.Platform) error {
				root := p.V2X.Trust.State().Root
				if root == nil {
					return errs.New(errs.NotFound, "there is no root for V2X yet: mooring v2x init makes one")
				}
				return os.WriteFile(args[0], root.Octets, 0o644)
			})
		}}
	return group(&cobra.Command{Use: "rca", Short: "See to the root for vehicles", Long: v2xRCAHelp, Example: "  mooring v2x rca list\n  mooring v2x rca revoke C5691C82D7E330E8"}, list, revoke, export)
}

// withV2X works on a stopped installation.
func (c *cli) withV2X(ctx context.Context, work func(*app.Platform) error) (err error) {
	config, log, err := c.v2xConfig()
	if err != nil {
		return err
	}
	p, err := app.Open(ctx, app.Options{Config: config, Prompt: c.prompt, Log: log})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.Close()) }()
	return work(p)
}

func (c *cli) v2xList(ctx context.Context, list func(context.Context) ([]app.V2XAuthority, error)) error {
	all, err := list(ctx)
	if err != nil {
		return err
	}
	return c.show(all, func(w io.Writer) {
		row(w, "ID", "ROLE", "NAME", "UNTIL", "STATE", "ADDRESS")
		for _, a := range all {
			row(w, a.ID, a.Role, a.Name, a.NotAfter.Format(time.DateOnly), a.State, a.URL)
		}
	})
}

func (c *cli) v2xAACommand() *cobra.Command {
	var profile string
	serve := &cobra.Command{Use: "serve", Short: "Run the authorization authority alone", Long: v2xServeHelp, Example: "  mooring v2x aa serve --dir /var/lib/mooring-aa", Args: needs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return profiled(profile, func() error { return c.v2xServe(cmd.Context()) })
		}}
	serve.Flags().StringVar(&profile, "cpu-profile", "", "file to write a profile of the CPU time to")
	list := &cobra.Command{Use: "list", Short: "List what the authorization authority's store knows of authorities",
		Long: "Lists the authorization authority's own certificates and the root that it believes. It must be stopped, or not use SQLite.", Example: "  mooring v2x aa list", Args: needs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return c.withAA(cmd.Context(), func(t *app.TicketAuthority) error { return c.v2xList(cmd.Context(), t.Authorities) })
		}}
	return group(&cobra.Command{Use: "aa", Short: "Run the authorization authority for vehicles", Long: v2xAAHelp, Example: "  mooring v2x aa serve"}, serve, list)
}

func (c *cli) withAA(ctx context.Context, work func(*app.TicketAuthority) error) (err error) {
	config, log, err := c.v2xConfig()
	if err != nil {
		return err
	}
	t, err := app.OpenTicketAuthority(ctx, app.Options{Config: config, Log: log})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, t.Close()) }()
	return work(t)
}

func (c *cli) v2xServe(ctx context.Context) error {
	config, log, err := c.v2xConfig()
	if err != nil {
		return err
	}
	if config.Listen.V2XAA == "" {
		return errs.New(errs.Invalid, "%s: set listen.v2x_aa to the address on which the authority is to listen", conf.FileName)
	}
	if os.Getenv("GOGC") == "" { // as in serve
		debug.SetGCPercent(200)
	}
	t, err := app.OpenTicketAuthority(ctx, app.Options{Config: config, Log: log})
	if err != nil {
		return err
	}
	if err := t.Bind(ctx); err != nil {
		return errors.Join(err, t.Close())
	}
	at := t.Address()
	err = t.Run(ctx, func() { log.LogAttrs(ctx, slog.LevelInfo, "ready", slog.String("v2x_aa", at)) })
	if err == nil {
		log.LogAttrs(ctx, slog.LevelInfo, "stopped")
	}
	return err
}
