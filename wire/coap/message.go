// Package coap reads and writes CoAP messages (RFC 7252) and what bodies larger than a datagram need (RFC 7959, RFC 9175), the list of links by
// which a client finds resources (RFC 6690), and multipart bodies (RFC 8710).
//
//	 0                   1                   2                   3
//	+---+---+-------+---------------+-------------------------------+
//	|Ver| T |  TKL  |     Code      |          Message ID           |   Ver = 1; T: 0 CON, 1 NON, 2 ACK, 3 RST; TKL: 0 to 8
//	+---+---+-------+---------------+-------------------------------+
//	|   Token (TKL octets) ...                                          to match an answer with its request
//	|   Options ...          each (delta of the number, length) in two nibbles, 13 and 14 stand for one and two octets more
//	|1 1 1 1 1 1 1 1|    Payload (one octet at least) ...
//
// An option with an odd number is critical: whoever does not know it must not go on. A message of code 0.00 is empty: four octets.
//
// A body in blocks is put together by Assembly and cut by Cut; which blocks belong together, OperationKey says. The token does not: libraries
// give each block a token of its own.
//
// The package deliberately knows no time, no retransmission and no transport: whoever uses it keeps those.
package coap

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
)

// Type is how a message is carried.
type Type uint8

// The types.
const (
	Confirmable     Type = 0
	NonConfirmable  Type = 1
	Acknowledgement Type = 2
	Reset           Type = 3
)

// Code is a method or the result of one: three bits of class, five of detail.
type Code uint8

// Methods and results.
const (
	Empty  Code = 0
	GET    Code = 1
	POST   Code = 2
	PUT    Code = 3
	DELETE Code = 4
	FETCH  Code = 5
	PATCH  Code = 6
	IPATCH Code = 7

	Created  Code = 2<<5 | 1
	Deleted  Code = 2<<5 | 2
	Valid    Code = 2<<5 | 3
	Changed  Code = 2<<5 | 4
	Content  Code = 2<<5 | 5
	Continue Code = 2<<5 | 31 // RFC 7959, section 2.9.1

	BadRequest        Code = 4 << 5
	Unauthorized      Code = 4<<5 | 1
	BadOption         Code = 4<<5 | 2
	Forbidden         Code = 4<<5 | 3
	NotFound          Code = 4<<5 | 4
	MethodNotAllowed  Code = 4<<5 | 5
	NotAcceptable     Code = 4<<5 | 6
	EntityIncomplete  Code = 4<<5 | 8 // RFC 7959, section 2.9.2
	Conflict          Code = 4<<5 | 9 // RFC 8132
	EntityTooLarge    Code = 4<<5 | 13
	UnsupportedFormat Code = 4<<5 | 15
	TooManyRequests   Code = 4<<5 | 29 // RFC 8516

	InternalServerError Code = 5 << 5
	NotImplemented      Code = 5<<5 | 1
	ServiceUnavailable  Code = 5<<5 | 3
	ProxyingUnsupported Code = 5<<5 | 5
)

// String writes the code as the standards do: "2.05".
func (c Code) String() string { return fmt.Sprintf("%d.%02d", c>>5, c&31) }

// Class returns the part before the point: 0 for methods, 2 for success, 4 and 5 for errors.
func (c Code) Class() int { return int(c >> 5) }

// Request reports whether c is a method.
func (c Code) Request() bool { return c != Empty && c.Class() == 0 }

// Message is one CoAP message.
type Message struct {
	Type    Type
	Code    Code
	ID      uint16
	Token   []byte  // at most 8 octets
	Options Options // in ascending order of their numbers after Parse
	Payload []byte
}

// MaxToken is the most octets of a token.
const MaxToken = 8

const (
	version       = 1
	payloadMarker = 0xff
)

// ErrNoMessage says that the octets are no CoAP message at all, and are to be ignored (RFC 7252, section 3).
var ErrNoMessage = errors.New("not a CoAP message of version 1")

// Parse reads a datagram. The message refers to it. When the header could be read and something after it not, the message is returned with the error, so
// that it can be rejected by its ID.
func Parse(b []byte) (*Message, error) {
	if len(b) < 4 || b[0]>>6 != version {
		return nil, ErrNoMessage
	}
	m := &Message{Type: Type(b[0] >> 4 & 3), Code: Code(b[1]), ID: binary.BigEndian.Uint16(b[2:])}
	token := int(b[0] & 15)
	rest := b[4:]
	switch {
	case m.Code == Empty && (token != 0 || len(rest) != 0):
		return m, errors.New("an empty message has more than its header")
	case token > MaxToken:
		return m, fmt.Errorf("the token has %d octets, more than %d", token, MaxToken)
	case token > len(rest):
		return m, errors.New("the message ends within its token")
	case m.Code.Class() == 1 || m.Code.Class() >= 6: // RFC 7252, section 4.2: reserved
		return m, fmt.Errorf("the class of the code %s is reserved", m.Code)
	}
	m.Token, rest = rest[:token:token], rest[token:]
	return m, m.parseOptions(rest)
}

func (m *Message) parseOptions(rest []byte) error {
	number := 0
	for len(rest) > 0 {
		if rest[0] == payloadMarker {
			if len(rest) == 1 {
				return errors.New("the payload is announced and missing")
			}
			m.Payload = rest[1:]
			return nil
		}
		head := rest[0]
		delta, after, err := extended(head>>4, rest[1:])
		if err != nil {
			return err
		}
		length, after, err := extended(head&15, after)
		if err != nil {
			return err
		}
		if number += delta; number > maxNumber {
			return errors.New("an option has a number above 65535")
		}
		if length > len(after) {
			return errors.New("the message ends within an option")
		}
		m.Options = append(m.Options, Option{Number(number), after[:length:length]})
		rest = after[length:]
	}
	return nil
}

const maxNumber = 1<<16 - 1

// extended reads what a nibble stands for.
func extended(nibble byte, rest []byte) (value int, after []byte, err error) {
	switch {
	case nibble < 13:
		return int(nibble), rest, nil
	case nibble == 13 && len(rest) >= 1:
		return int(rest[0]) + 13, rest[1:], nil
	case nibble == 14 && len(rest) >= 2:
		return int(binary.BigEndian.Uint16(rest)) + 269, rest[2:], nil
	case nibble == 15:
		return 0, nil, errors.New("an option begins with a reserved value")
	}
	return 0, nil, errors.New("the message ends within an option's header")
}

// Append appends the message to b. Options are brought into order; those of the same number keep theirs. The token must have at most 8 octets.
func (m *Message) Append(b []byte) []byte {
	b = append(b, version<<6|byte(m.Type&3)<<4|byte(len(m.Token)), byte(m.Code))
	b = binary.BigEndian.AppendUint16(b, m.ID)
	if m.Code == Empty {
		b[len(b)-4] &= 0xf0
		return b
	}
	b = append(b, m.Token...)
	options := m.Options
	if !slices.IsSortedFunc(options, byNumber) {
		options = slices.Clone(options)
		slices.SortStableFunc(options, byNumber)
	}
	last := Number(0)
	for _, o := range options {
		b = o.append(b, last)
		last = o.Number
	}
	if len(m.Payload) > 0 {
		b = append(append(b, payloadMarker), m.Payload...)
	}
	return b
}

func byNumber(a, b Option) int { return int(a.Number) - int(b.Number) }

func (o Option) append(b []byte, last Number) []byte {
	delta, deltaMore := nibble(int(o.Number - last))
	length, lengthMore := nibble(len(o.Value))
	b = append(b, delta<<4|length)
	return append(append(append(b, deltaMore...), lengthMore...), o.Value...)
}

// nibble is the opposite of extended.
func nibble(v int) (byte, []byte) {
	switch {
	case v < 13:
		return byte(v), nil
	case v < 269:
		return 13, []byte{byte(v - 13)}
	}
	return 14, binary.BigEndian.AppendUint16(nil, uint16(v-269))
}
