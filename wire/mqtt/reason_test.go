package mqtt

import (
	"strings"
	"testing"
)

// Which reason stands where, as the sections of the packets in the standard list them.
func TestReasons(t *testing.T) {
	codes := func(list ...Reason) (all [256]bool) {
		for _, r := range list {
			all[r] = true
		}
		return all
	}
	puback := codes(0x00, 0x10, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99)
	pubrel := codes(0x00, 0x92)
	for _, row := range []struct {
		packet Type
		from   Side
		want   [256]bool
	}{
		{CONNACK, Server, codes(0x00, 0x80, 0x81, 0x82, 0x83, 0x84, 0x85, 0x86, 0x87, 0x88, 0x89, 0x8a, 0x8c, 0x90, 0x95, 0x97, 0x99, 0x9a, 0x9b, 0x9c, 0x9d, 0x9f)},
		{PUBACK, Client, puback}, {PUBACK, Server, puback}, {PUBREC, Client, puback}, {PUBREC, Server, puback},
		{PUBREL, Client, pubrel}, {PUBREL, Server, pubrel}, {PUBCOMP, Client, pubrel}, {PUBCOMP, Server, pubrel},
		{SUBACK, Server, codes(0x00, 0x01, 0x02, 0x80, 0x83, 0x87, 0x8f, 0x91, 0x97, 0x9e, 0xa1, 0xa2)},
		{UNSUBACK, Server, codes(0x00, 0x11, 0x80, 0x83, 0x87, 0x8f, 0x91)},
		{DISCONNECT, Client, codes(0x00, 0x04, 0x80, 0x81, 0x82, 0x83, 0x90, 0x93, 0x94, 0x95, 0x96, 0x97, 0x98, 0x99)},
		{DISCONNECT, Server, codes(0x00, 0x80, 0x81, 0x82, 0x83, 0x87, 0x89, 0x8b, 0x8d, 0x8e, 0x8f, 0x90, 0x93, 0x94, 0x95, 0x96, 0x97, 0x98, 0x99, 0x9a, 0x9b, 0x9c, 0x9d, 0x9e,
			0x9f, 0xa0, 0xa1, 0xa2)},
		{AUTH, Client, codes(0x18, 0x19)},
		{AUTH, Server, codes(0x00, 0x18)},
		{PUBLISH, Client, codes()},
	} {
		for r := range 256 {
			if got := Reason(r).Legal(row.packet, row.from); got != row.want[r] {
				t.Errorf("reason 0x%02X in %s of the %s: %v", r, row.packet, row.from, got)
			}
		}
	}
}

// Every reason that may stand anywhere has a name of its own, and no other one has.
func TestReasonNames(t *testing.T) {
	names := make(map[string]Reason)
	for r := range 256 {
		name, somewhere := Reason(r).String(), reasons[r].where != 0
		if named := !strings.HasPrefix(name, "reason 0x"); named != somewhere {
			t.Errorf("reason 0x%02X is %q, and may stand somewhere: %v", r, name, somewhere)
		}
		if other, twice := names[name]; twice {
			t.Errorf("0x%02X and 0x%02X are both %q", uint8(other), r, name)
		}
		names[name] = Reason(r)
	}
	if got := Reason(0xfe).String(); got != "reason 0xFE" {
		t.Errorf("got %q", got)
	}
}

// What CONNACK of 3.1.1 says is understood as the same, and it says something only of what may be in a CONNACK.
func TestConnackCodes(t *testing.T) {
	for r := range 256 {
		code, ok := Reason(r).ConnackCode()
		if !ok {
			if b := (Connack{Reason: Reason(r)}).Append(nil, V311); len(b) != 0 {
				t.Errorf("reason 0x%02X has no return code and is written as %x", r, b)
			}
			continue
		}
		if !Reason(r).Legal(CONNACK, Server) || (code == 0) != (Reason(r) == Success) {
			t.Errorf("reason 0x%02X has the return code %d", r, code)
		}
		p, err := read(Connack{Reason: Reason(r)}.Append(nil, V311), Rules{Version: V311, From: Server})
		got, isConnack := p.(Connack)
		if again, _ := got.Reason.ConnackCode(); err != nil || !isConnack || again != code {
			t.Errorf("reason 0x%02X: return code %d came back as %s, %v", r, code, got.Reason, err)
		}
	}
}

func TestNames(t *testing.T) {
	for got, want := range map[string]string{
		V5.String(): "MQTT 5.0", V311.String(): "MQTT 3.1.1", Version(3).String(): "MQTT level 3", CONNECT.String(): "CONNECT", AUTH.String(): "AUTH",
		Type(77).String(): "type 77", Client.String(): "client", Server.String(): "server",
		(&Error{Malformed, PUBLISH, "the QoS is 3"}).Error():        "PUBLISH: the QoS is 3 (malformed packet)",
		(&Error{TopicNameInvalid, 0, "the topic is empty"}).Error(): "the topic is empty (topic name invalid)",
	} {
		if got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

// What a stranger sent is not in the words, which go to logs.
func TestErrorsDoNotQuote(t *testing.T) {
	for _, wire := range []string{
		pk(0x30, st("secret/#")), pk(0x30, st("secret\x01")), pk(0x30, st("secret\xff")), pk(0x10, st("MQTT"), "\x04\x02\x00\x3c", st("secret\n")), pk(0x10, st("secret"), "\x04\x02\x00\x3c", st("")),
	} {
		_, err := read([]byte(wire), rulesFor(Type(wire[0]>>4), V311, Client))
		if err == nil || strings.Contains(err.Error(), "secret") {
			t.Errorf("%q: %v", wire, err)
		}
	}
}
