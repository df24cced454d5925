package audit

import (
	"bufio"
	"compress/flate"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"
	"maps"
	"math"
	"slices"

	"mooring/internal/base/db"
)

// statePart is how many octets of a kept state stand in one row.
const statePart = 128 << 10

// mostText bounds one text or value in a kept state.
const mostText = 1 << 20

// StateWriter takes what a Checker has replayed so far, to be read back by a later verification (Checker.Save, Checker.Load): numbers, octets and
// texts one after the other, without names. The first error is kept and makes all that follows do nothing.
type StateWriter struct {
	out   *flate.Writer
	parts *partWriter
	buf   []byte
	err   error
}

// partWriter cuts what is written into parts, hashes them and hands them over.
type partWriter struct {
	rest  []byte
	parts int64
	sum   hash.Hash
	store func(part int64, data []byte) error
}

func (p *partWriter) Write(b []byte) (int, error) {
	p.rest = append(p.rest, b...)
	for len(p.rest) >= statePart {
		if err := p.cut(statePart); err != nil {
			return 0, err
		}
	}
	return len(b), nil
}

func (p *partWriter) cut(n int) error {
	data := p.rest[:n]
	hashPart(p.sum, data)
	if err := p.store(p.parts, data); err != nil {
		return err
	}
	p.parts++
	p.rest = append(p.rest[:0:0], p.rest[n:]...)
	return nil
}

func hashPart(h hash.Hash, data []byte) {
	var size [8]byte
	binary.BigEndian.PutUint64(size[:], uint64(len(data)))
	h.Write(size[:])
	h.Write(data)
}

func newStateWriter(store func(part int64, data []byte) error) *StateWriter {
	parts := &partWriter{sum: sha256.New(), store: store}
	out, err := flate.NewWriter(parts, flate.BestSpeed)
	return &StateWriter{out: out, parts: parts, err: err}
}

// end writes what is left and returns the digest of all parts.
func (w *StateWriter) end() ([]byte, error) {
	if w.err == nil {
		w.flush()
	}
	if w.err == nil {
		w.err = w.out.Close()
	}
	if w.err == nil && (len(w.parts.rest) > 0 || w.parts.parts == 0) {
		w.err = w.parts.cut(len(w.parts.rest))
	}
	return w.parts.sum.Sum(nil), w.err
}

func (w *StateWriter) flush() {
	if _, err := w.out.Write(w.buf); err != nil && w.err == nil {
		w.err = err
	}
	w.buf = w.buf[:0]
}

func (w *StateWriter) room() bool {
	if len(w.buf) > 1<<15 {
		w.flush()
	}
	return w.err == nil
}

// Uint writes a number.
func (w *StateWriter) Uint(n uint64) {
	if w.room() {
		w.buf = binary.AppendUvarint(w.buf, n)
	}
}

// Int writes a number that may be negative.
func (w *StateWriter) Int(n int64) {
	if w.room() {
		w.buf = binary.AppendVarint(w.buf, n)
	}
}

// Bool writes a truth.
func (w *StateWriter) Bool(b bool) {
	n := uint64(0)
	if b {
		n = 1
	}
	w.Uint(n)
}

// Fixed writes octets whose number the reader knows.
func (w *StateWriter) Fixed(b []byte) {
	if w.room() {
		w.buf = append(w.buf, b...)
	}
}

// Text writes a text or octets of any length.
func (w *StateWriter) Text(s string) {
	if len(s) > mostText && w.err == nil {
		w.err = fmt.Errorf("a text of %d octets is too long to be kept", len(s))
	}
	w.Uint(uint64(len(s)))
	if w.room() {
		w.buf = append(w.buf, s...)
	}
}

// Texts writes a map of texts, sorted by name.
func (w *StateWriter) Texts(m map[string]string) {
	w.Uint(uint64(len(m)))
	for _, name := range slices.Sorted(maps.Keys(m)) {
		w.Text(name)
		w.Text(m[name])
	}
}

// StateReader gives back what a StateWriter took, in the same order. After the first error everything is zero; Err tells it.
type StateReader struct {
	in  byteReader
	err error
}

type byteReader interface {
	io.Reader
	io.ByteReader
}

func newStateReader(parts *partReader) *StateReader {
	return &StateReader{in: bufio.NewReader(flate.NewReader(parts))}
}

// Err returns the first error.
func (r *StateReader) Err() error { return r.err }

func (r *StateReader) fail(err error) {
	if r.err == nil && err != nil {
		r.err = fmt.Errorf("reading the kept state: %w", err)
	}
}

// Uint reads a number.
func (r *StateReader) Uint() uint64 {
	if r.err != nil {
		return 0
	}
	n, err := binary.ReadUvarint(r.in)
	r.fail(err)
	return n
}

// Int reads a number that may be negative.
func (r *StateReader) Int() int64 {
	if r.err != nil {
		return 0
	}
	n, err := binary.ReadVarint(r.in)
	r.fail(err)
	return n
}

// Bool reads a truth.
func (r *StateReader) Bool() bool { return r.Uint() == 1 }

// Fixed fills b.
func (r *StateReader) Fixed(b []byte) {
	if r.err == nil {
		_, err := io.ReadFull(r.in, b)
		r.fail(err)
	}
	if r.err != nil {
		clear(b)
	}
}

// Text reads a text.
func (r *StateReader) Text() string {
	n := r.Uint()
	if n > mostText {
		r.fail(errors.New("a text is too long"))
	}
	if r.err != nil {
		return ""
	}
	b := make([]byte, n)
	r.Fixed(b)
	return string(b)
}

// Texts reads a map of texts, nil when it is empty.
func (r *StateReader) Texts() map[string]string {
	var m map[string]string
	for range r.Len() {
		if r.err != nil {
			return nil
		}
		if m == nil {
			m = map[string]string{}
		}
		name := r.Text()
		m[name] = r.Text()
	}
	return m
}

// Len reads how many things follow. Whoever reads them stops at the first error (Err), since the number may be anything in a damaged state.
func (r *StateReader) Len() int64 {
	n := r.Uint()
	if n > math.MaxInt64 {
		r.fail(errors.New("a number of things is too large"))
		return 0
	}
	return int64(n)
}

// partReader reads the parts of a snapshot one after the other and hashes them.
type partReader struct {
	ctx  context.Context // of the transaction that this value lives in
	tx   *db.Tx
	idx  int64
	next int64
	rest []byte
	sum  hash.Hash

	begun, end bool
}

func (p *partReader) Read(b []byte) (int, error) {
	for len(p.rest) == 0 {
		if p.end {
			return 0, io.EOF
		}
		if err := p.fetch(); err != nil {
			return 0, err
		}
	}
	n := copy(b, p.rest)
	p.rest = p.rest[n:]
	return n, nil
}

// fetch reads the next part.
func (p *partReader) fetch() error {
	from, part := p.next, int64(0)
	if !p.begun {
		p.begun, from = true, math.MinInt64 // a part before the first is one too many
	}
	var data []byte
	found, err := p.tx.Get(p.ctx, []any{&part, &data}, `SELECT part, data FROM audit_snapshot_part WHERE cell = 0 AND idx = $1 AND part >= $2 ORDER BY part LIMIT 1`, p.idx, from)
	if err != nil {
		return fmt.Errorf("reading part %d of snapshot %d: %w", p.next, p.idx, err)
	}
	if !found {
		p.end = true
		return nil
	}
	if part != p.next {
		hashPart(p.sum, []byte("a part is missing")) // which no entry foresees
	}
	hashPart(p.sum, data)
	p.rest, p.next = data, part+1
	return nil
}

// drain reads what nobody asked for, so that the digest is that of all parts.
func (p *partReader) drain() error {
	for !p.end {
		if err := p.fetch(); err != nil {
			return err
		}
	}
	return nil
}
