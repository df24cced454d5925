package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"

	"mooring/internal/base/errs"
	"mooring/internal/core/export"
	"mooring/internal/server/api/client"
)

const exportHelp = `Writes devices or certificates into a file, and beside it FILE.manifest: what was asked for, when, how many rows, the file's SHA-256
and the state of the record, signed with the record's key. "mooring export verify" checks both without this server.

The file is the state of one moment, however long the export takes. It holds no keys and no tokens.`

const exportVerifyHelp = `Checks that a file is, octet for octet, the one that was exported, as its manifest says. It needs no server and no installation, only
the record's public key: --log-key is that key itself ("mooring audit key") or a file that holds it.`

func (c *cli) exportCommand() *cobra.Command {
	return group(&cobra.Command{
		Use: "export", Short: "Write devices or certificates into a file", Long: exportHelp,
		Example: "  mooring export devices --output fleet.csv\n  mooring export verify fleet.csv --log-key audit.vkey",
	}, c.exportOneCommand("devices"), c.exportOneCommand("certificates"), c.exportVerifyCommand())
}

func (c *cli) exportOneCommand(what string) *cobra.Command {
	e := client.Export{What: what}
	var out string
	cmd := &cobra.Command{
		Use: what, Short: "Write " + what + " into a file", Long: exportHelp,
		Args: needs(),
	}
	flags := cmd.Flags()
	flags.SortFlags = false
	flags.StringVarP(&out, "output", "o", "", "file to write; must not exist, nor FILE.manifest")
	flags.StringVar(&e.Format, "format", "csv", "csv or jsonl")
	if what == "devices" {
		cmd.Example = "  mooring export devices --group plant-4 --format jsonl --output plant-4.jsonl"
		flags.StringVar(&e.Group, "group", "", "only in this group")
		flags.StringVar(&e.State, "state", "", "only in this state")
		flags.StringVar(&e.Tag, "tag", "", "only with this tag, KEY or KEY=VALUE")
		flags.StringVar(&e.Profile, "profile", "", "only with this profile")
	} else {
		cmd.Example = "  mooring export certificates --issuer devices --output certificates.csv"
		flags.StringVar(&e.Issuer, "issuer", "", "only by this CA, by name or id")
		flags.StringVar(&e.Profile, "profile", "", "only of this profile")
	}
	cmd.RunE = c.online(func(ctx context.Context, s *client.Client, _ []string) error {
		if out == "" {
			return usagef("%s needs --output: the file to write", cmd.CommandPath())
		}
		return c.export1(ctx, s, e, out)
	})
	return cmd
}

// export1 leaves either both files or none.
func (c *cli) export1(ctx context.Context, s *client.Client, e client.Export, path string) (err error) {
	file, err := create(path, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(path) // it is not whole
		}
	}()
	bar := c.progress("exporting " + e.What)
	manifest, err := s.Export(ctx, e, file, func(rows int64) { bar.at(rows, 0) })
	bar.end()
	if err = errors.Join(err, file.Close()); err != nil {
		return err
	}
	if err := c.write(path+".manifest", []byte(manifest), 0o644); err != nil {
		return err
	}
	return c.show(map[string]string{"file": path, "manifest": path + ".manifest"}, func(w io.Writer) {
		fact(w, "Written", path)
		fact(w, "Manifest", path+".manifest")
	})
}

func (c *cli) exportVerifyCommand() *cobra.Command {
	var key, manifest string
	cmd := &cobra.Command{
		Use: "verify FILE", Short: "Check an export, without a server", Long: exportVerifyHelp,
		Example: "  mooring export verify fleet.csv --log-key audit.vkey",
		Args:    needs("FILE"),
		RunE:    func(_ *cobra.Command, args []string) error { return c.exportVerify(args[0], manifest, key) },
	}
	cmd.Flags().StringVar(&key, "log-key", "", "the record's public key, or a file that holds it")
	cmd.Flags().StringVar(&manifest, "manifest", "", "the manifest (default FILE.manifest)")
	return cmd
}

func (c *cli) exportVerify(path, manifestPath, key string) error {
	if key == "" {
		return usagef("mooring export verify needs --log-key: the record's public key, as mooring audit key prints it")
	}
	if manifestPath == "" {
		manifestPath = path + ".manifest"
	}
	verifier, err := logKey(key)
	if err != nil {
		return err
	}
	manifest, err := readFile(manifestPath)
	if err != nil {
		return err
	}
	file, err := os.Open(path)
	if err != nil {
		return errs.Wrap(errs.NotFound, err, "%s cannot be read", path)
	}
	defer file.Close() // read only: nothing to lose
	m, err := export.Verify(file, manifest, verifier)
	if err != nil {
		return errs.Wrap(errs.Invalid, err, "NOT VERIFIED")
	}
	return c.show(m, func(w io.Writer) {
		fact(w, "Verified", path)
		fact(w, "What", m.What)
		fact(w, "Restricted to", m.Query)
		fact(w, "Rows", fmt.Sprint(m.Rows))
		fact(w, "As of", m.At.UTC().Format(time.RFC3339))
		fact(w, "SHA-256", m.SHA256)
		fact(w, "Record", fmt.Sprintf("%s, %d entries", m.Log, m.Entries))
	})
}
