package arch

import (
	"go/ast"
	"io/fs"
	"regexp"
	"slices"
	"strings"
)

const (
	standardsFile    = "standards.txt"
	dependenciesFile = "doc/dependencies.md"
)

// statuses are the words for how far a standard is followed.
var statuses = []string{"full", "partial", "later", "no"}

// citation finds documents of the IETF in comments, whose line breaks are blanks already.
var citation = regexp.MustCompile(`\bRFC[ \n-]?([0-9]{3,5})\b`)

// standards checks that each RFC that a comment cites has its line in standards.txt, where our status is written, and
// that the lines have their form: id | title | status | where | notes.
func (c *checker) standards() {
	listed := c.standardLines()
	for _, p := range c.tree.sorted() {
		for _, f := range p.files {
			for _, group := range f.Comments {
				c.citations(group, listed)
			}
		}
	}
}

func (c *checker) citations(group *ast.CommentGroup, listed map[string]bool) {
	for _, m := range citation.FindAllStringSubmatch(group.Text(), -1) {
		if id := "RFC " + m[1]; !listed[id] {
			c.reportAt(group.Pos(), "%s is cited but has no line in %s: add it with its status", id, standardsFile)
		}
	}
}

func (c *checker) standardLines() map[string]bool {
	listed := make(map[string]bool)
	for i, line := range c.paper(standardsFile) {
		if line = strings.TrimSpace(line); line == "" || line[0] == '#' {
			continue
		}
		fields := strings.Split(line, "|")
		if len(fields) != 5 {
			c.report(standardsFile, i+1, "a line has five fields: id | title | status | where | notes")
			continue
		}
		for j := range fields {
			fields[j] = strings.TrimSpace(fields[j])
		}
		id, status := fields[0], fields[2]
		if listed[id] {
			c.report(standardsFile, i+1, "%s stands here twice", id)
		}
		listed[id] = true
		if !slices.Contains(statuses, status) {
			c.report(standardsFile, i+1, "status %q is none of %s", status, strings.Join(statuses, ", "))
		}
		c.places(i+1, id, status, strings.Fields(fields[3]))
	}
	return listed
}

// places checks that what we claim to follow is followed somewhere that exists, or that the table announces.
func (c *checker) places(line int, id, status string, where []string) {
	if status != "full" && status != "partial" {
		return
	}
	if len(where) == 0 {
		c.report(standardsFile, line, "%s is %s: name the packages that follow it", id, status)
	}
	for _, p := range where {
		if !c.exists(p) && !c.announced(p) {
			c.report(standardsFile, line, "%s is said to be followed in %s, which is no package", id, p)
		}
	}
}

// announced says whether the table has a place for a package that is still to come.
func (c *checker) announced(name string) bool {
	return slices.ContainsFunc(c.table.rules, func(r rule) bool { return r.verb == "may" && r.later != "" && matches(r.pkg, name) })
}

// dependencyRow finds the module that a row of the table in doc/dependencies.md is about.
var dependencyRow = regexp.MustCompile("^\\| *`([^`]+)` *\\| *`?([^`| ]+)`? *\\|")

// dependencies checks that each module that go.mod requires directly is accounted for: a row in doc/dependencies.md with
// the version that is in use, and a place in the table.
func (c *checker) dependencies() {
	rows := make(map[string]string)
	for i, line := range c.paper(dependenciesFile) {
		m := dependencyRow.FindStringSubmatch(line)
		if m == nil {
			continue
		}
		rows[m[1]] = m[2]
		if !slices.ContainsFunc(c.mod.names(), func(name string) bool { return name == m[1] }) {
			c.report(dependenciesFile, i+1, "go.mod does not require %s directly: remove the row", m[1])
		}
	}
	for _, r := range c.mod.direct {
		name, line := r.Mod.Path, r.Syntax.Start.Line
		switch version, ok := rows[name]; {
		case !ok:
			c.report("go.mod", line, "%s has no row in %s: say what it is for, who keeps it, what would replace it", name, dependenciesFile)
		case version != r.Mod.Version:
			c.report("go.mod", line, "%s is at %s here and at %s in %s", name, r.Mod.Version, version, dependenciesFile)
		}
		if !c.placed(name) {
			c.report("go.mod", line, "no line of %s gives %s a place", tableFile, name)
		}
	}
}

func (m *module) names() []string {
	var list []string
	for _, r := range m.direct {
		list = append(list, r.Mod.Path)
	}
	return list
}

// placed says whether a may or test line names a package of the module.
func (c *checker) placed(module string) bool {
	for _, r := range c.table.rules {
		if r.verb != "may" && r.verb != "test" {
			continue
		}
		for _, name := range r.names {
			if within(module, strings.TrimSuffix(name, "/...")) {
				return true
			}
		}
	}
	return false
}

// paper returns the lines of a text file, and reports the file if it cannot be read.
func (c *checker) paper(name string) []string {
	text, err := fs.ReadFile(c.fsys, name)
	if err != nil {
		c.report(name, 1, "the file cannot be read: %v", err)
		return nil
	}
	return strings.Split(string(text), "\n")
}
