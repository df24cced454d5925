package device

import (
	"bytes"
	"encoding/binary"
	"math"
	"math/bits"
	"slices"
	"strings"
)

// The columns of a block, as they are stored and searched. What passes is a bit per value, the lowest first; a search clears bits and looks at no
// eight values of which none is left. Columns are as long as whole eights of values are, so nothing has to care for an end within an octet:
// the bits behind the last value are never set.

// eights is how many octets n bits take.
func eights(n int) int { return (n + 7) / 8 }

// ones returns n set bits, in room.
func ones(room []byte, n int) []byte {
	room = slices.Grow(room[:0], eights(n))[:eights(n)]
	for i := range room {
		room[i] = 0xff
	}
	if n%8 > 0 {
		room[n/8] = 1<<(n%8) - 1
	}
	return room
}

// anySet reports whether a bit is set.
func anySet(on []byte) bool {
	for _, b := range on {
		if b != 0 {
			return true
		}
	}
	return false
}

// countSet returns how many bits are set.
func countSet(on []byte) (n int) {
	for len(on) >= 8 {
		n += bits.OnesCount64(binary.LittleEndian.Uint64(on))
		on = on[8:]
	}
	for _, b := range on {
		n += bits.OnesCount8(b)
	}
	return n
}

// eachSet calls fn for every bit that is set, in order.
func eachSet(on []byte, fn func(i int)) {
	for i, b := range on {
		for ; b != 0; b &= b - 1 {
			fn(8*i + bits.TrailingZeros8(b))
		}
	}
}

func isSet(on []byte, i int) bool { return on[i/8]>>(i%8)&1 == 1 }

// numbers is a column of n numbers: the least of them, 2 octets; the width in bits of what the others have more, 1 octet; and that.
type numbers struct {
	n     int
	least uint16
	width int // 0, 1, 2, 4, 8, 16
	data  []byte
}

func appendNumbers(b []byte, values []uint16) []byte {
	var least, most uint16
	if len(values) > 0 {
		least, most = slices.Min(values), slices.Max(values)
	}
	width := 0
	for _, width = range []int{0, 1, 2, 4, 8, 16} {
		if bits.Len16(most-least) <= width {
			break
		}
	}
	b = append(binary.LittleEndian.AppendUint16(b, least), byte(width))
	at := len(b)
	b = append(b, make([]byte, eights(len(values))*width)...)
	for i, v := range values {
		v -= least
		if bit := i * width; width == 16 {
			binary.LittleEndian.PutUint16(b[at+bit/8:], v)
		} else if width > 0 {
			b[at+bit/8] |= byte(v) << (bit % 8)
		}
	}
	return b
}

// more is what the i-th value has more than the least.
func (c *numbers) more(i int) uint16 {
	switch bit := i * c.width; c.width {
	case 0:
		return 0
	case 16:
		return binary.LittleEndian.Uint16(c.data[bit/8:])
	default:
		return uint16(c.data[bit/8]>>(bit%8)) & (1<<c.width - 1)
	}
}

func (c *numbers) at(i int) uint16 { return c.least + c.more(i) }

func (c *numbers) sum() int {
	total := int(c.least) * c.n
	if c.width > 0 {
		for i := range c.n {
			total += int(c.more(i))
		}
	}
	return total
}

// keep clears the bits of the values that are not wanted; wanted holds 1 for each difference from the least that is.
func (c *numbers) keep(on []byte, wanted *[1 << 16]byte) {
	if c.width == 0 {
		if wanted[0] == 0 {
			clear(on)
		}
		return
	}
	for i, old := range on {
		if old == 0 {
			continue
		}
		var m byte
		switch c.width {
		case 1:
			m = -wanted[1]&c.data[i] | -wanted[0]&^c.data[i]
		case 2:
			v := binary.LittleEndian.Uint16(c.data[2*i:])
			for k := range 8 {
				m |= wanted[v&3] << k
				v >>= 2
			}
		case 4:
			v := binary.LittleEndian.Uint32(c.data[4*i:])
			for k := range 8 {
				m |= wanted[v&15] << k
				v >>= 4
			}
		case 8:
			v := c.data[8*i : 8*i+8]
			m = wanted[v[0]] | wanted[v[1]]<<1 | wanted[v[2]]<<2 | wanted[v[3]]<<3 | wanted[v[4]]<<4 | wanted[v[5]]<<5 | wanted[v[6]]<<6 | wanted[v[7]]<<7
		default:
			v := c.data[16*i : 16*i+16]
			for k := range 8 {
				m |= wanted[binary.LittleEndian.Uint16(v[2*k:])] << k
			}
		}
		on[i] = old & m
	}
}

// dictionary gathers the texts of a column. What it writes is the number of different texts, the length of each, all of them, and then the
// column of their numbers.
type dictionary struct {
	index map[string]uint16
	texts []string
	codes []uint16
}

func (d *dictionary) add(text string) {
	if n := len(d.codes); n > 0 && d.texts[d.codes[n-1]] == text {
		d.codes = append(d.codes, d.codes[n-1])
		return
	}
	code, known := d.index[text]
	if !known {
		if d.index == nil {
			d.index = map[string]uint16{}
		}
		code = uint16(len(d.texts))
		d.index[text] = code
		d.texts = append(d.texts, text)
	}
	d.codes = append(d.codes, code)
}

func (d *dictionary) append(b []byte) []byte {
	b = binary.AppendUvarint(b, uint64(len(d.texts)))
	total := 0
	for _, text := range d.texts {
		b = binary.AppendUvarint(b, uint64(len(text)))
		total += len(text)
	}
	b = slices.Grow(b, total)
	for _, text := range d.texts {
		b = append(b, text...)
	}
	return appendNumbers(b, d.codes)
}

// words is a column of text as it was read.
type words struct {
	count   int    // of different texts
	lengths []byte // a varint each
	texts   []byte
	codes   numbers
}

// each calls fn for every text of the dictionary.
func (w *words) each(fn func(code int, text []byte)) {
	lengths, texts := w.lengths, w.texts
	for code := range w.count {
		size, used := binary.Uvarint(lengths)
		fn(code, texts[:size:size])
		lengths, texts = lengths[used:], texts[size:]
	}
}

// room is what a search needs again and again.
type room struct {
	wanted [1 << 16]byte // by code; all 0 between two uses
	codes  []int
	owners []uint16
}

// equal clears the bits of the values that are not this text.
func (w *words) equal(on []byte, text string, r *room) {
	r.codes = r.codes[:0]
	w.each(func(code int, t []byte) {
		if string(t) == text {
			r.codes = append(r.codes, code)
		}
	})
	w.keep(on, r)
}

// contain clears the bits of the values that do not contain text, which may lie across no two texts of the dictionary.
func (w *words) contain(on []byte, text []byte, r *room) {
	r.codes = r.codes[:0]
	code, to := -1, 0 // the text that was looked at last, and where it ends
	lengths := w.lengths
	for at := 0; ; {
		k := bytes.Index(w.texts[at:], text)
		if k < 0 {
			break
		}
		at += k
		for at >= to { // it lies in a later text
			size, used := binary.Uvarint(lengths)
			code, to, lengths = code+1, to+int(size), lengths[used:]
		}
		r.codes = append(r.codes, code)
		at = to
	}
	w.keep(on, r)
}

// keep clears the bits of the values whose code is not among r.codes.
func (w *words) keep(on []byte, r *room) {
	switch len(r.codes) {
	case 0:
		clear(on)
		return
	case w.count:
		return
	}
	for _, code := range r.codes {
		r.wanted[code] = 1
	}
	w.codes.keep(on, &r.wanted)
	for _, code := range r.codes {
		r.wanted[code] = 0
	}
}

// list returns the texts themselves, and whether there is one for every value.
func (w *words) list() (t texts, sound bool) {
	t = texts{codes: &w.codes, words: make([]string, 0, w.count)}
	w.each(func(_ int, text []byte) { t.words = append(t.words, string(text)) })
	for i := range w.codes.n {
		if int(w.codes.more(i)) >= w.count {
			return t, false
		}
	}
	return t, true
}

type texts struct {
	words []string
	codes *numbers
}

func (t *texts) at(i int) string { return t.words[t.codes.more(i)] }

// times is a column of times, UTC seconds: the least but 0, 8 octets; the width in octets, 1; and what each is more than that, plus 1, or 0 for 0.
type times struct {
	n     int
	least int64
	width int // 0 to 8
	data  []byte
}

// timesEnd stands behind a column of times, so that any value can be read as 8 octets.
const timesEnd = 8

func appendTimes(b []byte, values []int64) []byte {
	least, most := int64(math.MaxInt64), int64(0)
	for _, v := range values {
		if v > 0 {
			least, most = min(least, v), max(most, v)
		}
	}
	width := 0
	if most > 0 {
		width = eights(bits.Len64(uint64(most-least) + 1))
	} else {
		least = 0
	}
	b = append(binary.LittleEndian.AppendUint64(b, uint64(least)), byte(width))
	at := len(b)
	b = append(b, make([]byte, 8*eights(len(values))*width+timesEnd)...)
	for i, v := range values {
		if v > 0 {
			code := uint64(v-least) + 1
			for k := range width {
				b[at+i*width+k] = byte(code >> (8 * k))
			}
		}
	}
	return b
}

func (c *times) code(i int) uint64 {
	return binary.LittleEndian.Uint64(c.data[i*c.width:]) & (1<<(8*c.width) - 1)
}

func (c *times) at(i int) int64 {
	if code := c.code(i); code > 0 {
		return c.least + int64(code-1)
	}
	return 0
}

// keep clears the bits of the values below from, or at or behind to when to is not 0.
func (c *times) keep(on []byte, from, to int64) {
	low, high := uint64(0), uint64(math.MaxUint64)
	if from > 0 {
		low = uint64(max(from-c.least, 0)) + 1
	}
	switch {
	case to > 0 && to <= c.least:
		high = 1
	case to > 0:
		high = uint64(to-c.least) + 1
	}
	if low >= high {
		clear(on)
		return
	}
	mask := uint64(1)<<(8*c.width) - 1
	if low == 0 && high > mask {
		return
	}
	for i, old := range on {
		if old == 0 {
			continue
		}
		var m uint64
		data := c.data[8*i*c.width:]
		for k := range 8 {
			_, below := bits.Sub64(binary.LittleEndian.Uint64(data[k*c.width:])&mask-low, high-low, 0)
			m |= below << k
		}
		on[i] = old & byte(m)
	}
}

// reader takes columns from the front of a part; damage is told at the end.
type reader struct {
	rest    []byte
	damaged bool
}

// take returns the next n octets, or nil when there are fewer.
func (r *reader) take(n int) []byte {
	if r.damaged || n < 0 || n > len(r.rest) {
		r.damaged = true
		return nil
	}
	taken := r.rest[:n:n]
	r.rest = r.rest[n:]
	return taken
}

// count takes a number up to most.
func (r *reader) count(most int) int {
	n, used := binary.Uvarint(r.rest)
	if used <= 0 || n > uint64(most) {
		r.damaged = true
		return 0
	}
	r.rest = r.rest[used:]
	return int(n)
}

func (r *reader) numbers(n int) (c numbers) {
	h := r.take(3)
	if r.damaged {
		return c
	}
	least, width := binary.LittleEndian.Uint16(h), int(h[2])
	if width > 16 || width&(width-1) != 0 {
		r.damaged = true
		return c
	}
	if data := r.take(eights(n) * width); !r.damaged {
		c = numbers{n, least, width, data}
	}
	return c
}

func (r *reader) words(n int) (w words) {
	count := r.count(1 << 16)
	all, total := r.rest, 0
	for range count {
		total += r.count(len(r.rest))
		if r.damaged {
			return w
		}
	}
	lengths := all[:len(all)-len(r.rest)]
	text := r.take(total)
	codes := r.numbers(n)
	if r.damaged || n > 0 && count == 0 || codes.least > 0 {
		r.damaged = true
		return w
	}
	return words{count, lengths, text, codes}
}

func (r *reader) times(n int) (c times) {
	h := r.take(9)
	if r.damaged {
		return c
	}
	least, width := int64(binary.LittleEndian.Uint64(h)), int(h[8])
	if width > 8 || least < 0 {
		r.damaged = true
		return c
	}
	if data := r.take(8*eights(n)*width + timesEnd); !r.damaged {
		c = times{n, least, width, data}
	}
	return c
}

// end returns errDamaged unless everything was taken.
func (r *reader) end() error {
	if r.damaged || len(r.rest) > 0 {
		return errDamaged
	}
	return nil
}

// tagNeedle is what the text of a device's tags contains when it has "key" or "key=value".
func tagNeedle(tag string) []byte {
	if strings.Contains(tag, "=") {
		return []byte("\n" + tag + "\n")
	}
	return []byte("\n" + tag + "=")
}
