package main

import (
	"context"
	"crypto/tls"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/spf13/cobra"

	"mooring/internal/base/conf"
	"mooring/internal/base/errs"
	"mooring/internal/server/api/client"
)

// online makes the body of a command that talks to the server.
func (c *cli) online(do func(ctx context.Context, s *client.Client, args []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		s, err := c.connect()
		if err != nil {
			return err
		}
		defer s.Close()
		return c.explain(worded(cmd, do(cmd.Context(), s, args)))
	}
}

// connect returns a client of the server that the flags name. Nothing is sent yet.
func (c *cli) connect() (*client.Client, error) {
	if c.server != "" {
		return c.connectTLS()
	}
	if c.cert != "" || c.key != "" || c.ca != "" {
		return nil, usagef("--cert, --key and --ca are for a server elsewhere: name it with --server https://HOST:9443")
	}
	config, err := conf.Load(c.dir)
	if err != nil {
		return nil, err
	}
	return client.New(config.SocketPath()), nil
}

func (c *cli) connectTLS() (*client.Client, error) {
	var pem [3][]byte
	for i, f := range []struct{ flag, path, name string }{{"--cert", c.cert, "cert.pem"}, {"--key", c.key, "key.pem"}, {"--ca", c.ca, "ca.pem"}} {
		path := f.path
		if path == "" {
			path = filepath.Join(c.dir, "operator", f.name)
		}
		var err error
		if pem[i], err = readFile(path); err != nil {
			return nil, errs.Wrap(errs.KindOf(err), err, "an operator's credential is needed for %s: give %s FILE, or --dir with the directory that has operator/%s", c.server, f.flag, f.name)
		}
	}
	s, err := client.NewTLS(c.server, pem[0], pem[1], pem[2])
	if err != nil {
		return nil, errs.New(errs.Invalid, "%v", err)
	}
	return s, nil
}

// explain says how to start the server of this machine when it does not answer.
func (c *cli) explain(err error) error {
	var silent *client.Unreachable
	var unknown *tls.CertificateVerificationError
	if errors.As(err, &unknown) {
		return errs.Wrap(errs.Unavailable, err, "the server at %s is not the one that --ca speaks of (without the flag %s): give --ca FILE with the root certificate of that server, which mooring ca export --root prints there",
			c.server, filepath.Join(c.dir, "operator", "ca.pem"))
	}
	if c.server != "" || !errors.As(err, &silent) || !errors.Is(silent.Err, fs.ErrNotExist) && !isRefused(silent.Err) {
		return err
	}
	return errs.New(errs.Unavailable, "the server of %s is not running: nobody answers at %s.\nStart it with\n  mooring serve --dir %s\nor name a server elsewhere with --server", c.dir, silent.Where, c.dir)
}

// maxFile bounds what is read into memory of a file that the user names.
const maxFile = 16 << 20

func readFile(path string) ([]byte, error) {
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, errs.New(errs.NotFound, "there is no file %s", path)
	case err == nil && info.Size() > maxFile:
		return nil, errs.New(errs.Invalid, "%s has more than %d octets: is it the right file?", path, maxFile)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, errs.Wrap(errs.Unavailable, err, "%s cannot be read", path)
	}
	return data, nil
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// isRefused says whether nobody listens any more at a socket that is still there.
func isRefused(err error) bool { return errors.Is(err, syscall.ECONNREFUSED) }
