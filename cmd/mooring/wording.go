package main

import (
	"errors"
	"net/http"
	"strings"

	"github.com/spf13/cobra"

	"mooring/internal/server/api/client"
)

// worded says in words of the command line what the server found wrong with a request: "query.state" is the flag --state for whoever typed it.
// What names no flag or argument of cmd stays as the server said it.
func worded(cmd *cobra.Command, err error) error {
	var refused *client.Error
	if !errors.As(err, &refused) || len(refused.Problems) > 0 {
		return err
	}
	if len(refused.Problem.Errors) > 0 {
		var all []string
		for _, f := range refused.Problem.Errors {
			_, field, _ := strings.Cut(f.Where, ".")
			name := spelled(cmd, field)
			if name == "" {
				return err
			}
			all = append(all, name+": "+f.Text)
		}
		return usagef("%s", strings.Join(all, "\n"))
	}
	field, text, _ := strings.Cut(refused.Detail, ": ")
	name := spelled(cmd, field)
	switch {
	case name == "":
		return err
	case refused.Status == http.StatusBadRequest:
		return usagef("%s: %s", name, text)
	}
	refused.Detail = name + ": " + text
	return err
}

// spelled returns how the command line calls a field of the API: a flag of cmd or one of its arguments, or else "".
func spelled(cmd *cobra.Command, field string) string {
	field, _, _ = strings.Cut(field, "[") // which element of a list
	field, _, _ = strings.Cut(field, ".")
	name := strings.ReplaceAll(field, "_", "-")
	switch field {
	case "tags":
		name = "tag"
	case "token_life", "ttl":
		name = "life"
	case "names":
		name = "dns"
	}
	switch {
	case name != "" && cmd.LocalNonPersistentFlags().Lookup(name) != nil && field == "names":
		return "--dns, --ip, --uri, --email"
	case name != "" && cmd.LocalNonPersistentFlags().Lookup(name) != nil:
		return "--" + name
	case field != "" && strings.Contains(" "+cmd.Use+" ", " "+strings.ToUpper(field)+" "):
		return strings.ToUpper(field)
	case field == "device" && strings.Contains(cmd.Use+" ", " NAME "):
		return "NAME"
	}
	return ""
}
