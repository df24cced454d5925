package trust

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"

	"mooring/internal/base/db"
	"mooring/internal/core/audit"
)

// Keys of the details of entries. What is put into a table is told by a digest of the whole row, and what goes by that of the row that it was.
const (
	detailRow     = "row"     // of v2x_authority, or of v2x_list
	detailWas     = "was"     // of v2x_authority, where it changes
	detailPending = "pending" // of v2x_pending: what comes with v2x.apply goes with v2x.install
	detailRoot    = "root"    // of lists
	detailFollows = "follows" // the certificate before
	detailRequest = "request" // digest of the request for a certificate
	detailNumber  = "number"
	detailDigest  = "sha256"
)

// mark is the digest of a row.
func mark(table string, columns ...any) string {
	h := sha256.New()
	h.Write([]byte(table))
	for _, c := range columns {
		switch c := c.(type) {
		case []byte:
			h.Write([]byte(strconv.Quote(string(c))))
		case string:
			h.Write([]byte(strconv.Quote(c)))
		default:
			fmt.Fprintf(h, " %d ", c)
		}
	}
	return hex.EncodeToString(h.Sum(nil))
}

func (a *Authority) mark() string {
	return mark("v2x_authority", a.ID[:], int16(a.Role), a.Name, a.own, a.secret, a.Octets, a.URL, a.Peer, a.Created, a.Revoked)
}

// pending is a row of v2x_pending.
type pending struct {
	spki              []byte
	role              int16
	name, own, secret string
	created           int64
}

func (p *pending) mark() string {
	return mark("v2x_pending", p.spki, p.role, p.name, p.own, p.secret, p.created)
}

// listKey is of which root and kind a list is.
type listKey struct{ root, kind string }

// listed is what the record says of a list: the digest of its row.
type listed map[int64]string

// checker compares the tables of a store with its replayed record. Entries of several nodes may come in another order than their transactions, so that what
// stands is found by counting: each row that comes is one, and goes with the change that names it.
type checker struct {
	authorities map[string]int64 // by mark; never zero
	pending     map[string]int64
	links       map[string]int64
	roots       map[string]int64 // on the manager's list
	lists       map[listKey]listed
	found       []error
}

// findingsMost bounds what one verification names.
const findingsMost = 100

func (c *checker) find(format string, args ...any) {
	if len(c.found) < findingsMost {
		c.found = append(c.found, fmt.Errorf(format, args...))
	}
}

// Checker compares what this slice keeps with the replayed record. It serves one verification.
func (s *Service) Checker() audit.Checker {
	c := &checker{authorities: map[string]int64{}, pending: map[string]int64{}, links: map[string]int64{}, roots: map[string]int64{}, lists: map[listKey]listed{}}
	return audit.Checker{Name: "v2x trust", Entry: c.entry, Finish: c.finish, Save: c.save, Load: c.load}
}

func count(of map[string]int64, mark string, by int64) {
	if mark == "" {
		return
	}
	if of[mark] += by; of[mark] == 0 {
		delete(of, mark)
	}
}

func (c *checker) entry(_ int64, e audit.Entry) error {
	if e.Refused != "" {
		return nil
	}
	row := e.Detail[detailRow]
	switch e.Action {
	case "v2x.root", "v2x.tlm", "v2x.issue", "v2x.trust", "v2x.install", "v2x.revoke", "v2x.move":
		if row == "" {
			return errors.New("the entry does not say what the authority's row is")
		}
		count(c.authorities, row, 1)
		count(c.authorities, e.Detail[detailWas], -1)
		if e.Action == "v2x.install" {
			count(c.pending, e.Detail[detailPending], -1)
		}
	case "v2x.apply":
		if e.Detail[detailPending] == "" {
			return errors.New("the entry does not say what the row of the application is")
		}
		count(c.pending, e.Detail[detailPending], 1)
	case "v2x.link":
		count(c.links, row, 1)
	case "v2x.admit":
		count(c.roots, row, 1)
		count(c.roots, e.Detail[detailWas], -1)
	case "v2x.expel":
		count(c.roots, e.Detail[detailWas], -1)
	case "v2x.publish", "v2x.accept":
		number, err := strconv.ParseInt(e.Detail[detailNumber], 10, 64)
		if err != nil || row == "" {
			return errors.New("the entry does not say which list it is")
		}
		return c.list(listKey{e.Detail[detailRoot], e.Object}, number, row)
	}
	return nil
}

// list notes a list. Those before the ones that are kept leave.
func (c *checker) list(k listKey, number int64, row string) error {
	of := c.lists[k]
	if of == nil {
		of = listed{}
		c.lists[k] = of
	}
	if _, twice := of[number]; twice {
		return fmt.Errorf("the list %d was recorded already", number)
	}
	of[number] = row
	last := of.last()
	maps.DeleteFunc(of, func(n int64, _ string) bool { return n < last-keptLists })
	return nil
}

func (l listed) last() int64 { return slices.Max(slices.Collect(maps.Keys(l))) }

func (c *checker) finish(ctx context.Context, tx *db.Tx) error {
	for _, step := range []func(context.Context, *db.Tx) error{c.compareAuthorities, c.comparePending, c.compareLinks, c.compareRoots, c.compareLists} {
		if err := step(ctx, tx); err != nil {
			return err
		}
	}
	return errors.Join(c.found...)
}

// met takes a row off what the record says there is.
func (c *checker) met(table string, of map[string]int64, cell int64, mark, name string) {
	if cell != 0 || of[mark] < 1 {
		c.find("table %s: the row of %q is not what the record says", table, name)
		return
	}
	count(of, mark, -1)
}

func (c *checker) missing(table string, of map[string]int64) {
	for _, m := range slices.Sorted(maps.Keys(of)) {
		c.find("table %s: the row that the record has as %s is missing", table, m)
	}
}

func (c *checker) compareAuthorities(ctx context.Context, tx *db.Tx) error {
	err := tx.Each(ctx, func(r db.Row) error {
		var cell, created, revoked int64
		var role int16
		var id, cert []byte
		var name, own, secret, url, peer string
		if err := r.Scan(&cell, &id, &role, &name, &own, &secret, &cert, &url, &peer, &created, &revoked); err != nil {
			return fmt.Errorf("reading table v2x_authority: %w", err)
		}
		c.met("v2x_authority", c.authorities, cell, mark("v2x_authority", id, role, name, own, secret, cert, url, peer, created, revoked), name)
		return nil
	}, `SELECT cell, `+authorityColumns+` FROM v2x_authority ORDER BY cell, id`)
	c.missing("v2x_authority", c.authorities)
	return err
}

func (c *checker) comparePending(ctx context.Context, tx *db.Tx) error {
	err := tx.Each(ctx, func(r db.Row) error {
		var cell int64
		var p pending
		if err := r.Scan(&cell, &p.spki, &p.role, &p.name, &p.own, &p.secret, &p.created); err != nil {
			return fmt.Errorf("reading table v2x_pending: %w", err)
		}
		c.met("v2x_pending", c.pending, cell, p.mark(), p.name)
		return nil
	}, `SELECT cell, spki, role, name, own, secret, created FROM v2x_pending ORDER BY cell, spki`)
	c.missing("v2x_pending", c.pending)
	return err
}

func (c *checker) compareLinks(ctx context.Context, tx *db.Tx) error {
	err := tx.Each(ctx, func(r db.Row) error {
		var cell, created int64
		var role int16
		var to, from, octets []byte
		if err := r.Scan(&cell, &to, &from, &role, &created, &octets); err != nil {
			return fmt.Errorf("reading table v2x_link: %w", err)
		}
		c.met("v2x_link", c.links, cell, mark("v2x_link", to, from, role, created, octets), fmt.Sprintf("%X", to))
		return nil
	}, `SELECT cell, new, old, role, created, octets FROM v2x_link ORDER BY cell, new`)
	c.missing("v2x_link", c.links)
	return err
}

func (c *checker) compareRoots(ctx context.Context, tx *db.Tx) error {
	err := tx.Each(ctx, func(r db.Row) error {
		var cell, created int64
		var id, cert, successor []byte
		var url string
		if err := r.Scan(&cell, &id, &cert, &successor, &url, &created); err != nil {
			return fmt.Errorf("reading table v2x_listed: %w", err)
		}
		c.met("v2x_listed", c.roots, cell, mark("v2x_listed", id, cert, successor, url, created), fmt.Sprintf("%X", id))
		return nil
	}, `SELECT cell, id, cert, successor, url, created FROM v2x_listed ORDER BY cell, id`)
	c.missing("v2x_listed", c.roots)
	return err
}

// listMark is the digest of a row of v2x_list.
func listMark(root []byte, kind int16, number, created, ends int64, octets []byte) string {
	return mark("v2x_list", root, kind, number, created, ends, octets)
}

func (c *checker) compareLists(ctx context.Context, tx *db.Tx) error {
	met := map[listKey]map[int64]bool{}
	err := tx.Each(ctx, func(r db.Row) error {
		var cell, number, created, ends int64
		var kind int16
		var root, octets []byte
		if err := r.Scan(&cell, &root, &kind, &number, &created, &ends, &octets); err != nil {
			return fmt.Errorf("reading table v2x_list: %w", err)
		}
		k := listKey{fmt.Sprintf("%X", root), kindName(kind)} // as HashedId8 is written
		if cell != 0 || c.lists[k][number] != listMark(root, kind, number, created, ends, octets) {
			c.find("table v2x_list: the %s %d of the root %s is not what the record says", k.kind, number, k.root)
			return nil
		}
		if met[k] == nil {
			met[k] = map[int64]bool{}
		}
		met[k][number] = true
		return nil
	}, `SELECT cell, root, kind, number, created, ends, octets FROM v2x_list ORDER BY cell, root, kind, number`)
	for _, k := range c.keys() {
		for _, number := range slices.Sorted(maps.Keys(c.lists[k])) {
			if !met[k][number] {
				c.find("table v2x_list: the %s %d of the root %s is missing", k.kind, number, k.root)
			}
		}
	}
	return err
}

func (c *checker) keys() []listKey {
	return slices.SortedFunc(maps.Keys(c.lists), func(a, b listKey) int {
		return cmp.Or(cmp.Compare(a.root, b.root), cmp.Compare(a.kind, b.kind))
	})
}

func (c *checker) save(_ context.Context, _ *db.Tx, w *audit.StateWriter) error {
	for _, of := range []map[string]int64{c.authorities, c.pending, c.links, c.roots} {
		w.Uint(uint64(len(of)))
		for _, m := range slices.Sorted(maps.Keys(of)) {
			w.Text(m)
			w.Int(of[m])
		}
	}
	w.Uint(uint64(len(c.lists)))
	for _, k := range c.keys() {
		w.Text(k.root)
		w.Text(k.kind)
		w.Uint(uint64(len(c.lists[k])))
		for _, number := range slices.Sorted(maps.Keys(c.lists[k])) {
			w.Int(number)
			w.Text(c.lists[k][number])
		}
	}
	return nil
}

func (c *checker) load(r *audit.StateReader) error {
	for _, of := range []map[string]int64{c.authorities, c.pending, c.links, c.roots} {
		for range r.Len() {
			m := r.Text()
			n := r.Int()
			if r.Err() != nil {
				return r.Err()
			}
			of[m] = n
		}
	}
	for range r.Len() {
		k := listKey{r.Text(), r.Text()}
		of := listed{}
		for range r.Len() {
			number := r.Int()
			row := r.Text()
			if r.Err() != nil {
				return r.Err()
			}
			of[number] = row
		}
		c.lists[k] = of
	}
	return r.Err()
}
