package mqtt

import (
	"bytes"
	"encoding/binary"
	"errors"
	"reflect"
	"strings"
	"testing"
)

// pk is a packet from its first octet and the parts of its body.
func pk(first byte, parts ...string) string {
	body := strings.Join(parts, "")
	return string([]byte{first}) + vi(len(body)) + body
}

// st is a string or binary data with its length, vi a varint, pr a block of properties.
func st(s string) string { return string(binary.BigEndian.AppendUint16(nil, uint16(len(s)))) + s }

func vi(n int) string {
	var b []byte
	for ; n >= 128; n >>= 7 {
		b = append(b, byte(n)|128)
	}
	return string(append(b, byte(n)))
}

func pr(parts ...string) string {
	block := strings.Join(parts, "")
	return vi(len(block)) + block
}

type example struct {
	name string
	v    Version
	from Side
	wire string
	want Packet
}

// examples are packets as they may come, in both versions.
func examples() []example {
	user := "\x26" + st("k") + st("v")
	users := UserProperties(user)
	connect := func(level, flags string) string { return st("MQTT") + level + flags + "\x00\x3c" }
	return []example{
		{"CONNECT, least", V311, Client, pk(0x10, connect("\x04", "\x02"), st("")), Connect{Version: V311, CleanStart: true, KeepAlive: 60}},
		{"CONNECT with all", V311, Client, pk(0x10, connect("\x04", "\xee"), st("dev-1"), st("t/will"), st("gone"), st("me"), st("secret")),
			Connect{Version: V311, CleanStart: true, KeepAlive: 60, ClientID: "dev-1", Will: &Will{QoS: 1, Retain: true, Topic: "t/will", Payload: []byte("gone")},
				UserName: Some("me"), Password: []byte("secret")}},
		{"CONNECT, session kept", V311, Client, pk(0x10, connect("\x04", "\x80"), st("dev-1"), st("")),
			Connect{Version: V311, KeepAlive: 60, ClientID: "dev-1", UserName: Some("")}},
		{"CONNECT, least", V5, Client, pk(0x10, connect("\x05", "\x00"), pr(), st("")), Connect{Version: V5, KeepAlive: 60}},
		{"CONNECT with a password alone", V5, Client, pk(0x10, connect("\x05", "\x42"), pr(), st("a"), st("")),
			Connect{Version: V5, CleanStart: true, KeepAlive: 60, ClientID: "a", Password: []byte{}}},
		{"CONNECT with all", V5, Client, pk(0x10, connect("\x05", "\xd4"),
			pr("\x11\x00\x00\x0e\x10", "\x21\x00\x20", "\x27\x00\x01\x00\x00", "\x22\x00\x0a", "\x19\x01", "\x17\x00", "\x15", st("SCRAM"), "\x16", st("\x00\xff"), user), st("dev-1"),
			pr("\x18\x00\x00\x00\x05", "\x01\x01", "\x02\x00\x00\x00\x3c", "\x03", st("text/plain"), "\x08", st("t/answer"), "\x09", st("\x01\x02"), user), st("t/will"), st("gone"),
			st("me"), st("\x00")),
			Connect{Version: V5, KeepAlive: 60, ClientID: "dev-1", SessionExpiry: 3600, ReceiveMaximum: 32, MaximumPacketSize: 65536, TopicAliasMaximum: 10,
				RequestResponseInfo: true, NoProblemInfo: true, AuthenticationMethod: Some("SCRAM"), AuthenticationData: []byte("\x00\xff"), User: users,
				Will: &Will{QoS: 2, Topic: "t/will", Payload: []byte("gone"), Delay: 5, Properties: Properties{PayloadFormat: Some(uint8(1)), MessageExpiry: Some(uint32(60)),
					ContentType: []byte("text/plain"), ResponseTopic: []byte("t/answer"), CorrelationData: []byte("\x01\x02"), User: users}},
				UserName: Some("me"), Password: []byte{0}}},

		{"CONNACK", V311, Server, pk(0x20, "\x01\x00"), Connack{SessionPresent: true}},
		{"CONNACK, refused", V311, Server, pk(0x20, "\x00\x05"), Connack{Reason: NotAuthorised}},
		{"CONNACK", V5, Server, pk(0x20, "\x00\x00", pr()), Connack{}},
		{"CONNACK with all", V5, Server, pk(0x20, "\x01\x00", pr("\x11\x00\x00\x00\x00", "\x21\x00\x20", "\x24\x01", "\x25\x00", "\x27\x00\x02\x00\x00", "\x12", st("dev-1"), "\x22\x00\x10",
			"\x1f", st("well"), "\x28\x00", "\x29\x01", "\x2a\x00", "\x13\x04\xb0", "\x1a", st("r/"), "\x1c", st("other:8883"), "\x15", st("X"), "\x16", st(""), user, user)),
			Connack{SessionPresent: true, SessionExpiry: Some(uint32(0)), ReceiveMaximum: 32, MaximumQoS: Some(AtLeastOnce), RetainAvailable: Some(false),
				MaximumPacketSize: 131072, AssignedClientID: "dev-1", TopicAliasMaximum: 16, ReasonString: "well", WildcardAvailable: Some(false),
				SubscriptionIDsAvailable: Some(true), SharedAvailable: Some(false), ServerKeepAlive: Some(uint16(1200)), ResponseInfo: "r/", ServerReference: "other:8883",
				AuthenticationMethod: Some("X"), AuthenticationData: []byte{}, User: UserProperties(user + user)}},

		{"PUBLISH with QoS 0", V311, Client, pk(0x30, st("a/b"), "hello"), Publish{RawTopic: []byte("a/b"), Payload: []byte("hello")}},
		{"PUBLISH without a payload", V311, Client, pk(0x31, st("a/b")), Publish{Retain: true, RawTopic: []byte("a/b"), Payload: []byte{}}},
		{"PUBLISH with QoS 2, again", V311, Server, pk(0x3c, st("a/b"), "\x00\x07", "\x00"), Publish{Duplicate: true, QoS: 2, ID: 7, RawTopic: []byte("a/b"), Payload: []byte{0}}},
		{"PUBLISH with a long payload", V311, Client, pk(0x32, st("a"), "\x00\x01", strings.Repeat("x", 20000)),
			Publish{QoS: 1, ID: 1, RawTopic: []byte("a"), Payload: bytes.Repeat([]byte("x"), 20000)}},
		{"PUBLISH", V5, Client, pk(0x30, st("a/b"), pr(), "hello"), Publish{RawTopic: []byte("a/b"), Payload: []byte("hello")}},
		{"PUBLISH with an alias alone", V5, Client, pk(0x30, st(""), pr("\x23\x00\x03"), "hello"), Publish{RawTopic: []byte{}, TopicAlias: 3, Payload: []byte("hello")}},
		{"PUBLISH with all", V5, Server, pk(0x33, st("a/b"), "\x12\x34", pr("\x23\x00\x03", "\x0b\x01", "\x0b\xff\xff\xff\x7f", "\x01\x00", "\x02\x00\x00\x00\x00", "\x03", st(""), "\x08", st("r"),
			"\x09", st(""), user), "hello"),
			Publish{QoS: 1, Retain: true, ID: 0x1234, RawTopic: []byte("a/b"), TopicAlias: 3, SubscriptionIDs: []uint32{1, 268435455}, Payload: []byte("hello"),
				Properties: Properties{PayloadFormat: Some(uint8(0)), MessageExpiry: Some(uint32(0)), ContentType: []byte{}, ResponseTopic: []byte("r"), CorrelationData: []byte{}, User: users}}},

		{"PUBACK", V311, Client, pk(0x40, "\x00\x01"), Ack{Type: PUBACK, ID: 1}},
		{"PUBREC", V311, Server, pk(0x50, "\xff\xff"), Ack{Type: PUBREC, ID: 65535}},
		{"PUBREL", V311, Client, pk(0x62, "\x00\x01"), Ack{Type: PUBREL, ID: 1}},
		{"PUBCOMP", V311, Client, pk(0x70, "\x00\x01"), Ack{Type: PUBCOMP, ID: 1}},
		{"PUBACK of 2 octets", V5, Client, pk(0x40, "\x00\x01"), Ack{Type: PUBACK, ID: 1}},
		{"PUBACK of 3 octets", V5, Client, pk(0x40, "\x00\x01\x10"), Ack{Type: PUBACK, ID: 1, Reason: NoMatchingSubscribers}},
		{"PUBACK with all", V5, Server, pk(0x40, "\x00\x01\x97", pr("\x1f", st("full"), user)), Ack{Type: PUBACK, ID: 1, Reason: QuotaExceeded, ReasonString: "full", User: users}},
		{"PUBREC", V5, Client, pk(0x50, "\x00\x01\x91"), Ack{Type: PUBREC, ID: 1, Reason: PacketIDInUse}},
		{"PUBREL", V5, Client, pk(0x62, "\x00\x01\x92"), Ack{Type: PUBREL, ID: 1, Reason: PacketIDNotFound}},
		{"PUBCOMP", V5, Server, pk(0x70, "\x00\x01\x92", pr("\x1f", st("new"))), Ack{Type: PUBCOMP, ID: 1, Reason: PacketIDNotFound, ReasonString: "new"}},

		{"SUBSCRIBE", V311, Client, pk(0x82, "\x00\x0a", st("a/+"), "\x00", st("#"), "\x02"), Subscribe{ID: 10, Filters: []Subscription{{Filter: "a/+"}, {Filter: "#", QoS: 2}}}},
		{"SUBSCRIBE", V5, Client, pk(0x82, "\x00\x0a", pr(), st("a"), "\x01"), Subscribe{ID: 10, Filters: []Subscription{{Filter: "a", QoS: 1}}}},
		{"SUBSCRIBE with all", V5, Client, pk(0x82, "\x00\x0a", pr("\x0b\x80\x01", user), st("a/+"), "\x2e", st("$share/g/a"), "\x1a"),
			Subscribe{ID: 10, SubscriptionID: 128, User: users, Filters: []Subscription{{Filter: "a/+", QoS: 2, NoLocal: true, RetainAsPublished: true, RetainHandling: RetainNone},
				{Filter: "$share/g/a", QoS: 2, RetainAsPublished: true, RetainHandling: RetainSendNew}}}},
		{"SUBACK", V311, Server, pk(0x90, "\x00\x0a", "\x00\x02\x80"), Suback{ID: 10, Reasons: []Reason{0, 2, Unspecified}}},
		{"SUBACK", V5, Server, pk(0x90, "\x00\x0a", pr("\x1f", st("no"), user), "\x01\x87\x8f"), Suback{ID: 10, ReasonString: "no", User: users, Reasons: []Reason{1, NotAuthorised, TopicFilterInvalid}}},
		{"UNSUBSCRIBE", V311, Client, pk(0xa2, "\x00\x0b", st("a/+"), st("#")), Unsubscribe{ID: 11, Filters: []string{"a/+", "#"}}},
		{"UNSUBSCRIBE", V5, Client, pk(0xa2, "\x00\x0b", pr(user), st("a/+")), Unsubscribe{ID: 11, User: users, Filters: []string{"a/+"}}},
		{"UNSUBACK", V311, Server, pk(0xb0, "\x00\x0b"), Unsuback{ID: 11}},
		{"UNSUBACK", V5, Server, pk(0xb0, "\x00\x0b", pr("\x1f", st("none")), "\x00\x11"), Unsuback{ID: 11, ReasonString: "none", Reasons: []Reason{0, NoSubscriptionExisted}}},

		{"PINGREQ", V311, Client, pk(0xc0), Pingreq{}},
		{"PINGREQ", V5, Client, pk(0xc0), Pingreq{}},
		{"PINGRESP", V311, Server, pk(0xd0), Pingresp{}},
		{"PINGRESP", V5, Server, pk(0xd0), Pingresp{}},

		{"DISCONNECT", V311, Client, pk(0xe0), Disconnect{}},
		{"DISCONNECT", V5, Client, pk(0xe0), Disconnect{}},
		{"DISCONNECT of one octet", V5, Client, pk(0xe0, "\x04"), Disconnect{Reason: DisconnectWithWill}},
		{"DISCONNECT of a client with all", V5, Client, pk(0xe0, "\x00", pr("\x11\x00\x00\x00\x00", "\x1f", st("bye"), user)),
			Disconnect{SessionExpiry: Some(uint32(0)), ReasonString: "bye", User: users}},
		{"DISCONNECT of a server with all", V5, Server, pk(0xe0, "\x9c", pr("\x1c", st("b:8883"), "\x1f", st("busy"), user)),
			Disconnect{Reason: UseAnotherServer, ServerReference: "b:8883", ReasonString: "busy", User: users}},
		{"AUTH of a server without anything", V5, Server, pk(0xf0), Auth{}},
		{"AUTH", V5, Client, pk(0xf0, "\x18", pr("\x15", st("SCRAM"), "\x16", st("x"), "\x1f", st("go on"), user)),
			Auth{Reason: ContinueAuthentication, AuthenticationMethod: Some("SCRAM"), AuthenticationData: []byte("x"), ReasonString: "go on", User: users}},
	}
}

// rules are those by which an example is read.
func (e example) rules() Rules { return rulesFor(Type(e.wire[0]>>4), e.v, e.from) }

func rulesFor(t Type, v Version, from Side) Rules {
	if t == CONNECT {
		v = 0
	}
	return Rules{Version: v, From: from}
}

func (e example) title() string { return e.v.String() + " " + e.name }

// read reads one packet that is all of b.
func read(b []byte, r Rules) (Packet, error) {
	h, n, err := ParseHeader(b)
	if err != nil {
		return nil, err
	}
	if err := h.Check(r); err != nil {
		return nil, err
	}
	if len(b) != h.Size(n) {
		return nil, ErrMore
	}
	return Decode(r, h, b[n:])
}

func TestPackets(t *testing.T) {
	for _, e := range examples() {
		t.Run(e.title(), func(t *testing.T) {
			got, err := read([]byte(e.wire), e.rules())
			if err != nil {
				t.Fatalf("%q: %v", e.wire, err)
			}
			if !reflect.DeepEqual(got, e.want) {
				t.Errorf("%q\n got %+v\nwant %+v", e.wire, got, e.want)
			}
			if again := e.want.Append([]byte("before"), e.v); string(again) != "before"+e.wire {
				t.Errorf("written as\n%q, want\n%q", again[len("before"):], e.wire)
			}
		})
	}
}

// Every beginning of a packet wants more, and every beginning of a body that says it is whole is refused.
func TestTruncation(t *testing.T) {
	for _, e := range examples() {
		t.Run(e.title(), func(t *testing.T) {
			h, n, err := ParseHeader([]byte(e.wire))
			if err != nil {
				t.Fatal(err)
			}
			for i := range min(len(e.wire), 200) {
				if p, err := read([]byte(e.wire[:i]), e.rules()); !errors.Is(err, ErrMore) {
					t.Errorf("the first %d octets: %+v, %v; want ErrMore", i, p, err)
				}
			}
			body := e.wire[n:]
			for i := range min(len(body), 200) {
				cut := Header{Type: h.Type, Flags: h.Flags, Length: i}
				p, err := Decode(e.rules(), cut, []byte(body[:i]))
				if fault := (*Error)(nil); err != nil && !errors.As(err, &fault) {
					t.Errorf("a body of the first %d octets: %v is no *Error", i, err)
				}
				if err != nil {
					continue
				}
				// Lists, payloads and what may be left out end anywhere: then it is that packet, and no other.
				again := p.Append(nil, e.v)
				if normal := h.Type == DISCONNECT && body[:i] == "\x00"; !normal && string(again[1+len(vi(i)):]) != body[:i] {
					t.Errorf("a body of the first %d octets was read as %+v", i, p)
				}
			}
		})
	}
}
