package device

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"mooring/internal/base/db"
)

// crowd is an inventory without a registry: cells with several blocks each, of devices that differ in everything.
type crowd struct {
	dice   *rand.Rand
	single bool // each has one certificate
	cells  map[uint8][]entry
}

const crowdNow = 1_800_000_000

func (c *crowd) pick(texts ...string) string { return texts[c.dice.IntN(len(texts))] }

func (c *crowd) entry() entry {
	e := entry{state: State(1 + c.dice.IntN(3)), profile: c.pick("sensor", "gateway"), group: fmt.Sprint("g", c.dice.IntN(40)), seen: crowdNow - int64(c.dice.IntN(9000)),
		spread: uint16(c.dice.Uint32())}
	for i := range e.id {
		e.id[i] = byte(c.dice.Uint32())
	}
	if c.dice.IntN(4) == 0 {
		e.seen = 0
	}
	if c.dice.IntN(3) > 0 {
		e.tags = fmt.Sprintf("\nfloor=%d\nn=%d\n", c.dice.IntN(5), c.dice.IntN(900))
	}
	n := 1
	if !c.single {
		n = c.dice.IntN(4)
	}
	for i := range n {
		h := held{slot: fmt.Sprint("slot", i), issuer: c.pick("", "issuer 1", "issuer 2"), key: c.pick("ec-p256", "ec-p384", "ed25519", ""), end: crowdNow + int64(c.dice.IntN(300))}
		if c.dice.IntN(50) == 0 {
			h.end = []int64{0, noExpiry}[c.dice.IntN(2)]
		}
		e.certs = append(e.certs, h)
	}
	return e
}

// write makes cells with one to four blocks.
func (c *crowd) write(t *testing.T, w *world) {
	c.cells = map[uint8][]entry{}
	w.do(t, func(ctx context.Context, tx *db.Tx) error {
		for _, cell := range []uint8{0, 1, 7, 64, 200, 255} {
			var entries []entry
			for range 300 + c.dice.IntN(900) {
				entries = append(entries, c.entry())
			}
			slices.SortFunc(entries, func(a, b entry) int { return bytes.Compare(a.id[:], b.id[:]) })
			c.cells[cell] = entries
			first := []byte{}
			for blocks := 1 + c.dice.IntN(4); ; blocks-- {
				n := len(entries) / blocks
				if err := tx.Send(ctx, blockStmts(&raw{cell: cell, first: first}, entries[:n])...); err != nil {
					return err
				}
				if entries = entries[n:]; len(entries) == 0 {
					break
				}
				first = slices.Clone(entries[0].id[:])
			}
		}
		return nil
	})
}

// filter draws a filter of any conditions; each is passed by some.
func (c *crowd) filter() (f Filter) {
	some := func() bool { return c.dice.IntN(3) == 0 }
	if some() {
		f.State = State(1 + c.dice.IntN(4))
	}
	if some() {
		f.Profile = c.pick("sensor", "gateway", "nobody's")
	}
	if some() {
		f.Group = fmt.Sprint("g", c.dice.IntN(41))
	}
	if some() {
		f.Tag = c.pick("floor", "floor=3", "n", "n=7", "n=77", "flo", "floor=", "oor=3")
	}
	if some() {
		f.Issuer = []byte(c.pick("issuer 1", "issuer 2", "issuer 3"))
	}
	if some() {
		f.Key = c.pick("ec-p256", "ec-p384", "ed25519", "rsa-2048")
	}
	if some() {
		f.ExpiresAfter = crowdNow + int64(c.dice.IntN(320)) - 10
	}
	if some() {
		f.ExpiresBefore = max(f.ExpiresAfter, crowdNow) + 1 + int64(c.dice.IntN(100))
	}
	if some() {
		f.SeenAfter = crowdNow - int64(c.dice.IntN(9500))
	}
	if some() {
		f.SeenBefore = max(f.SeenAfter, crowdNow-9500) + 1 + int64(c.dice.IntN(9500))
	}
	return f
}

// want looks at every device.
func (c *crowd) want(f *Filter) (all []string) {
	type one struct {
		end  int64
		cell uint8
		id   ID
	}
	var found []one
	for cell, entries := range c.cells {
		for _, e := range entries {
			d := Device{ID: e.id, State: e.state, Profile: e.profile, Group: e.group, LastSeen: e.seen, Tags: splitTags(strings.Trim(e.tags, "\n"))}
			for _, h := range e.certs {
				d.Slots = append(d.Slots, Slot{Name: h.slot, Issuer: []byte(h.issuer), Key: h.key, NotAfter: h.end})
			}
			if f.passes(&d) {
				at := one{cell: cell, id: e.id}
				if f.byEnd() {
					at.end = f.end(&d)
				}
				found = append(found, at)
			}
		}
	}
	slices.SortFunc(found, func(a, b one) int {
		return cmp.Or(cmp.Compare(a.end, b.end), int(a.cell)-int(b.cell), bytes.Compare(a.id[:], b.id[:]))
	})
	for _, o := range found {
		all = append(all, fmt.Sprint(o.end, o.cell, o.id))
	}
	return all
}

// got reads all pages, each of another size, and counts.
func (c *crowd) got(t *testing.T, w *world, f *Filter) (all []string, count int) {
	t.Helper()
	from, err := f.position(true)
	if err != nil {
		t.Fatal(err)
	}
	err = w.db.View(t.Context(), func(ctx context.Context, tx *db.Tx) error {
		all, count = nil, 0
		at := from
		for {
			want := 1 + c.dice.IntN(1000)
			found, err := f.hits(ctx, tx, at, want)
			if err != nil {
				return err
			}
			for i := range found {
				h := &found[i]
				all = append(all, fmt.Sprint(h.end, h.block.cell, h.id))
				at.notAfter, at.cell, at.id = h.end, h.block.cell, h.id[:]
			}
			if len(found) < want {
				break
			}
		}
		return f.search(tx).each(ctx, 0, nil, func(b *match) (bool, error) {
			count += countSet(b.on)
			return true, nil
		})
	})
	if err != nil {
		t.Fatalf("%+v: %v", *f, err)
	}
	return all, count
}

// TestSearchAgreesWithAPlainLoop searches random inventories by random filters.
func TestSearchAgreesWithAPlainLoop(t *testing.T) {
	for seed, single := range []bool{true, false} {
		c := &crowd{dice: rand.New(rand.NewPCG(uint64(seed), 5)), single: single}
		w := newWorld(t)
		c.write(t, w)
		found := 0
		for range 150 {
			f := c.filter()
			want := c.want(&f)
			got, count := c.got(t, w, &f)
			if !slices.Equal(got, want) || count != len(want) {
				t.Fatalf("%+v: got %d devices, counted %d, want %d", f, len(got), count, len(want))
			}
			found += len(want)
		}
		if found == 0 {
			t.Error("no filter was passed by anybody: the test says nothing")
		}
	}
}

// TestSearchGoesOnFromAnyPlace begins pages at places where no device stands.
func TestSearchGoesOnFromAnyPlace(t *testing.T) {
	c := &crowd{dice: rand.New(rand.NewPCG(3, 5))}
	w := newWorld(t)
	c.write(t, w)
	for range 60 {
		f := Filter{State: Enrolled}
		if c.dice.IntN(2) == 0 {
			f.ExpiresAfter = crowdNow + 100
		}
		at := position{cell: uint8(c.dice.IntN(256)), id: make([]byte, len(ID{}))}
		if f.byEnd() {
			at.notAfter = crowdNow + 90 + int64(c.dice.IntN(200))
		}
		at.id[0] = byte(c.dice.IntN(256))
		n := 0
		for _, k := range c.want(&f) {
			var end int64
			var cell uint8
			if _, err := fmt.Sscan(k, &end, &cell); err != nil {
				t.Fatal(err)
			}
			if cmp.Or(cmp.Compare(end, at.notAfter), int(cell)-int(at.cell)) > 0 || end == at.notAfter && cell == at.cell && idAbove(c.cells[cell], k, at.id) {
				n++
			}
		}
		var found []hit
		err := w.db.View(t.Context(), func(ctx context.Context, tx *db.Tx) (err error) {
			found, err = f.hits(ctx, tx, at, 1<<20)
			return err
		})
		if err != nil || len(found) != n {
			t.Errorf("%+v behind %+v: got %d, %v, want %d", f, at, len(found), err, n)
		}
	}
}

// idAbove reports whether the device that key ends with has a higher id.
func idAbove(entries []entry, key string, id []byte) bool {
	return slices.ContainsFunc(entries, func(e entry) bool { return strings.HasSuffix(key, fmt.Sprint(e.id)) && bytes.Compare(e.id[:], id) > 0 })
}

// TestNotesFindTheirBlocks looks for the blocks of devices in cells with several.
func TestNotesFindTheirBlocks(t *testing.T) {
	c := &crowd{dice: rand.New(rand.NewPCG(4, 5))}
	w := newWorld(t)
	c.write(t, w)
	var ids []ID
	cells := map[ID]uint8{}
	for _, cell := range []uint8{0, 1, 7, 64, 200, 255} {
		for _, e := range c.cells[cell] {
			if c.dice.IntN(3) == 0 {
				ids, cells[e.id] = append(ids, e.id), cell
			}
		}
	}
	w.do(t, func(ctx context.Context, tx *db.Tx) error {
		blocks, err := findBlocks(ctx, tx, ids, cells)
		if err != nil {
			return err
		}
		if err := readBlocks(ctx, tx, blocks); err != nil {
			return err
		}
		n := 0
		for _, b := range blocks {
			entries, err := b.unpack()
			if err != nil {
				return err
			}
			for _, id := range b.ids {
				if _, known := find(entries, id); !known {
					t.Fatalf("%v was looked for in block %x of cell %d, where it is not", id, b.first, b.cell)
				}
			}
			n += len(b.ids)
		}
		if n != len(ids) || len(blocks) < 8 {
			t.Errorf("got %d devices in %d blocks, want %d in more than one block a cell", n, len(blocks), len(ids))
		}
		return nil
	})
}
