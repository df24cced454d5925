package arch

import (
	"fmt"
	"io/fs"
	"path"
	"strings"
)

const tableFile = "architecture.txt"

// rule is one line of the table, continuation lines included.
type rule struct {
	line  int      // where it starts, from 1
	verb  string   // may, never, test, ambient, skip
	pkg   string   // the pattern that a may or never line is about; "" for the others
	names []string // what is allowed, forbidden, or listed
	later string   // the reason after "later:", "" if the line carries no marker
}

type table struct{ rules []rule }

// verbs maps each verb to whether its first name is the package that the line is about.
var verbs = map[string]bool{"may": true, "never": true, "test": false, "ambient": false, "skip": false}

func readTable(fsys fs.FS) (*table, error) {
	text, err := fs.ReadFile(fsys, tableFile)
	if err != nil {
		return nil, fmt.Errorf("reading the import table: %w", err)
	}
	t := new(table)
	for i, line := range strings.Split(string(text), "\n") {
		if err := t.add(i+1, line); err != nil {
			return nil, fmt.Errorf("%s:%d: %w", tableFile, i+1, err)
		}
	}
	for _, r := range t.rules {
		if len(r.names) == 0 && r.verb != "may" {
			return nil, fmt.Errorf("%s:%d: a %q line names at least one path", tableFile, r.line, r.verb)
		}
	}
	return t, nil
}

func (t *table) add(number int, line string) error {
	code, comment, _ := strings.Cut(line, "#")
	fields := strings.Fields(code)
	if len(fields) == 0 {
		return nil
	}
	later := ""
	if reason, ok := strings.CutPrefix(strings.TrimSpace(comment), "later:"); ok {
		if later = strings.TrimSpace(reason); later == "" {
			return fmt.Errorf(`"later:" is followed by the reason`)
		}
	}
	for _, f := range fields {
		if f = strings.TrimSuffix(f, "/..."); path.Clean(f) != f {
			return fmt.Errorf("%q is not a clean path or pattern", f)
		}
	}
	if line[0] == ' ' || line[0] == '\t' {
		if len(t.rules) == 0 {
			return fmt.Errorf("there is no line to continue")
		}
		last := &t.rules[len(t.rules)-1]
		last.names = append(last.names, fields...)
		last.later += later
		return nil
	}
	r := rule{line: number, verb: fields[0], names: fields[1:], later: later}
	about, known := verbs[r.verb]
	if !known {
		return fmt.Errorf("%q is none of may, never, test, ambient, skip", r.verb)
	}
	if about {
		if len(r.names) == 0 {
			return fmt.Errorf("a %q line names a package", r.verb)
		}
		r.pkg, r.names = r.names[0], r.names[1:]
	}
	t.rules = append(t.rules, r)
	return nil
}

// with returns the indexes of the rules with this verb, so that callers can note which of them were of use.
func (t *table) with(verb string) []int {
	var found []int
	for i, r := range t.rules {
		if r.verb == verb {
			found = append(found, i)
		}
	}
	return found
}

// mayLine returns the index of the first may line that matches pkg, or -1.
func (t *table) mayLine(pkg string) int {
	for _, i := range t.with("may") {
		if matches(t.rules[i].pkg, pkg) {
			return i
		}
	}
	return -1
}

func (t *table) skipped() []string {
	var dirs []string
	for _, i := range t.with("skip") {
		dirs = append(dirs, t.rules[i].names...)
	}
	return dirs
}

// matches says whether the pattern, a path or "P/...", covers the path.
func matches(pattern, name string) bool {
	below, ok := strings.CutSuffix(pattern, "/...")
	return name == below || ok && strings.HasPrefix(name, below+"/")
}

func matchesAny(patterns []string, name string) bool {
	for _, p := range patterns {
		if matches(p, name) {
			return true
		}
	}
	return false
}

// isForeign says whether an import path belongs to another module: it has a dot before the first slash.
func isForeign(name string) bool {
	first, _, _ := strings.Cut(name, "/")
	return strings.Contains(first, ".")
}
