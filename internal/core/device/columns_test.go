package device

import (
	"errors"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"
)

// TestNumbers writes columns of all widths and keeps some of their values.
func TestNumbers(t *testing.T) {
	dice := rand.New(rand.NewPCG(1, 2))
	for _, span := range []int{1, 2, 3, 4, 5, 16, 17, 256, 257, 65536} {
		for _, n := range []int{0, 1, 7, 8, 9, 300} {
			values := make([]uint16, n)
			for i := range values {
				values[i] = uint16(65536 - span + dice.IntN(span))
			}
			r := reader{rest: appendNumbers(nil, values)}
			c := r.numbers(n)
			if err := r.end(); err != nil {
				t.Fatalf("%d values of %d: %v", n, span, err)
			}
			var r2 room
			var wanted [1 << 16]bool
			for range span/2 + 1 {
				k := dice.IntN(span)
				wanted[k], r2.wanted[k] = true, 1
			}
			sum, on := 0, ones(nil, n)
			c.keep(on, &r2.wanted)
			for i, v := range values {
				if sum += int(v); c.at(i) != v || isSet(on, i) != wanted[v-c.least] {
					t.Fatalf("%d values of %d: number %d: got %d, kept %v, want %d, %v", n, span, i, c.at(i), isSet(on, i), v, wanted[v-c.least])
				}
			}
			if c.sum() != sum {
				t.Errorf("%d values of %d: sum: got %d, want %d", n, span, c.sum(), sum)
			}
		}
	}
}

// TestTimes writes columns of all widths and keeps what lies between two bounds.
func TestTimes(t *testing.T) {
	dice := rand.New(rand.NewPCG(1, 3))
	const base = 1_800_000_000
	for _, span := range []int64{1, 200, 255, 256, 60_000, 65_535, 65_536, 1 << 30, 1 << 32, noExpiry - base} {
		for _, zeros := range []bool{false, true} {
			values := make([]int64, 211)
			for i := range values {
				if values[i] = base + dice.Int64N(span); zeros && dice.IntN(3) == 0 {
					values[i] = 0
				}
			}
			r := reader{rest: appendTimes(nil, values)}
			c := r.times(len(values))
			if err := r.end(); err != nil {
				t.Fatalf("span %d: %v", span, err)
			}
			bounds := []int64{-1, 0, 1, base - 1, base, base + 1, base + span - 1, base + span, base + span/2, values[3], values[5] + 1, noExpiry + 1}
			for _, from := range bounds {
				for _, to := range bounds {
					on := ones(nil, len(values))
					c.keep(on, from, to)
					for i, v := range values {
						if want := v >= from && (to <= 0 || v < to); c.at(i) != v || isSet(on, i) != want {
							t.Fatalf("span %d, from %d to %d, number %d: got %d, kept %v, want %d, %v", span, from, to, i, c.at(i), isSet(on, i), v, want)
						}
					}
				}
			}
		}
	}
}

// TestBlocks writes blocks and reads them, and reads them with damage: a block that says something else may come out, or an error, but no panic.
func TestBlocks(t *testing.T) {
	dice := rand.New(rand.NewPCG(1, 4))
	for _, n := range []int{0, 1, 8, 700} {
		c := &crowd{dice: dice, single: n == 8}
		var entries []entry
		for range n {
			entries = append(entries, c.entry())
		}
		b := pack(9, nil, entries)
		got, err := b.unpack()
		if err != nil || !slices.EqualFunc(got, entries, func(a, b entry) bool { return reflect.DeepEqual(a, b) }) {
			t.Fatalf("%d devices: got others, or %v", n, err)
		}
		for range 3000 {
			hurt := &raw{}
			for p := range b.part {
				hurt.part[p] = slices.Clone(b.part[p])
			}
			p := 1 + dice.IntN(parts-1)
			switch at := hurt.part[p]; {
			case len(at) == 0 || dice.IntN(4) == 0:
				hurt.part[p] = append(at, byte(dice.Uint32()))
			case dice.IntN(2) == 0:
				hurt.part[p] = at[:dice.IntN(len(at))]
			default:
				at[dice.IntN(min(len(at), 60))] = byte(dice.Uint32())
			}
			if _, err := hurt.unpack(); err != nil && !errors.Is(err, errDamaged) {
				t.Fatalf("got %v, want that the block is damaged", err)
			}
			for range 5 {
				f := c.filter()
				s := f.search(nil)
				m := &match{raw: *hurt}
				for _, step := range s.steps(nil) {
					if err := step.keep(m); errors.Is(err, errDamaged) {
						break
					} else if err != nil {
						t.Fatalf("got %v, want that the block is damaged", err)
					} else if !anySet(m.on) {
						break // as a search does
					}
				}
			}
		}
	}
}
