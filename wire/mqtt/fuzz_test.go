package mqtt

import (
	"bytes"
	"errors"
	"testing"
)

// Whatever is read is written so that it is read as the same.
func fuzz[P Packet](f *testing.F, t Type, decode func(Rules, Header, []byte) (P, error)) {
	for _, e := range examples() {
		if h, n, err := ParseHeader([]byte(e.wire)); err == nil && h.Type == t && h.Length < 1000 { // what is long takes the fuzzer's time
			f.Add(e.v == V5, e.from == Server, h.Flags, []byte(e.wire[n:]))
		}
	}
	f.Fuzz(func(t2 *testing.T, five, server bool, flags uint8, body []byte) {
		v, from := V311, Client
		if five {
			v = V5
		}
		if server {
			from = Server
		}
		r := rulesFor(t, v, from)
		p, err := decode(r, Header{Type: t, Flags: flags & 15, Length: len(body)}, body)
		if err != nil {
			if fault := (*Error)(nil); !errors.As(err, &fault) || !fault.Reason.Failed() {
				t2.Fatalf("%x: %v is no *Error, or of no failure", body, err)
			}
			return
		}
		if c, ok := Packet(p).(Connect); ok {
			v = c.Version
		}
		checkRoundTrip(t2, p, r, v)
	})
}

func checkRoundTrip(t *testing.T, p Packet, r Rules, v Version) {
	t.Helper()
	written := p.Append(nil, v)
	again, err := read(written, r)
	if err != nil {
		t.Fatalf("%+v was written as %x, which is not read: %v", p, written, err)
	}
	if twice := again.Append(nil, v); !bytes.Equal(twice, written) {
		t.Fatalf("%+v was written as %x, and then as %x", p, written, twice)
	}
}

func FuzzDecodeConnect(f *testing.F)     { fuzz(f, CONNECT, DecodeConnect) }
func FuzzDecodeConnack(f *testing.F)     { fuzz(f, CONNACK, DecodeConnack) }
func FuzzDecodePublish(f *testing.F)     { fuzz(f, PUBLISH, DecodePublish) }
func FuzzDecodeSubscribe(f *testing.F)   { fuzz(f, SUBSCRIBE, DecodeSubscribe) }
func FuzzDecodeSuback(f *testing.F)      { fuzz(f, SUBACK, DecodeSuback) }
func FuzzDecodeUnsubscribe(f *testing.F) { fuzz(f, UNSUBSCRIBE, DecodeUnsubscribe) }
func FuzzDecodeUnsuback(f *testing.F)    { fuzz(f, UNSUBACK, DecodeUnsuback) }
func FuzzDecodePingreq(f *testing.F)     { fuzz(f, PINGREQ, DecodePingreq) }
func FuzzDecodePingresp(f *testing.F)    { fuzz(f, PINGRESP, DecodePingresp) }
func FuzzDecodeDisconnect(f *testing.F)  { fuzz(f, DISCONNECT, DecodeDisconnect) }
func FuzzDecodeAuth(f *testing.F)        { fuzz(f, AUTH, DecodeAuth) }

func FuzzDecodeAck(f *testing.F) {
	for _, t := range []Type{PUBREC, PUBREL, PUBCOMP} {
		f.Add(true, false, uint8(t), []byte("\x00\x01\x92\x00"))
	}
	fuzz(f, PUBACK, DecodeAck)
}

// FuzzParseHeader also checks that more octets never change what was said of the first.
func FuzzParseHeader(f *testing.F) {
	for _, e := range examples() {
		f.Add([]byte(e.wire[:min(len(e.wire), 8)]))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		h, n, err := ParseHeader(b)
		if err == nil && (n < 2 || n > 5 || n > len(b) || h.Length < 0 || h.Length > MaxLength) {
			t.Fatalf("%x: %+v in %d octets", b, h, n)
		}
		longer, m, errLonger := ParseHeader(append(bytes.Clone(b), 0x80))
		if !errors.Is(err, ErrMore) && (longer != h || m != n || (err == nil) != (errLonger == nil)) {
			t.Fatalf("%x: %+v, %d, %v, and with one octet more %+v, %d, %v", b, h, n, err, longer, m, errLonger)
		}
	})
}

// FuzzDecode reads a stream of packets, as a connection does.
func FuzzDecode(f *testing.F) {
	for _, e := range examples() {
		if len(e.wire) < 1000 {
			f.Add(e.v == V5, e.from == Server, []byte(e.wire))
		}
	}
	f.Fuzz(func(t *testing.T, five, server bool, b []byte) {
		v, from := V311, Client
		if five {
			v = V5
		}
		if server {
			from = Server
		}
		for {
			h, n, err := ParseHeader(b)
			if err != nil || h.Size(n) > len(b) {
				return
			}
			r := rulesFor(h.Type, v, from)
			p, err := Decode(r, h, b[n:h.Size(n)])
			if err != nil {
				return
			}
			if c, ok := p.(Connect); ok {
				v = c.Version
			}
			checkRoundTrip(t, p, r, v)
			b = b[h.Size(n):]
		}
	})
}
