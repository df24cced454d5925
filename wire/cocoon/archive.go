package cocoon

import (
	"archive/zip"
	"bytes"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"slices"
	"strings"
)

// Bounds of an archive.
const (
	MaxFiles   = 1 << 12
	MaxFile    = 64 << 10
	MaxArchive = 8 << 20
)

// Archive is the tickets of a period.
type Archive struct {
	I     uint16
	Info  []byte // a message with RaEeCertInfo
	Files []File // by J, each once
}

// File is the message with one ticket.
type File struct {
	J      uint32
	Octets []byte
}

// Bytes is the ZIP.
func (a *Archive) Bytes() ([]byte, error) {
	var b bytes.Buffer
	w := zip.NewWriter(&b)
	if err := add(w, hex(uint32(a.I))+".info", a.Info); err != nil {
		return nil, err
	}
	files := slices.Clone(a.Files)
	slices.SortFunc(files, func(x, y File) int { return int(int64(x.J) - int64(y.J)) })
	for _, f := range files {
		if err := add(w, hex(uint32(a.I))+"_"+hex(f.J), f.Octets); err != nil {
			return nil, err
		}
	}
	err := w.Close()
	return b.Bytes(), err
}

// add stores a file, without a time.
func add(w *zip.Writer, name string, content []byte) error {
	size := uint64(len(content))
	f, err := w.CreateRaw(&zip.FileHeader{Name: name, Method: zip.Store, ReaderVersion: 10, CreatorVersion: 10, CRC32: crc32.ChecksumIEEE(content), CompressedSize64: size, UncompressedSize64: size})
	if err == nil {
		_, err = f.Write(content)
	}
	return err
}

// ErrArchive is that octets are no archive of this layout.
var ErrArchive = errors.New("this is no archive of tickets")

// ParseArchive reads a ZIP of this layout. What is deflated, has other names, or is longer than the bounds is refused.
func ParseArchive(b []byte) (*Archive, error) {
	if len(b) > MaxArchive {
		return nil, fmt.Errorf("%w: it has more than %d octets", ErrArchive, MaxArchive)
	}
	if !bytes.HasPrefix(b, []byte("PK\x03\x04")) { // before anybody looks for a directory at its end
		return nil, ErrArchive
	}
	r, err := zip.NewReader(bytes.NewReader(b), int64(len(b)))
	if err != nil || len(r.File) == 0 || len(r.File) > MaxFiles {
		return nil, ErrArchive
	}
	head, ok := strings.CutSuffix(r.File[0].Name, ".info")
	i, err := parseHex(head, 16)
	if !ok || err != nil {
		return nil, fmt.Errorf("%w: its first file is %q, not the period with .info", ErrArchive, r.File[0].Name)
	}
	a, left := &Archive{I: uint16(i)}, len(b)
	if a.Info, err = content(r.File[0], &left); err != nil {
		return nil, err
	}
	for _, f := range r.File[1:] {
		text, ok := strings.CutPrefix(f.Name, head+"_")
		j, err := parseHex(text, 32)
		if !ok || err != nil || len(a.Files) > 0 && a.Files[len(a.Files)-1].J >= j {
			return nil, fmt.Errorf("%w: the file %q has another name than the tickets of the period, or is out of order", ErrArchive, f.Name)
		}
		octets, err := content(f, &left)
		if err != nil {
			return nil, err
		}
		a.Files = append(a.Files, File{j, octets})
	}
	return a, nil
}

// content reads a file. left is how many octets there can still be: files that share octets would come to far more than the archive.
func content(f *zip.File, left *int) ([]byte, error) {
	if f.Method != zip.Store || f.UncompressedSize64 > MaxFile || f.CompressedSize64 != f.UncompressedSize64 {
		return nil, fmt.Errorf("%w: the file %q is not stored, or too long", ErrArchive, f.Name)
	}
	in, err := f.Open()
	if err != nil {
		return nil, fmt.Errorf("%w: the file %q: %w", ErrArchive, f.Name, err)
	}
	defer in.Close()
	if *left -= int(f.UncompressedSize64); *left < 0 {
		return nil, fmt.Errorf("%w: its files are longer than it is", ErrArchive)
	}
	b, err := io.ReadAll(io.LimitReader(in, MaxFile+1))
	if err != nil {
		return nil, fmt.Errorf("%w: the file %q: %w", ErrArchive, f.Name, err)
	}
	return b, nil
}
