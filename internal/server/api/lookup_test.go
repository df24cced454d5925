package api

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// TestActionsAreThoseOfTheSlices reads the actions out of the source of everything that writes entries.
func TestActionsAreThoseOfTheSlices(t *testing.T) {
	t.Parallel()
	written := regexp.MustCompile(`(?:Action|action|rowEntry)[^"\n]*"([a-z]+\.[a-z]+)"|"(v2x\.[a-z-]+)"`)
	var found []string
	for _, dir := range []string{"../../core", "../../app"} {
		err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || filepath.Ext(path) != ".go" || strings.HasSuffix(path, "_test.go") {
				return err
			}
			text, err := os.ReadFile(path)
			for _, m := range written.FindAllSubmatch(text, -1) {
				if action := string(m[1]) + string(m[2]); !strings.Contains(filepath.ToSlash(path), "core/access/") { // which has permissions of that form
					found = append(found, action)
				}
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	slices.Sort(found)
	if found = slices.Compact(found); !slices.Equal(found, actions()) {
		t.Errorf("the source writes %q,\nthe list has    %q", found, actions())
	}
}
