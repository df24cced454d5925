package audit

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"strings"
	"testing"
)

// oddEntries are entries of all kinds, such as they are and such as somebody could make.
func oddEntries() []Entry {
	many := map[string]string{}
	for i := range maxDetails + 3 {
		many[fmt.Sprintf("name-%d", i)] = "x"
	}
	all := []Entry{
		{Action: "a.b", Actor: "system:server"}, {At: -5, Action: "", Actor: ""}, {At: 1 << 60, Action: "x", Actor: "device:"},
		{At: 1, Action: "a", Actor: "operator:" + deviceID(7), Object: "0", Detail: map[string]string{"": ""}},
		{At: 1, Action: "a", Actor: "nobody:knows", Refused: "no \"quotes\" \x01 and \xff", Detail: map[string]string{"many": strings.Repeat("é", 5000)}},
		{At: 1, Action: "a", Actor: "device:device:x", Detail: many}, {At: 1, Action: "a", Actor: "b", Detail: map[string]string{strings.Repeat("n", 5000): "v"}},
	}
	for _, v := range []string{"0", "00", "01", "-1", "1", "12", "abcd", "ABCD", "abc", "0x12", "1799999999", "1800000001", "9223372036854775807", "18446744073709551616", "1125899906842624", "deadbeef", "est", "device", strings.Repeat("ab", 300)} {
		all = append(all, Entry{At: 1_800_000_000, Action: "cert.issue", Actor: "device:" + v, Device: v, Serial: v, Object: v, Refused: v, Detail: map[string]string{"n": v, v: "n"}})
	}
	return all
}

func TestACompactBodyHoldsTheCanonicalEntries(t *testing.T) {
	const stamp = 1_800_000_000_123_456
	entries := oddEntries()
	for n := range 500 {
		entries = append(entries, sample(n))
	}
	for _, batch := range [][]Entry{entries, entries[:1], entries[3:4], entries[20:60]} {
		body := numbered().appendCompact(nil, stamp, batch)
		got, err := splitBody(body, stamp, int64(len(batch)))
		if err != nil {
			t.Fatal(err)
		}
		for i, e := range batch {
			if e.At == 0 {
				e.At = stamp / microseconds
			}
			if !bytes.Equal(got[i], e.Bytes()) {
				t.Errorf("entry %d is\n%s, want\n%s", i, got[i], e.Bytes())
			}
			if _, err := ParseEntry(got[i]); err != nil {
				t.Errorf("entry %d: %v", i, err)
			}
		}
		for end := 0; end < len(body); end += 1 + len(body)/300 {
			if _, err := splitBody(body[:end], stamp, int64(len(batch))); err == nil {
				t.Fatalf("a body of %d octets that ends at %d was read", len(body), end)
			}
		}
	}
}

// TestNamesOutOfOrder: a body that nobody here wrote, whose names stand in another order or twice, or are too long, means entries in their one form.
func TestNamesOutOfOrder(t *testing.T) {
	const stamp = 1_800_000_000_000_000
	long := strings.Repeat("n", maxText+1)
	for _, names := range [][]string{{"a", "b"}, {"b", "a"}, {"a", "a"}, {"b", "a", "b"}, {"", "a"}, {long}, {"\xff"}, nil} {
		c := &compactor{fixed: numbered(), dictionary: dictionary{own: map[string]uint64{}, texts: words}, stamp: stamp / microseconds}
		c.out = binary.AppendUvarint([]byte{compactVersion}, stamp)
		e := Entry{At: c.stamp, Action: "a.b", Actor: "c", Detail: map[string]string{}}
		for turn := range 2 { // the second refers to the first
			c.out = binary.AppendVarint(append(c.out, 16), 0)
			c.value(e.Action)
			c.actor(e.Actor)
			values := map[string]string{}
			for k, name := range names {
				values[name] = fmt.Sprint("value ", k)
			}
			if turn == 0 {
				c.newDetail(names, values)
			} else {
				c.detail(0, values)
			}
			for _, name := range names {
				e.Detail[bounded(name)] = values[name]
			}
		}
		got, err := splitBody(c.out, stamp, 2)
		if err != nil || !bytes.Equal(got[0], e.Bytes()) || !bytes.Equal(got[1], e.Bytes()) {
			t.Errorf("%.20q: %q, %v, want %q", names, got, err, e.Bytes())
		}
	}
}

// TestTheFirstVersionIsStillRead: what was recorded before there was another one.
func TestTheFirstVersionIsStillRead(t *testing.T) {
	entries := []Entry{sample(1), sample(7)}
	body := appendBody(nil, 1_800_000_000_000_000, entries)
	got, err := splitBody(body, 1_800_000_000_000_000, 2)
	if err != nil || !bytes.Equal(got[0], entries[0].Bytes()) || !bytes.Equal(got[1], entries[1].Bytes()) {
		t.Errorf("%q, %v", got, err)
	}
}

// TestWordsKeepTheirPlaces: a body that was written by an earlier release must mean the same for ever.
func TestWordsKeepTheirPlaces(t *testing.T) {
	e := Entry{At: 1_800_000_005, Action: "cert.issue", Actor: "device:" + deviceID(9), Device: deviceID(9), Serial: "beef", Object: "some words", Detail: map[string]string{
		"slot": "operational", "not_after": "1800086400", "n": "7", "of": "system:server"}}
	body := numbered().appendCompact(nil, 1_800_000_000_000_000, []Entry{e})
	if got := hex.EncodeToString(body); got != goldenBody {
		t.Errorf("the body is %s, want %s", got, goldenBody)
	}
	sum := sha256.Sum256([]byte(strings.Join(words, "\n")))
	if got := hex.EncodeToString(sum[:8]); got != goldenWords {
		t.Errorf("the first words hash to %s, want %s: new ones come at the end, and then the new hash here", got, goldenWords)
	}
}

const (
	goldenBody  = "028080e2c4f2a29903170a388201000000000000000000000000000000090df00512beef51736f6d6520776f7264730004a00178116f66603b84b054e805d801"
	goldenWords = "fb3cfd7aacde4966"
)

// TestABriefEntryIsSmall: what is recorded of a certificate in brief, in a batch of many.
func TestABriefEntryIsSmall(t *testing.T) {
	var entries []Entry
	for n := range 64 {
		id := fmt.Sprintf("%032x", 0xabc0000+n*7919)
		entries = append(entries, Entry{Action: "cert.issue", Actor: "device:" + id, Device: id, Serial: fmt.Sprintf("%032x", 1<<40+n*104729), Detail: map[string]string{
			"sha256": fmt.Sprintf("%064x", n+1<<50), "issuer": strings.Repeat("1f", 16), "profile": "stored", "version": "0123456789abcdef", "slot": "operational",
			"not_before": "1799996400", "not_after": "1800086400", "spki": fmt.Sprintf("%064x", n+1<<51), "evidence": "operational", "protocol": "est", "n": "37", "policy": "1",
			"key": "ec-p256", "presented": fmt.Sprintf("%032x", 1<<41+n*15485863), "row": "1"}})
	}
	body := numbered().appendCompact(nil, 1_800_000_000_000_000, entries)
	before := appendBody(nil, 1_800_000_000_000_000, entries)
	t.Logf("%d octets an entry, %d before", len(body)/len(entries), len(before)/len(entries))
	if each := len(body) / len(entries); each > 140 {
		t.Errorf("%d octets an entry", each)
	}
}

func FuzzCompactBody(f *testing.F) {
	const stamp = 1_800_000_000_123_456
	f.Add(numbered().appendCompact(nil, stamp, oddEntries()), int64(len(oddEntries())))
	f.Add(numbered().appendCompact(nil, stamp, []Entry{sample(1), sample(1), sample(7)}), int64(3))
	f.Fuzz(func(t *testing.T, body []byte, n int64) {
		entries, err := splitBody(body, stamp, n)
		if err != nil {
			return
		}
		for _, data := range entries {
			if e, err := ParseEntry(data); err == nil && !bytes.Equal(e.Bytes(), data) {
				t.Errorf("%s is not canonical", data)
			}
		}
	})
}

// appendBody writes a body of version 1. Entries that bear no time get that of the stamp, in microseconds.
func appendBody(b []byte, stamp int64, entries []Entry) []byte {
	b = append(b, bodyVersion)
	b = binary.AppendUvarint(b, uint64(stamp))
	var one []byte
	for i := range entries {
		e := entries[i]
		if e.At == 0 {
			e.At = stamp / microseconds
		}
		one = appendEntry(one[:0], &e)
		b = binary.AppendUvarint(b, uint64(len(one)))
		b = append(b, one...)
	}
	return b
}
