package audit

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"maps"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestEntryEncoding(t *testing.T) {
	for _, row := range []struct {
		name string
		e    Entry
		want string
	}{
		{"empty", Entry{}, `{"at":0,"action":"","actor":""}`},
		{"full", Entry{At: 12, Action: "cert.issue", Actor: "device:ab", Device: "ab", Serial: "41", Object: "o", Refused: "r",
			Detail: map[string]string{"z": "1", "a": "2"}},
			`{"at":12,"action":"cert.issue","actor":"device:ab","device":"ab","serial":"41","object":"o","refused":"r","detail":{"a":"2","z":"1"}}`},
		{"before 1970", Entry{At: -5, Action: "a.b", Actor: "x"}, `{"at":-5,"action":"a.b","actor":"x"}`},
		{"escapes", Entry{Action: "a\"b\\c\n\x00", Actor: "ü€😀\u2028"}, `{"at":0,"action":"a\u0022b\u005cc\u000a\u0000","actor":"ü€😀` + "\u2028" + `"}`},
		{"invalid UTF-8", Entry{Action: "a", Actor: "x\xff\xfey"}, `{"at":0,"action":"a","actor":"x` + "\uFFFD" + `y"}`},
	} {
		t.Run(row.name, func(t *testing.T) {
			got := row.e.Bytes()
			if string(got) != row.want {
				t.Errorf("encoded as\n%s, want\n%s", got, row.want)
			}
			if !json.Valid(got) {
				t.Errorf("%s is not JSON", got)
			}
			back, err := ParseEntry(got)
			if err != nil {
				t.Fatalf("ParseEntry(%s): %v", got, err)
			}
			if !bytes.Equal(back.Bytes(), got) {
				t.Errorf("encoded again as %s, was %s", back.Bytes(), got)
			}
		})
	}
}

func TestEntryIsBounded(t *testing.T) {
	detail := map[string]string{}
	for i := range 100 {
		detail[strings.Repeat("\x01", 5000)+string(rune('a'+i))] = strings.Repeat("\x01", 10000)
		detail[string(rune('A'+i))] = strings.Repeat("\x01", 10000)
	}
	e := Entry{Action: "a.b", Actor: "x", Object: strings.Repeat("é", 5000), Refused: strings.Repeat("\xff\x01", 100000), Detail: detail}
	data := e.Bytes()
	if len(data) > maxEntry {
		t.Fatalf("encoded in %d octets, want at most %d", len(data), maxEntry)
	}
	got, err := ParseEntry(data)
	if err != nil {
		t.Fatal(err)
	}
	if len(got.Object) > maxText || !strings.HasSuffix(got.Object, ellipsis) || !utf8.ValidString(got.Object) {
		t.Errorf("a long object became %d octets ending in %q", len(got.Object), got.Object[len(got.Object)-6:])
	}
	if len(got.Detail) > maxDetails {
		t.Errorf("kept %d details, want at most %d", len(got.Detail), maxDetails)
	}
}

func TestParseEntryRefusesWhatIsNotCanonical(t *testing.T) {
	for name, text := range map[string]string{
		"nothing":         ``,
		"null":            `null`,
		"blank":           `{"at":0, "action":"a","actor":"x"}`,
		"trailing":        `{"at":0,"action":"a","actor":"x"} `,
		"order":           `{"action":"a","at":0,"actor":"x"}`,
		"missing":         `{"at":0,"action":"a"}`,
		"doubled":         `{"at":0,"at":0,"action":"a","actor":"x"}`,
		"unknown":         `{"at":0,"action":"a","actor":"x","more":"y"}`,
		"case":            `{"At":0,"action":"a","actor":"x"}`,
		"empty field":     `{"at":0,"action":"a","actor":"x","device":""}`,
		"null field":      `{"at":0,"action":"a","actor":"x","device":null}`,
		"empty detail":    `{"at":0,"action":"a","actor":"x","detail":{}}`,
		"detail order":    `{"at":0,"action":"a","actor":"x","detail":{"b":"1","a":"2"}}`,
		"detail doubled":  `{"at":0,"action":"a","actor":"x","detail":{"a":"1","a":"1"}}`,
		"number form":     `{"at":1e3,"action":"a","actor":"x"}`,
		"minus zero":      `{"at":-0,"action":"a","actor":"x"}`,
		"needless escape": `{"at":0,"action":"\u0061","actor":"x"}`,
		"short escape":    `{"at":0,"action":"\n","actor":"x"}`,
		"upper escape":    `{"at":0,"action":"\u000A","actor":"x"}`,
		"lone surrogate":  `{"at":0,"action":"\ud800","actor":"x"}`,
		"invalid UTF-8":   "{\"at\":0,\"action\":\"\xff\",\"actor\":\"x\"}",
		"too long text":   `{"at":0,"action":"` + strings.Repeat("a", maxText+1) + `","actor":"x"}`,
		"too long entry":  strings.Repeat(" ", maxEntry+1),
	} {
		if e, err := ParseEntry([]byte(text)); err == nil {
			t.Errorf("%s: %.60s was taken as %v", name, text, e)
		}
	}
}

func FuzzParseEntry(f *testing.F) {
	f.Add([]byte(`{"at":12,"action":"cert.issue","actor":"device:ab","detail":{"a":"2","z":"1"}}`))
	f.Add([]byte(`{"at":0,"action":"a\u0022","actor":"ü"}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		if e, err := ParseEntry(data); err == nil && !bytes.Equal(e.Bytes(), data) {
			t.Errorf("%q was taken and is encoded as %q", data, e.Bytes())
		}
	})
}

func FuzzEntry(f *testing.F) {
	f.Add(int64(5), "a.b", "x", "\xff\x00", "k", "v")
	f.Fuzz(func(t *testing.T, at int64, action, actor, object, key, value string) {
		e := Entry{At: at, Action: action, Actor: actor, Object: object, Detail: map[string]string{key: value}}
		back, err := ParseEntry(e.Bytes())
		if err != nil {
			t.Fatalf("%#v is encoded as %q: %v", e, e.Bytes(), err)
		}
		plain := len(action+actor+object+key+value) <= maxText
		for _, text := range []string{action, actor, object, key, value} {
			plain = plain && utf8.ValidString(text) // each: two halves of a character make one together
		}
		if plain && (back.At != at || back.Action != action || back.Actor != actor || back.Object != object || !maps.Equal(back.Detail, e.Detail)) {
			t.Errorf("%#v came back as %#v", e, back)
		}
	})
}

func TestSplitBody(t *testing.T) {
	entries := []Entry{sample(1), sample(7), {Action: "x.y", Actor: strings.Repeat("z", 300)}}
	body := appendBody(nil, 99_000_000, entries)
	got, err := splitBody(body, 99_000_000, 3)
	if err != nil || len(got) != 3 || !bytes.Equal(got[1], sample(7).Bytes()) {
		t.Fatalf("splitBody = %q, %v", got, err)
	}
	if e, err := ParseEntry(got[2]); err != nil || e.At != 99 {
		t.Errorf("an entry without a time got %d, %v, want 99", e.At, err)
	}
	one := sample(1).Bytes()
	head := binary.AppendUvarint([]byte{bodyVersion}, 99_000_000)
	for name, row := range map[string]struct {
		body []byte
		n    int64
	}{
		"empty":          {nil, 1},
		"version":        {append([]byte{2}, body[1:]...), 3},
		"too few":        {body, 4},
		"too many":       {body, 2},
		"none":           {head, 0},
		"no stamp":       {append([]byte{bodyVersion}, body[len(head):]...), 3},
		"other stamp":    {append(binary.AppendUvarint([]byte{bodyVersion}, 99_000_001), body[len(head):]...), 3},
		"negative":       {body, -1},
		"huge number":    {body, 1 << 62},
		"cut":            {body[:len(body)-1], 3},
		"trailing":       {append(bytes.Clone(body), 0xff), 3},
		"long length":    {append(binary.AppendUvarint(bytes.Clone(head), 1<<63), one...), 1},
		"padded length":  {append(append(bytes.Clone(head), byte(len(one))|0x80, byte(len(one)>>7)|0x80, 0), one...), 1},
		"endless length": {append(bytes.Clone(head), bytes.Repeat([]byte{0x80}, 11)...), 1},
	} {
		if got, err := splitBody(row.body, 99_000_000, row.n); err == nil {
			t.Errorf("%s: was taken as %d entries", name, len(got))
		}
	}
}

func FuzzSplitBody(f *testing.F) {
	f.Add(appendBody(nil, 1, []Entry{sample(1), sample(7)}), int64(2))
	f.Fuzz(func(t *testing.T, body []byte, n int64) {
		entries, err := splitBody(body, 1, n)
		if err != nil || body[0] != bodyVersion { // for the other version there is FuzzCompactBody
			return
		}
		again := []byte{bodyVersion, 1}
		for _, e := range entries {
			again = append(binary.AppendUvarint(again, uint64(len(e))), e...)
		}
		if !bytes.Equal(again, body) || int64(len(entries)) != n {
			t.Errorf("%x was split into %d entries that make %x", body, len(entries), again)
		}
	})
}

func BenchmarkAppendEntry(b *testing.B) {
	e := sample(1)
	var buf []byte
	b.ReportAllocs()
	for b.Loop() {
		buf = appendEntry(buf[:0], &e)
	}
}
