package coer

import (
	"iter"
	"math/bits"
	"strconv"
	"unsafe"
)

// Optional is a component that may be absent. Where nil can say so (slices, pointers) it does, and this is not needed.
type Optional[T any] struct {
	Value   T
	Present bool
}

// Some is a component that is present.
func Some[T any](v T) Optional[T] { return Optional[T]{v, true} }

// Get returns the component and whether it is present.
func (o *Optional[T]) Get() (T, bool) { return o.Value, o.Present }

// Make returns the component to be coded, and says that it is present.
func (o *Optional[T]) Make() *T {
	if !o.Present {
		o.Present = true
	}
	return &o.Value
}

// Sequence is a SEQUENCE that is being coded.
type Sequence struct {
	c         *Coder
	optional  uint64 // presence of the optional components that are still to come, the next one in the highest bit
	unknown   *Additions
	extended  bool   // reading: there are additions
	preamble  int    // writing: where the preamble stands
	additions uint64 // presence of the additions, the first one in the highest bit
	next      int    // addition
	known     int    // additions that the type knows; -1 before Additions
}

// Sequence begins a SEQUENCE. For each OPTIONAL or DEFAULT component the argument says whether it is present; it does not matter when reading.
func (c *Coder) Sequence(present ...bool) Sequence { return c.sequence(nil, present) }

// Extensible begins a SEQUENCE with an extension marker, which keeps in a what is not known. Sequence.Additions must follow where the additions stand.
func (c *Coder) Extensible(a *Additions, present ...bool) Sequence { return c.sequence(a, present) }

func (c *Coder) sequence(a *Additions, present []bool) Sequence {
	c.begin(Structure)
	s := Sequence{c: c, unknown: a, known: -1}
	n := len(present)
	if a != nil {
		n++
	}
	if n == 0 {
		return s
	}
	size := (n + 7) / 8
	if c.mode == reading {
		s.read(n, size)
		return s
	}
	for i, p := range present {
		if p {
			s.optional |= 1 << (63 - i)
		}
	}
	if c.mode == writing {
		s.preamble = len(c.out)
		x := s.optional
		if a != nil {
			x >>= 1
		}
		c.fixed(x>>(64-8*size), size)
	}
	return s
}

// read reads the preamble of n bits.
func (s *Sequence) read(n, size int) {
	s.c.start = s.c.pos
	x := unsigned(s.c.take(size)) << (64 - 8*size)
	s.c.Refuse(x<<n != 0, "bits of the preamble that stand for nothing are not zero")
	if s.unknown != nil {
		s.extended = x>>63 == 1
		x <<= 1
	}
	s.optional = x
}

// Optional says whether the next OPTIONAL or DEFAULT component is present, and so to be coded.
func (s *Sequence) Optional() bool {
	is := s.optional>>63 == 1 && s.c.err == nil
	s.optional <<= 1
	return is
}

// Additions are the extension additions of a SEQUENCE that its type does not know, kept to be written again, and how many the writer knew. The zero
// value has none.
type Additions struct {
	Bits    int // number of presence bits that were read; 0: as many as the type knows
	Unknown []Addition
}

// Addition is the octets of an unknown extension addition.
type Addition struct {
	Index  int // counted from 0
	Octets []byte
}

// Additions begins the extension additions. The arguments say which of those that the type knows are present.
func (s *Sequence) Additions(present ...bool) {
	a := s.unknown
	s.known = len(present)
	if s.c.mode == reading {
		s.readBitmap(a)
		return
	}
	for i, p := range present {
		if p {
			s.additions |= 1 << (63 - i)
		}
	}
	for _, u := range a.Unknown {
		if u.Index < s.known || u.Index > 63 || s.additions>>(63-u.Index)&1 == 1 {
			s.c.fail(Malformed, "an unknown addition has a place that is not free, or beyond 63")
			return
		}
		s.additions |= 1 << (63 - u.Index)
	}
	if s.c.mode == writing && s.additions != 0 {
		s.writeBitmap(a.Bits)
	}
}

// writeBitmap writes as many presence bits as were read, or as are needed.
func (s *Sequence) writeBitmap(n int) {
	if last := 64 - bits.TrailingZeros64(s.additions); n < last || n > 64 {
		n = max(last, s.known)
	}
	s.c.out[s.preamble] |= 0x80
	size := (n + 7) / 8
	s.c.out = append(appendLength(s.c.out, size+1), byte(8*size-n))
	s.c.fixed(s.additions>>(64-8*size), size)
}

func (s *Sequence) readBitmap(a *Additions) {
	*a = Additions{}
	if !s.extended {
		return
	}
	var b BitString
	b.Code(s.c.At(""))
	switch {
	case s.c.err != nil:
		return
	case len(b.Octets) > 8:
		s.c.fail(Excessive, "more than 64 extension additions do not occur here")
		return
	}
	s.additions = unsigned(b.Octets) << (64 - 8*len(b.Octets))
	s.c.Refuse(s.additions == 0, "the preamble says that there are extension additions, and there are none")
	a.Bits = b.Len()
}

// Addition says whether the next extension addition is present, and so to be coded.
func (s *Sequence) Addition() bool {
	s.closeAddition()
	return s.advance()
}

func (s *Sequence) advance() bool {
	i := s.next
	s.next++
	if s.additions>>(63-i)&1 == 0 || s.c.err != nil {
		return false
	}
	s.c.openType()
	return true
}

func (s *Sequence) closeAddition() {
	if s.next > 0 && s.c.top().open {
		s.c.closeType()
	}
}

// End closes the SEQUENCE. What there is of additions that the type does not know is kept, or written again.
func (s *Sequence) End() {
	s.closeAddition()
	if s.unknown != nil && s.known < 0 {
		panic("coer: an extensible SEQUENCE was closed without Additions")
	}
	for s.unknown != nil && s.next < 64 && s.additions<<s.next != 0 && s.c.err == nil {
		i := s.next
		s.c.At("addition" + strconv.Itoa(i))
		if s.advance() {
			s.keep(i)
			s.c.closeType()
		}
	}
	s.c.finish()
}

// keep codes the octets of unknown addition i.
func (s *Sequence) keep(i int) {
	if s.c.mode == reading {
		s.unknown.Unknown = append(s.unknown.Unknown, Addition{i, s.c.take(s.c.end - s.c.pos)})
		return
	}
	for _, u := range s.unknown.Unknown {
		if u.Index == i {
			Octets(s.c, u.Octets)
		}
	}
}

// openType begins an open type in the innermost frame, and closeType ends it.
func (c *Coder) openType() {
	f := c.top()
	switch f.open = true; c.mode {
	case writing:
		f.mark = len(c.out)
	case reading:
		c.start = c.pos
		n := c.length()
		if n > c.end-c.pos {
			c.take(n)
			return
		}
		f.mark, c.end, c.start = c.end, c.pos+n, c.pos
	}
}

func (c *Coder) closeType() {
	f := c.top()
	f.open = false
	switch {
	case c.err != nil:
	case c.mode == writing:
		c.insertLength(f.mark)
	case c.mode == reading:
		if c.pos < c.end {
			c.start = c.pos
			c.fail(Malformed, strconv.Itoa(c.end-c.pos)+" octets are left over within its length")
			return
		}
		c.end = f.mark
	}
}

// All codes a SEQUENCE OF, whose elements it goes over, so that each can be coded:
//
//	for p := range coer.All(c.At("appPermissions"), &t.AppPermissions) {
//		p.Code(c)
//	}
//
// An empty list is read as one that is not nil, so that nil can stand for an absent one. Room that the slice has is used.
func All[T any](c *Coder, s *[]T) iter.Seq[*T] {
	return func(yield func(*T) bool) {
		n := c.count(len(*s))
		c.begin(List)
		if c.mode == reading {
			if *s = (*s)[:0]; cap(*s) == 0 {
				*s = make([]T, 0, firstRoom[T](n))
			}
		}
		for i := range n {
			if c.mode == reading {
				var zero T
				*s = append(*s, zero)
			}
			c.top().index = int32(i)
			c.At("")
			if !yield(&(*s)[i]) || c.err != nil {
				break
			}
		}
		c.top().index = -1
		c.finish()
	}
}

// firstRoom is how many of n elements get room at once: what is announced need not come.
func firstRoom[T any](n int) int {
	var zero T
	return min(n, max(1, 1024/max(1, int(unsafe.Sizeof(zero)))))
}

// count codes the number of elements, each of which has at least one octet.
func (c *Coder) count(n int) int {
	if c.mode == showing {
		return n
	}
	x := uint64(n)
	Unsigned(c, &x)
	c.elements += int(min(x, MaxElements+1))
	switch {
	case c.mode == reading && x > uint64(c.end-c.pos):
		c.fail(Malformed, "it has "+strconv.FormatUint(x, 10)+" elements and "+strconv.Itoa(c.end-c.pos)+" octets are left")
	case c.elements > MaxElements:
		c.fail(Excessive, "there are more than "+strconv.Itoa(MaxElements)+" elements")
	}
	if c.err != nil {
		return 0
	}
	return int(x)
}

// Choices are the alternatives of a CHOICE.
type Choices struct {
	Names      []string // by index from 0 on, those after the extension marker last
	Root       int      // how many stand before the extension marker
	Extensible bool     // others are read too, as octets
}

// root is how many alternatives are written as they are, and not as open types.
func (of *Choices) root() int {
	if of.Root == 0 {
		return len(of.Names)
	}
	return of.Root
}

// Choice begins a CHOICE and returns its alternative, whose value is to be coded next: without At, since it has the name of the alternative. An index
// beyond those that have names is an alternative that is not known; its octets are coded by Other. EndChoice must follow.
func Choice[T ~uint8](c *Coder, v *T, of *Choices) T {
	c.begin(Alternative)
	i := int(*v)
	if c.mode == reading {
		i = c.tag(of)
		*v = T(i)
	}
	switch {
	case c.err != nil:
		return *v
	case i > 62 || i >= len(of.Names) && !of.Extensible:
		c.fail(Unknown, "alternative "+strconv.Itoa(i)+" is not known")
		return 0
	case c.mode == writing:
		c.out = append(c.out, 0x80|byte(i))
	}
	c.start = c.Offset()
	if i < len(of.Names) {
		c.name = of.Names[i]
	} else {
		c.name = "alternative" + strconv.Itoa(i)
	}
	if i >= of.root() {
		c.openType()
	}
	return *v
}

// tag reads the tag of a CHOICE.
func (c *Coder) tag(of *Choices) int {
	c.start = c.pos
	b := c.take(1)
	if len(b) == 0 {
		return 0
	}
	i := int(b[0] & 0x3f)
	switch {
	case b[0]>>6 != 2:
		c.fail(Malformed, "the tag "+hexOctet(b[0])+" is not one of an alternative")
	case i == 63:
		c.fail(Excessive, "tags above 62 do not occur here")
	default:
		return i
	}
	return 0
}

func hexOctet(b byte) string {
	const digits = "0123456789abcdef"
	return string([]byte{digits[b>>4], digits[b&15]})
}

// Other codes the octets of an alternative that is not known.
func (c *Coder) Other(octets *[]byte) {
	if c.mode == reading {
		*octets = c.take(c.end - c.pos)
		return
	}
	Octets(c, *octets)
}

// EndChoice closes a CHOICE.
func (c *Coder) EndChoice() {
	if c.top().open {
		c.closeType()
	}
	c.finish()
}

// Contained codes a value within a length: an open type, or an OCTET STRING of which the type says what it contains.
func Contained(c *Coder, v Value) {
	if c.mode == showing {
		v.Code(c)
		return
	}
	c.begin(Structure)
	c.openType()
	v.Code(c)
	c.closeType()
	c.finish()
}
