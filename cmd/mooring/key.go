package main

import (
	"context"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"mooring/internal/server/api/client"
	"mooring/internal/server/api/v1"
)

const keyHelp = `The private keys of CAs are kept in the key store, encrypted files, or in a PKCS #11 token. doc/keys.md tells how to set up a token,
what to back up, and what happens when a key is missing.`

const keyListHelp = `Lists the keys of CAs: where each is kept, whether it can be used, how many certificates it has signed (SIGNED) and how many revocation
lists and status answers (TOLD), and its limit if it has one.

A key is usable, missing (it is not where it is kept), or locked (it, or where it is kept, cannot be used now: wrong permissions, a token
that is not plugged in). Why stands below the table. What was loaded before a key went missing signs on until the server stops.`

const caLimitHelp = `Limits how often, or how long, the key of a CA may sign certificates. All nodes together keep to it.

When it has signed --max-uses certificates, those of before included, or at --key-until, it signs no further one, and the CA answers "not available". Revocation lists and
status answers about what it issued must go on, or the whole fleet would stop: they go on after --key-until, and have a limit for
themselves, --status-uses. The key signs no more often than both together.

What is not given is no limit; --none lifts all. Nodes other than the one that is asked know it a quarter of a minute later.`

func (c *cli) keyCommand() *cobra.Command {
	return group(&cobra.Command{
		Use: "key", Short: "List the private keys of CAs", Long: keyHelp,
		Example: "  mooring key list",
	}, c.keyListCommand())
}

func (c *cli) keyListCommand() *cobra.Command {
	var p paging
	cmd := &cobra.Command{
		Use: "list", Short: "List the keys of CAs with their state, uses and limits", Long: keyListHelp,
		Example: "  mooring key list\n  mooring key list --json --all",
		Args:    needs(),
	}
	cmd.RunE = c.online(func(ctx context.Context, s *client.Client, _ []string) error { return c.keyList(ctx, cmd, s, p) })
	p.flags(cmd)
	return cmd
}

func (c *cli) keyList(ctx context.Context, cmd *cobra.Command, s *client.Client, p paging) error {
	var problems []string
	affected := map[string][]string{} // by problem: many keys have the same when a token is away
	err := listing[v1.Key]{
		name:  "keys",
		head:  []string{"ID", "CA", "CUSTODY", "KIND", "STATE", "SIGNED", "TOLD", "LIMIT"},
		cells: keyCells,
		fetch: func(cursor string, limit int) ([]v1.Key, string, error) {
			page, err := s.Keys(ctx, cursor, limit)
			for _, k := range page.Keys {
				if k.Problem == "" {
					continue
				}
				if affected[k.Problem] == nil {
					problems = append(problems, k.Problem)
				}
				affected[k.Problem] = append(affected[k.Problem], k.ID)
			}
			return page.Keys, page.Next, err
		},
	}.print(c, cmd, p)
	if err == nil && !c.json {
		for _, text := range problems {
			if ids := affected[text]; len(ids) == 1 {
				c.advise("%s: %s", ids[0], text)
			} else {
				c.advise("%d keys: %s", len(ids), text)
			}
		}
	}
	return err
}

func keyCells(k v1.Key) []string {
	return []string{k.ID, orNone(strings.Join(k.CAs, ", ")), k.Custody, orNone(k.Algorithm), k.State, strconv.FormatInt(k.Uses, 10), strconv.FormatInt(k.StatusUses, 10), limitText(k.Limit)}
}

// limitText is a limit in a few words.
func limitText(l *v1.KeyLimit) string {
	var parts []string
	if l != nil && l.MaxUses > 0 {
		parts = append(parts, strconv.FormatInt(l.MaxUses, 10)+" certificates")
	}
	if l != nil && l.Until != nil {
		parts = append(parts, "until "+minute(*l.Until))
	}
	return orNone(strings.Join(parts, ", "))
}

// limitFlags are those of a limit.
type limitFlags struct {
	uses, status int64
	until        string
	given        func(flag string) bool
}

func (f *limitFlags) add(cmd *cobra.Command) {
	f.given = cmd.Flags().Changed
	cmd.Flags().Int64Var(&f.uses, "max-uses", 0, "how many certificates its key may sign")
	cmd.Flags().Int64Var(&f.status, "status-uses", 0, "with --max-uses, how many revocation lists and status answers it may sign (default 1000000)")
	cmd.Flags().StringVar(&f.until, "key-until", "", "from when on it signs no certificate any more: a date, or a time from now such as 1825d")
}

// limit is what the flags say; nil when they say nothing.
func (f *limitFlags) limit() (*v1.KeyLimit, error) {
	if f.uses < 1 && f.given("max-uses") || f.status < 1 && f.given("status-uses") {
		return nil, usagef("--max-uses and --status-uses are numbers of signatures, 1 or more")
	}
	if f.status > 0 && f.uses == 0 {
		return nil, usagef("--status-uses goes with --max-uses only")
	}
	until, err := moment("--key-until", f.until, time.Now())
	if err != nil || f.uses == 0 && until.IsZero() {
		return nil, err
	}
	l := &v1.KeyLimit{MaxUses: f.uses, StatusUses: f.status}
	if !until.IsZero() {
		until = until.UTC().Truncate(time.Second)
		l.Until = &until
	}
	return l, nil
}

func (c *cli) caLimitCommand() *cobra.Command {
	var f limitFlags
	var none bool
	cmd := &cobra.Command{
		Use: "limit NAME", Short: "Limit how often and how long a CA may sign", Long: caLimitHelp,
		Example: "  mooring ca limit devices --max-uses 5000000\n  mooring ca limit devices --key-until 2031-01-01\n  mooring ca limit devices --none",
		Args:    needs("NAME"),
		RunE: c.online(func(ctx context.Context, s *client.Client, args []string) error {
			l, err := f.limit()
			switch {
			case err != nil:
				return err
			case (l != nil) == none:
				return usagef("mooring ca limit needs --max-uses, --key-until or both, or --none")
			case none:
				l = &v1.KeyLimit{}
			}
			set, err := s.LimitCA(ctx, args[0], *l)
			if err != nil {
				return err
			}
			return c.show(set, func(w io.Writer) {
				fact(w, "CA", args[0])
				fact(w, "Limit", limitText(&set.KeyLimit))
				if set.MaxUses > 0 {
					fact(w, "Lists, answers", strconv.FormatInt(set.StatusUses, 10))
				}
				if set.Note != "" {
					fact(w, "Note", set.Note)
				}
			})
		}),
	}
	cmd.Flags().SortFlags = false
	f.add(cmd)
	cmd.Flags().BoolVar(&none, "none", false, "lift the limit")
	return cmd
}
