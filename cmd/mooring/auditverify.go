package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"mooring/internal/app"
	"mooring/internal/base/conf"
	"mooring/internal/base/errs"
	"mooring/internal/core/audit"
	"mooring/internal/server/api/client"
	"mooring/internal/server/api/v1"
)

const auditVerifyHelp = `Recomputes the whole record, from the first entry to the signed heads, and compares every table of the database with it: a row that
was changed, added or taken away behind the record's back is named. The exit code is 1 if anything does not fit. Of entries that have
left by policy (retention.audit) the hashes are verified; what they led to was kept with the record's own guarantees and is compared.

--known FILE is a checkpoint that was kept elsewhere; the record must contain it. May be repeated.

With --database it works without a server, on a database that you name: the file of a copy, or the address of a PostgreSQL database.
The keys and the configuration come from the data directory. Give a copy, not the one in use: what was committed but not yet sealed
is sealed in it, as a starting server would.`

func (c *cli) auditVerifyCommand() *cobra.Command {
	var known []string
	var database string
	cmd := &cobra.Command{
		Use: "verify", Short: "Verify the record and everything it speaks of", Long: auditVerifyHelp,
		Example: "  mooring audit verify\n  mooring audit verify --known 2026-11-01.checkpoint\n  mooring audit verify --database copy-of-mooring.db --dir /var/lib/mooring",
		Args:    needs(),
	}
	cmd.Flags().StringArrayVar(&known, "known", nil, "file with a checkpoint that was kept elsewhere; may be repeated")
	cmd.Flags().StringVar(&database, "database", "", "verify this database, without a server")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		var checkpoints []string
		for _, path := range known {
			text, err := readFile(path)
			if err != nil {
				return err
			}
			checkpoints = append(checkpoints, string(text))
		}
		if database != "" {
			return c.verifyOffline(cmd.Context(), database, checkpoints)
		}
		return c.online(func(ctx context.Context, s *client.Client, _ []string) error {
			bar := c.progress("verifying")
			report, err := s.Verify(ctx, checkpoints, bar.at)
			bar.end()
			if err != nil {
				return err
			}
			return c.verified(report)
		})(cmd, nil)
	}
	return cmd
}

// verifyOffline opens the named database with everything else of the data directory.
func (c *cli) verifyOffline(ctx context.Context, database string, known []string) (err error) {
	config, err := conf.Load(c.dir)
	if err != nil {
		return err
	}
	if strings.HasPrefix(database, "postgres://") || strings.HasPrefix(database, "postgresql://") {
		config.Database.URL = database
	} else {
		path, err := filepath.Abs(strings.TrimPrefix(database, "sqlite:"))
		if err != nil {
			return errs.Wrap(errs.Invalid, err, "the path %q cannot be resolved", database)
		}
		if !exists(path) {
			return errs.New(errs.NotFound, "there is no database file %s", path)
		}
		config.Database = conf.Database{URL: "sqlite:" + path}
	}
	p, err := app.Open(ctx, app.Options{Config: config, Prompt: c.prompt})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.Close()) }()
	o := audit.VerifyOptions{Checkers: p.Checkers()}
	for _, k := range known {
		o.Known = append(o.Known, []byte(k))
	}
	bar := c.progress("verifying")
	o.Progress = bar.at
	r, err := p.Audit.Verify(ctx, o)
	bar.end()
	if err != nil {
		return err
	}
	report := v1.VerifyReport{Sound: len(r.Findings) == 0, Entries: r.Entries, Pending: r.Pending, Root: r.Root.String(), Checkpoint: r.Checkpoint, More: r.More, Replayed: r.Replayed, Left: r.Dropped}
	for _, f := range r.Findings {
		report.Findings = append(report.Findings, v1.Finding{Table: f.Table, Index: f.Index, Action: f.Action, Batch: f.Batch, Text: f.String()})
	}
	return c.verified(report)
}

// verified shows the report; damage is an error too, so that a script notices.
func (c *cli) verified(r v1.VerifyReport) error {
	err := c.show(r, func(w io.Writer) {
		if r.Sound {
			fmt.Fprintln(w, "SOUND: the record is whole, and every table agrees with it")
		}
		fact(w, "Entries", fmt.Sprint(r.Entries))
		fact(w, "Under a signature", fmt.Sprint(r.Checkpoint))
		fact(w, "Written meanwhile, not verified", fmt.Sprint(r.Pending))
		if r.Replayed > 0 {
			fact(w, "Left by policy", fmt.Sprintf("%d entries: their hashes were verified, and the tables with what was kept at entry %d", r.Left, r.Replayed))
		}
		fact(w, "Root", r.Root)
		for _, f := range r.Findings {
			fact(w, "DAMAGE", f.Text)
		}
	})
	if err != nil || r.Sound {
		return err
	}
	more := ""
	if r.More {
		more = " and more"
	}
	return errs.New(errs.Conflict, "the record or the tables were changed or damaged: %d findings%s. Keep the database as it is, find out who had access to it, and compare with a backup", len(r.Findings), more)
}
