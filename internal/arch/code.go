package arch

import (
	"go/ast"
	"go/token"
	"io/fs"
	"path"
	"regexp"
	"slices"
	"strings"
)

// packageComments checks that each package says once what it is.
func (c *checker) packageComments() {
	for _, p := range c.tree.sorted() {
		files := p.code()
		if len(files) == 0 {
			files = p.files
		}
		var with []*file
		for _, f := range files {
			if f.Doc != nil && strings.TrimSpace(f.Doc.Text()) != "" {
				with = append(with, f)
			}
		}
		switch len(with) {
		case 0:
			c.reportAt(files[0].Package, "package %s has no package comment: say what it is, which standard, how it is used, what it does not do", p.path)
		case 1:
			c.packageCommentStart(with[0])
		default:
			c.reportAt(with[1].Package, "package %s has a second package comment, the first is in %s", p.path, with[0].name)
		}
	}
}

// packageCommentStart checks the form that godoc lists packages by.
func (c *checker) packageCommentStart(f *file) {
	text := f.Doc.Text()
	if f.Name.Name == "main" {
		if !strings.HasPrefix(text, "Command ") && !strings.HasPrefix(text, "Mooring ") {
			c.reportAt(f.Package, `the comment of a command begins with "Command NAME"`)
		}
		return
	}
	if want := "Package " + f.Name.Name; !strings.HasPrefix(text, want+" ") && !strings.HasPrefix(text, want+"\n") {
		c.reportAt(f.Package, "the package comment begins with %q", want)
	}
}

// drawers are package names that say nothing about what lives there, so everything ends up in them.
var drawers = []string{"util", "utils", "common", "helper", "helpers", "model", "models", "misc", "shared", "store", "types"}

func (c *checker) packageNames() {
	for _, p := range c.tree.sorted() {
		if slices.Contains(drawers, path.Base(p.path)) {
			c.reportAt(p.files[0].Package, "package %s is a drawer: put its content where it is used", p.path)
		}
	}
}

// ambientNames are the functions through which the surroundings reach code without being passed in.
var ambientNames = map[string][]string{
	"time":    {"Now", "Since", "Until"},
	"os":      {"Getenv", "LookupEnv", "Environ", "ExpandEnv"},
	"context": {"Background", "TODO"},
}

// ambient checks that clock, environment and root contexts are passed in, except where the table has them enter.
func (c *checker) ambient() {
	var free []string
	for _, i := range c.table.with("ambient") {
		free = append(free, c.table.rules[i].names...)
	}
	for _, p := range c.tree.sorted() {
		if matchesAny(free, p.path) || p.supportsTests() {
			continue
		}
		for _, f := range p.code() {
			c.ambientIn(f)
		}
	}
}

func (c *checker) ambientIn(f *file) {
	calls := make(map[string]string) // the name in this file of each package in ambientNames
	for _, imp := range f.imports {
		if _, ok := ambientNames[imp.path]; !ok {
			continue
		}
		local := imp.path
		if imp.name != "" {
			local = imp.name
		}
		if local == "." {
			c.reportAt(imp.pos, "a dot import of %s hides what is used from it", imp.path)
		}
		calls[local] = imp.path
	}
	ast.Inspect(f.File, func(n ast.Node) bool {
		sel, ok := n.(*ast.SelectorExpr)
		if !ok {
			return true
		}
		x, ok := sel.X.(*ast.Ident)
		if !ok {
			return true
		}
		if from := calls[x.Name]; slices.Contains(ambientNames[from], sel.Sel.Name) {
			c.reportAt(sel.Pos(), "%s.%s stands outside the packages that may use it (ambient in %s): have it passed in", from, sel.Sel.Name, tableFile)
		}
		return true
	})
}

// A note of something to be done names an issue or a person, so that somebody can be asked about it.
var (
	toDo      = regexp.MustCompile(`\b(TODO|FIXME|XXX)\b(\([^)\s]+\))?`)
	toDoOwner = regexp.MustCompile(`^\((#[0-9]+|[A-Za-z][A-Za-z0-9._-]*)\)$`)
)

func (c *checker) toDoNotes() {
	for _, p := range c.tree.sorted() {
		for _, f := range p.files {
			for _, group := range f.Comments {
				for _, comment := range group.List {
					c.toDoNotesIn(comment.Text, c.tree.fset.Position(comment.Pos()))
				}
			}
		}
	}
	for _, f := range c.tree.sql {
		c.toDoNotesIn(f.text, token.Position{Filename: f.name, Line: 1})
	}
}

func (c *checker) toDoNotesIn(text string, at token.Position) {
	for _, m := range toDo.FindAllStringSubmatchIndex(text, -1) {
		word, owner := text[m[2]:m[3]], ""
		if m[4] >= 0 {
			owner = text[m[4]:m[5]]
		}
		if word == "TODO" && toDoOwner.MatchString(owner) {
			continue
		}
		c.report(at.Filename, at.Line+strings.Count(text[:m[0]], "\n"), "a naked note: write TODO(#123) or TODO(name), or do it")
	}
}

// A decoder takes bytes that a stranger may have written; its name says so.
var decoderName = regexp.MustCompile(`^(Parse|Decode|Unmarshal)(\P{Ll}.*)?$`)

// decoders checks that each exported decoder of a wire package has a fuzz test beside it.
func (c *checker) decoders() {
	for _, p := range c.tree.sorted() {
		if !matches("wire/...", p.path) || p.supportsTests() {
			continue
		}
		fuzzed := make(map[string]bool)
		for _, f := range p.tests() {
			for _, fn := range functions(f) {
				fuzzed[fn.Name.Name] = true
			}
		}
		for _, f := range p.code() {
			for _, fn := range functions(f) {
				if name := fn.Name.Name; decoderName.MatchString(name) && !fuzzed["Fuzz"+name] {
					c.reportAt(fn.Pos(), "decoder %s has no Fuzz%s in its package", name, name)
				}
			}
		}
	}
}

// functions returns the declared functions of a file, without methods.
func functions(f *file) []*ast.FuncDecl {
	var list []*ast.FuncDecl
	for _, d := range f.Decls {
		if fn, ok := d.(*ast.FuncDecl); ok && fn.Recv == nil {
			list = append(list, fn)
		}
	}
	return list
}

func (c *checker) folder(name string) bool {
	info, err := fs.Stat(c.fsys, name)
	return err == nil && info.IsDir()
}
