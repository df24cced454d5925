package coer

import (
	"math/bits"
	"strconv"
)

// Uint8 codes an INTEGER (0..255), or one with bounds that fit.
func Uint8[T ~uint8](c *Coder, v *T) {
	if x := c.fixed(uint64(*v), 1); c.mode == reading {
		*v = T(x)
	}
}

// Uint16 codes an INTEGER (0..65535), or one with bounds that fit.
func Uint16[T ~uint16](c *Coder, v *T) {
	if x := c.fixed(uint64(*v), 2); c.mode == reading {
		*v = T(x)
	}
}

// Uint32 codes an INTEGER (0..4294967295), or one with bounds that fit.
func Uint32[T ~uint32](c *Coder, v *T) {
	if x := c.fixed(uint64(*v), 4); c.mode == reading {
		*v = T(x)
	}
}

// Uint64 codes an INTEGER (0..18446744073709551615), or one with bounds that fit.
func Uint64[T ~uint64](c *Coder, v *T) {
	if x := c.fixed(uint64(*v), 8); c.mode == reading {
		*v = T(x)
	}
}

// Int32 codes an INTEGER with these bounds, the lower of which is negative, in four octets.
func Int32[T ~int32](c *Coder, v *T, low, high T) {
	if c.mode == showing {
		c.show.leaf(c.name, strconv.Itoa(int(*v)), false)
		return
	}
	x := T(int32(uint32(c.fixed(uint64(uint32(*v)), 4))))
	if c.mode == writing {
		x = *v
	}
	if x < low || x > high {
		c.fail(Malformed, "it is not between "+strconv.Itoa(int(low))+" and "+strconv.Itoa(int(high)))
	}
	if c.mode == reading {
		*v = x
	}
}

// Exactly codes an INTEGER (0..255) that has one value, such as the version of a structure.
func Exactly(c *Coder, value uint8) {
	x := value
	Uint8(c, &x)
	if x != value && c.err == nil {
		c.fail(Unknown, "it is "+strconv.Itoa(int(x))+" and not "+strconv.Itoa(int(value)))
	}
}

// fixed codes n octets; the result is of use when reading.
func (c *Coder) fixed(v uint64, n int) uint64 {
	switch c.mode {
	case writing:
		for i := n - 1; i >= 0; i-- {
			c.out = append(c.out, byte(v>>(8*i)))
		}
	case showing:
		c.show.leaf(c.name, strconv.FormatUint(v, 10), false)
	default:
		return unsigned(c.take(n))
	}
	return 0
}

func unsigned(b []byte) (v uint64) {
	for _, x := range b {
		v = v<<8 | uint64(x)
	}
	return v
}

// Unsigned codes an INTEGER (0..MAX). Values of more than 64 bits are refused.
func Unsigned[T ~uint64](c *Coder, v *T) {
	switch c.mode {
	case writing:
		n := max(1, (bits.Len64(uint64(*v))+7)/8)
		c.out = append(c.out, byte(n))
		c.fixed(uint64(*v), n)
	case showing:
		c.show.leaf(c.name, strconv.FormatUint(uint64(*v), 10), false)
	default:
		b := c.integer()
		if len(b) > 1 && b[0] == 0 {
			c.fail(Malformed, "the integer has more octets than it needs")
		}
		*v = T(unsigned(b))
	}
}

// Integer codes an INTEGER without bounds. Values of more than 64 bits are refused.
func Integer[T ~int64](c *Coder, v *T) {
	x := int64(*v)
	switch c.mode {
	case writing:
		n := bits.Len64(uint64(x^x>>63))/8 + 1 // one bit more than the magnitude needs, for the sign
		c.out = append(c.out, byte(n))
		c.fixed(uint64(x), n)
	case showing:
		c.show.leaf(c.name, strconv.FormatInt(x, 10), false)
	default:
		b := c.integer()
		if len(b) > 1 && (b[0] == 0 && b[1] < 0x80 || b[0] == 0xff && b[1] >= 0x80) {
			c.fail(Malformed, "the integer has more octets than it needs")
		}
		if len(b) > 0 {
			*v = T(int64(unsigned(b)<<(64-8*len(b))) >> (64 - 8*len(b)))
		}
	}
}

// integer reads the octets of an INTEGER of variable size.
func (c *Coder) integer() []byte {
	n := c.length()
	switch {
	case c.err != nil:
		return nil
	case n == 0:
		c.fail(Malformed, "the integer has no octets")
	case n > 8:
		c.fail(Excessive, "the integer has more than 64 bits")
	default:
		return c.take(n)
	}
	return nil
}

// length reads a length determinant. What it says may be more than is left: take finds that out.
func (c *Coder) length() int {
	b := c.take(1)
	if len(b) == 0 || b[0] < 0x80 {
		return int(unsigned(b))
	}
	n := int(b[0] & 0x7f)
	if n == 0 || n > 4 {
		c.fail(Excessive, "a length of "+strconv.Itoa(n)+" octets is not one that occurs here")
		return 0
	}
	b = c.take(n)
	v := unsigned(b)
	if c.err == nil && (b[0] == 0 || v < 0x80) {
		c.fail(Malformed, "the length has more octets than it needs")
	}
	return int(v)
}

// appendLength writes a length determinant.
func appendLength(b []byte, n int) []byte {
	if n < 0x80 {
		return append(b, byte(n))
	}
	size := (bits.Len(uint(n)) + 7) / 8
	b = append(b, 0x80|byte(size))
	for i := size - 1; i >= 0; i-- {
		b = append(b, byte(n>>(8*i)))
	}
	return b
}

// Bool codes a BOOLEAN.
func Bool(c *Coder, v *bool) {
	switch c.mode {
	case writing:
		x := byte(0)
		if *v {
			x = 0xff
		}
		c.out = append(c.out, x)
	case showing:
		c.show.leaf(c.name, strconv.FormatBool(*v), false)
	default:
		x := unsigned(c.take(1))
		c.Refuse(x != 0 && x != 0xff, "a BOOLEAN is 00 or FF")
		*v = x != 0
	}
}

// Null codes a NULL: nothing, but it can be shown.
func Null(c *Coder) {
	if c.mode == showing {
		c.show.leaf(c.name, "null", false)
	}
}

// Enumeration is an ENUMERATED type.
type Enumeration struct {
	Names      []string // by value, from 0 on
	Extensible bool     // values above are read too
}

// Name is the name of a value, or its number if it has none.
func (e *Enumeration) Name(v uint8) string {
	if int(v) < len(e.Names) {
		return e.Names[v]
	}
	return strconv.Itoa(int(v))
}

// Enum codes an ENUMERATED.
func Enum[T ~uint8](c *Coder, v *T, of *Enumeration) {
	if c.mode == showing {
		c.show.leaf(c.name, of.Name(uint8(*v)), true)
		return
	}
	x := uint8(c.fixed(uint64(*v), 1))
	if c.mode == reading {
		*v = T(x)
	} else {
		x = uint8(*v)
	}
	switch {
	case x >= 0x80:
		c.fail(Excessive, "values above 127 do not occur here")
	case int(x) >= len(of.Names) && !of.Extensible:
		c.fail(Unknown, "the value "+strconv.Itoa(int(x))+" is not known")
	}
}
