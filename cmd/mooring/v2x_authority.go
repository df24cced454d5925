package main

import (
	"cmp"
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"mooring/internal/app"
	"mooring/internal/base/conf"
	"mooring/internal/base/errs"
)

const v2xInitHelp = `Makes the authorities that give vehicles their certificates (TS 102 941): a root (RCA), an enrolment authority (EA) and an authorization
authority (AA), with the trust list and the revocation list of the root. The server must be stopped, or not use SQLite.

Root and EA are in the data directory's own database and keys. The AA gets a directory of its own, v2x.aa_dir, with keys, database and record: it must not know
what the EA knows. It can be moved to another machine and run there by "mooring v2x aa serve".

Where the root was revoked or has ended, everything begins anew in the same stores, whose records go on: another root, and certificates by it for the EA and the AA. An AA on
another machine asks there (mooring v2x aa request --alone). Vehicles and authorities elsewhere have to be given the certificate of the new root.

The trust list says where all of them are, so listen.v2x_ea, listen.v2x_validation, listen.v2x_aa (or v2x.aa_url) and listen.v2x_dc must be set before. Vehicles
are devices of the registry with the tag v2x; see doc/v2x.md.`

const v2xServeHelp = `Runs the authorization authority of v2x.aa_dir alone, without the rest of the platform: on a machine of its own it needs the configuration file and that
directory, not the keys or the database of the platform. It listens on listen.v2x_aa and fetches the lists of the root from v2x.dc_url.

The platform itself runs it too when listen.v2x_aa is set in its configuration; for the two to be apart, leave it out there and set v2x.aa_url.`

const v2xProfilesHelp = `Writes the profiles for the operators of the four authorities to the directory of the profiles: v2x-root, v2x-ea, v2x-aa, v2x-tlm. Those that are there
already stay as they are. Each grants the role of that name, which may run that authority and nothing else (doc/v2x.md). Look at them, check them with "mooring profile
lint", and start the server anew; then somebody is given access like any other operator:

  mooring device add ea-carol --profile v2x-ea --group operators --token`

func (c *cli) v2xProfilesCommand() *cobra.Command {
	return &cobra.Command{
		Use: "profiles", Short: "Write the profiles for operators of the authorities", Long: v2xProfilesHelp, Example: "  mooring v2x profiles\n  mooring profile lint", Args: needs(),
		RunE: func(*cobra.Command, []string) error {
			config, err := conf.Load(c.dir)
			if err != nil {
				return err
			}
			written, err := app.WriteV2XProfiles(config)
			if err != nil {
				return err
			}
			return c.show(map[string]any{"dir": config.ProfileDir(), "written": append([]string{}, written...)}, func(w io.Writer) {
				fact(w, "Written", cmp.Or(strings.Join(written, ", "), "none: all are there"))
				fact(w, "Directory", config.ProfileDir())
			})
		},
	}
}

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
	ids := map[string]string{"rca": made.Root.String(), "ea": made.EA.String(), "aa": made.AA.String(), "aa_dir": made.Dir}
	if made.Elsewhere {
		delete(ids, "aa")
	}
	return c.show(ids, func(w io.Writer) {
		fact(w, "Root", made.Root.String())
		fact(w, "EA", made.EA.String())
		if made.Elsewhere {
			fact(w, "AA", "not in "+made.Dir+": mooring v2x aa request, where it is")
		} else {
			fact(w, "AA", made.AA.String()+", in "+made.Dir)
		}
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

func (c *cli) v2xServe(ctx context.Context) error {
	config, log, err := c.v2xConfig()
	if err != nil {
		return err
	}
	if config.Listen.V2XAA == "" {
		return errs.New(errs.Invalid, "%s: set listen.v2x_aa to the address on which the authority is to listen", conf.FileName)
	}
	collectLess()
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
