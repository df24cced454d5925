package revoke

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"maps"
	"slices"
	"strconv"

	"mooring/internal/base/db"
	"mooring/internal/core/audit"
)

// Checker compares the tables of this package with the replayed audit record. Every revocation, hold and release must be a row that says the
// same in every column; the newest entry about a certificate counts, by the number of its change, since the record is not in the order of the
// commits. The published lists must be those with the highest number in the record, in all that their rows say and in the octets that are kept, no
// number may have been published twice, and no list may be older than one with a lower number. Every key that an entry blocks must be a row
// of blocked_key. It keeps about 150 octets for each revoked certificate and 32 for each list. A Checker serves one verification.
func (s *Service) Checker() audit.Checker {
	c := &checker{revoked: map[string]replayed{}, scopes: map[scopeKey]*replayedScope{}, blocked: map[[32]byte][]blocking{}}
	return audit.Checker{Name: "revoke", Entry: c.entry, Finish: c.finish, Save: c.save, Load: c.load}
}

type checker struct {
	revoked  map[string]replayed // by serial
	scopes   map[scopeKey]*replayedScope
	blocked  map[[32]byte][]blocking // by the hash of the key
	findings []error
}

// replayed is what the record says last about a certificate.
type replayed struct {
	Revocation
	index int64
	met   bool
}

type replayedScope struct {
	changes int64 // the highest
	lists   []replayedList
	floor   int64             // the highest number of those that were left out when the state was kept
	newest  map[string]string // details of the entry with the highest number
	index   int64             // of that entry
	pieces  map[int64]string  // the digests of lists that are kept in pieces, by number
	delta   map[string]string // details of the delta list with the highest number
	deltaAt int64             // index of that entry
	told    bool              // the delta list was compared
	met     bool              // the published list was compared
	counted bool              // the row of crl_scope was compared
}

type replayedList struct {
	number, thisUpdate, covers, index int64
}

// findingsMost bounds what one verification names.
const findingsMost = 100

func (c *checker) find(format string, args ...any) {
	if len(c.findings) < findingsMost {
		c.findings = append(c.findings, fmt.Errorf(format, args...))
	}
}

func (c *checker) scope(k scopeKey) *replayedScope {
	sc := c.scopes[k]
	if sc == nil {
		sc = &replayedScope{}
		c.scopes[k] = sc
	}
	return sc
}

func (c *checker) entry(index int64, e audit.Entry) error {
	if e.Refused != "" {
		return nil
	}
	switch e.Action {
	case "cert.revoke", "cert.hold", "cert.release":
		return c.changed(index, &e)
	case "crl.publish", "crl.import":
		return c.published(index, &e)
	case "crl.delta":
		return c.deltaMade(index, &e)
	}
	return nil
}

// details reads numbers out of an entry and remembers the first that cannot be read.
type details struct {
	of  map[string]string
	err error
}

func (d *details) number(name string) int64 {
	n, err := strconv.ParseInt(d.of[name], 10, 64)
	if err != nil && d.err == nil {
		d.err = fmt.Errorf("its detail %q is no number", name)
	}
	return n
}

func (d *details) octets(text string, into []byte) {
	if n, err := hex.Decode(into, []byte(text[:min(len(text), 2*len(into))])); (err != nil || n != len(into) || len(text) != 2*len(into)) && d.err == nil {
		d.err = fmt.Errorf("%q is not %d octets in hexadecimal", text, len(into))
	}
}

// revocationOf reads the row that an entry tells of.
func revocationOf(e *audit.Entry) (Revocation, error) {
	d := details{of: e.Detail}
	r := Revocation{Serial: make([]byte, 16), Shard: d.number("shard"), At: d.number("at"), NotAfter: d.number("not_after"),
		ByDevice: d.number("origin") == 1, turn: d.number("turn"), change: d.number("change")}
	into := r.Serial
	if n := len(e.Serial) / 2; n < len(into) { // a cross certificate's, which has zeros before it in the row
		into = into[len(into)-n:]
	}
	d.octets(e.Serial, into)
	d.octets(e.Device, r.Device[:])
	d.octets(e.Detail["issuer"], r.Issuer[:])
	if r.Reason = released; e.Action != "cert.release" {
		var err error
		if r.Reason, err = ParseReason(e.Detail["reason"]); err != nil && d.err == nil {
			d.err = err
		}
	}
	return r, d.err
}

func (c *checker) changed(index int64, e *audit.Entry) error {
	row, err := revocationOf(e)
	if err != nil {
		return err
	}
	if err := c.blocks(index, e, &row); err != nil {
		return err
	}
	r := replayed{index: index, Revocation: row}
	sc := c.scope(r.scope())
	sc.changes = max(sc.changes, r.change)
	was, known := c.revoked[string(r.Serial)]
	if known && was.change == r.change {
		return fmt.Errorf("change %d of CA %s was recorded already, at entry %d", r.change, r.Issuer, was.index)
	}
	if !known || was.change < r.change {
		c.revoked[string(r.Serial)] = r
	}
	return nil
}

func (c *checker) published(index int64, e *audit.Entry) error {
	d := details{of: e.Detail}
	k := scopeKey{shard: d.number("shard")}
	d.octets(e.Object, k.issuer[:])
	l := replayedList{number: d.number("number"), thisUpdate: d.number("this_update"), covers: d.number("covers"), index: index}
	if d.err != nil {
		return d.err
	}
	sc := c.scope(k)
	if l.number <= sc.floor {
		return fmt.Errorf("the CRL %d of CA %s comes long after the number %d was published", l.number, k.issuer, sc.floor)
	}
	sc.lists = append(sc.lists, l)
	if highest, _ := strconv.ParseInt(sc.newest["number"], 10, 64); sc.newest == nil || l.number > highest {
		sc.newest, sc.index = e.Detail, index
	}
	if d.number("kind") != built {
		if sc.pieces == nil {
			sc.pieces = map[int64]string{}
		}
		sc.pieces[l.number] = e.Detail["sha256"]
	}
	return d.err
}

func (c *checker) deltaMade(index int64, e *audit.Entry) error {
	d := details{of: e.Detail}
	k := scopeKey{shard: d.number("shard")}
	d.octets(e.Object, k.issuer[:])
	number := d.number("number")
	if d.err != nil {
		return d.err
	}
	sc := c.scope(k)
	if highest, _ := strconv.ParseInt(sc.delta["number"], 10, 64); sc.delta == nil || number > highest {
		sc.delta, sc.deltaAt = e.Detail, index
	}
	return nil
}

// finish compares all rows. The findings are joined in one error.
func (c *checker) finish(ctx context.Context, tx *db.Tx) error {
	if err := tx.Each(ctx, c.compareRevoked, `SELECT cell, serial, `+revokedColumns+` FROM revoked ORDER BY cell, serial`); err != nil {
		return fmt.Errorf("reading the revocations: %w", err)
	}
	for _, serial := range slices.Sorted(maps.Keys(c.revoked)) {
		if r := c.revoked[serial]; !r.met {
			c.find("certificate %x: the row of its revocation (entry %d) is missing", serial, r.index)
		}
	}
	if err := tx.Each(ctx, c.compareScope, `SELECT cell, issuer, shard, changes, number FROM crl_scope ORDER BY issuer, shard`); err != nil {
		return fmt.Errorf("reading the counters of the CRLs: %w", err)
	}
	if err := tx.Each(ctx, c.compareList, `SELECT cell, issuer, shard, `+listColumns+` FROM crl ORDER BY issuer, shard`); err != nil {
		return fmt.Errorf("reading the CRLs: %w", err)
	}
	if err := tx.Each(ctx, c.compareDelta, `SELECT cell, issuer, shard, number, signature, digest FROM crl_delta ORDER BY issuer, shard`); err != nil {
		return fmt.Errorf("reading the delta CRLs: %w", err)
	}
	if err := c.comparePieces(ctx, tx); err != nil {
		return fmt.Errorf("reading the pieces of the CRLs: %w", err)
	}
	if err := c.compareBlocked(ctx, tx); err != nil {
		return fmt.Errorf("reading the blocked keys: %w", err)
	}
	for _, k := range slices.SortedFunc(maps.Keys(c.scopes), scopeKey.compare) {
		sc := c.scopes[k]
		if sc.newest != nil && !sc.met {
			c.find("CA %s: the CRL %s (entry %d) is missing", k.issuer, sc.newest["number"], sc.index)
		}
		if sc.delta != nil && !sc.told {
			c.find("CA %s: the delta CRL %s (entry %d) is missing", k.issuer, sc.delta["number"], sc.deltaAt)
		}
		if !sc.counted && (sc.changes > 0 || len(sc.pieces) > 0) {
			c.find("CA %s: its row of crl_scope is missing", k.issuer)
		}
		c.checkOrder(k, sc)
	}
	return errors.Join(c.findings...)
}

// compareRevoked names every column in which a row differs from the record.
func (c *checker) compareRevoked(row db.Row) error {
	var cell uint8
	var serial []byte
	var have Revocation
	if err := have.scan(row, &cell, &serial); err != nil {
		c.find("certificate %x: %w", serial, err)
		return nil
	}
	want, known := c.revoked[string(serial)]
	if !known {
		c.find("certificate %x: a row says that it is revoked, but no entry does", serial)
		return nil
	}
	want.met = true
	c.revoked[string(serial)] = want
	at, _, ours := rowOf(serial)
	differs := func(column string, differ bool) {
		if differ {
			c.find("certificate %x: the column %s of its revocation differs from entry %d", serial, column, want.index)
		}
	}
	differs("cell", !ours || at != cell)
	differs("issuer", have.Issuer != want.Issuer)
	differs("crl_shard", have.Shard != want.Shard)
	differs("at", have.At != want.At)
	differs("reason", have.Reason != want.Reason)
	differs("not_after", have.NotAfter != want.NotAfter)
	differs("device", have.Device != want.Device)
	differs("origin", have.ByDevice != want.ByDevice)
	differs("turn", have.turn != want.turn)
	differs("change", have.change != want.change)
	return nil
}

func (c *checker) compareScope(row db.Row) error {
	var cell uint8
	var k scopeKey
	var issuer []byte
	var changes, number int64
	if err := row.Scan(&cell, &issuer, &k.shard, &changes, &number); err != nil {
		return err
	}
	copy(k.issuer[:], issuer)
	sc := c.scopes[k]
	if sc == nil {
		sc = &replayedScope{} // a number can have been reserved for a list that was never made
	}
	sc.counted = true
	if changes != sc.changes || cell != 0 || len(issuer) != len(k.issuer) {
		c.find("CA %x: its row of crl_scope counts %d changes, the record %d", issuer, changes, sc.changes)
	}
	for published := range sc.pieces { // other lists need no number beforehand
		if published > number {
			c.find("CA %x: its row of crl_scope says that %d is the last CRL number, but %d was published", issuer, number, published)
		}
	}
	return nil
}

func (c *checker) compareList(row db.Row) error {
	var cell uint8
	var k scopeKey
	var issuer []byte
	var l list
	if err := l.scan(row, &cell, &issuer, &k.shard); err != nil {
		c.find("CA %x: the row of its CRL: %w", issuer, err)
		return nil
	}
	copy(k.issuer[:], issuer)
	sc := c.scopes[k]
	if sc == nil || sc.newest == nil || cell != 0 || len(issuer) != len(k.issuer) {
		c.find("CA %x: a CRL is published, but no entry says so", issuer)
		return nil
	}
	sc.met = true
	have := l.entry(k).Detail
	for _, name := range slices.Sorted(maps.Keys(have)) {
		if have[name] != sc.newest[name] {
			c.find("CA %s: the CRL in the database differs from entry %d in %s", k.issuer, sc.index, name)
		}
	}
	return nil
}

func (c *checker) compareDelta(row db.Row) error {
	var cell uint8
	var k scopeKey
	var issuer, digest []byte
	var d list
	if err := row.Scan(&cell, &issuer, &k.shard, &d.number, &d.signature, &digest); err != nil {
		return err
	}
	copy(k.issuer[:], issuer)
	sc := c.scopes[k]
	if sc == nil || sc.delta == nil || cell != 0 || len(issuer) != len(k.issuer) {
		c.find("CA %x: a delta CRL is in the database, but no entry says that it was made", issuer)
		return nil
	}
	sc.told = true
	copy(d.digest[:], digest)
	have := deltaEntry(k, &d).Detail
	delete(have, "base") // follows from the octets that the digest is of
	for _, name := range slices.Sorted(maps.Keys(have)) {
		if have[name] != sc.delta[name] {
			c.find("CA %s: the delta CRL in the database differs from entry %d in %s", k.issuer, sc.deltaAt, name)
		}
	}
	return nil
}

// comparePieces hashes the lists that are kept in pieces: the published one and, when it is there, the one before. Pieces of others were never
// published, because whoever was making them was interrupted.
func (c *checker) comparePieces(ctx context.Context, tx *db.Tx) error {
	type listKey struct {
		scopeKey
		number int64
	}
	sums, pieces, leaving := map[listKey]hash.Hash{}, map[listKey]int64{}, map[listKey]bool{}
	err := tx.Each(ctx, func(row db.Row) error {
		var k listKey
		var issuer, data []byte
		var seq int64
		if err := row.Scan(&issuer, &k.shard, &k.number, &seq, &data); err != nil {
			return err
		}
		copy(k.issuer[:], issuer)
		if sums[k] == nil {
			sums[k] = sha256.New()
			leaving[k] = seq > 0
		}
		if pieces[k]++; pieces[k] != seq+1 {
			sums[k].Write([]byte("a piece is missing")) // which no digest foresees
		}
		sums[k].Write(data)
		return nil
	}, `SELECT issuer, shard, number, seq, data FROM crl_chunk WHERE cell = 0 ORDER BY issuer, shard, number, seq`)
	if err != nil {
		return err
	}
	for k, sum := range sums {
		sc := c.scopes[k.scopeKey]
		if sc != nil && leaving[k] && sc.newest["number"] != strconv.FormatInt(k.number, 10) {
			continue // an old one that is being deleted, the first pieces first
		}
		if sc != nil && sc.pieces[k.number] != "" && sc.pieces[k.number] != hex.EncodeToString(sum.Sum(nil)) {
			c.find("CA %s: the octets of the CRL %d are not those that were published", k.issuer, k.number)
		}
	}
	for k, sc := range c.scopes {
		number, _ := strconv.ParseInt(sc.newest["number"], 10, 64)
		if sc.pieces[number] != "" && sums[listKey{k, number}] == nil {
			c.find("CA %s: the octets of the CRL %d are missing", k.issuer, number)
		}
	}
	return nil
}

// checkOrder looks at the lists of one CA in the order of their numbers.
func (c *checker) checkOrder(k scopeKey, sc *replayedScope) {
	slices.SortFunc(sc.lists, func(a, b replayedList) int {
		return cmp.Or(cmp.Compare(a.number, b.number), cmp.Compare(a.index, b.index))
	})
	for i := 1; i < len(sc.lists); i++ {
		was, l := sc.lists[i-1], sc.lists[i]
		switch {
		case l.number == was.number:
			c.find("entry %d: the CRL %d of CA %s was published already, at entry %d", l.index, l.number, k.issuer, was.index)
		case l.thisUpdate < was.thisUpdate || l.covers < was.covers:
			c.find("entry %d: the CRL %d of CA %s is older than the one before, of entry %d", l.index, l.number, k.issuer, was.index)
		}
	}
}
