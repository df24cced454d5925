package mqtt

import (
	"bytes"
	"slices"
	"strings"
	"testing"
)

func publish5() Publish {
	return Publish{QoS: AtLeastOnce, ID: 7, Topic: "v1/acme/dev-1/telemetry/temperature", Payload: []byte("21.5"), SubscriptionIDs: []uint32{1, 300},
		Properties: Properties{MessageExpiry: Some(uint32(60)), ContentType: []byte("text/plain"), CorrelationData: []byte("1"),
			User: UserProperties(nil).Add("site", "north").Add("site", "south")}}
}

// Messages and their acknowledgements take no memory beyond the caller's buffer, in either direction.
func TestMessagesTakeNoMemory(t *testing.T) {
	message := publish5()
	buffer := make([]byte, 0, 1024)
	ack := Ack{Type: PUBACK, ID: 7, Reason: NotAuthorised}
	for _, v := range []Version{V311, V5} {
		if n := testing.AllocsPerRun(100, func() {
			buffer = ack.Append(message.Append(buffer[:0], v), v)
			buffer = Disconnect{Reason: QuotaExceeded}.Append(Pingresp{}.Append(buffer, v), v)
		}); n != 0 {
			t.Errorf("%v: writing takes %v allocations", v, n)
		}
		sent := message
		sent.SubscriptionIDs = nil // a client sends none
		wire := sent.Append(nil, v)
		acked := Ack{Type: PUBACK, ID: 7}.Append(nil, v)
		r := Rules{Version: v}
		if n := testing.AllocsPerRun(100, func() {
			h, n, err := ParseHeader(wire)
			if err != nil || h.Check(r) != nil {
				t.Fatal("the example is wrong")
			}
			p, err := DecodePublish(r, h, wire[n:])
			if err != nil || string(p.RawTopic) != message.Topic || v == V5 && len(p.User) != len(message.User) {
				t.Fatalf("the example is wrong: %v", err)
			}
			h, n, err = ParseHeader(acked)
			if a, fault := DecodeAck(r, h, acked[n:]); err != nil || fault != nil || a.ID != 7 {
				t.Fatal("the example is wrong")
			}
		}); n != 0 {
			t.Errorf("%v: reading takes %v allocations", v, n)
		}
	}
}

// A header that claims much costs nothing.
func TestClaimTakesNoMemory(t *testing.T) {
	claim := []byte("\x30\xff\xff\xff\x7f")
	h, n, err := ParseHeader(claim)
	if err != nil || n != 5 || h.Length != MaxLength {
		t.Fatalf("%+v, %d, %v", h, n, err)
	}
	if h.Check(Rules{Version: V311}) == nil {
		t.Error("256 MB are within the limits")
	}
}

func TestUserProperties(t *testing.T) {
	u := UserProperties(nil).Add("a", "1").Add("", "").Add("a", "2")
	var got []string
	for name, value := range u.All() {
		got = append(got, name+"="+value)
	}
	if want := []string{"a=1", "=", "a=2"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	if v, ok := u.Get("a"); v != "1" || !ok {
		t.Errorf("Get(a) = %q, %v", v, ok)
	}
	if v, ok := u.Get("b"); ok {
		t.Errorf("Get(b) = %q", v)
	}
	for range u.All() { // stops when it is told
		break
	}
}

// User properties may stand apart; what stands between them is none.
func TestUserPropertiesApart(t *testing.T) {
	one, two := "\x26"+st("k")+st("1"), "\x26"+st("k")+st("2")
	wire := pk(0x30, st("t"), pr("\x01\x01", one, "\x23\x00\x05", "\x0b\x80\x01", "\x02\x00\x00\x00\x09", "\x03", st("text"), "\x09", st("&"), two, "\x08", st("r")), "p")
	p, err := read([]byte(wire), Rules{Version: V5, From: Server})
	if err != nil {
		t.Fatal(err)
	}
	m, ok := p.(Publish)
	if !ok {
		t.Fatalf("got %T", p)
	}
	var got []string
	for name, value := range m.User.All() {
		got = append(got, name+value)
	}
	if !slices.Equal(got, []string{"k1", "k2"}) {
		t.Errorf("user properties %q", got)
	}
	want := pk(0x30, st("t"), pr("\x23\x00\x05", "\x0b\x80\x01", "\x01\x01", "\x02\x00\x00\x00\x09", "\x03", st("text"), "\x08", st("r"), "\x09", st("&"), one, two), "p")
	if again := m.Append(nil, V5); string(again) != want {
		t.Errorf("written as\n%q, want\n%q", again, want)
	}
}

// Whatever a caller takes for user properties, only whole ones are written.
func TestUserPropertiesBroken(t *testing.T) {
	good := string(UserProperties(nil).Add("k", "v"))
	for _, junk := range []string{"\x26", "\x26\x00", "\x26\x00\x05k", "\x26\x00\x01k\x00", "\x26\x00\x01k\x00\x02v", "\x00", "\x7f", "\xff", "\x02\x00", "\x0b\xff\xff\xff\xff", "\x0b\x80"} {
		b := Ack{Type: PUBACK, ID: 1, User: UserProperties(good + junk)}.Append(nil, V5)
		if want := pk(0x40, "\x00\x01\x00", pr(good)); string(b) != want {
			t.Errorf("%q behind a good one is written as %q, want %q", junk, b, want)
		}
	}
}

// What is appended to something that a decoder returned does not reach the rest of the body.
func TestDecodedHasNoRoom(t *testing.T) {
	m := publish5()
	m.SubscriptionIDs = nil
	stream := m.Append(nil, V5)
	end := len(stream)
	stream = Pingreq{}.Append(stream, V5) // what came behind it
	wire, before := stream[:end], bytes.Clone(stream)
	p, err := read(wire, Rules{Version: V5})
	if err != nil {
		t.Fatal(err)
	}
	got, ok := p.(Publish)
	if !ok {
		t.Fatalf("got %T", p)
	}
	for _, b := range [][]byte{got.RawTopic, got.ContentType, got.CorrelationData, got.User, got.Payload} {
		_ = append(b, "xxxxxxxx"...)
	}
	if !bytes.Equal(stream, before) {
		t.Error("appending changed the packet, or the next one")
	}
}

// Lengths change their number of octets at 128, 16,384 and 2,097,152.
func TestLengths(t *testing.T) {
	r := Rules{Version: V5, Limits: &Limits{Packet: 1 << 28}}
	for _, n := range []int{0, 1, 120, 121, 122, 123, 124, 125, 126, 127, 128, 129, 16380, 16381, 16382, 16383, 16384, 16385, 2097148, 2097149, 2097150, 2097151, 2097152, 2097153} {
		m := Publish{Topic: "t", Payload: bytes.Repeat([]byte{0x5a}, n)}
		want := pk(0x30, st("t"), pr(), string(m.Payload))
		b := m.Append([]byte("before"), V5)
		if string(b) != "before"+want {
			t.Fatalf("a payload of %d octets: written wrongly", n)
		}
		p, err := read(b[len("before"):], r)
		if got, ok := p.(Publish); err != nil || !ok || !bytes.Equal(got.Payload, m.Payload) {
			t.Fatalf("a payload of %d octets: %v", n, err)
		}
	}
	for _, n := range []int{100, 119, 120, 121, 122, 123, 124, 16000, 16375, 16376, 16377, 16378, 16379, 20000} {
		value := strings.Repeat("v", n)
		b := Ack{Type: PUBACK, ID: 1, User: UserProperties(nil).Add("k", value)}.Append(nil, V5)
		if want := pk(0x40, "\x00\x01\x00", pr("\x26", st("k"), st(value))); string(b) != want {
			t.Fatalf("a User Property of %d octets: written wrongly", n)
		}
	}
}

// Only the programmer can cause these.
func TestWhatCannotBeWritten(t *testing.T) {
	for name, p := range map[string]Packet{
		"topic":         Publish{Topic: strings.Repeat("a", 65536)},
		"client id":     Connect{Version: V311, ClientID: strings.Repeat("a", 65536)},
		"reason string": Ack{Type: PUBACK, ID: 1, ReasonString: strings.Repeat("a", 65536)},
		"payload":       Publish{Topic: "a", Payload: make([]byte, MaxLength)},
	} {
		t.Run(name, func(t *testing.T) {
			defer func() {
				if recover() == nil {
					t.Error("was written")
				}
			}()
			p.Append(nil, V5)
		})
	}
}

func BenchmarkAppendPublish(b *testing.B) {
	m, buffer := publish5(), make([]byte, 0, 1024)
	for b.Loop() {
		buffer = m.Append(buffer[:0], V5)
	}
}

func BenchmarkDecodePublish(b *testing.B) {
	m := publish5()
	m.SubscriptionIDs = nil
	wire := m.Append(nil, V5)
	r := Rules{Version: V5}
	for b.Loop() {
		h, n, err := ParseHeader(wire)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := DecodePublish(r, h, wire[n:]); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkDecodePublish311(b *testing.B) {
	wire := Publish{QoS: AtLeastOnce, ID: 7, Topic: "v1/acme/dev-1/telemetry/temperature", Payload: make([]byte, 64)}.Append(nil, V311)
	r := Rules{Version: V311, Limits: &Limits{}}
	for b.Loop() {
		h, n, err := ParseHeader(wire)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := DecodePublish(r, h, wire[n:]); err != nil {
			b.Fatal(err)
		}
	}
}
