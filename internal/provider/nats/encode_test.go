package nats

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"

	"mooring/internal/core/message"
)

func TestTokens(t *testing.T) {
	for _, row := range []struct{ name, key, want string }{
		{"plain", "dev-1_A", "dev-1_A"},
		{"nothing", "", "="},
		{"the sign of escaping", "=", "=3D"},
		{"what looks escaped", "=41", "=3D41"},
		{"wildcards and dots", "*.>", "=2A=2E=3E"},
		{"beyond ASCII", "ü", "=C3=BC"},
		{"no text at all", "\xff\x00", "=FF=00"},
	} {
		t.Run(row.name, func(t *testing.T) {
			if got := token(row.key); got != row.want {
				t.Errorf("token(%q) = %q, want %q", row.key, got, row.want)
			}
			if got, ok := untoken(row.want); !ok || got != row.key {
				t.Errorf("untoken(%q) = %q %v, want %q", row.want, got, ok, row.key)
			}
		})
	}
	for _, bad := range []string{"", "=4", "a=", "=G0", "=+1", "a=4"} {
		if got, ok := untoken(bad); ok {
			t.Errorf("untoken(%q) = %q, want refused", bad, got)
		}
	}
}

func FuzzUntoken(f *testing.F) {
	for _, s := range []string{"a", "=", "=41", "=3D41", "=4"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		tok := token(s)
		if back, ok := untoken(tok); !ok || back != s {
			t.Fatalf("untoken(token(%q)) = %q %v", s, back, ok)
		}
		if strings.ContainsAny(tok, " .*>\r\n\t") || tok == "" {
			t.Fatalf("token(%q) = %q is no token of a subject", s, tok)
		}
		_, _ = untoken(s)
	})
}

func FuzzDecodeTopic(f *testing.F) {
	for _, s := range []string{"a/b", "%41", "%4", "%zz", " ", "\r\n", "%25"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		text := encodeTopic(s)
		if back, err := decodeTopic(text); err != nil || back != s {
			t.Fatalf("decodeTopic(encodeTopic(%q)) = %q %v", s, back, err)
		}
		if strings.ContainsAny(text, " \r\n\t") {
			t.Fatalf("encodeTopic(%q) = %q does not fit a header", s, text)
		}
		_, _ = decodeTopic(s)
	})
}

func FuzzDecodeMeta(f *testing.F) {
	m := message.Message{QoS: 1, Retain: true, Expiry: 7, Thing: "dev-1", Child: "c", From: "f", At: 1790000000000, Stream: message.Down, Key: "k", Seq: 9,
		Properties: message.Properties{Format: 1, ContentType: "t", ResponseTopic: "r", Correlation: []byte{1}, User: []message.Pair{{Name: "a", Value: "b"}}}}
	f.Add(encodeMeta(&m, true))
	f.Add(encodeMeta(&m, false))
	f.Add(encodeMeta(&message.Message{}, false))
	f.Add("AQ")
	f.Add("AQgAAAAAAA")
	f.Fuzz(func(t *testing.T, text string) {
		var m message.Message
		if decodeMeta(&m, text) != nil {
			return
		}
		var again message.Message
		if err := decodeMeta(&again, encodeMeta(&m, m.Key != "" || m.Seq != 0)); err != nil || !reflect.DeepEqual(m, again) {
			t.Fatalf("%+v becomes %+v, %v", m, again, err)
		}
	})
}

func TestDecodeMetaRefuses(t *testing.T) {
	whole := encodeMeta(&message.Message{QoS: 2, Thing: "dev-1", Properties: message.Properties{User: []message.Pair{{Name: "a", Value: "b"}}}}, false)
	for _, row := range []struct{ name, text string }{
		{"nothing", ""},
		{"no base64", "!!"},
		{"another version", "Ag" + whole[2:]},
		{"cut short", whole[:len(whole)-4]},
		{"something behind it", whole + "AAAA"},
		{"padding", whole + "=="},
	} {
		t.Run(row.name, func(t *testing.T) {
			if err := decodeMeta(new(message.Message), row.text); err == nil {
				t.Errorf("decodeMeta(%q) succeeds", row.text)
			}
		})
	}
}

// FuzzParseAck compares the quick reading of acknowledgements with the JSON decoder.
func FuzzParseAck(f *testing.F) {
	for _, s := range []string{`{"stream":"UP","seq":12}`, `{"stream":"UP","seq":12,"duplicate": true}`, `{"stream":"UP","domain":"d","seq":12}`, `{"stream":"UP","seq":0}`, `{"stream":"UP","seq":99999999999999999999}`,
		`{"error":{"code":503,"err_code":10077,"description":"maximum bytes exceeded"},"stream":"UP","seq":0}`, `{"stream":"UP","seq":12`, `{}`, ``} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		a := parseAck(data)
		seq, err := a.seq, a.err
		var ack struct {
			Seq       uint64 `json:"seq"`
			Duplicate bool   `json:"duplicate"`
		}
		if json.Unmarshal(data, &ack) == nil && err == nil && ack.Duplicate != a.old && strings.Count(string(data), "duplicate") == 1 {
			t.Fatalf("%q: stored before is %v, and JSON says %v", data, a.old, ack.Duplicate)
		}
		if json.Unmarshal(data, &ack) == nil && err == nil && ack.Seq != seq && strings.Count(string(data), "seq") == 1 {
			t.Fatalf("%q: %d, and JSON says %d", data, seq, ack.Seq)
		}
		if err == nil && seq == 0 {
			t.Fatalf("%q is an acknowledgement without a place", data)
		}
	})
}
