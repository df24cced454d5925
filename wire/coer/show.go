package coer

import (
	"cmp"
	"encoding/json"
	"strconv"
	"strings"
)

// NodeKind says what a Node stands for.
type NodeKind uint8

// The kinds of nodes.
const (
	Leaf        NodeKind = iota // a value without parts
	Structure                   // SEQUENCE
	List                        // SEQUENCE OF, or the names of the bits of a BIT STRING
	Alternative                 // CHOICE; its only part is the alternative
)

// Node is a value, or a part of one, for people and for programs that do not know the type.
type Node struct {
	Name   string // of the component, as in the ASN.1 module; "" for elements of lists
	Kind   NodeKind
	Text   string // of a leaf: number, text, hexadecimal octets, name of a value
	Quoted bool   // Text is a string in JSON
	Note   string // what the value means, such as a date
	Parts  []*Node
}

// Describe goes over a value.
func Describe(v Value) *Node { return describe(v, 0) }

func describe(v Value, inside int) *Node {
	c := &Coder{mode: showing, show: tree{stack: []*Node{{}}, inside: inside}}
	v.Code(c)
	top := c.show.stack[0]
	if len(top.Parts) == 1 {
		return top.Parts[0]
	}
	return top
}

// Note says what the value means that was coded last. It is of use only while showing.
func (c *Coder) Note(text string) {
	if c.mode != showing {
		return
	}
	if in := c.show.top(); len(in.Parts) > 0 {
		in.Parts[len(in.Parts)-1].Note = text
	}
}

// maxInside is how often values are shown that lie in the octets of others.
const maxInside = 16

// Inside shows a value that is contained in the octets that were coded last, in their place.
func (c *Coder) Inside(v Value) {
	if c.mode != showing || c.show.inside >= maxInside {
		return
	}
	in := c.show.top()
	last := in.Parts[len(in.Parts)-1]
	inner := describe(v, c.show.inside+1)
	inner.Name, inner.Note = last.Name, last.Note
	in.Parts[len(in.Parts)-1] = inner
}

// tree collects nodes.
type tree struct {
	stack  []*Node
	inside int // how many values this one lies in
}

func (t *tree) top() *Node { return t.stack[len(t.stack)-1] }

func (t *tree) add(n *Node) {
	in := t.top()
	in.Parts = append(in.Parts, n)
}

func (t *tree) leaf(name, text string, quoted bool) {
	t.add(&Node{Name: name, Text: text, Quoted: quoted})
}

func (t *tree) begin(name string, k NodeKind) {
	n := &Node{Name: name, Kind: k}
	t.add(n)
	t.stack = append(t.stack, n)
}

func (t *tree) end() { t.stack = t.stack[:len(t.stack)-1] }

// MarshalJSON writes much what the JSON Encoding Rules (ITU-T X.697) would: a SEQUENCE is an object in the order of its components, a CHOICE an object with
// one member, octets are hexadecimal.
func (n *Node) MarshalJSON() ([]byte, error) {
	if n.Kind == Leaf {
		if n.Quoted {
			return json.Marshal(n.Text)
		}
		return []byte(n.Text), nil
	}
	open, end := byte('{'), byte('}')
	if n.Kind == List {
		open, end = '[', ']'
	}
	b := []byte{open}
	for i, p := range n.Parts {
		if i > 0 {
			b = append(b, ',')
		}
		if n.Kind != List {
			name, err := json.Marshal(p.Name)
			if err != nil {
				return nil, err
			}
			b = append(append(b, name...), ':')
		}
		part, err := p.MarshalJSON()
		if err != nil {
			return nil, err
		}
		b = append(b, part...)
	}
	return append(b, end), nil
}

// String writes a node as indented lines for people.
func (n *Node) String() string {
	var b strings.Builder
	n.write(&b, n.Name, 0)
	return b.String()
}

// write writes the lines of a node: "name: value", or "name:" and its parts. The alternative of a CHOICE stands in the line of the CHOICE.
func (n *Node) write(b *strings.Builder, label string, indent int) {
	meaning := n.Note
	for n.Kind == Alternative && len(n.Parts) == 1 {
		n = n.Parts[0]
		label, meaning = strings.TrimLeft(label+" "+n.Name, " "), cmp.Or(n.Note, meaning)
	}
	pad, note := strings.Repeat("  ", indent), ""
	if meaning != "" {
		note = "  (" + meaning + ")"
	}
	if n.Kind == Leaf {
		text := n.Text
		switch {
		case !n.Quoted && text == "null":
			text = ""
		case strings.ContainsFunc(text, func(r rune) bool { return !strconv.IsPrint(r) }):
			text = strconv.Quote(text) // a stranger wrote it
		}
		b.WriteString(strings.TrimRight(pad+label+": "+text, " :") + note + "\n")
		return
	}
	if line, ok := n.oneLine(); ok {
		b.WriteString(pad + label + ": " + line + note + "\n")
		return
	}
	if label != "" {
		b.WriteString(pad + label + note + "\n")
		indent++
	}
	for _, p := range n.Parts {
		l := p.Name
		if n.Kind == List {
			l = "-"
		}
		p.write(b, l, indent)
	}
}

// oneLine is the text of a list of short leaves.
func (n *Node) oneLine() (string, bool) {
	if n.Kind != List {
		return "", false
	}
	var words []string
	for _, p := range n.Parts {
		if p.Kind != Leaf || p.Note != "" {
			return "", false
		}
		words = append(words, p.Text)
	}
	if len(words) == 0 {
		return "none", true
	}
	line := strings.Join(words, " ")
	return line, len(line) <= 100
}
