package revoke

import (
	"cmp"
	"context"
	"maps"
	"slices"

	"mooring/internal/base/db"
	"mooring/internal/core/audit"
)

// listsKept is how many of the last lists of a CA are kept: more than those whose entries can get their places out of order.
const listsKept = 16

// save keeps what the record says last about each revoked certificate, which is as much as there are rows, and of the lists of each CA the last.
func (c *checker) save(_ context.Context, _ *db.Tx, w *audit.StateWriter) error {
	w.Uint(uint64(len(c.revoked)))
	for serial, r := range c.revoked {
		w.Text(serial)
		w.Fixed(r.Issuer[:])
		w.Fixed(r.Device[:])
		w.Bool(r.ByDevice)
		w.Int(int64(r.Reason))
		for _, n := range r.numbers() {
			w.Int(*n)
		}
	}
	w.Uint(uint64(len(c.scopes)))
	for _, k := range slices.SortedFunc(maps.Keys(c.scopes), scopeKey.compare) {
		w.Fixed(k.issuer[:])
		w.Int(k.shard)
		c.scopes[k].save(w)
	}
	w.Uint(uint64(len(c.blocked)))
	for hash, all := range c.blocked {
		w.Fixed(hash[:])
		w.Uint(uint64(len(all)))
		for _, b := range all {
			w.Int(b.at)
			w.Text(b.serial)
			w.Int(b.index)
		}
	}
	return nil
}

// numbers returns the numbers of a revocation in the order in which they are kept.
func (r *replayed) numbers() []*int64 {
	return []*int64{&r.Shard, &r.At, &r.NotAfter, &r.turn, &r.change, &r.index}
}

func (sc *replayedScope) save(w *audit.StateWriter) {
	lists := slices.SortedFunc(slices.Values(sc.lists), func(a, b replayedList) int {
		return cmp.Or(cmp.Compare(a.number, b.number), cmp.Compare(a.index, b.index))
	})
	floor := sc.floor
	for len(lists) > listsKept {
		floor, lists = lists[0].number, lists[1:]
	}
	w.Int(sc.changes)
	w.Int(floor)
	w.Uint(uint64(len(lists)))
	for _, l := range lists {
		w.Int(l.number)
		w.Int(l.thisUpdate)
		w.Int(l.covers)
		w.Int(l.index)
	}
	w.Texts(sc.newest)
	w.Int(sc.index)
	w.Texts(sc.delta)
	w.Int(sc.deltaAt)
	numbers := slices.DeleteFunc(slices.Sorted(maps.Keys(sc.pieces)), func(n int64) bool { return n <= floor })
	w.Uint(uint64(len(numbers)))
	for _, n := range numbers {
		w.Int(n)
		w.Text(sc.pieces[n])
	}
}

func (c *checker) load(r *audit.StateReader) error {
	for range r.Len() {
		var one replayed
		serial := r.Text()
		one.Serial = []byte(serial)
		r.Fixed(one.Issuer[:])
		r.Fixed(one.Device[:])
		one.ByDevice, one.Reason = r.Bool(), Reason(r.Int())
		for _, n := range one.numbers() {
			*n = r.Int()
		}
		if r.Err() != nil {
			break
		}
		c.revoked[serial] = one
	}
	for range r.Len() {
		var k scopeKey
		r.Fixed(k.issuer[:])
		k.shard = r.Int()
		sc := loadScope(r)
		if r.Err() != nil {
			break
		}
		c.scopes[k] = sc
	}
	for range r.Len() {
		var hash [32]byte
		r.Fixed(hash[:])
		for range r.Len() {
			b := blocking{at: r.Int(), serial: r.Text(), index: r.Int()}
			if r.Err() != nil {
				return r.Err()
			}
			c.blocked[hash] = append(c.blocked[hash], b)
		}
		if r.Err() != nil {
			break
		}
	}
	return r.Err()
}

func loadScope(r *audit.StateReader) *replayedScope {
	sc := &replayedScope{changes: r.Int(), floor: r.Int()}
	for range r.Len() {
		l := replayedList{number: r.Int(), thisUpdate: r.Int(), covers: r.Int(), index: r.Int()}
		if r.Err() != nil {
			return sc
		}
		sc.lists = append(sc.lists, l)
	}
	sc.newest, sc.index = r.Texts(), r.Int()
	sc.delta, sc.deltaAt = r.Texts(), r.Int()
	for range r.Len() {
		n, digest := r.Int(), r.Text()
		if r.Err() != nil {
			return sc
		}
		if sc.pieces == nil {
			sc.pieces = map[int64]string{}
		}
		sc.pieces[n] = digest
	}
	return sc
}
