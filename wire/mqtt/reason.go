package mqtt

import "fmt"

// Reason is a reason code of 5.0. Those from 0x80 on say that something was refused or went wrong.
type Reason uint8

// The reason codes. 0 is also the normal disconnection, and QoS 0 in a SUBACK.
const (
	Success                  Reason = 0x00
	GrantedQoS1              Reason = 0x01
	GrantedQoS2              Reason = 0x02
	DisconnectWithWill       Reason = 0x04
	NoMatchingSubscribers    Reason = 0x10
	NoSubscriptionExisted    Reason = 0x11
	ContinueAuthentication   Reason = 0x18
	ReAuthenticate           Reason = 0x19
	Unspecified              Reason = 0x80
	Malformed                Reason = 0x81
	ProtocolError            Reason = 0x82
	ImplementationSpecific   Reason = 0x83
	UnsupportedVersion       Reason = 0x84
	ClientIDNotValid         Reason = 0x85
	BadUserNameOrPassword    Reason = 0x86
	NotAuthorised            Reason = 0x87
	ServerUnavailable        Reason = 0x88
	ServerBusy               Reason = 0x89
	Banned                   Reason = 0x8A
	ServerShuttingDown       Reason = 0x8B
	BadAuthenticationMethod  Reason = 0x8C
	KeepAliveTimeout         Reason = 0x8D
	SessionTakenOver         Reason = 0x8E
	TopicFilterInvalid       Reason = 0x8F
	TopicNameInvalid         Reason = 0x90
	PacketIDInUse            Reason = 0x91
	PacketIDNotFound         Reason = 0x92
	ReceiveMaximumExceeded   Reason = 0x93
	TopicAliasInvalid        Reason = 0x94
	PacketTooLarge           Reason = 0x95
	MessageRateTooHigh       Reason = 0x96
	QuotaExceeded            Reason = 0x97
	AdministrativeAction     Reason = 0x98
	PayloadFormatInvalid     Reason = 0x99
	RetainNotSupported       Reason = 0x9A
	QoSNotSupported          Reason = 0x9B
	UseAnotherServer         Reason = 0x9C
	ServerMoved              Reason = 0x9D
	SharedNotSupported       Reason = 0x9E
	ConnectionRateExceeded   Reason = 0x9F
	MaximumConnectTime       Reason = 0xA0
	SubscriptionIDsNotServed Reason = 0xA1
	WildcardsNotSupported    Reason = 0xA2
)

// in is a set of places where a reason code may stand.
type in uint16

const (
	inConnack in = 1 << iota
	inPuback     // and PUBREC
	inPubrel     // and PUBCOMP
	inSuback
	inUnsuback
	inDisconnectOfClient
	inDisconnectOfServer
	inAuthOfClient
	inAuthOfServer

	inDisconnect = inDisconnectOfClient | inDisconnectOfServer
	inAuth       = inAuthOfClient | inAuthOfServer
)

// reasons has the table of section 2.4, and of sections 3.14.2.1 and 3.15.2.1 for who sends what.
var reasons = [256]struct {
	name  string
	where in
}{
	Success:                  {"success", inConnack | inPuback | inPubrel | inSuback | inUnsuback | inDisconnect | inAuthOfServer},
	GrantedQoS1:              {"granted QoS 1", inSuback},
	GrantedQoS2:              {"granted QoS 2", inSuback},
	DisconnectWithWill:       {"disconnect with will message", inDisconnectOfClient},
	NoMatchingSubscribers:    {"no matching subscribers", inPuback},
	NoSubscriptionExisted:    {"no subscription existed", inUnsuback},
	ContinueAuthentication:   {"continue authentication", inAuth},
	ReAuthenticate:           {"re-authenticate", inAuthOfClient},
	Unspecified:              {"unspecified error", inConnack | inPuback | inSuback | inUnsuback | inDisconnect},
	Malformed:                {"malformed packet", inConnack | inDisconnect},
	ProtocolError:            {"protocol error", inConnack | inDisconnect},
	ImplementationSpecific:   {"implementation specific error", inConnack | inPuback | inSuback | inUnsuback | inDisconnect},
	UnsupportedVersion:       {"unsupported protocol version", inConnack},
	ClientIDNotValid:         {"client identifier not valid", inConnack},
	BadUserNameOrPassword:    {"bad user name or password", inConnack},
	NotAuthorised:            {"not authorised", inConnack | inPuback | inSuback | inUnsuback | inDisconnectOfServer},
	ServerUnavailable:        {"server unavailable", inConnack},
	ServerBusy:               {"server busy", inConnack | inDisconnectOfServer},
	Banned:                   {"banned", inConnack},
	ServerShuttingDown:       {"server shutting down", inDisconnectOfServer},
	BadAuthenticationMethod:  {"bad authentication method", inConnack},
	KeepAliveTimeout:         {"keep alive timeout", inDisconnectOfServer},
	SessionTakenOver:         {"session taken over", inDisconnectOfServer},
	TopicFilterInvalid:       {"topic filter invalid", inSuback | inUnsuback | inDisconnectOfServer},
	TopicNameInvalid:         {"topic name invalid", inConnack | inPuback | inDisconnect},
	PacketIDInUse:            {"packet identifier in use", inPuback | inSuback | inUnsuback},
	PacketIDNotFound:         {"packet identifier not found", inPubrel},
	ReceiveMaximumExceeded:   {"receive maximum exceeded", inDisconnect},
	TopicAliasInvalid:        {"topic alias invalid", inDisconnect},
	PacketTooLarge:           {"packet too large", inConnack | inDisconnect},
	MessageRateTooHigh:       {"message rate too high", inDisconnect},
	QuotaExceeded:            {"quota exceeded", inConnack | inPuback | inSuback | inDisconnect},
	AdministrativeAction:     {"administrative action", inDisconnect},
	PayloadFormatInvalid:     {"payload format invalid", inConnack | inPuback | inDisconnect},
	RetainNotSupported:       {"retain not supported", inConnack | inDisconnectOfServer},
	QoSNotSupported:          {"QoS not supported", inConnack | inDisconnectOfServer},
	UseAnotherServer:         {"use another server", inConnack | inDisconnectOfServer},
	ServerMoved:              {"server moved", inConnack | inDisconnectOfServer},
	SharedNotSupported:       {"shared subscriptions not supported", inSuback | inDisconnectOfServer},
	ConnectionRateExceeded:   {"connection rate exceeded", inConnack | inDisconnectOfServer},
	MaximumConnectTime:       {"maximum connect time", inDisconnectOfServer},
	SubscriptionIDsNotServed: {"subscription identifiers not supported", inSuback | inDisconnectOfServer},
	WildcardsNotSupported:    {"wildcard subscriptions not supported", inSuback | inDisconnectOfServer},
}

// String names the reason as the standard does, or gives its number when it has no such code.
func (r Reason) String() string {
	if name := reasons[r].name; name != "" {
		return name
	}
	return fmt.Sprintf("reason 0x%02X", uint8(r))
}

// Failed reports whether the reason is that of a refusal or an error.
func (r Reason) Failed() bool { return r >= 0x80 }

// place returns where a reason code stands that comes in such a packet from that side.
func place(t Type, from Side) in {
	switch t {
	case CONNACK:
		return inConnack
	case PUBACK, PUBREC:
		return inPuback
	case PUBREL, PUBCOMP:
		return inPubrel
	case SUBACK:
		return inSuback
	case UNSUBACK:
		return inUnsuback
	case DISCONNECT:
		return inDisconnectOfClient << from
	case AUTH:
		return inAuthOfClient << from
	}
	return 0
}

// Legal reports whether 5.0 lets that side send the reason in such a packet.
func (r Reason) Legal(t Type, from Side) bool { return reasons[r].where&place(t, from) != 0 }

// The return codes of CONNACK in 3.1.1 (its section 3.2.2.3).
const (
	accepted uint8 = iota
	refusedVersion
	refusedClientID
	refusedUnavailable
	refusedCredentials
	refusedNotAuthorised
)

// ConnackCode returns the return code that CONNACK has for the reason in 3.1.1; false when it has none, so that the connection is closed without an
// answer.
func (r Reason) ConnackCode() (code uint8, ok bool) {
	switch r {
	case Success:
		return accepted, true
	case UnsupportedVersion:
		return refusedVersion, true
	case ClientIDNotValid:
		return refusedClientID, true
	case ServerUnavailable, ServerBusy, UseAnotherServer, ServerMoved, ConnectionRateExceeded, QuotaExceeded:
		return refusedUnavailable, true
	case BadUserNameOrPassword:
		return refusedCredentials, true
	case NotAuthorised, Banned, TopicNameInvalid, RetainNotSupported, QoSNotSupported:
		return refusedNotAuthorised, true
	}
	return 0, false
}

var connackReasons = [...]Reason{accepted: Success, refusedVersion: UnsupportedVersion, refusedClientID: ClientIDNotValid,
	refusedUnavailable: ServerUnavailable, refusedCredentials: BadUserNameOrPassword, refusedNotAuthorised: NotAuthorised}

// Error says what is wrong with a packet, and which reason 5.0 has for it.
type Error struct {
	Reason Reason
	Packet Type   // 0 when the fault is in no packet, or in one of no known type
	Text   string // what and where; never what the peer sent
}

// Error puts the packet in front of the words, and the reason behind.
func (e *Error) Error() string {
	if e.Packet == 0 {
		return fmt.Sprintf("%s (%s)", e.Text, e.Reason)
	}
	return fmt.Sprintf("%s: %s (%s)", e.Packet, e.Text, e.Reason)
}
