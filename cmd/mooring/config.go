package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"mooring/internal/app"
	"mooring/internal/base/conf"
	"mooring/internal/base/errs"
)

const configHelp = `The configuration is one file, mooring.yaml in the data directory. Everything in it has a safe default; a change takes effect
when the server starts again. These commands need no running server.`

const configDescribeHelp = `Lists every key of the configuration file with its type, default, meaning and an example. With a KEY only that
one; with the beginning of some, such as "limits" or "limits.body", those.`

const configCheckHelp = `Reads mooring.yaml in the data directory as the server would, and the files of messaging.brokers and messaging.sinks with those that they
name, and reports every mistake with its line. It connects to nothing. The server need not run for this, and it makes no difference if it does.`

func (c *cli) configCommand() *cobra.Command {
	return group(&cobra.Command{
		Use: "config", Short: "Describe and check the configuration file", Long: configHelp,
		Example: "  mooring config describe limits\n  mooring config check --dir /var/lib/mooring",
	}, &cobra.Command{
		Use: "describe [KEY]", Short: "List the keys of the configuration file", Long: configDescribeHelp,
		Example: "  mooring config describe\n  mooring config describe tls",
		Args:    upTo("KEY"),
		RunE:    func(_ *cobra.Command, args []string) error { return c.configDescribe(strings.Join(args, "")) },
	}, &cobra.Command{
		Use: "check", Short: "Check the configuration file", Long: configCheckHelp,
		Example: "  mooring config check",
		Args:    needs(),
		RunE:    func(*cobra.Command, []string) error { return c.configCheck() },
	})
}

// key is one key of the file in JSON.
type key struct {
	Key     string `json:"key"`
	Type    string `json:"type"`
	Default string `json:"default"`
	Meaning string `json:"meaning"`
	Example string `json:"example"`
}

func (c *cli) configDescribe(prefix string) error {
	var keys []key
	for _, f := range conf.Describe() {
		if f.Key == prefix {
			keys = []key{key(f)}
			break
		}
		if strings.HasPrefix(f.Key, prefix) {
			keys = append(keys, key(f))
		}
	}
	if len(keys) == 0 {
		return errs.New(errs.NotFound, "there is no key %q: mooring config describe lists all", prefix)
	}
	return c.show(struct {
		Keys []key `json:"keys"`
	}{keys}, func(w io.Writer) {
		for _, k := range keys {
			fmt.Fprintf(w, "%s (%s)\n    %s\n    default: %s\n    example: %s\n", k.Key, k.Type, k.Meaning, orNone(k.Default), k.Example)
		}
	})
}

func orNone(s string) string {
	if s == "" || s == `""` {
		return "none"
	}
	return s
}

func (c *cli) configCheck() error {
	config, err := conf.Load(c.dir)
	if err != nil {
		return err
	}
	if err := app.CheckProfiles(config); err != nil {
		return err
	}
	if err := app.CheckOutside(config); err != nil {
		return err
	}
	warnings := config.Warnings()
	return c.show(struct {
		File     string   `json:"file"`
		Result   string   `json:"result"`
		Warnings []string `json:"warnings,omitempty"`
	}{config.Path(conf.FileName), "valid", warnings}, func(w io.Writer) {
		fmt.Fprintf(w, "%s is valid\n", config.Path(conf.FileName))
		for _, text := range warnings {
			fmt.Fprintf(w, "Warning: %s\n", text)
		}
	})
}
