package ca

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
)

// document reads one YAML file strictly and keeps every complaint with its line, so that a person sees all of them at once. Fields are read
// by functions in a table: a key that is not in the table, comes twice, or holds the wrong type is a complaint.
type document struct {
	file     string
	problems []problem
	lines    map[string]int // line of each key of the top level, for rules that are checked afterwards
}

type problem struct {
	line int
	text string
}

type fields map[string]func(ast.Node)

func (d *document) complain(line int, format string, args ...any) {
	d.problems = append(d.problems, problem{line, fmt.Sprintf(format, args...)})
}

// at complains about a key of the top level, at its line if the file has it and else at the first.
func (d *document) at(key, format string, args ...any) {
	d.complain(max(d.lines[key], 1), "%s: "+format, append([]any{key}, args...)...)
}

// err joins the complaints in the order of their lines, each as "file:line: text".
func (d *document) err() error {
	slices.SortStableFunc(d.problems, func(a, b problem) int { return a.line - b.line })
	var all []error
	for _, p := range d.problems {
		all = append(all, fmt.Errorf("%s:%d: %s", d.file, p.line, p.text))
	}
	return errors.Join(all...)
}

func line(n ast.Node) int {
	if n == nil || n.GetToken() == nil || n.GetToken().Position == nil {
		return 1
	}
	return n.GetToken().Position.Line
}

// read parses data, which must hold one mapping, and hands its values to the table.
func (d *document) read(data []byte, table fields) {
	d.lines = map[string]int{}
	file, err := parser.ParseBytes(data, 0, parser.AllowDuplicateMapKey())
	if err != nil {
		d.complain(syntaxLine(err), "%s", syntaxText(err))
		return
	}
	if len(file.Docs) != 1 || file.Docs[0].Body == nil {
		d.complain(1, "expected one YAML document with the fields of a profile")
		return
	}
	d.mapping(file.Docs[0].Body, table, func(key string, at int) { d.lines[key] = at })
}

func syntaxLine(err error) int {
	var e yaml.Error
	if errors.As(err, &e) && e.GetToken() != nil {
		return e.GetToken().Position.Line
	}
	return 1
}

func syntaxText(err error) string {
	var e yaml.Error
	if errors.As(err, &e) {
		return e.GetMessage()
	}
	return err.Error()
}

// entries returns the pairs of a mapping, whatever form the parser gave it.
func (d *document) entries(n ast.Node) ([]*ast.MappingValueNode, bool) {
	switch n := n.(type) {
	case *ast.MappingNode:
		return n.Values, true
	case *ast.MappingValueNode:
		return []*ast.MappingValueNode{n}, true
	}
	d.complain(line(n), "expected fields (key: value), found %s", kindName(n))
	return nil, false
}

func (d *document) mapping(n ast.Node, table fields, seen func(key string, at int)) {
	entries, _ := d.entries(n)
	first := map[string]int{}
	for _, e := range entries {
		key, at := e.Key.GetToken().Value, line(e.Key)
		if earlier, twice := first[key]; twice {
			d.complain(at, "key %q was already given in line %d", key, earlier)
			continue
		}
		first[key] = at
		read, known := table[key]
		if !known {
			d.complain(at, "unknown key %q%s", key, didYouMean(key, table))
			continue
		}
		if seen != nil {
			seen(key, at)
		}
		read(e.Value)
	}
}

func kindName(n ast.Node) string {
	switch n.(type) {
	case *ast.MappingNode, *ast.MappingValueNode:
		return "fields"
	case *ast.SequenceNode:
		return "a list"
	case *ast.BoolNode:
		return "true or false"
	case *ast.IntegerNode, *ast.FloatNode:
		return "a number"
	case *ast.NullNode, nil:
		return "nothing"
	case *ast.AnchorNode, *ast.AliasNode, *ast.TagNode, *ast.MergeKeyNode:
		return "an anchor, alias or tag, which profiles cannot have"
	}
	return "text"
}

// text is a string. Numbers are taken as they are written, because an object identifier or hex octets may look like one.
func (d *document) text(n ast.Node) (string, bool) {
	switch n := n.(type) {
	case *ast.StringNode:
		return n.Value, true
	case *ast.LiteralNode:
		return n.Value.Value, true
	case *ast.IntegerNode, *ast.FloatNode:
		return n.GetToken().Value, true
	}
	d.complain(line(n), "expected text, found %s", kindName(n))
	return "", false
}

func (d *document) textInto(to *string) func(ast.Node) {
	return func(n ast.Node) { *to, _ = d.text(n) }
}

func (d *document) boolInto(to *bool) func(ast.Node) {
	return func(n ast.Node) {
		if b, ok := n.(*ast.BoolNode); ok {
			*to = b.Value
			return
		}
		d.complain(line(n), "expected true or false, found %s", kindName(n))
	}
}

func (d *document) countInto(to *int, most int) func(ast.Node) {
	return func(n ast.Node) {
		i, ok := n.(*ast.IntegerNode)
		if !ok {
			d.complain(line(n), "expected a number, found %s", kindName(n))
			return
		}
		v, err := strconv.Atoi(i.GetToken().Value)
		if err != nil || v < 0 || v > most {
			d.complain(line(n), "expected a number between 0 and %d", most)
			return
		}
		*to = v
	}
}

// list hands each element to read.
func (d *document) list(read func(ast.Node)) func(ast.Node) {
	return func(n ast.Node) {
		seq, ok := n.(*ast.SequenceNode)
		if !ok {
			d.complain(line(n), "expected a list, found %s", kindName(n))
			return
		}
		for _, v := range seq.Values {
			read(v)
		}
	}
}

// texts calls read for each text of a list; read's error becomes a complaint at the element.
func (d *document) texts(read func(string) error) func(ast.Node) {
	return d.list(d.parsed(read))
}

// parsed calls read for a text; read's error becomes a complaint at its line.
func (d *document) parsed(read func(string) error) func(ast.Node) {
	return func(n ast.Node) {
		if s, ok := d.text(n); ok {
			if err := read(s); err != nil {
				d.complain(line(n), "%s", err)
			}
		}
	}
}

// choice reads one of the words.
func (d *document) choice(words ...string) func(to *string) func(ast.Node) {
	return func(to *string) func(ast.Node) {
		return d.parsed(func(s string) error {
			if !slices.Contains(words, s) {
				return fmt.Errorf("%q is not one of: %s", s, strings.Join(words, ", "))
			}
			*to = s
			return nil
		})
	}
}

// didYouMean proposes the known key that is at most two edits away.
func didYouMean(key string, table fields) string {
	best, distance := "", 3
	for known := range table {
		if n := edits(key, known); n < distance || n == distance && known < best {
			best, distance = known, n
		}
	}
	if best == "" {
		return ""
	}
	return fmt.Sprintf(" (did you mean %q?)", best)
}

// edits is the Levenshtein distance.
func edits(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			diagonal, row[j+1] = row[j+1], min(row[j+1]+1, row[j]+1, diagonal+cost)
		}
	}
	return row[len(b)]
}
