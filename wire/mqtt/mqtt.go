// Package mqtt reads and writes the packets of MQTT 3.1.1 and MQTT 5.0 (OASIS), for both ends of a connection, and knows the rules of topic names and
// filters. Octets in, values out: it holds no connection, no session and no clock.
//
// A packet is a fixed header and a body. Numbers are big-endian. A string is two octets of length and so many octets of UTF-8 without U+0000; binary data
// has the same form. A varint has seven bits an octet, the lowest first, the top bit says that another octet follows; four octets at most.
//
//	+------+-------+------------------+----------------------------------+
//	| type | flags | Remaining Length |  body (Remaining Length octets)  |    type and flags: 4 bits each; Remaining Length: varint
//	+------+-------+------------------+----------------------------------+
//
//	type           from    flags      body; {} only in 5.0, [] may be absent, P are properties
//	 1 CONNECT     client  0          "MQTT" level(1) flags(1) keepalive(2) {P} clientid [{P} topic payload] [user name] [password]
//	 2 CONNACK     server  0          session present(1) reason(1) {P}
//	 3 PUBLISH     both    D QQ R     topic [id(2) if QQ > 0] {P} payload: the rest
//	 4 PUBACK      both    0          id(2) {[reason(1) [P]]}
//	 5 PUBREC      both    0          id(2) {[reason(1) [P]]}
//	 6 PUBREL      both    2          id(2) {[reason(1) [P]]}
//	 7 PUBCOMP     both    0          id(2) {[reason(1) [P]]}
//	 8 SUBSCRIBE   client  2          id(2) {P} (filter options(1))...
//	 9 SUBACK      server  0          id(2) {P} reason(1)...
//	10 UNSUBSCRIBE client  2          id(2) {P} filter...
//	11 UNSUBACK    server  0          id(2) {P reason(1)...}
//	12 PINGREQ     client  0
//	13 PINGRESP    server  0
//	14 DISCONNECT  client  0          {[reason(1) [P]]}                      from servers too in 5.0
//	15 AUTH        both    0          {[reason(1) P]}                        in 5.0 only
//
// P is a varint of its length and then properties, each an identifier and a value whose form follows from the identifier. Each packet has its own set of
// them; here they are fields of the packet's type, so that what does not belong there cannot be written. A property that is there twice is a protocol
// error, except User Property; one that does not belong to the packet makes it malformed.
//
// Reading a connection goes so:
//
//	h, n, err := mqtt.ParseHeader(buffer)   // ErrMore: read on
//	err = h.Check(rules)                    // before anything is kept ready for the body: type, flags, size
//	body := buffer[n : n+h.Length]
//	switch h.Type { case mqtt.PUBLISH: p, err := mqtt.DecodePublish(rules, h, body) ...
//
// What a decoder returns as []byte refers to the body, what it returns as string is a copy. An *Error has the reason code that 5.0 has for it; after one,
// the connection is to be closed. Writing goes by the Append methods, which write the form of the version they are given and leave out what it has no
// room for; they panic if a string has more than 65,535 octets or a packet more than 268,435,455, since nothing that can be read would come of it.
//
// Stricter than the standard: control characters and non-characters are refused in topic names, filters, client ids and user names, which the standard
// lets a receiver do; and everything has an upper limit, see Limits.
//
// The package deliberately knows nothing of what a packet means for a session: packet ids in use, topic aliases, quotas, order and permissions are kept
// by who uses it. The rest of section 4 of the standard is there, that of 3.1 (MQIsdp, level 3) is not: such clients are told so.
package mqtt

import (
	"errors"
	"fmt"
)

// Version is the protocol level in CONNECT.
type Version uint8

// The versions. 0 stands for a connection on which no CONNECT was read yet.
const (
	V311 Version = 4
	V5   Version = 5
)

// String names the version.
func (v Version) String() string {
	switch v {
	case V311:
		return "MQTT 3.1.1"
	case V5:
		return "MQTT 5.0"
	}
	return fmt.Sprintf("MQTT level %d", uint8(v))
}

// Type is the kind of a packet.
type Type uint8

// The kinds.
const (
	CONNECT Type = iota + 1
	CONNACK
	PUBLISH
	PUBACK
	PUBREC
	PUBREL
	PUBCOMP
	SUBSCRIBE
	SUBACK
	UNSUBSCRIBE
	UNSUBACK
	PINGREQ
	PINGRESP
	DISCONNECT
	AUTH
)

var typeNames = [16]string{"type 0", "CONNECT", "CONNACK", "PUBLISH", "PUBACK", "PUBREC", "PUBREL", "PUBCOMP", "SUBSCRIBE", "SUBACK", "UNSUBSCRIBE",
	"UNSUBACK", "PINGREQ", "PINGRESP", "DISCONNECT", "AUTH"}

// String names the type as the standard does.
func (t Type) String() string {
	if int(t) < len(typeNames) {
		return typeNames[t]
	}
	return fmt.Sprintf("type %d", uint8(t))
}

// QoS is how surely a message is delivered.
type QoS uint8

// The qualities of service.
const (
	AtMostOnce  QoS = 0
	AtLeastOnce QoS = 1
	ExactlyOnce QoS = 2
)

// Side is an end of a connection.
type Side uint8

// The ends.
const (
	Client Side = iota
	Server
)

// String names the end.
func (s Side) String() string {
	if s == Server {
		return "server"
	}
	return "client"
}

// Rules are what the reader of a connection knows before a packet comes.
type Rules struct {
	Version Version // 0 before CONNECT: nothing else may come then
	From    Side    // who sends what is read
	Limits  *Limits // nil: the defaults
}

// Limits bound what is read. 0 is the default.
type Limits struct {
	Connect        int // octets of CONNECT with its header: 8 KiB
	Packet         int // octets of any other packet with its header: 128 KiB
	Topic          int // octets of a topic name or filter: 512
	Levels         int // levels of a topic name or filter: 32
	ClientID       int // octets: 128
	UserName       int // octets: 256
	Password       int // octets: 4 KiB
	UserProperties int // in a packet: 32; a will has its own
	UserOctets     int // of the names and values of those: 4 KiB
	Filters        int // that are kept of a SUBSCRIBE or UNSUBSCRIBE: 64

	resolved bool // nothing is 0: each packet asks
}

// The defaults.
const (
	defaultConnect        = 8 << 10
	defaultPacket         = 128 << 10
	defaultTopic          = 512
	defaultLevels         = 32
	defaultClientID       = 128
	defaultUserName       = 256
	defaultPassword       = 4 << 10
	defaultUserProperties = 32
	defaultUserOctets     = 4 << 10
	defaultFilters        = 64
)

// Resolved returns the limits with the defaults in place of what is 0; l may be nil.
func (l *Limits) Resolved() Limits {
	var r Limits
	if l != nil {
		if r = *l; r.resolved {
			return r
		}
	}
	return Limits{
		resolved: true,

		Connect: or(r.Connect, defaultConnect), Packet: or(r.Packet, defaultPacket), Topic: or(r.Topic, defaultTopic),
		Levels: or(r.Levels, defaultLevels), ClientID: or(r.ClientID, defaultClientID), UserName: or(r.UserName, defaultUserName),
		Password: or(r.Password, defaultPassword), UserProperties: or(r.UserProperties, defaultUserProperties),
		UserOctets: or(r.UserOctets, defaultUserOctets), Filters: or(r.Filters, defaultFilters),
	}
}

// packet is the limit of a packet other than CONNECT, without a copy of all limits: each packet asks.
func (l *Limits) packet() int {
	if l == nil {
		return defaultPacket
	}
	return or(l.Packet, defaultPacket)
}

// name are the limits of a topic: likewise.
func (l *Limits) name() (octets, levels int) {
	if l == nil {
		return defaultTopic, defaultLevels
	}
	return or(l.Topic, defaultTopic), or(l.Levels, defaultLevels)
}

func or(limit, instead int) int {
	if limit == 0 {
		return instead
	}
	return limit
}

// Maybe is a property that need not be there, where being absent means something else than zero.
type Maybe[T any] struct {
	Value   T
	Present bool
}

// Some is a property that is there.
func Some[T any](value T) Maybe[T] { return Maybe[T]{value, true} }

// Or returns the value, or what stands for it when the property is absent.
func (m Maybe[T]) Or(absent T) T {
	if m.Present {
		return m.Value
	}
	return absent
}

// Header is a packet's fixed header.
type Header struct {
	Type   Type
	Flags  uint8
	Length int // octets of the body
	// Overlong says that Remaining Length was not written in its shortest form, which 5.0 forbids (section 1.5.5) and 3.1.1 does not.
	Overlong bool
}

// MaxLength is the most octets of a body (section 2.1.4).
const MaxLength = 1<<28 - 1

// ErrMore says that the octets so far are the beginning of something that may be right.
var ErrMore = errors.New("the packet has not arrived as a whole")

// ParseHeader reads the fixed header at the beginning of b and returns the number of its octets, five at most. The error is ErrMore while octets are
// missing, and an *Error when no octets could mend it. A header that was read is still to be judged by Check.
func ParseHeader(b []byte) (h Header, n int, err error) {
	if len(b) == 0 {
		return Header{}, 0, ErrMore
	}
	h = Header{Type: Type(b[0] >> 4), Flags: b[0] & 15}
	if h.Type == 0 {
		return Header{}, 0, &Error{Malformed, 0, "the packet type 0 is reserved"}
	}
	length, n, overlong := varint(b[1:])
	switch {
	case n == 0:
		return Header{}, 0, ErrMore
	case n < 0:
		return Header{}, 0, &Error{Malformed, h.Type, "Remaining Length has more than four octets"}
	}
	h.Length, h.Overlong = int(length), overlong
	return h, n + 1, nil
}

// varint reads a number of variable length. n is 0 when it is not complete, and negative when it has more than four octets.
func varint(b []byte) (value uint32, n int, overlong bool) {
	for i := range min(len(b), 4) {
		value |= uint32(b[i]&0x7f) << (7 * i)
		if b[i] < 0x80 {
			return value, i + 1, i > 0 && b[i] == 0
		}
	}
	if len(b) >= 4 {
		return 0, -1, false
	}
	return 0, 0, false
}

// Size returns the octets of the whole packet if its header has n.
func (h Header) Size(n int) int { return n + h.Length }

// Check says whether the packet may come, from its header alone: that its sender may send its type in this version, that its flags are right, and that its
// size is within the limits. Decoders check it again.
func (h Header) Check(r Rules) error {
	if err := h.check(r); err != nil { // no *Error that is nil may become an error
		return err
	}
	return nil
}

func (h Header) check(r Rules) *Error {
	switch {
	case h.Overlong && r.Version == V5:
		return &Error{Malformed, h.Type, "Remaining Length is not in its shortest form"}
	case h.Type != PUBLISH && h.Flags != h.Type.flags():
		return &Error{Malformed, h.Type, fmt.Sprintf("the flags are %04b instead of %04b", h.Flags, h.Type.flags())}
	case h.Type == PUBLISH && h.Flags>>1&3 == 3:
		return &Error{Malformed, h.Type, "the QoS is 3"}
	case h.Type == PUBLISH && h.Flags&14 == 8:
		return &Error{Malformed, h.Type, "a message with QoS 0 is marked as sent before (DUP)"}
	}
	if err := h.comes(r); err != nil {
		return err
	}
	limit, header := r.Limits.packet(), len(appendVarint(make([]byte, 0, 4), uint32(h.Length)))+1
	if h.Type == CONNECT {
		limit = r.Limits.Resolved().Connect
	}
	if h.Length > limit-header {
		return &Error{PacketTooLarge, h.Type, fmt.Sprintf("the packet has %d octets, more than %d", h.Length+header, limit)}
	}
	return nil
}

// comes checks that a packet of this type may come from that side in that version.
func (h Header) comes(r Rules) *Error {
	switch {
	case r.Version == 0 && h.Type != CONNECT:
		return &Error{ProtocolError, h.Type, "the first packet is not CONNECT"}
	case r.Version != 0 && h.Type == CONNECT:
		return &Error{ProtocolError, h.Type, "there was a CONNECT before"}
	}
	both := PUBLISH <= h.Type && h.Type <= PUBCOMP
	fromServer := h.Type == CONNACK || h.Type == SUBACK || h.Type == UNSUBACK || h.Type == PINGRESP
	switch {
	case h.Type < CONNECT || h.Type > AUTH:
		return &Error{Malformed, 0, "no such packet type"}
	case both, r.Version == V5 && h.Type >= DISCONNECT, fromServer == (r.From == Server) && h.Type != AUTH:
		return nil
	}
	return &Error{ProtocolError, h.Type, fmt.Sprintf("no %s sends this packet in %s", r.From, r.Version)}
}

// flags returns what the flags of every packet but PUBLISH must be (section 2.1.3).
func (t Type) flags() uint8 {
	if t == PUBREL || t == SUBSCRIBE || t == UNSUBSCRIBE {
		return 2
	}
	return 0
}

// Packet is any of the packets.
type Packet interface {
	// Append appends the packet to b, as the version writes it.
	Append(b []byte, v Version) []byte
}

// Decode reads the body of any packet, for who does not mind that a value is made for each. A Connect carries its version itself.
func Decode(r Rules, h Header, body []byte) (Packet, error) {
	switch h.Type {
	case CONNECT:
		return packet(DecodeConnect(r, h, body))
	case CONNACK:
		return packet(DecodeConnack(r, h, body))
	case PUBLISH:
		return packet(DecodePublish(r, h, body))
	case PUBACK, PUBREC, PUBREL, PUBCOMP:
		return packet(DecodeAck(r, h, body))
	case SUBSCRIBE:
		return packet(DecodeSubscribe(r, h, body))
	case SUBACK:
		return packet(DecodeSuback(r, h, body))
	case UNSUBSCRIBE:
		return packet(DecodeUnsubscribe(r, h, body))
	case UNSUBACK:
		return packet(DecodeUnsuback(r, h, body))
	case PINGREQ:
		return packet(DecodePingreq(r, h, body))
	case PINGRESP:
		return packet(DecodePingresp(r, h, body))
	case DISCONNECT:
		return packet(DecodeDisconnect(r, h, body))
	case AUTH:
		return packet(DecodeAuth(r, h, body))
	}
	return nil, &Error{Malformed, 0, "no such packet type"}
}

func packet[P Packet](p P, err error) (Packet, error) {
	if err != nil {
		return nil, err
	}
	return p, nil
}
