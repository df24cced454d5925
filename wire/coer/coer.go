// Package coer reads and writes the Canonical Octet Encoding Rules of ASN.1 (ITU-T X.696), the form of every message and certificate of cooperative
// transport (IEEE 1609.2, ETSI TS 103 097, TS 102 941). Octets in, values out, and back to the same octets.
//
// The rules, as far as they are needed there. Everything is a whole number of octets, big-endian:
//
//	length          below 128 one octet; else 80+n and n octets, n as small as can be
//	BOOLEAN         00 or FF
//	INTEGER         0..255, ..65535, ..2^32-1, ..2^64-1: 1, 2, 4, 8 octets; with a negative bound the same in two's complement;
//	                without upper bound: length, and then as few octets as can be
//	ENUMERATED      one octet below 128, also for values after the extension marker
//	BIT STRING      of fixed size: the octets; else length, number of unused bits, octets. Unused bits are zero
//	OCTET STRING    of fixed size: the octets; else length, octets. IA5String likewise, UTF8String always with length
//	NULL            nothing
//	SEQUENCE        preamble, components that are present, extension additions. The preamble has one bit "there are additions" if the type is
//	                extensible and one for each OPTIONAL or DEFAULT component, in whole octets; it is absent without such bits
//	additions       the presence of each as a BIT STRING of variable size; then each as an open type
//	SEQUENCE OF     the number of elements as an unbounded unsigned INTEGER, the elements
//	CHOICE          80+index, the value; what stands after the extension marker as an open type
//	open type       length, the encoding
//
// How a type is described. A type has one method, Code, that goes over its components in the order of the ASN.1 module. The same method reads, writes
// and shows, so that the layout of a type stands once in the program:
//
//	func (v *ValidityPeriod) Code(c *coer.Coder) {
//		s := c.Sequence()                     // c.Extensible for a type with "...", with one bool for each OPTIONAL component
//		coer.Uint32(c.At("start"), &v.Start)  // At names the component, for errors and for people
//		v.Duration.Code(c.At("duration"))
//		s.End()
//	}
//
// A method must not change the value except through the functions of this package, which do so only when they read.
//
// What is read is strict: one value has one encoding, every other one is refused, with an *Error that names the component and the octet. Nothing is
// allocated for a length or number before so many octets are there; depth and number of elements have limits. Extension additions and, where a type
// allows it, alternatives that are not known are kept as octets and written again as they were. What is read refers to the input and is valid as long
// as the input does not change.
//
// Left out: REAL, times, tags above 62, sets, values above 127 of ENUMERATED and integers of more than 64 bits, which no type of that field has.
package coer

import (
	"strconv"
	"strings"
)

// Limits of what is read, and of what is written too, so that it can be read again.
const (
	MaxDepth    = 96      // SEQUENCE, SEQUENCE OF and CHOICE within each other; a message within a message takes five
	MaxElements = 1 << 18 // elements of all lists of a value together
)

// Value is a type that can be read and written.
type Value interface {
	// Code goes over the components in the order of the type.
	Code(*Coder)
}

// Marshal writes a value. An error says what of it has no encoding, such as a string that is too long.
func Marshal(v Value) ([]byte, error) { return Append(make([]byte, 0, room), v) }

// room is for what is written: a request and its answer have some more, and everything else has less.
const room = 320

// Append writes a value behind b.
func Append(b []byte, v Value) ([]byte, error) {
	c := &Coder{mode: writing, out: b}
	v.Code(c)
	return c.written()
}

// Normal writes a value in the form that signatures and digests are computed over: types of which one value may be written in several ways write the one
// way that their standard calls canonical. Such types ask Coder.Normal.
func Normal(v Value) ([]byte, error) {
	c := &Coder{mode: writing, normal: true, out: make([]byte, 0, room)}
	v.Code(c)
	return c.written()
}

func (c *Coder) written() ([]byte, error) {
	if c.err != nil {
		return nil, c.err
	}
	return c.out, nil
}

// Unmarshal reads a value that is all of b into v, which must be empty before.
func Unmarshal(b []byte, v Value) error {
	c := new(Coder)
	c.Open(b)
	v.Code(c)
	return c.Close()
}

type mode uint8

const (
	reading mode = iota
	writing
	showing
)

// Coder goes over a value: it reads, writes or shows each component that it is led to. After the first error it does nothing more, so that Code methods
// need not look. The zero Coder reads nothing.
type Coder struct {
	mode     mode
	normal   bool
	in       []byte // reading: the input; what is read next is in[pos:end]
	pos, end int
	out      []byte // writing
	show     tree   // showing
	name     string // of the component that comes next
	start    int    // where it starts
	depth    int
	elements int
	err      *Error
	near     [nearDepth]frame // what surrounds the component, the outermost first
	far      []frame          // and what lies deeper
}

// nearDepth is how deep a certificate is at the most; it needs no more memory than the Coder itself.
const nearDepth = 20

// frame is a SEQUENCE, SEQUENCE OF or CHOICE that was begun.
type frame struct {
	name  string
	index int32 // of the element, if it is a list; else -1
	open  bool  // what is read now is an open type
	mark  int   // of the open type: when reading the end of what surrounds it, when writing where it starts
}

// Open has the coder read b. It is for types that must be read without allocating; others go by Unmarshal.
func (c *Coder) Open(b []byte) { c.in, c.end = b, len(b) }

// Close says what was wrong, also that something is left.
func (c *Coder) Close() error {
	if c.mode == reading && c.err == nil && c.pos < c.end {
		c.name, c.start = "", c.pos
		c.fail(Malformed, "there are "+strconv.Itoa(c.end-c.pos)+" octets after its end")
	}
	if c.err == nil {
		return nil
	}
	return c.err
}

// At names the component that comes next.
func (c *Coder) At(name string) *Coder {
	c.name, c.start = name, c.Offset()
	return c
}

// Reading says whether the value is being filled.
func (c *Coder) Reading() bool { return c.mode == reading }

// Next is the octet that is read next, false if there is none or nothing is read. It is for values that others write in a second way.
func (c *Coder) Next() (octet byte, ok bool) {
	if c.mode != reading || c.err != nil || c.pos >= c.end {
		return 0, false
	}
	return c.in[c.pos], true
}

// Showing says whether the value is being shown, so that a Note is of use.
func (c *Coder) Showing() bool { return c.mode == showing }

// Normal says whether the form is asked for that digests are computed over. SetNormal turns it off and on for a part and returns what was set.
func (c *Coder) Normal() bool { return c.mode == writing && c.normal }

// SetNormal is described at Normal.
func (c *Coder) SetNormal(on bool) (was bool) {
	was, c.normal = c.normal, on
	return was
}

// Offset is how far the coder has come.
func (c *Coder) Offset() int {
	if c.mode == reading {
		return c.pos
	}
	return len(c.out)
}

// Keep has *octets refer to what was read since offset from; it does nothing when the coder does not read.
func (c *Coder) Keep(octets *[]byte, from int) {
	if c.mode == reading && c.err == nil {
		*octets = c.in[from:c.pos:c.pos]
	}
}

// Refuse is an error of the component, for the reason, if it holds: for rules of a type that the functions of this package do not check.
func (c *Coder) Refuse(it bool, because string) {
	if it && c.mode != showing {
		c.fail(Malformed, because)
	}
}

// Kind says in which way an encoding is wrong.
type Kind uint8

// The kinds of errors.
const (
	Malformed Kind = iota // not the encoding of such a value, or not the canonical one
	Unknown               // perhaps right, but in a way that is not known here and may not be passed over
	Excessive             // beyond a limit of this package
)

// Error says what is wrong with an encoding, or with a value that was to be encoded.
type Error struct {
	Kind   Kind
	Path   string // the component, such as toBeSigned.appPermissions[2].ssp; "" for the whole
	Offset int    // where it starts, counted from 0
	Text   string
}

// Error implements error.
func (e *Error) Error() string {
	if e.Path == "" {
		return "octet " + strconv.Itoa(e.Offset) + ": " + e.Text
	}
	return e.Path + " at octet " + strconv.Itoa(e.Offset) + ": " + e.Text
}

// fail keeps the first error and has everything after it read nothing.
func (c *Coder) fail(kind Kind, text string) {
	if c.err == nil {
		c.err = &Error{Kind: kind, Path: c.path(), Offset: c.start, Text: text}
		c.end = c.pos
	}
}

func (c *Coder) path() string {
	var p strings.Builder
	part := func(name string) {
		if name != "" && p.Len() > 0 {
			p.WriteByte('.')
		}
		p.WriteString(name)
	}
	for i := range min(c.depth, MaxDepth) {
		f := c.frame(i)
		part(f.name)
		if f.index >= 0 {
			p.WriteString("[" + strconv.Itoa(int(f.index)) + "]")
		}
	}
	part(c.name)
	return p.String()
}

// begin opens a SEQUENCE, SEQUENCE OF or CHOICE, and end closes it.
func (c *Coder) begin(k NodeKind) {
	switch f := (frame{name: c.name, index: -1}); {
	case c.depth < nearDepth:
		c.near[c.depth] = f
	case c.depth < MaxDepth:
		c.far = append(c.far[:c.depth-nearDepth], f)
	default:
		c.fail(Excessive, "it lies more than "+strconv.Itoa(MaxDepth)+" levels deep")
	}
	c.depth++
	if c.mode == showing {
		c.show.begin(c.name, k)
	}
	c.name = ""
}

func (c *Coder) finish() {
	c.depth--
	if c.mode == showing {
		c.show.end()
	}
	c.name = ""
}

// top is the innermost frame; beyond the greatest depth, where nothing is read any more, it is some frame.
func (c *Coder) top() *frame { return c.frame(min(max(c.depth, 1), MaxDepth) - 1) }

func (c *Coder) frame(i int) *frame {
	if i < nearDepth {
		return &c.near[i]
	}
	return &c.far[i-nearDepth]
}

// take returns the next n octets, with no room behind them, or nil and an error.
func (c *Coder) take(n int) []byte {
	if n < 0 || n > c.end-c.pos {
		c.fail(Malformed, "it has "+strconv.Itoa(n)+" octets and "+strconv.Itoa(c.end-c.pos)+" are left")
		return nil
	}
	b := c.in[c.pos : c.pos+n : c.pos+n]
	c.pos += n
	return b
}
