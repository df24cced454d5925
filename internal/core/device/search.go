package device

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"slices"
	"strconv"
	"strings"

	"mooring/internal/base/db"
)

const (
	cellsFirst   = 4       // cells that a search reads at first: a filter that many devices pass needs no more
	cellsMost    = 64      // … and at most
	windowEnough = 2 << 20 // octets at once from which no more cells are taken
)

// selectColumns reads some columns of some cells. There is one text for any number of both: the last of each is repeated. The lists let the
// engines jump from column to column; a range of cells would have them read all of each. Order is made here, where it costs nothing.
func selectColumns() string {
	return `SELECT cell, kind, first, data FROM inventory WHERE cell IN (` + placeholders(1, cellsMost) + `) AND kind IN (` + placeholders(cellsMost+1, columns-1) + `)`
}

func placeholders(from, n int) string {
	list := make([]string, n)
	for i := range list {
		list[i] = "$" + strconv.Itoa(from+i)
	}
	return strings.Join(list, ", ")
}

// eachBlock calls fn for the blocks from a cell on, in order, with the given columns, until it returns false.
func eachBlock(ctx context.Context, tx *db.Tx, from uint8, cols []column, fn func(*raw) (more bool, err error)) error {
	text, width := selectColumns(), int64(cellsFirst)
	for begin := int64(from); begin < 256; {
		blocks, read, err := readWindow(ctx, tx, text, begin, min(begin+width, 256), cols)
		if err != nil {
			return err
		}
		for _, b := range blocks {
			if more, err := fn(b); err != nil || !more {
				return err
			}
		}
		begin += width
		if read < windowEnough {
			width = min(2*width, cellsMost)
		}
	}
	return nil
}

func readWindow(ctx context.Context, tx *db.Tx, text string, begin, end int64, cols []column) (blocks []*raw, read int, err error) {
	args := make([]any, 0, cellsMost+columns-1)
	for i := range int64(cellsMost) {
		args = append(args, min(begin+i, end-1))
	}
	for i := range columns - 1 {
		args = append(args, int64(cols[min(i, len(cols)-1)]))
	}
	type key struct {
		cell  int64
		first string
	}
	at := map[key]*raw{}
	err = tx.Each(ctx, func(row db.Row) error {
		var c, kind int64
		var first, data []byte
		if err := row.Scan(&c, &kind, &first, &data); err != nil {
			return err
		}
		if kind < 1 || kind >= columns || c < begin || c >= end {
			return errDamaged
		}
		b := at[key{c, string(first)}]
		if b == nil {
			b = &raw{cell: uint8(c), first: first}
			at[key{c, string(first)}], blocks = b, append(blocks, b)
		}
		b.col[kind] = data
		read += len(data)
		return nil
	}, text, args...)
	slices.SortFunc(blocks, func(a, b *raw) int { return cmp.Or(int(a.cell)-int(b.cell), bytes.Compare(a.first, b.first)) })
	return blocks, read, err
}

// columnsFor are the columns that f looks at.
func (f *Filter) columnsFor(more ...column) []column {
	cols := append([]column{colState}, more...)
	for c, is := range map[column]bool{colProfile: f.Profile != "", colGroup: f.Group != "", colTags: f.Tag != "", colSeen: f.SeenAfter > 0 || f.SeenBefore > 0,
		colOwner: f.ofCertificate(), colIssuer: len(f.Issuer) > 0, colKey: f.Key != "", colEnd: f.byEnd()} {
		if is {
			cols = append(cols, c)
		}
	}
	slices.Sort(cols)
	return slices.Compact(cols)
}

// marks are the devices of a block that pass a filter: 1 for each that does. ends holds the end of the earliest certificate that fits, when the
// filter is about that.
type marks struct {
	on   []byte
	ends []int64

	fit, passed []byte // room for matchCerts
}

// match marks the devices of b that pass f and returns how many they are.
func (f *Filter) match(b *raw, m *marks) (count int, err error) {
	n := b.size()
	m.on = slices.Grow(m.on[:0], n)[:n]
	if f.State != 0 && bytes.IndexByte(b.col[colState], byte(f.State)) < 0 {
		return 0, nil
	}
	for i, s := range b.col[colState] {
		m.on[i] = 1
		if f.State != 0 && State(s) != f.State {
			m.on[i] = 0
		}
	}
	for _, c := range []struct {
		col    column
		wanted func(string) bool
	}{{colProfile, is(f.Profile)}, {colGroup, is(f.Group)}, {colTags, hasTag(f.Tag)}} {
		if c.col == colProfile && f.Profile == "" || c.col == colGroup && f.Group == "" || c.col == colTags && f.Tag == "" {
			continue
		}
		if any, err := keep(b.col[c.col], m.on, c.wanted); err != nil || !any || bytes.IndexByte(m.on, 1) < 0 {
			return 0, err
		}
	}
	if f.SeenAfter > 0 || f.SeenBefore > 0 {
		if len(b.col[colSeen]) != n*timeSize {
			return 0, errDamaged
		}
		for i := range n {
			if at := timeAt(b.col[colSeen], i); !f.sawWithin(at) {
				m.on[i] = 0
			}
		}
	}
	if f.ofCertificate() {
		if err := f.matchCerts(b, m); err != nil {
			return 0, err
		}
	}
	return bytes.Count(m.on, []byte{1}), nil
}

func is(want string) func(string) bool { return func(text string) bool { return text == want } }

// keep clears the marks of the values of a text column that are not wanted, and reports whether any can be left.
func keep(col, on []byte, wanted func(string) bool) (any bool, err error) {
	w, err := readWords(col, len(on))
	if err != nil {
		return false, err
	}
	by, all, none := w.which(wanted)
	switch {
	case all || none:
		return all, nil
	case len(w.texts) <= 256:
		for i, c := range w.codes {
			on[i] &= by[c]
		}
	default:
		for i := range on {
			on[i] &= by[w.code(i)]
		}
	}
	return true, nil
}

// matchCerts keeps the marks of the devices that hold a certificate which passes.
func (f *Filter) matchCerts(b *raw, m *marks) error {
	owners := b.col[colOwner]
	m.fit = slices.Grow(m.fit[:0], len(owners)/2)[:len(owners)/2]
	fit := m.fit
	for i := range fit {
		fit[i] = 1
	}
	for _, c := range []struct {
		col  column
		want string
	}{{colIssuer, string(f.Issuer)}, {colKey, f.Key}} {
		if c.want == "" {
			continue
		}
		if any, err := keep(b.col[c.col], fit, is(c.want)); err != nil {
			return err
		} else if !any || bytes.IndexByte(fit, 1) < 0 {
			clear(m.on)
			return nil
		}
	}
	byEnd := f.byEnd()
	if byEnd && len(b.col[colEnd]) != len(fit)*timeSize {
		return errDamaged
	}
	m.ends = slices.Grow(m.ends[:0], len(m.on))[:len(m.on)]
	clear(m.ends)
	passed := slices.Grow(m.passed[:0], len(m.on))[:len(m.on)]
	clear(passed)
	for i := range fit {
		owner := int(binary.LittleEndian.Uint16(owners[2*i:]))
		if owner >= len(m.on) {
			return errDamaged
		}
		if fit[i]&m.on[owner] == 0 {
			continue
		}
		if byEnd {
			end := timeAt(b.col[colEnd], i)
			if !f.endsWithin(end) {
				continue
			}
			if m.ends[owner] == 0 || end < m.ends[owner] {
				m.ends[owner] = end
			}
		}
		passed[owner] = 1
	}
	m.on, m.passed = passed, m.on
	return nil
}

// hit is a device that the inventory says to pass a filter, with its place in the order of the list.
type hit struct {
	end  int64
	cell uint8
	id   ID
}

func (h *hit) compare(o *hit) int {
	return cmp.Or(cmp.Compare(h.end, o.end), int(h.cell)-int(o.cell), bytes.Compare(h.id[:], o.id[:]))
}

// selectIDs reads the ids of a block. They are as long as all else that a filter looks at, so they are read for blocks with a hit only.
const selectIDs = `SELECT data FROM inventory WHERE cell = $1 AND kind = 1 AND first = $2`

// hits returns the first want devices behind from that the inventory says to pass f, in the order of the list.
func (f *Filter) hits(ctx context.Context, tx *db.Tx, from position, want int) (found []hit, err error) {
	var m marks
	byEnd, start := f.byEnd(), from.cell
	if byEnd {
		start = 0
	}
	behind := hit{end: from.notAfter, cell: from.cell}
	var far *hit
	err = eachBlock(ctx, tx, start, f.columnsFor(), func(b *raw) (bool, error) {
		n, err := f.match(b, &m)
		if err != nil || n == 0 || far != nil && !m.earlier(far.end) {
			return true, err
		}
		var ids []byte
		if _, err := tx.Get(ctx, []any{&ids}, selectIDs, int64(b.cell), b.first); err != nil {
			return false, err
		}
		if len(ids) != len(m.on)*len(ID{}) {
			return false, errDamaged
		}
		for i, on := range m.on {
			if on == 0 {
				continue
			}
			h := hit{cell: b.cell, id: ID(ids[i*len(ID{}):])}
			if byEnd {
				h.end = m.ends[i]
			}
			if c := cmp.Or(cmp.Compare(h.end, behind.end), int(h.cell)-int(behind.cell), bytes.Compare(h.id[:], from.id)); c <= 0 {
				continue
			}
			if far != nil && h.compare(far) > 0 {
				continue
			}
			if found = append(found, h); !byEnd && len(found) == want {
				return false, nil
			}
			if byEnd && len(found) >= 4*want+1000 {
				found = earliestHits(found, want)
				last := found[want-1]
				far = &last // what comes after it is not wanted
			}
		}
		return true, nil
	})
	if byEnd {
		found = earliestHits(found, want)
	}
	return found, err
}

// earlier reports whether a marked device has an end that is not after end.
func (m *marks) earlier(end int64) bool {
	for i, on := range m.on {
		if on == 1 && m.ends[i] <= end {
			return true
		}
	}
	return false
}

// earliestHits returns the first want of them, in order.
func earliestHits(found []hit, want int) []hit {
	slices.SortFunc(found, func(a, b hit) int { return a.compare(&b) })
	return found[:min(len(found), want)]
}

// search returns the page of f behind from by the inventory, and where the next one begins.
func (r *Registry) search(ctx context.Context, tx *db.Tx, f *Filter, from position, limit int) (page []Device, next *position, err error) {
	const rounds = 4 // what the inventory says may be overtaken by the registry, but not for whole pages again and again
	for range rounds {
		want := limit - len(page) + 1
		found, err := f.hits(ctx, tx, from, want)
		if err != nil {
			return nil, nil, err
		}
		live, err := r.readHits(ctx, tx, found)
		if err != nil {
			return nil, nil, err
		}
		for i := range found {
			d := live[found[i].id]
			if d == nil || !f.passes(d) || f.byEnd() && f.end(d) != found[i].end {
				continue
			}
			if len(page) == limit {
				at := f.after(&page[limit-1])
				return page, &at, nil
			}
			page = append(page, *d)
		}
		if len(found) < want {
			return page, nil, nil
		}
		last := found[len(found)-1]
		from.notAfter, from.cell, from.id = last.end, last.cell, last.id[:]
	}
	return page, &from, nil
}

func (r *Registry) readHits(ctx context.Context, tx *db.Tx, found []hit) (map[ID]*Device, error) {
	ids := make([]ID, len(found))
	for i := range found {
		ids[i] = found[i].id
	}
	devices, err := r.readDevices(ctx, tx, ids)
	if err != nil {
		return nil, err
	}
	live := make(map[ID]*Device, len(devices))
	for i := range devices {
		live[devices[i].ID] = &devices[i]
	}
	return live, nil
}

// passes reports whether the registry itself says that d passes f.
func (f *Filter) passes(d *Device) bool {
	switch {
	case f.State != 0 && d.State != f.State, f.Profile != "" && d.Profile != f.Profile, f.Group != "" && d.Group != f.Group:
		return false
	case (f.SeenAfter > 0 || f.SeenBefore > 0) && !f.sawWithin(d.LastSeen):
		return false
	case f.ofCertificate() && !slices.ContainsFunc(d.Slots, f.fits):
		return false
	case f.Tag == "":
		return true
	}
	k, want, exact := strings.Cut(f.Tag, "=")
	v, ok := d.Tags[k]
	return ok && (!exact || v == want)
}

// fits reports whether a certificate passes what f says about certificates.
func (f *Filter) fits(s Slot) bool {
	return s.Revoked == 0 && (len(f.Issuer) == 0 || bytes.Equal(s.Issuer, f.Issuer)) && (f.Key == "" || s.Key == f.Key) && (!f.byEnd() || f.endsWithin(s.NotAfter))
}

// end is the end of the earliest certificate that fits.
func (f *Filter) end(d *Device) (end int64) {
	for _, s := range d.Slots {
		if f.fits(s) && (end == 0 || s.NotAfter < end) {
			end = s.NotAfter
		}
	}
	return end
}

func (f *Filter) byEnd() bool         { return f.ExpiresBefore > 0 || f.ExpiresAfter > 0 }
func (f *Filter) ofCertificate() bool { return f.byEnd() || len(f.Issuer) > 0 || f.Key != "" }

func (f *Filter) endsWithin(end int64) bool {
	return end > 0 && end >= f.ExpiresAfter && (f.ExpiresBefore == 0 || end < f.ExpiresBefore)
}

// sawWithin takes a device that was never heard of for one that was heard of long ago.
func (f *Filter) sawWithin(at int64) bool {
	return at >= f.SeenAfter && (f.SeenBefore == 0 || at < f.SeenBefore)
}
