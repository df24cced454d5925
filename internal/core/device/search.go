package device

import (
	"bytes"
	"cmp"
	"context"
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

// A search goes through the blocks by windows of some cells. It reads the first part of each block, and then, of the blocks in which something is
// left, the other parts that the filter names, one after the other.
type search struct {
	f    *Filter
	tx   *db.Tx
	room room
	// The certificates that are looked for end in [from, to), with to = 0 for no bound. Whoever has seen enough may narrow this meanwhile:
	// it is obeyed where each device has one certificate, so that no other one can come to count in its place.
	from, to int64
}

func (f *Filter) search(tx *db.Tx) *search {
	return &search{f: f, tx: tx, from: max(f.ExpiresAfter, 1), to: f.ExpiresBefore}
}

// match is a block with the devices that pass.
type match struct {
	raw
	head
	next []byte // where the next block of the cell begins; nil = nowhere
	on   []byte // a bit for each device that passes
	fit  []byte // a bit for each certificate of these that passes what the filter says about certificates; the same as on when each has one
	ends times  // of the certificates, when the filter is about that
}

// each calls fn for the blocks from a cell on in which devices pass, in order and with these further parts, until it returns false.
func (s *search) each(ctx context.Context, from uint8, further []part, fn func(*match) (more bool, err error)) error {
	width := int64(cellsFirst)
	for begin := int64(from); begin < 256; {
		end := min(begin+width, 256)
		blocks, read, err := s.window(ctx, begin, end, further)
		if err != nil {
			return err
		}
		for _, b := range blocks {
			if more, err := fn(b); err != nil || !more {
				return err
			}
		}
		if begin = end; read < windowEnough {
			width = min(2*width, cellsMost)
		}
	}
	return nil
}

// step reads one part of blocks and keeps the devices of them that pass what it tells.
type step struct {
	part part
	keep func(*match) error
}

// steps are what the filter needs, the cheapest first, and then the further parts.
func (s *search) steps(further []part) []step {
	steps := []step{{partHead, s.matchHead}}
	if s.f.Tag != "" {
		steps = append(steps, step{partTags, s.matchTags})
	}
	if s.f.SeenAfter > 0 || s.f.SeenBefore > 0 {
		steps = append(steps, step{partSeen, s.matchSeen})
	}
	if s.f.byEnd() {
		steps = append(steps, step{partEnds, s.matchEnds})
	}
	for _, p := range further {
		steps = append(steps, step{p, func(*match) error { return nil }})
	}
	return steps
}

// window returns the blocks of the cells in [begin, end) in which devices pass, and how many octets were read.
func (s *search) window(ctx context.Context, begin, end int64, further []part) ([]*match, int, error) {
	var cells []int64
	for c := begin; c < end; c++ {
		cells = append(cells, c)
	}
	var blocks []*match
	total := 0
	for _, step := range s.steps(further) {
		read, err := s.read(ctx, cells, step.part, &blocks)
		if err != nil {
			return nil, 0, err
		}
		total += read
		left := blocks[:0]
		cells = cells[:0]
		for _, b := range blocks {
			if err := step.keep(b); err != nil {
				return nil, 0, err
			}
			if !anySet(b.on) {
				continue
			}
			if left = append(left, b); len(cells) == 0 || cells[len(cells)-1] != int64(b.cell) {
				cells = append(cells, int64(b.cell))
			}
		}
		if blocks = left; len(blocks) == 0 {
			break
		}
	}
	return blocks, total, nil
}

// selectParts reads one part of all blocks of some cells. There is one text for any number of cells: the last is repeated. The list lets the
// engines jump from cell to cell; a range of cells would have them read all parts of each. Order is made here, where it costs nothing.
func selectParts() string {
	return `SELECT cell, first, data FROM inventory WHERE cell IN (` + parameters(1, cellsMost) + `) AND kind = $` + strconv.Itoa(cellsMost+1)
}

// tuples is n lists of parameters in brackets.
func tuples(width, n int) string {
	list := make([]string, n)
	for i := range list {
		list[i] = "(" + parameters(width*i+1, width) + ")"
	}
	return strings.Join(list, ", ")
}

func parameters(from, n int) string {
	list := make([]string, n)
	for i := range list {
		list[i] = "$" + strconv.Itoa(from+i)
	}
	return strings.Join(list, ", ")
}

// read reads one part of the blocks of these cells: the first part makes the blocks, the others are put into those that are there.
func (s *search) read(ctx context.Context, cells []int64, p part, blocks *[]*match) (read int, err error) {
	args := make([]any, 0, cellsMost+1)
	for i := range cellsMost {
		args = append(args, cells[min(i, len(cells)-1)])
	}
	err = s.tx.Each(ctx, func(row db.Row) error {
		var cell uint8
		var first, data []byte
		if err := row.Scan(&cell, &first, &data); err != nil {
			return err
		}
		read += len(data)
		if p == partHead {
			*blocks = append(*blocks, &match{raw: raw{cell: cell, first: first}})
			(*blocks)[len(*blocks)-1].part[p] = data
		} else if at, known := slices.BinarySearchFunc(*blocks, 0, func(b *match, _ int) int {
			return cmp.Or(int(b.cell)-int(cell), bytes.Compare(b.first, first))
		}); known {
			(*blocks)[at].part[p] = data
		}
		return nil
	}, selectParts(), append(args, int64(p))...)
	if p == partHead {
		slices.SortFunc(*blocks, func(a, b *match) int { return cmp.Or(int(a.cell)-int(b.cell), bytes.Compare(a.first, b.first)) })
		for i, b := range *blocks {
			if i > 0 && (*blocks)[i-1].cell == b.cell {
				(*blocks)[i-1].next = b.first
			}
		}
	}
	return read, err
}

// matchHead marks the devices that pass what the first part tells.
func (s *search) matchHead(b *match) (err error) {
	if b.head, err = b.raw.head(); err != nil {
		return err
	}
	b.on = ones(nil, b.devices)
	f := s.f
	if f.State != 0 {
		b.state.equal(b.on, stateText(f.State), &s.room)
	}
	if f.Profile != "" && anySet(b.on) {
		b.profile.equal(b.on, f.Profile, &s.room)
	}
	if f.Group != "" && anySet(b.on) {
		b.group.equal(b.on, f.Group, &s.room)
	}
	if !f.ofCertificate() || !anySet(b.on) {
		return nil
	}
	b.fit = b.on
	if !b.single() {
		b.fit = ones(nil, b.certs)
		s.narrow(b)
	}
	if len(f.Issuer) > 0 {
		b.issuer.equal(b.fit, string(f.Issuer), &s.room)
	}
	if f.Key != "" && anySet(b.fit) {
		b.key.equal(b.fit, f.Key, &s.room)
	}
	s.fold(b)
	return nil
}

func (s *search) matchTags(b *match) error {
	r := reader{rest: b.part[partTags]}
	tags := r.words(b.devices)
	if err := r.end(); err != nil {
		return err
	}
	tags.contain(b.on, tagNeedle(s.f.Tag), &s.room)
	return nil
}

func (s *search) matchSeen(b *match) error {
	r := reader{rest: b.part[partSeen]}
	seen := r.times(b.devices)
	if err := r.end(); err != nil {
		return err
	}
	seen.keep(b.on, s.f.SeenAfter, s.f.SeenBefore)
	return nil
}

func (s *search) matchEnds(b *match) error {
	r := reader{rest: b.part[partEnds]}
	b.ends = r.times(b.certs)
	if err := r.end(); err != nil {
		return err
	}
	if b.single() {
		b.ends.keep(b.on, s.from, s.to)
		return nil
	}
	s.narrow(b)
	b.ends.keep(b.fit, max(s.f.ExpiresAfter, 1), s.f.ExpiresBefore)
	s.fold(b)
	return nil
}

// narrow clears the bits of the certificates of devices that do not pass.
func (s *search) narrow(b *match) {
	if b.single() {
		return
	}
	s.room.owners = b.owners(s.room.owners)
	for i, owner := range s.room.owners {
		if !isSet(b.on, int(owner)) {
			b.fit[i/8] &^= 1 << (i % 8)
		}
	}
}

// fold clears the bits of the devices of which no certificate passes.
func (s *search) fold(b *match) {
	if b.single() {
		return
	}
	s.room.owners = b.owners(s.room.owners)
	clear(b.on)
	for i, owner := range s.room.owners {
		if isSet(b.fit, i) {
			b.on[owner/8] |= 1 << (owner % 8)
		}
	}
}

// eachEnd calls fn for every device that passes, in order, with the end of the earliest of its certificates that pass.
func (s *search) eachEnd(b *match, fn func(device int, end int64)) {
	if b.single() {
		eachSet(b.on, func(i int) { fn(i, b.ends.at(i)) })
		return
	}
	s.room.owners = b.owners(s.room.owners)
	device, earliest := -1, int64(0)
	eachSet(b.fit, func(i int) {
		owner, end := int(s.room.owners[i]), b.ends.at(i)
		if owner == device {
			earliest = min(earliest, end)
			return
		}
		if device >= 0 {
			fn(device, earliest)
		}
		device, earliest = owner, end
	})
	if device >= 0 {
		fn(device, earliest)
	}
}

// hit is a device that the inventory says to pass a filter, with its place in the order of the list.
type hit struct {
	end   int64
	block *blockKey
	n     int // its number in the block
	id    ID  // read at last
}

// blockKey names a block with hits.
type blockKey struct {
	seq   int // the number of the block in the order of the search
	cell  uint8
	first []byte
}

func (h *hit) compare(o *hit) int {
	return cmp.Or(cmp.Compare(h.end, o.end), h.block.seq-o.block.seq, h.n-o.n)
}

// hits returns the first want devices behind from that the inventory says to pass f, in the order of the list.
func (f *Filter) hits(ctx context.Context, tx *db.Tx, from position, want int) (found []hit, err error) {
	s := f.search(tx)
	byEnd, start, blocks := f.byEnd(), from.cell, 0
	if byEnd {
		start, s.from = 0, max(s.from, from.notAfter)
	}
	err = s.each(ctx, start, nil, func(b *match) (bool, error) {
		at := &blockKey{seq: blocks, cell: b.cell, first: b.first}
		blocks++
		if !byEnd {
			passed, err := s.passed(ctx, b, from)
			if err != nil {
				return false, err
			}
			eachSet(b.on, func(i int) {
				if i >= passed && len(found) < want {
					found = append(found, hit{block: at, n: i})
				}
			})
			return len(found) < want, nil
		}
		passed := -1 // not known yet
		var failed error
		s.eachEnd(b, func(i int, end int64) {
			if end < from.notAfter || s.to > 0 && end >= s.to {
				return
			}
			if end == from.notAfter && failed == nil {
				if passed < 0 {
					passed, failed = s.passed(ctx, b, from)
				}
				if i < passed {
					return
				}
			}
			if found = append(found, hit{end: end, block: at, n: i}); len(found) >= 4*want+1000 {
				found = earliestHits(found, want)
				s.to = found[want-1].end + 1 // what ends later is not wanted
			}
		})
		return true, failed
	})
	if err != nil {
		return nil, err
	}
	found = earliestHits(found, want)
	return found, s.readIDs(ctx, found)
}

// earliestHits returns the first want of them, in order.
func earliestHits(found []hit, want int) []hit {
	slices.SortFunc(found, func(a, b hit) int { return a.compare(&b) })
	return found[:min(len(found), want)]
}

// passed returns how many devices of b do not come after the cell and id of from.
func (s *search) passed(ctx context.Context, b *match, from position) (int, error) {
	switch {
	case b.cell > from.cell || b.cell == from.cell && (len(from.id) == 0 || b.after(from.id)):
		return 0, nil
	case b.cell < from.cell || b.next != nil && bytes.Compare(b.next, from.id) <= 0:
		return b.devices, nil
	}
	all := make([]hit, b.devices)
	for i := range all {
		all[i] = hit{block: &blockKey{cell: b.cell, first: b.first}, n: i}
	}
	err := s.readIDs(ctx, all)
	n := 0
	for n < len(all) && bytes.Compare(all[n].id[:], from.id) <= 0 {
		n++
	}
	return n, err
}

// idsRow names a row of ids.
type idsRow struct {
	cell  uint8
	kind  int64
	first string
}

const (
	selectIDs = `SELECT i.cell, i.kind, i.first, i.data FROM unnest($1::smallint[], $2::smallint[], $3::bytea[]) AS t(cell, kind, first)
 JOIN inventory i ON i.cell = t.cell AND i.kind = t.kind AND i.first = t.first`
	selectSomeIDs = `) SELECT i.cell, i.kind, i.first, i.data FROM t CROSS JOIN inventory i ON i.cell = t.cell AND i.kind = t.kind AND i.first = t.first`
)

// readIDs fills in the ids of the hits.
func (s *search) readIDs(ctx context.Context, found []hit) error {
	rows := map[idsRow][]byte{}
	var cells, kinds []int16
	var firsts [][]byte
	for i := range found {
		h := &found[i]
		if _, known := rows[h.row()]; !known {
			rows[h.row()] = nil
			cells, kinds, firsts = append(cells, int16(h.block.cell)), append(kinds, int16(h.row().kind)), append(firsts, h.block.first)
		}
	}
	take := func(row db.Row) error {
		var at idsRow
		var first, data []byte
		if err := row.Scan(&at.cell, &at.kind, &first, &data); err != nil {
			return err
		}
		at.first = string(first)
		rows[at] = data
		return nil
	}
	if s.tx.Arrays() {
		if err := s.tx.Each(ctx, take, selectIDs, cells, kinds, firsts); err != nil {
			return err
		}
	} else {
		text := `WITH t (cell, kind, first) AS (VALUES ` + tuples(3, readAtOnce) + selectSomeIDs
		for len(cells) > 0 {
			args := make([]any, 0, 3*readAtOnce)
			for i := range readAtOnce {
				i = min(i, len(cells)-1)
				args = append(args, int64(cells[i]), int64(kinds[i]), firsts[i])
			}
			if err := s.tx.Each(ctx, take, text, args...); err != nil {
				return err
			}
			n := min(readAtOnce, len(cells))
			cells, kinds, firsts = cells[n:], kinds[n:], firsts[n:]
		}
	}
	for i := range found {
		h := &found[i]
		at, ids := h.n%idsEach*len(ID{}), rows[h.row()]
		if at+len(ID{}) > len(ids) {
			return errDamaged
		}
		h.id = ID(ids[at:])
	}
	return nil
}

func (h *hit) row() idsRow {
	return idsRow{h.block.cell, int64(rowIDs + h.n/idsEach), string(h.block.first)}
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
		from.notAfter, from.cell, from.id = last.end, last.block.cell, last.id[:]
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
