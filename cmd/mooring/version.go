package main

import (
	"fmt"
	"io"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"

	"mooring/internal/app"
)

const versionHelp = `Prints which version this is, from which commit it was built and with which Go; with --modules also the version of every
module in it, as a report about a vulnerability in one of them asks for.`

func (c *cli) versionCommand() *cobra.Command {
	var modules bool
	cmd := &cobra.Command{
		Use: "version", Short: "Say which version this is", Long: versionHelp,
		Example: "  mooring version --modules",
		Args:    needs(),
		RunE:    func(*cobra.Command, []string) error { return c.version(modules) },
	}
	cmd.Flags().BoolVar(&modules, "modules", false, "list the modules in the program too")
	return cmd
}

// build says what the program was made of.
type build struct {
	Version  string            `json:"version"`
	Commit   string            `json:"commit,omitempty"`
	Time     string            `json:"time,omitempty"`
	Modified bool              `json:"modified,omitempty"`
	Go       string            `json:"go"`
	Platform string            `json:"platform"`
	Modules  map[string]string `json:"modules,omitempty"`
}

func (c *cli) version(modules bool) error {
	b := build{Version: app.Version().Version, Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH}
	info, ok := debug.ReadBuildInfo()
	if ok {
		b.settings(info.Settings)
	}
	if ok && modules {
		b.Modules = make(map[string]string)
		for _, m := range info.Deps {
			b.Modules[m.Path] = m.Version
		}
	}
	return c.show(b, func(w io.Writer) {
		fmt.Fprintf(w, "mooring %s (%s, %s)\n", b.Version, b.Go, b.Platform)
		if b.Commit != "" {
			note := ""
			if b.Modified {
				note = ", modified"
			}
			fmt.Fprintf(w, "commit %s of %s%s\n", b.Commit, b.Time, note)
		}
		if modules && ok {
			for _, m := range info.Deps {
				row(w, m.Path, m.Version)
			}
		}
	})
}

func (b *build) settings(all []debug.BuildSetting) {
	for _, s := range all {
		switch s.Key {
		case "vcs.revision":
			b.Commit = s.Value
		case "vcs.time":
			b.Time = s.Value
		case "vcs.modified":
			b.Modified = s.Value == "true"
		}
	}
}
