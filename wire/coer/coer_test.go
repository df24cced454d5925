package coer

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"math"
	"reflect"
	"runtime"
	"strings"
	"testing"
)

// one is a value that consists of what a function codes.
type one func(*Coder)

func (o one) Code(c *Coder) { o(c) }

// TestPrimitives has a row for each form of encoding: the value is written as these octets, and they are read as the value.
func TestPrimitives(t *testing.T) {
	t.Parallel()
	colours := &Enumeration{Names: []string{"red", "green"}, Extensible: true}
	long := bytes.Repeat([]byte{7}, 200)
	for _, row := range []struct {
		name, wire string
		code       func(c *Coder, v any)
		value      any
	}{
		{"BOOLEAN true", "ff", func(c *Coder, v any) { Bool(c, v.(*bool)) }, true},
		{"BOOLEAN false", "00", func(c *Coder, v any) { Bool(c, v.(*bool)) }, false},
		{"one octet", "fe", func(c *Coder, v any) { Uint8(c, v.(*uint8)) }, uint8(254)},
		{"two octets", "026f", func(c *Coder, v any) { Uint16(c, v.(*uint16)) }, uint16(623)},
		{"four octets", "24f1cce3", func(c *Coder, v any) { Uint32(c, v.(*uint32)) }, uint32(619826403)},
		{"eight octets", "8000000000000001", func(c *Coder, v any) { Uint64(c, v.(*uint64)) }, uint64(1<<63 + 1)},
		{"negative latitude", "ca5b1700", func(c *Coder, v any) { Int32(c, v.(*int32), -900000000, 900000001) }, int32(-900000000)},
		{"positive latitude", "35a4e901", func(c *Coder, v any) { Int32(c, v.(*int32), -900000000, 900000001) }, int32(900000001)},
		{"Psid 0", "0100", func(c *Coder, v any) { Unsigned(c, v.(*uint64)) }, uint64(0)},
		{"Psid 128", "0180", func(c *Coder, v any) { Unsigned(c, v.(*uint64)) }, uint64(128)},
		{"Psid 2113696", "032040a0", func(c *Coder, v any) { Unsigned(c, v.(*uint64)) }, uint64(2113696)},
		{"greatest Psid", "08ffffffffffffffff", func(c *Coder, v any) { Unsigned(c, v.(*uint64)) }, uint64(math.MaxUint64)},
		{"INTEGER 0", "0100", func(c *Coder, v any) { Integer(c, v.(*int64)) }, int64(0)},
		{"INTEGER -1", "01ff", func(c *Coder, v any) { Integer(c, v.(*int64)) }, int64(-1)},
		{"INTEGER 127", "017f", func(c *Coder, v any) { Integer(c, v.(*int64)) }, int64(127)},
		{"INTEGER 128", "020080", func(c *Coder, v any) { Integer(c, v.(*int64)) }, int64(128)},
		{"INTEGER -128", "0180", func(c *Coder, v any) { Integer(c, v.(*int64)) }, int64(-128)},
		{"INTEGER -129", "02ff7f", func(c *Coder, v any) { Integer(c, v.(*int64)) }, int64(-129)},
		{"least INTEGER", "088000000000000000", func(c *Coder, v any) { Integer(c, v.(*int64)) }, int64(math.MinInt64)},
		{"ENUMERATED", "01", func(c *Coder, v any) { Enum(c, v.(*uint8), colours) }, uint8(1)},
		{"ENUMERATED after the marker", "05", func(c *Coder, v any) { Enum(c, v.(*uint8), colours) }, uint8(5)},
		{"BIT STRING of eight", "c0", func(c *Coder, v any) { Bits(c, v.(*uint8), nil) }, uint8(0xc0)},
		{"BIT STRING", "0204a0", func(c *Coder, v any) { v.(*BitString).Code(c) }, BitString{[]byte{0xa0}, 4}},
		{"empty BIT STRING", "0100", func(c *Coder, v any) { v.(*BitString).Code(c) }, BitString{[]byte{}, 0}},
		{"fixed OCTET STRING", "0a0b0c", func(c *Coder, v any) { FixedString(c, v.(*[]byte), 3) }, []byte{10, 11, 12}},
		{"OCTET STRING", "020102", func(c *Coder, v any) { OctetString(c, v.(*[]byte)) }, []byte{1, 2}},
		{"long OCTET STRING", "81c8" + hex.EncodeToString(long), func(c *Coder, v any) { OctetString(c, v.(*[]byte)) }, long},
		{"UTF8String", "05c3bc72c3af", func(c *Coder, v any) { UTF8String(c, v.(*string), 3) }, "ürï"},
		{"IA5String", "0161", func(c *Coder, v any) { IA5String(c, v.(*string)) }, "a"},
		{"NULL", "", func(c *Coder, _ any) { Null(c) }, struct{}{}},
	} {
		t.Run(row.name, func(t *testing.T) {
			in := reflect.New(reflect.TypeOf(row.value))
			in.Elem().Set(reflect.ValueOf(row.value))
			got, err := Marshal(one(func(c *Coder) { row.code(c, in.Interface()) }))
			if err != nil || hex.EncodeToString(got) != row.wire {
				t.Errorf("%v is written as %x, %v; want %s", row.value, got, err, row.wire)
			}
			back := reflect.New(reflect.TypeOf(row.value))
			err = Unmarshal(unhex(t, row.wire), one(func(c *Coder) { row.code(c, back.Interface()) }))
			if err != nil || !reflect.DeepEqual(back.Elem().Interface(), row.value) {
				t.Errorf("%s is read as %v, %v; want %v", row.wire, back.Elem(), err, row.value)
			}
		})
	}
}

// TestRefused has a row for each way in which an encoding can be wrong.
func TestRefused(t *testing.T) {
	t.Parallel()
	var (
		b    []byte
		flag bool
		u8   uint8
		u64  uint64
		i32  int32
		i64  int64
		s    string
		bs   BitString
	)
	for _, row := range []struct {
		name, wire, want string
		kind             Kind
		code             func(c *Coder)
	}{
		{"BOOLEAN 01", "01", "00 or FF", Malformed, func(c *Coder) { Bool(c, &flag) }},
		{"long form of a short length", "8101ff", "length has more octets", Malformed, func(c *Coder) { OctetString(c, &b) }},
		{"length with a leading zero", "820080" + strings.Repeat("00", 128), "length has more octets", Malformed, func(c *Coder) { OctetString(c, &b) }},
		{"indefinite length", "80", "length of 0 octets", Excessive, func(c *Coder) { OctetString(c, &b) }},
		{"length of eight octets", "8800000000000000ff", "length of 8 octets", Excessive, func(c *Coder) { OctetString(c, &b) }},
		{"length beyond the end", "84ffffffff00", "4294967295 octets", Malformed, func(c *Coder) { OctetString(c, &b) }},
		{"Psid with a leading zero", "02006f", "more octets than it needs", Malformed, func(c *Coder) { Unsigned(c, &u64) }},
		{"Psid of no octets", "00", "no octets", Malformed, func(c *Coder) { Unsigned(c, &u64) }},
		{"Psid of nine octets", "09010000000000000000", "more than 64 bits", Excessive, func(c *Coder) { Unsigned(c, &u64) }},
		{"INTEGER with needless zeros", "02007f", "more octets than it needs", Malformed, func(c *Coder) { Integer(c, &i64) }},
		{"INTEGER with needless ones", "02ff80", "more octets than it needs", Malformed, func(c *Coder) { Integer(c, &i64) }},
		{"latitude beyond the pole", "35a4e902", "not between", Malformed, func(c *Coder) { Int32(c, &i32, -900000000, 900000001) }},
		{"unknown value", "02", "value 2 is not known", Unknown, func(c *Coder) { Enum(c, &u8, &Enumeration{Names: []string{"a", "b"}}) }},
		{"long form of ENUMERATED", "8105", "above 127", Excessive, func(c *Coder) { Enum(c, &u8, &Enumeration{Extensible: true}) }},
		{"other version", "04", "is 4 and not 3", Unknown, func(c *Coder) { Exactly(c.At("version"), 3) }},
		{"unused bit set", "0204a8", "unused bits are not zero", Malformed, func(c *Coder) { bs.Code(c) }},
		{"eight unused bits", "020800", "cannot be unused", Malformed, func(c *Coder) { bs.Code(c) }},
		{"no number of unused bits", "00", "an octet for the number", Malformed, func(c *Coder) { bs.Code(c) }},
		{"size too small", "00", "not between 1 and 64", Malformed, func(c *Coder) { SizedString(c, &b, 1, 64) }},
		{"not UTF-8", "01ff", "not UTF-8", Malformed, func(c *Coder) { UTF8String(c, &s, 9) }},
		{"too many characters", "03616263", "more than 2 characters", Malformed, func(c *Coder) { UTF8String(c, &s, 2) }},
		{"not ASCII", "02c3bc", "not ASCII", Malformed, func(c *Coder) { IA5String(c, &s) }},
		{"octets after the end", "0000", "1 octets after its end", Malformed, func(c *Coder) { Bool(c, &flag) }},
		{"nothing", "", "0 are left", Malformed, func(c *Coder) { Bool(c, &flag) }},
	} {
		t.Run(row.name, func(t *testing.T) {
			err := Unmarshal(unhex(t, row.wire), one(row.code))
			fault := (*Error)(nil)
			if !errors.As(err, &fault) || fault.Kind != row.kind || !strings.Contains(fault.Text, row.want) {
				t.Errorf("%s: %v (kind %v), want an error of kind %v with %q", row.wire, err, fault, row.kind, row.want)
			}
		})
	}
}

// TestNotWritten has values that have no encoding.
func TestNotWritten(t *testing.T) {
	t.Parallel()
	three, text, high := []byte{1, 2, 3}, "abc\u00fc", int32(900000002)
	odd, none, far := BitString{[]byte{1}, 4}, uint8(9), uint8(63)
	for name, code := range map[string]func(*Coder){
		"octets of another size":   func(c *Coder) { FixedString(c, &three, 4) },
		"octets beyond the bound":  func(c *Coder) { SizedString(c, &three, 0, 2) },
		"too many characters":      func(c *Coder) { UTF8String(c, &text, 3) },
		"not ASCII":                func(c *Coder) { IA5String(c, &text) },
		"beyond the bound":         func(c *Coder) { Int32(c, &high, 0, 900000001) },
		"unused bits that are set": func(c *Coder) { odd.Code(c) },
		"no such value":            func(c *Coder) { Enum(c, &none, &Enumeration{Names: []string{"a"}}) },
		"no such alternative":      func(c *Coder) { Choice(c, &none, &Choices{Names: []string{"a"}}); c.EndChoice() },
		"a tag above 62":           func(c *Coder) { Choice(c, &far, &Choices{Extensible: true}); c.EndChoice() },
	} {
		if b, err := Marshal(one(code)); err == nil || b != nil {
			t.Errorf("%s is written as %x", name, b)
		}
	}
}

// part is a type with everything that structures have: optional components and a default, additions, a list, a choice, itself.
type part struct {
	ID        uint8
	Number    Optional[uint16]
	Level     int64 // DEFAULT 1
	Parts     []part
	Kind      uint8
	Text      string
	Flag      bool
	Other     []byte
	Extra     Optional[uint8] // first addition
	Names     []string        // second addition
	Additions Additions
}

var kinds = Choices{Names: []string{"none", "text", "flag"}, Root: 2, Extensible: true}

func (p *part) Code(c *Coder) {
	s := c.Extensible(&p.Additions, p.Number.Present, p.Level != 1, p.Parts != nil)
	Uint8(c.At("id"), &p.ID)
	if s.Optional() {
		Uint16(c.At("number"), p.Number.Make())
	}
	if s.Optional() {
		Integer(c.At("level"), &p.Level)
		c.Refuse(p.Level == 1, "the default value is written")
	} else if c.Reading() {
		p.Level = 1
	}
	if s.Optional() {
		for e := range All(c.At("parts"), &p.Parts) {
			e.Code(c)
		}
	}
	switch Choice(c.At("kind"), &p.Kind, &kinds) {
	case 0:
		Null(c)
	case 1:
		UTF8String(c, &p.Text, 10)
	case 2:
		Bool(c, &p.Flag)
	default:
		c.Other(&p.Other)
	}
	c.EndChoice()
	s.Additions(p.Extra.Present, p.Names != nil)
	if s.Addition() {
		Uint8(c.At("extra"), p.Extra.Make())
	}
	if s.Addition() {
		for n := range All(c.At("names"), &p.Names) {
			IA5String(c, n)
		}
	}
	s.End()
}

func structures() map[string]struct {
	wire  string
	value part
} {
	return map[string]struct {
		wire  string
		value part
	}{
		"least":                     {"000780", part{ID: 7, Level: 1}},
		"optional components":       {"60070102" + "01ff" + "80", part{ID: 7, Number: Some[uint16](0x102), Level: -1}},
		"empty list":                {"1007010080", part{ID: 7, Level: 1, Parts: []part{}}},
		"list":                      {"10070102" + "000180" + "00028102" + "6869" + "80", part{ID: 7, Level: 1, Parts: []part{{ID: 1, Level: 1}, {ID: 2, Level: 1, Kind: 1, Text: "hi"}}}},
		"alternative after marker":  {"00078201ff", part{ID: 7, Level: 1, Kind: 2, Flag: true}},
		"alternative not known":     {"00079003010203", part{ID: 7, Level: 1, Kind: 16, Other: []byte{1, 2, 3}}},
		"one addition":              {"800780" + "020680" + "0105", part{ID: 7, Level: 1, Extra: Some[uint8](5), Additions: Additions{Bits: 2}}},
		"both additions":            {"800780" + "0206c0" + "0105" + "0401010161", part{ID: 7, Level: 1, Extra: Some[uint8](5), Names: []string{"a"}, Additions: Additions{Bits: 2}}},
		"writer knows one addition": {"800780" + "020780" + "0105", part{ID: 7, Level: 1, Extra: Some[uint8](5), Additions: Additions{Bits: 1}}},
		"additions not known": {"800780" + "03079280" + "0105" + "020102" + "00" + "03aabbcc", part{ID: 7, Level: 1, Extra: Some[uint8](5),
			Additions: Additions{Bits: 9, Unknown: []Addition{{3, []byte{1, 2}}, {6, []byte{}}, {8, []byte{0xaa, 0xbb, 0xcc}}}}}},
	}
}

func TestStructures(t *testing.T) {
	t.Parallel()
	for name, row := range structures() {
		t.Run(name, func(t *testing.T) {
			var got part
			if err := Unmarshal(unhex(t, row.wire), &got); err != nil || !reflect.DeepEqual(got, row.value) {
				t.Errorf("%s is read as %+v, %v; want %+v", row.wire, got, err, row.value)
			}
			back, err := Marshal(&row.value)
			if err != nil || hex.EncodeToString(back) != row.wire {
				t.Errorf("it is written as %x, %v; want %s", back, err, row.wire)
			}
		})
	}
}

// What was built, and not read, has as many presence bits as the type knows additions.
func TestAdditionsOfNewValues(t *testing.T) {
	t.Parallel()
	got, err := Marshal(&part{ID: 7, Level: 1, Extra: Some[uint8](5)})
	if want := "8007800206800105"; err != nil || hex.EncodeToString(got) != want {
		t.Errorf("%x, %v; want %s", got, err, want)
	}
	for name, unknown := range map[string][]Addition{"a place that the type knows": {{0, nil}}, "beyond": {{64, nil}}, "before": {{-1, nil}}, "twice": {{5, nil}, {5, nil}}} {
		p := part{Level: 1, Extra: Some[uint8](5), Additions: Additions{Unknown: unknown}}
		if b, err := Marshal(&p); err == nil {
			t.Errorf("%s: written as %x", name, b)
		}
		Describe(&p) // must not panic
	}
	far := part{Level: 1, Extra: Some[uint8](5), Additions: Additions{Bits: 1000}}
	if b, err := Marshal(&far); err != nil || hex.EncodeToString(b) != "8000800206800105" {
		t.Errorf("a thousand presence bits: %x, %v", b, err)
	}
}

func TestStructuresRefused(t *testing.T) {
	t.Parallel()
	for _, row := range []struct{ name, wire, want string }{
		{"padding of the preamble", "080780", "octet 0: bits of the preamble that stand for nothing are not zero"},
		{"default written", "2007010180", "level at octet 2: the default value is written"},
		{"more elements than octets", "100704ffffffff80", "parts at octet 2: it has 4294967295 elements and 1 octets are left"},
		{"element cut off", "100701020007800001", "parts[1].kind at octet 9: it has 1 octets and 0 are left"},
		{"tag of another class", "000700", "kind at octet 2: the tag 00 is not one of an alternative"},
		{"tag above 62", "0007bf40", "kind at octet 2: tags above 62 do not occur here"},
		{"rest within an alternative", "00078202ff00", "kind.flag at octet 5: 1 octets are left over within its length"},
		{"alternative longer than what is left", "00078205ff", "kind.flag at octet 3: it has 5 octets and 1 are left"},
		{"alternative ends early", "00078200", "kind.flag at octet 4: it has 1 octets and 0 are left"},
		{"no addition", "800780020600", "octet 3: the preamble says that there are extension additions, and there are none"},
		{"unused presence bits", "8007800206810105", "octet 3: unused bits are not zero"},
		{"rest within an addition", "80078002068002050a", "extra at octet 8: 1 octets are left over within its length"},
		{"too many additions", "8007800a00ff0000000000000000", "octet 3: more than 64 extension additions do not occur here"},
		{"octets after the end", "000780ff", "octet 3: there are 1 octets after its end"},
	} {
		t.Run(row.name, func(t *testing.T) {
			if err := Unmarshal(unhex(t, row.wire), new(part)); err == nil || err.Error() != row.want {
				t.Errorf("%s: %v; want %s", row.wire, err, row.want)
			}
		})
	}
}

// bombs are short, or ask for much: neither depth nor announced lengths and numbers may cost memory.
func bombs() map[string][]byte {
	deep := bytes.Repeat([]byte{0x10, 0x07, 0x01, 0x01}, 20000)
	wide := bytes.Repeat([]byte{0x10, 0x07, 0x01, 0x10}, 20000)
	return map[string][]byte{
		"depth":           deep,
		"depth and width": wide,
		"length":          {0, 7, 0x81, 0x84, 0x7f, 0xff, 0xff, 0xff},
		"number":          {0x10, 7, 0x04, 0x7f, 0xff, 0xff, 0xff, 0, 0, 0},
		"64-bit number":   {0x10, 7, 0x08, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0},
		"open type":       {0, 7, 0x90, 0x84, 0xff, 0xff, 0xff, 0xff},
		"addition":        {0x80, 7, 0x80, 2, 0, 1, 0x84, 0xff, 0xff, 0xff, 0xff},
	}
}

func TestBombsCostLittle(t *testing.T) {
	const most = 64 << 10
	for name, b := range bombs() {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		err := Unmarshal(b, new(part))
		runtime.ReadMemStats(&after)
		if cost := after.TotalAlloc - before.TotalAlloc; err == nil || cost > most {
			t.Errorf("%s: it took %d octets of memory, at most %d; %v", name, cost, most, err)
		}
	}
}

func TestDepthIsNamed(t *testing.T) {
	t.Parallel()
	err := Unmarshal(bombs()["depth"], new(part))
	fault := (*Error)(nil)
	if !errors.As(err, &fault) || fault.Kind != Excessive || !strings.HasPrefix(fault.Path, "parts[0].parts[0].") {
		t.Errorf("%v", err)
	}
}

func TestTooManyElements(t *testing.T) {
	t.Parallel()
	b := append([]byte{0x03, 0x04, 0x00, 0x01}, make([]byte, MaxElements+1)...)
	var list []bool
	err := Unmarshal(b, one(func(c *Coder) {
		for e := range All(c, &list) {
			Bool(c, e)
		}
	}))
	if err == nil || !strings.Contains(err.Error(), "more than 262144 elements") {
		t.Errorf("%v", err)
	}
}

func TestDescribe(t *testing.T) {
	t.Parallel()
	p := part{ID: 7, Level: 3, Parts: []part{{ID: 1, Level: 1, Kind: 1, Text: "h\x1b"}}, Kind: 16, Other: []byte{1}, Names: []string{"a", "b"}}
	n := Describe(&p)
	got, err := json.Marshal(n)
	want := `{"id":7,"level":3,"parts":[{"id":1,"kind":{"text":"h\u001b"}}],"kind":{"alternative16":"01"},"names":["a","b"]}`
	if err != nil || string(got) != want {
		t.Errorf("got  %s, %v\nwant %s", got, err, want)
	}
	lines := "id: 7\nlevel: 3\nparts\n  -\n    id: 1\n    kind text: \"h\\x1b\"\nkind alternative16: 01\nnames: a b\n"
	if n.String() != lines {
		t.Errorf("got\n%swant\n%s", n, lines)
	}
}

// envelope keeps what was read, has flags, bits, and a value within a length and within octets.
type envelope struct {
	Flags  uint8
	Tree   BitString
	Inner  part
	Opaque []byte
	Octets []byte
}

func (e *envelope) Code(c *Coder) {
	from := c.Offset()
	s := c.Sequence()
	Bits(c.At("flags"), &e.Flags, Flags{"first", "second"})
	e.Tree.Code(c.At("tree"))
	Contained(c.At("inner"), &e.Inner)
	OctetString(c.At("opaque"), &e.Opaque)
	if c.Showing() {
		var p part
		if Unmarshal(e.Opaque, &p) == nil {
			c.Inside(&p)
		}
		c.Note("a part")
	}
	s.End()
	c.Keep(&e.Octets, from)
}

func TestEnvelope(t *testing.T) {
	t.Parallel()
	wire := unhex(t, "a1"+"0205a0"+"03"+"000780"+"03"+"000980")
	var e envelope
	if err := Unmarshal(wire, &e); err != nil || !bytes.Equal(e.Octets, wire) || e.Inner.ID != 7 || e.Tree.Len() != 3 {
		t.Fatalf("%+v, %v", e, err)
	}
	if back, err := Normal(&e); err != nil || !bytes.Equal(back, wire) {
		t.Errorf("it is written as %x, %v", back, err)
	}
	want := "flags: first 2 7\ntree: 101\ninner\n  id: 7\n  kind none\nopaque  (a part)\n  id: 9\n  kind none\n"
	if got := Describe(&e).String(); got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
	for name, wrong := range map[string]string{"a rest within the length": "a10205a004000780000300098000", "the end within": "a10205a002000780", "the length too long": "a10205a0820780"} {
		if err := Unmarshal(unhex(t, wrong), new(envelope)); err == nil || !strings.Contains(err.Error(), "inner") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Writing does not touch the value, so that it may be written from many places at once.
func TestWritingLeavesTheValue(t *testing.T) {
	t.Parallel()
	for name, row := range structures() {
		before := reflect.ValueOf(row.value).Interface()
		if _, err := Marshal(&row.value); err != nil || !reflect.DeepEqual(before, row.value) {
			t.Errorf("%s: %v, %+v became %+v", name, err, before, row.value)
		}
	}
}

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// FuzzUnmarshal checks that what is read is written as it was, that nothing panics, and that it can be shown.
func FuzzUnmarshal(f *testing.F) {
	for _, row := range structures() {
		f.Add(unhex(f, row.wire))
	}
	for _, b := range bombs() {
		f.Add(b[:min(len(b), 400)])
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var p part
		if err := Unmarshal(b, &p); err != nil {
			if fault := (*Error)(nil); !errors.As(err, &fault) || fault.Offset > len(b) {
				t.Fatalf("%x: %v is no *Error, or lies outside", b, err)
			}
			return
		}
		back, err := Marshal(&p)
		if err != nil || !bytes.Equal(back, b) {
			t.Fatalf("%x is written as %x, %v", b, back, err)
		}
		if _, err := json.Marshal(Describe(&p)); err != nil {
			t.Fatal(err)
		}
	})
}
