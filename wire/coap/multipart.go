package coap

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// Part is one body of several (RFC 8710).
type Part struct {
	Format Format
	Body   []byte
}

// The major types of CBOR (RFC 8949, section 3.1) that multipart bodies use.
const (
	cborUint  = 0 << 5
	cborBytes = 2 << 5
	cborArray = 4 << 5
)

// maxParts bounds what is read.
const maxParts = 16

// AppendMultipart appends the parts as one body of the format MultipartCore: a CBOR array of content formats and byte strings in turn.
func AppendMultipart(b []byte, parts ...Part) []byte {
	b = cborHead(b, cborArray, uint64(2*len(parts)))
	for _, p := range parts {
		b = cborHead(b, cborUint, uint64(p.Format))
		b = cborHead(b, cborBytes, uint64(len(p.Body)))
		b = append(b, p.Body...)
	}
	return b
}

func cborHead(b []byte, major byte, n uint64) []byte {
	switch {
	case n < 24:
		return append(b, major|byte(n))
	case n < 1<<8:
		return append(b, major|24, byte(n))
	case n < 1<<16:
		return binary.BigEndian.AppendUint16(append(b, major|25), uint16(n))
	case n < 1<<32:
		return binary.BigEndian.AppendUint32(append(b, major|26), uint32(n))
	}
	return binary.BigEndian.AppendUint64(append(b, major|27), n)
}

// ParseMultipart reads a body of the format MultipartCore. The parts refer to it. Their order means nothing.
func ParseMultipart(b []byte) ([]Part, error) {
	n, b, err := cborRead(b, cborArray)
	if err != nil {
		return nil, fmt.Errorf("reading the list of parts: %w", err)
	}
	if n%2 != 0 || n > 2*maxParts {
		return nil, fmt.Errorf("a list of %d entries is no list of parts", n)
	}
	parts := make([]Part, 0, n/2)
	for range n / 2 {
		format, rest, err := cborRead(b, cborUint)
		if err != nil || format > 0xffff {
			return nil, errors.New("a part has no content format")
		}
		size, rest, err := cborRead(rest, cborBytes)
		if err != nil {
			return nil, fmt.Errorf("reading a part: %w", err)
		}
		if size > uint64(len(rest)) {
			return nil, errors.New("the body ends within a part")
		}
		parts = append(parts, Part{Format(format), rest[:size:size]})
		b = rest[size:]
	}
	if len(b) > 0 {
		return nil, errors.New("something follows the last part")
	}
	return parts, nil
}

// cborRead reads the head of an item of a type and of definite length.
func cborRead(b []byte, major byte) (n uint64, rest []byte, err error) {
	if len(b) == 0 || b[0]&0xe0 != major {
		return 0, nil, errors.New("another type of value is there")
	}
	info := b[0] & 31
	b = b[1:]
	if info < 24 {
		return uint64(info), b, nil
	}
	if info > 27 {
		return 0, nil, errors.New("the length is not definite")
	}
	octets := 1 << (info - 24)
	if len(b) < octets {
		return 0, nil, errors.New("the body ends within a length")
	}
	for _, c := range b[:octets] {
		n = n<<8 | uint64(c)
	}
	return n, b[octets:], nil
}
