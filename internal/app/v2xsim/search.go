package v2xsim

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// head is how many octets of a trace are looked for at each place; no trace is shorter.
const head = 8

// finder looks for very many traces at once: for a filter of their first octets at each place, and for the whole only where that says maybe.
type finder struct {
	maybe  []uint64 // a bit for each digest of a head
	traces map[uint64][]trace
}

// trace is something by which somebody can be recognised: whom is an index of the caller's.
type trace struct {
	octets []byte
	whom   int
}

const filterBits = 24

func newFinder() *finder {
	return &finder{maybe: make([]uint64, 1<<filterBits/64), traces: map[uint64][]trace{}}
}

func slot(word uint64) uint64 { return word * 0x9e3779b97f4a7c15 >> (64 - filterBits) }

// add has it look for octets, for their hexadecimal digits of either case, and for nothing that is too short to tell somebody from another.
func (f *finder) add(whom int, octets []byte) {
	digits := hex.EncodeToString(octets)
	for _, o := range [][]byte{octets, []byte(digits), []byte(strings.ToUpper(digits))} {
		if len(o) < head {
			continue
		}
		word := binary.BigEndian.Uint64(o)
		h := slot(word)
		f.maybe[h/64] |= 1 << (h % 64)
		f.traces[word] = append(f.traces[word], trace{o, whom})
	}
}

// find calls found with everybody who can be recognised in b, perhaps more than once.
func (f *finder) find(b []byte, found func(whom int)) {
	if len(b) < head {
		return
	}
	word := binary.BigEndian.Uint64(b)
	for i := 0; ; i++ {
		if h := slot(word); f.maybe[h/64]&(1<<(h%64)) != 0 {
			for _, t := range f.traces[word] {
				if bytes.HasPrefix(b[i:], t.octets) {
					found(t.whom)
				}
			}
		}
		if i+head >= len(b) {
			return
		}
		word = word<<8 | uint64(b[i+head])
	}
}

// files calls do with the content of each file below the directories, but those below others.
func files(do func(b []byte), without []string, dirs ...string) error {
	for _, dir := range dirs {
		if err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			switch {
			case err != nil:
				return err
			case d.IsDir() && slices.Contains(without, path):
				return filepath.SkipDir
			case !d.Type().IsRegular():
				return nil
			}
			b, err := os.ReadFile(path)
			do(b)
			return err
		}); err != nil {
			return err
		}
	}
	return nil
}
