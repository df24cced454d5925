package mooring

import (
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var (
	markdownLink = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	codeBlock    = regexp.MustCompile("(?s)\n```.*?\n```")
	heading      = regexp.MustCompile(`(?m)^#+ +(.*)$`)
	notInAnchor  = regexp.MustCompile(`[^\p{L}\p{N} _-]`)
)

// actionOf finds the actions of audit entries in the code: a noun and a verb in quotes, on a line about an action or an entry.
var actionOf = regexp.MustCompile(`(?i:action|entry\().*?"([a-z]+\.[a-z]+)"`)

// TestEveryActionOfTheRecordIsExplained looks for each action that the code writes in the table of doc/audit.md.
func TestEveryActionOfTheRecordIsExplained(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("doc/audit.md")
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]bool{}
	err = filepath.WalkDir("internal/core", func(name string, d fs.DirEntry, err error) error {
		if err != nil || filepath.Ext(name) != ".go" || strings.HasSuffix(name, "_test.go") {
			return err
		}
		text, err := os.ReadFile(name)
		for _, m := range actionOf.FindAllStringSubmatch(string(text), -1) {
			found[m[1]] = true
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(found) < 40 {
		t.Errorf("only %d actions were found in the code: the search does not see them", len(found))
	}
	for action := range found {
		if !strings.Contains(string(page), "`"+action+"`") {
			t.Errorf("doc/audit.md does not tell of %s", action)
		}
	}
}

// TestLinksLeadSomewhere follows the links between the pages: the file must exist, and the heading if one is named. Links to other sites are not looked at.
func TestLinksLeadSomewhere(t *testing.T) {
	t.Parallel()
	tree := os.DirFS(".")
	pages, linked := map[string]string{}, map[string]bool{}
	err := fs.WalkDir(tree, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || filepath.Ext(name) != ".md" {
			return err
		}
		text, err := fs.ReadFile(tree, name)
		pages[name] = codeBlock.ReplaceAllString(string(text), "")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range pages {
		for _, m := range markdownLink.FindAllStringSubmatch(text, -1) {
			if strings.Contains(m[1], "://") {
				continue
			}
			file, anchor, _ := strings.Cut(m[1], "#")
			target := name
			if file != "" {
				target = path.Join(path.Dir(name), file)
			}
			linked[target] = linked[target] || target != name
			if _, err := fs.Stat(tree, target); err != nil {
				t.Errorf("%s: the link %s leads nowhere: %v", name, m[1], err)
			} else if anchor != "" && !anchors(pages[target])[anchor] {
				t.Errorf("%s: the link %s names no heading of %s", name, m[1], target)
			}
		}
	}
	for name := range pages {
		if strings.HasPrefix(name, "doc/") && !linked[name] {
			t.Errorf("no page leads to %s", name)
		}
	}
}

// anchors returns the names that hosts give to the headings of a page.
func anchors(text string) map[string]bool {
	names := map[string]bool{}
	for _, m := range heading.FindAllStringSubmatch(text, -1) {
		names[strings.ReplaceAll(notInAnchor.ReplaceAllString(strings.ToLower(m[1]), ""), " ", "-")] = true
	}
	return names
}
