package main

import (
	"context"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"mooring/internal/server/api/client"
)

// completeIn bounds how long a person waits at the TAB key for a server that does not answer.
const completeIn = 2 * time.Second

// complete lets the shell complete the names that the server knows: CAs, profiles, and devices as long as they fit on one page. What cannot
// be had completes to nothing: the command itself says why when it is run.
func (c *cli) complete(root *cobra.Command) {
	names := map[string]func(context.Context, *client.Client) []string{"ca": caNames, "profile": profileNames, "device": deviceNames, "request": deviceNames}
	for _, group := range root.Commands() {
		for _, cmd := range group.Commands() {
			if list := names[group.Name()]; list != nil && takesName(cmd) {
				cmd.ValidArgsFunction = c.completing(list, true)
			}
			for flag, list := range map[string]func(context.Context, *client.Client) []string{"profile": profileNames, "issuer": caNames, "parent": caNames} {
				if cmd.Flags().Lookup(flag) != nil {
					_ = cmd.RegisterFlagCompletionFunc(flag, c.completing(list, false)) // fails only if there is one already, which is then better
				}
			}
		}
	}
}

// takesName reports whether the first argument names something that exists.
func takesName(cmd *cobra.Command) bool {
	_, rest, _ := strings.Cut(cmd.Use, " ")
	switch cmd.Name() {
	case "add", "create", "request":
		return false
	}
	return strings.HasPrefix(strings.TrimPrefix(rest, "["), "NAME") || rest == "DEVICE"
}

// completing makes a completion of what list returns; once says that only the first argument is completed.
func (c *cli) completing(list func(context.Context, *client.Client) []string, once bool) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective) {
		if once && len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		s, err := c.connect()
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		defer s.Close()
		ctx, cancel := context.WithTimeout(cmd.Context(), completeIn)
		defer cancel()
		var fit []string
		for _, name := range list(ctx, s) {
			if strings.HasPrefix(name, typed) {
				fit = append(fit, name)
			}
		}
		return fit, cobra.ShellCompDirectiveNoFileComp
	}
}

func caNames(ctx context.Context, s *client.Client) (names []string) {
	all, _ := s.CAs(ctx)
	for _, i := range all {
		names = append(names, i.Name)
	}
	return names
}

func profileNames(ctx context.Context, s *client.Client) (names []string) {
	all, _ := s.Profiles(ctx)
	for _, p := range all {
		names = append(names, p.Name)
	}
	return names
}

func deviceNames(ctx context.Context, s *client.Client) (names []string) {
	page, _ := s.Devices(ctx, client.Devices{Limit: 1000})
	for _, d := range page.Devices {
		names = append(names, d.Name)
	}
	return names
}
