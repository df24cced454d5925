package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"mooring/internal/base/conf"
	"mooring/internal/base/errs"
	"mooring/internal/core/ca"
	"mooring/internal/server/api/client"
	"mooring/internal/server/api/v1"
)

const profileHelp = `A profile says what a kind of certificate looks like and on which terms it is given: who signs, which names and keys, how long,
which proof is enough. Profiles are YAML files in the data directory, one each; an edit holds from the server's next start.`

const profileListHelp = `Lists the profiles that the running server uses.`

const profileShowHelp = `Shows one profile as the running server uses it. --source prints the file itself.`

const profileLintHelp = `Checks profiles without a server: strict syntax, the rules of this program, and a sample certificate that has to satisfy
the lints of RFC 5280. PATH is a file or a directory of files; without one, the profiles of the data directory are checked. Each
mistake is told with its line.`

func (c *cli) profileCommand() *cobra.Command {
	var source bool
	show := &cobra.Command{
		Use: "show NAME", Short: "Show a profile", Long: profileShowHelp,
		Example: "  mooring profile show device\n  mooring profile show device --source > device.yaml",
		Args:    needs("NAME"),
		RunE: c.online(func(ctx context.Context, s *client.Client, args []string) error {
			return c.profileShow(ctx, s, args[0], source)
		}),
	}
	show.Flags().BoolVar(&source, "source", false, "print the file")
	return group(&cobra.Command{
		Use: "profile", Short: "Look at and check the kinds of certificates", Long: profileHelp,
		Example: "  mooring profile list\n  mooring profile lint",
	}, &cobra.Command{
		Use: "list", Short: "List the profiles", Long: profileListHelp,
		Example: "  mooring profile list",
		Args:    needs(),
		RunE:    c.online(c.profileList),
	}, show, &cobra.Command{
		Use: "lint [PATH...]", Short: "Check profiles, without a server", Long: profileLintHelp,
		Example: "  mooring profile lint\n  mooring profile lint ./profiles device.yaml",
		RunE:    func(_ *cobra.Command, args []string) error { return c.profileLint(args) },
	})
}

func (c *cli) profileList(ctx context.Context, s *client.Client, _ []string) error {
	profiles, err := s.Profiles(ctx)
	if err != nil {
		return err
	}
	return c.show(v1.ProfileList{Profiles: profiles}, func(w io.Writer) {
		row(w, "NAME", "ISSUER", "SLOT", "VALID FOR", "EVIDENCE", "APPROVAL", "GRANTS", "DESCRIPTION")
		for _, p := range profiles {
			row(w, p.Name, p.Issuer, p.Slot, validFor(p), strings.Join(p.Evidence, ","), yes(p.Approval), p.Grants, p.Description)
		}
	})
}

func validFor(p v1.Profile) string {
	if p.Forever {
		return "ever"
	}
	return span(p.Validity)
}

func yes(b bool) string {
	if b {
		return "yes"
	}
	return ""
}

func (c *cli) profileShow(ctx context.Context, s *client.Client, name string, source bool) error {
	p, err := s.Profile(ctx, name)
	if err != nil {
		return err
	}
	if source && !c.json {
		_, err := io.WriteString(c.out, p.Source)
		return err
	}
	return c.show(p, func(w io.Writer) {
		fact(w, "Name", p.Name)
		fact(w, "Description", p.Description)
		fact(w, "Version", p.Version)
		fact(w, "Issuer", p.Issuer)
		fact(w, "Slot", p.Slot)
		fact(w, "Keys", strings.Join(p.Keys, ", "))
		fact(w, "Valid for", validFor(p))
		fact(w, "Renew in the last", span(p.RenewBefore))
		fact(w, "Renewal may keep key", yes(p.ReuseKey))
		fact(w, "Evidence", strings.Join(p.Evidence, ", "))
		fact(w, "Approval needed", yes(p.Approval))
		fact(w, "Server makes keys", p.ServerKeygen)
		fact(w, "Grants role", p.Grants)
		fact(w, "CRL, OCSP", orNone(strings.Join(nonEmpty(word(p.CRL, "CRL"), word(p.OCSP, "OCSP"), word(p.NoRevAvail, "none, and says so")), ", ")))
		fact(w, "Recorded", p.Record)
		fact(w, "Kept after its end", p.Retention)
		fact(w, "Also for devices of", strings.Join(p.AlsoFor, ", "))
		if p.Rescue != nil {
			fact(w, "Rescue", fmt.Sprintf("up to %s after its end, evidence: %s, approval: %s, for %s", p.Rescue.MaxExpired, p.Rescue.Evidence, p.Rescue.Approval, p.Rescue.Validity))
		}
		fact(w, "Lint exceptions", strings.Join(p.LintExceptions, ", "))
		c.advise("Subject, names and extensions are in its file: mooring profile show %s --source", quoted(p.Name))
	})
}

func word(b bool, s string) string {
	if b {
		return s
	}
	return ""
}

func nonEmpty(all ...string) (some []string) {
	for _, s := range all {
		if s != "" {
			some = append(some, s)
		}
	}
	return some
}

func (c *cli) profileLint(paths []string) error {
	if len(paths) == 0 {
		config, err := conf.Load(c.dir)
		if err != nil {
			return err
		}
		paths = []string{config.ProfileDir()}
	}
	var names []string
	var wrong []error
	for _, path := range paths {
		found, err := lint(path)
		names = append(names, found...)
		if err != nil {
			wrong = append(wrong, fmt.Errorf("%s:\n%w", path, err))
		}
	}
	if len(wrong) > 0 {
		return errs.New(errs.Invalid, "%v", errors.Join(wrong...))
	}
	return c.show(map[string]any{"result": "valid", "profiles": names}, func(w io.Writer) {
		fmt.Fprintf(w, "%d valid: %s\n", len(names), strings.Join(names, ", "))
	})
}

// lint checks the profiles at path and returns their names.
func lint(path string) (names []string, err error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, errs.New(errs.NotFound, "there is no such file or directory")
	}
	if !info.IsDir() {
		if filepath.Ext(path) != ".yaml" {
			return nil, errs.New(errs.Invalid, "a profile's file is called NAME.yaml")
		}
		p, err := ca.LoadProfile(os.DirFS(filepath.Dir(path)), filepath.Base(path))
		if err != nil {
			return nil, err
		}
		return []string{p.Name}, nil
	}
	profiles, err := ca.LoadProfiles(os.DirFS(path))
	if err != nil {
		return nil, err
	}
	for _, p := range profiles.All() {
		names = append(names, p.Name)
	}
	if len(names) == 0 {
		return nil, errs.New(errs.NotFound, "there is no file NAME.yaml in it")
	}
	return names, nil
}
