package arch

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/mod/modfile"
)

// module is what go.mod says.
type module struct {
	path   string
	direct []*modfile.Require // required without "// indirect"
	all    []*modfile.Require
}

func readModule(fsys fs.FS) (*module, error) {
	text, err := fs.ReadFile(fsys, "go.mod")
	if err != nil {
		return nil, fmt.Errorf("reading the module file: %w", err)
	}
	f, err := modfile.ParseLax("go.mod", text, nil)
	if err != nil {
		return nil, fmt.Errorf("parsing the module file: %w", err)
	}
	if f.Module == nil {
		return nil, fmt.Errorf("go.mod names no module")
	}
	m := &module{path: f.Module.Mod.Path, all: f.Require}
	for _, r := range f.Require {
		if !r.Indirect {
			m.direct = append(m.direct, r)
		}
	}
	return m, nil
}

// tree is every package of the module, parsed.
type tree struct {
	fset *token.FileSet
	pkgs map[string]*pkg // by path relative to the module, "." for its root
	sql  []textFile
}

type textFile struct{ name, text string }

// pkg is one folder with Go files. External test packages count with the package that they test.
type pkg struct {
	path  string
	files []*file // by name
}

type file struct {
	*ast.File
	name    string // relative to the module
	test    bool
	imports []imported
}

// imported is one import: path is relative to the module for packages of ours.
type imported struct {
	path string
	name string // how the file calls it; "" if by its default
	pos  token.Pos
}

func readTree(fsys fs.FS, modulePath string, skip []string) (*tree, error) {
	t := &tree{fset: token.NewFileSet(), pkgs: make(map[string]*pkg)}
	err := fs.WalkDir(fsys, ".", func(name string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir():
			if matchesAny(skip, name) || name != "." && ignoredDir(path.Base(name)) {
				return fs.SkipDir
			}
		case strings.HasSuffix(name, ".go"):
			return t.addGo(fsys, name, modulePath)
		case strings.HasSuffix(name, ".sql"):
			text, err := fs.ReadFile(fsys, name)
			t.sql = append(t.sql, textFile{name, string(text)})
			return err
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("reading the source tree: %w", err)
	}
	return t, nil
}

// ignoredDir follows the go command, which does not build such folders.
func ignoredDir(base string) bool {
	return base == "testdata" || base == "vendor" || base[0] == '.' || base[0] == '_'
}

func (t *tree) addGo(fsys fs.FS, name, modulePath string) error {
	text, err := fs.ReadFile(fsys, name)
	if err != nil {
		return err
	}
	parsed, err := parser.ParseFile(t.fset, name, text, parser.ParseComments|parser.SkipObjectResolution)
	if err != nil {
		return err
	}
	f := &file{File: parsed, name: name, test: strings.HasSuffix(name, "_test.go")}
	for _, spec := range parsed.Imports {
		full, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			return fmt.Errorf("%s: import %s: %w", name, spec.Path.Value, err)
		}
		imp := imported{path: relative(modulePath, full), pos: spec.Pos()}
		if spec.Name != nil {
			imp.name = spec.Name.Name
		}
		f.imports = append(f.imports, imp)
	}
	dir := path.Dir(name)
	p := t.pkgs[dir]
	if p == nil {
		p = &pkg{path: dir}
		t.pkgs[dir] = p
	}
	p.files = append(p.files, f)
	return nil
}

func relative(modulePath, full string) string {
	if full == modulePath {
		return "."
	}
	return strings.TrimPrefix(full, modulePath+"/")
}

// sorted returns the packages in the order of their paths.
func (t *tree) sorted() []*pkg {
	var list []*pkg
	for _, p := range slices.Sorted(maps.Keys(t.pkgs)) {
		list = append(list, t.pkgs[p])
	}
	return list
}

// code returns the files that are compiled into programs.
func (p *pkg) code() []*file {
	return slices.DeleteFunc(slices.Clone(p.files), func(f *file) bool { return f.test })
}

func (p *pkg) tests() []*file {
	return slices.DeleteFunc(slices.Clone(p.files), func(f *file) bool { return !f.test })
}

// imports returns what the package's code imports, in the order of files.
func (p *pkg) imports() []imported {
	var list []imported
	for _, f := range p.code() {
		list = append(list, f.imports...)
	}
	return list
}

// importOf returns where the package imports the path.
func (p *pkg) importOf(path string) token.Pos {
	list := p.imports()
	return list[slices.IndexFunc(list, func(i imported) bool { return i.path == path })].pos
}

// supportsTests says whether the package exists for tests only, such as a package with fixtures: its code imports testing.
// No program can contain it, because the table forbids cmd to reach testing.
func (p *pkg) supportsTests() bool {
	return slices.ContainsFunc(p.imports(), func(i imported) bool { return i.path == "testing" })
}
