package main

import (
	"context"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"mooring/internal/base/conf"
	"mooring/internal/base/errs"
	"mooring/internal/server/api/client"
	"mooring/internal/server/api/v1"
)

const deviceHelp = `The registry of devices, and of the services and people that have certificates too. A device is registered first, then it
enrols with a token (or the certificate that it was made with) and renews by itself.

Its name is unique for ever, and so is the id that follows from it; commands take either. Its life: registered, enrolled, suspended
for a while, and in the end lost or retired.`

const deviceShowHelp = `Shows what is known of a device: its names, the certificate it holds for each purpose, its token, and what happened to it last.`

func (c *cli) deviceCommand() *cobra.Command {
	return group(&cobra.Command{
		Use: "device", Short: "Register, list and block devices", Long: deviceHelp,
		Example: "  mooring device add car-4711 --profile device --token\n  mooring device list --group plant-3 --expires-before 30d\n  mooring device lost car-4711",
	}, c.deviceAddCommand(), c.deviceImportCommand(), c.deviceListCommand(), &cobra.Command{
		Use: "show NAME", Short: "Show a device", Long: deviceShowHelp,
		Example: "  mooring device show car-4711",
		Args:    needs("NAME"),
		RunE:    c.online(c.deviceShow),
	}, c.deviceChangeCommand(), c.deviceTokenCommand(), c.deviceTailCommand(),
		c.deviceMoveCommand("suspend", "put on hold", "Block a device for a while", `A suspended device can neither enrol nor renew, and its certificates are revoked for the time being (certificateHold), until it is
resumed.`),
		c.deviceMoveCommand("resume", "released", "Let a suspended device go on", `The device may enrol and renew again, and its certificates that were put on hold are good again.`),
		c.deviceMoveCommand("lost", revoked, "Cut a device off for good and revoke its certificates", `For a device that may be in the wrong hands: all its certificates are revoked at once, its token is void, and it never comes
back under this name.`),
		c.deviceMoveCommand("retire", revoked, "End a device's life and revoke its certificates", `For a device at its orderly end: all its certificates are revoked, its token is void, and its name is never used again.`),
	)
}

// enrolAddress is where devices enrol, as far as it can be told from here.
func (c *cli) enrolAddress() string {
	if c.server == "" {
		if config, err := conf.Load(c.dir); err == nil {
			return config.ESTURL()
		}
	}
	return "https://HOST:8443"
}

// quoted makes s one word of a shell.
func quoted(s string) string {
	if s != "" && !strings.ContainsFunc(s, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("-_.:@/", r))
	}) {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// revoked is what becomes of the certificates of a device that is lost or retired; why is then told to everybody who asks.
const revoked = "revoked"

func (c *cli) deviceMoveCommand(move, effect, short, help string) *cobra.Command {
	var reason string
	var b bulkFlags
	cmd := &cobra.Command{
		Use: move + " [NAME]", Short: short,
		Long:    help + moveManyHelp,
		Example: "  mooring device " + move + " car-4711\n  mooring device " + move + " --group plant-4 --preview",
	}
	cmd.Flags().SortFlags = false
	if effect == revoked {
		cmd.Flags().StringVar(&reason, "reason", "", "why, by a name of RFC 5280, section 5.3.1, such as keyCompromise (default what goes with the act)")
		cmd.Example += "\n  mooring device " + move + " car-4711 --reason keyCompromise"
	}
	b.flags(cmd, false)
	cmd.RunE = func(_ *cobra.Command, args []string) error {
		many, err := b.many(cmd, args)
		if err != nil {
			return err
		}
		return c.online(func(ctx context.Context, s *client.Client, args []string) error {
			if !many {
				return c.moveOne(ctx, s, args[0], move, effect, reason)
			}
			return c.bulk(ctx, s, &b, func() (v1.Job, error) {
				return s.MoveMany(ctx, v1.NewMove{Move: move, Group: b.group, State: b.state, Tag: b.tag, Profile: b.profile, Everything: b.everything, Reason: reason, Undo: b.undo})
			})
		})(cmd, args)
	}
	return cmd
}

const moveManyHelp = `

Many at once. With --group, --state, --tag or --profile it is done to every device that fits and whose state allows it, as a job:
"mooring cert revoke --help" tells how that goes.`

func (c *cli) moveOne(ctx context.Context, s *client.Client, name, move, effect, reason string) error {
	m, err := s.MoveDevice(ctx, name, move, reason)
	if err != nil {
		return err
	}
	return c.show(m, func(w io.Writer) {
		fmt.Fprintf(w, "%s is %s", printable(m.Device.Name), m.Device.State)
		if m.Changed > 0 {
			fmt.Fprintf(w, "; certificates %s: %d", effect, m.Changed)
		}
		fmt.Fprintln(w)
	})
}

func (c *cli) deviceShow(ctx context.Context, s *client.Client, args []string) error {
	d, err := s.Device(ctx, args[0])
	if err != nil {
		return err
	}
	// The record is a permission of its own: whoever lacks it still sees the device.
	events, err := s.Audit(ctx, client.Audit{Device: d.ID, Newest: true, Limit: 5})
	if err != nil && kindOf(err) != errs.Denied {
		return err
	}
	return c.show(struct {
		v1.Device
		Events []v1.Entry `json:"events,omitempty"`
	}{d, events.Entries}, func(w io.Writer) {
		deviceFacts(w, d)
		if len(events.Entries) > 0 {
			fmt.Fprintln(w, "Last events:")
		}
		for _, e := range events.Entries {
			row(w, "  "+minute(e.At), e.Action, e.Actor, outcome(e))
		}
	})
}

func deviceFacts(w io.Writer, d v1.Device) {
	now := time.Now()
	fact(w, "Name", d.Name)
	fact(w, "ID", d.ID)
	fact(w, "State", d.State)
	fact(w, "Profile", d.Profile)
	fact(w, "Group", d.Group)
	fact(w, "Further names", strings.Join(d.Names, ", "))
	fact(w, "Tags", pairs(d.Tags))
	fact(w, "Manufacturer", d.Maker)
	fact(w, "Serial number", d.Serial)
	fact(w, "Registered", minute(d.Created))
	fact(w, "Last seen", within(d.LastSeen, now))
	fact(w, "Certificates issued", fmt.Sprint(d.Issued))
	switch {
	case d.Token == nil:
	case !d.Token.Used.IsZero():
		fact(w, "Token", "used "+within(d.Token.Used, now))
	case d.Token.Until.Before(now):
		fact(w, "Token", "ended "+within(d.Token.Until, now))
	default:
		fact(w, "Token", "not used, valid until "+within(d.Token.Until, now))
	}
	for _, s := range d.Slots {
		fact(w, "Certificate "+s.Name, slotText(s, now))
		fact(w, "  by", strings.Join(nonEmpty(s.Issuer, s.Algorithm), ", "))
		fact(w, "  renewal", within(s.RenewAt, now))
		fact(w, "  before it", s.Previous)
	}
}

// hold is the reason of certificates that may become good again (RFC 5280, section 5.3.1).
const hold = "certificateHold"

func slotText(s v1.Slot, now time.Time) string {
	switch {
	case s.Serial == "":
		return "by another authority, SHA-256 " + s.Fingerprint
	case s.Reason == hold:
		return s.Serial + ", on hold since " + within(s.Revoked, now) + ", " + s.Reason
	case !s.Revoked.IsZero():
		return strings.Join(nonEmpty(s.Serial, "revoked "+within(s.Revoked, now), s.Reason), ", ")
	case s.NotAfter.Before(now):
		return s.Serial + ", ended " + within(s.NotAfter, now)
	}
	return s.Serial + ", valid until " + within(s.NotAfter, now)
}

func pairs(tags map[string]string) string {
	var all []string
	for _, k := range slices.Sorted(maps.Keys(tags)) {
		all = append(all, k+"="+tags[k])
	}
	return strings.Join(all, ", ")
}

// fileSize returns how long a regular file is; 0 = not known.
func fileSize(f *os.File) int64 {
	info, err := f.Stat()
	if err != nil || !info.Mode().IsRegular() {
		return 0
	}
	return info.Size()
}

// formatOf tells an import's format by the file's name.
func formatOf(path, flag string) (string, error) {
	if flag == "" {
		flag = strings.TrimPrefix(filepath.Ext(path), ".")
	}
	switch flag {
	case "csv", "jsonl":
		return flag, nil
	case "ndjson":
		return "jsonl", nil
	}
	return "", usagef("the format of %q cannot be told by its name: say --format csv or --format jsonl", path)
}
