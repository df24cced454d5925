package mqtt

import "encoding/binary"

// Connect is the client's first packet.
type Connect struct {
	Version    Version // Append writes this one, whatever it is told
	CleanStart bool    // Clean Session in 3.1.1
	KeepAlive  uint16  // seconds; 0: the client wants none
	ClientID   string  // "": the server is to assign one
	Will       *Will
	UserName   Maybe[string]
	Password   []byte // nil: none

	SessionExpiry        uint32 // seconds; 0: the session ends with the connection; 0xFFFFFFFF: never
	ReceiveMaximum       uint16 // messages of QoS 1 and 2 under way to the client; 0: not said, which means 65,535
	MaximumPacketSize    uint32 // 0: not said, without limit
	TopicAliasMaximum    uint16
	RequestResponseInfo  bool
	NoProblemInfo        bool // Request Problem Information is 0: reason strings and user properties only in PUBLISH, CONNACK and DISCONNECT
	AuthenticationMethod Maybe[string]
	AuthenticationData   []byte
	User                 UserProperties
}

// Will is the message that the server publishes when the connection ends badly.
type Will struct {
	QoS     QoS
	Retain  bool
	Topic   string
	Payload []byte
	Delay   uint32 // seconds that the server waits with it
	Properties
}

const protocolName = "MQTT"

// The flags of CONNECT (section 3.1.2.3).
const (
	flagReserved = 1 << iota
	flagCleanStart
	flagWill
	flagWillQoS // two bits
	_
	flagWillRetain
	flagPassword
	flagUserName
)

// DecodeConnect reads a CONNECT; the version in the rules counts for nothing. With an error, the version of the result says in which form the answer is
// to be written, the level being read or above 5; it is 0 when there is to be no answer.
func DecodeConnect(r Rules, h Header, body []byte) (Connect, error) {
	r.Version = 0
	c := begin(r, h, body, CONNECT)
	var p Connect
	p.Version = c.level()
	if c.rules.Version = p.Version; c.rules.Version == V5 && h.Overlong {
		c.fail(Malformed, "Remaining Length is not in its shortest form")
	}
	flags := c.u8("the connect flags")
	c.connectFlags(flags)
	p.CleanStart = flags&flagCleanStart != 0
	p.KeepAlive = c.u16("the keep-alive")
	c.connectProperties(&p)
	p.ClientID = c.clientID(p.CleanStart)
	if flags&flagWill != 0 {
		p.Will = c.will(flags)
	}
	if flags&flagUserName != 0 {
		p.UserName = Some(c.name("the user name", c.rules.Limits.Resolved().UserName, BadUserNameOrPassword))
	}
	if flags&flagPassword != 0 {
		if p.Password = c.binary("the password"); len(p.Password) > c.rules.Limits.Resolved().Password {
			c.fail(BadUserNameOrPassword, "the password is too long")
		}
	}
	if err := c.end(); err != nil {
		return Connect{Version: p.Version}, err
	}
	return p, nil
}

// level reads the name and the level of the protocol, and returns the version in which the client understands an answer.
func (c *cursor) level() Version {
	name := string(c.text("the name of the protocol"))
	level := c.u8("the level of the protocol")
	switch {
	case c.err != nil:
	case name == protocolName && (level == uint8(V311) || level == uint8(V5)):
		return Version(level)
	case name == protocolName && level > uint8(V5):
		c.fail(UnsupportedVersion, "the level of the protocol is above 5")
		return V5
	case name == protocolName || name == "MQIsdp": // the name in 3.1
		c.fail(UnsupportedVersion, "the level of the protocol is below 4")
		return V311
	default:
		c.fail(Malformed, "the protocol is not MQTT")
	}
	return 0
}

func (c *cursor) connectFlags(flags uint8) {
	switch {
	case c.err != nil:
	case flags&flagReserved != 0:
		c.fail(Malformed, "the reserved connect flag is set")
	case flags&flagWill == 0 && flags&(flagWillQoS*3|flagWillRetain) != 0:
		c.fail(Malformed, "there is no will, and yet a QoS or retain flag of one")
	case flags/flagWillQoS&3 == 3:
		c.fail(Malformed, "the QoS of the will is 3")
	case c.rules.Version == V311 && flags&flagPassword != 0 && flags&flagUserName == 0:
		c.fail(Malformed, "there is a password without a user name")
	}
}

func (c *cursor) connectProperties(p *Connect) {
	c.properties(connectProperties)
	for c.property() {
		switch c.p.id {
		case sessionExpiry:
			p.SessionExpiry = c.propertyU32()
		case receiveMaximum:
			p.ReceiveMaximum = positive(c, c.propertyU16(), ProtocolError)
		case maximumPacketSize:
			p.MaximumPacketSize = positive(c, c.propertyU32(), ProtocolError)
		case topicAliasMaximum:
			p.TopicAliasMaximum = c.propertyU16()
		case requestResponseInfo:
			p.RequestResponseInfo = c.propertyBool()
		case requestProblemInfo:
			p.NoProblemInfo = !c.propertyBool()
		case authenticationMethod:
			p.AuthenticationMethod = Some(string(c.propertyText()))
		case authenticationData:
			p.AuthenticationData = c.propertyBinary()
		}
	}
	p.User = c.userProperties()
	c.authentication()
}

// authentication refuses data for no method.
func (c *cursor) authentication() {
	if c.has(authenticationData) && !c.has(authenticationMethod) {
		c.fail(ProtocolError, "there is Authentication Data without Authentication Method")
	}
}

func (c *cursor) clientID(clean bool) string {
	id := c.name("the client identifier", c.rules.Limits.Resolved().ClientID, ClientIDNotValid)
	if c.err == nil && id == "" && !clean && c.rules.Version == V311 { // 3.1.1, section 3.1.3.1
		c.fail(ClientIDNotValid, "the client identifier is empty, and yet the session is to be kept")
	}
	return id
}

func (c *cursor) will(flags uint8) *Will {
	w := &Will{QoS: QoS(flags / flagWillQoS & 3), Retain: flags&flagWillRetain != 0}
	c.properties(willProperties)
	for c.property() {
		if c.p.id == willDelay {
			w.Delay = c.propertyU32()
		} else {
			c.messageProperty(&w.Properties)
		}
	}
	w.User = c.userProperties()
	w.Topic = string(c.topic("the topic of the will", false))
	w.Payload = c.binary("the payload of the will")
	return w
}

// Append appends the packet in its own version.
func (p Connect) Append(b []byte, _ Version) []byte {
	start := len(b) + 1
	b = appendText(appendHead(b, CONNECT, 0), protocolName)
	b = binary.BigEndian.AppendUint16(append(b, byte(p.Version), p.flags()), p.KeepAlive)
	if p.Version == V5 {
		b = p.appendProperties(b)
	}
	b = appendText(b, p.ClientID)
	if w := p.Will; w != nil {
		b = w.append(b, p.Version)
	}
	if p.UserName.Present {
		b = appendText(b, p.UserName.Value)
	}
	if p.Password != nil {
		b = appendText(b, p.Password)
	}
	return closeLength(b, start, 0)
}

func (p Connect) flags() (flags byte) {
	if p.CleanStart {
		flags |= flagCleanStart
	}
	if p.Will != nil {
		flags |= flagWill | byte(p.Will.QoS)*flagWillQoS
		if p.Will.Retain {
			flags |= flagWillRetain
		}
	}
	if p.UserName.Present {
		flags |= flagUserName
	}
	if p.Password != nil {
		flags |= flagPassword
	}
	return flags
}

func (p Connect) appendProperties(b []byte) []byte {
	at := len(b)
	b = append(b, 0)
	b = appendU32(b, sessionExpiry, orZero(p.SessionExpiry))
	b = appendU16(b, receiveMaximum, orZero(p.ReceiveMaximum))
	b = appendU32(b, maximumPacketSize, orZero(p.MaximumPacketSize))
	b = appendU16(b, topicAliasMaximum, orZero(p.TopicAliasMaximum))
	b = appendBool(b, requestResponseInfo, Maybe[bool]{true, p.RequestResponseInfo})
	b = appendBool(b, requestProblemInfo, Maybe[bool]{false, p.NoProblemInfo})
	b = appendAuthentication(b, p.AuthenticationMethod, p.AuthenticationData)
	return closeLength(p.User.append(b), at, 0)
}

func appendAuthentication(b []byte, method Maybe[string], data []byte) []byte {
	if !method.Present {
		return b
	}
	return appendBinaryProperty(appendText(append(b, byte(authenticationMethod)), method.Value), authenticationData, data)
}

func (w *Will) append(b []byte, v Version) []byte {
	if v == V5 {
		at := len(b)
		b = appendU32(append(b, 0), willDelay, orZero(w.Delay))
		b = closeLength(w.Properties.append(b), at, 0)
	}
	return appendText(appendText(b, w.Topic), w.Payload)
}

// Connack is the server's answer to CONNECT. In 3.1.1 it has nothing but the reason, as far as there is a code for it, and whether there was a session.
type Connack struct {
	SessionPresent bool
	Reason         Reason

	SessionExpiry            Maybe[uint32] // absent: as the client asked
	ReceiveMaximum           uint16        // 0: not said, which means 65,535
	MaximumQoS               Maybe[QoS]    // absent: 2
	RetainAvailable          Maybe[bool]   // absent: true, also for the others that are available
	MaximumPacketSize        uint32        // 0: not said, without limit
	AssignedClientID         string        // "": none was assigned
	TopicAliasMaximum        uint16
	ReasonString             string // "": none
	WildcardAvailable        Maybe[bool]
	SubscriptionIDsAvailable Maybe[bool]
	SharedAvailable          Maybe[bool]
	ServerKeepAlive          Maybe[uint16] // absent: as the client asked
	ResponseInfo             string        // "": none
	ServerReference          string        // "": none
	AuthenticationMethod     Maybe[string]
	AuthenticationData       []byte
	User                     UserProperties
}

// DecodeConnack reads a CONNACK. Servers that know no 5.0 refuse a client of it in the form of 3.1.1, which is read too.
func DecodeConnack(r Rules, h Header, body []byte) (Connack, error) {
	c := begin(r, h, body, CONNACK)
	var p Connack
	flags := c.u8("the acknowledge flags")
	if flags > 1 {
		c.fail(Malformed, "a reserved acknowledge flag is set")
	}
	p.SessionPresent = flags == 1
	if older := len(c.rest) == 1 && c.rest[0] == refusedVersion; r.Version == V311 || older {
		p.Reason = c.returnCode()
	} else {
		p.Reason = c.reason()
		c.connackProperties(&p)
	}
	if p.SessionPresent && p.Reason.Failed() {
		c.fail(ProtocolError, "there is a session though the connection was refused")
	}
	if err := c.end(); err != nil {
		return Connack{}, err
	}
	return p, nil
}

func (c *cursor) returnCode() Reason {
	code := c.u8("the return code")
	if int(code) >= len(connackReasons) {
		c.fail(ProtocolError, "there is no such return code")
		return 0
	}
	return connackReasons[code]
}

func (c *cursor) connackProperties(p *Connack) {
	c.properties(connackProperties)
	for c.property() {
		switch c.p.id {
		case sessionExpiry:
			p.SessionExpiry = Some(c.propertyU32())
		case receiveMaximum:
			p.ReceiveMaximum = positive(c, c.propertyU16(), ProtocolError)
		case maximumQoS:
			p.MaximumQoS = Some(QoS(c.propertyBit()))
		case maximumPacketSize:
			p.MaximumPacketSize = positive(c, c.propertyU32(), ProtocolError)
		case topicAliasMaximum:
			p.TopicAliasMaximum = c.propertyU16()
		case serverKeepAlive:
			p.ServerKeepAlive = Some(c.propertyU16())
		case authenticationMethod:
			p.AuthenticationMethod = Some(string(c.propertyText()))
		case authenticationData:
			p.AuthenticationData = c.propertyBinary()
		default:
			c.connackAnswer(p)
		}
	}
	p.User = c.userProperties()
	c.authentication()
}

// connackAnswer reads the properties that are texts, or say what the server offers.
func (c *cursor) connackAnswer(p *Connack) {
	switch c.p.id {
	case assignedClientID:
		p.AssignedClientID = string(c.propertyText())
	case reasonString:
		p.ReasonString = string(c.propertyText())
	case responseInfo:
		p.ResponseInfo = string(c.propertyText())
	case serverReference:
		p.ServerReference = string(c.propertyText())
	case retainAvailable:
		p.RetainAvailable = Some(c.propertyBool())
	case wildcardAvailable:
		p.WildcardAvailable = Some(c.propertyBool())
	case subscriptionIDsOffered:
		p.SubscriptionIDsAvailable = Some(c.propertyBool())
	case sharedAvailable:
		p.SharedAvailable = Some(c.propertyBool())
	}
}

// Append appends the packet. When 3.1.1 has no code for the reason, nothing is appended: the connection is to be closed without an answer.
func (p Connack) Append(b []byte, v Version) []byte {
	code, ok := uint8(p.Reason), true
	if v != V5 {
		if code, ok = p.Reason.ConnackCode(); !ok {
			return b
		}
	}
	start := len(b) + 1
	var flags byte
	if p.SessionPresent {
		flags = 1
	}
	b = append(appendHead(b, CONNACK, 0), flags, code)
	if v == V5 {
		b = p.appendProperties(b)
	}
	return closeLength(b, start, 0)
}

func (p Connack) appendProperties(b []byte) []byte {
	at := len(b)
	b = append(b, 0)
	b = appendU32(b, sessionExpiry, p.SessionExpiry)
	b = appendU16(b, receiveMaximum, orZero(p.ReceiveMaximum))
	b = appendOctet(b, maximumQoS, p.MaximumQoS)
	b = appendBool(b, retainAvailable, p.RetainAvailable)
	b = appendU32(b, maximumPacketSize, orZero(p.MaximumPacketSize))
	b = appendTextProperty(b, assignedClientID, p.AssignedClientID)
	b = appendU16(b, topicAliasMaximum, orZero(p.TopicAliasMaximum))
	b = appendTextProperty(b, reasonString, p.ReasonString)
	b = appendBool(b, wildcardAvailable, p.WildcardAvailable)
	b = appendBool(b, subscriptionIDsOffered, p.SubscriptionIDsAvailable)
	b = appendBool(b, sharedAvailable, p.SharedAvailable)
	b = appendU16(b, serverKeepAlive, p.ServerKeepAlive)
	b = appendTextProperty(b, responseInfo, p.ResponseInfo)
	b = appendTextProperty(b, serverReference, p.ServerReference)
	b = appendAuthentication(b, p.AuthenticationMethod, p.AuthenticationData)
	return closeLength(p.User.append(b), at, 0)
}
