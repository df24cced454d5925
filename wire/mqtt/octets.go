package mqtt

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"unicode/utf8"
)

// cursor reads a body. After the first error it reads zeros, so that callers look at the error once, at the end.
type cursor struct {
	rest   []byte
	rules  Rules
	packet Type
	err    *Error
	p      properties
}

// begin checks that the header is one of a packet of this type that may come, and that the body is all of it.
func begin(r Rules, h Header, body []byte, want Type) cursor {
	c := cursor{rest: body, rules: r, packet: want}
	switch err := h.check(r); {
	case h.Type != want:
		c.fail(ProtocolError, "the packet is of another type")
	case err != nil:
		c.err, c.rest = err, nil
	case len(body) != h.Length:
		c.fail(Malformed, "the body has not the length that the header says")
	}
	return c
}

func (c *cursor) fail(r Reason, text string) {
	if c.err == nil {
		c.err, c.rest = &Error{r, c.packet, text}, nil
	}
}

// end returns the error, which is also that something is left.
func (c *cursor) end() error {
	if c.err == nil && len(c.rest) > 0 {
		c.fail(Malformed, "there are octets after its end")
	}
	if c.err != nil {
		return c.err
	}
	return nil
}

// take returns the next n octets, with no room behind them for who appends to them.
func (c *cursor) take(n int, what string) []byte {
	if c.err != nil {
		return nil
	}
	if n > len(c.rest) {
		c.fail(Malformed, "it ends within "+what)
		return nil
	}
	b := c.rest[:n:n]
	c.rest = c.rest[n:]
	return b
}

func (c *cursor) u8(what string) uint8 {
	if b := c.take(1, what); b != nil {
		return b[0]
	}
	return 0
}

func (c *cursor) u16(what string) uint16 {
	if b := c.take(2, what); b != nil {
		return binary.BigEndian.Uint16(b)
	}
	return 0
}

func (c *cursor) u32(what string) uint32 {
	if b := c.take(4, what); b != nil {
		return binary.BigEndian.Uint32(b)
	}
	return 0
}

// number reads a varint, which must have its shortest form (section 1.5.5).
func (c *cursor) number(what string) uint32 {
	if c.err != nil {
		return 0
	}
	value, n, overlong := varint(c.rest)
	switch {
	case n == 0:
		c.fail(Malformed, "it ends within "+what)
	case n < 0:
		c.fail(Malformed, what+" has more than four octets")
	case overlong:
		c.fail(Malformed, what+" is not in its shortest form")
	default:
		c.rest = c.rest[n:]
		return value
	}
	return 0
}

// binary reads binary data; it is not nil unless there was an error.
func (c *cursor) binary(what string) []byte { return c.take(int(c.u16(what)), what) }

// text reads a string (section 1.5.4).
func (c *cursor) text(what string) []byte {
	b := c.binary(what)
	c.noText(what, b)
	if c.err != nil {
		return nil
	}
	return b
}

// noText refuses what is no text.
func (c *cursor) noText(what string, b []byte) {
	if !utf8.Valid(b) || bytes.IndexByte(b, 0) >= 0 {
		c.fail(Malformed, what+" is not UTF-8, or holds U+0000")
	}
}

// id reads a packet identifier, which is never 0 (section 2.2.1).
func (c *cursor) id() uint16 {
	id := c.u16("the packet identifier")
	if id == 0 {
		c.fail(Malformed, "the packet identifier is 0")
	}
	return id
}

// reason reads a reason code that may stand in the packet.
func (c *cursor) reason() Reason {
	r := Reason(c.u8("the reason code"))
	if c.err == nil && !r.Legal(c.packet, c.rules.From) {
		c.fail(ProtocolError, fmt.Sprintf("the reason code 0x%02X does not belong there", uint8(r)))
	}
	return r
}

// topic reads a topic name, which is empty only if it may be.
func (c *cursor) topic(what string, mayBeEmpty bool) []byte {
	name := c.binary(what)
	if c.err != nil || len(name) == 0 && mayBeEmpty {
		return name
	}
	if fault := checkTopic(name, c.rules.Limits); fault != "" {
		c.noText(what, name)
		c.fail(TopicNameInvalid, what+" "+fault)
	}
	return name
}

// name reads a name of somebody: no control characters, and not longer than that.
func (c *cursor) name(what string, limit int, r Reason) string {
	name := c.text(what)
	if len(name) > limit {
		c.fail(r, fmt.Sprintf("%s has %d octets, more than %d", what, len(name), limit))
	}
	if seen, _ := look(name); seen&seenOdd != 0 {
		c.fail(r, what+" holds a control character or a non-character")
	}
	return string(name)
}

// maxText is the most octets of a string or of binary data.
const maxText = 1<<16 - 1

func appendVarint(b []byte, v uint32) []byte {
	for v >= 0x80 {
		b = append(b, byte(v)|0x80)
		v >>= 7
	}
	return append(b, byte(v))
}

func appendText[T string | []byte](b []byte, text T) []byte {
	if len(text) > maxText {
		panic(fmt.Sprintf("mqtt: a string of %d octets cannot be written", len(text)))
	}
	return append(binary.BigEndian.AppendUint16(b, uint16(len(text))), text...)
}

// appendHead begins a packet: its first octet, and one that closeLength makes Remaining Length of.
func appendHead(b []byte, t Type, flags uint8) []byte { return append(b, byte(t)<<4|flags, 0) }

// closeLength writes at b[at], where one octet was left for it, how many octets there are behind it, and that further ones will follow. What is there
// moves when the length needs more than one octet.
func closeLength(b []byte, at, further int) []byte {
	length := len(b) - at - 1 + further
	if length > MaxLength {
		panic(fmt.Sprintf("mqtt: a packet with a body of %d octets cannot be written", length))
	}
	var room [4]byte
	form := appendVarint(room[:0], uint32(length))
	if more := len(form) - 1; more > 0 {
		b = append(b, room[:more]...)
		copy(b[at+len(form):], b[at+1:len(b)-more])
	}
	copy(b[at:], form)
	return b
}
