package ca

import (
	"os"
	"regexp"
	"strings"
	"testing"
)

// TestPageNamesEveryKey compares doc/profiles.md with the tables of the parser: a row for each key, and no row for anything else.
func TestPageNamesEveryKey(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../../../doc/profiles.md")
	if err != nil {
		t.Fatal(err)
	}
	var source []byte
	for _, name := range []string{"parse.go", "life.go", "scep.go"} {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		source = append(source, text...)
	}
	keys := map[string]bool{"wildcard": true} // added to its table by an assignment
	for _, m := range regexp.MustCompile(`"([a-z0-9_]+)": +(?:d\.|func\()`).FindAllStringSubmatch(string(source), -1) {
		keys[m[1]] = true
	}
	for _, kind := range []string{"dns", "ip", "uri", "email"} {
		if !keys[kind] {
			t.Fatalf("the parser's table was not understood: it lacks %q among %v", kind, keys)
		}
		delete(keys, kind) // explained in the row of san
		if !strings.Contains(string(page), "`"+kind+"`") {
			t.Errorf("doc/profiles.md does not name the kind of names %q", kind)
		}
	}
	rows := map[string]bool{}
	for _, m := range regexp.MustCompile("(?m)^\\| `([a-z0-9_]+)` \\|.*\\|.*\\| `[a-z0-9_]+: .*\\|$|(?m)^\\| `([a-z0-9_]+)` \\|.*\\|.*\\| see below \\|$").FindAllStringSubmatch(string(page), -1) {
		rows[m[1]+m[2]] = true
	}
	for key := range keys {
		if !rows[key] {
			t.Errorf("doc/profiles.md has no row for the key %q", key)
		}
	}
	for key := range rows {
		if !keys[key] {
			t.Errorf("doc/profiles.md has a row for %q, which the parser does not know", key)
		}
	}
}
