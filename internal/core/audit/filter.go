package audit

import "math/bits"

// A filter tells which 256 entries need not be read when somebody asks for one device, serial or action.
//
// Why a filter and not an index row per entry: at a hundred million entries an index by device is gigabytes of random writes in the same
// single-writer file that certificates wait for, while a filter is 3 octets an entry, appended. A search reads 768 octets for each 256
// entries and then only the blocks that can hold an answer; about one block in 300 is read in vain. What a filter lets through is always
// compared with the entry itself, so a wrong filter can hide an entry but never show a false one; Verify recomputes them all.
const (
	blockEntries = 256 // entries under one filter
	filterSize   = 768 // octets: 12 bits for each of 512 terms, a device and a serial for each entry
	filterProbes = 7
)

type filter []byte

func (f filter) add(e *Entry) {
	f.set("a", e.Action)
	f.set("d", e.Device)
	f.set("s", e.Serial)
}

// may reports whether an entry that q asks for can be in the block.
func (f filter) may(q *Query) bool {
	return len(f) == filterSize && f.has("a", q.Action) && f.has("d", q.Device) && f.has("s", q.Serial)
}

func (f filter) set(kind, value string) {
	if value == "" {
		return
	}
	for i, h := 0, term(kind, value); i < filterProbes; i++ {
		bit := h.probe(i)
		f[bit/8] |= 1 << (bit % 8)
	}
}

func (f filter) has(kind, value string) bool {
	if value == "" {
		return true
	}
	for i, h := 0, term(kind, value); i < filterProbes; i++ {
		if bit := h.probe(i); f[bit/8]&(1<<(bit%8)) == 0 {
			return false
		}
	}
	return true
}

type termHash uint64

// term is FNV-1a over kind and value, stirred once more since FNV leaves its high bits poor. It is stored, so it never changes.
func term(kind, value string) termHash {
	h := uint64(14695981039346656037)
	for _, s := range [2]string{kind, value} {
		for i := range len(s) {
			h = (h ^ uint64(s[i])) * 1099511628211
		}
	}
	h ^= h >> 32
	h *= 0x9e3779b97f4a7c15
	return termHash(h ^ h>>29)
}

// probe returns the i-th bit of the term (Kirsch and Mitzenmacher: two hashes are as good as many).
func (h termHash) probe(i int) uint64 {
	return (uint64(h) + uint64(i)*(bits.RotateLeft64(uint64(h), 32)|1)) % (filterSize * 8)
}
