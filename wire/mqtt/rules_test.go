package mqtt

import (
	"errors"
	"strings"
	"testing"
)

// Each row breaks one rule, after which it is named.
func TestRules(t *testing.T) {
	con4 := func(flags string, payload ...string) string {
		return pk(0x10, st("MQTT"), "\x04", flags, "\x00\x3c", strings.Join(payload, ""))
	}
	con5 := func(flags, properties string, payload ...string) string {
		return pk(0x10, st("MQTT"), "\x05", flags, "\x00\x3c", properties, strings.Join(payload, ""))
	}
	will := func(properties string) string {
		return con5("\x06", pr(), st("a"), properties, st("t"), st(""))
	}
	ack5 := func(reason string) string { return pk(0x20, "\x00", reason, pr()) }
	prop := func(first byte, properties string) string { return pk(first, st("t"), properties) }
	user := "\x26" + st("k") + st("v")
	for _, row := range []struct {
		rule string
		v    Version
		from Side
		wire string
		want Reason
	}{
		// The fixed header
		{"type 0 is reserved", V311, Client, pk(0x00), Malformed},
		{"AUTH is not in 3.1.1", V311, Client, pk(0xf0), ProtocolError},
		{"Remaining Length has four octets at most", V311, Client, "\x30\x80\x80\x80\x80\x01", Malformed},
		{"Remaining Length has four octets at most, the fifth need not have come", V5, Client, "\x30\xff\xff\xff\xff", Malformed},
		{"Remaining Length is in its shortest form", V5, Client, "\xc0\x80\x00", Malformed},
		{"Remaining Length is in its shortest form, CONNECT of 5.0 too", V5, Client, "\x10\x8d\x00" + con5("\x02", pr(), st(""))[2:], Malformed},
		{"Remaining Length is compared before the body comes", V5, Client, "\x30\xff\xff\xff\x7f", PacketTooLarge},
		{"Remaining Length of CONNECT is compared before the body comes", V5, Client, "\x10\xff\xff\x7f", PacketTooLarge},
		{"flags of CONNECT are 0", V311, Client, "\x11" + con4("\x02", st(""))[1:], Malformed},
		{"flags of CONNACK are 0", V5, Server, pk(0x21, "\x00\x00", pr()), Malformed},
		{"flags of PUBACK are 0", V5, Client, pk(0x42, "\x00\x01"), Malformed},
		{"flags of PUBREC are 0", V5, Client, pk(0x52, "\x00\x01"), Malformed},
		{"flags of PUBREL are 2", V5, Client, pk(0x60, "\x00\x01"), Malformed},
		{"flags of PUBREL are 2", V311, Client, pk(0x66, "\x00\x01"), Malformed},
		{"flags of PUBCOMP are 0", V5, Client, pk(0x71, "\x00\x01"), Malformed},
		{"flags of SUBSCRIBE are 2", V311, Client, pk(0x80, "\x00\x01", st("a"), "\x00"), Malformed},
		{"flags of SUBACK are 0", V311, Server, pk(0x92, "\x00\x01\x00"), Malformed},
		{"flags of UNSUBSCRIBE are 2", V311, Client, pk(0xa0, "\x00\x01", st("a")), Malformed},
		{"flags of UNSUBACK are 0", V311, Server, pk(0xb2, "\x00\x01"), Malformed},
		{"flags of PINGREQ are 0", V311, Client, pk(0xc1), Malformed},
		{"flags of PINGRESP are 0", V311, Server, pk(0xd8), Malformed},
		{"flags of DISCONNECT are 0", V311, Client, pk(0xe1), Malformed},
		{"flags of AUTH are 0", V5, Client, pk(0xf4), Malformed},
		{"QoS of PUBLISH is not 3", V311, Client, pk(0x36, st("a"), "\x00\x01"), Malformed},
		{"DUP is not set with QoS 0", V5, Client, pk(0x38, st("a"), pr()), Malformed},

		// Who sends what, and when
		{"nothing comes before CONNECT", 0, Client, pk(0xc0), ProtocolError},
		{"SUBSCRIBE does not come first", 0, Client, pk(0x82, "\x00\x01", st("a"), "\x00"), ProtocolError},
		{"CONNACK is not a client's", V5, Client, ack5("\x00"), ProtocolError},
		{"SUBACK is not a client's", V311, Client, pk(0x90, "\x00\x01\x00"), ProtocolError},
		{"UNSUBACK is not a client's", V311, Client, pk(0xb0, "\x00\x01"), ProtocolError},
		{"PINGRESP is not a client's", V5, Client, pk(0xd0), ProtocolError},
		{"SUBSCRIBE is not a server's", V5, Server, pk(0x82, "\x00\x01", pr(), st("a"), "\x00"), ProtocolError},
		{"UNSUBSCRIBE is not a server's", V311, Server, pk(0xa2, "\x00\x01", st("a")), ProtocolError},
		{"PINGREQ is not a server's", V311, Server, pk(0xc0), ProtocolError},
		{"DISCONNECT is not a server's in 3.1.1", V311, Server, pk(0xe0), ProtocolError},
		{"PINGREQ has no body", V311, Client, pk(0xc0, "\x00"), Malformed},
		{"PINGRESP has no body", V5, Server, pk(0xd0, "\x00"), Malformed},
		{"DISCONNECT has no body in 3.1.1", V311, Client, pk(0xe0, "\x00"), Malformed},

		// CONNECT
		{"name of the protocol is MQTT", V311, Client, pk(0x10, st("mqtt"), "\x04\x02\x00\x3c", st("")), Malformed},
		{"level 3 is too old", V311, Client, pk(0x10, st("MQTT"), "\x03\x02\x00\x3c", st("a")), UnsupportedVersion},
		{"MQIsdp is too old", V311, Client, pk(0x10, st("MQIsdp"), "\x03\x02\x00\x3c", st("a")), UnsupportedVersion},
		{"level 6 is too new", V5, Client, pk(0x10, st("MQTT"), "\x06\x02\x00\x3c"), UnsupportedVersion},
		{"reserved connect flag is 0", V311, Client, con4("\x03", st("a")), Malformed},
		{"no will, no QoS of one", V5, Client, con5("\x0a", pr(), st("a")), Malformed},
		{"no will, no retain flag of one", V311, Client, con4("\x22", st("a")), Malformed},
		{"QoS of the will is not 3", V311, Client, con4("\x1e", st("a"), st("t"), st("")), Malformed},
		{"no password without a user name in 3.1.1", V311, Client, con4("\x42", st("a"), st("p")), Malformed},
		{"empty client id only with a clean session in 3.1.1", V311, Client, con4("\x00", st("")), ClientIDNotValid},
		{"client id is UTF-8", V311, Client, con4("\x02", st("\xff")), Malformed},
		{"client id holds no U+0000", V5, Client, con5("\x02", pr(), st("a\x00b")), Malformed},
		{"client id holds no surrogates", V5, Client, con5("\x02", pr(), st("\xed\xa0\x80")), Malformed},
		{"client id holds no control characters", V5, Client, con5("\x02", pr(), st("a\nb")), ClientIDNotValid},
		{"client id is not too long", V5, Client, con5("\x02", pr(), st(strings.Repeat("a", 129))), ClientIDNotValid},
		{"user name holds no control characters", V5, Client, con5("\x82", pr(), st("a"), st("\u0085")), BadUserNameOrPassword},
		{"user name holds no non-characters", V5, Client, con5("\x82", pr(), st("a"), st("\ufffe")), BadUserNameOrPassword},
		{"user name is not too long", V311, Client, con4("\x82", st("a"), st(strings.Repeat("n", 257))), BadUserNameOrPassword},
		{"password is not too long", V5, Client, con5("\x42", pr(), st("a"), st(strings.Repeat("p", 4097))), BadUserNameOrPassword},
		{"topic of the will is not empty", V311, Client, con4("\x06", st("a"), st(""), st("")), TopicNameInvalid},
		{"topic of the will holds no wildcard", V5, Client, con5("\x06", pr(), st("a"), pr(), st("a/#"), st("")), TopicNameInvalid},
		{"CONNECT ends where its last field ends", V311, Client, con4("\x02", st("a"), "\x00"), Malformed},
		{"fields whose flags are set are there", V311, Client, con4("\xc2", st("a"), st("u")), Malformed},
		{"AUTH data needs a method", V5, Client, con5("\x02", pr("\x16", st("x")), st("a")), ProtocolError},
		{"Receive Maximum is not 0", V5, Client, con5("\x02", pr("\x21\x00\x00"), st("a")), ProtocolError},
		{"Maximum Packet Size is not 0", V5, Client, con5("\x02", pr("\x27\x00\x00\x00\x00"), st("a")), ProtocolError},
		{"Request Response Information is 0 or 1", V5, Client, con5("\x02", pr("\x19\x02"), st("a")), ProtocolError},
		{"Request Problem Information is 0 or 1", V5, Client, con5("\x02", pr("\x17\xff"), st("a")), ProtocolError},
		{"Will Delay is not of CONNECT itself", V5, Client, con5("\x02", pr("\x18\x00\x00\x00\x00"), st("a")), Malformed},
		{"Session Expiry is not of a will", V5, Client, will(pr("\x11\x00\x00\x00\x00")), Malformed},
		{"Topic Alias is not of a will", V5, Client, will(pr("\x23\x00\x01")), Malformed},
		{"Payload Format of a will is 0 or 1", V5, Client, will(pr("\x01\x02")), ProtocolError},
		{"Will Delay is there once", V5, Client, will(pr("\x18\x00\x00\x00\x00", "\x18\x00\x00\x00\x00")), ProtocolError},
		{"Session Expiry is there once", V5, Client, con5("\x02", pr("\x11\x00\x00\x00\x00", "\x11\x00\x00\x00\x00"), st("a")), ProtocolError},

		// Properties in general
		{"properties end within their length", V5, Client, prop(0x30, vi(2)+"\x23"), Malformed},
		{"a property ends within its block", V5, Client, prop(0x30, vi(2)+"\x23\x00\x01"), Malformed},
		{"length of the properties has its shortest form", V5, Client, prop(0x30, "\x80\x00"), Malformed},
		{"length of the properties has four octets at most", V5, Client, prop(0x30, "\xff\xff\xff\xff\x01"), Malformed},
		{"identifier of a property has its shortest form", V5, Client, prop(0x30, pr("\x81\x00\x01")), Malformed},
		{"there is a property of that number", V5, Client, prop(0x30, pr("\x04\x01")), Malformed},
		{"there is no property above the table", V5, Client, prop(0x30, pr("\xa6\x02", st("k"), st("v"))), Malformed},
		{"name of a User Property is UTF-8", V5, Client, prop(0x30, pr("\x26", st("\xc0\x80"), st(""))), Malformed},
		{"value of a User Property holds no U+0000", V5, Client, prop(0x30, pr("\x26", st("k"), st("\x00"))), Malformed},
		{"User Properties are not too many", V5, Client, prop(0x30, pr(strings.Repeat(user, 33))), PacketTooLarge},
		{"User Properties are not too long", V5, Client, prop(0x30, pr("\x26", st(strings.Repeat("k", 4096)), st("v"))), PacketTooLarge},

		// PUBLISH
		{"topic name is not empty in 3.1.1", V311, Client, pk(0x30, st(""), "x"), ProtocolError},
		{"topic name is empty only with an alias", V5, Client, pk(0x30, st(""), pr(), "x"), ProtocolError},
		{"topic name holds no #", V311, Client, pk(0x30, st("a/#")), TopicNameInvalid},
		{"topic name holds no +", V5, Client, pk(0x30, st("a/+/b"), pr()), TopicNameInvalid},
		{"topic name holds no U+0000", V311, Client, pk(0x30, st("a\x00")), Malformed},
		{"topic name is UTF-8", V311, Client, pk(0x30, st("a\xff")), Malformed},
		{"topic name holds no surrogates", V311, Client, pk(0x30, st("\xed\xbf\xbf")), Malformed},
		{"topic name holds no control characters", V311, Client, pk(0x30, st("a\x1f")), TopicNameInvalid},
		{"topic name holds no non-characters", V311, Client, pk(0x30, st("a\uffff")), TopicNameInvalid},
		{"topic name is not too long", V5, Client, pk(0x30, st(strings.Repeat("a", 513)), pr()), TopicNameInvalid},
		{"topic name has not too many levels", V5, Client, pk(0x30, st(strings.Repeat("/", 32)), pr()), TopicNameInvalid},
		{"packet id is not 0", V311, Client, pk(0x32, st("a"), "\x00\x00"), Malformed},
		{"packet id is there", V5, Client, pk(0x34, st("a")), Malformed},
		{"Topic Alias is not 0", V5, Client, prop(0x30, pr("\x23\x00\x00")), TopicAliasInvalid},
		{"Subscription Identifier is not a client's", V5, Client, prop(0x30, pr("\x0b\x01")), Malformed},
		{"Subscription Identifier is not 0", V5, Server, prop(0x30, pr("\x0b\x00")), ProtocolError},
		{"Subscription Identifier has its shortest form", V5, Server, prop(0x30, pr("\x0b\x81\x00")), Malformed},
		{"Payload Format is 0 or 1", V5, Client, prop(0x30, pr("\x01\x02")), ProtocolError},
		{"Payload Format is there once", V5, Client, prop(0x30, pr("\x01\x01\x01\x01")), ProtocolError},
		{"Message Expiry is there once", V5, Client, prop(0x30, pr("\x02\x00\x00\x00\x01", "\x02\x00\x00\x00\x01")), ProtocolError},
		{"Content Type is UTF-8", V5, Client, prop(0x30, pr("\x03", st("\xff"))), Malformed},
		{"Content Type is there once", V5, Client, prop(0x30, pr("\x03", st(""), "\x03", st(""))), ProtocolError},
		{"Response Topic holds no wildcard", V5, Client, prop(0x30, pr("\x08", st("a/+"))), TopicNameInvalid},
		{"Response Topic is not empty", V5, Client, prop(0x30, pr("\x08", st(""))), TopicNameInvalid},
		{"Correlation Data is there once", V5, Client, prop(0x30, pr("\x09", st(""), user, "\x09", st(""))), ProtocolError},
		{"Topic Alias is there once", V5, Client, prop(0x30, pr("\x23\x00\x01\x23\x00\x01")), ProtocolError},
		{"Session Expiry is not of PUBLISH", V5, Client, prop(0x30, pr("\x11\x00\x00\x00\x01")), Malformed},
		{"Reason String is not of PUBLISH", V5, Server, prop(0x30, pr("\x1f", st("x"))), Malformed},

		// Acknowledgements
		{"packet id of PUBACK is not 0", V5, Client, pk(0x40, "\x00\x00"), Malformed},
		{"packet id of PUBREL is not 0", V311, Client, pk(0x62, "\x00\x00"), Malformed},
		{"packet id of PUBACK is there", V311, Client, pk(0x40, "\x01"), Malformed},
		{"PUBACK has 2 octets in 3.1.1", V311, Client, pk(0x40, "\x00\x01\x00"), Malformed},
		{"reason of PUBACK is one of PUBACK", V5, Client, pk(0x40, "\x00\x01\x92"), ProtocolError},
		{"reason of PUBREC is one of PUBREC", V5, Client, pk(0x50, "\x00\x01\x8e"), ProtocolError},
		{"reason of PUBREL is one of PUBREL", V5, Client, pk(0x62, "\x00\x01\x10"), ProtocolError},
		{"reason of PUBCOMP is one of PUBCOMP", V5, Client, pk(0x70, "\x00\x01\x80"), ProtocolError},
		{"reason of PUBACK is in the table", V5, Client, pk(0x40, "\x00\x01\xee"), ProtocolError},
		{"PUBACK ends where its properties end", V5, Client, pk(0x40, "\x00\x01\x00", pr(), "\x00"), Malformed},
		{"Reason String of PUBACK is there once", V5, Client, pk(0x40, "\x00\x01\x00", pr("\x1f", st(""), "\x1f", st(""))), ProtocolError},
		{"Server Reference is not of PUBACK", V5, Server, pk(0x40, "\x00\x01\x00", pr("\x1c", st("x"))), Malformed},

		// SUBSCRIBE and UNSUBSCRIBE
		{"SUBSCRIBE has a filter", V311, Client, pk(0x82, "\x00\x01"), ProtocolError},
		{"SUBSCRIBE has a filter", V5, Client, pk(0x82, "\x00\x01", pr()), ProtocolError},
		{"every filter has its options", V5, Client, pk(0x82, "\x00\x01", pr(), st("")), Malformed},
		{"the last filter has its options, too", V311, Client, pk(0x82, "\x00\x01", st("a"), "\x00", st("b")), Malformed},
		{"packet id of SUBSCRIBE is not 0", V311, Client, pk(0x82, "\x00\x00", st("a"), "\x00"), Malformed},
		{"3.1.1 has only QoS in the options", V311, Client, pk(0x82, "\x00\x01", st("a"), "\x04"), Malformed},
		{"bits 6 and 7 of the options are 0", V5, Client, pk(0x82, "\x00\x01", pr(), st("a"), "\x40"), Malformed},
		{"QoS of a filter is not 3", V311, Client, pk(0x82, "\x00\x01", st("a"), "\x03"), ProtocolError},
		{"QoS of a filter is not 3", V5, Client, pk(0x82, "\x00\x01", pr(), st("a"), "\x03"), ProtocolError},
		{"Retain Handling is not 3", V5, Client, pk(0x82, "\x00\x01", pr(), st("a"), "\x30"), ProtocolError},
		{"No Local is not of a shared subscription", V5, Client, pk(0x82, "\x00\x01", pr(), st("$share/g/a"), "\x04"), ProtocolError},
		{"filter is UTF-8", V311, Client, pk(0x82, "\x00\x01", st("\xfe"), "\x00"), Malformed},
		{"filter holds no U+0000", V311, Client, pk(0x82, "\x00\x01", st("\x00"), "\x00"), Malformed},
		{"filter ends within the packet", V311, Client, pk(0x82, "\x00\x01\x00\x09a\x00"), Malformed},
		{"Subscription Identifier of SUBSCRIBE is not 0", V5, Client, pk(0x82, "\x00\x01", pr("\x0b\x00"), st("a"), "\x00"), ProtocolError},
		{"Subscription Identifier of SUBSCRIBE is there once", V5, Client, pk(0x82, "\x00\x01", pr("\x0b\x01\x0b\x02"), st("a"), "\x00"), ProtocolError},
		{"Subscription Identifier has four octets at most", V5, Client, pk(0x82, "\x00\x01", pr("\x0b\xff\xff\xff\xff\x01"), st("a"), "\x00"), Malformed},
		{"UNSUBSCRIBE has a filter", V5, Client, pk(0xa2, "\x00\x01", pr()), ProtocolError},
		{"UNSUBSCRIBE has a filter", V311, Client, pk(0xa2, "\x00\x01"), ProtocolError},
		{"packet id of UNSUBSCRIBE is not 0", V311, Client, pk(0xa2, "\x00\x00", st("a")), Malformed},
		{"filter of UNSUBSCRIBE ends within the packet", V311, Client, pk(0xa2, "\x00\x01\x00\x02a"), Malformed},
		{"Reason String is not of UNSUBSCRIBE", V5, Client, pk(0xa2, "\x00\x01", pr("\x1f", st("")), st("a")), Malformed},

		// What servers send
		{"reserved acknowledge flags are 0", V311, Server, pk(0x20, "\x02\x00"), Malformed},
		{"no session with a refusal", V311, Server, pk(0x20, "\x01\x05"), ProtocolError},
		{"no session with a refusal", V5, Server, pk(0x20, "\x01\x87", pr()), ProtocolError},
		{"return code of CONNACK is in the table", V311, Server, pk(0x20, "\x00\x06"), ProtocolError},
		{"reason of CONNACK is one of CONNACK", V5, Server, ack5("\x8e"), ProtocolError},
		{"CONNACK has 2 octets in 3.1.1", V311, Server, pk(0x20, "\x00\x00\x00"), Malformed},
		{"CONNACK has properties in 5.0", V5, Server, pk(0x20, "\x00\x00"), Malformed},
		{"Maximum QoS is 0 or 1", V5, Server, pk(0x20, "\x00\x00", pr("\x24\x02")), ProtocolError},
		{"Retain Available is 0 or 1", V5, Server, pk(0x20, "\x00\x00", pr("\x25\x02")), ProtocolError},
		{"Will Delay is not of CONNACK", V5, Server, pk(0x20, "\x00\x00", pr("\x18\x00\x00\x00\x00")), Malformed},
		{"Receive Maximum of CONNACK is not 0", V5, Server, pk(0x20, "\x00\x00", pr("\x21\x00\x00")), ProtocolError},
		{"AUTH data of CONNACK needs a method", V5, Server, pk(0x20, "\x00\x00", pr("\x16", st(""))), ProtocolError},
		{"SUBACK has a reason", V311, Server, pk(0x90, "\x00\x01"), ProtocolError},
		{"return code of SUBACK is in the table", V311, Server, pk(0x90, "\x00\x01\x87"), ProtocolError},
		{"reason of SUBACK is one of SUBACK", V5, Server, pk(0x90, "\x00\x01", pr(), "\x03"), ProtocolError},
		{"UNSUBACK has 2 octets in 3.1.1", V311, Server, pk(0xb0, "\x00\x01\x00"), Malformed},
		{"UNSUBACK has a reason in 5.0", V5, Server, pk(0xb0, "\x00\x01", pr()), ProtocolError},
		{"reason of UNSUBACK is one of UNSUBACK", V5, Server, pk(0xb0, "\x00\x01", pr(), "\x01"), ProtocolError},

		// DISCONNECT and AUTH
		{"reason of a client's DISCONNECT is a client's", V5, Client, pk(0xe0, "\x8b"), ProtocolError},
		{"reason of a server's DISCONNECT is a server's", V5, Server, pk(0xe0, "\x04"), ProtocolError},
		{"Server Reference is not a client's", V5, Client, pk(0xe0, "\x00", pr("\x1c", st("x"))), Malformed},
		{"Session Expiry of DISCONNECT is not a server's", V5, Server, pk(0xe0, "\x00", pr("\x11\x00\x00\x00\x00")), Malformed},
		{"DISCONNECT ends where its properties end", V5, Client, pk(0xe0, "\x00", pr(), "\x00"), Malformed},
		{"AUTH has a method", V5, Client, pk(0xf0, "\x18", pr()), ProtocolError},
		{"AUTH has properties", V5, Client, pk(0xf0, "\x18"), Malformed},
		{"reason of a client's AUTH is a client's", V5, Client, pk(0xf0, "\x00", pr("\x15", st("X"))), ProtocolError},
		{"reason of a client's AUTH is no success", V5, Client, pk(0xf0), ProtocolError},
		{"reason of a server's AUTH is a server's", V5, Server, pk(0xf0, "\x19", pr("\x15", st("X"))), ProtocolError},
	} {
		t.Run(row.rule, func(t *testing.T) {
			r := Rules{Version: row.v, From: row.from}
			if row.wire[0]>>4 == byte(CONNECT) {
				r.Version = 0
			}
			p, err := read([]byte(row.wire), r)
			fault := (*Error)(nil)
			if !errors.As(err, &fault) {
				t.Fatalf("%q: %+v, %v; want reason %s", row.wire, p, err, row.want)
			}
			if fault.Reason != row.want {
				t.Errorf("%q: %v, want reason %s", row.wire, err, row.want)
			}
		})
	}
}

// In which form a CONNECT is refused.
func TestVersionOfRefusal(t *testing.T) {
	for _, row := range []struct {
		name, wire string
		want       Version
		code       uint8 // of CONNACK in 3.1.1
		answered   bool
	}{
		{"level 3", pk(0x10, st("MQIsdp"), "\x03\x02\x00\x3c", st("a")), V311, 1, true},
		{"level 0", pk(0x10, st("MQTT"), "\x00\x02\x00\x3c", st("a")), V311, 1, true},
		{"level 6", pk(0x10, st("MQTT"), "\x06\x02\x00\x3c", st("a")), V5, 1, true},
		{"level 132, of a bridge", pk(0x10, st("MQTT"), "\x84\x02\x00\x3c", st("a")), V5, 1, true},
		{"3.1.1, client id", pk(0x10, st("MQTT"), "\x04\x00\x00\x3c", st("")), V311, 2, true},
		{"3.1.1, malformed", pk(0x10, st("MQTT"), "\x04\x01\x00\x3c", st("")), V311, 0, false},
		{"5.0, malformed", pk(0x10, st("MQTT"), "\x05\x01\x00\x3c", pr(), st("")), V5, 0, false},
		{"another protocol", pk(0x10, st("HTTP"), "\x05\x01\x00\x3c", pr(), st("")), 0, 0, false},
		{"no level", pk(0x10, st("MQTT")), 0, 0, false},
	} {
		t.Run(row.name, func(t *testing.T) {
			h, n, err := ParseHeader([]byte(row.wire))
			if err != nil {
				t.Fatal(err)
			}
			p, err := DecodeConnect(Rules{}, h, []byte(row.wire[n:]))
			fault := (*Error)(nil)
			if !errors.As(err, &fault) || p.Version != row.want {
				t.Fatalf("%+v, %v; want an error and version %v", p, err, row.want)
			}
			if code, ok := fault.Reason.ConnackCode(); code != row.code || ok != row.answered {
				t.Errorf("%v: return code %d, %v; want %d, %v", err, code, ok, row.code, row.answered)
			}
		})
	}
}

// 3.1.1 lets Remaining Length be written longer than it must be.
func TestOverlongLength(t *testing.T) {
	for _, wire := range []string{"\xc0\x80\x00", "\xc0\x80\x80\x80\x00", "\x10\x8d\x00" + pk(0x10, st("MQTT"), "\x04\x02\x00\x3c", st("a"))[2:]} {
		r := rulesFor(Type(wire[0]>>4), V311, Client)
		if p, err := read([]byte(wire), r); err != nil {
			t.Errorf("%q: %+v, %v", wire, p, err)
		}
	}
}

func TestSecondConnect(t *testing.T) {
	err := Header{Type: CONNECT, Length: 12}.Check(Rules{Version: V5})
	if fault := (*Error)(nil); !errors.As(err, &fault) || fault.Reason != ProtocolError {
		t.Errorf("got %v, want a protocol error", err)
	}
}

// Servers that know no 5.0 answer in the form of 3.1.1.
func TestRefusalOfOlderServer(t *testing.T) {
	p, err := read([]byte("\x20\x02\x00\x01"), Rules{Version: V5, From: Server})
	if c, ok := p.(Connack); err != nil || !ok || c.Reason != UnsupportedVersion {
		t.Errorf("got %+v, %v", p, err)
	}
}

// A limit of its own is kept to the octet, and what is within it is read.
func TestLimits(t *testing.T) {
	connect := pk(0x10, st("MQTT"), "\x05\xc2\x00\x3c", pr("\x26", st("k1"), st("v"), "\x26", st("k"), st("v2")), st("abc"), st("name"), st("secret"))
	publish := pk(0x30, st("a/b/c"), pr(), "hello")
	for _, row := range []struct {
		name, wire  string
		fits, tight Limits
		want        Reason
	}{
		{"CONNECT", connect, Limits{Connect: len(connect)}, Limits{Connect: len(connect) - 1}, PacketTooLarge},
		{"client id", connect, Limits{ClientID: 3}, Limits{ClientID: 2}, ClientIDNotValid},
		{"user name", connect, Limits{UserName: 4}, Limits{UserName: 3}, BadUserNameOrPassword},
		{"password", connect, Limits{Password: 6}, Limits{Password: 5}, BadUserNameOrPassword},
		{"user properties", connect, Limits{UserProperties: 2}, Limits{UserProperties: 1}, PacketTooLarge},
		{"octets of user properties", connect, Limits{UserOctets: 6}, Limits{UserOctets: 5}, PacketTooLarge},
		{"packet", publish, Limits{Packet: len(publish)}, Limits{Packet: len(publish) - 1}, PacketTooLarge},
		{"topic", publish, Limits{Topic: 5}, Limits{Topic: 4}, TopicNameInvalid},
		{"levels", publish, Limits{Levels: 3}, Limits{Levels: 2}, TopicNameInvalid},
	} {
		t.Run(row.name, func(t *testing.T) {
			r := rulesFor(Type(row.wire[0]>>4), V5, Client)
			r.Limits = &row.fits
			if _, err := read([]byte(row.wire), r); err != nil {
				t.Errorf("within %+v: %v", row.fits, err)
			}
			r.Limits = &row.tight
			_, err := read([]byte(row.wire), r)
			if fault := (*Error)(nil); !errors.As(err, &fault) || fault.Reason != row.want {
				t.Errorf("beyond %+v: %v, want reason %s", row.tight, err, row.want)
			}
		})
	}
}

// Filters above the limit are counted, so that each can be answered, and checked.
func TestFiltersBeyond(t *testing.T) {
	var subscribe, unsubscribe string
	for range 70 {
		subscribe += st("a") + "\x01"
		unsubscribe += st("a")
	}
	r := Rules{Version: V311}
	p, err := read([]byte(pk(0x82, "\x00\x01", subscribe)), r)
	if s, ok := p.(Subscribe); err != nil || !ok || len(s.Filters) != 64 || s.Beyond != 6 {
		t.Errorf("SUBSCRIBE: %d filters and %d beyond, %v", len(s.Filters), s.Beyond, err)
	}
	p, err = read([]byte(pk(0xa2, "\x00\x01", unsubscribe)), r)
	if u, ok := p.(Unsubscribe); err != nil || !ok || len(u.Filters) != 64 || u.Beyond != 6 {
		t.Errorf("UNSUBSCRIBE: %d filters and %d beyond, %v", len(u.Filters), u.Beyond, err)
	}
	if p, err := read([]byte(pk(0x82, "\x00\x01", subscribe, st("a"))), r); err == nil {
		t.Errorf("a filter beyond the limit without options was read as %+v", p)
	}
}
