package device

import (
	"bytes"
	"encoding/binary"
	"errors"
	"slices"
	"strings"
)

// A block of the inventory holds some hundreds of devices by columns. In each column the n-th value is that of the n-th device of the block, or
// of the n-th certificate. Text stands in a dictionary of the block: a filter looks for its value there first, and in most blocks it ends
// there; where it does not, it compares numbers. Ten times as many devices are compared in a millisecond as rows could be read.

// column names one column of a block. The numbers are stored.
type column int

const (
	colIDs     column = 1 // 16 octets each, ascending
	colState   column = 2 // 1 octet each
	colProfile column = 3 // text
	colGroup   column = 4 // text
	colTags    column = 5 // text: "\nkey=value\nkey=value\n"
	colSeen    column = 6 // time
	colSpread  column = 7 // 2 octets each: where in its window the device renews
	// Of the certificates that are not revoked:
	colOwner  column = 8  // 2 octets each: the number of the device, ascending
	colSlot   column = 9  // text
	colIssuer column = 10 // text: the octets of the id
	colKey    column = 11 // text
	colEnd    column = 12 // time
	columns          = 13 // one more than the last
)

const (
	blockMost = 4096 // devices in a block; a larger one is split
	blockStep = 2048 // devices that are read at once when blocks are made
	timeSize  = 5    // octets of a time: seconds since 1970, to the year 36812
)

// raw is a block, or some columns of one, as it is stored.
type raw struct {
	cell  uint8
	first []byte // no id of the block is lower; empty in the first block of a cell
	col   [columns][]byte
}

// errDamaged says that a block was not written by this code.
var errDamaged = errors.New("a block of the inventory is damaged")

// size returns the number of devices in the block.
func (b *raw) size() int { return len(b.col[colState]) }

// entry is a device as the inventory knows it.
type entry struct {
	id                   ID
	state                State
	profile, group, tags string
	seen                 int64
	spread               uint16
	certs                []held
}

// held is a certificate that is not revoked.
type held struct {
	slot, issuer, key string
	end               int64
}

// entryOf returns what the inventory says about d.
func entryOf(d *Device) entry {
	e := entry{id: d.ID, state: d.State, profile: d.Profile, group: d.Group, seen: d.LastSeen, spread: uint16(Spread(d.Name) >> 48)}
	if len(d.Tags) > 0 {
		e.tags = "\n" + joinTags(d.Tags) + "\n"
	}
	for i := range d.Slots {
		if s := &d.Slots[i]; s.Revoked == 0 {
			e.certs = append(e.certs, held{s.Name, string(s.Issuer), s.Key, s.NotAfter})
		}
	}
	return e
}

// pack writes entries, sorted by id, as columns.
func pack(cell uint8, first []byte, entries []entry) *raw {
	b := &raw{cell: cell, first: first}
	var profile, group, tags, slot, issuer, key dictionary
	for i := range entries {
		e := &entries[i]
		b.col[colIDs] = append(b.col[colIDs], e.id[:]...)
		b.col[colState] = append(b.col[colState], byte(e.state))
		profile.add(e.profile)
		group.add(e.group)
		tags.add(e.tags)
		b.col[colSeen] = appendTime(b.col[colSeen], e.seen)
		b.col[colSpread] = binary.LittleEndian.AppendUint16(b.col[colSpread], e.spread)
		for _, c := range e.certs {
			b.col[colOwner] = binary.LittleEndian.AppendUint16(b.col[colOwner], uint16(i))
			slot.add(c.slot)
			issuer.add(c.issuer)
			key.add(c.key)
			b.col[colEnd] = appendTime(b.col[colEnd], c.end)
		}
	}
	b.col[colProfile], b.col[colGroup], b.col[colTags] = profile.bytes(), group.bytes(), tags.bytes()
	b.col[colSlot], b.col[colIssuer], b.col[colKey] = slot.bytes(), issuer.bytes(), key.bytes()
	return b
}

// unpack reads all columns.
func (b *raw) unpack() ([]entry, error) {
	entries := make([]entry, b.size())
	ids, seen, spread := b.col[colIDs], b.col[colSeen], b.col[colSpread]
	n := len(entries)
	if len(ids) != n*len(ID{}) || len(seen) != n*timeSize || len(spread) != 2*n {
		return nil, errDamaged
	}
	var texts [3]words
	for i, c := range []column{colProfile, colGroup, colTags} {
		var err error
		if texts[i], err = readWords(b.col[c], n); err != nil {
			return nil, err
		}
	}
	for i := range entries {
		e := &entries[i]
		e.id, e.state, e.seen = ID(ids[i*16:]), State(b.col[colState][i]), timeAt(seen, i)
		e.profile, e.group, e.tags = texts[0].at(i), texts[1].at(i), texts[2].at(i)
		e.spread = binary.LittleEndian.Uint16(spread[2*i:])
	}
	return entries, b.unpackCerts(entries)
}

func (b *raw) unpackCerts(entries []entry) error {
	n := len(b.col[colEnd]) / timeSize
	if len(b.col[colEnd]) != n*timeSize || len(b.col[colOwner]) != 2*n {
		return errDamaged
	}
	var texts [3]words
	for i, c := range []column{colSlot, colIssuer, colKey} {
		var err error
		if texts[i], err = readWords(b.col[c], n); err != nil {
			return err
		}
	}
	for i := range n {
		owner := int(binary.LittleEndian.Uint16(b.col[colOwner][2*i:]))
		if owner >= len(entries) {
			return errDamaged
		}
		e := &entries[owner]
		e.certs = append(e.certs, held{texts[0].at(i), texts[1].at(i), texts[2].at(i), timeAt(b.col[colEnd], i)})
	}
	return nil
}

// after reports whether every id of the block comes after id.
func (b *raw) after(id []byte) bool { return bytes.Compare(b.first, id) > 0 }

func appendTime(b []byte, at int64) []byte {
	u := uint64(max(at, 0))
	return append(b, byte(u), byte(u>>8), byte(u>>16), byte(u>>24), byte(u>>32))
}

func timeAt(b []byte, i int) int64 {
	b = b[i*timeSize : i*timeSize+timeSize]
	return int64(binary.LittleEndian.Uint32(b)) | int64(b[4])<<32
}

// dictionary gathers the texts of a column. What it writes is the number of different texts, each with its length, and then for each value
// the number of its text: nothing when there is one text, one octet up to 256, else two.
type dictionary struct {
	index map[string]uint16
	texts []string
	codes []uint16
}

func (d *dictionary) add(text string) {
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

func (d *dictionary) bytes() []byte {
	b := binary.AppendUvarint(nil, uint64(len(d.texts)))
	for _, text := range d.texts {
		b = binary.AppendUvarint(b, uint64(len(text)))
		b = append(b, text...)
	}
	for _, code := range d.codes {
		switch {
		case len(d.texts) > 256:
			b = binary.LittleEndian.AppendUint16(b, code)
		case len(d.texts) > 1:
			b = append(b, byte(code))
		}
	}
	return b
}

// words is a column of text as it was read.
type words struct {
	texts []string
	codes []byte // empty, one octet each, or two
}

// readWords reads a column of n values.
func readWords(b []byte, n int) (w words, err error) {
	count, used := binary.Uvarint(b)
	if used <= 0 || count > uint64(len(b)) || count == 0 && n > 0 {
		return w, errDamaged
	}
	b = b[used:]
	w.texts = make([]string, count)
	for i := range w.texts {
		size, used := binary.Uvarint(b)
		if used <= 0 || size > uint64(len(b)-used) {
			return w, errDamaged
		}
		w.texts[i] = string(b[used : used+int(size)])
		b = b[used+int(size):]
	}
	width := 0
	switch {
	case count > 256:
		width = 2
	case count > 1:
		width = 1
	}
	if len(b) != n*width {
		return w, errDamaged
	}
	w.codes = b
	for i := range n {
		if width == 2 && w.code(i) >= len(w.texts) {
			return w, errDamaged
		}
	}
	if width == 1 && n > 0 && int(slices.Max(b)) >= len(w.texts) {
		return w, errDamaged
	}
	return w, nil
}

func (w *words) code(i int) int {
	switch {
	case len(w.texts) > 256:
		return int(binary.LittleEndian.Uint16(w.codes[2*i:]))
	case len(w.texts) > 1:
		return int(w.codes[i])
	}
	return 0
}

func (w *words) at(i int) string { return w.texts[w.code(i)] }

// which reports for each text whether it is wanted, as 0 or 1, and whether all or none are.
func (w *words) which(wanted func(string) bool) (by []byte, all, none bool) {
	by, all, none = make([]byte, max(len(w.texts), 256)), true, true
	for i, text := range w.texts {
		if wanted(text) {
			by[i], none = 1, false
		} else {
			all = false
		}
	}
	return by, all, none
}

// hasTag returns a test of a column of tags for "key" or "key=value".
func hasTag(tag string) func(string) bool {
	needle := "\n" + tag
	if strings.Contains(tag, "=") {
		needle += "\n"
	} else {
		needle += "="
	}
	return func(text string) bool { return strings.Contains(text, needle) }
}

// find returns where the device stands in entries, or would.
func find(entries []entry, id ID) (int, bool) {
	return slices.BinarySearchFunc(entries, id, func(e entry, id ID) int { return bytes.Compare(e.id[:], id[:]) })
}
