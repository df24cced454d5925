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

// terms are the hashes of what an entry can be searched by; 0 = it has none of the kind.
type terms [3]termHash

func termsOf(action, device, serial string) terms {
	return terms{term("a", action), term("d", device), term("s", serial)}
}

func (f filter) add(t terms) {
	for _, h := range t {
		for i := 0; h != 0 && i < filterProbes; i++ {
			bit := h.probe(i)
			f[bit/8] |= 1 << (bit % 8)
		}
	}
}

// may reports whether an entry with these terms can be in the block.
func (f filter) may(t terms) bool {
	if len(f) != filterSize {
		return false
	}
	for _, h := range t {
		for i := 0; h != 0 && i < filterProbes; i++ {
			if bit := h.probe(i); f[bit/8]&(1<<(bit%8)) == 0 {
				return false
			}
		}
	}
	return true
}

type termHash uint64

// term is FNV-1a over kind and value, stirred once more since FNV leaves its high bits poor; never 0 but for the empty value. What it sets is
// stored, so it never changes.
func term(kind, value string) termHash {
	if value == "" {
		return 0
	}
	h := uint64(14695981039346656037)
	for _, s := range [2]string{kind, value} {
		for i := range len(s) {
			h = (h ^ uint64(s[i])) * 1099511628211
		}
	}
	h ^= h >> 32
	h *= 0x9e3779b97f4a7c15
	return max(1, termHash(h^h>>29))
}

// probe returns the i-th bit of the term (Kirsch and Mitzenmacher: two hashes are as good as many).
func (h termHash) probe(i int) uint64 {
	return (uint64(h) + uint64(i)*(bits.RotateLeft64(uint64(h), 32)|1)) % (filterSize * 8)
}
