package main

import (
	"bufio"
	"cmp"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"os/user"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"mooring/agent/est"
	"mooring/internal/app"
	"mooring/internal/base/errs"
	"mooring/internal/core/ceremony"
)

const caRootHelp = `An offline root is a CA on a machine without network: it lives in one directory, on a stick or a disk that lies in a safe, or has
its key in a token. It certifies the CAs of an installation, which came there as files and leave as files. Nothing here talks to a server.

What happened is in its record, which is signed by the root and chained from entry to entry; "mooring ca import --record" takes it into
the audit record of the installation. doc/ceremony.md walks through a ceremony.

The passphrase of the key comes from --unlock: "prompt" (default) asks at the terminal, "file:PATH" and "fd:N" are for scripts. It is never
an argument. --by and --witness name the people; the record keeps them.`

// rootFlags are those of every command about an offline root.
type rootFlags struct {
	dir, unlock, by string
	witnesses       []string
}

// options is what the program is told about the root.
func (c *cli) rootOptions(f *rootFlags) app.RootOptions {
	return app.RootOptions{Dir: f.dir, Unlock: f.unlock, Prompt: func() ([]byte, error) { return c.ask("Passphrase of the root: ") }, By: f.by, With: f.witnesses, Now: time.Now}
}

func (c *cli) caRootCommand() *cobra.Command {
	f := &rootFlags{}
	cmd := group(&cobra.Command{
		Use: "root", Short: "Keep a root on a machine of its own", Long: caRootHelp,
		Example: "  mooring ca root create --root /media/stick/root --subject \"CN=Acme Root G1,O=Acme\"\n  mooring ca root sign devices.csr --root /media/stick/root --validity 3650d -o devices.pem",
	}, c.rootCreateCommand(f), c.rootShowCommand(f), c.rootSignCommand(f), c.rootCrossCommand(f), c.rootResponderCommand(f), c.rootRevokeCommand(f), c.rootCRLCommand(f),
		c.rootExportCommand(f), c.rootRecordCommand(f))
	flags := cmd.PersistentFlags()
	flags.SortFlags = false
	flags.StringVar(&f.dir, "root", "root", "directory of the root")
	flags.StringVar(&f.unlock, "unlock", "prompt", "passphrase, or PIN of the token: prompt, file:PATH or fd:N")
	flags.StringVar(&f.by, "by", person(), "who acts, for the record (default the user's name)")
	flags.Lookup("by").DefValue = "" // of this user on this machine, so it is not for the manual
	flags.StringArrayVar(&f.witnesses, "witness", nil, "who looks on, for the record; may be repeated")
	return cmd
}

// person is the name of whoever runs the program.
func person() string {
	u, err := user.Current()
	if err != nil {
		return "unknown"
	}
	name, _, _ := strings.Cut(u.Name, ",") // of the fields that some systems keep there, the first is the name
	return cmp.Or(strings.TrimSpace(name), u.Username, "unknown")
}

// atRoot makes the body of a command that needs the root's key.
func (c *cli) atRoot(f *rootFlags, do func(ctx context.Context, r *ceremony.Root, args []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		r, err := app.OpenRoot(cmd.Context(), c.rootOptions(f))
		if err != nil {
			return err
		}
		return errors.Join(do(cmd.Context(), r, args), r.Close())
	}
}

// besideRoot is atRoot without the key.
func (c *cli) besideRoot(f *rootFlags, do func(r *ceremony.Root, args []string) error) func(*cobra.Command, []string) error {
	return func(_ *cobra.Command, args []string) error {
		r, err := app.ReadRoot(c.rootOptions(f))
		if err != nil {
			return err
		}
		return errors.Join(do(r, args), r.Close())
	}
}

// fingerprint writes a SHA-256 as openssl x509 -fingerprint does.
func fingerprint(sum [sha256.Size]byte) string { return est.FormatFingerprint(sum) }

// output is what the program tells about a file that it wrote.
type output struct {
	File        string `json:"file"`
	What        string `json:"what"`
	Fingerprint string `json:"sha256"`
	Serial      string `json:"serial,omitempty"`
	Number      int64  `json:"number,omitempty"`
	Until       string `json:"until,omitempty"`
}

// release writes PEM to a file that must not be there yet, and its fingerprint to the terminal.
func (c *cli) release(o output, kind string, made ceremony.Made) error {
	o.Fingerprint = fingerprint(made.Digest)
	if err := c.write(o.File, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: made.DER}), 0o644); err != nil {
		return errs.Wrap(errs.KindOf(err), err, "what was signed is recorded, but could not be written; mooring ca root export and mooring ca root crl write it again")
	}
	if o.File == "" || o.File == "-" { // the PEM is on standard output
		return nil
	}
	return c.show(o, func(w io.Writer) {
		fact(w, "Written", o.File)
		fact(w, "What", o.What)
		fact(w, "Serial", o.Serial)
		fact(w, "Valid until", o.Until)
		fact(w, "SHA-256", o.Fingerprint)
	})
}

// free refuses a file that is there already, before anything is signed.
func free(path string) error {
	if path != "" && path != "-" && exists(path) {
		return errs.New(errs.Conflict, "%s is there already: give another name, or move it away", path)
	}
	return nil
}

// confirm shows what would be signed and asks a person. expected, if given, is the fingerprint of the key that must be found.
func (c *cli) confirm(q *ceremony.Request, what string, yes bool, expected string) error {
	if expected != "" {
		want, err := est.ParseFingerprint(expected)
		if err != nil {
			return usagef("--expect: %v", err)
		}
		if want != q.SPKI {
			return errs.New(errs.Denied, "the key is not the expected one: its SHA-256 is %s. Nothing was signed", fingerprint(q.SPKI))
		}
	}
	if !c.quiet && !c.json {
		fmt.Fprintf(c.err, "%s\n  Subject:         %s\n  Key:             %s\n  SHA-256 of key:  %s\n  Valid until:     %s\n", what, printable(q.Subject), q.Key,
			fingerprint(q.SPKI), minute(time.Unix(q.NotAfter, 0)))
		if !q.Responder {
			fmt.Fprintf(c.err, "  Tiers below it:  %d\n", q.PathLen)
		}
	}
	if yes {
		return nil
	}
	f, ok := c.in.(*os.File)
	if !ok || !isTerminal(f) {
		return usagef("nobody is at the terminal to compare the SHA-256 of the key: give --yes, best with --expect SHA-256, or work at a terminal")
	}
	fmt.Fprint(c.err, "Read the SHA-256 of the key aloud. Does the other side read the same? Type yes to sign: ")
	answer, err := bufio.NewReader(f).ReadString('\n')
	if err != nil || strings.TrimSpace(answer) != "yes" {
		return errs.New(errs.Denied, "it was not confirmed: nothing was signed")
	}
	return nil
}

// readPEM reads the first block of a kind in a file, or DER.
func readPEM(path string, kinds ...string) ([]byte, error) {
	data, err := readFile(path)
	if err != nil {
		return nil, err
	}
	for rest := data; ; {
		var b *pem.Block
		if b, rest = pem.Decode(rest); b == nil {
			break
		}
		for _, kind := range kinds {
			if b.Type == kind {
				return b.Bytes, nil
			}
		}
	}
	if len(data) > 0 && data[0] == 0x30 { // a DER SEQUENCE
		return data, nil
	}
	return nil, errs.New(errs.Invalid, "%s holds no %s, neither as PEM nor as DER", path, kinds[0])
}

// until writes when a certificate ends.
func until(cert *x509.Certificate) string { return minute(cert.NotAfter) }

func serialOf(cert *x509.Certificate) string { return hex.EncodeToString(cert.SerialNumber.Bytes()) }
