package coer

import (
	"encoding/hex"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Octets codes an OCTET STRING of the size that v has, into v: for arrays.
func Octets(c *Coder, v []byte) {
	switch c.mode {
	case writing:
		c.out = append(c.out, v...)
	case showing:
		c.show.leaf(c.name, hex.EncodeToString(v), true)
	default:
		copy(v, c.take(len(v)))
	}
}

// FixedString codes an OCTET STRING of that size, without copying.
func FixedString(c *Coder, v *[]byte, size int) {
	if c.mode == reading {
		*v = c.take(size)
		return
	}
	if len(*v) != size && c.mode == writing {
		c.fail(Malformed, "it has "+strconv.Itoa(len(*v))+" octets instead of "+strconv.Itoa(size))
	}
	Octets(c, *v)
}

// OctetString codes an OCTET STRING of variable size, without copying.
func OctetString(c *Coder, v *[]byte) {
	switch c.mode {
	case writing:
		c.out = append(appendLength(c.out, len(*v)), *v...)
	case showing:
		c.show.leaf(c.name, hex.EncodeToString(*v), true)
	default:
		*v = c.take(c.length())
	}
}

// SizedString codes an OCTET STRING of at least low and at most high octets, without copying.
func SizedString(c *Coder, v *[]byte, low, high int) {
	OctetString(c, v)
	if c.mode != showing && (len(*v) < low || len(*v) > high) {
		c.fail(Malformed, "it has "+strconv.Itoa(len(*v))+" octets, which is not between "+strconv.Itoa(low)+" and "+strconv.Itoa(high))
	}
}

// UTF8String codes a UTF8String of at most max characters.
func UTF8String(c *Coder, v *string, max int) {
	c.text(v)
	c.Refuse(!utf8.ValidString(*v), "it is not UTF-8")
	if c.mode != showing && utf8.RuneCountInString(*v) > max {
		c.fail(Malformed, "it has more than "+strconv.Itoa(max)+" characters")
	}
}

// IA5String codes an IA5String of variable size.
func IA5String(c *Coder, v *string) {
	c.text(v)
	c.Refuse(strings.IndexFunc(*v, func(r rune) bool { return r >= 0x80 }) >= 0, "it has characters that are not ASCII")
}

func (c *Coder) text(v *string) {
	switch c.mode {
	case writing:
		c.out = append(appendLength(c.out, len(*v)), *v...)
	case showing:
		c.show.leaf(c.name, *v, true)
	default:
		*v = string(c.take(c.length()))
	}
}

// BitString is a BIT STRING of variable size: its first bit is the highest of the first octet, bits beyond its size are zero.
type BitString struct {
	Octets []byte
	Unused uint8 // bits of the last octet that do not belong to it
}

// Len is the number of bits.
func (b BitString) Len() int { return 8*len(b.Octets) - int(b.Unused) }

// Code implements Value.
func (b *BitString) Code(c *Coder) {
	switch c.mode {
	case showing:
		c.show.leaf(c.name, b.digits(), true)
		return
	case writing:
		c.out = append(append(appendLength(c.out, len(b.Octets)+1), b.Unused), b.Octets...)
	default:
		all := c.take(c.length())
		if len(all) == 0 {
			c.fail(Malformed, "a BIT STRING has an octet for the number of its unused bits")
			return
		}
		b.Unused, b.Octets = all[0], all[1:]
	}
	c.Refuse(b.Unused > 7 || len(b.Octets) == 0 && b.Unused > 0, "so many bits cannot be unused")
	c.Refuse(b.Unused < 8 && len(b.Octets) > 0 && b.Octets[len(b.Octets)-1]&(1<<b.Unused-1) != 0, "unused bits are not zero")
}

func (b *BitString) digits() string {
	var s strings.Builder
	for i := range max(b.Len(), 0) {
		s.WriteByte('0' + b.Octets[i/8]>>(7-i%8)&1)
	}
	return s.String()
}

// Flags are the names of the bits of a BIT STRING (SIZE (8)), from the highest on.
type Flags []string

// Bits codes a BIT STRING (SIZE (8)), whose first bit is the highest.
func Bits[T ~uint8](c *Coder, v *T, names Flags) {
	if c.mode != showing {
		Uint8(c, v)
		return
	}
	c.show.begin(c.name, List)
	for i := range 8 {
		if *v>>(7-i)&1 == 1 {
			name := strconv.Itoa(i)
			if i < len(names) {
				name = names[i]
			}
			c.show.leaf("", name, true)
		}
	}
	c.show.end()
}

// insertLength puts the length of out[mark:] before it.
func (c *Coder) insertLength(mark int) {
	var room [5]byte
	c.out = slices.Insert(c.out, mark, appendLength(room[:0], len(c.out)-mark)...)
}
