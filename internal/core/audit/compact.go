package audit

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"slices"
	"strconv"
	"strings"

	"mooring/internal/base/errs"
)

// The body of a batch in version 2. What an entry says often, its names and words, stands in it as a number, and hexadecimal digits as octets. The
// canonical octets of the entries, which are hashed, are made from it and are the same as ever.
//
//	body   = 02 stamp *entry                    stamp in microseconds; all numbers are uvarints, signed ones zigzag
//	entry  = mask at action [device] actor [serial] [object] [refused] [detail]
//	mask   = octet: 1 device, 2 serial, 4 object, 8 refused, 16 detail; or 80: size and canonical octets follow
//	at     = seconds after the stamp's, signed
//	detail = 00 count *name *value, or 1 + number of an earlier such list of names in this body, same *value
//	same   = a bit for each name, the lowest of the first octet for the first name: the value is that of the last entry with this list, and left out
//	value  = number that is 8 times an argument and a kind, then octets as the kind says
//
// Texts of 2 to 64 octets that were written out, and hexadecimal ones of 2 to 16, get the next numbers behind the fixed words and are referred to
// when they come again.
const (
	kindWord   = iota // argument: number of a fixed word, or of a text that was written out before
	kindText          // argument: number of octets that follow
	kindHex           // argument: number of octets that follow, of which the text has the lower-case digits
	kindNumber        // argument: the number, of which the text has the decimal digits
	kindTime          // argument: seconds after the stamp's, signed, of which the text has the decimal digits
	kindActor         // argument: number of a fixed word; the value that follows stands behind it
)

const (
	compactVersion = 2
	maskRaw        = 0x80
	maxDecoded     = 256 << 20 // octets of the entries of one body
	maxNumber      = 1 << 50   // larger decimal numbers are texts
)

// words are the fixed words. What is stored says their places, so that new ones come at the end and none ever leaves.
var words = []string{"", "device:", "operator:", "local:", "system:", "service:", "stranger:", "cert.issue", "sha256", "issuer", "profile", "version", "slot", "prev",
	"not_before", "not_after", "spki", "evidence", "protocol", "presented", "n", "policy", "key", "row", "token_at", "rescued_at", "approved", "operational", "est", "scep", "cmp",
	"acme", "coap", "token", "birth", "account", "ec-p256", "p256", "ed25519", "rsa2048", "device.add", "device.change", "device.state", "device.token", "device.rescue", "cert.revoke", "cert.hold",
	"cert.release", "cert.ephemeral", "crl.publish", "crl.delta", "key.use", "issued", "told", "number", "this_update", "next_update", "covers", "shard", "size", "digest",
	"signature", "entries", "kind", "turn", "change", "reason", "origin", "at", "from", "to", "until", "new", "expired", "device", "device-short", "enrol", "enrol.refuse", "burnt", "access.refuse",
	"permission", "count", "since", "name", "by", "yes", "job", "job.make", "job.start", "job.done", "state", "server", "responder", "system:server"}

// dictionary is what one body has named so far.
type dictionary struct {
	own   map[string]uint64 // nil: nothing is looked up by its text
	texts []string          // by number, the fixed words first
	lists []nameList
}

// numbering has the places of the fixed words. Whoever writes bodies makes one, once.
type numbering map[string]uint64

func numbered() numbering {
	all := make(numbering, len(words))
	for i, w := range words {
		all[w] = uint64(i)
	}
	return all
}

// nameList is a list of names that was written out, with the values of the last entry that has them.
type nameList struct {
	names, last []string
	canonical   bool // of a body that is read: the names stand as they do in the canonical octets
}

// learn gives s the next number, if it is of a length that pays.
func (d *dictionary) learn(s string, most int) {
	if len(s) < 2 || len(s) > most {
		return
	}
	if d.own != nil {
		d.own[s] = uint64(len(d.texts))
	}
	d.texts = append(d.texts, s)
}

const (
	mostLearned = 64 // octets of a text
	mostHex     = 32 // digits
)

// compactor writes one body.
type compactor struct {
	dictionary
	fixed numbering
	out   []byte
	stamp int64 // seconds
}

// appendCompact writes the body of one batch. Entries that bear no time get that of the stamp, in microseconds.
func (n numbering) appendCompact(b []byte, stamp int64, entries []Entry) []byte {
	c := &compactor{fixed: n, dictionary: dictionary{own: map[string]uint64{}, texts: slices.Clip(words)}, out: append(b, compactVersion), stamp: stamp / microseconds}
	c.out = binary.AppendUvarint(c.out, uint64(stamp))
	for i := range entries {
		e := entries[i]
		if e.At == 0 {
			e.At = c.stamp
		}
		c.entry(&e)
	}
	return c.out
}

func (c *compactor) entry(e *Entry) {
	list := c.listOf(e.Detail)
	var room [16]string
	names := room[:0]
	if list < 0 {
		for name := range e.Detail {
			if bounded(name) != name || len(e.Detail) > maxDetails {
				c.raw(e)
				return
			}
			names = append(names, name)
		}
		slices.Sort(names)
	}
	mask := byte(0)
	for i, set := range [5]bool{e.Device != "", e.Serial != "", e.Object != "", e.Refused != "", len(e.Detail) > 0} {
		if set {
			mask |= 1 << i
		}
	}
	c.out = append(c.out, mask)
	c.out = binary.AppendVarint(c.out, e.At-c.stamp)
	c.value(e.Action)
	if e.Device != "" {
		c.value(e.Device)
	}
	c.actor(e.Actor)
	for _, s := range [3]string{e.Serial, e.Object, e.Refused} {
		if s != "" {
			c.value(s)
		}
	}
	switch {
	case len(e.Detail) == 0:
	case list < 0:
		c.newDetail(names, e.Detail)
	default:
		c.detail(list, e.Detail)
	}
}

// listOf returns the number of the earlier list that has the names of detail, or -1: entries of one batch mostly have the same.
func (c *compactor) listOf(detail map[string]string) int {
	return slices.IndexFunc(c.lists, func(l nameList) bool {
		if len(l.names) != len(detail) {
			return false
		}
		for _, name := range l.names {
			if _, ok := detail[name]; !ok {
				return false
			}
		}
		return true
	})
}

func (c *compactor) raw(e *Entry) {
	data := e.Bytes()
	c.out = append(c.out, maskRaw)
	c.out = binary.AppendUvarint(c.out, uint64(len(data)))
	c.out = append(c.out, data...)
}

// detail refers to an earlier list of names, and writes those values that are others than the last entry's that has them.
func (c *compactor) detail(list int, detail map[string]string) {
	l := c.lists[list]
	c.out = binary.AppendUvarint(c.out, uint64(list)+1)
	same := len(c.out)
	c.out = append(c.out, make([]byte, (len(l.names)+7)/8)...)
	for k, name := range l.names {
		if value := bounded(detail[name]); value == l.last[k] {
			c.out[same+k/8] |= 1 << (k % 8)
		} else {
			c.value(value)
			l.last[k] = value
		}
	}
}

// newDetail writes a new list of names, sorted, and then the values.
func (c *compactor) newDetail(names []string, detail map[string]string) {
	c.out = append(c.out, 0)
	c.out = binary.AppendUvarint(c.out, uint64(len(names)))
	l := nameList{names: slices.Clone(names), last: make([]string, len(names))}
	for _, name := range names {
		c.value(name)
	}
	for k, name := range names {
		l.last[k] = bounded(detail[name])
		c.value(l.last[k])
	}
	c.lists = append(c.lists, l)
}

func (c *compactor) head(kind, argument uint64) {
	c.out = binary.AppendUvarint(c.out, argument<<3|kind)
}

// actor writes a kind of actor and who it is apart.
func (c *compactor) actor(s string) {
	if kind, who, ok := strings.Cut(s, ":"); ok && who != "" {
		if n, known := c.fixed[kind+":"]; known {
			c.head(kindActor, n)
			c.value(who)
			return
		}
	}
	c.value(s)
}

func (c *compactor) value(s string) {
	s = bounded(s)
	n, ok := c.fixed[s]
	if !ok {
		n, ok = c.own[s]
	}
	if ok {
		c.head(kindWord, n)
		return
	}
	if n, ok := plainNumber(s); ok {
		relative := n - c.stamp
		if zigzag := uint64(relative<<1) ^ uint64(relative>>63); zigzag < uint64(n) {
			c.head(kindTime, zigzag)
		} else {
			c.head(kindNumber, uint64(n))
		}
		return
	}
	if octets, ok := plainHex(s); ok {
		c.head(kindHex, uint64(len(octets)))
		c.out = append(c.out, octets...)
		c.learn(s, mostHex)
		return
	}
	c.head(kindText, uint64(len(s)))
	c.out = append(c.out, s...)
	c.learn(s, mostLearned)
}

// plainNumber returns the number of which s has the decimal digits, as strconv writes them.
func plainNumber(s string) (int64, bool) {
	if s == "" || len(s) > 16 || s[0] == '0' && len(s) > 1 {
		return 0, false
	}
	n := int64(0)
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return 0, false
		}
		n = 10*n + int64(s[i]-'0')
	}
	return n, n < maxNumber
}

// plainHex returns the octets of which s has the lower-case digits.
func plainHex(s string) ([]byte, bool) {
	if len(s) < 4 || len(s)%2 != 0 {
		return nil, false
	}
	for i := range len(s) {
		if (s[i] < '0' || s[i] > '9') && (s[i] < 'a' || s[i] > 'f') {
			return nil, false
		}
	}
	octets, err := hex.DecodeString(s)
	return octets, err == nil
}

// expander reads one body. After the first error everything is empty.
type expander struct {
	dictionary
	rest  []byte
	stamp int64 // seconds
	err   error
	data  []byte // of one entry; reused
}

var errCompact = errors.New("it cannot be read")

func (x *expander) fail() {
	if x.err == nil {
		x.err = errCompact
	}
	x.rest = nil
}

func (x *expander) uvarint() uint64 {
	n, rest, ok := cutUvarint(x.rest)
	if !ok {
		x.fail()
		return 0
	}
	x.rest = rest
	return n
}

func (x *expander) octets(n uint64) []byte {
	if n > uint64(len(x.rest)) {
		x.fail()
		return nil
	}
	b := x.rest[:n]
	x.rest = x.rest[n:]
	return b
}

func unzigzag(n uint64) int64 { return int64(n>>1) ^ -int64(n&1) }

// expandCompact calls fn with the canonical octets of each entry of a body in version 2 that holds exactly n of them and bears stamp, which are good until
// fn returns, and with the entry itself, but for its details; nil when it has not been parsed.
func expandCompact(body []byte, stamp, n int64, fn func(data []byte, e *Entry) error) error {
	own, rest, ok := cutUvarint(body[1:])
	if !ok || own != uint64(stamp) {
		return errs.New(errs.Invalid, "the batch bears the stamp %d, its row %d", own, stamp)
	}
	x := &expander{dictionary: dictionary{texts: slices.Clip(words)}, rest: rest, stamp: stamp / microseconds}
	count, size := int64(0), 0
	for ; len(x.rest) > 0; count++ {
		data, e := x.entry()
		size += len(data)
		if x.err == nil && (size > maxDecoded || count == n) {
			x.fail()
		}
		if x.err != nil {
			return errs.New(errs.Invalid, "entry %d of the batch: %v", count, x.err)
		}
		if err := fn(data, e); err != nil {
			return err
		}
	}
	if count != n {
		return errs.New(errs.Invalid, "the batch holds %d entries, its row says %d", count, n)
	}
	return nil
}

func (x *expander) entry() ([]byte, *Entry) {
	mask := x.octets(1)
	if len(mask) == 1 && mask[0] == maskRaw {
		return x.octets(min(x.uvarint(), maxEntry+1)), nil
	}
	if x.err != nil || mask[0] >= 32 {
		x.fail()
		return nil, nil
	}
	e := &Entry{At: x.stamp + unzigzag(x.uvarint()), Action: x.value()}
	if mask[0]&1 != 0 {
		e.Device = x.value()
	}
	e.Actor = x.value()
	for i, into := range [3]*string{&e.Serial, &e.Object, &e.Refused} {
		if mask[0]&(2<<i) != 0 {
			*into = x.value()
		}
	}
	var l nameList
	if mask[0]&16 != 0 {
		l = x.detail()
	}
	if x.err != nil {
		return nil, nil
	}
	x.data = appendHead(x.data[:0], e)
	if len(l.names) > 0 {
		x.data = l.append(append(x.data, `,"detail":`...))
	}
	x.data = append(x.data, '}')
	return x.data, e
}

// append writes the names and their values as details of an entry.
func (l *nameList) append(b []byte) []byte {
	if !l.canonical {
		detail := make(map[string]string, len(l.names))
		for k, name := range l.names {
			detail[name] = l.last[k]
		}
		return appendDetail(b, detail)
	}
	for k, name := range l.names {
		b = append(b, "{,"[min(k, 1)])
		b = append(appendText(b, name), ':')
		b = appendText(b, l.last[k])
	}
	return append(b, '}')
}

// inOrder reports whether the names are sorted, all different, and none would be cut.
func inOrder(names []string) bool {
	for k, name := range names {
		if bounded(name) != name || k > 0 && name <= names[k-1] {
			return false
		}
	}
	return true
}

// detail reads the values of a list of names.
func (x *expander) detail() nameList {
	if n := x.uvarint(); n > 0 {
		if n > uint64(len(x.lists)) {
			x.fail()
			return nameList{}
		}
		l := x.lists[n-1]
		same := x.octets(uint64(len(l.names)+7) / 8)
		for k := range l.names {
			if x.err == nil && same[k/8]&(1<<(k%8)) == 0 {
				l.last[k] = x.value()
			}
		}
		return l
	}
	count := x.uvarint()
	if count > maxDetails {
		x.fail()
		return nameList{}
	}
	l := nameList{names: make([]string, count), last: make([]string, count)}
	for k := range l.names {
		l.names[k] = x.value()
	}
	l.canonical = inOrder(l.names)
	for k := range l.last {
		l.last[k] = x.value()
	}
	x.lists = append(x.lists, l)
	return l
}

func (x *expander) value() string {
	head := x.uvarint()
	argument := head >> 3
	switch head & 7 {
	case kindWord:
		if argument < uint64(len(x.texts)) {
			return x.texts[argument]
		}
	case kindText:
		s := string(x.octets(argument))
		x.learn(s, mostLearned)
		return s
	case kindHex:
		s := hex.EncodeToString(x.octets(argument))
		x.learn(s, mostHex)
		return s
	case kindNumber:
		return strconv.FormatUint(argument, 10)
	case kindTime:
		return strconv.FormatInt(x.stamp+unzigzag(argument), 10)
	case kindActor:
		if argument < uint64(len(x.texts)) && len(x.rest) > 0 && x.rest[0]&7 != kindActor {
			return x.texts[argument] + x.value()
		}
	}
	x.fail()
	return ""
}
