package mqtt

import (
	"encoding/binary"
	"iter"
)

// property is the identifier of a property (section 2.2.2.2).
type property uint8

const (
	payloadFormat          property = 0x01
	messageExpiry          property = 0x02
	contentType            property = 0x03
	responseTopic          property = 0x08
	correlationData        property = 0x09
	subscriptionID         property = 0x0B
	sessionExpiry          property = 0x11
	assignedClientID       property = 0x12
	serverKeepAlive        property = 0x13
	authenticationMethod   property = 0x15
	authenticationData     property = 0x16
	requestProblemInfo     property = 0x17
	willDelay              property = 0x18
	requestResponseInfo    property = 0x19
	responseInfo           property = 0x1A
	serverReference        property = 0x1C
	reasonString           property = 0x1F
	receiveMaximum         property = 0x21
	topicAliasMaximum      property = 0x22
	topicAlias             property = 0x23
	maximumQoS             property = 0x24
	retainAvailable        property = 0x25
	userProperty           property = 0x26
	maximumPacketSize      property = 0x27
	wildcardAvailable      property = 0x28
	subscriptionIDsOffered property = 0x29
	sharedAvailable        property = 0x2A
)

// form is how the value of a property is written.
type form uint8

const (
	formOctet form = iota + 1
	formU16
	formU32
	formNumber
	formBinary
	formText
	formPair
)

// propertyTable has the form and the name of each property; the name is empty where there is none.
var propertyTable = [userProperties]struct {
	name string
	form form
}{
	payloadFormat:          {"Payload Format Indicator", formOctet},
	messageExpiry:          {"Message Expiry Interval", formU32},
	contentType:            {"Content Type", formText},
	responseTopic:          {"Response Topic", formText},
	correlationData:        {"Correlation Data", formBinary},
	subscriptionID:         {"Subscription Identifier", formNumber},
	sessionExpiry:          {"Session Expiry Interval", formU32},
	assignedClientID:       {"Assigned Client Identifier", formText},
	serverKeepAlive:        {"Server Keep Alive", formU16},
	authenticationMethod:   {"Authentication Method", formText},
	authenticationData:     {"Authentication Data", formBinary},
	requestProblemInfo:     {"Request Problem Information", formOctet},
	willDelay:              {"Will Delay Interval", formU32},
	requestResponseInfo:    {"Request Response Information", formOctet},
	responseInfo:           {"Response Information", formText},
	serverReference:        {"Server Reference", formText},
	reasonString:           {"Reason String", formText},
	receiveMaximum:         {"Receive Maximum", formU16},
	topicAliasMaximum:      {"Topic Alias Maximum", formU16},
	topicAlias:             {"Topic Alias", formU16},
	maximumQoS:             {"Maximum QoS", formOctet},
	retainAvailable:        {"Retain Available", formOctet},
	userProperty:           {"User Property", formPair},
	maximumPacketSize:      {"Maximum Packet Size", formU32},
	wildcardAvailable:      {"Wildcard Subscription Available", formOctet},
	subscriptionIDsOffered: {"Subscription Identifiers Available", formOctet},
	sharedAvailable:        {"Shared Subscription Available", formOctet},
}

const userProperties = 64 // entries of the table: as many as a set has room for

// String names the property as the standard does.
func (p property) String() string { return propertyTable[p].name }

// set is a set of properties.
type set uint64

// What each packet may have (section 2.2.2.2). Subscription Identifier is there besides in a PUBLISH of the server.
const (
	answerProperties      set = 1<<reasonString | 1<<userProperty
	messageProperties     set = 1<<payloadFormat | 1<<messageExpiry | 1<<contentType | 1<<responseTopic | 1<<correlationData | 1<<userProperty
	willProperties            = messageProperties | 1<<willDelay
	publishProperties         = messageProperties | 1<<topicAlias
	subscribeProperties   set = 1<<subscriptionID | 1<<userProperty
	unsubscribeProperties set = 1 << userProperty
	authProperties            = answerProperties | 1<<authenticationMethod | 1<<authenticationData
	connectProperties     set = 1<<sessionExpiry | 1<<authenticationMethod | 1<<authenticationData | 1<<requestProblemInfo | 1<<requestResponseInfo |
		1<<receiveMaximum | 1<<topicAliasMaximum | 1<<userProperty | 1<<maximumPacketSize
	connackProperties = answerProperties | 1<<sessionExpiry | 1<<assignedClientID | 1<<serverKeepAlive | 1<<authenticationMethod | 1<<authenticationData |
		1<<responseInfo | 1<<serverReference | 1<<receiveMaximum | 1<<topicAliasMaximum | 1<<maximumQoS | 1<<retainAvailable |
		1<<maximumPacketSize | 1<<wildcardAvailable | 1<<subscriptionIDsOffered | 1<<sharedAvailable
	disconnectOfClient = answerProperties | 1<<sessionExpiry
	disconnectOfServer = answerProperties | 1<<serverReference
)

// properties is where a cursor stands in a block of properties.
type properties struct {
	id            property // the one to be read
	allowed, seen set
	block, after  []byte // all of the block, and what follows it
	from, to      int    // where user properties begin and end in the block
	users, octets int    // their number, and the octets of their names and values
}

// properties begins a block of properties, of those that are allowed. Versions before 5.0 have no such block.
func (c *cursor) properties(allowed set) {
	c.p = properties{allowed: allowed}
	if c.rules.Version != V5 {
		c.p.after, c.rest = c.rest, nil
		return
	}
	c.p.block = c.take(int(c.number("the length of its properties")), "its properties")
	c.p.after, c.rest = c.rest, c.p.block
}

// property goes to the next property and reports whether there is one; user properties are passed over. At the end the cursor stands behind the block.
func (c *cursor) property() bool {
	for c.err == nil && len(c.rest) > 0 {
		start := len(c.p.block) - len(c.rest)
		if c.identify(); c.err != nil {
			return false
		}
		if c.p.id != userProperty {
			return true
		}
		c.user(start)
	}
	if c.err == nil {
		c.rest = c.p.after
	}
	return false
}

// identify reads an identifier. One that does not belong to the packet makes it malformed (section 2.2.2.2), one that was there before is a protocol error.
func (c *cursor) identify() {
	id := c.number("the identifier of a property")
	switch {
	case c.err != nil:
		return
	case id >= userProperties || c.p.allowed&(1<<id) == 0:
		c.fail(Malformed, "it has a property that does not belong there")
	case c.p.seen&(1<<id) != 0 && property(id) != userProperty && !c.repeats(property(id)):
		c.fail(ProtocolError, property(id).String()+" is there twice")
	}
	c.p.id = property(id)
	c.p.seen |= 1 << (id & 63)
}

// repeats reports whether a property may be there more than once.
func (c *cursor) repeats(p property) bool { return p == subscriptionID && c.packet == PUBLISH }

// user passes over a user property that begins there in the block.
func (c *cursor) user(start int) {
	name := c.text("the name of a User Property")
	value := c.text("the value of a User Property")
	if c.err != nil {
		return
	}
	if c.p.users == 0 {
		c.p.from = start
	}
	c.p.users++
	c.p.octets += len(name) + len(value)
	c.p.to = len(c.p.block) - len(c.rest)
	if c.p.users > c.rules.Limits.Resolved().UserProperties || c.p.octets > c.rules.Limits.Resolved().UserOctets {
		c.fail(PacketTooLarge, "it has too many User Properties, or too long ones")
	}
}

// userProperties returns the user properties of the block that was read.
func (c *cursor) userProperties() UserProperties {
	if c.p.users == 0 || c.err != nil {
		return nil
	}
	return UserProperties(c.p.block[c.p.from:c.p.to:c.p.to])
}

func (c *cursor) has(p property) bool { return c.p.seen&(1<<p) != 0 }

// what names the property that is being read.
func (c *cursor) what() string { return c.p.id.String() }

func (c *cursor) propertyText() []byte   { return c.text(c.what()) }
func (c *cursor) propertyU32() uint32    { return c.u32(c.what()) }
func (c *cursor) propertyU16() uint16    { return c.u16(c.what()) }
func (c *cursor) propertyBinary() []byte { return c.binary(c.what()) }

// propertyBit reads an octet that is 0 or 1.
func (c *cursor) propertyBit() uint8 {
	b := c.u8(c.what())
	if b > 1 {
		c.fail(ProtocolError, c.what()+" is neither 0 nor 1")
	}
	return b
}

func (c *cursor) propertyBool() bool { return c.propertyBit() == 1 }

// positive refuses a property that is 0.
func positive[T uint16 | uint32](c *cursor, value T, r Reason) T {
	if c.err == nil && value == 0 {
		c.fail(r, c.what()+" is 0")
	}
	return value
}

// UserProperties are names and values that only the two ends know, in the form in which they are sent; nil is none. Those that a decoder returns refer to
// the body, and keep it. Names may be there more than once, and the order counts.
type UserProperties []byte

// Add returns the properties with one more at the end. Neither name nor value may have more than 65,535 octets, and both are UTF-8 without U+0000.
func (u UserProperties) Add(name, value string) UserProperties {
	return UserProperties(appendText(appendText(append(u, byte(userProperty)), name), value))
}

// All ranges over names and values.
func (u UserProperties) All() iter.Seq2[string, string] {
	return func(yield func(string, string) bool) {
		for pair, rest := u.next(); pair != nil; pair, rest = rest.next() {
			n := int(binary.BigEndian.Uint16(pair[1:]))
			if !yield(string(pair[3:3+n]), string(pair[5+n:])) {
				return
			}
		}
	}
}

// Get returns the value of the first property of that name.
func (u UserProperties) Get(name string) (value string, ok bool) {
	for n, v := range u.All() {
		if n == name {
			return v, true
		}
	}
	return "", false
}

// next returns the first user property and what follows it. Others may stand between them, as the peer sent them; they are passed over.
func (u UserProperties) next() (pair, rest UserProperties) {
	for len(u) > 0 {
		n := extent(u)
		if n == 0 || n > len(u) {
			return nil, nil
		}
		if property(u[0]) == userProperty {
			return u[:n], u[n:]
		}
		u = u[n:]
	}
	return nil, nil
}

// extent returns the octets of the property at the beginning of b, 0 if there is none.
func extent(b []byte) int {
	if b[0] >= userProperties {
		return 0
	}
	text := func(at int) int {
		if at+2 > len(b) {
			return len(b) + 1
		}
		return at + 2 + int(binary.BigEndian.Uint16(b[at:]))
	}
	switch propertyTable[b[0]].form {
	case formOctet:
		return 2
	case formU16:
		return 3
	case formU32:
		return 5
	case formNumber:
		if _, n, _ := varint(b[1:]); n > 0 {
			return 1 + n
		}
	case formBinary, formText:
		return text(1)
	case formPair:
		return text(text(1))
	}
	return 0
}

// append writes the user properties alone.
func (u UserProperties) append(b []byte) []byte {
	for pair, rest := u.next(); pair != nil; pair, rest = rest.next() {
		b = append(b, pair...)
	}
	return b
}

// The following write a property if it is not absent.

func appendTextProperty[T string | []byte](b []byte, p property, text T) []byte {
	if len(text) == 0 {
		return b
	}
	return appendText(append(b, byte(p)), text)
}

func appendBinaryProperty(b []byte, p property, data []byte) []byte {
	if data == nil {
		return b
	}
	return appendText(append(b, byte(p)), data)
}

func appendU32(b []byte, p property, m Maybe[uint32]) []byte {
	if !m.Present {
		return b
	}
	return binary.BigEndian.AppendUint32(append(b, byte(p)), m.Value)
}

func appendU16(b []byte, p property, m Maybe[uint16]) []byte {
	if !m.Present {
		return b
	}
	return binary.BigEndian.AppendUint16(append(b, byte(p)), m.Value)
}

func appendOctet[T ~uint8](b []byte, p property, m Maybe[T]) []byte {
	if !m.Present {
		return b
	}
	return append(b, byte(p), byte(m.Value))
}

func appendBool(b []byte, p property, m Maybe[bool]) []byte {
	if !m.Present {
		return b
	}
	var octet byte
	if m.Value {
		octet = 1
	}
	return append(b, byte(p), octet)
}

// orZero is a property for which 0 is the same as being absent.
func orZero[T uint16 | uint32](value T) Maybe[T] { return Maybe[T]{value, value != 0} }
