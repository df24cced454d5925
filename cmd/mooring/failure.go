package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/spf13/cobra"

	"mooring/internal/base/errs"
	"mooring/internal/server/api/client"
)

// The exit codes, as "mooring help" lists them.
const (
	exitOK          = 0
	exitFailure     = 1
	exitUsage       = 2
	exitDenied      = 3
	exitNotFound    = 4
	exitUnavailable = 5
)

// usage is a command line that cannot be understood.
type usage struct{ text string }

func (u usage) Error() string { return u.text }

func usagef(format string, a ...any) error { return usage{fmt.Sprintf(format, a...)} }

// kindOf classes err. What the server refused has its HTTP status, what it never answered is not available.
func kindOf(err error) errs.Kind {
	var refused *client.Error
	var silent *client.Unreachable
	switch {
	case errors.As(err, &refused):
		return kindOfStatus(refused.Status)
	case errors.As(err, &silent):
		return errs.Unavailable
	}
	return errs.KindOf(err)
}

func kindOfStatus(status int) errs.Kind {
	switch status {
	case http.StatusUnauthorized, http.StatusForbidden:
		return errs.Denied
	case http.StatusNotFound:
		return errs.NotFound
	case http.StatusConflict:
		return errs.Conflict
	case http.StatusTooManyRequests, http.StatusRequestEntityTooLarge:
		return errs.Limited
	case http.StatusServiceUnavailable:
		return errs.Unavailable
	}
	if status < 500 {
		return errs.Invalid
	}
	return errs.Internal
}

// exitCode says what a script learns of err.
func exitCode(err error) int {
	var u usage
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, &u):
		return exitUsage
	}
	switch kindOf(err) {
	case errs.Denied:
		return exitDenied
	case errs.NotFound:
		return exitNotFound
	case errs.Unavailable, errs.Limited:
		return exitUnavailable
	}
	return exitFailure
}

// finish reports err, if there is one, on standard error and returns the exit code.
func (c *cli) finish(err error) int {
	code := exitCode(err)
	if code == exitOK {
		return code
	}
	kind, text := "usage", describe(err)
	if code != exitUsage {
		kind = kindOf(err).String()
	}
	if c.json {
		var report struct {
			Error struct {
				Kind string `json:"kind"`
				Text string `json:"text"`
			} `json:"error"`
		}
		report.Error.Kind, report.Error.Text = kind, text
		line, _ := json.Marshal(report) // two strings: cannot fail
		fmt.Fprintf(c.err, "%s\n", line)
		return code
	}
	if isOfFile(err) {
		fmt.Fprintln(c.err, text) // FILE:LINE: comes first, so that editors can go there
		return code
	}
	fmt.Fprintf(c.err, "mooring: %s\n", text)
	return code
}

// isOfFile says whether err is a list of mistakes in the lines of a file.
func isOfFile(err error) bool {
	var refused *client.Error
	return errors.As(err, &refused) && len(refused.Problems) > 0
}

// describe returns what a person should read of err. The cause is shown too, because whoever runs the program may know it: what must
// stay on the server was taken out there.
func describe(err error) string {
	if errors.Is(err, context.Canceled) {
		return "interrupted"
	}
	text := err.Error()
	var refused *client.Error
	if errors.As(err, &refused) && len(refused.Problems) > 0 {
		text = strings.Join(refused.Problems, "\n") + fmt.Sprintf("\nLines that are wrong: %d. Nothing was stored.", refused.Wrong)
	}
	if _, ok := errs.RetryAfter(err); ok {
		text = errs.Public(err) // the advice is wrapped around an error with the same text
	}
	return strings.TrimSpace(text)
}

// needs returns a check that the command gets exactly the named arguments.
func needs(names ...string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		switch {
		case len(args) < len(names):
			return usagef("%s needs %s: see %s --help", cmd.CommandPath(), strings.Join(names[len(args):], " and "), cmd.CommandPath())
		case len(args) > len(names):
			return usagef("%s does not take %q: see %s --help", cmd.CommandPath(), args[len(names)], cmd.CommandPath())
		}
		return nil
	}
}

// upTo returns a check that the command gets the named arguments or only the first of them.
func upTo(names ...string) cobra.PositionalArgs { return from(0, names...) }

// from returns a check that the command gets the named arguments, and at least so many of them.
func from(least int, names ...string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) < least {
			return usagef("%s needs %s: see %s --help", cmd.CommandPath(), strings.Join(names[len(args):least], " and "), cmd.CommandPath())
		}
		if len(args) > len(names) {
			return usagef("%s does not take %q: see %s --help", cmd.CommandPath(), args[len(names)], cmd.CommandPath())
		}
		return nil
	}
}

// group makes cmd a name for the commands below it: alone it shows them, with an unknown one it says so.
func group(cmd *cobra.Command, below ...*cobra.Command) *cobra.Command {
	cmd.AddCommand(below...)
	cmd.SuggestionsMinimumDistance = 2
	cmd.Args = func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			return nil
		}
		if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
			return usagef("%s has no command %q: did you mean %s?", cmd.CommandPath(), args[0], near[0])
		}
		return usagef("%s has no command %q: see %s --help", cmd.CommandPath(), args[0], cmd.CommandPath())
	}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
	return cmd
}
