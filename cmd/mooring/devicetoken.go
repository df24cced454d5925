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
	"mooring/internal/server/api/client"
	"mooring/internal/server/api/v1"
)

const deviceTokenHelp = `Gives a device a new enrolment token, good once. A token that it had before is void. The token is shown once and kept nowhere.

The token is good for every protocol: password of EST, shared secret of CMP, challenge of SCEP, and with --acme the external account
binding of ACME (RFC 8555), which makes an account of the device: its key identifier is the device's name, its HMAC key the token in base64url.

For scripts: --token-out writes it into a new file that only you can read, and --quiet prints it and nothing else. With --acme --quiet
prints key identifier and HMAC key with a blank between them: read -r KID KEY < <(mooring device token gw-1 --acme -q).`

func (c *cli) deviceTokenCommand() *cobra.Command {
	var ttl string
	var secret tokenOut
	var asACME bool
	cmd := &cobra.Command{
		Use: "token NAME", Short: "Give a device a new enrolment token", Long: deviceTokenHelp,
		Example: "  mooring device token car-4711\n  mooring device token car-4711 --life 1h --json\n  mooring device token car-4711 --token-out car-4711.token\n  mooring device token gw-1 --acme",
		Args:    needs("NAME"),
		RunE: c.online(func(ctx context.Context, s *client.Client, args []string) error {
			d, err := life("--life", ttl)
			if err != nil {
				return err
			}
			if asACME {
				return c.deviceTokenForACME(ctx, s, args[0], d, &secret)
			}
			return secret.keep(func() (*v1.Token, error) { return c.deviceToken(ctx, s, args[0], d, &secret) })
		}),
	}
	secret.flag(cmd)
	cmd.Flags().StringVar(&ttl, "life", "", "how long it can be used, such as 1h (default what the configuration says)")
	cmd.Flags().BoolVar(&asACME, "acme", false, "show it as an ACME client takes it: key identifier and HMAC key (external account binding)")
	return cmd
}

// deviceTokenForACME gives a token in the form of an external account binding.
func (c *cli) deviceTokenForACME(ctx context.Context, s *client.Client, name string, d time.Duration, secret *tokenOut) error {
	if secret.path != "" {
		return usagef("--acme prints the token as a key for ACME clients; --token-out is for the token itself")
	}
	t, err := s.NewToken(ctx, name, d)
	if err != nil {
		return err
	}
	return c.acmeToken(name, t)
}

func (c *cli) deviceToken(ctx context.Context, s *client.Client, name string, d time.Duration, secret *tokenOut) (*v1.Token, error) {
	t, err := s.NewToken(ctx, name, d)
	if err != nil {
		return nil, err
	}
	if c.bare(secret) {
		return &t, c.printToken(t)
	}
	return &t, c.show(secret.shown(t), func(w io.Writer) { c.token(w, name, t, secret) })
}

// token shows a token, the only time that it is seen, or where it is, and what to do with it.
func (c *cli) token(w io.Writer, name string, t v1.Token, secret *tokenOut) {
	kept := "is shown this once"
	if secret.path == "" {
		fact(w, "Token", t.Token)
	} else {
		kept = "is in " + secret.path + " and nowhere else"
		fact(w, "Token in", secret.path)
	}
	fact(w, "  valid until", within(t.Until, time.Now()))
	c.advise("The token %s. On the device (it asks for the token; root.pem comes from mooring ca export --root):\n%s", kept,
		enrolSteps(name, "root.pem", c.enrolAddress()))
}

// bare says whether a token is to be printed alone, for a script that puts it into a variable.
func (c *cli) bare(secret *tokenOut) bool { return c.quiet && !c.json && secret.path == "" }

func (c *cli) printToken(t v1.Token) error {
	_, err := fmt.Fprintln(c.out, t.Token)
	return err
}

// tokenOut is the file that --token-out names; its path is empty without one.
type tokenOut struct{ path string }

func (f *tokenOut) flag(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.path, "token-out", "", "file to write the token to, and nothing else; must not exist")
}

// shown is what is printed of t: not the secret when it goes into the file.
func (f *tokenOut) shown(t v1.Token) *v1.Token {
	if f.path != "" {
		t.Token = ""
	}
	return &t
}

// keep makes the file, has do get a token, and writes it. The file is made first, because a token that cannot be kept is lost; it is removed
// when no token came.
func (f *tokenOut) keep(do func() (*v1.Token, error)) error {
	if f.path == "" {
		_, err := do()
		return err
	}
	file, err := create(f.path, 0o600)
	if err != nil {
		return err
	}
	t, err := do()
	if t == nil {
		return errors.Join(err, file.Close(), os.Remove(f.path))
	}
	_, failed := fmt.Fprintln(file, t.Token)
	if failed = errors.Join(failed, file.Close()); failed != nil {
		return errs.Wrap(errs.Unavailable, failed, "%s cannot be written: the token is lost, give the device another one", f.path)
	}
	return err
}
