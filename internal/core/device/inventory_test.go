package device

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"mooring/internal/base/db"
	"mooring/internal/base/errs"
)

// filled brings the inventory to what the registry says.
func (w *world) filled(t testing.TB) {
	t.Helper()
	if err := w.Reindex(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// everything is the registry by its own indexes.
func (w *world) everything(t testing.TB) []Device {
	t.Helper()
	var all []Device
	f := Filter{Limit: 1000}
	for {
		page, next, err := w.List(t.Context(), auditor, f)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, page...)
		if f.Cursor = next; next == "" {
			return all
		}
	}
}

// imported registers n devices that differ in everything that is searched for.
func (w *world) imported(t testing.TB, n int) {
	t.Helper()
	var file strings.Builder
	file.WriteString("name,group,profile,tags\n")
	for i := range n {
		profile := "sensor"
		if i%7 == 0 {
			profile = "gateway"
		}
		fmt.Fprintf(&file, "d%05d,g%d,%s,floor=%d;n=%d\n", i, i%11, profile, i%5, i)
	}
	if _, err := w.Import(t.Context(), admin, Source{R: strings.NewReader(file.String()), Name: "f", Format: "csv"}, nil); err != nil {
		t.Fatal(err)
	}
}

func (w *world) agrees(t *testing.T, filters []Filter) {
	t.Helper()
	all := w.everything(t)
	for _, f := range filters {
		var want, got []string
		for i := range all {
			if f.passes(&all[i]) {
				want = append(want, all[i].Name)
			}
		}
		n, err := w.Count(t.Context(), auditor, f)
		if err != nil || n != int64(len(want)) {
			t.Errorf("count of %+v: got %d, %v, want %d", f, n, err, len(want))
		}
		last := int64(0)
		for f.Limit = 100; ; {
			page, next, err := w.List(t.Context(), auditor, f)
			if err != nil {
				t.Fatal(err)
			}
			for i := range page {
				got = append(got, page[i].Name)
				if end := f.end(&page[i]); f.byEnd() && end < last {
					t.Errorf("%+v: not in the order of the end", f)
				} else {
					last = end
				}
			}
			if f.Cursor = next; next == "" {
				break
			}
		}
		slices.Sort(want)
		slices.Sort(got)
		if !slices.Equal(got, want) {
			t.Errorf("%+v: got %d devices, want %d", f, len(got), len(want))
		}
	}
}

func (w *world) filters() []Filter {
	now := w.now.Unix()
	one, two := bytes.Repeat([]byte{1}, 8), bytes.Repeat([]byte{2}, 8)
	return []Filter{
		{}, {State: Suspended}, {State: Enrolled}, {State: Registered, Profile: "gateway"}, {Profile: "gateway", Group: "g3"}, {Profile: "nobody"},
		{Tag: "floor"}, {Tag: "floor=3"}, {Tag: "n=77"}, {Tag: "n="}, {Tag: "flo"}, {Tag: "floor=33"},
		{Issuer: one}, {Issuer: two, Key: "ec-p384"}, {Issuer: one, Key: "ec-p384"}, {Key: "ed25519", State: Suspended},
		{ExpiresBefore: now + 500_000, State: Enrolled}, {ExpiresAfter: now + 500_000}, {ExpiresAfter: now + 100, ExpiresBefore: now + 300_000, Issuer: one, Group: "g1"},
		{SeenBefore: now}, {SeenAfter: now}, {SeenAfter: now + 50, SeenBefore: now + 90, Profile: "sensor"}, {SeenBefore: now + 10, State: Enrolled},
	}
}

// randomLife lets devices enrol, renew, move and report in.
func (w *world) randomLife(t testing.TB, seed uint64, acts int) {
	t.Helper()
	dice := rand.New(rand.NewPCG(seed, 1))
	all := w.everything(t)
	for k := range acts {
		d := w.load(t, all[dice.IntN(len(all))].ID)
		switch dice.IntN(6) {
		case 0:
			if d.State.Active() {
				w.must(t, func() error { _, err := w.Move(t.Context(), operator, d.ID, Suspend, ""); return err })
			}
		case 1:
			w.Seen(d.ID, w.now.Unix()+int64(dice.IntN(100)))
		default:
			if !d.State.Active() {
				continue
			}
			c := w.claim(d, byte(dice.IntN(250)+1))
			c.Serial = fmt.Appendf(nil, "%016d", int(seed)*100_000+k)
			c.NotAfter = w.now.Unix() + int64(dice.IntN(1_000_000))
			c.Issuer, c.Key = bytes.Repeat([]byte{byte(dice.IntN(2) + 1)}, 8), []string{"ec-p256", "ec-p384", "ed25519"}[dice.IntN(3)]
			c.Slot = []string{"operational", "vpn"}[dice.IntN(2)]
			if refused := w.enrol(t, c); refused[0] != nil {
				t.Fatal(refused[0])
			}
		}
	}
	w.must(t, func() error { return w.flushSeen(t.Context()) })
}

// TestInventoryAgreesWithTheRegistry compares lists and counts by the inventory with what passes among all devices, after the walk and after
// changes that were only noted.
func TestInventoryAgreesWithTheRegistry(t *testing.T) {
	w := newWorld(t)
	w.imported(t, 3000)
	w.randomLife(t, 1, 1500)
	w.filled(t)
	w.must(t, func() error { return w.flushInventory(t.Context()) })
	w.agrees(t, w.filters())
	w.randomLife(t, 2, notesAtOnce)
	w.agrees(t, w.filters()) // the listing has flushed the notes
	w.randomLife(t, 3, 900)
	w.must(t, func() error { return w.flushInventory(t.Context()) })
	w.agrees(t, w.filters())
	if n := w.inv.pending(); n != 0 {
		t.Errorf("notes left: got %d, want none", n)
	}
	for i := range 5 {
		w.add(t, Spec{Name: fmt.Sprintf("new%d", i), Group: "g3", Profile: "gateway", Tags: map[string]string{"floor": "3"}})
	}
	w.agrees(t, w.filters())
	before := w.dump(t)
	w.filled(t)
	if after := w.dump(t); before != after {
		t.Error("a second walk wrote other entries than the notes did")
	}
}

// dump is the inventory in text.
func (w *world) dump(t *testing.T) string {
	t.Helper()
	var out strings.Builder
	err := w.db.View(t.Context(), func(ctx context.Context, tx *db.Tx) error {
		out.Reset()
		return (&Filter{}).search(tx).each(ctx, 0, nil, func(b *match) (bool, error) {
			whole := &raw{cell: b.cell, first: b.first}
			if err := tx.Each(ctx, whole.scan, selectBlock, int64(b.cell), b.first); err != nil {
				return false, err
			}
			entries, err := whole.unpack()
			for _, e := range entries {
				slices.SortFunc(e.certs, func(a, b held) int { return strings.Compare(a.slot, b.slot) })
				fmt.Fprintln(&out, b.cell, e)
			}
			return true, err
		})
	})
	if err != nil {
		t.Fatal(err)
	}
	return out.String()
}

// cellOf reads all blocks of a cell.
func cellOf(ctx context.Context, tx *db.Tx, cell uint8) (blocks []*raw, err error) {
	err = tx.Each(ctx, func(row db.Row) error {
		b := &raw{cell: cell}
		blocks = append(blocks, b)
		return row.Scan(&b.first)
	}, `SELECT first FROM inventory WHERE cell = $1 AND kind = 2 ORDER BY first`, int64(cell))
	for _, b := range blocks {
		if err := tx.Each(ctx, b.scan, selectBlock, int64(cell), b.first); err != nil {
			return nil, err
		}
	}
	return blocks, err
}

// TestCountMissesNothing: more devices than a listing would flush for, and they are counted at once, because a campaign is judged by the number.
func TestCountMissesNothing(t *testing.T) {
	w := newWorld(t)
	w.filled(t)
	for i := range 3 * notesAtOnce {
		w.add(t, Spec{Name: fmt.Sprintf("new%d", i), Group: "meters", Profile: "sensor"})
	}
	n, err := w.Count(t.Context(), auditor, Filter{Group: "meters"})
	if err != nil || n != 3*notesAtOnce {
		t.Errorf("got %d, %v; want %d", n, err, 3*notesAtOnce)
	}
}

// TestBlocksAreSplit puts more devices into one cell than a block holds, by the walk and by notes.
func TestBlocksAreSplit(t *testing.T) {
	w := newWorld(t)
	put := func(from, to int) (ids []ID) {
		w.do(t, func(ctx context.Context, tx *db.Tx) error {
			ids = nil
			for i := from; i < to; i++ {
				id := ID(fmt.Appendf(nil, "%016d", (i*7919)%1_000_003))
				if _, err := tx.Exec(ctx, insertDevice, int64(9), id[:], fmt.Sprint("n", i), "", "g", "", "sensor", []byte{}, int64(0), int64(1), []byte{}, ""); err != nil {
					return err
				}
				ids = append(ids, id)
			}
			return nil
		})
		return ids
	}
	blocks := func() (sizes []int) {
		w.do(t, func(ctx context.Context, tx *db.Tx) error {
			cell, err := cellOf(ctx, tx, 9)
			sizes = nil
			for k, b := range cell {
				entries, err := b.unpack()
				if err != nil {
					return err
				}
				for i := range entries {
					if !slices.IsSortedFunc(entries, func(a, b entry) int { return bytes.Compare(a.id[:], b.id[:]) }) || bytes.Compare(b.first, entries[i].id[:]) > 0 ||
						k+1 < len(cell) && !cell[k+1].after(entries[i].id[:]) {
						t.Fatalf("block %d: entry %d is out of place", k, i)
					}
				}
				sizes = append(sizes, len(entries))
			}
			return err
		})
		return sizes
	}
	sum := func(sizes []int) (n int) {
		for _, s := range sizes {
			n += s
		}
		return n
	}
	put(0, 6000)
	w.filled(t)
	if got := blocks(); len(got) < 3 || sum(got) != 6000 {
		t.Fatalf("after the walk: got blocks %v, want 6,000 devices in three or more", got)
	}
	ids := put(6000, 18000)
	slices.SortFunc(ids, func(a, b ID) int { return bytes.Compare(a[:], b[:]) })
	w.do(t, func(ctx context.Context, tx *db.Tx) error {
		cell, err := cellOf(ctx, tx, 9)
		if err != nil {
			return err
		}
		// The ids of this test do not belong to the cell, so the registry would not find them there: put them in as they would be read.
		for k, b := range cell {
			entries, err := b.unpack()
			if err != nil {
				return err
			}
			for _, id := range ids {
				if (k == 0 || bytes.Compare(b.first, id[:]) <= 0) && (k+1 == len(cell) || cell[k+1].after(id[:])) {
					at, _ := find(entries, id)
					entries = slices.Insert(entries, at, entry{id: id, state: Registered, profile: "sensor", group: "g"})
				}
			}
			if err := tx.Send(ctx, blockStmts(b, entries)...); err != nil {
				return err
			}
		}
		return nil
	})
	got := blocks()
	if sum(got) != 18000 || slices.Max(got) > blockMost {
		t.Errorf("after the notes: got blocks %v, want 18,000 devices in blocks of at most %d", got, blockMost)
	}
	w.filled(t)
	if got := blocks(); sum(got) != 18000 {
		t.Errorf("after a second walk: got %d devices, want 18,000", sum(got))
	}
}

// TestInventoryAfterACrash starts a process after another one that left its row.
func TestInventoryAfterACrash(t *testing.T) {
	w := newWorld(t)
	w.imported(t, 50)
	w.filled(t)
	w.inv = newInventory()
	w.beat(t.Context())
	d := w.everything(t)[7]
	w.must(t, func() error { _, err := w.Move(t.Context(), operator, d.ID, Suspend, ""); return err })
	w.inv = newInventory() // killed: the note is lost
	if n, _ := w.Count(t.Context(), auditor, Filter{State: Suspended}); n != 0 {
		t.Fatalf("suspended after the crash: got %d, want none yet", n)
	}
	w.now = w.now.Add(2 * deadAfter * 1e9)
	at := w.joinInventory(t.Context())
	if at == nil {
		t.Fatal("the row of the dead process was not noticed")
	}
	for !w.walk(t.Context(), at) {
	}
	if n, _ := w.Count(t.Context(), auditor, Filter{State: Suspended}); n != 1 {
		t.Errorf("suspended after the walk: got %d, want 1", n)
	}
	w.must(t, func() error { return w.Settle(t.Context()) })
	w.inv = newInventory()
	if at := w.joinInventory(t.Context()); at != nil {
		t.Error("after an orderly end the registry is read anew")
	}
}

func TestDamagedInventoryIsMadeAnew(t *testing.T) {
	w := newWorld(t)
	w.imported(t, 50)
	w.filled(t)
	w.do(t, func(ctx context.Context, tx *db.Tx) error {
		_, err := tx.Exec(ctx, `UPDATE inventory SET data = $1 WHERE kind = 2`, []byte{9, 9, 9})
		return err
	})
	if _, _, err := w.List(t.Context(), auditor, Filter{Profile: "sensor"}); !errs.Is(err, errs.Unavailable) {
		t.Errorf("list: got %v, want Unavailable", err)
	}
	if !w.inv.forgot() {
		t.Error("nobody asked for a walk")
	}
	w.filled(t)
	w.agrees(t, w.filters())
}

func TestRenewalsAreSpread(t *testing.T) {
	const before, spread, end = 30 * 86400, 9 * 86400, 2_000_000_000
	days := map[int64]int{}
	for i := range 10_000 {
		at := RenewAt(fmt.Sprintf("meter-%05d", i), end+int64(i%3600), before, spread) // enrolled in one hour
		if at < end-before-spread || at >= end+3600-before+spread {
			t.Fatalf("device %d: %d lies outside the window", i, at)
		}
		if at != RenewAt(fmt.Sprintf("meter-%05d", i), end+int64(i%3600), before, spread) {
			t.Fatal("another instant at the second look")
		}
		days[at/86400]++
	}
	for day, n := range days {
		if n > 10_000/18*13/10 {
			t.Errorf("day %d: %d renewals, want about %d", day, n, 10_000/18)
		}
	}
	if len(days) < 18 {
		t.Errorf("got %d days, want the 18 of the window", len(days))
	}
	if at := RenewAt("x", end, 0, 0); at != 0 {
		t.Errorf("a certificate that is never renewed: got %d, want 0", at)
	}
}

// TestForecast enrols 10,000 devices within one hour and looks at when they are to renew.
func TestForecast(t *testing.T) {
	w := newWorld(t)
	w.renewal = func(profile string) (before, spread int64, ok bool) {
		return 30 * 86400, 9 * 86400, profile == "sensor"
	}
	const n = 10_000
	w.imported(t, n)
	all := w.everything(t)
	for chunk := range slices.Chunk(all, 500) {
		claims := make([]Claim, len(chunk))
		for i := range chunk {
			claims[i] = w.claim(chunk[i], 1)
			claims[i].NotAfter = w.now.Unix() + 90*86400 + int64(i)*7
			claims[i].Serial = fmt.Appendf(nil, "%s", chunk[i].ID[:])
		}
		w.enrol(t, claims...)
	}
	w.filled(t)
	f, err := w.Forecast(t.Context(), auditor, Filter{Profile: "sensor"}, 86400, 90)
	if err != nil {
		t.Fatal(err)
	}
	total, days, most := int64(0), 0, int64(0)
	for day, k := range f.Spans {
		if total += k; k > 0 {
			days, most = days+1, max(most, k)
		}
		if k > 0 && (day < 50 || day > 69) {
			t.Errorf("day %d: %d renewals outside the window", day, k)
		}
	}
	want, err := w.Count(t.Context(), auditor, Filter{Profile: "sensor"})
	if err != nil || total != want || f.Overdue+f.Later+f.Never != 0 {
		t.Errorf("got %d in the window, %+v, want %d", total, f, want)
	}
	if days < 18 || most > want/18*13/10 {
		t.Errorf("got %d days, at most %d a day, want 18 or 19 days with about %d", days, most, want/18)
	}
	// What ended today is overdue, though its time for renewal may have been today too.
	w.renewal = func(string) (before, spread int64, ok bool) { return 60, 0, true }
	w.now = w.now.AddDate(0, 0, 91)
	f, err = w.Forecast(t.Context(), auditor, Filter{Profile: "sensor"}, 400*86400, 2)
	if err != nil || f.Overdue != want || f.Spans[0] != 0 {
		t.Errorf("after all have ended: got %+v, %v, want %d overdue", f, err, want)
	}
}
