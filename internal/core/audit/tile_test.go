package audit

import (
	"bytes"
	"fmt"
	"testing"

	"golang.org/x/mod/sumdb/tlog"
)

// TestRebuildAgreesWithTlog compares our own tree, on which Verify rests, with the module's at many sizes.
func TestRebuildAgreesWithTlog(t *testing.T) {
	const most = 66_000 // over 256 finished tiles, so that a third level begins
	var stored []tlog.Hash
	reader := tlog.HashReaderFunc(func(indexes []int64) ([]tlog.Hash, error) {
		out := make([]tlog.Hash, len(indexes))
		for i, x := range indexes {
			out[i] = stored[x]
		}
		return out, nil
	})
	mine := map[tlog.Tile][]tlog.Hash{}
	r := &rebuild{finish: func(level int, n int64, hashes []tlog.Hash) error {
		mine[tlog.Tile{H: tileHeight, L: level, N: n, W: len(hashes)}] = append([]tlog.Hash(nil), hashes...)
		return nil
	}}
	for n := int64(0); n < most; n++ {
		leaf := tlog.RecordHash(fmt.Append(nil, n))
		hashes, err := tlog.StoredHashesForRecordHash(n, leaf, reader)
		if err != nil {
			t.Fatal(err)
		}
		stored = append(stored, hashes...)
		if err := r.add(leaf); err != nil {
			t.Fatal(err)
		}
		if size := n + 1; size < 600 || size%997 == 0 || size > 65_530 && size < 65_540 {
			want, err := tlog.TreeHash(size, reader)
			if err != nil {
				t.Fatal(err)
			}
			if got := r.root(); got != want {
				t.Fatalf("root of %d entries is %v, want %v", size, got, want)
			}
		}
	}
	if err := r.end(); err != nil {
		t.Fatal(err)
	}
	tiles := tlog.NewTiles(tileHeight, 0, most)
	if len(tiles) != len(mine) {
		t.Errorf("%d tiles, want %d", len(mine), len(tiles))
	}
	for _, tile := range tiles {
		want, err := tlog.ReadTileData(tile, reader)
		if err != nil {
			t.Fatal(err)
		}
		var got bytes.Buffer
		for _, h := range mine[tile] {
			got.Write(h[:])
		}
		if !bytes.Equal(got.Bytes(), want) {
			t.Errorf("tile %s differs", tile.Path())
		}
	}
	for level := range r.levels {
		if got, want := r.count(level), (int64(most)>>(8*level)+255)/256; got != want {
			t.Errorf("level %d has %d tiles, want %d", level, got, want)
		}
	}
}

func TestFilterHidesNothingAndLetsLittleThrough(t *testing.T) {
	f := make(filter, filterSize)
	for n := range blockEntries {
		f.add(termsOf("cert.issue", deviceID(n), fmt.Sprintf("%032x", 1_000_000+n)))
	}
	for n := range blockEntries {
		if !f.may(termsOf("", deviceID(n), "")) || !f.may(termsOf("cert.issue", "", fmt.Sprintf("%032x", 1_000_000+n))) {
			t.Fatalf("the filter hides entry %d", n)
		}
	}
	passed := 0
	for n := range 100_000 {
		if f.may(termsOf("", deviceID(5_000_000+n), "")) {
			passed++
		}
	}
	if passed > 1000 {
		t.Errorf("%d of 100,000 strange devices pass, want at most 1,000 (a full filter is computed to pass 330)", passed)
	}
	if f.may(termsOf("ca.create", deviceID(1), "")) {
		t.Error("an action that does not occur passes")
	}
}
