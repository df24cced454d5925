package device

import (
	"bytes"
	"encoding/binary"
	"errors"
	"slices"
)

// A block of the inventory holds some thousands of devices by columns. In each column the n-th value is that of the n-th device of the block, or
// of the n-th certificate. Values are numbers of as few bits as the block needs: text stands in a dictionary of the block, times are
// counted from the earliest. What most filters look at, and what takes an octet or two a device, is one part of the block, which is read first;
// most blocks that a rare value is looked for in need nothing else.

// part names one part of a block. The numbers are stored: each part is one row, but for the ids.
type part int

const (
	partIDs  part = 1 // 16 octets each, ascending; in rows of idsEach, numbered from rowIDs
	partHead part = 2 // the number of devices; state, profile, group; how many certificates each has; their issuers and keys
	partTags part = 3 // "\nkey=value\nkey=value\n"
	partEnds part = 4 // of the certificates
	partSeen part = 5 // when the devices were heard of
	partRest part = 6 // where in its window each device renews; the slots of the certificates
	parts         = 7 // one more than the last
)

const (
	blockMost = 4096    // devices in a block; a larger one is split
	blockStep = 2048    // devices that are read at once when blocks are made
	certsMost = 1 << 16 // certificates in a block

	// Ids are as long as all else that is known of a device, and are read for the devices of a page only: in small rows, so that few others
	// are read with them.
	idsEach = 120
	rowIDs  = 16
	rowsEnd = rowIDs + (blockMost+idsEach-1)/idsEach
)

// raw is a block, or some parts of one, as it is stored.
type raw struct {
	cell  uint8
	first []byte // no id of the block is lower; empty in the first block of a cell
	part  [parts][]byte
}

// add takes a row of the block, in the order of the rows.
func (b *raw) add(kind int64, data []byte) error {
	switch {
	case kind > int64(partIDs) && kind < parts:
		b.part[kind] = data
	case kind >= rowIDs && kind < rowsEnd && len(b.part[partIDs]) == int(kind-rowIDs)*idsEach*len(ID{}):
		b.part[partIDs] = append(b.part[partIDs], data...)
	default:
		return errDamaged
	}
	return nil
}

// row returns a row of the block; nil when there is none.
func (b *raw) row(kind int64) []byte {
	switch {
	case kind < parts:
		return b.part[kind]
	case kind < rowIDs:
		return nil
	}
	const size = idsEach * len(ID{})
	at := int(kind-rowIDs) * size
	return b.part[partIDs][min(at, len(b.part[partIDs])):min(at+size, len(b.part[partIDs]))]
}

// errDamaged says that a block was not written by this code.
var errDamaged = errors.New("a block of the inventory is damaged")

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
	var state, profile, group, tags, slot, issuer, key dictionary
	var counts, spread []uint16
	var seen, ends []int64
	b.part[partIDs] = make([]byte, 0, len(entries)*len(ID{}))
	for i := range entries {
		e := &entries[i]
		b.part[partIDs] = append(b.part[partIDs], e.id[:]...)
		state.add(stateText(e.state))
		profile.add(e.profile)
		group.add(e.group)
		tags.add(e.tags)
		seen = append(seen, e.seen)
		spread = append(spread, e.spread)
		counts = append(counts, uint16(len(e.certs)))
		for _, c := range e.certs {
			slot.add(c.slot)
			issuer.add(c.issuer)
			key.add(c.key)
			ends = append(ends, c.end)
		}
	}
	head := appendNumbers(binary.AppendUvarint(nil, uint64(len(entries))), counts)
	for _, d := range []*dictionary{&state, &profile, &group, &issuer, &key} {
		head = d.append(head)
	}
	b.part[partHead], b.part[partTags] = head, tags.append(nil)
	b.part[partEnds], b.part[partSeen] = appendTimes(nil, ends), appendTimes(nil, seen)
	b.part[partRest] = slot.append(appendNumbers(nil, spread))
	return b
}

// head is the first part of a block as it was read.
type head struct {
	devices, certs        int
	counts                numbers // certificates of each device
	state, profile, group words
	issuer, key           words
}

// head reads the first part.
func (b *raw) head() (h head, err error) {
	r := reader{rest: b.part[partHead]}
	h.devices = r.count(blockMost)
	h.counts = r.numbers(h.devices)
	h.certs = h.counts.sum()
	if h.certs > certsMost {
		return h, errDamaged
	}
	h.state, h.profile, h.group = r.words(h.devices), r.words(h.devices), r.words(h.devices)
	h.issuer, h.key = r.words(h.certs), r.words(h.certs)
	return h, r.end()
}

// single reports whether each device has one certificate, so that what is said of the n-th of either is said of both.
func (h *head) single() bool { return h.counts.width == 0 && h.counts.least == 1 }

// owners returns the number of the device that each certificate belongs to, in room.
func (h *head) owners(room []uint16) []uint16 {
	room = room[:0]
	for i := range h.devices {
		for range h.counts.at(i) {
			room = append(room, uint16(i))
		}
	}
	return room
}

// unpack reads all parts.
func (b *raw) unpack() ([]entry, error) {
	h, err := b.head()
	if err != nil {
		return nil, err
	}
	tags, seen, ends, rest := reader{rest: b.part[partTags]}, reader{rest: b.part[partSeen]}, reader{rest: b.part[partEnds]}, reader{rest: b.part[partRest]}
	t, s, e, spread, slot := tags.words(h.devices), seen.times(h.devices), ends.times(h.certs), rest.numbers(h.devices), rest.words(h.certs)
	if err := errors.Join(tags.end(), seen.end(), ends.end(), rest.end()); err != nil || len(b.part[partIDs]) != h.devices*len(ID{}) {
		return nil, errDamaged
	}
	var text [7]texts
	for i, w := range []*words{&h.state, &h.profile, &h.group, &t, &slot, &h.issuer, &h.key} {
		var sound bool
		if text[i], sound = w.list(); !sound {
			return nil, errDamaged
		}
	}
	entries := make([]entry, h.devices)
	n := 0
	for i := range entries {
		entries[i] = entry{id: ID(b.part[partIDs][i*len(ID{}):]), state: stateOf(text[0].at(i)), profile: text[1].at(i), group: text[2].at(i), tags: text[3].at(i), seen: s.at(i), spread: spread.at(i)}
		for range h.counts.at(i) {
			entries[i].certs = append(entries[i].certs, held{text[4].at(n), text[5].at(n), text[6].at(n), e.at(n)})
			n++
		}
	}
	return entries, nil
}

// after reports whether every id of the block comes after id.
func (b *raw) after(id []byte) bool { return bytes.Compare(b.first, id) > 0 }

// States stand in a dictionary like texts.
func stateText(s State) string { return string([]byte{byte(s)}) }

func stateOf(text string) State {
	if len(text) != 1 {
		return 0
	}
	return State(text[0])
}

// find returns where the device stands in entries, or would.
func find(entries []entry, id ID) (int, bool) {
	return slices.BinarySearchFunc(entries, id, func(e entry, id ID) int { return bytes.Compare(e.id[:], id[:]) })
}
