package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"mooring/internal/base/errs"
	"mooring/internal/server/api/client"
	"mooring/internal/server/api/v1"
)

const deviceAddHelp = `Registers a device. NAME is what you call it (a serial number, a VIN): unique for ever, at most 128 characters without blanks.

With --token it gets an enrolment token in the same step; it is shown once, with the commands to run on the device. For scripts:
--token-out writes it into a new file that only you can read, and --token --quiet prints it and nothing else. With --birth the device
is known by the certificate that its maker gave it, and needs no token; with --maker and --serial by any certificate of a registered
manufacturer (mooring manufacturer) that bears this serial number in its subject, of which the first one is bound to it.`

const deviceImportHelp = `Registers the devices of a file, all or none: everything is checked first, and the mistakes are told with their lines. A file
without mistakes is kept by the server, and a job imports it, which goes on after a crash where it stood. The command shows its progress until
the end; interrupting it does not stop the job. --detach returns as soon as the file is accepted: then "mooring job watch" shows the
progress, and "mooring job pause" stops it for a while. A device that somebody else registers meanwhile stays as it is; its line is named
at the end.

CSV has a first line that names the columns; JSON Lines has one object a line. Columns or fields: name (required), group, profile,
tags ("k=v;k=v" in CSV, an object in JSON), names ("dns:a.example;ip:192.0.2.1", an array in JSON), birth (the birth certificate in
PEM or base64, or its SHA-256 in hex), maker and serial (an ownership list: the manufacturer's name from mooring manufacturer, and the
serialNumber in the subject of the device's IDevID; so it needs no token). --profile and --group hold for rows that name none. FILE "-" is standard input.

With --tokens every device gets an enrolment token; the file, CSV with name and token, can be read by its owner only. A token works when
the job has come to its device.`

const deviceChangeHelp = `Changes what is known of a device. What is not mentioned stays. --dns and its like add to the names for its certificates;
--no-names takes all away first. --tag k=v sets a tag, --tag k= takes it away. New certificates follow the change; those it has
stay as they are.`

// nameFlags are the further names of a device.
type nameFlags struct{ dns, ip, uri, email []string }

func (n *nameFlags) flags(cmd *cobra.Command) {
	for _, f := range []struct {
		to         *[]string
		name, what string
	}{{&n.dns, "dns", "DNS name"}, {&n.ip, "ip", "IP address"}, {&n.uri, "uri", "URI"}, {&n.email, "email", "mail address"}} {
		cmd.Flags().StringArrayVar(f.to, f.name, nil, f.what+" for its certificates; may be repeated")
	}
}

func (n *nameFlags) list() (all []string) {
	for _, f := range []struct {
		prefix string
		values []string
	}{{"dns:", n.dns}, {"ip:", n.ip}, {"uri:", n.uri}, {"email:", n.email}} {
		for _, v := range f.values {
			all = append(all, f.prefix+v)
		}
	}
	return all
}

// setTags puts pairs "k=v" into tags; an empty value takes the tag away.
func setTags(tags map[string]string, pairs []string) error {
	for _, p := range pairs {
		k, v, ok := strings.Cut(p, "=")
		if !ok || k == "" {
			return usagef("--tag %q is not KEY=VALUE", p)
		}
		tags[k] = v
		if v == "" {
			delete(tags, k)
		}
	}
	return nil
}

func readBirth(path string) (string, error) {
	if path == "" {
		return "", nil
	}
	text, err := readFile(path)
	if err != nil {
		return "", err
	}
	if len(certificates(text)) == 0 {
		return "", errs.New(errs.Invalid, "%s holds no certificate in PEM: openssl x509 -inform DER -in %s makes one of DER", path, path)
	}
	return string(text), nil
}

func (c *cli) deviceAddCommand() *cobra.Command {
	var n v1.NewDevice
	var names nameFlags
	var tags []string
	var birth, ttl string
	var secret tokenOut
	cmd := &cobra.Command{
		Use: "add NAME", Short: "Register a device", Long: deviceAddHelp,
		Example: "  mooring device add car-4711 --profile device --group fleet-1 --tag vin=WDB123 --token\n" +
			"  mooring device add car-4712 --token-out car-4712.token\n" +
			"  mooring device add gw-1 --profile gateway --dns gw-1.example.com --birth gw-1.pem\n" +
			"  mooring device add pump-17 --maker acme --serial AC-00017",
		Args: needs("NAME"),
		RunE: c.online(func(ctx context.Context, s *client.Client, args []string) (err error) {
			n.Name, n.Names, n.Tags = args[0], names.list(), map[string]string{}
			if err := setTags(n.Tags, tags); err != nil {
				return err
			}
			if n.Birth, err = readBirth(birth); err != nil {
				return err
			}
			return secret.keep(func() (*v1.Token, error) { return c.deviceAdd(ctx, s, n, ttl, &secret) })
		}),
	}
	flags := cmd.Flags()
	flags.SortFlags = false
	flags.StringVar(&n.Profile, "profile", "device", "the kind of certificates it gets")
	flags.StringVar(&n.Group, "group", "", "its group")
	flags.StringArrayVar(&tags, "tag", nil, "KEY=VALUE for people and filters; may be repeated")
	names.flags(cmd)
	flags.StringVar(&birth, "birth", "", "file with the certificate that its maker gave it, PEM")
	flags.StringVar(&n.Maker, "maker", "", "the registered manufacturer whose certificate lets it in, with --serial")
	flags.StringVar(&n.Serial, "serial", "", "the serial number in the subject of that certificate")
	flags.BoolVar(&n.Token, "token", false, "give it an enrolment token too")
	secret.flag(cmd)
	flags.StringVar(&ttl, "life", "", "how long the token can be used, such as 1h")
	return cmd
}

// deviceAdd returns the token that the device got, if any.
func (c *cli) deviceAdd(ctx context.Context, s *client.Client, n v1.NewDevice, ttl string, secret *tokenOut) (*v1.Token, error) {
	n.Token = n.Token || secret.path != ""
	d, err := life("--life", ttl)
	switch {
	case err != nil:
		return nil, err
	case d > 0 && !n.Token:
		return nil, usagef("--life is how long the token can be used: give --token too")
	case d > 0:
		n.TokenLife = d.String()
	}
	added, err := s.AddDevice(ctx, n)
	if err != nil {
		return nil, err
	}
	if added.Token != nil && c.bare(secret) {
		return added.Token, c.printToken(*added.Token)
	}
	shown := added
	if added.Token != nil {
		shown.Token = secret.shown(*added.Token)
	}
	return added.Token, c.show(shown, func(w io.Writer) {
		fact(w, "Registered", added.Device.Name)
		fact(w, "ID", added.Device.ID)
		if added.Token != nil {
			c.token(w, added.Device.Name, *added.Token, secret)
		} else if n.Birth == "" && n.Maker == "" && n.Tags["v2x-key"] == "" {
			c.advise("To let it enrol, give it a token: mooring device token %s", quoted(added.Device.Name))
		}
		if strings.ContainsAny(added.Device.Name, "/+") {
			c.advise("It may enrol, but not talk by MQTT or CoAP: / and + mean something in topics.")
		}
	})
}

func (c *cli) deviceChangeCommand() *cobra.Command {
	var names nameFlags
	var tags []string
	var group, profile, birth, maker, serial string
	var noNames bool
	cmd := &cobra.Command{
		Use: "change NAME", Short: "Change a device", Long: deviceChangeHelp,
		Example: "  mooring device change car-4711 --group fleet-2 --tag colour=red\n  mooring device change gw-1 --no-names --dns gw-1.example.net",
		Args:    needs("NAME"),
	}
	flags := cmd.Flags()
	flags.SortFlags = false
	flags.StringVar(&profile, "profile", "", "the kind of certificates it gets")
	flags.StringVar(&group, "group", "", "its group; empty for none")
	flags.StringArrayVar(&tags, "tag", nil, "KEY=VALUE to set, KEY= to take away; may be repeated")
	flags.BoolVar(&noNames, "no-names", false, "take its further names away first")
	names.flags(cmd)
	flags.StringVar(&birth, "birth", "", "file with the certificate that its maker gave it, PEM; empty: it has none any more")
	flags.StringVar(&maker, "maker", "", "the registered manufacturer whose certificate lets it in; empty, with --serial empty: none")
	flags.StringVar(&serial, "serial", "", "the serial number in the subject of that certificate")
	cmd.RunE = c.online(func(ctx context.Context, s *client.Client, args []string) error {
		var n v1.ChangeDevice
		if flags.Changed("group") {
			n.Group = &group
		}
		if flags.Changed("profile") {
			n.Profile = &profile
		}
		if flags.Changed("maker") {
			n.Maker = &maker
		}
		if flags.Changed("serial") {
			n.Serial = &serial
		}
		if flags.Changed("birth") {
			text, err := readBirth(birth)
			if err != nil {
				return err
			}
			n.Birth = &text
		}
		return c.deviceChange(ctx, s, args[0], n, tags, names.list(), noNames)
	})
	return cmd
}

func (c *cli) deviceChange(ctx context.Context, s *client.Client, name string, n v1.ChangeDevice, tags, names []string, noNames bool) error {
	if n == (v1.ChangeDevice{}) && len(tags) == 0 && len(names) == 0 && !noNames {
		return usagef("mooring device change needs something to change, such as --group: see mooring device change --help")
	}
	now, err := s.Device(ctx, name)
	if err != nil {
		return err
	}
	if len(tags) > 0 {
		if now.Tags == nil {
			now.Tags = map[string]string{}
		}
		if err := setTags(now.Tags, tags); err != nil {
			return err
		}
		n.Tags = &now.Tags
	}
	if len(names) > 0 || noNames {
		all := names
		if !noNames {
			all = append(now.Names, names...)
		}
		n.Names = &all
	}
	changed, err := s.ChangeDevice(ctx, now.ID, n)
	if err != nil {
		return err
	}
	return c.show(changed, func(w io.Writer) { deviceFacts(w, changed) })
}

// importFlags are what an import needs besides the file.
type importFlags struct {
	format, profile, group, tokens, life string
	detach                               bool
}

func (c *cli) deviceImportCommand() *cobra.Command {
	var f importFlags
	cmd := &cobra.Command{
		Use: "import FILE", Short: "Register the devices of a file", Long: deviceImportHelp,
		Example: "  mooring device import fleet.csv --profile device --tokens tokens.csv\n  mooring device import fleet.csv --detach\n  zcat fleet.jsonl.gz | mooring device import - --format jsonl",
		Args:    needs("FILE"),
		RunE: c.online(func(ctx context.Context, s *client.Client, args []string) error {
			return c.deviceImport(ctx, s, args[0], f)
		}),
	}
	flags := cmd.Flags()
	flags.SortFlags = false
	flags.StringVar(&f.format, "format", "", "csv or jsonl (default by the file's name)")
	flags.StringVar(&f.profile, "profile", "", "profile of rows that name none")
	flags.StringVar(&f.group, "group", "", "group of rows that name none")
	flags.StringVar(&f.tokens, "tokens", "", "file to write an enrolment token for each device to; must not exist")
	flags.StringVar(&f.life, "life", "", "how long the tokens can be used, such as 30d")
	flags.BoolVar(&f.detach, "detach", false, "do not wait for the job that imports the file")
	return cmd
}

func (c *cli) deviceImport(ctx context.Context, s *client.Client, path string, f importFlags) (err error) {
	job := "" // once the file is accepted
	in := client.Import{R: c.in, Name: "stdin", Profile: f.profile, Group: f.group, Detach: f.detach, Accepted: func(r v1.ImportReport) { job = r.Job }}
	if in.Format, err = formatOf(path, f.format); err != nil {
		return err
	}
	if in.TokenLife, err = life("--life", f.life); err != nil {
		return err
	}
	if path != "-" {
		file, err := os.Open(path)
		if err != nil {
			return errs.Wrap(errs.NotFound, err, "%s cannot be read", path)
		}
		defer file.Close() // read only: nothing to lose
		in.R, in.Name, in.Size = file, filepath.Base(path), fileSize(file)
	}
	if f.tokens != "" {
		if _, err := s.WhoAmI(ctx); err != nil {
			return err // nobody there to give tokens
		}
		tokens, failure := create(f.tokens, 0o600)
		if failure != nil {
			return failure
		}
		in.Tokens = tokens
		defer func() { err = keepTokens(ctx, tokens, job != "", err) }()
	}
	bar := c.progress("importing " + in.Name)
	report, err := s.Import(ctx, in, bar.at)
	bar.end()
	var lost *client.TokensLost
	if err != nil && job != "" && !errors.As(err, &lost) {
		return goesOn(ctx, err, job)
	}
	if err != nil {
		return withoutProfile(err, f.profile)
	}
	err = c.show(report, func(w io.Writer) {
		if f.detach {
			fact(w, "Accepted", fmt.Sprint(report.Rows))
		} else {
			fact(w, "Registered", fmt.Sprint(report.Devices))
		}
		fact(w, "Job", report.Job)
		fact(w, "SHA-256 of the file", report.SHA256)
		fact(w, "Tokens", f.tokens)
	})
	switch {
	case err != nil:
		return err
	case f.detach:
		c.advise("Follow it: mooring job watch %s", report.Job)
	case report.Failed > 0:
		return errs.New(errs.Conflict, "%d of %d devices were not added: mooring job show %s --results has all of them\n%s", report.Failed, report.Rows, report.Job, strings.Join(report.Problems, "\n"))
	}
	return nil
}

// goesOn says what became of a file that was accepted, when its end was not seen.
func goesOn(ctx context.Context, err error, job string) error {
	var silent *client.Unreachable
	if ctx.Err() != nil || errors.As(err, &silent) {
		return errs.Wrap(errs.Unavailable, err, "the file was accepted, and job %s imports it all the same, after a crash as well: mooring job watch %s", job, job)
	}
	return err
}

// keepTokens closes the file of an import's tokens, and removes it when it is of no use: nothing in it, or nothing accepted.
func keepTokens(ctx context.Context, tokens *os.File, accepted bool, failure error) error {
	info, err := tokens.Stat()
	if err = errors.Join(err, tokens.Close()); err != nil && failure == nil {
		return errs.Wrap(errs.Unavailable, err, "the devices are registered, but %s cannot be written: give them new tokens", tokens.Name())
	}
	var unknown *client.Unreachable
	open := accepted || errors.As(failure, &unknown) || ctx.Err() != nil // or it may have been
	if failure != nil && (!open || info != nil && info.Size() == 0) {
		_ = os.Remove(tokens.Name()) // the tokens are void
	}
	return failure
}

// withoutProfile adds to the mistakes of an import how to name a profile for all rows, when that is what is missing.
func withoutProfile(err error, profile string) error {
	var refused *client.Error
	if profile == "" && errors.As(err, &refused) && slices.ContainsFunc(refused.Problems, func(line string) bool {
		return strings.HasSuffix(line, "column profile: required")
	}) {
		refused.Problems = append(refused.Problems, "Give --profile NAME for rows that name no profile, or add the column profile.")
	}
	return err
}
