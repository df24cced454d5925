package main

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"mooring/internal/server/api/client"
	"mooring/internal/server/api/v1"
)

const campaignHelp = `A campaign has many devices renew by plan: "re-key group X to P-384 by March, 5 % a day, stop if more than 1 % fail". It chooses its
devices by the filters of "mooring device list", lets their turns come at a rate, tells each device that asks, and pauses by itself when
too many fail. Nothing is sent to devices: the agent asks every few hours.

Its life: draft, approved (when it is for so many devices that a second person must agree), running, paused, and in the end done or aborted.`

const campaignCreateHelp = `Plans a campaign. It does nothing until it is started; a plan that cannot be done by its deadline is refused. Above a number of devices
that the configuration sets (approve.campaign_above) a second person must agree first: see "mooring approval".

--action says what is wanted of each device: renew (another certificate, by the profile as it is now), rekey (one for a new key, with
--to-algorithm of that kind), or move (one by the CA that --to-ca names, which the profiles must name as their issuer by then).

The other flags choose the devices as in "mooring device list"; without any of them it is all devices. They are taken in when the campaign is started.`

const campaignDevicesHelp = `Lists the devices of a campaign with where they stand and, for each that is not done, why.`

func (c *cli) campaignCommand() *cobra.Command {
	move := func(use, short, help string) *cobra.Command {
		return &cobra.Command{
			Use: use + " NAME", Short: short, Long: help,
			Example: "  mooring campaign " + use + " p384",
			Args:    needs("NAME"),
			RunE: c.online(func(ctx context.Context, s *client.Client, args []string) error {
				a, err := s.MoveCampaign(ctx, args[0], use)
				if err != nil {
					return err
				}
				return c.campaignPrint(a)
			}),
		}
	}
	return group(&cobra.Command{
		Use: "campaign", Short: "Have many devices renew by plan", Long: campaignHelp,
		Example: "  mooring campaign create p384 --action rekey --to-algorithm ec-p384 --group plant-3 --rate 5%/day --max-failed 1% --deadline 60d\n  mooring campaign start p384\n  mooring campaign devices p384 --standing failed",
	}, c.campaignCreateCommand(), &cobra.Command{
		Use: "list", Short: "List campaigns", Long: "Lists all campaigns, the newest first.",
		Example: "  mooring campaign list",
		Args:    needs(),
		RunE:    c.online(c.campaignList),
	}, &cobra.Command{
		Use: "show NAME", Short: "Show a campaign and how far it is", Long: "Shows what a campaign does and how many of its devices stand where.",
		Example: "  mooring campaign show p384",
		Args:    needs("NAME"),
		RunE: c.online(func(ctx context.Context, s *client.Client, args []string) error {
			a, err := s.Campaign(ctx, args[0])
			if err != nil {
				return err
			}
			return c.campaignPrint(a)
		}),
	}, c.campaignDevicesCommand(),
		move("start", "Start a campaign", "From now on the devices have their turns. One for many devices must have been approved by a second person."),
		move("pause", "Pause a campaign", "Nobody is told any more and nothing is demanded of anybody, until it is resumed. Devices that were told already go on."),
		move("resume", "Let a paused campaign go on", "It goes on where it stood. Who resumes a campaign that paused for its failures has looked at them: only further ones pause it again."),
		move("abort", "End a campaign for good", "Certificates that were issued stay; devices that have not renewed renew at their own time."))
}

func (c *cli) campaignCreateCommand() *cobra.Command {
	var n v1.CampaignPlan
	var f selection
	var deadline string
	cmd := &cobra.Command{
		Use: "create NAME", Short: "Plan a campaign", Long: campaignCreateHelp,
		Example: "  mooring campaign create p384 --action rekey --to-algorithm ec-p384 --group plant-3 --rate 5%/day --max-failed 1% --deadline 2027-03-01\n" +
			"  mooring campaign create g2 --action move --to-ca devices-g2 --issuer devices --rate 1%/hour --window 01:00-05:00 --deadline 90d --revoke-old",
		Args: needs("NAME"),
		RunE: c.online(func(ctx context.Context, s *client.Client, args []string) (err error) {
			n.Name = args[0]
			now := time.Now()
			if n.Deadline, err = moment("--deadline", deadline, now); err != nil {
				return err
			}
			if err := f.times(now); err != nil {
				return err
			}
			if !f.ExpiresAfter.IsZero() || !f.ExpiresBefore.IsZero() {
				return usagef("the end of certificates changes while a campaign runs: choose the devices by something else")
			}
			for flag, text := range map[string]*string{"--grace": &n.Grace, "--patience": &n.Patience} {
				d, err := life(flag, *text)
				if err != nil {
					return err
				}
				if *text = ""; d > 0 {
					*text = d.String()
				}
			}
			n.Select = v1.DeviceSelector{Group: f.Group, State: f.State, Profile: f.Profile, Tag: f.Tag, Issuer: f.Issuer, Algorithm: f.Algorithm, SeenBefore: f.SeenBefore, SeenAfter: f.SeenAfter}
			a, err := s.CreateCampaign(ctx, n)
			if err != nil {
				return err
			}
			if err := c.campaignPrint(a); err != nil {
				return err
			}
			if a.Approval != "" {
				c.advise("\nA second person must agree: mooring approval grant %s\nThen start it: mooring campaign start %s", a.Approval, a.Name)
			} else {
				c.advise("\nStart it: mooring campaign start %s", a.Name)
			}
			return nil
		}),
	}
	flags := cmd.Flags()
	flags.SortFlags = false
	flags.StringVar(&n.Action, "action", "renew", "what is wanted of each device: renew, rekey or move")
	flags.StringVar(&n.Algorithm, "to-algorithm", "", "with rekey: the kind of the new key, such as ec-p384")
	flags.StringVar(&n.To, "to-ca", "", "with move: the CA")
	flags.StringVar(&n.Rate, "rate", "5%/day", "how many have their turn: percent per day or hour")
	flags.StringVar(&n.Window, "window", "", "times of day in UTC between which turns come, such as 08:00-18:00 (default the whole day)")
	flags.StringVar(&n.MaxFailed, "max-failed", "1%", "pause when more than so many of those that had their chance fail")
	flags.StringVar(&deadline, "deadline", "90d", "when it ends: 2027-03-01, or 60d from now")
	flags.StringVar(&n.Grace, "grace", "", "how long after its turn a device may still renew without what is demanded (default 7d)")
	flags.StringVar(&n.Patience, "patience", "", "when a device that was told and has no new certificate counts as failed (default 3d)")
	flags.BoolVar(&n.RevokeOld, "revoke-old", false, "revoke the old certificate once the new one was used")
	flags.BoolVar(&n.ByIssue, "by-issue", false, "take the issue for success, for devices that never ask")
	f.flags(cmd)
	return cmd
}

func (c *cli) campaignList(ctx context.Context, s *client.Client, _ []string) error {
	list, err := s.Campaigns(ctx)
	if err != nil {
		return err
	}
	return c.show(v1.CampaignList{Campaigns: list}, func(w io.Writer) {
		if len(list) == 0 {
			c.advise("None.")
			return
		}
		row(w, "NAME", "STATE", "DOES", "RELEASED", "DONE", "FAILED", "OF", "DEADLINE")
		for _, a := range list {
			p := a.Progress
			row(w, a.Name, a.State, campaignDoes(a), a.Released, strconv.FormatInt(p.Done, 10), strconv.FormatInt(p.Failed, 10), strconv.FormatInt(p.Total-p.Skipped, 10), minute(a.Deadline))
		}
	})
}

func campaignDoes(a v1.Campaign) string {
	return strings.Join(nonEmpty(a.Action, a.Algorithm, a.To), " ")
}

func (c *cli) campaignPrint(a v1.Campaign) error {
	return c.show(a, func(w io.Writer) {
		now, p := time.Now(), a.Progress
		fact(w, "Name", a.Name)
		fact(w, "State", a.State)
		fact(w, "Note", a.Note)
		fact(w, "Does", campaignDoes(a))
		fact(w, "Devices", strings.Join(selectorText(a.Select), ", "))
		fact(w, "Rate", strings.Join(nonEmpty(a.Rate, a.Window), ", "))
		fact(w, "Stops above", a.MaxFailed+" failures")
		fact(w, "Deadline", within(a.Deadline, now))
		fact(w, "Demanded after", span(a.Grace))
		fact(w, "Failed after", span(a.Patience))
		if a.RevokeOld {
			fact(w, "Old certificates", "revoked once the new one was used")
		}
		fact(w, "Made by", a.Maker)
		fact(w, "Approval", a.Approval)
		fact(w, "Started", within(a.Started, now))
		fact(w, "Ended", within(a.Ended, now))
		if a.Started.IsZero() {
			return
		}
		fact(w, "Turns released", a.Released)
		fact(w, "Last turn", within(a.LastTurn, now))
		fact(w, "Done", fmt.Sprintf("%d of %d", p.Done, p.Total-p.Skipped))
		for _, n := range []struct {
			name string
			n    int64
		}{{"  waiting", p.Waiting}, {"  told", p.Told}, {"  issued, not used", p.Issued}, {"  closing", p.Closing}, {"  failed", p.Failed}, {"  skipped", p.Skipped}} {
			if n.n > 0 {
				fact(w, n.name, strconv.FormatInt(n.n, 10))
			}
		}
	})
}

// selectorText says how the devices of a campaign were chosen.
func selectorText(s v1.DeviceSelector) []string {
	var all []string
	for _, part := range [][2]string{{"group", s.Group}, {"state", s.State}, {"profile", s.Profile}, {"tag", s.Tag}, {"issuer", s.Issuer}, {"algorithm", s.Algorithm},
		{"seen before", minute(s.SeenBefore)}, {"seen after", minute(s.SeenAfter)}} {
		if part[1] != "" {
			all = append(all, part[0]+" "+part[1])
		}
	}
	if all == nil {
		return []string{"all"}
	}
	return all
}

func (c *cli) campaignDevicesCommand() *cobra.Command {
	var standing string
	var p paging
	cmd := &cobra.Command{
		Use: "devices NAME", Short: "List the devices of a campaign, and why they wait", Long: campaignDevicesHelp,
		Example: "  mooring campaign devices p384 --standing failed\n  mooring campaign devices p384 --all --json",
		Args:    needs("NAME"),
	}
	cmd.Flags().StringVar(&standing, "standing", "", "only those that stand there: waiting, told, issued, closing, done, failed, skipped")
	p.flags(cmd)
	cmd.RunE = c.online(func(ctx context.Context, s *client.Client, args []string) error {
		return listing[v1.CampaignDevice]{
			name: "devices",
			head: []string{"NAME", "STANDING", "SINCE", "TURN", "WAVE", "REASON"},
			cells: func(d v1.CampaignDevice) []string {
				return []string{d.Name, d.Standing, minute(d.Since), minute(d.Turn), fmt.Sprintf("%d of %d", d.Wave, d.Waves), d.Reason}
			},
			fetch: func(cursor string, limit int) ([]v1.CampaignDevice, string, error) {
				page, err := s.CampaignDevices(ctx, args[0], standing, cursor, limit)
				return page.Devices, page.Next, err
			},
		}.print(c, cmd, p)
	})
	return cmd
}
