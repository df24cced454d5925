package arch

import (
	"go/build"
	"slices"
	"strings"
)

// mayImport compares each import with the first line of the table that covers its package.
func (c *checker) mayImport() {
	for _, p := range c.tree.sorted() {
		code := p.code()
		if len(code) == 0 {
			continue
		}
		line := c.table.mayLine(p.path)
		if line < 0 {
			c.reportAt(code[0].Package, "no may line in %s covers package %s: give it a place", tableFile, p.path)
			continue
		}
		r := c.table.rules[line]
		for _, imp := range p.imports() {
			if c.needsLeave(imp.path) && !matchesAny(r.names, imp.path) {
				c.reportAt(imp.pos, "%s may not import %s (%s:%d)", p.path, imp.path, tableFile, r.line)
			}
		}
	}
}

// needsLeave says whether an import must be allowed by the table: what is ours, what is another module's, and cgo.
func (c *checker) needsLeave(name string) bool {
	return name == "C" || isForeign(name) || c.isOurs(name)
}

// isOurs says whether the path lies in this module. No path of ours starts like one of the standard library.
func (c *checker) isOurs(name string) bool {
	top, _, _ := strings.Cut(name, "/")
	for p := range c.tree.pkgs {
		if first, _, _ := strings.Cut(p, "/"); first == top {
			return true
		}
	}
	return false
}

// neverReach follows the imports of each package that a never line covers, through packages of ours, and reports the
// shortest chain to each target.
func (c *checker) neverReach() {
	for _, i := range c.table.with("never") {
		r := c.table.rules[i]
		for _, p := range c.tree.sorted() {
			if !matches(r.pkg, p.path) {
				continue
			}
			if chain := c.chain(p.path, r.names); chain != nil {
				c.reportAt(p.importOf(chain[1]), "%s must never reach %s (%s:%d): %s",
					p.path, chain[len(chain)-1], tableFile, r.line, strings.Join(chain, " -> "))
			}
		}
	}
}

// chain returns the shortest chain of imports from one package to another that a target covers, or nil.
func (c *checker) chain(from string, targets []string) []string {
	cameFrom := map[string]string{from: ""}
	for queue := []string{from}; len(queue) > 0; queue = queue[1:] {
		p := c.tree.pkgs[queue[0]]
		if p == nil {
			continue
		}
		for _, imp := range p.imports() {
			if _, seen := cameFrom[imp.path]; seen {
				continue
			}
			cameFrom[imp.path] = p.path
			if matchesAny(targets, imp.path) {
				return unwind(cameFrom, imp.path)
			}
			queue = append(queue, imp.path)
		}
	}
	return nil
}

func unwind(cameFrom map[string]string, last string) []string {
	var chain []string
	for at := last; at != ""; at = cameFrom[at] {
		chain = append(chain, at)
	}
	slices.Reverse(chain)
	return chain
}

// testImports checks what test files take from other modules. What they take from us is free: a test may look anywhere.
func (c *checker) testImports() {
	var forTests []string
	for _, i := range c.table.with("test") {
		forTests = append(forTests, c.table.rules[i].names...)
	}
	for _, p := range c.tree.sorted() {
		allowed := forTests
		if line := c.table.mayLine(p.path); line >= 0 {
			allowed = slices.Concat(forTests, c.table.rules[line].names)
		}
		for _, f := range p.tests() {
			for _, imp := range f.imports {
				if isForeign(imp.path) && !matchesAny(allowed, imp.path) {
					c.reportAt(imp.pos, "no test line in %s allows tests to import %s", tableFile, imp.path)
				}
			}
		}
	}
}

// deadLines reports lines of the table that are of no use, and markers on lines that are.
func (c *checker) deadLines() {
	for i, r := range c.table.rules {
		why := c.useless(i)
		if why != "" && r.later == "" {
			c.report(tableFile, r.line, `%s: remove the line, or say why it stands here with "# later: REASON"`, why)
		}
		if why == "" && r.later != "" {
			c.report(tableFile, r.line, `the line is of use now: remove "# later: %s"`, r.later)
		}
	}
}

// useless returns why a line of the table is of no use, or "".
func (c *checker) useless(index int) string {
	r := c.table.rules[index]
	switch r.verb {
	case "may":
		return c.uselessMay(index)
	case "never":
		return c.uselessNever(r)
	case "test":
		for _, name := range r.names {
			if !c.imported(name, (*pkg).tests) {
				return "no test file imports " + name
			}
		}
	case "ambient":
		for _, name := range r.names {
			if !c.exists(name) {
				return "no package matches " + name
			}
		}
	case "skip":
		for _, name := range r.names {
			if !c.folder(name) {
				return "there is no folder " + name
			}
		}
	}
	return ""
}

func (c *checker) uselessMay(index int) string {
	r := c.table.rules[index]
	first := func(p *pkg) bool { return len(p.code()) > 0 && c.table.mayLine(p.path) == index }
	if !slices.ContainsFunc(c.tree.sorted(), first) {
		return "no package gets its allowance from this line (may " + r.pkg + ")"
	}
	for _, name := range r.names {
		if isForeign(name) && !c.required(name) {
			return "go.mod requires no module that has " + name
		}
	}
	return ""
}

// uselessNever also looks at the targets: a misspelt one would forbid nothing, silently.
func (c *checker) uselessNever(r rule) string {
	if !c.exists(r.pkg) {
		return "no package matches " + r.pkg
	}
	for _, target := range r.names {
		switch {
		case isForeign(target):
			if !c.required(target) {
				return "go.mod requires no module that has " + target
			}
		case c.isOurs(target):
			if !c.exists(target) {
				return "no package matches " + target
			}
		case !inStandardLibrary(strings.TrimSuffix(target, "/...")):
			return "there is no package " + target
		}
	}
	return ""
}

func (c *checker) exists(pattern string) bool {
	return slices.ContainsFunc(c.tree.sorted(), func(p *pkg) bool { return matches(pattern, p.path) })
}

// imported says whether the pattern covers an import of any of the files that the choice selects.
func (c *checker) imported(pattern string, choice func(*pkg) []*file) bool {
	for _, p := range c.tree.pkgs {
		for _, f := range choice(p) {
			for _, imp := range f.imports {
				if matches(pattern, imp.path) {
					return true
				}
			}
		}
	}
	return false
}

// required says whether a path or pattern lies in a module that go.mod requires.
func (c *checker) required(pattern string) bool {
	name := strings.TrimSuffix(pattern, "/...")
	for _, m := range c.mod.all {
		if within(m.Mod.Path, name) {
			return true
		}
	}
	return false
}

// within says whether the package path lies in the module.
func within(module, name string) bool {
	return name == module || strings.HasPrefix(name, module+"/")
}

func inStandardLibrary(name string) bool {
	p, err := build.Import(name, "", build.FindOnly)
	return err == nil && p.Goroot
}
