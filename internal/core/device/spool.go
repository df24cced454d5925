package device

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"slices"
)

// spool keeps the checked rows of an import in a temporary file and, in memory, only where each is: 32 octets a device, and 56 more for a
// birth certificate or a product. So the rows can be written in the order of the tables, which is what makes writing them cheap, and a second attempt of the
// transaction can read them again.
type spool struct {
	file   *os.File
	named  bool // it stands in the temporary folder
	out    *bufio.Writer
	end    int64
	places []place
	births []birthPlace
	buf    []byte
}

type place struct {
	off  int64
	line uint32
	cell uint8
	id   ID
}

type birthPlace struct {
	fingerprint [32]byte
	line        uint32
	cell        uint8
	product     bool // it is the key of a product
	id          ID
}

func newSpool() (*spool, error) {
	f, err := os.CreateTemp("", "mooring-import-")
	if err != nil {
		return nil, fmt.Errorf("making a temporary file for the import: %w", err)
	}
	// It holds the names of devices and was never meant to last, also when the process is killed: it goes on without a name. Where files in
	// use cannot be removed, close does it.
	return &spool{file: f, out: bufio.NewWriterSize(f, 256<<10), named: os.Remove(f.Name()) != nil}, nil
}

func (s *spool) close() {
	_ = s.file.Close()
	if s.named {
		_ = os.Remove(s.file.Name()) // what cannot be removed is in the temporary folder
	}
}

// add keeps a record. product is the key of its product, if it has one.
func (s *spool) add(c *record, line int, id ID, cell uint8, product [32]byte) error {
	b := appendRecord(append(s.buf[:0], 0, 0, 0, 0), c)
	binary.LittleEndian.PutUint32(b, uint32(len(b)-4))
	s.buf = b
	s.places = append(s.places, place{off: s.end, line: uint32(line), cell: cell, id: id})
	if len(c.birth) > 0 {
		s.births = append(s.births, birthPlace{fingerprint: [32]byte(c.birth), line: uint32(line), cell: cell, id: id})
	}
	if c.product != "" {
		s.births = append(s.births, birthPlace{fingerprint: product, line: uint32(line), cell: cell, id: id, product: true})
	}
	s.end += int64(len(b))
	if _, err := s.out.Write(b); err != nil {
		return fmt.Errorf("writing the temporary file of the import: %w", err)
	}
	return nil
}

// sorted ends the writing and brings the places into the order of the tables.
func (s *spool) sorted() error {
	if err := s.out.Flush(); err != nil {
		return fmt.Errorf("writing the temporary file of the import: %w", err)
	}
	slices.SortFunc(s.places, func(a, b place) int {
		return cmp.Or(cmp.Compare(a.cell, b.cell), bytes.Compare(a.id[:], b.id[:]), cmp.Compare(a.line, b.line))
	})
	slices.SortFunc(s.births, func(a, b birthPlace) int {
		return cmp.Or(bytes.Compare(a.fingerprint[:], b.fingerprint[:]), cmp.Compare(a.line, b.line))
	})
	return nil
}

// at reads the record that begins at off and returns it with the offset of the one behind it.
func (s *spool) at(off int64) (record, int64, error) {
	const guess = 512 // most rows fit
	if cap(s.buf) < guess {
		s.buf = make([]byte, guess)
	}
	b := s.buf[:min(guess, s.end-off)]
	if _, err := s.file.ReadAt(b, off); err != nil {
		return record{}, 0, fmt.Errorf("reading the temporary file of the import: %w", err)
	}
	n := int64(4 + binary.LittleEndian.Uint32(b))
	if n > s.end-off {
		return record{}, 0, fmt.Errorf("reading the temporary file of the import: a row of %d octets", n)
	}
	if n > int64(len(b)) {
		b = make([]byte, n)
		if _, err := s.file.ReadAt(b, off); err != nil {
			return record{}, 0, fmt.Errorf("reading the temporary file of the import: %w", err)
		}
		s.buf = b
	}
	c, err := readRecord(b[4:n])
	return c, off + n, err
}

// row reads the record of a place.
func (s *spool) row(p place) (importRow, error) {
	c, _, err := s.at(p.off)
	return importRow{p, c}, err
}

// appendRecord writes a record behind b, as readRecord reads it.
func appendRecord(b []byte, c *record) []byte {
	for _, field := range [...]string{c.name, c.names, c.group, c.tags, c.profile, string(c.birth), string(c.birthSPKI)} {
		b = binary.AppendUvarint(b, uint64(len(field)))
		b = append(b, field...)
	}
	return append(binary.AppendVarint(b, c.birthUntil), c.product...)
}

func readRecord(b []byte) (c record, err error) {
	var birth, spki string
	for _, field := range [...]*string{&c.name, &c.names, &c.group, &c.tags, &c.profile, &birth, &spki} {
		size, used := binary.Uvarint(b)
		if used <= 0 || size > uint64(len(b)-used) {
			return record{}, errDamagedRow
		}
		*field = string(b[used : used+int(size)])
		b = b[used+int(size):]
	}
	c.birth, c.birthSPKI = []byte(birth), []byte(spki)
	var used int
	if c.birthUntil, used = binary.Varint(b); used <= 0 {
		return record{}, errDamagedRow
	}
	c.product = string(b[used:]) // rows that were kept before there were products end here
	return c, nil
}

var errDamagedRow = errors.New("a row of an import was damaged where it was kept")
