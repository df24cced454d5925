package mqtt

import (
	"io"
	"net"
	"testing"
	"time"

	"mooring/internal/core/message"
	"mooring/internal/server/gate"
	"mooring/wire/mqtt"
)

// FuzzConnection has a client say anything, at once or in pieces, after a good CONNECT or instead of it. Whatever it is, the connection ends when the client has
// gone, nothing panics, nothing is left, and core has heard of the end of what it was told had begun.
func FuzzConnection(f *testing.F) {
	for kind := range byte(3) {
		for _, octets := range []string{"", "\xc0\x00", "\x30\x0a\x00\x05all/a\x00xx", "\x32\x0b\x00\x05all/a\x00\x01\x00x", "\x34\x0b\x00\x05all/a\x00\x02\x00x\x62\x02\x00\x02",
			"\x82\x0b\x00\x03\x00\x00\x05all/#\x01", "\xa2\x0a\x00\x04\x00\x00\x05all/#", "\x30\x0d\x00\x05all/a\x03\x23\x00\x01x\x30\x07\x00\x00\x03\x23\x00\x01y",
			"\xe0\x00", "\xf0\x00", "\x40\x02\x00\x01\x50\x02\x00\x01\x70\x02\x00\x01", "\x30\xff\xff\xff\x7f", "\x10\x0c\x00\x04MQTT\x04\x02\x00\x1e\x00\x00"} {
			f.Add(kind, byte(3), []byte(octets))
		}
	}
	f.Fuzz(func(t *testing.T, kind, piece byte, octets []byte) {
		h := newHub()
		s := New(Deps{Messages: h, Identify: h.anybody, Now: time.Now, Log: newSilentLog()})
		near, far := net.Pipe()
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			if c := s.newConn(pipe{near}, &gate.Peer{}, "mqtt"); c.admit(t.Context()) {
				c.loop(t.Context())
			}
		}()
		go func() { _, _ = io.Copy(io.Discard, far) }()
		var b []byte
		if kind%3 > 0 {
			version := mqtt.Version(3 + kind%3) // 4 or 5
			b = mqtt.Connect{Version: version, CleanStart: true, ClientID: "dev-1", TopicAliasMaximum: 1, MaximumPacketSize: 50}.Append(nil, 0)
		}
		b = append(b, octets...)
		for n := int(piece) + 1; len(b) > 0; b = b[min(n, len(b)):] {
			if _, err := far.Write(b[:min(n, len(b))]); err != nil {
				break
			}
		}
		h.send(message.Message{Topic: "all/a", QoS: 2, Payload: []byte("x")})
		_ = far.Close()
		<-ended
		if m := s.Metrics(); m.Panics != 0 || m.Open != 0 || m.Connected != 0 {
			t.Errorf("counted %+v", m)
		}
		if has(h.seen(), "connect") != has(h.seen(), "detach") {
			t.Errorf("core heard %q", h.seen())
		}
	})
}
