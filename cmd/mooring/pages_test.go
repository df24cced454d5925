package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"mooring/internal/base/conf"
)

// TestPagesNameCommandsThatExist takes every command of ours out of the blocks of shell commands in README.md and doc/, and has it parsed: the
// command, its flags and the number of its arguments.
func TestPagesNameCommandsThatExist(t *testing.T) {
	t.Parallel()
	pages, err := filepath.Glob("../../doc/*.md")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, page := range append(pages, "../../README.md") {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		for _, line := range commandsIn(string(text)) {
			n++
			if err := parses(line); err != nil {
				t.Errorf("%s: mooring %s: %v", page, line, err)
			}
		}
	}
	if n < 100 {
		t.Errorf("only %d commands were found in the pages: the search does not see them", n)
	}
}

var (
	shellBlock = regexp.MustCompile("(?s)\n```sh\n(.*?)\n```")
	ourCommand = regexp.MustCompile(`(?m)(?:^|[|;&(] *|sudo -u mooring )mooring (.*)$`)
	shellEnd   = regexp.MustCompile(` *(?:[|;>)]|&&|\d*<).*$`) // where a shell sees the end of the words of a command
)

// commandsIn returns what follows "mooring" wherever a shell would run it.
func commandsIn(page string) (lines []string) {
	for _, block := range shellBlock.FindAllStringSubmatch(page, -1) {
		for _, m := range ourCommand.FindAllStringSubmatch(strings.ReplaceAll(block[1], "\\\n", " "), -1) {
			line := regexp.MustCompile(`\$\([^)]*\)+`).ReplaceAllString(m[1], "X") // what another command prints is one word
			lines = append(lines, shellEnd.ReplaceAllString(line, ""))
		}
	}
	return lines
}

func parses(line string) error {
	found, rest, err := (&cli{}).root().Find(words(line))
	if err != nil {
		return err
	}
	if err := found.ParseFlags(rest); err != nil {
		return err
	}
	return found.ValidateArgs(found.Flags().Args())
}

// TestPagesHoldConfigurations has the blocks of YAML in the guides to protocols read as what they are to be pasted into: a configuration. Those that begin
// with other words are profiles.
func TestPagesHoldConfigurations(t *testing.T) {
	t.Parallel()
	block := regexp.MustCompile("(?s)\n```yaml\n(listen:.*?)\n```")
	for _, page := range []string{"acme", "cmp", "scep"} {
		text, err := os.ReadFile("../../doc/" + page + ".md")
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range block.FindAllStringSubmatch(string(text), -1) {
			if _, err := conf.Parse(page+".md", []byte("name: Example\nnames: [pki.example.com]\n"+m[1]+"\n")); err != nil {
				t.Errorf("%s: %v", page, err)
			}
		}
	}
}
