package coap

import (
	"bytes"
	"encoding/hex"
	"errors"
	"reflect"
	"testing"
)

func TestMessage(t *testing.T) {
	for _, row := range []struct {
		name, hex string
		m         Message
	}{
		{"GET temperature (RFC 7252, figure 16)", "40017d34bb74656d7065726174757265", Message{Code: GET, ID: 0x7d34, Options: Options{{URIPath, []byte("temperature")}}}},
		{"answer", "60457d34ff32322e332043", Message{Type: Acknowledgement, Code: Content, ID: 0x7d34, Payload: []byte("22.3 C")}},
		{"with a token", "42017d3520fbb3", Message{Code: GET, ID: 0x7d35, Token: []byte{0x20, 0xfb}, Options: Options{{URIPath, []byte{}}}}},
		{"empty acknowledgement", "60007d38", Message{Type: Acknowledgement, ID: 0x7d38}},
	} {
		t.Run(row.name, func(t *testing.T) {
			b, err := hex.DecodeString(row.hex)
			if err != nil {
				t.Fatal(err)
			}
			if row.name == "with a token" { // the figure's token and one option without a value
				b = append(b[:6:6], 0xb0)
			}
			m, err := Parse(b)
			if err != nil {
				t.Fatal(err)
			}
			if m.Type != row.m.Type || m.Code != row.m.Code || m.ID != row.m.ID || !bytes.Equal(m.Token, row.m.Token) || !bytes.Equal(m.Payload, row.m.Payload) ||
				len(m.Options) != len(row.m.Options) {
				t.Errorf("got %+v, want %+v", m, row.m)
			}
			if again := m.Append(nil); !bytes.Equal(again, b) {
				t.Errorf("written as %x, want %x", again, b)
			}
		})
	}
	long := Message{Code: POST, ID: 1, Token: []byte("12345678"), Options: Options{UintOption(Size1, 70000), {RequestTag, bytes.Repeat([]byte("x"), 300)}, {URIPath, []byte("est")}, {URIPath, bytes.Repeat([]byte("y"), 13)}}, Payload: []byte("p")}
	m, err := Parse(long.Append(nil))
	if err != nil {
		t.Fatal(err)
	}
	if path, ok := m.Options.Path(); !ok || path != "/est/yyyyyyyyyyyyy" {
		t.Errorf("path %q, %v", path, ok)
	}
	if n, ok := m.Options.Uint(Size1); !ok || n != 70000 {
		t.Errorf("Size1 %d, %v", n, ok)
	}
	if tag, _ := m.Options.Get(RequestTag); len(tag) != 300 {
		t.Errorf("Request-Tag of %d octets", len(tag))
	}
}

func TestBadMessages(t *testing.T) {
	for name, text := range map[string]string{
		"too short":                        "400100",
		"version 0":                        "00010001",
		"version 2":                        "80010001",
		"token of 9":                       "49010001000000000000000000",
		"token cut off":                    "4801000100",
		"empty with a token":               "4100000101",
		"empty with an option":             "40000001b1",
		"class 1":                          "40200001",
		"class 7":                          "40e00001",
		"payload marker alone":             "40010001ff",
		"delta 15":                         "40010001f0",
		"length 15":                        "400100010f",
		"option cut off":                   "40010001b474",
		"length cut off":                   "400100010d",
		"long delta cut off":               "40010001e001",
		"number above 65535":               "40010001e0ffff e0ffff",
		"option after a payload is a body": "40010001",
	} {
		t.Run(name, func(t *testing.T) {
			b, err := hex.DecodeString(string(bytes.ReplaceAll([]byte(text), []byte(" "), nil)))
			if err != nil {
				t.Fatal(err)
			}
			m, err := Parse(b)
			if name == "option after a payload is a body" {
				if err != nil {
					t.Errorf("a message without anything is refused: %v", err)
				}
				return
			}
			if err == nil {
				t.Errorf("%s was read as %+v", text, m)
			}
			if ignored := errors.Is(err, ErrNoMessage); ignored != (m == nil) {
				t.Errorf("message %v with the error %v", m, err)
			}
		})
	}
}

func TestBlocks(t *testing.T) {
	for _, b := range []Block{{}, {Num: 1, More: true, SZX: 6}, {Num: 0, SZX: 2}, {Num: maxNum, More: true, SZX: 5}} {
		got, err := ParseBlock(b.Value())
		if err != nil || got != b {
			t.Errorf("%+v came back as %+v, %v", b, got, err)
		}
	}
	for _, bad := range [][]byte{{7}, {0x1f}, {1, 2, 3, 4}} {
		if b, err := ParseBlock(bad); err == nil {
			t.Errorf("%x was read as %+v", bad, b)
		}
	}
	for n, want := range map[int]uint8{0: 0, 16: 0, 31: 0, 32: 1, 63: 1, 512: 5, 1023: 5, 1024: 6, 9999: 6} {
		if got := SZXFor(n); got != want {
			t.Errorf("for %d octets: %d, want %d", n, got, want)
		}
	}
}

// Every size, and sizes that change on the way: what is cut is put together.
func TestAssembly(t *testing.T) {
	body := bytes.Repeat([]byte("0123456789abcdef!"), 150)
	for szx := range uint8(MaxSZX + 1) {
		var a Assembly
		for num := uint32(0); ; num++ {
			part, b, ok := Cut(body, Block{Num: num, SZX: szx})
			if !ok {
				t.Fatalf("size %d: block %d is missing", szx, num)
			}
			if err := a.Add(b, part, len(body)); err != nil {
				t.Fatal(err)
			}
			if !b.More {
				break
			}
		}
		if !bytes.Equal(a.Body(), body) {
			t.Errorf("size %d: %d octets, want %d", szx, a.Len(), len(body))
		}
	}
	var a Assembly
	steps := []struct {
		name string
		b    Block
		n    int
		want error
		len  int
	}{
		{"first", Block{0, true, 6}, 1024, nil, 1024},
		{"the same again", Block{0, true, 6}, 1024, nil, 1024},
		{"smaller ones follow", Block{64, true, 0}, 16, nil, 1040},
		{"larger ones follow", Block{65, true, 0}, 16, nil, 1056},
		{"the same again, later", Block{65, true, 0}, 16, nil, 1056},
		{"a gap", Block{70, true, 0}, 16, ErrIncomplete, 0},
		{"nothing is left after it", Block{66, true, 0}, 16, ErrIncomplete, 0},
		{"short block with more to come", Block{0, true, 2}, 63, ErrMalformed, 0},
		{"long block", Block{0, false, 2}, 65, ErrMalformed, 0},
		{"begun anew", Block{0, true, 2}, 64, nil, 64},
		{"begun anew again", Block{0, true, 3}, 128, nil, 128},
		{"too large", Block{1, true, 6}, 1024, ErrTooLarge, 0},
		{"far away", Block{maxNum, false, 6}, 1, ErrTooLarge, 0},
	}
	for _, s := range steps {
		if err := a.Add(s.b, make([]byte, s.n), 2000); !errors.Is(err, s.want) || a.Len() != s.len {
			t.Errorf("%s: %v, %d octets; want %v, %d", s.name, err, a.Len(), s.want, s.len)
		}
	}
	for _, ask := range []Block{{Num: 1, SZX: 6}, {Num: 5, SZX: 6}} {
		if _, _, ok := Cut(make([]byte, 1024), ask); ok {
			t.Errorf("there is a block %d of 1024 octets", ask.Num)
		}
	}
}

func TestKeys(t *testing.T) {
	base := Options{{URIPath, []byte("est")}, {URIPath, []byte("sen")}, UintOption(ContentFormat, 286), UintOption(Accept, 281), {RequestTag, []byte("a")}}
	with := func(more ...Option) *Message {
		return &Message{Code: POST, Options: append(base[:len(base):len(base)], more...)}
	}
	key := OperationKey(with())
	for name, m := range map[string]*Message{
		"blocks":      with(Option{Block1, []byte{0x16}}, Option{Block2, []byte{6}}),
		"sizes":       with(UintOption(Size1, 5), UintOption(Size2, 6)),
		"token":       {Code: POST, Token: []byte("t"), ID: 9, Options: base},
		"other place": {Code: POST, Options: base},
	} {
		if OperationKey(m) != key {
			t.Errorf("%s: another operation", name)
		}
	}
	other := with()
	other.Options[4].Value = []byte("b")
	if OperationKey(other) == key || LooseKey(other) != LooseKey(with()) {
		t.Error("the Request-Tag must count, and not in the loose key")
	}
	if OperationKey(&Message{Code: GET, Options: base}) == key || OperationKey(with(Option{Observe, nil})) == key {
		t.Error("method and other options must count")
	}
}

func TestLinks(t *testing.T) {
	links := []Link{{"/est/crts", []Attribute{{"rt", "ace.est.crts"}, {"ct", "281 287"}}}, {"/est/sen", []Attribute{{"rt", "ace.est.sen"}}}, {"/x", []Attribute{{"rt", "other"}}}}
	for query, want := range map[string]string{
		"rt=ace.est*":       `</est/crts>;rt="ace.est.crts";ct="281 287",</est/sen>;rt="ace.est.sen"`,
		`rt="ace.est.sen"`:  `</est/sen>;rt="ace.est.sen"`,
		"ct=287":            `</est/crts>;rt="ace.est.crts";ct="281 287"`,
		"href=/x":           `</x>;rt="other"`,
		"rt=ace":            "",
		"rt":                "",
		"if=something-else": "",
	} {
		if got := string(AppendLinks(nil, FilterLinks(links, query))); got != want {
			t.Errorf("%s: %s, want %s", query, got, want)
		}
	}
}

func TestMultipart(t *testing.T) {
	// RFC 9148, appendix A.3, begins 84 19 011C 58 8A …
	b := AppendMultipart(nil, Part{PKCS8, bytes.Repeat([]byte{1}, 0x8a)}, Part{PKCS7CertsOnly, bytes.Repeat([]byte{2}, 0x1d3)})
	if !bytes.HasPrefix(b, []byte{0x84, 0x19, 0x01, 0x1c, 0x58, 0x8a, 1}) || !bytes.Contains(b, []byte{0x19, 0x01, 0x19, 0x59, 0x01, 0xd3, 2}) {
		t.Errorf("written as %x", b)
	}
	parts, err := ParseMultipart(b)
	if err != nil || len(parts) != 2 || parts[0].Format != PKCS8 || len(parts[1].Body) != 0x1d3 {
		t.Errorf("read as %d parts, %v", len(parts), err)
	}
	for name, text := range map[string]string{
		"not an array":      "19011c",
		"odd":               "8119011c",
		"indefinite":        "9f19011c4101ff",
		"format is text":    "826161 4101",
		"part cut off":      "8219011c4201",
		"trailing":          "8219011c4101 00",
		"length cut off":    "8219011c59",
		"format too large":  "821a00010000 4101",
		"too many":          "9822",
		"length beyond all": "8219011c5bffffffffffffffff01",
	} {
		raw, err := hex.DecodeString(string(bytes.ReplaceAll([]byte(text), []byte(" "), nil)))
		if err != nil {
			t.Fatal(err)
		}
		if parts, err := ParseMultipart(raw); err == nil {
			t.Errorf("%s: read as %v", name, parts)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte{0x40, 1, 0x7d, 0x34, 0xbb, 't', 'e', 'm', 'p', 'e', 'r', 'a', 't', 'u', 'r', 'e'})
	f.Add([]byte{0x44, 2, 0, 1, 1, 2, 3, 4, 0xd1, 0, 6, 0xff, 1})
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := Parse(b)
		if err != nil {
			return
		}
		OperationKey(m)
		m.Options.Path()
		again, err := Parse(m.Append(nil))
		if err != nil || m.Code == Empty && again.Code != Empty {
			t.Fatalf("%x was read and written as what cannot be read: %v", b, err)
		}
		if m.Code != Empty && !(reflect.DeepEqual(m.Options, again.Options) && bytes.Equal(m.Payload, again.Payload) && bytes.Equal(m.Token, again.Token)) {
			t.Errorf("%+v came back as %+v", m, again)
		}
	})
}

func FuzzParseBlock(f *testing.F) {
	f.Add([]byte{0x16}, []byte("0123456789abcdef"))
	f.Fuzz(func(t *testing.T, value, payload []byte) {
		b, err := ParseBlock(value)
		if err != nil {
			return
		}
		if again, err := ParseBlock(b.Value()); err != nil || again != b {
			t.Errorf("%+v came back as %+v, %v", b, again, err)
		}
		var a Assembly
		if a.Add(b, payload, 4096) == nil && a.Len() > 4096 {
			t.Errorf("%d octets with a limit of 4096", a.Len())
		}
		Cut(payload, b)
	})
}

func FuzzParseMultipart(f *testing.F) {
	f.Add(AppendMultipart(nil, Part{PKCS8, []byte("key")}, Part{PKIXCert, []byte("cert")}))
	f.Fuzz(func(t *testing.T, b []byte) {
		parts, err := ParseMultipart(b)
		if err != nil {
			return
		}
		again, err := ParseMultipart(AppendMultipart(nil, parts...))
		if err != nil || len(again) != len(parts) {
			t.Errorf("%d parts came back as %d, %v", len(parts), len(again), err)
		}
	})
}
