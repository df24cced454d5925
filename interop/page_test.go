//go:build interop

package interop

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

const enrolPage = "../doc/enrol-est.md"

// block is one block of commands of the page, and what its reader is told to expect.
type block struct {
	name, script string
	expect       []string // lines, with "…" for anything
}

// readPage returns the blocks of a page in their order, at least so many, and the variables that its settings set.
func readPage(t *testing.T, path string, least int) (blocks []block, settings []string) {
	t.Helper()
	page, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	const fence = "```"
	parts := regexp.MustCompile("(?s)<!-- (settings|run: ([a-z-]+)) -->\n"+fence+"sh\n(.*?)\n"+fence+"\n(?:\n"+fence+"text\n(.*?)\n"+fence+"\n)?").
		FindAllStringSubmatch(string(page), -1)
	for _, p := range parts {
		if p[1] == "settings" {
			for _, v := range regexp.MustCompile(`(?m)^export ([A-Z_]+)=`).FindAllStringSubmatch(p[3], -1) {
				settings = append(settings, v[1])
			}
			continue
		}
		b := block{name: p[2], script: p[3]}
		if p[4] != "" {
			b.expect = strings.Split(p[4], "\n")
		}
		blocks = append(blocks, b)
	}
	if all := strings.Count(string(page), fence+"sh\n"); all != len(parts) || all < least {
		t.Fatalf("%s has %d blocks of commands, of which %d are marked to be run", path, all, len(parts))
	}
	return blocks, settings
}

// TestInteropPage does what doc/enrol-est.md says, block by block as one would paste them, and compares what it says with what happens.
func TestInteropPage(t *testing.T) {
	engines(t, func(t *testing.T, database string) { newSite(t).follow(t, database, enrolPage, 15) })
}

// follow does what a page says.
func (s *site) follow(t *testing.T, database, page string, least int) {
	t.Helper()
	s.followWith(t, database, page, least)
}

// followWith is follow with some texts of the commands replaced, pair by pair.
func (s *site) followWith(t *testing.T, database, page string, least int, replace ...string) {
	t.Helper()
	blocks, settings := readPage(t, page, least)
	s.env["STATE"] = filepath.Join(t.TempDir(), "state")
	for _, b := range blocks {
		script := strings.NewReplacer(replace...).Replace(b.script)
		if b.name == "install" {
			script = strings.Replace(script, "mooring init", "mooring init "+s.initFlags(database), 1)
		}
		if !t.Run(b.name, func(t *testing.T) { b.check(t, s.paste(t, script)) }) {
			t.FailNow() // each block builds on those before it
		}
		if b.name == "install" {
			s.serve(t)
		}
	}
	for _, name := range settings {
		if s.env[name] == "" {
			t.Errorf("the page sets %s, which the test does not", name)
		}
	}
}

// paste runs a script in the shell that ran those before it: variables and functions live on.
func (s *site) paste(t *testing.T, script string) string {
	t.Helper()
	return s.sh(t, `if [ -e "$STATE" ]; then . "$STATE"; fi
set -a
trap '{ export -p; declare -f; } > "$STATE"' EXIT
`+script)
}

// check looks for each expected line in the output.
func (b block) check(t *testing.T, out string) {
	t.Helper()
	for _, line := range b.expect {
		pattern := strings.ReplaceAll(regexp.QuoteMeta(line), "…", ".*")
		if !regexp.MustCompile(pattern).MatchString(out) {
			t.Errorf("the page promises %q, but the block printed:\n%s", line, out)
		}
	}
}
