package ca

import (
	"bytes"
	"context"
	"maps"
	"slices"

	"mooring/internal/base/db"
	"mooring/internal/core/audit"
)

// save keeps what the record says of each certificate that is still there, of the CAs and of the profiles. Certificates that have left are
// subtracted from what the entries about their leaving say: those entries count for nothing then when they come, if they come later, and
// the sums are even when nothing else is gone. That they left rightly, the verification has found in which this is done.
func (c *checker) save(ctx context.Context, tx *db.Tx, w *audit.StateWriter) error {
	purged := map[string]gone{}
	for object, p := range c.purges {
		purged[object] = gone{n: p.said.n, sum: p.said.sum}
	}
	w.Uint(uint64(len(c.profileNames)))
	for _, name := range c.profileNames {
		w.Text(name)
	}
	for cell := range c.cells {
		if err := c.saveCell(ctx, tx, w, cell, purged); err != nil {
			return err
		}
	}
	c.savePurges(w, purged)
	saveMaps(w, c.issuers)
	w.Texts(c.profiles)
	c.elsewhere.save(w)
	c.briefs.save(w)
	return nil
}

// saveCell keeps the certificates of a cell that have a row, and subtracts the others from what left.
func (c *checker) saveCell(ctx context.Context, tx *db.Tx, w *audit.StateWriter, cell int, purged map[string]gone) error {
	all := slices.SortedFunc(slices.Values(c.cells[cell]), compareIssues)
	there, err := serialsOf(ctx, tx, cell, len(all))
	if err != nil {
		return err
	}
	all = slices.DeleteFunc(all, func(i issue) bool {
		if there[i.serial] {
			return false
		}
		object := placeOf(i.serial[:])
		g := purged[object]
		g.add(i.serial[:])
		g.n -= 2 // which add has added; the sum is its own opposite
		purged[object] = g
		return true
	})
	w.Uint(uint64(len(all)))
	for _, i := range all {
		w.Fixed(i.serial[:])
		w.Fixed(i.digest[:])
		w.Int(i.index)
		w.Int(i.end)
		w.Uint(uint64(i.profile))
	}
	return nil
}

// serialsOf reads which certificates of a cell are there.
func serialsOf(ctx context.Context, tx *db.Tx, cell, most int) (map[[16]byte]bool, error) {
	there := make(map[[16]byte]bool, most)
	if most == 0 {
		return there, nil
	}
	for _, table := range []string{tableOrdinary, tableLong} {
		err := tx.Each(ctx, func(row db.Row) error {
			var serial []byte
			if err := row.Scan(&serial); err != nil {
				return err
			}
			if len(serial) == 16 {
				there[[16]byte(serial)] = true
			}
			return nil
		}, `SELECT serial FROM `+table+` WHERE cell = $1`, int64(cell))
		if err != nil {
			return nil, err
		}
	}
	return there, nil
}

func (c *checker) savePurges(w *audit.StateWriter, purged map[string]gone) {
	maps.DeleteFunc(purged, func(_ string, g gone) bool { return g.n == 0 && g.sum == [16]byte{} })
	w.Uint(uint64(len(purged)))
	for _, object := range slices.Sorted(maps.Keys(purged)) {
		g, p := purged[object], c.purges[object]
		if p == nil {
			p = &purges{}
		}
		w.Text(object)
		w.Int(g.n)
		w.Fixed(g.sum[:])
		w.Bool(p.whole)
		w.Int(p.first)
		w.Uint(uint64(len(p.until)))
		for _, profile := range slices.Sorted(maps.Keys(p.until)) {
			w.Text(profile)
			w.Int(p.until[profile])
		}
	}
}

func saveMaps(w *audit.StateWriter, all map[string]map[string]string) {
	w.Uint(uint64(len(all)))
	for _, name := range slices.Sorted(maps.Keys(all)) {
		w.Text(name)
		w.Texts(all[name])
	}
}

func loadMaps(r *audit.StateReader, into map[string]map[string]string) {
	for range r.Len() {
		name := r.Text()
		detail := r.Texts()
		if r.Err() != nil {
			return
		}
		if detail == nil {
			detail = map[string]string{}
		}
		into[name] = detail
	}
}

func (c *checker) load(r *audit.StateReader) error {
	for i := range r.Len() {
		name := r.Text()
		if r.Err() != nil {
			break
		}
		c.profileNames = append(c.profileNames, name)
		c.profileNumbers[name] = uint16(i)
	}
	for cell := range c.cells {
		for range r.Len() {
			var i issue
			r.Fixed(i.serial[:])
			r.Fixed(i.digest[:])
			i.index, i.end, i.profile = r.Int(), r.Int(), uint16(r.Uint())
			if err := r.Err(); err != nil {
				return err
			}
			if int(i.profile) >= len(c.profileNames) {
				return errUnknownProfile
			}
			c.cells[cell] = append(c.cells[cell], i)
		}
	}
	for range r.Len() {
		object := r.Text()
		p := &purges{until: map[string]int64{}}
		p.said.n = r.Int()
		r.Fixed(p.said.sum[:])
		p.whole, p.first = r.Bool(), r.Int()
		for range r.Len() {
			profile := r.Text()
			p.until[profile] = r.Int()
			if r.Err() != nil {
				break
			}
		}
		if r.Err() != nil {
			break
		}
		c.purges[object] = p
	}
	loadMaps(r, c.issuers)
	if profiles := r.Texts(); profiles != nil {
		c.profiles = profiles
	}
	c.elsewhere.load(r)
	c.briefs.load(r)
	return r.Err()
}

func (e *elsewhere) save(w *audit.StateWriter) {
	saveMaps(w, e.pending)
	saveMaps(w, e.crosses)
	w.Uint(uint64(len(e.ceremonies)))
	for _, root := range slices.Sorted(maps.Keys(e.ceremonies)) {
		w.Text(root)
		w.Int(e.ceremonies[root].entries)
		w.Text(e.ceremonies[root].head)
	}
}

func (e *elsewhere) load(r *audit.StateReader) {
	loadMaps(r, e.pending)
	loadMaps(r, e.crosses)
	for range r.Len() {
		root := r.Text()
		one := ceremony{r.Int(), r.Text()}
		if r.Err() != nil {
			return
		}
		e.ceremonies[root] = one
	}
}

// save keeps those that have not ended.
func (b *briefs) save(w *audit.StateWriter) {
	w.Uint(uint64(len(b.known)))
	for _, serial := range slices.SortedFunc(maps.Keys(b.known), func(x, y [16]byte) int { return bytes.Compare(x[:], y[:]) }) {
		i := b.known[serial]
		w.Fixed(serial[:])
		w.Fixed(i.digest[:])
		w.Int(i.index)
		w.Int(i.end)
		w.Bool(i.marked)
	}
}

func (b *briefs) load(r *audit.StateReader) {
	b.known, b.since = map[[16]byte]briefIssue{}, b.now().Unix()
	for range r.Len() {
		var serial [16]byte
		var i briefIssue
		r.Fixed(serial[:])
		r.Fixed(i.digest[:])
		i.index, i.end, i.marked = r.Int(), r.Int(), r.Bool()
		if r.Err() != nil {
			return
		}
		if i.end >= b.since {
			b.known[serial] = i
		}
	}
}
