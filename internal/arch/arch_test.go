package arch

import (
	"maps"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
)

// sound is a small module without an offence; each case of the tests plants one in it.
var sound = map[string]string{
	"go.mod": `module mooring

require (
	example.org/asn v1.2.3
	example.org/script v1.0.0
	example.org/deep v0.1.0 // indirect
)
`,
	"architecture.txt": `# The table.
may wire/der example.org/asn
may wire/...
may core/revoke core/device
    wire/der
may core/...
may server/... core/... wire/...
may app core/... server/...
may fixtures
may cmd/... app
may v2x/...              # later: with V2X
never wire/... os net/http/...
never core/... server/...
never cmd/... testing
test example.org/script
ambient app cmd/...
skip scratch
`,
	"standards.txt": `# id | title | status | where | notes
RFC 5280 | Internet X.509 Public Key Infrastructure | partial | wire/der | profiles
TS 102 941 | ITS trust and privacy | partial | v2x/aa | announced by the table
RFC 9000 | QUIC | no | | not ours
`,
	"doc/dependencies.md": "| module | version | what for |\n|---|---|---|\n| `example.org/asn` | v1.2.3 | DER |\n| `example.org/script` | v1.0.0 | tests |\n",
	"arch_test.go":        "// Package mooring has tests of the whole tree only.\npackage mooring\n",
	"wire/der/der.go": `// Package der reads values (RFC 5280, section 4.1).
package der

import "example.org/asn"

// ParseName reads a name.
func ParseName(b []byte) asn.Name { return asn.Name(b) }

// Parser is no decoder.
func Parser() {}
`,
	"wire/der/der_test.go":       "package der\n\nimport (\n\t\"os\"\n\t\"testing\"\n\t\"example.org/script\"\n)\n\nfunc FuzzParseName(f *testing.F) { script.Run(os.Args) }\n",
	"wire/coer/coer.go":          "// Package coer is a format.\npackage coer\n",
	"core/device/device.go":      "// Package device keeps devices.\npackage device\n\nimport \"time\"\n\n// Wait waits.\nfunc Wait() { <-time.After(time.Second) }\n",
	"core/device/vars.go":        variablesAllowed,
	"core/device/schema/001.sql": "-- TODO(#12): index\nCREATE TABLE device (id bytea);\n",
	"core/revoke/revoke.go":      "// Package revoke revokes.\npackage revoke\n\nimport (\n\t\"mooring/core/device\"\n\t\"mooring/wire/der\"\n)\n\nfunc use() { device.Wait(); der.Parser() }\n",
	"server/est/est.go":          "// Package est serves.\npackage est\n\nimport (\n\t\"net/http\"\n\t\"mooring/core/revoke\"\n)\n",
	"app/app.go":                 "// Package app wires.\npackage app\n\nimport (\n\t\"time\"\n\t\"mooring/server/est\"\n)\n\nfunc now() time.Time { return time.Now() }\n",
	"fixtures/fixtures.go":       "// Package fixtures helps tests.\npackage fixtures\n\nimport (\n\t\"testing\"\n\t\"time\"\n)\n\nfunc At(t *testing.T) time.Time { return time.Now() }\n",
	"cmd/mooring/main.go":        "// Command mooring runs.\npackage main\n\nimport (\n\t\"os\"\n\t\"mooring/app\"\n)\n\nfunc main() { os.Getenv(\"A\") }\n",
	"scratch/scratch.go":         "package scratch\n\nfunc init() {}\n",
	"wire/der/testdata/bad.go":   "package bad\n\nfunc init() {}\n",
}

const variablesAllowed = `package device

type state int

type mover interface{ move() }

var _ mover = (*mine)(nil)

var (
	errGone  = errors.New("gone")
	errKind  = errs.New(errs.NotFound, "no such device")
	moves    = map[state][]state{1: {2, 3}, 2: {}}
	names    = [...]string{"a", "b"}
	start    = state(1)
	magic    = []byte("magic" + suffix)
	routes   = []route{{"GET /", func() {}}}
	pattern  = regexp.MustCompile("^a$")
	page     = template.Must(template.New("x").Parse("{{.}}"))
	buffers  = sync.Pool{New: func() any { return new([]byte) }}
	defaults = &Options{Size: 10 << 20}
)

//go:embed schema/*.sql
var schema embed.FS
`

func planted(changes map[string]string) fstest.MapFS {
	files := maps.Clone(sound)
	maps.Copy(files, changes)
	fsys := make(fstest.MapFS)
	for name, text := range files {
		if text != "" {
			fsys[name] = &fstest.MapFile{Data: []byte(text)}
		}
	}
	return fsys
}

func TestSoundTree(t *testing.T) {
	t.Parallel()
	found, err := Check(planted(nil))
	if err != nil || len(found) > 0 {
		t.Errorf("Check(sound tree) = %q, %v; want nothing", found, err)
	}
}

// TestOffences plants one offence at a time, which must be reported at its place.
func TestOffences(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		file string
		add  string // appended to the file, which is new if sound lacks it
		want string
	}{
		{"core imports a server", "core/device/x.go", "package device\n\nimport \"mooring/server/est\"\n",
			"core/device/x.go:3: core/device may not import server/est (architecture.txt:6)"},
		{"server imports another", "server/acme/x.go", "// Package acme serves.\npackage acme\n\nimport \"mooring/server/est\"\n",
			"server/acme/x.go:4: server/acme may not import server/est (architecture.txt:7)"},
		{"wire imports os", "wire/coer/x.go", "package coer\n\nimport \"os\"\n",
			"wire/coer/x.go:3: wire/coer must never reach os (architecture.txt:12): wire/coer -> os"},
		{"wire imports below net/http", "wire/coer/x.go", "package coer\n\nimport \"net/http/httptest\"\n",
			"wire/coer must never reach net/http/httptest"},
		{"unlisted module", "core/device/x.go", "package device\n\nimport \"example.org/asn\"\n",
			"core/device/x.go:3: core/device may not import example.org/asn"},
		{"unlisted module in a test", "core/device/x_test.go", "package device_test\n\nimport \"example.org/other\"\n",
			"core/device/x_test.go:3: no test line in architecture.txt allows tests to import example.org/other"},
		{"cgo", "wire/coer/x.go", "package coer\n\nimport \"C\"\n", "wire/coer may not import C"},
		{"package without a place", "stray/x.go", "// Package stray is new.\npackage stray\n", "no may line in architecture.txt covers package stray"},
		{"program with test support", "app/x.go", "package app\n\nimport \"testing\"\n",
			"cmd/mooring must never reach testing (architecture.txt:14): cmd/mooring -> app -> testing"},
		{"no package comment", "wire/its/x.go", "package its\n", "wire/its/x.go:1: package wire/its has no package comment"},
		{"two package comments", "wire/coer/x.go", "// Package coer again.\npackage coer\n", "wire/coer/x.go:2: package wire/coer has a second package comment"},
		{"package comment of another", "wire/its/x.go", "// Its is a format.\npackage its\n", `the package comment begins with "Package its"`},
		{"drawer", "wire/common/x.go", "// Package common is what it is.\npackage common\n", "package wire/common is a drawer"},
		{"decoder without fuzz test", "wire/coer/x.go", "package coer\n\n// DecodeInt decodes.\nfunc DecodeInt() {}\n",
			"wire/coer/x.go:4: decoder DecodeInt has no FuzzDecodeInt in its package"},
		{"time.Now in core", "core/device/x.go", "package device\n\nimport \"time\"\n\nfunc now() time.Time { return time.Now() }\n",
			"core/device/x.go:5: time.Now stands outside"},
		{"time.Now as a value", "core/device/x.go", "package device\n\nimport \"time\"\n\nfunc now() func() time.Time { return time.Now }\n", "time.Now stands outside"},
		{"clock by another name", "core/device/x.go", "package device\n\nimport clock \"time\"\n\nfunc age(t clock.Time) { clock.Since(t) }\n", "time.Since stands outside"},
		{"environment", "server/est/x.go", "package est\n\nimport \"os\"\n\nfunc home() string { return os.Getenv(\"HOME\") }\n", "server/est/x.go:5: os.Getenv stands outside"},
		{"root context", "core/device/x.go", "package device\n\nimport \"context\"\n\nfunc f() { g(context.Background()) }\n", "context.Background stands outside"},
		{"init", "core/device/x.go", "package device\n\nfunc init() {}\n", "core/device/x.go:3: there is an init function"},
		{"variable without value", "core/device/x.go", "package device\n\nvar count int\n", "core/device/x.go:3: package-level variable count has no value"},
		{"variable from a call", "core/device/x.go", "package device\n\nvar conn = dial()\n", "package-level variable conn is no sentinel error"},
		{"call inside a table", "core/device/x.go", "package device\n\nvar conns = []conn{dial()}\n", "package-level variable conns is no sentinel error"},
		{"table to be filled", "core/device/x.go", "package device\n\nvar seen = map[string]bool{}\n", "package-level variable seen is no sentinel error"},
		{"kept for the life of the program", "core/device/x.go", "package device\n\nimport \"sync\"\n\nvar kept = sync.OnceValue(func() int { return 1 })\n", "package-level variable kept is no sentinel error"},
		{"naked note", "core/device/x.go", "package device\n\n/*\nTODO: do it\n*/\n", "core/device/x.go:4: a naked note"},
		{"note with an empty owner", "core/device/x.go", "package device\n\n// TODO(): do it\n", "core/device/x.go:3: a naked note"},
		{"naked note in SQL", "core/device/schema/002.sql", "SELECT 1;\n-- FIXME\n", "core/device/schema/002.sql:2: a naked note"},
		{"uncited RFC", "core/device/x.go", "package device\n\n// As in RFC\n// 7030, section 4.\nfunc f() {}\n",
			"core/device/x.go:3: RFC 7030 is cited but has no line in standards.txt"},
		{"standard twice", "standards.txt", "RFC 5280 | again | no | | |\n", "standards.txt:5: a line has five fields"},
		{"standard with a strange status", "standards.txt", "RFC 1 | a | done | |\n", `standards.txt:5: status "done" is none of`},
		{"standard said to be followed nowhere", "standards.txt", "RFC 1 | a | full | wire/gone |\n", "RFC 1 is said to be followed in wire/gone, which is no package"},
		{"dead may line", "architecture.txt", "may gone wire/...\n", "architecture.txt:18: no package gets its allowance from this line (may gone)"},
		{"shadowed may line", "architecture.txt", "may wire/der\n", "architecture.txt:18: no package gets its allowance from this line (may wire/der)"},
		{"dead never line", "architecture.txt", "never gone os\n", "architecture.txt:18: no package matches gone"},
		{"never with a misspelt target", "architecture.txt", "never core/... server/etc\n", "architecture.txt:18: no package matches server/etc"},
		{"never with a misspelt standard package", "architecture.txt", "never core/... net/htp\n", "architecture.txt:18: there is no package net/htp"},
		{"dead test line", "architecture.txt", "test example.org/asn/gone\n", "architecture.txt:18: no test file imports example.org/asn/gone"},
		{"dead ambient line", "architecture.txt", "ambient gone\n", "architecture.txt:18: no package matches gone"},
		{"dead skip line", "architecture.txt", "skip gone\n", "architecture.txt:18: there is no folder gone"},
		{"marker of a line in use", "architecture.txt", "ambient cmd/mooring # later: soon\n", `architecture.txt:18: the line is of use now: remove "# later: soon"`},
		{"row of a module that is gone", "doc/dependencies.md", "| `example.org/gone` | v1 | |\n", "doc/dependencies.md:5: go.mod does not require example.org/gone directly"},
		{"module unaccounted for", "go.mod", "\nrequire example.org/new v1.0.0\n", "go.mod:9: example.org/new has no row in doc/dependencies.md"},
		{"module without a place", "go.mod", "\nrequire example.org/new v1.0.0\n", "go.mod:9: no line of architecture.txt gives example.org/new a place"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			found, err := Check(planted(map[string]string{c.file: sound[c.file] + c.add}))
			if err != nil {
				t.Fatal(err)
			}
			if !slices.ContainsFunc(found, func(line string) bool { return strings.Contains(line, c.want) }) {
				t.Errorf("found %q, want a line with %q", found, c.want)
			}
		})
	}
}

// TestChain shows that a never line sees through packages of ours that may line by line import each other.
func TestChain(t *testing.T) {
	t.Parallel()
	found, err := Check(planted(map[string]string{
		"architecture.txt": sound["architecture.txt"] + "never app wire/der\nnever server/est time\n",
	}))
	want := []string{
		"app/app.go:6: app must never reach wire/der (architecture.txt:18): app -> server/est -> core/revoke -> wire/der",
		"server/est/est.go:6: server/est must never reach time (architecture.txt:19): server/est -> core/revoke -> core/device -> time",
	}
	if err != nil || !slices.Equal(found, want) {
		t.Errorf("Check = %q, %v\nwant %q", found, err, want)
	}
}

// TestUnreadable shows that rule files that cannot be understood stop the check instead of passing it.
func TestUnreadable(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ name, file, text, want string }{
		{"no table", "architecture.txt", "", "reading the import table"},
		{"unknown verb", "architecture.txt", "must wire/der\n", "architecture.txt:1: \"must\" is none of"},
		{"never without target", "architecture.txt", "never wire/der\n", "names at least one path"},
		{"may without package", "architecture.txt", "may\n", "names a package"},
		{"continuation of nothing", "architecture.txt", "  wire/der\n", "no line to continue"},
		{"marker without reason", "architecture.txt", "may wire/der # later:\n", "followed by the reason"},
		{"slash at the end", "architecture.txt", "may wire/\n", "not a clean path"},
		{"no module file", "go.mod", "", "reading the module file"},
		{"broken module file", "go.mod", "module\n", "go.mod"},
		{"Go that does not parse", "core/device/x.go", "package\n", "core/device/x.go:1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			found, err := Check(planted(map[string]string{c.file: c.text}))
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("Check = %q, %v; want an error with %q", found, err, c.want)
			}
		})
	}
}
