package nats

import (
	"slices"
	"testing"
)

// TestFill: who looks through a row finds some of its messages, and places from which something has gone.
func TestFill(t *testing.T) {
	for _, row := range []struct {
		name         string
		places, gone []uint64
		last         uint64
		want         []uint64
	}{
		{"nothing has gone", []uint64{0, 8, 0, 9, 0}, nil, 9, []uint64{0, 8, 0, 9, 0}},
		{"all that are missing have gone", []uint64{0, 0, 9, 0, 11}, []uint64{7, 8, 10}, 11, []uint64{7, 8, 9, 10, 11}},
		{"the last ones have gone", []uint64{7, 0, 0}, []uint64{8, 9}, 9, []uint64{7, 8, 9}},
		{"all have gone", []uint64{0, 0}, []uint64{7, 8}, 8, []uint64{7, 8}},
		{"fewer have gone than are missing", []uint64{7, 0, 0, 9, 0}, []uint64{8}, 9, []uint64{7, unsure, unsure, 9, 0}},
		{"one part is sure and one is not", []uint64{0, 8, 0, 0, 10}, []uint64{7, 9}, 10, []uint64{7, 8, unsure, unsure, 10}},
		{"none is missing", []uint64{7, 8}, nil, 8, []uint64{7, 8}},
	} {
		t.Run(row.name, func(t *testing.T) {
			got := slices.Clone(row.places)
			fill(got, row.gone, row.last)
			if !slices.Equal(got, row.want) {
				t.Errorf("fill(%v, %v, %d) makes %v, want %v", row.places, row.gone, row.last, got, row.want)
			}
		})
	}
}
