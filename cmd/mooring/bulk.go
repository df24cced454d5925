package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"mooring/internal/base/errs"
	"mooring/internal/server/api/client"
	"mooring/internal/server/api/v1"
)

const certRevokeHelp = `Revokes a certificate: the server refuses it at once, and the revocation list and status answers say so to everybody else. It
cannot be undone, but for certificateHold, which "mooring cert release" lifts. To cut off a whole device use "mooring device lost".
The certificate of a CA ends all that it certified: the command asks, or goes on with --yes.

--reason is a name of RFC 5280, section 5.3.1: unspecified, keyCompromise, cACompromise, affiliationChanged, superseded,
cessationOfOperation, certificateHold, privilegeWithdrawn, aACompromise.

Many at once. With --group, --state, --tag, --profile, --issuer or --serials FILE (one serial number a line) it revokes every certificate
that fits, as a job. The server first finds them and keeps what it found, and the command shows how many there are and some of them.
With --preview that is all, and the draft can be started within a day. Else it asks, or with --yes goes on: above the number in
approve.revoke_above another person must approve the job; then it waits for --undo, in which "mooring job cancel" ends it without
any effect; then it is done in steps, which "mooring job pause" can stop. --wait stays until the end.

Certificates that are issued later are not meant. Those of operators and of the platform itself are left out unless --profile names
theirs. A filter that fits everything there is needs --everything.`

const certReleaseHelp = `Lifts the hold of a certificate, so that it is good again. A certificate that is revoked for any other reason stays so.`

// bulkFlags choose many and say how it is to be done.
type bulkFlags struct {
	group, state, tag, profile, issuer, serials string
	everything                                  bool
	undo                                        string
	preview, yes, wait                          bool
}

func (b *bulkFlags) flags(cmd *cobra.Command, certificates bool) {
	flags := cmd.Flags()
	of := ""
	if certificates {
		of = "of devices "
		flags.StringVar(&b.profile, "profile", "", "many: of this profile")
		flags.StringVar(&b.issuer, "issuer", "", "many: by this CA, by name or id")
		flags.StringVar(&b.serials, "serials", "", "many: those whose serial numbers stand in this file, one a line; - is standard input")
	} else {
		flags.StringVar(&b.profile, "profile", "", "many: with this profile")
	}
	flags.StringVar(&b.group, "group", "", "many: "+of+"in this group")
	flags.StringVar(&b.state, "state", "", "many: "+of+"in this state")
	flags.StringVar(&b.tag, "tag", "", "many: "+of+"with this tag, KEY or KEY=VALUE")
	flags.BoolVar(&b.everything, "everything", false, "many: needed when everything there is fits")
	flags.BoolVar(&b.preview, "preview", false, "many: only show what fits")
	flags.StringVar(&b.undo, "undo", "", "many: how long to wait, visibly, before anything is done, such as 10m or 0s (default jobs.undo of the server)")
	flags.BoolVar(&b.yes, "yes", false, "do not ask")
	flags.BoolVar(&b.wait, "wait", false, "many: stay until the job has ended")
}

// many reports whether the flags choose many, and refuses those that go with one only or not together.
func (b *bulkFlags) many(cmd *cobra.Command, args []string) (bool, error) {
	filter := b.group+b.state+b.tag+b.profile+b.issuer != "" || b.everything
	many := filter || b.serials != ""
	switch {
	case len(args) > 1:
		return false, usagef("%s does not take %q: see %s --help", cmd.CommandPath(), args[1], cmd.CommandPath())
	case many && len(args) > 0:
		return false, usagef("name one (%s) or choose many by flags, not both", args[0])
	case filter && b.serials != "":
		return false, usagef("--serials names certificates one by one: it goes with no other choice")
	case !many && (b.preview || b.wait || b.undo != ""):
		return false, usagef("--preview, --undo and --wait go with many: choose them, such as by --group")
	case !many && len(args) == 0:
		return false, usagef("%s needs one to be named, or many to be chosen, such as by --group: see %s --help", cmd.CommandPath(), cmd.CommandPath())
	}
	if b.undo != "" {
		d, err := life("--undo", b.undo)
		if err != nil {
			return false, err
		}
		b.undo = d.String()
	}
	return many, nil
}

func (c *cli) certRevokeCommand() *cobra.Command {
	var reason string
	var b bulkFlags
	cmd := &cobra.Command{
		Use: "revoke [SERIAL]", Short: "Revoke a certificate, or many", Long: certRevokeHelp,
		Example: "  mooring cert revoke 4165a1b2c3d4e5f60718293a4b5c6d7e --reason keyCompromise\n" +
			"  mooring cert revoke --group plant-4 --issuer devices --reason keyCompromise --preview\n" +
			"  mooring cert revoke --serials batch-17.txt --reason superseded --undo 1h --yes",
	}
	cmd.Flags().SortFlags = false
	cmd.Flags().StringVar(&reason, "reason", "", "why, by a name of RFC 5280 (default unspecified)")
	b.flags(cmd, true)
	cmd.RunE = func(_ *cobra.Command, args []string) error {
		many, err := b.many(cmd, args)
		if err != nil {
			return err
		}
		return c.online(func(ctx context.Context, s *client.Client, args []string) error {
			if many {
				return c.bulk(ctx, s, &b, func() (v1.Job, error) { return c.revokeMany(ctx, s, &b, reason) })
			}
			return c.revokeOne(ctx, s, args[0], reason, b.yes)
		})(cmd, args)
	}
	return cmd
}

func (c *cli) revokeOne(ctx context.Context, s *client.Client, number, reason string, yes bool) error {
	if !yes {
		if err := c.sureOfCA(ctx, s, serial(number)); err != nil {
			return err
		}
	}
	r, err := s.Revoke(ctx, serial(number), reason)
	if err != nil {
		return err
	}
	return c.show(r, func(w io.Writer) {
		verb := "is revoked"
		if r.Already {
			verb = "was revoked already"
		}
		fmt.Fprintf(w, "%s %s: %s, %s\n", r.Serial, verb, minute(r.Revocation.At), r.Revocation.Reason)
		for _, also := range r.Also {
			fmt.Fprintf(w, "%s is revoked with it: it is of the same key\n", also)
		}
		if r.Successor != "" {
			fmt.Fprintf(w, "%s was got with it and stays valid: revoke it as well if the key is in wrong hands\n", r.Successor)
		}
	})
}

// sureOfCA asks the person at the terminal when it is the certificate of a CA.
func (c *cli) sureOfCA(ctx context.Context, s *client.Client, number string) error {
	cas, err := s.CAs(ctx)
	if errs.Is(err, errs.Denied) {
		return nil // who may not see the CAs may not revoke one either
	}
	if err != nil {
		return err
	}
	at := slices.IndexFunc(cas, func(a v1.CA) bool { return strings.EqualFold(a.Serial, number) && a.Revoked == "" })
	if at < 0 {
		return nil
	}
	name := cas[at].Name
	if !isTerminal(c.in) || c.json {
		return usagef("this is the certificate of the CA %s, below which nobody would be believed any more, and nobody is at the terminal to be asked: say --yes if that is meant. Nothing was done", name)
	}
	if !c.typesYes("This is the certificate of the CA %s. Once it is revoked nothing is issued below it, and nobody whom it certified is believed.\nType yes to revoke it: ", name) {
		return usagef("nothing was done")
	}
	return nil
}

func (c *cli) revokeMany(ctx context.Context, s *client.Client, b *bulkFlags, reason string) (v1.Job, error) {
	want := v1.NewRevocation{Group: b.group, State: b.state, Tag: b.tag, Profile: b.profile, Issuer: b.issuer, Everything: b.everything, Reason: reason, Undo: b.undo}
	switch b.serials {
	case "":
		return s.RevokeMany(ctx, want)
	case "-":
		return s.RevokeFile(ctx, c.in, "stdin", want)
	}
	f, err := os.Open(b.serials)
	if err != nil {
		return v1.Job{}, errs.Wrap(errs.NotFound, err, "%s cannot be read", b.serials)
	}
	defer f.Close()                  // read only: nothing to lose
	name := filepath.Base(b.serials) // it is kept, and folders may name people
	j, err := s.RevokeFile(ctx, f, name, want)
	if refused := (*client.Error)(nil); errors.As(err, &refused) {
		lines := strings.Split(refused.Detail, "\n")
		for i, line := range lines {
			if rest, ok := strings.CutPrefix(line, name); ok {
				lines[i] = b.serials + rest
			}
		}
		refused.Detail = strings.Join(lines, "\n")
	}
	return j, err
}

func (c *cli) certReleaseCommand() *cobra.Command {
	return &cobra.Command{
		Use: "release SERIAL", Short: "Lift the hold of a certificate", Long: certReleaseHelp,
		Example: "  mooring cert release 4165a1b2c3d4e5f60718293a4b5c6d7e",
		Args:    needs("SERIAL"),
		RunE: c.online(func(ctx context.Context, s *client.Client, args []string) error {
			r, err := s.Release(ctx, serial(args[0]))
			if err != nil {
				return err
			}
			return c.show(r, func(w io.Writer) { fmt.Fprintf(w, "%s is good again\n", r.Serial) })
		}),
	}
}

// bulk makes a job of many, shows what it would do, and starts it when that is wanted.
func (c *cli) bulk(ctx context.Context, s *client.Client, b *bulkFlags, make func() (v1.Job, error)) error {
	j, err := make()
	if err != nil {
		return err
	}
	if j, err = c.found(ctx, s, j); err != nil {
		return err
	}
	if b.preview || !c.json {
		if err := c.show(j, func(w io.Writer) { jobPreview(w, j) }); err != nil {
			return err
		}
	}
	switch {
	case j.Total == 0:
		if _, err := s.MoveJob(ctx, j.ID, "cancel"); err != nil || b.preview {
			return err
		}
		return errs.New(errs.NotFound, "nothing was done, since nothing fits: %s: 0 %s", j.Title, j.Unit)
	case b.preview:
		c.advise("Nothing is done. Start it within a day: mooring job start %s", j.ID)
		return nil
	case !b.yes:
		if err := c.sure(ctx, s, j); err != nil {
			return err
		}
	}
	if j, err = s.MoveJob(ctx, j.ID, "start"); err != nil {
		return err
	}
	return c.started(ctx, s, j, b.wait)
}

// found waits until the job knows its items.
func (c *cli) found(ctx context.Context, s *client.Client, j v1.Job) (v1.Job, error) {
	bar := c.progress("looking for " + j.Unit)
	defer bar.end()
	j, err := s.AwaitJob(ctx, j.ID, func(j v1.Job) bool {
		bar.at(j.Total, 0)
		return j.Ready || j.State != "draft"
	})
	if err == nil && j.State == "failed" {
		err = errs.New(errs.Invalid, "%s", j.Note)
		if strings.Contains(j.Note, "everything") {
			err = errs.New(errs.Invalid, "%s\nIf that is meant, add --everything.", j.Note)
		}
	}
	return j, err
}

// sure asks the person at the terminal. Who is not sure leaves nothing behind.
func (c *cli) sure(ctx context.Context, s *client.Client, j v1.Job) error {
	refuse := func(text string) error {
		_, err := s.MoveJob(ctx, j.ID, "cancel")
		return errors.Join(usagef("%s", text), err)
	}
	if !isTerminal(c.in) || c.json {
		return refuse("nobody is at the terminal to be asked: look with --preview, then say --yes. Nothing was done")
	}
	if !c.typesYes("Go on with %d %s? Type yes: ", j.Total, j.Unit) {
		return refuse("nothing was done")
	}
	return nil
}

// typesYes asks the person at the terminal, who answers yes or anything else.
func (c *cli) typesYes(question string, values ...any) bool {
	fmt.Fprintf(c.err, question, values...)
	answer, _ := bufio.NewReader(c.in).ReadString('\n') // what was typed before the end counts
	return strings.TrimSpace(answer) == "yes"
}

// started says what happens next, and stays until the end if that is wanted.
func (c *cli) started(ctx context.Context, s *client.Client, j v1.Job, wait bool) error {
	switch {
	case j.State == "waiting":
		c.advise("%s", sentence(j.Note))
		c.advise("Another person approves it: mooring approval list")
	case j.NotBefore.After(time.Now().Add(time.Second)):
		c.advise("Nothing is done before %s: until then mooring job cancel %s ends it without any effect.", j.NotBefore.UTC().Format("15:04:05 UTC"), j.ID)
	}
	if wait {
		return c.watch(ctx, s, j.ID)
	}
	return c.show(j, func(w io.Writer) { fmt.Fprintf(w, "Job %s is %s\n", j.ID, j.State) })
}

// sentence makes a note one.
func sentence(s string) string {
	if s == "" {
		return s
	}
	return strings.ToUpper(s[:1]) + s[1:] + "."
}

func jobPreview(w io.Writer, j v1.Job) {
	fmt.Fprintf(w, "%s: %d %s\n", printable(j.Title), j.Total, j.Unit)
	for _, one := range j.Sample {
		fmt.Fprintf(w, "  %s\n", printable(one))
	}
	if more := j.Total - int64(len(j.Sample)); more > 0 {
		fmt.Fprintf(w, "  and %d more\n", more)
	}
	if j.Note != "" {
		fmt.Fprintln(w, printable(sentence(j.Note)))
	}
}
