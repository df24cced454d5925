package audit

import (
	"bytes"
	"maps"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"mooring/internal/base/errs"
)

// Entry is one thing that was done or refused. Names in it are pseudonymous ids; personal data has no place here, because an entry can
// never be taken out of the record again.
//
// Bounds keep one entry from filling the record: a text over 4,096 octets is cut and ends in "…", of more than 64 details the first 64 by
// name are kept, and invalid UTF-8 becomes U+FFFD. No act is refused because its description was too long.
type Entry struct {
	At      int64             // UTC seconds; Append fills in the present when it is 0
	Action  string            // noun.verb, such as "cert.issue"
	Actor   string            // access.Actor.String
	Device  string            // hex id, "" = concerns no device
	Serial  string            // hex serial of a certificate, "" = concerns none
	Object  string            // what else it was done to
	Refused string            // the reason why it was not done; "" = it was done
	Detail  map[string]string // further facts, each a digest, a count or a short name
}

const (
	maxText    = 4096    // octets of one text in an entry
	maxDetails = 64      // details of one entry
	maxEntry   = 4 << 20 // octets of one encoded entry: above what the two bounds allow when every octet is escaped
	ellipsis   = "…"
)

// Bytes returns the canonical encoding of e, the octets that are hashed: compact JSON with the fields in the fixed order at, action,
// actor, device, serial, object, refused, detail. The first three always stand, the others only when they are not empty; details are
// sorted by name; control characters, quotation mark and backslash are written \u00xx with lower-case digits, everything else as itself.
func (e Entry) Bytes() []byte { return appendEntry(make([]byte, 0, 256), &e) }

func appendEntry(b []byte, e *Entry) []byte {
	b = appendHead(b, e)
	if len(e.Detail) > 0 {
		b = appendDetail(append(b, `,"detail":`...), e.Detail)
	}
	return append(b, '}')
}

// appendHead writes what stands before the details.
func appendHead(b []byte, e *Entry) []byte {
	b = append(b, `{"at":`...)
	b = strconv.AppendInt(b, e.At, 10)
	b = appendText(append(b, `,"action":`...), e.Action)
	b = appendText(append(b, `,"actor":`...), e.Actor)
	b = appendField(b, `,"device":`, e.Device)
	b = appendField(b, `,"serial":`, e.Serial)
	b = appendField(b, `,"object":`, e.Object)
	return appendField(b, `,"refused":`, e.Refused)
}

func appendField(b []byte, name, value string) []byte {
	if value == "" {
		return b
	}
	return appendText(append(b, name...), value)
}

func appendDetail(b []byte, detail map[string]string) []byte {
	var room [16]string
	names := room[:0]
	for name := range detail {
		if bounded(name) != name {
			return appendDetail(b, boundedNames(detail))
		}
		names = append(names, name)
	}
	slices.Sort(names)
	for i, name := range names[:min(len(names), maxDetails)] {
		b = append(b, "{,"[min(i, 1)])
		b = append(appendText(b, name), ':')
		b = appendText(b, detail[name])
	}
	return append(b, '}')
}

// boundedNames returns detail with names that need no cutting any more. Of names that become the same the last one stays: names are sorted
// and told apart as they are written.
func boundedNames(detail map[string]string) map[string]string {
	same := make(map[string]string, len(detail))
	for _, name := range slices.Sorted(maps.Keys(detail)) {
		same[bounded(name)] = detail[name]
	}
	return same
}

// appendText writes s as a JSON string. The plain case, printable ASCII without escapes, is one pass and one copy.
func appendText(b []byte, s string) []byte {
	plain := len(s) <= maxText
	for i := 0; plain && i < len(s); i++ {
		c := s[i]
		plain = c >= ' ' && c < utf8.RuneSelf && c != '"' && c != '\\'
	}
	b = append(b, '"')
	if plain {
		b = append(b, s...)
	} else {
		b = appendEscaped(b, bounded(s))
	}
	return append(b, '"')
}

func appendEscaped(b []byte, s string) []byte {
	const digits = "0123456789abcdef"
	for i := range len(s) {
		c := s[i]
		if c < ' ' || c == '"' || c == '\\' {
			b = append(b, '\\', 'u', '0', '0', digits[c>>4], digits[c&15])
			continue
		}
		b = append(b, c)
	}
	return b
}

// bounded returns s as valid UTF-8 of at most maxText octets. What it returns, it leaves alone: the decoder relies on that.
func bounded(s string) string {
	if !utf8.ValidString(s) {
		s = strings.ToValidUTF8(s[:min(len(s), 2*maxText)], "\uFFFD")
	}
	if len(s) <= maxText {
		return s
	}
	end := maxText - len(ellipsis)
	for !utf8.RuneStart(s[end]) {
		end--
	}
	return s[:end] + ellipsis
}

// ParseEntry decodes what Bytes encoded and refuses everything else, so that an entry has exactly one encoding and one hash. The error
// has kind Invalid.
func ParseEntry(data []byte) (Entry, error) {
	if len(data) > maxEntry {
		return Entry{}, errs.New(errs.Invalid, "an audit entry of %d octets is longer than %d", len(data), maxEntry)
	}
	r := reader{rest: string(data)}
	e := r.entry()
	// Encoding again is the whole check of form: order, escapes, doubled, unknown and empty fields, and details that repeat all change the octets.
	if r.failed || r.rest != "" || !bytes.Equal(e.Bytes(), data) {
		return Entry{}, errs.New(errs.Invalid, "the audit entry is not in canonical form")
	}
	return e, nil
}

// reader takes the canonical form apart. It is several times faster than encoding/json, and every entry passes here twice. What it lets
// through wrongly, ParseEntry's comparison refuses.
type reader struct {
	rest   string
	failed bool
}

// skip drops text if it comes next and reports whether it did.
func (r *reader) skip(text string) bool {
	rest, found := strings.CutPrefix(r.rest, text)
	r.rest = rest
	return found
}

func (r *reader) entry() (e Entry) {
	r.failed = !r.skip(`{"at":`)
	digits := len(r.rest) - len(strings.TrimLeft(r.rest, "-0123456789"))
	at, err := strconv.ParseInt(r.rest[:digits], 10, 64)
	r.failed = r.failed || err != nil
	e.At, r.rest = at, r.rest[digits:]
	for _, f := range []struct {
		name  string
		value *string
	}{{`,"action":`, &e.Action}, {`,"actor":`, &e.Actor}, {`,"device":`, &e.Device}, {`,"serial":`, &e.Serial}, {`,"object":`, &e.Object}, {`,"refused":`, &e.Refused}} {
		if r.skip(f.name) {
			*f.value = r.text()
		}
	}
	if r.skip(`,"detail":{`) {
		e.Detail = r.detail()
	}
	r.failed = r.failed || !r.skip("}")
	return e
}

func (r *reader) detail() map[string]string {
	detail := make(map[string]string, 8)
	for !r.failed {
		name := r.text()
		r.failed = r.failed || !r.skip(":")
		detail[name] = r.text()
		if !r.skip(",") {
			r.failed = r.failed || !r.skip("}")
			break
		}
	}
	return detail
}

// text reads one string.
func (r *reader) text() string {
	if !r.skip(`"`) {
		r.failed = true
		return ""
	}
	end := strings.IndexByte(r.rest, '"') // the encoder writes a quotation mark as \u0022
	if end < 0 {
		r.failed = true
		return ""
	}
	text := r.rest[:end]
	r.rest = r.rest[end+1:]
	if strings.IndexByte(text, '\\') < 0 {
		return text
	}
	return r.unescape(text)
}

func (r *reader) unescape(text string) string {
	var b strings.Builder
	for {
		before, after, found := strings.Cut(text, `\u00`)
		b.WriteString(before)
		if !found {
			return b.String()
		}
		if len(after) < 2 {
			r.failed = true
			return ""
		}
		c, err := strconv.ParseUint(after[:2], 16, 8)
		r.failed = r.failed || err != nil
		b.WriteByte(byte(c))
		text = after[2:]
	}
}
