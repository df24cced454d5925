package arch

import (
	"go/ast"
	"go/token"
	"slices"
	"strings"
)

// functionsAndVariables checks that nothing happens and nothing is kept behind the back of package app: no init, and no
// package-level variable but sentinel errors, fixed tables, compiled expressions, embedded files and buffer pools. What exists for tests only
// may also keep what takes long to make, in a sync.OnceValue.
func (c *checker) functionsAndVariables() {
	for _, p := range c.tree.sorted() {
		types := typeNames(p)
		for _, f := range p.files {
			for _, fn := range functions(f) {
				if fn.Name.Name == "init" {
					c.reportAt(fn.Pos(), "there is an init function: call it by name where it is needed")
				}
			}
		}
		for _, f := range p.code() {
			for _, d := range f.Decls {
				if g, ok := d.(*ast.GenDecl); ok && g.Tok == token.VAR {
					c.variables(g, types, p.supportsTests())
				}
			}
		}
	}
}

func (c *checker) variables(decl *ast.GenDecl, types []string, forTests bool) {
	for _, spec := range decl.Specs {
		v := spec.(*ast.ValueSpec)
		if isBlank(v) || embeds(decl.Doc) || embeds(v.Doc) {
			continue
		}
		if len(v.Values) == 0 {
			c.reportAt(v.Pos(), "package-level variable %s has no value, so it is meant to change: keep it in a type", v.Names[0].Name)
		}
		for i, value := range v.Values {
			if forTests && madeOnce(value) {
				continue
			}
			if !fixed(value, types) || emptyTable(value) {
				c.reportAt(v.Names[i].Pos(), "package-level variable %s is no sentinel error, fixed table or compiled expression: keep it in a type, or make it a function", v.Names[i].Name)
			}
		}
	}
}

// isBlank says whether the declaration only has the compiler check something, such as var _ I = (*T)(nil).
func isBlank(v *ast.ValueSpec) bool {
	return !slices.ContainsFunc(v.Names, func(n *ast.Ident) bool { return n.Name != "_" })
}

func embeds(doc *ast.CommentGroup) bool {
	return doc != nil && slices.ContainsFunc(doc.List, func(c *ast.Comment) bool { return strings.HasPrefix(c.Text, "//go:embed ") })
}

// madeOnce tells sync.OnceValue(func …) and sync.OnceValues(func …).
func madeOnce(e ast.Expr) bool {
	call, ok := e.(*ast.CallExpr)
	if !ok {
		return false
	}
	sel, ok := call.Fun.(*ast.SelectorExpr)
	if !ok || !strings.HasPrefix(sel.Sel.Name, "OnceValue") {
		return false
	}
	x, ok := sel.X.(*ast.Ident)
	return ok && x.Name == "sync"
}

// emptyTable says whether a value is a table without entries, which only makes sense if somebody fills it later.
func emptyTable(e ast.Expr) bool {
	if u, ok := e.(*ast.UnaryExpr); ok {
		e = u.X
	}
	lit, ok := e.(*ast.CompositeLit)
	return ok && len(lit.Elts) == 0
}

// fixed says whether an expression is made of constants, names, literals and functions that only give a value its form.
func fixed(e ast.Expr, types []string) bool {
	switch e := e.(type) {
	case nil, *ast.BasicLit, *ast.Ident, *ast.FuncLit, *ast.ArrayType, *ast.MapType, *ast.StructType, *ast.InterfaceType, *ast.StarExpr:
		return true
	case *ast.SelectorExpr:
		return fixed(e.X, types)
	case *ast.IndexExpr: // an instance of a generic function, or an entry of a table
		return fixed(e.X, types) && fixed(e.Index, types)
	case *ast.ParenExpr:
		return fixed(e.X, types)
	case *ast.UnaryExpr:
		return e.Op != token.ARROW && fixed(e.X, types)
	case *ast.BinaryExpr:
		return fixed(e.X, types) && fixed(e.Y, types)
	case *ast.KeyValueExpr:
		return fixed(e.Key, types) && fixed(e.Value, types)
	case *ast.CompositeLit:
		return !slices.ContainsFunc(e.Elts, func(x ast.Expr) bool { return !fixed(x, types) })
	case *ast.CallExpr:
		if isTemplate(e) {
			return true
		}
		return formOnly(e.Fun, types) && !slices.ContainsFunc(e.Args, func(x ast.Expr) bool { return !fixed(x, types) })
	}
	return false
}

// formGivers are functions of other packages whose result depends on their arguments alone and that nobody changes later.
// Functions named Must... are taken to be such.
var formGivers = []string{
	"errors.New", "errs.New", "errs.Wrap", "fmt.Errorf",
	"big.NewInt", "strings.NewReplacer", "time.Duration",
}

// formOnly says whether a called thing is a conversion or a function that only gives its arguments another form.
func formOnly(fun ast.Expr, types []string) bool {
	switch fun := fun.(type) {
	case *ast.ArrayType, *ast.MapType, *ast.InterfaceType, *ast.FuncType:
		return true
	case *ast.ParenExpr: // (*T)(nil)
		return true
	case *ast.Ident:
		return slices.Contains(types, fun.Name) || slices.Contains(predeclared, fun.Name) || isMust(fun.Name)
	case *ast.SelectorExpr:
		x, ok := fun.X.(*ast.Ident)
		return isMust(fun.Sel.Name) || ok && slices.Contains(formGivers, x.Name+"."+fun.Sel.Name)
	}
	return false
}

// isTemplate tells template.Must(...), whose argument is a parser at work on a constant or on embedded files.
func isTemplate(call *ast.CallExpr) bool {
	sel, ok := call.Fun.(*ast.SelectorExpr)
	if !ok || sel.Sel.Name != "Must" {
		return false
	}
	x, ok := sel.X.(*ast.Ident)
	return ok && x.Name == "template"
}

// isMust tells MustCompile, MustParse and their like, and our own unexported mustX.
func isMust(name string) bool {
	return strings.HasPrefix(name, "Must") || strings.HasPrefix(name, "must")
}

// predeclared are the types of the language and the functions of the language that only measure or combine.
var predeclared = []string{
	"bool", "byte", "complex64", "complex128", "error", "float32", "float64", "int", "int8", "int16", "int32", "int64",
	"rune", "string", "uint", "uint8", "uint16", "uint32", "uint64", "uintptr", "any", "len", "min", "max",
}

// typeNames returns the names of the types that a package declares at its top.
func typeNames(p *pkg) []string {
	var names []string
	for _, f := range p.code() {
		for _, d := range f.Decls {
			g, ok := d.(*ast.GenDecl)
			if !ok || g.Tok != token.TYPE {
				continue
			}
			for _, spec := range g.Specs {
				names = append(names, spec.(*ast.TypeSpec).Name.Name)
			}
		}
	}
	return names
}
