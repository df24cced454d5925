// Package arch checks that a source tree keeps the house rules that a compiler cannot see: which package may import
// which, where the clock and the environment may be read, that decoders are fuzzed, that standards and modules are
// accounted for. The rules themselves are text in the tree that is checked (architecture.txt, standards.txt,
// doc/dependencies.md, go.mod), so that a change of the rules is read like any other change.
//
// architecture.txt consists of lines; "#" starts a comment, a line that begins with a blank continues the one before:
//
//	may     PKG ALLOWED...   a package imports only what the first line that matches it allows
//	never   PKG TARGET...    PKG reaches none of the targets, not even through other packages of ours
//	test    PATH...          imports from other modules that any test file may use
//	ambient PKG...           packages that may read the clock and the environment and make root contexts
//	skip    DIR...           folders that are not looked at
//
// PKG is a path relative to the module, or "P/..." for P and everything below it. ALLOWED and TARGET are such paths, or
// paths of the standard library, or of other modules: the latter have a dot before the first slash, and "P/..." works for
// them too. The standard library is always allowed, except "C". A line must be of use: a line that matches no package is
// an offence, unless its comment says "later: REASON", and that marker is an offence as soon as the line is of use.
//
// The other rules need no table: one package comment each, no init, no package-level variable that can change, a fuzz test for
// each exported decoder below wire/, owners for notes of work to be done, a line in standards.txt for each RFC that a comment
// cites, a row in doc/dependencies.md for each module.
//
// Check reads source text only. It runs no build, so it sees every file whatever its build tags, and it knows no types:
// a package shadowed by a local variable of the same name would confuse it, and is a bad idea anyway. It does not judge
// what `go vet` and staticcheck judge.
package arch

import (
	"cmp"
	"fmt"
	"go/token"
	"io/fs"
	"slices"
)

// Check reads the module at the root of fsys and returns one line for each offence, as "file:line: what is wrong and what
// to do", in the order of files. An error means that the tree or one of its rule files could not be read at all.
func Check(fsys fs.FS) ([]string, error) {
	table, err := readTable(fsys)
	if err != nil {
		return nil, err
	}
	mod, err := readModule(fsys)
	if err != nil {
		return nil, err
	}
	tree, err := readTree(fsys, mod.path, table.skipped())
	if err != nil {
		return nil, err
	}
	c := &checker{fsys: fsys, table: table, mod: mod, tree: tree}
	for _, step := range []func(){
		c.mayImport, c.neverReach, c.testImports, c.deadLines,
		c.packageComments, c.packageNames, c.functionsAndVariables, c.ambient, c.toDoNotes, c.decoders,
		c.standards, c.dependencies,
	} {
		step()
	}
	slices.SortFunc(c.found, func(a, b offence) int {
		return cmp.Or(cmp.Compare(a.file, b.file), cmp.Compare(a.line, b.line), cmp.Compare(a.text, b.text))
	})
	var lines []string
	for _, o := range slices.Compact(c.found) {
		lines = append(lines, fmt.Sprintf("%s:%d: %s", o.file, o.line, o.text))
	}
	return lines, nil
}

// checker carries one run: what was read, and what was found.
type checker struct {
	fsys  fs.FS
	table *table
	mod   *module
	tree  *tree
	found []offence
}

type offence struct {
	file string
	line int
	text string
}

func (c *checker) report(file string, line int, format string, a ...any) {
	c.found = append(c.found, offence{file, line, fmt.Sprintf(format, a...)})
}

func (c *checker) reportAt(pos token.Pos, format string, a ...any) {
	p := c.tree.fset.Position(pos)
	c.report(p.Filename, p.Line, format, a...)
}
