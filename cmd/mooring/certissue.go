package main

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"mooring/internal/base/errs"
	"mooring/internal/server/api/client"
	"mooring/internal/server/api/v1"
)

const certIssueHelp = `Issues a certificate for each certification request of a bundle, as a job, on your word in place of the devices' own proof: for batches
whose maker made the keys and sends the requests. Each request is checked like any other; what is refused is told with its row, and the
others go on. It needs an administrator.

--bundle FILE is PEM, one request after the other, each for the registered device that its common name names; or JSON Lines, one
{"device": name, "csr": PEM or DER in base64} a line. --profile must be that of each device.

With --output DIR the certificates are written there, each with the CAs above it, as NAME.pem (what a file's name cannot hold is
written %XX). Interrupted or cut off, the job goes on by itself; --job ID with --output fetches what it issued, and passes over what
is there already.`

// issueFlags say what to issue and where to.
type issueFlags struct {
	bundle, format, profile, output, job string
	preview                              bool
}

func (c *cli) certIssueCommand() *cobra.Command {
	var f issueFlags
	cmd := &cobra.Command{
		Use: "issue", Short: "Issue certificates for a bundle of requests", Long: certIssueHelp,
		Example: "  mooring cert issue --bundle batch-17.pem --profile device --output batch-17\n" +
			"  mooring cert issue --job 6f0cbd0d7f3a4a7c9a2d5f9e7f1a2b3c --output batch-17",
		Args: needs(),
		RunE: c.online(func(ctx context.Context, s *client.Client, _ []string) error { return c.certIssue(ctx, s, f) }),
	}
	flags := cmd.Flags()
	flags.SortFlags = false
	flags.StringVar(&f.bundle, "bundle", "", "file with the requests")
	flags.StringVar(&f.format, "format", "", "pem or jsonl (default by the file's name)")
	flags.StringVar(&f.profile, "profile", "", "the profile of the devices (default what each has)")
	flags.StringVar(&f.output, "output", "", "directory to write the certificates to; is made")
	flags.StringVar(&f.job, "job", "", "fetch the certificates of this job, in place of --bundle")
	flags.BoolVar(&f.preview, "preview", false, "only show what is in the bundle")
	return cmd
}

func (c *cli) certIssue(ctx context.Context, s *client.Client, f issueFlags) error {
	if (f.bundle == "") == (f.job == "") {
		return usagef("mooring cert issue needs either --bundle or --job")
	}
	if f.job != "" && f.output == "" {
		return usagef("--job fetches what a job issued: say where to with --output")
	}
	id := f.job
	if f.bundle != "" {
		j, err := c.sendBundle(ctx, s, f)
		if err != nil || f.preview {
			return err
		}
		id = j.ID
	}
	failed := c.watch(ctx, s, id)
	if ctx.Err() != nil || f.output == "" {
		return failed
	}
	return errors.Join(failed, c.fetchIssued(ctx, s, id, f.output))
}

func (c *cli) sendBundle(ctx context.Context, s *client.Client, f issueFlags) (v1.Job, error) {
	format := f.format
	switch ext := strings.ToLower(filepath.Ext(f.bundle)); {
	case format == "pem", format == "jsonl":
	case format != "":
		return v1.Job{}, usagef("--format %q is neither pem nor jsonl", format)
	case ext == ".jsonl" || ext == ".ndjson":
		format = "jsonl"
	default:
		format = "pem"
	}
	file, err := os.Open(f.bundle)
	if err != nil {
		return v1.Job{}, errs.Wrap(errs.NotFound, err, "%s cannot be read", f.bundle)
	}
	defer file.Close() // read only: nothing to lose
	j, err := s.IssueBundle(ctx, file, format, filepath.Base(f.bundle), f.profile, !f.preview)
	if err != nil {
		return j, err
	}
	if f.preview {
		c.advise("Nothing is done. Start it within a day: mooring job start %s", j.ID)
		return j, c.show(j, func(w io.Writer) { jobPreview(w, j) })
	}
	c.advise("Job %s", j.ID)
	return j, nil
}

// fetchIssued writes the certificates of a job that are not there yet.
func (c *cli) fetchIssued(ctx context.Context, s *client.Client, id, dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return errs.Wrap(errs.Unavailable, err, "%s cannot be made", dir)
	}
	results, err := jobResults(ctx, s, id, true)
	if err != nil {
		return err
	}
	bar := c.progress("fetching certificates")
	defer bar.end()
	chains := map[string]string{}
	written := 0
	for i, r := range results {
		bar.at(int64(i), int64(len(results)))
		path := filepath.Join(dir, fileName(r.Item)+".pem")
		if !r.OK || exists(path) {
			continue
		}
		if err := c.fetchOne(ctx, s, r.Text, path, chains); err != nil {
			return err
		}
		written++
	}
	c.advise("Written to %s: %d", dir, written)
	return nil
}

// fetchOne writes one certificate, whole or not at all.
func (c *cli) fetchOne(ctx context.Context, s *client.Client, serial, path string, chains map[string]string) error {
	x, err := s.Certificate(ctx, serial)
	if err != nil {
		return err
	}
	if chains[x.Issuer] == "" {
		issuer, err := s.CA(ctx, x.Issuer)
		if err != nil {
			return err
		}
		chains[x.Issuer] = issuer.Chain
	}
	part := path + ".part"
	if err := os.Remove(part); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return errs.Wrap(errs.Unavailable, err, "%s cannot be written", path)
	}
	if err := c.write(part, []byte(x.PEM+chains[x.Issuer]), 0o644); err != nil {
		return err
	}
	if err := os.Rename(part, path); err != nil {
		return errs.Wrap(errs.Unavailable, err, "%s cannot be written", path)
	}
	return nil
}

// fileName is a device's name as the name of a file.
func fileName(name string) string {
	name = url.PathEscape(name)
	if strings.HasPrefix(name, ".") {
		name = "%2E" + name[1:]
	}
	return strings.ReplaceAll(name, ":", "%3A")
}
