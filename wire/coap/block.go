package coap

import (
	"bytes"
	"errors"
	"fmt"
)

// Block is the value of a Block1 or Block2 option (RFC 7959, section 2.2): which part of a body a message carries or asks for.
type Block struct {
	Num  uint32 // in units of Size
	More bool   // there are more
	SZX  uint8  // 0 to 6
}

// MaxSZX stands for blocks of 1024 octets, the largest.
const MaxSZX = 6

// maxNum is the largest number of a block.
const maxNum = 1<<20 - 1

// Size returns the octets of a block: 16 to 1024.
func (b Block) Size() int { return 16 << b.SZX }

// Offset returns where the block begins.
func (b Block) Offset() int { return int(b.Num) << (b.SZX + 4) }

// Value writes the block as an option's value.
func (b Block) Value() []byte {
	n := b.Num<<4 | uint32(b.SZX)
	if b.More {
		n |= 8
	}
	return UintValue(n)
}

// ParseBlock reads the value of a Block1 or Block2 option. The size 7 is reserved.
func ParseBlock(value []byte) (Block, error) {
	if len(value) > 3 {
		return Block{}, fmt.Errorf("a block option has %d octets, more than 3", len(value))
	}
	n, _ := Uint(value)
	b := Block{Num: n >> 4, More: n&8 != 0, SZX: uint8(n & 7)}
	if b.SZX > MaxSZX {
		return Block{}, errors.New("the block size 7 is reserved")
	}
	return b, nil
}

// SZXFor returns the largest block size of at most n octets, 16 at least.
func SZXFor(n int) uint8 {
	szx := uint8(0)
	for szx < MaxSZX && 32<<szx <= n {
		szx++
	}
	return szx
}

// Why a block cannot be taken.
var (
	// ErrIncomplete: what comes before it is missing (4.08).
	ErrIncomplete = errors.New("the blocks before this one are missing")
	// ErrTooLarge: the body would be larger than allowed (4.13).
	ErrTooLarge = errors.New("the body is too large")
	// ErrMalformed: more is announced, and the block is not full (4.00).
	ErrMalformed = errors.New("a block that others follow must be full")
)

// Assembly puts a body together from blocks that come in order (RFC 7959, section 2.5). The zero value has nothing.
type Assembly struct {
	body []byte
	last Block // the block that was taken last
	any  bool
}

// Add takes the next block of a body of at most limit octets. A block 0 begins anew. The size of blocks may change: what counts is that a block begins
// where the body ends. The block that was taken last may come again. An error ends the assembly: it has nothing then.
func (a *Assembly) Add(b Block, payload []byte, limit int) error {
	err := a.add(b, payload, limit)
	if err != nil {
		a.Reset()
	}
	return err
}

func (a *Assembly) add(b Block, payload []byte, limit int) error {
	offset := b.Offset()
	switch {
	case b.More && len(payload) != b.Size() || len(payload) > b.Size():
		return ErrMalformed
	case offset+len(payload) > limit:
		return ErrTooLarge
	case b.Num == 0:
		a.Reset()
	case a.any && b == a.last && offset+len(payload) == len(a.body) && bytes.Equal(a.body[offset:], payload):
		return nil
	case !a.any || offset != len(a.body):
		return ErrIncomplete
	}
	a.body, a.last, a.any = append(a.body, payload...), b, true
	return nil
}

// Len returns how many octets there are.
func (a *Assembly) Len() int { return len(a.body) }

// Body returns what was put together.
func (a *Assembly) Body() []byte { return a.body }

// Reset forgets everything and wipes it.
func (a *Assembly) Reset() {
	clear(a.body)
	*a = Assembly{body: a.body[:0]}
}

// Cut returns the part of body that a block asks for, and the block that says so in the answer. It reports false when the body ends before; the
// first block of an empty body is empty.
func Cut(body []byte, ask Block) (part []byte, answer Block, ok bool) {
	offset := ask.Offset()
	if offset > len(body) || offset == len(body) && ask.Num > 0 {
		return nil, Block{}, false
	}
	end := min(offset+ask.Size(), len(body))
	return body[offset:end], Block{Num: ask.Num, More: end < len(body), SZX: ask.SZX}, true
}
