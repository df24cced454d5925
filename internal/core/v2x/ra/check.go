package ra

import (
	"cmp"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"mooring/internal/base/db"
	"mooring/internal/core/audit"
	"mooring/wire/cocoon"
	"mooring/wire/its"
)

// late is how long after its end a row is missed: clocks of nodes differ, and whichever is ahead takes it away.
const late = 3600

// findingsMost bounds what one verification names.
const findingsMost = 100

// checker compares requests, what waits of them, and archives with the replayed record. What waits is told of as a number of tickets; the messages in it are signed by the
// authorization authority, and the station verifies them.
type checker struct {
	orders map[its.HashedId8]*replayed
	keys   map[string]replayedKey // by digest
	now    int64
	found  []error
}

// replayed is what the record says of a request.
type replayed struct {
	mark        string
	until       int64
	next, ended int64
	tickets     int64
	periods     map[int64]*replayedPeriod
}

// replayedPeriod is what it says of a period that was planned.
type replayedPeriod struct {
	done bool   // it does not wait any more
	mark string // of its archive; "": it was given up
	ends int64
}

type replayedKey struct {
	id    its.HashedId8
	until int64
}

// forgotten is how long after its end something is of no interest any more: only a store that nobody tidied since has a row of it, which is let be.
const forgotten = 30 * 24 * 3600

func (c *checker) over(ends int64) bool { return ends+forgotten < c.now }

func (c *checker) find(format string, args ...any) {
	if len(c.found) < findingsMost {
		c.found = append(c.found, fmt.Errorf(format, args...))
	}
}

// Checker compares what this slice keeps with the replayed record. It serves one verification.
func (s *Service) Checker() audit.Checker {
	c := &checker{orders: map[its.HashedId8]*replayed{}, keys: map[string]replayedKey{}, now: s.Now().Unix()}
	return audit.Checker{Name: "v2x butterfly", Entry: c.entry, Finish: c.finish, Save: c.save, Load: c.load}
}

func (c *checker) entry(_ int64, e audit.Entry) error {
	if e.Refused != "" {
		return nil
	}
	switch e.Action {
	case "v2x.butterfly":
		return c.asked(e)
	case "v2x.plan":
		return c.planned(e)
	case "v2x.archive":
		return c.archived(e)
	}
	return nil
}

// numbers reads details.
func numbers(e audit.Entry, names ...string) ([]int64, error) {
	list := make([]int64, len(names))
	for i, name := range names {
		var err error
		if list[i], err = strconv.ParseInt(e.Detail[name], 10, 64); err != nil {
			return nil, fmt.Errorf("the entry does not say %q", name)
		}
	}
	return list, nil
}

func parseID(text string) (id its.HashedId8, err error) {
	b, err := hex.DecodeString(text)
	if err != nil || len(b) != len(id) {
		return id, errors.New("the entry does not say of which request it is")
	}
	return its.HashedId8(b), nil
}

func (c *checker) asked(e audit.Entry) error {
	id, err := parseID(e.Object)
	if err != nil {
		return err
	}
	n, err := numbers(e, detailFirst, detailNext, detailUntil, detailTickets, detailCreated)
	if err != nil {
		return err
	}
	if c.orders[id] != nil {
		return errors.New("the request was recorded already")
	}
	o := &replayed{mark: e.Detail[detailRow], until: n[2], tickets: n[3], periods: map[int64]*replayedPeriod{}}
	c.orders[id] = o
	for _, text := range strings.Fields(e.Detail[detailEnds]) {
		before, err := parseID(text)
		if err != nil {
			return err
		}
		if o := c.orders[before]; o != nil { // it may be forgotten
			o.ended = n[4]
		}
	}
	for _, key := range strings.Fields(e.Detail[detailKeys]) {
		c.keys[key] = replayedKey{id, o.until}
	}
	return o.plan(n[0], n[1])
}

// planMost bounds what one entry plans.
const planMost = 1 << 12

func (o *replayed) plan(first, next int64) error {
	if next < first || next-first > planMost {
		return errors.New("the entry plans no periods, or too many")
	}
	for i := first; i < next; i++ {
		o.periods[i] = &replayedPeriod{}
	}
	o.next = next
	return nil
}

func (c *checker) planned(e audit.Entry) error {
	id, err := parseID(e.Object)
	if err != nil {
		return err
	}
	n, err := numbers(e, detailFirst, detailNext)
	if err != nil {
		return err
	}
	o := c.orders[id]
	if o == nil || n[0] < o.next {
		return errors.New("the entry plans for a request that is not recorded, or again")
	}
	return o.plan(n[0], n[1])
}

func (c *checker) archived(e audit.Entry) error {
	id, _, err := cocoon.ParseArchiveName(e.Object)
	if err != nil {
		return err
	}
	n, err := numbers(e, detailPeriod, detailUntil)
	if err != nil {
		return err
	}
	o := c.orders[id]
	if o == nil || o.periods[n[0]] == nil || o.periods[n[0]].done {
		return errors.New("the archive is of a period that was not planned, or has one already")
	}
	*o.periods[n[0]] = replayedPeriod{true, e.Detail[detailRow], n[1]}
	return nil
}

func (c *checker) finish(ctx context.Context, tx *db.Tx) error {
	for _, step := range []func(context.Context, *db.Tx) error{c.compareOrders, c.compareKeys, c.compareWaiting, c.compareArchives} {
		if err := step(ctx, tx); err != nil {
			return err
		}
	}
	return errors.Join(c.found...)
}

func (c *checker) compareOrders(ctx context.Context, tx *db.Tx) error {
	met := map[its.HashedId8]bool{}
	err := tx.Each(ctx, func(row db.Row) error {
		var cell int64
		o, err := scanOrder(withCell{row, &cell})
		if err != nil {
			c.find("%w", err)
			return nil
		}
		k := c.orders[o.id]
		if k == nil && c.over(o.until) {
			return nil
		}
		if cell != 0 || k == nil || k.mark != o.mark() || k.next != o.next || k.ended != o.ended {
			c.find("table v2x_order: the row of %s is not what the record says", o.id)
			return nil
		}
		met[o.id] = true
		return nil
	}, `SELECT cell, `+orderColumns+` FROM v2x_order ORDER BY cell, id`)
	for id, o := range c.orders {
		if !met[id] && o.until > c.now+late {
			c.find("table v2x_order: the row of %s is missing", id)
		}
	}
	return err
}

// withCell reads the cell before what a function reads.
type withCell struct {
	db.Row
	cell *int64
}

func (w withCell) Scan(dest ...any) error { return w.Row.Scan(append([]any{w.cell}, dest...)...) }

func (c *checker) compareKeys(ctx context.Context, tx *db.Tx) error {
	met := map[string]bool{}
	err := tx.Each(ctx, func(row db.Row) error {
		var cell, until int64
		var key, id []byte
		if err := row.Scan(&cell, &key, &id, &until); err != nil {
			return fmt.Errorf("reading table v2x_caterpillar: %w", err)
		}
		k, ok := c.keys[hex.EncodeToString(key)]
		if !ok && c.over(until) {
			return nil
		}
		if !ok || cell != 0 || string(id) != string(k.id[:]) || until != k.until {
			c.find("table v2x_caterpillar: the row of %x is not what the record says", key)
			return nil
		}
		met[hex.EncodeToString(key)] = true
		return nil
	}, `SELECT cell, key, id, until FROM v2x_caterpillar ORDER BY cell, key`)
	for key, k := range c.keys {
		if !met[key] && k.until > c.now+late {
			c.find("table v2x_caterpillar: the row of %s is missing, so that the key could have tickets again", key)
		}
	}
	return err
}

// compareWaiting looks whether exactly the tickets wait that were planned and have no archive yet.
func (c *checker) compareWaiting(ctx context.Context, tx *db.Tx) error {
	type period struct {
		id its.HashedId8
		i  int64
	}
	met := map[period]int64{}
	err := tx.Each(ctx, func(row db.Row) error {
		var cell, i, j int64
		var id []byte
		if err := row.Scan(&cell, &id, &i, &j); err != nil {
			return fmt.Errorf("reading table v2x_waiting: %w", err)
		}
		var o *replayed
		if len(id) == len(its.HashedId8{}) && cell == 0 {
			o = c.orders[its.HashedId8(id)]
		}
		if o == nil || o.periods[i] == nil || o.periods[i].done || j < 0 || j >= o.tickets {
			c.find("table v2x_waiting: the row (%x, %d, %d) follows from no request", id, i, j)
			return nil
		}
		met[period{its.HashedId8(id), i}]++
		return nil
	}, `SELECT cell, id, i, j FROM v2x_waiting ORDER BY cell, id, i, j`)
	for id, o := range c.orders {
		for i, p := range o.periods {
			if n := met[period{id, i}]; !p.done && n != o.tickets {
				c.find("table v2x_waiting: of period %d of %s %d tickets wait, not %d", i, id, n, o.tickets)
			}
		}
	}
	return err
}

func (c *checker) compareArchives(ctx context.Context, tx *db.Tx) error {
	met := map[*replayedPeriod]bool{}
	err := tx.Each(ctx, func(row db.Row) error {
		var cell, i, made, ends int64
		var id, octets []byte
		if err := row.Scan(&cell, &id, &i, &made, &ends, &octets); err != nil {
			return fmt.Errorf("reading table v2x_archive: %w", err)
		}
		var p *replayedPeriod
		if len(id) == len(its.HashedId8{}) && cell == 0 {
			if o := c.orders[its.HashedId8(id)]; o != nil {
				p = o.periods[i]
			}
		}
		if p == nil && c.over(ends) {
			return nil
		}
		if p == nil || p.mark == "" || p.mark != archiveMark(its.HashedId8(id), i, made, ends, octets) {
			c.find("table v2x_archive: the row of period %d of %x is not what the record says", i, id)
			return nil
		}
		met[p] = true
		return nil
	}, `SELECT cell, id, i, made, ends, octets FROM v2x_archive ORDER BY cell, id, i`)
	for id, o := range c.orders {
		for i, p := range o.periods {
			if p.mark != "" && !met[p] && p.ends > c.now+late {
				c.find("table v2x_archive: the row of period %d of %s is missing", i, id)
			}
		}
	}
	return err
}

func (c *checker) save(_ context.Context, _ *db.Tx, w *audit.StateWriter) error {
	var ids []its.HashedId8
	for id, o := range c.orders {
		if !c.over(o.until) || len(c.kept(o)) > 0 {
			ids = append(ids, id)
		}
	}
	slices.SortFunc(ids, func(a, b its.HashedId8) int { return cmp.Compare(string(a[:]), string(b[:])) })
	w.Uint(uint64(len(ids)))
	for _, id := range ids {
		c.orders[id].save(w, id, c.kept(c.orders[id]))
	}
	keys := slices.Sorted(maps.Keys(c.keys))
	keys = slices.DeleteFunc(keys, func(key string) bool { return c.over(c.keys[key].until) })
	w.Uint(uint64(len(keys)))
	for _, key := range keys {
		k := c.keys[key]
		w.Text(key)
		w.Fixed(k.id[:])
		w.Int(k.until)
	}
	return nil
}

// kept are the periods of a request that are not forgotten.
func (c *checker) kept(o *replayed) (list []int64) {
	for i, p := range o.periods {
		if !p.done || !c.over(p.ends) {
			list = append(list, i)
		}
	}
	slices.Sort(list)
	return list
}

func (o *replayed) save(w *audit.StateWriter, id its.HashedId8, periods []int64) {
	w.Fixed(id[:])
	w.Text(o.mark)
	for _, n := range []int64{o.until, o.next, o.ended, o.tickets} {
		w.Int(n)
	}
	w.Uint(uint64(len(periods)))
	for _, i := range periods {
		p := o.periods[i]
		w.Int(i)
		w.Bool(p.done)
		w.Text(p.mark)
		w.Int(p.ends)
	}
}

func (c *checker) load(r *audit.StateReader) error {
	for range r.Len() {
		var id its.HashedId8
		r.Fixed(id[:])
		o := &replayed{mark: r.Text(), until: r.Int(), next: r.Int(), ended: r.Int(), tickets: r.Int(), periods: map[int64]*replayedPeriod{}}
		for range r.Len() {
			i := r.Int()
			o.periods[i] = &replayedPeriod{r.Bool(), r.Text(), r.Int()}
			if r.Err() != nil {
				return r.Err()
			}
		}
		if r.Err() != nil {
			return r.Err()
		}
		c.orders[id] = o
	}
	for range r.Len() {
		key := r.Text()
		var k replayedKey
		r.Fixed(k.id[:])
		k.until = r.Int()
		if r.Err() != nil {
			break
		}
		c.keys[key] = k
	}
	return r.Err()
}
